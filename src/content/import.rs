//! What an imported package means: the books of `quran-json`, or the documents of an export.
//!
//! Promises: everything is written through the one transaction it is given, so that a refusal at any point changes
//! nothing; one book is in memory at a time; importing the same again changes nothing. Which of the two it is, the first
//! file tells: an export begins with its manifest. Does not know where the files come from.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::Read;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

use super::archive::{BACKUP_BYTES_MAX, ImportFile, read_all, refused, walk_archive};
use super::bookmarks::BOOKMARKS_BYTES_MAX;
use super::database::WriteRows;
use super::documents::Put;
use super::facts::{self, SurahFacts};
use super::keys::{ReciterId, SurahNumber, TranslationId};
use super::model::{AYAHS_MAX, DOCUMENT_BYTES_MAX, RECITERS_MAX, TRANSLATIONS_MAX, TranslationFacts};
use super::outbox::{self, Change};
use super::parse::{self, Bounded};

/// What an import was of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Imported {
    /// The npm package `quran-json`.
    QuranJson,
    /// An export of hifz.
    Export,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// What it was of.
    pub of: Imported,
    /// The version that the package names.
    pub version: String,
    /// How many surahs it made or changed.
    pub surahs_changed: usize,
    /// How many times the texts of one translation for one surah were made or changed.
    pub texts_changed: usize,
    /// How many reciters and descriptions of translations it made or changed.
    pub others_changed: usize,
    /// How many users' bookmarks it made or changed.
    pub users_changed: usize,
    /// How many documents (a user's bookmarks are one) it deleted, because the export does not have them.
    pub deleted: usize,
    /// The translations it brought.
    pub translations: Vec<String>,
    /// Books in languages this version does not know, which were left out.
    pub skipped: Vec<String>,
    /// What it made stale; `None` when everything was there already.
    #[serde(skip)]
    pub change: Option<Change>,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.of {
            Imported::QuranJson => "quran-json",
            Imported::Export => "export",
        };
        write!(
            f,
            "{what} {}: {} surahs, {} translated surahs and {} others changed, {} deleted",
            self.version, self.surahs_changed, self.texts_changed, self.others_changed, self.deleted
        )?;
        if self.users_changed > 0 {
            write!(f, "; bookmarks of {} users changed", self.users_changed)?;
        }
        if !self.translations.is_empty() {
            write!(f, "; translations: {}", self.translations.join(", "))?;
        }
        if !self.skipped.is_empty() {
            write!(f, "; left out, not known to this version: {}", self.skipped.join(", "))?;
        }
        Ok(())
    }
}

/// The bytes of the largest file of users' bookmarks in `archive`, as far as that can be walked.
pub(super) fn largest_of_users(archive: &mut dyn Read) -> u64 {
    let mut largest = 0;
    let mut visit = |file: ImportFile<'_>| {
        if file.path == MANIFEST {
            file.allowance.set(BACKUP_BYTES_MAX);
        } else if file.path.starts_with(BOOKMARKS) {
            largest = largest.max(std::io::copy(file.content, &mut std::io::sink()).unwrap_or_default());
        }
        Ok(())
    };
    if let Err(error) = walk_archive(archive, &mut |_| (), &mut visit) {
        // Its import gets no further, and says so.
        tracing::debug!(error = %error.chain(), "an archive cannot be walked to its end");
    }
    largest
}

/// An import under way.
pub(super) struct Import<'r, 't> {
    rows: &'r mut WriteRows<'t>,
    now: Timestamp,
    report: ImportReport,
    stage: Stage,
}

enum Stage {
    Begun,
    Package {
        is_named: bool,
        has_text: bool,
    },
    Export {
        /// The files still to come, with their digests.
        due: HashMap<String, String>,
        /// The rows that were there before and have not come so far.
        stale: BTreeSet<String>,
        reciters_changed: bool,
        /// The last user whose bookmarks came; `None` for an export without any, which leaves them as they are.
        last_user: Option<String>,
        users_touched: bool,
    },
}

impl<'r, 't> Import<'r, 't> {
    pub(super) fn new(rows: &'r mut WriteRows<'t>, now: Timestamp) -> Self {
        let report = ImportReport {
            of: Imported::QuranJson,
            version: String::new(),
            surahs_changed: 0,
            texts_changed: 0,
            others_changed: 0,
            users_changed: 0,
            deleted: 0,
            translations: Vec::new(),
            skipped: Vec::new(),
            change: None,
        };
        Self { rows, now, report, stage: Stage::Begun }
    }

    /// Takes the next file.
    pub(super) fn file(&mut self, file: &mut ImportFile<'_>) -> Result<()> {
        match &self.stage {
            Stage::Begun if file.path == MANIFEST => self.begin_export(file),
            Stage::Begun => {
                self.stage = Stage::Package { is_named: false, has_text: false };
                self.package_file(file)
            }
            Stage::Package { .. } => self.package_file(file),
            Stage::Export { .. } => self.export_file(file),
        }
    }

    /// Ends the import: checks that nothing is missing, and notes what was made stale.
    pub(super) fn finish(mut self) -> Result<ImportReport> {
        let (mut reciters, mut users) = (false, false);
        match self.stage {
            Stage::Package { is_named: true, has_text: true } => {}
            Stage::Begun | Stage::Package { is_named: false, .. } => {
                return Err(refused(
                    "is neither the package quran-json (no package.json) nor an export of hifz",
                ));
            }
            Stage::Package { .. } => return Err(refused("is missing").at(TEXT_BOOK)),
            Stage::Export { due, stale, reciters_changed, last_user, users_touched } => {
                if let Some(missing) = due.keys().min() {
                    return Err(refused("is in the manifest, but missing").at(missing));
                }
                reciters = reciters_changed;
                for key in &stale {
                    self.rows.remove_row(key, self.now)?;
                    reciters |= key.starts_with("reciter/");
                }
                self.report.deleted += stale.len();
                if let Some(last) = last_user {
                    let removed = self.rows.remove_users_between(&last, None)?;
                    self.report.deleted += removed;
                    users = users_touched || removed > 0;
                }
                parse::within("reciters", self.rows.reciter_ids()?.len(), RECITERS_MAX)?;
                parse::within("translations", self.rows.translation_ids()?.len(), TRANSLATIONS_MAX)?;
            }
        }
        let report = &mut self.report;
        let touched = report.surahs_changed + report.texts_changed + report.others_changed + report.deleted;
        if touched > 0 || users {
            let mut names = vec!["quran", "translation", "translations"];
            if users {
                names.push("user");
            }
            if reciters {
                names.extend(["reciter", "reciters"]);
            }
            report.change = Some(self.rows.note_change(outbox::namespaces(&names)?)?);
        }
        Ok(self.report)
    }

    fn package_file(&mut self, file: &mut ImportFile<'_>) -> Result<()> {
        let Stage::Package { is_named, has_text } = &mut self.stage else { return Ok(()) };
        if file.path == "package.json" {
            let package: Package = parse::json(&read_all(file.content, PACKAGE_BYTES_MAX)?)?;
            if package.name != facts::QURAN_JSON {
                return Err(parse::refused(
                    "name",
                    "expected quran-json, the only package that can be imported",
                ));
            }
            *is_named = true;
            self.report.version = package.version;
            return Ok(());
        }
        if file.path == TEXT_BOOK {
            *has_text = true;
            return self.text_book(&read_all(file.content, DOCUMENT_BYTES_MAX)?);
        }
        let Some(name) = file.path.strip_prefix("dist/quran_").and_then(|name| name.strip_suffix(".json"))
        else {
            return Ok(());
        };
        match facts::translations()?.into_iter().find(|known| known.id.as_str() == name) {
            Some(known) => self.translation_book(known, &read_all(file.content, DOCUMENT_BYTES_MAX)?),
            None if self.report.skipped.len() < SKIPPED_MAX => {
                self.report.skipped.push(file.path.to_owned());
                Ok(())
            }
            None => Err(refused(format!("is one of more than {SKIPPED_MAX} books in unknown languages"))),
        }
    }

    fn text_book(&mut self, bytes: &[u8]) -> Result<()> {
        let surahs = facts::surahs()?;
        for (facts, texts) in surahs.iter().zip(book(bytes, &surahs, Column::Text)?) {
            let found = match self.rows.surah(facts.number) {
                Ok(found) => found.map(|(surah, _)| surah),
                // What is damaged is written anew.
                Err(error) if error.kind() == ErrorKind::ContentDamaged && error.place().is_some() => None,
                Err(error) => return Err(error),
            };
            let mut surah = found.unwrap_or_else(|| facts.with_text(facts::EDITION_UTHMANI, Vec::new()));
            facts::EDITION_UTHMANI.clone_into(&mut surah.edition);
            surah.texts = texts;
            let put = self.rows.put_surah(surah, self.now)?;
            self.report.surahs_changed += usize::from(put != Put::Same);
        }
        Ok(())
    }

    fn translation_book(&mut self, known: TranslationFacts, bytes: &[u8]) -> Result<()> {
        let id = known.id.clone();
        let column =
            if id.as_str() == "transliteration" { Column::Transliteration } else { Column::Translation };
        let surahs = facts::surahs()?;
        let texts = book(bytes, &surahs, column)?;
        if !self.rows.has_translation(&id)? {
            self.rows.put_translation(known, self.now)?;
            self.report.others_changed += 1;
        }
        for (facts, texts) in surahs.iter().zip(&texts) {
            let put = self.rows.put_texts(facts.number, &id, texts, self.now)?;
            self.report.texts_changed += usize::from(put != Put::Same);
        }
        self.report.translations.push(id.to_string());
        Ok(())
    }

    fn begin_export(&mut self, file: &mut ImportFile<'_>) -> Result<()> {
        let manifest: Manifest = parse::json(&read_all(file.content, MANIFEST_BYTES_MAX)?)?;
        if manifest.format != EXPORT_FORMAT {
            return Err(parse::refused("format", &format!("expected {EXPORT_FORMAT}")));
        }
        if manifest.version != EXPORT_VERSION {
            let why = format!(
                "expected {EXPORT_VERSION}, got {}: it was made by another version",
                manifest.version
            );
            return Err(parse::refused("version", &why));
        }
        self.report.of = Imported::Export;
        self.report.version = manifest.version.to_string();
        let stale = self.rows.keys("")?.into_iter().collect();
        if manifest.bookmarks {
            file.allowance.set(BACKUP_BYTES_MAX);
        }
        let last_user = manifest.bookmarks.then(String::new);
        self.stage = Stage::Export {
            due: manifest.files,
            stale,
            reciters_changed: false,
            last_user,
            users_touched: false,
        };
        Ok(())
    }

    fn export_file(&mut self, file: &mut ImportFile<'_>) -> Result<()> {
        let Stage::Export { due, stale, reciters_changed, last_user, users_touched } = &mut self.stage else {
            return Ok(());
        };
        let Some(digest) = due.remove(file.path) else { return Err(refused("is not in the manifest")) };
        let is_of_users = file.path.starts_with(BOOKMARKS);
        let most = if is_of_users { BOOKMARKS_BYTES_MAX } else { DOCUMENT_BYTES_MAX };
        let bytes = read_all(file.content, most)?;
        if digest != file_digest(&bytes) {
            return Err(refused("does not match its digest in the manifest"));
        }
        if file.path == NOTICE {
            return Ok(());
        }
        if is_of_users {
            let last = last_user.as_mut().ok_or_else(|| refused("is not announced in the manifest"))?;
            let (changed, removed) = self.rows.import_users(bytes, last)?;
            self.report.users_changed += changed;
            self.report.deleted += removed;
            *users_touched |= changed + removed > 0;
            return Ok(());
        }
        let row = file.path.strip_suffix(".json").ok_or_else(unknown_file)?;
        let parts = row.split('/').collect::<Vec<_>>();
        let (put, counter) = match parts.as_slice() {
            ["surah", number] => {
                let surah = parse::surah(padded(number)?, &bytes)?;
                (self.rows.put_surah(surah, self.now)?, &mut self.report.surahs_changed)
            }
            ["texts", number, id] => {
                let (number, id) = (padded(number)?, translation_id(id)?);
                let texts = parse::texts(number, &bytes)?;
                if number.get() == 1 {
                    self.report.translations.push(id.to_string());
                }
                (self.rows.put_texts(number, &id, &texts, self.now)?, &mut self.report.texts_changed)
            }
            ["reciter", id] => {
                let put = self.rows.put_reciter(parse::reciter(&reciter_id(id)?, &bytes)?, self.now)?;
                *reciters_changed |= put != Put::Same;
                (put, &mut self.report.others_changed)
            }
            ["translation", id] => {
                let facts = parse::translation(&translation_id(id)?, &bytes)?;
                (self.rows.put_translation(facts, self.now)?, &mut self.report.others_changed)
            }
            _ => return Err(unknown_file()),
        };
        *counter += usize::from(put != Put::Same);
        stale.remove(row);
        Ok(())
    }
}

/// The digest of a file of an export, as its manifest writes it.
pub(super) fn file_digest(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// The texts of one column of a whole book, surah by surah, checked against what is known of each.
fn book(bytes: &[u8], surahs: &[SurahFacts], column: Column) -> Result<Vec<Vec<String>>> {
    let Bounded(chapters) = parse::json::<Bounded<Chapter, { SurahNumber::MAX as usize }>>(bytes)?;
    if chapters.len() != surahs.len() {
        return Err(refused(format!("has {} surahs, expected {}", chapters.len(), surahs.len())));
    }
    let mut texts = Vec::with_capacity(surahs.len());
    for (at, (chapter, facts)) in chapters.into_iter().zip(surahs).enumerate() {
        expect(|| format!("[{at}].id"), chapter.id, u64::from(facts.number.get()))?;
        expect(|| format!("[{at}].total_verses"), chapter.total_verses, facts.ayah_count as u64)?;
        let Bounded(verses) = chapter.verses;
        expect(|| format!("[{at}].verses"), verses.len() as u64, facts.ayah_count as u64)?;
        let checked = verses.into_iter().enumerate().map(|(verse_at, verse)| {
            let place = |field: &str| format!("[{at}].verses[{verse_at}].{field}");
            expect(|| place("id"), verse.id, verse_at as u64 + 1)?;
            let (field, text) = match column {
                Column::Text => ("text", verse.text),
                Column::Translation => ("translation", verse.translation),
                Column::Transliteration => ("transliteration", verse.transliteration),
            };
            parse::text(|| place(field), text)
        });
        texts.push(checked.collect::<Result<_>>()?);
    }
    Ok(texts)
}

fn expect(place: impl Fn() -> String, found: u64, expected: u64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(parse::refused(place(), &format!("expected {expected}, got {found}")))
}

/// A surah's number as the rows write it: three digits.
fn padded(text: &str) -> Result<SurahNumber> {
    let is_padded = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_padded => SurahNumber::new(number).map_err(|_| unknown_file()),
        _ => Err(unknown_file()),
    }
}

fn reciter_id(text: &str) -> Result<ReciterId> {
    ReciterId::parse(text).map_err(|_| unknown_file())
}

fn translation_id(text: &str) -> Result<TranslationId> {
    TranslationId::parse(text).map_err(|_| unknown_file())
}

fn unknown_file() -> Error {
    refused("is no file of an export")
}

/// Which text of a verse a book brings.
#[derive(Clone, Copy)]
enum Column {
    Text,
    Translation,
    Transliteration,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct Chapter {
    id: u64,
    total_verses: u64,
    verses: Bounded<Verse, AYAHS_MAX>,
}

#[derive(Deserialize)]
struct Verse {
    id: u64,
    text: Option<String>,
    translation: Option<String>,
    transliteration: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    format: String,
    version: u32,
    files: HashMap<String, String>,
    #[serde(default)]
    bookmarks: bool,
}

/// The first file of an export: its format, and the digest of every other file.
pub(super) const MANIFEST: &str = "manifest.json";

/// The terms of the texts of an export.
pub(super) const NOTICE: &str = "NOTICE";

/// Where the bookmarks of users are in an export.
pub(super) const BOOKMARKS: &str = "bookmarks/";

/// What the manifest calls its format.
pub(super) const EXPORT_FORMAT: &str = "hifz-export";

/// The version of that format.
pub(super) const EXPORT_VERSION: u32 = 1;

/// The book that brings the Arabic text.
const TEXT_BOOK: &str = "dist/quran.json";

const PACKAGE_BYTES_MAX: usize = 256 << 10;
const MANIFEST_BYTES_MAX: usize = 4 << 20;
const SKIPPED_MAX: usize = 100;
