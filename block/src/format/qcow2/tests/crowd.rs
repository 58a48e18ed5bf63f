//! Many requests at once, as a guest with several queues sends them: kills and power cuts between any two changes of
//! the files, failing calls, and all operations of the engine beside each other.
//!
//! The disk is seen in blocks of 512 bytes. Every write fills its blocks with a number of its own, so that what a block
//! holds says which write put it there, and a block that holds another block's number shows two names of one cluster.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::time::Duration;

use super::rig::{Dice, Event, Recorder, apply, mixes, qemu_check, rounds};
use crate::BlockError;
use crate::format::qcow2::{CreateOptions, OpenOptions, Qcow2, Tuning, check, create};
use crate::layer::{Layer, Preallocation, read_vec, write_all};
use crate::protocol::memory::Memory;

const BLOCK: u64 = 512;
const BACKING: u64 = 0xbbbb_bbbb_bbbb_bbbb;
/// Blocks of the backing image, where there is one.
const BACKED: u64 = 80;

/// An image's files and how it is opened.
struct Stage {
    options: CreateOptions,
    backed: bool,
    external: bool,
}

impl Stage {
    /// What the recorders of an image file and an external data file make of it.
    fn open(&self, file: Arc<dyn Layer>, data: Arc<dyn Layer>) -> Result<Qcow2, BlockError> {
        let small = OpenOptions {
            discard: true,
            discard_other: true,
            tuning: Tuning::smallest(),
            data_file: self.external.then_some(data),
            ..OpenOptions::default()
        };
        let disk = Qcow2::open(file, &small)?;
        if self.backed {
            let backing = Memory::read_only(vec![0xbb; (BACKED * BLOCK) as usize]);
            disk.set_backing(Some(Arc::new(backing)));
        }
        Ok(disk)
    }

    fn make(&self) -> (Arc<Recorder>, Arc<Recorder>) {
        let file = Recorder::new(Vec::new());
        let data = Recorder::numbered(Vec::new(), 1, file.events.clone());
        let layer: Arc<dyn Layer> = file.clone();
        let outside: Option<Arc<dyn Layer>> = if self.external { Some(data.clone()) } else { None };
        drop(create(&layer, outside, &self.options).unwrap());
        file.events.lock().unwrap().clear();
        (file, data)
    }

    fn first(&self, block: u64) -> u64 {
        if self.backed && block < BACKED { BACKING } else { 0 }
    }
}

/// Every mix of options, plain, over a backing image, and with the data in another file.
fn stages(size: u64) -> Vec<Stage> {
    let mut stages = Vec::new();
    // Of these, several blocks lie in one subcluster.
    let large = CreateOptions { size, cluster_size: 65536, extended_l2: true, ..CreateOptions::default() };
    for options in mixes(size).into_iter().chain([large]).filter(|o| o.cluster_size <= 65536) {
        let plain = options.preallocation == Preallocation::Off;
        stages.push(Stage { options: options.clone(), backed: false, external: false });
        if plain {
            stages.push(Stage { options: options.clone(), backed: true, external: false });
        }
        if plain && options.version == 3 && options.cluster_size >= 4096 {
            let options = CreateOptions { data_file: Some(("data".into(), false)), ..options };
            stages.push(Stage { options, backed: false, external: true });
        }
    }
    stages
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Write,
    Packed,
    Zero,
    Discard,
    Flush,
    Snapshot,
}

/// One operation of the guest. `start` and `end` count the changes of the files by then, `began` and `ended` are times
/// of a clock that shows each time once.
#[derive(Debug, Clone)]
struct Op {
    kind: Kind,
    blocks: Range<u64>,
    number: u64,
    start: usize,
    end: usize,
    began: u64,
    ended: u64,
    done: bool,
}

impl Op {
    /// What it puts into its blocks.
    fn value(&self) -> u64 {
        if matches!(self.kind, Kind::Write | Kind::Packed) { self.number } else { 0 }
    }

    /// Whether its blocks held nothing else when it had ended.
    fn certain(&self) -> bool {
        self.done && matches!(self.kind, Kind::Write | Kind::Packed | Kind::Zero)
    }
}

fn fill(blocks: &Range<u64>, number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(((blocks.end - blocks.start) * BLOCK / 8) as usize)
}

fn perform(disk: &Qcow2, op: &Op) -> Result<(), BlockError> {
    let (offset, len) = (op.blocks.start * BLOCK, (op.blocks.end - op.blocks.start) * BLOCK);
    match op.kind {
        Kind::Write => write_all(disk, &fill(&op.blocks, op.number), offset),
        Kind::Packed => match disk.pack_cluster(&fill(&op.blocks, op.number))? {
            Some(packed) => disk.write_packed(offset, &packed),
            None => write_all(disk, &fill(&op.blocks, op.number), offset),
        },
        Kind::Zero => disk.write_zeroes(offset, len, op.number.is_multiple_of(2)),
        Kind::Discard => disk.discard(offset, len),
        Kind::Flush => disk.flush(),
        Kind::Snapshot => match disk.snapshots()?.first() {
            Some(old) => disk.snapshot_delete(&old.id),
            None => disk.snapshot_create("s", (0, 0)),
        },
    }
}

fn random_op(dice: &mut Dice, stage: &Stage, number: u64) -> Op {
    let all = stage.options.size / BLOCK;
    // Often the same few clusters: that is where requests meet.
    let start = if dice.roll(2) == 0 { dice.roll(all.min(24)) } else { dice.roll(all) };
    let most = if dice.roll(3) == 0 { 40 } else { 6 };
    let mut blocks = start..(start + 1 + dice.roll(most)).min(all);
    let kind = match dice.roll(16) {
        0..=6 => Kind::Write,
        7 if !stage.external => {
            let cluster = stage.options.cluster_size / BLOCK;
            let first = start / cluster * cluster;
            blocks = first..first + cluster;
            if blocks.end <= all { Kind::Packed } else { Kind::Flush }
        }
        7 | 8 => Kind::Zero,
        9..=11 => Kind::Discard,
        12 if !stage.external => Kind::Snapshot,
        _ => Kind::Flush,
    };
    Op { kind, blocks, number, start: 0, end: usize::MAX, began: 0, ended: u64::MAX, done: false }
}

/// Runs `work` elsewhere and fails if it does not end: a hang must not look like a slow test.
pub(super) fn within<T: Send + 'static>(seconds: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = send.send(work());
    });
    match receive.recv_timeout(Duration::from_secs(seconds)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still not done after {seconds} s"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the result was sent or the thread panicked"),
        },
    }
}

/// Sends random operations from several threads; gives all that were sent.
fn crowd(stage: &Stage, disk: &Qcow2, file: &Recorder, seed: u64, each: u64) -> Vec<Op> {
    let ops = Mutex::new(Vec::new());
    let clock = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (ops, clock) = (&ops, &clock);
            scope.spawn(move || {
                let mut dice = Dice::new(seed * 4 + thread);
                for n in 0..each {
                    let mut op = random_op(&mut dice, stage, 1 + thread + n * 4);
                    op.start = file.events.lock().unwrap().len();
                    op.began = clock.fetch_add(1, Ordering::SeqCst);
                    op.done = perform(disk, &op).is_ok();
                    op.ended = clock.fetch_add(1, Ordering::SeqCst);
                    op.end = file.events.lock().unwrap().len();
                    ops.lock().unwrap().push(op);
                }
            });
        }
    });
    ops.into_inner().unwrap()
}

/// The values that a block may hold after a crash before change `at`, where what ended before `durable` is certain.
fn allowed(stage: &Stage, ops: &[Op], block: u64, at: usize, durable: u64) -> Vec<u64> {
    let mut of_block: Vec<&Op> = ops.iter().filter(|op| op.blocks.contains(&block) && op.start <= at).collect();
    of_block.retain(|op| !matches!(op.kind, Kind::Flush | Kind::Snapshot));
    let gone = |ended: u64| of_block.iter().any(|op| op.certain() && op.ended < durable && op.began > ended);
    let mut values: Vec<u64> = of_block.iter().filter(|op| !gone(op.ended)).map(|op| op.value()).collect();
    if !gone(0) {
        values.push(stage.first(block));
    }
    values
}

/// What the blocks of a disk hold; every block must be of one piece.
fn values_of(disk: &dyn Layer, blocks: u64, what: &str) -> Vec<u64> {
    let bytes = read_vec(disk, 0, (blocks * BLOCK) as usize).unwrap_or_else(|e| panic!("{what}: {e}"));
    let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>();
    let whole = |(n, block): (usize, &[u64])| {
        assert!(block.iter().all(|word| *word == block[0]), "{what}: block {n} holds pieces of several: {block:x?}");
        block[0]
    };
    words.chunks(BLOCK as usize / 8).enumerate().map(whole).collect()
}

/// Leaks only. A kill while a snapshot is made or deleted may leave counts that are high, so the copied flag of an entry
/// does not fit its count; the entry itself is right, and a repair of leaks settles it.
fn assert_sound(file: Vec<u8>, snapshots: bool, with_qemu: bool, what: &str) {
    let dirty = file.len() > 80 && file[79] & 1 != 0;
    if dirty {
        return;
    }
    if with_qemu && !snapshots {
        let (code, text) = qemu_check(&file);
        assert!(code == 0 || code == 3, "{what}: qemu-img check says {code}: {text}");
    }
    let file: Arc<dyn Layer> = Arc::new(Memory::new(file));
    let report = check(&file).unwrap_or_else(|e| panic!("{what}: {e}"));
    let flags = report.messages.iter().filter(|m| m.starts_with("ERROR OFLAG_COPIED")).count() as u64;
    let excused = if snapshots { flags } else { 0 };
    assert!(report.corruptions == excused && report.check_errors == 0, "{what}: {:?}", report.messages);
}

/// Opens what a crash left, compares it, and goes on with it.
fn examine(stage: &Stage, files: [Vec<u8>; 2], ops: &[Op], at: usize, with_qemu: bool, what: &str) {
    let [file, data] = files;
    let snapshots = ops.iter().any(|op| op.kind == Kind::Snapshot);
    // QEMU would look for the data file by its name.
    assert_sound(file.clone(), snapshots, with_qemu && !stage.external, what);
    let disk = stage.open(Arc::new(Memory::new(file)), Arc::new(Memory::new(data)));
    let disk = disk.unwrap_or_else(|e| panic!("{what}: {e}"));
    let flushes = ops.iter().filter(|op| op.kind == Kind::Flush && op.done && op.end <= at);
    let durable = flushes.map(|op| op.began).max().unwrap_or(0);
    for (block, value) in (0..).zip(values_of(&disk, stage.options.size / BLOCK, what)) {
        let allowed = allowed(stage, ops, block, at, durable);
        assert!(allowed.contains(&value), "{what}: block {block} holds {value:x}, allowed {allowed:x?}\n{ops:#?}");
    }
    write_all(&disk, &[0x77; 5000], 1000).unwrap();
    disk.flush().unwrap();
}

/// Crashes before every so-many-th change: a kill, and power cuts that lose some of what was not synced.
fn crash_in_the_crowd(seed: u64, stage: &Stage) {
    let (file, data) = stage.make();
    let before = [file.memory.bytes(), data.memory.bytes()];
    let disk = stage.open(file.clone(), data.clone()).unwrap();
    file.crowded.store(true, Ordering::Relaxed);
    data.crowded.store(true, Ordering::Relaxed);
    let ops = crowd(stage, &disk, &file, seed, 7);
    assert!(ops.iter().all(|op| op.done || op.kind == Kind::Snapshot), "{ops:#?}");
    drop(disk);
    let events = std::mem::take(&mut *file.events.lock().unwrap());
    let mut dice = Dice::new(seed ^ 0x55aa);
    let durable = before.map(Memory::new);
    let mut loose: Vec<(usize, usize, &Event)> = Vec::new();
    let step = if std::env::var_os("RHEA_HEAVY").is_some() { 1 } else { events.len() / 25 + 1 };
    for (n, (number, event)) in events.iter().enumerate() {
        if n % step == (seed as usize) % step {
            for attempt in 0..4 {
                let crashed = [&durable[0], &durable[1]].map(|memory| Memory::new(memory.bytes()));
                let lost = dice.roll(loose.len() as u64) as usize;
                for (position, (_, number, event)) in loose.iter().enumerate() {
                    let kept = match attempt {
                        0 => true,
                        1 => dice.roll(2) == 0,
                        2 => position != lost,
                        _ => position == lost,
                    };
                    if kept {
                        apply(&crashed[*number], event);
                    }
                }
                let what = format!(
                    "seed {seed}, change {n}, attempt {attempt}, backed {}, external {}, {:?}",
                    stage.backed, stage.external, stage.options
                );
                examine(stage, crashed.map(|m| m.bytes()), &ops, n, attempt == 1 && n % 29 == 0, &what);
            }
        }
        match event {
            Event::Flush(covered) => loose.retain(|(when, of, event)| {
                let synced = of == number && when < covered;
                if synced {
                    apply(&durable[*of], event);
                }
                !synced
            }),
            _ => loose.push((n, *number, event)),
        }
    }
}

#[test]
fn every_crash_among_many_requests_leaves_flushed_data_and_no_corruption() {
    for seed in 0..rounds(1) {
        for (n, stage) in (0..).zip(stages(96 << 10)) {
            within(600, move || crash_in_the_crowd(seed * 100 + n, &stage));
        }
    }
}

/// One call in `one_in` fails while many requests are under way; then all is well again.
fn fail_in_the_crowd(seed: u64, stage: &Stage, one_in: u64) {
    let (file, data) = stage.make();
    let disk = stage.open(file.clone(), data.clone()).unwrap();
    for recorder in [&file, &data] {
        recorder.crowded.store(true, Ordering::Relaxed);
        recorder.fail_one_in.store(one_in, Ordering::Relaxed);
    }
    let ops = crowd(stage, &disk, &file, seed, 12);
    for recorder in [&file, &data] {
        recorder.fail_one_in.store(0, Ordering::Relaxed);
    }
    let what = format!(
        "seed {seed}, one in {one_in}, backed {}, external {}, {:?}",
        stage.backed, stage.external, stage.options
    );
    // After a header change that may or may not have happened the image refuses to go on.
    let lost = disk.flush().is_err();
    drop(disk);
    let snapshots = ops.iter().any(|op| op.kind == Kind::Snapshot);
    assert!(!lost || snapshots, "{what}: no flush succeeds any more");
    let at = if lost { ops.iter().map(|op| op.end).max().unwrap_or(0) } else { usize::MAX };
    let mut ops = ops;
    if !lost {
        // The last flush: all that was done before it is there.
        let end = ops.iter().map(|op| op.end).max().unwrap_or(0);
        let began = u64::MAX;
        ops.push(Op { kind: Kind::Flush, blocks: 0..0, number: 0, start: end, end, began, ended: began, done: true });
    }
    examine(stage, [file.memory.bytes(), data.memory.bytes()], &ops, at, seed.is_multiple_of(7), &what);
}

#[test]
fn failing_calls_among_many_requests_are_reported_and_harm_nothing_else() {
    for seed in 0..rounds(2) {
        for (n, stage) in (0..).zip(stages(96 << 10)) {
            let one_in = [7, 19, 53][(seed + n) as usize % 3];
            within(600, move || fail_in_the_crowd(seed * 100 + n, &stage, one_in));
        }
    }
}

/// What a number says of the block that it was written to.
fn numbered(block: u64, count: u64) -> u64 {
    (block + 1) << 32 | (count & 0xffff_ffff)
}

fn assert_of_its_own(block: u64, value: u64, first: u64, what: &str) {
    assert!(value == 0 || value == first || value >> 32 == block + 1, "{what}: block {block} holds {value:x}");
}

/// Threads write, zero, discard, read and flush blocks of their own, in clusters that they share, while the image is
/// snapshot, turned back, resized and opened anew; whoever reads sees nothing of another block.
fn everything_at_once(seed: u64, stage: &Stage) {
    let (file, data) = stage.make();
    let blocks = stage.options.size / BLOCK;
    let first: Vec<u64> = (0..blocks).map(|block| stage.first(block)).collect();
    // What the blocks were when the snapshot was made. Held by all who need their blocks to stay as they are.
    let model = RwLock::new(None);
    let disk = RwLock::new(Arc::new(stage.open(file.clone(), data.clone()).unwrap()));
    let count = AtomicU64::new(1);
    let values: Vec<AtomicU64> = first.iter().map(|value| AtomicU64::new(*value)).collect();
    file.crowded.store(true, Ordering::Relaxed);
    let what = format!("seed {seed}, backed {}, external {}, {:?}", stage.backed, stage.external, stage.options);
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (model, disk, count, values, first, what) = (&model, &disk, &count, &values, &first, &what);
            scope.spawn(move || {
                let mut dice = Dice::new(seed * 8 + thread);
                for _ in 0..60 {
                    let run = dice.roll(blocks / 12) * 12 + thread * 4;
                    let own = run..run + 1 + dice.roll(4);
                    let (offset, len) = (own.start * BLOCK, (own.end - own.start) * BLOCK);
                    let held = model.read().unwrap();
                    let disk = disk.read().unwrap().clone();
                    match dice.roll(12) {
                        0..=4 => {
                            let count = count.fetch_add(1, Ordering::Relaxed);
                            let bytes: Vec<u8> =
                                own.clone().flat_map(|block| fill(&(0..1), numbered(block, count))).collect();
                            write_all(disk.as_ref(), &bytes, offset).unwrap();
                            own.for_each(|b| values[b as usize].store(numbered(b, count), Ordering::Relaxed));
                        }
                        5 => {
                            disk.write_zeroes(offset, len, dice.roll(2) == 0).unwrap();
                            own.for_each(|block| values[block as usize].store(0, Ordering::Relaxed));
                        }
                        6 => disk.flush().unwrap(),
                        7 => {
                            // What lies under others' blocks is theirs, so only what cannot hold them.
                            let whole = stage.options.cluster_size.min(2048);
                            disk.discard(offset, len.min(whole - 1)).unwrap();
                            let now = read_vec(disk.as_ref(), offset, len as usize).unwrap();
                            for (block, bytes) in own.zip(now.as_chunks::<512>().0) {
                                let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                                let old = values[block as usize].load(Ordering::Relaxed);
                                assert!(value == 0 || value == old, "{what}: block {block} {value:x}, was {old:x}");
                                values[block as usize].store(value, Ordering::Relaxed);
                            }
                        }
                        8 => {
                            drop(held);
                            // Everybody's blocks, whatever goes on.
                            let at = dice.roll(blocks - 16);
                            let read = read_vec(disk.as_ref(), at * BLOCK, 16 * BLOCK as usize);
                            let Ok(read) = read else { continue };
                            for (block, bytes) in (at..).zip(read.as_chunks::<512>().0) {
                                let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                                assert_of_its_own(block, value, first[block as usize], what);
                            }
                        }
                        _ => {
                            let read = read_vec(disk.as_ref(), offset, len as usize).unwrap();
                            for (block, bytes) in own.zip(read.as_chunks::<512>().0) {
                                let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                                let expected = values[block as usize].load(Ordering::Relaxed);
                                assert_eq!(value, expected, "{what}: block {block}");
                            }
                        }
                    }
                }
            });
        }
        let (model, disk, values, first, what) = (&model, &disk, &values, &first, &what);
        let (file, data) = (&file, &data);
        scope.spawn(move || {
            let mut dice = Dice::new(seed * 8 + 7);
            for _ in 0..8 {
                change_the_whole(&mut dice, stage, [file, data], disk, model, values, first, what);
            }
        });
    });
    let end = disk.into_inner().unwrap();
    for (block, value) in (0..).zip(values_of(end.as_ref(), blocks, &what)) {
        assert_eq!(value, values[block as usize].load(Ordering::Relaxed), "{what}: block {block} at the end");
    }
    drop(end);
    let (code, text) = if stage.external { (0, String::new()) } else { qemu_check(&file.memory.bytes()) };
    assert_eq!(code, 0, "{what}: {text}");
    assert_sound(file.memory.bytes(), false, false, &what);
}

/// One operation on the image as a whole. Those that change the content wait for the owners of the blocks.
#[expect(clippy::too_many_arguments, reason = "all that the threads of one test share")]
fn change_the_whole(
    dice: &mut Dice,
    stage: &Stage,
    [file, data]: [&Arc<Recorder>; 2],
    disk: &RwLock<Arc<Qcow2>>,
    model: &RwLock<Option<Vec<u64>>>,
    values: &[AtomicU64],
    first: &[u64],
    what: &str,
) {
    let now = || values.iter().map(|value| value.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let snapshots = !stage.external && stage.options.refcount_bits > 1;
    match dice.roll(6) {
        0 | 1 if snapshots => {
            // Beside everybody's requests: what it holds cannot be said, only that it harms nothing.
            let disk = disk.read().unwrap().clone();
            disk.snapshot_create("passing", (0, 0)).unwrap();
            disk.snapshot_delete("passing").unwrap();
        }
        2 if snapshots => {
            let mut model = model.write().unwrap();
            let disk = disk.read().unwrap().clone();
            if model.take().is_some() {
                disk.snapshot_delete("kept").unwrap();
            }
            disk.snapshot_create("kept", (0, 0)).unwrap();
            *model = Some(now());
        }
        3 if snapshots => {
            let mut model = model.write().unwrap();
            if let Some(kept) = model.as_mut() {
                disk.read().unwrap().snapshot_apply("kept").unwrap();
                kept.iter().zip(values).for_each(|(kept, value)| value.store(*kept, Ordering::Relaxed));
            }
        }
        4 => {
            let _still = model.write().unwrap();
            let disk = disk.read().unwrap().clone();
            let (size, cluster) = (stage.options.size, stage.options.cluster_size);
            // Larger and back, and a little smaller and back: what was cut off is zero afterwards.
            let cut = size - 3 * BLOCK;
            if stage.options.version == 3 || !snapshots || disk.snapshots().unwrap().is_empty() {
                disk.resize(size + 3 * cluster, Preallocation::Off).unwrap();
                disk.resize(cut, Preallocation::Off).unwrap();
                disk.resize(size, Preallocation::Off).unwrap();
                for block in cut / BLOCK..size / BLOCK {
                    let shows = if stage.backed && (block as usize) < first.len() && first[block as usize] != 0 {
                        first[block as usize]
                    } else {
                        0
                    };
                    values[block as usize].store(shows, Ordering::Relaxed);
                }
            }
        }
        _ => {
            let _still = model.write().unwrap();
            let mut disk = disk.write().unwrap();
            disk.close().unwrap();
            let other = stage.open(file.clone(), data.clone());
            *disk = Arc::new(other.unwrap_or_else(|e| panic!("{what}: {e}")));
        }
    }
}

#[test]
fn everything_at_once_keeps_to_the_model() {
    for seed in 0..rounds(1) {
        for (n, stage) in (0..).zip(stages(384 << 10)) {
            within(600, move || everything_at_once(seed * 100 + n, &stage));
        }
    }
}
