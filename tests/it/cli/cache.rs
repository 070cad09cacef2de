//! The commands that work on the cache, through a real server and on the directory of none.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Hifz, Outcome};
use crate::common::Server;

/// One place for both: a server that runs on the directory, or nobody.
struct Place {
    hifz: Hifz,
    server: Option<Server>,
}

impl Place {
    fn both() -> [Self; 2] {
        [true, false].map(|with_server| {
            let hifz = Hifz::new();
            let data = hifz.path().join("hifz-data");
            std::fs::create_dir(&data).unwrap();
            let server = with_server.then(|| Server::start(&data));
            Self { hifz, server }
        })
    }

    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> Outcome {
        let outcome = self.hifz.run(arguments);
        assert_eq!(outcome.code, code, "{arguments:?}: {outcome:?}");
        if code < 2 {
            let way =
                if self.server.is_some() { "through the server at" } else { "directly, no server runs on" };
            let is_json = arguments.contains(&"--json");
            // A failure is one object alone.
            let said = if is_json { outcome.out.as_str() } else { &outcome.err };
            assert!(said.contains(way) || is_json && said.is_empty() && code == 1, "{outcome:?}");
        }
        outcome
    }

    /// The result, without whom it is of.
    #[track_caller]
    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let outcome = self.run(code, &[arguments, &["--json"]].concat());
        let mut result: Value =
            serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        result.as_object_mut().unwrap().remove("via").unwrap();
        result
    }

    /// Runs with `input` on standard input; the bytes of standard output.
    fn fed(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = self.hifz.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        output.stdout
    }
}

#[test]
fn an_entry_is_set_read_asked_for_and_deleted() {
    for place in Place::both() {
        place.run(
            0,
            &["set", "a:1", "good morning", "--ttl", "1h", "--tags", "x,y", "--content-type", "text/plain"],
        );
        assert_eq!(place.run(0, &["get", "a:1"]).out, "good morning");
        let shown = place.json(0, &["get", "a:1"]);
        assert_eq!((&shown["key"], &shown["content_type"]), (&json!("a:1"), &json!("text/plain")));
        assert_eq!(shown["base64"], json!("Z29vZCBtb3JuaW5n"));
        place.fed(&["set", "a:2", "-"], b"\0\xff\n");
        place.fed(&["set", "a:3"], b"");
        assert_eq!(place.fed(&["get", "a:2"], b""), b"\0\xff\n");
        assert_eq!(place.run(0, &["get", "a:3"]).out, "");
        place.run(0, &["set", "a:/%2F ?#", "-5"]);
        assert_eq!(place.run(0, &["get", "a:/%2F ?#"]).out, "-5");
        assert_eq!(place.run(0, &["exists", "a:1"]).out, "yes\n");
        assert_eq!(place.json(1, &["exists", "a:9"]), json!({"key": "a:9", "exists": false}));
        let missing = place.run(1, &["get", "a:9"]);
        assert!(missing.out.is_empty() && missing.err.contains("a:9"), "{missing:?}");
        place.run(1, &["get", "a:9", "--json"]);
        assert_eq!(place.json(0, &["delete", "a:1"])["deleted"], json!(true));
        assert_eq!(place.json(1, &["delete", "a:1"])["deleted"], json!(false));
        let explained = place.json(0, &["explain", "a:2"]);
        assert_eq!((&explained["is_live"], &explained["disk"]["bytes"]), (&json!(true), &json!(3)));
        assert!(place.run(0, &["explain", "a:2"]).out.contains("\n  state: live\n"));
    }
}

#[test]
fn keys_are_listed_and_every_selector_forgets() {
    for place in Place::both() {
        let fill = || {
            for (key, tag) in [("a:1", "t"), ("a:2", "u"), ("b:1", "t"), ("c:x", "v")] {
                place.run(0, &["set", key, "v", "--tags", tag]);
            }
        };
        let keys = |filter: &[&str]| {
            let listed = place.json(0, &[&["keys"], filter].concat());
            let mut keys: Vec<String> = serde_json::from_value(listed["keys"].clone()).unwrap();
            keys.sort();
            keys
        };
        fill();
        assert_eq!(keys(&[]), ["a:1", "a:2", "b:1", "c:x"]);
        assert_eq!(keys(&["--namespace", "a"]), ["a:1", "a:2"]);
        assert_eq!(keys(&["--prefix", "a:2"]), ["a:2"]);
        assert_eq!(keys(&["--pattern", "?:1"]), ["a:1", "b:1"]);
        assert_eq!(place.run(0, &["keys", "--prefix", "c"]).out, "c:x\n");
        for (selector, count) in [
            (&["--key", "a:1", "b:1", "z:1"][..], 2),
            (&["--key", "a:1", "--key", "a:2"], 2),
            (&["--namespace", "a"], 2),
            (&["--pattern", "[ab]:1"], 2),
            (&["--prefix", "c:"], 1),
            (&["--tag", "t", "v"], 3),
        ] {
            fill();
            let command = [&["invalidate"], selector].concat();
            let preview = place.json(0, &[&command[..], &["--dry-run"]].concat());
            assert_eq!(preview, json!({"invalidated": count, "dry_run": true}), "{selector:?}");
            assert_eq!(keys(&[]).len(), 4);
            assert_eq!(
                place.json(0, &command),
                json!({"invalidated": count, "dry_run": false}),
                "{selector:?}"
            );
            assert_eq!(keys(&[]).len() as u64, 4 - count, "{selector:?}");
        }
        fill();
        assert_eq!(place.json(0, &["clear", "--namespace", "a"])["invalidated"], json!(2));
        assert_eq!(place.json(0, &["clear"])["invalidated"], json!(2));
        assert!(keys(&[]).is_empty());
    }
}

#[test]
fn what_is_no_key_or_selector_is_refused_before_anybody_is_asked() {
    let hifz = Hifz::new();
    for arguments in [
        &["get", ""][..],
        &["get", ":a"],
        &["set", "a\n", "v"],
        &["set", "quran:surah:1", "forged"],
        &["get", "user:7:bookmarks"],
        &["set", "a:1", "v", "--ttl", "0"],
        &["set", "a:1", "v", "--ttl", "soon"],
        &["set", "a:1", "v", "--tags", "x,,y"],
        &["keys", "--namespace", "a:b"],
        &["keys", "--pattern", "["],
        &["invalidate"],
        &["invalidate", "--key", "a:1", "--prefix", "a"],
        &["invalidate", "--prefix", ""],
        &["invalidate", "--tag", "a,b"],
        &["clear", "--namespace", ""],
    ] {
        let outcome = hifz.run(arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {outcome:?}");
    }
    let nowhere = hifz.run(&["get", "a:1"]);
    assert_eq!(nowhere.code, 1, "{nowhere:?}");
    assert!(nowhere.err.contains("no data directory"), "{nowhere:?}");
    assert!(!hifz.path().join("hifz-data").exists(), "a slip makes no directory");
}

#[test]
fn what_was_set_without_a_server_is_there_when_one_starts() {
    let [place, alone] = Place::both();
    drop(place);
    // The first start of a server settles how keys are made, and begins cold.
    assert_eq!(Server::start(&alone.hifz.path().join("hifz-data")).terminate(), 0);
    alone.run(0, &["set", "a:1", "kept", "--ttl", "1h"]);
    alone.run(0, &["set", "a:2", "gone"]);
    alone.run(0, &["delete", "a:2"]);
    let server = Server::start(&alone.hifz.path().join("hifz-data"));
    assert_eq!(server.admin("GET", "/admin/v1/entries/a:1", b"").body, b"kept");
    assert_eq!(server.admin("GET", "/admin/v1/entries/a:2", b"").status, 404);
}

#[test]
fn with_json_the_result_says_whom_it_is_of_and_a_failure_is_one_object_alone() {
    let hifz = Hifz::new();
    let outcome = hifz.run(&["clear", "--json"]);
    assert_eq!(outcome.code, 1, "no directory yet: {outcome:?}");
    std::fs::create_dir(hifz.path().join("hifz-data")).expect("a directory");
    for (arguments, code) in [
        (&["set", "a:1", "x", "--json"][..], 0),
        (&["keys", "--json"], 0),
        (&["get", "a:1", "--json"], 0),
        (&["exists", "a:2", "--json"], 1),
    ] {
        let outcome = hifz.run(arguments);
        assert_eq!((outcome.code, outcome.err.as_str()), (code, ""), "{outcome:?}");
        let said: serde_json::Value = serde_json::from_str(&outcome.out).expect("JSON");
        assert!(
            said["via"].as_str().is_some_and(|via| via.starts_with("directly, no server runs on")),
            "{said}"
        );
    }
    let outcome = hifz.run(&["get", "a:2", "--json"]);
    let failure: serde_json::Value = serde_json::from_str(&outcome.err).expect("one object");
    assert_eq!((outcome.code, failure["error"].as_str()), (1, Some("NOT_FOUND")));
}
