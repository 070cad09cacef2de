//! Sockets: binding, accepting, and the limits of a connection.
//!
//! At most `limits.connections` are served at once; one more is told 503 and closed. Out of file descriptors it waits
//! for some to come back. A peer that sends its head slowly, or neither sends nor takes anything, is given up. A stop lets every request under way finish within a grace period and takes no new ones.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use crate::error::{Error, ErrorKind, Result};

use super::config::{Limits, ListenAddress};
use super::http::{RETRY_AFTER_SECS, without_length_of_nothing};
use super::peer::Peer;

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
            Error::new(ErrorKind::Settings, format!("cannot listen on {address}: {error}"))
                .at("listen")
                .because(error)
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
    seats: Arc<Semaphore>,
    /// Turns true when it is time to stop.
    stopping: watch::Receiver<bool>,
}

impl Reception {
    pub(super) fn new(limits: Arc<Limits>, stopping: watch::Receiver<bool>) -> Self {
        let seats = Arc::new(Semaphore::new(usize::try_from(limits.connections).unwrap_or(usize::MAX >> 3)));
        Self { limits, seats, stopping }
    }

    /// Serves `routes` on `bound` until it is time to stop, and then until what is under way is done.
    pub(super) async fn serve(mut self, bound: Bound, routes: Router) {
        let graceful = GracefulShutdown::new();
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                biased;
                () = stop(&mut stopping) => break,
                accepted = bound.accept() => match accepted {
                    Ok(Stream::Tcp(stream, peer)) => self.welcome(stream, peer, &routes, &graceful),
                    Ok(Stream::Unix(stream)) => self.welcome(stream, Peer::Unix, &routes, &graceful),
                    Err(error) => self.pause(&error).await,
                }
            }
        }
        let address = bound.address();
        drop_listener(bound);
        if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
            tracing::warn!(address, "connections were still busy after {GRACE:?} and are cut off");
        }
    }

    fn welcome<S>(&self, stream: S, peer: Peer, routes: &Router, graceful: &GracefulShutdown)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(seat) = self.seats.clone().try_acquire_owned() else {
            tokio::spawn(turn_away(stream));
            return;
        };
        let header_bytes = usize::try_from(self.limits.header).unwrap_or(usize::MAX);
        let mut stream = TimeoutStream::new(stream);
        stream.set_read_timeout(Some(self.limits.idle_timeout));
        stream.set_write_timeout(Some(self.limits.write_timeout));
        let routes = TowerToHyperService::new(routes.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let answering = routes.call(request);
            async { Ok::<_, Infallible>(without_length_of_nothing(answering.await?)) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_header_size(header_bytes)
            .max_buf_size(header_bytes.max(HEADER_BYTES_MIN))
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(seat);
        });
    }

    /// After a failed accept: most often the process is out of file descriptors until a connection ends.
    async fn pause(&mut self, error: &io::Error) {
        tracing::warn!(%error, "cannot accept a connection, trying again shortly");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Resolves when it is time to stop.
async fn stop(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to say so, which says the same.
    if stopping.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("stopping because nobody is left to say when");
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream, Peer),
    Unix(tokio::net::UnixStream),
}

impl Bound {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream, Peer::of(address)))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
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

/// Says that every seat is taken.
async fn turn_away<S: AsyncWrite + Unpin>(mut stream: S) {
    let body = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"too many connections","code":"BUSY"}"#;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: {RETRY_AFTER_SECS}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    if !matches!(tokio::time::timeout(TURN_AWAY, say).await, Ok(Ok(()))) {
        tracing::debug!("a connection that was turned away did not wait for the answer");
    }
}

/// How long requests under way may take once a stop was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that is turned away may take to hear it.
const TURN_AWAY: Duration = Duration::from_secs(1);

/// hyper's own lower bound of its read buffer.
const HEADER_BYTES_MIN: usize = 8192;
