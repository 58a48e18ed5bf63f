//! Changes of the image as a whole: nothing in flight, nothing dirty, nobody else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Alloc, Qcow2, lock};
use crate::error::BlockError;

/// How long to sleep between looks at I/O that is still going on.
const NAP: Duration = Duration::from_millis(1);

impl Qcow2 {
    /// Runs `work` alone. Requests wait meanwhile; reads that began before may go on, their clusters are kept.
    pub(super) fn exclusively<T>(
        &self,
        work: impl FnOnce(&mut Alloc) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        self.touch()?;
        self.begin_alone();
        let result = self.write_back().and_then(|()| self.write_back()).and_then(|()| {
            let _flushing = lock(&self.flushing);
            self.dirty.store(true, Ordering::Release);
            let mut alloc = lock(&self.alloc);
            alloc.counts.packed_end = 0;
            // Tables come and go in there; from now on only the header's own place is known.
            self.metadata.write().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
            work(&mut alloc)
        });
        // Whatever happened, memory must not keep what the disk no longer says.
        let result = result.and_then(|done| self.write_back().map(|()| done));
        lock(&self.alloc).alone = false;
        self.maps_mut().frozen = false;
        self.settled.notify_all();
        result
    }

    /// Lets nobody start and waits for those who did.
    fn begin_alone(&self) {
        let mut alloc = lock(&self.alloc);
        while alloc.alone {
            alloc = self.settled.wait(alloc).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        alloc.alone = true;
        drop(alloc);
        let old = {
            let mut maps = self.maps_mut();
            maps.frozen = true;
            std::mem::replace(&mut maps.token, Arc::new(()))
        };
        loop {
            let alloc = lock(&self.alloc);
            let older = alloc.counts.batches.iter().all(|batch| Arc::strong_count(&batch.token) == 1);
            if alloc.in_flight.is_empty() && older && Arc::strong_count(&old) == 1 {
                return;
            }
            drop(alloc);
            std::thread::sleep(NAP);
        }
    }
}
