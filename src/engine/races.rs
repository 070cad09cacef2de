//! What several threads do to one key at once, under thousands of schedules: the whole engine in memory, from its public
//! calls down to the locks of a shard and the count of an entry. See `sync/scheduled.rs`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shuttle::thread::{JoinHandle, spawn};

use super::remembered::Remembered;
use super::{Cache, Policy, Selector, SetOptions, Task};
use crate::clock::{Clock, Timestamp};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind};
use crate::key::{Key, KeyRef, Namespace, Tag};
use crate::pattern::Pattern;
use crate::source::{Loaded, Source, from_fn};
use crate::sync::scheduled::{interleaved, stopped_at_every_point, stopped_twice, wait_for};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};

/// What stands in the system of record, and how often it was asked. Nought is: there is none.
#[derive(Debug, Default)]
struct Record {
    value: AtomicU64,
    loads: AtomicUsize,
}

impl Record {
    fn new(value: u64) -> Arc<Self> {
        Arc::new(Self { value: AtomicU64::new(value), loads: AtomicUsize::new(0) })
    }

    /// Reads the record, and takes its time to bring what it read.
    fn source(self: &Arc<Self>) -> impl Source + Clone + 'static {
        let record = self.clone();
        from_fn("record", move |_: Key| {
            let record = record.clone();
            async move {
                let value = record.value.load(Ordering::SeqCst);
                record.loads.fetch_add(1, Ordering::SeqCst);
                Ok((value > 0).then(|| Loaded::new(value.to_le_bytes()).tag("t")))
            }
        })
    }
}

/// A cache in memory whose loads are threads of the schedule; `takes` says which of them are carried on at all.
fn open(entries_max: Option<u64>, takes: impl Fn(usize) -> bool + Send + Sync + 'static) -> Cache {
    let begun = AtomicUsize::new(0);
    let carry = move |task: Task| {
        let number = begun.fetch_add(1, Ordering::SeqCst);
        let is_taken = takes(number);
        spawn(move || if is_taken { wait_for(task) } else { drop(task) });
    };
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let policy = Policy::default().negative_ttl(Duration::from_secs(30));
    let cache = Cache::builder().memory(1 << 20).max_entries(entries_max).clock(clock).spawner(carry);
    cache.default_policy(policy).open().unwrap()
}

fn key() -> KeyRef<'static> {
    KeyRef::parse("a:1").unwrap()
}

fn value_of(entry: &Entry) -> u64 {
    u64::from_le_bytes(entry.body().try_into().unwrap())
}

fn load(cache: &Cache, record: &Arc<Record>) -> u64 {
    let answer = wait_for(cache.get_or_load(key(), &record.source())).unwrap();
    answer.entry.map_or(0, |entry| value_of(&entry))
}

fn get(cache: &Cache) -> Option<u64> {
    cache.get(key()).unwrap().map(|entry| value_of(&entry))
}

fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// The ways in which a changed record is made known.
fn announce(cache: &Cache, way: usize) {
    let selector = match way {
        0 => Selector::Keys(vec![key().to_key()]),
        1 => Selector::Namespace(Namespace::parse("a").unwrap()),
        2 => Selector::Pattern(Pattern::parse("?:1").unwrap()),
        3 => Selector::Tags(vec![Tag::parse("t").unwrap()]),
        _ => Selector::All,
    };
    cache.invalidate(&selector).unwrap();
}

/// Two loads race with one change of the record, made known in one way, and a third comes after it.
fn race_loads_with_a_change(before: u64, way: usize) {
    let (cache, record) = (open(None, |_| true), Record::new(before));
    let loads = [(); 2].map(|()| begin_load(&cache, &record));
    record.value.store(2, Ordering::SeqCst);
    announce(&cache, way);
    assert_ne!(get(&cache), Some(before), "read after the change was made known");
    assert_eq!(load(&cache, &record), 2, "loaded after the change was made known");
    for seen in join(loads) {
        assert!(seen == before || seen == 2);
    }
    assert_eq!(load(&cache, &record), 2, "put back by a load that began before");
    cache.close().unwrap();
}

/// One load races with a change, and nobody else writes over what it may put back.
fn race_a_load_with_a_change(before: u64, way: usize) {
    let (cache, record) = (open(None, |_| true), Record::new(before));
    let loading = begin_load(&cache, &record);
    record.value.store(2, Ordering::SeqCst);
    announce(&cache, way);
    assert_ne!(get(&cache), Some(before), "read after the change was made known");
    join([loading]);
    assert_eq!(load(&cache, &record), 2, "put back by a load that began before");
    cache.close().unwrap();
}

fn begin_load(cache: &Cache, record: &Arc<Record>) -> JoinHandle<u64> {
    let (cache, record) = (cache.clone(), record.clone());
    spawn(move || load(&cache, &record))
}

#[test]
fn no_load_that_began_before_an_invalidation_is_served_after_it() {
    for way in 0..5 {
        interleaved(SCHEDULES, move || race_loads_with_a_change(1, way));
        // Keys and patterns are taken out of memory one by one, for the others one number is raised.
        let seconds = if [0, 2].contains(&way) { SECONDS } else { 0 };
        stopped_twice(seconds, move || race_a_load_with_a_change(1, way));
    }
}

#[test]
fn that_there_was_nothing_is_forgotten_by_an_invalidation_too() {
    for way in 0..5 {
        interleaved(SCHEDULES, move || race_loads_with_a_change(0, way));
    }
    for way in [0, 2] {
        stopped_at_every_point(move || race_a_load_with_a_change(0, way));
    }
}

#[test]
fn no_load_that_began_before_a_write_takes_its_place_nor_comes_back_once_it_is_evicted() {
    interleaved(SCHEDULES, || {
        // Room for one entry: what is written under another key evicts this one.
        let (cache, record) = (open(Some(1), |_| true), Record::new(1));
        let loading = begin_load(&cache, &record);
        record.value.store(2, Ordering::SeqCst);
        cache.set(key(), 2_u64.to_le_bytes()).unwrap();
        assert_ne!(get(&cache), Some(1), "read after the write");
        cache.set("b:1", 3_u64.to_le_bytes()).unwrap();
        assert_eq!(load(&cache, &record), 2, "loaded after the write");
        join([loading]);
        assert_ne!(get(&cache), Some(1), "put back by a load that began before");
        cache.close().unwrap();
    });
}

#[test]
fn a_load_never_takes_the_place_of_what_was_written_while_it_was_under_way() {
    stopped_at_every_point(|| {
        // The record says one thing all the while, the cache is told another.
        let (cache, record) = (open(None, |_| true), Record::new(1));
        let loading = begin_load(&cache, &record);
        cache.set(key(), 2_u64.to_le_bytes()).unwrap();
        assert_eq!(get(&cache), Some(2), "read after the write");
        join([loading]);
        assert_eq!(get(&cache), Some(2), "replaced by a load that began before");
        cache.close().unwrap();
    });
}

#[test]
fn what_supersedes_a_load_has_the_absence_it_found_forgotten() {
    stopped_at_every_point(|| {
        let (absent, is_superseded) = (Arc::new(Remembered::default()), Arc::new(AtomicBool::new(false)));
        let (now, until) = (Timestamp::from_millis(1), Timestamp::from_millis(9));
        let loading = {
            let (absent, is_superseded) = (absent.clone(), is_superseded.clone());
            spawn(move || absent.remember(key(), now, until, || !is_superseded.load(Ordering::SeqCst)))
        };
        is_superseded.store(true, Ordering::SeqCst);
        absent.forget(key());
        join([loading]);
        assert!(!absent.holds(key(), now));
    });
}

#[test]
fn however_many_ask_the_source_is_asked_once() {
    interleaved(SCHEDULES, || {
        let (cache, record) = (open(None, |_| true), Record::new(7));
        let asking = [(); 3].map(|()| begin_load(&cache, &record));
        assert_eq!(join(asking), [7; 3]);
        assert_eq!(record.loads.load(Ordering::SeqCst), 1);
        cache.close().unwrap();
    });
}

#[test]
fn a_load_that_dies_leaves_nobody_waiting() {
    interleaved(SCHEDULES, || {
        let (cache, record) = (open(None, |number| number > 1), Record::new(7));
        let asking = [(); 3].map(|()| begin_load(&cache, &record));
        assert_eq!(join(asking), [7; 3]);
        cache.close().unwrap();
    });
}

#[test]
fn what_is_read_never_goes_back_in_time() {
    interleaved(SCHEDULES, || {
        let cache = open(Some(2), |_| true);
        // The newest value that a write has acknowledged, and below which nothing may be read since a deletion.
        let (acknowledged, floor) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writer = {
            let (cache, acknowledged, floor) = (cache.clone(), acknowledged.clone(), floor.clone());
            spawn(move || {
                for value in 1..5_u64 {
                    cache.set(key(), value.to_le_bytes()).unwrap();
                    acknowledged.store(value, Ordering::SeqCst);
                    if value % 2 == 0 {
                        announce(&cache, usize::try_from(value / 2 - 1).unwrap());
                        floor.store(value + 1, Ordering::SeqCst);
                    }
                }
            })
        };
        let evictor = {
            let cache = cache.clone();
            spawn(move || ["b:1", "b:2", "b:3"].map(|other| cache.set(other, "x").unwrap()))
        };
        let (mut before, mut is_gone) = (0, false);
        for _ in 0..6 {
            let least = acknowledged.load(Ordering::SeqCst).max(floor.load(Ordering::SeqCst));
            match get(&cache) {
                None => is_gone = true,
                Some(value) => {
                    assert!(value >= least, "{value} read, {least} was acknowledged before");
                    assert!(value > before || value == before && !is_gone, "{value} read after {before}");
                    (before, is_gone) = (value, false);
                }
            }
        }
        join([writer]);
        join([evictor]);
        cache.close().unwrap();
    });
}

#[test]
fn a_moved_deadline_never_brings_back_what_was_written_over_or_deleted() {
    stopped_at_every_point(|| {
        let cache = open(None, |_| true);
        cache.set(key(), 1_u64.to_le_bytes()).unwrap();
        let touching = {
            let cache = cache.clone();
            spawn(move || cache.touch(key()).unwrap())
        };
        cache.set_with(key(), 2_u64.to_le_bytes(), &SetOptions::new()).unwrap();
        assert_eq!(get(&cache), Some(2));
        cache.delete(key()).unwrap();
        assert_eq!(get(&cache), None);
        join([touching]);
        assert_eq!(get(&cache), None);
        cache.close().unwrap();
    });
}

#[test]
fn while_a_breaker_is_half_open_one_load_tries_the_source() {
    interleaved(SCHEDULES, || {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let gate = super::gate::Gates::default().of("s");
        let policy = Policy::default();
        let down = Error::new(ErrorKind::SourceUnavailable, "down");
        for _ in 0..5 {
            gate.admit(clock.now()).unwrap().failed(clock.now(), &down, &policy);
        }
        clock.advance(Duration::from_mins(1));
        let trying = [(); 3].map(|()| {
            let (gate, now) = (gate.clone(), clock.now());
            spawn(move || gate.admit(now).ok())
        });
        let passes: Vec<_> = join(trying).into_iter().flatten().collect();
        assert_eq!(passes.len(), 1);
        assert!(passes.iter().all(super::gate::Pass::is_probe));
    });
}

#[test]
fn every_one_of_several_writers_leaves_its_own_keys_whole() {
    interleaved(SCHEDULES, || {
        let cache = open(None, |_| true);
        let seen = Arc::new(Mutex::new(HashSet::new()));
        let writers = [0, 1, 2].map(|writer| {
            let (cache, seen) = (cache.clone(), seen.clone());
            spawn(move || {
                // Each meets namespaces for the first time, some of them beside another.
                for name in
                    [format!("n{writer}:1"), "shared:1".to_owned(), format!("n{}:2", (writer + 1) % 3)]
                {
                    cache.set(&*name, name.as_bytes()).unwrap();
                    seen.lock().insert(name);
                }
            })
        });
        join(writers);
        for name in seen.lock().iter() {
            assert_eq!(cache.get(&**name).unwrap().unwrap().body(), name.as_bytes());
        }
        let stats = cache.stats();
        assert_eq!(stats.entries, 7);
        assert_eq!(stats.namespaces.iter().map(|namespace| namespace.held.entries).sum::<u64>(), 7);
        cache.close().unwrap();
    });
}

/// Drawn at random for each test and way.
const SCHEDULES: usize = 200;

/// Second stops for each first one.
const SECONDS: usize = 4;
