//! What the doors owe operators: conditions on what is deleted, limits of keys, plain words for malformed bodies, an audit
//! line that says what was meant, and figures of whom they turned away.

use std::fs::File;
use std::net::TcpStream;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::feed::Feed;
use crate::common::origin::{Origin, Step, edge};
use crate::common::{Reply, Server, eventually};
use crate::users::{ask, token};

fn conditional(server: &Server, method: &str, path: &str, (name, value): (&str, &str)) -> Reply {
    let authorization = format!("Bearer {}", server.token);
    server.send(method, path, &[("Authorization", &authorization), (name, value)], b"")
}

fn metric(server: &Server, line: &str) -> f64 {
    // A connection that has just ended may still have its seat.
    let reply = eventually("figures", || Some(server.get("/metrics")).filter(|reply| reply.status == 200));
    let text = String::from_utf8(reply.body).unwrap();
    let found = text.lines().find_map(|own| own.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
}

#[test]
fn a_delete_that_names_a_state_takes_no_other() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let path = "/admin/v1/entries/a:1";
    let since = "If-Unmodified-Since";
    assert_eq!(server.admin("PUT", path, b"first").status, 201);
    let first = server.admin("GET", path, b"").header("etag").unwrap().to_owned();
    assert_eq!(server.admin("PUT", path, b"second").status, 200);
    for condition in [
        ("If-Match", first.as_str()),
        ("If-Match", "W/\"x\""),
        ("If-None-Match", "*"),
        (since, "Mon, 01 Jan 2024 00:00:00 GMT"),
    ] {
        let refused = conditional(&server, "DELETE", path, condition);
        assert_eq!((refused.status, &refused.json()["code"]), (412, &json!("PRECONDITION_FAILED")));
        assert_eq!(server.admin("GET", path, b"").body, b"second", "{condition:?}");
    }
    let second = server.admin("GET", path, b"").header("etag").unwrap().to_owned();
    assert_eq!(conditional(&server, "DELETE", path, ("If-Match", &second)).status, 204);
    assert_eq!(conditional(&server, "DELETE", path, ("If-Match", "*")).status, 412, "nothing is there");
    assert_eq!(server.admin("DELETE", path, b"").status, 404);

    // An entry of built-in content has the tag that its reader was told.
    server.get("/api/v1/surahs/112");
    let path = "/admin/v1/entries/quran:surah:112";
    let etag = server.admin("GET", path, b"").header("etag").unwrap().to_owned();
    assert_eq!(conditional(&server, "DELETE", path, ("If-Match", &first)).status, 412);
    assert_eq!(conditional(&server, "DELETE", path, ("If-Match", &etag)).status, 204);
}

#[test]
fn of_many_deletes_of_one_state_exactly_one_is_taken() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let path = "/admin/v1/entries/a:1";
    for round in 0..10 {
        server.admin("PUT", path, format!("value {round}").as_bytes());
        let etag = server.admin("GET", path, b"").header("etag").unwrap().to_owned();
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let deleting: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| conditional(&server, "DELETE", path, ("If-Match", &etag)).status))
                .collect();
            deleting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [204, 412].contains(status)), "{statuses:?}");
    }
}

#[test]
fn an_erasure_that_names_a_state_takes_no_other() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let amina = token(directory.path(), "amina");
    let bookmark = "/api/v1/users/amina/bookmarks/2:255";
    assert_eq!(ask(&server, &amina, "PUT", bookmark, "").status, 201);
    let erase = "/admin/v1/users/amina";
    assert_eq!(conditional(&server, "DELETE", erase, ("If-Match", "\"x\"")).status, 412);
    let list = |server: &Server| ask(server, &amina, "GET", "/api/v1/users/amina/bookmarks", "").json();
    assert_eq!(list(&server)["bookmarks"].as_array().unwrap().len(), 1);
    assert_eq!(conditional(&server, "DELETE", erase, ("If-Match", "*")).status, 204);
    assert_eq!(list(&server), json!({"bookmarks": []}));
}

#[test]
fn a_key_beyond_the_limit_is_not_written_and_can_be_read_and_forgotten() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let longer = "/admin/v1/entries/a:123456789";
    assert_eq!(server.admin("PUT", longer, b"x").status, 201);
    eventually("its writing", || {
        let stats = server.admin("GET", "/admin/v1/stats", b"").json();
        (stats["disk"]["queued"] == json!(0)).then_some(())
    });
    assert_eq!(server.terminate(), 0);

    let server = Server::start_with(directory.path(), &["--limits-key", "10"]);
    let refused = server.admin("PUT", longer, b"y");
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("KEY_INVALID")));
    assert!(refused.json()["detail"].as_str().unwrap().contains("limits.key"), "{}", refused.json());
    let batch = json!({"entries": {"a:1": 1, "a:123456789": 2}}).to_string();
    let refused = server.admin("POST", "/admin/v1/entries/set", batch.as_bytes());
    assert_eq!((refused.status, &refused.json()["place"]), (422, &json!("entries.a:123456789")));
    assert_eq!(server.admin("GET", "/admin/v1/entries/a:1", b"").status, 404, "all or nothing");
    assert_eq!(server.admin("PUT", "/admin/v1/entries/a:12345678", b"x").status, 201);
    assert_eq!(server.admin("GET", longer, b"").body, b"x");
    assert_eq!(server.get("/api/v1/surahs/112").status, 200, "built-in keys are as long as they are");
    assert_eq!(server.admin("GET", "/admin/v1/entries/quran:surah:112", b"").status, 200);
    assert_eq!(server.admin("DELETE", longer, b"").status, 204);
    let set = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"))
        .args(["set", "a:123456789", "x", "--limits-key", "10", "--data-dir"])
        .arg(directory.path())
        .output();
    let set = set.unwrap();
    assert_eq!(set.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&set.stderr).contains("limits.key"));
}

#[test]
fn a_body_that_is_no_object_and_a_parameter_that_is_no_switch_are_told_in_plain_words() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let amina = token(directory.path(), "amina");
    let plain = |reply: &Reply, status: u16, word: &str| {
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(reply.status == status && detail.contains(word), "{detail}");
        assert!(!detail.contains("struct") && !detail.contains("elements"), "{detail}");
    };
    for route in ["entries/get", "entries/set", "entries/exists", "invalidate"] {
        for body in ["[[\"a:1\"]]", "\"x\"", "5", "null", ""] {
            plain(&server.admin("POST", &format!("/admin/v1/{route}"), body.as_bytes()), 422, "JSON object");
        }
    }
    let list = "/api/v1/users/amina/bookmarks";
    plain(&ask(&server, &amina, "PUT", list, "[[{\"surah\":1,\"ayah\":1}]]"), 422, "JSON object");
    plain(&ask(&server, &amina, "PUT", &format!("{list}/1:1"), "[\"note\"]"), 422, "JSON object");
    plain(&server.admin("PUT", "/admin/v1/surahs/112", b"[112]"), 422, "JSON object");
    let dry = "/admin/v1/namespaces/a/invalidate?dry_run=maybe";
    plain(&server.admin("POST", dry, b""), 400, "neither true nor false");
    plain(&server.get("/api/v1/surahs/%ff"), 400, "UTF-8");
}

#[test]
fn the_audit_line_of_an_invalidation_says_what_it_named() {
    let directory = tempdir().unwrap();
    let log = directory.path().join("log");
    let server =
        Server::launch(directory.path(), &["--log-format", "json"], &[], File::create(&log).unwrap());
    let lengthy = format!("long:{}", "x".repeat(900));
    let asked = [
        (json!({"keys": ["a:1", "a:2"]}), "key a:1 and 1 more"),
        (json!({"pattern": "a:*"}), "pattern a:*"),
        (json!({"prefix": "b:", "dry_run": true}), "pattern b:* (dry run)"),
        (json!({"tags": ["t"]}), "tag t"),
        (json!({"keys": [lengthy]}), "key long:xxx"),
    ];
    for (body, _) in &asked {
        assert_eq!(server.admin("POST", "/admin/v1/invalidate", body.to_string().as_bytes()).status, 200);
    }
    assert_eq!(server.admin("POST", "/admin/v1/namespaces/quran/invalidate", b"").status, 200);
    assert_eq!(server.admin("POST", "/admin/v1/clear", b"").status, 200);
    assert_eq!(server.terminate(), 0);
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<String> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["fields"]["message"] == "admin action")
        .map(|line| line["fields"]["about"].as_str().unwrap_or("nothing").to_owned())
        .collect();
    let expected = asked.iter().map(|(_, about)| *about).chain(["namespace quran", "all"]);
    assert_eq!(lines.len(), asked.len() + 2, "{lines:?}");
    for (line, about) in lines.iter().zip(expected) {
        assert!(line.starts_with(about) && line.chars().count() <= 201, "{line} is not {about}");
    }
}

#[test]
fn an_alert_is_told_as_an_event_when_it_is_raised_and_when_it_is_cleared() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--alerts-min-samples", "20"]);
    let mut feed = Feed::open(&server, "");
    for number in 1..=20 {
        server.get(&format!("/api/v1/surahs/{number}"));
    }
    let raised = "\"alert\":\"hit_ratio_below\",\"state\":\"raised\"";
    feed.until(raised);
    assert!(feed.text.contains("event: alert\n"), "{}", feed.text);
    let told = feed.text.lines().find(|line| line.contains(raised)).unwrap();
    let told: Value = serde_json::from_str(told.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(told["threshold"], json!(0.8));
    assert!(told["value"].as_f64().unwrap() < 0.8);
    for _ in 0..200 {
        server.get("/api/v1/surahs/1");
    }
    feed.until("\"alert\":\"hit_ratio_below\",\"state\":\"cleared\"");
    assert_eq!(feed.text.matches("event: alert").count(), 2, "each change is told once");
}

#[test]
fn figures_tell_how_the_source_is_and_who_was_turned_away() {
    let origin = Origin::start();
    origin.always(Step::Status(503));
    let flags = [
        "--source-attempts",
        "1",
        "--source-breaker-failures",
        "2",
        "--source-breaker-open",
        "1h",
        "--limits-connections",
        "8",
    ];
    let (server, _directory) = edge(&origin, "ttl = '1h'", &flags);
    for _ in 0..4 {
        assert_eq!(server.get("/api/v1/surahs/1").status, 503);
    }
    let stats = server.admin("GET", "/admin/v1/stats", b"").json();
    let source = &stats["sources"][0];
    assert_eq!((&source["breaker"], &source["failures"]), (&json!("open"), &json!(2)), "{source}");
    let name = source["name"].as_str().unwrap();
    let breaker =
        |state: &str| metric(&server, &format!("hifz_source_breaker{{source=\"{name}\",state=\"{state}\"}}"));
    assert!((breaker("open"), breaker("closed")) == (1.0, 0.0));
    assert!(metric(&server, &format!("hifz_source_failures_total{{source=\"{name}\"}}")) > 1.0);

    let turned_away = |server: &Server| metric(server, "hifz_http_turned_away_total{want=\"connection\"}");
    assert!(turned_away(&server) < 1.0);
    // The connection of the last request may still hold its seat, so that one of the first eight is turned away.
    let mut seated: Vec<_> = (0..8).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    eventually("a full house", || {
        seated.push(TcpStream::connect(&server.address).unwrap());
        (server.get("/livez").status == 503).then_some(())
    });
    drop(seated);
    eventually("a seat", || (server.get("/livez").status == 200).then_some(()));
    assert!(turned_away(&server) >= 1.0);
}

#[test]
fn bookmarks_that_are_damaged_are_neither_served_nor_overwritten_in_part() {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let (amina, bilal) = (token(directory.path(), "amina"), token(directory.path(), "bilal"));
    let list = |name: &str| format!("/api/v1/users/{name}/bookmarks");
    let note = "a note that is looked for in the file";
    let one = format!("{}/2:255", list("amina"));
    assert_eq!(ask(&server, &amina, "PUT", &one, &json!({"note": note}).to_string()).status, 201);
    assert_eq!(ask(&server, &bilal, "PUT", &format!("{}/1:1", list("bilal")), "").status, 201);
    assert_eq!(server.terminate(), 0);

    let file = directory.path().join("content.redb");
    let bytes = std::fs::read(&file).unwrap();
    let places = bytes.windows(note.len()).enumerate().filter(|(_, window)| *window == note.as_bytes());
    let mut disk = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    for (at, _) in places {
        disk.seek(SeekFrom::Start(at as u64 + 2)).unwrap();
        disk.write_all(b"N").unwrap();
    }
    drop(disk);

    let server = Server::start(directory.path());
    for (method, path, body) in [("GET", list("amina"), ""), ("PUT", one.clone(), ""), ("DELETE", one, "")] {
        let refused = ask(&server, &amina, method, &path, body);
        assert_eq!((refused.status, &refused.json()["code"]), (500, &json!("CONTENT_DAMAGED")), "{method}");
        assert!(!String::from_utf8_lossy(&refused.body).contains("amina"));
        // Where a problem came from is said as it is of content.
        assert_eq!(refused.header("cache-status").is_some(), method == "GET");
    }
    assert_eq!(ask(&server, &bilal, "GET", &list("bilal"), "").json()["bookmarks"][0]["surah"], json!(1));
    let verified = server.admin("POST", "/admin/v1/verify", b"").json();
    assert_eq!(verified["sound"], json!(false), "{verified}");
    assert!(!verified.to_string().contains("amina"), "{verified}");
    // A whole list takes the place of what is damaged.
    let whole = json!({"bookmarks": [{"surah": 3, "ayah": 1}]}).to_string();
    assert_eq!(ask(&server, &amina, "PUT", &list("amina"), &whole).status, 200);
    assert_eq!(ask(&server, &amina, "GET", &list("amina"), "").json()["bookmarks"][0]["surah"], json!(3));
}
