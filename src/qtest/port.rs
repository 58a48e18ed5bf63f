//! The line to the client: bytes to lines on one side, answers and interrupts on the other.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rhea_block::thread::{self, ThreadKind};
use rhea_devices::chardev::{CharBackend, CharEvent, CharFrontend};

use super::QtestError;
use super::log::Log;
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
    log: Log,
}

impl Output {
    pub(super) fn new(backend: Arc<dyn CharBackend>, log: Log) -> Self {
        Self { outbox: Outbox::new(backend), log }
    }

    /// Sends a line.
    pub(super) fn line(&self, text: &str) {
        self.log.sent(text);
        self.outbox.send(&[text.as_bytes(), b"\n"]);
    }

    /// Writes down what the client said.
    pub(super) fn note(&self, text: &str) {
        self.log.received(text);
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
        match event {
            CharEvent::Opened => self.output.log.opened(),
            CharEvent::Closed => {
                self.output.log.closed();
                self.line.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            _ => {}
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
