//! Leaf 0xd: which register states XSAVE knows, where they lie, and how long the area is.

use crate::kvm::CpuidTable;

use super::super::features::Register;
use super::CpuPlan;

/// Component numbers (SDM volume 1, 13.1), and a feature that each belongs to.
const COMPONENTS: &[(u32, &str)] = &[
    (2, "avx"),
    (3, "mpx"),
    (4, "mpx"),
    (5, "avx512f"),
    (6, "avx512f"),
    (7, "avx512f"),
    (8, "intel-pt"),
    (9, "pku"),
    (11, "shstk"),
    (12, "shstk"),
    (15, "arch-lbr"),
    (17, "amx-tile"),
    (18, "amx-tile"),
];
/// x87 and SSE: in every area, which has these and a header before all else.
const ALWAYS: u64 = 3;
const LEGACY_AND_HEADER: u32 = 512 + 64;

/// Subleaf 0: components for user mode and the length of the area; 1: XSAVE's extensions and the components for
/// supervisor mode; 2 and up: length and offset of a component, which are the host processor's and no one else's.
pub(super) fn leaf_d(plan: &CpuPlan, table: &mut CpuidTable) {
    let host = |subleaf| plan.host.supported.get(0xd, subleaf).copied();
    let (Some(user), true) = (host(0), plan.has("xsave")) else { return };
    let supervisor = host(1).unwrap_or_default();
    let wanted = COMPONENTS.iter().filter(|(_, f)| plan.has(f)).fold(ALWAYS, |mask, (n, _)| mask | 1 << n);
    let user = wanted & join(user.edx, user.eax);
    let extensions = plan.features.cpuid(0xd, 1, Register::Eax);
    let with_supervisor = plan.has("xsaves");
    let supervisor = if with_supervisor { wanted & join(supervisor.edx, supervisor.ecx) } else { 0 };
    let mut end = LEGACY_AND_HEADER;
    let mut compacted = LEGACY_AND_HEADER;
    for &(number, _) in COMPONENTS {
        let Some(part) = host(number).filter(|_| (user | supervisor) >> number & 1 != 0) else { continue };
        table.set(0xd, Some(number), [part.eax, part.ebx, part.ecx, part.edx]);
        if user >> number & 1 != 0 {
            end = end.max(part.eax.saturating_add(part.ebx));
        }
        // ECX, bit 1: begins at a multiple of 64 in the compacted form.
        let start = if part.ecx & 2 != 0 { compacted.next_multiple_of(64) } else { compacted };
        compacted = start.saturating_add(part.eax.min(MOST));
    }
    let (user_high, user_low) = split(user);
    let (supervisor_high, supervisor_low) = split(supervisor);
    // EBX of both follows what the guest switches on: the kernel keeps it; these are for everything switched on.
    table.set(0xd, Some(0), [user_low, end, end, user_high]);
    let area = if with_supervisor || plan.has("xsavec") { compacted } else { 0 };
    table.set(0xd, Some(1), [extensions, area, supervisor_low, supervisor_high]);
}

/// No component is longer.
const MOST: u32 = 1 << 20;

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}
