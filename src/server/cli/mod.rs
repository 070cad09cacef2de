//! The command line: arguments to settings to one command, its outcome to an exit code.
//!
//! Exit codes: 0 done, 1 failed or not found, 2 refused (usage, settings, lock). Commands talk to the running server,
//! or to the data directory where that is safe, and say which.

mod args;
mod cache;
mod config;
mod output;
mod stats;
mod target;
mod token;
mod transfer;
mod verify;
mod warm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use clap::error::ErrorKind as UsageKind;
use hyper::{Method, StatusCode};
use serde_json::Value;

use self::output::{Failure, note, say, say_json, say_whom};
use self::target::{Target, run};
use self::transfer::What;
use super::client::{Client, Send};
use super::config::{Settings, Warning};
use crate::error::{Error, ErrorKind};

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(usage) => return report_usage(&usage),
    };
    let is_json = args::wants_json(&matches);
    match act(&matches, is_json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(is_json),
    }
}

fn act(matches: &ArgMatches, is_json: bool) -> Result<(), Failure> {
    // These two speak of the program alone, and must work where its settings do not.
    match matches.subcommand() {
        Some(("completions", matches)) => return completions(matches),
        Some(("man", _)) => return man(),
        _ => {}
    }
    let config = args::config_file(matches).map(PathBuf::as_path);
    let loaded = Settings::load(&args::flags(matches), std::env::vars_os(), config);
    let (settings, warnings) = loaded.map_err(Failure::Settings)?;
    match matches.subcommand() {
        None | Some(("serve", _)) => {
            warn(&warnings);
            let (flags, config) = (args::flags(matches), config.map(Path::to_path_buf));
            let reread = move || Settings::load(&flags, std::env::vars_os(), config.as_deref());
            super::serve(&settings, Arc::new(reread)).map_err(Failure::from)
        }
        Some(("config", _)) => config::config(&settings, &warnings, is_json),
        Some(("import", matches)) => {
            let paths: Vec<&PathBuf> = matches.get_many(args::PATH).into_iter().flatten().collect();
            transfer::import(&settings, &paths, is_json)
        }
        Some(("export", matches)) => {
            let path = matches.get_one::<PathBuf>(args::PATH).map(PathBuf::as_path);
            let what =
                if matches.get_flag(args::BOOKMARKS) { What::ContentAndBookmarks } else { What::Content };
            transfer::export(&settings, path.unwrap_or("-".as_ref()), what, is_json)
        }
        Some(("warm", matches)) => {
            let only: Vec<&String> = matches.get_many(args::ONLY).into_iter().flatten().collect();
            warm::warm(&settings, &only, is_json)
        }
        Some(("health", _)) => health(&settings, is_json),
        Some(("stats", matches)) => stats::stats(&settings, matches.get_flag(args::WATCH), is_json),
        Some(("token", matches)) => {
            let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
            token::token(&settings, text(args::USER), text(args::TTL), is_json)
        }
        Some(("verify", matches)) => verify::verify(&settings, matches.get_flag(args::REPAIR), is_json),
        Some((name, matches)) => cache::act(name, matches, &settings, is_json)
            .unwrap_or_else(|| Err(Failure::Refused(format!("unknown command {name:?}")))),
    }
}

/// `hifz health`
fn health(settings: &Settings, is_json: bool) -> Result<(), Failure> {
    let client = if let Some(Target::Server { client, place }) = target::server(settings, PATIENCE)? {
        say_whom(&format!("asking {place}"), is_json);
        client
    } else {
        // It may serve from another directory than the one we see (in a container, say); health asks for no token, so
        // there is none to lose to a stranger.
        let [address, ..] = settings.listen.as_slice() else {
            return Err(Failure::Refused("listen is empty".to_owned()));
        };
        say_whom(&format!("no server runs on {}, asking {address}", settings.data_dir.display()), is_json);
        Client::new(address.clone(), None, PATIENCE)
    };
    let (status, health) = ask_health(&client)?;
    if is_json {
        say_json(&health)?;
    } else {
        say(&readable_health(&health))?;
    }
    if status.is_success() { Ok(()) } else { Err(Failure::Bad) }
}

fn ask_health(client: &Client) -> Result<(StatusCode, Value), Error> {
    run(async {
        let unavailable = Some(StatusCode::SERVICE_UNAVAILABLE);
        let answer = client.send(Method::GET, "/api/v1/health", Send::Nothing, unavailable).await?;
        Ok((answer.status(), answer.json().await?))
    })
}

fn readable_health(health: &Value) -> String {
    let component = |(name, component): (&String, &Value)| {
        let status = component["status"].as_str().unwrap_or("unknown");
        let reason = component["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("\n  {name}: {status}{reason}")
    };
    let components: String = health["components"].as_object().into_iter().flatten().map(component).collect();
    let text = format!("{}{components}", health["status"].as_str().unwrap_or("unknown"));
    printable(&text)
}

/// Words from outside, without what a terminal would take for commands.
fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// `hifz completions SHELL`
fn completions(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(shell) = matches.get_one::<clap_complete::Shell>(args::SHELL) else {
        return Err(Failure::Refused("name a shell".to_owned()));
    };
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut args::command(), "hifz", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

/// `hifz man`
fn man() -> Result<(), Failure> {
    let mut page = Vec::new();
    let failed = |error| Error::new(ErrorKind::Busy, "the page cannot be made").because(error);
    clap_mangen::Man::new(args::command()).render(&mut page).map_err(failed)?;
    say(String::from_utf8_lossy(&page).trim_end())
}

fn warn(warnings: &[Warning]) {
    for warning in warnings {
        note(&format!("warning: {warning}"));
    }
}

/// Help and version go to standard output and are no failure; everything else is refused usage.
fn report_usage(usage: &clap::Error) -> ExitCode {
    let is_asked_for = matches!(usage.kind(), UsageKind::DisplayHelp | UsageKind::DisplayVersion);
    // Nothing has been parsed, so `--json` is looked for in the words themselves.
    let is_json = std::env::args_os().skip(1).any(|word| word.to_str() == Some("--json"));
    if is_asked_for {
        // Where nobody reads it, nothing is lost.
        usage.print().unwrap_or_default();
        return ExitCode::SUCCESS;
    }
    let text = usage.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    Failure::Refused(text.to_owned()).report(is_json)
}

/// How long a short command waits for its answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn health_is_told_without_control_characters() {
        let health = json!({"status": "degraded", "components": {"disk": {"status": "degraded", "reason": "f\u{1b}ull"}}});
        assert_eq!(readable_health(&health), "degraded\n  disk: degraded: full");
    }
}
