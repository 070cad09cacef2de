//! The thread `hifz-writer`: owns all writing to the bulk.
//!
//! It begins by reading the directories into the catalog (`disk/load.rs`). Then it commits what waits when it is enough
//! (`disk/pace.rs`) or every flush interval, whichever comes first, and tidies up with each commit and while nobody
//! writes. After any fault the handle is dropped; a file that failed is opened again with backoff, a damaged one goes to
//! quarantine and another takes its place at once. Meanwhile the queue fills up to its bound and no further. A batch
//! that failed waits again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::backend::Fault;
use super::batch::Plan;
use super::bulk::{self, Batch, Bulk, Meta};
use super::load::load;
use super::pace::Pace;
use super::queue::{Op, Ops};
use super::scribe::Ask;
use super::state::{Part, Shared};
use super::tidy::{self, Room};
use crate::clock::monotonic_now;

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) scribe: Sender<Ask>,
    /// The truth's store id, which the bulk must bear.
    pub(crate) store: u64,
    /// What the bulk says about itself; `None` until it was read into the catalog.
    meta: Option<Meta>,
    /// When the last batch was taken: nothing that waits arrived before.
    taken_at: Instant,
    backoff: Duration,
    retry_at: Option<Instant>,
    /// When the notes of all groups were looked at.
    noted_at: Option<Instant>,
    /// How often the file's own bound was in the way at this size of the file.
    squeezes: u64,
    squeezed_bytes: u64,
    /// The file was too small for a batch, but may grow.
    is_short: bool,
    /// The file could not be made larger, and is not tried again until then.
    cramped_until: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Write,
    /// Nobody has written for a while.
    Tidy,
    Close,
}

impl Writer {
    /// `found` is what a bulk that was opened already says about itself.
    pub(crate) fn new(shared: Arc<Shared>, scribe: Sender<Ask>, store: u64) -> Self {
        Self {
            shared,
            scribe,
            store,
            meta: None,
            taken_at: monotonic_now(),
            backoff: BACKOFF_MIN,
            retry_at: None,
            noted_at: None,
            squeezes: 0,
            squeezed_bytes: 0,
            is_short: false,
            cramped_until: None,
        }
    }

    pub(crate) fn run(mut self, found: Option<Meta>) {
        if let Err(fault) = self.begin(found) {
            self.fail(&fault);
        }
        loop {
            let turn = self.wait();
            // Before anything is taken: what waits for a file that is no more is forgotten when another takes its
            // place, and what was being written then would come after that.
            let ready = self.get_ready();
            let ops = self.take();
            let outcome = ready.and_then(|()| self.step(&ops, turn));
            self.end_batch(&ops, outcome);
            if turn == Turn::Close {
                self.close();
                return;
            }
        }
    }

    /// Everything that waits. What arrived is filed in steps that others pass between, and the rest of it at once.
    fn take(&mut self) -> Arc<Ops> {
        let mut queue = self.shared.queue();
        while queue.file_some(FILED_A_STEP) {
            MutexGuard::bump(&mut queue);
        }
        let ops = queue.take();
        self.shared.intake.lock().set_queued(0);
        self.shared.log.lock().turn();
        self.taken_at = monotonic_now();
        ops
    }

    /// Reads what the open found.
    fn begin(&mut self, found: Option<Meta>) -> Result<(), Fault> {
        let shared = Arc::clone(&self.shared);
        let slot = shared.bulk.read();
        match (slot.as_ref(), found) {
            (Some(bulk), Some(found)) => load(&shared, bulk, &found)?,
            (None, _) => return Ok(()),
            (Some(_), None) => {}
        }
        self.meta = Some(found.unwrap_or(Meta { store: self.store, ..Meta::default() }));
        Ok(())
    }

    /// Until there is something to do.
    fn wait(&self) -> Turn {
        let (began, mut first_at) = (monotonic_now(), None);
        // What waits already came at some time since the last batch was taken.
        let mut earliest = Some(self.taken_at);
        loop {
            let pace = Pace::of(&self.shared.options());
            let queue = self.shared.queue_alone();
            if queue.is_closing {
                return Turn::Close;
            }
            if queue.is_tidying {
                return Turn::Tidy;
            }
            if queue.is_urgent {
                return Turn::Write;
            }
            let mut intake = self.shared.intake.lock();
            intake.set_queued(queue.pending_bytes());
            let (waiting_bytes, now) = (intake.waiting_bytes(), monotonic_now());
            let has_pending = queue.has_pending() || intake.has_arrived();
            drop(queue);
            let earliest = earliest.take().unwrap_or(now);
            if has_pending {
                first_at.get_or_insert(earliest);
            }
            let (due_at, turn) = match (self.retry_at, first_at) {
                (Some(at), _) => (Some(at), Turn::Write),
                (None, Some(at)) => (at.checked_add(pace.delay(waiting_bytes)), Turn::Write),
                (None, None) => (began.checked_add(TIDY_INTERVAL), Turn::Tidy),
            };
            intake.expect(pace.news_bytes(waiting_bytes));
            match due_at {
                Some(due_at) if due_at <= now => return turn,
                Some(due_at) => {
                    self.shared.wake.wait_for(&mut intake, due_at - now);
                }
                None => self.shared.wake.wait(&mut intake),
            }
        }
    }

    fn get_ready(&mut self) -> Result<(), Fault> {
        let found = self.shared.reader_fault.lock().take();
        if let Some(fault) = found {
            return Err(fault);
        }
        self.shared.dir.check_held().map_err(|error| Fault::Failed(error.chain()))?;
        self.ensure_bulk()
    }

    fn step(&mut self, ops: &Ops, turn: Turn) -> Result<(), Fault> {
        if self.shared.is_discarded() {
            return Err(Fault::Failed("cache.redb has just been given up".to_owned()));
        }
        let budget_bytes = self.budget_bytes();
        let bytes = ops.as_slice().iter().map(|(_, op)| op.bytes()).sum();
        self.make_room(&Chunk { batch: ops, ops: &[], bytes }, budget_bytes)?;
        let mut rest = ops.as_slice();
        loop {
            let chunk = Chunk::of(ops, rest, (budget_bytes / 8).min(CHUNK_BYTES_MAX));
            rest = &rest[chunk.ops.len()..];
            if !chunk.ops.is_empty() || self.is_short || self.is_expiry_due() {
                self.grow(chunk.bytes)?;
            }
            self.write(&chunk, budget_bytes, turn)?;
            if rest.is_empty() {
                break;
            }
        }
        if self.file_bytes() > self.shared.limits.file_bytes_max.bytes() && turn != Turn::Close {
            self.shrink()?;
        }
        Ok(())
    }

    /// Makes the file larger, in steps of an eighth at least, before redb doubles it. Who reads from it meanwhile waits.
    /// A file that cannot be made larger is written to as it is: what is free in it may do.
    fn grow(&mut self, incoming_bytes: u64) -> Result<(), Fault> {
        let shared = Arc::clone(&self.shared);
        let (file_bytes, bytes_max) = (self.file_bytes(), shared.limits.file_bytes_max.bytes());
        let stored_bytes = shared.catalog.read().sums.stored_bytes;
        // The pages did not fit, whatever the rows come to.
        let held_bytes = if std::mem::take(&mut self.is_short) { file_bytes } else { stored_bytes };
        let Some(grown_bytes) = bulk::grown_bytes(bytes_max, file_bytes, held_bytes, incoming_bytes) else {
            return Ok(());
        };
        let began = monotonic_now();
        if self.cramped_until.is_some_and(|until| began < until) {
            return Ok(());
        }
        let mut slot = shared.bulk.write();
        let Some(bulk) = slot.take() else { return Ok(()) };
        let (bulk, meta, fault) = bulk.grow(&shared.dir.cache_file(), &shared.limits, grown_bytes)?;
        if self.meta != Some(meta) {
            return Err(Fault::Damaged("it is not the file that was closed".to_owned()));
        }
        *slot = Some(bulk);
        drop(slot);
        self.cramped_until = fault.as_ref().and_then(|_| began.checked_add(CRAMPED_FOR));
        match fault {
            None => {
                tracing::debug!(file_bytes, grown_bytes, elapsed = ?began.elapsed(), "cache.redb was made larger");
            }
            Some(fault) => {
                tracing::warn!(
                    file_bytes,
                    grown_bytes,
                    reason = fault.reason(),
                    "cache.redb cannot be made larger"
                );
            }
        }
        Ok(())
    }

    /// Whether something has likely expired, which is to be noted.
    fn is_expiry_due(&self) -> bool {
        self.shared.catalog.read().is_expiry_due(self.shared.clock.now().as_millis())
    }

    /// In a file that has no free pages and may not grow, what goes must have gone before `coming` can come.
    fn make_room(&mut self, coming: &Chunk<'_>, budget_bytes: u64) -> Result<(), Fault> {
        let stored_bytes = self.shared.catalog.read().sums.stored_bytes;
        if stored_bytes + coming.bytes <= budget_bytes || stored_bytes <= self.file_bytes() / 8 * 7 {
            return Ok(());
        }
        self.write(coming, budget_bytes, Turn::Write)?;
        // What one transaction frees can be used by the next but one.
        let slot = self.shared.bulk.read();
        match (slot.as_ref(), self.meta) {
            (Some(bulk), Some(meta)) => bulk.commit(&Batch::default(), &meta),
            _ => Ok(()),
        }
    }

    /// The bound was lowered below what the file takes: its free pages go back to the system, now that what it holds
    /// fits. Whoever asks for a record meanwhile is told that there is none, instead of waiting.
    fn shrink(&mut self) -> Result<(), Fault> {
        let Some(mut bulk) = self.shared.bulk.write().take() else { return Ok(()) };
        let began = monotonic_now();
        bulk.compact()?;
        *self.shared.bulk.write() = Some(bulk);
        let (file_bytes, bytes_max) = (self.file_bytes(), self.shared.limits.file_bytes_max.bytes());
        tracing::info!(file_bytes, bytes_max, elapsed = ?began.elapsed(), "cache.redb was made smaller");
        if file_bytes > bytes_max {
            return Err(Fault::Failed(format!("{} {bytes_max} bytes", super::backend::BOUND_REACHED)));
        }
        Ok(())
    }

    /// What the rows may take, less by an eighth for every time that their pages did not fit.
    fn budget_bytes(&mut self) -> u64 {
        let (file_bytes, bytes_max) = (self.file_bytes(), self.shared.limits.file_bytes_max.bytes());
        if file_bytes != self.squeezed_bytes {
            self.squeezes = 0;
        }
        let budget_bytes = bulk::budget_bytes(bytes_max, file_bytes);
        budget_bytes - budget_bytes / 8 * self.squeezes
    }

    /// Whether there are likely free pages. A file without, as compacting leaves it, grows with whatever is written
    /// next: how recently records were used is not worth that.
    fn has_slack(&self) -> bool {
        let stored_bytes = self.shared.catalog.read().sums.stored_bytes;
        self.file_bytes() > stored_bytes + stored_bytes / 8 + COMPACT_BYTES_MIN
    }

    fn file_bytes(&self) -> u64 {
        std::fs::metadata(self.shared.dir.cache_file()).map_or(0, |metadata| metadata.len())
    }

    /// One transaction; whether groups went with it.
    fn write(&mut self, chunk: &Chunk<'_>, budget_bytes: u64, turn: Turn) -> Result<bool, Fault> {
        let shared = Arc::clone(&self.shared);
        let slot = shared.bulk.read();
        let (Some(bulk), Some(meta)) = (slot.as_ref(), self.meta) else {
            return Err(Fault::Failed("cache.redb is closed".to_owned()));
        };
        let mut plan = Plan::new(&shared, bulk, chunk.batch, meta);
        plan.expire()?;
        let room = Room {
            incoming_bytes: chunk.bytes,
            budget_bytes,
            records_max: shared.options().index_bytes_max / RECORD_INDEX_BYTES,
            is_idle: turn == Turn::Tidy,
        };
        let tidying = tidy::choose(&shared.catalog.read(), &room);
        plan.tidy(&tidying)?;
        for (at, (fingerprint, op)) in chunk.ops.iter().enumerate() {
            if let Some((later, op)) = chunk.ops.get(at + OPS_AHEAD) {
                plan.approach(*later, op);
            }
            match op {
                // It would not fit beside anything else.
                Op::Put(entry) if entry.weight() as u64 > budget_bytes / 4 => {
                    plan.apply(*fingerprint, &Op::Remove(entry.sequence().saturating_add(1)))?;
                }
                op => plan.apply(*fingerprint, op)?,
            }
        }
        shared.counts.expired.fetch_add(plan.expired, Ordering::Relaxed);
        let is_thorough = turn == Turn::Close
            || (turn == Turn::Tidy
                && self.noted_at.is_none_or(|at| at.elapsed() > NOTES_INTERVAL)
                && self.has_slack());
        if is_thorough {
            self.noted_at = Some(monotonic_now());
        }
        if plan.finish(is_thorough) {
            bulk.commit(&plan.batch, &plan.meta)?;
            shared.counts.evicted.fetch_add(plan.evicted, Ordering::Relaxed);
            let have_gone = !plan.batch.removed.is_empty();
            self.meta = Some(plan.settle());
            return Ok(have_gone);
        }
        Ok(false)
    }

    /// Opens the file again, or puts a new one in the place of one that must not be believed.
    fn ensure_bulk(&mut self) -> Result<(), Fault> {
        if self.shared.is_discarded() {
            return self.renew();
        }
        if self.shared.bulk.read().is_some() {
            return Ok(());
        }
        let path = self.shared.dir.cache_file();
        let opened = Bulk::open(&path, &self.shared.limits).and_then(|(bulk, meta)| {
            if meta.store == self.store {
                load(&self.shared, &bulk, &meta)?;
            }
            Ok((bulk, meta))
        });
        match opened {
            Ok((bulk, meta)) if meta.store == self.store => {
                *self.shared.bulk.write() = Some(bulk);
                self.meta = Some(meta);
                Ok(())
            }
            Ok(_) => {
                self.set_aside("it belongs to another truth");
                self.renew()
            }
            Err(Fault::Damaged(reason)) => {
                self.set_aside(&reason);
                self.renew()
            }
            Err(fault) => Err(fault),
        }
    }

    fn renew(&mut self) -> Result<(), Fault> {
        // First of all: whatever else fails now, a kill must not bring it back.
        self.shared.remove_bulk().map_err(|error| Fault::Failed(error.chain()))?;
        let store = new_store_id(&self.shared);
        let (reply, answer) = channel();
        let gone = || Fault::Failed("the thread hifz-truth has ended".to_owned());
        self.scribe.send(Ask::Renew(store, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())??;
        self.store = store;
        self.meta = Some(Meta { store, ..Meta::default() });
        let shared = &self.shared;
        shared.replace_bulk(|| Bulk::create(&shared.dir.cache_file(), &shared.limits, store))
    }

    fn set_aside(&self, reason: &str) {
        tracing::warn!(reason, "cache.redb is set aside: the disk tier starts again, cold");
        if let Err(error) = self.shared.quarantine_bulk() {
            tracing::warn!(error = error.chain(), "cache.redb could not be moved to quarantine");
        }
    }

    fn drop_bulk(&mut self, fault: &Fault) {
        *self.shared.bulk.write() = None;
        self.meta = None;
        self.shared.intake.lock().doubt();
        self.shared.catalog.write().lose();
        self.shared.tell_loaded();
        self.shared.set_health(Part::Bulk, Some(fault.reason()));
        if let Fault::Damaged(reason) = fault {
            self.set_aside(reason);
        }
    }

    fn end_batch(&mut self, ops: &Ops, outcome: Result<(), Fault>) {
        match outcome {
            Ok(()) => self.settle(ops),
            Err(fault) => {
                self.fail(&fault);
                self.shared.queue().give_back(fault.reason());
            }
        }
        self.shared.ended.notify_all();
    }

    fn fail(&mut self, fault: &Fault) {
        self.drop_bulk(fault);
        self.cramped_until = None;
        if fault.reason().contains(super::backend::BOUND_REACHED) {
            self.squeeze();
        }
        self.retry_at = monotonic_now().checked_add(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// Closes the file cleanly; its free pages go back to the system where they are many.
    fn close(&mut self) {
        let tidied = if self.is_to_shrink() { self.tidy_up() } else { Ok(()) };
        let is_to_shrink = self.is_to_shrink();
        let Some(mut bulk) = self.shared.bulk.write().take() else { return };
        let closed = tidied.and_then(|()| if is_to_shrink { bulk.compact().map(|_| ()) } else { Ok(()) });
        if let Err(fault) = closed {
            tracing::warn!(reason = fault.reason(), "cache.redb keeps its size");
        }
    }

    /// Does at once what would be done while nobody writes: in a file that was made smaller it would have to grow for
    /// that.
    fn tidy_up(&mut self) -> Result<(), Fault> {
        let budget_bytes = self.budget_bytes();
        let nothing = Ops::default();
        for _ in 0..TIDIED_AT_CLOSE_MAX {
            let chunk = Chunk { batch: &nothing, ops: &[], bytes: 0 };
            if !self.write(&chunk, budget_bytes, Turn::Tidy)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the file is much larger than what lives in it, and can be made smaller.
    fn is_to_shrink(&self) -> bool {
        let live_bytes = self.shared.catalog.read().sums.live_bytes;
        // A compacted file has no free pages, and grows with the next batch: one that is not much too large stays.
        let is_large = self.file_bytes() > live_bytes + live_bytes / 2 + COMPACT_BYTES_MIN;
        // It doubles for a moment when it is closed without free pages.
        let has_room = live_bytes <= self.shared.limits.file_bytes_max.bytes() / 16 * 7;
        is_large && has_room && live_bytes <= COMPACT_BYTES_MAX
    }

    /// The rows fit but their pages did not: let the file grow, or else make room in steps, and when that does not help,
    /// start again.
    fn squeeze(&mut self) {
        let (file_bytes, bytes_max) = (self.file_bytes(), self.shared.limits.file_bytes_max.bytes());
        if bulk::grown_bytes(bytes_max, file_bytes, file_bytes, 0).is_some() {
            self.is_short = true;
            return;
        }
        self.squeezes += 1;
        self.squeezed_bytes = file_bytes;
        if self.squeezes > SQUEEZES_MAX {
            self.squeezes = 0;
            self.set_aside("it cannot be kept within its bound");
        }
    }

    fn settle(&mut self, ops: &Ops) {
        (self.backoff, self.retry_at) = (BACKOFF_MIN, None);
        let shared = &self.shared;
        let marks = shared.marks.read();
        let filled: Vec<_> = ops
            .as_slice()
            .iter()
            .filter(|(fingerprint, _)| marks.has_grave(*fingerprint))
            .map(|(fingerprint, op)| (*fingerprint, op.sequence()))
            .collect();
        drop(marks);
        let mut queue = shared.queue();
        queue.finish();
        shared.log.lock().settle();
        drop(queue);
        for filled in filled.chunks(FILED_A_STEP) {
            let mut marks = shared.marks.write();
            for (fingerprint, sequence) in filled {
                marks.settle(*fingerprint, *sequence);
            }
        }
        if shared.intake.lock().is_crowded() {
            shared.trust_index();
        }
        shared.set_health(Part::Bulk, None);
        if !filled.is_empty()
            && self.scribe.send(Ask::Fill(filled, self.meta.map_or(0, |meta| meta.commit))).is_err()
        {
            tracing::debug!("graves stay until the next open");
        }
    }
}

/// A number that no other bulk bears.
pub(crate) fn new_store_id(shared: &Shared) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Zero is the id of a truth that has no bulk.
    RandomState::new().hash_one((shared.clock.now(), std::process::id())).max(1)
}

/// The part of a batch that one transaction writes.
struct Chunk<'o> {
    batch: &'o Ops,
    ops: &'o [(u128, Op)],
    /// What they come to, or what is yet to come.
    bytes: u64,
}

impl<'o> Chunk<'o> {
    /// As many of `ops` as come to about `bytes_max`, at least one if there are any.
    fn of(batch: &'o Ops, ops: &'o [(u128, Op)], bytes_max: u64) -> Self {
        let (mut bytes, mut count) = (0, 0);
        for (_, op) in ops {
            if count > 0 && bytes + op.bytes() > bytes_max {
                break;
            }
            bytes += op.bytes();
            count += 1;
        }
        Self { batch, ops: &ops[..count], bytes }
    }
}

/// So many of what has arrived are filed, and so many graves settled, under one lock.
const FILED_A_STEP: usize = 512;

/// The processor is told so many operations ahead what will be looked at.
const OPS_AHEAD: usize = 8;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// So long a file that could not be made larger is left at its size.
const CRAMPED_FOR: Duration = Duration::from_secs(10);

const SQUEEZES_MAX: u64 = 6;

/// What a record takes in the catalog, about.
const RECORD_INDEX_BYTES: u64 = 14;

/// One transaction holds about so much of what waits.
const CHUNK_BYTES_MAX: u64 = 4 << 20;

/// How often the notes are brought up to date for the sake of how recently records were used.
const NOTES_INTERVAL: Duration = Duration::from_mins(1);

/// How often it looks for what has expired or is not worth its space, while nobody writes.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// The close tidies in at most so many batches.
const TIDIED_AT_CLOSE_MAX: usize = 64;

/// A file that is less than this too large is left as it is.
const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// Compacting more would hold up the end of the process for more than some seconds.
const COMPACT_BYTES_MAX: u64 = 2 << 30;

#[cfg(test)]
mod tests {
    use super::super::backend::Fuse;
    use super::super::growth::put_large;
    use super::super::kit;
    use super::*;

    #[test]
    fn a_file_that_was_too_short_for_what_is_tidied_grows_while_nobody_puts() {
        let temp = tempfile::tempdir().unwrap();
        let (disk, truth) = kit::open_with(temp.path(), kit::options(), Fuse::hasty());
        put_large(&disk, truth.first_sequence, 0, 300).unwrap();
        let shared = Arc::clone(&disk.shared);
        disk.close().unwrap();
        let (_, meta) = Bulk::open(&shared.dir.cache_file(), &shared.limits).unwrap();
        // Another writer in the place of the one that has ended.
        shared.is_closed.store(false, Ordering::SeqCst);
        let mut writer = Writer::new(Arc::clone(&shared), channel().0, meta.store);
        writer.get_ready().unwrap();
        let before_bytes = writer.file_bytes();
        writer.step(&Ops::default(), Turn::Tidy).unwrap();
        assert_eq!(writer.file_bytes(), before_bytes, "for nothing it does not grow");
        writer.fail(&Fault::Failed(format!("{} 0 bytes", super::super::backend::BOUND_REACHED)));
        assert!(writer.is_short);
        writer.get_ready().unwrap();
        writer.step(&Ops::default(), Turn::Tidy).unwrap();
        assert!(writer.file_bytes() >= before_bytes / 8 * 9, "{}", writer.file_bytes());
    }
}
