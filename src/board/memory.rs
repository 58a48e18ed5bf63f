//! Guest RAM: host memory mapped as the user asked, as the regions of the board's memory map.
//!
//! ```text
//!  sources   [ memory-backend a ][ memory-backend b    ]     in order, one for each NUMA node or one for all
//!  shares    [ a, below 4 GiB   ][ b, below ] [ b, above ]   each within one source and one range of the memory map
//! ```
//!
//! Each share is one mapping. Its host address equals its guest address modulo the size of a huge page: then one entry
//! of KVM's page tables can stand for a whole huge page of the host, and the guest leaves for two megabytes once and not
//! 512 times.

mod backing;
#[cfg(test)]
mod tests;

use std::io;

use rhea_arch::x86_64::layout::Share;
use rhea_devices::memory::GuestRam;
use thiserror::Error;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

pub use backing::Backing;
use backing::Opened;

/// Huge pages of x86-64: of a page directory's entry, and of the table's above it.
const HUGE: usize = 2 << 20;
const GIANT: usize = 1 << 30;

/// One source of guest memory, and what the user wants of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamSource {
    /// The object's `id=`, or `pc.ram`.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Where it comes from.
    pub backing: Backing,
    /// Writes reach the file (`share=on`).
    pub share: bool,
    /// Touch every page now, with so many threads (`prealloc=on`, `prealloc-threads=`); 0 for not.
    pub prealloc: u32,
    /// Include it in a core dump of this process (`dump-guest-core`).
    pub dump: bool,
    /// Let the host merge equal pages (`mem-merge`).
    pub merge: bool,
}

/// Guest memory as the user asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamPlan {
    /// Where it comes from.
    pub sources: Vec<RamSource>,
    /// Which source has which addresses, ascending.
    pub shares: Vec<Share>,
    /// Objects that no guest memory is taken from: made and held like the others.
    pub spare: Vec<RamSource>,
    /// Pin it (`-overcommit mem-lock=on`).
    pub lock: bool,
}

/// Why guest memory could not be had.
#[derive(Debug, Error)]
pub enum RamError {
    /// The file cannot be made or opened.
    #[error("memory \"{id}\": cannot open {path}")]
    Open {
        /// The object.
        id: String,
        /// The path given.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be given its size.
    #[error("memory \"{id}\": cannot give its file {size} bytes")]
    Size {
        /// The object.
        id: String,
        /// The bytes wanted.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a whole number of the file's pages.
    #[error("memory \"{id}\": {size} bytes are not a multiple of its huge pages of {page} bytes; change -m and 'size'")]
    Pages {
        /// The object.
        id: String,
        /// Bytes.
        size: u64,
        /// Bytes in a page.
        page: u64,
    },
    /// The host has no huge pages of this size.
    #[error(
        "memory \"{id}\": the host has no huge pages of {page} bytes; 'hugetlbsize' takes those of \
         /sys/kernel/mm/hugepages"
    )]
    NoSuchPages {
        /// The object.
        id: String,
        /// Bytes in a page.
        page: u64,
    },
    /// The host has not enough huge pages.
    #[error(
        "memory \"{id}\": the host has not enough free huge pages for {size} bytes; reserve more in \
         /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"
    )]
    FewPages {
        /// The object.
        id: String,
        /// Bytes.
        size: u64,
        /// Bytes in a page, in KiB.
        kib: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host refused the mapping.
    #[error("memory \"{id}\": cannot map {size} bytes; is -m more than the host has?")]
    Map {
        /// The object.
        id: String,
        /// Length in bytes.
        size: u64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host refused advice about it.
    #[error("memory \"{id}\": cannot {what} {size} bytes; {instead}")]
    Advise {
        /// The object.
        id: String,
        /// What was asked.
        what: &'static str,
        /// Length in bytes.
        size: u64,
        /// What would work.
        instead: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Maps the shares. Nothing is touched unless a source is to be preallocated: O(number of shares), not of bytes.
///
/// The memory stays mapped until the process ends: it has one guest, and what a device or the kernel still does with
/// a page of it must not hit another's.
///
/// # Errors
/// [`RamError`], each naming what the host refused.
pub fn map(plan: &RamPlan) -> Result<GuestRam, RamError> {
    let opened = plan.sources.iter().map(Opened::new).collect::<Result<Vec<_>, _>>()?;
    let mut regions = Vec::with_capacity(plan.shares.len());
    for share in &plan.shares {
        // Shares are dealt out among the sources.
        let (source, file) = (&plan.sources[share.owner], &opened[share.owner]);
        let start = map_share(source, file, share)?;
        advise(source, start, length(share), plan.lock)?;
        regions.push(region(source, file, share, start)?);
    }
    for source in &plan.spare {
        let whole = Share { owner: 0, range: 0..source.size, offset: 0 };
        let start = map_share(source, &Opened::new(source)?, &whole)?;
        advise(source, start, length(&whole), plan.lock)?;
    }
    let refused = |e| RamError::Map { id: String::new(), size: 0, source: Box::new(e) };
    GuestRam::from_regions(regions).map_err(refused)
}

fn length(share: &Share) -> usize {
    // A 64-bit host: the workspace builds for nothing else.
    (share.range.end - share.range.start) as usize
}

/// Maps a share at an address that fits its guest address.
fn map_share(source: &RamSource, file: &Opened, share: &Share) -> Result<*mut u8, RamError> {
    let length = length(share);
    let sharing = if source.share { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let anonymous = if file.file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
    let place = reserve(length, share.range.start as usize);
    let mapped = place.and_then(|place| map_at(place, length, sharing | anonymous, file, share.offset));
    mapped.map_err(|error| {
        let (id, size) = (source.id.clone(), length as u64);
        match file.huge_page {
            Some(page) => RamError::FewPages { id, size, kib: page >> 10, source: error },
            None => RamError::Map { id, size, source: Box::new(error) },
        }
    })
}

/// A free place in this process's address space for `length` bytes of guest memory from guest address `guest`.
#[expect(unsafe_code, reason = "reserves address space")]
fn reserve(length: usize, guest: usize) -> io::Result<*mut u8> {
    let align = if length >= GIANT { GIANT } else { HUGE };
    let skip = guest % align;
    let whole = length.checked_add(2 * align).ok_or(io::ErrorKind::OutOfMemory)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping where the kernel likes; no memory in use is touched.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let before = (start as usize).next_multiple_of(align) + skip - start as usize;
    let place = start.cast::<u8>().wrapping_add(before);
    for (edge, size) in [(start.cast(), before), (place.wrapping_add(length), whole - before - length)] {
        // SAFETY: an edge of the reservation just made, which nobody uses. What cannot be given back is only address
        // space.
        let _ = size == 0 || unsafe { libc::munmap(edge.cast(), size) } == 0;
    }
    Ok(place)
}

#[expect(unsafe_code, reason = "maps over address space that was reserved")]
fn map_at(place: *mut u8, length: usize, flags: i32, file: &Opened, offset: u64) -> io::Result<*mut u8> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: `place` and `length` are a reservation of our own, in which nothing lies yet.
    let mapped =
        unsafe { libc::mmap(place.cast(), length, access, flags | libc::MAP_FIXED, file.descriptor(), offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(place) }
}

#[expect(unsafe_code, reason = "describes a mapping that was just made")]
fn region(source: &RamSource, file: &Opened, share: &Share, start: *mut u8) -> Result<GuestRegionMmap<()>, RamError> {
    let size = share.range.end - share.range.start;
    let refused = |source_of: Box<dyn std::error::Error + Send + Sync>| RamError::Map {
        id: source.id.clone(),
        size,
        source: source_of,
    };
    let sharing = if source.share { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let mut builder = MmapRegionBuilder::new(length(share))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(sharing);
    if let Some(file) = &file.file {
        let file = file.try_clone().map_err(|e| refused(Box::new(e)))?;
        builder = builder.with_file_offset(FileOffset::new(file, share.offset));
    }
    // SAFETY: a mapping of this length made by `map_at`, readable and writable, which nobody unmaps.
    let mapping = unsafe { builder.with_raw_mmap_pointer(start) }.build().map_err(|e| refused(Box::new(e)))?;
    GuestRegionMmap::new(mapping, GuestAddress(share.range.start))
        .ok_or_else(|| refused("address past the end of memory".into()))
}

#[expect(unsafe_code, reason = "madvise and mlock on a mapping just made")]
fn advise(source: &RamSource, start: *mut u8, length: usize, lock: bool) -> Result<(), RamError> {
    let refused = |what, instead, error| RamError::Advise {
        id: source.id.clone(),
        what,
        size: length as u64,
        instead,
        source: error,
    };
    // These are optimisations that kernels may be built without, or that this kind of memory has not: a refusal costs
    // speed or memory, not correctness.
    madvise(start, length, libc::MADV_HUGEPAGE).unwrap_or_else(|e| log::debug!("no huge pages by advice: {e}"));
    if source.merge && !source.share {
        madvise(start, length, libc::MADV_MERGEABLE).unwrap_or_else(|e| log::debug!("no page merging: {e}"));
    }
    if !source.dump {
        let said = madvise(start, length, libc::MADV_DONTDUMP);
        said.map_err(|e| refused("exclude from core dumps", "leave dump-guest-core on", e))?;
    }
    if source.prealloc > 0 {
        let said = populate(start, length, source.prealloc);
        said.map_err(|e| refused("preallocate", "the host has not that much memory free, or not of this kind", e))?;
    }
    // SAFETY: a mapping of our own; locking changes no content.
    if lock && unsafe { libc::mlock(start.cast(), length) } != 0 {
        let instead = "raise the limit of locked memory (ulimit -l) or leave out -overcommit mem-lock=on";
        return Err(refused("lock", instead, io::Error::last_os_error()));
    }
    Ok(())
}

#[expect(unsafe_code, reason = "madvise on guest memory")]
fn madvise(start: *mut u8, length: usize, advice: i32) -> io::Result<()> {
    // SAFETY: the range is a mapping of ours; none of the advice given here changes content.
    if unsafe { libc::madvise(start.cast(), length, advice) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Touches every page, in `threads` parts side by side: clearing memory is what takes the time.
fn populate(start: *mut u8, length: usize, threads: u32) -> io::Result<()> {
    let part = length.div_ceil(threads as usize).next_multiple_of(HUGE);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..length)
            .step_by(part)
            .map(|at| {
                let address = start.wrapping_add(at) as usize;
                let size = part.min(length - at);
                scope.spawn(move || madvise(address as *mut u8, size, libc::MADV_POPULATE_WRITE))
            })
            .collect();
        let panicked = |_| Err(io::Error::other("a thread that touches memory panicked"));
        parts.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
    })
}
