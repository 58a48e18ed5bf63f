//! Named nodes: who sits on whom.
//!
//! A [`Graph`] turns [`BlockdevSpec`]s into [`Node`]s, keeps their names, and gives the ones on top to front ends as
//! [`Disk`]s. A node lives as long as someone above it, or its name, needs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use crate::crypto::Secrets;
use crate::disk::Disk;
use crate::error::{BlockError, ErrorKind};
use crate::filter::debug::Debug;
use crate::filter::job_top::JobTop;
use crate::filter::place::Place;
use crate::filter::policy::Rules;
use crate::filter::throttle::{Lifted, Throttle};
use crate::format::qcow2::{Corruption, Qcow2};
use crate::layer::Layer;
use crate::let_go::let_go;
use crate::lock::Access;
use crate::nbd::{NbdClient, Unawaited};
use crate::protocol::file::HostFile;
use crate::spec::BlockdevSpec;
use crate::throttle::Group;

mod chain;
mod drive;
mod groups;
mod info;
mod job_top;
mod named;
mod open;
mod permission;
mod reopen;
mod rework;
mod snapshot;
mod target;
mod throw_away;
mod writers;

pub use drive::{CacheMode, DriveSpec, OpenedDrive};
pub use info::{CacheInfo, ChildInfo, ImageDetails, NodeInfo, ThrottleInfo};
pub use job_top::{JobNode, TopNode};
pub use named::by_name;
pub use open::Inherited;
pub use rework::{EXPORT, Held, Opened};
pub use snapshot::{NewOverlay, Snapshot};
pub use target::{NewTarget, OwnTarget};

use open::Trail;
use permission::{Rights, Use, User};
use reopen::Recipe;

/// A node beneath another, and what it is to that one (`file`, `backing`, `data-file`).
pub type Child = (&'static str, Arc<Node>);

/// One node of the graph.
pub struct Node {
    name: String,
    /// What was opened at first.
    opened: Arc<dyn Layer>,
    /// The same, opened again for writing.
    reopened: OnceLock<Arc<dyn Layer>>,
    /// How it is open.
    recipe: RwLock<Arc<Recipe>>,
    /// What it does with discards and zeroes, as the recipe says.
    rules: Arc<Rules>,
    /// Where it stands on its `file`.
    place: Option<Arc<Place>>,
    /// The host path at the bottom, as the user or the header gave it.
    filename: RwLock<Arc<Path>>,
    children: RwLock<Vec<Child>>,
    /// The nodes that stand, or stood, on it.
    above: Mutex<Vec<Weak<Node>>>,
    /// Name of the secret that opened it.
    key_secret: Option<String>,
    /// A user gave it a name by itself: it stays until the user takes it away. One that was described within another goes
    /// with that one, whatever its name.
    asked: AtomicBool,
    /// So many front ends have it.
    attached: AtomicUsize,
    /// A drive without a front end has it.
    waiting: AtomicBool,
    /// An overlay was put on it: it is only read from then on.
    kept: AtomicBool,
    /// The kind of job that has it in hand.
    job: Mutex<Option<&'static str>>,
    /// How many jobs write to it though it lies beneath others.
    job_writes: AtomicUsize,
    /// How often it is shown to others.
    shown: AtomicUsize,
    /// Who uses it and is no node.
    users: Mutex<Vec<Arc<User>>>,
    /// What limits the front end, where `-drive` asked for limits.
    limits: OnceLock<Arc<Group>>,
}

impl Node {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its content.
    #[must_use]
    pub fn layer(&self) -> &Arc<dyn Layer> {
        self.reopened.get().unwrap_or(&self.opened)
    }

    /// Name of the secret that opened it, if it is encrypted.
    #[must_use]
    pub fn key_secret(&self) -> Option<&str> {
        self.key_secret.as_deref()
    }

    /// The host path at the bottom.
    #[must_use]
    pub fn filename(&self) -> Arc<Path> {
        self.filename.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it is open as of now.
    fn recipe(&self) -> Arc<Recipe> {
        self.recipe.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes beneath, as of now.
    #[must_use]
    pub fn children(&self) -> Vec<Child> {
        self.children.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nothing is written to it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.kept.load(Ordering::Acquire) || self.layer().limits().read_only
    }

    /// Has the front end that gets this node kept to the limits of `group`.
    pub fn limit(&self, group: Arc<Group>) {
        // A drive has one group, given once.
        let _ = self.limits.set(group);
    }

    /// A user gave it a name by itself.
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// A front end or a drive has it.
    fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) > 0 || self.waiting.load(Ordering::Acquire)
    }

    fn is_shown(&self) -> bool {
        self.shown.load(Ordering::Acquire) > 0
    }

    /// The backing chain beneath it, from the top down.
    pub fn beneath(&self) -> impl Iterator<Item = Arc<Self>> + use<> {
        std::iter::successors(self.child("backing"), |node| node.child("backing"))
    }

    /// The images and filters that make up what it shows, itself first: a filter's image, and what an overlay stands on.
    pub fn shown_by(self: &Arc<Self>) -> impl Iterator<Item = Arc<Self>> + use<> {
        let next = |node: &Arc<Self>| node.filtered().or_else(|| node.child("backing"));
        std::iter::successors(Some(self.clone()), next)
    }

    /// Whether it shows what `node` shows where it holds nothing.
    #[must_use]
    pub fn is_overlay_of(self: &Arc<Self>, node: &Arc<Self>) -> bool {
        self.shown_by().skip(1).any(|beneath| Arc::ptr_eq(&beneath, node))
    }

    /// What the image stands on that it is, or that filters on it show.
    #[must_use]
    pub fn backing(&self) -> Option<Arc<Self>> {
        self.filtered().map_or_else(|| self.child("backing"), |image| image.backing())
    }

    /// The node beneath in the role `role`.
    #[must_use]
    pub fn child(&self, role: &str) -> Option<Arc<Self>> {
        let children = self.children.read().unwrap_or_else(PoisonError::into_inner);
        children.iter().find(|(r, _)| *r == role).map(|(_, node)| node.clone())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let_go(std::mem::take(self.children.get_mut().unwrap_or_else(PoisonError::into_inner)));
    }
}

impl Node {
    /// Puts it onto `child` in the role `role`, or onto nothing there. Gives back what it stood on.
    fn put_child(self: &Arc<Self>, role: &'static str, child: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let mut children = self.children.write().unwrap_or_else(PoisonError::into_inner);
        let at = children.iter().position(|(r, _)| *r == role);
        let former = at.map(|at| children.remove(at).1);
        if let Some(child) = child {
            child.note_above(self);
            let at = at.unwrap_or(children.len());
            children.insert(at, (role, child.clone()));
        }
        former
    }

    /// The nodes that came to stand on it, and may have gone from there.
    fn known_above(&self) -> Vec<Arc<Self>> {
        let above = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        above.iter().filter_map(Weak::upgrade).collect()
    }

    fn note_above(&self, node: &Arc<Self>) {
        let mut above = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        above.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(node)));
        above.push(Arc::downgrade(node));
    }
}

impl Node {
    /// The host's file that it is, if it is one.
    fn file(&self) -> Option<&HostFile> {
        self.layer().as_any().downcast_ref()
    }

    /// Changes what other programs are told about the files beneath that this node writes to.
    ///
    /// # Errors
    /// When another program stands against it.
    pub fn relock(&self, access: Access) -> Result<(), BlockError> {
        if let Some(file) = self.file() {
            let access = if self.layer().limits().read_only { access.reading() } else { access };
            return file.relock(access);
        }
        let below = self.children().into_iter().filter(|(role, _)| *role != "backing");
        below.into_iter().try_for_each(|(_, node)| node.relock(access))
    }
}

impl Node {
    /// Has nothing that is asked of it wait for another machine until what comes back is dropped. What it is an overlay of
    /// is not meant.
    #[must_use]
    pub fn unawaited(&self) -> Vec<Unawaited> {
        let own = self.layer().as_any().downcast_ref::<NbdClient>().map(NbdClient::unawaited);
        let below = self.children().into_iter().filter(|(role, _)| *role != "backing");
        own.into_iter().chain(below.flat_map(|(_, node)| node.unawaited())).collect()
    }

    /// Has the limits of this node and of all beneath it hold nothing up that comes from above until what comes back is
    /// dropped.
    #[must_use]
    pub fn unlimited(&self) -> Vec<Lifted> {
        let own = self.layer().as_any().downcast_ref::<Throttle>().map(Throttle::lift);
        let below = self.children().into_iter().flat_map(|(_, node)| node.unlimited());
        own.into_iter().chain(below).collect()
    }
}

impl Node {
    /// Leaves the image as a closed one, which other programs may have: a front end's queue that has nothing to do holds
    /// on to what its disk stood on before until its next request. What lies beneath may have other users.
    fn retire(&self) {
        let relock = || self.file().map_or(Ok(()), |file| file.relock(Access::ReadShared));
        if let Err(error) = self.layer().close().and_then(|()| relock()) {
            log::warn!("{}: {error}", self.filename().display());
        }
    }
}

/// A node that is shown to others, until this is dropped.
pub struct Shown {
    node: Arc<Node>,
    usage: Use,
}

impl Shown {
    /// The node.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// `node` is shown from now on, which has come in the former one's place.
    pub fn move_to(&mut self, node: &Arc<Node>) {
        node.shown.fetch_add(1, Ordering::AcqRel);
        self.node.shown.fetch_sub(1, Ordering::AcqRel);
        self.usage.move_to(node);
        self.node = node.clone();
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.node.shown.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How a front end uses its node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// It writes nothing, also where the node can be written to (a CD drive).
    pub only_reads: bool,
    /// Others may write meanwhile, in this process and in others (`share-rw=on`).
    pub shares: bool,
}

/// A node given to a front end, alone or beside others; dropped, it is given back.
pub struct Attached {
    node: Mutex<Arc<Node>>,
    disk: Disk,
    /// The front end; nothing while it waits for one, which may have the node meanwhile.
    user: Option<Arc<User>>,
}

impl Attached {
    /// The disk for the front end.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The node beneath it, as of now.
    #[must_use]
    pub fn node(&self) -> Arc<Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The front end has `node` from now on, and the former one is free; its disk is moved beside this.
    fn move_to(&self, node: &Arc<Node>) {
        self.enter(node);
        let mut held = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *held, node.clone());
        self.leave(&former);
    }

    fn enter(&self, node: &Node) {
        match &self.user {
            Some(user) => {
                node.attached.fetch_add(1, Ordering::AcqRel);
                node.enter(user);
            }
            None => node.waiting.store(true, Ordering::Release),
        }
    }

    fn leave(&self, node: &Node) {
        match &self.user {
            Some(user) => {
                node.attached.fetch_sub(1, Ordering::AcqRel);
                node.leave(user);
            }
            None => node.waiting.store(false, Ordering::Release),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.leave(&self.node());
    }
}

/// Who is told of damage: the node's name, and what was found.
type DamageListener = Box<dyn Fn(&str, &Corruption) + Send + Sync>;

/// All nodes of a machine, or of one run of the image tool.
#[derive(Default)]
pub struct Graph {
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    groups: Mutex<BTreeMap<String, Arc<Group>>>,
    next: AtomicU64,
    probe_backing: bool,
    secrets: Secrets,
    /// See [`Graph::locking_by_use`].
    locks_by_use: bool,
    damage: Arc<OnceLock<DamageListener>>,
}

impl Graph {
    /// The same, with these secrets.
    #[must_use]
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        Self { secrets, ..self }
    }

    /// The secrets that open encrypted images.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// No nodes. A backing file whose format the header does not name is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No nodes. Where a header does not name its backing file's format, that is probed: for tools, never for disks
    /// that guests write.
    #[must_use]
    pub fn probing() -> Self {
        Self { probe_backing: true, ..Self::default() }
    }

    /// The same, where files are locked as those who use them need it, and not alone from the start: several programs may
    /// then have a disk together (`share-rw=on`).
    #[must_use]
    pub fn locking_by_use(self) -> Self {
        Self { locks_by_use: true, ..self }
    }

    /// Has `listener` told when a write finds an image damaged, with the node's name; once for each image, on the
    /// thread of the request: it must not wait. The first listener stays.
    pub fn on_corruption(&self, listener: impl Fn(&str, &Corruption) + Send + Sync + 'static) {
        let _ = self.damage.set(Box::new(listener));
    }

    /// Has the listener told of damage of the image in `layer`, if it is one.
    fn watch(&self, name: &str, layer: &Arc<dyn Layer>) {
        if let Some(image) = layer.as_any().downcast_ref::<Qcow2>() {
            let (name, damage) = (name.to_owned(), self.damage.clone());
            image.on_corruption(move |corruption| {
                if let Some(listener) = damage.get() {
                    listener(&name, corruption);
                }
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_groups(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the node that `spec` asks for, with those inside it, and keeps its name.
    ///
    /// # Errors
    /// When a name is taken or bad, a file cannot be opened, or an image is not what it should be.
    pub fn add(&self, spec: &BlockdevSpec) -> Result<Arc<Node>, BlockError> {
        self.all_or_nothing(|| {
            let node = self.open_spec(spec, Inherited::default(), &Trail::default())?;
            node.asked.store(spec.node_name().is_some(), Ordering::Release);
            Ok(node)
        })
    }

    /// Does `open`, and closes what it opened on the way if it fails.
    fn all_or_nothing<T>(&self, open: impl FnOnce() -> Result<T, BlockError>) -> Result<T, BlockError> {
        let before = self.nodes();
        open().inspect_err(|_| {
            let mut nodes = self.lock();
            let is_known = |node: &Arc<Node>| before.iter().any(|known| Arc::ptr_eq(known, node));
            let new: Vec<_> = nodes.values().filter(|node| !is_known(node)).cloned().collect();
            new.iter().for_each(|node| node.asked.store(false, Ordering::Release));
            new.iter().for_each(|node| forget(&mut nodes, node));
            drop(nodes);
            // What was opened may have stood on one of them.
            self.lock_all_as_used(before);
        })
    }

    /// The node named `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Node>> {
        self.lock().get(name).cloned()
    }

    /// The node that a client means by `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<Arc<Node>, BlockError> {
        self.get(name).ok_or_else(|| not_found("", name))
    }

    /// The node that a client means by `name`, where the name of a device would do, too.
    ///
    /// # Errors
    /// There is none.
    pub fn find_for(&self, name: &str) -> Result<Arc<Node>, BlockError> {
        self.get(name).ok_or_else(|| not_found(name, name))
    }

    /// All nodes by name.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.lock().values().cloned().collect()
    }

    /// Writes back and forgets the node named `name` and what only it used.
    ///
    /// # Errors
    /// When there is none, it is in use, or its metadata could not be written.
    pub fn remove(&self, name: &str) -> Result<(), BlockError> {
        let mut nodes = self.lock();
        let Some(node) = nodes.get(name) else {
            return Err(BlockError::new(ErrorKind::NotFound, format!("Failed to find node with node-name='{name}'")));
        };
        if node.is_attached() || node.is_shown() {
            return Err(BlockError::new(ErrorKind::Invalid, format!("Node {name} is in use")));
        }
        // A mirror's target stands on what it copies only in our hands: QEMU puts it there at the end.
        let overlay = |above: &&Arc<Node>| {
            above.job() != Some("mirror")
                && !above.layer().as_any().is::<JobTop>()
                && above.child("backing").is_some_and(|n| Arc::ptr_eq(&n, node))
        };
        if let Some(above) = nodes.values().find(overlay) {
            let text = format!("Node '{name}' is busy: node is used as backing hd of '{}'", above.name);
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        node.check_idle()?;
        if nodes.values().any(|n| is_child(n, node)) {
            let asked = node.asked.load(Ordering::Acquire);
            let text = match asked {
                true => format!("Block device {name} is in use"),
                // It came with the node above, and goes with that.
                false => format!("Node {name} is not owned by the monitor"),
            };
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        node.layer().close()?;
        if let Some(node) = nodes.remove(name) {
            node.retire();
            node.children().iter().for_each(|(_, child)| forget(&mut nodes, child));
            drop(nodes);
            self.lock_as_used(&node);
        }
        Ok(())
    }

    /// Forgets `node`, and what only it used, unless it was asked for by itself or is used. Other programs know of it.
    fn let_go_of(&self, node: &Arc<Node>) {
        forget(&mut self.lock(), node);
        self.lock_as_used(node);
    }

    /// Writes back every node, the upper ones first; the first error is reported, all are tried.
    ///
    /// # Errors
    /// When metadata could not be written.
    pub fn close_all(&self) -> Result<(), BlockError> {
        let nodes = self.nodes();
        let top = |node: &&Arc<Node>| !nodes.iter().any(|above| is_child(above, node));
        nodes.iter().filter(top).map(|node| node.layer().close()).fold(Ok(()), Result::and)
    }

    /// Stops waiting for other machines: what needs them fails from now on. For the end of the process, after a time in
    /// which they could have answered.
    pub fn give_up_on_servers(&self) {
        let nodes = self.nodes();
        let clients = nodes.iter().filter_map(|node| node.layer().as_any().downcast_ref::<NbdClient>());
        clients.for_each(NbdClient::give_up);
    }

    /// Holds no request up any more, by limits or for a test: for the end of the process, which waits for all of them.
    pub fn let_all_go(&self) {
        self.lift_limits(true);
        let nodes = self.nodes();
        let debugged = nodes.iter().filter_map(|node| node.layer().as_any().downcast_ref::<Debug>());
        debugged.for_each(Debug::release_all);
    }

    /// Gives the node named `name` to a front end, which is called `who`: nobody else writes to it.
    ///
    /// # Errors
    /// When there is none, or another front end, another program, or someone on it or beneath stands against that.
    pub fn attach(&self, name: &str, write_cache: bool, who: &str) -> Result<Attached, BlockError> {
        self.attach_as(name, write_cache, who, Usage::default())
    }

    /// The same, to a front end that uses the node as `usage` says.
    ///
    /// # Errors
    /// As of [`Graph::attach`], where one of those does not want that.
    pub fn attach_as(&self, name: &str, write_cache: bool, who: &str, usage: Usage) -> Result<Attached, BlockError> {
        let node = self.find(name)?;
        let writes = !usage.only_reads && !node.layer().limits().read_only;
        let user = User::device(who, writes, usage.shares);
        self.check_user(&node, &user)?;
        // A job on it would not hear of what this front end writes.
        node.check_idle()?;
        if user.writes() {
            self.check_idle_around(&node)?;
        }
        self.lock_for(&node, &user)?;
        let disk = Disk::new(node.layer().clone(), write_cache);
        disk.set_throttle(node.limits.get());
        let attached = Attached { node: Mutex::new(node.clone()), disk, user: Some(Arc::new(user)) };
        attached.enter(&node);
        Ok(attached)
    }

    /// Shows `node` to others as the export `id`: it is not removed, or taken for something else.
    ///
    /// # Errors
    /// Someone on it or beneath stands against that.
    pub fn show(self: &Arc<Self>, node: Arc<Node>, id: &str, writable: bool) -> Result<Shown, BlockError> {
        let usage = self.take(&node, User::export(id, writable))?;
        node.shown.fetch_add(1, Ordering::AcqRel);
        Ok(Shown { node, usage })
    }

    /// Refuses a change of the size of `node`; when it was made, [`Graph::lock_as_used`] is due.
    ///
    /// # Errors
    /// A job has it in hand, or someone on it or beneath, or another program, stands against that.
    pub fn check_resize(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        node.check_idle()?;
        node.check_idle_beneath()?;
        let user = User::command("block_resize", Rights::RESIZE);
        self.check_user(node, &user)?;
        self.lock_for(node, &user)
    }

    /// Gives `name` to a drive that no device has yet: its node stays, and others may use it meanwhile.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn attach_waiting(&self, name: &str, write_cache: bool) -> Result<Attached, BlockError> {
        let node = self.find(name)?;
        node.waiting.store(true, Ordering::Release);
        let disk = Disk::new(node.layer().clone(), write_cache);
        disk.set_throttle(node.limits.get());
        Ok(Attached { node: Mutex::new(node), disk, user: None })
    }

    /// Whether no other node stands on `node`.
    #[must_use]
    pub fn is_root(&self, node: &Arc<Node>) -> bool {
        !self.lock().values().any(|above| is_child(above, node))
    }

    /// A node on top of `node`, to which that is `role`.
    #[must_use]
    pub fn above(&self, node: &Arc<Node>, role: &str) -> Option<Arc<Node>> {
        let is = |above: &&Arc<Node>| above.children().iter().any(|(r, n)| *r == role && Arc::ptr_eq(n, node));
        self.lock().values().find(is).cloned()
    }

    /// Keeps `node` by its name.
    fn keep(&self, node: Node) -> Result<Arc<Node>, BlockError> {
        let mut nodes = self.lock();
        if nodes.contains_key(&node.name) {
            let text = format!("Duplicate nodes with node-name='{}'", node.name);
            return Err(BlockError::new(ErrorKind::Invalid, text));
        }
        let node = Arc::new(node);
        node.children().iter().for_each(|(_, child)| child.note_above(&node));
        nodes.insert(node.name.clone(), node.clone());
        Ok(node)
    }

    /// The name asked for, checked, or one of our own.
    fn name_for(&self, asked: Option<&str>) -> Result<String, BlockError> {
        let Some(name) = asked else {
            return Ok(format!("#block{:03}", self.next.fetch_add(1, Ordering::Relaxed)));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        // QEMU keeps node names in 32 bytes with an end mark.
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain) && name.len() < 32;
        if good {
            Ok(name.to_owned())
        } else {
            Err(BlockError::new(ErrorKind::Invalid, format!("Invalid node-name: '{name}'")))
        }
    }
}

fn not_found(device: &str, node: &str) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("Cannot find device='{device}' nor node-name='{node}'"))
}

/// A front end, a drive, a client or a node above has it.
fn is_used(nodes: &BTreeMap<String, Arc<Node>>, node: &Arc<Node>) -> bool {
    node.is_attached() || is_written(nodes, node)
}

/// A front end, a client or a node above has it: a drive that waits for a device does nothing with it.
fn is_written(nodes: &BTreeMap<String, Arc<Node>>, node: &Arc<Node>) -> bool {
    let is_known = |above: &Arc<Node>| nodes.get(&above.name).is_some_and(|known| Arc::ptr_eq(known, above));
    let stands = |above: Arc<Node>| is_known(&above) && is_child(&above, node);
    node.attached.load(Ordering::Acquire) > 0 || node.is_shown() || node.known_above().into_iter().any(stands)
}

fn is_child(above: &Arc<Node>, node: &Arc<Node>) -> bool {
    above.children().iter().any(|(_, child)| Arc::ptr_eq(child, node))
}

/// Forgets a node that nobody asked for by itself, if nothing needs it, and so with those beneath it.
fn forget(nodes: &mut BTreeMap<String, Arc<Node>>, node: &Arc<Node>) {
    let mut waiting = vec![node.clone()];
    while let Some(node) = waiting.pop() {
        if !node.asked.load(Ordering::Acquire) && !is_used(nodes, &node) {
            nodes.remove(&node.name);
            node.retire();
            waiting.extend(node.children().into_iter().rev().map(|(_, child)| child));
        }
    }
}

#[cfg(test)]
mod tests;
