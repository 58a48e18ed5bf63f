//! A vCPU's state for people and debuggers to look at.

use kvm_bindings::{KVM_MP_STATE_HALTED, kvm_debugregs, kvm_fpu, kvm_regs, kvm_sregs};

use super::snapshot::{VcpuSnapshot, Vectors};

/// Bytes of an XSAVE area's legacy part and of its header (SDM volume 1, 13.4.1 and 13.4.2).
const YMM_HIGH: usize = 512 + 64;
/// Places in the legacy part (SDM volume 1, table 10-2).
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
/// Of XCR0: SSE and AVX state (SDM volume 1, 13.3).
const XCR0_AVX: u64 = 1 << 2;

/// x87 and vector registers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FloatView {
    /// Control word.
    pub control: u16,
    /// Status word.
    pub status: u16,
    /// A bit for each register that is in use (SDM volume 1, 10.5.1.1).
    pub tags: u8,
    /// Control and status of SSE.
    pub mxcsr: u32,
    /// Mantissa, and sign with exponent, of each physical register.
    pub registers: [(u64, u16); 8],
    /// The lower halves of the vector registers.
    pub xmm: [u128; 16],
    /// The upper halves, while the guest has AVX enabled.
    pub ymm_high: Option<[u128; 16]>,
}

impl FloatView {
    fn of_fpu(fpu: &kvm_fpu) -> Self {
        Self {
            control: fpu.fcw,
            status: fpu.fsw,
            tags: fpu.ftwx,
            mxcsr: fpu.mxcsr,
            registers: fpu.fpr.map(|register| extended(&register)),
            xmm: fpu.xmm.map(u128::from_le_bytes),
            ymm_high: None,
        }
    }

    fn of_area(area: &[u32], xcr0: u64) -> Self {
        let bytes: Vec<u8> = area.iter().flat_map(|word| word.to_le_bytes()).collect();
        let part = |at: usize, length: usize| bytes.get(at..at + length).unwrap_or_default();
        let number = |at, length| part(at, length).iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        let vectors =
            |from: usize| std::array::from_fn(|n| part(from + 16 * n, 16).try_into().map_or(0, u128::from_le_bytes));
        Self {
            control: number(0, 2) as u16,
            status: number(2, 2) as u16,
            tags: number(4, 1) as u8,
            mxcsr: number(MXCSR, 4),
            registers: std::array::from_fn(|n| extended(part(ST + 16 * n, 10))),
            xmm: vectors(XMM),
            ymm_high: (xcr0 & XCR0_AVX != 0).then(|| vectors(YMM_HIGH)),
        }
    }
}

/// A number of 80 bits, parted into mantissa, and sign with exponent.
fn extended(bytes: &[u8]) -> (u64, u16) {
    let number = |part: &[u8]| part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (mantissa, exponent) = bytes.split_at_checked(8).unwrap_or_default();
    (number(mantissa), number(exponent.get(..2).unwrap_or_default()) as u16)
}

impl VcpuSnapshot {
    /// The general registers.
    #[must_use]
    pub fn regs(&self) -> &kvm_regs {
        &self.regs
    }

    /// The segment, control and descriptor table registers.
    #[must_use]
    pub fn sregs(&self) -> &kvm_sregs {
        &self.sregs
    }

    /// The debug registers, where the kernel hands them out.
    #[must_use]
    pub fn debug_registers(&self) -> Option<&kvm_debugregs> {
        self.debug.as_ref()
    }

    /// x87 and vector registers.
    #[must_use]
    pub fn float(&self) -> FloatView {
        match &self.vectors {
            Vectors::Legacy(fpu) => FloatView::of_fpu(fpu),
            Vectors::Extended { area, xcrs } => {
                let xcrs = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
                FloatView::of_area(area, xcrs.filter(|xcr| xcr.xcr == 0).map(|xcr| xcr.value).next().unwrap_or(0))
            }
        }
    }

    /// The instruction before was one that holds off interrupts for one more (`sti`, `mov ss`).
    #[must_use]
    pub fn inhibits_interrupts(&self) -> bool {
        self.events.is_some_and(|events| events.interrupt.shadow != 0)
    }

    /// In system management mode.
    #[must_use]
    pub fn in_smm(&self) -> bool {
        self.events.is_some_and(|events| events.smi.smm != 0)
    }

    /// In `hlt`.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.mp_state.mp_state == KVM_MP_STATE_HALTED
    }

    /// A register of the local APIC by its offset (SDM volume 3, table 11-1); 0 where there is none.
    #[must_use]
    pub fn lapic(&self, offset: usize) -> u32 {
        let bytes = self.lapic.regs.get(offset..offset.saturating_add(4)).unwrap_or_default();
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(byte.to_ne_bytes()[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An area with one, as x87 has it, in ST0, a pattern in XMM1 and another in the upper half of YMM1.
    fn area() -> Vec<u32> {
        let mut bytes = vec![0u8; 1024];
        bytes[..5].copy_from_slice(&[0x7f, 0x03, 0x00, 0x38, 0x80]);
        bytes[MXCSR..MXCSR + 2].copy_from_slice(&[0x80, 0x1f]);
        bytes[ST + 7..ST + 10].copy_from_slice(&[0x80, 0xff, 0x3f]);
        bytes[XMM + 16] = 0x11;
        bytes[YMM_HIGH + 31] = 0x22;
        bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn area_is_read_as_the_manual_lays_it_out() {
        let view = FloatView::of_area(&area(), 7);

        assert_eq!((view.control, view.status, view.tags, view.mxcsr), (0x37f, 0x3800, 0x80, 0x1f80));
        assert_eq!(view.registers[0], (1 << 63, 0x3fff));
        assert_eq!(view.xmm[1], 0x11);
        assert_eq!(view.ymm_high.unwrap()[1], 0x22 << 120);
    }

    #[test]
    fn upper_halves_are_shown_only_with_avx() {
        assert_eq!(FloatView::of_area(&area(), 3).ymm_high, None);
        assert_eq!(FloatView::of_area(&[], 7).xmm, [0; 16]);
    }
}
