//! Resource descriptors (ACPI 6.5, 6.4).

use std::ops::Range;

use super::{Aml, buffer, join};

const IO_PORT: u8 = 0x47;
const IRQ_NO_FLAGS: u8 = 0x22;
const END_TAG: u8 = 0x79;
const EXTENDED_INTERRUPT: u8 = 0x89;
const DWORD_SPACE: u8 = 0x87;
const WORD_SPACE: u8 = 0x88;
const QWORD_SPACE: u8 = 0x8a;

const SPACE_MEMORY: u8 = 0;
const SPACE_IO: u8 = 1;
const SPACE_BUS: u8 = 2;
/// Minimum and maximum are fixed; the range is decoded positively and produced for devices below.
const MIN_MAX_FIXED: u8 = 1 << 2 | 1 << 3;
const READ_WRITE: u8 = 1;
const CACHEABLE: u8 = 1 << 1;
const ENTIRE_IO_RANGE: u8 = 3;

/// A buffer of descriptors with its end tag; a checksum of zero counts as right (6.4.2.9).
pub(in super::super) fn resources(descriptors: &[Aml]) -> Aml {
    let mut bytes = join(descriptors);
    bytes.extend([END_TAG, 0]);
    buffer(&bytes)
}

/// `length` ports from `base`, 16-bit decoded.
pub(in super::super) fn io(base: u16, length: u8, align: u8) -> Aml {
    let [low, high] = base.to_le_bytes();
    Aml(vec![IO_PORT, 1, low, high, low, high, align, length])
}

/// One edge-triggered ISA interrupt, 0 to 15.
pub(in super::super) fn irq(number: u8) -> Aml {
    let [low, high] = (1u16 << (number & 15)).to_le_bytes();
    Aml(vec![IRQ_NO_FLAGS, low, high])
}

/// One of several level-triggered, active-high, shared interrupts.
pub(in super::super) fn interrupts(numbers: &[u32]) -> Aml {
    const CONSUMER_LEVEL_HIGH_SHARED: u8 = 1 << 0 | 1 << 3;
    let mut bytes = vec![EXTENDED_INTERRUPT];
    bytes.extend((2 + 4 * numbers.len() as u16).to_le_bytes());
    bytes.extend([CONSUMER_LEVEL_HIGH_SHARED, numbers.len() as u8]);
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    Aml(bytes)
}

pub(in super::super) fn word_bus_numbers(first: u16, last: u16) -> Aml {
    space(WORD_SPACE, SPACE_BUS, 0, 2, first.into()..u64::from(last) + 1)
}

pub(in super::super) fn word_io(ports: Range<u32>) -> Aml {
    space(WORD_SPACE, SPACE_IO, ENTIRE_IO_RANGE, 2, ports.start.into()..ports.end.into())
}

/// A memory window below 4 GiB, not empty.
pub(in super::super) fn dword_memory(range: Range<u64>, cacheable: bool) -> Aml {
    space(DWORD_SPACE, SPACE_MEMORY, READ_WRITE | if cacheable { CACHEABLE } else { 0 }, 4, range)
}

/// A memory window anywhere, not empty.
pub(in super::super) fn qword_memory(range: Range<u64>) -> Aml {
    space(QWORD_SPACE, SPACE_MEMORY, READ_WRITE | CACHEABLE, 8, range)
}

/// An address space descriptor of granularity 0 and translation 0.
fn space(tag: u8, kind: u8, flags: u8, width: usize, range: Range<u64>) -> Aml {
    let mut bytes = vec![tag];
    bytes.extend((3 + 5 * width as u16).to_le_bytes());
    bytes.extend([kind, MIN_MAX_FIXED, flags]);
    for value in [0, range.start, range.end - 1, 0, range.end - range.start] {
        bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    Aml(bytes)
}
