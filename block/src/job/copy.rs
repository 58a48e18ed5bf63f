//! `block-commit` and `blockdev-mirror`: what an image shows is written into another, which lies beneath it or
//! elsewhere.
//!
//! The image may be the one that a front end writes to. Then its disk stands on a [`Mirror`] meanwhile: what the guest
//! writes goes to both, and when the rest is copied the two show the same until someone says how to end.

use std::ops::Range;
use std::sync::Arc;

use super::chain::{self, Decides, of_image, unit_of};
use super::{Control, End, Forgiven, Halt, STEP};
use crate::error::{BlockError, ErrorKind};
use crate::filter::mirror::{Mirror, copy_range};
use crate::format::qcow2::Qcow2;
use crate::graph::Node;
use crate::layer::{Layer, Preallocation};

/// What of an image is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All that it shows.
    Whole,
    /// What it holds itself: the target stands on what shows the rest.
    Top,
    /// Nothing but what is written from now on.
    Later,
}

/// The work of one job that copies.
pub struct Copying {
    source: Arc<Node>,
    target: Arc<Node>,
    extent: Extent,
    /// The target lies beneath the source, and shows the rest.
    beneath: bool,
    /// Space of the target may be freed where it reads as zeroes.
    unmap: bool,
    /// Bytes of the target that are written as a whole.
    unit: u64,
    /// Bytes between two looks at what is asked of the job: whole units.
    step: u64,
    /// What the front end that writes to the source stands on.
    mirror: Option<Arc<Mirror>>,
}

impl Copying {
    /// From `top` and all above `base` into `base`; a front end writes to `top` meanwhile if `active`.
    ///
    /// # Errors
    /// When `base` is not beneath `top`, or cannot be written.
    pub fn commit(top: Arc<Node>, base: Arc<Node>, active: bool) -> Result<Self, BlockError> {
        if !top.beneath().any(|node| Arc::ptr_eq(&node, &base)) {
            let text = format!("'{}' is not in this backing file chain", base.name());
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Self::new(top, base, Extent::Whole, (true, true), active)
    }

    /// From `source`, which a front end may write to meanwhile, into `target`, which nobody uses; space of that may be
    /// freed where it reads as zeroes if `unmap`.
    ///
    /// # Errors
    /// When `target` cannot be written.
    pub fn mirror_to(source: Arc<Node>, target: Arc<Node>, extent: Extent, unmap: bool) -> Result<Self, BlockError> {
        Self::new(source, target, extent, (false, unmap), true)
    }

    fn new(
        source: Arc<Node>,
        target: Arc<Node>,
        extent: Extent,
        (beneath, unmap): (bool, bool),
        active: bool,
    ) -> Result<Self, BlockError> {
        if target.layer().limits().read_only {
            return Err(BlockError::new(ErrorKind::Permission, format!("node '{}' is read-only", target.name())));
        }
        // What lies beneath is open already where a target is.
        let unit = if beneath { 1 } else { unit_of(&target) };
        if extent != Extent::Whole {
            of_image(&target, Qcow2::expect_backing);
        }
        let mirror = active.then(|| {
            let mirror = Mirror::new(source.layer().clone(), target.layer().clone(), unmap, unit);
            Arc::new(if extent == Extent::Whole { mirror } else { mirror.in_pieces_of(unit) })
        });
        let step = STEP.next_multiple_of(unit);
        Ok(Self { source, target, extent, beneath, unmap, unit, step, mirror })
    }

    /// The same, with no more than `bytes` in memory, but 64 KiB and a cluster of the target's at least.
    #[must_use]
    pub fn in_pieces_of(self, bytes: u64) -> Self {
        Self { step: bytes.clamp(64 << 10, STEP).next_multiple_of(self.unit), ..self }
    }

    /// What the front end has to stand on while the work is done.
    #[must_use]
    pub fn mirror(&self) -> Option<Arc<dyn Layer>> {
        self.mirror.clone().map(|mirror| mirror as Arc<dyn Layer>)
    }

    /// Writes into the target what it does not show yet. With a front end, the two show the same from then on.
    ///
    /// # Errors
    /// When it was cancelled, the target is of another size and not beneath, or something could not be read or written.
    pub fn run(&self, control: &Control) -> Result<(), Halt> {
        let size = self.source.layer().size();
        if !self.beneath && self.target.layer().size() != size {
            return Err(BlockError::new(ErrorKind::Invalid, "Source and target image have different sizes").into());
        }
        control.set_total(if self.extent == Extent::Later { 0 } else { size });
        if self.target.layer().size() < size {
            control.insist(|| self.target.layer().resize(size, Preallocation::Off))?;
        }
        if self.extent != Extent::Later {
            self.copy_all(control, size)?;
        }
        self.catch_up(control)?;
        control.insist(|| self.hide_tail(size))?;
        control.insist(|| self.target.layer().flush())
    }

    fn copy_all(&self, control: &Control, size: u64) -> Result<(), Halt> {
        let mut at = 0;
        while at < size {
            let len = self.step.min(size - at);
            let copied = match &self.mirror {
                Some(mirror) => mirror.copy(at, len, || self.write_down(at, len)),
                None => self.write_down(at, len),
            };
            let (len, moved) = match copied {
                Ok(copied) => copied,
                Err(error) => match (control.failed(error)?, &self.mirror) {
                    (Forgiven::Ignored(_), Some(mirror)) => {
                        mirror.miss(at, len);
                        (len, 0)
                    }
                    _ => (0, 0),
                },
            };
            at += len;
            control.step(at - self.missed().min(at), moved)?;
        }
        Ok(())
    }

    /// Bytes, in whole units, that the target has missed.
    fn missed(&self) -> u64 {
        self.mirror.as_ref().map_or(0, |mirror| mirror.missed())
    }

    /// Writes down again what the target has missed.
    fn catch_up(&self, control: &Control) -> Result<(), Halt> {
        let Some(mirror) = &self.mirror else { return Ok(()) };
        let mut from = 0;
        loop {
            if let Some(error) = mirror.take_trouble() {
                control.failed(error)?;
            }
            let Some(run) = mirror.next_missed(from) else { return Ok(()) };
            control.step(control.progress().0, 0)?;
            from = run.end;
            match mirror.copy_missed(run.clone(), || self.write_down_all(run)) {
                Ok(moved) => {
                    let (_, total) = control.progress();
                    control.step(total - self.missed().min(total), moved)?;
                }
                Err(error) => drop(control.failed(error)?),
            }
        }
    }

    /// Waits until someone says how to end; what the target misses meanwhile is written down again. Then all that it has
    /// is durable.
    ///
    /// # Errors
    /// When it was cancelled, or the target does not follow.
    pub fn follow(&self, control: &Control) -> Result<End, Halt> {
        loop {
            let end = control.wait_for_end(|| self.catch_up(control))?;
            control.insist(|| self.target.layer().flush())?;
            if self.missed() == 0 {
                return Ok(end);
            }
        }
    }

    /// An image above may be longer than the one that goes, whose end showed it zeroes.
    fn hide_tail(&self, size: u64) -> Result<(), BlockError> {
        let tail = self.target.layer().size().saturating_sub(size);
        if self.mirror.is_none() && tail > 0 { self.target.layer().write_zeroes(size, tail, true) } else { Ok(()) }
    }

    /// Whether the target shows the same, with nothing in flight, and would after a loss of power.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), BlockError> {
        self.mirror.as_ref().map_or(Ok(()), |mirror| mirror.check())?;
        self.target.layer().flush()
    }

    /// Writes down all of a range, which is of whole units; says how many bytes were moved.
    fn write_down_all(&self, range: Range<u64>) -> Result<u64, BlockError> {
        let (mut at, mut moved) = (range.start, 0);
        while at < range.end {
            let (run, bytes) = self.write_down(at, range.end - at)?;
            (at, moved) = (at + run, moved + bytes);
        }
        Ok(moved)
    }

    /// Writes down a run of whole units at `at`; says how long it is (at most `len`) and how many bytes of it were moved.
    fn write_down(&self, at: u64, len: u64) -> Result<(u64, u64), BlockError> {
        let until = match self.extent {
            Extent::Top => self.source.backing(),
            Extent::Whole | Extent::Later => self.beneath.then(|| self.target.clone()),
        };
        let decided =
            chain::decides_whole(|| chain::down_to(self.source.shown_by(), until.as_ref()), at, len, self.unit);
        let (run, decides) = decided.map_err(BlockError::while_reading)?;
        let (source, target) = (self.source.layer().as_ref(), self.target.layer().as_ref());
        match decides {
            Decides::Nobody if until.is_some() => Ok((run, 0)),
            Decides::Data => copy_range(source, target, at, run).map(|()| (run, run)),
            Decides::Zero | Decides::Nobody => make_zero(&self.target, at, run, self.unmap).map(|()| (run, 0)),
        }
    }
}

/// Makes a run read as zeroes, its space freed if `unmap`. Where it does, nothing is written: a hole of a new file stays
/// one. A hole through which something may come to show is none.
pub(super) fn make_zero(target: &Node, at: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
    let stands = of_image(target, Qcow2::stands).unwrap_or(false);
    let target = target.layer();
    if stands {
        return target.write_zeroes(at, len, unmap);
    }
    let (mut from, end) = (at, at + len);
    while from < end {
        let status = target.status(from, end - from)?;
        let run = status.len.clamp(1, end - from);
        if !status.zero {
            target.write_zeroes(from, run, unmap)?;
        }
        from += run;
    }
    Ok(())
}
