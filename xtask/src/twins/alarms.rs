//! The clock's interrupts: alarm, periodic, update ended, while time passes.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::chips::{BINARY, HOURS_24, SET, encode};
use super::machine::Machine;
use super::{Seen, Step, note};
use crate::dice::Dice;

/// Bit of register B: periodic interrupts.
const PERIODIC: u8 = 0x40;
/// Day of the week, day, month, year and century, by register.
const DATE: [(u8, u8); 5] = [(6, 4), (7, 28), (8, 2), (9, 24), (0x32, 20)];
/// Where the clock's interrupt comes in.
const PIN: u32 = 8;
/// From one look to the next. Updates come half a second after the start and then each second: far from any look.
const PASSES: [Duration; 3] = [Duration::from_millis(750), Duration::from_secs(1), Duration::from_secs(1)];

/// Seconds, minutes and hours are set, and the alarm; then time passes.
pub(super) struct AlarmStep {
    /// Register A: none of the faster rates can miss a look.
    rate: u8,
    /// Register B.
    control: u8,
    time: [u8; 3],
    /// As in the registers; above 0xbf each value does.
    alarm: [u8; 3],
}

impl AlarmStep {
    pub(super) fn random(dice: &mut Dice) -> Self {
        let format = [0, BINARY, HOURS_24, BINARY | HOURS_24][dice.roll(4) as usize];
        let set = if dice.roll(6) == 0 { SET } else { 0 };
        let control = format | set | (dice.roll(8) as u8) << 4;
        let [second, minute, hour] = [
            [58, 59, 7, 29][dice.roll(4) as usize],
            [59, 12][dice.roll(2) as usize],
            [0, 11, 12, 23, 6][dice.roll(5) as usize],
        ];
        let now = u32::from(hour) * 3600 + u32::from(minute) * 60 + u32::from(second);
        let due = (now + dice.roll(5) as u32) % 86_400;
        let due = [(1, due % 60), (3, due / 60 % 60), (5, due / 3600)];
        let mut alarm = due.map(|(register, value)| match dice.roll(4) {
            0 => 0xc0 + dice.roll(64) as u8,
            _ => encode(format, register - 1, value as u8),
        });
        // With hours of 12, one takes the half of the day from the clock's register and not from the alarm's.
        if format & HOURS_24 == 0 && (due[2].1 >= 12) != (hour >= 12) {
            alarm[2] = 0xff;
        }
        let rate = [0, 6, 10, 14][dice.roll(4) as usize];
        Self { rate, control, time: [second, minute, hour], alarm }
    }

    /// Flags of register C that both set: one has no periodic flag without its interrupt, and the others, and with them
    /// the interrupt, also while updates are stopped.
    fn alike(&self) -> u32 {
        let periodic = if self.control & PERIODIC == 0 { 0 } else { 0x40 };
        if self.control & SET == 0 { 0xb0 | periodic } else { periodic }
    }
}

impl fmt::Display for AlarmStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, control, time: [second, minute, hour], alarm } = self;
        write!(f, "RTC {hour}:{minute}:{second}, alarm {alarm:02x?}, rate {rate}, B {control:#04x}")
    }
}

impl Step for AlarmStep {
    fn kind(&self) -> String {
        format!("RTC interrupts {:#04x}", self.control & (SET | 0x70))
    }

    fn play(&self, machine: &mut Machine) -> Result<Seen> {
        let format = self.control & (BINARY | HOURS_24);
        let write = |machine: &mut Machine, register: u8, value: u8| {
            machine.output('b', 0x70, register.into())?;
            machine.output('b', 0x71, value.into())
        };
        let read = |machine: &mut Machine, register: u8| {
            machine.output('b', 0x70, register.into())?;
            machine.input('b', 0x71)
        };
        // The divider is held meanwhile: the first update comes half a second after it is let go.
        write(machine, 0x0a, 0x70)?;
        write(machine, 0x0b, SET | format)?;
        for ((register, value), alarm) in [0, 2, 4].into_iter().zip(self.time).zip(self.alarm) {
            write(machine, register, encode(format, register, value))?;
            write(machine, register + 1, alarm)?;
        }
        for (register, value) in DATE {
            write(machine, register, encode(format, register, value))?;
        }
        write(machine, 0x0b, self.control)?;
        write(machine, 0x0a, 0x20 | self.rate)?;
        read(machine, 0x0c)?;
        let mut seen = Seen::new();
        for (n, time) in PASSES.into_iter().enumerate() {
            machine.pass(time)?;
            for (name, register) in [("seconds", 0), ("minutes", 2), ("hours", 4), ("B", 0x0b)] {
                note(&mut seen, &format!("look {n}: {name}"), format!("{:#04x}", read(machine, register)?));
            }
            let interrupt = machine.pin(PIN);
            let flags = read(machine, 0x0c)? & self.alike();
            if self.control & SET == 0 {
                note(&mut seen, &format!("look {n}: interrupt"), interrupt);
            }
            note(&mut seen, &format!("look {n}: C"), format!("{flags:#04x}"));
        }
        Ok(seen)
    }
}
