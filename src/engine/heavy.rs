//! Room for what is large and made for a while beside the entries: answers that their source knows to be large before it
//! loads them, and whatever else the program makes on the cache's account.
//!
//! Promises: what is made at a time is bounded, and charged to the limit, so that entries give way before it is taken;
//! turns are given in the order in which they are asked for. What is larger than all the room there is goes alone, and is
//! refused where it would be too much even so; both go by the memory limit of the moment. Loads that tell nothing ahead have an account of their own ([`super::load`]) and never wait here.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::{FutureExt as _, or};

use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::source::Source;

use super::charge::Charge;
use super::gate::Pass;
use super::line::{Line, Share};
use super::policy::Policy;
use super::retry;
use super::state::State;

/// A turn to hold so many bytes beside the entries; given back when dropped. From [`Cache::turn`](super::Cache::turn).
#[derive(Debug)]
pub struct Turn {
    // In this order: first what is charged is given back, then the turn.
    charge: Charge,
    share: Share,
}

impl Turn {
    /// How many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// The same turn for no more than `bytes`; the rest is given back.
    pub(super) fn down_to(mut self, bytes: u64) -> Self {
        self.charge.set(bytes.min(self.bytes()));
        self.share.shrink(bytes);
        self
    }
}

/// What is kept of a turn by whoever holds what was made; nobody looks into it.
pub(crate) type Remains = Arc<dyn Any + Send + Sync>;

/// The line before what may be held at a time.
#[derive(Debug)]
pub(super) struct Heavy(Line);

impl Heavy {
    /// Beside a tier of so many bytes.
    pub(super) fn new(memory: u64) -> Self {
        Self(Line::new(together(memory)))
    }

    /// The tier has so many bytes from now on.
    pub(super) fn set_memory(&self, memory: u64) {
        self.0.set_bytes_max(together(memory));
    }
}

/// What all turns together are for beside a tier of so many bytes: the rest is for what arrives meanwhile.
pub(super) fn together(memory: u64) -> u64 {
    alone(memory) / 4 * 3
}

/// What one turn may be for, which is then the only one: what entries can give way for, and what is there beside them.
pub(super) fn alone(memory: u64) -> u64 {
    memory / 4 * 3 + BESIDE_BYTES
}

/// Waits for a turn to hold `bytes`. Whoever is before it always ends, as long as nobody asks who has one already.
pub(super) async fn turn(state: &Arc<State>, bytes: u64) -> Result<Turn> {
    fits(state, bytes)?;
    let share = state.heavy.0.take(bytes).await;
    // The limit may have been lowered meanwhile.
    fits(state, bytes)?;
    let mut charge = Charge::new(state.clone());
    charge.set(bytes);
    Ok(Turn { charge, share })
}

fn fits(state: &State, bytes: u64) -> Result<()> {
    let most = alone(state.memory.limit_bytes());
    if bytes <= most {
        return Ok(());
    }
    let message = format!("this takes {bytes} bytes for a while, the memory limit leaves room for {most}");
    Err(Error::new(ErrorKind::MemoryTooSmall, message))
}

/// Waits for the room that `source` will need for `key`; `None` where that is not worth a wait. A source that does not
/// even say how much it has hangs, and the gate that `pass` is of hears of it.
pub(super) async fn room(
    state: &Arc<State>,
    source: &dyn Source,
    policy: &Policy,
    key: KeyRef<'_>,
    pass: Pass,
) -> Result<(Option<Turn>, Pass)> {
    let weighing = AssertUnwindSafe(source.weigh(key)).catch_unwind();
    let too_slow = async {
        state.timer.sleep(policy.timeout).await;
        let message = format!("the source did not say within {:?} how much it has", policy.timeout);
        Ok(Err(Error::new(ErrorKind::SourceTimedOut, message)))
    };
    let weight = match or(weighing, too_slow).await {
        Ok(Ok(weight)) => weight,
        // Not without room for it: it may be large, and the machine is busy.
        Ok(Err(error)) if error.kind() == ErrorKind::SourceTimedOut => {
            pass.begin();
            retry::report(state, pass, &error, policy);
            return Err(error);
        }
        // A source that cannot say it says nothing; the load itself will tell what is wrong.
        Ok(Err(_)) | Err(_) => return Ok((None, pass)),
    };
    let bytes = weight.at_most();
    if bytes == 0 {
        return Ok((None, pass));
    }
    let too_late = async {
        state.timer.sleep(PATIENCE).await;
        let message = format!("there was no room for {bytes} bytes within {PATIENCE:?}");
        Err(Error::new(ErrorKind::Busy, message))
    };
    let turn = or(turn(state, bytes), too_late).await?;
    Ok((Some(turn), pass))
}

/// What may be held where no entry can give way to it.
const BESIDE_BYTES: u64 = 24 << 20;

/// How long a load waits for its room.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Mutex;

    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::engine::{Breaker, Cache};
    use crate::source::{Ask, Loaded, Loading, Weighing, Weight};

    /// Does not say how much it has until it is told to; what it was asked for stands in its log.
    #[derive(Debug, Default)]
    struct Silent {
        asked: Mutex<Vec<&'static str>>,
        speaks: Mutex<bool>,
    }

    impl Silent {
        fn asked(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.asked.lock().unwrap())
        }
    }

    impl Source for Silent {
        fn weigh<'l>(&'l self, _: KeyRef<'l>) -> Weighing<'l> {
            self.asked.lock().unwrap().push("weight");
            let speaks = *self.speaks.lock().unwrap();
            Box::pin(async move { if speaks { Ok(Weight::of(1000)) } else { std::future::pending().await } })
        }

        fn load<'l>(&'l self, _: Ask<'l>) -> Loading<'l> {
            self.asked.lock().unwrap().push("load");
            Box::pin(async { Ok(Loaded::new("loaded").into()) })
        }
    }

    #[test]
    fn a_source_that_does_not_say_in_time_how_much_it_has_makes_no_load_and_opens_its_breaker() {
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let policy = Policy::default().timeout(Duration::from_millis(20)).breaker_failures(2);
        let cache =
            Cache::builder().memory(1 << 20).clock(clock.clone()).default_policy(policy).open().unwrap();
        let source = Arc::new(Silent::default());
        let ask = || {
            let answer = cache.get_or_load_blocking(KeyRef::parse("n:1").unwrap(), &source);
            answer.map(|_| ()).map_err(|error| error.kind())
        };
        let status = || {
            let status = &cache.sources()[0];
            (status.breaker, status.failures, status.attempts)
        };
        assert_eq!(ask(), Err(ErrorKind::SourceTimedOut));
        assert_eq!(status(), (Breaker::Closed, 1, 1));
        assert_eq!(ask(), Err(ErrorKind::SourceTimedOut));
        assert_eq!(status(), (Breaker::Open, 2, 2));
        assert_eq!(source.asked(), ["weight", "weight"]);
        assert_eq!(ask(), Err(ErrorKind::SourceUnavailable), "nobody waits for it any more");
        assert_eq!(source.asked(), [""; 0]);
        clock.advance(policy.breaker_open);
        assert_eq!(ask(), Err(ErrorKind::SourceTimedOut), "one tries whether it is back");
        assert_eq!(ask(), Err(ErrorKind::SourceUnavailable));
        assert_eq!(source.asked(), ["weight"]);
        clock.advance(policy.breaker_open);
        *source.speaks.lock().unwrap() = true;
        assert_eq!(ask(), Ok(()));
        assert_eq!(source.asked(), ["weight", "load"]);
        assert_eq!(status(), (Breaker::Closed, 3, 4), "what was weighed and loaded was asked once");
    }

    #[test]
    fn turns_are_charged_come_in_order_and_what_is_too_large_for_all_goes_alone_or_is_refused() {
        let cache = Cache::builder().memory(16 << 20).open().unwrap();
        let most = cache.turn_bytes_max();
        assert_eq!((most, cache.turn_alone_bytes_max()), (27 << 20, 36 << 20));
        let turn = |bytes| block_on(cache.turn(bytes)).unwrap();
        let (first, second) = (turn(most / 2), turn(1000));
        assert!(cache.stats().memory_withheld_bytes > 0);
        let mut large = pin!(cache.turn(most + (1 << 20)));
        let mut small = pin!(cache.turn(1000));
        assert!(block_on(poll_once(&mut large)).is_none());
        assert!(block_on(poll_once(&mut small)).is_none(), "it came after the large one");
        drop((first, second));
        let alone = block_on(large);
        assert!(block_on(poll_once(&mut small)).is_none());
        drop(alone);
        assert_eq!(block_on(small).unwrap().bytes(), 1000);
        assert_eq!(cache.stats().memory_withheld_bytes, 0);
        let refused = block_on(cache.turn((36 << 20) + 1)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::MemoryTooSmall);
    }

    #[test]
    fn turns_go_by_the_memory_limit_of_the_moment() {
        let cache = Cache::builder().memory(160 << 20).open().unwrap();
        let before = block_on(cache.turn(90 << 20)).unwrap();
        let mut late = pin!(cache.turn(40 << 20));
        assert!(block_on(poll_once(&mut late)).is_none());
        cache.set_memory(16 << 20);
        assert_eq!(cache.turn_bytes_max(), 27 << 20);
        assert_eq!(block_on(cache.turn(90 << 20)).unwrap_err().kind(), ErrorKind::MemoryTooSmall);
        assert!(block_on(poll_once(&mut late)).is_none());
        drop(before);
        assert_eq!(block_on(late).unwrap_err().kind(), ErrorKind::MemoryTooSmall);
        drop(block_on(cache.turn(20 << 20)).unwrap());
        cache.set_memory(160 << 20);
        assert_eq!(block_on(cache.turn(90 << 20)).unwrap().bytes(), 90 << 20);
    }
}
