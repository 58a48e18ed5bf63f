//! The adapter's configuration space (section 5.6.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ScsiConfig;
use super::budget::Budget;
use crate::virtio::device::DeviceConfig;

/// Length of `struct virtio_scsi_config`.
pub(super) const CONFIG_LEN: u16 = 36;
/// Offsets of the two fields that a driver may write.
const SENSE_SIZE: usize = 20;
const CDB_SIZE: usize = 24;

/// What they are at first.
const DEFAULT_SENSE: u32 = 96;
const DEFAULT_CDB: u32 = 32;
/// The most they can be.
const MAX_SENSE: u32 = 0xffff;
const MAX_CDB: u32 = 255;

/// The space, shared with the request queues.
pub(super) struct Shared {
    fixed: [u8; CONFIG_LEN as usize],
    sense_size: AtomicU32,
    cdb_size: AtomicU32,
    pub(super) memory: Arc<Budget>,
}

impl Shared {
    pub(super) fn new(config: &ScsiConfig) -> Self {
        let mut fixed = [0; CONFIG_LEN as usize];
        let seg_max = u32::from(config.queue_size).saturating_sub(2);
        let fields: [(usize, &[u8]); 8] = [
            (0, &u32::from(config.queues).to_le_bytes()),
            (4, &seg_max.to_le_bytes()),
            (8, &config.max_sectors.to_le_bytes()),
            (12, &config.cmd_per_lun.to_le_bytes()),
            // Length of an event.
            (16, &16u32.to_le_bytes()),
            // Greatest channel, target and unit.
            (28, &0u16.to_le_bytes()),
            (30, &255u16.to_le_bytes()),
            (32, &16383u32.to_le_bytes()),
        ];
        for (at, value) in fields {
            put(&mut fixed, at, value);
        }
        let (sense_size, cdb_size) = (AtomicU32::new(DEFAULT_SENSE), AtomicU32::new(DEFAULT_CDB));
        Self { fixed, sense_size, cdb_size, memory: Budget::new() }
    }

    /// Bytes of a command block and of sense data in requests.
    pub(super) fn sizes(&self) -> (u32, u32) {
        (self.cdb_size.load(Ordering::Acquire), self.sense_size.load(Ordering::Acquire))
    }

    /// Sets both, if they can be so.
    pub(super) fn set_sizes(&self, cdb: u32, sense: u32) -> bool {
        let fits = (1..=MAX_CDB).contains(&cdb) && sense <= MAX_SENSE;
        if fits {
            self.cdb_size.store(cdb, Ordering::Release);
            self.sense_size.store(sense, Ordering::Release);
        }
        fits
    }

    pub(super) fn reset(&self) {
        self.set_sizes(DEFAULT_CDB, DEFAULT_SENSE);
    }

    fn image(&self) -> [u8; CONFIG_LEN as usize] {
        let mut bytes = self.fixed;
        let (cdb, sense) = self.sizes();
        put(&mut bytes, SENSE_SIZE, &sense.to_le_bytes());
        put(&mut bytes, CDB_SIZE, &cdb.to_le_bytes());
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
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        let (cdb, sense) = self.sizes();
        let taken = match offset {
            SENSE_SIZE => self.set_sizes(cdb, value),
            CDB_SIZE => self.set_sizes(value, sense),
            _ => return,
        };
        if !taken {
            log::debug!("virtio-scsi: a driver wants {value} bytes at offset {offset}");
        }
    }

    fn generation(&self) -> u8 {
        0
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(at).zip(value) {
        *byte = *value;
    }
}
