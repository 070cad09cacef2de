//! What the command line says: results to standard output, everything else to standard error.
//!
//! A reader that goes away (`hifz config | head -1`) ends the command quietly. With `--json` there is one JSON object
//! for the result, or one for the failure.

use std::io::{self, ErrorKind as IoKind, IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind};
use crate::server::config::{Problems, show_size};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It failed, or what was asked for is not there.
    Failed(Error),
    /// It was refused before anything was done.
    Refused(String),
    /// The settings are not accepted.
    Settings(Problems),
    /// Whoever read our output went away; there is nobody to tell.
    Unread,
    /// The result has been said already, and it is not a good one.
    Bad,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// Says it, and gives the exit code.
    pub(crate) fn report(&self, is_json: bool) -> ExitCode {
        let (code, name, text, problems) = match self {
            Self::Unread => return ExitCode::SUCCESS,
            Self::Bad => return ExitCode::from(FAILED),
            Self::Failed(error) => {
                (exit_code(error.kind()), format!("{:?}", error.kind()), error.chain(), None)
            }
            Self::Refused(text) => (REFUSED, "Usage".to_owned(), text.clone(), None),
            Self::Settings(problems) => {
                (REFUSED, "Settings".to_owned(), problems.to_string(), Some(problems))
            }
        };
        if is_json {
            let mut object = json!({"error": upper_snake(&name), "message": text});
            if let Some(Problems(problems)) = problems {
                object["problems"] = problems
                    .iter()
                    .map(|problem| {
                        json!({"key": problem.key, "origin": problem.origin, "message": problem.message})
                    })
                    .collect();
            }
            note_plain(&object.to_string());
        } else {
            note(&text);
        }
        ExitCode::from(code)
    }
}

/// Writes a line to standard output.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes a JSON object to standard output.
pub(crate) fn say_json(value: &Value) -> Result<(), Failure> {
    say(&format!("{value:#}"))
}

/// Says whom a command talks to; with `--json` its result says so, and standard error is left to a failure.
pub(crate) fn say_whom(whom: &str, is_json: bool) {
    if !is_json {
        note(whom);
    }
}

/// Writes `hifz: text` to standard error.
pub(crate) fn note(text: &str) {
    note_plain(&format!("hifz: {text}"));
}

fn note_plain(text: &str) {
    // Where standard error is gone, nobody is left to be told.
    writeln!(io::stderr().lock(), "{text}").unwrap_or_default();
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == IoKind::BrokenPipe => Err(Failure::Unread),
        Err(error) => {
            Err(Error::new(ErrorKind::DiskFailed, "cannot write to standard output").because(error).into())
        }
    }
}

fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Settings | ErrorKind::Locked | ErrorKind::KeyInvalid | ErrorKind::ArgumentInvalid => {
            REFUSED
        }
        _ => FAILED,
    }
}

fn upper_snake(name: &str) -> String {
    let mut text = String::new();
    for (at, c) in name.char_indices() {
        if at > 0 && c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

/// How far a long command has come: a bar on a terminal, a line now and then elsewhere, nothing with `--json`.
#[derive(Debug)]
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    is_silent: bool,
    what: String,
    bytes: u64,
    said_at: u64,
}

impl Meter {
    /// A meter for `what`, of `total` bytes where that is known.
    pub(crate) fn new(what: &str, total: Option<u64>, is_silent: bool) -> Self {
        let bar = (!is_silent && io::stderr().is_terminal()).then(|| bar(total));
        if let Some(bar) = &bar {
            bar.set_message(what.to_owned());
        }
        Self { bar, is_silent, what: what.to_owned(), bytes: 0, said_at: 0 }
    }

    /// It has come to `bytes`, and is busy with `file`.
    pub(crate) fn at(&mut self, bytes: u64, file: Option<&str>) {
        self.bytes = bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            if let Some(file) = file {
                bar.set_message(format!("{} {file}", self.what));
            }
        } else if !self.is_silent && bytes.saturating_sub(self.said_at) >= LINE_EVERY_BYTES {
            self.said_at = bytes;
            note(&format!("{}: {}", self.what, show_size(bytes / 1_000_000 * 1_000_000)));
        }
    }

    /// So many bytes more.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.at(self.bytes.saturating_add(bytes as u64), None);
    }

    /// The bytes are through; now it is the other side's turn.
    pub(crate) fn wait(&self, for_what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {for_what}", self.what));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{wide_msg} {bar:30} {decimal_bytes}/{decimal_total_bytes} {eta}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {wide_msg} {decimal_bytes}"),
    };
    // The templates are ours; were one not accepted, the plain style does.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Exit code of what failed or was not found.
const FAILED: u8 = 1;

/// Exit code of what was refused: usage, settings, lock.
const REFUSED: u8 = 2;

/// Without a terminal, a line each time so many bytes have gone through.
const LINE_EVERY_BYTES: u64 = 16_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_exit_code_of_its_kind() {
        assert_eq!(exit_code(ErrorKind::Locked), 2);
        assert_eq!(exit_code(ErrorKind::Settings), 2);
        assert_eq!(exit_code(ErrorKind::NotFound), 1);
        assert_eq!(exit_code(ErrorKind::SourceUnavailable), 1);
    }

    #[test]
    fn error_names_are_upper_snake_case() {
        assert_eq!(upper_snake("DiskNotTrusted"), "DISK_NOT_TRUSTED");
    }
}
