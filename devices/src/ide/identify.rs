//! What IDENTIFY DEVICE (ATA8-ACS, 7.16) and IDENTIFY PACKET DEVICE (7.17) answer.

use std::sync::Arc;

use super::drive::{Disk, MAX_MULTIPLE, Modes};
use crate::scsi::LogicalUnit;

/// Bytes of the answer.
pub(super) const BYTES: usize = 512;
/// Most 512-byte blocks of ranges in one TRIM.
pub(super) const MAX_TRIM_BLOCKS: u32 = 8;
/// Greatest 28-bit number of sectors.
const MAX_LBA28: u64 = 0x0fff_ffff;

/// 256 words.
struct Words([u16; BYTES / 2]);

impl Words {
    fn set(&mut self, values: &[(usize, u16)]) {
        for &(at, value) in values {
            if let Some(word) = self.0.get_mut(at) {
                *word = value;
            }
        }
    }

    /// Text, padded with spaces, the first of each two characters in the high byte (7.16.7.2).
    fn text(&mut self, at: usize, words: usize, text: &str) {
        let printable = |byte: u8| if matches!(byte, 0x20..=0x7e) { byte } else { b' ' };
        let mut bytes = text.bytes().map(printable).chain(std::iter::repeat(b' '));
        for word in self.0.iter_mut().skip(at).take(words) {
            let (high, low) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
            *word = u16::from_be_bytes([high, low]);
        }
    }

    /// A number over several words, the lowest first.
    fn number(&mut self, at: usize, words: usize, value: u64) {
        for (n, word) in self.0.iter_mut().skip(at).take(words).enumerate() {
            *word = (value >> (16 * n)) as u16;
        }
    }

    /// All bytes, the last two a signature and what makes the sum of all 0 (7.16.7.86).
    fn bytes(mut self) -> Vec<u8> {
        const INTEGRITY: usize = 255;
        self.set(&[(INTEGRITY, 0x00a5)]);
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if let Some(last) = bytes.last_mut() {
            *last = sum.wrapping_neg();
        }
        bytes
    }
}

/// Multiword DMA 0 to 2 and Ultra DMA 0 to 5, with the selected one.
fn dma(modes: Modes) -> [(usize, u16); 2] {
    [(63, 0x07 | u16::from(modes.multiword) << 8), (88, 0x3f | u16::from(modes.ultra) << 8)]
}

/// IDENTIFY DEVICE.
pub(super) fn disk(disk: &Disk, modes: Modes) -> Vec<u8> {
    let mut words = Words([0; BYTES / 2]);
    let config = &disk.config;
    let (default, current) = (disk.default_geometry, disk.geometry);
    let sectors = disk.sectors();
    let per_track = u16::from(default.sectors);
    words.set(&[
        (0, 0x0040),
        (1, default.cylinders),
        (3, default.heads.into()),
        (4, per_track * 512),
        (5, 512),
        (6, per_track),
        // Buffer: dual ported with read caching, 256 sectors; 4 bytes of error correction.
        (20, 3),
        (21, 512),
        (22, 4),
        (47, 0x8000 | u16::from(MAX_MULTIPLE)),
        // Data may be moved by double words.
        (48, 1),
        // IORDY, LBA, DMA.
        (49, 0x0b00),
        (51, 0x0200),
        (52, 0x0200),
        (53, 0x0007),
    ]);
    words.text(10, 10, &config.serial);
    words.text(23, 4, &config.version);
    words.text(27, 20, &config.model);
    // As long as nobody set another shape, it is the one that the disk came with (ATA/ATAPI-5, 8.16).
    let cylinders = if current == default {
        default.cylinders.into()
    } else {
        (sectors / (u64::from(current.heads) * u64::from(current.sectors)).max(1)).min(16383)
    };
    let capacity = cylinders * u64::from(current.heads) * u64::from(current.sectors);
    words.set(&[
        (54, u16::try_from(cylinders).unwrap_or(u16::MAX)),
        (55, current.heads.into()),
        (56, current.sectors.into()),
        (59, if disk.multiple > 0 { 0x0100 | u16::from(disk.multiple) } else { 0 }),
        // PIO 3 and 4, with cycle times in nanoseconds.
        (64, 0x0003),
        (65, 120),
        (66, 120),
        (67, 120),
        (68, 120),
    ]);
    words.number(57, 2, capacity);
    words.number(60, 2, sectors.min(MAX_LBA28));
    words.set(&dma(modes));
    // ATA-4 to ATA-7 and their command sets.
    let wwn = if config.wwn != 0 { 0x0100 } else { 0 };
    let (cache, ahead, smart) =
        (u16::from(disk.write_cache) << 5, u16::from(disk.look_ahead) << 6, u16::from(disk.smart));
    words.set(&[
        (80, 0x00f0),
        (81, 0x0016),
        // NOP, look-ahead, write cache, power management, SMART.
        (82, 0x4069),
        // FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses.
        (83, 0x7400),
        (84, 0x4000 | wwn),
        (85, 0x4008 | cache | ahead | smart),
        (86, 0x3400),
        (87, 0x4000 | wwn),
        // Hardware reset: device 0 passed, found by jumper.
        (93, 0x6001),
    ]);
    words.number(100, 4, sectors);
    let exponent = config.sizes.exponent();
    if exponent > 0 {
        words.set(&[(106, 0x6000 | u16::from(exponent))]);
    }
    if config.wwn != 0 {
        for (n, shift) in [48, 32, 16, 0].into_iter().enumerate() {
            words.set(&[(108 + n, (config.wwn >> shift) as u16)]);
        }
    }
    if disk.trims() {
        // What was trimmed reads the same each time: as zeroes, or as before where the image lets go of nothing.
        words.set(&[(69, 0x4000), (105, MAX_TRIM_BLOCKS as u16), (169, 1)]);
    }
    words.set(&[(217, config.rotation_rate)]);
    words.bytes()
}

/// IDENTIFY PACKET DEVICE.
pub(super) fn packet(unit: &Arc<LogicalUnit>, modes: Modes) -> Vec<u8> {
    let mut words = Words([0; BYTES / 2]);
    let config = unit.config();
    words.set(&[
        // ATAPI, CD-ROM, removable, DRQ within 50 microseconds, packets of 12 bytes.
        (0, 0x85c0),
        (20, 3),
        (21, 512),
        (22, 4),
        (48, 1),
        // LBA, DMA.
        (49, 0x0300),
        (53, 0x0007),
        (64, 0x0003),
        (65, 0x00b4),
        (66, 0x00b4),
        (67, 0x012c),
        (68, 0x00b4),
        (71, 30),
        (72, 30),
        (80, 0x001e),
        // PACKET, DEVICE RESET, NOP.
        (82, 0x4210),
        (83, 0x4000),
        (85, 0x4210),
        (87, 0x4000),
        (93, 0x6001),
    ]);
    words.text(10, 10, &config.serial);
    words.text(23, 4, &config.version);
    words.text(27, 20, &config.product);
    words.set(&dma(modes));
    words.bytes()
}
