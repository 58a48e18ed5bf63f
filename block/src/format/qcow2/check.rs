//! `check`: are the reference counts what the tables say? And repair.
//!
//! Every table that the header leads to is walked once and every host cluster's names are counted in memory (one, two
//! or eight bytes a cluster, as the numbers need). Then the counts on disk are compared with them. Damage that is found
//! is counted and told, up to a bound; nothing in an image stops the walk.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::entry::{COPIED, Entry, Fault, OFFSET};
use super::header::{Header, incompatible};
use super::refcount::get_count;
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Clusters with a count above their names: space is lost, nothing else.
    pub leaks: u64,
    /// Clusters with a count below their names, and broken entries.
    pub corruptions: u64,
    /// Parts of the image that could not be read.
    pub check_errors: u64,
    /// Guest clusters in all.
    pub total_clusters: u64,
    /// Guest clusters with data of their own.
    pub allocated_clusters: u64,
    /// Of these, those that do not follow the one before.
    pub fragmented_clusters: u64,
    /// Of these, those that are compressed.
    pub compressed_clusters: u64,
    /// Where the last used host cluster ends, in bytes.
    pub image_end_offset: u64,
    /// What was found, in QEMU's words; at most [`MOST_MESSAGES`].
    pub messages: Vec<String>,
}

/// Most findings that are told one by one.
pub const MOST_MESSAGES: usize = 1000;

impl CheckReport {
    pub(super) fn tell(&mut self, text: String) {
        if self.messages.len() < MOST_MESSAGES {
            self.messages.push(text);
        }
    }

    /// Refuses to go by what was found where something was not seen: what that names would be taken for free.
    pub(super) fn whole(&self) -> Result<(), BlockError> {
        if self.check_errors == 0 {
            return Ok(());
        }
        let text =
            "some of the image's metadata cannot be read, so nothing is repaired: a check without repair says which";
        Err(BlockError::new(ErrorKind::Io, text))
    }

    fn corrupt(&mut self, text: &str) {
        self.corruptions += 1;
        self.tell(format!("ERROR {text}"));
    }
}

/// What is wrong with an entry of the snapshot table, in QEMU's words.
pub(super) fn incomplete(n: usize) -> String {
    format!("snapshot table entry {n} is incomplete")
}

/// Names of host clusters, counted: of those in the file, and of one behind it, which the last may reach into.
pub(super) struct Names(Vec<u32>);

impl Names {
    fn new(file_clusters: u64) -> Self {
        Self(vec![0; file_clusters as usize + 1])
    }

    fn add(&mut self, cluster: u64, times: u32) {
        if let Some(count) = self.0.get_mut(cluster as usize) {
            *count = count.saturating_add(times);
        }
    }

    /// Behind the last that may have names.
    pub(super) fn end(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn get(&self, cluster: u64) -> u32 {
        self.0.get(cluster as usize).copied().unwrap_or(0)
    }
}

/// Largest host file that is checked, in clusters: the counts take 4 bytes for each.
const MOST_CLUSTERS: u64 = 1 << 31;

pub(super) struct Walk<'a> {
    file: &'a dyn Layer,
    pub(super) header: Header,
    pub(super) names: Names,
    pub(super) report: CheckReport,
    file_clusters: u64,
    /// Entries to look at for the copied flag, once all names are counted.
    pub(super) flags: Vec<Flagged>,
    last: Option<u64>,
    /// What is named past the end of the file, in bytes.
    pub(super) wild: Vec<Range<u64>>,
    /// Entries of the snapshot table that lack what version 3 asks for.
    pub(super) incomplete: Vec<usize>,
    /// Damage that can be put right where it is: it is told as a repair then, and whoever walks makes it.
    pub(super) mending: bool,
    pub(super) mends: Vec<Mend>,
    /// A cluster that is named has a count of 0, or counts lie where they cannot: they must all be written anew.
    pub(super) counts_lost: bool,
    /// L2 tables by host offset: how many L1 entries name them. Each is walked once, however often it is shared.
    tables: BTreeMap<u64, Shared>,
    /// Bytes of L1 tables looked at. They cannot overlap, so together they fit into the file.
    l1_bytes: u64,
}

/// A word that puts damage right.
pub(super) struct Mend {
    /// Its host offset.
    pub(super) at: u64,
    pub(super) word: u64,
    /// How many names its cluster has if it is what it seems to be.
    pub(super) names: u32,
}

/// An entry whose copied flag is to fit a count.
#[derive(Clone, Copy)]
pub(super) struct Flagged {
    /// Host offset of the word.
    pub(super) place: u64,
    pub(super) word: u64,
    /// Its number in the active L1 table; of an entry in an L2 table there is none to tell.
    l1_index: Option<usize>,
}

impl Flagged {
    /// What is wrong with it, in QEMU's words.
    pub(super) fn wrong(self, count: u64) -> String {
        let word = self.word;
        match self.l1_index {
            Some(n) => format!("OFLAG_COPIED L2 cluster: l1_index={n} l1_entry={word:x} refcount={count}"),
            None => format!("OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}"),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Shared {
    times: u32,
    active: bool,
}

/// Checks the image in `file`, which nobody writes to meanwhile.
///
/// # Errors
/// When there is no qcow2 header to start from, or the image is too large to check.
pub fn check(file: &Arc<dyn Layer>) -> Result<CheckReport, BlockError> {
    let mut walk = Walk::new(file.as_ref())?;
    walk.all();
    let table = walk.compare();
    walk.compare_flags(&table);
    Ok(walk.report)
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a dyn Layer) -> Result<Self, BlockError> {
        let header = Header::read_for_check(file)?;
        let file_clusters = file.size().div_ceil(header.cluster_size());
        if file_clusters > MOST_CLUSTERS {
            return Err(BlockError::new(ErrorKind::Unsupported, "the image file is too large to check"));
        }
        let report = CheckReport { total_clusters: header.size.div_ceil(header.cluster_size()), ..Default::default() };
        Ok(Self {
            file,
            names: Names::new(file_clusters),
            header,
            report,
            file_clusters,
            flags: Vec::new(),
            last: None,
            wild: Vec::new(),
            incomplete: Vec::new(),
            mending: false,
            mends: Vec::new(),
            counts_lost: false,
            tables: BTreeMap::new(),
            l1_bytes: 0,
        })
    }

    fn cluster(&self) -> u64 {
        self.header.cluster_size()
    }

    /// Counts the names of everything.
    pub(super) fn all(&mut self) {
        self.all_but_counts();
        self.reftable();
    }

    /// Counts the names of everything.
    ///
    /// # Errors
    /// Some of them could not be seen, so the rest is nothing to repair by.
    pub(super) fn all_seen(&mut self) -> Result<(), BlockError> {
        self.all_but_counts();
        self.report.whole()?;
        self.reftable();
        Ok(())
    }

    /// Refuses to go by counts of which some cannot be read, where they are in the file at all.
    pub(super) fn counts_seen(&self) -> Result<(), BlockError> {
        let bytes = u64::from(self.header.reftable_clusters) * self.cluster();
        let in_file = self.header.reftable_offset.saturating_add(bytes) <= self.file.size();
        if in_file { self.report.whole() } else { Ok(()) }
    }

    /// Counts the names of everything that is not itself a count.
    pub(super) fn all_but_counts(&mut self) {
        self.range(0, self.cluster());
        let (offset, size) = (self.header.l1_offset, u64::from(self.header.l1_size));
        self.l1(offset, size, true);
        self.snapshots();
        for (table, shared) in std::mem::take(&mut self.tables) {
            self.l2(table, shared);
        }
        self.bitmaps();
        if self.header.crypt_method == 2 {
            match self.header.crypto_place() {
                Ok((offset, len)) => self.range(offset, len),
                Err(e) => {
                    self.report.check_errors += 1;
                    self.report.tell(format!("ERROR encryption header: {e}"));
                }
            }
        }
    }

    /// Tells of damage that `mend` puts right.
    fn mend(&mut self, text: &str, mend: Mend) {
        if self.mending {
            self.report.tell(format!("Repairing {text}"));
            self.mends.push(mend);
        } else {
            self.report.corrupt(text);
        }
    }

    /// Names every cluster of a byte range.
    fn range(&mut self, offset: u64, len: u64) {
        self.range_times(offset, len, 1);
    }

    fn range_times(&mut self, offset: u64, len: u64, times: u32) {
        if len == 0 {
            return;
        }
        let end = offset.saturating_add(len);
        // As QEMU has it, the last cluster may lie in the file in part.
        if end.saturating_sub(self.file.size()) >= self.cluster() {
            self.report.corruptions += u64::from(times);
            self.wild.push(offset..end);
            (0..times.min(MOST_MESSAGES as u32)).for_each(|_| {
                self.report.tell(format!(
                    "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                     offset {offset:#x} size {len:#x}"
                ));
            });
            return;
        }
        let bits = self.header.cluster_bits;
        for cluster in offset >> bits..=(end - 1) >> bits {
            self.names.add(cluster, times);
        }
    }

    /// Names what lies in the file of the ranges that end past it: nobody's, and yet not free.
    pub(super) fn name_wild(&mut self) {
        let bits = self.header.cluster_bits;
        for wild in &self.wild {
            let end = wild.end.div_ceil(1 << bits).min(self.names.end());
            (wild.start >> bits..end).for_each(|cluster| self.names.add(cluster, 1));
        }
    }

    /// A table of words, or none with a note.
    fn words(&mut self, what: &str, offset: u64, count: u64) -> Vec<u64> {
        match read_vec(self.file, offset, (count * 8) as usize) {
            Ok(bytes) => bytes.as_chunks::<8>().0.iter().map(|w| u64::from_be_bytes(*w)).collect(),
            Err(e) => {
                self.report.check_errors += 1;
                self.report.tell(format!("ERROR: {what} at {offset:#x}: {e}"));
                Vec::new()
            }
        }
    }

    fn l1(&mut self, offset: u64, size: u64, active: bool) {
        self.l1_bytes += size * 8;
        if self.l1_bytes > self.file_clusters * self.cluster() {
            self.report.corrupt(&format!("L1 table at {offset:#x}: the L1 tables together are larger than the file"));
            self.report.check_errors += 1;
            return;
        }
        self.range(offset, size * 8);
        // A hole names nothing, however many tables lie in it.
        if self.file.status(offset, size * 8).is_ok_and(|there| there.zero && there.len >= size * 8) {
            return;
        }
        for (n, entry) in self.words("L1 table", offset, size).into_iter().enumerate() {
            if entry == 0 {
                continue;
            }
            let table = entry & OFFSET;
            if table & (self.cluster() - 1) != 0 || table == 0 || entry & !(OFFSET | COPIED) != 0 {
                self.report.corrupt(&format!("L1 entry {n}: {entry:#x} is not the offset of an L2 table"));
                // With a bit too many it may still name one.
                if table & (self.cluster() - 1) != 0 || table == 0 {
                    continue;
                }
            }
            self.range(table, self.cluster());
            if active {
                self.flags.push(Flagged { place: offset + n as u64 * 8, word: entry, l1_index: Some(n) });
            }
            if table >> self.header.cluster_bits >= self.file_clusters {
                // There is nothing in it; the name past the end is told.
                continue;
            }
            let shared = self.tables.entry(table).or_default();
            shared.times += 1;
            shared.active |= active;
        }
    }

    fn l2(&mut self, table: u64, shared: Shared) {
        let Shared { times, active } = shared;
        // Tables lie between the runs of data that they name, so each begins a new one.
        self.last = None;
        let extended = self.header.incompatible & incompatible::EXTENDED_L2 != 0;
        let external = self.header.incompatible & incompatible::DATA_FILE != 0;
        let words = self.words("L2 table", table, self.cluster() / 8);
        let step = if extended { 2 } else { 1 };
        for (n, entry) in words.chunks_exact(step).enumerate() {
            let entry = Entry { word: entry[0], bitmap: if extended { entry[1] } else { 0 } };
            if entry.word == 0 {
                continue;
            }
            if let Some(fault) = entry.fault(self.header.cluster_bits, extended) {
                self.broken(entry, fault, (table + (n * step) as u64 * 8, times));
                continue;
            }
            if entry.is_compressed() {
                let (offset, len) = entry.packed(self.header.cluster_bits);
                if entry.is_copied() {
                    self.report.corrupt(&format!(
                        "coffset={offset:#x}: copied flag must never be set for compressed clusters"
                    ));
                }
                self.range_times(offset, len, times);
                self.count(active, true, offset);
            } else if let Some(host) = entry.host().or((external && entry.is_copied()).then_some(0)) {
                // Offset 0 of an external data file is a place like any other.
                self.count(active, false, host);
                if !external {
                    self.range_times(host, self.cluster(), times);
                    if active {
                        let place = table + (n * step) as u64 * 8;
                        self.flags.push(Flagged { place, word: entry.word, l1_index: None });
                    }
                }
            }
        }
    }

    /// An L2 entry breaks the format's rules; its host offset, and how many L1 entries name its table.
    fn broken(&mut self, entry: Entry, fault: Fault, (at, times): (u64, u32)) {
        let extended = self.header.incompatible & incompatible::EXTENDED_L2 != 0;
        let host = entry.word & OFFSET;
        if fault != Fault::Misplaced {
            self.report.corrupt(&format!("offset={host:x}: L2 entry at {at:#x}: {fault}"));
            return self.name_broken(entry, times);
        }
        let wrong = |what| format!("offset={host:x}: {what} cluster is not properly aligned; L2 entry corrupted.");
        match entry.without_place(extended) {
            // The bitmap of subclusters, if there is one, stays.
            Some(right) => self.mend(&wrong("Preallocated"), Mend { at, word: right.word, names: times }),
            None => {
                self.report.corrupt(&wrong("Data"));
                self.name_broken(entry, times);
            }
        }
    }

    /// Names what a broken entry seems to name: it is not free.
    fn name_broken(&mut self, entry: Entry, times: u32) {
        if entry.is_compressed() {
            let (offset, len) = entry.packed(self.header.cluster_bits);
            self.range_times(offset, len, times);
        } else if let (Some(host), 0) = (entry.host(), self.header.incompatible & incompatible::DATA_FILE) {
            self.range_times(host, self.cluster(), times);
        }
    }

    fn count(&mut self, active: bool, compressed: bool, host: u64) {
        if !active {
            return;
        }
        self.report.allocated_clusters += 1;
        self.report.compressed_clusters += u64::from(compressed);
        if compressed || (self.last.is_some_and(|last| host != last + self.cluster())) {
            self.report.fragmented_clusters += 1;
        }
        self.last = Some(host);
    }

    fn snapshots(&mut self) {
        match super::snapshot::read_table(self.file, &self.header) {
            Ok((snapshots, bytes)) => {
                self.range(self.header.snapshots_offset, bytes);
                for (n, snapshot) in snapshots.into_iter().enumerate() {
                    if !snapshot.complete {
                        self.incomplete.push(n);
                        self.report.corrupt(&incomplete(n));
                    }
                    self.l1(snapshot.l1_offset, u64::from(snapshot.l1_size), false);
                }
            }
            Err(e) => {
                self.report.check_errors += 1;
                self.report.tell(format!("ERROR snapshot table: {e}"));
            }
        }
    }

    fn reftable(&mut self) {
        let (offset, bytes) = (self.header.reftable_offset, u64::from(self.header.reftable_clusters) * self.cluster());
        self.range(offset, bytes);
        for (n, block) in self.words("refcount table", offset, bytes / 8).into_iter().enumerate() {
            if block == 0 {
                continue;
            }
            let cluster = block >> self.header.cluster_bits;
            if block & (self.cluster() - 1) != 0 {
                let text = format!("refcount block {n} is not cluster aligned; refcount table entry corrupted");
                self.report.corrupt(&text);
                self.counts_lost = true;
            } else if cluster >= self.file_clusters {
                let text = format!("refcount block {n} is outside image");
                self.mend(&text, Mend { at: offset + n as u64 * 8, word: 0, names: 1 });
            } else {
                self.range(block, self.cluster());
                let names = self.names.get(cluster);
                if names != 1 {
                    self.report.corrupt(&format!("refcount block {n} refcount={names}"));
                    self.counts_lost = true;
                }
            }
        }
    }

    fn bitmaps(&mut self) {
        let (file, header) = (self.file, self.header.clone());
        if let Err(e) = super::bitmap::ranges(file, &header, |offset, len| self.range(offset, len)) {
            self.report.check_errors += 1;
            self.report.tell(format!("ERROR bitmaps: {e}"));
        }
    }

    /// Compares the counts on disk with the names; gives the table of the blocks they stand in.
    pub(super) fn compare(&mut self) -> Vec<u64> {
        let bits = self.header.cluster_bits;
        let order = self.header.refcount_order;
        let per = 1u64 << (bits + 3 - order);
        let bytes = u64::from(self.header.reftable_clusters) * self.cluster();
        let table = self.words("refcount table", self.header.reftable_offset, bytes / 8);
        // Behind the file only a name counts.
        let end = self.file_clusters + u64::from(self.names.get(self.file_clusters) > 0);
        let mut used_end = 0;
        for number in 0..end.div_ceil(per) {
            let entry = table.get(number as usize).copied().unwrap_or(0);
            let usable = entry & (self.cluster() - 1) == 0 && entry >> bits < self.file_clusters;
            let block = (entry != 0 && usable).then(|| read_vec(self.file, entry, self.cluster() as usize));
            let block = match block.transpose() {
                Ok(block) => block,
                Err(e) => {
                    self.report.check_errors += 1;
                    self.report.tell(format!("ERROR: refcount block {number} at {entry:#x}: {e}"));
                    continue;
                }
            };
            for cluster in number * per..((number + 1) * per).min(end) {
                if self.compare_one(cluster, block.as_deref(), order, per) {
                    used_end = cluster + 1;
                }
            }
        }
        self.report.image_end_offset = used_end << bits;
        table
    }

    /// Compares one cluster; whether it is in use, by its count or by its names.
    fn compare_one(&mut self, cluster: u64, block: Option<&[u8]>, order: u32, per: u64) -> bool {
        let names = u64::from(self.names.get(cluster));
        let count = block.map_or(0, |block| get_count(block, order, cluster % per));
        if count > names {
            self.report.leaks += 1;
            self.report.tell(format!("Leaked cluster {cluster} refcount={count} reference={names}"));
        } else if count < names {
            self.report.corrupt(&format!("cluster {cluster} refcount={count} reference={names}"));
            self.counts_lost |= count == 0;
        }
        count > 0 || names > 0
    }

    /// A copied flag must be set exactly where a cluster's count is one.
    pub(super) fn compare_flags(&mut self, table: &[u64]) {
        for (entry, count) in self.wrong_flags(table) {
            self.report.corrupt(&entry.wrong(count));
        }
    }

    /// The entries whose copied flag does not fit the count on disk, with that count.
    pub(super) fn wrong_flags(&mut self, table: &[u64]) -> Vec<(Flagged, u64)> {
        let mut wrong = Vec::new();
        let per = 1u64 << (self.header.cluster_bits + 3 - self.header.refcount_order);
        let mut block: Option<(u64, Option<Vec<u8>>)> = None;
        for entry in std::mem::take(&mut self.flags) {
            let cluster = (entry.word & OFFSET) >> self.header.cluster_bits;
            let number = cluster / per;
            if block.as_ref().is_none_or(|(n, _)| *n != number) {
                let place = table.get(number as usize).copied().unwrap_or(0);
                let usable = place != 0 && place & (self.cluster() - 1) == 0;
                let bytes = usable.then(|| read_vec(self.file, place, self.cluster() as usize));
                let Ok(bytes) = bytes.transpose() else {
                    self.report.check_errors += 1;
                    continue;
                };
                block = Some((number, bytes));
            }
            let bytes = block.as_ref().and_then(|(_, bytes)| bytes.as_deref());
            let count = bytes.map_or(0, |b| get_count(b, self.header.refcount_order, cluster % per));
            if (count == 1) != (entry.word & COPIED != 0) {
                wrong.push((entry, count));
            }
        }
        wrong
    }
}
