//! The thread `hifz-truth`: makes deaths durable before they are acknowledged, many at a time.
//!
//! Whoever asks waits for the fsync of the batch its question falls into. When the truth cannot be written, the bulk
//! is made untrusted instead (its name durably removed, which needs no space): nothing in it can then come back, so
//! the death is as good as recorded. Only when that fails too is the answer an error. Filled-in graves wait for the
//! next batch; they cost nothing but their row.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::backend::Fault;
use super::state::{Part, Shared};
use super::truth::{Change, Stored, TruthFile};
use crate::error::{Error, ErrorKind, Result};

/// A question to the thread.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Make these durable, and say so.
    Record(Vec<Change>, Sender<Result<()>>),
    /// These graves are settled as of this batch of the bulk.
    Fill(Vec<(u128, u64)>, u64),
    /// A new bulk is about to be made: write the truth anew with this store id.
    Renew(u64, Sender<std::result::Result<(), Fault>>),
    /// Write what waits and end.
    Stop,
}

/// The inside of the thread.
pub(crate) struct Scribe {
    pub(crate) shared: Arc<Shared>,
    /// `None` after a fault, until it could be opened again.
    pub(crate) file: Option<TruthFile>,
    pub(crate) epoch: u64,
    /// The bulk that belongs to the file.
    pub(crate) store: u64,
    filled: Vec<(u128, u64)>,
    settled: Option<u64>,
}

impl Scribe {
    pub(crate) fn new(shared: Arc<Shared>, file: Option<TruthFile>, epoch: u64, store: u64) -> Self {
        Self { shared, file, epoch, store, filled: Vec::new(), settled: None }
    }

    pub(crate) fn run(mut self, asks: &Receiver<Ask>) {
        loop {
            let first = match asks.recv_timeout(self.patience()) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.reopen();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let (mut changes, mut waiting) = (Vec::new(), Vec::new());
            let mut stops = false;
            for ask in std::iter::once(first).chain(asks.try_iter().take(GROUP_MAX)) {
                match ask {
                    Ask::Record(more, reply) => {
                        changes.extend(more);
                        waiting.push(reply);
                    }
                    Ask::Fill(graves, commit) => {
                        self.filled.extend(graves);
                        self.settled = Some(commit);
                    }
                    Ask::Renew(store, reply) => answer(&reply, self.renew(store)),
                    Ask::Stop => stops = true,
                }
            }
            self.record(&changes, &waiting, stops);
            if stops {
                return;
            }
        }
    }

    /// How long it waits to be asked: for ever while all is well.
    fn patience(&self) -> Duration {
        // A tier without a truth from the open on waits for its new bulk, which brings one.
        if self.file.is_none() && self.store != 0 { REOPEN_INTERVAL } else { Duration::MAX }
    }

    /// After a fault: everything acknowledged since is in the file, or its bulk is gone, so it may be used again.
    fn reopen(&mut self) {
        if self.file.is_some() || self.store == 0 || self.shared.dir.check_held().is_err() {
            return;
        }
        let path = self.shared.dir.cache_truth_file();
        if !path.exists() {
            return;
        }
        let opened = TruthFile::open(&path, &self.shared.limits.small());
        if let Ok((file, stored)) = opened
            && (stored.epoch, stored.store) == (self.epoch, self.store)
        {
            self.file = Some(file);
            self.shared.set_health(Part::Truth, None);
        }
    }

    fn record(&mut self, changes: &[Change], waiting: &[Sender<Result<()>>], stops: bool) {
        let is_due =
            !waiting.is_empty() || self.filled.len() >= FILLED_MAX || (stops && self.settled.is_some());
        if !is_due {
            return;
        }
        let outcome = self.try_record(changes);
        let outcome = outcome.or_else(|fault| if waiting.is_empty() { Ok(()) } else { self.give_up(&fault) });
        for reply in waiting {
            answer(reply, outcome.clone());
        }
    }

    fn try_record(&mut self, changes: &[Change]) -> std::result::Result<(), Fault> {
        self.reopen();
        let result = match &self.file {
            Some(file) => file.record(changes, &self.filled, self.settled),
            None => Err(Fault::Failed("cache-truth.redb could not be opened again yet".to_owned())),
        };
        match &result {
            Ok(()) => {
                self.filled.clear();
                self.settled = None;
            }
            Err(fault) => {
                // After an error redb answers nothing but that error until the file is opened again.
                self.file = None;
                self.shared.set_health(Part::Truth, Some(fault.reason()));
            }
        }
        result
    }

    /// The truth cannot be written: nothing may come back from the bulk, then.
    fn give_up(&self, fault: &Fault) -> Result<()> {
        self.shared.discard_bulk().map_err(|error| {
            let message = format!(
                "the invalidation holds in memory but could not be made durable ({}), and neither could the cache file be removed",
                fault.reason()
            );
            Error::new(ErrorKind::DiskFailed, message).because(error)
        })
    }

    /// Everything anew for a bulk that does not exist yet: what is dead in an earlier one no longer matters, and the
    /// floors are those in memory.
    fn renew(&mut self, store: u64) -> std::result::Result<(), Fault> {
        let result = self.try_renew(store);
        match &result {
            Ok(()) => {
                self.filled.clear();
                self.settled = None;
                self.shared.set_health(Part::Truth, None);
            }
            Err(fault) => {
                self.file = None;
                self.shared.set_health(Part::Truth, Some(fault.reason()));
            }
        }
        result
    }

    fn try_renew(&mut self, store: u64) -> std::result::Result<(), Fault> {
        let floors = self.shared.marks.read().floors();
        let stored = |epoch| Stored { epoch, store, settled: 0, floors: floors.clone(), graves: Vec::new() };
        let renewed = self.take_or_open().and_then(|file| {
            file.replace(&stored(self.epoch))?;
            Ok(file)
        });
        let file = match renewed {
            Err(Fault::Damaged(reason)) => {
                tracing::warn!(reason, "cache-truth.redb is set aside");
                let path = self.shared.dir.cache_truth_file();
                let set_aside = self.shared.set_aside(std::slice::from_ref(&path));
                set_aside.map_err(|error| Fault::Failed(error.chain()))?;
                let file = TruthFile::open(&path, &self.shared.limits.small())?.0;
                file.replace(&stored(self.epoch))?;
                file
            }
            renewed => renewed?,
        };
        self.store = store;
        self.file = Some(file);
        Ok(())
    }

    /// The file in use, or that of the last fault opened again.
    fn take_or_open(&mut self) -> std::result::Result<TruthFile, Fault> {
        if let Some(file) = self.file.take() {
            return Ok(file);
        }
        let path = self.shared.dir.cache_truth_file();
        let (file, stored) = TruthFile::open(&path, &self.shared.limits.small())?;
        self.epoch = self.epoch.max(stored.epoch);
        Ok(file)
    }
}

fn answer<T>(reply: &Sender<T>, outcome: T) {
    if reply.send(outcome).is_err() {
        tracing::debug!("nobody waits for the truth any more");
    }
}

/// How often a file that failed is tried again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// How many questions share one fsync at most.
const GROUP_MAX: usize = 1024;

/// So many filled-in graves are worth a write of their own.
const FILLED_MAX: usize = 4096;
