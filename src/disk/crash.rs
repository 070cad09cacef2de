//! The crash matrix: after every single write of a history, what a kill and what power cuts leave must keep every
//! promise given before it.
//!
//! Here is the history that is written down, and the checking; `disk/histories.rs` makes up others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::backend::Fuse;
use super::tape::{Files, Noted};
use super::{Disk, DiskOptions, DiskState, Durability, Floor, open};
use crate::clock::{Clock, Timestamp};
use crate::datadir::DataDir;
use crate::entry::{Entry, Parts};
use crate::key::{Key, KeyRef, Namespace, Tag};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_000_000);

/// Something that was acknowledged, under the number it was given on the tape.
///
/// Writes and deaths are told apart by a number that grows with each; a body bears that of its write. It is not the
/// sequence, which begins anew after an open that failed.
#[derive(Debug, Clone)]
pub(super) enum Promise {
    /// The older value of this key does not come back after a kill.
    Put(Put),
    /// What was put up to here is durable.
    Flushed,
    /// Whatever is older under one of these keys is dead.
    Dead(Vec<&'static str>, u64),
    /// Nothing but that it may be gone: what could not be made durable may have come to pass all the same.
    Doubted(Vec<&'static str>),
    /// It is so late.
    Turned(Timestamp),
}

#[derive(Debug, Clone)]
pub(super) struct Put {
    pub(super) name: &'static str,
    pub(super) number: u64,
    pub(super) until: Timestamp,
    /// The deadline of the same write that stood there before.
    pub(super) moved_from: Option<Timestamp>,
    /// It found room.
    pub(super) is_kept: bool,
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

/// The tier in a folder, at a moment.
pub(super) fn open_at(path: &Path, options: &DiskOptions, clock: &Clock, fuse: Fuse) -> (Disk, u64) {
    let dir = DataDir::open(path).unwrap();
    let (disk, truth) = open::open(&dir, options.clone(), clock.clone(), fuse).unwrap();
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
        // Large enough that a group has several pieces.
        let body = body_of(name, sequence, usize::try_from(sequence % 7).unwrap() * 9000);
        self.disk.put(&entry_of(name, &body, sequence, Timestamp::NEVER, NOW));
        self.say(Promise::Put(Put {
            name,
            number: sequence,
            until: Timestamp::NEVER,
            moved_from: None,
            is_kept: true,
        }));
    }

    fn flush(&mut self) {
        self.disk.flush().unwrap();
        self.say(Promise::Flushed);
    }

    fn delete(&mut self, name: &'static str) {
        let sequence = self.next();
        self.disk.delete(&[Key::parse(name).unwrap()], sequence).unwrap();
        self.say(Promise::Dead(vec![name], sequence));
    }

    fn raise(&mut self, floor: Floor) {
        let (sequence, covered) = (self.next(), covered(&floor));
        self.disk.raise(floor, sequence).unwrap();
        self.say(Promise::Dead(covered, sequence));
    }
}

/// In memory where the system has such a place.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// It says whose it is, all the way through.
pub(super) fn body_of(name: &str, number: u64, bytes: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.extend(u64::try_from(bytes).unwrap().to_le_bytes());
    body.extend(name.as_bytes().iter().cycle().take(bytes));
    body
}

pub(super) fn entry_of(name: &str, body: &[u8], sequence: u64, until: Timestamp, now: Timestamp) -> Entry {
    let parts = Parts {
        head: b"",
        body,
        tags: &["t"][..usize::from(name.starts_with('t'))],
        stored_at: now,
        expires_at: until,
        sequence,
    };
    Entry::new(KeyRef::parse(name).unwrap(), &parts)
}

/// The key of `entry`, and the number of the write that it is of.
pub(super) fn write_of(entry: &Entry, what: &str) -> (&'static str, u64) {
    let key = entry.key().to_string();
    let Some(name) = KEYS.into_iter().find(|name| *name == key) else {
        panic!("{key} was never put, {what}")
    };
    let number =
        |at: usize| entry.body().get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let (Some(written), Some(bytes)) = (number(0), number(8)) else { panic!("{name} has no body, {what}") };
    let body = body_of(name, written, usize::try_from(bytes).unwrap());
    assert!(entry.body() == body, "{name} has a wrong body, {what}");
    (name, written)
}

/// The history that is written down uses the first ten.
pub(super) const KEYS: [&str; 40] = [
    "a:1", "a:2", "a:3", "b:1", "b:2", "t:1", "t:2", "c:1", "c:2", "c:3", "a:4", "a:5", "a:6", "a:7", "a:8",
    "a:9", "b:3", "b:4", "b:5", "b:6", "b:7", "b:8", "b:9", "c:4", "c:5", "c:6", "c:7", "c:8", "c:9", "t:3",
    "t:4", "t:5", "t:6", "t:7", "t:8", "t:9", "d:1", "d:2", "d:3", "d:4",
];

/// The keys that `floor` is about.
pub(super) fn covered(floor: &Floor) -> Vec<&'static str> {
    let covers = |name: &str| match floor {
        Floor::All => true,
        Floor::Namespace(namespace) => name.split(':').next() == Some(namespace.as_str()),
        Floor::Tag(_) => name.starts_with('t'),
        Floor::Pattern(pattern) => pattern.matches(name),
    };
    KEYS.into_iter().filter(|name| covers(name)).collect()
}

fn write_history(author: &mut Author<'_>) {
    let keys = &KEYS[..10];
    for name in keys {
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
    for name in keys {
        author.put(name);
    }
    author.flush();
    // So much that older groups are given up and written anew.
    for deleted in keys.iter().take(3) {
        for name in keys {
            author.put(name);
        }
        author.delete(deleted);
        author.flush();
    }
    author.disk.tidy().unwrap();
}

/// The file is given up, and another takes its place.
fn write_renewal(author: &mut Author<'_>) {
    let keys = &KEYS[..10];
    for name in keys {
        author.put(name);
    }
    author.flush();
    // These leave marks, which the next file must outlive.
    for name in &keys[..4] {
        author.put(name);
    }
    author.delete("a:2");
    author.say(Promise::Doubted(keys.to_vec()));
    author.disk.shared.discard_bulk().unwrap();
    for name in &keys[2..6] {
        author.put(name);
    }
    author.flush();
    for name in &keys[..5] {
        author.put(name);
    }
    author.delete("a:1");
    author.flush();
}

/// What the promises given so far demand.
#[derive(Debug, Default, Clone)]
pub(super) struct Demands {
    pub(super) now: Timestamp,
    /// Below these a key's records are dead, whatever happens.
    pub(super) dead: BTreeMap<&'static str, u64>,
    /// Older than these must not come back after a kill, and after a power cut.
    pub(super) put: BTreeMap<&'static str, u64>,
    flushed: BTreeMap<&'static str, u64>,
    /// Until when the last writes may be served: every deadline that they were given since the last one that is durable.
    pub(super) deadlines: BTreeMap<&'static str, (u64, Vec<Timestamp>)>,
    /// The keys that were given one which a flush makes durable.
    moved: BTreeSet<&'static str>,
    /// What has not been flushed, and what has and must be there; each with its deadline.
    waiting: BTreeMap<&'static str, Timestamp>,
    kept: BTreeMap<&'static str, Timestamp>,
    /// Records may go for other reasons.
    pub(super) is_lossy: bool,
}

impl Demands {
    /// Before anything was promised.
    pub(super) fn at(now: Timestamp) -> Self {
        Self { now, ..Self::default() }
    }

    pub(super) fn take(&mut self, promise: &Promise) {
        match promise {
            Promise::Put(put) => self.take_put(put),
            Promise::Flushed => {
                self.flushed = self.put.clone();
                self.kept.append(&mut self.waiting);
                for name in std::mem::take(&mut self.moved) {
                    if let Some((_, deadlines)) = self.deadlines.get_mut(name) {
                        deadlines.drain(..deadlines.len() - 1);
                    }
                }
            }
            Promise::Dead(names, number) => {
                for name in names {
                    let dead = self.dead.entry(name).or_default();
                    *dead = (*dead).max(*number);
                }
                self.doubt(names);
            }
            Promise::Doubted(names) => self.doubt(names),
            Promise::Turned(now) => {
                self.now = *now;
                self.waiting.retain(|_, until| *until > *now);
                self.kept.retain(|_, until| *until > *now);
            }
        }
    }

    fn take_put(&mut self, put: &Put) {
        let Put { name, number, until, moved_from, is_kept } = put;
        // One that comes too late changes nothing.
        if *number < self.put.get(name).copied().unwrap_or(0) {
            return;
        }
        self.put.insert(name, *number);
        self.doubt(&[*name]);
        if *is_kept && *number >= self.dead.get(name).copied().unwrap_or(0) && *until > self.now {
            self.waiting.insert(name, *until);
        }
        let (last, deadlines) = self.deadlines.entry(name).or_default();
        if *last != *number {
            (*last, *deadlines) = (*number, moved_from.iter().copied().collect());
        }
        deadlines.push(*until);
        self.moved.insert(name);
    }

    fn doubt(&mut self, names: &[&'static str]) {
        for name in names {
            self.waiting.remove(name);
            self.kept.remove(name);
        }
    }

    /// The clock was set back while nothing ran: what was stored later is from the future.
    pub(super) fn turn_back(&mut self, by: Duration) {
        self.now = Timestamp::from_millis(
            self.now.as_millis().saturating_sub(u64::try_from(by.as_millis()).unwrap()),
        );
        self.kept.clear();
    }

    /// What is demanded of the run after a crash.
    pub(super) fn crash(&mut self, is_kill: bool) {
        self.waiting.clear();
        self.moved.clear();
        if !is_kill {
            self.put = self.flushed.clone();
        }
        if self.is_lossy {
            self.kept.clear();
        }
    }

    /// Whether a key must be there in the running tier.
    pub(super) fn has(&self, name: &str) -> bool {
        self.kept.contains_key(name) || self.waiting.contains_key(name)
    }

    /// `under_way` is what was being done at the crash, and may have come to pass or not.
    fn hold(&self, disk: &Disk, is_kill: bool, under_way: &Self, what: &str) {
        for name in KEYS {
            let found = disk.get(KeyRef::parse(name).unwrap());
            if let Some(entry) = &found {
                let number = self.hold_of(entry, is_kill, under_way, what);
                assert_eq!(number.0, name, "{what}");
            }
            // An overwrite that was not written yet may have left its mark.
            let must_be_there = self.kept.contains_key(name) && under_way.kept.contains_key(name);
            assert!(!must_be_there || self.is_lossy || found.is_some(), "{name} is lost, {what}");
        }
        disk.recover(&mut |entry, _| {
            self.hold_of(entry, is_kill, under_way, what);
            ControlFlow::Continue(())
        });
    }

    /// Of one entry; its key and number.
    pub(super) fn hold_of(
        &self,
        entry: &Entry,
        is_kill: bool,
        under_way: &Self,
        what: &str,
    ) -> (&'static str, u64) {
        let (name, number) = write_of(entry, what);
        let at_least = |demands: &BTreeMap<&str, u64>| demands.get(name).copied().unwrap_or(0);
        assert!(number >= at_least(&self.dead), "{name} {number} came back from the dead, {what}");
        let older = if is_kill { at_least(&self.put) } else { at_least(&self.flushed) };
        assert!(number >= older, "{name} {number} is older than {older}, which was acknowledged, {what}");
        let until = entry.expires_at();
        assert!(until > self.now, "{name} is served past its lifetime, {what}");
        let deadlines = |demands: &Self| {
            let deadlines = demands.deadlines.get(name).filter(|(last, _)| *last == number);
            deadlines.is_none_or(|(_, deadlines)| deadlines.contains(&until))
        };
        assert!(
            deadlines(self) || deadlines(under_way),
            "{name} has a deadline that it was not given, {what}"
        );
        (name, number)
    }

    /// As [`Demands::hold`], of what a crash left in `folder`; whether the run after it had to give records up.
    pub(super) fn check(&self, folder: &Path, options: &DiskOptions, crash: &Crash<'_>) -> bool {
        let Crash { is_kill, under_way, fuse, what } = crash;
        let (disk, _) = open_at(folder, options, &Clock::manual(self.now), fuse.clone());
        if self.is_lossy {
            // Its bound was higher before, and it is brought below it first.
            let mut tidied = (0..TIDIED_MAX).map(|_| disk.tidy());
            assert!(
                disk.status().state == DiskState::Healthy || tidied.any(|tidied| tidied.is_ok()),
                "{what}"
            );
        }
        assert_eq!(disk.status().state, DiskState::Healthy, "{what}");
        self.hold(&disk, *is_kill, under_way, what);
        let shared = Arc::clone(&disk.shared);
        drop(disk);
        // A file that was never finished is set aside, and nothing had been promised by it.
        let may_be_unfinished = self.is_lossy || self.kept.is_empty();
        assert!(may_be_unfinished || !folder.join("quarantine").exists(), "set aside, {what}");
        shared.counts.evicted.load(Ordering::Relaxed) > 0
    }
}

/// A file that does not fit is squeezed a few times, and then set aside.
const TIDIED_MAX: usize = 12;

/// A crash, and the run after it.
#[derive(Debug)]
pub(super) struct Crash<'c> {
    pub(super) is_kill: bool,
    pub(super) under_way: &'c Demands,
    pub(super) fuse: Fuse,
    pub(super) what: String,
}

/// A third is lost, a third torn, a third whole.
pub(super) fn tear(random: u64) -> usize {
    match random % 3 {
        0 => 0,
        1 => usize::try_from(random / 3 % 8).unwrap(),
        _ => usize::MAX,
    }
}

#[test]
fn whatever_write_is_the_last_nothing_acknowledged_is_undone() {
    let crashes = crash_everywhere(write_history);
    assert!(crashes > 200, "{crashes}");
}

#[test]
fn whatever_write_is_the_last_while_another_file_takes_the_place_of_one_nothing_acknowledged_is_undone() {
    let crashes = crash_everywhere(write_renewal);
    assert!(crashes > 100, "{crashes}");
}

/// Crashes after every write of a history; how often.
fn crash_everywhere(write: fn(&mut Author<'_>)) -> usize {
    let temp = folder();
    let fuse = Fuse::none();
    fuse.tape().begin();
    let (disk, first) = open_at(temp.path(), &options(), &Clock::manual(NOW), fuse.clone());
    let mut author = Author { disk: &disk, fuse: fuse.clone(), promises: Vec::new(), sequence: first };
    write(&mut author);
    let promises = author.promises;
    disk.close().unwrap();
    let acts = fuse.tape().end();
    let (mut files, mut demands, mut state) = (Files::default(), Demands::at(NOW), 7_u64);
    let mut under_way = demands.clone();
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
        let check = |folder: &Path, is_kill: bool, what: &str| {
            let what = format!("{what} after act {number}");
            let crash = Crash { is_kill, under_way: &under_way, fuse: Fuse::hasty(), what };
            demands.check(folder, &options(), &crash);
        };
        let killed = folder();
        files.after_kill(killed.path());
        check(killed.path(), true, "killed");
        if number % 7 == 0 {
            check(killed.path(), true, "killed twice");
        }
        crashes += 1;
        // Between two syncs a power cut leaves one of the states that the next ones leave too.
        if number % 4 != 0 && !matches!(act, Noted::Sync { .. } | Noted::Said(_)) {
            continue;
        }
        let bare = folder();
        files.after_power_cut(bare.path(), || 0);
        check(bare.path(), false, "nothing unsynced kept");
        let torn = folder();
        files.after_power_cut(torn.path(), || tear(random()));
        check(torn.path(), false, "torn");
        crashes += 2;
    }
    crashes
}
