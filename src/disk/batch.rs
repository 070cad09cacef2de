//! One batch: operations and tidying turned into rows, and what follows for the catalog once they are durable.
//!
//! New groups get ids in the order in which their records may shadow each other: what is written anew first, what is
//! new after it. What an operation buries is noted in the same transaction, and so is what has expired; what is merely
//! superseded is noted with the next removal, because until then the newer record itself shadows the older one.

use super::backend::Fault;
use super::bulk::{self, Batch, Bulk, Gone, Meta};
use super::catalog::{Found, Look, Rows, inventory_of};
use super::pack::{Line, Packed, Packer, UNTIL_NEVER, sum_of};
use super::queue::{Op, Ops};
use super::record;
use super::state::{Shared, half};
use super::tidy::Tidying;
use crate::entry::Entry;
use crate::hint::prefetch;

/// A batch under construction.
pub(crate) struct Plan<'p> {
    shared: &'p Shared,
    bulk: &'p Bulk,
    /// All of the batch, of which this may be a part.
    ops: &'p Ops,
    /// When it is made: what has expired later is found by the next.
    now_ms: u64,
    packer: Packer,
    /// Of one record; empty but for its room.
    record: Vec<u8>,
    pub(crate) batch: Batch,
    pub(crate) meta: Meta,
    /// Groups in which an operation buried something, or something has expired.
    touched: Vec<u64>,
    /// What has expired, by key and place.
    forgotten: Vec<(u64, u32)>,
    /// The records of groups that go although some of them were alive.
    lines_gone: Vec<(u64, Vec<Line>)>,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
}

impl<'p> Plan<'p> {
    pub(crate) fn new(shared: &'p Shared, bulk: &'p Bulk, ops: &'p Ops, meta: Meta) -> Self {
        Self {
            shared,
            bulk,
            ops,
            now_ms: shared.clock.now().as_millis(),
            packer: Packer::default(),
            record: Vec::new(),
            batch: Batch::default(),
            meta,
            touched: Vec::new(),
            forgotten: Vec::new(),
            lines_gone: Vec::new(),
            evicted: 0,
            expired: 0,
        }
    }

    /// Groups that go, and those whose living are written anew.
    pub(crate) fn tidy(&mut self, tidying: &Tidying) -> Result<(), Fault> {
        for id in &tidying.moved {
            self.move_group(*id, 0)?;
        }
        for id in &tidying.evicted {
            // What is in use is written anew, unless that is most of it: then the oldest must go after all.
            let (hot, all) = self.shared.catalog.read().hot_share(*id, HEAT_IN_USE);
            if hot > 0 && hot <= all / 2 {
                self.evicted += all - hot;
                self.move_group(*id, HEAT_IN_USE)?;
                continue;
            }
            let mut described = self.bulk.describe(std::slice::from_ref(id))?;
            let Some((directory, ..)) = described.pop() else { continue };
            self.evicted += self.shared.catalog.read().group(*id).map_or(0, |group| u64::from(group.live));
            self.lines_gone.push((*id, directory.lines));
        }
        self.close_group();
        for id in tidying.empty.iter().chain(&tidying.moved).chain(&tidying.evicted) {
            let catalog = self.shared.catalog.read();
            let Some(group) = catalog.group(*id) else { continue };
            let pieces = u32::try_from(group.starts.len()).unwrap_or(u32::MAX);
            let gone = Gone { id: *id, pieces, directory_pieces: group.directory_pieces };
            self.batch.removed.push(gone);
        }
        Ok(())
    }

    /// Writes anew what is alive and at least so hot. The rest goes with the group, and is known until it has gone:
    /// an overwrite that comes before the commit must leave its mark.
    fn move_group(&mut self, id: u64, least_heat: u8) -> Result<(), Fault> {
        let mut described = self.bulk.describe(std::slice::from_ref(&id))?;
        let Some((directory, ..)) = described.pop() else { return Ok(()) };
        let (shared, bulk, ops) = (self.shared, self.bulk, self.ops);
        let now_ms = self.now_ms;
        let catalog = shared.catalog.read();
        let wanted: Vec<(u16, u8)> = catalog
            .live_places(id)
            .into_iter()
            .map(|(record, _)| (record, catalog.group(id).map_or(0, |group| group.heat(record))))
            .filter(|(_, heat)| *heat >= least_heat)
            .collect();
        drop(catalog);
        let mut heats = wanted.iter().map(|(_, heat)| *heat);
        let visit = &mut |record: u16, bytes: crate::Result<&[u8]>| {
            let heat = heats.next().unwrap_or(0);
            let Some(line) = directory.lines.get(usize::from(record)) else { return };
            let entry = bytes.and_then(|bytes| record::decode(bytes).map(|entry| (bytes, entry)));
            match entry {
                Ok((bytes, entry)) => {
                    let is_dead = line.until_ms <= now_ms || shared.is_dead(&entry);
                    // What a removal in this batch is of must not come back as what was written anew.
                    if !is_dead && !ops.overrule(&entry) {
                        self.push(bytes, Line { heat, ..*line });
                    }
                }
                Err(error) => shared.note_broken(&error),
            }
        };
        bulk.read_group(id, &directory.starts, wanted.iter().map(|(record, _)| *record), visit)?;
        self.lines_gone.push((id, directory.lines));
        Ok(())
    }

    /// Prepares for an operation, so that it is quicker when it comes.
    pub(crate) fn approach(&self, fingerprint: u128, op: &Op) {
        self.shared.catalog.read().approach(half(fingerprint));
        if let Op::Put(entry) = op {
            let address = entry.address();
            (0..LINES_OF_AN_ENTRY).for_each(|line| prefetch(address + 64 * line));
        }
    }

    /// An operation on a key.
    pub(crate) fn apply(&mut self, fingerprint: u128, op: &Op) -> Result<(), Fault> {
        match op {
            Op::Put(entry) if !self.shared.is_dead(entry) => self.put(fingerprint, entry),
            Op::Put(entry) => self.remove(fingerprint, entry.sequence().saturating_add(1)),
            Op::Remove(sequence) => self.remove(fingerprint, *sequence),
        }
    }

    fn put(&mut self, fingerprint: u128, entry: &Entry) -> Result<(), Fault> {
        let look = self.shared.catalog.read().look(half(fingerprint));
        if let Look::Here(found) = look
            && entry.sequence() <= found.sequence_max
            && self.standing(&found, fingerprint)?.is_some_and(|sequence| sequence > entry.sequence())
        {
            return Ok(());
        }
        let until_ms = self.shared.until_ms(entry).min(UNTIL_NEVER);
        let mut record = std::mem::take(&mut self.record);
        let is_late = until_ms <= self.now_ms;
        if is_late || record::encode(entry, &mut record).is_none() {
            // The same write may lie there with a later deadline.
            return self.remove(fingerprint, entry.sequence().saturating_add(1));
        }
        let (fingerprint, sequence) = (half(fingerprint), entry.sequence());
        self.push(&record, Line { fingerprint, sequence, until_ms, size: 0, heat: HEAT_NEW });
        record.clear();
        self.record = record;
        self.meta.sequence_last = self.meta.sequence_last.max(sequence);
        Ok(())
    }

    fn remove(&mut self, fingerprint: u128, below: u64) -> Result<(), Fault> {
        let look = self.shared.catalog.read().look(half(fingerprint));
        let Look::Here(found) = look else { return Ok(()) };
        // A record that cannot be read is as old as can be.
        let is_older = found.sequence_max < below
            || self.standing(&found, fingerprint)?.is_some_and(|sequence| sequence < below);
        if is_older {
            self.shared.catalog.write().bury(half(fingerprint), found.place);
            self.touched.push(found.group);
        }
        Ok(())
    }

    /// The sequence of the record that stands under the key; 0 when it is damaged, `None` when it is another key's.
    fn standing(&self, found: &Found, fingerprint: u128) -> Result<Option<u64>, Fault> {
        Ok(match self.bulk.get(found)? {
            Some(Ok(entry)) => (record::fingerprint(entry.key()) == fingerprint).then(|| entry.sequence()),
            Some(Err(_)) => Some(0),
            None => None,
        })
    }

    fn push(&mut self, bytes: &[u8], line: Line) {
        if self.packer.is_full() {
            self.close_group();
        }
        self.packer.push(bytes, line);
    }

    fn close_group(&mut self) {
        if self.packer.is_empty() {
            return;
        }
        let packed = std::mem::take(&mut self.packer).finish(self.meta.next_group);
        self.meta.next_group += 1;
        self.batch.added.push(packed);
    }

    /// Buries what has expired, by the directories alone.
    pub(crate) fn expire(&mut self) -> Result<(), Fault> {
        let now_ms = self.now_ms;
        let catalog = self.shared.catalog.read();
        let due: Vec<u64> =
            catalog.groups().filter(|group| group.half_due_ms <= now_ms).map(|group| group.id).collect();
        drop(catalog);
        for id in due {
            let mut described = self.bulk.describe(std::slice::from_ref(&id))?;
            let Some((directory, ..)) = described.pop() else { continue };
            let mut catalog = self.shared.catalog.write();
            for (record, place) in catalog.live_places(id) {
                if let Some(line) =
                    directory.lines.get(usize::from(record)).filter(|line| line.until_ms <= now_ms)
                {
                    catalog.expire(place);
                    self.forgotten.push((line.fingerprint, place));
                    self.expired += 1;
                }
            }
            if let Some(group) = catalog.group_mut(id) {
                group.plan_expiry(&directory.lines);
            }
            drop(catalog);
            self.touched.push(id);
        }
        Ok(())
    }

    /// Adds the notes that must go with this batch and counts everything; false when there is nothing to write.
    /// With `is_thorough` those too that only say how recently records were used.
    pub(crate) fn finish(&mut self, is_thorough: bool) -> bool {
        self.close_group();
        let catalog = self.shared.catalog.read();
        let writes_all = is_thorough || !self.batch.removed.is_empty();
        let is_gone = |id: u64| self.batch.removed.iter().any(|gone| gone.id == id);
        self.touched.sort_unstable();
        self.touched.dedup();
        let mut inventory = catalog.inventory();
        let (mut groups, mut records) = (catalog.len() as u64, catalog.sums.records);
        for group in catalog.groups() {
            if is_gone(group.id) {
                inventory ^= group.inventory();
                groups -= 1;
                records -= u64::from(group.records());
            } else if (group.is_dirty && (writes_all || self.touched.binary_search(&group.id).is_ok()))
                || (group.is_worn() && is_thorough)
            {
                let notes = group.notes().encode(group.id);
                inventory ^= group.inventory() ^ inventory_of(group.id, group.directory_sum, sum_of(&notes));
                self.batch.notes.push((group.id, notes));
            }
        }
        drop(catalog);
        for added in &self.batch.added {
            inventory ^= inventory_of(added.directory.id, sum_of(&added.directory_bytes), 0);
            groups += 1;
            records += added.directory.lines.len() as u64;
        }
        self.meta = Meta { commit: self.meta.commit + 1, groups, records, inventory, ..self.meta };
        !(self.batch.added.is_empty() && self.batch.notes.is_empty() && self.batch.removed.is_empty())
    }

    /// The batch is durable: the catalog follows. In steps, because readers ask it all the time.
    pub(crate) fn settle(self) -> Meta {
        let shared = self.shared;
        for (id, notes) in &self.batch.notes {
            if let Some(group) = shared.catalog.write().group_mut(*id) {
                group.noted(sum_of(notes));
            }
        }
        for expired in self.forgotten.chunks(LINES_A_STEP) {
            let mut catalog = shared.catalog.write();
            for (fingerprint, place) in expired {
                catalog.forget(*fingerprint, *place);
            }
        }
        for added in &self.batch.added {
            point_to(shared, added);
        }
        for gone in &self.batch.removed {
            let lines =
                self.lines_gone.iter().find(|(id, _)| *id == gone.id).map(|(_, lines)| lines.as_slice());
            shared.catalog.write().remove(gone.id, lines.unwrap_or_default());
        }
        self.meta
    }
}

fn point_to(shared: &Shared, added: &Packed) {
    let rows = Rows {
        directory_sum: sum_of(&added.directory_bytes),
        notes_sum: 0,
        directory_pieces: u32::try_from(added.directory_bytes.chunks(super::pack::PIECE_BYTES).len())
            .unwrap_or(0),
        bytes: bulk::stored_bytes(&added.directory, added.directory_bytes.len()),
    };
    let Some(slot) = shared.catalog.write().add(&added.directory, &rows) else { return };
    let lines: Vec<(u16, &Line)> = (0_u16..).zip(&added.directory.lines).collect();
    for step in lines.chunks(LINES_A_STEP) {
        let mut catalog = shared.catalog.write();
        for (_, line) in step {
            catalog.approach(line.fingerprint);
        }
        for (record, line) in step {
            catalog.point(line.fingerprint, slot, *record);
        }
    }
}

/// Hotter than this is what was in memory when the tier was told last, or was read since.
const HEAT_IN_USE: u8 = 128;

/// So much of a small entry is brought near before it is encoded; the processor sees by itself that more is wanted.
const LINES_OF_AN_ENTRY: usize = 3;

/// What was just written was just used.
const HEAT_NEW: u8 = 255;

/// So many keys are pointed anew under one lock.
const LINES_A_STEP: usize = 32;
