//! CPUID as a plain list of leaves, and its way in and out of KVM.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

/// What CPUID answers: one entry for each leaf, or subleaf where the answer depends on ECX.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuidTable {
    entries: Vec<kvm_cpuid_entry2>,
}

impl CpuidTable {
    /// Most entries that KVM takes (`KVM_MAX_CPUID_ENTRIES`).
    pub const MAX_ENTRIES: usize = kvm_bindings::KVM_MAX_CPUID_ENTRIES;

    /// An empty table: every leaf answers zeros.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries, ascending by leaf where this crate built the table.
    #[must_use]
    pub fn entries(&self) -> &[kvm_cpuid_entry2] {
        &self.entries
    }

    /// The entry for a leaf and subleaf. A leaf that does not depend on ECX answers to every subleaf.
    #[must_use]
    pub fn get(&self, leaf: u32, subleaf: u32) -> Option<&kvm_cpuid_entry2> {
        self.entries.iter().find(|e| answers(e, leaf, subleaf))
    }

    /// Replaces or adds an entry. `subleaf` is `None` where the answer does not depend on ECX.
    pub fn set(&mut self, leaf: u32, subleaf: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) {
        let flags = if subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
        let index = subleaf.unwrap_or(0);
        let new = kvm_cpuid_entry2 { function: leaf, index, flags, eax, ebx, ecx, edx, ..Default::default() };
        match self.entries.iter_mut().find(|e| answers(e, leaf, index)) {
            Some(old) => *old = new,
            None => self.entries.push(new),
        }
    }

    /// Changes an entry in place; does nothing where there is none.
    pub fn set_bits(&mut self, leaf: u32, subleaf: u32, change: impl FnOnce(&mut kvm_cpuid_entry2)) {
        if let Some(entry) = self.entries.iter_mut().find(|e| answers(e, leaf, subleaf)) {
            change(entry);
        }
    }

    /// Removes every entry that `keep` refuses.
    pub fn retain(&mut self, keep: impl FnMut(&kvm_cpuid_entry2) -> bool) {
        self.entries.retain(keep);
    }

    /// Orders by leaf, then subleaf.
    pub fn sort(&mut self) {
        self.entries.sort_by_key(|e| (e.function, e.index));
    }

    /// In KVM's form; `None` when there are more than [`Self::MAX_ENTRIES`].
    pub(crate) fn to_kvm(&self) -> Option<CpuId> {
        CpuId::from_entries(&self.entries).ok()
    }
}

impl From<&CpuId> for CpuidTable {
    fn from(kvm: &CpuId) -> Self {
        Self { entries: kvm.as_slice().to_vec() }
    }
}

fn answers(entry: &kvm_cpuid_entry2, leaf: u32, subleaf: u32) -> bool {
    entry.function == leaf && (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == subleaf)
}

/// The Hyper-V leaves that the kernel offers, asked for on the device; `None` before Linux 5.11, where only a vCPU
/// could be asked.
#[expect(unsafe_code, reason = "kvm-ioctls has no KVM_GET_SUPPORTED_HV_CPUID")]
pub(super) fn hyperv_leaves(kvm: &Kvm) -> Option<CpuidTable> {
    use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
    vmm_sys_util::ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, kvm_bindings::KVMIO, 0xc1, kvm_bindings::kvm_cpuid2);
    /// The kernel has 0x4000_0000 to 0x4000_000a and 0x4000_0080 to 0x4000_0082; it refuses with E2BIG below that.
    const ROOM: usize = 64;
    let mut leaves = CpuId::new(ROOM).ok()?;
    // SAFETY: the structure is valid for writing and says how many entries it has room for; the kernel writes no more.
    let result = unsafe { ioctl_with_mut_ptr(kvm, KVM_GET_SUPPORTED_HV_CPUID(), leaves.as_mut_fam_struct_ptr()) };
    (result == 0).then(|| CpuidTable::from(&leaves))
}
