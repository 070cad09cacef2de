//! Conditional requests (RFC 9110 §13): tags, dates, and what a request demands of the present state.
//!
//! A tag is the digest of a resource's plain form; each coding adds a mark of its own bytes, so that every tag is
//! strong and all of them still name one state. A read asks about forms ([`Fields`]); a write asks only about the state
//! ([`WriteConditions`]): whoever read any form of it may change it. Knows neither routes nor entries, and never
//! panics, whatever the bytes are.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderName, header};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// The tag of one form of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Etag {
    /// Of the plain form.
    pub(super) digest: u128,
    /// Of the coded bytes; nothing for the plain form.
    pub(super) mark: Option<u32>,
}

impl Etag {
    /// Reads what stands between the quotes; `None` for what was never a tag of ours.
    fn parse(opaque: &[u8]) -> Option<Self> {
        let (digest, rest) = opaque.split_at_checked(DIGEST_DIGITS)?;
        let mark = match rest.split_first() {
            None => None,
            Some((b'-', mark)) if mark.len() == MARK_DIGITS => Some(u32::try_from(hex(mark)?).ok()?),
            Some(_) => return None,
        };
        Some(Self { digest: hex(digest)?, mark })
    }
}

impl Etag {
    /// As it stands in a header.
    pub(super) fn write(&self, value: &mut Vec<u8>) {
        value.push(b'"');
        write_hex(value, &self.digest.to_be_bytes());
        if let Some(mark) = self.mark {
            value.push(b'-');
            write_hex(value, &mark.to_be_bytes());
        }
        value.push(b'"');
    }
}

/// Appends two digits for each byte.
pub(super) fn write_hex(value: &mut Vec<u8>, bytes: &[u8]) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    value.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

/// The state of a resource as clients can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validators {
    pub(super) digest: u128,
    pub(super) modified_at_secs: u64,
}

impl Validators {
    /// Of a resource whose plain form is `body`.
    pub(super) fn of(body: &[u8], modified_at: Timestamp) -> Self {
        Self { digest: xxhash_rust::xxh3::xxh3_128(body), modified_at_secs: modified_at.as_secs() }
    }
}

/// The conditional headers of a request, as they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields<'h> {
    pub(super) any_match: Option<Cow<'h, [u8]>>,
    pub(super) none_match: Option<Cow<'h, [u8]>>,
    pub(super) modified_since: Option<Cow<'h, [u8]>>,
    pub(super) unmodified_since: Option<Cow<'h, [u8]>>,
    pub(super) range_of: Option<Cow<'h, [u8]>>,
}

/// What the conditions of a read come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer as if nothing had been asked.
    Proceed,
    /// The client has the form with this tag already.
    Unchanged(Etag),
    /// The state is not the one the client demands.
    Failed,
}

impl<'h> Fields<'h> {
    /// Those among `headers`.
    pub(super) fn of(headers: &'h HeaderMap) -> Self {
        Self {
            any_match: joined(headers, header::IF_MATCH),
            none_match: joined(headers, header::IF_NONE_MATCH),
            modified_since: joined(headers, header::IF_MODIFIED_SINCE),
            unmodified_since: joined(headers, header::IF_UNMODIFIED_SINCE),
            range_of: joined(headers, header::IF_RANGE),
        }
    }

    /// What they come to for a resource that changed last at `modified_at_secs`, of which the client takes the `forms`,
    /// the one it would be sent first.
    pub(super) fn judge(&self, forms: &[Etag], modified_at_secs: u64) -> Verdict {
        let Some(first) = forms.first() else { return Verdict::Proceed };
        if let Some(list) = &self.any_match {
            // Any form of the present state will do.
            if !is_any(list) && !strong_tags(list).any(|tag| tag.digest == first.digest) {
                return Verdict::Failed;
            }
        } else if self.unmodified_since.as_deref().and_then(date).is_some_and(|at| modified_at_secs > at) {
            return Verdict::Failed;
        }
        if let Some(list) = &self.none_match {
            if is_any(list) {
                return Verdict::Unchanged(*first);
            }
            // Only a form the client takes: a cache in between asks with the tags of every form it has.
            let known = tags(list).filter_map(|(_, opaque)| Etag::parse(opaque));
            let found = known.filter(|tag| forms.contains(tag)).min_by_key(|tag| tag != first);
            return found.map_or(Verdict::Proceed, Verdict::Unchanged);
        }
        if self.modified_since.as_deref().and_then(date).is_some_and(|at| modified_at_secs <= at) {
            return Verdict::Unchanged(*first);
        }
        Verdict::Proceed
    }

    /// Whether a `Range` may be cut from the form with `tag`: always without `If-Range`, else only if it names it.
    pub(super) fn allows_range(&self, tag: Etag, modified_at_secs: u64) -> bool {
        let Some(value) = self.range_of.as_deref().map(<[u8]>::trim_ascii) else { return true };
        if value.starts_with(b"\"") || value.starts_with(b"W/") {
            return strong_tags(value).eq([tag]);
        }
        date(value).is_some_and(|at| at == modified_at_secs)
    }
}

/// What a write demands of the state it changes; owned, so that it can be checked where the change is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WriteConditions {
    any_match: Option<Names>,
    unmodified_since: Option<u64>,
    none_match: Option<Names>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    Any,
    /// The digests of the states named.
    These(Vec<u128>),
}

impl Names {
    fn of(list: &[u8], tags: impl Iterator<Item = Etag>) -> Self {
        if is_any(list) { Self::Any } else { Self::These(tags.map(|tag| tag.digest).collect()) }
    }
}

impl WriteConditions {
    /// Those among `headers`.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let fields = Fields::of(headers);
        let all = |list| Names::of(list, tags(list).filter_map(|(_, opaque)| Etag::parse(opaque)));
        Self {
            any_match: fields.any_match.as_deref().map(|list| Names::of(list, strong_tags(list))),
            // A date that is none is as good as absent.
            unmodified_since: fields.unmodified_since.as_deref().and_then(date),
            none_match: fields.none_match.as_deref().map(all),
        }
    }

    /// Whether nothing is demanded, so that the present state need not be looked up.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks them against the present state, `None` when there is no such resource. The caller guarantees that the
    /// state cannot change between this and the write.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`].
    pub(super) fn check(&self, current: Option<Validators>) -> Result<()> {
        self.judge(current.is_some(), current)
    }

    /// As [`WriteConditions::check`] for a part that has no tag of its own: tags and dates name the state of the
    /// `whole`, `*` asks whether the part is there.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`].
    pub(super) fn check_within(&self, is_there: bool, whole: Validators) -> Result<()> {
        self.judge(is_there, Some(whole))
    }

    fn judge(&self, is_there: bool, current: Option<Validators>) -> Result<()> {
        let are_met = |names: &Names| match names {
            Names::Any => is_there,
            Names::These(digests) => current.is_some_and(|current| digests.contains(&current.digest)),
        };
        let is_matched = match (&self.any_match, self.unmodified_since) {
            (Some(names), _) => are_met(names),
            (None, Some(at)) => current.is_none_or(|current| current.modified_at_secs <= at),
            (None, None) => true,
        };
        if !is_matched {
            return Err(failed(
                "the resource is no longer in the state that the request names; read it again",
            ));
        }
        if self.none_match.as_ref().is_some_and(are_met) {
            return Err(failed("the resource exists already in a state that the request excludes"));
        }
        Ok(())
    }
}

fn failed(why: &'static str) -> Error {
    Error::new(ErrorKind::PreconditionFailed, why)
}

/// The one value of a header that may be sent in several lines.
pub(super) fn joined(headers: &HeaderMap, name: HeaderName) -> Option<Cow<'_, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = Cow::Borrowed(values.next()?.as_bytes());
    Some(values.fold(first, |list, value| Cow::Owned([&*list, b",", value.as_bytes()].concat())))
}

fn is_any(list: &[u8]) -> bool {
    list.trim_ascii() == b"*"
}

/// The tags of a list that may be compared strongly and that can be ours.
fn strong_tags(list: &[u8]) -> impl Iterator<Item = Etag> {
    tags(list).filter(|(is_weak, _)| !is_weak).filter_map(|(_, opaque)| Etag::parse(opaque))
}

/// The tags of a list, each with whether it is weak and what stands between its quotes; ends where the grammar does.
fn tags(list: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let begin = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        let at = rest.get(begin..)?;
        let (is_weak, quoted) = at.strip_prefix(b"W/").map_or((false, at), |quoted| (true, quoted));
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = opaque.iter().position(|byte| *byte == b'"')?;
        rest = opaque.get(end + 1..)?;
        Some((is_weak, opaque.get(..end)?))
    })
}

/// An HTTP date as seconds since the Unix epoch.
fn date(value: &[u8]) -> Option<u64> {
    let at = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    // One before the epoch is before every change.
    Some(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

/// Digits as [`Etag`] writes them; other spellings are other tags.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

const DIGEST_DIGITS: usize = 32;
const MARK_DIGITS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    impl std::fmt::Display for Etag {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let mut value = Vec::new();
            self.write(&mut value);
            f.write_str(std::str::from_utf8(&value).unwrap())
        }
    }

    const PLAIN: Etag = Etag { digest: 10, mark: None };
    const GZIP: Etag = Etag { digest: 10, mark: Some(7) };
    const OTHER: Etag = Etag { digest: 11, mark: None };
    const BEFORE: &str = "Thu, 01 Jan 1970 00:00:09 GMT";
    const AT: &str = "Thu, 01 Jan 1970 00:00:10 GMT";

    fn headers(of: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_tag_is_read_back_as_it_was_written_and_in_no_other_spelling() {
        for tag in [PLAIN, GZIP, Etag { digest: u128::MAX, mark: Some(u32::MAX) }] {
            let text = tag.to_string();
            assert_eq!(Etag::parse(text.trim_matches('"').as_bytes()), Some(tag));
        }
        let upper = Etag { digest: 0xABC, mark: None }.to_string().to_uppercase();
        for odd in [upper.trim_matches('"'), "", "a", &"0".repeat(33), &("0".repeat(32) + "-1")] {
            assert_eq!(Etag::parse(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_client_that_names_a_form_it_takes_or_a_later_date_has_it_already() {
        let none_match = |value: String| {
            Fields::of(&headers(&[(header::IF_NONE_MATCH, &value)])).judge(&[PLAIN, GZIP], 10)
        };
        let unchanged = |tag| Verdict::Unchanged(tag);
        assert_eq!(none_match(PLAIN.to_string()), unchanged(PLAIN));
        assert_eq!(none_match(format!("W/{GZIP}")), unchanged(GZIP));
        assert_eq!(none_match(format!("\"a,b\" ,{OTHER}, {GZIP}, {PLAIN}")), unchanged(PLAIN));
        assert_eq!(none_match(" * ".into()), unchanged(PLAIN));
        for other in [OTHER.to_string(), String::new(), "\"".into(), "W/".into(), "x".into(), "\"*\"".into()]
        {
            assert_eq!(none_match(other), Verdict::Proceed);
        }
        let only_plain =
            Fields::of(&headers(&[(header::IF_NONE_MATCH, &GZIP.to_string())])).judge(&[PLAIN], 10);
        assert_eq!(only_plain, Verdict::Proceed, "a form the client does not take");
        for (date, verdict) in
            [(AT, unchanged(PLAIN)), (BEFORE, Verdict::Proceed), ("yesterday", Verdict::Proceed)]
        {
            assert_eq!(
                Fields::of(&headers(&[(header::IF_MODIFIED_SINCE, date)])).judge(&[PLAIN], 10),
                verdict
            );
        }
        let both = headers(&[(header::IF_MODIFIED_SINCE, AT), (header::IF_NONE_MATCH, &OTHER.to_string())]);
        assert_eq!(Fields::of(&both).judge(&[PLAIN], 10), Verdict::Proceed, "a tag outweighs a date");
    }

    #[test]
    fn a_read_of_another_state_than_demanded_fails() {
        let judged = |of: &[(HeaderName, &str)]| Fields::of(&headers(of)).judge(&[PLAIN], 10);
        assert_eq!(judged(&[(header::IF_MATCH, &GZIP.to_string())]), Verdict::Proceed);
        assert_eq!(judged(&[(header::IF_MATCH, "*")]), Verdict::Proceed);
        for other in [OTHER.to_string(), format!("W/{PLAIN}"), "x".into()] {
            assert_eq!(judged(&[(header::IF_MATCH, &other)]), Verdict::Failed, "{other}");
        }
        assert_eq!(judged(&[(header::IF_UNMODIFIED_SINCE, BEFORE)]), Verdict::Failed);
        assert_eq!(judged(&[(header::IF_UNMODIFIED_SINCE, AT)]), Verdict::Proceed);
        let both = [(header::IF_UNMODIFIED_SINCE, BEFORE), (header::IF_MATCH, &PLAIN.to_string())];
        assert_eq!(judged(&both), Verdict::Proceed, "a tag outweighs a date");
    }

    #[test]
    fn a_range_is_cut_only_from_the_form_that_if_range_names() {
        let allows = |value: &str| Fields::of(&headers(&[(header::IF_RANGE, value)])).allows_range(GZIP, 10);
        assert!(Fields::default().allows_range(GZIP, 10));
        assert!(allows(&GZIP.to_string()) && allows(AT));
        for other in [&PLAIN.to_string(), &format!("W/{GZIP}"), BEFORE, "x", ""] {
            assert!(!allows(other), "{other}");
        }
    }

    #[test]
    fn a_write_is_let_through_only_in_the_state_it_names() {
        let now = Some(Validators { digest: 10, modified_at_secs: 10 });
        let check =
            |of: &[(HeaderName, &str)], current| WriteConditions::of(&headers(of)).check(current).is_ok();
        assert!(WriteConditions::of(&headers(&[])).is_empty() && check(&[], None));
        let (gzip, other) = (GZIP.to_string(), OTHER.to_string());
        assert!(check(&[(header::IF_MATCH, &gzip)], now) && check(&[(header::IF_MATCH, "*")], now));
        assert!(!check(&[(header::IF_MATCH, &other)], now));
        assert!(!check(&[(header::IF_MATCH, &gzip)], None) && !check(&[(header::IF_MATCH, "*")], None));
        assert!(!check(&[(header::IF_UNMODIFIED_SINCE, BEFORE)], now));
        assert!(check(&[(header::IF_UNMODIFIED_SINCE, AT)], now));
        assert!(!check(&[(header::IF_NONE_MATCH, "*")], now) && check(&[(header::IF_NONE_MATCH, "*")], None));
        assert!(
            !check(&[(header::IF_NONE_MATCH, &gzip)], now) && check(&[(header::IF_NONE_MATCH, &other)], now)
        );
        assert_eq!(
            WriteConditions::of(&headers(&[(header::IF_MATCH, &other)])).check(now).unwrap_err().kind(),
            ErrorKind::PreconditionFailed
        );
    }
}
