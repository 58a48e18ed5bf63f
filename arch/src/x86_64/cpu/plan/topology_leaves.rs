//! Who shares what: the leaves that Intel and AMD invented for it.

use crate::kvm::CpuidTable;

use super::CpuPlan;

/// Level types of leaves 0xb and 0x1f (SDM volume 2, CPUID), in place for ECX.
const INVALID: u32 = 0;
const THREAD: u32 = 1 << 8;
const CORE: u32 = 2 << 8;
const DIE: u32 = 5 << 8;

/// Leaf 0xb, and 0x1f where there are dies, which 0xb cannot tell. EAX is the shift from an APIC id to that of the next
/// level, EBX the processors below it.
pub(super) fn intel(plan: &CpuPlan, index: u32, table: &mut CpuidTable) {
    let topology = &plan.topology;
    let id = topology.apic_id(index);
    let thread = (topology.core_shift(), topology.threads(), THREAD);
    let package = (topology.socket_shift(), topology.per_socket());
    let cores = [thread, (package.0, package.1, CORE), (0, 0, INVALID)];
    describe(table, 0xb, id, &cores);
    if topology.dies() > 1 {
        let die = (topology.die_shift(), topology.per_die(), CORE);
        describe(table, 0x1f, id, &[thread, die, (package.0, package.1, DIE), (0, 0, INVALID)]);
    }
}

fn describe(table: &mut CpuidTable, leaf: u32, id: u32, levels: &[(u32, u32, u32)]) {
    for (subleaf, &(shift, processors, kind)) in (0..).zip(levels) {
        table.set(leaf, Some(subleaf), [shift, processors & 0xffff, subleaf | kind, id]);
    }
}

/// Leaf 0x8000_0008, ECX: processors in a socket less one, and the width of an APIC id below the socket (APM volume 3,
/// E.4.7). Intel: reserved.
pub(super) fn amd_count(plan: &CpuPlan) -> u32 {
    let processors = plan.topology.per_socket();
    if !plan.is_amd() || processors == 1 {
        return 0;
    }
    (processors - 1).min(0xff) | (plan.topology.socket_shift() & 0xf) << 12
}

/// Leaf 0x8000_001e (APM volume 3, E.4.16): the extended APIC id, the core and its threads, the node and its
/// neighbours. A die is a node.
pub(super) fn amd(plan: &CpuPlan, index: u32, table: &mut CpuidTable) {
    if !plan.is_amd() || !plan.has("topoext") {
        return;
    }
    let topology = &plan.topology;
    let place = topology.place(index);
    let core = (place.core & 0xff) | ((topology.threads() - 1) & 0xff) << 8;
    let node = place.socket * topology.dies() + place.die;
    let nodes = (node & 0xff) | ((topology.dies() - 1) & 7) << 8;
    table.set(0x8000_001e, None, [topology.apic_id(index), core, nodes, 0]);
}
