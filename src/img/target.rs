//! New images: `-O` and `-o` of `create`, `convert`, `dd` and `measure`, checked first, then written.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;

use rhea_block::format::qcow2::{self, Compression, CreateOptions};
use rhea_block::layer::{Layer, Preallocation};
use rhea_block::protocol::file::{FileOptions, HostFile};
use rhea_block::{BlockError, ErrorKind};

use super::error::{ImgError, chain};
use super::{keyval, open, size};

/// Name, form and meaning of an option of a format.
type Known = (&'static str, &'static str, &'static str);

/// Options of qcow2 in the order in which `create` shows them.
const QCOW2: [Known; 12] = [
    ("cluster_size", "size", "bytes of a cluster: a power of two from 512 to 2M"),
    ("extended_l2", "bool (on/off)", "32 subclusters in each cluster"),
    ("preallocation", "str", "space set aside at once: off, metadata, falloc or full"),
    ("compression_type", "str", "how compressed clusters are packed: zlib or zstd"),
    ("size", "size", "bytes of the disk"),
    ("compat", "str", "version of the format: 0.10 (v2) or 1.1 (v3)"),
    ("backing_file", "str", "image beneath this one"),
    ("backing_fmt", "str", "format of the image beneath"),
    ("data_file", "str", "file for the guest's data, with only metadata in the image"),
    ("data_file_raw", "bool (on/off)", "the data file can be used as a raw image at any time"),
    ("lazy_refcounts", "bool (on/off)", "reference counts may be written late"),
    ("refcount_bits", "num", "bits of a reference count: a power of two from 1 to 64"),
];
const RAW: [Known; 2] =
    [("size", "size", "bytes of the disk"), ("preallocation", "str", "space set aside at once: off, falloc or full")];

/// What a new image is to be like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options(Vec<(String, String)>);

impl Options {
    /// The values of all `-o`.
    ///
    /// # Errors
    /// Text that is no option text.
    pub(super) fn read<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, ImgError> {
        let mut options = Self::default();
        for text in texts {
            for (key, value) in keyval::pairs(text)? {
                options.set(&key, value);
            }
        }
        Ok(options)
    }

    /// Whether help was asked for instead.
    pub(super) fn asks_for_help(&self) -> bool {
        self.0.iter().any(|(key, _)| key == "help" || key == "?")
    }

    /// Sets one; an earlier value is lost.
    pub(super) fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.retain(|(k, _)| k != key);
        self.0.push((key.to_owned(), value.into()));
    }

    /// The value of one.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All that were given.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    fn flag(&self, key: &str) -> Result<bool, ImgError> {
        match self.get(key) {
            None | Some("off" | "no" | "false" | "n") => Ok(false),
            Some("on" | "yes" | "true" | "y") => Ok(true),
            Some(_) => Err(ImgError::Said(format!("Parameter '{key}' expects 'on' or 'off'"))),
        }
    }

    fn size(&self, key: &str, default: u64) -> Result<u64, ImgError> {
        self.get(key).map_or(Ok(default), |text| {
            size::parse(text).map_err(|_| ImgError::Said(format!("Parameter '{key}' expects a size")))
        })
    }

    fn preallocation(&self) -> Result<Preallocation, ImgError> {
        self.get("preallocation").map_or(Ok(Preallocation::Off), preallocation)
    }
}

/// A way of setting space aside by name.
///
/// # Errors
/// There is none of that name.
pub(super) fn preallocation(name: &str) -> Result<Preallocation, ImgError> {
    match name {
        "off" => Ok(Preallocation::Off),
        "metadata" => Ok(Preallocation::Metadata),
        "falloc" => Ok(Preallocation::Falloc),
        "full" => Ok(Preallocation::Full),
        _ => Err(ImgError::Said(format!("Parameter 'preallocation' does not accept value '{name}'"))),
    }
}

/// A format that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `raw`.
    Raw,
    /// `qcow2`.
    Qcow2,
}

impl Format {
    /// The format by name.
    ///
    /// # Errors
    /// There is none of that name that can be written.
    pub(super) fn by_name(name: &str) -> Result<Self, ImgError> {
        match name {
            "raw" | "file" | "host_device" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ if open::FORMATS.contains(&name) => {
                Err(ImgError::Said(format!("Format driver '{name}' does not support image creation")))
            }
            _ => Err(ImgError::Said(format!("Unknown file format '{name}'"))),
        }
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    fn known(self) -> &'static [Known] {
        match self {
            Self::Raw => &RAW,
            Self::Qcow2 => &QCOW2,
        }
    }

    /// The text of `-o help`.
    pub(super) fn help(self) -> String {
        let mut text = format!("Supported {} options:", self.name());
        let mut known = self.known().to_vec();
        known.sort_unstable();
        for (name, form, meaning) in known {
            text += &format!("\n  {:<22} - {meaning}", format!("{name}=<{form}>"));
        }
        text
    }

    /// Refuses options that the format does not have.
    ///
    /// # Errors
    /// Naming the first one.
    pub(super) fn check(self, options: &Options) -> Result<(), ImgError> {
        let strange = options.iter().find(|(key, _)| !self.known().iter().any(|(name, ..)| name == key));
        match strange {
            Some((key, _)) => Err(ImgError::Said(format!("Invalid parameter '{key}'"))),
            None => Ok(()),
        }
    }

    /// The line with which `create` begins.
    pub(super) fn formatting(self, path: &str, options: &Options) -> String {
        let mut line = format!("Formatting '{path}', fmt={}", self.name());
        for (key, ..) in self.known() {
            let default = match (self, *key) {
                (Self::Qcow2, "cluster_size") => Some("65536"),
                (Self::Qcow2, "extended_l2" | "lazy_refcounts") => Some("off"),
                (Self::Qcow2, "compression_type") => Some("zlib"),
                (Self::Qcow2, "refcount_bits") => Some("16"),
                _ => None,
            };
            let given = options.get(key).map(|value| match size::parse(value) {
                Ok(bytes) if *key == "cluster_size" || *key == "size" => bytes.to_string(),
                _ => value.to_owned(),
            });
            if let Some(value) = given.as_deref().or(default) {
                line += &format!(" {key}={}", value.replace(',', ",,"));
            }
        }
        line
    }

    /// Checks the options of an image of `bytes` bytes.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub(super) fn plan(self, options: &Options, bytes: u64) -> Result<Plan, ImgError> {
        match self {
            Self::Raw => {
                let preallocation = options.preallocation()?;
                if preallocation == Preallocation::Metadata {
                    return Err(ImgError::Said("Unsupported preallocation mode 'metadata'".to_owned()));
                }
                Ok(Plan::Raw { size: bytes, preallocation })
            }
            Self::Qcow2 => qcow2_plan(options, bytes).map(|options| Plan::Qcow2(Box::new(options))),
        }
    }
}

/// A new image, checked.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    /// A raw file.
    Raw {
        /// Bytes.
        size: u64,
        /// Space set aside.
        preallocation: Preallocation,
    },
    /// A qcow2 image.
    Qcow2(Box<CreateOptions>),
}

fn qcow2_plan(options: &Options, bytes: u64) -> Result<CreateOptions, ImgError> {
    let version = match options.get("compat") {
        None | Some("1.1" | "v3") => 3,
        Some("0.10" | "v2") => 2,
        Some(other) => return Err(ImgError::Said(format!("Invalid parameter '{other}'"))),
    };
    let compression = match options.get("compression_type") {
        None | Some("zlib") => Compression::Zlib,
        Some("zstd") => Compression::Zstd,
        Some(other) => {
            return Err(ImgError::Said(format!("Parameter 'compression_type' does not accept value '{other}'")));
        }
    };
    let raw_data = options.flag("data_file_raw")?;
    let data_file = options.get("data_file").map(|name| (name.to_owned(), raw_data));
    if raw_data && data_file.is_none() {
        return Err(ImgError::Said("data-file-raw requires data-file".to_owned()));
    }
    let refcount_bits = options.size("refcount_bits", 16)?;
    Ok(CreateOptions {
        size: bytes,
        version,
        cluster_size: options.size("cluster_size", 65536)?,
        refcount_bits: u32::try_from(refcount_bits).unwrap_or(u32::MAX),
        lazy_refcounts: options.flag("lazy_refcounts")?,
        extended_l2: options.flag("extended_l2")?,
        compression,
        backing: options
            .get("backing_file")
            .filter(|name| !name.is_empty())
            .map(|name| (name.to_owned(), options.get("backing_fmt").map(str::to_owned))),
        data_file,
        preallocation: options.preallocation()?,
    })
}

impl Plan {
    /// Writes the image; what was in `path` is lost.
    ///
    /// # Errors
    /// When the host cannot hold it, another program has the file, or the options contradict each other.
    pub(super) fn write(&self, path: &str) -> Result<(), ImgError> {
        let path = open::plain_name(path)?;
        self.write_to(Path::new(path)).map_err(|e| ImgError::Said(chain(&e)))
    }

    fn write_to(&self, path: &Path) -> Result<(), BlockError> {
        let file = host_file(path)?;
        match self {
            Self::Raw { size, preallocation } => {
                if file.is_device() {
                    return if file.size() < *size {
                        Err(BlockError::new(ErrorKind::NoSpace, "the device is smaller than the image"))
                    } else {
                        Ok(())
                    };
                }
                file.resize(0, Preallocation::Off)?;
                file.resize(*size, *preallocation)
            }
            Self::Qcow2(options) => {
                let data = match &options.data_file {
                    Some((name, _)) => {
                        let data = host_file(&open::beside(path, name))?;
                        data.resize(0, Preallocation::Off)?;
                        Some(Arc::new(data) as Arc<dyn Layer>)
                    }
                    None => None,
                };
                let file: Arc<dyn Layer> = Arc::new(file);
                qcow2::create(&file, data, options)?.close()
            }
        }
    }
}

/// The host file at `path`, made if it is not there; what is in it stays until the locks are held.
fn host_file(path: &Path) -> Result<HostFile, BlockError> {
    let made = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    drop(made.map_err(|e| BlockError::io(format!("Could not create '{}'", path.display()), e))?);
    HostFile::open(path, FileOptions::default())
}
