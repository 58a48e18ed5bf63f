//! `block-commit`: what an overlay holds is written into an image beneath it.
//!
//! The overlay may be the one that a front end writes to. Then its disk stands on a [`Mirror`] meanwhile: what the guest
//! writes goes to both, and when the rest is copied the two show the same until someone says how to end.

use std::sync::Arc;

use super::chain::{self, Decides};
use super::{Control, Halt, STEP};
use crate::error::{BlockError, ErrorKind};
use crate::filter::mirror::{Mirror, copy_range};
use crate::graph::Node;
use crate::layer::{Layer, Preallocation};

/// The work of one `block-commit`.
pub struct Commit {
    top: Arc<Node>,
    base: Arc<Node>,
    /// What the front end that writes to the overlay stands on.
    mirror: Option<Arc<Mirror>>,
}

impl Commit {
    /// From `top` and all above `base` into `base`; a front end writes to `top` meanwhile if `active`.
    ///
    /// # Errors
    /// When `base` is not beneath `top`, or cannot be written.
    pub fn new(top: Arc<Node>, base: Arc<Node>, active: bool) -> Result<Self, BlockError> {
        if !top.beneath().any(|node| Arc::ptr_eq(&node, &base)) {
            let text = format!("'{}' is not in this backing file chain", base.name());
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        if base.layer().limits().read_only {
            return Err(BlockError::new(ErrorKind::Permission, format!("node '{}' is read-only", base.name())));
        }
        let mirror = active.then(|| Arc::new(Mirror::new(top.layer().clone(), base.layer().clone())));
        Ok(Self { top, base, mirror })
    }

    /// What the front end has to stand on while the work is done.
    #[must_use]
    pub fn mirror(&self) -> Option<Arc<dyn Layer>> {
        self.mirror.clone().map(|mirror| mirror as Arc<dyn Layer>)
    }

    /// Writes into the base what it does not show yet. With a front end, the two show the same from then on.
    ///
    /// # Errors
    /// When it was cancelled, or something could not be read or written.
    pub fn run(&self, control: &Control) -> Result<(), Halt> {
        let size = self.top.layer().size();
        control.set_total(size);
        if self.base.layer().size() < size {
            self.base.layer().resize(size, Preallocation::Off)?;
        }
        let mut at = 0;
        while at < size {
            control.step(at, 0)?;
            let len = STEP.min(size - at);
            let (len, moved) = match &self.mirror {
                Some(mirror) => mirror.copy(at, len, |_, _| self.write_down(at, len)),
                None => self.write_down(at, len),
            }?;
            at += len;
            control.step(at.min(size), moved)?;
        }
        self.hide_tail(size)?;
        Ok(self.base.layer().flush()?)
    }

    /// An image above may be longer than the one that goes, whose end showed it zeroes.
    fn hide_tail(&self, size: u64) -> Result<(), BlockError> {
        let tail = self.base.layer().size().saturating_sub(size);
        if self.mirror.is_none() && tail > 0 { self.base.layer().write_zeroes(size, tail, true) } else { Ok(()) }
    }

    /// Whether the base still follows.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), BlockError> {
        self.mirror.as_ref().map_or(Ok(()), |mirror| mirror.check())
    }

    /// Writes down a run at `at`; says how long it is (at most `len`) and how many bytes of it were moved.
    fn write_down(&self, at: u64, len: u64) -> Result<(u64, u64), BlockError> {
        let above = std::iter::once(self.top.clone()).chain(self.top.beneath());
        let (run, decides) = chain::decides(chain::down_to(above, Some(&self.base)), at, len)?;
        let (top, base) = (self.top.layer().as_ref(), self.base.layer().as_ref());
        match decides {
            Decides::Nobody => Ok((run, 0)),
            Decides::Data => copy_range(top, base, at, run).map(|()| (run, run)),
            Decides::Zero => base.write_zeroes(at, run, true).map(|()| (run, 0)),
        }
    }
}
