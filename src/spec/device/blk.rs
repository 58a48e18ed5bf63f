//! `virtio-blk-pci`.

use crate::spec::error::SpecError;
use crate::spec::number::ByteSize;
use crate::spec::pci::{OnOffAuto, PciSpec, VirtioSpec};

spec_enum! {
    /// What an error of the host's storage does.
    pub enum OnError as "BlockdevOnError" {
        /// As the drive says: `enospc` for writes and `report` for reads, if it says nothing.
        Auto = "auto",
        /// The guest is told.
        Report = "report",
        /// The guest is told that all went well.
        Ignore = "ignore",
        /// The machine stops; the request is done again when it goes on.
        Stop = "stop",
        /// As stop if the host is out of space, else as report.
        Enospc = "enospc",
    }
}

spec_struct! {
    /// A virtio disk.
    pub struct VirtioBlkSpec as "virtio-blk-pci" with pci: PciSpec, virtio: VirtioSpec {
        /// Node name or drive id of the disk.
        pub drive: String,
        /// Place in the order of booting, from 0.
        pub bootindex: Option<i32>,
        /// Serial number that the guest can read; 20 bytes of it.
        pub serial: Option<String>,
        /// Number of queues; as many as vCPUs when not given.
        pub num_queues: Option<u16>,
        /// Entries of each queue: a power of two from 4 to 1024.
        pub queue_size: u16 = 256,
        /// The iothread object that serves the queues; threads of their own when not given.
        pub iothread: Option<String>,
        /// Tell the guest of a volatile write cache; auto is as the drive's cache mode says.
        pub write_cache: OnOffAuto = OnOffAuto::Auto,
        /// The guest may switch the write cache.
        pub config_wce: bool = true,
        /// Offer discard.
        pub discard: bool = true,
        /// Offer writing of zeroes without data.
        pub write_zeroes: bool = true,
        /// Unit of reads and writes in bytes: a power of two from 512 to 2 MiB; 512 when not given.
        pub logical_block_size: Option<ByteSize> as "logical_block_size",
        /// Unit that the disk writes in one go, in bytes; as logical_block_size when not given.
        pub physical_block_size: Option<ByteSize> as "physical_block_size",
        /// Least size of a request that is not slow, in bytes.
        pub min_io_size: ByteSize as "min_io_size" = ByteSize(0),
        /// Best size of a request, in bytes.
        pub opt_io_size: ByteSize as "opt_io_size" = ByteSize(0),
        /// Unit of discard in bytes; the image's own when not given.
        pub discard_granularity: Option<ByteSize> as "discard_granularity",
        /// What a failed write does.
        pub werror: OnError = OnError::Auto,
        /// What a failed read does.
        pub rerror: OnError = OnError::Auto,
        /// Let other programs write the same image; only off here.
        pub share_rw: bool = false,
        /// Cylinders that the guest is told of; guessed when not given.
        pub cyls: Option<u16>,
        /// Heads that the guest is told of.
        pub heads: Option<u8>,
        /// Sectors of a track that the guest is told of.
        pub secs: Option<u8>,
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
            (self.share_rw, "'share-rw=on'", "open the image with locking=off in -blockdev"),
            (self.scsi, "'scsi=on'", "leave it off: no host device is passed through"),
            (!self.seg_max_adjust, "'seg-max-adjust=off'", "leave it on"),
            (self.max_discard_sectors != MAX_SECTORS, "another 'max-discard-sectors'", "leave it out"),
            (self.max_write_zeroes_sectors != MAX_SECTORS, "another 'max-write-zeroes-sectors'", "leave it out"),
            (self.rerror == OnError::Enospc, "'rerror=enospc'", "use rerror=report, ignore or stop"),
        ];
        if let Some((_, what, instead)) = wrong.iter().find(|(wrong, ..)| *wrong) {
            return Err(SpecError::refused(what, instead));
        }
        match (self.cyls, self.heads, self.secs) {
            (None, None, None) | (Some(_), Some(_), Some(_)) => Ok(()),
            _ => Err(SpecError::new("'cyls', 'heads' and 'secs' go together; give all three or none")),
        }
    }
}
