//! Multiboot version 1: specification 0.6.96.
//!
//! The loader's information is written from 0x30000 on: the structure, the memory map, the list of modules, strings.

use std::path::Path;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::elf::{ElfError, ElfImage};
use super::files::{self, Opened};
use super::{BootError, Loaded, Options};
use crate::x86_64::entry::EntryState;
use crate::x86_64::layout::{EBDA_START, HIGH_MEMORY_START, PAGE_SIZE};

mod bios;
#[cfg(test)]
mod tests;

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// Header flags 0 to 15 must be understood (3.1.2): page-aligned modules, memory information, video mode.
const PAGE_ALIGN: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const UNDERSTOOD: u32 = PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE;
const MANDATORY: u32 = 0xffff;
/// The header says itself where the image is loaded.
const ADDRESS_FIELDS: u32 = 1 << 16;
const HEADER_ALIGN: usize = 4;

/// Flags of the boot information (3.3).
const INFO_MEMORY: u32 = 1 << 0;
const INFO_CMDLINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MAP: u32 = 1 << 6;
const INFO_LOADER_NAME: u32 = 1 << 9;
const INFO_SIZE: usize = 88;

const INFORMATION: u64 = 0x3_0000;
const INFORMATION_END: u64 = 0x9_0000;
const LOADER_NAME: &str = "rhea";
/// More than any multiboot kernel is given; bounds the list in low memory.
const MOST_MODULES: usize = 256;

/// What is wrong with a multiboot kernel.
#[derive(Debug, thiserror::Error)]
pub enum MultibootError {
    /// Features this loader does not have.
    #[error("its header requires unknown features {0:#x}")]
    Features(u32),
    /// The header's addresses contradict each other or the file.
    #[error(
        "its header's addresses (header {header:#x}, load {start:#x} to {load_end:#x}, bss to {bss_end:#x}) do not fit the file"
    )]
    Addresses {
        /// header_addr.
        header: u32,
        /// load_addr.
        start: u32,
        /// load_end_addr.
        load_end: u32,
        /// bss_end_addr.
        bss_end: u32,
    },
    /// Neither an ELF image nor a header with addresses.
    #[error("it is neither an ELF image nor does its header say where it is loaded")]
    NoAddresses,
    /// The ELF structure is broken.
    #[error("its ELF structure is broken")]
    Elf(#[source] ElfError),
    /// The entry point is not a 32-bit address.
    #[error("its entry point {0:#x} lies above 4 GiB")]
    Entry(u64),
}

/// Where a header without ELF says the image lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

/// A multiboot header found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MultibootHeader {
    /// Offset in the file.
    offset: u64,
    flags: u32,
    addresses: Option<Addresses>,
}

/// Searches the head of a file for a header whose three fields sum to zero.
pub(super) fn find(head: &[u8]) -> Option<MultibootHeader> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?)) };
    (0..head.len().saturating_sub(11)).step_by(HEADER_ALIGN).find_map(|at| {
        let (magic, flags, checksum) = (word(at)?, word(at + 4)?, word(at + 8)?);
        if magic != HEADER_MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let addresses = || {
            Some(Addresses {
                header: word(at + 12)?,
                load: word(at + 16)?,
                load_end: word(at + 20)?,
                bss_end: word(at + 24)?,
                entry: word(at + 28)?,
            })
        };
        let addresses = if flags & ADDRESS_FIELDS != 0 { Some(addresses()?) } else { None };
        Some(MultibootHeader { offset: at as u64, flags, addresses })
    })
}

/// Opens the modules of a list `path arguments,path arguments`, in which `,,` stands for a comma.
pub(super) fn open_modules(list: &str) -> Result<Vec<Opened>, BootError> {
    split_list(list)
        .into_iter()
        .map(|entry| {
            let path = entry.split(' ').next().unwrap_or_default();
            let mut module = Opened::open("module", Path::new(path))?;
            module.arguments = entry;
            Ok(module)
        })
        .collect()
}

fn split_list(list: &str) -> Vec<String> {
    let mut entries = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            entries.push(String::new());
        } else if let Some(entry) = entries.last_mut() {
            entry.push(character);
        }
    }
    entries
}

/// Loads a multiboot kernel with its modules and information.
pub(super) fn load<M: GuestMemoryBackend>(
    mem: &M,
    kernel: &Opened,
    header: &MultibootHeader,
    modules: &[Opened],
    options: &Options<'_>,
) -> Result<Loaded, BootError> {
    let broken = |source| BootError::Multiboot { path: kernel.path.clone(), source };
    let unknown = header.flags & MANDATORY & !UNDERSTOOD;
    if unknown != 0 {
        return Err(broken(MultibootError::Features(unknown)));
    }
    let (entry, end, form) = match header.addresses {
        Some(addresses) => load_flat(mem, kernel, header.offset, addresses, options.fresh_memory)?,
        None => load_elf(mem, kernel, options)?,
    };
    let placed = load_modules(mem, modules, end, options)?;
    let information = information(kernel, modules, &placed, options)?;
    files::write(mem, "the multiboot information", &information, GuestAddress(INFORMATION))?;
    bios::write(mem)?;
    let entry = EntryState::Protected32 { eip: entry, eax: LOADER_MAGIC, ebx: INFORMATION as u32, esi: 0 };
    Ok(Loaded { entry, description: format!("multiboot, {form}") })
}

type Placed = (u32, u64, &'static str);

/// Loads an image by the addresses in its header (3.1.3).
fn load_flat<M: GuestMemoryBackend>(
    mem: &M,
    kernel: &Opened,
    header_offset: u64,
    addresses: Addresses,
    fresh: bool,
) -> Result<Placed, BootError> {
    let Addresses { header, load, load_end, bss_end, entry } = addresses;
    let wrong = || BootError::Multiboot {
        path: kernel.path.clone(),
        source: MultibootError::Addresses { header, start: load, load_end, bss_end },
    };
    let before = header.checked_sub(load).ok_or_else(wrong)?;
    let offset = header_offset.checked_sub(before.into()).ok_or_else(wrong)?;
    let rest = kernel.len.checked_sub(offset).ok_or_else(wrong)?;
    let size = if load_end == 0 { rest } else { load_end.checked_sub(load).ok_or_else(wrong)?.into() };
    if size > rest {
        return Err(wrong());
    }
    let start = u64::from(load);
    let end = if bss_end == 0 { start + size } else { u64::from(bss_end).max(start + size) };
    files::check_range(mem, "the kernel", start, end - start)?;
    kernel.load(mem, offset, GuestAddress(start), size, fresh)?;
    if !fresh {
        files::clear(mem, "the kernel", start + size, end - start - size)?;
    }
    Ok((entry, end, "addresses from its header"))
}

fn load_elf<M: GuestMemoryBackend>(mem: &M, kernel: &Opened, options: &Options<'_>) -> Result<Placed, BootError> {
    let broken = |source| BootError::Multiboot { path: kernel.path.clone(), source };
    if !kernel.head(4)?.starts_with(super::elf::MAGIC) {
        return Err(broken(MultibootError::NoAddresses));
    }
    let image = ElfImage::parse(&kernel.file, kernel.len).map_err(|source| broken(MultibootError::Elf(source)))?;
    let entry = u32::try_from(image.entry).map_err(|_| broken(MultibootError::Entry(image.entry)))?;
    for segment in &image.segments {
        super::elf::load_segment(mem, kernel, segment, options)?;
    }
    Ok((entry, image.end(), "ELF"))
}

/// Loads the modules page by page behind the kernel and returns where each begins and ends.
fn load_modules<M: GuestMemoryBackend>(
    mem: &M,
    modules: &[Opened],
    kernel_end: u64,
    options: &Options<'_>,
) -> Result<Vec<(u32, u32)>, BootError> {
    let limit = options.layout.below_4g();
    let mut next = kernel_end;
    let mut placed = Vec::new();
    for module in modules {
        let no_room = || BootError::NoRoom { what: module.what, size: module.len, kernel_end, limit };
        let start = next.checked_next_multiple_of(PAGE_SIZE).ok_or_else(no_room)?;
        let end = start.checked_add(module.len).filter(|end| *end <= limit).ok_or_else(no_room)?;
        module.load(mem, 0, GuestAddress(start), module.len, options.fresh_memory)?;
        // Both lie below 4 GiB.
        placed.push((start as u32, end as u32));
        next = end;
    }
    Ok(placed)
}

/// Bytes that grow behind the fixed information structure, and the addresses of what was put there.
struct Information(Vec<u8>);

impl Information {
    fn put(&mut self, bytes: &[u8]) -> u32 {
        let at = INFORMATION + self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        // Whatever passes the end is refused as a whole.
        at as u32
    }

    /// Appends a table of 32-bit words at an address a processor likes.
    fn put_aligned(&mut self, bytes: &[u8]) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.put(bytes)
    }

    fn put_string(&mut self, string: &str) -> u32 {
        let at = self.put(string.as_bytes());
        self.put(&[0]);
        at
    }

    fn set(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

fn information(
    kernel: &Opened,
    modules: &[Opened],
    placed: &[(u32, u32)],
    options: &Options<'_>,
) -> Result<Vec<u8>, BootError> {
    let too_long = |needed| BootError::InformationTooLong { needed, available: INFORMATION_END - INFORMATION };
    if modules.len() > MOST_MODULES {
        return Err(too_long((modules.len() * 16) as u64));
    }
    files::terminated(options.cmdline, usize::MAX)?;
    let mut info = Information(vec![0; INFO_SIZE]);
    let mut flags = INFO_MEMORY | INFO_CMDLINE | INFO_MAP | INFO_LOADER_NAME;
    info.set(4, (EBDA_START / 1024) as u32);
    info.set(8, (options.layout.below_4g().saturating_sub(HIGH_MEMORY_START) / 1024) as u32);
    // As QEMU and GRUB: the kernel's name, then its arguments.
    let cmdline = info.put_string(format!("{} {}", kernel.path.display(), options.cmdline).trim_end());
    info.set(16, cmdline);
    if !modules.is_empty() {
        flags |= INFO_MODULES;
        let strings: Vec<u32> = modules.iter().map(|module| info.put_string(&module.arguments)).collect();
        let list: Vec<u8> = placed
            .iter()
            .zip(strings)
            .flat_map(|((start, end), string)| [*start, *end, string, 0])
            .flat_map(u32::to_le_bytes)
            .collect();
        let list = info.put_aligned(&list);
        info.set(20, modules.len() as u32);
        info.set(24, list);
    }
    let map = memory_map(options);
    let at = info.put_aligned(&map);
    info.set(44, map.len() as u32);
    info.set(48, at);
    let name = info.put_string(LOADER_NAME);
    info.set(64, name);
    info.set(0, flags);
    if INFORMATION + info.0.len() as u64 > INFORMATION_END {
        return Err(too_long(info.0.len() as u64));
    }
    Ok(info.0)
}

/// Entries of `size, base, length, type`, where `size` does not count itself.
fn memory_map(options: &Options<'_>) -> Vec<u8> {
    let mut map = Vec::new();
    for entry in options.layout.e820() {
        map.extend_from_slice(&20u32.to_le_bytes());
        map.extend_from_slice(&entry.start.to_le_bytes());
        map.extend_from_slice(&entry.size.to_le_bytes());
        map.extend_from_slice(&(entry.kind as u32).to_le_bytes());
    }
    map
}
