//! From what was asked for to what will be: addresses are given out, names are resolved, conflicts are refused.

use std::path::PathBuf;

use rhea_arch::x86_64::acpi::Numa;
use rhea_arch::x86_64::boot::{ElfEntry, Unpack};
use rhea_arch::x86_64::layout::{LayoutError, MemoryLayout};
use rhea_devices::legacy::cmos::{RtcClock as Clock, RtcOptions, RtcStart, local_offset};
use rhea_devices::legacy::serial::COM;
use rhea_devices::virtio::blk::BlkConfig;
use rhea_devices::virtio::rng::RngRate;
use rhea_devices::virtio::transport::Interfaces;
use serde_json::Value;
use thiserror::Error;

use super::places::{Called, Names, Places};
use super::storage::{geometry, iothread, sizes, storage};
use super::{BlkPlan, IsaDevice, IsaPlan, KernelPlan, PciDevice, PciPlan, Plan, RngPlan, VirtioPlan};
use crate::spec::device::{IsaSerialSpec, OnError, VirtioBlkSpec, VirtioRngSpec};
use crate::spec::drive::{DriveInterface, DriveMedia};
use crate::spec::machine::KernelUnpack;
use crate::spec::object::ObjectSpec;
use crate::spec::pci::VirtioSpec;
use crate::spec::process::{RtcBase, RtcClock};
use crate::spec::read::Source;
use crate::spec::{DeviceSpec, NumaSpec, SpecError, VmSpec};

/// What was asked for cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The memory size.
    #[error("-m")]
    Memory(#[from] LayoutError),
    /// The object named as memory.
    #[error("memory backend \"{0}\" is not there; give -object memory-backend-ram,id={0},size=…")]
    NoMemoryBackend(String),
    /// Its size and `-m` disagree.
    #[error("memory backend \"{id}\" has {backend} bytes and -m asks for {asked}: give both the same size")]
    MemorySize {
        /// The object.
        id: String,
        /// Its bytes.
        backend: u64,
        /// Those of `-m`.
        asked: u64,
    },
    /// A property that `-global` gives the device of a `-drive`.
    #[error("-drive")]
    Drive(#[source] SpecError),
    /// The firmware, or what it is to start.
    #[error(transparent)]
    Boot(#[from] super::boot::BootPlanError),
    /// `-append` or `-initrd` without `-kernel`.
    #[error("{0} only allowed with -kernel option")]
    NeedsKernel(&'static str),
    /// No slot is free.
    #[error("{}: all PCI slots are taken; put several functions into one with addr=SLOT.FUNCTION", Called(.0))]
    NoSlot(String),
    /// The address is taken.
    #[error("{}: PCI: slot {slot} function {function} is taken by {by}", Called(id))]
    SlotTaken {
        /// The device.
        id: String,
        /// Its slot.
        slot: u8,
        /// Its function.
        function: u8,
        /// Who is there.
        by: String,
    },
    /// The bus is not there.
    #[error("Bus '{bus}' not found; there are pci.0, isa.0, ide.0 and ide.1")]
    NoBus {
        /// The bus named.
        bus: String,
    },
    /// An object is not there or of the wrong kind.
    #[error("{}: {property} '{name}' not found; give -object {kind},id={name}", Called(id))]
    NoObject {
        /// The device.
        id: String,
        /// The property that names it.
        property: &'static str,
        /// The name.
        name: String,
        /// What it would have to be.
        kind: &'static str,
    },
    /// All places for IDE drives are taken, or the one asked for is.
    #[error("{}: that IDE unit is in use; two channels have two each", Called(.0))]
    NoIdePlace(String),
    /// There is no such bus of a SCSI adapter.
    #[error("Bus '{bus}' not found; SCSI buses are {known}")]
    UnknownScsiBus {
        /// The bus named.
        bus: String,
        /// Those there are.
        known: String,
    },
    /// There is no SCSI adapter.
    #[error("No 'SCSI' bus found for device '{0}'; give -device virtio-scsi-pci before it")]
    NoScsiBus(&'static str),
    /// Another unit is at the address.
    #[error("{}: lun already used by '{by}'", Called(id))]
    LunTaken {
        /// The device.
        id: String,
        /// Who is there.
        by: String,
    },
    /// All addresses that would do are taken.
    #[error("{}: no free {what}", Called(id))]
    NoScsiPlace {
        /// The device.
        id: String,
        /// `target` or `lun`.
        what: &'static str,
    },
    /// No serial port is left.
    #[error("Max. supported number of ISA serial ports is 4.")]
    SerialPorts,
    /// Two want to be one.
    #[error("isa-serial: index {0} is taken by another serial port; leave it out for the next free one")]
    SerialIndex(usize),
    /// A name is there twice.
    #[error("Duplicate device ID '{0}'")]
    DuplicateId(String),
    /// Another device has this place in the order of starting.
    #[error("The bootindex {0} has already been used")]
    BootIndex(i32),
    /// A device that only a machine that is not yet built can be given.
    #[error("device {driver}: its bus does not support hotplugging; give it on the command line")]
    NotPluggable {
        /// The kind of device.
        driver: &'static str,
    },
    /// An object of this name is there.
    #[error("attempt to add duplicate property '{0}' to object (type 'container')")]
    DuplicateObject(String),
    /// No object has this name.
    #[error("object '{0}' not found")]
    UnknownObject(String),
    /// A device uses the object, or it is the guest's memory.
    #[error("object '{0}' is in use, can not be deleted")]
    ObjectInUse(String),
    /// A file for SMBIOS cannot be read.
    #[error("-smbios: cannot read {path}")]
    SmbiosFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A property is out of range.
    #[error("{}: {property} is {value}, and at most {most} is possible", Called(id))]
    TooLarge {
        /// The device.
        id: String,
        /// The property.
        property: &'static str,
        /// Its value.
        value: u64,
        /// The greatest possible.
        most: u64,
    },
}

/// The vCPUs, as far as the board needs to know them.
pub struct Processors {
    /// APIC ID of each, and whether it is there from the start.
    pub all: Vec<(u32, bool)>,
    /// Bits of a physical address.
    pub phys_bits: u8,
}

/// Checks `spec`, whose vCPUs are `cpus` and whose drives have been opened as `disks`.
///
/// # Errors
/// The first thing that cannot be had.
pub fn check(spec: &VmSpec, cpus: Processors, disks: &[DrivePlan]) -> Result<Plan, PlanError> {
    let layout = MemoryLayout::new(spec.memory.size.0, cpus.phys_bits)?;
    let ram = super::ram::ram(spec, &layout)?;
    let mut places = Places::default();
    let isa = isa(spec, &mut places.names)?;
    let ide = super::ide::channels(spec, disks, &mut places.names)?;
    let functions = functions(spec, disks, &mut places)?;
    let firmware = super::boot::firmware(spec, disks)?;
    let roms = super::roms::paths(&spec.boot, firmware.is_some());
    Ok(Plan {
        ram,
        numa: numa(&spec.numa),
        cpu_nodes: spec.numa.of_cpu.clone(),
        processors: cpus.all,
        kernel: kernel(spec)?,
        boot: super::boot::order(&spec.boot, super::boot::Told::new(functions.iter(), &ide, roms))?,
        option_roms: super::roms::read(&spec.boot, firmware.is_some())?,
        firmware,
        files: super::boot::files(&spec.boot)?,
        uuid: spec.uuid.unwrap_or_default().0,
        acpi: spec.machine.acpi,
        smbios: super::identity::smbios(spec, &layout)?,
        rtc: rtc(spec),
        isa,
        ide,
        pci: functions,
        places,
        layout,
    })
}

/// A `-drive`: `if=virtio` and `if=ide` make a device of their own, `if=none` waits for a `-device` that names it.
#[derive(Debug, Clone)]
pub struct DrivePlan {
    /// `id=`, or the name QEMU makes up (`virtio0`).
    pub id: String,
    /// The node on top; nothing for an empty drive.
    pub node: Option<String>,
    /// What shows it to the guest.
    pub interface: DriveInterface,
    /// Its number on that interface.
    pub index: u32,
    /// Disk or CD.
    pub media: DriveMedia,
    /// What comes into it is only read.
    pub read_only: bool,
    /// The guest sees a volatile write cache.
    pub write_cache: bool,
    /// `werror`.
    pub on_write_error: OnError,
    /// `rerror`.
    pub on_read_error: OnError,
}

fn kernel(spec: &VmSpec) -> Result<Option<KernelPlan>, PlanError> {
    let boot = &spec.boot;
    let Some(kernel) = &boot.kernel else {
        return match (&boot.append, &boot.initrd) {
            (Some(_), _) => Err(PlanError::NeedsKernel("-append")),
            (None, Some(_)) => Err(PlanError::NeedsKernel("-initrd")),
            (None, None) => Ok(None),
        };
    };
    Ok(Some(KernelPlan {
        kernel: kernel.clone(),
        initrd: boot.initrd.as_ref().map(|path| path.to_string_lossy().into_owned()),
        cmdline: boot.append.clone().unwrap_or_default(),
        unpack: match spec.machine.kernel_unpack {
            KernelUnpack::Auto => Unpack::Auto,
            KernelUnpack::Host => Unpack::Host,
            KernelUnpack::Guest => Unpack::Guest,
        },
        elf_entry: ElfEntry::Auto,
    }))
}

fn numa(spec: &NumaSpec) -> Option<Numa> {
    let memory: Vec<u64> = spec.nodes.iter().map(|node| node.memory).collect();
    (!memory.is_empty()).then(|| Numa { memory, distances: spec.distances.clone() })
}

fn rtc(spec: &VmSpec) -> RtcOptions {
    let start = match spec.rtc.base {
        RtcBase::Utc => RtcStart::Offset(0),
        RtcBase::LocalTime => RtcStart::Offset(local_offset()),
        RtcBase::At(seconds) => RtcStart::At(seconds),
    };
    let clock = match spec.rtc.clock {
        RtcClock::Host => Clock::Host,
        RtcClock::Rt => Clock::Rt,
        RtcClock::Vm => Clock::Vm,
    };
    RtcOptions { clock, start }
}

/// The serial ports and the chips of `-device`.
fn isa(spec: &VmSpec, names: &mut Names) -> Result<Vec<IsaPlan>, PlanError> {
    let mut used = [false; COM.len()];
    let mut chips = Vec::new();
    for (index, chardev) in spec.serials.iter().enumerate() {
        if chardev.is_none() {
            continue;
        }
        let serial = IsaSerialSpec { chardev: chardev.clone(), index: u32::try_from(index).ok(), ..Default::default() };
        let id = names.reserve(format!("serial{index}"))?;
        chips.push(serial_port(id, &serial, &mut used)?);
    }
    for device_spec in &spec.devices {
        let device = match device_spec {
            DeviceSpec::IsaSerial(serial) => {
                chips.push(serial_port(names.take(device_spec)?, serial, &mut used)?);
                continue;
            }
            DeviceSpec::IsaDebugExit(exit) => IsaDevice::DebugExit { base: exit.iobase, size: exit.iosize },
            DeviceSpec::IsaDebugcon(console) => {
                let (base, readback, chardev) = (console.iobase, console.readback, console.chardev.clone());
                IsaDevice::DebugConsole { base, readback, chardev }
            }
            DeviceSpec::Pvpanic(panic) => IsaDevice::Pvpanic { port: panic.ioport, events: panic.events },
            DeviceSpec::PcTestDev(_) => IsaDevice::Test,
            _ => continue,
        };
        chips.push(IsaPlan { id: names.take(device_spec)?, device });
    }
    Ok(chips)
}

fn serial_port(id: String, spec: &IsaSerialSpec, used: &mut [bool; COM.len()]) -> Result<IsaPlan, PlanError> {
    let wanted = spec.index.and_then(|index| usize::try_from(index).ok());
    let index = wanted.or_else(|| used.iter().position(|used| !used)).ok_or(PlanError::SerialPorts)?;
    let place = used.get_mut(index).filter(|used| !**used).ok_or(PlanError::SerialIndex(index))?;
    *place = true;
    let (base, irq) = COM.get(index).copied().ok_or(PlanError::SerialPorts)?;
    let device = IsaDevice::Serial {
        index: u8::try_from(index).unwrap_or(u8::MAX),
        base: spec.iobase.unwrap_or(base),
        irq: spec.irq.unwrap_or(irq),
        chardev: spec.chardev.clone(),
    };
    Ok(IsaPlan { id, device })
}

/// The device that `-drive` makes: as `-device` would without further properties, but for those of its `place`; what
/// `-global` says holds for it, too.
pub(super) fn of_drive(
    spec: &VmSpec,
    driver: &str,
    drive: &DrivePlan,
    place: &[(&str, Value)],
) -> Result<DeviceSpec, PlanError> {
    let named = [("driver", Value::from(driver)), ("drive", Value::from(drive.id.as_str()))];
    let properties = named.iter().chain(place).map(|(name, value)| ((*name).to_owned(), value.clone()));
    DeviceSpec::read_with(properties.collect(), Source::Json, &spec.globals).map_err(PlanError::Drive)
}

/// The functions, those with an address first, and then, as in QEMU, of `-device`, of `-drive if=virtio` and of `-device`
/// in JSON.
pub(super) fn functions(spec: &VmSpec, disks: &[DrivePlan], places: &mut Places) -> Result<Vec<PciPlan>, PlanError> {
    let (before, behind) = spec.devices.split_at(spec.devices.len().saturating_sub(spec.json_devices));
    let mut functions = before.to_vec();
    for drive in disks.iter().filter(|drive| drive.interface == DriveInterface::Virtio) {
        functions.push(of_drive(spec, "virtio-blk-pci", drive, &[])?);
    }
    functions.extend_from_slice(behind);
    functions.retain(|device| device.pci().is_some());
    // A device that says where it is goes there, whoever comes first on the command line.
    functions.sort_by_key(|device| device.pci().is_none_or(|pci| pci.addr.is_none()));
    let mut planned = Vec::new();
    for device in &functions {
        planned.push(function(spec, device, disks, places)?);
    }
    super::scsi::add_units(&mut planned, spec, disks, &mut places.names)?;
    Ok(planned)
}

/// One function: a name, a place, and what its driver makes of its properties.
pub(super) fn function(
    spec: &VmSpec,
    device: &DeviceSpec,
    disks: &[DrivePlan],
    places: &mut Places,
) -> Result<PciPlan, PlanError> {
    let id = places.names.take(device)?;
    let pci = device.pci().cloned().unwrap_or_default();
    let bdf = places.slots.claim(&id, &pci)?;
    let kind = match device {
        DeviceSpec::VirtioBlk(blk) => PciDevice::Blk(Box::new(disk(spec, &id, blk, disks)?)),
        DeviceSpec::VirtioRng(rng) => PciDevice::Rng(entropy(spec, &id, rng)?),
        DeviceSpec::VirtioScsi(scsi) => {
            PciDevice::Scsi(Box::new(super::scsi::adapter(spec, &id, scsi, &mut places.unnamed_adapters)?))
        }
        DeviceSpec::PciTestDev(test) => PciDevice::Test { membar: test.membar.0 },
        _ => return Err(PlanError::NoBus { bus: "pci.0".into() }),
    };
    let told = super::storage::to_firmware(device);
    let objects = device.objects().map(str::to_owned).collect();
    Ok(PciPlan { id, bdf, objects, multifunction: pci.multifunction, told, device: kind })
}

pub(super) fn virtio(spec: &VirtioSpec) -> VirtioPlan {
    VirtioPlan {
        interfaces: Interfaces { legacy: spec.disable_legacy.chosen() != Some(true), modern: !spec.disable_modern },
        vectors: spec.vectors,
        indirect_desc: spec.indirect_desc,
        event_idx: spec.event_idx,
        queue_reset: spec.queue_reset,
    }
}

fn entropy(spec: &VmSpec, id: &str, rng: &VirtioRngSpec) -> Result<RngPlan, PlanError> {
    let rate = rng
        .max_bytes
        .map(|max_bytes| RngRate { max_bytes, period: std::time::Duration::from_millis(u64::from(rng.period)) });
    let plan = |filename| RngPlan { filename, rate, virtio: virtio(&rng.virtio) };
    let Some(name) = &rng.rng else { return Ok(plan(None)) };
    match spec.objects.iter().find(|object| object.id() == name) {
        Some(ObjectSpec::RngRandom(random)) => Ok(plan(Some(random.filename.clone()))),
        Some(ObjectSpec::RngBuiltin(_)) => Ok(plan(None)),
        _ => {
            let (id, name) = (id.to_owned(), name.clone());
            Err(PlanError::NoObject { id, property: "rng", name, kind: "rng-random" })
        }
    }
}

fn disk(spec: &VmSpec, id: &str, blk: &VirtioBlkSpec, disks: &[DrivePlan]) -> Result<BlkPlan, PlanError> {
    let storage = storage(Some(&blk.drive), &blk.disk, disks);
    // One queue a vCPU, as QEMU has it since 5.2.
    let queues = blk.num_queues.unwrap_or_else(|| u16::try_from(spec.smp.cpus).unwrap_or(u16::MAX));
    let config = BlkConfig {
        queue_size: blk.queue_size,
        serial: blk.disk.serial.clone().unwrap_or_default(),
        sizes: sizes(id, &blk.sizes)?,
        discard: blk.discard,
        write_zeroes: blk.write_zeroes,
        config_wce: blk.config_wce,
        write_cache: Some(storage.write_cache),
        geometry: geometry(&blk.shape),
        ..BlkConfig::new(id, queues)
    };
    let iothread = iothread(spec, id, blk.iothread.as_ref())?;
    Ok(BlkPlan { config, storage, iothread, virtio: virtio(&blk.virtio) })
}
