//! `cache.redb`: groups of records. The layouts are written down in `disk/mod.rs`.
//!
//! Promises: a batch is one transaction, all of it or nothing; whatever is wrong with the file comes back as a fault
//! that says whether the file is to blame. It does not know threads, queues, the truth file, or which records live.

use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use xxhash_rust::xxh3::xxh3_64;

use super::backend::{self, Fault, Limits, Opened, fenced};
use super::catalog::{Found, Rows};
use super::pack::{self, Directory, Notes, Packed, Part};
use super::record::{self, Reader};
use crate::entry::Entry;

/// An open `cache.redb`.
#[derive(Debug)]
pub(crate) struct Bulk {
    file: Opened,
}

/// What the file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// The truth that it belongs to.
    pub(crate) store: u64,
    /// How many batches it holds.
    pub(crate) commit: u64,
    /// The id of the next group.
    pub(crate) next_group: u64,
    /// The highest sequence ever in it.
    pub(crate) sequence_last: u64,
    /// How many groups and records it holds.
    pub(crate) groups: u64,
    pub(crate) records: u64,
    /// What [`Catalog::inventory`](super::catalog::Catalog::inventory) comes to.
    pub(crate) inventory: u64,
}

/// One batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) added: Vec<Packed>,
    /// Encoded notes by group.
    pub(crate) notes: Vec<(u64, Vec<u8>)>,
    pub(crate) removed: Vec<Gone>,
}

/// A group that goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    pub(crate) id: u64,
    pub(crate) pieces: u32,
    pub(crate) directory_pieces: u32,
}

impl Bulk {
    /// Makes a new file that belongs to the truth with `store`; whatever stood there must be gone.
    pub(crate) fn create(path: &Path, limits: &Limits, store: u64) -> Result<Self, Fault> {
        let bulk = Self { file: backend::open(path, limits)? };
        fenced(|| {
            let write = bulk.begin()?;
            write.open_table(RECORDS).map_err(redb::Error::from)?;
            write.open_table(DIRECTORIES).map_err(redb::Error::from)?;
            write.open_table(NOTES).map_err(redb::Error::from)?;
            put_meta(&write, &Meta { store, ..Meta::default() })?;
            Ok(write.commit().map_err(redb::Error::from)?)
        })?;
        Ok(bulk)
    }

    /// Opens the file as it is.
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<(Self, Meta), Fault> {
        let bulk = Self { file: backend::open(path, limits)? };
        let meta = fenced(|| bulk.meta())?;
        Ok((bulk, meta))
    }

    /// The record at `found`; `None` when its group has gone meanwhile, `Some(Err)` when this record is damaged.
    pub(crate) fn get(&self, found: &Found) -> Result<Option<crate::Result<Entry>>, Fault> {
        fenced(|| {
            let read = self.file.db.begin_read().map_err(redb::Error::from)?;
            let table = read.open_table(RECORDS).map_err(redb::Error::from)?;
            let piece = table.get((found.group, found.piece)).map_err(redb::Error::from)?;
            let Some(piece) = piece else { return Ok(None) };
            let Some(part) = pack::part(piece.value(), found.at) else {
                return Ok(Some(Err(record::torn())));
            };
            if part.bytes.len() == part.whole_bytes {
                return Ok(Some(record::decode(part.bytes)));
            }
            let next = |number: u32| {
                let piece = table.get((found.group, number)).map_err(redb::Error::from)?;
                Ok(piece.map(|piece| piece.value().to_vec()))
            };
            Ok(Some(join(&part, found.piece, next)?.and_then(|bytes| record::decode(&bytes))))
        })
    }

    /// The ids of all groups, newest first.
    pub(crate) fn groups(&self) -> Result<Vec<u64>, Fault> {
        fenced(|| {
            let read = self.file.db.begin_read().map_err(redb::Error::from)?;
            let table = read.open_table(DIRECTORIES).map_err(redb::Error::from)?;
            let (mut ids, mut below) = (Vec::new(), (u64::MAX, u32::MAX));
            while let Some(row) = table.range(..below).map_err(redb::Error::from)?.next_back() {
                let (row, _) = row.map_err(redb::Error::from)?;
                below = (row.value().0, 0);
                ids.push(below.0);
            }
            Ok(ids)
        })
    }

    /// What the file knows about some groups; one that is missing or damaged is damage of the file.
    pub(crate) fn describe(&self, ids: &[u64]) -> Result<Vec<(Directory, Option<Notes>, Rows)>, Fault> {
        fenced(|| {
            let read = self.file.db.begin_read().map_err(redb::Error::from)?;
            let directories = read.open_table(DIRECTORIES).map_err(redb::Error::from)?;
            let notes = read.open_table(NOTES).map_err(redb::Error::from)?;
            let mut described = Vec::with_capacity(ids.len());
            for id in ids {
                let bytes = whole(&directories, *id)?;
                let damaged =
                    |what: &str| Fault::Damaged(format!("{what} of group {id} does not match its checksum"));
                let directory = Directory::decode(&bytes.0, *id).ok_or_else(|| damaged("the directory"))?;
                let found = notes.get(*id).map_err(redb::Error::from)?;
                let (mut notes_sum, mut own_notes) = (0, None);
                if let Some(found) = found {
                    notes_sum = pack::sum_of(found.value());
                    let decoded = Notes::decode(found.value(), *id, directory.lines.len());
                    own_notes = Some(decoded.ok_or_else(|| damaged("the notes"))?);
                }
                let rows_bytes = stored_bytes(&directory, bytes.0.len());
                let directory_sum = pack::sum_of(&bytes.0);
                let rows = Rows { directory_sum, notes_sum, directory_pieces: bytes.1, bytes: rows_bytes };
                described.push((directory, own_notes, rows));
            }
            Ok(described)
        })
    }

    /// Shows the records of `group` named by `wanted` (ascending), each whole or damaged, with its number.
    pub(crate) fn read_group(
        &self,
        group: u64,
        starts: &[u16],
        wanted: impl Iterator<Item = u16>,
        visit: &mut dyn FnMut(u16, crate::Result<&[u8]>),
    ) -> Result<(), Fault> {
        fenced(|| {
            let read = self.file.db.begin_read().map_err(redb::Error::from)?;
            let table = read.open_table(RECORDS).map_err(redb::Error::from)?;
            let fetch = |number: u32| -> Result<Option<Vec<u8>>, Fault> {
                let piece = table.get((group, number)).map_err(redb::Error::from)?;
                Ok(piece.map(|piece| piece.value().to_vec()))
            };
            let mut held: Option<(u32, Option<Vec<u8>>)> = None;
            for record in wanted {
                let (number, at) = pack::locate(starts, record);
                if held.as_ref().is_none_or(|(held, _)| *held != number) {
                    held = Some((number, fetch(number)?));
                }
                let piece = held.as_ref().and_then(|(_, piece)| piece.as_deref()).unwrap_or_default();
                match pack::part(piece, at) {
                    None => visit(record, Err(record::torn())),
                    Some(part) if part.bytes.len() == part.whole_bytes => visit(record, Ok(part.bytes)),
                    Some(part) => match join(&part, number, fetch)? {
                        Ok(bytes) => visit(record, Ok(&bytes)),
                        Err(error) => visit(record, Err(error)),
                    },
                }
            }
            Ok(())
        })
    }

    /// Writes a batch durably.
    pub(crate) fn commit(&self, batch: &Batch, meta: &Meta) -> Result<(), Fault> {
        self.file.check_in_place()?;
        fenced(|| {
            let write = self.begin()?;
            {
                let mut records = write.open_table(RECORDS).map_err(redb::Error::from)?;
                let mut directories = write.open_table(DIRECTORIES).map_err(redb::Error::from)?;
                let mut notes = write.open_table(NOTES).map_err(redb::Error::from)?;
                for gone in &batch.removed {
                    for piece in 0..gone.pieces {
                        records.remove((gone.id, piece)).map_err(redb::Error::from)?;
                    }
                    for piece in 0..gone.directory_pieces {
                        directories.remove((gone.id, piece)).map_err(redb::Error::from)?;
                    }
                    notes.remove(gone.id).map_err(redb::Error::from)?;
                }
                for group in &batch.added {
                    let id = group.directory.id;
                    for (number, piece) in (0_u32..).zip(&group.pieces) {
                        records.insert((id, number), piece.as_slice()).map_err(redb::Error::from)?;
                    }
                    for (number, piece) in (0_u32..).zip(group.directory_bytes.chunks(pack::PIECE_BYTES)) {
                        directories.insert((id, number), piece).map_err(redb::Error::from)?;
                    }
                }
                for (id, bytes) in &batch.notes {
                    notes.insert(*id, bytes.as_slice()).map_err(redb::Error::from)?;
                }
            }
            put_meta(&write, meta)?;
            Ok(write.commit().map_err(redb::Error::from)?)
        })
    }

    /// Closes the file, makes it `bytes` long and opens it again; as it was, where it cannot be made longer, with why.
    pub(crate) fn grow(
        self,
        path: &Path,
        limits: &Limits,
        bytes: u64,
    ) -> Result<(Self, Meta, Option<Fault>), Fault> {
        self.file.check_in_place()?;
        fenced(|| {
            drop(self);
            Ok(())
        })?;
        let extended = backend::extend(path, limits, bytes);
        let (bulk, meta) = Self::open(path, limits)?;
        Ok((bulk, meta, extended.err()))
    }

    /// Gives free pages at the end of the file back to the system; nothing else may use the file meanwhile.
    pub(crate) fn compact(&mut self) -> Result<bool, Fault> {
        self.file.check_in_place()?;
        let db = &mut self.file.db;
        fenced(|| Ok(db.compact().map_err(redb::Error::from)?))
    }

    fn begin(&self) -> Result<WriteTransaction, Fault> {
        let mut write = self.file.db.begin_write().map_err(redb::Error::from)?;
        // Without it, opening after a kill reads the whole file.
        write.set_quick_repair(true);
        Ok(write)
    }

    fn meta(&self) -> Result<Meta, Fault> {
        let read = self.file.db.begin_read().map_err(redb::Error::from)?;
        let table = match read.open_table(META) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => {
                return Err(Fault::Damaged(format!("it has an older format, this version reads {FORMAT}")));
            }
            Err(error) => return Err(redb::Error::from(error).into()),
        };
        let found = table.get(META_ROW).map_err(redb::Error::from)?;
        let found = found.ok_or_else(|| Fault::Damaged("it says nothing about itself".to_owned()))?;
        parse_meta(found.value())
    }
}

/// A record that goes on beyond the piece it begins in.
fn join(
    part: &Part<'_>,
    first: u32,
    mut next: impl FnMut(u32) -> Result<Option<Vec<u8>>, Fault>,
) -> Result<crate::Result<Vec<u8>>, Fault> {
    let mut bytes = part.bytes.to_vec();
    let mut number = first;
    while bytes.len() < part.whole_bytes {
        number += 1;
        let piece = next(number)?.unwrap_or_default();
        match pack::rest(&piece, part.whole_bytes - bytes.len()) {
            Some(rest) if !rest.is_empty() => bytes.extend_from_slice(rest),
            _ => return Ok(Err(record::torn())),
        }
    }
    Ok(Ok(bytes))
}

/// All pieces of a directory, joined, and how many they are.
fn whole(table: &impl ReadableTable<(u64, u32), &'static [u8]>, id: u64) -> Result<(Vec<u8>, u32), Fault> {
    let (mut bytes, mut pieces) = (Vec::new(), 0);
    for row in table.range((id, 0)..=(id, u32::MAX)).map_err(redb::Error::from)? {
        let (_, piece) = row.map_err(redb::Error::from)?;
        bytes.extend_from_slice(piece.value());
        pieces += 1;
    }
    Ok((bytes, pieces))
}

/// What a group takes in the file.
pub(crate) fn stored_bytes(directory: &Directory, directory_bytes: usize) -> u64 {
    let whole_pieces = (directory.starts.len() as u64).saturating_sub(1);
    let offsets = 2 * (directory.lines.len() + directory.starts.len()) as u64;
    let last = (directory.bytes + offsets).saturating_sub(whole_pieces * pack::PIECE_BYTES as u64);
    let notes = directory.lines.len() as u64 * 9 / 8 + 24;
    whole_pieces * PIECE_PAGES_BYTES + pages(last) + pages(directory_bytes as u64) + pages(notes)
}

/// What a row takes: small ones share pages, large ones get a run of pages whose length is a power of two.
fn pages(bytes: u64) -> u64 {
    match bytes {
        0..2048 => (bytes + 32) * 3 / 2,
        2048..65_400 => (bytes + 100).next_power_of_two().max(PAGE_BYTES),
        _ => (bytes + 100).next_multiple_of(PIECE_PAGES_BYTES),
    }
}

/// How much of a file that may come to `file_bytes_max` its rows may take, now that it has `file_bytes`. A batch needs
/// free pages beside the ones it replaces.
pub(crate) fn budget_bytes(file_bytes_max: u64, file_bytes: u64) -> u64 {
    if file_bytes > file_bytes_max {
        // It is going to be compacted, and redb closes a file without free pages by doubling it for a moment.
        return file_bytes_max / 16 * 7;
    }
    file_bytes_max / 4 * 3 - (file_bytes_max / 5).min(BATCH_ROOM_BYTES)
}

/// To how much a file of `file_bytes` should be grown before `incoming_bytes` are written to the `stored_bytes` in it;
/// `None` when there is room enough, or no more to be had this way.
pub(crate) fn grown_bytes(
    file_bytes_max: u64,
    file_bytes: u64,
    stored_bytes: u64,
    incoming_bytes: u64,
) -> Option<u64> {
    // What a batch replaces becomes free with the next but one, and some is written anew beside it.
    let moved_bytes = (stored_bytes / 4).min(BATCH_ROOM_BYTES / 2);
    let needed_bytes = stored_bytes / 8 * 9 + 3 * incoming_bytes + moved_bytes + FILE_BYTES_MIN;
    let bytes_max = file_bytes_max / PAGE_BYTES * PAGE_BYTES;
    // Doubling costs a small file little, and redb gives back at once what is half free.
    let is_small = needed_bytes < SMALL_FILE_BYTES && 2 * needed_bytes <= bytes_max;
    if is_small || needed_bytes <= file_bytes || bytes_max <= file_bytes {
        return None;
    }
    let next_bytes = needed_bytes.max(file_bytes + (file_bytes / 8).max(FILE_BYTES_MIN));
    Some(next_bytes.next_multiple_of(PAGE_BYTES).min(bytes_max))
}

fn parse_meta(bytes: &[u8]) -> Result<Meta, Fault> {
    let format = Reader(bytes).u64();
    if format != Some(FORMAT) {
        let found = format.map_or("no format".to_owned(), |format| format!("format {format}"));
        return Err(Fault::Damaged(format!("it has {found}, this version reads {FORMAT}")));
    }
    let damaged = || Fault::Damaged("what it says about itself does not match its checksum".to_owned());
    let (covered, sum) = bytes.split_last_chunk::<8>().ok_or_else(damaged)?;
    if xxh3_64(covered) != u64::from_le_bytes(*sum) {
        return Err(damaged());
    }
    let mut reader = Reader(covered.get(8..).unwrap_or_default());
    let mut number = || reader.u64().ok_or_else(damaged);
    Ok(Meta {
        store: number()?,
        commit: number()?,
        next_group: number()?,
        sequence_last: number()?,
        groups: number()?,
        records: number()?,
        inventory: number()?,
    })
}

fn put_meta(write: &WriteTransaction, meta: &Meta) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    let numbers = [
        FORMAT,
        meta.store,
        meta.commit,
        meta.next_group,
        meta.sequence_last,
        meta.groups,
        meta.records,
        meta.inventory,
    ];
    for number in numbers {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    let mut table = write.open_table(META).map_err(redb::Error::from)?;
    table.insert(META_ROW, bytes.as_slice()).map_err(redb::Error::from)?;
    Ok(())
}

/// The format of the tables; that of a record, a directory and notes is in each of them. The first format filed each
/// record alone.
const FORMAT: u64 = 2;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bulk");
const META_ROW: &str = "meta";
const RECORDS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("groups");
const DIRECTORIES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("directories");
const NOTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("notes");

const PAGE_BYTES: u64 = 4096;

/// What a full piece takes.
const PIECE_PAGES_BYTES: u64 = 16 * PAGE_BYTES;

/// A batch replaces pages that are free only once the next one is durable: in a small file that is much of it.
const BATCH_ROOM_BYTES: u64 = 16 << 20;

/// It grows by so much at least.
const FILE_BYTES_MIN: u64 = 1 << 20;

/// What stays smaller is left to redb.
const SMALL_FILE_BYTES: u64 = 8 << 20;
