//! Making new images.

use std::sync::Arc;

use super::header::{AUTOCLEAR_RAW_DATA, Compression, Header, LAZY_REFCOUNTS, incompatible};
use super::refcount::set_count;
use super::{EncryptOptions, OpenOptions, Qcow2};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, Preallocation, write_all};

/// What a new image is like (`-o` of `create`).
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Size of the disk in bytes; rounded up to 512.
    pub size: u64,
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u32,
    /// Bytes of a cluster, a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Width of a reference count, a power of two from 1 to 64.
    pub refcount_bits: u32,
    /// Allow postponed reference counts.
    pub lazy_refcounts: bool,
    /// Subclusters.
    pub extended_l2: bool,
    /// How compressed clusters will be packed.
    pub compression: Compression,
    /// The backing file's name and format for the header.
    pub backing: Option<(String, Option<String>)>,
    /// The external data file's name for the header, and whether it is to stay readable as raw.
    pub data_file: Option<(String, bool)>,
    /// How space is set aside.
    pub preallocation: Preallocation,
    /// How the guest's data are encrypted.
    pub encrypt: Option<EncryptOptions>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: 3,
            cluster_size: 65536,
            refcount_bits: 16,
            lazy_refcounts: false,
            extended_l2: false,
            compression: Compression::Zlib,
            backing: None,
            data_file: None,
            preallocation: Preallocation::Off,
            encrypt: None,
        }
    }
}

fn invalid(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, text)
}

impl CreateOptions {
    /// Whether an image can be like this.
    ///
    /// # Errors
    /// When a value is none that the format has, or two contradict each other.
    pub fn check(&self) -> Result<(), BlockError> {
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            return Err(invalid("Cluster size must be a power of two between 512 and 2048k"));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err(invalid("Refcount width must be a power of two and may not exceed 64 bits"));
        }
        if !(2..=3).contains(&self.version) {
            return Err(invalid(format!("qcow2 version {} is not known; 2 and 3 are", self.version)));
        }
        if self.version == 2 {
            let needs = [
                (self.refcount_bits != 16, "Different refcount widths than 16 bits require"),
                (self.lazy_refcounts, "Lazy refcounts only supported with"),
                (self.extended_l2, "Extended L2 entries are only supported with"),
                (self.compression != Compression::Zlib, "Non-zlib compression type is only supported with"),
                (self.data_file.is_some(), "External data files are only supported with"),
            ];
            if let Some((_, what)) = needs.iter().find(|(set, _)| *set) {
                let or = if self.refcount_bits != 16 { "or" } else { "and" };
                return Err(invalid(format!("{what} compatibility level 1.1 {or} above (use version=v3 or greater)")));
            }
        }
        if self.extended_l2 && self.cluster_size < 16384 {
            return Err(invalid("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"));
        }
        if matches!(&self.data_file, Some((_, true))) && self.backing.is_some() {
            return Err(invalid("Backing file and data-file-raw cannot be used at the same time"));
        }
        if self.preallocation != Preallocation::Off && self.backing.is_some() && !self.extended_l2 {
            return Err(invalid(
                "Backing file and preallocation can only be used at the same time if extended_l2 is on",
            ));
        }
        Ok(())
    }

    fn header(&self) -> Header {
        let mut header = Header {
            version: self.version,
            cluster_bits: self.cluster_size.trailing_zeros(),
            size: self.size.next_multiple_of(512),
            crypt_method: 0,
            l1_size: 0,
            l1_offset: 0,
            reftable_offset: self.cluster_size,
            reftable_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: if self.lazy_refcounts { LAZY_REFCOUNTS } else { 0 },
            autoclear: 0,
            refcount_order: self.refcount_bits.trailing_zeros(),
            compression: self.compression,
            unknown_fields: Vec::new(),
            backing_file: self.backing.as_ref().map(|(name, _)| name.clone()),
            backing_format: self.backing.as_ref().and_then(|(_, format)| format.clone()),
            data_file: self.data_file.as_ref().map(|(name, _)| name.clone()),
            extensions: Vec::new(),
        };
        if self.compression != Compression::Zlib {
            header.incompatible |= incompatible::COMPRESSION;
        }
        if self.extended_l2 {
            header.incompatible |= incompatible::EXTENDED_L2;
        }
        if let Some((_, raw)) = &self.data_file {
            header.incompatible |= incompatible::DATA_FILE;
            if *raw {
                header.autoclear |= AUTOCLEAR_RAW_DATA;
            }
        }
        header
    }
}

/// Writes a new image into `file`, whose content is lost, and opens it. `data` is the external data file.
///
/// # Errors
/// When the options contradict each other or the host cannot hold the image.
pub fn create(
    file: &Arc<dyn Layer>,
    data: Option<Arc<dyn Layer>>,
    options: &CreateOptions,
) -> Result<Qcow2, BlockError> {
    options.check()?;
    // What another program writes into a raw data file is to be seen: the map names all of it from the start.
    let map_only = matches!((&options.data_file, options.preallocation), (Some((_, true)), Preallocation::Off));
    let preallocation = if map_only { Preallocation::Metadata } else { options.preallocation };
    let mut header = options.header();
    let cluster = options.cluster_size;
    let l1 = header.l1_needed(header.size);
    if l1 * 8 > 32 << 20 {
        return Err(invalid("The image size is too large for file format 'qcow2' (try using a larger cluster size)"));
    }
    header.l1_size = l1 as u32;
    let l1_clusters = (l1 * 8).div_ceil(cluster);
    // Cluster 0 the header, then the refcount table, the blocks, the L1 table.
    let per_block = cluster * 8 / u64::from(options.refcount_bits);
    let (mut blocks, mut table) = (1, 1);
    while blocks * per_block < 1 + table + blocks + l1_clusters || table * cluster / 8 < blocks {
        blocks = (1 + table + blocks + l1_clusters).div_ceil(per_block);
        table = (blocks * 8).div_ceil(cluster);
    }
    header.reftable_clusters = table as u32;
    header.l1_offset = (1 + table + blocks) * cluster;
    file.resize(0, Preallocation::Off).or_else(|e| if file.size() > 0 { Ok(()) } else { Err(e) })?;
    write_all(file.as_ref(), &header.encode()?, 0)?;
    let mut entries = vec![0u8; (table * cluster) as usize];
    for n in 0..blocks {
        entries[n as usize * 8..][..8].copy_from_slice(&((1 + table + n) * cluster).to_be_bytes());
    }
    write_all(file.as_ref(), &entries, cluster)?;
    let used = 1 + table + blocks + l1_clusters;
    let mut counts = vec![0u8; (blocks * cluster) as usize];
    (0..used).for_each(|n| set_count(&mut counts, header.refcount_order, n, 1));
    write_all(file.as_ref(), &counts, (1 + table) * cluster)?;
    // As in QEMU the file ends with the table, not with its last cluster.
    file.write_zeroes(header.l1_offset, l1 * 8, false)?;
    if let Some(data) = &data {
        data.resize(
            header.size,
            if preallocation == Preallocation::Metadata { Preallocation::Off } else { preallocation },
        )?;
    }
    file.flush()?;
    let mut image =
        Qcow2::open(file.clone(), &OpenOptions { data_file: data, discard: true, ..OpenOptions::default() })?;
    if let Some(encrypt) = &options.encrypt {
        image.encrypt_new(encrypt)?;
    }
    image.preallocate(0..header.size, preallocation)?;
    image.settle()?;
    Ok(image)
}
