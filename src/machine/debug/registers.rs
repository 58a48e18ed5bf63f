//! A vCPU's registers as the debugger has them, and back.

use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_sregs};

/// KVM's registers of one vCPU.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    pub(super) general: kvm_regs,
    pub(super) system: kvm_sregs,
    pub(super) fpu: kvm_fpu,
}

/// x87 tags of two bits: 0 for a valid register, 3 for an empty one (SDM volume 1, 8.1.7). KVM keeps one bit, as FXSAVE
/// does.
fn tags(abridged: u8) -> u32 {
    (0..8).filter(|n| abridged & 1 << n == 0).fold(0, |tags, n| tags | 3 << (2 * n))
}

fn abridged(tags: u32) -> u8 {
    (0..8).filter(|n| tags >> (2 * n) & 3 != 3).fold(0, |bits, n| bits | 1 << n)
}

impl Registers {
    /// As the debugger's description of the processor orders them.
    pub(super) fn to_gdb(&self, out: &mut X86_64CoreRegs) {
        let Self { general: r, fpu, .. } = self;
        out.regs = [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ];
        out.rip = r.rip;
        // Bits 22 to 63 are reserved and zero (SDM volume 1, 3.4.3).
        out.eflags = r.rflags as u32;
        out.segments = self.segments();
        for (to, from) in out.st.iter_mut().zip(&fpu.fpr) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        out.fpu = X87FpuInternalRegs {
            fctrl: fpu.fcw.into(),
            fstat: fpu.fsw.into(),
            ftag: tags(fpu.ftwx),
            fiseg: (fpu.last_ip >> 32) as u32,
            fioff: fpu.last_ip as u32,
            foseg: (fpu.last_dp >> 32) as u32,
            fooff: fpu.last_dp as u32,
            fop: fpu.last_opcode.into(),
        };
        out.xmm = fpu.xmm.map(u128::from_le_bytes);
        out.mxcsr = fpu.mxcsr;
    }

    fn segments(&self) -> X86SegmentRegs {
        let s = &self.system;
        X86SegmentRegs {
            cs: s.cs.selector.into(),
            ss: s.ss.selector.into(),
            ds: s.ds.selector.into(),
            es: s.es.selector.into(),
            fs: s.fs.selector.into(),
            gs: s.gs.selector.into(),
        }
    }

    /// Takes what the debugger changed. False when it wants other segments: a selector alone does not say which
    /// descriptor is meant.
    pub(super) fn take_from_gdb(&mut self, new: &X86_64CoreRegs) -> bool {
        if new.segments != self.segments() {
            return false;
        }
        let r = &mut self.general;
        [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ] = new.regs;
        r.rip = new.rip;
        r.rflags = new.eflags.into();
        let fpu = &mut self.fpu;
        for (to, from) in fpu.fpr.iter_mut().zip(&new.st) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        fpu.fcw = new.fpu.fctrl as u16;
        fpu.fsw = new.fpu.fstat as u16;
        fpu.ftwx = abridged(new.fpu.ftag);
        fpu.last_ip = u64::from(new.fpu.fiseg) << 32 | u64::from(new.fpu.fioff);
        fpu.last_dp = u64::from(new.fpu.foseg) << 32 | u64::from(new.fpu.fooff);
        fpu.last_opcode = new.fpu.fop as u16;
        fpu.xmm = new.xmm.map(u128::to_le_bytes);
        fpu.mxcsr = new.mxcsr;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_debugger_writes_back_changes_nothing() {
        let mut registers = Registers {
            general: kvm_regs { rax: 1, r15: 15, rip: 0x1000, rflags: 0x202, ..Default::default() },
            system: kvm_sregs::default(),
            fpu: kvm_fpu { fcw: 0x37f, ftwx: 0b101, mxcsr: 0x1f80, last_ip: 0x1234_5678_9abc, ..Default::default() },
        };
        registers.system.cs.selector = 0x10;
        registers.fpu.xmm[3] = [7; 16];
        let before = registers.clone();
        let mut seen = X86_64CoreRegs::default();

        registers.to_gdb(&mut seen);
        assert!(registers.take_from_gdb(&seen));

        assert_eq!((seen.regs[0], seen.regs[15], seen.rip, seen.segments.cs), (1, 15, 0x1000, 0x10));
        assert_eq!(registers.general, before.general);
        assert_eq!(registers.fpu, before.fpu);
    }

    #[test]
    fn other_segments_are_refused() {
        let general = kvm_regs::default();
        let mut registers = Registers { general, system: kvm_sregs::default(), fpu: kvm_fpu::default() };
        let mut wanted = X86_64CoreRegs::default();
        wanted.segments.cs = 8;

        assert!(!registers.take_from_gdb(&wanted));
    }
}
