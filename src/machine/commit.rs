//! `commit` of the human monitor and Ctrl-a s: what an overlay holds goes into the image beneath, and the overlay is empty
//! then. The disk stands still meanwhile, and nothing else is answered, as under QEMU; `block-commit` does its work beside a
//! running guest.

use std::sync::Arc;

use rhea_block::format::qcow2::Qcow2;
use rhea_block::graph::Node;
use rhea_block::job::{Control, Copying, Halt};
use rhea_block::{BlockError, ErrorKind};

use super::Machine;
use crate::qmp::QmpError;

impl Machine {
    /// Commits the overlay of one disk or drive.
    ///
    /// # Errors
    /// When there is none, it has nothing beneath, or something cannot be read or written.
    pub(super) fn commit_disk(&self, device: &str) -> Result<(), QmpError> {
        let disk = self.facts.find_disk(device).ok_or_else(|| QmpError::device_not_found(device))?;
        if disk.node.is_empty() {
            return Err(QmpError::generic(format!("Device '{device}' has no medium")));
        }
        let told = |error| QmpError::generic(format!("'commit' error for '{device}': {error}"));
        let top = self.node(&disk.node)?;
        match top.child("backing") {
            Some(base) => self.commit_into(&top, &base).map_err(|error| told(error.to_string())),
            None => Err(told("Operation not supported".to_owned())),
        }
    }

    /// Commits every overlay that a disk or drive has.
    ///
    /// # Errors
    /// As [`Machine::commit_disk`]; those behind the one that failed are left as they are.
    pub(super) fn commit_all(&self) -> Result<(), QmpError> {
        for disk in self.facts.disks.iter().filter(|disk| !disk.node.is_empty()) {
            let top = self.node(&disk.node)?;
            let Some(base) = top.child("backing") else { continue };
            self.commit_into(&top, &base)
                .map_err(|error| QmpError::generic(format!("'commit' error for 'all': {error}")))?;
        }
        Ok(())
    }

    fn commit_into(&self, top: &Arc<Node>, base: &Arc<Node>) -> Result<(), BlockError> {
        let overlay: &Qcow2 =
            top.layer().as_any().downcast_ref().filter(|_| !top.is_read_only()).ok_or_else(|| {
                BlockError::new(ErrorKind::Invalid, format!("node '{}' cannot be emptied", top.name()))
            })?;
        let graph = &self.host.graph;
        let _idle = graph.hold_for_job(vec![top.clone(), base.clone()], "commit")?;
        graph.check_writers(top)?;
        let _still = self.hold_above(top);
        let _opened = graph.open_for_writing(base)?;
        // As if the disk went on: the end of a base that is longer is not this overlay's.
        Copying::commit(top.clone(), base.clone(), true)?.run(&Control::new(0)).map_err(|halt| match halt {
            Halt::Failed(error) => error,
            Halt::Cancelled => BlockError::new(ErrorKind::Io, "it was cancelled"),
        })?;
        overlay.make_empty()
    }
}
