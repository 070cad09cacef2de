//! Documents as they are shown: the lists with their sources, a surah beside a translation, JSON bytes.
//!
//! Promises: JSON in the shapes of the public interface, compact; each value with the time its content last changed.
//! Knows neither how documents are stored nor who asks.

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::source::Loaded;

use super::database::ReadRows;
use super::documents::List;
use super::facts;
use super::keys::{Content, SurahNumber, TranslationId};
use super::model::{ReciterList, Source, Surah, SurahDocument, SurahList, TranslationList};

/// The rendered value of `content`; `None` when there is none.
pub(super) fn value(rows: &ReadRows, content: &Content) -> Result<Option<Loaded>> {
    let found = match content {
        Content::Surahs => rendered(Some((surah_list(rows)?, rows.modified(List::Surahs)?))),
        Content::Surah(number, translation) => rendered(surah_document(rows, *number, translation.as_ref())?),
        Content::Reciters => {
            rendered(Some((ReciterList { reciters: rows.reciters()? }, rows.modified(List::Reciters)?)))
        }
        Content::Reciter(id) => rendered(rows.reciter(id)?),
        Content::Translations => rendered(Some((
            TranslationList { translations: rows.translations()? },
            rows.modified(List::Translations)?,
        ))),
        // Whether it is loaded changes with its texts, so it is dated as the list is.
        Content::Translation(id) => {
            let at = rows.modified(List::Translations)?;
            rendered(rows.translation(id)?.map(|(translation, _)| (translation, at)))
        }
        Content::Bookmarks(_) => Ok(None),
    }?;
    Ok(found.map(|(body, modified_at)| {
        Loaded::new(body).content_type("application/json").modified_at(modified_at).tag(content.tag())
    }))
}

/// The list of surahs.
pub(super) fn surah_list(rows: &ReadRows) -> Result<SurahList> {
    let surahs = rows.surahs()?;
    let source = list_source(surahs.iter().map(|surah| surah.edition.as_str()));
    Ok(SurahList { surahs: surahs.into_iter().map(Surah::summary).collect(), source })
}

/// The source of a list whose surahs are of `editions`: the embedded text's while any of it is shown, with the notices
/// of all others below.
fn list_source<'e>(editions: impl Iterator<Item = &'e str>) -> Source {
    let mut editions = editions.collect::<Vec<_>>();
    editions.sort_unstable_by_key(|edition| (*edition != facts::EDITION_BUILT_IN, *edition));
    editions.dedup();
    let mut sources = editions.into_iter().filter_map(facts::source_of);
    let mut source = sources.next().unwrap_or_else(|| Source {
        name: "edited by the operator of this server".into(),
        url: String::new(),
        licence: String::new(),
        notice: String::new(),
    });
    for further in sources {
        source.notice.push_str("\n\n");
        source.notice.push_str(&further.notice);
    }
    source
}

/// A surah, beside a translation where one is asked for.
pub(super) fn surah_document(
    rows: &ReadRows,
    number: SurahNumber,
    translation: Option<&TranslationId>,
) -> Result<Option<(SurahDocument, Timestamp)>> {
    let Some((surah, at)) = rows.surah(number)? else { return Ok(None) };
    let Some(translation) = translation else { return Ok(Some((surah.document(Vec::new()), at))) };
    if !rows.has_translation(translation)? {
        return Ok(None);
    }
    let Some((texts, texts_at)) = rows.texts(number, translation)? else {
        let message = format!(
            "the translation {translation} of surah {number} is known but not loaded; import it first"
        );
        return Err(Error::new(ErrorKind::TranslationNotAvailable, message));
    };
    Ok(Some((surah.document(texts), at.max(texts_at))))
}

fn rendered<T: serde::Serialize>(found: Option<(T, Timestamp)>) -> Result<Option<(Vec<u8>, Timestamp)>> {
    let Some((document, at)) = found else { return Ok(None) };
    Ok(Some((json(&document)?, at)))
}

/// `document` as the bytes that are served.
pub(super) fn json(document: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|error| {
        Error::new(ErrorKind::ContentDamaged, "the document cannot be rendered").because(error)
    })
}
