//! One flight, from the tiers to the source and back: it goes on by itself, whoever waits for it.
//!
//! A load notes its sequence before it asks the source; an invalidation that comes in between supersedes it, so that
//! its answer reaches those who asked before and is kept by nobody. A value that its source refuses takes nobody's
//! place. Whatever happens, a flight ends: attempts and times are bounded, a panic is an error, and a flight that is
//! dropped wakes its waiters.

use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_128;

use crate::clock::Timestamp;
use crate::entry::{Entry, Head, Parts, Terms};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyRef, Tag};
use crate::memory::{Cause, Insertion};
use crate::source::{Ask, Load, Loaded, Room, Source};

use super::Cache;
use super::events::Event;
use super::flight::{Flight, Landed, Landing, Waiting};
use super::heavy::{self, Remains};
use super::outcome::{Outcome, is_failure};
use super::policy::Policy;
use super::read::{Asking, keep_promoted};
use super::retry;
use super::state::State;

/// A source that a load holds for as long as it goes on.
pub(super) type Shared = Arc<dyn Source>;

/// Sends `flight` on its way, beside the caller.
pub(super) fn begin(cache: &Cache, asking: &Asking<'_>, flight: Flight) -> Result<Waiting> {
    let waiting = flight.waiting();
    let (state, source) = (cache.shared_state(), asking.source.clone());
    cache.state().spawner.spawn(Box::pin(fly(state, source, flight)), asking.caller)?;
    Ok(waiting)
}

async fn fly(state: Arc<State>, source: Shared, flight: Flight) {
    let landing = look_and_ask(&state, &*source, &flight).await;
    if let Err(error) = &landing {
        note_failure(&state, flight.key(), error);
    }
    // Whoever hears the answer may close the cache and open its directory anew.
    drop(state);
    flight.land(landing);
}

async fn look_and_ask(state: &Arc<State>, source: &dyn Source, flight: &Flight) -> Landing {
    let key = flight.key();
    // Between its caller's look into memory and this flight another one may have landed.
    let held = match state.alive_in_memory(key) {
        Some(entry) => Some(entry),
        None => state.read_disk(key).await.and_then(|entry| keep_promoted(state, entry, flight)),
    };
    let is_ahead_of_time = held.as_ref().is_some_and(|entry| super::read::is_eager(state, entry));
    if let Some(entry) = held.as_ref().filter(|entry| state.is_live(entry) && !is_ahead_of_time) {
        return Ok(Landed { entry: Some(entry.clone()), outcome: Outcome::Hit, is_shared: true, turn: None });
    }
    flight.asks(held.clone());
    load(state, source, flight, held).await
}

async fn load(state: &Arc<State>, source: &dyn Source, flight: &Flight, held: Option<Entry>) -> Landing {
    let (key, policy) = (flight.key(), state.policy(flight.key().namespace()));
    let pass = state.gates.of(source.name()).knock(state.clock.now())?;
    // Held until the answer is an entry, and by what a source goes on with after it was given up.
    let (turn, pass) = heavy::room(state, source, &policy, key, pass).await?;
    let turn = turn.map(Arc::new);
    let sequence = state.next_sequence();
    let own = state.clone();
    let bytes_max = loading_bytes_max(state.memory.limit_bytes(), state.value_bytes_max);
    let mut room = Room::of(state.loading_bytes.clone(), bytes_max, move || own.charge_beside());
    if let Some(turn) = &turn {
        room = room.ahead(turn.bytes(), turn.clone());
    }
    let mut ask = Ask::new(key, &room);
    if let Some(held) = &held {
        ask.validator = Terms::of(held).validator;
        ask.modified_at =
            Head::decode(held.head()).ok().map(|head| Timestamp::from_millis(head.modified_at_ms));
    }
    let loading = Loading { state, flight, policy: &policy, sequence };
    let load = retry::ask(state, source, &policy, ask, pass).await?;
    room.end_work();
    let landed = match load {
        Load::Value(loaded) => loading.keep(loaded, held.as_ref())?,
        Load::NotModified => loading.renew(held.as_ref())?,
        Load::Absent => loading.note_absence(held.as_ref()),
    };
    // Whoever gets the entry may hold it longer than the cache does.
    let kept = landed.entry.as_ref().map_or(0, Entry::weight) as u64;
    let turn = turn.map(|turn| match Arc::try_unwrap(turn) {
        Ok(turn) => Arc::new(turn.down_to(kept)) as Remains,
        // Some work of the source still holds all of it.
        Err(held) => held as Remains,
    });
    Ok(Landed { turn, ..landed })
}

/// What a load needs to settle its answer.
struct Loading<'l> {
    state: &'l State,
    flight: &'l Flight,
    policy: &'l Policy,
    sequence: u64,
}

impl Loading<'_> {
    fn keep(&self, loaded: Loaded, held: Option<&Entry>) -> Landing {
        let (state, key, is_stored) = (self.state, self.flight.key(), loaded.is_stored);
        let own = loaded.stale_while_revalidate.max(loaded.stale_if_error).unwrap_or_default();
        let entry = self.admitted(loaded)?;
        let now = state.clock.now();
        if !is_stored {
            // What was held is not what the source has now.
            self.take_out(held);
            state.unstored.remember(key, now, now.after(UNSTORED_FOR), || true);
            return Ok(Landed { entry: Some(entry), outcome: Outcome::Bypass, is_shared: false, turn: None });
        }
        state.unstored.forget(key);
        state.graces.widen(state.tiers(), key.namespace(), own.max(self.policy.grace()));
        let is_too_large = entry.body().len() as u64 > state.value_bytes_max;
        Ok(self.insert(entry, is_too_large))
    }

    fn insert(&self, entry: Entry, is_too_large: bool) -> Landed {
        let (state, flight) = (self.state, self.flight);
        let insertion = state.memory.insert(entry.clone(), || {
            // Enqueued under the shard's lock: an invalidation that comes later finds it in the queue and kills it there.
            let is_current = !is_too_large && !flight.is_superseded();
            if is_current && let Some(disk) = &state.disk {
                disk.put(&entry);
            }
            is_current
        });
        let outcome = match insertion {
            Insertion::Inserted | Insertion::Replaced => Outcome::Miss,
            Insertion::Outdated | Insertion::Refused | Insertion::Bypassed => Outcome::Bypass,
        };
        if outcome == Outcome::Miss {
            state.absent.forget(flight.key());
            state.failed.forget(flight.key());
        }
        Landed { entry: Some(entry), outcome, is_shared: true, turn: None }
    }

    /// What is held, with a new lifetime: its source says that it still holds.
    fn renew(&self, held: Option<&Entry>) -> Landing {
        let held = held.ok_or_else(|| {
            Error::new(ErrorKind::SourceRefused, "the source says that nothing changed, but nothing is held")
        })?;
        let stored_at = self.state.clock.now();
        // A lifetime of its own is given anew.
        let ttl = Terms::of(held).ttl_ms.map(Duration::from_millis).or(self.policy.ttl);
        let tags: Vec<&str> = held.tags().collect();
        let parts = Parts {
            head: held.head(),
            body: held.body(),
            tags: &tags,
            stored_at,
            expires_at: self.policy.expiry_of(ttl, stored_at, self.sequence),
            sequence: self.sequence,
        };
        Ok(self.insert(Entry::new(held.key(), &parts), false))
    }

    /// There is none, now: what was held is taken out, and that is remembered.
    fn note_absence(&self, held: Option<&Entry>) -> Landed {
        let (state, key) = (self.state, self.flight.key());
        if !self.flight.is_superseded() {
            self.take_out(held);
            let now = state.clock.now();
            if !self.policy.negative_ttl.is_zero() {
                let until = now.after(self.policy.negative_ttl);
                state.absent.remember(key, now, until, || !self.flight.is_superseded());
            }
        }
        Landed { entry: None, outcome: Outcome::Miss, is_shared: true, turn: None }
    }

    /// Takes out what stood under the key when this load began, and nothing that was written since.
    fn take_out(&self, held: Option<&Entry>) {
        if let Some(disk) = &self.state.disk {
            disk.forget(self.flight.key(), self.sequence);
        }
        if let Some(held) = held {
            self.state.memory.remove_exactly(held, Cause::Expired);
        }
    }

    /// What the source gave, as an entry with its own lifetime or that of its namespace.
    fn admitted(&self, mut loaded: Loaded) -> Result<Entry> {
        let stored_at = self.state.clock.now();
        let head = Head {
            content_type: &loaded.content_type,
            etag: loaded.forms.plain.map_or_else(|| xxh3_128(&loaded.body), |(digest, _)| digest),
            modified_at_ms: loaded.modified_at.unwrap_or(stored_at).as_millis(),
            forms: loaded.forms.as_forms(),
        };
        let mut head = head.encode()?;
        // They stand in the head now, and may be large.
        loaded.forms.coded = Vec::new();
        let terms = Terms {
            ttl_ms: loaded.ttl.map(as_millis),
            validator: loaded.validator.as_deref().filter(|validator| validator.len() <= VALIDATOR_BYTES_MAX),
            stale_while_revalidate_ms: loaded.stale_while_revalidate.map(as_millis),
            stale_if_error_ms: loaded.stale_if_error.map(as_millis),
        };
        terms.append(&mut head)?;
        for tag in &loaded.tags {
            Tag::parse(&**tag)
                .map_err(|error| Error::new(ErrorKind::SourceRefused, "a tag is not one").because(error))?;
        }
        let tags: Vec<&str> = loaded.tags.iter().map(|tag| &**tag).collect();
        let parts = Parts {
            head: &head,
            body: &loaded.body,
            tags: &tags,
            stored_at,
            expires_at: self.policy.expiry_of(loaded.ttl.or(self.policy.ttl), stored_at, self.sequence),
            sequence: self.sequence,
        };
        Ok(Entry::new(self.flight.key(), &parts))
    }
}

/// Log, listeners and the next callers hear of a load that failed.
fn note_failure(state: &State, key: KeyRef<'_>, error: &Error) {
    if !is_failure(error) {
        return;
    }
    let now = state.clock.now();
    let pause = state.policy(key.namespace()).backoff.saturating_mul(10).min(FAILED_FOR_MAX);
    state.failed.remember(key, now, now.after(pause), || true);
    if error.kind() == ErrorKind::SourceRefused {
        state.seldom.rejected.say(|left_out| {
            tracing::warn!(key = %key, error = %error.chain(), left_out, "a source's value was rejected");
        });
        tracing::debug!(key = %key, error = %error.chain(), "a source's value was rejected");
        state.events.tell(|| Event::Rejected { key: key.to_key(), reason: error.chain() });
    } else {
        tracing::debug!(key = %key, error = %error.chain(), "a load failed");
    }
}

/// How many bytes all loads under way may hold: two of the largest values, but no more than half of a small memory, so
/// that an origin whose answers have no end cannot take what the process was not given.
fn loading_bytes_max(memory: u64, value_bytes_max: u64) -> u64 {
    let of_values = value_bytes_max.saturating_mul(2).min((memory / 2).max(LOADING_BYTES_LEAST));
    of_values.max(memory / 8)
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// So long a source that said not to keep a value is asked by each caller for itself.
const UNSTORED_FOR: Duration = Duration::from_mins(1);

/// So long at most what is stale is served without asking a source again that has just failed for the same key.
const FAILED_FOR_MAX: Duration = Duration::from_secs(1);

/// In any memory loads may hold so much, were it only for what is not kept.
const LOADING_BYTES_LEAST: u64 = 24 << 20;

/// Longer validators are not kept.
const VALIDATOR_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Weak;
    use std::task::{Context, Wake, Waker};

    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::*;
    use crate::engine::Task;
    use crate::key::Key;
    use crate::source::from_fn;

    /// Notes, whenever it is woken, how many hold the cache.
    struct Hearer(Weak<State>, Mutex<usize>);

    impl Wake for Hearer {
        fn wake(self: Arc<Self>) {
            *self.1.lock() = self.0.strong_count();
        }
    }

    #[test]
    fn who_hears_the_answer_of_a_load_finds_that_it_holds_the_cache_no_more() {
        let begun: Arc<Mutex<Option<Task>>> = Arc::default();
        let own = begun.clone();
        let cache = Cache::builder().spawner(move |task| *own.lock() = Some(task)).open().unwrap();
        let go = Arc::new(Notify::new());
        let source = Arc::new(from_fn("held", {
            let go = go.clone();
            move |_: Key| {
                let go = go.clone();
                async move {
                    go.notified().await;
                    Ok(Some(Loaded::new("value")))
                }
            }
        }));
        let state = Arc::downgrade(&cache.shared_state());
        let without = state.strong_count();
        let hearer = Arc::new(Hearer(state, Mutex::default()));
        let waker = Waker::from(hearer.clone());
        let mut asking = pin!(cache.get_or_load("n:1", &source));
        assert!(asking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let mut load = begun.lock().take().unwrap();
        let mut goes_on = || load.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(goes_on().is_pending());
        assert!(asking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(hearer.0.strong_count() > without);
        go.notify_one();
        assert!(goes_on().is_ready());
        assert_eq!(*hearer.1.lock(), without);
        assert!(asking.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }

    #[test]
    fn what_loads_may_hold_goes_by_the_largest_value_within_half_of_the_memory() {
        for (memory, value, most) in [
            (1 << 20, 100_000, 200_000),
            (16 << 20, 32 << 20, LOADING_BYTES_LEAST),
            (64 << 20, 32 << 20, 32 << 20),
            (500 << 20, 32 << 20, 64 << 20),
            (8 << 30, 32 << 20, 1 << 30),
        ] {
            assert_eq!(loading_bytes_max(memory, value), most, "{memory} {value}");
        }
    }
}
