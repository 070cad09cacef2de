//! Warming: loading what will be asked for before it is.
//!
//! Promises: what is fresh already is left alone, so warming twice costs the source nothing; a bounded number of loads
//! at a time, never more than half of what may load at once, and none begins while ordinary callers take up more than
//! the other half; a key that fails ends nothing. It counts as no question in the statistics.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::monotonic_now;
use crate::error::{Error, Result};
use crate::key::Key;

use super::Cache;
use super::load::Shared;
use super::outcome::{Answer, Outcome};
use super::read::{self, Asking};
use super::spawn::Caller;

/// One key that warming is done with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Warmed {
    /// Which.
    pub key: Key,
    /// What became of it.
    pub result: Result<Warmth>,
}

/// What warming found under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warmth {
    /// It was fresh already.
    Fresh,
    /// It has been loaded, so many bytes.
    Loaded(u64),
    /// Its source has nothing there.
    Absent,
}

/// What a warming did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmReport {
    /// Keys looked at.
    pub keys: u64,
    /// Of these, loaded.
    pub loaded: u64,
    /// Of these, fresh already.
    pub fresh: u64,
    /// Of these, not there.
    pub absent: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Bytes loaded.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl WarmReport {
    fn add(&mut self, warmed: &Warmed) {
        self.keys += 1;
        match warmed.result {
            Ok(Warmth::Fresh) => self.fresh += 1,
            Ok(Warmth::Absent) => self.absent += 1,
            Ok(Warmth::Loaded(bytes)) => {
                self.loaded += 1;
                self.bytes += bytes;
            }
            Err(_) => self.failed += 1,
        }
    }
}

/// Looks at each of `keys`, a few at a time, and tells `tell` of each that is done.
pub(super) async fn warm<I>(
    cache: &Cache,
    keys: I,
    source: &Shared,
    tell: &mut (dyn FnMut(&Warmed) + Send),
) -> WarmReport
where
    I: Iterator<Item = Key> + Send,
{
    let began: Instant = monotonic_now();
    let (keys, done) = (Mutex::new(keys), Mutex::new(VecDeque::new()));
    let lane = || async {
        loop {
            let next = keys.lock().next();
            let Some(key) = next else { return };
            let result = warm_one(cache, &key, source).await;
            done.lock().push_back(Warmed { key, result });
        }
    };
    let lanes = LANES.min(cache.state().loads_max / 2).max(1);
    let mut lanes: Vec<Pin<Box<_>>> = (0..lanes).map(|_| Box::pin(lane())).collect();
    let mut report = WarmReport::default();
    poll_fn(|context| {
        lanes.retain_mut(|lane| lane.as_mut().poll(context).is_pending());
        while let Some(warmed) = { done.lock().pop_front() } {
            report.add(&warmed);
            tell(&warmed);
        }
        if lanes.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    report.elapsed = began.elapsed();
    report
}

async fn warm_one(cache: &Cache, key: &Key, source: &Shared) -> Result<Warmth> {
    let state = cache.state();
    while state.loads.available_permits() * 2 < state.loads_max && !state.is_closed() {
        state.timer.sleep(YIELD_FOR).await;
    }
    if state.find(key.as_key_ref()).is_ok() {
        return Ok(Warmth::Fresh);
    }
    let asking = Asking { key: key.as_key_ref(), source: source.clone(), caller: Caller::Awaits };
    let answer = read::get_or_load(cache, &asking).await?;
    let bytes = |answer: &Answer| answer.entry.as_ref().map_or(0, |entry| entry.body().len() as u64);
    match answer.outcome {
        Outcome::Hit => Ok(Warmth::Fresh),
        Outcome::Fallback => Err(Error::new(
            crate::error::ErrorKind::SourceUnavailable,
            "the source failed, what is there stays as it is",
        )),
        _ if answer.entry.is_none() => Ok(Warmth::Absent),
        _ => Ok(Warmth::Loaded(bytes(&answer))),
    }
}

/// So many loads at a time, or fewer.
const LANES: usize = 4;

/// So long it lets ordinary callers go first before it looks again.
const YIELD_FOR: Duration = Duration::from_millis(10);
