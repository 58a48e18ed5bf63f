//! Reference counts and the search for free clusters.
//!
//! Counts go up in memory when a cluster is taken and reach the disk before any table that names it. They go down only
//! when no table on disk names the cluster any more and no I/O to it is in flight: see `flush.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::corrupt::Guard;
use super::header::{Header, corrupt};
use super::overlap::{Kind, Kinds};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec};

/// A run of host clusters that lost one reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) offset: u64,
    pub(super) clusters: u64,
    /// Punch a hole where the count reaches zero.
    pub(super) discard: bool,
}

/// Runs that no table on disk names any more, waiting for I/O that began before.
pub(super) struct Batch {
    pub(super) token: Arc<()>,
    pub(super) freed: Vec<Freed>,
}

struct Block {
    bytes: Vec<u8>,
    dirty: bool,
    used: u64,
}

/// Clusters taken in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) offset: u64,
    pub(super) clusters: u64,
    /// Never written since the file was shorter: reads as zeroes.
    pub(super) fresh: bool,
}

/// All that is known of the host file's clusters. Everything is in units of clusters unless it says bytes.
pub(super) struct Refcounts {
    pub(super) cluster_bits: u32,
    order: u32,
    pub(super) table: Vec<u64>,
    pub(super) table_offset: u64,
    pub(super) table_clusters: u32,
    blocks: BTreeMap<u64, Block>,
    /// Table entries that are not on disk yet.
    new_blocks: Vec<u64>,
    pub(super) capacity: usize,
    clock: u64,
    /// What the clock said at the last cleaning.
    cleaned: u64,
    pub(super) cursor: u64,
    /// Bytes of the host file that may hold something: what is beyond reads as zeroes.
    pub(super) written_end: u64,
    /// Where the next compressed cluster goes, in bytes; at a cluster's start there is no room.
    pub(super) packed_end: u64,
    /// What lost its last name in memory; the names on disk are still there.
    pub(super) pending: Vec<Freed>,
    /// What lost its last name on disk.
    pub(super) batches: VecDeque<Batch>,
    /// Knows the clusters with metadata, which must not be handed out either.
    pub(super) guard: Arc<Guard>,
    /// The table moved: the header must be written.
    pub(super) table_moved: bool,
    /// A hole could not be punched; that is told once.
    punch_failed: bool,
}

/// Fewest blocks in memory.
const LEAST_BLOCKS: usize = 4;
/// Largest refcount table, in bytes, as for reading.
const MOST_TABLE: u64 = 8 << 20;

impl Refcounts {
    pub(super) fn new(header: &Header, table: Vec<u64>, capacity: usize, file_size: u64, guard: Arc<Guard>) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            table,
            table_offset: header.reftable_offset,
            table_clusters: header.reftable_clusters,
            blocks: BTreeMap::new(),
            new_blocks: Vec::new(),
            capacity: capacity.max(LEAST_BLOCKS),
            clock: 0,
            cleaned: 0,
            cursor: 0,
            written_end: file_size,
            packed_end: 0,
            pending: Vec::new(),
            batches: VecDeque::new(),
            guard,
            table_moved: false,
            punch_failed: false,
        }
    }

    /// The counts that the header names now, nothing of the old ones kept.
    pub(super) fn anew(&self, file: &dyn Layer, header: &Header) -> Result<Self, BlockError> {
        let entries = u64::from(header.reftable_clusters) << (header.cluster_bits - 3);
        let table = super::open::read_words(file, header.reftable_offset, entries)?;
        Ok(Self::new(header, table, self.capacity, file.size(), self.guard.clone()))
    }

    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Counts in one block.
    pub(super) fn per_block(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.order)
    }

    /// Blocks in memory.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn largest(&self) -> u64 {
        most_count(self.order)
    }

    pub(super) fn has_dirty(&self) -> bool {
        self.blocks.values().any(|b| b.dirty) || !self.new_blocks.is_empty()
    }

    /// Makes block `number` present; false when the table has none.
    pub(super) fn load(&mut self, file: &dyn Layer, number: u64) -> Result<bool, BlockError> {
        self.clock += 1;
        let clock = self.clock;
        if let Some(block) = self.blocks.get_mut(&number) {
            block.used = clock;
            return Ok(true);
        }
        let offset = self.table.get(number as usize).copied().unwrap_or(0);
        if offset == 0 {
            return Ok(false);
        }
        if offset % self.cluster() != 0 || offset >= 1 << 56 {
            return Err(corrupt(format!("refcount table entry {number} has the impossible offset {offset:#x}")));
        }
        let bytes = read_vec(file, offset, self.cluster() as usize)?;
        self.make_room()?;
        self.blocks.insert(number, Block { bytes, dirty: false, used: clock });
        Ok(true)
    }

    /// Drops the block that was not used for longest. Counts on disk may be high at any time, so when it is written
    /// does not matter.
    pub(super) fn make_room(&mut self) -> Result<(), BlockError> {
        while self.blocks.len() >= self.capacity {
            let Some((&number, _)) = self.blocks.iter().min_by_key(|(_, b)| b.used) else { break };
            self.write_block(number)?;
            self.blocks.remove(&number);
        }
        Ok(())
    }

    /// Has at most so many blocks in memory; those that need not be written are dropped.
    pub(super) fn set_capacity(&mut self, blocks: usize) {
        self.capacity = blocks.max(LEAST_BLOCKS);
        self.forget_clean();
    }

    /// Drops the blocks that need not be written.
    fn forget_clean(&mut self) {
        self.blocks.retain(|_, block| block.dirty);
    }

    /// Another file is beneath, of `size` bytes: what was read from the former one says nothing of it.
    pub(super) fn come_to_file(&mut self, size: u64) {
        self.forget_clean();
        self.packed_end = 0;
        self.written_end = self.written_end.max(size);
    }

    /// Drops blocks that were not used since the last call; how many.
    pub(super) fn drop_unused(&mut self) -> usize {
        let before = self.blocks.len();
        let cleaned = std::mem::replace(&mut self.cleaned, self.clock);
        self.blocks.retain(|_, block| block.dirty || block.used > cleaned);
        before - self.blocks.len()
    }

    fn write_block(&mut self, number: u64) -> Result<(), BlockError> {
        let offset = self.table.get(number as usize).copied().unwrap_or(0);
        if let Some(block) = self.blocks.get_mut(&number)
            && block.dirty
        {
            self.guard.write(Kinds::COUNT_BLOCK, &block.bytes, offset)?;
            block.dirty = false;
        }
        Ok(())
    }

    pub(super) fn peek(&self, number: u64, index: u64) -> u64 {
        let Some(block) = self.blocks.get(&number) else { return 0 };
        get_count(&block.bytes, self.order, index)
    }

    pub(super) fn poke(&mut self, number: u64, index: u64, count: u64) {
        let order = self.order;
        if let Some(block) = self.blocks.get_mut(&number) {
            set_count(&mut block.bytes, order, index, count);
            block.dirty = true;
        }
    }

    /// The count of one host cluster.
    pub(super) fn get(&mut self, file: &dyn Layer, cluster: u64) -> Result<u64, BlockError> {
        let per = self.per_block();
        Ok(if self.load(file, cluster / per)? { self.peek(cluster / per, cluster % per) } else { 0 })
    }

    /// How many of the first `most` clusters of block `number` are in use.
    pub(super) fn used_in(&mut self, file: &dyn Layer, number: u64, most: u64) -> Result<u64, BlockError> {
        if !self.load(file, number)? {
            return Ok(0);
        }
        Ok((0..self.per_block().min(most)).map(|index| u64::from(self.peek(number, index) > 0)).sum())
    }

    /// Whether every count of a run can go up by one.
    pub(super) fn check_room(&mut self, file: &dyn Layer, run: Freed) -> Result<(), BlockError> {
        let first = run.offset >> self.cluster_bits;
        for cluster in first..first + run.clusters {
            if self.get(file, cluster)? == self.largest() {
                return Err(BlockError::new(ErrorKind::Unsupported, "a reference count would pass its width"));
            }
        }
        Ok(())
    }

    /// Adds one to the counts of a run.
    pub(super) fn add(&mut self, file: &dyn Layer, offset: u64, clusters: u64) -> Result<(), BlockError> {
        for cluster in (offset >> self.cluster_bits)..(offset >> self.cluster_bits) + clusters {
            let count = self.get(file, cluster)?;
            if count == self.largest() {
                return Err(BlockError::new(ErrorKind::Unsupported, "a reference count would pass its width"));
            }
            self.ensure_block(file, cluster / self.per_block())?;
            self.poke(cluster / self.per_block(), cluster % self.per_block(), count + 1);
        }
        Ok(())
    }

    /// Takes one from the counts of a run whose names are gone from the disk; free clusters can be taken again.
    pub(super) fn release(&mut self, file: &dyn Layer, freed: Freed) -> Result<(), BlockError> {
        let per = self.per_block();
        let first = freed.offset >> self.cluster_bits;
        if (first..first + freed.clusters).contains(&(self.packed_end >> self.cluster_bits)) {
            // The cluster may soon be another's.
            self.packed_end = 0;
        }
        for cluster in first..first + freed.clusters {
            let count = self.get(file, cluster)?;
            if count == 0 {
                log::warn!("qcow2: cluster {cluster:#x} is freed but has no references");
                continue;
            }
            if count == 1 {
                self.cursor = self.cursor.min(cluster);
            }
            if count == 1 && freed.discard {
                // Before anybody can take it: a late hole would hit the next owner. Without a hole space is lost,
                // nothing else.
                let punched = file.discard(cluster << self.cluster_bits, self.cluster());
                if let (Err(e), false) = (punched, self.punch_failed) {
                    self.punch_failed = true;
                    log::warn!("qcow2: freed space is not given back to the host: {}", e.sentence());
                }
            }
            self.poke(cluster / per, cluster % per, count - 1);
        }
        Ok(())
    }

    /// Makes a block for a region that has none, in the region's first cluster.
    pub(super) fn ensure_block(&mut self, file: &dyn Layer, number: u64) -> Result<(), BlockError> {
        if self.load(file, number)? {
            return Ok(());
        }
        if number >= self.table.len() as u64 {
            return self.grow_table(number);
        }
        let offset = (number * self.per_block()) << self.cluster_bits;
        self.guard.check_free(offset..offset + self.cluster())?;
        self.make_room()?;
        self.secure(offset, 1)?;
        self.put_new_block(number, offset);
        self.poke(number, 0, 1);
        self.written_end = self.written_end.max(offset + self.cluster());
        Ok(())
    }

    /// Writes zeroes to clusters where metadata will be that is only in memory yet: where there is no space, that is known
    /// before anything counts on it, and what is written back later needs none. Nothing names them, so a kill leaves
    /// bytes in free clusters.
    pub(super) fn secure(&self, offset: u64, clusters: u64) -> Result<(), BlockError> {
        self.guard.write(Kinds::NONE, &vec![0; (clusters << self.cluster_bits) as usize], offset)
    }

    /// Its place is secured.
    pub(super) fn put_new_block(&mut self, number: u64, offset: u64) {
        self.clock += 1;
        let block = Block { bytes: vec![0; self.cluster() as usize], dirty: true, used: self.clock };
        self.blocks.insert(number, block);
        self.table[number as usize] = offset;
        self.guard.metadata.add(Kind::CountBlock, offset..offset + self.cluster());
        self.new_blocks.push(number);
    }

    /// Moves the table to a larger place, in the region of block `number`, which nothing uses yet.
    ///
    /// Order: zeroes in their places; blocks and new table, sync, then the header (which `flush.rs` writes at once), then the
    /// old table is free.
    pub(super) fn grow_table(&mut self, number: u64) -> Result<(), BlockError> {
        let (per, cluster) = (self.per_block(), self.cluster());
        let start = number * per;
        // The new blocks and the table must themselves be counted.
        let (mut blocks, mut clusters) = (1, 0);
        loop {
            let entries = (number + blocks + 1).max(self.table.len() as u64 * 3 / 2);
            let next = (entries * 8).div_ceil(cluster);
            let needed = (blocks + next).div_ceil(per);
            if next == clusters && needed == blocks {
                break;
            }
            clusters = next;
            blocks = needed;
        }
        if clusters * cluster > MOST_TABLE {
            return Err(BlockError::new(ErrorKind::NoSpace, "the image is at the largest size its refcounts allow"));
        }
        self.guard.check_free(start << self.cluster_bits..(start + blocks + clusters) << self.cluster_bits)?;
        let old = Freed { offset: self.table_offset, clusters: u64::from(self.table_clusters), discard: false };
        self.make_room()?;
        self.secure(start << self.cluster_bits, blocks + clusters)?;
        self.table.resize((clusters * cluster / 8) as usize, 0);
        self.capacity = self.capacity.max(blocks as usize + 2);
        for n in 0..blocks {
            self.put_new_block(number + n, (start + n) << self.cluster_bits);
        }
        for used in 0..blocks + clusters {
            self.poke(number + used / per, used % per, 1);
        }
        self.table_offset = (start + blocks) << self.cluster_bits;
        self.table_clusters = clusters as u32;
        self.table_moved = true;
        self.guard.metadata.add(Kind::CountTable, self.table_offset..self.table_offset + clusters * cluster);
        self.written_end = self.written_end.max(self.table_offset + clusters * cluster);
        if old.clusters > 0 {
            self.pending.push(old);
        }
        Ok(())
    }

    /// Writes dirty blocks and the table's new entries, a block before the entry that names it. `sync` is the file's.
    ///
    /// Returns whether the header must be written (the table moved).
    pub(super) fn write_back(&mut self, sync: &dyn Fn() -> Result<(), BlockError>) -> Result<bool, BlockError> {
        let dirty: Vec<u64> = self.blocks.iter().filter(|(_, b)| b.dirty).map(|(n, _)| *n).collect();
        for number in dirty {
            self.write_block(number)?;
        }
        if self.table_moved {
            let bytes: Vec<u8> = self.table.iter().flat_map(|e| e.to_be_bytes()).collect();
            self.guard.write(Kinds::COUNT_TABLE, &bytes, self.table_offset)?;
            sync()?;
            self.new_blocks.clear();
            return Ok(true);
        }
        if !self.new_blocks.is_empty() {
            sync()?;
            for number in &self.new_blocks {
                let entry = self.table[*number as usize];
                self.guard.write(Kinds::COUNT_TABLE, &entry.to_be_bytes(), self.table_offset + number * 8)?;
            }
            self.new_blocks.clear();
        }
        Ok(false)
    }

    /// Host bytes that may be in use.
    pub(super) fn written_end(&self) -> u64 {
        self.written_end
    }
}

/// The largest count of `1 << order` bits.
pub(super) fn most_count(order: u32) -> u64 {
    if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 }
}

/// Count `index` of a block with counts of `1 << order` bits. Counts narrower than a byte start at its lowest bit.
pub(super) fn get_count(bytes: &[u8], order: u32, index: u64) -> u64 {
    if order < 3 {
        let per_byte = 8 >> order;
        let byte = bytes.get((index / per_byte) as usize).copied().unwrap_or(0);
        let shift = (index % per_byte) << order;
        return u64::from(byte >> shift) & ((1 << (1 << order)) - 1);
    }
    let width = 1usize << (order - 3);
    let at = index as usize * width;
    bytes.get(at..at + width).map_or(0, |b| b.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// Sets count `index`; `count` fits the width.
pub(super) fn set_count(bytes: &mut [u8], order: u32, index: u64, count: u64) {
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (index % per_byte) << order;
        let mask = ((1u8 << (1 << order)) - 1) << shift;
        if let Some(byte) = bytes.get_mut((index / per_byte) as usize) {
            *byte = *byte & !mask | ((count as u8) << shift & mask);
        }
        return;
    }
    let width = 1usize << (order - 3);
    let at = index as usize * width;
    if let Some(place) = bytes.get_mut(at..at + width) {
        place.copy_from_slice(&count.to_be_bytes()[8 - width..]);
    }
}
