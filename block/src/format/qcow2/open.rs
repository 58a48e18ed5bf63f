//! Opening: the header, the tables that stay in memory, the sizes of the caches.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use super::corrupt::Guard;
use super::crypt::{Crypt, Encryption};
use super::entry::OFFSET;
use super::header::{Header, corrupt, incompatible};
use super::maps::Maps;
use super::overlap::{Kinds, Metadata};
use super::refcount::Refcounts;
use super::repair::{Repair, repair};
use super::snapshot::{SnapshotRef, at_snapshot};
use super::tuning::Tuning;
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
    /// The external data file, where the header names one.
    pub data_file: Option<Arc<dyn Layer>>,
    /// What can be changed later.
    pub tuning: Tuning,
    /// What the image must be encrypted with; not said means what its header says.
    pub encryption: Option<Encryption>,
    /// The password of an encrypted image.
    pub password: Option<Secret>,
    /// Only metadata will be asked for: an encrypted image needs no password.
    pub no_data: bool,
    /// Show the disk as it was at this snapshot; implies `read_only`.
    pub snapshot: Option<SnapshotRef>,
}

/// A table of big-endian words.
pub(super) fn read_words(file: &dyn Layer, offset: u64, count: u64) -> Result<Vec<u64>, BlockError> {
    let bytes = read_vec(file, offset, (count * 8) as usize)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect())
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
/// When `file` is not a qcow2 image that can be checked.
pub fn backing_of(file: &dyn Layer) -> Result<(Option<String>, Option<String>), BlockError> {
    let header = Header::read_for_check(file)?;
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
            let repaired = repair(&file, Repair::All).map_err(|e| e.within("Could not repair dirty image"))?;
            if repaired.after.corruptions > 0 || repaired.after.check_errors > 0 {
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
        let geometry = geometry(&header);
        let tuned = options.tuning.of(&header, geometry)?;
        let mut l1 = read_words(file.as_ref(), header.l1_offset, u64::from(header.l1_size))?;
        if read_only {
            // Of a file that was cut off, what is left is shown.
            l1.iter_mut().filter(|entry| **entry & OFFSET >= file.size()).for_each(|entry| *entry = 0);
        }
        let table_entries = u64::from(header.reftable_clusters) << (header.cluster_bits - 3);
        let table =
            if read_only { Vec::new() } else { read_words(file.as_ref(), header.reftable_offset, table_entries)? };
        check_count_table(&table, &header, file.size())?;
        let metadata = Metadata::new(geometry.cluster(), if read_only { 0 } else { l1.len() + table.len() });
        metadata.watch(if read_only { Kinds::NONE } else { options.tuning.overlap_check });
        let guard = Guard::new(file.clone(), header.version, metadata);
        guard.metadata.load(file.as_ref(), &header, &l1, &table);
        let guard = Arc::new(guard);
        let counts = Refcounts::new(&header, table, tuned.blocks, file.size(), guard.clone());
        let maps = Maps::new(l1, tuned.slicing, tuned.l2_bytes);
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
                lazy: tuned.lazy,
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
            expects: AtomicBool::new(false),
            crypt,
            data,
            file,
        })
    }
}

fn geometry(header: &Header) -> Geometry {
    Geometry {
        cluster_bits: header.cluster_bits,
        within: (1 << header.cluster_bits) - 1,
        l2_span_bits: header.l2_span_bits(),
        extended: header.incompatible & incompatible::EXTENDED_L2 != 0,
        external: header.incompatible & incompatible::DATA_FILE != 0,
        raw_data: header.has_raw_data(),
        version: header.version,
    }
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
