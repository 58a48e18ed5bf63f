//! Growing and shrinking the disk.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::entry::{ALL_ALLOCATED, Entry, Mapping, OFFSET};
use super::header::corrupt;
use super::overlap::{Kind, Kinds};
use super::refcount::Freed;
use super::{Alloc, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Preallocation, write_all};
use crate::mem::Source;

/// Largest L1 table, in bytes.
pub(super) const MOST_L1: u64 = 32 << 20;

impl Qcow2 {
    pub(super) fn resize_to(&self, size: u64, preallocation: Preallocation) -> Result<(), BlockError> {
        if !size.is_multiple_of(512) {
            return Err(BlockError::new(ErrorKind::Invalid, "The new size must be a multiple of 512"));
        }
        self.touch()?;
        let old = self.size.load(Ordering::Acquire);
        let former = self.file.size();
        // The header's version: an amendment may just have raised it.
        let (snapshots, version) = {
            let header = &lock(&self.alloc).header;
            (header.snapshots, header.version)
        };
        if snapshots > 0 && version == 2 {
            let text = "Can't resize a v2 image which has snapshots";
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        // As at its creation: what the data file has is to be seen.
        let map_only = size > old && self.geometry.raw_data && preallocation == Preallocation::Off;
        let preallocation = if map_only { Preallocation::Metadata } else { preallocation };
        let mut placed = old;
        if size < old {
            if preallocation != Preallocation::Off {
                return Err(BlockError::new(ErrorKind::Invalid, "Preallocation can't be used for shrinking an image"));
            }
            self.forget_from(size)?;
        } else {
            // What lies past the old end in its last cluster must read as zeroes.
            self.clear_tail(old, size)?;
            self.grow_l1(size)?;
            placed = self.hide_backing(old, size)?;
        }
        self.write_back()?;
        if self.geometry.external {
            let kind = if preallocation == Preallocation::Metadata { Preallocation::Off } else { preallocation };
            self.data.resize(size, kind)?;
        }
        {
            let mut alloc = lock(&self.alloc);
            self.switch_header(&mut alloc, 24, &size.to_be_bytes())?;
            alloc.header.size = size;
            self.size.store(size, Ordering::Release);
            self.fit_bitmaps();
        }
        if size > old {
            let mut places = Vec::new();
            let done = self.preallocate_at(placed..size, preallocation, &mut places).and_then(|()| self.write_back());
            return done.inspect_err(|_| {
                self.shrink_back(old, former, &places).unwrap_or_else(|e| self.shrink_alone(old, &e));
            });
        }
        self.write_back()
    }

    /// Makes the disk what it was before it grew from `old` bytes, when its file had `former`: the space at `places` was
    /// set aside for what is new.
    fn shrink_back(&self, old: u64, former: u64, places: &[Range<u64>]) -> Result<(), BlockError> {
        let g = self.geometry;
        let end = self.size.load(Ordering::Acquire);
        // All of it is zero. The file system may be full: what comes now needs space.
        for place in places {
            self.data.write_zeroes(place.start, place.end - place.start, true)?;
        }
        self.forget_from(old)?;
        if g.external {
            self.data.resize(old, Preallocation::Off)?;
        }
        self.exclusively(|alloc| {
            let file = self.file.as_ref();
            // Tables of what is new alone, which say nothing any more.
            let new = g.l1_index(old.next_multiple_of(1 << g.l2_span_bits))..g.l1_index(end - 1) + 1;
            let mut l1 = self.maps().l1.clone();
            let entries = l1.get_mut(new.clone()).unwrap_or_default();
            let tables: Vec<u64> = entries.iter().map(|entry| *entry & OFFSET).filter(|table| *table != 0).collect();
            entries.fill(0);
            if !tables.is_empty() {
                let place = alloc.header.l1_offset + 8 * new.start as u64;
                self.guard.write(Kinds::L1, &vec![0; 8 * entries.len()], place)?;
            }
            self.switch_header(alloc, 24, &old.to_be_bytes())?;
            self.maps_mut().l1 = l1;
            alloc.header.size = old;
            self.size.store(old, Ordering::Release);
            self.fit_bitmaps();
            for offset in tables {
                alloc.counts.release(file, Freed { offset, clusters: 1, discard: false })?;
            }
            self.write_counts(alloc)?;
            file.flush()?;
            self.cut_file(alloc, former)
        })
    }

    /// Makes the disk what it was by its header alone, which needs no space; `why` it cannot give back what it took.
    fn shrink_alone(&self, old: u64, why: &BlockError) {
        let mut alloc = lock(&self.alloc);
        if self.size.load(Ordering::Acquire) == old {
            return;
        }
        // Entries past the end do no harm: what they name is zeroes.
        let said = match self.switch_header(&mut alloc, 24, &old.to_be_bytes()) {
            Ok(()) => {
                alloc.header.size = old;
                self.size.store(old, Ordering::Release);
                self.fit_bitmaps();
                "space that it took is lost until `check -r leaks`"
            }
            Err(_) => "the disk stays larger",
        };
        log::warn!("qcow2: after the disk's growth failed, {said}: {}", why.sentence());
    }

    /// Cuts off what is free at the end of the file, as far as `former` bytes.
    fn cut_file(&self, alloc: &mut Alloc, former: u64) -> Result<(), BlockError> {
        let file = self.file.as_ref();
        let cluster = self.geometry.cluster();
        let mut end = file.size().next_multiple_of(cluster);
        while end > former && alloc.counts.get(file, end / cluster - 1)? == 0 {
            end -= cluster;
        }
        let end = end.max(former);
        if end < file.size() {
            file.resize(end, Preallocation::Off)?;
            alloc.counts.written_end = end;
        }
        Ok(())
    }

    /// Frees every cluster wholly past `size`.
    fn forget_from(&self, size: u64) -> Result<(), BlockError> {
        let g = self.geometry;
        let start = size.next_multiple_of(g.cluster());
        let end = self.size.load(Ordering::Acquire).next_multiple_of(g.cluster());
        self.change_entries(start..end, true, |_| {
            Some(Entry { word: 0, bitmap: if g.extended { 0 } else { ALL_ALLOCATED } })
        })
    }

    /// Writes zeroes from the old end to the end of its cluster, where data are left from before a shrink.
    fn clear_tail(&self, old: u64, size: u64) -> Result<(), BlockError> {
        let end = old.next_multiple_of(self.geometry.cluster()).min(size);
        if old < end && !self.is_zero(old..end)? { self.write_zero_bytes(old..end) } else { Ok(()) }
    }

    /// Makes what is new read as zeroes where the backing file is longer than the disk was. Before the header says the
    /// new size, so that a kill shows nothing of it. Gives the end of what has places in the file now.
    fn hide_backing(&self, old: u64, size: u64) -> Result<u64, BlockError> {
        let g = self.geometry;
        let start = old.next_multiple_of(g.cluster());
        let end = self.maps().backing.as_ref().map_or(0, |backing| backing.size()).min(size);
        if start >= end {
            return Ok(old);
        }
        if g.version == 2 {
            return self.write_zero_bytes(start..end).map(|()| end);
        }
        let end = end.next_multiple_of(g.cluster());
        self.change_entries(start..end, false, |entry| Some(entry.zeroed(g.extended, true)))?;
        Ok(old)
    }

    /// Moves the L1 table to where it has room for a disk of `size` bytes.
    fn grow_l1(&self, size: u64) -> Result<(), BlockError> {
        let _flushing = lock(&self.flushing);
        let mut alloc = lock(&self.alloc);
        let needed = alloc.header.l1_needed(size);
        if needed <= u64::from(alloc.header.l1_size) {
            return Ok(());
        }
        if needed * 8 > MOST_L1 {
            return Err(BlockError::new(ErrorKind::NoSpace, "The image size is too large for the cluster size"));
        }
        let file = self.file.as_ref();
        self.dirty.store(true, Ordering::Release);
        let clusters = (needed * 8).div_ceil(self.geometry.cluster());
        let taken = alloc.counts.take_run(file, clusters)?;
        // Entries that the disk does not have yet stay out: their tables are not written.
        let unlinked = alloc.unlinked.clone();
        let disk = super::open::read_words(file, alloc.header.l1_offset, u64::from(alloc.header.l1_size))?;
        let mut bytes: Vec<u8> = disk.iter().flat_map(|e| e.to_be_bytes()).collect();
        bytes.resize((clusters * self.geometry.cluster()) as usize, 0);
        let written = write_all(file, &bytes, taken.offset).and_then(|()| self.write_counts(&mut alloc));
        written.and_then(|()| file.flush()).inspect_err(|_| alloc.counts.untake(taken))?;
        let old = Freed {
            offset: alloc.header.l1_offset,
            clusters: (u64::from(alloc.header.l1_size) * 8).div_ceil(self.geometry.cluster()),
            discard: false,
        };
        let mut fields = (needed as u32).to_be_bytes().to_vec();
        fields.extend(taken.offset.to_be_bytes());
        self.switch_header(&mut alloc, 36, &fields)?;
        alloc.header.l1_size = needed as u32;
        alloc.header.l1_offset = taken.offset;
        alloc.unlinked = unlinked;
        self.guard.metadata.replace(Kind::ActiveL1, taken.offset..taken.offset + needed * 8);
        if old.clusters > 0 {
            alloc.counts.pending.push(old);
        }
        self.maps_mut().l1.resize(needed as usize, 0);
        Ok(())
    }

    /// Gives every cluster of `range` a place, in order.
    pub(super) fn preallocate(&self, range: Range<u64>, how: Preallocation) -> Result<(), BlockError> {
        self.preallocate_at(range, how, &mut Vec::new())
    }

    /// The same; notes in `places` what it takes of the file, also where it fails.
    fn preallocate_at(
        &self,
        range: Range<u64>,
        how: Preallocation,
        places: &mut Vec<Range<u64>>,
    ) -> Result<(), BlockError> {
        if how == Preallocation::Off || range.is_empty() {
            return Ok(());
        }
        self.touch()?;
        let g = self.geometry;
        let mut at = range.start.next_multiple_of(g.cluster());
        while at < range.end {
            self.relieve()?;
            let mut alloc = self.wait_settled(lock(&self.alloc), &(at..at + g.cluster()))?;
            self.ensure_table(&mut alloc, at)?;
            // Its slice now: what is taken after this is named.
            self.find(at, 1)?;
            let end = self.maps().slicing.end(at).min(range.end.next_multiple_of(g.cluster()));
            let wanted = (end - at) / g.cluster();
            let (host, got) = if g.external {
                (at, wanted)
            } else {
                let taken = alloc.counts.take(self.file.as_ref(), wanted)?;
                let end = taken.offset + taken.clusters * g.cluster();
                match places.last_mut() {
                    Some(last) if last.end == taken.offset => last.end = end,
                    _ => places.push(taken.offset..end),
                }
                // Tables come to lie between the runs, so space cannot be reserved at the file's end alone.
                let reserved = matches!(how, Preallocation::Falloc | Preallocation::Full);
                if reserved || !taken.fresh {
                    let (bytes, unmap) = (taken.clusters * g.cluster(), !reserved);
                    let zeroed = self.data.write_zeroes(taken.offset, bytes, unmap);
                    zeroed.inspect_err(|_| alloc.counts.untake(taken))?;
                }
                (taken.offset, taken.clusters)
            };
            let bitmap = if g.extended && !g.raw_data { 0 } else { ALL_ALLOCATED };
            // Zeroes that are not encrypted would read as noise: the map says zero, or zeroes are encrypted below.
            let marked = self.crypt.is_some() && g.version == 3 && !g.extended;
            let start = at;
            for n in 0..got {
                let old = self.find(at, 1)?.0.entry;
                if g.external && old.is_copied() {
                    // An external cluster has only one place, and this one is in it.
                    at += g.cluster();
                    continue;
                }
                if old.word & OFFSET != 0 {
                    return Err(corrupt("a cluster past the end of the disk is in use"));
                }
                let entry = Entry::data(host + n * g.cluster(), bitmap);
                // What is marked as zero hides a backing file and stays so.
                let marked = marked || self.find(at, 1)?.0.mapping == Mapping::Zero;
                self.set_entry(at, if marked { entry.zeroed(g.extended, true) } else { entry })?;
                at += g.cluster();
            }
            drop(alloc);
            if self.crypt.is_some() && g.version == 2 {
                self.write_range(Source::of(&vec![0; (at - start) as usize]), start)?;
            }
        }
        if !g.external {
            // The file covers all it names: for holes that is its length, else reserved space.
            let end = lock(&self.alloc).counts.written_end();
            if self.file.size() < end {
                let kind = if how == Preallocation::Falloc { Preallocation::Falloc } else { Preallocation::Off };
                self.file.resize(end, kind)?;
            }
        }
        Ok(())
    }
}
