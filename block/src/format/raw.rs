//! Driver `raw`: the file beneath as it is, or a window of it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Fast, FastOp, Layer, Limits, Preallocation, Status, quickest};
use crate::mem::{Sink, Source};
use crate::probe;

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// Which part of the layer beneath is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First byte.
    offset: u64,
    size: u64,
    fixed: bool,
}

/// A window on the layer beneath.
pub struct Raw {
    file: Arc<dyn Layer>,
    offset: AtomicU64,
    size: AtomicU64,
    /// A size was given: the window does not follow the file.
    fixed: AtomicBool,
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
        let this = Self {
            file,
            offset: AtomicU64::new(0),
            size: AtomicU64::new(0),
            fixed: AtomicBool::new(false),
            guard: false,
        };
        this.set_window(window);
        Ok(this)
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
        // A disk has whole sectors: the rest of the last one reads as zeroes.
        Ok(Window { offset, size: size.unwrap_or(rest.next_multiple_of(SECTOR)), fixed: size.is_some() })
    }

    /// What it shows as of now.
    #[must_use]
    pub fn window(&self) -> Window {
        let (offset, size) = (self.offset(), self.size.load(Ordering::Acquire));
        Window { offset, size, fixed: self.fixed.load(Ordering::Acquire) }
    }

    /// Shows another window from now on; whoever uses it is held still.
    pub fn set_window(&self, window: Window) {
        self.offset.store(window.offset, Ordering::Release);
        self.size.store(window.size, Ordering::Release);
        self.fixed.store(window.fixed, Ordering::Release);
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
        let size = self.fixed.load(Ordering::Acquire).then(|| self.size.load(Ordering::Acquire));
        Ok(Self { guard: self.guard, ..Self::new(file, self.offset(), size)? })
    }

    /// Start of the window in the file beneath, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
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
        self.size.load(Ordering::Acquire)
    }

    fn limits(&self) -> Limits {
        self.file.limits()
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let inside = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(into.len());
        into.part(inside, into.len() - inside).zero();
        self.file.read(into.part(0, inside), self.offset() + offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
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
        self.file.discard(self.offset() + offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.file.write_zeroes(self.offset() + offset, len, unmap)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        let mut status = self.file.status(self.offset() + offset, len)?;
        status.len = status.len.min(len);
        status.allocated = true;
        Ok(status)
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        if self.guard && op == FastOp::Write && offset < probe::SECTOR as u64 {
            return Fast::Slow;
        }
        self.file.fast(op, self.offset() + offset, len)
    }

    fn short_cut(&self) -> Option<Arc<dyn Layer>> {
        let whole = self.offset() == 0 && !self.guard;
        whole.then(|| quickest(&self.file))
    }

    fn wants_ring(&self) -> bool {
        self.file.wants_ring()
    }

    fn is_cached(&self) -> bool {
        self.file.is_cached()
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        if self.fixed.load(Ordering::Acquire) {
            return Err(BlockError::new(ErrorKind::Unsupported, "a raw node with a fixed size cannot be resized"));
        }
        let whole = size.checked_add(self.offset());
        let whole = whole.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "size and offset pass 2^64"))?;
        self.file.resize(whole, preallocation)?;
        self.size.store(size, Ordering::Release);
        Ok(())
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
