//! `check -r`: makes the reference counts what the tables say.
//!
//! Counts that are too low are raised first, then copied flags are set right, then leaks are given back: a kill at any
//! point leaves an image that is no worse. Where a count has no block to stand in, all counts are built anew past the
//! end of the file and the header is switched over in one write.

use std::sync::Arc;

use super::check::{CheckReport, Walk, check, incomplete};
use super::entry::COPIED;
use super::header::{AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW_DATA, Header, incompatible};
use super::refcount::{get_count, set_count};
use super::snapshot::read_table;
use super::{OpenOptions, Qcow2};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec, write_all};

/// Bytes of the header's fixed fields that hold what is known here (version 3).
const FIXED: usize = 104;

/// What to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Space that is counted and not used (`-r leaks`).
    Leaks,
    /// That, and counts that are too low, and copied flags (`-r all`).
    All,
}

/// A repair: what was found and done, and what a check finds after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// What the counts were found to be, and each repair; copied flags are looked at when the counts are right.
    pub before: CheckReport,
    /// After.
    pub after: CheckReport,
    /// Leaks that are gone.
    pub leaks_fixed: u64,
    /// Counts that were raised and copied flags that were set right.
    pub corruptions_fixed: u64,
}

/// Checks the image in `file`, repairs what `what` allows, and checks again. Nobody else may use the image meanwhile.
///
/// # Errors
/// When there is no header to start from, or writing fails.
pub fn repair(file: &Arc<dyn Layer>, what: Repair) -> Result<Repaired, BlockError> {
    let mut before = counts_of(file.as_ref())?;
    let (mut corruptions_fixed, mut leaks_fixed) = (0, 0);
    if what == Repair::All && before.corruptions > 0 {
        corruptions_fixed += fix_counts(file.as_ref(), Counts::Raise, &mut before)?;
    }
    let now = counts_of(file.as_ref())?;
    if now.leaks > 0 {
        leaks_fixed += fix_counts(file.as_ref(), Counts::Lower, &mut before)?;
    }
    // Flags follow the counts: they wait until these are right.
    if what == Repair::All || now.corruptions == 0 {
        corruptions_fixed += fix_flags(file.as_ref(), &mut before)?;
    }
    if what == Repair::All {
        corruptions_fixed += fix_snapshots(file, &mut before)?;
    }
    let after = check(file)?;
    if what == Repair::All && after.corruptions == 0 && after.check_errors == 0 {
        clear_bits(file.as_ref())?;
    }
    file.flush()?;
    Ok(Repaired { before, after, leaks_fixed, corruptions_fixed })
}

/// Says in the header that the image is sound.
fn clear_bits(file: &dyn Layer) -> Result<(), BlockError> {
    let header = Header::read(file)?;
    // What nobody here keeps up is no longer true of what was written ("autoclear").
    let kept = header.autoclear & (AUTOCLEAR_RAW_DATA | AUTOCLEAR_BITMAPS);
    if header.version == 3 && kept != header.autoclear {
        write_all(file, &kept.to_be_bytes(), 88)?;
    }
    let clean = header.incompatible & !(incompatible::DIRTY | incompatible::CORRUPT);
    if header.version == 3 && clean != header.incompatible {
        file.flush()?;
        write_all(file, &clean.to_be_bytes(), 72)?;
    }
    Ok(())
}

/// The counts beside the names, without a look at copied flags.
fn counts_of(file: &dyn Layer) -> Result<CheckReport, BlockError> {
    let mut walk = Walk::new(file)?;
    walk.all();
    walk.compare();
    Ok(walk.report)
}

/// Which counts are repaired.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// Those that are too low.
    Raise,
    /// Those that are too high.
    Lower,
}

/// Repairs counts and tells each in `report`; gives how many.
fn fix_counts(file: &dyn Layer, which: Counts, report: &mut CheckReport) -> Result<u64, BlockError> {
    let raise = which == Counts::Raise;
    let mut fixed = 0;
    let mut walk = Walk::new(file)?;
    walk.all();
    let header = walk.header.clone();
    let (bits, order) = (header.cluster_bits, header.refcount_order);
    let per = 1u64 << (bits + 3 - order);
    let most = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
    let file_clusters = file.size().div_ceil(header.cluster_size());
    let entries = (u64::from(header.reftable_clusters) << bits) / 8;
    let table = super::open::read_words(file, header.reftable_offset, entries)?;
    for number in 0..file_clusters.div_ceil(per) {
        let range = number * per..((number + 1) * per).min(file_clusters);
        let entry = table.get(number as usize).copied().unwrap_or(0);
        let usable = entry != 0 && entry & (header.cluster_size() - 1) == 0 && entry >> bits < file_clusters;
        let shared = usable && walk.names.get(entry >> bits) > 1;
        if !usable || shared {
            if raise && range.clone().any(|c| walk.names.get(c) > 0) {
                report.tell("Rebuilding refcount structure".to_owned());
                rebuild(file, None)?;
                let left = counts_of(file)?;
                return Ok(report.corruptions.saturating_sub(left.corruptions));
            }
            continue;
        }
        let mut bytes = read_vec(file, entry, header.cluster_size() as usize)?;
        let mut changed = false;
        for cluster in range {
            let names = u64::from(walk.names.get(cluster)).min(most);
            let count = get_count(&bytes, order, cluster % per);
            if (raise && count < names) || (!raise && count > names) {
                set_count(&mut bytes, order, cluster % per, names);
                report.tell(format!("Repairing cluster {cluster} refcount={count} reference={names}"));
                fixed += 1;
                changed = true;
            }
        }
        if changed {
            write_all(file, &bytes, entry)?;
        }
    }
    file.flush()?;
    Ok(fixed)
}

/// Sets the copied flags of the active tables to what the counts say, and tells each in `report`; gives how many.
fn fix_flags(file: &dyn Layer, report: &mut CheckReport) -> Result<u64, BlockError> {
    let mut fixed = 0;
    let mut walk = Walk::new(file)?;
    walk.all();
    let table = walk.compare();
    for (entry, count) in walk.wrong_flags(&table) {
        let right = if count == 1 { entry.word | COPIED } else { entry.word & !COPIED };
        write_all(file, &right.to_be_bytes(), entry.place)?;
        report.tell(format!("Repairing {}", entry.wrong(count)));
        fixed += 1;
    }
    file.flush()?;
    Ok(fixed)
}

/// Completes the entries of the snapshot table, if nothing else is wrong any more, and tells each in `report`; gives how
/// many.
fn fix_snapshots(file: &Arc<dyn Layer>, report: &mut CheckReport) -> Result<u64, BlockError> {
    // Nearly always the table alone says that there is nothing to do: no walk through the image for that.
    let listed = read_table(file.as_ref(), &Header::read(file.as_ref())?);
    if listed.is_ok_and(|(snapshots, _)| snapshots.iter().all(|snapshot| snapshot.complete)) {
        return Ok(0);
    }
    let mut walk = Walk::new(file.as_ref())?;
    walk.all();
    let table = walk.compare();
    walk.compare_flags(&table);
    let (broken, found) = (walk.incomplete, walk.report);
    if broken.is_empty() || found.corruptions > broken.len() as u64 || found.check_errors > 0 {
        return Ok(0);
    }
    // Such an entry keeps nobody from writing, a mark that the image is damaged does.
    clear_bits(file.as_ref())?;
    let image = Qcow2::open(file.clone(), &OpenOptions { no_data: true, ..OpenOptions::default() })?;
    image.complete_snapshots()?;
    image.close()?;
    for n in &broken {
        let wrong = format!("ERROR {}", incomplete(*n));
        report
            .messages
            .iter_mut()
            .filter(|said| **said == wrong)
            .for_each(|said| *said = said.replace("ERROR", "Repairing"));
    }
    Ok(broken.len() as u64)
}

/// Writes all counts anew past the end of the file, `1 << order` bits wide if that is given, and points the header at
/// them. The old ones are free then.
///
/// # Errors
/// When a count does not fit the new width, something is named where the new counts would be, or reading or writing
/// fails.
pub(super) fn rebuild(file: &dyn Layer, order: Option<u32>) -> Result<(), BlockError> {
    let mut walk = Walk::new(file)?;
    walk.all_but_counts();
    let mut header = walk.header.clone();
    let wanted = order;
    let order = wanted.unwrap_or(header.refcount_order);
    let (bits, cluster) = (header.cluster_bits, header.cluster_size());
    let per = 1u64 << (bits + 3 - order);
    let most = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
    let end = file.size().div_ceil(cluster);
    let large = (0..end).find(|cluster| u64::from(walk.names.get(*cluster)) > most);
    if let (Some(large), true) = (large, wanted.is_some()) {
        let text = format!(
            "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a refcount of {}",
            1u32 << order,
            large << bits,
            walk.names.get(large)
        );
        return Err(BlockError::new(ErrorKind::Invalid, text));
    }
    let (mut blocks, mut table) = (1, 1);
    while blocks * per < end + blocks + table || table * cluster / 8 < blocks {
        blocks = (end + blocks + table).div_ceil(per);
        table = (blocks * 8).div_ceil(cluster);
    }
    let new = end * cluster..(end + blocks + table) * cluster;
    if let Some(wild) = walk.wild.iter().find(|wild| wild.start < new.end && new.start < wild.end) {
        let text = format!(
            "the counts would have to be built anew behind the end of the file, where {:#x} is named already; \
             convert saves what is left of the disk",
            wild.start
        );
        return Err(BlockError::new(ErrorKind::Corrupt, text));
    }
    let mut entries = vec![0u8; (table * cluster) as usize];
    for number in 0..blocks {
        let place = (end + number) * cluster;
        entries[number as usize * 8..][..8].copy_from_slice(&place.to_be_bytes());
        let mut bytes = vec![0u8; cluster as usize];
        for index in 0..per {
            let at = number * per + index;
            let names = if at >= end { u64::from(at < end + blocks + table) } else { u64::from(walk.names.get(at)) };
            set_count(&mut bytes, order, index, names.min(most));
        }
        write_all(file, &bytes, place)?;
    }
    let table_at = (end + blocks) * cluster;
    write_all(file, &entries, table_at)?;
    file.flush()?;
    header.reftable_offset = table_at;
    header.reftable_clusters = table as u32;
    header.refcount_order = order;
    // Place, size and width lie in one sector, so they change together.
    write_all(file, &header.encode()?[48..FIXED.min(cluster as usize)], 48)?;
    file.flush()
}
