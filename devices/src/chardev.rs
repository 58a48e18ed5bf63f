//! The two ends of a character device: the host's (a terminal, a socket, a file) and the guest's (a serial port).
//!
//! The host's end lives in the program (`src/chardev/`) and has a thread for waiting; the guest's end lives here.

use std::sync::Arc;

/// What happens at the host's end besides bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CharEvent {
    /// Someone connected, or the end was open from the start.
    Opened,
    /// The other side went away; it may come again.
    Closed,
    /// A break condition (serial line).
    Break,
    /// This front end is now the one of several on a mux that has the input.
    MuxIn,
    /// Another front end of the mux has the input now.
    MuxOut,
}

/// The host's end. Writes come from vCPU threads: they must not wait without bound.
pub trait CharBackend: Send + Sync {
    /// The `id=` of the character device.
    fn label(&self) -> &str;
    /// Writes what fits and returns how many bytes were taken; a disconnected end takes (and drops) all.
    fn write(&self, data: &[u8]) -> usize;
    /// Attaches the guest's end; bytes and events go there from now on. `None` detaches.
    /// Returns false when another front end has it already.
    fn attach(&self, frontend: Option<Arc<dyn CharFrontend>>) -> bool;
    /// The front end can take input again after [`CharFrontend::room`] had said 0.
    fn accept_input(&self);
    /// Tells the host's side that the guest opened or closed its end (a `virtserialport` does).
    fn set_frontend_open(&self, open: bool);
}

/// The guest's end. Called from the character devices' thread, one call at a time.
pub trait CharFrontend: Send + Sync {
    /// How many bytes [`CharFrontend::receive`] takes now.
    fn room(&self) -> usize;
    /// Takes bytes for the guest; at most [`CharFrontend::room`] of them.
    fn receive(&self, data: &[u8]);
    /// Something else happened.
    fn event(&self, event: CharEvent);
    /// A [`CharBackend::write`] took less than it was given, and now there is room again.
    fn writable(&self) {}
}
