//! `import` and `export`: through the running server, or straight to the content store when nobody holds the directory.
//!
//! Promises: a backup stands under its name only when it is whole and synced, readable by its owner alone; a folder is
//! packed while it is sent, so memory stays bounded. Which way it went is said.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::output::{Failure, Meter, note, say, say_json, say_whom};
use super::target::{Target, run};
use crate::content::Store;
use crate::error::{Error, ErrorKind, Result};
use crate::server::client::{Client, Send};
use crate::server::config::Settings;

/// `hifz import PATH…`
pub(crate) fn import(settings: &Settings, paths: &[&PathBuf], is_json: bool) -> Result<(), Failure> {
    // All are looked at before the first is sent: a slip in the last name must not leave half the work done.
    for path in paths {
        fs::metadata(path).map_err(|error| {
            Error::new(ErrorKind::NotFound, "cannot be read").at(path.display().to_string()).because(error)
        })?;
    }
    let target = Target::find(settings, LONG_PATIENCE)?;
    say_whom(&format!("importing {target}"), is_json);
    let mut imported = Vec::new();
    for path in paths {
        let report = match &target {
            Target::Server { client, .. } => run(upload(client, path, is_json))?,
            Target::Directory { dir, clock } => {
                let store = Store::open(&dir.content_file(), clock.clone())?;
                import_directly(&store, path, is_json)?
            }
        };
        if !is_json {
            say(&format!("imported {}: {}", path.display(), readable(&report)))?;
        }
        imported.push(json!({"path": path.display().to_string(), "report": report["report"]}));
    }
    if is_json { say_json(&json!({"via": target.to_string(), "imported": imported})) } else { Ok(()) }
}

/// What a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Content,
    ContentAndBookmarks,
}

/// `hifz export PATH`
pub(crate) fn export(settings: &Settings, path: &Path, what: What, is_json: bool) -> Result<(), Failure> {
    if path == Path::new("-") {
        if io::stdout().is_terminal() {
            return Err(Failure::Refused("a backup is not for a terminal: name a file, or pipe it".into()));
        }
        let target = Target::find(settings, LONG_PATIENCE)?;
        note(&format!("exporting {target}"));
        let report = write_export(&target, &mut io::stdout().lock(), what, true)?;
        note(&format!("exported: {}", readable(&report)));
        return Ok(());
    }
    if path.is_dir() {
        return Err(Failure::Refused(format!("{} is a folder: name a file", path.display())));
    }
    let target = Target::find(settings, LONG_PATIENCE)?;
    say_whom(&format!("exporting {target}"), is_json);
    let report = export_to_file(&target, path, what, is_json)?;
    if is_json {
        return say_json(&json!({
            "via": target.to_string(), "exported": path.display().to_string(), "report": report["report"],
        }));
    }
    say(&format!("exported to {}: {}", path.display(), readable(&report)))
}

/// Writes beside `path`, syncs, then renames: whatever happens, `path` holds a whole backup or what it held before.
fn export_to_file(target: &Target, path: &Path, what: What, is_silent: bool) -> Result<Value> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let failed = |error: io::Error| {
        Error::new(ErrorKind::DiskFailed, "cannot be written").at(part.display().to_string()).because(error)
    };
    // What an earlier attempt left goes first, and with it its mode; never write through a link somebody put there.
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
    let written = write_whole(target, file, what, is_silent).and_then(|report| {
        fs::rename(&part, path).map_err(failed)?;
        Ok(report)
    });
    if written.is_err() {
        // The first failure is the one to tell; a part left over is removed by the next attempt.
        fs::remove_file(&part).unwrap_or_default();
        return written;
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    written
}

fn write_whole(target: &Target, file: File, what: What, is_silent: bool) -> Result<Value> {
    let failed = |error| Error::new(ErrorKind::DiskFailed, "the backup cannot be written").because(error);
    let mut file = BufWriter::with_capacity(PIECE_BYTES, file);
    let report = write_export(target, &mut file, what, is_silent)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok(report)
}

fn write_export(target: &Target, to: &mut dyn Write, what: What, is_silent: bool) -> Result<Value> {
    match target {
        Target::Server { client, .. } => run(download(client, to, what, is_silent)),
        Target::Directory { dir, clock } => {
            let store = Store::open(&dir.content_file(), clock.clone())?;
            let report = match what {
                What::Content => store.export(to),
                What::ContentAndBookmarks => store.export_with_bookmarks(to),
            }?;
            to.flush().map_err(|error| {
                Error::new(ErrorKind::DiskFailed, "the backup cannot be written").because(error)
            })?;
            as_report(&report)
        }
    }
}

async fn download(client: &Client, to: &mut dyn Write, what: What, is_silent: bool) -> Result<Value> {
    let failed = |error| Error::new(ErrorKind::DiskFailed, "the backup cannot be written").because(error);
    let path = match what {
        What::Content => "/admin/v1/export",
        What::ContentAndBookmarks => "/admin/v1/export?bookmarks=true",
    };
    let mut answer = client.send(Method::GET, path, Send::Nothing, None).await?;
    let mut meter = Meter::new("export", None, is_silent);
    let mut bytes: u64 = 0;
    while let Some(piece) = answer.next().await? {
        to.write_all(&piece).map_err(failed)?;
        bytes += piece.len() as u64;
        meter.add(piece.len());
    }
    to.flush().map_err(failed)?;
    Ok(json!({"text": format!("{bytes} bytes"), "report": {"bytes": bytes}}))
}

async fn upload(client: &Client, path: &Path, is_silent: bool) -> Result<Value> {
    let total = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
    let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT_MAX);
    let meter = Meter::new(&format!("send {}", path.display()), total, is_silent);
    let path = path.to_path_buf();
    // Reading and packing block, so they have a thread of their own; it ends when the other end is dropped.
    let packing = tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe { sender, meter };
        if let Err(error) = pack(&path, &mut pipe) {
            let lost = pipe.sender.blocking_send(Err(error));
            // Where nobody receives any more, the server has answered already, and its answer is told.
            drop(lost);
        }
        pipe.meter.wait("the server reads it");
    });
    let answer = client.send(Method::POST, "/admin/v1/import", Send::Archive(pieces), None).await;
    let report: Value = answer?.json().await?;
    // A server that has answered may leave the rest unread; then packing ends with the connection, not before.
    let ended = tokio::time::timeout(PACKING_END_MAX, packing).await;
    drop(ended);
    let text = report["summary"].as_str().map_or_else(|| report.to_string(), ToOwned::to_owned);
    Ok(json!({"text": text, "report": report}))
}

fn import_directly(store: &Store, path: &Path, is_silent: bool) -> Result<Value> {
    let mut meter = Meter::new(&format!("import {}", path.display()), None, is_silent);
    let mut progress =
        |progress: &crate::content::Progress| meter.at(progress.bytes_read, Some(progress.file.as_str()));
    let report = if path.is_dir() {
        store.import_dir(path, &mut progress)?
    } else {
        let mut file = File::open(path).map_err(|error| {
            Error::new(ErrorKind::NotFound, "cannot be read").at(path.display().to_string()).because(error)
        })?;
        store.import_archive(&mut file, &mut progress)?
    };
    as_report(&report)
}

/// Writes the archive at `path`, or the folder packed as one, into `to`.
fn pack(path: &Path, to: &mut impl Write) -> io::Result<()> {
    if !path.is_dir() {
        let mut file = File::open(path)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(()),
                count => to.write_all(&piece[..count])?,
            }
        }
    }
    let buffered = BufWriter::with_capacity(PIECE_BYTES, to);
    let mut tar = tar::Builder::new(GzEncoder::new(buffered, Compression::fast()));
    tar.follow_symlinks(false);
    // npm tarballs keep everything in `package/`; an unpacked folder may have been named anything.
    let inside = if path.join("package.json").is_file() { "package" } else { "" };
    tar.append_dir_all(inside, path)?;
    tar.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.flush()
}

/// The writing end of a body that is sent while it is made.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    meter: Meter,
}

impl Write for Pipe {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(piece)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.meter.add(piece.len());
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn as_report(report: &(impl serde::Serialize + std::fmt::Display)) -> Result<Value> {
    let value = serde_json::to_value(report).map_err(|error| {
        Error::new(ErrorKind::DocumentInvalid, "the report cannot be shown as JSON").because(error)
    })?;
    Ok(json!({"text": report.to_string(), "report": value}))
}

fn readable(report: &Value) -> &str {
    report["text"].as_str().unwrap_or_default()
}

/// An import answers only when all of it is in the store.
const LONG_PATIENCE: Duration = Duration::from_mins(15);

/// After the answer, packing is given so long to clear its progress away.
const PACKING_END_MAX: Duration = Duration::from_secs(1);

/// Bytes of one piece of a body.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces read but not yet sent.
const PIECES_IN_FLIGHT_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_packed_as_npm_packs_it_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("package.json"), "{}").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let mut packed = Vec::new();
        pack(folder.path(), &mut packed).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let names: Vec<(String, bool)> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.path().unwrap().display().to_string(), entry.header().entry_type().is_file()))
            .collect();
        assert!(names.contains(&("package/package.json".to_owned(), true)), "{names:?}");
        assert!(names.contains(&("package/link".to_owned(), false)), "{names:?}");
    }
}
