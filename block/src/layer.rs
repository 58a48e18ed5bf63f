//! What every node of the graph is to the node above it: a [`Layer`].
//!
//! A layer answers synchronously, from any thread, at any alignment. Beside that it may answer [`Layer::fast`]: where
//! the bytes of a range lie in a host file, without input or output, without waiting and without allocating. A disk's
//! queue asks that first and hands the file range to the kernel itself; only what has no fast answer (cold metadata, a
//! cluster to allocate, compressed data) costs a hop to a worker thread that calls the synchronous methods. Of a format the
//! queue asks [`Layer::mapped`] before that, and then the file itself: most requests are plain, and need no more.
//!
//! ```text
//!   queue ── mapped() ──> place ── fast() of the file ──┐
//!     ├───── fast() ────────────────────────────────────┴─> Direct(file, offset) ──> io_uring
//!     └───── Slow ──> worker ── read()/write()/flush() ──> format ──> file
//! ```

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::error::{BlockError, ErrorKind};
use crate::graph::ImageDetails;
use crate::mem::{Sink, Source};
use crate::protocol::units::Writing;
use crate::throttle::Group;

/// Facts about a layer that a front end passes on to its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Writes are refused.
    pub read_only: bool,
    /// Alignment of direct I/O in bytes, 1 without.
    pub alignment: u32,
    /// Smallest unit written without read-modify-write, in bytes.
    pub physical_block: u32,
    /// Discards reach the host.
    pub discard: bool,
    /// Granularity of discards that free space in bytes, 0 when unknown.
    pub discard_granularity: u32,
}

/// What a run of bytes is, as `qemu-img map` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Length of the run in bytes; never 0 unless the question was empty.
    pub len: u64,
    /// There are bytes stored for it here or below.
    pub data: bool,
    /// It reads as zeroes.
    pub zero: bool,
    /// This layer itself (not one beneath it in a backing chain) decides the content.
    pub allocated: bool,
    /// It is stored compressed.
    pub compressed: bool,
    /// Where its bytes are in the file beneath, if they are there as they are.
    pub offset: Option<u64>,
}

impl Status {
    /// A run of stored bytes at `offset` of the file beneath.
    #[must_use]
    pub fn data(len: u64, offset: Option<u64>) -> Self {
        Self { len, data: true, zero: false, allocated: true, compressed: false, offset }
    }

    /// A run that this layer knows to be zero.
    #[must_use]
    pub fn zero(len: u64) -> Self {
        Self { len, data: false, zero: true, allocated: true, compressed: false, offset: None }
    }

    /// A run that this layer does not hold.
    #[must_use]
    pub fn absent(len: u64) -> Self {
        Self { len, data: false, zero: false, allocated: false, compressed: false, offset: None }
    }
}

/// How space is set aside when an image is made or grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preallocation {
    /// Nothing: holes, unallocated clusters.
    #[default]
    Off,
    /// Format metadata is written, the data are holes.
    Metadata,
    /// Space is reserved without writing (`fallocate`).
    Falloc,
    /// Zeroes are written.
    Full,
}

/// What [`Layer::fast`] is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FastOp {
    /// Where can the range be read?
    Read,
    /// Where can the range be overwritten in place?
    Write,
    /// Is syncing one file all that a flush takes?
    Flush,
}

/// What layers must know to be in use until it is dropped.
#[derive(Debug, Default)]
pub struct Pass {
    /// Keeps a format from reusing the host range of an answer: it hands out clones of one token, and reuses what it
    /// freed only when no clone from before is left. Layers that never move data give `None`.
    pub token: Option<Arc<()>>,
    /// Keeps parts of the units that are written from being changed meanwhile, with direct I/O.
    pub(crate) writing: Option<Writing>,
}

/// The answer of [`Layer::fast`].
#[derive(Debug)]
pub enum Fast {
    /// Needs input, output, an allocation or a wait: use the synchronous methods.
    Slow,
    /// The range reads as zeroes.
    Zero,
    /// Nothing is left to do (a flush of what is never flushed).
    Done,
    /// One contiguous range of one host file.
    Direct(Direct),
}

/// One contiguous range of one host file.
#[derive(Debug)]
pub struct Direct {
    /// The file; open as long as the layer lives.
    pub fd: RawFd,
    /// Offset of the first byte in it.
    pub offset: u64,
    /// Alignment that offset, length and memory need, in bytes (1 without direct I/O).
    pub alignment: u32,
    /// The ring may be used (`aio=io_uring`); otherwise a worker thread moves the bytes.
    pub ring: bool,
    /// Held until the bytes have moved.
    pub pass: Pass,
}

/// Where a range of a layer is in its [`Layer::store`].
#[derive(Debug)]
pub struct Mapped {
    /// Offset of the first byte there.
    pub offset: u64,
    /// Keeps the place what it is, as [`Pass::token`] does.
    pub token: Arc<()>,
}

/// One node's content.
///
/// Reads and writes are of whole ranges: they succeed entirely or fail. The caller keeps ranges inside
/// [`Layer::size`], except that reads past the end of a file give zeroes, because the last cluster of an image may be
/// cut short.
pub trait Layer: Send + Sync {
    /// The driver's name in QEMU (`file`, `raw`, `qcow2`, ...).
    fn driver(&self) -> &'static str;

    /// Where the write ended that reached farthest since it was opened: how much of a file or block device is in use,
    /// for who has to make it larger in time. 0 where that is not counted, which is in formats: what counts is how far
    /// their file was written.
    fn highest_write(&self) -> u64 {
        0
    }

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Facts for front ends.
    fn limits(&self) -> Limits;

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// When the bytes cannot be had.
    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError>;

    /// Writes `from` at `offset`. Durable after the next [`Layer::flush`].
    ///
    /// # Errors
    /// When the bytes could not all be written; the range then holds old or new bytes.
    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError>;

    /// Makes everything completed before durable, metadata in an order that a crash cannot break.
    ///
    /// # Errors
    /// When anything may not have reached the disk; a later success does not take that back.
    fn flush(&self) -> Result<(), BlockError>;

    /// A sync that the queue did on the file of [`Layer::fast`]'s answer failed: no later sync may claim success.
    fn sync_failed(&self) {}

    /// The range's content is no longer needed. May do nothing.
    ///
    /// # Errors
    /// When metadata cannot be changed; a host that cannot punch holes is no error.
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError>;

    /// The range reads as zeroes afterwards; space may be freed if `unmap`.
    ///
    /// # Errors
    /// As [`Layer::write`].
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError>;

    /// What the run starting at `offset` is; at most `len` bytes (not 0) are described.
    ///
    /// # Errors
    /// When metadata cannot be read.
    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError>;

    /// Where a range lies in a host file, if that is known without waiting.
    fn fast(&self, _op: FastOp, _offset: u64, _len: u64) -> Fast {
        Fast::Slow
    }

    /// The layer beneath whose [`Layer::fast`] answers the same to every request that [`Layer::limits`] allow, so that it
    /// may be asked in place of this one: until something changes, for which whoever uses it is held still.
    fn short_cut(&self) -> Option<Arc<dyn Layer>> {
        None
    }

    /// The layer that [`Layer::mapped`] speaks of, past those that do nothing to a request: as with
    /// [`Layer::short_cut`], until something changes, for which whoever uses it is held still.
    fn store(&self) -> Option<Arc<dyn Layer>> {
        None
    }

    /// Where a whole range may be read or overwritten in [`Layer::store`], if that is plain: what [`Layer::fast`] finds
    /// out for most requests, without asking the store. `None` says nothing.
    fn mapped(&self, _op: FastOp, _offset: u64, _len: u64) -> Option<Mapped> {
        None
    }

    /// Whether an answer of [`Layer::fast`] may ask for the ring.
    fn wants_ring(&self) -> bool {
        false
    }

    /// Whether reads and writes move bytes between memory and the host's page cache and go no further, as a rule: then
    /// most take less time than a hop to a worker.
    fn is_cached(&self) -> bool {
        false
    }

    /// Changes the size in bytes.
    ///
    /// # Errors
    /// When the layer or the file beneath cannot change its size, or cannot hold what `preallocation` asks for.
    fn resize(&self, _size: u64, _preallocation: Preallocation) -> Result<(), BlockError> {
        Err(BlockError::new(ErrorKind::Unsupported, format!("driver '{}' cannot be resized", self.driver())))
    }

    /// Writes back everything and leaves the image as a closed one; the layer stays usable and reopens what it needs.
    ///
    /// # Errors
    /// When metadata could not be written.
    fn close(&self) -> Result<(), BlockError> {
        if self.limits().read_only { Ok(()) } else { self.flush() }
    }

    /// Takes what lies beneath an overlay into it, so that the range is decided by this layer; nothing to do in all
    /// others.
    ///
    /// # Errors
    /// When the bytes cannot be had or kept.
    fn populate(&self, _offset: u64, _len: u64) -> Result<(), BlockError> {
        Ok(())
    }

    /// Bytes taken on the host, if that can be told.
    fn allocated_bytes(&self) -> Option<u64> {
        None
    }

    /// Adds what only this format knows of the image.
    fn describe(&self, _details: &mut ImageDetails) {}

    /// The group that limits this layer, and the layer without the limits: for a queue, which asks the group itself.
    fn throttled(&self) -> Option<(Arc<Group>, Arc<dyn Layer>)> {
        None
    }

    /// The driver's own type, for what only it can do (snapshots, check, locks).
    fn as_any(&self) -> &dyn Any;
}

/// The layer to ask for [`Layer::fast`] of `layer`: itself, or the last one to which short cuts lead.
pub(crate) fn quickest(layer: &Arc<dyn Layer>) -> Arc<dyn Layer> {
    layer.short_cut().unwrap_or_else(|| layer.clone())
}

/// Reads `len` bytes at `offset` into a new vector.
///
/// # Errors
/// As [`Layer::read`].
pub fn read_vec(layer: &dyn Layer, offset: u64, len: usize) -> Result<Vec<u8>, BlockError> {
    let mut bytes = vec![0; len];
    layer.read(Sink::of(&mut bytes), offset)?;
    Ok(bytes)
}

/// Writes `bytes` at `offset`.
///
/// # Errors
/// As [`Layer::write`].
pub fn write_all(layer: &dyn Layer, bytes: &[u8], offset: u64) -> Result<(), BlockError> {
    layer.write(Source::of(bytes), offset)
}
