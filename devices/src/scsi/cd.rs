//! CD and DVD drives (MMC-6): one data track in one session.
//!
//! ```text
//!          open (host or guest)             insert, remove (host)
//!   closed ───────────────────▶ open ◀──────────────────────────┐
//!     ▲        close            │ └─────────────────────────────┘
//!     └─────────────────────────┘
//! ```

mod events;
mod features;
mod info;
mod pages;
mod toc;
pub(super) mod tray;

use super::bounce::Bounce;
use super::cdb::Cdb;
use super::commands::{Command, Run};
use super::plan::{Media, Plan, Reply};
use super::reserve::Access;
use super::sense::{self, Sense};

/// Bytes of a sector's data.
pub(super) const SECTOR: u32 = 2048;
/// Bytes of a whole sector (MMC-6, 4.2.3.8.2).
const RAW_SECTOR: usize = 2352;
/// Sectors of the longest CD, 80 minutes: more is a DVD.
const CD_SECTORS: u64 = 80 * 60 * 75;
/// Most whole sectors of one READ CD: they go through memory of ours.
const MAX_RAW: u64 = 256;

/// WRITE of 10 and 12 bytes and WRITE AND VERIFY. A drive that only reads has none (MMC-6, table 235); QEMU's has, and
/// says that the medium is protected, which tells a user more.
pub(super) const WRITES: [u8; 3] = [0x2a, 0xaa, 0x2e];

/// What a CD drive answers to, the most frequent first.
#[rustfmt::skip]
pub(super) static COMMANDS: [Command; 23] = [
    Command::new(&[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Read, read).medium(),
    Command::new(&[0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, read).medium(),
    Command::new(&[0x4a, 0x01, 0, 0, 0xff, 0, 0, 0xff, 0xff, 0], Access::Free, events::status).quiet(),
    Command::new(&[0x08, 0x1f, 0xff, 0xff, 0xff, 0], Access::Read, read).medium(),
    Command::new(&[0xbe, 0x1c, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf8, 0, 0], Access::Read, read_cd).medium(),
    Command::new(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Free, read_capacity).medium(),
    Command::new(&[0x43, 0x02, 0x0f, 0, 0, 0, 0xff, 0xff, 0xff, 0xc0], Access::Read, toc::read).medium(),
    Command::new(&[0x46, 0x03, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Access::Free, features::configuration).quiet(),
    Command::new(&[0x51, 0x07, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Access::Read, info::disc).medium(),
    Command::new(&[0x52, 0x03, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Read, info::track).medium(),
    Command::new(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], Access::Free, info::mechanism),
    Command::new(&[0xad, 0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, info::dvd_structure).medium(),
    Command::new(&[0xbb, 0x03, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0], Access::Free, set_speed),
    Command::new(&[0x1a, 0x08, 0xff, 0xff, 0xff, 0], Access::Read, pages::sense),
    Command::new(&[0x5a, 0x08, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Access::Read, pages::sense),
    Command::new(&[0x15, 0x10, 0, 0, 0xff, 0], Access::Write, pages::select).takes(pages::select_parameters),
    Command::new(&[0x55, 0x10, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Access::Write, pages::select).takes(pages::select_parameters),
    Command::new(&[0x1b, 0x01, 0, 0, 0xf3, 0], Access::Write, tray::start_stop),
    Command::new(&[0x1e, 0, 0, 0, 0x01, 0], Access::Write, tray::prevent),
    Command::new(&[0x2b, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], Access::Read, seek).medium(),
    Command::new(&[0x2f, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Read, verify).medium(),
    Command::new(&[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Free, flush).medium(),
    Command::new(&[0x44, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Read, toc::header).medium(),
];

/// Number of sectors in the drive.
fn sectors(run: &Run<'_>) -> Result<u64, Sense> {
    let info = run.state.medium.as_ref().map(|medium| medium.info()).ok_or(sense::NO_MEDIUM)?;
    // The last one may be cut short: there is nothing to fill it with.
    Ok(info.size / u64::from(SECTOR))
}

/// A sector number in four bytes; those of larger media do not fit.
fn address(sectors: u64) -> u32 {
    u32::try_from(sectors).unwrap_or(u32::MAX)
}

fn is_dvd(sectors: u64) -> bool {
    sectors > CD_SECTORS
}

/// Checks a range of sectors; the range in bytes.
fn range(run: &Run<'_>, lba: u64, count: u64) -> Result<(u64, u64), Sense> {
    let end = lba.checked_add(count).filter(|&end| sectors(run).is_ok_and(|sectors| end <= sectors));
    end.ok_or(sense::LBA_OUT_OF_RANGE.at(lba))?;
    Ok((lba * u64::from(SECTOR), count * u64::from(SECTOR)))
}

/// READ (6), (10), (12) (MMC-6, 6.15 and 6.16).
fn read(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let (lba, count) = match cdb.len() {
        6 => (cdb.be(1, 3) & 0x1f_ffff, if cdb.byte(4) == 0 { 256 } else { cdb.be(4, 1) }),
        10 => (cdb.be(2, 4), cdb.be(7, 2)),
        _ => (cdb.be(2, 4), cdb.be(6, 4)),
    };
    data(run, lba, count)
}

fn data(run: &Run<'_>, lba: u64, count: u64) -> Result<Plan, Sense> {
    let (offset, len) = range(run, lba, count)?;
    if len > run.unit.config.max_io_size {
        return Err(sense::INVALID_FIELD);
    }
    Ok(if len == 0 { Reply::good().into() } else { Plan::Media(Media::Read { offset, len }) })
}

/// READ CD (MMC-6, 6.17): data alone, or whole sectors.
fn read_cd(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    // Any type of sector, mode 1, or mode 2 form 1: all have 2048 bytes of data. There is no audio.
    if !matches!(cdb.byte(1) >> 2 & 7, 0 | 2 | 4) {
        return Err(sense::WRONG_MODE);
    }
    let (lba, count) = (cdb.be(2, 4), cdb.be(6, 3));
    if cdb.has(10, 7) {
        // There are no subchannels.
        return Err(sense::INVALID_FIELD);
    }
    match cdb.byte(9) & 0xf8 {
        0x00 => Ok(Reply::good().into()),
        0x10 => data(run, lba, count),
        0xf8 if count <= MAX_RAW => {
            range(run, lba, count)?;
            let (lba, count) = (address(lba), address(count));
            Ok(if count == 0 { Reply::good().into() } else { Plan::Media(Media::RawSectors { lba, count }) })
        }
        _ => Err(sense::INVALID_FIELD),
    }
}

/// Whole sectors of mode 1: synchronization, address, data; error correction is left zero, as nothing needs it.
pub(super) fn raw_sectors(lba: u32, count: u32, bounce: &Bounce) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap_or(0) * RAW_SECTOR);
    let size = SECTOR as usize;
    for (n, lba) in (lba..).take(usize::try_from(count).unwrap_or(0)).enumerate() {
        let bcd = |value: u8| ((value / 10) << 4) | (value % 10);
        bytes.push(0);
        bytes.extend([0xff; 10]);
        bytes.push(0);
        bytes.extend(toc::msf(lba).map(bcd));
        bytes.push(1);
        bytes.extend(bounce.to_vec(n * size, size));
        bytes.resize((n + 1) * RAW_SECTOR, 0);
    }
    bytes
}

/// READ CAPACITY (MMC-6, 6.22).
fn read_capacity(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    cdb.check_capacity(4, 8)?;
    let last = address(sectors(run)?.saturating_sub(1));
    let mut data = last.to_be_bytes().to_vec();
    data.extend(SECTOR.to_be_bytes());
    Ok(Reply::data(data, 8).into())
}

/// SET CD SPEED (MMC-6, 6.37): any speed is as fast as it gets.
fn set_speed(_run: &mut Run<'_>, _cdb: &Cdb) -> Result<Plan, Sense> {
    Ok(Reply::good().into())
}

/// SEEK (10) (MMC-6, 6.33).
fn seek(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    range(run, cdb.be(2, 4), 1)?;
    Ok(Reply::good().into())
}

/// VERIFY (10) (MMC-6, 6.43): only that it can be read.
fn verify(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    if cdb.has(1, 0x02) {
        return Err(sense::INVALID_FIELD);
    }
    let (offset, len) = range(run, cdb.be(2, 4), cdb.be(7, 2))?;
    let work = Media::Verify { offset, len, expected: None };
    Ok(if len == 0 { Reply::good().into() } else { Plan::Media(work) })
}

/// SYNCHRONIZE CACHE (MMC-6, 6.41): nothing was written.
fn flush(_run: &mut Run<'_>, _cdb: &Cdb) -> Result<Plan, Sense> {
    Ok(Reply::good().into())
}
