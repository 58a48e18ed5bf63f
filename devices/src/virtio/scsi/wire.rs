//! What drivers and adapters send each other (section 5.6.6), as bytes.

use super::bus::ScsiAddress;
use crate::memory::RamView;
use crate::virtio::queue::{Chain, ChainError};

/// Response codes.
pub(super) mod response {
    pub(in super::super) const OK: u8 = 0;
    pub(in super::super) const OVERRUN: u8 = 1;
    pub(in super::super) const ABORTED: u8 = 2;
    pub(in super::super) const BAD_TARGET: u8 = 3;
    pub(in super::super) const RESET: u8 = 4;
    pub(in super::super) const FAILURE: u8 = 9;
    pub(in super::super) const FUNCTION_SUCCEEDED: u8 = 10;
    pub(in super::super) const FUNCTION_REJECTED: u8 = 11;
    pub(in super::super) const INCORRECT_LUN: u8 = 12;
}

/// Bytes of a request before the command block: address, tag, attribute, priority, reference number.
const REQUEST_HEAD: u32 = 19;
/// Bytes of a response before the sense data: its length, residual, qualifier, status, response.
pub(super) const RESPONSE_HEAD: u32 = 12;
/// Most bytes of a command block that are looked at.
const CDB_BYTES: usize = 32;

/// An address of section 5.6.6.1: one target, one unit by the simple or the flat method.
pub(super) fn address(field: [u8; 8]) -> Option<ScsiAddress> {
    let [one, target, high, low, ..] = field;
    let lun = match (one, high >> 6) {
        (1, 0 | 1) => u16::from_be_bytes([high & 0x3f, low]),
        _ => return None,
    };
    Some(ScsiAddress { target, lun })
}

/// The same the other way, as REPORT LUNS writes units' numbers: guests compare the two.
pub(super) fn address_field(address: ScsiAddress) -> [u8; 8] {
    let [a, b, ..] = crate::scsi::lun_field(address.lun);
    [1, address.target, a, b, 0, 0, 0, 0]
}

/// A command as the driver wrote it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub(super) lun: [u8; 8],
    pub(super) id: u64,
    cdb: [u8; CDB_BYTES],
    cdb_len: usize,
    /// Where the data for the unit begins in the readable part, and how much there is.
    pub(super) out_at: u32,
    pub(super) out_len: u32,
    /// The same for data from the unit, in the writable part.
    pub(super) in_at: u32,
    pub(super) in_len: u32,
}

impl Command {
    /// Reads a request's head; `sizes` are those of the command block and of the sense data, in bytes.
    pub(super) fn parse(chain: &Chain, ram: &RamView, sizes: (u32, u32)) -> Result<Self, ChainError> {
        let (cdb_size, sense_size) = sizes;
        let short = |wanted: u32, len| ChainError::Short { offset: 0, wanted: wanted as usize, len };
        let (out_at, in_at) = (REQUEST_HEAD + cdb_size, RESPONSE_HEAD + sense_size);
        let out_len = chain.readable_len().checked_sub(out_at).ok_or(short(out_at, chain.readable_len()))?;
        let in_len = chain.writable_len().checked_sub(in_at).ok_or(short(in_at, chain.writable_len()))?;
        let mut head = [0; REQUEST_HEAD as usize];
        chain.read(ram, 0, &mut head)?;
        let [a, b, c, d, e, f, g, h, i0, i1, i2, i3, i4, i5, i6, i7, _, _, _] = head;
        let mut cdb = [0; CDB_BYTES];
        let cdb_len = CDB_BYTES.min(cdb_size as usize);
        chain.read(ram, REQUEST_HEAD, cdb.get_mut(..cdb_len).unwrap_or_default())?;
        let lun = [a, b, c, d, e, f, g, h];
        let id = u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
        Ok(Self { lun, id, cdb, cdb_len, out_at, out_len, in_at, in_len })
    }

    /// The field of the command block.
    pub(super) fn cdb(&self) -> &[u8] {
        self.cdb.get(..self.cdb_len).unwrap_or_default()
    }
}

/// The head of a response.
pub(super) fn response_head(sense_len: usize, residual: u32, status: u8, code: u8) -> [u8; RESPONSE_HEAD as usize] {
    let mut head = [0; RESPONSE_HEAD as usize];
    head[..4].copy_from_slice(&u32::try_from(sense_len).unwrap_or(0).to_le_bytes());
    head[4..8].copy_from_slice(&residual.to_le_bytes());
    head[10] = status;
    head[11] = code;
    head
}
