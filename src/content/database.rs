//! The file `content.redb`: documents as checked rows, small facts about the file, the outbox of changes.
//!
//! Layout: table `documents` (text key -> row), `meta` (text key -> row), `outbox` (number -> row) and, once a user has
//! kept one, `bookmarks` (user id -> row) with `bookmark_sizes` (user id -> row: how large that one is). A row is the xxh3-128 of key and payload, 16 bytes little-endian, then the payload (which begins with the format byte of
//! [`crate::codec`]). Promises: every commit is on disk before its call returns; a row whose digest does not hold is
//! never handed out; a panic inside redb is an error here; a handle that met an I/O error is dropped and the file is
//! opened again by the next call. It never makes a file where there was one, and never moves one away.
//! Knows nothing of surahs.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use redb::{
    Builder, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, Table,
    TableDefinition, TableError,
};
use xxhash_rust::xxh3::Xxh3Default;

use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fenced;

/// An open content file.
pub(super) struct Database {
    file: PathBuf,
    /// The handle in use, `None` after it met an error that only opening the file again clears. Locked only to look
    /// at or to replace it, never during a transaction.
    handle: Mutex<Option<Arc<Fenced>>>,
    /// Device and inode of the file, once it stands at its place: a change must not go to a file that has lost its name.
    identity: OnceLock<(u64, u64)>,
    /// The places of damaged documents that somebody met, for health; some may have been mended since.
    met: Mutex<BTreeSet<String>>,
    /// Held by whoever looks how large a row is of which that is not noted: of the pages that nobody has made room for one
    /// is in memory at a time.
    pub(super) weighing: Mutex<()>,
}

impl Database {
    /// Opens `file`, which must exist.
    pub(super) fn open(file: &Path) -> Result<Self> {
        let database = Self::over(file, open_file(file)?);
        database.note_identity()?;
        Ok(database)
    }

    fn over(file: &Path, handle: Fenced) -> Self {
        Self {
            file: file.to_owned(),
            handle: Mutex::new(Some(Arc::new(handle))),
            identity: OnceLock::new(),
            met: Mutex::default(),
            weighing: Mutex::default(),
        }
    }

    /// Makes `file` with what `seed` writes: under another name first, so that `file` is there in full or not at all.
    pub(super) fn create(file: &Path, seed: impl FnOnce(&mut WriteRows<'_>) -> Result<()>) -> Result<Self> {
        let begun = file.with_file_name(BEGUN_FILE);
        let fresh = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&begun);
        fresh.map_err(|error| failed(&begun, "cannot be made", error))?;
        let handle = fenced(|| builder().create(&begun).map_err(|error| opening(&begun, error)))?;
        let handle = Fenced::new(handle);
        let database = Self::over(file, handle);
        database.write(seed)?;
        std::fs::rename(&begun, file).map_err(|error| failed(file, "cannot be put in place", error))?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(folder, "cannot be synced", error))?;
        database.note_identity()?;
        Ok(database)
    }

    /// Runs `body` on one unchanging view of the file.
    pub(super) fn read<T>(&self, body: impl FnOnce(&ReadRows) -> Result<T>) -> Result<T> {
        self.attempt(|database| {
            let transaction = database.begin_read().map_err(|error| stored(error.into()))?;
            let rows = Rows {
                documents: transaction.open_table(DOCUMENTS).map_err(|error| stored(error.into()))?,
                meta: transaction.open_table(META).map_err(|error| stored(error.into()))?,
                outbox: transaction.open_table(OUTBOX).map_err(|error| stored(error.into()))?,
                bookmarks: where_made(transaction.open_table(BOOKMARKS))?,
                sizes: where_made(transaction.open_table(SIZES))?,
            };
            body(&rows)
        })
    }

    /// Checks every page of `file`, which nothing may have open; what is wrong with it, if anything is.
    pub(super) fn verify_pages(file: &Path) -> Result<Option<String>> {
        let mut database = open_file(file)?;
        let checked = catch_unwind(AssertUnwindSafe(|| database.check_integrity()));
        Ok(match checked {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => Some(
                "pages did not match their checksums; it was put back to its last whole state".to_owned(),
            ),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("a page of it cannot be read".to_owned()),
        })
    }

    fn note_identity(&self) -> Result<()> {
        let found = std::fs::metadata(&self.file)
            .map_err(|error| failed(&self.file, "cannot be looked at", error))?;
        self.identity.get_or_init(|| (found.dev(), found.ino()));
        Ok(())
    }

    /// Whether the file still stands where the next start will look for it.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when it does not.
    pub(super) fn check_in_place(&self) -> Result<()> {
        let Some(identity) = self.identity.get() else { return Ok(()) };
        match std::fs::metadata(&self.file) {
            Ok(found) if (found.dev(), found.ino()) == *identity => Ok(()),
            _ => Err(Error::new(
                ErrorKind::DiskFailed,
                "the content store is gone from its place, nothing can be changed",
            )),
        }
    }

    /// Runs `body` in one transaction: all of it is on disk when this returns `Ok`, none of it otherwise.
    pub(super) fn write<T>(&self, body: impl FnOnce(&mut WriteRows<'_>) -> Result<T>) -> Result<T> {
        self.check_in_place()?;
        self.attempt(|database| {
            let mut transaction = database.begin_write().map_err(|error| stored(error.into()))?;
            transaction.set_durability(Durability::Immediate).map_err(|error| stored(error.into()))?;
            transaction.set_quick_repair(true);
            let done = {
                let mut rows = Rows {
                    documents: transaction.open_table(DOCUMENTS).map_err(|error| stored(error.into()))?,
                    meta: transaction.open_table(META).map_err(|error| stored(error.into()))?,
                    outbox: transaction.open_table(OUTBOX).map_err(|error| stored(error.into()))?,
                    bookmarks: Some(transaction.open_table(BOOKMARKS).map_err(|error| stored(error.into()))?),
                    sizes: Some(transaction.open_table(SIZES).map_err(|error| stored(error.into()))?),
                };
                body(&mut rows)
            };
            match done {
                Ok(done) => {
                    transaction.commit().map_err(|error| stored(error.into()))?;
                    Ok(done)
                }
                Err(error) => {
                    transaction.abort().map_err(|error| stored(error.into()))?;
                    Err(error)
                }
            }
        })
    }

    /// Runs `call` on the handle in use, opening the file again where there is none; lets go of a handle that failed.
    fn attempt<T>(&self, call: impl FnOnce(&Fenced) -> Result<T>) -> Result<T> {
        let database = self.current()?;
        let outcome = fenced(|| call(&database));
        if outcome.as_ref().is_err_and(is_handle_lost) {
            let mut handle = self.handle.lock();
            if handle.as_ref().is_some_and(|current| Arc::ptr_eq(current, &database)) {
                *handle = None;
            }
        }
        if let Err(error) = &outcome
            && error.kind() == ErrorKind::ContentDamaged
            && let Some(place) = error.place().filter(|place| *place != BOOKMARKS_PLACE)
        {
            self.note_damaged(place);
        }
        outcome
    }

    /// Somebody met a damaged document.
    pub(super) fn note_damaged(&self, place: &str) {
        let mut met = self.met.lock();
        if met.len() < MET_MAX {
            met.insert(place.to_owned());
        }
    }

    /// The damaged documents that somebody met and that `is_damaged` finds damaged still; the others are forgotten.
    pub(super) fn met_damaged(&self, is_damaged: impl Fn(&str) -> Result<bool>) -> Result<Vec<String>> {
        let met: Vec<String> = self.met.lock().iter().cloned().collect();
        let mut damaged = Vec::new();
        for place in met {
            if is_damaged(&place)? {
                damaged.push(place);
            } else {
                self.met.lock().remove(&place);
            }
        }
        Ok(damaged)
    }

    fn current(&self) -> Result<Arc<Fenced>> {
        let mut handle = self.handle.lock();
        if let Some(database) = &*handle {
            return Ok(Arc::clone(database));
        }
        let opened = open_file(&self.file).map_err(|error| match error.kind() {
            // Calls that began before the fault still hold the old handle.
            ErrorKind::Locked => Error::new(ErrorKind::Busy, "the content store is being opened again"),
            _ => error,
        });
        let database = Arc::new(opened?);
        *handle = Some(Arc::clone(&database));
        Ok(database)
    }
}

/// The tables of one transaction.
pub(super) struct Rows<D, O> {
    documents: D,
    meta: D,
    outbox: O,
    bookmarks: Option<D>,
    sizes: Option<D>,
}

/// The tables as a reader sees them: one moment, whatever is written meanwhile.
pub(super) type ReadRows =
    Rows<ReadOnlyTable<&'static str, &'static [u8]>, ReadOnlyTable<u64, &'static [u8]>>;

/// The tables inside of a writing transaction.
pub(super) type WriteRows<'t> = Rows<Table<'t, &'static str, &'static [u8]>, Table<'t, u64, &'static [u8]>>;

impl<D, O> Rows<D, O>
where
    D: ReadableTable<&'static str, &'static [u8]>,
    O: ReadableTable<u64, &'static [u8]>,
{
    /// The document under `key`.
    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        checked_get(&self.documents, key)
    }

    /// Whether there is a document under `key`, sound or not.
    pub(super) fn has(&self, key: &str) -> Result<bool> {
        Ok(self.documents.get(key).map_err(|error| stored(error.into()))?.is_some())
    }

    /// The keys that begin with `prefix`, in order.
    pub(super) fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for row in self.documents.range(prefix..).map_err(|error| stored(error.into()))? {
            let (key, _) = row.map_err(|error| stored(error.into()))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            keys.push(key.value().to_owned());
        }
        Ok(keys)
    }

    /// The fact about the file under `key`.
    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        checked_get(&self.meta, key)
    }

    /// What `read` makes of what is stored of the user `id`, where anything is; it reads the bytes of the file's page,
    /// and none of them is copied. An error names the place without the id.
    pub(super) fn bookmarks<T>(&self, id: &str, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let Some(table) = &self.bookmarks else { return Ok(None) };
        let Some(row) = table.get(id).map_err(|error| stored(error.into()))? else { return Ok(None) };
        let Some(payload) = unsealed(&bookmarks_key(id), row.value()) else {
            let message = "the stored bookmarks do not match their digest and are not served";
            return Err(Error::new(ErrorKind::ContentDamaged, message).at(BOOKMARKS_PLACE));
        };
        read(payload).map(Some)
    }

    /// How large what is stored of the user `id` is; `None` where that is not noted, as in a file of an earlier version.
    pub(super) fn size(&self, id: &str) -> Result<Option<Size>> {
        let Some(table) = &self.sizes else { return Ok(None) };
        let row = table.get(id).map_err(|error| stored(error.into()))?;
        let noted = row.and_then(|row| codec::decode(unsealed(&size_key(id), row.value())?).ok());
        Ok(noted)
    }

    /// The largest of all users, as far as they are noted.
    pub(super) fn largest(&self) -> Result<Size> {
        let mut largest = Size::default();
        let Some(table) = &self.sizes else { return Ok(largest) };
        for row in table.iter().map_err(|error| stored(error.into()))? {
            let (id, row) = row.map_err(|error| stored(error.into()))?;
            let noted = unsealed(&size_key(id.value()), row.value());
            let size: Size = noted.and_then(|noted| codec::decode(noted).ok()).unwrap_or_default();
            largest = largest.max(size);
        }
        Ok(largest)
    }

    /// Whether it is noted of every user how large what is stored is; not so in a file of an earlier version.
    pub(super) fn are_all_sizes_noted(&self) -> Result<bool> {
        let count = |table: &Option<D>| table.as_ref().map_or(Ok(0), redb::ReadableTableMetadata::len);
        let (noted, kept) = (count(&self.sizes), count(&self.bookmarks));
        Ok(noted.map_err(|error| stored(error.into()))? >= kept.map_err(|error| stored(error.into()))?)
    }

    /// The ids of at most `most` users that have something stored and stand after `id` in order.
    pub(super) fn users_after(&self, id: &str, most: usize) -> Result<Vec<String>> {
        let Some(table) = &self.bookmarks else { return Ok(Vec::new()) };
        let rows = table
            .range::<&str>((Bound::Excluded(id), Bound::Unbounded))
            .map_err(|error| stored(error.into()))?;
        let ids = rows.take(most).map(|row| row.map(|(id, _)| id.value().to_owned()));
        ids.collect::<Result<_, _>>().map_err(|error| stored(error.into()))
    }

    /// The lines of the outbox, oldest first; `None` for one whose digest does not hold.
    pub(super) fn outbox(&self) -> Result<Vec<(u64, Option<Vec<u8>>)>> {
        let mut lines = Vec::new();
        for row in self.outbox.iter().map_err(|error| stored(error.into()))? {
            let (id, line) = row.map_err(|error| stored(error.into()))?;
            lines.push((id.value(), unsealed(&line_key(id.value()), line.value()).map(<[u8]>::to_vec)));
        }
        Ok(lines)
    }
}

impl WriteRows<'_> {
    /// Stores `payload` under `key`.
    pub(super) fn put(&mut self, key: &str, payload: &[u8]) -> Result<()> {
        let row = sealed(key, payload);
        self.documents.insert(key, row.as_slice()).map_err(|error| stored(error.into()))?;
        Ok(())
    }

    /// Removes what is under `key`, and says whether anything was.
    pub(super) fn remove(&mut self, key: &str) -> Result<bool> {
        Ok(self.documents.remove(key).map_err(|error| stored(error.into()))?.is_some())
    }

    /// Notes a fact about the file.
    pub(super) fn put_meta(&mut self, key: &str, payload: &[u8]) -> Result<()> {
        let row = sealed(key, payload);
        self.meta.insert(key, row.as_slice()).map_err(|error| stored(error.into()))?;
        Ok(())
    }

    /// Stores for the user `id` what was made for that one.
    pub(super) fn put_bookmarks(&mut self, id: &str, row: &BookmarksRow) -> Result<()> {
        let table = self.bookmarks.as_mut().ok_or_else(no_table)?;
        table.insert(id, row.bytes.as_slice()).map_err(|error| stored(error.into()))?;
        let size = Size { stored_bytes: row.bytes.len() as u64, shown_bytes: row.shown_bytes };
        let noted = sealed(&size_key(id), &codec::encode(&size)?);
        let table = self.sizes.as_mut().ok_or_else(no_table)?;
        table.insert(id, noted.as_slice()).map_err(|error| stored(error.into()))?;
        Ok(())
    }

    /// Removes what is stored for the user `id`, and says whether anything was.
    pub(super) fn remove_bookmarks(&mut self, id: &str) -> Result<bool> {
        let sizes = self.sizes.as_mut().ok_or_else(no_table)?;
        sizes.remove(id).map_err(|error| stored(error.into()))?;
        let table = self.bookmarks.as_mut().ok_or_else(no_table)?;
        Ok(table.remove(id).map_err(|error| stored(error.into()))?.is_some())
    }

    /// Adds a line to the outbox.
    pub(super) fn put_line(&mut self, id: u64, payload: &[u8]) -> Result<()> {
        let row = sealed(&line_key(id), payload);
        self.outbox.insert(id, row.as_slice()).map_err(|error| stored(error.into()))?;
        Ok(())
    }

    /// Takes a line out of the outbox.
    pub(super) fn remove_line(&mut self, id: u64) -> Result<()> {
        self.outbox.remove(id).map_err(|error| stored(error.into()))?;
        Ok(())
    }
}

/// The row of a user, from [`bookmarks_row`].
pub(super) struct BookmarksRow {
    pub(super) bytes: Vec<u8>,
    /// How long the list is as it is shown.
    pub(super) shown_bytes: u64,
}

/// How large what is stored of a user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Size {
    /// The row.
    pub(super) stored_bytes: u64,
    /// The list as it is shown.
    pub(super) shown_bytes: u64,
}

impl Size {
    /// The larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            stored_bytes: self.stored_bytes.max(other.stored_bytes),
            shown_bytes: self.shown_bytes.max(other.shown_bytes),
        }
    }

    /// What reading or writing the row holds: the page of the file that it has to itself, whose size is a power of two.
    pub(super) fn page_bytes(self) -> u64 {
        self.stored_bytes.saturating_add(PAGE_HEAD_BYTES).checked_next_power_of_two().unwrap_or(u64::MAX)
    }
}

/// The table, unless nothing was ever kept in it, or the file is of a version that knew none.
fn where_made<T>(opened: std::result::Result<T, TableError>) -> Result<Option<T>> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(stored(error.into())),
    }
}

fn checked_get(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<Vec<u8>>> {
    let Some(row) = table.get(key).map_err(|error| stored(error.into()))? else { return Ok(None) };
    let Some(payload) = unsealed(key, row.value()) else {
        let message = "the stored document does not match its digest and is not served";
        return Err(Error::new(ErrorKind::ContentDamaged, message).at(key));
    };
    Ok(Some(payload.to_vec()))
}

/// The digest of key and payload, then the payload: so a row that landed under another key does not hold either.
fn sealed(key: &str, payload: &[u8]) -> Vec<u8> {
    let mut row = digest(key, payload).to_le_bytes().to_vec();
    row.extend_from_slice(payload);
    row
}

fn unsealed<'r>(key: &str, row: &'r [u8]) -> Option<&'r [u8]> {
    let (found, payload) = row.split_first_chunk::<DIGEST_BYTES>()?;
    (u128::from_le_bytes(*found) == digest(key, payload)).then_some(payload)
}

fn digest(key: &str, payload: &[u8]) -> u128 {
    let mut digest = Xxh3Default::new();
    digest.update(key.as_bytes());
    digest.update(&[0]);
    digest.update(payload);
    digest.digest128()
}

/// The row of the user `id` with `value`, made in one piece: the largest have tens of megabytes.
pub(super) fn bookmarks_row(id: &str, value: &impl bincode::Encode) -> Result<Vec<u8>> {
    let mut row = vec![0; DIGEST_BYTES];
    codec::encode_after(&mut row, value)?;
    let (place, payload) = row.split_at_mut(DIGEST_BYTES);
    place.copy_from_slice(&digest(&bookmarks_key(id), payload).to_le_bytes());
    Ok(row)
}

/// What the size of a user's row is sealed with.
fn size_key(id: &str) -> String {
    format!("bookmark_sizes/{id}")
}

/// What the row of a user is sealed with: so that no row of another table holds as one.
fn bookmarks_key(id: &str) -> String {
    format!("bookmarks/{id}")
}

fn no_table() -> Error {
    Error::new(ErrorKind::DiskFailed, "the table of bookmarks is not open")
}

fn line_key(id: u64) -> String {
    format!("outbox/{id}")
}

fn open_file(file: &Path) -> Result<Fenced> {
    let found = std::fs::metadata(file).map_err(|error| failed(file, "cannot be opened", error))?;
    if found.permissions().mode() & 0o077 != 0 {
        let private = std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600));
        private.map_err(|error| failed(file, "cannot be made private", error))?;
    }
    let opened = fenced(|| builder().open(file).map_err(|error| opening(file, error)));
    opened.map(Fenced::new).map_err(|error| {
        match error.kind() {
            // A panic while opening is damage of the file and nothing else.
            ErrorKind::ContentDamaged => not_trusted(file, &error),
            _ => error,
        }
    })
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn opening(file: &Path, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            Error::new(ErrorKind::Locked, "is in use by another process, or still closing in this one")
                .at(file.to_string_lossy())
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            failed(file, "cannot be opened", error)
        }
        other => not_trusted(file, &other),
    }
}

/// The refusal of a file that is there but cannot be relied on, with the ways out.
pub(super) fn not_trusted(file: &Path, why: impl Display) -> Error {
    let message = format!(
        "the content store cannot be trusted ({why}) and was left untouched; to recover, move it away and start again \
         with the built-in content, then import the last export, or put a backup of the file in its place"
    );
    Error::new(ErrorKind::DiskNotTrusted, message).at(file.to_string_lossy())
}

fn failed(file: &Path, what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::DiskFailed, format!("{what}: {error}")).at(file.to_string_lossy()).because(error)
}

fn stored(error: redb::Error) -> Error {
    use redb::Error as E;
    let is_damage = match &error {
        E::Corrupted(_) | E::TableTypeMismatch { .. } | E::TableDoesNotExist(_) => true,
        // A damaged page that names one beyond the end of the file.
        E::Io(error) => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData),
        _ => false,
    };
    if is_damage {
        Error::new(ErrorKind::ContentDamaged, "the content store is damaged").because(error)
    } else {
        Error::new(ErrorKind::DiskFailed, "the content store failed").because(error)
    }
}

fn fenced<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::ContentDamaged, "the content store is damaged").because(BrokenOff))
    })
}

/// redb met bytes it did not expect and panicked.
#[derive(Debug)]
struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reading or writing it broke off")
    }
}

impl std::error::Error for BrokenOff {}

/// Whether the handle itself failed; a single document that does not match its digest leaves it sound.
fn is_handle_lost(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<redb::Error>() || cause.is::<BrokenOff>())
}

const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const OUTBOX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("outbox");
const BOOKMARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bookmarks");
const SIZES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bookmark_sizes");

/// A digest stands before every payload.
const DIGEST_BYTES: usize = 16;

/// What stands in a page before a row, its key included.
const PAGE_HEAD_BYTES: u64 = 2 << 10;

/// The place that an error about the row of a user names; the id is nobody else's business.
pub(super) const BOOKMARKS_PLACE: &str = "the bookmarks of a user";

/// So many damaged documents are named by health; `hifz verify` finds the others.
const MET_MAX: usize = 16;

/// What a content file is called until it is complete.
const BEGUN_FILE: &str = "hifz-content.new";

/// redb's page cache is resident memory; the cache tiers stand in front of this file anyway.
const CACHE_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::content::Store;
    use crate::content::keys::{User, UserHash, UserId, Verse};

    #[test]
    fn the_largest_list_is_known_in_a_file_of_a_version_that_noted_no_sizes() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let store = Store::open(&directory.path().join("content.redb"), clock).unwrap();
        let bookmarks = store.bookmarks();
        let user = |name: &str| User { id: UserId::parse(name).unwrap(), hash: UserHash(1) };
        let one = |ayah: u16| serde_json::json!({"surah": 2, "ayah": ayah, "note": "n".repeat(1000)});
        let list = serde_json::json!({"bookmarks": (1..=286).map(one).collect::<Vec<_>>()}).to_string();
        bookmarks.put_all(&user("large"), list.as_bytes(), None).unwrap();
        bookmarks.put(&user("small"), Verse::parse("2:255").unwrap(), b"{}", None).unwrap();
        let size = bookmarks.size(&user("large").id).unwrap();
        assert!(size.shown_bytes() > 286_000);
        assert_eq!(bookmarks.largest().unwrap(), size);
        let noted = |name: &str| store.database.read(|rows| rows.size(name)).unwrap();
        store
            .database
            .write(|rows| {
                rows.sizes.as_mut().unwrap().remove("large").map(drop).map_err(|error| stored(error.into()))
            })
            .unwrap();
        assert!(noted("large").is_none() && noted("small").is_some());
        assert_eq!(
            (bookmarks.size(&user("large").id).unwrap().shown_bytes(), bookmarks.largest().unwrap()),
            (size.shown_bytes(), bookmarks.size(&user("large").id).unwrap())
        );
        bookmarks.put_all(&user("large"), list.as_bytes(), None).unwrap();
        assert_eq!(noted("large").map(Size::page_bytes), Some(size.look_bytes()));
        bookmarks.delete_all(&user("large"), None).unwrap();
        assert!(noted("large").is_none());
        assert_eq!(bookmarks.largest().unwrap().shown_bytes(), 0);
    }

    #[test]
    fn a_page_that_is_not_there_is_damage_and_a_disk_that_cannot_be_read_is_none() {
        let kind_of = |kind: io::ErrorKind| stored(redb::Error::Io(kind.into())).kind();
        assert_eq!(kind_of(io::ErrorKind::UnexpectedEof), ErrorKind::ContentDamaged);
        assert_eq!(kind_of(io::ErrorKind::InvalidData), ErrorKind::ContentDamaged);
        assert_eq!(kind_of(io::ErrorKind::Other), ErrorKind::DiskFailed);
    }
}
