//! INTx routing of the i440FX board: four wires, PIRQA# to PIRQD#, and the PIIX3 registers that lead them to ISA
//! interrupts (82371SB data sheet, 2.2.9, PIRQRC).
//!
//! ```text
//!   slot s, pin p ──(s + p - 1) & 3──▶ PIRQ 0..3 ──register 60h..63h──▶ ISA IRQ n (also IOAPIC input n)
//! ```
//!
//! With `p` from 0 for INTA#: slot 1 INTA# is PIRQA#, slot 2 INTA# is PIRQB#, slot 3 INTA# is PIRQC#, slot 4 INTA# is
//! PIRQD#, slot 5 INTA# is PIRQA# again. The ACPI `_PRT` has to say the same: LNKA is PIRQA#. (The PIIX4 power
//! management function at slot 1 pin A does not use this; it drives ISA IRQ 9 directly.)

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::irq::{IrqLine, Unconnected};

/// Number of PIRQ wires.
pub const PIRQS: usize = 4;
/// PIRQRC bit 7: the wire leads nowhere.
pub const ROUTE_OFF: u8 = 1 << 7;

/// ISA interrupts that PIRQRC can name: 0, 1, 2, 8 and 13 are reserved.
const ROUTABLE: u16 = 0b1101_1110_1111_1000;

/// The PIRQ wire of a slot's pin: `slot` 0 to 31, `pin` 1 for INTA# to 4 for INTD#, as configuration space has it.
#[must_use]
pub const fn pirq_of(slot: u8, pin: u8) -> usize {
    // +3 is -1 modulo 4; the pin is counted from 1.
    (slot as usize + pin as usize + 2) & 3
}

struct Wires {
    /// Sources that pull each wire.
    asserted: [usize; PIRQS],
    routes: [u8; PIRQS],
    /// Levels last given to the ISA wires.
    levels: u16,
}

/// The router.
pub struct PirqRouter {
    isa: [Arc<dyn IrqLine>; 16],
    wires: Mutex<Wires>,
}

impl PirqRouter {
    /// A router onto these ISA interrupts (index 0 to 15), all routes off. Where an ISA interrupt has other sources
    /// too, give it a tap of a [`crate::irq::WiredOr`]; `None` leads nowhere.
    #[must_use]
    pub fn new(isa: [Option<Arc<dyn IrqLine>>; 16]) -> Arc<Self> {
        let isa = isa.map(|line| line.unwrap_or_else(|| Arc::new(Unconnected)));
        let wires = Wires { asserted: [0; PIRQS], routes: [ROUTE_OFF; PIRQS], levels: 0 };
        Arc::new(Self { isa, wires: Mutex::new(wires) })
    }

    /// The wire from interrupt `pin` (1 to 4) of a function in `slot`. Each function takes its own; they are ORed.
    #[must_use]
    pub fn line(self: &Arc<Self>, slot: u8, pin: u8) -> Arc<dyn IrqLine> {
        Arc::new(IntxLine { router: Arc::clone(self), pirq: pirq_of(slot, pin), high: Mutex::new(false) })
    }

    /// Writes a PIRQRC register: `pirq` 0 to 3.
    pub(super) fn set_route(&self, pirq: usize, value: u8) {
        let mut wires = self.lock();
        if let Some(route) = wires.routes.get_mut(pirq) {
            *route = value;
        }
        self.drive(&mut wires);
    }

    /// The ISA interrupt that PIRQ wire `pirq` (0 to 3) leads to now.
    #[must_use]
    pub fn routed_to(&self, pirq: usize) -> Option<u8> {
        self.lock().routes.get(pirq).copied().and_then(isa_of)
    }

    fn pull(&self, pirq: usize, up: bool) {
        let mut wires = self.lock();
        if let Some(asserted) = wires.asserted.get_mut(pirq) {
            *asserted = if up { *asserted + 1 } else { asserted.saturating_sub(1) };
        }
        self.drive(&mut wires);
    }

    fn drive(&self, wires: &mut Wires) {
        let pulled = wires.asserted.iter().zip(wires.routes).filter(|(asserted, _)| **asserted > 0);
        let levels = pulled.filter_map(|(_, route)| isa_of(route)).fold(0u16, |levels, irq| levels | (1 << irq));
        let changed = levels ^ std::mem::replace(&mut wires.levels, levels);
        for (irq, line) in self.isa.iter().enumerate() {
            if changed & (1 << irq) != 0 {
                line.set(levels & (1 << irq) != 0);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ISA interrupt that a PIRQRC value names.
fn isa_of(route: u8) -> Option<u8> {
    let irq = route & 0xf;
    (route & ROUTE_OFF == 0 && ROUTABLE & (1 << irq) != 0).then_some(irq)
}

/// One function's pin. Locks: its own, then the router's.
struct IntxLine {
    router: Arc<PirqRouter>,
    pirq: usize,
    high: Mutex<bool>,
}

impl IrqLine for IntxLine {
    fn set(&self, high: bool) {
        let mut now = self.high.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *now, high) != high {
            self.router.pull(self.pirq, high);
        }
    }
}

impl Drop for IntxLine {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests;
