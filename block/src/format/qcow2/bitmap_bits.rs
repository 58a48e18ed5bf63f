//! The bits of a dirty bitmap, and how they lie in the file ("Bitmap table" in the specification).

use std::ops::Range;

use super::bitmap::BitmapEntry;
use super::entry::OFFSET;
use super::header::corrupt;
use super::open::read_words;
use super::{Alloc, Qcow2};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

/// Largest bitmap that is merged in memory, in bytes.
pub(super) const MOST_BYTES: u64 = 256 << 20;
/// A table entry without a cluster whose bits are all set.
const ALL_ONES: u64 = 1;

/// A bitmap's content; none without any bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    /// Bytes of the disk for one bit, as a power of two.
    pub granularity_bits: u32,
    /// Bytes of the disk.
    pub size: u64,
    /// The bits, the lowest of each byte first.
    pub bytes: Vec<u8>,
}

impl Bits {
    /// The runs of the disk within `range` whose bits are set.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let start = self.next(at..range.end, true)?;
            at = self.next(start..range.end, false).unwrap_or(range.end);
            Some(start..at)
        })
    }

    /// Where in `range` the first bit is that is `set`.
    pub(crate) fn next(&self, range: Range<u64>, set: bool) -> Option<u64> {
        if range.is_empty() {
            // It may end within a bit.
            return None;
        }
        let skipped = if set { 0 } else { 0xff };
        let mut bit = range.start >> self.granularity_bits;
        while bit << self.granularity_bits < range.end {
            let byte = self.bytes.get((bit / 8) as usize).copied().unwrap_or(0);
            if bit.is_multiple_of(8) && byte == skipped {
                bit += 8;
            } else if (byte >> (bit % 8) & 1 != 0) == set {
                return Some((bit << self.granularity_bits).max(range.start));
            } else {
                bit += 1;
            }
        }
        None
    }

    /// Sets the bits of the bytes `start..end` of the disk.
    pub(crate) fn set(&mut self, start: u64, end: u64) {
        let mut at = start >> self.granularity_bits;
        while at << self.granularity_bits < end {
            if let Some(byte) = self.bytes.get_mut((at / 8) as usize) {
                *byte |= 1 << (at % 8);
            }
            at += 1;
        }
    }

    /// How many are set.
    #[must_use]
    pub fn count(&self) -> u64 {
        count_ones(&self.bytes)
    }

    /// Makes it one for a disk of `size` bytes, new bits clear; false if its bytes stay what they were.
    pub(super) fn fit(&mut self, size: u64) -> bool {
        self.size = size;
        let (bytes, last) = shape(self.granularity_bits, size);
        let (len, end) = (self.bytes.len(), self.bytes.get(bytes.wrapping_sub(1)).copied());
        self.bytes.resize(bytes, 0);
        // What a smaller disk no longer has must not come back when it grows.
        self.bytes.last_mut().into_iter().for_each(|byte| *byte &= last);
        len != bytes || end != self.bytes.last().copied()
    }

    /// Both together, in the finer of their granularities; `other` is of a disk of the same size.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let (mut fine, coarse) =
            if self.granularity_bits <= other.granularity_bits { (self, other) } else { (other, self) };
        fine.merge(&coarse, fine.size);
        fine
    }

    /// Sets what is set in `other` for a disk of `size` bytes.
    pub(super) fn merge(&mut self, other: &Self, size: u64) {
        for (n, byte) in other.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                let start = (n as u64 * 8 + bit) << other.granularity_bits;
                self.set(start, (start + (1 << other.granularity_bits)).min(size));
            }
        }
    }
}

/// How many bytes the bits of a disk of `size` bytes take, and which bits of the last one are the disk's.
fn shape(granularity_bits: u32, size: u64) -> (usize, u8) {
    let bits = size.div_ceil(1 << granularity_bits);
    (bits.div_ceil(8) as usize, if bits.is_multiple_of(8) { 0xff } else { (1 << (bits % 8)) - 1 })
}

fn count_ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

/// Bytes of a bitmap of the file.
enum Part<'a> {
    /// So many of the same.
    All(u8, usize),
    Bytes(&'a [u8]),
}

impl Qcow2 {
    /// The ranges of the file that belong to a bitmap.
    pub(super) fn places_of(&self, entry: &BitmapEntry) -> Result<Vec<(u64, u64)>, BlockError> {
        let mut places = vec![(entry.table_offset, u64::from(entry.table_size) * 8)];
        let table = read_words(self.file.as_ref(), entry.table_offset, u64::from(entry.table_size))?;
        let clusters = table.iter().map(|word| word & OFFSET).filter(|offset| *offset != 0);
        places.extend(clusters.map(|offset| (offset, self.geometry.cluster())));
        places.retain(|(_, len)| *len > 0);
        Ok(places)
    }

    /// Bytes of a bitmap of the file.
    pub(super) fn bits_len(&self, entry: &BitmapEntry) -> Result<u64, BlockError> {
        let len = self.size().div_ceil(1 << entry.granularity_bits).div_ceil(8);
        if len.div_ceil(self.geometry.cluster()) > u64::from(entry.table_size) || len > MOST_BYTES {
            return Err(corrupt(format!("the table of bitmap '{}' does not fit the disk", entry.name)));
        }
        Ok(len)
    }

    pub(super) fn load_bits(&self, entry: &BitmapEntry) -> Result<Bits, BlockError> {
        let size = self.size();
        let mut bytes = Vec::with_capacity(self.bits_len(entry)? as usize);
        self.read_bits(entry, |part| match part {
            Part::All(byte, len) => bytes.resize(bytes.len() + len, byte),
            Part::Bytes(part) => bytes.extend_from_slice(part),
        })?;
        Ok(Bits { granularity_bits: entry.granularity_bits.into(), size, bytes })
    }

    /// How many bits of a bitmap of the file are set.
    pub(super) fn count_bits(&self, entry: &BitmapEntry) -> Result<u64, BlockError> {
        let mut count = 0;
        self.read_bits(entry, |part| {
            count += match part {
                Part::All(byte, len) => len as u64 * u64::from(byte.count_ones()),
                Part::Bytes(part) => count_ones(part),
            }
        })?;
        Ok(count)
    }

    /// Gives the bytes of a bitmap of the file to `take`, at most a cluster at a time. Bits past the end of the disk are
    /// clear, whatever the file has there.
    fn read_bits(&self, entry: &BitmapEntry, mut take: impl FnMut(Part<'_>)) -> Result<(), BlockError> {
        let cluster = self.geometry.cluster();
        let len = self.bits_len(entry)?;
        let table = read_words(self.file.as_ref(), entry.table_offset, len.div_ceil(cluster))?;
        let (_, last) = shape(entry.granularity_bits.into(), self.size());
        for (at, word) in (0..len).step_by(cluster as usize).zip(table) {
            let part = (len - at).min(cluster) as usize;
            let is_last = at + part as u64 == len;
            match word & OFFSET {
                0 if word & ALL_ONES != 0 => {
                    take(Part::All(0xff, part - usize::from(is_last)));
                    is_last.then(|| take(Part::Bytes(&[last])));
                }
                0 => take(Part::All(0, part)),
                offset => {
                    let mut bytes = read_vec(self.file.as_ref(), offset, part)?;
                    bytes.last_mut().filter(|_| is_last).into_iter().for_each(|byte| *byte &= last);
                    take(Part::Bytes(&bytes));
                }
            }
        }
        Ok(())
    }

    /// Writes bits to new clusters, but for those that are all 0 or all 1; gives the new table's place and entries.
    pub(super) fn store_bits(&self, alloc: &mut Alloc, bits: &Bits) -> Result<(u64, u32), BlockError> {
        let cluster = self.geometry.cluster() as usize;
        let mut table = Vec::new();
        for part in bits.bytes.chunks(cluster) {
            table.push(if part.iter().all(|byte| *byte == 0) {
                0
            } else if part.len() == cluster && part.iter().all(|byte| *byte == 0xff) {
                ALL_ONES
            } else {
                self.write_table(alloc, part)?
            });
        }
        Ok((self.put_table(alloc, &table)?, table.len() as u32))
    }

    fn put_table(&self, alloc: &mut Alloc, words: &[u64]) -> Result<u64, BlockError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.write_table(alloc, &bytes)
    }
}
