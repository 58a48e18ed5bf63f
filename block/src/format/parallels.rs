//! Parallels' expandable images: a header, a table of blocks, the blocks.
//!
//! Source: "Parallels Expandable Image File Format" in QEMU's `docs/interop/parallels.txt`.

use std::sync::Arc;

use super::foreign::{Blocks, Place, Places, ReadOnly, corrupt, le, not_one, read_table, unsupported};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

const NAME: &str = "parallels";
const SECTOR: u64 = 512;

struct Parallels(Blocks);

/// Opens the image in `file`.
///
/// # Errors
/// When it is no Parallels image, or breaks the format's rules.
pub fn open(file: &Arc<dyn Layer>) -> Result<Arc<dyn Layer>, BlockError> {
    let head = read_vec(file.as_ref(), 0, 64)?;
    let (tracks, count) = (le::<4>(&head, 28), le::<4>(&head, 32));
    // Old images count entries in sectors and have 32 bits of size, new ones count in blocks.
    let (unit, sectors) = match &head[..16] {
        b"WithoutFreeSpace" => (SECTOR, le::<4>(&head, 36)),
        b"WithouFreSpacExt" => (tracks * SECTOR, le::<8>(&head, 36)),
        _ => return Err(not_one("Image not in Parallels format")),
    };
    let version = le::<4>(&head, 16);
    if version != 2 {
        return Err(unsupported(NAME, format!("version {version}")));
    }
    if tracks == 0 || tracks > u64::from(u32::MAX) / SECTOR {
        return Err(corrupt(NAME, format!("blocks of {tracks} sectors")));
    }
    let size = sectors.checked_mul(SECTOR).ok_or_else(|| corrupt(NAME, format!("a disk of {sectors} sectors")))?;
    let table = read_table::<4>(NAME, file.as_ref(), 64, count)?;
    let hosts = table.as_chunks::<4>().0.iter().map(|entry| u64::from(u32::from_le_bytes(*entry)) * unit);
    let blocks = Blocks::new(NAME, file.as_ref(), hosts.collect(), tracks * SECTOR, size)?;
    Ok(ReadOnly::layer(file, Parallels(blocks)))
}

impl Places for Parallels {
    const DRIVER: &'static str = NAME;

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        None
    }

    fn place(&self, _file: &dyn Layer, offset: u64) -> Result<(Place, u64), BlockError> {
        Ok(self.0.place(offset))
    }
}
