//! The short way of a queue's requests ([`Layer::mapped`]): it tells where bytes are for as long as they are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::lock;
use super::super::maps::Gate;
use super::crowd::within;
use super::rig::{Dice, Recorder, image, reopen, rounds, write_compressed};
use crate::disk::Disk;
use crate::disk::rig::Guest;
use crate::filter::place::Place;
use crate::filter::policy::{Policy, Rules};
use crate::format::qcow2::{BitmapChange, CreateOptions, NewBitmap, OpenOptions, Qcow2, Tuning, check, create};
use crate::image::Op;
use crate::layer::{FastOp, Layer, Preallocation, read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};
use crate::spec::DetectZeroes;

const CLUSTER: u64 = 4096;
const WRITE: Op = Op::Write { fua: false };

fn small(size: u64) -> CreateOptions {
    CreateOptions { size, cluster_size: CLUSTER, ..CreateOptions::default() }
}

/// Where the first sectors of a cluster may be read, and where they may be overwritten.
fn places(disk: &Qcow2, cluster: u64) -> [Option<u64>; 2] {
    [FastOp::Read, FastOp::Write].map(|op| disk.mapped(op, cluster * CLUSTER, 1024).map(|found| found.offset))
}

fn fill(disk: &Qcow2, cluster: u64, byte: u8) {
    write_all(disk, &[byte; CLUSTER as usize], cluster * CLUSTER).unwrap();
}

/// A disk whose first clusters hold 1.
fn disk() -> (Arc<Recorder>, Qcow2) {
    let (recorder, disk) = image(&small(1 << 20), 0);
    (0..4).for_each(|n| fill(&disk, n, 1));
    drop(disk);
    let disk = reopen(recorder.clone(), 0).unwrap();
    read_vec(&disk, 0, 512).unwrap();
    (recorder, disk)
}

#[test]
fn place_that_is_told_holds_the_bytes() {
    let (recorder, disk) = disk();
    fill(&disk, 2, 7);

    let [Some(read), Some(write)] = places(&disk, 2) else { panic!("a standard cluster has a place") };

    assert_eq!(read, write);
    assert_eq!(recorder.memory.bytes()[read as usize..][..CLUSTER as usize], [7; CLUSTER as usize]);
    let within = disk.mapped(FastOp::Read, 2 * CLUSTER + 512, CLUSTER - 512).map(|found| found.offset);
    assert_eq!(within, Some(read + 512));
    assert!(disk.mapped(FastOp::Read, 2 * CLUSTER + 512, CLUSTER).is_none(), "that ends in another cluster");
}

#[test]
fn no_place_is_remembered_past_what_changes_it() {
    let (_, disk) = disk();
    let [before, first_write] = places(&disk, 1);
    assert!(before.is_some() && first_write.is_none(), "the first write changes the header");
    fill(&disk, 0, 2);
    assert_eq!(places(&disk, 1), [before, before]);

    disk.snapshot_create("s", (0, 0)).unwrap();
    read_vec(&disk, 0, 512).unwrap();
    assert_eq!(places(&disk, 1), [before, None], "the snapshot shares it");
    fill(&disk, 1, 3);
    let [after, copy] = places(&disk, 1);
    assert!(after.is_some() && after == copy && after != before, "a copy of its own");
    disk.snapshot_apply("s").unwrap();
    read_vec(&disk, 0, 512).unwrap();
    assert_eq!(places(&disk, 1), [before, None], "the snapshot's");

    disk.discard(2 * CLUSTER, CLUSTER).unwrap();
    assert_eq!(places(&disk, 2), [None, None]);
    disk.write_zeroes(3 * CLUSTER, CLUSTER, true).unwrap();
    assert_eq!(places(&disk, 3), [None, None]);
    write_compressed(&disk, &[9; CLUSTER as usize], 3 * CLUSTER);
    assert_eq!(places(&disk, 3), [None, None]);

    fill(&disk, 1, 4);
    disk.snapshot_delete("s").unwrap();
    disk.resize(CLUSTER, Preallocation::Off).unwrap();
    disk.resize(1 << 20, Preallocation::Off).unwrap();
    read_vec(&disk, 0, 512).unwrap();
    assert_eq!(places(&disk, 1), [None, None], "cut off, and new");
}

#[test]
fn nothing_is_told_where_another_way_must_be_gone() {
    let (_, disk) = disk();
    fill(&disk, 0, 2);
    let place = places(&disk, 0);
    assert!(place[1].is_some());

    for gate in [Gate::Closing, Gate::Closed] {
        disk.maps_mut().gate = gate;
        assert_eq!(places(&disk, 0), [None, None], "{gate:?}: somebody changes the image as a whole");
    }
    disk.maps_mut().gate = Gate::Open;
    let held = disk.maps_mut();
    assert_eq!(places(&disk, 0), [None, None], "the map is being changed");
    drop(held);
    disk.change_bitmap("b", &BitmapChange::Add(NewBitmap::stored(None))).unwrap();
    assert_eq!(places(&disk, 0), [place[0], None], "a bitmap records writes");
    disk.change_bitmap("b", &BitmapChange::Remove).unwrap();
    assert_eq!(places(&disk, 0), place);
    disk.maps_mut().clear();
    assert_eq!(places(&disk, 0), [None, None], "its slice is not in memory");

    let (_, extended) = image(&CreateOptions { cluster_size: 16384, extended_l2: true, ..small(1 << 20) }, 0);
    fill(&extended, 0, 1);
    assert_eq!(places(&extended, 0), [None, None]);
}

/// What a request is told stays true until it is done with it, whatever others do to the disk meanwhile.
#[test]
fn place_belongs_to_the_request_until_it_has_ended() {
    let (_, disk) = disk();
    fill(&disk, 0, 2);
    let taken_again = |place| {
        disk.flush().unwrap();
        disk.flush().unwrap();
        (16..32).for_each(|n| fill(&disk, n, 5));
        let again = (16..32).any(|n| places(&disk, n)[0] == Some(place));
        disk.discard(16 * CLUSTER, 16 * CLUSTER).unwrap();
        again
    };
    let on_its_way = disk.mapped(FastOp::Write, CLUSTER, 512).unwrap();
    let place = on_its_way.offset;

    disk.discard(CLUSTER, CLUSTER).unwrap();

    assert!(!taken_again(place));
    drop(on_its_way);
    assert!(taken_again(place));
}

#[test]
fn who_changes_the_image_as_a_whole_waits_for_requests_that_were_told_a_place() {
    let (_, disk) = disk();
    fill(&disk, 0, 2);
    let on_its_way = disk.mapped(FastOp::Write, 0, 512).unwrap();
    let made = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            disk.snapshot_create("s", (0, 0)).unwrap();
            made.store(true, Ordering::SeqCst);
        });
        while !lock(&disk.alloc).alone {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!made.load(Ordering::SeqCst));
        assert!(disk.mapped(FastOp::Read, 0, 512).is_none());
        drop(on_its_way);
    });
    assert!(made.into_inner());
}

/// Two files with images that differ in the guest's bytes alone.
fn two_files() -> [tempfile::NamedTempFile; 2] {
    let files = [0u8; 2].map(|_| tempfile::NamedTempFile::new().unwrap());
    for (byte, file) in (1..).zip(&files) {
        let host: Arc<dyn Layer> = Arc::new(HostFile::open(file.path(), FileOptions::default()).unwrap());
        let disk = create(&host, None, &small(1 << 20)).unwrap();
        write_all(&disk, &[byte; 4 * CLUSTER as usize], 0).unwrap();
        disk.close().unwrap();
    }
    files
}

#[test]
fn what_is_beneath_an_image_is_found_anew_after_the_disk_was_held_still() {
    let files = two_files();
    let [first, second] = files.each_ref().map(|file| HostFile::open(file.path(), FileOptions::default()).unwrap());
    let place = Place::on(Arc::new(first));
    let rules = Rules::new(true, DetectZeroes::Off);
    let image = Qcow2::open(Policy::over(place.clone(), rules.clone(), false), &OpenOptions::default()).unwrap();
    let image = Arc::new(image);
    let disk = Disk::new(image.clone(), true);
    let mut guest = Guest::new(&disk, 4, CLUSTER);
    assert_eq!(guest.read(0), [1; CLUSTER as usize]);
    guest.write(0, 1);
    guest.write(1, 1);

    let held = disk.drain();
    image.change_file(|| place.move_to(Arc::new(second))).unwrap();
    rules.set(true, DetectZeroes::Unmap);
    drop(held);

    assert_eq!(guest.read(0), [2; CLUSTER as usize]);
    guest.write(1, 0);
    let blocks = |file: &tempfile::NamedTempFile| {
        let bytes = std::fs::read(file.path()).unwrap();
        let sizes = std::os::unix::fs::MetadataExt::blocks(&file.as_file().metadata().unwrap());
        (bytes.chunks(512).filter(|block| **block == [1; 512]).count(), sizes)
    };
    let [(left, full), (_, with_hole)] = files.each_ref().map(blocks);
    assert_eq!(left, 4 * CLUSTER as usize / 512, "nothing more was written to the first file");
    assert!(with_hole < full, "zeroes are looked for in what goes to the second one");
}

const BLOCK: u64 = 2048;
const BLOCKS: u64 = 384;
const QUEUES: u64 = 3;

/// One queue's part: blocks of its own, next to those of others in the same clusters, and clusters of its own to discard.
fn ride(disk: &Disk, queue: u64, seed: u64, model: &mut [u8]) {
    let mut dice = Dice::new(seed * QUEUES + queue);
    let mut guest = Guest::new(disk, 8, BLOCK);
    for round in 0..rounds(150) {
        let first = dice.roll(BLOCKS / QUEUES);
        let mine = (first..first + 8).map(|n| n % (BLOCKS / QUEUES));
        let mut read = Vec::new();
        for (slot, n) in (0..).zip(mine) {
            let block = n * QUEUES + queue;
            let at = block as usize;
            match dice.roll(8) {
                0..4 => {
                    model[at] = dice.roll(255) as u8 + 1;
                    guest.submit(slot, WRITE, block, model[at]);
                }
                4 => {
                    model[at] = 0;
                    guest.submit(slot, Op::WriteZeroes { unmap: true, fua: false }, block, 0);
                }
                5 => guest.submit(slot, Op::Flush, 0, 0),
                _ => {
                    guest.submit(slot, Op::Read, block, 0xee);
                    read.push((slot, model[at]));
                }
            }
        }
        guest.wait();
        for (slot, byte) in read {
            assert_eq!(guest.content(slot), [byte; BLOCK as usize], "seed {seed}, queue {queue}, round {round}");
        }
    }
}

/// The same disk by several queues of a real file, with requests in flight at once, while others change the image.
fn beside_changes(seed: u64, ring: bool) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = FileOptions { ring, discard: true, ..FileOptions::default() };
    let host: Arc<dyn Layer> = Arc::new(HostFile::open(file.path(), options).unwrap());
    drop(create(&host, None, &small(BLOCKS * BLOCK)).unwrap());
    let image = Arc::new(reopen(host.clone(), 0).unwrap());
    let disk = Disk::new(image.clone(), true);
    let mut models = vec![vec![0; BLOCKS as usize]; QUEUES as usize];
    std::thread::scope(|scope| {
        let disk = &disk;
        let riders = (0..).zip(&mut models).map(|(queue, model)| scope.spawn(move || ride(disk, queue, seed, model)));
        let riders: Vec<_> = riders.collect();
        let mut size = BLOCKS * BLOCK;
        for n in (0..).take_while(|_| riders.iter().any(|rider| !rider.is_finished())) {
            match n % 4 {
                0 => image.snapshot_create("s", (0, 0)).unwrap(),
                1 => {
                    size += CLUSTER;
                    image.resize(size, Preallocation::Off).unwrap();
                }
                2 => image.snapshot_delete("s").unwrap(),
                _ => image.retune(&if n % 8 == 3 { Tuning::default() } else { Tuning::smallest() }).unwrap(),
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });

    drop((disk, image));
    let report = check(&host).unwrap();
    assert!(report.corruptions == 0 && report.leaks == 0, "seed {seed}: {:?}", report.messages);
    let image = reopen(host, 0).unwrap();
    for block in 0..BLOCKS {
        let byte = models[(block % QUEUES) as usize][block as usize];
        let read = read_vec(&image, block * BLOCK, BLOCK as usize).unwrap();
        assert_eq!(read, [byte; BLOCK as usize], "seed {seed}, block {block}");
    }
}

/// Each queue knows what its blocks hold. Nobody waits for ever for somebody who waits for him.
#[test]
fn queues_beside_changes_of_the_whole_image_keep_to_the_model() {
    for (seed, ring) in [(1, false), (2, true)] {
        within(120, move || beside_changes(seed, ring));
    }
}
