//! Driver `mirror_top`: what is written goes to a second layer, too, while a job copies the rest.
//!
//! A write has its range to itself for both layers, and so does a step of the copying: whoever comes second in a range
//! waits. So the second layer never keeps older bytes than the first. When the second cannot be written, the guest is
//! not told: what the second missed is remembered, and the job that copies sees to it.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use super::turns::{GivenUp, Turn, Turns};
use super::units::Units;
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Fast, FastOp, Layer};
use crate::mem::Source;

/// A layer whose writes also go to another.
pub struct Mirror {
    inner: Arc<dyn Layer>,
    target: Arc<dyn Layer>,
    /// Space of the second may be freed where it reads as zeroes.
    unmap: bool,
    turns: Turns,
    /// What the target has missed.
    missed: Units,
    /// Why, until someone has asked.
    trouble: GivenUp,
}

impl Mirror {
    /// Writes to `inner`, and to `target`, whose space may be freed where that reads as zeroes if `unmap`.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, target: Arc<dyn Layer>, unmap: bool) -> Self {
        let missed = Units::new(inner.size(), 1);
        Self { inner, target, unmap, turns: Turns::default(), missed, trouble: GivenUp::default() }
    }

    fn take(&self, offset: u64, len: u64) -> Turn<'_> {
        self.turns.take(offset..offset.saturating_add(len))
    }

    /// Does `change` to a range of the target, which misses it if that fails.
    fn follow(&self, offset: u64, len: u64, change: impl FnOnce(&dyn Layer) -> Result<(), BlockError>) {
        if let Err(error) = change(self.target.as_ref()) {
            self.miss(offset, len);
            self.trouble.because_of(error);
        }
    }

    /// The target has missed what a range shows.
    pub fn miss(&self, offset: u64, len: u64) {
        self.missed.touched(offset, len).for_each(|unit| self.missed.set(unit));
    }

    /// How many bytes the target has missed, in whole units.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.bytes_set()
    }

    /// Something that the target has missed, behind `from` if there is something.
    #[must_use]
    pub fn next_missed(&self, from: u64) -> Option<Range<u64>> {
        let next = self.missed.next_set(self.missed.unit_at(from)).or_else(|| self.missed.next_set(0))?;
        Some(self.missed.range_of(next))
    }

    /// Why a write did not reach the target, if one did not since this was asked.
    #[must_use]
    pub fn take_trouble(&self) -> Option<BlockError> {
        self.trouble.forget()
    }

    /// Does one step of the copying, which has its range to itself.
    ///
    /// # Errors
    /// That of the step.
    pub fn copy<T>(
        &self,
        offset: u64,
        len: u64,
        step: impl FnOnce() -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        let _turn = self.take(offset, len);
        step()
    }

    /// Does the step that copies again what the target has missed: a range that [`Mirror::next_missed`] gave.
    ///
    /// # Errors
    /// That of the step; the target still misses the range then.
    pub fn copy_missed<T>(
        &self,
        range: Range<u64>,
        step: impl FnOnce() -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        let (offset, len) = (range.start, range.end - range.start);
        let _turn = self.take(offset, len);
        let done = step()?;
        self.missed.touched(offset, len).for_each(|unit| self.missed.clear(unit));
        Ok(done)
    }

    /// Whether the target has missed nothing.
    ///
    /// # Errors
    /// Why it has.
    pub fn check(&self) -> Result<(), BlockError> {
        self.trouble.check()?;
        if self.missed() > 0 {
            return Err(BlockError::new(ErrorKind::Io, "parts of the copy could not be written"));
        }
        Ok(())
    }
}

impl Layer for Mirror {
    forward!(
        inner: driver, size, limits, read, flush, sync_failed, status, wants_ring, close, allocated_bytes, describe
    );

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        let _turn = self.take(offset, from.len() as u64);
        self.inner.write(from, offset)?;
        self.follow(offset, from.len() as u64, |target| target.write(from, offset));
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let _turn = self.take(offset, len);
        self.inner.discard(offset, len)?;
        // What a discarded range shows is not said, and must be the same in both.
        let status = self.inner.status(offset, len)?;
        if status.zero && status.len >= len {
            self.follow(offset, len, |target| target.write_zeroes(offset, len, self.unmap));
        } else {
            self.follow(offset, len, |target| copy_range(self.inner.as_ref(), target, offset, len));
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let _turn = self.take(offset, len);
        self.inner.write_zeroes(offset, len, unmap)?;
        self.follow(offset, len, |target| target.write_zeroes(offset, len, unmap && self.unmap));
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
