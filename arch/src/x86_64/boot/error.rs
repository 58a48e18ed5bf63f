//! What can go wrong between a kernel's file and its first instruction.

use std::io;
use std::path::PathBuf;

use vm_memory::GuestMemoryError;

use super::elf::ElfError;
use super::multiboot::MultibootError;
use super::unpack::UnpackError;

/// Why a kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file that is needed cannot be opened or examined.
    #[error("cannot open {what} {}", path.display())]
    Open {
        /// What the file was to be: "kernel", "initrd", "module".
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is needed is a directory, a pipe or the like.
    #[error("{what} {} is not a regular file", path.display())]
    NotAFile {
        /// What the file was to be.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// The kernel's file is none that can be booted.
    #[error(
        "{} is {found}; accepted as a kernel are a Linux bzImage of boot protocol 2.06 or later, an x86-64 ELF image \
         (with or without a PVH note), a 32-bit ELF image with a PVH note, and a multiboot image",
        path.display()
    )]
    Unknown {
        /// The file's path.
        path: PathBuf,
        /// What its first bytes say.
        found: String,
    },
    /// Reading a file that was opened before fails.
    #[error("cannot read {what} {}", path.display())]
    Read {
        /// What the file is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that was opened before was written to since.
    #[error(
        "{what} {} was changed in place while the guest ran, so that the guest cannot start anew from it; start the \
         machine again, and have new files written beside the old and renamed",
        path.display()
    )]
    Changed {
        /// What the file is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// The kernel's ELF structure is broken.
    #[error("cannot load ELF kernel {}", path.display())]
    Elf {
        /// The file's path.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ElfError,
    },
    /// The kernel's multiboot header is broken or asks for what is not offered.
    #[error("cannot load multiboot kernel {}", path.display())]
    Multiboot {
        /// The file's path.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: MultibootError,
    },
    /// The kernel was to be unpacked on the host, and that fails.
    #[error("cannot unpack kernel {} on the host", path.display())]
    Unpack {
        /// The file's path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: UnpackError,
    },
    /// The kernel is to be loaded by firmware, which only knows one kind.
    #[error(
        "{} is not a Linux bzImage, and firmware can load nothing else: leave out the firmware to start it directly",
        path.display()
    )]
    NotForFirmware {
        /// The file's path.
        path: PathBuf,
    },
    /// The kernel lacks the entry point that was asked for.
    #[error("kernel {} has no {wanted} entry point", path.display())]
    NoEntry {
        /// The file's path.
        path: PathBuf,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A part of the kernel would be loaded where there is no memory, or over the loader's tables.
    #[error("{what} at {start:#x}, {size} bytes long, does not fit the guest's memory above 1 MiB")]
    DoesNotFit {
        /// What part.
        what: &'static str,
        /// Guest physical address.
        start: u64,
        /// Bytes.
        size: u64,
    },
    /// No room is left for an initrd or a module.
    #[error(
        "{what} of {size} bytes does not fit the guest's memory between the kernel's end at {kernel_end:#x} and {limit:#x}"
    )]
    NoRoom {
        /// What file.
        what: &'static str,
        /// Its bytes.
        size: u64,
        /// End of the kernel.
        kernel_end: u64,
        /// Highest address the kernel accepts, exclusive.
        limit: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {length} bytes, the kernel takes at most {limit}")]
    CommandLineTooLong {
        /// Bytes given.
        length: usize,
        /// Bytes taken, without the terminator.
        limit: usize,
    },
    /// The command line holds a zero byte, its terminator.
    #[error("the kernel command line contains a zero byte")]
    CommandLineZero,
    /// Modules and their strings are too many for the loader's low memory.
    #[error("the boot information needs {needed} bytes, {available} are available")]
    InformationTooLong {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// Guest memory could not be written.
    #[error("cannot write {what} to guest memory")]
    Memory {
        /// What was to be written.
        what: &'static str,
        /// Why not.
        #[source]
        source: GuestMemoryError,
    },
}
