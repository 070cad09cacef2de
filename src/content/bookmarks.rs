//! The bookmarks of users: data, not cache. One document a user, changed as a whole in one transaction.
//!
//! Promises: a change is on disk with its line in the outbox before its call returns; what it depends on is looked at
//! inside the transaction, so that of two changes that were made from one state only one is taken; bad input changes
//! nothing; order is kept, a pair stands once, `created_at` is never taken from outside. The raw id of a user stands in
//! the row's key and nowhere else: no error, no cache key and no log line repeats it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use redb::ReadableTable;
use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

use crate::clock::{Clock, Timestamp};
use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Ask, Load, Loaded, Loading, Source};

use super::Written;
use super::database::{Database, Rows, WriteRows};
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Encode, Decode)]
#[non_exhaustive]
pub struct Bookmark {
    /// 1 to 114.
    pub surah: u8,
    /// Counted from 1 within the surah.
    pub ayah: u16,
    /// What the user wrote beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it was first kept, in milliseconds since the Unix epoch; shown as a date.
    #[serde(rename = "created_at", serialize_with = "as_date")]
    pub created_at_ms: u64,
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
        let kept = self.database.read(|rows| rows.shelf(user))?.unwrap_or_default();
        Ok((BookmarkList { bookmarks: kept.bookmarks }, Timestamp::from_millis(kept.modified_at_ms)))
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
            let before = rows.shelf_or_damaged(&user.id)?;
            check(guard, before.as_ref(), before.is_some())?;
            let made = before.is_none();
            let created: HashMap<_, _> = before
                .iter()
                .flat_map(|shelf| &shelf.bookmarks)
                .map(|own| (own.verse(), own.created_at_ms))
                .collect();
            let bookmarks = asked.into_iter().map(|asked| asked.kept(&created, now)).collect();
            let after = Shelf::after(before.as_ref(), bookmarks, now);
            let body = after.rendered()?;
            Ok(Kept { written: rows.keep(user, &after, made)?, body, modified_at: now })
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
        self.database.write(|rows| {
            let before = rows.shelf(&user.id)?;
            let mut bookmarks = before.as_ref().map(|shelf| shelf.bookmarks.clone()).unwrap_or_default();
            let at = bookmarks.iter().position(|own| own.verse() == asked.verse());
            check(guard, before.as_ref(), at.is_some())?;
            let bookmark = if let Some(own) = at.and_then(|at| bookmarks.get_mut(at)) {
                own.note = asked.note;
                own.clone()
            } else {
                parse::within("bookmarks", bookmarks.len() + 1, BOOKMARKS_MAX)?;
                let bookmark = asked.kept(&HashMap::new(), now);
                bookmarks.push(bookmark.clone());
                bookmark
            };
            let after = Shelf::after(before.as_ref(), bookmarks, now);
            let written = rows.keep(user, &after, at.is_none())?;
            Ok(Kept { written, body: rendered(&bookmark)?, modified_at: now })
        })
    }

    /// Deletes one bookmark of `user`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not there; what `guard` says; [`ErrorKind::ContentDamaged`];
    /// [`ErrorKind::DiskFailed`].
    pub fn delete(&self, user: &User, verse: Verse, guard: Option<Guard<'_>>) -> Result<Change> {
        let now = self.clock.now();
        self.database.write(|rows| {
            let before = rows.shelf(&user.id)?;
            let left = before.as_ref().and_then(|shelf| shelf.without(verse));
            check(guard, before.as_ref(), left.is_some())?;
            let left = left
                .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no bookmark at {verse}")))?;
            let after = Shelf::after(before.as_ref(), left, now);
            Ok(rows.keep(user, &after, false)?.change)
        })
    }

    /// Deletes everything that is kept of `user`, whole or damaged; nothing to do for who has nothing, but the cache is
    /// to forget the user all the same.
    ///
    /// # Errors
    /// What `guard` says; [`ErrorKind::DiskFailed`].
    pub fn delete_all(&self, user: &User, guard: Option<Guard<'_>>) -> Result<Change> {
        self.database.write(|rows| {
            if let Some(guard) = guard {
                let before = rows.shelf_or_damaged(&user.id)?;
                check(Some(guard), before.as_ref(), before.is_some())?;
            }
            rows.remove_bookmarks(user.id.as_str())?;
            rows.note_change(outbox::targets([Content::Bookmarks(user.hash)]))
        })
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
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        // Another key is another user's, or no user's: nothing of this one may ever stand there.
        let is_own = Content::of(ask.key) == Some(Content::Bookmarks(self.user.hash));
        let own = self.clone();
        Box::pin(async move {
            if !is_own {
                return Ok(Load::Absent);
            }
            let (list, modified_at) = blocking::unblock(move || own.bookmarks.list(&own.user.id)).await?;
            let loaded = Loaded::new(rendered(&list)?).content_type("application/json");
            let tag = Content::Bookmarks(self.user.hash).tag();
            Ok(loaded.modified_at(modified_at).tag(tag).into())
        })
    }

    fn name(&self) -> &'static str {
        "bookmarks"
    }
}

/// What is stored of one user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub(super) struct Shelf {
    pub(super) modified_at_ms: u64,
    /// See [`Standing::is_second_shared`].
    pub(super) is_second_shared: bool,
    pub(super) bookmarks: Vec<Bookmark>,
}

impl Shelf {
    /// What follows `before` at `now`.
    fn after(before: Option<&Self>, bookmarks: Vec<Bookmark>, now: Timestamp) -> Self {
        let second = |ms: u64| Timestamp::from_millis(ms).as_secs();
        let is_second_shared =
            before.is_some_and(|before| second(before.modified_at_ms) == second(now.as_millis()));
        Self { modified_at_ms: now.as_millis(), is_second_shared, bookmarks }
    }

    fn without(&self, verse: Verse) -> Option<Vec<Bookmark>> {
        let at = self.bookmarks.iter().position(|own| own.verse() == verse)?;
        let mut left = self.bookmarks.clone();
        left.remove(at);
        Some(left)
    }

    fn rendered(&self) -> Result<Vec<u8>> {
        /// As [`BookmarkList`], borrowed.
        #[derive(Serialize)]
        struct List<'l> {
            bookmarks: &'l [Bookmark],
        }
        rendered(&List { bookmarks: &self.bookmarks })
    }
}

impl Bookmark {
    fn verse(&self) -> Verse {
        Verse::known(self.surah, self.ayah)
    }
}

impl<D, O> Rows<D, O>
where
    D: ReadableTable<&'static str, &'static [u8]>,
    O: ReadableTable<u64, &'static [u8]>,
{
    /// What is stored of `user`.
    pub(super) fn shelf(&self, user: &UserId) -> Result<Option<Shelf>> {
        self.bookmarks(user.as_str())?.map(|payload| decoded(&payload)).transpose()
    }
}

impl WriteRows<'_> {
    /// As [`Rows::shelf`], but what is damaged counts as an empty list: it is about to be replaced.
    fn shelf_or_damaged(&self, user: &UserId) -> Result<Option<Shelf>> {
        match self.shelf(user) {
            Err(error)
                if error.kind() == ErrorKind::ContentDamaged
                    && error.place() == Some(super::database::BOOKMARKS_PLACE) =>
            {
                Ok(Some(Shelf::default()))
            }
            found => found,
        }
    }

    fn keep(&mut self, user: &User, after: &Shelf, made: bool) -> Result<Written> {
        self.put_bookmarks(user.id.as_str(), &codec::encode(after)?)?;
        let change = self.note_change(outbox::targets([Content::Bookmarks(user.hash)]))?;
        Ok(Written { made, change })
    }
}

/// Checks that `payload` decodes as what is stored of a user.
pub(super) fn decoded(payload: &[u8]) -> Result<Shelf> {
    codec::decode(payload).map_err(|error| {
        Error::new(ErrorKind::ContentDamaged, "the stored bookmarks cannot be decoded and are not served")
            .at(super::database::BOOKMARKS_PLACE)
            .because(error)
    })
}

fn check(guard: Option<Guard<'_>>, before: Option<&Shelf>, is_there: bool) -> Result<()> {
    let Some(guard) = guard else { return Ok(()) };
    let none = Shelf::default();
    let shelf = before.unwrap_or(&none);
    guard(&Standing {
        is_there,
        digest: xxh3_128(&shelf.rendered()?),
        modified_at: Timestamp::from_millis(shelf.modified_at_ms),
        is_second_shared: shelf.is_second_shared,
    })
}

fn rendered<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|error| {
        Error::new(ErrorKind::ContentDamaged, "the bookmarks cannot be rendered").because(error)
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn as_date<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&date::show(Timestamp::from_millis(*at_ms)))
}

/// A bookmark as it was handed in, checked.
struct Asked {
    verse: Verse,
    note: Option<String>,
}

impl Asked {
    fn verse(&self) -> Verse {
        self.verse
    }

    fn kept(self, created: &HashMap<Verse, u64>, now: Timestamp) -> Bookmark {
        Bookmark {
            surah: self.verse.surah().get(),
            ayah: self.verse.ayah(),
            note: self.note,
            created_at_ms: created.get(&self.verse).copied().unwrap_or(now.as_millis()),
        }
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

/// The largest document of one bookmark: a note of which every character is escaped, and what else a client sends.
const NOTE_DOCUMENT_BYTES_MAX: usize = 64 << 10;
