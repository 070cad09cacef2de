//! Counters of what the cache did.
//!
//! A hit raises a counter of its thread's own stripe, so that no two threads write the same cache line (up to
//! [`STRIPES`] of them); whoever wants the figure adds the stripes up.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    stripes: [Stripe; STRIPES],
}

/// The counters of some threads, on cache lines of their own (two, because processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counters {
    pub(super) fn hit(&self) {
        self.hits(1);
    }

    pub(super) fn hits(&self, count: u64) {
        self.stripe().hits.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn miss(&self) {
        self.misses(1);
    }

    pub(super) fn misses(&self, count: u64) {
        self.stripe().misses.fetch_add(count, Ordering::Relaxed);
    }

    /// Hits and misses so far.
    pub(super) fn sums(&self) -> (u64, u64) {
        self.stripes.iter().fold((0, 0), |(hits, misses), stripe| {
            (hits + stripe.hits.load(Ordering::Relaxed), misses + stripe.misses.load(Ordering::Relaxed))
        })
    }

    fn stripe(&self) -> &Stripe {
        &self.stripes[STRIPE.get() % STRIPES]
    }
}

thread_local! {
    /// Which stripe this thread counts on: the threads take them in turn.
    static STRIPE: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed))
    };
}

/// The figures of a cache at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Answers from memory or disk.
    pub hits: u64,
    /// Questions that had to go to a source, or found nothing.
    pub misses: u64,
    /// Entries in memory.
    pub entries: u64,
    /// What they weigh.
    pub memory_charged_bytes: u64,
}

/// Threads beyond so many share.
const STRIPES: usize = 16;
