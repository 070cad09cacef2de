//! Bodies that are sent and not finished: what they hold together is bounded, charged to the cache, and given back.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use hifz::clock::monotonic_now;
use serde_json::json;
use tempfile::tempdir;

use crate::common::{Reply, Server, eventually};

/// A quarter of three quarters of this and of 24 MiB is the room: some 18 MB.
const FLAGS: &[&str] = &["--memory", "64MB", "--disk", "0"];

const ANNOUNCED: usize = 8_000_000;
const SENT: usize = 6_000_000;

/// A write that announces much and stops short of it.
fn stalled(server: &Server, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let token = &server.token;
    let head = format!(
        "PUT /admin/v1/entries/up:{number} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nConnection: close\r\nContent-Length: {ANNOUNCED}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn withheld(server: &Server) -> u64 {
    server.admin("GET", "/admin/v1/stats", b"").json()["memory"]["withheld_bytes"].as_u64().unwrap()
}

#[test]
fn bodies_under_way_are_charged_bounded_and_those_that_stall_hold_nobody_up() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), FLAGS);
    let mut first: Vec<_> = (0..2).map(|number| stalled(&server, number)).collect();
    for stream in &mut first {
        stream.write_all(&vec![b'x'; SENT]).unwrap();
    }
    let two = 2 * SENT as u64;
    eventually("they are charged", || {
        (two - (2 << 20)..two + (4 << 20)).contains(&withheld(&server)).then_some(())
    });

    // A third finds no room; the two that stall are given up for it long before the patience with one alone ends.
    let began = monotonic_now();
    let mut third = stalled(&server, 3);
    third.write_all(&vec![b'x'; ANNOUNCED]).unwrap();
    let mut answer = Vec::new();
    third.read_to_end(&mut answer).unwrap();
    assert_eq!(Reply::parse(&answer).status, 201);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let is_told = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        stream.peek(&mut [0]).is_ok_and(|count| count > 0)
    };
    eventually("one that stalls is told", || first.iter_mut().any(is_told).then_some(()));
    for stream in first.iter_mut().filter_map(|stream| is_told(stream).then_some(stream)) {
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.read_to_end(&mut answer).unwrap_or_default();
        let reply = Reply::parse(&answer);
        assert_eq!((reply.status, &reply.json()["code"]), (408, &json!("BODY_TIMED_OUT")));
    }
    drop(first);
    // What had arrived is given back with its connection.
    eventually("it is given back", || (withheld(&server) < 2 << 20).then_some(()));
}

#[test]
fn small_bodies_are_taken_and_large_ones_told_to_come_back_while_the_room_is_full() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), FLAGS);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Two that go on just fast enough to keep their room.
        for number in 0..2 {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                let mut stream = stalled(server, number);
                for _ in 0..200 {
                    if stream.write_all(&vec![b'x'; 20_000]).is_err()
                        || is_over.load(std::sync::atomic::Ordering::Relaxed)
                    {
                        return;
                    }
                    std::thread::park_timeout(Duration::from_millis(250));
                }
            });
        }
        let refused = eventually("a refusal", || {
            let reply = server.admin("PUT", "/admin/v1/entries/up:3", &vec![b'x'; ANNOUNCED]);
            (reply.status == 503).then_some(reply)
        });
        assert_eq!(&refused.json()["code"], &json!("BUSY"));
        assert!(refused.header("retry-after").is_some());
        let text = String::from_utf8(server.get("/metrics").body).unwrap();
        assert!(text.contains("hifz_http_turned_away_total{want=\"body\"} 1"), "{text}");
        assert_eq!(server.admin("PUT", "/admin/v1/entries/small:1", b"small").status, 201);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_value_that_no_memory_is_left_for_is_refused_before_it_is_read() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--memory", "4MB", "--disk", "0"]);
    let refused = server.admin("PUT", "/admin/v1/entries/a:1", &vec![b'x'; 3_000_000]);
    assert_eq!((refused.status, &refused.json()["code"]), (413, &json!("VALUE_TOO_LARGE")));
    assert!(refused.json()["detail"].as_str().unwrap().contains("2000000 bytes"), "{}", refused.json());
}

#[test]
fn imports_and_exports_at_a_time_are_bounded() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let token = &server.token;
    let importing: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            let head = format!(
                "POST /admin/v1/import HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.read_exact(&mut [0; 25]).unwrap();
            stream
        })
        .collect();
    let refused = server.admin("POST", "/admin/v1/import", b"x");
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("BUSY")));
    assert_eq!(server.admin("GET", "/admin/v1/export", b"").status, 200, "exports have turns of their own");
    drop(importing);
    eventually("a turn", || (server.admin("POST", "/admin/v1/import", b"x").status == 422).then_some(()));
}
