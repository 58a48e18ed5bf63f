use std::time::Duration;

use super::port::CORE_QUEUE;
use super::*;
use crate::chardev::CharEvent;
use crate::clock::ManualClock;
use crate::testing::{MemoryChar, RecordingLine, assert_device_battery, hammer, peek, poke};

const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

struct Bench {
    serial: Arc<Serial>,
    chardev: Arc<MemoryChar>,
    clock: Arc<ManualClock>,
    irq: Arc<RecordingLine>,
}

impl Bench {
    fn unstarted() -> Self {
        let (chardev, irq) = (MemoryChar::new(), RecordingLine::new());
        let clock = Arc::new(ManualClock::new(Duration::ZERO));
        let serial = Serial::new(
            "serial0",
            COM[0].0,
            Arc::clone(&irq) as Arc<dyn IrqLine>,
            Arc::clone(&chardev) as Arc<dyn CharBackend>,
            Arc::clone(&clock) as SharedClock,
        );
        Self { serial: Arc::new(serial), chardev, clock, irq }
    }

    fn new() -> Self {
        let bench = Self::unstarted();
        bench.serial.start().unwrap();
        bench
    }

    fn read(&self, register: u64) -> u64 {
        peek(&*self.serial, register, 1).unwrap()
    }

    fn write(&self, register: u64, value: u64) {
        poke(&*self.serial, register, 1, value).unwrap();
    }
}

#[test]
fn power_on_registers_are_those_of_the_chip() {
    let b = Bench::new();

    let values = [IER, IIR, LCR, MCR, LSR, MSR, SCR].map(|r| b.read(r));

    assert_eq!(values, [0x00, 0x01, 0x03, 0x08, 0x60, 0xb0, 0x00]);
}

#[test]
fn written_bytes_reach_the_backend_in_order() {
    let b = Bench::new();

    for byte in b"hello" {
        b.write(0, u64::from(*byte));
    }

    assert_eq!(b.chardev.take(), b"hello");
    assert_eq!(b.read(LSR), 0x60);
}

#[test]
fn fifo_bits_show_a_16550a_only_when_enabled() {
    let b = Bench::new();
    assert_eq!(b.read(IIR) >> 6, 0);

    b.write(FCR, 0x01);
    assert_eq!(b.read(IIR), 0xc1);

    b.write(FCR, 0x00);
    assert_eq!(b.read(IIR), 0x01);
}

#[test]
fn interrupt_enables_and_scratch_read_back() {
    let b = Bench::new();

    b.write(IER, 0xff);
    b.write(SCR, 0xa5);

    assert_eq!((b.read(IER), b.read(SCR)), (0x0f, 0xa5));
}

#[test]
fn divisor_latch_hides_data_and_enables() {
    let b = Bench::new();
    b.write(IER, 0x01);
    b.write(LCR, 0x83);

    b.write(0, 0x01);
    b.write(1, 0xc2);
    assert_eq!((b.read(0), b.read(1)), (0x01, 0xc2));
    b.write(LCR, 0x03);

    assert_eq!(b.read(IER), 0x01);
    assert!(b.chardev.take().is_empty());
}

#[test]
fn transmit_interrupt_comes_when_enabled_and_goes_when_identified() {
    let b = Bench::new();

    b.write(IER, 0x02);
    assert!(b.irq.high());
    assert_eq!(b.read(IIR), 0x02);
    assert!(!b.irq.high());
    assert_eq!(b.read(IIR), 0x01);

    b.write(0, 0x41);
    assert!(b.irq.high());
    b.write(IER, 0x00);
    assert!(!b.irq.high());
}

#[test]
fn received_data_interrupts_until_read() {
    let b = Bench::new();
    b.write(FCR, 0x01);
    b.write(IER, 0x01);

    b.chardev.type_in(b"ab");

    assert!(b.irq.high());
    assert_eq!(b.read(IIR), 0xc4);
    assert_eq!(b.read(IIR), 0xc4, "identification does not clear received data");
    assert_eq!((b.read(LSR), b.read(0), b.read(0)), (0x61, 0x61, 0x62));
    assert!(!b.irq.high());
    assert_eq!(b.read(LSR), 0x60);
}

#[test]
fn below_the_trigger_level_data_times_out() {
    let b = Bench::new();
    b.write(FCR, 0xc1);
    b.write(IER, 0x01);

    b.chardev.type_in(&[1; 13]);
    assert_eq!(b.read(IIR), 0xcc);

    b.chardev.type_in(&[1]);
    assert_eq!(b.read(IIR), 0xc4);
}

#[test]
fn input_waits_for_room_and_none_is_lost() {
    let b = Bench::new();
    b.write(FCR, 0x01);
    let typed: Vec<u8> = (0..100).collect();

    b.chardev.type_in(&typed);
    let got: Vec<u8> = (0..100).map(|_| u8::try_from(b.read(0)).unwrap()).collect();

    assert_eq!(got, typed);
    assert_eq!(b.read(LSR), 0x60);
}

#[test]
fn without_fifo_there_is_room_for_one() {
    let b = Bench::new();
    let frontend = b.chardev.frontend().unwrap();
    assert_eq!(frontend.room(), 1);

    b.chardev.type_in(b"x");
    assert_eq!(frontend.room(), 0);

    frontend.receive(b"y");
    assert_eq!(b.read(LSR), 0x63, "overrun");
    assert_eq!(b.read(0), u64::from(b'x'));
}

#[test]
fn clearing_the_receive_fifo_drops_its_bytes() {
    let b = Bench::new();
    b.write(FCR, 0x01);
    b.write(IER, 0x01);
    b.chardev.type_in(b"abc");

    b.write(FCR, 0x03);

    assert!(!b.irq.high());
    assert_eq!((b.read(LSR), b.read(IIR)), (0x60, 0xc1));
}

#[test]
fn loop_back_returns_bytes_and_modem_lines() {
    let b = Bench::new();
    b.write(FCR, 0x01);
    b.write(MCR, 0x1a);
    assert_eq!(b.read(MSR) & 0xf0, 0x90);
    assert_eq!(b.chardev.frontend().unwrap().room(), 0);

    b.write(0, 0x5a);

    assert_eq!(b.read(LSR), 0x61);
    assert_eq!(b.read(0), 0x5a);
    assert!(b.chardev.take().is_empty());
}

#[test]
fn loop_back_overruns_after_sixteen() {
    let b = Bench::new();
    b.write(FCR, 0x01);
    b.write(MCR, 0x10);

    for byte in 0..17 {
        b.write(0, byte);
    }

    assert_eq!(b.read(LSR), 0x63);
    assert_eq!((0..16).map(|_| b.read(0)).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
}

#[test]
fn leaving_loop_back_takes_waiting_input() {
    let b = Bench::new();
    b.write(MCR, 0x10);
    b.chardev.type_in(b"x");
    assert_eq!(b.read(LSR), 0x60);

    b.write(MCR, 0x08);

    assert_eq!(b.read(LSR), 0x61);
}

#[test]
fn break_is_a_marked_zero_and_a_line_interrupt() {
    let b = Bench::new();
    b.write(FCR, 0x01);
    b.write(IER, 0x05);

    b.chardev.frontend().unwrap().event(CharEvent::Break);

    assert_eq!(b.read(IIR), 0xc6);
    assert_eq!(b.read(LSR), 0x71);
    assert_eq!(b.read(IIR), 0xc4);
    assert_eq!(b.read(0), 0);
    assert!(!b.irq.high());
}

#[test]
fn blocked_backend_holds_the_transmitter_and_is_asked_again() {
    let b = Bench::new();
    b.chardev.block(true);
    b.write(0, 0x61);
    b.write(0, 0x62);
    assert_eq!(b.read(LSR), 0x00);

    assert!(b.clock.step());
    assert_eq!(b.read(LSR), 0x00);

    b.chardev.block(false);
    b.write(IER, 0x02);
    assert!(!b.irq.high());
    assert!(b.clock.step());

    assert_eq!(b.chardev.take(), b"ab");
    assert_eq!(b.read(LSR), 0x60);
    assert!(b.irq.high());
    assert_eq!(b.clock.next_deadline(), None);
}

#[test]
fn blocked_backend_keeps_sixteen_bytes_and_no_more() {
    let b = Bench::new();
    b.chardev.block(true);
    for byte in 0..40 {
        b.write(0, byte);
    }

    b.chardev.block(false);
    b.clock.advance(50_000_000);

    assert_eq!(b.chardev.take(), (0..16).collect::<Vec<_>>());
}

#[test]
fn wide_access_takes_registers_side_by_side() {
    let b = Bench::new();

    assert_eq!(poke(&*b.serial, 0, 2, 0x0541), Some(Effect::None));

    assert_eq!(b.chardev.take(), b"A");
    assert_eq!(b.read(IER), 5);
    assert_eq!(peek(&*b.serial, 7, 2), None);
}

#[test]
fn paused_port_takes_no_input_until_resumed() {
    let b = Bench::new();
    b.serial.pause();
    b.chardev.type_in(b"x");
    assert_eq!(b.read(LSR), 0x60);

    b.serial.resume();

    assert_eq!(b.read(LSR), 0x61);
}

#[test]
fn second_port_on_one_chardev_is_refused() {
    let b = Bench::new();
    let other = Serial::new(
        "serial1",
        COM[1].0,
        RecordingLine::new(),
        Arc::clone(&b.chardev) as Arc<dyn CharBackend>,
        Arc::clone(&b.clock) as SharedClock,
    );

    let error = other.start().unwrap_err();

    assert_eq!(error.to_string(), "character device \"memory\" is in use");
}

#[test]
fn dropped_port_lets_go_of_its_chardev() {
    let b = Bench::new();

    drop(b.serial);

    assert!(b.chardev.frontend().is_none());
}

#[test]
fn queue_of_the_library_is_as_deep_as_assumed() {
    let fresh = port::core_from(&vm_superio::serial::SerialState::default()).unwrap();

    assert_eq!(fresh.fifo_capacity(), CORE_QUEUE);
}

#[test]
fn passes_the_battery() {
    assert_device_battery(
        || Bench::unstarted().serial,
        |serial| {
            for (register, value) in [(2, 0x81), (1, 5), (7, 0x12), (4, 0x1b), (0, 0x41), (0, 0x42), (3, 0x1b)] {
                poke(serial, register, 1, value).unwrap();
            }
        },
    );
}

#[test]
fn no_access_panics() {
    hammer(|| Bench::new().serial as Arc<dyn BusDevice>, 8);
}
