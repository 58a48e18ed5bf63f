//! The ACPI Machine Language, as far as the machine's description needs it (ACPI 6.5, chapter 20).
//!
//! A term is its encoded bytes; terms are put together by functions that carry the names of ASL:
//!
//! ```text
//! device("RTC", &[name("_HID", eisa_id("PNP0B00")), name("_CRS", resources(&[io(0x70, 8, 1), irq(8)]))])
//! ```
//!
//! Names and sizes come from this crate, never from a user or a guest.

mod resource;

#[cfg(test)]
mod tests;

pub(super) use resource::{dword_memory, interrupts, io, irq, qword_memory, resources, word_bus_numbers, word_io};

/// One encoded term or term list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aml(Vec<u8>);

impl Aml {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const NAME_OP: u8 = 0x08;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const QWORD_PREFIX: u8 = 0x0e;
const SCOPE_OP: u8 = 0x10;
const BUFFER_OP: u8 = 0x11;
const PACKAGE_OP: u8 = 0x12;
const METHOD_OP: u8 = 0x14;
const DUAL_NAME_PREFIX: u8 = 0x2e;
const MULTI_NAME_PREFIX: u8 = 0x2f;
const EXT_PREFIX: u8 = 0x5b;
const EXT_REGION_OP: u8 = 0x80;
const EXT_FIELD_OP: u8 = 0x81;
const EXT_DEVICE_OP: u8 = 0x82;
const LOCAL0_OP: u8 = 0x60;
const ARG0_OP: u8 = 0x68;
const STORE_OP: u8 = 0x70;
const AND_OP: u8 = 0x7b;
const OR_OP: u8 = 0x7d;
const NOTIFY_OP: u8 = 0x86;
const CREATE_DWORD_FIELD_OP: u8 = 0x8a;
const IF_OP: u8 = 0xa0;
const RETURN_OP: u8 = 0xa4;

fn join(parts: &[Aml]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.0.iter().copied()).collect()
}

/// `PkgLength` and what it counts, itself included (20.2.4).
fn package_length(content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let encoded = match len {
        0..=0x3e => vec![(len + 1) as u8],
        0x3f..=0xffd => long_length(len + 2, 1),
        0xffe..=0xf_fffc => long_length(len + 3, 2),
        _ => long_length(len + 4, 3),
    };
    [&encoded, content].concat()
}

fn long_length(total: usize, following: u8) -> Vec<u8> {
    let mut bytes = vec![following << 6 | (total & 0xf) as u8];
    bytes.extend((0..following).map(|n| (total >> (4 + 8 * n)) as u8));
    bytes
}

/// A name or path; segments are padded with underscores (20.2.2).
pub(super) fn path(name: &str) -> Aml {
    let mut bytes = Vec::new();
    let relative = name.trim_start_matches(['\\', '^']);
    bytes.extend_from_slice(&name.as_bytes()[..name.len() - relative.len()]);
    let segments: Vec<&str> = relative.split('.').filter(|segment| !segment.is_empty()).collect();
    match segments.len() {
        0 => bytes.push(ZERO_OP),
        1 => {}
        2 => bytes.push(DUAL_NAME_PREFIX),
        count => bytes.extend([MULTI_NAME_PREFIX, count as u8]),
    }
    for segment in segments {
        debug_assert!(segment.len() <= 4, "{segment} is longer than a name segment");
        bytes.extend(segment.bytes().chain(std::iter::repeat(b'_')).take(4));
    }
    Aml(bytes)
}

/// An integer in its shortest encoding (20.2.3).
pub(super) fn integer(value: u64) -> Aml {
    let bytes = value.to_le_bytes();
    let encode = |prefix: u8, width: usize| [&[prefix], &bytes[..width]].concat();
    Aml(match value {
        0 => vec![ZERO_OP],
        1 => vec![ONE_OP],
        2..=0xff => encode(BYTE_PREFIX, 1),
        0x100..=0xffff => encode(WORD_PREFIX, 2),
        0x1_0000..=0xffff_ffff => encode(DWORD_PREFIX, 4),
        _ => encode(QWORD_PREFIX, 8),
    })
}

pub(super) fn string(text: &str) -> Aml {
    Aml([&[STRING_PREFIX], text.as_bytes(), &[0]].concat())
}

/// The compressed form of a seven-character Plug and Play identifier (19.3.4).
pub(super) fn eisa_id(id: &str) -> Aml {
    let letter = |at: usize| id.as_bytes().get(at).map_or(0, |byte| u32::from(byte - 0x40) & 0x1f);
    let digits = id.get(3..).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0);
    let value = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | digits & 0xffff;
    Aml([&[DWORD_PREFIX][..], &value.swap_bytes().to_le_bytes()].concat())
}

pub(super) fn name(name: &str, value: Aml) -> Aml {
    Aml([&[NAME_OP][..], &path(name).0, &value.0].concat())
}

pub(super) fn package(elements: &[Aml]) -> Aml {
    let count = elements.len() as u8;
    debug_assert!(elements.len() <= 255, "a package of {} elements", elements.len());
    Aml([&[PACKAGE_OP][..], &package_length(&[&[count][..], &join(elements)].concat())].concat())
}

fn buffer(bytes: &[u8]) -> Aml {
    let size = integer(bytes.len() as u64);
    Aml([&[BUFFER_OP][..], &package_length(&[&size.0, bytes].concat())].concat())
}

pub(super) fn scope(name: &str, terms: &[Aml]) -> Aml {
    Aml([&[SCOPE_OP][..], &package_length(&[path(name).0, join(terms)].concat())].concat())
}

pub(super) fn device(name: &str, terms: &[Aml]) -> Aml {
    Aml([&[EXT_PREFIX, EXT_DEVICE_OP][..], &package_length(&[path(name).0, join(terms)].concat())].concat())
}

/// A method that is not serialized, with `arguments` (at most 7).
pub(super) fn method(name: &str, arguments: u8, terms: &[Aml]) -> Aml {
    encode_method(name, arguments & 7, terms)
}

/// A serialized method: one that creates named objects must be (19.6.85).
pub(super) fn serialized_method(name: &str, arguments: u8, terms: &[Aml]) -> Aml {
    encode_method(name, arguments & 7 | 8, terms)
}

fn encode_method(name: &str, flags: u8, terms: &[Aml]) -> Aml {
    Aml([&[METHOD_OP][..], &package_length(&[path(name).0, vec![flags], join(terms)].concat())].concat())
}

/// Where an operation region's bytes are (5.5.2.4).
#[derive(Clone, Copy)]
pub(super) enum Space {
    SystemIo = 1,
    PciConfig = 2,
}

pub(super) fn region(name: &str, space: Space, offset: u64, length: u64) -> Aml {
    let head = [EXT_PREFIX, EXT_REGION_OP];
    Aml([&head[..], &path(name).0, &[space as u8], &integer(offset).0, &integer(length).0].concat())
}

/// Byte-wide fields in succession, accessed byte by byte, other bits preserved.
pub(super) fn byte_fields(region: &str, names: &[&str]) -> Aml {
    const BYTE_ACCESS_PRESERVE: u8 = 1;
    fields(region, BYTE_ACCESS_PRESERVE, 8, names)
}

/// 32-bit fields in succession, each accessed as a whole.
pub(super) fn dword_fields(region: &str, names: &[&str]) -> Aml {
    const DWORD_ACCESS_PRESERVE: u8 = 3;
    fields(region, DWORD_ACCESS_PRESERVE, 32, names)
}

/// Fields of `bits` (fewer than 64) each; `flags` say how they are accessed (20.2.5.2).
fn fields(region: &str, flags: u8, bits: u8, names: &[&str]) -> Aml {
    let fields: Vec<u8> = names.iter().flat_map(|name| [path(name).0, vec![bits]].concat()).collect();
    let content = [path(region).0, vec![flags], fields].concat();
    Aml([&[EXT_PREFIX, EXT_FIELD_OP][..], &package_length(&content)].concat())
}

/// Names the 32-bit word at byte `offset` of a buffer.
pub(super) fn create_dword_field(buffer: Aml, offset: u64, name: &str) -> Aml {
    Aml([&[CREATE_DWORD_FIELD_OP][..], &buffer.0, &integer(offset).0, &path(name).0].concat())
}

pub(super) fn local0() -> Aml {
    Aml(vec![LOCAL0_OP])
}

pub(super) fn arg0() -> Aml {
    Aml(vec![ARG0_OP])
}

pub(super) fn store(value: Aml, target: Aml) -> Aml {
    Aml([&[STORE_OP][..], &value.0, &target.0].concat())
}

/// `a & b`, stored nowhere.
pub(super) fn and(a: Aml, b: Aml) -> Aml {
    Aml([&[AND_OP][..], &a.0, &b.0, &[ZERO_OP]].concat())
}

/// `a | b`, stored in `target`.
pub(super) fn or(a: Aml, b: Aml, target: Aml) -> Aml {
    Aml([&[OR_OP][..], &a.0, &b.0, &target.0].concat())
}

/// Tells the driver of `device` of an event (5.6.6).
pub(super) fn notify(device: Aml, event: Aml) -> Aml {
    Aml([&[NOTIFY_OP][..], &device.0, &event.0].concat())
}

pub(super) fn if_(condition: Aml, terms: &[Aml]) -> Aml {
    Aml([&[IF_OP][..], &package_length(&[condition.0, join(terms)].concat())].concat())
}

pub(super) fn return_(value: Aml) -> Aml {
    Aml([&[RETURN_OP][..], &value.0].concat())
}
