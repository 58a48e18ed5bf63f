//! NOR flash with Intel's command set (JEDEC JESD68, primary command set 0x0001), in which firmware and its variables
//! lie: an array that is read like memory, and commands that are written into it.
//!
//! ```text
//!            0x10, 0x20, 0x60, 0x70, 0x90, 0x98, 0xe8
//!   array ──────────────────────────────────────────────▶ registers (status, identity, query, a command's next cycle)
//!     ▲                                                       │
//!     └───────────────────────── 0xff, 0x50 ──────────────────┘
//! ```
//!
//! While it shows its array the board may map [`Flash::array`] for the guest, read-only; a write that changes what reads
//! show is answered with [`Effect::RemapMemory`]. The chip does not know where it lies.
//!
//! What was programmed is in the image before the guest can see that the command is done: before the array shows again,
//! and before the status is read.

mod cfi;
mod chip;
mod state;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhea_block::Image;
use thiserror::Error;
use vm_memory::MmapRegion;

use crate::block_stats::BlockStats;
use crate::bus::{BusDevice, BusFault, Effect};
use crate::lifecycle::{DeviceError, Lifecycle, Saver};
use chip::Chip;
use store::Store;

/// Bytes that are erased together.
pub const BLOCK: u64 = 4096;
/// The largest chip: what QEMU allows for all firmware of a PC together.
pub const LARGEST: u64 = 8 << 20;

/// An image that is no chip.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlashError {
    /// Its size.
    #[error(
        "its image has {0} bytes; flash has a multiple of 4096, and {LARGEST} at most: use the firmware's own file, of \
         format raw"
    )]
    Size(u64),
    /// There is no memory for it.
    #[error("there is no memory for its {0} bytes")]
    Memory(u64),
}

struct Inner {
    chip: Chip,
    store: Store,
}

/// A chip.
pub struct Flash {
    name: String,
    size: u64,
    array: Arc<MmapRegion<()>>,
    inner: Mutex<Inner>,
}

impl Flash {
    /// A chip named `name` with the content of `image`, as large as it is; the content is read by
    /// [`Lifecycle::start`]. An image that cannot be written makes a chip on which programming and erasing fail.
    ///
    /// # Errors
    /// [`FlashError`].
    pub fn new(name: impl Into<String>, image: Arc<dyn Image>, stats: Arc<BlockStats>) -> Result<Self, FlashError> {
        let info = image.info();
        if info.size == 0 || !info.size.is_multiple_of(BLOCK) || info.size > LARGEST {
            return Err(FlashError::Size(info.size));
        }
        let no_memory = |_| FlashError::Memory(info.size);
        let bytes = usize::try_from(info.size).map_err(|_| FlashError::Memory(info.size))?;
        let array = Arc::new(MmapRegion::new(bytes).map_err(no_memory)?);
        let chip = Chip::new(info.size, info.read_only);
        let store = Store::new(Arc::clone(&array), image, stats);
        Ok(Self { name: name.into(), size: info.size, array, inner: Mutex::new(Inner { chip, store }) })
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The array's memory; only this chip writes it.
    #[must_use]
    pub fn array(&self) -> &Arc<MmapRegion<()>> {
        &self.array
    }

    /// Reads show the array, so that they need not come here.
    #[must_use]
    pub fn shows_array(&self) -> bool {
        self.lock().chip.shows_array()
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), BusFault> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.size) { Ok(()) } else { Err(BusFault { offset, len }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Has the image take what was programmed, and the chip say whether it did.
    fn settle(&mut self) {
        if !self.store.settle() {
            self.chip.failed_to_program();
        }
    }
}

impl BusDevice for Flash {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        self.check(offset, data.len())?;
        let mut inner = self.lock();
        let Inner { chip, store } = &mut *inner;
        if chip.shows_array() {
            store.read(offset, data);
            return Ok(());
        }
        inner.settle();
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = inner.chip.register(at);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        self.check(offset, data.len())?;
        let mut inner = self.lock();
        let before = inner.chip.shows_array();
        let Inner { chip, store } = &mut *inner;
        chip.write(offset, data, store);
        let after = inner.chip.shows_array();
        if after {
            inner.settle();
        }
        Ok(if before == after { Effect::None } else { Effect::RemapMemory })
    }
}

impl Lifecycle for Flash {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&self) -> Result<(), DeviceError> {
        self.lock().store.load(&self.name)
    }

    fn drain(&self) {
        self.lock().settle();
    }

    fn reset(&self) {
        self.lock().chip.reset();
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

#[cfg(test)]
mod tests;
