//! Single flight: one load a key however many ask; they all wait for its answer.
//!
//! The first to ask begins a [`Flight`], which then goes on by itself; whoever asks gets a [`Waiting`] and may leave it
//! at any time. A flight that is dropped without an answer wakes its waiters, and the first of them begins anew. An
//! invalidation or a write supersedes the flights it concerns: their results still go to those who asked before, but
//! are not kept, and nobody joins them any more.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, KeyRef};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};

use super::heavy::Remains;
use super::outcome::Outcome;

/// How far a flight is.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// It looks into the tiers.
    Looking,
    /// It asks the source; what it found in the tiers is past its lifetime.
    Asking(Option<Entry>),
    /// It has ended.
    Landed(Landing),
}

/// The answer a flight ends with.
pub(super) type Landing = Result<Landed>;

/// What a flight brought.
#[derive(Debug, Clone)]
pub(super) struct Landed {
    /// `None` when the source has nothing.
    pub(super) entry: Option<Entry>,
    /// Where it came from, for whoever began the flight.
    pub(super) outcome: Outcome,
    /// Whether those who joined may have it too.
    pub(super) is_shared: bool,
    /// What is kept of the turn of a large load, for as long as somebody has its answer.
    pub(super) turn: Option<Remains>,
}

/// The loads under way.
#[derive(Debug, Default, Clone)]
pub(super) struct Flights(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    by_key: Mutex<HashMap<Box<str>, Underway>>,
    /// How many flights are under way that nobody can join.
    alone: AtomicUsize,
}

#[derive(Debug)]
struct Underway {
    flag: Arc<Flag>,
    progress: watch::Receiver<Progress>,
}

/// Shared between a flight and whoever supersedes it.
#[derive(Debug)]
struct Flag {
    superseded: AtomicBool,
}

/// What a caller becomes on a miss.
pub(super) enum Role {
    /// It has begun a flight and must see to it that it goes on.
    Leader(Flight),
    /// It waits for the flight of another.
    Waiter(Waiting),
    /// So many are under way that no further one can begin.
    Refused,
}

impl Flights {
    /// Joins the flight of `key`, or begins one.
    pub(super) fn join(&self, key: KeyRef<'_>) -> Role {
        let mut flights = self.0.by_key.lock();
        if let Some(underway) = flights.get(key.as_str()) {
            let waiting = Waiting { flag: underway.flag.clone(), progress: underway.progress.clone() };
            return Role::Waiter(waiting);
        }
        if flights.len() >= FLIGHTS_MAX {
            return Role::Refused;
        }
        let flight = self.flight(key, false);
        let progress = flight.progress.subscribe();
        flights.insert(key.as_str().into(), Underway { flag: flight.flag.clone(), progress });
        Role::Leader(flight)
    }

    /// A flight that nobody can join, for what may not be shared; whatever it brings is not kept.
    pub(super) fn alone(&self, key: KeyRef<'_>) -> Role {
        if self.0.alone.fetch_add(1, Ordering::Relaxed) >= FLIGHTS_MAX {
            self.0.alone.fetch_sub(1, Ordering::Relaxed);
            return Role::Refused;
        }
        Role::Leader(self.flight(key, true))
    }

    fn flight(&self, key: KeyRef<'_>, is_alone: bool) -> Flight {
        let flag = Arc::new(Flag { superseded: AtomicBool::new(false) });
        let (progress, _) = watch::channel(Progress::Looking);
        Flight { flights: self.clone(), key: key.to_key(), flag, progress, is_alone }
    }

    /// Whether a load of `key` is under way.
    pub(super) fn is_under_way(&self, key: KeyRef<'_>) -> bool {
        self.0.by_key.lock().contains_key(key.as_str())
    }

    /// Supersedes the flight of `key`, if there is one.
    pub(super) fn supersede(&self, key: KeyRef<'_>) {
        let underway = self.0.by_key.lock().remove(key.as_str());
        if let Some(underway) = underway {
            underway.flag.superseded.store(true, Ordering::SeqCst);
        }
    }

    /// Supersedes every flight whose key `concerns` names.
    pub(super) fn supersede_where(&self, concerns: impl Fn(KeyRef<'_>) -> bool) {
        self.0.by_key.lock().retain(|key, underway| {
            let goes = concerns(KeyRef::known(key));
            if goes {
                underway.flag.superseded.store(true, Ordering::SeqCst);
            }
            !goes
        });
    }
}

/// A load under way, held by whoever carries it on.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Flights,
    key: Key,
    flag: Arc<Flag>,
    progress: watch::Sender<Progress>,
    is_alone: bool,
}

impl Flight {
    /// What it is for.
    pub(super) fn key(&self) -> KeyRef<'_> {
        self.key.as_key_ref()
    }

    /// Whether its result must not be kept: it was overtaken, or nobody could have told it.
    pub(super) fn is_superseded(&self) -> bool {
        self.is_alone || self.flag.superseded.load(Ordering::SeqCst)
    }

    /// A place among those who wait for it.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting { flag: self.flag.clone(), progress: self.progress.subscribe() }
    }

    /// Says that the source is being asked, and what stale answer there is meanwhile.
    pub(super) fn asks(&self, stale: Option<Entry>) {
        self.progress.send_replace(Progress::Asking(stale));
    }

    /// Ends the flight and gives every waiter the answer. In this order: who asks once it is known does not join it.
    pub(super) fn land(self, landing: Landing) {
        self.leave();
        self.progress.send_replace(Progress::Landed(landing));
    }

    /// Leaves the table; nobody joins it from then on.
    fn leave(&self) {
        let mut flights = self.flights.0.by_key.lock();
        // A flight that was superseded has left already, and another may stand there under the same key.
        if flights.get(self.key.as_str()).is_some_and(|underway| Arc::ptr_eq(&underway.flag, &self.flag)) {
            flights.remove(self.key.as_str());
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.is_alone {
            self.flights.0.alone.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.leave();
        }
    }
}

/// A caller that waits for a flight.
#[derive(Debug)]
pub(super) struct Waiting {
    flag: Arc<Flag>,
    progress: watch::Receiver<Progress>,
}

impl Waiting {
    /// How far the flight is now.
    pub(super) fn progress(&mut self) -> Progress {
        self.progress.borrow_and_update().clone()
    }

    /// Waits until the flight is further; false when it ended without an answer and the caller should ask again.
    pub(super) async fn changed(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Whether something written or invalidated since it began has overtaken the flight.
    pub(super) fn is_superseded(&self) -> bool {
        self.flag.superseded.load(Ordering::SeqCst)
    }
}

/// The most loads under way, those that wait for their turn included.
const FLIGHTS_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    fn leader(flights: &Flights, key: &str) -> Flight {
        match flights.join(KeyRef::parse(key).unwrap()) {
            Role::Leader(flight) => flight,
            Role::Waiter(_) | Role::Refused => panic!("another leads"),
        }
    }

    fn waiter(flights: &Flights, key: &str) -> Waiting {
        match flights.join(KeyRef::parse(key).unwrap()) {
            Role::Leader(_) | Role::Refused => panic!("nobody leads"),
            Role::Waiter(waiting) => waiting,
        }
    }

    #[test]
    fn everyone_who_waits_gets_the_one_answer() {
        let flights = Flights::default();
        let flight = leader(&flights, "a");
        let waiting = [waiter(&flights, "a"), waiter(&flights, "a"), flight.waiting()];
        flight.land(Ok(Landed { entry: None, outcome: Outcome::Miss, is_shared: true, turn: None }));
        for mut one in waiting {
            assert!(matches!(one.progress(), Progress::Landed(Ok(_))));
        }
        drop(leader(&flights, "a"));
    }

    #[test]
    fn a_flight_that_dies_wakes_its_waiters_and_one_of_them_begins_anew() {
        let flights = Flights::default();
        let flight = leader(&flights, "a");
        let mut waiting = waiter(&flights, "a");
        drop(flight);
        assert!(!block_on(waiting.changed()));
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

    #[test]
    fn beyond_their_bound_no_flight_begins() {
        let flights = Flights::default();
        let all: Vec<_> = (0..FLIGHTS_MAX).map(|number| leader(&flights, &format!("a:{number}"))).collect();
        assert!(matches!(flights.join(KeyRef::parse("b").unwrap()), Role::Refused));
        drop(waiter(&flights, "a:0"));
        drop(all);
        drop(leader(&flights, "b"));
    }
}
