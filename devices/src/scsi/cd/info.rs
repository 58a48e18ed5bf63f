//! What is known of a disc: READ DISC INFORMATION, READ TRACK INFORMATION, MECHANISM STATUS, READ DISC STRUCTURE.

use super::{address, is_dvd, sectors};
use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::plan::{Plan, Reply};
use crate::scsi::sense::{self, Sense, key};

/// A DVD command with a CD in the drive.
const INCOMPATIBLE: Sense = Sense { key: key::ILLEGAL_REQUEST, asc: 0x30, ascq: 0x02, information: None, field: None };
/// First sector of a DVD's data, as its control data counts (MMC-6, 6.23.3.2.1).
const DVD_START: u32 = 0x03_0000;

/// READ DISC INFORMATION (MMC-6, 6.21): finished, with one session of one track.
pub(super) fn disc(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    if cdb.byte(1) & 7 != 0 {
        return Err(sense::INVALID_FIELD);
    }
    let mut data = vec![0, 32, 0x0e, 1, 1, 1, 1, 0x20, 0];
    data.resize(34, 0);
    Ok(Reply::data(data, cdb.length(7, 2)).into())
}

/// READ TRACK INFORMATION (MMC-6, 6.26).
pub(super) fn track(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let sectors = sectors(run)?;
    let there = match (cdb.byte(1) & 3, cdb.be(2, 4)) {
        (0, lba) => lba < sectors,
        (1 | 2, number) => number == 1,
        _ => false,
    };
    if !there {
        return Err(sense::INVALID_FIELD);
    }
    // A data track (4) of mode 1 in session 1, from sector 0; its last address is valid.
    let mut data = vec![0, 34, 1, 1, 0, 4, 1, 2];
    data.resize(24, 0);
    data.extend(address(sectors).to_be_bytes());
    data.extend(address(sectors.saturating_sub(1)).to_be_bytes());
    data.resize(36, 0);
    Ok(Reply::data(data, cdb.length(7, 2)).into())
}

/// MECHANISM STATUS (MMC-6, 6.10): no changer, no slots.
pub(super) fn mechanism(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let door = if run.state.tray.open { 0x10 } else { 0 };
    Ok(Reply::data(vec![0, door, 0, 0, 0, 1, 0, 0], cdb.length(8, 2)).into())
}

/// READ DISC STRUCTURE (MMC-6, 6.23) of a DVD.
pub(super) fn dvd_structure(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let sectors = sectors(run)?;
    let format = cdb.byte(7);
    if cdb.byte(1) & 0xf != 0 {
        return Err(sense::INVALID_FIELD);
    }
    if format != 0xff && !is_dvd(sectors) {
        return Err(INCOMPATIBLE);
    }
    let body = match format {
        0x00 => physical(cdb.byte(6), address(sectors))?,
        // Copyright: none.
        0x01 => vec![0; 4],
        // Manufacturer: untold.
        0x04 => vec![0; 2048],
        // The formats there are, each readable, with their lengths.
        0xff => vec![0x00, 0x40, 0x08, 0x04, 0x01, 0x40, 0x00, 0x08, 0x04, 0x40, 0x08, 0x04],
        _ => return Err(sense::INVALID_FIELD),
    };
    let mut data = u16::try_from(body.len() + 2).unwrap_or(0).to_be_bytes().to_vec();
    data.extend([0; 2]);
    data.extend(body);
    Ok(Reply::data(data, cdb.length(8, 2)).into())
}

/// Physical format of the one layer.
fn physical(layer: u8, sectors: u32) -> Result<Vec<u8>, Sense> {
    if layer != 0 {
        return Err(sense::INVALID_FIELD);
    }
    let last = DVD_START.saturating_add(sectors.saturating_sub(1));
    // DVD-ROM, version 1; 120 mm, rate untold; one layer, embossed; normal density.
    let mut body = vec![0x01, 0x0f, 0x01, 0x00];
    for address in [DVD_START, last, 0] {
        body.extend(address.to_be_bytes());
    }
    body.resize(2048, 0);
    Ok(body)
}
