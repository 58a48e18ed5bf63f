//! Driver `mirror_top`: what is written goes to a second layer, too, while a job copies the rest.
//!
//! A write has its range to itself for both layers, and so does a step of the copying: whoever comes second in a range
//! waits. So the second layer never keeps older bytes than the first. When the second cannot be written, the guest is
//! not told: the copy is given up, and the job fails.

use std::any::Any;
use std::sync::Arc;

use super::turns::{GivenUp, Turn, Turns};
use crate::error::BlockError;
use crate::layer::{Fast, FastOp, Layer};
use crate::mem::Source;

/// A layer whose writes also go to another.
pub struct Mirror {
    inner: Arc<dyn Layer>,
    target: Arc<dyn Layer>,
    turns: Turns,
    given_up: GivenUp,
}

impl Mirror {
    /// Writes to `inner`, and to `target`.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, target: Arc<dyn Layer>) -> Self {
        Self { inner, target, turns: Turns::default(), given_up: GivenUp::default() }
    }

    fn take(&self, offset: u64, len: u64) -> Turn<'_> {
        self.turns.take(offset..offset.saturating_add(len))
    }

    /// Does `change` to the target, unless the copy was given up; a failure gives it up.
    fn follow(&self, change: impl FnOnce(&dyn Layer) -> Result<(), BlockError>) {
        if self.check().is_ok()
            && let Err(error) = change(self.target.as_ref())
        {
            self.given_up.because_of(&error);
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
        let _turn = self.take(offset, len);
        self.check()?;
        step(self.inner.as_ref(), self.target.as_ref())
    }

    /// Whether the copy goes on.
    ///
    /// # Errors
    /// The one for which it was given up.
    pub fn check(&self) -> Result<(), BlockError> {
        self.given_up.check()
    }
}

impl Layer for Mirror {
    forward!(
        inner: driver, size, limits, read, flush, sync_failed, status, wants_ring, close, allocated_bytes, describe
    );

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        let _turn = self.take(offset, from.len() as u64);
        self.inner.write(from, offset)?;
        self.follow(|target| target.write(from, offset));
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let _turn = self.take(offset, len);
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
        let _turn = self.take(offset, len);
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
        let bytes = crate::layer::read_vec(source, at, usize::try_from(piece).unwrap_or(usize::MAX));
        let bytes = bytes.map_err(BlockError::while_reading)?;
        target.write(Source::of(&bytes), at)?;
        at += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
