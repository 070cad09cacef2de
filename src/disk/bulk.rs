//! `cache.redb`: the records, and the order in which they were written.
//!
//! Tables: `meta` (`format`, `store`, `commit`, `live`), `records` (fingerprint of the key → record, see
//! `disk/record.rs`), `order` ((sequence, fingerprint) → (expires at, charged bytes)). Each batch is one transaction,
//! so a crash at any point leaves the file as it was after some batch, and `commit` says after which.
//! A record is found by its fingerprint in place; no index has to be read first.
//!
//! Promises: [`Bulk::apply`] keeps what the rows take within its budget by dropping the oldest, a bounded number a
//! batch; nothing that the marks call dead is written. It does not know threads, queues or the truth file.

use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::backend::{self, Fault, Limits, Opened, fenced};
use super::queue::{Op, Ops};
use super::record;
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
    /// What its rows take, in bytes.
    pub(crate) live_bytes: u64,
    /// How many records it holds.
    pub(crate) entries: u64,
    /// The highest sequence in it.
    pub(crate) sequence_last: u64,
}

/// What a batch did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) meta: Meta,
    pub(crate) stored: Vec<u128>,
    pub(crate) removed: Vec<u128>,
    /// Records dropped to stay within the budget.
    pub(crate) evicted: u64,
}

impl Bulk {
    /// Makes a new file that belongs to the truth with `store`; whatever stood there must be gone.
    pub(crate) fn create(path: &Path, limits: &Limits, store: u64) -> Result<Self, Fault> {
        let bulk = Self { file: backend::open(path, limits)? };
        fenced(|| {
            let write = bulk.begin()?;
            write.open_table(RECORDS).map_err(redb::Error::from)?;
            write.open_table(ORDER).map_err(redb::Error::from)?;
            put_meta(&write, &[("format", FORMAT), ("store", store), ("commit", 0), ("live", 0)])?;
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

    /// The entry filed under `fingerprint`. A record that is broken is damage of this record only: `Some(Err)`.
    pub(crate) fn get(&self, fingerprint: u128) -> Result<Option<crate::Result<Entry>>, Fault> {
        fenced(|| {
            let read = self.file.db.begin_read().map_err(redb::Error::from)?;
            let records = read.open_table(RECORDS).map_err(redb::Error::from)?;
            let found = records.get(fingerprint).map_err(redb::Error::from)?;
            Ok(found.map(|bytes| record::decode(bytes.value())))
        })
    }

    /// Up to `count` rows of the order that lie below `below`, newest first.
    pub(crate) fn order_below(&self, below: Row, count: usize) -> Result<Vec<Row>, Fault> {
        fenced(|| {
            let read = self.file.db.begin_read().map_err(redb::Error::from)?;
            let order = read.open_table(ORDER).map_err(redb::Error::from)?;
            let rows = order.range(..below).map_err(redb::Error::from)?.rev().take(count);
            let rows = rows.map(|row| row.map(|(row, _)| row.value()));
            Ok(rows.collect::<Result<Vec<_>, _>>().map_err(redb::Error::from)?)
        })
    }

    /// Writes a batch durably, all of it or nothing.
    pub(crate) fn apply(
        &self,
        ops: &Ops,
        is_dead: &dyn Fn(&Entry) -> bool,
        budget_bytes: u64,
    ) -> Result<Applied, Fault> {
        self.file.check_in_place()?;
        fenced(|| {
            let write = self.begin()?;
            let mut applied = Applied { meta: read_meta(&write)?, ..Applied::default() };
            {
                let mut rows = Rows::open(&write, applied.meta.live_bytes)?;
                for (fingerprint, op) in ops {
                    match op {
                        Op::Put(entry) if !is_dead(entry) => {
                            if rows.put(*fingerprint, entry)? {
                                applied.stored.push(*fingerprint);
                            }
                        }
                        Op::Put(entry) => rows.remove(*fingerprint, entry.sequence())?,
                        Op::Remove(sequence) => rows.remove(*fingerprint, *sequence)?,
                    }
                }
                applied.evicted = rows.shrink(budget_bytes)?;
                applied.removed = std::mem::take(&mut rows.removed);
                applied.meta.live_bytes = rows.live_bytes;
            }
            applied.meta.commit += 1;
            put_meta(&write, &[("commit", applied.meta.commit), ("live", applied.meta.live_bytes)])?;
            write.commit().map_err(redb::Error::from)?;
            applied.meta = self.meta()?;
            Ok(applied)
        })
    }

    fn begin(&self) -> Result<WriteTransaction, Fault> {
        let mut write = self.file.db.begin_write().map_err(redb::Error::from)?;
        // Without it, opening after a kill reads the whole file.
        write.set_quick_repair(true);
        Ok(write)
    }

    fn meta(&self) -> Result<Meta, Fault> {
        let read = self.file.db.begin_read().map_err(redb::Error::from)?;
        let meta = read.open_table(META).map_err(redb::Error::from)?;
        let order = read.open_table(ORDER).map_err(redb::Error::from)?;
        let last = order.last().map_err(redb::Error::from)?;
        let sequence_last = last.map_or(0, |(row, _)| row.value().0);
        let entries = redb::ReadableTableMetadata::len(&order).map_err(redb::Error::from)?;
        Ok(Meta { entries, sequence_last, ..meta_in(&meta)? })
    }
}

/// The tables of one transaction, and what their rows take.
struct Rows<'t> {
    records: redb::Table<'t, u128, &'static [u8]>,
    order: redb::Table<'t, Row, (u64, u64)>,
    live_bytes: u64,
    removed: Vec<u128>,
}

impl<'t> Rows<'t> {
    fn open(write: &'t WriteTransaction, live_bytes: u64) -> Result<Self, Fault> {
        let records = write.open_table(RECORDS).map_err(redb::Error::from)?;
        let order = write.open_table(ORDER).map_err(redb::Error::from)?;
        Ok(Self { records, order, live_bytes, removed: Vec::new() })
    }

    /// Whether it was stored: what the format has no room for, or is older than what is there, is not.
    fn put(&mut self, fingerprint: u128, entry: &Entry) -> Result<bool, Fault> {
        let old = self.sequence_of(fingerprint)?;
        if old.is_some_and(|old| old > entry.sequence()) {
            return Ok(false);
        }
        if let Some(old) = old {
            self.unfile(fingerprint, old)?;
        }
        let Some(bytes) = record::encode(entry) else { return Ok(false) };
        let charge_bytes = charge_bytes(bytes.len());
        self.records.insert(fingerprint, bytes.as_slice()).map_err(redb::Error::from)?;
        let row = (entry.sequence(), fingerprint);
        let about = (entry.expires_at().as_millis(), charge_bytes);
        self.order.insert(row, about).map_err(redb::Error::from)?;
        self.live_bytes += charge_bytes;
        Ok(true)
    }

    /// Removes the record if its sequence is below `below`.
    fn remove(&mut self, fingerprint: u128, below: u64) -> Result<(), Fault> {
        match self.sequence_of(fingerprint)? {
            Some(sequence) if sequence < below => {
                self.unfile(fingerprint, sequence)?;
                self.removed.push(fingerprint);
            }
            _ => {}
        }
        Ok(())
    }

    /// Drops the oldest until the rows fit; at most [`EVICTIONS_MAX`] a batch.
    fn shrink(&mut self, budget_bytes: u64) -> Result<u64, Fault> {
        let mut evicted = 0;
        while self.live_bytes > budget_bytes && evicted < EVICTIONS_MAX {
            let oldest = self.order.first().map_err(redb::Error::from)?.map(|(row, _)| row.value());
            let Some((sequence, fingerprint)) = oldest else { break };
            self.unfile(fingerprint, sequence)?;
            self.removed.push(fingerprint);
            evicted += 1;
        }
        Ok(evicted)
    }

    fn sequence_of(&self, fingerprint: u128) -> Result<Option<u64>, Fault> {
        let found = self.records.get(fingerprint).map_err(redb::Error::from)?;
        // A record whose sequence cannot be read is as old as can be.
        Ok(found.map(|bytes| record::peek_sequence(bytes.value()).unwrap_or(0)))
    }

    fn unfile(&mut self, fingerprint: u128, sequence: u64) -> Result<(), Fault> {
        self.records.remove(fingerprint).map_err(redb::Error::from)?;
        let about = self.order.remove((sequence, fingerprint)).map_err(redb::Error::from)?;
        if let Some(about) = about {
            self.live_bytes = self.live_bytes.saturating_sub(about.value().1);
        }
        Ok(())
    }
}

/// What a record of this length takes in the file: small ones share pages that stay partly empty, large ones get a run
/// of pages whose length is a power of two.
fn charge_bytes(record_bytes: usize) -> u64 {
    let bytes = u64::try_from(record_bytes).unwrap_or(u64::MAX / 4) + ROW_BYTES;
    if bytes > PAGE_BYTES / 2 { bytes.next_power_of_two().max(PAGE_BYTES) } else { bytes + bytes / 2 }
}

/// How much of a file that may have `file_bytes_max` its rows may take. The file grows by doubling, and a batch needs
/// free pages beside the ones it replaces.
pub(crate) fn budget_bytes(file_bytes_max: u64) -> u64 {
    let mut step = FILE_BYTES_MIN;
    while step.saturating_mul(2).saturating_add(step / 64 + FILE_HEADER_BYTES) <= file_bytes_max {
        step *= 2;
    }
    step.min(file_bytes_max) / 4 * 3
}

fn read_meta(write: &WriteTransaction) -> Result<Meta, Fault> {
    let meta = write.open_table(META).map_err(redb::Error::from)?;
    meta_in(&meta)
}

fn meta_in(meta: &impl ReadableTable<&'static str, u64>) -> Result<Meta, Fault> {
    let number = |name: &str| -> Result<u64, Fault> {
        let found = meta.get(name).map_err(redb::Error::from)?;
        found.map(|found| found.value()).ok_or_else(|| Fault::Damaged(format!("it has no {name}")))
    };
    let format = number("format")?;
    if format != FORMAT {
        return Err(Fault::Damaged(format!("it has format {format}, this version reads {FORMAT}")));
    }
    let (store, commit, live_bytes) = (number("store")?, number("commit")?, number("live")?);
    Ok(Meta { store, commit, live_bytes, ..Meta::default() })
}

fn put_meta(write: &WriteTransaction, numbers: &[(&str, u64)]) -> Result<(), Fault> {
    let mut meta = write.open_table(META).map_err(redb::Error::from)?;
    for (name, number) in numbers {
        meta.insert(*name, *number).map_err(redb::Error::from)?;
    }
    Ok(())
}

/// Where a record stands in the order: its sequence, then its fingerprint.
pub(crate) type Row = (u64, u128);

/// Above every row.
pub(crate) const ROW_END: Row = (u64::MAX, u128::MAX);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
const ORDER: TableDefinition<'_, Row, (u64, u64)> = TableDefinition::new("order");

/// The format of the tables; that of a record is in each record.
const FORMAT: u64 = 1;

const PAGE_BYTES: u64 = 4096;

/// The rows of one record beside its bytes, in both tables.
const ROW_BYTES: u64 = 96;

/// A batch never evicts more than this, so that it stays short.
const EVICTIONS_MAX: u64 = 4096;

/// What the file holds beside its pages, at most.
const FILE_HEADER_BYTES: u64 = 300 << 10;

/// What an empty file may grow to in any case.
const FILE_BYTES_MIN: u64 = 1 << 20;
