//! Hyper-V's VHDX.
//!
//! Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format"; sections are named beside what they say.

use std::sync::Arc;

use super::foreign::{Blocks, Place, Places, ReadOnly, corrupt, le, read_table, unsupported};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

const NAME: &str = "vhdx";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Known regions and metadata items (2.2.3.2, 2.6.2), as their bytes lie in the file.
const REGION_BAT: [u8; 16] = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
const REGION_METADATA: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
const ITEM_PARAMETERS: [u8; 16] = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
const ITEM_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
const ITEM_SECTOR: [u8; 16] = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);

/// The first three parts are little-endian, the last is in order.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

struct Vhdx(Blocks);

/// A range of the file.
#[derive(Debug, Clone, Copy)]
struct Region {
    offset: u64,
    len: u64,
}

/// What the metadata items say.
#[derive(Debug, Default)]
struct Items {
    block: u64,
    parent: bool,
    size: u64,
    sector: u64,
}

/// Opens the image in `file`.
///
/// # Errors
/// When it is no VHDX image, breaks the format's rules, has a parent, or its log must be replayed first.
pub fn open(file: &Arc<dyn Layer>) -> Result<Arc<dyn Layer>, BlockError> {
    let layer = file.as_ref();
    if read_vec(layer, 0, 8)? != b"vhdxfile" {
        return Err(corrupt(NAME, "the signature is not there"));
    }
    check_log(layer)?;
    let (bat, metadata) = regions(layer)?;
    let items = items(layer, metadata)?;
    if items.parent {
        return Err(unsupported(NAME, "the image has a parent, which is not followed"));
    }
    // 2.6.2.1: from 1 MiB to 256 MiB. 2.6.2.4: 512 or 4096.
    if !items.block.is_power_of_two() || !(MIB..=256 * MIB).contains(&items.block) {
        return Err(corrupt(NAME, format!("blocks of {} bytes", items.block)));
    }
    if !matches!(items.sector, 512 | 4096) || items.size > 64 << 40 {
        return Err(corrupt(NAME, format!("{} bytes in sectors of {}", items.size, items.sector)));
    }
    let hosts = block_hosts(layer, bat, &items)?;
    let blocks = Blocks::new(NAME, layer, hosts, items.block, items.size)?;
    Ok(ReadOnly::layer(file, Vhdx(blocks)))
}

/// 2.2.2: of two headers the one with a sound checksum and the higher number counts. An image whose log is not empty was
/// not closed, and its tables may be old.
fn check_log(file: &dyn Layer) -> Result<(), BlockError> {
    let mut current: Option<(u64, Vec<u8>)> = None;
    for offset in [64 * KIB, 128 * KIB] {
        let header = read_vec(file, offset, 4096)?;
        let number = le::<8>(&header, 8);
        let sound = header.starts_with(b"head") && u64::from(checksum(&header)) == le::<4>(&header, 4);
        if sound && current.as_ref().is_none_or(|(n, _)| number > *n) {
            current = Some((number, header));
        }
    }
    let (_, header) = current.ok_or_else(|| corrupt(NAME, "neither header is sound"))?;
    let version = le::<2>(&header, 66);
    if version != 1 {
        return Err(unsupported(NAME, format!("version {version}")));
    }
    if header[48..64].iter().any(|b| *b != 0) {
        return Err(unsupported(
            NAME,
            "the image was not closed: its log must be replayed by the program that wrote it",
        ));
    }
    Ok(())
}

/// CRC-32C of a structure with the checksum itself (bytes 4 to 7) as zero (2.2.2, 2.2.3).
fn checksum(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().enumerate().fold(u32::MAX, |crc, (n, byte)| {
        let byte = if (4..8).contains(&n) { 0 } else { *byte };
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    });
    !crc
}

/// 2.2.3: where the block table and the metadata are.
fn regions(file: &dyn Layer) -> Result<(Region, Region), BlockError> {
    for offset in [192 * KIB, 256 * KIB] {
        let table = read_vec(file, offset, 64 << 10)?;
        if !table.starts_with(b"regi") || u64::from(checksum(&table)) != le::<4>(&table, 4) {
            continue;
        }
        let count = le::<4>(&table, 8);
        if count > 2047 {
            return Err(corrupt(NAME, format!("{count} regions")));
        }
        let (mut bat, mut metadata) = (None, None);
        for entry in table[16..].as_chunks::<32>().0.iter().take(count as usize) {
            let region = Region { offset: le::<8>(entry, 16), len: le::<4>(entry, 24) };
            match entry[..16].try_into() {
                Ok(REGION_BAT) => bat = Some(region),
                Ok(REGION_METADATA) => metadata = Some(region),
                _ if le::<4>(entry, 28) & 1 == 1 => return Err(unsupported(NAME, "a region that is required")),
                _ => {}
            }
        }
        return bat.zip(metadata).ok_or_else(|| corrupt(NAME, "no block table or no metadata"));
    }
    Err(corrupt(NAME, "neither region table is sound"))
}

/// 2.6: the items that are needed.
fn items(file: &dyn Layer, region: Region) -> Result<Items, BlockError> {
    let past = |end: Option<u64>| end.is_none_or(|end| end > file.size());
    if region.len < 64 * KIB || past(region.offset.checked_add(64 * KIB)) {
        return Err(corrupt(NAME, "the metadata are past the end of the file"));
    }
    let table = read_vec(file, region.offset, 64 << 10)?;
    let count = le::<2>(&table, 10);
    if !table.starts_with(b"metadata") || count > 2047 {
        return Err(corrupt(NAME, "the metadata table is broken"));
    }
    let mut items = Items::default();
    for entry in table[32..].as_chunks::<32>().0.iter().take(count as usize) {
        let (offset, len) = (le::<4>(entry, 16), le::<4>(entry, 20));
        if past(region.offset.checked_add(offset + 8)) || offset + len > region.len {
            return Err(corrupt(NAME, "a metadata item is past the end of the file"));
        }
        let value = read_vec(file, region.offset + offset, 8)?;
        match entry[..16].try_into() {
            Ok(ITEM_PARAMETERS) => {
                items.block = le::<4>(&value, 0);
                items.parent = le::<4>(&value, 4) & 2 != 0;
            }
            Ok(ITEM_SIZE) => items.size = le::<8>(&value, 0),
            Ok(ITEM_SECTOR) => items.sector = le::<4>(&value, 0),
            _ => {}
        }
    }
    Ok(items)
}

/// 2.5: after each `ratio` entries for blocks stands one for their sectors' bitmap.
fn block_hosts(file: &dyn Layer, bat: Region, items: &Items) -> Result<Vec<u64>, BlockError> {
    let ratio = (1 << 23) * items.sector / items.block;
    let blocks = items.size.div_ceil(items.block);
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    if entries * 8 > bat.len {
        return Err(corrupt(NAME, format!("the block table has no room for {blocks} blocks")));
    }
    let table = read_table::<8>(NAME, file, bat.offset, entries)?;
    let entries = table.as_chunks::<8>().0.iter().enumerate();
    let of_blocks = entries.filter(|(n, _)| !(*n as u64 + 1).is_multiple_of(ratio + 1));
    of_blocks
        .map(|(n, entry)| {
            let entry = u64::from_le_bytes(*entry);
            match entry & 7 {
                // Not present, undefined, zero, unmapped: all read as zeroes here.
                0..=3 => Ok(0),
                6 => Ok(entry & !(MIB - 1)),
                state => Err(corrupt(NAME, format!("block table entry {n} has the impossible state {state}"))),
            }
        })
        .collect()
}

impl Places for Vhdx {
    const DRIVER: &'static str = NAME;

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
