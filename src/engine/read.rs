//! The read path: memory, then one flight a key to the disk tier and the source.
//!
//! A hit in memory takes one shard lock, clones one pointer and neither awaits nor allocates. A load notes its
//! sequence before it asks the source; an invalidation that comes in between supersedes it, so that its answer reaches
//! those who asked before and is kept by nobody.

use crate::clock::monotonic_now;
use crate::entry::{Entry, Head, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::memory::Insertion;
use crate::source::{Loaded, Source};

use super::Cache;
use super::flight::{Flight, Role};
use super::state::State;
use super::stats::{Counters, MissReason};

/// Where an answer came from. Each has one name, the same in types, logs, metrics, events and `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// From memory or disk, fresh.
    Hit,
    /// From memory or disk, past its lifetime but within its stale window, because a load took too long.
    Stale,
    /// From memory or disk, past its lifetime, while a load that nobody waits for brings the next one.
    Revalidating,
    /// From the source, and kept.
    Miss,
    /// From a load that another caller had begun.
    Joined,
    /// The source had said that there is none, and that still holds.
    Negative,
    /// From memory or disk, past its lifetime, because the source failed.
    Fallback,
    /// From the source, and not kept: too large, not to be stored, or overtaken by an invalidation.
    Bypass,
    /// The source answered something that is not acceptable, and nothing older could be served.
    Rejected,
}

impl Outcome {
    /// Every outcome, in the order of [`Outcome::index`].
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::Stale,
        Self::Revalidating,
        Self::Miss,
        Self::Joined,
        Self::Negative,
        Self::Fallback,
        Self::Bypass,
        Self::Rejected,
    ];

    /// Its one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidating => "revalidating",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Negative => "negative",
            Self::Fallback => "fallback",
            Self::Bypass => "bypass",
            Self::Rejected => "rejected",
        }
    }

    /// Whether the answer came from the cache, fresh or stale, as `Cache-Status` has it.
    #[must_use]
    pub const fn is_hit(self) -> bool {
        match self {
            Self::Hit | Self::Stale | Self::Revalidating | Self::Negative | Self::Fallback => true,
            Self::Miss | Self::Joined | Self::Bypass | Self::Rejected => false,
        }
    }

    /// Its place in [`Outcome::ALL`], for tables by outcome.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// An entry and where it came from.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The entry.
    pub entry: Entry,
    /// Where it came from.
    pub outcome: Outcome,
}

/// What stands under `key` in memory or on disk, or why there is nothing to serve; asks no source.
pub(super) fn get(state: &State, key: KeyRef<'_>) -> std::result::Result<Entry, MissReason> {
    let reason = match state.find(key) {
        Err(reason) => reason,
        found => return found,
    };
    let on_disk = || {
        let disk = state.disk.as_ref().filter(|disk| disk.may_contain(key))?;
        match state.flights.join(key) {
            Role::Leader(flight) => keep_promoted(state, disk.get(key)?, &flight),
            // Somebody is at it already, and may have to ask a source; this caller reads for itself and keeps nothing.
            Role::Waiter(_) => disk.get(key).filter(|entry| state.is_live_record(entry)),
        }
    };
    on_disk().ok_or(reason)
}

/// As [`get`], without a trace: no use, no promotion.
pub(super) fn peek(state: &State, key: KeyRef<'_>) -> Option<Entry> {
    let in_memory = state.memory.peek(key).filter(|entry| state.is_live(entry));
    let on_disk = || state.disk.as_ref()?.get(key).filter(|entry| state.is_live_record(entry));
    in_memory.or_else(on_disk)
}

/// The one function that decides where an answer comes from; `None` when the source has nothing under `key`.
pub(super) async fn get_or_load(
    cache: &Cache,
    key: KeyRef<'_>,
    source: &dyn Source,
) -> Result<Option<Answer>> {
    let state = cache.state();
    loop {
        let begun = Counters::begin();
        let reason = match state.find(key) {
            Ok(entry) => {
                state.count_hit(&entry, begun);
                return Ok(Some(Answer { entry, outcome: Outcome::Hit }));
            }
            Err(reason) => reason,
        };
        if state.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "the cache has been closed"));
        }
        match state.flights.join(key) {
            Role::Leader(flight) => return lead(cache, key, source, (flight, reason)).await,
            Role::Waiter(waiting) => {
                if let Some(landing) = waiting.landing().await {
                    state.count_miss(key, MissReason::Joined);
                    return Ok(landing?.map(|entry| Answer { entry, outcome: Outcome::Joined }));
                }
            }
        }
    }
}

/// Asks the disk tier and then the source, and lands the flight with what they say.
async fn lead(
    cache: &Cache,
    key: KeyRef<'_>,
    source: &dyn Source,
    (flight, reason): (Flight, MissReason),
) -> Result<Option<Answer>> {
    let state = cache.state();
    // Between this caller's look into memory and its flight another flight may have landed.
    let promoted = match state.live_in_memory(key) {
        Some(entry) => Some(entry),
        None => promote(cache, key, &flight).await,
    };
    if let Some(entry) = promoted {
        state.count_hit(&entry, None);
        flight.land(Ok(Some(entry.clone())));
        return Ok(Some(Answer { entry, outcome: Outcome::Hit }));
    }
    match load(state, key, source, &flight).await {
        Ok(answer) => {
            let is_kept = answer.as_ref().is_none_or(|answer| answer.outcome == Outcome::Miss);
            state.count_miss(key, if is_kept { reason } else { MissReason::Bypass });
            flight.land(Ok(answer.as_ref().map(|answer| answer.entry.clone())));
            Ok(answer)
        }
        Err(error) => {
            state.count_miss(key, MissReason::Failed);
            flight.land(Err(error.clone()));
            Err(error)
        }
    }
}

/// What the disk tier holds under `key`, put back into memory.
async fn promote(cache: &Cache, key: KeyRef<'_>, flight: &Flight) -> Option<Entry> {
    keep_promoted(cache.state(), cache.read_disk(key).await?, flight)
}

fn keep_promoted(state: &State, entry: Entry, flight: &Flight) -> Option<Entry> {
    if !state.is_live_record(&entry) || flight.is_superseded() {
        return None;
    }
    match state.memory.restore(entry.clone(), || !flight.is_superseded()) {
        Insertion::Refused => None,
        // A write since then stands in memory, and is what this caller must see.
        Insertion::Outdated => state.live_in_memory(entry.key()),
        Insertion::Inserted | Insertion::Replaced | Insertion::Bypassed => Some(entry),
    }
}

async fn load(
    state: &State,
    key: KeyRef<'_>,
    source: &dyn Source,
    flight: &Flight,
) -> Result<Option<Answer>> {
    let permit = state.loads.acquire().await;
    let _permit = permit.map_err(|_| Error::new(ErrorKind::Closed, "the cache has been closed"))?;
    let sequence = state.next_sequence();
    let begun = monotonic_now();
    let loaded = source.load(key).await;
    state.count_load(key, monotonic_now().duration_since(begun));
    let Some(loaded) = loaded? else { return Ok(None) };
    let is_too_large = loaded.body.len() as u64 > state.value_bytes_max;
    let entry = admitted(state, key, &loaded, sequence)?;
    let insertion = state.memory.insert(entry.clone(), || {
        // Enqueued under the shard's lock: an invalidation that comes later finds it in the queue and kills it there.
        let is_current = !is_too_large && !flight.is_superseded();
        if is_current && let Some(disk) = &state.disk {
            disk.put(&entry);
        }
        is_current
    });
    let outcome = match insertion {
        Insertion::Inserted | Insertion::Replaced => Outcome::Miss,
        Insertion::Outdated | Insertion::Refused | Insertion::Bypassed => Outcome::Bypass,
    };
    Ok(Some(Answer { entry, outcome }))
}

/// What the source gave, as an entry with the lifetime of its namespace.
fn admitted(state: &State, key: KeyRef<'_>, loaded: &Loaded, sequence: u64) -> Result<Entry> {
    let head = Head {
        content_type: &loaded.content_type,
        etag: xxhash_rust::xxh3::xxh3_128(&loaded.body),
        modified_at_ms: loaded.modified_at.as_millis(),
    };
    let stored_at = state.clock.now();
    let parts = Parts {
        head: &head.encode()?,
        body: &loaded.body,
        tags: &loaded.tags,
        stored_at,
        expires_at: state.policies.of(key.namespace()).expiry(stored_at, sequence),
        sequence,
    };
    Ok(Entry::new(key, &parts))
}
