//! The block device's configuration space (section 5.2.4).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::{BlkConfig, Geometry, MAX_SEGMENTS, SECTOR, feature};
use crate::virtio::device::{DeviceConfig, DriverEvents};
use std::sync::Arc;

use rhea_block::ImageInfo;

/// Length of `struct virtio_blk_config` up to and with the limits of write zeroes.
pub(super) const CONFIG_LEN: u16 = 60;
/// Offset of `writeback`, the only field a driver may write.
const WRITEBACK: usize = 32;

/// Most sectors of one discard or write-zeroes segment: what fits a signed 32-bit count of bytes, as QEMU says.
pub(super) const MAX_RANGE_SECTORS: u32 = (i32::MAX as u32) / SECTOR as u32;

/// State that the queues' threads, the registers and whoever resizes the image share.
pub(super) struct Shared {
    fixed: [u8; CONFIG_LEN as usize],
    capacity: AtomicU64,
    generation: AtomicU8,
    /// Writes may stay in a volatile cache until a flush.
    write_cache: AtomicBool,
    initial_write_cache: bool,
    /// It is as features without the switch have it.
    by_features: AtomicBool,
    /// The driver may switch the cache (`VIRTIO_BLK_F_CONFIG_WCE`).
    may_switch: AtomicBool,
    events: OnceLock<Arc<dyn DriverEvents>>,
}

impl Shared {
    pub(super) fn new(config: &BlkConfig, info: &ImageInfo) -> Self {
        let write_cache = config.write_cache.unwrap_or(info.write_cache);
        Self {
            fixed: fixed_fields(config, info),
            capacity: AtomicU64::new(info.size / SECTOR),
            generation: AtomicU8::new(0),
            write_cache: AtomicBool::new(write_cache),
            initial_write_cache: write_cache,
            by_features: AtomicBool::new(false),
            may_switch: AtomicBool::new(false),
            events: OnceLock::new(),
        }
    }

    pub(super) fn connect(&self, events: Arc<dyn DriverEvents>) {
        if self.events.set(events).is_err() {
            log::error!("a virtio block device was connected twice");
        }
    }

    /// Sectors of 512 bytes.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    pub(super) fn write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Acquire)
    }

    pub(super) fn set_write_cache(&self, on: bool) {
        self.write_cache.store(on, Ordering::Release);
    }

    /// The image has another size now.
    pub(super) fn resized(&self, info: &ImageInfo) {
        let sectors = info.size / SECTOR;
        if self.capacity.swap(sectors, Ordering::AcqRel) != sectors {
            self.generation.fetch_add(1, Ordering::AcqRel);
            if let Some(events) = self.events.get() {
                events.config_changed();
            }
        }
    }

    /// Without a flush command a driver cannot empty a cache: then there is none (section 5.2.6.2). A driver that gets
    /// the switch finds it as it was at first; of old, it may have been taken for one without until now.
    pub(super) fn set_features(&self, features: u64) {
        let switch = features & feature::CONFIG_WCE != 0;
        self.may_switch.store(switch, Ordering::Release);
        let by_features = self.by_features.swap(!switch, Ordering::AcqRel);
        if !switch {
            self.set_write_cache(features & feature::FLUSH != 0);
        } else if by_features {
            self.set_write_cache(self.initial_write_cache);
        }
    }

    /// The cache as it was saved, whatever features made of it here before.
    pub(super) fn restore(&self, write_cache: bool) {
        self.by_features.store(false, Ordering::Release);
        self.set_write_cache(write_cache);
    }

    pub(super) fn reset(&self) {
        self.may_switch.store(false, Ordering::Release);
        self.restore(self.initial_write_cache);
    }

    fn image(&self) -> [u8; CONFIG_LEN as usize] {
        let mut bytes = self.fixed;
        put(&mut bytes, 0, &self.capacity().to_le_bytes());
        put(&mut bytes, WRITEBACK, &[u8::from(self.write_cache())]);
        bytes
    }
}

impl DeviceConfig for Shared {
    fn read(&self, offset: usize, data: &mut [u8]) {
        let bytes = self.image();
        let mut from = bytes.iter().skip(offset);
        data.fill_with(|| from.next().copied().unwrap_or(0));
    }

    fn write(&self, offset: usize, data: &[u8]) {
        let at = WRITEBACK.checked_sub(offset).and_then(|at| data.get(at));
        if let Some(value) = at.filter(|_| self.may_switch.load(Ordering::Acquire)) {
            self.set_write_cache(value & 1 != 0);
        }
    }

    fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }
}

fn fixed_fields(config: &BlkConfig, info: &ImageInfo) -> [u8; CONFIG_LEN as usize] {
    let sizes = config.sizes;
    let min_io = u16::try_from(sizes.min_io / sizes.logical).unwrap_or(u16::MAX);
    let align = config.discard_alignment(info) / SECTOR as u32;
    let Geometry { cylinders, heads, sectors } = config.geometry.unwrap_or_else(|| Geometry::guess(info.size));
    // Tracks of whole blocks, unless what a track has of the disk is a whole number of them: as QEMU tells it.
    let track = info.size / u64::from(heads.max(1)) / u64::from(sectors.max(1));
    let in_block = u8::try_from(sizes.logical / SECTOR as u32 - 1).unwrap_or(0);
    let sectors = if track.is_multiple_of(sizes.logical.into()) { sectors } else { sectors & !in_block };
    // Limits of what is not offered are none.
    let features = config.features(info);
    let limit = |feature, value: u32| if features & feature != 0 { value } else { 0 }.to_le_bytes();
    let mut bytes = [0; CONFIG_LEN as usize];
    let fields: [(usize, &[u8]); 14] = [
        (12, &config.seg_max().to_le_bytes()),
        (16, &cylinders.to_le_bytes()),
        (18, &[heads, sectors]),
        (20, &sizes.logical.to_le_bytes()),
        (24, &[sizes.exponent()]),
        (26, &min_io.to_le_bytes()),
        (28, &(sizes.opt_io / sizes.logical).to_le_bytes()),
        (34, &config.queues.to_le_bytes()),
        (36, &limit(feature::DISCARD, MAX_RANGE_SECTORS)),
        (40, &limit(feature::DISCARD, MAX_SEGMENTS)),
        (44, &limit(feature::DISCARD, align)),
        (48, &limit(feature::WRITE_ZEROES, MAX_RANGE_SECTORS)),
        (52, &limit(feature::WRITE_ZEROES, MAX_SEGMENTS)),
        // Zeroes may be unmapped, and nothing after it.
        (56, &limit(feature::WRITE_ZEROES, 1)),
    ];
    for (at, value) in fields {
        put(&mut bytes, at, value);
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(at).zip(value) {
        *byte = *value;
    }
}
