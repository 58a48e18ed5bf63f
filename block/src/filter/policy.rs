//! What a node does with discards and zeroes: `discard=` and `detect-zeroes=`.

use std::any::Any;
use std::sync::Arc;

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation};
use crate::mem::Source;
use crate::spec::DetectZeroes;
use crate::throttle::Group;

/// A layer with a rule for discards and zeroes on top. It shows itself as the layer beneath.
pub struct Policy {
    inner: Arc<dyn Layer>,
    discard: bool,
    detect_zeroes: DetectZeroes,
    read_only: bool,
}

impl Policy {
    /// `inner` as it is, if there is nothing to change, or with the rules on top.
    #[must_use]
    pub fn over(inner: Arc<dyn Layer>, discard: bool, detect_zeroes: DetectZeroes, read_only: bool) -> Arc<dyn Layer> {
        let limits = inner.limits();
        if detect_zeroes == DetectZeroes::Off && discard == limits.discard && read_only == limits.read_only {
            return inner;
        }
        Arc::new(Self { inner, discard, detect_zeroes, read_only })
    }

    fn writable(&self) -> Result<(), BlockError> {
        if self.read_only { Err(BlockError::new(ErrorKind::Permission, "the node is read-only")) } else { Ok(()) }
    }
}

impl Layer for Policy {
    forward!(inner: driver, size, read, flush, sync_failed, status, wants_ring, is_cached, close, allocated_bytes, highest_write, describe);

    fn limits(&self) -> Limits {
        let inner = self.inner.limits();
        Limits { read_only: inner.read_only || self.read_only, discard: inner.discard && self.discard, ..inner }
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.writable()?;
        if self.detect_zeroes != DetectZeroes::Off && from.is_zero() {
            let unmap = self.detect_zeroes == DetectZeroes::Unmap && self.discard;
            return self.inner.write_zeroes(offset, from.len() as u64, unmap);
        }
        self.inner.write(from, offset)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.writable()?;
        if self.discard { self.inner.discard(offset, len) } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.writable()?;
        self.inner.write_zeroes(offset, len, unmap && self.discard)
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        if op == FastOp::Write && (self.read_only || self.detect_zeroes != DetectZeroes::Off) {
            return Fast::Slow;
        }
        self.inner.fast(op, offset, len)
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        self.writable()?;
        self.inner.resize(size, preallocation)
    }

    fn throttled(&self) -> Option<(Arc<Group>, Arc<dyn Layer>)> {
        let (group, inner) = self.inner.throttled()?;
        Some((group, Self::over(inner, self.discard, self.detect_zeroes, self.read_only)))
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}
