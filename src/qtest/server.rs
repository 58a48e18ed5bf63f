//! The commands.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rhea_arch::x86_64::layout::{HIGH_MEMORY_START, VGA_WINDOW_START};
use rhea_devices::bus::Effect;
use rhea_devices::clock::Clock;
use rhea_devices::memory::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::Vacant;
use super::port::Output;
use crate::machine::event::EventSender;
use crate::vcpu::{Platform, perform};

/// Most bytes of one `read`, `write` or `memset`.
const MOST: u64 = 64 << 20;
/// Accesses stay within a page: RAM and registers do not share one.
const PAGE: u64 = 4096;
/// The widest access to a register.
const WIDEST: usize = 8;

/// Pins of the I/O APIC.
const PINS: u32 = 24;

/// Why a command is not done; the text of `FAIL`.
type Refusal = String;

/// What commands act on.
pub(super) struct Server {
    pub(super) platform: Arc<dyn Platform>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) vacant: Option<Vacant>,
    pub(super) events: EventSender,
    pub(super) output: Arc<Output>,
}

impl Server {
    /// Does what a line says and answers.
    pub(super) fn serve(&self, line: &str) {
        let line = line.trim_end_matches('\r');
        self.output.note(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((command, arguments)) = words.split_first() else {
            return self.output.line("FAIL empty or overlong line");
        };
        match self.command(command, arguments) {
            Ok(answer) if answer.is_empty() => self.output.line("OK"),
            Ok(answer) => self.output.line(&format!("OK {answer}")),
            Err(why) => self.output.line(&format!("FAIL {why}")),
        }
    }

    fn command(&self, command: &str, arguments: &[&str]) -> Result<String, Refusal> {
        match (command, arguments) {
            ("outb" | "outw" | "outl", [port, value]) => self.out(width(command), port, value),
            ("inb" | "inw" | "inl", [port]) => self.input(width(command), port),
            ("writeb" | "writew" | "writel" | "writeq", [address, value]) => {
                let bytes = number(value)?.to_le_bytes();
                self.write(number(address)?, bytes.get(..width(command)).unwrap_or_default())?;
                Ok(String::new())
            }
            ("readb" | "readw" | "readl" | "readq", [address]) => {
                let mut bytes = [0; 8];
                self.read(number(address)?, bytes.get_mut(..width(command)).unwrap_or_default())?;
                Ok(format!("0x{:016x}", u64::from_le_bytes(bytes)))
            }
            ("read", [address, size]) => {
                let bytes = self.read_block(address, size)?;
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(format!("0x{digits}"))
            }
            ("b64read", [address, size]) => self.read_block(address, size).map(|bytes| BASE64.encode(&bytes)),
            ("write", [address, size, data]) => {
                let size = block_size(size)?;
                // QEMU fills what the data does not reach with zeroes.
                let mut bytes = hex(data)?;
                bytes.resize(size, 0);
                self.write(number(address)?, &bytes).map(|()| String::new())
            }
            ("b64write", [address, size, data]) => {
                let bytes = BASE64.decode(data).ok().filter(|bytes| block_size(size) == Ok(bytes.len()));
                let bytes = bytes.ok_or("the data is no base64 of that size")?;
                self.write(number(address)?, &bytes).map(|()| String::new())
            }
            ("memset", [address, size, value]) => {
                let [byte, ..] = number(value)?.to_le_bytes();
                self.write(number(address)?, &vec![byte; block_size(size)?]).map(|()| String::new())
            }
            ("endianness", []) => Ok("little".to_owned()),
            ("clock_step" | "clock_set", [..]) => self.move_clock(command, arguments),
            ("irq_intercept_in", ["ioapic"]) => {
                self.vacant()?.wires.intercept();
                Ok(String::new())
            }
            ("set_irq_in", ["ioapic", "unnamed-gpio-in", pin, level]) => {
                self.vacant()?.wires.changed(pin_number(pin)?, number(level)? != 0);
                Ok(String::new())
            }
            ("irq_intercept_in" | "irq_intercept_out" | "set_irq_in", [..]) => Err("Unknown device".to_owned()),
            ("module_load", [..]) => Err("there are no modules".to_owned()),
            _ => Err(format!("Unknown command '{command}'")),
        }
    }

    fn vacant(&self) -> Result<&Vacant, Refusal> {
        self.vacant.as_ref().ok_or_else(|| "time and interrupts are the guest's; start with -accel qtest".to_owned())
    }

    fn move_clock(&self, command: &str, arguments: &[&str]) -> Result<String, Refusal> {
        let clock = &self.vacant()?.clock;
        match (command, arguments) {
            ("clock_step", []) => {
                clock.step();
            }
            ("clock_step", [nanoseconds]) => clock.advance(signed(nanoseconds)?),
            ("clock_set", [nanoseconds]) => clock.advance_to(signed(nanoseconds)?),
            _ => return Err("one number of nanoseconds".to_owned()),
        }
        Ok(clock.now().to_string())
    }

    fn out(&self, width: usize, port: &str, value: &str) -> Result<String, Refusal> {
        let bytes = number(value)?.to_le_bytes();
        let effect = self.platform.write_port(port_number(port)?, bytes.get(..width).unwrap_or_default());
        self.perform(effect);
        Ok(String::new())
    }

    fn input(&self, width: usize, port: &str) -> Result<String, Refusal> {
        let mut bytes = [0; 8];
        self.platform.read_port(port_number(port)?, bytes.get_mut(..width).unwrap_or_default());
        Ok(format!("0x{:04x}", u64::from_le_bytes(bytes)))
    }

    fn read_block(&self, address: &str, size: &str) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; block_size(size)?];
        self.read(number(address)?, &mut bytes)?;
        Ok(bytes)
    }

    fn read(&self, address: u64, mut bytes: &mut [u8]) -> Result<(), Refusal> {
        let mut at = address;
        while !bytes.is_empty() {
            let step = self.step(at, bytes.len());
            let (now, rest) = std::mem::take(&mut bytes).split_at_mut(step);
            if self.is_ram(at) {
                self.ram.read_slice(now, GuestAddress(at)).map_err(|e| e.to_string())?;
            } else {
                self.platform.read_memory(at, now);
            }
            at = at.checked_add(step as u64).ok_or("the address wraps")?;
            bytes = rest;
        }
        Ok(())
    }

    fn write(&self, address: u64, mut bytes: &[u8]) -> Result<(), Refusal> {
        let mut at = address;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(self.step(at, bytes.len()));
            if self.is_ram(at) {
                self.ram.write_slice(now, GuestAddress(at)).map_err(|e| e.to_string())?;
            } else {
                let effect = self.platform.write_memory(at, now);
                self.perform(effect);
            }
            at = at.checked_add(now.len() as u64).ok_or("the address wraps")?;
            bytes = rest;
        }
        Ok(())
    }

    /// How much of `len` bytes at `address` goes in one access.
    fn step(&self, address: u64, len: usize) -> usize {
        let in_page = usize::try_from(PAGE - address % PAGE).unwrap_or(WIDEST);
        let widest = if self.is_ram(address) { in_page } else { in_page.min(WIDEST) };
        // Registers take powers of two.
        let step = len.min(widest);
        if self.is_ram(address) { step } else { 1 << step.max(1).ilog2() }
    }

    /// RAM that no register of the board hides.
    fn is_ram(&self, address: u64) -> bool {
        let hidden = (VGA_WINDOW_START..HIGH_MEMORY_START).contains(&address);
        !hidden && self.ram.address_in_range(GuestAddress(address))
    }

    fn perform(&self, effect: Effect) {
        if let Some(event) = perform(&*self.platform, effect) {
            self.events.send(event);
        }
    }
}

/// Bytes of an access, by the last letter of its command.
fn width(command: &str) -> usize {
    match command.as_bytes().last() {
        Some(b'b') => 1,
        Some(b'w') => 2,
        Some(b'l') => 4,
        _ => 8,
    }
}

/// A number as C's `strtoull` reads it: decimal, `0x` hexadecimal, `0` octal.
fn number(text: &str) -> Result<u64, Refusal> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{}' is no number", text.escape_debug()))
}

/// Nanoseconds; time does not go back.
fn signed(text: &str) -> Result<u64, Refusal> {
    number(text).and_then(|n| i64::try_from(n).map(i64::unsigned_abs).map_err(|_| "the time is too great".to_owned()))
}

fn port_number(text: &str) -> Result<u16, Refusal> {
    number(text).and_then(|port| u16::try_from(port).map_err(|_| "the port is above 0xffff".to_owned()))
}

/// A pin of the I/O APIC.
fn pin_number(text: &str) -> Result<u32, Refusal> {
    let pin = number(text)?;
    u32::try_from(pin).ok().filter(|pin| *pin < PINS).ok_or_else(|| format!("there is no pin {pin}"))
}

fn block_size(text: &str) -> Result<usize, Refusal> {
    let size = number(text)?;
    let fits = usize::try_from(size).ok().filter(|_| size <= MOST);
    fits.ok_or_else(|| format!("{size} bytes are more than the {MOST} of one command"))
}

/// The bytes of `0x…`.
fn hex(text: &str) -> Result<Vec<u8>, Refusal> {
    let digits = text.strip_prefix("0x").ok_or("the data does not begin with 0x")?.as_bytes();
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let byte = |pair: &[u8]| match *pair {
        [high, low] => Some(nibble(high)? << 4 | nibble(low)?),
        _ => None,
    };
    digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>().ok_or_else(|| "the data is not hexadecimal".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_does() {
        assert_eq!((number("0x1F"), number("010"), number("19"), number("0")), (Ok(31), Ok(8), Ok(19), Ok(0)));
        assert!(number("x").is_err() && number("-1").is_err() && number("").is_err());
    }

    #[test]
    fn data_must_be_whole_bytes_in_hexadecimal() {
        assert_eq!(hex("0x00ff"), Ok(vec![0, 0xff]));
        assert!(hex("00").is_err() && hex("0x0").is_err() && hex("0xzz").is_err());
    }

    #[test]
    fn blocks_are_bounded() {
        assert!(block_size("0x4000000").is_ok() && block_size("0x4000001").is_err());
    }
}
