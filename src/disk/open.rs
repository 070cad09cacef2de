//! The open: which files are believed, and what is done about those that are not.
//!
//! It reads numbers, floors and graves, never records, so it takes as long for a full file as for an empty one; the
//! directories are read afterwards by the writer (`disk/load.rs`). Whatever is wrong with the files, it ends with a tier
//! that runs: believed, cold, or degraded.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

use super::backend::{Ceiling, Fault, Fuse, Limits};
use super::bulk::{Bulk, Meta};
use super::log::MarkLog;
use super::queue::Op;
use super::scribe::Scribe;
use super::state::{Part, Shared};
use super::truth::{Stored, TruthFile};
use super::writer::{Writer, new_store_id};
use super::{Disk, DiskOptions, Truth};
use crate::clock::Clock;
use crate::datadir::DataDir;
use crate::error::{Error, ErrorKind, Result};

pub(super) fn open(dir: &DataDir, options: DiskOptions, clock: Clock, fuse: Fuse) -> Result<(Disk, Truth)> {
    let limits =
        Limits { file_bytes_max: Ceiling::new(options.bytes_max), page_cache_bytes: PAGE_CACHE_BYTES, fuse };
    let (log, overwrites) = MarkLog::open(dir.path(), limits.fuse.clone());
    let shared = Arc::new(Shared::new(dir.clone(), options, limits, clock, log));
    let opened = open_files(&shared);
    let first_sequence = opened.stored.epoch << COUNTER_BITS;
    // Those for a file that another has taken the place of are of nothing that is there.
    let overwrites = if opened.meta.is_some() { overwrites } else { Vec::new() };
    load_marks(&shared, &opened.stored, &overwrites);
    let (ask, asks) = channel();
    let (store, epoch, found) = (opened.stored.store, opened.stored.epoch, opened.meta);
    let writer = Writer::new(Arc::clone(&shared), ask.clone(), store);
    let scribe = Scribe::new(Arc::clone(&shared), opened.truth, epoch, store);
    let threads = vec![
        spawn("hifz-writer", &shared, move || writer.run(found))?,
        spawn("hifz-truth", &shared, move || scribe.run(&asks))?,
    ];
    let disk = Disk { shared, scribe: ask, threads: Mutex::new(threads), first_sequence };
    Ok((disk, Truth { floors: opened.stored.floors, first_sequence }))
}

/// The truth of this run, its epoch already raised.
struct Opened {
    truth: Option<TruthFile>,
    stored: Stored,
    /// What the bulk says about itself; `None` where there is none to be read.
    meta: Option<Meta>,
}

fn open_files(shared: &Shared) -> Opened {
    match try_open(shared) {
        Ok(opened) => opened,
        Err((part, fault)) => {
            // Sequences of this run begin anew, so nothing older may be beside them: not in this run, and not in the
            // next one if this is killed, which would take the older for the newer.
            *shared.bulk.write() = None;
            shared.set_health(part, Some(fault.reason()));
            if let Err(error) = shared.discard_bulk() {
                tracing::warn!(error = error.chain(), "the cache file could not be removed");
            }
            Opened { truth: None, stored: Stored { epoch: 1, ..Stored::default() }, meta: None }
        }
    }
}

fn try_open(shared: &Shared) -> std::result::Result<Opened, (Part, Fault)> {
    let (truth_path, bulk_path) = (shared.dir.cache_truth_file(), shared.dir.cache_file());
    let in_truth = |fault| (Part::Truth, fault);
    let small = shared.limits.small();
    let (truth, mut stored) = match TruthFile::open(&truth_path, &small) {
        Ok(opened) => opened,
        Err(Fault::Damaged(reason)) => {
            set_aside(shared, &[bulk_path.clone(), truth_path.clone()], &reason).map_err(in_truth)?;
            TruthFile::open(&truth_path, &small).map_err(in_truth)?
        }
        Err(fault) => return Err(in_truth(fault)),
    };
    let bulk = open_bulk(shared, &stored).map_err(|fault| (Part::Bulk, fault))?;
    stored.epoch = (stored.epoch + 1).min(EPOCH_MAX);
    if let Some((bulk, meta)) = bulk {
        truth.begin_epoch(&stored).map_err(in_truth)?;
        *shared.bulk.write() = Some(bulk);
        // Whoever asks from now on waits for the writer to read what is there.
        shared.catalog.write().begin_loading(0);
        return Ok(Opened { truth: Some(truth), stored, meta: Some(meta) });
    }
    // Floors stay, for what the caller keeps elsewhere; graves were those of a bulk that is no more.
    stored = Stored { store: new_store_id(shared), settled: 0, graves: Vec::new(), ..stored };
    truth.replace(&stored).map_err(in_truth)?;
    let make = || Bulk::create(&bulk_path, &shared.limits, stored.store);
    shared.replace_bulk(make).map_err(|fault| (Part::Bulk, fault))?;
    Ok(Opened { truth: Some(truth), stored, meta: None })
}

/// The bulk that belongs to this truth, if there is one; any other is set aside.
fn open_bulk(shared: &Shared, stored: &Stored) -> std::result::Result<Option<(Bulk, Meta)>, Fault> {
    let path = shared.dir.cache_file();
    let is_there = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0);
    if !is_there {
        return Ok(None);
    }
    let reason = match Bulk::open(&path, &shared.limits) {
        Ok((bulk, meta)) => match why_not(&meta, stored) {
            None => return Ok(Some((bulk, meta))),
            Some(reason) => reason.to_owned(),
        },
        Err(Fault::Damaged(reason)) => reason,
        Err(fault) => return Err(fault),
    };
    set_aside(shared, &[path], &reason)?;
    Ok(None)
}

/// What speaks against believing a bulk that could be opened.
fn why_not(meta: &Meta, stored: &Stored) -> Option<&'static str> {
    if stored.store == 0 {
        Some("its truth is missing")
    } else if meta.store != stored.store {
        Some("it belongs to another truth")
    } else if meta.commit < stored.settled {
        Some("it is older than its truth")
    } else if meta.sequence_last >= (stored.epoch + 1) << COUNTER_BITS {
        Some("it is newer than its truth")
    } else {
        None
    }
}

fn set_aside(shared: &Shared, files: &[PathBuf], reason: &str) -> std::result::Result<(), Fault> {
    tracing::warn!(reason, ?files, "the cache on disk is set aside: the start is cold");
    let failed = |error: Error| Fault::Failed(error.chain());
    shared.set_aside(files).map_err(failed)
}

fn load_marks(shared: &Shared, stored: &Stored, overwrites: &[(u128, u64)]) {
    // Everything of earlier runs is below the first sequence of this one.
    let mut marks = shared.marks_for(stored.epoch << COUNTER_BITS);
    for (floor, sequence) in &stored.floors {
        marks.raise(floor, *sequence);
    }
    for (fingerprint, sequence) in stored.graves.iter().chain(overwrites) {
        marks.bury(*fingerprint, *sequence);
    }
    drop(marks);
    // What they are the graves of is removed now, so that they can be filled in.
    let mut queue = shared.queue();
    for (fingerprint, sequence) in stored.graves.iter().chain(overwrites) {
        queue.push(*fingerprint, Op::Remove(*sequence), shared.options().queue_bytes_max);
    }
}

/// A thread whose death is noticed: the tier then says so, and nobody waits for it.
fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let guarded = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            shared.die(name);
            resume_unwind(panic);
        }
    };
    Builder::new().name(name.to_owned()).spawn(guarded).map_err(|error| {
        Error::new(ErrorKind::DiskFailed, format!("cannot start the thread {name}")).because(error)
    })
}

/// How many of a sequence's bits count within an epoch.
const COUNTER_BITS: u32 = 40;

const EPOCH_MAX: u64 = (1 << (64 - COUNTER_BITS)) - 2;

/// redb's own cache of pages: resident memory, so it is small; the kernel's cache serves the rest.
const PAGE_CACHE_BYTES: usize = 8 << 20;
