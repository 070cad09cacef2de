//! Content that is read from another service: what its keys stand for there, and which source this process has.

use std::sync::Arc;

use crate::content::keys::Content;
use crate::content::{Store, foreign};
use crate::datadir::DataDir;
use crate::engine::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::origin::{Origin, Shapes};
use crate::server::config::SourceSettings;
use crate::source::{Load, Loaded, Source};

/// The shapes of the public interface.
#[derive(Debug)]
struct PublicShapes;

impl Shapes for PublicShapes {
    fn path(&self, key: KeyRef<'_>) -> Option<String> {
        foreign::path(&Content::of(key)?)
    }

    fn accept(&self, key: KeyRef<'_>, body: &[u8]) -> Result<Loaded> {
        let content = Content::of(key).ok_or_else(|| not_content(key))?;
        let body = foreign::canonical(&content, body)?;
        Ok(Loaded::new(body).content_type("application/json").tag(content.tag()))
    }

    fn missing(&self, key: KeyRef<'_>, code: Option<&str>) -> Result<Load> {
        match Content::of(key) {
            Some(Content::Surahs | Content::Reciters | Content::Translations) => {
                let message = "the origin has no such list, so its address is not that of the content";
                Err(Error::new(ErrorKind::SourceRefused, message))
            }
            Some(Content::Surah(number, Some(translation))) if code == Some("TRANSLATION_NOT_AVAILABLE") => {
                let message =
                    format!("the translation {translation} of surah {number} is known but not loaded");
                Err(Error::new(ErrorKind::TranslationNotAvailable, message))
            }
            _ => Ok(Load::Absent),
        }
    }
}

fn not_content(key: KeyRef<'_>) -> Error {
    Error::new(ErrorKind::SourceRefused, format!("{key} is no key of content"))
}

/// What content is read from: the service that `settings` name, else the store.
pub(super) fn source(settings: &SourceSettings, store: &Store) -> Result<Arc<dyn Source>> {
    let Some(url) = &settings.url else { return Ok(Arc::new(store.clone())) };
    Ok(Arc::new(Origin::new(url, settings.ca.as_deref(), PublicShapes, DOCUMENT_BYTES_MAX)?))
}

/// Forgets everything cached when it came from another source than this one. Blocks on the disk.
pub(super) fn forget_if_changed(cache: &Cache, directory: &DataDir, source: &dyn Source) -> Result<()> {
    let now = source.name();
    let before = directory.read_note(FILE, NAME_BYTES_MAX);
    // Before there was a note there was one source.
    let before = before.as_deref().map_or("content store".into(), String::from_utf8_lossy);
    if before == now {
        return Ok(());
    }
    let forgotten = cache.clear_all()?;
    tracing::info!(
        source = now,
        before = &*before,
        forgotten,
        "content comes from another source: the cache is cleared"
    );
    directory.write_note(FILE, now.as_bytes())
}

/// What says where the cached content came from.
const FILE: &str = "hifz.source";

const NAME_BYTES_MAX: u64 = 4096;

/// No larger document is taken from an origin.
const DOCUMENT_BYTES_MAX: u64 = crate::content::DOCUMENT_BYTES_MAX as u64;
