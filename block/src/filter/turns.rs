//! What filters that copy have in common: ranges that one at a time has to himself, and the reason for giving up.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::BlockError;

/// Ranges that someone has to himself. Whoever comes second in a range waits.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<Vec<Range<u64>>>,
    freed: Condvar,
}

/// A range that someone has to himself until this is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    range: Range<u64>,
}

impl Turns {
    fn taken(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all of `range`.
    pub(super) fn take(&self, range: Range<u64>) -> Turn<'_> {
        let mut taken = self.taken();
        while taken.iter().any(|other| other.start < range.end && range.start < other.end) {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        taken.push(range.clone());
        drop(taken);
        Turn { turns: self, range }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.taken();
        if let Some(at) = taken.iter().position(|range| *range == self.range) {
            taken.swap_remove(at);
        }
        self.turns.freed.notify_all();
    }
}

/// Whether a copy was given up, and why: the first reason counts.
#[derive(Default)]
pub(super) struct GivenUp(Mutex<Option<BlockError>>);

impl GivenUp {
    fn reason(&self) -> MutexGuard<'_, Option<BlockError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up.
    pub(super) fn because_of(&self, error: BlockError) {
        self.reason().get_or_insert(error);
    }

    /// Whether the copy goes on.
    ///
    /// # Errors
    /// The one for which it was given up.
    pub(super) fn check(&self) -> Result<(), BlockError> {
        self.reason().as_ref().map_or(Ok(()), |error| Err(error.copied()))
    }

    /// Goes on; gives the reason why it had not.
    pub(super) fn forget(&self) -> Option<BlockError> {
        self.reason().take()
    }
}
