//! Images that others are copied into or stand on, made and opened in one step: by their files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::drive::probe_layer;
use super::{Graph, Node, by_name};
use crate::error::{BlockError, ErrorKind};
use crate::format::Foreign;
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, create};
use crate::layer::{Layer, Preallocation};
use crate::nbd::NbdName;
use crate::probe::Probed;
use crate::protocol::file::HostFile;
use crate::spec::{self, Backing, BlockdevSpec, Cache, Discard, NodeRef};

/// An image that a job writes to and closes at its end, unless a front end has gone over to it.
#[derive(Clone, Copy)]
pub struct NewTarget<'a> {
    /// Its file, or an export of a server.
    pub file: &'a str,
    /// Its format; without, it is looked what is there.
    pub format: Option<&'a str>,
    /// The name of its node.
    pub node_name: Option<&'a str>,
    /// It is an image already, and is taken as it is.
    pub exists: bool,
    /// The image that is copied: its size and how the host caches are the new one's.
    pub source: &'a Arc<Node>,
    /// What shows the rest where the new one holds nothing.
    pub beneath: Option<&'a Arc<Node>>,
}

/// An image that a job opened for itself. Dropped, it is closed, unless a front end has gone over to it.
pub struct OwnTarget {
    graph: Arc<Graph>,
    node: Arc<Node>,
}

impl OwnTarget {
    /// The image.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for OwnTarget {
    fn drop(&mut self) {
        if self.node.attached.load(Ordering::Acquire) > 0 {
            return;
        }
        if let Err(error) = self.graph.remove(self.node.name()) {
            log::warn!("{}: {error}", self.node.filename().display());
        }
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, BlockError> {
    Err(BlockError::new(ErrorKind::Invalid, text))
}

/// Makes an image of `size` bytes in `file`, empty, on `beneath`; what was there is lost. At an export of a server there
/// is nothing to be made.
///
/// # Errors
/// When the format is none that can be made or have something beneath, or the file cannot be had.
pub(super) fn make(file: &str, format: &str, size: u64, beneath: Option<&Arc<Node>>) -> Result<(), BlockError> {
    let is_raw = match format {
        "raw" | "file" | "host_device" => true,
        "qcow2" => false,
        "luks" => return refuse("Parameter 'key-secret' is required for cipher"),
        other if Foreign::by_name(other).is_some() => {
            return refuse(format!("Format driver '{other}' does not support image creation"));
        }
        other => return refuse(format!("Unknown file format '{other}'")),
    };
    if is_raw && beneath.is_some() {
        return refuse(format!("Backing file not supported for file format '{format}'"));
    }
    if NbdName::parse(file)?.is_some() {
        let text = "a server's export is taken as it is: give format 'raw', or mode 'existing'";
        return if is_raw { Ok(()) } else { refuse(text) };
    }
    let path = Path::new(file.strip_prefix("file:").unwrap_or(file));
    let file = HostFile::make(path)?;
    if file.is_device() {
        if file.size() < size {
            let text = format!("device '{}' has {} bytes, and {size} are needed", path.display(), file.size());
            return refuse(text);
        }
    } else {
        file.resize(0, Preallocation::Off)?;
    }
    if is_raw {
        return if file.is_device() { Ok(()) } else { file.resize(size, Preallocation::Off) };
    }
    let backing = beneath.map(|node| (node.header_name(path), Some(node.format())));
    let file: Arc<dyn Layer> = Arc::new(file);
    create(&file, None, &CreateOptions { size, backing, ..CreateOptions::default() })?.close()
}

impl Graph {
    /// Opens the node that `spec` describes for a job that writes to it and closes it, whether it has a name or not.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn open_own(self: &Arc<Self>, spec: &BlockdevSpec) -> Result<OwnTarget, BlockError> {
        let node = self.add(spec)?;
        node.asked.store(false, Ordering::Release);
        Ok(OwnTarget { graph: self.clone(), node })
    }

    /// Makes a target if it is not there, and opens it.
    ///
    /// # Errors
    /// When it cannot be made, its file or its name cannot be had, or it is of another format.
    pub fn add_target(self: &Arc<Self>, new: &NewTarget<'_>) -> Result<OwnTarget, BlockError> {
        // Before anything is made.
        if let Some(name) = new.node_name.filter(|name| self.get(name).is_some()) {
            return refuse(format!("Duplicate nodes with node-name='{name}'"));
        }
        self.name_for(new.node_name.or(Some("x")))?;
        if !new.exists {
            make(new.file, new.format.unwrap_or("raw"), new.source.layer().size(), new.beneath)?;
        }
        let discard = if new.source.layer().limits().discard { Discard::Unmap } else { Discard::Ignore };
        let cache = new.source.recipe().cache();
        let file = spec::File { filename: new.file.to_owned(), cache: Some(cache), ..spec::File::default() };
        let file = self.add(&by_name(file)?)?;
        let opened = self.open_target(new, &file, cache, discard);
        match opened {
            Ok(node) => {
                node.asked.store(false, Ordering::Release);
                Ok(OwnTarget { graph: self.clone(), node })
            }
            Err(error) => {
                // It was not written yet.
                let _ = self.remove(file.name());
                Err(error)
            }
        }
    }

    fn open_target(
        &self,
        new: &NewTarget<'_>,
        file: &Arc<Node>,
        cache: Cache,
        discard: Discard,
    ) -> Result<Arc<Node>, BlockError> {
        let probed = match new.format {
            None => Some(probe_layer(file.layer().as_ref())?.map_or("raw", Probed::name)),
            Some(_) => None,
        };
        let raw = spec::Raw {
            node_name: new.node_name.map(str::to_owned),
            file: NodeRef::Name(file.name().to_owned()),
            cache: Some(cache),
            discard: Some(discard),
            ..spec::Raw::default()
        };
        match new.format.or(probed) {
            Some("qcow2") => self.add(&BlockdevSpec::Qcow2(Box::new(spec::Qcow2 {
                node_name: raw.node_name,
                backing: stands_on(new, file)?,
                file: raw.file,
                cache: raw.cache,
                discard: raw.discard,
                ..spec::Qcow2::default()
            }))),
            Some("raw" | "file" | "host_device") if new.beneath.is_some() => {
                refuse(format!("Driver 'raw' of node '{}' does not support backing files", file.name()))
            }
            // A guest that comes to write to it must not make it look like another format.
            Some("raw") if probed.is_some() => self.add_guarded(&raw),
            Some("raw" | "file" | "host_device") => self.add(&BlockdevSpec::Raw(raw)),
            other => refuse(format!("Unknown driver '{}'", other.unwrap_or_default())),
        }
    }
}

/// What the image in `file` stands on: what it is meant for, or what its header names, which is a node of the source's
/// chain where it is the same file.
fn stands_on(new: &NewTarget<'_>, file: &Arc<Node>) -> Result<Backing, BlockError> {
    let by_node = |node: &Arc<Node>| Backing::Node(NodeRef::Name(node.name().to_owned()));
    if !new.exists || new.beneath.is_some() {
        return Ok(new.beneath.map_or(Backing::None, by_node));
    }
    let look = OpenOptions { read_only: true, no_data: true, ..OpenOptions::default() };
    let image = Qcow2::open(file.layer().clone(), &look)?;
    let (Some(name), _) = image.backing_name() else { return Ok(Backing::None) };
    let folder = file.filename().parent().map(Path::to_owned).unwrap_or_default();
    let named = folder.join(name.strip_prefix("file:").unwrap_or(&name)).canonicalize().ok();
    let same = new.source.shown_by().find(|node| named.is_some() && node.filename().canonicalize().ok() == named);
    Ok(same.as_ref().map_or(Backing::Header, by_node))
}
