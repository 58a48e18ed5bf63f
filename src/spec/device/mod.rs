//! Devices a user can add: one type for `-device` and `device_add`.

use serde_json::{Map, Value};

use super::GlobalSpec;
use super::describe::{DescribeUnion, Variant};
use super::error::{Shown, SpecError, Words, did_you_mean};
use super::pci::PciSpec;
use super::read::{self, Source};

mod blk;
mod ide;
mod isa;
mod rng;

pub use blk::{OnError, VirtioBlkSpec};
pub use ide::{IdeCdSpec, IdeHdSpec, IdeSpec};
pub use isa::{IsaDebugExitSpec, IsaDebugconSpec, IsaSerialSpec, IsaSpec};
pub use rng::VirtioRngSpec;

spec_union! {
    /// A device and its properties.
    pub enum DeviceSpec by "driver" {
        /// A disk.
        VirtioBlk(VirtioBlkSpec) = "virtio-blk-pci" | "virtio-blk",
        /// A source of random numbers.
        VirtioRng(VirtioRngSpec) = "virtio-rng-pci" | "virtio-rng",
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
            let hint = did_you_mean(name, Self::UNION.names());
            SpecError::new(format!("'{}' is not a valid device model name{hint}", Shown(name)))
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
            Self::IdeHd(spec) => spec.check(),
            Self::IdeCd(spec) => spec.check(),
            Self::IsaSerial(spec) => spec.check(),
            Self::IsaDebugExit(_) | Self::IsaDebugcon(_) => Ok(()),
        }
    }

    /// The name of its driver, as `-device` lists it.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        self.type_name()
    }

    /// The `id=`.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::VirtioBlk(spec) => spec.pci.id.as_deref(),
            Self::VirtioRng(spec) => spec.pci.id.as_deref(),
            Self::IdeHd(spec) => spec.ide.id.as_deref(),
            Self::IdeCd(spec) => spec.ide.id.as_deref(),
            Self::IsaSerial(spec) => spec.isa.id.as_deref(),
            Self::IsaDebugExit(spec) => spec.isa.id.as_deref(),
            Self::IsaDebugcon(spec) => spec.isa.id.as_deref(),
        }
    }

    /// The place on the PCI bus and what goes with it; nothing for a device that is on another bus.
    #[must_use]
    pub fn pci(&self) -> Option<&PciSpec> {
        match self {
            Self::VirtioBlk(spec) => Some(&spec.pci),
            Self::VirtioRng(spec) => Some(&spec.pci),
            Self::IdeHd(_) | Self::IdeCd(_) => None,
            Self::IsaSerial(_) | Self::IsaDebugExit(_) | Self::IsaDebugcon(_) => None,
        }
    }

    /// Its place in the order in which firmware tries devices.
    #[must_use]
    pub fn bootindex(&self) -> Option<i32> {
        match self {
            Self::VirtioBlk(spec) => spec.bootindex,
            Self::IdeHd(spec) => spec.ide.bootindex,
            Self::IdeCd(spec) => spec.ide.bootindex,
            Self::VirtioRng(_) | Self::IsaSerial(_) | Self::IsaDebugExit(_) | Self::IsaDebugcon(_) => None,
        }
    }

    /// The bus asked for.
    #[must_use]
    pub fn bus(&self) -> Option<&str> {
        match self {
            Self::VirtioBlk(spec) => spec.pci.bus.as_deref(),
            Self::VirtioRng(spec) => spec.pci.bus.as_deref(),
            Self::IdeHd(spec) => spec.ide.bus.as_deref(),
            Self::IdeCd(spec) => spec.ide.bus.as_deref(),
            Self::IsaSerial(spec) => spec.isa.bus.as_deref(),
            Self::IsaDebugExit(spec) => spec.isa.bus.as_deref(),
            Self::IsaDebugcon(spec) => spec.isa.bus.as_deref(),
        }
    }
}
