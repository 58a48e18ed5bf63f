//! Images made to hurt: mutated by structure, through every verb. Nothing panics, nothing takes long, nothing grows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rig::{Dice, image, mixes, qemu_check, rounds, write_compressed};
use crate::format::qcow2::{Amend, CreateOptions, OpenOptions, Qcow2, Repair, check, create, repair};
use crate::layer::{Layer, Preallocation, read_vec, write_all};
use crate::protocol::memory::Memory;

const SIZE: u64 = 512 << 10;

/// A well-filled image with a snapshot: every structure is there to be damaged.
fn victim(options: &CreateOptions) -> Vec<u8> {
    let (recorder, disk) = image(options, 0);
    write_all(disk.as_ref(), &[1; 200_000], 1000).unwrap();
    // Images of version 2 or with counts of one bit have none.
    let _ = disk.snapshot_create("snap", (1, 2));
    write_all(disk.as_ref(), &[2; 50_000], 100_000).unwrap();
    if !options.cluster_size.is_multiple_of(1 << 20) {
        let cluster = options.cluster_size;
        write_compressed(&disk, &vec![3; cluster as usize], 400_000 / cluster * cluster);
    }
    disk.close().unwrap();
    drop(disk);
    recorder.memory.bytes()
}

/// Values that are edges somewhere.
fn edge(dice: &mut Dice, cluster: u64, len: u64) -> u64 {
    let any = dice.roll(u64::MAX >> 11);
    let values = [
        0,
        1,
        2,
        cluster - 1,
        cluster,
        cluster + 512,
        2 * cluster,
        len & !(cluster - 1),
        len + cluster,
        any,
        1 << 55,
        1 << 56,
        1 << 62,
        1 << 63,
        u64::MAX,
        u64::MAX - cluster + 1,
        u64::from(u32::MAX),
        (1 << 62) | any,
        (1 << 63) | (dice.roll(len / cluster + 1) * cluster),
        dice.roll(len / cluster + 1) * cluster,
    ];
    values[dice.roll(values.len() as u64) as usize]
}

/// Puts edges where structures are: the header's fields, and whole words of clusters that look like tables.
fn mutate(bytes: &mut [u8], dice: &mut Dice, cluster: u64) {
    for _ in 0..1 + dice.roll(3) {
        let len = bytes.len() as u64;
        let at = match dice.roll(3) {
            0 => dice.roll(14) * 8,
            1 => dice.roll(120),
            _ => {
                let first = dice.roll(len / cluster) * cluster;
                first + dice.roll(cluster.min(64 * 8) / 8) * 8
            }
        } as usize;
        let value = edge(dice, cluster, len).to_be_bytes();
        let width = if dice.roll(3) == 0 { 4 } else { 8 };
        let end = (at + width).min(bytes.len());
        bytes[at..end].copy_from_slice(&value[8 - (end - at)..]);
    }
}

/// Every verb; errors are fine.
fn use_it(bytes: &[u8]) {
    let file = || -> Arc<dyn Layer> { Arc::new(Memory::new(bytes.to_vec())) };
    let _ = check(&file());
    for read_only in [true, false] {
        let options = OpenOptions { read_only, discard: true, ..OpenOptions::default() };
        let Ok(disk) = Qcow2::open(file(), &options) else { continue };
        let size = disk.size().min(SIZE);
        for at in (0..size).step_by(65536) {
            let _ = read_vec(&disk, at, 65536.min(size - at) as usize);
            let _ = disk.status(at, size - at);
        }
        if !read_only && size > 100_000 {
            let _ = write_all(&disk, &[9; 70_000], 5000);
            let _ = disk.discard(0, 60_000);
            let _ = disk.write_zeroes(60_000, 30_000, true);
            let _ = disk.flush();
            let _ = disk.snapshots();
            let _ = disk.bitmaps();
            let _ = disk.snapshot_apply("snap");
            let _ = disk.snapshot_delete("snap");
            let _ = disk.resize(1 << 20, Preallocation::Off);
        }
    }
    let repaired = file();
    let _ = repair(&repaired, Repair::All);
    let _ = check(&repaired);
}

#[test]
fn mutated_images_are_refused_or_used_without_harm() {
    for options in mixes(SIZE).into_iter().filter(|o| o.cluster_size <= 65536) {
        let whole = victim(&options);
        for seed in 0..rounds(60) {
            let mut bytes = whole.clone();
            mutate(&mut bytes, &mut Dice::new(seed + 1), options.cluster_size);
            let start = Instant::now();
            use_it(&bytes);
            let took = start.elapsed();
            assert!(took < Duration::from_secs(20), "seed {seed}, {options:?}: {took:?}");
        }
    }
}

#[test]
fn truncated_images_are_refused_or_used_without_harm() {
    let options = CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() };
    let whole = victim(&options);
    for len in (0..whole.len()).step_by(whole.len() / 40) {
        use_it(&whole[..len]);
    }
}

fn open_with(change: impl Fn(&mut [u8])) -> String {
    let mut bytes = victim(&CreateOptions { size: SIZE, ..CreateOptions::default() });
    change(&mut bytes);
    let file: Arc<dyn Layer> = Arc::new(Memory::new(bytes));
    Qcow2::open(file, &OpenOptions::default()).err().map_or_else(String::new, |e| e.to_string())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[test]
fn header_at_its_limits_is_refused_with_the_reason() {
    assert_eq!(open_with(|_| {}), "");
    let told = |at: usize, value: &[u8], text: &str| {
        let told = open_with(|bytes| put(bytes, at, value));
        assert!(told.contains(text), "{at}: {told}");
    };
    told(0, b"QFI\0", "not in qcow2 format");
    told(4, &4u32.to_be_bytes(), "version 4");
    told(20, &8u32.to_be_bytes(), "cluster size");
    told(20, &22u32.to_be_bytes(), "cluster size");
    told(24, &u64::MAX.to_be_bytes(), "L1 table is too small");
    told(32, &1u32.to_be_bytes(), "key-secret");
    told(32, &2u32.to_be_bytes(), "does not say where its LUKS header is");
    told(32, &3u32.to_be_bytes(), "encryption method 3");
    told(36, &u32::MAX.to_be_bytes(), "Active L1 table is too large");
    told(40, &1u64.to_be_bytes(), "Active L1 table offset invalid");
    told(48, &(1u64 << 62).to_be_bytes(), "Reference count table past end of file");
    told(56, &u32::MAX.to_be_bytes(), "Reference count table is too large");
    told(60, &u32::MAX.to_be_bytes(), "Snapshot table is too large");
    told(72, &(1u64 << 60).to_be_bytes(), "Unknown incompatible feature: 1000000000000000");
    told(72, &2u64.to_be_bytes(), "corrupt");
    told(96, &7u32.to_be_bytes(), "Reference count entry width");
    told(100, &u32::MAX.to_be_bytes(), "header length");
}

#[test]
fn unknown_autoclear_bits_go_with_the_first_write_and_not_before() {
    let mut bytes = victim(&CreateOptions { size: SIZE, ..CreateOptions::default() });
    put(&mut bytes, 88, &(1u64 << 40).to_be_bytes());
    let memory = Arc::new(Memory::new(bytes));
    let disk = Qcow2::open(memory.clone(), &OpenOptions::default()).unwrap();
    read_vec(&disk, 0, 4096).unwrap();
    disk.flush().unwrap();
    assert_eq!(memory.bytes()[88..96], (1u64 << 40).to_be_bytes());

    write_all(&disk, &[1; 512], 0).unwrap();

    assert_eq!(memory.bytes()[88..96], [0; 8]);
}

#[test]
fn unknown_extensions_and_compatible_bits_outlive_changes_of_the_header() {
    const STRANGE: [u8; 24] = *b"\x12\x34\x56\x78\0\0\0\x0bwho knows..\0\0\0\0\0";
    let mut bytes = victim(&CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() });
    put(&mut bytes, 80, &(1u64 << 50).to_be_bytes());
    let header = u32::from_be_bytes(bytes[100..104].try_into().unwrap()) as usize;
    // In front of all others, and nothing else is after the extensions.
    let others = bytes[header..4096 - STRANGE.len()].to_vec();
    put(&mut bytes, header, &STRANGE);
    put(&mut bytes, header + STRANGE.len(), &others);
    let memory = Arc::new(Memory::new(bytes));
    let disk = Qcow2::open(memory.clone(), &OpenOptions::default()).unwrap();

    write_all(&disk, &[1; 70_000], 0).unwrap();
    disk.snapshot_create("s", (0, 0)).unwrap();
    disk.resize(SIZE * 2, Preallocation::Off).unwrap();
    disk.set_backing_name(Some(("below", Some("raw")))).unwrap();
    disk.amend(&Amend { lazy_refcounts: Some(true), ..Amend::default() }).unwrap();
    drop(disk);

    let now = memory.bytes();
    assert!(now[..4096].windows(STRANGE.len()).any(|place| place == STRANGE));
    assert_eq!(u64::from_be_bytes(now[80..88].try_into().unwrap()) & (1 << 50), 1 << 50);
}

#[test]
fn file_that_ends_within_its_last_cluster_reads_on_as_zeroes_and_grows() {
    for (cluster_size, cut) in [(65_536, 1000), (65_536, 60_000), (512, 100), (2 << 20, 1 << 20)] {
        let options = CreateOptions { size: 8 << 20, cluster_size, ..CreateOptions::default() };
        let mut bytes = {
            let memory: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
            let disk = create(&memory, None, &options).unwrap();
            write_all(&disk, &vec![5; cluster_size as usize], 0).unwrap();
            disk.close().unwrap();
            read_vec(memory.as_ref(), 0, memory.size() as usize).unwrap()
        };
        bytes.truncate(bytes.len() - cut);
        let memory = Arc::new(Memory::new(bytes));
        let disk = Qcow2::open(memory.clone(), &OpenOptions::default()).unwrap();
        let kept = cluster_size as usize - cut;
        let mut model = vec![0; 8 << 20];
        model[..kept].fill(5);
        assert!(read_vec(&disk, 0, 8 << 20).unwrap() == model, "{cluster_size} {cut}");

        write_all(&disk, &[6; 5000], 4 << 20).unwrap();
        model[4 << 20..(4 << 20) + 5000].fill(6);

        assert!(read_vec(&disk, 0, 8 << 20).unwrap() == model, "{cluster_size} {cut}");
        drop(disk);
        assert_eq!(qemu_check(&memory.bytes()).0, 0, "{cluster_size} {cut}");
    }
}

#[test]
fn image_with_postponed_counts_is_repaired_when_opened_for_writing() {
    let mut bytes = victim(&CreateOptions { size: SIZE, ..CreateOptions::default() });
    put(&mut bytes, 72, &1u64.to_be_bytes());
    let memory = Arc::new(Memory::new(bytes));
    let disk = Qcow2::open(memory.clone(), &OpenOptions::default()).unwrap();
    assert_eq!(read_vec(&disk, 1000, 512).unwrap(), [1; 512]);
    drop(disk);
    assert_eq!(memory.bytes()[72..80], [0; 8]);
}

#[test]
fn tables_without_references_are_not_handed_out() {
    // Version 3 counts with 16 bits: the first block has those of the first clusters.
    let whole = victim(&CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() });
    let word = |at: u64| u64::from_be_bytes(whole[at as usize..at as usize + 8].try_into().unwrap());
    let (l1, reftable, snapshots) = (word(40), word(48), word(64));
    let (l2, block) = (word(l1) & 0x00ff_ffff_ffff_fe00, word(reftable));
    let snapshot_l1 = word(snapshots);
    for (name, table) in [("L2", l2), ("refcounts", block), ("snapshots", snapshots), ("snapshot's L1", snapshot_l1)] {
        let mut bytes = whole.clone();
        put(&mut bytes, (block + table / 4096 * 2) as usize, &[0, 0]);
        let memory = Arc::new(Memory::new(bytes));
        let disk = Qcow2::open(memory.clone(), &OpenOptions::default()).unwrap();

        let wrote: Vec<_> = (0..100).map(|n| write_all(&disk, &[0xee; 4096], n * 4096)).collect();

        let refused: Vec<_> = wrote.iter().filter_map(|wrote| wrote.as_ref().err()).map(ToString::to_string).collect();
        assert!(refused.iter().any(|text| text.contains("Preventing invalid write")), "{name}: {refused:?}");
        drop(disk);
        let now = memory.bytes();
        assert!(now[table as usize..table as usize + 4096] != [0xee; 4096], "{name}");
    }
}

#[test]
fn refcount_table_that_lost_its_first_block_does_not_cost_the_header() {
    let mut bytes = victim(&CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() });
    let reftable = u64::from_be_bytes(bytes[48..56].try_into().unwrap()) as usize;
    put(&mut bytes, reftable, &[0; 8]);
    let head = bytes[..104].to_vec();
    let memory = Arc::new(Memory::new(bytes));
    let disk = Qcow2::open(memory.clone(), &OpenOptions::default()).unwrap();

    let error = write_all(&disk, &[0xee; 4096], 100 * 4096).unwrap_err();

    assert!(error.to_string().contains("overlaps with qcow2_header"), "{error}");
    drop(disk);
    // But for the mark that it is corrupt.
    let now = memory.bytes();
    assert_eq!((&now[..72], &now[80..104]), (&head[..72], &head[80..]));
    let file: Arc<dyn Layer> = memory;
    let repaired = repair(&file, Repair::All).unwrap();
    assert_eq!((repaired.after.corruptions, repaired.after.leaks), (0, 0), "{:?}", repaired.after.messages);
}
