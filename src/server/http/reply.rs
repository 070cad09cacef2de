//! From an entry to a response: negotiation, conditions, ranges, freshness and where the answer came from.
//!
//! The body is the entry's own bytes, shared and not copied. [`decide`] is the one place where it is decided what is
//! sent; it sees headers, lengths and tags, and no body.

use std::ops::Range;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use bytes::Bytes;

use crate::clock::Timestamp;
use crate::engine::{Answer, Cache, Outcome, Policy};
use crate::entry::{Entry, Head};
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::server::outgoing::Held;

use super::coding::{Accepted, Coding};
use super::compress::plain_body;
use super::conditions::{Etag, Fields, Verdict, joined};
use super::date;
use super::problem::Problem;
use super::range::{self, RangeAsked};

/// One form in which a resource can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) coding: Coding,
    pub(super) etag: Etag,
    pub(super) length: usize,
    pub(super) place: Place,
}

/// Where the bytes of a form are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// They are the body of the entry.
    Body,
    /// From here on in its head.
    Head(usize),
    /// Nowhere: they are made from the body, which is compressed.
    Made,
}

/// The forms a resource can be sent in.
#[derive(Debug, Clone, Copy)]
pub(super) struct FormList {
    forms: [Form; Coding::ALL.len()],
    count: usize,
}

impl FormList {
    /// The plain form alone.
    fn plain(digest: u128, length: usize, place: Place) -> Self {
        let etag = Etag { digest, mark: None };
        let plain = Form { coding: Coding::Identity, etag, length, place };
        Self { forms: [plain; Coding::ALL.len()], count: 1 }
    }

    fn add(&mut self, form: Form) {
        if let Some(place) = self.forms.get_mut(self.count) {
            *place = form;
            self.count += 1;
        }
    }

    /// Those of what `entry` holds, by its head.
    pub(super) fn of(entry: &Entry, head: &Head<'_>) -> Self {
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let is_made = head.forms.plain_bytes.is_some();
        let plain_length = head.forms.plain_bytes.map_or(entry.body().len(), length);
        let mut forms = Self::plain(head.etag, plain_length, if is_made { Place::Made } else { Place::Body });
        // The coded bytes lie within the head they were read from.
        let mut start = head.forms.coded.as_ptr().addr().saturating_sub(entry.head().as_ptr().addr());
        for (coding, form) in Coding::ALL.into_iter().zip(head.forms.kept) {
            let Some(form) = form else { continue };
            let etag = Etag { digest: head.etag, mark: Some(form.mark) };
            let place = if is_made { Place::Body } else { Place::Head(start) };
            forms.add(Form { coding, etag, length: length(form.bytes), place });
            start = start.saturating_add(length(form.bytes));
        }
        forms
    }
}

impl std::ops::Deref for FormList {
    type Target = [Form];

    fn deref(&self) -> &[Form] {
        self.forms.get(..self.count).unwrap_or_default()
    }
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
    let mut tags = [chosen.etag; Coding::ALL.len()];
    let mut count = 1;
    for (tag, form) in tags.iter_mut().skip(1).zip(others) {
        *tag = form.etag;
        count += 1;
    }
    let tags = tags.get(..count).unwrap_or_default();
    match asked.conditions.judge(tags, modified_at_secs) {
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

/// The bytes of one form of what `entry` holds; `None` when they have to be made.
pub(super) fn form_bytes(entry: &Entry, form: Form) -> Option<&[u8]> {
    match form.place {
        Place::Body => Some(entry.body()),
        Place::Head(start) => entry.head().get(start..start.checked_add(form.length)?),
        Place::Made => None,
    }
}

/// Decides about any headers; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(super) fn drive(method: &str, headers: &HeaderMap) {
    let Ok(method) = method.parse() else { return };
    let mut forms = FormList::plain(7, 1000, Place::Body);
    let gzip = Etag { digest: 7, mark: Some(1) };
    forms.add(Form { coding: Coding::Gzip, etag: gzip, length: 400, place: Place::Head(0) });
    if let Decision::Part(form, part) = decide(&Asked::of(&method, headers), &forms, 9) {
        assert!(part.start < part.end && part.end <= form.length, "a part lies within its whole");
    }
}

/// Who may keep an answer beside the client that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Every cache in between.
    Public,
    /// Nobody: it belongs to one user.
    Private,
    /// Nobody, and the client only if it asks each time: it may be gone at any moment.
    Raw,
}

/// What a response is rendered from.
pub(super) struct Representation<'r> {
    /// A body that is not the entry's.
    own: Option<Bytes>,
    head: Head<'r>,
    entry: &'r Entry,
    outcome: Outcome,
    sharing: Sharing,
}

impl<'r> Representation<'r> {
    /// The whole body of what the cache answered.
    pub(super) fn whole(entry: &'r Entry, outcome: Outcome) -> Result<Self> {
        let head = Head::decode(entry.head())?;
        Ok(Self { own: None, head, entry, outcome, sharing: Sharing::Public })
    }

    /// An entry as it is, whoever put it there.
    pub(super) fn raw(entry: &'r Entry) -> Self {
        let head = Head::decode(entry.head()).unwrap_or_else(|_| Head {
            content_type: "application/octet-stream",
            etag: xxhash_rust::xxh3::xxh3_128(entry.body()),
            modified_at_ms: entry.stored_at().as_millis(),
            forms: crate::entry::Forms::default(),
        });
        Self { own: None, head, entry, outcome: Outcome::Hit, sharing: Sharing::Raw }
    }

    /// A part of what the cache answered, as a resource of its own with a tag of its own.
    pub(super) fn part(entry: &'r Entry, outcome: Outcome, body: Vec<u8>) -> Result<Self> {
        Ok(Self { own: Some(body.into()), ..Self::whole(entry, outcome)? })
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
        let held = self.held(form);
        match self.body(form) {
            Ok(body) => {
                let mut response = self.send((form, body), part, cache, method);
                response.extensions_mut().insert(held);
                response
            }
            Err(error) => Problem::from(error).into_response(),
        }
    }

    fn forms(&self) -> FormList {
        match &self.own {
            Some(own) => FormList::plain(xxhash_rust::xxh3::xxh3_128(own), own.len(), Place::Body),
            None => FormList::of(self.entry, &self.head),
        }
    }

    /// What a part or all of `form` is sent from.
    fn held(&self, form: Form) -> Held {
        match form.place {
            Place::Body | Place::Head(_) if self.own.is_none() => Held::Entry(self.entry.clone()),
            _ => Held::Own(form.length as u64),
        }
    }

    /// The bytes of `form`.
    fn body(&self, form: Form) -> Result<Bytes> {
        if let Some(own) = &self.own {
            return Ok(own.clone());
        }
        match form.place {
            Place::Body => Ok(self.entry.body_shared()),
            Place::Head(start) => Ok(self.entry.head_shared(start..start.saturating_add(form.length))),
            Place::Made if form.length > MADE_AT_ONCE_BYTES => {
                tokio::task::block_in_place(|| plain_body(self.entry)).map(|body| body.into_owned().into())
            }
            Place::Made => plain_body(self.entry).map(|body| body.into_owned().into()),
        }
    }

    fn send(
        self,
        (form, body): (Form, Bytes),
        part: Option<Range<usize>>,
        cache: &Cache,
        method: &Method,
    ) -> Response<Body> {
        // What is sent must be what is announced, whatever is stored.
        let body = match &part {
            _ if body.len() != form.length => return Problem::from(not_as_announced()).into_response(),
            Some(part) => body.slice(part.clone()),
            None => body,
        };
        let mut response =
            Response::new(if method == Method::HEAD { Body::empty() } else { Body::from(body) });
        if part.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        let headers = response.headers_mut();
        self.describe(headers, form.etag, cache);
        describe_body(headers, &form, self.head.content_type, part);
        response
    }

    fn describe(&self, lines: &mut impl Lines, etag: Etag, cache: &Cache) {
        let answered = Answered { entry: self.entry, outcome: self.outcome, sharing: self.sharing };
        answered.describe(lines, etag, self.head.modified_at_ms / 1000, cache);
    }
}

/// Where the head of an answer is written: into a map for hyper, or as bytes.
pub(super) trait Lines {
    /// One header whose value `write` appends.
    fn line(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>));

    /// One header with a value that is known.
    fn fixed(&mut self, name: &'static str, value: &str) {
        self.line(name, |bytes| bytes.extend_from_slice(value.as_bytes()));
    }
}

impl Lines for HeaderMap {
    fn line(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        let mut value = Vec::new();
        write(&mut value);
        // Every value is made of visible ASCII; one that is not (a foreign media type) is better left out than sent.
        if let Ok(value) = HeaderValue::try_from(value) {
            self.insert(HeaderName::from_static(name), value);
        }
    }
}

/// What is known of an answer beside its forms.
pub(super) struct Answered<'r> {
    pub(super) entry: &'r Entry,
    pub(super) outcome: Outcome,
    pub(super) sharing: Sharing,
}

impl Answered<'_> {
    /// What is said of every form and also without a body: validators, freshness, origin.
    pub(super) fn describe(&self, lines: &mut impl Lines, etag: Etag, modified_at_secs: u64, cache: &Cache) {
        let policy = cache.policy(self.entry.key().namespace());
        let now = cache.now();
        lines.line("etag", |value| etag.write(value));
        lines.line("last-modified", |value| date::write(value, modified_at_secs));
        lines.line("cache-control", |value| cache_control(value, &policy, self.sharing));
        lines.line("age", |value| write_number(value, now.since(self.entry.stored_at()).as_secs()));
        lines.line("cache-status", |value| cache_status(value, self.outcome, self.entry, now));
        lines.fixed("vary", self.sharing.varies_by());
    }
}

/// What is said of a body that is sent.
pub(super) fn describe_body(
    lines: &mut impl Lines,
    form: &Form,
    content_type: &str,
    part: Option<Range<usize>>,
) {
    lines.fixed("content-type", content_type);
    let length = part.as_ref().map_or(form.length, ExactSizeIterator::len);
    lines.line("content-length", |value| write_number(value, length as u64));
    lines.fixed("accept-ranges", "bytes");
    if let Some(name) = form.coding.name() {
        lines.fixed("content-encoding", name);
    }
    if let Some(part) = part {
        lines.line("content-range", |value| {
            value.extend_from_slice(b"bytes ");
            write_number(value, part.start as u64);
            value.push(b'-');
            // A part is never empty.
            write_number(value, part.end as u64 - 1);
            value.push(b'/');
            write_number(value, form.length as u64);
        });
    }
}

/// Decimal digits, without the detour through a formatter.
pub(super) fn write_number(value: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    value.extend_from_slice(&digits[at..]);
}

impl Sharing {
    fn varies_by(self) -> &'static str {
        match self {
            Self::Public => "accept-encoding",
            Self::Private | Self::Raw => "accept-encoding, authorization",
        }
    }
}

fn cache_control(value: &mut Vec<u8>, policy: &Policy, sharing: Sharing) {
    if sharing == Sharing::Raw {
        return value.extend_from_slice(b"private, no-cache");
    }
    let max_age = policy.client_max_age.or(policy.ttl).unwrap_or(FOREVER);
    let who = if sharing == Sharing::Public { "public" } else { "private" };
    value.extend_from_slice(who.as_bytes());
    value.extend_from_slice(b", max-age=");
    write_number(value, max_age.as_secs());
    let windows = [
        (&b", stale-while-revalidate="[..], policy.stale_while_revalidate),
        (&b", stale-if-error="[..], policy.stale_if_error),
    ];
    for (name, window) in windows.into_iter().filter(|(_, window)| window.as_secs() > 0) {
        value.extend_from_slice(name);
        write_number(value, window.as_secs());
    }
}

fn cache_status(value: &mut Vec<u8>, outcome: Outcome, entry: &Entry, now: Timestamp) {
    value.extend_from_slice(b"hifz; ");
    let said: &str = match outcome {
        Outcome::Hit if entry.expires_at() == Timestamp::NEVER => "hit",
        Outcome::Hit => {
            value.extend_from_slice(b"hit; ttl=");
            return write_number(value, entry.expires_at().since(now).as_secs());
        }
        Outcome::Stale | Outcome::Revalidating | Outcome::Fallback => {
            value.extend_from_slice(b"hit; ttl=-");
            write_number(value, now.since(entry.expires_at()).as_secs());
            value.extend_from_slice(b"; detail=");
            outcome.name()
        }
        Outcome::Miss => "fwd=miss; stored",
        other => forwarded(Some(other)),
    };
    value.extend_from_slice(said.as_bytes());
}

/// What is said of an answer that had to be asked for, or of one without an entry.
fn forwarded(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Joined) => "fwd=miss; collapsed; detail=joined",
        Some(Outcome::Bypass) => "fwd=bypass",
        Some(Outcome::Rejected) => "fwd=miss; detail=rejected",
        Some(Outcome::Negative) => "hit; detail=negative",
        None => "fwd=miss; detail=failed",
        Some(_) => "fwd=miss",
    }
}

/// `problem` as the answer to a question for `key` that was `answered` so, with where that came from.
pub(super) fn explained(
    problem: Problem,
    cache: &Cache,
    key: KeyRef<'_>,
    answered: &Result<Answer>,
) -> Problem {
    let (outcome, now) = (Outcome::of(answered), cache.now());
    let mut value = Vec::new();
    match (answered, cache.absent_until(key)) {
        (Ok(Answer { entry: Some(entry), outcome, .. }), _) => cache_status(&mut value, *outcome, entry, now),
        (_, Some(until)) if outcome == Some(Outcome::Negative) => {
            value.extend_from_slice(b"hifz; hit; ttl=");
            write_number(&mut value, until.since(now).as_secs());
            value.extend_from_slice(b"; detail=negative");
        }
        _ => {
            value.extend_from_slice(b"hifz; ");
            value.extend_from_slice(forwarded(outcome).as_bytes());
        }
    }
    match HeaderValue::try_from(value) {
        Ok(value) => problem.with(HeaderName::from_static("cache-status"), value),
        Err(_) => problem,
    }
}

fn not_as_announced() -> Error {
    Error::new(ErrorKind::DiskNotTrusted, "what is stored has not the length that its head says")
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

/// What is decompressed without letting others take this thread's place.
const MADE_AT_ONCE_BYTES: usize = 64 * 1024;

/// What `max-age` says of an answer that never expires: a year.
const FOREVER: Duration = Duration::from_hours(365 * 24);
