//! `Range` (RFC 9110 §14): which bytes of a representation a client asks for.
//!
//! One range is cut out; several that can be satisfied are answered with the whole, which the RFC allows and clients
//! expect of small documents. A header that breaks the grammar or names another unit is as good as absent. Pure
//! functions of bytes; never panics, whatever they are.

use std::ops::Range;

/// What a `Range` header comes to for a representation of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RangeAsked {
    /// No range, none that can be understood, or several: the whole is sent.
    Whole,
    /// These bytes; never empty, and within the representation.
    Part(Range<usize>),
    /// Every range lies beyond the end.
    Beyond,
}

/// Reads the value of a `Range` header for a representation of `length` bytes.
pub(super) fn parse(value: &[u8], length: usize) -> RangeAsked {
    let Some(list) = byte_ranges(value) else { return RangeAsked::Whole };
    let mut found = None;
    let mut count = 0;
    for spec in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty()) {
        count += 1;
        match one(spec, length) {
            None => return RangeAsked::Whole,
            Some(range) if range.is_empty() => {}
            Some(_) if found.is_some() => return RangeAsked::Whole,
            Some(range) => found = Some(range),
        }
    }
    match found {
        Some(range) => RangeAsked::Part(range),
        None if count == 0 => RangeAsked::Whole,
        None => RangeAsked::Beyond,
    }
}

/// What stands after `bytes=`.
fn byte_ranges(value: &[u8]) -> Option<&[u8]> {
    let at = value.iter().position(|byte| *byte == b'=')?;
    let (unit, list) = (value.get(..at)?, value.get(at + 1..)?);
    unit.trim_ascii().eq_ignore_ascii_case(b"bytes").then_some(list)
}

/// `first-last`, `first-` or `-suffix`; empty when it lies beyond the end, `None` when it is none of these.
fn one(spec: &[u8], length: usize) -> Option<Range<usize>> {
    let dash = spec.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (spec.get(..dash)?, spec.get(dash + 1..)?);
    if first.is_empty() {
        let suffix = number(last)?.min(length);
        return Some(length - suffix..length);
    }
    let first = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    let end = last.saturating_add(1).min(length);
    Some(first.min(end)..end)
}

/// Digits alone; a number that does not fit counts as the largest that does.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: usize, digit: &u8| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_cut_to_what_is_there() {
        for (value, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-4", 2..5),
            ("bytes=5-", 5..10),
            ("bytes=5-99999999999999999999999", 5..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
            ("Bytes = 0-1", 0..2),
            ("bytes=0-1,", 0..2),
            ("bytes=20-30, 1-2", 1..3),
        ] {
            assert_eq!(parse(value.as_bytes(), 10), RangeAsked::Part(part), "{value}");
        }
    }

    #[test]
    fn what_lies_beyond_the_end_is_told_apart_from_what_is_no_range() {
        for value in
            ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-", "bytes=10-,11-"]
        {
            assert_eq!(parse(value.as_bytes(), 10), RangeAsked::Beyond, "{value}");
        }
        let odd = [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=3-2",
            "lines=0-1",
            "bytes=0-1,4-5",
            "bytes=+1-2",
        ];
        for value in odd {
            assert_eq!(parse(value.as_bytes(), 10), RangeAsked::Whole, "{value}");
        }
        assert_eq!(parse(b"bytes=0-", 0), RangeAsked::Beyond);
        assert_eq!(parse(&[0xFF; 20], 10), RangeAsked::Whole);
    }
}
