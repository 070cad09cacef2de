//! One request through hyper and the router, over a connection that is only lent to them.
//!
//! hyper sees the head, the body and then an end: exactly one request, so that what follows it on the connection stays
//! unread and is looked at by us. The end is shown once the answer is written and flushed, which hyper takes for a
//! client that has left, in order.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Response, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, rt};
use hyper_util::service::TowerToHyperService;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::server::http::without_length_of_nothing;
use crate::server::outgoing::Held;
use crate::server::peer::Peer;

use super::head::Framing;
use super::stream::{Stream, Transport};

/// What is to be handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) head_bytes: usize,
    pub(super) body: Framing,
    pub(super) keeps_alive: bool,
    pub(super) body_patience: Duration,
    pub(super) write_patience: Duration,
    pub(super) header_bytes_max: usize,
}

/// Serves the request at the beginning of the inbox; says whether the connection can go on.
pub(super) async fn serve<S: Transport>(
    stream: &mut Stream<S>,
    order: Order,
    routes: &Router,
    peer: Peer,
    is_stopping: impl Fn() -> bool,
) -> bool {
    let progress = Arc::new(Progress::default());
    // Where a body in chunks ends is hyper's knowledge alone.
    let is_last = || !order.keeps_alive || order.body == Framing::Chunked || is_stopping();
    let routes = TowerToHyperService::new(routes.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (answering, progress, is_last) = (routes.call(request), progress.clone(), &is_last);
        async move {
            let mut response = without_length_of_nothing(answering.await?);
            if is_last() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if response.headers().get(header::CONNECTION).is_some_and(|it| it == "close") {
                progress.is_last.store(true, Ordering::Relaxed);
            }
            progress.held.get_or_init(|| Held::by(&response));
            Ok::<Response<Watched>, Infallible>(response.map(|body| Watched { body, progress }))
        }
    });
    let mut lent =
        Lent { stream, order, progress: progress.clone(), is_flushed: false, reader: None, reading: None };
    let served = http1::Builder::new()
        .max_header_size(order.header_bytes_max)
        .max_buf_size(order.header_bytes_max.max(BUFFER_BYTES_MIN))
        .serve_connection(&mut lent, service)
        .await;
    if let Err(error) = &served {
        tracing::debug!(%error, "a request ended early");
    }
    served.is_ok() && lent.is_spent() && !progress.is_last.load(Ordering::Relaxed)
}

/// How far the answer is; shared by the connection below hyper and the body above it.
#[derive(Debug, Default)]
struct Progress {
    /// Set when the body of the answer was handed to hyper whole, or dropped.
    is_answered: AtomicBool,
    /// Set when the answer says that it is the last.
    is_last: AtomicBool,
    /// What the answer is sent from, once there is one.
    held: OnceLock<Held>,
}

/// The body of an answer, which tells when it is at its end.
struct Watched {
    body: Body,
    progress: Arc<Progress>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.progress.is_answered.store(true, Ordering::Relaxed);
    }
}

/// The connection as hyper sees it.
struct Lent<'s, S> {
    stream: &'s mut Stream<S>,
    /// What of the request is still to be handed over.
    order: Order,
    progress: Arc<Progress>,
    /// Whether the whole answer has left hyper's buffers.
    is_flushed: bool,
    /// Who waits for that.
    reader: Option<Waker>,
    /// Until when bytes must arrive, while that is waited for.
    reading: Option<Instant>,
}

impl<S: Transport> Lent<'_, S> {
    /// Whether the request was read to its end and the answer written to its.
    fn is_spent(&self) -> bool {
        self.is_flushed && self.order.head_bytes == 0 && self.order.body == Framing::Length(0)
    }

    /// What hyper may still read of this request, in bytes.
    fn left(&self) -> usize {
        match (self.order.head_bytes, self.order.body) {
            (0, Framing::Chunked) => usize::MAX,
            (0, Framing::Length(left)) => usize::try_from(left).unwrap_or(usize::MAX),
            (left, _) => left,
        }
    }

    fn took(&mut self, count: usize) {
        self.reading = None;
        if self.order.head_bytes > 0 {
            self.order.head_bytes -= count;
        } else if let Framing::Length(left) = &mut self.order.body {
            *left = left.saturating_sub(count as u64);
        }
    }

    fn moved<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let held = || self.progress.held.get().cloned().unwrap_or(Held::Own(0));
        self.stream.poll_patiently(cx, written, self.order.write_patience, held)
    }
}

impl<S: Transport> rt::Read for &mut Lent<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.left();
        if left == 0 {
            if self.is_flushed {
                return Poll::Ready(Ok(()));
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut chunk = [0; COPY_BYTES];
        let room = left.min(cursor.remaining()).min(COPY_BYTES);
        let mut buffer = ReadBuf::new(chunk.get_mut(..room).unwrap_or_default());
        match self.stream.poll_take(cx, &mut buffer, room) {
            Poll::Ready(count) => {
                let count = count?;
                cursor.put_slice(buffer.filled());
                self.took(count);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                // Handlers have the same patience and a better word for it; this is for those that do not wait.
                let patience = self.order.body_patience + BACKSTOP;
                let deadline = *self.reading.get_or_insert_with(|| Instant::now() + patience);
                self.stream.poll_deadline(cx, deadline).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: Transport> rt::Write for &mut Lent<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.stream.transport), cx, bytes);
        self.moved(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let transport = Pin::new(&mut self.stream.transport);
        let written = tokio::io::AsyncWrite::poll_write_vectored(transport, cx, slices);
        self.moved(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.stream.transport), cx);
        ready!(self.moved(cx, flushed))?;
        // hyper flushes what is below it only when its own buffer is empty.
        if self.progress.is_answered.load(Ordering::Relaxed) && !self.is_flushed {
            self.is_flushed = true;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection is ours to close.
        Poll::Ready(Ok(()))
    }
}

/// hyper's own lower bound of its read buffer.
const BUFFER_BYTES_MIN: usize = 8192;

/// The most that is handed over at once.
const COPY_BYTES: usize = 8192;

/// How much longer than a handler the connection itself waits for a body.
const BACKSTOP: Duration = Duration::from_secs(5);
