//! Saved state of the clock and its memory.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, decode, encode, unfit};

use super::rtc::{MOST_SECONDS, Nanos, SECOND};
use super::{BYTES, Cmos, INDEX};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(CmosState),
}

/// Seconds and nanoseconds below one: JSON numbers have 64 bits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moment {
    seconds: i64,
    nanoseconds: u32,
}

impl Moment {
    fn of(time: Nanos) -> Self {
        let seconds = i64::try_from(time.div_euclid(SECOND)).unwrap_or(0);
        Self { seconds, nanoseconds: u32::try_from(time.rem_euclid(SECOND)).unwrap_or(0) }
    }

    fn time(self, device: &str) -> Result<Nanos, DeviceError> {
        if self.seconds.unsigned_abs() > MOST_SECONDS.unsigned_abs() * 2 {
            return Err(unfit(device, format!("a time of {} seconds", self.seconds)));
        }
        Ok(Nanos::from(self.seconds) * SECOND + Nanos::from(self.nanoseconds))
    }
}

/// The offset goes with the clock that drives it: with the host's time of day, a guest that
/// was saved for an hour finds its clock an hour later.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CmosState {
    index: u8,
    offset: Moment,
    memory: Vec<u8>,
    flags: u8,
    caught_up: Moment,
    periodic_caught_up: Moment,
    periods_from: Moment,
}

impl SaveRestore for Cmos {
    fn save(&self) -> Result<Value, DeviceError> {
        let regs = self.chip.lock();
        let state = CmosState {
            index: regs.index,
            offset: Moment::of(regs.rtc.offset),
            memory: regs.rtc.memory.to_vec(),
            flags: regs.rtc.flags,
            caught_up: Moment::of(regs.rtc.caught_up),
            periodic_caught_up: Moment::of(regs.rtc.periodic_caught_up),
            periods_from: Moment::of(regs.rtc.periods_from),
        };
        encode(self.name(), &Saved::V1(state))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(state) = decode(self.name(), state)?;
        let memory: [u8; BYTES] = state
            .memory
            .as_slice()
            .try_into()
            .map_err(|_| unfit(self.name(), format!("memory of {} bytes", state.memory.len())))?;
        let time = |moment: Moment| moment.time(self.name());
        let (offset, caught_up) = (time(state.offset)?, time(state.caught_up)?);
        let (periodic_caught_up, periods_from) = (time(state.periodic_caught_up)?, time(state.periods_from)?);
        let mut regs = self.chip.lock();
        regs.index = state.index & INDEX;
        regs.rtc.offset = offset;
        regs.rtc.memory = memory;
        regs.rtc.flags = state.flags & 0x70;
        regs.rtc.caught_up = caught_up;
        regs.rtc.periodic_caught_up = periodic_caught_up;
        regs.rtc.periods_from = periods_from;
        self.chip.settle(&mut regs);
        Ok(())
    }
}
