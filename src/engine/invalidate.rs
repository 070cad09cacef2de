//! Invalidation: memory first, then durable, then the answer.
//!
//! Each takes the next sequence number, so that everything born before it is dead, in memory, on disk and in loads
//! that are still under way. Memory forgets before the disk is asked: even when the disk fails, this process does not
//! serve the old value again.

use crate::disk::Floor;
use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, KeyRef, Namespace, Tag};
use crate::memory::{Cause, Cursor, Verdict};
use crate::pattern::Pattern;

use super::state::State;
use super::stats::Operation;

/// Takes out each of `keys`; how many of them stood in memory or on disk.
pub(super) fn keys(state: &State, keys: &[Key]) -> Result<u64> {
    let sequence = state.next_sequence();
    state.recovering.deleted(keys);
    let stood = keys.iter().map(|key| u64::from(stands(state, key.as_key_ref()))).sum();
    // Dead on disk before anything leaves memory: a read that misses in between must not bring the old record back.
    if let Some(disk) = &state.disk {
        disk.bury(keys, sequence);
    }
    for key in keys {
        state.flights.supersede(key.as_key_ref());
        state.memory.remove(key.as_key_ref());
        state.count_done(key.namespace(), Operation::Delete, 1);
    }
    if let Some(disk) = &state.disk {
        disk.delete(keys, sequence)?;
    }
    Ok(stood)
}

/// Everything in `namespace`; how many entries stood in memory.
pub(super) fn namespace(state: &State, namespace: &Namespace) -> Result<u64> {
    let sequence = state.next_sequence();
    let standing = state.memory.usage_of(namespace.as_str()).entries;
    let kill = || state.generations.raise_namespace(namespace.as_str(), sequence);
    let stood = state.doomed.kill([(namespace.as_str(), standing)].into_iter(), kill);
    state.flights.supersede_where(|key| key.namespace() == namespace.as_str());
    state.count_done(namespace.as_str(), Operation::Invalidate, 1);
    raise(state, Floor::Namespace(namespace.clone()), sequence)?;
    Ok(stood)
}

/// Everything tagged `tag`; how many entries stood in memory.
pub(super) fn tag(state: &State, tag: &Tag) -> Result<u64> {
    let sequence = state.next_sequence();
    state.generations.raise_tag(tag.as_str(), sequence);
    // Which tags a load will bring is not known before it has.
    state.flights.supersede_where(|_| true);
    raise(state, Floor::Tag(tag.clone()), sequence)?;
    // At leisure: from the raising on, none of them is served.
    Ok(remove(state, |entry| entry.sequence() < sequence && entry.tags().any(|own| own == tag.as_str())))
}

/// Every key that `pattern` covers; how many of them stood in memory.
pub(super) fn pattern(state: &State, pattern: &Pattern) -> Result<u64> {
    if let Some(Ok(whole)) = pattern.whole_namespace().map(Namespace::parse) {
        return namespace(state, &whole);
    }
    let sequence = state.next_sequence();
    state.recovering.end();
    // As for keys: dead on disk first.
    if let Some(disk) = &state.disk {
        disk.mark(Floor::Pattern(pattern.clone()), sequence);
    }
    state.flights.supersede_where(|key| pattern.matches(key.as_str()));
    let stood = remove(state, |entry| entry.sequence() < sequence && pattern.matches(entry.key().as_str()));
    raise(state, Floor::Pattern(pattern.clone()), sequence)?;
    Ok(stood)
}

/// Takes what `is_dead` names out of memory, in steps between which others go on; how many of it were fresh.
fn remove(state: &State, is_dead: impl Fn(&Entry) -> bool) -> u64 {
    let (now, mut stood, mut next) = (state.clock.now(), 0, Some(Cursor::default()));
    while let Some(at) = next {
        next = state
            .memory
            .scan(at, SCAN_STEPS, |entry| {
                if !is_dead(entry) {
                    return Verdict::Keep;
                }
                stood += u64::from(entry.is_fresh(now));
                Verdict::Remove(Cause::Invalidated)
            })
            .next;
    }
    stood
}

/// Everything; how many entries stood in memory.
pub(super) fn all(state: &State) -> Result<u64> {
    let sequence = state.next_sequence();
    let standing = state.memory.usage_by_namespace();
    let standing = standing.iter().map(|(namespace, held)| (namespace.as_str(), held.entries));
    let stood = state.doomed.kill(standing, || state.generations.raise_all(sequence));
    state.flights.supersede_where(|_| true);
    raise(state, Floor::All, sequence)?;
    Ok(stood)
}

/// Whether something fresh stands under `key`.
pub(super) fn stands(state: &State, key: KeyRef<'_>) -> bool {
    let in_memory = state.memory.peek(key);
    let found = in_memory.or_else(|| state.disk.as_ref().and_then(|disk| disk.get(key)));
    found.is_some_and(|entry| state.is_live(&entry))
}

fn raise(state: &State, floor: Floor, sequence: u64) -> Result<()> {
    state.disk.as_ref().map_or(Ok(()), |disk| disk.raise(floor, sequence))
}

/// How many entries one step looks at.
const SCAN_STEPS: usize = 256;
