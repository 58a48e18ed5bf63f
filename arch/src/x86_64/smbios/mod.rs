//! SMBIOS: what the machine says about itself (DSP0134, System Management BIOS 2.8 and 3.0).
//!
//! ```text
//! SmbiosSpec ── build ──▶ Smbios ── place ──▶ the BIOS segment, for a boot without firmware
//!                           └─── anchor, tables ──▶ fw_cfg etc/smbios/{smbios-anchor,smbios-tables}
//! ```
//!
//! Structures, handles and defaults are those of QEMU's `pc`, so that inventories of guests do not change; the names in
//! them are the caller's.

use crate::x86_64::layout::MemoryLayout;

mod anchor;
mod structure;
mod structures;

#[cfg(test)]
mod tests;

pub use anchor::{EntryPoint, Smbios};

use structure::Structure;

/// Why the tables cannot be made or placed.
#[derive(Debug, thiserror::Error)]
pub enum SmbiosError {
    /// A string of the user holds its terminator.
    #[error("the SMBIOS string {0:?} contains a zero byte")]
    Zero(String),
    /// More strings than a structure can number.
    #[error("an SMBIOS structure of type {kind} has {count} strings, at most 255 are possible")]
    Strings {
        /// The structure's type.
        kind: u8,
        /// Strings given.
        count: usize,
    },
    /// A table from a file is not one.
    #[error("SMBIOS table {index} from a file is broken at byte {offset}")]
    Binary {
        /// Which of the files, from 0.
        index: usize,
        /// Where its structures end to make sense.
        offset: usize,
    },
    /// A type is given by a file and by fields.
    #[error("SMBIOS type {0} is given by a file and by fields; give one of them")]
    Twice(u8),
    /// More than the entry point can describe, or than its area holds.
    #[error("the SMBIOS tables need {needed} bytes, at most {available} are possible")]
    TooLong {
        /// Bytes needed.
        needed: usize,
        /// Bytes possible.
        available: usize,
    },
    /// Guest memory could not be written.
    #[error("cannot write the SMBIOS tables to guest memory")]
    Memory(#[source] vm_memory::GuestMemoryError),
}

/// `-smbios type=0`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Vendor.
    pub vendor: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Release date, MM/DD/YYYY.
    pub date: Option<String>,
    /// Major and minor release.
    pub release: Option<(u8, u8)>,
    /// The firmware is UEFI.
    pub uefi: bool,
}

/// `-smbios type=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Product name.
    pub product: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// SKU number.
    pub sku: Option<String>,
    /// Family.
    pub family: Option<String>,
}

/// `-smbios type=2`; there is no such structure unless a field is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Product name.
    pub product: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Asset tag.
    pub asset: Option<String>,
    /// Location in the chassis.
    pub location: Option<String>,
}

/// `-smbios type=3`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chassis {
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Asset tag.
    pub asset: Option<String>,
    /// SKU number.
    pub sku: Option<String>,
}

/// `-smbios type=4`, for each socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Socket {
    /// Prefix of the socket's designation; "CPU" if not given.
    pub prefix: Option<String>,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Asset tag.
    pub asset: Option<String>,
    /// Part number.
    pub part: Option<String>,
    /// Greatest speed in MHz; 2000 if not given.
    pub max_speed: Option<u16>,
    /// Present speed in MHz; 2000 if not given.
    pub current_speed: Option<u16>,
    /// Processor identifier: CPUID leaf 1, EAX in the lower half and EDX in the upper.
    pub processor_id: u64,
}

/// `-smbios type=17`, for each memory device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryModule {
    /// Prefix of the device's location; "DIMM" if not given.
    pub prefix: Option<String>,
    /// Bank.
    pub bank: Option<String>,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Asset tag.
    pub asset: Option<String>,
    /// Part number.
    pub part: Option<String>,
    /// Speed in MT/s; unknown if not given.
    pub speed: Option<u16>,
}

/// Processors as the tables count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// Sockets, 1 to 256.
    pub count: u16,
    /// Cores in each.
    pub cores: u16,
    /// Threads in each, of all cores together.
    pub threads: u16,
}

/// What the tables describe. Fields of [`System`] and the others that are not given come from `defaults`.
#[derive(Debug, Clone)]
pub struct SmbiosSpec {
    /// The memory map.
    pub layout: MemoryLayout,
    /// Processors.
    pub sockets: Sockets,
    /// `-uuid` or `-smbios type=1,uuid=`, in the order it is written; all zero when there is none.
    pub uuid: [u8; 16],
    /// Manufacturer for all structures that are not given one.
    pub manufacturer: String,
    /// Product of the system.
    pub product: String,
    /// Version of the system and its parts: the machine type's versioned name.
    pub version: String,
    /// Whether a firmware structure is made though no field of it is given: firmware brings its own.
    pub describe_firmware: bool,
    /// Type 0.
    pub firmware: Firmware,
    /// Type 1.
    pub system: System,
    /// Type 2.
    pub board: Board,
    /// Type 3.
    pub chassis: Chassis,
    /// Type 4.
    pub socket: Socket,
    /// Type 11: the strings, in order.
    pub oem_strings: Vec<String>,
    /// Type 17.
    pub memory_module: MemoryModule,
    /// `-smbios file=`: structures as they are, which replace the made ones of their types.
    pub binary: Vec<Vec<u8>>,
    /// The form of the entry point.
    pub entry_point: EntryPoint,
}

impl SmbiosSpec {
    /// A machine without any field given by the user.
    pub fn new(layout: MemoryLayout, sockets: Sockets, version: &str) -> Self {
        Self {
            layout,
            sockets,
            uuid: [0; 16],
            manufacturer: "Rhea".into(),
            product: "Standard PC (i440FX + PIIX, 1996)".into(),
            version: version.into(),
            describe_firmware: true,
            firmware: Firmware::default(),
            system: System::default(),
            board: Board::default(),
            chassis: Chassis::default(),
            socket: Socket::default(),
            oem_strings: Vec::new(),
            memory_module: MemoryModule::default(),
            binary: Vec::new(),
            entry_point: EntryPoint::V2,
        }
    }
}

/// Describes the machine in tables.
///
/// # Errors
/// Strings that cannot be encoded, broken binary tables, a type given twice, or more than the entry point describes.
pub fn build(spec: &SmbiosSpec) -> Result<Smbios, SmbiosError> {
    let mut all: Vec<Structure> = Vec::new();
    let binary = spec.binary.iter().enumerate().map(|(index, bytes)| Structure::split(index, bytes));
    for structures in binary.collect::<Result<Vec<_>, _>>()? {
        all.extend(structures);
    }
    let given: Vec<u8> = all.iter().map(Structure::kind).collect();
    for structure in structures::made(spec)? {
        let by_file = given.contains(&structure.kind());
        if by_file && structures::has_fields(spec, structure.kind()) {
            return Err(SmbiosError::Twice(structure.kind()));
        }
        if !by_file {
            all.push(structure);
        }
    }
    // The end of the table is ours, whatever a file brings.
    all.retain(|structure| structure.kind() != structure::END_OF_TABLE);
    all.push(structures::end());
    Smbios::new(&all, spec.entry_point)
}
