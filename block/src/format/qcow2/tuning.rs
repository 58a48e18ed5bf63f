//! What can be changed of an open image: the sizes of its caches, what is kept from being overwritten, and whether
//! reference counts are postponed.

use std::sync::atomic::Ordering;

use super::clean::CLEAN_INTERVAL;
use super::header::{Header, LAZY_REFCOUNTS, incompatible};
use super::maps::Slicing;
use super::overlap::Kinds;
use super::{Alloc, Geometry, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Postpone reference counts (as the header says).
    pub lazy_refcounts: Option<bool>,
    /// Bytes for L2 slices (as many as are used, at most 32 MiB).
    pub l2_cache_size: Option<u64>,
    /// Bytes of one slice (4 KiB, at most a cluster).
    pub l2_cache_entry_size: Option<u64>,
    /// Bytes for refcount blocks (four clusters).
    pub refcount_cache_size: Option<u64>,
    /// Bytes for both together.
    pub cache_size: Option<u64>,
    /// Seconds after which what was not used is dropped from memory (600); 0 never.
    pub clean_interval: Option<u64>,
    /// What writes are kept from overwriting (`cached`).
    pub overlap_check: Kinds,
}

/// Most bytes of L2 slices without a wish, as QEMU has on Linux.
const L2_CACHE: u64 = 32 << 20;
/// Bytes of one slice without a wish.
const L2_ENTRY: u64 = 4096;

/// What it comes to for one image.
pub(super) struct Tuned {
    pub(super) slicing: Slicing,
    /// Most bytes of slices.
    pub(super) l2_bytes: u64,
    /// Most refcount blocks in memory.
    pub(super) blocks: usize,
    pub(super) lazy: bool,
}

impl Tuning {
    /// For the image with this header.
    pub(super) fn of(&self, header: &Header, geometry: Geometry) -> Result<Tuned, BlockError> {
        let invalid = |text: String| Err(BlockError::new(ErrorKind::Invalid, text));
        let slice = self.l2_cache_entry_size.unwrap_or(L2_ENTRY.min(geometry.cluster()));
        if !slice.is_power_of_two() || slice < 512 || slice > geometry.cluster() {
            let most = geometry.cluster();
            return invalid(format!(
                "L2 cache entry size must be a power of two between 512 and the cluster size ({most})"
            ));
        }
        if self.seconds() > u64::from(u32::MAX) {
            return invalid("Cache clean interval too big".to_owned());
        }
        let lazy = self.lazy_refcounts.unwrap_or(header.compatible & LAZY_REFCOUNTS != 0);
        if lazy && header.version < 3 {
            return invalid(
                "Lazy refcounts require a qcow2 image with at least qcow2 version 3 (compat=1.1)".to_owned(),
            );
        }
        let map = header.size.div_ceil(geometry.cluster()).saturating_mul(geometry.entry_bytes());
        let (l2_bytes, counts) = self.cache_sizes(geometry.cluster(), map)?;
        let blocks = (counts >> geometry.cluster_bits) as usize;
        Ok(Tuned { slicing: Slicing::new(geometry, slice), l2_bytes, blocks, lazy })
    }

    /// Bytes for L2 slices and refcount blocks, at most. `l2_bytes` are all L2 entries of the disk.
    pub(super) fn cache_sizes(&self, cluster: u64, l2_bytes: u64) -> Result<(u64, u64), BlockError> {
        let least_counts = 4 * cluster;
        let invalid = |text: &str| BlockError::new(ErrorKind::Invalid, text);
        Ok(match (self.cache_size, self.l2_cache_size, self.refcount_cache_size) {
            (Some(_), Some(_), Some(_)) => {
                let text = "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time";
                return Err(invalid(text));
            }
            (Some(all), Some(l2), None) => {
                let rest = all.checked_sub(l2);
                (l2, rest.ok_or_else(|| invalid("l2-cache-size may not exceed cache-size"))?)
            }
            (Some(all), None, Some(counts)) => {
                let rest = all.checked_sub(counts);
                (rest.ok_or_else(|| invalid("refcount-cache-size may not exceed cache-size"))?, counts)
            }
            (Some(all), None, None) => {
                // The whole map if that leaves the counts what they need, else as much of it as fits.
                let l2_need = l2_bytes.next_multiple_of(cluster);
                let counts = all.saturating_sub(l2_need).max(least_counts.min(all));
                (all - counts, counts)
            }
            // Slices take memory only once they are read, so a small disk that grows needs no other bound.
            (None, l2, counts) => (l2.unwrap_or(L2_CACHE), counts.unwrap_or(least_counts)),
        })
    }

    pub(super) fn seconds(&self) -> u64 {
        self.clean_interval.unwrap_or(CLEAN_INTERVAL)
    }
}

impl Qcow2 {
    /// Has the image be as `tuning` says from now on; requests wait meanwhile, and caches begin empty.
    ///
    /// # Errors
    /// When the wishes contradict each other or the image, what is only in memory cannot be written, or the host gives no
    /// thread: then all is as it was.
    pub fn retune(&self, tuning: &Tuning) -> Result<(), BlockError> {
        self.guard.alive()?;
        let tuned = tuning.of(&lock(&self.alloc).header, self.geometry)?;
        let former = self.clean_every(tuning.seconds())?;
        self.begin_alone();
        let result = self.adopt(&tuned, tuning.overlap_check);
        self.end_alone();
        if result.is_err() {
            self.clean_every(former)?;
        }
        result
    }

    /// Has `go` put another file beneath, with everything written to the former one and nothing of it kept but the tables
    /// that an open image has in memory, as QEMU; requests wait meanwhile.
    ///
    /// # Errors
    /// When something could not be written: it is kept, and will be written to the file that there is then.
    pub fn change_file(&self, go: impl FnOnce()) -> Result<(), BlockError> {
        self.begin_alone();
        let written = self.write_all_back();
        go();
        lock(&self.alloc).counts.come_to_file(self.file.size());
        self.end_alone();
        written
    }

    /// Leaves nothing dirty in memory, where nobody else is at the image.
    fn write_all_back(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        // The first time leaves clusters without a name, the second time writes their counts.
        self.write_back_with(true)?;
        self.write_back_with(true)
    }

    /// Nobody else is at the image.
    fn adopt(&self, tuned: &Tuned, overlap_check: Kinds) -> Result<(), BlockError> {
        self.write_all_back()?;
        let mut alloc = lock(&self.alloc);
        self.postpone_counts(&mut alloc, tuned.lazy)?;
        alloc.counts.set_capacity(tuned.blocks);
        let mut maps = self.maps_mut();
        maps.cut(tuned.slicing, tuned.l2_bytes);
        let metadata = &self.guard.metadata;
        if !self.read_only && metadata.watched() != overlap_check {
            metadata.watch(overlap_check);
            metadata.load(self.file.as_ref(), &alloc.header, &maps.l1, &alloc.counts.table);
        }
        Ok(())
    }

    /// Has counts be written with the rest, or when the image is closed; all of them are on disk.
    fn postpone_counts(&self, alloc: &mut Alloc, lazy: bool) -> Result<(), BlockError> {
        // Of an image that was not written to, the first write says in the header what is to be said.
        if alloc.lazy != lazy && self.touched.load(Ordering::Acquire) {
            let others = alloc.header.incompatible & !incompatible::DIRTY;
            let bits = if lazy { others | incompatible::DIRTY } else { others };
            self.switch_header(alloc, 72, &bits.to_be_bytes())?;
            alloc.header.incompatible = bits;
        }
        alloc.lazy = lazy;
        Ok(())
    }
}
