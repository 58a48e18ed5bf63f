use super::*;
use crate::lifecycle::{Lifecycle, Saver};
use crate::testing::{assert_device_battery, saved};

/// Lends `count` buffers for events.
fn lend_events(host: &mut Host, count: u64) {
    for n in 0..count {
        host.events.post(&[Buf::writable(0x6000 + n * 16, 16)]);
    }
    host.guest.kick(1);
}

fn event(host: &mut Host, n: u64) -> (u32, [u8; 4], u32) {
    assert_eq!(host.guest.wait_used(&mut host.events).1, 16);
    let bytes: [u8; 16] = host.guest.ram.read_obj(GuestAddress(0x6000 + n * 16)).unwrap();
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (word(0), [bytes[4], bytes[5], bytes[6], bytes[7]], word(12))
}

#[test]
fn units_that_come_go_and_grow_are_told() {
    let mut host = Host::new(1, feature::HOTPLUG | feature::CHANGE);
    lend_events(&mut host, 3);
    let image = MemImage::new(MIB);
    host.bus.attach(at(2, 300), unit_of(disk(&image), &host, OnError::Report)).unwrap();
    assert_eq!(event(&mut host, 0), (1, [1, 2, 0x41, 0x2c], 1));
    host.command(at(2, 300), &[0; 6], &[], 0);
    image.resize(2 * MIB);
    assert_eq!(event(&mut host, 1), (3, [1, 2, 0x41, 0x2c], 0x092a));
    assert_eq!(host.command(at(2, 300), &[0; 6], &[], 0).0.key(), (6, 0x2a, 9));
    assert!(host.bus.detach(at(2, 300)).is_some());
    assert_eq!(event(&mut host, 2), (1, [1, 2, 0x41, 0x2c], 2));
    assert_eq!(host.command(at(2, 300), &[0; 6], &[], 0).0.response, response::BAD_TARGET);
    assert!(host.bus.detach(at(2, 300)).is_none());
}

#[test]
fn units_of_a_target_tell_that_it_has_others() {
    let mut host = Host::new(1, feature::HOTPLUG);
    let image = MemImage::new(MIB);
    let add = |host: &Host, address| host.bus.attach(address, unit_of(disk(&image), host, OnError::Report)).unwrap();
    for address in [at(0, 0), at(1, 0)] {
        add(&host, address);
        host.command(address, &[0; 6], &[], 0);
    }
    add(&host, at(0, 1));
    assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.key(), (6, 0x3f, 0x0e));
    host.bus.detach(at(0, 1)).unwrap();
    assert_eq!(host.command(at(1, 0), &[0; 6], &[], 0).0.status, 0, "another target");
    host.command(at(0, 0), &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16);
    assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.status, 0, "it was told by REPORT LUNS");
}

#[test]
fn events_without_buffers_wait_and_too_many_are_missed() {
    let mut host = Host::new(1, feature::HOTPLUG);
    let image = MemImage::new(4096);
    host.bus.attach(at(0, 0), unit_of(disk(&image), &host, OnError::Report)).unwrap();
    lend_events(&mut host, 1);
    assert_eq!(event(&mut host, 0).2, 1);
    for lun in 1..=70 {
        host.bus.attach(at(0, lun), unit_of(disk(&image), &host, OnError::Report)).unwrap();
    }
    host.events.post(&[Buf::writable(0x6000, 16)]);
    host.guest.kick(1);
    assert_eq!(event(&mut host, 0).0, 0x8000_0001);
}

#[test]
fn driver_that_did_not_ask_hears_nothing() {
    let mut host = Host::new(1, 0);
    lend_events(&mut host, 1);
    let image = MemImage::new(MIB);
    host.bus.attach(at(0, 0), unit_of(disk(&image), &host, OnError::Report)).unwrap();
    image.resize(2 * MIB);
    host.command(at(0, 0), &[0; 6], &[], 0);
    assert_eq!(host.events.take_all_used(), []);
}

#[test]
fn unit_that_goes_lets_its_requests_end() {
    let (mut host, image) = Host::with_disk();
    let _ = image.take_seen();
    image.hold();
    host.post(0, 0, at(0, 0), &read10(1, 1), &[], 512);
    host.guest.sink.wait_until_polling("a request", || !image.take_seen().is_empty());
    host.bus.detach(at(0, 0)).unwrap();
    image.release();
    assert_eq!(host.answer(0, 0).status, 0);
    assert_eq!(host.command(at(0, 0), &read10(1, 1), &[], 512).0.response, response::BAD_TARGET);
}

#[test]
fn medium_changes_and_the_old_image_is_let_go() {
    let mut host = Host::new(1, 0);
    let first = MemImage::new(MIB);
    let unit = LogicalUnit::new(UnitConfig::cd("cd"), Some(Arc::clone(&first) as _), &Reservations::new()).unwrap();
    host.bus.attach(at(0, 0), unit_of(Arc::clone(&unit), &host, OnError::Report)).unwrap();
    host.command(at(0, 0), &[0; 6], &[], 0);
    assert_eq!(host.command(at(0, 0), &read10(3, 1), &[], 2048).1, first.bytes(3 * 2048, 2048));
    unit.open_tray(false).unwrap();
    unit.remove().unwrap();
    let second = MemImage::new(2 * MIB);
    unit.insert(&(Arc::clone(&second) as _)).unwrap();
    unit.close_tray().unwrap();
    for expected in [(6, 0x3a, 0), (6, 0x28, 0)] {
        assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.key(), expected);
    }
    assert_eq!(host.command(at(0, 0), &read10(700, 1), &[], 2048).1, second.bytes(700 * 2048, 2048));
    assert_eq!(Arc::strong_count(&first), 1);
}

/// A machine that stopped with `cdbs` held, as the image of the one unit, `unit`, failed them.
fn stopped(unit: &Arc<LogicalUnit>, image: &MemImage, cdbs: &[[u8; 10]], out: &[u8], room: u32) -> Host {
    let mut host = Host::new(1, 0);
    host.bus.attach(at(0, 0), unit_of(Arc::clone(unit), &host, OnError::Stop)).unwrap();
    host.command(at(0, 0), &[0; 6], &[], 0);
    image.fail(Some(libc::EIO));
    for (slot, cdb) in (0..).zip(cdbs) {
        host.post(0, slot, at(0, 0), cdb, out, room);
    }
    host.guest.sink.wait_until_polling("failures", || host.failures.lock().unwrap().len() == cdbs.len());
    host.guest.pause();
    host
}

/// A machine that stopped with two writes held, and another disk in the place of theirs.
fn replaced() -> (Host, Arc<MemImage>) {
    let (before, after) = (MemImage::new(MIB), MemImage::new(MIB));
    let host = stopped(&disk(&before), &before, &[write10(3, 1), write10(4, 1)], &[0x42; 512], 0);
    host.bus.detach(at(0, 0)).unwrap();
    host.bus.attach(at(0, 0), unit_of(disk(&after), &host, OnError::Report)).unwrap();
    (host, after)
}

#[test]
fn what_was_held_for_a_disk_is_not_done_to_the_one_in_its_place() {
    let (mut host, after) = replaced();
    host.guest.function.resume();
    for slot in 0..2 {
        assert_eq!(host.answer(0, slot).response, response::BAD_TARGET);
    }
    assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.key(), (6, 0x29, 0));
    assert_eq!(after.bytes(3 * 512, 512), [3; 512]);
    assert_eq!(after.bytes(4 * 512, 512), [4; 512]);
}

#[test]
fn what_was_held_is_forgotten_with_a_reset() {
    let (mut host, _after) = replaced();
    host.guest.reset();
    host.guest.function.resume();
    host.bring_up(0);
    // Among the heads is that of the first write.
    for _ in 0..16 {
        assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.response, response::OK);
    }
}

#[test]
fn read_that_was_held_is_not_of_the_disc_that_came_meanwhile() {
    let (before, after) = (MemImage::new(MIB), MemImage::new(MIB));
    let unit = LogicalUnit::new(UnitConfig::cd("cd"), Some(Arc::clone(&before) as _), &Reservations::new()).unwrap();
    let mut host = stopped(&unit, &before, &[0, 1, 2].map(|lba| read10(lba, 1)), &[], 2048);
    unit.open_tray(false).unwrap();
    unit.remove().unwrap();
    unit.insert(&(after as _)).unwrap();
    unit.close_tray().unwrap();
    host.guest.function.resume();
    for slot in 0..3 {
        assert_eq!(host.answer(0, slot).key(), (2, 0x3a, 1));
    }
    for expected in [(6, 0x3a, 0), (6, 0x28, 0)] {
        assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.key(), expected, "the change is yet to be told");
    }
    assert_eq!(host.command(at(0, 0), &read10(0, 1), &[], 2048).0.status, 0);
}

#[test]
fn taken_addresses_and_great_numbers_are_refused() {
    let host = Host::new(1, 0);
    let unit = || unit_of(disk(&MemImage::new(4096)), &host, OnError::Report);
    host.bus.attach(at(3, 0), unit()).unwrap();
    assert!(matches!(host.bus.attach(at(3, 0), unit()), Err(ScsiBusError::Taken(_))));
    assert!(matches!(host.bus.attach(at(3, 16384), unit()), Err(ScsiBusError::Lun(16384))));
}

fn fresh() -> Guest {
    let device = VirtioScsi::new(ScsiConfig::new("scsi0", 1), Placement::PerQueue).unwrap();
    let errors = ErrorPolicy::new(Arc::new(|_| {}));
    let unit =
        ScsiUnit { unit: disk(&MemImage::new(MIB)), stats: Arc::default(), errors, gone: AtomicBool::new(false) };
    device.bus().attach(at(0, 0), unit).unwrap();
    let to = crate::virtio::transport::Connections {
        memory: crate::virtio::testing::ram(4 << 20),
        line: crate::testing::RecordingLine::new(),
        msi: crate::testing::RecordingSink::new(),
    };
    let config = GuestBuilder::default().config;
    let function = crate::virtio::transport::VirtioPci::new(config, device, to).unwrap();
    let (ram, line) = (crate::virtio::testing::ram(4096), crate::testing::RecordingLine::new());
    Guest { function, ram, line, sink: crate::virtio::testing::SignalSink::default() }
}

#[test]
fn passes_the_device_battery() {
    let disturb = |function: &crate::virtio::transport::VirtioPci| {
        use crate::pci::PciFunction;
        let bar: u64 = 0xe100_0000;
        let _effect = function.config_write(0x20, &(bar as u32).to_le_bytes());
        let _effect = function.config_write(0x04, &7u16.to_le_bytes());
        let region = function.regions().into_iter().find(|region| region.base == bar).unwrap();
        region.device.write(0x2000 + 24, &16u32.to_le_bytes()).unwrap();
    };
    assert_device_battery(|| fresh().function, disturb);
}

#[test]
fn state_of_units_survives_and_another_adapters_is_refused() {
    let (mut host, _) = Host::with_disk();
    host.command(at(0, 0), &[0x1b, 0, 0, 0, 0, 0], &[], 0);
    host.guest.pause();
    let state = saved(&*host.guest.function).unwrap();
    let device = VirtioScsi::new(ScsiConfig::new("scsi0", 1), Placement::PerQueue).unwrap();
    let bus = device.bus();
    let other = Host::around(GuestBuilder::default().build(device), bus, 1);
    let Saver::Saves(saver) = other.guest.function.saver() else { panic!("no saver") };
    assert!(saver.restore(state.clone()).is_err(), "its unit is missing");
    other.bus.attach(at(0, 0), unit_of(disk(&MemImage::new(MIB)), &other, OnError::Report)).unwrap();
    saver.restore(state.clone()).unwrap();
    assert_eq!(saved(&*other.guest.function).unwrap(), state);
}
