//! `-smbios`: what the guest is told of the machine it runs on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::describe::{DescribeUnion, Field, Form, Kind, Variant};
use super::error::{SpecError, Words};
use super::ident::Uuid;
use super::read::{self, Source};

spec_union! {
    /// Fields of one SMBIOS structure.
    pub enum SmbiosSpec by "type" {
        /// The firmware.
        Bios(SmbiosBios) = "0",
        /// The machine.
        System(SmbiosSystem) = "1",
        /// The board.
        Board(SmbiosBoard) = "2",
        /// The case.
        Chassis(SmbiosChassis) = "3",
        /// The processors.
        Processor(SmbiosProcessor) = "4",
        /// Strings for the guest.
        OemStrings(SmbiosOemStrings) = "11",
        /// The memory modules.
        Memory(SmbiosMemory) = "17",
    }
}

spec_struct! {
    /// The firmware (type 0).
    pub struct SmbiosBios as "smbios-0" {
        /// Who made it.
        pub vendor: Option<String>,
        /// Version.
        pub version: Option<String>,
        /// Date: MM/DD/YYYY.
        pub date: Option<String>,
        /// Major and minor release: 1.2.
        pub release: Option<Release>,
        /// It is UEFI.
        pub uefi: bool = false,
    }
}

spec_struct! {
    /// The machine (type 1).
    pub struct SmbiosSystem as "smbios-1" {
        /// Who made it.
        pub manufacturer: Option<String>,
        /// What it is.
        pub product: Option<String>,
        /// Version.
        pub version: Option<String>,
        /// Serial number.
        pub serial: Option<String>,
        /// UUID; that of -uuid when not given.
        pub uuid: Option<Uuid>,
        /// Stock keeping unit.
        pub sku: Option<String>,
        /// Family.
        pub family: Option<String>,
    }
}

spec_struct! {
    /// The board (type 2).
    pub struct SmbiosBoard as "smbios-2" {
        /// Who made it.
        pub manufacturer: Option<String>,
        /// What it is.
        pub product: Option<String>,
        /// Version.
        pub version: Option<String>,
        /// Serial number.
        pub serial: Option<String>,
        /// Asset tag.
        pub asset: Option<String>,
        /// Where it is in the case.
        pub location: Option<String>,
    }
}

spec_struct! {
    /// The case (type 3).
    pub struct SmbiosChassis as "smbios-3" {
        /// Who made it.
        pub manufacturer: Option<String>,
        /// Version.
        pub version: Option<String>,
        /// Serial number.
        pub serial: Option<String>,
        /// Asset tag.
        pub asset: Option<String>,
        /// Stock keeping unit.
        pub sku: Option<String>,
    }
}

spec_struct! {
    /// The processors (type 4).
    pub struct SmbiosProcessor as "smbios-4" {
        /// Beginning of each socket's name; its number follows.
        pub sock_pfx: Option<String> as "sock_pfx",
        /// Who made them.
        pub manufacturer: Option<String>,
        /// Version.
        pub version: Option<String>,
        /// Serial number.
        pub serial: Option<String>,
        /// Asset tag.
        pub asset: Option<String>,
        /// Part number.
        pub part: Option<String>,
        /// Greatest speed in MHz.
        pub max_speed: Option<u16>,
        /// Speed in MHz.
        pub current_speed: Option<u16>,
        /// Identifier: CPUID leaf 1, EAX in the lower half and EDX in the upper.
        pub processor_id: u64 = 0,
    }
}

spec_struct! {
    /// Strings for the guest (type 11).
    pub struct SmbiosOemStrings as "smbios-11" {
        /// A string; may be given many times.
        pub value: Vec<String>,
        /// A file with a string; may be given many times.
        pub path: Vec<PathBuf>,
    }
}

spec_struct! {
    /// The memory modules (type 17).
    pub struct SmbiosMemory as "smbios-17" {
        /// Beginning of each module's place; its number follows.
        pub loc_pfx: Option<String> as "loc_pfx",
        /// Bank.
        pub bank: Option<String>,
        /// Who made them.
        pub manufacturer: Option<String>,
        /// Serial number.
        pub serial: Option<String>,
        /// Asset tag.
        pub asset: Option<String>,
        /// Part number.
        pub part: Option<String>,
        /// Speed in MT/s.
        pub speed: Option<u16>,
    }
}

/// `-smbios` of one command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SmbiosOptions {
    /// Fields, in the order of the command line; a later one wins.
    pub fields: Vec<SmbiosSpec>,
    /// Files of structures as they are.
    pub files: Vec<PathBuf>,
}

impl SmbiosSpec {
    /// Reads the options, with `type` among them.
    ///
    /// # Errors
    /// One sentence, in the words of `-smbios`.
    pub fn read(object: Map<String, Value>, source: Source) -> Result<Self, SpecError> {
        if !object.contains_key("type") {
            return Err(SpecError::new("Must specify type="));
        }
        read::read_union(object, source, |_| Words::Options, variant)
    }
}

fn variant(name: &str) -> Result<&'static Variant, SpecError> {
    let union = SmbiosSpec::UNION;
    union.find(name).ok_or_else(|| SpecError::not_one_of("type", name, &union.names()))
}

/// Major and minor release of firmware: `1.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Release(pub u8, pub u8);

/// Text that is no release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a release such as 1.2")]
pub struct NoRelease;

impl FromStr for Release {
    type Err = NoRelease;

    fn from_str(text: &str) -> Result<Self, NoRelease> {
        let (major, minor) = text.split_once('.').ok_or(NoRelease)?;
        major.parse().ok().zip(minor.parse().ok()).map(|(major, minor)| Self(major, minor)).ok_or(NoRelease)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Serialize for Release {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Release {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Field for Release {
    const KIND: Kind = Kind::Parsed(&Form {
        name: "str",
        expects: "a release such as 1.2",
        accepts: |text| text.parse::<Self>().is_ok(),
        accepts_number: |_| false,
    });
}
