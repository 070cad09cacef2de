//! Asking a source: bounded attempts with time-outs, pauses between them drawn at random, behind its gate.

use std::hash::{BuildHasher as _, RandomState};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_lite::future::{FutureExt as _, or};

use crate::clock::monotonic_now;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Ask, Load, Source};

use super::events::Event;
use super::gate::{Breaker, Change, Pass};
use super::policy::Policy;
use super::state::State;

/// What `source` has, after as many attempts as `policy` allows. Panics of the source are errors. `knocked` is the leave
/// that was asked for what came before.
pub(super) async fn ask(
    state: &State,
    source: &dyn Source,
    policy: &Policy,
    ask: Ask<'_>,
    knocked: Pass,
) -> Result<Load> {
    let gate = knocked.gate().clone();
    // While only one is let through, this is the one; any other asks again when it is its turn.
    let mut knocked = Some(knocked).filter(Pass::is_probe);
    let mut last: Option<Error> = None;
    for attempt in 1.. {
        // One attempt holds one place; none is held while it pauses.
        let permit = state.loads.acquire().await.map_err(|_| closed())?;
        let pass = match knocked.take() {
            Some(pass) => {
                pass.begin();
                pass
            }
            None => match gate.admit(state.clock.now()) {
                Ok(pass) => pass,
                Err(refused) => return Err(last.unwrap_or(refused)),
            },
        };
        let is_probe = pass.is_probe();
        let error = match attempt_once(state, source, policy, ask).await {
            Ok(load) => {
                tell(state, pass.succeeded(state.clock.now()));
                return Ok(load);
            }
            Err(error) => error,
        };
        let now = state.clock.now();
        report(state, pass, &error, policy);
        let is_last = attempt >= policy.attempts || is_probe || state.is_closed();
        if is_last || !error.is_retryable() || !gate.may_repeat(now) {
            return Err(error);
        }
        drop(permit);
        let pause = drawn(policy.pause_max(attempt));
        tracing::debug!(key = %ask.key, attempt, ?pause, error = %error, "a load failed and is tried again");
        last = Some(error);
        state.timer.sleep(pause).await;
    }
    // Not reached: the number of attempts is bounded.
    Err(last.unwrap_or_else(closed))
}

/// The gate hears of an attempt that came to an error.
pub(super) fn report(state: &State, pass: Pass, error: &Error, policy: &Policy) {
    let now = state.clock.now();
    let is_failure = matches!(error.kind(), ErrorKind::SourceUnavailable | ErrorKind::SourceTimedOut);
    tell(state, if is_failure { pass.failed(now, error, policy) } else { pass.succeeded(now) });
}

async fn attempt_once(state: &State, source: &dyn Source, policy: &Policy, ask: Ask<'_>) -> Result<Load> {
    let begun = monotonic_now();
    let loading = async {
        let load = source.load(ask).await?;
        if let Load::Value(loaded) = &load {
            ask.take_room((loaded.body.len() as u64).saturating_sub(ask.taken_room()))?;
            source.validate(ask.key, loaded).map_err(refused)?;
        }
        Ok(load)
    };
    let too_slow = async {
        state.timer.sleep(policy.timeout).await;
        let message = format!("the source gave no answer within {:?}", policy.timeout);
        Err(Error::new(ErrorKind::SourceTimedOut, message))
    };
    let outcome = AssertUnwindSafe(or(loading, too_slow)).catch_unwind().await;
    let elapsed = begun.elapsed();
    state.count_load(ask.key, elapsed);
    if !policy.slow.is_zero() && elapsed > policy.slow {
        let (key, name, slow) = (ask.key, source.name(), policy.slow);
        tracing::debug!(key = %key, source = name, ?elapsed, ?slow, "a load was slow");
        state.seldom.slow.say(|left_out| {
            tracing::warn!(key = %key, source = name, ?elapsed, ?slow, left_out, "a load was slow");
        });
    }
    outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::SourceRefused, "the source panicked")))
}

/// Whatever a source finds wrong with its value, the value was refused.
fn refused(error: Error) -> Error {
    if error.kind() == ErrorKind::SourceRefused {
        return error;
    }
    Error::new(ErrorKind::SourceRefused, "the value is not acceptable").because(error)
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the cache has been closed")
}

/// Log and listeners hear of a breaker that changed.
fn tell(state: &State, change: Option<Change>) {
    let Some(Change { breaker, reason }) = change else { return };
    if breaker == Breaker::Open {
        tracing::warn!(reason, "the source's breaker opened");
    } else {
        tracing::info!(reason, "the source's breaker closed");
    }
    let name = if breaker == Breaker::Open { "degraded" } else { "ok" };
    state.events.tell(|| Event::StateChanged { part: "source", state: name, reason });
}

/// Between nothing and nearly `most`, evenly: waking up and asking are to stay within it too.
fn drawn(most: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(monotonic_now()) >> 32).unwrap_or(u32::MAX);
    most.mul_f64(DRAWN_SHARE * f64::from(random) / f64::from(u32::MAX))
}

/// The share of a pause's bound that is drawn from.
const DRAWN_SHARE: f64 = 0.85;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_between_nothing_and_their_bound() {
        let most = Duration::from_millis(100);
        let pauses: Vec<_> = (0..1000).map(|_| drawn(most)).collect();
        assert!(pauses.iter().all(|pause| *pause <= most.mul_f64(DRAWN_SHARE)));
        let (least, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*longest > most.mul_f64(0.75) && *least < most.mul_f64(0.1), "{least:?} to {longest:?}");
    }
}
