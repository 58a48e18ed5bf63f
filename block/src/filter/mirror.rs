//! Driver `mirror_top`: what is written goes to a second layer, too, while a job copies the rest.
//!
//! A write has its range to itself for both layers, and so does a step of the copying: whoever comes second in a range
//! waits. So the second layer never keeps older bytes than the first. When the second cannot be written, the guest is
//! not told: what the second missed is remembered, and the job that copies sees to it. When the first cannot, nobody
//! knows how far a write came: what it shows then the second has missed, too.
//!
//! A second layer that shows something else where it holds nothing may not know yet what that is. It is given whole units
//! then: what is written first to one of them brings the rest of it along.

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
    /// Bytes that the target comes to hold in one piece, if it is one that stands on something; otherwise 1.
    piece: u64,
    turns: Turns,
    /// What the target has missed.
    missed: Units,
    /// Why, until someone has asked.
    trouble: GivenUp,
}

impl Mirror {
    /// Writes to `inner`, and to `target`, whose space may be freed where that reads as zeroes if `unmap`. What that has
    /// missed is known in units of `least` bytes, a power of two, at least.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, target: Arc<dyn Layer>, unmap: bool, least: u64) -> Self {
        let missed = Units::new(inner.size(), least);
        Self { inner, target, unmap, piece: 1, turns: Turns::default(), missed, trouble: GivenUp::default() }
    }

    /// The same with a target that does not know yet what it shows where it holds nothing: it gets nothing but whole
    /// units of `least` bytes.
    #[must_use]
    pub fn in_pieces_of(self, least: u64) -> Self {
        Self { piece: least, ..self }
    }

    fn take(&self, offset: u64, len: u64) -> Turn<'_> {
        self.turns.take(offset..offset.saturating_add(len))
    }

    /// Takes a range that is to be changed, with those pieces at its ends that are to be brought along.
    fn take_pieces(&self, offset: u64, len: u64) -> Turn<'_> {
        let mut all = offset..offset.saturating_add(len);
        for cut in self.cut(offset, len).filter(|cut| !self.holds(cut).unwrap_or(false)) {
            all = all.start.min(cut.start)..all.end.max(cut.end);
        }
        self.turns.take(all)
    }

    /// The pieces, one at each end at most, of which a range has a part only.
    fn cut(&self, offset: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
        let (size, end) = (self.inner.size(), offset.saturating_add(len));
        let around = |at: u64| {
            let start = at & !(self.piece - 1);
            start..start.saturating_add(self.piece).min(size).max(start)
        };
        let (first, last) = (around(offset), around(end.saturating_sub(1)));
        let other = (last != first).then_some(last);
        let is_cut = move |piece: &Range<u64>| len > 0 && (piece.start < offset || end < piece.end);
        std::iter::once(first).chain(other).filter(is_cut)
    }

    /// Whether the target itself holds all of a range.
    fn holds(&self, range: &Range<u64>) -> Result<bool, BlockError> {
        let mut at = range.start;
        while at < range.end {
            let status = self.target.status(at, range.end - at)?;
            if !status.allocated {
                return Ok(false);
            }
            at += status.len.max(1);
        }
        Ok(true)
    }

    /// Does `change` to a range of `inner`. When that fails the range may show anything, which the target has missed.
    fn change<T>(
        &self,
        offset: u64,
        len: u64,
        change: impl FnOnce(&dyn Layer) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        change(self.inner.as_ref()).inspect_err(|_| self.miss(offset, len))
    }

    /// Does `change` to a range of the target, which misses it if that fails. Pieces of which that is a part are brought
    /// along.
    fn follow(&self, offset: u64, len: u64, change: impl FnOnce(&dyn Layer) -> Result<(), BlockError>) {
        let (inner, target) = (self.inner.as_ref(), self.target.as_ref());
        let bring = |piece: Range<u64>| {
            if self.holds(&piece)? { Ok(()) } else { copy_range(inner, target, piece.start, piece.end - piece.start) }
        };
        if let Err(error) = self.cut(offset, len).try_for_each(bring).and_then(|()| change(target)) {
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
        let len = from.len() as u64;
        let _turn = self.take_pieces(offset, len);
        self.change(offset, len, |inner| inner.write(from, offset))?;
        self.follow(offset, len, |target| target.write(from, offset));
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        let _turn = self.take_pieces(offset, len);
        // What a discarded range shows is not said, and must be the same in both.
        let discard = |inner: &dyn Layer| inner.discard(offset, len).and_then(|()| inner.status(offset, len));
        let status = self.change(offset, len, discard)?;
        if status.zero && status.len >= len {
            self.follow(offset, len, |target| target.write_zeroes(offset, len, self.unmap));
        } else {
            self.follow(offset, len, |target| copy_range(self.inner.as_ref(), target, offset, len));
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        let _turn = self.take_pieces(offset, len);
        self.change(offset, len, |inner| inner.write_zeroes(offset, len, unmap))?;
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
