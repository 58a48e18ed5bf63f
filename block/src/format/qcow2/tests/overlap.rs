//! Damaged images whose names lead writes into metadata: nothing is destroyed, and QEMU refuses the same.

use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::ErrorKind;
use crate::format::qcow2::header::{Header, incompatible};
use crate::format::qcow2::{
    BitmapChange, Corruption, CreateOptions, Kind, Kinds, NewBitmap, OpenOptions, Qcow2, Tuning, bitmap, create,
};
use crate::layer::{Fast, FastOp, Layer, read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};
use crate::protocol::memory::Memory;

const CLUSTER: u64 = 4096;
const SIZE: u64 = 4 << 20;
/// A cluster of the first L2 table that nothing was written to; as an entry it is in no small table's used part.
const UNUSED: u64 = 500 * CLUSTER;
const COPIED: u64 = 1 << 63;

fn word(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

/// An image with a snapshot and a bitmap, and where its structures are.
struct Sound {
    bytes: Vec<u8>,
    l1: u64,
    l2: u64,
    places: Vec<(Kind, u64)>,
}

fn sound() -> Sound {
    let memory = Arc::new(Memory::new(Vec::new()));
    let file: Arc<dyn Layer> = memory.clone();
    let options = CreateOptions { size: SIZE, cluster_size: CLUSTER, ..CreateOptions::default() };
    let disk = create(&file, None, &options).unwrap();
    write_all(&disk, &[1; 100_000], 0).unwrap();
    disk.snapshot_create("s", (0, 0)).unwrap();
    write_all(&disk, &[2; 50_000], 0).unwrap();
    disk.change_bitmap("b", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    drop(disk);
    let bytes = memory.bytes();
    let header = Header::read(file.as_ref()).unwrap();
    let table = |l1: u64| word(&bytes, l1) & !COPIED;
    let snapshot_l1 = word(&bytes, header.snapshots_offset);
    let bitmaps = bitmap::directory(file.as_ref(), &header).unwrap().unwrap().0;
    let (l1, l2) = (header.l1_offset, table(header.l1_offset));
    let places = vec![
        (Kind::ActiveL1, l1),
        (Kind::ActiveL2, l2),
        (Kind::CountBlock, word(&bytes, header.reftable_offset)),
        (Kind::CountTable, header.reftable_offset),
        (Kind::SnapshotTable, header.snapshots_offset),
        (Kind::InactiveL1, snapshot_l1),
        (Kind::InactiveL2, table(snapshot_l1)),
        (Kind::BitmapDirectory, bitmaps),
    ];
    Sound { bytes, l1, l2, places }
}

impl Sound {
    fn place(&self, wanted: Kind) -> u64 {
        self.places.iter().find(|(kind, _)| *kind == wanted).unwrap().1
    }

    /// The same with the word at `at` changed.
    fn with(&self, at: u64, value: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        put(&mut bytes, at, value);
        bytes
    }

    /// Asserts that all structures are as they were.
    fn assert_unharmed(&self, damaged: &[u8], now: &[u8], what: &str) {
        for (kind, at) in &self.places {
            let range = *at as usize..(*at + CLUSTER) as usize;
            // An open image counts what it takes; the list of bitmaps says that they are in use.
            if !matches!(kind, Kind::CountBlock | Kind::BitmapDirectory) {
                assert!(now[range.clone()] == damaged[range], "{what}: {kind:?} was overwritten");
            }
        }
        assert_eq!(now[..72], damaged[..72], "{what}");
    }
}

fn open(bytes: &[u8], overlap_check: Kinds) -> (Arc<Memory>, Qcow2) {
    let memory = Arc::new(Memory::new(bytes.to_vec()));
    let tuning = Tuning { overlap_check, ..Tuning::default() };
    let options = OpenOptions { discard: true, tuning, ..OpenOptions::default() };
    let disk = Qcow2::open(memory.clone(), &options).unwrap();
    (memory, disk)
}

fn is_marked(bytes: &[u8]) -> bool {
    word(bytes, 72) & incompatible::CORRUPT != 0
}

/// What qemu-io says of a write at `offset`, and the file after it.
fn qemu_writes(bytes: &[u8], checks: &str, offset: u64) -> (String, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, bytes).unwrap();
    let open = format!("open -o driver=qcow2,overlap-check={checks} {}", path.display());
    let write = format!("write -P 9 {offset} 512");
    let output = Command::new("qemu-io").args(["-c", &open, "-c", &write]).output();
    let output = output.expect("qemu-io (Debian: qemu-utils)");
    (String::from_utf8_lossy(&output.stderr).into_owned(), std::fs::read(&path).unwrap())
}

const TEMPLATES: [(&str, Kinds); 4] =
    [("none", Kinds::NONE), ("constant", Kinds::CONSTANT), ("cached", Kinds::CACHED), ("all", Kinds::ALL)];

#[test]
fn guest_data_that_a_damaged_entry_sends_into_metadata_are_refused_where_qemu_refuses_them() {
    let sound = sound();
    for (kind, target) in &sound.places {
        let damaged = sound.with(sound.l2, COPIED | target);
        for (name, kinds) in TEMPLATES {
            let what = format!("{kind:?}, {name}");
            let (memory, disk) = open(&damaged, kinds);

            let wrote = write_all(&disk, &[9; 512], 0);

            drop(disk);
            let now = memory.bytes();
            let (said, theirs) = qemu_writes(&damaged, name, 0);
            let expected = format!("Preventing invalid write on metadata (overlaps with {})", kind.name());
            assert_eq!(said.contains(&expected), wrote.is_err(), "{what}: {said}");
            assert_eq!(is_marked(&theirs), is_marked(&now), "{what}");
            if let Err(error) = wrote {
                assert!(error.to_string().contains(&expected), "{what}: {error}");
                sound.assert_unharmed(&damaged, &now, &what);
            }
        }
    }
}

#[test]
fn each_structure_can_be_switched_by_itself() {
    let sound = sound();
    for (kind, target) in &sound.places {
        let damaged = sound.with(sound.l2, COPIED | target);
        for (kinds, refused) in [(Kinds::NONE.with(*kind, true), true), (Kinds::ALL.with(*kind, false), false)] {
            let (_, disk) = open(&damaged, kinds);

            let wrote = write_all(&disk, &[9; 512], 0);

            assert_eq!(wrote.is_err(), refused, "{kind:?} {kinds:?}");
        }
    }
}

#[test]
fn table_that_a_damaged_entry_puts_onto_other_metadata_is_not_written() {
    let sound = sound();
    let others = [Kind::ActiveL1, Kind::CountBlock, Kind::CountTable, Kind::SnapshotTable, Kind::InactiveL1];
    for kind in others {
        // The L2 table of the guest's first clusters is said to be there.
        let damaged = sound.with(sound.l1, COPIED | sound.place(kind));
        let (memory, disk) = open(&damaged, Kinds::CACHED);

        let wrote = write_all(&disk, &[9; 512], UNUSED);

        assert!(wrote.is_err(), "{kind:?}");
        drop(disk);
        let now = memory.bytes();
        sound.assert_unharmed(&damaged, &now, &format!("{kind:?}"));
        let (_, theirs) = qemu_writes(&damaged, "cached", UNUSED);
        assert!(is_marked(&now) && is_marked(&theirs), "{kind:?}");
    }
}

#[test]
fn counts_that_are_said_to_lie_in_other_metadata_are_not_written() {
    let sound = sound();
    let table = sound.place(Kind::CountTable);
    for kind in [Kind::ActiveL1, Kind::ActiveL2, Kind::CountTable, Kind::SnapshotTable, Kind::InactiveL1] {
        let damaged = sound.with(table, sound.place(kind));
        let (memory, disk) = open(&damaged, Kinds::CACHED);

        let wrote = write_all(&disk, &[9; 512], UNUSED).and_then(|()| disk.flush());

        assert!(wrote.is_err(), "{kind:?}");
        drop(disk);
        let now = memory.bytes();
        sound.assert_unharmed(&damaged, &now, &format!("{kind:?}"));
        let (_, theirs) = qemu_writes(&damaged, "cached", UNUSED);
        assert!(is_marked(&now) && is_marked(&theirs), "{kind:?}");
    }
}

#[test]
fn damage_is_told_once_and_the_image_is_not_used_any_more() {
    let sound = sound();
    let damaged = sound.with(sound.l2, COPIED | sound.l1);
    let (memory, disk) = open(&damaged, Kinds::CACHED);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    disk.on_corruption(move |corruption| listener.lock().unwrap().push(corruption.clone()));
    write_all(&disk, &[7; 512], UNUSED).unwrap();

    let refused = write_all(&disk, &[9; 512], 512).unwrap_err();

    let message = "Preventing invalid write on metadata (overlaps with active L1 table)".to_owned();
    assert_eq!(*told.lock().unwrap(), [Corruption { message, offset: sound.l1 + 512, size: 512 }]);
    assert_eq!(refused.errno(), libc::EIO);
    let after = [
        write_all(&disk, &[9; 512], 512),
        read_vec(&disk, UNUSED, 512).map(drop),
        disk.flush(),
        disk.discard(0, CLUSTER),
        disk.write_zeroes(0, CLUSTER, true),
        disk.snapshot_create("t", (0, 0)),
    ];
    assert!(after.iter().all(|after| after.as_ref().is_err_and(|e| e.kind() == ErrorKind::NoMedium)), "{after:?}");
    assert_eq!(told.lock().unwrap().len(), 1);
    disk.close().unwrap();
    let at_close = memory.bytes();
    drop(disk);
    assert!(memory.bytes() == at_close);
    sound.assert_unharmed(&damaged, &at_close, "at the end");
    let again = Qcow2::open(memory, &OpenOptions::default()).err().unwrap();
    assert!(again.to_string().contains("Image is corrupt; cannot be opened read/write"), "{again}");
}

#[test]
fn table_that_is_made_while_the_image_is_open_is_looked_after_too() {
    let sound = sound();
    // The next cluster that will be taken, which the counts rightly say is free: the damaged entry counts nothing.
    let free = sound.bytes.len() as u64;
    let damaged = sound.with(sound.l2, COPIED | free);
    let (_, disk) = open(&damaged, Kinds::CACHED);
    // Past the first table.
    write_all(&disk, &[7; 512], 3 << 20).unwrap();

    let wrote = write_all(&disk, &[9; 512], 0);

    assert!(wrote.unwrap_err().to_string().contains("overlaps with active L2 table"));
}

#[test]
fn discard_through_a_damaged_entry_gives_no_metadata_away() {
    let sound = sound();
    let damaged = sound.with(sound.l2, COPIED | sound.l1);
    let (memory, disk) = open(&damaged, Kinds::CACHED);

    let discarded = disk.discard(0, CLUSTER);

    assert!(discarded.unwrap_err().to_string().contains("overlaps with active L1 table"));
    drop(disk);
    sound.assert_unharmed(&damaged, &memory.bytes(), "discard");
}

#[test]
fn fast_path_does_not_write_into_metadata() {
    let sound = sound();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, sound.with(sound.l2, COPIED | sound.l1)).unwrap();
    let file: Arc<dyn Layer> =
        Arc::new(HostFile::open(&path, FileOptions { ring: true, ..FileOptions::default() }).unwrap());
    let disk = Qcow2::open(file, &OpenOptions::default()).unwrap();
    // The list of bitmaps is changed first, and bitmaps are kept up the slow way.
    disk.change_bitmap("b", &BitmapChange::Remove).unwrap();
    write_all(&disk, &[7; 512], CLUSTER).unwrap();

    let (good, bad) = (disk.fast(FastOp::Write, CLUSTER, 512), disk.fast(FastOp::Write, 0, 512));

    assert!(matches!(good, Fast::Direct(_)) && disk.mapped(FastOp::Write, CLUSTER, 512).is_some());
    assert!(matches!(bad, Fast::Slow) && disk.mapped(FastOp::Write, 0, 512).is_none());
}

#[test]
fn snapshots_and_resizes_do_not_take_old_metadata_for_new() {
    for (_, kinds) in TEMPLATES {
        let sound = sound();
        let (memory, disk) = open(&sound.bytes, kinds);
        for round in 0..6 {
            write_all(&disk, &vec![round; 70_000], u64::from(round) * 30_000).unwrap();
            disk.snapshot_create(&format!("t{round}"), (0, 0)).unwrap();
            write_all(&disk, &vec![round + 1; 70_000], 0).unwrap();
            disk.resize(SIZE + (u64::from(round) << 20), crate::layer::Preallocation::Off).unwrap();
            disk.change_bitmap(&format!("b{round}"), &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
            disk.close().unwrap();
            // A disk with bitmaps is not turned back.
            for bitmap in disk.bitmaps().unwrap() {
                disk.change_bitmap(&bitmap.name, &BitmapChange::Remove).unwrap();
            }
            disk.snapshot_apply("s").unwrap();
            write_all(&disk, &vec![round + 2; 200_000], 1_000_000).unwrap();
            if round % 2 == 0 {
                disk.snapshot_delete(&format!("t{round}")).unwrap();
            }
            disk.discard(0, 1 << 20).unwrap();
            disk.flush().unwrap();
        }
        drop(disk);
        assert!(!is_marked(&memory.bytes()));
        assert_eq!(super::rig::qemu_check(&memory.bytes()).0, 0);
    }
}

#[test]
fn checks_that_come_later_know_all_metadata_there_is() {
    let sound = sound();
    for (kind, target) in &sound.places {
        let (memory, disk) = open(&sound.with(sound.l2, COPIED | target), Kinds::NONE);

        disk.retune(&Tuning { overlap_check: Kinds::ALL, ..Tuning::default() }).unwrap();
        let said = write_all(&disk, &[9; 512], 0).unwrap_err().to_string();

        assert!(said.contains(&format!("(overlaps with {})", kind.name())) || *kind == Kind::Header, "{said}");
        drop(disk);
        sound.assert_unharmed(&sound.with(sound.l2, COPIED | target), &memory.bytes(), "later");
    }
}

#[test]
fn table_that_a_snapshot_still_has_is_looked_after_when_the_disk_has_another() {
    let sound = sound();
    let (_memory, disk) = open(&sound.bytes, Kinds::ALL);
    disk.snapshot_create("t", (0, 0)).unwrap();
    let holds = || disk.guard.metadata.find(sound.l2..sound.l2 + 1, Kinds::NONE);
    assert_eq!(holds(), Some(Kind::ActiveL2));

    write_all(&disk, &[3; 512], 0).unwrap();
    (0..3).for_each(|_| disk.flush().unwrap());

    assert_eq!(holds(), Some(Kind::InactiveL2));
    disk.snapshot_delete("t").unwrap();
    assert_eq!(holds(), None);
}
