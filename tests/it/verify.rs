//! `hifz verify` and `POST /admin/v1/verify`: what they say of sound stores and of damaged ones, through a running server
//! and without one, and how they end.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::tempdir;

use crate::common::Server;

const NEEDLE: &str = "a value that stands nowhere else in these files";

/// `hifz verify` with more arguments: its exit code, what it printed, and what it noted beside.
fn verify(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hifz"))
        .arg("verify")
        .args(arguments)
        .arg("--data-dir")
        .arg(directory)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn verify_json(directory: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = verify(directory, &[arguments, &["--json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}")))
}

/// Changes a byte of every place in `file` where `needle` stands.
fn damage(file: &Path, needle: &[u8]) {
    let mut bytes = fs::read(file).unwrap();
    let places: Vec<usize> = bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "nothing to damage in {}", file.display());
    for at in places {
        bytes[at + needle.len() / 2] ^= 1;
    }
    fs::write(file, bytes).unwrap();
}

/// A directory with entries and a surah in its cache, and nothing running.
fn filled() -> tempfile::TempDir {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for number in 0..20 {
        let path = format!("/admin/v1/entries/notes:{number}");
        assert_eq!(server.admin("PUT", &path, format!("{NEEDLE} {number}").as_bytes()).status, 201);
    }
    server.get("/api/v1/surahs/108");
    assert_eq!(server.terminate(), 0);
    directory
}

#[test]
fn sound_stores_are_said_to_be_sound_with_and_without_a_server() {
    let directory = filled();
    let (code, found) = verify_json(directory.path(), &[]);
    assert_eq!((code, &found["sound"]), (0, &Value::Bool(true)), "{found}");
    let files: Vec<&str> =
        found["pages"].as_array().unwrap().iter().map(|page| page["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["cache.redb", "cache-truth.redb", "content.redb"], "every page, where nothing runs");
    assert_eq!(found["cache"]["records"], 21);
    let server = Server::start(directory.path());
    let (code, found) = verify_json(directory.path(), &[]);
    assert_eq!((code, &found["sound"], &found["cache"]["records"]), (0, &true.into(), &21.into()), "{found}");
    assert!(found["pages"].is_null() && found["via"].as_str().unwrap().contains("server"), "{found}");
    let (code, out, err) = verify(directory.path(), &[]);
    assert_eq!(code, 0);
    assert!(out.contains("21 records are sound") && out.contains("0 damaged"), "{out}");
    assert!(err.contains("verifying"), "{err}");
    let lines = server.admin("POST", "/admin/v1/verify?progress=true", b"");
    assert_eq!(lines.status, 200);
    let lines: Vec<Value> = String::from_utf8(lines.body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.last().unwrap()["sound"], true);
    assert!(lines[..lines.len() - 1].iter().all(|line| line["done"].is_u64() && line["total"] == 21));
    assert_eq!(server.send("POST", "/admin/v1/verify", &[], b"").status, 401);
}

#[test]
fn damaged_records_are_found_and_removed_by_the_server_and_then_all_is_sound() {
    let directory = filled();
    damage(&directory.path().join("cache.redb"), format!("{NEEDLE} 7").as_bytes());
    let server = Server::start(directory.path());
    let (code, found) = verify_json(directory.path(), &[]);
    assert_eq!((code, &found["sound"]), (1, &false.into()), "{found}");
    assert_eq!((&found["cache"]["records"], &found["cache"]["damaged"]), (&20.into(), &1.into()), "{found}");
    assert_eq!(server.admin("GET", "/admin/v1/entries/notes:7", b"").status, 404);
    assert_eq!(server.admin("GET", "/admin/v1/entries/notes:8", b"").status, 200);
    let (code, found) = verify_json(directory.path(), &[]);
    assert_eq!((code, &found["sound"]), (0, &true.into()), "{found}");
}

#[test]
fn a_damaged_surah_is_refused_found_and_restored_while_the_server_runs() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let right = server.get("/api/v1/surahs/108").json();
    assert_eq!(server.terminate(), 0);
    let needle = right["ayahs"][2]["text"].as_str().unwrap().as_bytes().to_vec();
    damage(&directory.path().join("content.redb"), &needle);
    // Or the copy in the cache would answer.
    for name in ["cache.redb", "cache-truth.redb"] {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    let server = Server::start(directory.path());
    let refused = server.get("/api/v1/surahs/108");
    assert_eq!((refused.status, &refused.json()["code"]), (500, &"CONTENT_DAMAGED".into()));
    assert_eq!(server.get("/api/v1/surahs/109").status, 200, "the others are served");
    let health = server.get("/api/v1/health").json();
    assert_eq!(
        (&health["status"], &health["components"]["content"]["status"]),
        (&"degraded".into(), &"degraded".into())
    );
    assert!(health["components"]["content"]["reason"].as_str().unwrap().contains("surah/108"), "{health}");
    let (code, out, _) = verify(directory.path(), &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("surah/108: damaged") && out.contains("verify --repair"), "{out}");
    let (code, found) = verify_json(directory.path(), &["--repair"]);
    assert_eq!((code, &found["content"]["restored"][0]), (0, &"surah/108".into()), "{found}");
    assert_eq!(server.get("/api/v1/surahs/108").json(), right);
    assert_eq!(server.get("/api/v1/health").json()["status"], "ok");
    assert_eq!(verify_json(directory.path(), &[]).0, 0);
}

#[test]
fn damaged_bookmarks_are_refused_until_their_user_puts_them_anew() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let token = crate::users::token(directory.path(), "amina");
    let path = "/api/v1/users/amina/bookmarks";
    let list = format!(r#"{{"bookmarks":[{{"surah":2,"ayah":255,"note":"{NEEDLE}"}}]}}"#);
    assert_eq!(crate::users::ask(&server, &token, "PUT", path, &list).status, 201);
    assert_eq!(server.terminate(), 0);
    damage(&directory.path().join("content.redb"), NEEDLE.as_bytes());
    for name in ["cache.redb", "cache-truth.redb"] {
        fs::remove_file(directory.path().join(name)).unwrap();
    }
    let server = Server::start(directory.path());
    let refused = crate::users::ask(&server, &token, "GET", path, "");
    assert_eq!((refused.status, &refused.json()["code"]), (500, &"CONTENT_DAMAGED".into()));
    let (code, out, _) = verify(directory.path(), &["--repair"]);
    assert_eq!(code, 1, "nobody built them in: {out}");
    assert!(!out.contains("amina"), "{out}");
    let added = crate::users::ask(&server, &token, "PUT", &format!("{path}/1:1"), "");
    assert_eq!(
        (added.status, &added.json()["code"]),
        (500, &"CONTENT_DAMAGED".into()),
        "nothing is lost by adding"
    );
    assert!(crate::users::ask(&server, &token, "PUT", path, r#"{"bookmarks":[]}"#).status < 300);
    assert_eq!(crate::users::ask(&server, &token, "GET", path, "").status, 200);
    assert_eq!(verify_json(directory.path(), &[]).0, 0);
}
