//! Nodes shown to other programs by the machine's own NBD server: `nbd-server-*`, `block-export-*`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rhea_block::filter::follow::Follow;
use rhea_block::graph::{EXPORT, Held, Node, Shown};
use rhea_block::layer::Layer;
use rhea_block::nbd::{Chain, Export, Leaving, Listener, Place, Server, ShownBitmap};
use rhea_block::thread::{self, ThreadKind};

use super::Machine;
use super::bitmaps::keeper;
use super::event::MachineEvent;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{
    BlockExportRemoveMode, BlockExportType, DirtyBitmapOrStr, ExportAdd, NbdAdd, NbdServerStart, SocketAddressLegacy,
};
use crate::qmp::event::BlockExportDeletedData;
use crate::qmp::reply::block::BlockExportInfo;
use crate::qmp::{Event, QmpError};
use crate::spec::check_id;

/// Clients at a time, where nothing is said: QEMU's number.
const MOST_CLIENTS: u32 = 100;

/// The server, and what it shows by the exports' ids.
#[derive(Default)]
pub(super) struct Exports {
    server: Option<Server>,
    all: BTreeMap<String, Entry>,
}

/// One export.
struct Entry {
    /// What clients ask for.
    name: String,
    node: Shown,
    /// What clients read and write: the node's layer, whichever that is.
    layer: Arc<Follow>,
    /// The chain whose images clients are told of, which of them holds what.
    chain: Option<Chain>,
    /// The node is written to: no job has it meanwhile.
    _written: Option<Held>,
    /// Bitmaps that nobody else changes meanwhile.
    bitmaps: Vec<(Arc<Node>, String)>,
    /// The drive that it is of: it ends when that has another medium, or none.
    drive: Option<String>,
    /// It is shown no more, and what its clients asked for last is under way.
    leaving: Option<Arc<Leaving>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        for (node, name) in &self.bitmaps {
            if let Ok(image) = keeper(node) {
                image.give_bitmap_back(name, None);
            }
        }
    }
}

impl Machine {
    /// `nbd-server-start`.
    pub(super) fn start_nbd_server(&mut self, args: &NbdServerStart) -> Answer {
        if self.exports.server.is_some() {
            return Err(QmpError::generic("NBD server already running"));
        }
        let most = args.max_connections.unwrap_or(MOST_CLIENTS);
        let failed = |error: std::io::Error| QmpError::generic(format!("cannot start the NBD server: {error}"));
        let listener = listen(&args.addr)?;
        let mut server = Server::new(most as usize).map_err(failed)?;
        server.start(listener).map_err(failed)?;
        self.exports.server = Some(server);
        done()
    }

    /// `nbd-server-stop`.
    pub(super) fn stop_nbd_server(&mut self) -> Answer {
        let ids: Vec<_> = self.exports.all.keys().cloned().collect();
        ids.iter().for_each(|id| self.forget_export(id));
        self.exports.server.take().map(drop).ok_or_else(not_running)?;
        done()
    }

    /// `nbd-server-add`.
    pub(super) fn add_nbd_export(&mut self, args: &NbdAdd) -> Answer {
        if self.exports.server.is_none() {
            return Err(not_running());
        }
        let node = self.node_of(&args.device)?;
        let id = args.name.as_ref().unwrap_or(&args.device);
        let export = ExportAdd {
            r#type: BlockExportType::Nbd,
            id: id.clone(),
            node_name: node.name().to_owned(),
            name: Some(id.clone()),
            description: args.description.clone(),
            writable: Some(args.writable == Some(true) && !node.is_read_only()),
            writethrough: None,
            bitmaps: args.bitmap.clone().map(|name| vec![DirtyBitmapOrStr::Local(name)]),
            allocation_depth: None,
        };
        self.add_export(&export)?;
        let drive = self.facts.find_disk(&args.device).map(|disk| disk.id.clone());
        if let Some(entry) = self.exports.all.get_mut(id) {
            entry.drive = drive;
        }
        done()
    }

    /// The medium goes out of the drive with this id: it is shown no more.
    pub(super) fn end_exports_of(&mut self, drive: &str) {
        let of_drive = self.exports.all.iter().filter(|(_, entry)| entry.drive.as_deref() == Some(drive));
        let ids: Vec<_> = of_drive.map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.forget_export(id));
    }

    /// `block-export-add`.
    pub(super) fn add_export(&mut self, args: &ExportAdd) -> Answer {
        if self.exports.all.contains_key(&args.id) {
            return Err(QmpError::generic(format!("Block export id '{}' is already in use", args.id)));
        }
        check_id(&args.id).map_err(|_| QmpError::generic(format!("Invalid block export id '{}'", args.id)))?;
        let Some(server) = &self.exports.server else { return Err(not_running()) };
        let node = self.node(&args.node_name)?;
        let writable = args.writable.unwrap_or(false);
        let written = writable.then(|| self.hold_for_writing(&node)).transpose()?;
        let shown = self.host.graph.show(node.clone(), &args.id, writable);
        let mut entry = Entry {
            name: args.name.clone().unwrap_or_else(|| args.node_name.clone()),
            node: shown.map_err(|error| QmpError::from_error(&error))?,
            layer: Follow::on(self.layer_of(&node)),
            chain: (args.allocation_depth == Some(true)).then(|| Arc::new(RwLock::new(chain_of(&node)))),
            _written: written,
            bitmaps: Vec::new(),
            drive: None,
            leaving: None,
        };
        let bitmaps = self.take_bitmaps(args, &mut entry)?;
        let export = Export {
            name: entry.name.clone(),
            description: args.description.clone(),
            layer: entry.layer.clone(),
            writable,
            several: true,
            write_through: args.writethrough.unwrap_or(false),
            bitmaps,
            chain: entry.chain.clone(),
        };
        server.add(export).map_err(|error| QmpError::from_error(&error))?;
        self.exports.all.insert(args.id.clone(), entry);
        done()
    }

    /// Keeps jobs and everybody else from a node that clients write to.
    fn hold_for_writing(&self, node: &Arc<Node>) -> Result<Held, QmpError> {
        if node.is_read_only() {
            return Err(QmpError::generic(format!("Block node '{}' is read-only", node.name())));
        }
        let idle = self.host.graph.check_idle_around(node);
        let held = idle.and_then(|()| self.host.graph.hold_for_job(vec![node.clone()], EXPORT));
        held.map_err(|error| QmpError::from_error(&error))
    }

    /// The bitmaps that are to be shown, which `entry` has in its hands from now on.
    fn take_bitmaps(&self, args: &ExportAdd, entry: &mut Entry) -> Result<Vec<ShownBitmap>, QmpError> {
        let failed = |error| QmpError::from_error(&error);
        let mut bitmaps = Vec::new();
        for wanted in args.bitmaps.iter().flatten() {
            let (node, name) = self.place_behind(&args.node_name, wanted)?;
            let image = keeper(&node)?;
            let bits = image.take_bitmap(name, false).map_err(failed)?;
            entry.bitmaps.push((node.clone(), name.to_owned()));
            let changes = !node.is_read_only() && image.is_recording(name).map_err(failed)?;
            if changes && args.writable != Some(true) {
                return Err(QmpError::generic(format!("Enabled bitmap '{name}' incompatible with readonly export")));
            }
            bitmaps.push(ShownBitmap { name: name.to_owned(), image: node.layer().clone(), bits });
        }
        Ok(bitmaps)
    }

    /// What clients of `node` read: while a backup keeps what a disk was there, that.
    fn layer_of(&self, node: &Node) -> Arc<dyn Layer> {
        self.snapshots.get(node.name()).unwrap_or(node.layer()).clone()
    }

    /// What shows `from` to clients shows `to` from now on, which comes in its place.
    pub(super) fn move_exports(&mut self, from: &Arc<Node>, to: &Arc<Node>) {
        let of_disk = |entry: &&mut Entry| Arc::ptr_eq(entry.node.node(), from);
        for entry in self.exports.all.values_mut().filter(of_disk) {
            entry.node.move_to(to);
            entry.layer.move_to(to.layer().clone());
            if let Some(chain) = &entry.chain {
                *chain.write().unwrap_or_else(PoisonError::into_inner) = chain_of(to);
            }
        }
    }

    /// `block-export-del`, and `nbd-server-remove`.
    pub(super) fn remove_export(&mut self, id: &str, mode: Option<BlockExportRemoveMode>) -> Answer {
        let Some(entry) = self.exports.all.get_mut(id) else {
            return Err(QmpError::generic(format!("Export '{id}' is not found")));
        };
        if entry.leaving.is_some() {
            return Err(QmpError::generic(format!("Export '{id}' is already shutting down")));
        }
        let server = self.exports.server.as_ref();
        let users = server.and_then(|server| server.users(&entry.name)).unwrap_or(0);
        if users > 0 && mode != Some(BlockExportRemoveMode::Hard) {
            return Err(QmpError::generic(format!("export '{id}' still in use")));
        }
        let leaving = server.and_then(|server| server.remove(&entry.name)).map(Arc::new);
        entry.leaving.clone_from(&leaving);
        let Some(leaving) = leaving.filter(|leaving| !leaving.is_over()) else {
            self.forget_export(id);
            return done();
        };
        // What they asked for may take as long as it likes, but not because of limits.
        let (events, unlimited) = (self.host.events.clone(), entry.node.node().unlimited());
        let wait = move || {
            leaving.wait();
            drop(unlimited);
            events.send(MachineEvent::ExportLeft(leaving));
        };
        if let Err(error) = thread::spawn(ThreadKind::Nbd, "export-end", wait) {
            log::warn!("cannot wait for the end of export '{id}' in the background: {error}");
            self.forget_export(id);
        }
        done()
    }

    /// An export that went has no requests under way any more.
    pub(super) fn export_left(&mut self, leaving: &Arc<Leaving>) {
        let is_this = |entry: &Entry| entry.leaving.as_ref().is_some_and(|left| Arc::ptr_eq(left, leaving));
        let id = self.exports.all.iter().find(|(_, entry)| is_this(entry)).map(|(id, _)| id.clone());
        if let Some(id) = id {
            self.forget_export(&id);
        }
    }

    /// Hangs up on the clients of an export, waits for the end of their requests, and lets go of its node.
    fn forget_export(&mut self, id: &str) {
        let Some(entry) = self.exports.all.remove(id) else { return };
        let remove = || self.exports.server.as_ref()?.remove(&entry.name).map(Arc::new);
        if let Some(leaving) = entry.leaving.clone().or_else(remove) {
            let _unlimited = entry.node.node().unlimited();
            leaving.wait();
        }
        drop(entry);
        self.bus.emit(&Event::BlockExportDeleted(BlockExportDeletedData { id: id.to_owned() }));
    }

    /// `query-block-exports`.
    pub(super) fn exports(&self) -> Vec<BlockExportInfo> {
        let describe = |(id, entry): (&String, &Entry)| BlockExportInfo {
            id: id.clone(),
            r#type: BlockExportType::Nbd,
            node_name: entry.node.node().name().to_owned(),
            shutting_down: entry.leaving.is_some(),
        };
        self.exports.all.iter().map(describe).collect()
    }
}

/// The layers of the images that make up what `node` shows.
fn chain_of(node: &Arc<Node>) -> Vec<Arc<dyn Layer>> {
    let images = node.shown_by().filter(|node| node.filtered().is_none());
    images.map(|node| node.layer().clone()).collect()
}

fn not_running() -> QmpError {
    QmpError::generic("NBD server not running")
}

fn listen(address: &SocketAddressLegacy) -> Result<Listener, QmpError> {
    let place = match address {
        SocketAddressLegacy::Unix(unix) => Place::Unix(unix.path.clone()),
        SocketAddressLegacy::Inet(inet) => {
            let port = inet.port.parse::<u16>();
            let port = port.map_err(|_| QmpError::generic(format!("Invalid port number '{}'", inet.port)))?;
            Place::Inet(inet.host.clone(), port)
        }
    };
    place.listen().map_err(|error| QmpError::from_error(&error))
}
