use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::structure::END_OF_TABLE;
use super::*;
use crate::x86_64::layout::{BIOS_SEGMENT_START, SMBIOS_AREA};

const MIB: u64 = 1 << 20;
const ONE: Sockets = Sockets { count: 1, cores: 1, threads: 1 };

fn spec(ram: u64) -> SmbiosSpec {
    SmbiosSpec::new(MemoryLayout::new(ram, 52).unwrap(), ONE, "pc-test")
}

fn text(value: &str) -> Option<String> {
    Some(value.into())
}

/// A structure as a reader sees it.
struct Seen {
    kind: u8,
    handle: u16,
    formatted: Vec<u8>,
    strings: Vec<String>,
}

impl Seen {
    fn text(&self, field: usize) -> &str {
        match self.formatted[field] {
            0 => "",
            number => &self.strings[usize::from(number) - 1],
        }
    }
}

/// Walks the tables as DSP0134, annex A, tells readers to.
fn walk(mut bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let (formatted, rest) = bytes.split_at(bytes[1].into());
        let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let strings = rest[..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
        seen.push(Seen {
            kind: formatted[0],
            handle: u16::from_le_bytes([formatted[2], formatted[3]]),
            formatted: formatted.to_vec(),
            strings: strings.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect(),
        });
        bytes = &rest[end + 2..];
    }
    seen
}

fn made(spec: &SmbiosSpec) -> Vec<Seen> {
    walk(build(spec).unwrap().tables())
}

fn find(seen: &[Seen], kind: u8) -> &Seen {
    seen.iter().find(|structure| structure.kind == kind).unwrap()
}

#[test]
fn the_default_machine_has_qemus_structures() {
    let seen = made(&spec(512 * MIB));

    let kinds: Vec<(u8, usize)> = seen.iter().map(|structure| (structure.kind, structure.formatted.len())).collect();
    let lengths =
        [(0, 0x18), (1, 0x1b), (3, 0x16), (4, 0x30), (16, 0x17), (17, 0x28), (19, 0x1f), (32, 0x0b), (127, 4)];
    assert_eq!(kinds, lengths);
    assert_eq!((find(&seen, 1).text(4), find(&seen, 1).text(6)), ("Rhea", "pc-test"));
    assert_eq!(find(&seen, 17).text(16), "DIMM 0");
}

#[test]
fn handles_are_unique_and_references_exist() {
    let mut spec = spec(9 << 40);
    spec.sockets.count = 255;
    spec.board.serial = text("1");
    let seen = made(&spec);

    let handles: std::collections::BTreeSet<u16> = seen.iter().map(|structure| structure.handle).collect();
    assert_eq!(handles.len(), seen.len());
    let array = u16::from_le_bytes([find(&seen, 17).formatted[4], find(&seen, 17).formatted[5]]);
    assert_eq!(array, find(&seen, 16).handle);
    let chassis = u16::from_le_bytes([find(&seen, 2).formatted[0x0b], find(&seen, 2).formatted[0x0c]]);
    assert_eq!(chassis, find(&seen, 3).handle);
}

#[test]
fn the_users_fields_are_told() {
    let mut spec = spec(512 * MIB);
    spec.uuid = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    spec.firmware = Firmware { vendor: text("V"), release: Some((3, 7)), uefi: true, ..Firmware::default() };
    spec.system = System { serial: text("S1"), sku: text("K"), family: text("F"), ..System::default() };
    spec.board = Board { product: text("P"), location: text("here"), ..Board::default() };
    spec.chassis = Chassis { asset: text("A"), sku: text("CK"), ..Chassis::default() };
    spec.socket = Socket { prefix: text("SOCK"), max_speed: Some(3000), ..Socket::default() };
    spec.oem_strings = vec!["one".into(), "two".into()];
    spec.memory_module = MemoryModule { prefix: text("SLOT"), speed: Some(4800), ..MemoryModule::default() };

    let seen = made(&spec);

    let firmware = find(&seen, 0);
    assert_eq!((firmware.text(4), &firmware.formatted[0x13..0x16]), ("V", &[0x1c, 3, 7][..]));
    let system = find(&seen, 1);
    assert_eq!((system.text(7), system.text(0x19), system.text(0x1a)), ("S1", "K", "F"));
    assert_eq!(system.formatted[8..24], *b"\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff");
    assert_eq!((find(&seen, 2).text(5), find(&seen, 2).text(10)), ("P", "here"));
    assert_eq!((find(&seen, 3).text(8), find(&seen, 3).text(0x15)), ("A", "CK"));
    let socket = find(&seen, 4);
    assert_eq!((socket.text(4), &socket.formatted[0x14..0x16]), ("SOCK 0", &3000u16.to_le_bytes()[..]));
    assert_eq!((find(&seen, 11).formatted[4], &find(&seen, 11).strings), (2, &spec.oem_strings));
    let module = find(&seen, 17);
    assert_eq!((module.text(16), &module.formatted[0x15..0x17]), ("SLOT 0", &4800u16.to_le_bytes()[..]));
}

#[test]
fn large_memories_use_the_extended_fields() {
    let seen = made(&spec(3 << 40));

    let array = find(&seen, 16);
    assert_eq!(array.formatted[7..11], 0x8000_0000u32.to_le_bytes());
    assert_eq!(array.formatted[15..23], (3u64 << 40).to_le_bytes());
    let total: u64 = seen
        .iter()
        .filter(|structure| structure.kind == 17)
        .map(|module| u64::from(u16::from_le_bytes([module.formatted[12], module.formatted[13]])))
        .sum();
    assert_eq!(total, (3 << 40) / MIB);
}

#[test]
fn memory_devices_add_up_and_stay_few() {
    for ram in [MIB, 512 * MIB, 16 << 30, 17 << 30, 4 << 40, 63 << 40] {
        let seen = made(&spec(ram));
        let sizes: Vec<u64> = seen
            .iter()
            .filter(|structure| structure.kind == 17)
            .map(|module| match u16::from_le_bytes([module.formatted[12], module.formatted[13]]) {
                0x7fff => u64::from(u32::from_le_bytes(module.formatted[0x1c..0x20].try_into().unwrap())),
                mib => mib.into(),
            })
            .collect();

        assert_eq!(sizes.iter().sum::<u64>(), ram / MIB);
        assert!(sizes.len() <= 256);
    }
}

#[test]
fn files_replace_made_structures() {
    let mut spec = spec(512 * MIB);
    spec.binary = vec![b"\x01\x1b\x00\x01\x01\0\0\0................\x06\0\0Own\0\0".to_vec()];

    let seen = made(&spec);

    let systems: Vec<&Seen> = seen.iter().filter(|structure| structure.kind == 1).collect();
    assert_eq!((systems.len(), systems[0].text(4)), (1, "Own"));
    assert_eq!(seen.last().unwrap().kind, END_OF_TABLE);
    spec.system.serial = text("1");
    assert!(matches!(build(&spec), Err(SmbiosError::Twice(1))));
}

#[test]
fn broken_files_and_strings_are_refused() {
    for (bytes, at) in
        [(&b"\x01"[..], 0), (b"\x01\x03\0\0\0\0", 0), (b"\x80\x04\0\0\0\0\x81\x40\0\0\0\0", 6), (b"\x80\x04\0\0a", 0)]
    {
        let binary = SmbiosSpec { binary: vec![vec![], bytes.to_vec()], ..spec(512 * MIB) };

        let error = build(&binary).unwrap_err();

        assert!(matches!(error, SmbiosError::Binary { index: 1, offset } if offset == at), "{bytes:x?}: {error}");
    }
    let zero = SmbiosSpec { oem_strings: vec!["a\0b".into()], ..spec(512 * MIB) };
    let many = SmbiosSpec { oem_strings: vec!["x".into(); 256], ..spec(512 * MIB) };
    let long = SmbiosSpec { oem_strings: vec!["x".repeat(70_000)], ..spec(512 * MIB) };
    assert!(matches!(build(&zero), Err(SmbiosError::Zero(_))));
    assert!(matches!(build(&many), Err(SmbiosError::Strings { kind: 11, count: 256 })));
    assert!(matches!(build(&long), Err(SmbiosError::TooLong { available: 65_535, .. })));
    assert!(build(&SmbiosSpec { entry_point: EntryPoint::V3, ..long }).is_ok());
}

#[test]
fn anchors_are_found_by_a_scan_and_lead_to_the_tables() {
    for (entry_point, magic, length) in [(EntryPoint::V2, &b"_SM_"[..], 31), (EntryPoint::V3, b"_SM3_", 24)] {
        let mem: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MIB as usize)]).unwrap();
        let smbios = build(&SmbiosSpec { entry_point, ..spec(512 * MIB) }).unwrap();

        smbios.place(&mem, SMBIOS_AREA).unwrap();

        let mut segment = vec![0; 0x1_0000];
        mem.read_slice(&mut segment, GuestAddress(BIOS_SEGMENT_START)).unwrap();
        let anchor = segment.chunks(16).position(|chunk| chunk.starts_with(magic)).unwrap() * 16;
        let anchor = &segment[anchor..anchor + length];
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum(anchor), 0);
        let at = if entry_point == EntryPoint::V2 {
            assert_eq!((&anchor[16..21], sum(&anchor[16..])), (&b"_DMI_"[..], 0));
            assert_eq!(u16::from_le_bytes([anchor[28], anchor[29]]), 9);
            u64::from(u32::from_le_bytes(anchor[24..28].try_into().unwrap()))
        } else {
            u64::from_le_bytes(anchor[16..24].try_into().unwrap())
        };
        let offset = (at - BIOS_SEGMENT_START) as usize;
        assert_eq!(&segment[offset..offset + smbios.tables().len()], smbios.tables());
    }
}

#[test]
fn tables_that_do_not_fit_their_area_are_an_error() {
    let mem: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MIB as usize)]).unwrap();

    let error = build(&spec(512 * MIB)).unwrap().place(&mem, BIOS_SEGMENT_START..BIOS_SEGMENT_START + 64).unwrap_err();

    assert!(matches!(error, SmbiosError::TooLong { available: 64, .. }), "{error}");
}
