//! The whole state of a vCPU: taken for saving and for reset, and put back.

use kvm_bindings::{
    Xsave, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave, kvm_xsave2,
};

use super::msrs::{self, MsrValue};
use super::vcpu::{Tsc, Vcpu, VcpuError};

/// Floating point and vector registers, in the fullest form that the kernel offers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Vectors {
    /// An XSAVE area (SDM volume 1, 13.4) and the XCR registers.
    Extended { area: Vec<u32>, xcrs: Box<kvm_xcrs> },
    /// x87 and SSE, on a KVM without XSAVE.
    Legacy(Box<kvm_fpu>),
}

/// The state of one vCPU; see [`super::state`] for the form that is written out.
#[derive(Debug, Clone, PartialEq)]
pub struct VcpuSnapshot {
    pub(super) regs: kvm_regs,
    pub(super) sregs: kvm_sregs,
    pub(super) vectors: Vectors,
    pub(super) debug: Option<kvm_debugregs>,
    pub(super) lapic: kvm_lapic_state,
    pub(super) events: Option<kvm_vcpu_events>,
    pub(super) mp_state: kvm_mp_state,
    pub(super) msrs: Vec<MsrValue>,
}

/// IA32_TIME_STAMP_COUNTER (SDM volume 4, table 2-2).
const MSR_TSC: u32 = 0x10;
/// IA32_TSC_ADJUST: writing it moves the TSC, writing the TSC moves it.
const MSR_TSC_ADJUST: u32 = 0x3b;
/// IA32_TSC_DEADLINE: armed against the TSC, and so set after it and after the APIC.
const MSR_TSC_DEADLINE: u32 = 0x6e0;

impl Vcpu {
    /// Takes the whole state. The vCPU must not be running, and its last access be finished
    /// ([`Vcpu::finish_access`]).
    ///
    /// # Errors
    /// When an ioctl fails that every KVM has.
    pub fn snapshot(&self) -> Result<VcpuSnapshot, VcpuError> {
        // The run state first: asking for it makes the kernel take pending start-up interrupts into the others.
        let mp_state = self.fd.get_mp_state().map_err(self.failed("KVM_GET_MP_STATE"))?;
        Ok(VcpuSnapshot {
            mp_state,
            regs: self.regs()?,
            sregs: self.sregs()?,
            vectors: self.vectors()?,
            debug: optional(self.fd.get_debug_regs(), "KVM_GET_DEBUGREGS"),
            lapic: self.fd.get_lapic().map_err(self.failed("KVM_GET_LAPIC"))?,
            events: optional(self.fd.get_vcpu_events(), "KVM_GET_VCPU_EVENTS"),
            msrs: self.msrs(&self.msr_indices),
        })
    }

    /// In the order that the parts need: what enables before what is enabled, the APIC's base before the APIC, the APIC
    /// before its deadline, events last, because setting registers clears pending exceptions.
    pub(super) fn put(&self, snapshot: &VcpuSnapshot, tsc: Tsc) -> Result<(), VcpuError> {
        self.set_sregs(&snapshot.sregs)?;
        self.set_regs(&snapshot.regs)?;
        self.put_vectors(&snapshot.vectors)?;
        if let Some(debug) = &snapshot.debug {
            self.fd.set_debug_regs(debug).map_err(self.failed("KVM_SET_DEBUGREGS"))?;
        }
        self.put_msrs(&snapshot.msrs, tsc);
        self.fd.set_lapic(&snapshot.lapic).map_err(self.failed("KVM_SET_LAPIC"))?;
        self.put_deadline(&snapshot.msrs);
        self.fd.set_mp_state(snapshot.mp_state).map_err(self.failed("KVM_SET_MP_STATE"))?;
        if let Some(events) = &snapshot.events {
            self.fd.set_vcpu_events(events).map_err(self.failed("KVM_SET_VCPU_EVENTS"))?;
        }
        Ok(())
    }

    fn vectors(&self) -> Result<Vectors, VcpuError> {
        let xcrs = self.fd.get_xcrs();
        match (xcrs, self.xsave_area()) {
            (Ok(xcrs), Some(area)) => Ok(Vectors::Extended { area, xcrs: Box::new(xcrs) }),
            _ => {
                let fpu = self.fd.get_fpu().map_err(self.failed("KVM_GET_FPU"))?;
                Ok(Vectors::Legacy(Box::new(fpu)))
            }
        }
    }

    #[expect(unsafe_code, reason = "the kernel writes as much as its capability says")]
    fn xsave_area(&self) -> Option<Vec<u32>> {
        let extra = self.xsave_size.saturating_sub(size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
        if extra == 0 {
            return self.fd.get_xsave().ok().map(|xsave| xsave.region.to_vec());
        }
        let mut xsave = Xsave::new(extra).ok()?;
        // SAFETY: the area has the length that KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) gave, and no feature that grows it
        // is enabled in this process after a vCPU exists.
        unsafe { self.fd.get_xsave2(&mut xsave) }.ok()?;
        let mut area = xsave.as_fam_struct_ref().xsave.region.to_vec();
        area.extend_from_slice(xsave.as_slice());
        Some(area)
    }

    #[expect(unsafe_code, reason = "the kernel reads as much as its capability says")]
    fn put_vectors(&self, vectors: &Vectors) -> Result<(), VcpuError> {
        let (area, xcrs) = match vectors {
            Vectors::Legacy(fpu) => return self.fd.set_fpu(fpu).map_err(self.failed("KVM_SET_FPU")),
            Vectors::Extended { area, xcrs } => (area, xcrs),
        };
        let fits = area.len() * size_of::<u32>() >= self.xsave_size.max(size_of::<kvm_xsave>());
        let (region, extra) = area
            .split_at_checked(REGION_WORDS)
            .filter(|_| fits)
            .ok_or(VcpuError::Mismatch { id: self.id(), why: "its XSAVE area is smaller than this host's" })?;
        // XCR0 first: it says which parts of the area count.
        self.fd.set_xcrs(xcrs).map_err(self.failed("KVM_SET_XCRS"))?;
        let head = kvm_xsave2 { len: extra.len(), xsave: kvm_xsave::default() };
        let mut xsave = Xsave::new(head.len)
            .map_err(|_| VcpuError::Mismatch { id: self.id(), why: "its XSAVE area is too large" })?;
        xsave.as_mut_slice().copy_from_slice(extra);
        // SAFETY: the length of the variable part is not touched.
        unsafe { xsave.as_mut_fam_struct() }.xsave.region.copy_from_slice(region);
        // SAFETY: the area is at least as long as the kernel said that it reads, checked above.
        unsafe { self.fd.set_xsave2(&xsave) }.map_err(self.failed("KVM_SET_XSAVE"))
    }

    fn put_msrs(&self, values: &[MsrValue], tsc: Tsc) {
        for refused in msrs::write_all(&in_order(values, tsc), |msrs| self.fd.set_msrs(msrs)) {
            // Some are listed and readable but not writable on this host: those cannot have changed either.
            log::debug!("vCPU {}: MSR {:#x} keeps its value", self.id(), refused.index);
        }
    }

    fn put_deadline(&self, values: &[MsrValue]) {
        let deadline: Vec<_> = values.iter().filter(|m| m.index == MSR_TSC_DEADLINE).copied().collect();
        for refused in msrs::write_all(&deadline, |msrs| self.fd.set_msrs(msrs)) {
            log::debug!("vCPU {}: no TSC deadline {:#x}", self.id(), refused.value);
        }
    }
}

/// The MSRs as they are to be written: the TSC after what scales it and before its adjustment, the deadline not yet.
fn in_order(values: &[MsrValue], tsc: Tsc) -> Vec<MsrValue> {
    let early = values.iter().filter(|m| !matches!(m.index, MSR_TSC | MSR_TSC_ADJUST | MSR_TSC_DEADLINE));
    // Zero makes the kernel synchronise the counters of vCPUs that are written soon after one another.
    let counter = values.iter().filter(|m| m.index == MSR_TSC).map(|m| match tsc {
        Tsc::Restart => MsrValue { value: 0, ..*m },
        Tsc::Continue => *m,
    });
    let adjustment = values.iter().filter(|m| m.index == MSR_TSC_ADJUST);
    early.copied().chain(counter).chain(adjustment.copied()).collect()
}

/// Words of `struct kvm_xsave` before its extension.
const REGION_WORDS: usize = 1024;

/// Parts that a minimal KVM may lack: the guest then has no such state.
fn optional<T>(result: Result<T, kvm_ioctls::Error>, what: &str) -> Option<T> {
    result.inspect_err(|e| log::debug!("{what}: {e}; left out of the state")).ok()
}

#[cfg(test)]
mod tests;
