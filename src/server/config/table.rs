//! The table of settings: the one place where a key, its type, bounds, default, help and status are written.
//!
//! Each section declares a struct and its rows together. Flags, environment variables, the file, `--help` and
//! `hifz config` are all derived from [`SECTIONS`]; to switch a setting on, change its status here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::given::{Given, Origin, Problem, Raw};
use super::kind::{Kind, Row, Setting, Status, check};
use super::value::{ContentAuth, Durability, ListenAddress, LogFormat, Network, Secret};

/// What was found for each key: only what somebody set, and of several layers the strongest.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// By key.
    pub(crate) given: BTreeMap<String, Given>,
    /// `[namespaces.NAME]`, by name and key.
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, Given>>,
}

/// What [`Values`] holds for `row`, or its default.
pub(crate) fn given_or_default(given: &BTreeMap<String, Given>, row: &Row) -> Given {
    given
        .get(row.key)
        .cloned()
        .unwrap_or_else(|| Given { raw: Raw::One(row.default.to_owned()), origin: Origin::Default })
}

/// A group of rows with its heading.
#[derive(Debug)]
pub(crate) struct Section {
    /// The heading in help.
    pub(crate) title: &'static str,
    /// Its settings.
    pub(crate) rows: &'static [Row],
}

fn read<T: Setting>(given: &BTreeMap<String, Given>, row: &Row) -> Result<T, Problem> {
    let given = given_or_default(given, row);
    T::read(&row.kind, &given.raw).map_err(|refusal| Problem::new(row.key, &given.origin, refusal))
}

/// Declares one section: `field: Type = default, Kind, Status[, reload]; "help"`. The key is the prefix and the field.
macro_rules! section {
    (
        $(#[$doc:meta])*
        $name:ident, $prefix:literal, $title:literal {
            $($field:ident: $type:ty = $default:literal, $kind:expr, $status:ident $(, $reload:ident)?; $help:literal)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name { $(#[doc = $help] pub(crate) $field: $type),+ }

        impl $name {
            /// The rows of this section.
            pub(crate) const SECTION: Section = Section {
                title: $title,
                rows: &[$(Row {
                    key: concat!($prefix, stringify!($field)),
                    kind: $kind,
                    default: $default,
                    help: $help,
                    status: Status::$status,
                    is_reloadable: section!(@reload $($reload)?),
                    check: check::<$type>,
                }),+],
            };

            /// Reads the section; what is not given has its default.
            pub(crate) fn read(given: &BTreeMap<String, Given>) -> Result<Self, Problem> {
                let mut rows = Self::SECTION.rows.iter();
                // The struct's fields and the rows come from the same lines, so each field finds its row in turn.
                $(let $field = match rows.next() {
                    Some(row) => read::<$type>(given, row)?,
                    None => return Err(Problem::new(stringify!($field), &Origin::Default, "has no row")),
                };)+
                Ok(Self { $($field),+ })
            }
        }
    };
    (@reload reload) => { true };
    (@reload) => { false };
}

section! {
    /// Where the server lives and listens, and who is let in.
    Place, "", "Place and access" {
        data_dir: PathBuf = "./hifz-data", Kind::Path, Now; "Directory of everything that is stored"
        listen: Vec<ListenAddress> = "127.0.0.1:8080", Kind::Addresses(1), Now; "Addresses to listen on"
        admin_listen: Vec<ListenAddress> = "none", Kind::Addresses(0), Now;
            "Addresses for the admin routes alone; none: the same as listen"
        admin_token: Option<Secret> = "none", Kind::Secret, Now, reload; "Admin token; none: made on first start"
        jwt_secret: Option<Secret> = "none", Kind::Secret, Now, reload; "Secret of HS256 user tokens"
        jwks_file: Option<PathBuf> = "none", Kind::Path, Now, reload; "Key set of RS256 and ES256 user tokens"
        jwt_audience: Option<String> = "none", Kind::Text, Now, reload; "Audience that user tokens must name"
        jwt_issuer: Option<String> = "none", Kind::Text, Now, reload; "Issuer that user tokens must name"
        content_auth: ContentAuth = "public", Kind::Choice(ContentAuth::WORDS), Now;
            "user: content too asks for a valid user token"
    }
}

section! {
    /// HTTPS.
    Tls, "tls.", "HTTPS" {
        cert: Option<PathBuf> = "none", Kind::Path, Now, reload; "Certificate chain (PEM)"
        key: Option<PathBuf> = "none", Kind::Path, Now, reload; "Private key (PEM)"
    }
}

section! {
    /// The two tiers of the cache.
    Tiers, "", "Cache" {
        memory: u64 = "500MB", Kind::Size(1_000_000, 1 << 50), Now, reload; "Most memory the cache makes the process take"
        max_entries: Option<u64> = "none", Kind::Count(1, u64::MAX), Now; "Most entries in memory"
        disk: u64 = "2200MB", Kind::SizeOrZero(4_000_000), Now, reload; "Most bytes of cache.redb; 0: memory only"
        durability: Durability = "interval", Kind::Choice(Durability::WORDS), Now; "When cache writes are made durable"
        flush_interval: Duration = "1s", Kind::Span(1), Now; "Longest time a cache write waits to be written"
        key_prefix: Option<String> = "none", Kind::Text, Now; "Stands before the built-in keys"
    }
}

section! {
    /// Where content comes from.
    SourceSettings, "source.", "Source" {
        url: Option<String> = "none", Kind::Url, Now; "Read content from this service; none: the embedded store"
        ca: Option<PathBuf> = "none", Kind::Path, Now;
            "Authorities (PEM) that an https source is checked against; none: the system's"
        attempts: u64 = "3", Kind::Count(1, 100), Now; "Attempts for one load"
        backoff: Duration = "100ms", Kind::Span(1), Now; "First pause between attempts; doubles, with jitter"
        timeout: Duration = "2s", Kind::Span(1), Now; "Longest time of one attempt"
        soft_timeout: Option<Duration> = "none", Kind::Span(1), Now; "Serve stale when a load takes longer"
        breaker_failures: u64 = "5", Kind::Count(1, 1_000_000), Now; "Failures in a row that open the breaker"
        breaker_open: Duration = "10s", Kind::Span(1), Now; "How long the breaker stays open"
        slow: Duration = "200ms", Kind::Span(0), Now; "Loads slower than this are logged"
    }
}

section! {
    /// Filling the cache ahead of requests.
    Warm, "warm.", "Warming" {
        on_start: bool = "true", Kind::Switch, Now; "Warm after the start"
        schedule: Option<String> = "0 1 * * *", Kind::Cron, Now; "When to warm again (UTC)"
        only: Vec<String> = "all", Kind::Words(&["surahs", "reciters", "translations"]), Now; "What to warm"
        wait: bool = "false", Kind::Switch, Now; "/readyz waits for the warming"
    }
}

section! {
    /// When to raise an alarm, and where.
    Alerts, "alerts.", "Alerts" {
        memory_above: f64 = "0.90", Kind::Share, Now; "Share of the memory limit"
        hit_ratio_below: f64 = "0.80", Kind::Share, Now; "Hit ratio"
        min_samples: u64 = "100", Kind::Count(1, u64::MAX), Now; "Requests before the hit ratio counts"
        webhook: Option<String> = "none", Kind::Url, Later; "Where alerts are posted"
        webhook_secret: Option<Secret> = "none", Kind::Secret, Later; "Signs what is posted"
    }
}

section! {
    /// What one client, request or connection may take.
    Limits, "limits.", "Limits" {
        key: u64 = "1024", Kind::Size(1, 1024), Now; "Longest key under which a value can be put"
        value: u64 = "32MiB", Kind::Size(1, 1 << 32), Now; "Largest value"
        body: u64 = "64MiB", Kind::Size(1, 1 << 40), Now; "Largest request body"
        header: u64 = "32KiB", Kind::Size(8192, 1 << 20), Now; "Largest request head"
        connections: u64 = "10000", Kind::Count(1, 1_000_000), Now; "Most connections at a time"
        header_timeout: Duration = "10s", Kind::Span(1), Now; "Longest time to send a request head"
        body_timeout: Duration = "30s", Kind::Span(1), Now; "Longest pause while a body is received"
        write_timeout: Duration = "30s", Kind::Span(1), Now; "Longest pause while an answer is sent"
        idle_timeout: Duration = "75s", Kind::Span(1), Now; "Longest time between requests of a connection"
        source_loads: u64 = "64", Kind::Count(1, 100_000), Now; "Most loads from the source at a time"
        rate_reads: u64 = "0", Kind::Count(0, u64::MAX), Now; "Reads a second and client; 0: no limit"
        rate_writes: u64 = "0", Kind::Count(0, u64::MAX), Now; "Writes a second and client; 0: no limit"
        rate_failed_logins: u64 = "300", Kind::Count(0, u64::MAX), Now; "Failed logins a minute and address"
        trusted_proxies: Vec<Network> = "none", Kind::Networks, Now; "Proxies whose forwarding headers are believed"
    }
}

section! {
    /// What is logged, and how.
    Logging, "", "Log" {
        log: String = "info", Kind::Log, Now, reload; "What is logged, as in `RUST_LOG`"
        log_format: LogFormat = "text", Kind::Choice(LogFormat::WORDS), Now; "Form of the log"
        sentry_dsn: Option<Secret> = "none", Kind::HiddenUrl, Later; "Where faults are reported"
    }
}

section! {
    /// How long the entries of one namespace live, and how much room they get.
    NamespaceSettings, "", "[namespaces.NAME] (settings file only)" {
        ttl: Duration = "1h", Kind::Span(1), Now, reload; "Lifetime"
        stale_while_revalidate: Duration = "0s", Kind::Span(0), Now, reload; "Served stale this long while reloading"
        stale_if_error: Duration = "0s", Kind::Span(0), Now, reload; "Served stale this long when the source fails"
        negative_ttl: Duration = "30s", Kind::Span(0), Now, reload; "How long absence is remembered"
        jitter: f64 = "0", Kind::Share, Now, reload; "Share of ttl by which lifetimes differ"
        eager_after: f64 = "1", Kind::Share, Now, reload; "Share of ttl after which a read has it loaded anew; 1: not"
        idle_ttl: Option<Duration> = "none", Kind::Span(1), Now, reload; "Dropped when not read for so long"
        max_share: f64 = "1", Kind::ShareAboveZero, Now, reload; "Most of the memory limit it may take"
        client_max_age: Option<Duration> = "none", Kind::Span(0), Now, reload; "max-age sent to clients; none: as ttl"
        compressed_only: bool = "false", Kind::Switch, Now; "Keep only the compressed form: several times the text"
    }
}

/// Every section but the namespaces, in the order of help.
pub(crate) const SECTIONS: &[Section] = &[
    Place::SECTION,
    Tls::SECTION,
    Tiers::SECTION,
    Limits::SECTION,
    SourceSettings::SECTION,
    Warm::SECTION,
    Alerts::SECTION,
    Logging::SECTION,
];

/// The namespaces of built-in content, and how their defaults differ: a corrected verse reaches browsers within the hour.
pub(crate) const CONTENT_NAMESPACES: &[&str] =
    &["quran", "reciters", "reciter", "translations", "translation"];

/// See [`CONTENT_NAMESPACES`].
pub(crate) const CONTENT_DEFAULTS: &[(&str, &str)] =
    &[("ttl", "7d"), ("stale_while_revalidate", "1h"), ("stale_if_error", "1d"), ("client_max_age", "1h")];

/// Every row of every section.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

impl Row {
    /// `HIFZ_TABLE_KEY`.
    pub(crate) fn variable(&self) -> String {
        variable_of(self.key)
    }

    /// Whether it can also be given as `KEY_file`.
    pub(crate) fn has_file(&self) -> bool {
        matches!(self.kind, Kind::Secret)
    }

    /// `key_file`, under which a secret's file is named.
    pub(crate) fn file_key(&self) -> String {
        format!("{}_file", self.key)
    }
}

/// `limits.header_timeout` as a flag without dashes in front: `limits-header-timeout`.
pub(crate) fn flag_of(key: &str) -> String {
    key.replace(['.', '_'], "-")
}

/// `limits.header_timeout` as an environment variable: `HIFZ_LIMITS_HEADER_TIMEOUT`.
pub(crate) fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// What every environment variable of hifz begins with.
pub(crate) const VARIABLE_PREFIX: &str = "HIFZ_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_accepted_by_its_own_row() {
        for row in rows().chain(NamespaceSettings::SECTION.rows) {
            let checked = (row.check)(&row.kind, &Raw::One(row.default.to_owned()));
            assert!(checked.is_ok(), "{}: {checked:?}", row.key);
        }
    }

    #[test]
    fn no_two_settings_share_a_name_in_any_spelling() {
        let mut names = Vec::new();
        for row in rows() {
            names.extend([flag_of(row.key), row.variable()]);
            names.extend(
                row.has_file()
                    .then(|| [flag_of(&row.file_key()), variable_of(&row.file_key())])
                    .into_iter()
                    .flatten(),
            );
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
