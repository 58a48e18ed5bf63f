//! Interrupts as a device sees them: it holds a wire, never a number.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// A level-sensitive wire. Edge-triggered chips pulse it: high, then low.
pub trait IrqLine: Send + Sync {
    /// Drives the wire; callable from any thread. Chips call it after every access, mostly with the level that it has:
    /// that has to be cheap (a tap of a [`WiredOr`] is).
    fn set(&self, high: bool);
}

/// A message-signalled interrupt: a memory write (PCI 3.0, 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiMessage {
    /// Where the write goes; on x86 within 0xfee0_0000..0xfef0_0000.
    pub address: u64,
    /// What is written.
    pub data: u32,
    /// Requester: bus, device and function, for interrupt remapping.
    pub requester: u16,
}

/// No further interrupt route is to be had from the host.
#[derive(Debug, Error)]
#[error("cannot open an interrupt vector")]
pub struct IrqError(#[source] pub std::io::Error);

/// Where message-signalled interrupts go.
pub trait MsiSink: Send + Sync {
    /// Delivers one message now.
    fn send(&self, message: MsiMessage);
    /// Opens a vector: a path with a descriptor of its own, cheap to signal from any thread.
    ///
    /// # Errors
    /// [`IrqError`] when the host has no descriptors or routes left.
    fn open_vector(&self) -> Result<Box<dyn MsiVector>, IrqError>;
}

/// One MSI or MSI-X vector; dropping it takes its route away.
pub trait MsiVector: Send + Sync {
    /// Sets the message that [`MsiVector::signal`] delivers; `None` while the guest has it masked.
    fn set(&self, message: Option<MsiMessage>);
    /// Delivers the message; does nothing while there is none. The caller keeps pending bits.
    fn signal(&self);
}

/// A wire that several sources pull: high while any of them is (wired-OR).
///
/// Level is passed on under the lock, so that two sources changing at once leave the wire as the last one left the
/// count. The wire underneath must not call back.
pub struct WiredOr {
    output: Arc<dyn IrqLine>,
    asserted: Mutex<usize>,
}

impl WiredOr {
    /// Several sources onto `output`.
    #[must_use]
    pub fn new(output: Arc<dyn IrqLine>) -> Arc<Self> {
        Arc::new(Self { output, asserted: Mutex::new(0) })
    }

    /// One more source, low. Dropping it lets go of the wire.
    #[must_use]
    pub fn tap(self: &Arc<Self>) -> Arc<dyn IrqLine> {
        Arc::new(Tap { wire: Arc::clone(self), high: Mutex::new(false) })
    }

    fn pull(&self, up: bool) {
        let mut asserted = self.asserted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *asserted > 0;
        *asserted = if up { *asserted + 1 } else { asserted.saturating_sub(1) };
        let after = *asserted > 0;
        if before != after {
            self.output.set(after);
        }
    }
}

/// One source of a [`WiredOr`]. Locks: its own, then the wire's.
struct Tap {
    wire: Arc<WiredOr>,
    high: Mutex<bool>,
}

impl IrqLine for Tap {
    fn set(&self, high: bool) {
        let mut now = self.high.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *now, high) != high {
            self.wire.pull(high);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// A wire that leads nowhere.
pub struct Unconnected;

impl IrqLine for Unconnected {
    fn set(&self, _high: bool) {}
}

#[cfg(test)]
mod tests;
