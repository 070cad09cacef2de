//! The engine's own paths, in nanoseconds a call: hits, misses that load, writes, and a namespace invalidated.
//!
//! Run with `cargo bench --bench engine`. Each figure is the median of several rounds in this process; the machine may
//! be busy, so compare figures of one run with each other, and read `benches/peers` for ratios to other caches.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and may fail loudly")]

use std::time::{Duration, Instant};

use hifz::clock::monotonic_now;
use hifz::source::{Ask, Loaded, Loading, Source};
use hifz::{Cache, Key, KeyRef, Namespace, SetOptions};

/// Answers at once.
#[derive(Debug, Clone)]
struct Instantly;

impl Source for Instantly {
    fn load<'l>(&'l self, _: Ask<'l>) -> Loading<'l> {
        Box::pin(async { Ok(Loaded::new(vec![7; 100]).content_type("text/plain").into()) })
    }
}

fn main() {
    let keys: Vec<Key> =
        (0..ENTRIES).map(|number| Key::parse(format!("bench:{number:014}")).unwrap()).collect();
    let cache = Cache::builder().memory(1 << 30).open().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();

    report("set, 100 B", &keys, |key| cache.set(key, [7; 100]).unwrap());
    report("get, hit", &keys, |key| assert!(cache.get(key).unwrap().is_some()));
    loads(&cache, &keys);
    report("exists", &keys, |key| assert!(cache.exists(key).unwrap()));
    batches();
    invalidations();
    let namespace = Namespace::parse("bench").unwrap();
    let began = monotonic_now();
    let alive = cache.invalidate_namespace(&namespace).unwrap();
    println!(
        "{:24} {:>10.1} µs for {alive} entries",
        "invalidate_namespace",
        began.elapsed().as_secs_f64() * 1e6
    );
    report("get_or_load, miss", &keys, |key| {
        cache.delete(key).unwrap();
        runtime.block_on(cache.get_or_load(key, &Instantly)).unwrap();
    });
    cache.close().unwrap();
}

/// Hits through a source's door, beside plain ones, in turn: from one task, as servers ask, and from plain code.
fn loads(cache: &Cache, keys: &[Key]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let plain = timed(|| keys.iter().for_each(|key| drop(cache.get(key.as_key_ref()).unwrap())));
        let awaited = timed(|| {
            runtime.block_on(async {
                for key in keys {
                    drop(cache.get_or_load(key.as_key_ref(), &Instantly).await.unwrap());
                }
            });
        });
        let blocking = timed(|| {
            for key in keys {
                drop(cache.get_or_load_blocking(key.as_key_ref(), &Instantly).unwrap());
            }
        });
        ratios[0].push(awaited / plain);
        ratios[1].push(blocking / plain);
    }
    for (name, mut ratios) in ["get_or_load, hit", "get_or_load_blocking, hit"].into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        println!("{name:24} {:>10.2} of get", ratios[ROUNDS / 2]);
    }
}

/// A million entries asked for and put in hundreds, beside the same one by one, in turn.
fn batches() {
    let cache = Cache::builder().memory(1 << 30).open().unwrap();
    let keys: Vec<Key> =
        (0..MILLION).map(|number| Key::parse(format!("batch:{number:014}")).unwrap()).collect();
    for key in &keys {
        cache.set(key.as_key_ref(), [7; 100]).unwrap();
    }
    // In an order that has nothing to do with how they stand in memory.
    let asked: Vec<KeyRef<'_>> =
        (0..keys.len()).map(|at| keys[(at * 611_953) % keys.len()].as_key_ref()).collect();
    let (value, options) = ([7; 100], SetOptions::new());
    let fill = || asked.iter().for_each(|key| cache.set(*key, value).unwrap());
    let mut ratios: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let one_by_one = timed(|| asked.iter().for_each(|key| drop(cache.get(*key).unwrap())));
        let batched =
            timed(|| asked.chunks(100).for_each(|few| drop(cache.get_many(few.iter().copied()).unwrap())));
        ratios[0].push(batched / one_by_one);
        let one_by_one = timed(|| asked.iter().for_each(|key| cache.set(*key, [7; 100]).unwrap()));
        let batched = timed(|| {
            asked.chunks(100).for_each(|few| cache.set_many(few.iter().map(|key| (*key, [7; 100]))).unwrap());
        });
        ratios[1].push(batched / one_by_one);
        let one_by_one =
            timed(|| asked.iter().for_each(|key| cache.set_with(*key, value, &options).unwrap()));
        let batched = timed(|| {
            for few in asked.chunks(100) {
                cache.set_each(few.iter().map(|key| (*key, &value[..], &options))).unwrap();
            }
        });
        ratios[2].push(batched / one_by_one);
        let one_by_one = timed(|| asked.iter().for_each(|key| assert!(cache.delete(*key).unwrap())));
        fill();
        let batched = timed(|| {
            for few in asked.chunks(100) {
                assert_eq!(cache.delete_many(few.iter().copied()).unwrap(), few.len() as u64);
            }
        });
        fill();
        ratios[3].push(batched / one_by_one);
    }
    let names = ["get_many of 100", "set_many of 100", "set_each of 100", "delete_many of 100"];
    for (name, mut ratios) in names.into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        println!("{name:24} {:>10.2} of what its parts cost, 1 M entries", ratios[ROUNDS / 2]);
    }
}

/// What it takes to invalidate a namespace of a thousand and of a million keys.
fn invalidations() {
    let namespace = Namespace::parse("many").unwrap();
    let mut medians = Vec::new();
    for entries in [1000, MILLION] {
        let mut rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let cache = Cache::builder().memory(1 << 30).open().unwrap();
                (0..entries).for_each(|number| {
                    let key = Key::parse(format!("many:{number:014}")).unwrap();
                    cache.set(key.as_key_ref(), [7; 100]).unwrap();
                });
                let took =
                    timed(|| assert_eq!(cache.invalidate_namespace(&namespace).unwrap(), u64::from(entries)));
                cache.close().unwrap();
                took
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("{:24} {:>10.1} µs for {entries} entries", "invalidate_namespace", rounds[ROUNDS / 2] * 1e6);
        medians.push(rounds[ROUNDS / 2]);
    }
    println!("{:24} {:>10.2} times as long for a million as for a thousand", "", medians[1] / medians[0]);
}

fn timed(call: impl FnOnce()) -> f64 {
    let began = monotonic_now();
    call();
    monotonic_now().duration_since(began).as_secs_f64()
}

/// Calls `call` with every key, several times over, and prints the median time of one call.
fn report(name: &str, keys: &[Key], mut call: impl FnMut(KeyRef<'_>)) {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began: Instant = monotonic_now();
            for key in keys {
                call(key.as_key_ref());
            }
            began.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    let median = rounds[ROUNDS / 2].as_secs_f64() / f64::from(ENTRIES);
    println!("{name:24} {:>10.1} ns", median * 1e9);
}

const ENTRIES: u32 = 100_000;
const MILLION: u32 = 1_000_000;

/// Odd, so that there is a middle one.
const ROUNDS: usize = 9;
