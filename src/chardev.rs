//! Character devices: the host's end of serial ports and monitors.
//!
//! [`Chardevs`] makes them and knows them by name. One thread, `console` ([`IoLoop`]), waits for all of them; what the
//! guest's end has to do is the contract in [`rhea_devices::chardev`].
//!
//! What this module refuses to know: command line and QMP text ([`config`] is what both are turned into), and what is
//! at the guest's end.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rhea_devices::chardev::CharBackend;

pub mod config;
mod fdset;
mod host_end;
mod io_loop;
mod log_file;
mod mux;
mod open;
mod outbox;
mod port;
mod pty;
mod registry;
mod simple;
mod socket;
mod streams;
mod terminal;
#[cfg(test)]
mod tests;

pub use fdset::{Access, FdTable};
pub use io_loop::IoLoop;
pub use mux::{Escape, EscapeHook};
pub use outbox::Outbox;
pub use registry::Chardevs;
pub use terminal::restore as restore_terminal;

/// The host's end of a device that was given none: takes and drops everything, and nothing ever comes.
pub(crate) fn nowhere() -> Arc<dyn CharBackend> {
    Arc::new(simple::Memory::null("", None))
}

/// What monitors and queries need of a host end beyond the guest's contract.
pub trait Chardev: CharBackend {
    /// What is there, as `query-chardev` says it.
    fn filename(&self) -> String;
    /// The guest has its end open.
    fn frontend_open(&self) -> bool;
    /// A front end is attached.
    fn is_busy(&self) -> bool;
    /// A descriptor that came with the input, oldest first.
    fn take_fd(&self) -> Option<OwnedFd> {
        None
    }
    /// Sends a break condition where there is such a thing.
    fn send_break(&self) {}
    /// Ends the connection with whoever is there.
    fn disconnect(&self) {}
    /// Writes into a ring buffer; false where there is none.
    fn ring_write(&self, _data: &[u8]) -> bool {
        false
    }
    /// Reads from a ring buffer; `None` where there is none.
    fn ring_read(&self, _size: usize) -> Option<Vec<u8>> {
        None
    }
    /// Writes out what waits, for no longer than `until`, then closes for good.
    fn finish(&self, until: Instant);
}

/// Why a character device cannot be made or had.
#[derive(Debug, thiserror::Error)]
pub enum ChardevError {
    /// What is asked for contradicts itself.
    #[error(transparent)]
    Spec(#[from] crate::spec::SpecError),
    /// The name is taken.
    #[error("Chardev with id '{0}' already exists")]
    Exists(String),
    /// There is none of this name.
    #[error("Chardev '{0}' not found")]
    NotFound(String),
    /// Something is attached to it.
    #[error("Chardev '{0}' is busy")]
    Busy(String),
    /// Standard input and output are there once.
    #[error("cannot use stdio by multiple character devices")]
    StdioTaken,
    /// A ring buffer's size.
    #[error("size of ringbuf chardev must be power of two, at most {} bytes", simple::MAX_RING)]
    RingSize,
    /// A file.
    #[error("cannot open {}", path.display())]
    Open {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A server's socket.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A client's socket.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A passed descriptor.
    #[error("fd={name} cannot be used: {why}")]
    Fd {
        /// Its number or name.
        name: String,
        /// Why.
        why: String,
    },
    /// Anything else that the host refuses.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}
