//! What the host's processor and KVM can give.

use std::arch::x86_64::__cpuid;

use crate::kvm::{CpuidTable, Host, HostError, MsrValue};

/// MSRs that describe a processor: IA32_ARCH_CAPABILITIES, IA32_CORE_CAPABILITIES, IA32_BIOS_SIGN_ID (the microcode
/// revision); SDM volume 4, table 2-2.
pub(super) const MSR_ARCH_CAPABILITIES: u32 = 0x10a;
pub(super) const MSR_CORE_CAPABILITIES: u32 = 0xcf;
pub(super) const MSR_MICROCODE_REVISION: u32 = 0x8b;

/// What there is to choose from. Plain data, so that a plan can be made for any host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostCpu {
    /// `KVM_GET_SUPPORTED_CPUID`.
    pub supported: CpuidTable,
    /// `KVM_GET_SUPPORTED_HV_CPUID`.
    pub hyperv: Option<CpuidTable>,
    /// Feature MSRs, those that exist.
    pub msrs: Vec<MsrValue>,
    /// The brand string, in the bytes of leaves `0x8000_0002` to `0x8000_0004`.
    pub brand: [[u32; 4]; 3],
}

impl HostCpu {
    /// Asks KVM, and the processor for its brand string, which KVM does not hand out.
    ///
    /// # Errors
    /// When KVM does not give its CPUID.
    pub fn read(host: &Host) -> Result<Self, HostError> {
        Ok(Self {
            supported: host.supported_cpuid()?,
            hyperv: host.hyperv_cpuid(),
            msrs: host.feature_msrs(&[MSR_ARCH_CAPABILITIES, MSR_CORE_CAPABILITIES, MSR_MICROCODE_REVISION]),
            brand: [0x8000_0002, 0x8000_0003, 0x8000_0004].map(|leaf| {
                let answer = __cpuid(leaf);
                [answer.eax, answer.ebx, answer.ecx, answer.edx]
            }),
        })
    }

    /// Twelve letters.
    pub(super) fn vendor(&self) -> [u8; 12] {
        let mut letters = [0; 12];
        if let Some(leaf) = self.supported.get(0, 0) {
            let words = [leaf.ebx, leaf.edx, leaf.ecx];
            letters.iter_mut().zip(words.iter().flat_map(|w| w.to_le_bytes())).for_each(|(to, from)| *to = from);
        }
        letters
    }

    /// Physical address bits that KVM can give a guest; 36 on processors that do not say.
    pub(super) fn phys_bits(&self) -> u32 {
        self.supported.get(0x8000_0008, 0).map(|leaf| leaf.eax & 0xff).filter(|bits| *bits >= 32).unwrap_or(36)
    }

    pub(super) fn msr(&self, index: u32) -> Option<u64> {
        self.msrs.iter().find(|m| m.index == index).map(|m| m.value)
    }
}
