use std::path::Path;
use std::process::Command;

use super::*;
use crate::x86_64::layout::{ACPI_AREA, BIOS_AREA_START, ports};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MIB: u64 = 1 << 20;

fn processors(count: u32) -> Vec<Processor> {
    (0..count).map(|apic_id| Processor { apic_id, present: true, node: apic_id % 2 }).collect()
}

fn least() -> AcpiSpec {
    AcpiSpec::new(MemoryLayout::new(512 * MIB, 32).unwrap(), processors(1))
}

fn fullest() -> AcpiSpec {
    AcpiSpec {
        numa: Some(Numa { memory: vec![3 << 30, 3 << 30], distances: vec![(0, 1, 40)] }),
        serial_ports: [(1, 0x3f8, 4), (2, 0x2f8, 3), (3, 0x3e8, 4), (4, 0x2e8, 3)]
            .map(|(number, base, irq)| SerialPort { number, base, irq })
            .to_vec(),
        parallel_ports: vec![ParallelPort { number: 1, base: 0x378, irq: 7 }],
        keyboard: true,
        mouse: true,
        vga: true,
        fw_cfg: true,
        pvpanic: Some(ports::PVPANIC),
        general_events: Some(ports::GPE0),
        hotplug_slots: 0xffff_fffc,
        ..AcpiSpec::new(MemoryLayout::new(6 << 30, 40).unwrap(), processors(300))
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MIB as usize)]).unwrap()
}

/// Places the tables and finds them again as an operating system does, from the root pointer.
fn walk(spec: &AcpiSpec) -> Vec<(String, Vec<u8>)> {
    let mem = memory();
    let placed = build(spec).place(&mem, ACPI_AREA).unwrap();
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    };
    let table = |at: u64| {
        let length = mem.read_obj::<u32>(GuestAddress(at + 4)).unwrap();
        let bytes = read(at, length as usize);
        (String::from_utf8(bytes[..4].to_vec()).unwrap(), bytes)
    };
    let root = read(placed.rsdp.0, 36);
    assert_eq!(&root[..8], b"RSD PTR ");
    assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
    let (_, xsdt) = table(u64::from_le_bytes(root[24..32].try_into().unwrap()));
    let (_, rsdt) = table(u32::from_le_bytes(root[16..20].try_into().unwrap()).into());
    let wide: Vec<u64> = xsdt[36..].chunks(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())).collect();
    let narrow: Vec<u64> =
        rsdt[36..].chunks(4).map(|entry| u32::from_le_bytes(entry.try_into().unwrap()).into()).collect();
    assert_eq!(wide, narrow);
    let mut tables: Vec<_> = wide.into_iter().map(table).collect();
    let facp = tables[0].1.clone();
    for (narrow, wide) in [(36, 132), (40, 140)] {
        let at = u32::from_le_bytes(facp[narrow..narrow + 4].try_into().unwrap());
        assert_eq!(u64::from(at), u64::from_le_bytes(facp[wide..wide + 8].try_into().unwrap()));
        tables.push(table(at.into()));
    }
    tables.extend([("RSDT".into(), rsdt), ("XSDT".into(), xsdt)]);
    tables
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn find<'a>(tables: &'a [(String, Vec<u8>)], signature: &str) -> &'a [u8] {
    &tables.iter().find(|(name, _)| name == signature).unwrap().1
}

#[test]
fn every_table_is_reached_and_sums_to_zero() {
    let tables = walk(&fullest());

    let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["FACP", "APIC", "WAET", "SRAT", "SLIT", "FACS", "DSDT", "RSDT", "XSDT"]);
    for (name, bytes) in tables.iter().filter(|(name, _)| name != "FACS") {
        assert_eq!(sum(bytes), 0, "{name}");
    }
}

#[test]
fn facs_is_aligned_to_64_bytes() {
    let tables = build(&least());

    assert_eq!(&tables.blobs[0].bytes[..4], b"FACS");
    assert_eq!(tables.blobs[0].align, 64);
}

#[test]
fn fadt_describes_the_piix4() {
    let mut spec = least();
    spec.keyboard = true;
    let tables = walk(&spec);
    let fadt = find(&tables, "FACP");
    let word = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap());

    assert_eq!((word(56), word(64), word(76), word(80)), (0x600, 0x604, 0x608, 0));
    assert_eq!((fadt[46], fadt[128]), (9, 0x0f));
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), BOOT_FLAGS_KEYBOARD_NO_VGA);
    assert_eq!(word(112) & (1 << 4), 0, "the power button is a fixed feature");
    assert_eq!(&fadt[116..128], [1, 8, 0, 0, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]);
}

const BOOT_FLAGS_KEYBOARD_NO_VGA: u16 = 0b111;

#[test]
fn processors_beyond_254_are_x2apic_entries() {
    let tables = walk(&fullest());
    let mut rest = &find(&tables, "APIC")[44..];
    let mut kinds = std::collections::BTreeMap::new();
    while let [kind, length, ..] = *rest {
        *kinds.entry(kind).or_insert(0) += 1;
        rest = &rest[usize::from(length)..];
    }

    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [(0, 255), (1, 1), (2, 5), (4, 1), (9, 45), (10, 1)]);
}

#[test]
fn srat_deals_out_all_memory_but_the_vga_window() {
    let spec = fullest();
    let tables = walk(&spec);
    let mut rest = &find(&tables, "SRAT")[48..];
    let mut memory = Vec::new();
    while let [kind, length, ..] = *rest {
        let field = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
        if kind == 1 {
            memory.push((rest[2], field(8), field(16)));
        }
        rest = &rest[usize::from(length)..];
    }

    assert_eq!(memory, [(0, 0, 0xa_0000), (0, 0x10_0000, 0xbff0_0000), (1, 0x1_0000_0000, 0xc000_0000)]);
    assert_eq!(&find(&tables, "SLIT")[44..], [10, 40, 40, 10]);
}

#[test]
fn a_node_that_straddles_the_hole_gets_both_sides() {
    let mut spec = fullest();
    spec.numa = Some(Numa { memory: vec![1 << 30, 5 << 30], distances: vec![] });
    let tables = walk(&spec);
    let srat = find(&tables, "SRAT");

    let node_1 = srat.windows(8).filter(|bytes| bytes[..6] == [1, 40, 1, 0, 0, 0]).count();
    assert_eq!(node_1, 2);
}

#[test]
fn tables_that_do_not_fit_are_an_error() {
    let error = build(&least()).place(&memory(), BIOS_AREA_START..BIOS_AREA_START + 256).unwrap_err();

    assert!(matches!(error, LinkError::TooLong { available: 256, .. }), "{error}");
}

/// Runs a loader script as firmware does.
fn run_script(tables: &Tables, addresses: &[u64]) -> Vec<Vec<u8>> {
    let name = |bytes: &[u8]| bytes.split(|byte| *byte == 0).next().unwrap().to_vec();
    let index = |bytes: &[u8]| tables.blobs.iter().position(|blob| blob.name.as_bytes() == name(bytes)).unwrap();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let mut blobs: Vec<Vec<u8>> = tables.blobs.iter().map(|blob| blob.bytes.clone()).collect();
    for entry in tables.loader_script().chunks(128) {
        let (command, fields) = entry.split_at(4);
        match word(command) {
            1 => assert_eq!(word(&fields[56..]), tables.blobs[index(fields)].align as usize),
            2 => {
                let (at, target, offset, size) =
                    (index(fields), index(&fields[56..]), word(&fields[112..]), usize::from(fields[116]));
                let field = &mut blobs[at][offset..offset + size];
                let mut value = [0; 8];
                value[..size].copy_from_slice(field);
                let value = (u64::from_le_bytes(value) + addresses[target]).to_le_bytes();
                field.copy_from_slice(&value[..size]);
            }
            3 => {
                let (at, offset, start, length) =
                    (index(fields), word(&fields[56..]), word(&fields[60..]), word(&fields[64..]));
                let rest = sum(&blobs[at][start..start + length]);
                blobs[at][offset] = blobs[at][offset].wrapping_sub(rest);
            }
            other => panic!("unknown loader command {other}"),
        }
    }
    blobs
}

#[test]
fn both_doors_lead_to_the_same_bytes() {
    let tables = build(&fullest());
    let addresses = [0x7ffe_0000, 0xf_5ad0];

    assert_eq!(run_script(&tables, &addresses), tables.linked(&addresses));
}

/// Runs a tool of the Debian package acpica-tools and gives what it said.
fn iasl(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("this test needs iasl, of the Debian package acpica-tools");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {said}");
    said
}

fn assert_clean(said: &str, what: &str) {
    for bad in ["Error ", "Warning", "Invalid", "Unknown", "Could not"] {
        assert!(!said.contains(bad), "{what}: {said}");
    }
}

#[test]
fn acpica_disassembles_and_recompiles_every_table() {
    for spec in [least(), fullest()] {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in walk(&spec) {
            let (binary, source) = (format!("{name}.aml"), format!("{name}.dsl"));
            std::fs::write(directory.path().join(&binary), &bytes).unwrap();

            assert_clean(&iasl(directory.path(), &["-d", &binary]), &name);
            let text = std::fs::read_to_string(directory.path().join(&source)).unwrap();
            assert_clean(&text.replace("Error Source", ""), &format!("{name} disassembled"));
            let compiled = iasl(directory.path(), &["-oa", "-p", "again", &source]);

            assert!(compiled.contains("0 Errors, 0 Warnings") || name != "DSDT", "{name}: {compiled}");
            let again = std::fs::read(directory.path().join("again.aml")).unwrap();
            // The compiler puts its own name and version into the header.
            assert_eq!(again.len(), bytes.len(), "{name}");
            assert_eq!(again[36..], bytes[36..], "{name}");
        }
    }
}
