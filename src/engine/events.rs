//! Telling listeners what left memory and why, and what else changed, off the hot path and within bounds.
//!
//! The memory tier queues removals only while somebody listens; the sweeper hands them on at each tick. A listener
//! that is too slow is told how many it missed.

use std::fmt;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::key::Key;
use crate::memory::{Memory, Removal};

/// The sending end, held by the cache.
#[derive(Debug)]
pub(super) struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(EVENTS_MAX))
    }
}

impl Events {
    pub(super) fn subscribe(&self, memory: &Memory) -> Subscription {
        let receiver = self.0.subscribe();
        memory.listen(true);
        Subscription(receiver)
    }

    /// Tells whoever listens; costs one look at a counter when nobody does. Never under a lock.
    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // An error means that the last listener has just left.
            self.0.send(event()).map(|_| ()).unwrap_or_default();
        }
    }

    /// Hands on what has queued up; stops the queueing when nobody listens any more.
    pub(super) fn deliver(&self, memory: &Memory) {
        for removal in memory.removals() {
            if self.0.send(Event::Removed(removal)).is_err() {
                memory.listen(false);
                return;
            }
        }
    }
}

/// What a listener is told.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The listener was too slow for so many events.
    Missed(u64),
}

/// A listener's end; dropping it ends the listening.
pub struct Subscription(broadcast::Receiver<Event>);

impl Subscription {
    /// The next event, as soon as there is one; `None` once the cache is gone.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("waiting", &self.0.len()).finish()
    }
}

/// So many events wait for a slow listener.
const EVENTS_MAX: usize = 4096;
