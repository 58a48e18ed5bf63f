//! Host ends without descriptors: `null`, which forgets, and `ringbuf`, which remembers the last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rhea_devices::chardev::{CharBackend, CharEvent, CharFrontend};

use super::Chardev;
use super::log_file::LogFile;

/// A ring buffer's size when none is given, in bytes.
pub(crate) const DEFAULT_RING: usize = 65536;
/// The largest ring buffer, in bytes.
pub(crate) const MAX_RING: usize = 64 << 20;

/// `null` or `ringbuf`.
pub(crate) struct Memory {
    label: String,
    inner: Mutex<Inner>,
}

struct Inner {
    log: Option<LogFile>,
    frontend: Option<Arc<dyn CharFrontend>>,
    frontend_open: bool,
    /// Only for `ringbuf`.
    ring: Option<Ring>,
}

struct Ring {
    bytes: VecDeque<u8>,
    size: usize,
}

impl Memory {
    /// Forgets everything.
    pub(crate) fn null(label: &str, log: Option<LogFile>) -> Self {
        Self::new(label, log, None)
    }

    /// Remembers the last `size` bytes.
    pub(crate) fn ringbuf(label: &str, log: Option<LogFile>, size: usize) -> Self {
        Self::new(label, log, Some(Ring { bytes: VecDeque::new(), size }))
    }

    fn new(label: &str, log: Option<LogFile>, ring: Option<Ring>) -> Self {
        let inner = Inner { log, frontend: None, frontend_open: false, ring };
        Self { label: label.to_owned(), inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, data: &[u8]) {
        let keep = data.len().saturating_sub(self.size);
        let data = data.get(keep..).unwrap_or_default();
        let excess = (self.bytes.len() + data.len()).saturating_sub(self.size);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(data);
    }
}

impl CharBackend for Memory {
    fn label(&self) -> &str {
        &self.label
    }

    fn write(&self, data: &[u8]) -> usize {
        let mut inner = self.lock();
        if let Some(log) = &mut inner.log {
            log.write(data);
        }
        if let Some(ring) = &mut inner.ring {
            ring.push(data);
        }
        data.len()
    }

    fn attach(&self, frontend: Option<Arc<dyn CharFrontend>>) -> bool {
        let mut inner = self.lock();
        if frontend.is_some() && inner.frontend.is_some() {
            return false;
        }
        inner.frontend_open = frontend.is_some();
        inner.frontend.clone_from(&frontend);
        let is_ring = inner.ring.is_some();
        drop(inner);
        // Nothing ever comes from here but this, so it is said at once, on the caller's thread.
        if let Some(frontend) = frontend.filter(|_| is_ring) {
            frontend.event(CharEvent::Opened);
        }
        true
    }

    fn accept_input(&self) {}

    fn set_frontend_open(&self, open: bool) {
        self.lock().frontend_open = open;
    }
}

impl Chardev for Memory {
    fn filename(&self) -> String {
        if self.lock().ring.is_some() { "ringbuf" } else { "null" }.into()
    }

    fn frontend_open(&self) -> bool {
        self.lock().frontend_open
    }

    fn is_busy(&self) -> bool {
        self.lock().frontend.is_some()
    }

    fn ring_write(&self, data: &[u8]) -> bool {
        let mut inner = self.lock();
        inner.ring.as_mut().map(|ring| ring.push(data)).is_some()
    }

    fn ring_read(&self, size: usize) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let ring = inner.ring.as_mut()?;
        let size = size.min(ring.bytes.len());
        Some(ring.bytes.drain(..size).collect())
    }

    fn finish(&self, _: Instant) {
        self.lock().frontend = None;
    }
}
