use super::*;
use crate::testing::{assert_device_battery, hammer, peek, poke};
use crate::virtio::testing::ram;

const DESCRIPTOR: u64 = 0x1000;
const TARGET: u64 = 0x2000;

fn device() -> (Arc<FwCfg>, Arc<GuestRam>) {
    let memory = ram(1 << 20);
    let mut builder = FwCfgBuilder::new();
    builder.u16(key::CPUS, 4).unwrap().string(key::CMDLINE_DATA, "quiet").unwrap();
    builder.file("opt/b", *b"second").unwrap().file("etc/a", vec![7; 5000]).unwrap();
    (builder.build(Arc::clone(&memory)), memory)
}

fn read_port(device: &FwCfg, key: u16, len: usize) -> Vec<u8> {
    poke(device, SELECTOR, 2, key.into()).unwrap();
    (0..len).map(|_| peek(device, DATA, 1).unwrap() as u8).collect()
}

fn run_dma(device: &FwCfg, memory: &GuestRam, control: u32, len: u32, target: u64) -> u32 {
    let mut descriptor = control.to_be_bytes().to_vec();
    descriptor.extend(len.to_be_bytes());
    descriptor.extend(target.to_be_bytes());
    memory.write_slice(&descriptor, GuestAddress(DESCRIPTOR)).unwrap();
    device.write(DMA_HIGH, &[0; 4]).unwrap();
    device.write(DMA_LOW, &(DESCRIPTOR as u32).to_be_bytes()).unwrap();
    let mut result = [0; 4];
    memory.read_slice(&mut result, GuestAddress(DESCRIPTOR)).unwrap();
    u32::from_be_bytes(result)
}

#[test]
fn signature_and_interface_read_through_the_port() {
    let (device, _) = device();
    assert_eq!(read_port(&device, key::SIGNATURE, 6), b"QEMU\0\0");
    assert_eq!(read_port(&device, key::ID, 4), [3, 0, 0, 0]);
    assert_eq!(read_port(&device, key::CPUS, 2), [4, 0]);
    assert_eq!(read_port(&device, key::CMDLINE_DATA, 6), b"quiet\0");
}

#[test]
fn directory_lists_files_by_name_with_their_keys() {
    let (device, _) = device();
    let directory = read_port(&device, key::FILE_DIR, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    assert_eq!(directory[4..12], [0, 0, 0x13, 0x88, 0, 0x20, 0, 0]);
    assert_eq!(&directory[12..18], b"etc/a\0");
    assert_eq!(directory[68..76], [0, 0, 0, 6, 0, 0x21, 0, 0]);
    assert_eq!(read_port(&device, 0x21, 8), b"second\0\0");
}

#[test]
fn dma_signature_reads_from_the_address_register() {
    let (device, _) = device();
    assert_eq!(peek(&*device, DMA_HIGH, 4), Some(u32::from_le_bytes(*b"QEMU").into()));
    assert_eq!(peek(&*device, DMA_LOW, 4), Some(u32::from_le_bytes(*b" CFG").into()));
}

#[test]
fn dma_selects_skips_and_reads_with_zeroes_past_the_end() {
    let (device, memory) = device();
    assert_eq!(run_dma(&device, &memory, 0x21 << 16 | control::SELECT | control::SKIP, 3, 0), 0);
    memory.write_slice(&[0xff; 8], GuestAddress(TARGET)).unwrap();
    assert_eq!(run_dma(&device, &memory, control::READ, 6, TARGET), 0);
    let mut bytes = [0; 8];
    memory.read_slice(&mut bytes, GuestAddress(TARGET)).unwrap();
    assert_eq!(&bytes, b"ond\0\0\0\xff\xff");
}

#[test]
fn dma_of_a_long_file_is_whole() {
    let (device, memory) = device();
    assert_eq!(run_dma(&device, &memory, 0x20 << 16 | control::SELECT | control::READ, 5000, TARGET), 0);
    let mut bytes = vec![0; 5001];
    memory.read_slice(&mut bytes, GuestAddress(TARGET)).unwrap();
    assert!(bytes[..5000].iter().all(|byte| *byte == 7) && bytes[5000] == 0);
}

#[test]
fn dma_outside_of_ram_and_writes_end_with_the_error_bit() {
    let (device, memory) = device();
    assert_eq!(run_dma(&device, &memory, control::READ, 16, (1 << 20) - 8), control::ERROR);
    assert_eq!(run_dma(&device, &memory, control::READ, 16, u64::MAX - 4), control::ERROR);
    assert_eq!(run_dma(&device, &memory, control::WRITE, 2, TARGET), control::ERROR);
}

#[test]
fn replaced_file_shows_in_the_directory() {
    let (device, _) = device();
    device.replace_file("opt/b", *b"x").unwrap();
    assert_eq!(read_port(&device, key::FILE_DIR, 72)[68..72], [0, 0, 0, 1]);
    assert_eq!(read_port(&device, 0x21, 2), b"x\0");
    assert_eq!(device.replace_file("none", *b"x"), Err(FwCfgError::NoFile("none".into())));
}

#[test]
fn bad_names_and_taken_keys_are_refused() {
    let mut builder = FwCfgBuilder::new();
    assert!(matches!(builder.file(&"n".repeat(56), *b""), Err(FwCfgError::Name(_))));
    assert!(builder.file(&"n".repeat(55), *b"").is_ok());
    assert!(matches!(builder.file(&"n".repeat(55), *b""), Err(FwCfgError::Duplicate(_))));
    assert_eq!(builder.u16(key::ID, 1).err(), Some(FwCfgError::Key(key::ID)));
    assert_eq!(builder.u16(0x20, 1).err(), Some(FwCfgError::Key(0x20)));
    assert!(builder.u16(key::HPET, 1).is_ok());
    assert_eq!(builder.u16(key::HPET, 1).err(), Some(FwCfgError::Key(key::HPET)));
}

#[test]
fn passes_the_device_battery() {
    assert_device_battery(
        || device().0,
        |device| {
            let _bytes = read_port(device, key::FILE_DIR, 3);
        },
    );
}

#[test]
fn no_access_panics() {
    hammer(|| device().0, LEN.into());
}
