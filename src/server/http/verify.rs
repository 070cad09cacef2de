//! `POST /admin/v1/verify`: every record of the cache and every document of the content is read and checked, in small
//! steps, while everything else goes on. `?repair=true` puts built-in text in the place of damaged documents;
//! `?progress=true` answers line by line while it works.

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::content::{Repaired, Store};
use crate::disk::DiskVerified;
use crate::error::Result;
use crate::server::changes;

use super::Site;
use super::problem::Problem;

/// The route itself.
pub(super) async fn verify(
    State(site): State<Site>,
    Query(query): Query<Vec<(String, String)>>,
) -> std::result::Result<Response<Body>, Problem> {
    let is_asked = |name: &str| query.iter().any(|(key, value)| key == name && value == "true");
    let (is_repair, is_progress) = (is_asked("repair"), is_asked("progress"));
    let (sender, mut receiver) = mpsc::channel::<Value>(LINES_MAX);
    let work = tokio::task::spawn_blocking(move || {
        // A line that finds no room is passed over; the next one says as much.
        let tell = |done: u64, total: u64| {
            sender.try_send(json!({"done": done, "total": total})).unwrap_or_default();
        };
        let report = check(&site, is_repair, &mut { tell });
        (report, sender)
    });
    if !is_progress {
        receiver.close();
        let (report, _) = work.await.map_err(|error| broken(&error))?;
        return Ok(Json(report?).into_response());
    }
    let (lines, out) = mpsc::channel::<std::io::Result<Bytes>>(LINES_MAX);
    tokio::spawn(async move {
        let line = |value: &Value| Ok(Bytes::from(format!("{value}\n")));
        let mut work = work;
        let last = loop {
            tokio::select! {
                Some(value) = receiver.recv() => lines.send(line(&value)).await.unwrap_or_default(),
                done = &mut work => break match done {
                    Ok((Ok(report), _)) => report,
                    Ok((Err(error), _)) => json!({"error": error.chain()}),
                    Err(error) => json!({"error": error.to_string()}),
                },
            }
        };
        lines.send(line(&last)).await.unwrap_or_default();
    });
    let stream =
        futures_util::stream::unfold(out, |mut out| async move { out.recv().await.map(|line| (line, out)) });
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))];
    Ok((kind, Body::from_stream(stream)).into_response())
}

fn broken(error: &tokio::task::JoinError) -> Problem {
    tracing::error!(%error, "the check panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the request failed inside the server")
}

fn check(site: &Site, is_repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Value> {
    let records = site.cache.verify(progress)?;
    let room = site.incoming.turn_blocking(site.store.verify_bytes()?)?;
    let turn = site.content_changes.lock();
    let report = report(records.as_ref(), &site.store, is_repair)?;
    drop((turn, room));
    if is_repair {
        changes::drain(&site.cache, &site.store)?;
    }
    Ok(report)
}

/// What was found, as the route and the command both say it.
pub(crate) fn report(records: Option<&DiskVerified>, store: &Store, is_repair: bool) -> Result<Value> {
    let content = store.verify()?;
    let repaired = if is_repair { store.repair()? } else { Repaired::default() };
    let left = if is_repair { repaired.left.clone() } else { content.damaged.clone() };
    let cache = records.map(
        |records| json!({"records": records.sound, "damaged": records.damaged, "failed": records.failed}),
    );
    let is_cache_sound = records.is_none_or(|records| records.damaged == 0 && records.failed.is_none());
    Ok(json!({
        "sound": is_cache_sound && left.is_empty(),
        "cache": cache,
        "content": {"documents": content.documents, "damaged": content.damaged, "restored": repaired.restored},
    }))
}

/// So many lines wait for a slow reader.
const LINES_MAX: usize = 16;
