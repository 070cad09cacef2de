//! The beginning of a content file: what a new one is filled with, and whether an old one is of a format known here.
//!
//! Promises: a file is filled once, when it is made, so that what was deleted since stays deleted.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::clock::Timestamp;
use crate::codec;
use crate::error::{Error, ErrorKind, Result};

use super::database::{ReadRows, WriteRows};
use super::facts;

/// Fills a new file with the built-in content.
pub(super) fn fill(rows: &mut WriteRows<'_>, now: Timestamp) -> Result<()> {
    for surah in facts::surahs_with_text()? {
        rows.put_surah(surah, now)?;
    }
    for reciter in facts::reciters()? {
        rows.put_reciter(reciter, now)?;
    }
    for translation in facts::translations()? {
        rows.put_translation(translation, now)?;
    }
    let id = [0_u64; 2].map(|_| RandomState::new().build_hasher().finish());
    rows.put_meta(STORE_ID, &codec::encode(&id)?)?;
    rows.put_meta(FORMAT_KEY, &codec::encode(&FORMAT)?)
}

/// Checks that the file is one this version reads.
pub(super) fn check_format(rows: &ReadRows) -> Result<()> {
    let damaged = |why: String| Error::new(ErrorKind::ContentDamaged, why);
    let format = rows.meta(FORMAT_KEY)?.ok_or_else(|| damaged("it names no format".into()))?;
    match codec::decode::<u32>(&format)? {
        FORMAT => Ok(()),
        newer if newer > FORMAT => Err(damaged(format!(
            "it has format {newer}, made by a newer version; this one reads up to {FORMAT}"
        ))),
        other => Err(damaged(format!("it has format {other}, which no version wrote"))),
    }
}

/// The format of the file as a whole: which tables and rows there are. A later version migrates an older one here.
const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "format";
const STORE_ID: &str = "store_id";
