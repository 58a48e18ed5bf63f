//! Devices a user can add: one type for `-device` and `device_add`.

use serde_json::{Map, Value};

use super::GlobalSpec;
use super::describe::{DescribeUnion, Variant};
use super::error::{Shown, SpecError, Words, did_you_mean};
use super::pci::PciSpec;
use super::read::{self, Source};

mod absent;
mod blk;
mod disk;
mod ide;
mod isa;
mod rng;
mod scsi;
mod testdev;

pub use blk::VirtioBlkSpec;
pub use disk::{DiskSpec, OnError, ShapeSpec, SizesSpec};
pub use ide::{ChsTranslation, IdeCdSpec, IdeHdSpec, IdeSpec};
pub use isa::{IsaDebugExitSpec, IsaDebugconSpec, IsaSerialSpec, IsaSpec, PcTestDevSpec, PvpanicSpec};
pub use rng::VirtioRngSpec;
pub use scsi::{MAX_LUN, MAX_TARGET, ScsiCdSpec, ScsiHdSpec, ScsiSpec, VirtioScsiSpec};
pub use testdev::PciTestDevSpec;

spec_union! {
    /// A device and its properties.
    pub enum DeviceSpec by "driver" {
        /// A disk.
        VirtioBlk(VirtioBlkSpec) = "virtio-blk-pci" | "virtio-blk",
        /// A source of random numbers.
        VirtioRng(VirtioRngSpec) = "virtio-rng-pci" | "virtio-rng",
        /// A SCSI adapter.
        VirtioScsi(VirtioScsiSpec) = "virtio-scsi-pci" | "virtio-scsi",
        /// A disk on SCSI.
        ScsiHd(ScsiHdSpec) = "scsi-hd",
        /// A CD drive on SCSI.
        ScsiCd(ScsiCdSpec) = "scsi-cd",
        /// A disk on IDE.
        IdeHd(IdeHdSpec) = "ide-hd",
        /// A CD drive on IDE.
        IdeCd(IdeCdSpec) = "ide-cd",
        /// A serial port.
        IsaSerial(IsaSerialSpec) = "isa-serial",
        /// A port that ends the process.
        IsaDebugExit(IsaDebugExitSpec) = "isa-debug-exit",
        /// A port that prints.
        IsaDebugcon(IsaDebugconSpec) = "isa-debugcon",
        /// A port for panics.
        Pvpanic(PvpanicSpec) = "pvpanic",
        /// Ports and lines for test programs.
        PcTestDev(PcTestDevSpec) = "pc-testdev",
        /// A function for test programs.
        PciTestDev(PciTestDevSpec) = "pci-testdev",
    }
}

impl DeviceSpec {
    /// Reads the properties, with `driver` among them, and checks those that depend on each other.
    ///
    /// # Errors
    /// One sentence, in the words of `-device` and `device_add`.
    pub fn read(object: Map<String, Value>, source: Source) -> Result<Self, SpecError> {
        let spec: Self = read::read_union(object, source, |variant| Words::Properties(variant.name), Self::variant)?;
        spec.check()?;
        Ok(spec)
    }

    /// The type of this name or alias.
    ///
    /// # Errors
    /// There is none, in QEMU's words.
    pub fn variant(name: &str) -> Result<&'static Variant, SpecError> {
        Self::UNION.find(name).ok_or_else(|| {
            absent::refusal(name).unwrap_or_else(|| {
                let hint = did_you_mean(name, Self::UNION.names());
                SpecError::new(format!("'{}' is not a valid device model name{hint}", Shown(name)))
            })
        })
    }

    /// As [`DeviceSpec::read`], with the defaults of `-global` for what is not given.
    ///
    /// # Errors
    /// One sentence, in the words of `-device` and `device_add`.
    pub fn read_with(
        mut object: Map<String, Value>,
        source: Source,
        globals: &[GlobalSpec],
    ) -> Result<Self, SpecError> {
        let driver = object.get("driver").and_then(Value::as_str).and_then(|name| Self::UNION.find(name));
        let Some(driver) = driver else { return Self::read(object, source) };
        // A later -global wins, and what the device itself says wins over all.
        for global in globals.iter().rev().filter(|global| global.driver == driver.name) {
            if !object.contains_key(global.property) {
                let value = read::typed(driver.description, global.property, &global.value)?;
                object.insert(global.property.to_owned(), value);
            }
        }
        Self::read(object, source)
    }

    fn check(&self) -> Result<(), SpecError> {
        if let Some(id) = self.id() {
            super::check_id(id)?;
        }
        match self {
            Self::VirtioBlk(spec) => spec.check(),
            Self::VirtioRng(spec) => spec.check(),
            Self::VirtioScsi(spec) => spec.check(),
            Self::ScsiHd(spec) => spec.check(),
            Self::ScsiCd(spec) => spec.check(),
            Self::IdeHd(spec) => spec.check(),
            Self::IdeCd(spec) => spec.check(),
            Self::IsaSerial(spec) => spec.check(),
            Self::PciTestDev(spec) => spec.check(),
            Self::IsaDebugExit(_) | Self::IsaDebugcon(_) | Self::Pvpanic(_) | Self::PcTestDev(_) => Ok(()),
        }
    }

    /// The name of its driver, as `-device` lists it.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        self.type_name()
    }

    /// What it has as a unit on SCSI, if it is one.
    #[must_use]
    pub fn scsi(&self) -> Option<&ScsiSpec> {
        match self {
            Self::ScsiHd(disk) => Some(&disk.scsi),
            Self::ScsiCd(cd) => Some(&cd.scsi),
            _ => None,
        }
    }

    /// The kind of bus that it is on, in QEMU's word.
    #[must_use]
    pub fn bus_type(driver: &str) -> &'static str {
        match driver {
            "scsi-hd" | "scsi-cd" => "SCSI",
            "ide-hd" | "ide-cd" => "IDE",
            "pc-testdev" | "pvpanic" => "ISA",
            driver if driver.starts_with("isa-") => "ISA",
            _ => "PCI",
        }
    }

    /// The `id=`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::VirtioBlk(spec) => spec.pci.id.as_deref(),
            Self::VirtioRng(spec) => spec.pci.id.as_deref(),
            Self::VirtioScsi(spec) => spec.pci.id.as_deref(),
            Self::ScsiHd(spec) => spec.scsi.id.as_deref(),
            Self::ScsiCd(spec) => spec.scsi.id.as_deref(),
            Self::IdeHd(spec) => spec.ide.id.as_deref(),
            Self::IdeCd(spec) => spec.ide.id.as_deref(),
            Self::IsaSerial(spec) => spec.isa.id.as_deref(),
            Self::IsaDebugExit(spec) => spec.isa.id.as_deref(),
            Self::IsaDebugcon(spec) => spec.isa.id.as_deref(),
            Self::Pvpanic(spec) => spec.isa.id.as_deref(),
            Self::PcTestDev(spec) => spec.isa.id.as_deref(),
            Self::PciTestDev(spec) => spec.pci.id.as_deref(),
        }
    }

    /// The place on the PCI bus and what goes with it; nothing for a device that is on another bus.
    #[must_use]
    pub fn pci(&self) -> Option<&PciSpec> {
        match self {
            Self::VirtioBlk(spec) => Some(&spec.pci),
            Self::VirtioRng(spec) => Some(&spec.pci),
            Self::VirtioScsi(spec) => Some(&spec.pci),
            Self::PciTestDev(spec) => Some(&spec.pci),
            Self::ScsiHd(_) | Self::ScsiCd(_) | Self::IdeHd(_) | Self::IdeCd(_) => None,
            Self::IsaSerial(_) | Self::IsaDebugExit(_) | Self::IsaDebugcon(_) => None,
            Self::Pvpanic(_) | Self::PcTestDev(_) => None,
        }
    }

    /// The objects that it names: threads, sources of random numbers.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        let object = match self {
            Self::VirtioBlk(spec) => spec.iothread.as_deref(),
            Self::VirtioRng(spec) => spec.rng.as_deref(),
            Self::VirtioScsi(spec) => spec.iothread.as_deref(),
            Self::ScsiHd(_) | Self::ScsiCd(_) | Self::IdeHd(_) | Self::IdeCd(_) | Self::PciTestDev(_) => None,
            Self::IsaSerial(_) | Self::IsaDebugExit(_) | Self::IsaDebugcon(_) => None,
            Self::Pvpanic(_) | Self::PcTestDev(_) => None,
        };
        object.into_iter()
    }

    /// Its place in the order in which firmware tries devices.
    #[must_use]
    pub fn bootindex(&self) -> Option<i32> {
        self.disk()?.bootindex
    }

    /// The shape that it tells of as a disk; nothing for other devices.
    #[must_use]
    pub fn shape(&self) -> Option<&ShapeSpec> {
        match self {
            Self::VirtioBlk(spec) => Some(&spec.shape),
            Self::ScsiHd(spec) => Some(&spec.shape),
            Self::IdeHd(spec) => Some(&spec.shape),
            _ => None,
        }
    }

    /// What it has as a disk or drive; nothing for other devices.
    #[must_use]
    pub fn disk(&self) -> Option<&DiskSpec> {
        match self {
            Self::VirtioBlk(spec) => Some(&spec.disk),
            Self::ScsiHd(spec) => Some(&spec.disk),
            Self::ScsiCd(spec) => Some(&spec.disk),
            Self::IdeHd(spec) => Some(&spec.disk),
            Self::IdeCd(spec) => Some(&spec.disk),
            Self::VirtioRng(_) | Self::VirtioScsi(_) | Self::PciTestDev(_) => None,
            Self::IsaSerial(_) | Self::IsaDebugExit(_) | Self::IsaDebugcon(_) => None,
            Self::Pvpanic(_) | Self::PcTestDev(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn disk_mut(&mut self) -> Option<&mut DiskSpec> {
        match self {
            Self::VirtioBlk(spec) => Some(&mut spec.disk),
            Self::ScsiHd(spec) => Some(&mut spec.disk),
            Self::ScsiCd(spec) => Some(&mut spec.disk),
            Self::IdeHd(spec) => Some(&mut spec.disk),
            Self::IdeCd(spec) => Some(&mut spec.disk),
            Self::VirtioRng(_) | Self::VirtioScsi(_) | Self::PciTestDev(_) => None,
            Self::IsaSerial(_) | Self::IsaDebugExit(_) | Self::IsaDebugcon(_) => None,
            Self::Pvpanic(_) | Self::PcTestDev(_) => None,
        }
    }

    /// The bus asked for.
    #[must_use]
    pub fn bus(&self) -> Option<&str> {
        match self {
            Self::VirtioBlk(spec) => spec.pci.bus.as_deref(),
            Self::VirtioRng(spec) => spec.pci.bus.as_deref(),
            Self::VirtioScsi(spec) => spec.pci.bus.as_deref(),
            Self::ScsiHd(spec) => spec.scsi.bus.as_deref(),
            Self::ScsiCd(spec) => spec.scsi.bus.as_deref(),
            Self::IdeHd(spec) => spec.ide.bus.as_deref(),
            Self::IdeCd(spec) => spec.ide.bus.as_deref(),
            Self::IsaSerial(spec) => spec.isa.bus.as_deref(),
            Self::IsaDebugExit(spec) => spec.isa.bus.as_deref(),
            Self::IsaDebugcon(spec) => spec.isa.bus.as_deref(),
            Self::Pvpanic(spec) => spec.isa.bus.as_deref(),
            Self::PcTestDev(spec) => spec.isa.bus.as_deref(),
            Self::PciTestDev(spec) => spec.pci.bus.as_deref(),
        }
    }
}
