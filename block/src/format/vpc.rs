//! Virtual PC's and Hyper-V's VHD: fixed (the disk and a footer) and dynamic (footer, header, table of blocks).
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0.

use std::sync::Arc;

use super::foreign::{Blocks, Place, Places, ReadOnly, be, corrupt, not_one, read_table, unsupported};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

const NAME: &str = "vpc";
const FOOTER: u64 = 512;
const SECTOR: u64 = 512;
const UNUSED: u32 = u32::MAX;
/// The largest disk that the geometry can tell, in sectors.
const MOST_GEOMETRY: u64 = 65535 * 16 * 255;

enum Vpc {
    Fixed(u64),
    Dynamic(Blocks),
}

/// Opens the image in `file`.
///
/// # Errors
/// When it is no VHD image, breaks the format's rules, or has a parent.
pub fn open(file: &Arc<dyn Layer>) -> Result<Arc<dyn Layer>, BlockError> {
    let end = file.size().saturating_sub(FOOTER);
    let mut footer = read_vec(file.as_ref(), 0, FOOTER as usize)?;
    if !footer.starts_with(b"conectix") {
        footer = read_vec(file.as_ref(), end, FOOTER as usize)?;
    }
    if !footer.starts_with(b"conectix") {
        return Err(not_one("invalid VPC image"));
    }
    if sum_without(&footer, 64) != be::<4>(&footer, 64) {
        return Err(corrupt(NAME, "the footer's checksum is wrong"));
    }
    let size = disk_size(&footer);
    let vpc = match be::<4>(&footer, 60) {
        2 if size > end => return Err(corrupt(NAME, format!("the file is shorter than the disk of {size} bytes"))),
        2 => Vpc::Fixed(size),
        3 => Vpc::Dynamic(dynamic(file, be::<8>(&footer, 16), size)?),
        4 => return Err(unsupported(NAME, "the image has a parent, which is not followed")),
        kind => return Err(unsupported(NAME, format!("disk type {kind}"))),
    };
    Ok(ReadOnly::layer(file, vpc))
}

/// "Checksum": the one's complement of the sum of all bytes but the checksum's own.
fn sum_without(bytes: &[u8], at: usize) -> u64 {
    let all = bytes.iter().enumerate().filter(|(n, _)| !(at..at + 4).contains(n));
    u64::from(!all.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte))))
}

/// Virtual PC goes by the geometry, as long as that can tell the size; other programs by the size itself.
fn disk_size(footer: &[u8]) -> u64 {
    let geometry = be::<2>(footer, 56) * be::<1>(footer, 58) * be::<1>(footer, 59);
    let by_geometry = matches!(footer.get(28..32), Some(b"vpc " | b"vs  " | b"qemu"));
    if by_geometry && geometry != 0 && geometry < MOST_GEOMETRY { geometry * SECTOR } else { be::<8>(footer, 48) }
}

fn dynamic(file: &Arc<dyn Layer>, at: u64, size: u64) -> Result<Blocks, BlockError> {
    if at.checked_add(1024).is_none_or(|end| end > file.size()) {
        return Err(corrupt(NAME, format!("the dynamic header at {at:#x} is past the end of the file")));
    }
    let head = read_vec(file.as_ref(), at, 1024)?;
    if !head.starts_with(b"cxsparse") {
        return Err(corrupt(NAME, format!("the dynamic header at {at:#x} is not there")));
    }
    if sum_without(&head, 36) != be::<4>(&head, 36) {
        return Err(corrupt(NAME, "the dynamic header's checksum is wrong"));
    }
    let (table, count, block) = (be::<8>(&head, 16), be::<4>(&head, 28), be::<4>(&head, 32));
    if !block.is_power_of_two() || block < SECTOR {
        return Err(corrupt(NAME, format!("blocks of {block} bytes")));
    }
    // Before each block is a bitmap of its sectors, padded to a sector. What it calls unused was never written and
    // is zero in a dynamic disk.
    let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let entries = read_table::<4>(NAME, file.as_ref(), table, count)?;
    let hosts = entries.as_chunks::<4>().0.iter().map(|entry| match u32::from_be_bytes(*entry) {
        UNUSED => 0,
        sector => u64::from(sector) * SECTOR + bitmap,
    });
    Blocks::new(NAME, file.as_ref(), hosts.collect(), block, size)
}

impl Places for Vpc {
    const DRIVER: &'static str = NAME;
    const ZEROES: bool = true;

    fn size(&self) -> u64 {
        match self {
            Self::Fixed(size) => *size,
            Self::Dynamic(blocks) => blocks.size(),
        }
    }

    fn cluster_size(&self) -> Option<u64> {
        match self {
            Self::Fixed(_) => None,
            Self::Dynamic(blocks) => Some(blocks.block()),
        }
    }

    fn place(&self, _file: &dyn Layer, offset: u64) -> Result<(Place, u64), BlockError> {
        Ok(match self {
            Self::Fixed(size) => (Place::At(offset), size - offset),
            Self::Dynamic(blocks) => blocks.place(offset),
        })
    }
}
