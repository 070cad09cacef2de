//! An HTTP service that hurts, by script: it counts, waits, fails, hangs, cuts off and lies; and the binary before it.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hifz::clock::monotonic_now;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::Server;

/// How the origin answers one request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Give(Value),
    Tagged(Value, &'static str),
    Status(u16),
    /// Says nothing and keeps the connection open.
    Hang,
    /// Ends in the middle of a chunked body.
    Cut(Value),
    /// Announces more than it sends.
    Short(Value),
    /// Announces less than it sends.
    Long(Value),
    Html,
    /// Sends this much of a body that has no end, then nothing more.
    Flood(usize),
    Raw(Vec<u8>),
    /// Answers after a while.
    Slow(Duration, Value),
}

#[derive(Debug, Default)]
struct Script {
    steps: VecDeque<Step>,
    always: Option<Step>,
    /// When each request came, what for, and the validator it brought.
    asked: Vec<(Instant, String, Option<String>)>,
}

/// A service that answers by script, each connection on a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) url: String,
    script: Arc<Mutex<Script>>,
}

impl Origin {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let origin = Self { url, script: Arc::default() };
        let own = origin.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let own = own.clone();
                std::thread::spawn(move || own.answer(stream.unwrap()));
            }
        });
        origin
    }

    pub(crate) fn then(&self, steps: impl IntoIterator<Item = Step>) -> &Self {
        self.script.lock().unwrap().steps.extend(steps);
        self
    }

    pub(crate) fn always(&self, step: Step) -> &Self {
        self.script.lock().unwrap().always = Some(step);
        self
    }

    pub(crate) fn asked(&self) -> Vec<(Instant, String, Option<String>)> {
        self.script.lock().unwrap().asked.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.script.lock().unwrap().asked.len()
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let validator =
            head.lines().find_map(|line| line.strip_prefix("if-none-match: ")).map(ToOwned::to_owned);
        let step = {
            let mut script = self.script.lock().unwrap();
            script.asked.push((monotonic_now(), path, validator));
            let step = script.steps.pop_front();
            step.or_else(|| script.always.clone()).unwrap_or(Step::Status(500))
        };
        // A client that has gone does not matter here.
        stream.write_all(&rendered(&step)).unwrap_or_default();
        if let Step::Hang = step {
            drop(stream.read(&mut byte));
        }
        if let Step::Flood(bytes) = step {
            let piece = [b"10000\r\n".as_slice(), &vec![b' '; 1 << 16], b"\r\n"].concat();
            let is_sent = (0..bytes >> 16).all(|_| stream.write_all(&piece).is_ok());
            drop(is_sent.then(|| stream.read(&mut byte)));
            return;
        }
        if let Step::Slow(pause, body) = step {
            std::thread::park_timeout(pause);
            stream.write_all(&rendered(&Step::Give(body))).unwrap_or_default();
        }
    }
}

fn rendered(step: &Step) -> Vec<u8> {
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let with_length = |body: &str, length: usize, more: &str| {
        format!("{json}{more}Content-Length: {length}\r\n\r\n{body}").into_bytes()
    };
    match step {
        Step::Give(body) => with_length(&body.to_string(), body.to_string().len(), ""),
        Step::Tagged(body, etag) => {
            let body = body.to_string();
            with_length(&body, body.len(), &format!("ETag: {etag}\r\n"))
        }
        Step::Short(body) => with_length(&body.to_string(), body.to_string().len() + 100, ""),
        Step::Long(body) => with_length(&body.to_string(), body.to_string().len() - 20, ""),
        Step::Status(status) => {
            format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
        }
        Step::Hang | Step::Slow(..) => Vec::new(),
        Step::Cut(body) => {
            let body = body.to_string();
            let half = &body[..body.len() / 2];
            format!("{json}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{half}\r\n", half.len()).into_bytes()
        }
        Step::Html => b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>".to_vec(),
        Step::Flood(_) => format!("{json}Transfer-Encoding: chunked\r\n\r\n").into_bytes(),
        Step::Raw(bytes) => bytes.clone(),
    }
}

/// A surah of two ayahs, which is what the origin says it has.
pub(crate) fn surah(number: u64, text: &str) -> Value {
    json!({
        "number": number, "name": "ن", "transliteration": "t", "meaning": "m", "revelation": "meccan",
        "ayah_count": 2, "edition": "e",
        "ayahs": [{"number": 1, "text": text}, {"number": 2, "text": text}],
    })
}

/// The binary in front of `origin`, with these settings for the surahs.
pub(crate) fn edge(origin: &Origin, lifetimes: &str, flags: &[&str]) -> (Server, TempDir) {
    let directory = tempdir().unwrap();
    let config = directory.path().join("edge.toml");
    std::fs::write(&config, format!("[namespaces.quran]\n{lifetimes}\n")).unwrap();
    let mut all = vec!["--source-url", origin.url.as_str(), "--config"];
    let config = config.to_str().unwrap().to_owned();
    all.push(&config);
    all.extend(flags);
    (Server::start_with(directory.path(), &all), directory)
}
