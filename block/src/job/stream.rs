//! `block-stream`: an overlay takes in what lies beneath it, down to a base or to the bottom.

use std::sync::Arc;

use super::chain::{self, Decides};
use super::{Control, Forgiven, Halt, STEP};
use crate::disk::Disk;
use crate::error::{BlockError, ErrorKind};
use crate::format::qcow2::Qcow2;
use crate::graph::Node;
use crate::layer::Layer;

/// The work of one `block-stream`.
pub struct Stream {
    top: Arc<Node>,
    /// What stays beneath.
    base: Option<Arc<Node>>,
    /// The front ends that write to the overlay meanwhile.
    disks: Vec<Disk>,
}

fn image(node: &Node) -> Result<&Qcow2, BlockError> {
    node.layer().as_any().downcast_ref().ok_or_else(|| {
        let text = format!("node '{}' is no overlay: only qcow2 images keep what lies beneath", node.name());
        BlockError::new(ErrorKind::Invalid, text)
    })
}

impl Stream {
    /// Into `top`, which `disks` write to; `base` and what is beneath it stay.
    ///
    /// # Errors
    /// When `top` cannot take anything in, or `base` is not beneath it.
    pub fn new(top: Arc<Node>, base: Option<Arc<Node>>, disks: Vec<Disk>) -> Result<Self, BlockError> {
        image(&top)?;
        if top.is_read_only() {
            return Err(BlockError::new(ErrorKind::Permission, "Block node is read-only"));
        }
        let beneath = |base: &Arc<Node>| top.beneath().any(|node| Arc::ptr_eq(&node, base));
        if let Some(base) = base.as_ref().filter(|base| !beneath(base)) {
            let text = format!("Node '{}' is not a backing image of '{}'", base.name(), top.name());
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok(Self { top, base, disks })
    }

    /// Does it. Errors that are to be ignored leave gaps, and the job fails at its end.
    ///
    /// # Errors
    /// When it was cancelled, or something could not be read or written. What was taken in stays.
    pub fn run(&self, control: &Control) -> Result<(), Halt> {
        let size = self.top.layer().size();
        control.set_total(size);
        let (mut at, mut first) = (0, None);
        while at < size {
            control.step(at, 0)?;
            let len = STEP.min(size - at);
            // All that can fail here is told as an error of reading.
            let (len, moved) = match self.take_in(at, len).map_err(BlockError::while_reading) {
                Ok(taken) => taken,
                Err(error) => match control.failed(error)? {
                    Forgiven::Held => (0, 0),
                    Forgiven::Ignored(error) => {
                        first.get_or_insert(error);
                        (len, 0)
                    }
                },
            };
            at += len;
            control.step(at.min(size), moved)?;
        }
        self.top.layer().flush()?;
        first.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Takes in a run at `at`; says how long it is (at most `len`) and how many bytes of it were moved.
    fn take_in(&self, at: u64, len: u64) -> Result<(u64, u64), BlockError> {
        let own = self.top.layer().status(at, len)?;
        let run = own.len.clamp(1, len);
        if own.allocated {
            return Ok((run, 0));
        }
        if self.base.is_none() {
            image(&self.top)?.populate(at, run)?;
            return Ok((run, run));
        }
        let between = chain::down_to(self.top.shown_by().skip(1), self.base.as_ref());
        let (run, decides) = chain::decides(between, at, run)?;
        match decides {
            Decides::Nobody => Ok((run, 0)),
            Decides::Data => image(&self.top)?.populate(at, run).map(|()| (run, run)),
            Decides::Zero => self.zero(at, run).map(|()| (run, 0)),
        }
    }

    /// Makes the overlay hold zeroes where it still holds nothing. The guest is held still: what it writes meanwhile
    /// must not be lost.
    fn zero(&self, at: u64, len: u64) -> Result<(), BlockError> {
        let held: Vec<_> = self.disks.iter().map(Disk::drain_within_limits).collect();
        let end = at + len;
        let mut from = at;
        while from < end {
            let status = self.top.layer().status(from, end - from)?;
            let run = status.len.clamp(1, end - from);
            if !status.allocated {
                self.top.layer().write_zeroes(from, run, true)?;
            }
            from += run;
        }
        drop(held);
        Ok(())
    }
}
