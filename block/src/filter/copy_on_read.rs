//! Driver `copy-on-read`: what is read from a backing file is kept in the overlay.

use std::any::Any;
use std::sync::Arc;

use crate::error::{BlockError, ErrorKind};
use crate::format::qcow2::Qcow2;
use crate::layer::{Fast, FastOp, Layer};
use crate::mem::Sink;

/// Fills the qcow2 image beneath as it is read.
pub struct CopyOnRead {
    inner: Arc<dyn Layer>,
}

impl CopyOnRead {
    /// On `inner`, of which [`CopyOnRead::check`] has approved.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>) -> Self {
        Self { inner }
    }

    /// Refuses what is no qcow2 image that can be written: nothing else has a place to keep what was read.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(inner: &dyn Layer) -> Result<(), BlockError> {
        if !inner.as_any().is::<Qcow2>() || inner.limits().read_only {
            let text = "copy-on-read needs a writable qcow2 node beneath";
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok(())
    }
}

impl Layer for CopyOnRead {
    forward!(inner: size, limits, write, flush, sync_failed, discard, write_zeroes, status, wants_ring, is_cached, resize, close, allocated_bytes, highest_write);

    fn driver(&self) -> &'static str {
        "copy-on-read"
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.inner.populate(offset, into.len() as u64)?;
        self.inner.read(into, offset)
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        // A fast read may come from the backing file.
        if op == FastOp::Read { Fast::Slow } else { self.inner.fast(op, offset, len) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
