//! The MC146818 real-time clock and the 128 bytes of CMOS memory behind it (Motorola MC146818A data sheet).
//!
//! ```text
//!   0x70 index   0x71 data      00h-09h time, 0ah-0dh registers A to D, 0eh-7fh memory, 32h century
//! ```
//!
//! Time is not counted but computed from a [`Clock`](crate::clock::Clock) and an offset; flags are brought up to date
//! when the guest looks, and a timer is armed only while an interrupt is enabled.

mod alarm;
mod calendar;
mod layout;
mod rtc;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::bus::{BusDevice, BusFault, Effect};
use crate::clock::{SharedClock, Timer};
use crate::geometry::Shape;
use crate::irq::IrqLine;
use crate::lifecycle::{Lifecycle, Saver};

use super::{LegacyChip, PortRange, lock};
use rtc::Rtc;

pub use layout::CmosLayout;
pub use rtc::{RtcClock, RtcOptions, RtcStart, local_offset};

/// Index port; the data port follows.
pub const PORT: u16 = 0x70;
/// Bytes of CMOS memory.
const BYTES: usize = 128;

/// Index register bit 7 keeps non-maskable interrupts off; it selects nothing.
const INDEX: u8 = 0x7f;

struct Regs {
    index: u8,
    rtc: Rtc,
}

struct Chip {
    irq: Arc<dyn IrqLine>,
    clock: SharedClock,
    timer: Box<dyn Timer>,
    regs: Mutex<Regs>,
}

impl Chip {
    fn lock(&self) -> MutexGuard<'_, Regs> {
        lock(&self.regs)
    }

    /// Brings flags, wire and timer up to date.
    fn settle(&self, regs: &mut Regs) {
        regs.rtc.catch_up(&*self.clock);
        self.irq.set(regs.rtc.interrupting());
        match regs.rtc.next_interrupt(&*self.clock) {
            Some(delay) => self.timer.arm(self.clock.now().saturating_add(delay)),
            None => self.timer.disarm(),
        }
    }
}

/// The clock and its memory.
pub struct Cmos {
    chip: Arc<Chip>,
}

impl Cmos {
    /// A clock started as `options` say, with memory as `layout` says. `irq` is ISA interrupt 8.
    #[must_use]
    pub fn new(options: RtcOptions, layout: &CmosLayout, clock: SharedClock, irq: Arc<dyn IrqLine>) -> Self {
        let rtc = Rtc::new(options, layout, &*clock);
        let chip = Arc::new_cyclic(|weak: &Weak<Chip>| {
            let weak = weak.clone();
            let timer = clock.timer(Box::new(move || {
                if let Some(chip) = weak.upgrade() {
                    chip.settle(&mut chip.lock());
                }
            }));
            Chip { irq, clock, timer, regs: Mutex::new(Regs { index: 0, rtc }) }
        });
        Self { chip }
    }

    /// Sets a byte of memory from the machine's side; those below 0x0e are not memory and stay.
    pub fn set_byte(&self, index: u8, value: u8) {
        self.chip.lock().rtc.set_memory(index, value);
    }

    /// Tells firmware of the disks on the IDE channels, masters and slaves in order.
    pub fn describe_disks(&self, disks: [Option<Shape>; 4]) {
        layout::of_disks(disks).into_iter().for_each(|(index, value)| self.set_byte(index, value));
    }
}

/// Index at 0 (reads as ones), data at 1. Bytes only, but a word written to the index port carries both.
impl BusDevice for Chip {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        let mut regs = self.lock();
        match (offset, data) {
            (0, [byte]) => *byte = 0xff,
            (1, [byte]) => {
                regs.rtc.catch_up(&*self.clock);
                let index = regs.index;
                *byte = regs.rtc.read(index, &*self.clock);
                // Only register C has a side effect: the flags go. So does the wire, even if the next flag comes in this
                // very moment: interrupt controllers look for edges, and one that sees none never asks the guest again.
                if index == rtc::REGISTER_C {
                    self.irq.set(false);
                    self.settle(&mut regs);
                }
            }
            (_, data) => return Err(BusFault { offset, len: data.len() }),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        let mut regs = self.lock();
        let value = match (offset, data) {
            (0, [index]) => {
                regs.index = index & INDEX;
                return Ok(Effect::None);
            }
            (0, [index, value]) => {
                regs.index = index & INDEX;
                *value
            }
            (1, [value]) => *value,
            _ => return Err(BusFault { offset, len: data.len() }),
        };
        regs.rtc.catch_up(&*self.clock);
        let index = regs.index;
        let set = regs.rtc.write(index, value, &*self.clock);
        self.settle(&mut regs);
        Ok(if set { Effect::ClockSet(regs.rtc.ahead(&*self.clock)) } else { Effect::None })
    }
}

impl LegacyChip for Cmos {
    fn ports(self: Arc<Self>) -> Vec<PortRange> {
        vec![PortRange { base: PORT, len: 2, device: Arc::clone(&self.chip) as Arc<dyn BusDevice> }]
    }
}

impl Lifecycle for Cmos {
    fn name(&self) -> &str {
        "mc146818rtc"
    }

    /// Interrupts go off (MC146818A, RESET pin); time and memory are on a battery and stay.
    fn reset(&self) {
        let mut regs = self.chip.lock();
        regs.index = 0;
        regs.rtc.reset(&*self.chip.clock);
        self.chip.settle(&mut regs);
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

#[cfg(test)]
mod tests;
