//! Tells once that a write went past a place: whoever makes volumes larger in time waits for that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Told how far past which place the write went, in bytes; must not wait.
pub type Tell = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// A place in a file. It is forgotten when a write went past it.
#[derive(Default)]
pub(super) struct Threshold {
    /// 0 for none.
    place: AtomicU64,
    tell: Mutex<Option<Tell>>,
}

impl Threshold {
    /// Sets another place, or none by 0.
    pub(super) fn set(&self, place: u64, tell: Tell) {
        let mut told = self.tell.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Some(tell);
        self.place.store(place, Ordering::Release);
    }

    /// The place; 0 for none.
    pub(super) fn place(&self) -> u64 {
        self.place.load(Ordering::Relaxed)
    }

    /// Looks at a write that ends at `end`.
    pub(super) fn look(&self, end: u64) {
        let place = self.place();
        if place == 0 || end <= place {
            return;
        }
        let is_first = self.place.compare_exchange(place, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(tell) = tell.filter(|_| is_first) {
            tell(end - place, place);
        }
    }
}

impl std::fmt::Debug for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threshold").field("place", &self.place()).finish_non_exhaustive()
    }
}
