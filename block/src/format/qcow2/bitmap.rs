//! Persistent dirty bitmaps ("Bitmaps" in the specification): where they are in the file.

use serde::Serialize;

use super::header::{EXT_BITMAPS, Header, corrupt};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

/// Largest bitmap directory and table, in bytes.
const MOST_DIRECTORY: u64 = 64 << 20;
const MOST_TABLE_ENTRIES: u64 = (32 << 20) / 8;
const MOST_BITMAPS: u32 = 65535;

/// One entry of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapEntry {
    /// Its name.
    pub name: String,
    /// Bytes of the disk for one bit, as a power of two.
    pub granularity_bits: u8,
    /// It was not stored after the last use: its content means nothing.
    pub in_use: bool,
    /// It is enabled when the image is opened.
    pub auto: bool,
    pub(super) table_offset: u64,
    pub(super) table_size: u32,
}

/// `BlockDirtyInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirtyBitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that it says have changed.
    pub count: u64,
    /// Bytes of the disk for one bit.
    pub granularity: u64,
    /// It records changes of the disk.
    pub recording: bool,
    /// Somebody has it in his hands.
    pub busy: bool,
    /// The file has it, or is to have it.
    pub persistent: bool,
    /// It was not stored after its last use: its content means nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inconsistent: Option<bool>,
}

/// The directory: offset and bytes, and its entries.
pub(super) fn directory(file: &dyn Layer, header: &Header) -> Result<Option<(u64, u64, Vec<BitmapEntry>)>, BlockError> {
    let Some(extension) = header.extensions.iter().find(|e| e.kind == EXT_BITMAPS) else { return Ok(None) };
    let be = |bytes: &[u8], at: usize, len: usize| {
        bytes.get(at..at + len).map_or(0, |b| b.iter().fold(0u64, |v, b| v << 8 | u64::from(*b)))
    };
    let (count, bytes, offset) = (be(&extension.data, 0, 4), be(&extension.data, 8, 8), be(&extension.data, 16, 8));
    if extension.data.len() != 24 || count > u64::from(MOST_BITMAPS) || bytes > MOST_DIRECTORY || offset >> 56 != 0 {
        return Err(corrupt("the bitmaps extension is broken"));
    }
    let data = read_vec(file, offset, bytes as usize)?;
    let mut entries = Vec::new();
    let mut at = 0;
    for n in 0..count {
        let head = data.get(at..at + 24).ok_or_else(|| corrupt(format!("bitmap {n} is past the directory")))?;
        let (name_len, extra) = (be(head, 18, 2) as usize, be(head, 20, 4) as usize);
        let name = data.get(at + 24 + extra..at + 24 + extra + name_len);
        let name = name.ok_or_else(|| corrupt(format!("bitmap {n} is past the directory")))?;
        let flags = be(head, 12, 4);
        let entry = BitmapEntry {
            name: String::from_utf8_lossy(name).into_owned(),
            granularity_bits: head[17],
            in_use: flags & 1 != 0,
            auto: flags & 2 != 0,
            table_offset: be(head, 0, 8),
            table_size: be(head, 8, 4) as u32,
        };
        if u64::from(entry.table_size) > MOST_TABLE_ENTRIES || entry.table_offset >> 56 != 0 {
            return Err(corrupt(format!("bitmap '{}' has an impossible table", entry.name)));
        }
        entries.push(entry);
        at += (24 + extra + name_len).next_multiple_of(8);
    }
    Ok(Some((offset, bytes, entries)))
}

/// All byte ranges that bitmaps take, for the check.
pub(super) fn ranges(file: &dyn Layer, header: &Header) -> Result<Vec<(u64, u64)>, BlockError> {
    let Some((offset, bytes, entries)) = directory(file, header)? else { return Ok(Vec::new()) };
    let mut ranges = vec![(offset, bytes)];
    for entry in entries {
        ranges.push((entry.table_offset, u64::from(entry.table_size) * 8));
        let table = super::open::read_words(file, entry.table_offset, u64::from(entry.table_size))?;
        let clusters = table.iter().map(|w| w & super::entry::OFFSET).filter(|offset| *offset != 0);
        ranges.extend(clusters.map(|offset| (offset, header.cluster_size())));
    }
    Ok(ranges)
}

impl super::Qcow2 {
    /// Whether the image can have bitmaps: from version 3 on.
    #[must_use]
    pub fn can_have_bitmaps(&self) -> bool {
        self.geometry.version >= 3
    }

    /// The persistent bitmaps of the image.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn bitmaps(&self) -> Result<Vec<BitmapEntry>, BlockError> {
        let alloc = super::lock(&self.alloc);
        let tracked = super::lock(&self.tracked);
        if tracked.loaded {
            let persistent = tracked.live.iter().filter(|live| live.persistent);
            return Ok(persistent.map(|live| live.entry.clone()).collect());
        }
        Ok(directory(self.file.as_ref(), &alloc.header)?.map_or_else(Vec::new, |(_, _, entries)| entries))
    }

    /// All bitmaps, those of the file and those in memory, as `query-block` tells of them.
    ///
    /// # Errors
    /// When those of the file cannot be read.
    pub fn dirty_bitmaps(&self) -> Result<Vec<DirtyBitmap>, BlockError> {
        let stored = self.bitmaps()?;
        let in_memory: Vec<_> = {
            let tracked = super::lock(&self.tracked);
            tracked.live.iter().map(|live| (live.entry.clone(), live.persistent, live.taken.is_some())).collect()
        };
        let unloaded = stored.into_iter().filter(|entry| in_memory.iter().all(|(known, ..)| known.name != entry.name));
        let unloaded: Vec<_> = unloaded.map(|entry| (entry, true, false)).collect();
        let all = in_memory.into_iter().chain(unloaded);
        Ok(all.map(|(entry, persistent, busy)| self.dirty_bitmap(&entry, persistent, busy)).collect())
    }

    fn dirty_bitmap(&self, entry: &BitmapEntry, persistent: bool, busy: bool) -> DirtyBitmap {
        // One that cannot be read is as good as one that was not stored.
        let bits = self.bitmap_bits(&entry.name).ok();
        let granularity = 1 << entry.granularity_bits;
        DirtyBitmap {
            name: entry.name.clone(),
            count: bits.as_ref().map_or(0, |bits| bits.count() * granularity),
            granularity,
            recording: entry.auto && bits.is_some(),
            busy,
            persistent,
            inconsistent: bits.is_none().then_some(true),
        }
    }
}
