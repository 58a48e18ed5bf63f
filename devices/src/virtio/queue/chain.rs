//! A chain: what the driver lends the device, as ranges of guest RAM.

use std::any::Any;
use std::mem::size_of;
use std::sync::Arc;

use rhea_block::{Buffers, IoVecs};
use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryBackend, Permissions};

use crate::memory::{self, RamView};

/// Most descriptors in one chain, indirect ones included. The specification says the queue size (section 2.7.5.3.1),
/// but drivers with small queues and indirect tables exceed it and other devices let them; this is what those allow.
pub const MAX_DESCRIPTORS: usize = 1024;

/// One chain is broken; the ring is not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainError {
    /// A link leads outside of its table.
    #[error("descriptor {index} of a table of {count}")]
    Index {
        /// Where the link leads.
        index: u16,
        /// Number of descriptors in the table.
        count: u32,
    },
    /// More links than descriptors.
    #[error("descriptors form a loop")]
    Loop,
    /// More descriptors than [`MAX_DESCRIPTORS`].
    #[error("more than {MAX_DESCRIPTORS} descriptors")]
    TooMany,
    /// An indirect table within one, or followed by more (section 2.7.5.3.1).
    #[error("indirect table where none may be")]
    IndirectMisplaced,
    /// An indirect table whose length is no multiple of 16, or zero.
    #[error("indirect table of {0} bytes")]
    IndirectLength(u32),
    /// A descriptor is not in RAM.
    #[error("no descriptor in guest memory at {addr:#x}")]
    Table {
        /// Where it would be.
        addr: u64,
    },
    /// A buffer is not, or not whole, in RAM.
    #[error("buffer {addr:#x}+{len:#x} is not in guest memory")]
    NotInRam {
        /// Where it starts.
        addr: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// A device-readable buffer after a device-writable one (section 2.7.4.2).
    #[error("device-readable buffer after a device-writable one")]
    Order,
    /// More than 2^32 - 1 bytes in all (section 2.7.5.2).
    #[error("buffers add up to more than 4 GiB")]
    TooLong,
    /// The device wants more bytes than there are.
    #[error("{wanted} bytes wanted at {offset} of {len}")]
    Short {
        /// Where, in the readable or the writable part.
        offset: u32,
        /// How many.
        wanted: usize,
        /// How many the part has.
        len: u32,
    },
}

/// Bytes in guest RAM, checked to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestRange {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes, never 0.
    pub len: u32,
}

/// The buffers of one request: first the device-readable ones, then the device-writable ones.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    ranges: Vec<GuestRange>,
    /// How many of `ranges` are device-readable.
    split: usize,
    readable: u32,
    writable: u32,
}

impl Chain {
    /// Index of the first descriptor: the chain's name in the used ring.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    #[must_use]
    pub fn readable_len(&self) -> u32 {
        self.readable
    }

    /// Bytes that the device may write.
    #[must_use]
    pub fn writable_len(&self) -> u32 {
        self.writable
    }

    /// `len` bytes from byte `offset` of what the device may read; cut off where that ends.
    pub fn readable(&self, offset: u32, len: u32) -> impl Iterator<Item = GuestRange> + '_ {
        cut(self.ranges.get(..self.split).unwrap_or_default(), offset, len)
    }

    /// `len` bytes from byte `offset` of what the device may write; cut off where that ends.
    pub fn writable(&self, offset: u32, len: u32) -> impl Iterator<Item = GuestRange> + '_ {
        cut(self.ranges.get(self.split..).unwrap_or_default(), offset, len)
    }

    /// Reads from the device-readable part, across any split.
    ///
    /// # Errors
    /// [`ChainError::Short`] when there is less; then nothing is read.
    pub fn read(&self, ram: &RamView, offset: u32, data: &mut [u8]) -> Result<(), ChainError> {
        let want = within(offset, data.len(), self.readable)?;
        if let Some(range) = whole(self.ranges.get(..self.split).unwrap_or_default(), offset, want) {
            return ram.read_bytes(data, range.addr).map_err(|_| not_in_ram(range));
        }
        let mut rest = data;
        for range in self.readable(offset, want) {
            let (now, later) = rest.split_at_mut(range.len as usize);
            ram.read_bytes(now, range.addr).map_err(|_| not_in_ram(range))?;
            rest = later;
        }
        Ok(())
    }

    /// Writes to the device-writable part, across any split.
    ///
    /// # Errors
    /// [`ChainError::Short`] when there is less; then nothing is written.
    pub fn write(&self, ram: &RamView, offset: u32, data: &[u8]) -> Result<(), ChainError> {
        let want = within(offset, data.len(), self.writable)?;
        if let Some(range) = whole(self.ranges.get(self.split..).unwrap_or_default(), offset, want) {
            return ram.write_bytes(data, range.addr).map_err(|_| not_in_ram(range));
        }
        let mut rest = data;
        for range in self.writable(offset, want) {
            let (now, later) = rest.split_at(range.len as usize);
            ram.write_bytes(now, range.addr).map_err(|_| not_in_ram(range))?;
            rest = later;
        }
        Ok(())
    }

    /// Marks `len` bytes from the start of the device-writable part as written by the host.
    pub fn mark_written(&self, ram: &RamView, len: u32) {
        for range in self.writable(0, len) {
            memory::mark_written(ram, GuestAddress(range.addr), range.len as usize);
        }
    }

    pub(super) fn begin(&mut self, head: u16) {
        self.head = head;
        self.ranges.clear();
        self.split = 0;
        self.readable = 0;
        self.writable = 0;
    }

    pub(super) fn push(&mut self, ram: &RamView, addr: u64, len: u32, writable: bool) -> Result<(), ChainError> {
        if self.ranges.len() >= MAX_DESCRIPTORS {
            return Err(ChainError::TooMany);
        }
        // A device needs no answer to a buffer of no bytes, and its address means nothing.
        if len == 0 {
            return Ok(());
        }
        if !in_ram(ram, addr, len) {
            return Err(ChainError::NotInRam { addr, len });
        }
        if writable {
            self.writable = self.writable.checked_add(len).ok_or(ChainError::TooLong)?;
        } else {
            if self.ranges.len() != self.split {
                return Err(ChainError::Order);
            }
            self.readable = self.readable.checked_add(len).ok_or(ChainError::TooLong)?;
            self.split += 1;
        }
        self.readable.checked_add(self.writable).ok_or(ChainError::TooLong)?;
        self.ranges.push(GuestRange { addr, len });
        Ok(())
    }
}

/// Turns ranges of a [`Chain`] into host memory. They point into the mapping that `ram` keeps alive.
///
/// # Errors
/// [`ChainError::NotInRam`], which ranges of a chain cannot meet.
pub fn host_ranges(
    ram: &RamView,
    ranges: impl Iterator<Item = GuestRange>,
    into: &mut IoVecs,
) -> Result<(), ChainError> {
    for range in ranges {
        if let Some(piece) = ram.piece(range.addr, range.len as usize) {
            into.push(libc::iovec { iov_base: piece.ptr_guard_mut().as_ptr().cast(), iov_len: piece.len() });
            continue;
        }
        // Regions may touch: then a buffer can go on in the next one.
        for slice in GuestMemoryBackend::get_slices(&**ram.ram(), GuestAddress(range.addr), range.len as usize) {
            let slice = slice.map_err(|_| not_in_ram(range))?;
            into.push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
        }
    }
    Ok(())
}

/// Ranges of guest RAM as a request's memory: nothing is copied, and the mapping lives as long as the request.
///
/// # Errors
/// [`ChainError::NotInRam`], which ranges of a chain cannot meet.
#[expect(unsafe_code, reason = "guest memory is lent to the kernel without a copy")]
pub fn lend(ram: &RamView, ranges: impl Iterator<Item = GuestRange>) -> Result<Buffers, ChainError> {
    let mut iovecs = IoVecs::new();
    host_ranges(ram, ranges, &mut iovecs)?;
    let owner: Arc<dyn Any + Send + Sync> = Arc::clone(ram.ram()) as _;
    // SAFETY: every range was resolved in the mappings of `ram`, which `owner` keeps alive. Guest memory is never Rust
    // memory: it is only reached through volatile accesses.
    Ok(unsafe { Buffers::new(iovecs, Some(owner)) })
}

/// Where an indirect table is and how many descriptors it has (section 2.7.5.3).
pub(super) fn indirect_table(descriptor: &Descriptor) -> Result<(u64, u32), ChainError> {
    const SIZE: u32 = size_of::<Descriptor>() as u32;
    let len = descriptor.len();
    if len == 0 || !len.is_multiple_of(SIZE) {
        return Err(ChainError::IndirectLength(len));
    }
    Ok((descriptor.addr().0, len / SIZE))
}

fn in_ram(ram: &RamView, addr: u64, len: u32) -> bool {
    // Regions may touch: then a buffer can go on in the next one.
    GuestMemory::check_range(ram, GuestAddress(addr), len as usize, Permissions::ReadWrite)
}

fn within(offset: u32, wanted: usize, len: u32) -> Result<u32, ChainError> {
    let short = ChainError::Short { offset, wanted, len };
    let wanted = u32::try_from(wanted).map_err(|_| short.clone())?;
    offset.checked_add(wanted).filter(|&end| end <= len).map(|_| wanted).ok_or(short)
}

fn not_in_ram(range: GuestRange) -> ChainError {
    ChainError::NotInRam { addr: range.addr, len: range.len }
}

/// `len` bytes from byte `offset` of what `ranges` are, if they lie in one of them: headers and status bytes do.
fn whole(ranges: &[GuestRange], offset: u32, len: u32) -> Option<GuestRange> {
    let mut skip = offset;
    for range in ranges {
        if skip < range.len {
            // The sum cannot wrap: the range was checked to lie in RAM.
            return (len <= range.len - skip).then(|| GuestRange { addr: range.addr + u64::from(skip), len });
        }
        skip -= range.len;
    }
    None
}

fn cut(ranges: &[GuestRange], offset: u32, len: u32) -> impl Iterator<Item = GuestRange> + '_ {
    let (mut skip, mut left) = (offset, len);
    ranges.iter().filter_map(move |range| {
        let skipped = skip.min(range.len);
        skip -= skipped;
        let len = (range.len - skipped).min(left);
        left -= len;
        // The sum cannot wrap: the range was checked to lie in RAM.
        (len > 0).then(|| GuestRange { addr: range.addr + u64::from(skipped), len })
    })
}
