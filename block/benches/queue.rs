//! 4 KiB requests through a disk's queue, raw beside qcow2, and `qemu-img bench` on the same files.
//!
//! `cargo bench -p rhea-block --bench queue`; prints nanoseconds for each request and ratios. Not a test.

#![expect(unsafe_code, reason = "hands leaked memory to the queue, as a guest's memory would be")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rhea_block::format::qcow2::{CreateOptions, OpenOptions, Qcow2, create};
use rhea_block::format::raw::Raw;
use rhea_block::layer::{Fast, FastOp, Layer, write_all};
use rhea_block::mem::Sink;
use rhea_block::protocol::file::{FileOptions, HostFile};
use rhea_block::{Buffers, Disk, Image, Op, Request};

const SIZE: u64 = 256 << 20;
const COUNT: u64 = 200_000;

fn file(path: &Path, ring: bool) -> Arc<dyn Layer> {
    Arc::new(HostFile::open(path, FileOptions { ring, ..FileOptions::default() }).expect("open"))
}

fn prepare(raw: &Path, qcow2: &Path) {
    std::fs::write(raw, b"").expect("create");
    std::fs::write(qcow2, b"").expect("create");
    let plain = file(raw, false);
    let image =
        create(&file(qcow2, false), None, &CreateOptions { size: SIZE, ..CreateOptions::default() }).expect("create");
    let piece = vec![0x5a; 1 << 20];
    for at in (0..SIZE).step_by(1 << 20) {
        write_all(plain.as_ref(), &piece, at).expect("fill");
        write_all(&image, &piece, at).expect("fill");
    }
    image.close().expect("close");
}

fn run(layer: Arc<dyn Layer>, op: Op, depth: u64, random: bool) -> f64 {
    drive(&Disk::new(layer, true), op, depth, random, COUNT)
}

/// Nanoseconds for each of `count` requests through one more queue of the disk.
fn drive(disk: &Disk, op: Op, depth: u64, random: bool, count: u64) -> f64 {
    let mut queue = disk.open_queue(depth as u32).expect("queue");
    let memory = vec![1u8; (depth * 4096) as usize].leak().as_mut_ptr();
    let mut seed = 88_172_645_463_325_252u64;
    let mut next = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        if random { seed % (SIZE / 4096) * 4096 } else { n * 4096 % SIZE }
    };
    let mut submit = |queue: &mut dyn rhea_block::ImageQueue, n: u64, place: u64| {
        let iovec = libc::iovec { iov_base: memory.wrapping_add((place * 4096) as usize).cast(), iov_len: 4096 };
        // SAFETY: the memory is leaked, so it outlives every request.
        let buffers = unsafe { Buffers::new(rhea_block::IoVecs::from_slice(&[iovec]), None) };
        queue.submit(Request { tag: place, op, offset: next(n), len: 4096, buffers });
    };
    let start = Instant::now();
    let (mut sent, mut done) = (0, 0);
    while sent < depth {
        submit(queue.as_mut(), sent, sent);
        sent += 1;
    }
    queue.kick();
    while done < count {
        let mut any = false;
        while let Some(completion) = queue.reap() {
            completion.result.expect("request");
            any = true;
            done += 1;
            if sent < count {
                submit(queue.as_mut(), sent, completion.tag);
                sent += 1;
            }
        }
        queue.kick();
        if !any {
            std::thread::yield_now();
        }
    }
    start.elapsed().as_nanos() as f64 / count as f64
}

/// Nanoseconds for each random read when `queues` threads send them to one image.
fn together(layer: Arc<dyn Layer>, queues: u64) -> f64 {
    let disk = Disk::new(layer, true);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..queues {
            scope.spawn(|| drive(&disk, Op::Read, 32, true, COUNT / queues));
        }
    });
    start.elapsed().as_nanos() as f64 / COUNT as f64
}

fn qemu(path: &Path, format: &str, write: bool, depth: u64) -> Option<f64> {
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-f", format, "-i", "io_uring", "-s", "4096"]);
    command.args(["-c", &COUNT.to_string(), "-d", &depth.to_string()]);
    if write {
        command.arg("-w");
    }
    let output = command.arg(path).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seconds: f64 = text.split("completed in ").nth(1)?.split(' ').next()?.parse().ok()?;
    Some(seconds * 1e9 / COUNT as f64)
}

/// Nanoseconds to find one warm 4 KiB range.
fn look_up(layer: &dyn Layer) -> f64 {
    let mut seed = 88_172_645_463_325_252u64;
    let mut direct = 0;
    // The first look loads nothing; reads do.
    for at in (0..SIZE).step_by(4096) {
        layer.read(Sink::of(&mut [0; 512]), at).expect("read");
    }
    let start = Instant::now();
    for _ in 0..5_000_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = seed % (SIZE / 4096) * 4096;
        direct += u64::from(matches!(layer.fast(FastOp::Read, at, 4096), Fast::Direct(_)));
    }
    assert_eq!(direct, 5_000_000);
    start.elapsed().as_nanos() as f64 / 5e6
}

fn main() {
    let folder = tempfile::tempdir().expect("folder");
    let (raw, qcow2) = (folder.path().join("disk.raw"), folder.path().join("disk.qcow2"));
    prepare(&raw, &qcow2);
    let plain = Raw::new(file(&raw, true), 0, None).expect("raw");
    let image = Qcow2::open(file(&qcow2, true), &OpenOptions::default()).expect("qcow2");
    println!("ns per warm look-up: raw {:.1}, qcow2 {:.1}", look_up(&plain), look_up(&image));
    drop((plain, image));
    if std::env::var_os("RHEA_LOOKUP_ONLY").is_some() {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!("ns per random 4 KiB read, depth 32, by queues on one image ({processors} processors): raw, qcow2");
    for queues in [1, 2, 4] {
        let raw = together(Arc::new(Raw::new(file(&raw, true), 0, None).expect("raw")), queues);
        let image = Qcow2::open(file(&qcow2, true), &OpenOptions::default()).expect("qcow2");
        println!("{queues} queues {raw:6.0} {:6.0}", together(Arc::new(image), queues));
    }
    println!("ns per 4 KiB request: raw, qcow2, qcow2/raw; qemu-img raw, qcow2; ours/theirs raw, qcow2");
    for (name, op) in [("read", Op::Read), ("write", Op::Write { fua: false })] {
        for depth in [1, 32, 64] {
            for random in [false, true] {
                let open_raw = || -> Arc<dyn Layer> { Arc::new(Raw::new(file(&raw, true), 0, None).expect("raw")) };
                let open_qcow2 = || -> Arc<dyn Layer> {
                    Arc::new(Qcow2::open(file(&qcow2, true), &OpenOptions::default()).expect("qcow2"))
                };
                let median = |mut times: Vec<f64>| {
                    times.sort_by(f64::total_cmp);
                    times[times.len() / 2]
                };
                let mut times = (Vec::new(), Vec::new());
                for _ in 0..5 {
                    times.0.push(run(open_raw(), op, depth, random));
                    times.1.push(run(open_qcow2(), op, depth, random));
                }
                let (a, b) = (median(times.0), median(times.1));
                let order = if random { "random" } else { "sequential" };
                print!("{name:5} depth {depth:2} {order:10} {a:6.0} {b:6.0} {:.3}", b / a);
                if !random
                    && let (Some(qa), Some(qb)) =
                        (qemu(&raw, "raw", name == "write", depth), qemu(&qcow2, "qcow2", name == "write", depth))
                {
                    print!("   {qa:6.0} {qb:6.0}   {:.2} {:.2}", a / qa, b / qb);
                }
                println!();
            }
        }
    }
}
