//! The read path: memory, then one flight a key to the disk tier and the source; all branches are here.
//!
//! A hit in memory takes one shard lock, clones one pointer and neither awaits nor allocates. Past its lifetime an entry
//! is served only within the windows of its policy, and the answer says so. The load itself goes on beside its callers
//! (`engine/load.rs`), so that each of them keeps its own deadline and none of them can end it.

use std::time::Duration;

use futures_lite::future::or;

use crate::entry::{Entry, Terms};
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::memory::Insertion;

use super::Cache;
use super::flight::{Flight, Landed, Progress, Role, Waiting};
use super::load::{self, Shared};
use super::outcome::{Answer, Outcome, is_failure};
use super::policy::Policy;
use super::spawn::Caller;
use super::state::State;
use super::stats::MissReason;
use super::timer::Sleep;

/// What stands fresh under `key` in memory or on disk, or why there is nothing to serve; asks no source.
pub(super) fn get(state: &State, key: KeyRef<'_>) -> std::result::Result<Entry, MissReason> {
    let reason = match state.find(key) {
        Err(reason) => reason,
        found => return found,
    };
    let on_disk = || {
        let disk = state.disk.as_ref().filter(|disk| disk.may_contain(key))?;
        match state.flights.join(key) {
            Role::Leader(flight) => keep_promoted(state, disk.get(key)?, &flight),
            // Somebody is at it already, and may have to ask a source; this caller reads for itself and keeps nothing.
            Role::Waiter(_) | Role::Refused => disk.get(key).filter(|entry| !state.is_idle_record(entry)),
        }
    };
    on_disk().filter(|entry| state.is_live(entry)).ok_or(reason)
}

/// As [`get`], without a trace: no use, no promotion.
pub(super) fn peek(state: &State, key: KeyRef<'_>) -> Option<Entry> {
    let in_memory = state.memory.peek(key).filter(|entry| state.is_live(entry));
    let on_disk = || state.disk.as_ref()?.get(key).filter(|entry| state.is_live_record(entry));
    in_memory.or_else(on_disk)
}

/// How a caller asks.
pub(super) struct Asking<'a> {
    pub(super) key: KeyRef<'a>,
    pub(super) source: Shared,
    pub(super) caller: Caller,
}

/// The one function that decides where an answer comes from, after memory had nothing fresh.
pub(super) async fn get_or_load(cache: &Cache, asking: &Asking<'_>) -> Result<Answer> {
    let (state, key) = (cache.state(), asking.key);
    let policy = state.policy(key.namespace());
    let patience = Patience::begin(state, &policy);
    loop {
        if state.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "the cache has been closed"));
        }
        let held = state.alive_in_memory(key);
        if let Some(entry) = held.as_ref().filter(|entry| state.is_live(entry)) {
            return Ok(Answer::of(entry.clone(), Outcome::Hit));
        }
        let now = state.clock.now();
        if held.is_none() && state.absent.holds(key, now) {
            return Ok(Answer { entry: None, outcome: Outcome::Negative, turn: None });
        }
        // Its source failed a moment ago: what is stale is served without asking again at every call.
        if let Some(entry) = &held
            && state.failed.holds(key, now)
            && windows(entry, &policy).allow(entry, now)
        {
            return Ok(Answer::of(entry.clone(), Outcome::Fallback));
        }
        let is_unstored = state.unstored.holds(key, now);
        let role = if is_unstored { state.flights.alone(key) } else { state.flights.join(key) };
        let (mut waiting, is_leader) = match role {
            Role::Leader(flight) => (load::begin(cache, asking, flight)?, true),
            Role::Waiter(waiting) => (waiting, false),
            Role::Refused => return Err(Error::new(ErrorKind::Busy, "too many loads are under way")),
        };
        let wait = Wait { state, policy: &policy, patience: &patience, held, is_leader };
        if let Some(answered) = wait.answer(&mut waiting).await {
            return answered;
        }
    }
}

/// How long a caller waits, from when it asked.
struct Patience {
    /// Over when it takes what is stale.
    soft: Option<Sleep>,
    /// Over when it leaves.
    hard: Sleep,
    hard_after: Duration,
}

impl Patience {
    fn begin(state: &State, policy: &Policy) -> Self {
        let hard_after = policy.wait_max();
        let soft = policy.soft_timeout.map(|soft| state.timer.sleep(soft));
        Self { soft, hard: state.timer.sleep(hard_after), hard_after }
    }
}

/// One caller's wait for one flight.
struct Wait<'w> {
    state: &'w State,
    policy: &'w Policy,
    patience: &'w Patience,
    /// What memory held, past its lifetime.
    held: Option<Entry>,
    is_leader: bool,
}

/// What a wait ended with.
enum Woken {
    Changed,
    Died,
    Soft,
    Hard,
}

impl Wait<'_> {
    /// What the caller is answered; `None` when it should ask again.
    async fn answer(mut self, waiting: &mut Waiting) -> Option<Result<Answer>> {
        let mut is_soft_over = self.patience.soft.as_ref().is_some_and(Sleep::is_over);
        loop {
            match waiting.progress() {
                Progress::Landed(landing) => return self.landed(landing, waiting),
                Progress::Asking(Some(stale)) => self.held = Some(stale),
                Progress::Asking(None) | Progress::Looking => {}
            }
            // It is being loaded ahead of time.
            if let Some(entry) = self.held.take_if(|entry| self.state.is_live(entry)) {
                return Some(Ok(Answer::of(entry, Outcome::Hit)));
            }
            if let Some(entry) = self.stale(|windows| windows.revalidate) {
                return Some(Ok(Answer::of(entry, Outcome::Revalidating)));
            }
            if is_soft_over && let Some(entry) = self.stale(Windows::longest) {
                return Some(Ok(Answer::of(entry, Outcome::Stale)));
            }
            match self.woken(waiting, is_soft_over).await {
                Woken::Changed => {}
                Woken::Died => return None,
                Woken::Soft => is_soft_over = true,
                Woken::Hard => return Some(self.out_of_patience()),
            }
        }
    }

    async fn woken(&self, waiting: &mut Waiting, is_soft_over: bool) -> Woken {
        let further = async { if waiting.changed().await { Woken::Changed } else { Woken::Died } };
        let hard = async {
            self.patience.hard.again().await;
            Woken::Hard
        };
        match self.patience.soft.as_ref().filter(|_| !is_soft_over) {
            None => or(further, hard).await,
            Some(soft) => {
                let soft = async {
                    soft.again().await;
                    Woken::Soft
                };
                or(further, or(soft, hard)).await
            }
        }
    }

    fn landed(&self, landing: Result<Landed>, waiting: &Waiting) -> Option<Result<Answer>> {
        match landing {
            Ok(landed) if self.is_leader => {
                Some(Ok(Answer { entry: landed.entry, outcome: landed.outcome, turn: landed.turn }))
            }
            // Not for others: this caller asks for itself.
            Ok(landed) if !landed.is_shared => None,
            Ok(landed) if landed.outcome == Outcome::Hit => {
                Some(Ok(Answer { entry: landed.entry, outcome: Outcome::Hit, turn: landed.turn }))
            }
            Ok(landed) => {
                Some(Ok(Answer { entry: landed.entry, outcome: Outcome::Joined, turn: landed.turn }))
            }
            Err(error) if !is_failure(&error) => Some(Err(error)),
            // What it held before is not for those who came after the change.
            Err(error) if waiting.is_superseded() => Some(Err(error)),
            Err(error) => match self.stale(|windows| windows.error) {
                Some(entry) => Some(Ok(Answer::of(entry, Outcome::Fallback))),
                None => Some(Err(error)),
            },
        }
    }

    fn out_of_patience(&self) -> Result<Answer> {
        if let Some(entry) = self.stale(Windows::longest) {
            return Ok(Answer::of(entry, Outcome::Stale));
        }
        let message = format!("there was no answer within {:?}", self.patience.hard_after);
        Err(Error::new(ErrorKind::SourceTimedOut, message))
    }

    /// What is held, if the window that `which` names allows it now and nothing has killed it since.
    fn stale(&self, which: impl Fn(&Windows) -> Duration) -> Option<Entry> {
        let entry = self.held.as_ref()?;
        let overdue = entry.overdue(self.state.clock.now())?;
        let is_allowed = overdue < which(&windows(entry, self.policy));
        (is_allowed && self.state.generations.is_alive(entry)).then(|| entry.clone())
    }
}

/// How long past its lifetime an entry may be served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    revalidate: Duration,
    error: Duration,
}

impl Windows {
    fn longest(&self) -> Duration {
        self.revalidate.max(self.error)
    }

    /// Whether any of them allows `entry` at `now`.
    pub(super) fn allow(&self, entry: &Entry, now: crate::clock::Timestamp) -> bool {
        entry.overdue(now).is_some_and(|overdue| overdue < self.longest())
    }
}

/// The windows of `entry`: its own, or those of its policy.
pub(super) fn windows(entry: &Entry, policy: &Policy) -> Windows {
    let terms = Terms::of(entry);
    let own = |window_ms: Option<u64>, policy: Duration| window_ms.map_or(policy, Duration::from_millis);
    Windows {
        revalidate: own(terms.stale_while_revalidate_ms, policy.stale_while_revalidate),
        error: own(terms.stale_if_error_ms, policy.stale_if_error),
    }
}

/// Has `entry`, a hit, loaded anew if its policy says so.
pub(super) fn refresh_ahead(cache: &Cache, entry: &Entry, source: impl FnOnce() -> Shared, caller: Caller) {
    let (state, key) = (cache.state(), entry.key());
    if !is_eager(state, entry) || state.failed.holds(key, state.clock.now()) {
        return;
    }
    if let Role::Leader(flight) = state.flights.join(key) {
        let asking = Asking { key, source: source(), caller };
        if let Err(error) = load::begin(cache, &asking, flight) {
            tracing::debug!(key = %key, error = %error.chain(), "a value could not be loaded ahead of time");
        }
    }
}

/// Whether `entry`, which is fresh, is to be loaded anew ahead of time.
pub(super) fn is_eager(state: &State, entry: &Entry) -> bool {
    if !state.is_any_eager() {
        return false;
    }
    let Some(after) = state.policy(entry.key().namespace()).eager_after else { return false };
    let lifetime = entry.expires_at().since(entry.stored_at());
    state.clock.now().since(entry.stored_at()) >= lifetime.mul_f64(after.clamp(0.0, 1.0))
}

/// Puts what the disk tier held back into memory, stale or fresh; what then stands there.
pub(super) fn keep_promoted(state: &State, entry: Entry, flight: &Flight) -> Option<Entry> {
    let is_dead = !state.generations.is_alive(&entry) || state.is_idle_record(&entry);
    if is_dead || flight.is_superseded() {
        return None;
    }
    match state.memory.restore(entry.clone(), || !flight.is_superseded()) {
        Insertion::Refused => None,
        // A write since then stands in memory, and is what this caller must see.
        Insertion::Outdated => state.alive_in_memory(entry.key()),
        Insertion::Inserted | Insertion::Replaced | Insertion::Bypassed => Some(entry),
    }
}
