use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::PATIENCE;
use crate::irq::{IrqError, MsiMessage, MsiSink, MsiVector};
use crate::virtio::device::DriverEvents;
use std::time::Instant;

/// Counts by key, and lets a test wait for a count.
#[derive(Default)]
struct Tally {
    counts: Mutex<BTreeMap<u32, usize>>,
    changed: Condvar,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: u32) {
        *self.lock().entry(key).or_default() += 1;
        self.changed.notify_all();
    }

    fn count(&self, key: u32) -> usize {
        self.lock().get(&key).copied().unwrap_or(0)
    }

    fn wait(&self, key: u32, count: usize, what: &str) {
        let less = |counts: &mut BTreeMap<u32, usize>| counts.get(&key).copied().unwrap_or(0) < count;
        let (counts, result) =
            self.changed.wait_timeout_while(self.lock(), PATIENCE, less).unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "waited in vain for {what} {key} number {count}: {:?}", *counts);
    }

    /// Waits for anything that makes `done` true.
    fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let (_counts, result) =
            self.changed.wait_timeout_while(self.lock(), PATIENCE, |_| !done()).unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "waited in vain for {what}");
    }
}

/// Where messages end; told apart by their data.
#[derive(Default, Clone)]
pub struct SignalSink(Arc<Tally>);

impl SignalSink {
    #[must_use]
    pub fn count(&self, data: u32) -> usize {
        self.0.count(data)
    }

    pub fn wait(&self, data: u32, count: usize) {
        self.0.wait(data, count, "message");
    }

    /// Looks after each message. Only for what comes with a message: a driver that looks early may be spared one.
    pub fn wait_until(&self, what: &str, done: impl FnMut() -> bool) {
        self.0.wait_until(what, done);
    }

    /// Looks again and again, as a driver does that polls a register.
    pub fn wait_until_polling(&self, what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::yield_now();
        }
    }
}

struct Vector {
    tally: Arc<Tally>,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiVector for Vector {
    fn set(&self, message: Option<MsiMessage>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }

    fn signal(&self) {
        let message = *self.message.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = message {
            self.tally.add(message.data);
        }
    }
}

impl MsiSink for SignalSink {
    fn send(&self, message: MsiMessage) {
        self.0.add(message.data);
    }

    fn open_vector(&self) -> Result<Box<dyn MsiVector>, IrqError> {
        Ok(Box::new(Vector { tally: Arc::clone(&self.0), message: Mutex::new(None) }))
    }
}

/// What a device told its driver.
#[derive(Default)]
pub struct RecordedEvents(Tally);

const CONFIG: u32 = 0x1_0000;
const NEEDS_RESET: u32 = 0x1_0001;

impl RecordedEvents {
    #[must_use]
    pub fn used(&self, n: u16) -> usize {
        self.0.count(n.into())
    }

    pub fn wait_used(&self, n: u16, count: usize) {
        self.0.wait(n.into(), count, "queue interrupt");
    }

    pub fn wait_needs_reset(&self) {
        self.0.wait(NEEDS_RESET, 1, "wish for a reset");
    }

    #[must_use]
    pub fn needs_reset_count(&self) -> usize {
        self.0.count(NEEDS_RESET)
    }
}

impl DriverEvents for RecordedEvents {
    fn queue_used(&self, n: u16) {
        self.0.add(n.into());
    }
    fn config_changed(&self) {
        self.0.add(CONFIG);
    }
    fn needs_reset(&self) {
        self.0.add(NEEDS_RESET);
    }
}
