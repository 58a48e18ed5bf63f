//! Registers and queues of a serial port.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Sink;
use std::sync::{Arc, Mutex, MutexGuard};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, SerialState};

use crate::chardev::{CharBackend, CharEvent, CharFrontend};
use crate::clock::{SharedClock, Timer};
use crate::irq::IrqLine;

use super::super::lock;

/// Depth of the FIFOs of a 16550A.
pub(super) const FIFO: usize = 16;
/// Depth of vm-superio's receive queue, larger than a 16550A's: only the free part of it can be asked for.
pub(super) const CORE_QUEUE: usize = 64;
/// Shortest and longest time until a backend that took nothing is asked again, in nanoseconds.
const RETRY_FIRST: u64 = 500_000;
const RETRY_MOST: u64 = 20_000_000;

const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_ID: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

/// Line control: the first two registers are the divisor latch.
const DIVISOR_LATCH: u8 = 1 << 7;
/// Modem control: loop back.
const LOOP_BACK: u8 = 1 << 4;

/// Interrupt enables (PC16550D, table II).
const ENABLE_RECEIVED: u8 = 1 << 0;
const ENABLE_TRANSMIT: u8 = 1 << 1;
const ENABLE_LINE: u8 = 1 << 2;
const ENABLES: u8 = 0xf;

/// Line status bits.
const DATA_READY: u8 = 1 << 0;
const OVERRUN: u8 = 1 << 1;
const BREAK: u8 = 1 << 4;
const HOLDING_EMPTY: u8 = 1 << 5;
const TRANSMITTER_EMPTY: u8 = 1 << 6;

/// FIFO control bits.
const FIFO_ENABLE: u8 = 1 << 0;
const CLEAR_RECEIVE: u8 = 1 << 1;
const CLEAR_TRANSMIT: u8 = 1 << 2;
const TRIGGER_LEVEL: u8 = 3 << 6;

/// Interrupt identification, by falling priority (PC16550D, table IV).
const ID_LINE: u8 = 0x6;
const ID_RECEIVED: u8 = 0x4;
const ID_TIMEOUT: u8 = 0xc;
const ID_TRANSMIT: u8 = 0x2;
const ID_NONE: u8 = 0x1;
const ID_FIFOS: u8 = 0xc0;

/// `vm-superio` is never told of an interrupt enable, so it never triggers.
#[derive(Debug)]
pub(super) struct NoTrigger;

impl Trigger for NoTrigger {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Transmission is done here: the core writes nowhere.
type Core = vm_superio::Serial<NoTrigger, NoEvents, Sink>;

/// What `vm-superio` keeps, made from its state.
pub(super) fn core_from(state: &SerialState) -> Option<Core> {
    Core::from_state(state, NoTrigger, NoEvents, std::io::sink()).ok()
}

/// Volatile registers.
pub(super) struct Regs {
    pub(super) core: Core,
    pub(super) enables: u8,
    /// FIFO control without its self-clearing bits.
    pub(super) fifo_control: u8,
    /// The transmit interrupt has a cause that identification has not yet shown.
    pub(super) transmit_pending: bool,
    /// Overrun and break.
    pub(super) line_errors: u8,
    /// Bytes that the backend has not taken.
    pub(super) unsent: VecDeque<u8>,
}

impl Default for Regs {
    fn default() -> Self {
        Self {
            core: Core::new(NoTrigger, std::io::sink()),
            enables: 0,
            fifo_control: 0,
            transmit_pending: false,
            line_errors: 0,
            unsent: VecDeque::new(),
        }
    }
}

impl Regs {
    fn received(&self) -> usize {
        CORE_QUEUE.saturating_sub(self.core.fifo_capacity())
    }

    fn depth(&self) -> usize {
        if self.fifo_control & FIFO_ENABLE != 0 { FIFO } else { 1 }
    }

    fn room(&mut self) -> usize {
        if self.loops_back() { 0 } else { self.depth().saturating_sub(self.received()) }
    }

    fn loops_back(&mut self) -> bool {
        self.core.read(MODEM_CONTROL) & LOOP_BACK != 0
    }

    fn latch(&mut self) -> bool {
        self.core.read(LINE_CONTROL) & DIVISOR_LATCH != 0
    }

    /// Identification of the most urgent enabled interrupt.
    fn identify(&mut self) -> u8 {
        let trigger = match self.fifo_control & TRIGGER_LEVEL {
            _ if self.fifo_control & FIFO_ENABLE == 0 => 1,
            0x00 => 1,
            0x40 => 4,
            0x80 => 8,
            _ => 14,
        };
        let received = if self.core.read(LINE_STATUS) & DATA_READY != 0 { self.received() } else { 0 };
        match self.enables {
            e if e & ENABLE_LINE != 0 && self.line_errors != 0 => ID_LINE,
            e if e & ENABLE_RECEIVED != 0 && received >= trigger => ID_RECEIVED,
            e if e & ENABLE_RECEIVED != 0 && received > 0 => ID_TIMEOUT,
            e if e & ENABLE_TRANSMIT != 0 && self.transmit_pending => ID_TRANSMIT,
            _ => ID_NONE,
        }
    }

    fn line_status(&mut self) -> u8 {
        let ready = self.core.read(LINE_STATUS) & DATA_READY;
        let empty = if self.unsent.is_empty() { HOLDING_EMPTY | TRANSMITTER_EMPTY } else { 0 };
        ready | empty | std::mem::take(&mut self.line_errors)
    }

    fn clear_received(&mut self) {
        for _ in 0..self.received() {
            self.core.read_data();
        }
        self.line_errors = 0;
    }

    fn control_fifo(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FIFO_ENABLE != 0;
        // PC16550D, 8.5: bit 0 has to be set for the others to be taken, and changing it clears both FIFOs.
        let orders = if value & FIFO_ENABLE != 0 { value } else { 0 };
        if toggled || orders & CLEAR_RECEIVE != 0 {
            self.clear_received();
        }
        if toggled || orders & CLEAR_TRANSMIT != 0 {
            self.unsent.clear();
            self.transmit_pending = true;
        }
        self.fifo_control = orders & (FIFO_ENABLE | TRIGGER_LEVEL);
    }

    fn enable(&mut self, value: u8) {
        // The transmit interrupt comes at once if it is switched on while there is room (PC16550D, 8.6).
        if value & !self.enables & ENABLE_TRANSMIT != 0 && self.unsent.is_empty() {
            self.transmit_pending = true;
        }
        self.enables = value & ENABLES;
    }

    /// Takes a byte off the line.
    fn receive(&mut self, byte: u8) {
        if self.received() >= self.depth() {
            self.line_errors |= OVERRUN;
        } else {
            // Only a full queue or the loop back could refuse, and both were looked at.
            let _ = self.core.enqueue_raw_bytes(&[byte]);
        }
    }

    fn loop_back(&mut self, byte: u8) {
        if self.received() >= self.depth() {
            self.line_errors |= OVERRUN;
        } else {
            let _ = self.core.write(DATA, byte);
        }
        self.transmit_pending = true;
    }
}

/// Reading the data register past the divisor latch.
trait ReadData {
    fn read_data(&mut self) -> u8;
}

impl ReadData for Core {
    fn read_data(&mut self) -> u8 {
        let control = self.read(LINE_CONTROL);
        if control & DIVISOR_LATCH == 0 {
            return self.read(DATA);
        }
        // Line control has no side effects, so it can stand aside for a moment.
        let _ = self.write(LINE_CONTROL, control & !DIVISOR_LATCH);
        let byte = self.read(DATA);
        let _ = self.write(LINE_CONTROL, control);
        byte
    }
}

struct Inner {
    regs: Regs,
    irq_high: bool,
    paused: bool,
    /// Time until the next attempt to transmit, in nanoseconds.
    retry_after: u64,
}

/// A serial port: what the guest, the backend and the retry timer share.
pub(super) struct Port {
    irq: Arc<dyn IrqLine>,
    backend: Arc<dyn CharBackend>,
    clock: SharedClock,
    retry: Box<dyn Timer>,

    inner: Mutex<Inner>,
}

impl Port {
    pub(super) fn new(
        irq: Arc<dyn IrqLine>,
        backend: Arc<dyn CharBackend>,
        clock: SharedClock,
        retry: Box<dyn Timer>,
    ) -> Self {
        let inner = Inner { regs: Regs::default(), irq_high: false, paused: false, retry_after: RETRY_FIRST };
        Self { irq, backend, clock, retry, inner: Mutex::new(inner) }
    }

    pub(super) fn backend(&self) -> &Arc<dyn CharBackend> {
        &self.backend
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Regs) -> T) -> T {
        look(&mut self.lock().regs)
    }

    /// Takes other registers on: a reset or a restore.
    pub(super) fn replace(&self, regs: Regs) {
        let mut inner = self.lock();
        inner.regs = regs;
        self.transmit(&mut inner);
        self.drive(&mut inner);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        let was = {
            let mut inner = self.lock();
            std::mem::replace(&mut inner.paused, paused)
        };
        if was && !paused {
            self.retry_transmit();
            self.backend.accept_input();
        }
    }

    /// Drives the interrupt line; costs nothing while its level stays.
    fn drive(&self, inner: &mut Inner) {
        let high = inner.regs.enables != 0 && inner.regs.identify() != ID_NONE;
        if std::mem::replace(&mut inner.irq_high, high) != high {
            self.irq.set(high);
        }
    }

    pub(super) fn read(&self, register: u8) -> u8 {
        let mut inner = self.lock();
        let regs = &mut inner.regs;
        let mut made_room = false;
        let value = match register {
            DATA | INTERRUPT_ENABLE if regs.latch() => return regs.core.read(register),
            DATA => {
                made_room = regs.received() > 0;
                regs.core.read(DATA)
            }
            INTERRUPT_ENABLE => return regs.enables,
            INTERRUPT_ID => {
                let id = regs.identify();
                if id == ID_TRANSMIT {
                    regs.transmit_pending = false;
                }
                id | if regs.fifo_control & FIFO_ENABLE != 0 { ID_FIFOS } else { 0 }
            }
            LINE_STATUS => regs.line_status(),
            _ => return regs.core.read(register),
        };
        made_room &= !regs.loops_back();
        self.drive(&mut inner);
        drop(inner);
        if made_room {
            self.backend.accept_input();
        }
        value
    }

    pub(super) fn write(&self, register: u8, value: u8) {
        let mut inner = self.lock();
        let regs = &mut inner.regs;
        let room_before = regs.room();
        match register {
            DATA | INTERRUPT_ENABLE if regs.latch() => drop(regs.core.write(register, value)),
            DATA if regs.loops_back() => regs.loop_back(value),
            DATA => self.send(&mut inner, value),
            INTERRUPT_ENABLE => regs.enable(value),
            INTERRUPT_ID => regs.control_fifo(value),
            // Line and modem status are read-only.
            LINE_STATUS | 6 => {}
            MODEM_CONTROL => drop(regs.core.write(MODEM_CONTROL, value & 0x1f)),
            _ => drop(regs.core.write(register, value)),
        }
        let made_room = inner.regs.room() > room_before;
        self.drive(&mut inner);
        drop(inner);
        if made_room {
            self.backend.accept_input();
        }
    }

    /// Sends a byte, or queues it behind those that the backend has not taken. One that finds the FIFO full is lost,
    /// as on the chip: the guest saw in the line status that there was no room.
    fn send(&self, inner: &mut Inner, byte: u8) {
        let regs = &mut inner.regs;
        if regs.unsent.is_empty() && !inner.paused && self.backend.write(&[byte]) == 1 {
            regs.transmit_pending = true;
            return;
        }
        if regs.unsent.len() < FIFO {
            regs.unsent.push_back(byte);
        }
        regs.transmit_pending = false;
        if regs.unsent.len() == 1 {
            inner.retry_after = RETRY_FIRST;
            self.retry.arm(self.clock.now().saturating_add(inner.retry_after));
        }
    }

    /// Offers the queue to the backend, and sets the alarm for the next attempt if it does not take all.
    fn transmit(&self, inner: &mut Inner) {
        if inner.paused || inner.regs.unsent.is_empty() {
            return;
        }
        let sent = self.backend.write(inner.regs.unsent.make_contiguous()).min(inner.regs.unsent.len());
        inner.regs.unsent.drain(..sent);
        if inner.regs.unsent.is_empty() {
            inner.regs.transmit_pending = true;
            return;
        }
        let backed_off = if sent > 0 { RETRY_FIRST } else { (inner.retry_after * 2).min(RETRY_MOST) };
        inner.retry_after = backed_off;
        self.retry.arm(self.clock.now().saturating_add(backed_off));
    }

    pub(super) fn retry_transmit(&self) {
        let mut inner = self.lock();
        self.transmit(&mut inner);
        self.drive(&mut inner);
    }
}

impl CharFrontend for Port {
    fn room(&self) -> usize {
        let mut inner = self.lock();
        if inner.paused { 0 } else { inner.regs.room() }
    }

    fn receive(&self, data: &[u8]) {
        let mut inner = self.lock();
        for byte in data {
            inner.regs.receive(*byte);
        }
        self.drive(&mut inner);
    }

    /// A break is a zero byte with its mark (PC16550D, 8.4). The modem lines of the port are always on.
    fn event(&self, event: CharEvent) {
        if event == CharEvent::Break {
            let mut inner = self.lock();
            inner.regs.receive(0);
            inner.regs.line_errors |= BREAK;
            self.drive(&mut inner);
        }
    }
}
