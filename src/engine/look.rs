//! Looking at the cache from outside: what it holds, how it does, and why a key is served or not.

use crate::clock::Timestamp;
use crate::disk::DiskStatus;
use crate::error::Result;
use crate::key::{Key, KeyRef, Parsed};
use crate::memory::{Cursor, Held, Verdict};

use super::Cache;
use super::explain::{self, Explanation};
use super::list::{self, Filter, ListCursor, Listing};
use super::stats::{NamespaceStats, Stats};

impl Cache {
    /// Some keys that stand fresh in memory, from `from` on, about `most` of them, and where to go on. Whatever stands
    /// all the while is met exactly once or, when the tier grows meanwhile, at least once.
    #[must_use]
    pub fn keys(&self, from: Cursor, most: usize) -> (Vec<Key>, Option<Cursor>) {
        let (state, mut keys) = (self.state(), Vec::new());
        let scanned = state.memory.scan(from, most, |entry| {
            if state.is_live(entry) {
                keys.push(entry.key().to_key());
            }
            Verdict::Keep
        });
        (keys, scanned.next)
    }

    /// Some of the entries, in memory or on disk, that pass `filter`, from `from` on, at most `most` of them, and where
    /// to go on. What stands all the while is met exactly once; a step may bring fewer than `most`, and even none, and
    /// there may still be more. Blocks on the disk.
    ///
    /// ```
    /// use hifz::{Cache, Filter};
    ///
    /// let cache = Cache::builder().memory(1 << 20).open()?;
    /// cache.set_many([("a:1", "one"), ("a:2", "two"), ("b:1", "three")])?;
    /// let (mut keys, mut next) = (Vec::new(), Some(Default::default()));
    /// while let Some(from) = next {
    ///     let listing = cache.list(&Filter::new().namespace("a"), from, 100)?;
    ///     keys.extend(listing.entries.into_iter().map(|listed| listed.key.to_string()));
    ///     next = listing.next;
    /// }
    /// keys.sort();
    /// assert_eq!(keys, ["a:1", "a:2"]);
    /// # Ok::<(), hifz::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`].
    pub fn list(&self, filter: &Filter, from: ListCursor, most: usize) -> Result<Listing> {
        self.refuse_if_closed()?;
        Ok(list::list(self.state(), &|key| filter.passes(key), from, most))
    }

    /// What each namespace holds, in memory or only on disk, and what happened in it. Blocks on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`].
    pub fn census(&self) -> Result<Vec<NamespaceStats>> {
        self.refuse_if_closed()?;
        Ok(list::census(self.state()))
    }

    /// Everything about `key`: where it stands, how long yet, or why it is not served. Blocks on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`],
    /// [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) for text that is no key.
    pub fn explain<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Explanation> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        Ok(explain::explain(self.state(), key))
    }

    /// What each namespace holds in memory.
    #[must_use]
    pub fn namespaces(&self) -> Vec<(String, Held)> {
        self.state().memory.usage_by_namespace()
    }

    /// Its figures at this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().stats()
    }

    /// How the disk tier is; `None` without one.
    #[must_use]
    pub fn disk_status(&self) -> Option<DiskStatus> {
        self.state().disk.as_ref().map(crate::disk::Disk::status)
    }

    /// Whether the background sweeper is at work.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.0.sweeper.is_alive()
    }

    /// The clock its deadlines are measured by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.state().clock.now()
    }
}
