//! Alerts: two thresholds with a state each, looked at every second and whenever somebody asks.
//!
//! An alert is raised past its threshold and cleared five points inside, so that a value on the edge does not make it
//! flap. The hit ratio counts over the last five minutes or, where fewer than `min_samples` questions were asked in them,
//! as far back as it takes to have so many, an hour at most; with fewer still it is unknown and raises nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::engine::{Cache, Event, Stats};

use super::config;
use super::http::Operations;

/// The alerts of this process.
#[derive(Debug)]
pub(super) struct Alerts {
    settings: config::Alerts,
    /// Changed by [`Alerts::look`] alone.
    state: Mutex<State>,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    MemoryAbove,
    HitRatioBelow,
}

/// One alert at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alert {
    pub(super) kind: Kind,
    pub(super) is_raised: bool,
    /// What it goes by; `None` while that is unknown.
    pub(super) value: Option<f64>,
    pub(super) threshold: f64,
    /// When it was raised or cleared.
    pub(super) since: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    memory: Trigger,
    hit_ratio: Trigger,
    history: History,
}

#[derive(Debug, Default)]
struct Trigger {
    is_raised: bool,
    value: Option<f64>,
    since: Timestamp,
}

/// Counters of earlier moments, oldest first.
#[derive(Debug, Default)]
struct History(VecDeque<Counted>);

#[derive(Debug, Clone, Copy)]
struct Counted {
    at: Timestamp,
    hits: u64,
    misses: u64,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MemoryAbove => "memory_above",
            Self::HitRatioBelow => "hit_ratio_below",
        }
    }
}

impl Alerts {
    pub(super) fn new(settings: &config::Alerts) -> Self {
        Self { settings: settings.clone(), state: Mutex::default() }
    }

    /// Looks at the figures of this moment; logs and tells listeners what changes. Returns all alerts.
    pub(super) fn look(&self, cache: &Cache, stats: &Stats) -> Vec<Alert> {
        let now = Counted { at: cache.now(), hits: stats.hits, misses: stats.misses };
        let (alerts, changed) = self.judge(now, share(stats.memory_charged_bytes, stats.memory_limit_bytes));
        for alert in alerts.iter().filter(|alert| changed.contains(&alert.kind)) {
            let (name, reason) = (alert.kind.name(), alert.to_string());
            if alert.is_raised {
                tracing::warn!(alert = name, "an alert is raised: {reason}");
            } else {
                tracing::info!(alert = name, "an alert is cleared: {reason}");
            }
            cache.tell(Event::Alert {
                alert: name,
                is_raised: alert.is_raised,
                value: alert.value.unwrap_or_default(),
                threshold: alert.threshold,
            });
        }
        alerts
    }

    /// All alerts after the figures of one moment, and which of them changed by it.
    fn judge(&self, now: Counted, memory: f64) -> (Vec<Alert>, Vec<Kind>) {
        let (above, below) = (self.settings.memory_above, self.settings.hit_ratio_below);
        let mut state = self.state.lock();
        let hit_ratio = state.history.ratio_until(now, self.settings.min_samples);
        let is_back = |value| value <= above - INSIDE + ROUNDING;
        let of_memory = state.memory.turn(now.at, Some(memory), |value| value > above, is_back);
        let is_back = |value| value >= below + INSIDE - ROUNDING;
        let of_ratio = state.hit_ratio.turn(now.at, hit_ratio, |value| value < below, is_back);
        let alerts = vec![
            state.memory.alert(Kind::MemoryAbove, above),
            state.hit_ratio.alert(Kind::HitRatioBelow, below),
        ];
        let changed = [(Kind::MemoryAbove, of_memory), (Kind::HitRatioBelow, of_ratio)];
        (alerts, changed.into_iter().filter(|(_, changed)| *changed).map(|(kind, _)| kind).collect())
    }
}

impl Alert {
    pub(super) fn state(&self) -> &'static str {
        if self.is_raised { "raised" } else { "cleared" }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::MemoryAbove => "charged of the memory limit",
            Kind::HitRatioBelow => "of the questions were hits",
        };
        match self.value {
            Some(value) => {
                write!(f, "{:.1} % {what}, threshold {:.1} %", value * 100.0, self.threshold * 100.0)
            }
            None => write!(f, "too little was asked to tell"),
        }
    }
}

impl Trigger {
    /// Takes a new value; says whether the alert changed. What is unknown is no reason for an alarm.
    fn turn(
        &mut self,
        now: Timestamp,
        value: Option<f64>,
        is_past: impl Fn(f64) -> bool,
        is_inside: impl Fn(f64) -> bool,
    ) -> bool {
        self.value = value;
        let was_raised = self.is_raised;
        self.is_raised =
            value.is_some_and(|value| if was_raised { !is_inside(value) } else { is_past(value) });
        if self.is_raised != was_raised {
            self.since = now;
        }
        self.is_raised != was_raised
    }

    fn alert(&self, kind: Kind, threshold: f64) -> Alert {
        Alert { kind, is_raised: self.is_raised, value: self.value, threshold, since: self.since }
    }
}

impl History {
    /// The hit ratio of the questions up to `now`, of which there are at least `samples_min`; remembers the counters.
    fn ratio_until(&mut self, now: Counted, samples_min: u64) -> Option<f64> {
        while self.0.len() > 1 && self.0.front().is_some_and(|oldest| now.at.since(oldest.at) > WINDOW_MAX) {
            self.0.pop_front();
        }
        let questions_since =
            |then: &Counted| (now.hits + now.misses).saturating_sub(then.hits + then.misses);
        let is_enough =
            |then: &&Counted| now.at.since(then.at) >= WINDOW && questions_since(then) >= samples_min;
        // The latest that is old enough; failing that, all that is known.
        let start = self.0.iter().rev().find(is_enough).or(self.0.front()).copied();
        let start = start.unwrap_or(Counted { at: now.at, hits: 0, misses: 0 });
        if self.0.back().is_none_or(|latest| now.at.since(latest.at) >= STEP) {
            self.0.push_back(if self.0.is_empty() { start } else { now });
        }
        let questions = questions_since(&start);
        (questions >= samples_min).then(|| share(now.hits.saturating_sub(start.hits), questions))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio, compared with two digits")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Looks every second, for as long as the process serves.
pub(super) async fn keep_looking(operations: Arc<Operations>, cache: Cache) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        operations.alerts.look(&cache, &cache.stats());
    }
}

/// An alert is cleared so far inside its threshold.
const INSIDE: f64 = 0.05;

/// Thresholds are written in decimals and compared in binary.
const ROUNDING: f64 = 1e-9;

/// The hit ratio is of the last five minutes,
const WINDOW: Duration = Duration::from_mins(5);

/// or of up to an hour where little is asked.
const WINDOW_MAX: Duration = Duration::from_hours(1);

/// Counters are remembered so often: 720 times 24 bytes in an hour.
const STEP: Duration = Duration::from_secs(5);

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Bench {
        alerts: Alerts,
        now: Counted,
        memory: f64,
    }

    impl Bench {
        fn new() -> Self {
            let settings = config::Alerts::read(&BTreeMap::new()).unwrap();
            let now = Counted { at: Timestamp::from_millis(1_000_000), hits: 0, misses: 0 };
            Self { alerts: Alerts::new(&settings), now, memory: 0.0 }
        }

        /// After so many more questions and so much time: which alerts are raised.
        fn after(&mut self, seconds: u64, hits: u64, misses: u64) -> [bool; 2] {
            let at = self.now.at.after(Duration::from_secs(seconds));
            self.now = Counted { at, hits: self.now.hits + hits, misses: self.now.misses + misses };
            let alerts = self.alerts.judge(self.now, self.memory).0;
            [alerts[0].is_raised, alerts[1].is_raised]
        }
    }

    #[test]
    fn memory_is_raised_above_its_threshold_and_cleared_five_points_inside() {
        let mut bench = Bench::new();
        for (memory, raised) in
            [(0.90, false), (0.91, true), (0.88, true), (0.851, true), (0.85, false), (0.89, false)]
        {
            bench.memory = memory;
            assert_eq!(bench.after(1, 0, 0)[0], raised, "{memory}");
        }
    }

    #[test]
    fn a_bad_hit_ratio_is_raised_once_enough_was_asked_and_cleared_five_points_inside() {
        let mut bench = Bench::new();
        assert!(!bench.after(0, 0, 0)[1]);
        assert!(!bench.after(1, 0, 99)[1], "too few to tell");
        assert!(bench.after(1, 0, 1)[1], "a hundred misses");
        assert!(bench.after(1, 400, 0)[1], "exactly at the threshold is still inside the band");
        assert!(bench.after(1, 160, 0)[1]);
        assert!(!bench.after(1, 7, 0)[1], "85 %");
        assert!(!bench.after(1, 0, 30)[1], "81 %, not below");
        assert!(bench.after(1, 0, 60)[1]);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut bench = Bench::new();
        bench.after(0, 0, 0);
        assert!(bench.after(5, 0, 1000)[1]);
        // Five minutes of hits.
        let last = (0..61).map(|_| bench.after(5, 20, 0)[1]).last();
        assert_eq!(last, Some(false));
    }

    #[test]
    fn where_little_is_asked_it_looks_further_back_and_silence_raises_nothing() {
        let mut bench = Bench::new();
        bench.after(0, 0, 0);
        let raised = (0..100).map(|_| bench.after(20, 0, 1)[1]).last();
        assert_eq!(raised, Some(true), "a miss every twenty seconds, a hundred of them");
        let silent = (0..720).map(|_| bench.after(5, 0, 0)[1]).last();
        assert_eq!(silent, Some(false), "nobody asked for an hour");
        assert!(bench.alerts.state.lock().history.0.len() <= 722);
    }
}
