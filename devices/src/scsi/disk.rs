//! Disks: the block commands (SBC-4), their mode pages and their vital product data.

mod io;
mod pages;

use rhea_block::ImageInfo;

use super::cdb::Cdb;
use super::commands::{Command, Run};
use super::plan::{Media, Plan, Reply};
use super::reserve::Access;
use super::sense::{self, Sense};

pub(super) use pages::{VPD_PAGES, vpd};

/// Most blocks of one COMPARE AND WRITE: its field has one byte.
const MAX_COMPARE_BLOCKS: u64 = 255;
/// Most ranges of one UNMAP.
const MAX_UNMAP_RANGES: usize = 255;
/// Most bytes of one WRITE SAME of a block that is not zero: it goes through memory of ours and takes its time.
const MAX_WRITE_SAME: u64 = 1 << 30;

/// What a disk answers to, the most frequent first.
#[rustfmt::skip]
pub(super) static COMMANDS: [Command; 36] = [
    Command::new(&[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Read, io::read).medium(),
    Command::new(&[0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Write, io::write).medium(),
    Command::new(&[0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, io::read).medium(),
    Command::new(&[0x8a, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Write, io::write).medium(),
    Command::new(&[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Write, io::flush),
    Command::new(&[0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Write, io::flush),
    Command::new(&[0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Access::Write, io::unmap).medium().takes(io::unmap_parameters),
    Command::new(&[0x08, 0x1f, 0xff, 0xff, 0xff, 0], Access::Read, io::read).medium(),
    Command::new(&[0x0a, 0x1f, 0xff, 0xff, 0xff, 0], Access::Write, io::write).medium(),
    Command::new(&[0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, io::read).medium(),
    Command::new(&[0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Write, io::write).medium(),
    Command::new(&[0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Write, io::write_verify).medium().takes(io::write_verify_parameters),
    Command::new(&[0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Write, io::write_verify).medium().takes(io::write_verify_parameters),
    Command::new(&[0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Write, io::write_verify).medium().takes(io::write_verify_parameters),
    Command::new(&[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Read, io::verify).medium().takes(io::verify_parameters),
    Command::new(&[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, io::verify).medium().takes(io::verify_parameters),
    Command::new(&[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, io::verify).medium().takes(io::verify_parameters),
    Command::new(&[0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0], Access::Write, io::compare_and_write).medium().takes(io::compare_and_write_parameters),
    Command::new(&[0x8b, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Write, io::or_write).medium().takes(io::or_write_parameters),
    Command::new(&[0x41, 0x09, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Write, io::write_same).medium().takes(io::write_same_parameters),
    Command::new(&[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Write, io::write_same).medium().takes(io::write_same_parameters),
    Command::new(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Free, read_capacity10).medium(),
    Command::new(&[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Free, read_capacity16).action(0x10).medium(),
    Command::new(&[0x9e, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, lba_status).action(0x12).medium(),
    Command::new(&[0x1a, 0x08, 0xff, 0xff, 0xff, 0], Access::Read, pages::sense),
    Command::new(&[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Access::Read, pages::sense),
    Command::new(&[0x15, 0x10, 0, 0, 0xff, 0], Access::Write, pages::select).takes(pages::select_parameters),
    Command::new(&[0x55, 0x10, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Access::Write, pages::select).takes(pages::select_parameters),
    Command::new(&[0x1b, 0x01, 0, 0, 0xf5, 0], Access::Write, start_stop),
    Command::new(&[0x1e, 0, 0, 0, 0x01, 0], Access::Write, prevent),
    Command::new(&[0x34, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0], Access::Read, io::prefetch).medium(),
    Command::new(&[0x90, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Read, io::prefetch).medium(),
    Command::new(&[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0], Access::Free, read_defects10).medium(),
    Command::new(&[0xb7, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], Access::Free, read_defects12).medium(),
    Command::new(&[0x2b, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], Access::Read, io::seek).medium(),
    Command::new(&[0x01, 0, 0, 0, 0, 0], Access::Read, rewind).medium(),
];

/// The disk as of now.
#[derive(Debug, Clone, Copy)]
struct Facts {
    info: ImageInfo,
    block: u64,
    blocks: u64,
}

impl Facts {
    fn of(run: &Run<'_>) -> Result<Self, Sense> {
        let info = run.state.medium.as_ref().map(|medium| medium.info()).ok_or(sense::NO_MEDIUM)?;
        let block = u64::from(run.unit.config.sizes.logical);
        Ok(Self { info, block, blocks: info.size / block })
    }

    /// First byte and number of bytes of a range of blocks.
    fn range(&self, lba: u64, blocks: u64) -> Result<(u64, u64), Sense> {
        let end = lba.checked_add(blocks).filter(|&end| end <= self.blocks);
        end.ok_or(sense::LBA_OUT_OF_RANGE.at(lba))?;
        Ok((lba * self.block, blocks * self.block))
    }

    fn writable(&self) -> Result<(), Sense> {
        if self.info.read_only { Err(sense::WRITE_PROTECTED) } else { Ok(()) }
    }
}

/// Granularity of discards in bytes; `None` when the unit does not offer them.
fn discard_granularity(run: &Run<'_>, info: &ImageInfo) -> Option<u32> {
    let config = &run.unit.config;
    match config.sizes.discard_granularity {
        Some(0) => None,
        Some(own) => Some(own),
        None => Some(info.discard_granularity.max(4096).max(config.sizes.logical)),
    }
}

/// READ CAPACITY (10) (SBC-4, 5.20): all ones for what does not fit.
fn read_capacity10(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    cdb.check_capacity(4, 8)?;
    let facts = Facts::of(run)?;
    let last = u32::try_from(facts.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend(run.unit.config.sizes.logical.to_be_bytes());
    Ok(Reply::data(data, 8).into())
}

/// READ CAPACITY (16) (SBC-4, 5.21).
fn read_capacity16(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    cdb.check_capacity(8, 14)?;
    let facts = Facts::of(run)?;
    let sizes = &run.unit.config.sizes;
    let mut data = facts.blocks.saturating_sub(1).to_be_bytes().to_vec();
    data.extend(sizes.logical.to_be_bytes());
    data.extend([0, sizes.exponent() & 0xf]);
    // LBPME: unmapping is there. What was unmapped need not read as zeroes.
    data.push(if discard_granularity(run, &facts.info).is_some() { 0x80 } else { 0 });
    data.resize(32, 0);
    Ok(Reply::data(data, cdb.length(10, 4)).into())
}

/// GET LBA STATUS (SBC-4, 5.7): everything is said to be mapped, which is always allowed.
fn lba_status(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let lba = cdb.be(2, 8);
    facts.range(lba, 1)?;
    let rest = u32::try_from(facts.blocks - lba).unwrap_or(u32::MAX);
    let mut data = 20u32.to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(lba.to_be_bytes());
    data.extend(rest.to_be_bytes());
    data.extend([0; 4]);
    Ok(Reply::data(data, cdb.length(10, 4)).into())
}

/// READ DEFECT DATA (10) (SBC-4, 5.18): neither list has an entry, whatever the format that is asked for.
fn read_defects10(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    Ok(Reply::data(vec![0, cdb.byte(2) & 0x1f, 0, 0], cdb.length(7, 2)).into())
}

/// READ DEFECT DATA (12) (SBC-4, 5.19): the same. A list without entries has none past its first, either.
fn read_defects12(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    if cdb.be(2, 4) != 0 {
        return Err(sense::INVALID_FIELD);
    }
    Ok(Reply::data(vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0], cdb.length(6, 4)).into())
}

/// START STOP UNIT (SBC-4, 5.31). Power conditions need nothing done; a disk that stops has its cache written first, unless
/// NO_FLUSH says otherwise.
fn start_stop(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let (power_condition, no_flush) = (cdb.byte(4) >> 4, cdb.has(4, 4));
    let (load_eject, start) = (cdb.has(4, 2), cdb.has(4, 1));
    if load_eject {
        return Err(sense::INVALID_FIELD);
    }
    if power_condition != 0 {
        return Ok(Reply::good().into());
    }
    run.state.stopped = !start;
    Ok(if start || no_flush { Reply::good().into() } else { Plan::Media(Media::Flush) })
}

/// PREVENT ALLOW MEDIUM REMOVAL (SPC-5, 6.17): remembered, though a disk cannot be taken out.
fn prevent(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    run.state.tray.locked = cdb.has(4, 1);
    Ok(Reply::good().into())
}

/// REZERO UNIT of SCSI-2: there is no head to move.
fn rewind(_run: &mut Run<'_>, _cdb: &Cdb) -> Result<Plan, Sense> {
    Ok(Reply::good().into())
}
