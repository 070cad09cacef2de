//! From what the cache or the service gave to the response that is sent.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, request};
use http_body::Body;

use crate::clock::Timestamp;
use crate::engine::Outcome;
use crate::entry::Entry;

use super::body::CacheBody;
use super::directives::{Directives, members};
use super::message;
use super::rules::{Reason, age_of, date_of};

/// The parts of a request that its answer depends on, whoever gives it.
#[derive(Debug)]
pub(super) struct Asked {
    is_head: bool,
    none_match: Vec<String>,
    modified_since: Option<HeaderValue>,
}

impl Asked {
    /// Takes out of `request` what the layer answers itself, so that the service's answer is whole and fit to be kept.
    pub(super) fn taken_from(request: &mut request::Parts) -> Self {
        let headers = &mut request.headers;
        let none_match = members(headers, header::IF_NONE_MATCH).map(str::to_owned).collect();
        let asked = Self {
            is_head: request.method == Method::HEAD,
            none_match,
            modified_since: headers.remove(header::IF_MODIFIED_SINCE),
        };
        headers.remove(header::IF_NONE_MATCH);
        request.method = Method::GET;
        asked
    }

    /// The answer to what was asked, out of the `whole` response to a plain `GET`.
    pub(super) fn out_of<B: Body>(&self, whole: Response<CacheBody<B>>) -> Response<CacheBody<B>> {
        let (mut parts, body) = whole.into_parts();
        if parts.status == StatusCode::OK && self.has_already(&parts.headers) {
            parts.status = StatusCode::NOT_MODIFIED;
            for name in OF_CONTENT {
                parts.headers.remove(name);
            }
            return Response::from_parts(parts, CacheBody::empty());
        }
        if !self.is_head {
            return Response::from_parts(parts, body);
        }
        let has_length = ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&parts.status)
            && !parts.headers.contains_key(header::TRANSFER_ENCODING);
        if let Some(length) = body.size_hint().exact().filter(|_| has_length) {
            parts.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        }
        Response::from_parts(parts, CacheBody::empty())
    }

    /// Whether the client has the response with these `headers` (RFC 9110 §13.1.2, §13.1.3).
    fn has_already(&self, headers: &HeaderMap) -> bool {
        if !self.none_match.is_empty() {
            let own = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(opaque);
            return self.none_match.iter().any(|tag| tag == "*" || Some(opaque(tag)) == own);
        }
        let changed = headers.get(header::LAST_MODIFIED).and_then(date_of);
        let since = self.modified_since.as_ref().and_then(date_of);
        changed.zip(since).is_some_and(|(changed, since)| changed <= since)
    }
}

/// A response that was kept, with its age and where it came from; `None` when the entry is not one.
pub(super) fn kept<B: Body>(
    entry: &Entry,
    outcome: Outcome,
    now: Timestamp,
) -> Option<Response<CacheBody<B>>> {
    let (status, headers, body) = message::read(entry.body_shared())?;
    let mut response = Response::new(CacheBody::whole(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let age = age(entry, response.headers(), now);
    response.headers_mut().insert(header::AGE, HeaderValue::from(age));
    say(response.headers_mut(), &cache_status(outcome, entry, now));
    Some(response)
}

/// Whether `entry` is what the directives of a request want; by its own lifetime it is fit to be served.
pub(super) fn suits(entry: &Entry, asked: &Directives, now: Timestamp) -> bool {
    let is_young = asked.max_age.is_none_or(|most| {
        let headers = message::read(entry.body_shared()).map(|(_, headers, _)| headers);
        age(entry, &headers.unwrap_or_default(), now) <= most.as_secs()
    });
    is_young && asked.min_fresh.is_none_or(|least| entry.expires_at().since(now) >= least)
}

/// Seconds since the service, or whoever is behind it, made the response.
fn age(entry: &Entry, headers: &HeaderMap, now: Timestamp) -> u64 {
    age_of(headers).saturating_add(now.since(entry.stored_at())).as_secs()
}

/// What is said of a response that was not taken from the cache.
pub(super) fn passed(headers: &mut HeaderMap, forward: &str, reason: Option<Reason>) {
    let mut status = format!("hifz; fwd={forward}");
    if let Some(reason) = reason {
        // Writing into a String cannot fail.
        write!(status, "; detail={reason}").unwrap_or_default();
    }
    say(headers, &status);
}

/// No response of the service, as the request wanted none.
pub(super) fn gateway_timeout<B: Body>() -> Response<CacheBody<B>> {
    let mut response = Response::new(CacheBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    say(response.headers_mut(), "hifz; detail=only-if-cached");
    response
}

/// Each cache on the way adds what it did (RFC 9211 §2).
fn say(headers: &mut HeaderMap, status: &str) {
    if let Ok(value) = HeaderValue::from_str(status) {
        headers.append(CACHE_STATUS, value);
    }
}

fn cache_status(outcome: Outcome, entry: &Entry, now: Timestamp) -> String {
    let late = || now.since(entry.expires_at()).as_secs();
    match outcome {
        Outcome::Hit if entry.expires_at() == Timestamp::NEVER => "hifz; hit".to_owned(),
        Outcome::Hit => format!("hifz; hit; ttl={}", entry.expires_at().since(now).as_secs()),
        Outcome::Joined => "hifz; fwd=miss; collapsed; detail=joined".to_owned(),
        Outcome::Miss => "hifz; fwd=miss; stored".to_owned(),
        stale if stale.is_hit() => format!("hifz; hit; ttl=-{}; detail={}", late(), stale.name()),
        other => format!("hifz; fwd=bypass; detail={}", other.name()),
    }
}

/// A tag without the mark of weakness: those are compared here.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What describes a body that is not sent.
const OF_CONTENT: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::TRANSFER_ENCODING,
];
