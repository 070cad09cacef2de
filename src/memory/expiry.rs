//! What is due is found without a full scan and without being read.
//!
//! Each group of 16 slots carries a mark not later than its earliest deadline: a third of a byte an entry. A sweep
//! reads marks, a few kilobytes per shard and only of shards in which something is due, and looks at the entries of
//! due groups alone. It holds a shard's lock for at most [`TAKEN_PER_LOCK`] removals.

use super::events::Cause;
use super::namespaces::Namespace;
use super::shard::{Inner, Shard};
use super::state::State;
use super::table::NEVER_DUE;
use super::ticks;
use crate::clock::Timestamp;
use crate::entry::Entry;

/// Where the sweep stands between two steps.
#[derive(Debug, Default)]
pub(super) struct Hand {
    shard: usize,
    group: usize,
}

/// What one step of a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Entries taken out.
    pub entries: u64,
    /// Bytes they were charged.
    pub bytes: u64,
    /// Whether the round is not over yet: call again soon.
    pub is_more_due: bool,
}

impl State {
    pub(super) fn sweep(&self, now: Timestamp) -> Swept {
        let mut hand = self.hand.lock();
        let mut swept = Swept::default();
        while let Some(shard) = self.shards.get(hand.shard) {
            if hand.group == 0 && self.has_nothing_due(shard, now) {
                hand.shard += 1;
                continue;
            }
            if swept.entries >= TAKEN_PER_STEP {
                swept.is_more_due = true;
                return swept;
            }
            let mut gone = Vec::with_capacity(TAKEN_PER_LOCK);
            let mut inner = shard.inner.write();
            let next = self.sweep_groups(&mut inner, hand.group, now, &mut gone);
            self.settle(&mut inner);
            drop(inner);
            if let Some(group) = next {
                hand.group = group;
            } else {
                (hand.shard, hand.group) = (hand.shard + 1, 0);
            }
            for entry in gone {
                swept.entries += 1;
                swept.bytes += entry.weight() as u64;
                self.events.record(&entry, Cause::Expired);
            }
        }
        *hand = Hand::default();
        swept
    }

    /// Whether a shard needs no sweep now. Keeps its stamps apart on the way: a shard in which nothing is ever inserted
    /// has nobody else to do so.
    fn has_nothing_due(&self, shard: &Shard, now: Timestamp) -> bool {
        let inner = shard.inner.read();
        let (tick, has_nothing_due) = (ticks::now(), inner.next_due > self.due_at(now));
        if inner.is_base_far(tick) {
            drop(inner);
            shard.inner.write().stamp_of(tick);
        }
        has_nothing_due
    }

    /// Sweeps due groups from `from` on until enough was taken; says where to go on, if anywhere.
    fn sweep_groups(
        &self,
        inner: &mut Inner,
        from: usize,
        now: Timestamp,
        gone: &mut Vec<Entry>,
    ) -> Option<usize> {
        let due = self.due_at(now);
        let mut looked = 0;
        let mut from = from;
        loop {
            let next = inner.table.due_groups(from, due).next();
            let Some(group) = next else { break };
            if gone.len() >= TAKEN_PER_LOCK || looked >= GROUPS_PER_LOCK {
                return Some(group);
            }
            self.sweep_group(inner, group, now, gone);
            looked += 1;
            from = group + 1;
        }
        inner.table.shrink();
        inner.next_due = inner.table.earliest_due();
        None
    }

    fn sweep_group(&self, inner: &mut Inner, group: usize, now: Timestamp, gone: &mut Vec<Entry>) {
        let mut earliest = NEVER_DUE;
        let slots = inner.table.group(group);
        let mut at = slots.start;
        while slots.contains(&at) {
            let slot = inner.table.slot(at);
            let Some((slot, entry)) = slot.and_then(|slot| Some((slot, slot.entry()?))) else {
                at += 1;
                continue;
            };
            let tick = inner.tick_of(slot.stamp());
            if self.is_over(entry, tick, now) {
                // What stands behind moves up into this place: look here again.
                gone.extend(self.take(inner, at));
            } else {
                earliest = earliest.min(self.due_of(entry, tick));
                at += 1;
            }
        }
        inner.table.set_due(group, earliest);
    }

    /// Whether nothing can be done with an entry any more: past its deadline and the grace of its namespace, not used
    /// for too long, or from the future of a clock since set back.
    fn is_over(&self, entry: &Entry, tick: u64, now: Timestamp) -> bool {
        if entry.stored_at() > now || self.idle_of(entry).is_some_and(|idle| tick < idle.floor(now)) {
            return true;
        }
        let grace_ms = self.namespaces.get(entry.namespace_number()).map_or(0, Namespace::grace_ms);
        entry.expires_at() <= now
            && entry.expires_at().as_millis().saturating_add(grace_ms) <= now.as_millis()
    }

    /// Sets how long entries of a namespace outlive their deadline.
    pub(super) fn set_grace(&self, name: &str, grace_ms: u64) {
        let number = self.namespaces.number(name.as_bytes());
        let is_shorter =
            self.namespaces.get(number).is_some_and(|namespace| namespace.set_grace_ms(grace_ms));
        if is_shorter {
            // The marks count the longer one.
            self.forget_dues();
        }
    }

    /// Makes the next sweep look at every entry once.
    pub(super) fn forget_dues(&self) {
        for shard in &self.shards {
            let mut inner = shard.inner.write();
            inner.table.forget_dues();
            inner.next_due = 0;
        }
    }
}

/// Entries taken out under one lock; more would let a hit wait noticeably.
const TAKEN_PER_LOCK: usize = 32;

/// Groups looked at under one lock.
const GROUPS_PER_LOCK: usize = 16;

/// Entries taken out in one call.
const TAKEN_PER_STEP: u64 = 1024;
