//! The structures of the machine (DSP0134, chapter 7).

use super::structure::{Draft, END_OF_TABLE, Structure};
use super::{Board, Chassis, Firmware, MemoryModule, SmbiosError, SmbiosSpec, Socket, System};

/// Handles, as QEMU gives them: the type in the upper byte.
const CHASSIS_HANDLE: u16 = 0x300;
const ARRAY_HANDLE: u16 = 0x1000;
const NO_HANDLE: u16 = 0xffff;
const NO_ERROR_HANDLE: u16 = 0xfffe;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
/// Memory is described in devices of this size at least, and in so many at most.
const LEAST_MODULE: u64 = 16 * GIB;
const MOST_MODULES: u64 = 256;
const DEFAULT_SPEED_MHZ: u16 = 2000;
/// Behind the version of the firmware structure, when no date is given: QEMU's for a machine without firmware.
const DEFAULT_DATE: &str = "04/01/2014";

/// All structures but the end, in ascending order of their types.
pub(super) fn made(spec: &SmbiosSpec) -> Result<Vec<Structure>, SmbiosError> {
    let mut all = Vec::new();
    if spec.describe_firmware || spec.firmware != Firmware::default() {
        all.push(firmware(spec).finish()?);
    }
    all.push(system(spec).finish()?);
    if spec.board != Board::default() {
        all.push(board(spec).finish()?);
    }
    all.push(chassis(spec).finish()?);
    for n in 0..spec.sockets.count {
        all.push(socket(spec, n).finish()?);
    }
    if !spec.oem_strings.is_empty() {
        all.push(oem_strings(spec).finish()?);
    }
    let modules = modules(spec.layout.ram());
    all.push(memory_array(spec.layout.ram(), modules.len() as u16).finish()?);
    for (n, size) in (0..).zip(&modules) {
        all.push(memory_module(spec, n, *size).finish()?);
    }
    for (n, (start, size)) in (0..).zip(spec.layout.ram_ranges()) {
        all.push(mapped_range(n, start.0, start.0 + size).finish()?);
    }
    all.push(boot_status().finish()?);
    Ok(all)
}

/// Whether the user gave fields of a type.
pub(super) fn has_fields(spec: &SmbiosSpec, kind: u8) -> bool {
    match kind {
        0 => spec.firmware != Firmware::default(),
        1 => spec.system != System::default() || spec.uuid != [0; 16],
        2 => spec.board != Board::default(),
        3 => spec.chassis != Chassis::default(),
        4 => Socket { processor_id: 0, ..spec.socket.clone() } != Socket::default(),
        11 => !spec.oem_strings.is_empty(),
        17 => spec.memory_module != MemoryModule::default(),
        _ => false,
    }
}

fn or<'a>(given: &'a Option<String>, default: &'a str) -> &'a str {
    given.as_deref().unwrap_or(default)
}

fn firmware(spec: &SmbiosSpec) -> Draft {
    /// Below 1 MiB, as firmware of a PC.
    const START_SEGMENT: u16 = 0xe800;
    const CHARACTERISTICS_NOT_GIVEN: u64 = 1 << 3;
    /// Second extension byte: targeted content distribution, UEFI, virtual machine.
    const TARGETED: u8 = 1 << 2;
    const UEFI: u8 = 1 << 3;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    const NO_CONTROLLER: u8 = 0xff;
    let given = &spec.firmware;
    let (major, minor) = given.release.unwrap_or((0, 0));
    Draft::new(0, 0)
        .string(or(&given.vendor, &spec.manufacturer))
        .string(or(&given.version, &spec.version))
        .word(START_SEGMENT)
        .string(or(&given.date, DEFAULT_DATE))
        .byte(0)
        .qword(CHARACTERISTICS_NOT_GIVEN)
        .byte(0)
        .byte(TARGETED | VIRTUAL_MACHINE | if given.uefi { UEFI } else { 0 })
        .raw(&[major, minor, NO_CONTROLLER, NO_CONTROLLER])
}

fn system(spec: &SmbiosSpec) -> Draft {
    const POWER_SWITCH: u8 = 6;
    let given = &spec.system;
    Draft::new(1, 0x100)
        .string(or(&given.manufacturer, &spec.manufacturer))
        .string(or(&given.product, &spec.product))
        .string(or(&given.version, &spec.version))
        .string(or(&given.serial, ""))
        .raw(&wire_uuid(spec.uuid))
        .byte(POWER_SWITCH)
        .string(or(&given.sku, ""))
        .string(or(&given.family, ""))
}

/// The first three fields of a UUID are stored little-endian (7.2.1).
fn wire_uuid(uuid: [u8; 16]) -> [u8; 16] {
    let mut wire = uuid;
    wire[0..4].reverse();
    wire[4..6].reverse();
    wire[6..8].reverse();
    wire
}

fn board(spec: &SmbiosSpec) -> Draft {
    const HOSTING: u8 = 1;
    const MOTHERBOARD: u8 = 0x0a;
    let given = &spec.board;
    Draft::new(2, 0x200)
        .string(or(&given.manufacturer, &spec.manufacturer))
        .string(or(&given.product, &spec.product))
        .string(or(&given.version, &spec.version))
        .string(or(&given.serial, ""))
        .string(or(&given.asset, ""))
        .byte(HOSTING)
        .string(or(&given.location, ""))
        .word(CHASSIS_HANDLE)
        .byte(MOTHERBOARD)
        .byte(0)
}

fn chassis(spec: &SmbiosSpec) -> Draft {
    const OTHER: u8 = 1;
    const UNKNOWN: u8 = 2;
    const SAFE: u8 = 3;
    let given = &spec.chassis;
    Draft::new(3, CHASSIS_HANDLE)
        .string(or(&given.manufacturer, &spec.manufacturer))
        .byte(OTHER)
        .string(or(&given.version, &spec.version))
        .string(or(&given.serial, ""))
        .string(or(&given.asset, ""))
        .raw(&[SAFE, SAFE, SAFE, UNKNOWN])
        .dword(0)
        // Height, power cords, contained elements and their size.
        .raw(&[0, 0, 0, 0])
        .string(or(&given.sku, ""))
}

fn socket(spec: &SmbiosSpec, n: u16) -> Draft {
    const CENTRAL_PROCESSOR: u8 = 3;
    const OTHER: u8 = 1;
    /// Socket populated, processor enabled.
    const STATUS: u8 = 0x41;
    const UNKNOWN_CHARACTERISTICS: u16 = 1 << 1;
    let given = &spec.socket;
    // Counts of 255 and more stand in the words behind (7.5.6).
    let short = |count: u16| u8::try_from(count).unwrap_or(0xff);
    let (cores, threads) = (spec.sockets.cores, spec.sockets.threads);
    Draft::new(4, 0x400 + n)
        .string(&format!("{} {n}", or(&given.prefix, "CPU")))
        .raw(&[CENTRAL_PROCESSOR, OTHER])
        .string(or(&given.manufacturer, &spec.manufacturer))
        .qword(given.processor_id)
        .string(or(&given.version, &spec.version))
        .byte(0)
        .word(0)
        .word(given.max_speed.unwrap_or(DEFAULT_SPEED_MHZ))
        .word(given.current_speed.unwrap_or(DEFAULT_SPEED_MHZ))
        .raw(&[STATUS, OTHER])
        .word(NO_HANDLE)
        .word(NO_HANDLE)
        .word(NO_HANDLE)
        .string(or(&given.serial, ""))
        .string(or(&given.asset, ""))
        .string(or(&given.part, ""))
        .raw(&[short(cores), short(cores), short(threads)])
        .word(UNKNOWN_CHARACTERISTICS)
        .word(OTHER.into())
        .word(cores)
        .word(cores)
        .word(threads)
}

fn oem_strings(spec: &SmbiosSpec) -> Draft {
    let draft = Draft::new(11, 0xe00).byte(spec.oem_strings.len().min(255) as u8);
    spec.oem_strings.iter().fold(draft, |draft, text| draft.unnamed(text))
}

/// Sizes of the memory devices.
fn modules(ram: u64) -> Vec<u64> {
    let size = LEAST_MODULE.max(ram.div_ceil(MOST_MODULES).next_multiple_of(GIB));
    (0..ram.div_ceil(size)).map(|n| size.min(ram - n * size)).collect()
}

fn memory_array(ram: u64, modules: u16) -> Draft {
    const OTHER: u8 = 1;
    const SYSTEM_MEMORY: u8 = 3;
    const MULTI_BIT_ECC: u8 = 6;
    const SEE_EXTENDED: u32 = 0x8000_0000;
    let capacity = u32::try_from(ram / KIB).ok().filter(|capacity| *capacity < SEE_EXTENDED);
    Draft::new(16, ARRAY_HANDLE)
        .raw(&[OTHER, SYSTEM_MEMORY, MULTI_BIT_ECC])
        .dword(capacity.unwrap_or(SEE_EXTENDED))
        .word(NO_ERROR_HANDLE)
        .word(modules)
        .qword(if capacity.is_some() { 0 } else { ram })
}

fn memory_module(spec: &SmbiosSpec, n: u16, size: u64) -> Draft {
    const UNKNOWN_WIDTH: u16 = 0xffff;
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const OTHER: u16 = 1 << 1;
    const SEE_EXTENDED: u16 = 0x7fff;
    let given = &spec.memory_module;
    let mib = size.div_ceil(MIB);
    let short = u16::try_from(mib).ok().filter(|mib| *mib < SEE_EXTENDED);
    Draft::new(17, 0x1100 + n)
        .word(ARRAY_HANDLE)
        .word(NO_ERROR_HANDLE)
        .word(UNKNOWN_WIDTH)
        .word(UNKNOWN_WIDTH)
        .word(short.unwrap_or(SEE_EXTENDED))
        .raw(&[DIMM, 0])
        .string(&format!("{} {n}", or(&given.prefix, "DIMM")))
        .string(or(&given.bank, ""))
        .byte(RAM)
        .word(OTHER)
        .word(given.speed.unwrap_or(0))
        .string(or(&given.manufacturer, &spec.manufacturer))
        .string(or(&given.serial, ""))
        .string(or(&given.asset, ""))
        .string(or(&given.part, ""))
        .byte(0)
        .dword(if short.is_some() { 0 } else { mib as u32 })
        // Configured speed; least, greatest and configured voltage: unknown.
        .word(given.speed.unwrap_or(0))
        .raw(&[0; 6])
}

fn mapped_range(n: u16, start: u64, end: u64) -> Draft {
    const SEE_EXTENDED: u32 = 0xffff_ffff;
    let (first_kib, last_kib) = (start / KIB, (end - 1) / KIB);
    let short = u32::try_from(first_kib).ok().zip(u32::try_from(last_kib).ok().filter(|last| *last != SEE_EXTENDED));
    let (first, last) = short.unwrap_or((SEE_EXTENDED, SEE_EXTENDED));
    let extended = if short.is_some() { (0, 0) } else { (start, end - 1) };
    Draft::new(19, 0x1300 + n).dword(first).dword(last).word(ARRAY_HANDLE).byte(1).qword(extended.0).qword(extended.1)
}

fn boot_status() -> Draft {
    Draft::new(32, 0x2000).raw(&[0; 6]).byte(0)
}

/// The end of the table (7.45), whose form is fixed.
pub(super) fn end() -> Structure {
    Structure::fixed(&[END_OF_TABLE, 4, 0x00, 0x7f, 0, 0])
}
