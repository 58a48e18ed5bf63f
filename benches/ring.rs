//! A virtio-blk ring from doorbell to interrupt, with no guest and no hypervisor: the cost of the device itself.
//!
//! `cargo bench --bench ring`. The disk is one that forgets (`null-co`), so what is timed is the doorbell, the wake-up
//! of the queue's thread, the chain, the request, the used entry and the interrupt. Before that it counts how often a driver
//! with one request at a time rings, and how often the thread sleeps, with and without polling.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rhea_block::Disk;
use rhea_block::protocol::null::Null;
use rhea_devices::block_errors::ErrorPolicy;
use rhea_devices::block_stats::BlockStats;
use rhea_devices::virtio::blk::{BlkConfig, BlkConnections, VirtioBlk};
use rhea_devices::virtio::iothread::{IoThread, Placement, Polling, Tuning};
use rhea_devices::virtio::testing::{Buf, DriverRing, Guest, GuestBuilder, ram};
use vm_memory::{Bytes, GuestAddress};

const RING: u64 = 0x1_0000;
const HEADERS: u64 = 0x10_0000;
const TABLES: u64 = 0x11_0000;
const DATA: u64 = 0x20_0000;
const BLOCK: u32 = 4096;
/// `VIRTIO_BLK_T_OUT` (virtio 1.2, 5.2.6).
const WRITE: u32 = 1;

/// A driver with one queue on one disk.
struct Driver {
    guest: Guest,
    ring: DriverRing,
}

impl Driver {
    fn new(placement: Placement) -> Self {
        let to = BlkConnections {
            image: Arc::new(Disk::new(Arc::new(Null::new("null-co", 1 << 30, false, false)), true)),
            placement,
            stats: Arc::<BlockStats>::default(),
            errors: ErrorPolicy::new(Arc::new(|failure| panic!("{failure:?}"))),
        };
        let device = VirtioBlk::new(BlkConfig::new("disk0", 1), to).expect("device");
        let guest = GuestBuilder { ram: ram(8 << 20), ..GuestBuilder::default() }.build(device);
        let ring = DriverRing::new(&guest.ram, RING, 256);
        guest.enable_msix();
        guest.negotiate(u64::MAX);
        guest.setup_queue(0, &ring);
        guest.driver_ok();
        Self { guest, ring }
    }

    fn post(&mut self, slot: u64) {
        let header = HEADERS + 32 * slot;
        self.guest.ram.write_obj([WRITE, 0, 8 * slot as u32, 0], GuestAddress(header)).expect("header");
        let bufs = [
            Buf::readable(header, 16),
            Buf::readable(DATA + u64::from(BLOCK) * slot, BLOCK),
            Buf::writable(header + 16, 1),
        ];
        self.ring.post_indirect(TABLES + 64 * slot, &bufs);
    }

    /// Posts `depth` writes of one block behind one doorbell and waits for all of them.
    fn batch(&mut self, depth: u64) {
        (0..depth).for_each(|slot| self.post(slot));
        self.guest.kick(0);
        for _ in 0..depth {
            black_box(self.guest.wait_used(&mut self.ring));
        }
    }

    /// Posts one write, rings if it is asked to, and looks for the answer; whether it rang.
    fn single(&mut self) -> bool {
        let at = self.ring.next_avail();
        self.post(0);
        fence(Ordering::SeqCst);
        let rings = self.ring.avail_event() == at;
        if rings {
            self.guest.kick(0);
        }
        while self.ring.used_index() != self.ring.next_avail() {
            spin_loop();
        }
        self.ring.take_all_used();
        rings
    }
}

/// How often a thread gave its processor away of its own accord.
fn sleeps(thread: &IoThread) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{}/status", thread.tid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("switches");
    line.trim().parse().expect("a number")
}

fn polling(_: &mut Criterion) {
    const COUNT: u32 = 20_000;
    for max in [0, 1_000_000] {
        let tuning = Tuning { polling: Polling { max, ..Polling::default() }, batch: None, workers: 0..=1 };
        let thread = IoThread::tuned("bench", &tuning).expect("thread");
        let mut driver = Driver::new(Placement::Shared(Arc::clone(&thread)));
        let before = sleeps(&thread);
        let rung = (0..COUNT).filter(|_| driver.single()).count();
        let slept = sleeps(&thread) - before;
        let each = |count: u64| count as f64 / f64::from(COUNT);
        println!("poll-max-ns={max}: {:.3} doorbells, {:.3} sleeps a request", each(rung as u64), each(slept));
        driver.guest.pause();
    }
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("virtio-blk, 4 KiB writes to nowhere");
    for depth in [1, 32, 128] {
        let mut driver = Driver::new(Placement::PerQueue);
        group.throughput(Throughput::Elements(depth));
        group.bench_function(BenchmarkId::new("depth", depth), |bencher| bencher.iter(|| driver.batch(depth)));
        driver.guest.pause();
    }
    group.finish();
}

criterion_group!(benches, polling, requests);
criterion_main!(benches);
