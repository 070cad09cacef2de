//! Warming the binary: at the start, by schedule, by request and by command.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{Server, eventually};

fn lines(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn after_the_start_the_well_read_surahs_and_every_list_are_warm() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--warm-on-start", "true"]);
    eventually("the warming", || directory.path().join("hifz.warm").exists().then_some(()));
    for path in ["/api/v1/surahs", "/api/v1/surahs/36", "/api/v1/reciters", "/api/v1/translations"] {
        assert!(server.get(path).is_hit(), "{path}");
    }
    assert!(!server.get("/api/v1/surahs/3").is_hit());
}

#[test]
fn a_warming_on_request_tells_each_key_and_ends_with_a_summary_and_costs_nothing_twice() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let reply = server.admin("POST", "/admin/v1/warm", br#"{"only":["reciters","translations"]}"#);
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/x-ndjson")));
    let told = lines(&reply.body);
    assert_eq!(told[0]["done"], 1);
    assert_eq!((told[0]["total"].clone(), told.len()), (json!(2), 3));
    let summary = told.last().unwrap();
    assert_eq!(
        (&summary["summary"], &summary["loaded"], &summary["failed"]),
        (&json!(true), &json!(2), &json!(0))
    );
    assert!(server.get("/api/v1/reciters").is_hit() && !server.get("/api/v1/surahs/1").is_hit());
    let again = lines(&server.admin("POST", "/admin/v1/warm", br#"{"only":["reciters"]}"#).body);
    assert_eq!((&again[1]["loaded"], &again[1]["fresh"]), (&json!(0), &json!(1)));
    let refused = server.admin("POST", "/admin/v1/warm", br#"{"only":["verses"]}"#);
    assert_eq!((refused.status, refused.json()["place"].as_str()), (422, Some("only")));
    let authorization = format!("Bearer {}", server.token);
    let headers = [("Authorization", authorization.as_str()), ("Accept", "text/event-stream")];
    let events = server.send("POST", "/admin/v1/warm", &headers, b"");
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    let text = String::from_utf8(events.body).unwrap();
    assert!(text.contains("event: progress\ndata: {") && text.contains("event: summary\ndata: {"), "{text}");
    assert_eq!(server.send("POST", "/admin/v1/warm", &[], b"").status, 401);
}

#[test]
fn what_is_read_most_is_warmed_and_remembered_over_a_restart() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for _ in 0..200 {
        assert_eq!(server.get("/api/v1/surahs/77").status, 200);
    }
    assert_eq!(server.terminate(), 0);
    let server = Server::start_with(directory.path(), &["--disk", "0"]);
    let told = lines(&server.admin("POST", "/admin/v1/warm", b"").body);
    assert!(told.iter().any(|line| line["key"] == "quran:surah:77"), "{told:?}");
    assert!(server.get("/api/v1/surahs/77").is_hit());
}

#[test]
fn a_run_that_was_missed_is_made_up_once() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("hifz.warm"), r#"{"last_run_ms":1000}"#).unwrap();
    // Seldom, so that none is due while this runs.
    let flags = ["--warm-schedule", "0 1 29 2 *"];
    let server = Server::start_with(directory.path(), &flags);
    eventually("the missed run", || server.get("/api/v1/surahs/55").is_hit().then_some(()));
    let kept = || -> Value {
        serde_json::from_slice(&std::fs::read(directory.path().join("hifz.warm")).unwrap()).unwrap()
    };
    let run = eventually("its note", || kept()["last_run_ms"].as_u64().filter(|at| *at > 1000));
    assert_eq!(server.terminate(), 0);
    let server = Server::start_with(directory.path(), &flags);
    assert_eq!(server.get("/api/v1/surahs").status, 200);
    assert_eq!(server.terminate(), 0);
    assert_eq!(kept()["last_run_ms"].as_u64(), Some(run));
}

#[test]
fn the_command_has_the_running_server_warm_and_says_what_it_did() {
    let directory = tempdir().unwrap();
    let warm = |more: &[&str]| {
        let command = ["warm", "--data-dir", directory.path().to_str().unwrap()];
        let output = Command::new(env!("CARGO_BIN_EXE_hifz")).args(command).args(more).output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(warm(&[]).0, Some(1));
    let server = Server::start(directory.path());
    let (code, out, error) = warm(&["--only", "surahs,reciters"]);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(lines(&out).last().unwrap()["loaded"], 12);
    assert!(server.get("/api/v1/surahs/114").is_hit());
    assert_eq!(warm(&["--only", "verses"]).0, Some(2));
}
