//! What the chip tells of itself: the query table of JEDEC JESD68 ("Common Flash Interface").

use super::BLOCK;

/// Bytes of the write buffer: as many as one byte counts.
pub(super) const BUFFER: usize = 256;

/// The byte at `at` (0 to 0xff) of the query table of a chip of `size` bytes.
pub(super) fn query(size: u64, at: u8) -> u8 {
    let [blocks_low, blocks_high, ..] = (size / BLOCK - 1).to_le_bytes();
    let [unit_low, unit_high, ..] = (BLOCK / 256).to_le_bytes();
    match at {
        0x10 => b'Q',
        0x11 => b'R',
        0x12 => b'Y',
        // Primary command set: Intel/Sharp extended; its table is at 0x31. There is no other.
        0x13 => 0x01,
        0x15 => 0x31,
        // Supply voltage, 4.5 to 5.5 V; no programming voltage.
        0x1b => 0x45,
        0x1c => 0x55,
        // Usual times as powers of two: a byte and a buffer in 2^7 µs, a block in 2^10 ms; all at most 2^4 times that.
        0x1f | 0x20 => 0x07,
        0x21 => 0x0a,
        0x23..=0x25 => 0x04,
        // A size is a power of two here; the blocks say it exactly.
        0x27 => size.next_power_of_two().trailing_zeros() as u8,
        // Interface: 8 and 16 bits wide.
        0x28 => 0x02,
        0x2a => BUFFER.trailing_zeros() as u8,
        // One kind of blocks: their number less one, their size in units of 256 bytes.
        0x2c => 1,
        0x2d => blocks_low,
        0x2e => blocks_high,
        0x2f => unit_low,
        0x30 => unit_high,
        // The primary command set's own table, version 1.0, without any optional feature.
        0x31 => b'P',
        0x32 => b'R',
        0x33 => b'I',
        0x34 => b'1',
        0x35 => b'0',
        _ => 0,
    }
}
