//! `blockdev-mirror`, and the end that it has in common with a commit of the image on top: the device goes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rhea_block::graph::Node;
use rhea_block::job::{Control, Copying, End, Extent};

use super::failed;
use crate::machine::Machine;
use crate::machine::event::MachineEvent;
use crate::machine::jobs::{Closing, Order};
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{Mirror, MirrorSyncMode};

/// Refuses what QEMU refuses of options that mean nothing here: pieces and buffers are as large as what is found.
fn check_mirror(args: &Mirror) -> Result<(), QmpError> {
    if args.granularity.is_some_and(|bytes| bytes != 0 && !(512..=64 << 20).contains(&bytes)) {
        return Err(QmpError::expects("granularity", "a value in range [512B, 64MB]"));
    }
    if args.granularity.is_some_and(|bytes| bytes != 0 && !bytes.is_power_of_two()) {
        return Err(QmpError::expects("granularity", "a power of 2"));
    }
    Ok(())
}

impl Machine {
    /// `blockdev-mirror`.
    pub(in crate::machine) fn mirror(&mut self, args: &Mirror) -> Answer {
        check_mirror(args)?;
        let (source, target) = (self.node_of(&args.device)?, self.node_of(&args.target)?);
        if Arc::ptr_eq(&source, &target) {
            return Err(QmpError::generic("Can't mirror node into itself"));
        }
        let extent = match args.sync {
            MirrorSyncMode::Full => Extent::Whole,
            MirrorSyncMode::Top => Extent::Top,
            MirrorSyncMode::None => Extent::Later,
        };
        let graph = &self.host.graph;
        graph.check_unused(&target).map_err(|error| failed(&error))?;
        let copy = Copying::mirror_to(source.clone(), target.clone(), extent).map_err(|error| failed(&error))?;
        let nodes = vec![source.clone(), target.clone()];
        let held = graph.hold_for_job(nodes, "mirror").map_err(|error| failed(&error))?;
        let order = Order::on_nodes("mirror", args.job_id.as_ref().unwrap_or(&args.device), held).with(
            args.speed,
            args.auto_finalize,
            args.auto_dismiss,
        );
        let order = order.on_errors(args.on_source_error, args.on_target_error);
        self.start_copy(order, copy, source, target)?;
        done()
    }

    /// Of the image that a device writes to: both get its writes, until the device goes over to the target.
    pub(super) fn start_copy(
        &mut self,
        order: Order,
        copying: Copying,
        source: Arc<Node>,
        target: Arc<Node>,
    ) -> Result<(), QmpError> {
        let (events, id) = (self.host.events.clone(), order.id.clone());
        let (disk, layer) = (self.disk_of(&source), source.layer().clone());
        let (copying, pivots) = (Arc::new(copying), Arc::new(AtomicBool::new(false)));
        let (copied, decided) = (copying.clone(), pivots.clone());
        // Before anything is copied: what is written after that goes to both.
        if let (Some(disk), Some(mirror)) = (&disk, copying.mirror()) {
            disk.swap(mirror);
        }
        let work = move |control: &Control| {
            copying.run(control)?;
            events.send(MachineEvent::JobReady(id));
            let end = copying.follow(control)?;
            decided.store(end == End::Pivot, Ordering::SeqCst);
            Ok(())
        };
        let finish = move |machine: &mut Self, closing| {
            let pivots = closing == Closing::Done && pivots.load(Ordering::SeqCst);
            machine.end_copy(&source, &target, pivots.then_some(&*copied))
        };
        self.start_job(order, work, Box::new(finish)).inspect_err(|_| {
            if let Some(disk) = disk {
                disk.swap(layer);
            }
        })
    }

    /// The device goes over to the target if that is asked for and it shows the same, or stays.
    fn end_copy(&mut self, source: &Arc<Node>, target: &Arc<Node>, pivot: Option<&Copying>) -> Result<(), QmpError> {
        let front = self.facts.disk_on(source.name()).map(|disk| disk.id.clone());
        let attached = front.as_ref().and_then(|id| self.host.disk(id).attached);
        let Some((attached, id)) = attached.zip(front) else {
            self.leave_target(source, target);
            return Ok(());
        };
        let held = attached.disk().drain();
        // With nothing in flight: what failed until now counts.
        let same = pivot.map(|copying| copying.check().and_then(|()| target.layer().flush()));
        if let Some(Ok(())) = same {
            self.host.graph.pivot(source, target, &attached, &held);
            if let Some(disk) = self.facts.disk_mut(&id) {
                target.name().clone_into(&mut disk.node);
            }
        } else {
            held.swap(source.layer().clone());
            self.leave_target(source, target);
        }
        drop(held);
        attached.disk().announce();
        same.unwrap_or(Ok(())).map_err(|error| failed(&error))
    }

    /// The copy stays as it is. What lies beneath is only read again; another is its owner's.
    fn leave_target(&self, source: &Arc<Node>, target: &Arc<Node>) {
        if source.beneath().any(|node| Arc::ptr_eq(&node, target)) {
            self.host.graph.close_base(target);
        } else if let Err(error) = target.layer().flush() {
            log::warn!("{}: {error}", target.filename().display());
        }
    }
}
