//! The bookmarks of users: data, not cache. One document a user, changed as a whole in one transaction.
//!
//! Promises: a change is on disk with its line in the outbox before its call returns; what it depends on is looked at
//! inside the transaction, so that of two changes that were made from one state only one is taken; bad input changes
//! nothing; order is kept, a pair stands once, `created_at` is never taken from outside. The raw id of a user stands in
//! the row's key and nowhere else: no error, no cache key and no log line repeats it.
//!
//! The largest lists have tens of megabytes, so what is stored is read where it stands in the file's page, and what is
//! stored or shown is written in one piece: no list is in memory as a whole twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use bincode::{BorrowDecode, Encode};
use redb::ReadableTable;
use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3Default;

use crate::clock::{Clock, Timestamp};
use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::source::{Ask, Load, Loaded, Loading, Source, Weighing, Weight};

use super::Written;
use super::database::{BookmarksRow, Database, Rows, Size, WriteRows, bookmarks_row};
use super::date;
use super::facts;
use super::keys::{self, Content, User, UserId, Verse};
use super::outbox::{self, Change};
use super::parse::{self, Bounded, refused};

/// The bookmarks of all users.
#[derive(Clone)]
pub struct Bookmarks {
    database: Arc<Database>,
    clock: Clock,
}

/// One bookmark.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bookmark {
    /// 1 to 114.
    pub surah: u8,
    /// Counted from 1 within the surah.
    pub ayah: u16,
    /// What the user wrote beside it.
    pub note: Option<String>,
    /// When it was first kept, in milliseconds since the Unix epoch; shown as a date.
    pub created_at_ms: u64,
}

impl Serialize for Bookmark {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let note = self.note.as_deref().map(Cow::Borrowed);
        Mark { surah: self.surah, ayah: self.ayah, note, created_at_ms: self.created_at_ms }
            .serialize(serializer)
    }
}

/// The bookmarks of one user, in the user's order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct BookmarkList {
    /// As the user ordered them.
    pub bookmarks: Vec<Bookmark>,
}

/// What stands before a change, for whoever makes the change depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Standing {
    /// Whether what is to be changed is there: the list, or the one bookmark.
    pub is_there: bool,
    /// The digest of the rendered list.
    pub digest: u128,
    /// When the list last changed; the epoch when there never was one.
    pub modified_at: Timestamp,
    /// Whether it changed more than once within that second, so that a date to the second names no one state.
    pub is_second_shared: bool,
}

/// Lets a change pass, or says why not.
pub type Guard<'g> = &'g dyn Fn(&Standing) -> Result<()>;

/// What stands after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// Whether it was made, and what became stale.
    pub written: Written,
    /// The changed resource, rendered: the list, or the one bookmark.
    pub body: Vec<u8>,
    /// When the list last changed.
    pub modified_at: Timestamp,
}

impl Bookmarks {
    pub(super) fn new(database: Arc<Database>, clock: Clock) -> Self {
        Self { database, clock }
    }

    /// The bookmarks of `user` as a source for the cache: a list also for a user who never had any.
    #[must_use]
    pub fn of(&self, user: User) -> BookmarksOf {
        BookmarksOf { bookmarks: self.clone(), user }
    }

    /// The bookmarks of `user`, and when they last changed; an empty list at the epoch for who never had any.
    ///
    /// # Errors
    /// [`ErrorKind::ContentDamaged`]; [`ErrorKind::DiskFailed`].
    pub fn list(&self, user: &UserId) -> Result<(BookmarkList, Timestamp)> {
        let read = |shelf: Shelf<'_>| Ok((shelf.owned(), shelf.modified_at()));
        let kept = self.database.read(|rows| rows.shelf(user, read))?;
        Ok(kept.unwrap_or_else(|| (BookmarkList::default(), Timestamp::from_millis(0))))
    }

    /// How much memory working on the list of `user` takes; nothing for a small one, since nobody need make room for it.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`].
    pub fn size(&self, user: &UserId) -> Result<ListSize> {
        let size = self.database.read(|rows| rows.size(user.as_str()))?;
        Ok(ListSize(match size {
            Some(size) => size,
            None => self.measured(user.as_str())?,
        }))
    }

    /// The size of a list of which it is not noted.
    fn measured(&self, user: &str) -> Result<Size> {
        let _one = self.database.weighing.lock();
        let measured = self.database.read(|rows| {
            rows.bookmarks(user, |payload| {
                Ok(Size { stored_bytes: payload.len() as u64, shown_bytes: decoded(payload)?.shown_bytes()? })
            })
        });
        match measured {
            // It is not served, and may be replaced.
            Err(error) if error.kind() == ErrorKind::ContentDamaged => Ok(Size::default()),
            measured => Ok(measured?.unwrap_or_default()),
        }
    }

    /// As [`Bookmarks::size`], of the largest list of all users.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`].
    pub fn largest(&self) -> Result<ListSize> {
        let (noted, are_all_noted) =
            self.database.read(|rows| Ok((rows.largest()?, rows.are_all_sizes_noted()?)))?;
        Ok(ListSize(if are_all_noted { noted } else { noted.max(self.largest_measured()?) }))
    }

    /// The largest of those of which the size is not noted.
    fn largest_measured(&self) -> Result<Size> {
        let (mut largest, mut after) = (Size::default(), String::new());
        loop {
            // Under the lock, since each page is looked into on the way.
            let one = self.database.weighing.lock();
            let users = self.database.read(|rows| rows.users_after(&after, WEIGHED_AT_ONCE))?;
            drop(one);
            let Some(last) = users.last() else { return Ok(largest) };
            after.clone_from(last);
            for user in users {
                if self.database.read(|rows| rows.size(&user))?.is_none() {
                    largest = largest.max(self.measured(&user)?);
                }
            }
        }
    }

    /// The list of `user` as it is shown, and when it last changed.
    fn shown(&self, user: &UserId) -> Result<(Vec<u8>, Timestamp)> {
        let show = |shelf: Shelf<'_>| Ok((shelf.rendered()?, shelf.modified_at()));
        let kept = self.database.read(|rows| rows.shelf(user, show))?;
        kept.map_or_else(|| show(Shelf::default()), Ok)
    }

    /// Replaces the list of `user` by that of a JSON document. A bookmark that was there keeps its `created_at`.
    ///
    /// # Errors
    /// [`ErrorKind::DocumentInvalid`] with the field as its place, or [`ErrorKind::DocumentTooLarge`]; what `guard`
    /// says; [`ErrorKind::DiskFailed`].
    pub fn put_all(&self, user: &User, document: &[u8], guard: Option<Guard<'_>>) -> Result<Kept> {
        let asked = parsed_list(document)?;
        let now = self.clock.now();
        self.database.write(|rows| {
            let before = rows.shelf_or_damaged(&user.id, |shelf| {
                check(guard, Some(&shelf), true)?;
                let created = shelf.bookmarks.iter().map(|own| (own.verse(), own.created_at_ms)).collect();
                Ok((shelf.modified_at(), created))
            })?;
            let made = before.is_none();
            if made {
                check(guard, None, false)?;
            }
            let (modified_at, created) =
                before.map_or_else(Default::default, |(at, created)| (Some(at), created));
            let bookmarks = asked.into_iter().map(|asked| asked.kept(&created, now)).collect();
            let after = Shelf::after(modified_at, bookmarks, now);
            let body = after.rendered()?;
            let row = after.row(&user.id)?;
            // Not held beside the pages of the file.
            drop(after);
            let written = rows.keep(user, &row, made)?;
            Ok(Kept { written, body, modified_at: now })
        })
    }

    /// Keeps one bookmark of `user`, with the note of a JSON document (empty: none): at its place when it is there,
    /// else at the end.
    ///
    /// # Errors
    /// As [`Bookmarks::put_all`]; [`ErrorKind::DocumentInvalid`] also when [`BOOKMARKS_MAX`] are kept already.
    pub fn put(&self, user: &User, verse: Verse, document: &[u8], guard: Option<Guard<'_>>) -> Result<Kept> {
        let asked = parsed_one(verse, document)?;
        let now = self.clock.now();
        let change = |mut shelf: Shelf<'_>, is_kept: bool| {
            let at = shelf.bookmarks.iter().position(|own| own.verse() == asked.verse);
            check(guard, Some(&shelf), at.is_some())?;
            let note = asked.note.clone().map(Cow::Owned);
            let bookmark = if let Some(own) = at.and_then(|at| shelf.bookmarks.get_mut(at)) {
                own.note = note;
                own.clone()
            } else {
                parse::within("bookmarks", shelf.bookmarks.len() + 1, BOOKMARKS_MAX)?;
                let bookmark = Mark { note, ..Mark::of(asked.verse, now) };
                shelf.bookmarks.push(bookmark.clone());
                bookmark
            };
            let body = rendered(&bookmark)?;
            let before = is_kept.then(|| shelf.modified_at());
            let row = Shelf::after(before, shelf.bookmarks, now).row(&user.id)?;
            Ok((row, body, at.is_none()))
        };
        self.database.write(|rows| {
            let changed = rows.shelf(&user.id, |shelf| change(shelf, true))?;
            let (row, body, made) = changed.map_or_else(|| change(Shelf::default(), false), Ok)?;
            Ok(Kept { written: rows.keep(user, &row, made)?, body, modified_at: now })
        })
    }

    /// Deletes one bookmark of `user`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not there; what `guard` says; [`ErrorKind::ContentDamaged`];
    /// [`ErrorKind::DiskFailed`].
    pub fn delete(&self, user: &User, verse: Verse, guard: Option<Guard<'_>>) -> Result<Change> {
        let now = self.clock.now();
        let change = |mut shelf: Shelf<'_>| {
            let at = shelf.bookmarks.iter().position(|own| own.verse() == verse);
            check(guard, Some(&shelf), at.is_some())?;
            let Some(at) = at else { return Ok(None) };
            shelf.bookmarks.remove(at);
            let before = Some(shelf.modified_at());
            Shelf::after(before, shelf.bookmarks, now).row(&user.id).map(Some)
        };
        self.database.write(|rows| {
            let left = rows.shelf(&user.id, change)?;
            let row = left.map_or_else(|| check(guard, None, false).map(|()| None), Ok)?;
            let row = row
                .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no bookmark at {verse}")))?;
            Ok(rows.keep(user, &row, false)?.change)
        })
    }

    /// Deletes everything that is kept of `user`, whole or damaged; nothing to do for who has nothing, but the cache is
    /// to forget the user all the same.
    ///
    /// # Errors
    /// What `guard` says; [`ErrorKind::DiskFailed`].
    pub fn delete_all(&self, user: &User, guard: Option<Guard<'_>>) -> Result<Change> {
        self.database.write(|rows| {
            if guard.is_some() {
                let stands = rows.shelf_or_damaged(&user.id, |shelf| check(guard, Some(&shelf), true))?;
                stands.map_or_else(|| check(guard, None, false), Ok)?;
            }
            rows.remove_bookmarks(user.id.as_str())?;
            rows.note_change(outbox::targets([Content::Bookmarks(user.hash)]))
        })
    }
}

/// How much memory working on one list takes: its page of the file may have twice its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListSize(Size);

impl ListSize {
    /// To look at it.
    #[must_use]
    pub fn look_bytes(self) -> u64 {
        self.unless_small(self.0.page_bytes())
    }

    /// The list as it is shown.
    #[must_use]
    pub fn shown_bytes(self) -> u64 {
        self.unless_small(self.0.shown_bytes)
    }

    /// To change one bookmark in it: the new row, then its page and that of the old one beside.
    #[must_use]
    pub fn change_bytes(self) -> u64 {
        let stored_bytes = self.0.stored_bytes + ONE_BYTES_MAX;
        let after = Size { stored_bytes, ..self.0 };
        self.unless_small(stored_bytes + self.0.page_bytes() + after.page_bytes())
    }

    fn unless_small(self, bytes: u64) -> u64 {
        if self.0.stored_bytes.max(self.0.shown_bytes) < LARGE_BYTES_MIN { 0 } else { bytes }
    }
}

impl fmt::Debug for Bookmarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bookmarks").finish_non_exhaustive()
    }
}

/// The bookmarks of one user, as a source of the one key they are cached under.
#[derive(Debug, Clone)]
pub struct BookmarksOf {
    bookmarks: Bookmarks,
    user: User,
}

impl BookmarksOf {
    /// The key they are cached under.
    #[must_use]
    pub fn key(&self) -> crate::Key {
        keys::bookmarks(self.user.hash)
    }
}

impl Source for BookmarksOf {
    fn weigh<'l>(&'l self, _: KeyRef<'l>) -> Weighing<'l> {
        let own = self.clone();
        Box::pin(async move {
            let size = blocking::unblock(move || own.bookmarks.size(&own.user.id)).await?;
            Ok(Weight::of(size.shown_bytes()).making(size.look_bytes()))
        })
    }

    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        // Another key is another user's, or no user's: nothing of this one may ever stand there.
        let is_own = Content::of(ask.key) == Some(Content::Bookmarks(self.user.hash));
        let own = self.clone();
        Box::pin(async move {
            if !is_own {
                return Ok(Load::Absent);
            }
            // A list is megabytes at its largest, and reading one cannot be broken off.
            let held = ask.hold_room().await;
            let reading = blocking::unblock(move || {
                let _held = held;
                own.bookmarks.shown(&own.user.id)
            });
            let (body, modified_at) = reading.await?;
            let loaded = Loaded::new(body).content_type("application/json");
            let tag = Content::Bookmarks(self.user.hash).tag();
            Ok(loaded.modified_at(modified_at).tag(tag).into())
        })
    }

    fn name(&self) -> &'static str {
        "bookmarks"
    }
}

/// What is stored of one user, read where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, BorrowDecode)]
pub(super) struct Shelf<'p> {
    pub(super) modified_at_ms: u64,
    /// See [`Standing::is_second_shared`].
    pub(super) is_second_shared: bool,
    pub(super) bookmarks: Vec<Mark<'p>>,
}

/// One bookmark of a shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Encode, BorrowDecode)]
pub(super) struct Mark<'p> {
    pub(super) surah: u8,
    pub(super) ayah: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<Cow<'p, str>>,
    #[serde(rename = "created_at", serialize_with = "as_date")]
    pub(super) created_at_ms: u64,
}

impl<'p> Shelf<'p> {
    /// What follows at `now` what last changed at `before`.
    fn after(before: Option<Timestamp>, bookmarks: Vec<Mark<'p>>, now: Timestamp) -> Self {
        let is_second_shared = before.is_some_and(|before| before.as_secs() == now.as_secs());
        Self { modified_at_ms: now.as_millis(), is_second_shared, bookmarks }
    }

    fn modified_at(&self) -> Timestamp {
        Timestamp::from_millis(self.modified_at_ms)
    }

    /// As it is stored for `user`.
    pub(super) fn row(&self, user: &UserId) -> Result<BookmarksRow> {
        Ok(BookmarksRow { bytes: bookmarks_row(user.as_str(), self)?, shown_bytes: self.shown_bytes()? })
    }

    fn rendered(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        self.render(&mut body)?;
        Ok(body)
    }

    /// How long it is as it is shown.
    fn shown_bytes(&self) -> Result<u64> {
        let mut shown = Counted(0);
        self.render(&mut shown)?;
        Ok(shown.0)
    }

    /// Writes the list as it is shown.
    fn render(&self, out: impl io::Write) -> Result<()> {
        /// As [`BookmarkList`], borrowed.
        #[derive(Serialize)]
        struct List<'l> {
            bookmarks: &'l [Mark<'l>],
        }
        serde_json::to_writer(out, &List { bookmarks: &self.bookmarks }).map_err(unrendered)
    }

    fn owned(&self) -> BookmarkList {
        let owned = |mark: &Mark<'_>| Bookmark {
            surah: mark.surah,
            ayah: mark.ayah,
            note: mark.note.as_deref().map(str::to_owned),
            created_at_ms: mark.created_at_ms,
        };
        BookmarkList { bookmarks: self.bookmarks.iter().map(owned).collect() }
    }
}

impl Mark<'_> {
    fn of(verse: Verse, now: Timestamp) -> Self {
        let (surah, ayah) = (verse.surah().get(), verse.ayah());
        Self { surah, ayah, note: None, created_at_ms: now.as_millis() }
    }

    fn verse(&self) -> Verse {
        Verse::known(self.surah, self.ayah)
    }
}

impl<D, O> Rows<D, O>
where
    D: ReadableTable<&'static str, &'static [u8]>,
    O: ReadableTable<u64, &'static [u8]>,
{
    /// What `read` makes of what is stored of `user`, where anything is.
    fn shelf<T>(&self, user: &UserId, read: impl FnOnce(Shelf<'_>) -> Result<T>) -> Result<Option<T>> {
        self.bookmarks(user.as_str(), |payload| read(decoded(payload)?))
    }
}

impl WriteRows<'_> {
    /// As [`Rows::shelf`], but what is damaged counts as an empty list: it is about to be replaced.
    fn shelf_or_damaged<T>(&self, user: &UserId, read: impl Fn(Shelf<'_>) -> Result<T>) -> Result<Option<T>> {
        match self.shelf(user, &read) {
            Err(error)
                if error.kind() == ErrorKind::ContentDamaged
                    && error.place() == Some(super::database::BOOKMARKS_PLACE) =>
            {
                read(Shelf::default()).map(Some)
            }
            found => found,
        }
    }

    fn keep(&mut self, user: &User, row: &BookmarksRow, made: bool) -> Result<Written> {
        self.put_bookmarks(user.id.as_str(), row)?;
        let change = self.note_change(outbox::targets([Content::Bookmarks(user.hash)]))?;
        Ok(Written { made, change })
    }
}

/// `payload` as what is stored of a user.
pub(super) fn decoded(payload: &[u8]) -> Result<Shelf<'_>> {
    codec::decode(payload).map_err(|error| {
        Error::new(ErrorKind::ContentDamaged, "the stored bookmarks cannot be decoded and are not served")
            .at(super::database::BOOKMARKS_PLACE)
            .because(error)
    })
}

fn check(guard: Option<Guard<'_>>, before: Option<&Shelf<'_>>, is_there: bool) -> Result<()> {
    let Some(guard) = guard else { return Ok(()) };
    let none = Shelf::default();
    let shelf = before.unwrap_or(&none);
    let mut shown = Digested(Xxh3Default::new());
    shelf.render(&mut shown)?;
    guard(&Standing {
        is_there,
        digest: shown.0.digest128(),
        modified_at: shelf.modified_at(),
        is_second_shared: shelf.is_second_shared,
    })
}

fn rendered<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(unrendered)
}

pub(super) fn unrendered(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::ContentDamaged, "the bookmarks cannot be rendered").because(error)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn as_date<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&date::show(Timestamp::from_millis(*at_ms)))
}

/// Counts what is written.
struct Counted(u64);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the digest of what is written.
struct Digested(Xxh3Default);

impl io::Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A bookmark as it was handed in, checked.
struct Asked {
    verse: Verse,
    note: Option<String>,
}

impl Asked {
    fn kept(self, created: &HashMap<Verse, u64>, now: Timestamp) -> Mark<'static> {
        let mark = Mark::of(self.verse, now);
        let created_at_ms = created.get(&self.verse).copied().unwrap_or(mark.created_at_ms);
        Mark { note: self.note.map(Cow::Owned), created_at_ms, ..mark }
    }
}

fn parsed_list(document: &[u8]) -> Result<Vec<Asked>> {
    let fields: ListFields = parse::object_within(document, BOOKMARKS_BYTES_MAX)?;
    let Bounded(fields) = fields.bookmarks.ok_or_else(|| refused("bookmarks", "is missing"))?;
    let mut places = HashMap::new();
    let checked = fields.into_iter().enumerate().map(|(at, fields)| {
        let place = |field: &str| format!("bookmarks[{at}]{field}");
        let verse = verse(&place, fields.surah, fields.ayah)?;
        if let Some(first) = places.insert(verse, at) {
            return Err(refused(place(""), &format!("repeats {verse}, which stands at bookmarks[{first}]")));
        }
        Ok(Asked { verse, note: note(|| place(".note"), fields.note)? })
    });
    checked.collect()
}

fn parsed_one(verse: Verse, document: &[u8]) -> Result<Asked> {
    let text = document.trim_ascii();
    let fields: BookmarkFields = if text.is_empty() {
        BookmarkFields::default()
    } else {
        parse::object_within(text, NOTE_DOCUMENT_BYTES_MAX)?
    };
    for (field, found, own) in [
        ("surah", fields.surah, u64::from(verse.surah().get())),
        ("ayah", fields.ayah, u64::from(verse.ayah())),
    ] {
        if let Some(found) = found.filter(|found| *found != own) {
            return Err(refused(field, &format!("expected {own} as in the path, got {found}")));
        }
    }
    check_ayah("ayah", verse)?;
    Ok(Asked { verse, note: note(|| "note".to_owned(), fields.note)? })
}

pub(super) fn verse(place: &impl Fn(&str) -> String, surah: Option<u64>, ayah: Option<u64>) -> Result<Verse> {
    let surah = surah.ok_or_else(|| refused(place(".surah"), "is missing"))?;
    let ayah = ayah.ok_or_else(|| refused(place(".ayah"), "is missing"))?;
    let number = keys::SurahNumber::new(surah)
        .map_err(|_| refused(place(".surah"), &format!("expected 1 to 114, got {surah}")))?;
    let verse = u16::try_from(ayah).ok().map(|ayah| Verse::new(number, ayah));
    let most = facts::ayah_count(number)?;
    match verse.filter(|verse| (1..=most).contains(&verse.ayah())) {
        Some(verse) => Ok(verse),
        None => Err(refused(place(".ayah"), &format!("expected 1 to {most} in surah {number}, got {ayah}"))),
    }
}

fn check_ayah(place: &str, verse: Verse) -> Result<()> {
    let most = facts::ayah_count(verse.surah())?;
    if (1..=most).contains(&verse.ayah()) {
        return Ok(());
    }
    Err(refused(place, &format!("expected 1 to {most} in surah {}, got {}", verse.surah(), verse.ayah())))
}

pub(super) fn note(place: impl Fn() -> String, note: Option<String>) -> Result<Option<String>> {
    let Some(text) = note else { return Ok(None) };
    let count = text.chars().count();
    if count > NOTE_CHARS_MAX {
        return Err(refused(place(), &format!("has {count} characters, the most is {NOTE_CHARS_MAX}")));
    }
    if text.contains('\0') {
        return Err(refused(place(), "contains a NUL character"));
    }
    Ok(Some(text))
}

// As in parse.rs: what is missing is told from here, with its name as the place.

#[derive(Deserialize)]
struct ListFields {
    bookmarks: Option<Bounded<BookmarkFields, BOOKMARKS_MAX>>,
}

#[derive(Deserialize, Default)]
struct BookmarkFields {
    surah: Option<u64>,
    ayah: Option<u64>,
    note: Option<String>,
}

/// The most bookmarks of one user.
pub const BOOKMARKS_MAX: usize = 10_000;

/// The longest note, in characters.
pub const NOTE_CHARS_MAX: usize = 1000;

/// The largest list that is read, in bytes; 10 000 notes of 1000 four-byte characters come to 41 MB.
pub const BOOKMARKS_BYTES_MAX: usize = 64 << 20;

/// Ids of users that are held at once.
const WEIGHED_AT_ONCE: usize = 1000;

/// A list of fewer bytes is small beside everything else that a request takes.
const LARGE_BYTES_MIN: u64 = 128 << 10;

/// What one more bookmark adds to a row at most.
const ONE_BYTES_MAX: u64 = 8 << 10;

/// The largest document of one bookmark: a note of which every character is escaped, and what else a client sends.
const NOTE_DOCUMENT_BYTES_MAX: usize = 64 << 10;
