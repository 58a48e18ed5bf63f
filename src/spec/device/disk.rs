//! What disks and drives are told, whatever bus they are on.

use crate::spec::error::SpecError;
use crate::spec::number::ByteSize;
use crate::spec::pci::OnOffAuto;

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
    /// What every disk and drive has.
    pub part DiskSpec as "block-device" {
        /// Place in the order of booting, from 0.
        pub bootindex: Option<i32>,
        /// Serial number that the guest can read; 20 bytes of it, 36 on SCSI.
        pub serial: Option<String>,
        /// Tell the guest of a volatile write cache; auto is as the drive's cache mode says.
        pub write_cache: OnOffAuto = OnOffAuto::Auto,
        /// What a failed write does.
        pub werror: OnError = OnError::Auto,
        /// What a failed read does.
        pub rerror: OnError = OnError::Auto,
        /// Let other devices and other programs that say the same write to the image, too.
        pub share_rw: bool = false,
    }
}

impl DiskSpec {
    /// Refuses what no disk here can do.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        match self.rerror {
            OnError::Enospc => Err(SpecError::refused("'rerror=enospc'", "use rerror=report, ignore or stop")),
            _ => Ok(()),
        }
    }
}

spec_struct! {
    /// The sizes that a disk tells of; the device checks them.
    pub part SizesSpec as "block-sizes" {
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
    }
}

spec_struct! {
    /// The shape that a disk tells of.
    pub part ShapeSpec as "disk-geometry" {
        /// Cylinders that the guest is told of; guessed when not given.
        pub cyls: Option<u16>,
        /// Heads that the guest is told of.
        pub heads: Option<u8>,
        /// Sectors of a track that the guest is told of.
        pub secs: Option<u8>,
        /// Cylinders that firmware shows programs; its own choice when all three are 0.
        pub lcyls: u32 = 0,
        /// Heads that firmware shows programs.
        pub lheads: u32 = 0,
        /// Sectors of a track that firmware shows programs.
        pub lsecs: u32 = 0,
    }
}

impl ShapeSpec {
    /// Refuses half a shape.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        match (self.cyls, self.heads, self.secs) {
            (None, None, None) | (Some(_), Some(_), Some(_)) => Ok(()),
            _ => Err(SpecError::new("'cyls', 'heads' and 'secs' go together; give all three or none")),
        }
    }
}
