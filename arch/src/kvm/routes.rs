//! The table of interrupt routes: which global system interrupt (GSI) goes where.
//!
//! KVM takes the table only as a whole (`KVM_SET_GSI_ROUTING`), so one change costs O(routes). Changes are therefore
//! collected: a guest that opens N vectors at once causes one call, and a route that is set to what it was causes none.
//! Masking a vector is not a change, because a masked vector is not signalled.

use std::collections::BTreeMap;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_IRQ_ROUTES, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use thiserror::Error;

/// Most GSIs of one machine: the 24 pins of the IOAPIC, and message-signalled vectors above them. KVM's own limit.
pub const MAX_GSIS: u32 = KVM_MAX_IRQ_ROUTES as u32;

/// Pins of the IOAPIC (82093AA, 1.0): GSIs 0 to 23.
pub(super) const IOAPIC_PINS: u32 = 24;

/// A PIC pair adds a second entry to each of the first 15 GSIs.
const PIC_ROUTES: u32 = 15;

/// No route is to be had.
#[derive(Debug, Error)]
pub enum RouteError {
    /// All are taken.
    #[error("all {0} interrupt routes of the machine are taken")]
    Full(u32),
    /// The kernel refused the table.
    #[error("KVM refused the interrupt routing table ({routes} routes)")]
    Refused {
        /// Its length.
        routes: usize,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The host gives no descriptor for a vector.
    #[error("cannot create an event descriptor for an interrupt vector")]
    Descriptor(#[source] std::io::Error),
    /// The kernel refused to bind a descriptor to a route.
    #[error("KVM refused an interrupt descriptor for GSI {gsi}")]
    Bind {
        /// The route.
        gsi: u32,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// A message-signalled interrupt: a memory write (PCI 3.0, 6.8). KVM on x86 does not take the requester's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Message {
    /// Where the write goes; on x86 within `0xfee0_0000..0xfef0_0000` (SDM volume 3, 11.11.1).
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// The routes, and whether the kernel knows them.
#[derive(Debug)]
pub(super) struct Routes {
    /// `None`: taken, and not yet given a message.
    vectors: BTreeMap<u32, Option<Message>>,
    /// Routes there can be, pins included.
    limit: u32,
    stale: bool,
}

impl Routes {
    /// The routes of the pins only. `limit` is what the kernel can take.
    pub(super) fn new(limit: u32) -> Self {
        let limit = limit.min(MAX_GSIS).saturating_sub(PIC_ROUTES);
        Self { vectors: BTreeMap::new(), limit, stale: true }
    }

    /// Takes the lowest free GSI above the pins: O(vectors).
    pub(super) fn allocate(&mut self) -> Result<u32, RouteError> {
        let taken = self.vectors.keys().zip(IOAPIC_PINS..).take_while(|(have, want)| *have == want).count();
        let gsi = IOAPIC_PINS + u32::try_from(taken).unwrap_or(u32::MAX - IOAPIC_PINS);
        if gsi >= self.limit {
            return Err(RouteError::Full(self.limit));
        }
        self.vectors.insert(gsi, None);
        Ok(gsi)
    }

    /// Gives a GSI back. The kernel keeps its stale entry until the next change: nothing signals it any more.
    pub(super) fn free(&mut self, gsi: u32) {
        self.vectors.remove(&gsi);
    }

    /// Sets what GSIs deliver, and hands the table to `apply` if it differs from what the kernel has. Nothing happens for
    /// one that is not taken. If the kernel refuses, all stay as they were: one bad message is not offered again with
    /// every later change of others.
    pub(super) fn change(
        &mut self,
        messages: &[(u32, Message)],
        apply: impl FnOnce(&KvmIrqRouting) -> Result<(), kvm_ioctls::Error>,
    ) -> Result<(), RouteError> {
        let before: Vec<_> =
            messages.iter().filter_map(|&(gsi, message)| Some((gsi, self.set(gsi, message)?))).collect();
        self.commit(apply).inspect_err(|_| {
            // Backwards, should one have been set twice.
            for (gsi, message) in before.into_iter().rev() {
                self.vectors.insert(gsi, message);
            }
        })
    }

    /// Gives what it was, if that differs.
    fn set(&mut self, gsi: u32, message: Message) -> Option<Option<Message>> {
        let now = self.vectors.get_mut(&gsi).filter(|now| **now != Some(message))?;
        self.stale = true;
        Some(now.replace(message))
    }

    /// Hands the whole table to `apply` if it differs from what the kernel has.
    pub(super) fn commit(
        &mut self,
        apply: impl FnOnce(&KvmIrqRouting) -> Result<(), kvm_ioctls::Error>,
    ) -> Result<(), RouteError> {
        if !self.stale {
            return Ok(());
        }
        let entries = self.entries();
        let refused = |source| RouteError::Refused { routes: entries.len(), source };
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| refused(kvm_ioctls::Error::new(libc::E2BIG)))?;
        apply(&table).map_err(refused)?;
        self.stale = false;
        Ok(())
    }

    /// The table in KVM's form: the pins as a PC wires them, then the vectors that have a message.
    pub(super) fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let mut entries = Vec::with_capacity(self.vectors.len() + 40);
        for pin in 0..8 {
            // Pin 2 of the master PIC is the slave's output.
            if pin != 2 {
                entries.push(chip(pin, KVM_IRQCHIP_PIC_MASTER, pin));
            }
        }
        entries.extend((8..16).map(|pin| chip(pin, KVM_IRQCHIP_PIC_SLAVE, pin - 8)));
        // The timer, ISA interrupt 0, is wired to pin 2 of the IOAPIC, as the MADT's override says (ACPI 6.5, 5.2.12.5).
        entries.push(chip(0, KVM_IRQCHIP_IOAPIC, 2));
        entries
            .extend((0..IOAPIC_PINS).filter(|&pin| pin != 0 && pin != 2).map(|pin| chip(pin, KVM_IRQCHIP_IOAPIC, pin)));
        entries.extend(self.vectors.iter().filter_map(|(&gsi, m)| m.map(|m| msi(gsi, m))));
        entries
    }
}

fn chip(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = split(message.address);
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    entry
}

/// Low and high halves of an address.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
pub(super) fn split(address: u64) -> (u32, u32) {
    (address as u32, (address >> 32) as u32)
}

#[cfg(test)]
mod tests;
