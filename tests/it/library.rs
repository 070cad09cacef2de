//! The crate as a library: one cache over a scripted source.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hifz::clock::{Clock, Timestamp};
use hifz::memory::Cause;
use hifz::source::{Ask, Load, Loaded, Loading, Source};
use hifz::{
    Cache, DataDir, Durability, Error, ErrorKind, Event, Key, KeyRef, MissReason, Namespace, Operation,
    Outcome, Pattern, Policy, Tag,
};
use tempfile::tempdir;
use tokio::sync::Notify;

/// Answers with a counter, after it was let go when it is held.
#[derive(Debug, Default)]
struct Scripted {
    loads: AtomicU64,
    /// What is answered now; read when a load begins, as a real store would.
    value: AtomicU64,
    held: AtomicBool,
    begun: Notify,
    go: Notify,
    fails: AtomicBool,
}

impl Source for Scripted {
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        Box::pin(async move {
            self.loads.fetch_add(1, Ordering::SeqCst);
            let value = self.value.load(Ordering::SeqCst);
            self.begun.notify_one();
            if self.held.load(Ordering::SeqCst) {
                self.go.notified().await;
            }
            if self.fails.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::SourceUnavailable, "the source is down"));
            }
            if ask.key.as_str().ends_with("absent") {
                return Ok(Load::Absent);
            }
            Ok(Loaded::new(value.to_string()).content_type("text/plain").tag("numbers").into())
        })
    }
}

fn key(text: &str) -> KeyRef<'_> {
    KeyRef::parse(text).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
}

fn memory_only() -> Cache {
    Cache::builder().memory(1 << 20).open().unwrap()
}

#[test]
fn a_miss_is_loaded_once_and_then_hit() {
    let (cache, source) = (memory_only(), Arc::new(Scripted::default()));
    block_on(async {
        let first = cache.get_or_load(key("n:1"), &source).await.unwrap();
        let second = cache.get_or_load(key("n:1"), &source).await.unwrap();
        assert_eq!((first.outcome, second.outcome), (Outcome::Miss, Outcome::Hit));
        assert_eq!(first.entry.unwrap().body(), second.entry.unwrap().body());
    });
    assert_eq!(source.loads.load(Ordering::SeqCst), 1);
    assert_eq!((cache.stats().hits, cache.stats().misses), (1, 1));
}

#[test]
fn what_the_source_does_not_have_makes_no_entry() {
    let (cache, source) = (memory_only(), Arc::new(Scripted::default()));
    block_on(async { assert!(cache.get_or_load(key("n:absent"), &source).await.unwrap().entry.is_none()) });
    assert_eq!(cache.stats().entries, 0);
}

#[test]
fn fifty_callers_on_one_cold_key_cost_one_load() {
    let cache = memory_only();
    let source = Arc::new(Scripted::default());
    source.held.store(true, Ordering::SeqCst);
    block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (cache, source) = (cache.clone(), source.clone());
            callers.spawn(async move { cache.get_or_load(key("n:1"), &source).await.unwrap().outcome });
        }
        source.begun.notified().await;
        // Every other caller gets to its wait before the leader is let go.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        source.go.notify_one();
        source.held.store(false, Ordering::SeqCst);
        let outcomes = callers.join_all().await;
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Miss).count(), 1);
    });
    assert_eq!(source.loads.load(Ordering::SeqCst), 1);
}

#[test]
fn an_error_reaches_everyone_who_waits_and_is_not_kept() {
    let (cache, source) = (memory_only(), Arc::new(Scripted::default()));
    source.fails.store(true, Ordering::SeqCst);
    block_on(async {
        let error = cache.get_or_load(key("n:1"), &source).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceUnavailable);
        source.fails.store(false, Ordering::SeqCst);
        assert!(cache.get_or_load(key("n:1"), &source).await.unwrap().entry.is_some());
    });
}

/// Begins a load of the value 0, lets `change` happen with the value at 1, lets the load go, and returns what is then
/// read.
fn read_after(change: impl Fn(&Cache) + Send + Sync + 'static) -> (Cache, Vec<u8>) {
    let cache = memory_only();
    let source = Arc::new(Scripted::default());
    source.held.store(true, Ordering::SeqCst);
    let body = block_on(async {
        let (own_cache, own_source) = (cache.clone(), source.clone());
        let old = tokio::spawn(async move { own_cache.get_or_load(key("n:1"), &own_source).await });
        source.begun.notified().await;
        source.value.store(1, Ordering::SeqCst);
        change(&cache);
        source.held.store(false, Ordering::SeqCst);
        source.go.notify_one();
        let old = old.await.unwrap().unwrap();
        assert_eq!(old.outcome, Outcome::Bypass);
        cache.get_or_load(key("n:1"), &source).await.unwrap().entry.unwrap().body().to_vec()
    });
    (cache, body)
}

#[test]
fn a_load_that_an_invalidation_overtook_is_not_kept() {
    for change in [
        (|cache| assert!(!cache.delete(key("n:1")).unwrap())) as fn(&Cache),
        |cache| assert_eq!(cache.invalidate_namespace(Namespace::parse("n").unwrap()).unwrap(), 0),
        |cache| assert_eq!(cache.clear_all().unwrap(), 0),
        |cache| assert_eq!(cache.invalidate_tag(Tag::parse("numbers").unwrap()).unwrap(), 0),
        |cache| assert_eq!(cache.delete_pattern(Pattern::parse("n:?").unwrap()).unwrap(), 0),
        |cache| assert_eq!(cache.delete_pattern(Pattern::prefix("n:").unwrap()).unwrap(), 0),
    ] {
        assert_eq!(read_after(change).1, b"1");
    }
}

#[test]
fn a_load_that_a_write_overtook_does_not_replace_it() {
    let (_, body) = read_after(|cache| cache.set(key("n:1"), b"written").unwrap());
    assert_eq!(body, b"written");
}

#[test]
fn an_entry_is_served_until_its_deadline_and_not_after() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let namespace = Namespace::parse("n").unwrap();
    let policy = Policy::with_ttl(Duration::from_secs(10));
    let cache = Cache::builder().policy(&namespace, policy).clock(clock.clone()).open().unwrap();
    cache.set(key("n:1"), b"value").unwrap();
    clock.advance(Duration::from_millis(9_999));
    assert!(cache.get(key("n:1")).unwrap().is_some());
    clock.advance(Duration::from_millis(1));
    assert!(cache.get(key("n:1")).unwrap().is_none());
    crate::common::eventually("the sweep", || (cache.stats().entries == 0).then_some(()));
}

#[test]
fn memory_stays_within_its_limit_and_the_least_recently_used_goes_first() {
    let cache = Cache::builder().memory(1 << 20).max_entries(Some(3)).open().unwrap();
    for name in ["n:1", "n:2", "n:3"] {
        cache.set(key(name), b"value").unwrap();
    }
    cache.get(key("n:1")).unwrap();
    cache.set(key("n:4"), b"value").unwrap();
    let held: Vec<_> =
        ["n:1", "n:2", "n:3", "n:4"].iter().map(|name| cache.exists(key(name)).unwrap()).collect();
    assert_eq!(held, [true, false, true, true]);
    let body = vec![0; 10_000];
    for number in 0..1000 {
        cache.set(key(&format!("n:{number}")), &body).unwrap();
        assert!(cache.stats().memory_charged_bytes <= 1 << 20);
    }
}

#[test]
fn a_value_larger_than_the_cache_is_refused_and_empties_nothing() {
    let cache = memory_only();
    cache.set(key("n:small"), b"small").unwrap();
    let error = cache.set(key("n:large"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ValueTooLarge);
    assert!(cache.exists(key("n:small")).unwrap());
}

#[test]
fn entries_come_back_after_a_close_and_what_was_deleted_does_not() {
    let directory = tempdir().unwrap();
    let open = || {
        let directory = DataDir::open(directory.path()).unwrap();
        Cache::builder().memory(1 << 20).durability(Durability::Interval).data_dir(directory).open().unwrap()
    };
    let cache = open();
    cache.set(key("n:kept"), b"kept").unwrap();
    cache.set(key("n:deleted"), b"deleted").unwrap();
    cache.set(key("m:1"), b"of another namespace").unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.delete_many(&[Key::parse("n:deleted").unwrap()]).unwrap(), 1);
    cache.invalidate_namespace(Namespace::parse("m").unwrap()).unwrap();
    cache.close().unwrap();
    drop(cache);
    let cache = open();
    assert_eq!(cache.get(key("n:kept")).unwrap().unwrap().body(), b"kept");
    assert!(cache.get(key("n:deleted")).unwrap().is_none());
    assert!(cache.get(key("m:1")).unwrap().is_none());
}

#[test]
fn what_memory_evicted_is_found_on_disk() {
    let directory = tempdir().unwrap();
    let data_dir = DataDir::open(directory.path()).unwrap();
    let cache = Cache::builder().max_entries(Some(1)).data_dir(data_dir).open().unwrap();
    cache.set(key("n:1"), b"one").unwrap();
    cache.set(key("n:2"), b"two").unwrap();
    assert_eq!(cache.get(key("n:1")).unwrap().unwrap().body(), b"one");
    let source = Arc::new(Scripted::default());
    let answer = block_on(cache.get_or_load(key("n:2"), &source)).unwrap();
    assert_eq!((answer.outcome, answer.entry.unwrap().body()), (Outcome::Hit, b"two".as_slice()));
}

#[test]
fn a_closed_cache_refuses_and_closing_twice_is_harmless() {
    let cache = memory_only();
    cache.close().unwrap();
    cache.close().unwrap();
    assert_eq!(cache.get(key("n:1")).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(cache.set(key("n:1"), b"").unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_pattern_takes_what_it_covers_from_memory_and_disk_and_nothing_else() {
    let directory = tempdir().unwrap();
    let open = || Cache::builder().data_dir(DataDir::open(directory.path()).unwrap()).open().unwrap();
    let cache = open();
    for name in ["n:1:a", "n:2:a", "n:2:b", "m:2:a"] {
        cache.set(key(name), b"value").unwrap();
    }
    cache.flush().unwrap();
    assert_eq!(cache.delete_pattern(Pattern::parse("n:[12]:a").unwrap()).unwrap(), 2);
    let standing = |cache: &Cache| -> Vec<bool> {
        ["n:1:a", "n:2:a", "n:2:b", "m:2:a"].iter().map(|name| cache.exists(key(name)).unwrap()).collect()
    };
    assert_eq!(standing(&cache), [false, false, true, true]);
    cache.set(key("n:1:a"), b"written after").unwrap();
    cache.close().unwrap();
    drop(cache);
    let cache = open();
    assert_eq!(standing(&cache), [true, false, true, true]);
    let mut keys = Vec::new();
    let mut next = Some(hifz::memory::Cursor::default());
    // Whatever is not loaded yet is loaded by being asked for.
    for name in ["m:2:a", "n:1:a", "n:2:b"] {
        assert!(cache.get(key(name)).unwrap().is_some());
    }
    while let Some(at) = next {
        let (some, then) = cache.keys(at, 2);
        keys.extend(some.iter().map(ToString::to_string));
        next = then;
    }
    keys.sort();
    assert_eq!(keys, ["m:2:a", "n:1:a", "n:2:b"]);
}

#[test]
fn a_full_cache_is_charged_up_to_its_limit_whoever_takes_it() {
    let cache = memory_only();
    let limit = cache.stats().memory_limit_bytes;
    let mut charge = cache.charge();
    for beside in [0, limit / 2] {
        charge.set(beside);
        for number in 0..2000 {
            cache.set(key(&format!("n:{number}")), [0; 2000]).unwrap();
        }
        let charged = cache.stats().memory_charged_bytes;
        assert!(charged > limit / 100 * 99 && charged <= limit, "{charged} of {limit}, {beside} beside");
    }
}

#[test]
fn the_limit_can_be_lowered_while_running() {
    let cache = memory_only();
    for number in 0..100 {
        cache.set(key(&format!("n:{number}")), [0; 5000]).unwrap();
    }
    cache.set_memory(200_000);
    assert!(cache.stats().memory_charged_bytes <= 200_000);
    assert!(cache.exists(key("n:99")).unwrap() && !cache.exists(key("n:1")).unwrap());
    assert_eq!(cache.namespaces()[0].0, "n");
}

#[test]
fn an_invalidation_counts_each_entry_once() {
    let cache = memory_only();
    for number in 0..50 {
        cache.set(key(&format!("n:{number}")), b"value").unwrap();
    }
    let namespace = Namespace::parse("n").unwrap();
    assert_eq!(cache.invalidate_namespace(&namespace).unwrap(), 50);
    assert_eq!(cache.invalidate_namespace(&namespace).unwrap(), 0);
    cache.set(key("n:again"), b"value").unwrap();
    assert_eq!(cache.clear_all().unwrap(), 1);
    crate::common::eventually("the sweep", || (cache.stats().entries == 0).then_some(()));
}

#[test]
fn a_listener_is_told_what_left_and_why() {
    let cache = Cache::builder().max_entries(Some(2)).open().unwrap();
    let mut subscription = cache.subscribe();
    let values: Vec<_> =
        ["n:1", "n:2", "n:2", "n:3"].iter().map(|name| (key(name), b"value".as_slice())).collect();
    cache.set_many(values).unwrap();
    cache.delete(key("n:3")).unwrap();
    assert_eq!(cache.get_many([key("n:1"), key("n:2")]).unwrap().iter().flatten().count(), 1);
    let told: Vec<_> = block_on(async {
        let mut told = Vec::new();
        while told.len() < 3 {
            if let Some(Event::Removed(removal)) = subscription.next().await {
                told.push((removal.key.to_string(), removal.cause));
            }
        }
        told
    });
    let expected = [("n:2", Cause::Replaced), ("n:1", Cause::Evicted), ("n:3", Cause::Deleted)];
    assert_eq!(told, expected.map(|(name, cause)| (name.to_owned(), cause)));
}

#[test]
fn every_way_out_is_told_with_its_own_cause() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let cache = Cache::builder().max_entries(Some(2)).clock(clock.clone()).open().unwrap();
    let mut subscription = cache.subscribe();
    for name in ["n:1", "n:1", "n:2", "n:3"] {
        cache.set(key(name), b"v").unwrap();
    }
    cache.delete(key("n:3")).unwrap();
    cache.set(key("m:1"), b"v").unwrap();
    cache.invalidate_namespace(Namespace::parse("m").unwrap()).unwrap();
    // What is over or dead is taken out, and told of, though nobody asks for it.
    let mut told = Vec::new();
    block_on(async {
        while told.len() < 5 {
            if let Some(Event::Removed(removal)) = subscription.next().await {
                told.push((removal.cause, removal.key.to_string()));
                if removal.cause == Cause::Invalidated {
                    clock.advance(Duration::from_hours(2));
                }
            }
        }
    });
    told.sort_by_key(|(cause, _)| cause.index());
    let keys = told.iter().map(|(cause, key)| (*cause, key.as_str()));
    let expected = ["n:1", "n:2", "n:3", "m:1", "n:1"].into_iter().zip(Cause::ALL);
    assert_eq!(keys.collect::<Vec<_>>(), expected.map(|(key, cause)| (cause, key)).collect::<Vec<_>>());
}

#[test]
fn figures_tell_what_happened_in_each_namespace_and_why() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    // What could still be served stale is left where it is by the sweeper, so that it is met and not absent.
    let policy = Policy::default().stale_if_error(Duration::from_hours(1));
    let builder = Cache::builder().memory(1 << 20).max_entries(Some(3)).clock(clock.clone());
    let cache = builder.policy(&Namespace::parse("a").unwrap(), policy).open().unwrap();
    let ask = |text: &str| cache.get(key(text)).unwrap().is_some();
    let put = |text: &str| cache.set(key(text), b"v").unwrap();
    assert!(!ask("a:1"));
    put("a:1");
    assert!(ask("a:1"));
    cache.set_until(key("a:1"), b"w", cache.now().after(Duration::from_millis(1))).unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(!ask("a:1"));
    put("b:1");
    assert_eq!(cache.invalidate_namespace(Namespace::parse("b").unwrap()).unwrap(), 1);
    assert!(!ask("b:1"));
    ["a:2", "a:3", "a:4", "a:5"].into_iter().for_each(put);
    assert!(cache.delete(key("a:5")).unwrap());
    let stats = cache.stats();
    let of = |name: &str| stats.namespaces.iter().find(|of| of.name == name).unwrap();
    let (a, b) = (of("a").happened, of("b").happened);
    assert_eq!((a.hits(), a.misses(), a.hit_ratio()), (1, 2, Some(1.0 / 3.0)));
    assert_eq!((a.misses_by(MissReason::Absent), a.misses_by(MissReason::Expired)), (1, 1));
    // What the sweeper has buried already is absent.
    let missed = b.misses_by(MissReason::Invalidated) + b.misses_by(MissReason::Absent);
    assert_eq!((b.hits(), missed), (0, 1));
    assert_eq!(a.operations(Operation::Set), 6);
    assert_eq!(a.operations(Operation::Delete), 1);
    assert_eq!(b.operations(Operation::Invalidate), 1);
    assert_eq!((a.removals(Cause::Replaced), a.removals(Cause::Deleted)), (1, 1));
    assert_eq!(
        (stats.hits, stats.misses, stats.entries),
        (1, 3, of("a").held.entries + of("b").held.entries)
    );
    assert_eq!(stats.all.misses(), 3);
    assert!(Cause::ALL.into_iter().map(|cause| stats.all.removals(cause)).sum::<u64>() >= 4);
}

#[tokio::test]
async fn figures_tell_how_long_sources_took() {
    let policy = Policy::default().attempts(1);
    let cache = Cache::builder().memory(1 << 20).default_policy(policy).open().unwrap();
    let source = Arc::new(Scripted::default());
    assert!(cache.get_or_load(key("a:1"), &source).await.unwrap().entry.is_some());
    assert!(cache.get_or_load(key("a:1"), &source).await.unwrap().entry.is_some());
    source.fails.store(true, Ordering::SeqCst);
    assert!(cache.get_or_load(key("a:2"), &source).await.is_err());
    let stats = cache.stats();
    assert_eq!(stats.source_latencies.count(), 2);
    assert!(stats.source_latencies.quantile(0.5).is_some());
    assert_eq!((stats.hits, stats.misses), (1, 2));
    assert_eq!(stats.all.misses_by(MissReason::Failed), 1);
    assert_eq!(stats.all.operations(Operation::Load), 2);
}

#[test]
fn what_nobody_uses_is_over_in_memory_and_on_disk_and_each_use_prolongs_it() {
    let directory = tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let policy = Policy::with_ttl(Duration::from_hours(1)).idle_ttl(Some(Duration::from_secs(64)));
    let open = || {
        let cache = Cache::builder().memory(1 << 20).clock(clock.clone());
        let cache = cache.policy(&Namespace::parse("idle").unwrap(), policy);
        cache.data_dir(DataDir::open(directory.path()).unwrap()).open().unwrap()
    };
    let cache = open();
    cache.set(key("idle:used"), b"v").unwrap();
    cache.set(key("idle:unused"), b"v").unwrap();
    cache.flush().unwrap();
    for _ in 0..3 {
        clock.advance(Duration::from_secs(40));
        assert!(cache.get(key("idle:used")).unwrap().is_some());
    }
    assert!(cache.get(key("idle:unused")).unwrap().is_none(), "neither in memory nor from disk");
    cache.set(key("idle:new"), b"v").unwrap();
    cache.close().unwrap();
    drop(cache);
    clock.advance(Duration::from_secs(30));
    let cache = open();
    assert!(cache.get(key("idle:new")).unwrap().is_some(), "stored less than its idle lifetime ago");
    assert!(cache.get(key("idle:used")).unwrap().is_none(), "when it was last used is not known any more");
}
