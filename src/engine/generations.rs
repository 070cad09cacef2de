//! One number a namespace, a tag and for everything: what was born before its number is dead.
//!
//! Raising a number invalidates all that is older at once and costs the same however many entries there are.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::entry::Entry;

/// The floors below which entries are dead.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    floors: RwLock<Floors>,
}

#[derive(Debug, Default)]
struct Floors {
    /// The highest number raised so far.
    raised: u64,
    all: u64,
    namespaces: HashMap<Box<str>, u64>,
    tags: HashMap<Box<str>, u64>,
}

impl Generations {
    /// Everything in `namespace` with a lower sequence is dead from now on.
    pub(crate) fn raise_namespace(&self, namespace: &str, sequence: u64) {
        let mut floors = self.floors.write();
        raise(floors.namespaces.entry(namespace.into()).or_default(), sequence);
        raise(&mut floors.raised, sequence);
    }

    /// Everything tagged `tag` with a lower sequence is dead from now on.
    pub(crate) fn raise_tag(&self, tag: &str, sequence: u64) {
        let mut floors = self.floors.write();
        raise(floors.tags.entry(tag.into()).or_default(), sequence);
        raise(&mut floors.raised, sequence);
    }

    /// Everything with a lower sequence is dead from now on.
    pub(crate) fn raise_all(&self, sequence: u64) {
        let mut floors = self.floors.write();
        raise(&mut floors.all, sequence);
        raise(&mut floors.raised, sequence);
    }

    /// The highest number raised so far: while it stands, nothing more has died.
    pub(crate) fn raised(&self) -> u64 {
        self.floors.read().raised
    }

    /// Whether nothing that `entry` belongs to was invalidated since it was born.
    pub(crate) fn is_alive(&self, entry: &Entry) -> bool {
        let floors = self.floors.read();
        let sequence = entry.sequence();
        sequence >= floors.all
            && floors.namespaces.get(entry.key().namespace()).is_none_or(|floor| sequence >= *floor)
            && entry.tags().all(|tag| floors.tags.get(tag).is_none_or(|floor| sequence >= *floor))
    }
}

fn raise(floor: &mut u64, sequence: u64) {
    *floor = sequence.max(*floor);
}
