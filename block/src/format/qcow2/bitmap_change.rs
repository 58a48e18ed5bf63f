//! Changing persistent bitmaps: the tool's `bitmap` verb.
//!
//! Every change writes new tables and a new directory beside the old ones, then points the header there, then frees the
//! old ones: a kill leaks clusters at most. The autoclear bit says that the bitmaps fit the data; where it is not set
//! before a change, what the directory holds means nothing, and the change begins with no bitmaps.

use super::bitmap::{BitmapEntry, directory};
use super::entry::OFFSET;
use super::header::{AUTOCLEAR_BITMAPS, EXT_BITMAPS, Extension, corrupt};
use super::open::read_words;
use super::refcount::Freed;
use super::{Alloc, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec};

/// Longest name, in bytes ("name_size" in the specification).
const MOST_NAME: usize = 1023;
/// Granularities that can be stored, as powers of two.
const GRANULARITIES: std::ops::RangeInclusive<u32> = 9..=31;
/// Largest bitmap that is merged in memory, in bytes.
const MOST_BYTES: u64 = 256 << 20;
/// A table entry without a cluster whose bits are all set.
const ALL_ONES: u64 = 1;

/// What is done to a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapChange {
    /// A new one, empty and enabled; bytes for one bit as a power of two, or QEMU's default.
    Add(Option<u32>),
    /// It is gone.
    Remove,
    /// All bits become 0.
    Clear,
    /// It is used when the image is.
    Enable,
    /// It is not.
    Disable,
    /// Bits of another one are added.
    Merge(Bits),
}

/// A bitmap's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits {
    /// Bytes of the disk for one bit, as a power of two.
    pub granularity_bits: u32,
    /// The bits, the lowest of each byte first.
    pub bytes: Vec<u8>,
}

impl Bits {
    /// Sets what is set in `other` for a disk of `size` bytes.
    fn merge(&mut self, other: &Self, size: u64) {
        for (n, byte) in other.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                let start = (n as u64 * 8 + bit) << other.granularity_bits;
                let end = (start + (1 << other.granularity_bits)).min(size);
                let mut at = start >> self.granularity_bits;
                while at << self.granularity_bits < end {
                    if let Some(byte) = self.bytes.get_mut((at / 8) as usize) {
                        *byte |= 1 << (at % 8);
                    }
                    at += 1;
                }
            }
        }
    }
}

fn invalid(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, text)
}

impl Qcow2 {
    /// The content of the bitmap `name`.
    ///
    /// # Errors
    /// When there is none, it was not stored after its last use, or it cannot be read.
    pub fn bitmap_bits(&self, name: &str) -> Result<Bits, BlockError> {
        let alloc = lock(&self.alloc);
        let entries = directory(self.file.as_ref(), &alloc.header)?.map_or_else(Vec::new, |(_, _, entries)| entries);
        let entry = entries.iter().find(|entry| entry.name == name).ok_or_else(|| not_found(name))?;
        if entry.in_use || alloc.header.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return Err(invalid(format!("Bitmap '{name}' is inconsistent and cannot be used")));
        }
        self.load_bits(entry)
    }

    /// Does `change` to the bitmap `name`.
    ///
    /// # Errors
    /// When the name is taken, unknown or too long, the image cannot have bitmaps, or metadata cannot be written.
    pub fn change_bitmap(&self, name: &str, change: &BitmapChange) -> Result<(), BlockError> {
        self.writable()?;
        if self.geometry.version < 3 {
            return Err(invalid("Cannot store dirty bitmaps in qcow2 v2 files"));
        }
        let sound = self.check_change(name, change)?;
        self.exclusively(|alloc| self.rewrite_bitmaps(alloc, sound, name, change))
    }

    /// Refuses what cannot be done before anything is touched: the first write to an image says that its bitmaps may
    /// be old. Gives whether the bitmaps fit the data now.
    fn check_change(&self, name: &str, change: &BitmapChange) -> Result<bool, BlockError> {
        let alloc = lock(&self.alloc);
        let sound = alloc.header.autoclear & AUTOCLEAR_BITMAPS != 0;
        let old = directory(self.file.as_ref(), &alloc.header)?.filter(|_| sound);
        let known = old.is_some_and(|(_, _, entries)| entries.iter().any(|entry| entry.name == name));
        match (change, known) {
            (BitmapChange::Add(_), true) => Err(invalid(format!("Bitmap already exists: {name}"))),
            (BitmapChange::Add(_), false) => Ok(sound),
            (_, false) => Err(not_found(name)),
            (_, true) => Ok(sound),
        }
    }

    fn rewrite_bitmaps(
        &self,
        alloc: &mut Alloc,
        sound: bool,
        name: &str,
        change: &BitmapChange,
    ) -> Result<(), BlockError> {
        let file = self.file.as_ref();
        let old = directory(file, &alloc.header)?.filter(|_| sound);
        let (old_place, mut entries) = old.map_or(((0, 0), Vec::new()), |(at, len, entries)| ((at, len), entries));
        let mut freed = Vec::new();
        if old_place.1 > 0 {
            freed.push(old_place);
        }
        let position = entries.iter().position(|entry| entry.name == name);
        match (change, position) {
            (BitmapChange::Add(granularity), _) => entries.push(self.new_bitmap(alloc, name, *granularity)?),
            (_, None) => return Err(not_found(name)),
            (BitmapChange::Remove, Some(n)) => freed.extend(self.places_of(&entries.remove(n))?),
            (BitmapChange::Enable, Some(n)) => entries[n].auto = true,
            (BitmapChange::Disable, Some(n)) => entries[n].auto = false,
            (BitmapChange::Clear, Some(n)) => {
                freed.extend(self.places_of(&entries[n])?);
                entries[n].table_offset = self.put_table(alloc, &vec![0; entries[n].table_size as usize])?;
            }
            (BitmapChange::Merge(bits), Some(n)) => {
                let mut sum = self.load_bits(&entries[n])?;
                sum.merge(bits, self.size());
                freed.extend(self.places_of(&entries[n])?);
                entries[n].table_offset = self.store_bits(alloc, &sum)?;
            }
        }
        self.switch_directory(alloc, &entries)?;
        for (offset, len) in freed {
            let clusters = len.div_ceil(self.geometry.cluster());
            alloc.counts.release(file, Freed { offset, clusters, discard: false })?;
        }
        Ok(())
    }

    fn new_bitmap(&self, alloc: &mut Alloc, name: &str, granularity: Option<u32>) -> Result<BitmapEntry, BlockError> {
        if name.is_empty() || name.len() > MOST_NAME {
            return Err(invalid("Bitmap name too long or empty"));
        }
        // QEMU's default: a cluster, from 4 KiB to 64 KiB.
        let granularity = granularity.unwrap_or(self.geometry.cluster_bits.clamp(12, 16));
        if !GRANULARITIES.contains(&granularity) {
            return Err(invalid("Granularity must be a power of two from 512 bytes to 2 GiB"));
        }
        let bytes = self.size().div_ceil(1 << granularity).div_ceil(8);
        let entries = bytes.div_ceil(self.geometry.cluster());
        let table_size = u32::try_from(entries).ok().filter(|_| bytes <= MOST_BYTES * 8);
        let table_size =
            table_size.ok_or_else(|| invalid("the bitmap would be too large: take a larger granularity"))?;
        Ok(BitmapEntry {
            name: name.to_owned(),
            granularity_bits: granularity as u8,
            in_use: false,
            auto: true,
            table_offset: self.put_table(alloc, &vec![0; table_size as usize])?,
            table_size,
        })
    }

    /// The ranges of the file that belong to a bitmap.
    fn places_of(&self, entry: &BitmapEntry) -> Result<Vec<(u64, u64)>, BlockError> {
        let mut places = vec![(entry.table_offset, u64::from(entry.table_size) * 8)];
        let table = read_words(self.file.as_ref(), entry.table_offset, u64::from(entry.table_size))?;
        let clusters = table.iter().map(|word| word & OFFSET).filter(|offset| *offset != 0);
        places.extend(clusters.map(|offset| (offset, self.geometry.cluster())));
        places.retain(|(_, len)| *len > 0);
        Ok(places)
    }

    fn load_bits(&self, entry: &BitmapEntry) -> Result<Bits, BlockError> {
        let cluster = self.geometry.cluster();
        let granularity_bits = u32::from(entry.granularity_bits);
        if !GRANULARITIES.contains(&granularity_bits) {
            return Err(corrupt(format!("bitmap '{}' has the granularity 2^{granularity_bits}", entry.name)));
        }
        let len = self.size().div_ceil(1 << granularity_bits).div_ceil(8);
        if len.div_ceil(cluster) > u64::from(entry.table_size) || len > MOST_BYTES {
            return Err(corrupt(format!("the table of bitmap '{}' does not fit the disk", entry.name)));
        }
        let mut bytes = vec![0; len as usize];
        let table = read_words(self.file.as_ref(), entry.table_offset, u64::from(entry.table_size))?;
        for (part, word) in bytes.chunks_mut(cluster as usize).zip(table) {
            match word & OFFSET {
                0 if word & ALL_ONES != 0 => part.fill(0xff),
                0 => {}
                offset => part.copy_from_slice(&read_vec(self.file.as_ref(), offset, part.len())?),
            }
        }
        Ok(Bits { granularity_bits, bytes })
    }

    /// Writes bits to new clusters, but for those that are all 0 or all 1; gives the new table's place.
    fn store_bits(&self, alloc: &mut Alloc, bits: &Bits) -> Result<u64, BlockError> {
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
        self.put_table(alloc, &table)
    }

    fn put_table(&self, alloc: &mut Alloc, words: &[u64]) -> Result<u64, BlockError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.write_table(alloc, &bytes)
    }

    /// Writes the directory, makes all that is new durable, and points the header there.
    fn switch_directory(&self, alloc: &mut Alloc, entries: &[BitmapEntry]) -> Result<(), BlockError> {
        let bytes: Vec<u8> = entries.iter().flat_map(encode).collect();
        let offset = self.write_table(alloc, &bytes)?;
        self.write_counts(alloc)?;
        self.file.flush()?;
        let mut header = alloc.header.clone();
        header.extensions.retain(|extension| extension.kind != EXT_BITMAPS);
        header.autoclear &= !AUTOCLEAR_BITMAPS;
        if !entries.is_empty() {
            let mut data = (entries.len() as u32).to_be_bytes().to_vec();
            data.extend([0; 4]);
            data.extend((bytes.len() as u64).to_be_bytes());
            data.extend(offset.to_be_bytes());
            header.extensions.push(Extension { kind: EXT_BITMAPS, data });
            header.autoclear |= AUTOCLEAR_BITMAPS;
        }
        self.switch_header(alloc, 0, &header.encode()?)?;
        alloc.header = header;
        Ok(())
    }
}

fn not_found(name: &str) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("Dirty bitmap '{name}' not found"))
}

/// One directory entry ("Bitmap directory"), padded to 8 bytes.
fn encode(entry: &BitmapEntry) -> Vec<u8> {
    let flags = u32::from(entry.in_use) | u32::from(entry.auto) << 1;
    let mut out = entry.table_offset.to_be_bytes().to_vec();
    out.extend(entry.table_size.to_be_bytes());
    out.extend(flags.to_be_bytes());
    // Type 1: dirty tracking.
    out.extend([1, entry.granularity_bits]);
    out.extend((entry.name.len() as u16).to_be_bytes());
    out.extend([0; 4]);
    out.extend(entry.name.as_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
    out
}
