//! Images on images: opening what a qcow2 header names, no further than that and never by a guess.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::drive::{options, probe_layer};
use super::named::{check_protocol, in_file_system};
use super::open::{Beneath, Inherited, Parts, Settings, Trail};
use super::reopen::Recipe;
use super::{Graph, Node};
use crate::error::{BlockError, ErrorKind};
use crate::filter::place::Place;
use crate::format::Foreign;
use crate::format::qcow2::{Encryption, OpenOptions, Qcow2, data_file_of};
use crate::format::raw::Raw;
use crate::layer::Layer;
use crate::spec::{self, Backing, BlockdevSpec, EncryptFormat, NodeRef};

impl Graph {
    /// An image, and what it stands on, which is not opened yet unless it is there.
    pub(super) fn open_qcow2(
        &self,
        spec: &spec::Qcow2,
        settings: &Settings,
        trail: &Trail<'_>,
    ) -> Result<(Parts, Option<Beneath>), BlockError> {
        let file = self.resolve(&spec.file, settings.below(), trail)?;
        self.check_format(&file, spec.node_name.as_deref(), !settings.read_only)?;
        let filename = file.filename();
        let context = |e: BlockError| e.within(format!("Could not open '{}'", filename.display()));
        let mut children = vec![("file", file.clone())];
        let data_file = self.open_data_file(spec, settings, &file, trail)?;
        if let Some(data) = &data_file {
            children.push(("data-file", data.clone()));
        }
        let place = Place::on(file.layer().clone());
        let image = self.open_image(spec, settings, place.clone(), data_file.as_ref()).map_err(context)?;
        let beneath = match &spec.backing {
            Backing::None => None,
            Backing::Node(NodeRef::Name(name)) => {
                let backing = self.find_for(name)?;
                image.set_backing(Some(backing.layer().clone()));
                children.push(("backing", backing));
                None
            }
            Backing::Node(NodeRef::Inline(spec)) => {
                Some(Beneath { spec: spec.clone(), above: settings.behind(), named: false, file: None })
            }
            Backing::Header => self.named_beneath(&image, Map::new(), settings, &filename, trail)?,
            Backing::Over(over) => self.named_beneath(&image, over.clone(), settings, &filename, trail)?,
        };
        Ok((Parts { layer: image, filename, children, place: Some(place) }, beneath))
    }

    /// The image by itself.
    pub(super) fn open_image(
        &self,
        spec: &spec::Qcow2,
        settings: &Settings,
        file: Arc<dyn Layer>,
        data: Option<&Arc<Node>>,
    ) -> Result<Arc<Qcow2>, BlockError> {
        let options = OpenOptions {
            read_only: settings.read_only,
            discard: settings.discard,
            pass_discard_request: spec.pass_discard_request,
            discard_snapshot: spec.pass_discard_snapshot,
            discard_other: spec.pass_discard_other.unwrap_or(false),
            data_file: data.map(|node| node.layer().clone()),
            tuning: spec.tuning(),
            encryption: spec.encrypt.as_ref().and_then(|encrypt| encrypt.format).map(|format| match format {
                EncryptFormat::Aes => Encryption::Aes,
                EncryptFormat::Luks => Encryption::Luks,
            }),
            password: self.password(settings)?,
            no_data: spec.look.no_data,
            snapshot: spec.look.snapshot.clone(),
        };
        let image = Arc::new(Qcow2::open(file, &options)?);
        if !self.probe_backing && matches!(image.encryption(), Some((Encryption::Aes, _))) {
            let text = "the AES of old qcow2 images is not safe to run a guest on: convert the image, to \
                        encrypt.format=luks";
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        Qcow2::clean(&image, &options.tuning)?;
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
            _ => relative_to(&file.filename(), &name)?,
        };
        self.open_spec(&file_spec(&path), settings.below(), &trail.deeper()).map(Some)
    }

    /// What the header of `image` says it stands on, and `over` says otherwise.
    fn named_beneath(
        &self,
        image: &Qcow2,
        over: Map<String, Value>,
        settings: &Settings,
        filename: &Path,
        trail: &Trail<'_>,
    ) -> Result<Option<Beneath>, BlockError> {
        let above = settings.behind();
        let context = |e: BlockError| e.within("Could not open backing file");
        let (name, format) = image.backing_name();
        let path = match name {
            // A name that is not followed is not looked at.
            Some(_) if names_file(&over) => None,
            Some(name) => Some(relative_to(filename, &name)?),
            None if over.is_empty() => return Ok(None),
            None => None,
        };
        let file = path.as_ref().map_or(Ok(None), |path| trail.step_into(path))?;
        let names = (path.as_deref(), format.as_deref());
        let spec = self.beneath(names, over, filename, above, trail).map_err(context)?;
        Ok(Some(Beneath { spec, above, named: true, file }))
    }

    /// The node that the header of `namer` names by path and format, or what `over` says instead; its file is open then.
    fn beneath(
        &self,
        (path, format): (Option<&Path>, Option<&str>),
        mut over: Map<String, Value>,
        namer: &Path,
        above: Inherited,
        trail: &Trail<'_>,
    ) -> Result<Box<BlockdevSpec>, BlockError> {
        let driver = over.remove("driver").and_then(|driver| driver.as_str().map(str::to_owned));
        let below = over.remove("file");
        let format = driver.as_deref().or(format);
        if path.is_none() && below.is_none() {
            let text = match driver {
                Some(driver) if !is_format(&driver) => return of_driver(&driver, over),
                Some(_) => "A block device must be specified for \"file\"",
                None => "Must specify either driver or file",
            };
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let file = match below {
            Some(Value::String(name)) => self.find(&name)?,
            Some(Value::Object(options)) => {
                self.open_spec(&options::file_over(path, options)?, above, &trail.deeper())?
            }
            _ => self.open_spec(&options::file_over(path, Map::new())?, above, &trail.deeper())?,
        };
        let format = match format {
            Some("file" | "host_device") => "raw",
            Some(format) => format,
            None if self.probe_backing => probe_layer(file.layer().as_ref())?.map_or("raw", crate::probe::Probed::name),
            None => {
                let text = format!(
                    "image '{}' names the backing file '{}' without its format, and formats are not guessed; give it \
                     with rebase -u -F FORMAT, or with backing.driver=",
                    namer.display(),
                    path.unwrap_or(&file.filename()).display()
                );
                return Err(BlockError::new(ErrorKind::Unsupported, text));
            }
        };
        if !is_format(format) {
            let text = format!("Unknown driver '{format}' for '{}'", file.filename().display());
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        over.insert("file".to_owned(), file.name().into());
        of_driver(format, over)
    }

    /// A raw node whose guest must not make it look like another format.
    pub fn add_guarded(&self, spec: &spec::Raw) -> Result<Arc<Node>, BlockError> {
        let whole = BlockdevSpec::Raw(spec.clone());
        let settings = Settings::of(&whole, Inherited::default())?;
        let file = self.resolve(&spec.file, settings.below(), &Trail::default())?;
        let parts = Parts::on(file, |file| Ok(Raw::new(file, 0, None)?.guarded()))?;
        self.finish(spec.node_name.as_deref(), &settings, parts, Recipe::of(&whole, &settings))
    }
}

/// Whether these options say by themselves which file is meant.
fn names_file(options: &Map<String, Value>) -> bool {
    let has = |file: &Map<String, Value>, name| file.contains_key(name);
    match options.get("file") {
        Some(Value::Object(file)) => has(file, "filename") || has(file, "driver"),
        Some(_) => true,
        None => options.get("driver").and_then(Value::as_str).is_some_and(|driver| !is_format(driver)),
    }
}

/// A driver that stands on a file.
fn is_format(driver: &str) -> bool {
    matches!(driver, "raw" | "qcow2" | "luks") || Foreign::by_name(driver).is_some()
}

/// The node of `driver` with these options.
fn of_driver(driver: &str, options: Map<String, Value>) -> Result<Box<BlockdevSpec>, BlockError> {
    let base = Map::from_iter([("driver".to_owned(), Value::from(driver))]);
    options::put_over(base, options).map(Box::new)
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

#[cfg(test)]
mod tests;
