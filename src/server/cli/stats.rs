//! `hifz stats [--watch]`: the server's figures as a table.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::output::{Failure, say, say_json, say_whom};
use super::target::{self, Target};
use super::{PATIENCE, printable};
use crate::error::{Error, ErrorKind};
use crate::server::client::{Client, Send};
use crate::server::config::{Settings, show_size};

/// Shows the figures once, or again and again.
pub(crate) fn stats(settings: &Settings, is_watching: bool, is_json: bool) -> Result<(), Failure> {
    let Some(Target::Server { client, place }) = target::server(settings, PATIENCE)? else {
        let message =
            format!("no server runs on {}, and figures are of one that runs", settings.data_dir.display());
        return Err(Error::new(ErrorKind::NotFound, message).into());
    };
    say_whom(&format!("through {place}"), is_json);
    let is_screen = is_watching && !is_json && std::io::stdout().is_terminal();
    let mut before = None;
    loop {
        let mut figures = target::run(ask(&client))?;
        figures["via"] = format!("through {place}").into();
        if is_json && is_watching {
            // One line a look, for programs that read along.
            say(&figures.to_string())?;
        } else if is_json {
            say_json(&figures)?;
        } else {
            let table = printable(&table(&figures, before.as_ref()));
            // To the upper left, and over what stood there.
            say(&if is_screen { format!("\u{1b}[H\u{1b}[2J{table}") } else { table })?;
        }
        if !is_watching {
            return Ok(());
        }
        before = Some(figures);
        std::thread::park_timeout(WATCH_INTERVAL);
    }
}

async fn ask(client: &Client) -> Result<Value, Error> {
    client.send(Method::GET, "/admin/v1/stats", Send::Nothing, None).await?.json().await
}

/// The figures for people; with earlier ones also how much happened since.
fn table(figures: &Value, before: Option<&Value>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing into a String cannot fail.
        writeln!(text, "{name:12}{value}").unwrap_or_default();
    };
    line("hifz", format!("{}, up {}", word(&figures["version"]), span(count(&figures["uptime_s"]))));
    line("state", state(figures));
    line("cache", word(&figures["summary"]).to_owned());
    let (hits, misses) = (count(&figures["hits"]), count(&figures["misses"]));
    line("questions", format!("{hits} hits, {misses} misses{}", since(figures, before)));
    let memory = &figures["memory"];
    line(
        "memory",
        format!(
            "{} of {} charged, {} resident, {} entries",
            size(&memory["charged_bytes"]),
            size(&memory["limit_bytes"]),
            size(&memory["resident_bytes"]),
            count(&figures["entries"])
        ),
    );
    line("disk", disk(&figures["disk"]));
    for (name, title) in [("hit", "hit"), ("source", "source")] {
        line(title, latencies(&figures["latencies"][name]));
    }
    let http = &figures["http"];
    let connections = (count(&http["connections"]), count(&http["connections_limit"]));
    line(
        "http",
        format!("{} of {} connections, {}", connections.0, connections.1, answers(&http["answers"])),
    );
    text.push_str(&namespaces(&figures["namespaces"]));
    text.trim_end().to_owned()
}

fn state(figures: &Value) -> String {
    let mut text = word(&figures["states"]["status"]).to_owned();
    for (name, component) in figures["states"]["components"].as_object().into_iter().flatten() {
        if component["status"] != "ok" {
            write!(text, "; {name}: {}", component["reason"].as_str().unwrap_or("?")).unwrap_or_default();
        }
    }
    for alert in figures["alerts"].as_array().into_iter().flatten().filter(|alert| alert["state"] == "raised")
    {
        write!(text, "; alert {}", word(&alert["alert"])).unwrap_or_default();
    }
    text
}

fn since(figures: &Value, before: Option<&Value>) -> String {
    let Some(before) = before else { return String::new() };
    let more = |name: &str| count(&figures[name]).saturating_sub(count(&before[name]));
    format!(" (+{} hits, +{} misses in {} s)", more("hits"), more("misses"), WATCH_INTERVAL.as_secs())
}

fn disk(disk: &Value) -> String {
    if disk["state"] == "off" {
        return "off".into();
    }
    format!(
        "{}, {} entries; {} live, {} dead, {} file; {} waiting, {} dropped",
        word(&disk["state"]),
        count(&disk["entries"]),
        size(&disk["live_bytes"]),
        size(&disk["dead_bytes"]),
        size(&disk["file_bytes"]),
        count(&disk["queued"]),
        count(&disk["dropped"])
    )
}

fn latencies(latencies: &Value) -> String {
    let at = |name: &str| latencies[name].as_f64().map_or_else(|| "-".into(), |us| format!("{us:.1} µs"));
    format!(
        "p50 {}, p99 {}, p99.9 {} ({} timed)",
        at("p50_us"),
        at("p99_us"),
        at("p999_us"),
        count(&latencies["count"])
    )
}

fn answers(answers: &Value) -> String {
    let all = answers
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(_, statuses)| statuses.as_object().into_iter().flatten());
    let mut by_hundred = [0_u64; 6];
    for (status, count) in all {
        let hundred = status.parse::<usize>().unwrap_or(0) / 100;
        if let Some(sum) = by_hundred.get_mut(hundred) {
            *sum += count.as_u64().unwrap_or(0);
        }
    }
    let some = (1..).zip(by_hundred.iter().skip(1)).filter(|(_, count)| **count > 0);
    let some: Vec<_> = some.map(|(hundred, count)| format!("{hundred}xx {count}")).collect();
    if some.is_empty() { "no answers".into() } else { some.join(", ") }
}

fn namespaces(namespaces: &Value) -> String {
    let rows: Vec<_> = namespaces.as_object().into_iter().flatten().collect();
    if rows.is_empty() {
        return String::new();
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).clamp(9, NAME_CHARS_MAX);
    let mut text = format!(
        "\n{:width$}  {:>9}  {:>10}  {:>12}  {:>10}  {:>6}\n",
        "namespace", "entries", "bytes", "hits", "misses", "ratio"
    );
    for (name, figures) in rows {
        let ratio = figures["hit_ratio"].as_f64().unwrap_or(0.0) * 100.0;
        writeln!(
            text,
            "{name:width$}  {:>9}  {:>10}  {:>12}  {:>10}  {ratio:>5.1}%",
            count(&figures["entries"]),
            size(&figures["bytes"]),
            count(&figures["hits"]),
            count(&figures["misses"])
        )
        .unwrap_or_default();
    }
    text
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// Bytes to three digits: `12.3MB`.
fn size(value: &Value) -> String {
    let bytes = count(value);
    let (unit, name) = match bytes {
        0..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    if bytes < 1_000 {
        show_size(bytes)
    } else {
        format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit)
    }
}

fn span(secs: u64) -> String {
    match (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60, secs % 60) {
        (0, 0, 0, secs) => format!("{secs}s"),
        (0, 0, mins, secs) => format!("{mins}m{secs}s"),
        (0, hours, mins, _) => format!("{hours}h{mins}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// A namespace's name is padded at most so far.
const NAME_CHARS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short() {
        let shown = |bytes: u64| size(&bytes.into());
        assert_eq!([shown(12_345), shown(12_345_678), shown(1_500_000_000)], ["12.3kB", "12.3MB", "1.5GB"]);
        assert_eq!([span(5), span(65), span(3_700), span(90_000)], ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}
