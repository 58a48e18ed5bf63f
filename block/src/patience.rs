//! Whether a thread does by itself what may wait.
//!
//! A write to the page cache and a sync with nothing to sync take microseconds, less than a hop to a worker and back:
//! the kernel's io_uring makes that hop for both, too. But they can also wait, for a disk or for memory. So a thread
//! does them as long as they prove short, and after one that did not, it leaves the next ones to a worker, more of them
//! each time.

use std::time::Duration;

/// How many are left to a worker at first, and at most.
const FEW: u32 = 64;
const MANY: u32 = 16_384;

/// The memory of one kind of operation.
#[derive(Debug)]
pub(crate) struct Patience {
    short: Duration,
    left_to_worker: u32,
    next: u32,
}

impl Patience {
    /// For operations of which those are short that end within `short`.
    pub(crate) fn new(short: Duration) -> Self {
        Self { short, left_to_worker: 0, next: FEW }
    }

    /// Whether to do the next one here.
    pub(crate) fn here(&mut self) -> bool {
        let here = self.left_to_worker == 0;
        self.left_to_worker = self.left_to_worker.saturating_sub(1);
        here
    }

    /// Itself, if the next one is to be done here.
    pub(crate) fn if_here(&mut self) -> Option<&mut Self> {
        self.here().then_some(self)
    }

    /// One that was done here took so long.
    pub(crate) fn took(&mut self, time: Duration) {
        if time <= self.short {
            self.next = FEW;
        } else {
            self.left_to_worker = self.next;
            self.next = (self.next * 4).min(MANY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(5);

    fn left_to_worker(patience: &mut Patience) -> u32 {
        (0..).find(|_| patience.here()).unwrap_or(u32::MAX)
    }

    #[test]
    fn short_ones_are_done_here() {
        let mut patience = Patience::new(Duration::from_micros(100));

        assert!(patience.here());
        patience.took(Duration::from_micros(5));
        assert!(patience.here());
    }

    #[test]
    fn after_long_ones_ever_more_are_left_to_a_worker() {
        let mut patience = Patience::new(Duration::from_micros(100));

        patience.took(LONG);
        let first = left_to_worker(&mut patience);
        patience.took(LONG);
        let second = left_to_worker(&mut patience);
        (0..20).for_each(|_| patience.took(LONG));

        assert_eq!((first, second, left_to_worker(&mut patience)), (FEW, FEW * 4, MANY));
    }

    #[test]
    fn a_short_one_forgives() {
        let mut patience = Patience::new(Duration::from_micros(100));
        (0..5).for_each(|_| patience.took(LONG));

        patience.took(Duration::ZERO);
        patience.took(LONG);

        assert_eq!(left_to_worker(&mut patience), FEW);
    }
}
