//! Interrupts as a device sees them: it holds a wire, never a number.

use thiserror::Error;

/// A level-sensitive wire. Edge-triggered chips pulse it: high, then low.
pub trait IrqLine: Send + Sync {
    /// Drives the wire. Idempotent; callable from any thread.
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
