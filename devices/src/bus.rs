//! The contract between a bus and what answers on it, and the bus itself.
//!
//! A device *returns* what its write means for the machine ([`Effect`]); the vCPU thread performs it after the
//! device is unlocked. A device therefore never reaches into the machine, and no lock is held while it changes.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use thiserror::Error;

use crate::pci::Bdf;

/// An access the device has no meaning for: a bad register, width or alignment.
///
/// The bus logs it through a rate limit and answers all-ones, as an unclaimed address does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no register at offset {offset:#x} for an access of {len} bytes")]
pub struct BusFault {
    /// Offset within the device's range, in bytes.
    pub offset: u64,
    /// Width of the access, in bytes.
    pub len: usize,
}

/// What the guest asked the machine's power logic to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Reset every device and vCPU (keyboard controller, port 0xcf9, ACPI reset register, triple fault).
    Reset,
    /// ACPI S5: power off.
    PowerOff,
    /// ACPI S3: suspend to RAM.
    Suspend,
    /// `isa-debug-exit`: leave the process with this exit status.
    Exit(u8),
}

/// What the guest's kernel says of itself when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// It has panicked.
    Panicked,
    /// It has panicked and goes on in the kernel that was loaded for that.
    Loaded,
}

/// What a write means beyond the device's own registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The PCI function at this address decodes other ranges than before: compare
    /// [`crate::pci::PciFunction::regions`] with what is mapped. Naming the function and not the move makes the
    /// step idempotent, so that two vCPUs moving BARs at once end in the right place.
    Remap(Bdf),
    /// A memory that the guest reaches without asking shows something else than before: compare
    /// [`crate::flash::Flash::shows_array`] with what is mapped.
    RemapMemory,
    /// The power logic has to act.
    Power(PowerRequest),
    /// The guest's kernel has failed; it goes on until somebody stops it.
    Crash(Crash),
    /// The guest lets go of these PCI slots of bus 0, a bit each: what is in them goes away.
    Eject(u32),
    /// The guest set its clock. It is now so many seconds ahead of what it would show if nobody had ever set it and the
    /// host's time of day drove it.
    ClockSet(i64),
}

/// Something that answers on a bus and does its own locking.
pub trait BusDevice: Send + Sync {
    /// Fills `data` (1, 2, 4 or 8 bytes) from `offset` bytes into the device's range.
    ///
    /// # Errors
    /// [`BusFault`] where there is no such register; the caller then answers all-ones.
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault>;

    /// Takes `data` (1, 2, 4 or 8 bytes) at `offset` bytes into the device's range.
    ///
    /// # Errors
    /// [`BusFault`] where there is no such register; the write is dropped.
    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault>;
}

/// A simple chip: it never sees a lock. `Mutex<D>` makes it a [`BusDevice`].
pub trait Registers: Send {
    /// As [`BusDevice::read`].
    ///
    /// # Errors
    /// As [`BusDevice::read`].
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BusFault>;
    /// As [`BusDevice::write`].
    ///
    /// # Errors
    /// As [`BusDevice::write`].
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<Effect, BusFault>;
}

impl<D: Registers> BusDevice for Mutex<D> {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        self.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        self.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data)
    }
}

/// Two devices want the same address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("address range {base:#x}+{len:#x} overlaps {other_base:#x}+{other_len:#x}")]
pub struct Overlap {
    /// Start of the refused range.
    pub base: u64,
    /// Length of the refused range.
    pub len: u64,
    /// Start of the range already there.
    pub other_base: u64,
    /// Length of the range already there.
    pub other_len: u64,
}

#[derive(Clone)]
struct Entry {
    base: u64,
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// An address space (ports or memory) of devices. Look-up is a binary search over a sorted table: O(log n).
///
/// The table lock is dropped before the device is called.
#[derive(Default)]
pub struct Bus {
    entries: RwLock<Vec<Entry>>,
}

impl Bus {
    /// An empty address space.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `device` answer for `len` bytes from `base`.
    ///
    /// # Errors
    /// [`Overlap`] if any of it is taken, or the range is empty or wraps.
    pub fn insert(&self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        let refused = |other_base, other_len| Overlap { base, len, other_base, other_len };
        let end = base.checked_add(len).filter(|_| len > 0).ok_or(refused(base, len))?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let at = entries.partition_point(|e| e.base < base);
        if let Some(next) = entries.get(at).filter(|e| e.base < end) {
            return Err(refused(next.base, next.len));
        }
        if let Some(prev) = at.checked_sub(1).and_then(|i| entries.get(i)).filter(|e| e.base + e.len > base) {
            return Err(refused(prev.base, prev.len));
        }
        entries.insert(at, Entry { base, len, device });
        Ok(())
    }

    /// Takes away what starts at `base`; returns whether something did.
    pub fn remove(&self, base: u64) -> bool {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let found = entries.binary_search_by_key(&base, |e| e.base);
        found.map(|i| entries.remove(i)).is_ok()
    }

    /// The device at `address`, and the offset of `address` within it.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(Arc<dyn BusDevice>, u64)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let at = entries.partition_point(|e| e.base <= address).checked_sub(1)?;
        let entry = entries.get(at)?;
        let offset = address - entry.base;
        (offset < entry.len).then(|| (Arc::clone(&entry.device), offset))
    }

    /// A guest's read: unclaimed addresses and faults answer all-ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let Some((device, offset)) = self.find(address) else { return data.fill(0xff) };
        if let Err(fault) = device.read(offset, data) {
            log::debug!("guest read at {address:#x}: {fault}");
            data.fill(0xff);
        }
    }

    /// A guest's write: unclaimed addresses and faults are dropped.
    #[must_use]
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        let Some((device, offset)) = self.find(address) else { return Effect::None };
        device.write(offset, data).unwrap_or_else(|fault| {
            log::debug!("guest write at {address:#x}: {fault}");
            Effect::None
        })
    }
}

#[cfg(test)]
mod tests;
