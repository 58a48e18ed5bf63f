//! `virtio-blk-pci`.

use super::disk::{DiskSpec, ShapeSpec, SizesSpec};
use crate::spec::error::SpecError;
use crate::spec::pci::{PciSpec, VirtioSpec};

spec_struct! {
    /// A virtio disk.
    pub struct VirtioBlkSpec as "virtio-blk-pci"
        with pci: PciSpec, virtio: VirtioSpec, disk: DiskSpec, sizes: SizesSpec, shape: ShapeSpec {
        /// Node name or drive id of the disk.
        pub drive: String,
        /// Number of queues; as many as vCPUs when not given.
        pub num_queues: Option<u16>,
        /// Entries of each queue: a power of two from 4 to 1024.
        pub queue_size: u16 = 256,
        /// The iothread object that serves the queues; threads of their own when not given.
        pub iothread: Option<String>,
        /// The guest may switch the write cache.
        pub config_wce: bool = true,
        /// Offer discard.
        pub discard: bool = true,
        /// Offer writing of zeroes without data.
        pub write_zeroes: bool = true,
        /// Most sectors of one discard command; only the default here.
        pub max_discard_sectors: u32 = MAX_SECTORS,
        /// Most sectors of one command that writes zeroes; only the default here.
        pub max_write_zeroes_sectors: u32 = MAX_SECTORS,
        /// Most segments of a request follow the queue's size; on is the only way here.
        pub seg_max_adjust: bool = true,
        /// Pass SCSI commands through; only off here.
        pub scsi: bool = false,
    }
}

/// QEMU's limit for one request: all but one sector of 2 GiB.
const MAX_SECTORS: u32 = 4_194_303;

impl VirtioBlkSpec {
    /// Refuses what the disk cannot do; sizes are for the device to check.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.pci.check()?;
        self.virtio.check()?;
        let wrong = [
            (self.scsi, "'scsi=on'", "leave it off: no host device is passed through"),
            (!self.seg_max_adjust, "'seg-max-adjust=off'", "leave it on"),
            (self.max_discard_sectors != MAX_SECTORS, "another 'max-discard-sectors'", "leave it out"),
            (self.max_write_zeroes_sectors != MAX_SECTORS, "another 'max-write-zeroes-sectors'", "leave it out"),
        ];
        if let Some((_, what, instead)) = wrong.iter().find(|(wrong, ..)| *wrong) {
            return Err(SpecError::refused(what, instead));
        }
        self.disk.check()?;
        self.shape.check()
    }
}
