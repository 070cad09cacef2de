//! The bytes of one connection: read into an inbox that exists only while something is in it, written with patience,
//! and left in order.
//!
//! An idle connection holds no buffer. Every wait ends: with bytes, at a deadline, or when the server stops.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use crate::server::outgoing::{Cut, Held, Outgoing, Wait};

use super::files::BodyFile;

/// What a connection runs over: TCP, TLS over it, or a Unix socket.
pub(in crate::server) trait Transport:
    AsyncRead + AsyncWrite + Unpin + Send + 'static
{
    /// The socket, where bytes leave as they are written, so that the kernel may send them by itself.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Transport for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Transport for UnixStream {}

impl Transport for Box<TlsStream<TcpStream>> {}

impl Transport for DuplexStream {}

/// One connection with what has arrived and not been used.
pub(super) struct Stream<S> {
    pub(super) transport: S,
    inbox: Vec<u8>,
    /// Where the unused part of the inbox begins.
    used: usize,
    alarm: Alarm,
    /// Changes once, when it is time to stop.
    stopping: Option<watch::Receiver<bool>>,
    /// Wakes this task then; there from the first wait on.
    bell: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    slow: Slow,
}

/// What is known of a reader that does not take what it asked for.
#[derive(Debug, Default)]
struct Slow {
    /// Where such are entered; nobody where nothing large is sent.
    outgoing: Option<Outgoing>,
    cut: Option<Arc<Cut>>,
    /// There while the answer cannot go on, and until when that may last.
    wait: Option<Wait>,
    deadline: Option<Instant>,
}

/// How a wait for bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// There is more in the inbox.
    Bytes,
    /// The peer sends no more.
    End,
    /// The deadline has passed.
    Late,
    /// The server stops.
    Stopping,
}

impl<S: Transport> Stream<S> {
    pub(super) fn new(transport: S) -> Self {
        Self {
            transport,
            inbox: Vec::new(),
            used: 0,
            alarm: Alarm(None),
            stopping: None,
            bell: None,
            slow: Slow::default(),
        }
    }

    /// The same as one of many: it ends when `stopping` says so, and large answers that wait are entered in `outgoing`.
    pub(super) fn among(self, stopping: watch::Receiver<bool>, outgoing: Outgoing) -> Self {
        let slow = Slow { outgoing: Some(outgoing), ..Slow::default() };
        Self { stopping: Some(stopping), slow, ..self }
    }

    /// The same, but its answers are entered by somebody else.
    pub(super) fn without_outgoing(self) -> Self {
        Self { slow: Slow::default(), ..self }
    }

    /// What has arrived and not been used.
    pub(super) fn inbox(&self) -> &[u8] {
        self.inbox.get(self.used..).unwrap_or_default()
    }

    /// Takes the first `count` bytes of the inbox as used.
    pub(super) fn consume(&mut self, count: usize) {
        self.used = self.used.saturating_add(count).min(self.inbox.len());
        if self.used == self.inbox.len() {
            self.used = 0;
            self.inbox.clear();
            if self.inbox.capacity() > INBOX_KEPT_BYTES {
                self.inbox = Vec::new();
            }
        }
    }

    /// Waits for more bytes until `deadline`; with `heeds_stop` also until the server stops.
    pub(super) async fn arrival(&mut self, deadline: Instant, heeds_stop: bool) -> io::Result<Arrival> {
        poll_fn(|cx| {
            if let Poll::Ready(count) = self.poll_fill(cx)? {
                return Poll::Ready(Ok(if count == 0 { Arrival::End } else { Arrival::Bytes }));
            }
            if self.poll_stopping(cx) && heeds_stop {
                return Poll::Ready(Ok(Arrival::Stopping));
            }
            self.alarm.poll(cx, deadline).map(|()| Ok(Arrival::Late))
        })
        .await
    }

    /// Reads once into the inbox; says how much.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer))?;
        if self.used > 0 {
            self.inbox.drain(..self.used);
            self.used = 0;
        }
        self.inbox.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_stopping(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(stopping) = &self.stopping else { return false };
        if self.bell.is_none() {
            let mut stopping = stopping.clone();
            let mut bell = Box::pin(async move { drop(stopping.wait_for(|stop| *stop).await) });
            // A tokio task is woken by one waker all its life, so one look is enough to be told; from then on the
            // number of the change is looked at, which costs nothing.
            if bell.as_mut().poll(cx).is_ready() {
                return true;
            }
            self.bell = Some(bell);
        }
        // An error means that nobody is left to say so, which says the same.
        stopping.has_changed().unwrap_or(true)
    }

    /// Hands up to `most` bytes to somebody else, those in the inbox first; says how many, 0 at the end.
    pub(super) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.inbox().is_empty() && ready!(self.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(0));
        }
        let count = most.min(buffer.remaining()).min(self.inbox().len());
        buffer.put_slice(self.inbox().get(..count).unwrap_or_default());
        self.consume(count);
        Poll::Ready(Ok(count))
    }

    /// Resolves at `deadline`; for waits of somebody else over the same connection.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.poll(cx, deadline)
    }

    /// What `written`, a write or a flush, comes to: while what was made from `held` cannot leave, it is given up once
    /// nothing has moved for `patience`, or when others need the memory it holds.
    pub(super) fn poll_patiently<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        patience: Duration,
        held: impl FnOnce() -> Held,
    ) -> Poll<io::Result<T>> {
        let slow = &mut self.slow;
        if written.is_ready() {
            (slow.deadline, slow.wait) = (None, None);
            return written;
        }
        if let Some(outgoing) = &slow.outgoing {
            let cut = slow.cut.get_or_insert_default();
            slow.wait.get_or_insert_with(|| outgoing.wait(held(), cut.clone()));
            if cut.poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        let deadline = *slow.deadline.get_or_insert_with(|| Instant::now() + patience);
        self.alarm.poll(cx, deadline).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes `bytes` whole, as [`Stream::send`].
    pub(super) async fn say(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        self.send((bytes, &[]), patience, || Held::Own(bytes.len() as u64)).await
    }

    /// Writes `head` and then `body`, which is made from what `from` says, whole; gives up when nothing moves for `patience`.
    pub(super) async fn send(
        &mut self,
        (head, body): (&[u8], &[u8]),
        patience: Duration,
        from: impl Fn() -> Held,
    ) -> io::Result<()> {
        let (mut head, mut body) = (head, body);
        while !head.is_empty() || !body.is_empty() {
            let written = poll_fn(|cx| {
                let slices = [IoSlice::new(head), IoSlice::new(body)];
                let wanted = slices.get(usize::from(head.is_empty())..).unwrap_or_default();
                let written = Pin::new(&mut self.transport).poll_write_vectored(cx, wanted);
                self.poll_patiently(cx, written, patience, &from)
            })
            .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_head = written.min(head.len());
            head = head.get(of_head..).unwrap_or_default();
            body = body.get(written - of_head..).unwrap_or_default();
        }
        poll_fn(|cx| {
            let flushed = Pin::new(&mut self.transport).poll_flush(cx);
            self.poll_patiently(cx, flushed, patience, &from)
        })
        .await
    }

    /// Sends `head` and then `body` from its file, as [`Stream::send`]; only where there is a socket.
    pub(super) async fn send_file(
        &mut self,
        (head, body): (&[u8], &BodyFile),
        patience: Duration,
        from: impl Fn() -> Held,
    ) -> io::Result<()> {
        let (mut head, mut sent) = (head, 0);
        while !head.is_empty() || sent < body.bytes() {
            let written = poll_fn(|cx| {
                let socket = self.transport.socket().ok_or(io::ErrorKind::Unsupported)?;
                let written = poll_socket(cx, socket, || body.send(socket, head, sent));
                self.poll_patiently(cx, written, patience, &from)
            })
            .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if head.is_empty() {
                sent += written as u64;
            } else {
                head = head.get(written..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Closes in order: says the end, then waits a little for the peer's, because closing over unread bytes would take
    /// back what was just sent.
    pub(super) async fn close(mut self) {
        let saying = async {
            self.transport.shutdown().await?;
            self.consume(usize::MAX);
            let (mut skimmed, deadline) = (0, Instant::now() + LINGER);
            while skimmed < LINGER_BYTES && self.arrival(deadline, true).await? == Arrival::Bytes {
                skimmed += self.inbox().len();
                self.consume(usize::MAX);
            }
            io::Result::Ok(())
        };
        if !matches!(timeout(LINGER * 2, saying).await, Ok(Ok(()))) {
            tracing::trace!("a connection was closed before the peer said its end");
        }
    }
}

/// Does `write` as soon as the socket takes something.
fn poll_socket(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    write: impl Fn() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, &write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

/// One timer a connection, moved as seldom as possible: it rings early and then looks when it is really due.
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// The most that is read at once.
const READ_BYTES: usize = 16 * 1024;

/// An empty inbox larger than this is given back.
const INBOX_KEPT_BYTES: usize = 1024;

/// How long a closed connection waits for the peer's end.
const LINGER: Duration = Duration::from_secs(1);

/// The most it reads meanwhile.
const LINGER_BYTES: usize = 1 << 20;
