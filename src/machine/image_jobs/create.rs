//! `blockdev-create`: a new file, or a new image in a node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rhea_block::crypto::{CipherAlg, CipherMode, Hash, IvGen, LuksOptions, Secret};
use rhea_block::format::luks::LuksDisk;
use rhea_block::format::qcow2::{self, Compression, CreateOptions, EncryptOptions};
use rhea_block::graph::{Held, Node, OwnTarget};
use rhea_block::job::Control;
use rhea_block::layer::{Layer, Preallocation};
use rhea_block::protocol::file::HostFile;
use rhea_block::spec::NodeRef;
use rhea_block::{BlockError, ErrorKind};

use crate::machine::Machine;
use crate::machine::jobs::Order;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{BlockdevCreate, BlockdevRef};
use crate::qmp::command::create::{
    BlockdevCreateOptions, CreateEncryption, CreateFile, CreateLuks, CreateQcow2, HashAlg, IvGenAlg, LuksHeader,
    NewPreallocation, Qcow2CompressionType, Qcow2Version,
};
use crate::spec::blockdev::BlockdevArgs;

impl Machine {
    /// `blockdev-create`.
    pub(in crate::machine) fn create_image(&mut self, args: &BlockdevCreate) -> Answer {
        let made = match &args.options {
            BlockdevCreateOptions::File(file) => new_file(file),
            BlockdevCreateOptions::Luks(luks) => {
                let file = self.file_of_image(&luks.file)?;
                self.new_luks(luks, &file)
            }
            BlockdevCreateOptions::Qcow2(qcow2) => {
                let file = self.file_of_image(&qcow2.file)?;
                let data = qcow2.data_file.as_ref().map(|data| self.file_of_image(data)).transpose()?;
                self.new_qcow2(qcow2, &file, data.as_ref())
            }
        };
        // Who asked waits for the job, and finds the reason there.
        let made = made.unwrap_or_else(|error| New::alone(|| Err(error)));
        let New { make, held, target, data } = made;
        let order = Order { auto_dismiss: false, target, ..Order::on_nodes("create", &args.job_id, held) };
        let work = move |control: &Control| {
            control.set_total(1);
            let made = make();
            control.step(1, 0)?;
            Ok(made?)
        };
        let finish = move |_: &mut Self, _| {
            drop(data);
            Ok(())
        };
        self.start_job(order, work, Box::new(finish))?;
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

    /// The node that something is to be made in, which nobody else uses.
    fn own_node(&self, file: &NodeRef) -> Result<Own, BlockError> {
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
        let held = graph.hold_with_target(&[], &node, "create")?;
        Ok(Own { node, held, target })
    }

    /// A qcow2 image.
    fn new_qcow2(&self, args: &CreateQcow2, file: &NodeRef, data: Option<&NodeRef>) -> Result<New, BlockError> {
        let encrypt = args.encrypt.as_ref().map(|encrypt| self.encryption(encrypt)).transpose()?;
        let mut options = CreateOptions { encrypt, ..qcow2_options(args)? };
        options.check()?;
        let own = self.own_node(file)?;
        let data = data.map(|data| self.own_node(data)).transpose()?;
        let name = data.as_ref().map(|data| data.node.filename().display().to_string());
        options.data_file = name.map(|name| (name, args.data_file_raw == Some(true)));
        options.check()?;
        let (node, data_node) = (own.node, data.as_ref().map(|data| data.node.clone()));
        let make = move || {
            // What keeps its size, as a slice of a file, is written over.
            qcow2::create(node.layer(), data_node.map(|node| node.layer().clone()), &options)?.close()
        };
        Ok(New { make: Box::new(make), held: Some(own.held), target: own.target, data })
    }

    /// A volume of LUKS.
    fn new_luks(&self, args: &CreateLuks, file: &NodeRef) -> Result<New, BlockError> {
        let (password, header) = self.luks_header(&args.header, "key-secret")?;
        // Its header is there in any case.
        let mode = args.preallocation.filter(|mode| *mode != NewPreallocation::Metadata);
        let (size, mode) = (args.size, mode.map_or(Preallocation::Off, preallocation));
        let own = self.own_node(file)?;
        let node = own.node;
        let make = move || {
            let file = node.layer();
            file.resize(0, Preallocation::Off)?;
            LuksDisk::create(file, size, &header, &password, mode)?;
            file.flush()
        };
        Ok(New { make: Box::new(make), held: Some(own.held), target: own.target, data: None })
    }

    fn encryption(&self, args: &CreateEncryption) -> Result<EncryptOptions, BlockError> {
        match args {
            CreateEncryption::Qcow(_) => {
                let text = "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators";
                Err(BlockError::new(ErrorKind::Unsupported, text))
            }
            CreateEncryption::Luks(header) => {
                let (password, options) = self.luks_header(header, "encrypt.key-secret")?;
                Ok(EncryptOptions::Luks { password, options })
            }
        }
    }

    /// A LUKS header and the password that `key`, as its member is called, names.
    fn luks_header(&self, args: &LuksHeader, key: &str) -> Result<(Secret, LuksOptions), BlockError> {
        let invalid = |text: String| BlockError::new(ErrorKind::Invalid, text);
        let missing = || invalid(format!("Parameter '{key}' is required for cipher"));
        let id = args.key_secret.as_deref().ok_or_else(missing)?;
        let password = self.host.graph.secrets().get(id)?;
        if std::str::from_utf8(password.bytes()).is_err() {
            return Err(invalid(format!("Data from secret {id} is not valid UTF-8")));
        }
        let default = LuksOptions::default();
        let known = |alg: HashAlg| {
            Hash::by_name(alg.as_str()).ok_or_else(|| invalid(format!("Hash algorithm '{alg}' is not supported")))
        };
        let hash = |alg: Option<HashAlg>| alg.map_or(Ok(default.hash), known);
        let options = LuksOptions {
            cipher: args.cipher_alg.and_then(|alg| CipherAlg::by_name(alg.as_str())).unwrap_or(default.cipher),
            mode: args.cipher_mode.and_then(|mode| CipherMode::by_name(mode.as_str())).unwrap_or(default.mode),
            iv: match args.ivgen_alg {
                Some(IvGenAlg::Plain) => IvGen::Plain,
                Some(IvGenAlg::Essiv) => IvGen::Essiv(hash(args.ivgen_hash_alg)?),
                Some(IvGenAlg::Plain64) | None => IvGen::Plain64,
            },
            hash: hash(args.hash_alg)?,
            // As in QEMU no time is the least that is safe.
            iter_time: args.iter_time.map_or(default.iter_time, |time| Duration::from_millis(time.max(1))),
        };
        Ok((password, options))
    }
}

/// A node that something is made in.
struct Own {
    node: Arc<Node>,
    held: Held,
    /// What was opened for it.
    target: Option<OwnTarget>,
}

/// Writes what was asked for.
type Make = Box<dyn FnOnce() -> Result<(), BlockError> + Send>;

/// Something new, checked.
struct New {
    make: Make,
    held: Option<Held>,
    /// What was opened for it.
    target: Option<OwnTarget>,
    /// The node for the data, let go of on the main thread.
    data: Option<Own>,
}

impl New {
    /// What needs no node.
    fn alone(make: impl FnOnce() -> Result<(), BlockError> + Send + 'static) -> Self {
        Self { make: Box::new(make), held: None, target: None, data: None }
    }
}

/// A file; what is in one that is there is lost.
fn new_file(args: &CreateFile) -> Result<New, BlockError> {
    let file = HostFile::make(Path::new(&args.filename))?;
    let (size, preallocation) = (args.size, args.preallocation.map_or(Preallocation::Off, preallocation));
    let in_place = args.nocow == Some(true);
    Ok(New::alone(move || {
        file.clear(in_place)?;
        file.resize(size, preallocation)
    }))
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
    if args.data_file_raw == Some(true) && args.data_file.is_none() {
        return invalid("data-file-raw requires data-file");
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
