//! Crashes after random histories: what no one thought of writing down in `disk/crash.rs`.
//!
//! A seed makes a story of a few lives of one directory. In each life the tier is opened with small bounds and random
//! operations are done to it, some of them by several threads at once, with weights that are the seed's too; in some the
//! disk fails for a while. It ends with a close, a kill, or a power cut, after which the clock may be set back. While it
//! runs no get finds anything dead, late, or older than acknowledged; then crashes after some of its writes are looked
//! at, some of them followed by a kill of the run after them.
//!
//! `HIFZ_CRASHES=2000` tells so many stories, from the seed `HIFZ_CRASH_SEED` (0) on; a failure prints its seed and the last
//! operations. The order of everything is the seed's but for the batches that are written while operations go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::backend::{Fault, Fuse};
use super::crash::{
    Crash, Demands, KEYS, NOW, Promise, Put, body_of, covered, entry_of, folder, open_at, tear, write_of,
};
use super::state::Shared;
use super::tape::{Files, Noted};
use super::tidy::SMALL_GROUPS_MAX;
use super::{Disk, DiskOptions, Durability, Floor};
use crate::clock::{Clock, Timestamp};
use crate::entry::Entry;
use crate::key::{Key, KeyRef, Namespace, Tag};
use crate::pattern::Pattern;

/// A stream of numbers that is the same for every seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn is_one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Put,
    PutMany,
    PutAndFlushEach,
    PutLate,
    Touch,
    Get,
    Forget,
    Delete,
    Raise,
    Bury,
    Cool,
    Use,
    Flush,
    Hurry,
    Tidy,
    Bound,
    Turn,
    Fail,
    Misread,
    Page,
    Race,
}

const DEEDS: [Deed; 21] = [
    Deed::Put,
    Deed::PutMany,
    Deed::PutAndFlushEach,
    Deed::PutLate,
    Deed::Touch,
    Deed::Get,
    Deed::Forget,
    Deed::Delete,
    Deed::Raise,
    Deed::Bury,
    Deed::Cool,
    Deed::Use,
    Deed::Flush,
    Deed::Hurry,
    Deed::Tidy,
    Deed::Bound,
    Deed::Turn,
    Deed::Fail,
    Deed::Misread,
    Deed::Page,
    Deed::Race,
];

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Kill,
    PowerCut,
}

/// What all stories came to, so that it is seen whether they try anything.
#[derive(Debug, Default)]
struct Tally {
    crashes: u64,
    dropped: u64,
    evicted: u64,
    expired: u64,
    refused: u64,
    faults: u64,
    lives: u64,
    /// Lives after which everything flushed had to be there.
    whole: u64,
}

/// The lives of one directory.
struct Story {
    seed: u64,
    random: Random,
    options: DiskOptions,
    keys: &'static [&'static str],
    body_bytes_max: u64,
    /// How many of eight writes last for some seconds only.
    brief_in_8: u64,
    weights: Vec<(Deed, u64)>,
    number: u64,
    files: Files,
    demands: Demands,
    folder: tempfile::TempDir,
    /// The last operations.
    lines: VecDeque<String>,
    tally: Tally,
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines: Vec<String> = std::mem::take(&mut self.lines).into();
            eprintln!(
                "again with HIFZ_CRASHES=1 HIFZ_CRASH_SEED={}; {:?}; the last operations:\n{}",
                self.seed,
                self.options,
                lines.join("\n")
            );
        }
    }
}

const BOUNDS: [u64; 6] = [3 << 19, 2 << 20, 3 << 20, 4 << 20, 6 << 20, 16 << 20];

impl Story {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let has_faults = random.is_one_in(3);
        let mut weights = Vec::new();
        for deed in DEEDS {
            let weight = match deed {
                Deed::Fail | Deed::Misread if !has_faults => 0,
                Deed::PutAndFlushEach | Deed::Misread | Deed::Race => random.pick(&[0, 0, 1]),
                Deed::Put => random.pick(&[3, 10, 30]),
                Deed::Fail => random.pick(&[1, 2, 3]),
                _ => random.pick(&[0, 1, 2, 6]),
            };
            weights.push((deed, weight));
        }
        let options = DiskOptions {
            bytes_max: random.pick(&BOUNDS),
            durability: Durability::Interval,
            flush_interval: random.pick(&[
                Duration::from_hours(1),
                Duration::from_hours(1),
                Duration::from_millis(2),
            ]),
            queue_bytes_max: random.pick(&[1 << 10, 4 << 10, 16 << 10, 100 << 10, 1 << 20]),
            index_bytes_max: random.pick(&[14 * 10, 1 << 20, 1 << 20, 1 << 20, 1 << 20]),
        };
        Self {
            seed,
            options,
            keys: &KEYS[..random.pick(&[4, 12, 40, 40])],
            body_bytes_max: random.pick(&[100, 1000, 10_000, 60_000, 140_000]),
            brief_in_8: random.pick(&[1, 2, 6]),
            weights,
            random,
            number: 0,
            files: Files::default(),
            demands: Demands::at(NOW),
            folder: folder(),
            lines: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    fn tell(&mut self) {
        for _ in 0..=self.random.below(4) {
            self.live();
        }
    }

    fn live(&mut self) {
        let fuse = Fuse::none();
        fuse.tape().begin();
        let has_faults = self.weights.iter().any(|(deed, weight)| matches!(deed, Deed::Fail) && *weight > 0);
        let fails_at_open = has_faults && self.random.is_one_in(6);
        if fails_at_open {
            fuse.set(self.random.below(30));
        }
        if self.random.is_one_in(3) {
            self.turn_back();
        }
        let clock = Clock::manual(self.demands.now);
        let (disk, first) = open_at(self.folder.path(), &self.options, &clock, fuse.clone());
        self.note(format!("--- opened, {:?}", disk.status().state));
        let bulk = fuse.tape().mark("cache.redb", false);
        let (live, before) = (self.demands.clone(), self.number);
        let mut own = Life {
            story: self,
            disk,
            fuse,
            clock,
            promises: Vec::new(),
            live,
            buried: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            put: BTreeSet::new(),
            late: Vec::new(),
            first,
            before,
            bulk,
            fails_for: u64::from(fails_at_open) * 6,
            had_faults: fails_at_open,
            had_race: false,
        };
        let deeds = own.story.random.pick(&[10, 40, 120]);
        for _ in 0..=own.story.random.below(deeds) {
            own.go_on();
        }
        let end = own.story.random.pick(&[End::Close, End::Close, End::Kill, End::Kill, End::PowerCut]);
        own.end(end);
    }

    fn turn_back(&mut self) {
        let seconds = self.random.pick(&[1, 10, 30, 100]);
        self.demands.turn_back(Duration::from_secs(seconds));
        self.note(format!("--- the clock is set back by {seconds}"));
    }

    fn note(&mut self, line: String) {
        self.lines.push_back(line);
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
    }

    /// Looks at crashes after some of the acts of a life, and leaves everything as it was after the last.
    fn crash(&mut self, acts: &[Noted], promises: &[Promise], life: u64) {
        let mut at: BTreeSet<usize> = BTreeSet::from([acts.len().saturating_sub(1)]);
        // As often as after any act, where something has just been acknowledged: often in the middle of a batch.
        let is_said = |at: &usize| matches!(acts[*at], Noted::Said(_));
        let said: Vec<usize> = (0..acts.len()).filter(is_said).collect();
        for _ in 0..CRASHES_A_LIFE / 2 {
            at.insert(usize::try_from(self.random.below(acts.len() as u64)).unwrap());
            at.extend((!said.is_empty()).then(|| self.random.pick(&said)));
        }
        let mut under_way = self.demands.clone();
        promises.first().into_iter().for_each(|next| under_way.take(next));
        let mut last = None;
        for (number, act) in acts.iter().enumerate() {
            match act {
                Noted::Said(promise) => {
                    last = Some(*promise);
                    self.demands.take(&promises[*promise]);
                    under_way = self.demands.clone();
                    promises.get(promise + 1).into_iter().for_each(|next| under_way.take(next));
                }
                act => self.files.apply(act),
            }
            if at.contains(&number) {
                let is_kill = !self.random.is_one_in(3);
                let what = format!(
                    "life {life}, after act {number} and {:?}",
                    last.and_then(|last| promises.get(last))
                );
                self.crash_here(is_kill, &under_way, &what);
            }
        }
    }

    fn crash_here(&mut self, is_kill: bool, under_way: &Demands, what: &str) {
        let left = folder();
        let (is_bare, random) = (self.random.is_one_in(2), &mut self.random);
        let (files, how) = match (is_kill, is_bare) {
            (true, _) => (self.files.after_kill(left.path()), "killed"),
            (_, true) => (self.files.after_power_cut(left.path(), || 0), "nothing unsynced kept"),
            _ => (self.files.after_power_cut(left.path(), || tear(random.next())), "torn"),
        };
        let fuse = Fuse::hasty();
        fuse.tape().begin();
        let what = format!("{how} in {what}, seed {}", self.seed);
        let crash = |fuse: &Fuse, what: String| Crash { is_kill, under_way, fuse: fuse.clone(), what };
        let mut demands = self.demands.clone();
        let mut what = what;
        if self.random.is_one_in(4) {
            demands.turn_back(Duration::from_secs(self.random.below(40)));
            what.push_str(", the clock set back");
        }
        demands.is_lossy |= demands.check(left.path(), &self.options, &crash(&fuse, what.clone()));
        self.tally.crashes += 1;
        let acts = fuse.tape().end();
        if self.random.is_one_in(2) {
            let (mut files, count) = (files, self.random.below(acts.len() as u64 + 1));
            for act in acts.iter().take(usize::try_from(count).unwrap()) {
                files.apply(act);
            }
            let left = folder();
            files.after_kill(left.path());
            let what = format!("killed again after act {count}, {what}");
            demands.check(left.path(), &self.options, &crash(&Fuse::hasty(), what));
            self.tally.crashes += 1;
        }
    }
}

/// The tier from an open to its end.
struct Life<'s> {
    story: &'s mut Story,
    disk: Disk,
    fuse: Fuse,
    clock: Clock,
    promises: Vec<Promise>,
    /// What is demanded of the running tier.
    live: Demands,
    /// Deaths that hold in this process, whether they are durable or not.
    buried: BTreeMap<&'static str, u64>,
    /// Up to which numbers what comes late is forgotten.
    forgotten: BTreeMap<&'static str, u64>,
    /// What was put in this life.
    put: BTreeSet<&'static str>,
    /// Writes that have begun and are not put yet.
    late: Vec<(&'static str, u64)>,
    /// The sequence that comes after the number `before`.
    first: u64,
    before: u64,
    /// The bulk's mark on the tape.
    bulk: String,
    /// How many operations the disk still fails for.
    fails_for: u64,
    /// The disk failed, or the file was given another bound.
    had_faults: bool,
    /// Several threads did what is not known in its order.
    had_race: bool,
}

/// What several threads do at once to a few keys. As the callers of the tier do, puts of one key take turns, and their
/// numbers in it.
struct Race<'r> {
    disk: &'r Disk,
    fuse: &'r Fuse,
    keys: &'static [&'static str],
    turns: BTreeMap<&'static str, Mutex<()>>,
    /// What has been acknowledged of each key.
    put: BTreeMap<&'static str, AtomicU64>,
    dead: BTreeMap<&'static str, AtomicU64>,
    number: AtomicU64,
    /// How many promises were given before.
    said: usize,
    promises: Mutex<Vec<Promise>>,
    now: Timestamp,
    /// From a number to its sequence.
    shift: u64,
    what: String,
}

impl Race<'_> {
    fn run(&self, mut random: Random) {
        for _ in 0..RACE_DEEDS {
            let name = random.pick(self.keys);
            match random.below(20) {
                0..8 => self.put(name, random.pick(&[0, 100, 5000, 30_000])),
                8..13 => self.get(name),
                13..15 => self.delete(name, random.is_one_in(2)),
                15 => {
                    let floor = Floor::Namespace(Namespace::parse("a").unwrap());
                    let (covered, number) = (covered(&floor), self.next());
                    let is_durable = self.disk.raise(floor, number.wrapping_add(self.shift)).is_ok();
                    self.die(covered, number, is_durable);
                }
                16 => {
                    let number = self.next();
                    self.disk.forget(KeyRef::parse(name).unwrap(), number.wrapping_add(self.shift));
                }
                17 => drop(self.disk.flush()),
                18 => self.disk.shared.hurry(),
                _ => self.show(),
            }
        }
    }

    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn say(&self, promise: Promise) {
        let mut promises = self.promises.lock();
        self.fuse.tape().say(self.said + promises.len());
        promises.push(promise);
    }

    fn put(&self, name: &'static str, bytes: usize) {
        let turn = self.turns[name].lock();
        let number = self.next();
        let body = body_of(name, number, bytes);
        let sequence = number.wrapping_add(self.shift);
        self.disk.put(&entry_of(name, &body, sequence, Timestamp::NEVER, self.now));
        self.put[name].fetch_max(number, Ordering::SeqCst);
        drop(turn);
        let (until, moved_from) = (Timestamp::NEVER, None);
        self.say(Promise::Put(Put { name, number, until, moved_from, is_kept: false }));
    }

    fn delete(&self, name: &'static str, is_buried_first: bool) {
        let (key, number) = ([Key::parse(name).unwrap()], self.next());
        let sequence = number.wrapping_add(self.shift);
        if is_buried_first {
            self.disk.bury(&key, sequence);
            self.dead[name].fetch_max(number, Ordering::SeqCst);
        }
        let is_durable = self.disk.delete(&key, sequence).is_ok();
        self.die(vec![name], number, is_durable);
    }

    fn die(&self, names: Vec<&'static str>, number: u64, is_durable: bool) {
        for name in &names {
            self.dead[name].fetch_max(number, Ordering::SeqCst);
        }
        if is_durable {
            self.say(Promise::Dead(names, number));
        }
    }

    /// Of each key, below what nothing may be found any more from now on.
    fn least(&self) -> BTreeMap<&'static str, u64> {
        let least = |name: &&'static str| {
            let numbers = [&self.put, &self.dead].map(|of| of[*name].load(Ordering::SeqCst));
            (*name, numbers[0].max(numbers[1]))
        };
        KEYS.iter().map(least).collect()
    }

    fn hold(&self, entry: &Entry, least: &BTreeMap<&'static str, u64>) {
        let (name, number) = write_of(entry, &self.what);
        assert!(number >= least[name], "{name} {number} is older than {}, {}", least[name], self.what);
    }

    fn get(&self, name: &'static str) {
        let least = self.least();
        if let Some(entry) = self.disk.get(KeyRef::parse(name).unwrap()) {
            self.hold(&entry, &least);
        }
    }

    fn show(&self) {
        let least = self.least();
        self.disk.page(0, 1000).entries.values().for_each(|entry| self.hold(entry, &least));
        self.disk.walk(1000, &mut |entry| self.hold(entry, &least));
        self.disk.recover(&mut |entry, is_last| {
            let turn = self.turns[write_of(entry, &self.what).0].lock();
            if is_last() {
                // Deaths are looked after by who recovers.
                let (name, number) = write_of(entry, &self.what);
                let put = self.put[name].load(Ordering::SeqCst);
                assert!(number >= put, "{name} {number} is recovered over {put}, {}", self.what);
            }
            drop(turn);
            ControlFlow::Continue(())
        });
    }
}

const RACE_DEEDS: u64 = 60;

impl Life<'_> {
    fn random(&mut self) -> &mut Random {
        &mut self.story.random
    }

    fn note(&mut self, line: String) {
        self.story.note(line);
    }

    fn say(&mut self, promise: Promise) {
        self.live.take(&promise);
        self.fuse.tape().say(self.promises.len());
        self.promises.push(promise);
    }

    fn next(&mut self) -> u64 {
        self.story.number += 1;
        self.story.number
    }

    fn sequence_of(&self, number: u64) -> u64 {
        self.first + (number - self.before)
    }

    fn name(&mut self) -> &'static str {
        let keys = self.story.keys;
        self.random().pick(keys)
    }

    fn names(&mut self) -> Vec<&'static str> {
        let most = self.random().pick(&[1, 1, 3, 40]);
        let names: BTreeSet<&'static str> = (0..=self.random().below(most)).map(|_| self.name()).collect();
        names.into_iter().collect()
    }

    fn go_on(&mut self) {
        if self.fails_for > 0 {
            self.fails_for -= 1;
            if self.fails_for == 0 {
                self.fuse.set(u64::MAX);
                self.fuse.set_full(false);
                self.note("the disk is well again".to_owned());
            }
        }
        let sum = self.story.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random().below(sum);
        let deed = self.story.weights.iter().find(|(_, weight)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        let deed = deed.map_or(Deed::Get, |(deed, _)| *deed);
        self.do_deed(deed);
    }

    fn do_deed(&mut self, deed: Deed) {
        match deed {
            Deed::Put => self.put_some(1),
            Deed::PutMany => self.put_some(20),
            Deed::PutAndFlushEach => self.put_and_flush_each(),
            Deed::PutLate => self.put_late(),
            Deed::Touch => self.touch(),
            Deed::Get => (0..3).for_each(|_| drop(self.get_one())),
            Deed::Forget => {
                let (name, number) = (self.name(), self.next());
                self.disk.forget(KeyRef::parse(name).unwrap(), self.sequence_of(number));
                self.note(format!("forget {name} {number}"));
                self.forgotten.insert(name, number);
                self.say(Promise::Doubted(vec![name]));
            }
            Deed::Delete => self.delete(),
            Deed::Raise => self.raise(),
            Deed::Bury => {
                let (names, number) = (self.names(), self.next());
                self.bury(&names, number);
                self.say(Promise::Doubted(names));
            }
            Deed::Cool => self.disk.cool(),
            Deed::Use => {
                let (name, heat) = (self.name(), self.random().pick(&[1, 127, 128, 255]));
                self.disk.note_use(KeyRef::parse(name).unwrap(), heat);
            }
            Deed::Flush => self.flush(),
            Deed::Hurry => {
                self.note("hurry".to_owned());
                self.disk.shared.hurry();
            }
            Deed::Tidy => {
                self.note("tidy".to_owned());
                if self.disk.tidy().is_ok() {
                    self.say(Promise::Flushed);
                }
            }
            Deed::Bound => {
                let bytes = self.random().pick(&BOUNDS);
                self.note(format!("bound {bytes}"));
                self.had_faults |= bytes != self.story.options.bytes_max;
                self.disk.set_bytes_max(bytes);
            }
            Deed::Turn => {
                let seconds = 1 + self.random().below(20);
                self.clock.advance(Duration::from_secs(seconds));
                self.note(format!("turn {seconds}"));
                self.say(Promise::Turned(self.clock.now()));
            }
            Deed::Fail => self.fail(),
            Deed::Misread => {
                self.had_faults = true;
                self.note("misread".to_owned());
                self.disk.shared.report(Fault::Failed("a read failed".to_owned()));
            }
            Deed::Page => self.page(),
            Deed::Race => self.race(),
        }
    }

    /// Several threads at once.
    fn race(&mut self) {
        self.note("race".to_owned());
        self.had_race = true;
        let numbers = |of: &BTreeMap<&'static str, u64>| -> BTreeMap<&'static str, AtomicU64> {
            KEYS.into_iter().map(|name| (name, AtomicU64::new(of.get(name).copied().unwrap_or(0)))).collect()
        };
        let race = Race {
            disk: &self.disk,
            fuse: &self.fuse,
            keys: &self.story.keys[..4],
            turns: KEYS.into_iter().map(|name| (name, Mutex::default())).collect(),
            put: numbers(&self.live.put),
            dead: numbers(&self.buried),
            number: AtomicU64::new(self.story.number),
            said: self.promises.len(),
            promises: Mutex::default(),
            now: self.clock.now(),
            shift: self.first.wrapping_sub(self.before),
            what: format!("in a race, seed {}", self.story.seed),
        };
        let seeds = [self.story.random.next(), self.story.random.next(), self.story.random.next()];
        std::thread::scope(|scope| {
            for seed in seeds {
                let race = &race;
                scope.spawn(move || race.run(Random(seed)));
            }
        });
        self.story.number = race.number.load(Ordering::SeqCst);
        let dead: Vec<_> = race.dead.iter().map(|(name, at)| (*name, at.load(Ordering::SeqCst))).collect();
        let promises = race.promises.into_inner();
        self.buried.extend(dead);
        for promise in promises {
            if let Promise::Put(put) = &promise {
                self.put.insert(put.name);
            }
            self.live.take(&promise);
            self.promises.push(promise);
        }
        self.late.clear();
    }

    fn fail(&mut self) {
        (self.had_faults, self.fails_for) = (true, 1 + self.random().below(15));
        let (writes, is_full) = (self.random().below(40), self.random().is_one_in(3));
        self.fuse.set(writes);
        self.fuse.set_full(is_full);
        self.note(format!("the disk fails after {writes} writes, marks {is_full}"));
    }

    fn until(&mut self) -> Timestamp {
        let now = self.clock.now();
        let brief = self.story.brief_in_8;
        match self.random().below(8) {
            at if at < brief => now.after(Duration::from_secs(self.random().below(30))),
            6 => now.after(Duration::from_secs(1000)),
            _ => Timestamp::NEVER,
        }
    }

    fn put_some(&mut self, most: u64) {
        for _ in 0..=self.random().below(most) {
            let (name, most) = (self.name(), self.story.body_bytes_max);
            let bytes = match self.random().below(8) {
                0 => self.random().pick(&[0, 200_000, 600_000]).min(most * 8),
                1..3 => self.random().below(most),
                _ => self.random().below(most / 8),
            };
            self.put_new(name, bytes);
        }
    }

    /// Small groups, at best so many that the next batch writes them anew; and then often a batch that does not fit.
    fn put_and_flush_each(&mut self) {
        let small = |disk: &Disk| {
            let catalog = disk.shared.catalog.read();
            catalog.groups().filter(|group| group.live > 0).count()
        };
        let from = usize::try_from(self.random().below(40)).unwrap();
        for name in self.story.keys.iter().cycle().skip(from).take(45) {
            let bytes = self.random().below(600);
            self.put_new(name, bytes);
            self.flush();
            if small(&self.disk) > SMALL_GROUPS_MAX {
                break;
            }
        }
        if !self.random().is_one_in(3) {
            self.put_some(40);
        }
    }

    fn put_new(&mut self, name: &'static str, bytes: u64) {
        let number = self.next();
        self.put_numbered(name, bytes, number);
    }

    fn put_numbered(&mut self, name: &'static str, bytes: u64, number: u64) {
        let (body, until) = (body_of(name, number, usize::try_from(bytes).unwrap()), self.until());
        let entry = entry_of(name, &body, self.sequence_of(number), until, self.clock.now());
        self.put(name, number, &entry, None);
    }

    fn put(&mut self, name: &'static str, number: u64, entry: &Entry, moved_from: Option<Timestamp>) {
        let before = self.disk.status();
        self.disk.put(entry);
        let after = self.disk.status();
        let until = entry.expires_at();
        let is_forgotten = self.forgotten.get(name).is_some_and(|below| number < *below);
        let fits = entry.weight() < KEPT_BYTES_MAX && !is_forgotten;
        let is_kept = fits && (before.dropped, before.refused) == (after.dropped, after.refused);
        let (bytes, until_ms) = (entry.weight(), until.as_millis());
        self.note(format!("put {name} {number} of {bytes} until {until_ms}, kept {is_kept}"));
        self.put.insert(name);
        self.say(Promise::Put(Put { name, number, until, moved_from, is_kept }));
    }

    /// A write that began before other things happened; only what was deleted meanwhile may overtake it.
    fn put_late(&mut self) {
        if self.late.is_empty() || self.random().is_one_in(2) {
            let (name, number) = (self.name(), self.next());
            self.late.push((name, number));
            return;
        }
        let (name, number) = self.late.remove(0);
        if self.live.put.get(name).is_none_or(|last| *last < number) {
            self.put_numbered(name, 50, number);
        }
    }

    /// The same write with another deadline.
    fn touch(&mut self) {
        let Some((name, number, entry)) = self.get_one() else { return };
        let until = self.until();
        self.put(name, number, &entry.until(until), Some(entry.expires_at()));
    }

    fn get_one(&mut self) -> Option<(&'static str, u64, Entry)> {
        let name = self.name();
        let key = KeyRef::parse(name).unwrap();
        let may_be_there = self.disk.may_contain(key);
        let found = self.disk.get(key);
        assert!(found.is_none() || may_be_there, "{name} was said not to be there, seed {}", self.story.seed);
        let Some(entry) = found else {
            self.miss(name);
            return None;
        };
        let (found, number) = self.hold(&entry, "got");
        assert_eq!(found, name, "seed {}", self.story.seed);
        Some((name, number, entry))
    }

    fn hold(&self, entry: &Entry, how: &str) -> (&'static str, u64) {
        let what = format!("{how}, seed {}", self.story.seed);
        let (name, number) = self.live.hold_of(entry, true, &self.live, &what);
        let buried = self.buried.get(name).copied().unwrap_or(0);
        assert!(number >= buried, "{name} came back from the dead, {what}");
        if let Some((last, deadlines)) = self.live.deadlines.get(name)
            && *last == number
            && self.put.contains(name)
        {
            assert_eq!(deadlines.last(), Some(&entry.expires_at()), "{name} has an earlier deadline, {what}");
        }
        (name, number)
    }

    /// There is nothing under a key.
    fn miss(&mut self, name: &'static str) {
        if !self.live.has(name) || self.is_lossy(&self.disk.shared) {
            return;
        }
        // A batch may be under way that gives something up: afterwards it has been counted.
        let tidied = self.disk.tidy();
        self.note(format!("{name} is missing, tidied {tidied:?}"));
        let is_there = self.disk.get(KeyRef::parse(name).unwrap()).is_some();
        let is_lossy = self.is_lossy(&self.disk.shared);
        assert!(is_there || is_lossy, "{name} is lost in the running tier, seed {}", self.story.seed);
    }

    /// Whether anything but the operations may have taken records out.
    fn is_lossy(&self, shared: &Shared) -> bool {
        let has_gone = self.fuse.tape().mark("cache.redb", false) != self.bulk;
        self.had_faults
            || self.had_race
            || shared.counts.evicted.load(Ordering::Relaxed) > 0
            || shared.is_discarded()
            || has_gone
            || shared.has_changed()
    }

    fn bury(&mut self, names: &[&'static str], number: u64) {
        let keys: Vec<Key> = names.iter().map(|name| Key::parse(*name).unwrap()).collect();
        self.disk.bury(&keys, self.sequence_of(number));
        for name in names {
            self.buried.insert(name, number);
        }
        self.note(format!("bury {names:?} {number}"));
    }

    fn delete(&mut self) {
        let (names, number) = (self.names(), self.next());
        if self.random().is_one_in(2) {
            self.bury(&names, number);
        }
        let keys: Vec<Key> = names.iter().map(|name| Key::parse(*name).unwrap()).collect();
        let deleted = self.disk.delete(&keys, self.sequence_of(number));
        self.note(format!("delete {names:?} {number}, {:?}", deleted.is_ok()));
        self.die(names, number, deleted.is_ok());
    }

    fn raise(&mut self) {
        let floor = match self.random().below(8) {
            0..3 => Floor::Namespace(Namespace::parse(self.random().pick(&["a", "b", "c", "d"])).unwrap()),
            3..5 => Floor::Tag(Tag::parse("t").unwrap()),
            5..7 => Floor::Pattern(Pattern::parse(self.random().pick(&["a:[1-4]", "*:1", "c*"])).unwrap()),
            _ => Floor::All,
        };
        let (covered, number) = (covered(&floor), self.next());
        if self.random().is_one_in(2) {
            self.disk.mark(floor.clone(), self.sequence_of(number));
        }
        let raised = self.disk.raise(floor.clone(), self.sequence_of(number));
        self.note(format!("raise {floor:?} {number}, {:?}", raised.is_ok()));
        self.die(covered, number, raised.is_ok());
    }

    fn die(&mut self, names: Vec<&'static str>, number: u64, is_durable: bool) {
        for name in &names {
            self.buried.insert(name, number);
        }
        assert!(is_durable || self.had_faults, "not durable, seed {}", self.story.seed);
        self.say(if is_durable { Promise::Dead(names, number) } else { Promise::Doubted(names) });
    }

    fn flush(&mut self) {
        let flushed = self.disk.flush();
        self.note(format!("flush, {:?}", flushed.as_ref().err().map(crate::error::Error::message)));
        if flushed.is_ok() {
            self.say(Promise::Flushed);
        }
    }

    /// Everything by a page, and everything that could be recovered.
    fn page(&mut self) {
        self.note("page".to_owned());
        let page = self.disk.page(0, 1000);
        let mut shown: Vec<Entry> = page.entries.into_values().collect();
        self.disk.recover(&mut |entry, is_last| {
            shown.extend(is_last().then(|| entry.clone()));
            ControlFlow::Continue(())
        });
        for entry in shown {
            self.hold(&entry, "shown");
        }
    }

    fn end(mut self, end: End) {
        self.note(format!("--- {end:?}"));
        if end == End::Close {
            if self.random().is_one_in(2) {
                self.fuse.set(u64::MAX);
                self.fuse.set_full(false);
            }
            let closed = self.disk.close();
            if closed.is_ok() {
                self.say(Promise::Flushed);
            }
        }
        let acts = self.fuse.tape().end();
        let status = self.disk.status();
        let shared = Arc::clone(&self.disk.shared);
        self.fuse.set(u64::MAX);
        self.fuse.set_full(false);
        // What it still writes is in another life than the one told here.
        let closed = self.disk.close();
        let is_lossy = self.is_lossy(&shared);
        let Self { story, promises, had_faults, .. } = self;
        drop((closed, shared));
        story.demands.is_lossy = is_lossy;
        story.tally.lives += 1;
        story.tally.whole += u64::from(!is_lossy);
        story.tally.faults += u64::from(had_faults);
        story.tally.dropped += status.dropped;
        story.tally.evicted += status.evicted;
        story.tally.expired += status.expired;
        story.tally.refused += status.refused;
        let life = story.tally.lives;
        story.crash(&acts, &promises, life);
        story.demands.crash(end != End::PowerCut);
        story.folder = folder();
        let path = story.folder.path();
        let random = &mut story.random;
        story.files = match end {
            End::Close | End::Kill => story.files.after_kill(path),
            End::PowerCut => story.files.after_power_cut(path, || tear(random.next())),
        };
    }
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

#[test]
fn after_random_histories_and_crashes_nothing_acknowledged_is_undone() {
    let first = number_from("HIFZ_CRASH_SEED").unwrap_or(0);
    let count = number_from("HIFZ_CRASHES").unwrap_or(STORIES);
    let mut all = Tally::default();
    for seed in first..first + count {
        let mut story = Story::new(seed);
        story.tell();
        let tally = std::mem::take(&mut story.tally);
        all.crashes += tally.crashes;
        all.dropped += tally.dropped;
        all.evicted += tally.evicted;
        all.expired += tally.expired;
        all.refused += tally.refused;
        all.faults += tally.faults;
        all.lives += tally.lives;
        all.whole += tally.whole;
    }
    if count > STORIES {
        eprintln!("{count} stories from seed {first}: {all:?}");
    }
    let tried = [all.dropped, all.evicted, all.expired, all.refused, all.faults, all.whole];
    assert!(first > 0 || count < STORIES || tried.iter().all(|tried| *tried > 0), "{all:?}");
}

const STORIES: u64 = 20;

const CRASHES_A_LIFE: u64 = 10;

const LINES_MAX: usize = 60;

/// In the smallest file a quarter of what all may take.
const KEPT_BYTES_MAX: usize = 150_000;
