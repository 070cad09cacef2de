//! P12 by recorded histories: threads read and write few keys of one cache at once, each call noted with when it began
//! and ended, and a search asks whether some order of the calls explains every answer.
//!
//! The search is Wing and Gong's with memory: try each call that no other finished before, in turn. Keys are checked one
//! by one, for what is linearizable per key is linearizable. A cache may forget, so a value may be gone at any time; but
//! what is gone stays gone until the next write, and what was written over never comes back.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use hifz::{Cache, Key, Namespace};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Set(u64),
    Get(Option<u64>),
    /// A deletion, or an invalidation of the namespace.
    Remove,
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    key: usize,
    call: Call,
    began: u64,
    ended: u64,
}

/// Whether some order of the calls explains every answer; at most 64 of them.
fn is_linearizable(history: &[Noted]) -> bool {
    assert!(history.len() <= 64);
    let all = u64::MAX.checked_shr(64 - u32::try_from(history.len()).unwrap()).unwrap_or(0);
    let mut seen = HashSet::new();
    let mut open = vec![(0_u64, None::<u64>)];
    while let Some((done, value)) = open.pop() {
        if done == all {
            return true;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        let left = || history.iter().enumerate().filter(|(at, _)| done >> at & 1 == 0);
        let first_end = left().map(|(_, noted)| noted.ended).min().unwrap();
        for (at, noted) in left().filter(|(_, noted)| noted.began <= first_end) {
            let next = match noted.call {
                Call::Set(new) => Some(new),
                Call::Remove | Call::Get(None) => None,
                Call::Get(found) if found == value => found,
                Call::Get(_) => continue,
            };
            open.push((done | 1 << at, next));
        }
    }
    false
}

#[test]
fn the_search_tells_good_histories_from_bad_ones() {
    let noted = |call, began, ended| Noted { key: 0, call, began, ended };
    let good = [
        noted(Call::Set(1), 0, 5),
        noted(Call::Get(Some(1)), 1, 2),
        noted(Call::Get(None), 6, 7),
        noted(Call::Set(2), 8, 12),
        noted(Call::Get(None), 9, 10),
        noted(Call::Get(Some(2)), 9, 11),
    ];
    assert!(is_linearizable(&good));
    // Older than acknowledged; back after it was gone; read before anybody wrote it.
    let older = [noted(Call::Set(1), 0, 1), noted(Call::Set(2), 2, 3), noted(Call::Get(Some(1)), 4, 5)];
    let back = [noted(Call::Set(1), 0, 1), noted(Call::Remove, 2, 3), noted(Call::Get(Some(1)), 4, 5)];
    let early = [noted(Call::Get(Some(1)), 0, 1), noted(Call::Set(1), 2, 3)];
    let twice = [
        noted(Call::Set(1), 0, 9),
        noted(Call::Set(2), 0, 9),
        noted(Call::Get(Some(1)), 1, 2),
        noted(Call::Get(Some(2)), 3, 4),
        noted(Call::Get(Some(1)), 5, 6),
    ];
    for bad in [&older[..], &back, &early, &twice] {
        assert!(!is_linearizable(bad), "{bad:?}");
    }
}

#[test]
fn recorded_histories_of_two_to_four_threads_are_linearizable() {
    let (mut answers, mut found) = (0, 0);
    for seed in 0..ROUNDS {
        let history = record(seed, 2 + (seed % 3), CALLS / (2 + seed % 3));
        for key in 0..KEYS {
            let of_key: Vec<_> = history.iter().copied().filter(|noted| noted.key == key).collect();
            answers += of_key.iter().filter(|noted| matches!(noted.call, Call::Get(_))).count();
            found += of_key.iter().filter(|noted| matches!(noted.call, Call::Get(Some(_)))).count();
            assert!(is_linearizable(&of_key), "seed {seed}, key {key}: {of_key:#?}");
        }
    }
    assert!(found > answers / 4 && found < answers, "{found} of {answers} answers hold a value");
}

/// What `threads` saw doing `calls` each, at random, on a cache that holds fewer entries than there are keys.
fn record(seed: u64, threads: u64, calls: u64) -> Vec<Noted> {
    let cache = Cache::builder().memory(1 << 20).max_entries(Some(3)).open().unwrap();
    let keys: Vec<Key> = (0..KEYS).map(|key| Key::parse(format!("n{}:{key}", key % 2)).unwrap()).collect();
    let (time, values, barrier) =
        (AtomicU64::new(0), AtomicU64::new(1), Barrier::new(usize::try_from(threads).unwrap()));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (cache, keys, time, values, barrier) = (&cache, &keys, &time, &values, &barrier);
                scope.spawn(move || {
                    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (thread + 1) << 32;
                    let mut history = Vec::new();
                    barrier.wait();
                    for _ in 0..calls {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        let key = usize::try_from(state >> 8).unwrap() % KEYS;
                        let name = keys[key].as_key_ref();
                        let began = time.fetch_add(1, Ordering::SeqCst);
                        let call = match state >> 40 & 15 {
                            0..6 => {
                                let value = values.fetch_add(1, Ordering::SeqCst);
                                cache.set(name, value.to_le_bytes()).unwrap();
                                Call::Set(value)
                            }
                            6..8 => {
                                cache.delete(name).unwrap();
                                Call::Remove
                            }
                            8 => {
                                let namespace = Namespace::parse(name.namespace()).unwrap();
                                cache.invalidate_namespace(&namespace).unwrap();
                                Call::Remove
                            }
                            _ => {
                                let entry = cache.get(name).unwrap();
                                Call::Get(
                                    entry.map(|entry| u64::from_le_bytes(entry.body().try_into().unwrap())),
                                )
                            }
                        };
                        let ended = time.fetch_add(1, Ordering::SeqCst);
                        let is_whole = state >> 40 & 15 == 8;
                        // An invalidation concerns every key of its namespace.
                        let concerned = (0..KEYS).filter(|other| {
                            *other == key || is_whole && keys[*other].namespace() == name.namespace()
                        });
                        history.extend(concerned.map(|key| Noted { key, call, began, ended }));
                    }
                    history
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

const KEYS: usize = 4;

/// Calls of all threads together in one history.
const CALLS: u64 = 60;

const ROUNDS: u64 = 400;
