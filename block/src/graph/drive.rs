//! `-drive` and `-hda`: a file name, a format or none, a cache mode, turned into nodes.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

pub(super) mod options;

use super::{Graph, Node};
use crate::error::{BlockError, ErrorKind};
use crate::layer::Layer;
use crate::mem::Sink;
use crate::probe::{self, Probed};
use crate::spec::{self, Aio, BlockdevSpec, Cache, DetectZeroes, Discard, Locking, NodeRef};

/// `cache=`: what the host's page cache and the guest's idea of a write cache are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Page cache, the guest flushes.
    #[default]
    Writeback,
    /// No page cache, the guest flushes.
    None,
    /// Page cache, every write is flushed.
    Writethrough,
    /// No page cache, every write is flushed.
    Directsync,
    /// Page cache, flushes are ignored.
    Unsafe,
}

impl CacheMode {
    /// The mode by its name on the command line.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "writeback" => Self::Writeback,
            "none" | "off" => Self::None,
            "writethrough" => Self::Writethrough,
            "directsync" => Self::Directsync,
            "unsafe" => Self::Unsafe,
            _ => return None,
        })
    }

    /// Bypass the page cache.
    #[must_use]
    pub fn direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    /// Ignore flushes.
    #[must_use]
    pub fn no_flush(self) -> bool {
        self == Self::Unsafe
    }

    /// The guest sees a volatile write cache.
    #[must_use]
    pub fn write_cache(self) -> bool {
        !matches!(self, Self::Writethrough | Self::Directsync)
    }
}

/// What `-drive` says about an image.
#[derive(Debug, Clone, Default)]
pub struct DriveSpec {
    /// The image's path.
    pub file: String,
    /// Its format; without, it is probed.
    pub format: Option<String>,
    /// Name for the node on top.
    pub node_name: Option<String>,
    /// Refuse writes.
    pub read_only: bool,
    /// Where not read-only: fall back to it if the host refuses writing.
    pub auto_read_only: bool,
    /// `cache.direct`.
    pub direct: bool,
    /// `cache.no-flush`.
    pub no_flush: bool,
    /// Who moves the bytes.
    pub aio: Option<Aio>,
    /// What happens to discards.
    pub discard: Discard,
    /// What happens to zeroes.
    pub detect_zeroes: DetectZeroes,
    /// Locks.
    pub locking: Option<Locking>,
    /// Let others write at the same time.
    pub force_share: bool,
    /// Throw-away writes: an overlay in an unlinked temporary file.
    pub snapshot: bool,
    /// Keep in the image what was read from its backing file.
    pub copy_on_read: bool,
    /// Options of the format, and under `file` those of the protocol, as `-blockdev` takes them. They go before what
    /// the fields here say.
    pub block: Map<String, Value>,
}

/// An opened drive.
pub struct OpenedDrive {
    /// The node on top.
    pub node: Arc<Node>,
    /// What to tell the user.
    pub warning: Option<String>,
}

/// Drivers that have nothing beneath them.
const PROTOCOLS: [&str; 5] = ["file", "host_device", "nbd", "null-aio", "null-co"];

/// The options of a drive without a file are those of a protocol, which lies beneath `raw` here.
fn self_contained(drive: &DriveSpec, block: &mut Map<String, Value>) -> Result<(), BlockError> {
    let refuse = |text: &str| Err(BlockError::new(ErrorKind::Invalid, text));
    let driver = block.get("driver").and_then(Value::as_str).or(drive.format.as_deref());
    match driver {
        None => refuse("Must specify either driver or file"),
        Some(driver) if !PROTOCOLS.contains(&driver) => refuse("A block device must be specified for \"file\""),
        Some(driver) => {
            let driver = driver.to_owned();
            let mut beneath = std::mem::take(block);
            beneath.insert("driver".to_owned(), driver.into());
            block.insert("file".to_owned(), Value::Object(beneath));
            Ok(())
        }
    }
}

impl Graph {
    /// Opens what `-drive` asks for.
    ///
    /// # Errors
    /// As [`Graph::add`], and when the format is none of ours.
    pub fn open_drive(&self, drive: &DriveSpec) -> Result<OpenedDrive, BlockError> {
        self.all_or_nothing(|| self.open_whole_drive(drive))
    }

    fn open_whole_drive(&self, drive: &DriveSpec) -> Result<OpenedDrive, BlockError> {
        let mut block = drive.block.clone();
        // Before anything is opened.
        let driver = drive.format.as_deref().or_else(|| block.get("driver").and_then(Value::as_str));
        if let Some(unknown) = driver.filter(|driver| !BlockdevSpec::DRIVERS.contains(driver)) {
            return Err(BlockError::new(ErrorKind::Invalid, format!("Unknown driver '{unknown}'")));
        }
        if drive.file.is_empty() && !block.contains_key("file") {
            self_contained(drive, &mut block)?;
            block.insert("driver".to_owned(), "raw".into());
        }
        // Beneath a throw-away overlay nothing is written.
        let read_only = drive.read_only || drive.snapshot;
        let file = self.add(&options::protocol_of(drive, read_only, block.remove("file"))?)?;
        self.open_format(drive, read_only, &file, block)
            .and_then(|opened| if drive.snapshot { self.add_throw_away(drive, opened) } else { Ok(opened) })
            .and_then(|opened| if drive.copy_on_read { self.add_copy_on_read(opened) } else { Ok(opened) })
    }

    fn open_format(
        &self,
        drive: &DriveSpec,
        read_only: bool,
        file: &Arc<Node>,
        mut block: Map<String, Value>,
    ) -> Result<OpenedDrive, BlockError> {
        let mut warning = None;
        let driver = block.remove("driver").and_then(|driver| driver.as_str().map(str::to_owned));
        if driver.is_some() && drive.format.is_some() && driver != drive.format {
            return Err(BlockError::new(ErrorKind::Invalid, "Cannot specify both 'driver' and 'format'"));
        }
        let given = drive.format.clone().or(driver).map(|given| {
            // See `self_contained`.
            if PROTOCOLS.contains(&&*given) && drive.file.is_empty() { "raw".to_owned() } else { given }
        });
        let probed = given.is_none();
        let format = match given {
            Some(format) => format,
            None => match probe_layer(file.layer().as_ref())? {
                Some(found) => found.name().to_owned(),
                None => {
                    if !read_only {
                        warning = Some(raw_warning(&drive.file));
                    }
                    "raw".to_owned()
                }
            },
        };
        let raw = spec::Raw {
            node_name: (!drive.snapshot).then(|| drive.node_name.clone()).flatten(),
            read_only: Some(read_only),
            auto_read_only: Some(drive.auto_read_only),
            force_share: Some(drive.force_share),
            discard: Some(drive.discard),
            detect_zeroes: Some(drive.detect_zeroes),
            cache: Some(Cache { direct: Some(drive.direct), no_flush: Some(drive.no_flush) }),
            file: NodeRef::Name(file.name().to_owned()),
            ..spec::Raw::default()
        };
        let node = match format.as_str() {
            "raw" if probed && !read_only => self.add_guarded(&options::raw_of(raw, block)?)?,
            "raw" | "qcow2" | "luks" => self.add(&options::format_of(&format, raw, block)?)?,
            other => {
                let text = format!("'{}' cannot be opened as '{other}'; raw, qcow2 and luks can be used", drive.file);
                return Err(BlockError::new(ErrorKind::Unsupported, text));
            }
        };
        Ok(OpenedDrive { node, warning })
    }

    /// Puts the filter for `copy-on-read=on` on what `opened` is.
    fn add_copy_on_read(&self, opened: OpenedDrive) -> Result<OpenedDrive, BlockError> {
        let spec = spec::CopyOnRead {
            file: NodeRef::Name(opened.node.name().to_owned()),
            discard: Some(Discard::Unmap),
            ..spec::CopyOnRead::default()
        };
        let node = self.add(&BlockdevSpec::CopyOnRead(spec))?;
        Ok(OpenedDrive { node, ..opened })
    }
}

/// What the content of `layer` looks like.
pub(super) fn probe_layer(layer: &dyn Layer) -> Result<Option<Probed>, BlockError> {
    let mut head = [0u8; probe::SECTOR];
    layer.read(Sink::of(&mut head), 0)?;
    Ok(probe::format_of(&head))
}

fn raw_warning(file: &str) -> String {
    format!(
        "Image format was not specified for '{}' and probing guessed raw.\n         Automatically detecting the format \
         is dangerous for raw images, write operations on block 0 will be restricted.\n         Specify the 'raw' \
         format explicitly to remove the restrictions.",
        Path::new(file).display()
    )
}
