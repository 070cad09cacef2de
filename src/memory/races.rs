//! The parts of the tier that several threads touch at once, under thousands of schedules. See `sync/scheduled.rs`.

use std::sync::Arc;

use shuttle::thread::{JoinHandle, spawn};

use super::counts::Counts;
use super::namespaces::Namespaces;
use super::{Cause, Cursor, Generations, Insertion, Limits, Memory, Verdict};
use crate::clock::{Clock, Timestamp};
use crate::entry::{Entry, Parts};
use crate::key::KeyRef;
use crate::sync::scheduled::{interleaved, stopped_at_every_point};
use crate::sync::{AtomicU64, Ordering};

fn entry(key: &str, tags: &[&str], sequence: u64) -> Entry {
    let (stored_at, expires_at) = (Timestamp::default(), Timestamp::from_millis(1000 + sequence));
    let parts = Parts { head: b"", body: &[7; 50], tags, stored_at, expires_at, sequence };
    Entry::new(KeyRef::parse(key).unwrap(), &parts)
}

fn tier(entries: Option<u64>) -> Arc<Memory> {
    let clock = Clock::manual(Timestamp::from_millis(1));
    Arc::new(Memory::new(Limits { bytes: 1 << 20, entries }, clock))
}

fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// That what the tier says it holds is what stands in it.
fn check_accounts(memory: &Memory) {
    let (mut entries, mut bytes) = (0, 0);
    let mut next = Some(Cursor::default());
    while let Some(at) = next {
        next = memory
            .scan(at, 1000, |entry| {
                entries += 1;
                bytes += entry.weight() as u64;
                Verdict::Keep
            })
            .next;
    }
    let usage = memory.usage();
    assert_eq!((usage.all.entries, usage.all.bytes), (entries, bytes));
    let by_namespace = memory.usage_by_namespace();
    assert_eq!(by_namespace.iter().map(|(_, held)| held.entries).sum::<u64>(), entries);
    let sums = memory.0.budget.sums();
    assert_eq!((sums.entries, sums.bytes), (i64::try_from(entries).unwrap(), i64::try_from(bytes).unwrap()));
    for (number, namespace) in memory.0.namespaces.all().filter(|(_, namespace)| namespace.class() != 0) {
        let held = memory.accounts().find(|account| account.number == number).unwrap().held;
        assert_eq!(namespace.bytes(), held.bytes, "of {}", namespace.name);
    }
}

#[test]
fn a_floor_that_is_raised_kills_for_whoever_looks_afterwards() {
    interleaved(SCHEDULES, || {
        let (generations, done) = (Arc::new(Generations::new()), Arc::new(AtomicU64::new(0)));
        let raisers = [0, 1].map(|kind| {
            let (generations, done) = (generations.clone(), done.clone());
            spawn(move || {
                if kind == 0 {
                    // Of another name, and higher: seeing it says nothing about the other.
                    generations.raise_tag("u", 9);
                    generations.raise_namespace("b", 9);
                } else {
                    generations.raise_namespace("a", 5);
                    done.store(1, Ordering::SeqCst);
                    generations.raise_tag("t", 7);
                    done.store(2, Ordering::SeqCst);
                }
            })
        });
        for _ in 0..4 {
            let raised = done.load(Ordering::SeqCst);
            assert!(raised < 1 || !generations.is_alive(&entry("a:1", &[], 4)));
            assert!(raised < 2 || !generations.is_alive(&entry("c:1", &["t"], 6)));
            assert!(generations.is_alive(&entry("c:1", &[], 6)));
        }
        join(raisers);
    });
}

#[test]
fn whoever_sees_the_latest_floor_sees_what_it_kills() {
    // Else the sweeper would look in vain, note that it has looked, and leave the dead for ever.
    interleaved(SCHEDULES, || {
        let generations = Arc::new(Generations::new());
        let raiser = {
            let generations = generations.clone();
            spawn(move || {
                generations.raise_namespace("a", 5);
                generations.raise_tag("t", 7);
            })
        };
        for _ in 0..3 {
            let latest = generations.latest();
            assert!(latest < 5 || !generations.is_alive(&entry("a:1", &[], 4)));
            assert!(latest < 7 || !generations.is_alive(&entry("c:1", &["t"], 6)));
        }
        join([raiser]);
    });
}

#[test]
fn a_namespace_that_several_meet_at_once_has_one_number() {
    interleaved(SCHEDULES, || {
        let namespaces = Arc::new(Namespaces::new());
        let meeting = ["ab", "ba", "aa"].map(|names| {
            let namespaces = namespaces.clone();
            spawn(move || names.bytes().map(|name| (name, namespaces.number(&[name]))).collect::<Vec<_>>())
        });
        for (name, number) in join(meeting).into_iter().flatten() {
            assert_eq!(namespaces.known(&[name]), Some(number));
            assert_eq!(namespaces.get(number).unwrap().name.as_bytes(), [name]);
        }
        assert_eq!(namespaces.all().count(), 3);
    });
}

#[test]
fn no_count_is_lost_where_threads_share_a_stripe() {
    interleaved(SCHEDULES, || {
        let counts = Arc::new(Counts::<2>::new());
        let counting = [1, 2, 3].map(|by| {
            let counts = counts.clone();
            spawn(move || {
                counts.add(7, 1, by);
                counts.add(40, 0, 1);
            })
        });
        join(counting);
        assert_eq!((counts.of(7), counts.of(40)), ([0, 6], [3, 0]));
    });
}

#[test]
fn accounts_hold_whatever_comes_and_goes_at_once() {
    interleaved(SCHEDULES, || {
        let memory = tier(Some(4));
        let inserting = [1, 2].map(|writer| {
            let memory = memory.clone();
            spawn(move || {
                for (place, name) in ["a:1", "b:1", "a:2", "a:3"].into_iter().enumerate() {
                    let sequence = u64::try_from(place).unwrap() * 10 + writer;
                    memory.insert(entry(name, &[], sequence), || true);
                }
            })
        });
        let taking = {
            let memory = memory.clone();
            spawn(move || {
                memory.remove(KeyRef::parse("a:1").unwrap());
                memory.sweep(Timestamp::from_millis(1012));
                memory.set_limits(Limits { bytes: 1 << 20, entries: Some(3) });
            })
        };
        join(inserting);
        join([taking]);
        check_accounts(&memory);
        assert!(memory.usage().all.entries <= 3);
    });
}

#[test]
fn a_share_that_is_set_meanwhile_counts_everything_of_its_namespace() {
    interleaved(SCHEDULES, || {
        let memory = tier(None);
        let inserting = [1, 2].map(|writer| {
            let memory = memory.clone();
            spawn(move || {
                for place in 0..3 {
                    memory.insert(entry(&format!("a:{}", place * writer), &[], writer), || true);
                    memory.insert(entry(&format!("b:{place}"), &[], writer), || true);
                }
            })
        });
        let weight = f64::from(u32::try_from(entry("a:0", &[], 1).weight()).unwrap());
        memory.set_share("a", weight * 2.5 / f64::from(1 << 20)).unwrap();
        join(inserting);
        check_accounts(&memory);
        assert_eq!(memory.usage_of("b").entries, 3, "others are left alone");
        assert!(memory.usage_of("a").entries <= 2);
    });
}

#[test]
fn a_slow_reader_does_not_make_older_what_another_has_used_since() {
    stopped_at_every_point(|| {
        let memory = tier(Some(2));
        for name in ["a:1", "a:2"] {
            memory.insert(entry(name, &[], 1), || true);
        }
        let get = |memory: &Memory, name| memory.get(KeyRef::parse(name).unwrap()).is_some();
        let reading = {
            let memory = memory.clone();
            spawn(move || get(&memory, "a:1"))
        };
        assert!(get(&memory, "a:2") && get(&memory, "a:1"));
        join([reading]);
        memory.insert(entry("a:3", &[], 1), || true);
        assert!(get(&memory, "a:1") && !get(&memory, "a:2"));
    });
}

#[test]
fn a_newer_write_stays_whatever_the_order_they_arrive_in() {
    interleaved(SCHEDULES, || {
        let memory = tier(None);
        let writing = [3, 1, 2].map(|sequence| {
            let memory = memory.clone();
            spawn(move || memory.insert(entry("a:1", &[], sequence), || true))
        });
        let became = join(writing);
        assert_eq!(memory.get(KeyRef::parse("a:1").unwrap()).unwrap().sequence(), 3);
        assert!(matches!(became[0], Insertion::Inserted | Insertion::Replaced));
        check_accounts(&memory);
    });
}

/// An entry whose body tells its sequence.
fn telling(sequence: u64) -> Entry {
    let (stored_at, expires_at) = (Timestamp::default(), Timestamp::from_millis(1000));
    let body = [u8::try_from(sequence).unwrap(); 50];
    let parts = Parts { head: b"", body: &body, tags: &[], stored_at, expires_at, sequence };
    Entry::new(KeyRef::parse("a:1").unwrap(), &parts)
}

fn check_told(entry: &Entry) -> u64 {
    let sequence = entry.sequence();
    assert_eq!(entry.key().as_str(), "a:1");
    assert!(entry.body().len() == 50 && entry.body().iter().all(|byte| u64::from(*byte) == sequence));
    sequence
}

#[test]
fn what_a_reader_holds_stays_as_it_was_while_others_write_over_its_key() {
    interleaved(SCHEDULES * 2, || {
        let memory = tier(None);
        let key = KeyRef::parse("a:1").unwrap();
        memory.insert(telling(1), || true);
        let (done, latest) = (Arc::new(AtomicU64::new(1)), 4);
        let writing = {
            let (memory, done) = (memory.clone(), done.clone());
            spawn(move || {
                for sequence in 2..=latest {
                    assert_eq!(memory.insert(telling(sequence), || true), Insertion::Replaced);
                    done.store(sequence, Ordering::SeqCst);
                }
            })
        };
        let reading = [true, false].map(|counts| {
            let (memory, done) = (memory.clone(), done.clone());
            spawn(move || {
                let mut held: Vec<(u64, Entry)> = Vec::new();
                for _ in 0..3 {
                    let acknowledged = done.load(Ordering::SeqCst);
                    let found = if counts { memory.get(key) } else { memory.peek(key) };
                    let found = found.expect("it is only ever replaced");
                    let sequence = check_told(&found);
                    assert!(acknowledged <= sequence, "{acknowledged} was acknowledged, {sequence} found");
                    assert!(held.last().is_none_or(|(before, _)| *before <= sequence));
                    held.push((sequence, found));
                    for (sequence, entry) in &held {
                        assert_eq!(check_told(entry), *sequence);
                    }
                }
            })
        });
        join([writing]);
        join(reading);
        assert_eq!(check_told(&memory.get(key).unwrap()), latest);
        check_accounts(&memory);
    });
}

#[test]
fn writing_over_a_key_that_is_removed_and_evicted_meanwhile_leaves_nothing_torn() {
    interleaved(SCHEDULES, || {
        let memory = tier(Some(1));
        memory.listen(true);
        let writing = [1, 2].map(|writer| {
            let memory = memory.clone();
            spawn(move || {
                for place in 1..=2_u64 {
                    memory.insert(telling(place * 2 + writer), || true);
                }
            })
        });
        let disturbing = {
            let memory = memory.clone();
            spawn(move || {
                memory.insert(entry("b:1", &[], 1), || true);
                if let Some(entry) = memory.remove(KeyRef::parse("a:1").unwrap()) {
                    check_told(&entry);
                }
            })
        };
        join(writing);
        join([disturbing]);
        if let Some(entry) = memory.get(KeyRef::parse("a:1").unwrap()) {
            check_told(&entry);
        }
        for removal in memory.removals() {
            let weight = if removal.key.as_str() == "a:1" {
                telling(1).weight()
            } else {
                entry("b:1", &[], 1).weight()
            };
            assert_eq!(removal.weight, weight);
        }
        check_accounts(&memory);
    });
}

#[test]
fn every_removal_is_told_once_with_its_cause() {
    interleaved(SCHEDULES, || {
        let memory = tier(Some(2));
        memory.listen(true);
        let working = [1, 2].map(|writer| {
            let memory = memory.clone();
            spawn(move || {
                for place in 0..3 {
                    let name = format!("a:{}", place % 2 + writer);
                    memory.insert(entry(&name, &[], place + 1), || true);
                }
                memory.remove(KeyRef::parse("a:2").unwrap());
                memory.removals()
            })
        });
        let mut told: Vec<_> = join(working).into_iter().flatten().collect();
        told.extend(memory.removals());
        let counted = memory.accounts().find(|account| account.name == "a").unwrap().removals;
        for cause in Cause::ALL {
            let heard = told.iter().filter(|removal| removal.cause == cause).count() as u64;
            assert_eq!(heard, counted[cause.index()], "{cause:?}");
        }
        let (came, stands) = (6, memory.usage().all.entries);
        assert!(told.len() as u64 + stands <= came, "{} left, {stands} stand", told.len());
        check_accounts(&memory);
    });
}

const SCHEDULES: usize = 400;
