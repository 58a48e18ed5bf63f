//! What the targets share: a host file that does not grow without bound, and the use of a disk.

use std::any::Any;
use std::sync::Arc;

use rhea_block::BlockError;
use rhea_block::error::ErrorKind;
use rhea_block::layer::{Layer, Limits, Preallocation, Status, read_vec, write_all};
use rhea_block::mem::{Sink, Source};
use rhea_block::protocol::memory::Memory;

/// Where the host's disk is full, in bytes: what a real file takes as a hole would be real memory here.
const FULL: u64 = 64 << 20;

/// A file in memory that is full at some size.
pub struct SmallFile(Memory);

impl SmallFile {
    /// A file with this content.
    #[must_use]
    pub fn layer(bytes: &[u8]) -> Arc<dyn Layer> {
        Arc::new(Self(Memory::new(bytes.to_vec())))
    }

    fn room(offset: u64, len: u64) -> Result<(), BlockError> {
        match offset.checked_add(len) {
            Some(end) if end <= FULL => Ok(()),
            _ => Err(BlockError::new(ErrorKind::NoSpace, "the small file is full")),
        }
    }
}

impl Layer for SmallFile {
    fn driver(&self) -> &'static str {
        "file"
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.0.read(into, offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        Self::room(offset, from.len() as u64)?;
        self.0.write(from, offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.0.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.0.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        Self::room(offset, len)?;
        self.0.write_zeroes(offset, len, unmap)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.0.status(offset, len)
    }

    fn resize(&self, size: u64, how: Preallocation) -> Result<(), BlockError> {
        Self::room(size, 0)?;
        self.0.resize(size, how)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Reads a disk at its start, its end and between, and asks what is where.
pub fn look_around(disk: &dyn Layer) {
    let size = disk.size();
    for at in [0, 65_536, size / 2, size.saturating_sub(70_000)] {
        let len = size.saturating_sub(at).min(70_000);
        if len > 0 {
            let _ = read_vec(disk, at, len as usize);
            let _ = disk.status(at, size - at);
        }
    }
}

/// Changes a disk in every way that a guest can.
pub fn change(disk: &dyn Layer) {
    let size = disk.size();
    for at in [0, size / 2, size.saturating_sub(9000)] {
        let len = size.saturating_sub(at).min(9000);
        let _ = write_all(disk, &vec![9; len as usize], at);
        let _ = disk.write_zeroes(at, len, true);
        let _ = disk.discard(at, len);
    }
    let _ = disk.flush();
}
