//! From what the user calls an image to an open node: a file name with or without a format, or `--image-opts`.

use std::fs::FileType;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rhea_block::crypto::Secrets;
use rhea_block::format::Foreign;
use rhea_block::format::qcow2::{NO_SNAPSHOT, Qcow2, SnapshotRef};
use rhea_block::graph::{CacheMode, Graph, Node, by_name};
use rhea_block::layer::{Layer, read_vec};
use rhea_block::nbd::NbdName;
use rhea_block::spec::{self, Aio, BlockdevSpec, Cache, Discard, Encrypt, Look, NodeRef};
use rhea_block::{BlockError, probe};

use super::args::{Opt, Parsed};
use super::error::ImgError;
use super::keyval;
use crate::sentence::{plain, to_stderr};

mod options;

/// Options that every verb with an image has.
pub(super) const IMAGE_OPTS: Opt = Opt::long_flag("image-opts");
/// `--object`.
pub(super) const OBJECT: Opt = Opt::long_value("object");
/// `-U`.
pub(super) const FORCE_SHARE: Opt = Opt::flag('U').or("force-share");

/// The formats that can be asked for with `-f`.
pub(super) const FORMATS: [&str; 9] = ["luks", "parallels", "qcow2", "qed", "raw", "vdi", "vhdx", "vmdk", "vpc"];

/// The protocols of files, which are asked for as a format (`-f`) or before a path (`file:`).
const PROTOCOLS: [&str; 2] = ["file", "host_device"];

/// The protocol of files by name.
pub(super) fn protocol(name: &str) -> Option<&'static str> {
    PROTOCOLS.into_iter().find(|protocol| *protocol == name)
}

/// Whether an image can be of that format, or be no more than what holds it.
pub(super) fn is_driver(name: &str) -> bool {
    FORMATS.contains(&name) || protocol(name).is_some()
}

/// How an image is to be opened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Want<'a> {
    /// The format, or none to probe it.
    pub(super) format: Option<&'a str>,
    /// The name is `--image-opts` text.
    pub(super) image_opts: bool,
    /// Others may write at the same time (`-U`).
    pub(super) force_share: bool,
    /// It will be written.
    pub(super) write: bool,
    /// Leave out what is beneath it.
    pub(super) no_backing: bool,
    /// The image so many beneath it will be written (0: none).
    pub(super) write_beneath: usize,
    /// How the host caches.
    pub(super) cache: CacheMode,
    /// Who moves the bytes.
    pub(super) aio: Option<Aio>,
    /// The user is warned that a probed raw image is guarded.
    pub(super) warn: bool,
    /// Only metadata is of interest: an encrypted image needs no key.
    pub(super) no_data: bool,
    /// As it was at an internal snapshot.
    pub(super) snapshot: Option<&'a SnapshotRef>,
    /// Name of the secret that opens it, where it was just made.
    pub(super) key_secret: Option<&'a str>,
    /// The passwords that `--object` gave.
    pub(super) secrets: Option<&'a Secrets>,
}

impl<'a> Want<'a> {
    /// What the options common to all verbs say, for reading.
    ///
    /// # Errors
    /// `--image-opts` and a format.
    pub(super) fn of(parsed: &'a Parsed) -> Result<Self, ImgError> {
        let image_opts = parsed.has("image-opts");
        let format = parsed.get("f");
        if image_opts && format.is_some() {
            return Err(ImgError::Said("--image-opts and --format are mutually exclusive".to_owned()));
        }
        let secrets = Some(&parsed.secrets);
        Ok(Self { format, image_opts, force_share: parsed.has("force-share"), secrets, ..Self::default() })
    }

    /// The same for writing.
    pub(super) fn writing(self) -> Self {
        Self { write: true, warn: true, ..self }
    }
}

/// Which snapshot `-l` means: `snapshot.id=`, `snapshot.name=`, or a number or name.
///
/// # Errors
/// Another key.
pub(super) fn snapshot_ref(text: &str) -> Result<SnapshotRef, ImgError> {
    if !text.starts_with("snapshot.") {
        return Ok(SnapshotRef::Either(text.to_owned()));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in keyval::pairs(text)? {
        match key.as_str() {
            "snapshot.id" => id = Some(value),
            "snapshot.name" => name = Some(value),
            _ => {
                return Err(ImgError::Lines(vec![
                    format!("Invalid parameter '{key}'"),
                    format!("Failed in parsing snapshot param '{text}'"),
                ]));
            }
        }
    }
    Ok(SnapshotRef::Both { id, name })
}

/// A cache mode by name.
///
/// # Errors
/// There is none of that name.
pub(super) fn cache_mode(what: &str, name: Option<&str>, default: CacheMode) -> Result<CacheMode, ImgError> {
    match name {
        None => Ok(default),
        Some(name) => {
            CacheMode::by_name(name).ok_or_else(|| ImgError::Said(format!("Invalid {what}cache option: {name}")))
        }
    }
}

/// An open image with its graph. Dropped, it is closed; [`Image::close`] tells whether that went well.
pub(super) struct Image {
    pub(super) graph: Graph,
    pub(super) node: Arc<Node>,
    /// The name the user gave.
    pub(super) name: String,
}

impl Image {
    /// Its content.
    pub(super) fn layer(&self) -> &Arc<dyn Layer> {
        self.node.layer()
    }

    /// Refuses what is open for reading only, in QEMU's words, before anything is done. Formats that are only read here
    /// say so themselves.
    ///
    /// # Errors
    /// It is.
    pub(super) fn check_writable(&self) -> Result<(), ImgError> {
        let layer = self.layer();
        if layer.limits().read_only && Foreign::by_name(layer.driver()).is_none() {
            return Err(ImgError::Said(format!("Could not open '{}': Block node is read-only", self.name)));
        }
        Ok(())
    }

    /// Writes back what is in memory.
    ///
    /// # Errors
    /// When it could not be written.
    pub(super) fn close(&self) -> Result<(), ImgError> {
        self.graph.close_all().map_err(ImgError::block(format!("Could not write '{}'", self.name)))
    }
}

/// Opens the image `name`.
///
/// # Errors
/// It is not there, is not what it should be, or others have it.
pub(super) fn open(name: &str, want: Want<'_>) -> Result<Image, ImgError> {
    let graph = graph(want);
    let node = open_in(&graph, name, want)?;
    if want.snapshot.is_some() && node.layer().as_any().downcast_ref::<Qcow2>().is_none() {
        return Err(ImgError::Said(format!(
            "Failed to load snapshot: Block format '{}' used by device '' does not support temporarily loading internal \
             snapshots",
            node.layer().driver()
        )));
    }
    Ok(Image { graph, node, name: name.to_owned() })
}

/// A graph that knows the passwords.
fn graph(want: Want<'_>) -> Graph {
    match want.secrets {
        Some(secrets) => Graph::probing().with_secrets(secrets.clone()),
        None => Graph::probing(),
    }
}

fn open_in(graph: &Graph, name: &str, want: Want<'_>) -> Result<Arc<Node>, ImgError> {
    let fail = |e: BlockError| not_open(name, e);
    check_sharing(name, want)?;
    if let Some(object) = options::given(name, want)? {
        return options::open(graph, name, object, want);
    }
    let file = graph.add(&file_spec(name, want)?).map_err(fail)?;
    let format = match want.format {
        Some(format) => format.to_owned(),
        None => probed(file.layer().as_ref()).map_err(fail)?.unwrap_or_else(|| "raw".to_owned()),
    };
    let guard = want.format.is_none() && format == "raw" && want.write;
    if guard && want.warn {
        to_stderr(raw_warning(name));
    }
    if guard {
        return graph.add_guarded(&raw_spec(NodeRef::Name(file.name().to_owned()), want)).map_err(fail);
    }
    let spec = format_spec(&format, NodeRef::Name(file.name().to_owned()), want)
        .ok_or_else(|| ImgError::Said(format!("Could not open '{name}': Unknown driver '{format}'")))?;
    graph.add(&spec).map_err(fail)
}

/// Why the image `name` is not open. A snapshot that is not there is no fault of the image's.
fn not_open(name: &str, e: BlockError) -> ImgError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    while let Some(found) = cause {
        if found.to_string() == NO_SNAPSHOT {
            return ImgError::Said(format!("{NO_SNAPSHOT}: Can't find snapshot"));
        }
        cause = found.source();
    }
    ImgError::Block { context: format!("Could not open '{name}'"), source: e }
}

/// The file beneath an image, for verbs that work on a format's own tables.
pub(super) struct FileBelow {
    pub(super) layer: Arc<dyn Layer>,
    /// The format that was given or found.
    pub(super) format: String,
    /// Options name the data file.
    pub(super) data_file_given: bool,
    /// Keeps the file open.
    _graph: Graph,
}

/// Opens only the file of the image `name`, with no look into its format but the probe.
///
/// # Errors
/// As [`open`].
pub(super) fn open_file(name: &str, want: Want<'_>) -> Result<FileBelow, ImgError> {
    check_sharing(name, want)?;
    let graph = graph(want);
    let fail = |e: BlockError| ImgError::Block { context: format!("Could not open '{name}'"), source: e };
    let object = options::given(name, want)?;
    let data_file_given = object.as_ref().is_some_and(|object| object.contains_key("data-file"));
    let (file, given) = match object {
        Some(object) => options::file_of(name, object, want)?,
        None => (file_spec(name, want)?, want.format.map(str::to_owned)),
    };
    let file = graph.add(&file).map_err(fail)?;
    let format = match given {
        Some(format) => format,
        None => probed(file.layer().as_ref()).map_err(fail)?.unwrap_or_else(|| "raw".to_owned()),
    };
    Ok(FileBelow { layer: file.layer().clone(), format, data_file_given, _graph: graph })
}

/// Refuses to write to an image beside others (`-U`).
fn check_sharing(name: &str, want: Want<'_>) -> Result<(), ImgError> {
    if want.force_share && want.write {
        let text = format!("Could not open '{name}': force-share=on can only be used with read-only images");
        return Err(ImgError::Said(text));
    }
    Ok(())
}

/// The protocol of files that the format or what `name` begins with asks for, and the path. As in QEMU the name of
/// another protocol than the format's is part of the path.
pub(super) fn place<'a>(format: Option<&str>, name: &'a str) -> (Option<&'static str>, &'a str) {
    let asked = format.and_then(protocol);
    let named = name.split_once(':').and_then(|(before, path)| Some((protocol(before)?, path)));
    match named {
        Some((protocol, path)) if asked.is_none_or(|asked| asked == protocol) => (Some(protocol), path),
        _ => (asked, name),
    }
}

/// Refuses what the protocol is not for, in QEMU's words.
///
/// # Errors
/// It is not there, or something else.
pub(super) fn check_kind(protocol: &str, path: &str) -> Result<(), ImgError> {
    if path.is_empty() {
        return Err(ImgError::Said(format!("The '{protocol}' block driver requires a file name")));
    }
    let what = std::fs::metadata(path)
        .map_err(|e| ImgError::Said(format!("Could not open '{path}': {}", plain(&e.to_string()))))?;
    let kind = what.file_type();
    let (fits, wanted) = match protocol {
        "host_device" => (is_of_device(kind), "either a character or block device"),
        _ => (kind.is_file(), "a regular file"),
    };
    if fits {
        return Ok(());
    }
    Err(ImgError::Said(format!("'{protocol}' driver requires '{path}' to be {wanted}")))
}

/// Whether a device is there.
pub(super) fn is_device(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|what| is_of_device(what.file_type()))
}

fn is_of_device(kind: FileType) -> bool {
    kind.is_block_device() || kind.is_char_device()
}

/// Refuses a name that begins with the name of a protocol that is not known.
///
/// # Errors
/// It does.
pub(super) fn check_protocol(name: &str) -> Result<(), ImgError> {
    match name.split_once(':').filter(|_| matches!(NbdName::parse(name), Ok(None))) {
        Some((scheme, _)) if protocol(scheme).is_none() && !scheme.contains('/') && !Path::new(name).exists() => {
            Err(ImgError::Said(format!("Unknown protocol '{scheme}'")))
        }
        _ => Ok(()),
    }
}

/// The node for the file itself, or for the export of a server that the name means.
fn file_spec(name: &str, want: Want<'_>) -> Result<BlockdevSpec, ImgError> {
    // A file that is there is meant, whatever its name looks like.
    let exists = Path::new(name).exists();
    let (asked, path) = if exists { (want.format.and_then(protocol), name) } else { place(want.format, name) };
    let asked = asked.or_else(|| name.is_empty().then_some("file"));
    if let Some(asked) = asked {
        check_kind(asked, path).map_err(|e| ImgError::Said(format!("Could not open '{name}': {e}")))?;
    }
    // As in QEMU a colon in it does not make it another protocol for who takes the name from us.
    let here = |path: &str| if path.split('/').next().is_some_and(|first| first.contains(':')) { "./" } else { "" };
    let is_path = exists || asked.is_some();
    let file = spec::File {
        filename: if is_path { format!("file:{}{path}", here(path)) } else { name.to_owned() },
        read_only: Some(!want.write),
        force_share: Some(want.force_share),
        discard: Some(Discard::Unmap),
        cache: Some(cache(want)),
        aio: want.aio,
        ..spec::File::default()
    };
    by_name(file).map_err(ImgError::block(format!("Could not open '{name}'")))
}

fn cache(want: Want<'_>) -> Cache {
    Cache { direct: Some(want.cache.direct()), no_flush: Some(want.cache.no_flush()) }
}

fn raw_spec(file: NodeRef, want: Want<'_>) -> spec::Raw {
    spec::Raw {
        file,
        read_only: Some(!want.write),
        force_share: Some(want.force_share),
        discard: Some(Discard::Unmap),
        cache: Some(cache(want)),
        ..spec::Raw::default()
    }
}

/// The node for a format on `file`; `None` when the format is none of ours.
fn format_spec(format: &str, file: NodeRef, want: Want<'_>) -> Option<BlockdevSpec> {
    let raw = raw_spec(file, want);
    match format {
        "raw" | "file" | "host_device" => Some(BlockdevSpec::Raw(raw)),
        "qcow2" => Some(BlockdevSpec::Qcow2(Box::new(spec::Qcow2 {
            read_only: raw.read_only,
            force_share: raw.force_share,
            discard: raw.discard,
            cache: raw.cache,
            file: raw.file,
            backing: options::backing(None, want),
            encrypt: want.key_secret.map(|id| Encrypt { key_secret: Some(id.to_owned()), format: None }),
            look: look(want),
            ..spec::Qcow2::default()
        }))),
        "luks" => Some(BlockdevSpec::Luks(spec::Luks {
            read_only: raw.read_only,
            force_share: raw.force_share,
            cache: raw.cache,
            file: raw.file,
            key_secret: want.key_secret.map(str::to_owned),
            look: look(want),
            ..spec::Luks::default()
        })),
        other => {
            let foreign = spec::Foreign {
                read_only: raw.read_only,
                force_share: raw.force_share,
                cache: raw.cache,
                file: raw.file,
                ..spec::Foreign::default()
            };
            Foreign::by_name(other).map(|format| BlockdevSpec::foreign(format, foreign))
        }
    }
}

fn look(want: Want<'_>) -> Look {
    Look { no_data: want.no_data, snapshot: want.snapshot.cloned() }
}

/// The format that the content of `layer` shows, other than raw.
///
/// # Errors
/// It cannot be read.
pub(super) fn probed(layer: &dyn Layer) -> Result<Option<String>, BlockError> {
    let head = read_vec(layer, 0, probe::SECTOR)?;
    Ok(probe::format_of(&head).map(|found| found.name().to_owned()))
}

/// Whether both are there and one file.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// The path that `name`, written in the header of the image at `image`, means.
pub(super) fn beside(image: &Path, name: &str) -> PathBuf {
    let name = Path::new(name.strip_prefix("file:").unwrap_or(name));
    match image.parent() {
        Some(folder) if name.is_relative() => folder.join(name),
        _ => name.to_owned(),
    }
}

fn raw_warning(name: &str) -> String {
    format!(
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         Automatically \
         detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions."
    )
}
