//! `POST /admin/v1/warm`: a warming, told line by line while it goes on.
//!
//! NDJSON, or server-sent events where those are asked for; the last line is the summary. A client that leaves does not
//! end the warming, and one that reads slowly misses lines, never the summary.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::engine::{WarmReport, Warmed, Warmth};
use crate::error::{Error, ErrorKind};
use crate::server::warm::{KINDS, Warmer};

use super::Site;
use super::problem::Problem;

/// What a warming can be told.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    only: Vec<String>,
}

/// `POST /admin/v1/warm`
pub(super) async fn warm(
    State(site): State<Site>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Problem> {
    let asked = asked(&body_of(body).await?)?;
    let is_events = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream")));
    let (lines, mut received) = mpsc::channel::<Bytes>(LINES_MAX);
    tokio::spawn(tell(site.warmer.clone(), asked, lines, is_events));
    let stream = futures_util::stream::poll_fn(move |context| received.poll_recv(context));
    let stream = futures_util::StreamExt::map(stream, Ok::<_, std::convert::Infallible>);
    let mut response = Response::new(Body::from_stream(stream));
    let form = if is_events { "text/event-stream" } else { "application/x-ndjson" };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn body_of(body: Body) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        let message = format!("the body cannot be read, or is longer than {BODY_BYTES_MAX} bytes");
        Error::new(ErrorKind::DocumentTooLarge, message).into()
    })
}

fn asked(body: &[u8]) -> Result<Asked, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(Asked::default());
    }
    let refused = |why: String, place: &str| Error::new(ErrorKind::DocumentInvalid, why).at(place);
    // Through a map, because a struct may be written as a list too.
    let fields: serde_json::Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| refused(error.to_string(), "body"))?;
    let asked: Asked =
        serde_json::from_value(Value::Object(fields)).map_err(|error| refused(error.to_string(), "body"))?;
    let is_known = |kind: &String| KINDS.contains(&kind.as_str());
    if let Some(unknown) = asked.only.iter().find(|kind| !is_known(kind)) {
        let shown: String = unknown.chars().take(50).collect();
        return Err(refused(format!("{shown:?} is not one of {}", KINDS.join(", ")), "only").into());
    }
    Ok(asked)
}

async fn tell(warmer: Warmer, asked: Asked, lines: mpsc::Sender<Bytes>, is_events: bool) {
    let mut done = 0_u64;
    let mut told = |warmed: &Warmed, total: usize| {
        done += 1;
        // Full or gone: this line is lost, which the numbers of the next one show.
        lines.try_send(line(&progress(warmed, done, total), "progress", is_events)).unwrap_or_default();
    };
    let report = warmer.run(&asked.only, &mut told).await;
    lines.send(line(&summary(&report), "summary", is_events)).await.unwrap_or_default();
}

fn progress(warmed: &Warmed, done: u64, total: usize) -> Value {
    let mut line = json!({"done": done, "total": total, "key": warmed.key.as_str()});
    let result = match &warmed.result {
        Ok(Warmth::Fresh) => "fresh",
        Ok(Warmth::Loaded(bytes)) => {
            line["bytes"] = json!(bytes);
            "loaded"
        }
        Ok(_) => "absent",
        Err(error) => {
            line["error"] = json!(error.to_string());
            "failed"
        }
    };
    line["result"] = json!(result);
    line
}

fn summary(report: &WarmReport) -> Value {
    json!({
        "done": report.keys, "total": report.keys, "summary": true, "loaded": report.loaded, "fresh": report.fresh,
        "absent": report.absent, "failed": report.failed, "bytes": report.bytes,
        "seconds": report.elapsed.as_secs_f64(),
    })
}

fn line(value: &Value, name: &str, is_events: bool) -> Bytes {
    if is_events { format!("event: {name}\ndata: {value}\n\n").into() } else { format!("{value}\n").into() }
}

/// The largest request that is read.
const BODY_BYTES_MAX: usize = 64 << 10;

/// So many lines wait for a slow reader.
const LINES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_known_types_or_nothing() {
        assert!(asked(b"").unwrap().only.is_empty() && asked(b" {} ").unwrap().only.is_empty());
        assert_eq!(asked(br#"{"only":["reciters"]}"#).unwrap().only, ["reciters"]);
        for wrong in ["[]", "{", r#"{"only":"surahs"}"#, r#"{"only":["verses"]}"#, r#"{"onyl":[]}"#] {
            assert!(asked(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
