//! What is dead, in memory: floors and graves, asked on every read and every write of the disk tier.
//!
//! A record is dead when its sequence is below the floor of its namespace, of one of its tags or of all, or below the
//! grave of its key. Marks only ever rise. Of graves whose records are gone the latest [`GRAVES_MAX`] are kept; a write
//! that is older than one that was forgotten is refused too, because its key's grave may be among the forgotten: the cache
//! may forget, it never goes back in time. It does not know which marks are durable.

use std::collections::{HashMap, VecDeque};

use crate::entry::Entry;
use crate::key::{KeyRef, Namespace, Tag};
use crate::pattern::Pattern;

/// What an invalidation covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Floor {
    /// Everything.
    All,
    /// The keys of one namespace.
    Namespace(Namespace),
    /// The entries with one tag.
    Tag(Tag),
    /// The entries whose keys a pattern covers.
    Pattern(Pattern),
}

#[derive(Debug, Default)]
pub(crate) struct Marks {
    all: u64,
    namespaces: HashMap<Box<str>, u64>,
    tags: HashMap<Box<str>, u64>,
    /// Asked one by one on every read, hence few: see [`Marks::bounded`].
    patterns: Vec<(Pattern, u64)>,
    graves: HashMap<u128, u64>,
    /// The graves of what is gone from the file, in that order; a key dug twice may stand here twice.
    settled: VecDeque<(u128, u64)>,
    /// The highest grave forgotten.
    forgotten: u64,
}

impl Marks {
    /// `floor`, or that of everything when it is one of its kind too many: more is dead then, never less.
    pub(crate) fn bounded(&self, floor: Floor) -> Floor {
        let is_too_many = match &floor {
            Floor::All => false,
            Floor::Namespace(namespace) => is_full(&self.namespaces, namespace.as_str()),
            Floor::Tag(tag) => is_full(&self.tags, tag.as_str()),
            Floor::Pattern(pattern) => {
                self.patterns.len() >= PATTERNS_MAX
                    && !self.patterns.iter().any(|(known, _)| known == pattern)
            }
        };
        if is_too_many { Floor::All } else { floor }
    }

    pub(crate) fn raise(&mut self, floor: &Floor, sequence: u64) {
        let mark = match floor {
            Floor::All => {
                // What everything is below of says nothing any more.
                self.namespaces.retain(|_, floor| *floor > sequence);
                self.tags.retain(|_, floor| *floor > sequence);
                self.patterns.retain(|(_, floor)| *floor > sequence);
                &mut self.all
            }
            Floor::Pattern(pattern) => {
                let known = self.patterns.iter().position(|(known, _)| known == pattern);
                let at = known.unwrap_or(self.patterns.len());
                if known.is_none() {
                    self.patterns.push((pattern.clone(), 0));
                }
                &mut self.patterns[at].1
            }
            Floor::Namespace(namespace) => self.namespaces.entry(namespace.as_str().into()).or_default(),
            Floor::Tag(tag) => self.tags.entry(tag.as_str().into()).or_default(),
        };
        *mark = sequence.max(*mark);
    }

    pub(crate) fn bury(&mut self, fingerprint: u128, sequence: u64) {
        let grave = self.graves.entry(fingerprint).or_default();
        *grave = sequence.max(*grave);
    }

    /// What is below `sequence` under the key is gone from the file: its grave need not be remembered for long.
    pub(crate) fn settle(&mut self, fingerprint: u128, sequence: u64) {
        if let Some(grave) = self.graves.get(&fingerprint).filter(|grave| **grave <= sequence) {
            self.settled.push_back((fingerprint, *grave));
        }
        self.forget_settled();
    }

    /// The file is gone, and whatever had a grave in it.
    pub(crate) fn settle_all(&mut self) {
        self.settled.clear();
        self.settled.extend(self.graves.iter().map(|(fingerprint, sequence)| (*fingerprint, *sequence)));
        self.forget_settled();
    }

    /// Forgets settled graves beyond the bound.
    fn forget_settled(&mut self) {
        while self.settled.len() > GRAVES_MAX {
            let Some((fingerprint, sequence)) = self.settled.pop_front() else { return };
            self.forgotten = self.forgotten.max(sequence);
            if self.graves.get(&fingerprint).is_some_and(|grave| *grave <= sequence) {
                self.graves.remove(&fingerprint);
            }
        }
        if self.graves.capacity() / 8 > self.graves.len().max(GRAVES_MAX) {
            self.graves.shrink_to(GRAVES_MAX);
        }
    }

    pub(crate) fn has_grave(&self, fingerprint: u128) -> bool {
        self.graves.contains_key(&fingerprint)
    }

    /// Whether an entry that lies on disk is dead.
    pub(crate) fn is_dead(&self, entry: &Entry) -> bool {
        let sequence = entry.sequence();
        self.is_below_floor(entry.key(), entry.tags(), sequence)
            || self
                .graves
                .get(&crate::disk::record::fingerprint(entry.key()))
                .is_some_and(|grave| sequence < *grave)
    }

    /// Whether an entry that arrives only now must be refused.
    pub(crate) fn is_refused(&self, entry: &Entry) -> bool {
        entry.sequence() < self.forgotten || self.is_dead(entry)
    }

    fn is_below_floor<'t>(
        &self,
        key: KeyRef<'_>,
        mut tags: impl Iterator<Item = &'t str>,
        sequence: u64,
    ) -> bool {
        sequence < self.all
            || self.namespaces.get(key.namespace()).is_some_and(|floor| sequence < *floor)
            || tags.any(|tag| self.tags.get(tag).is_some_and(|floor| sequence < *floor))
            || self.patterns.iter().any(|(pattern, floor)| sequence < *floor && pattern.matches(key.as_str()))
    }

    /// Every floor, for the truth that is written anew.
    pub(crate) fn floors(&self) -> Vec<(Floor, u64)> {
        let mut floors = Vec::new();
        if self.all > 0 {
            floors.push((Floor::All, self.all));
        }
        let namespaces = self.namespaces.iter().filter_map(|(name, at)| {
            Namespace::parse(name.clone()).ok().map(|namespace| (Floor::Namespace(namespace), *at))
        });
        floors.extend(namespaces);
        let tags = self.tags.iter();
        floors
            .extend(tags.filter_map(|(t, at)| Tag::parse(t.clone()).ok().map(|tag| (Floor::Tag(tag), *at))));
        floors.extend(self.patterns.iter().map(|(pattern, at)| (Floor::Pattern(pattern.clone()), *at)));
        floors
    }
}

fn is_full(floors: &HashMap<Box<str>, u64>, name: &str) -> bool {
    floors.len() >= FLOORS_MAX && !floors.contains_key(name)
}

/// Beyond so many namespaces or tags one more forgets everything on disk.
const FLOORS_MAX: usize = 1 << 16;

/// Beyond so many patterns one more forgets everything on disk.
const PATTERNS_MAX: usize = 128;

/// About 6 MB of graves at most.
const GRAVES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entry::Parts;

    fn entry(key: &str, tags: &[&str], sequence: u64) -> Entry {
        let (stored_at, expires_at) = (Timestamp::from_millis(0), Timestamp::NEVER);
        let parts = Parts { head: b"", body: b"", tags, stored_at, expires_at, sequence };
        Entry::new(KeyRef::parse(key).unwrap(), &parts)
    }

    #[test]
    fn an_entry_is_dead_below_any_mark_that_covers_it_and_only_then() {
        let mut marks = Marks::default();
        marks.raise(&Floor::Namespace(Namespace::parse("a").unwrap()), 10);
        marks.raise(&Floor::Tag(Tag::parse("t").unwrap()), 20);
        marks.raise(&Floor::Tag(Tag::parse("t").unwrap()), 15);
        marks.bury(crate::disk::record::fingerprint(KeyRef::parse("c:1").unwrap()), 30);
        for (key, tags, sequence, dead) in [
            ("a:1", &[] as &[&str], 9, true),
            ("a:1", &[], 10, false),
            ("b:1", &[], 9, false),
            ("b:1", &["u", "t"], 19, true),
            ("b:1", &["t"], 20, false),
            ("c:1", &[], 29, true),
            ("c:1", &[], 30, false),
            ("c:2", &[], 29, false),
        ] {
            assert_eq!(marks.is_dead(&entry(key, tags, sequence)), dead, "{key} {tags:?} {sequence}");
        }
        marks.raise(&Floor::Pattern(Pattern::parse("d:*:x").unwrap()), 35);
        assert!(marks.is_dead(&entry("d:1:x", &[], 34)) && !marks.is_dead(&entry("d:1:y", &[], 34)));
        assert_eq!(marks.floors().len(), 3);
        marks.raise(&Floor::All, 40);
        assert!(marks.is_dead(&entry("d", &[], 39)));
        assert_eq!(marks.floors(), [(Floor::All, 40)], "the others are below it");
    }

    #[test]
    fn a_pattern_too_many_stands_for_everything() {
        let mut marks = Marks::default();
        let floor = |number: usize| Floor::Pattern(Pattern::parse(&format!("p{number}*")).unwrap());
        for number in 0..PATTERNS_MAX {
            assert_eq!(marks.bounded(floor(number)), floor(number));
            marks.raise(&floor(number), 5);
        }
        assert_eq!(marks.bounded(floor(0)), floor(0), "a known one is raised");
        assert_eq!(marks.bounded(floor(PATTERNS_MAX)), Floor::All);
    }

    #[test]
    fn a_tag_too_many_stands_for_everything_and_makes_room_for_others() {
        let mut marks = Marks::default();
        let floor = |number: usize| Floor::Tag(Tag::parse(format!("t{number}")).unwrap());
        for number in 0..FLOORS_MAX {
            marks.raise(&floor(number), 5);
        }
        assert_eq!(marks.bounded(floor(7)), floor(7));
        assert_eq!(marks.bounded(floor(FLOORS_MAX)), Floor::All);
        marks.raise(&Floor::All, 6);
        assert_eq!(marks.bounded(floor(FLOORS_MAX)), floor(FLOORS_MAX));
    }

    #[test]
    fn a_write_older_than_the_forgotten_graves_is_refused() {
        let mut marks = Marks::default();
        for number in 0..=u128::try_from(GRAVES_MAX).unwrap() {
            marks.bury(number, 100 + u64::try_from(number).unwrap());
        }
        assert!(!marks.is_refused(&entry("late", &[], 99)));
        for number in 0..=u128::try_from(GRAVES_MAX).unwrap() {
            marks.settle(number, u64::MAX);
        }
        assert!(marks.is_refused(&entry("late", &[], 99)), "its grave may be the forgotten one");
        assert!(!marks.is_refused(&entry("late", &[], 100)));
        assert_eq!(marks.graves.len(), GRAVES_MAX);
    }
}
