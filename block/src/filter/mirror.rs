//! Driver `mirror_top`: what is written goes to a second layer, too, while a job copies the rest.
//!
//! A write has its range to itself for both layers, and so does a step of the copying: whoever comes second in a range
//! waits. So the second layer never keeps older bytes than the first. When the second cannot be written, the guest is
//! not told: the copy is given up, and the job fails.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{BlockError, ErrorKind};
use crate::layer::{Fast, FastOp, Layer};
use crate::mem::Source;

#[derive(Default)]
struct State {
    /// Ranges that someone has to himself.
    taken: Vec<Range<u64>>,
    /// Why the copy was given up.
    failed: Option<(ErrorKind, String)>,
}

/// A layer whose writes also go to another.
pub struct Mirror {
    inner: Arc<dyn Layer>,
    target: Arc<dyn Layer>,
    state: Mutex<State>,
    freed: Condvar,
}

/// A range that someone has to himself until this is dropped.
struct Taken<'a> {
    mirror: &'a Mirror,
    range: Range<u64>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.mirror.state();
        if let Some(at) = state.taken.iter().position(|range| *range == self.range) {
            state.taken.swap_remove(at);
        }
        self.mirror.freed.notify_all();
    }
}

impl Mirror {
    /// Writes to `inner`, and to `target`.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, target: Arc<dyn Layer>) -> Self {
        Self { inner, target, state: Mutex::default(), freed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, offset: u64, len: u64) -> Taken<'_> {
        let range = offset..offset.saturating_add(len);
        let mut state = self.state();
        while state.taken.iter().any(|other| other.start < range.end && range.start < other.end) {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taken.push(range.clone());
        drop(state);
        Taken { mirror: self, range }
    }

    /// Does `change` to the target, unless the copy was given up; a failure gives it up.
    fn follow(&self, change: impl FnOnce(&dyn Layer) -> Result<(), BlockError>) {
        if self.state().failed.is_some() {
            return;
        }
        if let Err(error) = change(self.target.as_ref()) {
            self.state().failed.get_or_insert_with(|| (error.kind(), error.sentence()));
        }
    }

    /// Does one step of the copying, which has its range to itself.
    ///
    /// # Errors
    /// That of the step, or the one for which the copy was given up.
    pub fn copy<T>(
        &self,
        offset: u64,
        len: u64,
        step: impl FnOnce(&dyn Layer, &dyn Layer) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        let _taken = self.take(offset, len);
        self.check()?;
        step(self.inner.as_ref(), self.target.as_ref())
    }

    /// Whether the copy goes on.
    ///
    /// # Errors
    /// The one for which it was given up.
    pub fn check(&self) -> Result<(), BlockError> {
        self.state().failed.as_ref().map_or(Ok(()), |(kind, text)| Err(BlockError::new(*kind, text.clone())))
    }
}

impl Layer for Mirror {
    forward!(
        inner: driver, size, limits, read, flush, sync_failed, status, wants_ring, close, allocated_bytes, describe
    );

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        let _taken = self.take(offset, from.len() as u64);
        self.inner.write(from, offset)?;
        self.follow(|target| target.write(from, offset));
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let _taken = self.take(offset, len);
        self.inner.discard(offset, len)?;
        // What a discarded range shows is not said, and must be the same in both.
        let status = self.inner.status(offset, len)?;
        if status.zero && status.len >= len {
            self.follow(|target| target.write_zeroes(offset, len, true));
        } else {
            self.follow(|target| copy_range(self.inner.as_ref(), target, offset, len));
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let _taken = self.take(offset, len);
        self.inner.write_zeroes(offset, len, unmap)?;
        self.follow(|target| target.write_zeroes(offset, len, unmap));
        Ok(())
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        if op == FastOp::Write { Fast::Slow } else { self.inner.fast(op, offset, len) }
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

/// Bytes held in memory while they are copied.
const PIECE: u64 = 1 << 20;

/// Writes to `target` what `source` shows.
///
/// # Errors
/// When one cannot be read or the other not be written.
pub fn copy_range(source: &dyn Layer, target: &dyn Layer, offset: u64, len: u64) -> Result<(), BlockError> {
    let mut at = offset;
    while at < offset + len {
        let piece = PIECE.min(offset + len - at);
        let bytes = crate::layer::read_vec(source, at, usize::try_from(piece).unwrap_or(usize::MAX))?;
        target.write(Source::of(&bytes), at)?;
        at += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
