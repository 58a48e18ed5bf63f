//! The clock's memory and fw_cfg, a port at a time.

use std::fmt;

use anyhow::Result;

use super::machine::Machine;
use super::{Seen, Step, note, note_bytes};
use crate::dice::Dice;

/// Registers of the clock's chip, or an item of fw_cfg.
pub(super) fn random(dice: &mut Dice) -> Box<dyn Step> {
    match dice.roll(3) {
        0 => Box::new(Item { key: dice.roll(0x19) as u16, len: 1 + dice.roll(40) as usize }),
        // Memory, and the valid flag: time passes in one and not in the other.
        _ => Box::new(Clock {
            // Behind the century, which is part of the time.
            register: 0x38 + dice.roll(72) as u8,
            value: (dice.roll(2) == 0).then(|| dice.roll(256) as u8),
        }),
    }
}

/// A byte of the RTC's memory. The time is not looked at, which stands still in one of both.
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
