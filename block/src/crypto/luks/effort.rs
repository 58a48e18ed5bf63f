//! How much work one password is worth.
//!
//! A header says how often its hash is to be repeated for a password, up to 2^32 times for each of eight slots: hours.
//! Nobody makes such slots, whose owner would wait, too; but images come from strangers, and a machine that opens one
//! answers to nobody meanwhile. What honest headers ask for follows from the time that was wanted (two seconds, as a
//! rule) on the machine that made them. So some work is always done, however slow this machine is, and more only as far
//! as it takes [`MOST_TIME`].

use std::time::{Duration, Instant};

use super::invalid;
use crate::error::BlockError;

/// Hashes that are always done, in passes of the keyed hash: two seconds or three.
const ALWAYS: u64 = 1 << 24;
/// Longest time for one password, over all slots.
const MOST_TIME: Duration = Duration::from_secs(8);
/// Longest time that may be asked for when a slot is made: machines are not always as fast as then.
pub const MOST_ITER_TIME: Duration = Duration::from_secs(4);

/// Refuses slots that could not be opened.
pub(super) fn check_iter_time(time: Duration) -> Result<(), BlockError> {
    if time > MOST_ITER_TIME {
        let most = MOST_ITER_TIME.as_millis();
        return Err(invalid(format!("iter-time must not be more than {most}: opening the disk would take too long")));
    }
    Ok(())
}

/// What was done for one password.
pub(super) struct Effort {
    begun: Instant,
    passes: u64,
}

impl Effort {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), passes: 0 }
    }

    /// Takes `passes` more of the keyed hash upon itself, for what `what` names. `sample` does some passes, for their
    /// speed, and says how many.
    ///
    /// # Errors
    /// When all would take too long.
    pub(super) fn take(&mut self, passes: u64, what: &str, sample: impl FnOnce() -> u64) -> Result<(), BlockError> {
        self.passes = self.passes.saturating_add(passes);
        if self.passes <= ALWAYS {
            return Ok(());
        }
        let (from, spent) = (Instant::now(), self.begun.elapsed());
        let sampled = sample();
        check(passes, sampled, from.elapsed(), spent).ok_or_else(|| {
            invalid(format!(
                "{what} asks for {passes} passes of its hash, which with what was done before would take more than \
                 {} s: not done for a password that may be wrong",
                MOST_TIME.as_secs()
            ))
        })
    }
}

/// Whether `passes` end in time, after `spent`, where `sampled` of them took `time`.
fn check(passes: u64, sampled: u64, time: Duration, spent: Duration) -> Option<()> {
    let each = time.as_secs_f64() / sampled.max(1) as f64;
    (spent.as_secs_f64() + each * passes as f64 <= MOST_TIME.as_secs_f64()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn some_work_is_done_whatever_it_takes() {
        let mut effort = Effort { begun: Instant::now() - MOST_TIME, passes: 0 };

        assert!(effort.take(ALWAYS, "the slot", || panic!("no need to know")).is_ok());
        assert!(effort.take(1, "the slot", || 1).is_err(), "the time is over");
    }

    #[test]
    fn more_is_done_as_far_as_the_time_goes() {
        assert!(check(8000, 1, MS, Duration::ZERO).is_some());
        assert!(check(8001, 1, MS, Duration::ZERO).is_none());
        assert!(check(4000, 1, MS, Duration::from_secs(4)).is_some());
        assert!(check(4001, 1, MS, Duration::from_secs(4)).is_none());
        assert!(check(u64::MAX, 1, MS, Duration::ZERO).is_none());
    }
}
