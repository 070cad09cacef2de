//! The shortest way: a plain request for content that stands fresh in memory, answered as bytes below hyper.
//!
//! What a hit costs here: one pass over the headers, one lookup, one clone of a counted pointer, a head of about 700
//! bytes; the body goes from the entry to the socket. Whatever is not plain (another method, a condition but
//! `If-None-Match`, a range, an escape, a miss) is nobody's here, and the router answers it: the same headers are
//! written by the same functions there ([`super::reply`]), so that a client cannot tell the two apart.

use std::borrow::Cow;

use crate::content::keys::{ReciterId, SurahNumber, TranslationId};
use crate::engine::Outcome;
use crate::entry::{Entry, Head};
use crate::key::KeyRef;
use crate::server::outgoing::Held;
use crate::server::traffic::Class;
use crate::server::wire::RequestHead;

use super::conditions::Fields;
use super::reply::{self, Answered, Asked, Decision, Form, FormList, Lines, Sharing};
use super::{EXPOSED, Site, date, write_request_id};

/// Answers plain hits.
#[derive(Debug, Clone)]
pub(in crate::server) struct Hits(Site);

/// An answer: its head, and what of an entry follows.
#[derive(Debug)]
pub(in crate::server) struct Hit {
    entry: Entry,
    form: Option<Form>,
}

impl Hit {
    /// What the body lies in.
    pub(in crate::server) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// What the body is sent from.
    pub(in crate::server) fn held(&self) -> Held {
        Held::Entry(self.entry.clone())
    }

    /// The body; empty where there is none.
    pub(in crate::server) fn body(&self) -> &[u8] {
        self.form.and_then(|form| reply::form_bytes(&self.entry, form)).unwrap_or_default()
    }
}

impl Hits {
    pub(in crate::server) fn new(site: &Site) -> Self {
        Self(site.clone())
    }

    /// The answer to `request`, if it is plain and its content stands in memory; its head is appended to `out`.
    pub(in crate::server) fn answer(
        &self,
        request: &RequestHead<'_>,
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> Option<Hit> {
        let is_head = match request.method {
            "GET" => false,
            "HEAD" => true,
            _ => return None,
        };
        let mut key = [0; KEY_ROOM];
        let key = KeyRef::parse(key_of(request.target, &mut key)?).ok()?;
        let plain = Plain::of(request)?;
        let entry = self.0.cache.get_in_memory(key)?;
        let head = Head::decode(entry.head()).ok()?;
        let modified_at_secs = head.modified_at_ms / 1000;
        let forms = FormList::of(&entry, &head);
        let answered = Answered { entry: &entry, outcome: Outcome::Hit, sharing: Sharing::Public };
        let (form, etag) = match reply::decide(&plain.asked, &forms, modified_at_secs) {
            // What has to be made, or is not what it says, is the router's.
            Decision::Whole(form) => {
                reply::form_bytes(&entry, form).filter(|bytes| bytes.len() == form.length)?;
                (Some(form), form.etag)
            }
            Decision::Unchanged(etag) => (None, etag),
            _ => return None,
        };
        out.extend_from_slice(if form.is_some() { OK } else { NOT_MODIFIED });
        self.0.operations.traffic.answered(Class::Content, if form.is_some() { 200 } else { 304 });
        let mut lines = Bytes(out);
        answered.describe(&mut lines, etag, modified_at_secs, &self.0.cache);
        if let Some(form) = &form {
            reply::describe_body(&mut lines, form, head.content_type, None);
        }
        lines.fixed("access-control-allow-origin", "*");
        lines.fixed("access-control-expose-headers", EXPOSED);
        lines.line("x-request-id", |value| write_request_id(value, plain.request_id));
        lines.line("date", date::write_now);
        if let Some(connection) = request.connection(is_last) {
            lines.fixed("connection", connection);
        }
        out.extend_from_slice(b"\r\n");
        self.0.warmer.note_read(key);
        let form = form.filter(|_| !is_head);
        Some(Hit { entry, form })
    }
}

/// The headers of a plain request.
struct Plain<'b> {
    asked: Asked<'b>,
    request_id: Option<&'b [u8]>,
}

impl<'b> Plain<'b> {
    /// `None` when a header asks for something that is not plain.
    fn of(request: &RequestHead<'b>) -> Option<Self> {
        let (mut accept_encoding, mut none_match, mut request_id) = (None, None, None);
        for (name, value) in request.headers() {
            let once = |field: &mut Option<&'b [u8]>| field.replace(value).is_none();
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            // By length first: most headers are none of these.
            let is_plain = match name.len() {
                5 => !is("range"),
                6 => !is("expect"),
                8 => !is("if-match") && !is("if-range"),
                12 if is("x-request-id") => request_id.is_some() || once(&mut request_id),
                13 if is("if-none-match") => once(&mut none_match),
                15 if is("accept-encoding") => once(&mut accept_encoding),
                17 => !is("if-modified-since"),
                19 => !is("if-unmodified-since"),
                _ => true,
            };
            if !is_plain {
                return None;
            }
        }
        let conditions = Fields { none_match: none_match.map(Cow::Borrowed), ..Fields::default() };
        let accept_encoding = accept_encoding.map(Cow::Borrowed);
        Some(Self { asked: Asked { accept_encoding, conditions, range: None }, request_id })
    }
}

/// The key of what stands at `target`, in `room`; `None` for what is not plainly an address of whole content.
fn key_of<'r>(target: &str, room: &'r mut [u8; KEY_ROOM]) -> Option<&'r str> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let rest = path.strip_prefix("/api/v1/")?;
    let (list, one) = rest.split_once('/').map_or((rest, None), |(list, one)| (list, Some(one)));
    match (list, one) {
        ("surahs", None) => Some("quran:surahs"),
        ("reciters", None) => Some("reciters:list"),
        ("translations", None) => Some("translations:list"),
        ("surahs", Some(number)) => {
            SurahNumber::parse(number).ok()?;
            match query.map_or(Translation::Unnamed, translation) {
                Translation::Unnamed => joined(room, &["quran:surah:", number]),
                Translation::Named(id) => joined(room, &["quran:surah:", number, ":", id]),
                Translation::Unclear => None,
            }
        }
        ("reciters", Some(id)) => ReciterId::parse(id).ok().and_then(|_| joined(room, &["reciter:", id])),
        ("translations", Some(id)) => {
            TranslationId::parse(id).ok().and_then(|_| joined(room, &["translation:", id]))
        }
        _ => None,
    }
}

/// What a query says of a translation.
enum Translation<'q> {
    Unnamed,
    Named(&'q str),
    /// To know it takes more than a look.
    Unclear,
}

fn translation(query: &str) -> Translation<'_> {
    if query.contains(['%', '+']) {
        return Translation::Unclear;
    }
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    match pairs.find(|(name, _)| *name == "translation") {
        None => Translation::Unnamed,
        Some((_, id)) if TranslationId::parse(id).is_ok() => Translation::Named(id),
        Some(_) => Translation::Unclear,
    }
}

/// Asks any request whether it is plain; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(super) fn drive(request: &RequestHead<'_>) {
    if let Some(key) = key_of(request.target, &mut [0; KEY_ROOM]) {
        let content = KeyRef::parse(key).ok().and_then(crate::content::keys::Content::of);
        assert!(content.is_some(), "a plain address has the key of content");
    }
    std::hint::black_box(Plain::of(request).is_some());
}

fn joined<'r>(room: &'r mut [u8; KEY_ROOM], parts: &[&str]) -> Option<&'r str> {
    let mut used = 0;
    for part in parts {
        room.get_mut(used..used + part.len())?.copy_from_slice(part.as_bytes());
        used += part.len();
    }
    std::str::from_utf8(room.get(..used)?).ok()
}

/// A head as bytes.
struct Bytes<'o>(&'o mut Vec<u8>);

impl Lines for Bytes<'_> {
    fn line(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        write(self.0);
        self.0.extend_from_slice(b"\r\n");
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";
const NOT_MODIFIED: &[u8] = b"HTTP/1.1 304 Not Modified\r\n";

/// Room for the longest key of content: a word, a number and an id of 64 bytes.
const KEY_ROOM: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_address_has_its_key_and_every_other_is_left_to_the_router() {
        for (target, key) in [
            ("/api/v1/surahs", Some("quran:surahs")),
            ("/api/v1/surahs?x=%00", Some("quran:surahs")),
            ("/api/v1/surahs/2?x=%00", None),
            ("/api/v1/surahs/2", Some("quran:surah:2")),
            ("/api/v1/surahs/2?translation=en", Some("quran:surah:2:en")),
            ("/api/v1/surahs/114?a=b&translation=en&translation=x", Some("quran:surah:114:en")),
            ("/api/v1/surahs/2?translations=en", Some("quran:surah:2")),
            ("/api/v1/surahs/2?%74ranslation=en", None),
            ("/api/v1/surahs/2?translation=EN", None),
            ("/api/v1/surahs/2?translation=", None),
            ("/api/v1/surahs/02", None),
            ("/api/v1/surahs/2/", None),
            ("/api/v1/surahs/2/ayahs/1", None),
            ("/api/v1/surahs/%32", None),
            ("/api/v1/reciters/a-b", Some("reciter:a-b")),
            ("/api/v1/reciters", Some("reciters:list")),
            ("/api/v1/translations/en", Some("translation:en")),
            ("/api/v1/translations/a:b", None),
            ("/api/v1/users/a/bookmarks", None),
            ("http://a/api/v1/surahs", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(key_of(target, &mut [0; KEY_ROOM]), key, "{target}");
        }
        let longest = format!("/api/v1/surahs/114?translation={}", "a".repeat(64));
        assert!(key_of(&longest, &mut [0; KEY_ROOM]).is_some());
    }
}
