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

    /// Looks at the wall clock and pushes the timeline forward if that is ahead of it; for whoever ticks regularly.
    pub fn observe_wall(&self) {
        if let Inner::System { pushed_ms, .. } = &*self.0 {
            let ahead = wall_now().since(self.now());
            if ahead > WALL_AHEAD_MAX {
                let ahead_ms = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX);
                pushed_ms.fetch_add(ahead_ms, Ordering::Relaxed);
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
}
