//! The binary in front of an origin that hurts, and in front of another hifz.

use std::collections::BTreeSet;
use std::time::Duration;

use hifz::clock::monotonic_now;
use serde_json::json;
use tempfile::tempdir;

use crate::common::origin::{Origin, Step, edge, surah};
use crate::common::{Reply, Server, eventually};

fn text(reply: &Reply) -> String {
    reply.json()["ayahs"][0]["text"].as_str().unwrap().to_owned()
}

fn assert_problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.json()["code"].as_str().unwrap()), (status, code), "{:?}", reply.json());
}

const FRESH: &str = "ttl = '1h'";

#[test]
fn an_origin_that_fails_twice_is_asked_three_times_each_gap_within_its_bound() {
    let origin = Origin::start();
    let (edge, _directory) = edge(&origin, FRESH, &["--source-backoff", "100ms"]);
    // What a busy machine adds is not the policy's, and leaves one of many tries alone.
    let mut numbers = 1..=114;
    eventually("a try whose gaps are within their bounds", || {
        let number = numbers.next().unwrap();
        let (before, path) = (origin.count(), format!("/api/v1/surahs/{number}"));
        let good = surah(number, "a");
        origin.then([Step::Status(500), Step::Cut(good.clone()), Step::Give(good)]);
        let reply = edge.get(&path);
        assert_eq!((reply.status, reply.cache_status()), (200, "hifz; fwd=miss; stored"));
        assert_eq!(text(&reply), "a");
        let asked = origin.asked().split_off(before);
        let asked_for = format!("/surahs/{number}");
        assert_eq!(asked.iter().map(|(_, path, _)| path).collect::<Vec<_>>(), [&asked_for; 3]);
        assert!(edge.get(&path).is_hit());
        let bounds = [Duration::from_millis(100 + 80), Duration::from_millis(200 + 80)];
        let gaps = asked.windows(2).map(|pair| pair[1].0 - pair[0].0);
        gaps.zip(bounds).all(|(gap, bound)| gap <= bound).then_some(())
    });
}

#[test]
fn whatever_an_origin_lies_about_is_neither_served_nor_kept() {
    let origin = Origin::start();
    let flags = ["--source-attempts", "1", "--source-breaker-failures", "1000", "--source-timeout", "300ms"];
    let (edge, _directory) = edge(&origin, FRESH, &flags);
    let mut miscounted = surah(1, "a");
    miscounted["ayah_count"] = json!(3);
    let mut misnumbered = surah(1, "a");
    misnumbered["ayahs"][1]["number"] = json!(7);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for step in [
        Step::Status(500),
        Step::Status(301),
        Step::Hang,
        Step::Cut(surah(1, "a")),
        Step::Short(surah(1, "a")),
        Step::Long(surah(1, "a")),
        Step::Html,
        Step::Give(surah(2, "a")),
        Step::Give(json!("rubbish")),
        Step::Give(miscounted),
        Step::Give(misnumbered),
        Step::Raw(b"nonsense\r\n\r\n".to_vec()),
        Step::Raw(format!("{head}Content-Length: 4\r\n\r\n\u{e9}\u{e9}").into_bytes()),
        Step::Raw(format!("{head}Content-Length: 99999999999\r\n\r\n").into_bytes()),
        Step::Raw(format!("{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}").into_bytes()),
        Step::Raw([head.as_bytes(), b"Content-Length: 2\r\n\r\n\xFF\xFE"].concat()),
    ] {
        origin.then([step.clone()]);
        let reply = edge.get("/api/v1/surahs/1");
        assert!([502, 503].contains(&reply.status), "{step:?}: {reply:?}");
        assert!(reply.header("retry-after").is_some());
    }
    origin.always(Step::Give(surah(1, "good")));
    // On a busy machine it too may come too late at first.
    let reply = eventually("a good answer", || {
        Some(edge.get("/api/v1/surahs/1")).filter(|reply| reply.status == 200)
    });
    assert_eq!(text(&reply), "good");
}

#[test]
fn an_origin_that_is_gone_is_stood_in_for_within_the_window_and_then_said_to_be() {
    let origin = Origin::start();
    origin.then([Step::Give(surah(1, "old"))]).always(Step::Status(503));
    let lifetimes = "ttl = '1s'\nstale_while_revalidate = '1s'\nstale_if_error = '3s'";
    let (edge, _directory) = edge(&origin, lifetimes, &["--source-attempts", "1"]);
    assert_eq!(edge.get("/api/v1/surahs/1").status, 200);
    // It was stored before this.
    let answered = monotonic_now();
    let mut marks = Vec::new();
    let last = eventually("the end of the window", || {
        let passed = answered.elapsed();
        let reply = edge.get("/api/v1/surahs/1");
        if reply.status != 200 {
            return Some(reply);
        }
        assert_eq!(text(&reply), "old");
        // Nothing is ever served beyond the window of 1 + 3.
        assert!(passed < Duration::from_secs(4), "{passed:?} after it was stored");
        let status = reply.cache_status().to_owned();
        if passed > Duration::from_millis(1100) {
            assert!(status.starts_with("hifz; hit; ttl=-"), "{status}");
        }
        marks.extend(status.split("detail=").nth(1).map(ToOwned::to_owned));
        None
    });
    assert!(
        marks.contains(&"revalidating".to_owned()) && marks.contains(&"fallback".to_owned()),
        "{marks:?}"
    );
    assert_problem(&last, 503, "SOURCE_UNAVAILABLE");
    assert!(last.header("retry-after").is_some());
}

#[test]
fn readiness_waits_for_the_first_warming_where_that_is_asked_for() {
    let origin = Origin::start();
    origin.always(Step::Hang);
    let warming = |source_timeout: &'static str| {
        let flags = ["--warm-on-start", "true", "--warm-wait", "true"];
        let more = ["--source-attempts", "1", "--source-timeout", source_timeout];
        edge(&origin, FRESH, &[flags, more].concat())
    };
    let (waiting, _directory) = warming("1h");
    assert_eq!(waiting.get("/livez").status, 200);
    assert_problem(&waiting.get("/readyz"), 503, "NOT_READY");
    // Warmed or not, an origin that does not answer must not keep the process out for ever.
    let (given_up, _directory) = warming("300ms");
    eventually("the end of the warming", || (given_up.get("/readyz").status == 200).then_some(()));
}

#[test]
fn a_hanging_origin_keeps_nobody_longer_than_the_time_out() {
    let origin = Origin::start();
    origin.always(Step::Hang);
    let flags = ["--source-attempts", "2", "--source-timeout", "200ms", "--source-backoff", "10ms"];
    let (edge, _directory) = edge(&origin, FRESH, &flags);
    let reply = edge.get("/api/v1/surahs/1");
    assert_problem(&reply, 503, "SOURCE_TIMED_OUT");
    assert!(reply.header("retry-after").is_some());
    // The time of an attempt, or on a busy machine of the caller: that of both, the pause and half a second.
    let told = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(told.contains("no answer within 200ms") || told.contains("no answer within 910ms"), "{told}");
    eventually("the second attempt", || (origin.count() == 2).then_some(()));
}

#[test]
fn answers_without_an_end_take_no_more_memory_together_than_loads_may() {
    let origin = Origin::start();
    origin.always(Step::Flood(8 << 20));
    let flags = ["--memory", "64MB", "--source-attempts", "1", "--source-timeout", "3s"];
    let (edge, _directory) = edge(&origin, FRESH, &flags);
    let entry = vec![b'x'; 100_000];
    for number in 0..700 {
        let path = format!("/admin/v1/entries/full:{number}");
        assert_eq!(edge.admin("PUT", &path, &entry).status, 201);
    }
    let resident = || {
        let stats = edge.admin("GET", "/admin/v1/stats", b"").json();
        stats["memory"]["resident_bytes"].as_u64().unwrap()
    };
    let before = resident();
    let most = std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=24)
            .map(|number| {
                scope.spawn({
                    let edge = &edge;
                    move || edge.get(&format!("/api/v1/surahs/{number}")).status
                })
            })
            .collect();
        let mut most = 0;
        while !clients.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            most = most.max(resident());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(clients.into_iter().all(|client| client.join().unwrap() == 503));
        most
    });
    // Two hundred megabytes were sent; what loads hold together is bounded by half of the memory, and the rest of this is
    // what the allocator keeps for a moment when entries give way.
    assert!(most < before + 100_000_000, "{before} before, {most} at most");
}

#[test]
fn the_breaker_leaves_a_failing_origin_alone_and_asks_again_later() {
    let origin = Origin::start();
    origin.always(Step::Status(500));
    let failing = |breaker_open: &'static str| {
        let flags = ["--source-attempts", "1", "--source-breaker-failures", "3"];
        let (edge, directory) =
            edge(&origin, FRESH, &[&flags[..], &["--source-breaker-open", breaker_open]].concat());
        for number in 1..=8 {
            assert_problem(&edge.get(&format!("/api/v1/surahs/{number}")), 503, "SOURCE_UNAVAILABLE");
        }
        (edge, directory)
    };
    let (edge, _directory) = failing("1h");
    assert_eq!(origin.count(), 3);
    let health = edge.get("/api/v1/health");
    let source = &health.json()["components"]["source"];
    assert_eq!((health.status, source["status"].as_str().unwrap()), (200, "degraded"));
    assert!(source["reason"].as_str().unwrap().contains("open"), "{source}");
    let (edge, _directory) = failing("1s");
    origin.always(Step::Give(surah(1, "back")));
    let reply = eventually("the breaker to close", || {
        Some(edge.get("/api/v1/surahs/1")).filter(|reply| reply.status == 200)
    });
    assert_eq!(text(&reply), "back");
    assert_eq!(edge.get("/api/v1/health").json()["components"]["source"]["status"], "ok");
}

#[test]
fn what_the_settings_file_says_of_a_namespace_has_its_effect() {
    let origin = Origin::start();
    origin.always(Step::Status(404));
    let policy = "ttl = '1h'\njitter = 0.5\nnegative_ttl = 0\nclient_max_age = '7m'\n\
        [namespaces.translation]\nttl = '1h'\neager_after = 0.0\n[namespaces.few]\nmax_share = 0.1";
    let (edge, _directory) = edge(&origin, policy, &["--memory", "16MB"]);
    // Absence is not remembered.
    for _ in 0..2 {
        assert_eq!(edge.get("/api/v1/surahs/1").status, 404);
    }
    assert_eq!(origin.count(), 2);
    // Lifetimes differ, within their share.
    let mut lifetimes = BTreeSet::new();
    for number in 1..=20 {
        origin.then([Step::Give(surah(number, "a"))]);
        let path = format!("/api/v1/surahs/{number}");
        assert_eq!(edge.get(&path).status, 200);
        let hit = edge.get(&path);
        assert_eq!(
            hit.header("cache-control"),
            Some("public, max-age=420, stale-while-revalidate=3600, stale-if-error=86400")
        );
        lifetimes.insert(hit.cache_status().strip_prefix("hifz; hit; ttl=").unwrap().parse::<u64>().unwrap());
    }
    assert!(
        lifetimes.len() > 10 && lifetimes.iter().all(|secs| (1700..=3600).contains(secs)),
        "{lifetimes:?}"
    );
    // Who is asked for is loaded anew ahead of time, while nobody waits.
    let translation = json!({
        "id": "a", "name": "n", "language": "en", "direction": "ltr", "source": "s", "licence": "l",
        "available": false,
    });
    let before = origin.count();
    origin.always(Step::Give(translation));
    assert_eq!(edge.get("/api/v1/translations/a").cache_status(), "hifz; fwd=miss; stored");
    assert!(edge.get("/api/v1/translations/a").cache_status().starts_with("hifz; hit; ttl="));
    eventually("the next load", || (origin.count() >= before + 2).then_some(()));
    // A tenth of the memory and no more.
    for number in 0..100 {
        edge.admin("PUT", &format!("/admin/v1/entries/few:{number}"), &vec![b'x'; 50_000]);
    }
    let stats = edge.admin("GET", "/admin/v1/stats", b"").json();
    let entries = stats["namespaces"]["few"]["entries"].as_u64().unwrap();
    assert!((1..=32).contains(&entries), "{entries}: {}", stats["namespaces"]["few"]);
}

#[test]
fn what_an_origin_does_not_have_is_asked_for_once() {
    let origin = Origin::start();
    origin.always(Step::Status(404));
    let (edge, _directory) = edge(&origin, FRESH, &[]);
    assert_problem(&edge.get("/api/v1/surahs/1"), 404, "SURAH_NOT_FOUND");
    assert_problem(&edge.get("/api/v1/surahs/1"), 404, "SURAH_NOT_FOUND");
    assert_eq!(origin.count(), 1);
}

#[test]
fn fifty_clients_on_one_cold_key_are_one_request() {
    let origin = Origin::start();
    origin.then([Step::Slow(Duration::from_millis(100), surah(1, "a"))]);
    let (edge, _directory) = edge(&origin, FRESH, &[]);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..50).map(|_| scope.spawn(|| edge.get("/api/v1/surahs/1"))).collect();
        for client in clients {
            assert_eq!(client.join().unwrap().status, 200);
        }
    });
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_unchanged_answer_is_not_sent_again() {
    let origin = Origin::start();
    origin.then([Step::Tagged(surah(1, "a"), "\"v1\""), Step::Status(304)]);
    let (edge, _directory) = edge(&origin, "ttl = '1s'\nstale_if_error = '1h'", &[]);
    eventually("a second question", || {
        assert_eq!(text(&edge.get("/api/v1/surahs/1")), "a");
        (origin.count() == 2).then_some(())
    });
    assert_eq!(origin.asked()[1].2.as_deref(), Some("\"v1\""));
    let reply = edge.get("/api/v1/surahs/1");
    assert!(reply.is_hit() && text(&reply) == "a", "{reply:?}");
}

#[test]
fn one_hifz_behind_another_gives_the_same_bytes_under_the_same_tags() {
    let (behind, before) = (tempdir().unwrap(), tempdir().unwrap());
    let origin = Server::start(behind.path());
    let url = format!("http://{}/api/v1/", origin.address);
    let edge = Server::start_with(before.path(), &["--source-url", &url]);
    let paths = [
        "/api/v1/surahs",
        "/api/v1/surahs/2",
        "/api/v1/surahs/112?translation=transliteration",
        "/api/v1/surahs/2/ayahs/255",
        "/api/v1/reciters",
        "/api/v1/translations",
        "/api/v1/translations/transliteration",
        "/api/v1/surahs/2?translation=nobody",
        "/api/v1/surahs/2?translation=en",
        "/api/v1/reciters/nobody",
    ];
    for path in paths {
        let (own, other) = (edge.get(path), origin.get(path));
        assert_eq!(own.status, other.status, "{path}");
        if own.status == 200 {
            assert_eq!((&own.body, own.header("etag")), (&other.body, other.header("etag")), "{path}");
            assert_eq!(own.header("last-modified"), other.header("last-modified"), "{path}");
        } else {
            assert_eq!(own.json()["code"], other.json()["code"], "{path}");
        }
    }
    assert_content_is_not_ours(&edge);
    // The origin may go; what has been read stays.
    let mut edited = origin.get("/api/v1/surahs/112").json();
    edited["ayahs"][0]["text"] = json!("only there");
    assert_eq!(origin.admin("PUT", "/admin/v1/surahs/112", edited.to_string().as_bytes()).status, 200);
    assert_eq!(text(&edge.get("/api/v1/surahs/112")), "only there");
    drop(origin);
    assert!(edge.get("/api/v1/surahs/2").is_hit());
    assert_problem(&edge.get("/api/v1/surahs/3"), 503, "SOURCE_UNAVAILABLE");
    // Nothing of it was written here, and nothing cached of it outlives the change of source.
    assert_eq!(edge.terminate(), 0);
    let own = Server::start(before.path());
    let reply = own.get("/api/v1/surahs/112");
    assert!(!reply.is_hit() && text(&reply) != "only there", "{reply:?}");
}

fn assert_content_is_not_ours(edge: &Server) {
    let changes = [
        ("PUT", "/admin/v1/surahs/1"),
        ("DELETE", "/admin/v1/surahs/1"),
        ("PUT", "/admin/v1/reciters/someone"),
        ("DELETE", "/admin/v1/translations/en"),
        ("POST", "/admin/v1/import"),
    ];
    for (method, path) in changes {
        assert_problem(&edge.admin(method, path, b"{}"), 409, "CONTENT_NOT_OURS");
    }
}
