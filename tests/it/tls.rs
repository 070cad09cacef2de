//! Certificates that change while the server runs, and connections over TLS and HTTP/2 when it stops.

use std::path::Path;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::common::{Server, eventually};
use crate::reload::{READ_AGAIN, REFUSED, reread, server, signal};
use crate::wire::{block_on, certificate, connector};

const GET: &str = "GET /api/v1/surahs/112 HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn connect(server: &Server, trusted: &str, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(&server.address).await?;
    connector(trusted, protocol).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// One answer on a connection that stays open.
async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"]}") {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "the connection ended");
        text.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn made(directory: &Path, name: &str) -> (String, String) {
    let directory = directory.join(name);
    std::fs::create_dir(&directory).unwrap();
    certificate(&directory)
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_bad_one_leaves_the_old() {
    let directory = tempdir().unwrap();
    let ((first, first_key), (second, second_key)) =
        (made(directory.path(), "first"), made(directory.path(), "second"));
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let put = |from: &str, key_from: &str| {
        std::fs::copy(from, &cert).unwrap();
        std::fs::copy(key_from, &key).unwrap();
    };
    put(&first, &first_key);
    let settings = "[tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n";
    let (server, _log) = server(directory.path(), settings);
    block_on(async {
        let mut old = connect(&server, &first, "http/1.1").await.unwrap();
        assert!(answer(&mut old).await.starts_with("HTTP/1.1 200"));

        put(&second, &second_key);
        reread(directory.path(), &server, settings, READ_AGAIN);
        assert!(connect(&server, &first, "http/1.1").await.is_err(), "the first is no longer shown");
        for protocol in ["h2", "http/1.1"] {
            connect(&server, &second, protocol).await.unwrap();
        }
        assert!(answer(&mut old).await.starts_with("HTTP/1.1 200"), "what stands goes on");

        std::fs::write(directory.path().join("none.pem"), "no certificate").unwrap();
        let none = directory.path().join("none.pem").display().to_string();
        for (bad, bad_key, why) in [
            (&none, &second_key, "tls.cert"),
            (&second, &none, "tls.key"),
            (&second, &first_key, "does not belong to the certificate"),
        ] {
            put(bad, bad_key);
            let said = reread(directory.path(), &server, settings, REFUSED);
            assert!(said.lines().any(|line| line.contains(REFUSED) && line.contains(why)), "{why}: {said}");
            let mut new = connect(&server, &second, "http/1.1").await.unwrap();
            assert!(answer(&mut new).await.starts_with("HTTP/1.1 200"));
        }
        // Whether HTTPS is spoken at all is decided at the start.
        put(&second, &second_key);
        let said = reread(directory.path(), &server, "", "hold only after a restart");
        assert!(said.contains("tls.cert, tls.key"), "{said}");
        connect(&server, &second, "http/1.1").await.unwrap();
    });
    assert_eq!(server.terminate(), 0);
}

type Body = StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

/// A body that comes when it is sent.
fn slow() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async move {
        receiver.recv().await.map(|piece| (Ok(Frame::data(piece)), receiver))
    });
    (sender, StreamBody::new(Box::pin(pieces) as _))
}

fn request(server: &Server, method: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("https://localhost/admin/v1/entries/a:1")
        .header("authorization", format!("Bearer {}", server.token))
        .body(body)
        .unwrap()
}

struct UnderWay {
    _sender: SendRequest<Body>,
    pieces: mpsc::Sender<Bytes>,
    writing: tokio::task::JoinHandle<hyper::Result<Response<hyper::body::Incoming>>>,
}

/// A connection of HTTP/2 on which a write is under way, how to end its body, and how it will be answered.
async fn under_way(server: &Server, trusted: &str) -> UnderWay {
    let mut sender = http2_over_tls(server, trusted).await;
    let (pieces, body) = slow();
    let writing = tokio::spawn(sender.send_request(request(server, "PUT", body)));
    pieces.send(Bytes::from_static(b"half ")).await.unwrap();
    // Asked after it on the same connection and answered: what came before has been seen.
    let (_, nothing) = slow();
    sender.send_request(request(server, "HEAD", nothing)).await.unwrap();
    UnderWay { _sender: sender, pieces, writing }
}

async fn http2_over_tls(server: &Server, trusted: &str) -> SendRequest<Body> {
    let stream = connect(server, trusted, "h2").await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[test]
fn a_stop_finishes_what_is_under_way_over_tls_and_http2_and_a_second_one_does_not() {
    let directory = tempdir().unwrap();
    let (cert, key) = certificate(directory.path());
    let flags = ["--tls-cert", cert.as_str(), "--tls-key", key.as_str()];
    let start = || Server::start_with(directory.path(), &flags);
    let closed = |address: &str| {
        eventually("the port is closed", || std::net::TcpStream::connect(address).is_err().then_some(()));
    };
    block_on(async {
        let server = start();
        let mut idle = connect(&server, &cert, "http/1.1").await.unwrap();
        assert!(answer(&mut idle).await.starts_with("HTTP/1.1 200"));
        let UnderWay { _sender, pieces, writing } = under_way(&server, &cert).await;
        let address = server.address.clone();
        signal(&server, Signal::TERM);
        closed(&address);
        assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0, "who only waits is sent home in order");
        pieces.send(Bytes::from_static(b"and half")).await.unwrap();
        drop(pieces);
        let answered = writing.await.unwrap().unwrap();
        assert_eq!(answered.status(), 201);
        answered.into_body().collect().await.unwrap();
        assert_eq!(server.exit_code(), 0);

        let server = start();
        let (_, nothing) = slow();
        let mut sender = http2_over_tls(&server, &cert).await;
        let kept = sender.send_request(request(&server, "GET", nothing)).await.unwrap();
        let kept = kept.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(kept, "half and half", "what was answered is kept");
        let UnderWay { _sender, pieces: _pieces, writing } = under_way(&server, &cert).await;
        signal(&server, Signal::TERM);
        closed(&server.address);
        signal(&server, Signal::TERM);
        assert_eq!(server.exit_code(), 1);
        assert!(writing.await.unwrap().is_err());
    });
}
