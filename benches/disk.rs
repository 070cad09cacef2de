//! The disk tier through the engine: what writing through costs, how long an acknowledged delete takes beside a bare
//! fsync, and how large the file gets.
//!
//! Run with `cargo bench --bench disk`; names of rows as arguments run only these. The data directory is made under
//! `HIFZ_BENCH_DIR`, or the system's temporary directory: it must lie on a real disk. `benches/restart.rs` has the
//! restarts and the rows beside Redis.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and may fail loudly")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hifz::clock::monotonic_now;
use hifz::{Cache, CacheBuilder, DataDir, Key};

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let rows: [(&str, fn()); 4] =
        [("sustained", sustained), ("set", set_on_and_off), ("delete", deletes), ("file", file_size)];
    for (name, row) in rows {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            row();
        }
    }
}

fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("HIFZ_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    tempfile::tempdir_in(parent).unwrap()
}

fn builder(path: &Path) -> CacheBuilder {
    Cache::builder().memory(1 << 30).disk(2_200_000_000).data_dir(DataDir::open(path).unwrap())
}

fn key(number: u64) -> Key {
    Key::parse(format!("bench:{number:014}")).unwrap()
}

/// Bytes this process has handed to `write` and its kin.
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

/// New keys of 20 B with 100 B at a fixed pace for ten seconds: the rate, what was dropped, and the amplification.
fn sustained() {
    for rate in [100_000_u64, 150_000, 200_000, 300_000] {
        let directory = directory();
        let cache = builder(directory.path()).open().unwrap();
        let before = written_bytes();
        let began = monotonic_now();
        let count = rate * 10;
        let mut most_queued = 0;
        for number in 0..count {
            if number % 1000 == 0 {
                let due = Duration::from_secs_f64(number as f64 / rate as f64);
                std::thread::park_timeout(due.saturating_sub(began.elapsed()));
                if number % 10_000 == 0 {
                    most_queued = cache.disk_status().unwrap().queued_bytes.max(most_queued);
                }
            }
            cache.set(key(number).as_key_ref(), [7; 100]).unwrap();
        }
        let wrote = began.elapsed();
        cache.flush().unwrap();
        let status = cache.disk_status().unwrap();
        let amplification = (written_bytes() - before) as f64 / (count * 120) as f64;
        println!(
            "sustained at {rate}/s: {:.0}/s, flushed {:.2} s later, dropped {}, most queued {:.1} MB, written per payload {amplification:.2}",
            count as f64 / wrote.as_secs_f64(),
            began.elapsed().saturating_sub(wrote).as_secs_f64(),
            status.dropped,
            most_queued as f64 / 1e6,
        );
        cache.close().unwrap();
    }
}

/// Nanoseconds that this thread has been on a core: what it pays itself, whoever else wants the cores.
fn own_nanoseconds() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// `set` of new keys in bursts, with and without persistence, interleaved: by the clock, and by
/// what the setting thread spent on a core.
fn set_on_and_off() {
    for (burst, rounds) in BURSTS {
        set_burst(burst, rounds);
    }
}

fn set_burst(burst: u64, rounds: u64) {
    let directory = directory();
    let (on, off) =
        (builder(directory.path()).open().unwrap(), Cache::builder().memory(1 << 30).open().unwrap());
    let (mut times, mut own_times): ([Vec<f64>; 3], [Vec<f64>; 3]) = Default::default();
    // New keys, each cache first in turn; then keys that are on disk already, which free as much as they take.
    let new = (0..rounds).flat_map(|round| {
        let both = [(0, &on, round), (1, &off, round)];
        if round % 2 == 0 { both } else { [both[1], both[0]] }
    });
    for (which, cache, first) in new.chain((0..rounds).map(|round| (2, &on, round))) {
        let keys: Vec<Key> = (0..burst).map(|number| key(first * burst + number)).collect();
        let (began, own_began) = (monotonic_now(), own_nanoseconds());
        for key in &keys {
            cache.set(key.as_key_ref(), [7; 100]).unwrap();
        }
        own_times[which].push((own_nanoseconds() - own_began) / burst as f64);
        times[which].push(began.elapsed().as_secs_f64() / burst as f64 * 1e9);
        cache.flush().unwrap();
    }
    let one_write = one_write_nanoseconds(directory.path(), burst);
    // Of the two bursts of a round, which find the same in memory and the same neighbours on the machine.
    let speeds = |times: &[Vec<f64>; 3]| {
        median(times[1].iter().zip(&times[0]).map(|(off_ns, on_ns)| off_ns / on_ns).collect())
    };
    let (speed, own_speed) = (speeds(&times), speeds(&own_times));
    let [on_ns, off_ns, over_ns] = times.map(median);
    let [own_on_ns, own_off_ns, _] = own_times.map(median);
    println!(
        "set, 100 B, bursts of {burst}: persistence on {on_ns:.0} ns, off {off_ns:.0} ns, on/off speed {speed:.2}; on a core {own_on_ns:.0} ns and {own_off_ns:.0} ns, {own_speed:.2}; overwrite of a key on disk {over_ns:.0} ns beside {one_write:.0} ns for one plain write; dropped {}",
        on.disk_status().unwrap().dropped
    );
    on.close().unwrap();
}

fn one_write_nanoseconds(path: &Path, writes: u64) -> f64 {
    let mut file = fs::File::create(path.join("cache-bench")).unwrap();
    let began = monotonic_now();
    for _ in 0..writes {
        file.write_all(&[7; 32]).unwrap();
    }
    began.elapsed().as_secs_f64() / writes as f64 * 1e9
}

/// Acknowledged deletes while another thread writes as fast as it can, beside a bare `fdatasync` of 4 kB under the
/// same load.
fn deletes() {
    let directory = directory();
    let cache = builder(directory.path()).open().unwrap();
    for number in 0..100_000 {
        cache.set(key(number).as_key_ref(), [7; 100]).unwrap();
    }
    cache.flush().unwrap();
    let stop = AtomicBool::new(false);
    let (mut deletes, mut syncs) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 1_000_000;
            while !stop.load(Ordering::Relaxed) {
                cache.set(key(number).as_key_ref(), [7; 100]).unwrap();
                number += 1;
                // As fast as the disk takes it: the queue is kept full, not overflowing.
                if number % 10_000 == 0 {
                    while cache.disk_status().unwrap().queued_bytes > 16 << 20 {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                }
            }
        });
        let mut file = fs::File::create(directory.path().join("cache-bench")).unwrap();
        for number in 0..SAMPLES {
            let began = monotonic_now();
            assert!(cache.delete(key(number).as_key_ref()).unwrap());
            deletes.push(began.elapsed().as_secs_f64() * 1e3);
            let began = monotonic_now();
            file.seek(SeekFrom::Start(number % 64 * 4096)).unwrap();
            file.write_all(&[7; 4096]).unwrap();
            file.sync_data().unwrap();
            syncs.push(began.elapsed().as_secs_f64() * 1e3);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let [delete_99, sync_99] = [percentile(&mut deletes, 99), percentile(&mut syncs, 99)];
    println!(
        "delete under load: p50 {:.1} ms, p99 {delete_99:.1} ms; bare fdatasync of 4 kB p50 {:.1} ms, p99 {sync_99:.1} ms; ratio of p99 {:.2}",
        percentile(&mut deletes, 50),
        percentile(&mut syncs, 50),
        delete_99 / sync_99
    );
    cache.close().unwrap();
}

/// 500 MB of live entries of 200 B to 100 kB, overwritten ten times over: the largest file, and the file after a stop
/// and a start.
fn file_size() {
    let directory = directory();
    let path = directory.path().to_owned();
    let cache = builder(&path).memory(700_000_000).open().unwrap();
    let body = vec![7_u8; 100_000];
    let (mut state, mut largest) = (1_u64, 0_u64);
    let began = monotonic_now();
    let mut payload = 0_u64;
    while payload < 5_500_000_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let number = (state >> 33) % FILE_KEYS;
        // Log-uniform, always the same for one key.
        let bytes = (200.0 * 500_f64.powf(number as f64 / FILE_KEYS as f64)) as usize;
        cache.set(key(number).as_key_ref(), &body[..bytes]).unwrap();
        payload += bytes as u64 + 20;
        if (state >> 33).is_multiple_of(64) {
            let status = cache.disk_status().unwrap();
            largest = largest.max(status.file_bytes);
            if status.queued_bytes > 16 << 20 {
                cache.flush().unwrap();
            }
        }
    }
    cache.flush().unwrap();
    let elapsed = began.elapsed().as_secs_f64();
    let before = cache.disk_status().unwrap();
    let began = monotonic_now();
    cache.close().unwrap();
    let closing = began.elapsed().as_secs_f64();
    drop(cache);
    let cache = builder(&path).memory(700_000_000).open().unwrap();
    let found = (0..FILE_KEYS).filter(|number| cache.exists(key(*number).as_key_ref()).unwrap()).count();
    let after = cache.disk_status().unwrap();
    println!(
        "file: live {:.0} MB, largest {:.0} MB of 2200, before the stop {:.0} MB ({:.2} x live), after stop and start {:.0} MB ({:.2} x live); closing took {closing:.2} s; {:.0} MB/s; dropped {}, evicted {}; {found} of {FILE_KEYS} keys there",
        before.live_bytes as f64 / 1e6,
        largest as f64 / 1e6,
        before.file_bytes as f64 / 1e6,
        before.file_bytes as f64 / before.live_bytes as f64,
        after.file_bytes as f64 / 1e6,
        after.file_bytes as f64 / after.live_bytes as f64,
        payload as f64 / 1e6 / elapsed,
        before.dropped,
        before.evicted,
    );
    cache.close().unwrap();
}

fn median(mut samples: Vec<f64>) -> f64 {
    percentile(&mut samples, 50)
}

fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[(samples.len() - 1) * percent / 100]
}

/// One that is over before the writer begins, one that the queue just holds, and one of which the queue holds a third;
/// each with as many rounds as memory holds.
const BURSTS: [(u64, u64); 3] = [(50_000, 15), (150_000, 15), (500_000, 9)];

const SAMPLES: u64 = 1000;

/// Of 16 kB on average: 500 MB.
const FILE_KEYS: u64 = 31_000;
