//! Guest-physical memory slots: which host memory the guest sees where.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};

/// Slots and their addresses are in units of this many bytes.
const PAGE: u64 = 4096;

/// A memory slot cannot be had or changed.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// Not a whole number of pages.
    #[error("guest memory at {guest:#x}, {length:#x} bytes long, is not made of whole 4 KiB pages")]
    Unaligned {
        /// First guest address.
        guest: u64,
        /// Bytes.
        length: u64,
    },
    /// Not within one mapping of this process.
    #[error("{length:#x} bytes at {start:#x} are not within one region of guest memory")]
    OutOfRange {
        /// Where in the mapping or in guest memory.
        start: u64,
        /// Bytes.
        length: u64,
    },
    /// KVM has no more.
    #[error("all {0} memory slots of the machine are taken")]
    Full(u32),
    /// There is no such slot.
    #[error("memory slot {0} is not in use")]
    Absent(u32),
    /// The kernel refused.
    #[error("KVM refused {length:#x} bytes of memory at guest address {guest:#x}")]
    Refused {
        /// First guest address.
        guest: u64,
        /// Bytes.
        length: u64,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The kernel does not give the dirty pages.
    #[error("KVM does not give the dirty pages of memory slot {slot}")]
    DirtyLog {
        /// Which.
        slot: u32,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// A piece of this process's memory, kept mapped for as long as the value lives.
#[derive(Clone)]
pub struct HostRange {
    start: *mut u8,
    length: u64,
    #[expect(dead_code, reason = "held so that the memory stays mapped")]
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the pointer is never dereferenced here; it is handed to the kernel. What it points to is owned by `owner`,
// which may be sent and shared.
#[expect(unsafe_code, reason = "a pointer that is only handed to the kernel")]
unsafe impl Send for HostRange {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a pointer that is only handed to the kernel")]
unsafe impl Sync for HostRange {}

impl fmt::Debug for HostRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostRange").field("start", &self.start).field("length", &self.length).finish_non_exhaustive()
    }
}

impl HostRange {
    /// `length` bytes of guest RAM from guest address `start`; they must lie in one region of it.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] otherwise.
    pub fn of_ram(ram: &Arc<GuestMemoryMmap<()>>, start: GuestAddress, length: u64) -> Result<Self, MemoryError> {
        let refused = || MemoryError::OutOfRange { start: start.0, length };
        let (region, at) = ram.to_region_addr(start).ok_or_else(refused)?;
        if length == 0 || region.len().checked_sub(at.0).is_none_or(|left| left < length) {
            return Err(refused());
        }
        let host = region.get_host_address(at).map_err(|_| refused())?;
        let owner: Arc<dyn Any + Send + Sync> = Arc::clone(ram) as _;
        Ok(Self { start: host, length, owner })
    }

    /// `length` bytes of a mapping from `offset`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] when they do not lie in it.
    pub fn of_mapping(mapping: &Arc<MmapRegion<()>>, offset: u64, length: u64) -> Result<Self, MemoryError> {
        let size = mapping.size() as u64;
        if length == 0 || offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(MemoryError::OutOfRange { start: offset, length });
        }
        // Within the mapping, and so within usize.
        let offset = usize::try_from(offset).map_err(|_| MemoryError::OutOfRange { start: offset, length })?;
        let owner: Arc<dyn Any + Send + Sync> = Arc::clone(mapping) as _;
        Ok(Self { start: mapping.as_ptr().wrapping_add(offset), length, owner })
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Never: the constructors refuse it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// What the guest may do with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, write, execute.
    ReadWrite,
    /// Read and execute; a write leaves the guest as [`super::Exit::MemoryWrite`].
    ReadOnly,
}

/// A memory slot of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId(u32);

impl SlotId {
    /// KVM's number of the slot.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

#[derive(Debug)]
struct Slot {
    guest: u64,
    host: HostRange,
    access: Access,
    logging: bool,
}

impl Slot {
    fn region(&self, slot: u32) -> kvm_userspace_memory_region {
        let readonly = if self.access == Access::ReadOnly { KVM_MEM_READONLY } else { 0 };
        let logging = if self.logging { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        kvm_userspace_memory_region {
            slot,
            flags: readonly | logging,
            guest_phys_addr: self.guest,
            memory_size: self.host.length,
            userspace_addr: self.host.start as u64,
        }
    }
}

/// The slots of one machine. They keep what they map alive.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Mutex<BTreeMap<u32, Slot>>,
    limit: u32,
}

impl Slots {
    pub(super) fn new(limit: u32) -> Self {
        Self { slots: Mutex::default(), limit }
    }

    pub(super) fn add(
        &self,
        vm: &VmFd,
        guest: u64,
        host: HostRange,
        access: Access,
        logging: bool,
    ) -> Result<SlotId, MemoryError> {
        let length = host.length;
        if ![guest, length, host.start as u64].iter().all(|n| n.is_multiple_of(PAGE)) {
            return Err(MemoryError::Unaligned { guest, length });
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let number = slots.keys().zip(0u32..).take_while(|(have, want)| *have == want).count();
        let number = u32::try_from(number).ok().filter(|n| *n < self.limit).ok_or(MemoryError::Full(self.limit))?;
        let slot = Slot { guest, host, access, logging };
        apply(vm, slot.region(number))?;
        slots.insert(number, slot);
        Ok(SlotId(number))
    }

    pub(super) fn remove(&self, vm: &VmFd, id: SlotId) -> Result<(), MemoryError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(&id.0).ok_or(MemoryError::Absent(id.0))?;
        apply(vm, kvm_userspace_memory_region { memory_size: 0, ..slot.region(id.0) })?;
        // Only now may the memory go: the guest can no longer reach it.
        slots.remove(&id.0);
        Ok(())
    }

    pub(super) fn log_dirty(&self, vm: &VmFd, id: SlotId, on: bool) -> Result<(), MemoryError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get_mut(&id.0).ok_or(MemoryError::Absent(id.0))?;
        let before = std::mem::replace(&mut slot.logging, on);
        apply(vm, slot.region(id.0)).inspect_err(|_| slot.logging = before)
    }

    pub(super) fn take_dirty(&self, vm: &VmFd, id: SlotId) -> Result<Vec<u64>, MemoryError> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(&id.0).ok_or(MemoryError::Absent(id.0))?;
        let refused = |source| MemoryError::DirtyLog { slot: id.0, source };
        let length = usize::try_from(slot.host.length).map_err(|_| refused(kvm_ioctls::Error::new(libc::EFBIG)))?;
        vm.get_dirty_log(id.0, length).map_err(refused)
    }
}

#[expect(unsafe_code, reason = "the kernel keeps the address of the memory")]
fn apply(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), MemoryError> {
    let refused = |source| MemoryError::Refused { guest: region.guest_phys_addr, length: region.memory_size, source };
    // SAFETY: the range lies in a live mapping (the constructors of HostRange), and its owner is kept in the slot until
    // the kernel has been told to forget the range, or the machine's descriptor is closed.
    unsafe { vm.set_user_memory_region(region) }.map_err(refused)
}

#[cfg(test)]
mod tests;
