//! Through which nodes an image is written to: a job must know all of them, or it would miss what a guest writes.

use std::collections::HashSet;
use std::sync::Arc;

use super::rework::EXPORT;
use super::{Child, Graph, Node};
use crate::error::BlockError;

impl Node {
    /// The nodes beneath it to which it writes what is written to it, each once: all but what an overlay stands on.
    fn written_through(&self) -> Vec<Arc<Self>> {
        let written = |(role, _): &Child| *role != "backing";
        let below = |node: &Self| node.children().into_iter().filter(written).map(|(_, node)| node);
        let mut found: Vec<Arc<Self>> = Vec::new();
        let mut known = HashSet::new();
        let mut waiting: Vec<_> = below(self).collect();
        while let Some(node) = waiting.pop() {
            if known.insert(Arc::as_ptr(&node)) {
                waiting.extend(below(&node));
                found.push(node);
            }
        }
        found
    }

    /// The node beneath that shows the same bytes at the same places: what a filter passes on, or a raw node all of.
    #[must_use]
    pub fn same_beneath(&self) -> Option<Arc<Self>> {
        let whole = |file: &Arc<Self>| self.layer().driver() == "raw" && self.layer().size() == file.layer().size();
        self.filtered().or_else(|| self.child("file").filter(whole))
    }

    /// Itself, and what shows the same bytes beneath it.
    pub fn same_from(self: &Arc<Self>) -> impl Iterator<Item = Arc<Self>> + use<> {
        std::iter::successors(Some(self.clone()), |node| node.same_beneath())
    }

    /// Refuses what would write to a node beneath that a job has in hand, past whatever the job has above it.
    ///
    /// # Errors
    /// A job has one.
    pub(super) fn check_idle_beneath(&self) -> Result<(), BlockError> {
        let below = self.written_through().into_iter();
        below.filter(|node| node.job() != Some(EXPORT)).try_for_each(|node| node.check_idle())
    }
}

impl Graph {
    /// Refuses what would write to `node`, which no job has, past a job that has a node beneath or above in hand.
    ///
    /// # Errors
    /// A job has one.
    pub fn check_idle_around(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        node.check_idle_beneath()?;
        let busy = self.nodes().into_iter().filter(|above| above.job().is_some_and(|job| job != EXPORT));
        let mut through = busy.filter(|above| above.written_through().iter().any(|below| Arc::ptr_eq(below, node)));
        through.try_for_each(|above| above.check_idle())
    }

    /// The nodes that devices, clients and jobs write to and that so change what `node` shows: itself, nodes on
    /// top of it, beneath it, or beside it on the same bytes. What its backing chain holds is not meant.
    #[must_use]
    pub fn writers_of(&self, node: &Arc<Node>) -> Vec<Arc<Node>> {
        let beneath = node.written_through();
        let same: Vec<_> = node.same_from().collect();
        let is_in = |nodes: &[Arc<Node>], node: &Arc<Node>| nodes.iter().any(|other| Arc::ptr_eq(other, node));
        let changes = |writer: &Arc<Node>| {
            is_in(&beneath, writer)
                || is_in(&same, writer)
                || writer.written_through().iter().any(|below| is_in(&same, below))
        };
        self.nodes().into_iter().filter(|writer| writer.has_writing_user() && changes(writer)).collect()
    }

    /// The same without `node` itself.
    pub fn other_writers_of(&self, node: &Arc<Node>) -> impl Iterator<Item = Arc<Node>> {
        self.writers_of(node).into_iter().filter(|writer| !Arc::ptr_eq(writer, node))
    }

    /// Refuses a job on `node` that holds its devices still, where others change what it shows by way of another node.
    ///
    /// # Errors
    /// Clients or another job do.
    pub fn check_writers(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        self.other_writers_of(node).try_for_each(|writer| writer.check_idle())
    }
}

#[cfg(test)]
mod tests;
