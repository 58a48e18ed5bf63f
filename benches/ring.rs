//! A virtio-blk ring from doorbell to interrupt, with no guest and no hypervisor: the cost of the device itself.
//!
//! `cargo bench --bench ring`. The disk is one that forgets (`null-co`), so what is timed is the doorbell, the wake-up
//! of the queue's thread, the chain, the request, the used entry and the interrupt.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rhea_block::Disk;
use rhea_block::protocol::null::Null;
use rhea_devices::block_errors::ErrorPolicy;
use rhea_devices::block_stats::BlockStats;
use rhea_devices::virtio::blk::{BlkConfig, BlkConnections, VirtioBlk};
use rhea_devices::virtio::iothread::Placement;
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
    fn new() -> Self {
        let to = BlkConnections {
            image: Arc::new(Disk::new(Arc::new(Null::new("null-co", 1 << 30, false, false)), true)),
            placement: Placement::PerQueue,
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

    /// Posts `depth` writes of one block behind one doorbell and waits for all of them.
    fn batch(&mut self, depth: u64) {
        for slot in 0..depth {
            let header = HEADERS + 32 * slot;
            self.guest.ram.write_obj([WRITE, 0, 8 * slot as u32, 0], GuestAddress(header)).expect("header");
            let bufs = [
                Buf::readable(header, 16),
                Buf::readable(DATA + u64::from(BLOCK) * slot, BLOCK),
                Buf::writable(header + 16, 1),
            ];
            self.ring.post_indirect(TABLES + 64 * slot, &bufs);
        }
        self.guest.kick(0);
        for _ in 0..depth {
            black_box(self.guest.wait_used(&mut self.ring));
        }
    }
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("virtio-blk, 4 KiB writes to nowhere");
    for depth in [1, 32, 128] {
        let mut driver = Driver::new();
        group.throughput(Throughput::Elements(depth));
        group.bench_function(BenchmarkId::new("depth", depth), |bencher| bencher.iter(|| driver.batch(depth)));
        driver.guest.pause();
    }
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
