//! The bookmarks of all users at once: for backups, their import, and the check of every row.
//!
//! Promises: a page of users is in memory at a time; what is exported is imported as it was, dates included; an import
//! replaces the bookmarks of all users, and refuses a file in which anything breaks a rule of bookmarks. Ids stand in
//! the order of the table, so that what is not in a backup is found without remembering what is.

use std::borrow::Cow;
use std::collections::HashSet;

use redb::ReadableTable;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};

use super::Verified;
use super::bookmarks::{BOOKMARKS_BYTES_MAX, BOOKMARKS_MAX, Mark, Shelf, decoded, note, unrendered, verse};
use super::database::{Rows, WriteRows};
use super::date;
use super::keys::UserId;
use super::parse::{self, Bounded, refused};

/// A file of an export.
pub(super) struct Page {
    pub(super) document: Vec<u8>,
    /// How many users are in it.
    pub(super) users: usize,
    /// The last of them; `None` when there is none.
    pub(super) last: Option<String>,
}

impl<D, O> Rows<D, O>
where
    D: ReadableTable<&'static str, &'static [u8]>,
    O: ReadableTable<u64, &'static [u8]>,
{
    /// The bookmarks of the users after `id`, as many as fill a file.
    pub(super) fn export_users(&self, id: &str) -> Result<Page> {
        let mut page = Page { document: b"{\"users\":[".to_vec(), users: 0, last: None };
        while page.document.len() < PAGE_BYTES {
            let after = page.last.as_deref().unwrap_or(id);
            let Some(id) = self.users_after(after, 1)?.pop() else { break };
            if page.users > 0 {
                page.document.push(b',');
            }
            self.bookmarks(&id, |payload| {
                let kept = decoded(payload)?;
                let of_user = OfUser {
                    user: &id,
                    modified_at: &date::show(crate::clock::Timestamp::from_millis(kept.modified_at_ms)),
                    bookmarks: &kept.bookmarks,
                };
                serde_json::to_writer(&mut page.document, &of_user).map_err(unrendered)
            })?;
            (page.users, page.last) = (page.users + 1, Some(id));
        }
        page.document.extend_from_slice(b"]}");
        Ok(page)
    }

    /// Reads the row of every user and checks it. A damaged one is named by its place in the order of ids, because the
    /// id itself is nobody else's business.
    pub(super) fn verify_users(&self) -> Result<Verified> {
        let mut verified = Verified { documents: 0, damaged: Vec::new() };
        let mut after = String::new();
        loop {
            let page = self.users_after(&after, VERIFIED_AT_ONCE)?;
            let Some(last) = page.last() else { return Ok(verified) };
            after.clone_from(last);
            for id in page {
                verified.documents += 1;
                match self.bookmarks(&id, |payload| decoded(payload).map(drop)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ContentDamaged && error.place().is_some() => {
                        verified.damaged.push(format!("bookmarks/{}", verified.documents));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

impl WriteRows<'_> {
    /// Takes a file of an export whose users all come after `last`, which becomes the last of them; what stands between
    /// two of them, and is not in the export, goes. How many users were changed, and how many went.
    pub(super) fn import_users(&mut self, document: Vec<u8>, last: &mut String) -> Result<(usize, usize)> {
        let fields: UsersFields = parse::json_within(&document, BOOKMARKS_BYTES_MAX)?;
        // Not held beside the rows and their pages.
        drop(document);
        let (mut changed, mut removed) = (0, 0);
        for (at, fields) in fields.users.into_iter().enumerate() {
            let place = format!("users[{at}]");
            let id = UserId::parse(&fields.user)
                .map_err(|error| refused(format!("{place}.user"), error.message()))?;
            if id.as_str() <= last.as_str() {
                return Err(refused(format!("{place}.user"), "does not come after the user before it"));
            }
            let kept = fields.shelf(&place)?;
            removed += self.remove_users_between(last, Some(id.as_str()))?;
            id.as_str().clone_into(last);
            let is_same = self.bookmarks(id.as_str(), |payload| {
                let stands = decoded(payload)?;
                Ok((stands.modified_at_ms, &stands.bookmarks) == (kept.modified_at_ms, &kept.bookmarks))
            });
            if !is_same.ok().flatten().unwrap_or(false) {
                let row = kept.row(&id)?;
                drop(kept);
                self.put_bookmarks(id.as_str(), &row)?;
                changed += 1;
            }
        }
        Ok((changed, removed))
    }

    /// Removes what stands after the user `id` and before `end` (without one: to the end); how many users that were.
    pub(super) fn remove_users_between(&mut self, id: &str, end: Option<&str>) -> Result<usize> {
        let mut removed = 0;
        while let Some(next) = self.users_after(id, 1)?.pop() {
            if end.is_some_and(|end| next.as_str() >= end) {
                break;
            }
            self.remove_bookmarks(&next)?;
            removed += 1;
        }
        Ok(removed)
    }
}

#[derive(Serialize)]
struct OfUser<'u> {
    user: &'u str,
    modified_at: &'u str,
    bookmarks: &'u [Mark<'u>],
}

#[derive(Deserialize)]
struct UsersFields {
    users: Vec<UserFields>,
}

#[derive(Deserialize)]
struct UserFields {
    user: String,
    modified_at: String,
    bookmarks: Bounded<KeptFields, BOOKMARKS_MAX>,
}

#[derive(Deserialize)]
struct KeptFields {
    surah: Option<u64>,
    ayah: Option<u64>,
    note: Option<String>,
    created_at: String,
}

impl UserFields {
    fn shelf(self, place: &str) -> Result<Shelf<'static>> {
        let mut bookmarks = Vec::with_capacity(self.bookmarks.0.len());
        let mut seen = HashSet::new();
        for (at, fields) in self.bookmarks.0.into_iter().enumerate() {
            let place = |field: &str| format!("{place}.bookmarks[{at}]{field}");
            let verse = verse(&place, fields.surah, fields.ayah)?;
            if !seen.insert(verse) {
                return Err(refused(place(""), &format!("repeats {verse}")));
            }
            bookmarks.push(Mark {
                surah: verse.surah().get(),
                ayah: verse.ayah(),
                note: note(|| place(".note"), fields.note)?.map(Cow::Owned),
                created_at_ms: dated(&place(".created_at"), &fields.created_at)?,
            });
        }
        let modified_at_ms = dated(&format!("{place}.modified_at"), &self.modified_at)?;
        Ok(Shelf { modified_at_ms, is_second_shared: false, bookmarks })
    }
}

fn dated(place: &str, text: &str) -> Result<u64> {
    let at =
        date::read(text).ok_or_else(|| refused(place, "expected a date such as 2026-11-24T11:48:24.123Z"))?;
    Ok(at.as_millis())
}

/// A file of an export is full from so many bytes on.
pub(super) const PAGE_BYTES: usize = 4 << 20;

/// Ids of users that are held at once.
const VERIFIED_AT_ONCE: usize = 1000;
