//! A LUKS volume, alone and in a qcow2 image: opened without a password and with one, read, written, key slots changed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_block::crypto::{Secret, SlotChange};
use rhea_block::format::luks::LuksDisk;
use rhea_block::format::qcow2::{OpenOptions, Qcow2};
use rhea_block::layer::read_vec;
use rhea_fuzz::{SmallFile, change, look_around};

/// Where a header of version 1 has the iterations of the master key's digest and of the eight key slots (LUKS On-Disk
/// Format 1.2.3, figures 2 and 3).
const ITERATIONS: [usize; 9] = [164, 212, 260, 308, 356, 404, 452, 500, 548];
/// More are only slower.
const MOST: u32 = 4096;

/// Bounds the time that one password takes, wherever the header begins.
fn hurry(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(header) = bytes.windows(6).position(|mark| mark == b"LUKS\xba\xbe") else { return bytes };
    for at in ITERATIONS {
        if let Some(field) = bytes.get_mut(header + at..header + at + 4) {
            let asked = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&(asked.min(MOST)).to_be_bytes());
        }
    }
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = hurry(bytes);
    let password = Secret::new(b"one".to_vec());
    if let Ok(disk) = LuksDisk::open(SmallFile::layer(&bytes), None, true) {
        let _ = read_vec(&disk, 0, 512);
    }
    if let Ok(disk) = LuksDisk::open(SmallFile::layer(&bytes), Some(&password), false) {
        look_around(&disk);
        change(&disk);
        let erase = SlotChange::Erase { slot: Some(0), old: None, force: false };
        let _ = disk.change_slots(&password, &erase);
    }
    let options = OpenOptions { password: Some(password), discard: true, ..OpenOptions::default() };
    if let Ok(disk) = Qcow2::open(SmallFile::layer(&bytes), &options) {
        look_around(&disk);
        change(&disk);
    }
});
