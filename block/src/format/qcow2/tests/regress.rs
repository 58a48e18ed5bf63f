//! One test for each fault that was found by reading or by chance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::super::entry::OFFSET;
use super::super::lock;
use super::super::maps::Gate;
use super::rig::{Recorder, image, qemu_check, reopen};
use crate::ErrorKind;
use crate::format::qcow2::{
    Amend, CheckReport, CreateOptions, OpenOptions, Qcow2, Repair, Tuning, check, create, repair,
};
use crate::haste::in_haste;
use crate::layer::{Layer, Preallocation, read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};
use crate::protocol::memory::Memory;

const CLUSTER: u64 = 4096;

fn small(size: u64) -> CreateOptions {
    CreateOptions { size, cluster_size: CLUSTER, ..CreateOptions::default() }
}

#[test]
fn compressed_cluster_in_the_place_of_one_that_a_snapshot_took_away_is_unpacked_anew() {
    let (_, disk) = image(&small(1 << 20), 0);
    let packed = |byte: u8| disk.pack_cluster(&[byte; CLUSTER as usize]).unwrap().unwrap();
    disk.snapshot_create("empty", (0, 0)).unwrap();
    disk.write_packed(0, &packed(1)).unwrap();
    assert_eq!(read_vec(disk.as_ref(), 0, 512).unwrap(), [1; 512]);

    disk.snapshot_apply("empty").unwrap();
    // The new table and these data take the places before it.
    write_all(disk.as_ref(), &[3; CLUSTER as usize], CLUSTER).unwrap();
    disk.write_packed(0, &packed(2)).unwrap();

    assert_eq!(read_vec(disk.as_ref(), 0, 512).unwrap(), [2; 512]);
}

#[test]
fn reads_beside_snapshots_see_the_disk_before_or_after_and_nothing_else() {
    let (recorder, disk) = image(&small(4 << 20), 0);
    drop(disk);
    let disk = Arc::new(reopen(recorder.clone(), 0).unwrap());
    for n in 0..256u64 {
        write_all(disk.as_ref(), &[n as u8; 512], n * 4 * CLUSTER).unwrap();
    }
    disk.snapshot_create("base", (0, 0)).unwrap();
    recorder.crowded.store(true, Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..3u64 {
            let (disk, stop) = (&disk, &stop);
            scope.spawn(move || {
                for n in (reader..).step_by(7).map(|n| n % 256) {
                    let read = read_vec(disk.as_ref(), n * 4 * CLUSTER, 512).unwrap();
                    assert!(read == [n as u8; 512] || read == [!(n as u8); 512], "{n}: {:x}", read[0]);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for round in 0..30u64 {
            for n in (round % 5..256).step_by(5) {
                write_all(disk.as_ref(), &[!(n as u8); 512], n * 4 * CLUSTER).unwrap();
            }
            let name = format!("round {round}");
            disk.snapshot_create(&name, (0, 0)).unwrap();
            disk.snapshot_apply("base").unwrap();
            disk.snapshot_delete(&name).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Flags that were read at the wrong moment would have sent a write into the snapshot.
    disk.snapshot_apply("base").unwrap();
    for n in 0..256u64 {
        assert_eq!(read_vec(disk.as_ref(), n * 4 * CLUSTER, 512).unwrap(), [n as u8; 512], "{n}");
    }
    drop(disk);
    let (code, text) = qemu_check(&recorder.memory.bytes());
    assert_eq!(code, 0, "{text}");
}

#[test]
fn slice_that_is_looked_up_while_a_snapshot_is_made_shows_that_its_clusters_are_shared() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 512], 0).unwrap();
    let table = disk.maps().l1[0] & OFFSET;
    drop(disk);
    let disk = Arc::new(reopen(recorder.clone(), 0).unwrap());
    let ((go, start), (told, seen), (end, ended)) = (channel(), channel(), channel::<()>());
    // The reader comes just before the table is written without its copied flags, and holds on to what it read.
    let (other, long) = (recorder.clone(), Duration::from_millis(300));
    let hold = move || {
        let _ = told.send(());
        let _ = ended.recv_timeout(2 * long);
    };
    let come = move || {
        *other.after_read.lock().unwrap() = Some((table, Box::new(hold)));
        go.send(()).unwrap();
        let _ = seen.recv_timeout(long);
    };
    *recorder.before_write.lock().unwrap() = Some((table, Box::new(come)));
    std::thread::scope(|scope| {
        let reader = disk.clone();
        scope.spawn(move || {
            start.recv().unwrap();
            assert_eq!(read_vec(reader.as_ref(), 0, 512).unwrap(), [1; 512]);
        });
        disk.snapshot_create("s", (0, 0)).unwrap();
        let _ = end.send(());
    });

    write_all(disk.as_ref(), &[2; 512], 0).unwrap();
    disk.snapshot_apply("s").unwrap();

    assert_eq!(read_vec(disk.as_ref(), 0, 512).unwrap(), [1; 512]);
}

#[test]
fn header_change_that_fails_half_way_ends_all_writing_and_keeps_what_was_flushed() {
    let mut seen = 0;
    for call in 0.. {
        let (recorder, disk) = image(&small(1 << 20), 0);
        write_all(disk.as_ref(), &[1; 20_000], 0).unwrap();
        disk.snapshot_create("one", (0, 0)).unwrap();
        write_all(disk.as_ref(), &[2; 20_000], 0).unwrap();
        disk.flush().unwrap();
        *recorder.fail_after.lock().unwrap() = Some(call);
        let applied = disk.snapshot_apply("one").is_ok();
        if recorder.fail_after.lock().unwrap().take().is_some() {
            break;
        }
        let written = write_all(disk.as_ref(), &[3; 20_000], 40_960).and_then(|()| disk.flush()).is_ok();
        seen += usize::from(!written);
        drop(disk);

        let disk = reopen(recorder.clone(), 0).unwrap();
        let read = read_vec(&disk, 0, 20_000).unwrap();
        assert!(read == [1; 20_000] || (!applied && read == [2; 20_000]), "call {call}: {:x}", read[0]);
        let after = read_vec(&disk, 40_960, 20_000).unwrap();
        assert_eq!(after == [3; 20_000], written, "call {call}");
    }
    assert!(seen > 0, "no failure hit the header");
}

#[test]
fn disk_with_tiny_clusters_grows_to_an_l1_table_longer_than_a_count_blocks_region() {
    for refcount_bits in [16, 64] {
        let options = CreateOptions { size: 1 << 20, cluster_size: 512, refcount_bits, ..CreateOptions::default() };
        let (recorder, disk) = image(&options, 0);
        write_all(disk.as_ref(), &[7; 100_000], 500_000).unwrap();

        disk.resize(4 << 30, Preallocation::Off).unwrap();

        write_all(disk.as_ref(), &[9; 512], (4 << 30) - 512).unwrap();
        assert_eq!(read_vec(disk.as_ref(), 500_000, 100_000).unwrap(), vec![7; 100_000]);
        assert_eq!(read_vec(disk.as_ref(), (4 << 30) - 512, 512).unwrap(), [9; 512]);
        drop(disk);
        let (code, text) = qemu_check(&recorder.memory.bytes());
        assert_eq!(code, 0, "{text}");
    }
}

/// A file on the disk of the build folder, opened for direct I/O; none where the file system has none.
fn direct_file(folder: &tempfile::TempDir) -> Option<HostFile> {
    let path = folder.path().join("direct");
    std::fs::write(&path, []).unwrap();
    HostFile::open(&path, FileOptions { direct: true, ..FileOptions::default() }).ok()
}

#[test]
fn direct_writes_that_end_within_a_unit_cut_off_nothing_behind_them() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let Some(file) = direct_file(&folder) else { return };
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let file = &file;
            // Each writes its own pieces of the growing file; those of the first two end within a unit.
            let len = if thread < 2 { 3000 } else { 4096 };
            scope.spawn(move || {
                for n in 0..300 {
                    write_all(file, &vec![thread as u8 + 1; len], (n * 4 + thread) * 4096).unwrap();
                }
            });
        }
    });
    for piece in 0..1200u64 {
        let (thread, len) = (piece % 4, if piece % 4 < 2 { 3000 } else { 4096 });
        assert_eq!(read_vec(&file, piece * 4096, len).unwrap(), vec![thread as u8 + 1; len], "piece {piece}");
    }
}

#[test]
fn direct_zeroes_stay_beside_writes_to_the_same_unit() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let Some(file) = direct_file(&folder) else { return };
    for _ in 0..50 {
        write_all(&file, &[5; 64 << 10], 0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..16).for_each(|n| write_all(&file, &[6; 100], n * 4096).unwrap()));
            scope.spawn(|| (0..16).for_each(|n| file.write_zeroes(n * 4096 + 100, 300, false).unwrap()));
        });
        for n in 0..16u64 {
            let read = read_vec(&file, n * 4096, 512).unwrap();
            assert!(read[..100] == [6; 100] && read[100..400] == [0; 300] && read[400..] == [5; 112], "{n}");
        }
    }
}

#[test]
fn write_in_haste_to_a_cluster_in_preparation_ends_without_waiting() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 512], 0).unwrap();
    let next = disk.status(0, 512).unwrap().offset.unwrap() + 4096;
    let (told, seen) = channel();
    let other = disk.clone();
    let come = move || told.send(in_haste(|| write_all(other.as_ref(), &[3; 512], 4096 + 512))).unwrap();
    *recorder.before_write.lock().unwrap() = Some((next, Box::new(come)));

    write_all(disk.as_ref(), &[2; 512], 4096).unwrap();

    assert_eq!(seen.recv().unwrap().map_err(|e| e.kind()), Err(ErrorKind::WouldWait));
    assert_eq!(read_vec(disk.as_ref(), 4096, 1024).unwrap(), [[2; 512], [0; 512]].concat());
}

#[test]
fn requests_in_haste_do_not_wait_for_who_is_alone() {
    let (_, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 512], 0).unwrap();
    lock(&disk.alloc).alone = true;
    disk.maps_mut().gate = Gate::Closed;

    let read = in_haste(|| read_vec(disk.as_ref(), 0, 512)).map(drop);
    let write = in_haste(|| write_all(disk.as_ref(), &[3; 512], 8192));

    disk.maps_mut().gate = Gate::Open;
    lock(&disk.alloc).alone = false;
    assert_eq!([read, write].map(|result| result.map_err(|e| e.kind())), [Err(ErrorKind::WouldWait); 2]);
}

#[test]
fn counts_in_memory_stay_within_their_cache_while_those_of_the_whole_file_change() {
    let options = CreateOptions { cluster_size: 512, refcount_bits: 64, ..small(4 << 20) };
    let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
    let disk = create(&file, None, &options).unwrap();
    write_all(&disk, &vec![1; 4 << 20], 0).unwrap();
    drop(disk);
    let tuning = Tuning { refcount_cache_size: Some(8 * 512), ..Tuning::default() };
    let bound = OpenOptions { discard: true, tuning, ..OpenOptions::default() };
    let disk = Qcow2::open(file.clone(), &bound).unwrap();
    let mut most = 0;
    for n in 0..4096u64 {
        // Every second cluster, far from the one before: 128 blocks of 64 counts each.
        disk.discard(n * 1217 % 4096 * 1024, 512).unwrap();
        if n % 64 == 63 {
            disk.flush().unwrap();
        }
        most = most.max(lock(&disk.alloc).counts.held());
    }

    assert!((2..=8).contains(&most), "{most} blocks");
    drop(disk);
    let check = check(&file).unwrap();
    assert_eq!((check.corruptions, check.leaks), (0, 0), "{:?}", check.messages);
}

fn cut(bytes: &[u8], len: u64) -> Arc<dyn Layer> {
    Arc::new(Memory::new(bytes[..len as usize].to_vec()))
}

#[test]
fn what_lies_past_the_end_of_a_file_that_was_cut_off_is_told() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 1 << 20], 0).unwrap();
    disk.close().unwrap();
    let bytes = recorder.memory.bytes();
    let end = bytes.len() as u64;
    assert_eq!(check(&cut(&bytes, end)).unwrap().corruptions, 0);
    // Less than a cluster may be missing at the end.
    assert_eq!(check(&cut(&bytes, end - CLUSTER + 1)).unwrap().corruptions, 0);

    let left = cut(&bytes, end - 10 * CLUSTER);
    let found = check(&left).unwrap();

    assert_eq!((found.corruptions, found.leaks, found.image_end_offset), (10, 0, left.size()));
    let first = format!(
        "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset {:#x} \
         size 0x1000",
        left.size()
    );
    assert_eq!(found.messages[0], first);
    let repaired = repair(&left, Repair::All).unwrap();
    assert_eq!((repaired.after.corruptions, repaired.corruptions_fixed), (10, 0));
    assert_eq!(left.size(), end - 10 * CLUSTER);
}

#[test]
fn wild_entry_hides_neither_the_end_of_the_image_nor_what_can_be_repaired() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 1 << 20], 0).unwrap();
    disk.close().unwrap();
    let file: Arc<dyn Layer> = Arc::new(Memory::new(recorder.memory.bytes()));
    let size = file.size();
    let word = |at: u64| u64::from_be_bytes(read_vec(file.as_ref(), at, 8).unwrap().try_into().unwrap());
    let table = word(word(40)) & OFFSET;
    write_all(file.as_ref(), &(1u64 << 63 | 0xff_0005_0000).to_be_bytes(), table).unwrap();

    let repaired = repair(&file, Repair::All).unwrap();

    assert_eq!(repaired.before.image_end_offset, size);
    assert_eq!((repaired.leaks_fixed, repaired.corruptions_fixed), (1, 1), "{:?}", repaired.before.messages);
    assert_eq!((repaired.after.leaks, repaired.after.corruptions, file.size()), (0, 1, size));
}

#[test]
fn counts_are_not_built_anew_where_an_entry_points() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 1 << 20], 0).unwrap();
    disk.close().unwrap();
    let bytes = recorder.memory.bytes();
    let left = cut(&bytes, bytes.len() as u64 - 10 * CLUSTER);
    // Without a block of counts.
    let counts = u64::from_be_bytes(bytes[48..56].try_into().unwrap());
    write_all(left.as_ref(), &[0; 8], counts).unwrap();
    let size = left.size();

    let told = repair(&left, Repair::All).unwrap_err().to_string();

    assert!(told.contains("behind the end of the file"), "{told}");
    assert_eq!(left.size(), size);
}

#[test]
fn image_cut_within_its_tables_is_read_and_not_written() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 1 << 20], 0).unwrap();
    disk.close().unwrap();
    let bytes = recorder.memory.bytes();
    let open = |read_only| {
        let file = cut(&bytes, 2 * CLUSTER - 100);
        Qcow2::open(file, &OpenOptions { read_only, ..OpenOptions::default() })
    };

    let read = open(true).unwrap();

    assert_eq!(read_vec(&read, 0, 512).unwrap(), [0; 512]);
    assert!(open(false).is_err_and(|e| e.to_string().contains("past end of file")));
    assert!(check(&cut(&bytes, 2 * CLUSTER - 100)).unwrap().corruptions > 0);
}

#[test]
fn raw_data_file_is_the_disk_whoever_wrote_it() {
    for (extended_l2, cluster_size) in [(false, CLUSTER), (true, 16384)] {
        let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
        let data: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
        let data_file = Some(("data".to_owned(), true));
        let options = CreateOptions { data_file, extended_l2, cluster_size, ..small(1 << 20) };
        let disk = create(&file, Some(data.clone()), &options).unwrap();
        write_all(data.as_ref(), &[5; 512], 100 << 10).unwrap();
        assert_eq!(read_vec(&disk, 100 << 10, 512).unwrap(), [5; 512]);
        let all = disk.status(0, 1 << 20).unwrap();
        assert_eq!((all.data, all.zero, all.allocated, all.offset), (true, false, true, Some(0)));

        disk.resize(2 << 20, Preallocation::Off).unwrap();
        write_all(data.as_ref(), &[7; 512], 1500 << 10).unwrap();
        disk.close().unwrap();
        let again = |file: &Arc<dyn Layer>| {
            Qcow2::open(file.clone(), &OpenOptions { data_file: Some(data.clone()), ..OpenOptions::default() }).unwrap()
        };
        assert_eq!(check(&file).unwrap().allocated_clusters, (2 << 20) / cluster_size);

        // As such images were made before: without a map.
        let l1 = u64::from_be_bytes(read_vec(file.as_ref(), 40, 8).unwrap().try_into().unwrap());
        write_all(file.as_ref(), &[0; 8], l1).unwrap();
        let disk = again(&file);
        assert_eq!(read_vec(&disk, 1500 << 10, 512).unwrap(), [7; 512]);
        assert!(!disk.status(1500 << 10, 512).unwrap().zero);
        write_all(&disk, &[9; 512], (100 << 10) + 512).unwrap();
        assert_eq!(read_vec(data.as_ref(), 100 << 10, 512).unwrap(), [5; 512]);
        disk.amend(&Amend { raw_data: Some(false), ..Amend::default() }).unwrap();
        disk.close().unwrap();
        assert_eq!(read_vec(&again(&file), 1500 << 10, 512).unwrap(), [7; 512]);
    }
}

#[test]
fn write_before_a_subcluster_that_is_there_keeps_what_others_write_into_it_meanwhile() {
    const SUB: u64 = 2048;
    let options = CreateOptions { cluster_size: 65536, extended_l2: true, ..small(1 << 20) };
    let (recorder, disk) = image(&options, 0);
    write_all(disk.as_ref(), &[1; SUB as usize], 3 * SUB).unwrap();
    let place = disk.status(3 * SUB, SUB).unwrap().offset.unwrap();
    let ((told, seen), (end, ended)) = (channel(), channel::<()>());
    let long = Duration::from_millis(300);
    // One write has found its place in the subcluster. Before it gets there, the other has read what it needs.
    let (other, second) = (recorder.clone(), disk.clone());
    let come = move || {
        let hold = move || {
            told.send(()).unwrap();
            let _ = ended.recv_timeout(long);
        };
        *other.before_write.lock().unwrap() = Some((place - 3 * SUB, Box::new(hold)));
        std::thread::spawn(move || write_all(second.as_ref(), &[3; 3 * SUB as usize + 512], 0).unwrap());
        seen.recv().unwrap();
    };
    *recorder.before_write.lock().unwrap() = Some((place + 1024, Box::new(come)));

    write_all(disk.as_ref(), &[2; 512], 3 * SUB + 1024).unwrap();
    let _ = end.send(());

    // What is in preparation must have ended.
    while Arc::strong_count(&disk) > 1 {
        std::thread::yield_now();
    }
    let read = read_vec(disk.as_ref(), 0, 4 * SUB as usize).unwrap();
    assert_eq!(read[..3 * SUB as usize + 512], [3; 3 * SUB as usize + 512]);
    assert_eq!(read[3 * SUB as usize + 512..], [[1; 512], [2; 512], [1; 512]].concat());
}

fn check_of(recorder: &Recorder) -> CheckReport {
    let file: Arc<dyn Layer> = Arc::new(Memory::new(recorder.memory.bytes()));
    check(&file).unwrap()
}

#[test]
fn snapshot_operation_that_fails_before_the_header_says_so_leaves_nothing_behind() {
    for apply in [false, true] {
        let (mut undone, mut done) = (0, 0);
        for call in 0.. {
            let (recorder, disk) = image(&small(1 << 20), 0);
            write_all(disk.as_ref(), &[1; 20_000], 0).unwrap();
            disk.snapshot_create("one", (0, 0)).unwrap();
            write_all(disk.as_ref(), &[2; 8_000], 0).unwrap();
            disk.flush().unwrap();
            *recorder.fail_after.lock().unwrap() = Some(call);
            let result = if apply { disk.snapshot_apply("one") } else { disk.snapshot_create("two", (0, 0)) };
            if recorder.fail_after.lock().unwrap().take().is_some() {
                break;
            }
            let lost = disk.flush().is_err();
            drop(disk);

            let disk = reopen(recorder.clone(), 0).unwrap();
            let changed =
                if apply { read_vec(&disk, 0, 1).unwrap() == [1] } else { disk.snapshots().unwrap().len() == 2 };
            let found = check_of(&recorder);
            let flags = found.messages.iter().filter(|told| told.starts_with("ERROR OFLAG_COPIED")).count() as u64;
            let excused = if changed { flags } else { 0 };
            assert_eq!(found.corruptions, excused, "apply {apply}, call {call}: {:?}", found.messages);
            assert!(changed || lost || found.leaks == 0, "apply {apply}, call {call}: {:?}", found.messages);
            assert!(result.is_err() || changed, "apply {apply}, call {call}");
            undone += usize::from(!changed && !lost);
            done += usize::from(changed);
        }
        assert!(undone > 10 && done > 0, "apply {apply}: {undone} undone, {done} done");
    }
}

#[test]
fn flags_fit_the_counts_after_a_snapshot_was_deleted_in_part() {
    let (recorder, disk) = image(&small(4 << 20), 0);
    for span in [0, 2 << 20] {
        write_all(disk.as_ref(), &[1; 20_000], span).unwrap();
    }
    let second = disk.maps().l1[1] & OFFSET;
    disk.snapshot_create("one", (0, 0)).unwrap();
    for span in [0, 2 << 20] {
        write_all(disk.as_ref(), &[2; 512], span).unwrap();
    }
    disk.flush().unwrap();
    *recorder.bad.lock().unwrap() = Some(second..second + 1);

    let deleted = disk.snapshot_delete("one");

    *recorder.bad.lock().unwrap() = None;
    drop(disk);
    let found = check_of(&recorder);
    assert!(deleted.is_err() && found.leaks > 0);
    assert_eq!(found.corruptions, 0, "{:?}", found.messages);
}

#[test]
fn hole_that_cannot_be_punched_costs_the_guest_nothing_and_leaks_nothing() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 1 << 20], 0).unwrap();
    drop(disk);
    recorder.fail_discards.store(true, Ordering::Relaxed);
    let disk = reopen(recorder.clone(), 0).unwrap();

    disk.discard(0, 1 << 19).unwrap();
    disk.flush().unwrap();
    write_all(&disk, &[2; 4096], 0).unwrap();
    disk.flush().unwrap();

    drop(disk);
    let found = check_of(&recorder);
    assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.messages);
}

#[test]
fn growth_without_the_space_it_asks_for_leaves_the_disk_and_the_file_as_they_were() {
    let mut undone = 0;
    for call in 0.. {
        let (recorder, disk) = image(&small(1 << 20), 0);
        write_all(disk.as_ref(), &[1; 20_000], 0).unwrap();
        disk.close().unwrap();
        let former = recorder.size();
        *recorder.fail_after.lock().unwrap() = Some(call);
        let result = disk.resize(7 << 20, Preallocation::Full);
        if recorder.fail_after.lock().unwrap().take().is_some() {
            break;
        }
        let lost = disk.flush().is_err();
        drop(disk);

        let disk = reopen(recorder.clone(), 0).unwrap();
        let found = check_of(&recorder);
        assert_eq!(found.corruptions, 0, "call {call}: {:?}", found.messages);
        assert_eq!(read_vec(&disk, 0, 20_000).unwrap(), [1; 20_000], "call {call}");
        assert!(result.is_err(), "call {call}");
        if !lost {
            // The L1 table has moved.
            let (size, file) = (disk.size(), recorder.size());
            assert!(size == 1 << 20 && file <= former + 2 * CLUSTER, "call {call}: {size}, {former} and {file}");
            assert_eq!(found.leaks, 0, "call {call}: {:?}", found.messages);
            undone += 1;
        }
    }
    assert!(undone > 20, "{undone}");
}

#[test]
fn growth_of_the_map_alone_on_a_full_disk_leaves_the_size_as_it_was() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 20_000], 0).unwrap();
    disk.close().unwrap();
    recorder.most.store(recorder.size() + 20 * CLUSTER, Ordering::Relaxed);

    disk.resize(4 << 30, Preallocation::Metadata).unwrap_err();
    let size = disk.size();
    drop(disk);

    assert_eq!((size, reopen(recorder.clone(), 0).unwrap().size()), (1 << 20, 1 << 20));
    let found = check_of(&recorder);
    assert_eq!(found.corruptions, 0, "{:?}", found.messages);
}

#[test]
fn direct_read_at_the_end_of_a_file_that_grows_meanwhile_succeeds() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let Some(file) = direct_file(&folder) else { return };
    let other = std::fs::OpenOptions::new().write(true).open(folder.path().join("direct")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Both ends lie within a unit.
                [5000, 70_000].into_iter().for_each(|len| other.set_len(len).unwrap());
            }
        });
        let failed = (0..5000).find_map(|_| read_vec(&file, 0, 64 << 10).err());
        stop.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{}", failed.unwrap().sentence());
    });
}

/// The offset of the first L2 table.
fn table_of(recorder: &Recorder) -> u64 {
    let bytes = recorder.memory.bytes();
    let word = |at: u64| u64::from_be_bytes(bytes[at as usize..][..8].try_into().unwrap());
    word(word(40)) & OFFSET
}

#[test]
fn image_of_which_something_cannot_be_read_is_not_repaired() {
    let (recorder, disk) = image(&small(1 << 20), 0);
    write_all(disk.as_ref(), &[1; 20_000], 0).unwrap();
    disk.snapshot_create("one", (0, 0)).unwrap();
    write_all(disk.as_ref(), &[2; 8_000], 0).unwrap();
    drop(disk);
    let before = recorder.memory.bytes();
    let word = |at: usize| u64::from_be_bytes(before[at..at + 8].try_into().unwrap());
    let (snapshots, counts) = (word(64), word(word(48) as usize));
    let file: Arc<dyn Layer> = recorder.clone();
    for place in [snapshots, table_of(&recorder), counts] {
        *recorder.bad.lock().unwrap() = Some(place..place + 1);

        let repaired = [Repair::Leaks, Repair::All].map(|what| repair(&file, what).is_err());
        let amended = reopen(file.clone(), 0)
            .and_then(|disk| disk.amend(&Amend { refcount_bits: Some(8), ..Amend::default() }))
            .is_err();

        *recorder.bad.lock().unwrap() = None;
        assert_eq!((repaired, amended || place == counts), ([true; 2], true), "{place:#x}");
        let found = check(&file).unwrap();
        assert_eq!((found.corruptions, found.leaks), (0, 0), "{place:#x}: {:?}", found.messages);
    }
}

#[test]
fn dirty_image_of_which_something_cannot_be_read_is_not_opened_for_writing() {
    let (recorder, disk) = image(&CreateOptions { lazy_refcounts: true, ..small(1 << 20) }, 0);
    write_all(disk.as_ref(), &[1; 20_000], 0).unwrap();
    disk.flush().unwrap();
    let before = recorder.memory.bytes();
    let killed = Recorder::new(before.clone());
    let table = table_of(&killed);
    *killed.bad.lock().unwrap() = Some(table..table + 1);

    let refused = reopen(killed.clone(), 0).err().expect("it is opened").sentence();

    assert!(refused.starts_with("Could not repair dirty image: "), "{refused}");
    assert!(killed.memory.bytes() == before);
    *killed.bad.lock().unwrap() = None;
    assert_eq!(read_vec(&reopen(killed, 0).unwrap(), 0, 20_000).unwrap(), [1; 20_000]);
}

#[test]
fn clusters_of_entries_with_a_bit_too_many_stay_counted() {
    for (in_l1, bit) in [(true, 1), (false, 1), (false, 56)] {
        let (recorder, disk) = image(&small(1 << 20), 0);
        write_all(disk.as_ref(), &[1; 20_000], 0).unwrap();
        drop(disk);
        let bytes = recorder.memory.bytes();
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap());
        let at = if in_l1 { l1 } else { table_of(&recorder) };
        let word = u64::from_be_bytes(bytes[at as usize..][..8].try_into().unwrap()) | 1 << bit;
        write_all(&recorder.memory, &word.to_be_bytes(), at).unwrap();
        let file: Arc<dyn Layer> = recorder.clone();

        let amended = Qcow2::open(file.clone(), &OpenOptions::default())
            .and_then(|disk| disk.amend(&Amend { refcount_bits: Some(8), ..Amend::default() }));
        let repaired = repair(&file, Repair::Leaks).unwrap();

        assert!(amended.is_err(), "{in_l1}, {bit}");
        let after = (repaired.leaks_fixed, repaired.after.leaks, repaired.after.corruptions);
        assert_eq!(after, (0, 0, 1), "{in_l1}, {bit}: {:?}", repaired.before.messages);
    }
}
