//! Kills and power cuts at every point, with reordering between flushes; failures at every call.

use std::sync::Arc;

use super::rig::{Dice, Event, Recorder, apply, image, mixes, qemu_check, reopen, rounds};
use crate::format::qcow2::{CreateOptions, Qcow2, check};
use crate::layer::{Layer, read_vec, write_all};
use crate::protocol::memory::Memory;

const SIZE: usize = 96 << 10;

/// One operation of the guest, with what the disk was before any and after each.
enum Op {
    Write(usize, Vec<u8>),
    Zero(usize, usize),
    Discard(usize, usize),
    Flush,
}

fn random_op(dice: &mut Dice) -> Op {
    let at = dice.roll(SIZE as u64) as usize;
    let most = if dice.roll(3) == 0 { 20_000 } else { 3000 };
    let len = (1 + dice.roll(most) as usize).min(SIZE - at);
    match dice.roll(10) {
        0..=4 => Op::Write(at, dice.bytes(len)),
        5 => Op::Zero(at, len),
        6 | 7 => Op::Discard(at, len),
        _ => Op::Flush,
    }
}

fn perform(disk: &dyn Layer, op: &Op) -> Result<(), crate::BlockError> {
    match op {
        Op::Write(at, bytes) => write_all(disk, bytes, *at as u64),
        Op::Zero(at, len) => disk.write_zeroes(*at as u64, *len as u64, true),
        Op::Discard(at, len) => disk.discard(*at as u64, *len as u64),
        Op::Flush => disk.flush(),
    }
}

/// For each byte, every value it may have: since the last flush, any that an operation gave it.
struct Allowed(Vec<Vec<u8>>);

impl Allowed {
    /// After operations `..done` completed (of which `..flushed` were flushed) with operation `done` under way.
    fn new(first: &[u8], ops: &[Op], flushed: usize, done: usize) -> Self {
        let mut allowed: Vec<Vec<u8>> = first.iter().map(|b| vec![*b]).collect();
        for (n, op) in ops.iter().enumerate().take(done + 1) {
            let durable = n < flushed;
            let mut give = |at: usize, values: &[u8], certain: bool| {
                let byte = &mut allowed[at];
                if durable && certain {
                    byte.clear();
                }
                values
                    .iter()
                    .filter(|v| !byte.contains(v))
                    .copied()
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|v| byte.push(v));
            };
            match op {
                Op::Write(at, bytes) => bytes.iter().enumerate().for_each(|(i, b)| give(at + i, &[*b], true)),
                Op::Zero(at, len) => (*at..at + len).for_each(|i| give(i, &[0], true)),
                Op::Discard(at, len) => (*at..at + len).for_each(|i| give(i, &[0], false)),
                Op::Flush => {}
            }
        }
        Self(allowed)
    }

    fn verify(&self, read: &[u8], what: &str) {
        for (at, (byte, allowed)) in read.iter().zip(&self.0).enumerate() {
            assert!(allowed.contains(byte), "{what}: byte {at:#x} is {byte:#x}, allowed {allowed:x?}");
        }
    }
}

/// Runs random operations on a fresh image; gives the operations, the file before, and the changes made to it.
fn record(seed: u64, options: &CreateOptions, backing: usize) -> (Vec<Op>, Vec<u8>, Vec<Event>) {
    let (recorder, disk) = image(options, backing);
    drop(disk);
    let before = recorder.memory.bytes();
    recorder.events.lock().unwrap().clear();
    let disk = reopen(recorder.clone(), backing).unwrap();
    let mut dice = Dice::new(seed);
    let ops: Vec<Op> = (0..24).map(|_| random_op(&mut dice)).collect();
    for (n, op) in ops.iter().enumerate() {
        perform(&disk, op).unwrap();
        recorder.note(Event::Mark(n + 1));
    }
    drop(disk);
    let events = recorder.events.lock().unwrap().drain(..).map(|(_, event)| event).collect();
    (ops, before, events)
}

/// Opens what a crash left, checks it and compares it.
fn examine(file: Vec<u8>, backing: usize, allowed: &Allowed, what: &str, with_qemu: bool) {
    // With postponed counts the header says so, and opening repairs.
    let dirty = file.len() > 80 && file[79] & 1 != 0;
    if with_qemu && !dirty {
        let (code, text) = qemu_check(&file);
        assert!(code == 0 || code == 3, "{what}: qemu-img check says {code}: {text}");
    }
    let file: Arc<dyn Layer> = Arc::new(Memory::new(file));
    let report = check(&file).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(dirty || report.corruptions == 0, "{what}: {:?}", report.messages);
    let disk = reopen(file, backing).unwrap_or_else(|e| panic!("{what}: {e}"));
    allowed.verify(&read_vec(&disk, 0, SIZE).unwrap(), what);
    // The survivor must also be fit to go on.
    write_all(&disk, &[0x77; 5000], 1000).unwrap();
    disk.flush().unwrap();
}

/// Every prefix of the changes; and, of the changes since the last flush, random subsets in order.
fn crash_everywhere(seed: u64, options: &CreateOptions, backing: usize) {
    let (ops, before, events) = record(seed, options, backing);
    let mut first = vec![0u8; SIZE];
    first[..backing].fill(0xbb);
    let mut dice = Dice::new(seed ^ 0xabcdef);
    // What is durable, and what is not yet.
    let durable = Memory::new(before);
    let mut loose: Vec<&Event> = Vec::new();
    let (mut done, mut flushed) = (0, 0);
    let (mut known, mut allowed) = ((0, 0), Allowed::new(&first, &ops, 0, 0));
    for (n, event) in events.iter().enumerate() {
        match event {
            Event::Mark(count) => {
                done = *count;
                if matches!(ops[*count - 1], Op::Flush) {
                    flushed = *count;
                }
                continue;
            }
            Event::Flush(_) => loose.drain(..).for_each(|event| apply(&durable, event)),
            Event::Write(..) | Event::Zero(..) => loose.push(event),
        }
        if known != (flushed, done) {
            known = (flushed, done);
            allowed = Allowed::new(&first, &ops, flushed, done);
        }
        for attempt in 0..3 {
            let crashed = Memory::new(durable.bytes());
            for event in &loose {
                // The first attempt is a kill: all that was written is there. The others are power cuts.
                if attempt == 0 || dice.roll(2) == 0 {
                    apply(&crashed, event);
                }
            }
            let what = format!("seed {seed}, event {n}, attempt {attempt}, {options:?}");
            examine(crashed.bytes(), backing, &allowed, &what, attempt == 1 && n % 40 == 0);
        }
    }
}

fn crash_mixes() -> Vec<CreateOptions> {
    mixes(SIZE as u64).into_iter().filter(|o| o.cluster_size <= 65536).collect()
}

#[test]
fn every_crash_leaves_flushed_data_and_no_corruption() {
    for seed in 0..rounds(1) {
        for options in crash_mixes() {
            crash_everywhere(seed, &options, 0);
        }
    }
}

#[test]
fn every_crash_over_a_backing_image_leaves_flushed_data_and_no_corruption() {
    for seed in 50..50 + rounds(1) {
        for options in crash_mixes().into_iter().filter(|o| o.preallocation == crate::layer::Preallocation::Off) {
            crash_everywhere(seed, &options, 40_000);
        }
    }
}

/// Runs the operations with one call to the file failing, then goes on; errors may surface, corruption may not.
fn fail_at(seed: u64, options: &CreateOptions, call: u64) -> bool {
    let (recorder, disk) = image(options, 0);
    drop(disk);
    let disk: Qcow2 = reopen(recorder.clone(), 0).unwrap();
    let mut dice = Dice::new(seed);
    let ops: Vec<Op> = (0..16).map(|_| random_op(&mut dice)).collect();
    let mut model: Vec<Vec<u8>> = vec![vec![0]; SIZE];
    *recorder.fail_after.lock().unwrap() = Some(call);
    for op in &ops {
        let certain = perform(&disk, op).is_ok();
        let mut give = |at: usize, value: u8, certain: bool| {
            if certain {
                model[at].clear();
            }
            model[at].push(value);
        };
        match op {
            Op::Write(at, bytes) => bytes.iter().enumerate().for_each(|(i, b)| give(at + i, *b, certain)),
            Op::Zero(at, len) => (*at..at + len).for_each(|i| give(i, 0, certain)),
            Op::Discard(at, len) => (*at..at + len).for_each(|i| give(i, 0, false)),
            Op::Flush => {}
        }
    }
    let reached = recorder.fail_after.lock().unwrap().take().is_none();
    disk.flush().unwrap();
    let what = format!("seed {seed}, call {call}, {options:?}");
    Allowed(model.clone()).verify(&read_vec(&disk, 0, SIZE).unwrap(), &what);
    drop(disk);
    examine(recorder.memory.bytes(), 0, &Allowed(model), &what, call.is_multiple_of(97));
    reached
}

#[test]
fn one_failing_call_anywhere_is_reported_and_harms_nothing_else() {
    for options in crash_mixes() {
        let step = if std::env::var_os("RHEA_HEAVY").is_some() { 1 } else { 5 };
        let mut call = 0;
        while fail_at(3, &options, call) {
            call += step;
        }
        assert!(call > 5, "the failure never came");
    }
}

#[test]
fn recorder_fails_when_told() {
    let recorder = Recorder::new(vec![0; 512]);
    *recorder.fail_after.lock().unwrap() = Some(1);
    assert!(recorder.flush().is_ok());
    assert!(recorder.flush().is_err());
    assert!(recorder.flush().is_ok());
}
