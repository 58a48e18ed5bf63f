//! What a transport asks of a device, and what a device may tell its driver.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::lifecycle::DeviceError;
use crate::memory::GuestRam;

/// What a device is; fixed for its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Device type (section 5).
    pub device_type: u16,
    /// Features offered: the device type's own bits ([`super::features::DEVICE_BITS`]). The transport adds its own.
    pub features: u64,
    /// Greatest size of each queue, a power of two up to 1024; as many as there are queues.
    pub queue_sizes: Vec<u16>,
    /// Length of the configuration space, in bytes.
    pub config_len: u16,
    /// PCI class code: class, subclass, programming interface.
    pub pci_class: [u8; 3],
}

/// The device-specific configuration (section 2.5).
pub trait DeviceConfig: Send + Sync {
    /// Fills `data` from byte `offset`; bytes beyond the end read as zero.
    fn read(&self, offset: usize, data: &mut [u8]);
    /// Takes `data` at byte `offset`; what cannot be written is dropped.
    fn write(&self, offset: usize, data: &[u8]);
    /// Changes whenever a field changed in a way that could tear a reader (section 2.5.1).
    fn generation(&self) -> u8;
}

/// How a device reaches its driver. Callable from any thread, without locks.
pub trait DriverEvents: Send + Sync {
    /// Queue `n` has used buffers and the driver wants to know.
    fn queue_used(&self, n: u16);
    /// The configuration changed.
    fn config_changed(&self);
    /// The device cannot go on until it is reset (section 2.1.2).
    fn needs_reset(&self);
}

/// Where the guest put a split ring (section 2.7). Guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingLayout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Driver area: the available ring.
    pub avail: u64,
    /// Device area: the used ring.
    pub used: u64,
}

/// How far a device is in a ring: all that must outlive a stop.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingPosition {
    /// Index of the next available entry to take.
    pub next_avail: u16,
    /// Index of the next used entry to write.
    pub next_used: u16,
    /// Heads of chains taken and not yet returned (requests held by an error policy); they are served first after
    /// the next start.
    pub held: Vec<u16>,
}

/// Everything a device needs to serve one queue.
pub struct QueueParts {
    /// Number of the queue.
    pub index: u16,
    /// Where the ring is.
    pub ring: RingLayout,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// The driver has said that it is ready. One that has not may use the queue all the same, from when it rings.
    pub ready: bool,
    /// Guest RAM.
    pub memory: Arc<GuestRam>,
    /// Signalled when the driver has made buffers available.
    pub doorbell: Arc<EventFd>,
    /// The way to the driver.
    pub events: Arc<dyn DriverEvents>,
}

/// The promise to say when a queue has stopped and where; keeping it is not optional: dropped, it says that the
/// position is lost.
pub struct Stopped(Option<Box<dyn FnOnce(Option<RingPosition>) + Send>>);

impl Stopped {
    /// Calls `then` once, on whatever thread the queue stops on.
    #[must_use]
    pub fn new(then: impl FnOnce(Option<RingPosition>) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }

    /// The queue has stopped at `position`; nothing of it is in flight.
    pub fn at(mut self, position: RingPosition) {
        if let Some(then) = self.0.take() {
            then(Some(position));
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(None);
        }
    }
}

/// A virtio device behind any transport.
///
/// No method waits: they are called on vCPU threads. A queue is started and stopped on its own and gives its position
/// back, so that a running device can be paused, saved, or have one queue reset.
pub trait VirtioDevice: Send {
    /// What it is.
    fn identity(&self) -> &Identity;
    /// Its configuration space.
    fn config(&self) -> Arc<dyn DeviceConfig>;
    /// Once, by the transport that takes the device on: how to reach the driver.
    fn connect(&mut self, events: Arc<dyn DriverEvents>);
    /// Once, before the guest runs: make threads and open what can fail.
    ///
    /// # Errors
    /// When the host refuses.
    fn start(&mut self) -> Result<(), DeviceError>;
    /// The driver accepted these features (all bits, the transport's included); 0 after a reset.
    fn set_features(&mut self, features: u64);
    /// Serves queue `n` from now on, from `at`.
    ///
    /// # Errors
    /// When the ring does not lie in RAM or the position makes no sense; the transport then asks for a reset.
    fn start_queue(&mut self, n: u16, parts: QueueParts, at: RingPosition) -> Result<(), DeviceError>;
    /// Takes no more from queue `n`, lets what is in flight finish, then keeps the promise `stopped`.
    /// A queue that does not run drops the promise.
    fn stop_queue(&mut self, n: u16, stopped: Stopped);
    /// Back to the state after power-on; every queue is stopped.
    fn reset(&mut self);
    /// The device's own state beyond configuration and rings, for [`VirtioDevice::restore`].
    fn save(&self) -> serde_json::Value;
    /// Takes on a state saved before; every queue is stopped.
    ///
    /// # Errors
    /// [`DeviceError::State`] when it does not fit; the device is then as it was.
    fn restore(&mut self, state: serde_json::Value) -> Result<(), DeviceError>;
}
