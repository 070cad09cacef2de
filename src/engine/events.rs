//! Telling listeners what left memory and why, off the hot path and within bounds.
//!
//! The memory tier queues removals only while somebody listens; the sweeper hands them on at each tick. A listener
//! that is too slow is told how many it missed.

use std::fmt;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::memory::{Memory, Removal};

/// The sending end, held by the cache.
#[derive(Debug)]
pub(super) struct Events(broadcast::Sender<Removal>);

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

    /// Hands on what has queued up; stops the queueing when nobody listens any more.
    pub(super) fn deliver(&self, memory: &Memory) {
        for removal in memory.removals() {
            if self.0.send(removal).is_err() {
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
    /// The listener was too slow for so many events.
    Missed(u64),
}

/// A listener's end; dropping it ends the listening.
pub struct Subscription(broadcast::Receiver<Removal>);

impl Subscription {
    /// The next event, as soon as there is one; `None` once the cache is gone.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(removal) => Some(Event::Removed(removal)),
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
