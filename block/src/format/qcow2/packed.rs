//! Writing compressed clusters, packed one behind the other ("Compressed Clusters Descriptor" in the specification).
//!
//! A host cluster that several compressed clusters share counts one reference for each. Space is taken at the end of
//! the last one written as long as nothing of that host cluster was freed, else in a new cluster.

use super::entry::{ALL_ALLOCATED, Entry};
use super::refcount::Freed;
use super::{Alloc, Qcow2, lock, pack};
use crate::error::{BlockError, ErrorKind};
use crate::layer::write_all;

impl Qcow2 {
    /// Bytes of a cluster.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.geometry.cluster()
    }

    /// Compresses a cluster; `None` when that saves nothing. Any number of threads may do so at once.
    ///
    /// # Errors
    /// When the compressor fails, or `cluster` is not as long as one.
    pub fn pack_cluster(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>, BlockError> {
        if cluster.len() as u64 != self.geometry.cluster() {
            return Err(BlockError::new(ErrorKind::Invalid, "only whole clusters can be compressed"));
        }
        pack::pack(cluster, self.compression)
    }

    /// Writes what [`Qcow2::pack_cluster`] made of the cluster at `guest`.
    ///
    /// # Errors
    /// When the image is read-only or has an external data file, `guest` is no cluster's start, or writing fails.
    pub fn write_packed(&self, guest: u64, packed: &[u8]) -> Result<(), BlockError> {
        self.writable()?;
        let cluster = self.geometry.cluster();
        if self.geometry.external {
            let text = "an image with an external data file cannot hold compressed clusters";
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        if self.crypt.is_some() {
            let text = "Compression and encryption not supported at the same time";
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        let fits = !packed.is_empty() && (packed.len() as u64) < cluster;
        if !guest.is_multiple_of(cluster) || guest >= self.size.load(std::sync::atomic::Ordering::Acquire) || !fits {
            return Err(BlockError::new(ErrorKind::Invalid, "no place for a compressed cluster"));
        }
        self.touch()?;
        self.record(guest, cluster);
        self.relieve()?;
        let range = guest..guest + cluster;
        let offset = {
            let mut alloc = self.wait_settled(lock(&self.alloc), &range)?;
            self.ensure_table(&mut alloc, guest)?;
            self.release_drained(&mut alloc)?;
            let offset = self.take_packed(&mut alloc, packed.len() as u64)?;
            alloc.begin(range.clone());
            offset
        };
        let written = write_all(self.file.as_ref(), packed, offset);
        let mut alloc = lock(&self.alloc);
        let result = written.and_then(|()| self.publish_packed(&mut alloc, guest, offset, packed.len() as u64));
        if result.is_err() {
            self.dirty.store(true, std::sync::atomic::Ordering::Release);
            alloc.counts.pending.push(self.touched_by(offset, packed.len() as u64));
        }
        let ended = alloc.end(&range);
        drop(alloc);
        ended.inspect(|waiters| waiters.notify_all());
        result
    }

    /// A place of `len` bytes, its host clusters counted.
    fn take_packed(&self, alloc: &mut Alloc, len: u64) -> Result<u64, BlockError> {
        let cluster = self.geometry.cluster();
        let file = self.file.as_ref();
        let end = alloc.counts.packed_end;
        let room = end.next_multiple_of(cluster) - end;
        let shared = end >> self.geometry.cluster_bits;
        let shareable = room > 0 && alloc.counts.get(file, shared)? < alloc.counts.largest();
        if shareable && len <= room {
            alloc.counts.add(file, shared << self.geometry.cluster_bits, 1)?;
            alloc.counts.packed_end = end + len;
            return Ok(end);
        }
        let taken = alloc.counts.take(file, 1)?;
        let adjacent = shareable && taken.offset == end + room;
        if adjacent && let Err(e) = alloc.counts.add(file, shared << self.geometry.cluster_bits, 1) {
            alloc.counts.untake(taken);
            return Err(e);
        }
        let start = if adjacent { end } else { taken.offset };
        alloc.counts.packed_end = start + len;
        Ok(start)
    }

    fn touched_by(&self, offset: u64, len: u64) -> Freed {
        let bits = self.geometry.cluster_bits;
        let (first, last) = (offset >> bits, (offset + len - 1) >> bits);
        Freed { offset: first << bits, clusters: last - first + 1, discard: false }
    }

    fn publish_packed(&self, alloc: &mut Alloc, guest: u64, offset: u64, len: u64) -> Result<(), BlockError> {
        let old = self.find(guest, 1)?.0.entry;
        let mut entry = Entry::for_packed(offset, len, self.geometry.cluster_bits);
        if !self.geometry.extended {
            entry.bitmap = ALL_ALLOCATED;
        }
        self.set_entry(guest, entry)?;
        self.free_entry(alloc, old, false)
    }
}
