//! Driver `blkdebug` (QEMU's docs/devel/blkdebug): errors on order, and requests held until somebody lets them go, so
//! that tests see what a guest does then.
//!
//! ```text
//!   request ──▶ event ──▶ rules of that event: arm an error, enter a state, hold the request
//!                 │
//!                 └─────▶ armed errors: the request fails, or goes to the node beneath
//! ```
//!
//! Events are those of the node itself: requests that come to it. What a format above does in between (`l2_load` and
//! the like) is not told to the nodes beneath it here.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{BlockError, ErrorKind};
use crate::layer::{self, Layer, Status};
use crate::mem::{Sink, Source};
use crate::spec::Blkdebug;

mod config;
mod rules;
#[cfg(test)]
mod tests;

use rules::{Event, IoType, Rules};

/// A node that fails on order.
pub struct Debug {
    inner: Arc<dyn Layer>,
    rules: Rules,
    /// Requests are widened to multiples of this many bytes; 1 for as they come.
    align: u64,
    /// One widened write at a time: it writes what it has read.
    widening: Mutex<()>,
}

impl Debug {
    /// On `inner`, with the rules of `spec` and of its file.
    ///
    /// # Errors
    /// When the file cannot be read, or a rule makes no sense.
    pub fn new(inner: Arc<dyn Layer>, spec: &Blkdebug) -> Result<Self, BlockError> {
        let align = spec.align.unwrap_or(0).max(1);
        if !align.is_power_of_two() || align > 1 << 30 {
            let text = "'align' of blkdebug must be a power of two up to 1 GiB, or 0";
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let mut rules = match spec.config.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => config::read(path)?,
            None => Rules::default(),
        };
        for rule in &spec.inject_error {
            rules.inject(rule)?;
        }
        for rule in &spec.set_state {
            rules.set_state(rule)?;
        }
        rules.happens(Event::None);
        Ok(Self { inner, rules, align, widening: Mutex::new(()) })
    }

    /// Holds the next request that comes to `event` (one of the names that rules have) and calls it `tag`.
    ///
    /// # Errors
    /// When there is no such event.
    pub fn hold(&self, event: &str, tag: &str) -> Result<(), BlockError> {
        self.rules.hold(event.parse()?, tag);
        Ok(())
    }

    /// Lets the request go that is called `tag`; false when none is held.
    pub fn release(&self, tag: &str) -> bool {
        self.rules.release(tag)
    }

    /// Holds no request as `tag` any more, and lets go the one that is.
    pub fn forget(&self, tag: &str) -> bool {
        self.rules.forget(tag)
    }

    /// Holds no request any more.
    pub fn release_all(&self) {
        self.rules.release_all();
    }

    /// The request with what lies around it up to multiples of `align`, if it needs that.
    fn widened(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        let around = offset / self.align * self.align..offset.saturating_add(len).next_multiple_of(self.align);
        (around != (offset..offset.saturating_add(len))).then_some(around)
    }

    fn read_around(&self, around: &Range<u64>) -> Result<Vec<u8>, BlockError> {
        let too_long = |_| BlockError::new(ErrorKind::Invalid, "the widened request does not fit in memory");
        let len = usize::try_from(around.end - around.start).map_err(too_long)?;
        layer::read_vec(&*self.inner, around.start, len)
    }

    /// Writes what `change` makes of the bytes around the request, which lies at the given place among them.
    fn write_around(
        &self,
        around: &Range<u64>,
        offset: u64,
        len: usize,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), BlockError> {
        let _one = self.widening.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = self.read_around(around)?;
        let at = usize::try_from(offset - around.start).unwrap_or(usize::MAX);
        if let Some(part) = bytes.get_mut(at..at.saturating_add(len)) {
            change(part);
        }
        // What was read beyond the end stays there.
        let inside = self.inner.size().clamp(offset + len as u64, around.end) - around.start;
        bytes.truncate(usize::try_from(inside).unwrap_or(usize::MAX));
        layer::write_all(&*self.inner, &bytes, around.start)
    }
}

impl Layer for Debug {
    forward!(inner: size, limits, sync_failed, wants_ring, resize, close, allocated_bytes, highest_write);

    fn driver(&self) -> &'static str {
        "blkdebug"
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let len = into.len() as u64;
        self.rules.happens(Event::ReadAio);
        self.rules.check(IoType::Read, offset, len)?;
        let Some(around) = self.widened(offset, len) else { return self.inner.read(into, offset) };
        let bytes = self.read_around(&around)?;
        let at = usize::try_from(offset - around.start).unwrap_or(usize::MAX);
        into.copy_from(bytes.get(at..at + into.len()).unwrap_or_default());
        Ok(())
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        let len = from.len() as u64;
        self.rules.happens(Event::WriteAio);
        self.rules.happens(Event::Pwritev);
        self.rules.check(IoType::Write, offset, len)?;
        match self.widened(offset, len) {
            None => self.inner.write(from, offset),
            Some(around) => self.write_around(&around, offset, from.len(), |part| from.copy_to(part)),
        }?;
        self.rules.happens(Event::PwritevDone);
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.rules.happens(Event::FlushToOs);
        self.rules.happens(Event::FlushToDisk);
        self.rules.check(IoType::Flush, 0, 0)?;
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.rules.check(IoType::Discard, offset, len)?;
        match self.widened(offset, len) {
            None => self.inner.discard(offset, len),
            // The rest of a unit is still needed.
            Some(_) => Ok(()),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.rules.happens(Event::PwritevZero);
        self.rules.check(IoType::WriteZeroes, offset, len)?;
        self.inner.write_zeroes(offset, len, unmap)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.rules.check(IoType::BlockStatus, offset, len)?;
        self.inner.status(offset, len)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
