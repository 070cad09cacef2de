//! Counters of what the cache did.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has happened since the start; each field is raised by the read path alone.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
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

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
