//! The leaves, one after another.

use crate::kvm::CpuidTable;

use super::super::features::{KVM_LEAF, Register};
use super::super::hyperv;
use super::{CpuPlan, cache, topology_leaves, xsave};

/// Cache line in units of 8 bytes, as leaf 1 gives it.
const CLFLUSH_UNITS: u32 = 8;
/// CPUID.1:EDX, HTT: the count of processors in EBX is valid. APM: and CmpLegacy in 0x8000_0001.
const HTT: u32 = 1 << 28;
const CMP_LEGACY: u32 = 1 << 1;
/// Features of leaf 1, EDX, that AMD repeats in leaf 0x8000_0001 (APM volume 3, E.4.2).
const AMD_REPEATS: u32 = 0x0183_f3ff;
/// The leaf with the frequencies of TSC and APIC timer, in kHz, that VMware invented and Linux reads.
const FREQUENCY_LEAF: u32 = 0x4000_0010;
/// KVM's APIC timer runs at 1 GHz.
const APIC_TIMER_KHZ: u32 = 1_000_000;
const KVM_NAME: [u8; 12] = *b"KVMKVMKVM\0\0\0";

/// What CPUID answers on one processor.
pub(super) fn build(plan: &CpuPlan, index: u32) -> CpuidTable {
    let mut table = CpuidTable::new();
    basic(plan, index, &mut table);
    hypervisor(plan, &mut table);
    if plan.xlevel != 0 {
        extended(plan, index, &mut table);
    }
    // A leaf above the highest does not exist, whatever is known about it.
    table.retain(|e| match e.function {
        0..=0x3fff_ffff => e.function <= plan.level,
        0x8000_0000..=0x8fff_ffff => e.function <= plan.xlevel,
        _ => true,
    });
    table.sort();
    table
}

fn basic(plan: &CpuPlan, index: u32, table: &mut CpuidTable) {
    let features = &plan.features;
    let [b, d, c] = hyperv::text(&plan.vendor);
    table.set(0, None, [plan.level, b, c, d]);
    table.set(1, None, leaf_1(plan, index));
    // Intel: one descriptor, 0xff, "look at leaf 4"; AMD: reserved.
    let descriptors = match (plan.is_amd(), plan.level) {
        (true, _) => [0; 4],
        // L2 of 2 MiB, L1 instruction and data caches of 32 KiB: for processors without leaf 4.
        (false, ..4) => [1, 0, 0, 0x002c_307d],
        (false, 4..) => [1, 0, 0, 0xff],
    };
    table.set(2, None, descriptors);
    table.set(6, None, [features.cpuid(6, 0, Register::Eax), 0, 0, 0]);
    leaf_7(plan, table);
    if plan.config.pmu {
        copy(plan, 0xa, table);
    }
    if plan.has("monitor") {
        copy(plan, 5, table);
    }
    topology_leaves::intel(plan, index, table);
    cache::leaf_4(plan, table);
    xsave::leaf_d(plan, table);
    if plan.has("intel-pt") {
        copy(plan, 0x14, table);
        let lip = features.cpuid(0x14, 0, Register::Ecx);
        table.set_bits(0x14, 0, |leaf| leaf.ecx = leaf.ecx & !(1 << 31) | lip);
    }
    if plan.has("amx-tile") {
        copy(plan, 0x1d, table);
        copy(plan, 0x1e, table);
    }
}

fn leaf_1(plan: &CpuPlan, index: u32) -> [u32; 4] {
    let mut edx = plan.features.cpuid(1, 0, Register::Edx);
    let processors = plan.topology.per_socket();
    // Eight bits each: ids above 255 are told by the topology leaves only.
    let mut ebx = (plan.topology.apic_id(index) & 0xff) << 24;
    if plan.has("clflush") {
        ebx |= CLFLUSH_UNITS << 8;
    }
    if processors > 1 {
        ebx |= processors.min(0xff) << 16;
        edx |= HTT;
    }
    [plan.signature, ebx, plan.features.cpuid(1, 0, Register::Ecx), edx]
}

fn leaf_7(plan: &CpuPlan, table: &mut CpuidTable) {
    let word = |subleaf, register| plan.features.cpuid(7, subleaf, register);
    let one = [word(1, Register::Eax), 0, 0, word(1, Register::Edx)];
    let two = [0, 0, 0, word(2, Register::Edx)];
    let last = if two != [0; 4] { 2 } else { u32::from(one != [0; 4]) };
    let zero = [last, word(0, Register::Ebx), word(0, Register::Ecx), word(0, Register::Edx)];
    for (subleaf, answer) in (0..=last).zip([zero, one, two]) {
        table.set(7, Some(subleaf), answer);
    }
}

fn hypervisor(plan: &CpuPlan, table: &mut CpuidTable) {
    let hyperv = plan.config.hyperv.any();
    if hyperv {
        plan.config.hyperv.describe(table);
    }
    if !plan.config.kvm {
        return;
    }
    // KVM's leaves make room for Hyper-V's, which guests look for at one place only.
    let base = if hyperv { 0x4000_0100 } else { 0x4000_0000 };
    let [b, c, d] = hyperv::text(&KVM_NAME);
    let word = |register| plan.features.cpuid(KVM_LEAF, 0, register);
    table.set(base, None, [base + 1, b, c, d]);
    table.set(base + 1, None, [word(Register::Eax), 0, 0, word(Register::Edx)]);
    if let (false, Some(khz)) = (hyperv, plan.tsc_khz()) {
        table.set(base, None, [FREQUENCY_LEAF, b, c, d]);
        table.set(FREQUENCY_LEAF, None, [khz, APIC_TIMER_KHZ, 0, 0]);
    }
}

fn extended(plan: &CpuPlan, index: u32, table: &mut CpuidTable) {
    let word = |leaf, register| plan.features.cpuid(leaf, 0, register);
    let [b, d, c] = hyperv::text(&plan.vendor);
    table.set(0x8000_0000, None, [plan.xlevel, b, c, d]);
    table.set(0x8000_0001, None, leaf_8000_0001(plan));
    for (leaf, answer) in (0x8000_0002..).zip(plan.brand) {
        table.set(leaf, None, answer);
    }
    cache::amd(plan, table);
    table.set(0x8000_0007, None, [0, 0, 0, word(0x8000_0007, Register::Edx)]);
    let virtual_bits = match (plan.has("lm"), plan.has("la57")) {
        // Not told without 64-bit mode; KVM refuses what is neither 48 nor 57.
        (false, _) => 0,
        (true, false) => 48,
        (true, true) => 57,
    };
    let count = topology_leaves::amd_count(plan);
    let sizes = plan.phys_bits | virtual_bits << 8;
    table.set(0x8000_0008, None, [sizes, word(0x8000_0008, Register::Ebx), count, 0]);
    if plan.has("svm") {
        /// Revision 1, 16 address space ids (APM volume 3, E.4.9).
        const REVISION_AND_IDS: [u32; 2] = [1, 16];
        let [revision, ids] = REVISION_AND_IDS;
        table.set(0x8000_000a, None, [revision, ids, 0, word(0x8000_000a, Register::Edx)]);
    }
    topology_leaves::amd(plan, index, table);
    table.set(0x8000_0021, None, [word(0x8000_0021, Register::Eax), 0, 0, 0]);
    let padlock = word(0xc000_0001, Register::Edx);
    if padlock != 0 {
        table.set(0xc000_0000, None, [0xc000_0001, 0, 0, 0]);
        table.set(0xc000_0001, None, [0, 0, 0, padlock]);
    }
}

fn leaf_8000_0001(plan: &CpuPlan) -> [u32; 4] {
    let mut edx = plan.features.cpuid(0x8000_0001, 0, Register::Edx);
    let mut ecx = plan.features.cpuid(0x8000_0001, 0, Register::Ecx);
    if plan.is_amd() {
        edx |= plan.features.cpuid(1, 0, Register::Edx) & AMD_REPEATS;
        if plan.topology.per_socket() > 1 {
            ecx |= CMP_LEGACY;
        }
    }
    [plan.signature, 0, ecx, edx]
}

/// A leaf as KVM offers it, with all its subleaves.
fn copy(plan: &CpuPlan, leaf: u32, table: &mut CpuidTable) {
    for entry in plan.host.supported.entries().iter().filter(|e| e.function == leaf) {
        let indexed = entry.flags & kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
        table.set(leaf, indexed.then_some(entry.index), [entry.eax, entry.ebx, entry.ecx, entry.edx]);
    }
}
