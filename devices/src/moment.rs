//! Moments on the monotonic clock, as one number: requests are timed by the thousand, and the difference of two
//! numbers costs one instruction where that of two [`Instant`]s costs fifty.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The first moment that was asked for in this process.
static FIRST: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first moment that this process asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let since = FIRST.get_or_init(Instant::now).elapsed();
        // 584 years.
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds from `earlier` until this; 0 if that is the later one.
    #[must_use]
    pub fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_as_far_apart_as_the_clock_says() {
        let (before, moment) = (Instant::now(), Moment::now());
        std::thread::sleep(Duration::from_millis(2));
        let (later, after) = (Moment::now(), Instant::now());

        let nanos = u128::from(later.nanos_since(moment));
        assert!(nanos >= 2_000_000 && nanos <= after.duration_since(before).as_nanos(), "{nanos}");
        assert_eq!(moment.nanos_since(later), 0);
        assert_eq!((moment + Duration::from_nanos(7)).nanos_since(moment), 7);
    }
}
