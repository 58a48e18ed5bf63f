//! How many discards a file was asked for, for `query-blockstats`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Discards since the file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discarded {
    /// Those that the host did.
    pub done: u64,
    /// Those that it could not, or would not.
    pub failed: u64,
    /// Bytes of those that it did.
    pub bytes: u64,
}

/// The counters of that.
#[derive(Debug, Default)]
pub(super) struct Discards {
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl Discards {
    pub(super) fn count(&self, len: u64, done: bool) {
        if done {
            self.done.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(len, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn so_far(&self) -> Discarded {
        let [done, failed, bytes] = [&self.done, &self.failed, &self.bytes].map(|count| count.load(Ordering::Relaxed));
        Discarded { done, failed, bytes }
    }
}
