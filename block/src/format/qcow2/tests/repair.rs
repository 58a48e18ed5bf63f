//! Damage that `check -r` puts right, beyond counts that are a little off.

use std::sync::Arc;

use super::super::bitmap;
use super::super::entry::{COPIED, OFFSET};
use super::super::header::Header;
use super::super::rebuild::rebuild;
use super::rig::{Recorder, image, qemu_check};
use crate::format::qcow2::{
    BitmapChange, CreateOptions, NewBitmap, OpenOptions, Qcow2, Repair, Repaired, check, create, repair,
};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::memory::Memory;

const CLUSTER: u64 = 4096;
const SIZE: u64 = 1 << 20;

/// A sound image whose first 300 KiB are of the byte 7.
fn sound(options: CreateOptions) -> Arc<Memory> {
    let (recorder, disk) = image(&CreateOptions { size: SIZE, cluster_size: CLUSTER, ..options }, 0);
    write_all(disk.as_ref(), &[7; 300 << 10], 0).unwrap();
    disk.close().unwrap();
    Arc::new(Memory::new(recorder.memory.bytes()))
}

fn word(file: &Memory, at: u64) -> u64 {
    u64::from_be_bytes(read_vec(file, at, 8).unwrap().try_into().unwrap())
}

fn put(file: &Memory, at: u64, word: u64) {
    write_all(file, &word.to_be_bytes(), at).unwrap();
}

/// QEMU finds nothing wrong.
fn is_sound(file: &Memory) {
    let (code, told) = qemu_check(&file.bytes());
    assert_eq!(code, 0, "{told}");
}

/// Repairs all; the image is sound then, for QEMU too, and has what it had.
fn mended(file: &Arc<Memory>) -> Repaired {
    let layer: Arc<dyn Layer> = file.clone();
    let repaired = repair(&layer, Repair::All).unwrap();
    assert_eq!((repaired.after.corruptions, repaired.after.leaks), (0, 0), "{:?}", repaired.after.messages);
    is_sound(file);
    let disk = Qcow2::open(layer, &OpenOptions::default()).unwrap();
    assert!(read_vec(&disk, 0, 300 << 10).unwrap() == [7; 300 << 10]);
    assert!(read_vec(&disk, 300 << 10, 724 << 10).unwrap() == [0; 724 << 10]);
    repaired
}

#[test]
fn image_without_a_table_of_counts_gets_a_new_one() {
    let file = sound(CreateOptions::default());
    put(&file, 48, 0);
    write_all(file.as_ref(), &[0; 4], 56).unwrap();
    let layer: Arc<dyn Layer> = file.clone();
    let told = Qcow2::open(layer.clone(), &OpenOptions::default()).err().unwrap().to_string();
    assert_eq!(told, "Image does not contain a reference count table");

    let repaired = mended(&file);

    assert_eq!((repaired.corruptions_fixed, repaired.leaks_fixed), (repaired.before.corruptions, 0));
    assert!(repaired.before.messages.contains(&"Rebuilding refcount structure".to_owned()));
}

#[test]
fn block_of_counts_outside_the_file_is_forgotten() {
    let file = sound(CreateOptions::default());
    let table = word(&file, 48);
    for place in [1u64 << 40, 0x7fff_ffff_ffff_f000, 0xffff_ffff_ffff_f000] {
        put(&file, table + 8, place);

        let repaired = mended(&file);

        assert_eq!(repaired.before.messages, ["Repairing refcount block 1 is outside image"], "{place:#x}");
        assert_eq!((repaired.corruptions_fixed, word(&file, table + 8)), (1, 0));
    }
    // The only one: then all counts are lost.
    put(&file, table, 1 << 40);

    let told = mended(&file).before.messages;

    assert_eq!(told[0], "Repairing refcount block 0 is outside image");
    assert!(told.contains(&"Rebuilding refcount structure".to_owned()), "{told:?}");
}

#[test]
fn kept_cluster_of_zeroes_that_cannot_be_where_it_is_said_to_be_is_given_up() {
    let file = sound(CreateOptions::default());
    let table = word(&file, word(&file, 40)) & OFFSET;
    put(&file, table + 8 * 200, 0x2a01);

    let repaired = mended(&file);

    let wrong = "Repairing offset=2a00: Preallocated cluster is not properly aligned; L2 entry corrupted.";
    assert_eq!(repaired.before.messages, [wrong]);
    assert_eq!((repaired.corruptions_fixed, word(&file, table + 8 * 200)), (1, 1));
    // Where data should be, nothing can be done.
    put(&file, table + 8 * 200, 0x2a00 | COPIED);
    let layer: Arc<dyn Layer> = file.clone();
    let left = repair(&layer, Repair::All).unwrap().after;
    assert_eq!(left.messages, ["ERROR offset=2a00: Data cluster is not properly aligned; L2 entry corrupted."]);
}

#[test]
fn misplaced_cluster_of_which_no_subcluster_is_read_is_given_up_and_its_zeroes_stay() {
    let options = CreateOptions { size: SIZE, cluster_size: 16384, extended_l2: true, ..CreateOptions::default() };
    let memory = Arc::new(Memory::new(Vec::new()));
    let file: Arc<dyn Layer> = memory.clone();
    create(&file, None, &options).unwrap().close().unwrap();
    let l2 = file.size().next_multiple_of(16384);
    let l1 = word(&memory, 40);
    put(&memory, l1, l2 | COPIED);
    write_all(file.as_ref(), &vec![0; 16384], l2).unwrap();
    put(&memory, l2, 0x2a00);
    put(&memory, l2 + 8, 5 << 32);

    let repaired = repair(&file, Repair::All).unwrap();

    assert_eq!((repaired.after.corruptions, repaired.after.leaks), (0, 0), "{:?}", repaired.after.messages);
    assert_eq!((word(&memory, l2), word(&memory, l2 + 8)), (0, 5 << 32));
    is_sound(&memory);
}

#[test]
fn table_that_is_something_else_too_is_left_alone() {
    let file = sound(CreateOptions::default());
    // The L1 table names the block of counts as a table of clusters; a count looks like a misplaced cluster of zeroes.
    let block = word(&file, word(&file, 48));
    let l1 = word(&file, 40);
    put(&file, l1 + 8, block | COPIED);
    put(&file, block + 8 * 500, 0x2a01);
    let layer: Arc<dyn Layer> = file.clone();

    repair(&layer, Repair::All).unwrap();

    assert_eq!(word(&file, block + 8 * 500), 0x2a01);
}

#[test]
fn new_counts_take_free_space_before_they_make_the_file_longer() {
    for refcount_bits in [1, 16, 64] {
        let file = sound(CreateOptions { refcount_bits, ..CreateOptions::default() });
        let end = file.size();
        // Room behind the image, as after something was given back.
        file.resize(end + 64 * CLUSTER, crate::layer::Preallocation::Off).unwrap();
        let block = word(&file, word(&file, 48));
        put(&file, block, 0);

        mended(&file);

        assert_eq!(file.size(), end + 64 * CLUSTER, "{refcount_bits} bits");
        assert_eq!(word(&file, 48), end + CLUSTER * blocks_of(&file), "{refcount_bits} bits");
    }
}

/// Blocks that the table of counts names.
fn blocks_of(file: &Memory) -> u64 {
    let table = word(file, 48);
    (0..CLUSTER / 8).filter(|n| word(file, table + n * 8) != 0).count() as u64
}

#[test]
fn counts_of_many_blocks_with_a_table_of_several_clusters_are_written_anew() {
    let options = CreateOptions { size: 16 << 20, cluster_size: 512, refcount_bits: 64, ..CreateOptions::default() };
    let memory = Arc::new(Memory::new(Vec::new()));
    let file: Arc<dyn Layer> = memory.clone();
    let disk = create(&file, None, &options).unwrap();
    write_all(&disk, &vec![3; 9 << 20], 0).unwrap();
    disk.close().unwrap();
    put(&memory, 48, 0);
    write_all(file.as_ref(), &[0; 4], 56).unwrap();

    let repaired = repair(&file, Repair::All).unwrap();

    assert_eq!((repaired.after.corruptions, repaired.after.leaks), (0, 0), "{:?}", repaired.after.messages);
    is_sound(&memory);
    let disk = Qcow2::open(file, &OpenOptions::default()).unwrap();
    assert!(read_vec(&disk, 0, 9 << 20).unwrap().iter().all(|byte| *byte == 3));
    write_all(&disk, &vec![4; 5 << 20], 10 << 20).unwrap();
    disk.close().unwrap();
    is_sound(&memory);
}

#[test]
fn counts_written_anew_beside_a_read_that_fails_once_take_nothing_that_is_named() {
    // All counts, or counts of another width.
    for order in [None, Some(5)] {
        let (mut refused, mut call) = (0u64, 0u64);
        loop {
            let file = Recorder::new(sound(CreateOptions::default()).bytes());
            let layer: Arc<dyn Layer> = file.clone();
            *file.fail_after.lock().unwrap() = Some(call);
            let done = rebuild(layer.as_ref(), order);
            if file.fail_after.lock().unwrap().take().is_some() {
                break;
            }
            refused += u64::from(done.is_err());
            let disk = Qcow2::open(layer, &OpenOptions::default()).unwrap();
            assert!(read_vec(&disk, 0, 300 << 10).unwrap() == [7; 300 << 10], "{order:?}, call {call}");
            is_sound(&Memory::new(file.memory.bytes()));
            call += 1;
        }
        assert!(refused > 8 && call == refused, "{order:?}: {refused} of {call}");
    }
}

/// What the header's cluster has, but for the place and width of counts.
fn beside_counts(file: &Memory) -> Vec<u8> {
    let mut head = read_vec(file, 0, CLUSTER as usize).unwrap();
    head[48..60].fill(0);
    if head[7] == 3 {
        head[96..100].fill(0);
    }
    head
}

#[test]
fn header_of_another_length_keeps_what_it_has_where_counts_are_written_anew() {
    // As QEMU before 5.1 wrote it: 104 bytes, and what follows right behind.
    let short = sound(CreateOptions::default());
    let mut head = read_vec(short.as_ref(), 0, CLUSTER as usize).unwrap();
    head.copy_within(112.., 104);
    head[100..104].copy_from_slice(&104u32.to_be_bytes());
    write_all(short.as_ref(), &head, 0).unwrap();
    // Version 2, with the name of a backing file right behind its 72 bytes.
    let named = sound(CreateOptions { version: 2, ..CreateOptions::default() });
    write_all(named.as_ref(), b"base", 72).unwrap();
    put(&named, 8, 72);
    write_all(named.as_ref(), &4u32.to_be_bytes(), 16).unwrap();
    for file in [short, named] {
        let before = beside_counts(&file);
        let block = word(&file, word(&file, 48));
        put(&file, block, 0);

        let layer: Arc<dyn Layer> = file.clone();
        let repaired = repair(&layer, Repair::All).unwrap();

        assert!(repaired.before.messages.contains(&"Rebuilding refcount structure".to_owned()));
        assert_eq!((repaired.after.corruptions, repaired.after.leaks), (0, 0), "{:?}", repaired.after.messages);
        assert_eq!(beside_counts(&file), before);
    }
}

#[test]
fn bitmap_with_a_table_that_no_disk_needs_is_refused_before_it_is_read() {
    let (recorder, disk) = image(&CreateOptions { size: SIZE, cluster_size: CLUSTER, ..CreateOptions::default() }, 0);
    disk.change_bitmap("b", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    disk.close().unwrap();
    let file = Arc::new(Memory::new(recorder.memory.bytes()));
    let header = Header::read_for_check(file.as_ref()).unwrap();
    let (directory, ..) = bitmap::directory(file.as_ref(), &header).unwrap().unwrap();
    write_all(file.as_ref(), &(1u32 << 18).to_be_bytes(), directory + 8).unwrap();

    let layer: Arc<dyn Layer> = file;
    let told = check(&layer).unwrap().messages;

    assert!(told.iter().any(|line| line.contains("Bitmap 'b' doesn't satisfy the constraints")), "{told:?}");
}

#[test]
fn sound_image_is_told_sound_whatever_was_to_be_repaired() {
    for what in [Repair::Leaks, Repair::All] {
        let file = sound(CreateOptions { lazy_refcounts: true, ..CreateOptions::default() });
        // Dirty and corrupt: bits 0 and 1.
        put(&file, 72, word(&file, 72) | 3);
        let layer: Arc<dyn Layer> = file.clone();

        let repaired = repair(&layer, what).unwrap();

        assert_eq!((repaired.leaks_fixed, repaired.corruptions_fixed, word(&file, 72) & 3), (0, 0, 0), "{what:?}");
        is_sound(&file);
    }
}

#[test]
fn damage_that_is_left_leaves_the_image_corrupt() {
    let file = sound(CreateOptions::default());
    put(&file, 72, word(&file, 72) | 2);
    let l1 = word(&file, 40);
    // A bit that is reserved.
    put(&file, l1, word(&file, l1) | 2);
    let layer: Arc<dyn Layer> = file.clone();

    let repaired = repair(&layer, Repair::Leaks).unwrap();

    assert!(repaired.after.corruptions > 0);
    assert_eq!(word(&file, 72) & 2, 2);
}
