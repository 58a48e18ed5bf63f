//! A block request as the driver wrote it (section 5.2.6), checked before anything of it reaches the image.

use std::ops::Range;

use super::config::MAX_RANGE_SECTORS;
use super::{MAX_SEGMENTS, SECTOR};
use crate::memory::RamView;
use crate::virtio::queue::{Chain, ChainError};

/// Length of `struct virtio_blk_req` before the data: type, reserved, sector.
pub(super) const HEADER: u32 = 16;
/// Length of the status byte after the data.
pub(super) const STATUS: u32 = 1;
/// Length of `struct virtio_blk_discard_write_zeroes`.
const SEGMENT: u32 = 16;
/// Flag of a write-zeroes segment: the range may be unmapped.
const UNMAP: u32 = 1;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// Values of the status byte.
pub(super) mod result {
    pub(in super::super) const OK: u8 = 0;
    pub(in super::super) const IOERR: u8 = 1;
    pub(in super::super) const UNSUPP: u8 = 2;
}

/// What a driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    GetId,
}

/// A request that may go ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) kind: Kind,
    /// First byte on the disk, for reads and writes.
    pub(super) offset: u64,
    /// Bytes of data in the chain.
    pub(super) data: u32,
}

/// A request that may not: the status the driver gets, and what it was, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u8,
    pub(super) kind: Option<Kind>,
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Size of the disk in sectors of 512 bytes.
    pub(super) capacity: u64,
    /// Unit of reads, writes, discards and zeroes, in bytes.
    pub(super) block: u32,
    pub(super) read_only: bool,
}

impl Limits {
    /// Whether a range has whole blocks only.
    fn is_whole(&self, range: &Range<u64>) -> bool {
        let block = u64::from(self.block);
        range.start.is_multiple_of(block) && range.end.is_multiple_of(block)
    }
}

/// One range of a discard or write-zeroes request, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) unmap: bool,
}

/// Reads the header, wherever the driver split it.
///
/// # Errors
/// Outside: the chain cannot be a request at all. Inside: the driver gets a status.
pub(super) fn parse(chain: &Chain, ram: &RamView, limits: &Limits) -> Result<Result<Parsed, Refused>, ChainError> {
    let mut header = [0; HEADER as usize];
    chain.read(ram, 0, &mut header)?;
    if chain.writable_len() < STATUS {
        return Err(ChainError::Short { offset: 0, wanted: STATUS as usize, len: chain.writable_len() });
    }
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let kind = match u32::from_le_bytes([t0, t1, t2, t3]) {
        T_IN => Kind::Read,
        T_OUT => Kind::Write,
        T_FLUSH => Kind::Flush,
        T_GET_ID => Kind::GetId,
        T_DISCARD => Kind::Discard,
        T_WRITE_ZEROES => Kind::WriteZeroes,
        _ => return Ok(Err(Refused { status: result::UNSUPP, kind: None })),
    };
    Ok(check(kind, u64::from_le_bytes(sector), chain, limits))
}

fn check(kind: Kind, sector: u64, chain: &Chain, limits: &Limits) -> Result<Parsed, Refused> {
    let refused = Refused { status: result::IOERR, kind: Some(kind) };
    let data = match kind {
        Kind::Read | Kind::GetId => chain.writable_len() - STATUS,
        _ => chain.readable_len() - HEADER,
    };
    let writes = matches!(kind, Kind::Write | Kind::Discard | Kind::WriteZeroes);
    if writes && limits.read_only {
        return Err(refused);
    }
    let mut offset = 0;
    if matches!(kind, Kind::Read | Kind::Write) {
        let range = bytes(sector, u64::from(data), limits.capacity);
        offset = range.filter(|range| limits.is_whole(range)).ok_or(refused)?.start;
    }
    Ok(Parsed { kind, offset, data })
}

/// Reads and checks the ranges of a discard or write-zeroes request: all of them before the first is carried out.
pub(super) fn segments(
    chain: &Chain,
    ram: &RamView,
    parsed: &Parsed,
    limits: &Limits,
    into: &mut Vec<Segment>,
) -> Result<(), Refused> {
    let refused = |status| Refused { status, kind: Some(parsed.kind) };
    let count = parsed.data / SEGMENT;
    if count == 0 || count > MAX_SEGMENTS || !parsed.data.is_multiple_of(SEGMENT) {
        return Err(refused(result::IOERR));
    }
    into.clear();
    for n in 0..count {
        let mut segment = [0; SEGMENT as usize];
        chain.read(ram, HEADER + n * SEGMENT, &mut segment).map_err(|_| refused(result::IOERR))?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = segment;
        let flags = u32::from_le_bytes(flags);
        let may_unmap = parsed.kind == Kind::WriteZeroes;
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let range = (sectors <= MAX_RANGE_SECTORS)
            .then(|| bytes(sector, u64::from(sectors) * SECTOR, limits.capacity))
            .flatten()
            .filter(|range| limits.is_whole(range))
            .ok_or(refused(result::IOERR))?;
        // Section 5.2.6.2: an unknown flag, and unmap of a discard, are not supported. QEMU looks at the range first.
        if flags & !UNMAP != 0 || (flags & UNMAP != 0 && !may_unmap) {
            return Err(refused(result::UNSUPP));
        }
        into.push(Segment { offset: range.start, len: range.end - range.start, unmap: flags & UNMAP != 0 });
    }
    Ok(())
}

/// The bytes that `len` bytes from `sector` are, if the disk has them.
fn bytes(sector: u64, len: u64, capacity: u64) -> Option<Range<u64>> {
    let start = sector.checked_mul(SECTOR)?;
    let end = start.checked_add(len)?;
    (end <= capacity.checked_mul(SECTOR)?).then_some(start..end)
}
