//! What has to be done for `blockdev-reopen`: found out, and refused, before anything is done.

use std::sync::Arc;

use super::super::open::{Inherited, Settings};
use super::super::permission::Outlook;
use super::super::{Graph, Node};
use super::{Change, Recipe, options, refuse};
use crate::error::BlockError;
use crate::filter::copy_on_read::CopyOnRead;
use crate::format::qcow2::Qcow2;
use crate::format::raw::Raw;
use crate::spec::{self, Backing, BlockdevSpec, NodeRef};

/// What was found so far: what is to be done, and how the graph looks then.
#[derive(Default)]
struct Plan {
    changes: Vec<Change>,
    outlook: Outlook,
    /// Nodes that were described, each once.
    seen: Vec<Arc<Node>>,
}

impl Graph {
    /// What has to be done so that the nodes are as `specs` say, and how the graph looks then.
    pub(super) fn plan_all(&self, specs: &[BlockdevSpec]) -> Result<(Vec<Change>, Outlook), BlockError> {
        let mut plan = Plan::default();
        for spec in specs {
            let name = spec.node_name().ok_or_else(|| refuse("node-name not specified".to_owned()))?;
            let node = self.get(name).ok_or_else(|| refuse(format!("Failed to find node with node-name='{name}'")))?;
            // One that came with another node goes on taking from that one what is not said.
            let above = node.inherited();
            self.plan(&node, spec, above, &mut plan)?;
        }
        self.check_outlook(&plan.outlook)?;
        Ok((plan.changes, plan.outlook))
    }

    /// What has to be done for one node and those that came with it.
    fn plan(&self, node: &Arc<Node>, spec: &BlockdevSpec, above: Inherited, plan: &mut Plan) -> Result<(), BlockError> {
        if plan.seen.iter().any(|seen| Arc::ptr_eq(seen, node)) {
            return Ok(());
        }
        plan.seen.push(node.clone());
        let recipe = node.recipe();
        let Some(former) = &recipe.spec else {
            return Err(refuse(format!("node '{}' was made here and cannot be opened again", node.name)));
        };
        if spec.node_name().is_some_and(|name| name != node.name) {
            return Err(refuse("Cannot change the option 'node-name'".to_owned()));
        }
        let settings = Settings::of(spec, above)?;
        options::check(spec, former, node)?;
        match spec {
            BlockdevSpec::File(file) | BlockdevSpec::HostDevice(file) => {
                settings.file_options(file.aio, file.locking)?;
            }
            BlockdevSpec::Qcow2(spec) => self.plan_backing(node, &spec.backing, &settings, plan)?,
            BlockdevSpec::Throttle(spec) => {
                let group = self.throttle_group(&spec.throttle_group);
                let none = |_| refuse(format!("Throttle group '{}' does not exist", spec.throttle_group));
                plan.changes.push(Change::Limit(node.clone(), group.map_err(none)?));
            }
            _ => {}
        }
        let file = match spec.file() {
            Some(file) => self.plan_file(node, file, &settings, plan)?,
            None => None,
        };
        if let BlockdevSpec::Raw(raw) = spec {
            plan_window(node, raw, file.as_deref(), plan)?;
        }
        plan_writing(node, spec, &recipe.settings, &settings, plan)?;
        plan.changes.push(Change::Follow(node.clone(), Recipe::of(spec, &settings)));
        Ok(())
    }

    /// Gives back the file that `node` stands on then.
    fn plan_file(
        &self,
        node: &Arc<Node>,
        file: &NodeRef,
        settings: &Settings,
        plan: &mut Plan,
    ) -> Result<Option<Arc<Node>>, BlockError> {
        let Some(now) = node.child("file") else { return Ok(None) };
        match file {
            NodeRef::Inline(spec) => {
                self.plan_own(&now, spec, "file", settings.below(), plan)?;
                Ok(Some(now))
            }
            NodeRef::Name(name) => {
                let then = self.find(name)?;
                if Arc::ptr_eq(&now, &then) {
                    self.plan_as_it_was(&now, settings.below(), plan)?;
                    return Ok(Some(now));
                }
                if node.place.is_none() {
                    return Err(refuse("Cannot change the option 'file'".to_owned()));
                }
                if node.layer().driver() == "copy-on-read" {
                    CopyOnRead::check(then.layer().as_ref())?;
                }
                self.plan_standing(node, "file", Some(&then), plan)?;
                Ok(Some(then))
            }
        }
    }

    fn plan_backing(
        &self,
        node: &Arc<Node>,
        backing: &Backing,
        settings: &Settings,
        plan: &mut Plan,
    ) -> Result<(), BlockError> {
        let now = node.child("backing");
        let then = match (backing, &now) {
            (Backing::Header | Backing::Over(_), now) if now.is_some() || names_backing(node) => {
                return Err(refuse(format!("backing is missing for '{}'", node.name)));
            }
            (Backing::Header | Backing::Over(_) | Backing::None, _) => None,
            (Backing::Node(NodeRef::Name(name)), _) => Some(self.find(name)?),
            (Backing::Node(NodeRef::Inline(spec)), Some(now)) => {
                return self.plan_own(now, spec, "backing", settings.behind(), plan);
            }
            (Backing::Node(NodeRef::Inline(_)), None) => {
                return Err(refuse("Cannot change the option 'backing.driver'".to_owned()));
            }
        };
        if then.as_ref().map(Arc::as_ptr) == now.as_ref().map(Arc::as_ptr) {
            return then.map_or(Ok(()), |then| self.plan_as_it_was(&then, settings.behind(), plan));
        }
        self.plan_standing(node, "backing", then.as_ref(), plan)
    }

    /// A node that came with the one above, described again within that one.
    fn plan_own(
        &self,
        node: &Arc<Node>,
        spec: &BlockdevSpec,
        role: &str,
        above: Inherited,
        plan: &mut Plan,
    ) -> Result<(), BlockError> {
        if node.is_asked() {
            return Err(refuse(format!("Cannot change the option '{role}.driver'")));
        }
        self.plan(node, spec, above, plan)
    }

    /// A node that came with the one above takes over from that one what its own description does not say.
    fn plan_as_it_was(&self, node: &Arc<Node>, above: Inherited, plan: &mut Plan) -> Result<(), BlockError> {
        let recipe = node.recipe();
        let Some(spec) = recipe.spec.as_ref().filter(|_| !node.is_asked()) else { return Ok(()) };
        let backing = node.child("backing");
        let spec = spec.backed_by(backing.as_ref().map(|backing| backing.name()));
        self.plan(node, &spec, above, plan)
    }

    fn plan_standing(
        &self,
        node: &Arc<Node>,
        role: &'static str,
        then: Option<&Arc<Node>>,
        plan: &mut Plan,
    ) -> Result<(), BlockError> {
        node.check_idle()?;
        if let Some(then) = then {
            then.check_idle()?;
            if plan.outlook.stands_on(then, node) {
                let text = format!("Making '{}' a {role} child of '{}' would create a cycle", then.name, node.name);
                return Err(refuse(text));
            }
        }
        plan.outlook.put_child(node, role, then);
        plan.changes.push(Change::Stand(node.clone(), role, then.cloned()));
        Ok(())
    }
}

/// Whether `node` comes to be written to, or only read.
fn plan_writing(
    node: &Arc<Node>,
    spec: &BlockdevSpec,
    before: &Settings,
    settings: &Settings,
    plan: &mut Plan,
) -> Result<(), BlockError> {
    let read_only = settings.read_only;
    // Who never said it, and stays as it was, may have been made to by who put an overlay on it.
    let is_said = spec.common().read_only.is_some() || read_only != before.read_only;
    if is_said && read_only != node.is_read_only() {
        node.check_idle()?;
        plan.outlook.writes(node, !read_only);
        plan.changes.push(match read_only {
            true => Change::ReadOnly(node.clone()),
            false => Change::Write(node.clone(), settings.auto_read_only),
        });
    }
    Ok(())
}

fn plan_window(node: &Arc<Node>, raw: &spec::Raw, file: Option<&Node>, plan: &mut Plan) -> Result<(), BlockError> {
    let (Some(layer), Some(file)) = (node.layer().as_any().downcast_ref::<Raw>(), file) else { return Ok(()) };
    let window = Raw::fit(file.layer().size(), raw.offset.unwrap_or(0), raw.size)?;
    if window != layer.window() {
        plan.changes.push(Change::Show(node.clone(), window));
    }
    Ok(())
}

/// Whether the header names an image beneath, also where the node stands on none.
fn names_backing(node: &Node) -> bool {
    let image = node.layer().as_any().downcast_ref::<Qcow2>();
    image.is_some_and(|image| image.backing_name().0.is_some())
}

impl Node {
    /// What it takes over from the node that it came with.
    fn inherited(&self) -> Inherited {
        let of = self.known_above().into_iter().find_map(|above| {
            let role = above.children().into_iter().find(|(_, child)| std::ptr::eq(&**child, self))?.0;
            let settings = above.recipe().settings.clone();
            Some(if role == "backing" { settings.behind() } else { settings.below() })
        });
        of.filter(|_| !self.is_asked()).unwrap_or_default()
    }
}
