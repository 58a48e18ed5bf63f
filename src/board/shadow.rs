//! The memory below 1 MiB that firmware turns from ROM into RAM, and the rest of the memory map.
//!
//! ```text
//!  0x00000  RAM                       0xc0000  twelve parts of 16 KiB, then one of 64 KiB: ROM or RAM for reads,
//!  0xa0000  nothing (VGA's window)             RAM or nothing for writes, as the host bridge's PAM registers say
//!  0x100000 RAM
//! ```
//!
//! [`Shadow`] answers any access by the registers alone. That would do, but every access would leave the guest; so
//! [`MemoryMap`] lets the guest reach directly what it can, and only the rest comes to `Shadow`: writes to what is not
//! RAM, and whatever touches a part while it changes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rhea_arch::kvm::{Access, HostRange, MemoryError};
use rhea_arch::x86_64::layout::{HIGH_MEMORY_START, OPTION_ROM_START, Share, VGA_WINDOW_START};
use rhea_devices::bus::{BusDevice, BusFault, Effect};
use rhea_devices::memory::GuestRam;
use rhea_devices::pci::i440fx::{I440fx, PamSegment};
use vm_memory::{Bytes, GuestAddress};

use super::accel::{Accelerator, Mapping};
use super::flash::Placed;
use super::rom::Rom;

/// Length of the part that the PAM registers rule.
pub(super) const SHADOW_LEN: u64 = HIGH_MEMORY_START - OPTION_ROM_START;

/// The part of memory from 0xc0000 to 0xfffff, as a bus device from its start.
pub(super) struct Shadow {
    bridge: Arc<I440fx>,
    ram: Arc<GuestRam>,
    /// What is seen below 1 MiB of the firmware.
    rom: Option<Arc<Rom>>,
}

impl Shadow {
    pub(super) fn new(bridge: Arc<I440fx>, ram: Arc<GuestRam>, rom: Option<Arc<Rom>>) -> Self {
        Self { bridge, ram, rom }
    }

    fn segment(&self, address: u64) -> Option<PamSegment> {
        self.bridge.pam().into_iter().find(|s| (s.base..s.base + s.len).contains(&address))
    }

    fn read_byte(&self, address: u64) -> u8 {
        let mut byte = [0xff];
        let from_ram = self.segment(address).is_some_and(|segment| segment.read_ram);
        match self.rom.as_ref().and_then(|rom| Some((rom, rom.alias(address, 1)?))) {
            // All of the first MiB is RAM on every board that there is.
            _ if from_ram => self.ram.read_slice(&mut byte, GuestAddress(address)).unwrap_or_default(),
            Some((rom, offset)) => rom.copy(offset, &mut byte),
            None => {}
        }
        byte[0]
    }
}

impl BusDevice for Shadow {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        for (address, byte) in (OPTION_ROM_START + offset..).zip(data) {
            *byte = self.read_byte(address);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        for (address, byte) in (OPTION_ROM_START + offset..).zip(data) {
            if self.segment(address).is_some_and(|segment| segment.write_ram) {
                self.ram.write_slice(&[*byte], GuestAddress(address)).unwrap_or_default();
            }
        }
        Ok(Effect::None)
    }
}

/// What the guest reaches in a part without asking the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direct {
    Nothing,
    Ram(Access),
    Rom(u64),
}

/// A part and what is mapped there.
struct Part {
    direct: Direct,
    _mapping: Option<Mapping>,
}

/// All that the guest reaches without asking the board.
pub(super) struct MemoryMap {
    accel: Arc<dyn Accelerator>,
    shadow: Arc<Shadow>,
    flash: Vec<Placed>,
    _fixed: Vec<Mapping>,
    now: Mutex<Changing>,
}

/// What is mapped now of that which changes.
#[derive(Default)]
struct Changing {
    parts: [Option<Part>; 13],
    /// For each chip.
    flash: Vec<Option<Mapping>>,
}

impl MemoryMap {
    /// Maps RAM and ROM; the parts below 1 MiB and flash come with the first [`MemoryMap::refresh`]. `shares` are
    /// RAM.
    pub(super) fn new(
        accel: Arc<dyn Accelerator>,
        shadow: Arc<Shadow>,
        shares: &[Share],
        flash: Vec<Placed>,
    ) -> Result<Self, MemoryError> {
        let mut fixed = Vec::new();
        for (start, end) in shares.iter().flat_map(|share| around_hole(&share.range)) {
            let host = HostRange::of_ram(&shadow.ram, GuestAddress(start), end - start)?;
            fixed.push(accel.map(start, host, Access::ReadWrite)?);
        }
        if let (Some(rom), []) = (&shadow.rom, &*flash) {
            fixed.push(accel.map(rom.base(), rom.range()?, Access::ReadOnly)?);
        }
        let now = Changing { flash: flash.iter().map(|_| None).collect(), ..Changing::default() };
        Ok(Self { accel, shadow, flash, _fixed: fixed, now: Mutex::new(now) })
    }

    /// Follows the host bridge's registers and the flash chips: what reads otherwise than before is mapped anew. What
    /// cannot be mapped is served by [`Shadow`] or the chip, as slowly as any register.
    pub(super) fn refresh(&self) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock: of two vCPUs that write at once, the last one's registers count.
        for (chip, mapping) in self.flash.iter().zip(&mut now.flash) {
            if let Err(error) = chip.refresh(&*self.accel, mapping) {
                log::error!("flash at {:#x}: {error}", chip.base);
            }
        }
        for (part, segment) in now.parts.iter_mut().zip(self.shadow.bridge.pam()) {
            let direct = self.direct(&segment);
            if part.as_ref().is_some_and(|part| part.direct == direct) {
                continue;
            }
            // The old mapping goes first: two cannot be in one place.
            *part = None;
            let mapping = self.map(&segment, direct);
            let mapping = mapping.unwrap_or_else(|error| {
                log::error!("memory at {:#x}: {error}", segment.base);
                None
            });
            *part = Some(Part { direct, _mapping: mapping });
        }
    }

    fn direct(&self, segment: &PamSegment) -> Direct {
        match (segment.read_ram, segment.write_ram) {
            (true, true) => Direct::Ram(Access::ReadWrite),
            (true, false) => Direct::Ram(Access::ReadOnly),
            (false, _) => {
                let offset = self.shadow.rom.as_ref().and_then(|rom| rom.alias(segment.base, segment.len));
                offset.map_or(Direct::Nothing, Direct::Rom)
            }
        }
    }

    fn map(&self, segment: &PamSegment, direct: Direct) -> Result<Option<Mapping>, MemoryError> {
        let (host, access) = match (direct, &self.shadow.rom) {
            (Direct::Ram(access), _) => {
                (HostRange::of_ram(&self.shadow.ram, GuestAddress(segment.base), segment.len)?, access)
            }
            (Direct::Rom(offset), Some(rom)) => (rom.part(offset, segment.len)?, Access::ReadOnly),
            (Direct::Rom(_), None) | (Direct::Nothing, _) => return Ok(None),
        };
        self.accel.map(segment.base, host, access).map(Some)
    }
}

/// The parts of `start..end` that are RAM whatever the registers say.
fn around_hole(ram: &Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let below = (ram.start, ram.end.min(VGA_WINDOW_START));
    let above = (ram.start.max(HIGH_MEMORY_START), ram.end);
    [below, above].into_iter().filter(|(start, end)| start < end)
}

#[cfg(test)]
mod tests;
