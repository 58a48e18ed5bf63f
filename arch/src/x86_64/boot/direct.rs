//! Files and guest memory as slices, so that bytes go from one to the other without a stop in between.
//!
//! A guest's first second is mostly the moving of a kernel of 50 MB, of which half is zero. A mapping of the file
//! spares the copy into a buffer; looking before copying spares the zeros, and with them the guest's pages.

#![expect(unsafe_code, reason = "a file mapping and guest memory are seen as slices while nobody else uses them")]

use std::fs::File;
use std::io;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, MmapRegion, VolatileSlice};

use crate::x86_64::layout::PAGE_SIZE;

/// Bytes that are looked at and copied at once. Small enough for the C library to copy them in registers: its string
/// instructions cost an instruction a byte where a processor is emulated.
const STEP: usize = 1024;

/// A part of a file, mapped for reading.
pub(super) struct Mapped {
    region: MmapRegion<()>,
    skip: usize,
}

impl Mapped {
    /// Maps `len` bytes of `file` from `offset`; `len` is not zero.
    ///
    /// # Errors
    /// The part passes the end of the file, or its file system offers no mappings.
    pub(super) fn new(file: &File, offset: u64, len: u64) -> io::Result<Self> {
        let start = offset & !(PAGE_SIZE - 1);
        let skip = (offset - start) as usize;
        let size =
            usize::try_from(len).ok().and_then(|len| len.checked_add(skip)).ok_or(io::ErrorKind::FileTooLarge)?;
        let file = FileOffset::new(file.try_clone()?, start);
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let region = MmapRegion::build(Some(file), size, libc::PROT_READ, flags).map_err(io::Error::other)?;
        Ok(Self { region, skip })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the region is mapped readable for as long as `self` lives, `size` bytes long, and `skip` lies
        // inside. Nothing in this process writes to the private mapping. Another process may change the file: then
        // the bytes change, which every user of them bears, since each checks what it reads against bounds it holds
        // elsewhere; or truncate it in the moment between `Opened::check_unchanged` and here, which ends this process
        // by SIGBUS, as it ends any program that maps the file.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr().add(self.skip), self.region.size() - self.skip) }
    }
}

/// Lets `use_bytes` see `len` bytes of guest memory at `at`; `None` where there is no contiguous memory.
///
/// Whoever boots a guest keeps its processors and devices stopped meanwhile.
pub(super) fn with_guest<M: GuestMemoryBackend, R>(
    mem: &M,
    at: u64,
    len: u64,
    use_bytes: impl FnOnce(&mut [u8]) -> R,
) -> Option<R> {
    let len = usize::try_from(len).ok()?;
    let slice = mem.get_slice(GuestAddress(at), len).ok()?;
    Some(with_slice(&slice, use_bytes))
}

fn with_slice<B: BitmapSlice, R>(slice: &VolatileSlice<'_, B>, use_bytes: impl FnOnce(&mut [u8]) -> R) -> R {
    slice.bitmap().mark_dirty(0, slice.len());
    let guard = slice.ptr_guard_mut();
    // SAFETY: the guard keeps `len` bytes at this address mapped, readable and writable. No processor runs and no
    // device works while a kernel is loaded (`Images::load`), so that nobody else touches them; the slice does not
    // outlive the call.
    use_bytes(unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), slice.len()) })
}

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let block_is_zero =
        |block: &[u8; 64]| block.as_chunks::<8>().0.iter().fold(0, |all, part| all | u64::from_ne_bytes(*part)) == 0;
    blocks.iter().all(block_is_zero) && rest.iter().all(|byte| *byte == 0)
}

/// Copies `from` to `to`, of the same length; where `to` reads as zero before, zeros are not written.
pub(super) fn copy(from: &[u8], to: &mut [u8], to_is_zero: bool) {
    for (from, to) in from.chunks(STEP).zip(to.chunks_mut(STEP)) {
        if !(to_is_zero && is_zero(from)) {
            to[..from.len()].copy_from_slice(from);
        }
    }
}

/// Moves `len` bytes within `bytes` as `copy_within` does, but does not write zeros over zeros.
pub(super) fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    if from == to {
        return;
    }
    let steps = len.div_ceil(STEP);
    let mut step = |n: usize| {
        let (start, size) = (n * STEP, STEP.min(len - n * STEP));
        let (from, to) = (from + start, to + start);
        if !(is_zero(&bytes[from..from + size]) && is_zero(&bytes[to..to + size])) {
            bytes.copy_within(from..from + size, to);
        }
    };
    if to < from { (0..steps).for_each(&mut step) } else { (0..steps).rev().for_each(&mut step) }
}

/// Clears bytes, without writing where they are zero.
pub(super) fn clear(bytes: &mut [u8]) {
    bytes.chunks_mut(STEP).filter(|step| !is_zero(step)).for_each(|step| step.fill(0));
}
