//! Texts into values: sizes, durations, addresses, schedules. Pure functions that never panic, whatever the text.
//!
//! Each refusal is a short reason (`has no unit …`); the caller adds the key, where it was set and what is accepted.
//! Knows nothing of keys, files or flags.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::value::{ListenAddress, Network};

/// Why a text is not a value.
pub(crate) type Refusal = String;

/// A number of bytes: `500MB` (10^6), `2GiB` (2^30), or a bare number of bytes.
///
/// # Errors
/// The reason: empty, negative, not a whole number, an unknown unit, or past 2^64 bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, Refusal> {
    let (number, unit) = number_and_rest(text.trim())?;
    let unit = unit.trim_start();
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "k" | "m" | "g" | "t" => {
            return Err(format!(
                "has the ambiguous unit {unit:?}: write {unit}B (decimal) or {unit}iB (binary)"
            ));
        }
        _ => return Err(format!("has the unknown unit {unit:?}")),
    };
    number.checked_mul(factor).ok_or_else(|| "is more than 2^64 bytes".to_owned())
}

/// A span of time: `7d`, `1h30m`, `100ms`, or a bare number of seconds.
///
/// # Errors
/// The reason: empty, negative, not a whole number, an unknown unit, units out of order, or past 2^64 milliseconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, Refusal> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    let mut last_unit_ms = u64::MAX;
    loop {
        let (number, after) = number_and_rest(rest)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "" if last_unit_ms == u64::MAX && after.is_empty() => 1000,
            "" if after.is_empty() => return Err("ends in a number that has no unit".to_owned()),
            "" => return Err(format!("has an unexpected {after:?}")),
            _ => return Err(format!("has the unknown unit {unit:?}")),
        };
        if unit_ms >= last_unit_ms {
            return Err(format!("has the unit {unit:?} out of order; larger units come first, each once"));
        }
        last_unit_ms = unit_ms;
        total_ms = number
            .checked_mul(unit_ms)
            .and_then(|part| total_ms.checked_add(part))
            .ok_or_else(|| "is too long to count".to_owned())?;
        rest = next;
        if rest.is_empty() {
            return Ok(Duration::from_millis(total_ms));
        }
    }
}

/// A whole number that is not negative.
///
/// # Errors
/// The reason: empty, negative, not a whole number, or past 2^64.
pub(crate) fn parse_count(text: &str) -> Result<u64, Refusal> {
    match number_and_rest(text.trim())? {
        (number, "") => Ok(number),
        (_, rest) => Err(format!("has an unexpected {rest:?} after the number")),
    }
}

/// A share: a decimal number from 0 to 1.
///
/// # Errors
/// The reason: not a number, or outside 0 to 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, Refusal> {
    let share: f64 = text.trim().parse().map_err(|_| "is not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("is outside 0 to 1".to_owned()) }
}

/// `true` or `false`.
///
/// # Errors
/// When it is neither.
pub(crate) fn parse_switch(text: &str) -> Result<bool, Refusal> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// `ADDRESS:PORT` or `unix:PATH`; a host name is handed to `resolve`, except `localhost`, which is 127.0.0.1.
///
/// # Errors
/// The reason: no port, no path, a path that cannot be a socket, or a name that does not resolve.
pub(crate) fn parse_listen(
    text: &str,
    resolve: &dyn Fn(&str, u16) -> Result<SocketAddr, Refusal>,
) -> Result<ListenAddress, Refusal> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_socket_path(path).map(ListenAddress::Unix);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(ListenAddress::Tcp(address));
    }
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') && text.ends_with(']') {
        return Err("has no port".to_owned());
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let hint =
            if text.parse::<u16>().is_ok() { format!(": write 127.0.0.1:{text}") } else { String::new() };
        return Err(format!("has no port, or no address{hint}"));
    };
    let port: u16 =
        port.parse().map_err(|_| format!("has the port {port:?}, which is not a number from 0 to 65535"))?;
    match host {
        "" => Err(format!("has no address: write 127.0.0.1:{port}, or 0.0.0.0:{port} for every interface")),
        "localhost" => Ok(ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
        _ if host.contains(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))) => {
            Err(format!("has the host {host:?}, which is neither an address nor a host name"))
        }
        _ => resolve(host, port).map(ListenAddress::Tcp),
    }
}

/// An address to call, as a server wrote it down: never a host name, so nothing is resolved.
///
/// # Errors
/// As [`parse_listen`].
pub(crate) fn parse_listen_local(text: &str) -> Result<ListenAddress, Refusal> {
    parse_listen(text, &|_, _| Err("is a host name, an address is accepted".to_owned()))
}

/// An address or `ADDRESS/BITS`.
///
/// # Errors
/// The reason: not an address, or more bits than it has.
pub(crate) fn parse_network(text: &str) -> Result<Network, Refusal> {
    let text = text.trim();
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr =
        address.parse().map_err(|_| format!("has the address {address:?}, which is not an IP address"))?;
    let most: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = match bits {
        None => most,
        Some(bits) => bits
            .parse()
            .ok()
            .filter(|bits| *bits <= most)
            .ok_or_else(|| format!("has the prefix {bits:?}, which is not a number from 0 to {most}"))?,
    };
    Ok(Network { address, prefix_bits })
}

/// An `http://` or `https://` address with a host and without a user name or password.
///
/// # Errors
/// The reason.
pub(crate) fn parse_url(text: &str) -> Result<&str, Refusal> {
    let text = text.trim();
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let rest = rest.ok_or("does not begin with http:// or https://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("carries a user name or password, which would end up in logs".to_owned());
    }
    if authority.split(':').next().is_none_or(str::is_empty) {
        return Err("has no host".to_owned());
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("contains white space".to_owned());
    }
    Ok(text)
}

/// A schedule of five fields: minute, hour, day of month, month, day of week.
///
/// # Errors
/// Which field is wrong and why.
pub(crate) fn parse_cron(text: &str) -> Result<&str, Refusal> {
    let text = text.trim();
    let fields: Vec<&str> = text.split_ascii_whitespace().take(CRON_FIELDS.len() + 1).collect();
    if fields.len() != CRON_FIELDS.len() {
        return Err("does not have five fields".to_owned());
    }
    for (field, (name, least, most, words)) in fields.iter().zip(CRON_FIELDS) {
        for part in field.split(',') {
            check_cron_part(part, *least, *most, words)
                .map_err(|why| format!("has the {name} {part:?}: {why} (from {least} to {most})"))?;
        }
    }
    Ok(text)
}

/// Hands any bytes to every parser: the body of the fuzz target `settings`. Host names resolve to nothing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn drive(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    drop(parse_size(&text));
    drop(parse_duration(&text));
    drop(parse_count(&text));
    drop(parse_share(&text));
    drop(parse_switch(&text));
    drop(parse_listen(&text, &|_, _| Err(String::new())));
    drop(parse_network(&text));
    drop(parse_url(&text));
    drop(parse_cron(&text));
}

fn check_cron_part(part: &str, least: u8, most: u8, words: &[&str]) -> Result<(), &'static str> {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| step.parse::<u8>().map_or(true, |step| step == 0)) {
        return Err("the step is not a number above 0");
    }
    if range == "*" {
        return Ok(());
    }
    let value = |text: &str| -> Result<u8, &'static str> {
        let lower = text.to_ascii_lowercase();
        let named = words.iter().zip(least..).find(|(word, _)| **word == lower).map(|(_, number)| number);
        let number = named.or_else(|| text.parse().ok()).ok_or("not a number")?;
        if (least..=most).contains(&number) { Ok(number) } else { Err("out of range") }
    };
    match range.split_once('-') {
        None => value(range).map(drop),
        Some((from, to)) if value(from)? <= value(to)? => Ok(()),
        Some(_) => Err("the range runs backwards"),
    }
}

fn parse_socket_path(path: &str) -> Result<PathBuf, Refusal> {
    if path.is_empty() {
        return Err("has no path after unix:".to_owned());
    }
    if path.contains('\0') {
        return Err("has a NUL byte in its path".to_owned());
    }
    if path.len() > SOCKET_PATH_BYTES_MAX {
        return Err(format!(
            "has a path of {} bytes, a socket's has at most {SOCKET_PATH_BYTES_MAX}",
            path.len()
        ));
    }
    Ok(Path::new(path).to_path_buf())
}

/// Splits `12abc` into 12 and `abc`, and says what is wrong with the number where there is none.
fn number_and_rest(text: &str) -> Result<(u64, &str), Refusal> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.starts_with('-') {
        return Err("is negative".to_owned());
    }
    if digits.is_empty() {
        return Err("does not begin with a number".to_owned());
    }
    if rest.starts_with(['.', ',']) {
        return Err("is not a whole number: write 1500MB for 1.5GB, 500ms for 0.5s".to_owned());
    }
    let number = digits.parse().map_err(|_| format!("has the number {digits}, which is too large"))?;
    Ok((number, rest))
}

/// `sun_path` has 108 bytes on Linux, one of them the closing NUL; 104 on the BSDs.
const SOCKET_PATH_BYTES_MAX: usize = 103;

const CRON_FIELDS: &[(&str, u8, u8, &[&str])] = &[
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 7, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn no_names(host: &str, _port: u16) -> Result<SocketAddr, Refusal> {
        Err(format!("{host} does not resolve"))
    }

    #[test]
    fn sizes_are_decimal_binary_or_bare_bytes() {
        for (text, bytes) in [
            ("500MB", 500_000_000),
            ("2GiB", 2 << 30),
            ("7", 7),
            ("0", 0),
            ("16 kib", 16 << 10),
            ("32KiB", 32 << 10),
            ("3b", 3),
            ("1TB", 1_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "empty"),
            (" ", "empty"),
            ("-1", "negative"),
            ("MB", "number"),
            ("5XB", "unknown unit \"XB\""),
            ("5G", "ambiguous"),
            ("1.5GB", "whole number"),
            ("18446744073709551616", "too large"),
            ("99999999999TiB", "2^64"),
            ("5MB5", "unknown unit"),
        ] {
            assert!(parse_size(text).unwrap_err().contains(reason), "{text}: {:?}", parse_size(text));
        }
    }

    #[test]
    fn durations_add_up_from_large_to_small() {
        for (text, millis) in [
            ("7d", 604_800_000),
            ("1w", 604_800_000),
            ("1h30m", 5_400_000),
            ("100ms", 100),
            ("90", 90_000),
            ("0", 0),
            ("1m1s1ms", 61_001),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("-5s", "negative"),
            ("h", "number"),
            ("5y", "unknown unit \"y\""),
            ("1h30", "no unit"),
            ("30m1h", "out of order"),
            ("1h1h", "out of order"),
            ("0.5s", "whole number"),
            ("1h-3m", "negative"),
            ("5 m", "unexpected"),
            ("99999999999999999999s", "too large"),
            ("18446744073709551615d", "too long"),
        ] {
            let refusal = parse_duration(text).unwrap_err();
            assert!(refusal.contains(reason), "{text}: {refusal}");
        }
    }

    #[test]
    fn listeners_are_addresses_or_unix_sockets() {
        let tcp = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
        assert_eq!(parse_listen("127.0.0.1:8080", &no_names), Ok(tcp("127.0.0.1:8080")));
        assert_eq!(parse_listen("[::1]:0", &no_names), Ok(tcp("[::1]:0")));
        assert_eq!(parse_listen("localhost:80", &no_names), Ok(tcp("127.0.0.1:80")));
        assert_eq!(
            parse_listen("unix:/run/h.sock", &no_names),
            Ok(ListenAddress::Unix("/run/h.sock".into()))
        );
        for (text, reason) in [
            ("8080", "write 127.0.0.1:8080"),
            (":8080", "0.0.0.0:8080"),
            ("127.0.0.1", "no port"),
            ("::1", "no port"),
            ("[::1]", "no port"),
            ("127.0.0.1:70000", "port"),
            ("http://localhost:80", "neither"),
            ("nobody:80", "does not resolve"),
            ("unix:", "no path"),
            ("", "empty"),
        ] {
            let refusal = parse_listen(text, &no_names).unwrap_err();
            assert!(refusal.contains(reason), "{text}: {refusal}");
        }
    }

    #[test]
    fn schedules_have_five_fields_each_within_its_range() {
        for text in ["0 1 * * *", "*/5 0-6,12 1 jan-mar MON", "59 23 31 12 7"] {
            assert_eq!(parse_cron(text), Ok(text));
        }
        for text in ["", "0 1 * *", "60 1 * * *", "0 1 0 * *", "*/0 1 * * *", "5-1 * * * *", "x * * * *"] {
            assert!(parse_cron(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_networks_switches_and_urls_keep_their_bounds() {
        assert_eq!(parse_share("0.25"), Ok(0.25));
        for text in ["1.1", "-0.1", "NaN", "inf", "", "x"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
        assert_eq!(parse_network("10.0.0.0/8").unwrap().prefix_bits, 8);
        assert_eq!(parse_network("::1").unwrap().prefix_bits, 128);
        for text in ["10.0.0.0/33", "10.0/8", "x", "::/129", "10.0.0.0/"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
        assert_eq!(parse_switch("true"), Ok(true));
        assert!(parse_switch("maybe").is_err());
        assert!(parse_url("https://example.org/x").is_ok());
        for text in ["ftp://x", "http://", "http://:80", "http://a:b@c", "http://a b"] {
            assert!(parse_url(text).is_err(), "{text}");
        }
        assert_eq!(parse_count("12"), Ok(12));
        assert!(parse_count("12x").is_err());
    }
}
