//! Changes of the header and of the whole map, for `rebase`, `commit`, `amend` and `measure`.

use super::entry::{ALL_ALLOCATED, Entry};
use super::header::{AUTOCLEAR_RAW_DATA, Compression, Header, LAZY_REFCOUNTS, incompatible};
use super::rebuild::rebuild;
use super::{CreateOptions, EncryptOptions, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, Preallocation};

/// What an image of some content takes (`measure`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measure {
    /// Bytes for what is allocated now.
    pub required: u64,
    /// Bytes when every cluster is.
    pub fully_allocated: u64,
}

/// Bytes that a qcow2 file made with `options` takes for a disk of which `allocated` bytes (whole clusters) hold data.
///
/// # Errors
/// When the options contradict each other.
pub fn measure(options: &CreateOptions, allocated: u64) -> Result<Measure, BlockError> {
    options.check()?;
    let cluster = options.cluster_size;
    let size = options.size.next_multiple_of(512);
    let data = size.next_multiple_of(cluster);
    let entry = if options.extended_l2 { 16 } else { 8 };
    let tables = (data / cluster * entry).div_ceil(cluster);
    if tables * 8 > super::resize::MOST_L1 {
        let text = "The image size is too large (try using a larger cluster size)";
        return Err(BlockError::new(ErrorKind::NoSpace, text));
    }
    let l1 = (tables * 8).next_multiple_of(cluster);
    let counted = cluster + tables * cluster + l1 + data;
    // Counts count themselves.
    let per_block = cluster * 8 / u64::from(options.refcount_bits);
    let (mut blocks, mut table) = (1, 1);
    while blocks * per_block < counted / cluster + blocks + table || table * cluster / 8 < blocks {
        blocks = (counted / cluster + blocks + table).div_ceil(per_block);
        table = (blocks * 8).div_ceil(cluster);
    }
    // As in QEMU the encryption header comes on top, and is not among what is counted.
    let header = match &options.encrypt {
        Some(EncryptOptions::Luks { options, .. }) => options.payload_offset().next_multiple_of(cluster),
        Some(EncryptOptions::Aes { .. }) | None => 0,
    };
    let fully = counted + (blocks + table) * cluster + header;
    Ok(Measure { required: fully - data + allocated.min(data), fully_allocated: fully })
}

/// What an image is to be; `None` leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amend {
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: Option<u32>,
    /// Width of a reference count, a power of two from 1 to 64.
    pub refcount_bits: Option<u32>,
    /// Allow postponed reference counts.
    pub lazy_refcounts: Option<bool>,
    /// The external data file's name in the header; the file itself is not touched.
    pub data_file: Option<String>,
    /// Whether the data file is to stay readable as raw.
    pub raw_data: Option<bool>,
    /// The disk's size in bytes.
    pub size: Option<u64>,
}

impl Qcow2 {
    /// Names another backing file and format in the header, or none; the data stay as they are (`rebase -u`).
    ///
    /// # Errors
    /// When the names do not fit into the header, or it cannot be written.
    pub fn set_backing_name(&self, backing: Option<(&str, Option<&str>)>) -> Result<(), BlockError> {
        if backing.is_some_and(|(name, _)| name.len() > 1023) {
            return Err(BlockError::new(ErrorKind::Invalid, "Backing file name too long"));
        }
        self.change_header(|header| {
            header.backing_file = backing.map(|(name, _)| name.to_owned());
            header.backing_format = backing.and_then(|(_, format)| format).map(str::to_owned);
            Ok(())
        })
    }

    /// Makes the image what `asked` says (`amend`). Everything is looked at before anything is changed.
    ///
    /// # Errors
    /// When the wishes contradict each other or the image, or metadata cannot be read or written.
    pub fn amend(&self, asked: &Amend) -> Result<(), BlockError> {
        self.writable()?;
        // What is looked at is on disk.
        self.write_back()?;
        self.check_amend(asked)?;
        let old = lock(&self.alloc).header.clone();
        let version = asked.version.unwrap_or(old.version);
        if version > old.version {
            if old.snapshots > 0 {
                // Version 3 wants more of their entries, which version 2 allows.
                self.complete_snapshots()?;
            }
            self.change_header(|header| {
                header.version = version;
                Ok(())
            })?;
        }
        if let Some(bits) = asked.refcount_bits.filter(|bits| *bits != 1 << old.refcount_order) {
            self.change_refcount_width(bits.trailing_zeros())?;
        }
        if asked.raw_data == Some(false) && self.geometry.raw_data {
            // From now on only what the map names is seen.
            self.preallocate(0..self.size(), Preallocation::Metadata)?;
            self.write_back()?;
        }
        self.change_header(|header| {
            if let Some(on) = asked.lazy_refcounts {
                let bits = header.compatible & !LAZY_REFCOUNTS;
                header.compatible = if on { bits | LAZY_REFCOUNTS } else { bits };
            }
            if asked.raw_data == Some(false) {
                header.autoclear &= !AUTOCLEAR_RAW_DATA;
            }
            if let Some(name) = &asked.data_file {
                header.data_file = Some(name.clone()).filter(|name| !name.is_empty());
            }
            Ok(())
        })?;
        if let Some(size) = asked.size.filter(|size| *size != self.size()) {
            self.resize(size, Preallocation::Off)?;
        }
        if version < old.version { self.downgrade() } else { Ok(()) }
    }

    fn check_amend(&self, asked: &Amend) -> Result<(), BlockError> {
        let header = &lock(&self.alloc).header;
        let version = asked.version.unwrap_or(header.version);
        let bits = asked.refcount_bits.unwrap_or(1 << header.refcount_order);
        let lazy = asked.lazy_refcounts.unwrap_or(version > 2 && header.compatible & LAZY_REFCOUNTS != 0);
        let external = header.incompatible & incompatible::DATA_FILE != 0;
        let raw = header.autoclear & AUTOCLEAR_RAW_DATA != 0;
        let downgrade = version < header.version;
        // In version 2 a snapshot has the disk's size, whatever that becomes.
        let resized = downgrade
            && header.snapshots > 0
            && self.has_snapshot_of_another_size(header, asked.size.unwrap_or(header.size))?;
        let packed = downgrade && header.compression == Compression::Zstd && self.has_packed_clusters(header)?;
        let left = header.incompatible & incompatible::EXTENDED_L2;
        let incompatible = format!("Cannot downgrade an image with incompatible features {left:#x} set");
        let wrong = [
            (
                asked.data_file.is_some() && !external,
                "data-file can only be set for images that use an external data file",
            ),
            (asked.raw_data == Some(true) && !raw, "data-file-raw cannot be set on existing images"),
            (
                version == 2 && bits != 16 && asked.refcount_bits.is_some(),
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
            ),
            (downgrade && bits != 16, "compat=0.10 requires refcount_bits=16"),
            (
                version == 2 && lazy,
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ),
            (downgrade && external, "Cannot downgrade an image with a data file"),
            (downgrade && left != 0, incompatible.as_str()),
            (packed, "Cannot downgrade an image with zstd compression type and existing compressed clusters"),
            (resized, "Internal snapshots prevent downgrade of image"),
        ];
        match wrong.iter().find(|(is, _)| *is) {
            Some((_, text)) => Err(BlockError::new(ErrorKind::Invalid, *text)),
            None => Ok(()),
        }
    }

    /// Writes all counts anew with another width beside the old ones, then switches the header over.
    fn change_refcount_width(&self, order: u32) -> Result<(), BlockError> {
        self.exclusively(|alloc| {
            rebuild(self.file.as_ref(), Some(order))?;
            let header = Header::read(self.file.as_ref())?;
            alloc.counts = alloc.counts.anew(self.file.as_ref(), &header)?;
            alloc.header = header;
            Ok(())
        })
    }

    pub(super) fn change_header(
        &self,
        change: impl FnOnce(&mut Header) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        self.writable()?;
        self.exclusively(|alloc| {
            let mut header = alloc.header.clone();
            change(&mut header)?;
            self.switch_header(alloc, 0, &header.encode()?)?;
            alloc.header = header;
            Ok(())
        })
    }

    /// Forgets all data, so that the backing file shows again (`commit` ends with it).
    ///
    /// # Errors
    /// When metadata cannot be written.
    pub fn make_empty(&self) -> Result<(), BlockError> {
        self.writable()?;
        self.touch()?;
        let end = Layer::size(self).next_multiple_of(self.geometry.cluster());
        let bitmap = if self.geometry.extended { 0 } else { ALL_ALLOCATED };
        self.change_entries(0..end, true, |_| Some(Entry { word: 0, bitmap }))?;
        self.settle()
    }
}
