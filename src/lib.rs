//! hifz (Arabic: keeping, memorising): an embedded cache engine with its own persistent store.
//!
//! A [`Cache`] holds entries in memory, least recently used first out, within a limit in bytes; writes them behind to
//! disk, so that a restart begins warm; and forgets durably on command. With a [`source::Source`] it reads through on a
//! miss, once however many callers wait.
//!
//! ```
//! let cache = hifz::Cache::builder().memory(16 << 20).open()?;
//! cache.set("greetings:en", "good morning")?;
//! assert_eq!(cache.get("greetings:en")?.unwrap().body(), b"good morning");
//! cache.close()?;
//! # Ok::<(), hifz::Error>(())
//! ```
//!
//! # The map of the house
//!
//! The tree is the data's way: a request comes in at a door, goes through the engine to the tiers, at need to a source,
//! and back. What every part speaks of is a file; what a request passes through is a folder.
//!
//! | part | what it does | what it must never know |
//! |---|---|---|
//! | [`error`], [`clock`], [`key`], [`pattern`], [`codec`], `sync`, `hint`, `fence` | the ground: failures, time, names, globs, bytes of small metadata, locks, hints to processor and kernel, databases that close without a panic | everything below |
//! | [`datadir`] | the data directory: one process, secrets, quarantine | what the files mean |
//! | [`entry`], [`source`] | what is kept, and where it comes from | what a body means; who asks |
//! | [`memory`] | entries in order of use within a limit; generations; counters by namespace | disk, threads, metrics |
//! | [`disk`] | entries and invalidations in two redb files; only ever a copy | memory, sources |
//! | [`engine`] | [`Cache`]: read path, single flight, invalidation, sweeping, warm restart, figures | HTTP, the Quran, redb |
//! | `cached` (feature `typed`) | a repository behind the cache: read through, write after | what an item means; tiers |
//! | `layer` (feature `tower`) | a response cache for any tower service: keys, rules, bodies of HTTP | web servers, the Quran, tiers |
//! | `content` (feature) | the system of record: text, reciters, translations, bookmarks, outbox, import, export | HTTP, engine, disk |
//! | `origin` (with `server`) | another HTTP service as a source: what is asked, what its answers mean | engine, content, what a body means |
//! | `server` (feature) | settings, command line, sockets, HTTP doors; the bridge from outbox to invalidation | how tiers work inside |
//!
//! Who may import whom is data in `tests/layers.rs`, which fails on an import that is not in its table. Deliberately
//! absent today: metrics, the dashboard.

#[cfg(feature = "typed")]
mod cached;
pub mod clock;
mod codec;
#[cfg(feature = "content")]
pub mod content;
mod datadir;
mod disk;
mod engine;
pub mod entry;
mod error;
mod fence;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hint;
mod key;
#[cfg(feature = "tower")]
pub mod layer;
pub mod memory;
#[cfg(feature = "server")]
mod origin;
mod pattern;
#[cfg(feature = "server")]
pub mod server;
pub mod source;
mod sync;

#[cfg(feature = "typed")]
pub use cached::{Cached, Repository};
#[cfg(feature = "content")]
pub use content::keys;
pub use datadir::{DataDir, Run};
pub use disk::{DiskState, DiskStatus, DiskVerified, PagesVerified};
pub use engine::{
    Answer, Breaker, Cache, CacheBuilder, Cause, Charge, Durability, Event, Explanation, Filter, Happened,
    InNamespace, Latencies, ListCursor, Listed, Listing, MissReason, NamespaceStats, OVERFLOW_NAME,
    Operation, Outcome, Policy, Selector, SetOptions, SourceStatus, Stats, StoredCopy, Subscription,
    TAGS_MAX, Task, Ttl, Turn, WarmReport, Warmed, Warmth,
};
pub use error::{Error, ErrorKind, Result};
pub use key::{DEFAULT_NAMESPACE, KEY_BYTES_MAX, Key, KeyRef, Namespace, Parsed, TAG_BYTES_MAX, Tag};
pub use pattern::{PATTERN_BYTES_MAX, Pattern};
