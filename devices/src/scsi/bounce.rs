//! Memory of our own that an image reads into or writes from.
//!
//! It is lent to a request as raw ranges and looked at before and after, so it is never seen as a Rust slice: bytes are
//! copied in and out through pointers.
#![expect(unsafe_code, reason = "memory that the kernel fills is reached through raw pointers, never as a slice")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::sync::Arc;

use rhea_block::{Buffers, IoVecs};

/// Alignment that direct I/O accepts.
const ALIGN: usize = 4096;

/// A block of the heap with room for `len` bytes from the first aligned address on. The block itself asks for no
/// alignment: then zero bytes come as untouched pages from the host, and a buffer that is never used takes no memory.
struct Memory {
    block: *mut u8,
    base: *mut u8,
    len: usize,
}

// SAFETY: the memory belongs to nobody else and is only reached through raw copies.
unsafe impl Send for Memory {}
// SAFETY: as above; `Bounce`'s copies through `&self` only read.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(len: usize) -> Option<Layout> {
        Layout::array::<u8>(len.checked_add(ALIGN)?).ok()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `Bounce::new` with the same layout.
            unsafe { dealloc(self.block, layout) };
        }
    }
}

/// A buffer; its owner is one command.
pub struct Bounce(Arc<Memory>);

impl Bounce {
    /// `len` zero bytes; `None` when there is no memory for them.
    #[must_use]
    pub fn new(len: usize) -> Option<Self> {
        let layout = Memory::layout(len)?;
        // SAFETY: the layout has at least one byte.
        let block = unsafe { alloc_zeroed(layout) };
        let base = block.wrapping_add((block as usize).wrapping_neg() % ALIGN);
        (!block.is_null()).then(|| Self(Arc::new(Memory { block, base, len })))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    fn clip(&self, at: usize, len: usize) -> (usize, usize) {
        let at = at.min(self.0.len);
        (at, len.min(self.0.len - at))
    }

    /// Bytes `at..at + len` (cut at the end) for a request, which keeps the memory alive.
    #[must_use]
    pub fn lend(&self, at: usize, len: usize) -> Buffers {
        let (at, len) = self.clip(at, len);
        let mut ranges = IoVecs::new();
        if len > 0 {
            ranges.push(libc::iovec { iov_base: self.0.base.wrapping_add(at).cast(), iov_len: len });
        }
        let owner: Arc<dyn Any + Send + Sync> = Arc::clone(&self.0) as _;
        // SAFETY: the range lies in memory that `owner` keeps, and no Rust reference into it exists.
        unsafe { Buffers::new(ranges, Some(owner)) }
    }

    /// Copies bytes in from `at`, as far as they fit.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        let (at, len) = self.clip(at, bytes.len());
        // SAFETY: the range was cut to the memory and to `bytes`, which is memory of someone else.
        unsafe { self.0.base.add(at).copy_from_nonoverlapping(bytes.as_ptr(), len) };
    }

    /// Copies bytes out from `at`; what lies beyond the end is left alone.
    pub fn get(&self, at: usize, bytes: &mut [u8]) {
        let (at, len) = self.clip(at, bytes.len());
        // SAFETY: the range was cut to the memory and to `bytes`, which is memory of someone else.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.0.base.add(at), len) };
    }

    /// Bytes `at..at + len`, cut at the end.
    #[must_use]
    pub fn to_vec(&self, at: usize, len: usize) -> Vec<u8> {
        let (at, len) = self.clip(at, len);
        let mut bytes = vec![0; len];
        self.get(at, &mut bytes);
        bytes
    }
}
