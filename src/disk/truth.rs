//! `cache-truth.redb`: what is dead, durably, and which bulk may be believed.
//!
//! Tables: `meta` (`format`, `epoch`, `store`, `settled`, `checksum` of epoch and store, `digest` over all rows), `floors` (`*`, `n:NAMESPACE`, `t:TAG` → sequence), `graves`
//! (fingerprint → sequence). A change is one fsynced transaction, so a crash at any point leaves the file as it was
//! before or after it. `epoch` counts opens and is raised before anything else, so no sequence is ever given twice.
//! `store` names the one bulk that belongs to this truth; `settled` is the batch of that bulk by which the graves that
//! were since filled in were gone from it, so an older copy of the bulk is recognised.
//!
//! It does not know threads, or what is in the bulk.

use std::cell::Cell;
use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::backend::{self, Fault, Limits, Opened, fenced};
use super::marks::Floor;
use crate::key::{Namespace, Tag};
use crate::pattern::Pattern;

/// An open `cache-truth.redb`.
#[derive(Debug)]
pub(crate) struct TruthFile {
    file: Opened,
    /// The exclusive or of a sum over all floors and graves: a row that a damaged page changes, hides or doubles is
    /// noticed at the next open.
    digest: Cell<u64>,
}

/// Everything the file says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) epoch: u64,
    pub(crate) store: u64,
    pub(crate) settled: u64,
    pub(crate) floors: Vec<(Floor, u64)>,
    pub(crate) graves: Vec<(u128, u64)>,
}

/// One thing that died.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Grave(u128, u64),
    Floor(Floor, u64),
}

impl TruthFile {
    /// Opens the file, or makes an empty one; what an empty one says is nothing, in every field.
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<(Self, Stored), Fault> {
        let is_new = std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
        let truth = Self { file: backend::open(path, limits)?, digest: Cell::new(0) };
        let stored = if is_new { Stored::default() } else { fenced(|| truth.read())? };
        truth.digest.set(digest_of(&stored));
        Ok((truth, stored))
    }

    /// Writes everything anew.
    pub(crate) fn replace(&self, stored: &Stored) -> Result<(), Fault> {
        let digest = digest_of(stored);
        self.write(digest, |write| {
            write.delete_table(META).map_err(redb::Error::from)?;
            write.delete_table(FLOORS).map_err(redb::Error::from)?;
            write.delete_table(GRAVES).map_err(redb::Error::from)?;
            put_meta(write, stored)?;
            let mut floors = write.open_table(FLOORS).map_err(redb::Error::from)?;
            for (floor, sequence) in &stored.floors {
                floors.insert(floor_name(floor).as_str(), *sequence).map_err(redb::Error::from)?;
            }
            let mut graves = write.open_table(GRAVES).map_err(redb::Error::from)?;
            for (fingerprint, sequence) in &stored.graves {
                graves.insert(*fingerprint, *sequence).map_err(redb::Error::from)?;
            }
            Ok(())
        })
    }

    /// Writes only the numbers, when a file that is trusted is opened for another run.
    pub(crate) fn begin_epoch(&self, stored: &Stored) -> Result<(), Fault> {
        self.write(self.digest.get(), |write| put_meta(write, stored))
    }

    /// Adds deaths, and fills in graves that are settled as of batch `settled`.
    pub(crate) fn record(
        &self,
        changes: &[Change],
        filled: &[(u128, u64)],
        settled: Option<u64>,
    ) -> Result<(), Fault> {
        let digest = Cell::new(self.digest.get());
        self.write_then(&digest, |write| {
            let mut floors = write.open_table(FLOORS).map_err(redb::Error::from)?;
            let mut graves = write.open_table(GRAVES).map_err(redb::Error::from)?;
            for (fingerprint, sequence) in filled {
                let old = graves.get(*fingerprint).map_err(redb::Error::from)?.map(|old| old.value());
                if let Some(old) = old.filter(|old| *old <= *sequence) {
                    toggle(&digest, &fingerprint.to_le_bytes(), old);
                    graves.remove(*fingerprint).map_err(redb::Error::from)?;
                }
            }
            for change in changes {
                match change {
                    Change::Grave(fingerprint, sequence) => {
                        let old = raise(&mut graves, *fingerprint, *sequence)?;
                        note_raise(&digest, &fingerprint.to_le_bytes(), old, *sequence);
                    }
                    Change::Floor(floor, sequence) => {
                        if *floor == Floor::All {
                            // The others that are below it say nothing any more.
                            let keeps = |name: &str, other: u64| {
                                if other <= *sequence {
                                    toggle(&digest, name.as_bytes(), other);
                                }
                                other > *sequence
                            };
                            floors.retain(keeps).map_err(redb::Error::from)?;
                        }
                        let name = floor_name(floor);
                        let old = raise(&mut floors, name.as_str(), *sequence)?;
                        note_raise(&digest, name.as_bytes(), old, *sequence);
                    }
                }
            }
            if let Some(settled) = settled {
                let mut meta = write.open_table(META).map_err(redb::Error::from)?;
                meta.insert("settled", settled).map_err(redb::Error::from)?;
            }
            Ok(())
        })
    }

    /// Writes what leaves the rows with this digest.
    fn write(
        &self,
        digest: u64,
        act: impl FnOnce(&WriteTransaction) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.write_then(&Cell::new(digest), act)
    }

    /// As [`TruthFile::write`], with a digest that is known once the rows are written.
    fn write_then(
        &self,
        digest: &Cell<u64>,
        act: impl FnOnce(&WriteTransaction) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.file.check_in_place()?;
        fenced(|| {
            let write = self.file.db.begin_write().map_err(redb::Error::from)?;
            act(&write)?;
            let mut meta = write.open_table(META).map_err(redb::Error::from)?;
            meta.insert("digest", digest.get()).map_err(redb::Error::from)?;
            drop(meta);
            Ok(write.commit().map_err(redb::Error::from)?)
        })?;
        self.digest.set(digest.get());
        Ok(())
    }

    fn read(&self) -> Result<Stored, Fault> {
        let read = self.file.db.begin_read().map_err(redb::Error::from)?;
        let meta = read.open_table(META).map_err(redb::Error::from)?;
        let number = |name: &str| -> Result<u64, Fault> {
            let found = meta.get(name).map_err(redb::Error::from)?;
            found.map(|found| found.value()).ok_or_else(|| Fault::Damaged(format!("it has no {name}")))
        };
        let format = number("format")?;
        if format != FORMAT {
            return Err(Fault::Damaged(format!("it has format {format}, this version reads {FORMAT}")));
        }
        let mut stored = Stored {
            epoch: number("epoch")?,
            store: number("store")?,
            settled: number("settled")?,
            ..Stored::default()
        };
        if checksum(&stored) != number("checksum")? {
            return Err(Fault::Damaged("its numbers do not match their checksum".to_owned()));
        }
        let floors = read.open_table(FLOORS).map_err(redb::Error::from)?;
        for row in floors.iter().map_err(redb::Error::from)? {
            let (name, sequence) = row.map_err(redb::Error::from)?;
            let floor = parse_floor(name.value())
                .ok_or_else(|| Fault::Damaged(format!("it has an unknown floor {:?}", name.value())))?;
            stored.floors.push((floor, sequence.value()));
        }
        let graves = read.open_table(GRAVES).map_err(redb::Error::from)?;
        for row in graves.iter().map_err(redb::Error::from)? {
            let (fingerprint, sequence) = row.map_err(redb::Error::from)?;
            stored.graves.push((fingerprint.value(), sequence.value()));
        }
        if digest_of(&stored) != number("digest")? {
            return Err(Fault::Damaged("its rows are not the ones it should have".to_owned()));
        }
        Ok(stored)
    }
}

fn put_meta(write: &WriteTransaction, stored: &Stored) -> Result<(), Fault> {
    let mut meta = write.open_table(META).map_err(redb::Error::from)?;
    let numbers = [
        ("format", FORMAT),
        ("epoch", stored.epoch),
        ("store", stored.store),
        ("settled", stored.settled),
        ("checksum", checksum(stored)),
    ];
    for (name, number) in numbers {
        meta.insert(name, number).map_err(redb::Error::from)?;
    }
    Ok(())
}

/// Over the numbers on which the order of everything rests. `settled` moves on its own and only ever makes a bulk less
/// trusted, so it stands outside.
fn checksum(stored: &Stored) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&stored.epoch.to_le_bytes());
    bytes[8..].copy_from_slice(&stored.store.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Raises a row where it is lower, and says how high it was.
fn raise<K: redb::Key + 'static>(
    table: &mut Table<'_, K, u64>,
    key: K::SelfType<'_>,
    sequence: u64,
) -> Result<u64, Fault> {
    let old = table.get(&key).map_err(redb::Error::from)?.map_or(0, |old| old.value());
    if old < sequence {
        table.insert(key, sequence).map_err(redb::Error::from)?;
    }
    Ok(old)
}

fn digest_of(stored: &Stored) -> u64 {
    let digest = Cell::new(0);
    for (floor, sequence) in &stored.floors {
        toggle(&digest, floor_name(floor).as_bytes(), *sequence);
    }
    for (fingerprint, sequence) in &stored.graves {
        toggle(&digest, &fingerprint.to_le_bytes(), *sequence);
    }
    digest.get()
}

/// A row was raised from `old`, 0 for none.
fn note_raise(digest: &Cell<u64>, name: &[u8], old: u64, sequence: u64) {
    if old < sequence {
        if old > 0 {
            toggle(digest, name, old);
        }
        toggle(digest, name, sequence);
    }
}

/// Adds a row to the digest, or takes it out again.
fn toggle(digest: &Cell<u64>, name: &[u8], sequence: u64) {
    let row_sum = xxhash_rust::xxh3::xxh3_64_with_seed(name, sequence);
    digest.set(digest.get() ^ row_sum);
}

fn floor_name(floor: &Floor) -> String {
    match floor {
        Floor::All => "*".to_owned(),
        Floor::Namespace(namespace) => format!("n:{namespace}"),
        Floor::Tag(tag) => format!("t:{}", tag.as_str()),
        Floor::Pattern(pattern) => format!("p:{}", pattern.as_str()),
    }
}

fn parse_floor(name: &str) -> Option<Floor> {
    match name.split_once(':') {
        None if name == "*" => Some(Floor::All),
        Some(("n", namespace)) => Namespace::parse(namespace).ok().map(Floor::Namespace),
        Some(("t", tag)) => Tag::parse(tag).ok().map(Floor::Tag),
        Some(("p", pattern)) => Pattern::parse(pattern).ok().map(Floor::Pattern),
        _ => None,
    }
}

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FLOORS: TableDefinition<'_, &str, u64> = TableDefinition::new("floors");
const GRAVES: TableDefinition<'_, u128, u64> = TableDefinition::new("graves");

/// The first format had no digest.
const FORMAT: u64 = 2;
