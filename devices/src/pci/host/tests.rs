use super::*;
use crate::bus::PowerRequest;
use crate::irq::IrqLine;
use crate::pci::i440fx::I440fx;
use crate::pci::intx::PirqRouter;
use crate::pci::piix3::Piix3;
use crate::testing::{assert_device_battery, hammer, peek, poke};

struct Board {
    host: PciHost,
    router: Arc<PirqRouter>,
}

fn board() -> Board {
    let router = PirqRouter::new(std::array::from_fn(|_| None::<Arc<dyn IrqLine>>));
    let bridge = Arc::new(Piix3::new(Arc::clone(&router)));
    let host = PciHost::new(bridge.reset_control());
    host.insert(Bdf::new(0, 0, 0), Arc::new(I440fx::new())).unwrap();
    host.insert(Bdf::new(0, 1, 0), bridge).unwrap();
    Board { host, router }
}

fn select(host: &PciHost, bdf: Bdf, register: u8) {
    let address = 0x8000_0000 | (u64::from(bdf.requester()) << 8) | u64::from(register);
    poke(host, 0, 4, address).unwrap();
}

#[test]
fn data_register_reaches_the_named_function_in_all_widths() {
    let b = board();

    select(&b.host, Bdf::new(0, 1, 0), 0);

    assert_eq!(peek(&b.host, 4, 4), Some(0x7000_8086));
    assert_eq!(peek(&b.host, 6, 2), Some(0x7000));
    assert_eq!(peek(&b.host, 5, 1), Some(0x80));
    assert_eq!(peek(&b.host, 0, 4), Some(0x8000_0800));
}

#[test]
fn low_bits_of_the_address_add_to_the_byte_lane() {
    let b = board();

    select(&b.host, Bdf::new(0, 1, 0), 2);

    assert_eq!(peek(&b.host, 4, 2), Some(0x7000));
    assert_eq!(peek(&b.host, 0, 4), Some(0x8000_0802));
}

#[test]
fn access_past_the_end_of_the_registers_reads_ones() {
    let b = board();

    select(&b.host, Bdf::new(0, 1, 0), 0xff);

    assert_eq!(peek(&b.host, 4, 4), Some(0xffff_ff00));
    assert_eq!(poke(&b.host, 4, 4, 0xffff_ffff), Some(Effect::None));
}

#[test]
fn absent_functions_and_buses_read_ones() {
    let b = board();

    for bdf in [Bdf::new(0, 1, 1), Bdf::new(0, 31, 7), Bdf::new(1, 0, 0), Bdf::new(255, 31, 7)] {
        select(&b.host, bdf, 0);
        assert_eq!(peek(&b.host, 4, 4), Some(0xffff_ffff));
        assert_eq!(poke(&b.host, 4, 4, 0), Some(Effect::None));
    }
}

#[test]
fn data_register_is_dead_without_the_enable_bit() {
    let b = board();

    poke(&b.host, 0, 4, 0x0000_0800).unwrap();

    assert_eq!(peek(&b.host, 4, 4), Some(0xffff_ffff));
}

#[test]
fn narrow_access_to_the_address_register_changes_nothing() {
    let b = board();
    select(&b.host, Bdf::new(0, 1, 0), 0);

    for (offset, len) in [(0, 1), (0, 2), (2, 2), (3, 1), (1, 2), (7, 2), (5, 4), (4, 8)] {
        assert_eq!(poke(&b.host, offset, len, 0), None, "{len} bytes at {offset}");
    }

    assert_eq!(peek(&b.host, 0, 4), Some(0x8000_0800));
}

#[test]
fn byte_write_to_0xcf9_resets() {
    let b = board();

    assert_eq!(poke(&b.host, 1, 1, 0x02), Some(Effect::None));
    assert_eq!(peek(&b.host, 1, 1), Some(0x02));
    assert_eq!(poke(&b.host, 1, 1, 0x06), Some(Effect::Power(PowerRequest::Reset)));
}

#[test]
fn route_registers_lead_to_the_router() {
    let b = board();

    select(&b.host, Bdf::new(0, 1, 0), 0x60);
    poke(&b.host, 4, 4, 0x0b80_0a05).unwrap();

    let routed = [0, 1, 2, 3].map(|pirq| b.router.routed_to(pirq));
    assert_eq!(routed, [Some(5), Some(10), None, Some(11)]);
}

#[test]
fn slots_are_taken_once_and_functions_need_function_0_to_agree() {
    let b = board();
    let single = Bdf::new(0, 0, 1);

    let taken = b.host.insert(Bdf::new(0, 1, 0), Arc::new(I440fx::new())).unwrap_err();
    assert_eq!(taken.to_string(), "PCI slot 0x1 function 0 is taken by PIIX3");
    assert_eq!(b.host.insert(single, Arc::new(I440fx::new())), Err(PciError::SingleFunction { bdf: single }));
    assert_eq!(b.host.insert(Bdf::new(0, 1, 3), Arc::new(I440fx::new())), Ok(()));
    assert_eq!(b.host.insert(Bdf::new(0, 5, 1), Arc::new(I440fx::new())), Ok(()));
    let zero = Bdf::new(0, 5, 0);
    assert_eq!(b.host.insert(zero, Arc::new(I440fx::new())), Err(PciError::SingleFunction { bdf: zero }));
    assert_eq!(b.host.insert(Bdf::new(1, 0, 0), Arc::new(I440fx::new())), Err(PciError::NoBus(1)));
}

#[test]
fn free_slot_skips_what_is_taken() {
    let b = board();
    assert_eq!(b.host.free_slot(0), Some(2));

    b.host.insert(Bdf::new(0, 31, 0), Arc::new(I440fx::new())).unwrap();
    assert_eq!(b.host.free_slot(31), None);

    assert!(b.host.remove(Bdf::new(0, 31, 0)).is_some());
    assert_eq!(b.host.free_slot(31), Some(31));
}

#[test]
fn passes_the_battery() {
    assert_device_battery(|| Arc::new(board().host), |host| select(host, Bdf::new(0, 1, 0), 0x60));
}

#[test]
fn no_access_panics() {
    hammer(|| Arc::new(board().host) as Arc<dyn BusDevice>, 8);
}
