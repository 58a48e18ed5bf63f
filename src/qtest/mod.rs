//! Devices driven without a guest: QEMU's qtest protocol (`docs/devel/testing/qtest`, "qtest Protocol").
//!
//! ```text
//!  client ── line ──▶ Port (console thread) ──▶ Server (its own thread) ──▶ board
//!         ◀─ OK … ── Output ◀───────────────────────┘
//!         ◀─ IRQ … ─ Output ◀── wires, from any thread
//! ```
//!
//! Usually there is no vCPU, and time moves only when the client says so; beside a guest that runs, the client can look
//! at memory and registers. A line is a command; each is answered by a line that
//! begins with `OK` or `FAIL`. The client is not trusted: lines and transfers are bounded.

mod log;
mod nothing;
mod port;
mod server;
mod wires;

use std::sync::Arc;

use rhea_devices::chardev::CharBackend;
use rhea_devices::clock::ManualClock;
use rhea_devices::memory::GuestRam;
use thiserror::Error;

use crate::machine::event::EventSender;
use crate::vcpu::Platform;

pub use log::Log;
pub use nothing::Nothing;
pub use wires::Wires;

/// The protocol cannot be served.
#[derive(Debug, Error)]
pub enum QtestError {
    /// Something else has the character device.
    #[error("character device \"{0}\" is in use")]
    Busy(String),
    /// The log cannot be made.
    #[error("-qtest-log {path}")]
    Log {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The host gives no thread.
    #[error("cannot start the thread of qtest")]
    Thread(#[source] std::io::Error),
}

/// A client's line and what it drives, not yet listened to.
pub struct Harness {
    backend: Arc<dyn CharBackend>,
    output: Arc<port::Output>,
    server: server::Server,
}

impl Harness {
    /// Serves the protocol until the process ends: once the machine is ready, as the client may speak at once.
    ///
    /// # Errors
    /// When the character device is in use, or the host gives no thread.
    pub fn start(self) -> Result<(), QtestError> {
        port::start(&self.backend, self.output, self.server)
    }
}

/// What a client has to itself where there is no vCPU.
pub struct Vacant {
    /// The interrupts that nobody takes.
    pub wires: Arc<Wires>,
    /// The time that stands still.
    pub clock: Arc<ManualClock>,
}

/// Makes ready to serve the protocol on `backend`, for what the `machine` has: its registers and its memory.
#[must_use]
pub fn prepare(
    backend: Arc<dyn CharBackend>,
    log: Log,
    machine: (Arc<dyn Platform>, Arc<GuestRam>),
    vacant: Option<Vacant>,
    events: EventSender,
) -> Harness {
    let output = Arc::new(port::Output::new(Arc::clone(&backend), log));
    if let Some(Vacant { wires, .. }) = &vacant {
        wires.report_to(&output);
    }
    let (platform, ram) = machine;
    let server = server::Server { platform, ram, vacant, events, output: Arc::clone(&output) };
    Harness { backend, output, server }
}
