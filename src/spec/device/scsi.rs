//! `virtio-scsi-pci`, and the disks and drives behind it.

use super::disk::{DiskSpec, ShapeSpec, SizesSpec};
use crate::spec::error::SpecError;
use crate::spec::pci::{PciSpec, VirtioSpec};

/// Greatest target of an adapter.
pub const MAX_TARGET: u32 = 255;
/// Greatest unit of a target.
pub const MAX_LUN: u32 = 16383;

spec_struct! {
    /// A SCSI adapter: 256 targets of 16384 units each.
    pub struct VirtioScsiSpec as "virtio-scsi-pci" with pci: PciSpec, virtio: VirtioSpec {
        /// Number of request queues; as many as vCPUs when not given.
        pub num_queues: Option<u16> as "num_queues",
        /// Entries of each queue: a power of two from 4 to 1024.
        pub virtqueue_size: u16 as "virtqueue_size" = 256,
        /// Most sectors of 512 bytes in one request; a hint to the driver.
        pub max_sectors: u32 as "max_sectors" = 0xffff,
        /// Most commands of one unit at a time; a hint to the driver.
        pub cmd_per_lun: u32 as "cmd_per_lun" = 128,
        /// Tell the driver of units that come and go.
        pub hotplug: bool = true,
        /// Tell the driver of units that change.
        pub param_change: bool as "param_change" = true,
        /// The iothread object that serves the queues; threads of their own when not given.
        pub iothread: Option<String>,
        /// Most segments of a request follow the queue's size; on is the only way here.
        pub seg_max_adjust: bool as "seg_max_adjust" = true,
    }
}

impl VirtioScsiSpec {
    /// Refuses what the adapter cannot do; numbers are for the device to check.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.pci.check()?;
        self.virtio.check()?;
        if self.seg_max_adjust { Ok(()) } else { Err(SpecError::refused("'seg_max_adjust=off'", "leave it on")) }
    }
}

spec_struct! {
    /// What every unit on SCSI has.
    pub part ScsiSpec as "scsi-device" {
        /// Name of the device in commands and events.
        pub id: Option<String>,
        /// Bus of an adapter, as in scsi0.0 for the adapter with id=scsi0; the first adapter's when not given.
        pub bus: Option<String>,
        /// Channel; there is only 0.
        pub channel: u32 = 0,
        /// Target, 0 to 255; the first that is free when not given.
        pub scsi_id: Option<u32>,
        /// Unit of the target, 0 to 16383; the first that is free, or 0 of a target that is not given.
        pub lun: Option<u32>,
        /// Name that the unit goes by in page 0x83; the serial number, or the drive's id, when not given.
        pub device_id: Option<String> as "device_id",
        /// Vendor; 8 bytes of it.
        pub vendor: Option<String>,
        /// Product; 16 bytes of it.
        pub product: Option<String>,
        /// Version; 4 bytes of it.
        pub ver: Option<String>,
        /// World wide name of the unit; none when 0.
        pub wwn: u64 = 0,
        /// World wide name of its port; none when 0.
        pub port_wwn: u64 as "port_wwn" = 0,
        /// Number of its port; none when 0.
        pub port_index: u16 as "port_index" = 0,
        /// Most bytes of one read or write; a hint to the driver.
        pub max_io_size: u64 as "max_io_size" = 0x7fff_ffff,
    }
}

impl ScsiSpec {
    fn check(&self) -> Result<(), SpecError> {
        let numbers = [
            ("channel", Some(self.channel), 0),
            ("device", self.scsi_id, MAX_TARGET),
            ("device lun", self.lun, MAX_LUN),
        ];
        for (what, number, most) in numbers {
            if let Some(number) = number.filter(|number| *number > most) {
                let what = if what == "device lun" { what.to_owned() } else { format!("{what} id") };
                return Err(SpecError::new(format!("bad scsi {what}: {number}, the greatest is {most}")));
            }
        }
        Ok(())
    }
}

spec_struct! {
    /// A disk on SCSI.
    pub struct ScsiHdSpec as "scsi-hd" with scsi: ScsiSpec, disk: DiskSpec, sizes: SizesSpec, shape: ShapeSpec {
        /// Node name or drive id of the disk.
        pub drive: String,
        /// Say that the disk can be taken out, as a memory stick does.
        pub removable: bool = false,
        /// Tell the guest that it can force single writes out of the write cache.
        pub dpofua: bool = false,
        /// Most bytes of one range of UNMAP.
        pub max_unmap_size: u64 as "max_unmap_size" = 1 << 30,
        /// Turns in a minute; 0 for untold, 1 for no rotation.
        pub rotation_rate: u16 as "rotation_rate" = 0,
    }
}

impl ScsiHdSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.scsi.check()?;
        self.disk.check()?;
        self.shape.check()
    }
}

spec_struct! {
    /// A CD drive on SCSI.
    pub struct ScsiCdSpec as "scsi-cd" with scsi: ScsiSpec, disk: DiskSpec {
        /// Node name or drive id of the disc; empty when not given.
        pub drive: Option<String>,
    }
}

impl ScsiCdSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        self.scsi.check()?;
        self.disk.check()
    }
}
