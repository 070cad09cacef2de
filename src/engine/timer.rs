//! Waiting for a moment without a runtime: one thread, begun with the first wait, wakes whoever is due.
//!
//! Promises: a [`Sleep`] works on any executor; dropped, it leaves nothing behind; once the timer is closed every sleep
//! is over at once. It measures real time, never the deadlines of entries.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::clock::monotonic_now;

/// The handle on the thread `hifz-timer`; a clone is the same timer.
#[derive(Debug, Clone, Default)]
pub(super) struct Timer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Who is to be woken when; sleeps put themselves in and take themselves out, the thread takes out what is due.
    due: BTreeMap<(Instant, u64), Waker>,
    last_number: u64,
    thread: Thread,
}

#[derive(Debug, Default)]
enum Thread {
    #[default]
    NotYet,
    Running(JoinHandle<()>),
    Closed,
}

impl Timer {
    /// Over after `duration`.
    pub(super) fn sleep(&self, duration: Duration) -> Sleep {
        let now = monotonic_now();
        let at = now.checked_add(duration).unwrap_or_else(|| now + FAR_AWAY);
        Sleep { timer: self.clone(), at, number: None }
    }

    /// Ends the thread; every sleep is over from now on.
    pub(super) fn close(&self) {
        let (thread, due) = {
            let mut waiting = self.0.waiting.lock();
            let thread = std::mem::replace(&mut waiting.thread, Thread::Closed);
            (thread, std::mem::take(&mut waiting.due))
        };
        self.0.changed.notify_one();
        due.into_values().for_each(Waker::wake);
        if let Thread::Running(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the timer thread had panicked");
        }
    }

    /// Has the thread running; whether it is.
    fn ensure_runs(&self, waiting: &mut Waiting) -> bool {
        if matches!(waiting.thread, Thread::NotYet) {
            let inner = self.0.clone();
            let spawned = std::thread::Builder::new().name("hifz-timer".into()).spawn(move || inner.run());
            // Without it a sleep is over at once: a time-out too early is better than none.
            if let Ok(thread) = spawned {
                waiting.thread = Thread::Running(thread);
            }
        }
        matches!(waiting.thread, Thread::Running(_))
    }
}

impl Inner {
    fn run(&self) {
        let mut waiting = self.waiting.lock();
        while !matches!(waiting.thread, Thread::Closed) {
            let now = monotonic_now();
            let later = waiting.due.split_off(&(now, u64::MAX));
            let due = std::mem::replace(&mut waiting.due, later);
            if !due.is_empty() {
                drop(waiting);
                due.into_values().for_each(Waker::wake);
                waiting = self.waiting.lock();
                continue;
            }
            match waiting.due.first_key_value().map(|((at, _), _)| *at) {
                Some(at) => {
                    self.changed.wait_until(&mut waiting, at);
                }
                None => self.changed.wait(&mut waiting),
            }
        }
    }
}

/// A wait that is over at its moment.
#[derive(Debug)]
pub(super) struct Sleep {
    timer: Timer,
    at: Instant,
    /// Its place among those who wait, once it does.
    number: Option<u64>,
}

impl Sleep {
    /// Another wait for the same moment.
    pub(super) fn again(&self) -> Self {
        Self { timer: self.timer.clone(), at: self.at, number: None }
    }

    /// Whether its moment has come.
    pub(super) fn is_over(&self) -> bool {
        self.at <= monotonic_now()
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        let timer = self.timer.clone();
        let mut waiting = timer.0.waiting.lock();
        if !timer.ensure_runs(&mut waiting) {
            return Poll::Ready(());
        }
        let number = self.number.unwrap_or_else(|| {
            waiting.last_number += 1;
            waiting.last_number
        });
        let is_first = waiting.due.first_key_value().is_none_or(|((at, _), _)| self.at < *at);
        waiting.due.insert((self.at, number), context.waker().clone());
        drop(waiting);
        self.number = Some(number);
        if is_first {
            timer.0.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let waker = self.timer.0.waiting.lock().due.remove(&(self.at, number));
            drop(waker);
        }
    }
}

/// For a duration beyond what an instant can hold.
const FAR_AWAY: Duration = Duration::from_hours(24 * 365);

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, or, zip};

    use super::*;

    #[test]
    fn sleeps_end_in_their_order_and_a_dropped_one_leaves_nothing() {
        let timer = Timer::default();
        let begun = monotonic_now();
        let (long, short) = (Duration::from_mins(1), Duration::from_millis(20));
        let first = block_on(or(
            async {
                timer.sleep(long).await;
                "long"
            },
            async {
                timer.sleep(short).await;
                "short"
            },
        ));
        assert_eq!(first, "short");
        assert!(begun.elapsed() >= short);
        assert!(timer.0.waiting.lock().due.is_empty());
    }

    #[test]
    fn closing_ends_every_sleep() {
        let timer = Timer::default();
        let sleeping = zip(timer.sleep(Duration::from_mins(1)), async { timer.close() });
        block_on(sleeping);
        block_on(timer.sleep(Duration::from_mins(1)));
    }
}
