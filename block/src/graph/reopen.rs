//! Opening a node again, for writing, that was opened for reading: for a job that writes to what lies beneath.
//!
//! The former layer stays open until the node goes: readers may be in it. What is above is put onto the new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::open::Settings;
use super::rework::Opened;
use super::{Graph, Node};
use crate::error::{BlockError, ErrorKind};
use crate::filter::policy::Policy;
use crate::format::qcow2::Qcow2;
use crate::format::raw::Raw;
use crate::layer::Layer;
use crate::protocol::file::HostFile;
use crate::spec::{self, Backing, NodeRef};

/// How a qcow2 image was opened.
pub(super) struct Recipe {
    pub(super) spec: spec::Qcow2,
    pub(super) settings: Settings,
}

impl Graph {
    /// Opens `node` and what it needs for writing, unless it is; the front end of the chain is held still. Overlays on
    /// it are put onto the new layer.
    ///
    /// # Errors
    /// When the host or another program does not let us, or it is of a kind that is only read.
    pub fn make_writable(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        if !node.layer().limits().read_only {
            return Ok(());
        }
        let layer = self.again(node)?;
        let discard = node.recipe.as_ref().is_some_and(|recipe| recipe.settings.discard) || layer.limits().discard;
        let layer = Policy::over(layer, discard, node.detect_zeroes, false);
        if layer.limits().read_only || node.reopened.set(layer).is_err() {
            return Err(unwritable(node));
        }
        for above in self.nodes() {
            let is_beneath = above.child("backing").is_some_and(|below| Arc::ptr_eq(&below, node));
            if let Some(image) = above.layer().as_any().downcast_ref::<Qcow2>().filter(|_| is_beneath) {
                image.set_backing(Some(node.layer().clone()));
            }
        }
        Ok(())
    }

    /// Has the node that `spec` names, a qcow2 image, written to or only read, as `spec` says; all else in `spec` is as
    /// it was opened. The front end of the chain is held still.
    ///
    /// # Errors
    /// When there is no such node, something else would change, someone writes to it who would not be asked, or the host
    /// does not let us.
    pub fn reopen(&self, spec: &spec::Qcow2) -> Result<(), BlockError> {
        let refuse = |text: String| Err(BlockError::new(ErrorKind::Invalid, text));
        let name = spec.node_name.as_deref().unwrap_or_default();
        let node = self.find(name)?;
        let Some(recipe) = &node.recipe else {
            return refuse(format!("node '{name}' is no qcow2 image: only those are opened again"));
        };
        if unchanging(spec, &node) != unchanging(&recipe.spec, &node) {
            return refuse(format!("of node '{name}' only 'read-only' can be changed while it is open"));
        }
        node.check_idle()?;
        let read_only = spec.read_only.unwrap_or(false);
        if read_only == node.is_read_only() {
            return Ok(());
        }
        if node.attached.load(Ordering::Acquire) {
            return refuse(format!("Cannot make block node '{name}' read-only: there is a writer on it"));
        }
        if read_only {
            node.close_for_writing();
            return Ok(());
        }
        self.open_for_writing(&node).map(Opened::keep)
    }

    /// What `node` is, opened again.
    fn again(&self, node: &Node) -> Result<Arc<dyn Layer>, BlockError> {
        let below = |role: &str| {
            let Some(child) = node.child(role) else { return Ok(None) };
            self.make_writable(&child)?;
            Ok(Some(child))
        };
        let layer = node.opened.as_any();
        if let Some(file) = layer.downcast_ref::<HostFile>() {
            return Ok(Arc::new(file.again()?));
        }
        let file = below("file")?.ok_or_else(|| unwritable(node))?;
        if let Some(raw) = layer.downcast_ref::<Raw>() {
            return Ok(Arc::new(raw.again(file.layer().clone())?));
        }
        let recipe = node.recipe.as_ref().ok_or_else(|| unwritable(node))?;
        let settings = Settings { read_only: false, ..recipe.settings.clone() };
        let data = below("data-file")?;
        let image = self.open_image(&recipe.spec, &settings, &file, data.as_ref())?;
        image.set_backing(node.child("backing").map(|backing| backing.layer().clone()));
        let image: Arc<dyn Layer> = image;
        self.watch(&node.name, &image);
        Ok(image)
    }
}

/// What of `spec` may not change. What lies beneath may have, by a job or a snapshot: who names that says nothing new.
fn unchanging(spec: &spec::Qcow2, node: &Node) -> spec::Qcow2 {
    let named = match &spec.backing {
        Backing::Node(NodeRef::Name(name)) => node.child("backing").is_some_and(|below| below.name == *name),
        Backing::None => node.child("backing").is_none(),
        Backing::Header | Backing::Over(_) => true,
        Backing::Node(NodeRef::Inline(_)) => false,
    };
    let backing = if named { Backing::Header } else { spec.backing.clone() };
    spec::Qcow2 { read_only: None, auto_read_only: None, backing, ..spec.clone() }
}

fn unwritable(node: &Node) -> BlockError {
    let text = format!("node '{}' (driver {}) can only be read", node.name, node.layer().driver());
    BlockError::new(ErrorKind::Permission, text)
}
