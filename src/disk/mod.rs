//! The disk tier: a copy of the cache that survives the process.
//!
//! Two redb files. `cache.redb`, the bulk, holds the entries (`disk/bulk.rs`, `disk/record.rs`) and is written behind
//! by one thread (`disk/writer.rs`, `disk/queue.rs`). `cache-truth.redb`, the truth, holds what is dead
//! (`disk/truth.rs`, `disk/marks.rs`) and is fsynced before a delete or an invalidation is acknowledged
//! (`disk/scribe.rs`). A bulk is believed only with the truth that bears its store id.
//!
//! **What a crash leaves behind.** Every entry has one number, its sequence; so has every delete and invalidation. The
//! upper 24 bits are the epoch, which the truth counts up durably at every open, so a number is never given twice. A
//! crash before the epoch is written: nothing happened. Between truth and bulk of a first start: a truth without its
//! bulk, which gets a new one. Between a put and its batch: the put is lost. Between a delete in the truth and the
//! batch that removes the record: the grave says it is dead, and the next open removes it. Between that batch and the
//! grave's filling in: a grave too many, until the next open.
//!
//! Between an overwrite and its batch: the mark it left (`disk/log.rs`) says that the older record is dead.
//!
//! Promises: a file that is damaged, foreign, half-written or newer never fails the open and never yields a wrong
//! byte; a disk that fails costs persistence, not the cache; nothing acknowledged as dead comes back; memory is bounded
//! by the queue's bound, the page caches, 8 bytes and a slot a key on disk, and the graves. A put is durable once
//! [`Disk::flush`] after it returns: `durability = always` is the caller's flush. It does not know the memory tier,
//! sources, or what a body means.

mod backend;
mod bulk;
mod log;
mod marks;
mod open;
mod queue;
pub(crate) mod record;
mod scribe;
mod state;
mod truth;
mod writer;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use self::marks::Floor;
use self::queue::{Op, Queued};
use self::record::fingerprint;
use self::scribe::Ask;
use self::state::Shared;
use self::truth::Change;
use crate::clock::Clock;
use crate::datadir::DataDir;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyRef};

/// When what is written is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Entries after the flush interval, deletes and invalidations before they are acknowledged.
    #[default]
    Interval,
    /// As `Interval`; and the caller flushes before it acknowledges a write.
    Always,
    /// Nothing is waited for.
    None,
}

/// How the disk tier is to behave.
#[derive(Debug, Clone)]
pub(crate) struct DiskOptions {
    /// The bound of the bulk's file.
    pub(crate) bytes_max: u64,
    pub(crate) durability: Durability,
    /// How long an entry waits to be written at most, while the disk keeps up.
    pub(crate) flush_interval: Duration,
    /// How many bytes of entries may wait to be written.
    pub(crate) queue_bytes_max: u64,
}

/// What the truth said at the open.
#[derive(Debug)]
pub(crate) struct Truth {
    /// Everything below these is dead.
    pub(crate) floors: Vec<(Floor, u64)>,
    /// Above every sequence ever given before.
    pub(crate) first_sequence: u64,
}

/// Whether the tier persists.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskState {
    /// It persists.
    Healthy,
    /// Memory only for now, because of this.
    Degraded(String),
}

/// The tier in numbers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiskStatus {
    /// Whether it persists.
    pub state: DiskState,
    /// What the records take.
    pub live_bytes: u64,
    /// What of the file is not live.
    pub dead_bytes: u64,
    /// What the file takes.
    pub file_bytes: u64,
    /// How many records it holds.
    pub entries: u64,
    /// What waits to be written.
    pub queued_bytes: u64,
    /// How many of them wait to be written.
    pub queued: usize,
    /// Puts that found no room in the queue.
    pub dropped: u64,
    /// Puts that were dead on arrival.
    pub refused: u64,
    /// Records dropped to stay within the bound.
    pub evicted: u64,
    /// Records whose checksum did not hold.
    pub broken: u64,
}

/// The disk tier of one cache. Its threads end with [`Disk::close`] or its drop.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    scribe: Sender<Ask>,
    /// Writer, index and truth, joined in this order.
    threads: Mutex<Vec<JoinHandle<()>>>,
    first_sequence: u64,
}

impl Disk {
    /// Opens both files, setting aside what cannot be trusted; a disk that fails opens a degraded tier.
    pub(crate) fn open(dir: &DataDir, options: DiskOptions, clock: Clock) -> Result<(Self, Truth)> {
        open::open(dir, options, clock, backend::Fuse::none())
    }

    /// The entry of `key`, if it is there, alive and fresh. Blocking: it may read the disk.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<Entry> {
        let fingerprint = fingerprint(key);
        let waiting = self.shared.queue.lock().find(fingerprint).cloned();
        let entry = match waiting {
            Some(Op::Put(entry)) => entry,
            Some(Op::Remove(_)) => return None,
            None => self.read(fingerprint)?,
        };
        let is_alive = entry.key() == key && !self.shared.marks.read().is_dead(&entry);
        if is_alive && !entry.is_fresh(self.shared.clock.now()) {
            self.shared.remove(fingerprint, entry.sequence().saturating_add(1));
            return None;
        }
        is_alive.then_some(entry)
    }

    /// Whether [`Disk::get`] might find `key`; never blocks on the disk, and is never wrong when it says no.
    pub(crate) fn may_contain(&self, key: KeyRef<'_>) -> bool {
        let fingerprint = fingerprint(key);
        let waiting = self.shared.queue.lock().find(fingerprint).map(|op| matches!(op, Op::Put(_)));
        waiting.unwrap_or_else(|| self.shared.may_contain(fingerprint))
    }

    /// Has `entry` written, later; never waits for the disk. What finds no room is dropped and counted.
    pub(crate) fn put(&self, entry: &Entry) {
        let shared = &self.shared;
        if shared.marks.read().is_refused(entry) {
            shared.counts.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let fingerprint = fingerprint(entry.key());
        let may_be_on_disk = !shared.is_discarded() && shared.may_contain(fingerprint);
        let mut queue = shared.queue.lock();
        let needs_mark = (may_be_on_disk || queue.is_writing(fingerprint)) && !queue.is_pending(fingerprint);
        let marked = if needs_mark { shared.log.lock().leave(fingerprint, entry.sequence()) } else { Ok(()) };
        let bytes_max = shared.options.queue_bytes_max;
        if queue.push(fingerprint, Op::Put(entry.clone()), bytes_max) == Queued::Full {
            queue.dropped += 1;
            if may_be_on_disk || queue.find(fingerprint).is_some() {
                queue.push(fingerprint, Op::Remove(entry.sequence()), bytes_max);
            }
        }
        drop(queue);
        shared.wake.notify_one();
        if let Err(error) = marked {
            // The older record could come back after a kill: better that none does.
            tracing::warn!(%error, "an overwrite could not be marked: the cache file is given up");
            if let Err(error) = shared.discard_bulk() {
                tracing::warn!(error = error.chain(), "nor could the cache file be removed");
            }
        }
    }

    /// Kills what is older than `sequence` under each of `keys` for this process, without waiting for the disk: from
    /// the return on no read finds it. What is acknowledged needs [`Disk::delete`] as well.
    pub(crate) fn bury(&self, keys: &[Key], sequence: u64) {
        let mut marks = self.shared.marks.write();
        for key in keys {
            marks.bury(fingerprint(key.as_key_ref()), sequence);
        }
    }

    /// As [`Disk::bury`], for a floor; what is acknowledged needs [`Disk::raise`] as well.
    pub(crate) fn mark(&self, floor: Floor, sequence: u64) {
        let mut marks = self.shared.marks.write();
        let floor = marks.bounded(floor);
        marks.raise(&floor, sequence);
    }

    /// Kills what is older than `sequence` under each of `keys`, durably.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; in memory it holds all the same.
    pub(crate) fn delete(&self, keys: &[Key], sequence: u64) -> Result<()> {
        let graves: Vec<u128> = keys.iter().map(|key| fingerprint(key.as_key_ref())).collect();
        let mut marks = self.shared.marks.write();
        for grave in &graves {
            marks.bury(*grave, sequence);
        }
        drop(marks);
        for grave in &graves {
            self.shared.remove(*grave, sequence);
        }
        self.record(graves.into_iter().map(|grave| Change::Grave(grave, sequence)).collect())
    }

    /// Kills what is older than `sequence` under `floor`, durably.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; in memory it holds all the same.
    pub(crate) fn raise(&self, floor: Floor, sequence: u64) -> Result<()> {
        let mut marks = self.shared.marks.write();
        let floor = marks.bounded(floor);
        marks.raise(&floor, sequence);
        drop(marks);
        self.record(vec![Change::Floor(floor, sequence)])
    }

    /// Shows what an earlier run left and is still alive, most recently written first, until `visit` breaks.
    pub(crate) fn recover(&self, visit: &mut dyn FnMut(Entry) -> ControlFlow<()>) {
        let mut below = (self.first_sequence, 0);
        while let Some(rows) = self.rows_below(below).filter(|rows| !rows.is_empty()) {
            for (sequence, fingerprint) in rows {
                below = (sequence, fingerprint);
                if self.shared.is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let Some(entry) = self.read(fingerprint) else { continue };
                let is_alive = entry.sequence() == sequence
                    && entry.is_fresh(self.shared.clock.now())
                    && !self.shared.marks.read().is_dead(&entry);
                if is_alive && visit(entry).is_break() {
                    return;
                }
            }
        }
    }

    /// Returns once everything put before is durable.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be written; it waits on.
    pub(crate) fn flush(&self) -> Result<()> {
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        if queue.is_idle() {
            return Ok(());
        }
        let target = queue.batch + u64::from(queue.has_pending());
        queue.is_urgent = true;
        shared.wake.notify_all();
        while queue.ended < target {
            if shared.is_closed.load(Ordering::Relaxed) && !queue.is_closing {
                return Err(Error::new(ErrorKind::Closed, "the disk tier is closed"));
            }
            shared.ended.wait(&mut queue);
        }
        match &queue.failed {
            Some((batch, reason)) if *batch >= target => Err(Error::new(
                ErrorKind::DiskFailed,
                format!("the cache file could not be written: {reason}"),
            )),
            _ => Ok(()),
        }
    }

    /// Writes what waits, closes both files and joins the threads; a second call does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when the last entries could not be written.
    pub(crate) fn close(&self) -> Result<()> {
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() {
            return Ok(());
        }
        let flushed = self.flush();
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.queue.lock().is_closing = true;
        self.shared.wake.notify_all();
        let mut is_lost = false;
        let mut threads = threads.into_iter();
        for thread in threads.by_ref().take(2) {
            is_lost |= thread.join().is_err();
        }
        // Last, because the writer tells it what is settled.
        is_lost |= self.scribe.send(Ask::Stop).is_err();
        for thread in threads {
            is_lost |= thread.join().is_err();
        }
        if is_lost {
            return Err(Error::new(ErrorKind::DiskFailed, "a thread of the disk tier died"));
        }
        flushed
    }

    /// The tier in numbers.
    pub(crate) fn status(&self) -> DiskStatus {
        let shared = &self.shared;
        let file_bytes = std::fs::metadata(shared.dir.cache_file()).map_or(0, |metadata| metadata.len());
        let queue = shared.queue.lock();
        let (queued_bytes, queued, dropped) = (queue.bytes(), queue.len(), queue.dropped);
        drop(queue);
        let counts = &shared.counts;
        let live_bytes = counts.live_bytes.load(Ordering::Relaxed);
        DiskStatus {
            state: shared.state(),
            live_bytes,
            dead_bytes: file_bytes.saturating_sub(live_bytes),
            file_bytes,
            entries: counts.entries.load(Ordering::Relaxed),
            queued_bytes,
            queued,
            dropped,
            refused: counts.refused.load(Ordering::Relaxed),
            evicted: counts.evicted.load(Ordering::Relaxed),
            broken: counts.broken.load(Ordering::Relaxed),
        }
    }

    /// What the file says, checked; a record that is broken is counted and removed.
    fn read(&self, fingerprint: u128) -> Option<Entry> {
        let shared = &self.shared;
        if shared.is_discarded() || !shared.may_contain(fingerprint) {
            return None;
        }
        let found = shared.bulk.read().as_ref()?.get(fingerprint);
        match found {
            Ok(Some(Ok(entry))) => Some(entry),
            Ok(Some(Err(error))) => {
                shared.counts.broken.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error = error.chain(), "a record is dropped");
                shared.remove(fingerprint, u64::MAX);
                None
            }
            Ok(None) => None,
            Err(fault) => {
                shared.report(fault);
                None
            }
        }
    }

    fn rows_below(&self, below: bulk::Row) -> Option<Vec<bulk::Row>> {
        if self.shared.is_discarded() {
            return None;
        }
        let rows = self.shared.bulk.read().as_ref()?.order_below(below, ROWS_A_STEP);
        rows.map_err(|fault| self.shared.report(fault)).ok()
    }

    fn record(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let closed = || Error::new(ErrorKind::Closed, "the disk tier is closed");
        let (reply, answer) = channel();
        self.scribe.send(Ask::Record(changes, reply)).map_err(|_| closed())?;
        if self.shared.options.durability == Durability::None {
            return Ok(());
        }
        answer.recv().map_err(|_| closed())?
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(error = error.chain(), "the disk tier did not close cleanly");
        }
    }
}

/// How many rows one read transaction looks at: long readers make the file grow.
const ROWS_A_STEP: usize = 1024;

#[cfg(test)]
mod tests;
