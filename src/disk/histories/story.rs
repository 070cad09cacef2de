//! A story: what a seed makes of one directory, and the crashes that are looked at after each life.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::life::Life;
use super::{Random, Tally};
use crate::clock::Clock;
use crate::disk::backend::Fuse;
use crate::disk::crash::{Crash, Demands, KEYS, NOW, Promise, folder, open_at, tear};
use crate::disk::tape::{Files, Noted};
use crate::disk::{DiskOptions, Durability};

#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
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

pub(super) const DEEDS: [Deed; 21] = [
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
pub(super) enum End {
    Close,
    Kill,
    PowerCut,
}

/// The lives of one directory.
pub(super) struct Story {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) options: DiskOptions,
    pub(super) keys: &'static [&'static str],
    pub(super) body_bytes_max: u64,
    /// How many of eight writes last for some seconds only.
    pub(super) brief_in_8: u64,
    pub(super) weights: Vec<(Deed, u64)>,
    pub(super) number: u64,
    pub(super) files: Files,
    pub(super) demands: Demands,
    pub(super) folder: tempfile::TempDir,
    /// The last operations.
    pub(super) lines: VecDeque<String>,
    pub(super) tally: Tally,
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

pub(super) const BOUNDS: [u64; 6] = [3 << 19, 2 << 20, 3 << 20, 4 << 20, 6 << 20, 16 << 20];

impl Story {
    pub(super) fn new(seed: u64) -> Self {
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

    pub(super) fn tell(&mut self) {
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

    pub(super) fn note(&mut self, line: String) {
        self.lines.push_back(line);
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
    }

    /// Looks at crashes after some of the acts of a life, and leaves everything as it was after the last.
    pub(super) fn crash(&mut self, acts: &[Noted], promises: &[Promise], life: u64) {
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

const CRASHES_A_LIFE: u64 = 10;

const LINES_MAX: usize = 60;
