use serde_json::json;

use super::*;
use crate::block_errors::ErrorAction;
use crate::lifecycle::Saver;
use crate::testing::{assert_device_battery, saved};

fn restore(guest: &Guest, state: serde_json::Value) -> Result<(), crate::lifecycle::DeviceError> {
    match guest.function.saver() {
        Saver::Saves(saver) => saver.restore(state),
        _ => panic!("no saver"),
    }
}

#[test]
fn passes_the_device_battery() {
    let drive = |function: &Piix3Ide| {
        let block = function.regions().remove(0).device;
        for (port, value) in [(6, 0xe0), (2, 2), (3, 1), (7, 0x30)] {
            poke(&*block, port, 1, value);
        }
        poke(&*block, 0, 2, 0x1234);
        let control = function.regions().remove(1).device;
        poke(&*control, 0, 1, 2);
    };
    assert_device_battery(|| Setup::default().build_bare().function, drive);
}

#[test]
fn half_a_read_goes_on_after_a_restore() {
    let guest = guest();
    guest.command28(0x20, 5, 3);
    guest.interrupt();
    let first = guest.read_data(100);
    guest.function.pause();
    guest.function.drain();
    let state = saved(&*guest.function).unwrap();
    let other = Setup::default().build_stopped();
    restore(&other, state.clone()).unwrap();
    assert_eq!(saved(&*other.function).unwrap(), state);
    other.function.start().unwrap();
    other.function.resume();
    let mut data = [first, other.read_data(412)].concat();
    for _ in 0..2 {
        other.interrupt();
        data.extend(other.read_data(512));
    }
    assert!(data == other.image.bytes(5 * 512, 3 * 512));
}

#[test]
fn write_that_met_an_error_waits_and_is_written_after_a_restore() {
    let guest = Setup { stop: true, ..Setup::default() }.build();
    guest.image.fail(Some(libc::ENOSPC));
    guest.command28(0x30, 9, 1);
    guest.settle();
    guest.write_data(&[0x77; 512]);
    let began = Instant::now();
    while guest.failures.lock().unwrap().is_empty() {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert_eq!(guest.failures.lock().unwrap()[0].action, ErrorAction::Stop);
    guest.function.pause();
    guest.function.drain();
    assert_eq!(guest.alternate() & BSY, BSY);
    let state = saved(&*guest.function).unwrap();
    let other = Setup::default().build_stopped();
    restore(&other, state).unwrap();
    other.function.start().unwrap();
    other.function.resume();
    assert_eq!(other.interrupt(), READY);
    assert_eq!(other.image.bytes(9 * 512, 512), [0x77; 512]);
    // The first machine goes on as well.
    guest.image.fail(None);
    guest.function.resume();
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.image.bytes(9 * 512, 512), [0x77; 512]);
}

#[test]
fn dma_that_met_an_error_waits_and_is_done_when_the_machine_goes_on() {
    let guest = Setup { stop: true, ..Setup::default() }.build();
    guest.image.fail(Some(libc::EIO));
    guest.set_table(&[(0x2_0000, 512, true)]);
    guest.command28(0xc8, 9, 1);
    guest.start_dma(true);
    let began = Instant::now();
    while guest.failures.lock().unwrap().is_empty() {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    guest.function.pause();
    guest.function.drain();
    guest.image.fail(None);
    guest.function.resume();
    assert_eq!(guest.interrupt(), READY);
    assert_eq!(guest.peek_ram(0x2_0000, 512), guest.image.bytes(9 * 512, 512));
}

#[test]
fn read_error_is_uncorrectable_and_names_the_sector() {
    let guest = guest();
    guest.image.fail(Some(libc::EIO));
    guest.command28(0x20, 0x345, 1);
    assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 0x40));
    assert_eq!([guest.inb(3), guest.inb(4)], [0x45, 3]);
    guest.command28(0xe7, 0, 0);
    assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4));
    assert_eq!(guest.failures.lock().unwrap().len(), 2);
}

#[test]
fn write_error_is_aborted_and_names_the_sector() {
    let guest = guest();
    guest.image.fail(Some(libc::EIO));
    guest.set_table(&[(0x2_0000, 512, true)]);
    guest.command48(0x35, 0x345, 1);
    guest.start_dma(false);
    assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 4));
    assert_eq!([guest.inb(3), guest.inb(4)], [0x45, 3]);
    assert_eq!(guest.bus_master(2) & 7, 4, "the interrupt, and nothing active");
    guest.control(0x80);
    assert_eq!([guest.inb(3), guest.inb(4), guest.inb(5)], [0, 0, 0]);
}

#[test]
fn software_reset_stays_busy_until_the_image_is_done() {
    let guest = guest();
    guest.image.hold();
    guest.command28(0x20, 0, 1);
    assert_eq!(guest.alternate() & BSY, BSY);
    guest.control(4);
    guest.control(0);
    guest.command28(0x20, 7, 1);
    assert_eq!(guest.alternate(), BSY);
    guest.image.release();
    assert_eq!(guest.settle(), READY);
    assert!(!guest.irq.high());
    guest.command28(0x20, 7, 1);
    guest.interrupt();
    assert_eq!(guest.read_data(512), guest.image.bytes(7 * 512, 512));
}

#[test]
fn registers_are_not_taken_while_busy() {
    let guest = guest();
    guest.image.hold();
    guest.command28(0x20, 0, 1);
    guest.out(2, 99);
    guest.out(6, 0xf0);
    guest.out(7, 0xec);
    assert_eq!(guest.alternate() & BSY, BSY);
    guest.image.release();
    guest.interrupt();
    assert_eq!(guest.read_data(512), guest.image.bytes(0, 512));
}

#[test]
fn pause_holds_what_comes_and_drain_waits_for_what_is_out() {
    let guest = guest();
    guest.image.hold();
    guest.command28(0xe7, 0, 0);
    guest.function.pause();
    let image = Arc::clone(&guest.image);
    let release = std::thread::spawn(move || image.release());
    guest.function.drain();
    release.join().unwrap();
    assert_eq!(guest.interrupt(), READY);
    guest.command28(0xe7, 0, 0);
    assert_eq!(guest.alternate() & BSY, BSY, "paused");
    guest.function.resume();
    assert_eq!(guest.interrupt(), READY);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let guest = guest();
    guest.command28(0x20, 5, 3);
    guest.interrupt();
    guest.function.pause();
    guest.function.drain();
    let state = saved(&*guest.function).unwrap();
    let other = Setup::default().build_stopped();
    let before = saved(&*other.function);
    let paths = [
        ("/channels/0/work/pos", json!(1 << 30)),
        ("/channels/0/work/end", json!(1 << 20)),
        ("/channels/0/work/drive", json!(2)),
        ("/channels/0/work/phase", json!("Busy")),
        ("/channels/0/work/task/Sectors/offset", json!(u64::MAX)),
        ("/channels/0/work/task/Sectors/block", json!(0)),
        ("/channels/0/drives/0", json!(null)),
        ("/channels/0/drives/0/kind/Disk/heads", json!(0)),
        ("/channels", json!([])),
    ];
    for (path, value) in paths {
        let mut state = state.clone();
        *state.pointer_mut(path).expect(path) = value;
        assert!(restore(&other, state).is_err(), "{path}");
        assert_eq!(saved(&*other.function), before, "{path}");
    }
}

#[test]
fn saved_write_past_its_sectors_is_refused() {
    let guest = guest();
    guest.command28(0x30, 2047, 1);
    guest.function.pause();
    guest.function.drain();
    let mut state = saved(&*guest.function).unwrap();
    let other = Setup::default().build_stopped();
    restore(&other, state.clone()).unwrap();
    *state.pointer_mut("/channels/0/work/end").unwrap() = json!(8192);
    assert!(restore(&other, state).is_err());
}

#[test]
fn log_of_self_tests_survives_and_one_that_cannot_be_is_refused() {
    let guest = guest();
    guest.out(1, 0xd4);
    guest.command28(0xb0, 0xc2_4f01, 0);
    guest.interrupt();
    guest.function.pause();
    guest.function.drain();
    let state = saved(&*guest.function).unwrap();
    let path = "/channels/0/drives/0/kind/Disk/self_tests";
    assert_eq!(state.pointer(path), Some(&json!({"kinds": [1], "last": 1})));
    let other = Setup::default().build_stopped();
    restore(&other, state.clone()).unwrap();
    assert_eq!(saved(&*other.function).unwrap(), state);
    for log in
        [json!({"kinds": [1], "last": 2}), json!({"kinds": [3], "last": 1}), json!({"kinds": vec![1; 22], "last": 1})]
    {
        let mut wrong = state.clone();
        *wrong.pointer_mut(path).unwrap() = log.clone();
        assert!(restore(&other, wrong).is_err(), "{log}");
    }
}

#[test]
fn command_before_the_start_fails_and_nothing_waits() {
    let guest = Setup::default().build_stopped();
    guest.command28(0x20, 0, 1);
    assert_eq!((guest.interrupt(), guest.inb(1)), (0x41, 0x40));
    guest.function.pause();
    guest.function.drain();
}
