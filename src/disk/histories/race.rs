//! Several threads at once, of whose order nothing is known but what has been acknowledged.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Random;
use crate::clock::Timestamp;
use crate::disk::backend::Fuse;
use crate::disk::crash::{KEYS, Promise, Put, body_of, covered, entry_of, write_of};
use crate::disk::{Disk, Floor};
use crate::entry::Entry;
use crate::key::{Key, KeyRef, Namespace};

/// What several threads do at once to a few keys. As the callers of the tier do, puts of one key take turns, and their
/// numbers in it.
pub(super) struct Race<'r> {
    pub(super) disk: &'r Disk,
    pub(super) fuse: &'r Fuse,
    pub(super) keys: &'static [&'static str],
    pub(super) turns: BTreeMap<&'static str, Mutex<()>>,
    /// What has been acknowledged of each key.
    pub(super) put: BTreeMap<&'static str, AtomicU64>,
    pub(super) dead: BTreeMap<&'static str, AtomicU64>,
    pub(super) number: AtomicU64,
    /// How many promises were given before.
    pub(super) said: usize,
    pub(super) promises: Mutex<Vec<Promise>>,
    pub(super) now: Timestamp,
    /// From a number to its sequence.
    pub(super) shift: u64,
    pub(super) what: String,
}

impl Race<'_> {
    pub(super) fn run(&self, mut random: Random) {
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
