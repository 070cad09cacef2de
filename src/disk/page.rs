//! A walk over what the tier holds, for listing and counting; nobody waits for it, and it finds what is alive and fresh.
//!
//! [`Disk::page`] goes in the order of [`place`], which never changes, so that an entry that stands from before the
//! first page until after the last is met exactly once, wherever it lies: in the queue or in the file.
//! [`Disk::walk`] goes by groups, which is faster, and meets at most once what is moved meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Disk;
use super::backend::Fault;
use super::catalog::Found;
use super::index;
use super::queue::Op;
use super::record::fingerprint;
use super::state::half;
use crate::entry::Entry;
use crate::key::KeyRef;

/// Where a key comes in the order of pages: first by what the index tells apart, then by the rest of its fingerprint.
pub(crate) fn place(key: KeyRef<'_>) -> u128 {
    let fingerprint = fingerprint(key);
    u128::from(index::order(half(fingerprint))) << REST_BITS | (fingerprint >> (128 - REST_BITS))
}

/// Some entries by their places.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) entries: BTreeMap<u128, Entry>,
    /// How many records were looked at for them, at least one.
    pub(crate) looked_at: usize,
    /// Where the next page begins; `None` at the end.
    pub(crate) next: Option<u128>,
}

impl Disk {
    /// The page that begins at `from`, of about `count` records. Blocking: it reads the disk.
    pub(crate) fn page(&self, from: u128, count: usize) -> Page {
        // First what waits: what is written in between is then found in the file.
        let (waiting, removals) = self.waiting();
        let (mut read, next) = self.read_from(from, count);
        let looked_at = read.len().max(1);
        read.retain(|entry| !is_removed(&removals, entry));
        let is_within = |at: &u128| *at >= from && next.is_none_or(|next| *at < next);
        let mut entries: BTreeMap<u128, Entry> = BTreeMap::new();
        for entry in read.into_iter().chain(waiting) {
            let at = place(entry.key());
            let is_newer = || entries.get(&at).is_none_or(|old| old.sequence() <= entry.sequence());
            if is_within(&at) && is_newer() {
                entries.insert(at, entry);
            }
        }
        entries.retain(|_, entry| self.is_well(entry));
        Page { entries, looked_at, next }
    }

    /// Shows entries to `visit`, each once, until about `records_max` records have been looked at. Blocking: it reads
    /// the disk.
    pub(crate) fn walk(&self, records_max: usize, visit: &mut dyn FnMut(&Entry)) {
        let shared = &self.shared;
        let mut seen = HashSet::new();
        let mut show = |entry: &Entry| {
            if seen.insert(half(fingerprint(entry.key()))) && self.is_well(entry) {
                visit(entry);
            }
        };
        let (waiting, removals) = self.waiting();
        waiting.iter().for_each(&mut show);
        shared.wait_loaded();
        let (mut walked, mut looked_at) = (None, 0);
        // What is moved while this goes on stands in a newer group, which is looked at after the others.
        loop {
            let groups = shared.catalog.read();
            let next =
                groups.groups().map(|group| group.id).find(|id| walked.is_none_or(|walked| *id > walked));
            drop(groups);
            let Some(id) = next.filter(|_| looked_at < records_max) else { return };
            walked = Some(id);
            let alive = shared.alive_in(id, &super::read::ANY_HEAT);
            looked_at += alive.len().max(1);
            let is_last = |entry: &&Entry| !self.is_waiting(entry) && !is_removed(&removals, entry);
            alive.iter().map(|(_, entry)| entry).filter(is_last).for_each(&mut show);
        }
    }

    /// What lies under `key`, whether it still waits to be written, and whether it is dead. Blocking: it may read the
    /// disk.
    pub(crate) fn find(&self, key: KeyRef<'_>) -> Option<(Entry, bool, bool)> {
        let fingerprint = fingerprint(key);
        let waiting = self.shared.queue().find(fingerprint).cloned();
        let (entry, is_queued) = match waiting {
            Some(Op::Put(entry)) => (entry, true),
            Some(Op::Remove(below)) => {
                (self.shared.read(fingerprint).filter(|entry| entry.sequence() >= below)?, false)
            }
            None => (self.shared.read(fingerprint)?, false),
        };
        let is_dead = self.shared.is_dead(&entry);
        (entry.key() == key).then_some((entry, is_queued, is_dead))
    }

    /// The newest operation on the key waits to be written, and the file is behind.
    fn is_waiting(&self, entry: &Entry) -> bool {
        self.shared.queue().find(fingerprint(entry.key())).is_some_and(|op| op.overrules(entry))
    }

    /// What waits to be written, and below what waits to be removed.
    fn waiting(&self) -> (Vec<Entry>, Removals) {
        let (mut puts, mut removals) = (Vec::new(), Removals::new());
        for (fingerprint, op) in self.shared.queue().ops() {
            match op {
                Op::Put(entry) => puts.push(entry.clone()),
                Op::Remove(below) => drop(removals.insert(*fingerprint, *below)),
            }
        }
        (puts, removals)
    }

    fn is_well(&self, entry: &Entry) -> bool {
        entry.is_fresh(self.shared.clock.now()) && !self.shared.is_dead(entry)
    }

    /// What the file holds from `from` on, about `count` records, and where to go on.
    fn read_from(&self, from: u128, count: usize) -> (Vec<Entry>, Option<u128>) {
        let shared = &self.shared;
        shared.wait_loaded();
        let from = u64::try_from(from >> REST_BITS).unwrap_or(u64::MAX);
        for look in 1..=LOOKS_MAX {
            if shared.is_discarded() {
                break;
            }
            let (found, next) = shared.catalog.read().from(from, count);
            match self.read_each(&found) {
                Ok((entries, is_all)) if is_all || look == LOOKS_MAX => {
                    return (entries, next.map(|next| u128::from(next) << REST_BITS));
                }
                // Some of it was moved meanwhile: look again where it is.
                Ok(_) => {}
                Err(fault) => {
                    shared.report(fault);
                    break;
                }
            }
        }
        (Vec::new(), None)
    }

    /// The entries of these records, and whether all of them still lie there.
    fn read_each(&self, found: &[Found]) -> Result<(Vec<Entry>, bool), Fault> {
        let slot = self.shared.bulk.read();
        let Some(bulk) = slot.as_ref() else { return Ok((Vec::new(), true)) };
        let (mut entries, mut is_all) = (Vec::with_capacity(found.len()), true);
        for found in found {
            match bulk.get(found)? {
                Some(Ok(entry)) => entries.push(entry),
                None => is_all = false,
                // Found again, counted and removed, by whoever asks for it.
                Some(Err(_)) => {}
            }
        }
        Ok((entries, is_all))
    }
}

/// Below which sequences the records of some keys go.
type Removals = HashMap<u128, u64>;

fn is_removed(removals: &Removals, entry: &Entry) -> bool {
    removals.get(&fingerprint(entry.key())).is_some_and(|below| entry.sequence() < *below)
}

/// A page of which something is moved while it is read is read again, so often.
const LOOKS_MAX: usize = 4;

/// The bits of a fingerprint that the index does not order by.
const REST_BITS: u32 = 88;
