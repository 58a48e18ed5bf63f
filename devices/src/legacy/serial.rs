//! A 16550A serial port (National Semiconductor PC16550D data sheet).
//!
//! ```text
//!   guest ── THR ──▶ transmit queue ──▶ CharBackend
//!         ◀─ RBR ─── vm-superio: receive queue, loopback, line, divisor and scratch registers ◀── CharFrontend
//!         ◀─ IRQ ─── interrupt identification (here)
//! ```
//!
//! `vm-superio` keeps the registers that only remember, the receive queue and the loop back. It has no FIFO control,
//! line errors or interrupt priorities, and its interrupts are edges: those are here. The line is infinitely fast: a
//! byte is gone as soon as the backend takes it, and a receive FIFO below its trigger level times out at once.

mod port;
mod state;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::bus::{BusDevice, BusFault, Effect};
use crate::chardev::CharBackend;
use crate::clock::SharedClock;
use crate::irq::IrqLine;
use crate::lifecycle::{DeviceError, Lifecycle, Saver};

use super::{LegacyChip, PortRange};
use port::{Port, Regs};

/// Ports of a serial port.
pub const PORTS: u16 = 8;

/// Where COM1 to COM4 are, and the ISA interrupt of each.
pub const COM: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// A serial port.
pub struct Serial {
    name: String,
    base: u16,
    port: Arc<Port>,
    attached: AtomicBool,
}

impl Serial {
    /// A port at `base` that talks to `backend`. `clock` paces further attempts while the backend takes nothing.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        base: u16,
        irq: Arc<dyn IrqLine>,
        backend: Arc<dyn CharBackend>,
        clock: SharedClock,
    ) -> Self {
        let port = Arc::new_cyclic(|weak: &Weak<Port>| {
            let weak = weak.clone();
            let retry = clock.timer(Box::new(move || {
                if let Some(port) = weak.upgrade() {
                    port.retry_transmit();
                }
            }));
            Port::new(irq, backend, clock, retry)
        });
        Self { name: name.into(), base, port, attached: AtomicBool::new(false) }
    }
}

/// Registers are bytes; a wider access takes as many of them, the lowest first, as the ISA bus splits it.
impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let first = register(offset, data.len())?;
        for (at, byte) in (first..).zip(data) {
            *byte = self.port.read(at);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let first = register(offset, data.len())?;
        for (at, value) in (first..).zip(data) {
            self.port.write(at, *value);
        }
        Ok(Effect::None)
    }
}

fn register(offset: u64, len: usize) -> Result<u8, BusFault> {
    let first = u8::try_from(offset).ok().filter(|first| usize::from(*first) + len <= usize::from(PORTS));
    first.ok_or(BusFault { offset, len })
}

impl LegacyChip for Serial {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        vec![PortRange { base: self.base, len: PORTS, device: self }]
    }
}

impl Lifecycle for Serial {
    fn name(&self) -> &str {
        &self.name
    }

    /// Attaches to the character device.
    fn start(&self) -> Result<(), DeviceError> {
        if self.attached.load(Ordering::Acquire) {
            return Ok(());
        }
        let backend = self.port.backend();
        if !backend.attach(Some(Arc::clone(&self.port) as _)) {
            return Err(DeviceError::Invalid(format!("character device \"{}\" is in use", backend.label())));
        }
        self.attached.store(true, Ordering::Release);
        backend.accept_input();
        Ok(())
    }

    fn pause(&self) {
        self.port.set_paused(true);
    }

    fn resume(&self) {
        self.port.set_paused(false);
    }

    fn reset(&self) {
        self.port.replace(Regs::default());
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

/// The backend holds the port while attached: letting go ends the circle.
impl Drop for Serial {
    fn drop(&mut self) {
        if self.attached.load(Ordering::Acquire) {
            self.port.backend().attach(None);
        }
    }
}

#[cfg(test)]
mod tests;
