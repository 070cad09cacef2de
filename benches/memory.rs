//! The memory tier's own costs, in nanoseconds a call: `cargo bench --bench memory`.
//!
//! For a quick look while working. Comparisons with other caches, and every claim, come from `benches/peers`.
#![expect(clippy::print_stdout, reason = "a bench speaks to whoever runs it")]

use std::hint::black_box;
use std::time::Duration;

use hifz::clock::{Clock, monotonic_now};
use hifz::entry::{Entry, Parts};
use hifz::memory::{Generations, Limits, Memory};
use hifz::{Key, KeyRef};

fn main() {
    let clock = Clock::system();
    let expires_at = clock.now().after(Duration::from_hours(1));
    let memory = Memory::new(Limits { bytes: 1 << 30, entries: Some(100_000) }, clock.clone());
    let generations = Generations::new();
    let made = |key: KeyRef<'_>| {
        let parts = Parts {
            head: b"",
            body: &[7; 100],
            tags: &[],
            stored_at: clock.now_coarse(),
            expires_at,
            sequence: 1,
        };
        Entry::new(key, &parts)
    };
    let keys: Vec<Key> = (0..400_000).filter_map(|i| Key::parse(format!("bench:{i:014}")).ok()).collect();
    time("insert, filling and evicting", &keys, |key| {
        black_box(memory.insert(made(key), || true));
    });
    let (_, resident) = keys.split_at(keys.len() - 90_000);
    time("hit, fresh and alive", resident, |key| {
        let found = memory.get(key).filter(|entry| entry.is_fresh_by(&clock) && generations.is_alive(entry));
        black_box(found);
    });
    generations.raise_namespace("another", 2);
    time("hit, older than an invalidation elsewhere", resident, |key| {
        black_box(memory.get(key).filter(|entry| generations.is_alive(entry)));
    });
    time("replacement", resident, |key| {
        black_box(memory.insert(made(key), || true));
    });
}

fn time(what: &str, keys: &[Key], mut call: impl FnMut(KeyRef<'_>)) {
    let begun = monotonic_now();
    for key in keys {
        call(key.as_key_ref());
    }
    let calls = u32::try_from(keys.len()).unwrap_or(u32::MAX).max(1);
    println!("{what}: {:?} a call", begun.elapsed() / calls);
}
