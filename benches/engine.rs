//! The engine's own paths, in nanoseconds a call: hits, misses that load, writes, and a namespace invalidated.
//!
//! Run with `cargo bench --bench engine`. Each figure is the median of several rounds in this process; the machine may
//! be busy, so compare figures of one run with each other, and read `benches/peers` for ratios to other caches.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and may fail loudly")]

use std::time::{Duration, Instant};

use hifz::clock::monotonic_now;
use hifz::source::{Ask, Loaded, Loading, Source};
use hifz::{Cache, Key, KeyRef, Namespace};

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
    report("get_or_load, hit", &keys, |key| {
        runtime.block_on(cache.get_or_load(key, &Instantly)).unwrap();
    });
    report("exists", &keys, |key| assert!(cache.exists(key).unwrap()));
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

/// Odd, so that there is a middle one.
const ROUNDS: usize = 7;
