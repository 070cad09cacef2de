//! The memory tier: entries by key, the least recently used of all leaving first, within a limit in bytes.
//!
//! Promises:
//! - per key linearizable: who reads after a write, removal or eviction was acknowledged sees it, and an older entry
//!   never takes the place of a newer one;
//! - after an insertion the charged bytes are within the limit (a large tier may pass it by its last settlement, a
//!   thousandth, which is kept back from the limit beforehand);
//! - up to 4096 entries the order of eviction is exactly that of last use over the whole tier; beyond, touches that
//!   lie less than 256 touches apart may count in either order;
//! - what is over is found and taken out in bounded steps, without a full scan.
//!
//! An entry belongs to one tier at a time. It does not know sources, disks, generations or policies of freshness: it
//! may hand out an expired entry, and whoever asks decides. It starts no thread.

mod ahead;
mod budget;
mod counts;
mod events;
mod eviction;
mod expiry;
mod generations;
mod huge;
mod idle;
#[cfg(test)]
mod model;
mod namespaces;
#[cfg(test)]
mod races;
mod release;
mod resident;
mod scan;
mod shard;
mod state;
mod table;
mod ticks;

use std::time::Duration;

pub use self::budget::Limits;
pub(crate) use self::counts::Counts;
pub use self::events::{Cause, Removal};
pub use self::expiry::Swept;
pub use self::generations::{FLOORS_MAX, FloorList, Generations};
pub use self::namespaces::{NAMESPACES_MAX, OVERFLOW_NAME};
pub use self::release::map_large_buffers;
pub use self::resident::resident_now;
pub use self::scan::{Cursor, Scanned, Verdict};
use self::shard::Tally;
pub use self::state::Insertion;
use self::state::State;
use crate::clock::{Clock, Span, Timestamp};
use crate::entry::{Entry, Parts};
use crate::error::Result;
use crate::key::KeyRef;

/// A bounded map of entries, shared by reference; every call may be made from any thread.
#[derive(Debug)]
pub struct Memory(State);

impl Memory {
    /// An empty tier with these limits.
    #[must_use]
    pub fn new(limits: Limits, clock: Clock) -> Self {
        Self(State::new(limits, clock))
    }

    /// Sets other limits; what is over them leaves before this returns, in steps between which others go on.
    pub fn set_limits(&self, limits: Limits) {
        self.0.budget.set(limits);
        self.0.settle_all();
        self.0.evict();
        for (number, namespace) in self.0.namespaces.all() {
            if namespace.class() != 0 {
                self.0.evict_from(number);
            }
        }
    }

    /// Holds the resident size of the process within `base_bytes` plus the limit and a little more from now on: free
    /// memory is returned to the system, and what that does not bring is given up of the limit. `base_bytes` is what
    /// the process holds without the tier; 0 ends it.
    pub fn watch_resident(&self, base_bytes: u64) {
        self.0.resident.watch(base_bytes);
    }

    /// Looks at the resident size now, as insertions do from time to time; for a tick while nobody inserts.
    pub fn look_at_resident(&self) {
        self.0.look_at_resident();
    }

    /// Gathers entries into huge pages where they stand close, so that look-ups in a large tier cost less: one bounded
    /// step of a few milliseconds, for a thread that nobody waits for. Says whether more is to do soon.
    pub fn gather(&self) -> bool {
        self.0.gather()
    }

    /// Gives up this much of the limit, from now on, to memory that the process holds beside the entries.
    pub fn withhold(&self, bytes: u64) {
        self.0.budget.withhold(bytes);
        self.0.evict();
    }

    /// Charges the limit with what other parts of the cache hold (indexes, queues) instead of what was charged before;
    /// entries give way to it, down to a quarter of the limit.
    pub fn charge_beside(&self, bytes: u64) {
        let bytes = bytes.min(self.0.budget.bytes_max() / 4 * 3);
        let more = bytes.saturating_sub(self.0.budget.beside());
        self.0.budget.set_beside(bytes);
        self.0.evict();
        self.0.make_room_for(more);
    }

    /// Sets the part of the limit, 0 to 1, that one namespace may fill; it then evicts its own before others.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`](crate::ErrorKind::Settings) when 255 namespaces have shares already.
    pub fn set_share(&self, namespace: &str, share: f64) -> Result<()> {
        self.0.set_share(namespace, share)
    }

    /// Sets how long the sweeper leaves entries of a namespace after their deadline, for stale windows.
    pub fn set_grace(&self, namespace: &str, grace: Duration) {
        self.0.set_grace(namespace, u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    }

    /// Sets how long entries of a namespace live that nobody uses; `None` for as long as their deadline says. What
    /// stands already counts as used now.
    pub fn set_idle(&self, namespace: &str, lifetime: Option<Duration>) {
        let lifetime_ms = lifetime.map_or(0, |by| u64::try_from(by.as_millis()).unwrap_or(u64::MAX).max(1));
        self.0.set_idle(namespace, lifetime_ms);
    }

    /// What stands under `key`, which counts as a use. It may have expired: ask the entry.
    #[must_use]
    pub fn get(&self, key: KeyRef<'_>) -> Option<Entry> {
        self.0.get(key, |_| ()).map(|(entry, ())| entry)
    }

    /// As [`Memory::get`], with the span of the tier's clock for [`Entry::is_fresh_within`]: it is read while the
    /// processor waits for the index, where it costs least.
    #[must_use]
    #[inline]
    pub fn get_and_span(&self, key: KeyRef<'_>) -> Option<(Entry, Span)> {
        self.0.get(key, Clock::span)
    }

    /// Brings what stands under `keys` nearer to the processor, for whoever is about to ask for many at once. Changes
    /// nothing else.
    pub(crate) fn read_ahead(&self, keys: &[KeyRef<'_>]) {
        self.0.read_ahead(keys);
    }

    /// How many keys [`Memory::read_ahead`] takes at once.
    pub(crate) const READ_AHEAD: usize = ahead::READ_AHEAD;

    /// What stands under `key`, without counting as a use.
    #[must_use]
    pub fn peek(&self, key: KeyRef<'_>) -> Option<Entry> {
        self.0.peek(key)
    }

    /// Puts `entry` under its key, unless a newer one stands there or `admit` says no. `admit` is asked while nothing
    /// else can happen to the key; it must be short, and not call this tier. The tier remembers no sequence of what
    /// left it: that nothing newer was written and evicted since is for `admit` to know.
    pub fn insert(&self, entry: Entry, admit: impl FnOnce() -> bool) -> Insertion {
        let sequence = entry.sequence();
        self.0.insert(entry, |old| old.is_none_or(|old| old.sequence() <= sequence), |_| admit())
    }

    /// As [`Memory::insert`], of an entry that is made here, which costs less: it is made while the processor waits for
    /// the index, and, since nobody else holds it, can take the place of what it replaces in memory too. `admit` is shown
    /// it.
    ///
    /// # Panics
    /// As [`Entry::new`].
    pub fn put(&self, key: KeyRef<'_>, parts: &Parts<'_>, admit: impl FnOnce(&Entry) -> bool) -> Insertion {
        self.put_shared(key, parts, |entry| admit(entry))
    }

    /// As [`Memory::put`], with an `admit` that may share the entry.
    pub(crate) fn put_shared(
        &self,
        key: KeyRef<'_>,
        parts: &Parts<'_>,
        admit: impl FnOnce(&mut Entry) -> bool,
    ) -> Insertion {
        self.0.put(key, parts, |old| old.is_none_or(|old| old.sequence() <= parts.sequence), admit)
    }

    /// As [`Memory::insert`], for a copy read back from elsewhere: where the same write stands already, it stays, since
    /// its deadline may have been moved.
    pub fn restore(&self, entry: Entry, admit: impl FnOnce() -> bool) -> Insertion {
        let sequence = entry.sequence();
        self.0.insert(entry, |old| old.is_none_or(|old| old.sequence() < sequence), |_| admit())
    }

    /// Puts `new` in the place of exactly `old`, which has its key; [`Insertion::Outdated`] when that no longer stands.
    /// Then `then` is called while nothing else can happen to the key.
    pub fn exchange(&self, old: &Entry, new: Entry, then: impl FnOnce()) -> Insertion {
        let admit = |_: &mut Entry| {
            then();
            true
        };
        self.0.insert(new, |stands| stands.is_some_and(|stands| stands.is_same(old)), admit)
    }

    /// What the largest entry of a namespace that is kept may weigh.
    #[must_use]
    pub fn weight_max(&self, namespace: &str) -> u64 {
        self.0.weight_max(self.0.namespaces.known(namespace.as_bytes()).unwrap_or(0))
    }

    /// Takes out what stands under `key`, and tells listeners it was deleted.
    pub fn remove(&self, key: KeyRef<'_>) -> Option<Entry> {
        self.0.remove(key, Cause::Deleted)
    }

    /// Takes out exactly this entry, if it still stands, for the cause given; says whether it did.
    pub fn remove_exactly(&self, entry: &Entry, cause: Cause) -> bool {
        self.0.remove_if(entry.key(), cause, |stands| stands.is_same(entry)).is_some()
    }

    /// Takes out entries whose time and grace are over at `now`: one bounded step.
    pub fn sweep(&self, now: Timestamp) -> Swept {
        self.0.sweep(now)
    }

    /// Shows entries to `visit` from `from` on, about `steps_max` of them, and removes those it says to.
    pub fn scan(&self, from: Cursor, steps_max: usize, visit: impl FnMut(&Entry) -> Verdict) -> Scanned {
        let mut visit = visit;
        self.0.scan(from, steps_max, |entry, _| visit(entry))
    }

    /// As [`Memory::scan`], with how many uses of anything ago each entry was used, and without removing.
    pub fn scan_ages(&self, from: Cursor, steps_max: usize, mut visit: impl FnMut(&Entry, u64)) -> Scanned {
        self.0.scan(from, steps_max, |entry, age| {
            visit(entry, age);
            Verdict::Keep
        })
    }

    /// As [`Memory::restore`], but as if the entry had been used before everything that `past` was given to earlier: for
    /// entries that come back the most recently used first.
    pub fn restore_past(&self, entry: &Entry, past: &mut Past, admit: impl FnOnce() -> bool) -> Insertion {
        let insertion = self.restore(entry.clone(), admit);
        past.left = past.left.saturating_sub(1);
        if insertion == Insertion::Inserted {
            self.0.set_last_use(entry.key(), past.first + past.left);
        }
        insertion
    }

    /// Takes out everything, in steps; says how many entries.
    pub fn clear(&self, cause: Cause) -> u64 {
        let mut removed = 0;
        let mut next = Some(Cursor::default());
        while let Some(at) = next {
            let scanned = self.0.scan(at, 1024, |_, _| Verdict::Remove(cause));
            removed += scanned.removed;
            next = scanned.next;
        }
        removed
    }

    /// What the tier holds and may hold.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut all = Tally::default();
        for shard in &self.0.shards {
            for tally in &shard.inner.read().tallies {
                all.add(*tally);
            }
        }
        Usage {
            all: all.into(),
            limit_bytes: self.limit_bytes(),
            withheld_bytes: self.0.budget.withheld() + self.0.budget.beside(),
        }
    }

    /// The memory limit, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.0.budget.bytes_max()
    }

    /// How many entries there are: exactly of a small tier, of a large one but for what its shards have not settled yet.
    /// One number, where [`Memory::usage`] asks every shard.
    pub(crate) fn entries_about(&self) -> u64 {
        u64::try_from(self.0.budget.sums().entries).unwrap_or(0)
    }

    /// What each namespace holds; those that hold nothing are left out.
    #[must_use]
    pub fn usage_by_namespace(&self) -> Vec<(String, Held)> {
        let held = self.accounts().filter(|account| account.held.entries > 0);
        held.map(|account| (account.name, account.held)).collect()
    }

    /// The number of a namespace, given to it at its first time.
    pub(crate) fn number_of(&self, namespace: &str) -> u16 {
        self.0.namespaces.number(namespace.as_bytes())
    }

    /// What each namespace holds and what left it; all that were ever met.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = Account> {
        let mut sums: Vec<Tally> = Vec::new();
        for shard in &self.0.shards {
            let inner = shard.inner.read();
            sums.resize(sums.len().max(inner.tallies.len()), Tally::default());
            sums.iter_mut().zip(&inner.tallies).for_each(|(sum, tally)| sum.add(*tally));
        }
        let sums = sums.into_iter().chain(std::iter::repeat(Tally::default()));
        self.0.namespaces.all().zip(sums).map(|((number, namespace), sum)| Account {
            number,
            name: namespace.name.to_string(),
            held: sum.into(),
            removals: self.0.events.removals_of(number),
        })
    }

    /// What one namespace holds.
    #[must_use]
    pub fn usage_of(&self, namespace: &str) -> Held {
        let Some(number) = self.0.namespaces.known(namespace.as_bytes()) else { return Held::default() };
        let mut sum = Tally::default();
        for shard in &self.0.shards {
            sum.add(shard.inner.read().tallies.get(usize::from(number)).copied().unwrap_or_default());
        }
        sum.into()
    }

    /// Begins or ends the telling of removals; ending forgets what waits.
    pub fn listen(&self, is_heard: bool) {
        self.0.events.listen(is_heard);
    }

    /// The removals since the last call, in order, as far as the queue held them.
    #[must_use]
    pub fn removals(&self) -> Vec<Removal> {
        self.0.events.drain()
    }

    /// Whether anything was ever evicted.
    #[must_use]
    pub fn has_evicted(&self) -> bool {
        self.0.events.has_evicted()
    }

    /// How many removals were not told because the queue was full.
    #[must_use]
    pub fn removals_dropped(&self) -> u64 {
        self.0.events.dropped()
    }
}

/// A stretch of the order of use that lies before everything used after its making.
#[derive(Debug)]
pub struct Past {
    first: u64,
    left: u64,
}

impl Past {
    /// Room for about so many entries; those beyond count as equally old.
    #[must_use]
    pub fn new(entries: u64) -> Self {
        Self { first: ticks::reserve(entries), left: entries }
    }
}

/// Entries, and the bytes they are charged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// How many.
    pub entries: u64,
    /// What they are charged.
    pub bytes: u64,
}

/// What a namespace holds and what left it.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) number: u16,
    pub(crate) name: String,
    pub(crate) held: Held,
    /// Entries that left, by [`Cause::index`].
    pub(crate) removals: [u64; Cause::ALL.len()],
}

impl From<Tally> for Held {
    fn from(tally: Tally) -> Self {
        let unsigned = |sum: i64| u64::try_from(sum).unwrap_or(0);
        Self { entries: unsigned(tally.entries), bytes: unsigned(tally.bytes) }
    }
}

/// What a tier holds and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// What it holds.
    pub all: Held,
    /// The limit as it was set.
    pub limit_bytes: u64,
    /// What of the limit is given up to memory that the process holds beside the entries.
    pub withheld_bytes: u64,
}
