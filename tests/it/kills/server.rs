//! The server itself under `kill -9`: several clients put, overwrite, delete and invalidate over HTTP, by key, tag,
//! pattern, prefix, namespace and all at once, until it is killed; what the next one answers must be no older than what
//! was acknowledged. Sometimes the next one is killed before it listens, sometimes soon after.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::Server;

/// What happened to one key, in ticks of one clock that every client asks at the beginning and the end of a request.
#[derive(Debug, Default)]
struct History {
    /// When each put began and ended; the value says when it began.
    puts: BTreeMap<u64, Option<u64>>,
    /// When the last acknowledged put began.
    put_from: u64,
    /// When the last acknowledged removal began.
    dead_from: u64,
}

impl History {
    /// Whether `value` may be found now.
    fn check(&mut self, key: &str, value: u64) {
        let ended = self.puts.get(&value).unwrap_or_else(|| panic!("{key}: nobody put {value}"));
        let ended = ended.expect("every request ended when the server was killed");
        assert!(self.dead_from <= ended, "{key}: {value} came back, removed at {}", self.dead_from);
        assert!(self.put_from <= ended, "{key}: {value} came back, overwritten at {}", self.put_from);
        // What was seen once does not give way to what is older either.
        self.put_from = self.put_from.max(value);
    }
}

#[derive(Debug, Default)]
struct Model {
    tick: u64,
    keys: BTreeMap<String, History>,
}

impl Model {
    fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }
}

/// A request in the making: what it asks, and which keys it touches.
struct Asked {
    method: &'static str,
    path: String,
    body: Vec<u8>,
    keys: Vec<String>,
}

#[test]
fn whenever_the_server_is_killed_nothing_acknowledged_is_undone() {
    let rounds: u64 = std::env::var("HIFZ_KILLS").map_or(4, |rounds| rounds.parse().unwrap());
    let directory = tempdir().unwrap();
    let model = Mutex::new(Model::default());
    let (mut random, mut found, mut acknowledged) = (Random(0x2545_F491_4F6C_DD1D), 0, 0);
    for round in 0.. {
        // On a busy machine nothing may have reached the disk yet.
        if round >= rounds && (found > 0 || round == rounds + MORE_ROUNDS) {
            break;
        }
        if random.below(4) == 0 {
            die_young(directory.path(), Duration::from_millis(random.below(60)));
        }
        let flags = ["--memory", "8MB", "--disk", "16MB"];
        let server = Server::start_with(directory.path(), &flags);
        if random.below(4) != 0 {
            found += look(&server, &model);
        }
        let life = Duration::from_millis(20 + random.below(400));
        acknowledged += live(server, &model, life, round);
    }
    let server = Server::start(directory.path());
    found += look(&server, &model);
    assert!(found > 0 && acknowledged > 0, "{found} found, {acknowledged} acknowledged");
}

/// So many more rounds are tried until one has found something.
const MORE_ROUNDS: u64 = 20;

/// A start that is killed while it opens its files, or recovers.
fn die_young(directory: &Path, life: Duration) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(["serve", "--listen", "127.0.0.1:0", "--memory", "8MB", "--disk", "16MB", "--data-dir"])
        .arg(directory)
        .env("HIFZ_WARM_ON_START", "false")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::park_timeout(life);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Checks what stands under every key; how many stand.
fn look(server: &Server, model: &Mutex<Model>) -> u64 {
    let mut model = model.lock().unwrap();
    let mut found = 0;
    for (key, history) in &mut model.keys {
        let reply = server.admin("GET", &format!("/admin/v1/entries/{key}"), b"");
        if reply.status == 404 {
            continue;
        }
        assert_eq!(reply.status, 200, "{key}");
        let text = String::from_utf8(reply.body).unwrap();
        let (value, filling) = text.split_once(' ').unwrap();
        assert!(filling.bytes().all(|byte| byte == b'x'), "{key}: a wrong byte");
        history.check(key, value.parse().unwrap());
        found += 1;
    }
    found
}

/// Has clients at work until the server is killed after `life`; how many requests were acknowledged.
fn live(server: Server, model: &Mutex<Model>, life: Duration, round: u64) -> u64 {
    let (address, token) = (server.address.clone(), server.token.clone());
    let is_over = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (address, token, is_over) = (&address, &token, &is_over);
                let random = Random((round * CLIENTS + client + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                scope.spawn(move || work(address, token, model, is_over, random))
            })
            .collect();
        std::thread::park_timeout(life);
        server.kill();
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let mut model = model.lock().unwrap();
    let now = model.tick();
    for ended in model.keys.values_mut().flat_map(|history| history.puts.values_mut()) {
        ended.get_or_insert(now);
    }
    acknowledged
}

fn work(address: &str, token: &str, model: &Mutex<Model>, is_over: &AtomicBool, mut random: Random) -> u64 {
    let mut acknowledged = 0;
    while !is_over.load(Ordering::Relaxed) {
        let mut before = model.lock().unwrap_or_else(PoisonError::into_inner);
        let began = before.tick();
        let asked = choose(&mut random, began);
        if asked.method == "PUT" {
            before.keys.entry(asked.keys[0].clone()).or_default().puts.insert(began, None);
        }
        drop(before);
        let is_done = send(address, token, &asked);
        let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = model.tick();
        acknowledged += u64::from(is_done);
        for key in &asked.keys {
            let history = model.keys.entry(key.clone()).or_default();
            match (asked.method, is_done) {
                ("PUT", true) => {
                    history.puts.insert(began, Some(ended));
                    history.put_from = history.put_from.max(began);
                }
                (_, true) => history.dead_from = history.dead_from.max(began),
                // It may have come to pass or not, and until the end nobody knows.
                (_, false) => {}
            }
        }
    }
    acknowledged
}

/// Keys are `nN:GROUP:NUMBER`, tagged with their group.
fn key(number: u64) -> String {
    format!("n{}:g{}:{number}", number % NAMESPACES, number / NAMESPACES % GROUPS)
}

fn choose(random: &mut Random, value: u64) -> Asked {
    let (namespace, group) = (random.below(NAMESPACES), random.below(GROUPS));
    let of = |is_touched: &dyn Fn(&str) -> bool| (0..KEYS).map(key).filter(|key| is_touched(key)).collect();
    let invalidate = |what: Value, keys: Vec<String>| {
        let path = "/admin/v1/invalidate".to_owned();
        Asked { method: "POST", path, body: what.to_string().into_bytes(), keys }
    };
    let one = key(random.below(KEYS));
    match random.below(200) {
        0 => Asked {
            method: "POST",
            path: "/admin/v1/clear".to_owned(),
            body: Vec::new(),
            keys: of(&|_| true),
        },
        1..4 => Asked {
            method: "POST",
            path: format!("/admin/v1/namespaces/n{namespace}/invalidate"),
            body: Vec::new(),
            keys: of(&|key| key.starts_with(&format!("n{namespace}:"))),
        },
        4..7 => invalidate(
            json!({"tags": [format!("g{group}")]}),
            of(&|key| key.contains(&format!(":g{group}:"))),
        ),
        7..10 => invalidate(
            json!({"pattern": format!("n*:g{group}:*")}),
            of(&|key| key.contains(&format!(":g{group}:"))),
        ),
        10..13 => invalidate(
            json!({"prefix": format!("n{namespace}:g{group}:")}),
            of(&|key| key.starts_with(&format!("n{namespace}:g{group}:"))),
        ),
        13..20 => {
            let keys = vec![one, key(random.below(KEYS))];
            invalidate(json!({"keys": keys}), keys.clone())
        }
        20..40 => Asked {
            method: "DELETE",
            path: format!("/admin/v1/entries/{one}"),
            body: Vec::new(),
            keys: vec![one],
        },
        _ => {
            let group = one.split(':').nth(1).unwrap_or_default();
            let mut body = format!("{value} ").into_bytes();
            body.resize(body.len() + usize::try_from(random.below(30_000)).unwrap(), b'x');
            let path = format!("/admin/v1/entries/{one}?ttl=1h&tags={group}");
            Asked { method: "PUT", path, body, keys: vec![one] }
        }
    }
}

/// Whether the answer says that it is done; a server that is killed says nothing.
fn send(address: &str, token: &str, asked: &Asked) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let head = format!(
        "{} {} HTTP/1.1\r\nHost: hifz\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        asked.method,
        asked.path,
        asked.body.len()
    );
    let mut answer = Vec::new();
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&asked.body));
    if sent.is_err() || stream.read_to_end(&mut answer).is_err() {
        return false;
    }
    let status = answer.get(9..12).unwrap_or_default();
    assert!(!status.starts_with(b"4") || status == b"404", "{}", String::from_utf8_lossy(&answer));
    // What was not there is gone as well.
    status.starts_with(b"2") || status == b"404"
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

const CLIENTS: u64 = 4;
const KEYS: u64 = 240;
const NAMESPACES: u64 = 4;
const GROUPS: u64 = 6;
