//! Guest ranges whose new place is being written, and who waits for them.

use std::ops::Range;
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};

use super::{Alloc, Qcow2};
use crate::error::BlockError;
use crate::haste;

/// A range in preparation (whole clusters). Each has its own waiters: a guest that writes a disk from one end to the
/// other has many requests in few clusters, and not all of them are to wake when one cluster is done.
pub(super) struct Busy {
    range: Range<u64>,
    ended: Arc<Condvar>,
}

impl Alloc {
    /// Registers a range that [`Qcow2::wait_settled`] found free.
    pub(super) fn begin(&mut self, range: Range<u64>) {
        self.in_flight.push(Busy { range, ended: Arc::default() });
    }

    /// The range is done, whichever way. To be notified once the lock is free: who waits for it.
    pub(super) fn end(&mut self, range: &Range<u64>) -> Option<Arc<Condvar>> {
        let position = self.in_flight.iter().position(|busy| busy.range == *range);
        position.map(|n| self.in_flight.swap_remove(n).ended)
    }

    /// Where the first range in preparation begins that ends behind `offset`.
    pub(super) fn busy_behind(&self, offset: u64) -> Option<u64> {
        self.in_flight.iter().map(|busy| &busy.range).filter(|range| range.end > offset).map(|range| range.start).min()
    }
}

impl Qcow2 {
    /// Waits until nothing in preparation overlaps `range`, and nobody changes the image as a whole.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WouldWait`] instead, where the thread must not wait.
    pub(super) fn wait_settled<'a>(
        &'a self,
        mut alloc: MutexGuard<'a, Alloc>,
        range: &Range<u64>,
    ) -> Result<MutexGuard<'a, Alloc>, BlockError> {
        loop {
            let overlaps = |busy: &&Busy| busy.range.start < range.end && range.start < busy.range.end;
            let waited = if alloc.alone {
                haste::may_wait()?;
                self.settled.wait(alloc)
            } else if let Some(busy) = alloc.in_flight.iter().find(overlaps) {
                haste::may_wait()?;
                let ended = busy.ended.clone();
                ended.wait(alloc)
            } else {
                return Ok(alloc);
            };
            alloc = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}
