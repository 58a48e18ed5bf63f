//! How long a thread looks for work before it sleeps.
//!
//! The rule is QEMU's (`poll-max-ns`, `poll-grow`, `poll-shrink` of `iothread` objects): a wait that polling would have
//! made shorter has the time grow up to the most that was set, a wait that was longer than that most has it shrink, and one
//! that ended within the time leaves it as it is.

use std::time::Duration;

/// The first time of polling, in nanoseconds: less is over before a signal between threads would have come.
const FIRST: u64 = 4000;
/// How many times as long the next time is, where nothing else was set.
const GROW: u64 = 2;

/// How long a thread may poll.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Polling {
    /// The longest time, in nanoseconds; 0 for none.
    pub max: u64,
    /// By how much the time is multiplied when it was too short; 0 for 2.
    pub grow: u64,
    /// By how much it is divided when no time would have been long enough; 0 for going back to no polling.
    pub shrink: u64,
}

/// The time of polling as it is now.
#[derive(Debug, Default)]
pub(super) struct Pace {
    set: Polling,
    now: u64,
}

impl Pace {
    pub(super) fn new(set: Polling) -> Self {
        Self { set, now: 0 }
    }

    /// Whether waits are to be told of.
    pub(super) fn is_kept(&self) -> bool {
        self.set.max > 0
    }

    /// How long to look for work before sleeping.
    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// Work came after this time of looking and sleeping.
    pub(super) fn waited(&mut self, time: Duration) {
        let Polling { max, grow, shrink } = self.set;
        let waited = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if waited <= self.now {
            return;
        }
        if waited > max {
            self.now = self.now.checked_div(shrink).unwrap_or(0);
        } else {
            let longer = self.now.saturating_mul(if grow == 0 { GROW } else { grow });
            self.now = if self.now == 0 { FIRST } else { longer }.min(max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(set: Polling, waits: &[u64]) -> Vec<u64> {
        let mut pace = Pace::new(set);
        let mut times = Vec::new();
        for wait in waits {
            pace.waited(Duration::from_nanos(*wait));
            times.push(pace.time().as_nanos() as u64);
        }
        times
    }

    #[test]
    fn time_grows_with_waits_within_the_most_and_stays_with_those_within_itself() {
        let set = Polling { max: 30_000, grow: 0, shrink: 0 };

        assert_eq!(after(set, &[3000, 2000, 5000, 8001, 29_000, 30_000]), [4000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(after(Polling { grow: 5, ..set }, &[1, 4001, 20_001]), [4000, 20_000, 30_000]);
        assert_eq!(after(Polling { max: 100, ..set }, &[1]), [100]);
    }

    #[test]
    fn time_shrinks_with_waits_that_are_too_long_at_once_or_by_the_number_given() {
        let set = Polling { max: 16_000, grow: 4, shrink: 0 };

        assert_eq!(after(set, &[1, 5000, 16_001, 1]), [4000, 16_000, 0, 4000]);
        assert_eq!(after(Polling { shrink: 2, ..set }, &[1, 5000, 16_001, u64::MAX]), [4000, 16_000, 8000, 4000]);
    }

    #[test]
    fn without_a_most_there_is_no_polling() {
        assert_eq!(after(Polling::default(), &[0, 1, 5000]), [0, 0, 0]);
        assert!(!Pace::default().is_kept());
    }

    #[test]
    fn huge_numbers_do_no_harm() {
        let set = Polling { max: i64::MAX as u64, grow: i64::MAX as u64, shrink: i64::MAX as u64 };

        assert_eq!(after(set, &[1, 5000, u64::MAX]), [4000, i64::MAX as u64, 1]);
    }
}
