//! Changing bitmaps: the tool's `bitmap` verb, and a machine's `block-dirty-bitmap-*`.
//!
//! Changes of those that the file is to have are made in memory (`bitmap_live.rs`) and stored when the image is closed:
//! new tables and a new directory beside the old ones, then the header points there, then the old ones are freed. A kill
//! leaks clusters at most, and leaves bitmaps that say that they were in use.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::bitmap::{BitmapEntry, GRANULARITIES, MOST_BITMAPS, directory};
use super::bitmap_bits::{Bits, MOST_BYTES};
use super::bitmap_live::{Live, Tracked};
use super::header::{AUTOCLEAR_BITMAPS, EXT_BITMAPS, Extension};
use super::overlap::Kind;
use super::{Alloc, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::Layer;

/// Longest name, in bytes ("name_size" in the specification).
const MOST_NAME: usize = 1023;

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

/// What a bitmap was before a change, nothing or itself, as long as the change may be taken back.
pub struct FormerBitmap {
    live: Option<Live>,
    /// What the disk has changed since.
    since: Option<Arc<Mutex<Bits>>>,
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
        if entry.in_use {
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
        let live = match (change, tracked.find(name)) {
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
            (BitmapChange::Enable, Some(n)) => Some(tracked.live[n].enable(true)?),
            (BitmapChange::Disable, Some(n)) => Some(tracked.live[n].enable(false)?),
            (BitmapChange::Clear, Some(n)) => Some(tracked.live[n].change_bits(|bits| bits.bytes.fill(0))?),
            (BitmapChange::Merge(more), Some(n)) => {
                self.check_merge(more)?;
                Some(tracked.live[n].change_bits(|bits| bits.merge(more, self.size()))?)
            }
        };
        tracked.changed |= !in_memory;
        let since = live.as_ref().and_then(|former| tracked.keep_since(former));
        self.tracking.store(tracked.records(), Ordering::Release);
        Ok(FormerBitmap { live, since })
    }

    /// Refuses bits that cannot be merged into a bitmap of this image.
    ///
    /// # Errors
    /// They are of a disk of another size.
    pub fn check_merge(&self, more: &Bits) -> Result<(), BlockError> {
        if *more == Bits::default() || more.size == self.size() {
            return Ok(());
        }
        Err(invalid(format!(
            "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
            self.size(),
            more.size
        )))
    }

    /// Takes the last change of the bitmap `name` back. What the disk has changed since stays in a bitmap that recorded
    /// before. One that was removed is not made again.
    pub fn put_bitmap_back(&self, name: &str, former: FormerBitmap) {
        let mut tracked = lock(&self.tracked);
        match (tracked.find(name), former.live) {
            (Some(place), Some(mut live)) => {
                let since = former.since.as_ref().filter(|_| live.entry.auto).map(|since| lock(since));
                if let (Some(bits), Some(since)) = (&mut live.bits, since.filter(|since| since.count() > 0)) {
                    bits.merge(&since, self.size());
                    live.stored = false;
                }
                tracked.live[place] = live;
            }
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
            // It is only in the file, until the first write.
            if tracked.taken_in_file.iter().any(|taken| taken == name) {
                return Err(in_use(name));
            }
            tracked.taken_in_file.push(name.to_owned());
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
        tracked.taken_in_file.retain(|taken| taken != name);
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
        if lock(&self.tracked).is_taken(name) { Err(in_use(name)) } else { Ok(()) }
    }

    /// Whether the bitmap `name` records changes of the disk.
    ///
    /// # Errors
    /// As [`Qcow2::bitmaps`].
    pub fn is_recording(&self, name: &str) -> Result<bool, BlockError> {
        if let Some(live) = lock(&self.tracked).get(name) {
            return Ok(live.entry.auto);
        }
        Ok(self.bitmaps()?.iter().any(|entry| entry.name == name && entry.auto))
    }

    /// Looks at the bits of the bitmap `name` as of now, if they are in memory.
    pub(crate) fn with_bits<T>(&self, name: &str, look: impl FnOnce(&Bits) -> T) -> Option<T> {
        lock(&self.tracked).get(name)?.bits.as_ref().map(look)
    }

    /// Refuses what cannot be done before anything is touched.
    fn check_change(&self, name: &str, change: &BitmapChange) -> Result<(), BlockError> {
        let in_memory = lock(&self.tracked).find(name).is_some();
        let known = in_memory || self.bitmaps()?.iter().any(|entry| entry.name == name);
        match (change, known) {
            (BitmapChange::Add(_), true) => Err(invalid(format!("Bitmap already exists: {name}"))),
            (BitmapChange::Add(_), false) | (_, true) => Ok(()),
            (_, false) => Err(not_found(name)),
        }
    }

    fn new_bitmap(&self, name: &str, new: NewBitmap) -> Result<Live, BlockError> {
        if name.is_empty() {
            return Err(invalid("Bitmap name cannot be empty"));
        }
        if name.len() > MOST_NAME {
            return Err(invalid(format!("Bitmap name too long: {name}")));
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
        let bits = Bits { granularity_bits: granularity, size: self.size(), bytes: vec![0; bytes as usize] };
        Ok(Live::new(entry, Some(bits), false, new.persistent))
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

impl Tracked {
    /// From now on has what the disk changes noted beside the bitmap that was `former`, until what this gives is dropped;
    /// one that is gone, or has no bits, does not note anything.
    fn keep_since(&mut self, former: &Live) -> Option<Arc<Mutex<Bits>>> {
        let live = self.live.iter_mut().find(|live| live.entry.name == former.entry.name)?;
        if let Some(since) = live.since.upgrade() {
            return Some(since);
        }
        let bits = former.bits.as_ref()?;
        let since = Arc::new(Mutex::new(Bits { bytes: vec![0; bits.bytes.len()], ..*bits }));
        live.since = Arc::downgrade(&since);
        Some(since)
    }
}

impl Live {
    fn former(&self) -> Self {
        let (entry, bits) = (self.entry.clone(), self.bits.clone());
        Self { since: self.since.clone(), ..Self::new(entry, bits, self.stored, self.persistent) }
    }

    fn enable(&mut self, enabled: bool) -> Result<Self, BlockError> {
        if self.bits.is_none() {
            return Err(inconsistent(&self.entry.name));
        }
        let former = self.former();
        self.entry.auto = enabled;
        Ok(former)
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
        .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk")
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
