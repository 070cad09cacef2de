//! From an entry to a response: validators, age, freshness and where the answer came from.
//!
//! The body is the entry's own bytes, shared and not copied. Conditional requests (RFC 9110 §13) are answered from the
//! entry's head alone.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;

use crate::clock::Timestamp;
use crate::engine::{Answer, Cache, Outcome, Policy};
use crate::entry::{Entry, Head};
use crate::error::Result;

/// The header that says what the cache did (RFC 9211).
pub(super) const CACHE_STATUS: header::HeaderName = header::HeaderName::from_static("cache-status");

/// What a response is rendered from.
pub(super) struct Representation<'r> {
    pub(super) body: Bytes,
    pub(super) head: Head<'r>,
    pub(super) entry: &'r Entry,
    pub(super) outcome: Outcome,
}

impl<'r> Representation<'r> {
    /// The whole body of what the cache answered.
    pub(super) fn whole(answer: &'r Answer) -> Result<Self> {
        let head = Head::decode(answer.entry.head())?;
        Ok(Self { body: answer.entry.body_shared(), head, entry: &answer.entry, outcome: answer.outcome })
    }

    /// A part of what the cache answered, as a resource of its own with a tag of its own.
    pub(super) fn part(answer: &'r Answer, body: Vec<u8>) -> Result<Self> {
        let whole = Self::whole(answer)?;
        let head = Head { etag: xxhash_rust::xxh3::xxh3_128(&body), ..whole.head };
        Ok(Self { body: body.into(), head, ..whole })
    }

    /// The response to a request with `method` and `asked` as its headers.
    pub(super) fn respond(self, cache: &Cache, method: &Method, asked: &HeaderMap) -> Response<Body> {
        let etag = format!("\"{:032x}\"", self.head.etag);
        let modified_at = Duration::from_millis(self.head.modified_at_ms);
        let policy = cache.policy(self.entry.key().namespace());
        let is_unchanged = is_unchanged(asked, &etag, modified_at.as_secs());
        let length = self.body.len();
        let body = if is_unchanged || method == Method::HEAD { Body::empty() } else { Body::from(self.body) };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        let last_modified =
            httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(modified_at.as_secs()));
        put(headers, header::ETAG, &etag);
        put(headers, header::LAST_MODIFIED, &last_modified);
        put(headers, header::CACHE_CONTROL, &cache_control(&policy));
        put(headers, header::AGE, &cache.now().since(self.entry.stored_at()).as_secs().to_string());
        put(headers, CACHE_STATUS, &cache_status(self.outcome, self.entry, cache.now()));
        if is_unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            put(headers, header::CONTENT_TYPE, self.head.content_type);
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        response
    }
}

fn put(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    // Every value here is made of visible ASCII; one that is not (a foreign media type) is better left out than sent.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn cache_control(policy: &Policy) -> String {
    let max_age = policy.client_max_age.or(policy.ttl).unwrap_or(FOREVER);
    format!("public, max-age={}", max_age.as_secs())
}

fn cache_status(outcome: Outcome, entry: &Entry, now: Timestamp) -> String {
    let mut status = String::from("hifz; ");
    match outcome {
        Outcome::Hit if entry.expires_at() == Timestamp::NEVER => status.push_str("hit"),
        Outcome::Hit => {
            let ttl = entry.expires_at().since(now).as_secs();
            // Writing into a String cannot fail.
            write!(status, "hit; ttl={ttl}").unwrap_or_default();
        }
        Outcome::Miss => status.push_str("fwd=miss; stored"),
        Outcome::Joined => status.push_str("fwd=miss; collapsed; detail=joined"),
        Outcome::Stale | Outcome::Revalidating | Outcome::Fallback => {
            let late = now.since(entry.expires_at()).as_secs();
            write!(status, "hit; ttl=-{late}; detail={}", outcome.name()).unwrap_or_default();
        }
        Outcome::Negative => status.push_str("hit; detail=negative"),
        Outcome::Bypass => status.push_str("fwd=bypass"),
        Outcome::Rejected => status.push_str("fwd=miss; detail=rejected"),
    }
    status
}

/// Whether the client has this already: `If-None-Match` by weak comparison, else `If-Modified-Since` to the second.
fn is_unchanged(asked: &HeaderMap, etag: &str, modified_at_secs: u64) -> bool {
    if asked.contains_key(header::IF_NONE_MATCH) {
        return asked
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|candidate| candidate == "*" || candidate.trim_start_matches("W/") == etag);
    }
    let since = asked.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    since.and_then(|since| httpdate::parse_http_date(since).ok()).is_some_and(|since| {
        since.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| modified_at_secs <= since.as_secs())
    })
}

/// What `max-age` says of an answer that never expires: a year.
const FOREVER: Duration = Duration::from_hours(365 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_names_the_tag_or_a_later_date_has_it_already() {
        let asked = |name, value: &str| HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]);
        let etag = "\"a\"";
        for (value, unchanged) in
            [("\"a\"", true), ("W/\"a\"", true), ("\"b\", \"a\"", true), ("*", true), ("\"b\"", false)]
        {
            assert_eq!(is_unchanged(&asked(header::IF_NONE_MATCH, value), etag, 0), unchanged, "{value}");
        }
        let date = "Thu, 01 Jan 1970 00:00:10 GMT";
        assert!(is_unchanged(&asked(header::IF_MODIFIED_SINCE, date), etag, 10));
        assert!(!is_unchanged(&asked(header::IF_MODIFIED_SINCE, date), etag, 11));
        assert!(!is_unchanged(&asked(header::IF_MODIFIED_SINCE, "yesterday"), etag, 0));
    }
}
