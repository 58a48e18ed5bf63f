//! virtio-scsi (section 5.6): a host adapter with up to 256 targets of up to 16384 units each.
//!
//! ```text
//!   queue 0  control: task management ──┐ marks tasks, waits for them
//!   queue 1  events: hot-plug, resize   ▼
//!   queue 2… requests ── wire ── LogicalUnit ── Job ── image
//! ```
//!
//! It knows queues and the addresses of units. What a command means, [`crate::scsi`] knows.

mod budget;
mod bus;
mod config;
mod control;
mod events;
mod requests;
mod state;
mod tasks;
mod wire;

use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

use self::config::{CONFIG_LEN, Shared};
use self::control::ControlQueue;
use self::events::EventQueue;
use self::requests::RequestQueue;
use self::state::ScsiState;
use self::tasks::Tasks;
use super::device::{DeviceConfig, DriverEvents, Identity, QueueParts, RingPosition, Stopped, VirtioDevice};
use super::features::device_type;
use super::iothread::Placement;
use super::worker::QueueSet;
use crate::lifecycle::DeviceError;

pub use bus::{ScsiAddress, ScsiBus, ScsiBusError, ScsiUnit};

/// Queues before the request queues: control and events.
const FIXED_QUEUES: u16 = 2;
/// Most request queues: as many as notification addresses leave room for.
const MAX_REQUEST_QUEUES: u16 = 1024 - FIXED_QUEUES;

/// Feature bits (section 5.6.3).
mod feature {
    pub(super) const HOTPLUG: u64 = 1 << 1;
    pub(super) const CHANGE: u64 = 1 << 2;
}

/// Properties of a `virtio-scsi` device.
#[derive(Debug, Clone)]
pub struct ScsiConfig {
    /// Name in logs and thread names.
    pub id: String,
    /// `num_queues`: request queues; as many as vCPUs is a good number.
    pub queues: u16,
    /// `virtqueue_size`: a power of two from 4 to 1024.
    pub queue_size: u16,
    /// `max_sectors`: most sectors of 512 bytes in one request, a hint to the driver.
    pub max_sectors: u32,
    /// `cmd_per_lun`: most commands of a unit at once, a hint to the driver.
    pub cmd_per_lun: u32,
    /// `hotplug`: offer events about units that come and go.
    pub hotplug: bool,
    /// `param_change`: offer events about units that change.
    pub param_change: bool,
}

impl ScsiConfig {
    /// QEMU's defaults, with `queues` request queues.
    #[must_use]
    pub fn new(id: impl Into<String>, queues: u16) -> Self {
        Self {
            id: id.into(),
            queues,
            queue_size: 256,
            max_sectors: 0xffff,
            cmd_per_lun: 128,
            hotplug: true,
            param_change: true,
        }
    }

    fn check(&self) -> Result<(), ScsiConfigError> {
        if self.queues == 0 || self.queues > MAX_REQUEST_QUEUES {
            return Err(ScsiConfigError::Queues { value: self.queues, max: MAX_REQUEST_QUEUES });
        }
        if !self.queue_size.is_power_of_two() || !(4..=1024).contains(&self.queue_size) {
            return Err(ScsiConfigError::QueueSize(self.queue_size));
        }
        if self.max_sectors == 0 || self.cmd_per_lun == 0 {
            return Err(ScsiConfigError::Zero);
        }
        Ok(())
    }
}

/// A property has a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScsiConfigError {
    /// `num_queues`.
    #[error("num_queues must be between 1 and {max}, not {value}")]
    Queues {
        /// Its value.
        value: u16,
        /// The most there can be.
        max: u16,
    },
    /// `virtqueue_size`.
    #[error("virtqueue_size must be a power of two between 4 and 1024, not {0}")]
    QueueSize(u16),
    /// `max_sectors` or `cmd_per_lun`.
    #[error("max_sectors and cmd_per_lun must be greater than 0")]
    Zero,
}

/// A virtio SCSI host adapter.
pub struct VirtioScsi {
    identity: Identity,
    config: ScsiConfig,

    placement: Placement,
    bus: Arc<ScsiBus>,
    shared: Arc<Shared>,

    workers: QueueSet,
}

impl VirtioScsi {
    /// An adapter without units; its threads are made by [`VirtioDevice::start`].
    ///
    /// # Errors
    /// When a property has a value that cannot be.
    pub fn new(config: ScsiConfig, placement: Placement) -> Result<Box<Self>, ScsiConfigError> {
        config.check()?;
        let offered = [(feature::HOTPLUG, config.hotplug), (feature::CHANGE, config.param_change)];
        let identity = Identity {
            device_type: device_type::SCSI,
            features: offered.iter().filter(|(_, on)| *on).map(|(bit, _)| bit).sum(),
            queue_sizes: vec![config.queue_size; usize::from(FIXED_QUEUES + config.queues)],
            config_len: CONFIG_LEN,
            pci_class: [0x01, 0x00, 0x00],
        };
        let shared = Arc::new(Shared::new(&config));
        let bus = ScsiBus::new();
        Ok(Box::new(Self { identity, config, placement, bus, shared, workers: QueueSet::default() }))
    }

    /// Where units come and go; it outlives the adapter's move behind a transport.
    #[must_use]
    pub fn bus(&self) -> Arc<ScsiBus> {
        Arc::clone(&self.bus)
    }

    fn host(&self, source: std::io::Error) -> DeviceError {
        DeviceError::Host { what: format!("cannot start a thread for SCSI adapter \"{}\"", self.config.id), source }
    }
}

impl VirtioDevice for VirtioScsi {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn config(&self) -> Arc<dyn DeviceConfig> {
        Arc::clone(&self.shared) as _
    }

    fn connect(&mut self, _events: Arc<dyn DriverEvents>) {}

    fn start(&mut self) -> Result<(), DeviceError> {
        let depth = self.config.queue_size.into();
        let tasks = Tasks::new(self.config.queues);
        self.bus.open(self.config.queues, depth, &tasks).map_err(|source| DeviceError::Below {
            what: format!("cannot open the queues of SCSI adapter \"{}\"", self.config.id),
            source: Box::new(source),
        })?;
        let first = self.placement.thread(&self.config.id, 0).map_err(|source| self.host(source))?;
        let control = ControlQueue::new(Arc::clone(&self.bus), Arc::clone(&tasks)).map_err(|e| self.host(e))?;
        self.workers.add(&first, Box::new(control));
        let events = EventQueue::new(Arc::clone(self.bus.events()));
        self.workers.add(&first, Box::new(events));
        for n in 0..self.config.queues {
            let thread = match n {
                0 => Arc::clone(&first),
                n => self.placement.thread(&self.config.id, n).map_err(|source| self.host(source))?,
            };
            let shared = (Arc::clone(&self.bus), Arc::clone(&self.shared), Arc::clone(&tasks));
            let requests = RequestQueue::new(n, shared).map_err(|source| self.host(source))?;
            self.workers.add(&thread, Box::new(requests));
        }
        Ok(())
    }

    fn set_features(&mut self, features: u64) {
        self.bus.events().allow(features & feature::HOTPLUG != 0, features & feature::CHANGE != 0);
    }

    fn start_queue(&mut self, n: u16, parts: QueueParts, at: RingPosition) -> Result<(), DeviceError> {
        self.workers.start(n, parts, at)
    }

    fn stop_queue(&mut self, n: u16, stopped: Stopped) {
        self.workers.stop(n, stopped);
    }

    fn reset(&mut self) {
        self.shared.reset();
        self.bus.reset();
    }

    fn save(&self) -> Value {
        ScsiState::of(&self.shared, &self.bus).to_value()
    }

    fn restore(&mut self, state: Value) -> Result<(), DeviceError> {
        ScsiState::from_value(state, &self.config.id)?.apply(&self.shared, &self.bus, &self.config.id)
    }
}

#[cfg(test)]
mod tests;
