//! The engine: one cache over the memory tier, the disk tier and a source.
//!
//! [`Cache`] is a handle; clones share everything. Here is what it is made of, how it begins and how it ends; what can be
//! done with it is in files of its own, by meaning: `get` (read what stands), `ask` (read through a source), `set` (put),
//! `forget` (delete and invalidate), `look` (list, explain, figures). Those are doors: what they promise stands there, how
//! it is done behind them, over the same `State`: `read`, `flight`, `load` and `retry` behind `ask`, `write` behind `set`,
//! `invalidate` behind `forget`. It does not know HTTP, what bodies mean, or how the tiers work inside.

mod ask;
mod builder;
mod charge;
mod doomed;
mod events;
mod explain;
mod flight;
mod forget;
mod gate;
mod get;
mod graces;
mod heavy;
mod invalidate;
mod latency;
mod line;
mod list;
mod load;
mod look;
mod namespace;
mod outcome;
#[cfg(any(feature = "tower", feature = "typed"))]
mod owed;
mod policy;
#[cfg(test)]
mod races;
mod read;
mod recency;
mod recovery;
mod remembered;
mod retry;
mod seldom;
mod set;
mod spawn;
mod state;
mod stats;
mod sweeper;
mod timer;
mod ttl;
#[cfg(feature = "typed")]
mod typed;
mod verify;
mod warm;
mod write;

use std::fmt;
use std::sync::Arc;

/// What listeners are told of removals.
#[cfg(feature = "server")]
pub(crate) use crate::memory::Removal;
/// How the allocator is told to return large buffers.
#[cfg(feature = "server")]
pub(crate) use crate::memory::map_large_buffers;
/// Why entries leave memory, and the name that namespaces beyond the most are counted under.
pub use crate::memory::{Cause, OVERFLOW_NAME};
pub use builder::{CacheBuilder, Durability};
pub use charge::Charge;
pub use events::{Event, Subscription};
pub use explain::{Explanation, StoredCopy};
pub use gate::{Breaker, SourceStatus};
/// What keeps a large answer's turn while it is sent.
#[cfg(feature = "server")]
pub(crate) use heavy::Remains;
pub use heavy::Turn;
pub use invalidate::Selector;
#[cfg(feature = "server")]
pub(crate) use line::{Line, Share};
pub use list::{Filter, ListCursor, Listed, Listing};
pub use namespace::InNamespace;
pub use outcome::{Answer, Outcome};
#[cfg(any(feature = "tower", feature = "typed"))]
pub(crate) use owed::Owed;
pub use policy::Policy;
pub use spawn::Task;
pub use stats::{Happened, Latencies, MissReason, NamespaceStats, Operation, Stats};
pub use ttl::Ttl;
#[cfg(feature = "typed")]
pub(crate) use typed::VALUE_MEDIA_TYPE;
pub use warm::{WarmReport, Warmed, Warmth};
pub use write::{SetOptions, TAGS_MAX};

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Namespace, Parsed};
use crate::memory::Limits;

use recovery::Recovery;
use state::State;
use sweeper::Sweeper;

/// A bounded cache with its own persistent store; cheap to clone, every clone is the same cache.
///
/// ```
/// let cache = hifz::Cache::builder().memory(16 << 20).open()?;
/// cache.set("greetings:en", "good morning")?;
/// assert_eq!(cache.get("greetings:en")?.unwrap().body(), b"good morning");
/// assert_eq!(cache.invalidate_prefix("greetings:")?, 1);
/// assert!(cache.get("greetings:en")?.is_none());
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

    fn shared_state(&self) -> Arc<State> {
        self.0.state.clone()
    }

    /// The cache as seen from inside one namespace: keys without it, and nothing beyond it within reach.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] says which rule `namespace` breaks.
    pub fn namespace(&self, namespace: impl Parsed<Namespace>) -> Result<InNamespace> {
        Ok(InNamespace::new(self.clone(), namespace.parsed()?))
    }

    /// Changes the bound of the cache file. Lowered below what the file has, it gives up the coldest at once and shrinks
    /// at the next clean stop. Without a disk tier nothing happens.
    pub fn set_disk(&self, bytes: u64) {
        if let Some(disk) = &self.state().disk {
            disk.set_bytes_max(bytes);
        }
    }

    /// Changes the memory limit; what is over it leaves before this returns.
    pub fn set_memory(&self, bytes: u64) {
        let state = self.state();
        state.memory.set_limits(Limits { bytes, entries: state.entries_max });
        state.heavy.set_memory(bytes);
        if let Some(disk) = &state.disk {
            disk.set_memory(builder::queue_bytes_max(bytes), builder::index_bytes_max(bytes));
        }
    }

    /// Charges what the program holds beside the cache to the cache's memory limit; nothing yet, see [`Charge::set`].
    ///
    /// ```
    /// # let cache = hifz::Cache::builder().memory(16 << 20).open()?;
    /// let mut charge = cache.charge();
    /// let buffer = vec![0_u8; 1 << 20];
    /// charge.set(buffer.len() as u64);
    /// assert_eq!(cache.stats().memory_withheld_bytes, 1 << 20);
    /// # drop(charge);
    /// # assert_eq!(cache.stats().memory_withheld_bytes, 0);
    /// # cache.close()?;
    /// # Ok::<(), hifz::Error>(())
    /// ```
    #[must_use]
    pub fn charge(&self) -> Charge {
        Charge::new(self.shared_state())
    }

    /// Waits for a turn to make something that takes so many bytes for a while: what is made at a time, large answers
    /// that are being loaded included, is bounded, and entries give way to it as to a [`Charge`]. Turns come in the order
    /// in which they are asked for; nobody may ask who has one already.
    ///
    /// # Errors
    /// [`ErrorKind::MemoryTooSmall`] when that is more than [`Cache::turn_alone_bytes_max`].
    pub async fn turn(&self, bytes: u64) -> Result<Turn> {
        heavy::turn(&self.0.state, bytes).await
    }

    /// So many bytes all turns together are for.
    #[must_use]
    pub fn turn_bytes_max(&self) -> u64 {
        heavy::together(self.memory_limit())
    }

    /// So many bytes a single turn may be for, which then is the only one.
    #[must_use]
    pub fn turn_alone_bytes_max(&self) -> u64 {
        heavy::alone(self.memory_limit())
    }

    /// Whether memory still keeps this very entry under its key.
    #[must_use]
    pub fn keeps(&self, entry: &Entry) -> bool {
        self.state().memory.peek(entry.key()).is_some_and(|own| own.is_same(entry))
    }

    /// The memory limit, in bytes.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        self.state().memory.limit_bytes()
    }

    /// Tells from now on what leaves memory and why, within a quarter of a second, and at once what is invalidated or
    /// changes its state.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.state().events.subscribe(&self.state().memory)
    }

    /// Tells listeners of something that happened around the cache.
    pub fn tell(&self, event: Event) {
        self.state().events.tell(|| event);
    }

    /// The number of the last event told; see [`Subscription::next_numbered`].
    #[must_use]
    pub fn last_event(&self) -> u64 {
        self.state().events.last()
    }

    /// The lifetimes of `namespace`.
    #[must_use]
    pub fn policy(&self, namespace: &str) -> Policy {
        self.state().policy(namespace)
    }

    /// Gives `namespace` another policy from now on. Lifetimes of what stands there stay as they are; windows and
    /// everything else follow the new one at once.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when too many namespaces have a share of their own.
    pub fn set_policy(&self, namespace: &Namespace, policy: Policy) -> Result<()> {
        self.state().set_policy(Some(namespace.as_str()), policy)
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
}

impl Shared {
    fn close(&self) -> Result<()> {
        if !self.state.close() {
            return Ok(());
        }
        self.recovery.stop();
        self.sweeper.stop();
        recency::tell(&self.state);
        self.state.loads.close();
        self.state.timer.close();
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
