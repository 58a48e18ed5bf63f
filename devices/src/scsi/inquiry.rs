//! INQUIRY (SPC-5, 6.6) and the vital product data pages (7.7; SBC-4, 6.6).

use super::cdb::Cdb;
use super::commands::Run;
use super::disk;
use super::plan::{Plan, Reply};
use super::sense::{self, Sense};
use super::unit::{LogicalUnit, UnitKind};

/// SPC-3: what guests are told to expect.
const VERSION: u8 = 5;
/// Documents that a disk keeps to, none by a draft's number: SAM-4, SPC-3 and SBC-3 (SPC-5, table 150).
const VERSIONS: [u16; 3] = [0x0080, 0x0300, 0x04c0];
/// Where they begin, and how much of the data there is with the most of them (SPC-5, 6.6.2).
const VERSIONS_AT: usize = 58;
const VERSIONS_END: usize = 74;
/// Most bytes of a serial number.
const SERIAL_BYTES: usize = 36;
/// Most bytes of a device identifier.
const ID_BYTES: usize = 247;
/// Bytes of a page before its body: type of device, page code, length.
const HEADER: usize = 4;

fn device_type(unit: &LogicalUnit) -> u8 {
    match unit.config.kind {
        UnitKind::Disk => 0x00,
        UnitKind::Cd => 0x05,
    }
}

pub(super) fn run(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let allocation = cdb.length(3, 2);
    let data = match (cdb.has(1, 1), cdb.byte(2)) {
        (true, page) => vpd(run, page).ok_or(sense::INVALID_FIELD)?,
        (false, 0) => standard(run.unit),
        (false, _) => return Err(sense::INVALID_FIELD),
    };
    Ok(Reply::data(data, allocation).into())
}

/// Text in a field of fixed length, padded with spaces (SPC-5, 4.3.1).
pub(super) fn padded(text: &str, len: usize) -> impl Iterator<Item = u8> + '_ {
    let printable = |byte: u8| if matches!(byte, 0x20..=0x7e) { byte } else { b' ' };
    text.bytes().map(printable).chain(std::iter::repeat(b' ')).take(len)
}

fn standard(unit: &LogicalUnit) -> Vec<u8> {
    let config = &unit.config;
    let removable = if config.removable { 0x80 } else { 0 };
    // Command queuing and synchronous transfer.
    let queuing = if config.atapi { 0 } else { 0x12 };
    // HISUP and format 2; a length, for later.
    let mut data = vec![device_type(unit), removable, VERSION, 0x12, 0, 0, 0, queuing];
    data.extend(padded(&config.vendor, 8));
    data.extend(padded(&config.product, 16));
    data.extend(padded(&config.version, 4));
    if config.kind == UnitKind::Disk {
        data.resize(VERSIONS_AT, 0);
        data.extend(VERSIONS.iter().flat_map(|version| version.to_be_bytes()));
        data.resize(VERSIONS_END, 0);
    }
    let rest = u8::try_from(data.len() - 5).unwrap_or(0);
    if let Some(len) = data.get_mut(4) {
        *len = rest;
    }
    data
}

fn vpd(run: &Run<'_>, page: u8) -> Option<Vec<u8>> {
    let unit = run.unit;
    let body = match page {
        0x00 => pages(unit),
        0x80 if !unit.config.serial.is_empty() => unit.config.serial.bytes().take(SERIAL_BYTES).collect(),
        0x83 => identification(unit),
        _ if unit.config.kind == UnitKind::Disk => disk::vpd(run, page)?,
        _ => return None,
    };
    let mut data = vec![device_type(unit), page];
    data.extend(u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    debug_assert_eq!(data.len(), HEADER);
    data.extend(body);
    Some(data)
}

fn pages(unit: &LogicalUnit) -> Vec<u8> {
    let mut pages = vec![0x00];
    if !unit.config.serial.is_empty() {
        pages.push(0x80);
    }
    pages.push(0x83);
    if unit.config.kind == UnitKind::Disk {
        pages.extend(disk::VPD_PAGES);
    }
    pages
}

/// Device identification (SPC-5, 7.7.6).
fn identification(unit: &LogicalUnit) -> Vec<u8> {
    let config = &unit.config;
    let mut data = Vec::new();
    let serial = Some(&config.serial).filter(|serial| !serial.is_empty());
    if let Some(id) = config.device_id.as_ref().or(serial) {
        // ASCII, vendor specific, of the unit.
        let id: Vec<u8> = id.bytes().take(ID_BYTES).collect();
        data.extend([0x02, 0x00, 0x00, u8::try_from(id.len()).unwrap_or(0)]);
        data.extend(id);
    }
    if config.wwn != 0 {
        data.extend([0x01, 0x03, 0x00, 8]);
        data.extend(config.wwn.to_be_bytes());
    }
    if config.port_wwn != 0 {
        // SAS, of the target port.
        data.extend([0x61, 0x93, 0x00, 8]);
        data.extend(config.port_wwn.to_be_bytes());
    }
    if config.port_index != 0 {
        data.extend([0x61, 0x94, 0x00, 4, 0, 0]);
        data.extend(config.port_index.to_be_bytes());
    }
    data
}
