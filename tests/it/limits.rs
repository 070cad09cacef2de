//! How much one client gets, who is counted as one, and what the log says of admins.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::json;
use tempfile::tempdir;

use crate::common::{Reply, Server, eventually};
use crate::users::{ask, token};

/// Statuses of `count` requests, sent one after the other.
fn statuses(count: usize, mut send: impl FnMut() -> Reply) -> Vec<u16> {
    (0..count).map(|_| send().status).collect()
}

fn refused(statuses: &[u16]) -> usize {
    statuses.iter().filter(|status| **status == 429).count()
}

#[test]
fn reads_and_writes_are_limited_each_on_its_own_and_say_when_to_come_back() {
    let directory = tempdir().unwrap();
    // Before the server runs, which is asked about a token and counts that.
    let amina = token(directory.path(), "amina");
    let server =
        Server::start_with(directory.path(), &["--limits-rate-reads", "1", "--limits-rate-writes", "1"]);
    let reads = statuses(30, || server.get("/api/v1/surahs/112"));
    assert!(reads[0] == 200 && refused(&reads) > 5, "{reads:?}");
    let path = "/api/v1/users/amina/bookmarks/2:255";
    let writes = statuses(30, || ask(&server, &amina, "PUT", path, ""));
    assert!(writes[0] < 300 && refused(&writes) > 5, "{writes:?}");
    let reply = eventually("a refusal", || {
        Some(server.get("/api/v1/surahs/112")).filter(|reply| reply.status == 429)
    });
    assert_eq!((reply.header("retry-after"), &reply.json()["code"]), (Some("1"), &json!("RATE_LIMITED")));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "a page may read why");
    // Probes are nobody's client.
    assert_eq!(refused(&statuses(20, || server.get("/api/v1/health"))), 0);
    eventually("coming back", || Some(()).filter(|()| server.get("/api/v1/surahs/112").status == 200));
}

#[test]
fn failed_logins_are_limited_and_a_right_token_is_never_refused_for_them() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--limits-rate-failed-logins", "5"]);
    let amina = token(directory.path(), "amina");
    let path = "/api/v1/users/amina/bookmarks";
    for (route, right) in [(path, amina.as_str()), ("/admin/v1/export", server.token.as_str())] {
        let failures = statuses(12, || ask(&server, "wrong", "GET", route, ""));
        assert!(refused(&failures) >= 5, "{failures:?}");
        assert_eq!(ask(&server, right, "GET", route, "").status, 200);
    }
    let reply = ask(&server, "wrong", "GET", path, "");
    assert_eq!((reply.status, &reply.json()["code"]), (429, &json!("TOO_MANY_FAILED_LOGINS")));
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    // Without a token nobody has guessed anything.
    assert_eq!(refused(&statuses(12, || server.get(path))), 0);
}

#[test]
fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
    let directory = tempdir().unwrap();
    let limited = ["--limits-rate-reads", "1"];
    let server = Server::start_with(directory.path(), &limited);
    let mut number = 0;
    let mut from = |server: &Server| {
        number += 1;
        server.send(
            "GET",
            "/api/v1/surahs/112",
            &[("X-Forwarded-For", &format!("198.51.100.{}", number % 250))],
            b"",
        )
    };
    assert!(refused(&statuses(30, || from(&server))) > 5, "a client cannot choose who it is");
    assert_eq!(server.terminate(), 0);
    let trusting = ["--limits-rate-reads", "1", "--limits-trusted-proxies", "127.0.0.0/8"];
    let server = Server::start_with(directory.path(), &trusting);
    assert_eq!(refused(&statuses(30, || from(&server))), 0);
    let one =
        || server.send("GET", "/api/v1/surahs/112", &[("X-Forwarded-For", "6.6.6.6, 198.51.100.7")], b"");
    assert!(refused(&statuses(30, one)) > 5);
}

#[test]
fn every_action_of_an_admin_leaves_one_line_without_secrets_or_ids() {
    let directory = tempdir().unwrap();
    let log = directory.path().join("log");
    let server =
        Server::launch(directory.path(), &["--log-format", "json"], &[], File::create(&log).unwrap());
    let amina = token(directory.path(), "amina");
    let named = |id: &'static str| [("X-Request-Id", id)];
    let admin = format!("Bearer {}", server.token);
    let with = |id: &'static str, bearer: &str, method: &str, path: &str| {
        let mut headers = named(id).to_vec();
        let authorization = format!("Bearer {bearer}");
        headers.push(("Authorization", if bearer == "admin" { &admin } else { &authorization }));
        server.send(method, path, &headers, b"").status
    };
    assert_eq!(with("r1", "admin", "POST", "/admin/v1/namespaces/quran/invalidate?secret=words"), 200);
    assert_eq!(with("r2", "admin", "DELETE", "/admin/v1/users/amina%40example.org"), 204);
    assert_eq!(with("r3", &amina, "DELETE", "/admin/v1/users/amina"), 403);
    assert_eq!(with("r4", "a-wrong-token", "PUT", "/admin/v1/surahs/2"), 401);
    assert_eq!(with("r5", "admin", "GET", "/admin/v1/export"), 200);
    assert_eq!(with("r6", "admin", "PUT", "/admin/v1/surahs/2"), 422);
    let secret = server.token.clone();
    assert_eq!(server.terminate(), 0);
    let text = std::fs::read_to_string(&log).unwrap();
    let line = |id: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&format!("\"{id}\""))).collect();
        assert_eq!(lines.len(), 1, "{id}: {lines:?}");
        serde_json::from_str::<serde_json::Value>(lines[0]).unwrap()["fields"].clone()
    };
    let told = |id: &str| {
        let fields = line(id);
        (fields["who"].as_str().unwrap().to_owned(), fields["status"].as_u64().unwrap())
    };
    assert_eq!(told("r1"), ("admin".into(), 200));
    assert_eq!((told("r2"), told("r3")), (("admin".into(), 204), ("user".into(), 403)));
    assert_eq!((told("r4"), told("r5")), (("unknown".into(), 401), ("admin".into(), 200)));
    assert_eq!(told("r6"), ("admin".into(), 422));
    let fields = line("r1");
    assert_eq!(fields["path"], json!("/admin/v1/namespaces/quran/invalidate"));
    assert_eq!((&fields["method"], &fields["from"]), (&json!("POST"), &json!("127.0.0.1")));
    for hidden in ["amina", "secret=words", "a-wrong-token", &secret] {
        assert!(!text.contains(hidden), "{hidden}");
    }
}

#[test]
fn admin_routes_are_absent_where_they_have_a_listener_of_their_own() {
    let directory = tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let address = format!("unix:{}", socket.display());
    let server = Server::launch(directory.path(), &["--admin-listen", &address], &[], Stdio::inherit());
    for (method, path) in [
        ("POST", "/admin/v1/namespaces/quran/invalidate"),
        ("GET", "/admin/v1/export"),
        ("DELETE", "/admin/v1/users/amina"),
        ("PUT", "/admin/v1/surahs/2"),
    ] {
        assert_eq!(server.admin(method, path, b"").status, 404, "{method} {path}");
    }
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let request = format!(
        "POST /admin/v1/namespaces/quran/invalidate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        server.token
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.terminate(), 0);
    assert!(!socket.exists(), "the socket goes with the server");
}
