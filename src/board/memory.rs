//! Guest RAM: host memory mapped as the user asked, as the regions of the board's memory map.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use rhea_arch::x86_64::boot::SegmentMapper;

use rhea_devices::memory::GuestRam;

/// Where guest memory comes from (`memory-backend-*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous private memory.
    Anonymous,
    /// A sealed, unnamed file, so that another process can share it.
    Memfd {
        /// Back it with huge pages of this size in bytes; 0 for the host's default huge page size.
        hugetlb: Option<u64>,
    },
    /// A file or a directory on tmpfs or hugetlbfs.
    File(PathBuf),
}

/// Guest memory as the user asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamPlan {
    /// First address and length of each range, in bytes, ascending; from the board's memory map.
    pub ranges: Vec<(u64, u64)>,
    /// Where it comes from.
    pub backing: Backing,
    /// Writes reach the file (`share=on`).
    pub share: bool,
    /// Touch every page now (`prealloc=on`).
    pub prealloc: bool,
    /// Include it in a core dump of this process (`dump-guest-core`).
    pub dump: bool,
    /// Let the host merge equal pages (`mem-merge`).
    pub merge: bool,
    /// Pin it (`-overcommit mem-lock=on`).
    pub lock: bool,
}

/// Why guest memory could not be had.
#[derive(Debug, Error)]
pub enum RamError {
    /// The file cannot be made or opened.
    #[error("cannot open guest memory file {path}")]
    Open {
        /// The path given.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be given its size.
    #[error("cannot give guest memory {size} bytes")]
    Size {
        /// The bytes wanted.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host refused the mapping.
    #[error("cannot map {size} bytes of guest memory at {base:#x}; is -m more than the host has?")]
    Map {
        /// Guest address.
        base: u64,
        /// Length in bytes.
        size: u64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host refused advice about it: preallocation, locking.
    #[error("cannot {what} {size} bytes of guest memory")]
    Advise {
        /// What was asked.
        what: &'static str,
        /// Length in bytes.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Maps the ranges. Nothing is touched unless `prealloc` says so: O(number of ranges), not of bytes.
///
/// # Errors
/// [`RamError`], each naming what the host refused.
pub fn map(plan: &RamPlan) -> Result<GuestRam, RamError> {
    let total = plan.ranges.iter().map(|r| r.1).sum();
    let file = open_backing(plan, total)?;
    let mut regions = Vec::with_capacity(plan.ranges.len());
    let mut offset = 0;
    for &(base, size) in &plan.ranges {
        let part = file.as_ref().map(|f| f.try_clone().map(|f| FileOffset::new(f, offset))).transpose();
        let part = part.map_err(|source| RamError::Size { size, source })?;
        regions.push(map_region(plan, base, size, part)?);
        offset += size;
    }
    let refused = |e| RamError::Map { base: 0, size: total, source: Box::new(e) };
    GuestRam::from_regions(regions).map_err(refused)
}

fn map_region(plan: &RamPlan, base: u64, size: u64, file: Option<FileOffset>) -> Result<GuestRegionMmap<()>, RamError> {
    let refused = |source| RamError::Map { base, size, source };
    let length = usize::try_from(size).map_err(|e| refused(Box::new(e)))?;
    let sharing = if plan.share { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let anonymous = if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
    let mut builder = MmapRegionBuilder::new(length)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(sharing | anonymous | libc::MAP_NORESERVE);
    if let Some(file) = file {
        builder = builder.with_file_offset(file);
    }
    let mapping = builder.build().map_err(|e| refused(Box::new(e)))?;
    advise(plan, mapping.as_ptr(), length)?;
    GuestRegionMmap::new(mapping, GuestAddress(base)).ok_or_else(|| refused("address past the end of memory".into()))
}

#[expect(unsafe_code, reason = "madvise and mlock on a mapping just made")]
fn advise(plan: &RamPlan, start: *mut u8, length: usize) -> Result<(), RamError> {
    let size = length as u64;
    let start = start.cast::<libc::c_void>();
    // SAFETY: the range is one mapping of ours; these calls change no content that anyone has read.
    let advice = |what| if unsafe { libc::madvise(start, length, what) } == 0 { Ok(()) } else { Err(last_error()) };
    if !plan.dump {
        advice(libc::MADV_DONTDUMP).map_err(|source| RamError::Advise { what: "exclude from dumps", size, source })?;
    }
    // Both are optimisations that kernels may be built without: a refusal costs speed or memory, not correctness.
    if plan.merge && !plan.share {
        advice(libc::MADV_MERGEABLE).unwrap_or_else(|e| log::debug!("no page merging: {e}"));
    }
    if plan.prealloc {
        advice(libc::MADV_POPULATE_WRITE).map_err(|source| RamError::Advise { what: "preallocate", size, source })?;
    }
    // SAFETY: as above.
    if plan.lock && unsafe { libc::mlock(start, length) } != 0 {
        return Err(RamError::Advise { what: "lock", size, source: last_error() });
    }
    Ok(())
}

fn open_backing(plan: &RamPlan, total: u64) -> Result<Option<File>, RamError> {
    let file = match &plan.backing {
        Backing::Anonymous if !plan.share => return Ok(None),
        Backing::Anonymous => memfd(None)?,
        Backing::Memfd { hugetlb } => memfd(*hugetlb)?,
        Backing::File(path) => open_file(path)?,
    };
    let length = file.metadata().map(|m| m.len()).map_err(|source| RamError::Size { size: total, source })?;
    if length < total {
        file.set_len(total).map_err(|source| RamError::Size { size: total, source })?;
    }
    Ok(Some(file))
}

#[expect(unsafe_code, reason = "memfd_create has no safe wrapper")]
fn memfd(hugetlb: Option<u64>) -> Result<File, RamError> {
    let mut flags = libc::MFD_CLOEXEC;
    if let Some(size) = hugetlb {
        flags |= libc::MFD_HUGETLB;
        flags |= if size == 0 { 0 } else { size.trailing_zeros() << libc::MAP_HUGE_SHIFT };
    }
    // SAFETY: the name is a C string; the result is checked.
    let fd = unsafe { libc::memfd_create(c"rhea-ram".as_ptr(), flags) };
    if fd < 0 {
        return Err(RamError::Open { path: "(memfd)".into(), source: last_error() });
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Opens or makes the file; in a directory, an unlinked one.
fn open_file(path: &PathBuf) -> Result<File, RamError> {
    let refused = |source| RamError::Open { path: path.display().to_string(), source };
    if !path.is_dir() {
        return OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(refused);
    }
    let name = path.join(format!("rhea-ram.{}.{}", std::process::id(), path.as_os_str().len()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&name).map_err(refused)?;
    std::fs::remove_file(&name).map_err(refused)?;
    Ok(file)
}

fn last_error() -> io::Error {
    io::Error::last_os_error()
}

/// Maps parts of a kernel file over guest memory instead of copying them: private, so that the guest's writes stay
/// its own.
///
/// A page that the guest has not touched still shows the file. So that a file changed in place later does not show
/// through, [`KernelMapper::settle`] makes the guest's copies some time after the start, when nobody waits for them.
pub struct KernelMapper {
    ram: Arc<GuestRam>,
    mapped: Mutex<Vec<(usize, usize)>>,
}

impl KernelMapper {
    /// For guest memory that is private and anonymous; other memory is left to copying.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>) -> Self {
        Self { ram, mapped: Mutex::default() }
    }

    /// Makes private copies of all pages that were mapped. O(bytes mapped); nothing to do the second time.
    #[expect(unsafe_code, reason = "madvise on guest memory")]
    pub fn settle(&self) {
        let mapped = std::mem::take(&mut *self.mapped.lock().unwrap_or_else(PoisonError::into_inner));
        for (start, length) in mapped {
            // SAFETY: a range of guest memory, which stays mapped; populating changes no content.
            let done = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_POPULATE_WRITE) };
            if done != 0 {
                log::warn!("the kernel's file has to stay as it is while the guest runs: {}", last_error());
            }
        }
    }
}

impl SegmentMapper for KernelMapper {
    #[expect(unsafe_code, reason = "replaces part of the guest memory mapping")]
    fn map(&self, file: &File, offset: u64, at: GuestAddress, length: u64) -> io::Result<bool> {
        let Some((region, start)) = self.ram.to_region_addr(at) else { return Ok(false) };
        let fits = start.0.checked_add(length).is_some_and(|end| end <= region.len());
        let private_anonymous = region.file_offset().is_none();
        let (Ok(size), Ok(skip)) = (usize::try_from(length), usize::try_from(start.0)) else { return Ok(false) };
        if !fits || !private_anonymous || size == 0 {
            return Ok(false);
        }
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        let place = region.as_ptr().wrapping_add(skip);
        // SAFETY: the range lies inside this region's mapping, so nothing else is replaced; guest memory is only ever
        // accessed through raw pointers and volatile slices, which stay valid.
        let mapped = unsafe {
            libc::mmap(
                place.cast(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(last_error());
        }
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner).push((place as usize, size));
        Ok(true)
    }
}
