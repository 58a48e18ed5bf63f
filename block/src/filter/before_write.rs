//! Driver `copy-before-write`: what a write is about to change goes to a second layer first, which so comes to show the
//! disk as it was when the filter was put in.
//!
//! The disk is looked at in units. A write first has all units that it touches copied, those of them that are wanted and
//! were not; so does the job that copies the rest, one by one. Whoever is at a unit has it to himself. When the second
//! layer cannot be written, the guest is not told: the copy is given up, and the job fails.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use super::turns::{GivenUp, Turns};
use super::units::{Units, unit_of};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Fast, FastOp, Layer, Limits, Status};
use crate::mem::{Sink, Source};

/// Copies a run of the disk to where it is to be kept; gives the bytes that were moved.
pub type Keep = Box<dyn Fn(u64, u64) -> Result<u64, BlockError> + Send + Sync>;

/// A layer that has what is there kept before it is changed.
pub struct BeforeWrite {
    inner: Arc<dyn Layer>,
    keep: Keep,
    /// Those that need no copy any more.
    done: Units,
    /// Whose turn it is at which units.
    turns: Turns,
    given_up: GivenUp,
}

impl BeforeWrite {
    /// Has `keep` copy runs of `inner`, each once and before it changes; of `least` bytes, a power of two, at least.
    #[must_use]
    pub fn new(inner: Arc<dyn Layer>, least: u64, keep: Keep) -> Self {
        let done = Units::new(inner.size(), least);
        Self { inner, keep, done, turns: Turns::default(), given_up: GivenUp::default() }
    }

    /// Bytes of a unit of a disk of `size` bytes, with `least` as in [`BeforeWrite::new`].
    #[must_use]
    pub fn unit_of(size: u64, least: u64) -> u64 {
        unit_of(size, least)
    }

    /// How many units the disk has.
    #[must_use]
    pub fn units(&self) -> u64 {
        self.done.count()
    }

    /// The bytes of the disk that a unit is.
    #[must_use]
    pub fn range_of(&self, unit: u64) -> Range<u64> {
        self.done.range_of(unit)
    }

    /// Whether a unit needs no copy any more.
    #[must_use]
    pub fn is_done(&self, unit: u64) -> bool {
        self.done.get(unit).unwrap_or(true)
    }

    /// Copies a unit unless that is done; gives the bytes that were moved.
    ///
    /// # Errors
    /// That of the copying, or the one for which it was given up.
    pub fn copy(&self, unit: u64) -> Result<u64, BlockError> {
        if self.is_done(unit) {
            return Ok(0);
        }
        let _turn = self.turns.take(unit..unit + 1);
        self.check()?;
        self.copy_in_turn(unit)
    }

    fn copy_in_turn(&self, unit: u64) -> Result<u64, BlockError> {
        if self.is_done(unit) {
            return Ok(0);
        }
        let range = self.range_of(unit);
        let moved = (self.keep)(range.start, range.end - range.start)?;
        self.done.set(unit);
        Ok(moved)
    }

    /// Has a range kept before `change` changes it.
    fn keep_then<T>(&self, offset: u64, len: u64, change: impl FnOnce() -> T) -> T {
        let units = self.done.touched(offset, len);
        if units.clone().all(|unit| self.is_done(unit)) {
            return change();
        }
        let _turn = self.turns.take(units.clone());
        for unit in units {
            if self.check().is_err() {
                break;
            }
            if let Err(error) = self.copy_in_turn(unit) {
                self.given_up.because_of(error);
            }
        }
        change()
    }

    /// Whether the copy goes on.
    ///
    /// # Errors
    /// The one for which it was given up.
    pub fn check(&self) -> Result<(), BlockError> {
        self.given_up.check()
    }
}

impl Layer for BeforeWrite {
    forward!(inner: driver, size, limits, read, flush, sync_failed, status, wants_ring, close, allocated_bytes, describe);

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.keep_then(offset, from.len() as u64, || self.inner.write(from, offset))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.keep_then(offset, len, || self.inner.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.keep_then(offset, len, || self.inner.write_zeroes(offset, len, unmap))
    }

    fn fast(&self, op: FastOp, offset: u64, len: u64) -> Fast {
        let unkept = op == FastOp::Write && !self.done.touched(offset, len).all(|unit| self.is_done(unit));
        if unkept { Fast::Slow } else { self.inner.fast(op, offset, len) }
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

/// What the disk was when the filter was put in, for who reads it: what was kept, and where nothing was, the disk as it
/// is, while no write can come between.
pub struct Snapshot {
    filter: Arc<BeforeWrite>,
    kept: Arc<dyn Layer>,
}

impl Snapshot {
    /// Of the disk beneath `filter`, which keeps all that changes in `kept`.
    #[must_use]
    pub fn new(filter: Arc<BeforeWrite>, kept: Arc<dyn Layer>) -> Self {
        Self { filter, kept }
    }

    /// Calls `look` for who has the first unit of a range, and how much of it that is.
    fn look_at<T>(
        &self,
        offset: u64,
        len: u64,
        look: impl FnOnce(&dyn Layer, u64) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        self.filter.check()?;
        let unit = self.filter.done.unit_at(offset);
        let part = len.min(self.filter.range_of(unit).end.saturating_sub(offset));
        if self.filter.is_done(unit) {
            return look(self.kept.as_ref(), part);
        }
        let _turn = self.filter.turns.take(unit..unit + 1);
        let layer = if self.filter.is_done(unit) { &self.kept } else { &self.filter.inner };
        look(layer.as_ref(), part)
    }
}

impl Layer for Snapshot {
    forward!(kept: driver, size, flush, describe);

    fn limits(&self) -> Limits {
        Limits { read_only: true, ..self.kept.limits() }
    }

    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let len = into.len();
        let mut at = 0;
        while at < len {
            let left = (len - at) as u64;
            at += self.look_at(offset + at as u64, left, |layer, part| {
                // Past the end of the disk there is no unit, and nothing but zeroes.
                let part = if part == 0 { left } else { part };
                layer.read(into.part(at, part as usize), offset + at as u64).map(|()| part as usize)
            })?;
        }
        Ok(())
    }

    fn write(&self, _from: Source<'_>, _offset: u64) -> Result<(), BlockError> {
        Err(read_only())
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<(), BlockError> {
        Err(read_only())
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> Result<(), BlockError> {
        Err(read_only())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.look_at(offset, len, |layer, part| layer.status(offset, part.max(1)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn read_only() -> BlockError {
    BlockError::new(ErrorKind::Permission, "what a disk was cannot be written")
}

#[cfg(test)]
mod tests;
