//! `block-stream`: an overlay takes in what lies beneath it.

use std::sync::Arc;

use rhea_block::graph::Node;
use rhea_block::job::Stream;

use super::{by_file, check_one, failed, no_such_file};
use crate::machine::Machine;
use crate::machine::jobs::{Closing, Order};
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args;

impl Machine {
    /// `block-stream`.
    pub(in crate::machine) fn stream(&mut self, args: &args::Stream) -> Answer {
        let top = self.node_of(&args.device)?;
        let base = self.base_of_stream(&top, args)?;
        if base.is_none() && args.backing_file.is_some() {
            return Err(QmpError::generic("backing file specified, but streaming the entire chain"));
        }
        let between = top.beneath().take_while(|node| base.as_ref().is_none_or(|base| !Arc::ptr_eq(node, base)));
        let nodes = std::iter::once(top.clone()).chain(between).chain(base.clone()).collect();
        let held = self.host.graph.hold_for_job(nodes, "stream").map_err(|error| failed(&error))?;
        let opened = self.open_for_stream(&top)?;
        let stream = Stream::new(top.clone(), base.clone(), self.disk_of(&top)).map_err(|error| {
            self.close_after_stream(&top, opened);
            failed(&error)
        })?;
        let (name, written) = (args.backing_file.clone(), top.clone());
        let order = Order::on_nodes("stream", args.job_id.as_ref().unwrap_or(&args.device), held).with(
            args.speed,
            args.auto_finalize,
            args.auto_dismiss,
        );
        let order = order.on_errors(args.on_error, args.on_error);
        let finish = move |machine: &mut Self, closing| {
            let changed = match closing {
                Closing::Done => machine.rebase(&top, base.as_ref(), name),
                Closing::Undone => Ok(()),
            };
            machine.close_after_stream(&top, opened);
            changed
        };
        let started = self.start_job(order, move |control| stream.run(control), Box::new(finish));
        started.inspect_err(|_| self.close_after_stream(&written, opened))?;
        done()
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

    /// An image in the middle of a chain is only read: it is opened again for what it takes in. Says whether it was.
    fn open_for_stream(&self, top: &Arc<Node>) -> Result<bool, QmpError> {
        let disks = self.facts.disks.iter().filter_map(|disk| self.host.disk(&disk.id).attached);
        let in_the_middle = disks.into_iter().any(|disk| disk.node().beneath().any(|node| Arc::ptr_eq(&node, top)));
        if !in_the_middle || !top.is_read_only() {
            return Ok(false);
        }
        let _still = self.hold_above(top.name());
        self.host.graph.open_base(top).map_err(|error| {
            self.host.graph.close_base(top);
            failed(&error)
        })?;
        Ok(true)
    }

    fn close_after_stream(&self, top: &Arc<Node>, opened: bool) {
        if opened {
            self.host.graph.close_base(top);
        }
    }
}
