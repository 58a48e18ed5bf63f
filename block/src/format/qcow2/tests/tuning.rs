//! An open image that is changed in how it caches, counts and checks: nothing that was written is lost by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::header::{Header, incompatible};
use super::super::lock;
use super::rig::{Recorder, image, qemu_check};
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, Tuning, check};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::memory::Memory;

const MIB: u64 = 1 << 20;

/// One of each way to cache, on clusters of 4 KiB.
fn ways() -> [Tuning; 5] {
    let default = Tuning::default();
    [
        Tuning::smallest(),
        default.clone(),
        Tuning { lazy_refcounts: Some(true), l2_cache_entry_size: Some(1024), ..default.clone() },
        Tuning { l2_cache_size: Some(64 << 10), clean_interval: Some(1), ..default.clone() },
        Tuning { cache_size: Some(MIB), overlap_check: crate::format::qcow2::Kinds::ALL, ..default },
    ]
}

fn layout() -> CreateOptions {
    CreateOptions { size: 64 * MIB, cluster_size: 4096, ..CreateOptions::default() }
}

/// Whether a file says that its counts may be old, and whether some are missing.
fn counts(bytes: Vec<u8>) -> (bool, bool) {
    let file: Arc<dyn Layer> = Arc::new(Memory::new(bytes));
    let header = Header::read(file.as_ref()).unwrap();
    (header.incompatible & incompatible::DIRTY != 0, check(&file).unwrap().corruptions > 0)
}

#[test]
fn nothing_is_lost_when_caches_change_while_others_write() {
    for extended_l2 in [false, true] {
        let cluster_size = if extended_l2 { 16384 } else { 4096 };
        let (recorder, disk) = image(&CreateOptions { extended_l2, cluster_size, ..layout() }, 0);
        recorder.crowded.store(true, Ordering::Relaxed);
        let done = AtomicBool::new(false);
        // Each of four has every fourth place, all over the map.
        let place = |who: u64, n: u64| (n % 97 * 4 + who) * 160 * 1024;
        let bytes = |who: u64, n: u64| vec![(n * 4 + who) as u8 | 1; 5000];

        let written: Vec<u64> = std::thread::scope(|scope| {
            let write = |who: u64| {
                let (disk, done) = (&disk, &done);
                scope.spawn(move || {
                    let mut n = 0;
                    while !done.load(Ordering::Relaxed) || n < 97 {
                        write_all(disk.as_ref(), &bytes(who, n), place(who, n)).unwrap();
                        assert_eq!(read_vec(disk.as_ref(), place(who, n), 5000).unwrap(), bytes(who, n));
                        n += 1;
                    }
                    n
                })
            };
            let writers: Vec<_> = (0..4).map(write).collect();
            for n in 0..60 {
                disk.retune(&ways()[n % 5]).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            done.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        drop(disk);

        let bytes_now = recorder.memory.bytes();
        let again = Qcow2::open(Arc::new(Memory::new(bytes_now.clone())), &OpenOptions::default()).unwrap();
        for (who, written) in written.into_iter().enumerate() {
            for n in written - 97..written {
                let (at, expected) = (place(who as u64, n), bytes(who as u64, n));
                assert_eq!(read_vec(&again, at, 5000).unwrap(), expected, "{who} {n} {extended_l2}");
            }
        }
        assert_eq!(qemu_check(&bytes_now).0, 0);
    }
}

#[test]
fn caches_keep_to_their_new_bounds() {
    let (_, disk) = image(&CreateOptions { cluster_size: 512, ..layout() }, 0);
    // Each goes to clusters that none has been in.
    let walk = |pass: u64| {
        let held = (0..2048).map(|n| {
            write_all(disk.as_ref(), &[7; 512], (n * 64 + pass) * 512).unwrap();
            (disk.maps().held(), lock(&disk.alloc).counts.held())
        });
        held.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1))).unwrap()
    };

    let free = walk(0);
    disk.retune(&Tuning { l2_cache_size: Some(64 * 512), ..Tuning::smallest() }).unwrap();
    let emptied = (disk.maps().held(), lock(&disk.alloc).counts.held());
    let bound = walk(1);
    disk.retune(&Tuning { refcount_cache_size: Some(MIB), ..Tuning::default() }).unwrap();
    let again = walk(2);

    assert_eq!(emptied, (0, 0));
    // While dirty slices are written, others may come; half of them is when that begins.
    assert!(bound.0 <= 64 && bound.1 <= 4, "{bound:?}");
    assert!(free.0 == 2048 && again.0 == 2048 && again.1 > 4, "{free:?} {again:?}");
}

#[test]
fn counts_are_postponed_and_caught_up_with() {
    let (recorder, disk) = image(&layout(), 0);
    let state = |n: u64| {
        write_all(disk.as_ref(), &[7; 4096], n * MIB).unwrap();
        disk.flush().unwrap();
        counts(recorder.memory.bytes())
    };
    let lazy = |on: bool| disk.retune(&Tuning { lazy_refcounts: Some(on), ..Tuning::default() }).unwrap();

    let at_first = state(0);
    lazy(true);
    let postponed = state(1);
    lazy(false);
    let caught_up = counts(recorder.memory.bytes());
    let after = state(2);

    assert_eq!([at_first, postponed, caught_up, after], [(false, false), (true, true), (false, false), (false, false)]);
}

#[test]
fn all_is_as_it_was_where_a_change_fails() {
    for on in [true, false] {
        // Fails at each call in turn, until none of them fails any more.
        for after in 0.. {
            let (recorder, disk) = image(&layout(), 0);
            disk.retune(&Tuning { lazy_refcounts: Some(!on), ..Tuning::default() }).unwrap();
            write_all(disk.as_ref(), &[7; 4096], MIB).unwrap();
            *recorder.fail_after.lock().unwrap() = Some(after);

            let result = disk.retune(&Tuning { lazy_refcounts: Some(on), ..Tuning::smallest() });
            *recorder.fail_after.lock().unwrap() = None;
            // After a header that may say either, nothing is written any more.
            let _ = write_all(disk.as_ref(), &[8; 4096], 2 * MIB).and_then(|()| disk.flush());
            let killed = recorder.memory.bytes();
            let lazy = lock(&disk.alloc).lazy;

            assert_eq!(lazy, if result.is_ok() { on } else { !on }, "{on} {after}");
            let again = Qcow2::open(Recorder::new(killed.clone()), &OpenOptions::default()).unwrap();
            assert!(result.is_err() || read_vec(&again, MIB, 4096).unwrap() == [7; 4096]);
            drop(again);
            assert!(matches!(counts(killed), (true, _) | (false, false)), "{on} {after}");
            if result.is_ok() {
                assert!(after > 2, "{after} calls can fail");
                break;
            }
        }
    }
}

#[test]
fn wishes_that_contradict_the_image_change_nothing() {
    let (_, disk) = image(&CreateOptions { version: 2, ..layout() }, 0);
    let refused = |tuning: Tuning| disk.retune(&tuning).unwrap_err().to_string();

    let said = [
        refused(Tuning { lazy_refcounts: Some(true), ..Tuning::default() }),
        refused(Tuning { l2_cache_entry_size: Some(8192), ..Tuning::default() }),
        refused(Tuning { cache_size: Some(1), l2_cache_size: Some(2), ..Tuning::default() }),
        refused(Tuning { clean_interval: Some(1 << 32), ..Tuning::default() }),
    ];

    assert_eq!(
        said,
        [
            "Lazy refcounts require a qcow2 image with at least qcow2 version 3 (compat=1.1)",
            "L2 cache entry size must be a power of two between 512 and the cluster size (4096)",
            "l2-cache-size may not exceed cache-size",
            "Cache clean interval too big",
        ]
    );
}

#[test]
fn time_between_cleanings_changes_also_from_never() {
    let (_, disk) = image(&layout(), 0);
    Qcow2::clean(&disk, &Tuning { clean_interval: Some(0), ..Tuning::default() }).unwrap();

    disk.retune(&Tuning { clean_interval: Some(7), ..Tuning::default() }).unwrap();
    let seven = disk.clean_every(1).unwrap();
    write_all(disk.as_ref(), &[7; 4096], MIB).unwrap();
    disk.close().unwrap();
    let held = disk.maps().held();
    let start = std::time::Instant::now();
    while disk.maps().held() > 0 && start.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    assert_eq!((seven, held, disk.maps().held()), (7, 1, 0));
}
