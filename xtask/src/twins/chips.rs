//! The clock's memory and fw_cfg, a port at a time.

use std::fmt;

use anyhow::Result;

use super::machine::Machine;
use super::{Seen, Step, note, note_bytes};
use crate::dice::Dice;

/// Registers of the clock's chip, or an item of fw_cfg.
pub(super) fn random(dice: &mut Dice) -> Box<dyn Step> {
    match dice.roll(4) {
        0 => Box::new(Item { key: dice.roll(0x19) as u16, len: 1 + dice.roll(40) as usize }),
        1 => Box::new(Time::random(dice)),
        _ => Box::new(Clock {
            register: [1, 3, 5, 0x0a, 0x0b, 0x0c, 0x0d, 0x38 + dice.roll(72) as u8][dice.roll(8) as usize],
            value: (dice.roll(2) == 0).then(|| dice.roll(256) as u8),
        }),
    }
}

/// Bits of the RTC's register B: the update is held, binary, 24 hours.
pub(super) const SET: u8 = 0x80;
pub(super) const BINARY: u8 = 0x04;
pub(super) const HOURS_24: u8 = 0x02;

/// What a register of the time holds for a value.
pub(super) fn encode(format: u8, register: u8, value: u8) -> u8 {
    let digits = |value: u8| if format & BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) };
    match (register, value) {
        (4, hour) if format & HOURS_24 == 0 => {
            let afternoon = if hour >= 12 { 0x80 } else { 0 };
            digits(if hour % 12 == 0 { 12 } else { hour % 12 }) | afternoon
        }
        _ => digits(value),
    }
}

/// The time, set in one format and read in another.
struct Time {
    formats: [u8; 2],
    /// Seconds, minutes, hours, day of the week, day, month, year, century.
    time: [u8; 8],
}

/// Registers of the time, in that order.
const TIME: [u8; 8] = [0, 2, 4, 6, 7, 8, 9, 0x32];

impl Time {
    fn random(dice: &mut Dice) -> Self {
        let mut format = || [0, BINARY, HOURS_24, BINARY | HOURS_24][dice.roll(4) as usize];
        let formats = [format(), format()];
        let below = [60, 60, 24, 7, 28, 12, 130].map(|below| dice.roll(below) as u8);
        let [second, minute, hour, week, day, month, year] = below;
        // From 1970 on: before that, QEMU is one second late.
        let (century, year) = (19 + (70 + year) / 100, (70 + year) % 100);
        Self { formats, time: [second, minute, hour, week + 1, day + 1, month + 1, year, century] }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTC time {:?} in formats {:02x?}", self.time, self.formats)
    }
}

impl Step for Time {
    fn kind(&self) -> String {
        format!("RTC time {:?}", self.formats)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let mut seen = Seen::new();
        let [first, second] = self.formats;
        let write = |machine: &mut Machine, register: u8, value: u8| {
            machine.output('b', 0x70, register.into())?;
            machine.output('b', 0x71, value.into())
        };
        write(machine, 0x0a, 0x26)?;
        write(machine, 0x0b, SET | first)?;
        for (register, value) in TIME.into_iter().zip(self.time) {
            write(machine, register, encode(first, register, value))?;
        }
        for format in [first, second] {
            write(machine, 0x0b, format)?;
            for register in TIME {
                machine.output('b', 0x70, register.into())?;
                let value = machine.input('b', 0x71)?;
                note(&mut seen, &format!("format {format:#x} register {register:#x}"), format!("{value:#04x}"));
            }
        }
        Ok(seen)
    }
}

/// A byte of the RTC's memory, or a register beside the time.
struct Clock {
    register: u8,
    value: Option<u8>,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTC register {:#04x} takes {:02x?}", self.register, self.value)
    }
}

impl Step for Clock {
    fn kind(&self) -> String {
        format!("RTC {:#04x}", self.register)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let mut seen = Seen::new();
        machine.output('b', 0x70, self.register.into())?;
        if let Some(value) = self.value {
            machine.output('b', 0x71, value.into())?;
        }
        machine.output('b', 0x70, self.register.into())?;
        note(&mut seen, "value", format!("{:#04x}", machine.input('b', 0x71)?));
        Ok(seen)
    }
}

/// An item of fw_cfg.
struct Item {
    key: u16,
    len: usize,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fw_cfg item {:#x}, {} bytes", self.key, self.len)
    }
}

impl Step for Item {
    fn kind(&self) -> String {
        format!("fw_cfg {:#x}", self.key)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let mut seen = Seen::new();
        machine.output('w', 0x510, self.key.into())?;
        let mut bytes = Vec::new();
        for _ in 0..self.len {
            bytes.push(machine.input('b', 0x511)? as u8);
        }
        // Whether there is a display.
        if self.key != 4 {
            note_bytes(&mut seen, "bytes", &bytes);
        }
        Ok(seen)
    }
}
