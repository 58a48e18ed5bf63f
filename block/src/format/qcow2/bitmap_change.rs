//! Changing bitmaps: the tool's `bitmap` verb, and a machine's `block-dirty-bitmap-*`.
//!
//! Changes of those that the file is to have are made in
//! memory (`bitmap_live.rs`) and stored when the image is closed: new tables and a new directory beside the old ones, then the header points there, then the old ones are freed. A kill leaks clusters at most, and
//! leaves bitmaps that say that they were in use.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::bitmap::{BitmapEntry, GRANULARITIES, MOST_BITMAPS, directory};
use super::bitmap_live::Live;
use super::entry::OFFSET;
use super::header::{AUTOCLEAR_BITMAPS, EXT_BITMAPS, Extension, corrupt};
use super::open::read_words;
use super::overlap::Kind;
use super::{Alloc, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec};

/// Longest name, in bytes ("name_size" in the specification).
const MOST_NAME: usize = 1023;
/// Largest bitmap that is merged in memory, in bytes.
const MOST_BYTES: u64 = 256 << 20;
/// A table entry without a cluster whose bits are all set.
const ALL_ONES: u64 = 1;

/// What is done to a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapChange {
    /// A new one, empty.
    Add(NewBitmap),
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

/// A bitmap that does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewBitmap {
    /// Bytes for one bit as a power of two; QEMU's default without.
    pub granularity_bits: Option<u32>,
    /// The file is to have it.
    pub persistent: bool,
    /// It records changes of the disk.
    pub enabled: bool,
}

impl NewBitmap {
    /// One that the file is to have and that records, as the tool makes them.
    #[must_use]
    pub fn stored(granularity_bits: Option<u32>) -> Self {
        Self { granularity_bits, persistent: true, enabled: true }
    }
}

/// Bytes of a bitmap of the file.
enum Part<'a> {
    /// So many of the same.
    All(u8, usize),
    Bytes(&'a [u8]),
}

/// What a bitmap was before a change: nothing, or itself.
pub struct FormerBitmap(Option<Live>);

/// A bitmap's content; none without any bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    /// Bytes of the disk for one bit, as a power of two.
    pub granularity_bits: u32,
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

    /// Makes it one for a disk of `size` bytes, new bits clear; false if it was.
    pub(super) fn fit(&mut self, size: u64) -> bool {
        let bits = size.div_ceil(1 << self.granularity_bits);
        let bytes = bits.div_ceil(8) as usize;
        if self.bytes.len() == bytes {
            return false;
        }
        self.bytes.resize(bytes, 0);
        // What a smaller disk no longer has must not come back when it grows.
        if let (Some(last), rest @ 1..) = (self.bytes.last_mut(), bits % 8) {
            *last &= (1 << rest) - 1;
        }
        true
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

fn count_ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
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
        let tracked = lock(&self.tracked);
        if let Some(live) = tracked.get(name) {
            return live.all_bits(self.size()).map(Cow::into_owned).ok_or_else(|| inconsistent(name));
        }
        if tracked.loaded {
            return Err(not_found(name));
        }
        let entries = directory(self.file.as_ref(), &alloc.header)?.map_or_else(Vec::new, |(_, _, entries)| entries);
        let entry = entries.iter().find(|entry| entry.name == name).ok_or_else(|| not_found(name))?;
        if entry.in_use || alloc.header.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return Err(inconsistent(name));
        }
        self.load_bits(entry)
    }

    /// Does `change` to the bitmap `name`; the file has it when the image is closed. Gives what was there before, for
    /// [`Qcow2::put_bitmap_back`].
    ///
    /// # Errors
    /// When the name is taken, unknown or too long, somebody has the bitmap in his hands, the image cannot have bitmaps,
    /// or metadata cannot be written.
    pub fn change_bitmap(&self, name: &str, change: &BitmapChange) -> Result<FormerBitmap, BlockError> {
        let in_memory = match change {
            BitmapChange::Add(new) => !new.persistent,
            _ => lock(&self.tracked).get(name).is_some_and(|live| !live.persistent),
        };
        if !in_memory {
            self.writable()?;
            if !self.can_have_bitmaps() {
                return Err(invalid("Cannot store dirty bitmaps in qcow2 v2 files"));
            }
        }
        self.check_change(name, change)?;
        if !in_memory {
            self.touch()?;
        }
        let mut tracked = lock(&self.tracked);
        tracked.loaded |= !in_memory;
        let former = match (change, tracked.find(name)) {
            (BitmapChange::Add(new), _) => {
                let persistent = tracked.live.iter().filter(|live| live.persistent).count();
                if new.persistent && persistent >= MOST_BITMAPS as usize {
                    return Err(invalid("Maximum number of persistent bitmaps is already reached"));
                }
                let new = self.new_bitmap(name, *new)?;
                tracked.live.push(new);
                None
            }
            (_, None) => return Err(not_found(name)),
            (_, Some(n)) if tracked.live[n].taken.is_some() => return Err(in_use(name)),
            (BitmapChange::Remove, Some(n)) => {
                let gone = tracked.live.remove(n);
                tracked.freed.extend(self.places_of(&gone.entry)?);
                Some(gone)
            }
            (BitmapChange::Enable, Some(n)) => Some(tracked.live[n].enable(true)),
            (BitmapChange::Disable, Some(n)) => Some(tracked.live[n].enable(false)),
            (BitmapChange::Clear, Some(n)) => Some(tracked.live[n].change_bits(|bits| bits.bytes.fill(0))?),
            (BitmapChange::Merge(more), Some(n)) => {
                Some(tracked.live[n].change_bits(|bits| bits.merge(more, self.size()))?)
            }
        };
        tracked.changed |= !in_memory;
        self.tracking.store(tracked.records(), Ordering::Release);
        Ok(FormerBitmap(former))
    }

    /// Takes the last change of the bitmap `name` back. One that was removed is not made again.
    pub fn put_bitmap_back(&self, name: &str, former: FormerBitmap) {
        let mut tracked = lock(&self.tracked);
        match (tracked.find(name), former.0) {
            (Some(place), Some(live)) => tracked.live[place] = live,
            // It was new: nothing of it is in the file.
            (Some(place), None) => drop(tracked.live.remove(place)),
            (None, _) => {}
        }
        self.tracking.store(tracked.records(), Ordering::Release);
    }

    /// Takes the bitmap `name` into somebody's hands: gives its bits, of which it keeps none if `clear`. Until
    /// [`Qcow2::give_bitmap_back`] nobody else changes it.
    ///
    /// # Errors
    /// As [`Qcow2::change_bitmap`].
    pub fn take_bitmap(&self, name: &str, clear: bool) -> Result<Bits, BlockError> {
        if clear {
            // A change, though one that may come back: what the file has must be loaded, and no longer counts.
            self.change_bitmap(name, &BitmapChange::Merge(Bits::default()))?;
        }
        let bits = self.bitmap_bits(name)?;
        let mut tracked = lock(&self.tracked);
        let Some(live) = tracked.find(name).map(|n| &mut tracked.live[n]) else {
            // It is only in the file, which nobody changes.
            return Ok(bits);
        };
        if live.taken.is_some() {
            return Err(in_use(name));
        }
        live.taken = Some(bits.clone());
        if let Some(own) = live.bits.as_mut().filter(|_| clear) {
            own.bytes.fill(0);
        }
        Ok(bits)
    }

    /// Ends what [`Qcow2::take_bitmap`] began; `left` of the bits are set again.
    pub fn give_bitmap_back(&self, name: &str, left: Option<&Bits>) {
        let mut tracked = lock(&self.tracked);
        let Some(live) = tracked.find(name).map(|n| &mut tracked.live[n]) else { return };
        live.taken = None;
        if let (Some(bits), Some(left)) = (&mut live.bits, left) {
            bits.merge(left, self.size());
            live.stored = false;
        }
    }

    /// Refuses a bitmap that is not there, or that somebody has in his hands.
    ///
    /// # Errors
    /// It is so.
    pub fn check_bitmap(&self, name: &str) -> Result<(), BlockError> {
        self.check_change(name, &BitmapChange::Remove)?;
        let taken = lock(&self.tracked).get(name).is_some_and(|live| live.taken.is_some());
        if taken { Err(in_use(name)) } else { Ok(()) }
    }

    /// Refuses what cannot be done before anything is touched.
    fn check_change(&self, name: &str, change: &BitmapChange) -> Result<(), BlockError> {
        let tracked = lock(&self.tracked);
        let (live, in_memory) = (tracked.loaded, tracked.find(name).is_some());
        drop(tracked);
        let sound = live || lock(&self.alloc).header.autoclear & AUTOCLEAR_BITMAPS != 0;
        let known = in_memory || sound && self.bitmaps()?.iter().any(|entry| entry.name == name);
        match (change, known) {
            (BitmapChange::Add(_), true) => Err(invalid(format!("Bitmap already exists: {name}"))),
            (BitmapChange::Add(_), false) | (_, true) => Ok(()),
            (_, false) => Err(not_found(name)),
        }
    }

    fn new_bitmap(&self, name: &str, new: NewBitmap) -> Result<Live, BlockError> {
        if name.is_empty() || name.len() > MOST_NAME {
            return Err(invalid("Bitmap name too long or empty"));
        }
        // QEMU's default: a cluster, from 4 KiB to 64 KiB.
        let granularity = new.granularity_bits.unwrap_or(self.geometry.cluster_bits.clamp(12, 16));
        if !u8::try_from(granularity).is_ok_and(|bits| GRANULARITIES.contains(&bits)) {
            return Err(invalid("Granularity must be a power of two from 512 bytes to 2 GiB"));
        }
        let bytes = self.size().div_ceil(1 << granularity).div_ceil(8);
        if bytes > MOST_BYTES {
            return Err(invalid("the bitmap would be too large: take a larger granularity"));
        }
        let entry = BitmapEntry {
            name: name.to_owned(),
            granularity_bits: granularity as u8,
            in_use: false,
            auto: new.enabled,
            table_offset: 0,
            table_size: 0,
        };
        let bits = Bits { granularity_bits: granularity, bytes: vec![0; bytes as usize] };
        Ok(Live { entry, bits: Some(bits), stored: false, persistent: new.persistent, taken: None })
    }

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
        let mut bytes = Vec::with_capacity(self.bits_len(entry)? as usize);
        self.read_bits(entry, |part| match part {
            Part::All(byte, len) => bytes.resize(bytes.len() + len, byte),
            Part::Bytes(part) => bytes.extend_from_slice(part),
        })?;
        Ok(Bits { granularity_bits: entry.granularity_bits.into(), bytes })
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

    /// Gives the bytes of a bitmap of the file to `take`, a cluster at a time.
    fn read_bits(&self, entry: &BitmapEntry, mut take: impl FnMut(Part<'_>)) -> Result<(), BlockError> {
        let cluster = self.geometry.cluster();
        let len = self.bits_len(entry)?;
        let table = read_words(self.file.as_ref(), entry.table_offset, len.div_ceil(cluster))?;
        for (at, word) in (0..len).step_by(cluster as usize).zip(table) {
            let part = (len - at).min(cluster) as usize;
            match word & OFFSET {
                0 if word & ALL_ONES != 0 => take(Part::All(0xff, part)),
                0 => take(Part::All(0, part)),
                offset => take(Part::Bytes(&read_vec(self.file.as_ref(), offset, part)?)),
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

    /// Writes the directory, makes all that is new durable, and points the header there.
    pub(super) fn switch_directory(&self, alloc: &mut Alloc, entries: &[BitmapEntry]) -> Result<(), BlockError> {
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
        self.guard.metadata.replace(Kind::BitmapDirectory, offset..offset + bytes.len() as u64);
        Ok(())
    }
}

impl Live {
    fn former(&self) -> Self {
        let (entry, bits) = (self.entry.clone(), self.bits.clone());
        Self { entry, bits, stored: self.stored, persistent: self.persistent, taken: None }
    }

    fn enable(&mut self, enabled: bool) -> Self {
        let former = self.former();
        self.entry.auto = enabled;
        former
    }

    fn change_bits(&mut self, change: impl FnOnce(&mut Bits)) -> Result<Self, BlockError> {
        let former = self.former();
        change(self.bits.as_mut().ok_or_else(|| inconsistent(&self.entry.name))?);
        self.stored = false;
        Ok(former)
    }
}

fn in_use(name: &str) -> BlockError {
    invalid(format!("Bitmap '{name}' is currently in use by another operation and cannot be used"))
}

fn inconsistent(name: &str) -> BlockError {
    invalid(format!("Bitmap '{name}' is inconsistent and cannot be used"))
}

fn not_found(name: &str) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("Dirty bitmap '{name}' not found"))
}

/// One directory entry ("Bitmap directory"), padded to 8 bytes.
pub(super) fn encode(entry: &BitmapEntry) -> Vec<u8> {
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
