use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::isa::PcTestDevice;
use super::pci::PciTestDevice;
use crate::bus::{BusDevice, Effect};
use crate::irq::IrqLine;
use crate::legacy::LegacyChip;
use crate::lifecycle::Lifecycle;
use crate::memory::GuestRam;
use crate::pci::{Bdf, PciFunction, Region, Space};
use crate::testing::{RecordingLine, assert_device_battery, hammer, peek, poke};

fn isa(line: &Arc<RecordingLine>) -> (Arc<PcTestDevice>, Arc<GuestRam>) {
    let ram = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap());
    let line = Arc::clone(line);
    (Arc::new(PcTestDevice::new(Arc::clone(&ram), move |_| Arc::clone(&line) as Arc<dyn IrqLine>)), ram)
}

fn port(device: &Arc<PcTestDevice>, base: u16) -> Arc<dyn BusDevice> {
    Arc::clone(device).ports().into_iter().find(|range| range.base == base).unwrap().device
}

fn pci() -> Arc<PciTestDevice> {
    PciTestDevice::new("test0", Bdf::new(0, 4, 0), false, 0x10_0000).unwrap()
}

/// With its BARs at 0xe000_0000, port 0xc000 and 0xe800_0000.
fn decoding() -> (Arc<PciTestDevice>, Vec<Region>) {
    let device = pci();
    for (register, value) in [(0x10, 0xe000_0000u32), (0x14, 0xc000), (0x18, 0xe800_0000), (0x04, 3)] {
        device.config_write(register, &value.to_le_bytes());
    }
    let regions = device.regions();
    (device, regions)
}

/// Starts test `n` and gives where it wants what, in what width.
fn start(window: &dyn BusDevice, n: u64) -> (u64, u64, usize) {
    poke(window, 0, 1, n).unwrap();
    let header = |at, len| peek(window, at, len).unwrap();
    (header(4, 4), header(8, 4), usize::try_from(header(1, 1)).unwrap())
}

#[test]
fn ports_hold_what_is_written_in_any_width() {
    let (device, _) = isa(&RecordingLine::new());

    poke(&*port(&device, 0xe0), 0, 4, 0x1234_5678).unwrap();
    poke(&*port(&device, 0xe0), 1, 1, 0xab).unwrap();

    assert_eq!(peek(&*port(&device, 0xe0), 0, 4), Some(0x1234_ab78));
    assert_eq!(peek(&*port(&device, 0xe8), 2, 2), Some(0x1234));
    assert_eq!(peek(&*port(&device, 0xe0), 3, 2), None);
}

#[test]
fn memory_holds_what_is_written() {
    let (device, _) = isa(&RecordingLine::new());

    poke(&*device.memory(), 0xfff8, 8, u64::MAX - 1).unwrap();

    assert_eq!(peek(&*device.memory(), 0xfff8, 8), Some(u64::MAX - 1));
    assert_eq!(peek(&*device.memory(), 0xfff9, 8), None);
}

#[test]
fn line_follows_what_its_port_is_told() {
    let line = RecordingLine::new();
    let (device, _) = isa(&line);

    poke(&*port(&device, 0x2000), 14, 1, 1).unwrap();
    assert!(line.high());
    poke(&*port(&device, 0x2000), 14, 1, 0).unwrap();
    assert!(!line.high());
    assert_eq!(poke(&*port(&device, 0x2000), 24, 1, 1), None);
}

#[test]
fn flushed_page_keeps_what_it_holds() {
    let (device, ram) = isa(&RecordingLine::new());
    ram.write_obj(0x55u8, GuestAddress(0x2fff)).unwrap();

    assert_eq!(poke(&*port(&device, 0xe4), 0, 4, 0x2345), Some(Effect::None));
    assert_eq!(poke(&*port(&device, 0xe4), 0, 4, 0xffff_ffff), Some(Effect::None));

    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x2fff)).unwrap(), 0x55);
    ram.write_obj(0x66u8, GuestAddress(0x2000)).unwrap();
}

#[test]
fn reset_lowers_the_lines_and_clears_what_is_held() {
    let line = RecordingLine::new();
    let (device, _) = isa(&line);
    poke(&*port(&device, 0xe0), 0, 4, 1).unwrap();
    poke(&*port(&device, 0x2000), 3, 1, 1).unwrap();

    device.reset();

    assert_eq!((peek(&*port(&device, 0xe0), 0, 4), line.high()), (Some(0), false));
}

#[test]
fn pci_tests_count_what_is_written_as_they_ask() {
    let (_, regions) = decoding();
    let spaces: Vec<_> = regions.iter().map(|region| (region.space, region.base, region.len)).collect();
    let memory = (Space::Memory, 0xe000_0000, 0x1000);
    assert_eq!(spaces, [memory, (Space::Io, 0xc000, 0x100), (Space::Memory, 0xe800_0000, 0x10_0000)]);
    for (region, kind) in regions.iter().zip(["mmio", "portio"]) {
        let window = &*region.device;
        for (n, name) in (0..).zip(["no-eventfd", "wildcard-eventfd", "datamatch-eventfd"]) {
            let (at, data, width) = start(window, n);
            for _ in 0..3 {
                poke(window, at, width, data).unwrap();
            }
            poke(window, at, width, data ^ 1).unwrap();
            poke(window, at + 4, width, data).unwrap();

            assert_eq!(peek(window, 12, 4), Some(3), "{kind}-{name}");
            let text: Vec<u8> = (16..48).map(|at| peek(window, at, 1).unwrap() as u8).collect();
            assert_eq!(text.split(|byte| *byte == 0).next().unwrap(), format!("{kind}-{name}").as_bytes());
        }
        assert_eq!(start(window, 3).2, 0, "no test 3");
    }
}

#[test]
fn what_an_eventfd_takes_is_counted_from_the_start_of_the_test() {
    let (_, regions) = decoding();
    let window = &*regions[0].device;
    let events: Vec<_> = regions[0].doorbells.iter().map(|doorbell| Arc::clone(&doorbell.event)).collect();
    let offsets: Vec<_> = regions[0].doorbells.iter().map(|doorbell| doorbell.offset).collect();
    events[0].write(5).unwrap();

    let (at, ..) = start(window, 1);
    events[0].write(2).unwrap();

    assert_eq!(at, offsets[0]);
    assert_eq!(peek(window, 12, 4), Some(2));
    assert_eq!(regions[0].doorbells.iter().map(|doorbell| doorbell.value).collect::<Vec<_>>(), [None, Some(0xfa)]);
}

#[test]
fn sizes_that_no_bar_has_are_refused() {
    let device = |membar| PciTestDevice::new("t", Bdf::new(0, 4, 0), false, membar);

    assert_eq!(device(0).unwrap().bars().len(), 2);
    assert_eq!(device(1 << 40).unwrap().bars().len(), 3);
    assert!(device(24).is_err());
    assert!(device(u64::MAX).is_err());
}

#[test]
fn pci_device_passes_the_battery() {
    assert_device_battery(pci, |device| {
        device.config_write(0x10, &0xe000_0000u32.to_le_bytes());
        device.config_write(0x04, &3u16.to_le_bytes());
        start(&*device.regions()[0].device, 2);
    });
}

#[test]
fn random_accesses_do_no_harm() {
    for n in 0..3 {
        hammer(|| Arc::clone(&decoding().1[n].device), 0x1000);
    }
    for base in [0xe0, 0xe4, 0xe8, 0x2000] {
        hammer(|| port(&isa(&RecordingLine::new()).0, base), 24);
    }
    hammer(|| isa(&RecordingLine::new()).0.memory(), PcTestDevice::MEMORY_LEN);
}
