//! The doors, tried with a plain client against the real binary.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::Server;

#[test]
fn a_surah_is_a_miss_and_then_a_hit_with_all_its_ayahs() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let first = server.get("/api/v1/surahs/2");
    assert_eq!((first.status, first.cache_status()), (200, "hifz; fwd=miss; stored"));
    let second = server.get("/api/v1/surahs/2");
    assert!(second.is_hit(), "{}", second.cache_status());
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("etag"), second.header("etag"));
    let surah = second.json();
    assert_eq!(surah["ayahs"].as_array().unwrap().len(), 286);
    assert_eq!(
        (&surah["number"], &surah["ayah_count"], &surah["revelation"]),
        (&json!(2), &json!(286), &json!("medinan"))
    );
    assert_eq!(second.header("content-type"), Some("application/json"));
    assert_eq!(
        second.header("cache-control"),
        Some("public, max-age=3600, stale-while-revalidate=3600, stale-if-error=86400")
    );
    assert_eq!(second.header("access-control-allow-origin"), Some("*"));
    assert_eq!(second.header("x-request-id").unwrap().len(), 32);
}

#[test]
fn every_list_and_every_surah_is_served() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let list = server.get("/api/v1/surahs").json();
    assert!(list["source"]["notice"].as_str().unwrap().contains("tanzil.net"));
    let mut ayahs = 0;
    for surah in list["surahs"].as_array().unwrap() {
        let whole = server.get(&format!("/api/v1/surahs/{}", surah["number"])).json();
        assert_eq!(whole["ayah_count"], surah["ayah_count"]);
        ayahs += whole["ayahs"].as_array().unwrap().len();
    }
    assert_eq!((list["surahs"].as_array().unwrap().len(), ayahs), (114, 6236));

    let reciters = server.get("/api/v1/reciters").json();
    let reciters = reciters["reciters"].as_array().unwrap();
    assert!(reciters.len() >= 25);
    for reciter in reciters {
        let id = reciter["id"].as_str().unwrap();
        assert_eq!(&server.get(&format!("/api/v1/reciters/{id}")).json(), reciter);
    }
    let translations = server.get("/api/v1/translations").json();
    for translation in translations["translations"].as_array().unwrap() {
        assert_eq!(translation["available"], json!(false));
        let id = translation["id"].as_str().unwrap();
        assert_eq!(&server.get(&format!("/api/v1/translations/{id}")).json(), translation);
    }
}

#[test]
fn one_ayah_is_a_resource_of_its_own() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let ayah = server.get("/api/v1/surahs/2/ayahs/255");
    let whole = server.get("/api/v1/surahs/2");
    assert_eq!(ayah.json()["number"], json!(255));
    assert_eq!(ayah.json()["text"], whole.json()["ayahs"][254]["text"]);
    assert_ne!(ayah.header("etag"), whole.header("etag"));
    for missing in ["/api/v1/surahs/2/ayahs/287", "/api/v1/surahs/2/ayahs/0", "/api/v1/surahs/2/ayahs/x"] {
        assert_problem(&server, missing, 404, "AYAH_NOT_FOUND");
    }
}

#[test]
fn what_does_not_exist_is_a_problem_with_a_code_and_makes_no_key() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for (path, code) in [
        ("/api/v1/surahs/115", "SURAH_NOT_FOUND"),
        ("/api/v1/surahs/0", "SURAH_NOT_FOUND"),
        ("/api/v1/surahs/002", "SURAH_NOT_FOUND"),
        ("/api/v1/surahs/..%2f..%2fetc", "SURAH_NOT_FOUND"),
        ("/api/v1/surahs/2?translation=xx", "TRANSLATION_NOT_FOUND"),
        ("/api/v1/surahs/2?translation=../../x", "TRANSLATION_NOT_FOUND"),
        ("/api/v1/surahs/2?translation=en", "TRANSLATION_NOT_AVAILABLE"),
        ("/api/v1/reciters/nobody", "RECITER_NOT_FOUND"),
        ("/api/v1/translations/xx", "TRANSLATION_NOT_FOUND"),
        ("/api/v1/nothing", "ROUTE_NOT_FOUND"),
    ] {
        assert_problem(&server, path, 404, code);
    }
    // Nothing was kept for any of them.
    let namespace = |name: &str| {
        let path = format!("/admin/v1/namespaces/{name}/invalidate");
        server.admin("POST", &path, b"").json()["invalidated"].clone()
    };
    assert_eq!(
        [namespace("quran"), namespace("reciter"), namespace("translation")],
        [json!(0), json!(0), json!(0)]
    );
}

#[test]
fn unknown_query_parameters_change_nothing_and_make_no_key() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let plain = server.get("/api/v1/surahs/112");
    let odd = server.get("/api/v1/surahs/112?utm=1&x=%00");
    assert!(odd.is_hit());
    assert_eq!(plain.body, odd.body);
}

#[test]
fn a_client_that_has_it_already_gets_no_body() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let full = server.get("/api/v1/surahs/112");
    let etag = full.header("etag").unwrap().to_owned();
    let same = server.send("GET", "/api/v1/surahs/112", &[("If-None-Match", &etag)], b"");
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(etag.as_str())));
    let other = server.send("GET", "/api/v1/surahs/112", &[("If-None-Match", "\"other\"")], b"");
    assert_eq!((other.status, other.body == full.body), (200, true));
    let head = server.send("HEAD", "/api/v1/surahs/112", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), full.header("content-length"));
}

#[test]
fn admin_routes_let_only_the_token_in() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for (method, path) in [
        ("POST", "/admin/v1/namespaces/quran/invalidate"),
        ("PUT", "/admin/v1/surahs/2"),
        ("DELETE", "/admin/v1/surahs/2"),
        ("POST", "/admin/v1/import"),
        ("GET", "/admin/v1/export"),
    ] {
        for authorization in ["Bearer wrong", "", "Basic d3Jvbmc6"] {
            let reply = server.send(method, path, &[("Authorization", authorization)], b"");
            assert_eq!(
                (reply.status, &reply.json()["code"]),
                (401, &json!("UNAUTHORIZED")),
                "{method} {path}"
            );
        }
        assert_eq!(server.send(method, path, &[], b"").status, 401);
    }
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
}

#[test]
fn a_namespace_is_invalidated_at_once() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    server.get("/api/v1/surahs/1");
    server.get("/api/v1/surahs/2");
    server.get("/api/v1/reciters");
    let reply = server.admin("POST", "/admin/v1/namespaces/quran/invalidate", b"");
    assert_eq!((reply.status, reply.json()), (200, json!({"invalidated": 2})));
    assert!(!server.get("/api/v1/surahs/1").is_hit());
    assert!(server.get("/api/v1/reciters").is_hit());
    let refused = server.admin("POST", "/admin/v1/namespaces/a%3Ab/invalidate", b"");
    assert_eq!(refused.json()["code"], json!("KEY_INVALID"));
}

#[test]
fn a_changed_surah_is_seen_at_once_and_nothing_else_is_forgotten() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for path in ["/api/v1/surahs/1", "/api/v1/surahs/112", "/api/v1/surahs", "/api/v1/reciters"] {
        server.get(path);
    }
    let mut surah = server.get("/api/v1/surahs/112").json();
    surah["ayahs"][0]["text"] = json!("changed");
    let put = server.admin("PUT", "/admin/v1/surahs/112", surah.to_string().as_bytes());
    assert_eq!(put.status, 200, "{}", String::from_utf8_lossy(&put.body));
    let after = server.get("/api/v1/surahs/112");
    assert!(!after.is_hit());
    assert_eq!(after.json()["ayahs"][0]["text"], json!("changed"));
    assert!(!server.get("/api/v1/surahs").is_hit());
    assert!(server.get("/api/v1/surahs/1").is_hit());
    assert!(server.get("/api/v1/reciters").is_hit());
}

#[test]
fn a_bad_document_is_refused_with_its_field_and_changes_nothing() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let before = server.get("/api/v1/surahs/112");
    let mut surah = before.json();
    surah["ayahs"][1]["text"] = json!(7);
    for (body, place) in [
        (surah.to_string(), "ayahs[1].text"),
        (json!({"number": 113}).to_string(), "number"),
        ("not json".into(), ""),
        (String::new(), ""),
    ] {
        let reply = server.admin("PUT", "/admin/v1/surahs/112", body.as_bytes());
        let problem = reply.json();
        assert_eq!((reply.status, &problem["code"]), (422, &json!("DOCUMENT_INVALID")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(place), "{problem}");
        if !place.is_empty() {
            assert_eq!(problem["place"], json!(place));
        }
    }
    let after = server.get("/api/v1/surahs/112");
    assert!(after.is_hit());
    assert_eq!(after.body, before.body);
}

#[test]
fn a_reciter_is_made_changed_and_deleted_for_good() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let reciter = json!({"id": "test-reciter", "name": "A", "name_arabic": "ا", "style": "murattal", "riwayah": "hafs"});
    let path = "/admin/v1/reciters/test-reciter";
    assert_eq!(server.admin("PUT", path, reciter.to_string().as_bytes()).status, 201);
    assert_eq!(server.admin("PUT", path, reciter.to_string().as_bytes()).status, 200);
    assert_eq!(server.get("/api/v1/reciters/test-reciter").json(), reciter);
    assert_eq!(server.admin("DELETE", path, b"").status, 204);
    assert_eq!(server.get("/api/v1/reciters/test-reciter").status, 404);
    assert_eq!(server.admin("DELETE", path, b"").status, 404);
}

#[test]
fn errors_carry_the_clients_request_id() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let reply = server.send("GET", "/api/v1/surahs/115", &[("X-Request-Id", "mine-1")], b"");
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    assert_eq!(reply.json()["request_id"], json!("mine-1"));
    assert_eq!(
        server.send("DELETE", "/api/v1/surahs/1", &[], b"").json()["code"],
        json!("METHOD_NOT_ALLOWED")
    );
}

#[test]
fn health_names_every_component() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for path in ["/api/v1/health", "/api/v1/health/"] {
        let reply = server.get(path);
        let health = reply.json();
        assert_eq!((reply.status, &health["status"]), (200, &json!("ok")), "{health}");
        for component in ["memory", "disk", "content", "source", "sweeper"] {
            assert_eq!(health["components"][component]["status"], json!("ok"), "{component}");
            assert!(health["components"][component].get("reason").is_some());
        }
    }
}

#[test]
fn garbage_is_answered_or_dropped_and_the_server_goes_on() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for bytes in [b"\0\0\0\0\r\n\r\n".as_slice(), b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &[0xff; 300]] {
        let mut request = bytes.to_vec();
        request.extend_from_slice(b"\r\n\r\n");
        server.raw(&request);
    }
    let long = format!("GET /api/v1/surahs/1 HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    assert!(server.raw(long.as_bytes()).starts_with(b"HTTP/1.1 431"));
    assert_eq!(server.get("/api/v1/surahs/1").status, 200);
}

fn assert_problem(server: &Server, path: &str, status: u16, code: &str) {
    let reply = server.get(path);
    let problem: Value = reply.json();
    assert_eq!((reply.status, &problem["code"]), (status, &json!(code)), "{path}: {problem}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem["status"], json!(status));
    assert_eq!(problem["request_id"].as_str(), reply.header("x-request-id"));
}

#[test]
fn a_body_over_the_limit_is_told_so_even_while_it_is_still_sent() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--limits-body", "1MB"]);
    let body = vec![b' '; 1_900_000];
    for (method, path) in [("PUT", "/admin/v1/surahs/112"), ("POST", "/admin/v1/import")] {
        let reply = server.admin(method, path, &body);
        assert_eq!((reply.status, &reply.json()["code"]), (413, &json!("DOCUMENT_TOO_LARGE")), "{path}");
    }
}

#[test]
fn after_an_acknowledged_change_no_read_sees_the_older_text_while_others_read() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut surah = server.get("/api/v1/surahs/108").json();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(server.get("/api/v1/surahs/108").status, 200);
                }
            });
        }
        let mut stale = Vec::new();
        for number in 0..120 {
            surah["ayahs"][0]["text"] = json!(number.to_string());
            let put = server.admin("PUT", "/admin/v1/surahs/108", surah.to_string().as_bytes());
            let read = server.get("/api/v1/surahs/108").json();
            if put.status != 200 || read["ayahs"][0]["text"] != surah["ayahs"][0]["text"] {
                stale.push(number);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(stale.is_empty(), "stale after the changes {stale:?}");
    });
}

#[test]
fn a_page_of_another_origin_may_ask_first() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let asked = [("Origin", "http://x"), ("Access-Control-Request-Method", "GET")];
    let reply = server.send("OPTIONS", "/api/v1/surahs/2", &asked, b"");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, Some("*")));
}
