//! External snapshots under a running guest: an overlay is put on a node, which is only read from then on.
//!
//! Two steps, so that several disks can be caught at one moment: [`Graph::prepare_snapshot`] does all that can fail
//! while the disks are held still, and [`Graph::take_snapshot`] changes who stands on whom, and cannot fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::target::make;
use super::{Attached, Graph, Node};
use crate::disk::Drained;
use crate::error::{BlockError, ErrorKind};
use crate::format::qcow2::Qcow2;
use crate::lock::Access;
use crate::spec::{self, Backing, BlockdevSpec, Discard, NodeRef};

/// An overlay that a snapshot makes or opens itself.
#[derive(Debug, Clone, Copy)]
pub struct NewOverlay<'a> {
    /// Its file.
    pub file: &'a Path,
    /// Its format; only `qcow2` keeps what lies beneath.
    pub format: &'a str,
    /// The name of its node.
    pub node_name: Option<&'a str>,
    /// The file is an image already, and is taken as it is.
    pub exists: bool,
}

/// A snapshot that is ready to be taken.
pub struct Snapshot {
    node: Arc<Node>,
    overlay: Arc<Node>,
}

impl Snapshot {
    /// The node that is only read from then on.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The node that takes the writes from then on.
    #[must_use]
    pub fn overlay(&self) -> &Arc<Node> {
        &self.overlay
    }

    /// Whether the node called `name` is one of the two.
    #[must_use]
    pub fn uses(&self, name: &str) -> bool {
        self.node.name == name || self.overlay.name == name
    }
}

fn refuse(text: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, text)
}

impl Graph {
    /// Makes or opens an overlay for `node`, without anything beneath it yet.
    ///
    /// # Errors
    /// When no overlay can be put on `node`, or its file or its name cannot be had.
    pub fn add_overlay(&self, node: &Arc<Node>, new: NewOverlay<'_>) -> Result<Arc<Node>, BlockError> {
        if new.node_name.is_some_and(|name| self.get(name).is_some()) {
            return Err(refuse("New overlay node-name already in use"));
        }
        // What can be made is told where it is made.
        if new.exists && new.format != "qcow2" {
            return Err(refuse(format!("Backing file not supported for file format '{}'", new.format)));
        }
        // Before anything is made.
        self.name_for(new.node_name.or(Some("x")))?;
        self.check_top(node)?;
        if !new.exists {
            make(&new.file.display().to_string(), new.format, node.layer().size(), Some(node))?;
        }
        let cache = node.recipe().cache();
        let file = spec::File { filename: new.file.display().to_string(), ..spec::File::default() };
        let discard = if node.layer().limits().discard { Discard::Unmap } else { Discard::Ignore };
        self.add(&BlockdevSpec::Qcow2(Box::new(spec::Qcow2 {
            node_name: new.node_name.map(str::to_owned),
            file: NodeRef::Inline(Box::new(super::named::in_file_system(file))),
            backing: Backing::None,
            cache: Some(cache),
            discard: Some(discard),
            ..spec::Qcow2::default()
        })))
    }

    /// Looks whether `overlay` can be put on `node`, and writes back what `node` holds; whoever writes to it is held
    /// still. The overlay may be what a mirror writes to: it gets whole clusters and needs nothing beneath for that.
    ///
    /// # Errors
    /// When one of them is in use in another way, `overlay` cannot have anything beneath it or has, or `node` could not
    /// be written back.
    pub fn prepare_snapshot(&self, node: &str, overlay: &str) -> Result<Snapshot, BlockError> {
        let (node, overlay) = (self.find(node)?, self.find(overlay)?);
        node.check_idle()?;
        let awaits = |node: &Node| node.layer().as_any().downcast_ref().is_some_and(Qcow2::stands);
        if !(overlay.is_target_of("mirror") && awaits(&overlay)) {
            overlay.check_idle()?;
            overlay.check_idle_beneath()?;
        }
        if Arc::ptr_eq(&node, &overlay) || overlay.is_attached() || !self.is_root(&overlay) {
            return Err(refuse("The overlay is already in use"));
        }
        if overlay.child("backing").is_some() {
            return Err(refuse("The overlay already has a backing image"));
        }
        if !overlay.layer().as_any().is::<Qcow2>() {
            return Err(refuse("The overlay does not support backing images"));
        }
        if overlay.is_read_only() && !node.is_read_only() {
            return Err(refuse(format!("The overlay '{}' is read-only", overlay.name)));
        }
        self.check_top(&node)?;
        if !node.is_read_only() {
            node.layer().flush()?;
            node.layer().close()?;
        }
        Ok(Snapshot { node, overlay })
    }

    /// Refuses a node that no overlay can be put on.
    fn check_top(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        node.check_idle()?;
        let Some(above) = self.nodes().into_iter().find(|above| super::is_child(above, node)) else { return Ok(()) };
        let text = "give the name of the node on top, which the device has";
        Err(refuse(format!("Node '{}' is beneath node '{}': {text}", node.name, above.name)))
    }

    /// Takes a snapshot: the front ends that have the node, `fronts`, go on with the overlay. Gives the overlay back.
    pub fn take_snapshot(&self, snapshot: Snapshot, fronts: &[(&Attached, &Drained)]) -> Arc<Node> {
        let Snapshot { node, overlay } = snapshot;
        if let Some(image) = overlay.layer().as_any().downcast_ref::<Qcow2>() {
            image.set_backing(Some(node.layer().clone()));
        }
        overlay.put_child("backing", Some(&node));
        for (attached, held) in fronts {
            held.swap(overlay.layer().clone());
            attached.move_to(&overlay);
        }
        if !node.is_read_only() {
            node.kept.store(true, Ordering::Release);
            // Others may read it from now on. That they may not yet is no reason to fail.
            if let Err(error) = node.relock(Access::Read) {
                log::warn!("{}: {error}", node.filename().display());
            }
        }
        overlay
    }
}

impl Node {
    /// What the header of the image in the file `above` calls it: as it was opened, where that leads to it. Paths in
    /// headers are looked up from the image's own folder, and the one that the user gave from that of the process: where
    /// the two differ, it is written from the root on.
    #[must_use]
    pub fn header_name(&self, above: &Path) -> String {
        let own = self.filename();
        let found = |path: &Path| path.canonicalize().ok();
        let from_above = above.parent().unwrap_or(Path::new("")).join(&own);
        let path = match found(&own) {
            this @ Some(_) if found(&from_above) != this => std::path::absolute(&own).ok(),
            _ => None,
        };
        path.as_deref().unwrap_or(&own).display().to_string()
    }

    /// What a filter passes on.
    #[must_use]
    pub fn filtered(&self) -> Option<Arc<Self>> {
        match self.layer().driver() {
            "throttle" | "copy-on-read" | "copy-before-write" => self.child("file"),
            "blkdebug" => self.child("image"),
            _ => None,
        }
    }

    /// The format of the image that it shows, for a header above it: that of the first node beneath which is no filter.
    #[must_use]
    pub fn format(&self) -> String {
        match (self.layer().driver(), self.filtered()) {
            (_, Some(beneath)) => beneath.format(),
            // A protocol's bytes, as they are.
            ("file" | "host_device" | "nbd" | "null-co" | "null-aio", _) => "raw".to_owned(),
            (format, _) => format.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
