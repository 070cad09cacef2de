//! What a connection may do: requests one after the other and several at once, in both protocols and over TLS; what is
//! wrong, too large, too slow or too many is told so and ends.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hifz::clock::monotonic_now;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tempfile::tempdir;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::common::{Reply, Server, eventually};

const GET: &str = "GET /api/v1/surahs/112 HTTP/1.1\r\nHost: a\r\n\r\n";

fn assert_refused(answer: &[u8], status: u16, code: &str) {
    let reply = Reply::parse(answer);
    assert_eq!((reply.status, &reply.json()["code"]), (status, &json!(code)));
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(reply.json()["request_id"].as_str(), reply.header("x-request-id"));
    assert!(reply.header("date").is_some());
}

#[test]
fn what_is_no_request_is_told_so_in_the_form_of_every_error() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let long = |line: &str| format!("{line}{}", "a".repeat(40_000));
    for (request, status, code) in [
        ("\0\0\0\0".into(), 400, "REQUEST_INVALID"),
        ("\u{16}\u{3}\u{1}\u{2}".into(), 400, "REQUEST_INVALID"),
        ("GET\r\n\r\n".into(), 400, "REQUEST_INVALID"),
        ("GET /api/v1/surahs/1 HTTP/1.1\r\n\r\n".into(), 400, "HOST_MISSING"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400, "HOST_INVALID"),
        ("GET surahs HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "TARGET_INVALID"),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".into(), 505, "VERSION_UNKNOWN"),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".into(), 400, "LENGTH_INVALID"),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
            "LENGTH_INVALID",
        ),
        ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: zip\r\n\r\n".into(), 501, "CODING_UNKNOWN"),
        (long("GET /"), 414, "TARGET_TOO_LONG"),
        (long("GET / HTTP/1.1\r\nHost: a\r\nX: "), 431, "HEAD_TOO_LARGE"),
        (long("GET / HTTP/1.1\r\nHost: a\r\nX: ") + "\r\n\r\n", 431, "HEAD_TOO_LARGE"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n".to_owned() + &"A: b\r\n".repeat(200) + "\r\n",
            431,
            "HEAD_TOO_LARGE",
        ),
    ] {
        assert_refused(&server.raw(request.as_bytes()), status, code);
    }
    let head = server.raw(b"HEAD /api/v1/surahs/1 HTTP/1.1\r\nX-Request-Id: mine\r\n\r\n");
    let reply = Reply::parse(&head);
    assert_eq!((reply.status, reply.body.len(), reply.header("x-request-id")), (400, 0, Some("mine")));
    // HTTP/1.0 knows no Host.
    assert_eq!(Reply::parse(&server.raw(b"GET /api/v1/surahs/1 HTTP/1.0\r\n\r\n")).status, 200);
}

#[test]
fn requests_of_every_kind_are_answered_in_turn_on_one_connection() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let surah = server.get("/api/v1/surahs/112").body;
    let put = format!(
        "PUT /admin/v1/surahs/112 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{}",
        server.token,
        surah.len(),
        String::from_utf8(surah.clone()).unwrap(),
    );
    let head = GET.replacen("GET", "HEAD", 1);
    let missing = GET.replacen("112", "115", 1);
    let last = GET.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    let all = [GET, GET, &head, &put, GET, &missing, &head, "\r\n", GET, &put, &missing, &last].concat();
    // As one write, in halves, and in pieces of a few bytes.
    for size in [all.len(), all.len() / 2, 7] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in all.as_bytes().chunks(size) {
            stream.write_all(piece).unwrap();
        }
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        let expected = ["200", "200", "200", "200", "200", "404", "200", "200", "200", "404", "200"];
        assert_eq!(statuses, expected, "in pieces of {size}");
        // Of the answers, five carry the surah.
        assert_eq!(answers.matches("\"ayah_count\"").count(), 5, "in pieces of {size}");
    }
}

/// The status and the length of the body of the next answer; `None` at the end.
fn next_answer(stream: &mut impl BufRead, has_body: bool) -> Option<(u16, usize)> {
    next_whole_answer(stream, has_body).map(|(status, body)| (status, body.len()))
}

/// The status and the body of the next answer; `None` at the end.
fn next_whole_answer(stream: &mut impl BufRead, has_body: bool) -> Option<(u16, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap() == 0 {
            assert_eq!(head, "", "an answer is whole");
            return None;
        }
    }
    let reply = Reply::parse(head.as_bytes());
    let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; if has_body && reply.status != 304 { length } else { 0 }];
    stream.read_exact(&mut body).unwrap();
    Some((reply.status, body))
}

#[test]
fn any_mixture_of_plain_hits_and_requests_for_the_router_keeps_its_order_however_it_is_cut() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let surah = server.get("/api/v1/surahs/112");
    let (tag, body) = (surah.header("etag").unwrap().to_owned(), String::from_utf8(surah.body).unwrap());
    let (whole, large) = (body.len(), server.get("/api/v1/surahs/2").body.len());
    let ayah = server.get("/api/v1/surahs/112/ayahs/1").body.len();
    let get = |path: &str, more: &str| format!("GET /api/v1/{path} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let token = &server.token;
    let put = format!(
        "PUT /admin/v1/surahs/112 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: {whole}\r\n\r\n{body}"
    );
    let kinds = [
        (get("surahs/112", ""), 200, whole),
        (get("surahs/2", ""), 200, large),
        (get("surahs/112", &format!("If-None-Match: {tag}\r\n")), 304, 0),
        (get("surahs/112", "").replacen("GET", "HEAD", 1), 200, 0),
        (get("surahs/112/ayahs/1", ""), 200, ayah),
        (get("surahs/112", "Range: bytes=3-9\r\n"), 206, 7),
        (get("surahs/112", "Accept-Encoding: *;q=0\r\n"), 406, usize::MAX),
        (get("surahs/115", ""), 404, usize::MAX),
        ("\r\n".to_owned() + &get("surahs/112", "X: a\tb\r\n"), 200, whole),
        (put, 200, usize::MAX),
    ];
    let mut draw = 7_u64;
    let mut any = |below: usize| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(draw >> 33).unwrap() % below
    };
    for round in 0..20 {
        let mut asked: Vec<_> = (0..40).map(|_| &kinds[any(kinds.len())]).collect();
        // The first letter is also that of HTTP/2's preface.
        asked.insert(0, &kinds[9]);
        let bytes = asked.iter().map(|(text, ..)| text.as_str()).collect::<String>();
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let writing = {
            let cuts: Vec<_> = (0..any(60)).map(|_| any(bytes.len())).collect();
            std::thread::spawn(move || {
                let mut ends = cuts;
                ends.push(bytes.len());
                ends.sort_unstable();
                let mut from = 0;
                for end in ends {
                    stream.write_all(&bytes.as_bytes()[from..end]).unwrap();
                    std::thread::yield_now();
                    from = end;
                }
                stream.shutdown(Shutdown::Write).unwrap();
            })
        };
        for (at, (text, status, length)) in asked.iter().enumerate() {
            let (found, bytes) = next_answer(&mut answers, !text.contains("HEAD ")).unwrap();
            assert_eq!(found, *status, "answer {at} of round {round} to {text}");
            assert!(*length == usize::MAX || bytes == *length, "answer {at} of round {round}: {bytes} bytes");
        }
        assert_eq!(next_answer(&mut answers, true), None);
        writing.join().unwrap();
    }
}

#[test]
fn a_large_body_comes_from_its_file_as_it_came_from_the_entry_and_never_mixes_with_a_change() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let before = server.get("/api/v1/surahs/2").body;
    for _ in 0..3 {
        assert_eq!(server.get("/api/v1/surahs/2").body, before);
    }
    #[cfg(target_os = "linux")]
    {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let names = descriptors.filter_map(|one| std::fs::read_link(one.ok()?.path()).ok());
        assert_eq!(names.filter(|name| name.to_string_lossy().contains("hifz-body")).count(), 1);
    }
    // Many answers that the reader does not take yet, and a change while they wait.
    let asked = 40;
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all("GET /api/v1/surahs/2 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(asked).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let text = String::from_utf8(before.clone()).unwrap();
    let changed = text.replacen("\"text\":\"", "\"text\":\"X", 1);
    assert_eq!(server.admin("PUT", "/admin/v1/surahs/2", changed.as_bytes()).status, 200);
    let after = server.get("/api/v1/surahs/2").body;
    assert_ne!(after, before);
    for _ in 0..3 {
        assert_eq!(server.get("/api/v1/surahs/2").body, after, "what was acknowledged is what is served");
    }
    let mut answers = BufReader::new(stream);
    for _ in 0..asked {
        let (status, body) = next_whole_answer(&mut answers, true).unwrap();
        assert!(status == 200 && (body == before || body == after), "an answer is one document");
    }
}

#[test]
fn a_client_of_http_1_0_that_wants_to_go_on_is_told_that_it_may() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for (path, status) in [("/api/v1/surahs/112", 200), ("/api/v1/surahs/115", 404)] {
        for (asked, told) in [("keep-alive", "keep-alive"), ("close", "close"), ("x", "close")] {
            let ask = format!("GET {path} HTTP/1.0\r\nConnection: {asked}\r\n\r\n");
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(ask.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let reply = Reply::parse(&answer);
            assert_eq!((reply.status, reply.header("connection")), (status, Some(told)), "{ask}");
        }
    }
}

#[test]
fn a_reader_over_tls_that_takes_nothing_is_given_up_too() {
    let directory = tempdir().unwrap();
    let (cert, key) = certificate(directory.path());
    let server = Server::start_with(
        directory.path(),
        &[
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--limits-connections",
            "1",
            "--limits-write-timeout",
            "300ms",
        ],
    );
    block_on(async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let connect = || async {
            let stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
            connector(&cert, "http/1.1").connect(ServerName::try_from("localhost").unwrap(), stream).await
        };
        let mut lazy = connect().await.unwrap();
        // Each answer fits into what TLS keeps to itself, so what stalls is not a write.
        let many = GET.repeat(30_000);
        drop(tokio::time::timeout(Duration::from_secs(1), lazy.write_all(many.as_bytes())).await);
        let began = monotonic_now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(20), "the only seat is never free again");
            // Without a seat the connection is closed before or during its handshake.
            let Ok(mut stream) = connect().await else { continue };
            let last = GET.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
            let mut answer = Vec::new();
            if stream.write_all(last.as_bytes()).await.is_ok()
                && stream.read_to_end(&mut answer).await.is_ok()
                && answer.starts_with(b"HTTP/1.1 200 OK")
            {
                break;
            }
        }
    });
}

#[test]
fn a_client_that_only_waits_for_the_answer_still_gets_it() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for path in ["/api/v1/surahs/2", "/api/v1/surahs/2", "/api/v1/surahs/2/ayahs/255"] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let reply = Reply::parse(&answer);
        assert_eq!(reply.header("content-length").unwrap(), reply.body.len().to_string());
    }
}

#[test]
fn a_body_in_chunks_is_read_and_a_body_that_is_asked_about_is_asked_for() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let surah = String::from_utf8(server.get("/api/v1/surahs/112").body).unwrap();
    let head =
        format!("PUT /admin/v1/surahs/112 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n", server.token);
    let (one, two) = surah.split_at(100);
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
        one.len(),
        two.len()
    );
    assert_eq!(Reply::parse(&server.raw(chunked.as_bytes())).status, 200);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let length = surah.len();
    stream
        .write_all(format!("{head}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n").as_bytes())
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(surah.as_bytes()).unwrap();
    stream.write_all(GET.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1).as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
}

#[test]
fn an_answer_that_comes_before_the_body_was_read_is_not_lost() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let body = vec![b' '; 3_000_000];
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head =
        format!("PUT /admin/v1/surahs/112 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    // The server may stop listening at any point of this.
    drop(stream.write_all(&body));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_default();
    assert_eq!(Reply::parse(&answer).status, 401);
}

#[test]
fn patience_with_a_head_a_body_a_reader_and_silence_has_an_end_each() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--limits-header-timeout", "300ms"]);
    // On a busy machine this test may itself have said nothing in time.
    let answer = eventually("a head that is begun in time", || {
        Some(server.raw(b"GET /api/v1/surahs/1 HTTP/1.1\r\nHost: a")).filter(|answer| !answer.is_empty())
    });
    assert_refused(&answer, 408, "HEAD_TIMED_OUT");
    assert_eq!(server.raw(b"").len(), 0, "nothing is said to somebody who said nothing");
    assert_eq!(server.terminate(), 0);
    let flags = [
        "--limits-idle-timeout",
        "900ms",
        "--limits-body-timeout",
        "300ms",
        "--limits-write-timeout",
        "300ms",
    ];
    let server = Server::start_with(directory.path(), &flags);
    let put = format!(
        "PUT /admin/v1/surahs/112 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 9\r\n\r\n{{",
        server.token
    );
    let reply = Reply::parse(&server.raw(put.as_bytes()));
    assert_eq!((reply.status, &reply.json()["code"]), (408, &json!("BODY_TIMED_OUT")));
    // Between two requests the longer patience holds.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let began = monotonic_now();
    stream.write_all(GET.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    // Nobody has to wait for a reader who does not read: it is cut off in the middle.
    let mut lazy = TcpStream::connect(&server.address).unwrap();
    let many = "GET /api/v1/surahs/2 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(400);
    drop(lazy.write_all(many.as_bytes()));
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
    let expected = server.get("/api/v1/surahs/2").body.len() * 400;
    eventually("that it is given up", || {
        let figures = String::from_utf8(server.get("/metrics").body).unwrap();
        // The one that asks.
        figures.lines().any(|line| line == "hifz_http_connections 1").then_some(())
    });
    let mut taken = Vec::new();
    lazy.read_to_end(&mut taken).unwrap_or_default();
    assert!(taken.len() < expected, "{} of {expected}", taken.len());
}

#[test]
fn one_connection_too_many_is_told_so_and_operators_keep_their_own() {
    let directory = tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let admin = format!("unix:{}", socket.display());
    let server =
        Server::start_with(directory.path(), &["--limits-connections", "4", "--admin-listen", &admin]);
    let seats: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(GET.as_bytes()).unwrap();
            stream.read_exact(&mut [0; 15]).unwrap();
            stream
        })
        .collect();
    let answer = server.raw(GET.as_bytes());
    assert_refused(&answer, 503, "BUSY");
    assert_eq!(Reply::parse(&answer).header("retry-after"), Some("1"));
    let mut operator = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    operator.write_all(b"GET /api/v1/health HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    operator.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK") || answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    drop(seats);
    eventually("a seat becomes free", || {
        let reply = Reply::parse(
            &server.raw(GET.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1).as_bytes()),
        );
        (reply.status == 200).then_some(())
    });
}

#[test]
fn http2_is_spoken_without_asking() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let expected = server.get("/api/v1/surahs/2");
    block_on(async {
        let stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
        assert_http2(stream, "http", &expected).await;
    });
}

#[test]
fn a_peer_that_opens_no_window_is_given_up_and_others_are_served() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(
        directory.path(),
        &["--limits-write-timeout", "300ms", "--limits-idle-timeout", "400ms"],
    );
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Preface, settings with an initial window of one byte, and a request for surah 2 in plain header fields.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1]);
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(0x04, "/api/v1/surahs/2"), (0x01, "a")] {
        block.extend([index, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_default();
    assert!((20..2000).contains(&answer.len()), "{} bytes", answer.len());
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
}

#[test]
fn connections_of_http2_are_bounded_by_what_they_hold() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--memory", "1MB", "--limits-connections", "3000"]);
    let opened: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            let mut frame = [0; 9];
            stream.read_exact(&mut frame).unwrap();
            (stream, frame)
        })
        .collect();
    // Whoever finds no room hears empty settings and then why.
    let turned_away = opened.into_iter().filter(|(_, frame)| frame[..5] == [0, 0, 0, 4, 0]);
    let mut count = 0;
    for (mut stream, _) in turned_away {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11]);
        count += 1;
    }
    assert!((50..200).contains(&count), "{count} of 1000");
    assert_eq!(server.get("/api/v1/surahs/1").status, 200);
}

#[test]
fn https_speaks_both_protocols_and_tells_plain_http_where_it_is() {
    let directory = tempdir().unwrap();
    let (cert, key) = certificate(directory.path());
    let server = Server::start_with(directory.path(), &["--tls-cert", &cert, "--tls-key", &key]);
    assert_refused(&server.raw(GET.as_bytes()), 400, "HTTPS_ONLY");
    block_on(async {
        for protocol in ["h2", "http/1.1"] {
            let stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
            let mut stream = connector(&cert, protocol)
                .connect(ServerName::try_from("localhost").unwrap(), stream)
                .await
                .unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
            if protocol == "http/1.1" {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let last = GET.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
                stream.write_all((GET.to_owned() + &last).as_bytes()).await.unwrap();
                let mut answers = String::new();
                stream.read_to_string(&mut answers).await.unwrap();
                assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2);
            } else {
                let (mut sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                let request = Request::get("https://localhost/api/v1/surahs/112").body(Empty::<Bytes>::new());
                assert_eq!(sender.send_request(request.unwrap()).await.unwrap().status(), StatusCode::OK);
            }
        }
    });
    // The command line on this machine needs no certificate.
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(["health", "--data-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(server.terminate(), 0);
}

#[test]
fn a_certificate_and_key_that_do_not_belong_together_end_the_start() {
    let directory = tempdir().unwrap();
    let (cert, _) = certificate(directory.path());
    let other = directory.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let (_, key) = certificate(&other);
    for (cert, key, word) in [
        (cert.as_str(), key.as_str(), "belong"),
        (&cert, "none", "tls.key"),
        (&cert, &cert, "private key"),
        ("/no/such", &key, "/no/such"),
    ] {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"))
            .args(["serve", "--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key, "--data-dir"])
            .arg(directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(word) && said.contains("tls."), "{said}");
    }
}

#[test]
fn a_stop_finishes_what_is_under_way_and_ends_what_waits() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut idle = TcpStream::connect(&server.address).unwrap();
    idle.write_all(GET.as_bytes()).unwrap();
    // Its request has been seen, or the stop might come before it.
    idle.peek(&mut [0]).unwrap();
    let mut busy = TcpStream::connect(&server.address).unwrap();
    let surah = server.get("/api/v1/surahs/112").body;
    let head = format!(
        "PUT /admin/v1/surahs/112 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        server.token,
        surah.len()
    );
    busy.write_all(head.as_bytes()).unwrap();
    // Now it is under way.
    busy.read_exact(&mut [0; 25]).unwrap();
    let address = server.address.clone();
    let stopping = std::thread::spawn(move || server.terminate());
    eventually("the port is closed", || TcpStream::connect(&address).is_err().then_some(()));
    busy.write_all(&surah).unwrap();
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).unwrap();
    let reply = Reply::parse(&answer);
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    let mut answer = Vec::new();
    idle.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    assert_eq!(stopping.join().unwrap(), 0);
}

/// Many requests at once over one connection of HTTP/2.
async fn assert_http2(stream: tokio::net::TcpStream, scheme: &str, expected: &Reply) {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let asking = (0..50).map(|_| {
        let mut sender = sender.clone();
        let uri = format!("{scheme}://localhost/api/v1/surahs/2?a=b");
        async move {
            let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            let (head, body) = response.into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        }
    });
    for (head, body) in futures_util::future::join_all(asking).await {
        assert_eq!((head.status, body.len()), (StatusCode::OK, expected.body.len()));
        assert_eq!(head.headers["etag"], expected.header("etag").unwrap());
        assert!(head.headers.contains_key("x-request-id") && !head.headers.contains_key("connection"));
    }
    let mut sender = sender;
    let missing = Request::get(format!("{scheme}://localhost/api/v1/surahs/115")).body(Empty::<Bytes>::new());
    assert_eq!(sender.send_request(missing.unwrap()).await.unwrap().status(), StatusCode::NOT_FOUND);
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
}

/// A certificate for `localhost` that trusts itself, and its key, as files.
pub(crate) fn certificate(directory: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    (write("cert.pem", made.cert.pem()), write("key.pem", made.signing_key.serialize_pem()))
}

pub(crate) fn connector(cert: &str, protocol: &str) -> tokio_rustls::TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config).into()
}
