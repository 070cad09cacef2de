//! The raw cache, entry by entry: `/admin/v1/entries/{key}`, and the listing of all.
//!
//! `{key}` is one segment of the address, percent-decoded once, and no source is ever asked. Built-in keys can be read
//! and deleted, not written: what stands under them comes from the content store alone. What is malformed is refused
//! before anything is read or changed.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use serde::Serialize;

use crate::content::keys;
use crate::engine::{Filter, ListCursor, Listed, SetOptions, Ttl};
use crate::entry::{Entry, Head};
use crate::error::{Error, ErrorKind};
use crate::key::{Key, KeyRef, Namespace};
use crate::pattern::Pattern;
use crate::server::config::parse_duration;

use super::Site;
use super::admin::{Parameters, Reply, run};
use super::conditions::{Validators, WriteConditions};
use super::incoming::{VALUE_TIMES, read_at_most};
use super::problem::Problem;
use super::reply::Representation;
use super::routes::Routes;
use super::{batch, events, explain, invalidate};

/// The routes of the raw cache.
pub(super) fn routes() -> Routes {
    let entry = || get(read).put(write).delete(delete);
    Routes::new()
        .route("/admin/v1/entries", get(list))
        .route("/admin/v1/entries/{key}", entry())
        // Batches have addresses that are keys as well.
        .route("/admin/v1/entries/get", entry().post(batch::get))
        .route("/admin/v1/entries/set", entry().post(batch::set))
        .route("/admin/v1/entries/exists", entry().post(batch::exists))
        .route("/admin/v1/namespaces", get(invalidate::namespaces))
        .route("/admin/v1/namespaces/{ns}/invalidate", post(invalidate::invalidate_namespace))
        .route("/admin/v1/invalidate", post(invalidate::invalidate))
        .route("/admin/v1/clear", post(invalidate::clear))
        .route("/admin/v1/explain/{key}", get(explain::explain))
        .route("/admin/v1/events", get(events::events))
}

/// `GET` and `HEAD /admin/v1/entries/{key}`; the latter counts as neither hit nor miss.
async fn read(State(site): State<Site>, uri: Uri, method: Method, headers: HeaderMap) -> Reply {
    let key = key_in(&uri)?;
    refuse_private(key.as_key_ref())?;
    let found = if method == Method::HEAD {
        let key = key.clone();
        run(&site, move |site| site.cache.peek(&key)).await?
    } else {
        site.cache.get_async(&key).await?
    };
    let entry = found.ok_or_else(|| not_found(&key))?;
    let ttl = Ttl::of(&entry, site.cache.now());
    let tags: Vec<&str> = entry.tags().collect();
    let tags = (!tags.is_empty()).then(|| HeaderValue::from_bytes(tags.join(", ").as_bytes()));
    let mut response = Representation::raw(&entry).respond(&site.cache, &method, &headers);
    let headers = response.headers_mut();
    let ttl = ttl.left().map_or(HeaderValue::from_static("never"), |left| HeaderValue::from(left.as_secs()));
    headers.insert(TTL, ttl);
    if let Some(Ok(tags)) = tags {
        headers.insert(TAGS, tags);
    }
    // Whatever an entry says it is, no browser is to run it with the rights of this address.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    Ok(response)
}

/// `PUT /admin/v1/entries/{key}[?ttl=&tags=]`
async fn write(
    State(site): State<Site>,
    uri: Uri,
    query: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let key = key_in(&uri)?;
    refuse_reserved(key.as_key_ref())?;
    refuse_long(key.as_key_ref(), site.limits.key)?;
    let options = options_in(&query, &headers)?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        let detail = "send the value as it is to be kept: a Content-Encoding is not accepted";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "CODING_NOT_ACCEPTED", detail));
    }
    let conditions = WriteConditions::of(&headers);
    let too_large = |bytes_max: u64| {
        let why = "what limits.value and the memory limit leave room for";
        Error::new(ErrorKind::ValueTooLarge, format!("the value is larger than {bytes_max} bytes, {why}"))
    };
    // No entry may take more than half of the memory, so a larger value need not be read.
    let bytes_max = site.limits.value.min(site.cache.memory_limit() / 2);
    let value = read_at_most(&site, body, (bytes_max, VALUE_TIMES), too_large).await?;
    let stood = run(&site, move |site| {
        let mut stood = false;
        site.cache.set_if(&key, value, &options, |standing| {
            stood = standing.is_some();
            conditions.check(standing.map(validators))
        })?;
        Ok(stood)
    })
    .await?;
    Ok(if stood { StatusCode::OK } else { StatusCode::CREATED }.into_response())
}

/// `DELETE /admin/v1/entries/{key}`
async fn delete(State(site): State<Site>, uri: Uri, headers: HeaderMap) -> Reply {
    let key = key_in(&uri)?;
    let own = key.clone();
    let conditions = WriteConditions::of(&headers);
    let check = move |standing: Option<&Entry>| conditions.check(standing.map(validators));
    let stood = run(&site, move |site| site.cache.delete_if(&own, check)).await?;
    if stood { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(not_found(&key)) }
}

/// The state of an entry as a reader was told it.
fn validators(entry: &Entry) -> Validators {
    match Head::decode(entry.head()) {
        Ok(head) => Validators { digest: head.etag, modified_at_secs: head.modified_at_ms / 1000 },
        Err(_) => Validators::of(entry.body(), entry.stored_at()),
    }
}

/// `GET /admin/v1/entries?namespace=&prefix=&pattern=&limit=&cursor=`
async fn list(State(site): State<Site>, query: Parameters) -> Reply {
    #[derive(Serialize)]
    struct Entries {
        entries: Vec<Shown>,
        /// Where to go on; null at the end.
        cursor: Option<String>,
    }
    let mut filter = Filter::new();
    if let Some(namespace) = once(&query, "namespace")? {
        let namespace =
            Namespace::parse(namespace).map_err(|error| parameter("namespace", error.message()))?;
        filter = filter.namespace(namespace.as_str());
    }
    if let Some(prefix) = once(&query, "prefix")? {
        filter = filter.prefix(prefix);
    }
    if let Some(pattern) = once(&query, "pattern")? {
        let pattern = Pattern::parse(pattern).map_err(|error| parameter("pattern", error.message()))?;
        filter = filter.pattern(pattern);
    }
    let most = once(&query, "limit")?.map_or(Ok(LIST_DEFAULT), limit)?;
    let from = once(&query, "cursor")?.map_or(Ok(ListCursor::default()), cursor)?;
    let listing = run(&site, move |site| site.cache.list(&filter, from, most)).await?;
    let cursor = listing.next.map(|next| format!("{:032x}", next.to_bits()));
    Ok(Json(Entries { entries: listing.entries.iter().map(Shown::of).collect(), cursor }).into_response())
}

/// An entry without its value, for people and programs.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    key: String,
    bytes: usize,
    content_type: String,
    /// Null for ever.
    ttl_s: Option<u64>,
    age_s: u64,
    tags: Vec<String>,
    /// `memory`, or `disk` for what is only there.
    tier: &'static str,
}

impl Shown {
    fn of(listed: &Listed) -> Self {
        Self {
            key: listed.key.to_string(),
            bytes: listed.value_bytes,
            content_type: listed.content_type.clone(),
            ttl_s: listed.ttl.left().map(|left| left.as_secs()),
            age_s: listed.age.as_secs(),
            tags: listed.tags.clone(),
            tier: if listed.in_memory { "memory" } else { "disk" },
        }
    }
}

/// The key that the last segment of an address names: percent-decoded once, so that `%2F` is a slash of the key.
pub(super) fn key_in(uri: &Uri) -> Result<Key, Problem> {
    let segment = uri.path().rsplit('/').next().unwrap_or_default();
    let invalid = |why: &str| Error::new(ErrorKind::KeyInvalid, format!("the key in the address {why}"));
    let bytes = percent_decoded(segment).ok_or_else(|| {
        invalid("has a '%' without two hexadecimal digits after it; write '%25' for itself")
    })?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("is not UTF-8"))?;
    Ok(Key::parse(text)?)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        decoded.push(u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?);
        rest = after;
    }
    Some(decoded)
}

/// Refuses keys that only the content store may fill.
pub(super) fn refuse_reserved(key: KeyRef<'_>) -> Result<(), Error> {
    if !keys::is_reserved(key) {
        return Ok(());
    }
    let message = format!(
        "the key {:?} belongs to built-in content: it can be read and deleted, and changed through its own route",
        key.as_str()
    );
    Err(Error::new(ErrorKind::KeyReserved, message))
}

/// Refuses to write under a key beyond `limits.key`. What stands under longer ones, from before the limit was lowered, can
/// be read and forgotten.
pub(in crate::server) fn refuse_long(key: KeyRef<'_>, bytes_max: u64) -> Result<(), Error> {
    let bytes = key.as_str().len();
    if bytes as u64 <= bytes_max {
        return Ok(());
    }
    let message = format!("the key has {bytes} bytes, the most is {bytes_max} (limits.key)");
    Err(Error::new(ErrorKind::KeyInvalid, message))
}

/// Refuses to show what belongs to a user, who alone may read it; it can be deleted.
pub(super) fn refuse_private(key: KeyRef<'_>) -> Result<(), Problem> {
    if keys::is_private(key) {
        let detail = format!("{:?} belongs to a user, who alone may read it", key.as_str());
        return Err(Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", detail));
    }
    Ok(())
}

pub(super) fn not_found(key: &Key) -> Problem {
    Problem::not_found("KEY_NOT_FOUND", format!("nothing fresh stands under {:?}", key.as_str()))
}

/// What a write asks for beside the value.
fn options_in(query: &Parameters, headers: &HeaderMap) -> Result<SetOptions, Problem> {
    let mut options = SetOptions::new();
    if let Some(ttl) = once(query, "ttl")? {
        options = options.ttl(parse_ttl(ttl)?);
    }
    if let Some(tags) = once(query, "tags")?.filter(|tags| !tags.is_empty()) {
        options = options.tags(tags.split(','));
    }
    if let Some(content_type) = headers.get(header::CONTENT_TYPE) {
        let text = content_type.to_str().map_err(|_| parameter("content_type", "is not visible ASCII"))?;
        options = options.content_type(text);
    }
    Ok(options)
}

/// A lifetime: `1h30m`, `100ms`, or a number of seconds; longer than nothing.
pub(super) fn parse_ttl(text: &str) -> Result<std::time::Duration, Error> {
    let parsed = parse_duration(text).map_err(|why| format!("{text:?} {why}"));
    let parsed = parsed
        .and_then(|ttl| if ttl.is_zero() { Err(format!("{text:?} is no time at all")) } else { Ok(ttl) });
    parsed.map_err(|why| parameter("ttl", &format!("{why}; accepted is 1h30m, 100ms or a number of seconds")))
}

/// A parameter that may stand once at most.
pub(super) fn once<'q>(query: &'q Parameters, name: &str) -> Result<Option<&'q str>, Problem> {
    let mut given = query.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let first = given.next();
    if given.next().is_some() {
        return Err(parameter(name, "is given more than once").into());
    }
    Ok(first)
}

fn limit(text: &str) -> Result<usize, Problem> {
    let number = text.parse().ok().filter(|number| (1..=LIST_MAX).contains(number));
    number.ok_or_else(|| parameter("limit", &format!("{text:?} is not a number from 1 to {LIST_MAX}")).into())
}

fn cursor(text: &str) -> Result<ListCursor, Problem> {
    let is_ours = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = if is_ours { u128::from_str_radix(text, 16).ok() } else { None };
    let why = "is not one that a listing has given";
    bits.map(ListCursor::from_bits).ok_or_else(|| parameter("cursor", why).into())
}

pub(super) fn parameter(name: &str, why: &str) -> Error {
    Error::new(ErrorKind::ArgumentInvalid, why.to_owned()).at(name)
}

/// How long an entry stays fresh, in seconds.
const TTL: HeaderName = HeaderName::from_static("x-hifz-ttl");

/// The tags of an entry, comma-separated.
const TAGS: HeaderName = HeaderName::from_static("x-hifz-tags");

/// Entries of a listing that names no limit, and of one that names the highest.
const LIST_DEFAULT: usize = 100;
const LIST_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Result<String, &'static str> {
        let uri: Uri = format!("/admin/v1/entries/{path}").parse().map_err(|_| "no address")?;
        key_in(&uri).map(|key| key.to_string()).map_err(|_| "refused")
    }

    #[test]
    fn a_key_is_one_segment_decoded_once() {
        for (path, text) in [
            ("a:1", "a:1"),
            ("a%3A1", "a:1"),
            ("a%2Fb%2f", "a/b/"),
            ("a%252Fb", "a%2Fb"),
            ("%C3%A9", "é"),
            ("..", ".."),
            ("%2e%2e%2fx", "../x"),
            ("a+b", "a+b"),
            ("a%20b?x=y", "a b"),
        ] {
            assert_eq!(key(path).as_deref(), Ok(text), "{path}");
        }
        let long = "k".repeat(1025);
        for path in
            ["%", "%4", "%zz", "%+1", "%00", "%0A", "%FF", "%C3", "%ED%A0%80", "%C0%AF", ":a", "%3Aa", &long]
        {
            assert_eq!(key(path), Err("refused"), "{path}");
        }
    }

    #[test]
    fn what_the_content_store_fills_is_reserved_and_nothing_else() {
        for (text, reserved) in [
            ("quran:surah:2", true),
            ("quran:surah:2:en", true),
            ("quran:anything", true),
            ("reciters:list", true),
            ("translation:en", true),
            ("user:00000000000000000000000000000007:bookmarks", true),
            ("user:7:bookmarks", true),
            ("user:7:session", false),
            ("quran", false),
            ("Quran:surah:2", false),
            ("my:quran:surah:2", false),
        ] {
            assert_eq!(keys::is_reserved(KeyRef::parse(text).unwrap()), reserved, "{text}");
        }
    }
}
