use super::*;
use crate::testing::{MemoryChar, assert_device_battery, hammer, peek, poke};

#[test]
fn debug_exit_makes_an_odd_status_of_what_is_written() {
    let exit = DebugExit::new(0xf4, 4).unwrap();

    assert_eq!(poke(&exit, 0, 1, 0x10), Some(Effect::Power(PowerRequest::Exit(0x21))));
    assert_eq!(poke(&exit, 0, 4, 0), Some(Effect::Power(PowerRequest::Exit(1))));
    assert_eq!(poke(&exit, 3, 1, 0xff), Some(Effect::Power(PowerRequest::Exit(0xff))));
    assert_eq!(peek(&exit, 0, 1), Some(0));
}

#[test]
fn debug_exit_beyond_the_ports_is_refused() {
    assert!(DebugExit::new(0xffff, 1).is_ok());
    assert!(DebugExit::new(0xffff, 2).is_err());
    assert!(DebugExit::new(0xf4, 0).is_err());
}

#[test]
fn debug_console_writes_out_and_tells_that_it_is_there() {
    let chardev = MemoryChar::new();
    let console = DebugConsole::new(0x402, 0xe9, Arc::clone(&chardev) as Arc<dyn CharBackend>);

    for byte in b"ok\n" {
        poke(&console, 0, 1, u64::from(*byte)).unwrap();
    }

    assert_eq!(chardev.take(), b"ok\n");
    assert_eq!(peek(&console, 0, 1), Some(0xe9));
}

#[test]
fn debug_console_takes_its_chardev_for_itself() {
    let chardev = MemoryChar::new();
    let console = || DebugConsole::new(0x402, 0xe9, Arc::clone(&chardev) as Arc<dyn CharBackend>);

    console().start().unwrap();

    assert_eq!(chardev.frontend().unwrap().room(), 0);
    assert!(console().start().is_err());
}

#[test]
fn fast_reset_needs_a_rising_bit() {
    let ports = Arc::new(SystemPorts::new());
    let control = Arc::clone(&ports).ports().into_iter().find(|p| p.base == 0x92).unwrap().device;

    assert_eq!(poke(&*control, 0, 1, 2), Some(Effect::None));
    assert_eq!(peek(&*control, 0, 1), Some(2));
    assert_eq!(poke(&*control, 0, 1, 3), Some(Effect::Power(PowerRequest::Reset)));
    assert_eq!(poke(&*control, 0, 1, 3), Some(Effect::None));
}

#[test]
fn post_and_delay_ports_read_ones() {
    let ports = Arc::new(SystemPorts::new()).ports();

    for base in [0x80, 0xed] {
        let port = &ports.iter().find(|p| p.base == base).unwrap().device;
        assert_eq!(poke(&**port, 0, 1, 0x12), Some(Effect::None));
        assert_eq!(peek(&**port, 0, 1), Some(0xff));
    }
}

#[test]
fn all_pass_the_battery() {
    let chardev = || MemoryChar::new() as Arc<dyn CharBackend>;
    assert_device_battery(|| Arc::new(DebugExit::new(0xf4, 4).unwrap()), |_| ());
    assert_device_battery(|| Arc::new(DebugConsole::new(0x402, 0xe9, chardev())), |_| ());
    assert_device_battery(
        || Arc::new(SystemPorts::new()),
        |ports| {
            let _ = ports.control.write(0, &[2]);
        },
    );
}

#[test]
fn no_access_panics() {
    hammer(|| Arc::new(DebugExit::new(0xf4, 4).unwrap()) as Arc<dyn BusDevice>, 4);
    hammer(|| Arc::new(DebugConsole::new(0x402, 0xe9, MemoryChar::new())) as Arc<dyn BusDevice>, 1);
    hammer(|| Arc::new(SystemPorts::new()).ports().remove(1).device, 1);
}
