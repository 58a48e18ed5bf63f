//! Holding the requests that come to a `blkdebug` node, and letting them go: `qemu-io DISK "break EVENT TAG"`.

use std::iter::successors;

use rhea_block::filter::debug::Debug;

use crate::machine::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::HoldOrder;

impl Machine {
    /// Carries out `order` at the first `blkdebug` node at or beneath `disk`.
    ///
    /// # Errors
    /// When there is none, or no request is held by the name.
    pub(in crate::machine) fn hold(&self, disk: &str, order: &HoldOrder) -> Result<(), QmpError> {
        let name = self.facts.find_disk(disk).map_or(disk, |disk| disk.node.as_str());
        let top = self.host.graph.get(name).ok_or_else(|| QmpError::device_not_found(disk))?;
        for node in successors(Some(top), |node| node.children().first().map(|(_, child)| child.clone())) {
            if let Some(debug) = node.layer().as_any().downcast_ref::<Debug>() {
                return carry_out(debug, order);
            }
        }
        Err(QmpError::generic(format!("there is no blkdebug node beneath '{disk}'")))
    }
}

fn carry_out(debug: &Debug, order: &HoldOrder) -> Result<(), QmpError> {
    let found = match order {
        HoldOrder::Break { event, tag } => {
            return debug.hold(event, tag).map_err(|error| QmpError::from_error(&error));
        }
        HoldOrder::Resume(tag) => debug.release(tag),
        HoldOrder::RemoveBreak(tag) => debug.forget(tag),
    };
    if found { Ok(()) } else { Err(QmpError::generic("no request is held by this name")) }
}
