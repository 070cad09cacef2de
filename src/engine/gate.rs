//! What stands between the cache and a source: a breaker, a budget for repeated attempts, and how the source is.
//!
//! Closed, everything passes. After so many failures in a row it opens and nothing passes for a while; then one load is
//! let through, and what becomes of it closes the gate or opens it anew. Only "unavailable" and "timed out" are
//! failures: a source that answers something else, and be it rubbish, is there.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

use super::policy::Policy;

/// Whether a source is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breaker {
    /// It is.
    Closed,
    /// It has failed too often and is left alone for a while.
    Open,
    /// One load tries whether it is back.
    HalfOpen,
}

impl Breaker {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Its name in logs and health.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// How a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceStatus {
    /// What it is called.
    pub name: String,
    /// Whether it is asked.
    pub breaker: Breaker,
    /// How often it has failed since it last answered.
    pub failures_in_row: u32,
    /// Why it last failed, and when.
    pub last_error: Option<(String, Timestamp)>,
    /// When it last answered.
    pub last_success: Option<Timestamp>,
    /// How many times it was asked.
    pub attempts: u64,
    /// How many of those failed.
    pub failures: u64,
}

/// The gates of all sources, by name.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<Vec<Arc<Gate>>>);

impl Gates {
    /// The gate of the source called `name`. Beyond a bound of names, new ones share one.
    pub(super) fn of(&self, name: &str) -> Arc<Gate> {
        let mut gates = self.0.lock();
        if let Some(gate) = gates.iter().find(|gate| gate.name == name) {
            return gate.clone();
        }
        if gates.len() >= SOURCES_MAX
            && let Some(last) = gates.last()
        {
            return last.clone();
        }
        let gate = Arc::new(Gate::new(name));
        gates.push(gate.clone());
        gate
    }

    /// How each source is.
    pub(super) fn status(&self) -> Vec<SourceStatus> {
        let gates = self.0.lock().clone();
        gates.iter().map(|gate| gate.inner.lock().status.clone()).collect()
    }
}

/// What stands before one source.
#[derive(Debug)]
pub(super) struct Gate {
    name: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    status: SourceStatus,
    /// Until when an open gate lets nothing through; while half-open, whether a load is trying is the state itself.
    open_until: Timestamp,
    /// Repeated attempts left, in hundredths.
    budget: u64,
    budget_filled_at: Timestamp,
}

/// A change of the breaker that health, log and listeners are to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) breaker: Breaker,
    pub(super) reason: String,
}

impl Gate {
    fn new(name: &str) -> Self {
        let status = SourceStatus {
            name: name.to_owned(),
            breaker: Breaker::Closed,
            failures_in_row: 0,
            last_error: None,
            last_success: None,
            attempts: 0,
            failures: 0,
        };
        let inner = Inner {
            status,
            open_until: Timestamp::default(),
            budget: BUDGET_MAX,
            budget_filled_at: Timestamp::default(),
        };
        Self { name: name.to_owned(), inner: Mutex::new(inner) }
    }

    /// Lets one attempt through, or says why not. Every attempt let through is reported by its [`Pass`].
    pub(super) fn admit(self: &Arc<Self>, now: Timestamp) -> Result<Pass> {
        let pass = self.knock(now)?;
        pass.begin();
        Ok(pass)
    }

    /// As [`Gate::admit`], for what is asked before an attempt: it becomes one with [`Pass::begin`].
    pub(super) fn knock(self: &Arc<Self>, now: Timestamp) -> Result<Pass> {
        let mut inner = self.inner.lock();
        let is_probe = match inner.status.breaker {
            Breaker::Closed => false,
            Breaker::Open if inner.open_until <= now => {
                inner.status.breaker = Breaker::HalfOpen;
                true
            }
            Breaker::Open | Breaker::HalfOpen => {
                let wait = inner.open_until.since(now).max(Duration::from_secs(1)).as_secs();
                let why = inner.status.last_error.as_ref().map_or("", |(error, _)| error.as_str());
                let message =
                    format!("the source has failed too often and is asked again in {wait} s: {why}");
                return Err(Error::new(ErrorKind::SourceUnavailable, message));
            }
        };
        drop(inner);
        Ok(Pass { gate: self.clone(), is_probe, is_reported: false })
    }

    /// Whether one more attempt of the same load may be made: at most a fifth of all attempts and ten a second, so that
    /// repeating does not multiply the load on a source that is down already.
    pub(super) fn may_repeat(&self, now: Timestamp) -> bool {
        let mut inner = self.inner.lock();
        let filled = now.since(inner.budget_filled_at).as_millis().min(u128::from(BUDGET_MAX));
        let filled = u64::try_from(filled).unwrap_or(BUDGET_MAX);
        inner.budget = (inner.budget + filled * BUDGET_PER_SECOND / 1000).min(BUDGET_MAX);
        inner.budget_filled_at = now;
        let is_left = inner.budget >= REPETITION;
        inner.budget -= if is_left { REPETITION } else { 0 };
        is_left
    }
}

/// Leave for one attempt. Dropped unreported, as when a load is given up, it counts as nothing.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    is_probe: bool,
    is_reported: bool,
}

impl Pass {
    /// The attempt that it was asked for begins.
    pub(super) fn begin(&self) {
        let mut inner = self.gate.inner.lock();
        inner.status.attempts += 1;
        inner.budget = (inner.budget + BUDGET_PER_ATTEMPT).min(BUDGET_MAX);
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Whether this attempt tries if the source is back; it is not repeated.
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The source answered.
    pub(super) fn succeeded(mut self, now: Timestamp) -> Option<Change> {
        self.is_reported = true;
        let mut inner = self.gate.inner.lock();
        inner.status.failures_in_row = 0;
        inner.status.last_success = Some(now);
        let was = std::mem::replace(&mut inner.status.breaker, Breaker::Closed);
        drop(inner);
        let reason = || format!("the source {} answers again", self.gate.name);
        (was != Breaker::Closed).then(|| Change { breaker: Breaker::Closed, reason: reason() })
    }

    /// The source failed.
    pub(super) fn failed(mut self, now: Timestamp, error: &Error, policy: &Policy) -> Option<Change> {
        self.is_reported = true;
        let mut inner = self.gate.inner.lock();
        let status = &mut inner.status;
        status.failures_in_row = status.failures_in_row.saturating_add(1);
        status.failures += 1;
        status.last_error = Some((error.to_string(), now));
        let opens = self.is_probe
            || (status.breaker == Breaker::Closed && status.failures_in_row >= policy.breaker_failures);
        if !opens {
            return None;
        }
        let failures = status.failures_in_row;
        status.breaker = Breaker::Open;
        inner.open_until = now.after(policy.breaker_open);
        drop(inner);
        let (name, why) = (&self.gate.name, error.chain());
        let reason = format!("the source {name} failed {failures} times in a row: {why}");
        Some(Change { breaker: Breaker::Open, reason })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe && !self.is_reported {
            let mut inner = self.gate.inner.lock();
            if inner.status.breaker == Breaker::HalfOpen {
                // The next one tries.
                inner.status.breaker = Breaker::Open;
            }
        }
    }
}

/// The most sources that are told apart.
const SOURCES_MAX: usize = 256;

/// What one repeated attempt costs of the budget; the other amounts are in the same unit.
const REPETITION: u64 = 100;
const BUDGET_MAX: u64 = 100 * REPETITION;
const BUDGET_PER_ATTEMPT: u64 = REPETITION / 5;
const BUDGET_PER_SECOND: u64 = 10 * REPETITION;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn down() -> Error {
        Error::new(ErrorKind::SourceUnavailable, "down")
    }

    #[test]
    fn the_breaker_opens_tries_once_and_closes_when_the_source_is_back() {
        let (gates, policy) = (Gates::default(), Policy::default());
        let gate = gates.of("s");
        for failure in 1..=5 {
            let change = gate.admit(at(1)).unwrap().failed(at(1), &down(), &policy);
            assert_eq!(change.is_some(), failure == 5);
        }
        assert_eq!(gate.admit(at(10)).unwrap_err().kind(), ErrorKind::SourceUnavailable);
        let probe = gate.admit(at(11)).unwrap();
        assert!(probe.is_probe() && gate.admit(at(11)).is_err());
        assert_eq!(probe.failed(at(11), &down(), &policy).unwrap().breaker, Breaker::Open);
        assert!(gate.admit(at(20)).is_err());
        drop(gate.admit(at(21)).unwrap());
        let probe = gate.admit(at(21)).unwrap();
        assert_eq!(probe.succeeded(at(21)).unwrap().breaker, Breaker::Closed);
        assert!(!gate.admit(at(21)).unwrap().is_probe());
        let status = &gates.status()[0];
        assert_eq!((status.failures, status.failures_in_row, status.attempts), (6, 0, 9));
    }

    #[test]
    fn an_answer_in_between_starts_the_count_of_failures_anew() {
        let (gate, policy) = (Gates::default().of("s"), Policy::default());
        for _ in 0..4 {
            for _ in 0..4 {
                assert!(gate.admit(at(1)).unwrap().failed(at(1), &down(), &policy).is_none());
            }
            assert!(gate.admit(at(1)).unwrap().succeeded(at(1)).is_none());
        }
    }

    #[test]
    fn repeated_attempts_have_a_budget_that_fills_with_time() {
        let gate = Gates::default().of("s");
        let repeated = (0..1000).filter(|_| gate.may_repeat(at(1))).count();
        assert_eq!(repeated, 100);
        assert!(!gate.may_repeat(at(1)));
        let repeated = (0..1000).filter(|_| gate.may_repeat(at(2))).count();
        assert_eq!(repeated, 10);
    }
}
