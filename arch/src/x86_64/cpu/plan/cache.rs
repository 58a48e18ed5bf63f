//! Caches: their sizes, and which processors share them.

use crate::kvm::CpuidTable;

use super::super::config::Base;
use super::CpuPlan;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data = 1,
    Instruction = 2,
    Unified = 3,
}

/// Who shares a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    Core,
    Die,
}

/// One cache. Lines have 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cache {
    level: u32,
    kind: Kind,
    kib: u32,
    ways: u32,
    shared: Shared,
    inclusive: bool,
}

const LINE: u32 = 64;

const fn cache(level: u32, kind: Kind, kib: u32, ways: u32) -> Cache {
    let shared = if level == 3 { Shared::Die } else { Shared::Core };
    Cache { level, kind, kib, ways, shared, inclusive: false }
}

/// A common Intel server processor's.
const INTEL: [Cache; 4] = [
    cache(1, Kind::Data, 32, 8),
    cache(1, Kind::Instruction, 32, 8),
    cache(2, Kind::Unified, 4096, 16),
    Cache { inclusive: true, ..cache(3, Kind::Unified, 16 * 1024, 16) },
];

/// AMD's before family 17h.
const AMD: [Cache; 4] = [
    cache(1, Kind::Data, 64, 2),
    cache(1, Kind::Instruction, 64, 2),
    cache(2, Kind::Unified, 512, 16),
    cache(3, Kind::Unified, 16 * 1024, 16),
];

/// Family 17h, models 00h to 2fh (EPYC 7001).
const ZEN: [Cache; 4] = [
    cache(1, Kind::Data, 32, 8),
    cache(1, Kind::Instruction, 64, 4),
    Cache { inclusive: true, ..cache(2, Kind::Unified, 512, 8) },
    cache(3, Kind::Unified, 8 * 1024, 16),
];

/// Family 17h from model 30h on (EPYC 7002).
const ZEN_2: [Cache; 4] = [
    cache(1, Kind::Data, 32, 8),
    cache(1, Kind::Instruction, 32, 8),
    Cache { inclusive: true, ..cache(2, Kind::Unified, 512, 8) },
    cache(3, Kind::Unified, 16 * 1024, 16),
];

/// Family 19h (EPYC 7003).
const ZEN_3: [Cache; 4] = [
    cache(1, Kind::Data, 32, 8),
    cache(1, Kind::Instruction, 32, 8),
    Cache { inclusive: true, ..cache(2, Kind::Unified, 512, 8) },
    cache(3, Kind::Unified, 32 * 1024, 16),
];

fn caches(plan: &CpuPlan) -> Vec<Cache> {
    let host = if plan.config.host_cache_info { of_host(plan) } else { Vec::new() };
    let caches = if host.is_empty() { of_model(plan).to_vec() } else { host };
    caches.into_iter().filter(|c| plan.config.l3_cache || c.level < 3).collect()
}

fn of_model(plan: &CpuPlan) -> [Cache; 4] {
    let signature = match &plan.config.base {
        Base::Named(model) => model.signature,
        Base::Host | Base::Bare => super::decode_signature(plan.signature),
    };
    match (plan.is_amd(), signature.family, signature.model) {
        (false, _, _) => INTEL,
        (true, ..0x17, _) => AMD,
        (true, 0x17, ..0x30) | (true, 0x18, _) => ZEN,
        (true, 0x17, _) => ZEN_2,
        (true, 0x19.., _) => ZEN_3,
    }
}

/// The host's caches, as its leaf 4, or on AMD 0x8000_001d, tells.
fn of_host(plan: &CpuPlan) -> Vec<Cache> {
    let leaf = if plan.is_amd() { 0x8000_001d } else { 4 };
    let entries = plan.host.supported.entries().iter().filter(|e| e.function == leaf);
    let decoded = entries.filter_map(|e| {
        let kind = match e.eax & 0x1f {
            1 => Kind::Data,
            2 => Kind::Instruction,
            3 => Kind::Unified,
            _ => return None,
        };
        let field = |low: u32, bits: u32| (e.ebx >> low & ((1 << bits) - 1)) + 1;
        let (line, partitions, ways) = (field(0, 12), field(12, 10), field(22, 10));
        let bytes = u64::from(line) * u64::from(partitions) * u64::from(ways) * (u64::from(e.ecx) + 1);
        let level = e.eax >> 5 & 7;
        let shared = if level == 3 { Shared::Die } else { Shared::Core };
        let kib = u32::try_from(bytes / 1024).ok()?;
        Some(Cache { level, kind, kib, ways, shared, inclusive: e.edx & 2 != 0 })
    });
    decoded.take(MOST).collect()
}

/// More caches than any processor describes.
const MOST: usize = 8;

/// The four registers that leaf 4 and leaf 0x8000_001d share (SDM volume 2; APM volume 3, E.4.15). `sharing` and `cores`
/// are counts of ids.
fn registers(cache: &Cache, sharing: u32, cores: u32) -> [u32; 4] {
    /// Needs no software to be switched on.
    const SELF_INITIALISING: u32 = 1 << 8;
    let sets = (cache.kib * 1024 / LINE / cache.ways.max(1)).max(1);
    let field = |count: u32, bits: u32| count.saturating_sub(1).min((1 << bits) - 1);
    [
        cache.kind as u32 | cache.level << 5 | SELF_INITIALISING | field(sharing, 12) << 14 | field(cores, 6) << 26,
        (LINE - 1) | field(cache.ways, 10) << 22,
        sets - 1,
        u32::from(cache.inclusive) << 1,
    ]
}

/// Leaf 4 on Intel: counts are of the ids that the bit fields leave room for, not of processors.
pub(super) fn leaf_4(plan: &CpuPlan, table: &mut CpuidTable) {
    if plan.is_amd() {
        return;
    }
    let topology = &plan.topology;
    let cores = 1 << (topology.socket_shift() - topology.core_shift());
    let caches = caches(plan);
    for (subleaf, cache) in (0..).zip(&caches) {
        let sharing = 1
            << match cache.shared {
                Shared::Core => topology.core_shift(),
                Shared::Die => topology.die_shift(),
            };
        table.set(4, Some(subleaf), registers(cache, sharing, cores));
    }
    table.set(4, u32::try_from(caches.len()).ok(), [0; 4]);
}

/// Leaves 0x8000_0005, 0x8000_0006 (L2 also on Intel) and, with `topoext`, 0x8000_001d.
pub(super) fn amd(plan: &CpuPlan, table: &mut CpuidTable) {
    let caches = caches(plan);
    let find = |level, kind| caches.iter().find(|c| c.level == level && c.kind == kind);
    let l2 = find(2, Kind::Unified).map_or(0, |c| (c.kib & 0xffff) << 16 | ways_code(c.ways) << 12 | 1 << 8 | LINE);
    if !plan.is_amd() {
        table.set(0x8000_0006, None, [0, 0, l2, 0]);
        return;
    }
    let l1 = |kind| find(1, kind).map_or(0, |c| (c.kib & 0xff) << 24 | c.ways.min(0xff) << 16 | 1 << 8 | LINE);
    table.set(0x8000_0005, None, [L1_TLB, L1_TLB, l1(Kind::Data), l1(Kind::Instruction)]);
    // In units of 512 KiB.
    let l3 = find(3, Kind::Unified).map_or(0, |c| (c.kib / 512) << 18 | ways_code(c.ways) << 12 | 1 << 8 | LINE);
    table.set(0x8000_0006, None, [0, L2_TLB_4K, l2, l3]);
    if !plan.has("topoext") {
        return;
    }
    for (subleaf, cache) in (0..).zip(&caches) {
        let sharing = match cache.shared {
            Shared::Core => plan.topology.threads(),
            Shared::Die => plan.topology.per_die(),
        };
        table.set(0x8000_001d, Some(subleaf), registers(cache, sharing, 1));
    }
    table.set(0x8000_001d, u32::try_from(caches.len()).ok(), [0; 4]);
}

/// 64 entries each for data and instructions, fully associative; and 512 each, 4-way (APM volume 3, E.4.4 and E.4.5).
const L1_TLB: u32 = 0xff40_ff40;
const L2_TLB_4K: u32 = 0x4200_4200;

/// Ways as leaf 0x8000_0006 codes them (APM volume 3, table E-4).
fn ways_code(ways: u32) -> u32 {
    match ways {
        0 => 0,
        1 => 1,
        2..=3 => 2,
        4..=7 => 4,
        8..=15 => 6,
        16..=31 => 8,
        32..=47 => 0xa,
        48..=63 => 0xb,
        64..=95 => 0xc,
        96..=127 => 0xd,
        128.. => 0xe,
    }
}
