//! The caches compared, behind one narrow interface: text keys, byte values, a limit in entries or in bytes.
//!
//! Each stores what its users would: an owned key and a shared slice, copied once from the caller's bytes. hifz keeps
//! both in one allocation and every entry has a deadline, a namespace and a sequence; the others have none of these.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use hifz::KeyRef;
use hifz::clock::{Clock, Timestamp};
use hifz::entry::Parts;
use hifz::memory::{Limits, Memory, resident_now};
use parking_lot::Mutex;

/// A limit: so many entries of any size, or so many bytes.
#[derive(Clone, Copy)]
pub enum Room {
    Entries(usize),
    Bytes(u64),
}

pub trait Cache: Send + Sync {
    /// Looks a key up and reads the first byte of what it finds.
    fn get(&self, key: KeyRef<'_>) -> Option<u8>;
    fn insert(&self, key: KeyRef<'_>, value: &[u8]);
    fn len(&self) -> usize;
    /// What the cache does in the background by itself, now: for what has threads or upkeep.
    fn upkeep(&self) {}
}

pub const NAMES: [&str; 5] = ["hifz", "quick_cache", "moka", "foyer", "lru+mutex"];

pub fn open(name: &str, room: Room) -> Box<dyn Cache> {
    match name {
        "hifz" => Box::new(Hifz::new(room)),
        "quick_cache" => Box::new(Quick::new(room)),
        "moka" => Box::new(Moka::new(room)),
        "foyer" => Box::new(Foyer::new(room)),
        "lru+mutex" => Box::new(Lru::new(room)),
        other => panic!("no cache is named {other:?}; there are {NAMES:?}"),
    }
}

pub struct Hifz {
    pub memory: Memory,
    clock: Clock,
    stored_at: Timestamp,
    expires_at: Timestamp,
}

impl Hifz {
    pub fn new(room: Room) -> Self {
        let limits = match room {
            Room::Entries(entries) => Limits { bytes: 8 << 30, entries: Some(entries as u64) },
            Room::Bytes(bytes) => Limits { bytes, entries: None },
        };
        let clock = Clock::system();
        let stored_at = clock.now();
        let expires_at = stored_at.after(Duration::from_secs(3600));
        let memory = Memory::new(limits, clock.clone());
        if let Room::Bytes(_) = room {
            memory.watch_resident(resident_now().expect("Linux tells"));
        }
        Self { memory, clock, stored_at, expires_at }
    }
}

impl Cache for Hifz {
    fn get(&self, key: KeyRef<'_>) -> Option<u8> {
        let (entry, span) = self.memory.get_and_span(key)?;
        if entry.is_fresh_within(span, &self.clock) { Some(entry.body()[0]) } else { None }
    }

    fn insert(&self, key: KeyRef<'_>, value: &[u8]) {
        let parts = Parts {
            head: b"",
            body: value,
            tags: &[],
            stored_at: self.stored_at,
            expires_at: self.expires_at,
            sequence: 1,
        };
        self.memory.put(key, &parts, |_| true);
    }

    fn len(&self) -> usize {
        self.memory.usage().all.entries as usize
    }

    // The engine's sweeper does so at each of its ticks.
    fn upkeep(&self) {
        while self.memory.gather() {}
    }
}

#[derive(Clone)]
struct Weigh(bool);

impl quick_cache::Weighter<Box<str>, Arc<[u8]>> for Weigh {
    fn weight(&self, key: &Box<str>, value: &Arc<[u8]>) -> u64 {
        if self.0 { (key.len() + value.len()) as u64 } else { 1 }
    }
}

struct Quick(quick_cache::sync::Cache<Box<str>, Arc<[u8]>, Weigh>);

impl Quick {
    fn new(room: Room) -> Self {
        Self(match room {
            Room::Entries(entries) => {
                quick_cache::sync::Cache::with_weighter(entries, entries as u64, Weigh(false))
            }
            Room::Bytes(bytes) => {
                quick_cache::sync::Cache::with_weighter((bytes / 16_000) as usize, bytes, Weigh(true))
            }
        })
    }
}

impl Cache for Quick {
    fn get(&self, key: KeyRef<'_>) -> Option<u8> {
        self.0.get(key.as_str()).map(|value| value[0])
    }

    fn insert(&self, key: KeyRef<'_>, value: &[u8]) {
        self.0.insert(key.as_str().into(), value.into());
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

struct Moka(moka::sync::Cache<Box<str>, Arc<[u8]>>);

impl Moka {
    fn new(room: Room) -> Self {
        let builder = moka::sync::Cache::builder();
        Self(match room {
            Room::Entries(entries) => builder.max_capacity(entries as u64).build(),
            Room::Bytes(bytes) => builder
                .max_capacity(bytes)
                .weigher(|key: &Box<str>, value: &Arc<[u8]>| (key.len() + value.len()) as u32)
                .build(),
        })
    }
}

impl Cache for Moka {
    fn get(&self, key: KeyRef<'_>) -> Option<u8> {
        self.0.get(key.as_str()).map(|value| value[0])
    }

    fn insert(&self, key: KeyRef<'_>, value: &[u8]) {
        self.0.insert(key.as_str().into(), value.into());
    }

    fn len(&self) -> usize {
        self.0.run_pending_tasks();
        self.0.entry_count() as usize
    }

    fn upkeep(&self) {
        self.0.run_pending_tasks();
    }
}

struct Foyer(foyer::Cache<String, Arc<[u8]>>);

impl Foyer {
    fn new(room: Room) -> Self {
        let config = foyer::EvictionConfig::Lru(foyer::LruConfig::default());
        Self(match room {
            Room::Entries(entries) => {
                foyer::CacheBuilder::new(entries).with_shards(64).with_eviction_config(config).build()
            }
            Room::Bytes(bytes) => foyer::CacheBuilder::new(bytes as usize)
                .with_shards(64)
                .with_eviction_config(config)
                .with_weighter(|key: &String, value: &Arc<[u8]>| key.len() + value.len())
                .build(),
        })
    }
}

impl Cache for Foyer {
    fn get(&self, key: KeyRef<'_>) -> Option<u8> {
        self.0.get(key.as_str()).map(|entry| entry.value()[0])
    }

    fn insert(&self, key: KeyRef<'_>, value: &[u8]) {
        self.0.insert(key.as_str().to_owned(), value.into());
    }

    fn len(&self) -> usize {
        self.0.entries()
    }
}

struct Lru {
    map: Mutex<(lru::LruCache<Box<str>, Arc<[u8]>>, u64)>,
    bytes_max: u64,
}

impl Lru {
    fn new(room: Room) -> Self {
        let (map, bytes_max) = match room {
            Room::Entries(entries) => (lru::LruCache::new(NonZero::new(entries).expect("room")), u64::MAX),
            Room::Bytes(bytes) => (lru::LruCache::unbounded(), bytes),
        };
        Self { map: Mutex::new((map, 0)), bytes_max }
    }
}

impl Cache for Lru {
    fn get(&self, key: KeyRef<'_>) -> Option<u8> {
        let value = self.map.lock().0.get(key.as_str()).cloned();
        value.map(|value| value[0])
    }

    fn insert(&self, key: KeyRef<'_>, value: &[u8]) {
        let (key, value): (Box<str>, Arc<[u8]>) = (key.as_str().into(), value.into());
        let weight = |key: &str, value: &[u8]| (key.len() + value.len()) as u64;
        let added = weight(&key, &value);
        let mut held = self.map.lock();
        held.1 += added;
        if let Some((key, value)) = held.0.push(key, value) {
            held.1 -= weight(&key, &value);
        }
        while held.1 > self.bytes_max {
            let Some((key, value)) = held.0.pop_lru() else { break };
            held.1 -= weight(&key, &value);
        }
    }

    fn len(&self) -> usize {
        self.map.lock().0.len()
    }
}
