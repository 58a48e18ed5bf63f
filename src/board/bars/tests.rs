use std::sync::Arc;

use rhea_devices::testdev::pci::PciTestDevice;

use super::*;

/// Below the I/O APIC, as with 3 GiB of memory.
const WINDOW: Range<u64> = 0xc000_0000..0xfec0_0000;

/// A function with a memory BAR of 4 KiB, 256 ports and, if asked for, a memory BAR of `membar` bytes.
fn function(number: u8, membar: u64) -> Arc<PciTestDevice> {
    PciTestDevice::new("test", Bdf::new(0, number / 8, number % 8), true, membar).unwrap()
}

/// Where the BARs are, after being assigned.
fn assigned(assigner: &mut Assigner, number: u8, membar: u64) -> Vec<Option<u64>> {
    let function = function(number, membar);
    assigner.assign(Bdf::new(0, number / 8, number % 8), &*function, |_| None);
    function.bars().iter().map(|bar| bar.base).collect()
}

#[test]
fn ports_go_on_below_hot_plug_and_are_left_out_when_all_are_given() {
    let mut assigner = Assigner::new(WINDOW);

    let bases: Vec<_> = (0..220).map(|number| assigned(&mut assigner, number, 0)).collect();

    let ports: Vec<_> = bases.iter().filter_map(|bars| bars[1]).collect();
    assert_eq!((ports.len(), ports[0], ports[61], ports[62], ports[205]), (206, 0xc000, 0xfd00, 0x1000, 0x9f00));
    assert!(bases.iter().all(|bars| bars[0].is_some()), "all can be reached in memory");
}

#[test]
fn memory_without_room_is_left_to_the_operating_system() {
    let mut assigner = Assigner::new(WINDOW);

    let bases = assigned(&mut assigner, 0, 8 << 30);

    assert_eq!(bases, [Some(0xc000_0000), Some(0xc000), None]);
    assert_eq!(assigned(&mut assigner, 1, 0), [Some(0xc000_1000), Some(0xc100)]);
}
