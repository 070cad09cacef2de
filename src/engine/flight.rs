//! Single flight: one load a key however many ask; the others wait for its answer.
//!
//! The first to ask becomes the leader and gets a [`Flight`]; the rest wait. A leader that is cancelled or panics
//! drops its flight, which wakes the waiters, and the first of them leads anew. An invalidation or a write supersedes
//! the flights it concerns: their results still go to those who asked before, but are not kept, and nobody joins them
//! any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, KeyRef};

/// The answer a flight ends with; `None` when the source has nothing.
pub(super) type Landing = Result<Option<Entry>>;

/// The loads under way.
#[derive(Debug, Default, Clone)]
pub(super) struct Flights(Arc<Mutex<HashMap<Box<str>, Underway>>>);

#[derive(Debug)]
struct Underway {
    flag: Arc<Flag>,
    landing: watch::Receiver<Option<Landing>>,
}

/// Shared between a flight and whoever supersedes it.
#[derive(Debug)]
struct Flag {
    superseded: AtomicBool,
}

/// What a caller becomes on a miss.
pub(super) enum Role {
    /// It loads.
    Leader(Flight),
    /// It waits for the load of another.
    Waiter(Waiting),
}

impl Flights {
    /// Joins the flight of `key`, or begins one.
    pub(super) fn join(&self, key: KeyRef<'_>) -> Role {
        let mut flights = self.0.lock();
        if let Some(underway) = flights.get(key.as_str()) {
            return Role::Waiter(Waiting(underway.landing.clone()));
        }
        let (sender, landing) = watch::channel(None);
        let flag = Arc::new(Flag { superseded: AtomicBool::new(false) });
        flights.insert(key.as_str().into(), Underway { flag: flag.clone(), landing });
        Role::Leader(Flight { flights: self.clone(), key: key.to_key(), flag, sender })
    }

    /// Supersedes the flight of `key`, if there is one.
    pub(super) fn supersede(&self, key: KeyRef<'_>) {
        let underway = self.0.lock().remove(key.as_str());
        if let Some(underway) = underway {
            underway.flag.superseded.store(true, Ordering::Release);
        }
    }

    /// Supersedes every flight whose key `concerns` names.
    pub(super) fn supersede_where(&self, concerns: impl Fn(KeyRef<'_>) -> bool) {
        self.0.lock().retain(|key, underway| {
            let goes = concerns(KeyRef::known(key));
            if goes {
                underway.flag.superseded.store(true, Ordering::Release);
            }
            !goes
        });
    }
}

/// A load under way, held by its leader.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Flights,
    key: Key,
    flag: Arc<Flag>,
    sender: watch::Sender<Option<Landing>>,
}

impl Flight {
    /// Whether its result must not be kept.
    pub(super) fn is_superseded(&self) -> bool {
        self.flag.superseded.load(Ordering::Acquire)
    }

    /// Gives every waiter the answer and ends the flight.
    pub(super) fn land(self, landing: Landing) {
        self.sender.send_replace(Some(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock();
        // A flight that was superseded has left the table, and another may stand there under the same key.
        if flights.get(self.key.as_str()).is_some_and(|underway| Arc::ptr_eq(&underway.flag, &self.flag)) {
            flights.remove(self.key.as_str());
        }
    }
}

/// A caller that waits for another's load.
pub(super) struct Waiting(watch::Receiver<Option<Landing>>);

impl Waiting {
    /// The answer; `None` when the leader died without one and the caller should ask again.
    pub(super) async fn landing(mut self) -> Option<Landing> {
        let landed = self.0.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(flights: &Flights, key: &str) -> Flight {
        match flights.join(KeyRef::parse(key).unwrap()) {
            Role::Leader(flight) => flight,
            Role::Waiter(_) => panic!("another leads"),
        }
    }

    fn waiter(flights: &Flights, key: &str) -> Waiting {
        match flights.join(KeyRef::parse(key).unwrap()) {
            Role::Leader(_) => panic!("nobody leads"),
            Role::Waiter(waiting) => waiting,
        }
    }

    #[test]
    fn everyone_who_waits_gets_the_leaders_answer() {
        let flights = Flights::default();
        let flight = leader(&flights, "a");
        let waiting = [waiter(&flights, "a"), waiter(&flights, "a")];
        flight.land(Ok(None));
        for one in waiting {
            assert!(matches!(block_on(one.landing()), Some(Ok(None))));
        }
        drop(leader(&flights, "a"));
    }

    #[test]
    fn a_leader_that_dies_wakes_its_waiters_and_one_of_them_leads() {
        let flights = Flights::default();
        let flight = leader(&flights, "a");
        let waiting = waiter(&flights, "a");
        drop(flight);
        assert!(block_on(waiting.landing()).is_none());
        drop(leader(&flights, "a"));
    }

    #[test]
    fn a_superseded_flight_is_joined_by_nobody_and_does_not_end_its_successor() {
        let flights = Flights::default();
        let old = leader(&flights, "a:1");
        let other = leader(&flights, "b:1");
        flights.supersede_where(|key| key.namespace() == "a");
        assert!(old.is_superseded() && !other.is_superseded());
        let new = leader(&flights, "a:1");
        drop(old);
        drop(waiter(&flights, "a:1"));
        assert!(!new.is_superseded());
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
}
