use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::*;
use crate::filter::place::Place;
use crate::filter::policy::{Policy, Rules};
use crate::format::raw::Raw;
use crate::image::{Buffers, Completion, Op, Request};
use crate::layer::read_vec;
use crate::protocol::file::{FileOptions, HostFile};
use crate::protocol::memory::Memory;
use crate::spec::DetectZeroes;
use crate::sys;

/// Guest memory of a test: leaked, so that no reference into it exists while the queue uses it.
fn memory(len: usize, fill: u8) -> *mut u8 {
    vec![fill; len].leak().as_mut_ptr()
}

#[expect(unsafe_code, reason = "test memory is leaked and so outlives everything")]
fn buffers(at: *mut u8, len: usize) -> Buffers {
    // SAFETY: the memory is leaked and only read back after completion.
    unsafe { Buffers::new(vec![libc::iovec { iov_base: at.cast(), iov_len: len }], None) }
}

#[expect(unsafe_code, reason = "test memory is leaked and so outlives everything")]
fn content(at: *mut u8, len: usize) -> Vec<u8> {
    // SAFETY: the memory is leaked and no request is in flight any more.
    unsafe { std::slice::from_raw_parts(at, len) }.to_vec()
}

fn request(tag: u64, op: Op, offset: u64, len: usize, at: *mut u8) -> Request {
    let buffers = if matches!(op, Op::Read | Op::Write { .. }) { buffers(at, len) } else { Buffers::none() };
    Request { tag, op, offset, len: len as u64, buffers }
}

fn wait(queue: &mut dyn ImageQueue, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    queue.kick();
    while done.len() < count {
        match queue.reap() {
            Some(completion) => done.push(completion),
            None => sys::wait_readable(queue.notifier()),
        }
    }
    done.sort_by_key(|c| c.tag);
    done
}

const WRITE: Op = Op::Write { fua: false };

fn file_disk(len: usize, ring: bool) -> (tempfile::NamedTempFile, Disk) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![7; len]).unwrap();
    let layer = HostFile::open(file.path(), FileOptions { ring, ..FileOptions::default() }).unwrap();
    (file, Disk::new(Arc::new(layer), true))
}

/// What a thread that polls relies on: it never looks at the descriptor.
#[test]
fn completions_are_seen_without_the_descriptor() {
    for ring in [true, false] {
        let (_file, disk) = file_disk(1 << 20, ring);
        let mut queue = disk.open_queue(4).unwrap();
        assert!(!queue.is_ready());
        for (n, op) in [Op::Read, WRITE, Op::Flush, Op::Discard].into_iter().enumerate() {
            let len = if op == Op::Flush { 0 } else { 4096 };
            queue.submit(request(n as u64, op, 0, len, memory(4096, 1)));
            queue.kick();
            let began = Instant::now();
            let done = loop {
                if queue.is_ready()
                    && let Some(done) = queue.reap()
                {
                    break done;
                }
                assert!(began.elapsed() < Duration::from_secs(30), "{op:?} with ring {ring}");
            };
            assert_eq!(done.tag, n as u64);
            assert!(queue.reap().is_none() && !queue.is_ready());
        }
    }
}

fn writes_come_back_by_read(ring: bool) {
    let (_file, disk) = file_disk(1 << 20, ring);
    let mut queue = disk.open_queue(4).unwrap();
    for n in 0..16u64 {
        queue.submit(request(n, WRITE, n * 4096, 4096, memory(4096, n as u8)));
    }
    assert!(wait(queue.as_mut(), 16).iter().all(|c| c.result.is_ok()));
    queue.submit(request(99, Op::Flush, 0, 0, std::ptr::null_mut()));
    assert!(wait(queue.as_mut(), 1)[0].result.is_ok());

    let at = memory(16 * 4096, 0xff);
    queue.submit(request(1, Op::Read, 0, 16 * 4096, at));
    wait(queue.as_mut(), 1);

    let expected: Vec<u8> = (0..16u8).flat_map(|n| [n; 4096]).collect();
    assert_eq!(content(at, 16 * 4096), expected);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn writes_beyond_the_depth_come_back_by_read_through_the_ring() {
    writes_come_back_by_read(true);
}

#[test]
fn writes_beyond_the_depth_come_back_by_read_through_threads() {
    writes_come_back_by_read(false);
}

#[test]
fn direct_requests_are_on_their_way_before_the_batch_is_whole() {
    const ALIGN: usize = 4096;
    let (file, other) = file_disk(64 << 10, true);
    drop(other);
    let layer =
        HostFile::open(file.path(), FileOptions { ring: true, direct: true, ..FileOptions::default() }).unwrap();
    let disk = Disk::new(Arc::new(layer), true);
    let mut queue = disk.open_queue(8).unwrap();
    let at = memory(5 * ALIGN, 0);
    let at = at.wrapping_add(at.align_offset(ALIGN));
    for n in 0..4 {
        queue.submit(request(n, Op::Read, n * ALIGN as u64, ALIGN, at.wrapping_add(n as usize * ALIGN)));
    }

    // Nobody has kicked the queue: without that, nothing would ever be readable.
    let notifier = queue.notifier().try_clone_to_owned().unwrap();
    let (told, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sys::wait_readable(notifier.as_fd());
        let _ = told.send(());
    });

    assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok(()));
    assert!(wait(queue.as_mut(), 4).iter().all(|c| c.result.is_ok()));
}

#[test]
fn range_past_the_end_is_einval_and_write_to_read_only_is_erofs() {
    let disk = Disk::new(Arc::new(Memory::read_only(vec![0; 4096])), true);
    let mut queue = disk.open_queue(4).unwrap();
    queue.submit(request(0, Op::Read, 4096, 512, memory(512, 0)));
    queue.submit(request(1, Op::Read, u64::MAX - 100, 512, memory(512, 0)));
    queue.submit(request(2, WRITE, 0, 512, memory(512, 0)));

    let results: Vec<_> = wait(queue.as_mut(), 3).into_iter().map(|c| c.result).collect();

    assert_eq!(results, [Err(libc::EINVAL), Err(libc::EINVAL), Err(libc::EROFS)]);
}

#[test]
fn swap_waits_for_what_is_in_flight_and_later_requests_see_the_new_layer() {
    let (_file, disk) = file_disk(4096, true);
    let other = Disk::new(Arc::new(Memory::new(vec![9; 4096])), true);
    let start = Arc::new(Barrier::new(2));
    let (mine, go) = (disk.clone(), start.clone());
    let reader = std::thread::spawn(move || {
        let mut queue = mine.open_queue(8).unwrap();
        go.wait();
        let at = memory(512, 0);
        let mut seen = Vec::new();
        for n in 0.. {
            queue.submit(request(n, Op::Read, 0, 512, at));
            wait(queue.as_mut(), 1);
            seen.push(content(at, 1)[0]);
            if seen.last() == Some(&9) {
                break;
            }
        }
        seen
    });
    start.wait();
    std::thread::sleep(Duration::from_millis(5));

    disk.swap(other.layer());
    let seen = reader.join().unwrap();

    assert_eq!(seen.iter().filter(|b| **b != 7).count(), 1, "old content until the swap, new content after");
}

/// A queue goes past layers that do nothing to a request, and must see when that is over.
#[test]
fn queue_sees_what_has_changed_beneath_its_disk_while_that_was_held() {
    let files = [1, 2].map(|fill| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[fill; 4096]).unwrap();
        file
    });
    let [first, second] = files.each_ref().map(|file| HostFile::open(file.path(), FileOptions::default()).unwrap());
    let place = Place::on(Arc::new(first));
    let rules = Rules::new(true, DetectZeroes::Off);
    let raw: Arc<dyn Layer> = Arc::new(Raw::new(place.clone(), 0, None).unwrap());
    let disk = Disk::new(Policy::over(raw, rules.clone(), false), true);
    let mut queue = disk.open_queue(4).unwrap();
    let at = memory(4096, 0);
    let read = |queue: &mut dyn ImageQueue| {
        queue.submit(request(0, Op::Read, 0, 4096, at));
        assert_eq!(wait(queue, 1)[0].result, Ok(()));
        content(at, 4096)[0]
    };
    let before = read(queue.as_mut());

    let held = disk.drain();
    place.move_to(Arc::new(second));
    rules.set(true, DetectZeroes::Unmap);
    drop(held);
    let after = read(queue.as_mut());
    queue.submit(request(1, WRITE, 0, 4096, memory(4096, 0)));
    wait(queue.as_mut(), 1);

    assert_eq!((before, after), (1, 2));
    let blocks = files.map(|file| file.as_file().metadata().unwrap().blocks() > 0);
    assert_eq!(blocks, [true, false], "zeroes are looked for in what goes to the second file alone");
}

#[test]
fn disk_that_was_ended_carries_out_neither_what_waits_nor_what_comes() {
    for ring in [true, false] {
        let (file, disk) = file_disk(1 << 20, ring);
        let mut queue = disk.open_queue(4).unwrap();
        let held = disk.drain();
        queue.submit(request(0, WRITE, 0, 4096, memory(4096, 1)));
        held.end();
        let waited = wait(queue.as_mut(), 1);
        queue.submit(request(1, Op::WriteZeroes { unmap: true, fua: false }, 0, 4096, memory(1, 0)));
        let came = wait(queue.as_mut(), 1);
        assert_eq!((waited[0].result, came[0].result), (Err(libc::ENOMEDIUM), Err(libc::ENOMEDIUM)));
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![7; 1 << 20]);
    }
}

#[test]
fn dropping_a_queue_waits_for_its_requests() {
    let (file, disk) = file_disk(1 << 20, true);
    let mut queue = disk.open_queue(64).unwrap();
    for n in 0..64u64 {
        queue.submit(request(n, WRITE, n * 4096, 4096, memory(4096, 3)));
    }
    drop(queue);

    let layer = HostFile::open(file.path(), FileOptions { lock: None, ..FileOptions::default() }).unwrap();
    assert_eq!(read_vec(&layer, 0, 64 * 4096).unwrap(), vec![3; 64 * 4096]);
}

#[test]
fn resize_tells_listeners_the_new_size() {
    let disk = Disk::new(Arc::new(Memory::new(vec![0; 4096])), true);
    let (send, receive) = std::sync::mpsc::channel();
    disk.on_change(Box::new(move |info| send.send(info.size).unwrap()));

    disk.resize(8192).unwrap();

    assert_eq!(receive.try_recv(), Ok(8192));
}

/// Many requests at once on one qcow2 image; each place of the disk has one request at a time, so the outcome is known.
fn random_requests_on_qcow2(ring: bool) {
    use crate::format::qcow2::{CreateOptions, create};
    const PLACES: u64 = 48;
    const LEN: usize = 3 * 1024;
    let file = tempfile::NamedTempFile::new().unwrap();
    let layer: Arc<dyn Layer> =
        Arc::new(HostFile::open(file.path(), FileOptions { ring, ..FileOptions::default() }).unwrap());
    let options = CreateOptions { size: 4 << 20, cluster_size: 4096, ..CreateOptions::default() };
    let disk = Disk::new(Arc::new(create(&layer, None, &options).unwrap()), true);
    let mut queue = disk.open_queue(32).unwrap();
    let places: Vec<*mut u8> = (0..PLACES).map(|_| memory(LEN, 0)).collect();
    let mut model = vec![0u8; PLACES as usize];
    let mut doing: Vec<Option<(Op, u8)>> = vec![None; PLACES as usize];
    let mut seed = 12_345u64;
    let mut roll = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (mut sent, mut done) = (0, 0);
    while done < 6000 {
        while sent < 6000 && doing.iter().filter(|d| d.is_some()).count() < 40 {
            let place = roll(PLACES) as usize;
            if doing[place].is_some() {
                continue;
            }
            let fill = roll(255) as u8 + 1;
            let op = match roll(8) {
                0..=2 => WRITE,
                3 => Op::WriteZeroes { unmap: true, fua: false },
                4 if sent % 7 == 0 => Op::Flush,
                _ => Op::Read,
            };
            if op == WRITE {
                let bytes = vec![fill; LEN];
                crate::mem::Sink::buffers(&buffers(places[place], LEN)).copy_from(&bytes);
            }
            let len = if op == Op::Flush { 0 } else { LEN };
            queue.submit(request(place as u64, op, place as u64 * LEN as u64, len, places[place]));
            doing[place] = Some((op, fill));
            sent += 1;
        }
        queue.kick();
        let Some(completion) = queue.reap() else {
            sys::wait_readable(queue.notifier());
            continue;
        };
        completion.result.unwrap();
        let place = completion.tag as usize;
        match doing[place].take().unwrap() {
            (Op::Write { .. }, fill) => model[place] = fill,
            (Op::WriteZeroes { .. }, _) => model[place] = 0,
            (Op::Read, _) => assert_eq!(content(places[place], LEN), vec![model[place]; LEN], "place {place}"),
            _ => {}
        }
        done += 1;
    }
    drop(queue);
    disk.layer().close().unwrap();
    drop(disk);
    let check = crate::format::qcow2::check(&layer).unwrap();
    assert_eq!((check.corruptions, check.leaks), (0, 0), "{:?}", check.messages);
}

#[test]
fn random_requests_on_qcow2_through_the_ring_read_back() {
    random_requests_on_qcow2(true);
}

#[test]
fn random_requests_on_qcow2_through_threads_read_back() {
    random_requests_on_qcow2(false);
}

#[test]
fn snapshot_under_io_keeps_what_was_written_before_it() {
    use crate::format::qcow2::{CreateOptions, Qcow2, create};
    let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
    let options = CreateOptions { size: 1 << 20, cluster_size: 4096, ..CreateOptions::default() };
    let image = Arc::new(create(&file, None, &options).unwrap());
    let disk = Disk::new(image.clone(), true);
    crate::layer::write_all(image.as_ref(), &[1; 65536], 0).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (mine, halt) = (disk.clone(), stop.clone());
    let writer = std::thread::spawn(move || {
        let mut queue = mine.open_queue(8).unwrap();
        let at = memory(4096, 2);
        let mut n = 0;
        while !halt.load(Ordering::SeqCst) {
            queue.submit(request(n, WRITE, (1 << 19) + n % 100 * 4096, 4096, at));
            assert!(wait(queue.as_mut(), 1)[0].result.is_ok());
            n += 1;
        }
    });
    for n in 0..10 {
        image.snapshot_create(&format!("s{n}"), (0, 0)).unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    image.snapshot_apply("s0").unwrap();
    let first: &Qcow2 = &image;
    assert_eq!(read_vec(first, 0, 65536).unwrap(), vec![1; 65536]);
    image.close().unwrap();
    let check = crate::format::qcow2::check(&file).unwrap();
    assert_eq!((check.corruptions, check.leaks), (0, 0), "{:?}", check.messages);
}

/// The queue's thread does writes itself while its own reads, which only it can take from the ring, are in flight: were
/// it to wait for the snapshot, the snapshot would wait for those reads.
#[test]
fn snapshots_and_a_queue_that_does_requests_itself_do_not_wait_for_each_other() {
    use crate::format::qcow2::{CreateOptions, create};
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = FileOptions { ring: true, ..FileOptions::default() };
    let layer: Arc<dyn Layer> = Arc::new(HostFile::open(file.path(), options).unwrap());
    let options = CreateOptions { size: 4 << 20, cluster_size: 4096, ..CreateOptions::default() };
    let image = Arc::new(create(&layer, None, &options).unwrap());
    crate::layer::write_all(image.as_ref(), &[1; 1 << 20], 0).unwrap();
    let disk = Disk::new(image.clone(), true);
    let (end, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for n in 0..30 {
            image.snapshot_create(&format!("s{n}"), (0, 0)).unwrap();
            let id = image.snapshots().unwrap()[0].id.clone();
            image.snapshot_delete(&id).unwrap();
        }
        end.send(()).unwrap();
    });
    let mut queue = disk.open_queue(16).unwrap();
    let at = memory(16 * 4096, 2);
    let mut sent = 0u64;
    let began = Instant::now();

    while ended.try_recv().is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "the snapshots do not end");
        for slot in 0..16 {
            let op = if slot % 2 == 0 { Op::Read } else { WRITE };
            let place = at.wrapping_add(slot * 4096);
            queue.submit(request(slot as u64, op, sent * 7 % 1024 * 4096, 4096, place));
            sent += 1;
        }
        assert!(wait(queue.as_mut(), 16).iter().all(|c| c.result.is_ok()));
    }

    drop(queue);
    disk.layer().close().unwrap();
    let check = crate::format::qcow2::check(&layer).unwrap();
    assert_eq!((check.corruptions, check.leaks), (0, 0), "{:?}", check.messages);
}

/// Keeps 16 writes in flight on places of its own until `stop`; gives what each place holds then.
fn write_many(disk: &Disk, first: u64, places: u64, stop: &AtomicBool) -> Vec<u8> {
    const LEN: usize = 3000;
    let mut queue = disk.open_queue(16).unwrap();
    let buffers_of: Vec<*mut u8> = (0..places).map(|_| memory(LEN, 0)).collect();
    let (mut model, mut busy, mut number) = (vec![0u8; places as usize], vec![false; places as usize], 0u64);
    loop {
        let ending = stop.load(Ordering::SeqCst);
        while !ending && busy.iter().filter(|busy| **busy).count() < 16 {
            number += 1;
            let place = (number * 7 % places) as usize;
            if busy[place] {
                continue;
            }
            let fill = 1 + (number % 251) as u8;
            crate::mem::Sink::buffers(&buffers(buffers_of[place], LEN)).copy_from(&[fill; LEN]);
            let offset = (first + place as u64) * LEN as u64;
            queue.submit(request(place as u64, WRITE, offset, LEN, buffers_of[place]));
            (model[place], busy[place]) = (fill, true);
        }
        queue.kick();
        match queue.reap() {
            Some(completion) => {
                completion.result.unwrap();
                busy[completion.tag as usize] = false;
            }
            None if ending && queue.in_flight() == 0 => return model.iter().flat_map(|fill| [*fill; LEN]).collect(),
            None => sys::wait_readable(queue.notifier()),
        }
    }
}

#[test]
fn overlays_put_above_while_many_requests_are_in_flight_get_all_later_writes() {
    use crate::format::qcow2::{CreateOptions, create};
    const PLACES: u64 = 60;
    let image = |below: Option<Arc<dyn Layer>>| {
        let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
        let options = CreateOptions { size: 1 << 20, cluster_size: 4096, ..CreateOptions::default() };
        let image = create(&file, None, &options).unwrap();
        image.set_backing(below);
        Arc::new(image)
    };
    let disk = Disk::new(image(None), true);
    let stop = AtomicBool::new(false);
    let mut left = Vec::new();
    let written = std::thread::scope(|scope| {
        let writers = [0, PLACES].map(|first| {
            let (disk, stop) = (&disk, &stop);
            scope.spawn(move || write_many(disk, first, PLACES, stop))
        });
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(3));
            let below = disk.layer();
            disk.swap(image(Some(below.clone())));
            left.push((read_vec(below.as_ref(), 0, 1 << 20).unwrap(), below));
        }
        std::thread::sleep(Duration::from_millis(3));
        stop.store(true, Ordering::SeqCst);
        writers.map(|writer| writer.join().unwrap()).concat()
    });

    assert!(read_vec(disk.layer().as_ref(), 0, written.len()).unwrap() == written);
    for (n, (then, below)) in left.iter().enumerate() {
        assert!(read_vec(below.as_ref(), 0, 1 << 20).unwrap() == *then, "image {n} was written to after the swap");
    }
}

#[test]
fn request_without_a_queue_waits_while_the_disk_is_held_and_is_waited_for() {
    let disk = Disk::new(Arc::new(Memory::new(vec![0; 4096])), true);
    let (let_go, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let held = disk.drain();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            disk.perform(|_| {
                assert!(let_go.load(Ordering::SeqCst), "the disk is held");
                let holder = scope.spawn(|| {
                    let _held = disk.drain();
                    assert!(ended.load(Ordering::SeqCst), "a request is under way");
                });
                while disk.shared.held.load(Ordering::SeqCst) == 0 && !holder.is_finished() {
                    std::thread::yield_now();
                }
                ended.store(true, Ordering::SeqCst);
            });
        });
        let_go.store(true, Ordering::SeqCst);
        drop(held);
    });
}
