//! What is built in: the 114 surahs with their Arabic text, the reciters, the importable translations, the sources.
//!
//! The text is Tanzil's "simple-min" as the crate `quranize` carries it, byte for byte. The tables are the files of
//! `data/`, each of which names where its facts come from. Knows nothing of how any of it is stored.

use std::sync::OnceLock;

use crate::error::{Error, ErrorKind, Result};

use super::keys::{ReciterId, SurahNumber, TranslationId};
use super::model::{Direction, Reciter, Revelation, Source, Surah, TranslationFacts};

/// The edition of the embedded text.
pub(super) const EDITION_BUILT_IN: &str = "simple-min";

/// The edition of the text that `quran-json` brings.
pub(super) const EDITION_UTHMANI: &str = "uthmani";

/// Tanzil's copyright notice, as it stands at the end of the text file of quranize 1.0.1 (src/quran-simple-min.txt).
pub(super) const TANZIL_NOTICE: &str = include_str!("data/tanzil-notice.txt");

/// The name of the package that can be imported.
pub(super) const QURAN_JSON: &str = "quran-json";

/// What is said of the text that `quran-json` brings, after its README and LICENSE.txt.
pub(super) const QURAN_JSON_NOTICE: &str = "The Uthmani Quran text is from The Noble Qur'an Encyclopedia \
     (https://quranenc.com/en/home), taken from quran-json by Risan Bagja Pradana \
     (https://github.com/risan/quran-json), licensed under CC BY-SA 4.0.";

/// The licence of everything that `quran-json` brings, by its LICENSE.txt.
const QURAN_JSON_LICENCE: &str = "CC-BY-SA-4.0";

/// How many ayahs the Quran has by the count that both editions follow.
#[cfg(test)]
const AYAHS: usize = 6236;

/// Where a text of `edition` comes from; `None` for one that was written by hand.
pub(super) fn source_of(edition: &str) -> Option<Source> {
    let (name, url, licence, notice) = match edition {
        EDITION_BUILT_IN => {
            ("Tanzil Quran Text (Simple Minimal)", "https://tanzil.net", "CC-BY-3.0", TANZIL_NOTICE)
        }
        EDITION_UTHMANI => (
            "quran-json (The Noble Qur'an Encyclopedia)",
            "https://github.com/risan/quran-json",
            QURAN_JSON_LICENCE,
            QURAN_JSON_NOTICE,
        ),
        _ => return None,
    };
    Some(Source { name: name.into(), url: url.into(), licence: licence.into(), notice: notice.into() })
}

/// The facts of every surah, without text.
pub(super) fn surahs() -> Result<Vec<SurahFacts>> {
    rows(include_str!("data/surahs.tsv"))
        .map(|[number, name, transliteration, meaning, revelation, ayahs]| {
            let broken = || built_in_broken("surahs.tsv", number);
            Ok(SurahFacts {
                number: SurahNumber::parse(number)?,
                name,
                transliteration,
                meaning,
                revelation: Revelation::parse(revelation).ok_or_else(broken)?,
                ayah_count: ayahs.parse().map_err(|_| broken())?,
            })
        })
        .collect()
}

/// How many ayahs surah `number` has by the table.
pub(super) fn ayah_count(number: SurahNumber) -> Result<u16> {
    static COUNTS: OnceLock<Vec<u16>> = OnceLock::new();
    let broken = || built_in_broken("surahs.tsv", &number.to_string());
    let counts = if let Some(counts) = COUNTS.get() {
        counts
    } else {
        let counts = surahs()?.iter().map(|facts| u16::try_from(facts.ayah_count)).collect::<Result<_, _>>();
        let counts = counts.map_err(|_| broken())?;
        COUNTS.get_or_init(|| counts)
    };
    counts.get(usize::from(number.get()) - 1).copied().ok_or_else(broken)
}

/// What the table says of one surah.
pub(super) struct SurahFacts {
    pub(super) number: SurahNumber,
    pub(super) name: &'static str,
    pub(super) transliteration: &'static str,
    pub(super) meaning: &'static str,
    pub(super) revelation: Revelation,
    pub(super) ayah_count: usize,
}

impl SurahFacts {
    /// The surah with `texts` of `edition`.
    pub(super) fn with_text(&self, edition: &str, texts: Vec<String>) -> Surah {
        Surah {
            number: self.number,
            name: self.name.into(),
            transliteration: self.transliteration.into(),
            meaning: self.meaning.into(),
            revelation: self.revelation,
            edition: edition.into(),
            texts,
        }
    }
}

/// Every surah with the embedded text. Builds the crate's search index on the way (0.15 s, 13 MB), so call it once.
pub(super) fn surahs_with_text() -> Result<Vec<Surah>> {
    let text = quranize::Quranize::new();
    let mut row = 0;
    surahs()?
        .iter()
        .map(|facts| {
            let ayahs = (1..=facts.ayah_count).map(|ayah| {
                let found = text.get_data(row);
                row += 1;
                match found {
                    Some(&(_, surah, number, text))
                        if surah == facts.number.get() && usize::from(number) == ayah =>
                    {
                        Ok(text.to_owned())
                    }
                    _ => Err(built_in_broken("the text", &format!("{}:{ayah}", facts.number))),
                }
            });
            let ayahs = ayahs.collect::<Result<Vec<_>>>()?;
            Ok(facts.with_text(EDITION_BUILT_IN, ayahs))
        })
        .collect()
}

/// Every built-in reciter.
pub(super) fn reciters() -> Result<Vec<Reciter>> {
    rows(include_str!("data/reciters.tsv"))
        .map(|[id, name, name_arabic, style, riwayah]| {
            Ok(Reciter {
                id: ReciterId::parse(id)?,
                name: name.into(),
                name_arabic: name_arabic.into(),
                style: style.into(),
                riwayah: riwayah.into(),
            })
        })
        .collect()
}

/// Every translation that `quran-json` brings.
pub(super) fn translations() -> Result<Vec<TranslationFacts>> {
    rows(include_str!("data/translations.tsv"))
        .map(|[id, name, language, direction, author, url]| {
            Ok(TranslationFacts {
                id: TranslationId::parse(id)?,
                name: name.into(),
                language: language.into(),
                direction: Direction::parse(direction)
                    .ok_or_else(|| built_in_broken("translations.tsv", id))?,
                source: format!("{author}, {url}"),
                licence: QURAN_JSON_LICENCE.into(),
            })
        })
        .collect()
}

/// The rows of a table of tab-separated columns; a row with another number of columns ends in an empty one, which
/// every use refuses.
fn rows<const N: usize>(table: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut columns = line.split('\t');
        std::array::from_fn(|_| columns.next().unwrap_or_default())
    })
}

fn built_in_broken(what: &str, place: &str) -> Error {
    Error::new(ErrorKind::ContentDamaged, format!("the built-in content of {what} is broken")).at(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_surahs_agrees_with_the_text() {
        let surahs = surahs_with_text().unwrap();
        assert_eq!(surahs.len(), 114);
        assert_eq!(surahs.iter().map(|surah| surah.texts.len()).sum::<usize>(), AYAHS);
        let text = quranize::Quranize::new();
        assert!(text.get_data(AYAHS - 1).is_some() && text.get_data(AYAHS).is_none(), "no row is left over");
        assert!(surahs.iter().zip(SurahNumber::all()).all(|(surah, number)| surah.number == number));
        assert!(surahs.iter().flat_map(|surah| &surah.texts).all(|text| !text.trim().is_empty()));
        for (row, stored) in surahs.iter().flat_map(|surah| &surah.texts).enumerate() {
            assert_eq!(text.get_data(row).unwrap().3, stored, "the text is kept unchanged");
        }
        assert_eq!(surahs[1].texts[0], "الم", "the basmala stands apart from the first ayah");
        let medinan = surahs.iter().filter(|surah| surah.revelation == Revelation::Medinan).count();
        assert_eq!(medinan, 28);
    }

    #[test]
    fn names_meanings_and_ids_are_filled_in_and_unlike_each_other() {
        let surahs = surahs().unwrap();
        for field in [
            surahs.iter().map(|s| s.name).collect::<Vec<_>>(),
            surahs.iter().map(|s| s.transliteration).collect(),
            surahs.iter().map(|s| s.meaning).collect(),
        ] {
            let mut unlike = field.clone();
            unlike.sort_unstable();
            unlike.dedup();
            assert_eq!(unlike.len(), 114, "{field:?}");
            assert!(field.iter().all(|text| !text.is_empty() && text.trim() == *text));
        }
    }

    #[test]
    fn reciters_and_translations_are_complete() {
        let reciters = reciters().unwrap();
        assert!(reciters.len() >= 25);
        assert!(reciters.windows(2).all(|pair| pair[0].id < pair[1].id));
        for reciter in &reciters {
            assert!(!reciter.name.is_empty() && !reciter.name_arabic.is_empty(), "{}", reciter.id);
            assert!(["murattal", "mujawwad", "muallim"].contains(&reciter.style.as_str()), "{}", reciter.id);
            assert!(["hafs", "warsh"].contains(&reciter.riwayah.as_str()), "{}", reciter.id);
        }
        let translations = translations().unwrap();
        assert_eq!(translations.len(), 11);
        assert!(translations.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(translations.iter().all(|t| t.source.contains("https://") && !t.name.is_empty()));
    }

    #[test]
    fn the_notice_of_tanzil_is_shown_in_full() {
        for words in
            ["PLEASE DO NOT REMOVE", "Simple Minimal", "CHANGING IT IS NOT ALLOWED", "tanzil.net/updates"]
        {
            assert!(TANZIL_NOTICE.contains(words), "{words}");
        }
        assert!(source_of("by hand").is_none());
    }
}
