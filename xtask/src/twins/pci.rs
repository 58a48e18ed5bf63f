//! The standard registers of PCI configuration space. Those of a chip's own are not compared: QEMU lets most be written
//! that nothing is behind.

use std::fmt;

use anyhow::Result;

use super::machine::Machine;
use super::{Seen, Step, note_bytes};
use crate::dice::Dice;

/// Functions that both machines have: host bridge, ISA bridge, IDE, power management, disk, rng, SCSI.
const FUNCTIONS: [u8; 7] = [0, 1 << 3, 1 << 3 | 1, 1 << 3 | 3, 4 << 3, 5 << 3, 6 << 3];

/// A look at a function, or a write to it.
pub(super) struct ConfigStep {
    function: u8,
    /// Register, width and value.
    write: Option<(u8, char, u32)>,
}

impl ConfigStep {
    /// The first steps only look.
    pub(super) fn random(dice: &mut Dice, n: u64) -> Self {
        if let Some(function) = FUNCTIONS.get(usize::try_from(n).unwrap_or(usize::MAX)) {
            return Self { function: *function, write: None };
        }
        let width = ['b', 'w', 'l'][dice.roll(3) as usize];
        let step = match width {
            'b' => 1,
            'w' => 2,
            _ => 4,
        };
        let value = [0, u32::MAX, dice.roll(1 << 32) as u32][dice.roll(3) as usize];
        let register = (dice.roll(256 / step) * step) as u8;
        let value = match width {
            'b' => value & 0xff,
            'w' => value & 0xffff,
            _ => value,
        };
        Self { function: FUNCTIONS[dice.roll(7) as usize], write: Some((register, width, value)) }
    }
}

impl fmt::Display for ConfigStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "function {:02x}.{}", self.function >> 3, self.function & 7)?;
        match self.write {
            Some((register, width, value)) => write!(f, " register {register:#04x} takes {value:#x} ({width})"),
            None => write!(f, " is read"),
        }
    }
}

impl Step for ConfigStep {
    fn kind(&self) -> String {
        format!("PCI {:02x}.{}", self.function >> 3, self.function & 7)
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let mut seen = Seen::new();
        if let Some((register, width, value)) = self.write {
            machine.set_config(self.function, register, width, value)?;
        }
        for register in (0..0x40).step_by(4) {
            let value = machine.config(self.function, register)?;
            // What firmware would have enabled is so from the start; a function without an interrupt has no line.
            if !matches!(register, 0x04 | 0x34 | 0x3c) {
                note_bytes(&mut seen, &format!("{register:#04x}"), &value.to_be_bytes());
            }
        }
        Ok(seen)
    }
}
