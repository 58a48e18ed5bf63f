//! The graph as it would be after a change, and whether all who stand on a node then go together.
//!
//! What is looked at is what the change can touch: the nodes that it names, all beneath them, and whoever stands on one of
//! those. Each is worked out once, from above, with a loop and no recursion; nodes know who stands on them. So a change in
//! a chain of n nodes costs n steps, and one beside a thousand other chains costs no more for those.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::super::{Child, Graph, Node};
use super::{Claim, Edge, Rights, check_pair, passed};
use crate::error::{BlockError, ErrorKind};
use crate::lock::Access;

/// What is to change.
#[derive(Default)]
pub(in crate::graph) struct Outlook {
    nodes: Vec<Arc<Node>>,
    added: Vec<(Arc<Node>, Edge)>,
    /// Whether a node is written to.
    writes: HashMap<*const Node, bool>,
    /// What a node stands on.
    children: HashMap<*const Node, Vec<Child>>,
}

impl Outlook {
    /// One more stands on `node`.
    pub(super) fn add(node: &Arc<Node>, edge: Edge) -> Self {
        Self { nodes: vec![node.clone()], added: vec![(node.clone(), edge)], ..Self::default() }
    }

    /// `node` comes to be written to, or only read.
    pub(in crate::graph) fn writes(&mut self, node: &Arc<Node>, writes: bool) {
        self.nodes.push(node.clone());
        self.writes.insert(Arc::as_ptr(node), writes);
    }

    /// `node` comes to stand on `child` in a role, or on nothing there.
    pub(in crate::graph) fn put_child(&mut self, node: &Arc<Node>, role: &'static str, child: Option<&Arc<Node>>) {
        self.nodes.push(node.clone());
        let mut children = self.children(node);
        children.retain(|(r, _)| *r != role);
        children.extend(child.map(|child| (role, child.clone())));
        self.children.insert(Arc::as_ptr(node), children);
    }

    fn children(&self, node: &Arc<Node>) -> Vec<Child> {
        self.children.get(&Arc::as_ptr(node)).cloned().unwrap_or_else(|| node.children())
    }

    /// Whether `node` is then at or beneath `top`, in whatever role.
    pub(in crate::graph) fn stands_on(&self, top: &Arc<Node>, node: &Arc<Node>) -> bool {
        self.at_and_beneath(vec![top.clone()]).iter().any(|found| Arc::ptr_eq(found, node))
    }

    /// These nodes and all beneath them, each once.
    fn at_and_beneath(&self, mut found: Vec<Arc<Node>>) -> Vec<Arc<Node>> {
        let mut known: HashSet<_> = found.iter().map(Arc::as_ptr).collect();
        let mut next = 0;
        while let Some(node) = found.get(next).cloned() {
            let children = self.children(&node).into_iter().map(|(_, child)| child);
            found.extend(children.filter(|child| known.insert(Arc::as_ptr(child))));
            next += 1;
        }
        found
    }
}

/// The graph as it is, or as it would be.
struct Look<'a> {
    graph: &'a Graph,
    outlook: &'a Outlook,
    /// What all on a node do together, as far as it has been worked out.
    joined: HashMap<*const Node, Claim>,
}

impl Look<'_> {
    /// The nodes on `node`, and what it is to each.
    fn above(&self, node: &Arc<Node>) -> Vec<Child> {
        let mut above = self.graph.above_all(node);
        for changed in &self.outlook.nodes {
            if !above.iter().any(|known| Arc::ptr_eq(known, changed)) {
                above.push(changed.clone());
            }
        }
        let mut roles = Vec::new();
        for parent in above {
            let children = self.outlook.children(&parent).into_iter();
            let on = children.filter(|(_, child)| Arc::ptr_eq(child, node));
            roles.extend(on.map(|(role, _)| (role, parent.clone())));
        }
        roles
    }

    /// All who stand on `node`; what the nodes on it do is worked out already.
    fn edges(&self, node: &Arc<Node>) -> Vec<Edge> {
        let users = node.users.lock().unwrap_or_else(PoisonError::into_inner);
        let mut edges: Vec<_> = users.iter().map(|user| Edge::of(user)).collect();
        drop(users);
        for (role, parent) in self.above(node) {
            let above = self.joined.get(&Arc::as_ptr(&parent)).copied().unwrap_or(Claim::NOTHING);
            let claim = passed(&parent, role, node, above, self.writes(&parent));
            edges.push(Edge { who: format!("node '{}'", parent.name), role, claim });
        }
        let added = self.outlook.added.iter().filter(|(to, _)| Arc::ptr_eq(to, node));
        edges.extend(added.map(|(_, edge)| edge.clone()));
        edges
    }

    /// Works out what is done with `node` and all above it.
    fn work_out(&mut self, node: &Arc<Node>) {
        let mut waiting = vec![node.clone()];
        while let Some(node) = waiting.last().cloned() {
            let is_open = |parent: &Arc<Node>| !self.joined.contains_key(&Arc::as_ptr(parent));
            let open: Vec<_> = self.above(&node).into_iter().map(|(_, parent)| parent).filter(is_open).collect();
            if open.is_empty() {
                let written = node.job_writes.load(Ordering::Acquire) > 0;
                let first = if written { Claim::ALONE } else { Claim::NOTHING };
                let claim = self.edges(&node).iter().fold(first, |all, edge| all.join(edge.claim));
                self.joined.insert(Arc::as_ptr(&node), claim);
                waiting.pop();
            } else {
                waiting.extend(open);
            }
        }
    }

    fn writes(&self, node: &Arc<Node>) -> bool {
        self.outlook.writes.get(&Arc::as_ptr(node)).copied().unwrap_or_else(|| !node.is_read_only())
    }
}

/// What other programs are told of a file with which those on it do `claim`.
fn access(claim: Claim) -> Access {
    let shares = claim.shares.and(Rights::WRITE) == Rights::WRITE && !claim.alone;
    let access = if claim.needs == Rights::NONE { Access::Read } else { Access::Write };
    if shares { access.shared() } else { access }
}

impl Node {
    /// Whether it is `node`, or has that anywhere beneath.
    #[must_use]
    pub fn stands_on(self: &Arc<Self>, node: &Arc<Self>) -> bool {
        Outlook::default().stands_on(self, node)
    }
}

impl Graph {
    /// The nodes of this graph that stand on `node`.
    fn above_all(&self, node: &Node) -> Vec<Arc<Node>> {
        let above = node.known_above();
        let nodes = self.lock();
        let is_here = |above: &Arc<Node>| nodes.get(&above.name).is_some_and(|known| Arc::ptr_eq(known, above));
        above.into_iter().filter(is_here).collect()
    }

    /// The same, each with what `node` is to it.
    pub(in crate::graph) fn on(&self, node: &Arc<Node>) -> Vec<Child> {
        Look { graph: self, outlook: &Outlook::default(), joined: HashMap::new() }.above(node)
    }

    /// Has other programs know how the files at `node` and beneath are used as of now: for when someone has left it, or
    /// come to it who could not be refused.
    pub fn lock_as_used(&self, node: &Arc<Node>) {
        self.lock_all_as_used(vec![node.clone()]);
    }

    /// The same of several nodes. A node that is forgotten uses nothing.
    pub(in crate::graph) fn lock_all_as_used(&self, nodes: Vec<Arc<Node>>) {
        for (node, access) in self.accesses(&Outlook::default(), nodes) {
            if let Some(Err(error)) = node.file().map(|file| file.relock(access)) {
                log::warn!("{error}");
            }
        }
    }

    /// Locks the files that `outlook` touches as those who then stand on them need it.
    ///
    /// # Errors
    /// Another program stands against it; all is then as it was.
    pub(super) fn lock_files(&self, outlook: &Outlook) -> Result<(), BlockError> {
        self.lock_to(outlook, |_, then| then)
    }

    /// The same, and as they are locked already: for as long as a change is under way.
    ///
    /// # Errors
    /// As of [`Graph::lock_files`].
    pub(in crate::graph) fn lock_files_also(&self, outlook: &Outlook) -> Result<(), BlockError> {
        self.lock_to(outlook, |now, then| now.map_or(then, |now| now.and(then)))
    }

    fn lock_to(&self, outlook: &Outlook, choose: impl Fn(Option<Access>, Access) -> Access) -> Result<(), BlockError> {
        let mut changed: Vec<(Arc<Node>, Access)> = Vec::new();
        for (node, then) in self.accesses(outlook, outlook.nodes.clone()) {
            let Some(file) = node.file() else { continue };
            let before = file.access();
            if let Err(error) = file.relock(choose(before, then)) {
                for (node, access) in changed {
                    // It was so before, and nobody else could come to stand against it.
                    let _ = node.relock(access);
                }
                return Err(error);
            }
            changed.extend(before.map(|before| (node, before)));
        }
        Ok(())
    }

    /// The files at `nodes` and beneath, and how those who stand on them by `outlook` need them locked.
    fn accesses(&self, outlook: &Outlook, nodes: Vec<Arc<Node>>) -> Vec<(Arc<Node>, Access)> {
        if !self.locks_by_use {
            return Vec::new();
        }
        let mut look = Look { graph: self, outlook, joined: HashMap::new() };
        let mut accesses = Vec::new();
        for node in outlook.at_and_beneath(nodes).into_iter().filter(|node| node.file().is_some()) {
            look.work_out(&node);
            let claim = look.joined.get(&Arc::as_ptr(&node)).copied().unwrap_or(Claim::NOTHING);
            accesses.push((node, access(claim)));
        }
        accesses
    }

    /// Refuses a change after which two would stand on one node who do not go together, or one be written to that is only
    /// read. What stands there already is not asked again.
    ///
    /// # Errors
    /// In QEMU's words, who stands against whom.
    pub(in crate::graph) fn check_outlook(&self, outlook: &Outlook) -> Result<(), BlockError> {
        let nothing = Outlook::default();
        let mut before = Look { graph: self, outlook: &nothing, joined: HashMap::new() };
        let mut after = Look { graph: self, outlook, joined: HashMap::new() };
        for node in outlook.at_and_beneath(outlook.nodes.clone()) {
            before.work_out(&node);
            after.work_out(&node);
            let (was, edges) = (before.edges(&node), after.edges(&node));
            let count = |edges: &[Edge], edge: &Edge| edges.iter().filter(|other| *other == edge).count();
            let is_new = |edge: &Edge| count(&edges, edge) > count(&was, edge);
            for (n, new) in edges.iter().enumerate().filter(|(_, edge)| is_new(edge)) {
                let others = edges.iter().enumerate().filter(|(other, _)| *other != n);
                others.into_iter().try_for_each(|(_, other)| check_pair(&node.name, new, other))?;
            }
            let write = |edge: &Edge| edge.claim.needs.and(Rights::WRITE) == Rights::WRITE;
            if outlook.writes.get(&Arc::as_ptr(&node)) == Some(&false) && edges.iter().any(write) {
                let text = format!("Read-only block node '{}' cannot support read-write users", node.name);
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
