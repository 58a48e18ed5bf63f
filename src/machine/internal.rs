//! Snapshots inside the images of running disks: `blockdev-snapshot-internal-sync` and its opposite.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rhea_block::format::qcow2::{Qcow2, Snapshot, snapshot_value};
use rhea_block::graph::Node;

use super::Machine;
use super::still::Front;
use crate::qmp::QmpError;
use crate::qmp::channel::Answer;
use crate::qmp::command::args::{BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternal};

/// What a snapshot says of the instructions that ran before it: nobody counts them.
const NOT_COUNTED: u64 = u64::MAX;

/// A snapshot that was made.
pub(super) struct Inside {
    node: Arc<Node>,
    id: String,
}

impl Inside {
    /// Deletes it, because a later action failed.
    pub(super) fn take_back(self) {
        let deleted = image(&self.node).map(|image| image.snapshot_delete(&self.id));
        if let Some(Err(error)) = deleted {
            log::warn!("{}: snapshot {} stays: {error}", self.node.filename().display(), self.id);
        }
    }
}

/// The image of a node that can have snapshots inside.
fn image(node: &Node) -> Option<&Qcow2> {
    node.layer().as_any().downcast_ref()
}

impl Machine {
    /// Makes a snapshot inside; the disk is held still.
    pub(super) fn make_internal_snapshot(&self, args: &BlockdevSnapshotInternal) -> Result<Inside, QmpError> {
        let device = &args.device;
        let node = self.node_inside(device)?;
        node.check_idle().map_err(|error| QmpError::from_error(&error))?;
        if node.is_read_only() {
            return Err(QmpError::generic(format!("Device '{device}' is read only")));
        }
        let image = image(&node).ok_or_else(|| {
            let driver = node.layer().driver();
            let text = format!("Block format '{driver}' used by device '{device}' does not support internal snapshots");
            QmpError::generic(text)
        })?;
        if args.name.is_empty() {
            return Err(QmpError::generic("Name is empty"));
        }
        if snapshots(image)?.iter().any(|snapshot| snapshot.name == args.name) {
            let text = format!("Snapshot with name '{}' already exists on device '{device}'", args.name);
            return Err(QmpError::generic(text));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let date = (u32::try_from(now.as_secs()).unwrap_or(u32::MAX), now.subsec_nanos());
        let made = image.snapshot_of_machine(&args.name, date, self.guest_clock(), NOT_COUNTED);
        let id = made.map_err(|error| {
            QmpError::generic(format!("Failed to create snapshot '{}' on device '{device}': {error}", args.name))
        })?;
        Ok(Inside { node, id })
    }

    /// `blockdev-snapshot-delete-internal-sync`.
    pub(super) fn delete_internal_snapshot(&self, args: &BlockdevSnapshotDeleteInternalSync) -> Answer {
        let node = self.node_inside(&args.device)?;
        if args.id.is_none() && args.name.is_none() {
            return Err(QmpError::generic("Name or id must be provided"));
        }
        node.check_idle().map_err(|error| QmpError::from_error(&error))?;
        let image = image(&node);
        let image = image.ok_or_else(|| QmpError::generic("Failed to get a snapshot list: Operation not supported"))?;
        let fits = |asked: &Option<String>, has: &str| asked.as_deref().is_none_or(|asked| asked == has);
        let found = snapshots(image)?.into_iter().find(|one| fits(&args.id, &one.id) && fits(&args.name, &one.name));
        let Some(found) = found else {
            let said = |asked: &Option<String>| asked.clone().unwrap_or_else(|| "null".to_owned());
            let (id, name, device) = (said(&args.id), said(&args.name), &args.device);
            let text = format!("Snapshot with id '{id}' and name '{name}' does not exist on device '{device}'");
            return Err(QmpError::generic(text));
        };
        let _still: Vec<Front> = self.hold_above(&node);
        image.snapshot_delete(&found.id).map_err(|error| QmpError::from_error(&error))?;
        Ok(snapshot_value(&found))
    }

    /// The guest's clock in nanoseconds; 0 where there is no KVM to ask.
    fn guest_clock(&self) -> u64 {
        let kvm = self.guest.as_ref().and_then(|guest| guest.kvm.as_ref());
        self.stopped_at.or_else(|| kvm.and_then(|kvm| kvm.vm.clock().ok())).unwrap_or(0)
    }

    /// The node that `device` names, of a drive or by its own name.
    fn node_inside(&self, device: &str) -> Result<Arc<Node>, QmpError> {
        let name = self.named(device, device)?;
        self.host.graph.find(&name).map_err(|error| QmpError::from_error(&error))
    }
}

fn snapshots(image: &Qcow2) -> Result<Vec<Snapshot>, QmpError> {
    image.snapshots().map_err(|error| QmpError::generic(format!("Failed to get a snapshot list: {error}")))
}
