//! `check -r`: makes the reference counts what the tables say.
//!
//! Entries that name no place in the file are put right first. Counts that are too low are raised next, then copied
//! flags are set right, then leaks are given back: a kill at any point leaves an image that is no worse. Where a cluster
//! that is in use has no count at all, all counts are written anew (`rebuild.rs`).

use std::sync::Arc;

use super::check::{CheckReport, Walk, check, incomplete};
use super::entry::COPIED;
use super::header::{AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW_DATA, Header, incompatible};
use super::rebuild::rebuild;
use super::refcount::{get_count, most_count, set_count};
use super::snapshot::read_table;
use super::{OpenOptions, Qcow2};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec, write_all};

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
    /// Entries and counts that were put right, counts that were raised, and copied flags.
    pub corruptions_fixed: u64,
}

/// Checks the image in `file`, repairs what `what` allows, and checks again. Nobody else may use the image meanwhile.
///
/// # Errors
/// When there is no header to start from, some of the metadata cannot be read (nothing is changed then), or writing
/// fails.
pub fn repair(file: &Arc<dyn Layer>, what: Repair) -> Result<Repaired, BlockError> {
    let (mut corruptions_fixed, mut leaks_fixed) = (0, 0);
    let mut walk = Walk::new(file.as_ref())?;
    walk.mending = what == Repair::All;
    walk.all_seen()?;
    corruptions_fixed += mend(file.as_ref(), &walk)?;
    walk.compare();
    walk.counts_seen()?;
    let (mut before, lost) = (walk.report, walk.counts_lost);
    let mut now = before.clone();
    if what == Repair::All && lost {
        before.tell("Rebuilding refcount structure".to_owned());
        for told in rebuild(file.as_ref(), None)? {
            before.tell(told);
        }
        now = counts_of(file.as_ref())?;
        corruptions_fixed += before.corruptions.saturating_sub(now.corruptions);
        leaks_fixed += before.leaks.saturating_sub(now.leaks);
    }
    if what == Repair::All && now.corruptions > 0 {
        corruptions_fixed += fix_counts(file.as_ref(), Counts::Raise, &mut before)?;
        now = counts_of(file.as_ref())?;
    }
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
    // As in QEMU whatever was to be repaired: sound is sound.
    if after.corruptions == 0 && after.check_errors == 0 {
        clear_bits(file.as_ref())?;
    }
    file.flush()?;
    Ok(Repaired { before, after, leaks_fixed, corruptions_fixed })
}

/// Puts entries right that name no place in the file; gives how many. One whose table is also something else is left.
fn mend(file: &dyn Layer, walk: &Walk<'_>) -> Result<u64, BlockError> {
    let mut fixed = 0;
    for mend in &walk.mends {
        if walk.names.get(mend.at >> walk.header.cluster_bits) == mend.names {
            write_all(file, &mend.word.to_be_bytes(), mend.at)?;
            fixed += 1;
        }
    }
    Ok(fixed)
}

/// Says in the header that the image is sound.
fn clear_bits(file: &dyn Layer) -> Result<(), BlockError> {
    let header = Header::read_for_check(file)?;
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

/// Repairs counts where they stand and tells each in `report`; gives how many.
fn fix_counts(file: &dyn Layer, which: Counts, report: &mut CheckReport) -> Result<u64, BlockError> {
    let raise = which == Counts::Raise;
    let mut fixed = 0;
    let mut walk = Walk::new(file)?;
    walk.all_seen()?;
    let header = walk.header.clone();
    let (bits, order) = (header.cluster_bits, header.refcount_order);
    let per = 1u64 << (bits + 3 - order);
    let most = most_count(order);
    let file_clusters = file.size().div_ceil(header.cluster_size());
    let entries = (u64::from(header.reftable_clusters) << bits) / 8;
    let table = super::open::read_words(file, header.reftable_offset, entries)?;
    for number in 0..file_clusters.div_ceil(per) {
        let range = number * per..((number + 1) * per).min(file_clusters);
        let entry = table.get(number as usize).copied().unwrap_or(0);
        let usable = entry != 0 && entry & (header.cluster_size() - 1) == 0 && entry >> bits < file_clusters;
        if !usable || walk.names.get(entry >> bits) > 1 {
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
    walk.report.whole()?;
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
    let listed = read_table(file.as_ref(), &Header::read_for_check(file.as_ref())?);
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
