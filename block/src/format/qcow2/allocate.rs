//! Handing out host clusters: the search for those without references.

use super::refcount::{Freed, Refcounts, Taken};
use crate::error::{BlockError, ErrorKind};
use crate::layer::Layer;

impl Refcounts {
    /// Takes up to `most` clusters that lie side by side, at least one.
    pub(super) fn take(&mut self, file: &dyn Layer, most: u64) -> Result<Taken, BlockError> {
        let per = self.per_block();
        loop {
            let number = self.cursor / per;
            self.ensure_block(file, number)?;
            let first = (self.cursor % per..per).find(|i| self.peek(number, *i) == 0);
            let Some(first) = first else {
                self.cursor = (number + 1) * per;
                continue;
            };
            let count = (first..per).take(most as usize).take_while(|i| self.peek(number, *i) == 0).count() as u64;
            self.cursor = number * per + first + count;
            let offset = (number * per + first) << self.cluster_bits;
            let bytes = count << self.cluster_bits;
            if offset + bytes > 1 << 56 {
                return Err(BlockError::new(ErrorKind::NoSpace, "the image file is at the format's largest size"));
            }
            self.guard.check_free(offset..offset + bytes)?;
            (first..first + count).for_each(|i| self.poke(number, i, 1));
            let fresh = offset >= self.written_end;
            self.written_end = self.written_end.max(offset + bytes);
            return Ok(Taken { offset, clusters: count, fresh });
        }
    }

    /// Takes exactly `count` clusters side by side, for tables.
    pub(super) fn take_run(&mut self, file: &dyn Layer, count: u64) -> Result<Taken, BlockError> {
        if count <= 1 {
            return self.take(file, 1);
        }
        let per = self.per_block();
        if count >= per {
            return self.take_regions(count);
        }
        let mut start = self.cursor;
        let mut have = 0;
        while have < count {
            let cluster = start + have;
            self.ensure_block(file, cluster / per)?;
            if self.get(file, cluster)? == 0 {
                have += 1;
            } else {
                start = cluster + 1;
                have = 0;
            }
        }
        self.guard.check_free(start << self.cluster_bits..(start + count) << self.cluster_bits)?;
        // A block that was made on the way lies in the run's own region and was counted before it was looked at.
        for cluster in start..start + count {
            self.load(file, cluster / per)?;
            self.poke(cluster / per, cluster % per, 1);
        }
        let (offset, bytes) = (start << self.cluster_bits, count << self.cluster_bits);
        let fresh = offset >= self.written_end;
        self.written_end = self.written_end.max(offset + bytes);
        Ok(Taken { offset, clusters: count, fresh })
    }

    /// Takes a run that no region has room for beside its own block: whole new regions, their blocks first.
    fn take_regions(&mut self, count: u64) -> Result<Taken, BlockError> {
        let per = self.per_block();
        let number = self.table.iter().rposition(|block| *block != 0).map_or(0, |last| last as u64 + 1);
        let blocks = (1..).find(|blocks| blocks * per >= blocks + count).unwrap_or(1);
        if number + blocks > self.table.len() as u64 {
            // The larger table goes to the first new region; the run goes behind it.
            self.grow_table(number)?;
            return self.take_regions(count);
        }
        let end = number * per + blocks + count;
        self.guard.check_free((number * per) << self.cluster_bits..end << self.cluster_bits)?;
        self.make_room()?;
        // Who takes the run writes to it at once.
        self.secure((number * per) << self.cluster_bits, blocks)?;
        self.capacity = self.capacity.max(blocks as usize + 2);
        for n in number..number + blocks {
            self.put_new_block(n, (number * per + n - number) << self.cluster_bits);
        }
        for used in 0..blocks + count {
            self.poke(number + used / per, used % per, 1);
        }
        let offset = (number * per + blocks) << self.cluster_bits;
        let fresh = (number * per) << self.cluster_bits >= self.written_end;
        self.written_end = self.written_end.max(offset + (count << self.cluster_bits));
        Ok(Taken { offset, clusters: count, fresh })
    }

    /// Gives back what was taken and never named anywhere.
    pub(super) fn untake(&mut self, taken: Taken) {
        self.pending.push(Freed { offset: taken.offset, clusters: taken.clusters, discard: false });
    }
}
