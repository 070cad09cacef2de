//! Sockets: binding, accepting, and how many connections are served at once.
//!
//! At most `limits.connections` are served; one more is told 503 and closed. The operators' listeners have seats of
//! their own. Out of file descriptors it waits for some to come back. A stop lets every request under way finish within
//! a grace period and takes no new ones. What is said on a connection is the matter of `wire`.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::server::TlsStream;

use crate::engine::Cache;
use crate::error::{Error, ErrorKind, Result};

use super::config::{Limits, ListenAddress};
use super::http::Hits;
use super::outgoing::Outgoing;
use super::peer::Peer;
use super::roomy::Roomy;
use super::tls::Tls;
use super::traffic::{Traffic, Want};
use super::wire::{Files, Wire};

/// A socket that is bound and not yet served.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Bound {
    /// Binds `address`.
    pub(super) async fn bind(address: &ListenAddress) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Settings, format!("cannot listen on {address}")).at("listen").because(error)
        };
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await.map_err(failed)?)),
            ListenAddress::Unix(path) => Self::bind_unix(path.clone()).await.map_err(failed),
        }
    }

    async fn bind_unix(path: PathBuf) -> io::Result<Self> {
        // A socket nobody answers on was left behind by a process that did not end in order.
        let is_socket = std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket && tokio::net::UnixStream::connect(&path).await.is_err() {
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener, path))
    }

    /// The address as a client writes it; with port 0 the one the system chose.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "unknown".into(), |it| it.to_string())
            }
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }
}

/// What all listeners of a process share.
#[derive(Debug, Clone)]
pub(super) struct Reception {
    limits: Arc<Limits>,
    tls: Option<Tls>,
    seats: Seats,
    /// Where answers are entered whose readers are slow.
    outgoing: Outgoing,
    /// Where large bodies stand for the kernel to send.
    files: Files,
    traffic: Arc<Traffic>,
    /// Turns true when it is time to stop.
    stopping: watch::Receiver<bool>,
}

/// How many connections are served at once.
#[derive(Debug, Clone)]
struct Seats {
    connections: Arc<Semaphore>,
    connections_max: u32,
    /// Connections of HTTP/2 or TLS, which hold some twenty kilobytes each while they wait.
    roomy: Arc<Roomy>,
    /// Requests of HTTP/2 under way, of all connections together.
    streams: Arc<Semaphore>,
    /// Connections that are told there is no seat.
    turned_away: Arc<Semaphore>,
}

impl Seats {
    /// So many, of which as many may be roomy as `cache` has room for.
    fn new(connections_max: u64, cache: Option<&Cache>) -> Self {
        let connections_max = u32::try_from(connections_max).unwrap_or(u32::MAX);
        let seats = |count: u64| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX >> 3)));
        let (most, turned_away) = (u64::from(connections_max), seats(TURNED_AWAY_MAX));
        let (connections, roomy, streams) = (seats(most), Roomy::new(most, cache), seats(most));
        Self { connections, connections_max, roomy, streams, turned_away }
    }
}

impl Reception {
    pub(super) fn new(
        limits: Arc<Limits>,
        cache: &Cache,
        tls: Option<Tls>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let seats = Seats::new(limits.connections, Some(cache));
        let (outgoing, files) = (Outgoing::new(cache), Files::new(cache));
        Self { limits, tls, seats, outgoing, files, traffic: Arc::default(), stopping }
    }

    /// The answers that wait for their readers.
    pub(super) fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    /// Where large bodies stand for the kernel to send.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// The same with seats of its own, for the operators' listeners: a full house must not lock them out.
    pub(super) fn for_operators(&self) -> Self {
        Self { seats: Seats::new(self.limits.connections.min(OPERATORS_MAX), None), ..self.clone() }
    }

    /// What one client may take.
    pub(super) fn limits(&self) -> Arc<Limits> {
        self.limits.clone()
    }

    /// Where it is counted who was turned away.
    pub(super) fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    /// One permit for each connection that may still come.
    pub(super) fn seats(&self) -> Arc<Semaphore> {
        self.seats.connections.clone()
    }

    /// Serves `routes` on `bound` until it is time to stop, and then until what is under way is done.
    pub(super) async fn serve(self, bound: Bound, routes: Router, hits: Option<Hits>) {
        let mut stopping = self.stopping.clone();
        let wire = Arc::new(Wire {
            routes,
            hits,
            limits: self.limits.clone(),
            stopping: self.stopping.clone(),
            roomy: self.seats.roomy.clone(),
            streams: self.seats.streams.clone(),
            outgoing: self.outgoing.clone(),
            files: self.files.clone(),
            traffic: self.traffic.clone(),
        });
        let mut is_short = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop(&mut stopping) => break,
                accepted = bound.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    is_short = false;
                    self.welcome(stream, &wire);
                }
                // Somebody who left before being welcomed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Most often the process is out of file descriptors until a connection ends. Said once.
                    if !std::mem::replace(&mut is_short, true) {
                        tracing::warn!(%error, "cannot accept connections, trying again until it is possible");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let address = bound.address();
        drop_listener(bound);
        // Whoever gets every seat knows that nobody sits any more.
        let everybody = self.seats.connections.acquire_many(self.seats.connections_max);
        if tokio::time::timeout(GRACE, everybody).await.is_err() {
            tracing::warn!(address, "connections were still busy after {GRACE:?} and are cut off");
        }
    }

    fn welcome(&self, stream: Accepted, wire: &Arc<Wire>) {
        let seat = self.seats.connections.clone().try_acquire_owned().ok();
        let Some(seat) = seat else { return self.turn_away(stream) };
        let (wire, tls) = (wire.clone(), self.tls.clone());
        tokio::spawn(async move {
            match (stream, tls) {
                (Accepted::Unix(stream), _) => wire.serve(stream, Peer::Unix).await,
                (Accepted::Tcp(stream, peer), None) => wire.serve(stream, peer).await,
                (Accepted::Tcp(stream, peer), Some(tls)) => {
                    // Nothing can be said before the handshake, which is what there is no room for.
                    let Some(_room) = wire.roomy.take() else {
                        return wire.traffic.turn_away(Want::Buffers);
                    };
                    let securing = Box::pin(secured(stream, &tls, wire.limits.header_timeout));
                    if let Some(stream) = securing.await {
                        wire.serve(stream, peer).await;
                    }
                }
            }
            drop(seat);
        });
    }

    /// Tells somebody that every seat is taken; of very many at once some are only closed.
    fn turn_away(&self, stream: Accepted) {
        self.traffic.turn_away(Want::Connection);
        let Ok(telling) = self.seats.turned_away.clone().try_acquire_owned() else { return };
        let is_plain = self.tls.is_none();
        tokio::spawn(async move {
            match stream {
                Accepted::Unix(stream) => Wire::turn_away(stream).await,
                Accepted::Tcp(stream, _) if is_plain => Wire::turn_away(stream).await,
                // Nothing can be said before the handshake, which is what there is no room for.
                Accepted::Tcp(..) => {}
            }
            drop(telling);
        });
    }
}

/// The connection after its handshake; boxed, because its buffers are not to be carried by those that have none.
async fn secured(stream: TcpStream, tls: &Tls, patience: Duration) -> Option<Box<TlsStream<TcpStream>>> {
    let shaking_hands = async {
        let mut first = [0];
        if stream.peek(&mut first).await? > 0 && first != [TLS_HANDSHAKE] {
            Wire::say_https(stream).await;
            return Err(io::Error::other("the client spoke something else than TLS"));
        }
        tls.acceptor().accept(stream).await
    };
    match tokio::time::timeout(patience, shaking_hands).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Takes as many file descriptors as the system lets this process have: the usual soft limit is a tenth of the
/// connections that are served by default.
pub(super) fn take_descriptors(limits: &Limits) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before }) {
        tracing::debug!(%error, "the limit of file descriptors stays as it is");
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now < limits.connections + DESCRIPTORS_BESIDE {
        tracing::warn!(
            descriptors = now,
            connections = limits.connections,
            "fewer file descriptors than connections: those over it wait; raise the limit or lower limits.connections"
        );
    }
}

/// Resolves when it is time to stop.
async fn stop(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say so, which says the same.
    if stopping.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("stopping because nobody is left to say when");
    }
}

enum Accepted {
    Tcp(TcpStream, Peer),
    Unix(tokio::net::UnixStream),
}

impl Bound {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Of a client that has left already; it is found out when it is read from.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::trace!(%error, "a connection stays as it is");
                }
                Ok(Accepted::Tcp(stream, Peer::of(address)))
            }
            Self::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

fn drop_listener(bound: Bound) {
    if let Bound::Unix(listener, path) = bound {
        drop(listener);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "the socket file could not be removed");
        }
    }
}

/// How long requests under way may take once a stop was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are told at the same time that there is no seat.
const TURNED_AWAY_MAX: u64 = 256;

/// Connections on the operators' own listeners.
const OPERATORS_MAX: u64 = 128;

/// File descriptors for everything that is no connection.
const DESCRIPTORS_BESIDE: u64 = 64;

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
