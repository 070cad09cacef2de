//! Walking what is imported: a gzip tarball or its unpacked folder, file by file, within limits.
//!
//! Promises: nothing is ever unpacked to disk; every path of a tarball is checked, also those nobody reads; a path that
//! leaves the archive, a link, a device, a file that comes twice, too many files, too many bytes and a broken checksum
//! are refusals with the name of the file. Memory stays bounded: headers and extended headers are read within limits,
//! contents are streamed. Knows nothing of what the files mean.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use tar::{Archive, Entry, EntryType};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, ErrorKind, Result};

use super::bookmarks::BOOKMARKS_BYTES_MAX;
use super::model::DOCUMENT_BYTES_MAX;

/// One file of what is imported.
pub(super) struct ImportFile<'f> {
    /// Its path below the root of the package, with `/` between the parts.
    pub(super) path: &'f str,
    /// What it contains.
    pub(super) content: &'f mut dyn Read,
    /// How many bytes may still come out of the archive; whoever knows what it is may raise it.
    pub(super) allowance: &'f Cell<u64>,
}

/// How far an import has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many bytes of the archive (still compressed) or of the folder's files have been read.
    pub bytes_read: u64,
    /// How many files have been passed.
    pub files: u64,
    /// The file that is being read.
    pub file: String,
}

/// Calls `visit` with each file of the gzip tarball `archive`.
pub(super) fn walk_archive(
    archive: &mut dyn Read,
    progress: &mut dyn FnMut(&Progress),
    visit: &mut dyn FnMut(ImportFile<'_>) -> Result<()>,
) -> Result<()> {
    let (bytes_read, allowance) = (Cell::new(0), Cell::new(INFLATED_BYTES_MAX));
    let mut input =
        BufReader::with_capacity(BUFFER_BYTES, Counting { inner: archive, bytes_read: &bytes_read });
    if !input.fill_buf().map_err(|error| unreadable(&error))?.starts_with(&GZIP_MAGIC) {
        return Err(refused(
            "is not a gzip archive; expected the tarball of the npm package quran-json or a hifz export",
        ));
    }
    let inflated = Bounded { inner: GzDecoder::new(input), left: &allowance };
    let mut archive = Archive::new(inflated);
    let mut walk = Walk { seen: HashSet::new(), extended_path: None };
    let entries = archive.entries().map_err(|error| unreadable(&error))?.raw(true);
    let mut last = "the beginning".to_owned();
    for entry in entries {
        let mut entry = entry.map_err(|error| unreadable(&error).at(format!("after {last}")))?;
        let most =
            if allowance.get() > INFLATED_BYTES_MAX { BOOKMARKS_BYTES_MAX } else { DOCUMENT_BYTES_MAX };
        let Some(path) = walk.file(&mut entry, most as u64)? else { continue };
        progress(&Progress {
            bytes_read: bytes_read.get(),
            files: walk.seen.len() as u64,
            file: path.clone(),
        });
        last.clone_from(&path);
        visit(ImportFile { path: &path, content: &mut entry, allowance: &allowance })
            .map_err(|error| named(&path, error))?;
    }
    finish(archive.into_inner())
}

/// Calls `visit` with each file below `folder`, `first` before all others, the rest in order of their paths.
pub(super) fn walk_folder(
    folder: &Path,
    first: &str,
    progress: &mut dyn FnMut(&Progress),
    visit: &mut dyn FnMut(ImportFile<'_>) -> Result<()>,
) -> Result<()> {
    let mut paths = Vec::new();
    list_folder(folder, "", DEPTH_MAX, &mut paths)?;
    paths.sort_by(|a, b| (a != first, a).cmp(&(b != first, b)));
    // What is unpacked already cannot inflate any more.
    let (bytes_read, allowance) = (Cell::new(0), Cell::new(u64::MAX));
    for (files, path) in (1..).zip(&paths) {
        progress(&Progress { bytes_read: bytes_read.get(), files, file: path.clone() });
        let file = File::open(folder.join(path)).map_err(|error| named(path, unreadable(&error)))?;
        let mut content = Counting { inner: file, bytes_read: &bytes_read };
        visit(ImportFile { path, content: &mut content, allowance: &allowance })
            .map_err(|error| named(path, error))?;
    }
    Ok(())
}

/// The whole of `content`, which must not have more than `most` bytes.
pub(super) fn read_all(content: &mut dyn Read, most: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() > most {
        return Err(too_large(format!("has more than {most} bytes")));
    }
    Ok(bytes)
}

/// A refusal of the archive, or of the file being read.
pub(super) fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::DocumentInvalid, why.into())
}

/// What has been seen of a tarball.
struct Walk {
    /// The digests of all paths so far: a path that comes twice could hide one content behind another.
    seen: HashSet<u128>,
    /// The path that an extended header gave to the next entry.
    extended_path: Option<String>,
}

impl Walk {
    /// The path of the file that `entry` is, below the package's root; `None` for what is not a file.
    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, bytes_max: u64) -> Result<Option<String>> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::GNULongName | EntryType::XHeader | EntryType::XGlobalHeader) {
            let header = read_all(entry, EXTENDED_HEADER_BYTES_MAX)?;
            let path = if kind == EntryType::GNULongName { Some(header) } else { pax_path(&header)? };
            if let Some(path) = path.map(path_text).transpose()? {
                below_root(&path)?;
                self.extended_path = Some(path);
            }
            return Ok(None);
        }
        let path = match self.extended_path.take() {
            Some(path) => path,
            None => path_text(entry.path_bytes().into_owned())?,
        };
        let below = below_root(&path)?;
        match kind {
            EntryType::Directory => return Ok(None),
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Link | EntryType::Symlink => return Err(named(&path, refused("is a link"))),
            _ => return Err(named(&path, refused("is neither a file nor a folder"))),
        }
        if !self.seen.insert(xxh3_128(below.as_bytes())) {
            return Err(named(&path, refused("is in the archive twice")));
        }
        if self.seen.len() > FILES_MAX {
            return Err(too_large(format!("has more than {FILES_MAX} files")));
        }
        if entry.size() > bytes_max {
            return Err(named(
                &path,
                too_large(format!("has {} bytes, the most is {bytes_max}", entry.size())),
            ));
        }
        Ok(Some(below.to_owned()))
    }
}

/// Reads what follows the tarball, so that the checksum of the whole is compared and nothing hides behind it.
fn finish<R: BufRead>(mut inflated: Bounded<'_, GzDecoder<R>>) -> Result<()> {
    io::copy(&mut inflated, &mut io::sink()).map_err(|error| unreadable(&error))?;
    let mut input = inflated.inner.into_inner();
    if !input.fill_buf().map_err(|error| unreadable(&error))?.is_empty() {
        return Err(refused("has bytes after its end"));
    }
    Ok(())
}

/// The value of `path` in an extended header, whose lines are `length key=value`.
fn pax_path(header: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut rest = header;
    let mut path = None;
    while !rest.is_empty() {
        let broken = || refused("has a broken extended header");
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(broken)?;
        let length = std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|length| (space + 1..=rest.len()).contains(length)).ok_or_else(broken)?;
        let line = &rest[space + 1..length];
        if let Some(value) = line.strip_prefix(b"path=") {
            path = Some(value.strip_suffix(b"\n").unwrap_or(value).to_vec());
        }
        if line.starts_with(b"linkpath=") || line.starts_with(b"GNU.sparse") || line.starts_with(b"size=") {
            return Err(refused("has an extended header that makes a link, a sparse or an oversized file"));
        }
        rest = &rest[length..];
    }
    Ok(path)
}

fn path_text(mut bytes: Vec<u8>) -> Result<String> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    let path = String::from_utf8(bytes).map_err(|_| refused("has a path that is not UTF-8"))?;
    if path.len() > PATH_BYTES_MAX || path.chars().any(char::is_control) {
        return Err(refused("has a path that is too long or contains a control character"));
    }
    Ok(path)
}

/// `path` without the folder that npm and hifz put around everything; refuses one that leads out of it.
fn below_root(path: &str) -> Result<&str> {
    let mut inner = path;
    while let Some(rest) = inner.strip_prefix("./") {
        inner = rest;
    }
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let is_inside = !inner.contains('\\') && inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !is_inside && !matches!(inner, "" | ".") {
        return Err(named(path, refused("leads out of the archive")));
    }
    Ok(ROOTS.iter().find_map(|root| inner.strip_prefix(root)).unwrap_or(inner))
}

fn list_folder(folder: &Path, below: &str, depth: usize, paths: &mut Vec<String>) -> Result<()> {
    let listed = fs::read_dir(folder.join(below)).map_err(|error| named(below, unreadable(&error)))?;
    for entry in listed {
        let entry = entry.map_err(|error| named(below, unreadable(&error)))?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| named(below, refused("holds a name that is not UTF-8")))?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(|error| named(&path, unreadable(&error)))?;
        if kind.is_dir() && depth > 0 {
            list_folder(folder, &path, depth - 1, paths)?;
        } else if kind.is_file() {
            paths.push(path);
        } else {
            return Err(named(&path, refused("is neither a file nor a folder of the package")));
        }
        if paths.len() > FILES_MAX {
            return Err(too_large(format!("has more than {FILES_MAX} files")));
        }
    }
    Ok(())
}

/// `error` with `path` before the place it names.
pub(super) fn named(path: &str, error: Error) -> Error {
    let place = match error.place() {
        Some(place) => format!("{path}: {place}"),
        None => path.to_owned(),
    };
    error.at(place)
}

fn unreadable(error: &io::Error) -> Error {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooMuch>) {
        return too_large(format!(
            "has more than {INFLATED_BYTES_MAX} bytes once inflated, or than its kind may have"
        ));
    }
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "ends in the middle: it is truncated".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    refused(why)
}

fn too_large(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::DocumentTooLarge, why.into())
}

/// Counts what is read.
struct Counting<'c, R> {
    inner: R,
    bytes_read: &'c Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes_read.set(self.bytes_read.get() + read as u64);
        Ok(read)
    }
}

/// Fails past a number of bytes: a few kilobytes can inflate to terabytes.
struct Bounded<'b, R> {
    inner: R,
    left: &'b Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left.set(self.left.get().checked_sub(read as u64).ok_or_else(|| io::Error::other(TooMuch))?);
        Ok(read)
    }
}

#[derive(Debug)]
struct TooMuch;

impl Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more bytes than accepted")
    }
}

impl std::error::Error for TooMuch {}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BUFFER_BYTES: usize = 64 << 10;

/// The folders around everything, in an npm package and in an export.
const ROOTS: [&str; 2] = ["package/", "hifz-export/"];

/// The most files of an archive or a folder; quran-json 3.1.2 has 7 516.
const FILES_MAX: usize = 20_000;

/// The most bytes an archive may inflate to; quran-json 3.1.2 has 88 MB.
const INFLATED_BYTES_MAX: u64 = 256 << 20;

/// The most bytes that an export with the bookmarks of users may inflate to, each file of which has its digest in the
/// manifest: a million users with a hundred bookmarks of 60 bytes come to 6 GB.
pub(super) const BACKUP_BYTES_MAX: u64 = 64 << 30;

const EXTENDED_HEADER_BYTES_MAX: usize = 64 << 10;
const PATH_BYTES_MAX: usize = 512;
const DEPTH_MAX: usize = 6;
