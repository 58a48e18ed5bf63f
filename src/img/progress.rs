//! The progress line of `-p`, and on SIGUSR1 never: only what was asked for is printed.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::PoisonError;

/// Prints how far a verb is, when `-p` was given.
pub(super) struct Progress {
    shown: bool,
    /// The last percentage printed, in hundredths.
    last: Mutex<Option<u64>>,
    /// Hundredths of a percent between two prints.
    step: u64,
}

impl Progress {
    /// A line that changes at steps of 1 per cent, if it is `shown`.
    pub(super) fn new(shown: bool) -> Self {
        let progress = Self { shown, last: Mutex::new(None), step: 100 };
        progress.at(0, 1);
        progress
    }

    /// `done` of `all` is done.
    pub(super) fn at(&self, done: u64, all: u64) {
        if !self.shown {
            return;
        }
        let now = if all == 0 { 10000 } else { (u128::from(done.min(all)) * 10000 / u128::from(all)) as u64 };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now >= last + self.step || (now == 10000 && last != now));
        if due {
            *last = Some(now);
            print(now);
        }
    }

    /// All is done.
    pub(super) fn end(&self) {
        if self.shown {
            print(10000);
            let mut out = io::stdout().lock();
            // Nobody may be reading any more; the work is done all the same.
            let _ = out.write_all(b"\n");
        }
    }
}

fn print(hundredths: u64) {
    let mut out = io::stdout().lock();
    // A progress line that nobody reads must not stop the work.
    let _ = write!(out, "    ({}.{:02}/100%)\r", hundredths / 100, hundredths % 100);
    let _ = out.flush();
}
