//! `kill -9` at random instants: a process of its own writes, deletes and invalidates without pause and says what was
//! acknowledged; what the next one finds must be no older. Sometimes the next one is killed while it still recovers.
//!
//! `HIFZ_KILLS` says how often; a few times by default. `kills/server.rs` does the same to the server, over HTTP.

mod server;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hifz::{Cache, DataDir, Durability, SetOptions};
use tempfile::tempdir;

/// What a process says: what it is about to do, and that it is done.
const BEGINS: &str = "begins";
const DONE: &str = "done";
const FOUND: &str = "found";
const LOOKED: &str = "looked";

/// What may be found under each key: the sequence of values is 1, 2, 3 … over all keys.
#[derive(Debug, Default)]
struct Model {
    /// The last value acknowledged.
    set: BTreeMap<String, u64>,
    /// Values up to this one are dead.
    dead: BTreeMap<String, u64>,
    /// The last one begun: it may have come to pass or not.
    highest: u64,
}

impl Model {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let (word, verb, keys, value) = match words.as_slice() {
            [word @ (BEGINS | DONE | FOUND), verb, keys, value] => {
                (*word, *verb, *keys, value.parse().unwrap())
            }
            _ => return,
        };
        self.highest = self.highest.max(value);
        let keys: Vec<String> = keys.split(',').map(ToOwned::to_owned).collect();
        match word {
            BEGINS => {}
            DONE => {
                for key in keys {
                    let of = if verb == "set" { &mut self.set } else { &mut self.dead };
                    of.insert(key, value);
                }
            }
            FOUND => self.check(&keys[0], value),
            other => panic!("{other}"),
        }
    }

    fn check(&self, key: &str, value: u64) {
        let (set, dead) = (self.set.get(key).copied(), self.dead.get(key).copied().unwrap_or(0));
        assert!(value > dead, "{key}: {value} came back, everything up to {dead} was acknowledged as dead");
        assert!(
            set.is_none_or(|set| value >= set),
            "{key}: {value} came back, {set:?} was acknowledged after it"
        );
    }
}

#[test]
fn whenever_it_is_killed_nothing_acknowledged_is_undone() {
    let rounds: u32 = std::env::var("HIFZ_KILLS").map_or(6, |rounds| rounds.parse().unwrap());
    let directory = tempdir().unwrap();
    let (mut model, mut state, mut looked) = (Model::default(), 88_172_645_463_325_252_u64, 0);
    for round in 0..rounds + MORE_ROUNDS {
        // On a busy machine none may have come so far yet; then the next ones live longer.
        if round >= rounds && model.highest > 0 && looked > 0 {
            return;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // One in four dies while it still reads what is there.
        let life = if state.is_multiple_of(4) { state >> 8 & 31 } else { 40 + (state >> 8) % 400 };
        let life = Duration::from_millis(life) * (1 + round.saturating_sub(rounds));
        looked += u32::from(live_and_die(directory.path(), &mut model, life));
    }
    panic!("{} was the last value written, and {looked} processes came to look", model.highest);
}

/// So many more rounds are tried until one has found something.
const MORE_ROUNDS: u32 = 20;

/// Starts a process and kills it after `life`; whether it came so far as to look at everything.
fn live_and_die(directory: &Path, model: &mut Model, life: Duration) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kills::a_process_that_will_be_killed",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("HIFZ_KILLED_IN", directory)
        .env("HIFZ_KILLED_FROM", model.highest.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let killer = std::thread::spawn(move || {
        std::thread::park_timeout(life);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let mut has_looked = false;
    // A line that the kill cut short is no line.
    for said in lines.map_while(Result::ok).filter(|line| line.ends_with(" .")) {
        let said = said.trim_end_matches(" .");
        has_looked |= said == LOOKED;
        model.hear(said);
    }
    killer.join().unwrap();
    has_looked
}

/// The other process: not a test by itself.
#[test]
#[ignore = "started by its parent, and killed by it"]
fn a_process_that_will_be_killed() {
    let Some(directory) = std::env::var_os("HIFZ_KILLED_IN") else { return };
    let mut value: u64 = std::env::var("HIFZ_KILLED_FROM").unwrap().parse().unwrap();
    let mut out = std::io::stdout().lock();
    let mut say = |text: String| {
        out.write_all(format!("{text} .\n").as_bytes()).unwrap();
        out.flush().unwrap();
    };
    let cache = Cache::builder()
        .memory(4 << 20)
        .disk(16 << 20)
        .durability(Durability::Interval)
        .flush_interval(Duration::from_millis(20))
        .data_dir(DataDir::open(Path::new(&directory)).unwrap())
        .open()
        .unwrap();
    // The rest of the line that the test runner has begun.
    say(String::new());
    let keys: Vec<String> = (0..200).map(|number| format!("n{}:{number}", number % 4)).collect();
    for key in &keys {
        if let Some(entry) = cache.get(key.as_str()).unwrap() {
            let found = u64::from_le_bytes(entry.body()[..8].try_into().unwrap());
            assert!(entry.body()[8..].iter().all(|byte| *byte == entry.body()[0]), "{key}: a wrong byte");
            say(format!("{FOUND} get {key} {found}"));
        }
    }
    say(LOOKED.to_owned());
    let mut state = value.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    loop {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value += 1;
        let number = usize::try_from((state >> 20) % 200).unwrap();
        let in_namespace =
            |namespace: usize| keys.iter().skip(namespace).step_by(4).cloned().collect::<Vec<_>>();
        let (verb, touched) = match state % 64 {
            0 => ("namespace", in_namespace(number % 4)),
            1 => ("tag", in_namespace(number % 4)),
            2..6 => ("delete", vec![keys[number].clone()]),
            _ => ("set", vec![keys[number].clone()]),
        };
        say(format!("{BEGINS} {verb} {} {value}", touched.join(",")));
        match verb {
            "namespace" => drop(cache.invalidate_namespace(format!("n{}", number % 4).as_str()).unwrap()),
            "tag" => drop(cache.invalidate_tag(format!("t{}", number % 4).as_str()).unwrap()),
            "delete" => drop(cache.delete(touched[0].as_str()).unwrap()),
            _ => {
                let mut body = value.to_le_bytes().to_vec();
                body.resize(8 + usize::try_from(state >> 40 & 0x3FFF).unwrap(), body[0]);
                let options = SetOptions::new().tags([format!("t{}", number % 4)]);
                cache.set_with(touched[0].as_str(), &body, &options).unwrap();
            }
        }
        say(format!("{DONE} {verb} {} {value}", touched.join(",")));
    }
}
