//! From the device to the driver: MSI-X vectors, or the ISR register and the interrupt pin (sections 4.1.5.3 and
//! 4.1.5.4).

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::irq::IrqLine;
use crate::pci::config::ConfigSpace;
use crate::pci::msix::Msix;
use crate::virtio::device::DriverEvents;
use crate::virtio::features::status;

/// `VIRTIO_MSI_NO_VECTOR` (section 4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;
/// ISR bit: a queue has used buffers.
const ISR_QUEUE: u8 = 1;
/// ISR bit: the configuration changed.
const ISR_CONFIG: u8 = 2;

/// PCI configuration space and the interrupt pin, which follow each other.
pub(super) struct Pins {
    pub(super) space: ConfigSpace,
    pub(super) isr: u8,
}

/// The way to the driver. With MSI-X no lock of the transport is taken.
pub(super) struct Interrupts {
    pub(super) msix: Option<Arc<Msix>>,
    line: Arc<dyn IrqLine>,

    pub(super) pins: Mutex<Pins>,
    pub(super) status: AtomicU8,
    pub(super) config_vector: AtomicU16,
    pub(super) queue_vectors: Box<[AtomicU16]>,
}

impl Interrupts {
    pub(super) fn new(space: ConfigSpace, msix: Option<Arc<Msix>>, line: Arc<dyn IrqLine>, queues: usize) -> Self {
        Self {
            msix,
            line,
            pins: Mutex::new(Pins { space, isr: 0 }),
            status: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    pub(super) fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives the pin as ISR and command register say; after any change of either.
    pub(super) fn drive(&self, pins: &mut Pins) {
        let msix = self.msix.as_ref().is_some_and(|msix| msix.enabled());
        pins.space.set_interrupt_status(pins.isr != 0 && !msix);
        self.line.set(pins.space.intx_level());
    }

    /// A read of the ISR register: it clears it (section 4.1.4.5.1).
    pub(super) fn take_isr(&self) -> u8 {
        let mut pins = self.pins();
        let isr = std::mem::take(&mut pins.isr);
        self.drive(&mut pins);
        isr
    }

    /// The vector a driver names, or none if there is no such vector (section 4.1.5.1.2.1).
    pub(super) fn vector(&self, wanted: u16) -> u16 {
        let vectors = self.msix.as_ref().map_or(0, |msix| msix.layout().vectors);
        if wanted < vectors { wanted } else { NO_VECTOR }
    }

    /// Replaces the status, except that the wish for a reset stays until [`Interrupts::reset`].
    pub(super) fn set_status(&self, value: u8) {
        let set = |old| Some((value & !status::NEEDS_RESET) | (old & status::NEEDS_RESET));
        let _ = self.status.fetch_update(Ordering::AcqRel, Ordering::Acquire, set);
    }

    /// Back to what a device reset leaves.
    pub(super) fn reset(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        let mut pins = self.pins();
        pins.isr = 0;
        self.drive(&mut pins);
        self.status.store(0, Ordering::Release);
    }

    fn raise(&self, vector: u16, isr: u8) {
        if let Some(msix) = &self.msix
            && msix.enabled()
        {
            if vector != NO_VECTOR {
                msix.signal(vector);
            }
            return;
        }
        let mut pins = self.pins();
        pins.isr |= isr;
        self.drive(&mut pins);
    }
}

impl DriverEvents for Interrupts {
    fn queue_used(&self, n: u16) {
        let Some(vector) = self.queue_vectors.get(usize::from(n)) else { return };
        self.raise(vector.load(Ordering::Acquire), ISR_QUEUE);
    }

    fn config_changed(&self) {
        // Before DRIVER_OK a device must not notify (section 2.1.2); the driver reads the configuration anyway.
        if self.status.load(Ordering::Acquire) & status::DRIVER_OK != 0 {
            // QEMU reports a used buffer with it, and a driver that polls its queue's bit alone sees the change only so.
            self.raise(self.config_vector.load(Ordering::Acquire), ISR_CONFIG | ISR_QUEUE);
        }
    }

    fn needs_reset(&self) {
        self.status.fetch_or(status::NEEDS_RESET, Ordering::AcqRel);
        self.config_changed();
    }
}
