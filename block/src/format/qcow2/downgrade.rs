//! `amend -o compat=0.10`: version 2 has no zero clusters, so each becomes what it can be there.
//!
//! Where nothing lies beneath, a zero cluster is simply not allocated. Over a backing file it must hold zeroes. The
//! tables of snapshots are changed in place, since what they say stays the same; new clusters are counted on disk before
//! a table names them, so a kill leaks clusters at most and leaves a sound image of version 3.

use std::collections::BTreeSet;

use super::entry::{Entry, Mapping};
use super::header::{Compression, Header, LAZY_REFCOUNTS};
use super::overlap::Kinds;
use super::refcount::Freed;
use super::{Alloc, Qcow2};
use crate::error::BlockError;
use crate::layer::{Layer, read_vec};

impl Qcow2 {
    /// Makes a version 3 image a version 2 one.
    pub(super) fn downgrade(&self) -> Result<(), BlockError> {
        self.remove_bitmaps()?;
        self.expand_active()?;
        self.exclusively(|alloc| {
            let file = self.file.as_ref();
            let (snapshots, _) = super::snapshot::read_table(file, &alloc.header)?;
            let mut tables = BTreeSet::new();
            for snapshot in snapshots {
                let l1 = super::open::read_words(file, snapshot.l1_offset, u64::from(snapshot.l1_size))?;
                for entry in l1 {
                    tables.insert(self.checked_table(entry)?);
                }
            }
            tables.remove(&0);
            tables.into_iter().try_for_each(|table| self.expand_table(alloc, table))
        })?;
        self.change_header(|header| {
            header.version = 2;
            // Version 2 has neither these fields nor what they stand for.
            header.incompatible = 0;
            header.compression = Compression::Zlib;
            header.compatible &= !LAZY_REFCOUNTS;
            header.autoclear = 0;
            header.unknown_fields.clear();
            Ok(())
        })
    }

    /// Whether a snapshot's disk is larger or smaller than `size`.
    pub(super) fn has_snapshot_of_another_size(&self, header: &Header, size: u64) -> Result<bool, BlockError> {
        let (snapshots, _) = super::snapshot::read_table(self.file.as_ref(), header)?;
        Ok(snapshots.iter().any(|snapshot| snapshot.disk_size != size))
    }

    /// Whether the disk, or a snapshot, has a compressed cluster.
    pub(super) fn has_packed_clusters(&self, header: &Header) -> Result<bool, BlockError> {
        let file = self.file.as_ref();
        let (snapshots, _) = super::snapshot::read_table(file, header)?;
        let places = snapshots.iter().map(|snapshot| (snapshot.l1_offset, snapshot.l1_size));
        for (offset, entries) in places.chain([(header.l1_offset, header.l1_size)]) {
            for entry in super::open::read_words(file, offset, u64::from(entries))? {
                let table = self.checked_table(entry)?;
                if table != 0 && self.table_entries(table)?.into_iter().any(Entry::is_compressed) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Expands the zero clusters of the disk as it is now.
    fn expand_active(&self) -> Result<(), BlockError> {
        let end = self.size().next_multiple_of(self.geometry.cluster());
        if self.maps().backing.is_none() && self.backing_name().0.is_none() {
            let is_zero = |entry: Entry| entry.mapping(false, false, 0) == Mapping::Zero;
            return self.change_entries(0..end, true, |old| is_zero(old).then_some(Entry { word: 0, ..old }));
        }
        let zeroes = vec![0; self.geometry.cluster() as usize];
        let mut at = 0;
        while at < self.size() {
            let run = self.find(at, self.size() - at)?.0;
            if run.mapping == Mapping::Zero {
                let len = self.geometry.cluster().min(self.size() - at).min(run.len);
                self.write_range(crate::mem::Source::of(&zeroes[..len as usize]), at)?;
                at += len;
            } else {
                at += run.len;
            }
        }
        Ok(())
    }

    /// Expands the zero clusters of a snapshot's L2 table.
    fn expand_table(&self, alloc: &mut Alloc, table: u64) -> Result<(), BlockError> {
        let bits = self.geometry.cluster_bits;
        let file: &dyn Layer = self.file.as_ref();
        let over_backing = alloc.header.backing_file.is_some();
        // A cluster counts once for each table that names its table.
        let times = alloc.counts.get(file, table >> bits)?;
        let mut bytes = read_vec(file, table, self.geometry.cluster() as usize)?;
        let mut freed = Vec::new();
        let mut changed = false;
        for (n, entry) in self.table_entries(table)?.into_iter().enumerate() {
            if entry.mapping(false, false, 0) != Mapping::Zero {
                continue;
            }
            let mut word = 0;
            if over_backing {
                let taken = alloc.counts.take_run(file, 1)?;
                (1..times).try_for_each(|_| alloc.counts.add(file, taken.offset, 1))?;
                self.data.write_zeroes(taken.offset, self.geometry.cluster(), false)?;
                word = taken.offset;
            }
            freed.extend(entry.host());
            bytes[n * 8..][..8].copy_from_slice(&word.to_be_bytes());
            changed = true;
        }
        if !changed {
            return Ok(());
        }
        self.write_counts(alloc)?;
        file.flush()?;
        self.guard.write(Kinds::ANY_L2, &bytes, table)?;
        file.flush()?;
        for offset in freed {
            for _ in 0..times {
                alloc.counts.release(file, Freed { offset, clusters: 1, discard: false })?;
            }
        }
        Ok(())
    }
}
