//! What waits to be written to the bulk: at most one operation a key, bounded in bytes.
//!
//! Of two operations on one key the one with the higher sequence stays. A put that finds no room is dropped and
//! counted; where an older record of its key may lie on disk, a removal takes its place, or that record would be
//! served later as if nothing had happened. The batch being written stays readable until it is durable. What the intake
//! (`disk/intake.rs`) hands over is filed when somebody looks. No threads and no locks here: `disk/state.rs` holds the
//! one lock around it.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::record::fingerprint;
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

    fn is_put(&self) -> bool {
        matches!(self, Self::Put(_))
    }

    /// Whether nothing is left of `entry`, which lies in the file under the same key, once this is done.
    pub(crate) fn overrules(&self, entry: &Entry) -> bool {
        match self {
            Self::Put(newer) => entry.sequence() <= newer.sequence(),
            Self::Remove(below) => entry.sequence() < *below,
        }
    }

    /// Whether this one, on the same key, comes to nothing beside `other`: of equal sequences a removal does, since it
    /// is of what is below.
    fn is_older(&self, other: &Self) -> bool {
        let (own, other_sequence) = (self.sequence(), other.sequence());
        own < other_sequence || (own == other_sequence && !self.is_put() && other.is_put())
    }
}

/// Operations in the order in which their keys came, found by fingerprint.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    list: Vec<(u128, Op)>,
    places: HashMap<u128, u32, foldhash::fast::RandomState>,
}

impl Ops {
    fn with_room(ops: usize) -> Self {
        let places = HashMap::with_capacity_and_hasher(ops, foldhash::fast::RandomState::default());
        Self { list: Vec::with_capacity(ops), places }
    }

    pub(crate) fn as_slice(&self) -> &[(u128, Op)] {
        &self.list
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn get(&self, fingerprint: u128) -> Option<&Op> {
        let place = self.places.get(&fingerprint)?;
        self.list.get(*place as usize).map(|(_, op)| op)
    }

    /// Whether nothing is left of `entry`, which lies in the file, once they are done.
    pub(crate) fn overrule(&self, entry: &Entry) -> bool {
        self.get(fingerprint(entry.key())).is_some_and(|op| op.overrules(entry))
    }
}

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
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a wish of its own, and any of them may be there at once"
)]
pub(crate) struct Queue {
    /// What has arrived and is not filed yet, in its order.
    arrived: VecDeque<Entry>,
    pending: Ops,
    /// The batch that the writer is writing; empty between batches.
    writing: Arc<Ops>,
    writing_bytes: u64,
    /// What `pending` and `arrived` hold, in bytes.
    bytes: u64,
    /// How many removals are pending.
    pub(crate) removals: usize,
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
    is_retrying: bool,
    /// Puts that found no room.
    pub(crate) dropped: u64,
}

impl Queue {
    /// Takes over what the intake has, of so many bytes.
    pub(crate) fn arrive(&mut self, arrived: Vec<Entry>, bytes: u64) {
        self.bytes += bytes;
        if self.arrived.is_empty() {
            self.arrived = arrived.into();
        } else {
            self.arrived.extend(arrived);
        }
    }

    /// Has a put wait behind what has arrived, to be filed with it; false when there is no room for it, as it is.
    pub(crate) fn follow(&mut self, entry: &Entry, bytes_max: u64) -> bool {
        let bytes = entry.weight() as u64;
        let has_room = self.bytes + bytes <= bytes_max;
        if has_room {
            self.bytes += bytes;
            self.arrived.push_back(entry.clone());
        }
        has_room
    }

    /// Files some of what has arrived; whether there is more.
    pub(crate) fn file_some(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some(entry) = self.arrived.pop_front() else { break };
            self.file_one(entry);
        }
        !self.arrived.is_empty()
    }

    fn file(&mut self) {
        self.file_some(usize::MAX);
    }

    fn file_one(&mut self, entry: Entry) {
        // It is counted already.
        self.bytes -= entry.weight() as u64;
        self.push_filed(fingerprint(entry.key()), Op::Put(entry), u64::MAX);
    }

    pub(crate) fn push(&mut self, fingerprint: u128, op: Op, bytes_max: u64) -> Queued {
        self.file();
        self.push_filed(fingerprint, op, bytes_max)
    }

    fn push_filed(&mut self, fingerprint: u128, op: Op, bytes_max: u64) -> Queued {
        let bytes = op.bytes();
        if self.writing.get(fingerprint).is_some_and(|newer| newer.sequence() > op.sequence()) {
            return Queued::Older;
        }
        let has_room = |held_bytes: u64| !op.is_put() || held_bytes + bytes <= bytes_max;
        match self.pending.places.entry(fingerprint) {
            Slot::Occupied(place) => {
                let Some((_, old)) = self.pending.list.get_mut(*place.get() as usize) else {
                    return Queued::Older;
                };
                if op.is_older(old) {
                    return Queued::Older;
                }
                let left_bytes = self.bytes - old.bytes();
                if !has_room(left_bytes) {
                    return Queued::Full;
                }
                self.bytes = left_bytes + bytes;
                self.removals = self.removals + usize::from(!op.is_put()) - usize::from(!old.is_put());
                *old = op;
            }
            Slot::Vacant(_) if !has_room(self.bytes) => return Queued::Full,
            Slot::Vacant(slot) => {
                self.bytes += bytes;
                self.removals += usize::from(!op.is_put());
                // Bounded in bytes, so never so many.
                slot.insert(u32::try_from(self.pending.list.len()).unwrap_or(u32::MAX));
                self.pending.list.push((fingerprint, op));
            }
        }
        Queued::Waits
    }

    /// The operation on a key that is not durable yet, if there is one.
    pub(crate) fn find(&mut self, fingerprint: u128) -> Option<&Op> {
        self.file();
        self.pending.get(fingerprint).or_else(|| self.writing.get(fingerprint))
    }

    /// Every operation that is not durable yet, the newest on each key.
    pub(crate) fn ops(&mut self) -> impl Iterator<Item = &(u128, Op)> {
        self.file();
        let (pending, written) = (&self.pending, self.writing.as_slice().iter());
        let written = written.filter(|(fingerprint, _)| pending.get(*fingerprint).is_none());
        pending.list.iter().chain(written)
    }

    /// The keys of every operation that is not durable yet.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u128> {
        let arrived = self.arrived.iter().map(|entry| fingerprint(entry.key()));
        let filed = self.pending.list.iter().chain(self.writing.as_slice());
        arrived.chain(filed.map(|(fingerprint, _)| *fingerprint))
    }

    /// The sequence of the put that is pending on a key.
    pub(crate) fn put_pending(&mut self, fingerprint: u128) -> Option<u64> {
        self.file();
        self.pending.get(fingerprint).filter(|op| op.is_put()).map(Op::sequence)
    }

    /// Whether some of what waits was in a batch that failed, and may be in the file all the same.
    pub(crate) fn is_retrying(&self) -> bool {
        self.is_retrying
    }

    /// The sequence of the operation on a key that is being written.
    pub(crate) fn writing_sequence(&self, fingerprint: u128) -> Option<u64> {
        self.writing.get(fingerprint).map(Op::sequence)
    }

    /// Makes everything pending the batch being written.
    pub(crate) fn take(&mut self) -> Arc<Ops> {
        debug_assert!(self.writing.is_empty(), "one batch at a time");
        self.file();
        let room = self.pending.list.len().min(ROOM_MAX);
        self.writing = Arc::new(std::mem::replace(&mut self.pending, Ops::with_room(room)));
        (self.writing_bytes, self.bytes, self.removals) = (self.bytes, 0, 0);
        (self.is_urgent, self.is_tidying) = (false, false);
        self.batch += 1;
        Arc::clone(&self.writing)
    }

    /// The batch is durable.
    pub(crate) fn finish(&mut self) {
        (self.writing, self.writing_bytes, self.is_retrying) = (Arc::default(), 0, false);
        self.ended = self.batch;
    }

    /// The batch is not durable: what is still the newest on its key waits again.
    pub(crate) fn give_back(&mut self, reason: &str) {
        let batch = std::mem::take(&mut self.writing);
        self.writing_bytes = 0;
        for (fingerprint, op) in batch.as_slice() {
            // The same write with another deadline came later, whatever its number says.
            let is_moved =
                self.put_pending(*fingerprint).is_some_and(|moved| op.is_put() && moved == op.sequence());
            if !is_moved {
                // It had room before; what came meanwhile found the bound already counted without it.
                self.push(*fingerprint, op.clone(), u64::MAX);
            }
        }
        (self.ended, self.is_retrying) = (self.batch, true);
        self.failed = Some((self.batch, reason.to_owned()));
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + self.writing_bytes
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.has_pending() && self.writing.is_empty()
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.arrived.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.arrived.len() + self.pending.list.len() + self.writing.list.len()
    }

    /// Forgets every removal, because the file they were for is gone; not those of what is being written, which may
    /// wait again.
    pub(crate) fn forget_removals(&mut self) {
        self.file();
        let all = std::mem::take(&mut self.pending);
        (self.bytes, self.removals, self.is_retrying) = (0, 0, false);
        for (fingerprint, op) in all.list {
            if op.is_put() || self.writing.get(fingerprint).is_some() {
                self.push(fingerprint, op, u64::MAX);
            }
        }
    }
}

/// A removal's place in the map.
pub(crate) const REMOVE_BYTES: u64 = 64;

/// The next batch is made room for as if it were like the last one, up to so many operations.
const ROOM_MAX: usize = 1 << 16;

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
    fn what_was_removed_while_it_was_written_does_not_wait_again_when_removals_are_forgotten() {
        let mut queue = Queue::default();
        queue.push(1, put(1, 1), 10_000);
        queue.take();
        queue.push(1, Op::Remove(3), 10_000);
        queue.push(2, Op::Remove(3), 10_000);
        queue.forget_removals();
        assert_eq!(queue.removals, 1);
        queue.give_back("full");
        assert!(matches!(queue.find(1), Some(Op::Remove(3))));
        assert!(queue.find(2).is_none());
    }

    #[test]
    fn a_deadline_that_was_moved_while_a_batch_failed_stays_moved() {
        let mut queue = Queue::default();
        queue.push(1, put(1, 5), 10_000);
        queue.take();
        // Of another length, to tell them apart by.
        queue.push(1, put(100, 5), 10_000);
        queue.give_back("full");
        assert_eq!(queue.find(1).map(Op::bytes), Some(put(100, 5).bytes()));
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
