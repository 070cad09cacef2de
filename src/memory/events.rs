//! What left the tier and why, for those who ask to be told.
//!
//! Nobody listening costs one read of a flag. While somebody does, each removal puts its key into a bounded queue,
//! after every lock of the tier is released; when the queue is full the removal is counted and forgotten. The queue
//! holds keys, not entries, so that telling of an eviction does not keep what was evicted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::entry::Entry;
use crate::key::Key;

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

#[derive(Debug, Default)]
pub(super) struct Events {
    is_heard: AtomicBool,
    /// Those that nobody took before the queue was full.
    dropped: AtomicU64,
    queue: Mutex<VecDeque<Removal>>,
}

impl Events {
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

    #[inline]
    pub(super) fn record(&self, entry: &Entry, cause: Cause) {
        if self.is_heard() {
            self.push(entry, cause);
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

    pub(super) fn drain(&self) -> Vec<Removal> {
        std::mem::take(&mut *self.queue.lock()).into()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// How many removals wait for a listener.
const QUEUE_DEPTH_MAX: usize = 4096;
