use super::*;
use crate::board::accel::Mapping;
use crate::board::space::DoorbellHost;
use rhea_devices::irq::{IrqLine, MsiSink};
use rhea_devices::pci::PciFunction;
use std::collections::BTreeMap;

const PAM0: u8 = 0x59;

type Placed = Arc<Mutex<BTreeMap<u64, (u64, Access)>>>;

/// Notes what is mapped.
#[derive(Default)]
struct Recorder(Placed);

struct Gone(Placed, u64);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
}

impl Accelerator for Recorder {
    fn wire(&self, _: u32) -> Arc<dyn IrqLine> {
        unreachable!("memory has no interrupts")
    }
    fn messages(&self) -> Arc<dyn MsiSink> {
        unreachable!("memory has no interrupts")
    }
    fn doorbells(&self) -> Box<dyn DoorbellHost> {
        unreachable!("memory has no doorbells")
    }
    fn map(&self, guest: u64, host: HostRange, access: Access) -> Result<Mapping, MemoryError> {
        self.0.lock().unwrap().insert(guest, (host.len(), access));
        Ok(Box::new(Gone(Arc::clone(&self.0), guest)))
    }
}

fn low_memory() -> Share {
    Share { owner: 0, offset: 0, range: 0..2 << 20 }
}

fn parts(rom: bool) -> (Arc<I440fx>, Arc<GuestRam>, Arc<Shadow>) {
    let bridge = Arc::new(I440fx::new());
    let ram = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("rom");
    std::fs::write(&image, vec![0xaa; 128 << 10]).unwrap();
    let rom = rom.then(|| Arc::new(Rom::load(&image).unwrap()));
    let shadow = Arc::new(Shadow::new(Arc::clone(&bridge), Arc::clone(&ram), rom));
    (bridge, ram, shadow)
}

fn byte_at(shadow: &Shadow, address: u64) -> u8 {
    let mut data = [0];
    shadow.read(address - OPTION_ROM_START, &mut data).unwrap();
    data[0]
}

#[test]
fn rom_is_read_and_writes_are_dropped_after_power_on() {
    let (_bridge, ram, shadow) = parts(true);

    shadow.write(0xf_0000 - OPTION_ROM_START, &[1]).unwrap();

    assert_eq!((byte_at(&shadow, 0xf_0000), byte_at(&shadow, 0xc_0000)), (0xaa, 0xff));
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0xf_0000)).unwrap(), 0);
}

#[test]
fn write_only_part_copies_rom_into_ram_below_it() {
    let (bridge, _ram, shadow) = parts(true);

    let _ = bridge.config_write(PAM0, &[0x20]);
    shadow.write(0xf_0000 - OPTION_ROM_START, &[1]).unwrap();
    let before = byte_at(&shadow, 0xf_0000);
    let _ = bridge.config_write(PAM0, &[0x10]);

    assert_eq!((before, byte_at(&shadow, 0xf_0000)), (0xaa, 1));
}

#[test]
fn read_only_ram_drops_writes() {
    let (bridge, _ram, shadow) = parts(true);

    let _ = bridge.config_write(PAM0, &[0x10]);
    shadow.write(0xf_0000 - OPTION_ROM_START, &[1]).unwrap();

    assert_eq!(byte_at(&shadow, 0xf_0000), 0);
}

#[test]
fn memory_around_the_hole_and_the_rom_are_mapped() {
    let (_bridge, _ram, shadow) = parts(true);
    let accel = Arc::new(Recorder::default());

    let map = MemoryMap::new(Arc::clone(&accel) as _, shadow, &[low_memory()], Vec::new()).unwrap();
    map.refresh();

    let placed = accel.0.lock().unwrap();
    assert_eq!(placed.get(&0), Some(&(0xa_0000, Access::ReadWrite)));
    assert_eq!(placed.get(&0x10_0000), Some(&(0x10_0000, Access::ReadWrite)));
    assert_eq!(placed.get(&0xfffe_0000), Some(&(0x2_0000, Access::ReadOnly)));
    assert_eq!(placed.get(&0xf_0000), Some(&(0x1_0000, Access::ReadOnly)));
    assert_eq!(placed.get(&0xc_0000), None);
}

#[test]
fn part_that_becomes_ram_is_mapped_anew() {
    let (bridge, _ram, shadow) = parts(false);
    let accel = Arc::new(Recorder::default());
    let map = MemoryMap::new(Arc::clone(&accel) as _, shadow, &[low_memory()], Vec::new()).unwrap();

    map.refresh();
    let before = accel.0.lock().unwrap().get(&0xf_0000).copied();
    let _ = bridge.config_write(PAM0, &[0x30]);
    map.refresh();

    let after = accel.0.lock().unwrap().get(&0xf_0000).copied();
    assert_eq!((before, after), (None, Some((0x1_0000, Access::ReadWrite))));
}
