//! Driver `copy-on-read`: what is read from a backing file is kept in the overlay.

use std::any::Any;
use std::sync::Arc;

use crate::error::{BlockError, ErrorKind};
use crate::format::qcow2::Qcow2;
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation, Status};
use crate::mem::{Sink, Source};

/// Fills the qcow2 image beneath as it is read.
pub struct CopyOnRead {
    inner: Arc<dyn Layer>,
}

impl CopyOnRead {
    /// On `inner`, which must be a qcow2 image that can be written: nothing else has a place to keep what was read.
    ///
    /// # Errors
    /// When it is not.
    pub fn new(inner: Arc<dyn Layer>) -> Result<Self, BlockError> {
        if !inner.as_any().is::<Qcow2>() || inner.limits().read_only {
            let text = "copy-on-read needs a writable qcow2 node beneath";
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok(Self { inner })
    }
}

impl Layer for CopyOnRead {
    fn driver(&self) -> &'static str {
        "copy-on-read"
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        if let Some(image) = self.inner.as_any().downcast_ref::<Qcow2>() {
            image.populate(offset, into.len() as u64)?;
        }
        self.inner.read(into, offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.inner.write(from, offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.inner.flush()
    }

    fn sync_failed(&self) {
        self.inner.sync_failed();
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.inner.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.inner.write_zeroes(offset, len, unmap)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.inner.status(offset, len)
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        // A fast read may come from the backing file.
        if op == FastOp::Read { Fast::Slow } else { self.inner.fast(op, offset, len) }
    }

    fn wants_ring(&self) -> bool {
        self.inner.wants_ring()
    }

    fn is_cached(&self) -> bool {
        self.inner.is_cached()
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        self.inner.resize(size, preallocation)
    }

    fn close(&self) -> Result<(), BlockError> {
        self.inner.close()
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.inner.allocated_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
