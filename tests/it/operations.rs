//! What people and machines ask first, and the description of the interface against the interface.

#![expect(clippy::float_cmp, reason = "counts and flags are whole numbers")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::Server;

#[test]
fn the_first_page_names_the_product_and_links_the_rest() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let home = server.get("/").json();
    assert_eq!(home["name"], json!("hifz"));
    for (name, path) in home["links"].as_object().unwrap() {
        assert_eq!(server.get(path.as_str().unwrap()).status, 200, "{name}");
    }
    let page = server.send("GET", "/", &[("Accept", "text/html,*/*;q=0.8")], b"");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(String::from_utf8(page.body).unwrap().contains("href=\"/docs\""));
}

#[test]
fn a_page_may_ask_nothing_of_anybody_and_is_kept_by_its_tag() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let page = server.get("/docs");
    assert!(
        page.header("content-security-policy").unwrap().starts_with("default-src 'none'; style-src 'sha256-")
    );
    let html = String::from_utf8(page.body.clone()).unwrap();
    for foreign in ["http:", "https:", "src=", "<script", "@import", "url("] {
        // Addresses may be shown, not fetched: nothing but links of this host is followed.
        let fetched = html.match_indices(foreign).filter(|(at, _)| html[..*at].ends_with("href=\""));
        assert_eq!(fetched.count(), 0, "{foreign}");
    }
    assert!(!html.contains("<script") && !html.contains(" src=") && !html.contains("style=\""));
    let etag = page.header("etag").unwrap();
    let again = server.send("GET", "/docs", &[("If-None-Match", etag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
}

#[test]
fn every_method_of_every_path_is_described_and_no_other() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let description = server.get("/openapi.json").json();
    assert_eq!(description["openapi"], json!("3.1.0"));
    for (path, operations) in description["paths"].as_object().unwrap() {
        let filled = fill(path);
        let refused = server.admin("PROPFIND", &filled, b"");
        assert_eq!((refused.status, &refused.json()["code"]), (405, &json!("METHOD_NOT_ALLOWED")), "{path}");
        let allowed: BTreeSet<String> = refused
            .header("allow")
            .unwrap_or_else(|| panic!("{path}: a 405 without Allow"))
            .split(',')
            .map(|method| method.trim().to_ascii_lowercase())
            // HEAD is as GET, OPTIONS is what browsers ask first; both are described once, for all.
            .filter(|method| method != "head" && method != "options")
            .collect();
        let described: BTreeSet<String> = operations.as_object().unwrap().keys().cloned().collect();
        assert_eq!(allowed, described, "{path}: left what is served, right what is described");
    }
}

#[test]
fn the_settings_are_shown_with_their_origins_and_without_secrets() {
    let directory = tempdir().unwrap();
    std::fs::write(
        directory.path().join("hifz.toml"),
        "admin_token = \"a-very-secret-token\"\nmemory = \"64MB\"\n",
    )
    .unwrap();
    let server = Server::start(directory.path());
    let reply =
        server.send("GET", "/admin/v1/config", &[("Authorization", "Bearer a-very-secret-token")], b"");
    let settings = reply.json()["settings"].clone();
    let setting = |key: &str| {
        settings.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    assert_eq!(setting("memory")["value"], json!("64MB"));
    assert!(setting("memory")["origin"].as_str().unwrap().contains("hifz.toml"));
    assert!(setting("listen")["origin"].as_str().unwrap().contains("--listen"));
    assert_eq!(setting("namespaces.quran.ttl")["value"], json!("7d"));
    assert!(!String::from_utf8(reply.body).unwrap().contains("a-very-secret-token"));
}

#[test]
fn a_server_that_listens_is_live_and_ready() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for path in ["/livez", "/readyz"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.body.as_slice()), (200, b"ok\n".as_slice()), "{path}");
    }
}

/// A path with values in place of its parameters.
fn fill(path: &str) -> String {
    let values = [
        ("{number}", "112"),
        ("{ayah}", "1"),
        ("{id}", "en"),
        ("{ns}", "quran"),
        ("{verse}", "2:255"),
        ("{key}", "default"),
    ];
    let filled = values.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    assert!(!filled.contains('{'), "add an example for the parameter of {path}");
    filled
}

/// Every `operationId` once: programs made from the description name their functions so.
#[test]
fn the_description_is_complete_json_with_names() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let reply = server.get("/openapi.json");
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let description = reply.json();
    let operations = description["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values());
    let ids: Vec<&Value> = operations.map(|operation| &operation["operationId"]).collect();
    let distinct: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(ids.len(), distinct.len());
    assert!(description["info"]["description"].as_str().unwrap().contains("limits.body"));
}

#[test]
fn the_figures_add_up_and_are_the_same_everywhere() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    for path in
        ["/api/v1/surahs/1", "/api/v1/surahs/1", "/api/v1/surahs/1", "/api/v1/reciters", "/api/v1/surahs/115"]
    {
        server.get(path);
    }
    let stats = server.admin("GET", "/admin/v1/stats", b"").json();
    assert_eq!((&stats["hits"], &stats["misses"]), (&json!(2), &json!(2)), "{stats:#}");
    assert_eq!(stats["namespaces"]["quran"]["hits"], json!(2));
    assert_eq!(stats["namespaces"]["reciters"]["misses"], json!(1));
    assert_eq!(stats["states"]["status"], json!("ok"));
    assert!(stats["memory"]["charged_bytes"].as_u64().unwrap() > 1000);
    assert!(
        stats["memory"]["resident_bytes"].as_u64().unwrap()
            > stats["memory"]["charged_bytes"].as_u64().unwrap()
    );
    assert_eq!(stats["disk"]["state"], json!("ok"));
    assert!(stats["summary"].as_str().unwrap().starts_with("50.0 % of 4 questions were hits"));

    let metrics = Metrics::of(&server, "");
    assert_eq!(metrics.sum("hifz_cache_hits_total", ""), 2.0);
    assert_eq!(metrics.sum("hifz_cache_misses_total", "namespace=\"reciters\""), 1.0);
    assert_eq!(metrics.sum("hifz_cache_entries", ""), 2.0);
    assert_eq!(metrics.sum("hifz_http_requests_total", "route=\"content\",status=\"404\""), 1.0);
    assert_eq!(metrics.sum("hifz_memory_limit_bytes", ""), stats["memory"]["limit_bytes"].as_f64().unwrap());
    assert_eq!(metrics.sum("hifz_source_seconds_count", ""), 2.0);
    assert!(metrics.sum("hifz_http_connections", "") >= 1.0);
}

#[test]
fn metrics_hold_to_both_formats_whatever_a_namespace_is_called() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    server.get("/api/v1/surahs/1");
    for accept in ["", "application/openmetrics-text;version=1.0.0"] {
        let metrics = Metrics::of(&server, accept);
        for name in [
            "hifz_cache_hits_total",
            "hifz_cache_misses_total",
            "hifz_cache_evictions_total",
            "hifz_cache_entries",
            "hifz_memory_charged_bytes",
            "hifz_memory_resident_bytes",
            "hifz_memory_limit_bytes",
            "hifz_disk_live_bytes",
            "hifz_disk_dead_bytes",
            "hifz_disk_file_bytes",
            "hifz_hit_seconds_bucket",
            "hifz_source_seconds_bucket",
            "hifz_alert",
            "hifz_uptime_seconds",
            "hifz_build_info",
        ] {
            assert!(metrics.samples.iter().any(|sample| sample.0 == name), "{name}");
        }
    }
}

#[test]
fn an_alert_is_raised_by_misses_and_shown_everywhere() {
    let directory = tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--alerts-min-samples", "20"]);
    let raised = |name: &str| Metrics::of(&server, "").sum("hifz_alert", &format!("alert=\"{name}\""));
    assert_eq!((raised("hit_ratio_below"), raised("memory_above")), (0.0, 0.0));
    for number in 1..=20 {
        server.get(&format!("/api/v1/surahs/{number}"));
    }
    assert_eq!(raised("hit_ratio_below"), 1.0);
    let stats = server.admin("GET", "/admin/v1/stats", b"").json();
    assert_eq!(stats["alerts"][1]["alert"], json!("hit_ratio_below"));
    assert_eq!((&stats["alerts"][1]["state"], &stats["alerts"][1]["value"]), (&json!("raised"), &json!(0.0)));
    for _ in 0..114 {
        server.get("/api/v1/surahs/1");
    }
    assert_eq!(raised("hit_ratio_below"), 0.0, "114 of 134 is 85 %");
}

#[test]
fn a_full_cache_is_an_alert_and_health_stays_well() {
    let directory = tempdir().unwrap();
    // Much of so small a limit is taken by what is no entry; that counts as well.
    let server = Server::start_with(directory.path(), &["--memory", "1MB"]);
    let is_raised = |number: u8| {
        server.get(&format!("/api/v1/surahs/{number}"));
        Metrics::of(&server, "").sum("hifz_alert", "alert=\"memory_above\"") == 1.0
    };
    assert!((1..=114).any(is_raised));
    let health = server.get("/api/v1/health").json();
    assert_eq!(health["status"], json!("ok"), "{health}");
    let reason = health["components"]["memory"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("alert memory_above: "), "{health}");
    let memory = server.admin("GET", "/admin/v1/stats", b"").json()["memory"].clone();
    assert!(memory["charged_bytes"].as_u64() <= memory["limit_bytes"].as_u64(), "{memory}");
}

#[test]
fn the_command_line_shows_figures_completions_and_a_manual_page() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    server.get("/api/v1/surahs/1");
    let hifz = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"));
        let done = command.args(arguments).current_dir(directory.path()).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stdout).unwrap())
    };
    let data = directory.path().to_str().unwrap();
    let (code, table) = hifz(&["stats", "--data-dir", data]);
    assert_eq!(code, 0);
    for word in ["questions", "0 hits, 1 misses", "memory", "disk", "quran"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let (code, json) = hifz(&["stats", "--json", "--data-dir", data]);
    let figures: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &figures["misses"]), (0, &json!(1)));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script) = hifz(&["completions", shell]);
        assert!(code == 0 && script.contains("invalidate"), "{shell}");
    }
    assert_eq!(hifz(&["completions", "cobol"]).0, 2);
    let (code, page) = hifz(&["man"]);
    assert!(code == 0 && page.contains(".TH") && page.contains("hifz"), "{page}");
    assert_eq!(hifz(&["stats", "--data-dir", "nowhere"]).0, 1);
}

/// `/metrics`, read strictly: a line that is in neither format fails the test.
struct Metrics {
    samples: Vec<(String, String, f64)>,
}

impl Metrics {
    fn of(server: &Server, accept: &str) -> Self {
        let reply = server.send("GET", "/metrics", &[("Accept", accept)], b"");
        let is_open = accept.contains("openmetrics");
        let form = if is_open { "application/openmetrics-text" } else { "text/plain; version=0.0.4" };
        assert!(reply.header("content-type").unwrap().starts_with(form));
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.ends_with('\n') && text.ends_with("# EOF\n") == is_open);
        let mut metrics = Self { samples: Vec::new() };
        let (mut family, mut families) = (String::new(), BTreeSet::new());
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                help.split(' ').next().unwrap().clone_into(&mut family);
                assert!(families.insert(family.clone()), "{family} stands twice");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                assert_eq!(kind.split(' ').next().unwrap(), family);
            } else {
                metrics.take(line, &family);
            }
        }
        metrics
    }

    fn take(&mut self, line: &str, family: &str) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').map_or((sample, ""), |(name, labels)| {
            (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}")))
        });
        assert!(name.starts_with(family), "{line} is not of {family}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()) && !value.contains('\n'), "{line}");
        }
        let key = (name.to_owned(), labels.to_owned());
        assert!(
            !self.samples.iter().any(|(name, labels, _)| (name, labels) == (&key.0, &key.1)),
            "{line} twice"
        );
        self.samples.push((key.0, key.1, value.parse().unwrap_or_else(|_| panic!("{line}"))));
    }

    /// The sum of all samples of that name whose labels hold `labels`.
    fn sum(&self, name: &str, labels: &str) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.0 == name && sample.1.contains(labels))
            .map(|sample| sample.2)
            .sum()
    }
}
