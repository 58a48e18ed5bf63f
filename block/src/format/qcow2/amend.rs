//! Changes of the header and of the whole map, for `rebase`, `commit`, `amend` and `measure`.

use super::entry::{ALL_ALLOCATED, Entry};
use super::header::{Header, LAZY_REFCOUNTS};
use super::{CreateOptions, Qcow2};
use crate::error::{BlockError, ErrorKind};

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
    let l1 = (tables * 8).next_multiple_of(cluster);
    let counted = cluster + tables * cluster + l1 + data;
    // Counts count themselves.
    let per_block = cluster * 8 / u64::from(options.refcount_bits);
    let (mut blocks, mut table) = (1, 1);
    while blocks * per_block < counted / cluster + blocks + table || table * cluster / 8 < blocks {
        blocks = (counted / cluster + blocks + table).div_ceil(per_block);
        table = (blocks * 8).div_ceil(cluster);
    }
    let fully = counted + (blocks + table) * cluster;
    Ok(Measure { required: fully - data + allocated.min(data), fully_allocated: fully })
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

    /// Allows or forbids postponed reference counts.
    ///
    /// # Errors
    /// When the image is of version 2, or the header cannot be written.
    pub fn set_lazy_refcounts(&self, on: bool) -> Result<(), BlockError> {
        self.change_header(|header| {
            if header.version < 3 {
                let text =
                    "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)";
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
            header.compatible =
                if on { header.compatible | LAZY_REFCOUNTS } else { header.compatible & !LAZY_REFCOUNTS };
            Ok(())
        })
    }

    /// Makes a version 2 image a version 3 one (`amend -o compat=1.1`).
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn upgrade(&self) -> Result<(), BlockError> {
        self.change_header(|header| {
            header.version = 3;
            Ok(())
        })
    }

    fn change_header(&self, change: impl FnOnce(&mut Header) -> Result<(), BlockError>) -> Result<(), BlockError> {
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
        let end = crate::layer::Layer::size(self).next_multiple_of(self.geometry.cluster());
        let bitmap = if self.geometry.extended { 0 } else { ALL_ALLOCATED };
        self.change_entries(0..end, true, |_| Some(Entry { word: 0, bitmap }))?;
        self.settle()
    }
}
