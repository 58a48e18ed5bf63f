//! `block-stream`: an overlay takes in what lies beneath it.

use std::sync::Arc;

use rhea_block::Disk;
use rhea_block::graph::{JobNode, Node, Opened};
use rhea_block::job::Stream;

use super::{by_file, check_one, could_not_create, failed, no_such_file};
use crate::machine::Machine;
use crate::machine::jobs::{Closing, Order};
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args;

impl Machine {
    /// `block-stream`.
    pub(in crate::machine) fn stream(&mut self, args: &args::Stream) -> Answer {
        let top = self.node_of(&args.job.device)?;
        let base = self.base_of_stream(&top, args)?;
        if base.is_none() && args.backing_file.is_some() {
            return Err(QmpError::generic("backing file specified, but streaming the entire chain"));
        }
        let between = top.beneath().take_while(|node| base.as_ref().is_none_or(|base| !Arc::ptr_eq(node, base)));
        let nodes = std::iter::once(top.clone()).chain(between).chain(base.clone()).collect();
        let held = self.host.graph.hold_for_job(nodes, "stream").map_err(|error| failed(&error))?;
        let id = self.id_of_job(&args.job, &top)?;
        let opened = self.open_for_stream(&top)?;
        let disks = self.disks_writing(&top)?;
        let stream = Stream::new(top.clone(), base.clone(), disks).map_err(|error| failed(&error))?;
        let shown =
            JobNode { job: "stream", driver: "copy-on-read", role: "file", name: args.filter_node_name.as_deref() };
        let shown = self.add_top(shown, &top).map_err(|error| could_not_create(&error))?;
        let name = args.backing_file.clone();
        let order = Order::on_nodes("stream", &id, held).with(&args.job);
        let order = Order { top: Some(shown), ..order.on_errors(args.on_error, args.on_error) };
        let finish = move |machine: &mut Self, closing| {
            let changed = match closing {
                Closing::Done => machine.rebase(&top, base.as_ref(), name),
                Closing::Undone => Ok(()),
            };
            drop(opened);
            changed
        };
        self.start_job(order, move |control| stream.run(control), Box::new(finish))?;
        done()
    }

    /// The disks of all devices that write to `top`, through whichever node.
    fn disks_writing(&self, top: &Arc<Node>) -> Result<Vec<Disk>, QmpError> {
        let graph = &self.host.graph;
        graph.check_writers(top).map_err(|error| failed(&error))?;
        Ok(graph.other_writers_of(top).chain([top.clone()]).flat_map(|node| self.disks_of(&node)).collect())
    }

    /// What stays beneath `top`.
    fn base_of_stream(&self, top: &Arc<Node>, args: &args::Stream) -> Result<Option<Arc<Node>>, QmpError> {
        let [base, base_node, bottom] =
            [("base", &args.base), ("base-node", &args.base_node), ("bottom", &args.bottom)]
                .map(|(n, v)| (n, v.is_some()));
        for (one, other) in [(base, base_node), (base, bottom), (bottom, base_node)] {
            check_one(one, other, "cannot be specified at the same time")?;
        }
        if let Some(file) = &args.base {
            return by_file(top, file).map(Some).ok_or_else(|| no_such_file(file));
        }
        if let Some(bottom) = &args.bottom {
            return Ok(self.chain_member(top, bottom)?.child("backing"));
        }
        args.base_node.as_ref().map(|base| self.node(base)).transpose()
    }

    /// An image in the middle of a chain is only read: it is opened again for what it takes in.
    fn open_for_stream(&self, top: &Arc<Node>) -> Result<Option<Opened>, QmpError> {
        let fronts = self.hold_above(top);
        let in_the_middle = !fronts.is_empty() && self.host.graph.above(top, "backing").is_some();
        if !in_the_middle || !top.is_read_only() {
            return Ok(None);
        }
        self.host.graph.open_for_writing(top).map(Some).map_err(|error| failed(&error))
    }
}
