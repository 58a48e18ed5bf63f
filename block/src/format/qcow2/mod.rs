//! Driver `qcow2`, versions 2 and 3.
//!
//! ```text
//!   mapped()    maps (read lock, memory only), plain ones ──> place in the data file, which the queue asks itself
//!   fast()      maps (likewise), all others ────────────────> host range, handed to the ring
//!   read()      maps, loading slices as needed ─────────────> file, backing, unpacking
//!   write()     plan under `alloc` ─ data without locks ─ commit under `alloc` and `maps`
//!   flush()     counts + data ─ sync ─ L2, L1 ─ sync ─ what was freed can be taken again
//! ```
//!
//! # Locks
//!
//! In this order, each held over as little as its comment says: `flushing` (a whole flush), `alloc` (metadata I/O of
//! the allocator, never guest data), a `loading` shard (reading one slice), `maps` (memory only).
//!
//! # Why a kill cannot alias clusters
//!
//! 1. A cluster is taken by a count of 1 in memory before its data are written. No one else takes it after that.
//! 2. An L2 entry is changed in memory only when its data are written, and reaches the disk only after a sync that
//!    covers those data and the counts (`flush.rs`). So an entry on disk names a cluster with its own data and a count
//!    of at least 1.
//! 3. A cluster that loses its last name in memory keeps its count until the table without the name is synced, and
//!    until all I/O that may have looked it up before has ended (clones of `maps.token`). Only then can it be taken.
//! 4. Hence at any moment each cluster that an entry on disk names is counted on disk, and no cluster is named by an
//!    old entry on disk and a new one. A kill leaks clusters; it cannot do more.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{BlockError, ErrorKind};
use crate::graph::ImageDetails;
use crate::layer::{Fast, FastOp, Layer, Limits, Mapped, Preallocation, Status, quickest};
use crate::mem::{Sink, Source};

mod allocate;
mod amend;
mod beneath;
mod bitmap;
mod bitmap_bits;
mod bitmap_change;
mod bitmap_live;
mod busy;
mod check;
mod clean;
mod corrupt;
mod create;
mod crypt;
mod describe;
mod discards;
mod downgrade;
mod entry;
mod exclusive;
mod flush;
mod header;
mod lookup;
mod maps;
mod open;
mod overlap;
mod pack;
mod packed;
mod read;
mod rebuild;
mod refcount;
mod repair;
mod resize;
mod slices;
mod snapshot;
mod status;
mod tuning;
mod write;
mod zero;

pub use amend::{Amend, Measure, measure};
pub use bitmap::{BitmapEntry, DirtyBitmap};
pub use bitmap_bits::Bits;
pub use bitmap_change::{BitmapChange, FormerBitmap, NewBitmap};
pub use check::{CheckReport, MOST_MESSAGES, check};
pub use corrupt::Corruption;
pub use create::{CreateOptions, create};
pub use crypt::{EncryptOptions, Encryption};
pub use describe::snapshot_value;
pub use discards::PassDiscards;
pub use header::Compression;
pub use open::{OpenOptions, backing_of, data_file_of};
pub use overlap::{Kind, Kinds};
pub use repair::{Repair, Repaired, repair};
pub use snapshot::{NO_SNAPSHOT, Snapshot, SnapshotRef};
pub use tuning::Tuning;

use corrupt::Guard;
use discards::Discards;
use header::Header;
use maps::Maps;
use refcount::Refcounts;

/// Shards of the locks that keep two readers from loading one slice twice.
const SHARDS: usize = 16;

/// Numbers that never change while the image is open.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    cluster_bits: u32,
    /// The bits of an offset that say where in its cluster it is.
    within: u64,
    /// Guest bytes under one L2 table, as a power of two.
    l2_span_bits: u32,
    extended: bool,
    external: bool,
    /// The external data file is the disk as it is, whatever the map says ("Raw external data bit").
    raw_data: bool,
    version: u32,
}

impl Geometry {
    fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    fn entry_bytes(self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    fn l1_index(self, guest: u64) -> usize {
        (guest >> self.l2_span_bits) as usize
    }

    /// Bytes of the smallest unit that is allocated on its own.
    fn subcluster(self) -> u64 {
        if self.extended { self.cluster() / entry::SUBCLUSTERS } else { self.cluster() }
    }
}

/// State of the allocator.
struct Alloc {
    counts: Refcounts,
    header: Header,
    /// Guest ranges (whole clusters) whose new place is being written.
    in_flight: Vec<busy::Busy>,
    /// Counts are written when the image is closed; meanwhile the header says that it is dirty.
    lazy: bool,
    /// Somebody changes the image as a whole.
    alone: bool,
    /// A change of the header failed: memory and disk may differ in what is where.
    lost: bool,
    /// L1 entries that the disk does not have yet.
    unlinked: std::collections::BTreeSet<usize>,
}

/// An open qcow2 image.
pub struct Qcow2 {
    geometry: Geometry,
    file: Arc<dyn Layer>,
    /// Where the guest's bytes are: `file`, or an external data file.
    data: Arc<dyn Layer>,
    read_only: bool,
    /// Which freed host space is given back to the host.
    discard: Discards,
    /// Stands before what is written to `file`.
    guard: Arc<Guard>,
    size: AtomicU64,
    maps: RwLock<Maps>,
    loading: [Mutex<()>; SHARDS],
    alloc: Mutex<Alloc>,
    /// Nobody is alone any more; goes with `alloc`.
    settled: Condvar,
    flushing: Mutex<()>,
    /// There is metadata in memory that the disk does not have.
    dirty: AtomicBool,
    /// The first write of this opening has happened: unknown autoclear bits are gone.
    touched: AtomicBool,
    compression: Compression,
    unpacked: pack::Cache,
    /// Bitmaps of an image that is being written to.
    tracked: Mutex<bitmap_live::Tracked>,
    /// Some of them record changes of the disk.
    tracking: AtomicBool,
    /// Whether clusters were set aside that the host does not hold; found out when somebody asks for a status.
    preallocated: std::sync::OnceLock<bool>,
    /// Something will be put beneath that the header may not name.
    expects: AtomicBool,
    /// The guest's data are encrypted.
    crypt: Option<crypt::Crypt>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Qcow2 {
    fn maps(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that clusters no longer hold tables.
    fn forget_metadata(&self, freed: refcount::Freed) {
        self.guard.metadata.forget(freed.offset..freed.offset + (freed.clusters << self.geometry.cluster_bits));
    }

    fn maps_mut(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name of the backing file and its format, as the header has them.
    #[must_use]
    pub fn backing_name(&self) -> (Option<String>, Option<String>) {
        let alloc = lock(&self.alloc);
        (alloc.header.backing_file.clone(), alloc.header.backing_format.clone())
    }

    /// Puts `backing` beneath; used when the graph has opened it, or changes it.
    pub fn set_backing(&self, backing: Option<Arc<dyn Layer>>) {
        self.maps_mut().backing = backing;
    }

    /// Whether a cluster can be marked as reading as zeroes, whatever lies beneath: from version 3 on.
    #[must_use]
    pub fn has_zero_clusters(&self) -> bool {
        self.geometry.version >= 3
    }

    fn writable(&self) -> Result<(), BlockError> {
        self.guard.alive()?;
        if self.read_only {
            return Err(BlockError::new(ErrorKind::Permission, "the qcow2 image is read-only"));
        }
        Ok(())
    }
}

impl Layer for Qcow2 {
    fn driver(&self) -> &'static str {
        "qcow2"
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn limits(&self) -> Limits {
        let below = self.data.limits();
        Limits {
            read_only: self.read_only,
            discard: self.discard.enabled(),
            discard_granularity: u32::try_from(self.geometry.subcluster()).unwrap_or(0),
            ..below
        }
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.guard.alive()?;
        self.read_range(into, offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.writable()?;
        self.write_range(from, offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.guard.alive()?;
        if self.read_only { Ok(()) } else { self.write_back() }
    }

    fn sync_failed(&self) {
        self.data.sync_failed();
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.writable()?;
        if self.discard.enabled() { self.discard_range(offset, len) } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.writable()?;
        self.zero_range(offset, len, unmap && self.discard.enabled())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.guard.alive()?;
        self.status_at_all(offset, len)
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        let mut beneath = None;
        let fast = self.fast_range(op, offset, len, &mut beneath);
        match beneath {
            None => fast,
            Some(layer) => beneath::fast(layer, offset, len),
        }
    }

    fn store(&self) -> Option<Arc<dyn Layer>> {
        Some(quickest(&self.data))
    }

    fn mapped(&self, op: FastOp, offset: u64, len: u64) -> Option<Mapped> {
        self.mapped_range(op, offset, len)
    }

    fn wants_ring(&self) -> bool {
        self.data.wants_ring() || self.any_beneath(|layer| layer.wants_ring(), |image| image.data.wants_ring())
    }

    fn is_cached(&self) -> bool {
        // Ciphers are for the workers' processors.
        let is_hard = |image: &Self| image.crypt.is_some() || !image.file.is_cached() || !image.data.is_cached();
        !is_hard(self) && !self.any_beneath(|layer| !layer.is_cached(), is_hard)
    }

    fn populate(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.populate_range(offset, len)
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        self.writable()?;
        self.resize_to(size, preallocation)
    }

    fn close(&self) -> Result<(), BlockError> {
        if self.read_only || self.guard.is_dead() { Ok(()) } else { self.settle() }
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.file.allocated_bytes()
    }

    fn describe(&self, details: &mut ImageDetails) {
        self.tell(details);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
