//! A qcow2 image: opened, read, checked, written to, snapshot, resized, repaired.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_block::format::qcow2::{OpenOptions, Qcow2, Repair, check, repair};
use rhea_block::layer::{Layer, Preallocation};
use rhea_fuzz::{SmallFile, change, look_around};

fuzz_target!(|bytes: &[u8]| {
    let _ = check(&SmallFile::layer(bytes));
    if let Ok(disk) = Qcow2::open(SmallFile::layer(bytes), &OpenOptions { read_only: true, ..OpenOptions::default() }) {
        look_around(&disk);
        let _ = disk.snapshots();
        let _ = disk.bitmaps();
    }
    if let Ok(disk) = Qcow2::open(SmallFile::layer(bytes), &OpenOptions { discard: true, ..OpenOptions::default() }) {
        change(&disk);
        let _ = disk.snapshot_create("fuzz", (0, 0));
        change(&disk);
        let _ = disk.snapshot_apply("1");
        let _ = disk.snapshot_delete("1");
        let _ = disk.resize(1 << 20, Preallocation::Off);
        look_around(&disk);
    }
    let file = SmallFile::layer(bytes);
    if repair(&file, Repair::All).is_ok_and(|repaired| repaired.after.check_errors == 0) {
        let _ = check(&file);
    }
});
