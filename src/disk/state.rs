//! What the threads of the disk tier share.
//!
//! Lock order, where two are held: `bulk`, then `marks`, then `queue`, then `log`, then `intake`; `catalog`, `health`,
//! `graces` and `life` are taken alone or last. Nothing is logged and no file but the bulk's and the marks' is touched while `marks`, `queue`, `catalog` or `health` is held.
//! Readers hold `bulk` shared for one read; the writer takes it alone only to drop or replace the handle, so that the
//! process never has the file open twice.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard};

use super::backend::{Ceiling, Fault, Limits};
use super::bulk::Bulk;
use super::catalog::{Catalog, Look};
use super::intake::{Intake, Whereabouts};
use super::log::MarkLog;
use super::marks::Marks;
use super::queue::{Op, Queue};
use super::{DiskOptions, DiskState};
use crate::clock::Clock;
use crate::datadir::DataDir;
use crate::entry::Entry;
use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: DataDir,
    opened_with: DiskOptions,
    /// What of them may change since.
    queue_bytes_max: Ceiling,
    index_bytes_max: Ceiling,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    /// Raised by whoever deletes or invalidates, before it is durable.
    pub(crate) marks: RwLock<Marks>,
    /// Nothing with a sequence from here on is dead: no less than any mark, and raised before the mark is.
    highest_mark: AtomicU64,
    /// Before the queue: see [`Shared::queue`].
    pub(crate) intake: Mutex<Intake>,
    /// Of the intake's bits; told with `intake` held.
    pub(crate) whereabouts: Whereabouts,
    queue: Mutex<Queue>,
    /// A mark is left after its put is in the queue, by who took this lock while holding that: a batch that is taken in
    /// between has the put in it, and one that is taken before has turned the log.
    pub(crate) log: Mutex<MarkLog>,
    /// Wakes the writer, which waits with `intake`.
    pub(crate) wake: Condvar,
    /// Wakes who waits for a batch to end.
    pub(crate) ended: Condvar,
    /// `None` while the file is closed after a fault; only the writer changes it.
    pub(crate) bulk: RwLock<Option<Bulk>>,
    pub(crate) catalog: RwLock<Catalog>,
    /// Wakes who waits for the catalog to be loaded, or to know of one key; guards nothing.
    pub(crate) loading: Mutex<()>,
    pub(crate) loaded: Condvar,
    /// How long records are kept past their deadline, in ms by namespace.
    pub(crate) graces: RwLock<HashMap<Box<str>, u64>>,
    health: Mutex<Health>,
    /// What the tier has become since somebody asked last, oldest first.
    changes: Mutex<Vec<DiskState>>,
    /// Held while the bulk's name comes or goes.
    life: Mutex<()>,
    /// The bulk must not be believed any more: set with `life` by anyone, taken back with `life` by the writer once
    /// another file stands in its place.
    is_discarded: AtomicBool,
    /// It still has its name, which could not be taken away: after a kill its records would come back.
    is_lingering: AtomicBool,
    /// What a reader found wrong with the file; taken by the writer.
    pub(crate) reader_fault: Mutex<Option<Fault>>,
    pub(crate) is_closed: AtomicBool,
    pub(crate) counts: Counts,
}

#[derive(Debug, Default)]
struct Health {
    bulk: Option<String>,
    truth: Option<String>,
}

impl Health {
    fn state(&self) -> DiskState {
        match self.truth.as_ref().or(self.bulk.as_ref()) {
            Some(reason) => DiskState::Degraded(reason.clone()),
            None => DiskState::Healthy,
        }
    }
}

/// Which part of the tier a fault is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Bulk,
    Truth,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) broken: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        dir: DataDir,
        options: DiskOptions,
        limits: Limits,
        clock: Clock,
        log: MarkLog,
    ) -> Self {
        let intake = Intake::new(options.queue_bytes_max);
        let (queue_bytes_max, index_bytes_max) =
            (Ceiling::new(options.queue_bytes_max), Ceiling::new(options.index_bytes_max));
        let whereabouts = Whereabouts::default();
        intake.show(&whereabouts);
        Self {
            dir,
            opened_with: options,
            queue_bytes_max,
            index_bytes_max,
            limits,
            clock,
            marks: RwLock::default(),
            highest_mark: AtomicU64::new(0),
            intake: Mutex::new(intake),
            whereabouts,
            queue: Mutex::default(),
            log: Mutex::new(log),
            wake: Condvar::new(),
            ended: Condvar::new(),
            bulk: RwLock::default(),
            catalog: RwLock::default(),
            loading: Mutex::default(),
            loaded: Condvar::new(),
            graces: RwLock::default(),
            health: Mutex::default(),
            changes: Mutex::default(),
            life: Mutex::default(),
            is_discarded: AtomicBool::new(false),
            is_lingering: AtomicBool::new(false),
            reader_fault: Mutex::default(),
            is_closed: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    /// The queue, with all that has arrived before.
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        let mut queue = self.queue.lock();
        let mut intake = self.intake.lock();
        let (arrived, bytes) = intake.take();
        queue.arrive(arrived, bytes);
        intake.set_queued(queue.pending_bytes());
        drop(intake);
        queue
    }

    /// The queue as it is: what has arrived stays where it is.
    pub(crate) fn queue_alone(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Lets go of the queue; whether the writer is to hear of what waits now.
    pub(crate) fn release(&self, queue: MutexGuard<'_, Queue>) -> bool {
        let mut intake = self.intake.lock();
        intake.set_queued(queue.pending_bytes());
        let is_news = intake.is_news();
        drop(intake);
        drop(queue);
        is_news
    }

    /// Has the writer look at its plans.
    pub(crate) fn ring(&self) {
        // It looks with this lock held until it waits, so it either sees what was changed or hears this.
        drop(self.intake.lock());
        self.wake.notify_all();
    }

    /// Has the writer write what waits, now.
    pub(crate) fn hurry(&self) {
        self.queue().is_urgent = true;
        self.ring();
    }

    /// The marks, to be raised; nothing below `sequence` is to be taken for alive unseen from now on.
    pub(crate) fn marks_for(&self, sequence: u64) -> RwLockWriteGuard<'_, Marks> {
        self.highest_mark.fetch_max(sequence, Ordering::SeqCst);
        self.marks.write()
    }

    /// Whether `entry`, which arrives only now, is dead or may be.
    pub(crate) fn is_refused(&self, entry: &Entry) -> bool {
        self.is_below_a_mark(entry) && self.marks.read().is_refused(entry)
    }

    /// Whether `entry`, which waits or lies in the file, is dead.
    pub(crate) fn is_dead(&self, entry: &Entry) -> bool {
        self.is_below_a_mark(entry) && self.marks.read().is_dead(entry)
    }

    fn is_below_a_mark(&self, entry: &Entry) -> bool {
        entry.sequence() < self.highest_mark.load(Ordering::SeqCst)
    }

    /// Makes the bulk untrusted: nothing is read from it any more, and its name is durably gone. Needs no space.
    pub(crate) fn discard_bulk(&self) -> Result<()> {
        // Where another process holds the directory now, the file of that name is not this one's.
        let removed = self.discard_by(|| self.dir.check_held().and_then(|()| self.take_name()));
        self.hurry();
        removed
    }

    /// As [`Shared::discard_bulk`], for a file that is to be looked into: it is moved to quarantine.
    pub(crate) fn quarantine_bulk(&self) -> Result<()> {
        self.discard_by(|| self.set_aside(&[self.dir.cache_file()]))
    }

    /// Believes nothing in the bulk any more, and runs `remove`, which takes its name away.
    fn discard_by(&self, remove: impl FnOnce() -> Result<()>) -> Result<()> {
        let life = self.life.lock();
        self.is_discarded.store(true, Ordering::SeqCst);
        let removed = remove();
        let is_there = || self.dir.cache_file().try_exists().unwrap_or(true);
        self.is_lingering.store(removed.is_err() && is_there(), Ordering::SeqCst);
        drop(life);
        removed
    }

    /// As [`Shared::discard_bulk`], for the writer, which is at it already.
    pub(crate) fn remove_bulk(&self) -> Result<()> {
        self.discard_by(|| self.take_name())
    }

    fn take_name(&self) -> Result<()> {
        let file = self.dir.cache_file();
        self.dir.remove_durably(&file)?;
        self.limits.fuse.gone(&file);
        Ok(())
    }

    /// Moves `files` to quarantine.
    pub(crate) fn set_aside(&self, files: &[PathBuf]) -> Result<()> {
        self.dir.quarantine(files, self.options().bytes_max)?;
        for file in files {
            self.limits.fuse.gone(file);
        }
        Ok(())
    }

    /// Runs `make`, which puts a new bulk in the place of what was discarded.
    pub(crate) fn replace_bulk(
        &self,
        make: impl FnOnce() -> std::result::Result<Bulk, Fault>,
    ) -> std::result::Result<(), Fault> {
        let mut slot = self.bulk.write();
        let life = self.life.lock();
        *slot = None;
        let bulk = make()?;
        *slot = Some(bulk);
        // First, so that nobody takes what was in the other one for what is in this one.
        self.catalog.write().clear();
        self.is_discarded.store(false, Ordering::SeqCst);
        drop(life);
        drop(slot);
        let mut marks = self.marks.write();
        let mut queue = self.queue();
        queue.forget_removals();
        self.log.lock().clear();
        drop(queue);
        marks.settle_all();
        drop(marks);
        self.trust_index();
        Ok(())
    }

    /// Nothing is to be removed any more, because what it was to be removed from has been given up.
    pub(crate) fn forget_removals(&self) {
        let mut marks = self.marks.write();
        let mut queue = self.queue();
        if self.is_discarded() {
            queue.forget_removals();
            marks.settle_all();
        }
    }

    /// Tells the intake which keys are known, anew, from an index that knows every record.
    pub(crate) fn trust_index(&self) {
        let waiting = self.queue().len() as u64;
        let catalog = self.catalog.read();
        if !catalog.is_whole() {
            return;
        }
        let mut seen = catalog.seen(waiting);
        drop(catalog);
        seen.gather();
        // Nothing enters or leaves the queue meanwhile, and what arrives does not wait for this.
        let queue = self.queue();
        seen.add(queue.keys());
        let mut intake = self.intake.lock();
        intake.trust(seen);
        intake.show(&self.whereabouts);
    }

    pub(crate) fn is_discarded(&self) -> bool {
        self.is_discarded.load(Ordering::SeqCst)
    }

    /// Waits until the name of a bulk that is given up is gone, if it is: before that a kill would bring back what no
    /// mark is left for any more.
    pub(crate) fn wait_discarded(&self) {
        if self.is_discarded() {
            drop(self.life.lock());
        }
    }

    /// Whether a bulk that is given up could not be removed, so that nothing can be written over for good.
    pub(crate) fn is_lingering(&self) -> bool {
        self.is_lingering.load(Ordering::SeqCst)
    }

    /// The bulk is given up, and nothing has been done about it yet.
    #[cfg(test)]
    pub(crate) fn begin_discarded(&self) {
        self.is_discarded.store(true, Ordering::SeqCst);
    }

    /// Whether a record of the key may lie in the file.
    pub(crate) fn may_contain(&self, fingerprint: u128) -> bool {
        self.catalog.read().look(half(fingerprint)) != Look::Nowhere
    }

    /// No less than the sequence of anything that a kill might bring back under the key; `None` where there is nothing.
    pub(crate) fn sequence_max(&self, fingerprint: u128) -> Option<u64> {
        self.catalog.read().sequence_max(half(fingerprint))
    }

    /// What is known about a key, once that is known: at the latest when the catalog is loaded, or will not be.
    pub(crate) fn look(&self, fingerprint: u128) -> Look {
        let half = half(fingerprint);
        let look = self.catalog.read().look(half);
        if look != Look::Loading {
            return look;
        }
        let mut loading = self.loading.lock();
        loop {
            let look = self.catalog.read().look(half);
            if look != Look::Loading || self.is_closed.load(Ordering::Relaxed) {
                return look;
            }
            self.loaded.wait(&mut loading);
        }
    }

    /// Waits until the catalog is loaded, or will not be.
    pub(crate) fn wait_loaded(&self) {
        let mut loading = self.loading.lock();
        while self.catalog.read().is_loading() && !self.is_closed.load(Ordering::Relaxed) {
            self.loaded.wait(&mut loading);
        }
    }

    /// Wakes who waits for the catalog, because it knows more than before.
    pub(crate) fn tell_loaded(&self) {
        drop(self.loading.lock());
        self.loaded.notify_all();
    }

    /// Until when a record is worth keeping: its deadline and the grace of its namespace, in ms since the Unix epoch.
    pub(crate) fn until_ms(&self, entry: &Entry) -> u64 {
        let grace_ms = self.graces.read().get(entry.key().namespace()).copied().unwrap_or(0);
        entry.expires_at().as_millis().saturating_add(grace_ms)
    }

    /// The options as they are now.
    pub(crate) fn options(&self) -> DiskOptions {
        DiskOptions {
            queue_bytes_max: self.queue_bytes_max.bytes(),
            index_bytes_max: self.index_bytes_max.bytes(),
            ..self.opened_with
        }
    }

    /// What waits and what the index takes may have so many bytes from now on. What waits already is written as it would
    /// have been.
    pub(crate) fn set_memory(&self, queue_bytes_max: u64, index_bytes_max: u64) {
        self.queue_bytes_max.set(queue_bytes_max);
        self.index_bytes_max.set(index_bytes_max);
        self.intake.lock().set_bytes_max(queue_bytes_max);
        self.ring();
    }

    /// Has the record of a key removed if its sequence is below `below`.
    pub(crate) fn remove(&self, fingerprint: u128, below: u64) {
        self.queue().push(fingerprint, Op::Remove(below), self.options().queue_bytes_max);
        self.ring();
    }

    /// A record turned out to be damaged.
    pub(crate) fn note_broken(&self, error: &Error) {
        self.counts.broken.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(error = error.chain(), "a record is dropped");
    }

    pub(crate) fn report(&self, fault: Fault) {
        *self.reader_fault.lock() = Some(fault);
        self.hurry();
    }

    /// Notes that a part is well (`None`) or why it is not; each change is one line in the log and one for listeners.
    pub(crate) fn set_health(&self, part: Part, reason: Option<&str>) {
        let mut health = self.health.lock();
        let before = health.state();
        let (slot, file) = match part {
            Part::Bulk => (&mut health.bulk, "cache.redb"),
            Part::Truth => (&mut health.truth, "cache-truth.redb"),
        };
        *slot = reason.map(|reason| format!("{file}: {reason}"));
        let after = health.state();
        drop(health);
        if std::mem::discriminant(&before) == std::mem::discriminant(&after) {
            return;
        }
        match &after {
            DiskState::Degraded(reason) => tracing::warn!(reason, "the disk tier is degraded: memory only"),
            DiskState::Healthy => tracing::info!("the disk tier is healthy again"),
        }
        let mut changes = self.changes.lock();
        if changes.len() < CHANGES_MAX {
            changes.push(after);
        }
    }

    /// What the tier has become since the last call.
    pub(crate) fn changes(&self) -> Vec<DiskState> {
        std::mem::take(&mut *self.changes.lock())
    }

    /// Whether anything waits to be told by [`Shared::changes`].
    #[cfg(test)]
    pub(crate) fn has_changed(&self) -> bool {
        !self.changes.lock().is_empty()
    }

    /// A thread of the tier has died: nobody is to wait for it.
    pub(crate) fn die(&self, thread: &str) {
        self.set_health(Part::Bulk, Some(&format!("the thread {thread} died")));
        let queue = self.queue();
        self.is_closed.store(true, Ordering::SeqCst);
        drop(queue);
        self.ended.notify_all();
        self.tell_loaded();
    }

    pub(crate) fn state(&self) -> DiskState {
        self.health.lock().state()
    }
}

/// The half of a fingerprint that the catalog keeps.
#[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
pub(crate) fn half(fingerprint: u128) -> u64 {
    fingerprint as u64
}

/// So many changes of state wait for somebody to ask.
const CHANGES_MAX: usize = 64;
