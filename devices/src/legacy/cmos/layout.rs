//! What firmware reads from CMOS memory: memory sizes, processors, boot order, shapes of disks.

use super::BYTES;
use crate::geometry::{Geometry, Shape};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What the machine has, for firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CmosLayout {
    /// Bytes of memory below 4 GiB.
    pub below_4g: u64,
    /// Bytes of memory above 4 GiB.
    pub above_4g: u64,
    /// Processors at start.
    pub cpus: u8,
    /// Boot devices, first to third: 1 floppy, 2 hard disk, 3 CD-ROM, 4 network, 0 none.
    pub boot_order: [u8; 3],
    /// Look for a signature on a floppy before booting from it.
    pub check_floppy_signature: bool,
}

impl CmosLayout {
    /// Writes the bytes that depend on the machine.
    pub(super) fn fill(&self, memory: &mut [u8; BYTES]) {
        let words = [
            // Conventional memory and memory above 1 MiB in KiB, the latter twice; above 16 MiB in 64 KiB.
            (0x15, (self.below_4g / KIB).min(640)),
            (0x17, self.below_4g.saturating_sub(MIB) / KIB),
            (0x30, self.below_4g.saturating_sub(MIB) / KIB),
            (0x34, self.below_4g.saturating_sub(16 * MIB) / (64 * KIB)),
        ];
        for (at, value) in words {
            let [low, high] = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
            put(memory, at, &[low, high]);
        }
        // Above 4 GiB in 64 KiB, three bytes.
        let high = u32::try_from((self.above_4g / (64 * KIB)).min(0xff_ffff)).unwrap_or(0).to_le_bytes();
        put(memory, 0x5b, high.get(..3).unwrap_or_default());
        put(memory, 0x5f, &[self.cpus.saturating_sub(1)]);
        // Equipment: a coprocessor and a pointing device; no floppy.
        put(memory, 0x14, &[0x06]);
        let [first, second, third] = self.boot_order.map(|device| device & 0xf);
        let unchecked = u8::from(!self.check_floppy_signature);
        put(memory, 0x3d, &[first | (second << 4)]);
        put(memory, 0x38, &[(third << 4) | unchecked]);
        debug_assert!(self.below_4g <= 4 * GIB);
    }
}

/// The bytes that tell firmware of the disks on the IDE channels, with their places; `None` where there is no disk.
pub(super) fn of_disks(disks: [Option<Shape>; 4]) -> Vec<(u8, u8)> {
    let mut bytes = Vec::new();
    let mut kinds = 0;
    for (n, disk) in (0u8..).zip(disks.iter().take(2)) {
        let Some(Geometry { cylinders, heads, sectors }) = disk.map(|disk| disk.geometry) else { continue };
        // Type 15 is told further in an extended type, and 47 there is one that says its shape.
        kinds |= if n == 0 { 0xf0 } else { 0x0f };
        bytes.push((0x19 + n, 47));
        let [low, high] = cylinders.to_le_bytes();
        let control = 0xc0 | u8::from(heads > 8) << 3;
        let shape = [low, high, heads, 0xff, 0xff, control, low, high, sectors];
        bytes.extend((0x1b + 9 * n..).zip(shape));
    }
    bytes.push((0x12, kinds));
    // Two bits a disk.
    let translation = |disk: &Option<Shape>| disk.map_or(0, |disk| disk.translation as u8);
    bytes.push((0x39, disks.iter().rev().fold(0, |bits, disk| bits << 2 | translation(disk))));
    bytes
}

fn put(memory: &mut [u8; BYTES], at: usize, bytes: &[u8]) {
    for (slot, byte) in memory.iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
}
