//! How much of the host's memory the commands of one adapter may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of parameters, and of data that go through memory of ours, for all commands of an adapter that are under way:
/// enough for any command, several times over.
const MOST: usize = 32 << 20;

/// What is left.
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(MOST)))
    }

    /// One command's share, with nothing in it.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one command has.
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Takes more; false when there is not so much left.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        let taken = self.budget.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    /// The command is over.
    pub(super) fn give_back(&mut self) {
        self.budget.0.fetch_add(std::mem::take(&mut self.bytes), Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_no_more_than_there_is_and_give_all_back() {
        let budget = Budget::new();
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.grow(MOST - 1) && one.grow(1) && !other.grow(1));
        one.give_back();
        assert!(other.grow(MOST));
        drop(other);
        assert!(one.grow(MOST));
    }
}
