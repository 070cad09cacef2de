//! The content routes: surahs, ayahs, reciters, translations.
//!
//! Each resource has one address and one key; unknown query parameters change nothing and make no key. Every answer
//! goes through the cache.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::content::keys::{self, ReciterId, SurahNumber, TranslationId};
use crate::engine::{Answer, Outcome};
use crate::entry::Entry;
use crate::key::Key;

use super::Site;
use super::compress::plain_body;
use super::problem::Problem;
use super::reply::{Representation, explained};

type Reply = Result<Response<Body>, Problem>;
type Parameters = Query<Vec<(String, String)>>;

/// `GET /api/v1/surahs`
pub(super) async fn surahs(State(site): State<Site>, method: Method, headers: HeaderMap) -> Reply {
    answer_whole(&site, &keys::surahs(), &method, &headers, || unreachable_list("surahs")).await
}

/// `GET /api/v1/surahs/{number}[?translation=]`
pub(super) async fn surah(
    State(site): State<Site>,
    Path(number): Path<String>,
    query: Parameters,
    method: Method,
    headers: HeaderMap,
) -> Reply {
    let asked = SurahAsked::parse(&number, &query)?;
    answer_whole(&site, &asked.key(), &method, &headers, || asked.not_found()).await
}

/// `GET /api/v1/surahs/{number}/ayahs/{ayah}[?translation=]`
pub(super) async fn ayah(
    State(site): State<Site>,
    Path((number, ayah)): Path<(String, String)>,
    query: Parameters,
    method: Method,
    headers: HeaderMap,
) -> Reply {
    let asked = SurahAsked::parse(&number, &query)?;
    let missing = || {
        let detail = format!("surah {number} has no ayah {ayah:?}");
        Problem::not_found("AYAH_NOT_FOUND", detail)
    };
    let index = canonical_number(&ayah).ok_or_else(missing)?;
    let key = asked.key();
    let (entry, outcome) = ask(&site, &key, || asked.not_found()).await?;
    match one_ayah(&plain_body(&entry)?, asked.number.get(), index) {
        Some(body) => {
            Ok(Representation::part(&entry, outcome, body)?.respond(&site.cache, &method, &headers))
        }
        None => Err(explained(missing(), &site.cache, key.as_key_ref(), &Ok(Answer::of(entry, outcome)))),
    }
}

/// `GET /api/v1/reciters`
pub(super) async fn reciters(State(site): State<Site>, method: Method, headers: HeaderMap) -> Reply {
    answer_whole(&site, &keys::reciters(), &method, &headers, || unreachable_list("reciters")).await
}

/// `GET /api/v1/reciters/{id}`
pub(super) async fn reciter(
    State(site): State<Site>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Reply {
    let missing = || Problem::not_found("RECITER_NOT_FOUND", format!("there is no reciter {id:?}"));
    let reciter = ReciterId::parse(&id).map_err(|_| missing())?;
    answer_whole(&site, &keys::reciter(&reciter), &method, &headers, missing).await
}

/// `GET /api/v1/translations`
pub(super) async fn translations(State(site): State<Site>, method: Method, headers: HeaderMap) -> Reply {
    answer_whole(&site, &keys::translations(), &method, &headers, || unreachable_list("translations")).await
}

/// `GET /api/v1/translations/{id}`
pub(super) async fn translation(
    State(site): State<Site>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Reply {
    let missing = || no_translation(&id);
    let translation = TranslationId::parse(&id).map_err(|_| missing())?;
    answer_whole(&site, &keys::translation(&translation), &method, &headers, missing).await
}

/// A surah as the client named it.
struct SurahAsked {
    number: SurahNumber,
    translation: Option<TranslationId>,
}

impl SurahAsked {
    fn parse(number: &str, query: &Parameters) -> Result<Self, Problem> {
        let number = surah_number(number)?;
        let translation = translation_asked(query)?;
        Ok(Self { number, translation })
    }

    fn key(&self) -> Key {
        keys::surah(self.number, self.translation.as_ref())
    }

    fn not_found(&self) -> Problem {
        match &self.translation {
            Some(translation) => no_translation(translation.as_str()),
            None => no_surah(&self.number.get().to_string()),
        }
    }
}

/// The number in a path, in its one spelling.
pub(super) fn surah_number(text: &str) -> Result<SurahNumber, Problem> {
    SurahNumber::parse(text).map_err(|_| no_surah(text))
}

/// The translation a query names; the first one counts, every other parameter is ignored.
pub(super) fn translation_asked(query: &Parameters) -> Result<Option<TranslationId>, Problem> {
    let Some((_, id)) = query.iter().find(|(name, _)| name == "translation") else { return Ok(None) };
    TranslationId::parse(id).map(Some).map_err(|_| no_translation(id))
}

fn canonical_number(text: &str) -> Option<u16> {
    let number: u16 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn no_surah(number: &str) -> Problem {
    Problem::not_found(
        "SURAH_NOT_FOUND",
        format!("there is no surah {number:?}; surahs are numbered 1 to 114"),
    )
}

fn no_translation(id: &str) -> Problem {
    let detail = format!("there is no translation {id:?}; /api/v1/translations lists them");
    Problem::not_found("TRANSLATION_NOT_FOUND", detail)
}

fn unreachable_list(name: &str) -> Problem {
    let detail = format!("the content store has no list of {name}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", detail)
}

/// What the cache answers for `key`; a problem too says where it came from.
async fn ask(site: &Site, key: &Key, missing: impl FnOnce() -> Problem) -> Result<(Entry, Outcome), Problem> {
    let answered = site.cache.get_or_load(key.as_key_ref(), &site.source).await;
    let problem = match &answered {
        Ok(Answer { entry: Some(entry), outcome, .. }) => {
            site.warmer.note_read(key.as_key_ref());
            return Ok((entry.clone(), *outcome));
        }
        Ok(_) => missing(),
        Err(error) => error.clone().into(),
    };
    Err(explained(problem, &site.cache, key.as_key_ref(), &answered))
}

async fn answer_whole(
    site: &Site,
    key: &Key,
    method: &Method,
    headers: &HeaderMap,
    missing: impl FnOnce() -> Problem,
) -> Reply {
    let (entry, outcome) = ask(site, key, missing).await?;
    Ok(Representation::whole(&entry, outcome)?.respond(&site.cache, method, headers))
}

/// The ayah numbered `ayah` out of a rendered surah, as a document of its own.
fn one_ayah(surah_body: &[u8], surah: u8, ayah: u16) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Surah<'s> {
        #[serde(borrow)]
        ayahs: Vec<&'s serde_json::value::RawValue>,
    }
    #[derive(Serialize)]
    struct Ayah {
        surah: u8,
        #[serde(flatten)]
        ayah: serde_json::Map<String, serde_json::Value>,
    }
    let rendered: Surah<'_> = serde_json::from_slice(surah_body).ok()?;
    let raw = rendered.ayahs.get(usize::from(ayah).checked_sub(1)?)?;
    let document = Ayah { surah, ayah: serde_json::from_str(raw.get()).ok()? };
    serde_json::to_vec(&document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        assert!(surah_number("2").is_ok() && surah_number("114").is_ok());
        for other in ["0", "115", "02", "+2", "2 ", "", "2.0", "two", "99999999"] {
            assert!(surah_number(other).is_err(), "{other}");
        }
    }

    #[test]
    fn one_ayah_is_cut_out_of_a_surah() {
        let surah =
            r#"{"number":112,"ayahs":[{"number":1,"text":"a"},{"number":2,"text":"b","translation":"c"}]}"#;
        let ayah = one_ayah(surah.as_bytes(), 112, 2).unwrap();
        let ayah: serde_json::Value = serde_json::from_slice(&ayah).unwrap();
        assert_eq!(ayah, serde_json::json!({"surah": 112, "number": 2, "text": "b", "translation": "c"}));
        assert!(one_ayah(surah.as_bytes(), 112, 3).is_none() && one_ayah(surah.as_bytes(), 112, 0).is_none());
    }
}
