//! Who goes when there is too much: the least recently used of the whole tier, not of its shard.
//!
//! Each shard has a queue of the entries that were oldest when it was last walked, and the evictor for each shard a
//! bound: nothing there is older. It takes from the shard with the oldest bound; a queued entry that was touched since
//! fails the comparison of its stamp and is passed over. So the order is exact, a hit pays nothing for it, and the walk
//! that fills a queue (slots only) is paid by the hundreds of evictions it serves.
//!
//! Once order is loose, the evictor also publishes a cut: what was last touched before it is among the oldest
//! sixty-fourth of the tier, and may go in any order. Whoever inserts then takes such entries out of the shard it has
//! locked anyway, and needs the evictor only when there are none.
//!
//! A namespace with a share of its own has one more queue over all shards.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::Ordering;

use super::events::Cause;
use super::namespaces::Namespace;
use super::shard::{Inner, Tally};
use super::state::State;
use super::table::{self, Id, Slot};
use super::ticks;
use crate::entry::Entry;
use crate::hint::prefetch;

#[derive(Debug)]
pub(super) struct Evictor {
    /// Per shard, oldest first, a tick and the shard: nothing there is older. One for each shard, always.
    bounds: BinaryHeap<Reverse<(u64, usize)>>,
    /// The victims of a class, oldest last.
    of_class: HashMap<u8, Vec<(Victim, usize)>>,
}

/// The oldest of one shard when it was walked, oldest last: a stamp in the high half, an id in the low one, eight
/// bytes for each of a fifth of all entries.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    /// The tick of stamp 0 at that time.
    base: u64,
    victims: Vec<u64>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.victims.is_empty()
    }

    /// The tick of the oldest.
    fn oldest(&self) -> Option<u64> {
        self.victims.last().map(|victim| self.base + (victim >> 32))
    }

    /// Takes the oldest, if it is not younger than that.
    fn pop(&mut self, tick_max: u64) -> Option<Victim> {
        let base = self.base;
        let packed = self.victims.pop_if(|victim| base + (*victim >> 32) <= tick_max)?;
        Some(Victim { tick: base + (packed >> 32), id: Id::from_bits(packed & u64::from(u32::MAX)) })
    }

    /// The ids of the oldest few.
    fn next(&self, most: usize) -> impl Iterator<Item = Id> {
        self.victims.iter().rev().take(most).map(|packed| Id::from_bits(packed & u64::from(u32::MAX)))
    }
}

/// What was among the oldest when the evictor looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    tick: u64,
    id: Id,
}

/// How many to take from a shard, and how young they may be.
#[derive(Clone, Copy)]
struct Plan {
    entries: usize,
    tick_max: u64,
}

impl Evictor {
    pub(super) fn new(shards: usize) -> Self {
        Self { bounds: (0..shards).map(|shard| Reverse((0, shard))).collect(), of_class: HashMap::new() }
    }
}

impl State {
    /// After an insertion: makes room where there is too little.
    #[inline]
    pub(super) fn keep_within(&self, is_settled: bool, number: u16, namespace: Option<&Namespace>) {
        if is_settled && self.budget.over().is_some() {
            self.evict();
        }
        if let Some(namespace) = namespace
            && namespace.class() != 0
            && namespace.bytes() > namespace.bytes_max(self.budget.bytes_max())
        {
            self.evict_from(number);
        }
    }

    /// Evicts a few, or until nothing is over where much is.
    pub(super) fn evict(&self) {
        let mut gone = Vec::with_capacity(BATCH_MAX);
        while let Some(over) = self.budget.over() {
            // Whoever adds makes the room itself, a few at a time: what it frees is then what its next allocations
            // take, from the thread's own store, and nobody falls behind.
            let is_far_over = self.budget.is_far_over(over);
            let mut evictor = self.evictor.lock();
            // Looked at again: whoever held the lock may have made the room.
            let Some(over) = self.budget.over() else { return };
            let is_left = self.evict_some(&mut evictor, over, &mut gone);
            drop(evictor);
            self.let_go(&mut gone);
            if !is_left || !is_far_over {
                return;
            }
        }
    }

    /// One bounded step; says whether there is anything left to evict.
    fn evict_some(&self, evictor: &mut Evictor, over: Tally, gone: &mut Vec<Entry>) -> bool {
        let bounds = &mut evictor.bounds;
        // Each turn finds the oldest, or brings the bound of one shard up to what it holds.
        for _ in 0..=self.shards.len() * 2 {
            let next_bound = second(bounds);
            let Some(mut first) = bounds.peek_mut() else { return false };
            let Reverse((bound, at)) = &mut *first;
            let Some(shard) = self.shards.get(*at) else { return false };
            // Before the walk: what comes into an empty shard after it is not older than this.
            let now = ticks::now();
            let plan = self.plan(over, next_bound);
            let mut inner = shard.inner.write();
            let taken = gone.len();
            if inner.is_walk_due() {
                collect_oldest(&mut inner);
            }
            self.evict_from_shard(&mut inner, plan, gone);
            self.budget.settle(std::mem::take(&mut inner.unsettled));
            *bound = inner.queue.oldest().unwrap_or(if inner.table.len() == 0 { now } else { *bound });
            if gone.len() > taken {
                if !self.budget.is_strict() {
                    self.cut.store(plan.tick_max, Ordering::Relaxed);
                }
                return true;
            }
        }
        // Whatever was found to be the oldest had been touched by then: there is more to look at, unless nothing stands.
        self.budget.sums().entries > 0
    }

    /// Takes entries that are among the oldest of the tier out of a shard that is locked already, as many as are over
    /// or a few; none when order is strict, or when the shard has none.
    pub(super) fn evict_here(&self, inner: &mut Inner, over: Tally, gone: &mut Vec<Entry>) {
        if inner.is_walk_due() {
            collect_oldest(inner);
        }
        let tick_max = self.cut.load(Ordering::Relaxed);
        if inner.queue.oldest().is_some_and(|oldest| oldest <= tick_max) {
            // As many as have come in here since, so that what is freed is what the allocator gives out next.
            let wanted = usize::try_from(inner.unsettled.entries).unwrap_or(0);
            let entries = wanted.max(self.wanted(over)).clamp(BATCH_HERE_MIN, BATCH_MAX);
            let plan = Plan { entries, tick_max };
            gone.reserve_exact(BATCH_MAX);
            self.evict_from_shard(inner, plan, gone);
        }
    }

    /// Takes the oldest few of one shard.
    fn evict_from_shard(&self, inner: &mut Inner, plan: Plan, gone: &mut Vec<Entry>) {
        let taken = gone.len();
        let mut left = plan.entries.min(inner.table.len() / 64 + 1);
        while left > 0
            && let Some(victim) = inner.queue.pop(plan.tick_max)
        {
            let stamp = inner.stamp_near(victim.tick);
            if let Some(found) = inner.table.find_untouched(victim.id, stamp)
                && let Some((id, entry)) = inner.table.remove(found)
            {
                // Read when all of them have left the table: their lines come meanwhile, all at once.
                prefetch(entry.address());
                self.count_class(id, &entry);
                gone.push(entry);
                left -= 1;
            }
        }
        let mut are_small = true;
        // Most are of one namespace: counted together.
        let (mut number, mut tally) = (0, Tally::default());
        for entry in gone.get(taken..).unwrap_or_default() {
            let weight = entry.weight();
            are_small &= weight <= REUSED_BYTES_MAX;
            // What is small is written over by what comes next: the rest of its lines would be waited for there.
            if weight <= REUSED_BYTES_MAX {
                (64..weight).step_by(64).for_each(|line| prefetch(entry.address() + line));
            }
            if entry.namespace_number() != number {
                inner.count(number, std::mem::take(&mut tally));
                number = entry.namespace_number();
            }
            tally.add(Tally::of(entry).negated());
        }
        inner.count(number, tally);
        inner.table.shrink();
        if !self.budget.is_strict() {
            bring_next_near(inner, are_small);
        }
    }

    /// What to take at once: while strict the one that is oldest of all; else as many as are over, within bounds, and
    /// a little past the next shard's oldest, so that shards need not take turns for each entry.
    fn plan(&self, over: Tally, next_bound: u64) -> Plan {
        if self.budget.is_strict() {
            return Plan { entries: 1, tick_max: next_bound };
        }
        let wanted = self.wanted(over);
        let slack = ticks::now().saturating_sub(next_bound) / LOOSE_PART;
        Plan { entries: wanted.clamp(BATCH_MIN, BATCH_MAX), tick_max: next_bound.saturating_add(slack) }
    }

    /// How many entries are about as much as is over.
    fn wanted(&self, over: Tally) -> usize {
        let sums = self.budget.sums();
        let mean = (sums.bytes / sums.entries.max(1)).max(1);
        usize::try_from(over.entries.max(over.bytes / mean + 1)).unwrap_or(BATCH_MAX)
    }

    /// Makes a namespace keep to its share: the least recently used of its own entries go.
    pub(super) fn evict_from(&self, number: u16) {
        let Some(namespace) = self.namespaces.get(number) else { return };
        let class = namespace.class();
        while namespace.bytes() > namespace.bytes_max(self.budget.bytes_max()) {
            let mut evictor = self.evictor.lock();
            let mut queue = evictor.of_class.remove(&class).unwrap_or_default();
            if queue.is_empty() {
                self.collect_class(class, &mut queue);
            }
            let Some((victim, at)) = queue.pop() else { return };
            evictor.of_class.insert(class, queue);
            let entry = self.evict_one(victim, at);
            drop(evictor);
            self.let_go(&mut entry.into_iter().collect());
        }
    }

    fn evict_one(&self, victim: Victim, at: usize) -> Option<Entry> {
        let mut inner = self.shards.get(at)?.inner.write();
        let found = inner.table.find_untouched(victim.id, inner.stamp_near(victim.tick))?;
        let entry = self.take(&mut inner, found)?;
        self.settle(&mut inner);
        Some(entry)
    }

    /// The oldest of a class over all shards: a sixteenth of them, so that the walk serves many evictions.
    fn collect_class(&self, class: u8, queue: &mut Vec<(Victim, usize)>) {
        for (at, shard) in self.shards.iter().enumerate() {
            let inner = shard.inner.read();
            let of_class = filled(&inner).filter(|slot| slot.id().class() == class);
            queue.extend(of_class.map(|slot| (victim(&inner, slot), at)));
        }
        let kept = (queue.len() / 16 + 16).min(queue.len());
        if kept < queue.len() {
            queue.select_nth_unstable(kept);
            queue.truncate(kept);
        }
        queue.sort_unstable_by(|a, b| b.cmp(a));
        queue.shrink_to_fit();
    }

    fn count_class(&self, id: Id, entry: &Entry) {
        if id.class() != 0
            && let Some(namespace) = self.namespaces.get(entry.namespace_number())
        {
            namespace.count(Tally::of(entry).negated().bytes);
        }
    }

    /// Tells of what was evicted, and drops it, under no lock.
    pub(super) fn let_go(&self, gone: &mut Vec<Entry>) {
        if gone.is_empty() {
            return;
        }
        self.events.note_eviction();
        self.events.record_all(gone, Cause::Evicted);
        gone.clear();
    }
}

/// Asks the processor for the slots of what this shard will evict next: each is a cache miss that would otherwise be
/// waited for, one after the other. Large entries stand far apart, each on a page of its own that takes longer still, so
/// they are asked for as early, and the slots a turn before them.
fn bring_next_near(inner: &Inner, are_small: bool) {
    let table = &inner.table;
    let mut next = inner.queue.next(BATCH_MIN * 2);
    if !are_small {
        for id in next.by_ref().take(BATCH_MIN) {
            if let Some(entry) = table.candidate(id.bits()) {
                prefetch(entry.address());
            }
        }
    }
    let (slots_at, homes) = table.stands_at();
    for id in next.take(BATCH_MIN) {
        table::bring_near(slots_at, homes, id.bits());
    }
}

/// The second smallest bound: one of the two children of the first.
fn second(bounds: &BinaryHeap<Reverse<(u64, usize)>>) -> u64 {
    let children = bounds.as_slice().iter().skip(1).take(2);
    children.map(|Reverse((bound, _))| *bound).min().unwrap_or(u64::MAX)
}

/// Fills the queue of a shard, oldest last, with its oldest entries, and with all that are as old as any in it.
fn collect_oldest(inner: &mut Inner) {
    let base = inner.tick_of(0);
    let mut queue = std::mem::take(&mut inner.queue.victims);
    queue.clear();
    let len = inner.table.len();
    let wanted = (len / QUEUE_PART).clamp(QUEUE_MIN, QUEUE_MAX);
    let threshold = if len > wanted * 2 { u64::from(threshold(inner, wanted)) } else { u64::MAX };
    let mut found = [0_u64; RUN];
    for slots in inner.table.slots().chunks(RUN) {
        // Each is written down, and the next one over it unless it counts: which do is nothing to be foreseen.
        let mut len = 0;
        for slot in slots {
            let stamp = u64::from(slot.stamp());
            if let Some(place) = found.get_mut(len) {
                *place = stamp << 32 | u64::from(slot.id().bits());
            }
            len += usize::from(slot.entry().is_some()) & usize::from(stamp <= threshold);
        }
        queue.extend_from_slice(found.get(..len).unwrap_or_default());
    }
    if queue.len() > wanted * 2 {
        // The sample misled; the newest of these would only wait in vain.
        queue.select_nth_unstable(wanted);
        queue.truncate(wanted);
    }
    queue.sort_unstable_by(|a, b| b.cmp(a));
    inner.queue = Queue { base, victims: queue };
}

/// A stamp that about `wanted` entries do not exceed, judged by a sample.
fn threshold(inner: &Inner, wanted: usize) -> u32 {
    let step = (inner.table.slots().len() / SAMPLES).max(1);
    let sampled = inner.table.slots().iter().step_by(step).filter(|slot| slot.entry().is_some());
    let mut stamps: Vec<u32> = sampled.map(Slot::stamp).collect();
    let rank = (stamps.len() * wanted / inner.table.len()).min(stamps.len().saturating_sub(1));
    if stamps.is_empty() {
        return u32::MAX;
    }
    *stamps.select_nth_unstable(rank).1
}

fn filled(inner: &Inner) -> impl Iterator<Item = &Slot> {
    inner.table.slots().iter().filter(|slot| slot.entry().is_some())
}

fn victim(inner: &Inner, slot: &Slot) -> Victim {
    Victim { tick: inner.tick_of(slot.stamp()), id: slot.id() }
}

/// The oldest of the tier, one part in so many, may go in any order once order is loose.
const LOOSE_PART: u64 = 64;

/// The most entries evicted under one lock.
const BATCH_MAX: usize = 16;

/// The fewest, once order is loose: taking turns with the locks for each entry would cost more than the entry.
const BATCH_MIN: usize = 8;

/// The fewest where the lock is held already.
const BATCH_HERE_MIN: usize = 16;

const QUEUE_MIN: usize = 8;
const QUEUE_MAX: usize = 4096;

/// About the largest block that a thread keeps for what it stores next.
const REUSED_BYTES_MAX: usize = 512;

/// A queue holds one of so many: a walk reads so many slots for each eviction it serves.
const QUEUE_PART: usize = 5;

/// Enough to hit the length wanted within a fifth or so.
const SAMPLES: usize = 128;

/// Slots looked at between two additions to a queue.
const RUN: usize = 64;
