//! One life of a directory: operations on the running tier, and what no answer may be.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Random;
use super::race::Race;
use super::story::{BOUNDS, Deed, End, Story};
use crate::clock::{Clock, Timestamp};
use crate::disk::backend::{Fault, Fuse};
use crate::disk::crash::{Demands, KEYS, Promise, Put, body_of, covered, entry_of, folder, tear};
use crate::disk::state::Shared;
use crate::disk::tidy::SMALL_GROUPS_MAX;
use crate::disk::{Disk, Floor};
use crate::entry::Entry;
use crate::key::{Key, KeyRef, Namespace, Tag};
use crate::pattern::Pattern;

/// The tier from an open to its end.
pub(super) struct Life<'s> {
    pub(super) story: &'s mut Story,
    pub(super) disk: Disk,
    pub(super) fuse: Fuse,
    pub(super) clock: Clock,
    pub(super) promises: Vec<Promise>,
    /// What is demanded of the running tier.
    pub(super) live: Demands,
    /// Deaths that hold in this process, whether they are durable or not.
    pub(super) buried: BTreeMap<&'static str, u64>,
    /// Up to which numbers what comes late is forgotten.
    pub(super) forgotten: BTreeMap<&'static str, u64>,
    /// What was put in this life.
    pub(super) put: BTreeSet<&'static str>,
    /// Writes that have begun and are not put yet.
    pub(super) late: Vec<(&'static str, u64)>,
    /// The sequence that comes after the number `before`.
    pub(super) first: u64,
    pub(super) before: u64,
    /// The bulk's mark on the tape.
    pub(super) bulk: String,
    /// How many operations the disk still fails for.
    pub(super) fails_for: u64,
    /// The disk failed, or the file was given another bound.
    pub(super) had_faults: bool,
    /// Several threads did what is not known in its order.
    pub(super) had_race: bool,
}

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

    pub(super) fn go_on(&mut self) {
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

    pub(super) fn end(mut self, end: End) {
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

/// In the smallest file a quarter of what all may take.
const KEPT_BYTES_MAX: usize = 150_000;
