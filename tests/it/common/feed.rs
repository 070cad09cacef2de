//! The stream of events of a server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::Server;

/// A stream of events, read as far as it has come.
pub(crate) struct Feed {
    pub(crate) stream: TcpStream,
    pub(crate) text: String,
}

impl Feed {
    pub(crate) fn open(server: &Server, headers: &str) -> Self {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let token = &server.token;
        let head = format!(
            "GET /admin/v1/events HTTP/1.1\r\nHost: hifz\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut feed = Self { stream, text: String::new() };
        feed.until(": connected\n\n");
        feed
    }

    /// Reads on until `text` has come.
    pub(crate) fn until(&mut self, text: &str) {
        let mut piece = [0; 4096];
        while !self.text.contains(text) {
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "the stream ended before {text:?}: {}", self.text);
            self.text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
    }
}
