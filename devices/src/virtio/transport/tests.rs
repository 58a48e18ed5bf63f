//! Registers as a guest meets them, with a block device or an entropy device behind.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testing::{assert_device_battery, hammer, saved};
use crate::virtio::features::status;
use crate::virtio::iothread::{IoThread, Placement};
use crate::virtio::rng::{RngConfig, RngSource, VirtioRng};
use crate::virtio::testing::{Buf, DriverRing, Guest, GuestBuilder};

fn rng() -> Box<VirtioRng> {
    VirtioRng::new(RngConfig { id: "rng0".to_owned(), rate: None }, RngSource::Builtin, Placement::PerQueue).unwrap()
}

fn guest_with(change: impl FnOnce(&mut VirtioPciConfig)) -> Guest {
    let mut builder = GuestBuilder::default();
    change(&mut builder.config);
    builder.build(rng())
}

fn guest() -> Guest {
    guest_with(|_| ())
}

const BUFFER: u64 = 0x8_0000;

fn live(guest: &Guest) -> DriverRing {
    let ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.enable_msix();
    guest.negotiate(u64::MAX);
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    ring
}

fn draw(guest: &Guest, ring: &mut DriverRing) -> u32 {
    ring.post(&[Buf::writable(BUFFER, 32)]);
    guest.kick(0);
    guest.wait_used(ring).1
}

#[test]
fn transitional_function_shows_the_ids_of_old() {
    let guest = guest();
    assert_eq!((guest.config16(0), guest.config16(2)), (0x1af4, 0x1005));
    assert_eq!(guest.config32(8), 0x00ff_0000);
    assert_eq!((guest.config16(0x2c), guest.config16(0x2e)), (0x1af4, 4));
}

#[test]
fn modern_function_shows_the_new_ids_and_no_ports() {
    let guest = guest_with(|config| config.interfaces.legacy = false);
    assert_eq!((guest.config16(2), guest.config16(0x2e)), (0x1044, 0x1100));
    assert_eq!(guest.config32(8) & 0xff, 1);
    assert_eq!(guest.config32(0x10), 0);
}

#[test]
fn legacy_function_has_no_modern_registers() {
    let guest = guest_with(|config| config.interfaces.modern = false);
    assert_eq!(guest.config32(0x20), 0);
    assert_eq!(guest.inl(0, 4) & (features::RING_RESET | features::VERSION_1), 0);
    assert_eq!(guest.function.regions().len(), 2);
}

#[test]
fn function_needs_an_interface_that_its_type_can_have() {
    let build = |interfaces| {
        let mut builder = GuestBuilder::default();
        builder.config.interfaces = interfaces;
        let to = Connections {
            memory: builder.ram,
            line: crate::testing::RecordingLine::new(),
            msi: Arc::new(crate::virtio::testing::SignalSink::default()),
        };
        VirtioPci::new(builder.config, rng(), to).err()
    };
    let none = build(Interfaces { legacy: false, modern: false });
    assert!(matches!(none, Some(VirtioPciError::NoInterface(_))));
}

#[test]
fn capabilities_lie_where_they_do_elsewhere() {
    let guest = guest();
    let mut found = Vec::new();
    let mut at = guest.config16(0x34) as u8;
    while at != 0 {
        found.push((at, guest.config32(at) as u8, (guest.config32(at) >> 24) as u8));
        at = (guest.config16(at) >> 8) as u8;
    }
    assert_eq!(found[..5], [(0x40, 9, 1), (0x50, 9, 3), (0x60, 9, 4), (0x70, 9, 2), (0x84, 9, 5)]);
    assert_eq!((found[5].0, found[5].1), (0x98, 0x11));
    let part = |at: u8| (guest.config32(at + 4) & 0xff, guest.config32(at + 8), guest.config32(at + 12));
    assert_eq!([part(0x40), part(0x50), part(0x60), part(0x70)].map(|p| p.1), [0, 0x1000, 0x2000, 0x3000]);
    assert_eq!(part(0x40), (4, 0, 0x1000));
    assert_eq!(guest.config32(0x80), 4);
    assert_eq!(guest.config16(0x9a) & 0x7ff, 1);
}

#[test]
fn doorbells_are_offered_for_both_interfaces() {
    let guest = guest();
    let modern = guest.region(Space::Memory, 0xe100_0000).doorbells;
    assert_eq!((modern.len(), modern[0].offset, modern[0].len, modern[0].value), (1, 0x3000, 0, None));
    let legacy = guest.region(Space::Io, 0xc000).doorbells;
    assert_eq!((legacy[0].offset, legacy[0].len, legacy[0].value), (16, 2, Some(0)));
}

#[test]
fn driver_comes_up_and_is_served() {
    let guest = guest();
    let mut ring = live(&guest);
    ring.post(&[Buf::writable(BUFFER, 32)]);
    guest.kick(0);
    guest.sink.wait(1, 1);
    assert_eq!(ring.take_used().map(|(_, written)| written), Some(32));
    assert_eq!(guest.line.rises(), 0);
}

#[test]
fn buffers_made_available_before_driver_ok_are_served_then() {
    let guest = guest();
    let mut ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.enable_msix();
    guest.negotiate(u64::MAX);
    guest.setup_queue(0, &ring);
    ring.post(&[Buf::writable(BUFFER, 32)]);
    guest.kick(0);
    assert_eq!(ring.used_index(), 0);
    guest.driver_ok();
    assert_eq!(guest.wait_used(&mut ring).1, 32);
}

#[test]
fn without_msix_the_pin_rises_until_the_isr_is_read() {
    let guest = guest();
    let mut ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.negotiate(u64::MAX);
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    ring.post(&[Buf::writable(BUFFER, 32)]);
    guest.kick(0);
    let line = Arc::clone(&guest.line);
    guest.sink.wait_until_polling("the pin", || line.high());
    assert_eq!(guest.config16(6) & 8, 8);
    assert_eq!(guest.read(0x1000, 1), 1);
    assert!(!guest.line.high());
    assert_eq!((guest.read(0x1000, 1), guest.config16(6) & 8), (0, 0));
}

#[test]
fn disabled_pin_stays_low_and_rises_when_enabled() {
    let guest = guest();
    let mut ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.negotiate(u64::MAX);
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    guest.config_write(4, &0x407u16.to_le_bytes());
    ring.post(&[Buf::writable(BUFFER, 32)]);
    guest.kick(0);
    guest.sink.wait_until_polling("the status bit", || guest.config16(6) & 8 != 0);
    assert!(!guest.line.high());
    guest.config_write(4, &7u16.to_le_bytes());
    assert!(guest.line.high());
}

const COMMAND: u8 = 4;
const DECODE: u16 = 3;
const MASTER: u16 = 4;

#[test]
fn queues_wait_until_the_function_is_bus_master() {
    let guest = guest();
    let mut ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.config_write(COMMAND, &DECODE.to_le_bytes());
    guest.negotiate(u64::MAX);
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    ring.post(&[Buf::writable(BUFFER, 32)]);
    guest.kick(0);
    assert_eq!(ring.used_index(), 0);

    guest.config_write(COMMAND, &(DECODE | MASTER).to_le_bytes());

    assert_eq!(guest.wait_used(&mut ring).1, 32);
}

#[test]
fn function_that_loses_the_bus_is_no_longer_ready_and_goes_on_where_it_was() {
    let guest = guest();
    let mut ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.negotiate(u64::MAX);
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    ring.post(&[Buf::writable(BUFFER, 32)]);
    guest.kick(0);
    assert_eq!(guest.wait_used(&mut ring).1, 32);

    guest.config_write(COMMAND, &DECODE.to_le_bytes());
    let status = guest.status();
    ring.post(&[Buf::writable(BUFFER, 16)]);
    guest.kick(0);
    guest.config_write(COMMAND, &(DECODE | MASTER).to_le_bytes());
    assert_eq!((status & status::DRIVER_OK, ring.used_index()), (0, 1));
    guest.set_status(status | status::DRIVER_OK);

    assert_eq!(guest.wait_used(&mut ring).1, 16);
}

#[test]
fn legacy_driver_is_made_bus_master() {
    let guest = guest();
    guest.config_write(COMMAND, &DECODE.to_le_bytes());

    guest.legacy().write(18, &[3]).unwrap();

    assert_eq!(guest.config16(COMMAND), DECODE | MASTER);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let guest = guest();
    for extra in [1u64 << 5, 1 << 33, 1 << 63] {
        guest.reset();
        guest.set_status(3);
        let wanted = guest.device_features() | extra;
        for n in [0, 1] {
            guest.write(8, 4, n);
            guest.write(0xc, 4, (wanted >> (32 * n)) & 0xffff_ffff);
        }
        guest.set_status(3 | status::FEATURES_OK);
        assert_eq!(guest.status(), 3, "{extra:#x}");
        guest.set_status(3 | status::DRIVER_OK);
        assert_eq!(guest.status(), 3);
    }
}

#[test]
fn modern_registers_offer_nothing_of_the_legacy_interface() {
    let guest = guest();
    assert_eq!(guest.device_features() & features::ANY_LAYOUT, 0);
    let mut legacy = [0; 4];
    guest.legacy().read(0, &mut legacy).unwrap();
    assert_ne!(u64::from(u32::from_le_bytes(legacy)) & features::ANY_LAYOUT, 0);
}

#[test]
fn modern_driver_must_know_version_1() {
    let guest = guest();
    guest.set_status(3 | status::FEATURES_OK);
    assert_eq!(guest.status() & status::FEATURES_OK, 0);
}

#[test]
fn features_are_frozen_once_agreed() {
    let guest = guest();
    let agreed = guest.negotiate(u64::MAX);
    guest.write(8, 4, 0);
    guest.write(0xc, 4, 0);
    assert_eq!(guest.read(0xc, 4), agreed & 0xffff_ffff);
}

#[test]
fn queue_registers_are_frozen_once_enabled() {
    let guest = guest();
    let mut ring = live(&guest);
    let before: Vec<u64> = [0x18, 0x20, 0x28, 0x30].map(|at| guest.read(at, if at == 0x18 { 2 } else { 8 })).to_vec();
    guest.write(0x18, 2, 2);
    guest.write(0x1c, 2, 0);
    for at in [0x20, 0x28, 0x30] {
        guest.write(at, 8, 0x7000);
    }
    let after: Vec<u64> = [0x18, 0x20, 0x28, 0x30].map(|at| guest.read(at, if at == 0x18 { 2 } else { 8 })).to_vec();
    assert_eq!((before, guest.read(0x1c, 2)), (after, 1));
    assert_eq!(draw(&guest, &mut ring), 32);
}

#[test]
fn queue_size_takes_powers_of_two_up_to_the_maximum() {
    let guest = guest();
    assert_eq!(guest.read(0x18, 2), 8);
    for (size, read) in [(4, 4), (3, 4), (0, 4), (16, 4), (1, 1), (8, 8)] {
        guest.write(0x18, 2, size);
        assert_eq!(guest.read(0x18, 2), read, "{size}");
    }
}

#[test]
fn queue_that_does_not_exist_reads_as_nothing() {
    let guest = guest();
    guest.write(0x16, 2, 7);
    assert_eq!((guest.read(0x18, 2), guest.read(0x1a, 2), guest.read(0x20, 8)), (0, 0xffff, 0));
    guest.write(0x1c, 2, 1);
    guest.write(0x3a, 2, 1);
    guest.kick(500);
}

#[test]
fn vector_that_does_not_exist_is_refused() {
    let guest = guest();
    guest.write(0x10, 2, 1);
    assert_eq!(guest.read(0x10, 2), 1);
    guest.write(0x10, 2, 2);
    assert_eq!(guest.read(0x10, 2), 0xffff);
    guest.write(0x1a, 2, 5000);
    assert_eq!(guest.read(0x1a, 2), 0xffff);
}

#[test]
fn accesses_of_a_wrong_width_are_faults() {
    let modern = guest().modern();
    for (at, len) in [(0, 1), (0x14, 2), (0x16, 4), (0x20, 2), (0x10, 8), (0xfff, 2), (0x4000, 1)] {
        assert!(modern.read(at, &mut vec![0; len]).is_err(), "{at:#x}/{len}");
    }
}

#[test]
fn ring_outside_of_ram_asks_for_a_reset() {
    let guest = guest();
    let mut ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.negotiate(u64::MAX);
    ring.layout.used = 1 << 50;
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    assert_eq!(guest.status() & status::NEEDS_RESET, status::NEEDS_RESET);
}

#[test]
fn one_queue_is_reset_and_enabled_anew() {
    let guest = guest();
    let mut ring = live(&guest);
    draw(&guest, &mut ring);
    guest.write(0x3a, 2, 1);
    guest.sink.wait_until_polling("the queue's reset", || guest.read(0x3a, 2) == 0);
    assert_eq!((guest.read(0x1c, 2), guest.read(0x20, 8)), (0, 0));
    ring.renew();
    guest.setup_queue(0, &ring);
    assert_eq!(draw(&guest, &mut ring), 32);
}

#[test]
fn queue_reset_does_nothing_unless_negotiated() {
    let guest = guest();
    let ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.negotiate(!features::RING_RESET);
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    guest.write(0x3a, 2, 1);
    assert_eq!((guest.read(0x3a, 2), guest.read(0x1c, 2)), (0, 1));
}

#[test]
fn driver_that_does_not_wait_for_its_reset_comes_up_all_the_same() {
    let guest = guest();
    let mut ring = live(&guest);
    draw(&guest, &mut ring);
    guest.set_status(0);
    guest.set_status(1);
    guest.set_status(3);
    for n in [0, 1] {
        guest.write(8, 4, n);
        guest.write(0xc, 4, (features::VERSION_1 >> (32 * n)) & 0xffff_ffff);
    }
    guest.set_status(3 | status::FEATURES_OK);
    ring.renew();
    guest.setup_queue(0, &ring);
    guest.driver_ok();
    assert_eq!(draw(&guest, &mut ring), 32);
}

#[test]
fn registers_are_reached_through_configuration_space() {
    let guest = guest();
    guest.config_write(0x88, &[4]);
    guest.config_write(0x8c, &0x12u32.to_le_bytes());
    guest.config_write(0x90, &2u32.to_le_bytes());
    assert_eq!(guest.config16(0x94), 1);
    guest.config_write(0x8c, &0x14u32.to_le_bytes());
    guest.config_write(0x90, &1u32.to_le_bytes());
    guest.config_write(0x94, &3u32.to_le_bytes());
    assert_eq!(guest.status(), 3);
    // An access that cannot be leads nowhere.
    for (bar, offset, len) in [(4u8, 0x13u32, 2u32), (4, 0, 3), (4, 0, 0), (9, 0, 4), (4, 0x4000, 4), (1, 2, 4)] {
        guest.config_write(0x88, &[bar]);
        guest.config_write(0x8c, &offset.to_le_bytes());
        guest.config_write(0x90, &len.to_le_bytes());
        let _whatever = guest.config32(0x94);
        guest.config_write(0x94, &0u32.to_le_bytes());
    }
    assert_eq!(guest.status(), 3);
}

/// What a driver of virtio 0.9 does.
fn legacy_live(guest: &Guest) -> DriverRing {
    let ring = legacy_begun(guest);
    guest.outl(18, 1, 7);
    ring
}

/// The same, before it says that it is ready.
fn legacy_begun(guest: &Guest) -> DriverRing {
    let ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    guest.outl(18, 1, 0);
    guest.outl(18, 1, 3);
    let offered = guest.inl(0, 4);
    guest.outl(4, 4, offered);
    guest.outl(14, 2, 0);
    assert_eq!(guest.inl(12, 2), 8);
    guest.outl(8, 4, 0x1_0000 / 4096);
    ring
}

#[test]
fn legacy_driver_is_served_before_it_says_that_it_is_ready() {
    let guest = guest();
    let mut ring = legacy_begun(&guest);
    for ready in [false, true] {
        if ready {
            guest.outl(18, 1, 7);
        }
        ring.post(&[Buf::writable(BUFFER, 16)]);
        guest.outl(16, 2, 0);
        guest.sink.wait_until_polling("a used buffer", || ring.used_index() != ring.used_seen());
        assert_eq!(ring.take_used().map(|used| used.1), Some(16));
    }
    guest.outl(18, 1, 0);
    assert_eq!(guest.inl(18, 1), 0);
}

#[test]
fn ring_means_nothing_until_a_legacy_driver_rings() {
    let guest = guest();
    guest.ram.write_obj(0xdead_u16, GuestAddress(0x1_0000 + 16 * 8 + 2)).unwrap();
    let begun = legacy_begun(&guest);
    guest.pause();
    drop(begun);
    guest.ram.write_obj(0_u16, GuestAddress(0x1_0000 + 16 * 8 + 2)).unwrap();
    guest.function.resume();
    let mut ring = DriverRing::new(&guest.ram, 0x1_0000, 8);
    ring.post(&[Buf::writable(BUFFER, 16)]);
    guest.outl(16, 2, 0);
    guest.sink.wait_until_polling("a used buffer", || ring.used_index() == 1);
}

#[test]
fn rings_before_a_legacy_queue_has_its_place_do_not_count_and_those_after_do() {
    let guest = guest();
    let doorbell = Arc::clone(&guest.function.core.doorbells[0]);
    let _before = legacy_live(&guest);
    guest.outl(16, 2, 0);

    let _begun = legacy_begun(&guest);
    assert!(doorbell.read().is_err(), "nobody has rung for this ring");

    guest.outl(16, 2, 0);
    guest.config_write(COMMAND, &DECODE.to_le_bytes());
    guest.config_write(COMMAND, &(DECODE | MASTER).to_le_bytes());
    assert_eq!(doorbell.read().unwrap(), 1);
}

#[test]
fn features_that_a_legacy_driver_writes_late_count() {
    let guest = guest();
    let mut ring = legacy_begun(&guest);
    guest.outl(4, 4, 0);
    ring.post(&[Buf::writable(BUFFER, 16)]);
    guest.outl(16, 2, 0);
    let line = Arc::clone(&guest.line);
    guest.sink.wait_until_polling("the pin", || line.high());
    assert_eq!((guest.inl(4, 4), ring.used_index()), (0, 1));
}

#[test]
fn legacy_driver_is_served_with_the_pin() {
    let guest = guest();
    let mut ring = legacy_live(&guest);
    assert_eq!((guest.inl(8, 4), guest.inl(18, 1)), (16, 7));
    ring.post(&[Buf::writable(BUFFER, 16)]);
    guest.outl(16, 2, 0);
    let line = Arc::clone(&guest.line);
    guest.sink.wait_until_polling("the pin", || line.high());
    assert_eq!(guest.inl(19, 1), 1);
    assert_eq!(ring.take_used().map(|used| used.1), Some(16));
}

#[test]
fn legacy_driver_resets_and_gives_queues_up_at_once() {
    let guest = guest();
    let mut ring = legacy_live(&guest);
    guest.outl(8, 4, 0);
    assert_eq!(guest.inl(8, 4), 0);
    guest.outl(18, 1, 0);
    assert_eq!(guest.inl(18, 1), 0);
    ring = {
        drop(ring);
        legacy_live(&guest)
    };
    ring.post(&[Buf::writable(BUFFER, 16)]);
    guest.outl(16, 2, 0);
    guest.sink.wait_until_polling("a used buffer", || ring.used_index() == 1);
}

#[test]
fn legacy_header_grows_with_msix() {
    let guest = guest();
    guest.enable_msix();
    assert_eq!(guest.inl(20, 2), 0xffff);
    guest.outl(22, 2, 1);
    assert_eq!(guest.inl(22, 2), 1);
}

#[test]
fn bars_move_and_stop_decoding() {
    let guest = guest();
    assert_eq!(guest.function.regions().len(), 3);
    assert_eq!(guest.config_write(0x10, &0xc100u32.to_le_bytes()), Effect::Remap(guest.function.bdf()));
    let _moved = guest.region(Space::Io, 0xc100);
    assert_eq!(guest.config_write(4, &0u16.to_le_bytes()), Effect::Remap(guest.function.bdf()));
    assert!(guest.function.regions().is_empty());
    assert_eq!(guest.config_write(0x3c, &[11]), Effect::None);
}

#[test]
fn running_function_is_saved_and_goes_on_elsewhere() {
    let first = guest();
    let mut ring = live(&first);
    draw(&first, &mut ring);
    first.pause();
    let state = saved(&*first.function).unwrap();
    ring.post(&[Buf::writable(BUFFER, 8)]);
    let second = GuestBuilder { ram: Arc::clone(&first.ram), ..GuestBuilder::default() }.build(rng());
    second.pause();
    second.function.restore(state.clone()).unwrap();
    assert_eq!(saved(&*second.function).unwrap(), state);
    second.function.resume();
    second.sink.wait(1, 1);
    assert_eq!(ring.take_used().map(|(_, written)| written), Some(8));
}

#[test]
fn state_that_does_not_fit_changes_nothing() {
    let guest = guest();
    let _ring = live(&guest);
    guest.pause();
    let state = saved(&*guest.function).unwrap();
    let changes: [fn(&mut Value); 8] = [
        |s| s["version"] = 2.into(),
        |s| s["msix"] = Value::Null,
        |s| s["driver_features"] = u64::MAX.into(),
        |s| s["queues"] = Value::Array(vec![]),
        |s| s["queues"][0]["layout"]["size"] = 512.into(),
        |s| s["queues"][0]["position"]["held"] = vec![9].into(),
        |s| s["device"] = Value::Null,
        |s| s["more"] = 1.into(),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut other = state.clone();
        change(&mut other);
        assert!(guest.function.restore(other).is_err(), "case {n}");
        assert_eq!(saved(&*guest.function).unwrap(), state, "case {n}");
    }
}

#[test]
fn passes_the_battery() {
    let fresh = || {
        let builder = GuestBuilder::default();
        let to = Connections {
            memory: builder.ram,
            line: crate::testing::RecordingLine::new(),
            msi: Arc::new(crate::virtio::testing::SignalSink::default()),
        };
        VirtioPci::new(builder.config, rng(), to).unwrap()
    };
    assert_device_battery(fresh, |function| {
        let _effect = function.config_write(0x20, &0xe100_0000u32.to_le_bytes());
        let _effect = function.config_write(4, &7u16.to_le_bytes());
        let modern = function.regions()[0].device.clone();
        let _effect = modern.write(0x14, &[3]).unwrap();
    });
}

#[test]
fn random_register_accesses_do_no_harm() {
    let thread = IoThread::spawn("hammer").unwrap();
    let fresh = |io: bool| {
        let config = RngConfig { id: "rng0".to_owned(), rate: None };
        let device = VirtioRng::new(config, RngSource::Builtin, Placement::Shared(Arc::clone(&thread))).unwrap();
        let guest = GuestBuilder::default().build(device);
        if io { guest.legacy() } else { guest.modern() }
    };
    hammer(|| fresh(true), 64);
    hammer(|| fresh(false), 0x40);
    hammer(|| fresh(false), layout::MODERN_LEN);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn random_configuration_writes_do_no_harm(
        writes in proptest::collection::vec((0u8..=63, any::<u32>()), 1..100),
    ) {
        let guest = guest();
        for (dword, value) in writes {
            let _effect = guest.config_write(dword * 4, &value.to_le_bytes());
            let _read = guest.config32(dword * 4);
            let _regions = guest.function.regions();
        }
        prop_assert_eq!(guest.config32(0), 0x1005_1af4);
        prop_assert!(guest.ram.write_slice(&[0], GuestAddress(0)).is_ok());
    }
}
