//! A bzImage for firmware to load: in the parts that it fetches, with the fields filled in that a boot loader fills in
//! (Documentation/arch/x86/boot.rst of the kernel, protocol 2.06 and later).
//!
//! The addresses are those that loaders have always used, so that a loader need know nothing but them.

use std::path::Path;

use super::bzimage::SetupHeader;
use super::files::{self, Opened};
use super::identify::{self, Kind};
use super::{BootError, zero_page};
use crate::x86_64::layout::{HIGH_MEMORY_START, PAGE_SIZE};

/// Where the real-mode part goes.
pub const SETUP_ADDRESS: u32 = 0x1_0000;
/// Where the command line goes.
pub const CMDLINE_ADDRESS: u32 = 0x2_0000;
/// Where the protected-mode part goes.
pub const KERNEL_ADDRESS: u32 = HIGH_MEMORY_START as u32;
/// End of the real-mode part's heap and stack, from [`SETUP_ADDRESS`].
pub const HEAP_END: u16 = 0xfe00;

/// Fields of the setup header, from the file's start, and flags.
mod field {
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const HEAP_END: usize = 0x224;
    pub(super) const CMD_LINE: usize = 0x228;
    pub(super) const CAN_USE_HEAP: u8 = 1 << 7;
}

/// Firmware keeps its own tables at the end of memory: not so many bytes, but an initrd has to leave them alone.
const TABLES: u64 = 1 << 20;

/// True if only firmware can start this kernel: a bzImage whose header names no 32-bit entry, for it calls the BIOS.
///
/// What cannot be read or is no kernel is not: whoever loads it says so.
#[must_use]
pub fn is_needed(kernel: &Path) -> bool {
    let kind = Opened::open("kernel", kernel).and_then(|image| identify::identify(&image));
    matches!(kind, Ok(Kind::BzImage(header)) if header.is_real_mode())
}

/// The parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The real-mode part, for [`SETUP_ADDRESS`].
    pub setup: Vec<u8>,
    /// The protected-mode part, for [`KERNEL_ADDRESS`].
    pub kernel: Vec<u8>,
    /// The initrd; empty when there is none.
    pub initrd: Vec<u8>,
    /// Where the initrd goes; 0 when there is none.
    pub initrd_address: u32,
    /// The command line with its terminator, for [`CMDLINE_ADDRESS`].
    pub cmdline: Vec<u8>,
}

impl Handover {
    /// Reads the files whole; together they are smaller than the `below_4g` bytes of memory below 4 GiB.
    ///
    /// # Errors
    /// A file cannot be read; the kernel is no bzImage; something does not fit.
    pub fn read(kernel: &Path, initrd: Option<&Path>, cmdline: &str, below_4g: u64) -> Result<Self, BootError> {
        let image = Opened::open("kernel", kernel)?;
        let Kind::BzImage(header) = identify::identify(&image)? else {
            return Err(BootError::NotForFirmware { path: kernel.to_owned() });
        };
        let initrd = initrd.map(|path| Opened::open("initrd", path)).transpose()?;
        let initrd_len = initrd.as_ref().map_or(0, |initrd| initrd.len);
        let initrd_address = place(&header, initrd_len, below_4g)?;
        // As one byte counts its sectors, the real-mode part always fits.
        let (code_start, code_size) = header.code();
        if code_size > below_4g.saturating_sub(HIGH_MEMORY_START) {
            return Err(BootError::DoesNotFit { what: "the kernel", start: HIGH_MEMORY_START, size: code_size });
        }
        let limit = header.cmdline_limit().min(zero_page::CMDLINE_SPACE - 1);
        let mut setup = image.part(0, code_start)?;
        fill(&mut setup, initrd_address, initrd_len as u32);
        Ok(Self {
            setup,
            kernel: image.part(code_start, code_size)?,
            initrd: initrd.map_or(Ok(Vec::new()), |initrd| initrd.part(0, initrd.len))?,
            initrd_address,
            cmdline: files::terminated(cmdline, limit)?,
        })
    }
}

/// As high as the kernel and the firmware's tables allow.
fn place(header: &SetupHeader, len: u64, below_4g: u64) -> Result<u32, BootError> {
    let (run, size) = header.run_range();
    let kernel_end = run.saturating_add(size);
    let limit = below_4g.saturating_sub(TABLES).min(header.initrd_limit_32());
    let start = limit.checked_sub(len).map(|start| start & !(PAGE_SIZE - 1));
    let start = if len == 0 { Some(0) } else { start.filter(|start| *start >= kernel_end) };
    let start = start.and_then(|start| u32::try_from(start).ok());
    start.ok_or(BootError::NoRoom { what: "initrd", size: len, kernel_end, limit })
}

/// What a boot loader writes into the header, which lies in the first KiB of every real-mode part.
fn fill(setup: &mut [u8], initrd_address: u32, initrd_len: u32) {
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = setup.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(field::TYPE_OF_LOADER, &[zero_page::LOADER_UNDEFINED]);
    put(field::RAMDISK_IMAGE, &initrd_address.to_le_bytes());
    put(field::RAMDISK_SIZE, &initrd_len.to_le_bytes());
    // The field is the end less 0x200.
    put(field::HEAP_END, &(HEAP_END - 0x200).to_le_bytes());
    put(field::CMD_LINE, &CMDLINE_ADDRESS.to_le_bytes());
    if let Some(flags) = setup.get_mut(field::LOADFLAGS) {
        *flags |= field::CAN_USE_HEAP;
    }
}
