//! Where the newest record of each key lies: 8 bytes a slot, about 11 a key.
//!
//! 40 bits of a key's fingerprint decide its slot: 8 choose the shard, 32 stand in the slot beside the place. Two keys
//! that share all 40 displace each other (fewer than one pair in a million keys); whoever reads compares the key, so
//! that costs a miss, never a wrong answer. Shards grow one at a time, so that growing never takes the whole twice.
//! It does not know what a place means.

use crate::hint::prefetch;

/// A shard's slots: open addressing, linear probing, homes in the order of tags.
#[derive(Debug, Default)]
struct Shard {
    slots: Box<[u64]>,
    len: usize,
}

/// Places by fingerprint.
#[derive(Debug)]
pub(crate) struct Index {
    shards: Box<[Shard]>,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl Index {
    /// An index with room for `keys` before it grows.
    pub(crate) fn with_room(keys: u64) -> Self {
        let keys = usize::try_from(keys).unwrap_or(0) / SHARDS;
        let mut index = Self::default();
        for shard in &mut index.shards {
            // A little above the mean, since shards fill unevenly.
            shard.resize(slots_for(keys + keys / 32 + 8));
        }
        index
    }

    /// Brings the slot of a key nearer to the processor, for what is done with it soon.
    pub(crate) fn approach(&self, fingerprint: u64) {
        let shard = &self.shards[shard_of(fingerprint)];
        prefetch(shard.slots.as_ptr().wrapping_add(shard.home(tag_of(fingerprint))) as usize);
    }

    pub(crate) fn find(&self, fingerprint: u64) -> Option<u32> {
        let shard = &self.shards[shard_of(fingerprint)];
        shard.position(tag_of(fingerprint)).ok().map(|at| place_in(shard.slots[at]))
    }

    /// Puts `place`, and says which it displaced.
    pub(crate) fn insert(&mut self, fingerprint: u64, place: u32) -> Option<u32> {
        let shard = &mut self.shards[shard_of(fingerprint)];
        let tag = tag_of(fingerprint);
        if let Ok(at) = shard.position(tag) {
            return Some(place_in(std::mem::replace(&mut shard.slots[at], slot(tag, place))));
        }
        shard.add(tag, place);
        None
    }

    /// Puts `place` unless the key has one; says whether it did.
    pub(crate) fn insert_absent(&mut self, fingerprint: u64, place: u32) -> bool {
        let shard = &mut self.shards[shard_of(fingerprint)];
        let tag = tag_of(fingerprint);
        let is_absent = shard.position(tag).is_err();
        if is_absent {
            shard.add(tag, place);
        }
        is_absent
    }

    /// Takes the key out if it stands at `place`; says whether it did.
    pub(crate) fn remove(&mut self, fingerprint: u64, place: u32) -> bool {
        let shard = &mut self.shards[shard_of(fingerprint)];
        match shard.position(tag_of(fingerprint)) {
            Ok(at) if place_in(shard.slots[at]) == place => {
                shard.take(at);
                true
            }
            _ => false,
        }
    }

    /// Takes out every key whose place `keeps` does not want.
    pub(crate) fn retain(&mut self, keeps: impl Fn(u32) -> bool) {
        for shard in &mut self.shards {
            let old = std::mem::take(&mut shard.slots);
            shard.slots = vec![EMPTY; old.len()].into_boxed_slice();
            shard.len = 0;
            for slot in old.iter().filter(|slot| **slot != EMPTY && keeps(place_in(**slot))) {
                shard.place(*slot);
            }
        }
    }

    /// The next `count` or so keys from `from` on in the order of [`order`], each with its place, and where to go on.
    pub(crate) fn places_from(&self, from: u64, count: usize) -> (Vec<(u64, u32)>, Option<u64>) {
        let mut found: Vec<(u64, u32)> = Vec::new();
        let first = usize::try_from(from >> 32).unwrap_or(SHARDS);
        for (number, shard) in (0_u64..).zip(&self.shards).skip(first) {
            let slots = shard.slots.iter().filter(|slot| **slot != EMPTY);
            let begun_at = found.len();
            let numbered = slots.map(|slot| (number << 32 | u64::from(tag_in(*slot)), place_in(*slot)));
            found.extend(numbered.filter(|(order, _)| *order >= from));
            found[begun_at..].sort_unstable();
            if found.len() > count {
                let next = found[count].0;
                found.truncate(count);
                return (found, Some(next));
            }
        }
        (found, None)
    }

    /// How many keys it has.
    pub(crate) fn len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.len as u64).sum()
    }

    /// Every key, as [`order`] has it.
    pub(crate) fn orders(&self) -> impl Iterator<Item = u64> {
        (0_u64..).zip(&self.shards).flat_map(|(number, shard)| {
            let slots = shard.slots.iter().filter(|slot| **slot != EMPTY);
            slots.map(move |slot| number << 32 | u64::from(tag_in(*slot)))
        })
    }

    /// What it takes, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.slots.len() as u64 * 8 + 24).sum()
    }
}

impl Shard {
    /// Where `tag` stands, or where it would.
    fn position(&self, tag: u32) -> Result<usize, usize> {
        if self.slots.is_empty() {
            return Err(0);
        }
        let mut at = self.home(tag);
        loop {
            match self.slots[at] {
                EMPTY => return Err(at),
                slot if tag_in(slot) == tag => return Ok(at),
                _ => at = if at + 1 == self.slots.len() { 0 } else { at + 1 },
            }
        }
    }

    fn add(&mut self, tag: u32, place: u32) {
        if slots_for(self.len + 1) > self.slots.len() {
            self.resize(slots_for((self.len + 1) * 3 / 2).max(SLOTS_MIN));
        }
        self.place(slot(tag, place));
    }

    fn place(&mut self, slot: u64) {
        let mut at = self.home(tag_in(slot));
        while self.slots[at] != EMPTY {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        self.slots[at] = slot;
        self.len += 1;
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots].into_boxed_slice());
        self.len = 0;
        for slot in old.iter().filter(|slot| **slot != EMPTY) {
            self.place(*slot);
        }
    }

    /// Empties a slot and moves up what would no longer be found behind it.
    fn take(&mut self, at: usize) {
        let len = self.slots.len();
        let (mut empty, mut next) = (at, at);
        loop {
            next = if next + 1 == len { 0 } else { next + 1 };
            let slot = self.slots[next];
            if slot == EMPTY {
                break;
            }
            let home = self.home(tag_in(slot));
            // How far each lies behind the home, going round.
            if (empty + len - home) % len <= (next + len - home) % len {
                self.slots[empty] = slot;
                empty = next;
            }
        }
        self.slots[empty] = EMPTY;
        self.len -= 1;
    }

    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.slots.len() as u64) >> 32) as usize
    }
}

/// The order of keys in which [`Index::places_from`] walks: the 40 bits of a fingerprint that it tells apart.
pub(crate) fn order(fingerprint: u64) -> u64 {
    (shard_of(fingerprint) as u64) << 32 | u64::from(tag_of(fingerprint))
}

fn shard_of(fingerprint: u64) -> usize {
    usize::from(fingerprint.to_le_bytes()[7])
}

#[expect(clippy::cast_possible_truncation, reason = "the low half of a hash")]
fn tag_of(fingerprint: u64) -> u32 {
    fingerprint as u32
}

fn slot(tag: u32, place: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(place)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half of a slot")]
fn place_in(slot: u64) -> u32 {
    slot as u32
}

fn tag_in(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// Four fifths full at most.
fn slots_for(keys: usize) -> usize {
    keys + keys / 4 + 1
}

const SHARDS: usize = 256;

const SLOTS_MIN: usize = 8;

/// No place is all ones.
const EMPTY: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn it_holds_what_a_plain_map_holds_through_growth_and_removal() {
        let (mut index, mut model) = (Index::default(), HashMap::new());
        let mut state = 7_u64;
        for step in 0..200_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few different ones, in few shards, with tags that crowd.
            let fingerprint = (state >> 40 & 0x3FFF) << 18 | (state >> 60 & 3) << 56;
            if (state >> 33).is_multiple_of(4) {
                let place = model.remove(&fingerprint);
                assert_eq!(index.find(fingerprint), place);
                assert!(!index.remove(fingerprint, u32::MAX - 1));
                assert_eq!(index.remove(fingerprint, place.unwrap_or(0)), place.is_some());
            } else {
                assert_eq!(index.insert(fingerprint, step), model.insert(fingerprint, step));
            }
        }
        for (fingerprint, place) in &model {
            assert_eq!(index.find(*fingerprint), Some(*place));
            assert!(!index.insert_absent(*fingerprint, 1));
        }
        let (mut walked, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let (found, then) = index.places_from(from, 7);
            assert!(found.len() <= 7);
            walked.extend(found);
            next = then;
        }
        let mut expected: Vec<_> =
            model.iter().map(|(fingerprint, place)| (order(*fingerprint), *place)).collect();
        expected.sort_unstable();
        assert_eq!(walked, expected);
        index.retain(|place| place % 2 == 0);
        for (fingerprint, place) in &model {
            assert_eq!(index.find(*fingerprint), (place % 2 == 0).then_some(*place));
        }
    }

    #[test]
    fn a_key_costs_about_ten_bytes_when_the_number_of_keys_is_known() {
        let mut index = Index::with_room(1_000_000);
        let before = index.bytes();
        for number in 0..1_000_000_u64 {
            index.insert(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), 1);
        }
        assert_eq!(index.bytes(), before, "it did not have to grow");
        assert!((10_000_000..11_000_000).contains(&before), "{before}");
    }
}
