//! The response-cache layer on a plain axum app: what is slow is made once, a change is seen at once.
//!
//! `cargo run --example response_cache`, then `curl -i localhost:3000/report/2` twice, `curl -X POST
//! localhost:3000/report/2`, and once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use hifz::layer::ResponseCache;
use hifz::{Cache, Namespace, Policy};

/// Counts how often a report is made.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub(crate) made: AtomicU64,
}

/// The app: any axum router, with one layer more.
pub(crate) fn app(cache: &Cache, namespace: Namespace, reports: Arc<Reports>) -> Router {
    let responses = ResponseCache::new(cache, namespace).body_max(256 << 10);
    Router::new()
        .route("/report/{number}", get(report).post(change))
        .route("/me", get(me))
        .layer(responses)
        .with_state(reports)
}

/// Takes long, and may be shared for a minute.
async fn report(State(reports): State<Arc<Reports>>, Path(number): Path<u64>) -> impl IntoResponse {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let made = reports.made.fetch_add(1, Ordering::Relaxed) + 1;
    ([(header::CACHE_CONTROL, "max-age=60")], format!("report {number}, made as number {made}\n"))
}

/// A successful request by another method takes what is kept of the same path out, before it is answered.
async fn change(Path(number): Path<u64>) -> String {
    format!("report {number} has changed\n")
}

/// For one person: never kept.
async fn me() -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "private")], "you\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let namespace = Namespace::parse("reports")?;
    let policy = Policy::with_ttl(Duration::from_mins(1)).stale_if_error(Duration::from_hours(1));
    let cache = Cache::builder().memory(64 << 20).policy(&namespace, policy).open()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app(&cache, namespace, Arc::default())).await?;
    cache.close()?;
    Ok(())
}
