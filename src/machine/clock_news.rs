//! The guest set its clock: clients hear of it, as under QEMU at most once a second, and of the last time in any case.

use std::time::{Duration, Instant};

use super::{Machine, query};
use crate::qmp::Event;
use crate::qmp::event::RtcChangeData;

/// Between two events.
const PAUSE: Duration = Duration::from_secs(1);

/// What was told and what is to be told.
#[derive(Default)]
pub(super) struct ClockNews {
    told: Option<Instant>,
    /// Seconds ahead, as [`rhea_devices::bus::Effect::ClockSet`] has them.
    offset: Option<i64>,
}

impl ClockNews {
    /// The guest set its clock.
    pub(super) fn set(&mut self, offset: i64) {
        self.offset = Some(offset);
    }

    /// Takes what is to be told at `now`, or says how long that is to wait.
    fn take(&mut self, now: Instant) -> Result<Option<i64>, Duration> {
        let wait = self.told.map_or(Duration::ZERO, |told| (told + PAUSE).saturating_duration_since(now));
        if self.offset.is_some() && !wait.is_zero() {
            return Err(wait);
        }
        if self.offset.is_some() {
            self.told = Some(now);
        }
        Ok(self.offset.take())
    }
}

impl Machine {
    /// Tells clients if it is time; how long to wait if it is not yet.
    pub(super) fn tell_clock(&mut self) -> Option<Duration> {
        match self.clock_news.take(Instant::now()) {
            Ok(offset) => {
                if let Some(offset) = offset {
                    self.bus.emit(&Event::RtcChange(RtcChangeData { offset, qom_path: self.clock_path() }));
                }
                None
            }
            Err(wait) => Some(wait),
        }
    }

    /// Where the clock is in the tree of objects: behind the vCPUs.
    fn clock_path(&self) -> String {
        query::cpu::path(self.facts.cpus.iter().filter(|place| place.present).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_is_told_at_once_and_of_those_within_a_second_the_last_at_its_end() {
        let (mut news, start) = (ClockNews::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(news.take(at(0)), Ok(None));

        news.set(1);
        assert_eq!(news.take(at(0)), Ok(Some(1)));
        assert_eq!(news.take(at(1)), Ok(None));
        news.set(2);
        assert_eq!(news.take(at(100)), Err(Duration::from_millis(900)));
        news.set(3);
        assert_eq!(news.take(at(1000)), Ok(Some(3)));
        news.set(4);
        assert_eq!(news.take(at(1500)), Err(Duration::from_millis(500)));
    }
}
