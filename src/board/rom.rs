//! The firmware's ROM: an image at the top of 4 GiB, its last part again below 1 MiB.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rhea_arch::kvm::{HostRange, MemoryError};
use rhea_arch::x86_64::layout::{FOUR_GIB, HIGH_MEMORY_START};
use rhea_devices::bus::{BusDevice, BusFault, Effect};
use rhea_devices::flash::Flash;
use thiserror::Error;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// Images are whole multiples of this, as QEMU asks of `-bios`.
const UNIT: u64 = 64 << 10;
/// The largest, so that it ends above the pages that KVM keeps for itself.
const MOST: u64 = 16 << 20;
/// The most that is seen again below 1 MiB.
const ALIAS: u64 = 128 << 10;

/// Why an image is no firmware.
#[derive(Debug, Error)]
pub enum RomError {
    /// It cannot be read.
    #[error("cannot load firmware {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its size is no ROM's.
    #[error("cannot load firmware {path}: it has {size} bytes; a ROM has a multiple of 64 KiB, 16 MiB at most")]
    Size {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// There is no memory for it.
    #[error("cannot map firmware {path}")]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A ROM image in memory. As a bus device it starts at [`Rom::base`]; writes are dropped.
pub(super) struct Rom {
    image: Arc<MmapRegion<()>>,
    size: u64,
}

impl Rom {
    /// Reads the image.
    pub(super) fn load(path: &Path) -> Result<Self, RomError> {
        let unreadable = |source| RomError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(MOST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::new(path, &bytes)
    }

    /// The ROM that a flash chip's content is below 1 MiB.
    pub(super) fn of_flash(chip: &Flash) -> Self {
        Self { image: Arc::clone(chip.array()), size: chip.size() }
    }

    fn new(path: &Path, bytes: &[u8]) -> Result<Self, RomError> {
        let size = bytes.len() as u64;
        if size == 0 || !size.is_multiple_of(UNIT) || size > MOST {
            return Err(RomError::Size { path: path.to_owned(), size });
        }
        let refused = |source| RomError::Map { path: path.to_owned(), source };
        let image = MmapRegion::new(bytes.len()).map_err(|e| refused(Box::new(e)))?;
        image.as_volatile_slice().write_slice(bytes, 0).map_err(|e| refused(Box::new(e)))?;
        Ok(Self { image: Arc::new(image), size })
    }

    /// Where it starts below 4 GiB.
    pub(super) fn base(&self) -> u64 {
        FOUR_GIB - self.size
    }

    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        self.size
    }

    /// The whole image, to be mapped at [`Rom::base`].
    pub(super) fn range(&self) -> Result<HostRange, MemoryError> {
        HostRange::of_mapping(&self.image, 0, self.size)
    }

    /// Where in the image `address` below 1 MiB leads, if `len` bytes from there are a part of the alias.
    pub(super) fn alias(&self, address: u64, len: u64) -> Option<u64> {
        let alias = self.size.min(ALIAS);
        let end = address.checked_add(len).filter(|&end| end <= HIGH_MEMORY_START)?;
        (address >= HIGH_MEMORY_START - alias).then(|| self.size - (HIGH_MEMORY_START - end) - len)
    }

    /// A part of the image, to be mapped elsewhere.
    pub(super) fn part(&self, offset: u64, len: u64) -> Result<HostRange, MemoryError> {
        HostRange::of_mapping(&self.image, offset, len)
    }

    /// Copies from the image; ones beyond its end.
    pub(super) fn copy(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.image.as_volatile_slice().read_slice(data, at).is_err() {
            data.fill(0xff);
        }
    }
}

impl BusDevice for Rom {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        self.copy(offset, data);
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<Effect, BusFault> {
        Ok(Effect::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rom(size: usize) -> Rom {
        let bytes: Vec<u8> = (0..size).map(|at| (at >> 12) as u8).collect();
        Rom::new(Path::new("image"), &bytes).unwrap()
    }

    #[test]
    fn alias_of_a_large_image_is_its_last_128_kib() {
        let rom = rom(256 << 10);

        assert_eq!(rom.alias(0xe_0000, 0x4000), Some(0x2_0000));
        assert_eq!(rom.alias(0xf_0000, 0x1_0000), Some(0x3_0000));
        assert_eq!(rom.alias(0xd_c000, 0x4000), None);
    }

    #[test]
    fn alias_of_a_small_image_is_all_of_it() {
        let rom = rom(64 << 10);

        assert_eq!(rom.alias(0xf_0000, 0x1_0000), Some(0));
        assert_eq!(rom.alias(0xe_c000, 0x4000), None);
    }

    #[test]
    fn image_ends_at_4_gib() {
        let rom = rom(256 << 10);
        let mut last = [0];

        rom.read(FOUR_GIB - 1 - rom.base(), &mut last).unwrap();

        assert_eq!((rom.base(), last), (0xfffc_0000, [63]));
    }

    #[test]
    fn image_of_odd_size_is_refused() {
        assert!(matches!(Rom::new(Path::new("image"), &[0; 1000]), Err(RomError::Size { size: 1000, .. })));
        assert!(matches!(Rom::new(Path::new("image"), &[]), Err(RomError::Size { size: 0, .. })));
    }
}
