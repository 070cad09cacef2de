//! The parts a cache is made of; every other engine file takes `&State`.
//!
//! Lock order: the turn of a key, then a memory shard, then the flight table, the doomed or what recovery remembers, then the queue of the disk tier. No
//! two of the same kind are held at once, and nothing is awaited or logged under any of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::disk::{Approach, Disk};
use crate::entry::Entry;
use crate::key::KeyRef;
use crate::memory::{Generations, Held, Memory, resident_now};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, RwLock};

use super::doomed::Doomed;
use super::events::{Event, Events};
use super::flight::Flights;
use super::gate::Gates;
use super::graces::{Graces, Tiers};
use super::heavy::Heavy;
use super::outcome::{self, Outcome};
use super::policy::{Policies, Policy};
use super::recovery::Recovering;
use super::remembered::Remembered;
use super::seldom::Repeated;
use super::spawn::Spawner;
use super::stats::{Counters, Happened, MissReason, NamespaceStats, Operation, Stats};
use super::timer::Timer;

/// Everything one cache shares between its handles and threads.
#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Clock,
    pub(super) memory: Memory,
    /// `None` with `disk = 0`.
    pub(super) disk: Option<Disk>,
    pub(super) generations: Generations,
    pub(super) doomed: Doomed,
    pub(super) flights: Flights,
    pub(super) recovering: Recovering,
    policies: RwLock<Policies>,
    /// Whether any policy is eager; only [`State::set_policy`] changes it.
    any_eager: AtomicBool,
    /// How long entries are kept past their lifetime.
    pub(super) graces: Graces,
    /// Keys that their source has nothing under.
    pub(super) absent: Remembered,
    /// Keys whose load has just failed.
    pub(super) failed: Remembered,
    /// Keys whose source said not to keep the value.
    pub(super) unstored: Remembered,
    /// What stands before each source.
    pub(super) gates: Gates,
    /// Lines of the log that an outage would repeat.
    pub(super) seldom: Repeated,
    pub(super) timer: Timer,
    /// Where loads run.
    pub(super) spawner: Spawner,
    pub(super) counters: Counters,
    pub(super) events: Events,
    /// The largest value that is kept.
    pub(super) value_bytes_max: u64,
    /// The most entries in memory.
    pub(super) entries_max: Option<u64>,
    /// Whether a write is acknowledged only once it is on disk: durability `always`.
    pub(super) flushes_writes: bool,
    /// Whether anything is ever waited for: any durability but `none`.
    pub(super) flushes_at_all: bool,
    /// Bounds how many callers that must not block look at the disk at once, each on a thread of its own.
    disk_looks: Arc<Semaphore>,
    /// Bounds how many loads ask a source at once.
    pub(super) loads: Semaphore,
    /// How many those are.
    pub(super) loads_max: usize,
    /// What the program holds on the cache's account; each [`Charge`](super::Charge) counts its own in and out.
    pub(super) charged_bytes: AtomicU64,
    /// What all loads under way hold; each counts its own in and out.
    pub(super) loading_bytes: Arc<AtomicU64>,
    /// What is large and made for a while takes its turn here.
    pub(super) heavy: Heavy,
    /// The number the next write, load or invalidation takes; only [`State::next_sequence`] moves it.
    sequence: AtomicU64,
    closed: AtomicBool,
    /// Held by whoever writes a key from taking its number to its place in the tiers, so that of two writes that
    /// overlap the one with the higher number is the later one everywhere. By the key's hash; guards no data.
    turns: [Mutex<()>; TURNS],
}

/// What a [`State`] is put together from.
pub(super) struct Assembly {
    pub(super) clock: Clock,
    pub(super) memory: Memory,
    pub(super) disk: Option<Disk>,
    pub(super) generations: Generations,
    pub(super) policies: Policies,
    pub(super) value_bytes_max: u64,
    pub(super) entries_max: Option<u64>,
    pub(super) flushes_writes: bool,
    pub(super) flushes_at_all: bool,
    pub(super) loads_max: usize,
    pub(super) spawner: Spawner,
    pub(super) first_sequence: u64,
}

impl State {
    pub(super) fn new(parts: Assembly) -> Self {
        let graces = Graces::default();
        graces.set_all(Tiers { memory: &parts.memory, disk: parts.disk.as_ref() }, &parts.policies);
        let memory_bytes = parts.memory.limit_bytes();
        Self {
            clock: parts.clock,
            memory: parts.memory,
            disk: parts.disk,
            generations: parts.generations,
            doomed: Doomed::default(),
            flights: Flights::default(),
            recovering: Recovering::default(),
            any_eager: AtomicBool::new(parts.policies.are_any_eager()),
            policies: RwLock::new(parts.policies),
            graces,
            absent: Remembered::default(),
            failed: Remembered::default(),
            unstored: Remembered::default(),
            gates: Gates::default(),
            seldom: Repeated::default(),
            timer: Timer::default(),
            spawner: parts.spawner,
            counters: Counters::new(),
            events: Events::new(parts.first_sequence),
            value_bytes_max: parts.value_bytes_max,
            entries_max: parts.entries_max,
            flushes_writes: parts.flushes_writes,
            flushes_at_all: parts.flushes_at_all,
            disk_looks: Arc::new(Semaphore::new(DISK_LOOKS_MAX)),
            loads: Semaphore::new(parts.loads_max),
            loads_max: parts.loads_max,
            charged_bytes: AtomicU64::new(0),
            loading_bytes: Arc::default(),
            heavy: Heavy::new(memory_bytes),
            sequence: AtomicU64::new(parts.first_sequence.max(1)),
            closed: AtomicBool::new(false),
            turns: [const { Mutex::new(()) }; TURNS],
        }
    }

    /// A number higher than every one handed out before.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for the turn to write `key`.
    pub(super) fn turn(&self, key: KeyRef<'_>) -> Turn<'_> {
        let approach = self.disk.as_ref().map(|disk| disk.approach(key));
        let lane = approach.map_or_else(
            || xxhash_rust::xxh3::xxh3_64(key.as_str().as_bytes()).to_le_bytes()[0],
            Approach::lane,
        );
        Turn { approach, _alone: self.turns[usize::from(lane) % TURNS].lock() }
    }

    /// What memory holds under `key`, if it may be served now, or why there is nothing.
    #[inline]
    pub(super) fn find(&self, key: KeyRef<'_>) -> Result<Entry, MissReason> {
        let (entry, span) = self.memory.get_and_span(key).ok_or(MissReason::Absent)?;
        if !self.generations.is_alive(&entry) {
            return Err(MissReason::Invalidated);
        }
        if entry.is_fresh_within(span, &self.clock) { Ok(entry) } else { Err(MissReason::Expired) }
    }

    /// Counts an answer with this entry, and how long it took if it was timed.
    #[inline]
    pub(super) fn count_hit(&self, entry: &Entry, begun: Option<Instant>) {
        // An entry that never stood in memory has no number yet.
        let number = match entry.namespace_number() {
            0 => self.memory.number_of(entry.key().namespace()),
            number => number,
        };
        self.counters.record(number, Outcome::Hit);
        outcome::log_hit(entry);
        if let Some(begun) = begun {
            self.counters.hit_took(begun);
            self.events.tell(|| Event::Answered { key: entry.key().to_key(), outcome: Outcome::Hit });
        }
    }

    /// What memory holds under `key`, fresh or past its lifetime, if nothing has killed it.
    pub(super) fn alive_in_memory(&self, key: KeyRef<'_>) -> Option<Entry> {
        self.memory.get(key).filter(|entry| self.generations.is_alive(entry))
    }

    /// What the disk tier holds under `key`, fresh or past its lifetime, read on a thread that may block.
    pub(super) async fn read_disk(self: &Arc<Self>, key: KeyRef<'_>) -> Option<Entry> {
        if !self.disk.as_ref()?.may_contain(key) {
            return None;
        }
        let key = key.to_key();
        self.look_at_disk(move |state| state.disk.as_ref()?.get(key.as_key_ref())).await
    }

    /// Runs `look` on a thread that may block. So many at once; the others wait here, without a thread, and those who
    /// give up meanwhile have cost none.
    pub(super) async fn look_at_disk<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let state = self.clone();
        // The semaphore is never closed; without a permit it is only not counted.
        let permit = self.disk_looks.clone().acquire_owned().await.ok();
        blocking::unblock(move || {
            let found = look(&state);
            drop(permit);
            found
        })
        .await
    }

    /// The tiers, to be told of graces.
    pub(super) fn tiers(&self) -> Tiers<'_> {
        Tiers { memory: &self.memory, disk: self.disk.as_ref() }
    }

    /// The policy of `namespace`.
    pub(super) fn policy(&self, namespace: &str) -> Policy {
        self.policies.read().of(namespace)
    }

    /// Whether any namespace has its entries loaded ahead of time.
    pub(super) fn is_any_eager(&self) -> bool {
        self.any_eager.load(Ordering::Relaxed)
    }

    /// Sets the policy of `namespace` from now on; `None` for all that have none of their own.
    pub(super) fn set_policy(&self, namespace: Option<&str>, policy: Policy) -> crate::error::Result<()> {
        let mut policies = self.policies.write();
        match namespace {
            Some(namespace) => {
                self.memory.set_share(namespace, policy.max_share)?;
                policies.set(namespace, policy);
            }
            None => policies.set_default(policy),
        }
        self.any_eager.store(policies.are_any_eager(), Ordering::Relaxed);
        self.graces.set_all(self.tiers(), &policies);
        Ok(())
    }

    /// Forgets what is remembered of the keys that `concerns` names. To be called after their flights are superseded.
    pub(super) fn forget_where(&self, concerns: impl Fn(KeyRef<'_>) -> bool) {
        self.absent.forget_where(|key| concerns(KeyRef::known(key)));
    }

    /// Counts an answer of any kind.
    pub(super) fn count(&self, key: KeyRef<'_>, outcome: Outcome) {
        self.counters.record(self.memory.number_of(key.namespace()), outcome);
    }

    /// Counts a question that found nothing to serve.
    pub(super) fn count_miss(&self, key: KeyRef<'_>, reason: MissReason) {
        self.counters.miss(self.memory.number_of(key.namespace()), reason);
    }

    /// Counts a question to a source, and how long the source took.
    pub(super) fn count_load(&self, key: KeyRef<'_>, took: Duration) {
        self.count_done(key.namespace(), Operation::Load, 1);
        self.counters.source_took(took);
    }

    /// Counts something done in a namespace.
    pub(super) fn count_done(&self, namespace: &str, operation: Operation, count: u64) {
        self.counters.did(self.memory.number_of(namespace), operation, count);
    }

    /// Brings what entries must give way to up to date: the disk tier's memory, what loads hold, and what the program does on
    /// the cache's account.
    pub(super) fn charge_beside(&self) {
        let of_disk = self.disk.as_ref().map_or(0, Disk::memory_bytes);
        let of_loads = self.loading_bytes.load(Ordering::Relaxed);
        self.memory.charge_beside(of_disk + of_loads + self.charged_bytes.load(Ordering::Relaxed));
    }

    /// All figures at this moment.
    pub(super) fn stats(&self) -> Stats {
        let usage = self.memory.usage();
        let mut all = Happened::default();
        let mut namespaces = Vec::new();
        for account in self.memory.accounts() {
            let happened = self.counters.of(account.number).with_removals(account.removals);
            all.add(&happened);
            if account.held != Held::default() || !happened.is_nothing() {
                namespaces.push(NamespaceStats { name: account.name, held: account.held, happened });
            }
        }
        Stats {
            hits: all.hits(),
            misses: all.misses(),
            entries: usage.all.entries,
            // Entries get what is left, so that a full cache is at its limit whoever takes it.
            memory_charged_bytes: (usage.all.bytes + usage.withheld_bytes).min(usage.limit_bytes),
            memory_limit_bytes: usage.limit_bytes,
            memory_withheld_bytes: usage.withheld_bytes,
            memory_resident_bytes: resident_now(),
            all,
            namespaces,
            hit_latencies: self.counters.hit_latencies(),
            source_latencies: self.counters.source_latencies(),
        }
    }

    /// Whether `entry` is fresh and of a living generation.
    pub(super) fn is_live(&self, entry: &Entry) -> bool {
        entry.is_fresh_by(&self.clock) && self.generations.is_alive(entry)
    }

    /// Whether `entry`, found on disk, is live. When it was last used is not known there; that it was stored is.
    pub(super) fn is_live_record(&self, entry: &Entry) -> bool {
        !self.is_idle_record(entry) && self.is_live(entry)
    }

    /// Whether `entry`, found on disk, has not been used for too long: what is known is when it was stored.
    pub(super) fn is_idle_record(&self, entry: &Entry) -> bool {
        let idle_ttl = self.policy(entry.key().namespace()).idle_ttl;
        idle_ttl.is_some_and(|by| entry.stored_at().after(by) <= self.clock.now())
    }

    /// Marks the cache as closed; true for the first to do so.
    pub(super) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// While it is held, nobody else writes its key.
pub(super) struct Turn<'s> {
    /// To the disk tier, for the write that this is for.
    pub(super) approach: Option<Approach<'s>>,
    _alone: MutexGuard<'s, ()>,
}

/// More than any disk does at once, and few enough that their threads cost little memory.
const DISK_LOOKS_MAX: usize = 32;

/// So many writes of different keys go on beside each other.
const TURNS: usize = 64;

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::datadir::DataDir;
    use crate::engine::Cache;

    #[test]
    fn so_many_look_at_the_disk_at_once_and_memory_answers_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let open = || {
            let directory = DataDir::open(temp.path()).unwrap();
            Cache::builder().memory(4 << 20).max_entries(Some(1)).data_dir(directory).open().unwrap()
        };
        let cache = open();
        cache.set("a:1", "on disk").unwrap();
        cache.flush().unwrap();
        cache.set("a:2", "in memory").unwrap();
        let looks = cache.state().disk_looks.clone();
        let all = looks.clone().try_acquire_many_owned(u32::try_from(DISK_LOOKS_MAX).unwrap()).unwrap();
        block_on(async {
            let mut waits = Box::pin(cache.get_async("a:1"));
            assert!(poll_once(&mut waits).await.is_none(), "it has no thread");
            assert!(poll_once(cache.get_async("a:2")).await.unwrap().unwrap().is_some());
            drop(all);
            assert_eq!(waits.await.unwrap().unwrap().body(), b"on disk");
        });
        assert_eq!(looks.available_permits(), DISK_LOOKS_MAX);
    }
}
