//! `warm`: has the running server load what will be asked for.

use std::io::{self, IsTerminal};
use std::time::Duration;

use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::output::{Failure, say, say_whom};
use super::target::{self, Target, run};
use crate::error::{Error, ErrorKind, Result};
use crate::server::client::{Client, Send};
use crate::server::config::Settings;

/// `hifz warm [--only …]`
pub(crate) fn warm(settings: &Settings, only: &[&String], is_json: bool) -> Result<(), Failure> {
    let Some(Target::Server { client, place }) = target::server(settings, PATIENCE)? else {
        let message =
            format!("no server runs on {}, so there is nothing to warm", settings.data_dir.display());
        return Err(Error::new(ErrorKind::NotFound, message).into());
    };
    say_whom(&format!("through {place}"), is_json);
    let mut teller = Teller::new(is_json);
    let summary = run(stream(&client, only, &mut teller))?;
    teller.end();
    let number = |name: &str| summary[name].as_u64().unwrap_or(0);
    let failed = number("failed");
    if teller.is_for_people {
        let (loaded, fresh, bytes) = (number("loaded"), number("fresh"), number("bytes"));
        let seconds = summary["seconds"].as_f64().unwrap_or(0.0);
        say(&format!(
            "loaded {loaded} ({bytes} bytes), {fresh} were fresh, {failed} failed, in {seconds:.2} s"
        ))?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Bad) }
}

/// Sends the request and tells of every line; the last one is the summary.
async fn stream(client: &Client, only: &[&String], teller: &mut Teller) -> Result<Value> {
    let body = json!({"only": only}).to_string().into_bytes();
    let mut answer = client.send(Method::POST, "/admin/v1/warm", Send::Json(body), None).await?;
    let (mut read, mut last) = (Vec::new(), Value::Null);
    while let Some(piece) = answer.next().await? {
        read.extend_from_slice(&piece);
        while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = read.drain(..=end).collect();
            last = serde_json::from_slice(&line).map_err(|error| {
                Error::new(ErrorKind::SourceRefused, "the server's answer is not JSON").because(error)
            })?;
            teller.tell(&last);
        }
    }
    if last["summary"] == json!(true) {
        return Ok(last);
    }
    Err(Error::new(ErrorKind::SourceUnavailable, "the server broke its answer off before the summary"))
}

/// A bar on a terminal, the lines themselves elsewhere.
struct Teller {
    bar: Option<ProgressBar>,
    is_for_people: bool,
}

impl Teller {
    fn new(is_json: bool) -> Self {
        let is_for_people = !is_json && io::stdout().is_terminal();
        let bar = (is_for_people && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{wide_msg} {bar:30} {pos}/{len}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, is_for_people }
    }

    fn tell(&self, line: &Value) {
        if let Some(bar) = &self.bar {
            bar.set_length(line["total"].as_u64().unwrap_or(0));
            bar.set_position(line["done"].as_u64().unwrap_or(0));
            let key: String =
                line["key"].as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
            bar.set_message(key);
        } else if !self.is_for_people {
            // Where nobody reads any more, the warming still goes on.
            drop(say(&line.to_string()));
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One load may take all its attempts.
const PATIENCE: Duration = Duration::from_mins(2);
