//! Bitmaps while the image is in use ("Bitmaps" in the specification).
//!
//! The first write loads them and says in the file that they are in use; from then on every change of the disk sets bits
//! of those that record. Closing stores them. After a kill the file still says "in use", so nobody takes old bits for
//! true. Bitmaps that cannot be kept up (broken, or too large) lose their autoclear bit, as the specification asks of a
//! program that does not know them. Beside those of the file there may be some that are only in memory.
//!
//! A job may take a bitmap into its hands: it works on the bits of that moment, and the bitmap goes on recording. What
//! the job has not done comes back; where the image is closed before that, the file gets all of it.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, Weak};

use super::bitmap::{BitmapEntry, DirtyBitmap, directory};
use super::bitmap_bits::Bits;
use super::bitmap_change::encode;
use super::overlap::Kinds;
use super::refcount::Freed;
use super::{Alloc, Qcow2, lock};
use crate::error::BlockError;
use crate::layer::Layer;

/// Most bytes of bitmaps in memory, all together.
pub(super) const MOST_BYTES: usize = 512 << 20;

/// One bitmap in memory.
pub(super) struct Live {
    pub(super) entry: BitmapEntry,
    /// None when it was not stored after its last use: it is kept as it is.
    pub(super) bits: Option<Bits>,
    /// The file has these bits.
    pub(super) stored: bool,
    /// The file is to have them.
    pub(super) persistent: bool,
    /// What somebody has taken into his hands: nobody else changes the bitmap meanwhile.
    pub(super) taken: Option<Bits>,
    /// What the disk changed since a change of the bitmap that may be taken back, as long as that may be.
    pub(super) since: Weak<Mutex<Bits>>,
}

impl Live {
    /// One that nobody has in his hands and that nobody takes back.
    pub(super) fn new(entry: BitmapEntry, bits: Option<Bits>, stored: bool, persistent: bool) -> Self {
        Self { entry, bits, stored, persistent, taken: None, since: Weak::new() }
    }

    /// Notes a change of the disk.
    fn record(&mut self, offset: u64, len: u64) {
        if let Some(since) = self.since.upgrade() {
            lock(&since).set(offset, offset + len);
        }
        if let Some(bits) = self.bits.as_mut().filter(|_| self.entry.auto) {
            bits.set(offset, offset + len);
            self.stored = false;
        }
    }

    /// The bits, with those in somebody's hands.
    pub(super) fn all_bits(&self, size: u64) -> Option<Cow<'_, Bits>> {
        let bits = self.bits.as_ref()?;
        Some(match &self.taken {
            None => Cow::Borrowed(bits),
            Some(taken) => {
                let mut all = bits.clone();
                all.merge(taken, size);
                Cow::Owned(all)
            }
        })
    }
}

/// The bitmaps in memory.
#[derive(Default)]
pub(super) struct Tracked {
    pub(super) live: Vec<Live>,
    /// Those of the file are among them.
    pub(super) loaded: bool,
    /// Ranges of the file that removed bitmaps had.
    pub(super) freed: Vec<(u64, u64)>,
    /// The directory is no longer what the file has.
    pub(super) changed: bool,
    /// Names of those of the file that somebody has taken into his hands while they are not loaded.
    pub(super) taken_in_file: Vec<String>,
    /// What was last told of those of the file while they are not loaded.
    pub(super) in_file: Option<Vec<DirtyBitmap>>,
}

impl Tracked {
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.live.iter().position(|live| live.entry.name == name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Live> {
        self.live.iter().find(|live| live.entry.name == name)
    }

    /// Whether somebody has the bitmap `name` in his hands.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        self.taken_in_file.iter().any(|taken| taken == name) || self.get(name).is_some_and(|live| live.taken.is_some())
    }

    /// Whether any of them records changes of the disk, or would again if a change of it were taken back.
    pub(super) fn records(&self) -> bool {
        self.live.iter().any(|live| live.bits.is_some() && (live.entry.auto || live.since.strong_count() > 0))
    }
}

impl Qcow2 {
    /// Before the first write: loads all bitmaps and marks them in use. False when they cannot be kept up.
    pub(super) fn begin_bitmaps(&self, alloc: &Alloc) -> Result<bool, BlockError> {
        lock(&self.tracked).in_file = None;
        let Some((offset, len, entries)) = directory(self.file.as_ref(), &alloc.header)? else { return Ok(false) };
        let marked: Vec<u8> =
            entries.iter().flat_map(|entry| encode(&BitmapEntry { in_use: true, ..entry.clone() })).collect();
        if marked.len() as u64 != len {
            // Entries with data that we do not know.
            return Ok(false);
        }
        // Where they are loaded already, an earlier first write failed after that. What the file says of them may be
        // marked by now.
        if !lock(&self.tracked).loaded {
            let Some(mut loaded) = self.load_all(entries)? else { return Ok(false) };
            let mut tracked = lock(&self.tracked);
            let taken = std::mem::take(&mut tracked.taken_in_file);
            for live in loaded.iter_mut().filter(|live| taken.contains(&live.entry.name)) {
                live.taken.clone_from(&live.bits);
            }
            tracked.live.extend(loaded);
            tracked.loaded = true;
        }
        self.guard.write(Kinds::BITMAPS, &marked, offset)?;
        self.file.flush()?;
        let tracked = lock(&self.tracked);
        self.tracking.store(tracked.records(), Ordering::Release);
        Ok(true)
    }

    /// The bitmaps of `entries` with their bits, or none where they are too large.
    fn load_all(&self, entries: Vec<BitmapEntry>) -> Result<Option<Vec<Live>>, BlockError> {
        let mut bytes = 0;
        let mut loaded = Vec::new();
        for entry in entries {
            bytes += if entry.in_use { 0 } else { self.bits_len(&entry)? };
            if bytes > MOST_BYTES as u64 {
                return Ok(None);
            }
            let bits = if entry.in_use { None } else { Some(self.load_bits(&entry)?) };
            loaded.push(Live::new(entry, bits, true, true));
        }
        Ok(Some(loaded))
    }

    /// Notes a change of `len` bytes of the disk at `offset`.
    pub(super) fn record(&self, offset: u64, len: u64) {
        if !self.tracking.load(Ordering::Acquire) {
            return;
        }
        let mut tracked = lock(&self.tracked);
        tracked.live.iter_mut().for_each(|live| live.record(offset, len));
        // A change that could be taken back may no longer be.
        self.tracking.store(tracked.records(), Ordering::Release);
    }

    /// The disk has another size: the bitmaps of it have, too.
    pub(super) fn fit_bitmaps(&self) {
        for live in &mut lock(&self.tracked).live {
            let bits = live.bits.iter_mut().chain(&mut live.taken);
            let changed = bits.map(|bits| bits.fit(self.size())).fold(false, |any, one| any | one);
            live.stored &= !changed;
        }
    }

    /// At the end: writes what the file does not have, and says that the bitmaps are no longer in use.
    pub(super) fn store_bitmaps(&self) -> Result<(), BlockError> {
        let _flushing = lock(&self.flushing);
        let mut alloc = lock(&self.alloc);
        let mut tracked = lock(&self.tracked);
        for live in &mut tracked.live {
            live.stored &= live.taken.is_none();
        }
        if !tracked.loaded {
            return Ok(());
        }
        let mut persistent = tracked.live.iter().filter(|live| live.persistent).peekable();
        if tracked.changed || persistent.clone().any(|live| !live.stored) {
            self.write_bitmaps(&mut alloc, &mut tracked)?;
        } else if persistent.peek().is_some()
            && let Some((offset, ..)) = directory(self.file.as_ref(), &alloc.header)?
        {
            let bytes: Vec<u8> = persistent.flat_map(|live| encode(&live.entry)).collect();
            self.guard.write(Kinds::BITMAPS, &bytes, offset)?;
            self.file.flush()?;
        }
        // The next write begins again.
        self.touched.store(false, Ordering::Release);
        let mut taken = std::mem::take(&mut tracked.taken_in_file);
        for live in tracked.live.extract_if(.., |live| live.persistent) {
            taken.extend(live.taken.is_some().then_some(live.entry.name));
        }
        tracked.taken_in_file = taken;
        tracked.loaded = false;
        self.tracking.store(tracked.records(), Ordering::Release);
        Ok(())
    }

    fn write_bitmaps(&self, alloc: &mut Alloc, tracked: &mut Tracked) -> Result<(), BlockError> {
        let file = self.file.as_ref();
        // Until the header names the new places: after a failure the next attempt must not think that it does.
        tracked.changed = true;
        let mut freed = std::mem::take(&mut tracked.freed);
        // Without the autoclear bit nobody knows whose the old ranges are: they stay, until a check frees them.
        freed.extend(directory(file, &alloc.header)?.map(|(offset, len, _)| (offset, len)));
        for live in tracked.live.iter_mut().filter(|live| live.persistent && !live.stored) {
            if let Some(bits) = live.all_bits(self.size()) {
                freed.extend(self.places_of(&live.entry)?);
                let place = self.store_bits(alloc, &bits)?;
                (live.entry.table_offset, live.entry.table_size) = place;
                live.stored = true;
            }
        }
        let entries: Vec<_> =
            tracked.live.iter().filter(|live| live.persistent).map(|live| live.entry.clone()).collect();
        self.switch_directory(alloc, &entries)?;
        tracked.changed = false;
        for (offset, len) in freed.into_iter().filter(|(_, len)| *len > 0) {
            let clusters = len.div_ceil(self.geometry.cluster());
            alloc.counts.release(file, Freed { offset, clusters, discard: false })?;
        }
        self.write_counts(alloc)?;
        file.flush()
    }

    /// Removes all of them (version 2 has none).
    pub(super) fn remove_bitmaps(&self) -> Result<(), BlockError> {
        self.touch()?;
        let mut tracked = lock(&self.tracked);
        let gone: Vec<_> = tracked.live.extract_if(.., |live| live.persistent).collect();
        for live in gone {
            tracked.freed.extend(self.places_of(&live.entry)?);
            tracked.changed = true;
        }
        drop(tracked);
        self.store_bitmaps()
    }
}
