//! The command line's HTTP/1.1 client: one request a connection, over TCP or a Unix socket.
//!
//! Promises: no wait without a limit; an error answer (`application/problem+json`) becomes a sentence with its status,
//! code and request id; the token is sent, never printed. It follows no redirects, speaks no TLS and retries nothing.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::config::{ListenAddress, Secret, show_duration};
use crate::error::{Error, ErrorKind, Result};

/// What is sent: nothing, or a body of a type that is produced while it is sent.
pub(crate) enum Send {
    /// No body.
    Nothing,
    /// A JSON document.
    Json(Vec<u8>),
    /// These bytes, and their media type.
    Value(Bytes, String),
    /// A gzipped archive, in pieces.
    Archive(mpsc::Receiver<io::Result<Bytes>>),
}

/// An answer that was not an error; its body is read by [`Answer::json`] or [`Answer::next`].
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Incoming,
    patience: Duration,
}

/// A server to talk to.
#[derive(Debug)]
pub(crate) struct Client {
    address: ListenAddress,
    token: Option<Secret>,
    patience: Duration,
}

impl Client {
    /// A client of the server at `address`; every single wait is at most `patience`.
    pub(crate) fn new(address: ListenAddress, token: Option<Secret>, patience: Duration) -> Self {
        Self { address: reachable(address), token, patience }
    }

    /// Sends one request. An answer of 400 and above is an error, unless `accepted` is its status.
    ///
    /// # Errors
    /// [`ErrorKind::SourceUnavailable`] where nobody answers, [`ErrorKind::SourceTimedOut`] past the patience,
    /// [`ErrorKind::SourceRefused`] with the server's own words, or [`ErrorKind::NotFound`].
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Send,
        accepted: Option<StatusCode>,
    ) -> Result<Answer> {
        let request = self.request(method, path, body)?;
        let response = match &self.address {
            ListenAddress::Tcp(address) => {
                let stream = self.connected(TcpStream::connect(address)).await?;
                self.exchange(stream, request).await?
            }
            ListenAddress::Unix(path) => {
                let stream = self.connected(UnixStream::connect(path)).await?;
                self.exchange(stream, request).await?
            }
        };
        let answer =
            Answer { status: response.status(), body: response.into_body(), patience: self.patience };
        if answer.status.as_u16() < 400 || Some(answer.status) == accepted {
            return Ok(answer);
        }
        Err(answer.into_error().await)
    }

    fn request(&self, method: Method, path: &str, body: Send) -> Result<Request<Body>> {
        let host = match &self.address {
            ListenAddress::Tcp(address) => address.to_string(),
            ListenAddress::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("hifz/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json, application/gzip;q=0.9, */*;q=0.1");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let body = match body {
            Send::Nothing => Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync(),
            Send::Json(document) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Full::new(Bytes::from(document)).map_err(|never| match never {}).boxed_unsync()
            }
            Send::Value(bytes, content_type) => {
                request = request.header(CONTENT_TYPE, content_type);
                Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
            }
            Send::Archive(mut pieces) => {
                request = request.header(CONTENT_TYPE, "application/gzip");
                let pieces = stream::poll_fn(move |context| pieces.poll_recv(context));
                let frames = futures_util::StreamExt::map(pieces, |piece| piece.map(Frame::data));
                BodyExt::boxed_unsync(StreamBody::new(frames))
            }
        };
        request.body(body).map_err(|error| {
            // The path is built here and percent-encoded, so only the token can be at fault; it must not be printed.
            Error::new(ErrorKind::Settings, "the admin token does not fit into a header").because(error)
        })
    }

    async fn connected<S>(&self, connecting: impl Future<Output = io::Result<S>>) -> Result<S> {
        match tokio::time::timeout(CONNECT_TIME_MAX, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unreachable(error)),
            Err(_) => Err(self.timed_out("to connect", CONNECT_TIME_MAX)),
        }
    }

    async fn exchange<S>(&self, stream: S, request: Request<Body>) -> Result<Response<Incoming>>
    where
        S: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(error))?;
        // Drives the connection; it ends by itself once the answer's body is read or dropped.
        let driver = tokio::spawn(connection);
        let response = match tokio::time::timeout(self.patience, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(error)),
            Err(_) => {
                driver.abort();
                return Err(self.timed_out("for the answer of", self.patience));
            }
        };
        Ok(response)
    }

    fn unreachable(&self, cause: impl Into<Box<dyn std::error::Error + std::marker::Send + Sync>>) -> Error {
        let message = format!("no server answers at {}", self.address);
        Error::new(ErrorKind::SourceUnavailable, message).because(cause)
    }

    fn broken(&self, cause: hyper::Error) -> Error {
        let message = format!("the server at {} broke the exchange off", self.address);
        Error::new(ErrorKind::SourceUnavailable, message).because(cause)
    }

    fn timed_out(&self, what: &str, limit: Duration) -> Error {
        let message = format!("waited {} {what} the server at {}", show_duration(limit), self.address);
        Error::new(ErrorKind::SourceTimedOut, message)
    }
}

impl Answer {
    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the server breaks off or sends nothing for too long.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(self.patience, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    let message = "the server broke its answer off";
                    return Err(Error::new(ErrorKind::SourceUnavailable, message).because(error));
                }
                Err(_) => {
                    let message =
                        format!("the server sent nothing more for {}", show_duration(self.patience));
                    return Err(Error::new(ErrorKind::SourceTimedOut, message));
                }
            };
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// When it cannot be read, is too long, or is not JSON.
    pub(crate) async fn json(mut self) -> Result<serde_json::Value> {
        let text = self.whole().await?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::new(ErrorKind::SourceRefused, "the answer is not JSON").because(error))
    }

    async fn whole(&mut self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            if whole.len() + piece.len() > JSON_BYTES_MAX {
                let message = format!("the answer is longer than {JSON_BYTES_MAX} bytes");
                return Err(Error::new(ErrorKind::SourceRefused, message));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    async fn into_error(mut self) -> Error {
        let status = self.status;
        // An error answer whose body is lost is still that error.
        let body = self.whole().await.unwrap_or_default();
        refusal(status, &body)
    }
}

/// The server's words out of an error answer.
fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let said = problem.detail.or(problem.title).unwrap_or_else(|| "without saying why".to_owned());
    let said: String = said.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect();
    let hint = match status {
        StatusCode::UNAUTHORIZED => "; set HIFZ_ADMIN_TOKEN, or run as the user who owns the data directory",
        _ => "",
    };
    let code = problem.code.map(|code| format!(" {code}")).unwrap_or_default();
    let request = problem.request_id.map(|id| format!(", request {id}")).unwrap_or_default();
    let message = format!("the server refused: {said}{hint} ({}{code}{request})", status.as_u16());
    let kind = match status {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => ErrorKind::Busy,
        _ => ErrorKind::SourceRefused,
    };
    Error::new(kind, message)
}

/// A server that listens on every interface is called on the loopback one.
fn reachable(address: ListenAddress) -> ListenAddress {
    match address {
        ListenAddress::Tcp(tcp) if tcp.ip().is_unspecified() => {
            let loopback = match tcp.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            ListenAddress::Tcp(SocketAddr::new(loopback, tcp.port()))
        }
        other => other,
    }
}

/// Text as one segment of a path: everything but letters, digits and `-._~` percent-encoded.
pub(crate) fn path_segment(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !is_dots(text)) {
            encoded.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            write!(encoded, "%{byte:02X}").unwrap_or_default();
        }
        encoded
    })
}

/// Text as a value in a query.
pub(crate) fn query_value(text: &str) -> String {
    path_segment(text)
}

/// `.` and `..` would be taken for a way up.
fn is_dots(text: &str) -> bool {
    text == "." || text == ".."
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

#[derive(Debug, Default, Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    request_id: Option<String>,
}

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// The longest answer that is read whole.
const JSON_BYTES_MAX: usize = 16 << 20;

/// Of what a server says about a refusal, this much is repeated.
const SAID_CHARS_MAX: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_answer_becomes_one_sentence() {
        let body = br#"{"title":"t","detail":"surah 115 does not exist","code":"SURAH_NOT_FOUND","request_id":"r1"}"#;
        let error = refusal(StatusCode::NOT_FOUND, body);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.message(),
            "the server refused: surah 115 does not exist (404 SURAH_NOT_FOUND, request r1)"
        );
        assert!(refusal(StatusCode::UNAUTHORIZED, b"<html>").message().contains("HIFZ_ADMIN_TOKEN"));
    }

    #[test]
    fn a_path_segment_cannot_leave_its_place() {
        assert_eq!(path_segment("a/b c?d#e%"), "a%2Fb%20c%3Fd%23e%25");
        assert_eq!(path_segment(".."), "%2E%2E");
        assert_eq!(path_segment("v1.2-x_~"), "v1.2-x_~");
    }

    #[test]
    fn a_server_on_every_interface_is_called_on_loopback() {
        let tcp = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
        assert_eq!(reachable(tcp("0.0.0.0:80")), tcp("127.0.0.1:80"));
        assert_eq!(reachable(tcp("[::]:80")), tcp("[::1]:80"));
        assert_eq!(reachable(tcp("10.1.1.1:80")), tcp("10.1.1.1:80"));
    }
}
