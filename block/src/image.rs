//! What a disk is to virtio-blk, SCSI and IDE: an [`Image`] to ask, and [`ImageQueue`]s to send requests down.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::BlockError;

/// Host ranges of one request. The first few need no allocation: most requests have no more.
pub type IoVecs = SmallVec<[libc::iovec; 4]>;

/// Facts about an image; they change only through resize, reopen or a swap of the node underneath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Size of the guest's disk, in bytes.
    pub size: u64,
    /// Smallest unit that can be written without a read-modify-write, in bytes (512 or 4096).
    pub physical_block: u32,
    /// Alignment that buffers and offsets need for direct I/O, in bytes (1 when none). The queue copies what is
    /// not aligned: a front end need not care, it only goes faster if it does.
    pub alignment: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Discards reach the host (`discard=unmap`); otherwise they succeed and do nothing.
    pub discard: bool,
    /// Granularity of discards that free space, in bytes (0 when unknown).
    pub discard_granularity: u32,
    /// Writes complete into a volatile cache and need a flush (`cache=` not `writethrough` or `directsync`).
    pub write_cache: bool,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fill the buffers from the disk.
    Read,
    /// Write the buffers to the disk; with `fua`, durably before completion.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Everything completed before this was submitted becomes durable.
    Flush,
    /// The range's content is no longer needed.
    Discard,
    /// The range reads as zeroes afterwards; space may be freed if `unmap`.
    WriteZeroes {
        /// Whether clusters may be deallocated.
        unmap: bool,
        /// Force unit access.
        fua: bool,
    },
}

/// Memory that a request reads into or writes from, kept alive until completion.
///
/// `owner` keeps the mapping alive: the kernel never writes through a dead one.
pub struct Buffers {
    iovecs: IoVecs,
    len: u64,
    _owner: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: the pointers are only dereferenced by the kernel or under the promise made to `Buffers::new`, which holds
// on every thread.
#[expect(unsafe_code, reason = "raw iovecs cross threads together with the owner that keeps them valid")]
unsafe impl Send for Buffers {}

impl Buffers {
    /// No memory: for flush, discard and write-zeroes.
    #[must_use]
    pub fn none() -> Self {
        Self { iovecs: IoVecs::new(), len: 0, _owner: None }
    }

    /// Wraps raw ranges.
    ///
    /// # Safety
    /// Every range must stay valid for reads and writes as long as `owner` lives (or, without one, until the request
    /// completes), and must not be Rust memory that someone else holds a reference into.
    #[must_use]
    #[expect(unsafe_code, reason = "the caller promises the validity of raw ranges")]
    pub unsafe fn new(iovecs: impl Into<IoVecs>, owner: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        let iovecs = iovecs.into();
        let len = iovecs.iter().map(|v| v.iov_len as u64).sum();
        Self { iovecs, len, _owner: owner }
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The ranges, in order.
    #[must_use]
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs
    }
}

/// One request. Ranges are in bytes; front ends send whole guest sectors, the image handles any alignment.
pub struct Request {
    /// Handed back in the completion.
    pub tag: u64,
    /// What to do.
    pub op: Op,
    /// First byte.
    pub offset: u64,
    /// Length in bytes; equals `buffers.len()` for reads and writes.
    pub len: u64,
    /// Memory for reads and writes.
    pub buffers: Buffers,
}

/// How a request ended.
#[derive(Debug)]
pub struct Completion {
    /// The request's tag.
    pub tag: u64,
    /// Success, or an `errno` value (EIO, ENOSPC, EROFS, EINVAL, ...).
    pub result: Result<(), i32>,
}

/// A disk that can be swapped, paused and shared: all that virtio-blk, SCSI and IDE see.
pub trait Image: Send + Sync {
    /// Facts as of now.
    fn info(&self) -> ImageInfo;
    /// Opens a path for requests, for one thread; at most `depth` are in flight.
    ///
    /// # Errors
    /// When the host has no descriptors, memory or ring left.
    fn open_queue(&self, depth: u32) -> Result<Box<dyn ImageQueue>, BlockError>;
    /// Asks to be told of a change of [`Image::info`] (a resize); several may ask.
    fn on_change(&self, listener: Box<dyn Fn(ImageInfo) + Send + Sync>);
}

/// One thread's path to an image.
pub trait ImageQueue: Send {
    /// Takes a request. Never waits for data; may complete at once (then [`ImageQueue::reap`] has it).
    /// Requests beyond the depth wait inside.
    fn submit(&mut self, request: Request);
    /// Pushes what [`ImageQueue::submit`] gathered to the kernel: call once after a batch.
    fn kick(&mut self);
    /// Takes one completion, in any order; `None` when there is none now.
    fn reap(&mut self) -> Option<Completion>;
    /// Whether [`ImageQueue::reap`] may have something now, told without a system call: for threads that poll.
    fn is_ready(&mut self) -> bool;
    /// Readable when [`ImageQueue::reap`] may have something. Level-triggered until reaped empty.
    fn notifier(&self) -> BorrowedFd<'_>;
    /// How many requests have been submitted and not reaped.
    fn in_flight(&self) -> usize;
}
