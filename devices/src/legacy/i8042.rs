//! The keyboard controller of a PC (Intel 8042 with IBM's firmware; IBM PS/2 Hardware Interface Technical Reference,
//! "Keyboard and Auxiliary Device Controller"), a PS/2 keyboard and a PS/2 mouse.
//!
//! ```text
//!   0x60 data ◀── output buffer ◀── controller's answers, keyboard's bytes (IRQ 1), mouse's bytes (IRQ 12)
//!   0x64 status / command ──▶ controller; data after a command goes where the command says
//! ```
//!
//! Keyboard and mouse answer commands but nobody types or moves: this machine has no display.

mod keyboard;
mod mouse;
mod state;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::bus::{BusDevice, BusFault, Effect, PowerRequest};
use crate::irq::IrqLine;
use crate::lifecycle::{Lifecycle, Saver};

use super::{LegacyChip, PortRange, lock};
use keyboard::Keyboard;
use mouse::Mouse;
use state::ChipState;

/// Most bytes that wait in a device: longest answer of a command is 5, and each command drops what waits.
const QUEUE: usize = 16;

/// Bits of the status register.
mod status {
    pub(super) const OUTPUT_FULL: u8 = 1 << 0;
    pub(super) const SYSTEM: u8 = 1 << 2;
    pub(super) const COMMAND: u8 = 1 << 3;
    pub(super) const UNLOCKED: u8 = 1 << 4;
    pub(super) const FROM_AUX: u8 = 1 << 5;
}

/// Bits of the command byte.
mod mode {
    pub(super) const KEYBOARD_INTERRUPT: u8 = 1 << 0;
    pub(super) const AUX_INTERRUPT: u8 = 1 << 1;
    pub(super) const SYSTEM: u8 = 1 << 2;
    pub(super) const KEYBOARD_OFF: u8 = 1 << 4;
    pub(super) const AUX_OFF: u8 = 1 << 5;
    pub(super) const TRANSLATE: u8 = 1 << 6;
    /// As the self test of a PC's firmware leaves it, and as power-on leaves it here.
    pub(super) const POWER_ON: u8 = KEYBOARD_INTERRUPT | AUX_INTERRUPT;
}

/// Bits of the output port.
mod port {
    pub(super) const NOT_RESET: u8 = 1 << 0;
    pub(super) const A20: u8 = 1 << 1;
    pub(super) const KEYBOARD_FULL: u8 = 1 << 4;
    pub(super) const AUX_FULL: u8 = 1 << 5;
}

/// Where a byte comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Keyboard,
    Aux,
}

/// Volatile registers; their saved form is [`ChipState`].
struct Regs {
    mode: u8,
    output_port: u8,
    /// The command that the next data byte belongs to, 0 for none.
    command: u8,
    last_was_command: bool,
    /// The byte that a read of the data port gives, and where it came from while it is fresh.
    output: u8,
    full: Option<Source>,
    /// The controller's own answers, ahead of what the devices send.
    answers: VecDeque<(u8, Source)>,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for Regs {
    fn default() -> Self {
        Self {
            mode: mode::POWER_ON,
            output_port: port::NOT_RESET | port::A20,
            command: 0,
            last_was_command: false,
            output: 0,
            full: None,
            answers: VecDeque::new(),
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

impl Regs {
    /// Moves the next byte into the output buffer, if that is empty.
    fn fill(&mut self) {
        if self.full.is_some() {
            return;
        }
        let next = self.answers.pop_front().or_else(|| self.next_of_keyboard()).or_else(|| self.next_of_mouse());
        if let Some((byte, source)) = next {
            self.output = byte;
            self.full = Some(source);
        }
    }

    fn next_of_keyboard(&mut self) -> Option<(u8, Source)> {
        if self.mode & mode::KEYBOARD_OFF != 0 {
            return None;
        }
        let translate = self.mode & mode::TRANSLATE != 0;
        self.keyboard.next(translate).map(|byte| (byte, Source::Keyboard))
    }

    fn next_of_mouse(&mut self) -> Option<(u8, Source)> {
        if self.mode & mode::AUX_OFF != 0 {
            return None;
        }
        self.mouse.next().map(|byte| (byte, Source::Aux))
    }

    fn status(&self) -> u8 {
        let full = match self.full {
            None => 0,
            Some(Source::Keyboard) => status::OUTPUT_FULL,
            Some(Source::Aux) => status::OUTPUT_FULL | status::FROM_AUX,
        };
        let system = if self.mode & mode::SYSTEM != 0 { status::SYSTEM } else { 0 };
        let command = if self.last_was_command { status::COMMAND } else { 0 };
        full | system | command | status::UNLOCKED
    }

    fn answer(&mut self, byte: u8, source: Source) {
        if self.answers.len() < QUEUE {
            self.answers.push_back((byte, source));
        }
    }

    /// The output port, whose upper bits follow the output buffer.
    fn port(&self) -> u8 {
        let full = match self.full {
            None => 0,
            Some(Source::Keyboard) => port::KEYBOARD_FULL,
            Some(Source::Aux) => port::AUX_FULL,
        };
        self.output_port | full
    }

    fn set_port(&mut self, value: u8) -> Effect {
        self.output_port = port::NOT_RESET | (value & port::A20);
        if value & port::NOT_RESET == 0 { Effect::Power(PowerRequest::Reset) } else { Effect::None }
    }

    fn command(&mut self, command: u8) -> Effect {
        self.last_was_command = true;
        self.command = 0;
        match command {
            0x20 => self.answer(self.mode, Source::Keyboard),
            0xa7 => self.mode |= mode::AUX_OFF,
            0xa8 => self.mode &= !mode::AUX_OFF,
            // Port tests: nothing wrong.
            0xa9 | 0xab => self.answer(0x00, Source::Keyboard),
            0xaa => {
                self.mode |= mode::SYSTEM;
                self.answer(0x55, Source::Keyboard);
            }
            0xad => self.mode |= mode::KEYBOARD_OFF,
            0xae => self.mode &= !mode::KEYBOARD_OFF,
            // Input port: keyboard not locked.
            0xc0 => self.answer(0x80, Source::Keyboard),
            0xd0 => self.answer(self.port(), Source::Keyboard),
            0xdd => self.output_port &= !port::A20,
            0xdf => self.output_port |= port::A20,
            0x60 | 0xd1..=0xd4 => self.command = command,
            // Pulse output lines low: line 0 is the reset.
            0xf0..=0xff if command & 1 == 0 => return Effect::Power(PowerRequest::Reset),
            _ => {}
        }
        Effect::None
    }

    fn data(&mut self, value: u8) -> Effect {
        self.last_was_command = false;
        match std::mem::take(&mut self.command) {
            0x60 => self.mode = value,
            0xd1 => return self.set_port(value),
            0xd2 => self.answer(value, Source::Keyboard),
            0xd3 => self.answer(value, Source::Aux),
            0xd4 => {
                self.mode &= !mode::AUX_OFF;
                self.mouse.command(value);
            }
            _ => {
                self.mode &= !mode::KEYBOARD_OFF;
                self.keyboard.command(value);
            }
        }
        Effect::None
    }
}

/// The controller and its two devices.
pub struct I8042 {
    keyboard_irq: Arc<dyn IrqLine>,
    aux_irq: Arc<dyn IrqLine>,

    regs: Mutex<Regs>,
}

impl I8042 {
    /// The controller; its wires are ISA interrupts 1 and 12.
    #[must_use]
    pub fn new(keyboard_irq: Arc<dyn IrqLine>, aux_irq: Arc<dyn IrqLine>) -> Self {
        Self { keyboard_irq, aux_irq, regs: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Regs> {
        lock(&self.regs)
    }

    /// Fills the output buffer and drives the wires accordingly.
    fn settle(&self, regs: &mut Regs) {
        regs.fill();
        let wants = |source, enable| regs.full == Some(source) && regs.mode & enable != 0;
        self.keyboard_irq.set(wants(Source::Keyboard, mode::KEYBOARD_INTERRUPT));
        self.aux_irq.set(wants(Source::Aux, mode::AUX_INTERRUPT));
    }

    fn read_data(&self) -> u8 {
        let mut regs = self.lock();
        let byte = regs.output;
        if regs.full.take().is_some() {
            // The wires fall between two bytes: the interrupt controller counts edges.
            self.keyboard_irq.set(false);
            self.aux_irq.set(false);
            self.settle(&mut regs);
        }
        byte
    }

    fn write(&self, command: bool, value: u8) -> Effect {
        let mut regs = self.lock();
        let effect = if command { regs.command(value) } else { regs.data(value) };
        self.settle(&mut regs);
        effect
    }
}

impl Lifecycle for I8042 {
    fn name(&self) -> &str {
        "i8042"
    }

    fn reset(&self) {
        let mut regs = self.lock();
        *regs = Regs::default();
        self.settle(&mut regs);
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl I8042 {
    fn snapshot(&self) -> ChipState {
        ChipState::of(&self.lock())
    }

    fn adopt(&self, new: Regs) {
        let mut regs = self.lock();
        *regs = new;
        self.settle(&mut regs);
    }
}

/// One of the two ports. Only byte accesses mean something.
struct Register {
    chip: Arc<I8042>,
    command: bool,
}

impl BusDevice for Register {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        match (offset, data) {
            (0, [byte]) if self.command => *byte = self.chip.lock().status(),
            (0, [byte]) => *byte = self.chip.read_data(),
            (_, data) => return Err(BusFault { offset, len: data.len() }),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let (0, [value]) = (offset, data) else { return Err(BusFault { offset, len: data.len() }) };
        Ok(self.chip.write(self.command, *value))
    }
}

impl LegacyChip for I8042 {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        let register = |base, command| {
            let device = Arc::new(Register { chip: Arc::clone(&self), command });
            PortRange { base, len: 1, device }
        };
        vec![register(0x60, false), register(0x64, true)]
    }
}

#[cfg(test)]
mod tests;
