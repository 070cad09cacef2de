//! Small metadata to bytes and back: the only file that knows bincode.
//!
//! What it writes begins with a format byte, so that a reader refuses what a later version wrote instead of guessing.
//! Reading is bounded: a forged length is refused before anything of that size is allocated. Bodies never pass
//! through here; they are stored raw.

use bincode::{BorrowDecode, Encode, config};

use crate::error::{Error, ErrorKind, Result};

/// `value` as bytes, format byte first.
pub(crate) fn encode<T: Encode>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_after(&mut bytes, value)?;
    Ok(bytes)
}

/// Appends `value` to `bytes`, format byte first.
pub(crate) fn encode_after<T: Encode>(bytes: &mut Vec<u8>, value: &T) -> Result<()> {
    bytes.push(FORMAT);
    bincode::encode_into_std_write(value, bytes, CONFIG).map_err(|error| {
        Error::new(ErrorKind::DiskFailed, "the document cannot be encoded").because(error)
    })?;
    Ok(())
}

/// The value in `bytes`, all of which must belong to it.
pub(crate) fn decode<'b, T: BorrowDecode<'b, ()>>(bytes: &'b [u8]) -> Result<T> {
    let (value, rest) = decode_first(bytes)?;
    if !rest.is_empty() {
        return Err(not_trusted(format!("has {} bytes after its end", rest.len())));
    }
    Ok(value)
}

/// The value that `bytes` begin with, and what follows it.
pub(crate) fn decode_first<'b, T: BorrowDecode<'b, ()>>(bytes: &'b [u8]) -> Result<(T, &'b [u8])> {
    let (format, rest) = bytes.split_first().ok_or_else(|| not_trusted("is empty"))?;
    if *format != FORMAT {
        return Err(not_trusted(format!("has format {format}, this version reads {FORMAT}")));
    }
    let (value, read) = bincode::borrow_decode_from_slice(rest, CONFIG)
        .map_err(|error| not_trusted("cannot be decoded").because(error))?;
    Ok((value, rest.split_at(read).1))
}

/// `value` of any serde type as bytes, format byte first.
#[cfg(feature = "typed")]
pub(crate) fn encode_serde<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = vec![FORMAT];
    bincode::serde::encode_into_std_write(value, &mut bytes, CONFIG).map_err(|error| {
        Error::new(ErrorKind::DocumentInvalid, "the value cannot be encoded").because(error)
    })?;
    Ok(bytes)
}

/// The value that [`encode_serde`] made `bytes` of.
#[cfg(feature = "typed")]
pub(crate) fn decode_serde<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let not_this = |why: String| Error::new(ErrorKind::DocumentInvalid, format!("the value {why}"));
    let (format, rest) = bytes.split_first().ok_or_else(|| not_this("is empty".to_owned()))?;
    if *format != FORMAT {
        return Err(not_this(format!("has format {format}, this version reads {FORMAT}")));
    }
    let (value, read) = bincode::serde::decode_from_slice(rest, CONFIG)
        .map_err(|error| not_this("is not of this type".to_owned()).because(error))?;
    if read != rest.len() {
        return Err(not_this(format!("is not of this type: {} bytes are left over", rest.len() - read)));
    }
    Ok(value)
}

/// What a reader says of a layout that it does not know.
pub(crate) fn other_layout(layout: u8) -> Error {
    not_trusted(format!("has layout {layout}, which this version does not read"))
}

fn not_trusted(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::DiskNotTrusted, format!("the stored document {why}"))
}

/// The first byte of everything written here.
const FORMAT: u8 = 1;

/// No document is larger than this once decoded, in bytes.
const DECODED_BYTES_MAX: usize = 64 << 20;

const CONFIG: config::Configuration<config::LittleEndian, config::Varint, config::Limit<DECODED_BYTES_MAX>> =
    config::standard().with_limit::<DECODED_BYTES_MAX>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_comes_back() {
        let value = (7_u64, "text".to_owned(), vec![1_u8, 2, 3]);
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes).unwrap(), value);
    }

    #[cfg(feature = "typed")]
    #[test]
    fn any_serde_value_comes_back_and_another_type_or_a_forged_length_is_refused() {
        let value = (7_u64, "text".to_owned(), vec![Some(1_u8), None]);
        let bytes = encode_serde(&value).unwrap();
        assert_eq!(decode_serde::<(u64, String, Vec<Option<u8>>)>(&bytes).unwrap(), value);
        assert!(decode_serde::<u64>(&bytes).is_err(), "bytes are left over");
        let forged = [FORMAT, 253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode_serde::<Vec<u8>>(&forged).is_err());
        assert!(decode_serde::<String>(&[]).is_err());
    }

    #[test]
    fn foreign_formats_trailing_bytes_and_forged_lengths_are_refused() {
        let mut bytes = encode(&"text".to_owned()).unwrap();
        bytes.push(0);
        assert!(decode::<String>(&bytes).is_err());
        bytes.pop();
        bytes[0] = FORMAT + 1;
        assert!(decode::<String>(&bytes).is_err());
        assert!(decode::<String>(&[]).is_err());
        let forged = [FORMAT, 253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode::<Vec<u8>>(&forged).is_err());
    }
}
