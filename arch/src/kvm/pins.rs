//! How often each pin of the interrupt controllers rose, for who looks after a guest that misses interrupts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Pins of the I/O APIC; the first 16 are the PICs', too.
pub const PINS: usize = 24;

/// Counters of [`super::Vm::set_irq_line`]. What comes by a descriptor or as a message is not seen here.
#[derive(Debug, Default)]
pub(super) struct Pins {
    levels: AtomicU32,
    rises: [AtomicU64; PINS],
}

impl Pins {
    pub(super) fn set(&self, gsi: u32, high: bool) {
        let Some(count) = usize::try_from(gsi).ok().and_then(|pin| self.rises.get(pin)) else { return };
        let bit = 1 << gsi;
        if !high {
            self.levels.fetch_and(!bit, Ordering::Relaxed);
        } else if self.levels.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn rises(&self) -> [u64; PINS] {
        std::array::from_fn(|pin| self.rises[pin].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rises_count() {
        let pins = Pins::default();

        [true, true, false, false, true].iter().for_each(|level| pins.set(4, *level));
        pins.set(99, true);

        let mut expected = [0; PINS];
        expected[4] = 2;
        assert_eq!(pins.rises(), expected);
    }
}
