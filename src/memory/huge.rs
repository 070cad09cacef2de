//! Huge pages under the entries: a look-up in a large tier is two cache misses, and with pages of 4 kB each of them is
//! a miss of the address cache too, which costs as much again.
//!
//! Now and then, on a thread that nobody waits for, [`State::gather`] samples where entries stand and asks the kernel to
//! gather into one huge page each region of 2 MiB that is mostly entries (`MADV_COLLAPSE`, Linux 6.1 on, whatever the
//! system's setting). The memory stays the allocator's: it is only backed otherwise. Where the kernel cannot, nothing
//! changes. Holes in such a region become resident, so it must be mostly full, and the watch of the resident
//! size must leave room.

use std::collections::{HashMap, HashSet};

use super::state::State;
use crate::hint::{HUGE_PAGE_BYTES, gather_pages};

/// What has been asked for already.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Regions the kernel has been asked about, by address over their size.
    regions: HashSet<usize>,
    /// What the tier held when entries were last sampled.
    sampled_bytes: u64,
    /// Found by the last sample and not asked for yet.
    waiting: Vec<usize>,
    /// Refusals since the last time the kernel did as it was asked; some regions are not all the allocator's.
    refused: usize,
}

impl State {
    /// One bounded step; says whether more is to do soon.
    pub(super) fn gather(&self) -> bool {
        let mut gathered = self.gathered.lock();
        let held = self.budget.sums();
        let held_bytes = u64::try_from(held.bytes).unwrap_or(0);
        if gathered.refused >= REFUSED_MAX || held_bytes < HELD_MIN {
            return false;
        }
        if gathered.waiting.is_empty() {
            // As much again as an eighth must have come or gone since.
            if held_bytes.abs_diff(gathered.sampled_bytes) < held_bytes / 8 {
                return false;
            }
            gathered.sampled_bytes = held_bytes;
            let mean = held_bytes / u64::try_from(held.entries).unwrap_or(1).max(1);
            let dense = self.dense_regions(mean);
            gathered.waiting =
                dense.into_iter().filter(|region| !gathered.regions.contains(region)).collect();
        }
        let mut left = REGIONS_PER_STEP;
        while left > 0
            && self.resident.has_room_for(REGION_BYTES as u64 * 2, self.budget.bytes_max())
            && let Some(region) = gathered.waiting.pop()
        {
            gathered.regions.insert(region);
            let is_done = gather_pages(region * REGION_BYTES, REGION_BYTES);
            gathered.refused = if is_done { 0 } else { gathered.refused + 1 };
            left -= 1;
        }
        left == 0
    }

    /// The regions that are mostly entries, by a sample of the shards: which shard an entry is in says nothing about
    /// where it stands in memory.
    fn dense_regions(&self, mean_bytes: u64) -> Vec<usize> {
        let step = (self.shards.len() / SHARDS_SAMPLED).max(1);
        let mut found: HashMap<usize, u64> = HashMap::new();
        for shard in self.shards.iter().step_by(step) {
            let inner = shard.inner.read();
            for entry in inner.table.slots().iter().filter_map(|slot| slot.entry()) {
                *found.entry(entry.address() / REGION_BYTES).or_default() += mean_bytes * step as u64;
            }
        }
        found.retain(|_, bytes| *bytes >= REGION_BYTES as u64 / 8 * 5);
        found.into_keys().collect()
    }
}

const REGION_BYTES: usize = HUGE_PAGE_BYTES;

/// The kernel copies a region in about a millisecond, during which whoever reads there waits.
const REGIONS_PER_STEP: usize = 4;

/// After so many refusals in a row the kernel does not know the request, or has no huge pages to give.
const REFUSED_MAX: usize = 64;

/// Shards looked at in a sample.
const SHARDS_SAMPLED: usize = 32;

/// A tier that holds less fits the address cache well enough.
const HELD_MIN: u64 = 12 << 20;

#[cfg(test)]
mod tests {
    use crate::clock::{Clock, Timestamp};
    use crate::entry::{Entry, Parts};
    use crate::key::Key;
    use crate::memory::{Limits, Memory};

    #[test]
    fn gathering_ends_and_changes_no_entry() {
        let clock = Clock::manual(Timestamp::from_millis(1000));
        let memory = Memory::new(Limits { bytes: 64 << 20, entries: None }, clock.clone());
        let keys: Vec<Key> = (0..100_000).map(|i| Key::parse(format!("g:{i}")).unwrap()).collect();
        for (key, sequence) in keys.iter().zip(0..) {
            let parts = Parts {
                head: b"",
                body: &[7; 150],
                tags: &[],
                stored_at: clock.now(),
                expires_at: Timestamp::NEVER,
                sequence,
            };
            assert!(memory.get(key.as_key_ref()).is_none());
            memory.insert(Entry::new(key.as_key_ref(), &parts), || true);
        }
        while memory.gather() {}
        assert!(!memory.gather(), "nothing has come since");
        assert!(keys.iter().zip(0..).all(|(key, sequence)| {
            let found = memory.get(key.as_key_ref()).unwrap();
            found.sequence() == sequence && found.body() == [7; 150]
        }));
    }
}
