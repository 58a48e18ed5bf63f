//! Who stands on whom, changed by a job: nodes in its hands, and another backing node for an image.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::permission::{Rights, Use, User};
use super::{Attached, Graph, Node};
use crate::disk::Drained;
use crate::error::{BlockError, ErrorKind};
use crate::format::qcow2::Qcow2;
use crate::lock::Access;

/// What has a node in hand that clients write to, past whatever a job would put above it.
pub const EXPORT: &str = "export";

/// Nodes in the hands of a job, until it is dropped.
pub struct Held {
    nodes: Vec<Arc<Node>>,
    /// What the job copies from, and the one that it writes to and nobody else uses.
    uses: Vec<Use>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for node in &self.nodes {
            *node.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.uses.clear();
    }
}

/// A node that a job writes to though it lies beneath others. Dropped, it is only read again if it was before, and other
/// programs know of it.
pub struct Opened {
    graph: Arc<Graph>,
    node: Option<Arc<Node>>,
    was_read_only: bool,
}

impl Opened {
    /// It stays open: whoever has the node from now on writes to it.
    pub fn keep(mut self) {
        if let Some(node) = self.node.take() {
            node.job_writes.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let Some(node) = &self.node else { return };
        node.job_writes.fetch_sub(1, Ordering::AcqRel);
        if self.was_read_only {
            node.close_for_writing();
        } else if let Err(error) = node.layer().flush() {
            log::warn!("{}: {error}", node.filename().display());
        }
        self.graph.lock_as_used(node);
    }
}

impl Node {
    /// Has its image read what it does not hold from `base`, if it is one that can.
    pub(super) fn set_backing(&self, base: Option<&Arc<Self>>) {
        if let Some(image) = self.layer().as_any().downcast_ref::<Qcow2>() {
            image.set_backing(base.map(|base| base.layer().clone()));
        }
    }

    /// Puts it onto `base`, or onto nothing; gives back what it stood on, if that is another.
    pub(super) fn stand_on(self: &Arc<Self>, base: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        self.set_backing(base);
        let former = self.put_child("backing", base);
        former.filter(|former| base.is_none_or(|base| !Arc::ptr_eq(base, former)))
    }

    /// Nothing is written to it any more.
    pub(super) fn close_for_writing(&self) {
        self.kept.store(true, Ordering::Release);
        let closed = self.layer().flush().and_then(|()| self.layer().close()).and_then(|()| self.relock(Access::Read));
        if let Err(error) = closed {
            log::warn!("{}: {error}", self.filename().display());
        }
    }

    /// The kind of job that has it in hand.
    #[must_use]
    pub fn job(&self) -> Option<&'static str> {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a change while a job has the node in hand.
    ///
    /// # Errors
    /// It has.
    pub fn check_idle(&self) -> Result<(), BlockError> {
        let Some(job) = self.job() else { return Ok(()) };
        let user = if job == EXPORT { "an export that clients write to".into() } else { format!("block job: {job}") };
        let text = format!("Node '{}' is busy: block device is in use by {user}", self.name);
        Err(BlockError::new(ErrorKind::Invalid, text))
    }
}

impl Graph {
    /// Refuses a node that someone uses: whoever makes an image in it would take it from under them.
    ///
    /// # Errors
    /// A front end, a client or a node above has it; a drive that waits for a front end lets others have it.
    pub fn check_unused(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        if super::is_written(&self.lock(), node) {
            return Err(BlockError::new(ErrorKind::Invalid, format!("Block device {} is in use", node.name)));
        }
        Ok(())
    }

    /// Puts `nodes` into the hands of a job of the kind `job`.
    ///
    /// # Errors
    /// When another job has one of them.
    pub fn hold_for_job(&self, nodes: Vec<Arc<Node>>, job: &'static str) -> Result<Held, BlockError> {
        nodes.iter().try_for_each(|node| node.check_idle())?;
        for node in &nodes {
            *node.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        }
        Ok(Held { nodes, uses: Vec::new() })
    }

    /// The same, with `sources` to be copied from, which keep their size, and `target` to be written to.
    ///
    /// # Errors
    /// When another job has one of them or what lies beneath the target, or someone on one of them, or beneath, stands
    /// against that.
    pub fn hold_with_target(
        self: &Arc<Self>,
        sources: &[Arc<Node>],
        target: &Arc<Node>,
        job: &'static str,
    ) -> Result<Held, BlockError> {
        self.check_unused(target)?;
        target.check_idle_beneath()?;
        let nodes = sources.iter().chain([target]).cloned().collect();
        let mut held = self.hold_for_job(nodes, job)?;
        for source in sources {
            held.uses.push(self.take(source, User::copier(job))?);
        }
        held.uses.push(self.take(target, User::job(job))?);
        Ok(held)
    }

    /// Refuses that a command writes to `node`; what it did, [`Graph::lock_as_used`] ends.
    ///
    /// # Errors
    /// Someone uses it, another program too, or stands on what lies beneath and does not allow that.
    pub fn check_write(&self, node: &Arc<Node>, command: &str) -> Result<(), BlockError> {
        self.check_unused(node)?;
        node.check_idle()?;
        node.check_idle_beneath()?;
        let user = User::command(command, Rights::WRITE);
        self.check_user(node, &user)?;
        self.lock_for(node, &user)
    }

    /// Puts `top`, whose front end is held still, onto `base`, which shows the same where `top` holds nothing, and
    /// writes so into its header. Nodes between that nobody named are forgotten.
    ///
    /// # Errors
    /// When `top` is no overlay, or its header could not be written: then nothing has changed.
    pub fn rebase(
        &self,
        top: &Arc<Node>,
        base: Option<&Arc<Node>>,
        name: Option<(&str, Option<&str>)>,
    ) -> Result<(), BlockError> {
        overlay(top)?.set_backing_name(name)?;
        self.stand(top, base);
        Ok(())
    }

    /// Writes other names, of a file and its format, into the header of `top`, which stays on what it is on.
    ///
    /// # Errors
    /// As [`Graph::rebase`].
    pub fn rename_backing(&self, top: &Node, name: Option<(&str, Option<&str>)>) -> Result<(), BlockError> {
        overlay(top)?.set_backing_name(name)
    }

    /// Puts `top` onto `base`, or onto nothing.
    pub(super) fn stand(&self, top: &Arc<Node>, base: Option<&Arc<Node>>) {
        if let Some(former) = top.stand_on(base) {
            self.let_go_of(&former);
        }
    }

    /// Lets a job write to `node`, which lies beneath a front end that is held still, until what this gives is dropped.
    ///
    /// # Errors
    /// When the host does not let us, or another program reads it and does not expect that: then it is as it was.
    pub fn open_for_writing(self: &Arc<Self>, node: &Arc<Node>) -> Result<Opened, BlockError> {
        node.check_unwritten("a job that writes beneath")?;
        node.check_idle_beneath()?;
        self.check_writing(node)?;
        self.open_checked(node)
    }

    /// The same, where nobody minds.
    pub(super) fn open_checked(self: &Arc<Self>, node: &Arc<Node>) -> Result<Opened, BlockError> {
        let opened = Opened { graph: self.clone(), node: Some(node.clone()), was_read_only: node.is_read_only() };
        node.job_writes.fetch_add(1, Ordering::AcqRel);
        self.make_writable(node)?;
        node.relock(Access::Write)?;
        node.kept.store(false, Ordering::Release);
        Ok(opened)
    }

    /// The front ends that had `source` go on with `target`, which shows the same. `source` is forgotten, with what is
    /// beneath it, as far as nobody named or needs it; where `target` stands on it, it is only read from then on.
    pub fn pivot(&self, source: &Arc<Node>, target: &Arc<Node>, fronts: &[(&Attached, &Drained)]) {
        for (front, held) in fronts {
            held.swap(target.layer().clone());
            front.move_to(target);
        }
        let is_beneath = source.beneath().any(|node| Arc::ptr_eq(&node, target));
        if is_beneath {
            // What is written to the target from now on is not this image's.
            self.stand(source, None);
        }
        if target.beneath().any(|node| Arc::ptr_eq(&node, source)) {
            source.close_for_writing();
        }
        self.lock_as_used(target);
        self.let_go_of(source);
    }
}

fn overlay(node: &Node) -> Result<&Qcow2, BlockError> {
    node.layer().as_any().downcast_ref().ok_or_else(|| {
        BlockError::new(ErrorKind::Invalid, format!("node '{}' does not keep what lies beneath", node.name))
    })
}
