//! `hifz config`: the settings as a server would begin with them here and now; beside them, what a server that runs on the
//! same directory goes by, where that is something else.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::output::{Failure, note, say, say_json};
use super::target::{self, Target, run};
use super::warn;
use crate::error::Error;
use crate::server::client::{Client, Send};
use crate::server::config::{Settings, Warning};

/// `hifz config`
pub(super) fn config(settings: &Settings, warnings: &[Warning], is_json: bool) -> Result<(), Failure> {
    let running = running(settings);
    if is_json {
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let mut shown = json!({"settings": settings.effective(), "warnings": warnings});
        if let Some((place, Ok(theirs))) = running {
            shown["server"] = json!({"place": place, "settings": theirs});
        }
        return say_json(&shown);
    }
    warn(warnings);
    say(table(settings).trim_end())?;
    match running {
        None => {}
        Some((place, Err(error))) => {
            note(&format!("what {place} goes by cannot be asked: {}", error.chain()));
        }
        Some((place, Ok(theirs))) => differences(settings, &theirs)
            .iter()
            .for_each(|difference| note(&format!("{place} goes by {difference}"))),
    }
    Ok(())
}

fn table(settings: &Settings) -> String {
    let effective = settings.effective();
    let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0).min(COLUMN_CHARS_MAX);
    let key_width = width(&mut effective.iter().map(|line| line.key.len()));
    let value_width = width(&mut effective.iter().map(|line| line.value.chars().count()));
    let lines = effective
        .iter()
        .map(|line| format!("{:key_width$}  {:value_width$}  {}\n", line.key, line.value, line.origin));
    lines.collect()
}

/// What the server on the data directory goes by, if one runs there, and where it is.
fn running(settings: &Settings) -> Option<(String, Result<Value, Error>)> {
    match target::server(settings, PATIENCE) {
        Ok(Some(Target::Server { client, place })) => Some((place, ask(&client))),
        Ok(_) => None,
        Err(error) => Some(("the server on the data directory".to_owned(), Err(error))),
    }
}

fn ask(client: &Client) -> Result<Value, Error> {
    run(async {
        let answer = client.send(Method::GET, "/admin/v1/config", Send::Nothing, None).await?;
        Ok(answer.json().await?["settings"].take())
    })
}

/// Each setting that the server has otherwise, as a sentence's end. What is hidden cannot be compared.
fn differences(settings: &Settings, theirs: &Value) -> Vec<String> {
    let theirs = theirs.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |setting: &Value, name: &str| setting[name].as_str().unwrap_or_default().to_owned();
    theirs
        .iter()
        .filter_map(|theirs| {
            let key = text(theirs, "key");
            let own = settings.effective().iter().find(|own| own.key == key)?;
            let (value, origin) = (text(theirs, "value"), text(theirs, "origin"));
            (value != own.value).then(|| format!("{key} = {value} ({origin})"))
        })
        .collect()
}

/// How long a server may take to say what it goes by.
const PATIENCE: Duration = Duration::from_secs(5);

/// A column is padded at most so far.
const COLUMN_CHARS_MAX: usize = 44;
