//! Answers of a target rather than of a unit: which units there are, and for those that are not.

use super::cdb::Cdb;
use super::plan::Reply;
use super::sense::{self, Sense};

/// REPORT LUNS (SPC-5, 6.33) of a target with these units, in ascending order.
///
/// # Errors
/// [`sense::INVALID_FIELD`].
pub fn report_luns(cdb: &Cdb, luns: &[u16]) -> Result<Reply, Sense> {
    let allocation = cdb.length(6, 4);
    // SELECT REPORT: units, well-known units (of which there are none), or both.
    let luns = match cdb.byte(2) {
        0 | 2 => luns,
        1 => &[],
        _ => return Err(sense::INVALID_FIELD),
    };
    if allocation < 16 {
        return Err(sense::INVALID_FIELD);
    }
    let mut data = u32::try_from(luns.len() * 8).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    data.extend([0; 4]);
    for &lun in luns {
        data.extend(lun_field(lun));
    }
    Ok(Reply::data(data, allocation))
}

/// A unit's number as SAM-6, 4.7.5 has it: simple up to 255, flat above.
#[must_use]
pub(crate) fn lun_field(lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    let method = if lun < 256 { 0 } else { 0x40 };
    [method | (high & 0x3f), low, 0, 0, 0, 0, 0, 0]
}

/// The answer to a command for a unit that does not exist on a target that does (SPC-5, 6.6 and SAM-6, 4.7.4).
#[must_use]
pub fn no_such_unit(cdb: &Cdb, luns: &[u16]) -> Reply {
    match cdb.opcode() {
        0x12 if cdb.byte(1) == 0 && cdb.byte(2) == 0 => {
            // Qualifier 3 and type 0x1f: there can be no such unit.
            let mut data = vec![0x7f, 0, 5, 2, 31, 0, 0, 0];
            data.resize(36, 0);
            Reply::data(data, cdb.length(3, 2))
        }
        0xa0 => report_luns(cdb, luns).unwrap_or_else(Reply::check),
        0x03 => Reply::data(sense::NO_LUN.fixed().to_vec(), cdb.length(4, 1)),
        _ => Reply::check(sense::NO_LUN),
    }
}
