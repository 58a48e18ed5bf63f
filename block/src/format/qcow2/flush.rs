//! Writing metadata back in an order that a crash cannot break.
//!
//! ```text
//!   1  new refcount blocks ─ sync ─ their table entries        (only when there are new ones)
//!   2  dirty refcount blocks
//!   3  sync            guest data, counts and new tables (zeroes, or a copy of what a snapshot shares) are durable
//!   4  slices of L2 tables, as they were at step 2; L1 entries of the new tables
//!   5  sync            the new map is durable, so the clusters it no longer names have no name left
//!   6  those clusters go to a batch; when I/O from before has ended, their counts go down and they can be taken
//! ```
//!
//! Without the lock between 2 and 6, so that writes go on: a slice that changed meanwhile stays dirty, and what is
//! written at step 4 is the copy from step 2, whose data step 3 made durable.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::entry::OFFSET;
use super::maps::SliceImage;
use super::overlap::Kinds;
use super::refcount::{Batch, Freed};
use super::{Alloc, Qcow2, lock};
use crate::error::BlockError;
use crate::let_go::let_go;

/// What steps 3 to 6 work on.
struct Work {
    /// Dirty slices and where they go.
    slices: Vec<(u64, SliceImage)>,
    l1: Vec<(usize, u64)>,
    freed: Vec<Freed>,
}

impl Qcow2 {
    /// Steps 1 to 6; at the end everything completed before the call is durable.
    pub(super) fn write_back(&self) -> Result<(), BlockError> {
        let counts = !lock(&self.alloc).lazy;
        self.write_back_with(counts)
    }

    /// The same; with postponed counts they are only written if `counts`.
    pub(super) fn write_back_with(&self, counts: bool) -> Result<(), BlockError> {
        let _flushing = lock(&self.flushing);
        let work = {
            let mut alloc = lock(&self.alloc);
            self.guard.alive()?;
            alloc.check_not_lost()?;
            self.release_drained(&mut alloc)?;
            let work = self.gather(&mut alloc);
            // A table of counts that moved must be found again whatever happens.
            let counted = if counts || alloc.counts.table_moved { self.write_counts(&mut alloc) } else { Ok(()) };
            match counted {
                Ok(()) => work,
                Err(e) => {
                    put_back(&mut alloc, work);
                    return Err(e);
                }
            }
        };
        let result = self.publish(&work);
        let mut alloc = lock(&self.alloc);
        if let Err(e) = result {
            put_back(&mut alloc, work);
            return Err(e);
        }
        let mut maps = self.maps_mut();
        maps.written(work.slices.iter().map(|(_, image)| image));
        if !work.freed.is_empty() {
            let token = std::mem::replace(&mut maps.token, Arc::new(()));
            alloc.counts.batches.push_back(Batch { token, freed: work.freed });
        }
        let clean = !maps.has_dirty()
            && alloc.unlinked.is_empty()
            && alloc.counts.pending.is_empty()
            && alloc.counts.batches.is_empty()
            && !alloc.counts.has_dirty();
        self.dirty.store(!clean, Ordering::Release);
        Ok(())
    }

    /// Step 2's copies, and what steps 4 and 6 will do.
    fn gather(&self, alloc: &mut Alloc) -> Work {
        let maps = self.maps();
        let l1_of = |index: usize| maps.l1.get(index).copied().unwrap_or(0);
        let l1: Vec<_> = std::mem::take(&mut alloc.unlinked).into_iter().map(|i| (i, l1_of(i))).collect();
        let place = |key: u64| (l1_of(maps.slicing.l1_index(key)) & OFFSET) + maps.slicing.place(key);
        let slices = maps.dirty_images().into_iter().map(|image| (place(image.key), image)).collect();
        drop(maps);
        Work { slices, l1, freed: std::mem::take(&mut alloc.counts.pending) }
    }

    /// Steps 1 and 2.
    pub(super) fn write_counts(&self, alloc: &mut Alloc) -> Result<(), BlockError> {
        let file = self.file.as_ref();
        if alloc.counts.write_back(&|| file.flush())? {
            let mut fields = alloc.counts.table_offset.to_be_bytes().to_vec();
            fields.extend(alloc.counts.table_clusters.to_be_bytes());
            self.guard.write(Kinds::HEADER, &fields, 48)?;
            alloc.header.reftable_offset = alloc.counts.table_offset;
            alloc.header.reftable_clusters = alloc.counts.table_clusters;
            // The old table is only freed by a flush that syncs after this.
            alloc.counts.table_moved = false;
        }
        Ok(())
    }

    /// Steps 3 to 5.
    fn publish(&self, work: &Work) -> Result<(), BlockError> {
        if self.geometry.external {
            self.data.flush()?;
        }
        self.file.flush()?;
        if work.slices.is_empty() && work.l1.is_empty() {
            return Ok(());
        }
        for (offset, image) in &work.slices {
            self.guard.write(Kinds::L2, &image.bytes, *offset)?;
        }
        let l1_offset = lock(&self.alloc).header.l1_offset;
        for (index, entry) in &work.l1 {
            self.guard.write(Kinds::L1, &entry.to_be_bytes(), l1_offset + 8 * *index as u64)?;
        }
        self.file.flush()
    }

    /// Lets go of what no table on disk names and no I/O from before can touch.
    pub(super) fn release_drained(&self, alloc: &mut Alloc) -> Result<(), BlockError> {
        // In order: an older token may still be held by I/O to a cluster of a younger batch.
        while let Some(batch) = alloc.counts.batches.front_mut() {
            if Arc::strong_count(&batch.token) > 1 {
                break;
            }
            self.unpacked.clear();
            let Some(freed) = batch.freed.pop() else {
                alloc.counts.batches.pop_front();
                continue;
            };
            self.forget_metadata(freed);
            alloc.counts.release(self.file.as_ref(), freed)?;
        }
        Ok(())
    }

    /// Leaves the image as a closed one: everything written, nothing waiting to be freed unless I/O is still going on.
    pub(super) fn settle(&self) -> Result<(), BlockError> {
        // Bitmaps that a first write marked as in use, which then failed, are to lose that mark.
        if !self.touched.load(Ordering::Acquire) && !lock(&self.tracked).loaded {
            return lock(&self.alloc).check_not_lost();
        }
        self.write_back_with(true)?;
        if self.dirty.load(Ordering::Acquire) {
            // The first time freed the clusters' names, this time their counts are written.
            self.write_back_with(true)?;
        }
        self.store_bitmaps()?;
        let mut alloc = lock(&self.alloc);
        if alloc.header.incompatible & super::header::incompatible::DIRTY != 0 {
            // The next write says so again.
            self.touched.store(false, Ordering::Release);
            self.set_dirty_bit(&mut alloc, false)?;
        }
        Ok(())
    }
}

/// Undoes `gather`, after a failure: the next flush tries all of it again.
fn put_back(alloc: &mut Alloc, work: Work) {
    alloc.unlinked.extend(work.l1.iter().map(|(index, _)| *index));
    let later = std::mem::replace(&mut alloc.counts.pending, work.freed);
    alloc.counts.pending.extend(later);
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if !self.read_only
            && !self.guard.is_dead()
            && let Err(e) = self.settle()
        {
            log::error!("qcow2: could not write back metadata at the end: {e}");
        }
        let_go(self.maps.get_mut().unwrap_or_else(PoisonError::into_inner).backing.take());
    }
}
