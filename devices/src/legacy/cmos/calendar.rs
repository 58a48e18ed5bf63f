//! Seconds since 1970 and calendar dates: the proleptic Gregorian calendar, without leap seconds.

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;

/// A moment as the clock's registers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 1 (Sunday) to 7.
    pub(super) weekday: u8,
    /// 0 to 23.
    pub(super) hour: u8,
    /// 0 to 59.
    pub(super) minute: u8,
    /// 0 to 59.
    pub(super) second: u8,
}

/// Days from 1970-01-01 to the first of March of `year`: years that begin in March have their leap day last, so that
/// the months before it have fixed lengths.
fn days_to_march(year: i64) -> i64 {
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) - 719_468
}

/// Days from the first of March to the first of the month that is `index` months later: 31, 30, 31, 30, 31 repeats.
const fn days_of_months(index: i64) -> i64 {
    (153 * index + 2) / 5
}

/// A small non-negative number as a byte.
fn byte(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

/// The date `seconds` after 1970-01-01 00:00:00.
pub(super) fn date_of(seconds: i64) -> Date {
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // The average year has 365.2425 days; the estimate is at most one year off.
    let mut year = (days + 719_468) * 400 / 146_097;
    while days_to_march(year) > days {
        year -= 1;
    }
    while days_to_march(year + 1) <= days {
        year += 1;
    }
    let day_of_year = days - days_to_march(year);
    let index = (5 * day_of_year + 2) / 153;
    let month = if index < 10 { index + 3 } else { index - 9 };
    Date {
        year: if month <= 2 { year + 1 } else { year },
        month: byte(month),
        day: byte(day_of_year - days_of_months(index) + 1),
        // 1970-01-01 was a Thursday.
        weekday: byte((days + 4).rem_euclid(7) + 1),
        hour: byte(second / 3600),
        minute: byte(second / 60 % 60),
        second: byte(second % 60),
    }
}

/// Seconds from 1970-01-01 00:00:00 to `date`; its weekday does not matter. Fields out of range carry over, as a
/// guest may write any.
pub(super) fn seconds_of(date: &Date) -> i64 {
    let month = i64::from(date.month.clamp(1, 12));
    let (year, index) = if month <= 2 { (date.year - 1, month + 9) } else { (date.year, month - 3) };
    let days = days_to_march(year) + days_of_months(index) + i64::from(date.day) - 1;
    days * DAY + i64::from(date.hour) * 3600 + i64::from(date.minute) * 60 + i64::from(date.second)
}
