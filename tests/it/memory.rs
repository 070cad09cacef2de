//! The memory tier as a process sees it: resident size under churn, and the account beside the allocator's own.
//!
//! Each figure needs a process of its own, so these tests start this binary again with one ignored test, the child.
#![expect(unsafe_code, reason = "mallinfo2 is a C function, called in the child that checks the account")]
#![expect(clippy::print_stdout, reason = "how a child tells what it saw")]

use std::process::Command;

use hifz::clock::{Clock, Timestamp};
use hifz::entry::{Entry, Parts};
use hifz::memory::{Limits, Memory, resident_now};
use hifz::{Key, KeyRef};

#[test]
fn the_resident_size_keeps_to_the_limit_while_sizes_of_three_orders_come_and_go() {
    keeps_to_the_limit("uniform");
}

#[test]
fn the_resident_size_keeps_to_the_limit_while_sizes_shift_from_small_to_large_and_back() {
    keeps_to_the_limit("shifting");
}

fn keeps_to_the_limit(mix: &str) {
    if resident_now().is_none() {
        return;
    }
    let told = run_child("memory::child_churns", mix);
    let [base, peak, live] = told[..] else { panic!("{told:?}") };
    let allowed = base + LIMIT + (LIMIT / 10).max(48_000_000);
    assert!(peak <= allowed, "{mix}: a peak of {peak} bytes over a base of {base}");
    // Nor is the promise bought with an empty cache.
    assert!(live >= LIMIT / 2, "{mix}: {live} bytes of payload live");
}

#[test]
fn what_entries_are_charged_is_what_the_allocator_gave_for_them() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    for body in ["20", "100", "1000", "10000", "100000", "300000"] {
        let told = run_child("memory::child_accounts", body);
        let [charged, taken] = told[..] else { panic!("{told:?}") };
        // A charge may be a little high, for the index is charged at its usual load; never much too low.
        let within = taken * 97 / 100..taken * 110 / 100;
        assert!(within.contains(&charged), "bodies of {body} bytes: charged {charged}, taken {taken}");
    }
}

/// Runs one ignored test of this binary with a word for it; the numbers it printed after `told:`.
fn run_child(test: &str, word: &str) -> Vec<u64> {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own)
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("HIFZ_TEST_CHILD", word)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = printed.split_once("told:").unwrap_or_else(|| panic!("{printed}")).1;
    told.lines().next().unwrap().split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn word() -> String {
    std::env::var("HIFZ_TEST_CHILD").unwrap_or_default()
}

#[test]
#[ignore = "a child of the tests above"]
fn child_churns() {
    let shifts = word() == "shifting";
    let base = resident_now().unwrap();
    let memory = Memory::new(Limits { bytes: LIMIT, entries: None }, Clock::system());
    memory.watch_resident(base);
    let value = vec![7; 100_000];
    let total = if shifts { LIMIT * 3 } else { LIMIT * 5 };
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (memory, value) = (&memory, &value);
            scope.spawn(move || {
                let (mut bytes, mut number) = (0, thread << 40);
                while bytes < total / 2 {
                    let draw = mix(number);
                    let size = match bytes * 6 / total {
                        1 if shifts => 20_000 + draw % 80_000,
                        _ if shifts => 100 + draw % 300,
                        // Every order of magnitude from 100 B to 100 kB equally likely.
                        _ => (100 << (draw % 10)) + (draw >> 8) % (100 << (draw % 10)),
                    };
                    insert(memory, number, &value[..usize::try_from(size).unwrap().min(100_000)]);
                    bytes += size;
                    number += 1;
                }
            });
        }
    });
    println!("told: {base} {} {}", peak(), memory.usage().all.bytes);
}

#[test]
#[ignore = "a child of the tests above"]
fn child_accounts() {
    let body = vec![7; word().parse().unwrap()];
    let memory = Memory::new(Limits { bytes: 1 << 30, entries: None }, Clock::system());
    // Fills what is made once: tables, names.
    insert(&memory, u64::MAX, &body);
    let (charged, taken) = (memory.usage().all.bytes, taken());
    let entries = (60_000_000 / body.len()).min(200_000) as u64;
    (0..entries).for_each(|number| insert(&memory, number, &body));
    // Each namespace has its own part of the account, and no byte belongs to none.
    let of = |namespace| memory.usage_of(namespace).bytes;
    assert_eq!(of("even") + of("odd"), memory.usage().all.bytes);
    assert!(of("even").abs_diff(of("odd")) <= memory.usage().all.bytes / entries * 2);
    println!("told: {} {}", memory.usage().all.bytes - charged, self::taken() - taken);
}

fn insert(memory: &Memory, number: u64, body: &[u8]) {
    let namespace = if number.is_multiple_of(2) { "even" } else { "odd" };
    let key = Key::parse(format!("{namespace}:{number:013x}")).unwrap();
    let parts = Parts {
        head: b"",
        body,
        tags: &[],
        stored_at: Timestamp::from_millis(0),
        expires_at: Timestamp::NEVER,
        sequence: 1,
    };
    let key: KeyRef<'_> = key.as_key_ref();
    memory.insert(Entry::new(key, &parts), || true);
}

/// The most this process ever held resident.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What glibc's allocator has given out and not got back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn taken() -> u64 {
    /// `struct mallinfo2`: ten sizes, of which the fifth counts mapped blocks and the eighth those of the heaps.
    #[repr(C)]
    struct Info([usize; 10]);
    unsafe extern "C" {
        fn mallinfo2() -> Info;
    }
    // SAFETY: takes nothing and returns a struct by value; safe to call from any thread.
    let info = unsafe { mallinfo2() };
    (info.0[4] + info.0[7]) as u64
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn taken() -> u64 {
    0
}

/// splitmix64: a well mixed number for each number.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The limit of the memory tier in the children that churn.
const LIMIT: u64 = 100_000_000;
