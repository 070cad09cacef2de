//! What the cache holds under a key: an immutable body with what must be known about it.
//!
//! An [`Entry`] is shared, never copied to be read: cloning it copies a pointer. It knows its key, its body, an opaque
//! head that the door wrote for itself, its deadlines, its tags and its sequence number. It does not know what the
//! body means, nor whether its generation is still alive; the engine asks its generations for that.

mod block;
mod spare;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use self::block::{Block, Meta};
use crate::clock::{Clock, Span, Timestamp};
use crate::codec;
use crate::error::Result;
use crate::key::{DEFAULT_NAMESPACE, KeyRef};
use crate::sync::{AtomicU16, Ordering};

/// What an entry is made from.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'p> {
    /// What the door wants to find beside the body, as bytes; see [`Head`]. Empty when there is nothing to say.
    pub head: &'p [u8],
    /// The value.
    pub body: &'p [u8],
    /// The tags it can be invalidated by.
    pub tags: &'p [&'p str],
    /// When it was stored.
    pub stored_at: Timestamp,
    /// From when on it is no longer fresh; [`Timestamp::NEVER`] for none.
    pub expires_at: Timestamp,
    /// Where it stands in the order of all writes, loads (at their beginning) and invalidations.
    pub sequence: u64,
}

/// One immutable, shared cache entry: one pointer wide, one allocation in all.
#[derive(Clone)]
pub struct Entry(Block);

impl Entry {
    /// An entry under `key`.
    ///
    /// # Panics
    /// When key, head, body and tags together come to 4 GiB or a tag alone to 64 KiB: limits of the form, far beyond
    /// those of the doors.
    #[must_use]
    pub fn new(key: KeyRef<'_>, parts: &Parts<'_>) -> Self {
        let key = key.as_str().as_bytes();
        if parts.head.is_empty() && parts.tags.is_empty() {
            return Self(Block::new(meta(key, parts, false), [key, parts.body]));
        }
        let tags = join_tags(parts.tags);
        let lengths = lengths(parts.head.len(), tags.len());
        Self(Block::new(meta(key, parts, true), [key, &lengths, parts.head, &tags, parts.body]))
    }

    /// The key it stands under.
    #[must_use]
    pub fn key(&self) -> KeyRef<'_> {
        // Invariant: the bytes were copied from a KeyRef and never change, so they are text.
        KeyRef::known(std::str::from_utf8(self.key_bytes()).unwrap_or_default())
    }

    /// The key as bytes; what a lookup compares.
    #[inline]
    pub(crate) fn key_bytes(&self) -> &[u8] {
        self.0.bytes().split_at(self.key_len()).0
    }

    /// Whether this is its key. Most keys have 16 to 32 bytes, which are compared without a call and without a loop.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let own = self.key_bytes();
        if own.len() != key.len() {
            return false;
        }
        let ends = |bytes: &[u8]| {
            let (first, last) = (bytes.first_chunk::<16>()?, bytes.last_chunk::<16>()?);
            (bytes.len() <= 32).then(|| [u128::from_ne_bytes(*first), u128::from_ne_bytes(*last)])
        };
        match (ends(own), ends(key)) {
            (Some(own), Some(key)) => own == key,
            _ => own == key,
        }
    }

    /// The namespace of the key as bytes.
    pub(crate) fn namespace_bytes(&self) -> &[u8] {
        if !crate::key::prefix().is_empty() {
            return self.key().namespace().as_bytes();
        }
        let key = self.key_bytes();
        let end = key.iter().position(|byte| *byte == b':');
        end.map_or(DEFAULT_NAMESPACE.as_bytes(), |end| key.split_at(end).0)
    }

    /// What the door left beside the body.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.split().0
    }

    /// The value.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.split().2
    }

    /// The value as shared bytes that keep this entry alive; nothing is copied.
    #[must_use]
    pub fn body_shared(&self) -> Bytes {
        Bytes::from_owner(SharedBody(self.clone()))
    }

    /// `range` of the head as shared bytes that keep this entry alive; empty when it has no such range.
    #[must_use]
    pub fn head_shared(&self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(SharedHead(self.clone(), range))
    }

    /// The tags it can be invalidated by.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.split().1;
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<2>()?;
            let (tag, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            rest = tail;
            std::str::from_utf8(tag).ok()
        })
    }

    /// When it was stored.
    #[must_use]
    #[inline]
    pub fn stored_at(&self) -> Timestamp {
        from_bits48(self.0.meta().stored_and_key & BITS48)
    }

    /// From when on it is no longer fresh.
    #[must_use]
    #[inline]
    pub fn expires_at(&self) -> Timestamp {
        let [low, mid, high] = self.0.meta().expires;
        from_bits48(u64::from(low) | u64::from(mid) << 16 | u64::from(high) << 32)
    }

    /// Where it stands in the order of all writes, loads and invalidations.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.0.meta().sequence
    }

    /// Whether it may be served at `now`: not expired, and not stored in the future by a clock since set back.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.expires_at() && self.stored_at() <= now
    }

    /// How long its lifetime has been over at `now`; `None` while it is fresh, and for what was stored in the future by
    /// a clock since set back, of which nobody can tell.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> Option<Duration> {
        (self.stored_at() <= now && self.expires_at() <= now).then(|| now.since(self.expires_at()))
    }

    /// As [`Entry::is_fresh`] at the present of `clock`, exactly, but asking for the exact time only near a deadline.
    #[must_use]
    pub fn is_fresh_by(&self, clock: &Clock) -> bool {
        self.is_fresh_within(clock.span(), clock)
    }

    /// As [`Entry::is_fresh_by`], for whoever has just read the span of `clock`.
    #[must_use]
    #[inline]
    pub fn is_fresh_within(&self, span: Span, clock: &Clock) -> bool {
        let is_clear = self.stored_at() <= span.from && span.to < self.expires_at();
        is_clear || self.is_fresh_now(clock)
    }

    /// Young, or near its deadline.
    #[cold]
    fn is_fresh_now(&self, clock: &Clock) -> bool {
        let about = clock.now_coarse();
        let is_clear = self.stored_at() <= about && about.after(Clock::COARSE_LAG_MAX) < self.expires_at();
        is_clear || self.is_fresh(clock.now())
    }

    /// The bytes it makes the process hold: what the allocator takes for it, and its place in the index.
    #[must_use]
    pub fn weight(&self) -> usize {
        malloc_bytes(self.0.allocated_bytes()) + INDEX_BYTES
    }

    /// What an entry of so many bytes of key, value, head and tags weighs.
    pub(crate) fn weight_of(key: usize, value: usize, head: usize, tags: &[&str]) -> usize {
        let tags: usize = tags.iter().map(|tag| tag.len() + 2).sum();
        let extras = if head + tags > 0 { LENGTHS_BYTES + head + tags } else { 0 };
        malloc_bytes(Block::HEADER_BYTES + key + value + extras) + INDEX_BYTES
    }

    /// The same entry with another deadline: the same write, so with the same place in the order.
    pub(crate) fn until(&self, expires_at: Timestamp) -> Self {
        let tags: Vec<&str> = self.tags().collect();
        let parts = Parts {
            head: self.head(),
            body: self.body(),
            tags: &tags,
            stored_at: self.stored_at(),
            expires_at,
            sequence: self.sequence(),
        };
        Self::new(self.key(), &parts)
    }

    /// Whether both are clones of one entry.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.same(&other.0)
    }

    /// Has two entries change places in memory, where both are small, of one size class and held by nobody else; says
    /// whether they did. Each then is what the other was.
    pub(crate) fn swap_contents(&mut self, other: &mut Self) -> bool {
        self.0.swap_contents(&mut other.0)
    }

    /// As a clone, but cheaper of an entry that nobody else holds.
    pub(crate) fn share(&mut self) -> Self {
        Self(self.0.share())
    }

    /// Where it stands in memory, as a number; for whoever cares how that memory is kept.
    pub(crate) fn address(&self) -> usize {
        self.0.address()
    }

    /// The number its memory tier gave its namespace, 0 for none.
    pub(crate) fn namespace_number(&self) -> u16 {
        self.0.meta().namespace.load(Ordering::Relaxed)
    }

    /// Notes the number its memory tier gives its namespace.
    pub(crate) fn set_namespace_number(&self, number: u16) {
        self.0.meta().namespace.store(number, Ordering::Relaxed);
    }

    fn key_len(&self) -> usize {
        (self.0.meta().stored_and_key >> 48) as usize & KEY_LEN_MASK
    }

    /// Head, joined tags, body.
    fn split(&self) -> (&[u8], &[u8], &[u8]) {
        let rest = self.0.bytes().split_at(self.key_len()).1;
        if self.0.meta().stored_and_key >> 63 == 0 {
            return (&[], &[], rest);
        }
        let (lengths, rest) = rest.split_at(LENGTHS_BYTES);
        let length = |at: usize| {
            lengths.iter().skip(at).take(4).rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (head, rest) = rest.split_at(length(0));
        let (tags, body) = rest.split_at(length(4));
        (head, tags, body)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key())
            .field("body_bytes", &self.body().len())
            .field("expires_at", &self.expires_at())
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}

/// Keeps an entry alive for as long as somebody sends its body.
struct SharedBody(Entry);

impl AsRef<[u8]> for SharedBody {
    fn as_ref(&self) -> &[u8] {
        self.0.body()
    }
}

/// The same for a part of its head.
struct SharedHead(Entry, Range<usize>);

impl AsRef<[u8]> for SharedHead {
    fn as_ref(&self) -> &[u8] {
        self.0.head().get(self.1.clone()).unwrap_or_default()
    }
}

/// What is known about a body beside its bytes: enough to answer conditional requests from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Head<'h> {
    /// The media type of the body.
    pub content_type: &'h str,
    /// A digest of the body: the same bytes give the same tag over restarts.
    pub etag: u128,
    /// When the content was last changed, in milliseconds since the Unix epoch.
    pub modified_at_ms: u64,
    /// The other forms of the body that were made ahead.
    pub forms: Forms<'h>,
}

/// The coded forms of a body, made once and kept beside it. What each place in [`Forms::kept`] stands for is the door's
/// to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, BorrowDecode)]
pub struct Forms<'h> {
    /// The length of the plain form, where the body is not it but the coded form that stands alone in `kept`.
    pub plain_bytes: Option<u64>,
    /// The forms there are.
    pub kept: [Option<Form>; FORMS_MAX],
    /// Their bytes, one after the other.
    pub coded: &'h [u8],
}

/// One coded form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Form {
    /// Tells it apart from other codings of the same bytes.
    pub mark: u32,
    /// Its length.
    pub bytes: u64,
}

/// The most forms beside the plain one.
pub const FORMS_MAX: usize = 3;

impl<'h> Head<'h> {
    /// As bytes for [`Parts::head`].
    ///
    /// # Errors
    /// Never in practice; encoding into memory reports what the codec reports.
    pub fn encode(&self) -> Result<Vec<u8>> {
        codec::encode(&(HEAD_LAYOUT, self))
    }

    /// Reads what [`Head::encode`] wrote; what its source said of its lifetime may follow it.
    ///
    /// # Errors
    /// When the bytes are not of this version.
    pub fn decode(bytes: &'h [u8]) -> Result<Self> {
        Self::decode_first(bytes).map(|(head, _)| head)
    }

    /// The head and what follows it.
    fn decode_first(bytes: &'h [u8]) -> Result<(Self, &'h [u8])> {
        let ((layout, head), rest) = codec::decode_first::<(u8, Self)>(bytes)?;
        if layout == HEAD_LAYOUT { Ok((head, rest)) } else { Err(codec::other_layout(layout)) }
    }
}

/// What the source of a value said of it beyond its deadline; stands after the [`Head`], if it said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, BorrowDecode)]
pub(crate) struct Terms<'t> {
    /// Its own lifetime.
    pub(crate) ttl_ms: Option<u64>,
    /// What the source knows this state of the value by.
    pub(crate) validator: Option<&'t str>,
    /// Its own window while it is loaded anew.
    pub(crate) stale_while_revalidate_ms: Option<u64>,
    /// Its own window when the source fails.
    pub(crate) stale_if_error_ms: Option<u64>,
}

impl<'t> Terms<'t> {
    /// Adds them to an encoded head.
    pub(crate) fn append(&self, head: &mut Vec<u8>) -> Result<()> {
        if *self != Self::default() {
            head.extend(codec::encode(self)?);
        }
        Ok(())
    }

    /// Those of `entry`; none when its head carries none.
    pub(crate) fn of(entry: &'t Entry) -> Self {
        let Ok((_, rest)) = Head::decode_first(entry.head()) else { return Self::default() };
        codec::decode(rest).unwrap_or_default()
    }
}

fn meta(key: &[u8], parts: &Parts<'_>, has_extras: bool) -> Meta {
    let expires = to_bits48(parts.expires_at);
    let key_and_flag = key.len() as u64 | u64::from(has_extras) << 15;
    Meta {
        sequence: parts.sequence,
        stored_and_key: to_bits48(parts.stored_at) | key_and_flag << 48,
        expires: [0, 16, 32].map(|shift| (expires >> shift & 0xFFFF) as u16),
        namespace: AtomicU16::new(0),
    }
}

/// Length before each, so that any text may be a tag.
fn join_tags(tags: &[&str]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(tags.iter().map(|tag| tag.len() + 2).sum());
    for tag in tags {
        #[expect(
            clippy::expect_used,
            reason = "a documented panic: a tag is at most 128 bytes everywhere else"
        )]
        let len = u16::try_from(tag.len()).expect("a tag is shorter than 64 KiB");
        joined.extend_from_slice(&len.to_le_bytes());
        joined.extend_from_slice(tag.as_bytes());
    }
    joined
}

fn lengths(head: usize, tags: usize) -> [u8; LENGTHS_BYTES] {
    // What does not fit in 32 bits does not fit in a block either, which says so.
    let bits = |len: usize| u64::from(u32::try_from(len).unwrap_or(u32::MAX));
    (bits(head) | bits(tags) << 32).to_le_bytes()
}

/// 48 bits of milliseconds last until the year 10889; what lies beyond never comes.
fn to_bits48(at: Timestamp) -> u64 {
    at.as_millis().min(BITS48)
}

fn from_bits48(bits: u64) -> Timestamp {
    if bits == BITS48 { Timestamp::NEVER } else { Timestamp::from_millis(bits) }
}

/// What glibc's allocator takes for `bytes`: 8 bytes of its own, steps of 16, whole pages where it maps a block alone.
pub(crate) const fn malloc_bytes(bytes: usize) -> usize {
    let step = if bytes >= MMAP_BYTES_MIN { 4096 } else { 16 };
    let taken = (bytes + if step == 16 { 8 } else { 16 }).next_multiple_of(step);
    if taken < 32 { 32 } else { taken }
}

/// Stands before every head: one of another layout is not read.
const HEAD_LAYOUT: u8 = 2;

const BITS48: u64 = (1 << 48) - 1;

/// A key has at most 1024 bytes: 11 bits of the 15 beside the flag.
const KEY_LEN_MASK: usize = (1 << 15) - 1;

/// Two 32-bit lengths, of head and tags, before them; only where there is either.
const LENGTHS_BYTES: usize = 8;

/// A slot of 16 bytes at a load between 0.65 and 0.81, and its share of the deadline marks.
const INDEX_BYTES: usize = 24;

/// glibc's first threshold for mapping a block on its own; it only ever rises.
const MMAP_BYTES_MIN: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stored_at: u64, expires_at: u64) -> Entry {
        let parts = Parts {
            head: b"h",
            body: b"body",
            tags: &["surahs"],
            stored_at: Timestamp::from_millis(stored_at),
            expires_at: Timestamp::from_millis(expires_at),
            sequence: 1,
        };
        Entry::new(KeyRef::parse("a:b").unwrap(), &parts)
    }

    #[test]
    fn an_entry_is_fresh_from_its_storing_until_just_before_its_deadline() {
        let entry = entry(10, 20);
        for (now, fresh) in [(9, false), (10, true), (19, true), (20, false)] {
            assert_eq!(entry.is_fresh(Timestamp::from_millis(now)), fresh, "at {now}");
        }
    }

    #[test]
    fn a_shared_body_outlives_the_entry_without_a_copy() {
        let entry = entry(0, 1);
        let (body, at) = (entry.body_shared(), entry.body().as_ptr());
        drop(entry);
        assert_eq!(body, b"body".as_slice());
        assert_eq!(body.as_ptr(), at);
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let kept = [None, Some(Form { mark: 3, bytes: 5 }), None];
        let forms = Forms { plain_bytes: None, kept, coded: b"coded" };
        let head = Head { content_type: "application/json", etag: 7, modified_at_ms: 9, forms };
        let bytes = head.encode().unwrap();
        assert_eq!(Head::decode(&bytes).unwrap(), head);
        let before = crate::codec::encode(&("application/json", 7_u128, 9_u64)).unwrap();
        assert!(Head::decode(&before).is_err(), "the layout before this one");
    }

    #[test]
    fn terms_follow_a_head_and_a_head_without_them_has_none() {
        let forms = Forms::default();
        let head = Head { content_type: "text/plain", etag: 7, modified_at_ms: 9, forms };
        let entry = |head: &[u8]| {
            let (at, never) = (Timestamp::from_millis(1), Timestamp::NEVER);
            let parts = Parts { head, body: b"b", tags: &[], stored_at: at, expires_at: never, sequence: 1 };
            Entry::new(KeyRef::parse("a:b").unwrap(), &parts)
        };
        let terms = Terms { validator: Some("v1"), stale_while_revalidate_ms: Some(5), ..Terms::default() };
        let mut bytes = head.encode().unwrap();
        assert_eq!(Terms::of(&entry(&bytes)), Terms::default());
        terms.append(&mut bytes).unwrap();
        let entry = entry(&bytes);
        assert_eq!(Terms::of(&entry), terms);
        assert_eq!(Head::decode(entry.head()).unwrap(), head);
    }

    #[test]
    fn an_entry_is_overdue_from_its_deadline_on_and_never_when_it_was_stored_in_the_future() {
        let entry = entry(10, 20);
        for (now, overdue) in [(9, None), (19, None), (20, Some(0)), (25, Some(5))] {
            let expected = overdue.map(Duration::from_millis);
            assert_eq!(entry.overdue(Timestamp::from_millis(now)), expected, "at {now}");
        }
    }

    #[test]
    fn every_part_comes_back_as_it_was_put_in() {
        let head = vec![7; 70_000];
        let parts = Parts {
            head: &head,
            body: b"body",
            tags: &["a", "", "surahs"],
            stored_at: Timestamp::from_millis(1),
            expires_at: Timestamp::NEVER,
            sequence: u64::MAX,
        };
        let key = "k".repeat(1024);
        let entry = Entry::new(KeyRef::parse(&key).unwrap(), &parts);
        assert_eq!(entry.key().as_str(), key);
        assert_eq!(entry.head(), head);
        assert_eq!(entry.body(), b"body");
        assert_eq!(entry.tags().collect::<Vec<_>>(), ["a", "", "surahs"]);
        assert_eq!(entry.stored_at(), Timestamp::from_millis(1));
        assert_eq!(entry.expires_at(), Timestamp::NEVER);
        assert_eq!(entry.sequence(), u64::MAX);
        let plain = Entry::new(KeyRef::parse("k").unwrap(), &Parts { head: &[], tags: &[], ..parts });
        assert_eq!((plain.head(), plain.body()), (b"".as_slice(), b"body".as_slice()));
        assert_eq!(plain.tags().count(), 0);
    }

    #[test]
    fn freshness_by_a_clock_is_exact_to_the_millisecond() {
        let clock = Clock::manual(Timestamp::from_millis(10));
        let entry = entry(10, 500);
        assert!(entry.is_fresh_by(&clock));
        clock.advance(std::time::Duration::from_millis(489));
        assert!(entry.is_fresh_by(&clock));
        clock.advance(std::time::Duration::from_millis(1));
        assert!(!entry.is_fresh_by(&clock));
    }

    #[test]
    fn a_small_entry_costs_at_most_72_bytes_over_its_payload() {
        let parts = Parts {
            head: b"",
            body: &[0; 100],
            tags: &[],
            stored_at: Timestamp::from_millis(1),
            expires_at: Timestamp::from_millis(2),
            sequence: 3,
        };
        let entry = Entry::new(KeyRef::parse("small:00000000000001").unwrap(), &parts);
        assert!(entry.weight() - 120 <= 72, "{}", entry.weight());
    }

    #[test]
    fn a_weight_is_known_before_the_entry_is_made_and_another_deadline_changes_nothing_else() {
        for (head, tags) in [(&b""[..], &[][..]), (b"head", &["a"]), (b"", &["a", "surahs"])] {
            let (stored_at, expires_at) = (Timestamp::from_millis(1), Timestamp::from_millis(2));
            let parts = Parts { head, body: &[7; 1000], tags, stored_at, expires_at, sequence: 3 };
            let entry = Entry::new(KeyRef::parse("a:b").unwrap(), &parts);
            assert_eq!(Entry::weight_of(3, 1000, head.len(), tags), entry.weight());
            let moved = entry.until(Timestamp::NEVER);
            assert_eq!(moved.expires_at(), Timestamp::NEVER);
            assert_eq!((moved.head(), moved.body()), (entry.head(), entry.body()));
            assert!(moved.tags().eq(entry.tags()));
            assert_eq!((moved.sequence(), moved.stored_at()), (entry.sequence(), entry.stored_at()));
        }
    }
}
