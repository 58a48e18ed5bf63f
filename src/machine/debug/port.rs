//! The line to the debugger: its bytes become events for the main thread, which owns what it asks about.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gdbstub::conn::Connection;
use rhea_devices::chardev::{CharBackend, CharEvent, CharFrontend};

use crate::chardev::Outbox;
use crate::machine::event::{EventSender, MachineEvent};

/// Bytes from the debugger that wait for the main thread, at most.
const ROOM: usize = 16 << 10;
/// Replies that the debugger has not read, before it is not listened to.
const UNREAD: usize = 1 << 20;

/// What comes from the debugger.
#[derive(Debug)]
pub enum DebuggerInput {
    /// It connected.
    Opened,
    /// It went away.
    Closed,
    /// Bytes of its protocol.
    Bytes(Vec<u8>),
}

/// Both directions of the line.
pub(super) struct Line {
    outbox: Outbox,
    /// Bytes received and not yet [`Line::taken`].
    waiting: AtomicUsize,
}

impl Line {
    /// Attaches to the character device; false when something else has it.
    pub(super) fn attach(backend: &Arc<dyn CharBackend>, events: EventSender) -> Option<Arc<Self>> {
        let line = Arc::new(Self { outbox: Outbox::new(Arc::clone(backend)), waiting: AtomicUsize::new(0) });
        let port = Arc::new(Port { line: Arc::clone(&line), events });
        backend.attach(Some(port)).then_some(line)
    }

    /// The main thread is done with so many bytes.
    pub(super) fn taken(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::AcqRel);
        self.outbox.backend().accept_input();
    }

    /// Drops replies that nobody waits for.
    pub(super) fn forget(&self) {
        self.outbox.clear();
    }
}

/// The front end of the character device.
struct Port {
    line: Arc<Line>,
    events: EventSender,
}

impl CharFrontend for Port {
    fn room(&self) -> usize {
        match self.line.outbox.unread() {
            0..UNREAD => ROOM.saturating_sub(self.line.waiting.load(Ordering::Acquire)),
            _ => 0,
        }
    }

    fn receive(&self, data: &[u8]) {
        self.line.waiting.fetch_add(data.len(), Ordering::AcqRel);
        self.events.send(MachineEvent::Debugger(DebuggerInput::Bytes(data.to_vec())));
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => self.events.send(MachineEvent::Debugger(DebuggerInput::Opened)),
            CharEvent::Closed => self.events.send(MachineEvent::Debugger(DebuggerInput::Closed)),
            CharEvent::Break | CharEvent::MuxIn | CharEvent::MuxOut => {}
        }
    }

    fn writable(&self) {
        self.line.outbox.writable();
    }
}

/// Replies, gathered to whole packets.
pub(super) struct Replies {
    line: Arc<Line>,
    packet: Vec<u8>,
}

impl Replies {
    pub(super) fn new(line: Arc<Line>) -> Self {
        Self { line, packet: Vec::new() }
    }
}

impl Connection for Replies {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.packet.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.packet.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        self.line.outbox.send(&[&self.packet]);
        self.packet.clear();
        Ok(())
    }
}
