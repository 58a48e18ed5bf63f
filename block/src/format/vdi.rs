//! VirtualBox's VDI, version 1.1: a header, a table of blocks, the blocks.
//!
//! Source: the layout that VirtualBox's forum and manual describe ("VDI 1.1 header"), checked on images of `qemu-img`.

use std::sync::Arc;

use super::foreign::{Blocks, Place, Places, ReadOnly, le, not_one, read_table, unsupported};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

const NAME: &str = "vdi";
const SIGNATURE: u64 = 0xbeda_107f;
/// Table entries: nothing stored; discarded, so zero.
const FREE: u64 = 0xffff_ffff;
const ZERO: u64 = 0xffff_fffe;

struct Vdi(Blocks);

/// Opens the image in `file`.
///
/// # Errors
/// When it is no VDI image, breaks the format's rules, or has a parent.
pub fn open(file: &Arc<dyn Layer>) -> Result<Arc<dyn Layer>, BlockError> {
    let head = read_vec(file.as_ref(), 0, 512)?;
    let signature = le::<4>(&head, 0x40);
    if signature != SIGNATURE {
        return Err(not_one(format!("Image not in VDI format (bad signature {signature:08x})")));
    }
    let version = le::<4>(&head, 0x44);
    if version != 0x0001_0001 {
        return Err(unsupported(NAME, format!("version {}.{}", version >> 16, version & 0xffff)));
    }
    let (kind, sector) = (le::<4>(&head, 0x4c), le::<4>(&head, 0x168));
    if !(1..=2).contains(&kind) {
        return Err(unsupported(NAME, format!("image type {kind} (neither dynamic nor fixed)")));
    }
    if sector != 512 {
        return Err(unsupported(NAME, format!("sectors of {sector} bytes")));
    }
    if head[0x1a8..0x1c8].iter().any(|b| *b != 0) {
        return Err(unsupported(NAME, "the image has a parent, which is not followed"));
    }
    let (map, data) = (le::<4>(&head, 0x154), le::<4>(&head, 0x158));
    let (size, block, extra) = (le::<8>(&head, 0x170), le::<4>(&head, 0x178), le::<4>(&head, 0x17c));
    if !block.is_power_of_two() || block < 512 || extra != 0 {
        return Err(unsupported(NAME, format!("blocks of {block} and {extra} bytes")));
    }
    let count = le::<4>(&head, 0x180);
    let table = read_table::<4>(NAME, file.as_ref(), map, count)?;
    let hosts = table.as_chunks::<4>().0.iter().map(|entry| match u64::from(u32::from_le_bytes(*entry)) {
        FREE | ZERO => 0,
        number => data + number * block,
    });
    let blocks = Blocks::new(NAME, file.as_ref(), hosts.collect(), block, size)?;
    Ok(ReadOnly::layer(file, Vdi(blocks)))
}

impl Places for Vdi {
    const DRIVER: &'static str = NAME;
    const ZEROES: bool = true;

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.0.block())
    }

    fn place(&self, _file: &dyn Layer, offset: u64) -> Result<(Place, u64), BlockError> {
        Ok(self.0.place(offset))
    }
}
