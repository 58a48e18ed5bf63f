//! `blockdev-create`: a new file, or a new image in a node.

use std::path::Path;

use rhea_block::format::qcow2::{self, Compression, CreateOptions};
use rhea_block::graph::{Held, OwnTarget};
use rhea_block::job::Control;
use rhea_block::layer::{Layer, Preallocation};
use rhea_block::protocol::file::HostFile;
use rhea_block::spec::NodeRef;
use rhea_block::{BlockError, ErrorKind};

use crate::machine::Machine;
use crate::machine::jobs::{Order, nothing_left};
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{BlockdevCreate, BlockdevRef};
use crate::qmp::command::create::{
    BlockdevCreateOptions, CreateFile, CreateQcow2, NewPreallocation, Qcow2CompressionType, Qcow2Version,
};
use crate::spec::blockdev::BlockdevArgs;

impl Machine {
    /// `blockdev-create`.
    pub(in crate::machine) fn create_image(&mut self, args: &BlockdevCreate) -> Answer {
        let made = match &args.options {
            BlockdevCreateOptions::File(file) => new_file(file),
            BlockdevCreateOptions::Qcow2(qcow2) => {
                let file = self.file_of_image(&qcow2.file)?;
                self.new_qcow2(qcow2, &file)
            }
        };
        let (make, held, target) = match made {
            Ok(New { make, held, target }) => (make, held, target),
            // Who asked waits for the job, and finds the reason there.
            Err(error) => (Box::new(|| Err(error)) as Make, None, None),
        };
        let order = Order { auto_dismiss: false, target, ..Order::on_nodes("create", &args.job_id, held) };
        let work = move |control: &Control| {
            control.set_total(1);
            let made = make();
            control.step(1, 0)?;
            Ok(made?)
        };
        self.start_job(order, work, Box::new(nothing_left))?;
        done()
    }

    /// What an image is to be in, checked but not opened.
    fn file_of_image(&self, file: &BlockdevRef) -> Result<NodeRef, QmpError> {
        match file {
            BlockdevRef::Name(name) => Ok(NodeRef::Name(name.clone())),
            BlockdevRef::Inline(options) => {
                self.check_node_names(options)?;
                let args = BlockdevArgs { options: options.clone() };
                Ok(NodeRef::Inline(Box::new(args.node().map_err(|e| QmpError::from_error(&e))?)))
            }
        }
    }

    /// A qcow2 image in a node that nobody else uses.
    fn new_qcow2(&self, args: &CreateQcow2, file: &NodeRef) -> Result<New, BlockError> {
        let options = qcow2_options(args)?;
        let graph = &self.host.graph;
        let (node, target) = match file {
            NodeRef::Name(name) => (graph.find_for(name)?, None),
            NodeRef::Inline(spec) => {
                let own = graph.open_own(spec)?;
                (own.node().clone(), Some(own))
            }
        };
        if node.is_read_only() {
            return Err(BlockError::new(ErrorKind::Permission, "Block node is read-only"));
        }
        let held = graph.hold_with_target(None, &node, "create")?;
        let make = move || {
            let file = node.layer();
            file.resize(0, Preallocation::Off)?;
            qcow2::create(file, None, &options)?.close()
        };
        Ok(New { make: Box::new(make), held: Some(held), target })
    }
}

/// Writes what was asked for.
type Make = Box<dyn FnOnce() -> Result<(), BlockError> + Send>;

/// Something new, checked.
struct New {
    make: Make,
    held: Option<Held>,
    /// What was opened for it.
    target: Option<OwnTarget>,
}

/// A file; what is in one that is there is lost.
fn new_file(args: &CreateFile) -> Result<New, BlockError> {
    let file = HostFile::make(Path::new(&args.filename))?;
    let (size, preallocation) = (args.size, args.preallocation.map_or(Preallocation::Off, preallocation));
    let in_place = args.nocow == Some(true);
    let make = move || {
        file.clear(in_place)?;
        file.resize(size, preallocation)
    };
    Ok(New { make: Box::new(make), held: None, target: None })
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
