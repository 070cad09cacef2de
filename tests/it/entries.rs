//! The raw cache over HTTP: entries, batches, listings, invalidation by every selector, explanations and events.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::common::feed::Feed;
use crate::common::{Reply, Server, eventually};

fn started() -> (TempDir, Server) {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    (directory, server)
}

fn entry(server: &Server, method: &str, key_and_query: &str, body: &[u8]) -> Reply {
    server.admin(method, &format!("/admin/v1/entries/{key_and_query}"), body)
}

fn put_as(server: &Server, key: &str, content_type: &str, body: &[u8]) -> Reply {
    let authorization = format!("Bearer {}", server.token);
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", content_type)];
    server.send("PUT", &format!("/admin/v1/entries/{key}"), &headers, body)
}

fn post(server: &Server, route: &str, body: &Value) -> Reply {
    server.admin("POST", &format!("/admin/v1/{route}"), body.to_string().as_bytes())
}

fn invalidated(server: &Server, selector: &Value) -> u64 {
    let reply = post(server, "invalidate", selector);
    assert_eq!(reply.status, 200, "{selector}: {}", String::from_utf8_lossy(&reply.body));
    reply.json()["invalidated"].as_u64().unwrap()
}

#[track_caller]
fn assert_refused(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, &reply.json()["code"]), (status, &json!(code)), "{}", reply.json());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
}

fn keys_listed(server: &Server, query: &str) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.admin("GET", &format!("/admin/v1/entries?{query}{cursor}"), b"");
        assert_eq!(page.status, 200, "{}", page.json());
        let page = page.json();
        keys.extend(
            page["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap().into()),
        );
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    keys.sort();
    keys
}

/// Waits until everything put so far is on disk.
fn flushed(server: &Server) {
    eventually("the flush", || {
        let explained = server.admin("GET", "/admin/v1/explain/flush:mark", b"").json();
        match explained["disk"]["is_queued"].as_bool() {
            Some(false) => Some(()),
            Some(true) => None,
            None => {
                assert_eq!(entry(server, "PUT", "flush:mark", b"").status / 100, 2);
                None
            }
        }
    });
    assert_eq!(entry(server, "DELETE", "flush:mark", b"").status, 204);
}

#[test]
fn an_entry_comes_back_with_its_media_type_tags_and_lifetime() {
    let (_directory, server) = started();
    assert_refused(&entry(&server, "GET", "a:1", b""), 404, "KEY_NOT_FOUND");
    let made = put_as(&server, "a:1?ttl=1h30m&tags=x,y", "text/plain; charset=utf-8", b"value");
    assert_eq!(made.status, 201);
    assert_eq!(put_as(&server, "a:1?ttl=1h30m&tags=x,y", "text/plain; charset=utf-8", b"value").status, 200);
    let got = entry(&server, "GET", "a:1", b"");
    assert_eq!((got.status, got.body.as_slice()), (200, b"value".as_slice()));
    assert_eq!(got.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(got.header("x-hifz-tags"), Some("x, y"));
    let ttl: u64 = got.header("x-hifz-ttl").unwrap().parse().unwrap();
    assert!((5390..=5400).contains(&ttl), "{ttl}");
    assert!(got.cache_status().starts_with("hifz; hit; ttl="), "{}", got.cache_status());
    assert!(got.header("age").unwrap().parse::<u64>().unwrap() <= 10);
    assert_eq!(got.header("cache-control"), Some("private, no-cache"));

    let head = entry(&server, "HEAD", "a:1", b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    let authorization = format!("Bearer {}", server.token);
    let known = [("Authorization", authorization.as_str()), ("If-None-Match", got.header("etag").unwrap())];
    assert_eq!(server.send("GET", "/admin/v1/entries/a:1", &known, b"").status, 304);

    assert_eq!(entry(&server, "PUT", "a:2", b"\0\xff").status, 201);
    let bytes = entry(&server, "GET", "a:2", b"");
    assert_eq!(
        (bytes.header("content-type"), bytes.body.as_slice()),
        (Some("application/octet-stream"), &b"\0\xff"[..])
    );
    assert_eq!(entry(&server, "PUT", "a:3", b"").status, 201);
    assert_eq!(entry(&server, "GET", "a:3", b"").body, b"");
    assert_eq!(entry(&server, "DELETE", "a:1", b"").status, 204);
    assert_refused(&entry(&server, "DELETE", "a:1", b""), 404, "KEY_NOT_FOUND");
    assert_eq!(entry(&server, "HEAD", "a:1", b"").status, 404);
}

#[test]
fn a_write_that_names_a_state_loses_no_other_write() {
    let (_directory, server) = started();
    let authorization = format!("Bearer {}", server.token);
    let write = |name: &str, value: &str, body: &[u8]| {
        let headers = [("Authorization", authorization.as_str()), (name, value)];
        server.send("PUT", "/admin/v1/entries/a:1", &headers, body).status
    };
    assert_eq!(write("If-Match", "*", b"first"), 412);
    assert_eq!(write("If-None-Match", "*", b"first"), 201);
    assert_eq!(write("If-None-Match", "*", b"second"), 412);
    let etag = entry(&server, "GET", "a:1", b"").header("etag").unwrap().to_owned();
    assert_eq!(write("If-Match", &etag, b"second"), 200);
    assert_eq!(write("If-Match", &etag, b"third"), 412);
    assert_eq!(entry(&server, "GET", "a:1", b"").body, b"second");
}

#[test]
fn reads_are_counted_and_looks_are_not() {
    let (_directory, server) = started();
    entry(&server, "PUT", "counted:1", b"v");
    let counts = || {
        let all = server.admin("GET", "/admin/v1/namespaces", b"").json();
        let own =
            all["namespaces"].as_array().unwrap().iter().find(|own| own["name"] == json!("counted")).cloned();
        let own = own.unwrap();
        (own["entries"].as_u64(), own["hits"].as_u64(), own["misses"].as_u64())
    };
    assert_eq!(counts(), (Some(1), Some(0), Some(0)));
    for _ in 0..3 {
        entry(&server, "HEAD", "counted:1", b"");
        entry(&server, "HEAD", "counted:none", b"");
        post(&server, "entries/exists", &json!({"keys": ["counted:1", "counted:none"]}));
        server.admin("GET", "/admin/v1/explain/counted:1", b"");
        keys_listed(&server, "namespace=counted");
    }
    assert_eq!(counts(), (Some(1), Some(0), Some(0)));
    entry(&server, "GET", "counted:1", b"");
    entry(&server, "GET", "counted:none", b"");
    post(&server, "entries/get", &json!({"keys": ["counted:1", "counted:none"]}));
    assert_eq!(counts(), (Some(1), Some(2), Some(2)));
}

#[test]
fn built_in_keys_can_be_read_and_deleted_and_not_written() {
    let (_directory, server) = started();
    assert_refused(&entry(&server, "GET", "quran:surah:1", b""), 404, "KEY_NOT_FOUND");
    let surah = server.get("/api/v1/surahs/1");
    assert_eq!(
        entry(&server, "GET", "quran:surah:1", b"").body,
        surah.body,
        "it asks no source, and finds what was asked"
    );
    for key in ["quran:surah:1", "quran:surah:2:en", "quran%3Asurahs", "reciters:list", "user:7:bookmarks"] {
        assert_refused(&entry(&server, "PUT", key, b"forged"), 409, "KEY_RESERVED");
    }
    let batch = json!({"entries": {"a:1": 1, "quran:surah:1": {"forged": true}}});
    assert_refused(&post(&server, "entries/set", &batch), 409, "KEY_RESERVED");
    assert_refused(&entry(&server, "GET", "a:1", b""), 404, "KEY_NOT_FOUND");
    assert_eq!(server.get("/api/v1/surahs/1").body, surah.body);
    assert_eq!(entry(&server, "DELETE", "quran:surah:1", b"").status, 204);
    assert!(!server.get("/api/v1/surahs/1").is_hit());
    assert_eq!(entry(&server, "PUT", "user:7:session", b"mine").status, 201);
    // Bookmarks are for their user's eyes alone, not for who has the admin token.
    for method in ["GET", "HEAD"] {
        assert_eq!(entry(&server, method, "user:7:bookmarks", b"").status, 403);
    }
    let keys = json!({"keys": ["user:7:session", "user:7:bookmarks"]});
    assert_refused(&post(&server, "entries/get", &keys), 403, "FORBIDDEN");
}

#[test]
fn a_key_is_one_segment_decoded_once_and_no_trick_reaches_another() {
    let (_directory, server) = started();
    for (path, key) in [
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("..", ".."),
        ("%2e%2e%2f%2e%2e%2fetc", "../../etc"),
        ("%D9%82%D8%B1%D8%A2%D9%86:1", "قرآن:1"),
        ("get", "get"),
        ("set", "set"),
        ("exists", "exists"),
        ("a+b", "a+b"),
        ("a%20b;c=d", "a b;c=d"),
    ] {
        assert_eq!(entry(&server, "PUT", path, key.as_bytes()).status, 201, "{path}");
        assert_eq!(entry(&server, "GET", path, b"").body, key.as_bytes(), "{path}");
        let found = post(&server, "entries/exists", &json!({"keys": [key]})).json();
        assert_eq!(found["exists"][key], json!(true), "{path}");
    }
    assert_eq!(keys_listed(&server, "").len(), 10);
    let long = "k".repeat(1025);
    for path in
        ["%00", "a%0Ab", "%ff", "%c0%af", "%ed%a0%80", "%", "%4", "%zz", "%2B%", ":a", "%3Aa", long.as_str()]
    {
        for method in ["GET", "PUT", "DELETE"] {
            assert_refused(&entry(&server, method, path, b""), 400, "KEY_INVALID");
        }
        assert_refused(&server.admin("GET", &format!("/admin/v1/explain/{path}"), b""), 400, "KEY_INVALID");
    }
    for path in ["a/b", "a%2Fb/c"] {
        assert_refused(&entry(&server, "GET", path, b""), 404, "ROUTE_NOT_FOUND");
    }
    assert_eq!(keys_listed(&server, "").len(), 10);
}

#[test]
fn a_write_that_is_not_accepted_says_why_and_changes_nothing() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--limits-value", "1000", "--limits-body", "5000"]);
    entry(&server, "PUT", "a:1", b"old");
    for query in [
        "ttl=0",
        "ttl=-5",
        "ttl=0s",
        "ttl=abc",
        "ttl=",
        "ttl=1h&ttl=2h",
        "ttl=99999999999999999999d",
        "tags=a,,b",
        "tags=%0A",
    ] {
        let reply = entry(&server, "PUT", &format!("a:1?{query}"), b"new");
        assert_refused(&reply, 400, "PARAMETER_INVALID");
        assert!(reply.json()["place"].is_string(), "{}", reply.json());
    }
    let tags = (0..65).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    assert_refused(&entry(&server, "PUT", &format!("a:1?tags={tags}"), b"new"), 400, "PARAMETER_INVALID");
    assert_refused(&entry(&server, "PUT", "a:1", &[0; 1001]), 413, "VALUE_TOO_LARGE");
    assert_refused(&put_as(&server, "a:1", &"x".repeat(256), b"new"), 400, "PARAMETER_INVALID");
    let authorization = format!("Bearer {}", server.token);
    let coded = [("Authorization", authorization.as_str()), ("Content-Encoding", "gzip")];
    assert_refused(&server.send("PUT", "/admin/v1/entries/a:1", &coded, b"new"), 415, "CODING_NOT_ACCEPTED");
    assert_refused(&server.send("PUT", "/admin/v1/entries/a:1", &[], b"new"), 401, "UNAUTHORIZED");
    assert_eq!(entry(&server, "GET", "a:1", b"").body, b"old");
    assert_eq!(entry(&server, "PUT", "a:2", &[0; 1000]).status, 201);
    for query in [
        "limit=0",
        "limit=10001",
        "limit=x",
        "cursor=x",
        "cursor=",
        "cursor=zz",
        "namespace=a:b",
        "namespace=",
        "pattern=%5B",
        "limit=1&limit=2",
    ] {
        assert_refused(
            &server.admin("GET", &format!("/admin/v1/entries?{query}"), b""),
            400,
            "PARAMETER_INVALID",
        );
    }
    let any_cursor = format!("cursor={}", "f".repeat(32));
    assert!(keys_listed(&server, &any_cursor).is_empty());
}

#[test]
fn a_batch_sets_all_or_nothing_and_gives_back_what_it_was_given() {
    let (_directory, server) = started();
    let batch = json!({
        "entries": {
            "b:json": {"deep": [1, null, "é"]},
            "b:text": "plain",
            "b:null": null,
            "b:bytes": {"base64": "AP8=", "content_type": "image/png"},
            "b:unnamed": {"base64": "aGk="},
            "b:lookalike": {"base64": "AP8=", "more": 1},
        },
        "ttl": "1h", "tags": ["t"],
    });
    assert_eq!(post(&server, "entries/set", &batch).status, 200);
    let keys = ["b:json", "b:text", "b:null", "b:bytes", "b:unnamed", "b:lookalike", "b:none", "b:json"];
    let got = post(&server, "entries/get", &json!({"keys": keys})).json();
    assert_eq!(got["missing"], json!(["b:none"]));
    for key in ["b:json", "b:text", "b:null", "b:lookalike"] {
        assert_eq!(got["entries"][key]["value"], batch["entries"][key], "{key}");
        assert_eq!(got["entries"][key]["content_type"], json!("application/json"));
    }
    assert!(got["entries"]["b:null"].as_object().unwrap().contains_key("value"));
    assert_eq!(got["entries"]["b:bytes"]["base64"], json!("AP8="));
    assert_eq!(got["entries"]["b:bytes"]["content_type"], json!("image/png"));
    assert_eq!(got["entries"]["b:unnamed"]["content_type"], json!("application/octet-stream"));
    assert!((3590..=3600).contains(&got["entries"]["b:json"]["ttl_s"].as_u64().unwrap()));
    assert_eq!(entry(&server, "GET", "b:bytes", b"").body, b"\0\xff");
    assert_eq!(entry(&server, "GET", "b:text", b"").body, b"\"plain\"");
    assert_eq!(invalidated(&server, &json!({"tags": ["t"]})), 6);

    let large = format!(r#"{{"entries":{{"c:1":1,"c:2":"{}"}}}}"#, "x".repeat(33 << 20));
    let refused: [(&[u8], u16, &str); 14] = [
        (b"", 422, "DOCUMENT_INVALID"),
        (b"{", 422, "DOCUMENT_INVALID"),
        (b"[]", 422, "DOCUMENT_INVALID"),
        (b"\xff", 422, "DOCUMENT_INVALID"),
        (br#"{"entries":{"c:1":1}} x"#, 422, "DOCUMENT_INVALID"),
        (br#"{"entries":{"c:1":1},"tll":"1h"}"#, 422, "DOCUMENT_INVALID"),
        (br#"{"entries":{"c:1":1,":bad":2}}"#, 422, "DOCUMENT_INVALID"),
        (br#"{"entries":{"c:1":1,"c:1":2}}"#, 422, "DOCUMENT_INVALID"),
        (br#"{"entries":{"c:1":1},"ttl":"0"}"#, 400, "PARAMETER_INVALID"),
        (br#"{"entries":{"c:1":1},"ttl":-1}"#, 400, "PARAMETER_INVALID"),
        (br#"{"entries":{"c:1":1},"ttl":0}"#, 400, "PARAMETER_INVALID"),
        (br#"{"entries":{"c:1":1},"tags":["a,b"]}"#, 422, "DOCUMENT_INVALID"),
        (br#"{"entries":{"c:1":1,"c:2":{"base64":"not base64"}}}"#, 422, "DOCUMENT_INVALID"),
        (large.as_bytes(), 413, "VALUE_TOO_LARGE"),
    ];
    for (body, status, code) in refused {
        let reply = server.admin("POST", "/admin/v1/entries/set", body);
        assert_refused(&reply, status, code);
        assert!(reply.json()["place"].is_string(), "{}", reply.json());
        assert_refused(&entry(&server, "GET", "c:1", b""), 404, "KEY_NOT_FOUND");
    }
}

#[test]
fn batches_are_bounded_and_hostile_bodies_are_refused() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--limits-body", "2MB"]);
    let keys: Vec<String> = (0..10_001).map(|number| format!("k:{number}")).collect();
    for route in ["entries/get", "entries/exists", "invalidate"] {
        assert_refused(&post(&server, route, &json!({"keys": keys})), 422, "DOCUMENT_INVALID");
        assert_eq!(post(&server, route, &json!({"keys": keys[..10_000]})).status, 200, "{route}");
    }
    let entries: serde_json::Map<_, _> = keys.iter().map(|key| (key.clone(), json!(1))).collect();
    assert_refused(&post(&server, "entries/set", &json!({"entries": entries})), 422, "DOCUMENT_INVALID");
    assert!(keys_listed(&server, "").is_empty());
    let long = json!({"keys": ["x".repeat(3_000_000)]});
    assert_refused(&post(&server, "entries/get", &long), 413, "DOCUMENT_TOO_LARGE");
    let deep = "[".repeat(500_000);
    let reply =
        server.admin("POST", "/admin/v1/entries/set", format!(r#"{{"entries":{{"d:1":{deep}"#).as_bytes());
    assert_refused(&reply, 422, "DOCUMENT_INVALID");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let reply = server.admin(
        "POST",
        "/admin/v1/entries/set",
        format!(r#"{{"entries":{{"d:1":{nested}}}}}"#).as_bytes(),
    );
    assert_eq!(reply.status, 200, "{}", reply.json());
    assert_eq!(entry(&server, "GET", "d:1", b"").body, nested.as_bytes());
    assert_eq!(post(&server, "entries/get", &json!({"keys": ["d:1"]})).status, 200);
    let reply = server.admin("POST", "/admin/v1/invalidate", format!(r#"{{"keys":{deep}"#).as_bytes());
    assert_refused(&reply, 422, "DOCUMENT_INVALID");
    // Values that fit one by one and not together.
    for number in 0..3 {
        assert_eq!(entry(&server, "PUT", &format!("big:{number}"), &vec![b'x'; 900_000]).status, 201);
    }
    let all = json!({"keys": ["big:0", "big:1", "big:2"]});
    assert_refused(&post(&server, "entries/get", &all), 413, "DOCUMENT_TOO_LARGE");
}

#[test]
fn every_selector_takes_what_it_covers_counts_it_once_and_can_be_previewed() {
    let (_directory, server) = started();
    let fill = || {
        for (key, tags) in [("a:1:x", "t"), ("a:2:x", "t,u"), ("a*2:y", "u"), ("b:1:x", ""), ("plain", "")] {
            assert!(entry(&server, "PUT", &format!("{key}?tags={tags}"), b"v").status < 300);
        }
    };
    for (selector, count) in [
        (json!({"keys": ["a:1:x", "a:1:x", "c:1"]}), 1),
        (json!({"pattern": "?:[12]:x"}), 3),
        (json!({"pattern": "a:[^1]*"}), 1),
        (json!({"pattern": "a\\*2:y"}), 1),
        (json!({"pattern": "*"}), 5),
        (json!({"pattern": "a:*"}), 2),
        (json!({"prefix": "a*"}), 1),
        (json!({"prefix": "a:"}), 2),
        (json!({"tags": ["t", "u"]}), 3),
        (json!({"keys": []}), 0),
    ] {
        fill();
        let mut preview = selector.clone();
        preview["dry_run"] = json!(true);
        assert_eq!(invalidated(&server, &preview), count, "{preview}");
        assert_eq!(keys_listed(&server, "").len(), 5, "{preview}");
        assert_eq!(invalidated(&server, &selector), count, "{selector}");
        assert_eq!(invalidated(&server, &selector), 0, "{selector} again");
        assert_eq!(keys_listed(&server, "").len() as u64, 5 - count, "{selector}");
    }
    fill();
    let namespace = |query: &str| {
        server.admin("POST", &format!("/admin/v1/namespaces/a/invalidate{query}"), b"").json()["invalidated"]
            .clone()
    };
    assert_eq!([namespace("?dry_run=true"), namespace(""), namespace("")], [json!(2), json!(2), json!(0)]);
    assert_eq!(server.admin("POST", "/admin/v1/clear", b"").json()["invalidated"], json!(3));
    assert!(keys_listed(&server, "").is_empty());
    for body in [
        json!({}),
        json!({"dry_run": true}),
        json!({"keys": ["a:1"], "prefix": "a"}),
        json!({"pattern": "["}),
        json!({"pattern": ""}),
        json!({"prefix": ""}),
        json!({"tags": ["a,b"]}),
        json!({"keys": [":a"]}),
        json!({"keys": "a:1"}),
        json!({"keys": ["a:1"], "dry-run": true}),
        json!({"keys": ["a:1"], "dry_run": "yes"}),
        json!([]),
    ] {
        assert_refused(&post(&server, "invalidate", &body), 422, "DOCUMENT_INVALID");
    }
}

#[test]
fn entries_outlive_a_restart_with_all_they_have_and_are_listed_where_only_the_disk_has_them() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for number in 0..20 {
        assert_eq!(
            put_as(&server, &format!("r:{number}?ttl=1h&tags=t,r%2F{number}"), "text/x-own", b"kept").status,
            201
        );
    }
    flushed(&server);
    server.kill();
    // Room for a few in memory; the rest is only on disk.
    let server = Server::start_with(directory.path(), &["--max-entries", "3"]);
    assert_eq!(keys_listed(&server, "namespace=r&limit=7").len(), 20);
    let got = entry(&server, "GET", "r:7", b"");
    assert_eq!((got.header("content-type"), got.body.as_slice()), (Some("text/x-own"), &b"kept"[..]));
    assert_eq!(got.header("x-hifz-tags"), Some("r/7, t"));
    assert!(got.header("x-hifz-ttl").unwrap().parse::<u64>().unwrap() <= 3600);
    let namespaces = server.admin("GET", "/admin/v1/namespaces", b"").json();
    assert_eq!(namespaces["namespaces"][0]["entries"], json!(20), "{namespaces}");
    assert_eq!(keys_listed(&server, "prefix=r:1").len(), 11);
    assert_eq!(keys_listed(&server, "pattern=r:%3F").len(), 10);
    assert_eq!(invalidated(&server, &json!({"tags": ["r/3", "r/4"]})), 2);
    assert_eq!(invalidated(&server, &json!({"prefix": "r:1"})), 11);
    assert_eq!(
        server.admin("POST", "/admin/v1/namespaces/r/invalidate", b"").json()["invalidated"],
        json!(7)
    );
    server.kill();
    let server = Server::start(directory.path());
    assert!(keys_listed(&server, "").is_empty());
    assert_refused(&entry(&server, "GET", "r:7", b""), 404, "KEY_NOT_FOUND");
}

#[test]
fn what_any_selector_took_stays_gone_after_kill_9_twice_in_a_row() {
    let directory = tempdir().unwrap();
    let names = ["key", "glob", "prefix", "tag", "namespace", "kept", "all"];
    let server = Server::start(directory.path());
    let put = |server: &Server, name: &str| {
        let tags = if name == "tag" { "gone" } else { "" };
        assert_eq!(entry(server, "PUT", &format!("{name}:1?tags={tags}"), name.as_bytes()).status, 201);
    };
    for name in names {
        put(&server, name);
    }
    flushed(&server);
    assert_eq!(entry(&server, "DELETE", "key:1", b"").status, 204);
    assert_eq!(invalidated(&server, &json!({"pattern": "gl?b:[0-9]"})), 1);
    assert_eq!(invalidated(&server, &json!({"prefix": "prefix:"})), 1);
    assert_eq!(invalidated(&server, &json!({"tags": ["gone"]})), 1);
    assert_eq!(
        server.admin("POST", "/admin/v1/namespaces/namespace/invalidate", b"").json()["invalidated"],
        json!(1)
    );
    server.kill();
    Server::start(directory.path()).kill();
    let server = Server::start(directory.path());
    let standing = |server: &Server| {
        let keys: Vec<String> = names.iter().map(|name| format!("{name}:1")).collect();
        let found = post(server, "entries/exists", &json!({"keys": keys})).json();
        names
            .iter()
            .filter(|name| found["exists"][format!("{name}:1")] == json!(true))
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(standing(&server), ["kept", "all"]);
    assert_eq!(server.admin("POST", "/admin/v1/clear", b"").json()["invalidated"], json!(2));
    put(&server, "kept");
    flushed(&server);
    server.kill();
    Server::start(directory.path()).kill();
    assert_eq!(standing(&Server::start(directory.path())), ["kept"]);
}

#[test]
fn an_explanation_says_where_a_key_stands_or_why_it_does_not() {
    let (_directory, server) = started();
    let explain = |key: &str| {
        let reply = server.admin("GET", &format!("/admin/v1/explain/{key}"), b"");
        assert_eq!(reply.status, 200);
        reply.json()
    };
    let absent = explain("e:1");
    assert_eq!(
        (&absent["is_live"], &absent["memory"], &absent["disk"]),
        (&json!(false), &Value::Null, &Value::Null)
    );
    put_as(&server, "e:1?ttl=1h&tags=t", "text/plain", b"value");
    let live = explain("e:1");
    assert_eq!(
        (&live["is_live"], &live["built_in"], &live["namespace"]),
        (&json!(true), &json!(false), &json!("e"))
    );
    assert_eq!((&live["memory"]["state"], &live["memory"]["bytes"]), (&json!("live"), &json!(5)));
    assert_eq!(live["memory"]["tags"], json!(["t"]));
    assert_eq!(live["disk"]["content_type"], json!("text/plain"));
    assert_eq!(live["policy"]["ttl_s"], json!(3600));
    assert_eq!(live["invalidated_by"], json!(["key e:1", "namespace e", "all", "tag t"]));
    flushed(&server);
    assert_eq!(explain("e:1")["disk"]["is_queued"], json!(false));
    invalidated(&server, &json!({"tags": ["t"]}));
    let dead = explain("e:1");
    assert_eq!(dead["is_live"], json!(false));
    assert_eq!(dead["disk"]["state"], json!("invalidated with tag t"));
    let surah = explain("quran:surah:1:en");
    assert_eq!((&surah["built_in"], &surah["content_tag"]), (&json!(true), &json!("surahs")));
}

#[test]
fn events_tell_of_content_and_invalidations_with_ids_and_a_stop_ends_the_stream() {
    let (_directory, server) = started();
    let mut feed = Feed::open(&server, "");
    assert!(feed.text.contains("content-type: text/event-stream"), "{}", feed.text);
    entry(&server, "PUT", "a:1", b"v");
    invalidated(&server, &json!({"prefix": "a:"}));
    feed.until("data: {\"count\":1,\"what\":\"pattern a:*\"}");
    assert!(feed.text.contains("event: invalidated\nid: "), "{}", feed.text);
    assert_eq!(server.admin("DELETE", "/admin/v1/surahs/1", b"").status, 204);
    feed.until("event: content\n");
    feed.until("quran:surah:1");
    let last = feed.text.rsplit("id: ").next().unwrap().split('\n').next().unwrap().to_owned();
    let mut again = Feed::open(&server, &format!("Last-Event-ID: {last}\r\n"));
    assert!(!again.text.contains("event: missed"), "{}", again.text);
    drop(feed);
    invalidated(&server, &json!({"prefix": "b:"}));
    again.until("pattern b:*");
    let mut late = Feed::open(&server, &format!("Last-Event-ID: {last}\r\n"));
    late.until("event: missed\n");
    late.until("data: {\"count\":1}");
    assert_eq!(server.terminate(), 0, "open streams do not hold up a stop");
    let mut rest = Vec::new();
    again.stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn evictions_are_summed_up_with_a_sample_and_streams_are_bounded() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--max-entries", "10"]);
    let mut feed = Feed::open(&server, "");
    let entries: serde_json::Map<_, _> =
        (0..200).map(|number| (format!("v:{number}"), json!(number))).collect();
    assert_eq!(post(&server, "entries/set", &json!({"entries": entries})).status, 200);
    feed.until("event: removed\n");
    feed.until("\"cause\":\"evicted\"");
    let feeds: Vec<_> = (1..64).map(|_| Feed::open(&server, "")).collect();
    let refused = server.admin("GET", "/admin/v1/events", b"");
    assert_refused(&refused, 503, "BUSY");
    assert!(refused.header("retry-after").is_some());
    drop(feeds);
    let mut number = 200;
    eventually("a free seat", || {
        // What there is to tell finds out who has left.
        number += 1;
        entry(&server, "PUT", &format!("v:{number}"), b"v");
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let token = &server.token;
        let head =
            format!("GET /admin/v1/events HTTP/1.1\r\nHost: hifz\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        status.ends_with(b"200").then_some(())
    });
    assert_eq!(server.send("GET", "/admin/v1/events", &[], b"").status, 401);
}

#[test]
fn a_pattern_of_the_worst_kind_stalls_no_reader() {
    let (_directory, server) = started();
    let entries: serde_json::Map<_, _> =
        (0..2000).map(|number| (format!("p:{}{number}", "a".repeat(900)), json!(1))).collect();
    assert_eq!(post(&server, "entries/set", &json!({"entries": entries})).status, 200);
    let worst = json!({"pattern": format!("p:{}b", "a*".repeat(400))});
    std::thread::scope(|scope| {
        let working = scope.spawn(|| invalidated(&server, &worst));
        // Readers are answered while it works; how fast is measured elsewhere.
        while !working.is_finished() {
            assert_eq!(entry(&server, "GET", "none", b"").status, 404);
        }
        assert_eq!(working.join().unwrap(), 0);
    });
    assert_eq!(invalidated(&server, &json!({"pattern": format!("p:{}*", "a*".repeat(400))})), 2000);
}
