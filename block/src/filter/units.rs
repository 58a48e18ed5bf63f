//! What filters that copy remember of a disk: a bit for each unit of it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Smallest unit: 64 KiB.
pub(super) const LEAST_BITS: u32 = 16;
/// Most units of a disk: larger disks have larger units, so that their bits take 2 MiB at most.
const MOST_UNITS: u64 = 1 << 24;

/// A disk in units, and a bit for each; all are clear at first.
pub(super) struct Units {
    /// Bytes of the disk.
    size: u64,
    unit_bits: u32,
    count: u64,
    bits: Vec<AtomicU64>,
    /// How many are set.
    set: AtomicU64,
}

/// Bytes of a unit of a disk of `size` bytes, `least` of them, a power of two, at least.
pub(super) fn unit_of(size: u64, least: u64) -> u64 {
    size.div_ceil(MOST_UNITS).next_power_of_two().max(least).max(1 << LEAST_BITS)
}

impl Units {
    /// Of a disk of `size` bytes; of `least` bytes each, a power of two, at least.
    pub(super) fn new(size: u64, least: u64) -> Self {
        let unit_bits = unit_of(size, least).trailing_zeros();
        let count = size.div_ceil(1 << unit_bits);
        let bits = (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { size, unit_bits, count, bits, set: AtomicU64::new(0) }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The unit that a byte of the disk is in.
    pub(super) fn unit_at(&self, offset: u64) -> u64 {
        offset >> self.unit_bits
    }

    /// The bytes of the disk that a unit is.
    pub(super) fn range_of(&self, unit: u64) -> Range<u64> {
        let start = unit << self.unit_bits;
        start..(start + (1 << self.unit_bits)).min(self.size).max(start)
    }

    /// The units that a run of the disk touches.
    pub(super) fn touched(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len).div_ceil(1 << self.unit_bits).min(self.count);
        self.unit_at(offset).min(end)..end
    }

    /// Whether the bit of a unit is set; `None` past the end.
    pub(super) fn get(&self, unit: u64) -> Option<bool> {
        let word = self.bits.get((unit / 64) as usize)?;
        Some(word.load(Ordering::Acquire) >> (unit % 64) & 1 != 0)
    }

    /// Sets the bit of a unit.
    pub(super) fn set(&self, unit: u64) {
        if let Some(word) = self.bits.get((unit / 64) as usize) {
            let before = word.fetch_or(1 << (unit % 64), Ordering::Release);
            self.set.fetch_add(u64::from(before >> (unit % 64) & 1 == 0), Ordering::Relaxed);
        }
    }

    /// Clears the bit of a unit.
    pub(super) fn clear(&self, unit: u64) {
        if let Some(word) = self.bits.get((unit / 64) as usize) {
            let before = word.fetch_and(!(1 << (unit % 64)), Ordering::Release);
            self.set.fetch_sub(before >> (unit % 64) & 1, Ordering::Relaxed);
        }
    }

    /// How many bytes the units have whose bits are set.
    pub(super) fn bytes_set(&self) -> u64 {
        self.set.load(Ordering::Relaxed) << self.unit_bits
    }

    /// The first unit from `from` on whose bit is set.
    pub(super) fn next_set(&self, from: u64) -> Option<u64> {
        let first = (from / 64) as usize;
        self.bits.iter().enumerate().skip(first).find_map(|(at, word)| {
            let before = if at == first { (1 << (from % 64)) - 1 } else { 0 };
            let left = word.load(Ordering::Acquire) & !before;
            (left != 0).then(|| at as u64 * 64 + u64::from(left.trailing_zeros()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_unit_ends_with_the_disk() {
        let units = Units::new((3 << 16) + 512, 1);

        assert_eq!((units.count(), units.range_of(3)), (4, 3 << 16..(3 << 16) + 512));
        assert_eq!((units.touched(65_535, 2), units.touched(3 << 16, u64::MAX)), (0..2, 3..4));
    }

    #[test]
    fn large_disk_has_large_units() {
        let units = Units::new(64 << 40, 1);

        assert_eq!((units.count(), units.range_of(0)), (1 << 24, 0..4 << 20));
    }

    #[test]
    fn set_bits_are_found_from_anywhere_until_they_are_cleared() {
        let units = Units::new(200 << 16, 1);
        [3, 64, 199].into_iter().for_each(|unit| units.set(unit));

        let found = |from| units.next_set(from);
        assert_eq!(
            (found(0), found(3), found(4), found(65), found(200)),
            (Some(3), Some(3), Some(64), Some(199), None)
        );
        assert_eq!(units.bytes_set(), 3 << 16);
        units.clear(64);
        assert_eq!(
            (found(4), units.get(64), units.get(199), units.get(1 << 30)),
            (Some(199), Some(false), Some(true), None)
        );
    }
}
