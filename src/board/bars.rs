//! What firmware does for PCI on a real board, done here when there is none: BARs get addresses, interrupt lines get
//! numbers, and the functions decode.
//!
//! Operating systems would do it themselves; boot loaders and small kernels rely on finding it done. A BAR that there is
//! no room for stays unassigned, as firmware leaves it: an operating system may have room, in the window above 4 GiB, and
//! a virtio function works without its ports.

use std::ops::Range;

use rhea_devices::pci::config::{BarInfo, BarKind};
use rhea_devices::pci::{Bdf, PciFunction};

/// Configuration space: command register, first BAR, interrupt line and pin (PCI 3.0, 6.1).
const COMMAND: u8 = 0x04;
const BAR0: u8 = 0x10;
const INTERRUPT_LINE: u8 = 0x3c;
const INTERRUPT_PIN: u8 = 0x3d;
/// Command: I/O space and memory space.
const DECODE: u16 = 0b11;

/// Where SeaBIOS starts giving out ports on this board, and where it goes when these are used up; between the two lie
/// hot-plug and events, below them the chips with fixed ports.
const PORTS: Range<u64> = 0xc000..0xfe00;
const MORE_PORTS: Range<u64> = 0x1000..0xa000;

/// Gives out addresses, ascending, each range aligned to its size as PCI 3.0, 6.2.5.1 asks.
pub(super) struct Assigner {
    ports: [Range<u64>; 2],
    memory: [Range<u64>; 1],
}

impl Assigner {
    /// `window` is the board's 32-bit PCI window.
    pub(super) fn new(window: Range<u64>) -> Self {
        Self { ports: [PORTS, MORE_PORTS], memory: [window] }
    }

    /// Gives `function` its addresses and `interrupt` (the ISA interrupt its pin leads to), and lets it decode.
    pub(super) fn assign(&mut self, bdf: Bdf, function: &dyn PciFunction, interrupt: impl FnOnce(u8) -> Option<u8>) {
        for bar in function.bars() {
            let windows = match bar.bar.kind {
                BarKind::Io => self.ports.as_mut_slice(),
                BarKind::Memory32 | BarKind::Memory64 | BarKind::Prefetchable64 => &mut self.memory,
            };
            let size = bar.bar.size;
            match windows.iter_mut().find_map(|window| take(window, size)) {
                Some(base) => write_base(function, bar, base),
                None => log::warn!("PCI function {bdf}: no room for its BAR {} of {size:#x} bytes", bar.index),
            }
        }
        let mut pin = [0];
        function.config_read(INTERRUPT_PIN, &mut pin);
        if let Some(line) = interrupt(pin[0]) {
            function.config_write(INTERRUPT_LINE, &[line]);
        }
        let mut command = [0; 2];
        function.config_read(COMMAND, &mut command);
        function.config_write(COMMAND, &(u16::from_le_bytes(command) | DECODE).to_le_bytes());
    }
}

fn take(window: &mut Range<u64>, size: u64) -> Option<u64> {
    let base = window.start.checked_next_multiple_of(size)?;
    let end = base.checked_add(size).filter(|&end| end <= window.end)?;
    window.start = end;
    Some(base)
}

fn write_base(function: &dyn PciFunction, bar: BarInfo, base: u64) {
    let register = BAR0 + 4 * bar.index;
    function.config_write(register, &(base as u32).to_le_bytes());
    if matches!(bar.bar.kind, BarKind::Memory64 | BarKind::Prefetchable64) {
        function.config_write(register + 4, &((base >> 32) as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
