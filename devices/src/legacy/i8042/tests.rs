use super::*;
use crate::testing::{RecordingLine, assert_device_battery, hammer, peek, poke};

struct Bench {
    chip: Arc<I8042>,
    data: Arc<dyn BusDevice>,
    command: Arc<dyn BusDevice>,
    irq1: Arc<RecordingLine>,
    irq12: Arc<RecordingLine>,
}

impl Bench {
    fn new() -> Self {
        let (irq1, irq12) = (RecordingLine::new(), RecordingLine::new());
        let chip = Arc::new(I8042::new(Arc::clone(&irq1) as _, Arc::clone(&irq12) as _));
        let mut ports = Arc::clone(&chip).ports().into_iter().map(|p| p.device);
        let (data, command) = (ports.next().unwrap(), ports.next().unwrap());
        Self { chip, data, command, irq1, irq12 }
    }

    fn status(&self) -> u64 {
        peek(&*self.command, 0, 1).unwrap()
    }

    fn command(&self, value: u64) -> Effect {
        poke(&*self.command, 0, 1, value).unwrap()
    }

    fn data(&self, value: u64) -> Effect {
        poke(&*self.data, 0, 1, value).unwrap()
    }

    /// All that waits, as a driver flushes it.
    fn drain(&self) -> Vec<u64> {
        std::iter::from_fn(|| (self.status() & 1 != 0).then(|| peek(&*self.data, 0, 1).unwrap())).take(64).collect()
    }

    fn ask(&self, value: u64) -> Vec<u64> {
        self.command(value);
        self.drain()
    }

    fn keyboard(&self, value: u64) -> Vec<u64> {
        self.data(value);
        self.drain()
    }

    fn mouse(&self, value: u64) -> Vec<u64> {
        self.command(0xd4);
        self.data(value);
        self.drain()
    }
}

#[test]
fn self_test_passes_and_sets_the_system_flag() {
    let b = Bench::new();
    assert_eq!(b.status(), 0x10);

    assert_eq!(b.ask(0xaa), [0x55]);

    assert_eq!(b.status() & 0x04, 0x04);
    assert_eq!((b.ask(0xab), b.ask(0xa9)), (vec![0], vec![0]));
}

#[test]
fn command_byte_reads_back() {
    let b = Bench::new();

    b.command(0x60);
    assert_eq!(b.status() & 0x08, 0x08);
    b.data(0x45);
    assert_eq!(b.status() & 0x08, 0x00);

    assert_eq!(b.ask(0x20), [0x45]);
}

#[test]
fn aux_port_switches_show_in_the_command_byte() {
    let b = Bench::new();

    b.command(0xa7);
    assert_eq!(b.ask(0x20)[0] & 0x20, 0x20);
    b.command(0xa8);
    assert_eq!(b.ask(0x20)[0] & 0x20, 0x00);
    b.command(0xad);
    assert_eq!(b.ask(0x20)[0] & 0x10, 0x10);
    b.command(0xae);
    assert_eq!(b.ask(0x20)[0] & 0x10, 0x00);
}

#[test]
fn aux_loop_comes_back_marked_and_interrupts_on_12() {
    let b = Bench::new();

    b.command(0xd3);
    b.data(0x5a);

    assert_eq!(b.status() & 0x21, 0x21);
    assert_eq!((b.irq1.high(), b.irq12.high()), (false, true));
    assert_eq!(b.drain(), [0x5a]);
    assert!(!b.irq12.high());
}

#[test]
fn keyboard_loop_interrupts_on_1_unless_disabled() {
    let b = Bench::new();
    b.command(0xd2);
    b.data(0x77);
    assert!(b.irq1.high());
    assert_eq!(b.drain(), [0x77]);

    b.command(0x60);
    b.data(0x00);
    b.command(0xd2);
    b.data(0x78);

    assert!(!b.irq1.high());
    assert_eq!(b.drain(), [0x78]);
}

#[test]
fn each_byte_of_an_answer_is_an_edge() {
    let b = Bench::new();

    assert_eq!(b.keyboard(0xf2), [0xfa, 0xab, 0x83]);

    assert_eq!(b.irq1.rises(), 3);
}

#[test]
fn translation_changes_the_identity() {
    let b = Bench::new();
    b.command(0x60);
    b.data(0x41);

    assert_eq!(b.keyboard(0xf2), [0xfa, 0xab, 0x41]);
}

#[test]
fn keyboard_answers_its_commands() {
    let b = Bench::new();

    assert_eq!(b.keyboard(0xff), [0xfa, 0xaa]);
    assert_eq!(b.keyboard(0xee), [0xee]);
    assert_eq!((b.keyboard(0xed), b.keyboard(0x07)), (vec![0xfa], vec![0xfa]));
    assert_eq!((b.keyboard(0xf3), b.keyboard(0x00)), (vec![0xfa], vec![0xfa]));
    assert_eq!((b.keyboard(0xf0), b.keyboard(0x00)), (vec![0xfa], vec![0xfa, 2]));
    assert_eq!((b.keyboard(0xf0), b.keyboard(0x03)), (vec![0xfa], vec![0xfa]));
    assert_eq!((b.keyboard(0xf0), b.keyboard(0x00)), (vec![0xfa], vec![0xfa, 3]));
    assert_eq!((b.keyboard(0xf5), b.keyboard(0xf4)), (vec![0xfa], vec![0xfa]));
    assert_eq!(b.keyboard(0x00), [0xfe]);
}

#[test]
fn resend_repeats_the_last_byte() {
    let b = Bench::new();
    b.keyboard(0xee);

    assert_eq!(b.keyboard(0xfe), [0xee]);
}

#[test]
fn disabled_keyboard_holds_its_bytes() {
    let b = Bench::new();
    b.data(0xff);
    b.command(0xad);
    assert_eq!(b.drain(), [0xfa]);

    b.command(0xae);

    assert_eq!(b.drain(), [0xaa]);
}

#[test]
fn mouse_answers_its_commands() {
    let b = Bench::new();

    assert_eq!(b.mouse(0xff), [0xfa, 0xaa, 0x00]);
    assert_eq!(b.mouse(0xf2), [0xfa, 0x00]);
    assert_eq!((b.mouse(0xe8), b.mouse(0x03)), (vec![0xfa], vec![0xfa]));
    assert_eq!(b.mouse(0xe7), [0xfa]);
    assert_eq!(b.mouse(0xf4), [0xfa]);
    assert_eq!(b.mouse(0xe9), [0xfa, 0x30, 0x03, 100]);
    assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 0, 0]);
    assert_eq!(b.mouse(0x00), [0xfe]);
}

#[test]
fn wrap_mode_echoes_until_reset() {
    let b = Bench::new();

    assert_eq!((b.mouse(0xee), b.mouse(0xf2)), (vec![0xfa], vec![0xf2]));
    assert_eq!((b.mouse(0xec), b.mouse(0xf2)), (vec![0xfa], vec![0xfa, 0]));
}

#[test]
fn knocking_with_sample_rates_unlocks_wheel_and_buttons() {
    let b = Bench::new();
    let knock = |rates: [u64; 3]| {
        for rate in rates {
            assert_eq!((b.mouse(0xf3), b.mouse(rate)), (vec![0xfa], vec![0xfa]));
        }
        b.mouse(0xf2)
    };

    assert_eq!(knock([200, 100, 80]), [0xfa, 3]);
    assert_eq!(knock([200, 200, 80]), [0xfa, 4]);
    assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 0, 0, 0]);
}

#[test]
fn resets_come_from_the_pulse_and_the_output_port() {
    let b = Bench::new();

    assert_eq!(b.command(0xfe), Effect::Power(PowerRequest::Reset));
    assert_eq!(b.command(0xff), Effect::None);
    b.command(0xd1);
    assert_eq!(b.data(0x02), Effect::Power(PowerRequest::Reset));
    b.command(0xd1);
    assert_eq!(b.data(0x03), Effect::None);
}

#[test]
fn output_port_shows_a20_and_the_output_buffer() {
    let b = Bench::new();
    assert_eq!(b.ask(0xd0), [0x03]);

    b.command(0xdd);
    assert_eq!(b.ask(0xd0), [0x01]);
    b.command(0xdf);
    b.command(0xd3);
    b.data(0x11);

    assert_eq!(b.ask(0xd0), [0x11, 0x23]);
}

#[test]
fn endless_commands_do_not_grow_the_queues() {
    let b = Bench::new();
    for _ in 0..1000 {
        b.command(0xd0);
        b.data(0xf2);
        b.command(0xd4);
        b.data(0xe9);
    }

    assert!(b.drain().len() <= 3 * QUEUE + 1);
}

#[test]
fn passes_the_battery() {
    assert_device_battery(
        || Bench::new().chip,
        |chip| {
            for (command, value) in [(true, 0x60), (false, 0x47), (false, 0xf2), (true, 0xd4), (false, 0xf3)] {
                chip.write(command, value);
            }
        },
    );
}

#[test]
fn no_access_panics() {
    struct Both(Bench);
    impl BusDevice for Both {
        fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
            let port = if offset & 1 == 0 { &self.0.data } else { &self.0.command };
            port.read(offset >> 1, data)
        }
        fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
            let port = if offset & 1 == 0 { &self.0.data } else { &self.0.command };
            port.write(offset >> 1, data)
        }
    }

    hammer(|| Arc::new(Both(Bench::new())) as Arc<dyn BusDevice>, 2);
}
