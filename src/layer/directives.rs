//! `Cache-Control`, as requests and responses write it (RFC 9111 §5.2).
//!
//! What cannot be read is read in the way that keeps least: a lifetime that is no number is none, a field that is not
//! text forbids to store.

use std::time::Duration;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName};

/// What the `Cache-Control` fields of one message say.
#[expect(clippy::struct_excessive_bools, reason = "each is a directive that is there or not")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) is_private: bool,
    pub(super) must_revalidate: bool,
    pub(super) only_if_cached: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) shared_max_age: Option<Duration>,
    pub(super) min_fresh: Option<Duration>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
}

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for field in headers.get_all(CACHE_CONTROL) {
            let Ok(field) = field.to_str() else {
                all.no_store = true;
                continue;
            };
            for directive in split(field) {
                let (name, value) = directive.split_once('=').map_or((directive, None), |(name, value)| {
                    (name.trim_end(), Some(value.trim().trim_matches('"')))
                });
                all.add(&name.to_ascii_lowercase(), value);
            }
        }
        all
    }

    fn add(&mut self, name: &str, value: Option<&str>) {
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.is_private = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => least(&mut self.max_age, seconds(value)),
            "s-maxage" => least(&mut self.shared_max_age, seconds(value)),
            "min-fresh" => self.min_fresh = Some(seconds(value)),
            "stale-while-revalidate" => least(&mut self.stale_while_revalidate, seconds(value)),
            "stale-if-error" => least(&mut self.stale_if_error, seconds(value)),
            _ => {}
        }
    }
}

/// The members of every field called `name`, trimmed; fields that are not text have none.
pub(super) fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).iter().filter_map(|field| field.to_str().ok()).flat_map(split)
}

/// A list of a field at its commas, but not at those within quotes.
fn split(field: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let members = field.split(move |char| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match char {
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            '"' if !was_escaped => is_quoted = !is_quoted,
            ',' => return !is_quoted,
            _ => {}
        }
        false
    });
    members.map(str::trim).filter(|member| !member.is_empty())
}

/// Said twice, the shorter one holds.
fn least(held: &mut Option<Duration>, given: Duration) {
    *held = Some(held.map_or(given, |held| held.min(given)));
}

/// A number of seconds; none when it is no number, and what is beyond all use when it is too large.
fn seconds(value: Option<&str>) -> Duration {
    let digits = value.unwrap_or_default();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let most = u64::from(u32::MAX);
    Duration::from_secs(if is_number { digits.parse().unwrap_or(most).min(most) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(fields: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CACHE_CONTROL, field.parse().unwrap());
        }
        Directives::of(&headers)
    }

    #[test]
    fn directives_are_read_whatever_their_spelling() {
        let read = directives(&["Public , MAX-AGE=60", "s-maxage=\"30\",,stale-if-error=5"]);
        let (sixty, thirty, five) = (Duration::from_mins(1), Duration::from_secs(30), Duration::from_secs(5));
        assert_eq!(
            (read.max_age, read.shared_max_age, read.stale_if_error),
            (Some(sixty), Some(thirty), Some(five))
        );
        assert!(!read.no_store && !read.is_private);
    }

    #[test]
    fn what_stands_within_quotes_is_no_directive_and_a_qualified_one_counts_whole() {
        let read = directives(&["ext=\"a, max-age=60, \\\", no-store\", private=\"set-cookie\""]);
        assert_eq!(read, Directives { is_private: true, ..Directives::default() });
    }

    #[test]
    fn what_cannot_be_read_keeps_least() {
        for field in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=soon"] {
            assert_eq!(directives(&[field]).max_age, Some(Duration::ZERO), "{field}");
        }
        assert_eq!(directives(&["max-age=9, max-age=5"]).max_age, Some(Duration::from_secs(5)));
        let endless = directives(&["max-age=99999999999999999999999"]).max_age;
        assert_eq!(endless, Some(Duration::from_secs(u64::from(u32::MAX))));
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, http::HeaderValue::from_bytes(b"max-age=5\xFF").unwrap());
        assert!(Directives::of(&headers).no_store);
    }
}
