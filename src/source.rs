//! Where a value comes from on a miss.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::key::KeyRef;

/// What a source answered for a key.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The value.
    pub body: Vec<u8>,
    /// Its media type.
    pub content_type: Cow<'static, str>,
    /// When the content was last changed.
    pub modified_at: Timestamp,
    /// The tags it can be invalidated by.
    pub tags: Vec<&'static str>,
}

/// A load under way: a value, "there is none", or an error.
pub type Loading<'l> = Pin<Box<dyn Future<Output = Result<Option<Loaded>>> + Send + 'l>>;

/// A system of record that the cache stands before.
///
/// The caller guarantees at most one load a key at a time. The implementation must answer `Ok(None)` for what does not
/// exist (an error means "unknown"), must not block the executor, and must tolerate being dropped at any await.
pub trait Source: Send + Sync + fmt::Debug {
    /// The value of `key` as it is now.
    fn load<'l>(&'l self, key: KeyRef<'l>) -> Loading<'l>;
}
