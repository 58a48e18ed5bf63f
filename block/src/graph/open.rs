//! From a spec to an open node.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::reopen::Recipe;
use super::{Child, Graph, Node};
use crate::crypto::Secret;
use crate::error::{BlockError, ErrorKind};
use crate::filter::copy_on_read::CopyOnRead;
use crate::filter::debug::Debug;
use crate::filter::place::Place;
use crate::filter::policy::{Policy, Rules};
use crate::filter::throttle::Throttle;
use crate::format::luks::LuksDisk;
use crate::format::qcow2::Qcow2;
use crate::format::raw::Raw;
use crate::layer::Layer;
use crate::lock::Access;
use crate::nbd::{ClientOptions, NbdClient};
use crate::protocol::file::{FileOptions, HostFile};
use crate::protocol::null::Null;
use crate::queue::ring_available;
use crate::spec::{self, Aio, BlockdevSpec, DetectZeroes, Discard, Locking, NodeRef};

/// Most nodes described within each other; images that headers name, or that stand beneath each other, are not counted.
const DEEPEST: usize = 200;
/// Most images beneath each other: headers may lead through all files there are, and queries tell of each within the one
/// above it.
const MOST_IMAGES: usize = 1000;

/// The nodes above the one that is being opened, for limits and loops.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trail<'a> {
    depth: usize,
    /// Device and number of the files that headers above named.
    files: &'a [FileId],
}

/// Device and number of a file.
type FileId = (u64, u64);

impl<'a> Trail<'a> {
    pub(super) fn deeper(&self) -> Trail<'a> {
        Trail { depth: self.depth + 1, files: self.files }
    }

    /// The file at `path`, if it is there, which must not be above already.
    pub(super) fn step_into(&self, path: &Path) -> Result<Option<FileId>, BlockError> {
        let file = std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        if file.is_some_and(|file| self.files.contains(&file)) {
            let text = format!("'{}' is above itself: the backing chain is a loop", path.display());
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok(file)
    }
}

/// What an image that was opened stands on, and what is to be opened for it.
pub(super) struct Beneath {
    pub(super) spec: Box<BlockdevSpec>,
    pub(super) above: Inherited,
    /// A header names it; nobody described it.
    pub(super) named: bool,
    /// The file that the header names.
    pub(super) file: Option<FileId>,
}

/// A node that is one as soon as what it stands on is.
struct Begun {
    name: Option<String>,
    settings: Settings,
    parts: Parts,
    recipe: Arc<Recipe>,
}

/// Images that wait for those beneath them, from the top down.
#[derive(Default)]
struct Chain {
    waiting: Vec<(Begun, bool)>,
    files: Vec<FileId>,
}

impl Chain {
    /// The error, in the words of the images whose headers led there; of many, some.
    fn explain(&self, error: BlockError) -> BlockError {
        let named = self.waiting.iter().filter(|(_, named)| *named).take(MOST_WORDS);
        named.fold(error, |error, _| error.within("Could not open backing file"))
    }
}

/// Of so many images on the way an error tells.
const MOST_WORDS: usize = 8;

/// What a node defined in place takes over from the one above where it does not say otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inherited {
    /// The node above is read-only.
    pub read_only: Option<bool>,
    /// Fall back to reading where the host refuses writing.
    pub auto_read_only: bool,
    /// Bypass the page cache.
    pub direct: bool,
    /// Ignore flushes.
    pub no_flush: bool,
    /// Share with other writers.
    pub force_share: bool,
    /// Discards were decided on above already.
    pub discard: bool,
}

/// One node's settings, from its spec and from above.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) read_only: bool,
    pub(super) auto_read_only: bool,
    pub(super) direct: bool,
    pub(super) no_flush: bool,
    pub(super) force_share: bool,
    pub(super) discard: bool,
    pub(super) detect_zeroes: DetectZeroes,
    /// Name of the secret that opens it.
    pub(super) key_secret: Option<String>,
}

impl Settings {
    pub(super) fn of(spec: &BlockdevSpec, above: Inherited) -> Result<Self, BlockError> {
        let common = spec.common();
        let this = Self {
            read_only: common.read_only.or(above.read_only).unwrap_or(false),
            auto_read_only: common.auto_read_only.unwrap_or(above.auto_read_only),
            direct: common.cache.direct.unwrap_or(above.direct),
            no_flush: common.cache.no_flush.unwrap_or(above.no_flush),
            force_share: common.force_share || above.force_share,
            discard: common.discard.map_or(above.discard, |d| d == Discard::Unmap),
            detect_zeroes: common.detect_zeroes,
            key_secret: spec.key_secret().map(str::to_owned),
        };
        if this.detect_zeroes == DetectZeroes::Unmap && !this.discard {
            let text = "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        Ok(this)
    }

    /// What a node in the role of `file` takes over.
    pub(super) fn below(&self) -> Inherited {
        Inherited {
            read_only: Some(self.read_only),
            auto_read_only: self.auto_read_only,
            direct: self.direct,
            no_flush: self.no_flush,
            force_share: self.force_share,
            discard: true,
        }
    }

    /// What a node in the role of `backing` takes over.
    pub(super) fn behind(&self) -> Inherited {
        Inherited { read_only: Some(true), auto_read_only: false, discard: false, ..self.below() }
    }

    pub(super) fn file_options(&self, aio: Option<Aio>, locking: Option<Locking>) -> Result<FileOptions, BlockError> {
        let ring = match aio {
            Some(Aio::Threads) => false,
            Some(Aio::Native) if !self.direct => {
                let text = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
            Some(Aio::Native | Aio::IoUring) => {
                ring_available()?;
                true
            }
            None => ring_available().is_ok(),
        };
        let locking = locking.unwrap_or_default();
        let access = match (self.read_only, self.force_share) {
            (false, false) => Access::Write,
            (false, true) => Access::WriteShared,
            (true, false) => Access::Read,
            (true, true) => Access::ReadShared,
        };
        Ok(FileOptions {
            read_only: self.read_only,
            auto_read_only: self.auto_read_only,
            direct: self.direct,
            no_flush: self.no_flush,
            discard: self.discard,
            ring,
            lock: (locking != Locking::Off).then_some(access),
            lock_required: locking == Locking::On,
        })
    }
}

/// The parts of a node before it has a name.
pub(super) struct Parts {
    pub(super) layer: Arc<dyn Layer>,
    pub(super) filename: Arc<Path>,
    pub(super) children: Vec<Child>,
    /// Where it stands on its `file`, if that can be changed.
    pub(super) place: Option<Arc<Place>>,
}

impl Parts {
    /// Of a layer that `make` puts on `file`, in whose place another may come.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn on<L: Layer + 'static>(
        file: Arc<Node>,
        make: impl FnOnce(Arc<dyn Layer>) -> Result<L, BlockError>,
    ) -> Result<Self, BlockError> {
        let place = Place::on(file.layer().clone());
        let layer = Arc::new(make(place.clone())?);
        Ok(Self { layer, filename: file.filename(), children: vec![("file", file)], place: Some(place) })
    }
}

impl Graph {
    /// The node that `spec` describes, on what it names and describes. Images beneath each other are opened by a loop:
    /// there may be more than the stack has room for.
    pub(super) fn open_spec(
        &self,
        spec: &BlockdevSpec,
        above: Inherited,
        trail: &Trail<'_>,
    ) -> Result<Arc<Node>, BlockError> {
        if trail.depth > DEEPEST {
            let text = format!("more than {DEEPEST} nodes on top of each other");
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let mut chain = Chain { files: trail.files.to_vec(), ..Chain::default() };
        self.open_chain(spec, above, trail.depth, &mut chain).map_err(|error| chain.explain(error))
    }

    fn open_chain(
        &self,
        spec: &BlockdevSpec,
        above: Inherited,
        depth: usize,
        chain: &mut Chain,
    ) -> Result<Arc<Node>, BlockError> {
        let (mut begun, mut next) = self.begin(spec, above, &Trail { depth, files: &chain.files })?;
        while let Some(beneath) = next {
            if chain.waiting.len() >= MOST_IMAGES {
                let text = format!("more than {MOST_IMAGES} images beneath each other");
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
            chain.files.extend(beneath.file);
            chain.waiting.push((begun, beneath.named));
            let trail = Trail { depth, files: &chain.files };
            (begun, next) = self.begin(&beneath.spec, beneath.above, &trail)?;
        }
        let mut node = self.finish_begun(begun)?;
        while let Some((mut begun, _)) = chain.waiting.pop() {
            if let Some(image) = begun.parts.layer.as_any().downcast_ref::<Qcow2>() {
                image.set_backing(Some(node.layer().clone()));
            }
            begun.parts.children.push(("backing", node));
            node = self.finish_begun(begun)?;
        }
        Ok(node)
    }

    /// Opens a node but for what it stands on as an overlay, which is told.
    fn begin(
        &self,
        spec: &BlockdevSpec,
        above: Inherited,
        trail: &Trail<'_>,
    ) -> Result<(Begun, Option<Beneath>), BlockError> {
        let name = spec.node_name();
        if let Some(name) = name.filter(|name| self.get(name).is_some()) {
            return Err(BlockError::new(ErrorKind::Invalid, format!("Duplicate nodes with node-name='{name}'")));
        }
        let settings = Settings::of(spec, above)?;
        let (parts, beneath) = self.open_parts(spec, &settings, trail)?;
        let recipe = Recipe::of(spec, &settings);
        Ok((Begun { name: name.map(str::to_owned), settings, parts, recipe }, beneath))
    }

    fn finish_begun(&self, begun: Begun) -> Result<Arc<Node>, BlockError> {
        self.finish(begun.name.as_deref(), &begun.settings, begun.parts, begun.recipe)
    }

    /// Gives an open node its rules and its name.
    pub(super) fn finish(
        &self,
        name: Option<&str>,
        settings: &Settings,
        parts: Parts,
        recipe: Arc<Recipe>,
    ) -> Result<Arc<Node>, BlockError> {
        let name = self.name_for(name)?;
        self.watch(&name, &parts.layer);
        let read_only = settings.read_only || parts.layer.limits().read_only;
        let rules = Rules::new(settings.discard, settings.detect_zeroes);
        let layer = Policy::over(parts.layer, rules.clone(), read_only);
        self.keep(Node {
            name,
            opened: layer,
            reopened: OnceLock::new(),
            recipe: RwLock::new(recipe),
            rules,
            place: parts.place,
            filename: RwLock::new(parts.filename),
            children: RwLock::new(parts.children),
            above: Mutex::default(),
            key_secret: settings.key_secret.clone(),
            asked: AtomicBool::new(false),
            attached: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            job_writes: AtomicUsize::new(0),
            job: Mutex::new(None),
            shown: AtomicUsize::new(0),
            users: Mutex::default(),
            limits: OnceLock::new(),
        })
    }

    fn open_parts(
        &self,
        spec: &BlockdevSpec,
        settings: &Settings,
        trail: &Trail<'_>,
    ) -> Result<(Parts, Option<Beneath>), BlockError> {
        let parts = match spec {
            BlockdevSpec::File(file) => open_file(file, settings, false, self.locks_by_use),
            BlockdevSpec::HostDevice(file) => open_file(file, settings, true, self.locks_by_use),
            BlockdevSpec::Raw(raw) => {
                let file = self.resolve(&raw.file, settings.below(), trail)?;
                Parts::on(file, |file| Raw::new(file, raw.offset.unwrap_or(0), raw.size))
            }
            BlockdevSpec::NullCo(null) => Ok(open_null("null-co", null, settings)),
            BlockdevSpec::NullAio(null) => Ok(open_null("null-aio", null, settings)),
            BlockdevSpec::Qcow2(qcow2) => return self.open_qcow2(qcow2, settings, trail),
            BlockdevSpec::Luks(spec) => self.open_luks(spec, settings, trail),
            BlockdevSpec::CopyOnRead(spec) => {
                let file = self.resolve(&spec.file, settings.below(), trail)?;
                CopyOnRead::check(file.layer().as_ref())?;
                Parts::on(file, |file| Ok(CopyOnRead::new(file)))
            }
            BlockdevSpec::Blkdebug(spec) => {
                let image = self.resolve(&spec.image, settings.below(), trail)?;
                let layer = Arc::new(Debug::new(image.layer().clone(), spec)?);
                Ok(Parts { layer, filename: image.filename(), children: vec![("image", image)], place: None })
            }
            BlockdevSpec::Throttle(spec) => {
                let group = self.throttle_group(&spec.throttle_group)?;
                let file = self.resolve(&spec.file, settings.below(), trail)?;
                Parts::on(file, |file| Ok(Throttle::new(file, &group)))
            }
            BlockdevSpec::Nbd(nbd) => open_nbd(nbd, settings),
            BlockdevSpec::Parallels(foreign)
            | BlockdevSpec::Qed(foreign)
            | BlockdevSpec::Vdi(foreign)
            | BlockdevSpec::Vhdx(foreign)
            | BlockdevSpec::Vmdk(foreign)
            | BlockdevSpec::Vpc(foreign) => self.open_foreign(spec, foreign, settings, trail),
        }?;
        Ok((parts, None))
    }

    fn open_luks(&self, spec: &spec::Luks, settings: &Settings, trail: &Trail<'_>) -> Result<Parts, BlockError> {
        let file = self.resolve(&spec.file, settings.below(), trail)?;
        self.check_format(&file, spec.node_name.as_deref(), !settings.read_only)?;
        let context = |e: BlockError| e.within(format!("Could not open '{}'", file.filename().display()));
        let password = self.password(settings)?;
        let open = |file| LuksDisk::open(file, password.as_ref(), spec.look.no_data);
        Parts::on(file.clone(), open).map_err(context)
    }

    /// A format that is only read: asked to write, it says so.
    fn open_foreign(
        &self,
        spec: &BlockdevSpec,
        foreign: &spec::Foreign,
        settings: &Settings,
        trail: &Trail<'_>,
    ) -> Result<Parts, BlockError> {
        let Some((format, _)) = spec.as_foreign() else {
            return Err(BlockError::new(ErrorKind::Invalid, "the format is not one that is only read"));
        };
        if !settings.read_only && !settings.auto_read_only {
            let text = format!("driver '{}' can only be used for read-only devices", format.name());
            return Err(BlockError::new(ErrorKind::Permission, text));
        }
        let file = self.resolve(&foreign.file, Inherited { read_only: Some(true), ..settings.below() }, trail)?;
        self.check_format(&file, foreign.node_name.as_deref(), false)?;
        let context = |e: BlockError| e.within(format!("Could not open '{}'", file.filename().display()));
        let layer = format.open(file.layer()).map_err(context)?;
        Ok(Parts { layer, filename: file.filename(), children: vec![("file", file)], place: None })
    }

    /// The secret that opens an encrypted node.
    pub(super) fn password(&self, settings: &Settings) -> Result<Option<Secret>, BlockError> {
        settings.key_secret.as_deref().map(|id| self.secrets.get(id)).transpose()
    }

    /// The node that `what` names or defines.
    pub(super) fn resolve(&self, what: &NodeRef, above: Inherited, trail: &Trail<'_>) -> Result<Arc<Node>, BlockError> {
        match what {
            NodeRef::Inline(spec) => self.open_spec(spec, above, &trail.deeper()),
            NodeRef::Name(name) => self.find_for(name),
        }
    }
}

/// `unused`: nobody needs anything of it yet.
fn open_file(spec: &spec::File, settings: &Settings, device: bool, unused: bool) -> Result<Parts, BlockError> {
    let mut options = settings.file_options(spec.aio, spec.locking)?;
    if unused {
        options.lock = options.lock.map(|_| Access::ReadShared);
    }
    let path = Path::new(spec.filename.strip_prefix("file:").unwrap_or(&spec.filename));
    let file = HostFile::open(path, options)?;
    if file.is_device() != device {
        let (asked, other) = if device { ("host_device", "file") } else { ("file", "host_device") };
        let text = format!("'{}' is not for driver '{asked}': use driver '{other}'", path.display());
        return Err(BlockError::new(ErrorKind::Invalid, text));
    }
    Ok(Parts { layer: Arc::new(file), filename: path.into(), children: Vec::new(), place: None })
}

fn open_nbd(spec: &spec::Nbd, settings: &Settings) -> Result<Parts, BlockError> {
    let name = spec.name()?;
    let (open_timeout, reconnect_delay) = spec.waits()?;
    let filename = Path::new(&name.to_string()).into();
    let options = ClientOptions {
        read_only: settings.read_only,
        auto_read_only: settings.auto_read_only,
        open_timeout,
        reconnect_delay,
        bitmap: spec.x_dirty_bitmap.clone(),
    };
    let layer = Arc::new(NbdClient::open(name, options)?);
    Ok(Parts { layer, filename, children: Vec::new(), place: None })
}

fn open_null(driver: &'static str, spec: &spec::Null, settings: &Settings) -> Parts {
    let size = spec.size.unwrap_or(1 << 30);
    let layer = Null::new(driver, size, spec.read_zeroes.unwrap_or(false), settings.read_only);
    let filename = Path::new(&format!("{driver}://")).into();
    Parts { layer: Arc::new(layer), filename, children: Vec::new(), place: None }
}
