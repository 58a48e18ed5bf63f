//! Opening a node again: for writing, because a job writes to what lies beneath, or as `blockdev-reopen` says.
//!
//! The former layer stays open until the node goes: readers may be in it. What is above is put onto the new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value};

use super::drive::options;
use super::open::Settings;
use super::rework::Opened;
use super::{Graph, Node};
use crate::error::{BlockError, ErrorKind};
use crate::filter::policy::Policy;
use crate::filter::throttle::Throttle;
use crate::format::qcow2::Qcow2;
use crate::format::raw::Raw;
use crate::layer::Layer;
use crate::protocol::file::HostFile;
use crate::spec::{Backing, BlockdevSpec, NodeRef};
use crate::throttle::Group;

/// How a node was opened.
pub(super) struct Recipe {
    /// Nothing for what nobody described.
    spec: Option<BlockdevSpec>,
    settings: Settings,
}

impl Recipe {
    /// In a frame of its own: chains are opened by recursion.
    pub(super) fn of(spec: &BlockdevSpec, settings: &Settings) -> Box<Self> {
        Box::new(Self { spec: Some(spec.clone()), settings: settings.clone() })
    }

    /// Of a node that nobody described.
    pub(super) fn made_here(settings: &Settings) -> Box<Self> {
        Box::new(Self { spec: None, settings: settings.clone() })
    }
}

/// What becomes of a node.
enum Change {
    /// It is written to from now on.
    Write(Arc<Node>),
    /// An overlay stands on another node, or on none.
    Stand(Arc<Node>, Option<Arc<Node>>),
    /// Another group limits it.
    Limit(Arc<Node>, Arc<Group>),
    /// It is only read from now on.
    ReadOnly(Arc<Node>),
}

fn refuse(text: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, text)
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
        self.check_writing(node)?;
        let layer = self.again(node)?;
        let discard = node.recipe.settings.discard || layer.limits().discard;
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

    /// Has the nodes that `specs` name be as they say, all of them or none: written to or only read, on another backing
    /// node or none, in another throttle group. All else has to be as it was opened. The front ends above are held still.
    ///
    /// # Errors
    /// When there is no such node, something else would change, a node would come to stand on itself, someone uses one
    /// who would not be asked, or the host does not let us.
    pub fn reopen(&self, specs: &[BlockdevSpec]) -> Result<(), BlockError> {
        let mut changes = Vec::new();
        for spec in specs {
            self.plan(spec, &mut changes)?;
        }
        // What can fail goes first, and is taken back.
        let mut opened = Vec::new();
        for change in &changes {
            if let Change::Write(node) = change {
                opened.push(self.open_for_writing(node)?);
            }
        }
        opened.into_iter().for_each(Opened::keep);
        for change in &changes {
            match change {
                Change::Write(_) => {}
                Change::Stand(node, base) => {
                    if let Some(image) = node.layer().as_any().downcast_ref::<Qcow2>() {
                        self.stand(node, image, base.as_ref());
                    }
                }
                Change::Limit(node, group) => {
                    if let Some(throttle) = node.layer().as_any().downcast_ref::<Throttle>() {
                        throttle.set_group(group);
                    }
                }
                Change::ReadOnly(node) => node.close_for_writing(),
            }
        }
        Ok(())
    }

    /// What has to be done for one node.
    fn plan(&self, spec: &BlockdevSpec, changes: &mut Vec<Change>) -> Result<(), BlockError> {
        let name = spec.node_name().ok_or_else(|| refuse("node-name not specified".to_owned()))?;
        let node = self.get(name).ok_or_else(|| refuse(format!("Failed to find node with node-name='{name}'")))?;
        if let BlockdevSpec::Qcow2(spec) = spec {
            self.plan_backing(&node, &spec.backing, changes)?;
        }
        let Some(former) = &node.recipe.spec else {
            return Err(refuse(format!("node '{name}' was made here and cannot be opened again")));
        };
        if let Some(option) = first_other(&unchanging(spec, former, &node)?, &unchanging(former, former, &node)?) {
            return Err(refuse(format!("Cannot change the option '{option}'")));
        }
        if let BlockdevSpec::Throttle(spec) = spec {
            let group = self.throttle_group(&spec.throttle_group);
            let none = |_| refuse(format!("Throttle group '{}' does not exist", spec.throttle_group));
            changes.push(Change::Limit(node.clone(), group.map_err(none)?));
        }
        let (asked, before) = (spec.common().read_only, former.common().read_only);
        let read_only = asked.unwrap_or(false);
        // Who never said it has it from beneath, or from who put an overlay on it.
        if (asked, before) != (None, None) && read_only != node.is_read_only() {
            node.check_idle()?;
            if read_only {
                self.check_unwritten(&node)?;
            }
            changes.push(if read_only { Change::ReadOnly(node) } else { Change::Write(node) });
        }
        Ok(())
    }

    /// Refuses a node that someone may write to.
    fn check_unwritten(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        let above = |above: &Arc<Node>| {
            let role = above.children().iter().find(|(_, child)| Arc::ptr_eq(child, node)).map(|(role, _)| *role);
            role.is_some_and(|role| role != "backing") && !above.is_read_only()
        };
        if node.attached.load(Ordering::Acquire) || self.nodes().iter().any(above) {
            return Err(refuse(format!("Read-only block node '{}' cannot support read-write users", node.name)));
        }
        Ok(())
    }

    fn plan_backing(&self, node: &Arc<Node>, backing: &Backing, changes: &mut Vec<Change>) -> Result<(), BlockError> {
        let (now, name) = (node.child("backing"), &node.name);
        let then = match backing {
            Backing::Header | Backing::Over(_) if now.is_some() => {
                return Err(refuse(format!("backing is missing for '{name}'")));
            }
            Backing::Header | Backing::Over(_) | Backing::None => None,
            Backing::Node(NodeRef::Name(name)) => Some(self.find(name)?),
            Backing::Node(NodeRef::Inline(_)) => {
                return Err(refuse("Cannot change the option 'backing.driver'".to_owned()));
            }
        };
        if then.as_ref().map(Arc::as_ptr) == now.as_ref().map(Arc::as_ptr) {
            return Ok(());
        }
        node.check_idle()?;
        if let Some(then) = &then {
            then.check_idle()?;
            if stands_on(then, node) {
                let text = format!("Making '{}' a backing child of '{name}' would create a cycle", then.name);
                return Err(refuse(text));
            }
            if then.attached.load(Ordering::Acquire) && !then.is_read_only() {
                // What the overlay does not hold would change under it.
                return Err(refuse(format!("Block device {} is in use", then.name)));
            }
        }
        changes.push(Change::Stand(node.clone(), then));
        Ok(())
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
        let Some(BlockdevSpec::Qcow2(spec)) = &node.recipe.spec else { return Err(unwritable(node)) };
        let settings = Settings { read_only: false, ..node.recipe.settings.clone() };
        let data = below("data-file")?;
        let image = self.open_image(spec, &settings, &file, data.as_ref())?;
        image.set_backing(node.child("backing").map(|backing| backing.layer().clone()));
        let image: Arc<dyn Layer> = image;
        self.watch(&node.name, &image);
        Ok(image)
    }
}

/// Whether `node` is at or beneath `top`, in whatever role.
fn stands_on(top: &Arc<Node>, node: &Arc<Node>) -> bool {
    Arc::ptr_eq(top, node) || top.children().iter().any(|(_, child)| stands_on(child, node))
}

/// Options that say the same when they are not there.
const DEFAULTS: [(&str, &str); 5] = [
    ("force-share", "false"),
    ("discard", "\"ignore\""),
    ("detect-zeroes", "\"off\""),
    ("locking", "\"auto\""),
    ("cache", r#"{"direct":false,"no-flush":false}"#),
];

/// What of `spec` may not change, by the options' names. A child that is named and is there says nothing new.
fn unchanging(spec: &BlockdevSpec, former: &BlockdevSpec, node: &Node) -> Result<Map<String, Value>, BlockError> {
    let mut options = options::to_object(spec)?;
    for name in ["node-name", "read-only", "auto-read-only", "backing", "throttle-group"] {
        options.remove(name);
    }
    for (role, child) in node.children() {
        let named = options.get(role).and_then(Value::as_str) == Some(child.name());
        if named || is_same(options.get(role), former, role) {
            options.remove(role);
        }
    }
    if let Some(Value::Object(cache)) = options.get_mut("cache") {
        for name in ["direct", "no-flush"] {
            cache.entry(name).or_insert(false.into());
        }
    }
    options.retain(|name, value| !DEFAULTS.contains(&(name.as_str(), value.to_string().as_str())));
    Ok(options)
}

/// Whether a child is described as it was when it was opened.
fn is_same(described: Option<&Value>, spec: &BlockdevSpec, role: &str) -> bool {
    options::to_object(spec).is_ok_and(|spec| spec.get(role) == described)
}

/// The first option that is not the same in both.
fn first_other(one: &Map<String, Value>, other: &Map<String, Value>) -> Option<String> {
    let names = one.keys().chain(other.keys());
    names.into_iter().find(|name| one.get(*name) != other.get(*name)).cloned()
}

fn unwritable(node: &Node) -> BlockError {
    let text = format!("node '{}' (driver {}) can only be read", node.name, node.layer().driver());
    BlockError::new(ErrorKind::Permission, text)
}
