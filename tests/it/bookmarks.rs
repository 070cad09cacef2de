//! Bookmarks: what is kept, what is refused, what survives, and what nobody else ever sees.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{Reply, Server};
use crate::users::{ask, token};

const AMINA: &str = "/api/v1/users/amina/bookmarks";

/// A server and a token of amina's.
fn amina(directory: &Path) -> (Server, String) {
    let server = Server::start(directory);
    let token = token(directory, "amina");
    (server, token)
}

fn pairs(list: &Value) -> Vec<(u64, u64)> {
    let bookmarks = list["bookmarks"].as_array().unwrap();
    bookmarks.iter().map(|one| (one["surah"].as_u64().unwrap(), one["ayah"].as_u64().unwrap())).collect()
}

fn conditional(
    server: &Server,
    token: &str,
    (method, path): (&str, &str),
    header: (&str, &str),
    body: &str,
) -> Reply {
    let authorization = format!("Bearer {token}");
    server.send(method, path, &[("Authorization", &authorization), header], body.as_bytes())
}

#[test]
fn bookmarks_are_made_changed_read_through_the_cache_and_deleted() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    let empty = ask(&server, &token, "GET", AMINA, "");
    assert_eq!((empty.status, empty.json()), (200, json!({"bookmarks": []})));
    assert!(empty.header("last-modified").is_none());
    assert!(empty.header("cache-control").unwrap().starts_with("private"));

    let one = format!("{AMINA}/2:255");
    let made = ask(&server, &token, "PUT", &one, r#"{"note":"the throne"}"#);
    assert_eq!((made.status, &made.json()["note"]), (201, &json!("the throne")));
    assert_eq!(ask(&server, &token, "PUT", &format!("{AMINA}/1:1"), "").status, 201);
    let first = ask(&server, &token, "GET", AMINA, "");
    assert_eq!(pairs(&first.json()), [(2, 255), (1, 1)]);
    assert!(first.cache_status().starts_with("hifz; fwd=miss"), "{}", first.cache_status());
    assert!(ask(&server, &token, "GET", AMINA, "").is_hit());

    let changed = ask(&server, &token, "PUT", &one, "{}");
    assert_eq!((changed.status, changed.json().get("note")), (200, None));
    assert_eq!(changed.json()["created_at"], made.json()["created_at"]);
    let after = ask(&server, &token, "GET", AMINA, "");
    assert_eq!(pairs(&after.json()), [(2, 255), (1, 1)], "the place in the list is kept");

    assert_eq!(ask(&server, &token, "DELETE", &one, "").status, 204);
    assert_eq!(ask(&server, &token, "DELETE", &one, "").status, 404);
    assert_eq!(pairs(&ask(&server, &token, "GET", AMINA, "").json()), [(1, 1)]);
    assert_eq!(ask(&server, &token, "DELETE", AMINA, "").status, 204);
    assert_eq!(ask(&server, &token, "GET", AMINA, "").json(), json!({"bookmarks": []}));
}

#[test]
fn a_list_takes_what_it_gives_keeps_its_order_and_its_dates() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    let list = json!({"bookmarks": [
        {"surah": 114, "ayah": 6, "note": "آخر \"quoted\"\n", "colour": "ignored"},
        {"surah": 1, "ayah": 1, "created_at": "1999-01-01T00:00:00.000Z"},
    ]});
    let made = ask(&server, &token, "PUT", AMINA, &list.to_string());
    assert_eq!((made.status, made.header("content-location")), (201, Some(AMINA)));
    let read = ask(&server, &token, "GET", AMINA, "");
    assert_eq!((&read.body, read.header("etag")), (&made.body, made.header("etag")));
    assert_eq!(read.header("last-modified"), made.header("last-modified"));
    let kept = read.json();
    assert_eq!(kept["bookmarks"][0]["note"], list["bookmarks"][0]["note"]);
    assert!(
        kept["bookmarks"][1]["created_at"].as_str().unwrap() > "2020",
        "created_at is never taken from outside"
    );

    let mut turned = kept.clone();
    turned["bookmarks"].as_array_mut().unwrap().reverse();
    assert_eq!(ask(&server, &token, "PUT", AMINA, &turned.to_string()).status, 200);
    assert_eq!(ask(&server, &token, "GET", AMINA, "").json(), turned);
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_place_and_changes_nothing() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    ask(&server, &token, "PUT", AMINA, r#"{"bookmarks":[{"surah":2,"ayah":255}]}"#);
    let before = ask(&server, &token, "GET", AMINA, "");
    let long = "é".repeat(1001);
    let many: Vec<Value> = (0..10_001).map(|_| json!({"surah": 1, "ayah": 1})).collect();
    for (list, place) in [
        (json!({"bookmarks": [{"surah": 0, "ayah": 1}]}), "bookmarks[0].surah"),
        (json!({"bookmarks": [{"surah": 115, "ayah": 1}]}), "bookmarks[0].surah"),
        (json!({"bookmarks": [{"surah": 1, "ayah": 8}]}), "bookmarks[0].ayah"),
        (json!({"bookmarks": [{"surah": 1, "ayah": 0}]}), "bookmarks[0].ayah"),
        (json!({"bookmarks": [{"surah": 1}]}), "bookmarks[0].ayah"),
        (json!({"bookmarks": [{"surah": "1", "ayah": 1}]}), "bookmarks[0].surah"),
        (json!({"bookmarks": [{"surah": 1, "ayah": 1}, {"surah": 1, "ayah": 1}]}), "bookmarks[1]"),
        (json!({"bookmarks": [{"surah": 1, "ayah": 1, "note": long}]}), "bookmarks[0].note"),
        (json!({"bookmarks": [{"surah": 1, "ayah": 1, "note": "\u{0}"}]}), "bookmarks[0].note"),
        (json!({"bookmarks": [{"surah": 1, "ayah": 1, "note": 7}]}), "bookmarks[0].note"),
        (json!({"bookmarks": many}), "bookmarks"),
        (json!({"bookmarks": {}}), "bookmarks"),
        (json!({}), "bookmarks"),
    ] {
        let reply = ask(&server, &token, "PUT", AMINA, &list.to_string());
        let problem = reply.json();
        assert_eq!((reply.status, &problem["code"]), (422, &json!("DOCUMENT_INVALID")), "{problem}");
        assert_eq!(problem["place"], json!(place), "{problem}");
    }
    for (path, body) in [
        ("2:287", "{}"),
        ("115:1", "{}"),
        ("02:1", "{}"),
        ("x", "{}"),
        ("1:1", r#"{"surah":2}"#),
        ("1:1", "["),
    ] {
        let reply = ask(&server, &token, "PUT", &format!("{AMINA}/{path}"), body);
        assert_eq!(reply.status, 422, "{path} {body}: {}", reply.json());
    }
    let after = ask(&server, &token, "GET", AMINA, "");
    assert!(after.is_hit() && after.body == before.body);
    let note = json!({"bookmarks": [{"surah": 1, "ayah": 1, "note": "é".repeat(1000)}]});
    assert_eq!(ask(&server, &token, "PUT", AMINA, &note.to_string()).status, 200);
}

#[test]
fn ten_thousand_are_kept_and_one_more_is_not() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    let counts: Vec<u64> = server.get("/api/v1/surahs").json()["surahs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|surah| surah["ayah_count"].as_u64().unwrap())
        .collect();
    let every =
        (1..=114_u64).zip(counts).flat_map(|(surah, count)| (1..=count).map(move |ayah| (surah, ayah)));
    // The Quran has 6236: the limit lies above what can be kept at all, and the whole is well within it.
    let all: Vec<Value> =
        every.map(|(surah, ayah)| json!({"surah": surah, "ayah": ayah, "note": "x".repeat(100)})).collect();
    assert_eq!(all.len(), 6236);
    assert_eq!(ask(&server, &token, "PUT", AMINA, &json!({"bookmarks": all}).to_string()).status, 201);
    let read = ask(&server, &token, "GET", AMINA, "");
    assert_eq!(pairs(&read.json()).len(), 6236);
    assert_eq!(ask(&server, &token, "DELETE", &format!("{AMINA}/114:6"), "").status, 204);
}

#[test]
fn a_change_made_from_an_older_state_is_refused() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    let list = |ayah: u64| json!({"bookmarks": [{"surah": 2, "ayah": ayah}]}).to_string();
    let empty = ask(&server, &token, "GET", AMINA, "").header("etag").unwrap().to_owned();
    assert_eq!(conditional(&server, &token, ("PUT", AMINA), ("If-None-Match", "*"), &list(1)).status, 201);
    assert_eq!(conditional(&server, &token, ("PUT", AMINA), ("If-None-Match", "*"), &list(2)).status, 412);
    assert_eq!(conditional(&server, &token, ("PUT", AMINA), ("If-Match", &empty), &list(2)).status, 412);
    let etag = ask(&server, &token, "GET", AMINA, "").header("etag").unwrap().to_owned();
    let second = conditional(&server, &token, ("PUT", AMINA), ("If-Match", &etag), &list(2));
    assert_eq!(second.status, 200);
    let stale = conditional(&server, &token, ("PUT", AMINA), ("If-Match", &etag), &list(3));
    assert_eq!((stale.status, &stale.json()["code"]), (412, &json!("PRECONDITION_FAILED")));
    for (method, path) in
        [("DELETE", AMINA), ("DELETE", &*format!("{AMINA}/2:2")), ("PUT", &*format!("{AMINA}/2:3"))]
    {
        assert_eq!(
            conditional(&server, &token, (method, path), ("If-Match", &etag), "").status,
            412,
            "{method} {path}"
        );
    }
    // Both states fall within one second, or nearly: then the date names neither of them.
    let date = second.header("last-modified").unwrap().to_owned();
    let by_date = conditional(
        &server,
        &token,
        ("PUT", AMINA),
        ("If-Unmodified-Since", "Thu, 01 Jan 2015 00:00:00 GMT"),
        &list(4),
    );
    assert_eq!(by_date.status, 412);
    let etag = second.header("etag").unwrap();
    assert_eq!(conditional(&server, &token, ("GET", AMINA), ("If-None-Match", etag), "").status, 304);
    assert_eq!(
        conditional(&server, &token, ("PUT", &format!("{AMINA}/2:3")), ("If-Match", etag), "").status,
        201
    );
    assert_eq!(
        conditional(&server, &token, ("PUT", &format!("{AMINA}/2:3")), ("If-None-Match", "*"), "").status,
        412
    );
    assert_eq!(
        conditional(&server, &token, ("PUT", &format!("{AMINA}/2:9")), ("If-Match", "*"), "").status,
        412
    );
    assert!(httpdate_like(&date));
}

fn httpdate_like(date: &str) -> bool {
    date.len() == 29 && date.ends_with(" GMT")
}

#[test]
fn of_many_changes_from_one_state_exactly_one_is_taken() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    let mut etag = ask(&server, &token, "GET", AMINA, "").header("etag").unwrap().to_owned();
    for round in 0..5 {
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let writers: Vec<_> = (1..=6_u64)
                .map(|writer| {
                    let (server, token, etag) = (&server, &token, &etag);
                    let list = json!({"bookmarks": [{"surah": 2, "ayah": writer + round * 6}]}).to_string();
                    scope.spawn(move || {
                        conditional(server, token, ("PUT", AMINA), ("If-Match", etag), &list).status
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let kept = statuses.iter().filter(|status| **status < 300).count();
        let refused = statuses.iter().filter(|status| **status == 412).count();
        assert_eq!((kept, refused), (1, 5), "{statuses:?}");
        etag = ask(&server, &token, "GET", AMINA, "").header("etag").unwrap().to_owned();
    }
}

#[test]
fn single_bookmarks_of_many_devices_are_all_kept() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    std::thread::scope(|scope| {
        for device in 0..4_u64 {
            let (server, token) = (&server, &token);
            scope.spawn(move || {
                for ayah in 1..=10_u64 {
                    let path = format!("{AMINA}/2:{}", device * 10 + ayah);
                    assert_eq!(ask(server, token, "PUT", &path, "").status, 201);
                    let seen = ask(server, token, "GET", AMINA, "").json();
                    assert!(pairs(&seen).contains(&(2, device * 10 + ayah)), "an own write is always seen");
                }
            });
        }
    });
    assert_eq!(pairs(&ask(&server, &token, "GET", AMINA, "").json()).len(), 40);
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_what_was_deleted_stays_deleted() {
    let directory = tempdir().unwrap();
    let (mut server, token) = amina(directory.path());
    for round in 1..=4_u64 {
        let path = format!("{AMINA}/2:{round}");
        assert_eq!(ask(&server, &token, "PUT", &path, r#"{"note":"n"}"#).status, 201);
        server.kill();
        server = Server::start(directory.path());
        let list = ask(&server, &token, "GET", AMINA, "").json();
        assert!(pairs(&list).contains(&(2, round)), "round {round}: {list}");
        if round == 2 {
            // Kept on disk as a cache entry too, and then deleted.
            assert_eq!(ask(&server, &token, "DELETE", &format!("{AMINA}/2:1"), "").status, 204);
            server.kill();
            server = Server::start(directory.path());
            assert_eq!(pairs(&ask(&server, &token, "GET", AMINA, "").json()), [(2, 2)]);
        }
    }
    assert_eq!(server.admin("DELETE", "/admin/v1/users/amina", b"").status, 204);
    server.kill();
    let server = Server::start(directory.path());
    assert_eq!(ask(&server, &token, "GET", AMINA, "").json(), json!({"bookmarks": []}));
    assert_eq!(server.admin("DELETE", "/admin/v1/users/amina", b"").status, 204, "it can be repeated");
}

#[test]
fn no_raw_user_id_stands_in_the_cache_the_log_or_an_error() {
    let directory = tempdir().unwrap();
    let user = "zaynab.unmistakable@example.org";
    let log = directory.path().join("log");
    let server = Server::launch(directory.path(), &["--log", "trace"], &[], File::create(&log).unwrap());
    let token = token(directory.path(), user);
    let base = format!("/api/v1/users/{user}/bookmarks");
    let mut said = Vec::new();
    for (method, path, body) in [
        ("PUT", base.clone(), r#"{"bookmarks":[{"surah":2,"ayah":255,"note":"a note"}]}"#),
        ("GET", base.clone(), ""),
        ("GET", base.clone(), ""),
        ("PUT", format!("{base}/1:1"), ""),
        ("PUT", format!("{base}/1:99"), ""),
        ("PUT", base.clone(), "["),
        ("DELETE", format!("{base}/3:3"), ""),
        ("POST", base.clone(), ""),
        ("GET", format!("{base}/nothing/here"), ""),
        ("GET", format!("/api/v1/Users/{user}"), ""),
        ("GET", base.clone(), ""),
    ] {
        let reply = ask(&server, &token, method, &path, body);
        if reply.status >= 400 {
            said.extend(reply.body);
        }
    }
    said.extend(server.get("/metrics").body);
    said.extend(server.admin("GET", "/admin/v1/stats", b"").body);
    let other = ask(&server, "wrong", "GET", &base, "");
    said.extend(other.body);
    said.extend(server.admin("GET", &format!("/admin/v1/users/{user}"), b"").body);
    assert_eq!(server.terminate(), 0);
    let server = Server::start(directory.path());
    assert!(ask(&server, &token, "GET", &base, "").is_hit());
    let name = "unmistakable";
    assert!(!String::from_utf8_lossy(&said).contains(name), "{}", String::from_utf8_lossy(&said));
    assert_eq!(server.terminate(), 0);
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() && !path.ends_with("content.redb") {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(name.len()).any(|window| window == name.as_bytes());
            assert!(!found, "{} names the user", path.display());
            let found = bytes.windows(token.len()).any(|window| window == token.as_bytes());
            assert!(!found, "{} holds the token", path.display());
        }
    }
}

fn hifz(arguments: &[&str], directory: &Path, data: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .current_dir(directory)
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[test]
fn a_backup_with_bookmarks_brings_them_back_as_they_were_and_one_without_leaves_them_alone() {
    let directory = tempdir().unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    std::fs::create_dir_all(&first).unwrap();
    std::fs::create_dir_all(&second).unwrap();
    let (server, amina) = amina(&first);
    let bilal = token(&first, "bilal/../x آ");
    let his = "/api/v1/users/bilal%2F..%2Fx%20%D8%A2/bookmarks";
    ask(
        &server,
        &amina,
        "PUT",
        AMINA,
        r#"{"bookmarks":[{"surah":2,"ayah":255,"note":"n\"ote"},{"surah":1,"ayah":1}]}"#,
    );
    assert_eq!(ask(&server, &bilal, "PUT", &format!("{his}/3:3"), "").status, 201);
    let before = [ask(&server, &amina, "GET", AMINA, ""), ask(&server, &bilal, "GET", his, "")];
    hifz(&["export", "hot.tgz", "--bookmarks"], directory.path(), &first);
    hifz(&["export", "plain.tgz"], directory.path(), &first);
    assert_eq!(server.terminate(), 0);

    // Another directory with another key: the users are the same, their tokens are not.
    let server = Server::start(&second);
    let zayd = token(&second, "zayd");
    assert_eq!(ask(&server, &zayd, "PUT", "/api/v1/users/zayd/bookmarks/1:1", "").status, 201);
    hifz(&["import", "plain.tgz"], directory.path(), &second);
    assert_eq!(pairs(&ask(&server, &zayd, "GET", "/api/v1/users/zayd/bookmarks", "").json()), [(1, 1)]);
    let said = hifz(&["import", "hot.tgz"], directory.path(), &second);
    assert!(said.contains("bookmarks of 2 users"), "{said}");
    assert!(pairs(&ask(&server, &zayd, "GET", "/api/v1/users/zayd/bookmarks", "").json()).is_empty());
    let (amina, bilal) = (token(&second, "amina"), token(&second, "bilal/../x آ"));
    let after = [ask(&server, &amina, "GET", AMINA, ""), ask(&server, &bilal, "GET", his, "")];
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.body, before.header("etag")), (&after.body, after.header("etag")));
        assert_eq!(before.header("last-modified"), after.header("last-modified"));
    }
    let again = hifz(&["import", "hot.tgz"], directory.path(), &second);
    assert!(again.contains("0 surahs") && !again.contains("users changed"), "{again}");
    hifz(&["export", "again.tgz", "--bookmarks"], directory.path(), &second);
    assert_eq!(
        std::fs::read(directory.path().join("hot.tgz")).unwrap(),
        std::fs::read(directory.path().join("again.tgz")).unwrap()
    );
}

#[test]
fn a_page_of_another_origin_may_use_its_own_token_and_never_a_cookie() {
    let directory = tempdir().unwrap();
    let (server, token) = amina(directory.path());
    let asked = [("Origin", "http://x"), ("Access-Control-Request-Method", "PUT")];
    let preflight = server.send("OPTIONS", AMINA, &asked, b"");
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("PUT"));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    for reply in [preflight, ask(&server, &token, "GET", AMINA, ""), server.get(AMINA)] {
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
    }
}
