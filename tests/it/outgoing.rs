//! Readers that ask for much and take little: what only they still need is charged to the cache, and bounded.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::json;
use tempfile::tempdir;

use crate::common::{Server, eventually};

const VALUE_BYTES: usize = 6_000_000;

/// So that what is held beside the cache may come to 20 MB: three values.
const FLAGS: &[&str] = &["--memory", "48MB", "--disk", "0", "--warm-on-start", "false"];

/// Puts a value, has `ask` sent for it, and takes it out of the cache while it is on its way.
fn ask_for_what_goes(server: &Server, number: usize, ask: &[u8]) -> TcpStream {
    let path = format!("/admin/v1/entries/large%3A{number}");
    assert_eq!(server.admin("PUT", &path, &vec![b'x'; VALUE_BYTES]).status, 201);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(ask).unwrap();
    // The first bytes of an answer say that it is under way.
    stream.read_exact(&mut [0; 9]).unwrap();
    assert_eq!(server.admin("DELETE", &path, b"").status, 204);
    stream
}

fn withheld(server: &Server) -> u64 {
    server.admin("GET", "/admin/v1/stats", b"").json()["memory"]["withheld_bytes"].as_u64().unwrap()
}

/// What comes until the end, however that comes; nothing more is asked for.
fn taken(mut stream: TcpStream) -> usize {
    stream.shutdown(Shutdown::Write).unwrap_or_default();
    let mut taken = Vec::new();
    stream.read_to_end(&mut taken).unwrap_or_default();
    taken.len()
}

#[test]
fn readers_of_what_the_cache_gave_up_are_charged_to_it_and_the_slowest_are_cut_off() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), FLAGS);
    let ask = |number| {
        let token = &server.token;
        let ask = format!(
            "GET /admin/v1/entries/large%3A{number} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        ask_for_what_goes(&server, number, ask.as_bytes())
    };
    let mut readers: Vec<_> = (0..2).map(ask).collect();
    let two = 2 * VALUE_BYTES as u64;
    eventually("they are charged", || (two..two + two / 4).contains(&withheld(&server)).then_some(()));
    readers.extend((2..10).map(ask));
    let three = 3 * VALUE_BYTES as u64;
    eventually("the slowest go", || (three..three + two / 4).contains(&withheld(&server)).then_some(()));
    // Long before the patience with one slow reader is at its end. Which of them stay is a matter of who took something
    // last, and the kernel takes what it likes.
    let whole = readers.into_iter().map(taken).filter(|bytes| *bytes >= VALUE_BYTES).count();
    assert!((1..=5).contains(&whole), "{whole} of 10 got everything");
    eventually("nothing is held", || (withheld(&server) == 0).then_some(()));
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
}

#[test]
fn connections_of_http2_end_when_what_they_hold_is_needed() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), FLAGS);
    let readers: Vec<_> = (0..10)
        .map(|number| {
            // The preface, settings with an initial window of one byte, and a request in plain header fields.
            let mut ask = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            ask.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1]);
            let mut block = vec![0x82, 0x86];
            let path = format!("/admin/v1/entries/large%3A{number}");
            let token = format!("Bearer {}", server.token);
            for (index, value) in [(&[0x04][..], path.as_str()), (&[0x01], "a"), (&[0x0F, 0x08], &token)] {
                block.extend(index);
                block.push(u8::try_from(value.len()).unwrap());
                block.extend(value.as_bytes());
            }
            ask.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
            ask.extend(block);
            ask_for_what_goes(&server, number, &ask)
        })
        .collect();
    eventually("the slowest go", || (withheld(&server) < 4 * VALUE_BYTES as u64).then_some(()));
    let mut readers = readers.into_iter();
    for reader in readers.by_ref().take(7) {
        assert!(taken(reader) < 10_000, "a connection that is ended sends no more");
    }
    assert_eq!(readers.len(), 3);
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
}

#[test]
fn an_answer_to_a_batch_is_charged_while_it_waits() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), FLAGS);
    let keys: Vec<_> = (0..2).map(|number| format!("large:{number}")).collect();
    for number in 0..2 {
        let path = format!("/admin/v1/entries/large%3A{number}");
        assert_eq!(server.admin("PUT", &path, &vec![b'x'; VALUE_BYTES]).status, 201);
    }
    let body = json!({"keys": keys}).to_string();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let ask = format!(
        "POST /admin/v1/entries/get HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        server.token,
        body.len()
    );
    stream.write_all(ask.as_bytes()).unwrap();
    eventually("it is charged", || (withheld(&server) >= 2 * VALUE_BYTES as u64).then_some(()));
    drop(stream);
    eventually("it is given back", || (withheld(&server) == 0).then_some(()));
}
