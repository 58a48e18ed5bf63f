//! What is behind a disk, and what disks of every bus are told alike.

use rhea_devices::block_errors::OnError as Policy;
use rhea_devices::block_sizes::BlockSizes;
use rhea_devices::geometry::Geometry;

use super::check::{DrivePlan, PlanError};
use super::{StoragePlan, ToFirmware};
use crate::spec::VmSpec;
use crate::spec::device::{DeviceSpec, DiskSpec, OnError, ShapeSpec, SizesSpec};
use crate::spec::object::ObjectSpec;

/// The node of a `-drive` or of `-blockdev` that goes by `name`; an empty drive without.
pub(super) fn storage(name: Option<&str>, disk: &DiskSpec, drives: &[DrivePlan]) -> StoragePlan {
    let drive = drives.iter().find(|drive| Some(drive.id.as_str()) == name);
    let policy = |own: OnError, of_drive: Option<OnError>, default| {
        on_error(own).or(of_drive.and_then(on_error)).unwrap_or(default)
    };
    StoragePlan {
        node: drive.map_or_else(|| name.map(str::to_owned), |drive| drive.node.clone()),
        drive: drive.map(|drive| drive.id.clone()).unwrap_or_default(),
        // The image's own write cache, where the device does not say: -drive's cache= says, and a node has one.
        write_cache: disk.write_cache.chosen().unwrap_or_else(|| drive.is_none_or(|drive| drive.write_cache)),
        share: disk.share_rw,
        only_reads: false,
        on_read_error: policy(disk.rerror, drive.map(|d| d.on_read_error), Policy::Report),
        on_write_error: policy(disk.werror, drive.map(|d| d.on_write_error), Policy::Enospc),
    }
}

fn on_error(spec: OnError) -> Option<Policy> {
    match spec {
        OnError::Auto => None,
        OnError::Report => Some(Policy::Report),
        OnError::Ignore => Some(Policy::Ignore),
        OnError::Stop => Some(Policy::Stop),
        OnError::Enospc => Some(Policy::Enospc),
    }
}

/// The sizes asked for; what they have to do with each other the device checks.
pub(super) fn sizes(id: &str, spec: &SizesSpec) -> Result<BlockSizes, PlanError> {
    let size = |property: &'static str, value: u64| {
        let too_large = |_| PlanError::TooLarge { id: id.to_owned(), property, value, most: u64::from(u32::MAX) };
        u32::try_from(value).map_err(too_large)
    };
    let logical = spec.logical_block_size.map_or(512, |bytes| bytes.0);
    let granularity = spec.discard_granularity.map(|bytes| size("discard_granularity", bytes.0));
    Ok(BlockSizes {
        logical: size("logical_block_size", logical)?,
        physical: size("physical_block_size", spec.physical_block_size.map_or(logical, |bytes| bytes.0))?,
        min_io: size("min_io_size", spec.min_io_size.0)?,
        opt_io: size("opt_io_size", spec.opt_io_size.0)?,
        discard_granularity: granularity.transpose()?,
    })
}

/// The shape asked for.
pub(super) fn geometry(spec: &ShapeSpec) -> Option<Geometry> {
    let (cylinders, heads, sectors) = (spec.cyls?, spec.heads?, spec.secs?);
    Some(Geometry { cylinders, heads, sectors })
}

/// What firmware is told of it.
pub(super) fn to_firmware(device: &DeviceSpec) -> ToFirmware {
    let shape = device.shape().map(|shape| [shape.lcyls, shape.lheads, shape.lsecs]);
    ToFirmware { index: device.bootindex(), shape: shape.filter(|shape| *shape != [0; 3]) }
}

/// An I/O thread that is there.
pub(super) fn iothread(spec: &VmSpec, id: &str, name: Option<&String>) -> Result<Option<String>, PlanError> {
    let Some(name) = name else { return Ok(None) };
    let there = |object: &ObjectSpec| matches!(object, ObjectSpec::Iothread(thread) if thread.id == *name);
    if spec.objects.iter().any(there) {
        return Ok(Some(name.clone()));
    }
    Err(PlanError::NoObject { id: id.to_owned(), property: "iothread", name: name.clone(), kind: "iothread" })
}
