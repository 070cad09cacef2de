//! What a running server is told by signals: read the settings again, stop, stop at once.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::tempdir;

use crate::common::{Server, eventually};
use crate::users::{ask, token, token_with};

pub(crate) fn signal(server: &Server, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap(), signal).unwrap();
}

/// A server with a settings file, and its log.
pub(crate) fn server(directory: &Path, settings: &str) -> (Server, std::path::PathBuf) {
    let log = directory.join("log");
    std::fs::write(directory.join("hifz.toml"), settings).unwrap();
    let server = Server::launch(directory, &[], &[], std::fs::File::create(&log).unwrap());
    (server, log)
}

/// Writes the settings anew, sends SIGHUP and waits until the log says `said` once more.
pub(crate) fn reread(directory: &Path, server: &Server, settings: &str, said: &str) -> String {
    let log = directory.join("log");
    let count = |text: &str| text.matches(said).count();
    let before = count(&std::fs::read_to_string(&log).unwrap());
    std::fs::write(directory.join("hifz.toml"), settings).unwrap();
    signal(server, Signal::HUP);
    eventually(said, || Some(std::fs::read_to_string(&log).unwrap()).filter(|text| count(text) > before))
}

pub(crate) const READ_AGAIN: &str = "the settings were read again; tokens and keys too";
pub(crate) const REFUSED: &str = "are refused; nothing has changed";

#[test]
fn tokens_memory_log_and_namespaces_change_while_the_server_runs() {
    let directory = tempdir().unwrap();
    let (server, _) = server(directory.path(), "admin_token = 'first-admin-token-0123'\n");
    let route = "/admin/v1/namespaces/none/invalidate";
    let status = |token: &str| ask(&server, token, "POST", route, "").status;
    assert_eq!((status("first-admin-token-0123"), status("second-admin-token-0123")), (200, 401));
    let cached_for = || {
        let whole = server.get("/api/v1/surahs/112").header("cache-control").unwrap().to_owned();
        whole.split(", stale-").next().unwrap().to_owned()
    };
    assert_eq!(cached_for(), "public, max-age=3600");
    let amina = token(directory.path(), "amina");
    let bookmarks = "/api/v1/users/amina/bookmarks";
    assert_eq!(ask(&server, &amina, "GET", bookmarks, "").status, 200);

    let settings = "admin_token = 'second-admin-token-0123'\njwt_secret = '0123456789abcdef0123456789abcdef'\n\
                    memory = '20MB'\nlog = 'debug'\n[namespaces.quran]\nclient_max_age = '5m'\n";
    let said = reread(directory.path(), &server, settings, READ_AGAIN);
    assert_eq!((status("first-admin-token-0123"), status("second-admin-token-0123")), (401, 200));
    assert_eq!(cached_for(), "public, max-age=300");
    assert_eq!(ask(&server, &amina, "GET", bookmarks, "").status, 401, "the own key no longer signs");
    let secret = [("HIFZ_JWT_SECRET", "0123456789abcdef0123456789abcdef")];
    let signed = token_with(directory.path(), "amina", &[], &secret);
    assert_eq!(ask(&server, &signed, "GET", bookmarks, "").status, 200);
    for key in ["admin_token", "jwt_secret", "memory", "log", "namespaces.quran.client_max_age"] {
        assert!(said.lines().any(|line| line.contains(READ_AGAIN) && line.contains(key)), "{key} in {said}");
    }
    assert!(!said.contains("second-admin-token") && !said.contains("0123456789abcdef"), "{said}");

    let said = reread(directory.path(), &server, "admin_token = 'first-admin-token-0123'\n", READ_AGAIN);
    assert_eq!((status("first-admin-token-0123"), cached_for().as_str()), (200, "public, max-age=3600"));
    assert!(said.contains("memory"));
}

#[test]
fn a_lower_memory_limit_takes_effect_at_once_and_what_leaves_is_served_from_disk() {
    let directory = tempdir().unwrap();
    let token = "first-admin-token-0123";
    let settings = |memory: &str| format!("admin_token = '{token}'\nmemory = '{memory}'\n");
    let (server, _) = server(directory.path(), &settings("40MB"));
    let memory = || ask(&server, token, "GET", "/admin/v1/stats", "").json()["memory"].clone();
    let entry = |number: u32| format!("/admin/v1/entries/n%3A{number}");
    // All of it together fits into what may wait for the disk.
    let value = "v".repeat(100_000);
    for number in 0..20 {
        assert_eq!(ask(&server, token, "PUT", &entry(number), &value).status, 201);
    }
    assert!(memory()["charged_bytes"].as_u64().unwrap() > 2_000_000);
    reread(directory.path(), &server, &settings("1MB"), READ_AGAIN);
    let lowered = memory();
    assert_eq!(lowered["limit_bytes"], json!(1_000_000));
    assert!(lowered["charged_bytes"].as_u64().unwrap() <= 1_000_000, "{lowered}");
    for number in 0..20 {
        assert_eq!(ask(&server, token, "GET", &entry(number), "").body.len(), value.len(), "{number}");
    }
    reread(directory.path(), &server, &settings("40MB"), READ_AGAIN);
    assert_eq!(memory()["limit_bytes"], json!(40_000_000));
}

#[test]
fn a_lower_disk_limit_shrinks_the_file_while_the_server_runs_and_keeps_what_fits() {
    let directory = tempdir().unwrap();
    let token = "first-admin-token-0123";
    let settings = |disk: &str| {
        format!("admin_token = '{token}'\nmemory = '16MB'\nflush_interval = '50ms'\ndisk = '{disk}'\n")
    };
    let (server, _) = server(directory.path(), &settings("64MB"));
    let file_bytes = || std::fs::metadata(directory.path().join("cache.redb")).map_or(0, |file| file.len());
    let value = "v".repeat(100_000);
    let stands = |number: u32| {
        let reply = ask(&server, token, "GET", &format!("/admin/v1/entries/n%3A{number}"), "");
        assert!(reply.status == 404 || reply.status == 200 && reply.body == value.as_bytes());
        reply.status == 200
    };
    for number in 0..280 {
        let put = ask(&server, token, "PUT", &format!("/admin/v1/entries/n%3A{number}"), &value);
        assert_eq!(put.status, 201);
        if number % 10 != 9 {
            continue;
        }
        // What may wait for the disk is bounded, and what is over it is lost.
        eventually("an empty queue", || {
            let stats = ask(&server, token, "GET", "/admin/v1/stats", "").json();
            (stats["disk"]["queued_bytes"] == json!(0)).then_some(())
        });
    }
    assert!(file_bytes() > 28_000_000, "{}", file_bytes());
    assert_eq!((0..280).filter(|number| stands(*number)).count(), 280);
    reread(directory.path(), &server, &settings("16MB"), READ_AGAIN);
    eventually("a smaller file", || (file_bytes() <= 16_000_000).then_some(()));
    let kept = (0..280).filter(|number| stands(*number)).count();
    assert!((40..200).contains(&kept), "{kept} of 280 are left");
    assert!(file_bytes() <= 16_000_000, "reading and writing go on within it");
}

#[test]
fn new_settings_that_are_refused_change_nothing_and_the_log_says_why() {
    let directory = tempdir().unwrap();
    let good = "admin_token = 'first-admin-token-0123'\n";
    let (server, _) = server(directory.path(), good);
    let status = |token: &str| ask(&server, token, "POST", "/admin/v1/namespaces/none/invalidate", "").status;
    for (bad, reason) in [
        (
            "admin_token = 'other-admin-token-0123'\nmemry = 5\n",
            "memry (hifz.toml:2): unknown setting; did you mean memory?",
        ),
        ("admin_token = 'other-admin-token-0123'\nmemory = 'much'\n", "memory (hifz.toml:2)"),
        ("admin_token = = 3\n", "not TOML"),
        (
            "admin_token = 'other-admin-token-0123'\njwks_file = 'no-such-file'\n",
            "jwks_file no-such-file: cannot be read",
        ),
    ] {
        let said = reread(directory.path(), &server, bad, REFUSED);
        assert!(said.contains(reason), "{reason} in {said}");
        assert!(!said.contains("other-admin-token"), "{said}");
        assert_eq!((status("first-admin-token-0123"), status("other-admin-token-0123")), (200, 401), "{bad}");
    }
    reread(directory.path(), &server, good, READ_AGAIN);
    assert_eq!(status("first-admin-token-0123"), 200);
}

#[test]
fn what_needs_a_restart_is_named_and_left_as_it_is() {
    let directory = tempdir().unwrap();
    let (server, _) = server(directory.path(), "");
    let settings = "content_auth = 'user'\nlisten = '127.0.0.1:1'\n[limits]\nrate_reads = 1\n";
    for _ in 0..2 {
        let said = reread(directory.path(), &server, settings, "hold only after a restart");
        let line = said.lines().rfind(|line| line.contains("hold only after a restart")).unwrap();
        assert!(line.contains("content_auth") && line.contains("limits.rate_reads"), "{line}");
    }
    assert_eq!(server.get("/api/v1/surahs/112").status, 200);
}

#[test]
fn the_settings_that_are_shown_are_those_in_effect() {
    let directory = tempdir().unwrap();
    let began = "admin_token = 'first-admin-token-0123'\n[namespaces.c]\ncompressed_only = true\n";
    let (server, _) = server(directory.path(), began);
    let shown = || {
        let shown = ask(&server, "first-admin-token-0123", "GET", "/admin/v1/config", "").json();
        move |key: &str| {
            let settings = shown["settings"].as_array().unwrap();
            let found: Vec<_> = settings.iter().filter(|setting| setting["key"] == key).cloned().collect();
            assert_eq!(found.len(), 1, "{key}");
            found[0].clone()
        }
    };
    let value = |key: &str| shown()(key)["value"].as_str().unwrap().to_owned();
    assert_eq!((value("memory"), value("namespaces.c.compressed_only")), ("500MB".into(), "true".into()));

    let settings = "memory = '20MB'\ncontent_auth = 'user'\nadmin_token = 'first-admin-token-0123'\n\
                    [namespaces.d]\nttl = '5m'\n";
    let said = reread(directory.path(), &server, settings, READ_AGAIN);
    let of = shown();
    let memory = of("memory");
    assert_eq!((&memory["value"], &memory["origin"]), (&json!("20MB"), &json!("hifz.toml:1")));
    assert!(memory.get("after_restart").is_none());
    assert_eq!(of("namespaces.d.ttl")["value"], json!("5m"));
    // A namespace that is merely named has nothing that would need a restart.
    assert!(of("namespaces.d.compressed_only").get("after_restart").is_none());
    assert!(
        !said.contains("namespaces.d.compressed_only") && !said.contains("namespaces.d.jitter"),
        "{said}"
    );
    let auth = of("content_auth");
    assert_eq!((&auth["value"], &auth["origin"]), (&json!("public"), &json!("default")));
    assert_eq!(auth["after_restart"], json!({"value": "user", "origin": "hifz.toml:2"}));
    let gone = of("namespaces.c.compressed_only");
    assert_eq!(gone["value"], json!("true"));
    assert_eq!(gone["after_restart"], json!({"value": "false", "origin": "default"}));

    reread(directory.path(), &server, "memory = 'much'\n", REFUSED);
    assert_eq!(value("memory"), "20MB", "what is refused changes nothing");
    reread(directory.path(), &server, began, READ_AGAIN);
    assert_eq!(value("memory"), "500MB");
    assert!(shown()("content_auth").get("after_restart").is_none());
}

#[test]
fn a_rewritten_key_set_is_taken_though_its_path_is_the_same() {
    let directory = tempdir().unwrap();
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(name);
    let keys = directory.path().join("keys.json");
    let mut set: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("jwks.json")).unwrap()).unwrap();
    std::fs::write(&keys, set.to_string()).unwrap();
    let settings = format!("jwks_file = '{}'\njwt_audience = 'hifz'\n", keys.display());
    let (server, _) = server(directory.path(), &settings);
    let tokens: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("jwks-tokens.json")).unwrap()).unwrap();
    let status = |name: &str| {
        ask(&server, tokens[name].as_str().unwrap(), "GET", "/api/v1/users/amina/bookmarks", "").status
    };
    assert_eq!((status("rs256"), status("es256")), (200, 200));
    set["keys"].as_array_mut().unwrap().retain(|key| key["kty"] == json!("EC"));
    std::fs::write(&keys, set.to_string()).unwrap();
    reread(directory.path(), &server, &settings, READ_AGAIN);
    assert_eq!((status("rs256"), status("es256")), (401, 200));
}

#[test]
fn a_supervisor_hears_when_the_server_is_ready_reloads_lives_and_stops() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let hear = |wanted: &str| {
        for _ in 0..100 {
            let mut bytes = [0; 200];
            let length = socket.recv(&mut bytes).unwrap();
            let heard = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if heard.starts_with(wanted) {
                return heard;
            }
            assert!(heard.starts_with("WATCHDOG=1"), "{heard} instead of {wanted}");
        }
        panic!("{wanted} was not heard");
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let server = Server::launch(directory.path(), &[], &variables, Stdio::inherit());
    hear("READY=1");
    assert_eq!(server.get("/api/v1/surahs/112").status, 200);
    hear("WATCHDOG=1");
    signal(&server, Signal::HUP);
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    signal(&server, Signal::TERM);
    hear("STOPPING=1");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn a_stop_lets_a_request_under_way_finish_and_a_second_one_does_not_wait() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let body = server.get("/api/v1/surahs/112").body;
    let begun = |server: &Server| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let length = body.len();
        let head = format!(
            "PUT /admin/v1/surahs/112 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n",
            server.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        // From here on the request is under way: the server has asked for its body.
        let mut told = [0; 25];
        stream.read_exact(&mut told).unwrap();
        assert!(told.starts_with(b"HTTP/1.1 100"));
        stream
    };
    let mut stream = begun(&server);
    signal(&server, Signal::TERM);
    eventually("closing the door", || TcpStream::connect(&server.address).is_err().then_some(()));
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.exit_code(), 0);

    let server = Server::start(directory.path());
    let stream = begun(&server);
    signal(&server, Signal::TERM);
    eventually("closing the door", || TcpStream::connect(&server.address).is_err().then_some(()));
    signal(&server, Signal::INT);
    assert_eq!(server.exit_code(), 1);
    drop(stream);
    assert_eq!(Server::start(directory.path()).get("/api/v1/surahs/112").status, 200);
}
