//! The guest's address map in memory: the L1 table and slices of L2 tables, bounded.
//!
//! Everything here is memory only. A slice is keyed by where in the guest's disk it is, so a lookup needs no L1.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Geometry;
use super::entry::{ALL_ALLOCATED, Entry};
use super::slices::{self, Slices};
use crate::layer::Layer;

/// A piece of an L2 table, entries as on disk but in host byte order.
pub(super) struct Slice {
    words: Box<[u64]>,
    /// Counts changes; written back up to `clean`.
    changes: u64,
    clean: u64,
    used: AtomicU64,
}

impl Slice {
    pub(super) fn new(words: Box<[u64]>) -> Self {
        Self { words, changes: 0, clean: 0, used: AtomicU64::new(0) }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.changes != self.clean
    }

    /// An entry that is not extended; nothing past the slice's end.
    #[inline]
    pub(super) fn plain_entry(&self, index: usize) -> Option<Entry> {
        self.words.get(index).map(|word| Entry { word: *word, bitmap: ALL_ALLOCATED })
    }

    pub(super) fn entry(&self, index: usize, extended: bool) -> Entry {
        if extended {
            Entry { word: self.words[2 * index], bitmap: self.words[2 * index + 1] }
        } else {
            Entry { word: self.words[index], bitmap: ALL_ALLOCATED }
        }
    }

    fn set(&mut self, index: usize, extended: bool, entry: Entry) {
        if extended {
            self.words[2 * index] = entry.word;
            self.words[2 * index + 1] = entry.bitmap;
        } else {
            self.words[index] = entry.word;
        }
        self.changes += 1;
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }
}

/// A dirty slice as it was at one moment, to be written.
pub(super) struct SliceImage {
    pub(super) key: u64,
    pub(super) bytes: Vec<u8>,
    changes: u64,
}

/// Most slices in `bytes`; fewer than four would be read again and again by one request.
fn capacity(slicing: Slicing, bytes: u64) -> usize {
    (bytes.div_ceil(slicing.bytes()) as usize).clamp(4, slices::MOST)
}

/// Who may look things up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Everybody.
    Open,
    /// Requests that began before, by the slow way: they are waited for.
    Closing,
    /// Nobody: the image changes as a whole.
    Closed,
}

/// How L2 tables are cut into slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slicing {
    /// Entries in one slice, as a power of two.
    bits: u32,
    cluster_bits: u32,
    /// Guest bytes under one slice, as a power of two.
    span_bits: u32,
    /// Entries in one L2 table, as a power of two.
    table_bits: u32,
    /// Entries in one slice, less one.
    mask: usize,
    /// Bytes of an entry.
    entry: u64,
}

impl Slicing {
    /// Slices of `bytes`, a power of two from one entry up to a whole table.
    pub(super) fn new(geometry: Geometry, bytes: u64) -> Self {
        let entry = geometry.entry_bytes();
        let bits = bytes.trailing_zeros() - entry.trailing_zeros();
        Self {
            bits,
            cluster_bits: geometry.cluster_bits,
            span_bits: geometry.cluster_bits + bits,
            mask: (1 << bits) - 1,
            table_bits: geometry.l2_span_bits - geometry.cluster_bits,
            entry,
        }
    }

    /// Slice that the guest offset is in.
    #[inline]
    pub(super) fn key(self, guest: u64) -> u64 {
        guest >> self.span_bits
    }

    /// Entry in the slice.
    #[inline]
    pub(super) fn index(self, guest: u64) -> usize {
        (guest >> self.cluster_bits) as usize & self.mask
    }

    /// Guest offset where the slice after `guest`'s begins.
    pub(super) fn end(self, guest: u64) -> u64 {
        (self.key(guest) + 1).checked_shl(self.span_bits).unwrap_or(u64::MAX)
    }

    /// Bytes of one slice.
    pub(super) fn bytes(self) -> u64 {
        self.entry << self.bits
    }

    /// Byte offset of a slice in its L2 table.
    pub(super) fn place(self, key: u64) -> u64 {
        (key & ((1 << (self.table_bits - self.bits)) - 1)) * self.bytes()
    }

    pub(super) fn l1_index(self, key: u64) -> usize {
        (key >> (self.table_bits - self.bits)) as usize
    }
}

/// The map.
pub(super) struct Maps {
    pub(super) l1: Vec<u64>,
    /// Changes while the gate is closed.
    pub(super) slicing: Slicing,
    pub(super) backing: Option<Arc<dyn Layer>>,
    /// Clones of it mark I/O to host clusters that were in use when it was handed out.
    pub(super) token: Arc<()>,
    pub(super) gate: Gate,
    slices: Slices,
    /// Most slices.
    capacity: usize,
    dirty: usize,
    clock: AtomicU64,
    /// What the clock said at the last cleaning.
    cleaned: u64,
}

impl Maps {
    /// With slices of at most `bytes` altogether.
    pub(super) fn new(l1: Vec<u64>, slicing: Slicing, bytes: u64) -> Self {
        Self {
            l1,
            slicing,
            backing: None,
            token: Arc::new(()),
            gate: Gate::Open,
            slices: Slices::new(),
            capacity: capacity(slicing, bytes),
            dirty: 0,
            clock: AtomicU64::new(1),
            cleaned: 0,
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, key: u64) -> Option<&Slice> {
        let slice = self.slices.get(key)?;
        // Not exact on purpose: the stamp is only written when it is old, so that readers share the cache line.
        let now = self.clock.load(Ordering::Relaxed);
        if slice.used.load(Ordering::Relaxed) != now {
            slice.used.store(now, Ordering::Relaxed);
        }
        Some(slice)
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.slices.get(key).is_some()
    }

    /// Puts a slice in, in the place of clean ones that were not used for long.
    pub(super) fn insert(&mut self, key: u64, slice: Slice) {
        if self.slices.len() >= self.capacity {
            self.evict();
        }
        *self.clock.get_mut() += 1;
        slice.used.store(*self.clock.get_mut(), Ordering::Relaxed);
        self.slices.insert(key, slice);
    }

    /// Drops an eighth of the slices, clean ones only, the longest unused first.
    fn evict(&mut self) {
        let clean = self.slices.iter().filter(|(_, slice)| !slice.is_dirty());
        let mut clean: Vec<_> = clean.map(|(key, slice)| (slice.used.load(Ordering::Relaxed), key)).collect();
        let count = (self.capacity / 8 + 1).min(clean.len());
        let Some(last) = count.checked_sub(1).map(|last| *clean.select_nth_unstable(last).1) else { return };
        self.slices.retain(|key, slice| slice.is_dirty() || (*slice.used.get_mut(), key) > last);
    }

    /// Changes one entry of a slice that is there; false when it is not.
    pub(super) fn set(&mut self, key: u64, index: usize, extended: bool, entry: Entry) -> bool {
        let Some(slice) = self.slices.get_mut(key) else { return false };
        let was_dirty = slice.is_dirty();
        slice.set(index, extended, entry);
        if !was_dirty {
            self.dirty += 1;
        }
        true
    }

    /// Whether it is time to write back: half of the places are dirty.
    pub(super) fn is_heavy(&self) -> bool {
        self.dirty * 2 >= self.capacity
    }

    pub(super) fn has_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// All dirty slices as they are now, in order of their place.
    pub(super) fn dirty_images(&self) -> Vec<SliceImage> {
        let dirty = self.slices.iter().filter(|(_, slice)| slice.is_dirty());
        let mut images: Vec<_> =
            dirty.map(|(key, slice)| SliceImage { key, bytes: slice.to_bytes(), changes: slice.changes }).collect();
        images.sort_unstable_by_key(|image| image.key);
        images
    }

    /// Notes that these are on disk.
    pub(super) fn written<'a>(&mut self, images: impl Iterator<Item = &'a SliceImage>) {
        for image in images {
            if let Some(slice) = self.slices.get_mut(image.key) {
                slice.clean = image.changes;
                if !slice.is_dirty() {
                    self.dirty -= 1;
                }
            }
        }
    }

    /// Has slices cut in another way, of at most `bytes` altogether. Only when none is dirty.
    pub(super) fn cut(&mut self, slicing: Slicing, bytes: u64) {
        self.clear();
        self.slicing = slicing;
        self.capacity = capacity(slicing, bytes);
    }

    /// Forgets every slice. Only when none is dirty, or the image was changed underneath on purpose.
    pub(super) fn clear(&mut self) {
        self.slices = Slices::new();
        self.dirty = 0;
    }

    /// Drops what was not used since the last call; how many slices that were.
    pub(super) fn drop_unused(&mut self) -> usize {
        let before = self.slices.len();
        let cleaned = self.cleaned;
        self.slices.retain(|_, slice| slice.is_dirty() || *slice.used.get_mut() > cleaned);
        self.cleaned = *self.clock.get_mut();
        *self.clock.get_mut() += 1;
        before - self.slices.len()
    }

    /// Slices in memory.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.slices.len()
    }
}
