//! From an entry to a response: negotiation, conditions, ranges, freshness and where the answer came from.
//!
//! The body is the entry's own bytes, shared and not copied. [`decide`] is the one place where it is decided what is
//! sent; it sees headers, lengths and tags, and no body.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use bytes::Bytes;

use crate::clock::Timestamp;
use crate::engine::{Cache, Outcome, Policy};
use crate::entry::{Entry, Head};
use crate::error::Result;

use super::coding::{Accepted, Coding};
use super::conditions::{Etag, Fields, Verdict, joined};
use super::problem::Problem;
use super::range::{self, RangeAsked};

/// The header that says what the cache did (RFC 9211).
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// One form in which a resource can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) coding: Coding,
    pub(super) etag: Etag,
    pub(super) length: usize,
}

/// What a request comes to, before any body is touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Whole(Form),
    Part(Form, Range<usize>),
    Unchanged(Etag),
    Failed,
    NotAcceptable,
    Beyond(Form),
}

/// The headers of a request that decide about what is sent.
#[derive(Debug, Default)]
pub(super) struct Asked<'h> {
    pub(super) accept_encoding: Option<std::borrow::Cow<'h, [u8]>>,
    pub(super) conditions: Fields<'h>,
    /// Of GET requests alone: ranges are defined for no other method.
    pub(super) range: Option<std::borrow::Cow<'h, [u8]>>,
}

impl<'h> Asked<'h> {
    pub(super) fn of(method: &Method, headers: &'h HeaderMap) -> Self {
        let range = (method == Method::GET).then(|| joined(headers, header::RANGE)).flatten();
        let accept_encoding = joined(headers, header::ACCEPT_ENCODING);
        Self { accept_encoding, conditions: Fields::of(headers), range }
    }
}

/// What is sent of a resource that can be had in `forms` and changed last at `modified_at_secs`.
pub(super) fn decide(asked: &Asked<'_>, forms: &[Form], modified_at_secs: u64) -> Decision {
    let accepted = asked.accept_encoding.as_deref().map_or(Accepted::PLAIN, Accepted::parse);
    let chosen = accepted.choose(|coding| forms.iter().any(|form| form.coding == coding));
    let Some(chosen) = forms.iter().find(|form| Some(form.coding) == chosen) else {
        return Decision::NotAcceptable;
    };
    // Without the header every form is acceptable, though only the plain one is sent.
    let takes = |form: &&Form| asked.accept_encoding.is_none() || accepted.takes(form.coding);
    let others = forms.iter().filter(|form| *form != chosen).filter(takes);
    let tags: Vec<Etag> = std::iter::once(chosen).chain(others).map(|form| form.etag).collect();
    match asked.conditions.judge(&tags, modified_at_secs) {
        Verdict::Failed => return Decision::Failed,
        Verdict::Unchanged(etag) => return Decision::Unchanged(etag),
        Verdict::Proceed => {}
    }
    let Some(range) = &asked.range else { return Decision::Whole(*chosen) };
    if !asked.conditions.allows_range(chosen.etag, modified_at_secs) {
        return Decision::Whole(*chosen);
    }
    match range::parse(range, chosen.length) {
        RangeAsked::Whole => Decision::Whole(*chosen),
        RangeAsked::Part(part) => Decision::Part(*chosen, part),
        RangeAsked::Beyond => Decision::Beyond(*chosen),
    }
}

/// Who may keep an answer beside the client that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Every cache in between.
    Public,
    /// Nobody: it belongs to one user.
    Private,
}

/// What a response is rendered from.
pub(super) struct Representation<'r> {
    body: Bytes,
    head: Head<'r>,
    entry: &'r Entry,
    outcome: Outcome,
    sharing: Sharing,
}

impl<'r> Representation<'r> {
    /// The whole body of what the cache answered.
    pub(super) fn whole(entry: &'r Entry, outcome: Outcome) -> Result<Self> {
        let head = Head::decode(entry.head())?;
        Ok(Self { body: entry.body_shared(), head, entry, outcome, sharing: Sharing::Public })
    }

    /// A part of what the cache answered, as a resource of its own with a tag of its own.
    pub(super) fn part(entry: &'r Entry, outcome: Outcome, body: Vec<u8>) -> Result<Self> {
        let whole = Self::whole(entry, outcome)?;
        let head = Head { etag: xxhash_rust::xxh3::xxh3_128(&body), ..whole.head };
        Ok(Self { body: body.into(), head, ..whole })
    }

    /// The same for one user's eyes alone.
    pub(super) fn private(self) -> Self {
        Self { sharing: Sharing::Private, ..self }
    }

    /// The response to a request with `method` and `asked` as its headers.
    pub(super) fn respond(self, cache: &Cache, method: &Method, asked: &HeaderMap) -> Response<Body> {
        let modified_at_secs = self.head.modified_at_ms / 1000;
        let forms = self.forms();
        let (form, part) = match decide(&Asked::of(method, asked), &forms, modified_at_secs) {
            Decision::Whole(form) => (form, None),
            Decision::Part(form, range) => (form, Some(range)),
            Decision::Unchanged(etag) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                self.describe(response.headers_mut(), etag, cache);
                return response;
            }
            Decision::Failed => return precondition_failed().into_response(),
            Decision::NotAcceptable => return not_acceptable(&forms).into_response(),
            Decision::Beyond(form) => return beyond(form.length).into_response(),
        };
        self.send(form, part, cache, method)
    }

    /// The forms it can be sent in.
    fn forms(&self) -> Vec<Form> {
        let etag = Etag { digest: self.head.etag, mark: None };
        vec![Form { coding: Coding::Identity, etag, length: self.body.len() }]
    }

    fn send(self, form: Form, part: Option<Range<usize>>, cache: &Cache, method: &Method) -> Response<Body> {
        let body = part.as_ref().map_or_else(|| self.body.clone(), |part| self.body.slice(part.clone()));
        let length = body.len();
        let body = if method == Method::HEAD { Body::empty() } else { Body::from(body) };
        let mut response = Response::new(body);
        if part.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        let headers = response.headers_mut();
        self.describe(headers, form.etag, cache);
        put(headers, header::CONTENT_TYPE, self.head.content_type);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(name) = form.coding.name() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
        }
        if let Some(part) = part {
            // A part is never empty.
            let range = format!("bytes {}-{}/{}", part.start, part.end - 1, form.length);
            put(headers, header::CONTENT_RANGE, &range);
        }
        response
    }

    /// What is said of every form and also without a body: validators, freshness, origin.
    fn describe(&self, headers: &mut HeaderMap, etag: Etag, cache: &Cache) {
        let policy = cache.policy(self.entry.key().namespace());
        let (now, modified_at) = (cache.now(), Duration::from_secs(self.head.modified_at_ms / 1000));
        put(headers, header::ETAG, &etag.to_string());
        put(headers, header::LAST_MODIFIED, &httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + modified_at));
        put(headers, header::CACHE_CONTROL, &cache_control(&policy, self.sharing));
        put(headers, header::AGE, &now.since(self.entry.stored_at()).as_secs().to_string());
        put(headers, CACHE_STATUS, &cache_status(self.outcome, self.entry, now));
        headers.insert(header::VARY, HeaderValue::from_static(self.sharing.varies_by()));
    }
}

impl Sharing {
    fn varies_by(self) -> &'static str {
        match self {
            Self::Public => "accept-encoding",
            Self::Private => "accept-encoding, authorization",
        }
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Every value here is made of visible ASCII; one that is not (a foreign media type) is better left out than sent.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn cache_control(policy: &Policy, sharing: Sharing) -> String {
    let max_age = policy.client_max_age.or(policy.ttl).unwrap_or(FOREVER);
    let who = if sharing == Sharing::Public { "public" } else { "private" };
    format!("{who}, max-age={}", max_age.as_secs())
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

fn precondition_failed() -> Problem {
    let detail = "the resource is no longer in the state that the request names";
    Problem::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED", detail)
}

fn not_acceptable(forms: &[Form]) -> Problem {
    let names: Vec<_> = forms.iter().map(|form| form.coding.name().unwrap_or("identity")).collect();
    let detail =
        format!("the Accept-Encoding of the request refuses every form there is: {}", names.join(", "));
    Problem::new(StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE", detail)
        .with(header::VARY, HeaderValue::from_static(Sharing::Public.varies_by()))
}

fn beyond(length: usize) -> Problem {
    let detail = format!("the range lies beyond the end, the document has {length} bytes");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_NOT_SATISFIABLE", detail);
    match HeaderValue::from_str(&format!("bytes */{length}")) {
        Ok(range) => problem.with(header::CONTENT_RANGE, range),
        Err(_) => problem,
    }
}

/// What `max-age` says of an answer that never expires: a year.
const FOREVER: Duration = Duration::from_hours(365 * 24);
