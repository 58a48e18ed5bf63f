//! Interrupts that nobody takes: they are reported to the client that asked, and messages are written to memory.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rhea_arch::kvm::{Access, HostRange, MemoryError};
use rhea_devices::irq::{IrqError, IrqLine, MsiMessage, MsiSink, MsiVector};
use rhea_devices::memory::GuestRam;
use rhea_devices::pci::{Doorbell, Space};
use vm_memory::{Bytes, GuestAddress};

use super::port::Output;
use crate::board::accel::{Accelerator, Mapping};
use crate::board::space::DoorbellHost;

/// Stands in for the interrupt controllers.
pub struct Wires {
    ram: Arc<GuestRam>,
    /// The client wants to hear of the I/O APIC's pins.
    intercepted: AtomicBool,
    output: Mutex<Option<Weak<Output>>>,
    this: Weak<Wires>,
}

impl Wires {
    /// Messages go to `ram`; pins are silent until `irq_intercept_in`.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            ram,
            intercepted: AtomicBool::new(false),
            output: Mutex::default(),
            this: Weak::clone(this),
        })
    }

    pub(super) fn report_to(&self, output: &Arc<Output>) {
        *self.output.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(output));
    }

    /// From now on the client hears of every change of a pin.
    pub(super) fn intercept(&self) {
        self.intercepted.store(true, Ordering::Release);
    }

    /// A pin changed, by a device or by the client.
    pub(super) fn changed(&self, pin: u32, high: bool) {
        if !self.intercepted.load(Ordering::Acquire) {
            return;
        }
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Weak::upgrade);
        if let Some(output) = output {
            output.line(&format!("IRQ {} {pin}", if high { "raise" } else { "lower" }));
        }
    }
}

impl Accelerator for Wires {
    fn wire(&self, gsi: u32) -> Arc<dyn IrqLine> {
        Arc::new(Pin { wires: Weak::clone(&self.this), gsi, high: AtomicBool::new(false) })
    }

    fn messages(&self) -> Arc<dyn MsiSink> {
        Arc::new(Messages(Arc::clone(&self.ram)))
    }

    fn doorbells(&self) -> Box<dyn DoorbellHost> {
        Box::new(NoDoorbells)
    }

    /// Nobody reaches memory but through the board.
    fn map(&self, _: u64, _: HostRange, _: Access) -> Result<Mapping, MemoryError> {
        Ok(Box::new(()))
    }
}

/// A pin of the I/O APIC.
struct Pin {
    wires: Weak<Wires>,
    gsi: u32,
    high: AtomicBool,
}

impl IrqLine for Pin {
    fn set(&self, high: bool) {
        if self.high.swap(high, Ordering::AcqRel) != high
            && let Some(wires) = self.wires.upgrade()
        {
            wires.changed(self.gsi, high);
        }
    }
}

/// A message is a write: where no local APIC listens, it lands in memory, and the client may look there.
struct Messages(Arc<GuestRam>);

impl MsiSink for Messages {
    fn send(&self, message: MsiMessage) {
        if let Err(error) = self.0.write_slice(&message.data.to_le_bytes(), GuestAddress(message.address)) {
            log::debug!("message {message:x?}: {error}");
        }
    }

    fn open_vector(&self) -> Result<Box<dyn MsiVector>, IrqError> {
        Ok(Box::new(Vector { to: Messages(Arc::clone(&self.0)), message: Mutex::default() }))
    }
}

struct Vector {
    to: Messages,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiVector for Vector {
    fn set(&self, message: Option<MsiMessage>) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }

    fn signal(&self) {
        let message = *self.message.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = message {
            self.to.send(message);
        }
    }
}

/// Every write reaches its device.
struct NoDoorbells;

impl DoorbellHost for NoDoorbells {
    fn place(&self, _: Space, _: u64, _: &Doorbell) -> io::Result<Box<dyn Any + Send>> {
        Ok(Box::new(()))
    }
}
