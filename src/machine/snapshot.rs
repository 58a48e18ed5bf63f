//! External snapshots of running disks: `blockdev-snapshot`, `blockdev-snapshot-sync` and `transaction`.
//!
//! All disks of a transaction are held still before the first one changes, so that the images show one moment. What can
//! fail is done before that; when it does, what was made is taken away, and no disk has changed.

use std::path::Path;
use std::sync::Arc;

use rhea_block::Drained;
use rhea_block::graph::{Attached, NewOverlay, Snapshot};

use super::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{BlockdevSnapshotSync, NewImageMode};
use crate::qmp::command::transaction::TransactionAction;

/// Where an overlay comes from.
enum Overlay<'a> {
    /// It is in the graph.
    Node(&'a str),
    /// It is opened, and its file perhaps made.
    File(&'a BlockdevSnapshotSync),
}

/// A snapshot that can be taken.
struct Ready {
    snapshot: Snapshot,
    /// The device that has the disk.
    front: Option<Front>,
    /// The overlay's node was made for this.
    made: bool,
}

/// A device's end of a disk, held still.
struct Front {
    device: String,
    attached: Arc<Attached>,
    held: Drained,
}

impl Machine {
    /// Takes the snapshots that `actions` ask for: all of them, or none.
    pub(super) fn snapshot(&mut self, actions: &[TransactionAction]) -> Answer {
        let mut ready = Vec::new();
        for action in actions {
            if let Err(error) = self.prepare(action, &mut ready) {
                let made = ready.iter().filter(|ready| ready.made);
                made.for_each(|ready| self.forget_overlay(ready.snapshot.overlay().name()));
                return Err(error);
            }
        }
        // Held still until the last of them has its overlay.
        let fronts: Vec<_> = ready.into_iter().filter_map(|ready| self.take(ready)).collect();
        for Front { attached, held, .. } in fronts {
            drop(held);
            attached.disk().announce();
        }
        done()
    }

    /// Does what can fail of one action, and adds it to those that are ready.
    fn prepare(&self, action: &TransactionAction, ready: &mut Vec<Ready>) -> Result<(), QmpError> {
        let (node, overlay) = self.ends(action)?;
        if ready.iter().any(|ready| ready.snapshot.uses(&node)) {
            return Err(QmpError::generic(format!("node '{node}' is in this transaction twice")));
        }
        // Before the overlay is made, so that its size is the disk's.
        let front = self.hold_still(&node);
        let (overlay, made) = match overlay {
            Overlay::Node(name) => (name.to_owned(), false),
            Overlay::File(args) => (self.add_overlay(&node, args)?, true),
        };
        let snapshot = match self.host.graph.prepare_snapshot(&node, &overlay) {
            Ok(_) if ready.iter().any(|ready| ready.snapshot.uses(&overlay)) => {
                Err(QmpError::generic("The overlay is already in use"))
            }
            Ok(snapshot) => Ok(snapshot),
            Err(error) => Err(QmpError::from_error(&error)),
        };
        match snapshot {
            Ok(snapshot) => ready.push(Ready { snapshot, front, made }),
            Err(error) => {
                if made {
                    self.forget_overlay(&overlay);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// The node that an action means, and the overlay for it.
    fn ends<'a>(&self, action: &'a TransactionAction) -> Result<(String, Overlay<'a>), QmpError> {
        match action {
            TransactionAction::Abort(_) => Err(QmpError::generic("Transaction aborted using Abort action")),
            TransactionAction::BlockdevSnapshot(args) => Ok((args.node.clone(), Overlay::Node(&args.overlay))),
            TransactionAction::BlockdevSnapshotSync(args) => Ok((self.beneath(args)?, Overlay::File(args))),
        }
    }

    /// The node that `blockdev-snapshot-sync` means.
    fn beneath(&self, args: &BlockdevSnapshotSync) -> Result<String, QmpError> {
        match (&args.device, &args.node_name) {
            (Some(device), None) => {
                let disk = self.facts.find_disk(device).ok_or_else(|| QmpError::device_not_found(device))?;
                if disk.node.is_empty() {
                    return Err(QmpError::generic(format!("Device '{device}' has no medium")));
                }
                Ok(disk.node.clone())
            }
            (None, Some(_)) if args.snapshot_node_name.is_none() => {
                Err(QmpError::generic("New overlay node-name missing"))
            }
            (None, Some(node)) => Ok(node.clone()),
            _ => Err(QmpError::generic("Either 'device' or 'node-name' must be given, and not both")),
        }
    }

    /// Makes or opens the overlay; gives the name of its node.
    fn add_overlay(&self, node: &str, args: &BlockdevSnapshotSync) -> Result<String, QmpError> {
        let node = self.host.graph.find(node).map_err(|error| QmpError::from_error(&error))?;
        let new = NewOverlay {
            file: Path::new(&args.snapshot_file),
            format: args.format.as_deref().unwrap_or("qcow2"),
            node_name: args.snapshot_node_name.as_deref(),
            exists: args.mode == Some(NewImageMode::Existing),
        };
        let overlay = self.host.graph.add_overlay(&node, new).map_err(|error| QmpError::from_error(&error))?;
        Ok(overlay.name().to_owned())
    }

    fn forget_overlay(&self, name: &str) {
        if let Err(error) = self.host.graph.remove(name) {
            log::warn!("{error}");
        }
    }

    /// Waits for the requests to `node` of the device that has it, and holds back new ones.
    fn hold_still(&self, node: &str) -> Option<Front> {
        let device = self.facts.disk_on(node)?.id.clone();
        let attached = self.host.disk(&device).attached?;
        let held = attached.disk().drain();
        Some(Front { device, attached, held })
    }

    fn take(&mut self, ready: Ready) -> Option<Front> {
        let front = ready.front.as_ref().map(|front| (&*front.attached, &front.held));
        let overlay = self.host.graph.take_snapshot(ready.snapshot, front);
        let front = ready.front?;
        if let Some(disk) = self.facts.disk_mut(&front.device) {
            overlay.name().clone_into(&mut disk.node);
        }
        Some(front)
    }
}
