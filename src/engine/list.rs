//! Listing what stands, in memory or only on disk, page by page.
//!
//! The order is that of a hash of the key, which is the same for both tiers and for all time: a page is a range of it,
//! so a listing holds nothing between two pages, and what stands all the while is met exactly once however often it
//! moves between the tiers. A page costs a walk over memory, and on disk the records of its range.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::disk::place;
use crate::entry::{Entry, Head};
use crate::key::{Key, KeyRef};
use crate::memory::{Cursor, Held, Verdict};
use crate::pattern::Pattern;

use super::state::State;
use super::stats::{Happened, NamespaceStats};
use super::{Ttl, invalidate};

/// Where a listing goes on; the default is its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCursor(u128);

impl ListCursor {
    /// As a number, to be handed out and taken back.
    #[must_use]
    pub fn to_bits(self) -> u128 {
        self.0
    }

    /// From what [`ListCursor::to_bits`] gave; any number is a cursor.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

/// Some of what stands.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Listing {
    /// The entries of this page.
    pub entries: Vec<Listed>,
    /// Where to go on; `None` at the end.
    pub next: Option<ListCursor>,
}

/// One entry of a listing: what is known about it but for its value.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// The length of its value, in bytes.
    pub value_bytes: usize,
    /// The media type of its value.
    pub content_type: String,
    /// How long it stays fresh.
    pub ttl: Ttl,
    /// How long ago it was stored.
    pub age: Duration,
    /// The tags it can be invalidated by.
    pub tags: Vec<String>,
    /// Whether it stands in memory; on disk alone otherwise.
    pub in_memory: bool,
}

impl Listed {
    pub(super) fn of(state: &State, entry: &Entry, in_memory: bool) -> Self {
        let now = state.clock.now();
        Self {
            key: entry.key().to_key(),
            value_bytes: entry.body().len(),
            content_type: content_type(entry).to_owned(),
            ttl: Ttl::of(entry, now),
            age: now.since(entry.stored_at()),
            tags: entry.tags().map(ToOwned::to_owned).collect(),
            in_memory,
        }
    }
}

/// The media type of an entry's value.
pub(super) fn content_type(entry: &Entry) -> &str {
    Head::decode(entry.head()).map_or(super::write::OCTET_STREAM, |head| head.content_type)
}

/// Which entries a listing is of; the default is all.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Filter {
    namespace: Option<String>,
    prefix: Option<String>,
    pattern: Option<Pattern>,
}

impl Filter {
    /// All entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those in this namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Only those whose keys begin with this, taken literally.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Only those whose keys this pattern covers.
    pub fn pattern(mut self, pattern: Pattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    pub(super) fn passes(&self, key: KeyRef<'_>) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| key.namespace() == namespace)
            && self.prefix.as_deref().is_none_or(|prefix| key.as_str().starts_with(prefix))
            && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(key.as_str()))
    }
}

/// What each namespace holds, with what is only on disk, and what happened in it.
pub(super) fn census(state: &State) -> Vec<NamespaceStats> {
    let mut found: BTreeMap<String, NamespaceStats> = BTreeMap::new();
    for namespace in state.stats().namespaces {
        found.insert(namespace.name.clone(), namespace);
    }
    for (name, only_on_disk) in invalidate::only_on_disk_by_namespace(state) {
        let namespace = found.entry(name.clone()).or_insert_with(|| NamespaceStats {
            name,
            held: Held::default(),
            happened: Happened::default(),
        });
        namespace.held.entries += only_on_disk.entries;
        namespace.held.bytes += only_on_disk.bytes;
    }
    found.into_values().collect()
}

/// A page of what stands and whose key `covers`, from `from` on.
pub(super) fn list(
    state: &State,
    covers: &dyn Fn(KeyRef<'_>) -> bool,
    from: ListCursor,
    most: usize,
) -> Listing {
    let mut page = Page { found: BTreeMap::new(), most: most.max(1), end: None };
    look_at_disk(state, covers, from.0, &mut page);
    look_at_memory(state, covers, from.0, &mut page);
    Listing { entries: page.found.into_values().collect(), next: page.end.map(ListCursor) }
}

/// The first `most` of what was found, by place; what lies at `end` and beyond is for the next page.
struct Page {
    found: BTreeMap<u128, Listed>,
    most: usize,
    end: Option<u128>,
}

impl Page {
    fn is_within(&self, place: u128) -> bool {
        self.end.is_none_or(|end| place < end)
    }

    fn add(&mut self, place: u128, listed: impl FnOnce() -> Listed) {
        if !self.is_within(place) {
            return;
        }
        self.found.insert(place, listed());
        if self.found.len() > self.most {
            self.end = self.found.pop_last().map(|(place, _)| place);
        }
    }
}

fn look_at_disk(state: &State, covers: &dyn Fn(KeyRef<'_>) -> bool, from: u128, page: &mut Page) {
    let Some(disk) = &state.disk else { return };
    let (mut looked_at, mut next) = (0, Some(from));
    while let Some(at) = next.filter(|at| page.is_within(*at)) {
        if looked_at >= DISK_RECORDS_MAX {
            page.end = Some(at);
            return;
        }
        let records = disk.page(at, PAGE_RECORDS);
        (looked_at, next) = (looked_at + records.looked_at, records.next);
        for (place, entry) in records.entries {
            if covers(entry.key()) && state.is_live_record(&entry) {
                page.add(place, || Listed::of(state, &entry, false));
            }
        }
    }
}

fn look_at_memory(state: &State, covers: &dyn Fn(KeyRef<'_>) -> bool, from: u128, page: &mut Page) {
    let mut next = Some(Cursor::default());
    while let Some(at) = next {
        let visit = |entry: &Entry| {
            if covers(entry.key()) && state.is_live(entry) {
                let place = place(entry.key());
                if place >= from {
                    // What memory knows is newer, where both know it.
                    page.add(place, || Listed::of(state, entry, true));
                }
            }
            Verdict::Keep
        };
        next = state.memory.scan(at, SCAN_STEPS, visit).next;
    }
}

/// So many records on disk are looked at for one page.
const DISK_RECORDS_MAX: usize = 16_384;

/// How many records one look at the disk brings.
const PAGE_RECORDS: usize = 256;

/// How many entries in memory one step looks at.
const SCAN_STEPS: usize = 256;
