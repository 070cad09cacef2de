//! What waits to be written to the bulk: at most one operation a key, bounded in bytes.
//!
//! Of two operations on one key the one with the higher sequence stays. A put that finds no room is dropped and
//! counted; where an older record of its key may lie on disk, a removal takes its place, or that record would be
//! served later as if nothing had happened. The batch being written stays readable until it is durable. No threads
//! and no locks here: `disk/state.rs` holds the one lock around it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use crate::entry::Entry;

/// One operation on one key.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Stores this entry in place of an older one.
    Put(Entry),
    /// Removes the record if its sequence is below this one.
    Remove(u64),
}

impl Op {
    pub(crate) fn sequence(&self) -> u64 {
        match self {
            Self::Put(entry) => entry.sequence(),
            Self::Remove(sequence) => *sequence,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Put(entry) => u64::try_from(entry.weight()).unwrap_or(u64::MAX),
            Self::Remove(_) => REMOVE_BYTES,
        }
    }
}

/// Operations by fingerprint.
pub(crate) type Ops = HashMap<u128, Op, foldhash::fast::RandomState>;

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queued {
    /// It waits.
    Waits,
    /// A newer one on its key waits already.
    Older,
    /// There is no room for it.
    Full,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pending: Ops,
    /// The batch that the writer is writing; empty between batches.
    writing: Arc<Ops>,
    /// What `pending` holds, in bytes.
    bytes: u64,
    /// The batch that `pending` will be.
    pub(crate) batch: u64,
    /// The last batch that ended, well or not.
    pub(crate) ended: u64,
    /// The last batch that ended badly, and why.
    pub(crate) failed: Option<(u64, String)>,
    /// Somebody waits for the end of `pending`.
    pub(crate) is_urgent: bool,
    /// And wants everything tidied that is worth it when nobody writes.
    pub(crate) is_tidying: bool,
    pub(crate) is_closing: bool,
    /// Puts that found no room.
    pub(crate) dropped: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, fingerprint: u128, op: Op, bytes_max: u64) -> Queued {
        let (bytes, is_put) = (op.bytes(), matches!(op, Op::Put(_)));
        if self.writing.get(&fingerprint).is_some_and(|newer| newer.sequence() > op.sequence()) {
            return Queued::Older;
        }
        match self.pending.entry(fingerprint) {
            Slot::Occupied(old) if old.get().sequence() > op.sequence() => Queued::Older,
            Slot::Occupied(mut old) => {
                let left_bytes = self.bytes - old.get().bytes();
                if is_put && left_bytes + bytes > bytes_max {
                    return Queued::Full;
                }
                self.bytes = left_bytes + bytes;
                old.insert(op);
                Queued::Waits
            }
            Slot::Vacant(_) if is_put && self.bytes + bytes > bytes_max => Queued::Full,
            Slot::Vacant(slot) => {
                self.bytes += bytes;
                slot.insert(op);
                Queued::Waits
            }
        }
    }

    /// The operation on a key that is not durable yet, if there is one.
    pub(crate) fn find(&self, fingerprint: u128) -> Option<&Op> {
        self.pending.get(&fingerprint).or_else(|| self.writing.get(&fingerprint))
    }

    /// Every operation that is not durable yet, the newest on each key.
    pub(crate) fn ops(&self) -> impl Iterator<Item = &Op> {
        let written = self.writing.iter().filter(|(fingerprint, _)| !self.pending.contains_key(*fingerprint));
        self.pending.iter().chain(written).map(|(_, op)| op)
    }

    pub(crate) fn is_pending(&self, fingerprint: u128) -> bool {
        self.pending.contains_key(&fingerprint)
    }

    pub(crate) fn is_writing(&self, fingerprint: u128) -> bool {
        self.writing.contains_key(&fingerprint)
    }

    /// Makes everything pending the batch being written.
    pub(crate) fn take(&mut self) -> Arc<Ops> {
        debug_assert!(self.writing.is_empty(), "one batch at a time");
        self.writing = Arc::new(std::mem::take(&mut self.pending));
        self.bytes = 0;
        (self.is_urgent, self.is_tidying) = (false, false);
        self.batch += 1;
        Arc::clone(&self.writing)
    }

    /// The batch is durable.
    pub(crate) fn finish(&mut self) {
        self.writing = Arc::default();
        self.ended = self.batch;
    }

    /// The batch is not durable: what is still the newest on its key waits again.
    pub(crate) fn give_back(&mut self, reason: &str) {
        let batch = std::mem::take(&mut self.writing);
        for (fingerprint, op) in batch.iter() {
            // It had room before; what came meanwhile found the bound already counted without it.
            self.push(*fingerprint, op.clone(), u64::MAX);
        }
        self.ended = self.batch;
        self.failed = Some((self.batch, reason.to_owned()));
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + self.writing.values().map(Op::bytes).sum::<u64>()
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.writing.is_empty()
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len() + self.writing.len()
    }

    /// Forgets every removal: the file they were for is gone.
    pub(crate) fn forget_removals(&mut self) {
        self.pending.retain(|_, op| matches!(op, Op::Put(_)));
        self.bytes = self.pending.values().map(Op::bytes).sum();
    }
}

/// A removal's place in the map.
const REMOVE_BYTES: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entry::Parts;
    use crate::key::KeyRef;

    fn put(body_bytes: usize, sequence: u64) -> Op {
        let (stored_at, expires_at) = (Timestamp::from_millis(0), Timestamp::NEVER);
        let body = vec![0; body_bytes];
        let parts = Parts { head: b"", body: &body, tags: &[], stored_at, expires_at, sequence };
        Op::Put(Entry::new(KeyRef::parse("k").unwrap(), &parts))
    }

    #[test]
    fn of_two_operations_on_a_key_the_newer_stays_in_either_order() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(1, put(1, 5), 1000), Queued::Waits);
        assert_eq!(queue.push(1, Op::Remove(7), 1000), Queued::Waits);
        assert_eq!(queue.push(1, put(1, 6), 1000), Queued::Older);
        assert!(matches!(queue.find(1), Some(Op::Remove(7))));
        assert_eq!(queue.bytes(), REMOVE_BYTES);
    }

    #[test]
    fn an_older_operation_does_not_come_before_a_newer_one_that_is_being_written() {
        let mut queue = Queue::default();
        queue.push(1, put(1, 6), 1000);
        queue.take();
        assert_eq!(queue.push(1, put(1, 5), 1000), Queued::Older);
        assert_eq!(queue.find(1).map(Op::sequence), Some(6));
        assert_eq!(queue.push(1, put(1, 6), 1000), Queued::Waits, "the same one with another deadline");
        assert_eq!(queue.push(1, Op::Remove(7), 1000), Queued::Waits);
    }

    #[test]
    fn the_bound_counts_what_waits_and_removals_always_find_room() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(1, put(500, 1), 1000), Queued::Waits);
        assert_eq!(queue.push(2, put(500, 2), 1000), Queued::Full);
        assert_eq!(queue.push(1, put(400, 3), 1000), Queued::Waits, "it takes its predecessor's place");
        assert_eq!(queue.push(2, Op::Remove(2), 0), Queued::Waits);
    }

    #[test]
    fn a_failed_batch_waits_again_but_not_before_what_came_meanwhile() {
        let mut queue = Queue::default();
        queue.push(1, put(1, 1), 10_000);
        queue.push(2, put(1, 2), 10_000);
        queue.take();
        queue.push(1, put(1, 3), 10_000);
        assert_eq!(queue.find(2).map(Op::sequence), Some(2), "what is being written is found");
        queue.give_back("full");
        assert_eq!(queue.find(1).map(Op::sequence), Some(3));
        assert_eq!(queue.find(2).map(Op::sequence), Some(2));
        queue.take();
        queue.finish();
        assert!(queue.is_idle() && queue.bytes() == 0);
    }
}
