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
use crate::qmp::command::args::{self, BlockdevCreate, Commit, Mirror, MirrorSyncMode};
use crate::qmp::command::create::{
    BlockdevCreateOptions, CreateFile, CreateQcow2, NewPreallocation, Qcow2CompressionType, Qcow2Version,
};

fn not_in_chain(name: &str) -> QmpError {
    QmpError::generic(format!("'{name}' is not in this backing file chain"))
}

/// The node of the chain at `root` whose file is `file`: as the node has it, or as the header above may have it, whose
/// relative names begin where its own image lies.
fn by_file(root: &Arc<Node>, file: &str) -> Option<Arc<Node>> {
    if root.filename() == Path::new(file) {
        return Some(root.clone());
    }
    let mut above = root.clone();
    root.beneath().find(|node| {
        let folder = std::mem::replace(&mut above, node.clone()).filename().parent().map(Path::to_owned);
        let named = folder.unwrap_or_default().join(file).canonicalize();
        node.filename() == Path::new(file) || named.is_ok_and(|path| node.filename().canonicalize().ok() == Some(path))
    })
}

fn no_such_file(file: &str) -> QmpError {
    QmpError::generic(format!("Can't find '{file}' in the backing chain"))
}

/// Refuses two words for one thing.
fn check_one(one: (&str, bool), other: (&str, bool), cannot: &str) -> Result<(), QmpError> {
    if one.1 && other.1 {
        return Err(QmpError::generic(format!("'{}' and '{}' {cannot}", one.0, other.0)));
    }
    Ok(())
}

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
    pub(super) fn stream(&mut self, args: &args::Stream) -> Answer {
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

    /// `block-commit`.
    pub(super) fn commit(&mut self, args: &Commit) -> Answer {
        let root = self.node_of(&args.device).map_err(|_| QmpError::device_not_found(&args.device))?;
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

    /// The node called `name`, which is `root` or beneath it.
    fn chain_member(&self, root: &Arc<Node>, name: &str) -> Result<Arc<Node>, QmpError> {
        let node = self.node(name)?;
        let is_member = Arc::ptr_eq(root, &node) || root.beneath().any(|member| Arc::ptr_eq(&member, &node));
        if is_member { Ok(node) } else { Err(not_in_chain(name)) }
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
            (_, Some(file)) => by_file(root, file).ok_or_else(|| no_such_file(file))?,
            _ => root.beneath().last().ok_or_else(|| not_in_chain(root.name()))?,
        };
        if Arc::ptr_eq(&top, &base) {
            return Err(QmpError::generic("cannot commit an image into itself"));
        }
        Ok((top, base))
    }

    /// `blockdev-mirror`.
    pub(super) fn mirror(&mut self, args: &Mirror) -> Answer {
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
        let held = self.hold_above(top.name());
        // What is written is the header of an image that is beneath another, and only read.
        let opened = top.layer().limits().read_only;
        if opened {
            self.host.graph.open_base(top).map_err(|error| failed(&error))?;
        }
        let names = base.map(|base| (name.unwrap_or_else(|| base.header_name()), base.format()));
        let names = names.as_ref().map(|(name, format)| (name.as_str(), Some(format.as_str())));
        let changed = self.host.graph.rebase(top, base, names).map_err(|error| failed(&error));
        if opened {
            self.host.graph.close_base(top);
        }
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
