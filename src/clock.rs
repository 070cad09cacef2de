//! Time, handed in: the only file that reads the operating system's clocks.
//!
//! A [`Timestamp`] is a point on one timeline: milliseconds since the Unix epoch that never run backwards while the
//! process lives. The timeline starts at the wall clock, advances with the monotonic clock (time asleep included where
//! the system counts it), and is pushed forward when the wall clock is seen ahead of it by more than a second. So a
//! deadline falls due by whichever of the two clocks says so first, and setting the wall clock back prolongs nothing.
//! After a restart the timeline begins again at the wall clock; whoever loads stored deadlines treats what was stored
//! in the future as expired.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Later than every real point in time: the deadline of what never expires.
    pub const NEVER: Self = Self(u64::MAX);

    /// The point `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This point moved later by `by`; [`Timestamp::NEVER`] when that is past the end of time.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Where time comes from: the system's clocks, or one turned by hand in a test.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

enum Inner {
    System {
        started: Instant,
        started_at: Timestamp,
        /// The coarse monotonic clock at the start, in ms; it counts as the exact one does, a few ms behind.
        started_coarse_ms: u64,
        /// How far the timeline was pushed ahead of the monotonic clock, in ms. Only [`Clock::observe_wall`] raises it.
        pushed_ms: AtomicU64,
        /// The second of the wall clock that was last met, and when on the timeline; see [`Noted`].
        noted: AtomicU64,
    },
    Manual(AtomicU64),
}

impl Clock {
    /// The system's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Inner::System {
            // First the coarse one: so read, its timeline can lag behind the exact one but never lead.
            started_coarse_ms: monotonic_coarse_ms(),
            started: monotonic_now(),
            started_at: wall_now(),
            pushed_ms: AtomicU64::new(0),
            noted: AtomicU64::new(0),
        }))
    }

    /// A clock that stands at `start` until it is turned with [`Clock::advance`].
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Arc::new(Inner::Manual(AtomicU64::new(start.as_millis()))))
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &*self.0 {
            Inner::System { started, started_at, pushed_ms, .. } => started_at
                .after(monotonic_now().duration_since(*started))
                .after(Duration::from_millis(pushed_ms.load(Ordering::Relaxed))),
            Inner::Manual(millis) => Timestamp(millis.load(Ordering::Relaxed)),
        }
    }

    /// The present, up to [`Clock::COARSE_LAG_MAX`] late, for a quarter of the price of [`Clock::now`].
    #[must_use]
    #[inline]
    pub fn now_coarse(&self) -> Timestamp {
        match &*self.0 {
            Inner::System { started_at, started_coarse_ms, pushed_ms, .. } => {
                let ahead_ms = started_at.0.saturating_add(pushed_ms.load(Ordering::Relaxed));
                let behind_ms = started_coarse_ms + COARSE_TICK_MS + 1;
                Timestamp(monotonic_coarse_ms().saturating_add(ahead_ms).saturating_sub(behind_ms))
            }
            Inner::Manual(_) => self.now(),
        }
    }

    /// How far [`Clock::now_coarse`] may lie behind [`Clock::now`]: two ticks of the slowest kernel timer, and one more
    /// for the tick that the start fell into.
    pub const COARSE_LAG_MAX: Duration = Duration::from_millis(3 * COARSE_TICK_MS);

    /// A span of a few seconds in which the present lies, for half of the price of [`Clock::now_coarse`]: enough to tell
    /// that something is far from its deadline.
    ///
    /// It asks for the second of the wall clock alone, which the kernel keeps in memory that every process reads, and
    /// looks at the other clocks once in each. A wall clock set back ends the second, or repeats it once; what sets it
    /// back to the very second in which somebody asked last is noticed by [`Clock::observe_wall`].
    #[must_use]
    #[inline]
    pub fn span(&self) -> Span {
        match &*self.0 {
            Inner::System { noted, .. } => {
                let second = wall_second();
                Noted(noted.load(Ordering::Relaxed)).span_of(second).unwrap_or_else(|| self.note_second())
            }
            Inner::Manual(_) => Span::at(self.now()),
        }
    }

    /// Notes that a second of the wall clock has begun, by now at the latest.
    #[cold]
    fn note_second(&self) -> Span {
        let Inner::System { pushed_ms, noted, .. } = &*self.0 else { return Span::at(self.now()) };
        self.observe_wall();
        let second = wall_second();
        let (pushed, now) = (pushed_ms.load(Ordering::SeqCst), self.now());
        // Not in the second read before: what was noted then would be taken for what is now.
        if wall_second() == second {
            noted.store(Noted::new(second, now).0, Ordering::SeqCst);
        }
        // Whoever pushed the timeline meanwhile has forgotten what was noted perhaps before it was.
        if pushed_ms.load(Ordering::SeqCst) != pushed {
            noted.store(0, Ordering::SeqCst);
        }
        Span::at(now)
    }

    /// Looks at the wall clock and pushes the timeline forward if that is ahead of it; for whoever ticks regularly.
    pub fn observe_wall(&self) {
        if let Inner::System { pushed_ms, noted, .. } = &*self.0 {
            let (wall, now) = (wall_now(), self.now());
            let ahead = wall.since(now);
            if ahead > WALL_AHEAD_MAX {
                let ahead_ms = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX);
                pushed_ms.fetch_add(ahead_ms, Ordering::SeqCst);
                noted.store(0, Ordering::SeqCst);
            } else if Noted(noted.load(Ordering::Relaxed)).is_over(now) {
                noted.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Turns a manual clock forward by `by`; the system's clock is nobody's to turn and stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Inner::Manual(millis) = &*self.0 {
            let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            millis.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}

/// A span of time in which the present lies, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Not before this.
    pub from: Timestamp,
    /// Not after this.
    pub to: Timestamp,
}

impl Span {
    fn at(now: Timestamp) -> Self {
        Self { from: now, to: now }
    }
}

/// A second of the wall clock, since the Unix epoch, in the high half; in the low half where on the timeline it was met,
/// in ms after the second would begin if timeline and wall clock were one, plus half the range. 0 for none.
#[derive(Clone, Copy)]
struct Noted(u64);

impl Noted {
    fn new(second: u64, met_at: Timestamp) -> Self {
        let offset = met_at.0.wrapping_sub(second * 1000).wrapping_add(OFFSET_ZERO);
        // A wall clock set back by weeks: nothing is noted, and every question looks at all clocks.
        if offset > LOW_HALF { Self(0) } else { Self(second << 32 | offset) }
    }

    #[inline]
    fn span_of(self, second: u64) -> Option<Span> {
        (self.0 >> 32 == second & LOW_HALF).then(|| {
            let from = (second * 1000).wrapping_add(self.0 & LOW_HALF).wrapping_sub(OFFSET_ZERO);
            Span { from: Timestamp(from), to: Timestamp(from + SECOND_MAX_MS) }
        })
    }

    fn is_over(self, now: Timestamp) -> bool {
        self.span_of(self.0 >> 32).is_some_and(|span| span.to < now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &*self.0 {
            Inner::System { .. } => "system",
            Inner::Manual(_) => "manual",
        };
        write!(f, "Clock({kind}, {:?})", self.now())
    }
}

/// An [`Instant`] for measuring how long something took; never for deadlines of entries.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file is where the clocks are read")]
pub fn monotonic_now() -> Instant {
    Instant::now()
}

/// The monotonic clock as the kernel's last tick left it, in ms. Through libc, so that what turns the clocks of a
/// process from outside turns this one too.
#[cfg(target_os = "linux")]
fn monotonic_coarse_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The second of the wall clock as the kernel's last tick left it; a load from memory where the system offers `time` as
/// that.
#[inline]
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate has C's time, which costs half of the cheapest other clock")]
fn wall_second() -> u64 {
    use std::ffi::c_long;
    unsafe extern "C" {
        fn time(out: *mut c_long) -> c_long;
    }
    // SAFETY: C's `time` writes nothing where it is given no place to.
    let second = unsafe { time(std::ptr::null_mut()) };
    u64::try_from(second).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
fn wall_second() -> u64 {
    wall_now().as_secs()
}

#[cfg(not(target_os = "linux"))]
fn monotonic_coarse_ms() -> u64 {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(FIRST.get_or_init(monotonic_now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock in whole seconds since the Unix epoch, as a `Date` header tells it; never for deadlines.
#[cfg(feature = "server")]
pub(crate) fn wall_secs() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u64::try_from(time.tv_sec).unwrap_or(0)
}

#[expect(clippy::disallowed_methods, reason = "this file is where the clocks are read")]
fn wall_now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The longest tick a Linux kernel is built with (100 Hz).
const COARSE_TICK_MS: u64 = 10;

const LOW_HALF: u64 = u32::MAX as u64;

/// The offset of a second met when it would begin.
const OFFSET_ZERO: u64 = 1 << 31;

/// The longest that one second of the wall clock takes: it may be set back within it once, be slewed by a tenth, and be
/// seen two ticks late.
const SECOND_MAX_MS: u64 = 2_250;

/// A wall clock this little ahead is ordinary slewing, not a jump.
const WALL_AHEAD_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_turned() {
        let clock = Clock::manual(Timestamp::from_millis(5));
        assert_eq!(clock.now(), Timestamp::from_millis(5));
        clock.clone().advance(Duration::from_secs(2));
        assert_eq!(clock.now(), Timestamp::from_millis(2005));
    }

    #[test]
    fn the_end_of_time_is_never_passed() {
        assert_eq!(Timestamp::NEVER.after(Duration::from_secs(1)), Timestamp::NEVER);
        assert_eq!(Timestamp::from_millis(1).since(Timestamp::NEVER), Duration::ZERO);
    }

    #[test]
    fn the_coarse_clock_lags_within_its_bound_and_never_leads() {
        let clock = Clock::system();
        for _ in 0..10_000 {
            let coarse = clock.now_coarse();
            let exact = clock.now();
            assert!(coarse <= exact);
        }
        let manual = Clock::manual(Timestamp::from_millis(7));
        assert_eq!(manual.now_coarse(), manual.now());
    }

    #[test]
    fn the_present_lies_in_the_span_told() {
        let clock = Clock::system();
        let ends_at = clock.now().after(Duration::from_millis(1200));
        while clock.now() < ends_at {
            let before = clock.now();
            let span = clock.span();
            assert!(span.from <= clock.now() && before <= span.to, "{span:?} at {before:?}");
        }
        let manual = Clock::manual(Timestamp::from_millis(7));
        assert_eq!(manual.span(), Span::at(manual.now()));
    }

    #[test]
    fn what_is_noted_of_a_second_tells_of_no_other() {
        let (second, met_at) = (1_700_000_000, Timestamp(1_700_000_000_900));
        for met_at in [met_at, met_at.after(Duration::from_hours(24)), Timestamp(met_at.0 - 86_400_000)] {
            let noted = Noted::new(second, met_at);
            let span = noted.span_of(second).unwrap();
            assert_eq!((span.from, span.to), (met_at, met_at.after(Duration::from_millis(SECOND_MAX_MS))));
            assert_eq!(noted.span_of(second + 1), None);
            assert_eq!(noted.span_of(second - 1), None);
            assert!(!noted.is_over(span.to) && noted.is_over(span.to.after(Duration::from_millis(1))));
        }
        let far = Noted::new(second, met_at.after(Duration::from_hours(60 * 24)));
        assert_eq!(far.span_of(second), None, "a wall clock set back by two months");
        assert_eq!(Noted(0).span_of(second), None);
    }

    #[test]
    fn a_second_that_the_wall_clock_repeats_is_noticed() {
        let clock = Clock::system();
        let Inner::System { noted, .. } = &*clock.0 else { unreachable!() };
        let old = Noted::new(wall_second(), Timestamp(clock.now().0 - SECOND_MAX_MS - 1));
        noted.store(old.0, Ordering::Relaxed);
        clock.observe_wall();
        assert_eq!(noted.load(Ordering::Relaxed), 0);
        assert!(clock.span().to >= clock.now());
    }

    #[test]
    fn a_wall_clock_that_was_set_ahead_ends_what_was_noted_and_is_seen_by_the_first_look_in_a_second() {
        let behind = || {
            Clock(Arc::new(Inner::System {
                started: monotonic_now(),
                started_at: Timestamp(wall_now().0 - 10_000),
                started_coarse_ms: monotonic_coarse_ms(),
                pushed_ms: AtomicU64::new(0),
                noted: AtomicU64::new(0),
            }))
        };
        let looked = behind();
        assert!(looked.span().from.after(WALL_AHEAD_MAX) >= Timestamp(wall_now().0 - 1000));
        let ticked = behind();
        let Inner::System { noted, .. } = &*ticked.0 else { unreachable!() };
        noted.store(Noted::new(wall_second(), ticked.now()).0, Ordering::Relaxed);
        ticked.observe_wall();
        assert_eq!(noted.load(Ordering::Relaxed), 0);
    }
}
