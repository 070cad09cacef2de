//! Telling listeners what left memory and why, and what else changed, off the hot path and within bounds.
//!
//! The memory tier queues removals only while somebody listens; the sweeper hands them on at each tick. A listener
//! that is too slow is told how many it missed.

use std::fmt;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::key::Key;
use crate::memory::{Memory, Removal};

use super::outcome::Outcome;

/// The sending end, held by the cache.
#[derive(Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<(u64, Event)>,
    /// The number of the last event. Raised with the event sent under it, so that numbers arrive in order.
    last: Mutex<u64>,
}

impl Events {
    /// Numbers events from `first` on.
    pub(super) fn new(first: u64) -> Self {
        Self { sender: broadcast::Sender::new(EVENTS_MAX), last: Mutex::new(first) }
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> u64 {
        *self.last.lock()
    }

    pub(super) fn subscribe(&self, memory: &Memory) -> Subscription {
        let receiver = self.sender.subscribe();
        memory.listen(true);
        Subscription { receiver, last: self.last() }
    }

    /// Tells whoever listens; costs one look at a counter when nobody does. Never under a lock.
    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.sender.receiver_count() > 0 {
            // What nobody hears needs no number.
            let _is_heard = self.send(event());
        }
    }

    /// Whether somebody hears it.
    fn send(&self, event: Event) -> bool {
        let mut last = self.last.lock();
        *last += 1;
        self.sender.send((*last, event)).is_ok()
    }

    /// Hands on what has queued up; stops the queueing when nobody listens any more.
    pub(super) fn deliver(&self, memory: &Memory) {
        for removal in memory.removals() {
            if !self.send(Event::Removed(removal)) {
                memory.listen(false);
                return;
            }
        }
    }
}

/// What a listener is told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// An entry left memory.
    Removed(Removal),
    /// Keys, a namespace, a tag, a pattern or everything was invalidated.
    Invalidated {
        /// What was named, as `key a:b`, `namespace quran`, `tag surahs`, `pattern a:*` or `all`; of several keys or tags
        /// the first, and how many more.
        what: String,
        /// How many live entries that were; for tags an upper bound.
        count: u64,
    },
    /// A question was answered. Of the hits only a sample is told, the one in 256 whose time is taken.
    Answered {
        /// The key.
        key: Key,
        /// Where the answer came from.
        outcome: Outcome,
    },
    /// A source answered something unacceptable under this key, and what stood there stays.
    Rejected {
        /// The key.
        key: Key,
        /// What was wrong.
        reason: String,
    },
    /// A part (`disk`, `source`, …) changed its state.
    StateChanged {
        /// The part.
        part: &'static str,
        /// Its new state, as in health: `ok`, `degraded`, `unavailable`.
        state: &'static str,
        /// Why.
        reason: String,
    },
    /// The record behind the cache was changed; told by whoever changed it.
    SourceChanged {
        /// What of it, by the keys that depend on it.
        what: String,
    },
    /// A figure passed its threshold, or is back; told by whoever watches it.
    Alert {
        /// The figure.
        alert: &'static str,
        /// Whether it is beyond the threshold now.
        is_raised: bool,
        /// What it is.
        value: f64,
        /// What it is measured by.
        threshold: f64,
    },
    /// The listener was too slow for so many events.
    Missed(u64),
}

/// A listener's end; dropping it ends the listening.
pub struct Subscription {
    receiver: broadcast::Receiver<(u64, Event)>,
    /// The number of the last event that was heard.
    last: u64,
}

impl Subscription {
    /// The next event, as soon as there is one; `None` once the cache is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.next_numbered().await.map(|(_, event)| event)
    }

    /// The next event and its number, which only rises, also over restarts that keep their disk.
    pub async fn next_numbered(&mut self) -> Option<(u64, Event)> {
        match self.receiver.recv().await {
            Ok((number, event)) => {
                self.last = number;
                Some((number, event))
            }
            Err(RecvError::Lagged(missed)) => {
                self.last += missed;
                Some((self.last, Event::Missed(missed)))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("waiting", &self.receiver.len()).finish_non_exhaustive()
    }
}

/// So many events wait for a slow listener.
const EVENTS_MAX: usize = 4096;
