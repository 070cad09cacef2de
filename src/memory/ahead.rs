//! Reading ahead for a batch: a look-up is two cache misses, one after the other, but those of different keys can overlap.
//!
//! [`State::read_ahead`] walks a few keys twice, first asking the processor for the slots where they should stand, then for
//! the entries. It takes each shard's lock shared and briefly, touches no entry, and changes no answer: what is asked for
//! afterwards is looked up as ever.

use super::state::State;
use crate::hint::prefetch;
use crate::key::KeyRef;

impl State {
    /// Brings what stands under these keys nearer to the processor; at most [`READ_AHEAD`] of them.
    pub(super) fn read_ahead(&self, keys: &[KeyRef<'_>]) {
        if keys.len() < 2 || self.budget.sums().bytes < HELD_MIN {
            return;
        }
        let mut places = [None; READ_AHEAD];
        for (place, key) in places.iter_mut().zip(keys) {
            let (shard, hash) = self.locate(key.as_str().as_bytes());
            shard.bring_home_near(hash);
            *place = Some((shard, hash));
        }
        for (shard, hash) in places.into_iter().flatten() {
            let candidate = shard.inner.read().table.candidate(hash).map(crate::entry::Entry::address);
            if let Some(address) = candidate {
                // Header and key may lie on two lines.
                prefetch(address);
                prefetch(address + 64);
            }
        }
    }
}

/// How many keys are read ahead at once: about as many misses as a core has under way.
pub(super) const READ_AHEAD: usize = 16;

/// What is smaller stays in the cache of a core by itself.
const HELD_MIN: i64 = 4 << 20;
