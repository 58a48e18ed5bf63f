//! The progress line of `-p`; without it, SIGUSR1 asks for one line on standard error.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::register_signal_handler;

use crate::sentence::to_stderr;

/// SIGUSR1 has come and was not answered yet.
static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on SIGUSR1 asks how far the verb is, and no longer ends the program: for the beginning, as images may take
/// long to open and to make.
pub(super) fn answer_signals() {
    if let Err(e) = register_signal_handler(libc::SIGUSR1, on_signal) {
        log::debug!("SIGUSR1 shows no progress: {e}");
    }
}

/// Prints how far a verb is, when `-p` was given or a signal asks.
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
        let asked = ASKED.swap(false, Ordering::Relaxed);
        if !self.shown && !asked {
            return;
        }
        let now = if all == 0 { 10000 } else { (u128::from(done.min(all)) * 10000 / u128::from(all)) as u64 };
        if !self.shown {
            to_stderr(line(now));
            return;
        }
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
    let _ = write!(out, "{}\r", line(hundredths));
    let _ = out.flush();
}

fn line(hundredths: u64) -> String {
    format!("    ({}.{:02}/100%)", hundredths / 100, hundredths % 100)
}

/// Only what a signal handler may do.
extern "C" fn on_signal(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    ASKED.store(true, Ordering::Relaxed);
}
