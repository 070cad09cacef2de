//! Reads what is on disk into the catalog: directories only, newest group first, in steps that readers pass between.
//!
//! It verifies every directory and note, and that none is missing; anything wrong is damage of the whole file, because
//! a directory that is lost would bring older records back to life.

use std::sync::atomic::Ordering;

use super::backend::Fault;
use super::bulk::{Bulk, Meta};
use super::state::Shared;

/// Fills the catalog from `bulk`. Whoever waits for it goes on when this returns, however it ends.
pub(crate) fn load(shared: &Shared, bulk: &Bulk, meta: &Meta) -> Result<(), Fault> {
    let file_bytes = std::fs::metadata(shared.dir.cache_file()).map_or(0, |metadata| metadata.len());
    shared.intake.lock().doubt();
    // A forged number must not reserve more than such a file could hold.
    shared.catalog.write().begin_loading(meta.records.min(file_bytes / RECORD_BYTES_MIN));
    let outcome = fill(shared, bulk, meta);
    let mut catalog = shared.catalog.write();
    if outcome.is_ok() {
        catalog.end_loading();
    } else {
        catalog.lose();
    }
    drop(catalog);
    shared.tell_loaded();
    if outcome.is_ok() {
        // Nobody waits for this: until then a put takes the longer way.
        shared.trust_index();
    }
    outcome
}

fn fill(shared: &Shared, bulk: &Bulk, meta: &Meta) -> Result<(), Fault> {
    let ids = bulk.groups()?;
    if ids.len() as u64 != meta.groups {
        return Err(Fault::Damaged(format!("it has {} groups and should have {}", ids.len(), meta.groups)));
    }
    for ids in ids.chunks(GROUPS_A_STEP) {
        if shared.is_closed.load(Ordering::Relaxed) || shared.is_discarded() {
            return Err(Fault::Failed("the reading of cache.redb was ended".to_owned()));
        }
        for (directory, notes, rows) in bulk.describe(ids)? {
            if !shared.catalog.write().load(&directory, notes.as_ref(), &rows) {
                return Err(Fault::Damaged("it has more groups than any version writes".to_owned()));
            }
        }
        shared.tell_loaded();
    }
    let catalog = shared.catalog.read();
    if catalog.sums.records != meta.records || catalog.inventory() != meta.inventory {
        return Err(Fault::Damaged("its groups are not the ones it should have".to_owned()));
    }
    Ok(())
}

/// A few megabytes of directories.
const GROUPS_A_STEP: usize = 8;

/// No record with its line in the directory is shorter.
const RECORD_BYTES_MIN: u64 = 64;
