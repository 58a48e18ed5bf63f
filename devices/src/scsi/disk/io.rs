//! Reads, writes and their kin: from command blocks to work on the medium.

use super::{Facts, MAX_COMPARE_BLOCKS, MAX_UNMAP_RANGES, MAX_WRITE_SAME, discard_granularity};
use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::plan::{MAX_PARAMETERS, Media, Plan, Reply};
use crate::scsi::sense::{self, Sense};

/// First block and number of blocks, as the length of the command block has them (SPC-5, 4.2.5).
fn blocks(cdb: &Cdb) -> (u64, u64) {
    match cdb.len() {
        // 0 blocks of a six-byte command are 256.
        6 => (cdb.be(1, 3) & 0x1f_ffff, if cdb.byte(4) == 0 { 256 } else { cdb.be(4, 1) }),
        10 => (cdb.be(2, 4), cdb.be(7, 2)),
        12 => (cdb.be(2, 4), cdb.be(6, 4)),
        _ => (cdb.be(2, 8), cdb.be(10, 4)),
    }
}

/// There is no protection information: nobody can ask for it (SBC-4, 4.21). In six-byte commands the bits are the
/// address's.
fn unprotected(cdb: &Cdb) -> Result<(), Sense> {
    if cdb.len() > 6 && cdb.has(1, 0xe0) { Err(sense::INVALID_FIELD.in_byte(1)) } else { Ok(()) }
}

/// FUA, which is heeded also where `dpofua` does not offer it, as QEMU does. DPO is advice about a cache that is not
/// here.
fn forced(cdb: &Cdb) -> bool {
    cdb.len() > 6 && cdb.has(1, 0x08)
}

/// A range that one command may transfer.
fn transfer(run: &Run<'_>, facts: &Facts, cdb: &Cdb) -> Result<(u64, u64), Sense> {
    unprotected(cdb)?;
    let (lba, count) = blocks(cdb);
    let (offset, len) = facts.range(lba, count)?;
    if len > run.unit.config.max_io_size {
        return Err(sense::INVALID_FIELD);
    }
    Ok((offset, len))
}

pub(super) fn read(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (offset, len) = transfer(run, &facts, cdb)?;
    // A forced read has to see what is on the disk: the image never shows anything else.
    Ok(if len == 0 { Reply::good().into() } else { Plan::Media(Media::Read { offset, len }) })
}

pub(super) fn write(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    facts.writable()?;
    let (offset, len) = transfer(run, &facts, cdb)?;
    let fua = forced(cdb) || !run.state.write_cache;
    Ok(if len == 0 { Reply::good().into() } else { Plan::Media(Media::Write { offset, len, fua }) })
}

/// WRITE AND VERIFY (SBC-4, 5.50): what is durable was verified by whoever made it so; with BYTCHK the same.
pub(super) fn write_verify(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    facts.writable()?;
    let (_, len) = transfer(run, &facts, cdb)?;
    if cdb.byte(1) & 0x06 > 0x02 {
        return Err(sense::INVALID_FIELD);
    }
    parameters(len)
}

pub(super) fn write_verify_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (offset, len) = transfer(run, &facts, cdb)?;
    if data.len() as u64 != len {
        return Err(sense::PARAMETER_LENGTH);
    }
    let (unmap, fua) = (false, true);
    // One "block" as long as the range writes it once.
    Ok(Plan::Media(Media::WriteSame { offset, len, block: data.to_vec(), unmap, fua }))
}

/// Asks for data that goes through memory of ours.
fn parameters(len: u64) -> Result<Plan, Sense> {
    match usize::try_from(len) {
        Ok(0) => Ok(Reply::good().into()),
        Ok(len) if len <= MAX_PARAMETERS => Ok(Plan::Parameters(len)),
        _ => Err(sense::INVALID_FIELD),
    }
}

/// VERIFY (SBC-4, 5.38): BYTCHK 0 reads, 1 compares with as many bytes, 3 with one block.
pub(super) fn verify(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (offset, len) = transfer(run, &facts, cdb)?;
    match (cdb.byte(1) >> 1) & 3 {
        _ if len == 0 => Ok(Reply::good().into()),
        0 => Ok(Plan::Media(Media::Verify { offset, len, expected: None })),
        1 => parameters(len),
        3 => parameters(facts.block),
        _ => Err(sense::INVALID_FIELD),
    }
}

pub(super) fn verify_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (offset, len) = transfer(run, &facts, cdb)?;
    let wanted = if (cdb.byte(1) >> 1) & 3 == 3 { facts.block } else { len };
    if data.len() as u64 != wanted {
        return Err(sense::PARAMETER_LENGTH);
    }
    Ok(Plan::Media(Media::Verify { offset, len, expected: Some(data.to_vec()) }))
}

/// COMPARE AND WRITE (SBC-4, 5.2).
pub(super) fn compare_and_write(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    facts.writable()?;
    unprotected(cdb)?;
    let (_, len) = compare_range(&facts, cdb)?;
    parameters(2 * len)
}

fn compare_range(facts: &Facts, cdb: &Cdb) -> Result<(u64, u64), Sense> {
    let count = cdb.be(13, 1);
    let most = MAX_COMPARE_BLOCKS.min(MAX_PARAMETERS as u64 / 2 / facts.block);
    if count > most {
        return Err(sense::INVALID_FIELD);
    }
    facts.range(cdb.be(2, 8), count)
}

pub(super) fn compare_and_write_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (offset, len) = compare_range(&facts, cdb)?;
    let half = usize::try_from(len).map_err(|_| sense::INVALID_FIELD)?;
    let (expected, data) = data.split_at_checked(half).ok_or(sense::PARAMETER_LENGTH)?;
    if data.len() != half || half == 0 {
        return Err(sense::PARAMETER_LENGTH);
    }
    let fua = forced(cdb) || !run.state.write_cache;
    let (expected, data) = (expected.to_vec(), data.to_vec());
    Ok(Plan::Media(Media::CompareAndWrite { offset, expected, data, fua }))
}

/// ORWRITE (16) (SBC-4, 5.11).
pub(super) fn or_write(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    facts.writable()?;
    let (_, len) = transfer(run, &facts, cdb)?;
    parameters(len)
}

pub(super) fn or_write_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (offset, len) = transfer(run, &facts, cdb)?;
    if data.len() as u64 != len {
        return Err(sense::PARAMETER_LENGTH);
    }
    let fua = forced(cdb) || !run.state.write_cache;
    Ok(Plan::Media(Media::OrWrite { offset, data: data.to_vec(), fua }))
}

/// Flags of WRITE SAME: ANCHOR and protection are not offered. NDOB is defined for the longer one; the bit is obsolete
/// in the shorter one, where QEMU takes it to mean the same.
fn same_flags(run: &Run<'_>, facts: &Facts, cdb: &Cdb) -> Result<(bool, bool), Sense> {
    let (unmap, no_data) = (cdb.has(1, 0x08), cdb.has(1, 0x01));
    if cdb.has(1, 0xf6) || (unmap && discard_granularity(run, &facts.info).is_none()) {
        return Err(sense::INVALID_FIELD);
    }
    Ok((unmap, no_data))
}

/// WRITE SAME (SBC-4, 5.52). WSNZ says that 0 blocks are not "all of them".
pub(super) fn write_same(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    facts.writable()?;
    let (lba, count) = blocks(cdb);
    let (unmap, no_data) = same_flags(run, &facts, cdb)?;
    let (offset, len) = facts.range(lba, count)?;
    if len == 0 {
        return Err(sense::INVALID_FIELD);
    }
    if no_data {
        let fua = !run.state.write_cache;
        return Ok(Plan::Media(Media::WriteSame { offset, len, block: Vec::new(), unmap, fua }));
    }
    parameters(facts.block)
}

pub(super) fn write_same_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (lba, count) = blocks(cdb);
    let (unmap, _) = same_flags(run, &facts, cdb)?;
    let (offset, len) = facts.range(lba, count)?;
    if data.len() as u64 != facts.block {
        return Err(sense::PARAMETER_LENGTH);
    }
    let zeroes = rhea_block::mem::is_zero(data);
    if !zeroes && len > MAX_WRITE_SAME {
        return Err(sense::INVALID_FIELD);
    }
    let block = if zeroes { Vec::new() } else { data.to_vec() };
    // What is not zero cannot be unmapped: then it is written (SBC-4, 5.52.1).
    Ok(Plan::Media(Media::WriteSame { offset, len, block, unmap: unmap && zeroes, fua: !run.state.write_cache }))
}

/// UNMAP (SBC-4, 5.35).
pub(super) fn unmap(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    facts.writable()?;
    if discard_granularity(run, &facts.info).is_none() {
        return Err(sense::INVALID_OPCODE);
    }
    // ANCHOR is not offered.
    if cdb.has(1, 0x01) {
        return Err(sense::INVALID_FIELD);
    }
    match cdb.length(7, 2) {
        0 => Ok(Reply::good().into()),
        len => Ok(Plan::Parameters(len)),
    }
}

pub(super) fn unmap_parameters(run: &mut Run<'_>, _cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let [a, b, c, d, _, _, _, _, list @ ..] = data else { return Err(sense::PARAMETER_LENGTH) };
    let (told, listed) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
    let listed = usize::from(listed);
    if usize::from(told) + 2 > data.len() || listed > list.len() || !listed.is_multiple_of(16) {
        return Err(sense::PARAMETER_LENGTH);
    }
    let (descriptors, _) = list.get(..listed).unwrap_or_default().as_chunks::<16>();
    if descriptors.len() > MAX_UNMAP_RANGES {
        return Err(sense::INVALID_PARAMETER);
    }
    let mut ranges = Vec::with_capacity(descriptors.len());
    for [l0, l1, l2, l3, l4, l5, l6, l7, n0, n1, n2, n3, ..] in descriptors {
        let lba = u64::from_be_bytes([*l0, *l1, *l2, *l3, *l4, *l5, *l6, *l7]);
        let count = u64::from(u32::from_be_bytes([*n0, *n1, *n2, *n3]));
        let (offset, len) = facts.range(lba, count)?;
        if len > run.unit.config.max_unmap_size {
            return Err(sense::INVALID_PARAMETER);
        }
        if len > 0 {
            ranges.push((offset, len));
        }
    }
    Ok(if ranges.is_empty() { Reply::good().into() } else { Plan::Media(Media::Unmap(ranges)) })
}

/// SYNCHRONIZE CACHE (SBC-4, 5.33): the range is checked, everything is flushed.
pub(super) fn flush(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let facts = Facts::of(run)?;
    let (lba, count) = blocks(cdb);
    facts.range(lba, count)?;
    Ok(Plan::Media(Media::Flush))
}

/// PRE-FETCH (SBC-4, 5.14): there is no cache of ours to fill, which GOOD tells.
pub(super) fn prefetch(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    let (lba, count) = blocks(cdb);
    Facts::of(run)?.range(lba, count)?;
    Ok(Reply::good().into())
}

/// SEEK (10) of SCSI-2.
pub(super) fn seek(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    Facts::of(run)?.range(cdb.be(2, 4), 1)?;
    Ok(Reply::good().into())
}
