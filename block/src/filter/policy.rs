//! What a node does with discards and zeroes: `discard=` and `detect-zeroes=`.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation, quickest};
use crate::mem::Source;
use crate::spec::DetectZeroes;
use crate::throttle::Group;

/// The rules of a node, which change while it is used. A request goes by what they say when it comes.
#[derive(Debug)]
pub struct Rules {
    discard: AtomicBool,
    /// A [`DetectZeroes`] as a number.
    detect_zeroes: AtomicU8,
}

impl Rules {
    /// Discards are passed on or not, and zeroes are looked for or not.
    #[must_use]
    pub fn new(discard: bool, detect_zeroes: DetectZeroes) -> Arc<Self> {
        Arc::new(Self { discard: AtomicBool::new(discard), detect_zeroes: AtomicU8::new(detect_zeroes as u8) })
    }

    /// Has them say something else.
    pub fn set(&self, discard: bool, detect_zeroes: DetectZeroes) {
        self.discard.store(discard, Ordering::Relaxed);
        self.detect_zeroes.store(detect_zeroes as u8, Ordering::Relaxed);
    }

    fn discard(&self) -> bool {
        self.discard.load(Ordering::Relaxed)
    }

    fn looks_for_zeroes(&self) -> bool {
        self.detect_zeroes.load(Ordering::Relaxed) != DetectZeroes::Off as u8
    }

    fn unmaps_zeroes(&self) -> bool {
        self.detect_zeroes.load(Ordering::Relaxed) == DetectZeroes::Unmap as u8 && self.discard()
    }
}

/// A layer with a node's rules on top. It shows itself as the layer beneath.
pub struct Policy {
    inner: Arc<dyn Layer>,
    rules: Arc<Rules>,
    read_only: bool,
}

impl Policy {
    /// `inner` with the rules on top, and writes refused if it is to be `read_only`.
    #[must_use]
    pub fn over(inner: Arc<dyn Layer>, rules: Arc<Rules>, read_only: bool) -> Arc<dyn Layer> {
        Arc::new(Self { inner, rules, read_only })
    }

    fn writable(&self) -> Result<(), BlockError> {
        if self.read_only { Err(BlockError::new(ErrorKind::Permission, "the node is read-only")) } else { Ok(()) }
    }
}

impl Layer for Policy {
    forward!(inner: driver, size, read, flush, sync_failed, status, wants_ring, is_cached, close, allocated_bytes, highest_write, describe, populate);

    fn limits(&self) -> Limits {
        let inner = self.inner.limits();
        Limits { read_only: inner.read_only || self.read_only, discard: inner.discard && self.rules.discard(), ..inner }
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.writable()?;
        if self.rules.looks_for_zeroes() && from.is_zero() {
            return self.inner.write_zeroes(offset, from.len() as u64, self.rules.unmaps_zeroes());
        }
        self.inner.write(from, offset)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.writable()?;
        if self.rules.discard() { self.inner.discard(offset, len) } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.writable()?;
        self.inner.write_zeroes(offset, len, unmap && self.rules.discard())
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        if op == FastOp::Write && (self.read_only || self.rules.looks_for_zeroes()) {
            return Fast::Slow;
        }
        self.inner.fast(op, offset, len)
    }

    fn short_cut(&self) -> Option<Arc<dyn Layer>> {
        (!self.rules.looks_for_zeroes()).then(|| quickest(&self.inner))
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        self.writable()?;
        self.inner.resize(size, preallocation)
    }

    fn throttled(&self) -> Option<(Arc<Group>, Arc<dyn Layer>)> {
        let (group, inner) = self.inner.throttled()?;
        Some((group, Self::over(inner, self.rules.clone(), self.read_only)))
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}
