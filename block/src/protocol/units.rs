//! Who writes where in a file with direct I/O.
//!
//! The kernel takes whole units of alignment only. A write of less is done by reading the units around it, changing them
//! and writing them back, and must not undo what another write does to their other bytes meanwhile. So a change of parts
//! of units has them for itself, while writes of whole units go on beside each other, as they do without this.
//!
//! A write of whole units costs one uncontended lock at its start and one at its end; a change of parts looks at all
//! writes in flight.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Writes {
    /// Bytes that writes of whole units are on their way to; `free` lists the empty places.
    whole: Vec<Range<u64>>,
    free: Vec<usize>,
    /// Units of which parts are being changed.
    parts: Vec<Range<u64>>,
    waiting: usize,
}

/// The writes of one file.
#[derive(Debug, Default)]
pub(crate) struct Units {
    writes: Mutex<Writes>,
    ended: Condvar,
}

#[derive(Debug)]
enum Place {
    Whole(usize),
    Parts(Range<u64>),
}

/// A write on its way, until dropped.
#[derive(Debug)]
pub(crate) struct Writing {
    units: Arc<Units>,
    place: Place,
}

fn overlaps(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Writes {
    fn begin_whole(&mut self, range: Range<u64>) -> Option<Place> {
        if self.parts.iter().any(|parts| overlaps(parts, &range)) {
            return None;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.whole.push(0..0);
            self.whole.len() - 1
        });
        self.whole[at] = range;
        Some(Place::Whole(at))
    }

    fn begin_parts(&mut self, range: &Range<u64>) -> Option<Place> {
        if self.whole.iter().chain(&self.parts).any(|other| overlaps(other, range)) {
            return None;
        }
        self.parts.push(range.clone());
        Some(Place::Parts(range.clone()))
    }
}

impl Units {
    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a write of whole units unless parts of them are being changed.
    pub(crate) fn try_whole(self: &Arc<Self>, range: Range<u64>) -> Option<Writing> {
        let place = self.lock().begin_whole(range)?;
        Some(Writing { units: self.clone(), place })
    }

    /// Begins a write of whole units, once none of them is being changed in parts.
    pub(crate) fn whole(self: &Arc<Self>, range: &Range<u64>) -> Writing {
        self.wait(|writes| writes.begin_whole(range.clone()))
    }

    /// Begins a change of parts of the units in `range`, once nobody else writes to them.
    pub(crate) fn parts(self: &Arc<Self>, range: &Range<u64>) -> Writing {
        self.wait(|writes| writes.begin_parts(range))
    }

    fn wait(self: &Arc<Self>, begin: impl Fn(&mut Writes) -> Option<Place>) -> Writing {
        let mut writes = self.lock();
        loop {
            if let Some(place) = begin(&mut writes) {
                return Writing { units: self.clone(), place };
            }
            writes.waiting += 1;
            writes = self.ended.wait(writes).unwrap_or_else(PoisonError::into_inner);
            writes.waiting -= 1;
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut writes = self.units.lock();
        match &self.place {
            Place::Whole(at) => {
                writes.whole[*at] = 0..0;
                writes.free.push(*at);
            }
            Place::Parts(range) => writes.parts.retain(|parts| parts != range),
        }
        let waited_for = writes.waiting > 0;
        drop(writes);
        if waited_for {
            self.units.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_whole_units_overlap_freely_and_parts_keep_them_out() {
        let units = Arc::<Units>::default();
        let first = units.try_whole(0..8192);
        assert!(first.is_some() && units.try_whole(4096..8192).is_some());
        drop(first);

        let parts = units.parts(&(4096..8192));

        assert!(units.try_whole(0..8192).is_none());
        assert!(units.try_whole(8192..12288).is_some());
        drop(parts);
        assert!(units.try_whole(0..8192).is_some());
    }

    #[test]
    fn change_of_parts_waits_for_the_writes_before_it() {
        let units = Arc::<Units>::default();
        let whole = units.whole(&(0..8192));
        let (told, seen) = std::sync::mpsc::channel();
        let other = units.clone();
        let waiting = std::thread::spawn(move || {
            let _parts = other.parts(&(0..4096));
            told.send("parts").unwrap();
        });
        while units.lock().waiting == 0 {
            std::thread::yield_now();
        }
        assert!(seen.try_recv().is_err());

        drop(whole);

        assert_eq!(seen.recv(), Ok("parts"));
        waiting.join().unwrap();
    }
}
