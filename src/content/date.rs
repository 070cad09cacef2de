//! Dates as JSON documents show them: RFC 3339 in UTC to the millisecond, such as `2026-11-24T11:48:24.123Z`.
//!
//! Promises: what is shown reads back as the same point in time; one spelling a point. Years 1970 to 9999; what lies
//! beyond is shown as the last moment of 9999. Knows no leap seconds, as the Unix epoch does not.

use crate::clock::Timestamp;

/// `at` as a date.
pub(super) fn show(at: Timestamp) -> String {
    let ms = at.as_millis().min(LAST_MS);
    let (days, ms) = (ms / DAY_MS, ms % DAY_MS);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// The point that `text` shows; `None` for what [`show`] does not write.
pub(super) fn read(text: &str) -> Option<Timestamp> {
    let field = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let days = days(field(0, 4)?, field(5, 7)?, field(8, 10)?)?;
    let of_day = ((field(11, 13)? * 60 + field(14, 16)?) * 60 + field(17, 19)?) * 1000 + field(20, 23)?;
    let at = Timestamp::from_millis(days * DAY_MS + of_day);
    // Whatever is out of bounds or otherwise spelled is shown differently.
    (show(at) == text).then_some(at)
}

/// Year, month and day of the day `days` after the epoch.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= year_days(year) {
        days -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

/// How many days after the epoch that day is.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let years: u64 = (1970..year).map(year_days).sum();
    let months: u64 = (1..month).map(|month| month_days(year, month)).sum();
    Some(years + months + day - 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_days(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

const DAY_MS: u64 = 86_400_000;

/// 9999-12-31T23:59:59.999Z
const LAST_MS: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points_are_shown_and_read_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_000_000_000_999, "2001-09-09T01:46:40.999Z"),
            (4_107_542_399_001, "2100-02-28T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(show(Timestamp::from_millis(ms)), text);
            assert_eq!(read(text), Some(Timestamp::from_millis(ms)));
        }
        assert_eq!(show(Timestamp::NEVER), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn other_spellings_and_days_that_do_not_exist_are_no_dates() {
        for text in [
            "",
            "2001-09-09",
            "2001-09-09T01:46:40Z",
            "2001-09-09T01:46:40.9990Z",
            "2001-09-09t01:46:40.999Z",
            "2001-09-09T01:46:40.999+00:00",
            "2001-02-29T00:00:00.000Z",
            "2001-13-01T00:00:00.000Z",
            "2001-00-01T00:00:00.000Z",
            "2001-01-00T00:00:00.000Z",
            "2001-01-01T24:00:00.000Z",
            "2001-01-01T00:60:00.000Z",
            "1969-12-31T23:59:59.999Z",
            "+001-01-01T00:00:00.000Z",
            "é001-01-01T00:00:00.000Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
