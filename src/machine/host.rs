//! The host's side of the machine: disks, character devices, shared threads. Devices get theirs from here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhea_block::graph::{Attached, Graph, Usage};
use rhea_block::{BlockError, Image};
use rhea_devices::block_errors::{ErrorAction, ErrorPolicy, IoFailure};
use rhea_devices::block_stats::BlockStats;
use rhea_devices::chardev::CharBackend;
use rhea_devices::scsi::{Reservations, TrayMoved};
use rhea_devices::virtio::iothread::IoThread;
use thiserror::Error;

use super::event::{DiskError, EventSender, MachineEvent};
use crate::board::BoardError;
use crate::board::attach::Backends;
use crate::board::plan::{StoragePlan, is_made_up, object_path};
use crate::chardev::Chardevs;

/// A device's `drive=` names nothing.
#[derive(Debug, Error)]
#[error("Property 'drive' can't find value '{0}'; give -drive if=none,id={0},… or -blockdev node-name={0},…")]
struct NoDrive(String);

/// A `-drive` is for one device.
#[derive(Debug, Error)]
#[error("Drive '{0}' is already in use by another device; give both the node's name and share-rw=on")]
struct DriveTaken(String);

/// What the host gives.
pub struct Host {
    /// Character devices.
    pub chardevs: Arc<Chardevs>,
    /// Block nodes.
    pub graph: Arc<Graph>,
    /// `iothread` objects by id.
    pub iothreads: BTreeMap<String, Arc<IoThread>>,
    /// Where errors of disks are told.
    pub events: EventSender,

    disks: Mutex<BTreeMap<String, Disk>>,
}

/// The host's end of a disk or drive.
#[derive(Clone, Default)]
pub struct Disk {
    /// The node, held as long as the device has it; nothing for an empty drive.
    pub attached: Option<Arc<Attached>>,
    /// What it counts.
    pub stats: Arc<BlockStats>,
    /// Who reserved what of it, if it is a disk on SCSI.
    reservations: Option<Arc<Reservations>>,
    /// The `-drive` it came from, or empty.
    drive: String,
    /// How the device uses the node.
    usage: Usage,
}

impl Host {
    /// Nothing is in use yet.
    #[must_use]
    pub fn new(
        chardevs: Arc<Chardevs>,
        graph: Arc<Graph>,
        iothreads: BTreeMap<String, Arc<IoThread>>,
        events: EventSender,
    ) -> Self {
        Self { chardevs, graph, iothreads, events, disks: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Disk>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device `id` is gone: its node is free for others.
    pub fn let_go(&self, id: &str) {
        let gone = self.lock().remove(id);
        self.left(gone.and_then(|disk| disk.attached));
    }

    /// What a device had is used by others alone, or by nobody.
    pub(super) fn left(&self, former: Option<Arc<Attached>>) {
        let Some(node) = former.map(|attached| attached.node()) else { return };
        self.graph.lock_as_used(&node);
    }

    /// Gives the node called `node` to the device `id`, which is `called` so, to be used as it needs.
    ///
    /// # Errors
    /// There is no such node, or somebody else stands against it.
    pub fn attach(&self, id: &str, node: &str, write_cache: bool, called: &str) -> Result<Attached, BlockError> {
        let usage = self.disk(id).usage;
        self.graph.attach_as(node, write_cache, called, usage)
    }

    /// Does `work`, which waits for requests of the guest, while no limits hold those up: that could take hours.
    pub fn without_limits<T>(&self, work: impl FnOnce() -> T) -> T {
        self.graph.lift_limits(true);
        let done = work();
        self.graph.lift_limits(false);
        done
    }

    /// The disk of the device `id`.
    #[must_use]
    pub fn disk(&self, id: &str) -> Disk {
        self.lock().entry(id.to_owned()).or_default().clone()
    }

    /// Gives the device `id` another node, or none; the former is let go.
    pub fn set_node(&self, id: &str, attached: Option<Arc<Attached>>) {
        let former = std::mem::replace(&mut self.lock().entry(id.to_owned()).or_default().attached, attached);
        self.left(former);
    }
}

/// What the device `id` is called in words.
fn object_name(id: &str) -> String {
    if is_made_up(id) { object_path(id) } else { id.to_owned() }
}

impl Backends for Host {
    fn chardev(&self, id: &str) -> Result<Arc<dyn CharBackend>, BoardError> {
        let device = self.chardevs.frontend(id).map_err(BoardError::device(id))?;
        Ok(device)
    }

    fn image(&self, plan: &StoragePlan, id: &str) -> Result<Option<Arc<dyn Image>>, BoardError> {
        {
            let mut disks = self.lock();
            let taken =
                |(other, disk): (&String, &Disk)| other != id && !disk.drive.is_empty() && disk.drive == plan.drive;
            if disks.iter().any(taken) {
                return Err(BoardError::device(id)(DriveTaken(plan.drive.clone())));
            }
            let disk = disks.entry(id.to_owned()).or_default();
            disk.drive.clone_from(&plan.drive);
            disk.usage = Usage { only_reads: plan.only_reads, shares: plan.share };
        }
        let Some(node) = &plan.node else { return Ok(None) };
        if self.graph.get(node).is_none() {
            return Err(BoardError::device(id)(NoDrive(node.clone())));
        }
        let called = if plan.drive.is_empty() { object_name(id) } else { plan.drive.clone() };
        let attached = self.attach(id, node, plan.write_cache, &called).map_err(BoardError::device(id))?;
        let image: Arc<dyn Image> = Arc::new(attached.disk().clone());
        self.set_node(id, Some(Arc::new(attached)));
        Ok(Some(image))
    }

    fn reservations(&self, id: &str) -> Arc<Reservations> {
        let mut disks = self.lock();
        let node_of = |disk: &Disk| disk.attached.as_ref().map(|attached| attached.node());
        let own = disks.get(id).and_then(node_of);
        let same = |disk: &&Disk| node_of(disk).zip(own.as_ref()).is_some_and(|(one, own)| Arc::ptr_eq(&one, own));
        let shared = disks.values().filter(same).find_map(|disk| disk.reservations.clone());
        let all = shared.unwrap_or_else(Reservations::new);
        disks.entry(id.to_owned()).or_default().reservations = Some(Arc::clone(&all));
        all
    }

    fn stats(&self, id: &str) -> Arc<BlockStats> {
        self.disk(id).stats
    }

    fn errors(&self, plan: &StoragePlan, id: &str) -> ErrorPolicy {
        let (events, device) = (self.events.clone(), id.to_owned());
        let tell = move |failure: IoFailure| {
            events.send(MachineEvent::DiskError(DiskError {
                device: device.clone(),
                write: failure.write,
                stop: failure.action == ErrorAction::Stop,
                ignore: failure.action == ErrorAction::Ignore,
                errno: failure.errno,
            }));
        };
        ErrorPolicy { read: plan.on_read_error, write: plan.on_write_error, tell: Arc::new(tell) }
    }

    fn tray(&self, id: &str) -> Box<dyn Fn(TrayMoved) + Send + Sync> {
        let (events, device) = (self.events.clone(), id.to_owned());
        Box::new(move |moved| events.send(MachineEvent::TrayMoved { device: device.clone(), open: moved.open }))
    }

    fn iothread(&self, id: &str) -> Result<Arc<IoThread>, BoardError> {
        let missing = || BoardError::device(id)(std::io::Error::other("there is no such iothread object"));
        self.iothreads.get(id).cloned().ok_or_else(missing)
    }
}
