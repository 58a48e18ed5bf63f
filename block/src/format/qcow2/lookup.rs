//! From a guest range to what is there.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::{Entry, Fault, Mapping, OFFSET, SUBCLUSTERS};
use super::header::corrupt;
use super::maps::{Gate, Maps, Slice, Slicing};
use super::overlap::Kinds;
use super::{Qcow2, SHARDS, lock};
use crate::error::BlockError;
use crate::layer::{Fast, FastOp, Layer, Mapped, read_vec};

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) mapping: Mapping,
    /// Host offset of the first byte, for data.
    pub(super) host: u64,
    pub(super) len: u64,
    /// May be overwritten in place, for data.
    pub(super) copied: bool,
    /// The first byte's entry.
    pub(super) entry: Entry,
    /// What is wrong with that entry.
    pub(super) fault: Option<Fault>,
}

impl Qcow2 {
    /// The run at `offset`, at most `len` bytes; `Err(key)` names a slice that is not in memory.
    #[inline]
    pub(super) fn run(&self, maps: &Maps, offset: u64, len: u64) -> Result<Run, u64> {
        let geometry = self.geometry;
        let slicing = maps.slicing;
        let len = len.min(slicing.end(offset) - offset);
        let l1 = maps.l1.get(geometry.l1_index(offset)).copied().unwrap_or(0);
        if l1 & OFFSET == 0 {
            let entry = Entry::default();
            return Ok(Run { mapping: Mapping::Absent, host: 0, len, copied: false, entry, fault: None });
        }
        let key = slicing.key(offset);
        let slice = maps.get(key).ok_or(key)?;
        Ok(self.run_in(slice, slicing, offset, len))
    }

    fn run_in(&self, slice: &Slice, slicing: Slicing, offset: u64, len: u64) -> Run {
        let g = self.geometry;
        let (unit, cluster) = (g.subcluster(), g.cluster());
        let sub_of = |at: u64| if g.extended { (at / unit) % SUBCLUSTERS } else { 0 };
        let entry = slice.entry(slicing.index(offset), g.extended);
        let mapping = entry.mapping(g.extended, g.external, sub_of(offset));
        let within = offset & (cluster - 1);
        let host = if let Mapping::Data(host) = mapping { host + within } else { 0 };
        let mut run = Run { mapping, host, len: 0, copied: entry.is_copied(), entry, fault: self.fault(entry) };
        // Most requests end where they began: in one unit of allocation.
        if (within & (unit - 1)) + len <= unit && mapping != Mapping::Compressed && run.fault.is_none() {
            run.len = len;
            return run;
        }
        if mapping == Mapping::Compressed || run.fault.is_some() {
            run.len = len.min(cluster - within);
            return run;
        }
        let mut at = offset;
        let end = offset + len;
        loop {
            at = (at | (unit - 1)) + 1;
            if at >= end {
                run.len = len;
                return run;
            }
            let next = slice.entry(slicing.index(at), g.extended);
            let mapping = next.mapping(g.extended, g.external, sub_of(at));
            let same = match (run.mapping, mapping) {
                (Mapping::Data(_), Mapping::Data(host)) => {
                    host + (at & (cluster - 1)) == run.host + (at - offset) && next.is_copied() == run.copied
                }
                // A zero cluster with a place in the file is another than one without: `map` tells it.
                (first, other) => first == other && next.host().is_some() == entry.host().is_some(),
            };
            if !same || self.fault(next).is_some() {
                run.len = at - offset;
                return run;
            }
        }
    }

    /// What is wrong with an entry of this image.
    fn fault(&self, entry: Entry) -> Option<Fault> {
        let g = self.geometry;
        let fault = entry.fault(g.cluster_bits, g.extended);
        // Cluster 0 is the header's.
        let in_header = !g.external && entry.host().is_some_and(|host| host < g.cluster());
        fault.or(in_header.then_some(Fault::InHeader))
    }

    /// The run at `offset`, reading its slice if need be, with a token that keeps its host clusters from being reused.
    pub(super) fn find(&self, offset: u64, len: u64) -> Result<(Run, Arc<()>), BlockError> {
        loop {
            let found = {
                let maps = self.maps();
                let open = maps.gate != Gate::Closed;
                open.then(|| self.run(&maps, offset, len).map(|run| (run, maps.token.clone())))
            };
            match found {
                // Whoever holds the lock on the allocator found the gate open and keeps it so.
                None => drop(self.wait_settled(lock(&self.alloc), &(0..0))?),
                Some(Ok((Run { fault: Some(fault), .. }, _))) => {
                    return Err(corrupt(format!("qcow2 L2 entry for guest offset {offset:#x}: {fault}")));
                }
                Some(Ok(found)) => return Ok(found),
                Some(Err(key)) => self.load_slice(key)?,
            }
        }
    }

    /// Reads a slice into memory, unless another thread was faster.
    pub(super) fn load_slice(&self, key: u64) -> Result<(), BlockError> {
        let _one = lock(&self.loading[key as usize % SHARDS]);
        let (l1, slicing, _token) = {
            let maps = self.maps();
            // What is read while the image changes as a whole would be old when it is put in.
            if maps.contains(key) || maps.gate == Gate::Closed {
                return Ok(());
            }
            let l1 = maps.l1.get(maps.slicing.l1_index(key)).copied().unwrap_or(0);
            (l1, maps.slicing, maps.token.clone())
        };
        let table = self.checked_table(l1)?;
        if table == 0 {
            return Ok(());
        }
        let bytes = read_vec(self.file.as_ref(), table + slicing.place(key), slicing.bytes() as usize)?;
        let words: Box<[u64]> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect();
        self.maps_mut().insert(key, Slice::new(words));
        Ok(())
    }

    /// Host offset of the L2 table that an L1 entry names, 0 for none.
    pub(super) fn checked_table(&self, l1: u64) -> Result<u64, BlockError> {
        let table = l1 & OFFSET;
        if table & (self.geometry.cluster() - 1) != 0 {
            return Err(corrupt(format!(
                "qcow2 L1 entry {l1:#x}: the table's offset is not a multiple of the cluster"
            )));
        }
        if table != 0 && table >= self.file.size() {
            return Err(corrupt(format!("qcow2 L1 entry {l1:#x}: the table is past the end of the file")));
        }
        Ok(table)
    }

    /// [`crate::layer::Layer::mapped`]: a range that lies in one whole, standard cluster, as nearly all do of a disk in use.
    ///
    /// All that decides is looked at with the map locked, and anew for each request. The answer holds after that: the
    /// token is taken under the lock, and while a clone of it lives the cluster is not taken for other bytes, nor does
    /// anybody change the image as a whole (see "Why a kill cannot alias clusters").
    #[inline]
    pub(super) fn mapped_range(&self, op: FastOp, offset: u64, len: u64) -> Option<Mapped> {
        let geometry = &self.geometry;
        let within = offset & geometry.within;
        if len > geometry.within + 1 - within || geometry.extended || self.crypt.is_some() {
            return None;
        }
        let maps = self.maps.try_read().ok()?;
        if maps.gate != Gate::Open || !self.is_ready(op) {
            return None;
        }
        let entry = maps.get(maps.slicing.key(offset))?.plain_entry(maps.slicing.index(offset))?;
        // L1 entries lose their tables while the gate is closed only, and no slice stays in memory then.
        debug_assert!(maps.l1.get(geometry.l1_index(offset)).is_some_and(|l1| l1 & OFFSET != 0));
        // Cluster 0 is the header's; in an external data file it is told from "absent" elsewhere.
        let host = entry.standard(geometry.within).filter(|host| *host != 0)?;
        if op == FastOp::Write && !(entry.is_copied() && self.guard.metadata.is_clear(host, geometry.cluster_bits)) {
            return None;
        }
        Some(Mapped { offset: host + within, token: maps.token.clone() })
    }

    /// Whether requests may go by the fast way at all. The first write changes the header, and bitmaps record each. To be
    /// asked with the map locked and the gate open: after a change of the image as a whole it may be otherwise.
    #[inline]
    fn is_ready(&self, op: FastOp) -> bool {
        let slow_write = || !self.touched.load(Ordering::Acquire) || self.tracking.load(Ordering::Acquire);
        !self.guard.is_dead() && op != FastOp::Flush && !(op == FastOp::Write && slow_write())
    }

    /// [`crate::layer::Layer::fast`]; where the layer beneath has the answer that one is put into `beneath`.
    pub(super) fn fast_range(&self, op: FastOp, offset: u64, len: u64, beneath: &mut Option<Arc<dyn Layer>>) -> Fast {
        if op == FastOp::Flush {
            return self.fast_flush();
        }
        if let Some(mapped) = self.mapped_range(op, offset, len) {
            return self.fast_data(mapped, op, len);
        }
        if self.crypt.is_some() {
            return Fast::Slow;
        }
        let Ok(maps) = self.maps.try_read() else { return Fast::Slow };
        if maps.gate != Gate::Open || !self.is_ready(op) {
            return Fast::Slow;
        }
        match self.look_closer(&maps, op, offset, len, beneath) {
            Ok(mapped) => {
                drop(maps);
                self.fast_data(mapped, op, len)
            }
            Err(answer) => answer,
        }
    }

    /// What a flush takes.
    fn fast_flush(&self) -> Fast {
        if self.guard.is_dead() {
            Fast::Slow
        } else if self.read_only {
            Fast::Done
        } else if self.dirty.load(Ordering::Acquire) || self.geometry.external {
            Fast::Slow
        } else {
            self.file.fast(FastOp::Flush, 0, 0)
        }
    }

    /// Where the request's bytes are, or the answer where that is not asked or not to be had at once.
    fn look_closer(
        &self,
        maps: &Maps,
        op: FastOp,
        offset: u64,
        len: u64,
        beneath: &mut Option<Arc<dyn Layer>>,
    ) -> Result<Mapped, Fast> {
        let run = self.run(maps, offset, len).map_err(|_| Fast::Slow)?;
        if run.len < len || run.fault.is_some() {
            return Err(Fast::Slow);
        }
        match run.mapping {
            // The slow way tells what is wrong.
            Mapping::Data(_) if op == FastOp::Write && (!run.copied || self.overlaps(&(run.host..run.host + len))) => {
                Err(Fast::Slow)
            }
            Mapping::Data(_) => Ok(Mapped { offset: run.host, token: maps.token.clone() }),
            Mapping::Zero if op == FastOp::Read => Err(Fast::Zero),
            Mapping::Absent if op == FastOp::Read && !self.geometry.raw_data => Err(match &maps.backing {
                None => Fast::Zero,
                Some(backing) => match backing.size() {
                    size if offset >= size => Fast::Zero,
                    size if offset + len <= size => {
                        *beneath = Some(backing.clone());
                        Fast::Slow
                    }
                    _ => Fast::Slow,
                },
            }),
            _ => Err(Fast::Slow),
        }
    }

    /// The answer for bytes that are in a place of the data file.
    fn fast_data(&self, mapped: Mapped, op: FastOp, len: u64) -> Fast {
        let mut fast = self.data.fast(op, mapped.offset, len);
        match &mut fast {
            Fast::Direct(direct) if direct.pass.token.is_none() => direct.pass.token = Some(mapped.token),
            // A layer beneath with tokens of its own: the slow way keeps both.
            _ => return Fast::Slow,
        }
        fast
    }

    /// Whether a write to guest data at `host` would overwrite metadata.
    fn overlaps(&self, host: &Range<u64>) -> bool {
        !self.geometry.external && self.guard.metadata.find(host.clone(), Kinds::NONE).is_some()
    }
}
