//! virtio-blk (section 5.2): a disk image behind queues, each served by one thread.
//!
//! It knows requests. It does not know where a ring lies or how bytes reach a disk.

mod config;
mod handler;
mod request;
mod state;

use std::sync::{Arc, Weak};

use rhea_block::{Image, ImageInfo};
use serde_json::Value;
use thiserror::Error;

use self::config::{CONFIG_LEN, Shared};
use self::handler::{BlkQueue, Fixed};
use self::state::BlkState;
use super::device::{DeviceConfig, DriverEvents, Identity, QueueParts, RingPosition, Stopped, VirtioDevice};
use super::features::device_type;
use super::iothread::Placement;
use super::worker::QueueSet;
use crate::block_errors::ErrorPolicy;
use crate::block_sizes::{BlockSizeError, BlockSizes};
use crate::block_stats::BlockStats;
pub use crate::geometry::Geometry;
use crate::lifecycle::DeviceError;

/// Bytes in a sector of the interface, whatever the block size (section 5.2.6).
const SECTOR: u64 = 512;
/// Bytes of the answer to `VIRTIO_BLK_T_GET_ID`.
const GET_ID_BYTES: usize = 20;
/// Most ranges in one discard or write-zeroes request.
const MAX_SEGMENTS: u32 = 32;

/// Feature bits (section 5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const GEOMETRY: u64 = 1 << 4;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// A property has a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlkConfigError {
    /// The block sizes.
    #[error(transparent)]
    Sizes(#[from] BlockSizeError),
    /// `num-queues`.
    #[error("num-queues must be between 1 and {max}, not {value}")]
    Queues {
        /// Its value.
        value: u16,
        /// The most there can be.
        max: u16,
    },
    /// `queue-size`.
    #[error("queue-size must be a power of two between 4 and 1024, not {0}")]
    QueueSize(u16),
}

/// Most queues of one disk: as many as there are notification addresses.
const MAX_QUEUES: u16 = 1024;

/// Properties of a `virtio-blk` device.
#[derive(Debug, Clone)]
pub struct BlkConfig {
    /// Name in logs and thread names.
    pub id: String,
    /// `num-queues`: as many as vCPUs is a good number.
    pub queues: u16,
    /// `queue-size`: a power of two from 4 to 1024.
    pub queue_size: u16,
    /// `serial`: its first 20 bytes are told.
    pub serial: String,
    /// Block sizes.
    pub sizes: BlockSizes,
    /// `discard`: offer the command.
    pub discard: bool,
    /// `write-zeroes`: offer the command.
    pub write_zeroes: bool,
    /// `config-wce`: the driver may switch the write cache.
    pub config_wce: bool,
    /// `write-cache`: whether writes may stay in a volatile cache; `None` (auto) for as the image does.
    pub write_cache: Option<bool>,
    /// `cyls`, `heads`, `secs`; `None` for a guess.
    pub geometry: Option<Geometry>,
}

impl BlkConfig {
    /// QEMU's defaults, with `queues` queues.
    #[must_use]
    pub fn new(id: impl Into<String>, queues: u16) -> Self {
        Self {
            id: id.into(),
            queues,
            queue_size: 256,
            serial: String::new(),
            sizes: BlockSizes::of(SECTOR as u32),
            discard: true,
            write_zeroes: true,
            config_wce: true,
            write_cache: None,
            geometry: None,
        }
    }

    /// Most data segments of a request: a chain has no more descriptors than the queue, and two are header and status.
    fn seg_max(&self) -> u32 {
        u32::from(self.queue_size).saturating_sub(2)
    }

    fn discard_alignment(&self, info: &ImageInfo) -> u32 {
        self.sizes.discard_granularity.unwrap_or(info.discard_granularity).max(self.sizes.logical)
    }

    fn check(&self) -> Result<(), BlkConfigError> {
        self.sizes.check()?;
        if self.queues == 0 || self.queues > MAX_QUEUES {
            return Err(BlkConfigError::Queues { value: self.queues, max: MAX_QUEUES });
        }
        if !self.queue_size.is_power_of_two() || !(4..=1024).contains(&self.queue_size) {
            return Err(BlkConfigError::QueueSize(self.queue_size));
        }
        Ok(())
    }

    fn features(&self, info: &ImageInfo) -> u64 {
        let write_cache = self.write_cache.unwrap_or(info.write_cache);
        let optional = [
            (feature::RO, info.read_only),
            (feature::FLUSH, write_cache || self.config_wce),
            (feature::CONFIG_WCE, self.config_wce),
            (feature::MQ, self.queues > 1),
            (feature::DISCARD, self.discard && !info.read_only),
            (feature::WRITE_ZEROES, self.write_zeroes && !info.read_only),
        ];
        let always = feature::SEG_MAX | feature::GEOMETRY | feature::BLK_SIZE | feature::TOPOLOGY;
        optional.iter().filter(|(_, on)| *on).fold(always, |features, (bit, _)| features | bit)
    }
}

/// A serial number, padded with zeroes.
#[derive(Clone, Copy)]
struct Serial([u8; GET_ID_BYTES]);

impl Serial {
    fn new(text: &str) -> Self {
        let mut bytes = [0; GET_ID_BYTES];
        for (byte, value) in bytes.iter_mut().zip(text.bytes()) {
            *byte = value;
        }
        Self(bytes)
    }
}

/// What a block device works with.
pub struct BlkConnections {
    /// The disk.
    pub image: Arc<dyn Image>,
    /// Where its queues run.
    pub placement: Placement,
    /// What it counts.
    pub stats: Arc<BlockStats>,
    /// What to do when the host fails a request.
    pub errors: ErrorPolicy,
}

/// A virtio block device.
pub struct VirtioBlk {
    identity: Identity,
    config: BlkConfig,

    image: Arc<dyn Image>,
    placement: Placement,
    fixed: Arc<Fixed>,

    workers: QueueSet,
}

impl VirtioBlk {
    /// A disk; its threads are made by [`VirtioDevice::start`].
    ///
    /// # Errors
    /// When a property has a value that cannot be.
    pub fn new(config: BlkConfig, to: BlkConnections) -> Result<Box<Self>, BlkConfigError> {
        config.check()?;
        let BlkConnections { image, placement, stats, errors } = to;
        let info = image.info();
        let identity = Identity {
            device_type: device_type::BLOCK,
            features: config.features(&info),
            queue_sizes: vec![config.queue_size; usize::from(config.queues)],
            config_len: CONFIG_LEN,
            pci_class: [0x01, 0x00, 0x00],
        };
        let shared = Arc::new(Shared::new(&config, &info));
        let listener: Weak<Shared> = Arc::downgrade(&shared);
        image.on_change(Box::new(move |info| {
            if let Some(shared) = listener.upgrade() {
                shared.resized(&info);
            }
        }));
        let serial = Serial::new(&config.serial);
        let (block, read_only) = (config.sizes.logical, info.read_only);
        let fixed = Arc::new(Fixed { shared, stats, errors, serial, block, read_only });
        Ok(Box::new(Self { identity, config, image, placement, fixed, workers: QueueSet::default() }))
    }
}

impl VirtioDevice for VirtioBlk {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn config(&self) -> Arc<dyn DeviceConfig> {
        Arc::clone(&self.fixed.shared) as _
    }

    fn connect(&mut self, events: Arc<dyn DriverEvents>) {
        self.fixed.shared.connect(events);
    }

    fn start(&mut self) -> Result<(), DeviceError> {
        for n in 0..self.config.queues {
            let thread = self.placement.thread(&self.config.id, n).map_err(|source| DeviceError::Host {
                what: format!("cannot start a thread for disk \"{}\"", self.config.id),
                source,
            })?;
            let image = self.image.open_queue(self.config.queue_size.into()).map_err(|source| DeviceError::Below {
                what: format!("cannot open a queue of disk \"{}\"", self.config.id),
                source: Box::new(source),
            })?;
            let handler = BlkQueue::new(Arc::clone(&self.fixed), image);
            self.workers.add(&thread, Box::new(handler));
        }
        Ok(())
    }

    fn set_features(&mut self, features: u64) {
        self.fixed.shared.set_features(features);
    }

    fn start_queue(&mut self, n: u16, parts: QueueParts, at: RingPosition) -> Result<(), DeviceError> {
        self.workers.start(n, parts, at)
    }

    fn stop_queue(&mut self, n: u16, stopped: Stopped) {
        self.workers.stop(n, stopped);
    }

    fn reset(&mut self) {
        self.fixed.shared.reset();
    }

    fn save(&self) -> Value {
        BlkState::of(&self.fixed.shared).to_value()
    }

    fn restore(&mut self, state: Value) -> Result<(), DeviceError> {
        BlkState::from_value(state, &self.config.id)?.apply(&self.fixed.shared);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
