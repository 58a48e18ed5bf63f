//! Bitmaps of an image in use.

use super::rig::{image, reopen};
use crate::format::qcow2::{BitmapChange, CreateOptions, NewBitmap};
use crate::layer::{Layer, Preallocation, write_all};

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
fn bitmap_in_memory_goes_on_when_the_image_was_closed_and_leaves_nothing_in_the_file() {
    let (store, disk) = image(&options(), 0);
    let new = NewBitmap { granularity_bits: Some(16), persistent: false, enabled: true };
    disk.change_bitmap("scratch", &BitmapChange::Add(new)).unwrap();
    disk.change_bitmap("kept", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    write_all(disk.as_ref(), &[7; 512], 0).unwrap();
    disk.close().unwrap();
    write_all(disk.as_ref(), &[7; 512], 65536).unwrap();

    let counts: Vec<_> =
        disk.dirty_bitmaps().unwrap().iter().map(|b| (b.name.clone(), b.count, b.persistent)).collect();
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
    let before = disk.dirty_bitmaps().unwrap();

    for change in [BitmapChange::Clear, BitmapChange::Disable] {
        let former = disk.change_bitmap("since", &change).unwrap();
        disk.put_bitmap_back("since", former);
    }
    let former = disk.change_bitmap("new", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    disk.put_bitmap_back("new", former);

    assert_eq!(disk.dirty_bitmaps().unwrap(), before);
}
