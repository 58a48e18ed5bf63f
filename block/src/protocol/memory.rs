//! An image in memory: for tests of what sits above, and for disks that nobody keeps.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, Limits, Preallocation, Status};
use crate::mem::{Sink, Source};

/// Bytes in a vector. Grows with writes past the end, as a file does.
#[derive(Debug)]
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
}

impl Memory {
    /// An image of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes), read_only: false }
    }

    /// An image of these bytes that refuses writes.
    #[must_use]
    pub fn read_only(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes), read_only: true }
    }

    /// A copy of the content.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn for_write(&self, offset: u64, len: u64) -> Result<MutexGuard<'_, Vec<u8>>, BlockError> {
        if self.read_only {
            return Err(BlockError::new(ErrorKind::Permission, "the image in memory is read-only"));
        }
        let end = offset.checked_add(len).filter(|end| *end <= LARGEST);
        let end = end.ok_or_else(|| BlockError::new(ErrorKind::NoSpace, "the image in memory is full"))?;
        let mut bytes = self.lock();
        if bytes.len() < end as usize {
            bytes.resize(end as usize, 0);
        }
        Ok(bytes)
    }
}

/// Largest image, in bytes.
const LARGEST: u64 = 1 << 40;

impl Layer for Memory {
    fn driver(&self) -> &'static str {
        "memory"
    }

    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn limits(&self) -> Limits {
        Limits { read_only: self.read_only, alignment: 1, physical_block: 512, discard: true, discard_granularity: 512 }
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let bytes = self.lock();
        let start = (offset.min(bytes.len() as u64)) as usize;
        let have = (bytes.len() - start).min(into.len());
        into.part(0, have).copy_from(&bytes[start..start + have]);
        into.part(have, into.len() - have).zero();
        Ok(())
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        let mut bytes = self.for_write(offset, from.len() as u64)?;
        from.copy_to(&mut bytes[offset as usize..][..from.len()]);
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let end = offset.saturating_add(len).min(self.size());
        self.write_zeroes(offset.min(end), end - offset.min(end), true)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> Result<(), BlockError> {
        self.for_write(offset, len)?[offset as usize..][..len as usize].fill(0);
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        let size = self.size();
        Ok(if offset >= size { Status::zero(len) } else { Status::data(len.min(size - offset), Some(offset)) })
    }

    fn resize(&self, size: u64, _preallocation: Preallocation) -> Result<(), BlockError> {
        drop(self.for_write(size, 0)?);
        self.lock().truncate(size as usize);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
