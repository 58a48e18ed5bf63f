//! Opening: the header, the tables that stay in memory, the sizes of the caches.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use super::corrupt::Guard;
use super::crypt::{Crypt, Encryption};
use super::entry::OFFSET;
use super::header::{Header, LAZY_REFCOUNTS, corrupt, incompatible};
use super::maps::Maps;
use super::overlap::{Kinds, Metadata};
use super::refcount::Refcounts;
use super::repair::{Repair, repair};
use super::snapshot::{SnapshotRef, at_snapshot};
use super::{Alloc, Discards, Geometry, PassDiscards, Qcow2, pack};
use crate::crypto::Secret;
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec};

/// How to open an image.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Discards of the guest free clusters; otherwise they succeed and do nothing.
    pub discard: bool,
    /// They also free host space (yes).
    pub pass_discard_request: Option<bool>,
    /// Deleted snapshots free host space (as `discard`).
    pub discard_snapshot: Option<bool>,
    /// What else is freed frees host space (no).
    pub discard_other: bool,
    /// Postpone reference counts (as the header says).
    pub lazy_refcounts: Option<bool>,
    /// The external data file, where the header names one.
    pub data_file: Option<Arc<dyn Layer>>,
    /// Bytes for L2 slices (as many as are used, at most 32 MiB).
    pub l2_cache_size: Option<u64>,
    /// Bytes of one slice (4 KiB, at most a cluster).
    pub l2_cache_entry_size: Option<u64>,
    /// Bytes for refcount blocks (four clusters).
    pub refcount_cache_size: Option<u64>,
    /// Bytes for both together.
    pub cache_size: Option<u64>,
    /// What the image must be encrypted with; not said means what its header says.
    pub encryption: Option<Encryption>,
    /// The password of an encrypted image.
    pub password: Option<Secret>,
    /// Only metadata will be asked for: an encrypted image needs no password.
    pub no_data: bool,
    /// What writes are kept from overwriting (`cached`).
    pub overlap_check: Kinds,
    /// Show the disk as it was at this snapshot; implies `read_only`.
    pub snapshot: Option<SnapshotRef>,
}

/// Most bytes of L2 slices without a wish, as QEMU has on Linux.
const L2_CACHE: u64 = 32 << 20;
/// Bytes of one slice without a wish.
const L2_ENTRY: u64 = 4096;

/// A table of big-endian words.
pub(super) fn read_words(file: &dyn Layer, offset: u64, count: u64) -> Result<Vec<u64>, BlockError> {
    let bytes = read_vec(file, offset, (count * 8) as usize)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect())
}

/// Bytes for L2 slices and refcount blocks, at most. `l2_bytes` are all L2 entries of the disk.
pub(super) fn cache_sizes(options: &OpenOptions, cluster: u64, l2_bytes: u64) -> Result<(u64, u64), BlockError> {
    let least_counts = 4 * cluster;
    let invalid = |text: &str| BlockError::new(ErrorKind::Invalid, text);
    Ok(match (options.cache_size, options.l2_cache_size, options.refcount_cache_size) {
        (Some(_), Some(_), Some(_)) => {
            return Err(invalid("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"));
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

/// Name of the external data file that the header of `file` asks for (empty when it has none to offer), if it does.
///
/// # Errors
/// When `file` is not a qcow2 image that can be used.
pub fn data_file_of(file: &dyn Layer) -> Result<Option<String>, BlockError> {
    let header = Header::read(file)?;
    Ok((header.incompatible & incompatible::DATA_FILE != 0).then(|| header.data_file.unwrap_or_default()))
}

/// Name and format of the backing file that the header of `file` names.
///
/// # Errors
/// When `file` is not a qcow2 image that can be used.
pub fn backing_of(file: &dyn Layer) -> Result<(Option<String>, Option<String>), BlockError> {
    let header = Header::read(file)?;
    Ok((header.backing_file, header.backing_format))
}

impl Qcow2 {
    /// Opens the image in `file`. The backing file is not opened: see [`Qcow2::backing_name`], [`Qcow2::set_backing`].
    ///
    /// # Errors
    /// When it is no qcow2 image, breaks the format's rules, or uses what is not supported.
    pub fn open(file: Arc<dyn Layer>, options: &OpenOptions) -> Result<Self, BlockError> {
        let mut header = Header::read(file.as_ref())?;
        let read_only = options.read_only || options.snapshot.is_some() || file.limits().read_only;
        if let Some(which) = &options.snapshot {
            header = at_snapshot(file.as_ref(), header, which)?;
        }
        if !read_only {
            header.check_ends(file.size())?;
        }
        if !read_only && header.incompatible & incompatible::CORRUPT != 0 {
            return Err(corrupt("qcow2: Image is corrupt; cannot be opened read/write"));
        }
        if !read_only && header.incompatible & incompatible::DIRTY != 0 {
            // Its counts were postponed and the image was not closed: they follow from the tables.
            let repaired = repair(&file, Repair::All)?;
            if repaired.after.corruptions > 0 {
                return Err(corrupt("the qcow2 image was not closed (lazy refcounts) and could not be repaired"));
            }
            header = Header::read(file.as_ref())?;
        }
        let external = header.incompatible & incompatible::DATA_FILE != 0;
        let data = match (external, &options.data_file) {
            (true, Some(data)) => data.clone(),
            (true, None) => {
                return Err(BlockError::new(ErrorKind::Invalid, "'data-file' is required for this image"));
            }
            (false, None) => file.clone(),
            (false, Some(_)) => {
                return Err(BlockError::new(
                    ErrorKind::Invalid,
                    "'data-file' can only be set for images with an external data file",
                ));
            }
        };
        let crypt = Crypt::open(file.as_ref(), &header, options)?;
        let geometry = geometry(&header, options)?;
        let mut l1 = read_words(file.as_ref(), header.l1_offset, u64::from(header.l1_size))?;
        if read_only {
            // Of a file that was cut off, what is left is shown.
            l1.iter_mut().filter(|entry| **entry & OFFSET >= file.size()).for_each(|entry| *entry = 0);
        }
        let table_entries = u64::from(header.reftable_clusters) << (header.cluster_bits - 3);
        let table =
            if read_only { Vec::new() } else { read_words(file.as_ref(), header.reftable_offset, table_entries)? };
        check_count_table(&table, &header, file.size())?;
        let watched = if read_only { Kinds::NONE } else { options.overlap_check };
        let metadata = Metadata::new(watched, geometry.cluster(), l1.len() + table.len());
        let guard = Guard::new(file.clone(), header.version, metadata);
        guard.metadata.load(file.as_ref(), &header, &l1, &table);
        let guard = Arc::new(guard);
        let l2_bytes = header.size.div_ceil(geometry.cluster()).saturating_mul(geometry.entry_bytes());
        let (l2_cache, counts_cache) = cache_sizes(options, geometry.cluster(), l2_bytes)?;
        let slice_bytes = geometry.entry_bytes() << geometry.slice_bits;
        let held = (counts_cache >> header.cluster_bits) as usize;
        let counts = Refcounts::new(&header, table, held, file.size(), guard.clone());
        let lazy = options.lazy_refcounts.unwrap_or(header.compatible & LAZY_REFCOUNTS != 0);
        if lazy && header.version < 3 {
            let text = "Lazy refcounts require a qcow2 image with at least qcow2 version 3 (compat=1.1)";
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let maps = Maps::new(l1, None, l2_cache.div_ceil(slice_bytes) as usize);
        Ok(Self {
            geometry,
            compression: header.compression,
            read_only: read_only || (external && data.limits().read_only),
            discard: Discards::new(PassDiscards::of(options), file.limits().discard),
            guard,
            size: AtomicU64::new(header.size),
            maps: RwLock::new(maps),
            loading: Default::default(),
            alloc: Mutex::new(Alloc {
                counts,
                header,
                in_flight: Vec::new(),
                lazy,
                alone: false,
                lost: false,
                unlinked: Default::default(),
            }),
            settled: Condvar::new(),
            flushing: Mutex::new(()),
            dirty: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            unpacked: pack::Cache::new(),
            tracked: Mutex::default(),
            tracking: AtomicBool::new(false),
            preallocated: std::sync::OnceLock::new(),
            crypt,
            data,
            file,
        })
    }
}

fn geometry(header: &Header, options: &OpenOptions) -> Result<Geometry, BlockError> {
    let extended = header.incompatible & incompatible::EXTENDED_L2 != 0;
    let entry_bits = if extended { 4 } else { 3 };
    let slice = options.l2_cache_entry_size.unwrap_or(L2_ENTRY.min(header.cluster_size()));
    if !slice.is_power_of_two() || slice < 512 || slice > header.cluster_size() {
        let text = "L2 cache entry size must be a power of two between 512 and the cluster size";
        return Err(BlockError::new(ErrorKind::Invalid, text));
    }
    Ok(Geometry {
        cluster_bits: header.cluster_bits,
        slice_bits: slice.trailing_zeros() - entry_bits,
        l2_span_bits: header.l2_span_bits(),
        extended,
        external: header.incompatible & incompatible::DATA_FILE != 0,
        raw_data: header.has_raw_data(),
        version: header.version,
    })
}

/// The blocks that the refcount table names must be in the file, each once: so all of them can be read in bounded time.
fn check_count_table(table: &[u64], header: &Header, file_size: u64) -> Result<(), BlockError> {
    let mut blocks: Vec<u64> = table.iter().copied().filter(|block| *block != 0).collect();
    blocks.sort_unstable();
    let wild = blocks.iter().find(|b| **b >= file_size || !b.is_multiple_of(header.cluster_size()));
    if let Some(wild) = wild {
        return Err(corrupt(format!(
            "refcount table: block offset {wild:#x} is impossible; check -r all repairs that"
        )));
    }
    if let Some(twice) = blocks.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(corrupt(format!(
            "refcount table: block {:#x} is named twice; check -r all repairs that",
            twice[0]
        )));
    }
    Ok(())
}
