//! What the tier may hold and what it holds: the limits, the sums, and how finely they are kept.
//!
//! Small and strict, every change reaches the sums at once and nothing is ever over the limit after an insertion.
//! Large, a shard keeps up to a quantum of bytes to itself before it settles, and the limit is kept back by what all
//! shards together may hold unsettled, so that the true sum stays within it all the same.

use super::shard::Tally;
use crate::sync::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// What the tier may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, by [`Entry::weight`](crate::entry::Entry::weight).
    pub bytes: u64,
    /// Entries; `None` for as many as fit.
    pub entries: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Budget {
    // Read by every call, written by settings and when the tier outgrows strictness.
    bytes_max: AtomicU64,
    entries_max: AtomicU64,
    /// Taken off `bytes_max` for memory that the process holds beside the entries.
    withheld: AtomicU64,
    /// Taken off too: what the other parts of the cache hold, as they report it.
    beside: AtomicU64,
    is_strict: AtomicBool,
    /// What a shard may keep to itself once order is loose: reckoned when the limits are set, since every insertion asks.
    quantum_bytes: AtomicI64,
    quantum_entries: AtomicI64,
    shards: i64,
    sums: Sums,
}

/// Written at each settlement, so kept away from what every call reads.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Sums {
    entries: AtomicI64,
    bytes: AtomicI64,
}

impl Budget {
    pub(super) fn new(limits: Limits, shards: usize) -> Self {
        let budget = Self {
            bytes_max: AtomicU64::new(0),
            entries_max: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            beside: AtomicU64::new(0),
            is_strict: AtomicBool::new(true),
            quantum_bytes: AtomicI64::new(0),
            quantum_entries: AtomicI64::new(0),
            shards: i64::try_from(shards).unwrap_or(1),
            sums: Sums::default(),
        };
        budget.set(limits);
        budget
    }

    pub(super) fn set(&self, limits: Limits) {
        let (bytes_max, entries_max) =
            (limits.bytes.min(BYTES_MAX), limits.entries.unwrap_or(u64::MAX).min(BYTES_MAX));
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.entries_max.store(entries_max, Ordering::Relaxed);
        let of_shard = |limit: u64| signed(limit) / (self.shards * 512);
        self.quantum_bytes.store(of_shard(bytes_max).min(QUANTUM_BYTES_MAX), Ordering::Relaxed);
        self.quantum_entries.store(of_shard(entries_max).min(QUANTUM_ENTRIES_MAX), Ordering::Relaxed);
    }

    /// The limit as it was set.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    pub(super) fn withhold(&self, bytes: u64) {
        self.withheld.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_beside(&self, bytes: u64) {
        self.beside.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn beside(&self) -> u64 {
        self.beside.load(Ordering::Relaxed)
    }

    pub(super) fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }

    /// The largest entry that is kept: none may take more than half of everything.
    pub(super) fn weight_max(&self) -> u64 {
        self.bytes_max() / 2
    }

    #[inline]
    pub(super) fn is_strict(&self) -> bool {
        self.is_strict.load(Ordering::Relaxed)
    }

    /// Whether a shard that holds this much to itself must settle.
    pub(super) fn must_settle(&self, unsettled: Tally) -> bool {
        let quantum = self.quantum();
        unsettled.bytes.abs() > quantum.bytes || unsettled.entries.abs() > quantum.entries
    }

    /// Adds a shard's changes to the sums.
    pub(super) fn settle(&self, unsettled: Tally) {
        self.sums.bytes.fetch_add(unsettled.bytes, Ordering::Relaxed);
        let entries = self.sums.entries.fetch_add(unsettled.entries, Ordering::Relaxed) + unsettled.entries;
        let is_strict = self.is_strict();
        let becomes_strict = if is_strict { entries <= STRICT_ENTRIES_MAX } else { entries <= STRICT_AGAIN };
        if is_strict != becomes_strict {
            self.is_strict.store(becomes_strict, Ordering::Relaxed);
        }
    }

    /// What is settled.
    pub(super) fn sums(&self) -> Tally {
        Tally {
            entries: self.sums.entries.load(Ordering::Relaxed),
            bytes: self.sums.bytes.load(Ordering::Relaxed),
        }
    }

    /// What is too much, if anything is; the parts may be negative, not both.
    pub(super) fn over(&self) -> Option<Tally> {
        self.over_with(Tally::default())
    }

    /// What would be too much were this settled.
    pub(super) fn over_with(&self, unsettled: Tally) -> Option<Tally> {
        let (mut sums, quantum) = (self.sums(), self.quantum());
        sums.add(unsettled);
        let room = self.bytes_max().saturating_sub(self.withheld() + self.beside());
        let over = Tally {
            entries: sums.entries - signed(self.entries_max.load(Ordering::Relaxed))
                + self.shards * quantum.entries,
            bytes: sums.bytes - signed(room) + self.shards * quantum.bytes,
        };
        (over.entries > 0 || over.bytes > 0).then_some(over)
    }

    /// Whether so much is over that one step will not do: more than is kept back from the limit, above all.
    pub(super) fn is_far_over(&self, over: Tally) -> bool {
        let quantum = self.quantum();
        let kept_back = Tally { entries: self.shards * quantum.entries, bytes: self.shards * quantum.bytes };
        self.is_strict()
            || over.bytes > kept_back.bytes.min(FAR_BYTES)
            || over.entries > kept_back.entries.min(FAR_ENTRIES)
    }

    #[inline]
    fn quantum(&self) -> Tally {
        if self.is_strict() {
            return Tally::default();
        }
        Tally {
            entries: self.quantum_entries.load(Ordering::Relaxed),
            bytes: self.quantum_bytes.load(Ordering::Relaxed),
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Beyond every machine, and far enough from overflow that sums and differences need no care.
const BYTES_MAX: u64 = 1 << 60;

/// Up to this many entries the order and the limit are exact.
const STRICT_ENTRIES_MAX: i64 = 4 * 1024;

/// Having outgrown strictness, the tier returns to it only here, so that it does not waver.
const STRICT_AGAIN: i64 = 3 * 1024;

/// The most a shard keeps to itself: some dozens of small entries.
const QUANTUM_BYTES_MAX: i64 = 8 * 1024;
const QUANTUM_ENTRIES_MAX: i64 = 64;

const FAR_ENTRIES: i64 = 16;
const FAR_BYTES: i64 = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_tier_settles_everything_and_a_large_one_keeps_room_for_what_is_unsettled() {
        let budget = Budget::new(Limits { bytes: 1 << 30, entries: None }, 16);
        assert!(budget.must_settle(Tally { entries: 1, bytes: 1 }));
        budget.settle(Tally { entries: 20_000, bytes: (1 << 30) - 1000 });
        assert!(!budget.must_settle(Tally { entries: 1, bytes: 200 }));
        let over = budget.over().unwrap();
        assert_eq!(over.bytes, 16 * QUANTUM_BYTES_MAX - 1000);
    }

    #[test]
    fn what_is_withheld_is_not_there_to_fill() {
        let budget = Budget::new(Limits { bytes: 1000, entries: Some(5) }, 16);
        budget.settle(Tally { entries: 1, bytes: 900 });
        assert!(budget.over().is_none());
        budget.withhold(200);
        assert_eq!(budget.over().unwrap().bytes, 100);
        budget.withhold(0);
        budget.settle(Tally { entries: 5, bytes: 0 });
        assert_eq!(budget.over().unwrap().entries, 1);
    }
}
