//! Groups: many records as one run of bytes, cut into pieces that fill redb's pages, with a directory beside it.
//!
//! Pure functions of bytes; the layouts are written down in `disk/mod.rs`. Promises: what is read back is what was
//! packed or `None`; no bytes make it panic or allocate much more than they are long. It does not know tables, threads
//! or what is in a record.

use xxhash_rust::xxh3::xxh3_64;

use super::record::Reader;

/// What the directory says about one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// The low half of the key's fingerprint.
    pub(crate) fingerprint: u64,
    pub(crate) sequence: u64,
    /// Until when the record is worth keeping, in ms since the Unix epoch; [`UNTIL_NEVER`] for good.
    pub(crate) until_ms: u64,
    /// Its length, roughly: see [`rough_size`].
    pub(crate) size: u8,
    /// How recently it had been used when this was written: 255 is most recently.
    pub(crate) heat: u8,
}

/// A group while records are added to it.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    pieces: Vec<Vec<u8>>,
    starts: Vec<u16>,
    lines: Vec<Line>,
    bytes: u64,
    /// How many records have begun.
    begun: u16,
    /// Of the piece that is open: how many had begun before it, where in it each begins, and its bytes.
    open_start: u16,
    offsets: Vec<u16>,
    open: Vec<u8>,
}

/// A whole group, ready to be stored.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) directory: Directory,
    /// The directory as it is stored.
    pub(crate) directory_bytes: Vec<u8>,
}

/// What a group holds, without its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) id: u64,
    /// How many records begin before each piece.
    pub(crate) starts: Vec<u16>,
    pub(crate) lines: Vec<Line>,
    /// What the records take, in bytes.
    pub(crate) bytes: u64,
}

/// What became of a group's records since it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notes {
    /// One bit a record, from the lowest.
    pub(crate) dead: Vec<u8>,
    pub(crate) heats: Vec<u8>,
}

impl Packer {
    /// Whether a further record belongs into the next group.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= GROUP_BYTES || self.lines.len() >= GROUP_RECORDS_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn push(&mut self, record: &[u8], line: Line) {
        if self.room() < START_BYTES_MIN {
            self.close_piece();
        }
        self.offsets.push(low16(self.open.len()));
        self.begun += 1;
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX).to_le_bytes();
        for mut rest in [&length, record] {
            loop {
                let (taken, left) = rest.split_at(self.room().min(rest.len()));
                self.open.extend_from_slice(taken);
                rest = left;
                if rest.is_empty() {
                    break;
                }
                self.close_piece();
            }
        }
        self.bytes += record.len() as u64 + LENGTH_BYTES as u64;
        self.lines.push(Line { size: rough_size(record.len()), ..line });
    }

    pub(crate) fn finish(mut self, id: u64) -> Packed {
        if !self.open.is_empty() {
            self.close_piece();
        }
        let directory = Directory { id, starts: self.starts, lines: self.lines, bytes: self.bytes };
        Packed { pieces: self.pieces, directory_bytes: directory.encode(), directory }
    }

    /// What still fits into the piece that is open.
    fn room(&self) -> usize {
        PIECE_BYTES.saturating_sub(2 + 2 * self.offsets.len() + self.open.len())
    }

    fn close_piece(&mut self) {
        let mut piece = Vec::with_capacity(2 + 2 * self.offsets.len() + self.open.len());
        piece.extend(low16(self.offsets.len()).to_le_bytes());
        for offset in self.offsets.drain(..) {
            piece.extend(offset.to_le_bytes());
        }
        piece.append(&mut self.open);
        self.pieces.push(piece);
        self.starts.push(self.open_start);
        self.open_start = self.begun;
    }
}

/// Where a record begins: the piece, and which of the records that begin in that piece it is.
pub(crate) fn locate(starts: &[u16], record: u16) -> (u32, u16) {
    let piece = starts.partition_point(|start| *start <= record).saturating_sub(1);
    let before = starts.get(piece).copied().unwrap_or(0);
    (u32::try_from(piece).unwrap_or(u32::MAX), record.saturating_sub(before))
}

/// A record, or its beginning where it goes on in the next piece.
pub(crate) struct Part<'p> {
    /// How long the whole record is.
    pub(crate) whole_bytes: usize,
    pub(crate) bytes: &'p [u8],
}

/// The record that is the `at`th to begin in `piece`.
pub(crate) fn part(piece: &[u8], at: u16) -> Option<Part<'_>> {
    let (offsets, payload) = open(piece)?;
    let offset = offsets.chunks_exact(2).nth(usize::from(at))?;
    let offset = usize::from(u16::from_le_bytes(offset.try_into().ok()?));
    let mut reader = Reader(payload.get(offset..)?);
    let whole_bytes = usize::try_from(reader.u32()?).ok()?;
    let bytes = reader.0.get(..whole_bytes).unwrap_or(reader.0);
    (whole_bytes <= RECORD_BYTES_MAX).then_some(Part { whole_bytes, bytes })
}

/// What of the record before goes on in `piece`, of which `missing` bytes are still to come.
pub(crate) fn rest(piece: &[u8], missing: usize) -> Option<&[u8]> {
    let (_, payload) = open(piece)?;
    Some(payload.get(..missing).unwrap_or(payload))
}

fn open(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(piece);
    let count = usize::from(reader.u16()?);
    Some((reader.take(count * 2)?, reader.0))
}

impl Directory {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(
            DIRECTORY_HEAD_BYTES + self.starts.len() * 2 + self.lines.len() * LINE_BYTES + 8,
        );
        bytes.extend([DIRECTORY_FORMAT, 0, 0, 0]);
        bytes.extend(u32::try_from(self.lines.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.bytes.to_le_bytes());
        bytes.extend(u32::try_from(self.starts.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.starts.iter().for_each(|start| bytes.extend(start.to_le_bytes()));
        for line in &self.lines {
            bytes.extend(line.fingerprint.to_le_bytes());
            bytes.extend(line.sequence.to_le_bytes());
            let until =
                line.until_ms.min(UNTIL_NEVER) | u64::from(line.size) << 48 | u64::from(line.heat) << 56;
            bytes.extend(until.to_le_bytes());
        }
        seal(bytes)
    }

    pub(crate) fn decode(bytes: &[u8], id: u64) -> Option<Self> {
        let mut reader = Reader(unseal(bytes)?);
        let is_known = reader.array::<4>()? == [DIRECTORY_FORMAT, 0, 0, 0];
        let count = usize::try_from(reader.u32()?).ok()?;
        let is_own = reader.u64()? == id;
        let records_bytes = reader.u64()?;
        let pieces = usize::try_from(reader.u32()?).ok()?;
        let starts = reader.take(pieces.checked_mul(2)?)?;
        let starts = starts.chunks_exact(2).map(|start| u16::from_le_bytes([start[0], start[1]])).collect();
        let is_whole = reader.0.len() == count.checked_mul(LINE_BYTES)?
            && count <= GROUP_RECORDS_MAX
            && records_bytes <= pieces as u64 * PIECE_BYTES as u64;
        let mut lines = Vec::with_capacity(reader.0.len() / LINE_BYTES);
        while !reader.0.is_empty() {
            let (fingerprint, sequence, until) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let [.., size, heat] = until.to_le_bytes();
            lines.push(Line { fingerprint, sequence, until_ms: until & UNTIL_NEVER, size, heat });
        }
        (is_known && is_own && is_whole).then_some(Self { id, starts, lines, bytes: records_bytes })
    }
}

impl Notes {
    pub(crate) fn encode(&self, id: u64) -> Vec<u8> {
        let mut bytes = vec![NOTES_FORMAT, 0, 0, 0];
        bytes.extend(u32::try_from(self.heats.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes.extend(&self.dead);
        bytes.extend(&self.heats);
        seal(bytes)
    }

    /// The notes on a group of `count` records.
    pub(crate) fn decode(bytes: &[u8], id: u64, count: usize) -> Option<Self> {
        let mut reader = Reader(unseal(bytes)?);
        let is_known = reader.array::<4>()? == [NOTES_FORMAT, 0, 0, 0];
        let is_own = usize::try_from(reader.u32()?).ok()? == count && reader.u64()? == id;
        let (dead, heats) = (reader.take(count.div_ceil(8))?.to_vec(), reader.take(count)?.to_vec());
        (is_known && is_own && reader.0.is_empty()).then_some(Self { dead, heats })
    }
}

/// The last eight bytes of what [`Directory::encode`] or [`Notes::encode`] made.
pub(crate) fn sum_of(sealed: &[u8]) -> u64 {
    sealed.last_chunk::<8>().map_or(0, |sum| u64::from_le_bytes(*sum))
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    bytes
}

fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (covered, sum) = bytes.split_last_chunk::<8>()?;
    (xxh3_64(covered) == u64::from_le_bytes(*sum)).then_some(covered)
}

/// A length in one byte, never less than it is and at most an eighth more.
pub(crate) fn rough_size(bytes: usize) -> u8 {
    let eighths = u32::try_from(bytes).unwrap_or(u32::MAX / 2).max(8);
    let exponent = eighths.ilog2() - 3;
    let mantissa = eighths.div_ceil(1 << exponent);
    // 8 to 16 eighths of a power of two.
    u8::try_from(exponent * 8 + mantissa - 8).unwrap_or(u8::MAX)
}

/// What [`rough_size`] stands for.
pub(crate) fn size_of(rough: u8) -> u64 {
    (u64::from(rough) % 8 + 8) << (rough / 8)
}

/// The low sixteen bits; every number it is given is smaller than that.
fn low16(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// As a row it fills 16 of redb's pages; from about 65 430 bytes on it would take 32.
pub(crate) const PIECE_BYTES: usize = 65_400;

/// A group takes no further record from here on.
pub(crate) const GROUP_BYTES: u64 = 1 << 20;

/// So that a record's number fits into 15 bits.
pub(crate) const GROUP_RECORDS_MAX: usize = 32_767;

/// Larger than any record: values are at most 4 GiB, and in practice 32 MiB.
const RECORD_BYTES_MAX: usize = 1 << 30;

/// A record begins only where its length fits beside the offset that points to it.
const START_BYTES_MIN: usize = 64;

const LENGTH_BYTES: usize = 4;

/// 48 bits of milliseconds, all ones: it never expires.
pub(crate) const UNTIL_NEVER: u64 = (1 << 48) - 1;

const DIRECTORY_HEAD_BYTES: usize = 28;
const LINE_BYTES: usize = 24;
const DIRECTORY_FORMAT: u8 = 1;
const NOTES_FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Line {
        Line { fingerprint: number, sequence: number + 1, until_ms: UNTIL_NEVER - number, size: 0, heat: 7 }
    }

    fn read(packed: &Packed, record: u16) -> Option<Vec<u8>> {
        let (mut piece, at) = locate(&packed.directory.starts, record);
        let part = part(&packed.pieces[piece as usize], at)?;
        let mut bytes = part.bytes.to_vec();
        while bytes.len() < part.whole_bytes {
            piece += 1;
            bytes.extend(rest(&packed.pieces[piece as usize], part.whole_bytes - bytes.len())?);
        }
        Some(bytes)
    }

    #[test]
    fn records_of_every_size_come_back_whether_they_span_pieces_or_not() {
        let sizes = [0, 1, 57, 100, 5000, 65_300, 65_390, 65_400, 65_401, 200_000, 3, 131_000, 40, 400_000];
        let mut group = Packer::default();
        let mut records = Vec::new();
        for (number, size) in sizes.iter().cycle().take(60).enumerate() {
            let record = vec![u8::try_from(number).unwrap(); *size];
            group.push(&record, line(number as u64));
            records.push(record);
        }
        let packed = group.finish(9);
        assert!(packed.pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        for (number, record) in records.iter().enumerate() {
            assert_eq!(&read(&packed, u16::try_from(number).unwrap()).unwrap(), record, "{number}");
            let said = size_of(packed.directory.lines[number].size);
            let is = record.len() as u64;
            assert!((is..=(is + is / 8).max(8)).contains(&said), "{is} {said}");
        }
        let bytes = packed.directory.encode();
        assert_eq!(Directory::decode(&bytes, 9).unwrap(), packed.directory);
        assert!(Directory::decode(&bytes, 8).is_none());
        for at in 0..bytes.len() {
            let mut mutated = bytes.clone();
            mutated[at] ^= 1;
            assert!(Directory::decode(&mutated, 9).is_none(), "{at}");
        }
    }

    #[test]
    fn notes_come_back_and_belong_to_one_group() {
        let notes = Notes { dead: vec![0b101, 1], heats: (0..9).collect() };
        let bytes = notes.encode(3);
        assert_eq!(Notes::decode(&bytes, 3, 9).unwrap(), notes);
        assert!(Notes::decode(&bytes, 4, 9).is_none() && Notes::decode(&bytes, 3, 8).is_none());
    }

    #[test]
    fn forged_pieces_never_panic() {
        for piece in [
            &[] as &[u8],
            &[9, 0],
            &[255, 255, 1],
            &[1, 0, 200, 0, 1, 2, 3],
            &[1, 0, 0, 0, 255, 255, 255, 255],
        ] {
            for at in [0, 1, u16::MAX] {
                assert!(part(piece, at).is_none_or(|part| part.bytes.len() <= piece.len()));
                assert!(rest(piece, 10).is_none_or(|rest| rest.len() <= piece.len()));
            }
        }
    }
}
