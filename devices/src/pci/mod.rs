//! PCI (Local Bus Specification 3.0): the contract of a function, and the chips of the i440FX board.

pub mod config;
pub mod host;
pub mod hotplug;
pub mod i440fx;
pub mod intx;
pub mod msix;
pub mod piix3;
pub mod piix4_pm;

use std::fmt;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, Effect};
use crate::lifecycle::Lifecycle;

/// Bus, device and function of a PCI function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf(u16);

impl Bdf {
    /// From bus, device (0 to 31) and function (0 to 7); higher bits are cut off.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self(((bus as u16) << 8) | (((device & 0x1f) as u16) << 3) | (function & 7) as u16)
    }
    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }
    /// Device (slot) number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        ((self.0 >> 3) & 0x1f) as u8
    }
    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        (self.0 & 7) as u8
    }
    /// The 16-bit requester ID.
    #[must_use]
    pub const fn requester(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

/// Which address space a region decodes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// x86 I/O ports.
    Io,
    /// Guest-physical memory.
    Memory,
}

/// A write that the hypervisor can match without leaving the kernel (an ioeventfd).
#[derive(Clone)]
pub struct Doorbell {
    /// Offset within the region, in bytes.
    pub offset: u64,
    /// Width of the write: 0 (any), 1, 2, 4 or 8 bytes.
    pub len: u8,
    /// Only this value, if given.
    pub value: Option<u64>,
    /// Signalled by the matching write.
    pub event: Arc<EventFd>,
}

/// A range that a function decodes now.
#[derive(Clone)]
pub struct Region {
    /// Ports or memory.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// Who answers; also for doorbell addresses, where the hypervisor cannot match them.
    pub device: Arc<dyn BusDevice>,
    /// Writes to match in the kernel.
    pub doorbells: Vec<Doorbell>,
}

/// One function of a PCI device, as the host bridge and the board see it.
pub trait PciFunction: Lifecycle {
    /// Reads 1, 2 or 4 bytes of configuration space at byte `offset` (0 to 255), not crossing a dword.
    fn config_read(&self, offset: u8, data: &mut [u8]);
    /// Writes 1, 2 or 4 bytes of configuration space; says whether ranges changed or power is concerned.
    fn config_write(&self, offset: u8, data: &[u8]) -> Effect;
    /// What the function decodes at this moment (command register and BARs considered).
    fn regions(&self) -> Vec<Region>;
    /// The base address registers, for showing to the user.
    fn bars(&self) -> Vec<config::BarInfo> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
