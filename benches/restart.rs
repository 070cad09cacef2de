//! Restarts beside Redis: from `exec` to the first answer and the first hit, and until everything is in memory again.
//!
//! Run with `cargo bench --bench restart`. The store is filled and then its process killed, so every start is one after
//! `kill -9`; the page cache is warm. Redis (`apt-get install redis-server`) is started on the same data, once from a
//! snapshot and once from an append-only file; without it the rows of hifz stand alone. The data directories are made
//! under `HIFZ_BENCH_DIR`, or the system's temporary directory.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and may fail loudly")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hifz::clock::monotonic_now;
use hifz::{Cache, DataDir};

/// A store to start with.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    entries: u64,
    /// The sizes of values, log-uniform between the two.
    bytes: (f64, f64),
}

const SHAPES: [Shape; 2] = [
    Shape { name: "500 MB mixed", entries: 31_000, bytes: (200.0, 100_000.0) },
    Shape { name: "1.9 M x 100 B", entries: 1_900_000, bytes: (100.0, 100.0) },
];

impl Shape {
    fn value_bytes(self, number: u64) -> usize {
        let (least, most) = self.bytes;
        (least * (most / least).powf(number as f64 / self.entries as f64)) as usize
    }
}

fn key(number: u64) -> String {
    format!("bench:{number:014}")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [role, directory, shape] = arguments.as_slice() {
        let shape = SHAPES[shape.parse::<usize>().unwrap()];
        if role == "fill" {
            fill(directory.as_ref(), shape);
        } else {
            serve(directory.as_ref(), shape);
        }
        return;
    }
    for (number, shape) in SHAPES.iter().enumerate() {
        let parent = std::env::var_os("HIFZ_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
        let directory = tempfile::tempdir_in(parent).unwrap();
        hifz_rows(directory.path(), number, *shape);
        redis_rows(directory.path(), *shape);
    }
}

fn open(directory: &Path) -> Cache {
    let directory = DataDir::open(directory).unwrap();
    Cache::builder().memory(800_000_000).disk(2_200_000_000).data_dir(directory).open().unwrap()
}

/// Fills the store, says so, and waits to be killed.
fn fill(directory: &Path, shape: Shape) {
    let cache = open(directory);
    let body = vec![7_u8; 100_000];
    for number in 0..shape.entries {
        cache.set(key(number).as_str(), &body[..shape.value_bytes(number)]).unwrap();
        if number % 50 == 0 && cache.disk_status().unwrap().queued_bytes > 8 << 20 {
            cache.flush().unwrap();
        }
    }
    cache.flush().unwrap();
    let status = cache.disk_status().unwrap();
    assert_eq!(status.dropped, 0);
    println!("filled {:.0}", status.live_bytes as f64 / 1e6);
    std::thread::park();
}

/// Answers one line a connection: the length of the value under the key that was sent, or how many entries are in
/// memory.
fn serve(directory: &Path, _: Shape) {
    let cache = open(directory);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let answer = match line.trim() {
            "" => "here".to_owned(),
            "count" => cache.stats().entries.to_string(),
            key => cache.get(key).unwrap().map_or("none".to_owned(), |entry| entry.body().len().to_string()),
        };
        stream.write_all(answer.as_bytes()).unwrap();
    }
}

fn child(role: &str, directory: &Path, number: usize) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([role.as_ref(), directory.as_os_str(), number.to_string().as_ref()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn line(out: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn ask(port: u16, what: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("{what}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn hifz_rows(directory: &Path, number: usize, shape: Shape) {
    let began = monotonic_now();
    let (filler, mut out) = child("fill", directory, number);
    let megabytes = line(&mut out);
    println!("{}: hifz {megabytes} MB in {:.1} s", shape.name, began.elapsed().as_secs_f64());
    kill(filler);
    let (mut answers, mut hits, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let mut most = 0;
    for round in 0..ROUNDS {
        let began = monotonic_now();
        let (server, mut out) = child("serve", directory, number);
        let port = line(&mut out).parse().unwrap();
        assert_eq!(ask(port, ""), "here");
        answers.push(milliseconds(began));
        // Another key each time: from anywhere in the store.
        let wanted = (round * 7_919 + 13) * 104_729 % shape.entries;
        assert_eq!(ask(port, &key(wanted)), shape.value_bytes(wanted).to_string());
        hits.push(milliseconds(began));
        let (mut last, mut last_at) = (0, began.elapsed());
        // Until the number of entries stands still.
        loop {
            std::thread::park_timeout(Duration::from_millis(10));
            let count: u64 = ask(port, "count").parse().unwrap();
            if count > last {
                (last, last_at) = (count, began.elapsed());
            } else if began.elapsed() > last_at + Duration::from_millis(500) {
                break;
            }
        }
        all.push(last_at.as_secs_f64() * 1e3);
        most = last;
        kill(server);
    }
    println!(
        "{}: hifz after kill -9: first answer {:.0} ms, first hit {:.0} ms (largest {:.0}), {most} of {} in memory after {:.0} ms",
        shape.name,
        median(&mut answers),
        median(&mut hits),
        hits.last().unwrap(),
        shape.entries,
        median(&mut all)
    );
}

fn redis_rows(directory: &Path, shape: Shape) {
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("{}: redis-server is not installed", shape.name);
        return;
    }
    for (name, flags) in [("RDB", ["--appendonly", "no"]), ("AOF", ["--appendonly", "yes"])] {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        let (server, port) = redis(&directory, flags);
        wait_for_redis(port);
        fill_redis(port, shape);
        let saving = if name == "RDB" { "SAVE" } else { "BGREWRITEAOF" };
        redis_says(port, &[saving]).unwrap();
        while redis_says(port, &["INFO", "persistence"]).unwrap().contains("rewrite_in_progress:1") {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        // Its own log is synced every second.
        std::thread::park_timeout(Duration::from_millis(1500));
        kill(server);
        let (mut answers, mut hits) = (Vec::new(), Vec::new());
        for round in 0..3 {
            let began = monotonic_now();
            let (server, port) = redis(&directory, flags);
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                std::thread::park_timeout(Duration::from_millis(2));
            }
            answers.push(milliseconds(began));
            wait_for_redis(port);
            let wanted = (round * 7_919 + 13) * 104_729 % shape.entries;
            let answer = redis_says(port, &["STRLEN", &key(wanted)]).unwrap();
            assert!(answer.contains(&shape.value_bytes(wanted).to_string()), "{answer}");
            hits.push(milliseconds(began));
            kill(server);
        }
        println!(
            "{}: Redis {name} after kill -9: accepts after {:.0} ms, first hit and all in memory after {:.0} ms",
            shape.name,
            median(&mut answers),
            median(&mut hits)
        );
    }
}

fn redis(directory: &Path, flags: [&str; 2]) -> (Child, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(directory);
    command.args(flags).stdout(Stdio::null());
    (command.spawn().unwrap(), port)
}

/// Until it no longer says that it is loading.
fn wait_for_redis(port: u16) {
    while !redis_says(port, &["PING"]).is_some_and(|answer| answer.contains("PONG")) {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn fill_redis(port: u16, shape: Shape) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut answers = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut buffer, mut left) = (vec![0; 1 << 16], shape.entries * 5);
        while left > 0 {
            left -= answers.read(&mut buffer).unwrap() as u64;
        }
    });
    let mut out = BufWriter::with_capacity(1 << 20, stream);
    let body = vec![b'7'; 100_000];
    for number in 0..shape.entries {
        let (name, bytes) = (key(number), shape.value_bytes(number));
        write!(out, "*3\r\n$3\r\nSET\r\n${}\r\n{name}\r\n${bytes}\r\n", name.len()).unwrap();
        out.write_all(&body[..bytes]).unwrap();
        out.write_all(b"\r\n").unwrap();
    }
    out.flush().unwrap();
    reader.join().unwrap();
}

fn redis_says(port: u16, words: &[&str]) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_mins(1))).ok()?;
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.extend(["$", &word.len().to_string(), "\r\n", word, "\r\n"]);
    }
    stream.write_all(text.as_bytes()).ok()?;
    let mut buffer = vec![0; 1 << 14];
    let read = stream.read(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Odd, so that there is a middle one.
const ROUNDS: u64 = 7;
