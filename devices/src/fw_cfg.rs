//! The firmware configuration device ("QEMU Firmware Configuration (fw_cfg) Device", `docs/specs/fw_cfg` of QEMU): how
//! SeaBIOS, OVMF and guests read what the user asked for.
//!
//! ```text
//!   0x510  selector (16 bits, written)            0x514  DMA address, high half (big endian)
//!   0x511  data (8 bits, read)                    0x518  DMA address, low half: starts a transfer
//! ```
//!
//! It knows keys, files and bytes; it does not know what they mean. The guest can only read: writes through the data
//! port are dropped and DMA writes end with the error bit.

mod items;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::bus::{BusDevice, BusFault, Effect};
use crate::legacy::{LegacyChip, PortRange};
use crate::lifecycle::{Lifecycle, Saver};
use crate::memory::GuestRam;

use items::{Contents, Items};
pub use items::{FwCfgBuilder, FwCfgError, key};

/// First port.
pub const BASE: u16 = 0x510;
/// Number of ports.
pub const LEN: u16 = 12;

/// Offset of the selector register.
const SELECTOR: u64 = 0;
/// Offset of the data register.
const DATA: u64 = 1;
/// Offset of the high half of the DMA address register.
const DMA_HIGH: u64 = 4;
/// Offset of the low half.
const DMA_LOW: u64 = 8;

/// What the DMA address register reads as: the DMA interface is there.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Bits of a DMA descriptor's control field.
mod control {
    pub(super) const ERROR: u32 = 1;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
}

/// Bytes moved at once.
const STEP: usize = 4096;

/// Volatile registers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Regs {
    selected: u16,
    offset: u32,
    dma_high: u32,
}

struct Inner {
    items: Items,
    regs: Regs,
}

/// The device. Built with [`FwCfgBuilder::build`].
pub struct FwCfg {
    memory: Arc<GuestRam>,
    inner: Mutex<Inner>,
}

impl FwCfg {
    fn new(items: Items, memory: Arc<GuestRam>) -> Arc<Self> {
        Arc::new(Self { memory, inner: Mutex::new(Inner { items, regs: Regs::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the file `name` other contents, as `-boot once=` does at the first reset. A guest in the middle of reading
    /// it goes on in the new bytes.
    ///
    /// # Errors
    /// [`FwCfgError::NoFile`], [`FwCfgError::Size`].
    pub fn replace_file(&self, name: &str, contents: impl Into<Arc<[u8]>>) -> Result<(), FwCfgError> {
        self.lock().items.replace_file(name, contents.into())
    }

    /// Contents of the file `name`.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<Arc<[u8]>> {
        self.lock().items.file(name)
    }

    /// One transfer (specification, "Guest-side DMA Interface"): the descriptor lies at `address`, all fields big endian.
    fn dma(&self, inner: &mut Inner, address: u64) {
        let mut descriptor = [0; 16];
        if let Err(error) = self.memory.read_slice(&mut descriptor, GuestAddress(address)) {
            log::debug!("fw_cfg: no descriptor at {address:#x}: {error}");
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, target @ ..] = descriptor;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let done = self.transfer(inner, control, len, u64::from_be_bytes(target));
        let answer = if done { 0 } else { control::ERROR };
        if let Err(error) = self.memory.write_slice(&answer.to_be_bytes(), GuestAddress(address)) {
            log::debug!("fw_cfg: no place for the result at {address:#x}: {error}");
        }
    }

    /// Returns whether all went well. A read comes before a skip, should a guest ask for both.
    fn transfer(&self, inner: &mut Inner, control: u32, len: u32, target: u64) -> bool {
        if control & control::SELECT != 0 {
            inner.select((control >> 16) as u16);
        }
        if control & control::READ != 0 {
            return self.read_to(inner, len, target);
        }
        if control & control::WRITE != 0 {
            return false;
        }
        if control & control::SKIP != 0 {
            inner.regs.offset = inner.regs.offset.saturating_add(len);
        }
        true
    }

    /// Copies to RAM; what lies beyond the item's end reads as zero.
    fn read_to(&self, inner: &mut Inner, len: u32, target: u64) -> bool {
        let Ok(len) = usize::try_from(len) else { return false };
        if len > 0 && !GuestMemoryBackend::check_range(&*self.memory, GuestAddress(target), len) {
            return false;
        }
        let contents = inner.contents();
        let mut address = target;
        let mut left = len;
        while left > 0 {
            let mut bytes = [0; STEP];
            let step = left.min(STEP);
            let Some(bytes) = bytes.get_mut(..step) else { return false };
            inner.take(&contents, bytes);
            if self.memory.write_slice(bytes, GuestAddress(address)).is_err() {
                return false;
            }
            left -= step;
            address = address.saturating_add(step as u64);
        }
        true
    }
}

impl Inner {
    fn select(&mut self, key: u16) {
        self.regs.selected = key;
        self.regs.offset = 0;
    }

    fn contents(&self) -> Contents {
        self.items.contents(self.regs.selected)
    }

    /// Fills `bytes` from the position in `contents`, which advances no further than the end.
    fn take(&mut self, contents: &[u8], bytes: &mut [u8]) {
        let at = usize::try_from(self.regs.offset).unwrap_or(usize::MAX);
        let rest = contents.get(at..).unwrap_or_default();
        let len = rest.len().min(bytes.len());
        for (byte, value) in bytes.iter_mut().zip(rest) {
            *byte = *value;
        }
        self.regs.offset = self.regs.offset.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
    }
}

impl BusDevice for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let fault = BusFault { offset, len: data.len() };
        match (offset, data.len()) {
            (DATA, 1) => {
                let mut inner = self.lock();
                let contents = inner.contents();
                data.fill(0);
                inner.take(&contents, data);
            }
            (DMA_HIGH..LEN_U64, 1 | 2 | 4 | 8) if offset + data.len() as u64 <= LEN_U64 => {
                let from = DMA_SIGNATURE.iter().skip(usize::try_from(offset - DMA_HIGH).map_err(|_| fault)?);
                for (byte, value) in data.iter_mut().zip(from) {
                    *byte = *value;
                }
            }
            _ => return Err(fault),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        match (offset, data) {
            (SELECTOR, &[low, high]) => self.lock().select(u16::from_le_bytes([low, high])),
            // Writes through the data port have had no effect since QEMU 2.4 (specification, "Data Register").
            (DATA, &[_]) => {}
            (DMA_HIGH, &[a, b, c, d]) => self.lock().regs.dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let mut inner = self.lock();
                let high = std::mem::take(&mut inner.regs.dma_high);
                let address = u64::from(high) << 32 | u64::from(u32::from_be_bytes([a, b, c, d]));
                self.dma(&mut inner, address);
            }
            (DMA_HIGH, &[a, b, c, d, e, f, g, h]) => {
                let mut inner = self.lock();
                inner.regs.dma_high = 0;
                self.dma(&mut inner, u64::from_be_bytes([a, b, c, d, e, f, g, h]));
            }
            _ => return Err(BusFault { offset, len: data.len() }),
        }
        Ok(Effect::None)
    }
}

const LEN_U64: u64 = LEN as u64;

impl LegacyChip for FwCfg {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        vec![PortRange { base: BASE, len: LEN, device: self }]
    }
}

impl Lifecycle for FwCfg {
    fn name(&self) -> &str {
        "fw_cfg"
    }

    fn reset(&self) {
        self.lock().regs = Regs::default();
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

#[cfg(test)]
mod tests;
