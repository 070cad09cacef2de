//! Every outcome has one name: in the type, the log, the metrics, `Cache-Status` and the stream of events.

use std::collections::HashMap;
use std::fs::File;
use std::time::Duration;

use hifz::Outcome;
use hifz::clock::monotonic_now;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::feed::Feed;
use crate::common::origin::{Origin, Step, surah};
use crate::common::{Reply, Server, eventually};

fn reciter() -> Value {
    json!({"id": "a", "name": "n", "name_arabic": "n", "style": "s", "riwayah": "r"})
}

fn translation() -> Value {
    json!({
        "id": "a", "name": "n", "language": "en", "direction": "ltr", "source": "s", "licence": "l",
        "available": false,
    })
}

/// What `Cache-Status` says of each outcome, as the contract has it.
fn says(outcome: Outcome, status: &str) -> bool {
    match outcome {
        Outcome::Hit => status.starts_with("hifz; hit; ttl=") && !status.contains("detail"),
        Outcome::Miss => status == "hifz; fwd=miss; stored" || status == "hifz; fwd=miss",
        Outcome::Joined => status == "hifz; fwd=miss; collapsed; detail=joined",
        Outcome::Negative => status.starts_with("hifz; hit; ttl=") && status.ends_with("; detail=negative"),
        Outcome::Bypass => status == "hifz; fwd=bypass",
        Outcome::Rejected => status == "hifz; fwd=miss; detail=rejected",
        stale => {
            status.starts_with("hifz; hit; ttl=-") && status.ends_with(&format!("; detail={}", stale.name()))
        }
    }
}

/// Asks until the answer is this outcome: what is past its lifetime becomes so by the clock of the machine.
fn until(outcome: Outcome, mut ask: impl FnMut() -> Reply) -> Reply {
    eventually(outcome.name(), || Some(ask()).filter(|reply| says(outcome, reply.cache_status())))
}

/// Brings every outcome about, by name.
fn all_outcomes(origin: &Origin, edge: &Server) -> HashMap<&'static str, Reply> {
    let mut seen = HashMap::new();
    let mut note = |outcome: Outcome, reply: Reply| {
        let status = reply.cache_status().to_owned();
        assert!(says(outcome, &status), "{outcome:?} is said to be {status:?}");
        seen.insert(outcome.name(), reply);
    };
    // On a busy machine the second may come when the first has its answer: then with another surah.
    let mut numbers = 5..=114;
    eventually("two that wait for one load", || {
        let number = numbers.next().unwrap();
        let (before, path) = (origin.count(), format!("/api/v1/surahs/{number}"));
        origin.then([Step::Slow(Duration::from_millis(400), surah(number, "a"))]);
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| edge.get(&path));
            eventually("the load", || (origin.count() > before).then_some(()));
            let second = edge.get(&path);
            (first.join().unwrap(), second)
        });
        note(Outcome::Miss, first);
        says(Outcome::Joined, second.cache_status()).then(|| note(Outcome::Joined, second))
    });
    origin.then([Step::Give(surah(1, "a"))]);
    assert!(says(Outcome::Miss, edge.get("/api/v1/surahs/1").cache_status()));
    note(Outcome::Hit, edge.get("/api/v1/surahs/1"));
    origin.then([Step::Status(404)]);
    assert!(says(Outcome::Miss, edge.get("/api/v1/surahs/2").cache_status()));
    let negative = edge.get("/api/v1/surahs/2");
    assert_eq!(negative.status, 404);
    note(Outcome::Negative, negative);
    origin.then([Step::Html]);
    let rejected = edge.get("/api/v1/surahs/3");
    assert_eq!(rejected.status, 502);
    note(Outcome::Rejected, rejected);
    origin.then([Step::Give(surah(4, &"x".repeat(9_000)))]);
    note(Outcome::Bypass, edge.get("/api/v1/surahs/4"));
    origin.always(Step::Give(reciter()));
    note(Outcome::Revalidating, until(Outcome::Revalidating, || edge.get("/api/v1/reciters/a")));
    origin.always(Step::Give(translation()));
    assert!(says(Outcome::Miss, edge.get("/api/v1/translations/a").cache_status()));
    origin.always(Step::Slow(Duration::from_millis(500), translation()));
    note(Outcome::Stale, until(Outcome::Stale, || edge.get("/api/v1/translations/a")));
    origin.always(Step::Status(500));
    note(Outcome::Fallback, until(Outcome::Fallback, || edge.get("/api/v1/translations/a")));
    seen
}

#[test]
fn each_outcome_has_the_same_name_in_type_log_metric_cache_status_and_event() {
    let (origin, directory) = (Origin::start(), tempdir().unwrap());
    let config = directory.path().join("edge.toml");
    let lifetimes = "[namespaces.reciter]\nttl = '1s'\nstale_while_revalidate = '1h'\n\
        [namespaces.translation]\nttl = '1s'\nstale_while_revalidate = 0\nstale_if_error = '1h'\n";
    std::fs::write(&config, lifetimes).unwrap();
    let log = directory.path().join("log");
    let flags = ["--config", config.to_str().unwrap(), "--source-url", &origin.url, "--source-attempts", "1"];
    let more = ["--source-soft-timeout", "100ms", "--limits-value", "10kB", "--log-format", "json"];
    let variables = [("HIFZ_LOG", "info,hifz::answers=trace")];
    let flags: Vec<_> = flags.into_iter().chain(more).collect();
    let edge = Server::launch(directory.path(), &flags, &variables, File::create(&log).unwrap());
    let mut feed = Feed::open(&edge, "");
    let seen = all_outcomes(&origin, &edge);
    // Of the hits one in 256 is told, by each thread that answers them, of which there are as many as cores.
    let threads = std::thread::available_parallelism().unwrap().get();
    for _ in 0..256 * threads {
        assert!(says(Outcome::Hit, edge.get("/api/v1/surahs/1").cache_status()));
    }
    let metrics = String::from_utf8(edge.get("/metrics").body).unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    let logged: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for outcome in Outcome::ALL {
        let name = outcome.name();
        assert!(seen.contains_key(name), "{name}");
        let counted = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&format!("hifz_cache_answers_total{{outcome=\"{name}\"}} ")));
        assert!(counted.unwrap().parse::<u64>().unwrap() > 0, "{name}");
        let is_answer =
            |line: &&Value| line["fields"]["message"] == "answered" && line["fields"]["outcome"] == name;
        let line = logged.iter().find(is_answer).unwrap_or_else(|| panic!("{name} is not in the log"));
        assert!(["quran", "reciter", "translation"].iter().any(|own| line["fields"]["namespace"] == *own));
        feed.until(&format!("\"{name}\":"));
    }
    assert!(
        logged.iter().any(|line| line["fields"]["message"] == "a load was slow"),
        "loads over 200 ms are named"
    );
    assert!(feed.text.contains("event: answered\nid: "), "{}", feed.text);
}

#[test]
fn an_outage_leaves_a_few_lines_in_the_log_and_none_for_each_request() {
    let (origin, directory) = (Origin::start(), tempdir().unwrap());
    origin.always(Step::Status(500));
    let log = directory.path().join("log");
    let flags = ["--source-url", &origin.url, "--source-attempts", "1", "--source-breaker-open", "1s"];
    let flags = flags.into_iter().chain(["--log-format", "json"]).collect::<Vec<_>>();
    let began = monotonic_now();
    let edge = Server::launch(directory.path(), &flags, &[], File::create(&log).unwrap());
    for _ in 0..3 {
        for number in 1..=114 {
            assert_eq!(edge.get(&format!("/api/v1/surahs/{number}")).status, 503);
        }
    }
    origin.always(Step::Give(surah(1, "back")));
    eventually("the breaker to close", || (edge.get("/api/v1/surahs/1").status == 200).then_some(()));
    let log = std::fs::read_to_string(log).unwrap();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("\"ERROR\""), 0, "{log}");
    assert_eq!(count("the source's breaker closed"), 1, "{log}");
    assert!(log.contains("the source fails, and nothing can be served instead"), "{log}");
    assert!(log.contains("the origin answered 500"), "the log says why: {log}");
    // Each time it tries in vain whether the origin is back, which is once a second, the breaker opens again.
    let opened = count("the source's breaker opened");
    assert!(opened >= 1 && opened as u64 <= 1 + began.elapsed().as_secs(), "{log}");
    assert!(log.lines().count() - opened < 30, "{log}");
}
