//! One stored entry as bytes, and back. The format outlives every library: nothing here but fixed little-endian numbers.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | format, [`FORMAT`] |
//! | 1 | 1 | zero |
//! | 2 | 2 | length of the key |
//! | 4 | 4 | length of the head |
//! | 8 | 4 | length of the body |
//! | 12 | 2 | number of tags |
//! | 14 | 2 | zero |
//! | 16 | 8 | stored at, ms since the Unix epoch |
//! | 24 | 8 | expires at, ms since the Unix epoch |
//! | 32 | 8 | sequence |
//! | 40 | … | key; then each tag as one byte of length and its text; then head; then body |
//! | end | 8 | xxh3 of everything before |
//!
//! The lengths must add up to the record exactly. [`decode`] answers any bytes at all with an entry or an error: it
//! verifies the checksum before it believes a length, never allocates more than the record is long, and never panics.
//! It does not know where a record lies or whether its entry is still alive.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::clock::Timestamp;
use crate::entry::{Entry, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyRef, TAG_BYTES_MAX};

/// What a key is filed under: wide enough that two keys never meet in practice, and when they do, it is a miss.
pub(crate) fn fingerprint(key: KeyRef<'_>) -> u128 {
    xxh3_128(key.as_str().as_bytes())
}

/// The length of the record that [`encode`] makes of `entry`, in bytes.
pub(crate) fn encoded_bytes(entry: &Entry) -> usize {
    let tags = entry.tags().map(|tag| 1 + tag.len()).sum::<usize>();
    HEADER_BYTES
        + entry.key().as_str().len()
        + tags
        + entry.head().len()
        + entry.body().len()
        + CHECKSUM_BYTES
}

/// Writes `entry` as a record to `bytes`, which is empty; `None` for what the format has no room for.
pub(crate) fn encode(entry: &Entry, bytes: &mut Vec<u8>) -> Option<()> {
    let key = entry.key();
    bytes.reserve(encoded_bytes(entry));
    bytes.extend([FORMAT, 0]);
    bytes.extend(u16::try_from(key.as_str().len()).ok()?.to_le_bytes());
    bytes.extend(u32::try_from(entry.head().len()).ok()?.to_le_bytes());
    bytes.extend(u32::try_from(entry.body().len()).ok()?.to_le_bytes());
    bytes.extend(u16::try_from(entry.tags().count()).ok()?.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(entry.stored_at().as_millis().to_le_bytes());
    bytes.extend(entry.expires_at().as_millis().to_le_bytes());
    bytes.extend(entry.sequence().to_le_bytes());
    bytes.extend(key.as_str().as_bytes());
    for tag in entry.tags() {
        bytes.push(u8::try_from(tag.len()).ok()?);
        bytes.extend(tag.as_bytes());
    }
    bytes.extend(entry.head());
    bytes.extend(entry.body());
    bytes.extend(xxh3_64(bytes).to_le_bytes());
    Some(())
}

/// The entry in `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Entry> {
    let (covered, checksum) =
        bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| broken("is too short"))?;
    if xxh3_64(covered) != u64::from_le_bytes(*checksum) {
        return Err(broken("does not match its checksum"));
    }
    parse(covered).ok_or_else(|| broken("has a form that this version does not write"))
}

fn parse(covered: &[u8]) -> Option<Entry> {
    let mut reader = Reader(covered);
    if reader.array::<2>()? != [FORMAT, 0] {
        return None;
    }
    let key_bytes = usize::from(reader.u16()?);
    let head_bytes = usize::try_from(reader.u32()?).ok()?;
    let body_bytes = usize::try_from(reader.u32()?).ok()?;
    let tag_count = usize::from(reader.u16()?);
    if reader.u16()? != 0 {
        return None;
    }
    let stored_at = Timestamp::from_millis(reader.u64()?);
    let expires_at = Timestamp::from_millis(reader.u64()?);
    let sequence = reader.u64()?;
    let key = KeyRef::parse(reader.text(key_bytes)?).ok()?;
    let mut tags = Vec::new();
    for _ in 0..tag_count {
        let tag_bytes = usize::from(reader.array::<1>()?[0]);
        let is_tag = (1..=TAG_BYTES_MAX).contains(&tag_bytes);
        tags.push(reader.text(tag_bytes).filter(|_| is_tag)?);
    }
    let (head, body) = (reader.take(head_bytes)?, reader.take(body_bytes)?);
    let parts = Parts { head, body, tags: &tags, stored_at, expires_at, sequence };
    reader.0.is_empty().then(|| Entry::new(key, &parts))
}

/// What is left to read; every step answers `None` where the bytes end too soon.
pub(crate) struct Reader<'b>(pub(crate) &'b [u8]);

impl<'b> Reader<'b> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, len: usize) -> Option<&'b str> {
        std::str::from_utf8(self.take(len)?).ok()
    }
}

/// What is said of a record that is not all there.
pub(crate) fn torn() -> Error {
    broken("is not all there")
}

fn broken(why: &'static str) -> Error {
    Error::new(ErrorKind::DiskNotTrusted, format!("the record {why}"))
}

/// The first byte of every record.
pub(crate) const FORMAT: u8 = 1;

const HEADER_BYTES: usize = 40;
const CHECKSUM_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let parts = Parts {
            head: b"head",
            body: b"the body of it",
            tags: &["surahs", "t"],
            stored_at: Timestamp::from_millis(5),
            expires_at: Timestamp::NEVER,
            sequence: 0x0102_0304_0506_0708,
        };
        Entry::new(KeyRef::parse("quran:surah:2").unwrap(), &parts)
    }

    /// The same bytes with a checksum that fits them.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let covered = bytes.len() - CHECKSUM_BYTES;
        let checksum = xxh3_64(&bytes[..covered]).to_le_bytes();
        bytes[covered..].copy_from_slice(&checksum);
        bytes
    }

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(entry, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let entry = entry();
        let bytes = encoded(&entry);
        assert_eq!(bytes.len(), encoded_bytes(&entry));
        let back = decode(&bytes).unwrap();
        assert_eq!(back.key(), entry.key());
        assert_eq!((back.head(), back.body()), (entry.head(), entry.body()));
        assert!(back.tags().eq(entry.tags()));
        assert_eq!((back.stored_at(), back.expires_at()), (entry.stored_at(), entry.expires_at()));
        assert_eq!(back.sequence(), entry.sequence());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encoded(&entry());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut mutated = bytes.clone();
                mutated[at] ^= 1 << bit;
                assert!(decode(&mutated).is_err(), "bit {bit} of byte {at}");
            }
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn forged_records_with_a_right_checksum_never_panic_and_never_change_their_length() {
        let bytes = encoded(&entry());
        for at in 0..bytes.len() - CHECKSUM_BYTES {
            for byte in [0, 1, 0x7F, 0x80, 0xFF, b':', b'\n'] {
                let mut forged = bytes.clone();
                forged[at] = byte;
                let forged = sealed(forged);
                if let Ok(entry) = decode(&forged) {
                    assert_eq!(encoded_bytes(&entry), forged.len(), "byte {at} = {byte}");
                }
                assert!(decode(&sealed(forged[..at + CHECKSUM_BYTES].to_vec())).is_err(), "cut at {at}");
            }
        }
        for bytes in [&[] as &[u8], &[0; 8], &[FORMAT; 47], &[0xFF; 200]] {
            assert!(decode(bytes).is_err());
        }
    }
}
