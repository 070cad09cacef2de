//! When something recurring is next due: five fields of cron, in UTC.
//!
//! As in every cron: where both day of month and day of week are given, either is enough. Knows no clock; it is asked
//! for the first minute after one.

use crate::clock::Timestamp;
use crate::server::config::parse_cron;

/// A schedule of five fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    is_day_given: bool,
    is_weekday_given: bool,
}

impl Schedule {
    /// Reads what the settings have checked; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = parse_cron(text).ok()?;
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else { return None };
        let weekdays_set = bits(weekdays, 0, 7, WEEKDAYS)?;
        Some(Self {
            minutes: bits(minutes, 0, 59, &[])?,
            hours: bits(hours, 0, 23, &[])?,
            days: bits(days, 1, 31, &[])?,
            months: bits(months, 1, 12, MONTHS)?,
            // Sunday is 0 and 7.
            weekdays: weekdays_set | weekdays_set >> 7 & 1,
            is_day_given: !days.starts_with('*'),
            is_weekday_given: !weekdays.starts_with('*'),
        })
    }

    /// The first minute after `after` that it names; `None` when there is none within the next years.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let first = after.as_secs() / 60 + 1;
        let (mut day, first_minute) = (first / MINUTES_A_DAY, first % MINUTES_A_DAY);
        let mut from = first_minute;
        for _ in 0..DAYS_MAX {
            if self.names_day(day) {
                let due = (from..MINUTES_A_DAY)
                    .find(|minute| has(self.hours, minute / 60) && has(self.minutes, minute % 60));
                if let Some(minute) = due {
                    return Some(Timestamp::from_millis((day * MINUTES_A_DAY + minute) * 60_000));
                }
            }
            (day, from) = (day + 1, 0);
        }
        None
    }

    fn names_day(&self, day: u64) -> bool {
        let (month, day_of_month) = civil(day);
        // 1 January 1970 was a Thursday.
        let weekday = (day + 4) % 7;
        let (is_day, is_weekday) = (has(self.days, day_of_month), has(self.weekdays, weekday));
        let is_one = if self.is_day_given && self.is_weekday_given {
            is_day || is_weekday
        } else {
            is_day && is_weekday
        };
        has(self.months, month) && is_one
    }
}

/// The numbers a field names, as bits.
fn bits(field: &str, least: u64, most: u64, words: &[&str]) -> Option<u64> {
    let number = |text: &str| -> Option<u64> {
        let lower = text.to_ascii_lowercase();
        let named = words.iter().zip(least..).find(|(word, _)| **word == lower).map(|(_, number)| number);
        named.or_else(|| text.parse().ok())
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            // With a step, one number is where it begins.
            None => (number(range)?, if step.is_some() { most } else { number(range)? }),
        };
        let step = step.map_or(Some(1), |step| step.parse().ok())?;
        for number in (from..=to.min(63)).step_by(step) {
            set |= 1 << number;
        }
    }
    Some(set)
}

fn has(set: u64, number: u64) -> bool {
    set >> number & 1 == 1
}

/// Month and day of month of a day counted from 1 January 1970, in the Gregorian calendar.
fn civil(day: u64) -> (u64, u64) {
    // Years from 1 March on, so that the leap day is the last; in cycles of 400 years, which all have 146 097 days.
    let since_march = day + 719_468;
    let in_cycle = since_march % 146_097;
    let year = (in_cycle - in_cycle / 1460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let in_year = in_cycle - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * in_year + 2) / 153;
    let day_of_month = in_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (month, day_of_month)
}

const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const MINUTES_A_DAY: u64 = 24 * 60;

/// A leap day comes at least every eight years.
const DAYS_MAX: u64 = 8 * 366 + 1;

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;

    fn at(text: &str) -> Timestamp {
        let date: SystemTime = httpdate::parse_http_date(text).unwrap();
        Timestamp::default().after(date.duration_since(UNIX_EPOCH).unwrap())
    }

    fn next(cron: &str, after: &str) -> String {
        let due = Schedule::parse(cron).unwrap().next(at(after)).unwrap();
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(due.as_secs()))
    }

    #[test]
    fn the_next_due_minute_is_the_first_after() {
        for (cron, after, due) in [
            ("0 1 * * *", "Tue, 24 Nov 2026 00:59:59 GMT", "Tue, 24 Nov 2026 01:00:00 GMT"),
            ("0 1 * * *", "Tue, 24 Nov 2026 01:00:00 GMT", "Wed, 25 Nov 2026 01:00:00 GMT"),
            ("*/15 * * * *", "Tue, 24 Nov 2026 01:14:59 GMT", "Tue, 24 Nov 2026 01:15:00 GMT"),
            ("5-10/5,59 23 31 dec *", "Thu, 31 Dec 2026 23:10:00 GMT", "Thu, 31 Dec 2026 23:59:00 GMT"),
            ("0 0 29 2 *", "Tue, 24 Nov 2026 00:00:00 GMT", "Tue, 29 Feb 2028 00:00:00 GMT"),
            ("0 12 * * fri", "Tue, 24 Nov 2026 00:00:00 GMT", "Fri, 27 Nov 2026 12:00:00 GMT"),
            ("0 12 * * 7", "Tue, 24 Nov 2026 00:00:00 GMT", "Sun, 29 Nov 2026 12:00:00 GMT"),
            // Either day is enough where both are given.
            ("0 0 25 * mon", "Tue, 24 Nov 2026 00:00:00 GMT", "Wed, 25 Nov 2026 00:00:00 GMT"),
            ("0 0 25 * mon", "Wed, 25 Nov 2026 00:00:00 GMT", "Mon, 30 Nov 2026 00:00:00 GMT"),
            ("59 23 * 1,2 *", "Sat, 28 Feb 2026 23:59:00 GMT", "Fri, 01 Jan 2027 23:59:00 GMT"),
        ] {
            assert_eq!(next(cron, after), due, "{cron} after {after}");
        }
    }

    #[test]
    fn a_day_that_never_comes_is_never_due_and_what_is_no_schedule_is_none() {
        assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().next(at("Tue, 24 Nov 2026 00:00:00 GMT")), None);
        assert_eq!(Schedule::parse("0 1 * *"), None);
        assert_eq!(Schedule::parse("hourly"), None);
    }
}
