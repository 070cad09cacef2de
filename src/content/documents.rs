//! The typed rows of the content store: which document stands under which row key, and how it is encoded.
//!
//! Row keys: `surah/{001}`, `texts/{001}/{translation}`, `reciter/{id}`, `translation/{id}`. Each payload is the time of
//! the last change and the document, through [`crate::codec`]. Promises: writing what is there already changes nothing,
//! not even the time; a row that cannot be decoded is [`ErrorKind::ContentDamaged`] and may be written over.

use bincode::{BorrowDecode, Decode, Encode};
use redb::ReadableTable;

use crate::clock::Timestamp;
use crate::codec;
use crate::error::{Error, ErrorKind, Result};

use super::database::{Rows, WriteRows};
use super::keys::{ReciterId, SurahNumber, TranslationId};
use super::model::{Direction, Reciter, Revelation, Surah, Translation, TranslationFacts};

/// What writing a document did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// There was none before.
    Made,
    /// There was another one before.
    Changed,
    /// It was there already.
    Same,
}

/// A list whose time of change is kept on its own, because a document that is gone has none.
#[derive(Debug, Clone, Copy)]
pub(super) enum List {
    Surahs,
    Reciters,
    Translations,
}

impl List {
    fn meta_key(self) -> &'static str {
        match self {
            Self::Surahs => "modified/surahs",
            Self::Reciters => "modified/reciters",
            Self::Translations => "modified/translations",
        }
    }
}

/// What can be decoded from a row.
trait RecordDecode: for<'b> BorrowDecode<'b, ()> {}

impl<R: for<'b> BorrowDecode<'b, ()>> RecordDecode for R {}

/// A document with the time of its last change.
pub(super) type Dated<T> = (T, Timestamp);

impl<D, O> Rows<D, O>
where
    D: ReadableTable<&'static str, &'static [u8]>,
    O: ReadableTable<u64, &'static [u8]>,
{
    /// Surah `number`.
    pub(super) fn surah(&self, number: SurahNumber) -> Result<Option<Dated<Surah>>> {
        let found = self.record::<SurahRecord>(&surah_row(number))?;
        Ok(found.map(|(record, at)| (record.into_surah(number), at)))
    }

    /// Every surah there is, by number.
    pub(super) fn surahs(&self) -> Result<Vec<Surah>> {
        let mut surahs = Vec::new();
        for number in SurahNumber::all() {
            surahs.extend(self.surah(number)?.map(|(surah, _)| surah));
        }
        Ok(surahs)
    }

    /// The texts of `translation` for surah `number`.
    pub(super) fn texts(
        &self,
        number: SurahNumber,
        translation: &TranslationId,
    ) -> Result<Option<Dated<Vec<String>>>> {
        self.record(&texts_row(number, translation))
    }

    /// Which translations have texts for surah `number`.
    pub(super) fn translations_of(&self, number: SurahNumber) -> Result<Vec<TranslationId>> {
        ids(&self.keys(&texts_prefix(number))?, &texts_prefix(number), TranslationId::parse)
    }

    /// One reciter.
    pub(super) fn reciter(&self, id: &ReciterId) -> Result<Option<Dated<Reciter>>> {
        let found = self.record::<ReciterRecord>(&reciter_row(id))?;
        Ok(found.map(|(record, at)| (record.into_reciter(id.clone()), at)))
    }

    /// The ids of all reciters, in order.
    pub(super) fn reciter_ids(&self) -> Result<Vec<ReciterId>> {
        ids(&self.keys(RECITER)?, RECITER, ReciterId::parse)
    }

    /// Every reciter, by id.
    pub(super) fn reciters(&self) -> Result<Vec<Reciter>> {
        let mut reciters = Vec::new();
        for id in self.reciter_ids()? {
            reciters.extend(self.reciter(&id)?.map(|(reciter, _)| reciter));
        }
        Ok(reciters)
    }

    /// One translation.
    pub(super) fn translation(&self, id: &TranslationId) -> Result<Option<Dated<Translation>>> {
        let Some((record, at)) = self.record::<TranslationRecord>(&translation_row(id))? else {
            return Ok(None);
        };
        let available = self.is_available(id)?;
        Ok(Some((Translation { facts: record.into_facts(id.clone()), available }, at)))
    }

    /// The ids of all translations, in order.
    pub(super) fn translation_ids(&self) -> Result<Vec<TranslationId>> {
        ids(&self.keys(TRANSLATION)?, TRANSLATION, TranslationId::parse)
    }

    /// Every translation, by id.
    pub(super) fn translations(&self) -> Result<Vec<Translation>> {
        let mut translations = Vec::new();
        for id in self.translation_ids()? {
            translations.extend(self.translation(&id)?.map(|(translation, _)| translation));
        }
        Ok(translations)
    }

    /// Whether translation `id` is known, loaded or not.
    pub(super) fn has_translation(&self, id: &TranslationId) -> Result<bool> {
        self.has(&translation_row(id))
    }

    /// When `list` last changed.
    pub(super) fn modified(&self, list: List) -> Result<Timestamp> {
        let found = self.meta(list.meta_key())?;
        let millis = found.map(|bytes| codec::decode::<u64>(&bytes)).transpose()?;
        Ok(Timestamp::from_millis(millis.unwrap_or_default()))
    }

    /// Whether any text of translation `id` is loaded.
    fn is_available(&self, id: &TranslationId) -> Result<bool> {
        for number in SurahNumber::all() {
            if self.has(&texts_row(number, id))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn record<R: RecordDecode>(&self, key: &str) -> Result<Option<Dated<R>>> {
        let Some(payload) = self.get(key)? else { return Ok(None) };
        let (at_ms, record) = decoded::<R>(key, &payload)?;
        Ok(Some((record, Timestamp::from_millis(at_ms))))
    }
}

impl WriteRows<'_> {
    /// Stores a surah.
    pub(super) fn put_surah(&mut self, surah: Surah, now: Timestamp) -> Result<Put> {
        let key = surah_row(surah.number);
        let put = self.put_record(&key, &SurahRecord::from(surah), now)?;
        self.touch(List::Surahs, put, now)
    }

    /// Stores the texts of a translation of one surah.
    pub(super) fn put_texts(
        &mut self,
        number: SurahNumber,
        translation: &TranslationId,
        texts: &Vec<String>,
        now: Timestamp,
    ) -> Result<Put> {
        let put = self.put_record(&texts_row(number, translation), texts, now)?;
        // The list says whether any text is loaded.
        self.touch(List::Translations, put, now)
    }

    /// Stores a reciter.
    pub(super) fn put_reciter(&mut self, reciter: Reciter, now: Timestamp) -> Result<Put> {
        let key = reciter_row(&reciter.id);
        let put = self.put_record(&key, &ReciterRecord::from(reciter), now)?;
        self.touch(List::Reciters, put, now)
    }

    /// Stores what is known of a translation.
    pub(super) fn put_translation(&mut self, facts: TranslationFacts, now: Timestamp) -> Result<Put> {
        let key = translation_row(&facts.id);
        let put = self.put_record(&key, &TranslationRecord::from(facts), now)?;
        self.touch(List::Translations, put, now)
    }

    /// Removes a surah with its translations' texts, and says whether it was there.
    pub(super) fn remove_surah(&mut self, number: SurahNumber, now: Timestamp) -> Result<bool> {
        for key in self.keys(&texts_prefix(number))? {
            self.remove(&key)?;
            self.touch(List::Translations, Put::Changed, now)?;
        }
        let found = self.remove(&surah_row(number))?;
        self.touch_if(found, List::Surahs, now)
    }

    /// Removes the texts of a translation of one surah, and says whether they were there.
    pub(super) fn remove_texts(
        &mut self,
        number: SurahNumber,
        translation: &TranslationId,
        now: Timestamp,
    ) -> Result<bool> {
        let found = self.remove(&texts_row(number, translation))?;
        self.touch_if(found, List::Translations, now)
    }

    /// Removes a reciter, and says whether it was there.
    pub(super) fn remove_reciter(&mut self, id: &ReciterId, now: Timestamp) -> Result<bool> {
        let found = self.remove(&reciter_row(id))?;
        self.touch_if(found, List::Reciters, now)
    }

    /// Removes a translation with all its texts, and says whether it was there.
    pub(super) fn remove_translation(&mut self, id: &TranslationId, now: Timestamp) -> Result<bool> {
        for number in SurahNumber::all() {
            self.remove(&texts_row(number, id))?;
        }
        let found = self.remove(&translation_row(id))?;
        self.touch_if(found, List::Translations, now)
    }

    /// Removes the document of row `key`, whatever it is.
    pub(super) fn remove_row(&mut self, key: &str, now: Timestamp) -> Result<()> {
        let list = match key.split_once('/').map_or(key, |(kind, _)| kind) {
            "surah" => List::Surahs,
            "reciter" => List::Reciters,
            _ => List::Translations,
        };
        let found = self.remove(key)?;
        self.touch_if(found, list, now)?;
        Ok(())
    }

    fn put_record<R: Encode + RecordDecode + PartialEq>(
        &mut self,
        key: &str,
        record: &R,
        now: Timestamp,
    ) -> Result<Put> {
        let put = match self.record::<R>(key) {
            Ok(None) => Put::Made,
            Ok(Some((found, _))) if found == *record => Put::Same,
            Ok(Some(_)) => Put::Changed,
            // Writing over what is damaged is how it is mended.
            Err(error) if error.kind() == ErrorKind::ContentDamaged && error.place() == Some(key) => {
                Put::Changed
            }
            Err(error) => return Err(error),
        };
        if put != Put::Same {
            self.put(key, &codec::encode(&(now.as_millis(), record))?)?;
        }
        Ok(put)
    }

    fn touch(&mut self, list: List, put: Put, now: Timestamp) -> Result<Put> {
        if put != Put::Same {
            self.put_meta(list.meta_key(), &codec::encode(&now.as_millis())?)?;
        }
        Ok(put)
    }

    fn touch_if(&mut self, found: bool, list: List, now: Timestamp) -> Result<bool> {
        self.touch(list, if found { Put::Changed } else { Put::Same }, now)?;
        Ok(found)
    }
}

/// Checks that `payload`, found under `key`, decodes as the document that belongs there.
pub(super) fn check(key: &str, payload: &[u8]) -> Result<()> {
    match key.split_once('/').map_or(key, |(kind, _)| kind) {
        "surah" => decoded::<SurahRecord>(key, payload).map(|_| ()),
        "texts" => decoded::<Vec<String>>(key, payload).map(|_| ()),
        "reciter" => decoded::<ReciterRecord>(key, payload).map(|_| ()),
        "translation" => decoded::<TranslationRecord>(key, payload).map(|_| ()),
        _ => Err(damaged(key)),
    }
}

fn decoded<R: RecordDecode>(key: &str, payload: &[u8]) -> Result<(u64, R)> {
    codec::decode(payload).map_err(|error| damaged(key).because(error))
}

fn damaged(key: &str) -> Error {
    Error::new(ErrorKind::ContentDamaged, "the stored document cannot be decoded and is not served").at(key)
}

fn ids<T>(keys: &[String], prefix: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let id = |key: &String| parse(key.get(prefix.len()..).unwrap_or_default()).map_err(|_| damaged(key));
    keys.iter().map(id).collect()
}

/// The row of a surah.
pub(super) fn surah_row(number: SurahNumber) -> String {
    format!("surah/{:03}", number.get())
}

fn texts_prefix(number: SurahNumber) -> String {
    format!("texts/{:03}/", number.get())
}

fn texts_row(number: SurahNumber, translation: &TranslationId) -> String {
    format!("texts/{:03}/{translation}", number.get())
}

/// The row of a reciter.
pub(super) fn reciter_row(id: &ReciterId) -> String {
    format!("{RECITER}{id}")
}

/// The row of a translation.
pub(super) fn translation_row(id: &TranslationId) -> String {
    format!("{TRANSLATION}{id}")
}

const RECITER: &str = "reciter/";
const TRANSLATION: &str = "translation/";

#[derive(Encode, Decode, PartialEq)]
struct SurahRecord {
    name: String,
    transliteration: String,
    meaning: String,
    revelation: Revelation,
    edition: String,
    texts: Vec<String>,
}

impl SurahRecord {
    fn into_surah(self, number: SurahNumber) -> Surah {
        let Self { name, transliteration, meaning, revelation, edition, texts } = self;
        Surah { number, name, transliteration, meaning, revelation, edition, texts }
    }
}

impl From<Surah> for SurahRecord {
    fn from(surah: Surah) -> Self {
        let Surah { number: _, name, transliteration, meaning, revelation, edition, texts } = surah;
        Self { name, transliteration, meaning, revelation, edition, texts }
    }
}

#[derive(Encode, Decode, PartialEq)]
struct ReciterRecord {
    name: String,
    name_arabic: String,
    style: String,
    riwayah: String,
}

impl ReciterRecord {
    fn into_reciter(self, id: ReciterId) -> Reciter {
        let Self { name, name_arabic, style, riwayah } = self;
        Reciter { id, name, name_arabic, style, riwayah }
    }
}

impl From<Reciter> for ReciterRecord {
    fn from(reciter: Reciter) -> Self {
        let Reciter { id: _, name, name_arabic, style, riwayah } = reciter;
        Self { name, name_arabic, style, riwayah }
    }
}

#[derive(Encode, Decode, PartialEq)]
struct TranslationRecord {
    name: String,
    language: String,
    direction: Direction,
    source: String,
    licence: String,
}

impl TranslationRecord {
    fn into_facts(self, id: TranslationId) -> TranslationFacts {
        let Self { name, language, direction, source, licence } = self;
        TranslationFacts { id, name, language, direction, source, licence }
    }
}

impl From<TranslationFacts> for TranslationRecord {
    fn from(facts: TranslationFacts) -> Self {
        let TranslationFacts { id: _, name, language, direction, source, licence } = facts;
        Self { name, language, direction, source, licence }
    }
}
