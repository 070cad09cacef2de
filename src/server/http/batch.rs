//! Many entries in one request: `POST /admin/v1/entries/get`, `…/set`, `…/exists`.
//!
//! A body that is not accepted is refused as a whole, with the place in it: setting is all or nothing. A value that is
//! JSON goes in and comes out as JSON, byte for byte as it was written; every other value is `{"base64", "content_type"}`.
//! Bounded are the keys of one request ([`KEYS_MAX`]), its bytes (`limits.body`), and those of its answer.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse as _;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::engine::{SetOptions, Ttl};
use crate::entry::{Entry, Head};
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::server::outgoing::Held;

use super::Site;
use super::admin::{Reply, run};
use super::compress::{is_plain, plain_body, plain_bytes};
use super::entries::{parse_ttl, refuse_long, refuse_private, refuse_reserved};
use super::incoming::{BATCH_TIMES, KEYS_TIMES, read_whole};
use super::problem::Problem;

/// `POST /admin/v1/entries/get`
pub(super) async fn get(State(site): State<Site>, body: Body) -> Reply {
    let keys = keys_in(&read_whole(&site, body, KEYS_TIMES).await?)?;
    keys.iter().try_for_each(|key| refuse_private(key.as_key_ref()))?;
    let keys = Arc::new(keys);
    let look = |room: u64| {
        let keys = keys.clone();
        run(&site, move |site| found(site, &keys, room))
    };
    let (mut found, mut turn) = (look(SMALL_BYTES).await?, None);
    if found.bytes > SMALL_BYTES {
        turn = site.incoming.turn(found.bytes).await?;
        let room = found.bytes;
        found = look(room).await?;
        if found.bytes > room {
            let busy = "the values have become larger while there was made room for them; try again";
            return Err(Error::new(ErrorKind::Busy, busy).into());
        }
    }
    let held = Held::Own(found.bytes);
    // All of them are held until the last is sent.
    let pieces = pieces(found, site.cache.now()).inspect(move |_| {
        let _held = &turn;
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(JSON)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((Extension(held), headers, Body::from_stream(futures_util::stream::iter(pieces))).into_response())
}

/// What there is of the keys of one request.
#[derive(Default)]
struct Found {
    /// None of them where they have more than there is room for.
    entries: Vec<Entry>,
    missing: Vec<String>,
    /// What the entries hold.
    bytes: u64,
}

/// What there is of `keys`, held where it has no more than `room` bytes.
fn found(site: &Site, keys: &[Key], room: u64) -> crate::Result<Found> {
    let (mut found, mut shown_bytes, bytes_max) = (Found::default(), 0, site.limits.body);
    for key in keys {
        let Some(entry) = site.cache.get(key)? else {
            found.missing.push(key.to_string());
            continue;
        };
        let plain_bytes = plain_bytes(&entry);
        shown_bytes += plain_bytes;
        if shown_bytes > bytes_max {
            let message =
                format!("the values come to more than {bytes_max} bytes (limits.body); ask for fewer");
            return Err(Error::new(ErrorKind::DocumentTooLarge, message).at(key.as_str()));
        }
        // One that is kept compressed is made whole to be sent.
        found.bytes += entry.weight() as u64 + if is_plain(&entry) { 0 } else { plain_bytes };
        if found.bytes > room {
            found.entries = Vec::new();
        } else {
            found.entries.push(entry);
        }
    }
    Ok(found)
}

type Piece = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// The answer piece by piece, each made when it is sent: entries are shared, and little of them is ever written out.
fn pieces(found: Found, now: Timestamp) -> impl Iterator<Item = Piece> {
    let entries = found.entries.into_iter().enumerate().flat_map(move |(at, entry)| {
        let (pieces, error) = match pieces_of(&entry, at == 0, now) {
            Ok(pieces) => (Some(pieces), None),
            Err(error) => (None, Some(Err(error))),
        };
        error.into_iter().chain(pieces.into_iter().flatten())
    });
    let rest = std::iter::once_with(move || {
        let mut piece = br#"},"missing":"#.to_vec();
        serde_json::to_writer(&mut piece, &found.missing)?;
        piece.push(b'}');
        Ok(Bytes::from(piece))
    });
    std::iter::once(Ok(Bytes::from_static(br#"{"entries":{"#))).chain(entries).chain(rest)
}

/// One entry as it stands in the answer, as [`Shown`] would be written: JSON as it is shared with the entry, everything else
/// in base64 by a little at a time.
fn pieces_of(
    entry: &Entry,
    is_first: bool,
    now: Timestamp,
) -> Result<impl Iterator<Item = Piece> + use<>, Box<dyn std::error::Error + Send + Sync>> {
    let plain = match plain_body(entry)? {
        std::borrow::Cow::Borrowed(_) => entry.body_shared(),
        std::borrow::Cow::Owned(made) => made.into(),
    };
    let content_type = Head::decode(entry.head()).map_or(OCTET_STREAM, |head| head.content_type);
    let json = if is_json(content_type) { as_json(&plain) } else { None };
    let json = json.map(|json| plain.slice_ref(json.get().as_bytes()));
    let mut head = if is_first { Vec::new() } else { vec![b','] };
    serde_json::to_writer(&mut head, entry.key().as_str())?;
    head.extend_from_slice(if json.is_some() { br#":{"value":"# } else { br#":{"base64":""# });
    let mut tail = if json.is_some() { Vec::new() } else { vec![b'"'] };
    tail.extend_from_slice(br#","content_type":"#);
    serde_json::to_writer(&mut tail, content_type)?;
    tail.extend_from_slice(br#","ttl_s":"#);
    serde_json::to_writer(&mut tail, &Ttl::of(entry, now).left().map(|left| left.as_secs()))?;
    tail.push(b'}');
    let coded = if json.is_some() { Bytes::new() } else { plain };
    let parts = (0..coded.len()).step_by(CODED_AT_ONCE).map(move |start| {
        let part = coded.slice(start..coded.len().min(start + CODED_AT_ONCE));
        Bytes::from(BASE64_STANDARD.encode(part))
    });
    let whole = std::iter::once(head.into()).chain(json).chain(parts).chain(std::iter::once(tail.into()));
    Ok(whole.map(Ok))
}

/// `POST /admin/v1/entries/exists`
pub(super) async fn exists(State(site): State<Site>, body: Body) -> Reply {
    #[derive(Serialize)]
    struct Answer {
        exists: BTreeMap<String, bool>,
    }
    let keys = keys_in(&read_whole(&site, body, KEYS_TIMES).await?)?;
    let exists = run(&site, move |site| {
        keys.iter().map(|key| Ok((key.to_string(), site.cache.exists(key)?))).collect()
    })
    .await?;
    Ok(Json(Answer { exists }).into_response())
}

/// `POST /admin/v1/entries/set`
pub(super) async fn set(State(site): State<Site>, body: Body) -> Reply {
    #[derive(Serialize)]
    struct Answer {
        set: usize,
    }
    let body = read_whole(&site, body, BATCH_TIMES).await?;
    let set = run(&site, move |site| {
        let asked: SetAsked<'_> = read_json(&body)?;
        let values = asked.values(site.limits.key)?;
        let options = asked.options()?;
        // Each kind of value has its own media type, and all are checked before the first is put.
        let batch: Vec<_> =
            values.iter().map(|(key, value)| (key, value.body.as_ref(), value.options(&options))).collect();
        let put = site.cache.set_each(batch.iter().map(|(key, body, options)| (*key, *body, options)));
        put.map_err(|error| match (error.kind(), error.place()) {
            (ErrorKind::ArgumentInvalid, Some(place)) => refused(place, error.message().to_owned()),
            _ => error,
        })?;
        Ok(values.len())
    })
    .await?;
    Ok(Json(Answer { set }).into_response())
}

/// An entry in an answer: its value as JSON where it is that, else in base64.
#[derive(Serialize)]
struct Shown<'e> {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    content_type: &'e str,
    /// Null for ever.
    ttl_s: Option<u64>,
}

impl<'e> Shown<'e> {
    /// `plain` is the plain form of what `entry` holds.
    fn of(entry: &'e Entry, plain: &'e [u8], ttl: Ttl) -> Self {
        let content_type = Head::decode(entry.head()).map_or(OCTET_STREAM, |head| head.content_type);
        let value = if is_json(content_type) { as_json(plain) } else { None };
        let base64 = value.is_none().then(|| BASE64_STANDARD.encode(plain));
        let ttl_s = ttl.left().map(|left| left.as_secs());
        Self { value, base64, content_type, ttl_s }
    }
}

/// An entry with its value, as JSON.
///
/// # Errors
/// When it is kept compressed and cannot be read.
pub(in crate::server) fn shown(entry: &Entry, now: Timestamp) -> crate::Result<serde_json::Value> {
    let plain = plain_body(entry)?;
    // Text, numbers and JSON always can be.
    Ok(serde_json::to_value(Shown::of(entry, &plain, Ttl::of(entry, now))).unwrap_or_default())
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(JSON)
}

/// The document, if the bytes are one and nothing else.
fn as_json(body: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(body).ok()
}

/// What a body that names keys is read as.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysAsked {
    keys: Vec<String>,
}

fn keys_in(body: &[u8]) -> Result<Vec<Key>, Problem> {
    let asked: KeysAsked = read_json(body)?;
    Ok(parse_keys(asked.keys)?)
}

/// Keys out of a body, each once, in their order.
pub(super) fn parse_keys(texts: Vec<String>) -> Result<Vec<Key>, Error> {
    if texts.len() > KEYS_MAX {
        return Err(refused(
            "keys",
            format!("{} keys, at most {KEYS_MAX} are accepted in one request", texts.len()),
        ));
    }
    let (mut seen, mut keys) = (HashSet::new(), Vec::with_capacity(texts.len()));
    for (at, text) in texts.into_iter().enumerate() {
        let key =
            Key::parse(text).map_err(|error| refused(format!("keys[{at}]"), error.message().to_owned()))?;
        if seen.insert(key.clone()) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// What a body that sets entries is read as; values stay as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAsked<'b> {
    #[serde(borrow)]
    entries: Members<'b>,
    ttl: Option<Span>,
    #[serde(default)]
    tags: Vec<String>,
}

impl<'b> SetAsked<'b> {
    fn values(&self, key_bytes_max: u64) -> Result<Vec<(Key, Value<'b>)>, Error> {
        let mut values = Vec::with_capacity(self.entries.0.len());
        for (text, raw) in &self.entries.0 {
            let place = || format!("entries.{text}");
            let key =
                Key::parse(text.as_str()).map_err(|error| refused(place(), error.message().to_owned()))?;
            refuse_reserved(key.as_key_ref())?;
            refuse_long(key.as_key_ref(), key_bytes_max)
                .map_err(|error| refused(place(), error.message().to_owned()))?;
            let value = Value::read(raw).map_err(|why| refused(place(), why))?;
            values.push((key, value));
        }
        Ok(values)
    }

    fn options(&self) -> Result<SetOptions, Error> {
        let mut options = SetOptions::new().tags(self.tags.iter().map(String::as_str));
        if let Some(Span(text)) = &self.ttl {
            // The same answer as to the parameter of a single write.
            options = options.ttl(parse_ttl(text)?);
        }
        Ok(options)
    }
}

/// A span of time as text, or as a number of seconds.
struct Span(String);

impl<'d> Deserialize<'d> for Span {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of time such as \"1h30m\", or a number of seconds")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                Ok(Span(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Span, E> {
                Ok(Span(seconds.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Span, E> {
                Ok(Span(seconds.to_string()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The members of an object in their order; one that stands twice is refused, since which of them was meant is not said.
struct Members<'b>(Vec<(String, &'b RawValue)>);

impl<'d: 'b, 'b> Deserialize<'d> for Members<'b> {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'d> Visitor<'d> for Read {
            type Value = Members<'d>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of values by key")
            }

            fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Members<'d>, A::Error> {
                use serde::de::Error as _;
                let (mut seen, mut members) = (HashSet::new(), Vec::new());
                while let Some((key, value)) = map.next_entry::<String, &'d RawValue>()? {
                    if members.len() == KEYS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "more than {KEYS_MAX} keys in one request"
                        )));
                    }
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format_args!("the key {key:?} stands here twice")));
                    }
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// A value to be set.
struct Value<'b> {
    body: std::borrow::Cow<'b, [u8]>,
    content_type: Option<String>,
}

impl<'b> Value<'b> {
    /// An object of `base64` and perhaps `content_type` is bytes; everything else is the JSON it is.
    fn read(raw: &'b RawValue) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Coded<'b> {
            #[serde(borrow)]
            base64: std::borrow::Cow<'b, str>,
            content_type: Option<String>,
        }
        let json = Self { body: raw.get().as_bytes().into(), content_type: Some(JSON.to_owned()) };
        if !raw.get().starts_with('{') {
            return Ok(json);
        }
        let Ok(bytes) = serde_json::from_str::<Coded<'_>>(raw.get()) else { return Ok(json) };
        let body = BASE64_STANDARD
            .decode(bytes.base64.as_bytes())
            .map_err(|error| format!("its base64 cannot be read: {error}"))?;
        Ok(Self { body: body.into(), content_type: bytes.content_type })
    }

    fn options(&self, all: &SetOptions) -> SetOptions {
        let options = all.clone();
        match &self.content_type {
            Some(content_type) => options.content_type(content_type.as_str()),
            None => options,
        }
    }
}

/// A JSON body that is an object, or what is wrong with it and where.
pub(super) fn read_json<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Error> {
    // A list would pass for the fields of an object in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(refused("body", "is not a JSON object, which is what is accepted"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = refused("body", error.into_inner().to_string());
        if path == "." { error } else { error.at(path) }
    })?;
    reader.end().map_err(|error| refused("body", error.to_string()))?;
    Ok(read)
}

pub(super) fn refused(place: impl AsRef<str>, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::DocumentInvalid, why.into()).at(place)
}

/// Hands any bytes over as each of the bodies, and as a key in an address; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn drive(bytes: &[u8]) {
    drop(keys_in(bytes));
    if let Ok(asked) = read_json::<SetAsked<'_>>(bytes) {
        let values = asked.values(crate::key::KEY_BYTES_MAX as u64);
        drop(asked.options());
        for (_, value) in values.into_iter().flatten() {
            if value.content_type.as_deref().is_some_and(is_json) {
                assert!(as_json(&value.body).is_some(), "what was taken for JSON is JSON");
            }
        }
    }
    super::invalidate::drive(bytes);
    if let Ok(uri) = axum::http::Uri::try_from(bytes)
        && let Ok(key) = super::entries::key_in(&uri)
    {
        assert!(crate::key::KeyRef::parse(key.as_str()).is_ok(), "a key out of an address is a key");
    }
}

const JSON: &str = "application/json";
const OCTET_STREAM: &str = "application/octet-stream";

/// Values that have no more together are held without asking for room.
const SMALL_BYTES: u64 = 256 << 10;

/// So much of a value is written in base64 at a time: whole groups of three bytes.
const CODED_AT_ONCE: usize = 48 << 10;

/// The most keys of one request.
pub(super) const KEYS_MAX: usize = 10_000;
