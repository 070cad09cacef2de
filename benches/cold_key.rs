//! Fifty clients on one cold key whose origin takes 100 ms, over HTTP: the binary, and Varnish in the same rounds where
//! it is installed. Then the same on an expired key within its stale window, and warming all embedded content.
//!
//! Run with `cargo bench --bench cold_key`. The slowest client of each round counts; figures are medians over rounds.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and may fail loudly")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hifz::clock::{Clock, monotonic_now};
use hifz::content::Store;
use hifz::{Cache, keys};

fn main() {
    let origin = Origin::start();
    let mut peers = vec![Peer::hifz(&origin)];
    match Peer::varnish(&origin) {
        Some(varnish) => peers.push(varnish),
        None => println!("varnishd is not installed: no comparison"),
    }
    for what in ["cold", "expired, in its window"] {
        let mut slowest: Vec<Vec<Duration>> = vec![Vec::new(); peers.len()];
        let mut calls: Vec<u64> = vec![0; peers.len()];
        for round in 0..ROUNDS {
            for (at, peer) in peers.iter().enumerate() {
                let surah = u64::from(1 + round);
                if what != "cold" {
                    // Its second of freshness is over by then; both peers keep it for an hour longer.
                    std::thread::park_timeout(Duration::from_millis(1300));
                }
                let before = origin.calls.load(Ordering::SeqCst);
                slowest[at].push(peer.slowest_of_fifty(surah));
                std::thread::park_timeout(Duration::from_millis(250));
                calls[at] += origin.calls.load(Ordering::SeqCst) - before;
            }
        }
        for (at, peer) in peers.iter().enumerate() {
            slowest[at].sort_unstable();
            let median = slowest[at][usize::from(ROUNDS) / 2];
            let a_round = calls[at] / u64::from(ROUNDS);
            println!(
                "{what:24} {:8} slowest of 50: {median:>10.1?}  origin calls a round: {a_round}",
                peer.name
            );
        }
    }
    warm_everything();
}

/// A service that answers any surah after 100 ms.
struct Origin {
    address: String,
    calls: Arc<AtomicU64>,
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let counted = counted.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &counted));
            }
        });
        Self { address, calls }
    }
}

fn answer(mut stream: TcpStream, calls: &AtomicU64) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            line.clear();
        }
        calls.fetch_add(1, Ordering::SeqCst);
        std::thread::park_timeout(Duration::from_millis(100));
        let number = first.split(' ').nth(1).unwrap().rsplit('/').next().unwrap();
        let text = "x".repeat(2000);
        let body = format!(
            r#"{{"number":{number},"name":"n","transliteration":"t","meaning":"m","revelation":"meccan","ayah_count":1,"edition":"e","ayahs":[{{"number":1,"text":"{text}"}}]}}"#
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: max-age=1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

/// A cache in front of the origin.
struct Peer {
    name: &'static str,
    address: String,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Peer {
    fn hifz(origin: &Origin) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("hifz.toml");
        let lifetimes = "[namespaces.quran]\nttl = '1s'\nstale_while_revalidate = '1h'\n";
        std::fs::write(&config, lifetimes).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hifz"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--warm-on-start", "false"])
            .args(["--source-url", &format!("http://{}/api/v1", origin.address)])
            .arg("--data-dir")
            .arg(directory.path())
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap().rsplit(' ').next().unwrap().to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self { name: "hifz", address, child, _directory: directory }
    }

    fn varnish(origin: &Origin) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (host, port) = origin.address.split_once(':').unwrap();
        let vcl = directory.path().join("bench.vcl");
        let text = format!(
            "vcl 4.1;\nbackend default {{ .host = \"{host}\"; .port = \"{port}\"; }}\n\
             sub vcl_backend_response {{ set beresp.ttl = 1s; set beresp.grace = 1h; }}\n"
        );
        std::fs::write(&vcl, text).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let child = Command::new("varnishd")
            .args(["-F", "-a", &free, "-s", "malloc,64m", "-n"])
            .arg(directory.path().join("work"))
            .arg("-f")
            .arg(&vcl)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        for _ in 0..200 {
            if TcpStream::connect(&free).is_ok() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Some(Self { name: "varnish", address: free, child, _directory: directory })
    }

    /// Fifty connections that are open already ask at the same moment; the time of the last answer.
    fn slowest_of_fifty(&self, surah: u64) -> Duration {
        let ready = Arc::new(Barrier::new(CLIENTS));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (ready, address) = (ready.clone(), self.address.clone());
                std::thread::spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let request = format!(
                        "GET /api/v1/surahs/{surah} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
                    );
                    ready.wait();
                    let began = monotonic_now();
                    stream.write_all(request.as_bytes()).unwrap();
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).unwrap();
                    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
                    began.elapsed()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).max().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A terminate signal, so that a manager ends its worker too.
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

/// Every surah, every list and every item of one; no translation of the text is embedded.
fn warm_everything() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("content.redb"), Clock::system()).unwrap();
    let mut all = vec![keys::surahs(), keys::reciters(), keys::translations()];
    all.extend(keys::SurahNumber::all().map(|number| keys::surah(number, None)));
    all.extend(store.reciters().unwrap().reciters.iter().map(|reciter| keys::reciter(&reciter.id)));
    let translations = store.translations().unwrap().translations;
    all.extend(translations.iter().map(|translation| keys::translation(&translation.facts.id)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let cache = Cache::builder().memory(64 << 20).open().unwrap();
            let report = runtime.block_on(cache.warm(all.clone(), &store, |_| ()));
            assert_eq!((report.failed, report.loaded), (0, all.len() as u64));
            report.elapsed
        })
        .collect();
    times.sort_unstable();
    println!("warming all {} embedded documents: {:.1?}", all.len(), times[2]);
}

const CLIENTS: usize = 50;

/// Odd, so that there is a middle one.
const ROUNDS: u8 = 9;
