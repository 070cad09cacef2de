//! What may be kept and served: a request and a response against the layer's settings (RFC 9111 §3, §4).
//!
//! Pure functions of headers and time. Whenever in doubt the answer is the service's own, uncached, with the reason in
//! one word; that word is the `detail` of `Cache-Status`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderName};
use http::{HeaderMap, Method, StatusCode, request, response};

use crate::clock::Timestamp;
use crate::engine::{Policy, TAGS_MAX};
use crate::key::{Key, Namespace};

use super::Tags;
use super::directives::{Directives, members};
use super::target::{escape, target};

/// Why something is not cached, in one word.
pub(super) type Reason = &'static str;

/// What a request's key is made of beside its namespace; `None`: not cached.
type KeyFn = dyn Fn(&request::Parts) -> Option<String> + Send + Sync;

/// The settings of a layer.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) namespace: Namespace,
    /// What the service is called among the sources of the cache.
    pub(super) name: String,
    pub(super) key: Arc<KeyFn>,
    /// Request headers whose values are part of the key.
    pub(super) vary_on: Vec<HeaderName>,
    /// Request headers that the key function has regard to.
    pub(super) covered: Vec<HeaderName>,
    pub(super) ttl: Option<Duration>,
    pub(super) statuses: Vec<StatusCode>,
    pub(super) body_bytes_max: usize,
    pub(super) shares_authorized: bool,
    pub(super) shares_with_cookies: bool,
}

/// What a request is answered by.
#[derive(Debug)]
pub(super) enum Plan {
    /// The service, and what it says is kept by nobody.
    Pass(Reason),
    /// The cache, or the service through it.
    Ask(Key, Directives),
}

/// How long a response lives, where it says so itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) ttl: Option<Duration>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
}

impl Rules {
    pub(super) fn new(namespace: Namespace) -> Self {
        Self {
            name: format!("the service behind {namespace}"),
            namespace,
            key: Arc::new(target),
            vary_on: Vec::new(),
            covered: Vec::new(),
            ttl: None,
            statuses: STATUSES.iter().filter_map(|status| StatusCode::from_u16(*status).ok()).collect(),
            body_bytes_max: BODY_BYTES_MAX,
            shares_authorized: false,
            shares_with_cookies: false,
        }
    }

    /// What the request is answered by; `has_body`, whether one comes with it.
    pub(super) fn plan(&self, request: &request::Parts, has_body: bool) -> Plan {
        let headers = &request.headers;
        let has = |name: HeaderName| headers.contains_key(name);
        let asked = Directives::of(headers);
        if request.method != Method::GET && request.method != Method::HEAD {
            return Plan::Pass("method");
        }
        let passed = [
            (has_body, "body"),
            (has(header::UPGRADE), "upgrade"),
            (has(header::RANGE) || has(header::IF_RANGE), "range"),
            (has(header::IF_MATCH) || has(header::IF_UNMODIFIED_SINCE), "precondition"),
            (asked.no_store, "no-store"),
            (asked.no_cache || asked.max_age == Some(Duration::ZERO) || is_pragma(headers), "no-cache"),
            (has(header::AUTHORIZATION) && !self.shares_authorized, "authorization"),
            (has(header::COOKIE) && !self.shares_with_cookies, "cookie"),
        ];
        if let Some((_, reason)) = passed.iter().find(|(applies, _)| *applies) {
            return Plan::Pass(reason);
        }
        self.key_of(request).map_or(Plan::Pass("key"), |key| Plan::Ask(key, asked))
    }

    /// The key that a `GET` of the same has; `None` for what has none, or one that is no key.
    pub(super) fn key_of(&self, request: &request::Parts) -> Option<Key> {
        let mut text = self.base_of(request)?;
        for name in &self.vary_on {
            text.push(' ');
            text.push_str(name.as_str());
            for (at, value) in request.headers.get_all(name).iter().enumerate() {
                text.push(if at == 0 { '=' } else { ',' });
                escape(value.as_bytes(), &mut text);
            }
        }
        Key::parse(text).ok()
    }

    /// The key without the headers it varies on: all variants begin with it and a space.
    pub(super) fn base_of(&self, request: &request::Parts) -> Option<String> {
        Some(format!("{}:{}", self.namespace, (self.key)(request)?))
    }

    /// How long the response may be kept, or why it may not.
    pub(super) fn lifetime(
        &self,
        response: &response::Parts,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Lifetime, Reason> {
        let headers = &response.headers;
        let said = Directives::of(headers);
        let refused = [
            (!self.statuses.contains(&response.status) || is_never_kept(response.status), "status"),
            (headers.contains_key(header::SET_COOKIE), "set-cookie"),
            (said.no_store, "no-store"),
            (said.is_private, "private"),
            (said.no_cache, "no-cache"),
            (!self.covers(headers), "vary"),
            (headers.contains_key(header::CONTENT_RANGE), "range"),
            (is_endless(headers), "stream"),
            (head_bytes(headers) > HEAD_BYTES_MAX, "size"),
            (response.extensions.get::<Tags>().is_some_and(|tags| tags.0.len() > TAGS_MAX), "tags"),
        ];
        if let Some((_, reason)) = refused.iter().find(|(applies, _)| *applies) {
            return Err(reason);
        }
        let ttl = explicit_ttl(headers, &said, now).or(self.ttl).or_else(|| {
            // That something is not there is believed for a shorter time.
            (response.status.as_u16() >= 400).then_some(policy.negative_ttl)
        });
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return Err("expired");
        }
        let mut lifetime = Lifetime {
            ttl,
            stale_while_revalidate: said.stale_while_revalidate,
            stale_if_error: said.stale_if_error,
        };
        if said.must_revalidate {
            (lifetime.stale_while_revalidate, lifetime.stale_if_error) =
                (Some(Duration::ZERO), Some(Duration::ZERO));
        } else if said.shared_max_age.is_some() {
            // For shared caches the same, unless the response allows it in so many words.
            lifetime.stale_while_revalidate.get_or_insert(Duration::ZERO);
            lifetime.stale_if_error.get_or_insert(Duration::ZERO);
        }
        Ok(lifetime)
    }

    /// Whether the key tells apart all that the response says it varies on.
    fn covers(&self, headers: &HeaderMap) -> bool {
        let is_text = headers.get_all(header::VARY).iter().all(|field| field.to_str().is_ok());
        let is_told_apart = |varied: &str| {
            let mut names = self.vary_on.iter().chain(&self.covered);
            varied != "*" && names.any(|name| varied.eq_ignore_ascii_case(name.as_str()))
        };
        is_text && members(headers, header::VARY).all(is_told_apart)
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("namespace", &self.namespace)
            .field("vary_on", &self.vary_on)
            .field("ttl", &self.ttl)
            .field("body_bytes_max", &self.body_bytes_max)
            .finish_non_exhaustive()
    }
}

/// What the response itself says, less the age it came with.
fn explicit_ttl(headers: &HeaderMap, said: &Directives, now: Timestamp) -> Option<Duration> {
    let by_date = || {
        let present = SystemTime::UNIX_EPOCH + Duration::from_millis(now.as_millis());
        let date = headers.get(header::DATE).and_then(date_of).unwrap_or(present);
        // What is no date has passed; of several, the nearest holds.
        let left = |at| date_of(at).and_then(|at| at.duration_since(date).ok()).unwrap_or_default();
        headers.get_all(header::EXPIRES).iter().map(left).min()
    };
    let lifetime = said.shared_max_age.or(said.max_age).or_else(by_date)?;
    Some(lifetime.saturating_sub(age_of(headers)))
}

/// The age the response had when it came from the service.
pub(super) fn age_of(headers: &HeaderMap) -> Duration {
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(age.unwrap_or(0).min(u64::from(u32::MAX)))
}

pub(super) fn date_of(value: &http::HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// HTTP/1.0's way to say `no-cache`, heard only where `Cache-Control` says nothing.
fn is_pragma(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::CACHE_CONTROL)
        && members(headers, header::PRAGMA).any(|member| member.eq_ignore_ascii_case("no-cache"))
}

/// A part of something, an answer to a condition, or a step on the way: no response of its own, whatever the settings.
fn is_never_kept(status: StatusCode) -> bool {
    status.is_informational() || [StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// Whether the body is one that is sent as it comes about.
fn is_endless(headers: &HeaderMap) -> bool {
    let media_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ENDLESS.iter().any(|endless| {
        media_type.get(..endless.len()).is_some_and(|start| start.eq_ignore_ascii_case(endless))
    })
}

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// The largest head that is kept, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

const ENDLESS: &[&str] = &["text/event-stream", "multipart/x-mixed-replace", "application/grpc"];

/// Those that RFC 9110 §15.1 lets a cache keep without being told, less 206, which is a part.
const STATUSES: &[u16] = &[200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// The largest body that is kept, unless told otherwise, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
