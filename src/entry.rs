//! What the cache holds under a key: an immutable body with what must be known about it.
//!
//! An [`Entry`] is shared, never copied to be read: cloning it copies a pointer. It knows its key, its body, an opaque
//! head that the door wrote for itself, its deadlines, its tags and its sequence number. It does not know what the
//! body means, nor whether its generation is still alive; the engine asks its generations for that.

use std::fmt;
use std::sync::Arc;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::clock::Timestamp;
use crate::codec;
use crate::error::Result;
use crate::key::KeyRef;

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

/// One immutable, shared cache entry.
#[derive(Clone)]
pub struct Entry(Arc<Inner>);

struct Inner {
    key: Box<str>,
    head: Box<[u8]>,
    body: Box<[u8]>,
    tags: Box<[Box<str>]>,
    stored_at: Timestamp,
    expires_at: Timestamp,
    sequence: u64,
}

impl Entry {
    /// An entry under `key`.
    #[must_use]
    pub fn new(key: KeyRef<'_>, parts: &Parts<'_>) -> Self {
        Self(Arc::new(Inner {
            key: key.as_str().into(),
            head: parts.head.into(),
            body: parts.body.into(),
            tags: parts.tags.iter().map(|tag| Box::from(*tag)).collect(),
            stored_at: parts.stored_at,
            expires_at: parts.expires_at,
            sequence: parts.sequence,
        }))
    }

    /// The key it stands under.
    #[must_use]
    pub fn key(&self) -> KeyRef<'_> {
        KeyRef::known(&self.0.key)
    }

    /// What the door left beside the body.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.0.head
    }

    /// The value.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// The value as shared bytes that keep this entry alive; nothing is copied.
    #[must_use]
    pub fn body_shared(&self) -> Bytes {
        Bytes::from_owner(SharedBody(self.clone()))
    }

    /// The tags it can be invalidated by.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.0.tags.iter().map(AsRef::as_ref)
    }

    /// When it was stored.
    #[must_use]
    pub fn stored_at(&self) -> Timestamp {
        self.0.stored_at
    }

    /// From when on it is no longer fresh.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }

    /// Where it stands in the order of all writes, loads and invalidations.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// Whether it may be served at `now`: not expired, and not stored in the future by a clock since set back.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now < self.expires_at() && self.stored_at() <= now
    }

    /// The bytes it makes the process hold: key, head, body, tags, and the index and allocations around them.
    #[must_use]
    pub fn weight(&self) -> usize {
        let tags = self.tags().map(|tag| tag.len() + 32).sum::<usize>();
        self.0.key.len() + self.head().len() + self.body().len() + tags + ENTRY_OVERHEAD_BYTES
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

/// What is known about a body beside its bytes: enough to answer conditional requests from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Head<'h> {
    /// The media type of the body.
    pub content_type: &'h str,
    /// A digest of the body: the same bytes give the same tag over restarts.
    pub etag: u128,
    /// When the content was last changed, in milliseconds since the Unix epoch.
    pub modified_at_ms: u64,
}

impl<'h> Head<'h> {
    /// As bytes for [`Parts::head`].
    ///
    /// # Errors
    /// Never in practice; encoding into memory reports what the codec reports.
    pub fn encode(&self) -> Result<Vec<u8>> {
        codec::encode(self)
    }

    /// Reads what [`Head::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not of this version.
    pub fn decode(bytes: &'h [u8]) -> Result<Self> {
        codec::decode(bytes)
    }
}

/// Per-entry bytes beside its payload: the allocations of this version and its place in the index.
const ENTRY_OVERHEAD_BYTES: usize = 240;

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
        let head = Head { content_type: "application/json", etag: 7, modified_at_ms: 9 };
        assert_eq!(Head::decode(&head.encode().unwrap()).unwrap(), head);
    }
}
