//! The serial console of a guest, read by a thread of its own and kept in a log.
//!
//! Firmware and boot loaders move the cursor in the midst of words. What the tests look at is the text without these
//! escape sequences (ECMA-48), carriage returns and backspaces; the log keeps them.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anstream::adapter::StripBytes;
use anyhow::{Context, Result, bail};

/// What has come so far, and what of it was looked at.
pub(crate) struct Console {
    shared: Arc<Shared>,
    seen: usize,
}

#[derive(Default)]
struct Shared {
    text: Mutex<Text>,
    more: Condvar,
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    escapes: StripBytes,
    ended: bool,
}

impl Console {
    /// Starts to read; everything also goes to `log`.
    pub(crate) fn start(from: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::spawn(move || writer.fill(from, log));
        Ok(Self { shared, seen: 0 })
    }

    /// Waits until this text comes, and gives what came before it. The next wait starts behind it.
    pub(crate) fn wait_for(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut text = self.shared.lock();
        loop {
            let fresh = &text.bytes[self.seen..];
            if let Some(at) = fresh.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
                let before = String::from_utf8_lossy(&fresh[..at]).into_owned();
                self.seen += at + wanted.len();
                return Ok(before);
            }
            if text.ended {
                bail!("the monitor ended before {wanted:?} came; the last lines are:\n{}", text.tail());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = limit.as_secs();
                bail!("{wanted:?} did not come within {seconds} s; the last lines are:\n{}", text.tail());
            }
            text = self.shared.more.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forgets what came so far, and says how many bytes have come since the start.
    pub(crate) fn skip(&mut self) -> usize {
        self.seen = self.shared.lock().bytes.len();
        self.seen
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, mut from: impl Read, mut log: File) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            // The log is for people; a full disk must not stop the test.
            let _ = log.write_all(&buffer[..length]);
            self.lock().add(&buffer[..length]);
            self.more.notify_all();
        }
        self.lock().ended = true;
        self.more.notify_all();
    }
}

impl Text {
    fn add(&mut self, fresh: &[u8]) {
        let Self { bytes, escapes, .. } = self;
        let shown = escapes.strip_next(fresh).flatten().filter(|byte| !matches!(byte, b'\r' | b'\x08'));
        bytes.extend(shown);
    }

    fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn what_moves_the_cursor_in_a_word_is_taken_out_even_when_cut_in_two() {
        let mut text = Text::default();

        text.add(b"W\r\x1b[03;02Helcome to \x1b[0;30;47mGR\x1b[0");
        text.add(b"1;17HUB\r\n[status 0]");

        assert_eq!(text.bytes, b"Welcome to GRUB\n[status 0]");
    }
}
