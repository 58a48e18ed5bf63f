//! SCSI adapters, and which unit is where behind them.

use rhea_devices::scsi::{UnitConfig, UnitKind};
use rhea_devices::virtio::scsi::{ScsiAddress, ScsiConfig};

use super::check::{DrivePlan, PlanError, virtio};
use super::places::Names;
use super::storage::{geometry, iothread, sizes, storage, to_firmware};
use super::{PciDevice, PciPlan, ScsiPlan, ScsiUnitPlan, StoragePlan};
use crate::spec::VmSpec;
use crate::spec::device::{DeviceSpec, MAX_LUN, MAX_TARGET, ScsiHdSpec, ScsiSpec, VirtioScsiSpec};

/// An adapter without units; `unnamed` counts those that the user gave no name.
pub(super) fn adapter(
    spec: &VmSpec,
    id: &str,
    device: &VirtioScsiSpec,
    unnamed: &mut usize,
) -> Result<ScsiPlan, PlanError> {
    // One queue a vCPU, as QEMU has it since 5.2.
    let queues = device.num_queues.unwrap_or_else(|| u16::try_from(spec.smp.cpus).unwrap_or(u16::MAX));
    let config = ScsiConfig {
        queue_size: device.virtqueue_size,
        max_sectors: device.max_sectors,
        cmd_per_lun: device.cmd_per_lun,
        hotplug: device.hotplug,
        param_change: device.param_change,
        ..ScsiConfig::new(id, queues)
    };
    // A bus goes by its adapter's name; one whose adapter has none is counted.
    let bus = if device.pci.id.is_some() {
        format!("{id}.0")
    } else {
        *unnamed += 1;
        format!("scsi.{}", *unnamed - 1)
    };
    let iothread = iothread(spec, id, device.iothread.as_ref())?;
    Ok(ScsiPlan { config, bus, iothread, virtio: virtio(&device.virtio), units: Vec::new() })
}

/// Puts the units of `-device` behind the adapters among `functions`.
pub(super) fn add_units(
    functions: &mut [PciPlan],
    spec: &VmSpec,
    drives: &[DrivePlan],
    names: &mut Names,
) -> Result<(), PlanError> {
    let mut adapters: Vec<&mut ScsiPlan> = functions
        .iter_mut()
        .filter_map(|function| match &mut function.device {
            PciDevice::Scsi(adapter) => Some(&mut **adapter),
            _ => None,
        })
        .collect();
    spec.devices.iter().filter(|device| device.scsi().is_some()).try_for_each(|device| {
        add_unit(&mut adapters, device, drives, names)?;
        Ok(())
    })
}

/// Puts one unit behind the adapter that it asks for; gives the name of the bus and the unit's plan.
pub(super) fn add_unit(
    adapters: &mut [&mut ScsiPlan],
    device: &DeviceSpec,
    drives: &[DrivePlan],
    names: &mut Names,
) -> Result<(String, ScsiUnitPlan), PlanError> {
    let not_here = || PlanError::NotPluggable { driver: device.driver() };
    let part = device.scsi().ok_or_else(not_here)?;
    let id = names.take(device)?;
    let adapter = find(adapters, device, part)?;
    let address = place(&id, part, |address| {
        adapter.units.iter().find(|unit| unit.address == address).map(|unit| unit.id.clone())
    })?;
    let unit = unit(id, device, address, drives)?.ok_or_else(not_here)?;
    adapter.units.push(unit.clone());
    Ok((adapter.bus.clone(), unit))
}

fn find<'a>(
    adapters: &'a mut [&mut ScsiPlan],
    device: &DeviceSpec,
    part: &ScsiSpec,
) -> Result<&'a mut ScsiPlan, PlanError> {
    let known = adapters.iter().map(|adapter| adapter.bus.as_str()).collect::<Vec<_>>().join(", ");
    let wanted = |adapter: &&mut &mut ScsiPlan| part.bus.as_ref().is_none_or(|bus| *bus == adapter.bus);
    let found = adapters.iter_mut().find(wanted).map(|adapter| &mut **adapter);
    found.ok_or_else(|| match &part.bus {
        Some(bus) if !known.is_empty() => PlanError::UnknownScsiBus { bus: bus.clone(), known },
        _ => PlanError::NoScsiBus(device.driver()),
    })
}

/// Finds a free place that agrees with what was asked for; `taken_by` says who is at an address.
pub(super) fn place(
    id: &str,
    part: &ScsiSpec,
    taken_by: impl Fn(ScsiAddress) -> Option<String>,
) -> Result<ScsiAddress, PlanError> {
    let at = |target: u32, lun: u32| ScsiAddress {
        target: u8::try_from(target).unwrap_or(u8::MAX),
        lun: u16::try_from(lun).unwrap_or(u16::MAX),
    };
    let none = |what| move || PlanError::NoScsiPlace { id: id.to_owned(), what };
    let free = |address: &ScsiAddress| taken_by(*address).is_none();
    match (part.scsi_id, part.lun) {
        (Some(target), Some(lun)) => match taken_by(at(target, lun)) {
            Some(by) => Err(PlanError::LunTaken { id: id.to_owned(), by }),
            None => Ok(at(target, lun)),
        },
        (Some(target), None) => (0..=MAX_LUN).map(|lun| at(target, lun)).find(free).ok_or_else(none("lun")),
        (None, lun) => {
            let lun = lun.unwrap_or(0);
            (0..=MAX_TARGET).map(|target| at(target, lun)).find(free).ok_or_else(none("target"))
        }
    }
}

/// A unit at its place; nothing for a device that is none.
fn unit(
    id: String,
    device: &DeviceSpec,
    address: ScsiAddress,
    drives: &[DrivePlan],
) -> Result<Option<ScsiUnitPlan>, PlanError> {
    let (part, disk, name, config) = match device {
        DeviceSpec::ScsiHd(hd) => (&hd.scsi, &hd.disk, Some(hd.drive.as_str()), hard_disk(&id, hd)?),
        DeviceSpec::ScsiCd(cd) => (&cd.scsi, &cd.disk, cd.drive.as_deref(), UnitConfig::cd(&*id)),
        _ => return Ok(None),
    };
    let storage = StoragePlan { only_reads: config.kind == UnitKind::Cd, ..storage(name, disk, drives) };
    let mut config = UnitConfig {
        serial: disk.serial.clone().unwrap_or_default(),
        wwn: part.wwn,
        port_wwn: part.port_wwn,
        port_index: part.port_index,
        max_io_size: part.max_io_size,
        write_cache: Some(storage.write_cache),
        ..config
    };
    // A unit without a serial number goes by the name of its drive.
    let by_drive = || (config.serial.is_empty() && !storage.drive.is_empty()).then(|| storage.drive.clone());
    config.device_id = part.device_id.clone().or_else(by_drive);
    let texts =
        [(&mut config.vendor, &part.vendor), (&mut config.product, &part.product), (&mut config.version, &part.ver)];
    for (text, given) in texts {
        if let Some(given) = given {
            text.clone_from(given);
        }
    }
    Ok(Some(ScsiUnitPlan { id, address, told: to_firmware(device), storage, config }))
}

fn hard_disk(id: &str, spec: &ScsiHdSpec) -> Result<UnitConfig, PlanError> {
    Ok(UnitConfig {
        sizes: sizes(id, &spec.sizes)?,
        geometry: geometry(&spec.shape),
        removable: spec.removable,
        dpofua: spec.dpofua,
        max_unmap_size: spec.max_unmap_size,
        rotation_rate: spec.rotation_rate,
        ..UnitConfig::disk(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapters(devices: Vec<DeviceSpec>) -> Result<Vec<PciPlan>, PlanError> {
        let spec = VmSpec { devices, ..VmSpec::default() };
        crate::board::plan::check::functions(&spec, &[], &mut Default::default())
    }

    fn scsi_bus(id: Option<&str>) -> DeviceSpec {
        let mut adapter = VirtioScsiSpec::default();
        adapter.pci.id = id.map(str::to_owned);
        DeviceSpec::VirtioScsi(adapter)
    }

    fn disk_on(bus: Option<&str>) -> DeviceSpec {
        let scsi = ScsiSpec { bus: bus.map(str::to_owned), ..ScsiSpec::default() };
        DeviceSpec::ScsiHd(ScsiHdSpec { scsi, drive: "n".into(), ..ScsiHdSpec::default() })
    }

    #[test]
    fn buses_have_the_names_of_their_adapters() {
        let devices = vec![scsi_bus(Some("a")), scsi_bus(None), disk_on(None), disk_on(Some("scsi.0"))];

        let functions = adapters(devices).unwrap();

        assert_eq!(functions.iter().map(|adapter| adapter.units().len()).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn missing_bus_is_named() {
        let nowhere = adapters(vec![disk_on(None)]).unwrap_err().to_string();
        let elsewhere = adapters(vec![scsi_bus(Some("a")), disk_on(Some("a"))]).unwrap_err().to_string();

        assert_eq!(nowhere, "No 'SCSI' bus found for device 'scsi-hd'; give -device virtio-scsi-pci before it");
        assert_eq!(elsewhere, "Bus 'a' not found; SCSI buses are a.0");
    }

    fn asked(scsi_id: Option<u32>, lun: Option<u32>) -> ScsiSpec {
        ScsiSpec { scsi_id, lun, ..ScsiSpec::default() }
    }

    fn placed(part: &ScsiSpec, taken: &[(u8, u16)]) -> Result<(u8, u16), PlanError> {
        let by = |address: ScsiAddress| taken.contains(&(address.target, address.lun)).then(|| "other".to_owned());
        place("d", part, by).map(|address| (address.target, address.lun))
    }

    #[test]
    fn unit_goes_where_it_is_asked_to() {
        assert_eq!(placed(&asked(Some(255), Some(16383)), &[]).unwrap(), (255, 16383));
    }

    #[test]
    fn unit_without_a_place_gets_the_next_target() {
        assert_eq!(placed(&asked(None, None), &[(0, 0), (1, 0), (2, 1)]).unwrap(), (2, 0));
        assert_eq!(placed(&asked(None, Some(1)), &[(0, 0), (1, 0), (2, 1)]).unwrap(), (0, 1));
    }

    #[test]
    fn unit_with_a_target_gets_its_next_lun() {
        assert_eq!(placed(&asked(Some(3), None), &[(3, 0), (3, 1), (4, 0)]).unwrap(), (3, 2));
    }

    #[test]
    fn taken_place_names_who_has_it() {
        let refused = placed(&asked(Some(1), Some(0)), &[(1, 0)]).unwrap_err();

        assert_eq!(refused.to_string(), "device \"d\": lun already used by 'other'");
    }

    #[test]
    fn full_adapter_is_said_to_be() {
        let all: Vec<(u8, u16)> = (0..=255).map(|target| (target, 0)).collect();

        assert_eq!(placed(&asked(None, None), &all).unwrap_err().to_string(), "device \"d\": no free target");
    }
}
