//! Locks and atomics that let a schedule decide who goes on, and the harness that tries schedules.
//!
//! shuttle runs the threads of a test as coroutines of one thread of the system and draws, from a fixed seed, which of
//! them goes on at each point. It does not know weak memory: every schedule is a sequence of whole calls. Schedules are
//! drawn evenly, or with few changes of thread at random places (PCT), or one for each place at which a thread can be
//! stopped. A failure prints the schedule, to be given to `shuttle::replay`.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{self, Ordering};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, MaxSteps, Runner};

/// A lock or an atomic of which every call is a point in the schedule.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct Scheduled<T>(T);

pub(crate) type AtomicBool = Scheduled<atomic::AtomicBool>;
pub(crate) type AtomicU8 = Scheduled<atomic::AtomicU8>;
pub(crate) type AtomicU16 = Scheduled<atomic::AtomicU16>;
pub(crate) type AtomicU32 = Scheduled<atomic::AtomicU32>;
pub(crate) type AtomicU64 = Scheduled<atomic::AtomicU64>;
pub(crate) type AtomicI64 = Scheduled<atomic::AtomicI64>;
pub(crate) type AtomicUsize = Scheduled<atomic::AtomicUsize>;
pub(crate) type Mutex<T> = Scheduled<parking_lot::Mutex<T>>;
pub(crate) type RwLock<T> = Scheduled<parking_lot::RwLock<T>>;

/// Whatever is called on what is inside is called through here.
impl<T> Deref for Scheduled<T> {
    type Target = T;

    fn deref(&self) -> &T {
        point();
        &self.0
    }
}

/// Whoever may change it without a lock is alone.
impl<T> DerefMut for Scheduled<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Scheduled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! news {
    ($($atomic:ident of $value:ty),*) => {
        $(impl $atomic {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$atomic::new(value))
            }
        })*
    };
}

news!(
    AtomicBool of bool, AtomicU8 of u8, AtomicU16 of u16, AtomicU32 of u32, AtomicU64 of u64, AtomicI64 of i64,
    AtomicUsize of usize
);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> parking_lot::MutexGuard<'_, T> {
        held(|| self.0.try_lock(), || self.0.lock())
    }
}

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> parking_lot::RwLockReadGuard<'_, T> {
        held(|| self.0.try_read(), || self.0.read())
    }

    pub(crate) fn write(&self) -> parking_lot::RwLockWriteGuard<'_, T> {
        held(|| self.0.try_write(), || self.0.write())
    }
}

/// Under a schedule nobody may block the one thread that all of them run on: whoever cannot go on lets others.
fn held<G>(attempt: impl Fn() -> Option<G>, blocking: impl FnOnce() -> G) -> G {
    point();
    while IS_SCHEDULED.get() {
        if let Some(guard) = attempt() {
            return guard;
        }
        shuttle::thread::yield_now();
    }
    blocking()
}

/// Another thread may go on here.
fn point() {
    if IS_SCHEDULED.get() && !std::thread::panicking() {
        // Any call on a primitive of shuttle's is one; unlike a yield it says nothing against this thread.
        shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
    }
}

thread_local! {
    /// Whether what runs on this thread of the system is a test under a schedule.
    static IS_SCHEDULED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `test` under so many schedules drawn at random. Its threads must be those of [`shuttle::thread`].
pub(crate) fn interleaved(schedules: usize, test: impl Fn() + Send + Sync + Copy + 'static) {
    let seed = std::env::var("HIFZ_SCHEDULE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    run(RandomScheduler::new_from_seed(seed, schedules / 2), test);
    run(PctScheduler::new_from_seed(seed, PCT_DEPTH, schedules / 2), test);
}

/// Runs `test` so often that whoever is running is stopped once at each point there is, until all others have ended or
/// wait: every race that needs one thread to stand still at one place is found. As [`interleaved`] otherwise.
pub(crate) fn stopped_at_every_point(test: impl Fn() + Send + Sync + Copy + 'static) {
    stopped_twice(0, test);
}

/// As [`stopped_at_every_point`], and again for each point with a second stop at so many later ones, by chance.
pub(crate) fn stopped_twice(seconds: usize, test: impl Fn() + Send + Sync + Copy + 'static) {
    run(EveryPoint::new(Order::OldestFirst, seconds), test);
    run(EveryPoint::new(Order::NewestFirst, seconds), test);
}

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || {
        IS_SCHEDULED.set(true);
        test();
        IS_SCHEDULED.set(false);
    });
}

/// Who runs as long as nobody is stopped.
#[derive(Debug, Clone, Copy)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// Schedules for each point of the test at which a thread may be stopped.
#[derive(Debug)]
struct EveryPoint {
    order: Order,
    /// Where this run stops whoever is running, first and again.
    stops: [usize; 2],
    /// How many runs with a second stop are left for this first one, and are made for each.
    left: usize,
    seconds: usize,
    /// How many points this run has passed.
    passed: usize,
    /// Who was stopped or waits, the longest first; they go on when nobody else can.
    behind: Vec<TaskId>,
}

impl EveryPoint {
    fn new(order: Order, seconds: usize) -> Self {
        Self { order, stops: [0; 2], left: 0, seconds, passed: 0, behind: Vec::new() }
    }
}

impl Scheduler for EveryPoint {
    fn new_execution(&mut self) -> Option<Schedule> {
        let [first, _] = self.stops;
        self.stops = if self.left > 0 {
            self.left -= 1;
            // Any spread will do; it is the same on every run.
            let spread = (first * 31 + self.left).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            [first, first + 1 + spread % self.passed.saturating_sub(first).max(1)]
        } else if self.passed < first {
            return None;
        } else {
            self.left = self.seconds;
            [first + 1, usize::MAX]
        };
        self.passed = 0;
        self.behind.clear();
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        self.passed += usize::from(runnable.len() > 1);
        let is_stopped = runnable.len() > 1 && self.stops.contains(&self.passed);
        if let Some(current) = current.filter(|_| is_stopped || is_yielding) {
            self.behind.retain(|task| *task != current);
            self.behind.push(current);
        }
        let place = |task: &TaskId| {
            let age = usize::from(*task);
            let in_order = if matches!(self.order, Order::OldestFirst) { age } else { usize::MAX - age };
            (self.behind.iter().position(|behind| behind == task), in_order)
        };
        runnable.iter().map(|task| task.id()).min_by_key(place)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

/// Completes `future` under a schedule, letting others go on whenever it waits for them.
pub(crate) fn wait_for<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        shuttle::thread::yield_now();
    }
}

/// The same schedules on every run, unless `HIFZ_SCHEDULE_SEED` gives others.
const SEED: u64 = 20_260_101;

/// Changes of thread at random places in a schedule of the second kind.
const PCT_DEPTH: usize = 3;

/// The engine's own frames, unoptimised, need more than shuttle gives by default.
const STACK_BYTES: usize = 512 << 10;

/// A test that takes so many is stuck.
const STEPS_MAX: usize = 200_000;
