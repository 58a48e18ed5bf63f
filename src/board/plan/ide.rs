//! Which drive is where on the IDE channels.

use rhea_devices::geometry::Translation;
use rhea_devices::ide::IdeDisk;
use rhea_devices::scsi::UnitConfig;
use serde_json::json;

use super::check::{DrivePlan, PlanError, of_drive};
use super::places::Names;
use super::storage::{geometry, sizes, storage, to_firmware};
use super::{IdeDevice, IdePlan, StoragePlan};
use crate::spec::VmSpec;
use crate::spec::device::{ChsTranslation, DeviceSpec, IdeCdSpec, IdeHdSpec, IdeSpec};
use crate::spec::drive::{DriveInterface, DriveMedia};

/// Drives by channel and place.
pub type Channels = [[Option<IdePlan>; 2]; 2];

/// The drives of `-drive if=ide`, then those of `-device`.
pub(super) fn channels(spec: &VmSpec, disks: &[DrivePlan], names: &mut Names) -> Result<Channels, PlanError> {
    let mut channels = Channels::default();
    for drive in disks.iter().filter(|drive| drive.interface == DriveInterface::Ide) {
        let (bus, unit) = (drive.index / 2, drive.index % 2);
        let driver = match drive.media {
            DriveMedia::Disk => "ide-hd",
            DriveMedia::Cdrom => "ide-cd",
        };
        let place = [("bus", json!(format!("ide.{bus}"))), ("unit", json!(unit))];
        let device = of_drive(spec, driver, drive, &place)?;
        add(&mut channels, &device, disks, names)?;
    }
    spec.devices.iter().try_for_each(|device| add(&mut channels, device, disks, names))?;
    Ok(channels)
}

fn add(channels: &mut Channels, device: &DeviceSpec, disks: &[DrivePlan], names: &mut Names) -> Result<(), PlanError> {
    let part = match device {
        DeviceSpec::IdeHd(disk) => &disk.ide,
        DeviceSpec::IdeCd(cd) => &cd.ide,
        _ => return Ok(()),
    };
    let id = names.take(device)?;
    let (bus, unit) = place(channels, &id, part)?;
    // Serial numbers count places, taken or not.
    let number = u32::try_from(2 * bus + unit).unwrap_or(0) + 1;
    let (storage, kind) = match device {
        DeviceSpec::IdeHd(disk) => hard_disk(&id, number, disk, disks)?,
        DeviceSpec::IdeCd(cd) => cd_drive(&id, number, cd, disks),
        _ => return Ok(()),
    };
    let plan = IdePlan { id, told: to_firmware(device), storage, device: kind };
    if let Some(slot) = channels.get_mut(bus).and_then(|channel| channel.get_mut(unit)) {
        *slot = Some(plan);
    }
    Ok(())
}

/// Finds a free place that agrees with what was asked for.
fn place(channels: &Channels, id: &str, part: &IdeSpec) -> Result<(usize, usize), PlanError> {
    let bus = match part.bus.as_deref() {
        None => None,
        Some("ide.0") => Some(0),
        Some("ide.1") => Some(1),
        Some(other) => return Err(PlanError::NoBus { bus: other.to_owned() }),
    };
    // As in QEMU, who names no bus is on the second first.
    let places = [1, 0].into_iter().flat_map(|bus| (0..2).map(move |unit| (bus, unit)));
    let wanted = |&(b, u): &(usize, usize)| {
        bus.is_none_or(|bus| bus == b) && part.unit.is_none_or(|unit| usize::try_from(unit) == Ok(u))
    };
    let is_free =
        |&(b, u): &(usize, usize)| channels.get(b).and_then(|channel| channel.get(u)).is_some_and(Option::is_none);
    places.filter(wanted).find(is_free).ok_or_else(|| PlanError::NoIdePlace(id.to_owned()))
}

fn hard_disk(
    id: &str,
    number: u32,
    spec: &IdeHdSpec,
    disks: &[DrivePlan],
) -> Result<(StoragePlan, IdeDevice), PlanError> {
    let storage = storage(Some(&spec.drive), &spec.disk, disks);
    let mut config = IdeDisk::new(id, number);
    config.wwn = spec.ide.wwn;
    config.rotation_rate = spec.rotation_rate;
    config.write_cache = Some(storage.write_cache);
    let texts = [
        (&mut config.serial, &spec.disk.serial),
        (&mut config.model, &spec.ide.model),
        (&mut config.version, &spec.ide.ver),
    ];
    for (text, given) in texts {
        text.clone_from(given.as_ref().unwrap_or(&text.clone()));
    }
    config.sizes = sizes(id, &spec.sizes)?;
    config.geometry = geometry(&spec.shape);
    config.translation = match spec.bios_chs_trans {
        ChsTranslation::Auto => None,
        ChsTranslation::None => Some(Translation::None),
        ChsTranslation::Lba => Some(Translation::Lba),
        ChsTranslation::Large => Some(Translation::Large),
        ChsTranslation::Rechs => Some(Translation::Rechs),
    };
    Ok((storage, IdeDevice::Disk(Box::new(config))))
}

fn cd_drive(id: &str, number: u32, spec: &IdeCdSpec, disks: &[DrivePlan]) -> (StoragePlan, IdeDevice) {
    let mut config = UnitConfig::atapi_cd(id);
    if let Some(model) = &spec.ide.model {
        config.product.clone_from(model);
    }
    config.serial = spec.disk.serial.clone().unwrap_or_else(|| format!("QM{number:05}"));
    config.wwn = spec.ide.wwn;
    if let Some(version) = &spec.ide.ver {
        config.version.clone_from(version);
    }
    let storage = StoragePlan { only_reads: true, ..storage(spec.drive.as_deref(), &spec.disk, disks) };
    (storage, IdeDevice::Cd(Box::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::device::OnError;

    fn drive(index: u32, media: DriveMedia) -> DrivePlan {
        DrivePlan {
            id: format!("d{index}"),
            node: Some(format!("n{index}")),
            interface: DriveInterface::Ide,
            index,
            media,
            read_only: false,
            write_cache: true,
            on_write_error: OnError::Auto,
            on_read_error: OnError::Auto,
        }
    }

    #[test]
    fn drives_go_where_their_index_says() {
        let disks = [drive(0, DriveMedia::Disk), drive(2, DriveMedia::Cdrom)];

        let channels = channels(&VmSpec::default(), &disks, &mut Names::default()).unwrap();

        assert!(matches!(channels[0][0].as_ref().unwrap().device, IdeDevice::Disk(_)));
        assert!(matches!(channels[1][0].as_ref().unwrap().device, IdeDevice::Cd(_)));
        assert!(channels[0][1].is_none() && channels[1][1].is_none());
    }

    #[test]
    fn device_takes_the_first_free_place_of_its_channel() {
        let cd = IdeCdSpec { ide: IdeSpec { bus: Some("ide.1".into()), ..IdeSpec::default() }, ..IdeCdSpec::default() };
        let spec = VmSpec { devices: vec![DeviceSpec::IdeCd(cd)], ..VmSpec::default() };

        let channels = channels(&spec, &[drive(2, DriveMedia::Disk)], &mut Names::default()).unwrap();

        assert!(channels[1][1].as_ref().is_some_and(|cd| cd.storage.node.is_none()));
    }

    #[test]
    fn device_that_names_no_channel_is_on_the_second() {
        let devices = (0..3).map(|_| DeviceSpec::IdeCd(IdeCdSpec::default())).collect();
        let spec = VmSpec { devices, ..VmSpec::default() };

        let channels = channels(&spec, &[], &mut Names::default()).unwrap();

        assert!(channels[1].iter().all(Option::is_some));
        assert!(channels[0][0].is_some() && channels[0][1].is_none());
    }

    #[test]
    fn fifth_drive_is_refused() {
        let devices = (0..5).map(|_| DeviceSpec::IdeCd(IdeCdSpec::default())).collect();
        let spec = VmSpec { devices, ..VmSpec::default() };

        let refused = channels(&spec, &[], &mut Names::default());

        assert!(matches!(refused, Err(PlanError::NoIdePlace(_))));
    }
}
