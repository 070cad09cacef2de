//! The disk tier: a copy of the cache that survives the process.
//!
//! # Files
//! `cache.redb`, the bulk, holds the entries; one thread writes it behind (`disk/writer.rs`, `disk/queue.rs`).
//! `cache-truth.redb`, the truth, holds what is dead (`disk/truth.rs`, `disk/marks.rs`); it is fsynced before a delete or
//! an invalidation is acknowledged (`disk/scribe.rs`). `cache-marks-0.log` and `cache-marks-1.log` hold the marks of
//! overwrites (`disk/log.rs`). A bulk is believed only with the truth that bears its store id.
//!
//! # The bulk
//! A redb database, written with quick repair, so that opening it after a kill does not read it. Numbers are
//! little-endian; a sum is xxh3 (64 bits) of everything before it.
//!
//! | table | key | value |
//! |---|---|---|
//! | `bulk` | `meta` | format (8 bytes, first in every version; this one is 2), store id, number of batches, id of the next group, highest sequence, number of groups, number of records, inventory (8 bytes each), sum |
//! | `groups` | (group, piece) | a piece of at most 65 400 bytes |
//! | `directories` | (group, piece) | the directory of the group, cut into pieces of 65 400 bytes |
//! | `notes` | group | what became of its records since it was written; missing while there is nothing to say |
//!
//! A **group** holds the records of one batch, up to about 1 MiB (one record may be larger). A record is the bytes of
//! `disk/record.rs`, which carry a format, the whole key, the metadata and a sum over everything. Records stand one after
//! the other, each after its length (4 bytes); this run of bytes is cut into **pieces**, so a record may go on in the
//! next. A piece: how many records begin in it (2 bytes), where each begins in what follows (2 bytes each), the bytes.
//! 65 400 bytes and redb's own fill 16 pages; a little more would take 32.
//! The **directory**: format 1 and three zeros, number of records (4), group (8), bytes of all records (8), number of
//! pieces (4); for each piece how many records begin before it (2); for each record the low half of its key's
//! fingerprint (8), its sequence (8), until when it is kept in ms (6), its rough length (1), its heat (1); sum.
//! The **notes**: format 1 and three zeros, number of records (4), group (8), a bit for each dead record, a byte of
//! heat for each, sum. The **inventory** is the exclusive or, over all groups, of xxh3 of id, directory sum and notes
//! sum: a row that redb loses or doubles because one of its pages is damaged does not go unnoticed.
//!
//! Of two records of one key the one in the group with the higher id is the newer. It shadows the other as long as its
//! directory stands, dead or alive. Hence the one rule of removal: **the transaction that removes a group also writes
//! the notes of every group that has dead records not noted yet.** What an operation buries is noted at once, and so is
//! what has expired: a clock may be set back.
//!
//! redb doubles a file that is full, and adds 4 GiB to one of that size. So that the file is not much larger than what
//! is in it, and any bound can be made use of, the writer closes it before that, extends it by what is needed, at least
//! an eighth, fsyncs it, and opens it again: redb takes what was added as free pages. A crash between these steps leaves
//! a file that is whole.
//!
//! # The order of things
//! Every entry has one number, its sequence; so has every delete and invalidation. The upper 24 bits are the epoch,
//! which the truth counts up durably at every open, so a number is never given twice. A put waits in the queue (bounded,
//! the newest of a key only) until the writer commits a batch: when enough waits (`disk/pace.rs`), after the flush
//! interval, or when somebody flushes. An overwrite of a key that may be on disk leaves a mark in a log before
//! it is acknowledged (a plain write, which survives a kill); a delete or an invalidation is fsynced into the truth
//! first. When the batch that removes a deleted record is durable, its grave is filled in.
//!
//! **What a crash leaves behind.** Before the epoch is written: nothing happened. Between truth and bulk of a first
//! start: a truth without its bulk, which gets a new one. Between a put and its batch: the put is lost; if it was an
//! overwrite, its mark says that the older record is dead. Within a batch: the file as it was before it. Between a
//! delete in the truth and the batch that removes the record: the grave says it is dead, and the next open removes it.
//! Between that batch and the grave's filling in: a grave too many, until the next open. Between the taking of a batch
//! and the emptying of its log: marks too many, which are below what was written since.
//!
//! # After the open
//! The open reads numbers, floors and graves, never records or directories. The writer then reads all directories into
//! the catalog in memory (`disk/catalog.rs`), newest group first; who asks for a key waits until it is found, or for the
//! end of that. Damage of a directory, notes or the inventory is damage of the file,
//! which goes to quarantine; damage of a record costs that record.
//!
//! # Promises
//! A file that is damaged, foreign, half-written, older or newer never fails the open and never yields a wrong byte; a
//! disk that fails costs persistence, not the cache; nothing acknowledged as dead comes back; the file stays within its
//! bound; memory is bounded by the queue's bound, the page caches, about 13 bytes a record, and the graves. A put is
//! durable once [`Disk::flush`] after it returns: `durability = always` is the caller's flush. It does not know the
//! memory tier, sources, or what a body means.

mod backend;
mod batch;
mod bulk;
mod catalog;
mod index;
mod intake;
mod load;
mod log;
mod marks;
mod open;
mod pace;
mod pack;
mod page;
mod queue;
mod read;
pub(crate) mod record;
mod scribe;
mod state;
mod tidy;
mod truth;
mod verify;
mod words;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use self::catalog::Look;
use self::intake::Arrived;
pub(crate) use self::marks::Floor;
pub(crate) use self::page::place;
use self::queue::{Op, Queue, Queued};
use self::record::fingerprint;
use self::scribe::Ask;
use self::state::Shared;
use self::truth::Change;
pub(crate) use self::verify::verify_pages;
pub use self::verify::{DiskVerified, PagesVerified};
pub(crate) use self::words::{DiskOptions, Truth};
pub use self::words::{DiskState, DiskStatus, Durability};
use crate::clock::Clock;
use crate::datadir::DataDir;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyRef};

/// The disk tier of one cache. Its threads end with [`Disk::close`] or its drop.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    scribe: Sender<Ask>,
    /// Writer and truth, joined in this order.
    threads: Mutex<Vec<JoinHandle<()>>>,
    first_sequence: u64,
}

impl Disk {
    /// Opens both files, setting aside what cannot be trusted; a disk that fails opens a degraded tier.
    pub(crate) fn open(dir: &DataDir, options: DiskOptions, clock: Clock) -> Result<(Self, Truth)> {
        open::open(dir, options, clock, backend::Fuse::none())
    }

    /// Whether [`Disk::get`] might find `key`; never blocks on the disk, and is never wrong when it says no.
    pub(crate) fn may_contain(&self, key: KeyRef<'_>) -> bool {
        let shared = &self.shared;
        let fingerprint = fingerprint(key);
        if shared.intake.lock().is_unknown(fingerprint) {
            return false;
        }
        let is_waiting = matches!(shared.queue().find(fingerprint), Some(Op::Put(_)));
        is_waiting || shared.may_contain(fingerprint)
    }

    /// Sets how long records of a namespace are kept past their deadline, from now on; for stale windows.
    pub(crate) fn set_grace(&self, namespace: &str, grace: Duration) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.shared.graces.write().insert(namespace.into(), grace_ms);
    }

    /// Has `entry` written, later; never waits for the disk. What finds no room is dropped and counted.
    pub(crate) fn put(&self, entry: &Entry) {
        self.approach(entry.key()).put(&mut entry.clone());
    }

    /// Prepares for a put of `key`, so that it is quicker when it comes: between the two there should be other work.
    #[inline]
    pub(crate) fn approach(&self, key: KeyRef<'_>) -> Approach<'_> {
        let fingerprint = fingerprint(key);
        self.shared.whereabouts.approach(fingerprint);
        Approach { disk: self, fingerprint }
    }

    fn put_here(&self, fingerprint: u128, entry: &mut Entry) {
        let shared = &self.shared;
        if shared.is_refused(entry) {
            shared.counts.refused.fetch_add(1, Ordering::Relaxed);
            return self.put_over(fingerprint, entry, Kept::Not);
        }
        let arrived = shared.intake.lock().put(fingerprint, entry);
        match arrived {
            Arrived::Waits | Arrived::Dropped => {}
            // Only what changes its plans wakes the writer: a wake-up costs more than all the rest of a put.
            Arrived::IsNews => drop(shared.wake.notify_one()),
            Arrived::Unsettled => self.put_over(fingerprint, entry, Kept::IfItFits),
        }
    }

    /// A put where something older of its key may be somewhere, or where there may be no room: what is older must not
    /// come back, whether or not this one is written.
    fn put_over(&self, fingerprint: u128, entry: &Entry, kept: Kept) {
        let shared = &self.shared;
        let bytes_max = shared.options().queue_bytes_max;
        let mut queue = shared.queue();
        let is_known = (!shared.is_discarded() && shared.sequence_max(fingerprint).is_some())
            || queue.writing_sequence(fingerprint).is_some()
            || queue.is_retrying();
        // Of a key whose bits merely look known nothing is in the file or on its way there, so it is filed when the
        // writer comes: filing here means filing all that has arrived.
        let is_new = !is_known && kept == Kept::IfItFits && entry.weight() <= FOLLOWING_BYTES_MAX;
        if is_new && queue.follow(entry, bytes_max) {
            self.put_waits(fingerprint, queue);
            return shared.wait_discarded();
        }
        // A put that waits has left its own mark, for whatever is older than it: not for the same write with another
        // deadline, which is what it may have moved.
        let is_marked = !queue.is_retrying()
            && queue.put_pending(fingerprint).is_some_and(|put| {
                let is_above = |sequence: u64| put > sequence;
                queue.writing_sequence(fingerprint).is_none_or(is_above)
                    && shared.sequence_max(fingerprint).is_none_or(is_above)
            });
        let needs_mark = is_known && !is_marked;
        let mut mark = entry.sequence();
        let is_full =
            kept == Kept::Not || queue.push(fingerprint, Op::Put(entry.clone()), bytes_max) == Queued::Full;
        if is_full {
            queue.dropped += u64::from(kept == Kept::IfItFits);
            // The same write may lie there with another deadline.
            mark = mark.saturating_add(1);
            if is_known || queue.find(fingerprint).is_some() {
                queue.push(fingerprint, Op::Remove(mark), bytes_max);
            }
        }
        let is_too_much = queue.removals > shared.options().removals_max();
        // Taken while the queue is held: whoever finds this put there finds its mark in the log.
        let log = is_known.then(|| shared.log.lock());
        self.put_waits(fingerprint, queue);
        let marked = match log {
            Some(mut log) if needs_mark => log.leave(fingerprint, mark),
            Some(log) => log.check(),
            None => Ok(()),
        };
        if shared.is_discarded() {
            shared.wait_discarded();
            if is_too_much {
                shared.forget_removals();
            }
        } else if let Err(error) = marked {
            // The older record could come back after a kill: better that none does.
            tracing::warn!(%error, "an overwrite could not be marked: the cache file is given up");
            self.give_up();
        } else if is_too_much {
            tracing::warn!("more removals wait for the disk than are kept: the cache file is given up");
            self.give_up();
        }
    }

    /// An operation on the key is in the queue now, if it found room.
    fn put_waits(&self, fingerprint: u128, queue: MutexGuard<'_, Queue>) {
        // While this was on its way from the intake, the writer may have made the bits anew without this key's.
        self.shared.intake.lock().note(fingerprint);
        if self.shared.release(queue) {
            self.shared.wake.notify_one();
        }
    }

    /// Nothing in the file is to come back.
    fn give_up(&self) {
        if let Err(error) = self.shared.discard_bulk() {
            tracing::warn!(error = error.chain(), "the cache file could not be removed");
        }
        self.shared.forget_removals();
    }

    /// Whether what was put so far takes the place of what is older also after a kill.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] while a file that was given up, because a mark could not be left, cannot be removed.
    pub(crate) fn check_overwrites(&self) -> Result<()> {
        if !self.shared.is_lingering() {
            return Ok(());
        }
        let message = "the value holds in memory, but an older one may come back with the next start: \
                       cache.redb can neither be written nor removed";
        Err(Error::new(ErrorKind::DiskFailed, message))
    }

    /// Kills what is older than `sequence` under each of `keys` for this process, without waiting for the disk: from
    /// the return on no read finds it. What is acknowledged needs [`Disk::delete`] as well.
    pub(crate) fn bury(&self, keys: &[Key], sequence: u64) {
        let mut marks = self.shared.marks_for(sequence);
        for key in keys {
            marks.bury(fingerprint(key.as_key_ref()), sequence);
        }
    }

    /// As [`Disk::bury`], for a floor; what is acknowledged needs [`Disk::raise`] as well.
    pub(crate) fn mark(&self, floor: Floor, sequence: u64) {
        let mut marks = self.shared.marks_for(sequence);
        let floor = marks.bounded(floor);
        marks.raise(&floor, sequence);
    }

    /// Has what is older than `sequence` under `key` taken out, later: its source has nothing there any more. Nothing
    /// is promised of it.
    pub(crate) fn forget(&self, key: KeyRef<'_>, sequence: u64) {
        if self.may_contain(key) {
            self.shared.remove(fingerprint(key), sequence);
        }
    }

    /// Kills what is older than `sequence` under each of `keys`, durably.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; in memory it holds all the same.
    pub(crate) fn delete(&self, keys: &[Key], sequence: u64) -> Result<()> {
        keys.chunks(DELETED_AT_ONCE).try_for_each(|keys| self.delete_some(keys, sequence))
    }

    fn delete_some(&self, keys: &[Key], sequence: u64) -> Result<()> {
        let shared = &self.shared;
        let graves: Vec<u128> = keys.iter().map(|key| fingerprint(key.as_key_ref())).collect();
        let mut marks = shared.marks_for(sequence);
        for grave in &graves {
            marks.bury(*grave, sequence);
        }
        drop(marks);
        let mut queue = shared.queue();
        for grave in &graves {
            queue.push(*grave, Op::Remove(sequence), shared.options().queue_bytes_max);
        }
        let are_many = queue.removals > shared.options().removals_max() / 2;
        if shared.release(queue) {
            shared.wake.notify_one();
        }
        self.record(graves.into_iter().map(|grave| Change::Grave(grave, sequence)).collect())?;
        // Who deletes faster than the disk takes it waits for the disk; while that fails, nothing is kept there.
        if are_many && self.flush().is_err() {
            self.give_up();
        }
        Ok(())
    }

    /// Kills what is older than `sequence` under `floor`, durably.
    ///
    /// # Errors
    /// As [`Disk::raise_each`].
    pub(crate) fn raise(&self, floor: Floor, sequence: u64) -> Result<()> {
        self.raise_each(vec![floor], sequence)
    }

    /// Kills what is older than `sequence` under each of `floors`, durably and in one go.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be made durable; in memory it holds all the same.
    pub(crate) fn raise_each(&self, floors: Vec<Floor>, sequence: u64) -> Result<()> {
        let mut marks = self.shared.marks_for(sequence);
        let floors: Vec<Floor> = floors.into_iter().map(|floor| marks.bounded(floor)).collect();
        for floor in &floors {
            marks.raise(floor, sequence);
        }
        drop(marks);
        self.record(floors.into_iter().map(|floor| Change::Floor(floor, sequence)).collect())
    }

    /// Returns once everything put before is durable.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it could not be written; it waits on.
    pub(crate) fn flush(&self) -> Result<()> {
        let queue = self.shared.queue();
        if queue.is_idle() { Ok(()) } else { self.wait_for_batch(queue) }
    }

    /// As [`Disk::flush`], and what has expired or is not worth its space is given up too.
    #[cfg(test)]
    pub(crate) fn tidy(&self) -> Result<()> {
        let mut queue = self.shared.queue();
        queue.is_tidying = true;
        self.wait_for_batch(queue)
    }

    /// Until everything that waits now has been written, or could not be.
    fn wait_for_batch(&self, mut queue: MutexGuard<'_, Queue>) -> Result<()> {
        let shared = &self.shared;
        let target = queue.batch + u64::from(queue.has_pending() || queue.is_tidying);
        queue.is_urgent = true;
        shared.ring();
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
        self.shared.queue().is_closing = true;
        self.shared.ring();
        let mut is_lost = false;
        let mut threads = threads.into_iter();
        for thread in threads.by_ref().take(1) {
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

    /// Everything was used less recently than it was: before [`Disk::note_use`] says of what is in use how recently.
    pub(crate) fn cool(&self) {
        self.shared.catalog.read().cool();
    }

    /// Notes how recently the entry of `key` was used, from 255 for the last on down.
    pub(crate) fn note_use(&self, key: KeyRef<'_>, heat: u8) {
        let catalog = self.shared.catalog.read();
        if let Look::Here(found) = catalog.look(state::half(fingerprint(key))) {
            catalog.touch(found.place, heat);
        }
    }

    /// What it holds in memory that grows with what it stores, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let waiting_bytes = self.shared.queue().bytes();
        self.shared.catalog.read().bytes() + waiting_bytes + self.shared.intake.lock().bytes()
    }

    /// What the tier has become since the last call, oldest first.
    pub(crate) fn changes(&self) -> Vec<DiskState> {
        self.shared.changes()
    }

    /// Changes how large the file may grow; the writer keeps within it from its next batch on.
    pub(crate) fn set_bytes_max(&self, bytes: u64) {
        self.shared.limits.file_bytes_max.set(bytes);
    }

    /// Changes how many bytes may wait to be written and how many the index may take.
    pub(crate) fn set_memory(&self, queue_bytes_max: u64, index_bytes_max: u64) {
        self.shared.set_memory(queue_bytes_max, index_bytes_max);
    }

    /// The tier in numbers.
    pub(crate) fn status(&self) -> DiskStatus {
        let shared = &self.shared;
        let file_bytes = std::fs::metadata(shared.dir.cache_file()).map_or(0, |metadata| metadata.len());
        let queue = shared.queue();
        let dropped = queue.dropped + shared.intake.lock().dropped();
        let (queued_bytes, queued) = (queue.bytes(), queue.len());
        drop(queue);
        let counts = &shared.counts;
        let catalog = shared.catalog.read();
        let (sums, index_bytes) = (catalog.sums, catalog.bytes());
        drop(catalog);
        DiskStatus {
            state: shared.state(),
            live_bytes: sums.live_bytes,
            dead_bytes: file_bytes.saturating_sub(sums.live_bytes),
            file_bytes,
            entries: sums.live,
            queued_bytes,
            queued,
            dropped,
            refused: counts.refused.load(Ordering::Relaxed),
            evicted: counts.evicted.load(Ordering::Relaxed),
            broken: counts.broken.load(Ordering::Relaxed),
            expired: counts.expired.load(Ordering::Relaxed),
            index_bytes,
        }
    }

    fn record(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let closed = || Error::new(ErrorKind::Closed, "the disk tier is closed");
        let (reply, answer) = channel();
        self.scribe.send(Ask::Record(changes, reply)).map_err(|_| closed())?;
        if self.shared.options().durability == Durability::None {
            return Ok(());
        }
        answer.recv().map_err(|_| closed())?
    }
}

/// A put that is about to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Approach<'d> {
    disk: &'d Disk,
    fingerprint: u128,
}

impl Approach<'_> {
    /// A number that depends on the key alone, for who spreads keys over several locks: it has been hashed already.
    pub(crate) fn lane(self) -> u8 {
        self.fingerprint.to_le_bytes()[0]
    }

    /// As [`Disk::put`], of an entry with the key that was named.
    pub(crate) fn put(self, entry: &mut Entry) {
        self.disk.put_here(self.fingerprint, entry);
    }
}

/// What is to become of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    IfItFits,
    /// It is dead on arrival, or may be.
    Not,
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(error = error.chain(), "the disk tier did not close cleanly");
        }
    }
}

/// What is larger is filed at once: what is written over and over before it reaches the disk must not wait so often.
const FOLLOWING_BYTES_MAX: usize = 4096;

/// A delete of more keys is done in parts.
const DELETED_AT_ONCE: usize = 16_384;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod growth;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod tape;
#[cfg(test)]
mod tests;
