//! One request on its way to the service, as a source of the cache.
//!
//! The service is called at most once, by whoever comes first: the flight that fills the cache, or the caller itself
//! when the cache cannot or will not. Whatever the flight does not bring to its end (it ran out of time, the cache was
//! closed) is left where the caller takes it up: the pending call, or the response with what was read of its body. So
//! nothing that the cache does repeats, shortens or fails a request.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_lite::FutureExt as _;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, ETAG, HeaderValue};
use http::response::{Parts, Response};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Ask, Load, Loaded, Loading, Source};

use super::Tags;
use super::body::{CacheBody, shared};
use super::message;
use super::rules::{Lifetime, Reason, Rules};

/// The service's answer to come.
pub(super) type Answering<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

/// What the caller gets.
pub(super) type Given<B, E> = Result<Response<CacheBody<B>>, E>;

/// What became of a request; see the module.
pub(super) struct Call<B: Body, E> {
    cache: Cache,
    rules: Arc<Rules>,
    stage: Mutex<Stage<B, E>>,
    /// Told whenever the stage is no longer [`Stage::Held`].
    changed: Notify,
}

enum Stage<B: Body, E> {
    /// Not begun, or begun and left.
    Pending(Answering<B, E>),
    /// A flight is at it.
    Held,
    /// For the caller who asked.
    Answered(Given<B, E>, Option<Reason>),
    Panicked(Box<dyn Any + Send>),
    /// The caller has it.
    Taken,
}

impl<B: Body, E> Call<B, E> {
    pub(super) fn new(cache: Cache, rules: Arc<Rules>, answering: Answering<B, E>) -> Self {
        Self { cache, rules, stage: Mutex::new(Stage::Pending(answering)), changed: Notify::new() }
    }

    /// What a flight left for the caller, and why it was not kept, if it was not.
    pub(super) fn answered(&self) -> Option<(Given<B, E>, Option<Reason>)> {
        let mut stage = self.stage.lock();
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Answered(response, reason) => Some((response, reason)),
            other => {
                *stage = other;
                None
            }
        }
    }

    /// The service's answer, wherever a flight left it.
    pub(super) async fn finish(&self) -> Given<B, E> {
        loop {
            let changed = self.changed.notified();
            let stage = {
                let mut stage = self.stage.lock();
                match &*stage {
                    Stage::Held => None,
                    _ => Some(std::mem::replace(&mut *stage, Stage::Taken)),
                }
            };
            match stage {
                None => changed.await,
                Some(Stage::Pending(answering)) => return Ok(answering.await?.map(CacheBody::passed)),
                Some(Stage::Answered(response, _)) => return response,
                Some(Stage::Panicked(panic)) => resume_unwind(panic),
                // Only the caller takes, and takes once.
                Some(Stage::Held | Stage::Taken) => std::future::pending().await,
            }
        }
    }

    fn set(&self, stage: Stage<B, E>) {
        *self.stage.lock() = stage;
        self.changed.notify_waiters();
    }

    async fn load_response(&self, ask: Ask<'_>) -> Result<Load>
    where
        B: Send,
    {
        let mut pending = {
            let mut stage = self.stage.lock();
            match std::mem::replace(&mut *stage, Stage::Held) {
                Stage::Pending(answering) => Pending { call: self, answering: Some(answering) },
                other => {
                    *stage = other;
                    return Ok(not_stored());
                }
            }
        };
        let panicked = match AssertUnwindSafe(pending.answer()).catch_unwind().await {
            Ok(Ok(response)) => return self.settle(response, ask).await,
            Ok(Err(error)) => {
                self.set(Stage::Answered(Err(error), None));
                "the service failed"
            }
            Err(panic) => {
                // It can never be polled again.
                pending.answering = None;
                self.set(Stage::Panicked(panic));
                "the service panicked"
            }
        };
        Err(Error::new(ErrorKind::SourceRefused, panicked))
    }

    /// Keeps the response, or leaves it to the caller.
    async fn settle(&self, response: Response<B>, ask: Ask<'_>) -> Result<Load>
    where
        B: Send,
    {
        let (parts, body) = response.into_parts();
        let policy = self.cache.policy(self.rules.namespace.as_str());
        let judged = self.rules.lifetime(&parts, &policy, self.cache.now());
        let is_failure = judged.is_err() && is_server_error(parts.status);
        let judged = judged.and_then(|lifetime| {
            let is_too_large = body.size_hint().lower() > self.rules.body_bytes_max as u64;
            if is_too_large { Err("size") } else { Ok(lifetime) }
        });
        let status = parts.status;
        let mut reading = Reading {
            call: self,
            parts: Some(parts),
            read: VecDeque::new(),
            bytes: 0,
            body: Some(Box::pin(body)),
        };
        match judged {
            Err(reason) => reading.leave(reason),
            Ok(lifetime) => match reading.read_all(ask).await {
                Ok(()) => return Ok(reading.keep(lifetime)),
                Err(reason) => reading.leave(reason),
            },
        }
        if is_failure {
            return Err(Error::new(ErrorKind::SourceRefused, format!("the service answered {status}")));
        }
        Ok(not_stored())
    }
}

/// The answer to come, put back when whoever waits for it leaves.
struct Pending<'c, B: Body, E> {
    call: &'c Call<B, E>,
    answering: Option<Answering<B, E>>,
}

impl<B: Body, E> Pending<'_, B, E> {
    async fn answer(&mut self) -> Result<Response<B>, E> {
        let Some(answering) = self.answering.as_mut() else { return std::future::pending().await };
        let answered = answering.as_mut().await;
        self.answering = None;
        answered
    }
}

impl<B: Body, E> Drop for Pending<'_, B, E> {
    fn drop(&mut self) {
        if let Some(answering) = self.answering.take() {
            self.call.set(Stage::Pending(answering));
        }
    }
}

/// A response whose body is being read; left to the caller, as far as it was read, unless it is kept.
struct Reading<'c, B: Body, E> {
    call: &'c Call<B, E>,
    /// `None` once it has been handed on.
    parts: Option<Parts>,
    read: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// `None` at its end.
    body: Option<Pin<Box<B>>>,
}

impl<B: Body, E> Reading<'_, B, E> {
    /// Reads the whole body, or says why it is not to be kept.
    async fn read_all(&mut self, ask: Ask<'_>) -> Result<(), Reason> {
        while let Some(body) = &mut self.body {
            let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                None => {
                    self.body = None;
                    break;
                }
                Some(Err(error)) => {
                    self.break_off(error);
                    return Err("broken");
                }
                Some(Ok(frame)) => shared(frame),
            };
            let piece_bytes = frame.data_ref().map_or(0, Bytes::len);
            let is_data = frame.is_data();
            self.read.push_back(frame);
            self.bytes = self.bytes.saturating_add(piece_bytes);
            if !is_data {
                return Err("trailers");
            }
            if self.bytes > self.call.rules.body_bytes_max || self.read.len() > PIECES_MAX {
                return Err("size");
            }
            ask.take_room(piece_bytes as u64).map_err(|_| "busy")?;
        }
        let promised = self.parts.as_ref().and_then(|parts| parts.headers.get(CONTENT_LENGTH));
        let is_as_promised =
            promised.is_none_or(|length| length.as_bytes() == self.bytes.to_string().as_bytes());
        if is_as_promised { Ok(()) } else { Err("length") }
    }

    /// The caller gets the error where the service's body had it.
    fn break_off(&mut self, error: B::Error) {
        self.body = None;
        if let Some(parts) = self.parts.take() {
            let body = CacheBody::broken(std::mem::take(&mut self.read), error);
            self.call.set(Stage::Answered(Ok(Response::from_parts(parts, body)), Some("broken")));
        }
    }

    fn leave(&mut self, reason: Reason) {
        if let Some(parts) = self.parts.take() {
            let read = std::mem::take(&mut self.read);
            let body = match self.body.take() {
                Some(rest) => CacheBody::resumed(read, rest),
                None => CacheBody::ended(read),
            };
            self.call.set(Stage::Answered(Ok(Response::from_parts(parts, body)), Some(reason)));
        }
    }

    /// As a value to be kept; the caller gets the same response, of the same bytes.
    fn keep(&mut self, lifetime: Lifetime) -> Load {
        let Some(mut parts) = self.parts.take() else { return not_stored() };
        let data = || self.read.iter().filter_map(Frame::data_ref);
        if parts.status == StatusCode::OK && !parts.headers.contains_key(ETAG) {
            parts.headers.insert(ETAG, weak_tag(data()));
        }
        let mut loaded =
            Loaded::new(message::write(&parts, data(), self.bytes)).content_type(message::MEDIA_TYPE);
        loaded.ttl = lifetime.ttl;
        loaded.stale_while_revalidate = lifetime.stale_while_revalidate;
        loaded.stale_if_error = lifetime.stale_if_error;
        let tags = parts.extensions.get::<Tags>().into_iter().flat_map(|tags| tags.0.iter());
        loaded.tags.extend(tags.map(|tag| tag.as_str().to_owned().into()));
        let body = CacheBody::ended(std::mem::take(&mut self.read));
        self.call.set(Stage::Answered(Ok(Response::from_parts(parts, body)), None));
        loaded.into()
    }
}

impl<B: Body, E> Drop for Reading<'_, B, E> {
    fn drop(&mut self) {
        self.leave("slow");
    }
}

impl<B, E> Source for Call<B, E>
where
    B: Body + Send,
    B::Error: Send,
    E: Send,
{
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        Box::pin(self.load_response(ask))
    }

    fn name(&self) -> &str {
        &self.rules.name
    }
}

impl<B: Body, E> fmt::Debug for Call<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("name", &self.rules.name).finish_non_exhaustive()
    }
}

/// A body in more pieces than this is not kept: each costs memory beside its bytes.
const PIECES_MAX: usize = 4096;

/// Nothing for anybody: the caller has the response.
fn not_stored() -> Load {
    Loaded::new(Vec::new()).do_not_store().into()
}

/// A failure that what is stale may stand in for (RFC 5861 §4).
fn is_server_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Weak: whoever codes the body on its way to the client need not change it.
fn weak_tag<'d>(data: impl Iterator<Item = &'d Bytes>) -> HeaderValue {
    let mut digest = xxhash_rust::xxh3::Xxh3::new();
    data.for_each(|piece| digest.update(piece));
    let tag = format!("W/\"{:032x}\"", digest.digest128());
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("W/\"\""))
}
