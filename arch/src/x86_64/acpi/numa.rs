//! Memory and processors by node: SRAT (ACPI 6.5, 5.2.16) and SLIT (5.2.17).

use std::ops::Range;

use super::AcpiSpec;
use crate::x86_64::layout::{HIGH_MEMORY_START, VGA_WINDOW_START};

/// Distance between nodes that do not reach each other.
pub const UNREACHABLE_DISTANCE: u8 = 255;
const LOCAL_DISTANCE: u8 = 10;
const REMOTE_DISTANCE: u8 = 20;

const PROCESSOR: u8 = 0;
const MEMORY: u8 = 1;
const X2APIC: u8 = 2;
const ENABLED: u32 = 1;
const FIRST_X2APIC: u32 = 255;

/// The nodes of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numa {
    /// Bytes of memory of each node, in order; together the machine's memory.
    pub memory: Vec<u64>,
    /// Distances `(from, to, value)` that differ from 10 within a node and 20 between two.
    pub distances: Vec<(u32, u32, u8)>,
}

impl Numa {
    fn distance(&self, from: u32, to: u32) -> u8 {
        let given = |a, b| self.distances.iter().find(|entry| (entry.0, entry.1) == (a, b)).map(|entry| entry.2);
        let default = if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
        // One direction given stands for both, as on QEMU's command line.
        given(from, to).or_else(|| given(to, from)).unwrap_or(default)
    }
}

pub(super) fn slit(numa: &Numa) -> Vec<u8> {
    let nodes = numa.memory.len() as u32;
    let mut bytes = u64::from(nodes).to_le_bytes().to_vec();
    bytes.extend((0..nodes).flat_map(|from| (0..nodes).map(move |to| numa.distance(from, to))));
    bytes
}

pub(super) fn srat(spec: &AcpiSpec, numa: &Numa) -> Vec<u8> {
    let mut bytes = [&1u32.to_le_bytes()[..], &[0; 8]].concat();
    for (uid, processor) in (0u32..).zip(&spec.processors) {
        bytes.extend(processor_affinity(uid, processor.apic_id, processor.node));
    }
    for (node, range) in memory_ranges(spec, numa) {
        bytes.extend(memory_affinity(node, &range));
    }
    bytes
}

fn processor_affinity(uid: u32, apic_id: u32, node: u32) -> Vec<u8> {
    let [low, rest @ ..] = node.to_le_bytes();
    if apic_id < FIRST_X2APIC && uid < FIRST_X2APIC {
        let mut bytes = vec![PROCESSOR, 16, low, apic_id as u8];
        bytes.extend(ENABLED.to_le_bytes());
        bytes.push(0);
        bytes.extend(rest);
        bytes.extend([0; 4]);
        return bytes;
    }
    let mut bytes = vec![X2APIC, 24, 0, 0];
    bytes.extend([node, apic_id, ENABLED, 0, 0].iter().flat_map(|field| field.to_le_bytes()));
    bytes
}

fn memory_affinity(node: u32, range: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![MEMORY, 40];
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(range.start.to_le_bytes());
    bytes.extend((range.end - range.start).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(ENABLED.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// Each node's memory; the hole below 1 MiB belongs to nobody.
fn memory_ranges(spec: &AcpiSpec, numa: &Numa) -> Vec<(u32, Range<u64>)> {
    let shares = spec.layout.deal(&numa.memory).into_iter();
    shares.flat_map(|share| usable(share.range).map(move |part| (share.owner as u32, part))).collect()
}

/// Cuts the window from 640 KiB to 1 MiB out of a range.
fn usable(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let low = range.start..range.end.min(VGA_WINDOW_START);
    let high = range.start.max(HIGH_MEMORY_START)..range.end;
    [low, high].into_iter().filter(|part| part.start < part.end)
}
