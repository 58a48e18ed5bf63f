//! ELF kernels: which parts of the file lie where, and how the image is entered.
//!
//! System V ABI, chapter 4 and 5; the PVH note is Xen's `XEN_ELFNOTE_PHYS32_ENTRY` (public/elfnote.h). Parsing reads
//! only headers and notes, bounded; contents go from the file to guest memory without a stop on our heap.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::files::{self, Opened};
use super::{BootError, ElfEntry, Loaded, Options, pvh, zero_page};
use crate::x86_64::entry::EntryState;
use crate::x86_64::layout::HIGH_MEMORY_START;

#[cfg(test)]
pub(super) mod tests;

/// First bytes of an ELF file.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// Bytes of the longer of the two file headers; program headers follow it, or the shorter one.
const ELF_HEADER: u64 = 64;
/// More than any kernel has; bounds the walk over a hostile header.
const MOST_SEGMENTS: u16 = 128;
/// More than any kernel's notes.
const MOST_NOTE_BYTES: u64 = 64 << 10;
const XEN_NAME: &[u8] = b"Xen\0";
const XEN_PHYS32_ENTRY: u32 = 18;

/// What is wrong inside an ELF file.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// A header or a note cannot be read.
    #[error("cannot read its {what}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Neither 32- nor 64-bit little-endian.
    #[error("its class {class} and byte order {order} are not those of an x86 image")]
    Class {
        /// EI_CLASS.
        class: u8,
        /// EI_DATA.
        order: u8,
    },
    /// The program header table is not one.
    #[error("its program header table has {count} entries of {size} bytes")]
    ProgramHeaders {
        /// e_phnum.
        count: u16,
        /// e_phentsize.
        size: u16,
    },
    /// A segment's numbers contradict each other or the file.
    #[error(
        "segment {index} ({file_size} bytes at file offset {offset:#x}, {memory_size} in memory at {address:#x}) {fault}"
    )]
    Segment {
        /// Which program header.
        index: usize,
        /// p_offset.
        offset: u64,
        /// p_filesz.
        file_size: u64,
        /// p_memsz.
        memory_size: u64,
        /// p_paddr.
        address: u64,
        /// What is wrong.
        fault: &'static str,
    },
    /// Nothing to load.
    #[error("it has no segment to load")]
    Empty,
}

/// Reading at an offset: a file, or an image that lies in memory.
pub(super) trait ReadAt {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let source = self.get(start..).and_then(|rest| rest.get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(source);
        Ok(())
    }
}

/// A part of the file and its place in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) file_size: u64,
    pub(super) address: u64,
    pub(super) memory_size: u64,
}

impl Segment {
    pub(super) fn end(&self) -> u64 {
        // Checked when the segment was parsed.
        self.address + self.memory_size
    }
}

/// What the headers of an ELF file say.
#[derive(Debug)]
pub(super) struct ElfImage {
    pub(super) is_64: bool,
    machine: u16,
    kind: u16,
    pub(super) entry: u64,
    /// Non-empty, in the file's order, none overlapping another in memory.
    pub(super) segments: Vec<Segment>,
    pub(super) pvh_entry: Option<u32>,
}

/// The little-endian fields at fixed places of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn get(&self, at: usize, width: usize) -> u64 {
        let field = self.0.get(at..at + width).unwrap_or_default();
        field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// A field of 4 bytes in 32-bit images and 8 in 64-bit ones, at one of two places.
    fn address(&self, is_64: bool, at_32: usize, at_64: usize) -> u64 {
        if is_64 { self.get(at_64, 8) } else { self.get(at_32, 4) }
    }
}

impl ElfImage {
    /// Reads the headers and notes of an image of `len` bytes.
    pub(super) fn parse<S: ReadAt + ?Sized>(source: &S, len: u64) -> Result<Self, ElfError> {
        let header = read(source, "header", 0, 52)?;
        let (class, order) = (header[4], header[5]);
        if !matches!(class, CLASS_32 | CLASS_64) || order != LITTLE_ENDIAN {
            return Err(ElfError::Class { class, order });
        }
        let is_64 = class == CLASS_64;
        let header = read(source, "header", 0, if is_64 { 64 } else { 52 })?;
        let fields = Fields(&header);
        let mut image = Self {
            is_64,
            kind: fields.get(16, 2) as u16,
            machine: fields.get(18, 2) as u16,
            entry: fields.address(is_64, 24, 24),
            segments: Vec::new(),
            pvh_entry: None,
        };
        if image.machine_refusal().is_some() {
            return Ok(image);
        }
        let table = fields.address(is_64, 28, 32);
        let (size, count) =
            if is_64 { (fields.get(54, 2), fields.get(56, 2)) } else { (fields.get(42, 2), fields.get(44, 2)) };
        image.read_segments(source, len, table, size as u16, count as u16)?;
        Ok(image)
    }

    fn read_segments<S: ReadAt + ?Sized>(
        &mut self,
        source: &S,
        len: u64,
        table: u64,
        size: u16,
        count: u16,
    ) -> Result<(), ElfError> {
        let expected = if self.is_64 { 56 } else { 32 };
        if size != expected || count > MOST_SEGMENTS {
            return Err(ElfError::ProgramHeaders { count, size });
        }
        let bytes = read(source, "program headers", table, usize::from(size) * usize::from(count))?;
        let headers_end = table.saturating_add(bytes.len() as u64);
        // Linkers put the file's own headers before a text at 1 MiB: no kernel needs them, and memory there is taken.
        let is_needed = |segment: &Segment| {
            let low = segment.address.checked_add(segment.memory_size).is_some_and(|end| end <= HIGH_MEMORY_START);
            let only_headers = segment.offset == 0 && table <= ELF_HEADER && segment.memory_size <= headers_end;
            segment.memory_size > 0 && !(low && only_headers)
        };
        for (index, entry) in bytes.chunks_exact(usize::from(size)).enumerate() {
            let fields = Fields(entry);
            let segment = Segment {
                offset: fields.address(self.is_64, 4, 8),
                address: fields.address(self.is_64, 12, 24),
                file_size: fields.address(self.is_64, 16, 32),
                memory_size: fields.address(self.is_64, 20, 40),
            };
            match fields.get(0, 4) as u32 {
                SEGMENT_LOAD if is_needed(&segment) => {
                    check_segment(index, &segment, len, &self.segments)?;
                    self.segments.push(segment);
                }
                SEGMENT_NOTE if self.pvh_entry.is_none() => {
                    let align = fields.address(self.is_64, 28, 48);
                    self.pvh_entry = find_pvh_entry(source, &segment, align)?;
                }
                _ => {}
            }
        }
        if self.segments.is_empty() { Err(ElfError::Empty) } else { Ok(()) }
    }

    fn machine_refusal(&self) -> Option<String> {
        let name = match self.machine {
            MACHINE_386 | MACHINE_X86_64 => {
                let executable = matches!(self.kind, TYPE_EXECUTABLE | TYPE_SHARED);
                return (!executable).then(|| format!("an ELF file of type {}, not an executable", self.kind));
            }
            183 => "aarch64",
            40 => "arm",
            243 => "RISC-V",
            20 | 21 => "PowerPC",
            22 => "s390",
            258 => "LoongArch",
            8 => "MIPS",
            other => return Some(format!("an ELF image for machine type {other}")),
        };
        Some(format!("an ELF image for {name}"))
    }

    /// What this image is, if it cannot be booted.
    pub(super) fn refusal(&self) -> Option<String> {
        self.machine_refusal().or_else(|| {
            (!self.is_64 && self.pvh_entry.is_none())
                .then(|| "a 32-bit ELF image without a PVH note or a multiboot header".into())
        })
    }

    /// First byte after the image in memory.
    pub(super) fn end(&self) -> u64 {
        self.segments.iter().map(Segment::end).max().unwrap_or(0)
    }
}

fn read<S: ReadAt + ?Sized>(source: &S, what: &'static str, offset: u64, len: usize) -> Result<Vec<u8>, ElfError> {
    let mut bytes = vec![0; len];
    source.read_at(&mut bytes, offset).map_err(|source| ElfError::Read { what, source })?;
    Ok(bytes)
}

fn check_segment(index: usize, segment: &Segment, len: u64, others: &[Segment]) -> Result<(), ElfError> {
    let Segment { offset, file_size, memory_size, address } = *segment;
    let within_file = offset.checked_add(file_size).is_some_and(|end| end <= len);
    let fault = if file_size > memory_size {
        "has more bytes in the file than in memory"
    } else if !within_file {
        "lies past the end of the file"
    } else if address.checked_add(memory_size).is_none() {
        "passes the end of the address space"
    } else if others.iter().any(|other| address < other.end() && other.address < segment.end()) {
        "overlaps another segment"
    } else {
        return Ok(());
    };
    Err(ElfError::Segment { index, offset, file_size, memory_size, address, fault })
}

/// Walks a note segment for the PVH entry. Sizes are padded to the segment's alignment of 4 or 8.
fn find_pvh_entry<S: ReadAt + ?Sized>(source: &S, segment: &Segment, align: u64) -> Result<Option<u32>, ElfError> {
    let notes = read(source, "notes", segment.offset, segment.file_size.min(MOST_NOTE_BYTES) as usize)?;
    let align = if align == 8 { 8usize } else { 4 };
    let mut rest = notes.as_slice();
    while let Some((header, body)) = rest.split_at_checked(12) {
        let field = |at| Fields(header).get(at, 4) as usize;
        let (name_size, desc_size, kind) = (field(0), field(4), field(8));
        let Some(desc_start) = name_size.checked_next_multiple_of(align) else { break };
        let Some(desc) = body.get(desc_start..).and_then(|tail| tail.get(..desc_size)) else { break };
        if kind == XEN_PHYS32_ENTRY as usize && body.starts_with(XEN_NAME) && name_size == XEN_NAME.len() {
            let entry = Fields(desc).get(0, if desc_size >= 8 { 8 } else { 4 });
            return Ok(u32::try_from(entry).ok().filter(|entry| *entry != 0));
        }
        let Some(next) = desc_size.checked_next_multiple_of(align).and_then(|size| desc_start.checked_add(size)) else {
            break;
        };
        rest = body.get(next..).unwrap_or_default();
    }
    Ok(None)
}

/// Loads an ELF kernel and what belongs to it.
pub(super) fn load<M: GuestMemoryBackend>(
    mem: &M,
    kernel: &Opened,
    image: &ElfImage,
    initrd: Option<&Opened>,
    options: &Options<'_>,
) -> Result<Loaded, BootError> {
    let no_entry = |wanted| BootError::NoEntry { path: kernel.path.clone(), wanted };
    let pvh = match (options.elf_entry, image.pvh_entry) {
        (ElfEntry::Pvh, None) => return Err(no_entry("PVH")),
        (ElfEntry::Auto | ElfEntry::Pvh, entry) => entry,
        (ElfEntry::Linux64, _) => None,
    };
    if pvh.is_none() && !image.is_64 {
        return Err(no_entry("64-bit Linux"));
    }
    for segment in &image.segments {
        load_segment(mem, kernel, segment, options)?;
    }
    let (entry, name) = match pvh {
        Some(entry) => (pvh::enter(mem, entry, initrd, image.end(), options)?, "PVH"),
        None => {
            let header = zero_page::synthetic_header();
            let page = zero_page::write(mem, header, initrd, image.end(), zero_page::NO_LIMIT, options)?;
            (EntryState::Linux64 { rip: image.entry, rsi: page.0 }, "64-bit Linux")
        }
    };
    let description = format!("{}-bit ELF, {name} entry", if image.is_64 { 64 } else { 32 });
    Ok(Loaded { entry, description })
}

/// Brings one segment into memory.
pub(super) fn load_segment<M: GuestMemoryBackend>(
    mem: &M,
    kernel: &Opened,
    segment: &Segment,
    options: &Options<'_>,
) -> Result<(), BootError> {
    files::check_range(mem, "a kernel segment", segment.address, segment.memory_size)?;
    kernel.load(mem, segment.offset, GuestAddress(segment.address), segment.file_size, options.fresh_memory)?;
    if !options.fresh_memory {
        let bss = segment.memory_size - segment.file_size;
        files::clear(mem, "a kernel segment", segment.address + segment.file_size, bss)?;
    }
    Ok(())
}
