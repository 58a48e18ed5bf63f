use super::*;
use crate::irq::IrqLine;
use crate::testing::{RecordingLine, assert_device_battery, hammer};

fn bridge() -> (Arc<Piix3>, Arc<PirqRouter>, Arc<RecordingLine>) {
    let irq11 = RecordingLine::new();
    let isa = std::array::from_fn(|i| (i == 11).then(|| Arc::clone(&irq11) as Arc<dyn IrqLine>));
    let router = PirqRouter::new(isa);
    (Arc::new(Piix3::new(Arc::clone(&router))), router, irq11)
}

fn read32(bridge: &Piix3, offset: u8) -> u32 {
    let mut bytes = [0; 4];
    bridge.config_read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn guest_sees_a_multifunction_isa_bridge() {
    let (bridge, ..) = bridge();

    assert_eq!(read32(&bridge, 0), 0x7000_8086);
    assert_eq!(read32(&bridge, 4), 0x0200_0007);
    assert_eq!(read32(&bridge, 8), 0x0601_0000);
    assert_eq!(read32(&bridge, 0xc), 0x0080_0000);
    assert_eq!(read32(&bridge, 0x60), 0x8080_8080);
}

#[test]
fn reset_turns_routes_off_under_an_asserted_wire() {
    let (bridge, router, irq11) = bridge();
    let _ = bridge.config_write(0x62, &[11]);
    let line = router.line(3, 1);
    line.set(true);
    assert!(irq11.high());

    bridge.reset();

    assert!(!irq11.high());
    assert_eq!(router.routed_to(2), None);
}

#[test]
fn restored_routes_lead_to_the_router() {
    let (old, ..) = bridge();
    let _ = old.config_write(0x62, &[11]);
    let (new, router, _) = bridge();

    new.restore(old.save().unwrap()).unwrap();

    assert_eq!(router.routed_to(2), Some(11));
}

#[test]
fn passes_the_battery() {
    assert_device_battery(
        || bridge().0,
        |bridge| {
            let _ = bridge.config_write(0x60, &[10, 10, 11, 11]);
            let _ = bridge.reset_control().write(0, &[2]);
        },
    );
}

#[test]
fn no_access_panics() {
    hammer(|| bridge().0.reset_control(), 4);
}
