//! Documents that another service of the same shapes gave: checked as what is handed in here, and rendered anew.
//!
//! Promises: what is accepted is of the public shape and of the thing asked for, and its bytes are those this version
//! would render itself, so that two services one behind the other give the same bytes and the same tags. Unknown fields
//! are dropped. Knows nothing of where the bytes came from.

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

use super::keys::{Content, ReciterId, SurahNumber, TranslationId};
use super::model::{
    RECITERS_MAX, Reciter, ReciterList, Source, SurahList, SurahSummary, TRANSLATIONS_MAX, Translation,
    TranslationList,
};
use super::parse::{self, Bounded, refused};
use super::render;

/// The path under which a service of the same shapes answers with `content`; `None` for what is nobody else's.
#[must_use]
pub(crate) fn path(content: &Content) -> Option<String> {
    Some(match content {
        Content::Surahs => "/surahs".to_owned(),
        Content::Surah(number, None) => format!("/surahs/{number}"),
        Content::Surah(number, Some(translation)) => format!("/surahs/{number}?translation={translation}"),
        Content::Reciters => "/reciters".to_owned(),
        Content::Reciter(id) => format!("/reciters/{id}"),
        Content::Translations => "/translations".to_owned(),
        Content::Translation(id) => format!("/translations/{id}"),
        Content::Bookmarks(_) => return None,
    })
}

/// The document in `bytes`, as this version renders it.
///
/// # Errors
/// [`ErrorKind::SourceRefused`] with the field as its place when it is not what was asked for.
pub(crate) fn canonical(content: &Content, bytes: &[u8]) -> Result<Vec<u8>> {
    rendered(content, bytes).map_err(|error| {
        let refusal = Error::new(ErrorKind::SourceRefused, error.message().to_owned());
        match error.place() {
            Some(place) => refusal.at(place),
            None => refusal,
        }
    })
}

fn rendered(content: &Content, bytes: &[u8]) -> Result<Vec<u8>> {
    match content {
        Content::Surahs => render::json(&surahs(bytes)?),
        Content::Surah(number, translation) => surah(*number, translation.is_some(), bytes),
        Content::Reciters => render::json(&reciters(bytes)?),
        Content::Reciter(id) => render::json(&reciter(id, bytes)?),
        Content::Translations => render::json(&translations(bytes)?),
        Content::Translation(id) => render::json(&translation(id, bytes)?),
        Content::Bookmarks(_) => Err(refused("", "bookmarks are not read from elsewhere")),
    }
}

fn surah(number: SurahNumber, is_translated: bool, bytes: &[u8]) -> Result<Vec<u8>> {
    let surah = parse::surah(number, bytes)?;
    let counted: Counted = parse::json(bytes)?;
    count_is(counted.ayah_count, surah.texts.len())?;
    let texts = if is_translated { parse::texts(number, bytes)? } else { Vec::new() };
    render::json(&surah.document(texts))
}

fn count_is(claimed: Option<u64>, found: usize) -> Result<()> {
    match claimed {
        Some(claimed) if claimed != found as u64 => {
            Err(refused("ayah_count", &format!("says {claimed}, but there are {found} ayahs")))
        }
        _ => Ok(()),
    }
}

fn surahs(bytes: &[u8]) -> Result<SurahList> {
    let fields: SurahListFields = parse::json(bytes)?;
    let items = fields.surahs.ok_or_else(|| refused("surahs", "is missing"))?.0;
    let mut surahs: Vec<SurahSummary> = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let place = format!("surahs[{at}]");
        let summary = parse::summary(item).map_err(|error| within(&place, &error))?;
        if surahs.last().is_some_and(|last| last.number >= summary.number) {
            return Err(refused(format!("{place}.number"), "does not rise"));
        }
        surahs.push(summary);
    }
    let source = fields.source.ok_or_else(|| refused("source", "is missing"))?;
    let text = |name: &'static str, text: Option<String>| text.ok_or_else(|| refused(name, "is missing"));
    let source = Source {
        name: text("source.name", source.name)?,
        url: text("source.url", source.url)?,
        licence: text("source.licence", source.licence)?,
        notice: text("source.notice", source.notice)?,
    };
    Ok(SurahList { surahs, source })
}

fn reciter(id: &ReciterId, bytes: &[u8]) -> Result<Reciter> {
    parse::reciter(id, bytes)
}

fn reciters(bytes: &[u8]) -> Result<ReciterList> {
    let fields: ReciterListFields = parse::json(bytes)?;
    let items = fields.reciters.ok_or_else(|| refused("reciters", "is missing"))?.0;
    let mut reciters: Vec<Reciter> = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let place = format!("reciters[{at}]");
        let id = item["id"].as_str().ok_or_else(|| refused(format!("{place}.id"), "is missing"))?;
        let id = ReciterId::parse(id).map_err(|error| within(&place, &error))?;
        let reciter =
            parse::reciter(&id, item.to_string().as_bytes()).map_err(|error| within(&place, &error))?;
        if reciters.iter().any(|other| other.id == reciter.id) {
            return Err(refused(format!("{place}.id"), "is there twice"));
        }
        reciters.push(reciter);
    }
    Ok(ReciterList { reciters })
}

fn translation(id: &TranslationId, bytes: &[u8]) -> Result<Translation> {
    let available: AvailableFields = parse::json(bytes)?;
    let available = available.available.ok_or_else(|| refused("available", "is missing"))?;
    Ok(Translation { facts: parse::translation(id, bytes)?, available })
}

fn translations(bytes: &[u8]) -> Result<TranslationList> {
    let fields: TranslationListFields = parse::json(bytes)?;
    let items = fields.translations.ok_or_else(|| refused("translations", "is missing"))?.0;
    let mut translations: Vec<Translation> = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let place = format!("translations[{at}]");
        let id = item["id"].as_str().ok_or_else(|| refused(format!("{place}.id"), "is missing"))?;
        let id = TranslationId::parse(id).map_err(|error| within(&place, &error))?;
        let found = translation(&id, item.to_string().as_bytes()).map_err(|error| within(&place, &error))?;
        if translations.iter().any(|other| other.facts.id == found.facts.id) {
            return Err(refused(format!("{place}.id"), "is there twice"));
        }
        translations.push(found);
    }
    Ok(TranslationList { translations })
}

/// A refusal inside the element at `place`.
fn within(place: &str, error: &Error) -> Error {
    match error.place() {
        Some(inner) => refused(format!("{place}.{inner}"), error.message()),
        None => refused(place, error.message()),
    }
}

#[derive(Deserialize)]
struct Counted {
    ayah_count: Option<u64>,
}

#[derive(Deserialize)]
struct SurahListFields {
    surahs: Option<Bounded<parse::SummaryFields, { SurahNumber::MAX as usize }>>,
    source: Option<SourceFields>,
}

#[derive(Deserialize)]
struct SourceFields {
    name: Option<String>,
    url: Option<String>,
    licence: Option<String>,
    notice: Option<String>,
}

#[derive(Deserialize)]
struct ReciterListFields {
    reciters: Option<Bounded<serde_json::Value, RECITERS_MAX>>,
}

#[derive(Deserialize)]
struct TranslationListFields {
    translations: Option<Bounded<serde_json::Value, TRANSLATIONS_MAX>>,
}

#[derive(Deserialize)]
struct AvailableFields {
    available: Option<bool>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn surah_two() -> Content {
        Content::Surah(SurahNumber::new(2).unwrap(), None)
    }

    fn document() -> Value {
        json!({
            "number": 2, "name": "البقرة", "transliteration": "Al-Baqara", "meaning": "The Cow",
            "revelation": "medinan", "ayah_count": 2, "edition": "simple-min",
            "ayahs": [{"number": 1, "text": "الم"}, {"number": 2, "text": "ذلك", "translation": "that"}],
        })
    }

    fn refusal(content: &Content, document: &Value) -> String {
        let error = canonical(content, document.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceRefused);
        error.to_string()
    }

    #[test]
    fn what_is_rendered_here_is_accepted_and_comes_out_as_the_same_bytes() {
        let bytes = canonical(&surah_two(), document().to_string().as_bytes()).unwrap();
        assert_eq!(canonical(&surah_two(), &bytes).unwrap(), bytes);
        assert!(!String::from_utf8(bytes).unwrap().contains("translation\":\"that"));
        let list = json!({"surahs": [
            {"number": 1, "name": "n", "transliteration": "t", "meaning": "m", "revelation": "meccan",
             "ayah_count": 7, "edition": "e"},
        ], "source": {"name": "s", "url": "", "licence": "", "notice": ""}});
        let bytes = canonical(&Content::Surahs, list.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), list);
        let list = json!({"translations": [
            {"id": "en", "name": "n", "language": "en", "direction": "ltr", "source": "s", "licence": "l",
             "available": false},
        ]});
        let bytes = canonical(&Content::Translations, list.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), list);
    }

    #[test]
    fn what_is_not_what_was_asked_for_is_refused_with_its_place() {
        let mut wrong = document();
        wrong["number"] = json!(3);
        assert!(refusal(&surah_two(), &wrong).starts_with("number: "));
        let mut cut = document();
        cut["ayahs"].as_array_mut().unwrap().pop();
        assert_eq!(refusal(&surah_two(), &cut), "ayah_count: says 2, but there are 1 ayahs");
        let translated = Content::Surah(SurahNumber::new(2).unwrap(), TranslationId::parse("en").ok());
        assert!(refusal(&translated, &document()).starts_with("ayahs[0].translation: "));
        for (content, list) in [
            (Content::Surahs, json!({"surahs": []})),
            (Content::Surahs, json!([])),
            (Content::Reciters, json!({"reciters": [{"id": "A B"}]})),
            (Content::Reciters, json!({"reciters": [{}]})),
            (Content::Translations, json!({"translations": [{"id": "en"}]})),
            (Content::Translations, json!("rubbish")),
        ] {
            refusal(&content, &list);
        }
        assert!(canonical(&surah_two(), b"<html>").is_err());
        assert!(canonical(&surah_two(), &[0xFF]).is_err());
    }
}
