//! Writes to ports that KVM keeps instead of leaving the guest for each (coalesced port I/O, section
//! "KVM_(UN)REGISTER_COALESCED_MMIO" of the kernel's API).
//!
//! They lie in one ring for the whole machine, in the order in which the vCPUs made them, and whoever leaves the guest
//! next hands them on before anything else: a guest that writes a port and then does what it has to leave the guest for
//! finds both done in order. That fits registers whose writes do nothing by themselves, such as the operands of a command.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{Cap, IoEventAddress, VcpuFd};

use super::vm::{Vm, VmError};

/// Takes a write: the port and the bytes.
pub type WriteSink = Box<dyn FnMut(u16, &[u8]) + Send>;

impl Vm {
    /// Keeps writes of any width to the `count` ports from `first` on, until a vCPU leaves the guest for another reason.
    /// To be called before any vCPU runs. A kernel that cannot do that leaves the guest for each, as if this had not been called.
    ///
    /// # Errors
    /// When the kernel refuses the ports, or has no more zones (1000).
    pub fn keep_port_writes(&self, first: u16, count: u16) -> Result<(), VmError> {
        if !self.keeps_writes {
            return Ok(());
        }
        self.fd
            .register_coalesced_mmio(IoEventAddress::Pio(first.into()), count.into())
            .map_err(|source| VmError::Ioctl { what: "KVM_REGISTER_COALESCED_MMIO", source })?;
        self.kept.used.store(true, Ordering::Release);
        Ok(())
    }
}

/// Whether the kernel can keep writes to ports.
pub(super) fn supported(vm: &kvm_ioctls::VmFd) -> bool {
    vm.check_extension(Cap::CoalescedMmio) && vm.check_extension(Cap::CoalescedPio)
}

/// Who hands on what is kept: the vCPUs share the ring.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Held from taking a write to the end of its service, for their order is the guest's.
    lock: Mutex<()>,
    /// There are ports whose writes are kept.
    used: AtomicBool,
}

/// One vCPU's way to what is kept.
pub(super) struct Kept {
    turn: Arc<Turn>,
    sink: Option<WriteSink>,
}

impl Kept {
    pub(super) fn new(turn: Arc<Turn>) -> Self {
        Self { turn, sink: None }
    }

    pub(super) fn set_sink(&mut self, sink: WriteSink) {
        self.sink = Some(sink);
    }

    /// Hands on what is kept, of all vCPUs.
    #[inline]
    pub(super) fn hand_on(&mut self, vcpu: &mut VcpuFd) {
        let Some(sink) = self.sink.as_mut().filter(|_| self.turn.used.load(Ordering::Acquire)) else { return };
        let _turn = self.turn.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some(write)) = vcpu.coalesced_mmio_read() {
            let bytes = write.data.get(..write.len as usize).unwrap_or(&write.data);
            // Only ports are kept, so the address is one.
            sink(write.phys_addr as u16, bytes);
        }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("sink", &self.sink.is_some()).finish_non_exhaustive()
    }
}
