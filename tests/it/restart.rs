//! What survives the end of the process, however it ends.

use serde_json::json;
use tempfile::tempdir;

use crate::common::{self, Server, eventually};

/// Asks for a surah and waits until the disk tier has written it.
fn settle(server: &Server, path: &str) {
    server.get(path);
    let explain = path.replace("/api/v1/surahs/", "/admin/v1/explain/quran:surah:");
    eventually("its writing", || {
        let explained = server.admin("GET", &explain, b"").json();
        (explained["disk"]["is_queued"] == json!(false)).then_some(())
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
fn what_was_set_before_any_server_ran_is_there_when_the_first_one_does() {
    let directory = tempdir().unwrap();
    let set = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(["set", "notes:1", "kept", "--data-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let server = Server::start(directory.path());
    let found = server.admin("GET", "/admin/v1/entries/notes:1", b"");
    assert_eq!((found.status, found.body.as_slice()), (200, b"kept".as_slice()));
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

#[test]
fn a_change_whose_invalidation_a_crash_prevented_is_finished_by_the_next_start() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    settle(&server, "/api/v1/surahs/112");
    settle(&server, "/api/v1/surahs/1");
    let mut surah = server.get("/api/v1/surahs/112").json();
    assert_eq!(server.terminate(), 0);
    // What a crash right after the content's transaction leaves behind: the row, its outbox line, and the old entry.
    surah["ayahs"][0]["text"] = json!("written before the crash");
    let clock = hifz::clock::Clock::system();
    let store = hifz::content::Store::open(&directory.path().join("content.redb"), clock).unwrap();
    let number = hifz::keys::SurahNumber::new(112).unwrap();
    store.put_surah(number, surah.to_string().as_bytes(), None).unwrap();
    assert_eq!(store.pending_changes().unwrap().len(), 1);
    drop(store);

    let server = Server::start(directory.path());
    let after = server.get("/api/v1/surahs/112");
    assert!(!after.is_hit());
    assert_eq!(after.json()["ayahs"][0]["text"], json!("written before the crash"));
    assert!(server.get("/api/v1/surahs/1").is_hit());
}

#[test]
fn kill_9_at_any_moment_around_a_change_never_leaves_an_older_text_than_was_acknowledged() {
    let directory = tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=30_u32 {
        // On a busy machine it may take more of them until something was acknowledged.
        if round > 6 && acknowledged > 0 {
            break;
        }
        let server = Server::start(directory.path());
        let shown = server.get("/api/v1/surahs/112").json();
        let text = shown["ayahs"][0]["text"].as_str().unwrap().to_owned();
        // On a busy machine the first kills may fall before any change: then it is the built-in text, older than all.
        let standing = text.parse::<u32>().unwrap_or(0);
        assert!(standing >= acknowledged, "{text} after {acknowledged} was acknowledged");
        // A reader keeps the entry in the cache while a writer changes it; the kill falls somewhere between.
        let (source_address, target_address) = (server.address.clone(), server.address.clone());
        let token = server.token.clone();
        let readers = std::thread::spawn(move || {
            while common::try_send(&source_address, "GET", "/api/v1/surahs/112", "", b"").is_some() {}
        });
        let changes = std::thread::spawn(move || {
            let (mut last, mut document) = (0, shown);
            for number in round * 1000.. {
                document["ayahs"][0]["text"] = json!(number.to_string());
                let body = document.to_string();
                let status =
                    common::try_send(&target_address, "PUT", "/admin/v1/surahs/112", &token, body.as_bytes());
                if status != Some(200) {
                    break;
                }
                last = number;
            }
            last
        });
        std::thread::park_timeout(std::time::Duration::from_millis(u64::from(120 + 37 * round)));
        server.kill();
        readers.join().unwrap();
        acknowledged = changes.join().unwrap().max(acknowledged);
    }
    assert!(acknowledged > 0);
}

#[test]
fn nothing_is_acknowledged_into_a_content_store_that_has_lost_its_place() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let surah = server.get("/api/v1/surahs/112");
    std::fs::remove_file(directory.path().join("content.redb")).unwrap();
    let put = server.admin("PUT", "/admin/v1/surahs/112", &surah.body);
    assert_eq!((put.status, &put.json()["code"]), (503, &json!("DISK_FAILED")));
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
    assert_eq!(server.get("/api/v1/health").json()["components"]["content"]["status"], json!("degraded"));
}
