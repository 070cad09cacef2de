//! HTTP dates, each rendered once a thread: the present once a second, and the last few others.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use crate::clock::wall_secs;

/// Appends the present as HTTP writes it.
pub(in crate::server) fn write_now(value: &mut Vec<u8>) {
    thread_local!(static LAST: Rendered = const { RefCell::new((u64::MAX, String::new())) });
    LAST.with(|last| write_remembered(value, wall_secs(), last));
}

/// Appends so many seconds after the Unix epoch as HTTP writes it.
pub(super) fn write(value: &mut Vec<u8>, secs: u64) {
    let secs = secs.min(SECS_MAX);
    thread_local! {
        // Documents of one import or one start share their date, and few others are asked for at a time.
        static LAST: [Rendered; SLOTS] = const { [const { RefCell::new((u64::MAX, String::new())) }; SLOTS] };
    }
    let slot = usize::try_from(secs % SLOTS as u64).unwrap_or(0);
    LAST.with(|slots| write_remembered(value, secs, &slots[slot]));
}

type Rendered = RefCell<(u64, String)>;

fn write_remembered(value: &mut Vec<u8>, secs: u64, last: &Rendered) {
    let (at, text) = &mut *last.borrow_mut();
    if *at != secs {
        *text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        *at = secs;
    }
    value.extend_from_slice(text.as_bytes());
}

/// Dates that are remembered.
const SLOTS: usize = 16;

/// The last second of the year 9999, beyond which no date can be written.
const SECS_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_has_them_again_and_again() {
        for _ in 0..2 {
            for (secs, text) in [
                (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
                (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
                (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
            ] {
                let mut value = Vec::new();
                write(&mut value, secs);
                assert_eq!(String::from_utf8(value).unwrap(), text);
            }
        }
    }
}
