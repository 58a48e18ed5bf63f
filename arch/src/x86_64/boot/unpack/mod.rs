//! Unpacking a bzImage's payload on the host, into the place where the kernel runs.
//!
//! The payload is an ELF image, packed. It is unpacked into guest memory so that its first segment lies at once where
//! it runs; the others are moved by what their distances differ in file and memory. No buffer of the kernel's size
//! exists on the host. What lies behind the segments, the relocations for KASLR, is left alone: the kernel runs at
//! the address it was linked for.

use std::io;

use vm_memory::GuestMemoryBackend;

use super::Options;
use super::bzimage::SetupHeader;
use super::direct::{self, Mapped};
use super::elf::{ElfError, ElfImage, Segment};
use super::files::{self, Opened};
use crate::x86_64::layout::HIGH_MEMORY_START;

mod decode;
mod lz4;
mod lzop;

#[cfg(test)]
mod tests;

use decode::Packing;

/// Where the first segment lies in a kernel's ELF file: x86-64 linkers align segments to 2 MiB.
const FIRST_SEGMENT: u64 = 2 << 20;
/// No kernel is larger, unpacked.
const MOST_UNPACKED: u64 = 1 << 30;

/// Why a payload cannot be unpacked on the host.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The setup header names no payload, or the kernel has no 64-bit entry.
    #[error("it is not a 64-bit kernel with a payload named in its header")]
    NoPayload,
    /// The payload's first bytes are none of a known format.
    #[error("its payload begins with {0:02x?}, which is no known compression")]
    UnknownPacking(Vec<u8>),
    /// The payload cannot be read.
    #[error("cannot read its payload")]
    Read(#[source] io::Error),
    /// The payload is broken.
    #[error("its {packing} payload is broken")]
    Broken {
        /// The compression.
        packing: &'static str,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// The payload has another length than the file says.
    #[error("its payload unpacks to {found} bytes, where the file says {expected}")]
    Length {
        /// Bytes unpacked.
        found: u64,
        /// Bytes the payload's last word says.
        expected: u64,
    },
    /// The unpacked kernel is not an ELF image that can be loaded.
    #[error("its payload is not a loadable kernel")]
    Elf(#[source] ElfError),
    /// The unpacked kernel is an ELF image, but not one for a 64-bit x86 with segments in ascending order.
    #[error("its payload is an ELF image of an unexpected form")]
    Form,
    /// The unpacked kernel does not fit where it has to run.
    #[error("its {size} unpacked bytes do not fit the memory at {start:#x}")]
    DoesNotFit {
        /// Where it would be unpacked.
        start: u64,
        /// Its unpacked bytes.
        size: u64,
    },
}

/// A kernel that was unpacked and lies where it runs.
pub(super) struct Unpacked {
    pub(super) entry: u64,
    /// First byte behind the kernel and what unpacking left.
    pub(super) end: u64,
    pub(super) packing: &'static str,
}

/// Unpacks the payload of `kernel` to where it runs.
///
/// After an error guest memory may hold a part of the kernel: it is no longer fresh.
pub(super) fn unpack_kernel<M: GuestMemoryBackend>(
    mem: &M,
    kernel: &Opened,
    header: &SetupHeader,
    options: &Options<'_>,
) -> Result<Unpacked, UnpackError> {
    let (offset, length) = header.payload.filter(|_| header.is_64()).ok_or(UnpackError::NoPayload)?;
    let payload = Mapped::new(&kernel.file, offset, length).map_err(UnpackError::Read)?;
    let payload = payload.bytes();
    let packing =
        Packing::of(payload).ok_or_else(|| UnpackError::UnknownPacking(payload.iter().take(6).copied().collect()))?;
    let size = u64::from(decode::unpacked_size(payload));
    let (run_start, run_size) = header.run_range();
    let start = run_start.checked_sub(FIRST_SEGMENT).filter(|start| *start >= HIGH_MEMORY_START).unwrap_or(run_start);
    let no_room = || UnpackError::DoesNotFit { start, size };
    if size > MOST_UNPACKED {
        return Err(no_room());
    }
    // `load` checked that the range in which the kernel runs is memory; the unpacked image may reach further.
    let room = size.max(run_start + run_size - start);
    files::check_range(mem, "the kernel", start, room).map_err(|_| no_room())?;
    let unpacked = direct::with_guest(mem, start, room, |window| {
        packing.decode(payload, &mut window[..size as usize], options.fresh_memory)?;
        settle(window, start, size as usize, options.fresh_memory)
    });
    let entry = unpacked.ok_or_else(no_room)??;
    Ok(Unpacked { entry, end: start + room, packing: packing.name() })
}

/// Moves the segments of the ELF image in the first `size` bytes of `window`, which lies at `start` in guest memory,
/// to their addresses, and gives the entry point.
fn settle(window: &mut [u8], start: u64, size: usize, fresh: bool) -> Result<u64, UnpackError> {
    let image = ElfImage::parse(&window[..size], size as u64).map_err(UnpackError::Elf)?;
    let segments = &image.segments;
    let ascending = segments
        .windows(2)
        .all(|pair| pair[0].end() <= pair[1].address && pair[0].offset + pair[0].file_size <= pair[1].offset);
    if !image.is_64 || image.refusal().is_some() || !ascending {
        return Err(UnpackError::Form);
    }
    let end = start + window.len() as u64;
    if segments.iter().any(|segment| segment.address < start || segment.end() > end) {
        return Err(UnpackError::DoesNotFit { start, size: image.end().saturating_sub(start) });
    }
    // Both sequences ascend and neither overlaps itself. So a segment that moves down can only run over the source of
    // an earlier one that moves down too, and upwards likewise: in this order each source is read before it is lost.
    let down = |segment: &&Segment| segment.address - start < segment.offset;
    let move_one = |segment: &Segment, window: &mut [u8]| {
        let to = (segment.address - start) as usize;
        direct::shift(window, segment.offset as usize, to, segment.file_size as usize);
    };
    segments.iter().filter(down).for_each(|segment| move_one(segment, window));
    segments.iter().rev().filter(|segment| !down(segment)).for_each(|segment| move_one(segment, window));
    for segment in segments {
        let bss = (segment.address - start + segment.file_size) as usize..(segment.end() - start) as usize;
        // Fresh memory is dirty only where the packed image was put.
        let dirty = if fresh { bss.end.min(size).max(bss.start) } else { bss.end };
        direct::clear(&mut window[bss.start..dirty]);
    }
    Ok(image.entry)
}
