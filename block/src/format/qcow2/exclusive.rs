//! Changes of the image as a whole: nothing in flight, nothing dirty, nobody else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::maps::Gate;
use super::overlap::Kinds;
use super::{Alloc, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};

/// How long to sleep between looks at I/O that is still going on.
const NAP: Duration = Duration::from_millis(1);

impl Qcow2 {
    /// Runs `work` alone: requests that began before have ended, others wait, reads among them. So it may free host
    /// clusters at once, and change tables behind the map's back; it must not look anything up in the map.
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
            let result = work(&mut alloc);
            self.guard.metadata.load(self.file.as_ref(), &alloc.header, &self.maps().l1, &alloc.counts.table);
            result
        });
        let result = result.and_then(|done| self.write_back().map(|()| done));
        self.end_alone();
        result
    }

    /// Lets everybody go on.
    pub(super) fn end_alone(&self) {
        let mut alloc = lock(&self.alloc);
        let mut maps = self.maps_mut();
        // Whatever happened, memory must not keep what the disk no longer says. Nothing in it is dirty, unless the
        // work could not begin.
        if !maps.has_dirty() {
            maps.clear();
        }
        self.unpacked.clear();
        maps.gate = Gate::Open;
        alloc.alone = false;
        drop((maps, alloc));
        self.settled.notify_all();
    }

    /// Writes header fields that turn the image over, and syncs. After a failure the disk may say either: nothing is
    /// written any more, so that what it says stays true.
    pub(super) fn switch_header(&self, alloc: &mut Alloc, offset: u64, fields: &[u8]) -> Result<(), BlockError> {
        let written = self.guard.write(Kinds::HEADER, fields, offset);
        written.and_then(|()| self.file.flush()).inspect_err(|_| {
            alloc.lost = true;
            self.dirty.store(true, Ordering::Release);
            self.touched.store(false, Ordering::Release);
        })
    }

    /// Lets nobody start and waits for those who did.
    pub(super) fn begin_alone(&self) {
        let mut alloc = lock(&self.alloc);
        while alloc.alone {
            alloc = self.settled.wait(alloc).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        alloc.alone = true;
        self.maps_mut().gate = Gate::Closing;
        drop(alloc);
        self.wait_idle();
        // Writes under way had to look things up to the end. Now nobody does who is not let in.
        self.maps_mut().gate = Gate::Closed;
        self.wait_idle();
    }

    /// Waits for everything that began before.
    fn wait_idle(&self) {
        let old = std::mem::replace(&mut self.maps_mut().token, Arc::new(()));
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

impl Alloc {
    /// Refuses to go on where the disk may say something else than memory.
    pub(super) fn check_not_lost(&self) -> Result<(), BlockError> {
        if self.lost {
            let text = "an earlier change of the qcow2 header failed: close the image, check it and open it again";
            return Err(BlockError::new(ErrorKind::Io, text));
        }
        Ok(())
    }
}
