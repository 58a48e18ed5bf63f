//! The jobs there are: `blockdev-create` and `block-stream`.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;

use rhea_block::format::qcow2::{self, Compression, CreateOptions};
use rhea_block::graph::{Held, Node};
use rhea_block::job::{Control, Stream};
use rhea_block::layer::{Layer, Preallocation};
use rhea_block::protocol::file::{FileOptions, HostFile};
use rhea_block::{BlockError, Disk, ErrorKind};

use super::Machine;
use super::jobs::Order;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{BlockStream, BlockdevCreate};
use crate::qmp::command::create::{
    BlockdevCreateOptions, CreateFile, CreateQcow2, NewPreallocation, Qcow2CompressionType, Qcow2Version,
};

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
        let order =
            Order { id: args.job_id.clone(), kind: "create", speed: 0, auto_finalize: true, auto_dismiss: false, held };
        let work = move |control: &Control| {
            control.set_total(1);
            let made = make();
            control.step(1, 0)?;
            Ok(made?)
        };
        self.start_job(order, work, Box::new(|_| Ok(())))?;
        done()
    }

    /// A qcow2 image in a node that nobody else uses.
    fn new_qcow2(&self, args: &CreateQcow2) -> Result<New, BlockError> {
        let options = qcow2_options(args)?;
        let missing = || format!("Cannot find device='{0}' nor node-name='{0}'", args.file);
        let graph = &self.host.graph;
        let node = graph.get(&args.file).ok_or_else(|| BlockError::new(ErrorKind::NotFound, missing()))?;
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
        let order = Order {
            id: args.job_id.clone().unwrap_or_else(|| args.device.clone()),
            kind: "stream",
            speed: args.speed.unwrap_or(0),
            auto_finalize: args.auto_finalize.unwrap_or(true),
            auto_dismiss: args.auto_dismiss.unwrap_or(true),
            held: Some(held),
        };
        let finish = move |machine: &mut Self| machine.rebase(&top, base.as_ref(), name);
        self.start_job(order, move |control| stream.run(control), Box::new(finish))?;
        done()
    }

    /// Puts `top` onto `base`, with the device that has it held still.
    fn rebase(&mut self, top: &Arc<Node>, base: Option<&Arc<Node>>, name: Option<String>) -> Result<(), QmpError> {
        let held = self.disk_of(top).map(|disk| disk.drain());
        let names = base.map(|base| (name.unwrap_or_else(|| base.filename().display().to_string()), base.format()));
        let names = names.as_ref().map(|(name, format)| (name.as_str(), Some(format.as_str())));
        let changed = self.host.graph.rebase(top, base, names).map_err(|error| failed(&error));
        drop(held);
        changed
    }

    fn node(&self, name: &str) -> Result<Arc<Node>, QmpError> {
        let missing = || QmpError::generic(format!("Cannot find device='' nor node-name='{name}'"));
        self.host.graph.get(name).ok_or_else(missing)
    }

    /// The node that a job's `device` means: a device's, or one by its name.
    fn node_of(&self, device: &str) -> Result<Arc<Node>, QmpError> {
        let name = self.facts.find_disk(device).map_or(device, |disk| disk.node.as_str());
        let missing = || QmpError::generic(format!("Cannot find device='{device}' nor node-name='{device}'"));
        self.host.graph.get(name).ok_or_else(missing)
    }

    /// The disk of the device that has `node`.
    fn disk_of(&self, node: &Node) -> Option<Disk> {
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
    let path = Path::new(&args.filename);
    let made = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    drop(made.map_err(|e| BlockError::io(format!("Could not create '{}'", path.display()), e))?);
    let file = HostFile::open(path, FileOptions::default())?;
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
