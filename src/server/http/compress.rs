//! The coded forms of a body: made once, when its source gave it, and kept beside it in the same entry.
//!
//! [`Coded`] stands before a source and adds to what it gives the forms worth keeping, on a thread that may block. Of a
//! large body that is one form, made quickly, and of a huge one none: it would take as much room again, and somebody waits.
//! Where a namespace keeps only its compressed form, the body itself is the gzip form, which every client with any
//! coding at all takes, and the plain form is made for those that take none.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use crate::entry::{Entry, Form, Head};
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::source::{Ask, Load, Loaded, LoadedForms, Loading, Source, Weighing, Weight};

use super::coding::Coding;

/// A source whose values come with their coded forms.
#[derive(Debug, Clone)]
pub(in crate::server) struct Coded<S> {
    source: S,
    /// The namespaces that keep only the compressed form.
    compressed_only: Arc<HashSet<String>>,
}

impl<S> Coded<S> {
    pub(in crate::server) fn new(source: S, compressed_only: Arc<HashSet<String>>) -> Self {
        Self { source, compressed_only }
    }
}

impl<S: Source> Source for Coded<S> {
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        let key = ask.key;
        let is_compressed_only = self.compressed_only.contains(key.namespace());
        Box::pin(async move {
            let loaded = match self.source.load(ask).await? {
                Load::Value(loaded) => loaded,
                other => return Ok(other),
            };
            if is_compressed_only {
                // Later the body is no longer the one that its source can judge.
                self.source.validate(key, &loaded)?;
            }
            let held = ask.hold_room().await;
            let coding = blocking::unblock(move || {
                let _held = held;
                with_forms(loaded, is_compressed_only)
            });
            coding.await.map(Load::Value)
        })
    }

    fn weigh<'l>(&'l self, key: KeyRef<'l>) -> Weighing<'l> {
        let is_compressed_only = self.compressed_only.contains(key.namespace());
        Box::pin(async move {
            let weight = self.source.weigh(key).await?;
            let is_coded = is_compressed_only || weight.answer_bytes <= HUGE_BYTES as u64;
            // A form that is kept has at most nine tenths of it.
            let forms = if is_coded { weight.answer_bytes } else { 0 };
            Ok(Weight::of(weight.answer_bytes.saturating_add(forms)).making(weight.making_bytes))
        })
    }

    fn validate(&self, key: KeyRef<'_>, loaded: &Loaded) -> Result<()> {
        if loaded.forms.plain.is_some() { Ok(()) } else { self.source.validate(key, loaded) }
    }

    fn name(&self) -> &str {
        self.source.name()
    }
}

/// The same value with the forms that are worth keeping.
fn with_forms(mut loaded: Loaded, is_compressed_only: bool) -> Result<Loaded> {
    let plain = std::mem::take(&mut loaded.body);
    if plain.len() < PLAIN_BYTES_MIN || plain.len() > HUGE_BYTES && !is_compressed_only {
        return Ok(Loaded { body: plain, ..loaded });
    }
    if is_compressed_only {
        let coded = gzipped(&plain)?;
        if !is_worth_keeping(&coded, &plain) {
            return Ok(Loaded { body: plain, ..loaded });
        }
        let digest = xxhash_rust::xxh3::xxh3_128(&plain);
        let form = Form { mark: mark(&coded), bytes: coded.len() as u64 };
        loaded.forms.plain = Some((digest, plain.len() as u64));
        loaded.forms.kept[Coding::Gzip as usize] = Some(form);
        return Ok(Loaded { body: coded, ..loaded });
    }
    let codings: &[Coding] = if plain.len() < LARGE_BYTES {
        &[Coding::Zstd, Coding::Brotli, Coding::Gzip]
    } else {
        &[Coding::Gzip]
    };
    let mut forms = Box::<LoadedForms>::default();
    for coding in codings {
        let coded = encode(*coding, &plain)?;
        if is_worth_keeping(&coded, &plain) {
            forms.kept[*coding as usize] = Some(Form { mark: mark(&coded), bytes: coded.len() as u64 });
            if forms.coded.is_empty() {
                forms.coded = coded;
            } else {
                forms.coded.extend_from_slice(&coded);
            }
        }
    }
    loaded.forms = forms;
    Ok(Loaded { body: plain, ..loaded })
}

/// What tells two codings of the same bytes apart.
fn mark(coded: &[u8]) -> u32 {
    // The low half of a digest is as good as any.
    let digest = xxhash_rust::xxh3::xxh3_64(coded);
    u32::try_from(digest & 0xFFFF_FFFF).unwrap_or(0)
}

/// A tenth saved is the least that pays for a second copy.
fn is_worth_keeping(coded: &[u8], plain: &[u8]) -> bool {
    coded.len() * 10 <= plain.len() * 9
}

fn encode(coding: Coding, plain: &[u8]) -> Result<Vec<u8>> {
    match coding {
        Coding::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL).map_err(unpacked),
        Coding::Brotli => {
            let mut coded = Vec::with_capacity(plain.len() / 2);
            let mut writer =
                brotli::CompressorWriter::new(&mut coded, 4096, BROTLI_QUALITY, BROTLI_WINDOW_BITS);
            writer.write_all(plain).map_err(unpacked)?;
            drop(writer);
            Ok(coded)
        }
        Coding::Gzip => gzipped(plain),
        Coding::Identity => Ok(plain.to_vec()),
    }
}

fn gzipped(plain: &[u8]) -> Result<Vec<u8>> {
    let level = if plain.len() < LARGE_BYTES { GZIP_LEVEL } else { GZIP_LEVEL_LARGE };
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    writer.write_all(plain).and_then(|()| writer.finish()).map_err(unpacked)
}

fn unpacked(error: std::io::Error) -> Error {
    Error::new(ErrorKind::SourceUnavailable, "the answer cannot be compressed").because(error)
}

/// The plain form of what `entry` holds.
///
/// # Errors
/// [`ErrorKind::DiskNotTrusted`] when it holds something else than its head says.
pub(in crate::server) fn plain_body(entry: &Entry) -> Result<Cow<'_, [u8]>> {
    // What was written through the raw routes has no head and is what it is.
    let plain = Head::decode(entry.head()).ok().and_then(|head| head.forms.plain_bytes);
    let Some(bytes) = plain else { return Ok(Cow::Borrowed(entry.body())) };
    let broken = || Error::new(ErrorKind::DiskNotTrusted, "the stored form cannot be decompressed");
    let mut whole = Vec::with_capacity(usize::try_from(bytes).map_err(|_| broken())?.min(ROOM_BYTES_MAX));
    let mut reader = flate2::read::GzDecoder::new(entry.body()).take(bytes + 1);
    reader.read_to_end(&mut whole).map_err(|error| broken().because(error))?;
    if whole.len() as u64 == bytes { Ok(Cow::Owned(whole)) } else { Err(broken()) }
}

/// Whether what `entry` holds is the plain form.
pub(super) fn is_plain(entry: &Entry) -> bool {
    Head::decode(entry.head()).map_or(true, |head| head.forms.plain_bytes.is_none())
}

/// How large the plain form of what `entry` holds is.
pub(super) fn plain_bytes(entry: &Entry) -> u64 {
    let plain = Head::decode(entry.head()).ok().and_then(|head| head.forms.plain_bytes);
    plain.unwrap_or(entry.body().len() as u64)
}

/// Smaller bodies fit into one packet as they are.
const PLAIN_BYTES_MIN: usize = 512;

/// From here on a body is large: of the built-in ones none is a quarter of it.
const LARGE_BYTES: usize = 1 << 20;

/// Beyond this it is huge.
const HUGE_BYTES: usize = 4 << 20;

/// What is taken at once to decompress into; a stored length is believed no further.
const ROOM_BYTES_MAX: usize = 1 << 20;

// Levels at which a large surah (185 kB) takes some ten milliseconds in all, beside the thread that loads it.
const ZSTD_LEVEL: i32 = 9;
const BROTLI_QUALITY: u32 = 6;
const BROTLI_WINDOW_BITS: u32 = 18;
const GZIP_LEVEL: u32 = 7;

/// And one at which ten megabytes take some hundred milliseconds.
const GZIP_LEVEL_LARGE: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entry::Parts;

    fn loaded(body: &[u8]) -> Loaded {
        Loaded::new(body)
    }

    fn entry(loaded: &Loaded) -> Entry {
        let forms = loaded.forms.as_forms();
        let head = Head { content_type: "text/plain", etag: 1, modified_at_ms: 1, forms }.encode().unwrap();
        let (at, never) = (Timestamp::from_millis(1), Timestamp::NEVER);
        let parts = Parts {
            head: &head,
            body: &loaded.body,
            tags: &[],
            stored_at: at,
            expires_at: never,
            sequence: 1,
        };
        Entry::new(KeyRef::parse("a:b").unwrap(), &parts)
    }

    #[test]
    fn what_does_not_shrink_is_kept_as_it_is() {
        let random: Vec<u8> = (0..1000_u64).flat_map(|at| mark(&at.to_le_bytes()).to_le_bytes()).collect();
        for is_compressed_only in [false, true] {
            for body in [random.as_slice(), b"small", b""] {
                assert_eq!(with_forms(loaded(body), is_compressed_only).unwrap(), loaded(body));
            }
        }
    }

    #[test]
    fn of_a_large_body_one_form_is_made_and_of_a_huge_one_none() {
        let text = "a verse and another ".repeat(LARGE_BYTES / 20 + 1);
        let kept = with_forms(loaded(text.as_bytes()), false).unwrap();
        let made = kept.forms.kept.map(|form| form.is_some());
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        assert!(made[Coding::Gzip as usize] && kept.body.len() == text.len());
        let huge = "a".repeat(HUGE_BYTES + 1);
        assert_eq!(with_forms(loaded(huge.as_bytes()), false).unwrap(), loaded(huge.as_bytes()));
        assert!(with_forms(loaded(huge.as_bytes()), true).unwrap().forms.plain.is_some());
    }

    #[test]
    fn a_compressed_body_gives_back_its_plain_form_and_a_false_length_is_noticed() {
        let text = "a verse and another ".repeat(200);
        let mut kept = with_forms(loaded(text.as_bytes()), true).unwrap();
        assert!(kept.body.len() * 4 < text.len());
        assert_eq!(plain_body(&entry(&kept)).unwrap(), text.as_bytes());
        for bytes in [0, text.len() as u64 - 1, text.len() as u64 + 1, u64::MAX - 1] {
            kept.forms.plain = Some((1, bytes));
            assert!(plain_body(&entry(&kept)).is_err(), "{bytes}");
        }
        let all = with_forms(loaded(text.as_bytes()), false).unwrap();
        assert_eq!(plain_body(&entry(&all)).unwrap(), text.as_bytes());
        assert_eq!(
            all.forms.kept.iter().flatten().map(|form| form.bytes).sum::<u64>(),
            all.forms.coded.len() as u64
        );
    }
}
