//! An export: every document as a JSON file of a gzip tarball, behind a manifest with the digest of each.
//!
//! Layout: `hifz-export/manifest.json`, `NOTICE` (the terms of the texts), then one file a document under the name of
//! its row, and where asked for the bookmarks of users, many users a file. Promises: the same content gives the same bytes; memory holds one document at a time and the manifest;
//! nothing is left out, a damaged document is an error. Does not know where the bytes go.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use serde::Serialize;
use tar::{Builder, EntryType, Header};

use crate::error::{Error, ErrorKind, Result};

use super::database::ReadRows;
use super::facts;
use super::import::{BOOKMARKS, EXPORT_FORMAT, EXPORT_VERSION, MANIFEST, NOTICE, file_digest};
use super::keys::{ReciterId, SurahNumber, TranslationId};

/// What an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExportReport {
    /// How many documents.
    pub documents: usize,
    /// Of how many users the bookmarks.
    pub users: usize,
    /// How many bytes before compression.
    pub bytes: u64,
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents", self.documents)?;
        if self.users > 0 {
            write!(f, ", the bookmarks of {} users", self.users)?;
        }
        write!(f, ", {} bytes before compression", self.bytes)
    }
}

/// Writes all content in `rows` to `out`, and the bookmarks of all users where `with_bookmarks` says so.
pub(super) fn write(rows: &ReadRows, out: &mut dyn Write, with_bookmarks: bool) -> Result<ExportReport> {
    let keys = rows.keys("")?;
    let notice = notice(rows)?;
    let mut files = BTreeMap::from([(NOTICE.to_owned(), file_digest(notice.as_bytes()))]);
    for key in &keys {
        files.insert(file_name(key), file_digest(&document(rows, key)?));
    }
    // Where each file of bookmarks begins; rendered twice instead of kept.
    let mut beginnings = Vec::new();
    let (mut users, mut after) = (0, Some(String::new()).filter(|_| with_bookmarks));
    while let Some(beginning) = after {
        let page = rows.export_users(&beginning)?;
        after = page.last;
        if after.is_some() {
            users += page.users;
            files.insert(bookmarks_name(beginnings.len()), file_digest(&page.document));
            beginnings.push(beginning);
        }
    }
    let manifest = json(&Manifest {
        format: EXPORT_FORMAT,
        version: EXPORT_VERSION,
        bookmarks: with_bookmarks,
        files: &files,
    })?;
    let mut archive = Builder::new(GzBuilder::new().write(out, Compression::default()));
    let mut bytes = append(&mut archive, MANIFEST, &manifest)?;
    bytes += append(&mut archive, NOTICE, notice.as_bytes())?;
    for key in &keys {
        bytes += append(&mut archive, &file_name(key), &document(rows, key)?)?;
    }
    for (at, beginning) in beginnings.iter().enumerate() {
        bytes += append(&mut archive, &bookmarks_name(at), &rows.export_users(beginning)?.document)?;
    }
    let inflated = archive.into_inner().map_err(unwritable)?;
    inflated.finish().and_then(Write::flush).map_err(unwritable)?;
    Ok(ExportReport { documents: keys.len(), users, bytes })
}

fn bookmarks_name(at: usize) -> String {
    format!("{BOOKMARKS}{at:05}.json")
}

fn file_name(key: &str) -> String {
    format!("{key}.json")
}

/// The document of row `key` as it is read back: a surah without translations, the texts of a translation on their own.
fn document(rows: &ReadRows, key: &str) -> Result<Vec<u8>> {
    let gone = || Error::new(ErrorKind::ContentDamaged, "the stored document is of no known kind").at(key);
    let parts = key.split('/').collect::<Vec<_>>();
    match parts.as_slice() {
        ["surah", number] => {
            let (surah, _) = rows.surah(padded(number).ok_or_else(gone)?)?.ok_or_else(gone)?;
            json(&surah.document(Vec::new()))
        }
        ["texts", number, id] => {
            let number = padded(number).ok_or_else(gone)?;
            let (texts, _) = rows.texts(number, &TranslationId::parse(id)?)?.ok_or_else(gone)?;
            let ayahs =
                (1..).zip(&texts).map(|(number, translation)| AyahText { number, translation }).collect();
            json(&Texts { number: number.get(), ayahs })
        }
        ["reciter", id] => json(&rows.reciter(&ReciterId::parse(id)?)?.ok_or_else(gone)?.0),
        ["translation", id] => json(&rows.translation(&TranslationId::parse(id)?)?.ok_or_else(gone)?.0.facts),
        _ => Err(gone()),
    }
}

fn padded(text: &str) -> Option<SurahNumber> {
    text.parse().ok().and_then(|number| SurahNumber::new(number).ok())
}

/// The terms of the texts, as whoever receives the export must be shown them.
fn notice(rows: &ReadRows) -> Result<String> {
    let mut editions = rows.surahs()?.into_iter().map(|surah| surah.edition).collect::<Vec<_>>();
    editions.sort();
    editions.dedup();
    let mut text = "This archive was written by hifz. The texts in it come under these terms.\n".to_owned();
    text.extend(editions.iter().filter_map(|edition| facts::source_of(edition)).map(|source| {
        format!("\n{} ({}, {})\n\n{}\n", source.name, source.licence, source.url, source.notice)
    }));
    let translations = rows.translations()?;
    text.extend(translations.iter().filter(|translation| translation.available).map(|translation| {
        let facts = &translation.facts;
        format!("\nTranslation {} ({}): {}, {}\n", facts.id, facts.name, facts.source, facts.licence)
    }));
    Ok(text)
}

fn append<W: Write>(archive: &mut Builder<W>, name: &str, bytes: &[u8]) -> Result<u64> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, format!("{ROOT}/{name}"), bytes).map_err(unwritable)?;
    Ok(bytes.len() as u64)
}

fn json<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|error| {
        Error::new(ErrorKind::ContentDamaged, "the document cannot be rendered").because(error)
    })
}

fn unwritable(error: io::Error) -> Error {
    Error::new(ErrorKind::DiskFailed, format!("the export cannot be written: {error}")).because(error)
}

#[derive(Serialize)]
struct Manifest<'m> {
    format: &'m str,
    version: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bookmarks: bool,
    files: &'m BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Texts<'t> {
    number: u8,
    ayahs: Vec<AyahText<'t>>,
}

#[derive(Serialize)]
struct AyahText<'t> {
    number: u16,
    translation: &'t str,
}

/// The folder around everything.
const ROOT: &str = "hifz-export";
