//! Discards and zeroes: changes of the map alone.

use std::ops::Range;

use super::entry::{Entry, OFFSET};
use super::{Qcow2, lock};
use crate::error::BlockError;
use crate::layer::Status;
use crate::mem::Source;

/// Bytes of zeroes written at a time where the map cannot say zero.
const STEP: u64 = 1 << 20;

impl Qcow2 {
    /// Whether the whole range reads as zeroes, by the map alone.
    pub(super) fn is_zero(&self, range: Range<u64>) -> Result<bool, BlockError> {
        self.is_all(range, |status| status.zero)
    }

    /// Whether all of a range is such, by the map alone.
    fn is_all(&self, range: Range<u64>, such: impl Fn(&Status) -> bool) -> Result<bool, BlockError> {
        let mut at = range.start;
        while at < range.end {
            let status = self.status_by_map(at, range.end - at)?;
            if !such(&status) {
                return Ok(false);
            }
            at += status.len.max(1);
        }
        Ok(true)
    }

    /// The whole clusters in a range of the disk; a last cluster that the disk cuts short counts as whole.
    fn whole_clusters(&self, offset: u64, end: u64) -> Range<u64> {
        let cluster = self.geometry.cluster();
        let start = offset.next_multiple_of(cluster);
        let end = if end >= self.size.load(std::sync::atomic::Ordering::Acquire) {
            end.next_multiple_of(cluster)
        } else {
            end & !(cluster - 1)
        };
        start..end.max(start)
    }

    pub(super) fn discard_range(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.touch()?;
        self.record(offset, len);
        let whole = self.whole_clusters(offset, offset + len);
        if self.geometry.external && !whole.is_empty() {
            let end = whole.end.min(offset + len);
            self.data.write_zeroes(whole.start, end - whole.start, true)?;
        }
        let stands = self.stands();
        let g = self.geometry;
        self.change_entries(whole, true, |old| match (stands, g.version) {
            // Nothing shows through: forget it.
            (false, _) => Some(Entry { word: 0, bitmap: 0 }),
            // A guest that discards must not see the backing file's old bytes come up.
            (true, 3) if old.word & OFFSET != 0 || old.is_compressed() => Some(old.zeroed(g.extended, false)),
            _ => None,
        })
    }

    pub(super) fn zero_range(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.zero_over(offset, len, unmap, self.stands())
    }

    /// Marks whole clusters as zero, also where they are absent and nothing lies beneath: something is about to.
    ///
    /// # Errors
    /// As [`crate::layer::Layer::write_zeroes`].
    pub fn cover(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.writable()?;
        self.zero_over(offset, len, true, true)
    }

    /// Zeroes a range; `beneath` says whether absent clusters show (or will show) something else.
    fn zero_over(&self, offset: u64, len: u64, unmap: bool, beneath: bool) -> Result<(), BlockError> {
        self.touch()?;
        self.record(offset, len);
        let end = offset + len;
        let g = self.geometry;
        if g.version == 2 && (beneath || !unmap) {
            return self.write_zero_bytes(offset..end);
        }
        let whole = self.whole_clusters(offset, end);
        if whole.is_empty() {
            return self.write_zero_bytes(offset..end);
        }
        self.write_zero_bytes(offset..whole.start)?;
        if g.external {
            let end = whole.end.min(end);
            self.data.write_zeroes(whole.start, end - whole.start, unmap)?;
        }
        self.change_entries(whole.clone(), !beneath, |old| {
            let absent = old.word == 0 && (!g.extended || old.bitmap == 0);
            if g.version == 2 || (absent && !beneath) {
                return Some(Entry { word: 0, bitmap: if g.extended { 0 } else { old.bitmap } });
            }
            Some(old.zeroed(g.extended, g.external || (!unmap && old.is_copied())))
        })?;
        self.write_zero_bytes(whole.end.min(end)..end)
    }

    /// Writes zeroes as data, unless the map says that they are there, and will be whatever comes to lie beneath.
    pub(super) fn write_zero_bytes(&self, range: Range<u64>) -> Result<(), BlockError> {
        let awaits = self.backing().is_none() && self.stands();
        if range.is_empty() || self.is_all(range.clone(), |status| status.zero && (status.allocated || !awaits))? {
            return Ok(());
        }
        let zeroes = vec![0u8; (range.end - range.start).min(STEP) as usize];
        let mut at = range.start;
        while at < range.end {
            let take = (range.end - at).min(STEP);
            self.write_range(Source::of(&zeroes[..take as usize]), at)?;
            at += take;
        }
        Ok(())
    }

    /// Gives `change` every entry of `range` (whole clusters) and puts in what it answers. Where there is no L2 table
    /// nothing is done if `skip_absent`.
    pub(super) fn change_entries(
        &self,
        range: Range<u64>,
        skip_absent: bool,
        change: impl Fn(Entry) -> Option<Entry>,
    ) -> Result<(), BlockError> {
        let g = self.geometry;
        let mut at = range.start;
        while at < range.end {
            self.relieve()?;
            let end = self.maps().slicing.end(at).min(range.end);
            let mut alloc = self.wait_settled(lock(&self.alloc), &(at..end))?;
            if self.maps().l1.get(g.l1_index(at)).is_none_or(|l1| l1 & OFFSET == 0) && skip_absent {
                at = ((at >> g.l2_span_bits) + 1).checked_shl(g.l2_span_bits).unwrap_or(u64::MAX);
                continue;
            }
            let mut ready = false;
            while at < end {
                let old = self.find(at, 1)?.0.entry;
                if let Some(new) = change(old).filter(|new| *new != old) {
                    if !ready {
                        self.ensure_table(&mut alloc, at)?;
                        ready = true;
                    }
                    self.set_entry(at, new)?;
                    if old.is_compressed() || old.host() != new.host() {
                        self.free_entry(&mut alloc, old, true)?;
                    }
                }
                at += g.cluster();
            }
        }
        Ok(())
    }
}
