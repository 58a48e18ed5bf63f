//! What the tests stand on: option mixes, a random source, a store that records, a plain model of a disk.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::BlockError;
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, Tuning, create};
use crate::layer::{Layer, Limits, Preallocation, Status};
use crate::mem::{Sink, Source};
use crate::protocol::memory::Memory;

/// A small random source: the tests print its seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below.max(1)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let byte = self.roll(255) as u8 + 1;
        let mut bytes = vec![byte; len];
        if let Some(first) = bytes.first_mut() {
            *first = self.roll(256) as u8;
        }
        bytes
    }
}

/// How much to do: `RHEA_HEAVY` multiplies.
pub(super) fn rounds(few: u64) -> u64 {
    std::env::var("RHEA_HEAVY").ok().and_then(|n| n.parse::<u64>().ok()).unwrap_or(1) * few
}

/// The mixes of options that everything is tried on, for disks of `size` bytes.
pub(super) fn mixes(size: u64) -> Vec<CreateOptions> {
    let base = CreateOptions { size, ..CreateOptions::default() };
    vec![
        CreateOptions { cluster_size: 512, ..base.clone() },
        CreateOptions { cluster_size: 4096, version: 2, ..base.clone() },
        CreateOptions { cluster_size: 4096, refcount_bits: 1, ..base.clone() },
        CreateOptions { cluster_size: 1024, refcount_bits: 64, ..base.clone() },
        CreateOptions { cluster_size: 16384, extended_l2: true, ..base.clone() },
        CreateOptions { cluster_size: 65536, refcount_bits: 8, ..base.clone() },
        CreateOptions { cluster_size: 4096, preallocation: Preallocation::Metadata, ..base.clone() },
        CreateOptions { cluster_size: 4096, lazy_refcounts: true, ..base.clone() },
        CreateOptions { cluster_size: 2 << 20, ..base },
    ]
}

/// Those, and the widths of reference counts that they leave out.
pub(super) fn wide_mixes(size: u64) -> Vec<CreateOptions> {
    let base = CreateOptions { size, ..CreateOptions::default() };
    let mut all = mixes(size);
    all.extend([
        CreateOptions { cluster_size: 4096, refcount_bits: 2, ..base.clone() },
        CreateOptions { cluster_size: 65536, refcount_bits: 4, ..base.clone() },
        CreateOptions { cluster_size: 512, refcount_bits: 32, ..base },
    ]);
    all
}

/// One change of a file.
#[derive(Clone)]
pub(super) enum Event {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    /// A sync that covers the file's changes among this many events.
    Flush(usize),
    /// A mark of the test: this many operations of the guest are complete.
    Mark(usize),
}

/// Changes of several files (by number) in the order in which they happened.
pub(super) type Log = Arc<Mutex<Vec<(usize, Event)>>>;

/// A file in memory that notes every change.
pub(super) struct Recorder {
    pub(super) memory: Memory,
    pub(super) events: Log,
    /// Which file of the log this is.
    number: usize,
    /// Fails the call after this many.
    pub(super) fail_after: Mutex<Option<u64>>,
    /// Fails one call in so many, if not 0.
    pub(super) fail_one_in: AtomicU64,
    /// Reads of any of these bytes fail.
    pub(super) bad: Mutex<Option<std::ops::Range<u64>>>,
    /// The file cannot become longer than this.
    pub(super) most: AtomicU64,
    /// Discards fail.
    pub(super) fail_discards: AtomicBool,
    /// Lets other threads come between: calls take their time.
    pub(super) crowded: AtomicBool,
    calls: AtomicU64,
    /// Called once: before a write at this offset, after a read there.
    pub(super) before_write: Mutex<Option<(u64, Call)>>,
    pub(super) after_read: Mutex<Option<(u64, Call)>>,
}

/// What a test does at a certain moment.
pub(super) type Call = Box<dyn FnOnce() + Send>;

/// Takes the call out if it is meant for `offset`.
fn due(call: &Mutex<Option<(u64, Call)>>, offset: u64) -> Option<Call> {
    call.lock().unwrap().take_if(|(at, _)| *at == offset).map(|(_, call)| call)
}

impl Recorder {
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Self::numbered(bytes, 0, Log::default())
    }

    /// Another file in the same log.
    pub(super) fn numbered(bytes: Vec<u8>, number: usize, events: Log) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::new(bytes),
            events,
            number,
            fail_after: Mutex::new(None),
            fail_one_in: AtomicU64::new(0),
            bad: Mutex::new(None),
            most: AtomicU64::new(u64::MAX),
            fail_discards: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            before_write: Mutex::new(None),
            after_read: Mutex::new(None),
        })
    }

    pub(super) fn note(&self, event: Event) {
        self.events.lock().unwrap().push((self.number, event));
    }

    /// Notes a change and makes it, as one.
    fn change(&self, event: Event, make: impl FnOnce(&Memory) -> Result<(), BlockError>) -> Result<(), BlockError> {
        let mut events = self.events.lock().unwrap();
        events.push((self.number, event));
        make(&self.memory)
    }

    /// Now and then another thread's turn.
    fn step_aside(&self) {
        if self.crowded.load(Ordering::Relaxed) {
            match self.calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 {
                0 => std::thread::sleep(std::time::Duration::from_micros(40)),
                _ => std::thread::yield_now(),
            }
        }
    }

    fn maybe_fail(&self) -> Result<(), BlockError> {
        self.step_aside();
        let one_in = self.fail_one_in.load(Ordering::Relaxed);
        if one_in > 0 && self.calls.fetch_add(1, Ordering::Relaxed) % one_in == one_in - 1 {
            return Err(injected());
        }
        let mut left = self.fail_after.lock().unwrap();
        match left.as_mut() {
            Some(0) => {
                *left = None;
                Err(injected())
            }
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn injected() -> BlockError {
    BlockError::io("injected", std::io::Error::from_raw_os_error(libc::EIO))
}

impl Layer for Recorder {
    fn driver(&self) -> &'static str {
        "recorder"
    }
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn limits(&self) -> Limits {
        self.memory.limits()
    }
    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.maybe_fail()?;
        let end = offset + into.len() as u64;
        if self.bad.lock().unwrap().as_ref().is_some_and(|bad| bad.start < end && offset < bad.end) {
            return Err(injected());
        }
        self.memory.read(into, offset)?;
        due(&self.after_read, offset).into_iter().for_each(|call| call());
        self.step_aside();
        Ok(())
    }
    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.maybe_fail()?;
        if offset + from.len() as u64 > self.most.load(Ordering::Relaxed) {
            return Err(BlockError::io("full", std::io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        due(&self.before_write, offset).into_iter().for_each(|call| call());
        self.change(Event::Write(offset, from.to_vec()), |memory| memory.write(from, offset))?;
        self.step_aside();
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        // What is written while a sync goes on is not covered by it.
        let covered = self.events.lock().unwrap().len();
        self.maybe_fail()?;
        self.note(Event::Flush(covered));
        Ok(())
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.step_aside();
        if self.fail_discards.load(Ordering::Relaxed) {
            return Err(injected());
        }
        self.change(Event::Zero(offset, len), |memory| memory.discard(offset, len))
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.maybe_fail()?;
        self.change(Event::Zero(offset, len), |memory| memory.write_zeroes(offset, len, unmap))
    }
    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        self.memory.status(offset, len)
    }
    fn resize(&self, size: u64, how: Preallocation) -> Result<(), BlockError> {
        self.memory.resize(size, how)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a recorded change again.
pub(super) fn apply(bytes: &Memory, event: &Event) {
    match event {
        Event::Write(at, data) => crate::layer::write_all(bytes, data, *at).unwrap(),
        // Where the file does not reach yet, there is nothing to zero: a hole grows no file.
        Event::Zero(at, len) => bytes.discard(*at, *len).unwrap(),
        Event::Flush(_) | Event::Mark(_) => {}
    }
}

/// A fresh image of `options` in a recorder, with a backing image of `backing` bytes of 0xbb if not 0.
pub(super) fn image(options: &CreateOptions, backing: usize) -> (Arc<Recorder>, Arc<Qcow2>) {
    let recorder = Recorder::new(Vec::new());
    let file: Arc<dyn Layer> = recorder.clone();
    let image = create(&file, None, options).unwrap();
    if backing > 0 {
        image.set_backing(Some(Arc::new(Memory::read_only(vec![0xbb; backing]))));
    }
    (recorder, Arc::new(image))
}

/// The image in `file` opened again with the smallest caches.
pub(super) fn reopen(file: Arc<dyn Layer>, backing: usize) -> Result<Qcow2, BlockError> {
    let small = OpenOptions { discard: true, tuning: Tuning::smallest(), ..OpenOptions::default() };
    let image = Qcow2::open(file, &small)?;
    if backing > 0 {
        image.set_backing(Some(Arc::new(Memory::read_only(vec![0xbb; backing]))));
    }
    Ok(image)
}

/// What `qemu-img check` says of these bytes: its exit code and text.
pub(super) fn qemu_check(bytes: &[u8]) -> (i32, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let output = std::process::Command::new("qemu-img")
        .args(["check", "-f", "qcow2"])
        .arg(file.path())
        .output()
        .expect("qemu-img not found: install the package qemu-utils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

/// Writes a piece of at most a cluster compressed, or plainly where that saves nothing.
pub(super) fn write_compressed(disk: &Qcow2, piece: &[u8], offset: u64) {
    let mut cluster = piece.to_vec();
    cluster.resize(disk.cluster_size() as usize, 0);
    match disk.pack_cluster(&cluster).unwrap() {
        Some(packed) => disk.write_packed(offset, &packed).unwrap(),
        None => crate::layer::write_all(disk, piece, offset).unwrap(),
    }
}

impl Tuning {
    /// The smallest caches there are.
    pub(super) fn smallest() -> Self {
        let l2_cache_size = Some(2048);
        Self { l2_cache_size, l2_cache_entry_size: Some(512), refcount_cache_size: Some(1), ..Self::default() }
    }
}
