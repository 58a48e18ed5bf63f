//! Driver `raw`: the file beneath as it is, or a window of it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation, Status, quickest};
use crate::mem::{Sink, Source};
use crate::probe;

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// The size of a window that was given none: it ends where the file does, and takes the file along when that grows.
const OPEN: u64 = u64::MAX;

/// Which part of the layer beneath is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First byte.
    offset: u64,
    /// Bytes, or [`OPEN`].
    size: u64,
}

/// A window on the layer beneath.
pub struct Raw {
    file: Arc<dyn Layer>,
    offset: AtomicU64,
    /// Bytes, or [`OPEN`]. Of those behind a window with a size others may be the owners: nothing here reaches them.
    size: AtomicU64,
    /// The format was probed: the guest must not make the disk look like another one.
    guard: bool,
}

impl Raw {
    /// All of `file` from `offset` on, or `size` bytes of it.
    ///
    /// # Errors
    /// When the window does not fit into the file.
    pub fn new(file: Arc<dyn Layer>, offset: u64, size: Option<u64>) -> Result<Self, BlockError> {
        let window = Self::fit(file.size(), offset, size)?;
        Ok(Self { file, offset: AtomicU64::new(window.offset), size: AtomicU64::new(window.size), guard: false })
    }

    /// The window from `offset` on, or of `size` bytes of it, in a file of `whole` bytes.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn fit(whole: u64, offset: u64, size: Option<u64>) -> Result<Window, BlockError> {
        let rest = whole.checked_sub(offset).ok_or_else(|| {
            BlockError::new(ErrorKind::Invalid, format!("offset ({offset}) is beyond the file's size ({whole})"))
        })?;
        if let Some(size) = size.filter(|size| *size > rest) {
            let text =
                format!("the sum of offset ({offset}) and size ({size}) has to be at most the file's size ({whole})");
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok(Window { offset, size: size.unwrap_or(OPEN) })
    }

    /// What it shows as of now.
    #[must_use]
    pub fn window(&self) -> Window {
        Window { offset: self.offset(), size: self.given_size() }
    }

    /// Whether it is its file as it is, and not a part of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.window() == Window { offset: 0, size: OPEN }
    }

    /// Shows another window from now on; whoever uses it is held still.
    pub fn set_window(&self, window: Window) {
        self.offset.store(window.offset, Ordering::Release);
        self.size.store(window.size, Ordering::Release);
    }

    /// The same, refusing writes to the start that would make a later probe see another format.
    #[must_use]
    pub fn guarded(mut self) -> Self {
        self.guard = true;
        self
    }

    /// The same window of `file`, which holds the same.
    ///
    /// # Errors
    /// As [`Raw::new`].
    pub fn again(&self, file: Arc<dyn Layer>) -> Result<Self, BlockError> {
        let size = Some(self.given_size()).filter(|size| *size != OPEN);
        Ok(Self { guard: self.guard, ..Self::new(file, self.offset(), size)? })
    }

    /// Start of the window in the file beneath, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    fn given_size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Whether a range is in the window, or behind the end of one that has none.
    fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.given_size())
    }

    /// Refuses to change what is behind the window. A format above may well ask for that: its file does not grow.
    fn check_room(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.holds(offset, len) {
            return Ok(());
        }
        let text = format!(
            "{len} bytes at offset {offset:#x} do not fit into the raw node's size of {} bytes; give it a larger 'size'",
            self.given_size()
        );
        Err(BlockError::new(ErrorKind::NoSpace, text))
    }

    /// Whether writes that look like another format's header are refused.
    fn check_guard(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        if !self.guard || offset >= probe::SECTOR as u64 || from.is_empty() {
            return Ok(());
        }
        let mut sector = [0u8; probe::SECTOR];
        self.file.read(Sink::of(&mut sector), self.offset())?;
        let at = offset as usize;
        let take = from.len().min(probe::SECTOR - at);
        from.part(0, take).copy_to(&mut sector[at..at + take]);
        match probe::format_of(&sector) {
            None => Ok(()),
            Some(format) => {
                let text = format!(
                    "refused to write a {} header to a disk whose format was not given and was taken for raw",
                    format.name()
                );
                Err(BlockError::new(ErrorKind::Permission, text))
            }
        }
    }
}

impl Layer for Raw {
    fn driver(&self) -> &'static str {
        "raw"
    }

    fn size(&self) -> u64 {
        match self.given_size() {
            // A disk has whole sectors: the rest of the last one reads as zeroes.
            OPEN => self.file.size().saturating_sub(self.offset()).saturating_add(SECTOR - 1) & !(SECTOR - 1),
            size => size,
        }
    }

    fn limits(&self) -> Limits {
        self.file.limits()
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let inside = usize::try_from(self.given_size().saturating_sub(offset)).unwrap_or(usize::MAX).min(into.len());
        into.part(inside, into.len() - inside).zero();
        self.file.read(into.part(0, inside), self.offset() + offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.check_room(offset, from.len() as u64)?;
        if self.guard && offset < probe::SECTOR as u64 {
            // Judge and write the same bytes: a guest may change its memory in between.
            let bytes = from.to_vec();
            self.check_guard(Source::of(&bytes), offset)?;
            return self.file.write(Source::of(&bytes), self.offset() + offset);
        }
        self.file.write(from, self.offset() + offset)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.file.flush()
    }

    fn sync_failed(&self) {
        self.file.sync_failed();
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check_room(offset, len)?;
        self.file.discard(self.offset() + offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.check_room(offset, len)?;
        self.file.write_zeroes(self.offset() + offset, len, unmap)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        let inside = self.given_size().saturating_sub(offset).min(len);
        if inside == 0 {
            return Ok(Status::zero(len));
        }
        let mut status = self.file.status(self.offset() + offset, inside)?;
        status.len = status.len.min(inside);
        status.allocated = true;
        Ok(status)
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        if self.guard && op == FastOp::Write && offset < probe::SECTOR as u64 {
            return Fast::Slow;
        }
        if !self.holds(offset, len) {
            return Fast::Slow;
        }
        self.file.fast(op, self.offset() + offset, len)
    }

    fn short_cut(&self) -> Option<Arc<dyn Layer>> {
        (self.is_whole() && !self.guard).then(|| quickest(&self.file))
    }

    fn wants_ring(&self) -> bool {
        self.file.wants_ring()
    }

    fn is_cached(&self) -> bool {
        self.file.is_cached()
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        if self.given_size() != OPEN {
            return Err(BlockError::new(ErrorKind::Unsupported, "a raw node with a fixed size cannot be resized"));
        }
        let whole = size.checked_add(self.offset());
        let whole = whole.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "size and offset pass 2^64"))?;
        self.file.resize(whole, preallocation)
    }

    fn close(&self) -> Result<(), BlockError> {
        self.file.close()
    }

    fn highest_write(&self) -> u64 {
        self.file.highest_write().saturating_sub(self.offset())
    }

    fn allocated_bytes(&self) -> Option<u64> {
        self.file.allocated_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
