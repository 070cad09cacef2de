//! Finding damage and mending what is built in.
//!
//! A damaged document is never served; this puts the built-in text back in its place, and leaves alone what nobody
//! built in: that comes from the last export.

use std::path::Path;

use super::database::{Database, WriteRows};
use super::documents;
use super::facts;
use super::keys;
use super::{Store, outbox};
use crate::clock::Timestamp;
use crate::error::Result;

/// What [`Store::repair`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Documents that have their built-in text again, by the name of their row.
    pub restored: Vec<String>,
    /// Documents that are still damaged: nothing built in can take their place.
    pub left: Vec<String>,
}

impl Store {
    /// Puts the built-in text in the place of every damaged document that has one, and notes what that makes stale for
    /// the cache, all in one transaction.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`](crate::ErrorKind::DiskFailed), or
    /// [`ErrorKind::ContentDamaged`](crate::ErrorKind::ContentDamaged) when the file cannot even be walked.
    pub fn repair(&self) -> Result<Repaired> {
        let damaged = self.verify()?.damaged;
        if damaged.is_empty() {
            return Ok(Repaired::default());
        }
        let now = self.clock.now();
        self.database.write(|rows| {
            let mut repaired = Repaired::default();
            for key in damaged {
                let is_restored = restore(rows, &key, now)?;
                if is_restored { repaired.restored.push(key) } else { repaired.left.push(key) }
            }
            if !repaired.restored.is_empty() {
                // What showed it is not known while it is damaged: everything built in is asked for anew.
                rows.note_change(outbox::namespaces(&keys::NAMESPACES)?)?;
            }
            Ok(repaired)
        })
    }

    /// Checks every page of the content file at `file`, which no open store may use; what is wrong with it, if anything
    /// is.
    ///
    /// # Errors
    /// What opening it reports.
    pub fn verify_pages(file: &Path) -> Result<Option<String>> {
        Database::verify_pages(file)
    }
}

fn restore(rows: &mut WriteRows<'_>, key: &str, now: Timestamp) -> Result<bool> {
    for surah in facts::surahs_with_text()? {
        if documents::surah_row(surah.number) == key {
            rows.put_surah(surah, now)?;
            return Ok(true);
        }
    }
    for reciter in facts::reciters()? {
        if documents::reciter_row(&reciter.id) == key {
            rows.put_reciter(reciter, now)?;
            return Ok(true);
        }
    }
    for translation in facts::translations()? {
        if documents::translation_row(&translation.id) == key {
            rows.put_translation(translation, now)?;
            return Ok(true);
        }
    }
    Ok(false)
}
