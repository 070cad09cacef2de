//! What the tests of the disk tier share: a clock that stands, a tier whose writer waits to be told, and what a kill
//! leaves.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::backend::Fuse;
use super::{Disk, DiskOptions, Durability, Truth, open};
use crate::clock::{Clock, Timestamp};
use crate::datadir::DataDir;
use crate::entry::{Entry, Parts};
use crate::key::{Key, KeyRef};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_000_000);

/// Nothing is written by itself: each test says when.
pub(super) fn options() -> DiskOptions {
    DiskOptions {
        bytes_max: 64 << 20,
        durability: Durability::Interval,
        flush_interval: Duration::from_hours(1),
        queue_bytes_max: 8 << 20,
        index_bytes_max: 8 << 20,
    }
}

/// The tier in a folder.
pub(super) fn open_with(path: &Path, options: DiskOptions, fuse: Fuse) -> (Disk, Truth) {
    let dir = DataDir::open(path).unwrap();
    open::open(&dir, options, Clock::manual(NOW), fuse).unwrap()
}

/// The tier, and the first sequence of its run.
pub(super) fn opened(path: &Path, options: DiskOptions, fuse: Fuse) -> (Disk, u64) {
    let (disk, truth) = open_with(path, options, fuse);
    (disk, truth.first_sequence)
}

/// An entry that is fresh for so many seconds.
pub(super) fn until(text: &str, body: &[u8], sequence: u64, seconds: u64) -> Entry {
    let expires_at = NOW.after(Duration::from_secs(seconds));
    Entry::new(key(text), &Parts { head: b"", body, tags: &[], stored_at: NOW, expires_at, sequence })
}

pub(super) fn key(text: &str) -> KeyRef<'_> {
    KeyRef::parse(text).unwrap()
}

pub(super) fn delete(disk: &Disk, text: &str, sequence: u64) {
    disk.delete(&[Key::parse(text).unwrap()], sequence).unwrap();
}

/// The files as a kill at this instant would leave them.
pub(super) fn killed_copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for name in ["cache.redb", "cache-truth.redb", "cache-marks-0.log", "cache-marks-1.log"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.path().join(name)).unwrap();
        }
    }
    to
}
