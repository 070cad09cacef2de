//! What one setting accepts, and how its text becomes its type.
//!
//! A [`Row`] is one line of the table; its type and its [`Kind`] together decide. Knows no key by name.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::given::{NONE, Raw, did_you_mean};
use super::parse::{self, Refusal};
use super::value::{ContentAuth, Durability, HIDDEN, ListenAddress, LogFormat, Network, Secret};

/// One setting: its name and everything that is known about it.
#[derive(Debug)]
pub(crate) struct Row {
    /// `key`, or `table.key`.
    pub(crate) key: &'static str,
    /// What it accepts.
    pub(crate) kind: Kind,
    /// Its value when nobody sets it, as text.
    pub(crate) default: &'static str,
    /// One line for people.
    pub(crate) help: &'static str,
    /// Whether this version acts on it.
    pub(crate) status: Status,
    /// Whether SIGHUP applies a change without a restart.
    pub(crate) is_reloadable: bool,
    /// Reads a value as the setting's type and says how it is shown, or why it is refused.
    pub(crate) check: fn(&Kind, &Raw) -> Result<String, Refusal>,
}

/// Whether this version acts on a setting. What differs from the default is looked at; the default itself is always fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It works.
    Now,
    /// It is accepted with a warning and does nothing yet; ignoring it harms nobody.
    Later,
    /// It is refused, because somebody would rely on it.
    #[expect(dead_code, reason = "every setting of that kind works; the next one that does not, begins here")]
    Refused,
}

/// What a setting accepts, with its bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A path.
    Path,
    /// Addresses to listen on, at least so many.
    Addresses(usize),
    /// Bytes, from and to.
    Size(u64, u64),
    /// Bytes from so many, or 0.
    SizeOrZero(u64),
    /// A duration from so many milliseconds.
    Span(u64),
    /// A whole number, from and to.
    Count(u64, u64),
    /// 0 to 1.
    Share,
    /// Above 0, to 1.
    ShareAboveZero,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Some of these words, or `all`.
    Words(&'static [&'static str]),
    /// Text without control characters.
    Text,
    /// An address beginning with http.
    Url,
    /// The same, never shown.
    HiddenUrl,
    /// A schedule.
    Cron,
    /// Networks.
    Networks,
    /// `RUST_LOG` syntax.
    Log,
    /// A secret.
    Secret,
}

impl Kind {
    /// What is accepted, for people.
    pub(crate) fn accepts(&self) -> String {
        match self {
            Self::Path => "a path".to_owned(),
            Self::Addresses(_) => "ADDRESS:PORT or unix:PATH, several separated by commas".to_owned(),
            Self::Size(least, u64::MAX) => {
                format!("a size such as 500MB or 2GiB, at least {}", show_size(*least))
            }
            Self::Size(least, most) => {
                format!("a size such as 500MB or 2GiB, from {} to {}", show_size(*least), show_size(*most))
            }
            Self::SizeOrZero(least) => {
                format!("a size such as 500MB or 2GiB, 0 or at least {}", show_size(*least))
            }
            Self::Span(0) => "a duration such as 7d, 1h30m or 100ms".to_owned(),
            Self::Span(least) => {
                let least = show_duration(Duration::from_millis(*least));
                format!("a duration such as 7d, 1h30m or 100ms, at least {least}")
            }
            Self::Count(least, u64::MAX) => format!("a whole number from {least}"),
            Self::Count(least, most) => format!("a whole number from {least} to {most}"),
            Self::Share => "a number from 0 to 1".to_owned(),
            Self::ShareAboveZero => "a number above 0, at most 1".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => words.join(", "),
            Self::Words(words) => format!("all, or some of {}", words.join(", ")),
            Self::Text => "text without control characters".to_owned(),
            Self::Url | Self::HiddenUrl => "an address beginning with http:// or https://".to_owned(),
            Self::Cron => {
                "five fields: minute hour day month weekday, such as \"0 1 * * *\" (UTC)".to_owned()
            }
            Self::Networks => {
                "addresses or networks such as 10.0.0.0/8, several separated by commas".to_owned()
            }
            Self::Log => "a level (error, warn, info, debug, trace) or RUST_LOG directives".to_owned(),
            Self::Secret => "a secret of printable ASCII without spaces".to_owned(),
        }
    }

    /// What stands for the value in help.
    pub(crate) fn placeholder(&self) -> &'static str {
        match self {
            Self::Path => "PATH",
            Self::Addresses(_) => "ADDRESS,…",
            Self::Size(..) | Self::SizeOrZero(_) => "SIZE",
            Self::Span(_) => "DURATION",
            Self::Count(..) => "NUMBER",
            Self::Share | Self::ShareAboveZero => "0..1",
            Self::Switch => "BOOL",
            Self::Choice(_) => "WORD",
            Self::Words(_) => "WORD,…",
            Self::Text | Self::Secret => "TEXT",
            Self::Url | Self::HiddenUrl => "URL",
            Self::Cron => "CRON",
            Self::Networks => "NETWORK,…",
            Self::Log => "LEVEL",
        }
    }

    /// Whether the value must never be printed.
    pub(crate) fn is_hidden(&self) -> bool {
        matches!(self, Self::Secret | Self::HiddenUrl)
    }

    /// Whether values begin with a number.
    pub(crate) fn is_number(&self) -> bool {
        matches!(
            self,
            Self::Size(..)
                | Self::SizeOrZero(_)
                | Self::Span(_)
                | Self::Count(..)
                | Self::Share
                | Self::ShareAboveZero
        )
    }

    /// Whether several values are accepted.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self, Self::Addresses(_) | Self::Words(_) | Self::Networks)
    }
}

/// A type a setting can have.
pub(crate) trait Setting: Sized {
    /// Reads `raw` within the bounds of `kind`.
    ///
    /// # Errors
    /// The reason why it is refused, without the value.
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal>;

    /// How it is shown to people; hidden where it must be.
    fn show(&self, kind: &Kind) -> String;
}

/// [`Row::check`] for a setting of type `T`.
pub(crate) fn check<T: Setting>(kind: &Kind, raw: &Raw) -> Result<String, Refusal> {
    T::read(kind, raw).map(|value| value.show(kind))
}

impl<T: Setting> Setting for Option<T> {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        match raw {
            Raw::One(text) if text == NONE => Ok(None),
            _ => T::read(kind, raw).map(Some),
        }
    }

    fn show(&self, kind: &Kind) -> String {
        self.as_ref().map_or_else(|| NONE.to_owned(), |value| value.show(kind))
    }
}

impl Setting for u64 {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        let text = raw.one()?;
        let (number, least, most) = match *kind {
            Kind::Size(least, most) => (parse::parse_size(text)?, least, most),
            Kind::SizeOrZero(least) => match parse::parse_size(text)? {
                0 => return Ok(0),
                size => (size, least, u64::MAX),
            },
            Kind::Count(least, most) => (parse::parse_count(text)?, least, most),
            _ => return Err(mismatch()),
        };
        within(number, least, most)
    }

    fn show(&self, kind: &Kind) -> String {
        if matches!(kind, Kind::Count(..)) { self.to_string() } else { show_size(*self) }
    }
}

impl Setting for Duration {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        let Kind::Span(least_ms) = *kind else { return Err(mismatch()) };
        let span = parse::parse_duration(raw.one()?)?;
        let span_ms = u64::try_from(span.as_millis()).map_err(|_| "is too long to count".to_owned())?;
        within(span_ms, least_ms, SPAN_MS_MAX).map(Duration::from_millis)
    }

    fn show(&self, _kind: &Kind) -> String {
        show_duration(*self)
    }
}

impl Setting for f64 {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        let share = parse::parse_share(raw.one()?)?;
        if matches!(kind, Kind::ShareAboveZero) && share <= 0.0 {
            return Err("is 0".to_owned());
        }
        Ok(share)
    }

    fn show(&self, _kind: &Kind) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    fn read(_kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        parse::parse_switch(raw.one()?)
    }

    fn show(&self, _kind: &Kind) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        let text = raw.one()?;
        if text.trim().is_empty() {
            return Err("is empty".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("contains a control character".to_owned());
        }
        match kind {
            Kind::Text => Ok(text.to_owned()),
            Kind::Url => parse::parse_url(text).map(str::to_owned),
            Kind::Cron => parse::parse_cron(text).map(str::to_owned),
            Kind::Log => parse_log(text).map(str::to_owned),
            _ => Err(mismatch()),
        }
    }

    fn show(&self, _kind: &Kind) -> String {
        self.clone()
    }
}

impl Setting for PathBuf {
    fn read(_kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        match raw.one()? {
            "" => Err("is empty".to_owned()),
            text if text.contains('\0') => Err("contains a NUL byte".to_owned()),
            text => Ok(Self::from(text)),
        }
    }

    fn show(&self, _kind: &Kind) -> String {
        self.display().to_string()
    }
}

impl Setting for Secret {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        let text = raw.one()?;
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.len() > SECRET_BYTES_MAX {
            return Err(format!("is longer than {SECRET_BYTES_MAX} bytes"));
        }
        match kind {
            // A Sentry address carries its key as the user name, so it is a URL of its own kind.
            Kind::HiddenUrl if !text.starts_with("http://") && !text.starts_with("https://") => {
                Err("does not begin with http:// or https://".to_owned())
            }
            _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("contains a space, a control character or a letter outside ASCII".to_owned())
            }
            _ => Ok(Self::new(text)),
        }
    }

    fn show(&self, _kind: &Kind) -> String {
        HIDDEN.to_owned()
    }
}

impl Setting for Vec<ListenAddress> {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        let Kind::Addresses(least) = *kind else { return Err(mismatch()) };
        let mut addresses: Self = Vec::new();
        for text in raw.many() {
            let address =
                parse::parse_listen(text, &resolve).map_err(|refusal| quoted(raw, text, refusal))?;
            // Port 0 asks the system for a free one, so two of those are two listeners.
            let is_fixed = !matches!(address, ListenAddress::Tcp(tcp) if tcp.port() == 0);
            if is_fixed && addresses.contains(&address) {
                return Err(format!("names {address} twice"));
            }
            addresses.push(address);
        }
        if addresses.len() < least {
            return Err("is empty, at least one address is needed".to_owned());
        }
        if addresses.len() > LIST_MAX {
            return Err(format!("has more than {LIST_MAX} addresses"));
        }
        Ok(addresses)
    }

    fn show(&self, _kind: &Kind) -> String {
        show_list(self)
    }
}

impl Setting for Vec<Network> {
    fn read(_kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        raw.many()
            .into_iter()
            .map(|text| parse::parse_network(text).map_err(|refusal| quoted(raw, text, refusal)))
            .collect()
    }

    fn show(&self, _kind: &Kind) -> String {
        show_list(self)
    }
}

impl Setting for Vec<String> {
    fn read(kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
        let Kind::Words(words) = *kind else { return Err(mismatch()) };
        let mut chosen = Self::new();
        for text in raw.many() {
            if text == "all" {
                return Ok(words.iter().map(|word| (*word).to_owned()).collect());
            }
            if !words.contains(&text) {
                let near = did_you_mean(text, words.iter().copied());
                return Err(format!("has {text:?}, which is not one of the words{near}"));
            }
            if !chosen.iter().any(|word| word == text) {
                chosen.push(text.to_owned());
            }
        }
        Ok(chosen)
    }

    fn show(&self, _kind: &Kind) -> String {
        show_list(self)
    }
}

macro_rules! setting_of_words {
    ($($name:ident),+) => {$(
        impl Setting for $name {
            fn read(_kind: &Kind, raw: &Raw) -> Result<Self, Refusal> {
                let word = raw.one()?.trim();
                Self::from_word(word).ok_or_else(|| {
                    format!("is not one of the words{}", did_you_mean(word, Self::WORDS.iter().copied()))
                })
            }

            fn show(&self, _kind: &Kind) -> String {
                self.to_string()
            }
        }
    )+};
}
setting_of_words!(Durability, LogFormat, ContentAuth);

/// Bytes in the largest unit that loses nothing; the decimal one where both are as short.
pub(crate) fn show_size(bytes: u64) -> String {
    if bytes < BARE_BYTES_MAX {
        return bytes.to_string();
    }
    let exact = |units: &[(&str, u64)]| {
        units
            .iter()
            .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
            .map(|(name, unit)| format!("{}{name}", bytes / unit))
    };
    let decimal = exact(&[("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)]);
    let binary = exact(&[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]);
    decimal.into_iter().chain(binary).min_by_key(String::len).unwrap_or_else(|| bytes.to_string())
}

/// A duration as it would be written in the settings: `1h30m`, `100ms`, `0s`.
pub(crate) fn show_duration(span: Duration) -> String {
    let mut rest_ms = span.as_millis();
    let mut parts = Vec::new();
    for (name, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest_ms >= unit_ms {
            parts.push(format!("{}{name}", rest_ms / unit_ms));
            rest_ms %= unit_ms;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.concat() }
}

fn show_list(values: &[impl ToString]) -> String {
    if values.is_empty() {
        return NONE.to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Names the one element of a list that is refused; a list of one names itself.
fn quoted(raw: &Raw, text: &str, refusal: Refusal) -> Refusal {
    if raw.many().len() > 1 { format!("has {text:?}, which {refusal}") } else { refusal }
}

fn within(number: u64, least: u64, most: u64) -> Result<u64, Refusal> {
    if number < least {
        return Err("is too small".to_owned());
    }
    if number > most { Err("is too large".to_owned()) } else { Ok(number) }
}

fn parse_log(text: &str) -> Result<&str, Refusal> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for word in text.split(',').map(str::trim) {
        // A lone word that is no level is read as a module, which silences everything else: a slip of one letter would
        // empty the log.
        let near = did_you_mean(&word.to_ascii_lowercase(), LEVELS.into_iter());
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) && !near.is_empty() {
            return Err(format!("has {word:?}, which is not a level{near}"));
        }
    }
    let directives = tracing_subscriber::EnvFilter::builder().parse(text);
    directives.map(|_| text).map_err(|error| error.to_string())
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, Refusal> {
    let found: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| format!("does not resolve: {error}"))?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or_else(|| found.first());
    first.copied().ok_or_else(|| "resolves to no address".to_owned())
}

/// A row whose type does not fit its kind; the test of all defaults keeps it out of the table.
fn mismatch() -> Refusal {
    "cannot be read (a fault in the table of settings)".to_owned()
}

/// 100 years: longer is surely a slip, and sums of two of them still count.
const SPAN_MS_MAX: u64 = 100 * 365 * 86_400_000;

/// The longest secret; a header must be able to carry it.
pub(crate) const SECRET_BYTES_MAX: usize = 4096;

/// Sizes below this read best as a bare number.
const BARE_BYTES_MAX: u64 = 10_000;

/// The most addresses in one list.
const LIST_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_shown_as_they_would_be_written() {
        for text in ["500MB", "2200MB", "64MiB", "32KiB", "1025", "0", "2GB"] {
            let shown = show_size(parse::parse_size(text).unwrap());
            assert_eq!(parse::parse_size(&shown), parse::parse_size(text));
        }
        assert_eq!(show_size(500_000_000), "500MB");
        assert_eq!(show_size(32 << 20), "32MiB");
        assert_eq!(show_duration(Duration::from_mins(90)), "1h30m");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn a_slip_in_a_log_level_is_refused_and_a_module_is_not() {
        assert!(parse_log("inof").unwrap_err().contains("info"));
        for text in ["info", "WARN", "hifz=debug,info", "hifz::server=trace", "hyper=off"] {
            assert!(parse_log(text).is_ok(), "{text}");
        }
        assert!(parse_log("hifz=loud").is_err());
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let one = |text: &str| Raw::One(text.to_owned());
        assert!(u64::read(&Kind::Size(8192, 1 << 20), &one("8191")).is_err());
        assert_eq!(u64::read(&Kind::Size(8192, 1 << 20), &one("8KiB")), Ok(8192));
        assert!(u64::read(&Kind::Size(8192, 1 << 20), &one("2MiB")).is_err());
        assert_eq!(u64::read(&Kind::SizeOrZero(4096), &one("0")), Ok(0));
        assert!(u64::read(&Kind::SizeOrZero(4096), &one("1")).is_err());
        assert!(f64::read(&Kind::ShareAboveZero, &one("0")).is_err());
        assert!(Duration::read(&Kind::Span(1), &one("0")).is_err());
        assert!(Duration::read(&Kind::Span(1), &one("101w")).is_ok());
        assert!(Duration::read(&Kind::Span(1), &one("40000d")).is_err());
    }
}
