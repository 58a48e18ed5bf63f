//! Persistent dirty bitmaps ("Bitmaps" in the specification): where they are in the file.

use serde::Serialize;

use super::Alloc;
use super::bitmap_live::{Live, MOST_BYTES, Tracked};
use super::header::{AUTOCLEAR_BITMAPS, EXT_BITMAPS, Header, corrupt};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

/// Largest bitmap directory and table, in bytes.
const MOST_DIRECTORY: u64 = 64 << 20;
const MOST_TABLE_ENTRIES: u64 = (32 << 20) / 8;
pub(super) const MOST_BITMAPS: u32 = 65535;
/// Bytes of the disk for one bit, as powers of two.
pub(super) const GRANULARITIES: std::ops::RangeInclusive<u8> = 9..=31;

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

/// The directory: offset and bytes, and its entries. None where the autoclear bit is clear, too: another program has
/// written to the image, so they say nothing, and their clusters are nobody's.
pub(super) fn directory(file: &dyn Layer, header: &Header) -> Result<Option<(u64, u64, Vec<BitmapEntry>)>, BlockError> {
    if header.autoclear & AUTOCLEAR_BITMAPS == 0 {
        return Ok(None);
    }
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
        if u64::from(entry.table_size) << header.cluster_bits > MOST_BYTES as u64 {
            return Err(corrupt(format!("Bitmap '{}' doesn't satisfy the constraints", entry.name)));
        }
        if !GRANULARITIES.contains(&entry.granularity_bits) {
            return Err(corrupt(format!("bitmap '{}' has the granularity 2^{}", entry.name, entry.granularity_bits)));
        }
        entries.push(entry);
        at += (24 + extra + name_len).next_multiple_of(8);
    }
    Ok(Some((offset, bytes, entries)))
}

/// Names all byte ranges that bitmaps take, for the check: offset and length. The work is bounded by the file's size.
pub(super) fn ranges(file: &dyn Layer, header: &Header, mut name: impl FnMut(u64, u64)) -> Result<(), BlockError> {
    let Some((offset, bytes, entries)) = directory(file, header)? else { return Ok(()) };
    name(offset, bytes);
    let mut tables = 0;
    for entry in entries {
        let size = u64::from(entry.table_size) * 8;
        // They cannot overlap, so together they fit into the file.
        tables += size;
        if tables > file.size() {
            return Err(corrupt(format!("with bitmap '{}' the tables are together larger than the file", entry.name)));
        }
        name(entry.table_offset, size);
        let table = super::open::read_words(file, entry.table_offset, u64::from(entry.table_size))?;
        let clusters = table.iter().map(|w| w & super::entry::OFFSET).filter(|offset| *offset != 0);
        clusters.for_each(|offset| name(offset, header.cluster_size()));
    }
    Ok(())
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

    /// All bitmaps, those in memory and those of the file, as `query-block` tells of them; those of the file are not
    /// among them if its directory cannot be read.
    ///
    /// The bits of the file are counted once, O(bytes of bitmaps, of at most 512 MiB altogether), and no more
    /// until they change.
    pub fn dirty_bitmaps(&self) -> Vec<DirtyBitmap> {
        let alloc = super::lock(&self.alloc);
        let mut tracked = super::lock(&self.tracked);
        let told = |live: &Live| DirtyBitmap {
            busy: live.taken.is_some(),
            persistent: live.persistent,
            ..DirtyBitmap::of(&live.entry, live.all_bits(self.size()).map(|bits| bits.count()))
        };
        let mut all: Vec<_> = tracked.live.iter().map(told).collect();
        if !tracked.loaded {
            let Tracked { live, in_file, taken_in_file, .. } = &mut *tracked;
            let in_file = in_file.get_or_insert_with(|| self.count_stored(&alloc).unwrap_or_default());
            let in_memory = |bitmap: &DirtyBitmap| live.iter().any(|live| live.entry.name == bitmap.name);
            let busy = |name| taken_in_file.contains(name);
            let others = in_file.iter().filter(|bitmap| !in_memory(bitmap));
            all.extend(others.map(|bitmap| DirtyBitmap { busy: busy(&bitmap.name), ..bitmap.clone() }));
        }
        all
    }

    /// What is to be told of the bitmaps that only the file has.
    fn count_stored(&self, alloc: &Alloc) -> Result<Vec<DirtyBitmap>, BlockError> {
        let Some((_, _, entries)) = directory(self.file.as_ref(), &alloc.header)? else { return Ok(Vec::new()) };
        let mut left = MOST_BYTES as u64;
        let mut told = |entry: &BitmapEntry| {
            // One that cannot be read is as good as one that was not stored.
            let affordable = !entry.in_use && take(&mut left, self.bits_len(entry).ok()?).is_some();
            if affordable { self.count_bits(entry).ok() } else { None }
        };
        Ok(entries.iter().map(|entry| DirtyBitmap::of(entry, told(entry))).collect())
    }
}

/// Takes `len` of what is `left`, if there is as much.
fn take(left: &mut u64, len: u64) -> Option<()> {
    *left = left.checked_sub(len)?;
    Some(())
}

impl DirtyBitmap {
    /// A bitmap of the file that nobody has in his hands, with how many bits are set: None if they mean nothing.
    fn of(entry: &BitmapEntry, bits: Option<u64>) -> Self {
        let granularity = 1 << entry.granularity_bits;
        Self {
            name: entry.name.clone(),
            count: bits.map_or(0, |bits| bits * granularity),
            granularity,
            recording: entry.auto && bits.is_some(),
            busy: false,
            persistent: true,
            inconsistent: bits.is_none().then_some(true),
        }
    }
}
