//! What firmware can read: items under fixed keys, and named files with a directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::FwCfg;
use crate::memory::GuestRam;

/// Fixed keys (specification, "Firmware Configuration Items"; values as firmware has them).
pub mod key {
    /// "QEMU": the device is there.
    pub const SIGNATURE: u16 = 0x00;
    /// Bit 0: the traditional interface; bit 1: DMA.
    pub const ID: u16 = 0x01;
    /// The machine's UUID, 16 bytes.
    pub const UUID: u16 = 0x02;
    /// RAM size in bytes, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// There is no display, 16 bits.
    pub const NO_GRAPHIC: u16 = 0x04;
    /// CPUs at boot, 16 bits.
    pub const CPUS: u16 = 0x05;
    /// Load address of the kernel, 32 bits.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// Size of the kernel, 32 bits.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Load address of the initial RAM disk, 32 bits.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// Size of the initial RAM disk, 32 bits.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// First boot device, 16 bits.
    pub const BOOT_DEVICE: u16 = 0x0c;
    /// NUMA nodes.
    pub const NUMA: u16 = 0x0d;
    /// Show the boot menu, 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Most CPUs there can be, 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The kernel.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub const INITRD_DATA: u16 = 0x12;
    /// Load address of the command line, 32 bits.
    pub const CMDLINE_ADDR: u16 = 0x13;
    /// Size of the command line with its zero, 32 bits.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line with its zero.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Load address of the kernel's real-mode part, 32 bits.
    pub const SETUP_ADDR: u16 = 0x16;
    /// Size of the kernel's real-mode part, 32 bits.
    pub const SETUP_SIZE: u16 = 0x17;
    /// The kernel's real-mode part.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory of files; the device makes it.
    pub const FILE_DIR: u16 = 0x19;
    /// Key of the first file.
    pub const FILE_FIRST: u16 = 0x20;
    /// Extra ACPI tables, on x86.
    pub const ACPI_TABLES: u16 = 0x8000;
    /// Extra SMBIOS tables, on x86.
    pub const SMBIOS_ENTRIES: u16 = 0x8001;
    /// Interrupt 0 comes in on pin 2 of the I/O APIC, on x86.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
    /// Timers, on x86.
    pub const HPET: u16 = 0x8004;
}

/// Selecting with this bit set once meant writing; the rest is the key.
const WRITE_CHANNEL: u16 = 0x4000;
/// Length of a file's name in the directory, with its zero.
const NAME_BYTES: usize = 56;
/// Most files: what other monitors allow at most.
const MAX_FILES: usize = 0x1000;

pub(super) type Contents = Arc<[u8]>;

/// A set of items that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FwCfgError {
    /// A name is empty or too long for the directory.
    #[error("fw_cfg file name \"{0}\" must have between 1 and 55 bytes")]
    Name(String),
    /// Two files of one name.
    #[error("fw_cfg file \"{0}\" exists already")]
    Duplicate(String),
    /// Two items under one key, or a key that belongs to the device or to files.
    #[error("fw_cfg key {0:#x} is taken")]
    Key(u16),
    /// More files than the directory takes.
    #[error("more than {MAX_FILES} fw_cfg files")]
    TooMany,
    /// More bytes than a 32-bit size tells.
    #[error("fw_cfg item of {0} bytes is too large")]
    Size(usize),
    /// There is no such file.
    #[error("there is no fw_cfg file \"{0}\"")]
    NoFile(String),
}

/// Collects items; [`FwCfgBuilder::build`] makes the device.
#[derive(Debug, Default, Clone)]
pub struct FwCfgBuilder {
    items: BTreeMap<u16, Contents>,
    files: BTreeMap<String, Contents>,
}

impl FwCfgBuilder {
    /// Nothing yet; the signature, the interface's version and the directory come by themselves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts bytes under a fixed key.
    ///
    /// # Errors
    /// [`FwCfgError::Key`], [`FwCfgError::Size`].
    pub fn item(&mut self, key: u16, contents: impl Into<Arc<[u8]>>) -> Result<&mut Self, FwCfgError> {
        let contents = sized(contents.into())?;
        let reserved = matches!(key, key::SIGNATURE | key::ID | key::FILE_DIR) || key & WRITE_CHANNEL != 0;
        let of_files = (key::FILE_FIRST..WRITE_CHANNEL).contains(&key);
        if reserved || of_files || self.items.contains_key(&key) {
            return Err(FwCfgError::Key(key));
        }
        self.items.insert(key, contents);
        Ok(self)
    }

    /// Puts a 16-bit number (little endian) under a fixed key.
    ///
    /// # Errors
    /// As [`FwCfgBuilder::item`].
    pub fn u16(&mut self, key: u16, value: u16) -> Result<&mut Self, FwCfgError> {
        self.item(key, value.to_le_bytes())
    }

    /// Puts a 32-bit number (little endian) under a fixed key.
    ///
    /// # Errors
    /// As [`FwCfgBuilder::item`].
    pub fn u32(&mut self, key: u16, value: u32) -> Result<&mut Self, FwCfgError> {
        self.item(key, value.to_le_bytes())
    }

    /// Puts a 64-bit number (little endian) under a fixed key.
    ///
    /// # Errors
    /// As [`FwCfgBuilder::item`].
    pub fn u64(&mut self, key: u16, value: u64) -> Result<&mut Self, FwCfgError> {
        self.item(key, value.to_le_bytes())
    }

    /// Puts text with a terminating zero under a fixed key.
    ///
    /// # Errors
    /// As [`FwCfgBuilder::item`].
    pub fn string(&mut self, key: u16, text: &str) -> Result<&mut Self, FwCfgError> {
        let bytes: Vec<u8> = text.bytes().chain([0]).collect();
        self.item(key, bytes)
    }

    /// Adds a file. What a user names (`-fw_cfg name=`) should begin with `opt/`; text given with `string=` has no
    /// terminating zero.
    ///
    /// # Errors
    /// [`FwCfgError::Name`], [`FwCfgError::Duplicate`], [`FwCfgError::TooMany`], [`FwCfgError::Size`].
    pub fn file(&mut self, name: &str, contents: impl Into<Arc<[u8]>>) -> Result<&mut Self, FwCfgError> {
        let contents = sized(contents.into())?;
        if name.is_empty() || name.len() >= NAME_BYTES || name.contains('\0') {
            return Err(FwCfgError::Name(name.to_owned()));
        }
        if self.files.contains_key(name) {
            return Err(FwCfgError::Duplicate(name.to_owned()));
        }
        if self.files.len() >= MAX_FILES {
            return Err(FwCfgError::TooMany);
        }
        self.files.insert(name.to_owned(), contents);
        Ok(self)
    }

    /// The device, which copies to `memory` by DMA. Files get their keys in the order of their names.
    #[must_use]
    pub fn build(self, memory: Arc<GuestRam>) -> Arc<FwCfg> {
        let mut items = Items { fixed: self.items, files: self.files.into_iter().collect(), directory: Arc::new([]) };
        items.fixed.insert(key::SIGNATURE, Arc::from(*b"QEMU"));
        items.fixed.insert(key::ID, Arc::from(3u32.to_le_bytes()));
        items.list();
        FwCfg::new(items, memory)
    }
}

fn sized(contents: Contents) -> Result<Contents, FwCfgError> {
    if u32::try_from(contents.len()).is_err() {
        return Err(FwCfgError::Size(contents.len()));
    }
    Ok(contents)
}

/// Everything that can be selected.
pub(super) struct Items {
    fixed: BTreeMap<u16, Contents>,
    files: Vec<(String, Contents)>,
    directory: Contents,
}

impl Items {
    /// What a key leads to; nothing for one that has no item.
    pub(super) fn contents(&self, key: u16) -> Contents {
        let key = key & !WRITE_CHANNEL;
        if key == key::FILE_DIR {
            return Arc::clone(&self.directory);
        }
        let file = key.checked_sub(key::FILE_FIRST).and_then(|at| self.files.get(usize::from(at)));
        let found = file.map(|(_, contents)| contents).or_else(|| self.fixed.get(&key));
        found.cloned().unwrap_or_else(|| Arc::new([]))
    }

    pub(super) fn file(&self, name: &str) -> Option<Contents> {
        self.files.iter().find(|(other, _)| other == name).map(|(_, contents)| Arc::clone(contents))
    }

    pub(super) fn replace_file(&mut self, name: &str, contents: Contents) -> Result<(), FwCfgError> {
        let contents = sized(contents)?;
        let file = self.files.iter_mut().find(|(other, _)| other == name);
        file.ok_or_else(|| FwCfgError::NoFile(name.to_owned()))?.1 = contents;
        self.list();
        Ok(())
    }

    /// Makes the directory anew: a count, then size, key, two reserved bytes and name of each file, big endian.
    fn list(&mut self) {
        let count = u32::try_from(self.files.len()).unwrap_or(0);
        let mut bytes = count.to_be_bytes().to_vec();
        for (key, (name, contents)) in (key::FILE_FIRST..).zip(&self.files) {
            bytes.extend(u32::try_from(contents.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(key.to_be_bytes());
            bytes.extend([0; 2]);
            bytes.extend(name.bytes().chain(std::iter::repeat(0)).take(NAME_BYTES));
        }
        self.directory = bytes.into();
    }
}
