//! `/metrics`: the figures of the process for Prometheus.
//!
//! Label values are namespaces, outcomes and other words of the code; never a key or a user. At most
//! [`NAMESPACES_MAX`] namespaces are told apart, the first that were met; the others are one, `:others`.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::IntoResponse;

use crate::disk::{DiskState, DiskStatus};
use crate::engine::{
    Breaker, Cause, Happened, Latencies, MissReason, NamespaceStats, OVERFLOW_NAME, Operation, Outcome,
    SourceStatus, Stats,
};
use crate::server::traffic::Want;

use super::Site;
use super::exposition::{Exposition, Format, Times};

/// `GET /metrics`
pub(super) async fn metrics(State(site): State<Site>, asked: HeaderMap) -> impl IntoResponse {
    let accept = asked.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_open = accept.contains("application/openmetrics-text");
    let format = if is_open { Format::OpenMetrics } else { Format::Prometheus };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    // Adding up the namespaces and looking at files are no work for a thread that answers hits.
    let text = blocking::unblock(move || render(&site, format)).await;
    (headers, text)
}

fn render(site: &Site, format: Format) -> String {
    let stats = site.cache.stats();
    let mut text = Exposition::new(format);
    of_process(&mut text, site);
    of_cache(&mut text, &stats);
    of_memory(&mut text, &stats);
    if let Some(status) = site.cache.disk_status() {
        of_disk(&mut text, &status);
    }
    of_latencies(&mut text, &stats);
    of_sources(&mut text, &site.cache.sources());
    of_alerts(&mut text, site, &stats);
    of_http(&mut text, site);
    text.finish()
}

fn of_process(text: &mut Exposition, site: &Site) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    text.gauge("hifz_build_info", "The version that runs; always 1.").sample(&version, 1);
    let uptime = site.cache.now().since(site.operations.started_at);
    text.gauge("hifz_uptime_seconds", "Time since the start.").sample(&[], uptime.as_secs());
    let started_at = seconds(Duration::from_millis(site.operations.started_at.as_millis()));
    text.gauge("process_start_time_seconds", "When the process started, in Unix time.")
        .sample(&[], started_at);
    if let Some(descriptors) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
        text.gauge("process_open_fds", "Open file descriptors.").sample(&[], descriptors);
    }
}

fn of_cache(text: &mut Exposition, stats: &Stats) {
    let namespaces = bounded(&stats.namespaces);
    text.counter("hifz_cache_hits_total", "Questions answered from the cache, fresh or stale.");
    for (name, namespace) in &namespaces {
        text.sample(&[("namespace", name)], namespace.happened.hits());
    }
    text.counter(
        "hifz_cache_misses_total",
        "Questions that had to go to a source or found nothing, by reason.",
    );
    for (name, namespace) in &namespaces {
        for reason in MissReason::ALL {
            let count = namespace.happened.misses_by(reason);
            // The first is always there, so that a rate can be formed of it.
            if count > 0 || reason == MissReason::Absent {
                text.sample(&[("namespace", name), ("reason", reason.name())], count);
            }
        }
    }
    text.counter("hifz_cache_evictions_total", "Entries that left memory, by cause.");
    for (name, namespace) in &namespaces {
        for cause in Cause::ALL {
            let count = namespace.happened.removals(cause);
            if count > 0 || cause == Cause::Evicted {
                text.sample(&[("namespace", name), ("cause", cause.name())], count);
            }
        }
    }
    text.gauge("hifz_cache_entries", "Entries in memory.");
    for (name, namespace) in &namespaces {
        text.sample(&[("namespace", name)], namespace.entries);
    }
    text.gauge("hifz_cache_bytes", "What the entries in memory are charged.");
    for (name, namespace) in &namespaces {
        text.sample(&[("namespace", name)], namespace.bytes);
    }
    text.counter("hifz_cache_answers_total", "Answers by outcome, in all namespaces.");
    for outcome in Outcome::ALL {
        text.sample(&[("outcome", outcome.name())], stats.all.outcome(outcome));
    }
    text.counter("hifz_cache_operations_total", "What was done beside asking, in all namespaces.");
    for operation in Operation::ALL {
        text.sample(&[("operation", operation.name())], stats.all.operations(operation));
    }
}

fn of_memory(text: &mut Exposition, stats: &Stats) {
    text.gauge(
        "hifz_memory_charged_bytes",
        "What of the limit is taken: by entries, and by what they give way to.",
    )
    .sample(&[], stats.memory_charged_bytes);
    text.gauge("hifz_memory_limit_bytes", "The memory limit.").sample(&[], stats.memory_limit_bytes);
    text.gauge(
        "hifz_memory_withheld_bytes",
        "Of what is charged, given up for now to what the process holds beside entries.",
    )
    .sample(&[], stats.memory_withheld_bytes);
    text.gauge("hifz_memory_resident_bytes", "Resident size of the process.")
        .sample(&[], stats.memory_resident_bytes.unwrap_or(0));
}

fn of_disk(text: &mut Exposition, status: &DiskStatus) {
    let is_healthy = u8::from(status.state == DiskState::Healthy);
    text.gauge("hifz_disk_healthy", "1 while the disk tier persists, 0 while it is memory only.")
        .sample(&[], is_healthy);
    text.gauge("hifz_disk_live_bytes", "What the records on disk take.").sample(&[], status.live_bytes);
    text.gauge("hifz_disk_dead_bytes", "What of the file is not live.").sample(&[], status.dead_bytes);
    text.gauge("hifz_disk_file_bytes", "What the file takes.").sample(&[], status.file_bytes);
    text.gauge("hifz_disk_entries", "Records on disk.").sample(&[], status.entries);
    text.gauge("hifz_disk_queue_bytes", "What waits to be written.").sample(&[], status.queued_bytes);
    text.gauge("hifz_disk_queue_depth", "How many entries wait to be written.").sample(&[], status.queued);
    text.counter("hifz_disk_dropped_total", "Entries that found no room in the queue and were not written.")
        .sample(&[], status.dropped);
    text.counter("hifz_disk_refused_total", "Entries that were dead before they could be queued.")
        .sample(&[], status.refused);
    text.counter("hifz_disk_evictions_total", "Records dropped to stay within the bound.")
        .sample(&[], status.evicted);
    text.counter("hifz_disk_broken_total", "Records whose checksum did not hold; none of them was served.")
        .sample(&[], status.broken);
}

fn of_latencies(text: &mut Exposition, stats: &Stats) {
    let hits = "How long hits took inside the cache; a sample of them.";
    text.histogram("hifz_hit_seconds", hits, &times(&stats.hit_latencies, HIT_BOUNDS));
    let source = "How long the source took to answer or fail.";
    text.histogram("hifz_source_seconds", source, &times(&stats.source_latencies, SOURCE_BOUNDS));
}

fn times(latencies: &Latencies, (from, to): (Duration, Duration)) -> Times {
    let buckets = latencies.buckets(from, to);
    let buckets = buckets.into_iter().map(|(bound, below)| (seconds(bound), below)).collect();
    Times { buckets, sum: seconds(latencies.sum()), count: latencies.count() }
}

fn of_sources(text: &mut Exposition, sources: &[SourceStatus]) {
    text.gauge("hifz_source_breaker", "1 for the state the breaker of the source is in.");
    for source in sources {
        for breaker in Breaker::ALL {
            let is_so = u8::from(source.breaker == breaker);
            text.sample(&[("source", &source.name), ("state", breaker.name())], is_so);
        }
    }
    text.counter("hifz_source_attempts_total", "How many times the source was asked.");
    for source in sources {
        text.sample(&[("source", &source.name)], source.attempts);
    }
    text.counter("hifz_source_failures_total", "How many of those failed.");
    for source in sources {
        text.sample(&[("source", &source.name)], source.failures);
    }
}

fn of_alerts(text: &mut Exposition, site: &Site, stats: &Stats) {
    text.gauge("hifz_alert", "1 while the alert is raised.");
    for alert in site.operations.alerts.look(&site.cache, stats) {
        text.sample(&[("alert", alert.kind.name())], u8::from(alert.is_raised));
    }
}

fn of_http(text: &mut Exposition, site: &Site) {
    text.counter("hifz_http_requests_total", "Answers by kind of route and status.");
    for (class, status, count) in site.operations.traffic.answers() {
        text.sample(&[("route", class.name()), ("status", &status.to_string())], count);
    }
    let open = site.limits.connections.saturating_sub(site.operations.seats.available_permits() as u64);
    text.gauge("hifz_http_connections", "Open connections.").sample(&[], open);
    text.counter(
        "hifz_http_turned_away_total",
        "Connections and requests that found no room, by what there was none of.",
    );
    for want in Want::ALL {
        text.sample(&[("want", want.name())], site.operations.traffic.turned_away(want));
    }
    text.gauge("hifz_http_connections_limit", "The most connections at a time.")
        .sample(&[], site.limits.connections);
}

/// A namespace, or all that are shown as one.
#[derive(Default)]
struct Shown {
    entries: u64,
    bytes: u64,
    happened: Happened,
}

/// The namespaces by name, those beyond the most as one.
fn bounded(namespaces: &[NamespaceStats]) -> Vec<(&str, Shown)> {
    let mut shown: Vec<(&str, Shown)> = Vec::new();
    let mut others = Shown::default();
    for namespace in namespaces {
        let mut own = Shown::default();
        let is_apart = namespace.name != OVERFLOW_NAME && shown.len() < NAMESPACES_MAX;
        let into = if is_apart { &mut own } else { &mut others };
        into.entries += namespace.held.entries;
        into.bytes += namespace.held.bytes;
        into.happened.add(&namespace.happened);
        if is_apart {
            shown.push((&namespace.name, own));
        }
    }
    if shown.is_empty() || others.entries > 0 || !others.happened.is_nothing() {
        shown.push((OVERFLOW_NAME, others));
    }
    shown
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// So many namespaces are told apart.
const NAMESPACES_MAX: usize = 200;

/// From a quarter of a microsecond to 17 ms.
const HIT_BOUNDS: (Duration, Duration) = (Duration::from_nanos(1 << 8), Duration::from_nanos(1 << 24));

/// From 16 µs to 17 s.
const SOURCE_BOUNDS: (Duration, Duration) = (Duration::from_nanos(1 << 14), Duration::from_nanos(1 << 34));
