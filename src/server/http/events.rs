//! What happens, as it happens: `GET /admin/v1/events`, a stream of server-sent events.
//!
//! Names: `content`, `invalidated`, `removed` (evictions and expiries) and `answered` (by outcome; of the hits only a
//! sample), both summed up each second with some keys as a sample, `rejected`, `state`, `alert`, `missed`. Each has an id that only rises, also over restarts that keep their disk; who
//! comes back with the last it saw is told how many it missed. A comment goes out when nothing else does, so that both
//! ends notice a dead connection. Bounded are the streams ([`STREAMS_MAX`]) and what waits for a slow reader; a stop ends
//! them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use crate::engine::{Cause, Event, Outcome, Removal, Subscription};
use crate::key::Key;

use super::Site;
use super::admin::Reply;
use super::problem::{Problem, RETRY_AFTER_SECS};

/// What all streams share.
#[derive(Debug, Clone)]
pub(in crate::server) struct Feeds {
    seats: Arc<Semaphore>,
    /// Turns true when it is time to stop.
    stopping: watch::Receiver<bool>,
}

impl Feeds {
    pub(in crate::server) fn new(stopping: watch::Receiver<bool>) -> Self {
        Self { seats: Arc::new(Semaphore::new(STREAMS_MAX)), stopping }
    }
}

/// `GET /admin/v1/events`
pub(super) async fn events(State(site): State<Site>, headers: HeaderMap) -> Reply {
    let seat = site.feeds.seats.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS_MAX} streams of events are open already");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", detail)
            .with(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS))
    })?;
    let subscription = site.cache.subscribe();
    let mut feed = Feed {
        first: None,
        subscription,
        stopping: site.feeds.stopping.clone(),
        removals: Removals::default(),
        answers: Answers::default(),
        ready: VecDeque::new(),
        look_at: Instant::now() + EVERY,
        quiet_since: Instant::now(),
        last_id: site.cache.last_event(),
        _seat: seat,
    };
    feed.first = Some(feed.greeting(last_seen(&headers)));
    let chunks = futures_util::stream::unfold(feed, |mut feed| async move {
        let chunk = feed.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), feed))
    });
    let head = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // A proxy in between must not hold events back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((head, Body::from_stream(chunks)).into_response())
}

fn last_seen(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

/// One stream.
struct Feed {
    first: Option<String>,
    subscription: Subscription,
    stopping: watch::Receiver<bool>,
    removals: Removals,
    answers: Answers,
    /// What has been summed up and is to be told next.
    ready: VecDeque<String>,
    /// When removals and answers are summed up next.
    look_at: Instant,
    quiet_since: Instant,
    last_id: u64,
    _seat: OwnedSemaphorePermit,
}

impl Feed {
    /// What a client hears first: when to come back, and what it missed.
    fn greeting(&self, last_seen: Option<u64>) -> String {
        let mut text = format!("retry: {}\n: connected\n\n", RETRY.as_millis());
        match last_seen.map(|seen| self.last_id.checked_sub(seen)) {
            None | Some(Some(0)) => {}
            Some(missed) => text.push_str(&frame("missed", self.last_id, &json!({"count": missed}))),
        }
        text
    }

    /// The next piece of the stream; `None` ends it.
    async fn next(&mut self) -> Option<String> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            let heard = tokio::select! {
                biased;
                // An error means that nobody is left to say so, which says the same.
                _ = self.stopping.wait_for(|stop| *stop) => return None,
                () = sleep_until(self.look_at) => None,
                event = self.subscription.next_numbered() => Some(event?),
            };
            let piece = match heard {
                None => self.look(),
                Some((id, event)) => {
                    self.last_id = id;
                    self.shown(event).map(|(name, about)| self.told(name, &about))
                }
            };
            if piece.is_some() {
                return piece;
            }
        }
    }

    /// What a second without an event to tell brings.
    fn look(&mut self) -> Option<String> {
        self.look_at = Instant::now() + EVERY;
        let sums = [("removed", self.removals.take()), ("answered", self.answers.take())];
        for (name, sum) in sums {
            if let Some(sum) = sum {
                let told = self.told(name, &sum);
                self.ready.push_back(told);
            }
        }
        if let Some(first) = self.ready.pop_front() {
            return Some(first);
        }
        (self.quiet_since.elapsed() >= QUIET_MAX).then(|| {
            self.quiet_since = Instant::now();
            ": still here\n\n".to_owned()
        })
    }

    fn told(&mut self, name: &str, about: &Value) -> String {
        self.quiet_since = Instant::now();
        frame(name, self.last_id, about)
    }

    /// An event as its name and what is said of it; `None` for what is only counted.
    fn shown(&mut self, event: Event) -> Option<(&'static str, Value)> {
        Some(match event {
            Event::Removed(removal) => {
                self.removals.add(&removal);
                return None;
            }
            Event::Answered { key, outcome } => {
                self.answers.add(&key, outcome);
                return None;
            }
            Event::Invalidated { what, count } => ("invalidated", json!({"what": what, "count": count})),
            Event::SourceChanged { what } => ("content", json!({"what": what})),
            Event::Rejected { key, reason } => ("rejected", json!({"key": key.as_str(), "reason": reason})),
            Event::StateChanged { part, state, reason } => {
                ("state", json!({"part": part, "state": state, "reason": reason}))
            }
            Event::Alert { alert, is_raised, value, threshold } => {
                let state = if is_raised { "raised" } else { "cleared" };
                ("alert", json!({"alert": alert, "state": state, "value": value, "threshold": threshold}))
            }
            Event::Missed(count) => ("missed", json!({"count": count})),
        })
    }
}

/// Removals since they were last told: how many for want of room or time, and some of them by name.
#[derive(Debug, Default)]
struct Removals {
    evicted: u64,
    expired: u64,
    sample: Vec<Value>,
}

impl Removals {
    fn add(&mut self, removal: &Removal) {
        match removal.cause {
            Cause::Evicted => self.evicted += 1,
            Cause::Expired => self.expired += 1,
            // Those are told as what they are: writes and invalidations.
            _ => return,
        }
        if self.sample.len() < SAMPLE_MAX {
            let (key, cause) = (removal.key.as_str(), removal.cause.name());
            self.sample.push(json!({"key": key, "cause": cause, "bytes": removal.weight}));
        }
    }

    fn take(&mut self) -> Option<Value> {
        let Self { evicted, expired, sample } = std::mem::take(self);
        let is_nothing = evicted + expired == 0;
        (!is_nothing).then(|| json!({"evicted": evicted, "expired": expired, "sample": sample}))
    }
}

/// Answers since they were last told: how many of each outcome, and some of them by name.
#[derive(Debug, Default)]
struct Answers {
    by_outcome: [u64; Outcome::ALL.len()],
    sample: Vec<Value>,
}

impl Answers {
    fn add(&mut self, key: &Key, outcome: Outcome) {
        if let Some(count) = self.by_outcome.get_mut(outcome.index()) {
            *count += 1;
        }
        if self.sample.len() < SAMPLE_MAX {
            self.sample.push(json!({"key": key.as_str(), "outcome": outcome.name()}));
        }
    }

    fn take(&mut self) -> Option<Value> {
        let Self { by_outcome, sample } = std::mem::take(self);
        let counted = Outcome::ALL.into_iter().zip(by_outcome).filter(|(_, count)| *count > 0);
        let outcomes: serde_json::Map<_, _> =
            counted.map(|(outcome, count)| (outcome.name().to_owned(), count.into())).collect();
        (!outcomes.is_empty()).then(|| json!({"outcomes": outcomes, "sample": sample}))
    }
}

/// JSON has no line breaks of its own, so one line of data is enough.
fn frame(name: &str, id: u64, about: &Value) -> String {
    format!("event: {name}\nid: {id}\ndata: {about}\n\n")
}

/// The most streams at once.
const STREAMS_MAX: usize = 64;

/// How often removals and answers are summed up.
const EVERY: Duration = Duration::from_secs(1);

/// After so long without an event a comment goes out.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// When a client whose stream has ended should come back.
const RETRY: Duration = Duration::from_secs(2);

/// So many removals and answers of a second are told by name.
const SAMPLE_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_frame_whatever_stands_in_it() {
        let framed = frame("state", 7, &json!({"reason": "two\nlines: \"quoted\""}));
        assert_eq!(framed, "event: state\nid: 7\ndata: {\"reason\":\"two\\nlines: \\\"quoted\\\"\"}\n\n");
    }
}
