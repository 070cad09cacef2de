//! The engine: one cache over the memory tier, the disk tier and a source.
//!
//! [`Cache`] is a handle; clones share everything. Its verbs live in files of their own, each over the same `State`:
//! reading, invalidating, sweeping, warm restart. It does not know HTTP, what bodies mean, or how the tiers work inside.

mod builder;
mod doomed;
mod events;
mod flight;
mod invalidate;
mod latency;
mod policy;
mod read;
mod recovery;
mod state;
mod stats;
mod sweeper;

use std::fmt;
use std::sync::Arc;

pub use builder::{CacheBuilder, Durability};
pub use events::{Event, Subscription};
pub use policy::Policy;
pub use read::{Answer, Outcome};
pub use stats::{Happened, Latencies, MissReason, NamespaceStats, Operation, Stats};

use crate::clock::Timestamp;
use crate::disk::DiskStatus;
use crate::entry::{Entry, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyRef, Namespace, Tag};
use crate::memory::{Cursor, Held, Insertion, Limits, Verdict};
use crate::pattern::Pattern;
use crate::source::Source;

use recovery::Recovery;
use state::State;
use stats::Counters;
use sweeper::Sweeper;

/// A bounded cache with its own persistent store; cheap to clone, every clone is the same cache.
///
/// ```
/// use hifz::{Cache, Key};
///
/// let cache = Cache::builder().memory(16 << 20).open()?;
/// let key = Key::parse("greetings:en")?;
/// cache.set(key.as_key_ref(), b"good morning")?;
/// assert_eq!(cache.get(key.as_key_ref())?.unwrap().body(), b"good morning");
/// cache.close()?;
/// # Ok::<(), hifz::Error>(())
/// ```
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    state: Arc<State>,
    sweeper: Sweeper,
    recovery: Recovery,
}

impl Cache {
    /// A builder with the defaults of every setting.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::new()
    }

    fn assemble(state: State) -> Result<Self> {
        let state = Arc::new(state);
        let sweeper = Sweeper::start(&state)?;
        let recovery = Recovery::start(&state)?;
        Ok(Self(Arc::new(Shared { state, sweeper, recovery })))
    }

    fn state(&self) -> &State {
        &self.0.state
    }

    /// What stands under `key` in memory or on disk, if it is fresh. Never fails because of the disk, but may wait for
    /// it: from async code prefer [`Cache::get_or_load`], or ask on a blocking thread.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after [`Cache::close`].
    pub fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>> {
        self.refuse_if_closed()?;
        let (state, begun) = (self.state(), Counters::begin());
        let found = read::get(state, key);
        match &found {
            Ok(entry) => state.count_hit(entry, begun),
            Err(reason) => state.count_miss(key, *reason),
        }
        Ok(found.ok())
    }

    /// What stands under each of `keys`, in their order; see [`Cache::get`].
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after [`Cache::close`].
    pub fn get_many(&self, keys: &[KeyRef<'_>]) -> Result<Vec<Option<Entry>>> {
        self.refuse_if_closed()?;
        keys.iter().map(|key| self.get(*key)).collect()
    }

    /// What stands under `key`, or what `source` has for it, which is then kept. However many callers ask at once, the
    /// source is asked by one of them. `None` when the source has nothing.
    ///
    /// # Errors
    /// What the source reports, or [`ErrorKind::Closed`] after [`Cache::close`].
    pub async fn get_or_load(&self, key: KeyRef<'_>, source: &dyn Source) -> Result<Option<Answer>> {
        read::get_or_load(self, key, source).await
    }

    /// Whether something fresh stands under `key`; counts as neither hit nor miss and touches no order.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after [`Cache::close`].
    pub fn exists(&self, key: KeyRef<'_>) -> Result<bool> {
        self.refuse_if_closed()?;
        Ok(invalidate::stands(self.state(), key))
    }

    /// Puts `value` under `key` with the lifetime of its namespace. From the return on, no read sees an older value.
    ///
    /// # Errors
    /// [`ErrorKind::ValueTooLarge`] when it is larger than the whole cache, [`ErrorKind::DiskFailed`] when durability
    /// `always` was asked for and the disk failed, [`ErrorKind::Closed`] after [`Cache::close`].
    pub fn set(&self, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let policy = self.policy(key.namespace());
        self.put(key, value, |stored_at, sequence| policy.expiry(stored_at, sequence))?;
        self.acknowledge()
    }

    /// Puts each value under its key with the lifetime of its namespace; with durability `always` one wait for the disk
    /// serves them all.
    ///
    /// # Errors
    /// As [`Cache::set`]; what stood before the refused one in the list has been put.
    pub fn set_many(&self, values: &[(KeyRef<'_>, &[u8])]) -> Result<()> {
        for (key, value) in values {
            let policy = self.policy(key.namespace());
            self.put(*key, value, |stored_at, sequence| policy.expiry(stored_at, sequence))?;
        }
        self.acknowledge()
    }

    /// Puts `value` under `key` until `expires_at`.
    ///
    /// # Errors
    /// As [`Cache::set`].
    pub fn set_until(&self, key: KeyRef<'_>, value: &[u8], expires_at: Timestamp) -> Result<()> {
        self.put(key, value, |_, _| expires_at)?;
        self.acknowledge()
    }

    /// Waits for the disk where a write is to be on it before it is acknowledged.
    fn acknowledge(&self) -> Result<()> {
        if self.state().flushes_writes { self.flush() } else { Ok(()) }
    }

    fn put(&self, key: KeyRef<'_>, value: &[u8], expiry: impl Fn(Timestamp, u64) -> Timestamp) -> Result<()> {
        self.refuse_if_closed()?;
        let state = self.state();
        if value.len() as u64 > state.value_bytes_max {
            return Err(too_large(value, state.value_bytes_max));
        }
        let turn = state.turn(key);
        let insertion = loop {
            let (stored_at, sequence) = (state.clock.now(), state.next_sequence());
            let expires_at = expiry(stored_at, sequence);
            let parts = Parts { head: &[], body: value, tags: &[], stored_at, expires_at, sequence };
            let entry = Entry::new(key, &parts);
            // Under the shard's lock, so that a load under way is either replaced here or not admitted after it.
            let insertion = state.memory.insert(entry.clone(), || {
                state.flights.supersede(key);
                if let Some(disk) = &state.disk {
                    disk.put(&entry);
                }
                true
            });
            // A load that began meanwhile has a higher number; this write is later than its beginning and must win.
            if insertion != Insertion::Outdated {
                break insertion;
            }
        };
        drop(turn);
        state.count_done(key.namespace(), Operation::Set, 1);
        match insertion {
            Insertion::Bypassed => {
                self.delete(key)?;
                Err(too_large(value, state.memory.usage().limit_bytes))
            }
            _ => Ok(()),
        }
    }

    /// Takes out what stands under `key`, durably: it does not come back, whatever happens to the process. Returns
    /// whether it stood. Waits for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when the deletion could not be made durable; memory has forgotten it all the same.
    pub fn delete(&self, key: KeyRef<'_>) -> Result<bool> {
        Ok(self.delete_many(&[key.to_key()])? > 0)
    }

    /// Takes out what stands under each of `keys`, durably: it does not come back, whatever happens to the process.
    /// Returns how many of them stood. Waits for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when the deletion could not be made durable; memory has forgotten them all the same.
    pub fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        self.refuse_if_closed()?;
        invalidate::keys(self.state(), keys)
    }

    /// Invalidates everything in `namespace`, durably and at a cost that does not depend on how much that is. Returns
    /// how many entries stood in memory. Waits for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; memory has forgotten them all the same.
    pub fn invalidate_namespace(&self, namespace: &Namespace) -> Result<u64> {
        self.refuse_if_closed()?;
        let invalidated = invalidate::namespace(self.state(), namespace);
        self.0.sweeper.wake();
        invalidated
    }

    /// Invalidates everything tagged `tag`, durably; visible at once, the memory is given back after it. Returns how
    /// many fresh entries stood in memory. Waits for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; memory has forgotten them all the same.
    pub fn invalidate_tag(&self, tag: &Tag) -> Result<u64> {
        self.refuse_if_closed()?;
        invalidate::tag(self.state(), tag)
    }

    /// Takes out every key that `pattern` covers, durably, in steps that readers pass between. Returns how many fresh
    /// entries stood in memory. Waits for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; memory has forgotten them all the same.
    pub fn delete_pattern(&self, pattern: &Pattern) -> Result<u64> {
        self.refuse_if_closed()?;
        invalidate::pattern(self.state(), pattern)
    }

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

    /// What each namespace holds in memory.
    #[must_use]
    pub fn namespaces(&self) -> Vec<(String, Held)> {
        self.state().memory.usage_by_namespace()
    }

    /// Changes the memory limit; what is over it leaves before this returns.
    pub fn set_memory(&self, bytes: u64) {
        let state = self.state();
        state.memory.set_limits(Limits { bytes, entries: state.entries_max });
    }

    /// Invalidates everything, durably. Returns how many entries stood in memory. Waits for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; memory has forgotten them all the same.
    pub fn clear_all(&self) -> Result<u64> {
        self.refuse_if_closed()?;
        let invalidated = invalidate::all(self.state());
        self.0.sweeper.wake();
        invalidated
    }

    /// Tells from now on what leaves memory and why, within a quarter of a second.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.state().events.subscribe(&self.state().memory)
    }

    /// The lifetimes of `namespace`.
    #[must_use]
    pub fn policy(&self, namespace: &str) -> Policy {
        self.state().policies.of(namespace)
    }

    /// The clock its deadlines are measured by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.state().clock.now()
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

    /// Waits until everything put so far is on disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] with what went wrong.
    pub fn flush(&self) -> Result<()> {
        self.state().disk.as_ref().map_or(Ok(()), crate::disk::Disk::flush)
    }

    /// Stops the background threads and writes what is queued. Later calls are refused; a second close does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when what was queued could not be written.
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }

    fn refuse_if_closed(&self) -> Result<()> {
        if self.state().is_closed() {
            return Err(Error::new(ErrorKind::Closed, "the cache has been closed"));
        }
        Ok(())
    }

    /// What the disk tier holds under `key`, read on a thread that may block.
    async fn read_disk(&self, key: KeyRef<'_>) -> Option<Entry> {
        let disk = self.state().disk.as_ref()?;
        if !disk.may_contain(key) {
            return None;
        }
        let (state, key) = (self.0.state.clone(), key.to_key());
        blocking::unblock(move || state.disk.as_ref()?.get(key.as_key_ref())).await
    }
}

fn too_large(value: &[u8], bytes_max: u64) -> Error {
    let message = format!("the value has {} bytes, the most that fits is {bytes_max}", value.len());
    Error::new(ErrorKind::ValueTooLarge, message)
}

impl Shared {
    fn close(&self) -> Result<()> {
        if !self.state.close() {
            return Ok(());
        }
        self.recovery.stop();
        self.sweeper.stop();
        self.state.loads.close();
        self.state.disk.as_ref().map_or(Ok(()), crate::disk::Disk::close)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(error = %error.chain(), "the cache could not be closed cleanly");
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
