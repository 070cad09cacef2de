//! JSON documents to the model: the door at which everything handed in is checked.
//!
//! Promises: a refusal is [`ErrorKind::DocumentInvalid`] with the field as its place (or
//! [`ErrorKind::DocumentTooLarge`]); memory stays within a small multiple of the size limits whatever the bytes are;
//! unknown and read-only fields are skipped without being kept. Knows nothing of what is stored already.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, ErrorKind, Result};

use super::keys::{ReciterId, SurahNumber, TranslationId};
use super::model::{
    AYAHS_MAX, DOCUMENT_BYTES_MAX, Direction, NAME_BYTES_MAX, Reciter, Revelation, Surah, SurahSummary,
    TEXT_BYTES_MAX, TranslationFacts,
};

/// The edition of a document that names none: a text that was written by hand.
const EDITION_OTHER: &str = "custom";

/// A surah for the place `number`.
pub(super) fn surah(number: SurahNumber, bytes: &[u8]) -> Result<Surah> {
    let fields: SurahFields = object(bytes)?;
    number_is(number, fields.number)?;
    let revelation = short("revelation", fields.revelation)?;
    Ok(Surah {
        number,
        name: short("name", fields.name)?,
        transliteration: short("transliteration", fields.transliteration)?,
        meaning: short("meaning", fields.meaning)?,
        revelation: Revelation::parse(&revelation).ok_or_else(|| {
            refused("revelation", &format!("expected meccan or medinan, got {}", shown(&revelation)))
        })?,
        edition: fields
            .edition
            .map_or_else(|| Ok(EDITION_OTHER.into()), |edition| short("edition", Some(edition)))?,
        texts: ayahs(fields.ayahs, "text", |ayah| ayah.text)?,
    })
}

/// A line of the list of surahs.
pub(super) fn summary(fields: SummaryFields) -> Result<SurahSummary> {
    let number = fields.number.ok_or_else(|| refused("number", "is missing"))?;
    let number = SurahNumber::new(number).map_err(|error| refused("number", error.message()))?;
    let revelation = short("revelation", fields.revelation)?;
    let ayah_count = fields.ayah_count.ok_or_else(|| refused("ayah_count", "is missing"))?;
    let ayah_count = usize::try_from(ayah_count).ok().filter(|count| (1..=AYAHS_MAX).contains(count));
    Ok(SurahSummary {
        number: number.get(),
        name: short("name", fields.name)?,
        transliteration: short("transliteration", fields.transliteration)?,
        meaning: short("meaning", fields.meaning)?,
        revelation: Revelation::parse(&revelation).ok_or_else(|| {
            refused("revelation", &format!("expected meccan or medinan, got {}", shown(&revelation)))
        })?,
        ayah_count: ayah_count.ok_or_else(|| refused("ayah_count", &format!("expected 1 to {AYAHS_MAX}")))?,
        edition: short("edition", fields.edition)?,
    })
}

/// The texts of a translation of surah `number`, out of a document of that surah.
pub(super) fn texts(number: SurahNumber, bytes: &[u8]) -> Result<Vec<String>> {
    let fields: SurahFields = object(bytes)?;
    number_is(number, fields.number)?;
    ayahs(fields.ayahs, "translation", |ayah| ayah.translation)
}

/// A reciter for the place `id`.
pub(super) fn reciter(id: &ReciterId, bytes: &[u8]) -> Result<Reciter> {
    let fields: ReciterFields = object(bytes)?;
    id_is(id.as_str(), fields.id)?;
    Ok(Reciter {
        id: id.clone(),
        name: short("name", fields.name)?,
        name_arabic: short("name_arabic", fields.name_arabic)?,
        style: short("style", fields.style)?,
        riwayah: short("riwayah", fields.riwayah)?,
    })
}

/// The description of a translation for the place `id`.
pub(super) fn translation(id: &TranslationId, bytes: &[u8]) -> Result<TranslationFacts> {
    let fields: TranslationFields = object(bytes)?;
    id_is(id.as_str(), fields.id)?;
    let direction = short("direction", fields.direction)?;
    Ok(TranslationFacts {
        id: id.clone(),
        name: short("name", fields.name)?,
        language: short("language", fields.language)?,
        direction: Direction::parse(&direction).ok_or_else(|| {
            refused("direction", &format!("expected ltr or rtl, got {}", shown(&direction)))
        })?,
        source: short("source", fields.source)?,
        licence: short("licence", fields.licence)?,
    })
}

/// As [`json_within`], for a document that is an object.
pub(super) fn object_within<T: DeserializeOwned>(bytes: &[u8], most: usize) -> Result<T> {
    // A list would pass for the fields of an object in their order.
    if bytes.len() <= most && !bytes.trim_ascii_start().starts_with(b"{") {
        let message = "the document is not a JSON object, which is what is accepted";
        return Err(Error::new(ErrorKind::DocumentInvalid, message));
    }
    json_within(bytes, most)
}

fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    object_within(bytes, DOCUMENT_BYTES_MAX)
}

/// Reads `bytes` as `T`; a refusal names the field by its path.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    json_within(bytes, DOCUMENT_BYTES_MAX)
}

/// As [`json`], for a document of at most `most` bytes.
pub(super) fn json_within<T: DeserializeOwned>(bytes: &[u8], most: usize) -> Result<T> {
    if bytes.len() > most {
        let message = format!("the document has {} bytes, the most is {most}", bytes.len());
        return Err(Error::new(ErrorKind::DocumentTooLarge, message));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let place = error.path().to_string();
        let refusal = Error::new(ErrorKind::DocumentInvalid, shortened(&error.into_inner().to_string()));
        if place == "." { refusal } else { refusal.at(place) }
    })?;
    reader.end().map_err(|error| Error::new(ErrorKind::DocumentInvalid, shortened(&error.to_string())))?;
    Ok(value)
}

/// One text of an ayah, checked.
pub(super) fn text(place: impl Fn() -> String, text: Option<String>) -> Result<String> {
    let text = text.ok_or_else(|| refused(place(), "is missing"))?;
    if text.trim().is_empty() {
        return Err(refused(place(), "is empty"));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(refused(place(), &format!("has {} bytes, the most is {TEXT_BYTES_MAX}", text.len())));
    }
    if text.contains('\0') {
        return Err(refused(place(), "contains a NUL character"));
    }
    Ok(text)
}

/// A refusal of the field at `place`.
pub(super) fn refused(place: impl AsRef<str>, why: &str) -> Error {
    Error::new(ErrorKind::DocumentInvalid, why.to_owned()).at(place)
}

/// Refuses a `count` of what is kept above `most`.
pub(super) fn within(what: &str, count: usize, most: usize) -> Result<()> {
    if count <= most {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::DocumentInvalid,
        format!("there are {most} {what} already, the most that is kept"),
    ))
}

fn short(field: &'static str, value: Option<String>) -> Result<String> {
    let value = text(|| field.to_owned(), value)?;
    if value.len() > NAME_BYTES_MAX {
        return Err(refused(field, &format!("has {} bytes, the most is {NAME_BYTES_MAX}", value.len())));
    }
    if value.chars().any(char::is_control) {
        return Err(refused(field, "contains a control character"));
    }
    Ok(value)
}

fn number_is(number: SurahNumber, found: Option<u64>) -> Result<()> {
    match found {
        None => Err(refused("number", "is missing")),
        Some(found) if found == u64::from(number.get()) => Ok(()),
        Some(found) => Err(refused("number", &format!("expected {number} as in the path, got {found}"))),
    }
}

fn id_is(id: &str, found: Option<String>) -> Result<()> {
    match found {
        None => Err(refused("id", "is missing")),
        Some(found) if found == id => Ok(()),
        Some(found) => Err(refused("id", &format!("expected {id:?} as in the path, got {}", shown(&found)))),
    }
}

fn ayahs(
    fields: Option<Bounded<AyahFields, AYAHS_MAX>>,
    name: &str,
    take: impl Fn(AyahFields) -> Option<String>,
) -> Result<Vec<String>> {
    let fields = fields.ok_or_else(|| refused("ayahs", "is missing"))?.0;
    if fields.is_empty() {
        return Err(refused("ayahs", "is empty"));
    }
    let checked = fields.into_iter().enumerate().map(|(at, ayah)| {
        let due = at as u64 + 1;
        match ayah.number {
            Some(number) if number == due => text(|| format!("ayahs[{at}].{name}"), take(ayah)),
            Some(number) => {
                Err(refused(format!("ayahs[{at}].number"), &format!("expected {due}, got {number}")))
            }
            None => Err(refused(format!("ayahs[{at}].number"), "is missing")),
        }
    });
    checked.collect()
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

fn shortened(message: &str) -> String {
    message.chars().take(SHOWN_CHARS_MAX * 4).collect()
}

/// How much of what was handed in a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 50;

// A field that is missing is told from here, with its name as the place, so every field is optional to serde.

#[derive(Deserialize)]
struct SurahFields {
    number: Option<u64>,
    name: Option<String>,
    transliteration: Option<String>,
    meaning: Option<String>,
    revelation: Option<String>,
    edition: Option<String>,
    ayahs: Option<Bounded<AyahFields, AYAHS_MAX>>,
}

#[derive(Deserialize)]
pub(super) struct SummaryFields {
    number: Option<u64>,
    name: Option<String>,
    transliteration: Option<String>,
    meaning: Option<String>,
    revelation: Option<String>,
    ayah_count: Option<u64>,
    edition: Option<String>,
}

#[derive(Deserialize)]
struct AyahFields {
    number: Option<u64>,
    text: Option<String>,
    translation: Option<String>,
}

#[derive(Deserialize)]
struct ReciterFields {
    id: Option<String>,
    name: Option<String>,
    name_arabic: Option<String>,
    style: Option<String>,
    riwayah: Option<String>,
}

#[derive(Deserialize)]
struct TranslationFields {
    id: Option<String>,
    name: Option<String>,
    language: Option<String>,
    direction: Option<String>,
    source: Option<String>,
    licence: Option<String>,
}

/// A sequence that is refused at its `MAX + 1`st element instead of being read to its end.
pub(super) struct Bounded<T, const MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut taken = Vec::new();
        while let Some(element) = elements.next_element()? {
            if taken.len() == MAX {
                return Err(serde::de::Error::custom(format!("has more than {MAX} elements")));
            }
            taken.push(element);
        }
        Ok(Bounded(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn document() -> Value {
        json!({
            "number": 112, "name": "الإخلاص", "transliteration": "Al-Ikhlas", "meaning": "Sincerity",
            "revelation": "meccan", "ayah_count": 99, "edition": "simple-min", "colour": ["ignored"],
            "ayahs": [
                {"number": 1, "text": "أ", "translation": "a"},
                {"number": 2, "text": "ب", "translation": "b", "extra": 1},
            ],
        })
    }

    fn refusal(change: impl FnOnce(&mut Value)) -> (Option<String>, String) {
        let mut document = document();
        change(&mut document);
        let error = surah(SurahNumber::new(112).unwrap(), document.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DocumentInvalid, "{error}");
        (error.place().map(str::to_owned), error.message().to_owned())
    }

    #[test]
    fn a_document_is_taken_and_unknown_and_read_only_fields_are_ignored() {
        let number = SurahNumber::new(112).unwrap();
        let bytes = document().to_string();
        let surah = surah(number, bytes.as_bytes()).unwrap();
        assert_eq!(surah.texts, ["أ", "ب"]);
        let rendered = serde_json::to_value(surah.clone().document(Vec::new())).unwrap();
        assert_eq!(rendered["ayah_count"], 2, "it follows the ayahs");
        assert_eq!(super::surah(number, rendered.to_string().as_bytes()).unwrap(), surah);
        assert_eq!(texts(number, bytes.as_bytes()).unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_its_place() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let place = |place: &str| Some(place.to_owned());
        assert_eq!(refusal(|d| d["number"] = json!(115)).0, place("number"));
        assert_eq!(refusal(|d| d["number"] = json!("112")).0, place("number"));
        assert_eq!(refusal(|d| d["number"] = json!(null)).1, "is missing");
        assert_eq!(refusal(|d| d["revelation"] = json!("cairo")).0, place("revelation"));
        assert_eq!(refusal(|d| d["name"] = json!("  ")).0, place("name"));
        assert_eq!(refusal(|d| d["name"] = json!("x".repeat(NAME_BYTES_MAX + 1))).0, place("name"));
        assert_eq!(refusal(|d| d["meaning"] = json!("a\u{1}")).0, place("meaning"));
        assert_eq!(refusal(|d| d["ayahs"] = json!([])).0, place("ayahs"));
        assert_eq!(refusal(|d| d["ayahs"] = json!({})).0, place("ayahs"));
        assert_eq!(refusal(|d| d["ayahs"][1]["number"] = json!(3)).0, place("ayahs[1].number"));
        assert_eq!(refusal(|d| d["ayahs"][1]["text"] = json!(7)).0, place("ayahs[1].text"));
        assert_eq!(refusal(|d| d["ayahs"][1]["text"] = json!(long)).0, place("ayahs[1].text"));
        assert_eq!(refusal(|d| d["ayahs"][0]["text"] = json!("")).0, place("ayahs[0].text"));
        assert_eq!(refusal(|d| d["ayahs"][0] = json!("text")).0, place("ayahs[0]"));
        let many = (1..=AYAHS_MAX + 1).map(|n| json!({"number": n, "text": "x"})).collect::<Vec<_>>();
        assert_eq!(refusal(|d| d["ayahs"] = json!(many)).0, place("ayahs"));
        let missing = refusal(|d| {
            d.as_object_mut().unwrap().remove("name");
        });
        assert_eq!(missing, (place("name"), "is missing".to_owned()));
    }

    #[test]
    fn bytes_that_are_no_document_are_refused_without_a_panic() {
        let number = SurahNumber::new(1).unwrap();
        let deep = "[".repeat(100_000);
        for bytes in ["", "{", "[]", "null", "{} {}", "{\"ayahs\":[{\"text\":", "\u{0}", &deep] {
            assert_eq!(
                surah(number, bytes.as_bytes()).unwrap_err().kind(),
                ErrorKind::DocumentInvalid,
                "{bytes:.9}"
            );
        }
        assert!(surah(number, &[0xff, 0xfe]).is_err());
        let large = vec![b' '; DOCUMENT_BYTES_MAX + 1];
        assert_eq!(surah(number, &large).unwrap_err().kind(), ErrorKind::DocumentTooLarge);
    }

    #[test]
    fn reciters_and_translations_are_checked_as_well() {
        let id = ReciterId::parse("someone").unwrap();
        let good = json!({"id": "someone", "name": "S", "name_arabic": "س", "style": "murattal", "riwayah": "qalun"});
        assert_eq!(serde_json::to_value(reciter(&id, good.to_string().as_bytes()).unwrap()).unwrap(), good);
        let other = json!({"id": "other"}).to_string();
        assert_eq!(reciter(&id, other.as_bytes()).unwrap_err().place(), Some("id"));
        let id = TranslationId::parse("de").unwrap();
        let bytes = json!({"id": "de", "name": "n", "language": "de", "direction": "up", "source": "s", "licence": "l"});
        assert_eq!(translation(&id, bytes.to_string().as_bytes()).unwrap_err().place(), Some("direction"));
    }
}
