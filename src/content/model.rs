//! The documents of the content store: what they are made of, how they are checked, how they are rendered.
//!
//! A document that comes in is parsed here, once, and valid ever after. Promises: a refusal names the field
//! (`ayahs[3].text`); unknown and read-only fields are ignored; what is rendered is accepted back; nothing larger than
//! the limits below is ever built. Knows neither storage nor keys beyond the ids.

use bincode::{Decode, Encode};
use serde::{Serialize, Serializer};

use super::keys::{ReciterId, SurahNumber, TranslationId};

/// Where a surah was revealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
pub enum Revelation {
    /// In Mecca.
    Meccan,
    /// In Medina.
    Medinan,
}

impl Revelation {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "meccan" => Some(Self::Meccan),
            "medinan" => Some(Self::Medinan),
            _ => None,
        }
    }
}

/// Which way a script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From left to right.
    Ltr,
    /// From right to left.
    Rtl,
}

impl Direction {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "ltr" => Some(Self::Ltr),
            "rtl" => Some(Self::Rtl),
            _ => None,
        }
    }
}

/// A surah as it is stored: its facts and the text of every ayah, the first of which is ayah 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surah {
    pub(super) number: SurahNumber,
    pub(super) name: String,
    pub(super) transliteration: String,
    pub(super) meaning: String,
    pub(super) revelation: Revelation,
    pub(super) edition: String,
    pub(super) texts: Vec<String>,
}

impl Surah {
    /// The line that stands for it in the list.
    pub(super) fn summary(self) -> SurahSummary {
        SurahSummary {
            number: self.number.get(),
            ayah_count: self.texts.len(),
            name: self.name,
            transliteration: self.transliteration,
            meaning: self.meaning,
            revelation: self.revelation,
            edition: self.edition,
        }
    }

    /// The document, each ayah beside its translation where `translations` has one for it.
    pub(super) fn document(mut self, translations: Vec<String>) -> SurahDocument {
        let texts = std::mem::take(&mut self.texts);
        let ayah_count = texts.len();
        let mut translations = translations.into_iter();
        let ayahs =
            (1..).zip(texts).map(|(number, text)| Ayah { number, text, translation: translations.next() });
        let ayahs = ayahs.collect();
        SurahDocument { summary: SurahSummary { ayah_count, ..self.summary() }, ayahs }
    }
}

/// A surah in the list of surahs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SurahSummary {
    /// 1 to 114.
    pub number: u8,
    /// Its Arabic name.
    pub name: String,
    /// Its name in Latin letters.
    pub transliteration: String,
    /// What the name means in English.
    pub meaning: String,
    /// Where it was revealed.
    pub revelation: Revelation,
    /// How many ayahs it has.
    pub ayah_count: usize,
    /// Which edition its text is of.
    pub edition: String,
}

/// A surah with its ayahs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SurahDocument {
    /// Its facts.
    #[serde(flatten)]
    pub summary: SurahSummary,
    /// Its ayahs, in order.
    pub ayahs: Vec<Ayah>,
}

/// One ayah.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Ayah {
    /// Counted from 1 within its surah.
    pub number: u16,
    /// The Arabic text.
    pub text: String,
    /// The text of the translation asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translation: Option<String>,
}

/// Where a text comes from and under which terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Its licence, by SPDX identifier where there is one.
    pub licence: String,
    /// What its terms ask to be shown, in full.
    pub notice: String,
}

/// The list of surahs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SurahList {
    /// By number.
    pub surahs: Vec<SurahSummary>,
    /// Where their text comes from.
    pub source: Source,
}

/// A reciter, or one of his recordings that differs in style or riwayah.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reciter {
    /// Its id.
    #[serde(serialize_with = "as_text")]
    pub id: ReciterId,
    /// The name in Latin letters.
    pub name: String,
    /// The name in Arabic letters.
    pub name_arabic: String,
    /// `murattal`, `mujawwad` or `muallim`, or another word.
    pub style: String,
    /// The transmission that is recited: `hafs`, `warsh`, `qalun` or another.
    pub riwayah: String,
}

/// The list of reciters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReciterList {
    /// By id.
    pub reciters: Vec<Reciter>,
}

/// What is known of a translation, loaded or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TranslationFacts {
    /// Its id.
    #[serde(serialize_with = "as_text")]
    pub id: TranslationId,
    /// What it is called.
    pub name: String,
    /// Its language, as a BCP 47 tag.
    pub language: String,
    /// Which way it is written.
    pub direction: Direction,
    /// Who made it and where it was taken from.
    pub source: String,
    /// Its licence.
    pub licence: String,
}

/// A translation: its facts, and whether any of its texts are loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Translation {
    /// What is known of it.
    #[serde(flatten)]
    pub facts: TranslationFacts,
    /// Whether its texts are loaded.
    pub available: bool,
}

/// The list of translations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TranslationList {
    /// By id.
    pub translations: Vec<Translation>,
}

/// Renders an id as its text.
fn as_text<S: Serializer>(id: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&id.to_string())
}

/// The most ayahs one surah may have; the longest has 286.
pub const AYAHS_MAX: usize = 300;

/// The longest text or translation of one ayah, in bytes; the longest known has 3 kB.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// The longest name, meaning or other short text, in bytes.
pub const NAME_BYTES_MAX: usize = 500;

/// The largest document that is read, in bytes; a surah and its translation at the limits above fit.
pub const DOCUMENT_BYTES_MAX: usize = 12 << 20;

/// The most reciters kept.
pub const RECITERS_MAX: usize = 2000;

/// The most translations kept.
pub const TRANSLATIONS_MAX: usize = 200;
