//! Debugging a vCPU from outside (`KVM_SET_GUEST_DEBUG`): single steps, breakpoint instructions and the debug
//! registers (SDM volume 3, chapter 18).
//!
//! While it is debugged, the guest's own debug registers do nothing: they are lent to the debugger.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_SINGLESTEP,
    KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_fpu, kvm_guest_debug,
};

use super::vcpu::{Vcpu, VcpuError};

/// Addresses that the debug registers watch at a time (DR0 to DR3).
pub const MAX_WATCHES: usize = 4;
/// The first words of the debug status register, DR6: which watches were hit (SDM volume 3, 18.2.3).
const DR6_HITS: u64 = 0xf;
/// DR6: a single step is done.
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// DR7: bit 10 reads as one (SDM volume 3, 18.2.4).
const DR7_FIXED: u64 = 1 << 10;
/// Vectors of the two exceptions that end up here.
const DEBUG_VECTOR: u32 = 1;

/// What a watch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFor {
    /// The instruction at the address is about to be executed.
    Execution,
    /// Something wrote there.
    Write,
    /// Something read or wrote there.
    Access,
}

/// One debug register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// Linear address.
    pub address: u64,
    /// Bytes: 1, 2, 4 or 8; 1 for execution.
    pub length: u8,
    /// What ends the run.
    pub what: WatchFor,
}

impl Watch {
    /// Whether the processor can watch this: aligned, and of a length that it knows.
    #[must_use]
    pub fn possible(self) -> bool {
        matches!(self.length, 1 | 2 | 4 | 8) && self.address.is_multiple_of(self.length.into())
    }

    /// R/W and LEN fields of DR7 for register `n`, and its enable bit.
    fn control(self, n: usize) -> u64 {
        let kind = match self.what {
            WatchFor::Execution => 0b00,
            WatchFor::Write => 0b01,
            WatchFor::Access => 0b11,
        };
        let length = match self.length {
            2 => 0b01,
            4 => 0b11,
            8 => 0b10,
            _ => 0b00,
        };
        2 << (2 * n) | (kind | length << 2) << (16 + 4 * n)
    }
}

/// How a vCPU is debugged. The default is: not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DebugControl {
    /// Exits come from breakpoint instructions, debug registers and steps. Off: all of it is the guest's own affair.
    pub enabled: bool,
    /// One instruction at a time, without interrupts where the kernel can hold them back.
    pub single_step: bool,
    /// At most [`MAX_WATCHES`].
    pub watches: Vec<Watch>,
}

/// Why a debugged vCPU left the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugExit {
    /// It is at a breakpoint instruction, `int3`, at this linear address.
    Breakpoint(u64),
    /// The watch with this index was hit.
    Watch(usize),
    /// One instruction was executed.
    Step,
}

impl DebugExit {
    pub(super) fn new(exception: u32, pc: u64, dr6: u64) -> Self {
        match (exception, dr6 & DR6_HITS) {
            (DEBUG_VECTOR, 0) => Self::Step,
            (DEBUG_VECTOR, _) if dr6 & DR6_SINGLE_STEP != 0 => Self::Step,
            (DEBUG_VECTOR, hits) => Self::Watch(hits.trailing_zeros() as usize),
            _ => Self::Breakpoint(pc),
        }
    }
}

impl Vcpu {
    /// Debugs the vCPU from the next entry on.
    ///
    /// # Errors
    /// When the kernel cannot: a KVM without hardware virtualization may not.
    pub fn set_debug(&self, debug: &DebugControl) -> Result<(), VcpuError> {
        let wanted = registers(debug);
        // Kernels before 5.14 cannot hold interrupts back; a step can then end in an interrupt handler.
        let result = match self.fd.set_guest_debug(&wanted) {
            Err(e) if e.errno() == libc::EINVAL && debug.single_step => {
                let control = wanted.control & !KVM_GUESTDBG_BLOCKIRQ;
                self.fd.set_guest_debug(&kvm_guest_debug { control, ..wanted })
            }
            other => other,
        };
        result.map_err(self.failed("KVM_SET_GUEST_DEBUG"))
    }

    /// Hands the guest the breakpoint exception that an `int3` of its own was due.
    ///
    /// # Errors
    /// As [`Vcpu::set_debug`].
    pub fn return_breakpoint(&self, debug: &DebugControl) -> Result<(), VcpuError> {
        let wanted = registers(debug);
        let control = wanted.control | KVM_GUESTDBG_INJECT_BP;
        let injected = self.fd.set_guest_debug(&kvm_guest_debug { control, ..wanted });
        injected.map_err(self.failed("KVM_SET_GUEST_DEBUG"))
    }

    /// The x87 and SSE registers.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn fpu(&self) -> Result<kvm_fpu, VcpuError> {
        self.fd.get_fpu().map_err(self.failed("KVM_GET_FPU"))
    }

    /// Sets the x87 and SSE registers.
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn set_fpu(&self, fpu: &kvm_fpu) -> Result<(), VcpuError> {
        self.fd.set_fpu(fpu).map_err(self.failed("KVM_SET_FPU"))
    }
}

fn registers(debug: &DebugControl) -> kvm_guest_debug {
    let mut wanted = kvm_guest_debug::default();
    if !debug.enabled {
        return wanted;
    }
    wanted.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
    if debug.single_step {
        wanted.control |= KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
    }
    if !debug.watches.is_empty() {
        wanted.control |= KVM_GUESTDBG_USE_HW_BP;
        let (addresses, control) = wanted.arch.debugreg.split_at_mut(MAX_WATCHES);
        let mut enabled = DR7_FIXED;
        for (n, (register, watch)) in addresses.iter_mut().zip(&debug.watches).enumerate() {
            *register = watch.address;
            enabled |= watch.control(n);
        }
        // DR4 and DR5 do not exist; DR6 is the kernel's.
        if let Some(dr7) = control.last_mut() {
            *dr7 = enabled;
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
