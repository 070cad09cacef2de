//! The thread `hifz-writer`: owns all writing to the bulk.
//!
//! It commits what waits at about [`COMMIT_BYTES`] or every flush interval, whichever comes first. After any fault the
//! handle is dropped; a file that failed is opened again with backoff, a damaged one goes to quarantine and another
//! takes its place at once. Meanwhile the queue fills up to its bound and no further. A batch that failed waits again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use super::backend::Fault;
use super::bulk::{self, Applied, Bulk};
use super::queue::Ops;
use super::scribe::Ask;
use super::state::{Part, Shared, index_key};
use crate::clock::monotonic_now;

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) scribe: Sender<Ask>,
    /// The truth's store id, which the bulk must bear.
    pub(crate) store: u64,
    backoff: Duration,
    retry_at: Option<Instant>,
    /// How often in a row the file's own bound was in the way.
    squeezes: u32,
}

enum Turn {
    Write,
    Close,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, scribe: Sender<Ask>, store: u64) -> Self {
        Self { shared, scribe, store, backoff: BACKOFF_MIN, retry_at: None, squeezes: 0 }
    }

    pub(crate) fn run(mut self) {
        loop {
            let turn = self.wait();
            let mut queue = self.shared.queue.lock();
            let ops = queue.take();
            self.shared.log.lock().turn();
            drop(queue);
            let outcome = self.step(&ops);
            self.end_batch(&ops, outcome);
            if matches!(turn, Turn::Close) {
                // Dropping the handle here closes the file cleanly, before `close` returns.
                *self.shared.bulk.write() = None;
                return;
            }
        }
    }

    /// Until there is something to do.
    fn wait(&self) -> Turn {
        let flush_interval = self.shared.options.flush_interval;
        let mut first_at = None;
        let mut queue = self.shared.queue.lock();
        loop {
            if queue.is_closing {
                return Turn::Close;
            }
            if queue.is_urgent {
                return Turn::Write;
            }
            let now = monotonic_now();
            if queue.has_pending() && first_at.is_none() {
                first_at = Some(now);
            }
            let due_at = match (self.retry_at, first_at) {
                (Some(at), _) => Some(at),
                (None, Some(_)) if queue.pending_bytes() >= COMMIT_BYTES => return Turn::Write,
                (None, Some(at)) => at.checked_add(flush_interval),
                (None, None) => None,
            };
            match due_at {
                Some(due_at) if due_at <= now => return Turn::Write,
                Some(due_at) => {
                    self.shared.wake.wait_for(&mut queue, due_at - now);
                }
                None => self.shared.wake.wait(&mut queue),
            }
        }
    }

    fn step(&mut self, ops: &Ops) -> Result<Applied, Fault> {
        let found = self.shared.reader_fault.lock().take();
        if let Some(fault) = found {
            self.drop_bulk(&fault);
        }
        self.ensure_bulk()?;
        let budget_bytes = bulk::budget_bytes(self.shared.limits.file_bytes_max);
        let shared = Arc::clone(&self.shared);
        let slot = shared.bulk.read();
        let Some(bulk) = slot.as_ref() else { return Err(Fault::Failed("cache.redb is closed".to_owned())) };
        if self.squeezes > 0 {
            bulk.apply(&Ops::default(), &|_| false, budget_bytes >> self.squeezes)?;
        }
        // Before the commit, so that no reader misses what is on disk.
        let mut index = shared.index.write();
        index.fingerprints.extend(ops.keys().map(|fingerprint| index_key(*fingerprint)));
        drop(index);
        bulk.apply(ops, &|entry| shared.marks.read().is_dead(entry), budget_bytes)
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
        match Bulk::open(&path, &self.shared.limits) {
            Ok((bulk, meta)) if meta.store == self.store => {
                *self.shared.bulk.write() = Some(bulk);
                self.shared.note(&meta);
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
        let store = new_store_id(&self.shared);
        let (reply, answer) = channel();
        let gone = || Fault::Failed("the thread hifz-truth has ended".to_owned());
        self.scribe.send(Ask::Renew(store, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())??;
        self.store = store;
        let (dir, limits) = (&self.shared.dir, &self.shared.limits);
        self.shared.replace_bulk(|| {
            dir.remove_durably(&dir.cache_file()).map_err(|error| Fault::Failed(error.chain()))?;
            Bulk::create(&dir.cache_file(), limits, store)
        })
    }

    fn set_aside(&self, reason: &str) {
        tracing::warn!(reason, "cache.redb is set aside: the disk tier starts again, cold");
        self.shared.begin_discarded();
        let file = self.shared.dir.cache_file();
        if let Err(error) = self.shared.dir.quarantine(&[file], self.shared.options.bytes_max) {
            tracing::warn!(error = error.chain(), "cache.redb could not be moved to quarantine");
        }
    }

    fn drop_bulk(&mut self, fault: &Fault) {
        *self.shared.bulk.write() = None;
        self.shared.set_health(Part::Bulk, Some(fault.reason()));
        if let Fault::Damaged(reason) = fault {
            self.set_aside(reason);
        }
    }

    fn end_batch(&mut self, ops: &Ops, outcome: Result<Applied, Fault>) {
        match outcome {
            Ok(applied) => self.settle(ops, &applied),
            Err(fault) => {
                self.drop_bulk(&fault);
                if fault.reason().contains(super::backend::BOUND_REACHED) {
                    self.squeeze();
                }
                self.retry_at = monotonic_now().checked_add(self.backoff);
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                self.shared.queue.lock().give_back(fault.reason());
            }
        }
        self.shared.ended.notify_all();
    }

    /// The rows fit but their pages did not: make room in steps, and when that does not help, start again.
    fn squeeze(&mut self) {
        self.squeezes += 1;
        if self.squeezes > SQUEEZES_MAX {
            self.squeezes = 0;
            self.set_aside("it cannot be kept within its bound");
        }
    }

    fn settle(&mut self, ops: &Ops, applied: &Applied) {
        (self.backoff, self.retry_at, self.squeezes) = (BACKOFF_MIN, None, 0);
        let shared = &self.shared;
        shared.note(&applied.meta);
        shared.counts.evicted.fetch_add(applied.evicted, Ordering::Relaxed);
        let mut index = shared.index.write();
        for fingerprint in &applied.removed {
            index.fingerprints.remove(&index_key(*fingerprint));
        }
        drop(index);
        let mut marks = shared.marks.write();
        let filled: Vec<_> = ops
            .iter()
            .filter(|(fingerprint, _)| marks.has_grave(**fingerprint))
            .map(|(fingerprint, op)| (*fingerprint, op.sequence()))
            .collect();
        let mut queue = shared.queue.lock();
        queue.finish();
        shared.log.lock().settle();
        if !queue.has_pending() {
            marks.forget_settled();
        }
        drop(queue);
        drop(marks);
        shared.set_health(Part::Bulk, None);
        if !filled.is_empty() && self.scribe.send(Ask::Fill(filled, applied.meta.commit)).is_err() {
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

/// A commit is worth its fsyncs from about here.
const COMMIT_BYTES: u64 = 1 << 20;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

const SQUEEZES_MAX: u32 = 3;
