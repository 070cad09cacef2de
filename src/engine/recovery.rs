//! Warm restart: what the disk tier persisted goes back into memory in the background, most recent first.
//!
//! A miss meanwhile asks the disk itself. What was written since the start beats what is loaded: in memory its sequence
//! is higher, and where it has left memory again the disk tier still knows of it. What is deleted meanwhile is
//! remembered until the loading is over, so that a record read before the deletion cannot be put back after it.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::memory::{Insertion, Past};
use crate::sync::{AtomicBool, Mutex, Ordering};

use super::state::State;

/// The keys deleted while records are being loaded.
#[derive(Debug, Default)]
pub(super) struct Recovering {
    /// `None` when nothing is being loaded; filled by deletions, read under the shard lock of the insert it guards.
    deleted: Mutex<Option<HashSet<Key>>>,
    /// Raised to end the loading early: at close, and when more was deleted than is worth remembering.
    ended: AtomicBool,
    /// Whether something that an earlier process left may be on disk and not in memory; taken back by a loading that
    /// reached the end.
    is_left: AtomicBool,
}

impl Recovering {
    /// Remembers `keys` while a loading is under way. To be called before they leave memory.
    pub(super) fn deleted(&self, keys: &[Key]) {
        if let Some(deleted) = self.deleted.lock().as_mut() {
            deleted.extend(keys.iter().cloned());
            if deleted.len() > DELETED_MAX {
                self.ended.store(true, Ordering::Release);
            }
        }
    }

    /// Leaves the rest of a loading to misses.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether all that an earlier process left has come into memory, if only to be evicted again.
    pub(super) fn has_loaded_all(&self) -> bool {
        !self.is_left.load(Ordering::Acquire)
    }

    fn begin(&self) {
        self.is_left.store(true, Ordering::Release);
        *self.deleted.lock() = Some(HashSet::new());
    }

    fn finish(&self, has_loaded_all: bool) {
        *self.deleted.lock() = None;
        self.is_left.store(!has_loaded_all, Ordering::Release);
    }

    fn may_keep(&self, entry: &Entry) -> bool {
        !self.ended.load(Ordering::Acquire)
            && self.deleted.lock().as_ref().is_some_and(|deleted| !deleted.contains(entry.key().as_str()))
    }
}

/// The handle on the thread `hifz-recovery`.
#[derive(Debug)]
pub(super) struct Recovery {
    state: Arc<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recovery {
    pub(super) fn start(state: &Arc<State>) -> Result<Self> {
        let mut thread = None;
        if state.disk.is_some() {
            // Before any call can delete: what the thread reads from its first moment on is guarded.
            state.recovering.begin();
            let own_state = state.clone();
            let spawned =
                std::thread::Builder::new().name("hifz-recovery".into()).spawn(move || run(&own_state));
            let failed =
                |error| Error::new(ErrorKind::Busy, "the recovery thread cannot be started").because(error);
            thread = Some(spawned.map_err(failed)?);
        }
        Ok(Self { state: state.clone(), thread: Mutex::new(thread) })
    }

    /// Ends the loading and waits for its thread.
    pub(super) fn stop(&self) {
        self.state.recovering.end();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the recovery thread had panicked");
        }
    }
}

fn run(state: &State) {
    let Some(disk) = &state.disk else { return };
    let started = crate::clock::monotonic_now();
    let (mut loaded, mut is_all) = (0_u64, true);
    let (mut past, mut room) = (Past::new(PAST_ENTRIES), Left::default());
    disk.recover(&mut |entry, is_last| {
        if state.recovering.ended.load(Ordering::Acquire) || !room.takes(state, entry) {
            is_all = false;
            return ControlFlow::Break(());
        }
        if state.is_live_record(entry) {
            // Under the shard's lock, as every put is: one that came before is known to the disk tier, even where
            // memory has let it go again.
            let may_keep = || state.recovering.may_keep(entry) && is_last();
            let insertion = state.memory.restore_past(entry, &mut past, may_keep);
            loaded += u64::from(insertion == Insertion::Inserted);
            is_all &= insertion != Insertion::Bypassed;
        }
        ControlFlow::Continue(())
    });
    state.recovering.finish(is_all && !state.is_closed());
    tracing::info!(entries = loaded, elapsed = ?started.elapsed(), "loaded persisted entries into memory");
}

/// What memory has room for without evicting anything: what is older than everything there must not push out what is
/// newer. Asked anew now and then only, since that takes every shard's lock.
#[derive(Debug, Default)]
struct Left {
    bytes: u64,
    entries: u64,
    /// How many more are let in before memory is asked again.
    trusted: u32,
}

impl Left {
    fn takes(&mut self, state: &State, entry: &Entry) -> bool {
        let weight = entry.weight() as u64;
        if self.trusted == 0 || weight > self.bytes || self.entries == 0 {
            let usage = state.memory.usage();
            self.bytes = usage.limit_bytes.saturating_sub(usage.withheld_bytes + usage.all.bytes);
            self.entries = state.entries_max.map_or(u64::MAX, |most| most.saturating_sub(usage.all.entries));
            self.trusted = ASKED_EVERY;
        }
        self.trusted -= 1;
        let takes = weight <= self.bytes && self.entries > 0;
        if takes {
            (self.bytes, self.entries) = (self.bytes - weight, self.entries - 1);
        }
        takes
    }
}

/// So many entries are loaded before memory is asked again what it has room for.
const ASKED_EVERY: u32 = 256;

/// So many come back in the order of their last use; what comes after them is equally old.
const PAST_ENTRIES: u64 = 1 << 24;

/// Beyond this many deletions the rest of the loading is left to misses.
const DELETED_MAX: usize = 100_000;
