//! The line to the client: bytes to lines on one side, answers and interrupts on the other.

use std::fs::File;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rhea_block::thread::{self, ThreadKind};
use rhea_devices::chardev::{CharBackend, CharEvent, CharFrontend};

use super::QtestError;
use super::server::Server;
use crate::chardev::Outbox;

/// The longest line; a client that sends a longer one is not heard any more.
const LONGEST: usize = 4 << 20;
/// Bytes taken at once.
const ROOM: usize = 64 << 10;
/// Answers that a client has not read, before it is not listened to.
const UNREAD: usize = 16 << 20;

/// Where answers and interrupts go; lines never mix.
pub(super) struct Output {
    outbox: Outbox,
    log: Option<Mutex<File>>,
}

impl Output {
    pub(super) fn new(backend: Arc<dyn CharBackend>, log: Option<&str>) -> Result<Self, QtestError> {
        let make = |path: &str| {
            File::create(path).map_err(|source| QtestError::Log { path: path.to_owned(), source }).map(Mutex::new)
        };
        Ok(Self { outbox: Outbox::new(backend), log: log.map(make).transpose()? })
    }

    /// Sends a line.
    pub(super) fn line(&self, text: &str) {
        self.note("S", text);
        self.outbox.send(&[text.as_bytes(), b"\n"]);
    }

    /// Writes a line to the log, with the direction in front.
    pub(super) fn note(&self, direction: &str, text: &str) {
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = writeln!(log, "[{direction}] {text}") {
                log::debug!("qtest's log: {error}");
            }
        }
    }
}

/// The front end of the character device.
struct Port {
    output: Arc<Output>,
    line: Mutex<Vec<u8>>,
    lines: Sender<String>,
}

impl CharFrontend for Port {
    fn room(&self) -> usize {
        if self.output.outbox.unread() > UNREAD { 0 } else { ROOM }
    }

    fn receive(&self, data: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in data {
            if byte != b'\n' {
                if line.len() <= LONGEST {
                    line.push(byte);
                }
                continue;
            }
            let whole = std::mem::take(&mut *line);
            let text = if whole.len() > LONGEST { String::new() } else { String::from_utf8_lossy(&whole).into_owned() };
            // The server lives as long as the process.
            let _ = self.lines.send(text);
        }
    }

    /// Half a line of one client is not the next one's.
    fn event(&self, event: CharEvent) {
        if event == CharEvent::Closed {
            self.line.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn writable(&self) {
        self.output.outbox.writable();
    }
}

/// Attaches to the character device and starts the thread that serves.
pub(super) fn start(backend: &Arc<dyn CharBackend>, output: Arc<Output>, server: Server) -> Result<(), QtestError> {
    let (lines, queue): (Sender<String>, Receiver<String>) = channel();
    let serve = move || {
        for line in queue {
            server.serve(&line);
        }
    };
    thread::spawn(ThreadKind::Vcpu, "qtest", serve).map_err(QtestError::Thread)?;
    let port = Arc::new(Port { output, line: Mutex::default(), lines });
    if backend.attach(Some(port)) { Ok(()) } else { Err(QtestError::Busy(backend.label().to_owned())) }
}
