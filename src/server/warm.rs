//! When and what to warm: at the start, by schedule, on demand.
//!
//! Promises: the port answers before anything is warm; one warming at a time, others wait their turn; a scheduled run
//! that was missed while the server was off is made up once. What is warmed is what was read most, as counted here,
//! filled up with ten surahs that are read much everywhere, and every list. Counts and the last run are kept in
//! `hifz.warm`; losing the file loses nothing but them.

mod reads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::content::keys::{self, Content, SurahNumber};
use crate::datadir::DataDir;
use crate::engine::{Cache, WarmReport, Warmed};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyRef};
use crate::server::config;
use crate::server::schedule::Schedule;
use crate::source::Source;

use reads::Reads;

/// The types of content that can be warmed, as settings, flags and requests name them.
pub(super) const KINDS: &[&str] = &["surahs", "reciters", "translations"];

/// Warms one cache from one source; a clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Warmer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cache: Cache,
    source: Arc<dyn Source>,
    directory: DataDir,
    reads: Reads,
    /// Held by the warming under way.
    turn: tokio::sync::Mutex<()>,
    /// When the last run ended; changed by whoever holds the turn.
    last_run: Mutex<Option<Timestamp>>,
    /// Whether the warming at the start is over, or was not asked for.
    is_warm: AtomicBool,
}

/// What is kept over restarts.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    last_run_ms: Option<u64>,
    reads: Vec<(String, u64)>,
}

impl Warmer {
    pub(super) fn new(cache: Cache, source: Arc<dyn Source>, directory: DataDir) -> Self {
        let kept = read_kept(&directory);
        let inner = Inner {
            cache,
            source,
            directory,
            reads: Reads::restored(kept.reads),
            turn: tokio::sync::Mutex::default(),
            last_run: Mutex::new(kept.last_run_ms.map(Timestamp::from_millis)),
            is_warm: AtomicBool::new(false),
        };
        Self(Arc::new(inner))
    }

    /// Whether the warming at the start is over, or was not asked for.
    pub(super) fn is_warm(&self) -> bool {
        self.0.is_warm.load(Ordering::Acquire)
    }

    /// Counts that `key` was read; one in a few is counted, for all of them.
    #[inline]
    pub(super) fn note_read(&self, key: KeyRef<'_>) {
        self.0.reads.note(key);
    }

    /// Warms at the start and by schedule, for as long as the process lives.
    pub(super) async fn keep_warm(self, settings: config::Warm) {
        let schedule = settings.schedule.as_deref().and_then(Schedule::parse);
        let started = self.0.cache.now();
        let last = self.0.last_run.lock().map(|last| last.min(started));
        let missed = last.zip(schedule.as_ref()).and_then(|(last, schedule)| schedule.next(last));
        let is_missed = missed.is_some_and(|missed| missed <= started);
        if settings.on_start || is_missed {
            self.run_and_log(&settings.only, if settings.on_start { "start" } else { "missed run" }).await;
        }
        self.0.is_warm.store(true, Ordering::Release);
        let Some(schedule) = schedule else { return };
        let mut due = schedule.next(self.0.cache.now());
        while let Some(at) = due {
            // In short steps, because the clock may be set meanwhile.
            let left = at.since(self.0.cache.now());
            if left.is_zero() {
                self.run_and_log(&settings.only, "schedule").await;
                due = schedule.next(self.0.cache.now());
            } else {
                tokio::time::sleep(left.clamp(STEP_MIN, STEP_MAX)).await;
            }
        }
    }

    async fn run_and_log(&self, only: &[String], why: &str) {
        let report = self.run(only, &mut |_, _| {}).await;
        let WarmReport { keys, loaded, fresh, absent, failed, bytes, elapsed, .. } = report;
        tracing::info!(why, keys, loaded, fresh, absent, failed, bytes, ?elapsed, "warmed");
    }

    /// Warms what is read most of the types in `only`, all of them when it is empty; tells of each key with the number
    /// of all. Waits until no other warming is under way.
    pub(super) async fn run(
        &self,
        only: &[String],
        tell: &mut (dyn FnMut(&Warmed, usize) + Send),
    ) -> WarmReport {
        let _turn = self.0.turn.lock().await;
        let keys = self.keys(only);
        let total = keys.len();
        let report = self.0.cache.warm(keys, &self.0.source, |warmed: &Warmed| tell(warmed, total)).await;
        *self.0.last_run.lock() = Some(self.0.cache.now());
        let own = self.clone();
        // A file that cannot be written costs a second run after the next start, and is not worth failing for.
        if let Err(error) = blocking::unblock(move || own.keep()).await {
            tracing::warn!(error = %error.chain(), "the warming could not be noted");
        }
        report
    }

    /// Writes down what was read, at the end.
    pub(super) async fn close(self) {
        if let Err(error) = blocking::unblock(move || self.keep()).await {
            tracing::warn!(error = %error.chain(), "what was read could not be noted");
        }
    }

    /// Writes down the last run and what is read. Blocks on the disk.
    fn keep(&self) -> Result<()> {
        let last_run_ms = self.0.last_run.lock().map(Timestamp::as_millis);
        let kept = Kept { last_run_ms, reads: self.0.reads.most(READS_KEPT) };
        let bytes = serde_json::to_vec(&kept)
            .map_err(|error| Error::new(ErrorKind::DiskFailed, "cannot be rendered").because(error))?;
        self.0.directory.write_note(FILE, &bytes)
    }

    /// What to warm, the most read first.
    fn keys(&self, only: &[String]) -> Vec<Key> {
        let is_asked = |kind: &str| only.is_empty() || only.iter().any(|own| own == kind || own == "all");
        let lists = [
            ("surahs", keys::surahs()),
            ("reciters", keys::reciters()),
            ("translations", keys::translations()),
        ];
        let mut warm: Vec<Key> =
            lists.into_iter().filter(|(kind, _)| is_asked(kind)).map(|(_, key)| key).collect();
        for (text, _) in self.0.reads.most(MOST_READ_MAX) {
            let Ok(key) = Key::parse(text) else { continue };
            let kind = Content::of(key.as_key_ref()).map(|content| content.tag());
            if kind.is_some_and(is_asked) && !warm.contains(&key) {
                warm.push(key);
            }
        }
        if is_asked("surahs") {
            let well_read = WELL_READ.iter().filter_map(|number| SurahNumber::new(*number).ok());
            for key in well_read.map(|number| keys::surah(number, None)) {
                if warm.len() < MOST_READ_MAX && !warm.contains(&key) {
                    warm.push(key);
                }
            }
        }
        warm
    }
}

/// What an earlier process kept; nothing when it cannot be read.
fn read_kept(directory: &DataDir) -> Kept {
    let kept =
        directory.read_note(FILE, FILE_BYTES_MAX).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    kept.unwrap_or_default()
}

/// The file of the last run and the counts.
const FILE: &str = "hifz.warm";

/// No more of it is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Al-Fatiha, Al-Baqara, Al-Kahf, Ya-Sin, Ar-Rahman, Al-Waqi'a, Al-Mulk, and the last three.
const WELL_READ: [u64; 10] = [1, 2, 18, 36, 55, 56, 67, 112, 113, 114];

/// The most keys of one warming.
const MOST_READ_MAX: usize = 200;

/// So many counts are kept over a restart.
const READS_KEPT: usize = 500;

/// Between these lie the pauses in which the clock is looked at.
const STEP_MIN: Duration = Duration::from_millis(50);
const STEP_MAX: Duration = Duration::from_secs(20);
