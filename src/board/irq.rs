//! KVM's interrupts behind the wires and vectors that devices hold, and its doorbells behind PCI regions.

use std::any::Any;
use std::io;
use std::sync::Arc;

use rhea_arch::kvm::{Doorbell as Place, DoorbellAddress, DoorbellMatch, Message, MsiRoute, RouteError, Vm};
use rhea_devices::irq::{IrqError, IrqLine, MsiMessage, MsiSink, MsiVector};
use rhea_devices::log_limit::LogLimit;
use rhea_devices::pci::{Doorbell, Space};

use super::space::DoorbellHost;

/// A pin of the interrupt controllers.
pub(super) struct Wire {
    vm: Arc<Vm>,
    gsi: u32,
}

impl Wire {
    /// The wire of ISA interrupt `gsi` (or another pin of the I/O APIC).
    pub(super) fn connect(vm: &Arc<Vm>, gsi: u32) -> Arc<dyn IrqLine> {
        Arc::new(Self { vm: Arc::clone(vm), gsi })
    }
}

impl IrqLine for Wire {
    fn set(&self, high: bool) {
        if let Err(error) = self.vm.set_irq_line(self.gsi, high) {
            log::error!("interrupt {}: {error}", self.gsi);
        }
    }
}

/// Message-signalled interrupts through KVM.
pub(super) struct Messages {
    vm: Arc<Vm>,
    /// The guest chooses addresses and may change them as often as it likes: one limit for all vectors.
    log: Arc<LogLimit>,
}

impl Messages {
    pub(super) fn new(vm: &Arc<Vm>) -> Self {
        Self { vm: Arc::clone(vm), log: Arc::default() }
    }
}

impl MsiSink for Messages {
    fn send(&self, message: MsiMessage) {
        if let Err(error) = self.vm.signal_msi(to_kvm(message)) {
            // The guest chose the address: no local APIC there.
            log::debug!("message {message:x?}: {error}");
        }
    }

    fn open_vector(&self) -> Result<Box<dyn MsiVector>, IrqError> {
        let route = MsiRoute::open(&self.vm).map_err(|e| match e {
            RouteError::Descriptor(source) => IrqError(source),
            other => IrqError(io::Error::other(other)),
        })?;
        Ok(Box::new(Vector { route, log: Arc::clone(&self.log) }))
    }
}

fn to_kvm(message: MsiMessage) -> Message {
    Message { address: message.address, data: message.data }
}

/// One vector: an eventfd that KVM turns into the message. Signalling it is one write, from any thread.
struct Vector {
    route: MsiRoute,
    log: Arc<LogLimit>,
}

impl MsiVector for Vector {
    fn set(&self, message: Option<MsiMessage>) {
        if let Err(error) = self.route.set(message.map(to_kvm)) {
            self.log.warn(format_args!("interrupt vector {}: {error}", self.route.gsi()));
        }
    }

    fn signal(&self) {
        if let Err(error) = self.route.signal() {
            log::error!("interrupt vector {}: {error}", self.route.gsi());
        }
    }
}

/// Doorbells through KVM.
pub(super) struct Doorbells(pub(super) Arc<Vm>);

impl DoorbellHost for Doorbells {
    fn place(&self, space: Space, address: u64, doorbell: &Doorbell) -> io::Result<Box<dyn Any + Send>> {
        let at = match space {
            Space::Io => DoorbellAddress::Port(u16::try_from(address).map_err(io::Error::other)?),
            Space::Memory => DoorbellAddress::Memory(address),
        };
        let placed = Place::place(&self.0, at, which(doorbell), &doorbell.event).map_err(io::Error::other)?;
        Ok(Box::new(placed))
    }
}

/// Values are cut to the width of the write they are compared with.
fn which(doorbell: &Doorbell) -> DoorbellMatch {
    match (doorbell.len, doorbell.value) {
        (1, Some(value)) => DoorbellMatch::Byte(value as u8),
        (2, Some(value)) => DoorbellMatch::Word(value as u16),
        (4, Some(value)) => DoorbellMatch::Dword(value as u32),
        (8, Some(value)) => DoorbellMatch::Qword(value),
        _ => DoorbellMatch::Any,
    }
}
