//! Disks held still: nothing of theirs is in flight, and what comes waits until they are let go.

use std::sync::Arc;

use rhea_block::graph::{Attached, Node};
use rhea_block::layer::Layer;
use rhea_block::{Disk, Drained};

use super::Machine;

/// A device's end of a disk, held still until this is dropped.
pub(in crate::machine) struct Front {
    pub(in crate::machine) device: String,
    pub(in crate::machine) attached: Arc<Attached>,
    pub(in crate::machine) held: Drained,
}

impl Front {
    /// What the block graph needs to put it onto another node.
    pub(in crate::machine) fn ends(&self) -> (&Attached, &Drained) {
        (&self.attached, &self.held)
    }
}

impl Machine {
    /// The disk of the device `id` is on `node` from now on.
    pub(in crate::machine) fn now_on(&mut self, id: &str, node: &Node) {
        if let Some(disk) = self.facts.disk_mut(id) {
            node.name().clone_into(&mut disk.node);
        }
    }

    /// Has the disks of all devices that have `node` stand on `layer` from one moment on.
    pub(in crate::machine) fn put_disks_on(&self, node: &Node, layer: &Arc<dyn Layer>) {
        let disks = self.disks_of(node);
        let held: Vec<_> = disks.iter().map(Disk::drain).collect();
        held.iter().for_each(|held| drop(held.swap(layer.clone())));
        drop(held);
        disks.iter().for_each(Disk::announce);
    }

    /// Holds the disks still that show `node`, on top or beneath.
    pub(in crate::machine) fn hold_above(&self, node: &Arc<Node>) -> Vec<Front> {
        let mut fronts = Vec::new();
        self.hold_also(node, &mut fronts);
        fronts
    }

    /// The same, with those that are held already left as they are.
    pub(in crate::machine) fn hold_also(&self, node: &Arc<Node>, fronts: &mut Vec<Front>) {
        for disk in &self.facts.disks {
            if fronts.iter().any(|front| front.device == disk.id) {
                continue;
            }
            let Some(attached) = self.host.disk(&disk.id).attached else { continue };
            if attached.node().stands_on(node) {
                let held = attached.disk().drain();
                fronts.push(Front { device: disk.id.clone(), attached, held });
            }
        }
    }
}
