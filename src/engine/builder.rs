//! How a cache is put together: settings in, a running [`Cache`] out.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::datadir::DataDir;
use crate::disk::{Disk, DiskOptions, Floor};
use crate::error::Result;
use crate::key::Namespace;
use crate::memory::{Generations, Limits, Memory, resident_now};

pub use crate::disk::Durability;

use super::Cache;
use super::policy::{Policies, Policy};
use super::spawn::{Spawner, Task};
use super::state::{Assembly, State};

/// Where a builder was told to run loads.
#[derive(Clone)]
struct Spawn(Arc<dyn Fn(Task) + Send + Sync>);

impl std::fmt::Debug for Spawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spawn")
    }
}

/// Settings of a cache that is not yet open.
#[derive(Debug, Clone)]
#[must_use]
pub struct CacheBuilder {
    memory: u64,
    max_entries: Option<u64>,
    disk: u64,
    durability: Durability,
    flush_interval: Duration,
    loads_max: usize,
    value_bytes_max: u64,
    policies: Policies,
    directory: Option<DataDir>,
    clock: Clock,
    spawn: Option<Spawn>,
    is_process_bounded: bool,
}

impl CacheBuilder {
    pub(super) fn new() -> Self {
        Self {
            memory: 500_000_000,
            max_entries: None,
            disk: 2_200_000_000,
            durability: Durability::Interval,
            flush_interval: Duration::from_secs(1),
            loads_max: 64,
            value_bytes_max: 32 << 20,
            policies: Policies::default(),
            directory: None,
            clock: Clock::system(),
            spawn: None,
            is_process_bounded: false,
        }
    }

    /// The most bytes in memory. Default: 500 MB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// The most entries in memory. Default: as many as fit.
    pub fn max_entries(mut self, entries: Option<u64>) -> Self {
        self.max_entries = entries;
        self
    }

    /// Persists into this directory. Default: memory only.
    pub fn data_dir(mut self, directory: DataDir) -> Self {
        self.directory = Some(directory);
        self
    }

    /// The most bytes of the cache file; 0 for memory only. Default: 2.2 GB. Without [`CacheBuilder::data_dir`] it has
    /// no effect.
    pub fn disk(mut self, bytes: u64) -> Self {
        self.disk = bytes;
        self
    }

    /// When values reach the disk. Default: [`Durability::Interval`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a value may wait for the disk. Default: 1 s.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = interval;
        self
    }

    /// How many loads may ask sources at once. Default: 64.
    pub fn loads_max(mut self, loads: usize) -> Self {
        self.loads_max = loads;
        self
    }

    /// The largest value that is kept, in bytes. Default: 32 MiB.
    pub fn value_max(mut self, bytes: u64) -> Self {
        self.value_bytes_max = bytes;
        self
    }

    /// The lifetimes in `namespace`. Default: fresh for one hour.
    pub fn policy(mut self, namespace: &Namespace, policy: Policy) -> Self {
        self.policies.set(namespace.as_str(), policy);
        self
    }

    /// The policy of every namespace that has none of its own. Default: fresh for one hour.
    pub fn default_policy(mut self, policy: Policy) -> Self {
        self.policies.set_default(policy);
        self
    }

    /// Runs loads with `spawn`, which must have the future it is given polled to its end; a load goes on when the
    /// caller who began it has gone. Default: the tokio runtime the caller runs on, else threads of its own.
    pub fn spawner(mut self, spawn: impl Fn(Task) + Send + Sync + 'static) -> Self {
        self.spawn = Some(Spawn(Arc::new(spawn)));
        self
    }

    /// The clock deadlines are measured by. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Bounds the growth of the whole process by the memory limit and a little more, not only what entries are charged:
    /// when the resident size passes that, free memory is returned to the system, and what that does not bring, the
    /// cache gives up. For a process that is mainly this cache. Default: off.
    pub fn bound_process(mut self, is_process_bounded: bool) -> Self {
        self.is_process_bounded = is_process_bounded;
        self
    }

    /// Opens the cache and starts its threads; what an earlier process persisted comes back in the background.
    ///
    /// # Errors
    /// When a thread cannot be started, or the data directory cannot be used at all. A cache file that cannot be
    /// trusted is no error: it is set aside and the start is cold.
    pub fn open(self) -> Result<Cache> {
        let generations = Generations::default();
        let mut first_sequence = 1;
        let mut disk = None;
        if let Some(directory) = self.directory.filter(|_| self.disk > 0) {
            let options = DiskOptions {
                bytes_max: self.disk,
                durability: self.durability,
                flush_interval: self.flush_interval,
                queue_bytes_max: queue_bytes_max(self.memory),
                index_bytes_max: index_bytes_max(self.memory),
            };
            let (opened, truth) = Disk::open(&directory, options, self.clock.clone())?;
            restore(&generations, &truth.floors);
            first_sequence = truth.first_sequence;
            disk = Some(opened);
        }
        let memory =
            Memory::new(Limits { bytes: self.memory, entries: self.max_entries }, self.clock.clone());
        if self.is_process_bounded {
            memory.watch_resident(resident_now().unwrap_or(0));
        }
        for (namespace, idle_ttl) in self.policies.idle_ttls() {
            memory.set_idle(namespace, Some(idle_ttl));
        }
        for (namespace, share) in self.policies.shares() {
            memory.set_share(namespace, share)?;
        }
        Cache::assemble(State::new(Assembly {
            clock: self.clock,
            memory,
            disk,
            generations,
            policies: self.policies,
            value_bytes_max: self.value_bytes_max,
            entries_max: self.max_entries,
            flushes_writes: self.durability == Durability::Always,
            flushes_at_all: self.durability != Durability::None,
            loads_max: self.loads_max,
            spawner: Spawner::new(self.spawn.map(|spawn| spawn.0), self.loads_max),
            first_sequence,
        }))
    }
}

fn restore(generations: &Generations, floors: &[(Floor, u64)]) {
    for (floor, sequence) in floors {
        match floor {
            Floor::Namespace(namespace) => generations.raise_namespace(namespace.as_str(), *sequence),
            Floor::Tag(tag) => generations.raise_tag(tag.as_str(), *sequence),
            // The disk tier asks its patterns itself, and memory is empty at the start.
            Floor::Pattern(_) => {}
            Floor::All => generations.raise_all(*sequence),
        }
    }
}

/// How many bytes may wait for the disk beside a tier of so many.
pub(super) fn queue_bytes_max(memory: u64) -> u64 {
    QUEUE_BYTES_MAX.min(memory / 8)
}

/// How many the index of what is on disk may take.
pub(super) fn index_bytes_max(memory: u64) -> u64 {
    memory / 2
}

/// The most bytes that wait for the disk.
const QUEUE_BYTES_MAX: u64 = 32 << 20;
