//! Reading: one key at any time, and everything at the start.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;

use super::Disk;
use super::catalog::{Group, Look};
use super::queue::Op;
use super::record::{self, fingerprint};
use super::state::Shared;
use crate::entry::Entry;
use crate::key::KeyRef;

impl Disk {
    /// The entry of `key`, if it is there, alive, and within its lifetime and the grace of its namespace. Blocking: it
    /// may read the disk, and right after the open it may wait for the directories to be read.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<Entry> {
        let shared = &self.shared;
        let fingerprint = fingerprint(key);
        let waiting = shared.queue().find(fingerprint).cloned();
        let entry = match waiting {
            Some(Op::Put(entry)) => entry,
            // After a kill the marks of overwrites stand here too, and the newer record may be in the file.
            Some(Op::Remove(below)) => shared.read(fingerprint).filter(|entry| entry.sequence() >= below)?,
            None => shared.read(fingerprint)?,
        };
        let is_alive = entry.key() == key && !shared.is_dead(&entry);
        if is_alive && !shared.is_kept(&entry) {
            shared.remove(fingerprint, entry.sequence().saturating_add(1));
            return None;
        }
        is_alive.then_some(entry)
    }

    /// Shows what an earlier run left and is still alive, most recently used first, until `visit` breaks.
    ///
    /// With each comes the question whether it is still the last of its key: what is written over meanwhile waits in
    /// the queue, and may have gone from memory before it is in the file. It is to be asked where no put of the key can
    /// come in between.
    pub(crate) fn recover(&self, visit: &mut Visit<'_>) {
        let shared = &self.shared;
        shared.wait_loaded();
        let catalog = shared.catalog.read();
        let mut above = u16::from(u8::MAX) + 1;
        let parts: Vec<_> = catalog
            .heat_cuts()
            .into_iter()
            .map(|cut| u16::from(cut)..std::mem::replace(&mut above, u16::from(cut)))
            .collect();
        drop(catalog);
        // In a few parts by use; within a part as it was written, so that most of the reading is in order.
        for heats in parts {
            let mut walked = None;
            loop {
                // What was written anew while the part was walked through lies in newer groups, or went with it.
                let ids = shared.groups_above(walked, self.first_sequence);
                let Some(newest) = ids.last() else { break };
                let heats = if walked.is_none() { heats.clone() } else { heats.start..ANY_HEAT.end };
                if ids.iter().rev().any(|id| self.show_group(*id, &heats, visit).is_break()) {
                    return;
                }
                walked = Some(*newest);
            }
        }
    }

    /// Shows what an earlier run left in a group and is alive.
    fn show_group(&self, id: u64, heats: &Range<u16>, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let shared = &self.shared;
        let Some(sum) = shared.catalog.read().group(id).map(|group| group.directory_sum) else {
            return ControlFlow::Continue(());
        };
        for (record, entry) in shared.alive_in(id, heats).into_iter().rev() {
            if shared.is_closed.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            let is_alive =
                entry.sequence() < self.first_sequence && shared.is_kept(&entry) && !shared.is_dead(&entry);
            if is_alive {
                visit(&entry, &|| shared.is_last(&entry, (id, sum), record))?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// What is done with an entry that is recovered, and with the question whether it is still the last of its key.
type Visit<'v> = dyn FnMut(&Entry, &dyn Fn() -> bool) -> ControlFlow<()> + 'v;

impl Shared {
    /// Whether `entry`, a record of the group with this id and directory, is the last of its key.
    fn is_last(&self, entry: &Entry, (id, sum): (u64, u64), record: u16) -> bool {
        let is_overruled = self.queue().find(fingerprint(entry.key())).is_some_and(|op| op.overrules(entry));
        // An operation leaves the queue only when the catalog knows of it.
        let is_it = |group: &Group| group.directory_sum == sum && !group.is_dead(record);
        !is_overruled && !self.is_discarded() && self.catalog.read().group(id).is_some_and(is_it)
    }

    /// What the file says, checked; a record that is broken is counted and removed.
    pub(super) fn read(&self, fingerprint: u128) -> Option<Entry> {
        for _ in 0..LOOKS_MAX {
            if self.is_discarded() {
                return None;
            }
            let Look::Here(found) = self.look(fingerprint) else { return None };
            let read = self.bulk.read().as_ref()?.get(&found);
            match read {
                Ok(Some(Ok(entry))) => {
                    self.catalog.read().touch(found.place, HEAT_READ);
                    return Some(entry);
                }
                Ok(Some(Err(error))) => {
                    self.note_broken(&error);
                    self.remove(fingerprint, found.sequence_max.saturating_add(1));
                    return None;
                }
                // Its group was written anew meanwhile.
                Ok(None) => {}
                Err(fault) => {
                    self.report(fault);
                    return None;
                }
            }
        }
        None
    }

    /// The ids of the groups above one that hold anything below a sequence, oldest first.
    fn groups_above(&self, walked: Option<u64>, below: u64) -> Vec<u64> {
        let catalog = self.catalog.read();
        let groups = catalog.groups().filter(|group| group.sequence_min < below);
        groups.map(|group| group.id).filter(|id| walked.is_none_or(|walked| *id > walked)).collect()
    }

    /// The entries of a group that are alive and as hot as this, each with its number.
    pub(super) fn alive_in(&self, id: u64, heats: &Range<u16>) -> Vec<(u16, Entry)> {
        let catalog = self.catalog.read();
        let Some(group) = catalog.group(id) else { return Vec::new() };
        let (starts, sum) = (group.starts.clone(), group.directory_sum);
        let is_wanted = |record: &u16| heats.contains(&u16::from(group.heat(*record)));
        let alive: Vec<u16> =
            catalog.live_places(id).into_iter().map(|(record, _)| record).filter(is_wanted).collect();
        drop(catalog);
        if alive.is_empty() {
            return Vec::new();
        }
        let mut entries = Vec::with_capacity(alive.len());
        let visit = &mut |record, bytes: crate::Result<&[u8]>| match bytes.and_then(record::decode) {
            Ok(entry) => entries.push((record, entry)),
            // Found again, counted and removed, by whoever asks for it.
            Err(error) => tracing::debug!(error = error.chain(), "a record is passed over"),
        };
        let slot = self.bulk.read();
        let Some(bulk) = slot.as_ref() else { return Vec::new() };
        let read = bulk.read_group(id, &starts, alive.into_iter(), visit);
        drop(slot);
        if let Err(fault) = read {
            self.report(fault);
        }
        // Of a file that was given up meanwhile nobody knows any more what was removed from it.
        let is_it = |group: &Group| group.directory_sum == sum;
        if self.is_discarded() || !self.catalog.read().group(id).is_some_and(is_it) {
            return Vec::new();
        }
        entries
    }

    /// Whether an entry is worth anything to anybody: not past its grace, not from the future.
    fn is_kept(&self, entry: &Entry) -> bool {
        let now = self.clock.now();
        now.as_millis() < self.until_ms(entry) && entry.stored_at() <= now
    }
}

/// Every heat there is.
pub(super) const ANY_HEAT: Range<u16> = 0..256;

/// A record that is moved while it is looked for is looked for again, so often.
const LOOKS_MAX: usize = 4;

/// What is read from disk is in use.
const HEAT_READ: u8 = 255;
