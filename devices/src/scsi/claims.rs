//! Ranges of an image that commands are changing, so that COMPARE AND WRITE is alone with its blocks (SBC-4, 5.2: "as
//! an uninterrupted series of actions"), and ORWRITE, too.
//!
//! A command that meets one it may not overlap ends with BUSY, and the initiator tries again.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::Media;

#[derive(Debug)]
struct Taken {
    range: Range<u64>,
    alone: bool,
}

#[derive(Debug, Default)]
struct Table {
    taken: Vec<Option<Taken>>,
    free: Vec<usize>,
    /// How many of them want to be alone: while there is none, nothing is compared.
    alone: usize,
}

/// The ranges of one image.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Table>);

/// One command's range; dropped when the command is over.
#[derive(Debug)]
pub struct Claim {
    claims: Arc<Claims>,
    slot: usize,
}

/// What `media` changes, and whether it has to be alone with it.
fn wanted(media: &Media) -> Option<(Range<u64>, bool)> {
    match media {
        Media::Write { offset, len, .. } | Media::WriteSame { offset, len, .. } => {
            Some((*offset..offset.saturating_add(*len), false))
        }
        Media::Unmap(ranges) => {
            let start = ranges.iter().map(|(offset, _)| *offset).min()?;
            let end = ranges.iter().map(|(offset, len)| offset.saturating_add(*len)).max()?;
            Some((start..end, false))
        }
        Media::CompareAndWrite { offset, data, .. } | Media::OrWrite { offset, data, .. } => {
            Some((*offset..offset.saturating_add(data.len() as u64), true))
        }
        Media::Read { .. } | Media::Verify { .. } | Media::Flush | Media::RawSectors { .. } => None,
    }
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what `media` changes; nothing where it changes nothing. `Err` when another command is in the way.
    pub(super) fn claim(self: &Arc<Self>, media: &Media) -> Result<Option<Claim>, Busy> {
        let Some((range, alone)) = wanted(media) else { return Ok(None) };
        let mut table = self.lock();
        if alone || table.alone > 0 {
            let overlaps = |taken: &Taken| taken.range.start < range.end && range.start < taken.range.end;
            if table.taken.iter().flatten().any(|taken| (alone || taken.alone) && overlaps(taken)) {
                return Err(Busy);
            }
        }
        table.alone += usize::from(alone);
        let taken = Some(Taken { range, alone });
        let slot = match table.free.pop() {
            Some(slot) => slot,
            None => {
                table.taken.push(None);
                table.taken.len() - 1
            }
        };
        if let Some(place) = table.taken.get_mut(slot) {
            *place = taken;
        }
        Ok(Some(Claim { claims: Arc::clone(self), slot }))
    }
}

/// Another command is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.claims.lock();
        let taken = table.taken.get_mut(self.slot).and_then(Option::take);
        table.alone -= usize::from(taken.is_some_and(|taken| taken.alone));
        table.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, len: u64) -> Media {
        Media::Write { offset, len, fua: false }
    }

    fn compare(offset: u64, len: usize) -> Media {
        Media::CompareAndWrite { offset, expected: vec![0; len], data: vec![0; len], fua: false }
    }

    #[test]
    fn writes_overlap_each_other_but_not_a_compare_and_write() {
        let claims = Arc::new(Claims::default());
        let first = claims.claim(&write(0, 1024)).unwrap();
        let second = claims.claim(&write(512, 1024)).unwrap();
        assert!(claims.claim(&compare(1024, 512)).is_err());
        drop(second);
        let alone = claims.claim(&compare(1024, 512)).unwrap();
        assert!(claims.claim(&write(1024, 512)).is_err());
        assert!(claims.claim(&compare(1024, 512)).is_err());
        assert!(claims.claim(&Media::OrWrite { offset: 1024, data: vec![0; 512], fua: false }).is_err());
        assert!(claims.claim(&Media::Unmap(vec![(0, 512), (4096, 512)])).is_err());
        assert!(claims.claim(&write(1536, 512)).is_ok());
        assert!(claims.claim(&Media::Read { offset: 1024, len: 512 }).unwrap().is_none());
        drop((first, alone));
        assert!(claims.claim(&write(1024, 512)).is_ok());
        assert_eq!(claims.lock().alone, 0);
    }
}
