//! What every PCI device can be told, and what every virtio device on PCI can.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::describe::{Field, Form, Kind};
use super::error::SpecError;

/// Slot and function of a PCI device: `5`, `05.0`, `0x5.0x1`, all hexadecimal; in JSON also the number
/// slot * 8 + function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PciAddr {
    slot: u8,
    function: u8,
}

impl PciAddr {
    /// Slot 0 to 31 and function 0 to 7; nothing when one is beyond that.
    #[must_use]
    pub fn new(slot: u8, function: u8) -> Option<Self> {
        (slot < 32 && function < 8).then_some(Self { slot, function })
    }

    /// 0 to 31.
    #[must_use]
    pub fn slot(self) -> u8 {
        self.slot
    }

    /// 0 to 7.
    #[must_use]
    pub fn function(self) -> u8 {
        self.function
    }

    fn from_number(devfn: i64) -> Option<Self> {
        let devfn = u8::try_from(devfn).ok()?;
        Self::new(devfn >> 3, devfn & 7)
    }
}

/// Text that is no slot and function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PCI slot from 0 to 1f with an optional function from 0 to 7")]
pub struct NoPciAddr;

impl FromStr for PciAddr {
    type Err = NoPciAddr;

    fn from_str(text: &str) -> Result<Self, NoPciAddr> {
        let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
        hex(slot).zip(hex(function)).and_then(|(slot, function)| Self::new(slot, function)).ok_or(NoPciAddr)
    }
}

fn hex(digits: &str) -> Option<u8> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
}

impl fmt::Display for PciAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{:x}", self.slot, self.function)
    }
}

impl Serialize for PciAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        let parsed = match Written::deserialize(deserializer)? {
            Written::Number(devfn) => Self::from_number(devfn).ok_or(NoPciAddr),
            Written::Text(text) => text.parse(),
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

impl Field for PciAddr {
    const KIND: Kind = Kind::Parsed(&Form {
        name: "int32",
        expects: "a slot from 0 to 1f, in hexadecimal, with an optional function from 0 to 7, as in 05.0",
        accepts: |text| text.parse::<Self>().is_ok(),
        accepts_number: |number| Self::from_number(number).is_some(),
    });
}

spec_enum! {
    /// Yes, no, or what is best here.
    pub enum OnOffAuto {
        /// What is best here.
        Auto = "auto",
        /// Yes.
        On = "on",
        /// No.
        Off = "off",
    }
}

impl OnOffAuto {
    /// The choice made, or nothing for `auto`.
    #[must_use]
    pub fn chosen(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

spec_struct! {
    /// What every PCI device has.
    pub part PciSpec as "pci-device" {
        /// Name of the device in commands and events.
        pub id: Option<String>,
        /// Bus that the device sits on.
        pub bus: Option<String>,
        /// Slot and optional function number, in hexadecimal, as in 06.0; the next free slot when not given.
        pub addr: Option<PciAddr>,
        /// Other functions share the slot with this function 0.
        pub multifunction: bool = false,
        /// Whether the option ROM is mapped; no device here has one.
        pub rombar: u32 = 1,
        /// Option ROM; only the empty name, which stands for none.
        pub romfile: Option<String>,
    }
}

impl PciSpec {
    /// Refuses what PCI devices here cannot do.
    ///
    /// # Errors
    /// An option ROM is asked for.
    pub fn check(&self) -> Result<(), SpecError> {
        match self.romfile.as_deref() {
            None | Some("") => Ok(()),
            Some(_) => Err(SpecError::refused("'romfile' with a file", "leave it out or give it no name (romfile=)")),
        }
    }
}

spec_struct! {
    /// What every virtio device on PCI has.
    pub part VirtioSpec as "virtio-pci" {
        /// Leave out the interface of virtio 0.9; auto keeps it on conventional PCI buses.
        pub disable_legacy: OnOffAuto = OnOffAuto::Auto,
        /// Leave out the interface of virtio 1.0 and later.
        pub disable_modern: bool = false,
        /// MSI-X vectors, 0 for none; one for each queue and one for the configuration when not given.
        pub vectors: Option<u16>,
        /// Offer indirect descriptors.
        pub indirect_desc: bool as "indirect_desc" = true,
        /// Offer suppression of notifications by event index.
        pub event_idx: bool as "event_idx" = true,
        /// Offer the reset of single queues.
        pub queue_reset: bool as "queue_reset" = true,
        /// Let KVM take doorbells without leaving the kernel; on is the only way here.
        pub ioeventfd: bool = true,
        /// Offer packed queues; only off here.
        pub packed: bool = false,
        /// Put DMA behind an IOMMU; only off here.
        pub iommu_platform: bool as "iommu_platform" = false,
        /// Offer PCIe address translation; only off here.
        pub ats: bool = false,
        /// Give each queue's doorbell a page; only off here.
        pub page_per_vq: bool = false,
        /// Put the modern doorbell also into I/O space; only off here.
        pub modern_pio_notify: bool = false,
    }
}

impl VirtioSpec {
    /// Refuses what virtio devices here cannot do.
    ///
    /// # Errors
    /// The first such property.
    pub fn check(&self) -> Result<(), SpecError> {
        let wrong = [
            (!self.ioeventfd, "'ioeventfd=off'", "leave it on"),
            (self.packed, "'packed=on'", "leave it off: split queues are used"),
            (self.iommu_platform, "'iommu_platform=on'", "leave it off: there is no IOMMU"),
            (self.ats, "'ats=on'", "leave it off: there is no IOMMU"),
            (self.page_per_vq, "'page-per-vq=on'", "leave it off"),
            (self.modern_pio_notify, "'modern-pio-notify=on'", "leave it off"),
        ];
        match wrong.iter().find(|(wrong, ..)| *wrong) {
            Some((_, what, instead)) => Err(SpecError::refused(what, instead)),
            None if self.disable_modern && self.disable_legacy == OnOffAuto::On => {
                Err(SpecError::new("device cannot work as neither modern nor legacy mode is enabled"))
            }
            None => Ok(()),
        }
    }
}
