//! External snapshots of running disks: `blockdev-snapshot` and `blockdev-snapshot-sync`.
//!
//! All disks of a transaction are held still before the first one changes, so that the images show one moment. What can
//! fail is done before that; when it does, what was made is taken away, and no disk has changed.

use std::path::Path;
use std::sync::Arc;

use rhea_block::graph::{NewOverlay, Snapshot};

use super::Machine;
use super::still::Front;
use super::transaction::Progress;
use crate::qmp::QmpError;
use crate::qmp::command::args::{BlockdevSnapshot, BlockdevSnapshotSync, NewImageMode};

/// A snapshot that can be taken.
pub(super) struct Ready {
    snapshot: Snapshot,
    /// The overlay's node was made for this.
    made: bool,
}

impl Machine {
    /// Does what can fail of `blockdev-snapshot`.
    pub(super) fn prepare_snapshot(&self, args: &BlockdevSnapshot, progress: &mut Progress) -> Result<(), QmpError> {
        check_once(&args.node, progress)?;
        self.hold_still(&args.node, progress);
        let snapshot = self.ready(&args.node, &args.overlay, progress)?;
        progress.snapshots.push(Ready { snapshot, made: false });
        Ok(())
    }

    /// Does what can fail of `blockdev-snapshot-sync`.
    pub(super) fn prepare_overlay(&self, args: &BlockdevSnapshotSync, progress: &mut Progress) -> Result<(), QmpError> {
        let node = self.beneath(args)?;
        check_once(&node, progress)?;
        // Before the overlay is made, so that its size is the disk's.
        self.hold_still(&node, progress);
        let overlay = self.add_overlay(&node, args)?;
        let snapshot = self.ready(&node, &overlay, progress).inspect_err(|_| self.forget_overlay(&overlay))?;
        progress.snapshots.push(Ready { snapshot, made: true });
        Ok(())
    }

    fn ready(&self, node: &str, overlay: &str, progress: &Progress) -> Result<Snapshot, QmpError> {
        let snapshot = self.host.graph.prepare_snapshot(node, overlay).map_err(|error| QmpError::from_error(&error))?;
        if progress.snapshots.iter().any(|ready| ready.snapshot.uses(overlay)) {
            return Err(QmpError::generic("The overlay is already in use"));
        }
        Ok(snapshot)
    }

    /// The node that `blockdev-snapshot-sync` means: that of a drive, or one by its name.
    fn beneath(&self, args: &BlockdevSnapshotSync) -> Result<String, QmpError> {
        let (device, name) = (args.device.as_deref().unwrap_or(""), args.node_name.as_deref().unwrap_or(""));
        let node = self.named(device, name)?;
        if args.node_name.is_some() && args.snapshot_node_name.is_none() {
            return Err(QmpError::generic("New overlay node-name missing"));
        }
        Ok(node)
    }

    /// The node of the drive `device`, or else the one called `name`; front ends' names are not looked at.
    pub(super) fn named(&self, device: &str, name: &str) -> Result<String, QmpError> {
        match self.facts.find_drive(device) {
            Some(disk) if disk.node.is_empty() => Err(QmpError::generic(format!("Device '{device}' has no medium"))),
            Some(disk) => Ok(disk.node.clone()),
            None if self.host.graph.get(name).is_some() => Ok(name.to_owned()),
            None => Err(QmpError::no_device_nor_node(device, name)),
        }
    }

    /// Makes or opens the overlay; gives the name of its node.
    fn add_overlay(&self, node: &str, args: &BlockdevSnapshotSync) -> Result<String, QmpError> {
        let taken = self.check_node_name(args.snapshot_node_name.as_deref());
        taken.map_err(|_| QmpError::generic("New overlay node-name already in use"))?;
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

    /// Takes away the overlay of a snapshot that is not taken.
    pub(super) fn forget_made(&self, ready: &Ready) {
        if ready.made {
            self.forget_overlay(ready.snapshot.overlay().name());
        }
    }

    /// Takes a snapshot; the devices that have the disk are among `fronts`.
    pub(super) fn take_snapshot(&mut self, ready: Ready, fronts: &[Front]) {
        let node = ready.snapshot.node().clone();
        let fronts: Vec<_> = fronts.iter().filter(|front| Arc::ptr_eq(&front.attached.node(), &node)).collect();
        let ends: Vec<_> = fronts.iter().map(|front| front.ends()).collect();
        let overlay = self.host.graph.take_snapshot(ready.snapshot, &ends);
        fronts.iter().for_each(|front| self.now_on(&front.device, &overlay));
        self.move_exports(&node, &overlay);
    }
}

fn check_once(node: &str, progress: &Progress) -> Result<(), QmpError> {
    if progress.snapshots.iter().any(|ready| ready.snapshot.uses(node)) {
        return Err(QmpError::generic(format!("node '{node}' is in this transaction twice")));
    }
    Ok(())
}
