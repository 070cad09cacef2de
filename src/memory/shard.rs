//! One shard: a table under one lock, with the account of what it holds.
//!
//! A hit takes the lock shared, writes a stamp and a count, and copies nothing but a pointer: three atomic writes to
//! the shard's own line, one to the entry's. Whoever changes the table holds the lock alone. Entries that leave are
//! handed back, so that they are dropped after the lock. It knows no limit and evicts nothing of its own accord.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::eviction::Queue;
use super::table::{self, Due, Id, NEVER_DUE, Table};
use crate::entry::Entry;
use crate::sync::RwLock;

/// A shard on cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Shard {
    hints: Hints,
    pub(super) inner: RwLock<Inner>,
}

/// Where the slots of the table begin and how many homes it has, as the last insertion left them: read without the lock,
/// so perhaps out of date, and good for a hint to the processor alone. On a line of its own, which stays with every core
/// while the one with the lock goes back and forth.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Hints {
    slots_at: AtomicUsize,
    homes: AtomicU32,
}

/// In this order, so that what a hit reads stands on the line of the lock.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Inner {
    /// The tick that stamp 0 stands for. Raised only by [`Inner::stamp_of`], which lowers all stamps with it.
    base: u64,
    /// What came in less what went out since the last settlement with the whole tier.
    pub(super) unsettled: Tally,
    pub(super) table: Table,
    /// No entry here falls due before this.
    pub(super) next_due: Due,
    /// What stands here by number of namespace.
    pub(super) tallies: Vec<Tally>,
    /// What came in, replacing or not, since the watch of the resident size was told.
    pub(super) arrived: i64,
    /// What was oldest here when the shard was last walked.
    pub(super) queue: Queue,
}

/// Entries and bytes; differences while unsettled, so both may be negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) entries: i64,
    pub(super) bytes: i64,
}

impl Tally {
    pub(super) fn of(entry: &Entry) -> Self {
        Self { entries: 1, bytes: i64::try_from(entry.weight()).unwrap_or(i64::MAX) }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
    }

    pub(super) fn negated(self) -> Self {
        Self { entries: -self.entries, bytes: -self.bytes }
    }
}

impl Shard {
    pub(super) fn new(base: u64) -> Self {
        let inner = Inner {
            table: Table::default(),
            base,
            next_due: NEVER_DUE,
            tallies: Vec::new(),
            arrived: 0,
            queue: Queue::default(),
            unsettled: Tally::default(),
        };
        Self { hints: Hints::default(), inner: RwLock::new(inner) }
    }

    /// Asks the processor for the slot where an entry with this hash is at home, so that the line comes while the lock is
    /// being taken.
    #[inline]
    pub(super) fn bring_home_near(&self, hash: u32) {
        let (slots_at, homes) = self.hints.read();
        table::bring_near(slots_at, homes, hash);
    }

    /// Notes where the table stands now.
    #[inline]
    pub(super) fn note_homes(&self, inner: &Inner) {
        let (slots_at, homes) = inner.table.stands_at();
        // Compared first: a line that is only read stays with every core.
        if self.hints.read() != (slots_at, homes) {
            self.hints.slots_at.store(slots_at, Ordering::Relaxed);
            self.hints.homes.store(homes, Ordering::Relaxed);
        }
    }
}

impl Hints {
    #[inline]
    fn read(&self) -> (usize, u32) {
        (self.slots_at.load(Ordering::Relaxed), self.homes.load(Ordering::Relaxed))
    }
}

impl Inner {
    /// The tick at which a slot with this stamp was touched.
    pub(super) fn tick_of(&self, stamp: u32) -> u64 {
        self.base + u64::from(stamp)
    }

    /// The stamp for a tick under the shared lock: at the end of the range it stands still until [`Inner::stamp_of`].
    pub(super) fn stamp_near(&self, tick: u64) -> u32 {
        u32::try_from(tick.saturating_sub(self.base)).unwrap_or(u32::MAX)
    }

    /// The stamp for a tick; moves the base when half the range is used.
    pub(super) fn stamp_of(&mut self, tick: u64) -> u32 {
        let stamp = self.stamp_near(tick);
        if stamp < STAMP_MOVE {
            return stamp;
        }
        // What is older than the new base is all equally old from now on: a quarter of the range back.
        let new_base = tick - u64::from(STAMP_MOVE / 2);
        self.table.lower_stamps(self.stamp_near(new_base));
        self.base = new_base;
        self.stamp_near(tick)
    }

    /// Whether stamps come near the end of their range, where touches under the shared lock would look alike. Only
    /// whoever holds the lock alone can mend it, by [`Inner::stamp_of`].
    pub(super) fn is_base_far(&self, tick: u64) -> bool {
        self.stamp_near(tick) >= STAMP_MOVE
    }

    /// Whether there are entries, and no victims among them are known.
    pub(super) fn is_walk_due(&self) -> bool {
        self.queue.is_empty() && self.table.len() > 0
    }

    /// Adds an entry whose key is not here, at the place that the table gave.
    pub(super) fn insert(&mut self, place: usize, id: Id, entry: Entry, (tick, due): (u64, Due)) {
        self.next_due = self.next_due.min(due);
        let stamp = self.stamp_of(tick);
        self.table.insert(place, id, entry, (stamp, due));
    }

    /// Puts `entry` in the place of an older one of its key and hands that back.
    pub(super) fn replace(&mut self, at: usize, entry: Entry, tick: u64, due: Due) -> Option<Entry> {
        self.next_due = self.next_due.min(due);
        let stamp = self.stamp_of(tick);
        self.table.replace(at, entry, stamp, due)
    }

    #[inline]
    pub(super) fn count(&mut self, namespace: u16, tally: Tally) {
        self.unsettled.add(tally);
        match self.tallies.get_mut(usize::from(namespace)) {
            Some(sum) => sum.add(tally),
            None => self.count_first(namespace, tally),
        }
    }

    #[cold]
    fn count_first(&mut self, namespace: u16, tally: Tally) {
        self.tallies.resize(usize::from(namespace), Tally::default());
        self.tallies.push(tally);
    }
}

/// From this stamp on the base is moved.
const STAMP_MOVE: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entry::Parts;
    use crate::key::KeyRef;

    fn entry(key: &str) -> Entry {
        let parts = Parts {
            head: b"",
            body: b"",
            tags: &[],
            stored_at: Timestamp::default(),
            expires_at: Timestamp::NEVER,
            sequence: 0,
        };
        Entry::new(KeyRef::parse(key).unwrap(), &parts)
    }

    fn put(inner: &mut Inner, hash: u32, key: &str, tick: u64) {
        let place = inner.table.look(hash, key.as_bytes()).unwrap_err();
        inner.insert(place, Id::new(hash, 0), entry(key), (tick, NEVER_DUE));
    }

    #[test]
    fn what_a_hit_reads_of_a_shard_stands_on_one_line_and_its_hints_on_another() {
        let shard = Shard::new(0);
        let (at, hints) = (std::ptr::from_ref(&shard).addr(), std::ptr::from_ref(&shard.hints).addr());
        let inner = shard.inner.read();
        let base = std::ptr::from_ref(&inner.base).addr();
        let behind_homes = std::ptr::from_ref(&inner.table).addr() + Table::HIT_BYTES;
        assert_eq!((at, at + 64), (hints, std::ptr::from_ref(&shard.inner).addr()));
        assert!(at + 64 < base && behind_homes <= at + 128);
        assert_eq!(size_of::<Shard>(), 256);
    }

    #[test]
    fn moving_the_base_keeps_the_order_of_recent_stamps() {
        let shard = Shard::new(0);
        let mut inner = shard.inner.write();
        let far = u64::from(STAMP_MOVE);
        for (key, hash, tick) in [("old", 1 << 10, 5), ("a", 2 << 10, far - 20), ("b", 3 << 10, far - 10)] {
            put(&mut inner, hash, key, tick);
        }
        put(&mut inner, 4 << 10, "new", far + 7);
        let tick = |hash: u32, key: &str| {
            let (_, slot, _) = inner.table.find(hash << 10, key.as_bytes()).unwrap();
            inner.tick_of(slot.stamp())
        };
        let ticks = [tick(1, "old"), tick(2, "a"), tick(3, "b"), tick(4, "new")];
        assert_eq!(ticks[1..], [far - 20, far - 10, far + 7]);
        assert!(ticks[0] < ticks[1]);
    }

    #[test]
    fn a_shard_that_is_only_read_keeps_its_order_when_its_base_is_moved_now_and_then() {
        let shard = Shard::new(0);
        let names = ["a", "b", "c"].into_iter().zip(1_u32..);
        for (name, number) in names.clone() {
            put(&mut shard.inner.write(), number << 10, name, u64::from(number));
        }
        let touch = |name: &str, number: u32, tick: u64| {
            let inner = shard.inner.read();
            inner.table.find(number << 10, name.as_bytes()).unwrap().1.touch(inner.stamp_near(tick), 1);
        };
        // Four times as many touches of the tier as a stamp can count, of these entries a few, each time in turn.
        let step = 1 << 28;
        for turn in 1..64_u64 {
            for (name, number) in names.clone() {
                touch(name, number, turn * step + u64::from(number) * 10);
            }
            let now = turn * step + 100;
            if shard.inner.read().is_base_far(now) {
                shard.inner.write().stamp_of(now);
            }
        }
        let inner = shard.inner.read();
        let ticks = names.map(|(name, number)| {
            inner.tick_of(inner.table.find(number << 10, name.as_bytes()).unwrap().1.stamp())
        });
        assert_eq!(ticks.collect::<Vec<_>>(), [63 * step + 10, 63 * step + 20, 63 * step + 30]);
    }
}
