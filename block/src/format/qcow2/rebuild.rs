//! All reference counts written anew, beside the old ones, in free space of the file as far as there is some.
//!
//! Each block lies in or behind the part of the file that it counts, the table in the first place that it fits into.
//! The header is switched over in one write; until then the old counts stand, and after it they are free.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Names, Walk};
use super::header::MOST_REFTABLE_BYTES;
use super::refcount::{most_count, set_count};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec, write_all};

/// Writes all counts anew, `1 << order` bits wide if that is given, and points the header at them. Gives a line for each
/// cluster that the old ones took.
///
/// # Errors
/// When a count does not fit the new width, some of the metadata cannot be read or, for a new width, is broken, something
/// is named where the new counts would be, or reading or writing fails.
pub(super) fn rebuild(file: &dyn Layer, order: Option<u32>) -> Result<Vec<String>, BlockError> {
    // Two walks in place of a copy: of a large file with little in it, little is touched.
    let mut counted = Walk::new(file)?;
    counted.all_but_counts();
    counted.report.whole()?;
    if order.is_some() && counted.report.corruptions > 0 {
        let text = "the image is damaged, so its counts cannot be written anew: check says how";
        return Err(BlockError::new(ErrorKind::Corrupt, text));
    }
    let counted = counted.names;
    let mut walk = Walk::new(file)?;
    // Read once more, so it may fail where the first walk did not: what it did not see would be taken for free.
    walk.all_seen()?;
    walk.counts_seen()?;
    if let Some(order) = order {
        check_width(&walk, &counted, order)?;
    }
    let given_back = given_back(&walk, &counted);
    walk.name_wild();
    let order = order.unwrap_or(walk.header.refcount_order);
    let mut plan = Plan::new(&walk, &counted, order);
    let table = plan.place();
    plan.check_wild(&walk)?;
    let cluster = walk.header.cluster_size();
    if table.clusters * cluster > MOST_REFTABLE_BYTES {
        let text = "the table of new counts would be larger than any program reads; convert saves what is on the disk";
        return Err(BlockError::new(ErrorKind::Unsupported, text));
    }
    let mut entries = vec![0u8; (table.clusters * cluster) as usize];
    for (number, place) in &plan.blocks {
        entries[*number as usize * 8..][..8].copy_from_slice(&(place * cluster).to_be_bytes());
        write_all(file, &plan.block(*number), place * cluster)?;
    }
    write_all(file, &entries, table.first * cluster)?;
    file.flush()?;
    switch(file, &walk, table, order)?;
    Ok(given_back)
}

/// Points the header at the new counts, and leaves all else in it as it is: other programs write other lengths of it.
fn switch(file: &dyn Layer, walk: &Walk<'_>, table: Run, order: u32) -> Result<(), BlockError> {
    // Place, size and width lie in one sector, so they change together. Version 2 has no width.
    let end = if walk.header.version == 2 { 60 } else { 100 };
    let mut fields = read_vec(file, 48, end - 48)?;
    fields[..8].copy_from_slice(&(table.first * walk.header.cluster_size()).to_be_bytes());
    fields[8..12].copy_from_slice(&(table.clusters as u32).to_be_bytes());
    if let Some(width) = fields.get_mut(48..) {
        width.copy_from_slice(&order.to_be_bytes());
    }
    write_all(file, &fields, 48)?;
    file.flush()
}

/// Refuses a width that a count does not fit into.
fn check_width(walk: &Walk<'_>, counted: &Names, order: u32) -> Result<(), BlockError> {
    let most = most_count(order);
    let Some(large) = (0..counted.end()).find(|cluster| u64::from(counted.get(*cluster)) > most) else { return Ok(()) };
    let text = format!(
        "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a refcount of {}",
        1u32 << order,
        large << walk.header.cluster_bits,
        counted.get(large)
    );
    Err(BlockError::new(ErrorKind::Invalid, text))
}

/// What the old counts took and nothing else has, in QEMU's words.
fn given_back(walk: &Walk<'_>, counted: &Names) -> Vec<String> {
    let line = |cluster: u64| {
        let (old, new) = (walk.names.get(cluster), counted.get(cluster));
        (old > new).then(|| format!("Repairing cluster {cluster} refcount={old} reference={new}"))
    };
    (0..counted.end()).filter_map(line).take(super::check::MOST_MESSAGES).collect()
}

/// Clusters in a row.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    clusters: u64,
}

impl Run {
    fn all(self) -> std::ops::Range<u64> {
        self.first..self.first + self.clusters
    }
}

/// Where the new counts go. All numbers are clusters.
struct Plan<'a> {
    /// What is to be counted.
    counted: &'a Names,
    /// What is not free: that, and the old counts.
    used: &'a Names,
    order: u32,
    bits: u32,
    /// What the new counts take.
    taken: BTreeSet<u64>,
    /// The place of each block by its number.
    blocks: BTreeMap<u64, u64>,
    /// Nothing from the start of the block in hand up to here is free.
    cursor: u64,
}

impl<'a> Plan<'a> {
    fn new(walk: &'a Walk<'_>, counted: &'a Names, order: u32) -> Self {
        let (used, bits) = (&walk.names, walk.header.cluster_bits);
        Self { counted, used, order, bits, taken: BTreeSet::new(), blocks: BTreeMap::new(), cursor: 0 }
    }

    /// Counts in one block.
    fn per_block(&self) -> u64 {
        1 << (self.bits + 3 - self.order)
    }

    fn is_free(&self, cluster: u64) -> bool {
        self.used.get(cluster) == 0 && !self.taken.contains(&cluster)
    }

    /// Finds a place for everything; gives the table's.
    fn place(&mut self) -> Run {
        let mut wanted = 1;
        loop {
            self.place_blocks();
            let table = self.first_fit(wanted.max(self.table_size()));
            self.taken.extend(table.all());
            self.place_blocks();
            wanted = self.table_size();
            if wanted <= table.clusters {
                return table;
            }
            self.taken.retain(|cluster| !table.all().contains(cluster));
        }
    }

    /// A place for each block that has something to count and no place yet.
    fn place_blocks(&mut self) {
        let per = self.per_block();
        let mut number = 0;
        self.cursor = 0;
        while number * per < self.end() {
            let range = number * per..(number + 1) * per;
            let counts = || {
                self.taken.range(range.clone()).next().is_some()
                    || range.clone().any(|cluster| self.counted.get(cluster) > 0)
            };
            if !self.blocks.contains_key(&number) && counts() {
                self.cursor = self.cursor.max(range.start);
                while !self.is_free(self.cursor) {
                    self.cursor += 1;
                }
                self.taken.insert(self.cursor);
                self.blocks.insert(number, self.cursor);
            }
            number += 1;
        }
    }

    /// Where all that is counted ends.
    fn end(&self) -> u64 {
        self.counted.end().max(self.taken.last().map_or(0, |last| last + 1))
    }

    /// Clusters of a table that names all blocks.
    fn table_size(&self) -> u64 {
        let entries = self.blocks.last_key_value().map_or(0, |(number, _)| number + 1);
        (entries * 8).div_ceil(1 << self.bits)
    }

    /// The first free run of so many clusters; behind the end of the file all are free.
    fn first_fit(&self, clusters: u64) -> Run {
        let mut first = 1;
        let mut next = 1;
        while next - first < clusters {
            if !self.is_free(next) {
                first = next + 1;
            }
            next += 1;
        }
        Run { first, clusters }
    }

    /// Refuses to put counts behind the end of the file where an entry points.
    fn check_wild(&self, walk: &Walk<'_>) -> Result<(), BlockError> {
        let new = self.used.end() << self.bits..self.end() << self.bits;
        match walk.wild.iter().find(|wild| wild.start < new.end && new.start < wild.end) {
            None => Ok(()),
            Some(wild) => {
                let text = format!(
                    "the counts would have to be built anew behind the end of the file, where {:#x} is named already; \
                     convert saves what is left of the disk",
                    wild.start
                );
                Err(BlockError::new(ErrorKind::Corrupt, text))
            }
        }
    }

    /// The bytes of block `number`.
    fn block(&self, number: u64) -> Vec<u8> {
        let (per, most) = (self.per_block(), most_count(self.order));
        let mut bytes = vec![0u8; 1 << self.bits];
        for index in 0..per {
            let cluster = number * per + index;
            let names = u64::from(self.counted.get(cluster)) + u64::from(self.taken.contains(&cluster));
            set_count(&mut bytes, self.order, index, names.min(most));
        }
        bytes
    }
}
