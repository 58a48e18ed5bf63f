//! The registers by which ACPI hears of PCI slots that were plugged or are to be unplugged (QEMU's
//! docs/specs/acpi_pci_hotplug.rst), for bus 0.
//!
//! ```text
//!   +0   plugged: slots not looked at yet; a read takes them     +12  removable: slots that may be ejected
//!   +4   leaving: slots that the host wants back                 +16  bus: which bus the others speak of
//!   +8   eject: the guest lets go of the slots written
//! ```
//!
//! A bit is a slot, a register 4 bytes. Who raises the event, what sits in a slot and what is done when the guest lets
//! go of it ([`Effect::Eject`]) is the board's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::{BusDevice, BusFault, Effect};
use crate::legacy::{LegacyChip, PortRange};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, Saver, decode, encode};

/// First port.
pub const HOTPLUG_BASE: u16 = 0xae00;
/// Number of ports.
pub const HOTPLUG_LEN: u16 = 0x14;
/// The general-purpose event that says: look here.
pub const HOTPLUG_EVENT: u8 = 1;

/// Offsets of the registers.
mod reg {
    pub(super) const PLUGGED: u64 = 0;
    pub(super) const LEAVING: u64 = 4;
    pub(super) const EJECT: u64 = 8;
    pub(super) const REMOVABLE: u64 = 12;
    pub(super) const BUS: u64 = 16;
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "version")]
enum Saved {
    #[serde(rename = "1")]
    V1(Regs),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Regs {
    plugged: u32,
    leaving: u32,
    bus: u32,
}

impl Regs {
    /// There is only bus 0: another has no slots.
    fn of_bus(&self, slots: u32) -> u32 {
        if self.bus == 0 { slots } else { 0 }
    }
}

/// The registers.
pub struct PciHotplug {
    removable: u32,

    regs: Mutex<Regs>,
}

impl PciHotplug {
    /// `removable` are the slots that the guest may eject, a bit each.
    #[must_use]
    pub fn new(removable: u32) -> Self {
        Self { removable, regs: Mutex::default() }
    }

    /// Something is in `slot` (0 to 31) that was not there before.
    pub fn plugged(&self, slot: u8) {
        self.lock().plugged |= bit(slot);
    }

    /// The guest is asked to let go of `slot` (0 to 31).
    pub fn ask_back(&self, slot: u8) {
        self.lock().leaving |= bit(slot);
    }

    /// The slots that the guest was asked for and has not let go of.
    #[must_use]
    pub fn leaving(&self) -> u32 {
        self.lock().leaving
    }

    fn lock(&self) -> MutexGuard<'_, Regs> {
        self.regs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bit(slot: u8) -> u32 {
    1u32.checked_shl(slot.into()).unwrap_or(0)
}

impl BusDevice for PciHotplug {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let fault = BusFault { offset, len: data.len() };
        let data: &mut [u8; 4] = data.try_into().map_err(|_| fault)?;
        let mut regs = self.lock();
        let value = match offset {
            reg::PLUGGED => {
                let plugged = regs.of_bus(regs.plugged);
                regs.plugged &= !plugged;
                plugged
            }
            reg::LEAVING => regs.of_bus(regs.leaving),
            // Read, it is a set of features beyond these registers: none.
            reg::EJECT => 0,
            reg::REMOVABLE => regs.of_bus(self.removable),
            reg::BUS => regs.bus,
            _ => return Err(fault),
        };
        *data = value.to_le_bytes();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let fault = BusFault { offset, len: data.len() };
        let value = u32::from_le_bytes(data.try_into().map_err(|_| fault)?);
        let mut regs = self.lock();
        match offset {
            reg::EJECT => {
                let slots = regs.of_bus(value & self.removable);
                regs.plugged &= !slots;
                regs.leaving &= !slots;
                Ok(if slots == 0 { Effect::None } else { Effect::Eject(slots) })
            }
            reg::BUS => {
                regs.bus = value;
                Ok(Effect::None)
            }
            reg::PLUGGED | reg::LEAVING | reg::REMOVABLE => Ok(Effect::None),
            _ => Err(fault),
        }
    }
}

impl Lifecycle for PciHotplug {
    fn name(&self) -> &str {
        "acpi-pci-hotplug"
    }

    fn reset(&self) {
        *self.lock() = Regs::default();
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl SaveRestore for PciHotplug {
    fn save(&self) -> Result<Value, DeviceError> {
        encode(self.name(), &Saved::V1(self.lock().clone()))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let Saved::V1(regs) = decode(self.name(), state)?;
        *self.lock() = regs;
        Ok(())
    }
}

impl LegacyChip for PciHotplug {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        vec![PortRange { base: HOTPLUG_BASE, len: HOTPLUG_LEN, device: self }]
    }
}

#[cfg(test)]
mod tests;
