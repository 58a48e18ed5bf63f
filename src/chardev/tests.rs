//! The devices through their contract, with real terminals, sockets and files, and a guest's end that records.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rhea_devices::chardev::{CharEvent, CharFrontend};
use tempfile::TempDir;

use super::config::{Backend, Config, SocketAddress, SocketConfig};
use super::*;

mod files;
mod muxes;
mod sockets;
mod terminals;

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest's end that remembers what it is told.
#[derive(Default)]
struct Recorder {
    heard: Mutex<Heard>,
    changed: Condvar,
    room: AtomicUsize,
}

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    events: Vec<CharEvent>,
    writable: usize,
}

impl Recorder {
    fn new() -> Arc<Self> {
        Arc::new(Self { room: AtomicUsize::new(usize::MAX), ..Self::default() })
    }

    fn wait(&self, what: &str, done: impl Fn(&Heard) -> bool) {
        let heard = self.heard.lock().unwrap();
        let (heard, _) = self.changed.wait_timeout_while(heard, PATIENCE, |heard| !done(heard)).unwrap();
        assert!(done(&heard), "waited in vain for {what}; got {:?} and {:?}", heard.bytes, heard.events);
    }

    fn wait_bytes(&self, bytes: &[u8]) {
        self.wait(&format!("{bytes:?}"), |heard| heard.bytes == bytes);
    }

    fn wait_event(&self, event: CharEvent, times: usize) {
        self.wait(&format!("{event:?}"), |heard| heard.events.iter().filter(|one| **one == event).count() == times);
    }

    fn bytes(&self) -> Vec<u8> {
        self.heard.lock().unwrap().bytes.clone()
    }
}

impl CharFrontend for Recorder {
    fn room(&self) -> usize {
        self.room.load(Ordering::SeqCst)
    }

    fn receive(&self, data: &[u8]) {
        assert!(data.len() <= self.room());
        self.heard.lock().unwrap().bytes.extend(data);
        self.changed.notify_all();
    }

    fn event(&self, event: CharEvent) {
        self.heard.lock().unwrap().events.push(event);
        self.changed.notify_all();
    }

    fn writable(&self) {
        self.heard.lock().unwrap().writable += 1;
        self.changed.notify_all();
    }
}

/// Devices in a folder of their own.
struct Fixture {
    chardevs: Chardevs,
    dir: TempDir,
    escapes: Arc<Mutex<Vec<Escape>>>,
}

impl Fixture {
    fn new() -> Self {
        let escapes = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&escapes);
        let hook: EscapeHook = Arc::new(move |escape| heard.lock().unwrap().push(escape));
        let chardevs = Chardevs::new(Arc::new(FdTable::new()), hook).unwrap();
        Self { chardevs, dir: tempfile::tempdir().unwrap(), escapes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add(&self, backend: Backend) -> Arc<dyn Chardev> {
        self.chardevs.add(&Config::new("c0", backend)).unwrap();
        self.chardevs.frontend("c0").unwrap()
    }

    fn attach(device: &Arc<dyn Chardev>) -> Arc<Recorder> {
        let recorder = Recorder::new();
        assert!(device.attach(Some(recorder.clone())));
        recorder
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.chardevs.shut_down();
    }
}

fn unix(path: &Path) -> SocketConfig {
    SocketConfig {
        address: SocketAddress::Unix { path: path.to_owned(), is_abstract: false, tight: true },
        server: true,
        wait: false,
        telnet: false,
        nodelay: false,
        reconnect: Duration::ZERO,
    }
}

fn read_exactly(stream: &mut impl Read, count: usize) -> Vec<u8> {
    let mut buffer = vec![0; count];
    stream.read_exact(&mut buffer).unwrap();
    buffer
}

fn client(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
