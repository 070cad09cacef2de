//! The system of record: the Quran's text, its translations and the reciters, in `content.redb`.
//!
//! Promises: the first start seeds the built-in content, later starts never bring back what was deleted; every change
//! is on disk together with its line in the outbox before its call returns; bad input changes nothing; a damaged
//! document is an error and never served; a file that cannot be trusted stops the start and is left untouched.
//! It speaks no HTTP and knows no cache: it only says which keys a change made stale.

mod archive;
mod bookmarks;
mod database;
mod date;
mod documents;
mod export;
mod facts;
pub(crate) mod foreign;
mod import;
pub mod keys;
mod model;
mod outbox;
mod parse;
mod render;
mod repair;
mod seed;
mod shelves;

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Ask, Load, Loaded, Loading, Source as LoadSource};

use database::{Database, ReadRows, WriteRows, not_trusted};
use documents::Put;
use import::Import;
use keys::{Content, ReciterId, SurahNumber, TranslationId};

pub use archive::Progress;
pub use bookmarks::{
    BOOKMARKS_BYTES_MAX, BOOKMARKS_MAX, Bookmark, BookmarkList, Bookmarks, BookmarksOf, Guard, Kept,
    ListSize, NOTE_CHARS_MAX, Standing,
};
pub use export::ExportReport;
pub use import::{ImportReport, Imported};
pub use model::{
    AYAHS_MAX, Ayah, DOCUMENT_BYTES_MAX, Direction, NAME_BYTES_MAX, RECITERS_MAX, Reciter, ReciterList,
    Revelation, Source, SurahDocument, SurahList, SurahSummary, TEXT_BYTES_MAX, TRANSLATIONS_MAX,
    Translation, TranslationFacts, TranslationList,
};
pub use outbox::{Change, Target};
pub use repair::Repaired;

/// The content store; a clone is the same store.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    clock: Clock,
}

/// What writing a document did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Whether there was none before.
    pub made: bool,
    /// What it made stale; also in the outbox until [`Store::change_done`].
    pub change: Change,
}

/// How much content there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Surahs.
    pub surahs: usize,
    /// Ayahs of all surahs.
    pub ayahs: usize,
    /// Reciters.
    pub reciters: usize,
    /// Translations, loaded or not.
    pub translations: usize,
    /// Translations of which texts are loaded.
    pub translations_available: usize,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// How many documents were checked.
    pub documents: usize,
    /// Those that are damaged, by the name of their row.
    pub damaged: Vec<String>,
}

impl Store {
    /// Opens the content store in `file`; where there is none, makes it with the built-in content.
    ///
    /// # Errors
    /// [`ErrorKind::DiskNotTrusted`] with the way out for a file that is damaged, foreign or of a newer version;
    /// [`ErrorKind::Locked`] when another process has it open; [`ErrorKind::DiskFailed`] otherwise.
    pub fn open(file: &Path, clock: Clock) -> Result<Self> {
        let is_there = file.try_exists().map_err(|error| {
            Error::new(ErrorKind::DiskFailed, "cannot be looked at").at(file.to_string_lossy()).because(error)
        })?;
        let database = if is_there {
            let database = Database::open(file)?;
            database.read(seed::check_format).map_err(|error| match error.kind() {
                ErrorKind::ContentDamaged | ErrorKind::DiskNotTrusted => not_trusted(file, error.chain()),
                _ => error,
            })?;
            database
        } else {
            let now = clock.now();
            Database::create(file, |rows| seed::fill(rows, now))?
        };
        Ok(Self { database: Arc::new(database), clock })
    }

    /// What the keys of the cache before it were made with, as [`Store::set_key_basis`] last noted it.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`]; [`ErrorKind::DiskFailed`].
    pub fn key_basis(&self) -> Result<Option<Vec<u8>>> {
        self.database.read(|rows| rows.meta(KEY_BASIS))
    }

    /// Notes what the keys of the cache before it are made with.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`].
    pub fn set_key_basis(&self, basis: &[u8]) -> Result<()> {
        self.database.write(|rows| rows.put_meta(KEY_BASIS, basis))
    }

    /// The bookmarks of its users.
    #[must_use]
    pub fn bookmarks(&self) -> Bookmarks {
        Bookmarks::new(Arc::clone(&self.database), self.clock.clone())
    }

    /// The list of surahs.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`] when any of them is; [`ErrorKind::DiskFailed`].
    pub fn surahs(&self) -> Result<SurahList> {
        self.database.read(render::surah_list)
    }

    /// Surah `number`, beside a translation where one is named; `None` when either does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::TranslationNotAvailable`] for one that is known but not loaded; [`ErrorKind::ContentDamaged`];
    /// [`ErrorKind::DiskFailed`].
    pub fn surah(&self, number: SurahNumber, translation: Option<&str>) -> Result<Option<SurahDocument>> {
        let Ok(translation) = translation.map(TranslationId::parse).transpose() else { return Ok(None) };
        let found = self.database.read(|rows| render::surah_document(rows, number, translation.as_ref()))?;
        Ok(found.map(|(document, _)| document))
    }

    /// The list of reciters.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`] when any of them is; [`ErrorKind::DiskFailed`].
    pub fn reciters(&self) -> Result<ReciterList> {
        self.database.read(|rows| Ok(ReciterList { reciters: rows.reciters()? }))
    }

    /// One reciter.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`]; [`ErrorKind::DiskFailed`].
    pub fn reciter(&self, id: &str) -> Result<Option<Reciter>> {
        let Ok(id) = ReciterId::parse(id) else { return Ok(None) };
        Ok(self.database.read(|rows| rows.reciter(&id))?.map(|(reciter, _)| reciter))
    }

    /// The list of translations, those that are not loaded included.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`] when any of them is; [`ErrorKind::DiskFailed`].
    pub fn translations(&self) -> Result<TranslationList> {
        self.database.read(|rows| Ok(TranslationList { translations: rows.translations()? }))
    }

    /// One translation.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`]; [`ErrorKind::DiskFailed`].
    pub fn translation(&self, id: &str) -> Result<Option<Translation>> {
        let Ok(id) = TranslationId::parse(id) else { return Ok(None) };
        Ok(self.database.read(|rows| rows.translation(&id))?.map(|(translation, _)| translation))
    }

    /// Writes surah `number` from a JSON document; with `translation`, only the texts of that translation of it.
    ///
    /// # Errors
    /// [`ErrorKind::DocumentInvalid`] with the field as its place, or [`ErrorKind::DocumentTooLarge`];
    /// [`ErrorKind::NotFound`] for texts of an unknown translation or surah; [`ErrorKind::DiskFailed`].
    pub fn put_surah(
        &self,
        number: SurahNumber,
        document: &[u8],
        translation: Option<&str>,
    ) -> Result<Written> {
        let now = self.clock.now();
        let Some(translation) = translation else {
            let surah = parse::surah(number, document)?;
            return self.database.write(|rows| {
                let shows = rows.shows_surah(number)?;
                let put = rows.put_surah(surah, now)?;
                written(rows, put, shows)
            });
        };
        let translation = TranslationId::parse(translation)?;
        let texts = parse::texts(number, document)?;
        self.database.write(|rows| {
            if !rows.has_translation(&translation)? {
                return Err(absent("translation", translation.as_str()));
            }
            let (surah, _) = rows.surah(number)?.ok_or_else(|| absent("surah", number))?;
            if surah.texts.len() != texts.len() {
                let why = format!("expected {} as the surah has, got {}", surah.texts.len(), texts.len());
                return Err(parse::refused("ayahs", &why));
            }
            let put = rows.put_texts(number, &translation, &texts, now)?;
            written(rows, put, outbox::shows_texts(number, &translation))
        })
    }

    /// Deletes surah `number` with its translated texts; with `translation`, only the texts of that translation of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not there; [`ErrorKind::DiskFailed`].
    pub fn delete_surah(&self, number: SurahNumber, translation: Option<&str>) -> Result<Change> {
        let now = self.clock.now();
        let Some(translation) = translation else {
            return self.database.write(|rows| {
                let mut shows = rows.shows_surah(number)?;
                for translation in rows.translations_of(number)? {
                    shows.push(Content::Translation(translation));
                    shows.push(Content::Translations);
                }
                let found = rows.remove_surah(number, now)?;
                deleted(rows, found.then_some(shows), || absent("surah", number))
            });
        };
        let translation = TranslationId::parse(translation)?;
        self.database.write(|rows| {
            let found = rows.remove_texts(number, &translation, now)?;
            let shows = outbox::shows_texts(number, &translation);
            deleted(rows, found.then_some(shows), || {
                absent("translation", format_args!("{translation} of surah {number}"))
            })
        })
    }

    /// Writes reciter `id` from a JSON document.
    ///
    /// # Errors
    /// [`ErrorKind::DocumentInvalid`] with the field as its place, or [`ErrorKind::DocumentTooLarge`];
    /// [`ErrorKind::DiskFailed`].
    pub fn put_reciter(&self, id: &str, document: &[u8]) -> Result<Written> {
        let id = ReciterId::parse(id).map_err(|error| id_refused(&error))?;
        let reciter = parse::reciter(&id, document)?;
        self.database.write(|rows| {
            let put = rows.put_reciter(reciter, self.clock.now())?;
            if put == Put::Made {
                parse::within("reciters", rows.reciter_ids()?.len(), RECITERS_MAX)?;
            }
            written(rows, put, vec![Content::Reciters, Content::Reciter(id)])
        })
    }

    /// Deletes reciter `id`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::DiskFailed`].
    pub fn delete_reciter(&self, id: &str) -> Result<Change> {
        let id = ReciterId::parse(id)?;
        self.database.write(|rows| {
            let found = rows.remove_reciter(&id, self.clock.now())?;
            let shows = vec![Content::Reciters, Content::Reciter(id.clone())];
            deleted(rows, found.then_some(shows), || absent("reciter", &id))
        })
    }

    /// Writes the description of translation `id` from a JSON document.
    ///
    /// # Errors
    /// [`ErrorKind::DocumentInvalid`] with the field as its place, or [`ErrorKind::DocumentTooLarge`];
    /// [`ErrorKind::DiskFailed`].
    pub fn put_translation(&self, id: &str, document: &[u8]) -> Result<Written> {
        let id = TranslationId::parse(id).map_err(|error| id_refused(&error))?;
        let facts = parse::translation(&id, document)?;
        self.database.write(|rows| {
            let put = rows.put_translation(facts, self.clock.now())?;
            if put == Put::Made {
                parse::within("translations", rows.translation_ids()?.len(), TRANSLATIONS_MAX)?;
            }
            let mut shows = outbox::shows_translation(&id);
            if put == Put::Made {
                // Asking for it was "not found" a moment ago, which may have been remembered.
                shows.extend(SurahNumber::all().map(|number| Content::Surah(number, Some(id.clone()))));
            }
            written(rows, put, shows)
        })
    }

    /// Deletes translation `id` with all its texts.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::DiskFailed`].
    pub fn delete_translation(&self, id: &str) -> Result<Change> {
        let id = TranslationId::parse(id)?;
        self.database.write(|rows| {
            let found = rows.remove_translation(&id, self.clock.now())?;
            let mut shows = outbox::shows_translation(&id);
            shows.extend(SurahNumber::all().map(|number| Content::Surah(number, Some(id.clone()))));
            deleted(rows, found.then_some(shows), || absent("translation", &id))
        })
    }

    /// The changes that the cache has not yet been told of, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`]. A line that is damaged is no error: it stands for all built-in namespaces.
    pub fn pending_changes(&self) -> Result<Vec<Change>> {
        self.database.read(ReadRows::changes)
    }

    /// Takes the line of change `id` out of the outbox; nothing happens when it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`].
    pub fn change_done(&self, id: u64) -> Result<()> {
        self.database.write(|rows| rows.remove_line(id))
    }

    /// Imports the gzip tarball `archive`: of the npm package `quran-json`, or an export of hifz, which replaces all
    /// content. All of it in one transaction; importing the same again changes nothing. Other changes wait meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::DocumentInvalid`] or [`ErrorKind::DocumentTooLarge`] with the file and the place in it;
    /// [`ErrorKind::DiskFailed`]. Nothing is changed then.
    pub fn import_archive(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<ImportReport> {
        let now = self.clock.now();
        self.database.write(|rows| {
            let mut import = Import::new(rows, now);
            archive::walk_archive(archive, progress, &mut |mut file| import.file(&mut file))?;
            import.finish()
        })
    }

    /// How much memory an import of `archive` takes at most; 0 where that is little. What is wrong with the archive, the
    /// import itself will tell.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`].
    pub fn import_bytes(&self, archive: &mut dyn Read) -> Result<u64> {
        let file_bytes = import::largest_of_users(archive);
        if file_bytes == 0 {
            return Ok(0);
        }
        // The file as it is read and parsed or as a row; then the page of that one, and those that it takes the place of.
        let stands = self.bookmarks().largest()?.look_bytes();
        Ok(file_bytes
            .saturating_mul(2)
            .saturating_add(file_bytes.next_power_of_two())
            .saturating_add(stands * 2))
    }

    /// How much memory an export with bookmarks takes.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`].
    pub fn export_bytes(&self) -> Result<u64> {
        let largest = self.bookmarks().largest()?;
        // Looking for the next user holds two pages.
        Ok(shelves::PAGE_BYTES as u64 + largest.shown_bytes() + largest.look_bytes() * 2)
    }

    /// How much memory [`Store::verify`] takes; 0 where that is little.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`].
    pub fn verify_bytes(&self) -> Result<u64> {
        Ok(self.bookmarks().largest()?.look_bytes() * 2)
    }

    /// Imports the unpacked folder of what [`Store::import_archive`] takes.
    ///
    /// # Errors
    /// As [`Store::import_archive`].
    pub fn import_dir(&self, dir: &Path, progress: &mut dyn FnMut(&Progress)) -> Result<ImportReport> {
        let now = self.clock.now();
        self.database.write(|rows| {
            let mut import = Import::new(rows, now);
            archive::walk_folder(dir, import::MANIFEST, progress, &mut |mut file| import.file(&mut file))?;
            import.finish()
        })
    }

    /// Writes all content to `out` as a gzip tarball that [`Store::import_archive`] reads back, while the store goes on
    /// being used: one unchanging view of it, and the same bytes for the same content.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`] when any document is; [`ErrorKind::DiskFailed`], also when `out` fails.
    pub fn export(&self, out: &mut dyn Write) -> Result<ExportReport> {
        self.database.read(|rows| export::write(rows, out, false))
    }

    /// As [`Store::export`], with the bookmarks of all users under their raw ids: a backup to be kept as carefully as
    /// the data directory. Its import replaces the bookmarks of all users too.
    ///
    /// # Errors
    /// As [`Store::export`].
    pub fn export_with_bookmarks(&self, out: &mut dyn Write) -> Result<ExportReport> {
        self.database.read(|rows| export::write(rows, out, true))
    }

    /// Whether the file still stands where the next start will look for it; without it nothing can be changed.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it does not.
    pub fn check_in_place(&self) -> Result<()> {
        self.database.check_in_place()
    }

    /// How much content there is.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`] when any document is; [`ErrorKind::DiskFailed`].
    pub fn counts(&self) -> Result<Counts> {
        self.database.read(|rows| {
            let (surahs, translations) = (rows.surahs()?, rows.translations()?);
            Ok(Counts {
                surahs: surahs.len(),
                ayahs: surahs.iter().map(|surah| surah.texts.len()).sum(),
                reciters: rows.reciter_ids()?.len(),
                translations: translations.len(),
                translations_available: translations
                    .iter()
                    .filter(|translation| translation.available)
                    .count(),
            })
        })
    }

    /// Some of the documents that were found damaged and still are.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`], or [`ErrorKind::ContentDamaged`] when the file cannot be read at all.
    pub fn met_damaged(&self) -> Result<Vec<String>> {
        self.database.met_damaged(|key| {
            let checked = self
                .database
                .read(|rows| rows.get(key)?.map_or(Ok(()), |payload| documents::check(key, &payload)));
            match checked {
                Ok(()) => Ok(false),
                Err(error) if error.place() == Some(key) => Ok(true),
                Err(error) => Err(error),
            }
        })
    }

    /// Reads every document and checks it against its digest.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`], or [`ErrorKind::ContentDamaged`] when the file cannot even be walked.
    pub fn verify(&self) -> Result<Verified> {
        self.database.read(|rows| {
            let keys = rows.keys("")?;
            let mut documents = keys.len();
            let mut damaged = Vec::new();
            for key in keys {
                let checked = rows
                    .get(&key)
                    .and_then(|payload| payload.map_or(Ok(()), |payload| documents::check(&key, &payload)));
                match checked {
                    Ok(()) => {}
                    Err(error) if error.place() == Some(key.as_str()) => damaged.push(key),
                    Err(error) => return Err(error),
                }
            }
            for key in &damaged {
                self.database.note_damaged(key);
            }
            let shelves = rows.verify_users()?;
            documents += shelves.documents;
            damaged.extend(shelves.damaged);
            Ok(Verified { documents, damaged })
        })
    }
}

impl Store {
    /// `content` as it is shown, read from the file; `None` when there is none.
    ///
    /// # Errors
    /// As [`Store::surah`].
    pub fn rendered(&self, content: &Content) -> Result<Option<Loaded>> {
        self.database.read(|rows| render::value(rows, content))
    }
}

/// Where it is noted with what the keys of the cache are made.
const KEY_BASIS: &str = "cache/key_basis";

impl LoadSource for Store {
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        let content = Content::of(ask.key);
        let store = self.clone();
        Box::pin(async move {
            let Some(content) = content else { return Ok(Load::Absent) };
            Ok(blocking::unblock(move || store.rendered(&content)).await?.into())
        })
    }

    fn name(&self) -> &'static str {
        "content store"
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

fn written(rows: &mut WriteRows<'_>, put: Put, shows: Vec<Content>) -> Result<Written> {
    Ok(Written { made: put == Put::Made, change: rows.note_change(outbox::targets(shows))? })
}

fn deleted(
    rows: &mut WriteRows<'_>,
    shows: Option<Vec<Content>>,
    absent: impl FnOnce() -> Error,
) -> Result<Change> {
    rows.note_change(outbox::targets(shows.ok_or_else(absent)?))
}

fn absent(what: &str, which: impl fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {what} {which}"))
}

fn id_refused(error: &Error) -> Error {
    parse::refused("id", error.message())
}
