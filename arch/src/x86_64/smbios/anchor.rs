//! The entry point, by which an operating system finds the tables (DSP0134, 5.2).

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::SmbiosError;
use super::structure::Structure;

/// The form of the entry point (`smbios-entry-point-type`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EntryPoint {
    /// 32-bit, version 2.8: tables up to 64 KiB, below 4 GiB.
    #[default]
    V2,
    /// 64-bit, version 3.0.
    V3,
}

/// Anchors are searched at multiples of this.
const ANCHOR_ALIGN: u64 = 16;
const V2_LEN: usize = 31;
const V3_LEN: usize = 24;
/// The second part of the 2.x anchor has a checksum of its own.
const V2_SECOND: usize = 16;

/// Anchor and tables, not yet at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smbios {
    entry_point: EntryPoint,
    tables: Vec<u8>,
    count: u16,
    longest: u16,
}

impl Smbios {
    pub(super) fn new(structures: &[Structure], entry_point: EntryPoint) -> Result<Self, SmbiosError> {
        let available = match entry_point {
            EntryPoint::V2 => usize::from(u16::MAX),
            EntryPoint::V3 => i32::MAX as usize,
        };
        let tables: Vec<u8> = structures.iter().flat_map(|structure| structure.bytes().iter().copied()).collect();
        if tables.len() > available {
            return Err(SmbiosError::TooLong { needed: tables.len(), available });
        }
        let longest = structures.iter().map(|structure| structure.bytes().len()).max().unwrap_or(0);
        let count = u16::try_from(structures.len()).unwrap_or(u16::MAX);
        Ok(Self { entry_point, tables, count, longest: longest.min(usize::from(u16::MAX)) as u16 })
    }

    /// The structures, one behind another.
    pub fn tables(&self) -> &[u8] {
        &self.tables
    }

    /// The anchor of tables at `address`, which is below 4 GiB for [`EntryPoint::V2`].
    pub fn anchor(&self, address: u64) -> Vec<u8> {
        match self.entry_point {
            EntryPoint::V2 => self.anchor_v2(address as u32),
            EntryPoint::V3 => self.anchor_v3(address),
        }
    }

    fn anchor_v2(&self, address: u32) -> Vec<u8> {
        const BCD_REVISION: u8 = 0x28;
        let mut bytes = [&b"_SM_\0"[..], &[V2_LEN as u8, 2, 8]].concat();
        bytes.extend(self.longest.to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(b"_DMI_\0");
        bytes.extend((self.tables.len() as u16).to_le_bytes());
        bytes.extend(address.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.push(BCD_REVISION);
        bytes[V2_SECOND + 5] = complement(&bytes[V2_SECOND..]);
        bytes[4] = complement(&bytes);
        bytes
    }

    fn anchor_v3(&self, address: u64) -> Vec<u8> {
        const REVISION: u8 = 1;
        let mut bytes = [&b"_SM3_\0"[..], &[V3_LEN as u8, 3, 0, 0, REVISION, 0]].concat();
        bytes.extend((self.tables.len() as u32).to_le_bytes());
        bytes.extend(address.to_le_bytes());
        bytes[5] = complement(&bytes);
        bytes
    }

    /// Writes anchor and tables into `area`, a part of the BIOS segment, and gives the first byte behind them.
    ///
    /// # Errors
    /// They do not fit, or there is no memory.
    pub fn place<M: GuestMemoryBackend>(&self, mem: &M, area: Range<u64>) -> Result<GuestAddress, SmbiosError> {
        let anchor = area.start.next_multiple_of(ANCHOR_ALIGN);
        let tables = anchor + (V2_LEN.max(V3_LEN) as u64).next_multiple_of(ANCHOR_ALIGN);
        let end = tables + self.tables.len() as u64;
        if end > area.end {
            let (needed, available) = ((end - area.start) as usize, (area.end - area.start) as usize);
            return Err(SmbiosError::TooLong { needed, available });
        }
        mem.write_slice(&self.anchor(tables), GuestAddress(anchor)).map_err(SmbiosError::Memory)?;
        mem.write_slice(&self.tables, GuestAddress(tables)).map_err(SmbiosError::Memory)?;
        Ok(GuestAddress(end))
    }
}

/// The byte that makes the sum zero.
fn complement(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}
