//! A walk over all entries in steps, which neither blocks the tier nor misses what stays.
//!
//! A cursor is a shard and a hash, not a place: tables may grow and shrink between two steps. Each entry that stands
//! from before the first step until after the last is met exactly once; what comes or goes meanwhile, at most once.
//! The visitor is called under no lock.

use super::events::Cause;
use super::state::State;
use super::table::{HASHES, Slot};
use super::ticks;
use crate::entry::Entry;
use crate::key::KeyRef;

/// Where a walk goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    shard: u32,
    hash: u32,
}

impl Cursor {
    /// As a number, to be handed out and taken back.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.shard) << 32 | u64::from(self.hash)
    }

    /// From what [`Cursor::to_bits`] gave; any number is a cursor, one past the end finds nothing.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of one number")]
    pub fn from_bits(bits: u64) -> Self {
        Self { shard: (bits >> 32) as u32, hash: bits as u32 }
    }
}

/// What to do with an entry that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it.
    Keep,
    /// Take it out, unless another has taken its place meanwhile.
    Remove(Cause),
}

/// What one step of a walk did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scanned {
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
    /// Entries met.
    pub met: u64,
    /// Entries taken out.
    pub removed: u64,
}

impl State {
    pub(super) fn scan(
        &self,
        from: Cursor,
        steps_max: usize,
        mut visit: impl FnMut(&Entry, u64) -> Verdict,
    ) -> Scanned {
        let mut scanned = Scanned::default();
        let mut met = Vec::with_capacity(HOMES_PER_LOCK * 2);
        let (mut at, mut homes) = (from, 0);
        while homes < steps_max {
            let Some(shard) = self.shards.get(at.shard as usize) else { return scanned };
            let inner = shard.inner.read();
            if inner.table.len() == 0 || at.hash >= HASHES {
                at = Cursor { shard: at.shard + 1, hash: 0 };
                homes += 1;
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
            let span = inner.table.hashes_per_home().saturating_mul(HOMES_PER_LOCK as u32);
            let to = at.hash.saturating_add(span).min(HASHES);
            let now = ticks::now();
            let age = |slot: &Slot| now.saturating_sub(inner.tick_of(slot.stamp()));
            let walk = inner.table.walk(at.hash, to);
            met.extend(walk.filter_map(|(_, slot)| Some((slot.entry()?.clone(), age(slot)))));
            drop(inner);
            at.hash = to;
            homes += HOMES_PER_LOCK;
            for (entry, age) in met.drain(..) {
                scanned.met += 1;
                if let Verdict::Remove(cause) = visit(&entry, age) {
                    // The same write may stand there as another copy, with another deadline.
                    let is_it = |stands: &Entry| stands.sequence() == entry.sequence();
                    let gone = self.remove_if(entry.key(), cause, is_it);
                    scanned.removed += u64::from(gone.is_some());
                }
            }
        }
        let is_end = at.shard as usize >= self.shards.len();
        scanned.next = (!is_end).then_some(at);
        scanned
    }
}

impl State {
    /// Notes that the last use of `key` lies as far back as `tick`.
    pub(super) fn set_last_use(&self, key: KeyRef<'_>, tick: u64) {
        let key = key.as_str().as_bytes();
        let (shard, hash) = self.locate(key);
        let inner = shard.inner.read();
        if let Some((_, slot, _)) = inner.table.find(hash, key) {
            slot.set_stamp(inner.stamp_near(tick));
        }
    }
}

/// Homes walked under one shared lock.
const HOMES_PER_LOCK: usize = 32;
