//! What is on disk, as memory knows it: the groups, what of them is alive, and where each key's newest record lies.
//!
//! Only the writer changes it, in short steps; readers look keys up. About 13 bytes a record in all, and some hundred a
//! group. While it is being loaded it is right about what it knows, because groups come in newest first, and says
//! [`Look::Loading`] about the rest. It does not read files.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::index::Index;
use super::intake::Seen;
use super::pack::{self, Directory, Line, Notes, UNTIL_NEVER};

/// Groups and the index of their records.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    index: Index,
    groups: Vec<Option<Group>>,
    /// Places in `groups` that are free.
    free: Vec<u32>,
    /// Where each group stands in `groups`, oldest first.
    by_id: BTreeMap<u64, u32>,
    knowledge: Knowledge,
    pub(crate) sums: Sums,
}

/// How much of the file it knows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// All of it.
    #[default]
    Whole,
    /// It is being read, newest first.
    Loading,
    /// The file cannot be read for now: anything may be in it.
    Nothing,
}

/// What all groups come to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) records: u64,
    pub(crate) live: u64,
    pub(crate) live_bytes: u64,
    /// What the groups take in the file, rows included.
    pub(crate) stored_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u64,
    pub(crate) starts: Box<[u16]>,
    /// One bit a record.
    dead: Box<[u8]>,
    sizes: Box<[u8]>,
    heats: Box<[AtomicU8]>,
    pub(crate) live: u32,
    pub(crate) live_bytes: u64,
    /// What it takes in the file.
    pub(crate) stored_bytes: u64,
    pub(crate) directory_pieces: u32,
    pub(crate) sequence_max: u64,
    pub(crate) sequence_min: u64,
    /// When half of what was alive at the last look will have expired; [`UNTIL_NEVER`] for never.
    pub(crate) half_due_ms: u64,
    /// The dead are more than its notes say.
    pub(crate) is_dirty: bool,
    /// Its heats are not those that its notes say.
    is_worn: AtomicBool,
    pub(crate) directory_sum: u64,
    /// 0 while it has no notes.
    pub(crate) notes_sum: u64,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) group: u64,
    /// The piece it begins in, and which of those that begin there it is.
    pub(crate) piece: u32,
    pub(crate) at: u16,
    pub(crate) place: u32,
    /// Every sequence in its group is at most this.
    pub(crate) sequence_max: u64,
}

/// What is known about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Here(Found),
    Nowhere,
    /// Not known yet: wait for it.
    Loading,
    /// Not known, and not to be found out now.
    Unknown,
}

impl Catalog {
    /// Forgets everything, because it is read anew; `records` are expected.
    pub(crate) fn begin_loading(&mut self, records: u64) {
        *self = Self { index: Index::with_room(records), knowledge: Knowledge::Loading, ..Self::default() };
    }

    /// The file cannot be read any more.
    pub(crate) fn lose(&mut self) {
        *self = Self { knowledge: Knowledge::Nothing, sums: self.sums, ..Self::default() };
    }

    /// Everything is known: takes out of the index what only shadowed older records.
    pub(crate) fn end_loading(&mut self) {
        let groups = &self.groups;
        if groups.iter().flatten().any(|group| group.live < group.records()) {
            self.index.retain(|place| is_alive_in(groups, place));
        }
        self.knowledge = Knowledge::Whole;
    }

    /// There is no file to know anything of.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether all that is in the file is known.
    pub(crate) fn is_whole(&self) -> bool {
        self.knowledge == Knowledge::Whole
    }

    /// A bit for every key that the index knows, with room for so many more.
    pub(crate) fn seen(&self, more: u64) -> Seen {
        let mut seen = Seen::with_room(self.index.len() + more);
        for order in self.index.orders() {
            seen.is_first(order);
        }
        seen
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.knowledge == Knowledge::Loading
    }

    /// Prepares for a look at a key.
    pub(crate) fn approach(&self, fingerprint: u64) {
        self.index.approach(fingerprint);
    }

    pub(crate) fn look(&self, fingerprint: u64) -> Look {
        let Some(place) = self.index.find(fingerprint) else {
            return match self.knowledge {
                Knowledge::Whole => Look::Nowhere,
                Knowledge::Loading => Look::Loading,
                Knowledge::Nothing => Look::Unknown,
            };
        };
        self.at(place).map_or(Look::Nowhere, Look::Here)
    }

    /// No less than the sequence of anything that a kill might bring back under a key; `None` where there is nothing.
    pub(crate) fn sequence_max(&self, fingerprint: u64) -> Option<u64> {
        match self.index.find(fingerprint) {
            Some(place) => self.group_at(split(place).0).map(|group| group.sequence_max),
            None => (!self.is_whole()).then_some(u64::MAX),
        }
    }

    /// Whether it is time to look for expired records in some group.
    pub(crate) fn is_expiry_due(&self, now_ms: u64) -> bool {
        self.groups().any(|group| group.half_due_ms <= now_ms)
    }

    fn at(&self, place: u32) -> Option<Found> {
        let (slot, record) = split(place);
        let group = self.group_at(slot).filter(|group| !group.is_dead(record))?;
        let (piece, at) = pack::locate(&group.starts, record);
        Some(Found { group: group.id, piece, at, place, sequence_max: group.sequence_max })
    }

    /// Some records in the order of their keys in the index, and where to go on; see [`Index::places_from`].
    pub(crate) fn from(&self, from: u64, count: usize) -> (Vec<Found>, Option<u64>) {
        let (places, next) = self.index.places_from(from, count);
        (places.into_iter().filter_map(|(_, place)| self.at(place)).collect(), next)
    }

    /// Counts a use of the record at `place`.
    pub(crate) fn touch(&self, place: u32, heat: u8) {
        let (slot, record) = split(place);
        let Some(group) = self.group_at(slot) else { return };
        if let Some(own) = group.heats.get(usize::from(record))
            && own.swap(heat, Ordering::Relaxed) != heat
        {
            group.is_worn.store(true, Ordering::Relaxed);
        }
    }

    /// Everything was used less recently than it was.
    pub(crate) fn cool(&self) {
        for heat in self.groups().flat_map(|group| &group.heats) {
            heat.store(heat.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }

    /// How many of a group's living are at least so hot, and how many there are.
    pub(crate) fn hot_share(&self, id: u64, least_heat: u8) -> (u64, u64) {
        let Some(group) = self.group(id) else { return (0, 0) };
        let alive = (0..low16(group.sizes.len())).filter(|record| !group.is_dead(*record));
        let hot = alive.filter(|record| group.heat(*record) >= least_heat).count();
        (hot as u64, u64::from(group.live))
    }

    /// Heats, falling, that cut what is alive into parts of about an eighth, three eighths and the rest of the bytes.
    pub(crate) fn heat_cuts(&self) -> Vec<u8> {
        let mut bytes = [0_u64; 256];
        for group in self.groups() {
            for record in (0..low16(group.sizes.len())).filter(|record| !group.is_dead(*record)) {
                let size = group.sizes.get(usize::from(record)).map_or(0, |size| pack::size_of(*size));
                bytes[usize::from(group.heat(record))] += size;
            }
        }
        let (mut cuts, mut sum) = (Vec::new(), 0);
        for heat in (0..=u8::MAX).rev() {
            sum += bytes[usize::from(heat)];
            let part = [self.sums.live_bytes / 8, self.sums.live_bytes / 2].get(cuts.len()).copied();
            if heat == 0 || part.is_some_and(|part| sum > part) {
                cuts.push(heat);
            }
        }
        cuts
    }

    /// Adds an older group than any it has, as the file describes it: what it knows already shadows what is in it.
    pub(crate) fn load(&mut self, directory: &Directory, notes: Option<&Notes>, rows: &Rows) -> bool {
        let Some(slot) = self.add(directory, rows) else { return false };
        for (record, line) in directory.lines.iter().enumerate().rev() {
            if let Some(later) = record.checked_sub(LINES_AHEAD).and_then(|at| directory.lines.get(at)) {
                self.index.approach(later.fingerprint);
            }
            let record = low16(record);
            let is_newest = self.index.insert_absent(line.fingerprint, join(slot, record));
            let was_dead = notes.is_some_and(|notes| bit(&notes.dead, record));
            if !is_newest || was_dead {
                self.kill(slot, record, !was_dead);
            }
            if let (Some(group), Some(notes)) = (self.group_at(slot), notes) {
                let heat = notes.heats.get(usize::from(record)).copied().unwrap_or(line.heat);
                if let Some(own) = group.heats.get(usize::from(record)) {
                    own.store(heat, Ordering::Relaxed);
                }
            }
        }
        true
    }

    /// Adds the newest group; what it holds displaces older records of the same keys. `None` when there are too many.
    pub(crate) fn add(&mut self, directory: &Directory, rows: &Rows) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.groups.len() < GROUPS_MAX => {
                self.groups.push(None);
                u32::try_from(self.groups.len() - 1).ok()?
            }
            None => return None,
        };
        let group = Group::new(directory, rows);
        self.sums.records += u64::from(group.records());
        self.sums.live += u64::from(group.live);
        self.sums.live_bytes += group.live_bytes;
        self.sums.stored_bytes += group.stored_bytes;
        self.by_id.insert(group.id, slot);
        self.groups[slot as usize] = Some(group);
        Some(slot)
    }

    /// The record becomes the newest of its key.
    pub(crate) fn point(&mut self, fingerprint: u64, slot: u32, record: u16) {
        if let Some(old) = self.index.insert(fingerprint, join(slot, record)) {
            let (slot, record) = split(old);
            self.kill(slot, record, true);
        }
    }

    /// The record at `place` has expired. Its key stays known until [`Catalog::forget`], once that stands in the file:
    /// before, a kill and a clock set back would bring it back, also over a newer one that left no mark.
    pub(crate) fn expire(&mut self, place: u32) {
        let (slot, record) = split(place);
        self.kill(slot, record, true);
    }

    /// That the record at `place` is dead stands in the file.
    pub(crate) fn forget(&mut self, fingerprint: u64, place: u32) {
        self.index.remove(fingerprint, place);
    }

    /// The record at `place` is dead.
    pub(crate) fn bury(&mut self, fingerprint: u64, place: u32) {
        self.index.remove(fingerprint, place);
        let (slot, record) = split(place);
        self.kill(slot, record, true);
    }

    /// Forgets a group whose rows are gone; nothing may point into it that is still wanted.
    pub(crate) fn remove(&mut self, id: u64, lines: &[Line]) {
        let Some(slot) = self.by_id.remove(&id) else { return };
        for (record, line) in lines.iter().enumerate() {
            self.index.remove(line.fingerprint, join(slot, low16(record)));
        }
        if let Some(group) = self.groups.get_mut(slot as usize).and_then(Option::take) {
            self.sums.records -= u64::from(group.records());
            self.sums.live -= u64::from(group.live);
            self.sums.live_bytes -= group.live_bytes;
            self.sums.stored_bytes -= group.stored_bytes;
            self.free.push(slot);
        }
    }

    fn kill(&mut self, slot: u32, record: u16, is_news: bool) {
        let Some(group) = self.groups.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let (before, before_bytes) = (group.live, group.live_bytes);
        group.kill(record, is_news);
        self.sums.live -= u64::from(before - group.live);
        self.sums.live_bytes -= before_bytes - group.live_bytes;
    }

    /// Every group, oldest first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.by_id.values().filter_map(|slot| self.group_at(*slot))
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn group(&self, id: u64) -> Option<&Group> {
        self.group_at(*self.by_id.get(&id)?)
    }

    pub(crate) fn group_mut(&mut self, id: u64) -> Option<&mut Group> {
        let slot = *self.by_id.get(&id)?;
        self.groups.get_mut(slot as usize)?.as_mut()
    }

    /// The records of a group that are alive, as places.
    pub(crate) fn live_places(&self, id: u64) -> Vec<(u16, u32)> {
        let Some(slot) = self.by_id.get(&id) else { return Vec::new() };
        let Some(group) = self.group_at(*slot) else { return Vec::new() };
        let alive = (0..low16(group.sizes.len())).filter(|record| !group.is_dead(*record));
        alive.map(|record| (record, join(*slot, record))).collect()
    }

    fn group_at(&self, slot: u32) -> Option<&Group> {
        self.groups.get(slot as usize)?.as_ref()
    }

    /// Something that changes with every group and every note, to be kept in the file: a row that is lost there is
    /// noticed by it.
    pub(crate) fn inventory(&self) -> u64 {
        self.groups().fold(0, |sum, group| sum ^ group.inventory())
    }

    /// What it takes, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let groups: u64 = self.groups.len() as u64 * size_of::<Option<Group>>() as u64
            + self.sums.records * 9 / 4
            + self.by_id.len() as u64 * 64;
        self.index.bytes() + groups
    }
}

/// What is known about the rows of a group beside its directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) directory_sum: u64,
    pub(crate) notes_sum: u64,
    pub(crate) directory_pieces: u32,
    pub(crate) bytes: u64,
}

impl Group {
    fn new(directory: &Directory, rows: &Rows) -> Self {
        let lines = &directory.lines;
        let sizes: Box<[u8]> = lines.iter().map(|line| line.size).collect();
        let mut group = Self {
            id: directory.id,
            starts: directory.starts.clone().into_boxed_slice(),
            dead: vec![0; lines.len().div_ceil(8)].into_boxed_slice(),
            live: u32::try_from(lines.len()).unwrap_or(u32::MAX),
            live_bytes: sizes.iter().map(|size| pack::size_of(*size)).sum(),
            sizes,
            heats: lines.iter().map(|line| AtomicU8::new(line.heat)).collect(),
            stored_bytes: rows.bytes,
            directory_pieces: rows.directory_pieces,
            sequence_max: lines.iter().map(|line| line.sequence).max().unwrap_or(0),
            sequence_min: lines.iter().map(|line| line.sequence).min().unwrap_or(u64::MAX),
            half_due_ms: UNTIL_NEVER,
            is_dirty: false,
            is_worn: AtomicBool::new(false),
            directory_sum: rows.directory_sum,
            notes_sum: rows.notes_sum,
        };
        group.plan_expiry(lines);
        group
    }

    pub(crate) fn records(&self) -> u32 {
        u32::try_from(self.sizes.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn is_dead(&self, record: u16) -> bool {
        bit(&self.dead, record)
    }

    pub(crate) fn heat(&self, record: u16) -> u8 {
        self.heats.get(usize::from(record)).map_or(0, |heat| heat.load(Ordering::Relaxed))
    }

    /// Notes when it is worth looking for expired records again: when half of the living will be.
    pub(crate) fn plan_expiry(&mut self, lines: &[Line]) {
        let alive = lines.iter().enumerate().filter(|(record, _)| !self.is_dead(low16(*record)));
        let mut deadlines: Vec<u64> = alive.map(|(_, line)| line.until_ms).collect();
        let middle = deadlines.len().saturating_sub(1) / 2;
        self.half_due_ms =
            if deadlines.is_empty() { UNTIL_NEVER } else { *deadlines.select_nth_unstable(middle).1 };
    }

    /// Whether its notes should be written for the heats' sake.
    pub(crate) fn is_worn(&self) -> bool {
        self.is_worn.load(Ordering::Relaxed)
    }

    /// Its notes stand in the file as this sum says.
    pub(crate) fn noted(&mut self, notes_sum: u64) {
        self.is_dirty = false;
        self.is_worn.store(false, Ordering::Relaxed);
        self.notes_sum = notes_sum;
    }

    pub(crate) fn notes(&self) -> Notes {
        let heats = self.heats.iter().map(|heat| heat.load(Ordering::Relaxed)).collect();
        Notes { dead: self.dead.to_vec(), heats }
    }

    fn kill(&mut self, record: u16, is_news: bool) {
        let Some(byte) = self.dead.get_mut(usize::from(record / 8)) else { return };
        let mask = 1 << (record % 8);
        if *byte & mask == 0 {
            *byte |= mask;
            self.live -= 1;
            let size = self.sizes.get(usize::from(record)).map_or(0, |size| pack::size_of(*size));
            self.live_bytes = self.live_bytes.saturating_sub(size);
            self.is_dirty |= is_news;
        }
    }

    /// Its part of the inventory.
    pub(crate) fn inventory(&self) -> u64 {
        inventory_of(self.id, self.directory_sum, self.notes_sum)
    }
}

/// A group's part of the inventory.
pub(crate) fn inventory_of(id: u64, directory_sum: u64, notes_sum: u64) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    bytes[8..16].copy_from_slice(&directory_sum.to_le_bytes());
    bytes[16..].copy_from_slice(&notes_sum.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

fn is_alive_in(groups: &[Option<Group>], place: u32) -> bool {
    let (slot, record) = split(place);
    groups.get(slot as usize).and_then(Option::as_ref).is_some_and(|group| !group.is_dead(record))
}

fn bit(bits: &[u8], at: u16) -> bool {
    bits.get(usize::from(at / 8)).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

fn join(slot: u32, record: u16) -> u32 {
    slot << RECORD_BITS | u32::from(record)
}

fn split(place: u32) -> (u32, u16) {
    (place >> RECORD_BITS, (place & ((1 << RECORD_BITS) - 1)) as u16)
}

/// A record's number within its group is smaller than 2^15.
fn low16(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

const RECORD_BITS: u32 = 15;

/// So far ahead the index is asked for the places of keys: about as many misses as a core has under way.
const LINES_AHEAD: usize = 12;

/// One less than fits beside a record's number, so that no place is all ones.
pub(crate) const GROUPS_MAX: usize = (1 << (32 - RECORD_BITS)) - 1;
