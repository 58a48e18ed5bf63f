//! `blockdev-mirror`, and the end that it has in common with a commit of the image on top: the device goes over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};

use rhea_block::graph::{JobNode, NewTarget, Node, Opened, OwnTarget};
use rhea_block::job::{Control, Copying, End, Extent};
use rhea_block::thread::{self, ThreadKind};

use super::{changed_past, failed};
use crate::machine::Machine;
use crate::machine::drives::LAST_WRITES;
use crate::machine::event::MachineEvent;
use crate::machine::jobs::{Closing, Order};
use crate::machine::still::Front;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{DriveMirror, Mirror, MirrorArgs, MirrorSyncMode, NewImageMode};

/// Where a mirror goes.
struct Target<'a> {
    target: Arc<Node>,
    /// The image that the job made or opened for itself, which `target` is then.
    own: Option<OwnTarget>,
    /// Its space may be freed.
    unmap: bool,
    /// What the job's own node on the source is called.
    name: Option<&'a str>,
}

/// Refuses what QEMU refuses of options that mean nothing here: pieces and buffers are as large as what is found.
fn check_mirror(sync: MirrorSyncMode, granularity: Option<u32>) -> Result<(), QmpError> {
    if matches!(sync, MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap) {
        return Err(QmpError::generic(format!("Sync mode '{sync}' not supported")));
    }
    if granularity.is_some_and(|bytes| bytes != 0 && !(512..=64 << 20).contains(&bytes)) {
        return Err(QmpError::expects("granularity", "a value in range [512B, 64MB]"));
    }
    if granularity.is_some_and(|bytes| bytes != 0 && !bytes.is_power_of_two()) {
        return Err(QmpError::expects("granularity", "a power of 2"));
    }
    Ok(())
}

impl Machine {
    /// `blockdev-mirror`.
    pub(in crate::machine) fn mirror(&mut self, args: &Mirror) -> Answer {
        check_mirror(args.common.sync, args.common.granularity)?;
        let (source, target) = (self.root_of(&args.common.job.device)?, self.node_of(&args.target)?);
        if Arc::ptr_eq(&source, &target) {
            return Err(QmpError::generic("Can't mirror node into itself"));
        }
        let name = args.filter_node_name.as_deref();
        self.mirror_to(&args.common, source, Target { target, own: None, unmap: true, name })
    }

    /// `drive-mirror`: the same, into an image that is made, or opened, for this.
    pub(in crate::machine) fn drive_mirror(&mut self, args: &DriveMirror) -> Answer {
        check_mirror(args.common.sync, args.common.granularity)?;
        let source = self.root_of(&args.common.job.device)?;
        if args.common.replaces.is_some() && args.node_name.is_none() {
            return Err(QmpError::generic("a node-name must be provided when replacing a named node of the graph"));
        }
        // Before anything is made.
        self.check_replaces(&source, args.common.replaces.as_deref())?;
        self.check_node_name(args.node_name.as_deref())?;
        self.id_of_job(&args.common.job, &source)?;
        source.check_idle().map_err(|error| failed(&error))?;
        let exists = args.mode == Some(NewImageMode::Existing);
        let beneath = match args.common.sync {
            MirrorSyncMode::Top => source.backing(),
            MirrorSyncMode::None => Some(source.clone()),
            _ => None,
        };
        let own = NewTarget {
            file: &args.target,
            format: args.format.as_deref().or((!exists).then(|| source.layer().driver())),
            node_name: args.node_name.as_deref(),
            exists,
            source: &source,
            beneath: beneath.as_ref().filter(|_| !exists),
        };
        let own = self.host.graph.add_target(&own).map_err(|error| failed(&error))?;
        let target = own.node().clone();
        self.mirror_to(
            &args.common,
            source,
            Target { target, own: Some(own), unmap: args.unmap.unwrap_or(true), name: None },
        )
    }

    /// The node that a job's `device` means, which has no image above it.
    fn root_of(&self, device: &str) -> Result<Arc<Node>, QmpError> {
        let node = self.node_of(device)?;
        self.check_root(&node)?;
        Ok(node)
    }

    /// Refuses a node that a device could not leave for another: one that has a node on top, or that is changed through
    /// others.
    pub(super) fn check_root(&self, node: &Arc<Node>) -> Result<(), QmpError> {
        let graph = &self.host.graph;
        if !graph.is_root(node) {
            return Err(QmpError::generic("Need a root block node"));
        }
        let other = graph.other_writers_of(node).next();
        other.map_or(Ok(()), |other| Err(changed_past(node, &other)))
    }

    /// Refuses a node in whose place the copy cannot come: only what is mirrored itself can be replaced by it.
    fn check_replaces(&self, source: &Arc<Node>, name: Option<&str>) -> Result<(), QmpError> {
        let Some(name) = name else { return Ok(()) };
        let node = self.host.graph.get(name);
        let node = node.ok_or_else(|| QmpError::generic(format!("Failed to find node with node-name='{name}'")))?;
        if Arc::ptr_eq(&node, source) {
            return Ok(());
        }
        if let Some(above) = self.host.graph.above(&node, "backing") {
            let drive = self.facts.disk_on(above.name()).map(|disk| disk.drive.as_str()).filter(|id| !id.is_empty());
            let above = drive.unwrap_or(above.name());
            return Err(QmpError::generic(format!("Node '{name}' is busy: node is used as backing hd of '{above}'")));
        }
        Err(QmpError::generic(format!(
            "Cannot replace '{name}' by a node mirrored from '{}', because it cannot be guaranteed that doing so would \
             not lead to an abrupt change of visible data",
            source.name()
        )))
    }

    /// Starts the mirror that `args` ask for.
    fn mirror_to(&mut self, args: &MirrorArgs, source: Arc<Node>, into: Target<'_>) -> Answer {
        let Target { target, own, unmap, name } = into;
        let extent = match args.sync {
            MirrorSyncMode::Top => Extent::Top,
            MirrorSyncMode::None => Extent::Later,
            _ => Extent::Whole,
        };
        self.check_replaces(&source, args.replaces.as_deref())?;
        let id = self.id_of_job(&args.job, &source)?;
        let copy = Copying::mirror_to(source.clone(), target.clone(), extent, unmap).map_err(|error| failed(&error))?;
        let copy = copy.in_pieces_of(args.buf_size.filter(|bytes| *bytes > 0).unwrap_or(u64::MAX));
        let held = self.host.graph.hold_with_target(std::slice::from_ref(&source), &target, "mirror");
        let held = held.map_err(|error| failed(&error))?;
        let top = self.add_top(JobNode { job: "mirror", driver: "mirror_top", role: "backing", name }, &source)?;
        let order = Order::on_nodes("mirror", &id, held).with(&args.job).copying(&source, &target);
        let order = order.on_errors(args.on_source_error, args.on_target_error);
        self.start_copy(Order { top: Some(top), target: own, ..order }, copy, source, (target, None))?;
        done()
    }

    /// Of the image that a device writes to: both get its writes, until the device goes over to the target, which was
    /// opened for that if it lies beneath.
    pub(super) fn start_copy(
        &mut self,
        order: Order,
        copying: Copying,
        source: Arc<Node>,
        (target, opened): (Arc<Node>, Option<Opened>),
    ) -> Result<(), QmpError> {
        let (events, id) = (self.host.events.clone(), order.id.clone());
        let beneath = source.clone();
        let (copying, pivots) = (Arc::new(copying), Arc::new(AtomicBool::new(false)));
        let (copied, decided) = (copying.clone(), pivots.clone());
        // Before anything is copied: what is written after that goes to both.
        if let Some(mirror) = copying.mirror() {
            self.put_disks_on(&source, &mirror);
        }
        let work = move |control: &Control| {
            copying.run(control)?;
            events.send(MachineEvent::JobReady(id));
            let end = copying.follow(control)?;
            decided.store(end == End::Pivot, Ordering::SeqCst);
            Ok(())
        };
        let copy = order.copy.as_ref().map(Arc::downgrade);
        let finish = move |machine: &mut Self, closing| {
            let _bound = copy.filter(|_| closing == Closing::Done).and_then(bound_waiting);
            let end = if pivots.load(Ordering::SeqCst) { End::Pivot } else { End::Leave };
            machine.end_copy(&source, (&target, opened), (closing == Closing::Done).then_some((&*copied, end)))
        };
        self.start_job(order, work, Box::new(finish)).inspect_err(|_| self.put_disks_on(&beneath, beneath.layer()))
    }

    /// The devices go over to the target if that is asked for and it shows the same, or stay.
    ///
    /// # Errors
    /// The work was `done`, and the target does not show the same at this moment.
    fn end_copy(
        &mut self,
        source: &Arc<Node>,
        (target, opened): (&Arc<Node>, Option<Opened>),
        done: Option<(&Copying, End)>,
    ) -> Result<(), QmpError> {
        let mut fronts = self.hold_above(source);
        fronts.retain(|front| Arc::ptr_eq(&front.attached.node(), source));
        // With nothing in flight: what failed until now counts.
        let same = done.map_or(Ok(()), |(copying, _)| copying.check());
        let pivots = same.is_ok() && matches!(done, Some((_, End::Pivot)));
        if pivots {
            self.move_exports(source, target);
        }
        if fronts.is_empty() {
            leave(target, opened);
            return same.map_err(|error| failed(&error));
        }
        if pivots {
            if let Some(opened) = opened {
                opened.keep();
            }
            self.host.graph.pivot(source, target, &fronts.iter().map(Front::ends).collect::<Vec<_>>());
            fronts.iter().for_each(|front| self.now_on(&front.device, target));
        } else {
            fronts.iter().for_each(|front| drop(front.held.swap(source.layer().clone())));
            leave(target, opened);
        }
        for Front { attached, held, .. } in fronts {
            drop(held);
            attached.disk().announce();
        }
        same.map_err(|error| failed(&error))
    }
}

/// A server of the copy that falls silent just when the job ends does not hold up the monitor for ever: what waits for it
/// fails after a time, until what comes back is dropped.
fn bound_waiting(copy: Weak<Node>) -> Option<Sender<()>> {
    let (bound, over) = channel();
    let watch = move || {
        if over.recv_timeout(LAST_WRITES) == Err(RecvTimeoutError::Timeout) {
            let _unawaited = copy.upgrade().map(|copy| copy.unawaited());
            // Nobody sends anything: it ends with the other side.
            let _ = over.recv();
        }
    };
    let started = thread::spawn(ThreadKind::Nbd, "last-writes", watch);
    started.inspect_err(|error| log::warn!("cannot bound the time of a copy's last writes: {error}")).ok()?;
    Some(bound)
}

/// The copy stays as it is: what was opened is only read again, another is its owner's.
fn leave(target: &Arc<Node>, opened: Option<Opened>) {
    if let Err(error) = target.layer().flush() {
        log::warn!("{}: {error}", target.filename().display());
    }
    drop(opened);
}
