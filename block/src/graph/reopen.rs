//! Opening a node again: for writing, because a job writes to what lies beneath, or as `blockdev-reopen` says.
//!
//! What can be changed in place is: how files and metadata are cached, rules for discards, who stands on whom. Only for
//! writing a layer is opened anew, once: the former one stays open until the node goes, for readers may be in it, and
//! what is above is put onto the new one.

use std::sync::{Arc, PoisonError};

use super::open::Settings;
use super::rework::Opened;
use super::{Graph, Node};
use crate::error::{BlockError, ErrorKind};
use crate::filter::policy::Policy;
use crate::filter::throttle::Throttle;
use crate::format::qcow2::{PassDiscards, Qcow2, Tuning};
use crate::format::raw::{Raw, Window};
use crate::layer::Layer;
use crate::protocol::file::{HostFile, Ways};
use crate::spec::{self, BlockdevSpec, Cache};
use crate::throttle::Group;

mod options;
mod plan;

/// How a node is open.
pub(super) struct Recipe {
    /// Nothing for what nobody described.
    spec: Option<BlockdevSpec>,
    pub(super) settings: Settings,
}

impl Recipe {
    /// Of a node that is as `spec` describes it.
    pub(super) fn of(spec: &BlockdevSpec, settings: &Settings) -> Arc<Self> {
        Arc::new(Self { spec: Some(spec.clone()), settings: settings.clone() })
    }

    /// Of a node that nobody described.
    pub(super) fn made_here(settings: &Settings) -> Arc<Self> {
        Arc::new(Self { spec: None, settings: settings.clone() })
    }

    /// How an image caches and checks, if it is one.
    fn tuning(&self) -> Option<Tuning> {
        match &self.spec {
            Some(BlockdevSpec::Qcow2(spec)) => Some(spec.tuning()),
            _ => None,
        }
    }

    /// How the host caches.
    pub(super) fn cache(&self) -> Cache {
        Cache { direct: Some(self.settings.direct), no_flush: Some(self.settings.no_flush) }
    }
}

/// What becomes of a node.
enum Change {
    /// It is written to from now on, or not, if the host does not let us and that is all the same.
    Write(Arc<Node>, bool),
    /// It stands on another node in a role, or on none.
    Stand(Arc<Node>, &'static str, Option<Arc<Node>>),
    /// Another group limits it.
    Limit(Arc<Node>, Arc<Group>),
    /// It is only read from now on.
    ReadOnly(Arc<Node>),
    /// It shows another part of its file.
    Show(Arc<Node>, Window),
    /// It has another recipe; what this says of caches, discards and zeroes is done.
    Follow(Arc<Node>, Arc<Recipe>),
}

impl Change {
    fn node(&self) -> &Arc<Node> {
        match self {
            Self::Write(node, _)
            | Self::Stand(node, ..)
            | Self::Limit(node, _)
            | Self::ReadOnly(node)
            | Self::Show(node, _)
            | Self::Follow(node, _) => node,
        }
    }
}

/// Undoes what was done of a change.
type TakeBack = Box<dyn FnOnce() -> Result<(), BlockError>>;

/// Does what can fail of a [`Change::Follow`]: how the host caches a file, and how an image caches and checks.
fn try_to_follow(node: &Arc<Node>, recipe: &Recipe) -> Result<Option<TakeBack>, BlockError> {
    let layer = node.layer().clone();
    if let Some(file) = layer.as_any().downcast_ref::<HostFile>() {
        let Settings { direct, no_flush, discard, .. } = recipe.settings;
        let former = file.set_ways(Ways { direct, no_flush, discard })?;
        return Ok(Some(Box::new(move || {
            let file = layer.as_any().downcast_ref::<HostFile>();
            file.map_or(Ok(()), |file| file.set_ways(former).map(drop))
        })));
    }
    if let Some(image) = layer.as_any().downcast_ref::<Qcow2>()
        && let (Some(then), Some(former)) = (recipe.tuning(), node.recipe().tuning())
        && then != former
    {
        image.retune(&then)?;
        return Ok(Some(Box::new(move || {
            let image = layer.as_any().downcast_ref::<Qcow2>();
            image.map_or(Ok(()), |image| image.retune(&former))
        })));
    }
    Ok(None)
}

fn refuse(text: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, text)
}

impl Graph {
    /// Opens `node` and what it needs for writing, unless it is; the front end of the chain is held still. What stands on
    /// it is put onto the new layer.
    ///
    /// # Errors
    /// When the host or another program does not let us, or it is of a kind that is only read.
    pub(super) fn make_writable(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        if !node.layer().limits().read_only {
            return Ok(());
        }
        let layer = self.again(node)?;
        let layer = Policy::over(layer, node.rules.clone(), false);
        if layer.limits().read_only || node.reopened.set(layer).is_err() {
            return Err(unwritable(node));
        }
        for (role, above) in self.on(node) {
            match role {
                "file" => above.place.iter().for_each(|place| place.move_to(node.layer().clone())),
                "backing" => above.set_backing(Some(node)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Has the nodes that `specs` name be as they say, all of them or none: written to or only read, cached in another way,
    /// with other rules for discards, zeroes and metadata, on another node or none, in another throttle group, showing another part
    /// of its file. All else has to be as it was opened. The front ends above are held still.
    ///
    /// # Errors
    /// When there is no such node, something else would change, a node would come to stand on itself, two would come to
    /// stand on one node who do not go together, or the host or another program does not let us.
    pub fn reopen(self: &Arc<Self>, specs: &[BlockdevSpec]) -> Result<(), BlockError> {
        let (changes, mut outlook) = self.plan_all(specs)?;
        // What can fail goes first, and is taken back.
        let (mut opened, mut taken_back) = (Vec::<Opened>::new(), Vec::<TakeBack>::new());
        let tried = changes.iter().try_for_each(|change| match change {
            Change::Write(node, may_stay) => match self.open_checked(node) {
                Ok(open) => {
                    opened.push(open);
                    Ok(())
                }
                Err(error) if *may_stay && error.kind() == ErrorKind::Permission => {
                    outlook.writes(node, false);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Change::Follow(node, recipe) => {
                taken_back.extend(try_to_follow(node, recipe)?);
                Ok(())
            }
            _ => Ok(()),
        });
        // Last, for it takes itself back.
        if let Err(error) = tried.and_then(|()| self.lock_files_also(&outlook)) {
            for take_back in taken_back.into_iter().rev() {
                if let Err(error) = take_back() {
                    log::warn!("a change that is taken back: {error}");
                }
            }
            return Err(error);
        }
        opened.into_iter().for_each(Opened::keep);
        let changed: Vec<_> = changes.iter().map(|change| change.node().clone()).collect();
        // What one left another may have come to stand on.
        let left: Vec<_> = changes.into_iter().filter_map(|change| self.follow(change)).collect();
        self.lock_all_as_used(changed);
        left.iter().for_each(|node| self.let_go_of(node));
        Ok(())
    }

    /// Does what cannot fail of a change. Gives back a node that another no longer stands on.
    fn follow(&self, change: Change) -> Option<Arc<Node>> {
        match change {
            Change::Write(..) => {}
            Change::Stand(node, "file", Some(file)) => return self.stand_on_file(&node, &file),
            Change::Stand(node, _, base) => return node.stand_on(base.as_ref()),
            Change::Limit(node, group) => {
                if let Some(throttle) = node.layer().as_any().downcast_ref::<Throttle>() {
                    throttle.set_group(&group);
                }
            }
            Change::ReadOnly(node) => node.close_for_writing(),
            Change::Show(node, window) => {
                if let Some(raw) = node.layer().as_any().downcast_ref::<Raw>() {
                    raw.set_window(window);
                }
            }
            Change::Follow(node, recipe) => {
                let settings = &recipe.settings;
                node.rules.set(settings.discard, settings.detect_zeroes);
                if let (Some(image), Some(BlockdevSpec::Qcow2(spec))) =
                    (node.layer().as_any().downcast_ref::<Qcow2>(), &recipe.spec)
                {
                    image.pass_discards(pass_discards(spec, settings));
                }
                *node.recipe.write().unwrap_or_else(PoisonError::into_inner) = recipe;
            }
        }
        None
    }

    /// Puts `node` onto another `file`; gives back the former one.
    fn stand_on_file(&self, node: &Arc<Node>, file: &Arc<Node>) -> Option<Arc<Node>> {
        let go = || node.place.iter().for_each(|place| place.move_to(file.layer().clone()));
        let written = match node.layer().as_any().downcast_ref::<Qcow2>() {
            Some(image) => image.change_file(go),
            None => {
                let written = if node.is_read_only() { Ok(()) } else { node.layer().flush() };
                go();
                written
            }
        };
        if let Err(error) = written {
            log::warn!("{}: {error}", node.filename().display());
        }
        let former = node.put_child("file", Some(file));
        self.rename(node, &file.filename());
        former
    }

    /// `node`, and what shows it as its own, are known by another path.
    fn rename(&self, node: &Arc<Node>, path: &Arc<std::path::Path>) {
        let mut renamed = vec![node.clone()];
        while let Some(node) = renamed.pop() {
            *node.filename.write().unwrap_or_else(PoisonError::into_inner) = path.clone();
            let above = self.on(&node).into_iter().filter(|(role, _)| matches!(*role, "file" | "image"));
            renamed.extend(above.map(|(_, above)| above));
        }
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
        below("file")?.ok_or_else(|| unwritable(node))?;
        let Some(place) = node.place.clone() else { return Err(unwritable(node)) };
        if let Some(raw) = layer.downcast_ref::<Raw>() {
            return Ok(Arc::new(raw.again(place)?));
        }
        let recipe = node.recipe();
        let Some(BlockdevSpec::Qcow2(spec)) = &recipe.spec else { return Err(unwritable(node)) };
        let settings = Settings { read_only: false, ..recipe.settings.clone() };
        let data = below("data-file")?;
        let image = self.open_image(spec, &settings, place, data.as_ref())?;
        image.set_backing(node.child("backing").map(|backing| backing.layer().clone()));
        let image: Arc<dyn Layer> = image;
        self.watch(&node.name, &image);
        Ok(image)
    }
}

fn pass_discards(spec: &spec::Qcow2, settings: &Settings) -> PassDiscards {
    PassDiscards {
        enabled: settings.discard,
        request: spec.pass_discard_request,
        snapshot: spec.pass_discard_snapshot,
        other: spec.pass_discard_other.unwrap_or(false),
    }
}

fn unwritable(node: &Node) -> BlockError {
    let text = format!("node '{}' (driver {}) can only be read", node.name, node.layer().driver());
    BlockError::new(ErrorKind::Permission, text)
}

#[cfg(test)]
mod tests;
