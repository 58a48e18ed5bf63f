//! Whether a thread does by itself what may wait.
//!
//! A write to the page cache and a sync with nothing to sync take microseconds, less than a hop to a worker and back:
//! the kernel's io_uring makes that hop for both, too. But they can also wait, for a disk or for memory. So a thread
//! does them as long as they prove short, and when they do not, it leaves the next ones to a worker, more of them each
//! time.
//!
//! What is one too many differs. A read or a sync that waits once waits for a disk, and so will the next. A write to
//! the page cache waits now and then for a moment: for a lock that a worker's write to the same file holds, or for its
//! turn on the processor. One such write says little, and a thread that left the next ones to a worker would meet these
//! workers at the lock when it tries again. So writes may be longer by a sum before a worker gets them.

use std::time::Duration;

/// How many are left to a worker at first, and at most.
const FEW: u32 = 64;
const MANY: u32 = 16_384;

/// The memory of one kind of operation.
#[derive(Debug)]
pub(crate) struct Patience {
    short: Duration,
    /// What they may take together beyond `short` each; those that take less make up for others.
    spare: Duration,
    over: Duration,
    left_to_worker: u32,
    next: u32,
}

impl Patience {
    /// For operations of which those are short that end within `short`.
    pub(crate) fn new(short: Duration) -> Self {
        Self { short, spare: Duration::ZERO, over: Duration::ZERO, left_to_worker: 0, next: FEW }
    }

    /// Bears long ones as long as all together take no more than `spare` beyond what short ones would.
    pub(crate) fn with_spare(self, spare: Duration) -> Self {
        Self { spare, ..self }
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
        self.over = (self.over + time).saturating_sub(self.short);
        if self.over > self.spare {
            self.over = Duration::ZERO;
            self.left_to_worker = self.next;
            self.next = (self.next * 4).min(MANY);
        } else if time <= self.short {
            self.next = FEW;
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
    fn long_ones_are_borne_while_short_ones_make_up_for_them() {
        let mut patience = Patience::new(Duration::from_millis(1)).with_spare(Duration::from_millis(8));
        for _ in 0..100 {
            patience.took(LONG);
            (0..5).for_each(|_| patience.took(Duration::ZERO));
            assert!(patience.here());
        }

        // Four milliseconds each beyond a short one: the third is one too many.
        (0..3).for_each(|_| patience.took(LONG));

        assert_eq!(left_to_worker(&mut patience), FEW);
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
