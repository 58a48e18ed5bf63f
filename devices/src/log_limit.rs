//! A limit on how much a guest can make us log.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Lets a burst of messages through each ten seconds and counts the rest.
#[derive(Debug)]
pub struct LogLimit {
    born: Instant,
    window: AtomicU64,
    used: AtomicU32,
    suppressed: AtomicU64,
}

/// Messages that pass in one window.
const BURST: u32 = 10;
/// Length of a window, in seconds.
const WINDOW_SECONDS: u64 = 10;

impl Default for LogLimit {
    fn default() -> Self {
        Self { born: Instant::now(), window: AtomicU64::new(0), used: AtomicU32::new(0), suppressed: AtomicU64::new(0) }
    }
}

impl LogLimit {
    /// Logs a warning about what the guest does, unless there were too many of late.
    pub fn warn(&self, message: std::fmt::Arguments<'_>) {
        if let Some(suppressed) = self.admit() {
            if suppressed > 0 {
                log::warn!("{message} ({suppressed} similar messages left out)");
            } else {
                log::warn!("{message}");
            }
        }
    }

    /// Whether one more message may go out now; then how many were held back before it.
    fn admit(&self) -> Option<u64> {
        self.admit_at(self.born.elapsed().as_secs() / WINDOW_SECONDS)
    }

    fn admit_at(&self, window: u64) -> Option<u64> {
        if self.window.swap(window, Relaxed) != window {
            self.used.store(0, Relaxed);
        }
        if self.used.load(Relaxed) >= BURST {
            self.suppressed.fetch_add(1, Relaxed);
            return None;
        }
        self.used.fetch_add(1, Relaxed);
        Some(self.suppressed.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_passes_then_silence_then_the_next_window_says_how_many() {
        let limit = LogLimit::default();
        let passed = (0..100).filter(|_| limit.admit_at(0).is_some()).count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(limit.admit_at(1), Some(100 - u64::from(BURST)));
        assert_eq!(limit.admit_at(1), Some(0));
    }
}
