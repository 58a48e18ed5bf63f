//! The daily alarm: when it next matches.

use super::calendar::DAY;

/// Hour, minute and second to match; `None` matches any (MC146818A, "don't care" codes C0 to FF).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) hour: Option<u8>,
    pub(super) minute: Option<u8>,
    pub(super) second: Option<u8>,
}

/// The least value from `from` on, below `limit`, that `field` matches.
fn first(field: Option<u8>, from: i64, limit: i64) -> Option<i64> {
    let value = field.map_or(from, i64::from);
    (value >= from && value < limit).then_some(value)
}

impl Alarm {
    /// The first match in the day from its second `from` on.
    fn within_day(self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / 3600, from / 60 % 60, from % 60);
        let at = |h: i64, m: i64, s: i64| h * 3600 + m * 60 + s;
        // In this minute, in a later minute of this hour, in a later hour: the fields after the one that moves
        // start from their least.
        let in_minute = first(self.hour, hour, hour + 1).zip(first(self.minute, minute, minute + 1)).zip(first(
            self.second,
            second,
            60,
        ));
        let in_hour =
            first(self.hour, hour, hour + 1).zip(first(self.minute, minute + 1, 60)).zip(first(self.second, 0, 60));
        let later = first(self.hour, hour + 1, 24).zip(first(self.minute, 0, 60)).zip(first(self.second, 0, 60));
        in_minute.or(in_hour).or(later).map(|((h, m), s)| at(h, m, s))
    }

    /// The first moment after `seconds` (since 1970) that matches; `None` if the fields name no time of day.
    pub(super) fn next_after(self, seconds: i64) -> Option<i64> {
        let from = seconds + 1;
        let midnight = from - from.rem_euclid(DAY);
        let today = self.within_day(from.rem_euclid(DAY)).map(|at| midnight + at);
        today.or_else(|| self.within_day(0).map(|at| midnight + DAY + at))
    }
}
