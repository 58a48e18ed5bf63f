//! VMware's hosted sparse extents (`monolithicSparse`, `streamOptimized`): grain directory, grain tables, grains.
//!
//! Source: VMware, "Virtual Disk Format 5.0", "Hosted Sparse Extent Header" and "Stream-Optimized Compressed Sparse
//! Extents". Descriptors that name other files are not followed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::foreign::{Place, Places, ReadOnly, corrupt, le, not_one, read_table, unsupported};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

const NAME: &str = "vmdk";
const SECTOR: u64 = 512;
/// Flags: entry 1 of a grain table is a zero grain; grains are compressed; there are markers.
const ZERO_GRAINS: u64 = 1 << 2;
const COMPRESSED: u64 = 1 << 16;
/// The directory's place is in the footer.
const AT_END: u64 = u64::MAX;
/// Bytes of a descriptor that are looked at.
const MOST_DESCRIPTOR: u64 = 64 << 10;

struct Vmdk {
    descriptor: Descriptor,
    directory: Vec<u64>,
    /// Grain tables have this many entries.
    entries: u64,
    grain: u64,
    size: u64,
    zero_grains: bool,
    compressed: bool,
    /// The grain table used last, and its host offset.
    table: Mutex<(u64, Arc<Vec<u32>>)>,
    /// The grain unpacked last, and its host offset.
    unpacked: Mutex<(u64, Arc<Vec<u8>>)>,
}

struct Header(Vec<u8>);

impl Header {
    fn read(file: &dyn Layer, offset: u64) -> Result<Self, BlockError> {
        let head = read_vec(file, offset, 512)?;
        if head.starts_with(b"# Disk DescriptorFile") {
            return Err(unsupported(NAME, "a descriptor of extents in other files, which are not followed"));
        }
        if !head.starts_with(b"KDMV") {
            return Err(not_one("invalid VMDK image descriptor"));
        }
        let version = le::<4>(&head, 4);
        if !(1..=3).contains(&version) {
            return Err(unsupported(NAME, format!("version {version}")));
        }
        Ok(Self(head))
    }

    fn directory_sector(&self) -> u64 {
        le::<8>(&self.0, 56)
    }
}

/// Opens the image in `file`.
///
/// # Errors
/// When it is no sparse extent, breaks the format's rules, or has a parent.
pub fn open(file: &Arc<dyn Layer>) -> Result<Arc<dyn Layer>, BlockError> {
    let layer = file.as_ref();
    let mut header = Header::read(layer, 0)?;
    let descriptor = Descriptor::read(layer, &header)?;
    if header.directory_sector() == AT_END {
        // Footer, end-of-stream marker: the last two sectors.
        let footer = file.size().checked_sub(2 * SECTOR).ok_or_else(|| corrupt(NAME, "there is no footer"))?;
        header = Header::read(layer, footer)?;
    }
    let flags = le::<4>(&header.0, 8);
    let (capacity, grain) = (le::<8>(&header.0, 12), le::<8>(&header.0, 20));
    let entries = le::<4>(&header.0, 44);
    let compressed = flags & COMPRESSED != 0;
    if compressed && le::<2>(&header.0, 77) != 1 {
        return Err(unsupported(NAME, "grains are compressed by another way than deflate"));
    }
    // "grainSize" is a power of two above 8 sectors, "numGTEsPerGT" is 512.
    if !grain.is_power_of_two() || !(8..=1 << 12).contains(&grain) || !(1..=512).contains(&entries) {
        return Err(corrupt(NAME, format!("grains of {grain} sectors, tables of {entries} entries")));
    }
    let size = capacity.checked_mul(SECTOR).filter(|size| i64::try_from(*size).is_ok());
    let size = size.ok_or_else(|| corrupt(NAME, format!("a disk of {capacity} sectors")))?;
    let tables = capacity.div_ceil(entries * grain);
    let at = header.directory_sector().checked_mul(SECTOR);
    let at = at.ok_or_else(|| corrupt(NAME, "the grain directory is past the end of the file"))?;
    let directory = read_table::<4>(NAME, layer, at, tables)?;
    let directory: Vec<u64> =
        directory.as_chunks::<4>().0.iter().map(|entry| u64::from(u32::from_le_bytes(*entry)) * SECTOR).collect();
    let mut seen = HashSet::new();
    for table in directory.iter().filter(|table| **table != 0) {
        if table + entries * 4 > file.size() || !seen.insert(*table) {
            return Err(corrupt(NAME, format!("the grain table at {table:#x} is out of place")));
        }
    }
    let vmdk = Vmdk {
        descriptor,
        directory,
        entries,
        grain: grain * SECTOR,
        size,
        zero_grains: flags & ZERO_GRAINS != 0,
        compressed,
        table: Mutex::default(),
        unpacked: Mutex::default(),
    };
    Ok(ReadOnly::layer(file, vmdk))
}

/// What the embedded descriptor says.
struct Descriptor {
    cid: u32,
    parent_cid: u32,
    create_type: String,
}

/// `parentCID` of an image without a parent.
const NO_PARENT: u32 = 0xffff_ffff;

impl Descriptor {
    /// Reads it; an image with a parent is refused.
    fn read(file: &dyn Layer, header: &Header) -> Result<Self, BlockError> {
        let (sector, sectors) = (le::<8>(&header.0, 28), le::<8>(&header.0, 36));
        if sector == 0 {
            return Ok(Self { cid: 0, parent_cid: NO_PARENT, create_type: String::new() });
        }
        let past = || corrupt(NAME, "the descriptor is past the end of the file");
        let start = sector.checked_mul(SECTOR).filter(|start| *start < file.size()).ok_or_else(past)?;
        let len = sectors.saturating_mul(SECTOR).min(MOST_DESCRIPTOR).min(file.size() - start);
        let bytes = read_vec(file, start, len as usize)?;
        let text = String::from_utf8_lossy(&bytes);
        let value = |key: &str| {
            let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
            pairs.into_iter().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
        };
        let number = |key, default| value(key).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(default);
        let parent_cid = number("parentCID", NO_PARENT);
        if parent_cid != NO_PARENT {
            return Err(unsupported(NAME, "the image has a parent, which is not followed"));
        }
        let create_type = value("createType").unwrap_or_default().trim_matches('"').to_owned();
        Ok(Self { cid: number("CID", 0), parent_cid, create_type })
    }
}

impl Vmdk {
    fn table(&self, file: &dyn Layer, at: u64) -> Result<Arc<Vec<u32>>, BlockError> {
        let mut cached = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != at {
            let bytes = read_table::<4>(NAME, file, at, self.entries)?;
            let words = bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
            *cached = (at, Arc::new(words));
        }
        Ok(cached.1.clone())
    }

    /// A grain with its header: the sector of the disk, the packed length, the packed bytes (RFC 1950).
    /// Where the disk ends within the grain, fewer bytes than a whole one do; `wanted` must be there.
    fn unpack(&self, file: &dyn Layer, at: u64, wanted: u64) -> Result<Arc<Vec<u8>>, BlockError> {
        let mut cached = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 == at {
            return Ok(cached.1.clone());
        }
        let len = le::<4>(&read_vec(file, at, 12)?, 8);
        if len > 2 * self.grain || at + 12 + len > file.size() {
            return Err(corrupt(NAME, format!("the packed grain at {at:#x} has {len} bytes")));
        }
        let packed = read_vec(file, at + 12, len as usize)?;
        let mut bytes = vec![0; self.grain as usize];
        let mut inflate = flate2::Decompress::new(true);
        let state = inflate.decompress(&packed, &mut bytes, flate2::FlushDecompress::Finish);
        let is_whole = state.is_ok_and(|state| state == flate2::Status::StreamEnd) && inflate.total_out() >= wanted;
        if !is_whole {
            return Err(corrupt(NAME, format!("the packed grain at {at:#x} does not unpack")));
        }
        *cached = (at, Arc::new(bytes));
        Ok(cached.1.clone())
    }
}

impl Places for Vmdk {
    const DRIVER: &'static str = NAME;

    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.grain)
    }

    fn specific(&self, filename: &str) -> Option<Value> {
        let mut extent = Map::new();
        if self.compressed {
            extent.insert("compressed".into(), true.into());
        }
        extent.insert("virtual-size".into(), self.size.into());
        extent.insert("filename".into(), filename.into());
        extent.insert("cluster-size".into(), self.grain.into());
        extent.insert("format".into(), "".into());
        let Descriptor { cid, parent_cid, create_type } = &self.descriptor;
        Some(json!({ "cid": cid, "parent-cid": parent_cid, "create-type": create_type, "extents": [extent] }))
    }

    fn place(&self, file: &dyn Layer, offset: u64) -> Result<(Place, u64), BlockError> {
        let (number, within) = (offset / self.grain, offset % self.grain);
        let (first, index) = ((number / self.entries) as usize, (number % self.entries) as usize);
        let at = self.directory.get(first).copied().unwrap_or(0);
        if at == 0 {
            let rest = self.directory.get(first..).unwrap_or(&[]);
            let empty = rest.iter().take_while(|table| **table == 0).count().max(1) as u64;
            return Ok((Place::Zero, (empty * self.entries - index as u64) * self.grain - within));
        }
        let table = self.table(file, at)?;
        let rest = table.get(index..).unwrap_or(&[]);
        let is_zero = |entry: u32| entry == 0 || (entry == 1 && self.zero_grains);
        let entry = rest.first().copied().unwrap_or(0);
        if is_zero(entry) {
            let run = rest.iter().take_while(|entry| is_zero(**entry)).count().max(1) as u64;
            return Ok((Place::Zero, run * self.grain - within));
        }
        let host = u64::from(entry) * SECTOR;
        if host >= file.size() {
            return Err(corrupt(NAME, format!("the grain at {host:#x} for guest offset {offset:#x} is past the end")));
        }
        if self.compressed {
            let wanted = self.grain.min(self.size.saturating_sub(number * self.grain));
            let bytes = self.unpack(file, host, wanted)?;
            return Ok((Place::Unpacked(bytes, within as usize), self.grain - within));
        }
        let step = self.grain / SECTOR;
        let follows = |n: usize, next: u32| u64::from(next) == u64::from(entry) + n as u64 * step;
        let run = rest.iter().enumerate().take_while(|(n, next)| follows(*n, **next)).count().max(1) as u64;
        Ok((Place::At(host + within), run * self.grain - within))
    }
}
