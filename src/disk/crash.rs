//! The crash matrix: after every single write of a history, what a kill and what power cuts leave must keep every
//! promise given before it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::backend::Fuse;
use super::tape::{Files, Noted};
use super::{Disk, DiskOptions, DiskState, Durability, Floor, open};
use crate::clock::{Clock, Timestamp};
use crate::datadir::DataDir;
use crate::entry::{Entry, Parts};
use crate::key::{Key, KeyRef, Namespace, Tag};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

/// Something that was acknowledged, under the number it was given on the tape.
#[derive(Debug, Clone)]
enum Promise {
    /// The older value of this key does not come back after a kill.
    Put(&'static str, u64),
    /// What was put up to here is durable.
    Flushed,
    Deleted(&'static str, u64),
    Raised(Floor, u64),
}

fn options() -> DiskOptions {
    DiskOptions {
        bytes_max: 4 << 20,
        durability: Durability::Interval,
        flush_interval: Duration::from_hours(1),
        queue_bytes_max: 1 << 20,
        index_bytes_max: 1 << 20,
    }
}

fn open_at(path: &Path, fuse: Fuse) -> (Disk, u64) {
    let dir = DataDir::open(path).unwrap();
    let (disk, truth) = open::open(&dir, options(), Clock::manual(NOW), fuse).unwrap();
    (disk, truth.first_sequence)
}

/// Writes histories and remembers what it promised.
struct Author<'d> {
    disk: &'d Disk,
    fuse: Fuse,
    promises: Vec<Promise>,
    sequence: u64,
}

impl Author<'_> {
    fn say(&mut self, promise: Promise) {
        self.fuse.tape().say(self.promises.len());
        self.promises.push(promise);
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn put(&mut self, name: &'static str) {
        let sequence = self.next();
        let body = body_of(name, sequence);
        let parts = Parts {
            head: b"",
            body: &body,
            tags: &["t"][..usize::from(name.starts_with('t'))],
            stored_at: NOW,
            expires_at: Timestamp::NEVER,
            sequence,
        };
        self.disk.put(&Entry::new(KeyRef::parse(name).unwrap(), &parts));
        self.say(Promise::Put(name, sequence));
    }

    fn flush(&mut self) {
        self.disk.flush().unwrap();
        self.say(Promise::Flushed);
    }

    fn delete(&mut self, name: &'static str) {
        let sequence = self.next();
        self.disk.delete(&[Key::parse(name).unwrap()], sequence).unwrap();
        self.say(Promise::Deleted(name, sequence));
    }

    fn raise(&mut self, floor: Floor) {
        let sequence = self.next();
        self.disk.raise(floor.clone(), sequence).unwrap();
        self.say(Promise::Raised(floor, sequence));
    }
}

/// In memory where the system has such a place.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Large enough that a group has several pieces.
fn body_of(name: &str, sequence: u64) -> Vec<u8> {
    let mut body = sequence.to_le_bytes().to_vec();
    body.extend(name.as_bytes().iter().cycle().take(usize::try_from(sequence % 7).unwrap() * 9000));
    body
}

const KEYS: [&str; 10] = ["a:1", "a:2", "a:3", "b:1", "b:2", "t:1", "t:2", "c:1", "c:2", "c:3"];

fn write_history(author: &mut Author<'_>) {
    for name in KEYS {
        author.put(name);
    }
    author.flush();
    author.put("a:1");
    author.delete("a:2");
    author.put("a:2");
    author.delete("b:1");
    author.flush();
    author.raise(Floor::Namespace(Namespace::parse("b").unwrap()));
    author.put("b:2");
    author.put("c:1");
    author.raise(Floor::Tag(Tag::parse("t").unwrap()));
    author.put("t:1");
    author.flush();
    author.delete("c:1");
    author.delete("c:2");
    author.put("c:1");
    for name in KEYS {
        author.put(name);
    }
    author.flush();
    // So much that older groups are given up and written anew.
    for deleted in KEYS.iter().take(3) {
        for name in KEYS {
            author.put(name);
        }
        author.delete(deleted);
        author.flush();
    }
    author.disk.tidy().unwrap();
}

/// What the promises given so far demand.
#[derive(Debug, Default, Clone)]
struct Demands {
    /// Below these a key's records are dead, whatever happens.
    dead: BTreeMap<&'static str, u64>,
    /// Older than these must not come back after a kill, and after a power cut.
    put: BTreeMap<&'static str, u64>,
    flushed: BTreeMap<&'static str, u64>,
}

impl Demands {
    fn take(&mut self, promise: &Promise) {
        match promise {
            Promise::Put(name, sequence) => drop(self.put.insert(name, *sequence)),
            Promise::Flushed => self.flushed = self.put.clone(),
            Promise::Deleted(name, sequence) => drop(self.dead.insert(name, *sequence)),
            Promise::Raised(floor, sequence) => {
                let covers = |name: &str| match floor {
                    Floor::Namespace(namespace) => name.split(':').next() == Some(namespace.as_str()),
                    Floor::Tag(_) => name.starts_with('t'),
                    _ => true,
                };
                for name in KEYS.iter().filter(|name| covers(name)) {
                    self.dead.insert(name, *sequence);
                }
            }
        }
    }

    /// `under_way` is what was being done at the crash, and may have come to pass or not.
    fn check(&self, folder: &Path, is_kill: bool, under_way: &Self, what: &str) {
        let (disk, _) = open_at(folder, Fuse::hasty());
        assert_eq!(disk.status().state, DiskState::Healthy, "{what}");
        for name in KEYS {
            let found = disk.get(KeyRef::parse(name).unwrap());
            let sequence = found.as_ref().map(Entry::sequence);
            if let Some(entry) = &found {
                assert_eq!(entry.body(), body_of(name, entry.sequence()), "{name} {what}");
            }
            let at_least = |demands: &BTreeMap<&str, u64>| demands.get(name).copied().unwrap_or(0);
            let dead = at_least(&self.dead);
            assert!(sequence.is_none_or(|found| found >= dead), "{name} came back from the dead, {what}");
            let older = if is_kill { at_least(&self.put) } else { at_least(&self.flushed) };
            assert!(sequence.is_none_or(|found| found >= older), "{name} is older than acknowledged, {what}");
            let durable = at_least(&self.flushed);
            // An overwrite that was not written yet may have left its mark.
            let is_last = at_least(&under_way.put) == durable && at_least(&under_way.dead) < durable;
            let must_be_there = durable > dead && is_last;
            assert!(!must_be_there || sequence.is_some(), "{name} is lost, {what}");
        }
        drop(disk);
        // A file that was never finished is set aside, and nothing had been promised by it.
        assert!(self.flushed.is_empty() || !folder.join("quarantine").exists(), "{what}");
    }
}

#[test]
fn whatever_write_is_the_last_nothing_acknowledged_is_undone() {
    let temp = tempfile::tempdir().unwrap();
    let fuse = Fuse::none();
    fuse.tape().begin();
    let (disk, first) = open_at(temp.path(), fuse.clone());
    let mut author = Author { disk: &disk, fuse: fuse.clone(), promises: Vec::new(), sequence: first };
    write_history(&mut author);
    let promises = author.promises;
    disk.close().unwrap();
    let acts = fuse.tape().end();
    let (mut files, mut demands, mut state) = (Files::default(), Demands::default(), 7_u64);
    let mut under_way = Demands::default();
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 33
    };
    let mut crashes = 0;
    for (number, act) in acts.iter().enumerate() {
        match act {
            Noted::Said(promise) => {
                demands.take(&promises[*promise]);
                under_way = demands.clone();
                promises.get(promise + 1).into_iter().for_each(|next| under_way.take(next));
            }
            act => files.apply(act),
        }
        let killed = folder();
        files.after_kill(killed.path());
        demands.check(killed.path(), true, &under_way, &format!("killed after act {number}"));
        if number % 7 == 0 {
            demands.check(killed.path(), true, &under_way, &format!("killed twice after act {number}"));
        }
        crashes += 1;
        // Between two syncs a power cut leaves one of the states that the next ones leave too.
        if number % 4 != 0 && !matches!(act, Noted::Sync { .. } | Noted::Said(_)) {
            continue;
        }
        let bare = folder();
        files.after_power_cut(bare.path(), || 0);
        demands.check(bare.path(), false, &under_way, &format!("nothing unsynced kept after act {number}"));
        let torn = folder();
        // A third is lost, a third torn, a third whole.
        files.after_power_cut(torn.path(), || match random() % 3 {
            0 => 0,
            1 => usize::try_from(random() % 8).unwrap(),
            _ => usize::MAX,
        });
        demands.check(torn.path(), false, &under_way, &format!("torn after act {number}"));
        crashes += 2;
    }
    assert!(crashes > 200, "{crashes}");
}
