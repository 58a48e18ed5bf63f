//! What is below the board: the interrupt controllers, doorbells and memory slots of whoever runs the guest.
//!
//! Devices hold wires and vectors and never ask whose they are. KVM is one that runs guests; a test that drives the
//! devices itself is another, with no vCPU and nothing to map.

use std::any::Any;
use std::sync::Arc;

use rhea_arch::kvm::{Access, HostRange, MemoryError, SlotId, Vm};
use rhea_devices::irq::{IrqLine, MsiSink};

use super::irq::{Doorbells, Messages, Wire};
use super::space::DoorbellHost;

/// Keeps a range mapped for the guest; dropping it takes the range away.
pub type Mapping = Box<dyn Any + Send + Sync>;

/// Runs the guest, or stands in for what does.
pub trait Accelerator: Send + Sync {
    /// The wire of ISA interrupt or I/O APIC pin `gsi`, 0 to 23.
    fn wire(&self, gsi: u32) -> Arc<dyn IrqLine>;
    /// Where message-signalled interrupts go.
    fn messages(&self) -> Arc<dyn MsiSink>;
    /// What matches doorbell writes before they reach the device.
    fn doorbells(&self) -> Box<dyn DoorbellHost>;
    /// Lets the guest reach `host` at guest-physical address `guest` without asking the board.
    ///
    /// # Errors
    /// When the host refuses.
    fn map(&self, guest: u64, host: HostRange, access: Access) -> Result<Mapping, MemoryError>;
    /// Writes to the `count` ports from `first` on do nothing by themselves: they may come later than they are made, as
    /// long as they come before any other access.
    fn may_keep_writes(&self, _first: u16, _count: u16) {}
}

/// KVM's virtual machine.
pub struct Kvm(pub Arc<Vm>);

impl Accelerator for Kvm {
    fn wire(&self, gsi: u32) -> Arc<dyn IrqLine> {
        Wire::connect(&self.0, gsi)
    }

    fn messages(&self) -> Arc<dyn MsiSink> {
        Arc::new(Messages::new(&self.0))
    }

    fn doorbells(&self) -> Box<dyn DoorbellHost> {
        Box::new(Doorbells(Arc::clone(&self.0)))
    }

    fn map(&self, guest: u64, host: HostRange, access: Access) -> Result<Mapping, MemoryError> {
        let id = self.0.add_memory(guest, host, access, false)?;
        Ok(Box::new(Slot { vm: Arc::clone(&self.0), id }))
    }

    fn may_keep_writes(&self, first: u16, count: u16) {
        // Each then costs an exit, that is all.
        if let Err(error) = self.0.keep_port_writes(first, count) {
            log::warn!("writes to ports from {first:#x} on are not kept: {error}");
        }
    }
}

/// A memory slot of KVM.
struct Slot {
    vm: Arc<Vm>,
    id: SlotId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Err(error) = self.vm.remove_memory(self.id) {
            log::error!("memory slot {}: {error}", self.id.number());
        }
    }
}
