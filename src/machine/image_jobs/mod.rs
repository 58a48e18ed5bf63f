//! The jobs there are: `blockdev-create`, `block-stream`, `block-commit` and `blockdev-mirror`.

mod commit;
mod create;
mod mirror;
mod stream;

use std::path::Path;
use std::sync::Arc;

use rhea_block::graph::{Graph, JobNode, Node, TopNode};
use rhea_block::{BlockError, Disk};

use super::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{ChangeBackingFile, JobArgs};
use crate::sentence::plain;

fn not_in_chain(name: &str) -> QmpError {
    QmpError::generic(format!("'{name}' is not in this backing file chain"))
}

/// The node of the chain at `root` whose file is `file`: as the node has it, or as the header above may have it, whose
/// relative names begin where its own image lies.
fn by_file(root: &Arc<Node>, file: &str) -> Option<Arc<Node>> {
    if *root.filename() == *Path::new(file) {
        return Some(root.clone());
    }
    let mut above = root.clone();
    root.beneath().find(|node| {
        let folder = std::mem::replace(&mut above, node.clone()).filename().parent().map(Path::to_owned);
        let named = folder.unwrap_or_default().join(file).canonicalize();
        *node.filename() == *Path::new(file)
            || named.is_ok_and(|path| node.filename().canonicalize().ok() == Some(path))
    })
}

fn no_such_file(file: &str) -> QmpError {
    QmpError::generic(format!("Can't find '{file}' in the backing chain"))
}

/// Refuses two words for one thing.
fn check_one(one: (&str, bool), other: (&str, bool), cannot: &str) -> Result<(), QmpError> {
    if one.1 && other.1 {
        return Err(QmpError::generic(format!("'{}' and '{}' {cannot}", one.0, other.0)));
    }
    Ok(())
}

/// Of a node that a job would have on top.
pub(in crate::machine) fn could_not_create(error: &QmpError) -> QmpError {
    QmpError::generic(format!("Could not create node: {}", error.desc))
}

/// Of a job on `node`, which would not hear of what comes through `other`.
pub(in crate::machine) fn changed_past(node: &Node, other: &Node) -> QmpError {
    QmpError::generic(format!(
        "What node '{}' shows is also changed through node '{}', past the job: give the node through which all writes go",
        node.name(),
        other.name()
    ))
}

fn failed(error: &BlockError) -> QmpError {
    QmpError::from_error(error)
}

impl Machine {
    /// The node called `name`, which is `root` or beneath it.
    fn chain_member(&self, root: &Arc<Node>, name: &str) -> Result<Arc<Node>, QmpError> {
        let node = self.node(name)?;
        let is_member = Arc::ptr_eq(root, &node) || root.beneath().any(|member| Arc::ptr_eq(&member, &node));
        if is_member { Ok(node) } else { Err(not_in_chain(name)) }
    }

    /// The id of a new job on `node`, which is that of `args`: the one asked for, or the drive's.
    pub(in crate::machine) fn id_of_job(&self, args: &JobArgs, node: &Node) -> Result<String, QmpError> {
        let drive = || self.facts.disk_on(node.name()).map(|disk| disk.drive.clone()).filter(|id| !id.is_empty());
        let called = || self.facts.find_disk(&args.device).map(|_| args.device.clone());
        let id = args.job_id.clone().or_else(drive).or_else(called).unwrap_or_default();
        self.check_job_id(&id)?;
        Ok(id)
    }

    /// Puts a job's own node on `node`.
    pub(in crate::machine) fn add_top(&self, top: JobNode<'_>, node: &Arc<Node>) -> Result<TopNode, QmpError> {
        self.check_node_name(top.name)?;
        self.host.graph.add_top(top, node).map_err(|error| failed(&error))
    }

    /// Puts `top` onto `base`, with the device that has it held still.
    fn rebase(&mut self, top: &Arc<Node>, base: Option<&Arc<Node>>, name: Option<String>) -> Result<(), QmpError> {
        let names = base.map(|base| (name.unwrap_or_else(|| base.header_name(&top.filename())), base.format()));
        let names = names.as_ref().map(|(name, format)| (name.as_str(), Some(format.as_str())));
        let changed = self.change_header(top, |graph| graph.rebase(top, base, names));
        changed.map_err(|error| failed(&error))
    }

    /// Changes the header of `node`, with the device that has it held still. One that is beneath another, and only read,
    /// is opened for writing meanwhile.
    fn change_header(
        &self,
        node: &Arc<Node>,
        change: impl FnOnce(&Graph) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let _still = self.hold_above(node);
        let graph = &self.host.graph;
        let _opened = node.is_read_only().then(|| graph.open_for_writing(node)).transpose()?;
        change(graph)
    }

    /// `change-backing-file`: what the overlay stands on stays.
    pub(in crate::machine) fn change_backing_file(&self, args: &ChangeBackingFile) -> Answer {
        let top = self.node_of(&args.device)?;
        let node = self.node(&args.image_node_name)?;
        let Some(format) = node.child("backing").map(|backing| backing.format()) else {
            return Err(QmpError::generic("not allowing backing file change on an image without a backing file"));
        };
        top.check_idle().map_err(|error| failed(&error))?;
        if !Arc::ptr_eq(&top, &node) && !top.beneath().any(|member| Arc::ptr_eq(&member, &node)) {
            let device = &args.device;
            return Err(QmpError::generic(format!("'{device}' and image file are not in the same chain")));
        }
        // QEMU names the overlay's own format here, whatever the file is.
        let names = Some((args.backing_file.as_str(), Some(format.as_str())));
        let changed = self.change_header(&node, |graph| graph.rename_backing(&node, names));
        changed.map_err(|error| {
            let why = plain(&std::io::Error::from_raw_os_error(error.errno()).to_string());
            QmpError::generic(format!("Could not change backing file to '{}': {why}", args.backing_file))
        })?;
        done()
    }

    pub(in crate::machine) fn node(&self, name: &str) -> Result<Arc<Node>, QmpError> {
        self.host.graph.find(name).map_err(|error| failed(&error))
    }

    /// The node that a job's `device` means: a device's, or one by its name.
    pub(in crate::machine) fn node_of(&self, device: &str) -> Result<Arc<Node>, QmpError> {
        let name = self.facts.find_disk(device).map_or(device, |disk| disk.node.as_str());
        if name.is_empty() && !device.is_empty() {
            return Err(QmpError::generic(format!("Device '{device}' has no medium")));
        }
        self.host.graph.find_for(name).map_err(|error| failed(&error))
    }

    /// The disks of the devices and drives that have `node`.
    pub(in crate::machine) fn disks_of(&self, node: &Node) -> Vec<Disk> {
        let all = self.facts.disks.iter().filter_map(|disk| self.host.disk(&disk.id).attached);
        all.filter(|attached| std::ptr::eq(&*attached.node(), node)).map(|attached| attached.disk().clone()).collect()
    }
}
