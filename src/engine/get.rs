//! Reading what stands in the cache: memory, then disk; no source is asked.
//!
//! Each question is counted once, as a hit or by why there was nothing to serve, except where a verb says otherwise.

use std::time::Instant;

use bytes::Bytes;

use crate::entry::Entry;
use crate::error::Result;
use crate::key::{KeyRef, Parsed};
use crate::memory::Memory;

use super::stats::{Counters, MissReason};
use super::ttl::Ttl;
use super::{Cache, read};

impl Cache {
    /// What stands under `key` in memory or on disk, if it is fresh. Never fails because of the disk, but may wait for
    /// it: in async code use [`Cache::get_async`].
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`],
    /// [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) for text that is no key.
    pub fn get<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Entry>> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        let (state, begun) = (self.state(), Counters::begin());
        Ok(self.counted(key, begun, read::get(state, key)))
    }

    /// As [`Cache::get`], without ever blocking the executor: a look at the disk is made on a thread that may.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn get_async<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Entry>> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        let (state, begun) = (self.state(), Counters::begin());
        let mut found = state.find(key);
        if found.is_err() && state.disk.as_ref().is_some_and(|disk| disk.may_contain(key)) {
            let key = key.to_key();
            found = self.shared_state().look_at_disk(move |state| read::get(state, key.as_key_ref())).await;
        }
        Ok(self.counted(key, begun, found))
    }

    /// What stands fresh under `key` in memory, counted as a hit. `None` says nothing of the disk, is the answer too
    /// when the entry is to be loaded ahead of time, and counts as nothing: for a caller who then asks in another way.
    #[must_use]
    pub fn get_in_memory(&self, key: KeyRef<'_>) -> Option<Entry> {
        let (state, begun) = (self.state(), Counters::begin());
        let entry = state.find(key).ok().filter(|_| !state.is_closed())?;
        if read::is_eager(state, &entry) {
            return None;
        }
        state.count_hit(&entry, begun);
        Some(entry)
    }

    /// The value under `key` as shared bytes, without a copy; see [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn get_bytes<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Bytes>> {
        Ok(self.get(key)?.map(|entry| entry.body_shared()))
    }

    /// What stands under each of `keys`, in their order; see [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn get_many<'k, K: Parsed<KeyRef<'k>>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Entry>>> {
        let keys = keys.into_iter().map(K::parsed).collect::<Result<Vec<_>>>()?;
        self.refuse_if_closed()?;
        let state = self.state();
        let mut found = Vec::with_capacity(keys.len());
        for few in keys.chunks(Memory::READ_AHEAD) {
            state.memory.read_ahead(few);
            found.extend(few.iter().map(|key| {
                let begun = Counters::begin();
                self.counted(*key, begun, read::get(state, *key))
            }));
        }
        Ok(found)
    }

    /// As [`Cache::get`], but it counts as neither hit nor miss, and not as a use.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn peek<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Entry>> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        Ok(read::peek(self.state(), key))
    }

    /// Whether something fresh stands under `key`; counts as neither hit nor miss and touches no order.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn exists<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<bool> {
        Ok(self.peek(key)?.is_some())
    }

    /// How long what stands under `key` stays fresh: `None` when nothing does.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn ttl<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Ttl>> {
        Ok(self.peek(key)?.map(|entry| Ttl::of(&entry, self.now())))
    }

    /// Counts what was found, or why nothing was.
    #[inline]
    fn counted(
        &self,
        key: KeyRef<'_>,
        begun: Option<Instant>,
        found: std::result::Result<Entry, MissReason>,
    ) -> Option<Entry> {
        match &found {
            Ok(entry) => self.state().count_hit(entry, begun),
            Err(reason) => self.state().count_miss(key, *reason),
        }
        found.ok()
    }
}
