//! Writing: values under keys, one or many at once, and deadlines moved.
//!
//! Everything is checked before anything is put, so that a batch with a bad member changes nothing. A write takes its
//! number and its place in the tiers in its key's turn, so of two that overlap the one with the higher number is the
//! later one everywhere. Moving a deadline is no new write: it keeps its number, so whatever invalidates the value
//! invalidates it with its new deadline too.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::entry::{Entry, Forms, Head, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyRef, Tag};
use crate::memory::Insertion;

use super::state::{State, Turn};
use super::stats::Operation;
use super::{invalidate, read};

/// How a value is kept, where that differs from what its namespace says; see [`Cache::set_with`](super::Cache::set_with).
///
/// ```
/// use std::time::Duration;
/// use hifz::{Cache, SetOptions};
///
/// let cache = Cache::builder().memory(1 << 20).open()?;
/// let options = SetOptions::new().ttl(Duration::from_secs(60)).tags(["greetings"]).content_type("text/plain");
/// cache.set_with("hello:en", "good morning", &options)?;
/// assert_eq!(cache.invalidate_tag("greetings")?, 1);
/// assert!(!cache.exists("hello:en")?);
/// # Ok::<(), hifz::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct SetOptions {
    lifetime: Lifetime,
    tags: Vec<String>,
    content_type: Option<String>,
    #[cfg(feature = "json")]
    pub(super) is_json: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Lifetime {
    #[default]
    OfNamespace,
    For(Duration),
    Until(Timestamp),
}

impl SetOptions {
    /// The lifetime of the namespace, no tags, plain bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fresh for `ttl`, which must be longer than nothing. Default: as the namespace says.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lifetime = Lifetime::For(ttl);
        self
    }

    /// Fresh until `at`; [`Timestamp::NEVER`] for ever.
    pub fn until(mut self, at: Timestamp) -> Self {
        self.lifetime = Lifetime::Until(at);
        self
    }

    /// Can be invalidated by these tags too, at most [`TAGS_MAX`].
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// The media type, for whoever reads it over HTTP. Default: `application/octet-stream`.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }
}

/// Options that have been checked.
pub(super) struct Terms<'o> {
    lifetime: Lifetime,
    tags: Vec<&'o str>,
    content_type: Option<&'o str>,
}

impl<'o> Terms<'o> {
    /// Those of a namespace.
    pub(super) const PLAIN: Self =
        Self { lifetime: Lifetime::OfNamespace, tags: Vec::new(), content_type: None };

    pub(super) fn check(options: &'o SetOptions) -> Result<Self> {
        if options.lifetime == Lifetime::For(Duration::ZERO) {
            return Err(refused("ttl", "must be longer than nothing"));
        }
        let mut tags: Vec<&str> = options.tags.iter().map(String::as_str).collect();
        for tag in &tags {
            Tag::parse(*tag).map_err(|error| refused("tags", error.message()))?;
        }
        tags.sort_unstable();
        tags.dedup();
        if tags.len() > TAGS_MAX {
            return Err(refused("tags", format_args!("at most {TAGS_MAX} are accepted, got {}", tags.len())));
        }
        let content_type = options.content_type.as_deref();
        if content_type.is_some_and(|given| !is_content_type(given)) {
            let most = format_args!("a media type is 1 to {CONTENT_TYPE_BYTES_MAX} visible ASCII characters");
            return Err(refused("content_type", most));
        }
        // What nothing is said about costs nothing to keep.
        let content_type = content_type.filter(|given| *given != OCTET_STREAM);
        Ok(Self { lifetime: options.lifetime, tags, content_type })
    }

    fn expiry(&self, state: &State, key: KeyRef<'_>, stored_at: Timestamp, sequence: u64) -> Timestamp {
        match self.lifetime {
            Lifetime::OfNamespace => state.policy(key.namespace()).expiry(stored_at, sequence),
            Lifetime::For(ttl) => stored_at.after(ttl),
            Lifetime::Until(at) => at,
        }
    }

    fn head(&self, value: &[u8], stored_at: Timestamp) -> Result<Vec<u8>> {
        let Some(content_type) = self.content_type else { return Ok(Vec::new()) };
        let etag = xxhash_rust::xxh3::xxh3_128(value);
        Head { content_type, etag, modified_at_ms: stored_at.as_millis(), forms: Forms::default() }.encode()
    }
}

fn is_content_type(text: &str) -> bool {
    (1..=CONTENT_TYPE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Puts each value under its key, all or nothing; not yet acknowledged.
pub(super) fn put_all(state: &State, values: &[(KeyRef<'_>, &[u8])], terms: &Terms<'_>) -> Result<()> {
    values.iter().try_for_each(|(key, value)| fits(state, *key, value, terms))?;
    values.iter().try_for_each(|(key, value)| put(state, *key, value, terms))
}

/// Puts each value under its key on its own terms, all or nothing; not yet acknowledged.
pub(super) fn put_each(state: &State, values: &[(KeyRef<'_>, &[u8], Terms<'_>)]) -> Result<()> {
    values.iter().try_for_each(|(key, value, terms)| fits(state, *key, value, terms))?;
    values.iter().try_for_each(|(key, value, terms)| put(state, *key, value, terms))
}

/// Puts `value` if `check`, shown what stands there, lets it; not yet acknowledged.
pub(super) fn put_if(
    state: &State,
    key: KeyRef<'_>,
    value: &[u8],
    terms: &Terms<'_>,
    check: impl FnOnce(Option<&Entry>) -> Result<()>,
) -> Result<()> {
    fits(state, key, value, terms)?;
    let turn = state.turn(key);
    check(read::peek(state, key).as_ref())?;
    let insertion = put_in_turn(state, &turn, key, value, terms)?;
    drop(turn);
    settle_put(state, key, value, insertion)
}

/// Whether memory would keep `value`: it is within the limit for one value, and within its share.
fn fits(state: &State, key: KeyRef<'_>, value: &[u8], terms: &Terms<'_>) -> Result<()> {
    let bytes_max = state.value_bytes_max.min(FORM_BYTES_MAX);
    if value.len() as u64 > bytes_max {
        return Err(too_large(key, value, bytes_max));
    }
    // A head has its media type, 16 bytes of digest and a date.
    let head_bytes = terms.content_type.map_or(0, |content_type| content_type.len() + 32);
    let weight = Entry::weight_of(key.as_str().len(), value.len(), head_bytes, &terms.tags) as u64;
    let weight_max = state.memory.weight_max(key.namespace());
    if weight > weight_max {
        let own_bytes = weight - value.len() as u64;
        return Err(too_large(key, value, weight_max.saturating_sub(own_bytes)));
    }
    Ok(())
}

fn put(state: &State, key: KeyRef<'_>, value: &[u8], terms: &Terms<'_>) -> Result<()> {
    let turn = state.turn(key);
    let insertion = put_in_turn(state, &turn, key, value, terms)?;
    drop(turn);
    settle_put(state, key, value, insertion)
}

/// `turn` is that of the key.
fn put_in_turn(
    state: &State,
    turn: &Turn<'_>,
    key: KeyRef<'_>,
    value: &[u8],
    terms: &Terms<'_>,
) -> Result<Insertion> {
    loop {
        let (stored_at, sequence) = (state.clock.now(), state.next_sequence());
        let (head, expires_at) =
            (terms.head(value, stored_at)?, terms.expiry(state, key, stored_at, sequence));
        let parts = Parts { head: &head, body: value, tags: &terms.tags, stored_at, expires_at, sequence };
        // Under the shard's lock, so that a load under way is either replaced here or not admitted after it.
        let insertion = state.memory.put_shared(key, &parts, |entry| {
            state.flights.supersede(key);
            if let Some(disk) = turn.approach {
                disk.put(entry);
            }
            true
        });
        // A load that began meanwhile has a higher number; this write is later than its beginning and must win.
        if insertion != Insertion::Outdated {
            return Ok(insertion);
        }
    }
}

fn settle_put(state: &State, key: KeyRef<'_>, value: &[u8], insertion: Insertion) -> Result<()> {
    state.absent.forget(key);
    state.count_done(key.namespace(), Operation::Set, 1);
    if insertion == Insertion::Bypassed {
        // The limit has been lowered since it was found to fit.
        invalidate::keys(state, &[key.to_key()])?;
        return Err(too_large(key, value, state.memory.weight_max(key.namespace())));
    }
    Ok(())
}

/// Gives what stands under `key` another deadline; whether something stood. A nearer one waits for the disk.
pub(super) fn touch(state: &State, key: KeyRef<'_>, terms: &Terms<'_>) -> Result<bool> {
    for _ in 0..TOUCHES_MAX {
        let Ok(entry) = read::get(state, key) else { return Ok(false) };
        let moved = entry.until(terms.expiry(state, key, state.clock.now(), entry.sequence()));
        let then = || {
            if let Some(disk) = &state.disk {
                disk.put(&moved);
            }
        };
        if state.memory.exchange(&entry, moved.clone(), then) != Insertion::Outdated {
            return settle_touch(state, &entry, &moved);
        }
        let turn = state.turn(key);
        // It is only on disk, which refuses what has been deleted meanwhile; and nobody writes it in this turn, so what
        // is still found there is what is moved, and nothing newer that was evicted in between.
        let is_it = |found: &Entry| found.sequence() == entry.sequence();
        if state.memory.peek(key).is_none() && read::peek(state, key).is_some_and(|found| is_it(&found)) {
            then();
            drop(turn);
            return settle_touch(state, &entry, &moved);
        }
    }
    // Others write it all the while: each of them has set a deadline after this call began.
    Ok(true)
}

/// A later deadline may be lost to a kill; an earlier one must not be, or the value would be served past it.
fn settle_touch(state: &State, entry: &Entry, moved: &Entry) -> Result<bool> {
    match &state.disk {
        Some(disk) if moved.expires_at() < entry.expires_at() && state.flushes_at_all => disk.flush()?,
        _ => {}
    }
    Ok(true)
}

fn too_large(key: KeyRef<'_>, value: &[u8], bytes_max: u64) -> Error {
    let message = format!("the value has {} bytes, the most that fits is {bytes_max}", value.len());
    Error::new(ErrorKind::ValueTooLarge, message).at(key.as_str())
}

fn refused(place: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::ArgumentInvalid, why.to_string()).at(place)
}

/// The most tags of one entry.
pub const TAGS_MAX: usize = 64;

/// The longest media type, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// What an entry without a media type of its own is.
pub(crate) const OCTET_STREAM: &str = "application/octet-stream";

/// The form of an entry has no room for more, whatever the limits say.
const FORM_BYTES_MAX: u64 = 4_000_000_000;

/// So often a deadline is tried to be moved while others write the value.
const TOUCHES_MAX: usize = 100;
