//! Invalidation: memory first, then durable, then the answer.
//!
//! Each takes the next sequence number, so that everything born before it is dead, in memory, on disk and in loads
//! that are still under way. Memory forgets before the disk is asked: even when the disk fails, this process does not
//! serve the old value again.

use crate::disk::Floor;
use crate::error::Result;
use crate::key::{Key, KeyRef, Namespace};

use super::state::State;

/// Takes out each of `keys`; how many of them stood in memory or on disk.
pub(super) fn keys(state: &State, keys: &[Key]) -> Result<u64> {
    let sequence = state.next_sequence();
    state.recovering.deleted(keys);
    let mut stood = 0;
    for key in keys {
        stood += u64::from(stands(state, key.as_key_ref()));
        state.flights.supersede(key.as_key_ref());
        state.memory.remove(key.as_key_ref());
    }
    if let Some(disk) = &state.disk {
        disk.delete(keys, sequence)?;
    }
    Ok(stood)
}

/// Everything in `namespace`; how many entries stood in memory.
pub(super) fn namespace(state: &State, namespace: &Namespace) -> Result<u64> {
    let sequence = state.next_sequence();
    let stood = state.memory.usage_of(namespace.as_str()).entries;
    state.generations.raise_namespace(namespace.as_str(), sequence);
    state.flights.supersede_where(|key| key.namespace() == namespace.as_str());
    raise(state, Floor::Namespace(namespace.clone()), sequence)?;
    Ok(stood)
}

/// Everything; how many entries stood in memory.
pub(super) fn all(state: &State) -> Result<u64> {
    let sequence = state.next_sequence();
    let stood = state.memory.usage().all.entries;
    state.generations.raise_all(sequence);
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
