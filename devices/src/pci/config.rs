//! The 256 bytes of configuration space of a type 0 function (PCI Local Bus Specification 3.0, chapter 6).
//!
//! It knows registers and their write rules. It does not know what a base address leads to: the function that owns
//! it asks [`ConfigSpace::bar`] and answers [`super::PciFunction::regions`].

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Size of configuration space in bytes.
pub const CONFIG_BYTES: usize = 256;

/// Subsystem vendor of functions that have none of their own; QEMU's firmware and drivers expect it.
pub const SUBSYSTEM_VENDOR: u16 = 0x1af4;
/// Subsystem ID of the same.
pub const SUBSYSTEM: u16 = 0x1100;

/// Register offsets of the type 0 header (PCI 3.0, figure 6-1).
pub mod reg {
    /// Vendor ID, 16 bits.
    pub const VENDOR: u8 = 0x00;
    /// Device ID, 16 bits.
    pub const DEVICE: u8 = 0x02;
    /// Command, 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// Status, 16 bits.
    pub const STATUS: u8 = 0x06;
    /// Revision ID, 8 bits.
    pub const REVISION: u8 = 0x08;
    /// Programming interface, subclass and base class, 24 bits.
    pub const CLASS: u8 = 0x09;
    /// Cache line size, 8 bits.
    pub const CACHE_LINE: u8 = 0x0c;
    /// Latency timer, 8 bits.
    pub const LATENCY: u8 = 0x0d;
    /// Header type, 8 bits; bit 7 says multi-function.
    pub const HEADER_TYPE: u8 = 0x0e;
    /// First base address register.
    pub const BAR0: u8 = 0x10;
    /// Subsystem vendor ID, 16 bits.
    pub const SUBSYSTEM_VENDOR: u8 = 0x2c;
    /// Subsystem ID, 16 bits.
    pub const SUBSYSTEM: u8 = 0x2e;
    /// Offset of the first capability, 8 bits.
    pub const CAPABILITIES: u8 = 0x34;
    /// Interrupt line, 8 bits; only software reads it.
    pub const INTERRUPT_LINE: u8 = 0x3c;
    /// Interrupt pin, 8 bits: 0 for none, 1 for INTA.
    pub const INTERRUPT_PIN: u8 = 0x3d;
}

/// Bits of the command register (PCI 3.0, 6.2.2).
pub mod command {
    /// Responds to I/O accesses.
    pub const IO: u16 = 1 << 0;
    /// Responds to memory accesses.
    pub const MEMORY: u16 = 1 << 1;
    /// May act as bus master.
    pub const MASTER: u16 = 1 << 2;
    /// Reports system errors.
    pub const SERR: u16 = 1 << 8;
    /// Keeps its INTx# pin still.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Bits of the status register (PCI 3.0, 6.2.3).
pub mod status {
    /// An INTx# interrupt is pending in the function, whether or not the pin may be driven.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a capability list.
    pub const CAPABILITIES: u16 = 1 << 4;
    /// Fast back-to-back capable.
    pub const FAST_BACK: u16 = 1 << 7;
    /// DEVSEL# timing medium.
    pub const DEVSEL_MEDIUM: u16 = 1 << 9;
    /// The error bits that software clears by writing ones.
    pub const ERRORS: u16 = 0xf900;
}

/// What a base address register decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers.
    Memory64,
    /// Memory anywhere, without side effects on reads; takes two registers.
    Prefetchable64,
}

impl BarKind {
    const fn type_bits(self) -> u8 {
        match self {
            Self::Io => 0b0001,
            Self::Memory32 => 0b0000,
            Self::Memory64 => 0b0100,
            Self::Prefetchable64 => 0b1100,
        }
    }

    /// Whether it takes two registers.
    #[must_use]
    pub const fn is_64(self) -> bool {
        matches!(self, Self::Memory64 | Self::Prefetchable64)
    }

    /// Largest legal size and last address that can be decoded.
    const fn last_address(self) -> u64 {
        match self {
            Self::Io => 0xffff,
            // The last 4 GiB address would end at u32::MAX; all-ones is what sizing writes, so it never decodes.
            Self::Memory32 => u32::MAX as u64 - 1,
            Self::Memory64 | Self::Prefetchable64 => i64::MAX as u64,
        }
    }
}

/// One base address register (or pair).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Bytes decoded: a power of two, at least 4 (I/O) or 16 (memory).
    pub size: u64,
}

/// Who a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, subclass and programming interface: `0x01_01_80` is an IDE controller with interface 0x80.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// A base address register as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarInfo {
    /// Register number, 0 to 5.
    pub index: u8,
    /// What it decodes, and how much.
    pub bar: Bar,
    /// Where it decodes now, if it does.
    pub base: Option<u64>,
}

/// The layout asked for cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The register number, or its partner for a 64-bit one, is out of range or taken.
    #[error("base address register {0} is out of range or taken")]
    BarTaken(u8),
    /// Not a power of two, or out of the range of its kind.
    #[error("base address register {index} cannot decode {size:#x} bytes")]
    BarSize {
        /// Register number.
        index: u8,
        /// Size asked for, in bytes.
        size: u64,
    },
    /// The capability list has no room for this many bytes.
    #[error("no room for a capability of {0} bytes")]
    CapabilityRoom(usize),
}

/// What a write to configuration space changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// Some BAR decodes another range, or starts or stops decoding.
    pub decode: bool,
    /// The command register differs; bus mastering and INTx may have been switched.
    pub command: bool,
}

/// Saved contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigState {
    bytes: Vec<u8>,
}

/// Configuration space of one function.
///
/// Built with consuming `with_*` steps; what it holds when first written to is what [`ConfigSpace::reset`] returns to.
#[derive(Clone)]
pub struct ConfigSpace {
    bars: [Option<Bar>; 6],
    writable: [u8; CONFIG_BYTES],
    write_one_clears: [u8; CONFIG_BYTES],
    power_on: [u8; CONFIG_BYTES],
    capability_end: u8,
    last_capability: Option<u8>,

    bytes: [u8; CONFIG_BYTES],
}

impl ConfigSpace {
    /// A type 0 header without BARs, interrupt pin or capabilities.
    #[must_use]
    pub fn type0(identity: &Identity) -> Self {
        let mut space = Self {
            bars: [None; 6],
            writable: [0; CONFIG_BYTES],
            write_one_clears: [0; CONFIG_BYTES],
            power_on: [0; CONFIG_BYTES],
            capability_end: 0x40,
            last_capability: None,
            bytes: [0; CONFIG_BYTES],
        };
        let [class, subclass, interface] = {
            let [_, base, sub, interface] = identity.class.to_be_bytes();
            [base, sub, interface]
        };
        space.put(reg::VENDOR, &identity.vendor.to_le_bytes());
        space.put(reg::DEVICE, &identity.device.to_le_bytes());
        space.put(reg::REVISION, &[identity.revision, interface, subclass, class]);
        space.put(reg::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.put(reg::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        // Drivers and tests look whether the bits that they set stay, with BARs of that kind or without.
        let writable = command::IO | command::MEMORY | command::MASTER | command::SERR | command::INTX_DISABLE;
        space.allow(reg::COMMAND, &writable.to_le_bytes());
        set(&mut space.write_one_clears, reg::STATUS, &status::ERRORS.to_le_bytes());
        space.allow(reg::CACHE_LINE, &[0xff]);
        space
    }

    /// Marks the device as having more functions than number 0 (header type bit 7; PCI 3.0, 6.2.1).
    #[must_use]
    pub fn with_multifunction(mut self, multifunction: bool) -> Self {
        self.put(reg::HEADER_TYPE, &[if multifunction { 0x80 } else { 0 }]);
        self
    }

    /// Sets the command register: power-on value, and exactly which bits the guest may write. For chips that
    /// hard-wire some; others get what suits from this builder.
    #[must_use]
    pub fn with_command(mut self, value: u16, writable: u16) -> Self {
        self.put(reg::COMMAND, &value.to_le_bytes());
        set(&mut self.writable, reg::COMMAND, &writable.to_le_bytes());
        self
    }

    /// Sets read-only bits of the status register, beside the capabilities bit.
    #[must_use]
    pub fn with_status(mut self, bits: u16) -> Self {
        let status = self.get16(reg::STATUS) | (bits & !status::ERRORS);
        self.put(reg::STATUS, &status.to_le_bytes());
        self
    }

    /// Wires the interrupt pin: 1 for INTA to 4 for INTD. The interrupt line register becomes writable.
    #[must_use]
    pub fn with_interrupt_pin(mut self, pin: u8) -> Self {
        self.put(reg::INTERRUPT_PIN, &[pin.min(4)]);
        self.allow(reg::INTERRUPT_LINE, &[0xff]);
        self
    }

    /// Sets a register that the header builder does not know: initial bytes at `offset`, and which bits the guest
    /// may write. What does not fit into 256 bytes is cut off.
    #[must_use]
    pub fn with_field(mut self, offset: u8, value: &[u8], writable: &[u8]) -> Self {
        self.put(offset, value);
        self.allow(offset, writable);
        self
    }

    /// Adds a base address register.
    ///
    /// # Errors
    /// [`ConfigError::BarTaken`], [`ConfigError::BarSize`].
    pub fn with_bar(mut self, index: u8, bar: Bar) -> Result<Self, ConfigError> {
        let registers = if bar.kind.is_64() { 2 } else { 1 };
        let taken = self.bars.iter().enumerate().filter_map(|(i, b)| b.map(|b| (i, b))).any(|(i, b)| {
            let end = i + if b.kind.is_64() { 2 } else { 1 };
            usize::from(index) < end && i < usize::from(index) + registers
        });
        if usize::from(index) + registers > self.bars.len() || taken {
            return Err(ConfigError::BarTaken(index));
        }
        let (least, most) = match bar.kind {
            BarKind::Io => (4, 256),
            BarKind::Memory32 => (16, 1 << 31),
            BarKind::Memory64 | BarKind::Prefetchable64 => (16, 1 << 62),
        };
        if !bar.size.is_power_of_two() || bar.size < least || bar.size > most {
            return Err(ConfigError::BarSize { index, size: bar.size });
        }
        let at = bar_offset(index);
        let mask = (!(bar.size - 1)).to_le_bytes();
        self.put(at, &[bar.kind.type_bits()]);
        self.allow(at, mask.get(..registers * 4).unwrap_or_default());
        if let Some(slot) = self.bars.get_mut(usize::from(index)) {
            *slot = Some(bar);
        }
        Ok(self)
    }

    /// Appends a capability to the list (PCI 3.0, 6.7) and returns its offset. `body` follows the two bytes of ID
    /// and link; `writable` are its write masks.
    ///
    /// # Errors
    /// [`ConfigError::CapabilityRoom`].
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, ConfigError> {
        let room = CONFIG_BYTES - usize::from(self.capability_end);
        // The end is kept in a byte, so the last dword of configuration space stays unused.
        if body.len() + 2 >= room || self.capability_end == 0xfc {
            return Err(ConfigError::CapabilityRoom(body.len() + 2));
        }
        let at = self.capability_end;
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        let link = self.last_capability.map_or(reg::CAPABILITIES, |last| last + 1);
        self.put(link, &[at]);
        let status = self.get16(reg::STATUS) | status::CAPABILITIES;
        self.put(reg::STATUS, &status.to_le_bytes());
        self.last_capability = Some(at);
        let end = (usize::from(at) + body.len() + 2).next_multiple_of(4);
        self.capability_end = u8::try_from(end).unwrap_or(0xfc);
        Ok(at)
    }

    /// Makes the next capability start no lower than `offset` (a multiple of 4), for functions whose
    /// device-specific registers occupy the space from 0x40.
    #[must_use]
    pub fn with_capabilities_from(mut self, offset: u8) -> Self {
        self.capability_end = self.capability_end.max(offset & !3);
        self
    }

    /// Reads what lies at `offset`; bytes past the end read as ones.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(usize::from(offset) + i).copied().unwrap_or(0xff);
        }
    }

    /// A guest's write: honours write masks and write-one-to-clear bits.
    pub fn write(&mut self, offset: u8, data: &[u8]) -> Changed {
        let before = self.decoded();
        let command = self.get16(reg::COMMAND);
        for (i, new) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            let (Some(byte), Some(mask), Some(clears)) =
                (self.bytes.get_mut(at), self.writable.get(at), self.write_one_clears.get(at))
            else {
                break;
            };
            *byte = ((*byte & !mask) | (new & mask)) & !(new & clears);
        }
        Changed { decode: self.decoded() != before, command: self.get16(reg::COMMAND) != command }
    }

    /// Each BAR as it stands.
    #[must_use]
    pub fn bars(&self) -> Vec<BarInfo> {
        let of = |(index, bar): (u8, Option<Bar>)| Some(BarInfo { index, bar: bar?, base: self.bar(index) });
        (0u8..).zip(self.bars).filter_map(of).collect()
    }

    /// The base that BAR `index` decodes now: `None` while the command register keeps it from decoding, while it is
    /// unassigned (0), or where the range would not fit its space (as during sizing).
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<u64> {
        let bar = (*self.bars.get(usize::from(index))?)?;
        let needed = if bar.kind == BarKind::Io { command::IO } else { command::MEMORY };
        if self.get16(reg::COMMAND) & needed == 0 {
            return None;
        }
        let at = bar_offset(index);
        let high = if bar.kind.is_64() { self.get32(at + 4) } else { 0 };
        let base = ((u64::from(high) << 32) | u64::from(self.get32(at))) & !(bar.size - 1);
        let last = base.checked_add(bar.size - 1)?;
        (base != 0 && last <= bar.kind.last_address()).then_some(base)
    }

    /// Points BAR `index` at `base`, as firmware would. Does not touch the command register.
    pub fn assign_bar(&mut self, index: u8, base: u64) {
        let Some(Some(bar)) = self.bars.get(usize::from(index)) else { return };
        let (at, bytes) = (bar_offset(index), base.to_le_bytes());
        let len = if bar.kind.is_64() { 8 } else { 4 };
        let _ = self.write(at, bytes.get(..len).unwrap_or_default());
    }

    fn decoded(&self) -> [Option<u64>; 6] {
        std::array::from_fn(|i| u8::try_from(i).ok().and_then(|i| self.bar(i)))
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        self.get16(reg::COMMAND)
    }

    /// Whether the guest lets the function write to memory (command bit 2).
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.command() & command::MASTER != 0
    }

    /// Lets the function write to memory on the guest's behalf.
    pub fn grant_bus_master(&mut self) {
        let command = self.command() | command::MASTER;
        set(&mut self.bytes, reg::COMMAND, &command.to_le_bytes());
    }

    /// Sets status bit 3 (PCI 3.0, 6.2.3): the function wants its interrupt pin driven. Afterwards, and after every
    /// write that changed the command register, drive the wire with [`ConfigSpace::intx_level`].
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let old = self.get16(reg::STATUS);
        let new = if pending { old | status::INTERRUPT } else { old & !status::INTERRUPT };
        set(&mut self.bytes, reg::STATUS, &new.to_le_bytes());
    }

    /// The level of the interrupt pin: pending and not disabled (PCI 3.0, 6.2.2, bit 10).
    #[must_use]
    pub fn intx_level(&self) -> bool {
        self.get16(reg::STATUS) & status::INTERRUPT != 0 && self.command() & command::INTX_DISABLE == 0
    }

    /// Sets a register from the device's side, write masks notwithstanding. Not for BARs and the command register.
    pub fn set(&mut self, offset: u8, value: &[u8]) {
        set(&mut self.bytes, offset, value);
    }

    /// 8 bits at `offset`.
    #[must_use]
    pub fn get8(&self, offset: u8) -> u8 {
        self.bytes.get(usize::from(offset)).copied().unwrap_or(0xff)
    }

    /// 16 bits at `offset`.
    #[must_use]
    pub fn get16(&self, offset: u8) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// 32 bits at `offset`.
    #[must_use]
    pub fn get32(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Back to power-on values; says whether decoding changed.
    pub fn reset(&mut self) -> Changed {
        let before = self.decoded();
        let command = self.command();
        self.bytes = self.power_on;
        Changed { decode: self.decoded() != before, command: self.command() != command }
    }

    /// The contents, for saving.
    #[must_use]
    pub fn save(&self) -> ConfigState {
        ConfigState { bytes: self.bytes.to_vec() }
    }

    /// Takes saved contents on.
    ///
    /// # Errors
    /// A sentence when length or a header register that no one can change differs; nothing has then changed.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), String> {
        let bytes: [u8; CONFIG_BYTES] = state
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| format!("configuration space of {} bytes", state.bytes.len()))?;
        self.check_header(&bytes)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Everything below 0x40 but the status register is either the guest's to write or fixed.
    fn check_header(&self, bytes: &[u8; CONFIG_BYTES]) -> Result<(), String> {
        let fixed = bytes.iter().zip(&self.power_on).zip(&self.writable).enumerate().take(0x40);
        for (at, ((new, old), writable)) in fixed {
            let is_status = at == usize::from(reg::STATUS) || at == usize::from(reg::STATUS) + 1;
            if !is_status && (new ^ old) & !writable != 0 {
                return Err(format!("configuration byte {at:#04x} is {new:#04x} where this device has {old:#04x}"));
            }
        }
        Ok(())
    }

    /// Sets power-on and present value; only while building.
    fn put(&mut self, offset: u8, value: &[u8]) {
        set(&mut self.bytes, offset, value);
        set(&mut self.power_on, offset, value);
    }

    /// Adds write permission.
    fn allow(&mut self, offset: u8, mask: &[u8]) {
        for (byte, mask) in self.writable.iter_mut().skip(usize::from(offset)).zip(mask) {
            *byte |= mask;
        }
    }
}

fn set(bytes: &mut [u8; CONFIG_BYTES], offset: u8, value: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(usize::from(offset)).zip(value) {
        *byte = *value;
    }
}

const fn bar_offset(index: u8) -> u8 {
    reg::BAR0 + 4 * index
}

#[cfg(test)]
mod tests;
