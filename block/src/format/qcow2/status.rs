//! What a run of the disk is, for `map`, `convert` and copies.

use super::Qcow2;
use super::entry::Mapping;
use crate::error::BlockError;
use crate::layer::Status;

impl Qcow2 {
    pub(super) fn status_of(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        let (run, _token) = self.find(offset, len)?;
        Ok(match run.mapping {
            // Encrypted bytes are nowhere as they are.
            Mapping::Data(_) => Status::data(run.len, self.crypt.is_none().then_some(run.host)),
            Mapping::Zero => Status::zero(run.len),
            Mapping::Compressed => Status { compressed: true, ..Status::data(run.len, None) },
            Mapping::Absent => {
                let backing = self.maps().backing.clone();
                match backing.map(|backing| (backing.size(), backing)) {
                    None => Status { allocated: false, ..Status::zero(run.len) },
                    Some((size, _)) if offset >= size => Status { allocated: false, ..Status::zero(run.len) },
                    Some((size, backing)) => {
                        let below = backing.status(offset, run.len.min(size - offset))?;
                        Status { allocated: false, len: below.len.min(run.len), ..below }
                    }
                }
            }
        })
    }
}
