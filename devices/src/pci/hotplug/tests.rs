use super::*;
use crate::testing::assert_device_battery;

const REMOVABLE: u32 = 0xffff_fffc;

fn read(chip: &PciHotplug, offset: u64) -> u32 {
    let mut data = [0; 4];
    chip.read(offset, &mut data).unwrap();
    u32::from_le_bytes(data)
}

fn write(chip: &PciHotplug, offset: u64, value: u32) -> Effect {
    chip.write(offset, &value.to_le_bytes()).unwrap()
}

#[test]
fn plugged_slot_is_told_once() {
    let chip = PciHotplug::new(REMOVABLE);
    chip.plugged(5);

    assert_eq!((read(&chip, reg::PLUGGED), read(&chip, reg::PLUGGED)), (1 << 5, 0));
}

#[test]
fn slot_asked_for_is_told_until_the_guest_lets_go() {
    let chip = PciHotplug::new(REMOVABLE);
    chip.ask_back(31);
    assert_eq!((read(&chip, reg::LEAVING), read(&chip, reg::LEAVING)), (1 << 31, 1 << 31));

    let effect = write(&chip, reg::EJECT, 1 << 31);

    assert_eq!(effect, Effect::Eject(1 << 31));
    assert_eq!((read(&chip, reg::LEAVING), chip.leaving()), (0, 0));
}

#[test]
fn guest_may_let_go_unasked_but_not_of_the_chipset() {
    let chip = PciHotplug::new(REMOVABLE);

    assert_eq!(write(&chip, reg::EJECT, 0b1011), Effect::Eject(0b1000));
    assert_eq!(write(&chip, reg::EJECT, 0b0011), Effect::None);
    assert_eq!((read(&chip, reg::REMOVABLE), read(&chip, reg::EJECT)), (REMOVABLE, 0));
}

#[test]
fn buses_that_are_not_there_have_no_slots() {
    let chip = PciHotplug::new(REMOVABLE);
    chip.plugged(4);

    write(&chip, reg::BUS, 1);
    assert_eq!((read(&chip, reg::PLUGGED), read(&chip, reg::REMOVABLE)), (0, 0));
    assert_eq!(write(&chip, reg::EJECT, 1 << 4), Effect::None);

    write(&chip, reg::BUS, 0);
    assert_eq!(read(&chip, reg::PLUGGED), 1 << 4);
}

#[test]
fn other_widths_and_offsets_are_faults() {
    let chip = PciHotplug::new(REMOVABLE);

    assert!(chip.read(0, &mut [0]).is_err() && chip.read(2, &mut [0; 4]).is_err());
    assert!(chip.write(reg::EJECT, &[0xff; 2]).is_err() && chip.write(20, &[0xff; 4]).is_err());
}

#[test]
fn passes_the_battery() {
    assert_device_battery(
        || Arc::new(PciHotplug::new(REMOVABLE)),
        |chip| {
            chip.plugged(3);
            chip.ask_back(4);
        },
    );
}
