//! READ TOC/PMA/ATIP (MMC-6, 6.25): one session with one data track, and the lead-out.

use super::{address, sectors};
use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::plan::{Plan, Reply};
use crate::scsi::sense::{self, Sense};

/// ADR 1, control 4: a data track.
const DATA_TRACK: u8 = 0x14;
/// Track number of the lead-out.
const LEAD_OUT: u8 = 0xaa;

/// Minute, second and frame of a sector: two seconds go before sector 0 (MMC-6, 4.2.3.7).
pub(super) fn msf(lba: u32) -> [u8; 3] {
    let frames = u64::from(lba) + 150;
    let part = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    [part(frames / (75 * 60)), part(frames / 75 % 60), part(frames % 75)]
}

/// A sector's address as the command wants it.
fn place(lba: u32, in_msf: bool) -> [u8; 4] {
    if in_msf {
        let [minute, second, frame] = msf(lba);
        [0, minute, second, frame]
    } else {
        lba.to_be_bytes()
    }
}

pub(super) fn read(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let end = address(sectors(run)?);
    let in_msf = cdb.has(1, 0x02);
    // Early drives had the format in the control byte's top bits.
    let format = if cdb.byte(2) & 0xf == 0 { cdb.byte(9) >> 6 } else { cdb.byte(2) & 0xf };
    let start = cdb.byte(6);
    let list = match format {
        0 => tracks(start, end, in_msf)?,
        1 => [&[0, DATA_TRACK, 1, 0][..], &place(0, in_msf)].concat(),
        2 => raw(end),
        _ => return Err(sense::INVALID_FIELD),
    };
    let mut data = u16::try_from(list.len() + 2).unwrap_or(0).to_be_bytes().to_vec();
    data.extend([1, 1]);
    data.extend(list);
    Ok(Reply::data(data, cdb.length(7, 2)).into())
}

/// Tracks from number `start`, then the lead-out.
fn tracks(start: u8, end: u32, in_msf: bool) -> Result<Vec<u8>, Sense> {
    if start > 1 && start != LEAD_OUT {
        return Err(sense::INVALID_FIELD);
    }
    let mut list = Vec::new();
    if start <= 1 {
        list.extend([0, DATA_TRACK, 1, 0]);
        list.extend(place(0, in_msf));
    }
    list.extend([0, DATA_TRACK, LEAD_OUT, 0]);
    list.extend(place(end, in_msf));
    Ok(list)
}

/// The lead-in as it is on the disc: first track, last track, lead-out, then the track itself.
fn raw(end: u32) -> Vec<u8> {
    let entry = |point: u8, address: [u8; 3]| {
        let [minute, second, frame] = address;
        [1, DATA_TRACK, 0, point, 0, 0, 0, 0, minute, second, frame]
    };
    [entry(0xa0, [1, 0, 0]), entry(0xa1, [1, 0, 0]), entry(0xa2, msf(end)), entry(1, msf(0))].concat()
}

/// READ HEADER of MMC-1: the address of a block of mode 1.
pub(super) fn header(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let lba = cdb.be(2, 4);
    super::range(run, lba, 1)?;
    let mut data = vec![1, 0, 0, 0];
    data.extend(place(address(lba), cdb.has(1, 0x02)));
    Ok(Reply::data(data, cdb.length(7, 2)).into())
}
