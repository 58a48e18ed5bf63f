//! Images on images: opening what a qcow2 header names, no further than that and never by a guess.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::drive::probe_layer;
use super::named::{check_protocol, in_file_system};
use super::open::{Inherited, Parts, Settings, Trail};
use super::reopen::Recipe;
use super::{Graph, Node};
use crate::error::{BlockError, ErrorKind};
use crate::format::Foreign;
use crate::format::qcow2::{CLEAN_INTERVAL, Encryption, OpenOptions, Qcow2, data_file_of};
use crate::format::raw::Raw;
use crate::spec::{self, Backing, BlockdevSpec, EncryptFormat, NodeRef};

impl Graph {
    pub(super) fn open_qcow2(
        &self,
        spec: &spec::Qcow2,
        settings: &Settings,
        trail: &Trail<'_>,
    ) -> Result<Parts, BlockError> {
        let file = self.resolve(&spec.file, settings.below(), trail)?;
        let filename = file.filename().to_owned();
        let context = |e: BlockError| e.within(format!("could not open '{}'", filename.display()));
        let mut children = vec![("file", file.clone())];
        let data_file = self.open_data_file(spec, settings, &file, trail)?;
        if let Some(data) = &data_file {
            children.push(("data-file", data.clone()));
        }
        let image = self.open_image(spec, settings, &file, data_file.as_ref()).map_err(context)?;
        if let Some(backing) = self.open_backing(&image, spec, settings, &filename, trail)? {
            image.set_backing(Some(backing.layer().clone()));
            children.push(("backing", backing));
        }
        let recipe = Recipe { spec: spec.clone(), settings: settings.clone() };
        Ok(Parts { layer: image, filename, children, recipe: Some(Box::new(recipe)) })
    }

    /// The image by itself, in a frame of its own: chains are opened by recursion, which must not go deep in bytes.
    pub(super) fn open_image(
        &self,
        spec: &spec::Qcow2,
        settings: &Settings,
        file: &Arc<Node>,
        data: Option<&Arc<Node>>,
    ) -> Result<Arc<Qcow2>, BlockError> {
        let options = OpenOptions {
            read_only: settings.read_only,
            discard: settings.discard,
            pass_discard_request: spec.pass_discard_request,
            discard_snapshot: spec.pass_discard_snapshot,
            discard_other: spec.pass_discard_other.unwrap_or(false),
            lazy_refcounts: spec.lazy_refcounts,
            data_file: data.map(|node| node.layer().clone()),
            l2_cache_size: spec.l2_cache_size,
            l2_cache_entry_size: spec.l2_cache_entry_size,
            refcount_cache_size: spec.refcount_cache_size,
            cache_size: spec.cache_size,
            encryption: spec.encrypt.as_ref().and_then(|encrypt| encrypt.format).map(|format| match format {
                EncryptFormat::Aes => Encryption::Aes,
                EncryptFormat::Luks => Encryption::Luks,
            }),
            password: self.password(settings)?,
            overlap_check: spec.overlap_check.unwrap_or_default().kinds(),
            no_data: spec.look.no_data,
            snapshot: spec.look.snapshot.clone(),
        };
        let image = Arc::new(Qcow2::open(file.layer().clone(), &options)?);
        if !self.probe_backing && matches!(image.encryption(), Some((Encryption::Aes, _))) {
            let text = "the AES of old qcow2 images is not safe to run a guest on: convert the image, to \
                        encrypt.format=luks";
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        let seconds = spec.cache_clean_interval.unwrap_or(CLEAN_INTERVAL);
        if seconds > 0 {
            Qcow2::clean_every(&image, seconds)?;
        }
        Ok(image)
    }

    fn open_data_file(
        &self,
        spec: &spec::Qcow2,
        settings: &Settings,
        file: &Arc<Node>,
        trail: &Trail<'_>,
    ) -> Result<Option<Arc<Node>>, BlockError> {
        if let Some(node) = &spec.data_file {
            return self.resolve(node, settings.below(), trail).map(Some);
        }
        let Some(name) = data_file_of(file.layer().as_ref())? else { return Ok(None) };
        if name.is_empty() {
            return Err(BlockError::new(ErrorKind::Invalid, "'data-file' is required for this image"));
        }
        // As in QEMU the name is one for the working directory; failing that, the file beside the image is meant.
        let path = match plain(&name)? {
            path if path.exists() => path.to_owned(),
            _ => relative_to(file.filename(), &name)?,
        };
        self.open_spec(&file_spec(&path), settings.below(), &trail.deeper()).map(Some)
    }

    fn open_backing(
        &self,
        image: &Qcow2,
        spec: &spec::Qcow2,
        settings: &Settings,
        filename: &Path,
        trail: &Trail<'_>,
    ) -> Result<Option<Arc<Node>>, BlockError> {
        let above = settings.behind();
        match &spec.backing {
            Backing::None => return Ok(None),
            Backing::Node(node) => return self.resolve(node, above, trail).map(Some),
            Backing::Header => {}
        }
        let (Some(name), format) = image.backing_name() else { return Ok(None) };
        let path = relative_to(filename, &name)?;
        let context = |e: BlockError| e.within("could not open backing file");
        self.open_named(&path, format.as_deref(), filename, above, &trail.down_into(&path)?).map(Some).map_err(context)
    }

    /// Opens the image at `path` that the header of `namer` names.
    fn open_named(
        &self,
        path: &Path,
        format: Option<&str>,
        namer: &Path,
        above: Inherited,
        trail: &Trail<'_>,
    ) -> Result<Arc<Node>, BlockError> {
        let file = self.open_spec(&file_spec(path), above, &trail.deeper())?;
        let format = match format {
            Some(format) => format.to_owned(),
            None if self.probe_backing => {
                probe_layer(file.layer().as_ref())?.map_or("raw", crate::probe::Probed::name).to_owned()
            }
            None => {
                let text = format!(
                    "image '{}' names the backing file '{}' without its format, and formats are not guessed; give it \
                     with rebase -u -F FORMAT, or with backing.driver=",
                    namer.display(),
                    path.display()
                );
                return Err(BlockError::new(ErrorKind::Unsupported, text));
            }
        };
        let below = NodeRef::Name(file.name().to_owned());
        let spec = match format.as_str() {
            "raw" | "file" | "host_device" => BlockdevSpec::Raw(spec::Raw { file: below, ..spec::Raw::default() }),
            "qcow2" => BlockdevSpec::Qcow2(Box::new(spec::Qcow2 { file: below, ..spec::Qcow2::default() })),
            other => match Foreign::by_name(other) {
                Some(format) => {
                    BlockdevSpec::foreign(format, spec::Foreign { file: below, ..spec::Foreign::default() })
                }
                None => {
                    let text = format!("Unknown driver '{other}' for '{}'", path.display());
                    return Err(BlockError::new(ErrorKind::Unsupported, text));
                }
            },
        };
        self.open_spec(&spec, above, trail)
    }

    /// A raw node whose guest must not make it look like another format.
    pub fn add_guarded(&self, spec: &spec::Raw) -> Result<Arc<Node>, BlockError> {
        let settings = Settings::of(&BlockdevSpec::Raw(spec.clone()), Inherited::default())?;
        let file = self.resolve(&spec.file, settings.below(), &Trail::default())?;
        let layer = Arc::new(Raw::new(file.layer().clone(), 0, None)?.guarded());
        let parts = Parts { layer, filename: file.filename().to_owned(), children: vec![("file", file)], recipe: None };
        self.finish(spec.node_name.as_deref(), &settings, parts)
    }
}

fn file_spec(path: &Path) -> BlockdevSpec {
    in_file_system(spec::File { filename: path.display().to_string(), ..spec::File::default() })
}

/// The path that `name`, found in a header, is.
fn plain(name: &str) -> Result<&Path, BlockError> {
    check_protocol(name)?;
    Ok(Path::new(name.strip_prefix("file:").unwrap_or(name)))
}

/// The path that `name`, found in the header of the image at `image`, means.
fn relative_to(image: &Path, name: &str) -> Result<PathBuf, BlockError> {
    let name = plain(name)?;
    Ok(match image.parent() {
        Some(folder) if name.is_relative() => folder.join(name),
        _ => name.to_owned(),
    })
}
