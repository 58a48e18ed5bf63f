//! Where one layer stands on another that may come to be a third: `blockdev-reopen` of `file`.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::BlockError;
use crate::graph::ImageDetails;
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation, Status, quickest};
use crate::mem::{Sink, Source};

/// The layer beneath another. As long as it is the first one, a request costs a load more than without.
pub struct Place {
    first: Arc<dyn Layer>,
    moved: AtomicBool,
    /// Nothing until it is another than the first.
    now: RwLock<Option<Arc<dyn Layer>>>,
}

impl Place {
    /// With `first` beneath.
    #[must_use]
    pub fn on(first: Arc<dyn Layer>) -> Arc<Self> {
        Arc::new(Self { first, moved: AtomicBool::new(false), now: RwLock::new(None) })
    }

    /// Puts `layer` beneath. Requests under way by the methods of [`Layer`] are waited for; whoever moves bytes by
    /// [`Layer::fast`] must be held still.
    pub fn move_to(&self, layer: Arc<dyn Layer>) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Some(layer);
        self.moved.store(true, Ordering::Release);
    }

    fn with<R>(&self, act: impl FnOnce(&Arc<dyn Layer>) -> R) -> R {
        if !self.moved.load(Ordering::Acquire) {
            return act(&self.first);
        }
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        act(now.as_ref().unwrap_or(&self.first))
    }
}

impl Layer for Place {
    fn driver(&self) -> &'static str {
        self.with(|layer| layer.driver())
    }

    fn highest_write(&self) -> u64 {
        self.with(|layer| layer.highest_write())
    }

    fn size(&self) -> u64 {
        self.with(|layer| layer.size())
    }

    fn limits(&self) -> Limits {
        self.with(|layer| layer.limits())
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.with(|layer| layer.read(into, offset))
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.with(|layer| layer.write(from, offset))
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.with(|layer| layer.flush())
    }

    fn sync_failed(&self) {
        self.with(|layer| layer.sync_failed());
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.with(|layer| layer.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.with(|layer| layer.write_zeroes(offset, len, unmap))
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.with(|layer| layer.status(offset, len))
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        self.with(|layer| layer.fast(op, offset, len))
    }

    fn short_cut(&self) -> Option<Arc<dyn Layer>> {
        Some(self.with(quickest))
    }

    fn wants_ring(&self) -> bool {
        self.with(|layer| layer.wants_ring())
    }

    fn is_cached(&self) -> bool {
        self.with(|layer| layer.is_cached())
    }

    fn populate(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.with(|layer| layer.populate(offset, len))
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        self.with(|layer| layer.resize(size, preallocation))
    }

    fn close(&self) -> Result<(), BlockError> {
        self.with(|layer| layer.close())
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.with(|layer| layer.allocated_bytes())
    }

    fn describe(&self, details: &mut ImageDetails) {
        self.with(|layer| layer.describe(details));
    }

    /// A place is nobody's driver: who stands on it asks by the methods.
    fn as_any(&self) -> &dyn Any {
        self
    }
}
