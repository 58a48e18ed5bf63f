//! New images: `-O` and `-o` of `create`, `convert`, `dd` and `measure`, checked first, then written.

use std::path::Path;
use std::sync::Arc;

use rhea_block::crypto::{LuksOptions, Secret, Secrets};
use rhea_block::format::luks::LuksDisk;
use rhea_block::format::qcow2::{self, Compression, CreateOptions};
use rhea_block::layer::{Layer, Preallocation};
use rhea_block::nbd::NbdName;
use rhea_block::protocol::file::HostFile;
use rhea_block::{BlockError, ErrorKind, probe};

use super::error::{ImgError, chain};
use super::open::Want;
use super::{keyval, open, size};

mod encrypt;
mod known;

pub(super) use encrypt::slot_change;
use known::Known;

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
            keyval::check_list(text)?;
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

    /// A switch; off without a value.
    ///
    /// # Errors
    /// Neither on nor off.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ImgError> {
        match self.get(key) {
            None | Some("off" | "no" | "false" | "n") => Ok(false),
            Some("on" | "yes" | "true" | "y") => Ok(true),
            Some(_) => Err(ImgError::Said(format!("Parameter '{key}' expects 'on' or 'off'"))),
        }
    }

    fn size(&self, key: &str, default: u64) -> Result<u64, ImgError> {
        self.get(key).map_or(Ok(default), |text| size::parse(text).map_err(|_| size::not_a_size(key)))
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
    /// `luks`.
    Luks,
}

fn amend_table(format: Format) -> &'static [Known] {
    if format == Format::Luks { &known::AMEND_LUKS } else { &known::AMEND }
}

/// What of an image `amend` changes, for people.
pub(super) fn amend_help(format: Format) -> String {
    known::table(&format!("Amend options for '{}':", format.name()), amend_table(format))
}

/// The names of what `amend` changes.
pub(super) fn amendable(format: Format) -> Vec<&'static str> {
    amend_table(format).iter().map(|(name, ..)| *name).collect()
}

impl Format {
    /// The format by name.
    ///
    /// # Errors
    /// There is none of that name that can be written.
    pub(super) fn by_name(name: &str) -> Result<Self, ImgError> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "luks" => Ok(Self::Luks),
            _ if open::protocol(name).is_some() => Ok(Self::Raw),
            _ if open::FORMATS.contains(&name) => {
                Err(ImgError::Said(format!("Format driver '{name}' does not support image creation")))
            }
            _ => Err(ImgError::Said(format!("Unknown file format '{name}'"))),
        }
    }

    /// The path of the image that is to be made as `name`, in the format that is `called` so by the user.
    ///
    /// # Errors
    /// What is there is not for the protocol of files that the two ask for: devices are not made, nor cut as files are.
    pub(super) fn place<'a>(called: &str, name: &'a str) -> Result<&'a str, ImgError> {
        let (protocol, path) = open::place(Some(called), name);
        match protocol {
            Some("host_device") => open::check_kind("host_device", path).map_err(|e| {
                ImgError::Said(format!(
                    "Protocol driver 'host_device' does not support image creation, and opening the image failed: {e}"
                ))
            })?,
            Some(_) if open::is_device(path) => {
                return Err(ImgError::Said("Could not resize file: Invalid argument".to_owned()));
            }
            _ => {}
        }
        Ok(path)
    }

    /// Makes the image `name` of `bytes` bytes in this format, which is `called` so by the user.
    ///
    /// # Errors
    /// As of [`Format::place`], [`Format::plan`] and [`Plan::write`].
    pub(super) fn make(
        self,
        called: &str,
        name: &str,
        options: &Options,
        bytes: u64,
        secrets: &Secrets,
    ) -> Result<(), ImgError> {
        let place = Self::place(called, name)?;
        self.plan(options, bytes, secrets)?.write(place)
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Luks => "luks",
        }
    }

    /// Whether it has an option of that name when it is made.
    pub(super) fn has(self, key: &str) -> bool {
        self.known().iter().any(|(name, ..)| *name == key)
    }

    fn known(self) -> &'static [Known] {
        match self {
            Self::Raw => &known::RAW,
            Self::Qcow2 => &known::QCOW2,
            Self::Luks => &known::LUKS,
        }
    }

    /// The text of `-o help`.
    pub(super) fn help(self) -> String {
        known::table("Supported options:", self.known())
    }

    /// Refuses options that the format does not have.
    ///
    /// # Errors
    /// Naming the first one.
    pub(super) fn check(self, options: &Options) -> Result<(), ImgError> {
        let strange = options.iter().find(|(key, _)| !self.has(key));
        match strange {
            Some((key, _)) => Err(ImgError::Said(format!("Invalid parameter '{key}'"))),
            None => self.check_forms(options),
        }
    }

    /// Refuses values that are not of their option's form.
    fn check_forms(self, options: &Options) -> Result<(), ImgError> {
        for (name, form, _) in self.known() {
            match *form {
                known::SWITCH => drop(options.flag(name)?),
                "size" => drop(options.size(name, 0)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The line with which `create` begins; the format is `called` so by the user.
    pub(super) fn formatting(self, called: &str, path: &str, options: &Options) -> String {
        let mut line = format!("Formatting '{path}', fmt={called}");
        for (key, ..) in self.known() {
            let default = match (self, *key) {
                (Self::Qcow2, "cluster_size") => Some("65536"),
                (Self::Qcow2, "extended_l2" | "lazy_refcounts") => Some("off"),
                (Self::Qcow2, "compression_type") => Some("zlib"),
                (Self::Qcow2, "refcount_bits") => Some("16"),
                _ => None,
            };
            let given = options.get(key).map(|value| match size::parse(value) {
                Ok(bytes) if ["cluster_size", "size", "extent_size_hint"].contains(key) => bytes.to_string(),
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
    pub(super) fn plan(self, options: &Options, bytes: u64, secrets: &Secrets) -> Result<Plan, ImgError> {
        let placing = Placing { nocow: options.flag("nocow")? };
        if options.size("extent_size_hint", 0)? != 0 {
            let text = "extent_size_hint is not supported: the file system chooses extents itself; leave it out";
            return Err(ImgError::Said(text.to_owned()));
        }
        match self {
            Self::Raw => {
                let preallocation = options.preallocation()?;
                if preallocation == Preallocation::Metadata {
                    return Err(ImgError::Said("Unsupported preallocation mode: metadata".to_owned()));
                }
                Ok(Plan { placing, format: Made::Raw { size: bytes.next_multiple_of(512), preallocation } })
            }
            Self::Luks => {
                let (password, header) = encrypt::luks(options, "", secrets)?;
                let preallocation = options.preallocation()?;
                Ok(Plan { placing, format: Made::Luks { size: bytes, preallocation, password, header } })
            }
            Self::Qcow2 => {
                let options =
                    CreateOptions { encrypt: encrypt::qcow2(options, secrets)?, ..qcow2_plan(options, bytes)? };
                Ok(Plan { placing, format: Made::Qcow2(Box::new(options)) })
            }
        }
    }
}

/// How the host places the file.
#[derive(Debug, Clone, Copy)]
struct Placing {
    /// btrfs is asked not to copy on write.
    nocow: bool,
}

/// A new image, checked.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    placing: Placing,
    /// What is in it.
    pub(super) format: Made,
}

/// What is in a new image.
#[derive(Debug, Clone)]
pub(super) enum Made {
    /// A raw file.
    Raw {
        /// Bytes.
        size: u64,
        /// Space set aside.
        preallocation: Preallocation,
    },
    /// A LUKS volume.
    Luks {
        /// Bytes of the disk.
        size: u64,
        /// Space set aside.
        preallocation: Preallocation,
        /// The password of the first key slot.
        password: Secret,
        /// The header.
        header: LuksOptions,
    },
    /// A qcow2 image.
    Qcow2(Box<CreateOptions>),
}

impl Made {
    /// Refuses to set space aside on a device, in QEMU's words: it has what it has.
    fn check_device(&self) -> Result<(), BlockError> {
        let beneath = |mode| {
            format!(
                "Could not resize image: Failed to resize underlying file: Preallocation mode '{mode}' unsupported for \
                 this non-regular file"
            )
        };
        let mode = |preallocation| match preallocation {
            Preallocation::Falloc => Some("falloc"),
            Preallocation::Full => Some("full"),
            Preallocation::Off | Preallocation::Metadata => None,
        };
        let text = match self {
            Self::Raw { preallocation, .. } => {
                mode(*preallocation).map(|mode| format!("Unsupported preallocation mode '{mode}'"))
            }
            Self::Luks { preallocation, .. } => mode(*preallocation).map(beneath),
            // What is set aside is in the data file then.
            Self::Qcow2(options) if options.data_file.is_some() => None,
            Self::Qcow2(options) => mode(options.preallocation).map(beneath),
        };
        text.map_or(Ok(()), |text| Err(BlockError::new(ErrorKind::Unsupported, text)))
    }
}

fn qcow2_plan(options: &Options, bytes: u64) -> Result<CreateOptions, ImgError> {
    let version = match options.get("compat") {
        None | Some("1.1" | "v3") => 3,
        Some("0.10" | "v2") => 2,
        Some(other) => {
            return Err(ImgError::Said(format!("Parameter 'version' does not accept value '{other}'")));
        }
    };
    let compression = match options.get("compression_type") {
        None | Some("zlib") => Compression::Zlib,
        Some("zstd") => Compression::Zstd,
        Some(other) => {
            return Err(ImgError::Said(format!("Parameter 'compression-type' does not accept value '{other}'")));
        }
    };
    if options.get("backing_fmt").is_some() && options.get("backing_file").is_none() {
        return Err(ImgError::Said("Backing format cannot be used without backing file".to_owned()));
    }
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
        encrypt: None,
    })
}

impl Plan {
    /// Writes the image; what was in `path`, a [`Format::place`], is lost.
    ///
    /// # Errors
    /// When the host cannot hold it, another program has the file, or the options contradict each other.
    pub(super) fn write(&self, path: &str) -> Result<(), ImgError> {
        let told = |e: BlockError| ImgError::Said(chain(&e));
        if let Made::Qcow2(options) = &self.format {
            // Before a file is touched.
            options.check().map_err(told)?;
            if let Some((data, _)) = &options.data_file {
                check_data_file(data)?;
            }
        }
        if NbdName::parse(path).map_err(told)?.is_some() {
            return self.write_to_export(path);
        }
        let path = Path::new(path);
        let was_there = path.symlink_metadata().is_ok();
        self.write_to(path).map_err(|e| {
            if !was_there && let Err(e) = std::fs::remove_file(path) {
                log::debug!("{}: {e}", path.display());
            }
            told(e)
        })
    }

    /// Writes the image into the export of a server, which has the size it has.
    fn write_to_export(&self, name: &str) -> Result<(), ImgError> {
        let below = open::open_file(name, Want { format: Some("raw"), write: true, ..Want::default() })?;
        let export = &below.layer;
        let told = |e: BlockError| ImgError::Said(chain(&e));
        match &self.format {
            Made::Raw { size, .. } if export.size() < *size => {
                Err(ImgError::Said(format!("the export has only {} bytes, not {size}", export.size())))
            }
            Made::Raw { .. } => forget_format(export.as_ref()).map_err(told),
            Made::Luks { .. } => Err(ImgError::Said("LUKS volumes are not made on servers: make a file".to_owned())),
            Made::Qcow2(options) if options.data_file.is_some() => {
                Err(ImgError::Said("an image on a server has no external data file: leave out data_file".to_owned()))
            }
            Made::Qcow2(options) => qcow2::create(export, None, options).and_then(|image| image.close()).map_err(told),
        }
    }

    fn write_to(&self, path: &Path) -> Result<(), BlockError> {
        let file = HostFile::make(path)?;
        if file.is_device() {
            self.format.check_device()?;
        } else if self.placing.nocow {
            file.clear(true)?;
        }
        match &self.format {
            Made::Raw { size, preallocation } => {
                if file.is_device() {
                    return if file.size() < *size {
                        Err(BlockError::new(ErrorKind::NoSpace, "Cannot grow device files"))
                    } else {
                        forget_format(&file)
                    };
                }
                file.resize(0, Preallocation::Off)?;
                file.resize(*size, *preallocation)
            }
            Made::Luks { size, preallocation, password, header } => {
                file.resize(0, Preallocation::Off)?;
                let file: Arc<dyn Layer> = Arc::new(file);
                LuksDisk::create(&file, *size, header, password, *preallocation)
            }
            Made::Qcow2(options) => {
                let data = match &options.data_file {
                    Some((name, _)) => {
                        let data = HostFile::make(Path::new(name.strip_prefix("file:").unwrap_or(name)))?;
                        data.resize(0, Preallocation::Off)?;
                        if data.is_device() {
                            forget_format(&data)?;
                        }
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

/// Refuses the name of a data file that cannot be made, or that is not followed when the image is opened.
fn check_data_file(name: &str) -> Result<(), ImgError> {
    let path = Format::place("", name)?;
    if name.starts_with("host_device:") {
        return Err(ImgError::Said(format!("data_file is a path: write '{path}' without host_device: before it")));
    }
    Ok(())
}

/// Zeroes the first sector of what keeps its content: as in QEMU that is not to be taken for an image of another format.
fn forget_format(layer: &dyn Layer) -> Result<(), BlockError> {
    layer.write_zeroes(0, layer.size().min(probe::SECTOR as u64), false)?;
    layer.flush()
}

/// Refuses to make an image at `path` where the file is that shall lie beneath it: that would be lost.
///
/// # Errors
/// It is that file, by this or another name.
pub(super) fn refuse_own_backing(path: &str, options: &Options) -> Result<(), ImgError> {
    let Some(name) = options.get("backing_file").filter(|name| !name.is_empty()) else { return Ok(()) };
    let image = Path::new(path.strip_prefix("file:").unwrap_or(path));
    if path == name || open::is_same_file(image, &open::beside(image, name)) {
        let text = "Error: Trying to create an image with the same filename as the backing file";
        return Err(ImgError::Said(text.to_owned()));
    }
    Ok(())
}
