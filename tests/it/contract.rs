//! The outside surface as a table: every route, status, header, figure, setting and command that others rely on by name.
//!
//! What a name does is tried elsewhere; here a name that is gone is seen.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{Reply, Server};

/// Methods and paths; the first of the paths that differ by a parameter stands for all.
const ROUTES: &[(&str, &str)] = &[
    ("GET HEAD", "/api/v1/surahs"),
    ("GET HEAD", "/api/v1/surahs/2"),
    ("GET HEAD", "/api/v1/surahs/2/ayahs/255"),
    ("GET HEAD", "/api/v1/reciters"),
    ("GET HEAD", "/api/v1/reciters/x"),
    ("GET HEAD", "/api/v1/translations"),
    ("GET HEAD", "/api/v1/translations/en"),
    ("GET PUT DELETE", "/api/v1/users/u/bookmarks"),
    ("PUT DELETE", "/api/v1/users/u/bookmarks/2:255"),
    ("GET", "/api/v1/health"),
    ("GET", "/api/v1/health/"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/"),
    ("PUT DELETE", "/admin/v1/surahs/2"),
    ("PUT DELETE", "/admin/v1/reciters/x"),
    ("PUT DELETE", "/admin/v1/translations/en"),
    ("POST", "/admin/v1/import"),
    ("GET", "/admin/v1/export"),
    ("GET", "/admin/v1/namespaces"),
    ("POST", "/admin/v1/namespaces/quran/invalidate"),
    ("POST", "/admin/v1/invalidate"),
    ("POST", "/admin/v1/clear"),
    ("POST", "/admin/v1/verify"),
    ("POST", "/admin/v1/warm"),
    ("GET", "/admin/v1/stats"),
    ("GET", "/admin/v1/events"),
    ("GET", "/admin/v1/config"),
    ("GET", "/admin/v1/explain/quran%3Asurah%3A2"),
    ("GET PUT DELETE HEAD", "/admin/v1/entries/a%3Ab"),
    ("GET", "/admin/v1/entries"),
    ("POST", "/admin/v1/entries/get"),
    ("POST", "/admin/v1/entries/set"),
    ("POST", "/admin/v1/entries/exists"),
    ("DELETE", "/admin/v1/users/u"),
];

#[test]
fn every_route_is_there_with_its_methods() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut missing = Vec::new();
    for (methods, path) in ROUTES {
        // A method nobody has: the refusal names those that there are.
        let refused = server.admin("PROPFIND", path, b"");
        let allowed: BTreeSet<&str> =
            refused.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
        missing.extend(
            methods
                .split(' ')
                .filter(|method| !allowed.contains(method))
                .map(|method| format!("{method} {path}")),
        );
    }
    assert_pending(&missing);
}

#[test]
fn admin_routes_ask_for_the_token_before_anything_else() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for (methods, path) in ROUTES.iter().filter(|(_, path)| path.starts_with("/admin/")) {
        for method in methods.split(' ').filter(|method| !is_pending(&format!("{method} {path}"))) {
            for headers in [&[][..], &[("Authorization", "Bearer wrong")]] {
                let reply = server.send(method, path, headers, b"");
                assert_eq!(reply.status, 401, "{method} {path}");
                assert!(reply.header("www-authenticate").is_some(), "{method} {path}");
            }
        }
    }
}

#[test]
fn errors_have_one_form_and_stable_codes() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let rows: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", "/nowhere", "", 404, "ROUTE_NOT_FOUND"),
        ("POST", "/api/v1/surahs", "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/api/v1/surahs/115", "", 404, "SURAH_NOT_FOUND"),
        ("GET", "/api/v1/surahs/2?translation=en", "", 404, "TRANSLATION_NOT_AVAILABLE"),
        ("GET", "/api/v1/surahs/2/ayahs/287", "", 404, "AYAH_NOT_FOUND"),
        ("GET", "/api/v1/reciters/nobody", "", 404, "RECITER_NOT_FOUND"),
        ("GET", "/api/v1/translations/xx", "", 404, "TRANSLATION_NOT_FOUND"),
        ("GET", "/api/v1/users/u/bookmarks", "", 401, "UNAUTHORIZED"),
        ("PUT", "/admin/v1/surahs/2", "{}", 422, "DOCUMENT_INVALID"),
        ("POST", "/admin/v1/import", "not an archive", 422, "DOCUMENT_INVALID"),
        ("GET", "/admin/v1/entries/a%3Ab", "", 404, "KEY_NOT_FOUND"),
        ("PUT", "/admin/v1/entries/quran%3Asurah%3A2", "x", 409, "KEY_RESERVED"),
        ("PUT", "/admin/v1/entries/%3Aa", "x", 400, "KEY_INVALID"),
        ("PUT", "/admin/v1/entries/a%3Ab?ttl=0", "x", 400, ""),
        ("POST", "/admin/v1/invalidate", "{}", 422, ""),
        ("POST", "/admin/v1/invalidate", "{\"keys\":[],\"prefix\":\"a\"}", 422, ""),
    ];
    for (method, path, body, status, code) in rows {
        let bare = path.split('?').next().unwrap();
        if PENDING.iter().any(|pending| pending.split(' ').nth(1) == Some(bare)) {
            continue;
        }
        // The admin token reads nobody's bookmarks, and is no token of a user either.
        let is_of_user = path.starts_with("/api/v1/users/");
        let reply = if is_of_user { server.get(path) } else { server.admin(method, path, body.as_bytes()) };
        let problem = reply.json();
        assert_eq!(reply.status, *status, "{method} {path}: {problem}");
        assert!(code.is_empty() || problem["code"] == *code, "{method} {path}: {problem}");
        assert_problem(&reply);
    }
}

fn assert_problem(reply: &Reply) {
    let problem = reply.json();
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    for field in ["type", "title", "detail", "code", "request_id"] {
        assert!(problem[field].is_string(), "{field}: {problem}");
    }
    assert_eq!(problem["status"], json!(reply.status));
    assert_eq!(problem["request_id"].as_str(), reply.header("x-request-id"));
    let code = problem["code"].as_str().unwrap();
    assert!(code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{code}");
}

#[test]
fn content_has_its_shapes_and_headers() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let rows: &[(&str, &[&str])] = &[
        ("/api/v1/surahs", &["surahs", "source"]),
        (
            "/api/v1/surahs/2",
            &["number", "name", "transliteration", "meaning", "revelation", "ayah_count", "edition", "ayahs"],
        ),
        ("/api/v1/surahs/2/ayahs/255", &["number", "text"]),
        ("/api/v1/reciters", &["reciters"]),
        ("/api/v1/translations", &["translations"]),
        (
            "/api/v1/translations/transliteration",
            &["id", "name", "language", "direction", "source", "licence", "available"],
        ),
    ];
    for (path, fields) in rows {
        let reply = server.get(path);
        assert_fields(&reply.json(), fields, path);
        for header in
            ["etag", "last-modified", "cache-control", "age", "cache-status", "vary", "x-request-id"]
        {
            if header == "vary" && is_pending("header vary") {
                continue;
            }
            assert!(reply.header(header).is_some(), "{path} without {header}");
        }
        assert!(reply.header("etag").unwrap().starts_with('"'), "strong");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        let head = server.send("HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    let lists = [
        ("/api/v1/surahs", "surahs", 114),
        ("/api/v1/reciters", "reciters", 25),
        ("/api/v1/translations", "translations", 10),
    ];
    for (path, list, least) in lists {
        assert!(server.get(path).json()[list].as_array().unwrap().len() >= least, "{path}");
    }
    assert_fields(
        &server.get("/api/v1/surahs").json()["source"],
        &["name", "url", "licence", "notice"],
        "source",
    );
    let reciter = server.get("/api/v1/reciters").json()["reciters"][0].clone();
    assert_fields(&reciter, &["id", "name", "name_arabic", "style", "riwayah"], "reciter");
}

#[test]
fn figures_have_their_names() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    server.get("/api/v1/surahs/1");
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    for name in [
        "hifz_cache_hits_total",
        "hifz_cache_misses_total{namespace=\"quran\",reason=",
        "hifz_cache_evictions_total{namespace=\"quran\",cause=",
        "hifz_cache_entries{namespace=\"quran\"}",
        "hifz_memory_charged_bytes ",
        "hifz_memory_resident_bytes ",
        "hifz_memory_limit_bytes ",
        "hifz_disk_live_bytes ",
        "hifz_disk_dead_bytes ",
        "hifz_disk_file_bytes ",
        "hifz_hit_seconds_count ",
        "hifz_source_seconds_count ",
        "hifz_alert{alert=\"memory_above\"}",
        "hifz_alert{alert=\"hit_ratio_below\"}",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}");
    }
    let stats = server.admin("GET", "/admin/v1/stats", b"").json();
    assert_fields(
        &stats,
        &["hits", "misses", "hit_ratio", "memory", "disk", "namespaces", "latencies", "states"],
        "stats",
    );
    assert_fields(&stats["memory"], &["charged_bytes", "resident_bytes", "limit_bytes"], "memory");
    assert!(stats["namespaces"]["quran"].is_object());
    let health = server.get("/api/v1/health").json();
    assert_fields(&health["components"], &["memory", "disk", "content", "source", "sweeper"], "health");
    if !is_pending("GET /admin/v1/namespaces") {
        let listed = server.admin("GET", "/admin/v1/namespaces", b"").json();
        assert_fields(
            &listed["namespaces"][0],
            &["name", "entries", "bytes", "hits", "misses"],
            "namespaces",
        );
    }
}

#[test]
fn every_setting_has_its_name_and_default() {
    let directory = tempdir().unwrap();
    let (code, shown, _) = hifz(&["config", "--json"], directory.path());
    assert_eq!(code, 0);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let value = |key: &str| {
        let settings = shown["settings"].as_array().unwrap();
        let found = settings.iter().find(|setting| setting["key"] == key);
        found.unwrap_or_else(|| panic!("{key} is gone"))["value"].as_str().unwrap().to_owned()
    };
    let settings = SETTINGS.lines().map(|line| line.split_once(" = ").unwrap());
    for (key, default) in settings.filter(|(key, _)| *key != "data_dir") {
        assert_eq!(value(key), default, "{key}");
    }
    for (key, default) in
        [("ttl", "7d"), ("stale_while_revalidate", "1h"), ("stale_if_error", "1d"), ("client_max_age", "1h")]
    {
        for namespace in ["quran", "reciters", "reciter", "translations", "translation"] {
            assert_eq!(value(&format!("namespaces.{namespace}.{key}")), default, "{namespace} {key}");
        }
    }
}

/// Every setting with its default, a line each; what stands under `data_dir` depends on where this runs.
const SETTINGS: &str = include_str!("fixtures/settings.txt");

#[test]
fn every_command_has_its_name_and_flags() {
    let directory = tempdir().unwrap();
    let mut missing = Vec::new();
    for (command, flags) in COMMANDS {
        let (code, help, _) = hifz(&[command, "--help"], directory.path());
        if code != 0 {
            missing.push(format!("hifz {command}"));
            continue;
        }
        missing.extend(
            flags.iter().filter(|flag| !help.contains(**flag)).map(|flag| format!("hifz {command} {flag}")),
        );
    }
    assert_pending(&missing);
}

const COMMANDS: &[(&str, &[&str])] = &[
    ("serve", &["--listen", "--config"]),
    ("import", &["PATH", "--json"]),
    ("export", &["PATH", "--bookmarks"]),
    ("warm", &["--only"]),
    ("clear", &["--namespace"]),
    ("invalidate", &["--key", "--namespace", "--pattern", "--prefix", "--tag", "--dry-run"]),
    ("get", &["KEY"]),
    ("delete", &["KEY"]),
    ("exists", &["KEY"]),
    ("set", &["KEY", "VALUE", "--ttl", "--tags"]),
    ("keys", &["--namespace", "--prefix", "--pattern"]),
    ("explain", &["KEY"]),
    ("stats", &["--watch", "--json"]),
    ("health", &["--json"]),
    ("verify", &["--repair"]),
    ("config", &["--json"]),
    ("token", &["USER", "--ttl"]),
    ("completions", &["SHELL"]),
    ("man", &[]),
];

#[test]
fn refusals_exit_with_two_and_the_data_directory_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for arguments in [
        &["frobnicate"][..],
        &["config", "--memory", "much"],
        &["config", "--no-such-flag"],
        &["serve", "--listen", "127.0.0.1:0"],
    ] {
        let mut arguments = arguments.to_vec();
        let data = directory.path().to_str().unwrap();
        arguments.extend(["--data-dir", data]);
        assert_eq!(hifz(&arguments, directory.path()).0, 2, "{arguments:?}");
    }
    server.get("/api/v1/surahs/1");
    let allowed = ["cache", "content.redb", "admin.token", "hifz", "quarantine"];
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(allowed.iter().any(|start| name.starts_with(start)), "{name}");
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{name} is open to others");
    }
    assert!(directory.path().join("hifz.lock").exists() && directory.path().join("hifz.run").exists());
}

/// What the surface names and does not have yet; each goes from here with what brings it.
const PENDING: &[&str] = &[];

fn is_pending(name: &str) -> bool {
    PENDING.contains(&name)
}

fn assert_pending(missing: &[String]) {
    let unknown: Vec<_> = missing.iter().filter(|name| !is_pending(name)).collect();
    assert!(unknown.is_empty(), "these are gone: {unknown:#?}");
}

fn assert_fields(object: &Value, fields: &[&str], what: &str) {
    for field in fields {
        assert!(object.get(field).is_some(), "{what} has no {field}: {object}");
    }
}

fn hifz(arguments: &[&str], directory: &std::path::Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hifz"));
    let done = command.args(arguments).current_dir(directory).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}
