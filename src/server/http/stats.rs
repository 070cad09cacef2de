//! `GET /admin/v1/stats`: the same figures as `/metrics`, for programs and for `hifz stats`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::disk::{DiskState, DiskStatus};
use crate::engine::{
    Cause, Happened, Latencies, MissReason, NamespaceStats, Operation, Outcome, SourceStatus, Stats,
};
use crate::server::alerts::Alert;
use crate::server::traffic::Want;

use super::{Site, health};

/// `GET /admin/v1/stats`
pub(super) async fn stats(State(site): State<Site>) -> Json<Value> {
    let states = health::look(&site).await;
    let figures = blocking::unblock(move || figures(&site)).await;
    let mut document = figures;
    document["states"] = serde_json::to_value(states).unwrap_or_default();
    Json(document)
}

fn figures(site: &Site) -> Value {
    let stats = site.cache.stats();
    let alerts = site.operations.alerts.look(&site.cache, &stats);
    let namespaces: Map<String, Value> =
        stats.namespaces.iter().map(|namespace| (namespace.name.clone(), of_namespace(namespace))).collect();
    let mut figures = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": site.cache.now().since(site.operations.started_at).as_secs(),
        "hits": stats.hits,
        "misses": stats.misses,
        "hit_ratio": stats.all.hit_ratio().unwrap_or(0.0),
        "entries": stats.entries,
        "memory": {
            "charged_bytes": stats.memory_charged_bytes,
            "resident_bytes": stats.memory_resident_bytes,
            "limit_bytes": stats.memory_limit_bytes,
            "withheld_bytes": stats.memory_withheld_bytes,
        },
        "disk": site.cache.disk_status().map_or_else(|| json!({"state": "off"}), |status| of_disk(&status)),
        "namespaces": namespaces,
        "latencies": {"hit": of_latencies(&stats.hit_latencies), "source": of_latencies(&stats.source_latencies)},
        "summary": summary(&stats),
        "sources": site.cache.sources().iter().map(of_source).collect::<Vec<_>>(),
        "alerts": alerts.iter().map(of_alert).collect::<Vec<_>>(),
        "http": of_http(site),
    });
    add_happened(&mut figures, &stats.all);
    figures
}

fn of_namespace(namespace: &NamespaceStats) -> Value {
    let happened = &namespace.happened;
    let mut figures = json!({
        "entries": namespace.held.entries,
        "bytes": namespace.held.bytes,
        "hits": happened.hits(),
        "misses": happened.misses(),
        "hit_ratio": happened.hit_ratio().unwrap_or(0.0),
    });
    add_happened(&mut figures, happened);
    figures
}

/// What happened in detail; what never did is left out.
fn add_happened(figures: &mut Value, happened: &Happened) {
    let some = |counts: Vec<(&str, u64)>| -> Map<String, Value> {
        counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.into(), count.into()))
            .collect()
    };
    figures["outcomes"] =
        some(Outcome::ALL.iter().map(|outcome| (outcome.name(), happened.outcome(*outcome))).collect())
            .into();
    figures["misses_by"] =
        some(MissReason::ALL.iter().map(|reason| (reason.name(), happened.misses_by(*reason))).collect())
            .into();
    figures["removals"] =
        some(Cause::ALL.iter().map(|cause| (cause.name(), happened.removals(*cause))).collect()).into();
    figures["operations"] =
        some(Operation::ALL.iter().map(|done| (done.name(), happened.operations(*done))).collect()).into();
}

fn of_disk(status: &DiskStatus) -> Value {
    let (state, reason) = match &status.state {
        DiskState::Healthy => ("ok", None),
        DiskState::Degraded(reason) => ("degraded", Some(reason)),
    };
    json!({
        "state": state, "reason": reason,
        "live_bytes": status.live_bytes, "dead_bytes": status.dead_bytes, "file_bytes": status.file_bytes,
        "entries": status.entries, "queued_bytes": status.queued_bytes, "queued": status.queued,
        "dropped": status.dropped, "refused": status.refused, "evicted": status.evicted, "broken": status.broken,
    })
}

fn of_latencies(latencies: &Latencies) -> Value {
    let at = |share: f64| latencies.quantile(share).map(micros);
    json!({
        "count": latencies.count(),
        "sum_us": micros(latencies.sum()),
        "p50_us": at(0.5), "p95_us": at(0.95), "p99_us": at(0.99), "p999_us": at(0.999),
    })
}

fn of_source(source: &SourceStatus) -> Value {
    json!({
        "name": source.name, "breaker": source.breaker.name(), "failures_in_row": source.failures_in_row,
        "attempts": source.attempts, "failures": source.failures,
        "last_success_ms": source.last_success.map(Timestamp::as_millis),
    })
}

fn of_alert(alert: &Alert) -> Value {
    json!({
        "alert": alert.kind.name(), "state": alert.state(), "value": alert.value, "threshold": alert.threshold,
        "since_ms": alert.since.as_millis(),
    })
}

fn of_http(site: &Site) -> Value {
    let mut answers = json!({});
    for (class, status, count) in site.operations.traffic.answers() {
        answers[class.name()][status.to_string()] = count.into();
    }
    let limit = site.limits.connections;
    let turned_away: Map<String, Value> = Want::ALL
        .iter()
        .map(|want| (want.name().into(), site.operations.traffic.turned_away(*want).into()))
        .collect();
    json!({
        "connections": limit.saturating_sub(site.operations.seats.available_permits() as u64),
        "connections_limit": limit,
        "answers": answers,
        "turned_away": turned_away,
    })
}

/// The cache against its source in one line.
fn summary(stats: &Stats) -> String {
    let asked = stats.hits + stats.misses;
    let Some(ratio) = stats.all.hit_ratio() else { return "nothing was asked yet".into() };
    let share = format!("{:.1} % of {asked} questions were hits", ratio * 100.0);
    let medians = (stats.hit_latencies.quantile(0.5), stats.source_latencies.quantile(0.5));
    let (Some(hit), Some(source)) = medians else { return share };
    let times = source.as_secs_f64() / hit.as_secs_f64().max(1e-9);
    format!(
        "{share}; a hit takes {:.2} µs (median), the source {:.0} µs: {times:.0} times as long",
        micros(hit),
        micros(source)
    )
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
