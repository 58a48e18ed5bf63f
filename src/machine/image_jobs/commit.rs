//! `block-commit`: what overlays hold goes into what lies beneath them.

use std::sync::Arc;

use rhea_block::graph::{JobNode, Node, Opened};
use rhea_block::job::Copying;

use super::{by_file, check_one, failed, no_such_file};
use crate::machine::Machine;
use crate::machine::jobs::{Closing, Order};
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::Commit;

impl Machine {
    /// `block-commit`.
    pub(in crate::machine) fn commit(&mut self, args: &Commit) -> Answer {
        let root = self.node_of(&args.job.device).map_err(|_| QmpError::device_not_found(&args.job.device))?;
        let (top, base) = self.ends_of_commit(&root, args)?;
        let active = Arc::ptr_eq(&top, &root);
        if active && args.backing_file.is_some() {
            return Err(QmpError::generic("'backing-file' specified, but 'top' is the active layer"));
        }
        let whole: Vec<_> = std::iter::once(root.clone()).chain(root.beneath()).collect();
        let above = whole.iter().find(|node| node.child("backing").is_some_and(|below| Arc::ptr_eq(&below, &top)));
        let above = above.filter(|_| !active).cloned();
        let nodes = whole.into_iter().take_while(|node| !Arc::ptr_eq(node, &base)).chain([base.clone()]).collect();
        let graph = &self.host.graph;
        let held = graph.hold_for_job(nodes, "commit").map_err(|error| failed(&error))?;
        if active {
            self.check_root(&root)?;
        }
        let id = self.id_of_job(&args.job, &root)?;
        let driver = if active { "mirror_top" } else { "commit_top" };
        let shown = JobNode { job: "commit", driver, role: "backing", name: args.filter_node_name.as_deref() };
        let shown = self.add_top(shown, &top)?;
        let still = self.hold_above(&root);
        let opened = self.host.graph.open_for_writing(&base).map_err(|error| failed(&error))?;
        drop(still);
        let commit = Copying::commit(top.clone(), base.clone(), active).map_err(|error| failed(&error))?;
        let order = Order::on_nodes("commit", &id, held).with(&args.job);
        let order = Order { top: Some(shown), ..order.on_errors(args.on_error, args.on_error) };
        match above {
            Some(above) => self.start_commit(order, commit, above, (base, opened), args.backing_file.clone()),
            None => self.start_copy(order, commit, top, (base, Some(opened))),
        }?;
        done()
    }

    /// What a commit is of, and what it goes into.
    fn ends_of_commit(&self, root: &Arc<Node>, args: &Commit) -> Result<(Arc<Node>, Arc<Node>), QmpError> {
        let exclude = "are mutually exclusive";
        check_one(("top-node", args.top_node.is_some()), ("top", args.top.is_some()), exclude)?;
        check_one(("base-node", args.base_node.is_some()), ("base", args.base.is_some()), exclude)?;
        let top = match (&args.top_node, &args.top) {
            (Some(name), _) => self.chain_member(root, name)?,
            (_, Some(file)) => {
                by_file(root, file).ok_or_else(|| QmpError::generic(format!("Top image file {file} not found")))?
            }
            _ => root.clone(),
        };
        let base = match (&args.base_node, &args.base) {
            (Some(name), _) => self.chain_member(root, name)?,
            (_, Some(file)) => {
                let found = by_file(&top, file).filter(|base| !Arc::ptr_eq(base, &top));
                found.ok_or_else(|| no_such_file(file))?
            }
            // Never a filter.
            _ => root.shown_by().filter(|node| node.filtered().is_none()).last().unwrap_or_else(|| root.clone()),
        };
        if Arc::ptr_eq(&top, &base) {
            return Err(QmpError::generic("cannot commit an image into itself"));
        }
        Ok((top, base))
    }

    /// Of images that nobody writes to: the one above them is put onto the base.
    fn start_commit(
        &mut self,
        order: Order,
        commit: Copying,
        above: Arc<Node>,
        (base, opened): (Arc<Node>, Opened),
        name: Option<String>,
    ) -> Result<(), QmpError> {
        let finish = move |machine: &mut Self, closing| {
            let changed = match closing {
                Closing::Done => machine.rebase(&above, Some(&base), name),
                Closing::Undone => Ok(()),
            };
            drop(opened);
            changed
        };
        self.start_job(order, move |control| commit.run(control), Box::new(finish))
    }
}
