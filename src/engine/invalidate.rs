//! Invalidation: memory first, then durable, then the answer.
//!
//! Each takes the next sequence number, so that everything born before it is dead, in memory, on disk and in loads
//! that are still under way. Memory forgets before the disk is asked: even when the disk fails, this process does not
//! serve the old value again.
//!
//! What is counted are live entries, in memory or only on disk, each once. Where memory holds more than
//! [`EXACT_ENTRIES_MAX`], the entries of a namespace are taken from its account instead of looked at, so that its
//! invalidation costs the same however many they are; of what is only on disk at most [`DISK_RECORDS_MAX`] records are
//! looked at, so in a larger file the count is of those.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::disk::Floor;
use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, KeyRef, Namespace, Tag};
use crate::memory::{Cause, Cursor, Held, Verdict};
use crate::pattern::Pattern;

use super::read;
use super::state::State;
use super::stats::Operation;

/// What an invalidation names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// These keys.
    Keys(Vec<Key>),
    /// Every key of this namespace.
    Namespace(Namespace),
    /// Every key that this pattern covers.
    Pattern(Pattern),
    /// Every entry with at least one of these tags.
    Tags(Vec<Tag>),
    /// Everything.
    All,
}

impl Selector {
    /// Every key that begins with `prefix`, taken literally.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) for an empty prefix, or one longer than any key.
    pub fn prefix(prefix: &str) -> Result<Self> {
        Pattern::prefix(prefix).map(Self::Pattern)
    }

    fn covers(&self, entry: &Entry) -> bool {
        match self {
            Self::Keys(keys) => keys.iter().any(|key| key.as_key_ref() == entry.key()),
            Self::Namespace(namespace) => entry.namespace_bytes() == namespace.as_str().as_bytes(),
            Self::Pattern(pattern) => pattern.matches(entry.key().as_str()),
            Self::Tags(tags) => entry.tags().any(|own| tags.iter().any(|tag| tag.as_str() == own)),
            Self::All => true,
        }
    }
}

/// As it is told to listeners and written to the log: what it is and, shortened, what it names.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(keys) => list(f, "key", keys.iter().map(Key::as_str)),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
            Self::Pattern(pattern) => write!(f, "pattern {}", pattern.as_str()),
            Self::Tags(tags) => list(f, "tag", tags.iter().map(Tag::as_str)),
            Self::All => f.write_str("all"),
        }
    }
}

fn list<'w>(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    mut names: impl ExactSizeIterator<Item = &'w str>,
) -> fmt::Result {
    let more = names.len().saturating_sub(1);
    write!(f, "{word} {}", names.next().unwrap_or("(none)"))?;
    if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
}

/// Invalidates what `selector` covers; how many live entries that were.
pub(super) fn invalidate(state: &State, selector: &Selector) -> Result<u64> {
    match selector {
        Selector::Keys(names) => keys(state, names),
        Selector::Namespace(name) => namespace(state, name),
        Selector::Pattern(glob) => match whole_namespace(glob).map(Namespace::parse) {
            Some(Ok(whole)) => namespace(state, &whole),
            _ => pattern(state, glob),
        },
        Selector::Tags(names) => tags(state, names),
        Selector::All => all(state),
    }
}

/// How many live entries [`invalidate`] would invalidate.
pub(super) fn would_invalidate(state: &State, selector: &Selector) -> u64 {
    match selector {
        Selector::Keys(names) => {
            let names: HashSet<&str> = names.iter().map(Key::as_str).collect();
            names.into_iter().filter(|key| read::peek(state, KeyRef::known(key)).is_some()).count() as u64
        }
        _ => standing(state, selector),
    }
}

/// Takes out each of `keys`; how many of them stood in memory or on disk.
pub(super) fn keys(state: &State, keys: &[Key]) -> Result<u64> {
    let (sequence, stood) = take_out(state, keys);
    forget_durably(state, keys, sequence)?;
    Ok(stood)
}

/// Takes out `key` if `check`, shown what stands there, lets it; whether it stood.
pub(super) fn key_if(
    state: &State,
    key: &Key,
    check: impl FnOnce(Option<&Entry>) -> Result<()>,
) -> Result<bool> {
    let turn = state.turn(key.as_key_ref());
    check(read::peek(state, key.as_key_ref()).as_ref())?;
    let keys = std::slice::from_ref(key);
    let (sequence, stood) = take_out(state, keys);
    // Whoever writes after this is later, also on disk, by its number.
    drop(turn);
    forget_durably(state, keys, sequence)?;
    Ok(stood > 0)
}

/// Dead from now on in this process: the number they died under, and how many of them stood.
fn take_out(state: &State, keys: &[Key]) -> (u64, u64) {
    let sequence = state.next_sequence();
    state.recovering.deleted(keys);
    let names: HashSet<&str> = keys.iter().map(Key::as_str).collect();
    let only_on_disk: HashSet<&str> = names
        .iter()
        .copied()
        .filter(|key| state.memory.peek(KeyRef::known(key)).is_none())
        .filter(|key| read::peek(state, KeyRef::known(key)).is_some())
        .collect();
    // Dead on disk before anything leaves memory: a read that misses in between must not bring the old record back.
    if let Some(disk) = &state.disk {
        disk.bury(keys, sequence);
    }
    let mut stood = 0;
    for name in names {
        state.flights.supersede(KeyRef::known(name));
        let removed = state.memory.remove(KeyRef::known(name));
        let was_live = removed.is_some_and(|entry| state.is_live(&entry)) || only_on_disk.contains(name);
        stood += u64::from(was_live);
        state.absent.forget(KeyRef::known(name));
        state.count_done(KeyRef::known(name).namespace(), Operation::Delete, 1);
    }
    (sequence, stood)
}

fn forget_durably(state: &State, keys: &[Key], sequence: u64) -> Result<()> {
    state.disk.as_ref().map_or(Ok(()), |disk| disk.delete(keys, sequence))
}

/// Everything in `namespace`; how many entries stood.
fn namespace(state: &State, namespace: &Namespace) -> Result<u64> {
    let selector = Selector::Namespace(namespace.clone());
    let (exactly, on_disk) = before(state, &selector);
    let sequence = state.next_sequence();
    let standing = state.memory.usage_of(namespace.as_str()).entries;
    let kill = || state.generations.raise_namespace(namespace.as_str(), sequence);
    let stood = state.doomed.kill([(namespace.as_str(), standing)].into_iter(), kill);
    state.flights.supersede_where(|key| key.namespace() == namespace.as_str());
    state.forget_where(|key| key.namespace() == namespace.as_str());
    state.count_done(namespace.as_str(), Operation::Invalidate, 1);
    raise(state, Floor::Namespace(namespace.clone()), sequence)?;
    Ok(exactly.unwrap_or(stood) + on_disk)
}

/// Everything with one of `tags`; how many entries stood.
fn tags(state: &State, tags: &[Tag]) -> Result<u64> {
    let selector = Selector::Tags(tags.to_vec());
    // Before they are dead: afterwards nobody can say which were alive.
    let stood = standing(state, &selector);
    let sequence = state.next_sequence();
    for tag in tags {
        state.generations.raise_tag(tag.as_str(), sequence);
    }
    // Which tags a load will bring is not known before it has.
    state.flights.supersede_where(|_| !tags.is_empty());
    state.forget_where(|_| !tags.is_empty());
    if let Some(disk) = &state.disk {
        disk.raise_each(tags.iter().cloned().map(Floor::Tag).collect(), sequence)?;
    }
    // At leisure: from the raising on, none of them is served.
    remove(state, |entry| entry.sequence() < sequence && selector.covers(entry), |_| false);
    Ok(stood)
}

/// Every key that `pattern` covers; how many of them stood.
fn pattern(state: &State, pattern: &Pattern) -> Result<u64> {
    let on_disk = on_disk(state, &Selector::Pattern(pattern.clone()));
    let sequence = state.next_sequence();
    state.recovering.end();
    // As for keys: dead on disk first.
    if let Some(disk) = &state.disk {
        disk.mark(Floor::Pattern(pattern.clone()), sequence);
    }
    state.flights.supersede_where(|key| pattern.matches(key.as_str()));
    state.forget_where(|key| pattern.matches(key.as_str()));
    let stood = remove(
        state,
        |entry| entry.sequence() < sequence && pattern.matches(entry.key().as_str()),
        |entry| !on_disk.contains(&hash(entry.key())),
    );
    raise(state, Floor::Pattern(pattern.clone()), sequence)?;
    Ok(stood + on_disk.len() as u64)
}

/// Everything; how many entries stood.
fn all(state: &State) -> Result<u64> {
    let (exactly, on_disk) = before(state, &Selector::All);
    let sequence = state.next_sequence();
    let standing = state.memory.usage_by_namespace();
    let standing = standing.iter().map(|(namespace, held)| (namespace.as_str(), held.entries));
    let stood = state.doomed.kill(standing, || state.generations.raise_all(sequence));
    state.flights.supersede_where(|_| true);
    state.forget_where(|_| true);
    raise(state, Floor::All, sequence)?;
    Ok(exactly.unwrap_or(stood) + on_disk)
}

/// What an invalidation at a cost that does not depend on how much it is says it took: of a small memory exactly, of a
/// large one nothing, to be taken from its account; and what is to be added for what is only on disk.
fn before(state: &State, selector: &Selector) -> (Option<u64>, u64) {
    if state.memory.entries_about() <= EXACT_ENTRIES_MAX {
        return (Some(standing(state, selector)), 0);
    }
    let mut only_on_disk = 0;
    walk_disk(state, |entry| {
        only_on_disk += u64::from(selector.covers(entry) && state.memory.peek(entry.key()).is_none());
    });
    (None, only_on_disk)
}

/// Takes what `is_dead` names out of memory, in steps between which others go on; how many of it were live and `counts`.
fn remove(state: &State, is_dead: impl Fn(&Entry) -> bool, counts: impl Fn(&Entry) -> bool) -> u64 {
    let mut stood = 0;
    walk(state, |entry| {
        if !is_dead(entry) {
            return Verdict::Keep;
        }
        stood += u64::from(counts(entry) && state.is_live(entry));
        Verdict::Remove(Cause::Invalidated)
    });
    stood
}

/// How many live entries `selector` covers.
fn standing(state: &State, selector: &Selector) -> u64 {
    let on_disk = on_disk(state, selector);
    let mut stood = on_disk.len() as u64;
    walk(state, |entry| {
        let is_covered = selector.covers(entry) && !on_disk.contains(&hash(entry.key()));
        stood += u64::from(is_covered && state.is_live(entry));
        Verdict::Keep
    });
    stood
}

/// The hashes of the keys of live entries on disk that `selector` covers; of none when all of them are in memory.
/// Looked at before memory, because what moves there stays on disk as well: so each is counted once.
fn on_disk(state: &State, selector: &Selector) -> HashSet<u64> {
    let mut hashes = HashSet::new();
    walk_disk(state, |entry| {
        if selector.covers(entry) {
            hashes.insert(hash(entry.key()));
        }
    });
    hashes
}

fn hash(key: KeyRef<'_>) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key.as_str().as_bytes())
}

fn walk(state: &State, mut visit: impl FnMut(&Entry) -> Verdict) {
    let mut next = Some(Cursor::default());
    while let Some(at) = next {
        next = state.memory.scan(at, SCAN_STEPS, &mut visit).next;
    }
}

/// Shows live entries of the disk tier, if it may hold any that memory does not, up to a bound.
fn walk_disk(state: &State, mut visit: impl FnMut(&Entry)) {
    if let Some(disk) = state.disk.as_ref().filter(|_| may_disk_hold_more(state)) {
        disk.walk(DISK_RECORDS_MAX, &mut |entry| {
            if state.is_live(entry) {
                visit(entry);
            }
        });
    }
}

/// What of each namespace is only on disk.
pub(super) fn only_on_disk_by_namespace(state: &State) -> HashMap<String, Held> {
    let mut held: HashMap<String, Held> = HashMap::new();
    walk_disk(state, |entry| {
        if state.memory.peek(entry.key()).is_none() {
            let own = held.entry(entry.key().namespace().to_owned()).or_default();
            own.entries += 1;
            own.bytes += entry.weight() as u64;
        }
    });
    held
}

/// Whether something may be on disk that is not in memory: not before memory has evicted anything, if all was loaded.
fn may_disk_hold_more(state: &State) -> bool {
    state.memory.has_evicted() || !state.recovering.has_loaded_all()
}

fn raise(state: &State, floor: Floor, sequence: u64) -> Result<()> {
    state.disk.as_ref().map_or(Ok(()), |disk| disk.raise(floor, sequence))
}

/// Up to so many entries in memory those of a namespace are looked at one by one.
const EXACT_ENTRIES_MAX: u64 = 4096;

/// So many records on disk are looked at to count what is only there.
const DISK_RECORDS_MAX: usize = 65_536;

/// How many entries one step looks at.
const SCAN_STEPS: usize = 256;

/// The namespace that `glob` covers as a whole; none where keys of a namespace may have a prefix before it.
fn whole_namespace(glob: &Pattern) -> Option<String> {
    if crate::key::prefix().is_empty() { glob.whole_namespace() } else { None }
}
