//! The index of one shard: open addressing with linear probing, slots of 16 bytes, kept in order of their hash.
//!
//! A slot holds the entry's pointer, 32 bits that identify it and the stamp of its last touch, so a lookup usually
//! costs one cache line here and one in the entry, and a walk for the oldest touches no entry at all.
//!
//! Invariants, held by every method:
//! - an entry stands at or behind its home, and no empty slot lies between the two;
//! - filled slots are in ascending order of hash, so a search ends at the first larger one, and a walk by hash meets
//!   every entry that stays, however often the table grew meanwhile;
//! - `due[g]` is not later than the earliest deadline among the slots of group `g` (it may be earlier).
//!
//! It knows no lock, no limit and no clock.

use std::ops::Range;

use crate::entry::Entry;
use crate::hint::prefetch;
use crate::sync::{AtomicU32, Ordering};

/// What identifies an entry in its shard: 24 bits of hash above 8 bits of class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u32);

impl Id {
    /// The id of an entry with this hash of its key, in this class of namespaces.
    pub(super) fn new(hash: u32, class: u8) -> Self {
        Self(hash & !0xFF | u32::from(class))
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// From the low half of what [`Id::bits`] was put into.
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits as u32)
    }

    pub(super) fn class(self) -> u8 {
        (self.0 & 0xFF) as u8
    }

    pub(super) fn hash(self) -> u32 {
        self.0 >> 8
    }
}

/// A coarse deadline, rounded down: a small number of milliseconds since the tier began to count.
pub(super) type Due = u32;

/// The mark of what never falls due.
pub(super) const NEVER_DUE: Due = Due::MAX;

#[derive(Debug)]
pub(super) struct Slot {
    entry: Option<Entry>,
    /// Invariant: [`EMPTY`] where there is no entry, so that a search by hash ends there without looking.
    id: u32,
    /// When it was last touched, in ticks since the shard's base.
    stamp: AtomicU32,
}

impl Default for Slot {
    fn default() -> Self {
        Self { entry: None, id: EMPTY, stamp: AtomicU32::new(0) }
    }
}

impl Slot {
    pub(super) fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    pub(super) fn id(&self) -> Id {
        Id(self.id)
    }

    pub(super) fn stamp(&self) -> u32 {
        self.stamp.load(Ordering::Relaxed)
    }

    /// Notes a touch, unless the last one noted is less than `least` ticks ago: readers of one hot entry then share
    /// its line. Where every touch counts, one that took its tick earlier and comes later undoes nothing.
    #[inline]
    pub(super) fn touch(&self, stamp: u32, least: u32) {
        if least == 1 {
            self.stamp.fetch_max(stamp, Ordering::Relaxed);
        } else if stamp.saturating_sub(self.stamp.load(Ordering::Relaxed)) >= least {
            self.stamp.store(stamp, Ordering::Relaxed);
        }
    }

    /// Sets when it was used last, also to an earlier time.
    pub(super) fn set_stamp(&self, stamp: u32) {
        self.stamp.store(stamp, Ordering::Relaxed);
    }

    fn hash(&self) -> u32 {
        self.id >> 8
    }
}

/// In this order: what a search reads comes first.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Table {
    /// `homes` slots where entries may be at home, and a [`tail`] more into which the last of them may be pushed.
    /// Invariant: the last slot of all is empty.
    slots: Vec<Slot>,
    homes: u32,
    used: u32,
    /// One mark per [`GROUP`] slots.
    due: Vec<Due>,
}

impl Table {
    /// How much of it, from its beginning on, a search reads.
    #[cfg(test)]
    pub(super) const HIT_BYTES: usize = std::mem::offset_of!(Self, used);

    pub(super) fn len(&self) -> usize {
        self.used as usize
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The entry with this hash and key, and where it stands.
    #[inline]
    pub(super) fn find(&self, hash: u32, key: &[u8]) -> Option<(usize, &Slot, &Entry)> {
        let hash = hash >> 8;
        let first = self.seek(hash);
        for (at, slot) in (first..).zip(self.slots.get(first..)?) {
            let entry = slot.entry.as_ref().filter(|_| slot.hash() == hash)?;
            if entry.has_key(key) {
                return Some((at, slot, entry));
            }
        }
        None
    }

    /// Where the entry with this hash and key stands, or where it would be put: before the first larger hash.
    #[inline]
    pub(super) fn look(&self, hash: u32, key: &[u8]) -> Result<usize, usize> {
        let hash = hash >> 8;
        let first = self.seek(hash);
        for (at, slot) in (first..).zip(self.slots.get(first..).unwrap_or_default()) {
            match &slot.entry {
                Some(entry) if slot.hash() == hash => {
                    // Whoever is to write over it waits for all of its lines at once.
                    prefetch(entry.address() + 64);
                    prefetch(entry.address() + 128);
                    if entry.has_key(key) {
                        return Ok(at);
                    }
                }
                _ => return Err(at),
            }
        }
        Err(self.slots.len())
    }

    /// The first slot from the home of `hash` on that is empty or holds no smaller hash. Four slots at a time, counted and
    /// not branched on: how far an entry stands from its home is nothing that a processor could foresee.
    #[inline]
    fn seek(&self, hash: u32) -> usize {
        let mut at = self.home(hash);
        let mut slots = self.slots.get(at..).unwrap_or_default();
        while let Some((four, rest)) = slots.split_first_chunk::<4>() {
            let below: usize = four.iter().map(|slot| usize::from(slot.hash() < hash)).sum();
            at += below;
            if below < 4 {
                return at;
            }
            slots = rest;
        }
        at + slots.iter().take_while(|slot| slot.hash() < hash).count()
    }

    /// Where in memory the slots begin, and how many of them are homes; for [`bring_near`].
    pub(super) fn stands_at(&self) -> (usize, u32) {
        (self.slots.as_ptr().addr(), self.homes)
    }

    /// The first entry with this hash, whatever its key; asks no entry.
    pub(super) fn candidate(&self, hash: u32) -> Option<&Entry> {
        let hash = hash >> 8;
        let found = self.slots.get(self.seek(hash))?;
        found.entry.as_ref().filter(|_| found.hash() == hash)
    }

    /// Where the entry with this id and stamp stands, if it was not touched since; asks no entry.
    #[inline]
    pub(super) fn find_untouched(&self, id: Id, stamp: u32) -> Option<usize> {
        let first = self.seek(id.hash());
        for (at, slot) in (first..).zip(self.slots.get(first..)?) {
            slot.entry.as_ref()?;
            if slot.hash() > id.hash() {
                return None;
            }
            if slot.id == id.0 && slot.stamp() == stamp {
                return Some(at);
            }
        }
        None
    }

    pub(super) fn slot(&self, at: usize) -> Option<&Slot> {
        self.slots.get(at)
    }

    /// Puts `entry` where another of the same key stood, and hands that back. The id stays; so does, where nobody else
    /// holds either of the two and both are small, the place in memory, which is near already and which others will ask
    /// for: what is handed back is then at the place of what came.
    pub(super) fn replace(&mut self, at: usize, entry: Entry, stamp: u32, due: Due) -> Option<Entry> {
        self.mark(at, due);
        let slot = self.slots.get_mut(at)?;
        *slot.stamp.get_mut() = stamp;
        let mut entry = entry;
        // Nobody can come by another handle to what stands here while the table is borrowed exclusively.
        if slot.entry.as_mut().is_some_and(|old| old.swap_contents(&mut entry)) {
            return Some(entry);
        }
        slot.entry.replace(entry)
    }

    /// Adds an entry whose key is not here, at the place that [`Table::look`] gave.
    pub(super) fn insert(&mut self, place: usize, id: Id, entry: Entry, (stamp, due): (u32, Due)) {
        let mut at = place;
        if u64::from(self.used) * 16 >= u64::from(self.homes) * LOAD_MAX_16THS {
            self.grow();
            at = self.seek(id.hash());
        }
        // What stands there moves up by one, and so on up to the first empty slot: there is one, the last at least.
        let mut moved = Slot { entry: Some(entry), id: id.0, stamp: AtomicU32::new(stamp) };
        let mut end = at;
        for slot in self.slots.get_mut(at..).unwrap_or_default() {
            std::mem::swap(slot, &mut moved);
            if moved.id == EMPTY {
                break;
            }
            end += 1;
        }
        self.used += 1;
        self.spread_later(at / GROUP..end / GROUP);
        self.mark(at, due);
        if end + 1 >= self.slots.len() {
            // The last slot was taken: hashes that crowd at the end. A larger table spreads them.
            self.grow();
        }
    }

    /// Takes out the entry at `at`.
    pub(super) fn remove(&mut self, at: usize) -> Option<(Id, Entry)> {
        let slot = self.slots.get_mut(at)?;
        let (id, entry) = (slot.id(), slot.entry.take()?);
        // What follows moves down by one, up to an empty slot or an entry that stands at home: nothing behind may move.
        let homes = self.homes;
        let mut end = at;
        let mut rest = self.slots.get_mut(at..)?;
        while let [hole, next, ..] = rest {
            if next.id == EMPTY || home(next.hash(), homes) > end {
                break;
            }
            std::mem::swap(hole, next);
            end += 1;
            rest = rest.get_mut(1..)?;
        }
        if let Some(hole) = rest.first_mut() {
            hole.id = EMPTY;
        }
        self.spread_earlier(at / GROUP..end / GROUP);
        self.used -= 1;
        Some((id, entry))
    }

    #[cold]
    fn grow(&mut self) {
        self.rebuild(self.homes + self.homes / 4 + 8);
    }

    /// Gives back room that removals left unused; to be called now and then.
    pub(super) fn shrink(&mut self) {
        if u64::from(self.used) * 16 < u64::from(self.homes) * LOAD_MIN_16THS && self.homes > 64 {
            self.rebuild(self.used + self.used / 3 + 8);
        }
    }

    /// The slots whose homes are those of the hashes from `from` up to, not including, `to`, and where they may stand.
    pub(super) fn walk(&self, from: u32, to: u32) -> impl Iterator<Item = (usize, &Slot)> {
        let home = self.home(from);
        let past = self.home(to.saturating_sub(1)) + 1;
        let slots = self.slots.get(home..).unwrap_or_default();
        let is_over = move |at: usize, slot: &Slot| at >= past && (slot.entry.is_none() || slot.hash() >= to);
        (home..)
            .zip(slots)
            .take_while(move |(at, slot)| !is_over(*at, slot))
            .filter(move |(_, slot)| slot.entry.is_some() && (from..to).contains(&slot.hash()))
    }

    /// How many hashes share one home, at least; the step of a walk is counted in homes.
    pub(super) fn hashes_per_home(&self) -> u32 {
        HASHES.checked_div(self.homes).unwrap_or(HASHES).max(1)
    }

    /// The groups whose mark is not later than `now`, from group `from` on.
    pub(super) fn due_groups(&self, from: usize, now: Due) -> impl Iterator<Item = usize> {
        (from..)
            .zip(self.due.get(from..).unwrap_or_default())
            .filter(move |(_, due)| **due <= now)
            .map(|(g, _)| g)
    }

    /// The slots of one group.
    pub(super) fn group(&self, group: usize) -> Range<usize> {
        group * GROUP..((group + 1) * GROUP).min(self.slots.len())
    }

    /// Sets the mark of a group to what was just found out to be its earliest deadline.
    pub(super) fn set_due(&mut self, group: usize, due: Due) {
        if let Some(mark) = self.due.get_mut(group) {
            *mark = due;
        }
    }

    /// The earliest mark of all.
    pub(super) fn earliest_due(&self) -> Due {
        self.due.iter().copied().min().unwrap_or(NEVER_DUE)
    }

    /// Forgets every deadline known, so that the next sweep looks at each entry again.
    pub(super) fn forget_dues(&mut self) {
        self.due.fill(0);
    }

    /// Lowers every stamp by `by`, to no less than zero.
    pub(super) fn lower_stamps(&mut self, by: u32) {
        for slot in &mut self.slots {
            let stamp = slot.stamp.get_mut();
            *stamp = stamp.saturating_sub(by);
        }
    }

    /// Changes the class of the entry at `at`; its place depends on its hash alone.
    pub(super) fn set_class(&mut self, at: usize, class: u8) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.id = slot.id & !0xFF | u32::from(class);
        }
    }

    fn home(&self, hash: u32) -> usize {
        home(hash, self.homes)
    }

    fn mark(&mut self, at: usize, due: Due) {
        if let Some(mark) = self.due.get_mut(at / GROUP) {
            *mark = due.min(*mark);
        }
    }

    /// Slots move up over the ends of these groups: each next one inherits the mark.
    fn spread_later(&mut self, groups: Range<usize>) {
        for group in groups.rev() {
            let earlier = self.due.get(group).copied().unwrap_or(NEVER_DUE);
            self.mark((group + 1) * GROUP, earlier);
        }
    }

    /// Slots move down over the ends of these groups: each inherits the mark of the next.
    fn spread_earlier(&mut self, groups: Range<usize>) {
        for group in groups {
            let later = self.due.get(group + 1).copied().unwrap_or(NEVER_DUE);
            self.mark(group * GROUP, later);
        }
    }

    /// Moves everything into a table of `homes`, or more if they crowd.
    fn rebuild(&mut self, homes: u32) {
        let len = homes as usize + tail(homes);
        let mut slots = Vec::with_capacity(len);
        slots.resize_with(len, Slot::default);
        let mut due = vec![NEVER_DUE; len.div_ceil(GROUP)];
        let mut next = 0;
        for (at, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.entry.is_some()) {
            // In order of hash each takes its home or the next free place.
            let to = next.max(home(slot.hash(), homes));
            let Some([place, _, ..]) = slots.get_mut(to..) else { break };
            let mark = self.due.get(at / GROUP).copied().unwrap_or(0);
            if let Some(new) = due.get_mut(to / GROUP) {
                *new = mark.min(*new);
            }
            std::mem::swap(place, slot);
            next = to + 1;
        }
        let is_complete = self.slots.iter().all(|slot| slot.entry.is_none());
        if is_complete {
            (self.slots, self.due, self.homes) = (slots, due, homes);
        } else {
            self.rebuild_larger(slots, homes);
        }
    }

    /// The tail was too short: puts what was moved back in front of what was not, and tries a larger table.
    #[cold]
    fn rebuild_larger(&mut self, moved: Vec<Slot>, homes: u32) {
        let rest = std::mem::take(&mut self.slots);
        self.slots = moved.into_iter().chain(rest).filter(|slot| slot.entry.is_some()).collect();
        self.due = vec![0; self.slots.len().div_ceil(GROUP)];
        self.rebuild(homes + homes / 4 + 8);
    }
}

/// Asks the processor for the slots that a search for this hash looks at first, of slots that begin at `slots_at`.
#[inline]
pub(super) fn bring_near(slots_at: usize, homes: u32, hash: u32) {
    prefetch(slots_at.wrapping_add(home(hash >> 8, homes) * size_of::<Slot>()));
}

/// The slot where a hash is at home among `homes`: ascending in the hash.
fn home(hash: u32, homes: u32) -> usize {
    ((u64::from(hash) * u64::from(homes)) >> 24) as usize
}

/// Slots behind the last home. At this load linear probing pushes about one entry in a thousand past 240; where one
/// would be, the table grows early.
fn tail(homes: u32) -> usize {
    (homes as usize / 8 + 16).min(240)
}

/// The id of a slot without an entry: no hash is larger.
const EMPTY: u32 = u32::MAX;

/// How many hashes there are.
pub(super) const HASHES: u32 = 1 << 24;

/// Slots per deadline mark: what one due entry makes the sweeper look at.
const GROUP: usize = 16;

/// The table grows when more than 13 of 16 homes' worth of slots are used.
const LOAD_MAX_16THS: u64 = 13;

/// It shrinks when fewer than 6 of 16 are.
const LOAD_MIN_16THS: u64 = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entry::Parts;
    use crate::key::KeyRef;

    fn entry(key: &str) -> Entry {
        let parts = Parts {
            head: b"",
            body: b"",
            tags: &[],
            stored_at: Timestamp::default(),
            expires_at: Timestamp::NEVER,
            sequence: 0,
        };
        Entry::new(KeyRef::parse(key).unwrap(), &parts)
    }

    fn put(table: &mut Table, id: Id, entry: Entry, stamp: u32, due: Due) {
        let place = table.look(id.bits(), b"nobody").unwrap_err();
        table.insert(place, id, entry, (stamp, due));
    }

    fn check(table: &Table) {
        let mut last = 0;
        assert!(table.slots.iter().all(|slot| slot.entry.is_none() == (slot.id == EMPTY)));
        assert!(table.slots.last().is_none_or(|slot| slot.entry.is_none()));
        for (at, slot) in table.slots.iter().enumerate().filter(|(_, slot)| slot.entry.is_some()) {
            let home = table.home(slot.hash());
            assert!(home <= at, "an entry stands before its home");
            assert!(table.slots[home..at].iter().all(|slot| slot.entry.is_some()), "a gap");
            assert!(last <= slot.hash(), "out of order");
            last = slot.hash();
        }
        assert_eq!(table.len(), table.slots.iter().filter(|slot| slot.entry.is_some()).count());
    }

    /// A small generator of numbers, the same on every run.
    fn numbers(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "random bits")]
    fn random_insertions_and_removals_match_a_map_and_keep_the_order() {
        // The narrow hashes crowd, at the end too: runs, ties and overflow of the tail all happen.
        for mask in [u32::MAX, 0xF_FF00, 0xFFFF_F000] {
            let mut next = numbers(42 + u64::from(mask));
            let mut table = Table::default();
            let mut map = std::collections::BTreeMap::new();
            for turn in 0..20_000 {
                let key = format!("k{}", next() % 700);
                let hash = map.get(&key).copied().unwrap_or((next() as u32 | 0xFF00_0000) & mask);
                match table.find(hash, key.as_bytes()) {
                    Some((at, ..)) => {
                        assert!(map.remove(&key).is_some());
                        assert_eq!(table.remove(at).unwrap().1.key().as_str(), key);
                    }
                    None if turn < 15_000 || next().is_multiple_of(4) => {
                        assert!(map.insert(key.clone(), hash).is_none());
                        put(&mut table, Id::new(hash, 3), entry(&key), turn, turn);
                    }
                    None => assert!(!map.contains_key(&key)),
                }
                if turn % 100 == 0 {
                    table.shrink();
                    check(&table);
                }
            }
            check(&table);
            for (key, hash) in &map {
                assert!(table.find(*hash, key.as_bytes()).is_some());
            }
            assert_eq!(table.len(), map.len());
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "random bits")]
    fn a_mark_is_never_later_than_the_deadlines_it_stands_for() {
        let mut next = numbers(7);
        let mut table = Table::default();
        let mut deadlines = std::collections::BTreeMap::new();
        for _ in 0..5_000 {
            let (key, due) = (format!("k{}", next() % 500), next() as u32 >> 1);
            let hash = next() as u32;
            if let Some((hash, _)) = deadlines.remove(&key) {
                let (at, ..) = table.find(hash, key.as_bytes()).unwrap();
                table.remove(at);
            } else {
                put(&mut table, Id::new(hash, 0), entry(&key), 0, due);
                deadlines.insert(key, (hash, due));
            }
        }
        for (key, (hash, due)) in &deadlines {
            let (at, ..) = table.find(*hash, key.as_bytes()).unwrap();
            assert!(table.due[at / GROUP] <= *due);
        }
        assert!(table.earliest_due() <= deadlines.values().map(|(_, due)| *due).min().unwrap());
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "random bits")]
    fn a_walk_in_steps_meets_what_stays_exactly_once_though_the_table_grows() {
        let mut next = numbers(9);
        let mut table = Table::default();
        for i in 0..300 {
            put(&mut table, Id::new(next() as u32, 0), entry(&format!("stays{i}")), 0, 0);
        }
        let mut seen = Vec::new();
        let mut from = 0;
        while from < HASHES {
            let to = (from + table.hashes_per_home() * 5).min(HASHES);
            seen.extend(table.walk(from, to).map(|(_, slot)| slot.entry().unwrap().key().to_string()));
            from = to;
            for _ in 0..20 {
                put(&mut table, Id::new(next() as u32, 0), entry("new"), 0, 0);
            }
        }
        seen.retain(|key| key.starts_with("stays"));
        assert_eq!(seen.len(), 300);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 300);
    }
}
