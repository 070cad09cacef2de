//! Counters of what the cache did, by namespace, and how long it took.
//!
//! What a hit pays: one addition to a cache line that no other thread writes, and one look at a thread's own count.
//! Every [`SAMPLED`]th hit of a thread is timed (two readings of the clock and two additions); every load from a source
//! is. Each question is counted once: as a hit by its [`Outcome`], or as a miss by its [`MissReason`]; `exists` and
//! listings are no questions.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::clock::monotonic_now;
use crate::memory::{Cause, Counts, Held};

use super::latency::Histogram;
pub use super::latency::Latencies;
use super::outcome::Outcome;

/// What has happened since the start.
#[derive(Debug)]
pub(super) struct Counters {
    counts: Counts<COUNTERS>,
    hit_time: Histogram,
    source_time: Histogram,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self { counts: Counts::new(), hit_time: Histogram::new(), source_time: Histogram::new() }
    }

    /// Counts an answer. A miss that nothing more is known about counts as [`MissReason::Absent`].
    #[inline]
    pub(super) fn record(&self, namespace: u16, outcome: Outcome) {
        self.counts.add(namespace, outcome.index(), 1);
    }

    /// Counts a question that found nothing to serve, and why.
    pub(super) fn miss(&self, namespace: u16, reason: MissReason) {
        self.counts.add(namespace, reason.counter(), 1);
    }

    /// Counts something done other than a question.
    pub(super) fn did(&self, namespace: u16, operation: Operation, count: u64) {
        self.counts.add(namespace, operation.counter(), count);
    }

    /// Begins to time a hit, if it is this thread's turn.
    #[inline]
    pub(super) fn begin() -> Option<Instant> {
        UNTIMED.with(|untimed| {
            let left = untimed.get();
            untimed.set(left.wrapping_sub(1) % SAMPLED);
            (left == 0).then(monotonic_now)
        })
    }

    /// Ends what [`Counters::begin`] began, when it was a hit.
    pub(super) fn hit_took(&self, begun: Instant) {
        self.hit_time.add(monotonic_now().duration_since(begun));
    }

    pub(super) fn source_took(&self, took: Duration) {
        self.source_time.add(took);
    }

    pub(super) fn hit_latencies(&self) -> Latencies {
        self.hit_time.snapshot()
    }

    pub(super) fn source_latencies(&self) -> Latencies {
        self.source_time.snapshot()
    }

    /// What happened in one namespace.
    pub(super) fn of(&self, namespace: u16) -> Happened {
        Happened { counts: self.counts.of(namespace), removals: [0; Cause::ALL.len()] }
    }
}

/// Why a question found nothing to serve. Each has one name, the same in types and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissReason {
    /// Nothing stood under the key: never stored, deleted or evicted.
    Absent,
    /// What stood there had expired.
    Expired,
    /// What stood there had been invalidated.
    Invalidated,
    /// Another caller's load was under way, and this one waited for it.
    Joined,
    /// What the source gave was not kept.
    Bypass,
    /// What the source gave was not acceptable.
    Rejected,
    /// The source failed.
    Failed,
}

impl MissReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Absent,
        Self::Expired,
        Self::Invalidated,
        Self::Joined,
        Self::Bypass,
        Self::Rejected,
        Self::Failed,
    ];

    /// Its one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Expired => "expired",
            Self::Invalidated => "invalidated",
            Self::Joined => "joined",
            Self::Bypass => "bypass",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }

    const fn counter(self) -> usize {
        match self {
            Self::Absent => Outcome::Miss.index(),
            Self::Joined => Outcome::Joined.index(),
            Self::Bypass => Outcome::Bypass.index(),
            Self::Rejected => Outcome::Rejected.index(),
            Self::Expired => EXPIRED,
            Self::Invalidated => EXPIRED + 1,
            Self::Failed => EXPIRED + 2,
        }
    }
}

/// What can be done with a cache beside asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// A value was put under a key by a caller.
    Set,
    /// A key was deleted.
    Delete,
    /// A source was asked.
    Load,
    /// The namespace was invalidated as a whole.
    Invalidate,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Set, Self::Delete, Self::Load, Self::Invalidate];

    /// Its one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Load => "load",
            Self::Invalidate => "invalidate",
        }
    }

    const fn counter(self) -> usize {
        EXPIRED + 3 + self as usize
    }
}

/// What happened since the start, in one namespace or in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Happened {
    counts: [u64; COUNTERS],
    removals: [u64; Cause::ALL.len()],
}

impl Happened {
    /// Questions that were answered from the cache, fresh or stale.
    #[must_use]
    pub fn hits(&self) -> u64 {
        Outcome::ALL.into_iter().filter(|outcome| outcome.is_hit()).map(|hit| self.outcome(hit)).sum()
    }

    /// Questions that had to go to a source, or found nothing.
    #[must_use]
    pub fn misses(&self) -> u64 {
        MissReason::ALL.into_iter().map(|reason| self.misses_by(reason)).sum()
    }

    /// The share of hits among all questions; `None` when nobody asked.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio, shown with a few digits")]
    pub fn hit_ratio(&self) -> Option<f64> {
        let (hits, questions) = (self.hits(), self.hits() + self.misses());
        (questions > 0).then(|| hits as f64 / questions as f64)
    }

    /// Answers of one kind. Of the misses: all that were no other kind.
    #[must_use]
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Miss => [MissReason::Absent, MissReason::Expired, MissReason::Invalidated]
                .map(|reason| self.misses_by(reason))
                .iter()
                .sum(),
            other => self.counter(other.index()),
        }
    }

    /// Misses for one reason.
    #[must_use]
    pub fn misses_by(&self, reason: MissReason) -> u64 {
        self.counter(reason.counter())
    }

    /// How often something was done.
    #[must_use]
    pub fn operations(&self, operation: Operation) -> u64 {
        self.counter(operation.counter())
    }

    /// Entries that left memory for one cause.
    #[must_use]
    pub fn removals(&self, cause: Cause) -> u64 {
        self.removals.get(cause.index()).copied().unwrap_or(0)
    }

    pub(super) fn with_removals(mut self, removals: [u64; Cause::ALL.len()]) -> Self {
        self.removals = removals;
        self
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.removals.iter_mut().zip(other.removals).for_each(|(sum, count)| *sum += count);
    }

    /// Whether nothing happened at all.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn counter(&self, at: usize) -> u64 {
        self.counts.get(at).copied().unwrap_or(0)
    }
}

/// The figures of a cache at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Answers from memory or disk, fresh or stale.
    pub hits: u64,
    /// Questions that had to go to a source, or found nothing.
    pub misses: u64,
    /// Entries in memory.
    pub entries: u64,
    /// What of the memory limit is taken: by entries, and by what they give way to.
    pub memory_charged_bytes: u64,
    /// The memory limit.
    pub memory_limit_bytes: u64,
    /// What of it is given up, for now, to memory that the process holds beside the entries.
    pub memory_withheld_bytes: u64,
    /// What the process holds resident, where the system tells.
    pub memory_resident_bytes: Option<u64>,
    /// What happened in all namespaces together.
    pub all: Happened,
    /// The namespaces that hold something or in which something happened.
    pub namespaces: Vec<NamespaceStats>,
    /// How long hits took: a sample, every 256th hit of each thread.
    pub hit_latencies: Latencies,
    /// How long sources took to answer or fail: all of them.
    pub source_latencies: Latencies,
}

/// The figures of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceStats {
    /// Its name; `:others` for all that came after the first 4095.
    pub name: String,
    /// What it holds in memory.
    pub held: Held,
    /// What happened in it.
    pub happened: Happened,
}

thread_local! {
    /// Hits of this thread until the next that is timed.
    static UNTIMED: Cell<u32> = const { Cell::new(0) };
}

/// One hit of so many is timed: two readings of the clock cost about as much as a hit, and the shortest (40 ns, all in the
/// processor's caches) took 1.02 times as long with one in 128.
const SAMPLED: u32 = 256;

/// The outcomes first, then the reasons of a miss that are no outcome, then the operations.
const EXPIRED: usize = Outcome::ALL.len();
const COUNTERS: usize = EXPIRED + 3 + Operation::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_one_things_own() {
        let counters = Counters::new();
        let mut count = 1;
        let mut next = || {
            count += 1;
            count - 1
        };
        let hits = Outcome::ALL.into_iter().filter(|outcome| outcome.is_hit());
        let hits: Vec<_> = hits.map(|hit| (hit, next())).collect();
        let misses = MissReason::ALL.map(|reason| (reason, next()));
        let operations = Operation::ALL.map(|operation| (operation, next()));
        for (hit, count) in &hits {
            (0..*count).for_each(|_| counters.record(3, *hit));
        }
        for (reason, count) in misses {
            (0..count).for_each(|_| counters.miss(3, reason));
        }
        for (operation, count) in operations {
            counters.did(3, operation, count);
        }
        let happened = counters.of(3);
        assert!(hits.iter().all(|(hit, count)| happened.outcome(*hit) == *count));
        assert!(misses.iter().all(|(reason, count)| happened.misses_by(*reason) == *count));
        assert!(operations.iter().all(|(operation, count)| happened.operations(*operation) == *count));
        assert_eq!(happened.hits(), hits.iter().map(|(_, count)| count).sum::<u64>());
        assert_eq!(happened.misses(), misses.iter().map(|(_, count)| count).sum::<u64>());
        assert!(counters.of(4).is_nothing());
        let of_miss = misses[0].1 + misses[1].1 + misses[2].1;
        assert_eq!(happened.outcome(Outcome::Miss), of_miss);
    }

    #[test]
    fn one_hit_of_many_is_timed() {
        let counters = Counters::new();
        (0..SAMPLED * 3).filter_map(|_| Counters::begin()).for_each(|begun| counters.hit_took(begun));
        assert_eq!(counters.hit_latencies().count(), 3);
        assert_eq!(counters.source_latencies().count(), 0);
    }
}
