//! The jobs there are: `blockdev-create`, `block-stream`, `block-commit` and `blockdev-mirror`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rhea_block::format::qcow2::{self, Compression, CreateOptions};
use rhea_block::graph::{Held, Node};
use rhea_block::job::{Control, Copying, End, Extent, Stream};
use rhea_block::layer::{Layer, Preallocation};
use rhea_block::protocol::file::HostFile;
use rhea_block::{BlockError, Disk, ErrorKind};

use super::Machine;
use super::event::MachineEvent;
use super::jobs::{Closing, Order, nothing_left};
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{BlockStream, BlockdevCreate, BlockdevMirror, Commit, MirrorSyncMode};
use crate::qmp::command::create::{
    BlockdevCreateOptions, CreateFile, CreateQcow2, NewPreallocation, Qcow2CompressionType, Qcow2Version,
};

fn not_in_chain(name: &str) -> QmpError {
    QmpError::generic(format!("'{name}' is not in this backing file chain"))
}

/// The node of the chain at `root` that a client means by its name or by its file.
fn chain_member(root: &Arc<Node>, name: Option<&str>, file: Option<&str>) -> Result<Option<Arc<Node>>, QmpError> {
    let mut chain = std::iter::once(root.clone()).chain(root.beneath());
    match (name, file) {
        (Some(_), Some(_)) => Err(QmpError::generic("a node and its file are given; give one of the two")),
        (Some(name), None) => Ok(Some(chain.find(|node| node.name() == name).ok_or_else(|| not_in_chain(name))?)),
        (None, Some(file)) => {
            let found = chain.find(|node| node.filename() == Path::new(file));
            Ok(Some(found.ok_or_else(|| not_in_chain(file))?))
        }
        (None, None) => Ok(None),
    }
}

fn failed(error: &BlockError) -> QmpError {
    QmpError::from_error(error)
}

impl Machine {
    /// `blockdev-create`.
    pub(super) fn create_image(&mut self, args: &BlockdevCreate) -> Answer {
        let made = match &args.options {
            BlockdevCreateOptions::File(file) => new_file(file),
            BlockdevCreateOptions::Qcow2(qcow2) => self.new_qcow2(qcow2),
        };
        let (make, held) = match made {
            Ok(New { make, held }) => (make, held),
            // Who asked waits for the job, and finds the reason there.
            Err(error) => (Box::new(|| Err(error)) as Make, None),
        };
        let order = Order { auto_dismiss: false, ..Order::on_nodes("create", &args.job_id, held) };
        let work = move |control: &Control| {
            control.set_total(1);
            let made = make();
            control.step(1, 0)?;
            Ok(made?)
        };
        self.start_job(order, work, Box::new(nothing_left))?;
        done()
    }

    /// A qcow2 image in a node that nobody else uses.
    fn new_qcow2(&self, args: &CreateQcow2) -> Result<New, BlockError> {
        let options = qcow2_options(args)?;
        let graph = &self.host.graph;
        let node = graph.find_for(&args.file)?;
        graph.check_unused(&node)?;
        let held = graph.hold_for_job(vec![node.clone()], "create")?;
        let make = move || {
            let file = node.layer();
            file.resize(0, Preallocation::Off)?;
            qcow2::create(file, None, &options)?.close()
        };
        Ok(New { make: Box::new(make), held: Some(held) })
    }

    /// `block-stream`.
    pub(super) fn stream(&mut self, args: &BlockStream) -> Answer {
        let top = self.node_of(&args.device)?;
        let base = args.base_node.as_ref().map(|base| self.node(base)).transpose()?;
        let stream = Stream::new(top.clone(), base.clone(), self.disk_of(&top)).map_err(|error| failed(&error))?;
        let between = top.beneath().take_while(|node| base.as_ref().is_none_or(|base| !Arc::ptr_eq(node, base)));
        let nodes = std::iter::once(top.clone()).chain(between).chain(base.clone()).collect();
        let held = self.host.graph.hold_for_job(nodes, "stream").map_err(|error| failed(&error))?;
        let name = args.backing_file.clone();
        let order = Order::on_nodes("stream", args.job_id.as_ref().unwrap_or(&args.device), held).with(
            args.speed,
            args.auto_finalize,
            args.auto_dismiss,
        );
        let finish = move |machine: &mut Self, closing| match closing {
            Closing::Done => machine.rebase(&top, base.as_ref(), name),
            Closing::Undone => Ok(()),
        };
        self.start_job(order, move |control| stream.run(control), Box::new(finish))?;
        done()
    }

    /// `block-commit`.
    pub(super) fn commit(&mut self, args: &Commit) -> Answer {
        let root = self.node_of(&args.device)?;
        let top = chain_member(&root, args.top_node.as_deref(), args.top.as_deref())?.unwrap_or_else(|| root.clone());
        let bottom = || root.beneath().last().ok_or_else(|| not_in_chain(root.name()));
        let base = chain_member(&root, args.base_node.as_deref(), args.base.as_deref())?.map_or_else(bottom, Ok)?;
        if Arc::ptr_eq(&top, &base) {
            return Err(QmpError::generic("cannot commit an image into itself"));
        }
        let active = Arc::ptr_eq(&top, &root);
        let whole: Vec<_> = std::iter::once(root.clone()).chain(root.beneath()).collect();
        let above = whole.iter().find(|node| node.child("backing").is_some_and(|below| Arc::ptr_eq(&below, &top)));
        let above = above.filter(|_| !active).cloned();
        let nodes = whole.into_iter().take_while(|node| !Arc::ptr_eq(node, &base)).chain([base.clone()]).collect();
        let graph = &self.host.graph;
        let held = graph.hold_for_job(nodes, "commit").map_err(|error| failed(&error))?;
        let still = self.disk_of(&root).map(|disk| disk.drain());
        let (graph, closed) = (graph.clone(), base.clone());
        let opened = graph.open_base(&base).and_then(|()| Copying::commit(top.clone(), base.clone(), active));
        drop(still);
        let commit = opened.map_err(|error| {
            graph.close_base(&closed);
            failed(&error)
        })?;
        let order = Order::on_nodes("commit", args.job_id.as_ref().unwrap_or(&args.device), held).with(
            args.speed,
            args.auto_finalize,
            args.auto_dismiss,
        );
        let started = match above {
            Some(above) => self.start_commit(order, commit, above, base, args.backing_file.clone()),
            None => self.start_copy(order, commit, top, base),
        };
        started.inspect_err(|_| graph.close_base(&closed))?;
        done()
    }

    /// `blockdev-mirror`.
    pub(super) fn mirror(&mut self, args: &BlockdevMirror) -> Answer {
        let (source, target) = (self.node_of(&args.device)?, self.node(&args.target)?);
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
        self.start_copy(order, copy, source, target)?;
        done()
    }

    /// Of images that nobody writes to: the one above them is put onto the base.
    fn start_commit(
        &mut self,
        order: Order,
        commit: Copying,
        above: Arc<Node>,
        base: Arc<Node>,
        name: Option<String>,
    ) -> Result<(), QmpError> {
        let finish = move |machine: &mut Self, closing| {
            let changed = match closing {
                Closing::Done => machine.rebase(&above, Some(&base), name),
                Closing::Undone => Ok(()),
            };
            machine.host.graph.close_base(&base);
            changed
        };
        self.start_job(order, move |control| commit.run(control), Box::new(finish))
    }

    /// Of the image that a device writes to: both get its writes, until the device goes over to the target.
    fn start_copy(
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
            let end = control.wait_for_end(|| copying.check())?;
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

    /// Puts `top` onto `base`, with the device that has it held still.
    fn rebase(&mut self, top: &Arc<Node>, base: Option<&Arc<Node>>, name: Option<String>) -> Result<(), QmpError> {
        let held = self.disk_of(top).map(|disk| disk.drain());
        let names = base.map(|base| (name.unwrap_or_else(|| base.header_name()), base.format()));
        let names = names.as_ref().map(|(name, format)| (name.as_str(), Some(format.as_str())));
        let changed = self.host.graph.rebase(top, base, names).map_err(|error| failed(&error));
        drop(held);
        changed
    }

    pub(super) fn node(&self, name: &str) -> Result<Arc<Node>, QmpError> {
        self.host.graph.find(name).map_err(|error| failed(&error))
    }

    /// The node that a job's `device` means: a device's, or one by its name.
    pub(super) fn node_of(&self, device: &str) -> Result<Arc<Node>, QmpError> {
        let name = self.facts.find_disk(device).map_or(device, |disk| disk.node.as_str());
        self.host.graph.find_for(name).map_err(|error| failed(&error))
    }

    /// The disk of the device that has `node`.
    pub(super) fn disk_of(&self, node: &Node) -> Option<Disk> {
        let device = &self.facts.disk_on(node.name())?.id;
        Some(self.host.disk(device).attached?.disk().clone())
    }
}

/// Writes what was asked for.
type Make = Box<dyn FnOnce() -> Result<(), BlockError> + Send>;

/// Something new, checked.
struct New {
    make: Make,
    held: Option<Held>,
}

/// A file; what is in one that is there is lost.
fn new_file(args: &CreateFile) -> Result<New, BlockError> {
    let file = HostFile::make(Path::new(&args.filename))?;
    let (size, preallocation) = (args.size, args.preallocation.map_or(Preallocation::Off, preallocation));
    let make = move || {
        file.resize(0, Preallocation::Off)?;
        file.resize(size, preallocation)
    };
    Ok(New { make: Box::new(make), held: None })
}

fn preallocation(mode: NewPreallocation) -> Preallocation {
    match mode {
        NewPreallocation::Off => Preallocation::Off,
        NewPreallocation::Metadata => Preallocation::Metadata,
        NewPreallocation::Falloc => Preallocation::Falloc,
        NewPreallocation::Full => Preallocation::Full,
    }
}

fn qcow2_options(args: &CreateQcow2) -> Result<CreateOptions, BlockError> {
    let invalid = |text: &str| Err(BlockError::new(ErrorKind::Invalid, text));
    if !args.size.is_multiple_of(512) {
        return invalid("Image size must be a multiple of 512 bytes");
    }
    let default = CreateOptions::default();
    let backing = args.backing_file.clone().map(|file| (file, args.backing_fmt.clone()));
    if backing.is_none() && args.backing_fmt.is_some() {
        return invalid("Backing format cannot be used without backing file");
    }
    Ok(CreateOptions {
        size: args.size,
        version: if args.version == Some(Qcow2Version::V2) { 2 } else { 3 },
        cluster_size: args.cluster_size.unwrap_or(default.cluster_size),
        refcount_bits: args.refcount_bits.unwrap_or(default.refcount_bits),
        lazy_refcounts: args.lazy_refcounts.unwrap_or(false),
        extended_l2: args.extended_l2.unwrap_or(false),
        compression: match args.compression_type {
            Some(Qcow2CompressionType::Zstd) => Compression::Zstd,
            Some(Qcow2CompressionType::Zlib) | None => Compression::Zlib,
        },
        backing,
        preallocation: args.preallocation.map_or(Preallocation::Off, preallocation),
        ..default
    })
}
