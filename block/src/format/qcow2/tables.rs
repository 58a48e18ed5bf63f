//! Which host clusters hold tables: whatever a damaged image says, none of them is the guest's.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use super::bitmap;
use super::entry::OFFSET;
use super::header::Header;
use super::snapshot::read_table;
use crate::layer::Layer;

/// More are not watched: those of an image of a petabyte are fewer, and no header may make us remember more.
const MOST: usize = 4 << 20;

/// Host offsets of clusters that have held tables since the image was opened, sorted. Tables that are made later are not
/// among them: their counts are known to be right.
#[derive(Clone, Default)]
pub(super) struct Tables(Arc<RwLock<Vec<u64>>>);

impl Tables {
    /// Those of the image that is being opened. `l1` and `counts` are its L1 and refcount tables.
    pub(super) fn of(file: &dyn Layer, header: &Header, l1: &[u64], counts: &[u64]) -> Self {
        let cluster = header.cluster_size();
        let mut all: Vec<u64> = l1.iter().map(|entry| entry & OFFSET).collect();
        all.extend(counts);
        let end = file.size();
        let mut range = |offset: u64, bytes: u64| {
            let clusters = (offset & !(cluster - 1)..offset.saturating_add(bytes).min(end)).step_by(cluster as usize);
            let room = MOST.saturating_sub(all.len());
            all.extend(clusters.take(room));
        };
        range(header.l1_offset, u64::from(header.l1_size) * 8);
        range(header.reftable_offset, u64::from(header.reftable_clusters) * cluster);
        header.crypto_range().into_iter().for_each(|place| range(place.start, place.end - place.start));
        // Who needs these two says what is wrong with them.
        if let Ok((snapshots, bytes)) = read_table(file, header) {
            range(header.snapshots_offset, bytes);
            snapshots.iter().for_each(|snapshot| range(snapshot.l1_offset, u64::from(snapshot.l1_size) * 8));
        }
        if let Ok(Some((offset, bytes, _))) = bitmap::directory(file, header) {
            range(offset, bytes);
        }
        all.retain(|offset| *offset != 0);
        all.sort_unstable();
        all.dedup();
        Self(Arc::new(RwLock::new(all)))
    }

    /// The first of some clusters that holds a table.
    pub(super) fn find_in(&self, mut hosts: impl Iterator<Item = u64>) -> Option<u64> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        hosts.find(|host| all.binary_search(host).is_ok())
    }

    /// The first table in a range of the file.
    pub(super) fn first_in(&self, range: Range<u64>) -> Option<u64> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(all.partition_point(|offset| *offset < range.start)).copied().filter(|offset| *offset < range.end)
    }

    /// A range of the file holds tables no longer.
    pub(super) fn forget(&self, range: Range<u64>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let first = all.partition_point(|offset| *offset < range.start);
        let last = all.partition_point(|offset| *offset < range.end);
        all.drain(first..last);
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
