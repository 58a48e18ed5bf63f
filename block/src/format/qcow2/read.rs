//! Reading, with whatever it takes.

use super::Qcow2;
use super::entry::Mapping;
use crate::error::BlockError;
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
                Mapping::Data(_) => self.read_data(part, run.host, at)?,
                Mapping::Zero => part.zero(),
                Mapping::Absent => self.read_backing(part, at)?,
                Mapping::Compressed => {
                    let cluster = self.unpack(run.entry)?;
                    let within = (at & (self.geometry.cluster() - 1)) as usize;
                    part.copy_from(&cluster[within..within + part.len()]);
                }
            }
            done += part.len();
        }
        Ok(())
    }

    /// What this image does not hold: the backing file as far as it goes, zeroes after. A raw data file is the disk,
    /// whatever the map says.
    fn read_backing(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        if self.geometry.raw_data {
            return self.read_data(into, offset, offset);
        }
        let backing = self.maps().backing.clone();
        let Some(backing) = backing else {
            into.zero();
            return Ok(());
        };
        let have = usize::try_from(backing.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(into.len());
        if have > 0 {
            backing.read(into.part(0, have), offset)?;
        }
        into.part(have, into.len() - have).zero();
        Ok(())
    }
}
