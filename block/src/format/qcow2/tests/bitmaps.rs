//! Bitmaps of an image in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::rig::{Recorder, image, reopen};
use crate::format::qcow2::bitmap::BitmapEntry;
use crate::format::qcow2::bitmap_change::encode;
use crate::format::qcow2::{BitmapChange, Bits, CreateOptions, NewBitmap, OpenOptions, Qcow2, Repair, check, repair};
use crate::layer::{Layer, Preallocation, write_all};
use crate::protocol::memory::Memory;

fn options() -> CreateOptions {
    CreateOptions { size: 1 << 20, ..CreateOptions::default() }
}

#[test]
fn what_is_written_where_a_disk_grew_is_marked() {
    let (store, disk) = image(&options(), 0);
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();

    disk.resize(2 << 20, Preallocation::Off).unwrap();
    write_all(disk.as_ref(), &[7; 512], 3 << 19).unwrap();
    disk.close().unwrap();
    drop(disk);

    let bits = reopen(store, 0).unwrap().bitmap_bits("since").unwrap();
    let mut runs = bits.runs(0..2 << 20);
    assert_eq!((runs.next(), runs.next()), (Some(3 << 19..(3 << 19) + 65536), None));
}

#[test]
fn runs_end_within_a_bit_where_the_range_does() {
    let bits = Bits { granularity_bits: 17, size: 3 << 17, bytes: vec![0b110] };
    let (bit, half) = (1u64 << 17, 1u64 << 16);

    let runs = |range| bits.runs(range).take(3).map(|run| (run.start, run.end)).collect::<Vec<_>>();

    assert_eq!(runs(bit..bit + half), [(bit, bit + half)]);
    assert_eq!(runs(bit + half..2 * bit + half), [(bit + half, 2 * bit + half)]);
    assert_eq!(runs(0..8 * bit), [(bit, 3 * bit)]);
    assert_eq!(runs(3 * bit - half..4 * bit), [(3 * bit - half, 3 * bit)]);
    assert_eq!(runs(bit..bit), []);
}

#[test]
fn bits_in_the_hands_of_a_job_are_stored_when_it_does_not_end() {
    let (store, disk) = image(&options(), 0);
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    disk.take_bitmap("since", true).unwrap();
    write_all(disk.as_ref(), &[7; 512], 65536).unwrap();

    let refused = disk.change_bitmap("since", &BitmapChange::Clear).map(drop).unwrap_err();
    disk.close().unwrap();
    drop(disk);

    assert!(refused.to_string().contains("in use by another operation"), "{refused}");
    assert_eq!(reopen(store, 0).unwrap().bitmap_bits("since").unwrap().count(), 2);
}

#[test]
fn bitmap_that_only_the_file_has_is_nobody_elses_in_somebodys_hands() {
    let (store, disk) = image(&options(), 0);
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    disk.close().unwrap();
    drop(disk);
    let disk = reopen(store, 0).unwrap();

    let bits = disk.take_bitmap("since", false).unwrap();
    let busy = |disk: &Qcow2| disk.dirty_bitmaps().iter().map(|bitmap| bitmap.busy).collect::<Vec<_>>();
    let before = (busy(&disk), disk.take_bitmap("since", false).is_err(), disk.check_bitmap("since").is_err());
    let refused = disk.change_bitmap("since", &BitmapChange::Clear).map(drop).unwrap_err();
    // By now it is in memory; and only in the file again.
    let loaded = busy(&disk);
    disk.close().unwrap();
    let closed = busy(&disk);
    disk.give_bitmap_back("since", None);

    assert_eq!((bits.count(), before), (1, (vec![true], true, true)));
    assert!(refused.to_string().contains("in use by another operation"), "{refused}");
    assert_eq!((loaded, closed, busy(&disk)), (vec![true], vec![true], vec![false]));
    assert!(disk.change_bitmap("since", &BitmapChange::Clear).is_ok());
}

#[test]
fn bitmap_in_memory_goes_on_when_the_image_was_closed_and_leaves_nothing_in_the_file() {
    let (store, disk) = image(&options(), 0);
    let new = NewBitmap { granularity_bits: Some(16), persistent: false, enabled: true };
    disk.change_bitmap("scratch", &BitmapChange::Add(new)).unwrap();
    disk.change_bitmap("kept", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    disk.close().unwrap();
    write_all(disk.as_ref(), &[7; 512], 65536).unwrap();

    let counts: Vec<_> = disk.dirty_bitmaps().iter().map(|b| (b.name.clone(), b.count, b.persistent)).collect();
    disk.close().unwrap();
    drop(disk);

    assert_eq!(counts, [("scratch".to_owned(), 2 << 16, false), ("kept".to_owned(), 2 << 16, true)]);
    assert_eq!(reopen(store, 0).unwrap().bitmaps().unwrap().len(), 1);
}

#[test]
fn change_of_a_bitmap_that_is_taken_back_leaves_it_as_it_was() {
    let (_, disk) = image(&options(), 0);
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    let before = disk.dirty_bitmaps();

    for change in [BitmapChange::Clear, BitmapChange::Disable] {
        let former = disk.change_bitmap("since", &change).unwrap();
        disk.put_bitmap_back("since", former);
    }
    let former = disk.change_bitmap("new", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    disk.put_bitmap_back("new", former);

    assert_eq!(disk.dirty_bitmaps(), before);
}

#[test]
fn bits_recorded_since_a_change_stay_when_that_is_taken_back() {
    let (_, disk) = image(&options(), 0);
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(Some(16)))).unwrap();
    let mut more = disk.bitmap_bits("since").unwrap();
    more.set(5 << 16, 7 << 16);
    for (n, change) in (0u64..).zip([BitmapChange::Merge(more), BitmapChange::Disable, BitmapChange::Clear]) {
        let first = disk.change_bitmap("since", &change).unwrap();
        let second = disk.change_bitmap("since", &BitmapChange::Clear).unwrap();
        // In the place of what was merged, too.
        write_all(disk.as_ref(), &[7; 512], (5 + n) << 16).unwrap();
        disk.put_bitmap_back("since", second);
        disk.put_bitmap_back("since", first);
        assert_eq!(disk.bitmap_bits("since").unwrap().count(), n + 1, "{change:?}");
    }
    // One that did not record does not come to.
    disk.change_bitmap("since", &BitmapChange::Disable).unwrap();
    let former = disk.change_bitmap("since", &BitmapChange::Enable).unwrap();
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    disk.put_bitmap_back("since", former);
    assert_eq!(disk.bitmap_bits("since").unwrap().count(), 3);
}

#[test]
fn bitmaps_of_two_granularities_are_joined_in_the_finer_one() {
    let bits = |granularity_bits, bytes| Bits { granularity_bits, size: 16 << 16, bytes };
    let (fine, coarse) = (bits(16, vec![1, 0]), bits(18, vec![0b1000]));
    let both = bits(16, vec![1, 0xf0]);
    assert_eq!(fine.clone().join(coarse.clone()), both);
    assert_eq!(coarse.join(fine), both);
}

/// An image of `size` bytes with `count` stored bitmaps, each with its first bit set.
fn with_bitmaps(size: u64, count: usize) -> Arc<Recorder> {
    let (store, disk) = image(&CreateOptions { size, ..CreateOptions::default() }, 0);
    for n in 0..count {
        disk.change_bitmap(&format!("bitmap-{n}"), &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    }
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    disk.close().unwrap();
    store
}

/// Changes the entries of the directory, not their lengths.
fn patch_entries(store: &Recorder, change: impl Fn(&mut BitmapEntry)) {
    let entries = Qcow2::open(Arc::new(Memory::new(store.memory.bytes())), &OpenOptions::default());
    for mut entry in entries.unwrap().bitmaps().unwrap() {
        let old = encode(&entry);
        change(&mut entry);
        let bytes = store.memory.bytes();
        let at = bytes.windows(old.len()).rposition(|bytes| bytes == old).unwrap();
        write_all(&store.memory, &encode(&entry), at as u64).unwrap();
    }
}

#[test]
fn stored_bitmaps_are_counted_once_with_three_reads_each_at_most() {
    const COUNT: u64 = 100;
    let store = with_bitmaps(1 << 20, COUNT as usize);
    let disk = reopen(store.clone(), 0).unwrap();
    *store.fail_after.lock().unwrap() = Some(1 + 3 * COUNT);

    let first = disk.dirty_bitmaps();
    store.fail_one_in.store(1, Ordering::Relaxed);
    let again = disk.dirty_bitmaps();

    assert_eq!(
        first.iter().map(|bitmap| (bitmap.count, bitmap.inconsistent)).collect::<Vec<_>>(),
        [(65536, None); 100]
    );
    assert_eq!(first, again);
}

#[test]
fn counts_follow_what_is_written_and_stored() {
    let store = with_bitmaps(1 << 20, 1);
    let disk = reopen(store, 0).unwrap();
    let count = || disk.dirty_bitmaps()[0].count >> 16;

    let before = count();
    write_all(&disk, &[7; 512], 3 << 16).unwrap();
    let written = count();
    disk.close().unwrap();
    let stored = count();
    write_all(&disk, &[7; 512], 5 << 16).unwrap();
    disk.close().unwrap();

    assert_eq!((before, written, stored, count()), (1, 2, 2, 3));
}

#[test]
fn no_more_bits_are_counted_than_would_be_kept_in_memory() {
    // 256 MiB of bits each.
    let store = with_bitmaps(1 << 40, 3);
    patch_entries(&store, |entry| (entry.granularity_bits, entry.table_size) = (9, 4096));
    let disk = reopen(store, 0).unwrap();

    let inconsistent: Vec<_> = disk.dirty_bitmaps().iter().map(|bitmap| bitmap.inconsistent).collect();

    assert_eq!(inconsistent, [None, None, Some(true)]);
}

#[test]
fn impossible_granularity_is_told_and_counts_for_nothing() {
    let store = with_bitmaps(1 << 20, 1);
    patch_entries(&store, |entry| entry.granularity_bits = 200);
    let disk = reopen(store, 0).unwrap();

    assert_eq!(disk.dirty_bitmaps(), []);
    assert!(disk.bitmaps().unwrap_err().to_string().contains("granularity 2^200"));
}

#[test]
fn bitmap_that_was_not_stored_after_its_last_use_is_not_switched_on_or_off() {
    let (store, disk) = image(&options(), 0);
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    disk.close().unwrap();
    drop(disk);
    let disk = reopen(store.clone(), 0).unwrap();
    write_all(&disk, &[7; 512], 0).unwrap();
    // The process is killed here: the bitmap is marked as in use, and its bits are lost.
    let disk = reopen(store, 0).unwrap();

    let refusals = [BitmapChange::Enable, BitmapChange::Disable, BitmapChange::Clear]
        .map(|change| disk.change_bitmap("since", &change).map(drop).unwrap_err().to_string());

    assert_eq!(refusals, ["Bitmap 'since' is inconsistent and cannot be used"; 3]);
}

#[test]
fn first_write_that_fails_and_is_done_again_leaves_no_old_bits_that_count() {
    for call in 0.. {
        let store = with_bitmaps(1 << 20, 1);
        // A feature of another program, which a write ends.
        write_all(&store.memory, &[0x21], 95).unwrap();
        let disk = reopen(store.clone(), 0).unwrap();
        *store.fail_after.lock().unwrap() = Some(call);
        let failed = write_all(&disk, &[8; 512], 3 << 16).is_err();
        if store.fail_after.lock().unwrap().take().is_some() {
            assert!(call > 5);
            break;
        }
        write_all(&disk, &[8; 512], 3 << 16).unwrap();
        disk.flush().unwrap();

        let killed = Qcow2::open(Arc::new(Memory::new(store.memory.bytes())), &OpenOptions::default()).unwrap();
        assert_eq!(store.memory.bytes()[95], 1, "call {call}");
        assert!(failed && killed.bitmaps().unwrap()[0].in_use, "call {call}");
        disk.close().unwrap();
        assert_eq!(disk.bitmap_bits("bitmap-0").unwrap().count(), 2, "call {call}");
    }
}

#[test]
fn first_write_that_fails_leaves_the_bitmaps_in_the_file_as_they_were() {
    for call in 0.. {
        let store = with_bitmaps(1 << 20, 1);
        let disk = reopen(store.clone(), 0).unwrap();
        *store.fail_after.lock().unwrap() = Some(call);
        let done = write_all(&disk, &[8; 512], 3 << 16).is_ok();
        if store.fail_after.lock().unwrap().take().is_some() {
            break;
        }
        drop(disk);

        let bits = reopen(store, 0).unwrap().bitmap_bits("bitmap-0");
        assert!(!done && bits.is_ok_and(|bits| bits.count() >= 1), "call {call}");
    }
}

#[test]
fn disk_with_bitmaps_is_not_turned_back() {
    let (_, disk) = image(&options(), 0);
    disk.snapshot_create("s", (0, 0)).unwrap();
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    let apply = || disk.snapshot_apply("s").map_err(|e| e.to_string());

    let loaded = apply();
    disk.close().unwrap();
    let stored = apply();
    disk.change_bitmap("since", &BitmapChange::Remove).unwrap();

    let refused = Err("Device has active dirty bitmaps".to_owned());
    assert_eq!((loaded, stored, apply()), (refused.clone(), refused, Ok(())));
}

#[test]
fn bitmaps_of_an_image_that_another_program_wrote_to_are_nobodys() {
    let store = with_bitmaps(1 << 20, 1);
    write_all(&store.memory, &[0], 95).unwrap();
    let file: Arc<dyn Layer> = store.clone();
    let disk = reopen(store.clone(), 0).unwrap();
    assert_eq!((disk.bitmaps().unwrap(), disk.dirty_bitmaps()), (Vec::new(), Vec::new()));
    drop(disk);

    // Directory, table and bits, as QEMU has it.
    assert_eq!(check(&file).unwrap().leaks, 3);
    assert_eq!(repair(&file, Repair::Leaks).unwrap().leaks_fixed, 3);
    let disk = reopen(store, 0).unwrap();
    write_all(&disk, &[9; 1 << 20], 0).unwrap();
    disk.close().unwrap();
    let found = check(&file).unwrap();
    assert_eq!((found.leaks, found.corruptions), (0, 0), "{:?}", found.messages);
}

#[test]
fn bits_past_the_end_of_the_disk_are_none() {
    let (_, disk) = image(&CreateOptions { size: 512 << 10, ..CreateOptions::default() }, 0);
    disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(Some(16)))).unwrap();
    write_all(disk.as_ref(), &[7; 512], 448 << 10).unwrap();
    disk.resize(320 << 10, Preallocation::Off).unwrap();
    disk.resize(512 << 10, Preallocation::Off).unwrap();
    assert_eq!(disk.bitmap_bits("since").unwrap().count(), 0);

    // All ones, as another program may have it.
    let store = with_bitmaps(320 << 10, 1);
    let table = reopen(store.clone(), 0).unwrap().bitmaps().unwrap()[0].table_offset;
    write_all(&store.memory, &1u64.to_be_bytes(), table).unwrap();
    let disk = reopen(store, 0).unwrap();
    assert_eq!((disk.bitmap_bits("bitmap-0").unwrap().count(), disk.dirty_bitmaps()[0].count), (5, 5 << 16));
}

#[test]
fn bitmaps_of_disks_of_different_sizes_are_not_merged() {
    let [(_, small), (_, large)] = [1 << 20, 2 << 20].map(|size| image(&CreateOptions { size, ..options() }, 0));
    for disk in [&small, &large] {
        disk.change_bitmap("since", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    }
    write_all(large.as_ref(), &[7; 512], 3 << 19).unwrap();

    let more = BitmapChange::Merge(large.bitmap_bits("since").unwrap());
    let told = small.change_bitmap("since", &more).map(drop).unwrap_err().to_string();

    let sizes = "(destination size is 1048576, source size is 2097152)";
    assert_eq!(told, format!("Bitmaps are of different sizes {sizes} and can't be merged"));
    small.resize(2 << 20, Preallocation::Off).unwrap();
    small.change_bitmap("since", &more).unwrap();
    assert_eq!(small.bitmap_bits("since").unwrap().count(), 1);
}
