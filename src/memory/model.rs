//! The tier against plain models: random operations and clock turns, each compared step by step.
//!
//! The reference for order is the `lru` crate, which is exact and knows nothing of shards; the reference for races is
//! the rule that per key no reader ever goes back in time.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::needless_for_each,
    clippy::semicolon_if_nothing_returned,
    reason = "small numbers and short loops of a test"
)]

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lru::LruCache;

use super::*;
use crate::entry::Parts;

const START: Timestamp = Timestamp::from_millis(1_000_000);

fn key(text: &str) -> KeyRef<'_> {
    KeyRef::parse(text).unwrap()
}

struct Made<'m> {
    key: &'m str,
    body: usize,
    sequence: u64,
    expires_at: Timestamp,
}

fn made(made: &Made<'_>) -> Entry {
    let body = vec![(made.sequence & 0xFF) as u8; made.body];
    let parts = Parts {
        head: b"",
        body: &body,
        tags: &[],
        stored_at: START,
        expires_at: made.expires_at,
        sequence: made.sequence,
    };
    Entry::new(key(made.key), &parts)
}

fn entry(key: &str, body: usize, sequence: u64) -> Entry {
    made(&Made { key, body, sequence, expires_at: Timestamp::NEVER })
}

fn memory(bytes: u64, entries: Option<u64>) -> Memory {
    Memory::new(Limits { bytes, entries }, Clock::manual(START))
}

/// A small generator of numbers, the same on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Everything the model knows of one tier: exact order, exact weights.
struct Model {
    order: LruCache<String, Entry>,
    bytes: usize,
    limit: usize,
    entries_max: usize,
}

impl Model {
    fn insert(&mut self, entry: &Entry) -> Insertion {
        let name = entry.key().to_string();
        if self.order.peek(&name).is_some_and(|old| old.sequence() > entry.sequence()) {
            return Insertion::Outdated;
        }
        let old = self.remove(&name);
        if entry.weight() > self.limit / 2 {
            return Insertion::Bypassed;
        }
        self.order.push(name, entry.clone());
        self.bytes += entry.weight();
        while self.bytes > self.limit || self.order.len() > self.entries_max {
            let (_, gone) = self.order.pop_lru().unwrap();
            self.bytes -= gone.weight();
        }
        if old { Insertion::Replaced } else { Insertion::Inserted }
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(old) = self.order.pop(name) else { return false };
        self.bytes -= old.weight();
        true
    }

    fn remove_expired(&mut self, now: Timestamp) {
        let due = |entry: &Entry| entry.expires_at() <= now;
        let names: Vec<_> =
            self.order.iter().filter(|(_, entry)| due(entry)).map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| assert!(self.remove(name)));
    }
}

fn compare(tier: &Memory, model: &Model) {
    let usage = tier.usage();
    assert_eq!(usage.all.bytes, model.bytes as u64);
    assert_eq!(usage.all.entries, model.order.len() as u64);
    for (name, expected) in &model.order {
        let found = tier.peek(key(name)).unwrap_or_else(|| panic!("{name} is gone"));
        assert!(found.is_same(expected));
    }
}

fn run_against_the_model(seed: u64, entries_max: Option<u64>) {
    let mut numbers = Numbers(seed);
    let limit = 60_000;
    let tier = memory(limit, entries_max);
    let mut now = START;
    let mut model = Model {
        order: LruCache::unbounded(),
        bytes: 0,
        limit: limit as usize,
        entries_max: entries_max.map_or(usize::MAX, |max| max as usize),
    };
    for turn in 0..20_000_u64 {
        let name = format!("n{}:{}", numbers.below(3), numbers.below(300));
        match numbers.below(100) {
            0..50 => {
                let found = tier.get(key(&name));
                let expected = model.order.get(&name);
                assert_eq!(found.is_some(), expected.is_some(), "{name} in turn {turn} of seed {seed}");
            }
            50..90 => {
                // Mostly small, sometimes near the largest that is kept, sometimes beyond.
                let body = if numbers.below(50) == 0 { numbers.below(40_000) } else { numbers.below(800) };
                let later = numbers.below(200) * 7;
                let expires_at =
                    if later < 300 { Timestamp::NEVER } else { now.after(Duration::from_millis(later)) };
                let sequence = if numbers.below(20) == 0 { numbers.below(turn + 1) } else { turn + 1 };
                let new = made(&Made { key: &name, body: body as usize, sequence, expires_at });
                assert_eq!(
                    tier.insert(new.clone(), || true),
                    model.insert(&new),
                    "turn {turn} of seed {seed}"
                );
            }
            90..94 => assert_eq!(tier.remove(key(&name)).is_some(), model.remove(&name)),
            94..96 => {
                let new = entry(&name, 10, u64::MAX);
                assert_eq!(tier.insert(new, || false), Insertion::Refused);
            }
            96..98 => assert_eq!(tier.peek(key(&name)).is_some(), model.order.contains(&name)),
            _ => {
                now = now.after(Duration::from_millis(numbers.below(100)));
                while tier.sweep(now).is_more_due {}
                model.remove_expired(now);
            }
        }
        if turn % 500 == 0 {
            compare(&tier, &model);
        }
    }
    compare(&tier, &model);
}

#[test]
fn a_small_entry_is_replaced_where_it_stands_unless_somebody_holds_it() {
    let tier =
        Memory::new(Limits { bytes: 1 << 20, entries: None }, Clock::manual(Timestamp::from_millis(1)));
    tier.listen(true);
    let address = || tier.peek(key("a:1")).unwrap().address();
    tier.insert(entry("a:1", 100, 1), || true);
    let first = address();
    assert_eq!(tier.insert(entry("a:1", 100, 2), || true), Insertion::Replaced);
    assert_eq!(address(), first);
    let held = tier.get(key("a:1")).unwrap();
    assert_eq!(tier.insert(entry("a:1", 100, 3), || true), Insertion::Replaced);
    assert_ne!(address(), first);
    assert_eq!(held.sequence(), 2);
    let (stands, kept) = (address(), entry("a:1", 100, 4));
    assert_eq!(tier.insert(kept.clone(), || true), Insertion::Replaced);
    assert_ne!(address(), stands, "what the caller holds is what stands");
    assert!(tier.remove_exactly(&kept, Cause::Deleted));
    let told: Vec<_> = tier.removals().iter().map(|removal| (removal.sequence, removal.cause)).collect();
    let replaced = |sequence| (sequence, Cause::Replaced);
    assert_eq!(told, [replaced(1), replaced(2), replaced(3), (4, Cause::Deleted)]);
}

#[test]
fn random_operations_match_an_exact_lru_by_bytes() {
    (1..=6).for_each(|seed| run_against_the_model(seed * 0x9E37_79B9, None));
}

#[test]
fn random_operations_match_an_exact_lru_by_entries() {
    (1..=4).for_each(|seed| run_against_the_model(seed * 0x85EB_CA6B, Some(40)));
}

#[test]
fn ten_over_the_limit_take_exactly_the_ten_least_recently_used() {
    let tier = memory(1 << 30, Some(1000));
    (0..1000)
        .for_each(|i| assert_eq!(tier.insert(entry(&format!("k{i}"), 10, i), || true), Insertion::Inserted));
    (0..20).for_each(|i| assert!(tier.get(key(&format!("k{i}"))).is_some()));
    (0..10).for_each(|i| {
        assert_eq!(tier.insert(entry(&format!("new{i}"), 10, i), || true), Insertion::Inserted)
    });
    let gone: Vec<_> = (0..1000).filter(|i| tier.peek(key(&format!("k{i}"))).is_none()).collect();
    assert_eq!(gone, (20..30).collect::<Vec<_>>());
}

#[test]
fn the_hit_ratio_on_zipf_draws_is_that_of_one_exact_global_lru() {
    let ranks = 100_000;
    let mut sums = vec![0.0];
    (1..=ranks).for_each(|rank| sums.push(sums[rank - 1] + (rank as f64).powf(-0.99)));
    let mut numbers = Numbers(77);
    compare_hits(move |_| {
        let drawn = numbers.below(1 << 52) as f64 / (1_u64 << 52) as f64 * sums[ranks];
        sums.partition_point(|sum| *sum <= drawn) as u64
    });
}

#[test]
fn the_hit_ratio_on_a_trace_with_scans_and_loops_is_that_of_one_exact_global_lru() {
    let mut numbers = Numbers(78);
    // Long-tailed draws; every so often a scan of what nobody asks for again, or a loop a little larger than the tier.
    compare_hits(move |turn| match turn / 10_000 % 5 {
        3 => 1_000_000 + turn,
        4 => 2_000_000 + turn % (ENTRIES_COMPARED * 5 / 4),
        _ => numbers.below(350) * numbers.below(350),
    });
}

#[test]
fn the_hit_ratio_on_a_trace_whose_working_set_moves_is_that_of_one_exact_global_lru() {
    let mut numbers = Numbers(79);
    compare_hits(move |turn| turn / 4 + numbers.below(300) * numbers.below(120));
}

/// Replays a trace on a tier whose order is loose and on an exact one; the hit ratios may lie 0.2 points apart.
fn compare_hits(mut trace: impl FnMut(u64) -> u64) {
    let tier = memory(1 << 40, Some(ENTRIES_COMPARED));
    let mut exact = LruCache::new(std::num::NonZero::new(ENTRIES_COMPARED as usize).unwrap());
    let (mut hits, mut hits_exact, turns) = (0_i64, 0_i64, 250_000);
    for turn in 0..turns {
        let name = trace(turn);
        let text = format!("k{name}");
        match tier.get(key(&text)) {
            Some(_) => hits += 1,
            None => assert_eq!(tier.insert(entry(&text, 8, turn), || true), Insertion::Inserted),
        }
        match exact.get(&name) {
            Some(()) => hits_exact += 1,
            None => assert_eq!(exact.put(name, ()), None),
        }
    }
    assert!(hits_exact > turns as i64 / 10, "{hits_exact}");
    assert!(turns as i64 - hits_exact > ENTRIES_COMPARED as i64 * 5 / 4, "evictions happen");
    let points = (hits - hits_exact).abs() as f64 * 100.0 / turns as f64;
    assert!(points <= 0.2, "{points} points apart: {hits} and {hits_exact}");
    assert!(!tier.0.budget.is_strict(), "the loose order is compared");
    assert!(tier.usage().all.entries <= ENTRIES_COMPARED);
}

/// Enough that the tier's order is loose.
const ENTRIES_COMPARED: u64 = 20_000;

#[test]
fn a_larger_share_is_bypassed_by_name_and_empties_nothing() {
    let tier = memory(10_000, None);
    assert_eq!(tier.insert(entry("a:1", 100, 1), || true), Insertion::Inserted);
    assert_eq!(tier.insert(entry("a:2", 6_000, 2), || true), Insertion::Bypassed);
    assert!(tier.peek(key("a:1")).is_some());
    // What it was to replace is older, and must not be served for it.
    assert_eq!(tier.insert(entry("a:1", 6_000, 3), || true), Insertion::Bypassed);
    assert!(tier.peek(key("a:1")).is_none());
    tier.set_share("b", 0.1).unwrap();
    assert_eq!(tier.insert(entry("b:1", 1_500, 4), || true), Insertion::Bypassed);
    assert_eq!(tier.usage().all.entries, 0);
}

#[test]
fn a_namespace_with_a_share_evicts_its_own_and_nobody_elses() {
    let tier = memory(100_000, None);
    (0..100).for_each(|i| {
        assert_eq!(tier.insert(entry(&format!("a:{i}"), 200, i), || true), Insertion::Inserted)
    });
    (0..100).for_each(|i| {
        assert_eq!(tier.insert(entry(&format!("b:{i}"), 200, i), || true), Insertion::Inserted)
    });
    // Set while full: what stands already counts.
    tier.set_share("b", 0.1).unwrap();
    assert!(tier.usage_of("b").bytes <= 10_000);
    assert!(tier.usage_of("b").bytes > 9_000);
    (100..300).for_each(|i| {
        assert!(tier.get(key("b:299")).is_none() || i > 0);
        assert_eq!(tier.insert(entry(&format!("b:{i}"), 200, i), || true), Insertion::Inserted);
    });
    assert_eq!(tier.usage_of("a").entries, 100);
    let kept = tier.usage_of("b").entries;
    (300 - kept..300).for_each(|i| assert!(tier.peek(key(&format!("b:{i}"))).is_some(), "b:{i}"));
    tier.set_share("b", 1.0).unwrap();
    (300..400).for_each(|i| {
        assert_eq!(tier.insert(entry(&format!("b:{i}"), 200, i), || true), Insertion::Inserted)
    });
    assert!(tier.usage_of("b").bytes > 20_000);
}

#[test]
fn a_lower_limit_takes_effect_at_once_and_a_higher_one_leaves_room() {
    let tier = memory(1 << 24, None);
    (0..30_000)
        .for_each(|i| assert_ne!(tier.insert(entry(&format!("k{i}"), 100, i), || true), Insertion::Bypassed));
    for bytes in [1 << 21, 1 << 16] {
        tier.set_limits(Limits { bytes, entries: None });
        assert!(tier.usage().all.bytes <= bytes, "{:?}", tier.usage());
        assert!(tier.usage().all.bytes > bytes * 9 / 10, "{:?}", tier.usage());
    }
    tier.set_limits(Limits { bytes: 0, entries: None });
    assert_eq!(tier.usage().all, Held::default());
    tier.set_limits(Limits { bytes: 1 << 21, entries: Some(7) });
    (0..9)
        .for_each(|i| assert_eq!(tier.insert(entry(&format!("k{i}"), 100, i), || true), Insertion::Inserted));
    assert_eq!(tier.usage().all.entries, 7);
}

#[test]
fn what_is_due_goes_unread_and_what_has_grace_stays_for_it() {
    let tier = memory(1 << 24, None);
    tier.set_grace("stale", Duration::from_secs(10));
    for i in 0..20_000_u64 {
        let name = format!("{}:{i}", if i % 2 == 0 { "plain" } else { "stale" });
        let expires_at = START.after(Duration::from_millis(i));
        let new = made(&Made { key: &name, body: 8, sequence: i, expires_at });
        assert_eq!(tier.insert(new, || true), Insertion::Inserted);
    }
    let sweep = |at: u64| {
        let mut entries = 0;
        loop {
            let swept = tier.sweep(START.after(Duration::from_millis(at)));
            entries += swept.entries;
            assert!(swept.entries <= 1100, "a step is bounded");
            if !swept.is_more_due {
                return entries;
            }
        }
    };
    assert_eq!(sweep(9_999), 5_000);
    assert_eq!(sweep(10_009), 5 + 5);
    assert_eq!(tier.usage_of("plain").entries, 4_995);
    tier.set_grace("stale", Duration::ZERO);
    assert_eq!(sweep(10_009), 5_000);
    assert_eq!(sweep(30_000), 9_990);
    assert_eq!(tier.usage().all, Held::default());
}

#[test]
fn a_scan_meets_each_that_stays_once_and_removes_only_what_it_saw() {
    let tier = memory(1 << 24, None);
    (0..5_000)
        .for_each(|i| assert_eq!(tier.insert(entry(&format!("s:{i}"), 8, i), || true), Insertion::Inserted));
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut next = Some(Cursor::default());
    let mut extra = 0;
    while let Some(at) = next {
        assert_eq!(Cursor::from_bits(at.to_bits()), at);
        let scanned = tier.scan(at, 100, |met| {
            *seen.entry(met.key().to_string()).or_default() += 1;
            if met.key().as_str().ends_with('7') {
                Verdict::Remove(Cause::Invalidated)
            } else {
                Verdict::Keep
            }
        });
        assert!(scanned.met < 1000);
        next = scanned.next;
        // The tables grow while the walk goes on.
        extra += 10;
        (extra - 10..extra).for_each(|i| {
            assert_ne!(tier.insert(entry(&format!("e:{i}"), 8, i), || true), Insertion::Bypassed)
        });
    }
    assert!((0..5_000).all(|i| seen.get(&format!("s:{i}")) == Some(&1)));
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!(tier.usage_of("s").entries, 4_500);
    assert_eq!(
        tier.clear(Cause::Deleted),
        tier.usage().all.entries + 4_500 + extra
            - seen.keys().filter(|k| k.starts_with("e:") && k.ends_with('7')).count() as u64
    );
}

#[test]
fn removals_are_told_with_their_cause_while_somebody_listens() {
    let tier = memory(1 << 20, Some(2));
    assert_eq!(tier.insert(entry("a:0", 1, 0), || true), Insertion::Inserted);
    tier.listen(true);
    assert_eq!(tier.insert(entry("a:0", 1, 1), || true), Insertion::Replaced);
    assert_eq!(tier.insert(entry("a:1", 1, 1), || true), Insertion::Inserted);
    assert_eq!(tier.insert(entry("a:2", 1, 1), || true), Insertion::Inserted);
    assert!(tier.remove(key("a:1")).is_some());
    let expires_at = START.after(Duration::from_millis(1));
    assert_eq!(
        tier.insert(made(&Made { key: "a:3", body: 1, sequence: 1, expires_at }), || true),
        Insertion::Inserted
    );
    assert_eq!(tier.sweep(START.after(Duration::from_secs(1))).entries, 1);
    let told: Vec<_> = tier.removals().into_iter().map(|told| (told.key.to_string(), told.cause)).collect();
    let expected =
        [("a:0", Cause::Replaced), ("a:0", Cause::Evicted), ("a:1", Cause::Deleted), ("a:3", Cause::Expired)];
    assert_eq!(told, expected.map(|(name, cause)| (name.to_owned(), cause)));
    (0..10_000)
        .for_each(|i| assert_ne!(tier.insert(entry(&format!("k{i}"), 1, i), || true), Insertion::Bypassed));
    assert!(tier.removals_dropped() > 0);
    tier.listen(false);
    assert!(tier.removals().is_empty());
}

/// P12: two writers with ascending sequences, readers, removers and evictions on few keys: no reader of a key ever
/// sees a lower sequence than it, or an acknowledged write before its read, has seen.
#[test]
fn per_key_no_reader_goes_back_in_time() {
    let tier = memory(1 << 16, Some(50));
    let (sequence, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
    let floors: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
    let acknowledged: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
    // Who writes a key takes its number and puts it in one go, as the engine does: between two writes that overlap,
    // one of which is evicted, the tier alone cannot know which was later.
    let turns: Vec<Mutex<()>> = (0..64).map(|_| Mutex::new(())).collect();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|seed| {
                let (tier, sequence, floors, acknowledged) = (&tier, &sequence, &floors, &acknowledged);
                let turns = &turns;
                scope.spawn(move || {
                    let mut numbers = Numbers(seed + 1);
                    for _ in 0..40_000 {
                        let at = numbers.below(64) as usize;
                        let turn = turns[at].lock();
                        let mine = sequence.fetch_add(1, Ordering::SeqCst);
                        // Announced before it stands: eviction may forget it, and what began earlier must
                        // not be admitted then. The tier keeps no memory of what left; its caller does.
                        floors[at].fetch_max(mine, Ordering::SeqCst);
                        let admit = || floors[at].load(Ordering::SeqCst) <= mine;
                        match tier.insert(entry(&format!("k{at}"), 20, mine), admit) {
                            Insertion::Outdated | Insertion::Refused => {}
                            _ => drop(acknowledged[at].fetch_max(mine, Ordering::SeqCst)),
                        }
                        drop(turn);
                        if numbers.below(10) == 0 {
                            let at = numbers.below(64) as usize;
                            let _turn = turns[at].lock();
                            let delete = sequence.fetch_add(1, Ordering::SeqCst);
                            floors[at].fetch_max(delete, Ordering::SeqCst);
                            tier.0.remove_if(key(&format!("k{at}")), Cause::Deleted, |old| {
                                old.sequence() < delete
                            });
                            acknowledged[at].fetch_max(delete, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        for seed in 0..2 {
            let (tier, is_over, acknowledged) = (&tier, &is_over, &acknowledged);
            scope.spawn(move || {
                let mut numbers = Numbers(seed + 100);
                let mut seen = HashMap::new();
                while !is_over.load(Ordering::Relaxed) {
                    let at = numbers.below(64) as usize;
                    let floor = acknowledged[at].load(Ordering::SeqCst);
                    let Some(found) = tier.get(key(&format!("k{at}"))) else { continue };
                    assert!(found.sequence() >= floor, "an older value than was acknowledged");
                    let last = seen.entry(at).or_insert(0);
                    assert!(found.sequence() >= *last, "back in time");
                    assert_eq!(found.body(), vec![(found.sequence() & 0xFF) as u8; 20]);
                    *last = found.sequence();
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(tier.usage().all.entries <= 50);
}

#[test]
fn the_accounts_come_to_zero_after_threads_have_done_everything_at_once() {
    let tier = memory(1 << 22, None);
    tier.set_share("n1", 0.2).unwrap();
    std::thread::scope(|scope| {
        for seed in 1..=3 {
            let tier = &tier;
            scope.spawn(move || {
                let mut numbers = Numbers(seed);
                for turn in 0..60_000 {
                    let name = format!("n{}:{}", numbers.below(3), numbers.below(30_000));
                    match numbers.below(10) {
                        0 => drop(tier.remove(key(&name))),
                        1..4 => drop(tier.get(key(&name))),
                        _ => {
                            let body = numbers.below(400) as usize;
                            let expires_at = START.after(Duration::from_millis(numbers.below(1000)));
                            let new = made(&Made { key: &name, body, sequence: turn, expires_at });
                            assert_ne!(tier.insert(new, || true), Insertion::Refused);
                        }
                    }
                    if turn % 5_000 == 0 {
                        tier.sweep(START.after(Duration::from_millis(turn / 100)));
                        assert!(tier.usage_of("n1").bytes <= (1 << 22) / 4);
                    }
                }
            });
        }
    });
    let usage = tier.usage();
    assert!(usage.all.bytes <= 1 << 22, "{usage:?}");
    let by_namespace: u64 = tier.usage_by_namespace().iter().map(|(_, held)| held.bytes).sum();
    assert_eq!(by_namespace, usage.all.bytes);
    tier.clear(Cause::Deleted);
    assert_eq!(tier.usage().all, Held::default());
    tier.0.settle_all();
    assert_eq!(tier.0.budget.sums(), Tally::default());
    assert!(tier.0.namespaces.all().all(|(_, namespace)| namespace.bytes() == 0));
}

#[test]
fn what_nobody_uses_is_over_after_its_idle_lifetime_unread_and_what_is_used_stays() {
    let clock = Clock::manual(START);
    let tier = Memory::new(Limits { bytes: 1 << 24, entries: None }, clock.clone());
    tier.set_idle("i", Some(Duration::from_secs(64)));
    for i in 0..100 {
        assert_eq!(tier.insert(entry(&format!("i:{i}"), 8, i), || true), Insertion::Inserted);
        assert_eq!(tier.insert(entry(&format!("plain:{i}"), 8, i), || true), Insertion::Inserted);
    }
    for _ in 0..10 {
        clock.advance(Duration::from_secs(40));
        assert!((0..10).all(|i| tier.get(key(&format!("i:{i}"))).is_some()), "used within its lifetime");
    }
    assert!((10..100).all(|i| tier.get(key(&format!("i:{i}"))).is_none()), "long over, and not swept yet");
    assert!(tier.peek(key("i:50")).is_none());
    assert_eq!(tier.usage_of("i").entries, 100);
    while tier.sweep(clock.now()).is_more_due {}
    assert_eq!((tier.usage_of("i").entries, tier.usage_of("plain").entries), (10, 100));
    // A peek is no use.
    clock.advance(Duration::from_secs(40));
    assert!(tier.peek(key("i:0")).is_some());
    clock.advance(Duration::from_secs(24));
    assert!(tier.get(key("i:0")).is_none());
    while tier.sweep(clock.now()).is_more_due {}
    assert_eq!(tier.usage_of("i").entries, 0);
    assert!(tier.get(key("plain:5")).is_some());
}
