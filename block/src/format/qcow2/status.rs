//! What a run of the disk is, for `map`, `convert` and copies.

use super::beneath::{self, Found};
use super::entry::{Entry, Mapping};
use super::{Qcow2, lock};
use crate::error::BlockError;
use crate::layer::Status;

/// Blocks of counts that are read to find out whether an image is preallocated: those of 8 TiB in clusters of 64 KiB.
const MOST_BLOCKS: u64 = 4096;

impl Qcow2 {
    /// What the map says of a run, or who decides.
    fn status_of(&self, offset: u64, len: u64) -> Result<Found<Status>, BlockError> {
        let (run, _token) = self.find(offset, len)?;
        Ok(Found::Here(match run.mapping {
            // Encrypted bytes are nowhere as they are.
            Mapping::Data(_) => Status::data(run.len, self.crypt.is_none().then_some(run.host)),
            Mapping::Zero => self.kept_place(run.entry, offset, Status::zero(run.len)),
            Mapping::Compressed => Status { compressed: true, ..Status::data(run.len, None) },
            Mapping::Absent if self.geometry.raw_data => Status::data(run.len, Some(offset)),
            Mapping::Absent => {
                if let Some((have, backing)) = self.backing_at(offset) {
                    return Ok(Found::Beneath(run.len.min(have), backing));
                }
                let absent = Status { allocated: false, ..Status::zero(run.len) };
                if self.maps().backing.is_some() { absent } else { self.kept_place(run.entry, offset, absent) }
            }
        }))
    }

    /// The same, with the host's word on data: clusters that were set aside and never written are holes there.
    pub(super) fn status_here(&self, offset: u64, len: u64) -> Result<Found<Status>, BlockError> {
        let found = self.status_of(offset, len)?;
        let Found::Here(status) = found else { return Ok(found) };
        let Some(host) = status.offset.filter(|_| status.allocated && status.data && self.is_preallocated()) else {
            return Ok(Found::Here(status));
        };
        let below = self.data.status(host, status.len)?;
        Ok(Found::Here(Status { len: below.len.clamp(1, status.len), zero: below.zero, ..status }))
    }

    /// What a run is, whoever decides that.
    pub(super) fn status_at_all(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        asked(self.status_here(offset, len)?, offset)
    }

    /// The same, without the host's word on what this image holds.
    pub(super) fn status_by_map(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        asked(self.status_of(offset, len)?, offset)
    }

    /// Adds the host cluster that waits for the run's data; only as far as that cluster goes.
    fn kept_place(&self, entry: Entry, offset: u64, status: Status) -> Status {
        let cluster = self.geometry.cluster();
        let within = offset & (cluster - 1);
        match entry.host().filter(|_| self.crypt.is_none()) {
            Some(host) => Status { offset: Some(host + within), len: status.len.min(cluster - within), ..status },
            None => status,
        }
    }

    /// Whether the host holds far fewer clusters than are counted. Asking it for every run is only worth it then.
    fn is_preallocated(&self) -> bool {
        *self.preallocated.get_or_init(|| {
            let Some(bytes) = self.file.allocated_bytes().filter(|bytes| *bytes < self.file.size()) else {
                return false;
            };
            let held = bytes >> self.geometry.cluster_bits;
            // As QEMU: a tenth more, or two. Counts that cannot be read are the business of those who need them.
            let many = (held.saturating_mul(10) / 9).max(held + 2);
            self.counted_clusters(many).is_ok_and(|counted| counted >= many)
        })
    }

    /// Clusters of the file with a count, as far as `most`.
    fn counted_clusters(&self, most: u64) -> Result<u64, BlockError> {
        let file = self.file.as_ref();
        let clusters = file.size().div_ceil(self.geometry.cluster());
        // An image that is only read has no counts in memory.
        let mut own = match self.read_only.then(|| lock(&self.alloc)) {
            Some(alloc) => Some(alloc.counts.anew(file, &alloc.header)?),
            None => None,
        };
        let (mut counted, mut at, mut number) = (0, 0, 0);
        while counted < most && at < clusters && number < MOST_BLOCKS {
            // Others get their turn between two blocks of counts.
            let (used, per_block) = match &mut own {
                Some(counts) => (counts.used_in(file, number, clusters - at)?, counts.per_block()),
                None => {
                    let counts = &mut lock(&self.alloc).counts;
                    (counts.used_in(file, number, clusters - at)?, counts.per_block())
                }
            };
            counted += used;
            at += per_block;
            number += 1;
        }
        Ok(counted)
    }
}

/// What was found, of those beneath where they decide.
fn asked(found: Found<Status>, offset: u64) -> Result<Status, BlockError> {
    match found {
        Found::Here(status) => Ok(status),
        Found::Beneath(len, backing) => {
            let below = beneath::status(backing, offset, len)?;
            Ok(Status { allocated: false, len: below.len.min(len), ..below })
        }
    }
}
