//! What survives the end of the process, however it ends.

use serde_json::json;
use tempfile::tempdir;

use crate::common::{Server, eventually};

/// Asks for `path` until the disk tier has had several flush intervals to write it.
fn settle(server: &Server, path: &str) {
    server.get(path);
    let mut rounds = 0;
    eventually("settling", || {
        rounds += 1;
        (rounds > 12).then_some(())
    });
    assert!(server.get(path).is_hit());
}

#[test]
fn a_served_surah_is_a_hit_after_an_orderly_restart() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let before = server.get("/api/v1/surahs/36");
    assert_eq!(server.terminate(), 0);
    let server = Server::start(directory.path());
    let after = server.get("/api/v1/surahs/36");
    assert!(after.is_hit(), "{}", after.cache_status());
    assert_eq!((after.body, &after.headers.len()), (before.body, &before.headers.len()));
}

#[test]
fn a_served_surah_is_a_hit_after_kill_9() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    settle(&server, "/api/v1/surahs/36");
    server.kill();
    let server = Server::start(directory.path());
    assert!(server.get("/api/v1/surahs/36").is_hit());
}

#[test]
fn a_changed_surah_never_comes_back_old_after_kill_9() {
    let directory = tempdir().unwrap();
    for round in 0..5 {
        let server = Server::start(directory.path());
        settle(&server, "/api/v1/surahs/112");
        let mut surah = server.get("/api/v1/surahs/112").json();
        let text = format!("round {round}");
        surah["ayahs"][0]["text"] = json!(text);
        assert_eq!(server.admin("PUT", "/admin/v1/surahs/112", surah.to_string().as_bytes()).status, 200);
        server.kill();
        let server = Server::start(directory.path());
        assert_eq!(server.get("/api/v1/surahs/112").json()["ayahs"][0]["text"], json!(text));
    }
}

#[test]
fn an_acknowledged_namespace_invalidation_survives_kill_9_twice_in_a_row() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    settle(&server, "/api/v1/surahs/36");
    assert_eq!(server.admin("POST", "/admin/v1/namespaces/quran/invalidate", b"").status, 200);
    server.kill();
    Server::start(directory.path()).kill();
    let server = Server::start(directory.path());
    assert!(!server.get("/api/v1/surahs/36").is_hit());
}

#[test]
fn a_second_process_on_the_same_directory_leaves_at_once() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&server.pid().to_string()), "{said}");
    assert_eq!(server.get("/api/v1/surahs/1").status, 200);
}

#[test]
fn a_damaged_cache_file_is_set_aside_and_the_start_is_cold() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    settle(&server, "/api/v1/surahs/36");
    server.kill();
    std::fs::write(directory.path().join("cache.redb"), b"not a database at all").unwrap();
    let server = Server::start(directory.path());
    assert_eq!(server.get("/api/v1/surahs/36").cache_status(), "hifz; fwd=miss; stored");
    assert!(directory.path().join("quarantine").is_dir());
    settle(&server, "/api/v1/surahs/36");
    server.kill();
    assert!(Server::start(directory.path()).get("/api/v1/surahs/36").is_hit());
}
