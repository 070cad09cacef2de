//! What is dead although it still stands: everything born before the floor of its namespace, of a tag of it, or of all.
//!
//! Promises: raising a floor costs the same however many entries it kills, and no reader that begins after it has
//! returned sees one of them alive. A floor never sinks. Asking about an entry born after the latest invalidation of
//! any kind costs one read of a line that only invalidations write; about an older one, a hash of its namespace and
//! of each tag, and one more read each; a map is asked only when two names share a place. No allocation, no lock but
//! there. It does not know where entries stand: it neither finds nor removes what it declares dead.
//!
//! Limits: [`FLOORS_MAX`] floors of each kind are kept exactly. Beyond, the lowest half is forgotten by name and lives
//! on in the places alone, where it may kill entries of another name as old: more is dead then, never less.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use crate::entry::Entry;
use crate::sync::{AtomicU64, Ordering, RwLock};

/// The floors of namespaces, tags and everything.
#[derive(Debug, Default)]
pub struct Generations {
    /// Everything born below this is dead.
    all: AtomicU64,
    namespaces: Floors,
    tags: Floors,
}

/// All floors above zero, to be stored and restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FloorList {
    /// That of everything.
    pub all: u64,
    /// Those of namespaces, by name.
    pub namespaces: Vec<(String, u64)>,
    /// Those of tags.
    pub tags: Vec<(String, u64)>,
}

impl Generations {
    /// No floor is raised yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares dead what was born before `sequence` in a namespace.
    pub fn raise_namespace(&self, namespace: &str, sequence: u64) {
        self.namespaces.raise(namespace, sequence);
    }

    /// Declares dead what was born before `sequence` with this tag.
    pub fn raise_tag(&self, tag: &str, sequence: u64) {
        self.tags.raise(tag, sequence);
    }

    /// Declares dead everything born before `sequence`.
    pub fn raise_all(&self, sequence: u64) {
        self.all.fetch_max(sequence, Ordering::SeqCst);
    }

    /// Whether no floor is above the entry.
    #[must_use]
    pub fn is_alive(&self, entry: &Entry) -> bool {
        let born = entry.sequence();
        born >= self.all.load(Ordering::Acquire)
            && self.namespaces.spare(born, std::iter::once(entry.namespace_bytes()))
            && self.tags.spare(born, entry.tags().map(str::as_bytes))
    }

    /// Whether a record of this namespace, with these tags, born at `sequence`, is alive; for records on disk.
    #[must_use]
    pub fn is_alive_record<'t>(
        &self,
        namespace: &str,
        tags: impl Iterator<Item = &'t str>,
        sequence: u64,
    ) -> bool {
        sequence >= self.all.load(Ordering::Acquire)
            && self.namespaces.spare(sequence, std::iter::once(namespace.as_bytes()))
            && self.tags.spare(sequence, tags.map(str::as_bytes))
    }

    /// The highest floor of any kind: while it stands, nothing more has died.
    #[must_use]
    pub fn latest(&self) -> u64 {
        let of_names =
            self.namespaces.latest.load(Ordering::Acquire).max(self.tags.latest.load(Ordering::Acquire));
        of_names.max(self.all.load(Ordering::Acquire))
    }

    /// All floors, to be stored.
    #[must_use]
    pub fn floors(&self) -> FloorList {
        FloorList {
            all: self.all.load(Ordering::Acquire),
            namespaces: self.namespaces.list(),
            tags: self.tags.list(),
        }
    }

    /// Raises every floor of a stored list; none sinks.
    pub fn restore(&self, floors: &FloorList) {
        self.raise_all(floors.all);
        for (name, floor) in &floors.namespaces {
            self.raise_namespace(name, *floor);
        }
        for (tag, floor) in &floors.tags {
            self.raise_tag(tag, *floor);
        }
    }

    /// Forgets the floors by name that are not above `sequence`, when no older record exists anywhere any more.
    pub fn forget(&self, sequence: u64) {
        self.namespaces.forget(sequence);
        self.tags.forget(sequence);
    }
}

/// The floors of one kind.
#[derive(Debug)]
struct Floors {
    /// The highest of all. Written after the place and the map, so that whoever sees it sees those.
    latest: AtomicU64,
    /// Per place the highest floor of the names that hash there.
    places: Box<[AtomicU64]>,
    names: RwLock<Names>,
    hasher: foldhash::quality::RandomState,
}

#[derive(Debug, Default)]
struct Names {
    floors: HashMap<Box<[u8]>, u64>,
    /// The highest floor that was forgotten by name: below it, a place alone decides.
    forgotten: u64,
}

impl Default for Floors {
    fn default() -> Self {
        Self {
            latest: AtomicU64::new(0),
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            names: RwLock::default(),
            hasher: foldhash::quality::RandomState::default(),
        }
    }
}

impl Floors {
    /// Whether none of these names has a floor above `born`.
    #[inline]
    fn spare<'n>(&self, born: u64, mut names: impl Iterator<Item = &'n [u8]>) -> bool {
        born >= self.latest.load(Ordering::Acquire) || names.all(|name| self.spares_name(born, name))
    }

    fn spares_name(&self, born: u64, name: &[u8]) -> bool {
        let at_place = self.place(name).map_or(0, |place| place.load(Ordering::Acquire));
        if born >= at_place {
            return true;
        }
        let names = self.names.read();
        match names.floors.get(name) {
            Some(floor) => born >= *floor,
            None => born >= names.forgotten,
        }
    }

    fn raise(&self, name: &str, sequence: u64) {
        let mut names = self.names.write();
        let floor = names.floors.entry(name.as_bytes().into()).or_insert(0);
        *floor = sequence.max(*floor);
        if names.floors.len() > FLOORS_MAX {
            names.forget_half();
        }
        // Under the lock, so that a reader whom the place sends to the map finds the floor there.
        if let Some(place) = self.place(name.as_bytes()) {
            place.fetch_max(sequence, Ordering::SeqCst);
        }
        self.latest.fetch_max(sequence, Ordering::SeqCst);
    }

    fn place(&self, name: &[u8]) -> Option<&AtomicU64> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        self.places.get(usize::try_from(hasher.finish() % PLACES).ok()?)
    }

    fn list(&self) -> Vec<(String, u64)> {
        let names = self.names.read();
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let mut list: Vec<_> = names.floors.iter().map(|(name, floor)| (text(name), *floor)).collect();
        drop(names);
        list.sort();
        list
    }

    fn forget(&self, sequence: u64) {
        self.names.write().floors.retain(|_, floor| *floor > sequence);
    }
}

impl Names {
    #[cold]
    fn forget_half(&mut self) {
        let mut floors: Vec<u64> = self.floors.values().copied().collect();
        let middle = floors.len() / 2;
        let cut = *floors.select_nth_unstable(middle).1;
        self.floors.retain(|_, floor| *floor > cut);
        self.forgotten = self.forgotten.max(cut);
    }
}

/// How many names of each kind keep a floor of their own.
pub const FLOORS_MAX: usize = 65_536;

/// 32 kB of places: two names share one about once in four thousand.
const PLACES: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::clock::Timestamp;
    use crate::entry::Parts;
    use crate::key::KeyRef;

    fn entry(key: &str, tags: &[&str], sequence: u64) -> Entry {
        let (stored_at, expires_at) = (Timestamp::default(), Timestamp::NEVER);
        Entry::new(
            KeyRef::parse(key).unwrap(),
            &Parts { head: b"", body: b"", tags, stored_at, expires_at, sequence },
        )
    }

    #[test]
    fn a_floor_kills_what_is_older_of_its_name_and_nothing_else() {
        let generations = Generations::new();
        let old = entry("a:1", &["t", "u"], 5);
        assert!(generations.is_alive(&old));
        generations.raise_namespace("b", 9);
        generations.raise_tag("v", 9);
        assert!(generations.is_alive(&old));
        generations.raise_tag("u", 6);
        assert!(!generations.is_alive(&old));
        assert!(generations.is_alive(&entry("a:1", &["t", "u"], 6)));
        assert!(generations.is_alive(&entry("a:1", &["t"], 5)));
        generations.raise_namespace("a", 7);
        generations.raise_namespace("a", 3);
        assert!(!generations.is_alive(&entry("a:1", &[], 6)));
        assert!(generations.is_alive(&entry("a:1", &[], 7)));
        assert!(
            !generations.is_alive(&entry("b", &[], 0)) || generations.is_alive(&entry("default", &[], 0))
        );
        generations.raise_namespace("default", 20);
        assert!(!generations.is_alive(&entry("plain", &[], 19)));
        generations.raise_all(30);
        assert!(!generations.is_alive(&entry("c:1", &[], 29)));
        assert!(generations.is_alive(&entry("c:1", &["u"], 30)));
        assert!(!generations.is_alive_record("c", std::iter::empty(), 29));
    }

    #[test]
    fn floors_come_back_from_a_list_and_never_sink() {
        let generations = Generations::new();
        generations.raise_all(1);
        generations.raise_namespace("a", 5);
        generations.raise_tag("t", 6);
        let list = generations.floors();
        let restored = Generations::new();
        restored.raise_namespace("a", 7);
        restored.restore(&list);
        assert_eq!(restored.floors().namespaces, [("a".to_owned(), 7)]);
        assert_eq!(restored.floors().tags, list.tags);
        restored.forget(6);
        assert_eq!(restored.floors().tags, []);
        assert!(restored.is_alive(&entry("x:1", &["t"], 5)), "forgotten on request");
    }

    #[test]
    fn too_many_floors_kill_more_never_less() {
        let generations = Generations::new();
        let count = FLOORS_MAX as u64 + 10;
        (0..count).for_each(|i| generations.raise_tag(&format!("t{i}"), i + 1));
        assert!(generations.floors().tags.len() <= FLOORS_MAX);
        for i in (0..count).step_by(997) {
            let tag = format!("t{i}");
            assert!(!generations.is_alive(&entry("a:1", &[&tag], i)), "{tag}");
            assert!(generations.is_alive(&entry("a:1", &[&tag], count)));
        }
    }

    #[test]
    fn nobody_sees_alive_what_was_declared_dead_before() {
        let generations = Generations::new();
        let (floor, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for sequence in 1..50_000 {
                    match sequence % 3 {
                        0 => generations.raise_namespace("a", sequence),
                        1 => generations.raise_tag("t", sequence),
                        _ => generations.raise_all(sequence),
                    }
                    floor.store(sequence, Ordering::SeqCst);
                }
                is_over.store(true, Ordering::SeqCst);
            });
            while !is_over.load(Ordering::SeqCst) {
                let dead = floor.load(Ordering::SeqCst);
                assert!(dead == 0 || !generations.is_alive(&entry("a:1", &["t"], dead - 1)));
            }
        });
    }
}
