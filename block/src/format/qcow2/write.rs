//! Writing: in place where the cluster is ours alone, else prepare, write the data, commit.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::{ALL_ALLOCATED, COPIED, Entry, Mapping, OFFSET};
use super::header::{AUTOCLEAR_BITMAPS, incompatible};
use super::overlap::{Kind, Kinds};
use super::refcount::{Freed, Taken};
use super::{Alloc, Qcow2, lock};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec, write_all};
use crate::mem::Source;

/// What to do with the start of a write.
enum Step {
    /// Overwrite `len` bytes at `host`.
    InPlace { host: u64, len: u64, _token: Arc<()> },
    /// Write to clusters that no table names yet.
    New(Prepared),
}

/// Clusters in preparation. Registered in `Alloc::in_flight` until committed or undone.
struct Prepared {
    /// Whole clusters of the guest.
    guest: Range<u64>,
    /// First byte of the host clusters.
    host: u64,
    /// What to give back if it comes to nothing; none for a cluster that the entry kept.
    taken: Option<Taken>,
    /// Bytes that get content: the write, and what must be copied around it.
    fill: Range<u64>,
    _token: Arc<()>,
}

/// Most bytes that are gathered into one write with what is copied around them.
const GATHER: u64 = 4 << 20;

/// Runs waiting to be freed above which a write flushes first.
const MOST_PENDING: usize = 1 << 16;

impl Qcow2 {
    pub(super) fn write_range(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.touch()?;
        self.record(offset, from.len() as u64);
        let mut done = 0;
        while done < from.len() {
            self.relieve()?;
            let at = offset + done as u64;
            let part = match self.plan(at, (from.len() - done) as u64)? {
                Step::InPlace { host, len, _token } => {
                    self.write_data(from.part(done, len as usize), host, at)?;
                    len
                }
                Step::New(prepared) => {
                    let len = (prepared.fill.end - at).min((from.len() - done) as u64);
                    let result = self.write_new(&prepared, from.part(done, len as usize), at);
                    self.conclude(&prepared, result)?;
                    len
                }
            };
            done += part as usize;
        }
        Ok(())
    }

    /// Writes metadata back when much of it is only in memory.
    pub(super) fn relieve(&self) -> Result<(), BlockError> {
        // Where others hold the lock, one of them will see it.
        let full = || self.alloc.try_lock().is_ok_and(|alloc| alloc.counts.pending.len() > MOST_PENDING);
        if self.maps().is_heavy() || full() {
            self.write_back()?;
        }
        Ok(())
    }

    /// Before the first write: features that we do not keep up are cleared ("autoclear" in the specification).
    pub(super) fn touch(&self) -> Result<(), BlockError> {
        if self.touched.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut alloc = lock(&self.alloc);
        if self.touched.load(Ordering::Acquire) {
            return Ok(());
        }
        self.guard.alive()?;
        alloc.check_not_lost()?;
        if alloc.header.incompatible & incompatible::CORRUPT != 0 {
            return Err(super::header::corrupt("the image is marked corrupt and is not written to"));
        }
        let bitmaps = match self.begin_bitmaps(&alloc) {
            // Broken ones are lost for the disk's sake; what fails for another reason may succeed another time.
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                self.guard.alive()?;
                log::warn!("qcow2: the image's bitmaps are broken and no longer kept: {}", e.sentence());
                false
            }
            other => other?,
        };
        let ours = super::header::AUTOCLEAR_RAW_DATA | if bitmaps { AUTOCLEAR_BITMAPS } else { 0 };
        let kept = alloc.header.autoclear & ours;
        if alloc.header.autoclear != kept {
            self.guard.write(Kinds::HEADER, &kept.to_be_bytes(), 88)?;
            self.file.flush()?;
            alloc.header.autoclear = kept;
        }
        if alloc.lazy {
            self.set_dirty_bit(&mut alloc, true)?;
        }
        self.touched.store(true, Ordering::Release);
        Ok(())
    }

    /// Says in the header whether the counts on disk may be old.
    pub(super) fn set_dirty_bit(&self, alloc: &mut Alloc, on: bool) -> Result<(), BlockError> {
        let bits = alloc.header.incompatible;
        let bits = if on { bits | incompatible::DIRTY } else { bits & !incompatible::DIRTY };
        self.guard.write(Kinds::HEADER, &bits.to_be_bytes(), 72)?;
        self.file.flush()?;
        alloc.header.incompatible = bits;
        Ok(())
    }

    fn plan(&self, at: u64, len: u64) -> Result<Step, BlockError> {
        let g = self.geometry;
        let first = at & !(g.cluster() - 1);
        let mut alloc = self.wait_settled(lock(&self.alloc), &(first..first + g.cluster()))?;
        let (run, token) = self.find(at, len)?;
        if matches!(run.mapping, Mapping::Data(_)) && run.copied {
            // The end of the run may be in preparation; what is in place stays in place all the same.
            return Ok(Step::InPlace { host: run.host, len: run.len, _token: token });
        }
        self.prepare(&mut alloc, at, len, token).map(Step::New)
    }

    /// Takes places for what a write of `len` bytes at `at` (0 for the unit around `at`) needs, and registers them.
    fn prepare(&self, alloc: &mut Alloc, at: u64, len: u64, token: Arc<()>) -> Result<Prepared, BlockError> {
        let g = self.geometry;
        let first = at & !(g.cluster() - 1);
        self.ensure_table(alloc, at)?;
        // The table may just have been made: its slice is there after this.
        let run = self.find(at, len.max(1))?.0;
        let old = run.entry;
        let keeps = old.is_copied() && !old.is_compressed() && (old.host().is_some() || g.external);
        // In a cluster that stays, what is there already is overwritten in place by others meanwhile: nothing of it is
        // read here and written back.
        let len = if keeps { len.min(run.len) } else { len };
        let whole = !g.extended || (at == first && len >= g.cluster());
        let wanted = if keeps || !whole { 1 } else { self.count_new(alloc, first, at + len.max(1))? };
        let taken = if keeps {
            None
        } else if g.external {
            Some(Taken { offset: first, clusters: wanted, fresh: false })
        } else {
            self.release_drained(alloc)?;
            Some(alloc.counts.take(self.file.as_ref(), wanted)?)
        };
        let (host, clusters) = taken.map_or((old.word & OFFSET, 1), |t| (t.offset, t.clusters));
        let guest = first..first + clusters * g.cluster();
        let unit = if old.is_compressed() || (old.host().is_some() && !keeps) { g.cluster() } else { g.subcluster() };
        let end = (at + len.max(1)).min(guest.end);
        let fill = at / unit * unit..end.next_multiple_of(unit);
        alloc.begin(guest.clone());
        Ok(Prepared { guest, host, taken, fill, _token: token })
    }

    /// Copies up what only the backing file has in a range, unless it is zero: afterwards this image has it itself.
    /// A write that comes at the same time is not lost.
    ///
    /// # Errors
    /// As for a read of the backing file and a write here.
    pub(super) fn populate_range(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.writable()?;
        self.touch()?;
        let g = self.geometry;
        let (mut at, end) = (offset, offset + len);
        while at < end {
            self.relieve()?;
            let unit = at / g.subcluster() * g.subcluster()..(at / g.subcluster() + 1) * g.subcluster();
            if self.is_zero(unit.clone())? {
                at = unit.end;
                continue;
            }
            let first = at & !(g.cluster() - 1);
            let mut alloc = self.wait_settled(lock(&self.alloc), &(first..first + g.cluster()))?;
            let (run, token) = self.find(at, end - at)?;
            if run.mapping != Mapping::Absent {
                at += run.len;
                continue;
            }
            let prepared = self.prepare(&mut alloc, at, 0, token)?;
            drop(alloc);
            let result = self.write_new(&prepared, Source::of(&[]), prepared.fill.start);
            self.conclude(&prepared, result)?;
            at = prepared.fill.end;
        }
        Ok(())
    }

    /// How many clusters from `first` on, up to the one with byte `end - 1` and in one slice, all need a new place.
    fn count_new(&self, alloc: &Alloc, first: u64, end: u64) -> Result<u64, BlockError> {
        let g = self.geometry;
        let mut end = end.min(self.maps().slicing.end(first)).next_multiple_of(g.cluster());
        if g.extended && end > first + g.cluster() {
            // Only clusters that are written whole are done together.
            end -= g.cluster();
        }
        let end = alloc.busy_behind(first).map_or(end, |busy| end.min(busy.max(first + g.cluster())));
        let mut at = first + g.cluster();
        while at < end {
            let (run, _) = self.find(at, 1)?;
            if run.entry.is_copied() && !run.entry.is_compressed() {
                break;
            }
            at += g.cluster();
        }
        Ok((at - first) / g.cluster())
    }

    /// Writes the data and what belongs around them.
    fn write_new(&self, prepared: &Prepared, from: Source<'_>, at: u64) -> Result<(), BlockError> {
        let host = |guest: u64| prepared.host + (guest - prepared.guest.start);
        let end = at + from.len() as u64;
        let fill = &prepared.fill;
        // A fresh cluster is zero already, unless what is zero must be encrypted, too.
        let fresh = prepared.taken.is_some_and(|t| t.fresh) && self.crypt.is_none();
        let head = if fresh && self.is_zero(fill.start..at)? { at } else { fill.start };
        let tail = if fresh && self.is_zero(end..fill.end)? { end } else { fill.end };
        if head == at && tail == end {
            return self.write_data(from, host(at), at);
        }
        if tail - head <= GATHER {
            let mut bytes = vec![0; (tail - head) as usize];
            let (inner, outer) = ((at - head) as usize, (end - head) as usize);
            self.read_old(&mut bytes[..inner], head)?;
            from.copy_to(&mut bytes[inner..outer]);
            self.read_old(&mut bytes[outer..], end)?;
            return self.write_data(Source::of(&bytes), host(head), head);
        }
        for edge in [head..at, end..tail] {
            if !edge.is_empty() {
                let mut bytes = vec![0; (edge.end - edge.start) as usize];
                self.read_old(&mut bytes, edge.start)?;
                self.write_data(Source::of(&bytes), host(edge.start), edge.start)?;
            }
        }
        self.write_data(from, host(at), at)
    }

    fn read_old(&self, into: &mut [u8], offset: u64) -> Result<(), BlockError> {
        if into.is_empty() { Ok(()) } else { self.read_range(crate::mem::Sink::of(into), offset) }
    }

    /// Publishes what was prepared, or undoes it.
    fn conclude(&self, prepared: &Prepared, result: Result<(), BlockError>) -> Result<(), BlockError> {
        let mut alloc = lock(&self.alloc);
        let result = result.and_then(|()| self.commit(&mut alloc, prepared));
        if let (Err(_), Some(taken), false) = (&result, prepared.taken, self.geometry.external) {
            self.dirty.store(true, Ordering::Release);
            alloc.counts.untake(taken);
        }
        let ended = alloc.end(&prepared.guest);
        drop(alloc);
        ended.inspect(|waiters| waiters.notify_all());
        result
    }

    fn commit(&self, alloc: &mut Alloc, prepared: &Prepared) -> Result<(), BlockError> {
        let g = self.geometry;
        // Load all first: after this nothing can fail half-way. They lie in one slice.
        self.find(prepared.guest.start, 1)?;
        for (n, at) in prepared.guest.clone().step_by(g.cluster() as usize).enumerate() {
            let old = self.find(at, 1)?.0.entry;
            let host = prepared.host + n as u64 * g.cluster();
            let bitmap = if g.extended { self.filled_bitmap(old, prepared, at) } else { ALL_ALLOCATED };
            self.set_entry(at, Entry::data(host, bitmap))?;
            if prepared.taken.is_some() {
                self.free_entry(alloc, old, false)?;
            }
        }
        Ok(())
    }

    /// The subclusters of the cluster at `at` once its part of `fill` is written.
    fn filled_bitmap(&self, old: Entry, prepared: &Prepared, at: u64) -> u64 {
        let (unit, cluster) = (self.geometry.subcluster(), self.geometry.cluster());
        let start = prepared.fill.start.max(at) - at;
        let end = prepared.fill.end.min(at + cluster) - at;
        let (first, count) = (start / unit, (end - start) / unit);
        let filled = if count >= 32 { ALL_ALLOCATED } else { ((1 << count) - 1) << first };
        // Without a host cluster there was nothing allocated, whatever a foreign image claims.
        let old = if prepared.taken.is_some() { old.bitmap & !ALL_ALLOCATED } else { old.bitmap };
        (old | filled) & !(filled << 32)
    }

    /// Changes one entry in memory, reading its slice again if it was dropped.
    pub(super) fn set_entry(&self, at: u64, entry: Entry) -> Result<(), BlockError> {
        self.dirty.store(true, Ordering::Release);
        loop {
            let mut maps = self.maps_mut();
            let key = maps.slicing.key(at);
            let index = maps.slicing.index(at);
            if maps.set(key, index, self.geometry.extended, entry) {
                return Ok(());
            }
            drop(maps);
            self.load_slice(key)?;
        }
    }

    /// Notes that `old` is no longer named, because the guest discarded it or for another reason.
    ///
    /// # Errors
    /// It named metadata: the image is damaged, and not used any more.
    pub(super) fn free_entry(&self, alloc: &mut Alloc, old: Entry, by_guest: bool) -> Result<(), BlockError> {
        let g = self.geometry;
        let discard = if by_guest { self.discard.request() } else { self.discard.other() };
        if old.is_compressed() {
            let (offset, len) = old.packed(g.cluster_bits);
            let first = offset >> g.cluster_bits;
            let last = (offset + len - 1) >> g.cluster_bits;
            let freed = Freed { offset: first << g.cluster_bits, clusters: last - first + 1, discard: false };
            self.guard.check(freed.offset..(last + 1) << g.cluster_bits, Kinds::NONE)?;
            alloc.counts.pending.push(freed);
        } else if let Some(host) = old.host()
            && !g.external
        {
            self.guard.check(host..host + g.cluster(), Kinds::NONE)?;
            let pending = &mut alloc.counts.pending;
            match pending.last_mut() {
                Some(last) if last.discard == discard && last.offset + last.clusters * g.cluster() == host => {
                    last.clusters += 1;
                }
                _ => pending.push(Freed { offset: host, clusters: 1, discard }),
            }
        }
        Ok(())
    }

    /// Makes an L2 table for `at` that may be changed: a new one, or a copy of one that a snapshot shares.
    pub(super) fn ensure_table(&self, alloc: &mut Alloc, at: u64) -> Result<(), BlockError> {
        let g = self.geometry;
        let index = g.l1_index(at);
        let l1 = self.maps().l1.get(index).copied().unwrap_or(0);
        if l1 & COPIED != 0 && l1 & OFFSET != 0 {
            // Before an entry changes, not when the table is written: the flush that does that may be far.
            let table = l1 & OFFSET;
            return self.guard.check(table..table + g.cluster(), Kinds::L2);
        }
        let old = self.checked_table(l1)?;
        self.release_drained(alloc)?;
        let file: &dyn Layer = self.file.as_ref();
        self.dirty.store(true, Ordering::Release);
        let taken = alloc.counts.take(file, 1)?;
        let written = if old != 0 {
            read_vec(file, old, g.cluster() as usize).and_then(|bytes| write_all(file, &bytes, taken.offset))
        } else {
            // Also where it is zero already: the file must reach as far as its tables do.
            write_all(file, &vec![0; g.cluster() as usize], taken.offset)
        };
        if let Err(e) = written {
            alloc.counts.untake(taken);
            return Err(e);
        }
        self.guard.metadata.add(Kind::ActiveL2, taken.offset..taken.offset + g.cluster());
        // The disk learns of it by the next flush, after the table itself.
        alloc.unlinked.insert(index);
        if let Some(entry) = self.maps_mut().l1.get_mut(index) {
            *entry = taken.offset | COPIED;
        }
        if old != 0 {
            alloc.counts.pending.push(Freed { offset: old, clusters: 1, discard: false });
        }
        Ok(())
    }
}
