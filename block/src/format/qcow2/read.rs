//! Reading, with whatever it takes.

use std::sync::Arc;

use super::Qcow2;
use super::beneath::{self, Found};
use super::entry::Mapping;
use super::lookup::Run;
use crate::error::BlockError;
use crate::layer::Layer;
use crate::mem::Sink;

impl Qcow2 {
    pub(super) fn read_range(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            // The token keeps the host clusters ours to read until the part is read.
            let (run, _token) = self.find(at, (into.len() - done) as u64)?;
            let part = into.part(done, run.len as usize);
            match run.mapping {
                Mapping::Absent => self.read_backing(part, at)?,
                _ => self.read_found(&run, part, at)?,
            }
            done += part.len();
        }
        Ok(())
    }

    /// Reads the start of a range, if this image decides what it is; how much that was, or who decides.
    pub(super) fn read_here(&self, into: Sink<'_>, at: u64) -> Result<Found<usize>, BlockError> {
        let (run, _token) = self.find(at, into.len() as u64)?;
        let part = into.part(0, run.len as usize);
        if run.mapping != Mapping::Absent {
            self.read_found(&run, part, at)?;
        } else if let Some((have, backing)) = self.backing_at(at) {
            return Ok(Found::Beneath(run.len.min(have), backing));
        } else if self.geometry.raw_data {
            self.read_data(part, at, at)?;
        } else {
            part.zero();
        }
        Ok(Found::Here(part.len()))
    }

    /// Reads what the map says that this image holds.
    fn read_found(&self, run: &Run, part: Sink<'_>, at: u64) -> Result<(), BlockError> {
        match run.mapping {
            Mapping::Data(_) => self.read_data(part, run.host, at)?,
            Mapping::Zero | Mapping::Absent => part.zero(),
            Mapping::Compressed => {
                let cluster = self.unpack(run.entry)?;
                let within = (at & (self.geometry.cluster() - 1)) as usize;
                part.copy_from(&cluster[within..within + part.len()]);
            }
        }
        Ok(())
    }

    /// How much from `offset` on lies beneath, and where, if any of it does. A raw data file is the disk, whatever the
    /// map says.
    pub(super) fn backing_at(&self, offset: u64) -> Option<(u64, Arc<dyn Layer>)> {
        let backing = self.backing().filter(|_| !self.geometry.raw_data)?;
        let have = backing.size().saturating_sub(offset);
        (have > 0).then_some((have, backing))
    }

    /// What this image does not hold: the backing file as far as it goes, zeroes after.
    fn read_backing(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        if self.geometry.raw_data {
            return self.read_data(into, offset, offset);
        }
        let Some((have, backing)) = self.backing_at(offset) else {
            into.zero();
            return Ok(());
        };
        let have = usize::try_from(have).unwrap_or(usize::MAX).min(into.len());
        beneath::read(&backing, into.part(0, have), offset)?;
        into.part(have, into.len() - have).zero();
        Ok(())
    }
}
