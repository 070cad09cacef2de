//! Another HTTP service as a source: what is asked of it, and what its answers mean.
//!
//! Promises: an answer is a value only when it is complete, of the right media type, within its size and accepted by
//! whoever knows what the key stands for; it is asked conditionally where it gave an entity tag; a body that is cut off
//! or does not come is a failure and may be tried again, rubbish is refused. It repeats nothing and keeps no time
//! itself: the engine does. It does not know the engine, the tiers, or what a body means.

mod client;

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::{Response, StatusCode};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::source::{Ask, Load, Loaded, Loading, Source};

use client::Client;

/// What the keys of an origin stand for.
pub(crate) trait Shapes: Send + Sync + fmt::Debug {
    /// The path and query that a key is asked under, below the origin's address; `None` for what it does not have.
    fn path(&self, key: KeyRef<'_>) -> Option<String>;

    /// The value out of the body of a whole answer, checked.
    ///
    /// # Errors
    /// [`ErrorKind::SourceRefused`] with what is wrong about it.
    fn accept(&self, key: KeyRef<'_>, body: &[u8]) -> Result<Loaded>;

    /// What a "not found" with this `code` in its problem document means.
    ///
    /// # Errors
    /// For what is known but cannot be had, or must be there.
    fn missing(&self, key: KeyRef<'_>, code: Option<&str>) -> Result<Load>;
}

/// A service that content is read from.
#[derive(Debug)]
pub(crate) struct Origin<S> {
    client: Client,
    shapes: S,
    body_bytes_max: u64,
    name: String,
}

impl<S: Shapes> Origin<S> {
    /// The service at `url` (`http` or `https`), below which the paths of `shapes` stand; trusted over `https` are the
    /// `authorities` in a file, else those of the system.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when `url` is not the address of a service, or no certificate authority is known for
    /// `https`.
    pub(crate) fn new(url: &str, authorities: Option<&Path>, shapes: S, body_bytes_max: u64) -> Result<Self> {
        let url = url.trim_end_matches('/');
        let client = Client::new(url, authorities)?;
        Ok(Self { client, shapes, body_bytes_max, name: format!("origin {url}") })
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<Load> {
        let Some(path) = self.shapes.path(ask.key) else { return Ok(Load::Absent) };
        let response = self.client.get(&path, ask.validator).await?;
        let status = response.status();
        match status {
            StatusCode::OK => self.value(ask, response).await,
            StatusCode::NOT_MODIFIED if ask.validator.is_some() => Ok(Load::NotModified),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                // The code is a nicety: where it cannot be read, the status says enough.
                let body = self.body(ask, response, PROBLEM_BYTES_MAX).await.unwrap_or_default();
                let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
                self.shapes.missing(ask.key, problem.code.as_deref())
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(unavailable(status)),
            _ if status.is_server_error() => Err(unavailable(status)),
            _ => Err(refused(format!(
                "the origin answered {status}, which is neither content nor its absence"
            ))),
        }
    }

    async fn value(&self, ask: Ask<'_>, response: Response<Incoming>) -> Result<Load> {
        let headers = response.headers();
        let content_type = text(headers, &header::CONTENT_TYPE).unwrap_or_default();
        if !is_json(content_type) {
            let shown: String = content_type.chars().take(SHOWN_CHARS_MAX).collect();
            return Err(refused(format!("the origin answered with {shown:?}, expected JSON")));
        }
        if let Some(coding) = text(headers, &header::CONTENT_ENCODING).filter(|coding| *coding != "identity")
        {
            let shown: String = coding.chars().take(SHOWN_CHARS_MAX).collect();
            return Err(refused(format!(
                "the origin answered in the coding {shown:?}, which was not asked for"
            )));
        }
        let etag = text(headers, &header::ETAG).map(ToOwned::to_owned);
        let modified_at = text(headers, &header::LAST_MODIFIED).and_then(date);
        let body = self.body(ask, response, self.body_bytes_max).await?;
        let mut loaded = self.shapes.accept(ask.key, &body)?;
        loaded.validator = etag;
        loaded.modified_at = modified_at.or(loaded.modified_at);
        Ok(loaded.into())
    }

    /// The whole body, of at most `bytes_max`.
    async fn body(&self, ask: Ask<'_>, response: Response<Incoming>, bytes_max: u64) -> Result<Vec<u8>> {
        let too_large = || refused(format!("the origin's answer is longer than {bytes_max} bytes"));
        let claimed =
            text(response.headers(), &header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if claimed.is_some_and(|claimed| claimed > bytes_max) {
            return Err(too_large());
        }
        let mut incoming = response.into_body();
        let mut body: Vec<u8> = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| {
                Error::new(ErrorKind::SourceUnavailable, "the origin broke its answer off").because(error)
            })?;
            let Ok(piece) = frame.into_data() else { continue };
            if (body.len() + piece.len()) as u64 > bytes_max {
                return Err(too_large());
            }
            if body.capacity() - body.len() < piece.len() {
                // What the buffer takes counts, not how much of it is full.
                let more = piece.len().max(body.len() / 2);
                ask.take_room(more as u64)?;
                body.reserve_exact(more);
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

impl<S: Shapes> Source for Origin<S> {
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        Box::pin(self.ask(ask))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The one field of an error answer that is read.
#[derive(Debug, Default, serde::Deserialize)]
struct Problem {
    code: Option<String>,
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// `application/json`, or another type with the suffix `+json`.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn date(text: &str) -> Option<Timestamp> {
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp::default().after(since_epoch.min(DATE_MAX)))
}

fn unavailable(status: StatusCode) -> Error {
    Error::new(ErrorKind::SourceUnavailable, format!("the origin answered {status}"))
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::SourceRefused, message)
}

/// Of an error answer, no more is read.
const PROBLEM_BYTES_MAX: u64 = 64 << 10;

/// Of what an origin says, no more is repeated in a message.
const SHOWN_CHARS_MAX: usize = 60;

/// Dates beyond the year 9999 are cut there.
const DATE_MAX: Duration = Duration::from_secs(253_402_300_799);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_media_type() {
        for good in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/hal+json",
        ] {
            assert!(is_json(good), "{good}");
        }
        for other in ["", "text/html", "text/json", "application/octet-stream", "application/jsonx"] {
            assert!(!is_json(other), "{other}");
        }
    }

    #[test]
    fn a_date_is_read_and_anything_else_is_none() {
        assert_eq!(date("Thu, 01 Jan 1970 00:00:10 GMT"), Some(Timestamp::from_millis(10_000)));
        assert_eq!(date("yesterday"), None);
    }
}
