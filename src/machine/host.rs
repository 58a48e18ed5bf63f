//! The host's side of the machine: disks, character devices, shared threads. Devices get theirs from here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rhea_block::Image;
use rhea_block::graph::{Attached, Graph};
use rhea_devices::block_errors::{ErrorAction, ErrorPolicy, IoFailure};
use rhea_devices::block_stats::BlockStats;
use rhea_devices::chardev::CharBackend;
use rhea_devices::scsi::TrayMoved;
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

    /// The device `id` is gone: its node is free for others.
    pub fn let_go(&self, id: &str) {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
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
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default().clone()
    }

    /// Gives the device `id` another node, or none; the former is let go.
    pub fn set_node(&self, id: &str, attached: Option<Arc<Attached>>) {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.entry(id.to_owned()).or_default().attached = attached;
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
        let Some(node) = &plan.node else { return Ok(None) };
        if self.graph.get(node).is_none() {
            return Err(BoardError::device(id)(NoDrive(node.clone())));
        }
        let called = if plan.drive.is_empty() { object_name(id) } else { plan.drive.clone() };
        let attached = self.graph.attach(node, plan.write_cache, &called).map_err(BoardError::device(id))?;
        let image: Arc<dyn Image> = Arc::new(attached.disk().clone());
        self.set_node(id, Some(Arc::new(attached)));
        Ok(Some(image))
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
