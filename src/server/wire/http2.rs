//! A connection of HTTP/2: hyper's from its preface on, within bounds of our own.
//!
//! Bounded are the streams of a connection and of all connections together, header lists, buffers, streams that are
//! reset as soon as they are opened, and the time in which nothing moves: a peer that opens no window is given up like
//! one that does not read.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Response;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::server::http::busy;
use crate::server::outgoing::{Cut, Held, Outgoing, Wait};
use crate::server::peer::Peer;
use crate::server::traffic::Want;

use super::Wire;
use super::stream::{Stream, Transport};

/// Serves a connection whose preface has arrived.
pub(super) async fn serve<S: Transport>(wire: &Wire, stream: Stream<S>, peer: Peer) {
    let limits = &wire.limits;
    let activity = Arc::new(Activity::default());
    let routes = TowerToHyperService::new(wire.routes.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let seat = wire.streams.clone().try_acquire_owned().ok();
        // Nothing is begun for a request that finds no seat.
        let answering = seat.is_some().then(|| routes.call(request));
        let (guard, outgoing) = (Under::way(&activity, seat), wire.outgoing.clone());
        let traffic = wire.traffic.clone();
        async move {
            let response = if let Some(answering) = answering {
                answering.await?
            } else {
                traffic.turn_away(Want::Stream);
                busy("too many requests are under way, try again shortly")
            };
            let (held, wait) = (Held::by(&response), None);
            let metered = |body| Metered { body, rest: Bytes::new(), guard, outgoing, held, wait };
            Ok::<Response<Metered>, Infallible>(response.map(metered))
        }
    });
    let header_bytes = u32::try_from(limits.header).unwrap_or(u32::MAX);
    let io = TokioIo::new(Patient { stream: stream.without_outgoing(), patience: limits.write_timeout });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(header_bytes)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(Some(RESETS_MAX))
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2)
        .max_frame_size(FRAME_BYTES)
        .keep_alive_interval(limits.idle_timeout / 2)
        .keep_alive_timeout(limits.header_timeout)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut stopping = wire.stopping.clone();
    let mut watch = Watch::new(limits.idle_timeout, limits.write_timeout);
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            // What the connection holds is needed elsewhere.
            () = poll_fn(|cx| activity.cut.poll(cx)) => return,
            () = watch.looks(&activity) => match watch.verdict {
                Verdict::Fine => {}
                Verdict::Idle => connection.as_mut().graceful_shutdown(),
                Verdict::Stuck => return,
            },
            _ = stopping.wait_for(|stop| *stop), if !watch.is_closing => {
                watch.is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What happens on a connection, as far as it is seen from above hyper.
#[derive(Debug, Default)]
struct Activity {
    /// Requests whose answer is not yet handed over whole.
    under_way: AtomicUsize,
    /// Of those, the ones that still look for what to answer.
    thinking: AtomicUsize,
    /// Grows whenever something moves.
    steps: AtomicU64,
    /// Ends the connection when what its answers hold is needed elsewhere.
    cut: Arc<Cut>,
}

/// One request under way.
struct Under {
    activity: Arc<Activity>,
    is_thinking: bool,
    _seat: Option<OwnedSemaphorePermit>,
}

impl Under {
    fn way(activity: &Arc<Activity>, seat: Option<OwnedSemaphorePermit>) -> Self {
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        activity.thinking.fetch_add(1, Ordering::Relaxed);
        activity.steps.fetch_add(1, Ordering::Relaxed);
        Self { activity: activity.clone(), is_thinking: true, _seat: seat }
    }

    /// Something of the answer is handed over, or the answer waits for more of itself.
    fn step(&mut self, is_thinking: bool) {
        self.activity.steps.fetch_add(1, Ordering::Relaxed);
        if self.is_thinking != is_thinking {
            self.is_thinking = is_thinking;
            let thinking = &self.activity.thinking;
            if is_thinking {
                thinking.fetch_add(1, Ordering::Relaxed)
            } else {
                thinking.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.step(false);
        self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at the activity of a connection from time to time.
struct Watch {
    tick: tokio::time::Interval,
    idle: Duration,
    stuck: Duration,
    seen: u64,
    moved_at: Instant,
    is_closing: bool,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Nothing was asked for too long.
    Idle,
    /// Nothing was taken for too long.
    Stuck,
}

impl Watch {
    fn new(idle: Duration, stuck: Duration) -> Self {
        let period = (idle.min(stuck) / 4).max(Duration::from_millis(10));
        let mut tick = interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let verdict = Verdict::Fine;
        Self { tick, idle, stuck, seen: 0, moved_at: Instant::now(), is_closing: false, verdict }
    }

    async fn looks(&mut self, activity: &Activity) {
        let now = self.tick.tick().await;
        let steps = activity.steps.load(Ordering::Relaxed);
        if steps != self.seen {
            (self.seen, self.moved_at) = (steps, now);
        }
        let quiet = now.saturating_duration_since(self.moved_at);
        let under_way = activity.under_way.load(Ordering::Relaxed);
        let is_sending = under_way > activity.thinking.load(Ordering::Relaxed);
        self.verdict = match self.is_closing {
            _ if is_sending && quiet > self.stuck => Verdict::Stuck,
            true if under_way == 0 && quiet > self.idle + self.stuck => Verdict::Stuck,
            false if under_way == 0 && quiet > self.idle => {
                self.is_closing = true;
                Verdict::Idle
            }
            _ => Verdict::Fine,
        };
    }
}

/// The body of an answer in pieces of bounded size, so that what the peer does not take stays seen and unsent.
struct Metered {
    body: Body,
    rest: Bytes,
    guard: Under,
    outgoing: Outgoing,
    held: Held,
    /// There while a rest waits for the peer to take what went before it.
    wait: Option<Wait>,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Pending => {
                    self.guard.step(true);
                    return Poll::Pending;
                }
                end @ Poll::Ready(_) => return end,
            }
        }
        self.guard.step(false);
        let count = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(count);
        self.wait = (!self.rest.is_empty())
            .then(|| self.outgoing.wait(self.held.clone(), self.guard.activity.cut.clone()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut own = SizeHint::new();
        own.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            own.set_upper(upper + rest);
        }
        own
    }
}

/// A connection that gives up a peer which takes nothing.
struct Patient<S> {
    stream: Stream<S>,
    patience: Duration,
}

impl<S: Transport> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.poll_take(cx, buffer, usize::MAX).map_ok(drop)
    }
}

impl<S: Transport> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream.transport).poll_write(cx, bytes);
        self.moved(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream.transport).poll_write_vectored(cx, slices);
        self.moved(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream.transport).poll_flush(cx);
        self.moved(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream.transport).poll_shutdown(cx)
    }
}

impl<S: Transport> Patient<S> {
    fn moved<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.stream.poll_patiently(cx, written, self.patience, || Held::Own(0))
    }
}

/// What a connection hears for which there is no room: empty settings, and the end for the reason "calm down"
/// (RFC 9113 §6.8, §7).
pub(super) const TURNED_AWAY: &[u8] =
    &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];

/// Requests under way on one connection.
const STREAMS_MAX: u32 = 100;

/// Streams that were reset before anybody looked at them.
const RESETS_MAX: usize = 32;

/// What one stream may have waiting to be sent.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What a peer may send on one stream before it is read.
const WINDOW_BYTES: u32 = 64 * 1024;

const FRAME_BYTES: u32 = 16 * 1024;

/// The most of a body that is handed over at once.
const PIECE_BYTES: usize = 16 * 1024;
