//! Everything about one key: where it stands, how long yet, or why it is not served.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::entry::Entry;
use crate::key::{Key, KeyRef};

use super::policy::Policy;
use super::state::State;
use super::{Ttl, list};

/// What the cache knows about one key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Explanation {
    /// The key.
    pub key: Key,
    /// What stands in memory, served or not.
    pub memory: Option<StoredCopy>,
    /// What stands on disk, or waits to be written there, served or not.
    pub disk: Option<StoredCopy>,
    /// The lifetimes of its namespace.
    pub policy: Policy,
    /// Whether a load of it is under way.
    pub is_loading: bool,
}

impl Explanation {
    /// Whether it would be served now.
    #[must_use]
    pub fn is_live(&self) -> bool {
        [&self.memory, &self.disk].into_iter().flatten().any(|copy| copy.state == LIVE)
    }
}

/// One copy of an entry, as one tier holds it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoredCopy {
    /// `live`, or why it is not served.
    pub state: String,
    /// The length of the value.
    pub value_bytes: usize,
    /// What it is charged in memory.
    pub charged_bytes: usize,
    /// Its media type.
    pub content_type: String,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// How long ago that was.
    pub age: Duration,
    /// From when on it is not fresh.
    pub expires_at: Timestamp,
    /// How long that is yet.
    pub ttl: Ttl,
    /// The tags it can be invalidated by.
    pub tags: Vec<String>,
    /// Its place in the order of writes, loads and invalidations.
    pub sequence: u64,
    /// On disk: whether it still waits to be written.
    pub is_queued: bool,
}

/// Explains `key`; counts as neither hit nor miss and touches no order. Blocking: it may read the disk.
pub(super) fn explain(state: &State, key: KeyRef<'_>) -> Explanation {
    let memory = state.memory.peek(key).map(|entry| {
        let why = why_not(state, &entry);
        copy(state, &entry, why, false)
    });
    let disk = state.disk.as_ref().and_then(|disk| {
        let (entry, is_queued, is_dead) = disk.find(key)?;
        let buried = || is_dead.then(|| "deleted, or covered by an invalidated pattern".to_owned());
        let why = why_not(state, &entry).or_else(buried);
        Some(copy(state, &entry, why, is_queued))
    });
    let policy = state.policy(key.namespace());
    Explanation { key: key.to_key(), memory, disk, policy, is_loading: state.flights.is_under_way(key) }
}

/// Why an entry is not served; `None` when it is.
fn why_not(state: &State, entry: &Entry) -> Option<String> {
    let now = state.clock.now();
    if !state.generations.is_alive(entry) {
        return Some(format!("invalidated with {}", killer(state, entry)));
    }
    if entry.stored_at() > now {
        return Some("stored in the future: the clock was set back".to_owned());
    }
    (!entry.is_fresh(now)).then(|| "expired".to_owned())
}

/// Which floor is above an entry that is not alive.
fn killer(state: &State, entry: &Entry) -> String {
    // No name is empty, so nothing but the floor of everything is asked.
    let lives = |namespace: &str, tag: Option<&str>| {
        state.generations.is_alive_record(namespace, tag.into_iter(), entry.sequence())
    };
    if !lives("", None) {
        return "everything".to_owned();
    }
    match entry.tags().find(|tag| !lives("", Some(tag))) {
        Some(tag) => format!("tag {tag}"),
        None => format!("namespace {}", entry.key().namespace()),
    }
}

fn copy(state: &State, entry: &Entry, why_not: Option<String>, is_queued: bool) -> StoredCopy {
    let now = state.clock.now();
    StoredCopy {
        state: why_not.unwrap_or_else(|| LIVE.to_owned()),
        value_bytes: entry.body().len(),
        charged_bytes: entry.weight(),
        content_type: list::content_type(entry).to_owned(),
        stored_at: entry.stored_at(),
        age: now.since(entry.stored_at()),
        expires_at: entry.expires_at(),
        ttl: Ttl::of(entry, now),
        tags: entry.tags().map(ToOwned::to_owned).collect(),
        sequence: entry.sequence(),
        is_queued,
    }
}

const LIVE: &str = "live";
