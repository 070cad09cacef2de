//! Requests at a fixed rate, whatever the server does: latency counted from the moment a request was due.
//!
//! `cargo bench --bench pace -- URL --rate 20000 --seconds 5 --connections 64 --header 'Accept-Encoding: gzip'`, or by
//! `benches/http/run tail`. Generators that send the next request when the last was answered leave out exactly the
//! requests that a slow answer would have delayed; here a request that is due while every connection is busy waits, and
//! its wait counts. One thread that never sleeps: give it a core of its own. Prints one line: `pace`, then requests,
//! requests a second, p50, p95, p99, p99.9 and the longest in microseconds, and what failed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints, and may fail loudly"
)]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hifz::clock::monotonic_now;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(plan) = Plan::of(&arguments) else {
        println!("pace URL [--rate N] [--seconds N] [--connections N] [--header 'Name: value']");
        return;
    };
    // Connections open and caches warm before anything is counted.
    let mut drive = Drive::new(&plan);
    drive.run(Duration::from_millis(500), plan.rate);
    drive.latencies_us.clear();
    let began = monotonic_now();
    drive.run(plan.time, plan.rate);
    let took = began.elapsed();
    let mut latencies = drive.latencies_us;
    latencies.sort_unstable();
    let at = |share: f64| {
        let last = latencies.len().saturating_sub(1);
        latencies.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    };
    println!(
        "pace {} {:.0} {} {} {} {} {} {}",
        latencies.len(),
        latencies.len() as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.95),
        at(0.99),
        at(0.999),
        at(1.0),
        drive.failed,
    );
}

struct Plan {
    address: String,
    request: Vec<u8>,
    rate: f64,
    time: Duration,
    connections: usize,
}

impl Plan {
    fn of(arguments: &[String]) -> Option<Self> {
        let (mut url, mut headers) = (None, String::new());
        let (mut rate, mut seconds, mut connections) = (10_000.0, 5.0, 64.0);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let number = |value: Option<&String>| value.and_then(|value| value.parse::<f64>().ok());
            match argument.as_str() {
                "--rate" => rate = number(rest.next())?,
                "--seconds" => seconds = number(rest.next())?,
                "--connections" => connections = number(rest.next())?,
                "--header" => headers.extend([rest.next()?, "\r\n"]),
                _ => url = Some(argument.strip_prefix("http://")?),
            }
        }
        let url = url?;
        let (address, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").into_bytes();
        Some(Self {
            address: address.into(),
            request,
            rate,
            time: Duration::from_secs_f64(seconds),
            connections: connections as usize,
        })
    }
}

/// One connection and what of an answer has come.
struct Connection {
    stream: TcpStream,
    due: Instant,
    head: Vec<u8>,
    /// Bytes of the body still to come, once the head is whole.
    left: Option<usize>,
}

struct Drive<'p> {
    plan: &'p Plan,
    connections: Vec<Connection>,
    /// Who has nothing under way, the longest idle first; and who has.
    idle: VecDeque<usize>,
    busy: Vec<usize>,
    latencies_us: Vec<u64>,
    failed: u64,
    room: Vec<u8>,
}

impl<'p> Drive<'p> {
    fn new(plan: &'p Plan) -> Self {
        let connect = |_| {
            let stream = TcpStream::connect(&plan.address).expect("the server listens");
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            Connection { stream, due: monotonic_now(), head: Vec::new(), left: None }
        };
        Self {
            plan,
            connections: (0..plan.connections).map(connect).collect(),
            idle: (0..plan.connections).collect(),
            busy: Vec::new(),
            latencies_us: Vec::with_capacity((plan.rate * plan.time.as_secs_f64()) as usize + 1024),
            failed: 0,
            room: vec![0; 1 << 18],
        }
    }

    /// Sends `rate` requests a second for `time`, then waits for the last answers.
    fn run(&mut self, time: Duration, rate: f64) {
        let began = monotonic_now();
        let count = (rate * time.as_secs_f64()) as u64;
        let give_up = began + time * 2 + Duration::from_secs(5);
        let due = |number: u64| began + Duration::from_secs_f64(number as f64 / rate);
        let mut sent = 0;
        while sent < count || !self.busy.is_empty() {
            let now = monotonic_now();
            if now > give_up {
                self.failed += count - sent + self.busy.len() as u64;
                return;
            }
            while sent < count && due(sent) <= now {
                let Some(free) = self.idle.pop_front() else { break };
                self.send(free, due(sent));
                sent += 1;
            }
            self.collect();
        }
    }

    fn send(&mut self, at: usize, due: Instant) {
        let connection = self.connections.get_mut(at).unwrap();
        connection.due = due;
        // A request fits into any socket's buffer: the last one on this connection was answered.
        connection.stream.write_all(&self.plan.request).expect("a request is taken");
        self.busy.push(at);
    }

    /// Reads what has come on the connections that wait.
    fn collect(&mut self) {
        let mut still = Vec::with_capacity(self.busy.len());
        for at in std::mem::take(&mut self.busy) {
            let connection = self.connections.get_mut(at).unwrap();
            match connection.stream.read(&mut self.room) {
                Ok(count) => {
                    assert!(count > 0, "the server closed a connection");
                    if connection.take(self.room.get(..count).unwrap_or_default()) {
                        self.latencies_us.push(connection.due.elapsed().as_micros() as u64);
                        self.failed += u64::from(!connection.head.starts_with(b"HTTP/1.1 200"));
                        connection.head.clear();
                        self.idle.push_back(at);
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                broken => drop(broken.expect("a connection that stays whole")),
            }
            still.push(at);
        }
        self.busy = still;
    }
}

impl Connection {
    /// Takes what came of an answer; says whether it is whole.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        if self.left.is_none() {
            let seen = self.head.len().saturating_sub(3);
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.get(seen..).unwrap().windows(4).position(|four| four == b"\r\n\r\n")
            else {
                return false;
            };
            let end = seen + end + 4;
            let body = self.head.len() - end;
            bytes = bytes.get(bytes.len() - body..).unwrap();
            self.head.truncate(end);
            self.left = Some(content_length(&self.head));
        }
        let left = self.left.unwrap() - bytes.len();
        self.left = (left > 0).then_some(left);
        left == 0
    }
}

fn content_length(head: &[u8]) -> usize {
    let text = std::str::from_utf8(head).expect("a head is text");
    let named = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let length =
        named.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value);
    length.last().expect("a length").trim().parse().expect("a number")
}
