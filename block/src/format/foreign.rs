//! Formats of other programs, for reading: what they share.
//!
//! Each format only says where a run of its disk is ([`Places`]); reading it, and being a [`Layer`], is done here. A
//! table that a format keeps in memory was checked against the file before it was read, so an image never makes us
//! allocate more than it has bytes, and a table cannot name more data than the file can hold.

use std::any::Any;
use std::sync::Arc;

use serde_json::Value;

use crate::error::{BlockError, ErrorKind};
use crate::graph::ImageDetails;
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation, Status, read_vec};
use crate::mem::{Sink, Source};

/// What a run of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Zeroes, stored nowhere.
    Zero,
    /// At this offset of the file.
    At(u64),
    /// This many bytes into these unpacked ones.
    Unpacked(Arc<Vec<u8>>, usize),
}

/// A format's map.
pub(super) trait Places: Send + Sync {
    /// The driver's name in QEMU.
    const DRIVER: &'static str;

    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Bytes of what is allocated together, where the format has such a thing.
    fn cluster_size(&self) -> Option<u64>;

    /// What only this format has, for people; the image is called `filename`.
    fn specific(&self, _filename: &str) -> Option<Value> {
        None
    }

    /// Blocks that are stored nowhere are known to be zero, not just absent.
    const ZEROES: bool = false;

    /// What is at `offset`, which is below the size, and for how many bytes at least (not 0, as many as are easily
    /// told).
    fn place(&self, file: &dyn Layer, offset: u64) -> Result<(Place, u64), BlockError>;
}

/// An image that is only read.
pub(super) struct ReadOnly<P> {
    file: Arc<dyn Layer>,
    places: P,
}

impl<P: Places + 'static> ReadOnly<P> {
    pub(super) fn layer(file: &Arc<dyn Layer>, places: P) -> Arc<dyn Layer> {
        Arc::new(Self { file: file.clone(), places })
    }
}

impl<P: Places + 'static> Layer for ReadOnly<P> {
    fn driver(&self) -> &'static str {
        P::DRIVER
    }

    fn size(&self) -> u64 {
        self.places.size()
    }

    fn limits(&self) -> Limits {
        Limits { read_only: true, discard: false, ..self.file.limits() }
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let rest = into.part(done, into.len() - done);
            if at >= self.size() {
                rest.zero();
                return Ok(());
            }
            let (place, run) = self.places.place(self.file.as_ref(), at)?;
            let run = run.min(self.size() - at).min(rest.len() as u64) as usize;
            let part = rest.part(0, run);
            match place {
                Place::Zero => part.zero(),
                Place::At(host) => self.file.read(part, host)?,
                Place::Unpacked(bytes, skip) => {
                    let bytes = bytes.get(skip..skip + run);
                    part.copy_from(bytes.ok_or_else(|| corrupt(P::DRIVER, "a packed block is too short"))?);
                }
            }
            done += run;
        }
        Ok(())
    }

    fn write(&self, _from: Source<'_>, _offset: u64) -> Result<(), BlockError> {
        Err(not_written(P::DRIVER))
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<(), BlockError> {
        Err(not_written(P::DRIVER))
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> Result<(), BlockError> {
        Err(not_written(P::DRIVER))
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        if offset >= self.size() {
            return Ok(Status::zero(len));
        }
        let (place, run) = self.places.place(self.file.as_ref(), offset)?;
        let run = run.min(self.size() - offset).min(len);
        Ok(match place {
            Place::Zero => Status { allocated: P::ZEROES, ..Status::zero(run) },
            Place::At(host) => Status::data(run, Some(host)),
            Place::Unpacked(..) => Status { compressed: true, ..Status::data(run, None) },
        })
    }

    fn fast(&self, _op: FastOp, _offset: u64, _len: u64) -> Fast {
        Fast::Slow
    }

    fn resize(&self, _size: u64, _preallocation: Preallocation) -> Result<(), BlockError> {
        Err(not_written(P::DRIVER))
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.file.allocated_bytes()
    }

    fn describe(&self, details: &mut ImageDetails) {
        details.cluster_size = self.places.cluster_size();
        details.dirty_flag = details.cluster_size.map(|_| false);
        let data = self.places.specific(&details.filename);
        details.format_specific = data.map(|data| serde_json::json!({ "type": P::DRIVER, "data": data }));
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn not_written(driver: &str) -> BlockError {
    BlockError::new(ErrorKind::Permission, format!("{driver} images are only read: convert the image to qcow2 or raw"))
}

/// The image breaks the format's rules.
pub(super) fn corrupt(driver: &str, what: impl std::fmt::Display) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, format!("{driver}: {what}"))
}

/// The file holds something else, in the words that users of QEMU know.
pub(super) fn not_one(words: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, words)
}

/// The image uses what is not supported.
pub(super) fn unsupported(driver: &str, what: impl std::fmt::Display) -> BlockError {
    BlockError::new(ErrorKind::Unsupported, format!("{driver}: {what}"))
}

/// Little-endian number of `N` bytes at `at`; 0 past the end.
pub(super) fn le<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + N).map_or(0, |b| b.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// Big-endian number of `N` bytes at `at`; 0 past the end.
pub(super) fn be<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + N).map_or(0, |b| b.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// Most bytes of a table that is kept in memory.
const MOST_TABLE: u64 = 256 << 20;

/// Reads a table of `count` entries of `N` bytes that must lie in the file.
pub(super) fn read_table<const N: usize>(
    driver: &str,
    file: &dyn Layer,
    offset: u64,
    count: u64,
) -> Result<Vec<u8>, BlockError> {
    let bytes = count.checked_mul(N as u64).filter(|bytes| *bytes <= MOST_TABLE);
    let bytes = bytes.ok_or_else(|| corrupt(driver, format!("a table of {count} entries is too large")))?;
    if offset.checked_add(bytes).is_none_or(|end| end > file.size()) {
        let text = format!("the table at {offset:#x} of {bytes} bytes is past the end of the file");
        return Err(corrupt(driver, text));
    }
    read_vec(file, offset, bytes as usize)
}

/// A map with one entry for each block of the disk, in memory: most formats are that.
pub(super) struct Blocks {
    /// Host offset of each block; 0 (a header's) for none.
    hosts: Vec<u64>,
    block: u64,
    size: u64,
}

impl Blocks {
    /// Checks that the blocks cover the disk, lie in the file, and are not more than it can hold.
    pub(super) fn new(
        driver: &str,
        file: &dyn Layer,
        hosts: Vec<u64>,
        block: u64,
        size: u64,
    ) -> Result<Self, BlockError> {
        if block == 0 || (hosts.len() as u64).checked_mul(block).is_none_or(|covered| covered < size) {
            return Err(corrupt(driver, format!("{} blocks of {block} bytes do not cover the disk", hosts.len())));
        }
        let used = hosts.iter().filter(|host| **host != 0);
        if let Some(wild) = used.clone().find(|host| **host >= file.size()) {
            return Err(corrupt(driver, format!("a block's offset {wild:#x} is past the end of the file")));
        }
        // The last block may be cut short.
        if (used.count() as u64).saturating_sub(1).checked_mul(block).is_none_or(|bytes| bytes > file.size()) {
            return Err(corrupt(driver, "the table names more blocks than the file can hold"));
        }
        Ok(Self { hosts, block, size })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn block(&self) -> u64 {
        self.block
    }

    pub(super) fn place(&self, offset: u64) -> (Place, u64) {
        let first = (offset / self.block) as usize;
        let within = offset % self.block;
        let host = self.hosts.get(first).copied().unwrap_or(0);
        let rest = self.hosts.get(first + 1..).unwrap_or(&[]);
        let follows = |n: usize, next: u64| match host {
            0 => next == 0,
            _ => next == host + (n as u64 + 1) * self.block,
        };
        let more = rest.iter().enumerate().take_while(|(n, next)| follows(*n, **next)).count() as u64;
        let run = (more + 1) * self.block - within;
        (if host == 0 { Place::Zero } else { Place::At(host + within) }, run)
    }
}

#[cfg(test)]
mod tests;
