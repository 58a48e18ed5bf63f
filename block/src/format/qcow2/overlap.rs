//! `overlap-check`: which host clusters hold metadata, and that nothing else is written there, whatever a damaged image
//! says.
//!
//! All of it is in memory and follows the tables as they come and go. A write that meets no metadata, which is every
//! write to a sound image, looks at one bit for each of its clusters; what that lets through costs O(log n) of the
//! clusters with metadata, for every kind of structure: no write walks a table.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::bitmap;
use super::entry::OFFSET;
use super::header::Header;
use super::open::read_words;
use super::snapshot::read_table;
use crate::layer::Layer;

/// More clusters are not watched: those of an image of a petabyte are fewer, and no header may make us remember more.
const MOST: usize = 4 << 20;

/// A kind of metadata; where a cluster holds several, the first is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The header, and that of LUKS.
    Header,
    /// The L1 table.
    ActiveL1,
    /// An L2 table of it.
    ActiveL2,
    /// A block of reference counts.
    CountBlock,
    /// The table of these.
    CountTable,
    /// The list of snapshots.
    SnapshotTable,
    /// The L1 table of a snapshot.
    InactiveL1,
    /// An L2 table of a snapshot.
    InactiveL2,
    /// The list of bitmaps.
    BitmapDirectory,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Header,
        Self::ActiveL1,
        Self::ActiveL2,
        Self::CountBlock,
        Self::CountTable,
        Self::SnapshotTable,
        Self::InactiveL1,
        Self::InactiveL2,
        Self::BitmapDirectory,
    ];

    /// What QEMU calls it in its messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Header => "qcow2_header",
            Self::ActiveL1 => "active L1 table",
            Self::ActiveL2 => "active L2 table",
            Self::CountBlock => "refcount block",
            Self::CountTable => "refcount table",
            Self::SnapshotTable => "snapshot table",
            Self::InactiveL1 => "inactive L1 table",
            Self::InactiveL2 => "inactive L2 table",
            Self::BitmapDirectory => "bitmap directory",
        }
    }
}

/// Some kinds of metadata: those that `overlap-check` asks to be looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u16);

impl Kinds {
    /// `none`.
    pub const NONE: Self = Self(0);
    pub(super) const HEADER: Self = Self::NONE.with(Kind::Header, true);
    pub(super) const L1: Self = Self::NONE.with(Kind::ActiveL1, true);
    pub(super) const L2: Self = Self::NONE.with(Kind::ActiveL2, true);
    /// A table that the disk and snapshots may share.
    pub(super) const ANY_L2: Self = Self::L2.with(Kind::InactiveL2, true);
    pub(super) const COUNT_BLOCK: Self = Self::NONE.with(Kind::CountBlock, true);
    pub(super) const COUNT_TABLE: Self = Self::NONE.with(Kind::CountTable, true);
    pub(super) const BITMAPS: Self = Self::NONE.with(Kind::BitmapDirectory, true);
    /// `constant`: those that are in one piece.
    pub const CONSTANT: Self = Self::NONE
        .with(Kind::Header, true)
        .with(Kind::ActiveL1, true)
        .with(Kind::CountTable, true)
        .with(Kind::SnapshotTable, true)
        .with(Kind::BitmapDirectory, true);
    /// `cached`: those that are known without reading more of the image than its opening does.
    pub const CACHED: Self =
        Self::CONSTANT.with(Kind::ActiveL2, true).with(Kind::CountBlock, true).with(Kind::InactiveL1, true);
    /// `all`: with the L2 tables of snapshots, whose L1 tables are read for it.
    pub const ALL: Self = Self::CACHED.with(Kind::InactiveL2, true);

    /// The same with or without `kind`.
    #[must_use]
    pub const fn with(self, kind: Kind, on: bool) -> Self {
        let bit = 1 << kind as u16;
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }

    fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    fn first(self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| self.has(*kind))
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self::CACHED
    }
}

/// Bits of the filter for each cluster that an image can have metadata in: one false alarm in some sixteen.
const FILTER_BITS: usize = 16;
/// A write to more clusters asks the map at once.
const MOST_FILTERED: u64 = 32;

/// Says quickly, and without a lock, that a cluster holds no metadata. A bit stays when its cluster is freed, which
/// costs a look into the map.
struct Filter {
    words: Box<[AtomicU64]>,
    /// Of the product of a cluster's number, which leaves as many bits as `words` tells apart.
    shift: u32,
}

impl Filter {
    /// For about so many clusters.
    fn new(clusters: usize) -> Self {
        let words = (clusters.clamp(64, MOST) * FILTER_BITS / 64).next_power_of_two();
        // The upper bits of the product depend on all bits of the number.
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), shift: 64 - (64 * words).trailing_zeros() }
    }

    /// The word and the bit of a cluster, by its number.
    #[inline(always)]
    fn place(&self, number: u64) -> (&AtomicU64, u64) {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift;
        (&self.words[(mixed / 64) as usize], 1 << (mixed % 64))
    }

    fn add(&self, number: u64) {
        let (word, bit) = self.place(number);
        word.fetch_or(bit, Ordering::Release);
    }

    #[inline(always)]
    fn may_have(&self, number: u64) -> bool {
        let (word, bit) = self.place(number);
        word.load(Ordering::Acquire) & bit != 0
    }

    fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Release));
    }
}

/// The host clusters with metadata, by their offset.
pub(super) struct Metadata {
    watched: AtomicU16,
    cluster: u64,
    filter: Filter,
    clusters: RwLock<BTreeMap<u64, Kinds>>,
}

impl Metadata {
    /// Nothing yet, and nothing is looked after; it will be in about `expected` clusters, if it comes to that.
    pub(super) fn new(cluster: u64, expected: usize) -> Self {
        Self { watched: AtomicU16::new(0), cluster, filter: Filter::new(expected), clusters: RwLock::default() }
    }

    /// The kinds that are looked after.
    pub(super) fn watched(&self) -> Kinds {
        Kinds(self.watched.load(Ordering::Relaxed))
    }

    /// Has `kinds` looked after; [`Metadata::load`] is next.
    pub(super) fn watch(&self, kinds: Kinds) {
        self.watched.store(kinds.0, Ordering::Relaxed);
    }

    /// Looks for all metadata again. `l1` and `counts` are the image's L1 and refcount tables.
    pub(super) fn load(&self, file: &dyn Layer, header: &Header, l1: &[u64], counts: &[u64]) {
        self.write(BTreeMap::clear);
        self.filter.clear();
        if self.watched() == Kinds::NONE {
            return;
        }
        let end = file.size();
        let add = |kind, offset: u64, bytes: u64| self.add(kind, offset..offset.saturating_add(bytes).min(end));
        let tables = |kind, l1: &[u64]| {
            l1.iter().map(|entry| entry & OFFSET).filter(|at| *at != 0).for_each(|at| add(kind, at, self.cluster));
        };
        self.add(Kind::Header, 0..self.cluster);
        header.crypto_range().into_iter().for_each(|place| add(Kind::Header, place.start, place.end - place.start));
        add(Kind::ActiveL1, header.l1_offset, u64::from(header.l1_size) * 8);
        tables(Kind::ActiveL2, l1);
        tables(Kind::CountBlock, counts);
        add(Kind::CountTable, header.reftable_offset, u64::from(header.reftable_clusters) * self.cluster);
        // Who needs these two says what is wrong with them.
        if let Ok((snapshots, bytes)) = read_table(file, header) {
            add(Kind::SnapshotTable, header.snapshots_offset, bytes);
            let places = snapshots.iter().map(|s| s.l1_offset..s.l1_offset.saturating_add(u64::from(s.l1_size) * 8));
            // Sound ones do not overlap; those of a hostile image are looked at once, however many name them.
            for place in merged(places) {
                let place = place.start..place.end.min(end).max(place.start);
                add(Kind::InactiveL1, place.start, place.end - place.start);
                if self.watched().has(Kind::InactiveL2) {
                    self.add_tables_of(file, place);
                }
            }
        }
        if let Ok(Some((offset, bytes, _))) = bitmap::directory(file, header) {
            add(Kind::BitmapDirectory, offset, bytes);
        }
    }

    /// The L2 tables that the L1 tables of snapshots in `place` name, a piece of them at a time. A hole names nothing, however
    /// large it is.
    fn add_tables_of(&self, file: &dyn Layer, place: Range<u64>) {
        const PIECE: u64 = 1 << 20;
        let mut start = place.start;
        while place.end.saturating_sub(start) >= 8 {
            let rest = (place.end - start) & !7;
            // What cannot be told is read.
            let (len, is_hole) =
                file.status(start, rest).map_or((rest, false), |there| (there.len.min(rest), there.zero));
            if is_hole && len >= 8 {
                start += len & !7;
                continue;
            }
            let len = len.next_multiple_of(8).clamp(8, PIECE);
            let l1 = read_words(file, start, len / 8);
            start += len;
            let Ok(l1) = l1 else { continue };
            for table in l1.iter().map(|entry| entry & OFFSET).filter(|table| *table != 0) {
                self.add(Kind::InactiveL2, table..table.saturating_add(self.cluster).min(file.size()));
            }
        }
    }

    /// A range of the file holds metadata from now on.
    pub(super) fn add(&self, kind: Kind, range: Range<u64>) {
        if !self.watched().has(kind) {
            return;
        }
        self.write(|clusters| {
            for offset in self.clusters_of(range) {
                if clusters.len() >= MOST {
                    return;
                }
                let kinds = clusters.entry(offset).or_insert(Kinds::NONE);
                *kinds = kinds.with(kind, true);
                self.filter.add(offset / self.cluster);
            }
        });
    }

    /// A range of the file holds no metadata of the disk any more. A snapshot may share a table with it, which is known
    /// until all is looked for again, as after each change of snapshots.
    pub(super) fn forget(&self, range: Range<u64>) {
        let shared = Kinds::NONE.with(Kind::InactiveL2, true);
        self.write(|clusters| {
            let first = range.start & !(self.cluster - 1);
            let mut gone = Vec::new();
            for (&offset, kinds) in clusters.range_mut(first..range.end.max(first)) {
                *kinds = Kinds(kinds.0 & shared.0);
                gone.extend((*kinds == Kinds::NONE).then_some(offset));
            }
            for offset in gone {
                clusters.remove(&offset);
            }
        });
    }

    /// All metadata of one kind is in `range` from now on.
    pub(super) fn replace(&self, kind: Kind, range: Range<u64>) {
        self.write(|clusters| {
            clusters.retain(|_, kinds| {
                *kinds = kinds.with(kind, false);
                *kinds != Kinds::NONE
            });
        });
        self.add(kind, range);
    }

    /// Whether the cluster at `host` is seen at a glance to hold no metadata.
    #[inline]
    pub(super) fn is_clear(&self, host: u64, cluster_bits: u32) -> bool {
        !self.filter.may_have(host >> cluster_bits)
    }

    /// What a write to a range of the file would overwrite, `writing` (which belongs there) apart.
    pub(super) fn find(&self, range: Range<u64>, writing: Kinds) -> Option<Kind> {
        let first = range.start & !(self.cluster - 1);
        let bits = self.cluster.trailing_zeros();
        let (one, end) = (range.start >> bits, (range.end + (self.cluster - 1)) >> bits);
        if end - one <= MOST_FILTERED && !(one..end).any(|number| self.filter.may_have(number)) {
            return None;
        }
        let clusters = self.clusters.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = clusters.range(first..range.end.max(first));
        found.find_map(|(_, kinds)| Kinds(kinds.0 & !writing.0).first())
    }

    fn clusters_of(&self, range: Range<u64>) -> impl Iterator<Item = u64> + use<> {
        (range.start & !(self.cluster - 1)..range.end).step_by(self.cluster as usize)
    }

    fn write(&self, change: impl FnOnce(&mut BTreeMap<u64, Kinds>)) {
        change(&mut self.clusters.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The same bytes in ranges that do not overlap, from the first to the last.
fn merged(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::{Kind, Kinds, Metadata, merged};
    use crate::protocol::file::{FileOptions, HostFile};

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let ranges = [30..40, 0..10, 10..12, 5..8, 35..50, 60..60];
        assert_eq!(merged(ranges.into_iter()), [0..12, 30..50, 60..60]);
    }

    /// A terabyte of them, which would take minutes to read.
    #[test]
    fn tables_in_holes_are_passed_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        for (place, table) in [(8u64, 1u64 << 20), (1 << 39, 1 << 21), ((1 << 40) - 8, 1 << 22)] {
            file.as_file().write_all_at(&table.to_be_bytes(), place).unwrap();
        }
        let host = HostFile::open(file.path(), FileOptions::default()).unwrap();
        let metadata = Metadata::new(65536, 8);
        metadata.watch(Kinds::ALL);

        metadata.add_tables_of(&host, 0..1 << 40);

        let found = [1 << 20, 1 << 21, 1 << 22, 1 << 23].map(|at| metadata.find(at..at + 1, Kinds::NONE));
        assert_eq!(found, [Some(Kind::InactiveL2), Some(Kind::InactiveL2), Some(Kind::InactiveL2), None]);
    }
}
