//! Files of a direct boot, and their way into guest memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::BootError;
use super::direct::{self, Mapped};
use crate::x86_64::layout::{FOUR_GIB, HIGH_MEMORY_START, MemoryLayout, PAGE_SIZE};

/// Bytes of a file that are mapped at once: little beside what the program needs anyway.
const PIECE: u64 = 2 << 20;

/// An open regular file, its name for messages, and what it was when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    modified: Option<SystemTime>,
    pub(super) what: &'static str,
    /// The string a multiboot kernel gets with a module; empty for other files.
    pub(super) arguments: String,
}

impl Opened {
    pub(super) fn open(what: &'static str, path: &Path) -> Result<Self, BootError> {
        let failed = |source| BootError::Open { what, path: path.to_owned(), source };
        // A FIFO would block the open; its type is asked for first.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(BootError::NotAFile { what, path: path.to_owned() });
        }
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let (len, modified) = (metadata.len(), metadata.modified().ok());
        Ok(Self { file, path: path.to_owned(), len, modified, what, arguments: String::new() })
    }

    /// Refuses a file that was written to since it was opened: what is known of it no longer holds, and a mapping past
    /// a new end would end the process. A file that was replaced by another of its name is still the one it was.
    ///
    /// # Errors
    /// It cannot be examined, or has another length or time of modification.
    pub(super) fn check_unchanged(&self) -> Result<(), BootError> {
        let now = self.file.metadata().map_err(|source| self.read_failed(source))?;
        if (now.len(), now.modified().ok()) == (self.len, self.modified) {
            return Ok(());
        }
        Err(BootError::Changed { what: self.what, path: self.path.clone() })
    }

    pub(super) fn read_failed(&self, source: io::Error) -> BootError {
        BootError::Read { what: self.what, path: self.path.clone(), source }
    }

    /// Reads up to `limit` bytes from the file's start.
    pub(super) fn head(&self, limit: usize) -> Result<Vec<u8>, BootError> {
        let mut head = vec![0; limit.min(usize::try_from(self.len).unwrap_or(limit))];
        self.file.read_exact_at(&mut head, 0).map_err(|source| self.read_failed(source))?;
        Ok(head)
    }

    /// Reads `length` bytes from `offset`, which lie within the file.
    pub(super) fn part(&self, offset: u64, length: u64) -> Result<Vec<u8>, BootError> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, offset).map_err(|source| self.read_failed(source))?;
        Ok(bytes)
    }

    /// Brings `length` bytes from `offset` into guest memory, which may be known to read as zero.
    pub(super) fn load<M: GuestMemoryBackend>(
        &self,
        mem: &M,
        offset: u64,
        at: GuestAddress,
        length: u64,
        fresh: bool,
    ) -> Result<(), BootError> {
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(PIECE);
            let mapped = Mapped::new(&self.file, offset + done, piece).ok();
            let copied = mapped.and_then(|mapped| {
                direct::with_guest(mem, at.0 + done, piece, |to| direct::copy(mapped.bytes(), to, fresh))
            });
            if copied.is_none() {
                self.read_into(mem, offset + done, GuestAddress(at.0 + done), piece)?;
            }
            done += piece;
        }
        Ok(())
    }

    /// Reads `length` bytes from `offset`, where they cannot be mapped or memory is not contiguous.
    fn read_into<M: GuestMemoryBackend>(
        &self,
        mem: &M,
        offset: u64,
        at: GuestAddress,
        length: u64,
    ) -> Result<(), BootError> {
        let length = usize::try_from(length).map_err(|_| self.read_failed(io::ErrorKind::FileTooLarge.into()))?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).map_err(|source| self.read_failed(source))?;
        mem.read_exact_volatile_from(at, &mut file, length)
            .map_err(|source| BootError::Memory { what: self.what, source })
    }
}

/// Refuses ranges outside memory, and ranges below 1 MiB, where the loader keeps its tables.
pub(super) fn check_range<M: GuestMemoryBackend>(
    mem: &M,
    what: &'static str,
    start: u64,
    size: u64,
) -> Result<(), BootError> {
    let refused = || BootError::DoesNotFit { what, start, size };
    let length = usize::try_from(size).map_err(|_| refused())?;
    if start < HIGH_MEMORY_START || !GuestMemoryBackend::check_range(mem, GuestAddress(start), length) {
        return Err(refused());
    }
    Ok(())
}

/// Loads an initrd as high as `limit` (exclusive) allows and above `kernel_end`, below 4 GiB if it fits there.
///
/// As high as possible, because kernels unpack upwards from their own end. Returns its address.
pub(super) fn load_initrd<M: GuestMemoryBackend>(
    mem: &M,
    initrd: &Opened,
    layout: &MemoryLayout,
    kernel_end: u64,
    limit: u64,
    fresh: bool,
) -> Result<GuestAddress, BootError> {
    let no_room = BootError::NoRoom { what: initrd.what, size: initrd.len, kernel_end, limit };
    let fits = |bottom: u64, top: u64| {
        let start = top.checked_sub(initrd.len)? & !(PAGE_SIZE - 1);
        (start >= bottom).then_some(GuestAddress(start))
    };
    let below = fits(kernel_end, layout.below_4g().min(limit));
    let above = || fits(FOUR_GIB.max(kernel_end), (FOUR_GIB + layout.above_4g()).min(limit));
    let at = below.or_else(above).ok_or(no_room)?;
    initrd.load(mem, 0, at, initrd.len, fresh)?;
    Ok(at)
}

/// Checks a command line against the kernel's limit and gives it with its terminator.
pub(super) fn terminated(cmdline: &str, limit: usize) -> Result<Vec<u8>, BootError> {
    if cmdline.len() > limit {
        return Err(BootError::CommandLineTooLong { length: cmdline.len(), limit });
    }
    if cmdline.contains('\0') {
        return Err(BootError::CommandLineZero);
    }
    Ok([cmdline.as_bytes(), b"\0"].concat())
}

/// Writes bytes into guest memory; `what` names them when that fails.
pub(super) fn write<M: GuestMemoryBackend>(
    mem: &M,
    what: &'static str,
    bytes: &[u8],
    at: GuestAddress,
) -> Result<(), BootError> {
    mem.write_slice(bytes, at).map_err(|source| BootError::Memory { what, source })
}

/// Clears guest memory in bounded steps.
pub(super) fn clear<M: GuestMemoryBackend>(
    mem: &M,
    what: &'static str,
    start: u64,
    size: u64,
) -> Result<(), BootError> {
    const STEP: u64 = 64 << 10;
    let zeros = vec![0; size.min(STEP) as usize];
    let mut done = 0;
    while done < size {
        let step = (size - done).min(STEP);
        write(mem, what, &zeros[..step as usize], GuestAddress(start + done))?;
        done += step;
    }
    Ok(())
}
