//! `hifz verify`: through the running server every record and document; without one, every page of the files as well.
//!
//! Exit codes: 0 all is sound (or has been mended), 1 something is not, 2 refused.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::output::{Failure, note, say, say_json, say_whom};
use super::target::{Target, run};
use crate::clock::Clock;
use crate::content::Store;
use crate::datadir::DataDir;
use crate::engine::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::server::client::{Client, Send};
use crate::server::config::Settings;
use crate::server::http::verify::report;

/// `hifz verify [--repair]`
pub(crate) fn verify(settings: &Settings, is_repair: bool, is_json: bool) -> Result<(), Failure> {
    let target = Target::find(settings, PATIENCE)?;
    say_whom(&format!("verifying {target}"), is_json);
    let mut found = match &target {
        Target::Server { client, .. } => run(ask(client, is_repair, is_json))?,
        Target::Directory { dir, clock } => look(settings, dir, clock, is_repair, is_json)?,
    };
    let is_sound = found["sound"].as_bool().unwrap_or(false);
    if is_json {
        found["via"] = json!(target.to_string());
        say_json(&found)?;
    } else {
        say(&readable(&found))?;
    }
    if is_sound { Ok(()) } else { Err(Failure::Bad) }
}

async fn ask(client: &Client, is_repair: bool, is_json: bool) -> Result<Value> {
    let path = format!("/admin/v1/verify?progress=true&repair={is_repair}");
    let mut answer = client.send(Method::POST, &path, Send::Nothing, None).await?;
    let (mut text, mut meter, mut last) = (Vec::new(), Steps::new(is_json), Value::Null);
    while let Some(piece) = answer.next().await? {
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            last = serde_json::from_slice(&line).map_err(|error| {
                Error::new(ErrorKind::SourceRefused, "the answer is not JSON").because(error)
            })?;
            if let (Some(done), Some(total)) = (last["done"].as_u64(), last["total"].as_u64()) {
                meter.at(done, total);
            }
        }
    }
    match last["error"].as_str() {
        Some(error) => Err(Error::new(ErrorKind::DiskFailed, error.to_owned())),
        None if last["sound"].is_boolean() => Ok(last),
        None => Err(Error::new(ErrorKind::SourceUnavailable, "the server broke its answer off")),
    }
}

/// Pages first, because opening the files may already set aside or mend what is wrong with them.
fn look(settings: &Settings, dir: &DataDir, clock: &Clock, is_repair: bool, is_json: bool) -> Result<Value> {
    let mut pages = Vec::new();
    let mut is_sound = true;
    for checked in Cache::verify_pages(dir) {
        is_sound &= checked.damage.is_none();
        pages.push(json!({"file": checked.file, "damage": checked.damage}));
    }
    let content = dir.content_file();
    if content.exists() {
        let damage = Store::verify_pages(&content)?;
        is_sound &= damage.is_none();
        pages.push(json!({"file": "content.redb", "damage": damage}));
    }
    let store = Store::open(&content, clock.clone())?;
    let cache = Cache::builder()
        .memory(MEMORY_BYTES)
        .disk(settings.disk)
        .data_dir(dir.clone())
        .clock(clock.clone())
        .open()?;
    let mut meter = Steps::new(is_json);
    let records = cache.verify(&mut |done, total| meter.at(done, total))?;
    let mut found = report(records.as_ref(), &store, is_repair)?;
    if is_repair {
        crate::server::changes::drain(&cache, &store)?;
    }
    cache.close()?;
    found["sound"] = json!(is_sound && found["sound"].as_bool().unwrap_or(false));
    found["pages"] = json!(pages);
    Ok(found)
}

fn readable(found: &Value) -> String {
    let mut lines = Vec::new();
    for page in found["pages"].as_array().into_iter().flatten() {
        let file = page["file"].as_str().unwrap_or_default();
        let damage = page["damage"]
            .as_str()
            .map_or("every page is sound".to_owned(), |damage| format!("damaged: {damage}"));
        lines.push(format!("{file}: {damage}"));
    }
    let cache = &found["cache"];
    if let Some(records) = cache["records"].as_u64() {
        let damaged = cache["damaged"].as_u64().unwrap_or(0);
        let removed = if damaged > 0 { ", now removed" } else { "" };
        lines.push(format!("cache: {records} records are sound, {damaged} were damaged{removed}"));
    }
    if let Some(failed) = cache["failed"].as_str() {
        lines.push(format!("cache: the rest could not be read: {failed}"));
    }
    let content = &found["content"];
    let names = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    let (damaged, restored) = (names(&content["damaged"]), names(&content["restored"]));
    let documents = content["documents"].as_u64().unwrap_or(0);
    lines.push(format!("content: {documents} documents, {} damaged", damaged.len()));
    for name in &damaged {
        let hint = if restored.contains(name) {
            "the built-in text has been restored"
        } else {
            "damaged; `hifz verify --repair` restores built-in text, the last export has the rest"
        };
        lines.push(format!("  {name}: {hint}"));
    }
    lines.join("\n")
}

/// A line of progress now and then.
struct Steps {
    is_silent: bool,
    said: u64,
}

impl Steps {
    fn new(is_silent: bool) -> Self {
        Self { is_silent, said: 0 }
    }

    fn at(&mut self, done: u64, total: u64) {
        if !self.is_silent && done.saturating_sub(self.said) >= LINE_EVERY_RECORDS {
            self.said = done;
            note(&format!("{done} of {total} records"));
        }
    }
}

const LINE_EVERY_RECORDS: u64 = 100_000;

/// Reading a large store takes its time; this is how long one step of it may.
const PATIENCE: Duration = Duration::from_mins(5);

/// What it takes of memory when it opens the files itself.
const MEMORY_BYTES: u64 = 64 << 20;
