//! What only a process of its own can show: bytes per entry, peak resident size under two mixes, an expiry storm.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hifz::KeyRef;
use hifz::clock::Clock;
use hifz::entry::{Entry, Parts};
use hifz::memory::{Limits, Memory};

use crate::caches::{NAMES, Room, open};
use crate::rows::{key, log_uniform, mix, write_key};

const LIMIT: u64 = 500_000_000;

/// Runs every kind for every cache in a child; gives the figures to be kept.
pub fn report() -> String {
    let own = std::env::current_exe().expect("a program knows itself");
    let mut kept = String::new();
    for kind in ["overhead", "uniform", "shifting"] {
        for name in NAMES {
            let answer = Command::new(&own).args(["child", kind, name]).output().expect("a child runs");
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            assert!(answer.status.success(), "{kind} {name}: {}", String::from_utf8_lossy(&answer.stderr));
            print!("{text}");
            kept += &text;
        }
    }
    kept
}

pub fn child(kind: &str, name: &str) {
    match kind {
        "overhead" => overhead(name),
        "uniform" => churn(name, kind, 5, |i, _| log_uniform(i, 100.0, 100_000.0)),
        "shifting" => churn(name, kind, 5, |i, done| match (done * 5.0) as u32 {
            0 | 1 => 100 + (mix(i) % 300) as usize,
            2 | 3 => 20_000 + (mix(i) % 80_000) as usize,
            _ => 100 + (mix(i) % 300) as usize,
        }),
        other => panic!("no kind is named {other:?}"),
    }
}

/// Resident bytes over payload of a million small entries.
fn overhead(name: &str) {
    let cache = open(name, Room::Entries(1_100_000));
    let value = [7; 100];
    let before = status("VmRSS");
    for i in 0..1_000_000 {
        cache.insert(key(i).as_key_ref(), &value);
    }
    let bytes = status("VmRSS").saturating_sub(before) as f64;
    let over = bytes / cache.len() as f64 - 120.0;
    println!(r#"{{"resident":"overhead","cache":"{name}","bytes":{over:.1},"entries":{}}}"#, cache.len());
}

/// Two threads insert `times` the limit; the peak of the process over its base, by the limit.
fn churn(name: &str, kind: &str, times: u64, size: fn(u64, f64) -> usize) {
    let value = vec![7; 100_000];
    let base = status("VmRSS");
    let cache = open(name, Room::Bytes(LIMIT));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (cache, value) = (&cache, &value);
            scope.spawn(move || {
                let (mut bytes, mut i, mut text) = (0, thread << 40, String::new());
                while bytes < LIMIT * times / 2 {
                    let size = size(i, bytes as f64 / (LIMIT * times / 2) as f64);
                    write_key(&mut text, i);
                    cache.insert(KeyRef::parse(&text).expect("a key"), &value[..size]);
                    bytes += size as u64 + 20;
                    i += 1;
                }
            });
        }
    });
    let (took, peak) = (begun.elapsed(), status("VmHWM").saturating_sub(base));
    let live = live_payload(&*cache, size, times);
    let of_limit = |bytes: u64| bytes as f64 / LIMIT as f64;
    println!(
        r#"{{"resident":"{kind}","cache":"{name}","peak":{:.3},"live":{:.3},"at_end":{:.3},"seconds":{:.2}}}"#,
        of_limit(peak),
        of_limit(live),
        of_limit(status("VmRSS").saturating_sub(base)),
        took.as_secs_f64()
    );
}

/// What of the payload can still be got; the newest are asked first, backwards.
fn live_payload(cache: &dyn crate::caches::Cache, size: fn(u64, f64) -> usize, times: u64) -> u64 {
    let (mut live, mut text) = (0, String::new());
    for thread in 0..2_u64 {
        let (mut bytes, mut i) = (0, thread << 40);
        while bytes < LIMIT * times / 2 {
            let size = size(i, bytes as f64 / (LIMIT * times / 2) as f64) as u64;
            write_key(&mut text, i);
            if cache.get(KeyRef::parse(&text).expect("a key")).is_some() {
                live += size + 20;
            }
            bytes += size + 20;
            i += 1;
        }
    }
    live
}

/// A million entries fall due within one second while a reader goes on; gives the figures to be kept.
pub fn storm() -> String {
    let clock = Clock::system();
    let memory = Memory::new(Limits { bytes: 1 << 30, entries: None }, clock.clone());
    let begin = clock.now().after(Duration::from_secs(6));
    let insert = |i: u64, after: Duration| {
        let parts = Parts {
            head: b"",
            body: &[7; 100],
            tags: &[],
            stored_at: clock.now(),
            expires_at: begin.after(after),
            sequence: i,
        };
        memory.insert(Entry::new(key(i).as_key_ref(), &parts), || true);
    };
    for i in 0..1_000_000 {
        insert(i, Duration::from_millis(mix(i) % 1000));
    }
    for i in 1_000_000..1_100_000 {
        insert(i, Duration::from_secs(1000));
    }
    let stayers: Vec<_> = (1_000_000..1_100_000).map(key).collect();
    let is_over = AtomicBool::new(false);
    let end = begin.after(Duration::from_secs(1));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut quiet, mut storm) = (Vec::with_capacity(1 << 24), Vec::with_capacity(1 << 24));
            let mut turn = 0;
            while !is_over.load(Ordering::Relaxed) {
                turn += 1;
                let key = stayers[mix(turn) as usize % stayers.len()].as_key_ref();
                let is_storm = clock.now_coarse() >= begin;
                let begun = Instant::now();
                std::hint::black_box(memory.get(key));
                let took = begun.elapsed().as_nanos() as u32;
                if is_storm { storm.push(took) } else { quiet.push(took) }
            }
            [quiet, storm].map(|mut timed| {
                timed.sort_unstable();
                [50, 99].map(|p| timed[timed.len() * p / 100])
            })
        });
        let mut last = clock.now();
        while memory.usage().all.entries > 100_000 {
            if memory.sweep(clock.now()).is_more_due {
                continue;
            }
            std::thread::sleep(Duration::from_millis(10));
            last = clock.now();
        }
        is_over.store(true, Ordering::Relaxed);
        let [quiet, storm] = reader.join().expect("the reader ends well");
        let kept = format!(
            r#"{{"storm":"hifz","reclaimed_ms":{},"p50_quiet_ns":{},"p99_quiet_ns":{},"p50_ns":{},"p99_ns":{}}}"#,
            last.since(end).as_millis(),
            quiet[0],
            quiet[1],
            storm[0],
            storm[1]
        );
        println!("{kept}");
        kept + "\n"
    })
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field is there");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number") * 1024
}
