//! Rings (section 2.7): the only place that reads descriptors and writes used entries.
//!
//! The `virtio-queue` crate keeps the ring's positions, the notification flags and the event indices. Walking a
//! chain is done here, because a walk must tell a chain that ends from one that is broken, and must put every range
//! against guest RAM before a device sees it.
//!
//! Two kinds of wrong: a [`ChainError`] spoils one chain, which goes back to the driver unused while the queue goes
//! on; a [`QueueError`] spoils the ring, and the device needs a reset.

mod chain;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::device::{DriverEvents, QueueParts, RingLayout, RingPosition};
use crate::log_limit::LogLimit;
use crate::memory::RamView;

pub use chain::{Chain, ChainError, GuestRange, MAX_DESCRIPTORS, host_ranges, lend};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (section 2.7.6).
const AVAIL_NO_INTERRUPT: u16 = 1;

/// The ring itself is unusable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The size is no power of two up to 32768.
    #[error("queue size {0} is not a power of two")]
    Size(u16),
    /// A part of the ring is misaligned (section 2.7: 16, 2 and 4 bytes).
    #[error("ring at {desc:#x}, {avail:#x}, {used:#x} is misaligned")]
    Misaligned {
        /// Descriptor table.
        desc: u64,
        /// Available ring.
        avail: u64,
        /// Used ring.
        used: u64,
    },
    /// A part of the ring is not RAM.
    #[error("ring at {desc:#x}, {avail:#x}, {used:#x} does not lie in guest memory")]
    NotInRam {
        /// Descriptor table.
        desc: u64,
        /// Available ring.
        avail: u64,
        /// Used ring.
        used: u64,
    },
    /// More heads are held than the queue has.
    #[error("{0} chains are held in a queue of {1}")]
    Held(usize, u16),
    /// The driver made a descriptor available that does not exist.
    #[error("available ring names descriptor {head} of {size}")]
    Head {
        /// What it named.
        head: u16,
        /// Number of descriptors.
        size: u16,
    },
    /// The ring's indices make no sense, or its memory cannot be reached.
    #[error("ring cannot be used: {0}")]
    Ring(virtio_queue::Error),
}

impl From<virtio_queue::Error> for QueueError {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Ring(error)
    }
}

/// One running split queue, owned by the thread that serves it.
pub struct VirtQueue {
    index: u16,
    layout: RingLayout,
    ram: RamView,
    doorbell: Arc<EventFd>,
    events: Arc<dyn DriverEvents>,
    queue: Queue,
    /// Nothing is taken until the driver rings.
    dormant: bool,
    /// Used entries were written since the last decision about an interrupt.
    dirty: bool,
    log: LogLimit,
}

impl VirtQueue {
    /// Takes a ring up at `at`.
    ///
    /// # Errors
    /// When the layout or the position makes no sense, or any of the ring is not RAM.
    pub fn new(parts: QueueParts, at: &RingPosition) -> Result<Self, QueueError> {
        let QueueParts { index, ring: layout, event_idx, ready, memory, doorbell, events } = parts;
        let RingLayout { size, desc, avail, used } = layout;
        let misaligned = |_| QueueError::Misaligned { desc, avail, used };
        let mut queue = Queue::new(size).map_err(|_| QueueError::Size(size))?;
        queue.try_set_desc_table_address(GuestAddress(desc)).map_err(misaligned)?;
        queue.try_set_avail_ring_address(GuestAddress(avail)).map_err(misaligned)?;
        queue.try_set_used_ring_address(GuestAddress(used)).map_err(misaligned)?;
        queue.set_event_idx(event_idx);
        queue.set_next_avail(at.next_avail);
        queue.set_next_used(at.next_used);
        queue.set_ready(true);
        let ram = RamView::new(memory);
        if !queue.is_valid(&ram) {
            return Err(QueueError::NotInRam { desc, avail, used });
        }
        if at.held.len() > usize::from(size) {
            return Err(QueueError::Held(at.held.len(), size));
        }
        if let Some(&head) = at.held.iter().find(|&&head| head >= size) {
            return Err(QueueError::Head { head, size });
        }
        let log = LogLimit::default();
        Ok(Self { index, layout, ram, doorbell, events, queue, dormant: !ready, dirty: false, log })
    }

    /// Number of the queue within its device.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors: also the most chains that can be in flight.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Guest RAM as this queue's thread sees it.
    #[must_use]
    pub fn ram(&self) -> &RamView {
        &self.ram
    }

    /// Signalled when the driver has made buffers available.
    #[must_use]
    pub fn doorbell(&self) -> &Arc<EventFd> {
        &self.doorbell
    }

    /// The way to the driver.
    #[must_use]
    pub fn events(&self) -> &Arc<dyn DriverEvents> {
        &self.events
    }

    /// Whether the driver has to ring before the ring means anything.
    #[must_use]
    pub fn is_dormant(&self) -> bool {
        self.dormant
    }

    /// The driver has rung.
    pub fn rung(&mut self) {
        self.dormant = false;
    }

    /// Appends heads of available chains to `heads`, at most `limit` of them.
    ///
    /// # Errors
    /// When the available ring makes no sense.
    pub fn take(&mut self, limit: usize, heads: &mut Vec<u16>) -> Result<(), QueueError> {
        let size = self.layout.size;
        for chain in self.queue.iter(&self.ram)?.take(limit) {
            let head = chain.head_index();
            if head >= size {
                return Err(QueueError::Head { head, size });
            }
            heads.push(head);
        }
        Ok(())
    }

    /// Whether [`VirtQueue::take`] would find a chain, or something wrong.
    #[must_use]
    pub fn has_more(&self) -> bool {
        let index = self.ram.load(GuestAddress(self.layout.avail + 2), Ordering::Acquire).map(u16::from_le);
        index.ok() != Some(self.queue.next_avail())
    }

    /// Follows the chain at `head` into `chain`, whose memory is used again.
    ///
    /// # Errors
    /// When the chain is broken; `chain` is then of no use but for its memory.
    pub fn walk(&self, head: u16, chain: &mut Chain) -> Result<(), ChainError> {
        chain.begin(head);
        let mut table = self.layout.desc;
        let mut count = u32::from(self.layout.size);
        let mut index = head;
        let mut indirect = false;
        // Each table holds `count` descriptors: following more links than that means a loop (section 2.7.5.2). An
        // indirect table may claim to be as long as memory, and its buffers may hold no bytes.
        let most = u32::try_from(MAX_DESCRIPTORS).unwrap_or(u32::MAX);
        let mut left = count;
        loop {
            if u32::from(index) >= count {
                return Err(ChainError::Index { index, count });
            }
            left = left.checked_sub(1).ok_or(if count > most { ChainError::TooMany } else { ChainError::Loop })?;
            let descriptor = self.descriptor(table, index)?;
            if descriptor.refers_to_indirect_table() {
                if indirect || descriptor.has_next() {
                    return Err(ChainError::IndirectMisplaced);
                }
                (table, count) = chain::indirect_table(&descriptor)?;
                (index, left, indirect) = (0, count.min(most), true);
                continue;
            }
            chain.push(&self.ram, descriptor.addr().0, descriptor.len(), descriptor.is_write_only())?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
    }

    fn descriptor(&self, table: u64, index: u16) -> Result<Descriptor, ChainError> {
        let size = size_of::<Descriptor>() as u64;
        let addr = table.checked_add(u64::from(index) * size).ok_or(ChainError::Table { addr: table })?;
        self.ram.read_value(addr).map_err(|_| ChainError::Table { addr })
    }

    /// Gives a chain back; `written` is how many bytes of its device-writable part were written, from its start.
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.queue.add_used(&self.ram, head, written)?;
        self.dirty = true;
        Ok(())
    }

    /// Gives a broken chain back untouched, and says so in the log.
    ///
    /// # Errors
    /// As [`VirtQueue::push_used`].
    pub fn reject(&mut self, head: u16, why: &dyn std::error::Error) -> Result<(), QueueError> {
        self.log.warn(format_args!("virtio queue {}: chain {head} refused: {why}", self.index));
        self.push_used(head, 0)
    }

    /// Asks the driver not to ring while chains are being taken. A hint: it may ring all the same.
    ///
    /// # Errors
    /// When the used ring cannot be written.
    pub fn suppress_doorbell(&mut self) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(&self.ram)?)
    }

    /// Asks the driver to ring again, and then says whether chains came in meanwhile: if so, take them.
    ///
    /// # Errors
    /// When the rings cannot be reached.
    pub fn listen(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&self.ram)?)
    }

    /// Interrupts the driver if used entries were written since the last call and it wants to know of them
    /// (sections 2.7.7.2 and 2.7.10).
    ///
    /// # Errors
    /// When the rings cannot be reached.
    pub fn interrupt(&mut self) -> Result<(), QueueError> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        if self.queue.needs_notification(&self.ram)? && !self.interrupts_off()? {
            self.events.queue_used(self.index);
        }
        Ok(())
    }

    /// The older, cruder way to be left alone; it counts only without event indices (section 2.7.7).
    fn interrupts_off(&self) -> Result<bool, QueueError> {
        if self.queue.event_idx_enabled() {
            return Ok(false);
        }
        let flags: u16 = self
            .ram
            .load(GuestAddress(self.layout.avail), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u16::from_le(flags) & AVAIL_NO_INTERRUPT != 0)
    }

    /// Where the queue is; `held` names the chains taken and not returned.
    #[must_use]
    pub fn position(&self, held: Vec<u16>) -> RingPosition {
        RingPosition { next_avail: self.queue.next_avail(), next_used: self.queue.next_used(), held }
    }
}

#[cfg(test)]
mod tests;
