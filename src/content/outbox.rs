//! The outbox: what a change of content makes stale, written in the transaction of the change.
//!
//! Promises: a change and its line are on disk together or not at all; a line stays until [`super::Store::change_done`]
//! takes it out; a line that cannot be read stands for everything built in, because forgetting one would leave stale
//! content behind. Knows which keys depend on what; does not know how they are invalidated.

use bincode::{Decode, Encode};
use redb::ReadableTable;

use crate::codec;
use crate::error::Result;
use crate::key::{Key, Namespace};

use super::database::{Rows, WriteRows};
use super::keys::{self, Content, SurahNumber, TranslationId};

/// A change of content that the cache has yet to learn of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Its number; later changes have higher ones.
    pub id: u64,
    /// What it made stale.
    pub targets: Vec<Target>,
}

/// One thing that a change made stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The value under a key.
    Key(Key),
    /// Every value of a namespace.
    Namespace(Namespace),
}

/// The targets of the keys of `contents`.
pub(super) fn targets(contents: impl IntoIterator<Item = Content>) -> Vec<Target> {
    contents.into_iter().map(|content| Target::Key(content.key())).collect()
}

/// The targets of whole namespaces.
pub(super) fn namespaces(names: &[&str]) -> Result<Vec<Target>> {
    names.iter().map(|name| Namespace::parse(*name).map(Target::Namespace)).collect()
}

/// What shows the texts of `translation` for surah `number`; the lists tell whether any text is loaded.
pub(super) fn shows_texts(number: SurahNumber, translation: &TranslationId) -> Vec<Content> {
    let mut shows = shows_translation(translation);
    shows.push(Content::Surah(number, Some(translation.clone())));
    shows
}

/// What shows the description of `translation`.
pub(super) fn shows_translation(translation: &TranslationId) -> Vec<Content> {
    vec![Content::Translations, Content::Translation(translation.clone())]
}

impl<D, O> Rows<D, O>
where
    D: ReadableTable<&'static str, &'static [u8]>,
    O: ReadableTable<u64, &'static [u8]>,
{
    /// What shows surah `number`: the surah alone, beside each translation, and its line in the list.
    pub(super) fn shows_surah(&self, number: SurahNumber) -> Result<Vec<Content>> {
        let mut shows = vec![Content::Surahs, Content::Surah(number, None)];
        // Texts without a description are not served, but may have been a moment ago.
        let mut translations = self.translation_ids()?;
        translations.extend(self.translations_of(number)?);
        translations.sort();
        translations.dedup();
        shows.extend(translations.into_iter().map(|translation| Content::Surah(number, Some(translation))));
        Ok(shows)
    }

    /// The changes not yet done, oldest first.
    pub(super) fn changes(&self) -> Result<Vec<Change>> {
        let lines = self.outbox()?.into_iter();
        let changes = lines.map(|(id, line)| {
            let targets = line.and_then(|line| read_line(&line)).map_or_else(everything, Ok)?;
            Ok(Change { id, targets })
        });
        changes.collect()
    }
}

impl WriteRows<'_> {
    /// Writes a line for a change that made `targets` stale.
    pub(super) fn note_change(&mut self, targets: Vec<Target>) -> Result<Change> {
        let next = self.meta(NEXT_ID)?.map(|bytes| codec::decode::<u64>(&bytes)).transpose()?;
        let id = next.unwrap_or(1);
        self.put_meta(NEXT_ID, &codec::encode(&(id + 1))?)?;
        self.put_line(id, &write_line(&targets)?)?;
        Ok(Change { id, targets })
    }
}

fn write_line(targets: &[Target]) -> Result<Vec<u8>> {
    let (mut line, mut namespaces) = (Line::default(), Vec::new());
    for target in targets {
        match target {
            Target::Key(key) => line.keys.push(key.as_str().to_owned()),
            Target::Namespace(namespace) => namespaces.push(namespace.as_str().to_owned()),
        }
    }
    line.namespaces = namespaces;
    codec::encode(&line)
}

fn read_line(bytes: &[u8]) -> Option<Vec<Target>> {
    let line = codec::decode::<Line>(bytes).ok()?;
    let keys = line.keys.into_iter().map(|key| Key::parse(key).map(Target::Key));
    let namespaces = line.namespaces.into_iter().map(|name| Namespace::parse(name).map(Target::Namespace));
    keys.chain(namespaces).collect::<Result<_>>().ok()
}

fn everything() -> Result<Vec<Target>> {
    namespaces(&keys::NAMESPACES)
}

#[derive(Encode, Decode, Default)]
struct Line {
    keys: Vec<String>,
    namespaces: Vec<String>,
}

/// Where the number of the next line is kept, so that a number is never given twice.
const NEXT_ID: &str = "outbox/next";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_and_a_broken_one_stands_for_everything() {
        let mut all = targets([Content::Surahs, Content::Translations]);
        all.extend(namespaces(&["quran"]).unwrap());
        let line = write_line(&all).unwrap();
        assert_eq!(read_line(&line), Some(all));
        assert_eq!(read_line(&line[..line.len() - 1]), None);
        assert_eq!(everything().unwrap().len(), keys::NAMESPACES.len());
    }
}
