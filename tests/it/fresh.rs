//! The freshness policy over a source that hurts: it counts, waits, fails, hangs, panics and lies.

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use hifz::clock::{Clock, Timestamp, monotonic_now};
use hifz::source::{Ask, Held, Load, Loaded, Loading, Source, Weighing, Weight};
use hifz::{
    Answer, Breaker, Cache, DataDir, Error, ErrorKind, Event, Key, KeyRef, Namespace, Outcome, Policy, Result,
};
use tempfile::tempdir;
use tokio::sync::Notify;

/// What the source does next; what is not scripted answers with its current value.
#[derive(Debug, Clone)]
enum Step {
    Give(Load),
    Fail(ErrorKind),
    Hang,
    Panic,
    /// Waits until it is let go, then answers with the value that was current when it was asked.
    Held,
}

#[derive(Debug, Default)]
struct Hurtful {
    steps: Mutex<VecDeque<Step>>,
    /// What it does when nothing is scripted.
    always: Mutex<Option<Step>>,
    value: AtomicU64,
    asked_at: Mutex<Vec<Instant>>,
    validators: Mutex<Vec<Option<String>>>,
    begun: Notify,
    go: Notify,
    refuses: Mutex<Option<Vec<u8>>>,
}

impl Hurtful {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn then(self: &Arc<Self>, steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        self.steps.lock().unwrap().extend(steps);
        self.clone()
    }

    fn always(self: &Arc<Self>, step: Step) -> Arc<Self> {
        *self.always.lock().unwrap() = Some(step);
        self.clone()
    }

    fn asked(&self) -> usize {
        self.asked_at.lock().unwrap().len()
    }

    fn next(&self) -> Option<Step> {
        let scripted = self.steps.lock().unwrap().pop_front();
        scripted.or_else(|| self.always.lock().unwrap().clone())
    }
}

impl Source for Hurtful {
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        Box::pin(async move {
            self.asked_at.lock().unwrap().push(monotonic_now());
            self.validators.lock().unwrap().push(ask.validator.map(ToOwned::to_owned));
            let value = self.value.load(Ordering::SeqCst);
            let current = Loaded::new(value.to_string()).content_type("text/plain").tag("numbers");
            let step = self.next();
            self.begun.notify_one();
            match step {
                None => Ok(current.into()),
                Some(Step::Give(load)) => Ok(load),
                Some(Step::Fail(kind)) => Err(Error::new(kind, "the source hurts")),
                Some(Step::Hang) => std::future::pending().await,
                Some(Step::Panic) => panic!("the source panics"),
                Some(Step::Held) => {
                    self.go.notified().await;
                    Ok(current.into())
                }
            }
        })
    }

    fn validate(&self, _: KeyRef<'_>, loaded: &Loaded) -> Result<()> {
        if self.refuses.lock().unwrap().as_ref() == Some(&loaded.body) {
            return Err(Error::new(ErrorKind::DocumentInvalid, "not of the schema").at("ayahs"));
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "hurtful"
    }
}

const N1: &str = "n:1";

fn key(text: &str) -> KeyRef<'_> {
    KeyRef::parse(text).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
}

/// Fresh for ten seconds, then ten of revalidation, and a minute of fallback.
fn policy() -> Policy {
    Policy::with_ttl(Duration::from_secs(10))
        .stale_while_revalidate(Duration::from_secs(10))
        .stale_if_error(Duration::from_mins(1))
        .backoff(Duration::from_millis(2))
}

fn cache_with(policy: Policy) -> (Cache, Clock) {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let namespace = Namespace::parse("n").unwrap();
    let cache = Cache::builder().memory(1 << 20).policy(&namespace, policy).clock(clock.clone());
    (cache.open().unwrap(), clock)
}

/// The same with a disk tier in `directory`.
fn persisted(directory: &Path, clock: &Clock) -> Cache {
    let (namespace, directory) = (Namespace::parse("n").unwrap(), DataDir::open(directory).unwrap());
    let cache = Cache::builder().policy(&namespace, policy()).data_dir(directory).clock(clock.clone());
    cache.open().unwrap()
}

fn ask(cache: &Cache, source: &Arc<Hurtful>) -> Result<Answer> {
    cache.get_or_load_blocking(key(N1), source)
}

/// The outcome and the body.
fn seen(answer: Result<Answer>) -> (Outcome, String) {
    let answer = answer.unwrap();
    let body = answer.entry.map(|entry| String::from_utf8(entry.body().to_vec()).unwrap());
    (answer.outcome, body.unwrap_or_else(|| "none".into()))
}

fn is(outcome: Outcome, body: &str) -> (Outcome, String) {
    (outcome, body.to_owned())
}

fn down() -> Step {
    Step::Fail(ErrorKind::SourceUnavailable)
}

/// Whether each gap between two moments is within its bound and what waking up takes.
fn are_within(moments: &[Instant], bounds_ms: &[u64]) -> bool {
    let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.zip(bounds_ms).all(|(gap, bound_ms)| gap <= Duration::from_millis(bound_ms + 60))
}

/// Waits for what happens beside the callers.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    crate::common::eventually(what, || holds().then_some(()));
}

#[test]
fn failing_twice_and_then_working_costs_three_calls_each_gap_within_its_bound() {
    // What a busy machine adds is not the policy's, and leaves one of many tries alone.
    crate::common::eventually("a try whose gaps are within their bounds", || {
        let (cache, _) = cache_with(policy().backoff(Duration::from_millis(100)));
        let source = Hurtful::new().then([down(), down()]);
        assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
        let asked = source.asked_at.lock().unwrap().clone();
        assert_eq!(asked.len(), 3);
        are_within(&asked, &[100, 200]).then_some(())
    });
}

#[test]
fn what_is_down_for_ever_is_served_stale_within_its_window_and_marked_and_then_not_at_all() {
    let (cache, clock) = cache_with(policy().attempts(1).breaker_failures(1000));
    let source = Hurtful::new();
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
    source.always(down());
    clock.advance(Duration::from_secs(10));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Revalidating, "0"));
    eventually("the failed load", || source.asked() == 2);
    for _ in 0..59 {
        clock.advance(Duration::from_secs(1));
        let (outcome, body) = seen(ask(&cache, &source));
        assert!(matches!(outcome, Outcome::Revalidating | Outcome::Fallback), "{outcome:?}");
        assert_eq!(body, "0");
    }
    clock.advance(Duration::from_millis(999));
    assert!(ask(&cache, &source).is_ok());
    clock.advance(Duration::from_millis(1));
    assert_eq!(ask(&cache, &source).unwrap_err().kind(), ErrorKind::SourceUnavailable);
    source.always.lock().unwrap().take();
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
}

#[test]
fn on_an_expired_key_inside_its_window_nobody_waits_and_the_source_is_asked_once() {
    let (cache, clock) = cache_with(policy());
    let source = Hurtful::new();
    ask(&cache, &source).unwrap();
    source.value.store(1, Ordering::SeqCst);
    source.then([Step::Held]);
    clock.advance(Duration::from_secs(10));
    for _ in 0..50 {
        assert_eq!(seen(ask(&cache, &source)), is(Outcome::Revalidating, "0"));
    }
    source.go.notify_one();
    eventually("the new value", || seen(ask(&cache, &source)) == is(Outcome::Hit, "1"));
    assert_eq!(source.asked(), 2);
}

#[test]
fn after_the_soft_time_out_what_is_stale_is_served_while_the_load_goes_on() {
    let policy = policy().stale_while_revalidate(Duration::ZERO).soft_timeout(Some(Duration::from_millis(5)));
    let (cache, clock) = cache_with(policy);
    let source = Hurtful::new();
    ask(&cache, &source).unwrap();
    source.value.store(1, Ordering::SeqCst);
    source.then([Step::Held]);
    clock.advance(Duration::from_secs(10));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Stale, "0"));
    source.go.notify_one();
    eventually("the new value", || seen(ask(&cache, &source)) == is(Outcome::Hit, "1"));
    assert_eq!(source.asked(), 2);
}

#[test]
fn a_source_that_hangs_is_given_up_and_asked_again() {
    let (cache, _) = cache_with(policy().timeout(Duration::from_millis(20)));
    let source = Hurtful::new().then([Step::Hang, Step::Hang]);
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
    assert_eq!(source.asked(), 3);
    let source = Hurtful::new().always(Step::Hang);
    let error = cache.get_or_load_blocking(key("n:2"), &source).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceTimedOut);
}

#[test]
fn a_caller_keeps_its_own_deadline_while_the_load_goes_on() {
    let (cache, _) = cache_with(policy().patience(Duration::from_millis(20)));
    let source = Hurtful::new().then([Step::Held]);
    assert_eq!(ask(&cache, &source).unwrap_err().kind(), ErrorKind::SourceTimedOut);
    source.go.notify_one();
    eventually("the value", || cache.get(key(N1)).unwrap().is_some());
    assert_eq!(source.asked(), 1);
}

#[test]
fn a_caller_that_is_cancelled_ends_nobodys_load() {
    let (cache, _) = cache_with(policy());
    let source = Hurtful::new().then([Step::Held]);
    block_on(async {
        let (own_cache, own_source) = (cache.clone(), source.clone());
        let first = tokio::spawn(async move { own_cache.get_or_load(key(N1), &own_source).await });
        source.begun.notified().await;
        let (own_cache, own_source) = (cache.clone(), source.clone());
        let second = tokio::spawn(async move { own_cache.get_or_load(key(N1), &own_source).await });
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        source.go.notify_one();
        assert!(second.await.unwrap().unwrap().entry.is_some());
    });
    assert_eq!(source.asked(), 1);
}

#[test]
fn a_runtime_that_ends_with_its_loads_leaves_waiters_elsewhere_a_new_one() {
    let (cache, _) = cache_with(policy());
    let source = Hurtful::new().then([Step::Held]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let (own_cache, own_source) = (cache.clone(), source.clone());
    runtime.spawn(async move { own_cache.get_or_load(key(N1), &own_source).await });
    block_on(source.begun.notified());
    let waiter = {
        let (cache, source) = (cache.clone(), source.clone());
        std::thread::spawn(move || seen(ask(&cache, &source)))
    };
    runtime.shutdown_background();
    let (outcome, body) = waiter.join().unwrap();
    assert!(matches!(outcome, Outcome::Miss | Outcome::Hit), "{outcome:?}");
    assert_eq!(body, "0");
}

#[test]
fn a_source_that_panics_fails_its_waiters_at_once_and_harms_nobody_else() {
    let (cache, _) = cache_with(policy());
    let source = Hurtful::new().then([Step::Panic]);
    assert_eq!(ask(&cache, &source).unwrap_err().kind(), ErrorKind::SourceRefused);
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
}

#[test]
fn fifty_callers_sync_and_async_on_one_cold_key_cost_one_load() {
    let (cache, _) = cache_with(policy());
    let source = Hurtful::new().then([Step::Held]);
    let ready = Arc::new(Barrier::new(26));
    let threads: Vec<_> = (0..25)
        .map(|_| {
            let (cache, source, ready) = (cache.clone(), source.clone(), ready.clone());
            std::thread::spawn(move || {
                ready.wait();
                seen(ask(&cache, &source))
            })
        })
        .collect();
    let outcomes = block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..25 {
            let (cache, source) = (cache.clone(), source.clone());
            tasks.spawn(async move { seen(cache.get_or_load(key(N1), &source).await) });
        }
        ready.wait();
        source.begun.notified().await;
        source.go.notify_one();
        tasks.join_all().await
    });
    let outcomes: Vec<_> =
        outcomes.into_iter().chain(threads.into_iter().map(|thread| thread.join().unwrap())).collect();
    assert!(outcomes.iter().all(|(_, body)| body == "0"));
    assert_eq!(outcomes.iter().filter(|(outcome, _)| *outcome == Outcome::Miss).count(), 1);
    assert_eq!(source.asked(), 1);
}

#[test]
fn keys_do_not_wait_for_one_another() {
    let (cache, _) = cache_with(policy());
    let held = Hurtful::new().always(Step::Held);
    block_on(async {
        let (own_cache, own_source) = (cache.clone(), held.clone());
        let waiting = tokio::spawn(async move { own_cache.get_or_load(key(N1), &own_source).await });
        held.begun.notified().await;
        assert!(cache.get_or_load(key("n:2"), &Hurtful::new()).await.unwrap().entry.is_some());
        held.go.notify_one();
        assert!(waiting.await.unwrap().is_ok());
    });
}

#[test]
fn loads_are_bounded_in_number_and_the_rest_wait_their_turn() {
    let cache = Cache::builder().loads_max(2).open().unwrap();
    let source = Hurtful::new().always(Step::Held);
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..6 {
            let (cache, source, own) = (cache.clone(), source.clone(), format!("n:{number}"));
            tasks.spawn(async move { cache.get_or_load(key(&own), &source).await.is_ok() });
        }
        let mut most = 0;
        let mut done = 0;
        while done < 6 {
            tokio::task::yield_now().await;
            most = most.max(source.asked() - done);
            if source.asked() > done {
                source.go.notify_one();
                assert!(tasks.join_next().await.unwrap().unwrap());
                done += 1;
            }
        }
        assert!(most <= 2, "{most}");
    });
}

/// Says what it will need, and goes on with its work after it was given up, as a thread does.
#[derive(Debug, Default)]
struct Busy {
    attempts: AtomicU64,
    at_work: Mutex<Vec<Held>>,
}

impl Source for Busy {
    fn weigh<'l>(&'l self, _: KeyRef<'l>) -> Weighing<'l> {
        Box::pin(async { Ok(Weight::of(1 << 20)) })
    }

    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        Box::pin(async move {
            self.attempts.fetch_add(1, Ordering::SeqCst);
            let held = ask.hold_room().await;
            self.at_work.lock().unwrap().push(held);
            std::future::pending().await
        })
    }
}

#[test]
fn work_that_goes_on_after_its_load_was_given_up_keeps_its_room_and_is_not_begun_twice() {
    let policy = Policy::default().timeout(Duration::from_millis(20)).attempts(3);
    let cache = Cache::builder()
        .memory(16 << 20)
        .policy(&Namespace::parse("n").unwrap(), policy.backoff(Duration::from_millis(1)))
        .open()
        .unwrap();
    let source = Arc::new(Busy::default());
    let error = block_on(cache.get_or_load(key(N1), &source)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceTimedOut);
    assert!(source.attempts.load(Ordering::SeqCst) > 1);
    assert_eq!(source.at_work.lock().unwrap().len(), 1, "the others waited for the first");
    assert!(cache.stats().memory_withheld_bytes > 0);
    source.at_work.lock().unwrap().clear();
    assert_eq!(cache.stats().memory_withheld_bytes, 0);
}

/// Takes room for this many bytes, then waits until it is let go.
#[derive(Debug, Default)]
struct Hoarder {
    bytes: u64,
    holding: AtomicU64,
    go: Notify,
}

impl Source for Hoarder {
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        Box::pin(async move {
            ask.take_room(self.bytes)?;
            self.holding.fetch_add(1, Ordering::SeqCst);
            self.go.notified().await;
            Ok(Loaded::new("held").into())
        })
    }
}

#[test]
fn loads_are_bounded_in_bytes_and_one_beyond_is_refused_until_others_have_ended() {
    // An eighth of the memory or two of the largest values, whichever is more.
    let policy = Policy::default().attempts(1);
    let builder = Cache::builder().memory(1 << 20).value_max(100_000);
    let cache = builder.policy(&Namespace::parse("n").unwrap(), policy).open().unwrap();
    let source = Arc::new(Hoarder { bytes: 90_000, ..Hoarder::default() });
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..2 {
            let (cache, source, own) = (cache.clone(), source.clone(), format!("n:{number}"));
            tasks.spawn(async move { cache.get_or_load(key(&own), &source).await.is_ok() });
        }
        while source.holding.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        let refused = cache.get_or_load(key("n:third"), &source).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        // A value in one piece counts as well.
        let large = Hurtful::new().always(Step::Give(Loaded::new(vec![b'x'; 90_000]).into()));
        assert_eq!(cache.get_or_load(key("n:large"), &large).await.unwrap_err().kind(), ErrorKind::Busy);
        source.go.notify_waiters();
        assert_eq!(tasks.join_all().await, [true, true]);
        assert!(cache.get_or_load(key("n:large"), &large).await.unwrap().entry.is_some());
    });
}

#[test]
fn warming_lets_ordinary_callers_go_first() {
    let cache = Cache::builder().loads_max(4).open().unwrap();
    let (held, warming) = (Hurtful::new().always(Step::Held), Hurtful::new());
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..3 {
            let (cache, source, own) = (cache.clone(), held.clone(), format!("n:{number}"));
            tasks.spawn(async move { cache.get_or_load(key(&own), &source).await.is_ok() });
        }
        while held.asked() < 3 {
            tokio::task::yield_now().await;
        }
        let keys = (0..5).map(|number| Key::parse(format!("warm:{number}")).unwrap());
        let mut warm = std::pin::pin!(cache.warm(keys, &warming, |_| ()));
        // More than half of what may load at once is taken, so none of its loads begins, and one caller after the other
        // is answered meanwhile.
        for number in 0..50 {
            assert!(futures_lite::future::poll_once(warm.as_mut()).await.is_none());
            let ordinary = Hurtful::new();
            assert!(cache.get_or_load(key(&format!("o:{number}")), &ordinary).await.is_ok());
        }
        assert_eq!(warming.asked(), 0);
        (0..3).for_each(|_| held.go.notify_one());
        assert_eq!((tasks.join_all().await, warm.await.loaded), (vec![true; 3], 5));
    });
}

#[test]
fn warming_itself_takes_up_half_of_what_may_load_at_once_and_no_more() {
    let cache = Cache::builder().loads_max(4).open().unwrap();
    let warming = Hurtful::new().always(Step::Held);
    block_on(async {
        let keys = (0..5).map(|number| Key::parse(format!("warm:{number}")).unwrap());
        let mut warm = std::pin::pin!(cache.warm(keys, &warming, |_| ()));
        for number in 0..50 {
            assert!(futures_lite::future::poll_once(warm.as_mut()).await.is_none());
            let ordinary = Hurtful::new();
            assert!(cache.get_or_load(key(&format!("o:{number}")), &ordinary).await.is_ok());
            assert!(warming.asked() <= 2, "{}", warming.asked());
        }
        *warming.always.lock().unwrap() = None;
        (0..2).for_each(|_| warming.go.notify_one());
        assert_eq!(warm.await.loaded, 5);
    });
}

#[test]
fn a_value_that_fails_validation_never_takes_the_place_of_a_good_one_and_an_event_says_so() {
    let (cache, clock) = cache_with(policy().stale_while_revalidate(Duration::ZERO));
    let source = Hurtful::new();
    ask(&cache, &source).unwrap();
    *source.refuses.lock().unwrap() = Some(b"rubbish".to_vec());
    source.always(Step::Give(Loaded::new("rubbish").into()));
    let mut events = cache.subscribe();
    clock.advance(Duration::from_secs(10));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Fallback, "0"));
    let told = block_on(async {
        loop {
            if let Some(Event::Rejected { key, reason }) = events.next().await {
                return (key.to_string(), reason);
            }
        }
    });
    assert_eq!(told.0, N1);
    assert!(told.1.contains("ayahs: not of the schema"), "{}", told.1);
    let error = cache.get_or_load_blocking(key("n:other"), &source).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceRefused);
    assert!(cache.get(key("n:other")).unwrap().is_none());
    // What is refused is there: it opens no breaker, and is not asked twice for the same rubbish.
    assert_eq!(cache.sources()[0].breaker, Breaker::Closed);
    assert_eq!(source.asked(), 3);
    assert_eq!(cache.stats().all.outcome(Outcome::Rejected), 1);
}

#[test]
fn empty_values_are_values() {
    let (cache, _) = cache_with(policy());
    for (name, body) in [("n:empty", ""), ("n:zero", "0"), ("n:list", "[]")] {
        let source = Hurtful::new().then([Step::Give(Loaded::new(body).into())]);
        let first = cache.get_or_load_blocking(key(name), &source);
        assert_eq!(seen(first), is(Outcome::Miss, body));
        assert_eq!(seen(cache.get_or_load_blocking(key(name), &source)), is(Outcome::Hit, body));
        assert_eq!(source.asked(), 1);
    }
}

#[test]
fn absence_is_remembered_for_its_time_is_no_entry_and_hides_nothing_written() {
    let (cache, clock) = cache_with(policy().negative_ttl(Duration::from_secs(5)));
    let source = Hurtful::new().always(Step::Give(Load::Absent));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "none"));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Negative, "none"));
    assert!(cache.absent_until(key(N1)).is_some());
    assert_eq!((cache.stats().entries, cache.exists(key(N1)).unwrap()), (0, false));
    assert!(!cache.delete(key("n:other")).unwrap());
    assert_eq!(source.asked(), 1);
    clock.advance(Duration::from_secs(5));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "none"));
    cache.set(key(N1), b"written").unwrap();
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Hit, "written"));
    cache.delete(key(N1)).unwrap();
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "none"));
    assert_eq!(source.asked(), 3);
    assert_eq!(cache.stats().all.outcome(Outcome::Negative), 1);
}

#[test]
fn absence_is_invalidated_as_anything_else_is() {
    let invalidations: [fn(&Cache); 5] = [
        |cache| assert!(!cache.delete(key(N1)).unwrap()),
        |cache| assert_eq!(cache.invalidate_namespace("n").unwrap(), 0),
        |cache| assert_eq!(cache.invalidate_tag("numbers").unwrap(), 0),
        |cache| assert_eq!(cache.delete_pattern("n:?").unwrap(), 0),
        |cache| assert_eq!(cache.clear_all().unwrap(), 0),
    ];
    for invalidate in invalidations {
        let (cache, _) = cache_with(policy());
        let source = Hurtful::new().then([Step::Give(Load::Absent)]);
        assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "none"));
        invalidate(&cache);
        assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
    }
}

#[test]
fn what_is_gone_from_its_source_does_not_come_back_as_stale() {
    let (directory, clock) = (tempdir().unwrap(), Clock::manual(Timestamp::from_millis(1_000_000)));
    let open = || persisted(directory.path(), &clock);
    let (cache, source) = (open(), Hurtful::new());
    ask(&cache, &source).unwrap();
    cache.flush().unwrap();
    source.then([Step::Give(Load::Absent)]);
    clock.advance(Duration::from_secs(25));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "none"));
    source.always(down());
    clock.advance(Duration::from_secs(31));
    assert!(ask(&cache, &source).is_err());
    cache.close().unwrap();
    drop(cache);
    assert!(ask(&open(), &source).is_err());
}

#[test]
fn a_stale_window_lasts_over_a_restart_and_no_longer() {
    let (directory, clock) = (tempdir().unwrap(), Clock::manual(Timestamp::from_millis(1_000_000)));
    let open = || persisted(directory.path(), &clock);
    let (cache, source) = (open(), Hurtful::new());
    ask(&cache, &source).unwrap();
    cache.close().unwrap();
    drop(cache);
    source.always(down());
    clock.advance(Duration::from_secs(69));
    let cache = open();
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Fallback, "0"));
    assert!(cache.get(key(N1)).unwrap().is_none());
    cache.close().unwrap();
    drop(cache);
    clock.advance(Duration::from_secs(1));
    assert_eq!(ask(&open(), &source).unwrap_err().kind(), ErrorKind::SourceUnavailable);
}

#[test]
fn a_source_is_asked_conditionally_and_may_say_that_nothing_changed() {
    let (cache, clock) = cache_with(policy().stale_while_revalidate(Duration::ZERO));
    let first = Loaded::new("first").validator("v1").ttl(Duration::from_secs(20)).tag("numbers");
    let source = Hurtful::new().then([Step::Give(first.into()), Step::Give(Load::NotModified)]);
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "first"));
    clock.advance(Duration::from_secs(20));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "first"));
    assert_eq!(*source.validators.lock().unwrap(), [None, Some("v1".to_owned())]);
    clock.advance(Duration::from_secs(19));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Hit, "first"));
    assert_eq!(cache.invalidate_tag("numbers").unwrap(), 1);
    source.then([Step::Give(Load::NotModified)]);
    assert_eq!(ask(&cache, &source).unwrap_err().kind(), ErrorKind::SourceRefused);
}

#[test]
fn a_value_may_bring_its_own_lifetime_and_windows() {
    let (cache, clock) = cache_with(Policy::with_ttl(Duration::from_hours(1)).attempts(1));
    let own = Loaded::new("own").ttl(Duration::from_secs(1)).stale_if_error(Duration::from_secs(3));
    let source = Hurtful::new().then([Step::Give(own.into())]).always(down());
    ask(&cache, &source).unwrap();
    for _ in 0..3 {
        clock.advance(Duration::from_secs(1));
        assert_eq!(seen(ask(&cache, &source)), is(Outcome::Fallback, "own"));
    }
    clock.advance(Duration::from_secs(1));
    assert!(ask(&cache, &source).is_err());
}

#[test]
fn what_may_not_be_stored_is_given_to_its_caller_alone_and_nobody_queues_for_it() {
    let (cache, _) = cache_with(policy());
    let private = || Step::Give(Loaded::new("private").do_not_store().into());
    let source = Hurtful::new().then([private()]);
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Bypass, "private"));
    assert!(cache.get(key(N1)).unwrap().is_none());
    // From now on each asks for itself, all at the same time: both hold the source before either is answered.
    source.always(Step::Held);
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let (cache, source) = (cache.clone(), source.clone());
            tasks.spawn(async move { cache.get_or_load(key(N1), &source).await.unwrap().outcome });
        }
        while source.asked() < 3 {
            tokio::task::yield_now().await;
        }
        source.go.notify_one();
        source.go.notify_one();
        assert_eq!(tasks.join_all().await, [Outcome::Bypass, Outcome::Bypass]);
    });
    source.always.lock().unwrap().take();
    // Its source has changed its mind, which the last answer said: kept from now on.
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
}

#[test]
fn a_value_that_is_not_to_be_kept_takes_out_the_older_one_that_was() {
    let (cache, clock) = cache_with(policy());
    let source = Hurtful::new();
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
    source.always(Step::Give(Loaded::new("private").do_not_store().into()));
    clock.advance(Duration::from_secs(11));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Revalidating, "0"));
    crate::common::eventually("the load", || (cache.stats().entries == 0).then_some(()));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Bypass, "private"));
}

#[test]
fn ahead_of_its_end_an_entry_that_is_asked_for_is_loaded_anew_and_nobody_waits() {
    let (cache, clock) = cache_with(policy().eager_after(0.8));
    let source = Hurtful::new();
    ask(&cache, &source).unwrap();
    source.value.store(1, Ordering::SeqCst);
    clock.advance(Duration::from_millis(7_999));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Hit, "0"));
    assert_eq!(source.asked(), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Hit, "0"));
    eventually("the new value", || seen(ask(&cache, &source)) == is(Outcome::Hit, "1"));
    assert_eq!(source.asked(), 2);
}

#[test]
fn the_breaker_opens_lets_nothing_through_and_closes_again() {
    let (cache, clock) = cache_with(policy().attempts(1).breaker_failures(5));
    let source = Hurtful::new().always(down());
    let mut events = cache.subscribe();
    for _ in 0..20 {
        assert_eq!(ask(&cache, &source).unwrap_err().kind(), ErrorKind::SourceUnavailable);
    }
    assert_eq!((source.asked(), cache.sources()[0].breaker), (5, Breaker::Open));
    clock.advance(Duration::from_secs(10));
    assert!(ask(&cache, &source).is_err() && ask(&cache, &source).is_err());
    assert_eq!((source.asked(), cache.sources()[0].breaker), (6, Breaker::Open));
    source.always.lock().unwrap().take();
    clock.advance(Duration::from_secs(10));
    assert_eq!(seen(ask(&cache, &source)), is(Outcome::Miss, "0"));
    assert_eq!(cache.sources()[0].breaker, Breaker::Closed);
    let states = block_on(async {
        let mut states = Vec::new();
        while states.len() < 3 {
            if let Some(Event::StateChanged { part: "source", state, .. }) = events.next().await {
                states.push(state);
            }
        }
        states
    });
    assert_eq!(states, ["degraded", "degraded", "ok"]);
}

#[test]
fn invalidated_while_stale_it_is_no_fallback() {
    let invalidations: [fn(&Cache); 2] = [
        |cache| assert!(!cache.delete(key(N1)).unwrap()),
        |cache| assert_eq!(cache.invalidate_namespace("n").unwrap(), 0),
    ];
    for invalidate in invalidations {
        let (cache, clock) = cache_with(policy());
        let source = Hurtful::new();
        ask(&cache, &source).unwrap();
        clock.advance(Duration::from_secs(15));
        invalidate(&cache);
        source.always(down());
        assert!(ask(&cache, &source).is_err());
    }
}

#[test]
fn repeated_attempts_have_a_budget_so_that_an_outage_is_not_multiplied() {
    const KEYS: usize = 400;
    let policy = policy().attempts(5).backoff(Duration::from_millis(1)).breaker_failures(u32::MAX);
    let (cache, _) = cache_with(policy);
    let source = Hurtful::new().always(down());
    for number in 0..KEYS {
        assert!(cache.get_or_load_blocking(key(&format!("n:{number}")), &source).is_err());
    }
    // A hundred that are saved up, and a fifth of all attempts; without a budget it were five times as many as keys.
    assert!(source.asked() > KEYS && source.asked() <= (KEYS + 100) * 5 / 4 + 1, "{}", source.asked());
}

#[test]
fn a_closed_cache_answers_its_waiters() {
    let (cache, _) = cache_with(policy());
    let source = Hurtful::new().always(Step::Hang);
    let waiter = {
        let (cache, source) = (cache.clone(), source.clone());
        std::thread::spawn(move || ask(&cache, &source))
    };
    block_on(source.begun.notified());
    cache.close().unwrap();
    assert!(waiter.join().unwrap().is_err());
    assert_eq!(ask(&cache, &source).unwrap_err().kind(), ErrorKind::Closed);
}

/// Each round changes the source, invalidates, and only then lets eight readers begin, while loads that began before
/// are still under way.
#[test]
fn over_a_thousand_rounds_no_reader_after_an_invalidation_sees_the_old_value_and_none_is_left() {
    const READERS: usize = 8;
    const ROUNDS: u64 = 1000;
    let (cache, _) = cache_with(policy());
    let source = Hurtful::new();
    let namespace = Namespace::parse("n").unwrap();
    let (before, after) = (Arc::new(Barrier::new(READERS + 1)), Arc::new(Barrier::new(READERS + 1)));
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (cache, source) = (cache.clone(), source.clone());
            let (before, after) = (before.clone(), after.clone());
            std::thread::spawn(move || {
                for round in 1..=ROUNDS {
                    // Half of them are at it while the change happens.
                    if reader % 2 == 0 {
                        ask(&cache, &source).unwrap();
                    }
                    before.wait();
                    let read: u64 = seen(ask(&cache, &source)).1.parse().unwrap();
                    assert!(read >= round, "round {round} read {read}");
                    after.wait();
                }
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        source.value.store(round, Ordering::SeqCst);
        match round % 4 {
            0 => cache.invalidate_namespace(&namespace).map(|_| ()).unwrap(),
            1 => cache.invalidate_tag("numbers").map(|_| ()).unwrap(),
            2 => cache.delete_pattern("n:*1").map(|_| ()).unwrap(),
            _ => cache.delete_many(&[Key::parse(N1).unwrap()]).map(|_| ()).unwrap(),
        }
        before.wait();
        after.wait();
        let left = cache.get(key(N1)).unwrap().map(|entry| entry.body().to_vec());
        assert!(left.is_none_or(|left| left == round.to_string().as_bytes()));
    }
    for reader in readers {
        reader.join().unwrap();
    }
}
