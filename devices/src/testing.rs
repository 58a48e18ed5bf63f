//! Small real fakes for tests of devices, and what every device has to pass.

pub mod script;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::bus::{BusDevice, Effect};
use crate::chardev::{CharBackend, CharFrontend};
use crate::irq::{IrqError, IrqLine, MsiMessage, MsiSink, MsiVector};
use crate::lifecycle::{Lifecycle, Saver};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wire that remembers its level and counts its rising edges.
#[derive(Default)]
pub struct RecordingLine {
    high: AtomicBool,
    rises: AtomicUsize,
}

impl RecordingLine {
    /// A low wire.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// The level now.
    #[must_use]
    pub fn high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }
    /// Rising edges so far.
    #[must_use]
    pub fn rises(&self) -> usize {
        self.rises.load(Ordering::SeqCst)
    }
}

impl IrqLine for RecordingLine {
    fn set(&self, high: bool) {
        if !self.high.swap(high, Ordering::SeqCst) && high {
            self.rises.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A sink that keeps every delivered message, in order, whichever way it came.
#[derive(Default)]
pub struct RecordingSink {
    sent: Arc<Mutex<Vec<MsiMessage>>>,
    refuse: AtomicBool,
    direct: AtomicUsize,
}

impl RecordingSink {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// What was delivered since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut lock(&self.sent))
    }
    /// From now on there are no more vectors to be had.
    pub fn refuse_vectors(&self) {
        self.refuse.store(true, Ordering::SeqCst);
    }
    /// How many messages came without a vector.
    #[must_use]
    pub fn direct(&self) -> usize {
        self.direct.load(Ordering::SeqCst)
    }
}

struct RecordingVector {
    sent: Arc<Mutex<Vec<MsiMessage>>>,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiVector for RecordingVector {
    fn set(&self, message: Option<MsiMessage>) {
        *lock(&self.message) = message;
    }
    fn signal(&self) {
        if let Some(message) = *lock(&self.message) {
            lock(&self.sent).push(message);
        }
    }
}

impl MsiSink for RecordingSink {
    fn send(&self, message: MsiMessage) {
        self.direct.fetch_add(1, Ordering::SeqCst);
        lock(&self.sent).push(message);
    }
    fn open_vector(&self) -> Result<Box<dyn MsiVector>, IrqError> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(IrqError(std::io::Error::from_raw_os_error(libc::EMFILE)));
        }
        Ok(Box::new(RecordingVector { sent: Arc::clone(&self.sent), message: Mutex::new(None) }))
    }
}

/// A character device in memory: keeps what the guest wrote, hands over what the test types.
#[derive(Default)]
pub struct MemoryChar {
    written: Mutex<Vec<u8>>,
    /// Bytes typed that found no room yet.
    waiting: Mutex<VecDeque<u8>>,
    frontend: Mutex<Option<Arc<dyn CharFrontend>>>,
    blocked: AtomicBool,
}

impl MemoryChar {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// What the guest wrote since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.written))
    }
    /// From now on takes nothing (or everything again).
    pub fn block(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::SeqCst);
    }
    /// Types `data`, as far as the guest's end has room; the rest waits.
    pub fn type_in(&self, data: &[u8]) {
        lock(&self.waiting).extend(data);
        self.accept_input();
    }
    /// The guest's end, if attached.
    #[must_use]
    pub fn frontend(&self) -> Option<Arc<dyn CharFrontend>> {
        lock(&self.frontend).clone()
    }
}

impl CharBackend for MemoryChar {
    fn label(&self) -> &str {
        "memory"
    }
    fn write(&self, data: &[u8]) -> usize {
        if self.blocked.load(Ordering::SeqCst) {
            return 0;
        }
        lock(&self.written).extend_from_slice(data);
        data.len()
    }
    fn attach(&self, frontend: Option<Arc<dyn CharFrontend>>) -> bool {
        let mut slot = lock(&self.frontend);
        let free = frontend.is_none() || slot.is_none();
        if free {
            *slot = frontend;
        }
        free
    }
    fn accept_input(&self) {
        let Some(frontend) = self.frontend() else { return };
        loop {
            let mut waiting = lock(&self.waiting);
            let fits = frontend.room().min(waiting.len());
            let data: Vec<u8> = waiting.drain(..fits).collect();
            drop(waiting);
            if data.is_empty() {
                return;
            }
            frontend.receive(&data);
        }
    }
    fn set_frontend_open(&self, _open: bool) {}
}

/// The saved state of `device`; `None` when it is stateless.
///
/// # Panics
/// When the device refuses.
pub fn saved<D: Lifecycle + ?Sized>(device: &D) -> Option<Value> {
    match device.saver() {
        Saver::Stateless => None,
        Saver::Refuses(why) => panic!("{} refuses to be saved: {why}", device.name()),
        Saver::Saves(saver) => Some(saver.save().expect("save")),
    }
}

/// What every device has to pass. `fresh` builds the device as at power-on; `disturb` drives it as a guest would, away
/// from that state (it must change the saved state, unless the device is stateless).
///
/// # Panics
/// When the device does not pass.
pub fn assert_device_battery<D: Lifecycle + ?Sized>(fresh: impl Fn() -> Arc<D>, disturb: impl Fn(&D)) {
    let device = fresh();
    let name = device.name().to_owned();
    let new = saved(&*device);
    device.start().expect("start");
    disturb(&device);
    for _ in 0..2 {
        device.pause();
        device.drain();
    }
    let used = saved(&*device);
    assert!(new.is_none() || new != used, "{name}: disturb changed nothing");

    let other = fresh();
    if let (Saver::Saves(saver), Some(state)) = (other.saver(), used.clone()) {
        saver.restore(state).expect("restore");
        assert_eq!(saved(&*other), used, "{name}: save, restore, save");
        let garbage = serde_json::json!({"version": "999"});
        assert!(saver.restore(garbage).is_err(), "{name}: takes a version from the future");
        assert_eq!(saved(&*other), used, "{name}: a refused restore changed it");
    }
    device.reset();
    assert_eq!(saved(&*device), new, "{name}: reset equals new");
    device.resume();
    device.resume();
}

/// Reads `len` (up to 8) bytes at `offset` as a number; a fault reads as `None`.
pub fn peek(device: &dyn BusDevice, offset: u64, len: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    device.read(offset, bytes.get_mut(..len)?).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Writes the low `len` (up to 8) bytes of `value` at `offset`; a fault is `None`.
pub fn poke(device: &dyn BusDevice, offset: u64, len: usize, value: u64) -> Option<Effect> {
    device.write(offset, value.to_le_bytes().get(..len)?).ok()
}

/// Random accesses of every width at and around the first `span` bytes of `device`: it must neither panic nor hang.
#[cfg(test)]
pub(crate) fn hammer(fresh: impl Fn() -> Arc<dyn BusDevice>, span: u64) {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    let edges = prop_oneof![20 => 0..span, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 7), 1 => span..span + 16];
    let width = prop_oneof![8 => Just(1usize), 4 => Just(2), 4 => Just(4), 1 => Just(8), 1 => 0usize..=9];
    let access = (edges, width, any::<u64>(), any::<bool>());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(200) });
    runner
        .run(&prop::collection::vec(access, 1..200), |accesses| {
            let device = fresh();
            for (offset, len, value, write) in accesses {
                let mut bytes = [0; 9];
                bytes[..8].copy_from_slice(&value.to_le_bytes());
                if write {
                    let _ = device.write(offset, &bytes[..len]);
                } else {
                    let _ = device.read(offset, &mut bytes[..len]);
                }
            }
            Ok(())
        })
        .expect("no access panics");
}
