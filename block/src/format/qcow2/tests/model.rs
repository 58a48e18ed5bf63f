//! Random operations on every option mix, beside a plain byte array.

use std::sync::Arc;

use super::rig::{Dice, image, mixes, qemu_check, reopen, rounds, wide_mixes};
use crate::filter::copy_on_read::CopyOnRead;
use crate::format::qcow2::Qcow2;
use crate::layer::{Layer, Preallocation, read_vec, write_all};

const SIZE: u64 = 3 << 20;

/// One random operation on both; false when the operation was a flush.
pub(super) fn step(dice: &mut Dice, image: &Qcow2, model: &mut [u8], unsure: &mut [bool]) {
    let size = model.len() as u64;
    let largest = if dice.roll(4) == 0 { 300_000 } else { 6000 };
    let offset = dice.roll(size);
    let len = (1 + dice.roll(largest)).min(size - offset);
    let range = offset as usize..(offset + len) as usize;
    match dice.roll(20) {
        0..=9 => {
            let bytes = dice.bytes(len as usize);
            write_all(image, &bytes, offset).unwrap();
            model[range.clone()].copy_from_slice(&bytes);
            unsure[range].fill(false);
        }
        10..=12 => {
            image.write_zeroes(offset, len, dice.roll(2) == 0).unwrap();
            model[range.clone()].fill(0);
            unsure[range].fill(false);
        }
        13..=15 => {
            image.discard(offset, len).unwrap();
            unsure[range].fill(true);
        }
        16 => image.flush().unwrap(),
        _ => {
            let read = read_vec(image, offset, len as usize).unwrap();
            compare(&read, &model[range.clone()], &unsure[range], offset);
        }
    }
}

/// Where a discard made the content unsure, zero and what was there before are both right.
pub(super) fn compare(read: &[u8], model: &[u8], unsure: &[bool], offset: u64) {
    for (i, ((read, model), unsure)) in read.iter().zip(model).zip(unsure).enumerate() {
        let right = read == model || (*unsure && *read == 0);
        assert!(right, "byte {:#x} is {read:#x}, should be {model:#x} (unsure: {unsure})", offset + i as u64);
    }
}

fn run(seed: u64, mix: usize, backing: usize) {
    let options = wide_mixes(SIZE).swap_remove(mix);
    let (recorder, mut disk) = image(&options, backing);
    let mut dice = Dice::new(seed);
    let mut model = vec![0u8; SIZE as usize];
    model[..backing].fill(0xbb);
    let mut unsure = vec![false; SIZE as usize];
    if options.preallocation != Preallocation::Off {
        // Preallocated clusters are of this image, so the backing file is hidden.
        model.fill(0);
    }
    for n in 0..150 {
        step(&mut dice, &disk, &mut model, &mut unsure);
        if n % 50 == 49 {
            drop(disk);
            let (code, text) = qemu_check(&recorder.memory.bytes());
            assert_eq!(code, 0, "seed {seed}, mix {options:?}: {text}");
            disk = Arc::new(reopen(recorder.clone(), backing).unwrap());
        }
    }
    let read = read_vec(disk.as_ref(), 0, SIZE as usize).unwrap();
    compare(&read, &model, &unsure, 0);
}

#[test]
fn random_operations_read_back_and_check_clean() {
    for seed in 0..rounds(3) {
        for mix in 0..wide_mixes(SIZE).len() {
            run(seed, mix, 0);
        }
    }
}

#[test]
fn random_operations_over_a_shorter_backing_image_read_back() {
    for seed in 100..100 + rounds(2) {
        for mix in 0..wide_mixes(SIZE).len() {
            run(seed, mix, 1_234_567);
        }
    }
}

#[test]
fn threads_that_write_discard_and_flush_at_once_keep_to_their_own() {
    for (seed, options) in mixes(4 << 20).into_iter().enumerate() {
        let (recorder, disk) = image(&options, 0);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let disk = disk.clone();
                scope.spawn(move || {
                    let mut dice = Dice::new(seed as u64 * 31 + thread);
                    // Interleaved pieces: neighbours share clusters.
                    let mut model = vec![0u8; 64 * 700];
                    for _ in 0..rounds(150) {
                        let n = dice.roll(64);
                        let at = (n * 4 + thread) * 700;
                        let mine = n as usize * 700..(n as usize + 1) * 700;
                        match dice.roll(8) {
                            0 => disk.flush().unwrap(),
                            1 => {
                                disk.write_zeroes(at, 700, true).unwrap();
                                model[mine].fill(0);
                            }
                            2..=4 => {
                                let bytes = dice.bytes(700);
                                write_all(disk.as_ref(), &bytes, at).unwrap();
                                model[mine].copy_from_slice(&bytes);
                            }
                            5 => disk.discard((3 << 20) + dice.roll(64) * 4096, 65536).unwrap(),
                            6 => write_all(disk.as_ref(), &[thread as u8; 5000], (3 << 20) + dice.roll(200) * 4096)
                                .unwrap(),
                            _ => assert_eq!(read_vec(disk.as_ref(), at, 700).unwrap(), model[mine], "{n}"),
                        }
                    }
                });
            }
        });
        drop(disk);
        let (code, text) = qemu_check(&recorder.memory.bytes());
        assert_eq!(code, 0, "{options:?}: {text}");
    }
}

#[test]
fn cleaning_drops_clean_slices_only() {
    let options = mixes(4 << 20).swap_remove(1);
    let (recorder, disk) = image(&options, 0);
    write_all(disk.as_ref(), &[1; 1 << 20], 0).unwrap();
    let _ = disk.clean_now();
    let _ = disk.clean_now();
    disk.flush().unwrap();
    let _ = disk.clean_now();
    let _ = disk.clean_now();
    *recorder.fail_after.lock().unwrap() = Some(0);
    assert!(read_vec(disk.as_ref(), 0, 512).is_err(), "the slice had to be read again");
    assert_eq!(read_vec(disk.as_ref(), 0, 1 << 20).unwrap(), vec![1; 1 << 20]);
}

#[test]
fn what_was_read_through_copy_on_read_outlives_the_backing_image() {
    for options in mixes(1 << 20).into_iter().filter(|o| o.preallocation == Preallocation::Off) {
        let (_, disk) = image(&options, 700_000);
        write_all(disk.as_ref(), &[5; 3000], 50_000).unwrap();
        let top = CopyOnRead::new(disk.clone());
        let before = read_vec(&top, 0, 600_000).unwrap();
        // Zeroes past the backing image need no copy.
        read_vec(&top, 800_000, 4096).unwrap();

        disk.set_backing(None);

        assert!(read_vec(disk.as_ref(), 0, 600_000).unwrap() == before, "{options:?}");
        assert!(before[..50_000].iter().all(|b| *b == 0xbb) && before[50_000..53_000] == [5; 3000]);
    }
}

#[test]
fn copy_on_read_never_undoes_a_write_that_comes_at_the_same_time() {
    let options = mixes(1 << 20).swap_remove(4);
    for _ in 0..rounds(10) {
        let (_, disk) = image(&options, 1 << 20);
        let top = CopyOnRead::new(disk.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| (0..256).for_each(|n| drop(read_vec(&top, n * 4096, 4096).unwrap())));
            scope
                .spawn(|| (0..256u64).rev().for_each(|n| write_all(disk.as_ref(), &[n as u8; 512], n * 4096).unwrap()));
        });
        for n in 0..256u64 {
            let read = read_vec(disk.as_ref(), n * 4096, 4096).unwrap();
            assert!(read[..512] == [n as u8; 512] && read[512..].iter().all(|b| *b == 0xbb), "{n}");
        }
    }
}

#[test]
fn tables_that_were_freed_become_data_like_any_other_cluster() {
    for options in
        mixes(2 << 20).into_iter().filter(|o| o.refcount_bits > 1 && o.version == 3 && o.cluster_size <= 4096)
    {
        let (recorder, disk) = image(&options, 0);
        write_all(disk.as_ref(), &vec![1; 2 << 20], 0).unwrap();
        disk.snapshot_create("s", (0, 0)).unwrap();
        drop(disk);
        let disk = reopen(recorder.clone(), 0).unwrap();
        write_all(&disk, &vec![2; 1 << 20], 0).unwrap();
        disk.resize(1 << 20, Preallocation::Off).unwrap();
        disk.snapshot_delete("s").unwrap();
        drop(disk);
        let disk = reopen(recorder.clone(), 0).unwrap();
        disk.resize(4 << 20, Preallocation::Off).unwrap();
        for round in 3..6 {
            disk.discard(0, 4 << 20).unwrap();
            disk.flush().unwrap();
            write_all(&disk, &vec![round; 4 << 20], 0).unwrap();
            assert!(read_vec(&disk, 0, 4 << 20).unwrap() == vec![round; 4 << 20], "{options:?}");
            disk.resize(1 << 20, Preallocation::Off).unwrap();
            disk.resize(4 << 20, Preallocation::Off).unwrap();
        }
    }
}
