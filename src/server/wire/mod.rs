//! One connection, from its first byte to its last: which protocol is spoken, how long is waited for what, and who
//! answers each request.
//!
//! Below hyper and the router, so that limits and timeouts hold before either is woken, every error has the form of all
//! others, and an idle connection costs a task and a timer but no buffer. A request of HTTP/1 is looked at here and then
//! lent to hyper alone ([`exchange`]); a connection that opens with the preface of HTTP/2 is hyper's whole ([`http2`]).

#[cfg(feature = "fuzzing")]
pub(crate) mod drive;
mod exchange;
mod files;
mod head;
mod http2;
mod refusal;
mod stream;

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use axum::Router;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::server::config::Limits;
use crate::server::http::{Hit, Hits};
use crate::server::outgoing::Outgoing;
use crate::server::peer::Peer;
use crate::server::roomy::Roomy;
use crate::server::traffic::{Traffic, Want};

use exchange::Order;
pub(super) use files::Files;
pub(super) use head::Head as RequestHead;
use head::{Framing, Head, no_headers};
use refusal::Refusal;
pub(super) use stream::Transport;
use stream::{Arrival, Stream};

/// What the connections of one listener are served with.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) routes: Router,
    /// Answers plain hits below hyper; without it the router answers everything.
    pub(super) hits: Option<Hits>,
    pub(super) limits: Arc<Limits>,
    /// Turns true when it is time to stop.
    pub(super) stopping: watch::Receiver<bool>,
    /// Connections that hold more than a task and a timer.
    pub(super) roomy: Arc<Roomy>,
    /// Requests of HTTP/2 under way, of all connections together.
    pub(super) streams: Arc<Semaphore>,
    /// Where answers are entered whose readers are slow.
    pub(super) outgoing: Outgoing,
    /// Where large bodies stand for the kernel to send.
    pub(super) files: Files,
    /// Where it is counted who was turned away.
    pub(super) traffic: Arc<Traffic>,
}

/// What the beginning of the inbox is.
enum Step {
    /// Not yet a whole head.
    More,
    /// The preface of HTTP/2.
    Http2,
    /// A plain request, answered already.
    Hit(Ready),
    /// A request for the router.
    Lend(Order),
    Refuse(Refusal),
    /// Nobody waits for an answer.
    Gone,
}

/// An answer that is only to be written.
struct Ready {
    /// What of the inbox it answers.
    request_bytes: usize,
    head: Vec<u8>,
    hit: Hit,
    is_last: bool,
}

impl Wire {
    /// Serves a connection to its end.
    pub(super) async fn serve<S: Transport>(&self, transport: S, peer: Peer) {
        let mut stream = Stream::new(transport).among(self.stopping.clone(), self.outgoing.clone());
        match self.converse(&mut stream, peer).await {
            Ok(Step::Http2) => {
                if let Some(_room) = self.roomy.take() {
                    // Boxed, as what is lent to hyper is.
                    return Box::pin(http2::serve(self, stream, peer)).await;
                }
                self.traffic.turn_away(Want::Buffers);
                if stream.say(http2::TURNED_AWAY, TURN_AWAY).await.is_ok() {
                    stream.close().await;
                }
            }
            Ok(Step::Refuse(refusal)) => {
                if stream.say(&refusal.render(), self.limits.write_timeout).await.is_ok() {
                    stream.close().await;
                }
            }
            Ok(_) => stream.close().await,
            Err(error) => tracing::debug!(%error, "a connection ended early"),
        }
    }

    /// Says that every seat is taken.
    pub(super) async fn turn_away<S: Transport>(transport: S) {
        refuse(transport, &refusal::FULL).await;
    }

    /// Says that this is the door of HTTPS.
    pub(super) async fn say_https<S: Transport>(transport: S) {
        refuse(transport, &refusal::NOT_HTTPS).await;
    }

    /// Answers request after request of HTTP/1; returns what ends the conversation.
    async fn converse<S: Transport>(&self, stream: &mut Stream<S>, peer: Peer) -> io::Result<Step> {
        let mut is_first = true;
        loop {
            match self.next(stream, is_first).await? {
                Step::Hit(ready) => {
                    stream.consume(ready.request_bytes);
                    self.send(stream, &ready).await?;
                    HEAD.set(ready.head);
                    if ready.is_last {
                        return Ok(Step::Gone);
                    }
                }
                Step::Lend(order) => {
                    let is_stopping = || *self.stopping.borrow();
                    // Boxed, so that a connection that waits does not carry hyper's room with it.
                    let goes_on =
                        Box::pin(exchange::serve(stream, order, &self.routes, peer, is_stopping)).await;
                    if !goes_on {
                        return Ok(Step::Gone);
                    }
                }
                end => return Ok(end),
            }
            is_first = false;
        }
    }

    async fn send<S: Transport>(
        &self,
        stream: &mut Stream<S>,
        Ready { head, hit, .. }: &Ready,
    ) -> io::Result<()> {
        let (body, patience) = (hit.body(), self.limits.write_timeout);
        let file = stream.transport.socket().and_then(|_| self.files.of(hit.entry(), body));
        match file {
            Some(file) => stream.send_file((head, &file), patience, || hit.held()).await,
            None => stream.send((head, body), patience, || hit.held()).await,
        }
    }

    /// Waits for the next request.
    async fn next<S: Transport>(&self, stream: &mut Stream<S>, is_first: bool) -> io::Result<Step> {
        let mut looked_at = 0;
        let mut has_begun = false;
        let patience = if is_first { self.limits.header_timeout } else { self.limits.idle_timeout };
        let mut deadline = Instant::now() + patience;
        loop {
            let inbox = stream.inbox();
            // A head does not end without the end of a line; looking at each byte anew would cost its square.
            let is_worth_a_look =
                looked_at == 0 || inbox.get(looked_at..).is_some_and(|new| new.contains(&b'\n'));
            if !inbox.is_empty() && (is_worth_a_look || inbox.len() >= self.header_bytes_max()) {
                match self.look(inbox, is_first) {
                    Step::More => {}
                    step => return Ok(step),
                }
            }
            looked_at = inbox.len();
            if !has_begun && looked_at > 0 {
                has_begun = true;
                deadline = Instant::now() + self.limits.header_timeout;
            }
            match stream.arrival(deadline, !has_begun).await? {
                Arrival::Bytes => {}
                Arrival::Late if has_begun => return Ok(Step::Refuse(refusal::HEAD_TOO_SLOW)),
                Arrival::End | Arrival::Late | Arrival::Stopping => return Ok(Step::Gone),
            }
        }
    }

    /// What the inbox, which is not empty, begins with.
    fn look(&self, inbox: &[u8], is_first: bool) -> Step {
        if is_first && (PREFACE.starts_with(inbox) || inbox.starts_with(PREFACE)) {
            return if inbox.len() < PREFACE.len() { Step::More } else { Step::Http2 };
        }
        let mut headers = no_headers();
        let head = match Head::read(inbox, &mut headers) {
            Ok(Some(head)) if head.bytes > self.header_bytes_max() => {
                return Step::Refuse(refusal::HEAD_TOO_LARGE.to(&head));
            }
            Ok(Some(head)) => head,
            Ok(None) if inbox.len() < self.header_bytes_max() => return Step::More,
            Ok(None) if inbox.contains(&b'\n') => return Step::Refuse(refusal::HEAD_TOO_LARGE),
            Ok(None) => return Step::Refuse(refusal::TARGET_TOO_LONG),
            Err(refusal) => return Step::Refuse(refusal),
        };
        if let Some(ready) = self.hit(&head) {
            return Step::Hit(ready);
        }
        if let Err(refusal) = head.check_target() {
            return Step::Refuse(refusal);
        }
        Step::Lend(Order {
            head_bytes: head.bytes,
            body: head.body,
            keeps_alive: head.keeps_alive,
            body_patience: self.limits.body_timeout,
            write_patience: self.limits.write_timeout,
            header_bytes_max: self.header_bytes_max(),
        })
    }

    fn hit(&self, request: &Head<'_>) -> Option<Ready> {
        let hits = self.hits.as_ref().filter(|_| request.body == Framing::Length(0))?;
        let is_last = !request.keeps_alive || self.stopping.has_changed().unwrap_or(true);
        let mut head = HEAD.take();
        head.clear();
        let Some(hit) = hits.answer(request, is_last, &mut head) else {
            HEAD.set(head);
            return None;
        };
        Some(Ready { request_bytes: request.bytes, head, hit, is_last })
    }

    fn header_bytes_max(&self) -> usize {
        usize::try_from(self.limits.header).unwrap_or(usize::MAX)
    }
}

/// Says `refusal` to somebody who was not listened to.
async fn refuse<S: Transport>(transport: S, refusal: &Refusal) {
    let mut stream = Stream::new(transport);
    if stream.say(&refusal.render(), TURN_AWAY).await.is_ok() {
        stream.close().await;
    }
}

thread_local! {
    /// Room for the head of an answer, so that not each of them takes its own.
    static HEAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a client of HTTP/2 says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection that is turned away may take to hear it.
const TURN_AWAY: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// What `start` returns takes so many bytes.
    fn bytes_returned<A, B, F>(_start: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_carries_no_room_for_hyper() {
        let serve = |wire: &'static Wire, stream: tokio::net::TcpStream| wire.serve(stream, Peer::Unix);
        let bytes = bytes_returned(serve);
        assert!(bytes <= 1280, "{bytes}");
    }
}
