//! What left the tier and why, for those who ask to be told.
//!
//! Each removal is counted by namespace and cause. Nobody listening costs one read of a flag more. While somebody does, each removal puts its key into a bounded queue,
//! after every lock of the tier is released; when the queue is full the removal is counted and forgotten. The queue
//! holds keys, not entries, so that telling of an eviction does not keep what was evicted.

use std::collections::VecDeque;

use super::counts::Counts;
use crate::entry::Entry;
use crate::key::Key;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

/// Why an entry left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Others needed the room and were used more recently.
    Evicted,
    /// Its time was over.
    Expired,
    /// Its key was deleted.
    Deleted,
    /// Its namespace, a tag of it, a pattern or everything was invalidated.
    Invalidated,
    /// A newer value took its place.
    Replaced,
}

impl Cause {
    /// Every cause, in the order of [`Cause::index`].
    pub const ALL: [Self; 5] =
        [Self::Evicted, Self::Expired, Self::Deleted, Self::Invalidated, Self::Replaced];

    /// Its one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::Invalidated => "invalidated",
            Self::Replaced => "replaced",
        }
    }

    /// Its place in [`Cause::ALL`], for tables by cause.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One entry that left.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removal {
    /// The key it stood under.
    pub key: Key,
    /// Why it left.
    pub cause: Cause,
    /// What it was charged, in bytes.
    pub weight: usize,
    /// Its sequence.
    pub sequence: u64,
}

#[derive(Debug)]
pub(super) struct Events {
    /// How many left, by namespace and cause.
    removals: Counts<{ Cause::ALL.len() }>,
    is_heard: AtomicBool,
    /// Whether anything was ever evicted; written once, so that every further eviction only reads it.
    has_evicted: AtomicBool,
    /// Those that nobody took before the queue was full.
    dropped: AtomicU64,
    queue: Mutex<VecDeque<Removal>>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self {
            removals: Counts::new(),
            is_heard: AtomicBool::new(false),
            has_evicted: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            queue: Mutex::default(),
        }
    }

    pub(super) fn listen(&self, is_heard: bool) {
        self.is_heard.store(is_heard, Ordering::Relaxed);
        if !is_heard {
            let left = std::mem::take(&mut *self.queue.lock());
            drop(left);
        }
    }

    #[inline]
    pub(super) fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Relaxed)
    }

    /// Something is being evicted.
    #[inline]
    pub(super) fn note_eviction(&self) {
        if !self.has_evicted() {
            self.has_evicted.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn has_evicted(&self) -> bool {
        self.has_evicted.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn record(&self, entry: &Entry, cause: Cause) {
        self.removals.add(entry.namespace_number(), cause.index(), 1);
        if self.is_heard() {
            self.push(entry, cause);
        }
    }

    /// As [`Events::record`], of several that left at once: those of one namespace next to each other are counted as one.
    pub(super) fn record_all(&self, entries: &[Entry], cause: Cause) {
        for run in entries.chunk_by(|a, b| a.namespace_number() == b.namespace_number()) {
            if let Some(entry) = run.first() {
                self.removals.add(entry.namespace_number(), cause.index(), run.len() as u64);
            }
        }
        if self.is_heard() {
            for entry in entries {
                self.push(entry, cause);
            }
        }
    }

    #[cold]
    fn push(&self, entry: &Entry, cause: Cause) {
        let removal =
            Removal { key: entry.key().to_key(), cause, weight: entry.weight(), sequence: entry.sequence() };
        let mut queue = self.queue.lock();
        if queue.len() < QUEUE_DEPTH_MAX {
            queue.push_back(removal);
        } else {
            drop(queue);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many entries of a namespace left, by cause.
    pub(super) fn removals_of(&self, namespace: u16) -> [u64; Cause::ALL.len()] {
        self.removals.of(namespace)
    }

    pub(super) fn drain(&self) -> Vec<Removal> {
        std::mem::take(&mut *self.queue.lock()).into()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// How many removals wait for a listener: half of what a listener is given time to take, so that a burst of them does not
/// push out what else there is to tell.
const QUEUE_DEPTH_MAX: usize = 2048;
