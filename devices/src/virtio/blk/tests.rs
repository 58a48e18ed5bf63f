//! Requests through the whole path: registers, doorbell, ring, thread, image, interrupt.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rhea_block::{Image, Op};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::block_errors::{ErrorAction, IoFailure, OnError};
use crate::block_stats::Counted;
use crate::lifecycle::{Lifecycle, Saver};
use crate::virtio::features;
use crate::virtio::iothread::IoThread;
use crate::virtio::testing::{Buf, DriverRing, Guest, GuestBuilder, MemImage, Seen};

const DISK: u64 = 1 << 20;
const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x11_0000;
const STATUS: u64 = 0x12_0000;

struct Rig {
    guest: Guest,
    ring: DriverRing,
    image: Arc<MemImage>,
    stats: Arc<BlockStats>,
    failures: Arc<Mutex<Vec<IoFailure>>>,
}

struct Setup {
    config: BlkConfig,
    image: Arc<MemImage>,
    on_error: OnError,
    features: u64,
    placement: Placement,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: BlkConfig::new("disk0", 1),
            image: MemImage::new(DISK),
            on_error: OnError::Report,
            features: u64::MAX,
            placement: Placement::PerQueue,
        }
    }
}

impl Setup {
    fn device(&self) -> (Box<VirtioBlk>, Arc<BlockStats>, Arc<Mutex<Vec<IoFailure>>>) {
        let failures = Arc::<Mutex<Vec<IoFailure>>>::default();
        let seen = Arc::clone(&failures);
        let mut errors = ErrorPolicy::new(Arc::new(move |failure| seen.lock().unwrap().push(failure)));
        (errors.read, errors.write) = (self.on_error, self.on_error);
        let stats = Arc::<BlockStats>::default();
        let to = BlkConnections {
            image: Arc::clone(&self.image) as _,
            placement: self.placement.clone(),
            stats: Arc::clone(&stats),
            errors,
        };
        (VirtioBlk::new(self.config.clone(), to).unwrap(), stats, failures)
    }

    fn rig(self) -> Rig {
        let (device, stats, failures) = self.device();
        let guest = GuestBuilder::default().build(device);
        let ring = DriverRing::new(&guest.ram, 0x1_0000, 64);
        let rig = Rig { guest, ring, image: self.image, stats, failures };
        rig.bring_up(self.features);
        rig
    }
}

fn rig() -> Rig {
    Setup::default().rig()
}

impl Rig {
    fn bring_up(&self, wanted: u64) {
        self.guest.enable_msix();
        self.guest.negotiate(wanted);
        self.guest.setup_queue(0, &self.ring);
        self.guest.driver_ok();
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.guest.ram.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.guest.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn header(&self, kind: u32, sector: u64) {
        self.put(HEADER, &kind.to_le_bytes());
        self.put(HEADER + 4, &[0; 4]);
        self.put(HEADER + 8, &sector.to_le_bytes());
        self.put(STATUS, &[0xff]);
    }

    fn go(&mut self, bufs: &[Buf]) -> (u8, u32) {
        let head = self.ring.post(bufs);
        self.guest.kick(0);
        let (used, written) = self.guest.wait_used(&mut self.ring);
        assert_eq!(used, head);
        (self.get(STATUS, 1)[0], written)
    }

    fn out(&mut self, kind: u32, sector: u64, data: &[u8]) -> u8 {
        self.header(kind, sector);
        self.put(DATA, data);
        let len = u32::try_from(data.len()).unwrap();
        self.go(&[Buf::readable(HEADER, 16), Buf::readable(DATA, len), Buf::writable(STATUS, 1)]).0
    }

    fn read(&mut self, sector: u64, len: u32) -> (u8, u32) {
        self.header(0, sector);
        self.go(&[Buf::readable(HEADER, 16), Buf::writable(DATA, len), Buf::writable(STATUS, 1)])
    }

    fn flush(&mut self) -> u8 {
        self.header(4, 0);
        self.go(&[Buf::readable(HEADER, 16), Buf::writable(STATUS, 1)]).0
    }
}

fn segment(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn read_brings_the_disk_and_counts() {
    let mut rig = rig();
    assert_eq!(rig.read(3, 1024), (0, 1025));
    assert_eq!(rig.get(DATA, 1024), rig.image.bytes(3 * 512, 1024));
    let totals = rig.stats.totals(Counted::Read);
    assert_eq!((totals.operations, totals.bytes), (1, 1024));
}

#[test]
fn write_reaches_the_disk() {
    let mut rig = rig();
    assert_eq!(rig.out(1, 2, &[0xab; 512]), 0);
    assert_eq!(rig.image.bytes(1024, 512), [0xab; 512]);
    assert_eq!(rig.image.bytes(512, 512), [1; 512]);
    assert_eq!(rig.image.take_seen(), [Seen { op: Op::Write { fua: false }, offset: 1024, len: 512 }]);
}

#[test]
fn header_data_and_status_may_be_split_anywhere() {
    let mut rig = rig();
    rig.header(0, 1);
    let bufs = [
        Buf::readable(HEADER, 1),
        Buf::readable(HEADER + 1, 6),
        Buf::readable(HEADER + 7, 9),
        Buf::writable(DATA, 100),
        // The rest of the data and the status lie in one buffer.
        Buf::writable(STATUS - 412, 413),
    ];
    assert_eq!(rig.go(&bufs), (0, 513));
    assert_eq!([rig.get(DATA, 100), rig.get(STATUS - 412, 412)].concat(), rig.image.bytes(512, 512));
}

#[test]
fn header_and_data_may_share_a_buffer() {
    let mut rig = rig();
    rig.header(1, 5);
    rig.put(HEADER + 16, &[0x5a; 512]);
    assert_eq!(rig.go(&[Buf::readable(HEADER, 528), Buf::writable(STATUS, 1)]).0, 0);
    assert_eq!(rig.image.bytes(5 * 512, 512), [0x5a; 512]);
}

#[test]
fn indirect_chain_is_served() {
    let mut rig = rig();
    rig.header(0, 7);
    let bufs = [Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(STATUS, 1)];
    rig.ring.post_indirect(0x13_0000, &bufs);
    rig.guest.kick(0);
    assert_eq!(rig.guest.wait_used(&mut rig.ring).1, 513);
    assert_eq!(rig.get(DATA, 512), [7; 512]);
}

#[test]
fn requests_beyond_the_disk_fail_without_reaching_it() {
    let mut rig = rig();
    let last = DISK / 512 - 1;
    for (sector, len) in [(last, 1024), (last + 1, 512), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512)] {
        assert_eq!(rig.read(sector, len).0, 1, "{sector}+{len}");
    }
    assert_eq!(rig.read(last, 512).0, 0);
    assert_eq!(rig.image.take_seen().len(), 1);
    assert_eq!(rig.stats.totals(Counted::Read).invalid, 5);
}

#[test]
fn data_that_is_no_whole_block_fails() {
    let config = BlkConfig { sizes: BlockSizes::of(4096), ..BlkConfig::new("d", 1) };
    let mut rig = Setup { config, ..Setup::default() }.rig();
    assert_eq!(rig.read(0, 512).0, 1);
    assert_eq!(rig.read(1, 4096).0, 1);
    assert_eq!(rig.read(8, 4096).0, 0);
}

#[test]
fn read_of_nothing_succeeds() {
    assert_eq!(rig().read(0, 0), (0, 1));
}

#[test]
fn unknown_request_is_unsupported() {
    let mut rig = rig();
    for kind in [2, 3, 14, 99, 0x8000_0001] {
        assert_eq!(rig.out(kind, 0, &[0; 512]), 2, "type {kind:#x}");
    }
}

#[test]
fn serial_is_padded_and_cut_to_twenty_bytes() {
    let config = BlkConfig { serial: "abcdefghijklmnopqrstuvwxyz".to_owned(), ..BlkConfig::new("d", 1) };
    let mut rig = Setup { config, ..Setup::default() }.rig();
    rig.put(DATA, &[0xee; 30]);
    rig.header(8, 0);
    assert_eq!(rig.go(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 30), Buf::writable(STATUS, 1)]).0, 0);
    assert_eq!(rig.get(DATA, 21), b"abcdefghijklmnopqrst\xee");
    rig.header(8, 0);
    assert_eq!(rig.go(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 3), Buf::writable(STATUS, 1)]).0, 0);
}

#[test]
fn chain_without_header_or_status_goes_back_and_the_queue_goes_on() {
    let mut rig = rig();
    rig.header(0, 0);
    for bufs in [
        vec![Buf::readable(HEADER, 15), Buf::writable(STATUS, 1)],
        vec![Buf::readable(HEADER, 16), Buf::readable(DATA, 512)],
        vec![Buf::writable(STATUS, 1)],
        vec![Buf::readable(HEADER, 16), Buf::writable(1 << 40, 512), Buf::writable(STATUS, 1)],
        vec![Buf::writable(DATA, 4), Buf::readable(HEADER, 16), Buf::writable(STATUS, 1)],
    ] {
        assert_eq!(rig.go(&bufs), (0xff, 0), "{bufs:?}");
    }
    assert_eq!(rig.read(1, 512).0, 0);
}

#[test]
fn status_may_overlap_header_or_data() {
    let mut rig = rig();
    rig.header(0, 1);
    let head = [Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(HEADER, 1)];
    rig.go(&head);
    assert_eq!(rig.get(HEADER, 1), [0]);
    rig.header(0, 1);
    rig.go(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(DATA + 511, 1)]);
    assert_eq!(rig.get(DATA + 510, 2), [1, 0]);
}

#[test]
fn flush_reaches_the_image() {
    let mut rig = rig();
    assert_eq!(rig.flush(), 0);
    assert_eq!(rig.image.take_seen(), [Seen { op: Op::Flush, offset: 0, len: 0 }]);
    assert_eq!(rig.stats.totals(Counted::Flush).operations, 1);
}

#[test]
fn without_a_flush_command_writes_are_durable_at_once() {
    let mut rig = Setup { features: !(feature::FLUSH | feature::CONFIG_WCE), ..Setup::default() }.rig();
    assert_eq!(rig.out(1, 0, &[1; 512]), 0);
    assert_eq!(rig.image.take_seen()[0].op, Op::Write { fua: true });
}

#[test]
fn driver_switches_the_write_cache() {
    let mut rig = rig();
    assert_eq!(rig.guest.read(0x2000 + 32, 1), 1);
    rig.guest.write(0x2000 + 32, 1, 0);
    assert_eq!(rig.guest.read(0x2000 + 32, 1), 0);
    rig.out(1, 0, &[1; 512]);
    assert_eq!(rig.image.take_seen()[0].op, Op::Write { fua: true });
    rig.guest.reset();
    assert_eq!(rig.guest.read(0x2000 + 32, 1), 1);
}

#[test]
fn write_cache_of_a_legacy_driver_that_may_switch_it_is_as_it_was() {
    let (device, ..) = Setup::default().device();
    let guest = GuestBuilder::default().build(device);
    // `writeback` in the configuration behind the legacy registers.
    let write_cache = || guest.inl(20 + 32, 1);
    guest.outl(18, 1, 0);
    guest.outl(18, 1, 3);
    assert_eq!(write_cache(), 1);
    guest.outl(14, 2, 0);
    guest.outl(8, 4, 0x10);
    guest.outl(4, 4, feature::FLUSH | feature::CONFIG_WCE);
    assert_eq!(write_cache(), 1, "features that come after the ring");
    guest.outl(18, 1, 7);
    assert_eq!(write_cache(), 1);
    guest.outl(20 + 32, 1, 0);
    assert_eq!(write_cache(), 0);
}

#[test]
fn switched_write_cache_survives_save_and_restore() {
    let rig = rig();
    rig.guest.write(0x2000 + 32, 1, 0);
    rig.guest.pause();
    let Saver::Saves(saver) = rig.guest.function.saver() else { panic!("it saves") };
    let state = saver.save().unwrap();
    // Into a device whose driver has no switch, but flushes.
    let other = Setup { features: !feature::CONFIG_WCE, ..Setup::default() }.rig();
    other.guest.pause();
    let Saver::Saves(saver) = other.guest.function.saver() else { panic!("it saves") };
    saver.restore(state).unwrap();
    assert_eq!(other.guest.read(0x2000 + 32, 1), 0);
}

#[test]
fn discard_of_several_ranges_is_one_request() {
    let mut rig = rig();
    let ranges = [segment(8, 8, 0), segment(32, 1, 0)].concat();
    assert_eq!(rig.out(11, 0, &ranges), 0);
    let seen = rig.image.take_seen();
    assert_eq!(
        seen,
        [Seen { op: Op::Discard, offset: 4096, len: 4096 }, Seen { op: Op::Discard, offset: 16384, len: 512 }]
    );
    let totals = rig.stats.totals(Counted::Unmap);
    assert_eq!((totals.operations, totals.bytes), (1, 4608));
}

#[test]
fn write_zeroes_zeroes_and_may_unmap() {
    let mut rig = rig();
    assert_eq!(rig.out(13, 0, &segment(1, 2, 1)), 0);
    assert_eq!(rig.image.bytes(512, 1024), [0; 1024]);
    assert_eq!(rig.image.take_seen()[0].op, Op::WriteZeroes { unmap: true, fua: false });
}

#[test]
fn bad_ranges_fail_before_any_is_carried_out() {
    let mut rig = rig();
    let good = segment(0, 1, 0);
    let end = DISK / 512;
    let cases = [
        (11, segment(end, 1, 0), 1),
        (11, segment(u64::MAX, 1, 0), 1),
        (11, segment(0, u32::MAX, 0), 1),
        (11, segment(0, 1, 1), 2),
        (11, segment(0, 1, 2), 2),
        (11, segment(end, 1, 2), 1),
        (13, segment(0, 1, 0x8000_0000), 2),
        (13, segment(end - 1, 2, 0), 1),
    ];
    for (kind, bad, status) in cases {
        assert_eq!(rig.out(kind, 0, &[good.clone(), bad.clone()].concat()), status, "{kind} {bad:?}");
    }
    assert_eq!(rig.out(11, 0, &[]), 1);
    assert_eq!(rig.out(11, 0, &good[..8]), 1);
    assert_eq!(rig.out(11, 0, &good.repeat(MAX_SEGMENTS as usize + 1)), 1);
    assert_eq!(rig.image.take_seen(), []);
}

#[test]
fn ranges_of_no_whole_blocks_are_refused() {
    let config = BlkConfig { sizes: BlockSizes { physical: 4096, ..BlockSizes::of(4096) }, ..BlkConfig::new("d", 1) };
    let mut rig = Setup { config, ..Setup::default() }.rig();
    for kind in [11, 13] {
        let status = [(8, 8), (9, 8), (8, 4)].map(|(sector, count)| rig.out(kind, 0, &segment(sector, count, 0)));
        assert_eq!(status, [0, 1, 1], "{kind}");
    }
    assert_eq!(rig.image.take_seen().len(), 2);
}

#[test]
fn read_only_disk_says_so_and_refuses_writes() {
    let info = ImageInfo { read_only: true, ..MemImage::new(DISK).info() };
    let mut rig = Setup { image: MemImage::with_info(info), ..Setup::default() }.rig();
    let offered = rig.guest.device_features();
    assert_eq!(offered & (feature::RO | feature::DISCARD | feature::WRITE_ZEROES), feature::RO);
    assert_eq!(rig.out(1, 0, &[1; 512]), 1);
    assert_eq!(rig.out(13, 0, &segment(0, 1, 0)), 1);
    assert_eq!(rig.read(0, 512).0, 0);
}

#[test]
fn configuration_tells_the_properties() {
    let config = BlkConfig {
        sizes: BlockSizes { physical: 4096, min_io: 4096, opt_io: 65536, ..BlockSizes::of(512) },
        geometry: Some(Geometry { cylinders: 5, heads: 6, sectors: 7 }),
        ..BlkConfig::new("d", 3)
    };
    let rig = Setup { config, ..Setup::default() }.rig();
    let read = |at: u64, len| rig.guest.read(0x2000 + at, len);
    assert_eq!(read(0, 8), DISK / 512);
    assert_eq!(read(12, 4), 254);
    assert_eq!((read(16, 2), read(18, 1), read(19, 1)), (5, 6, 7));
    assert_eq!((read(20, 4), read(24, 1), read(26, 2), read(28, 4)), (512, 3, 8, 128));
    assert_eq!(read(34, 2), 3);
    assert_eq!((read(36, 4), read(40, 4), read(44, 4)), (4_194_303, 32, 8));
    assert_eq!((read(48, 4), read(52, 4), read(56, 1)), (4_194_303, 32, 1));
    assert_eq!(read(60, 8), 0);
}

#[test]
fn limits_of_what_is_not_offered_are_none() {
    let config = BlkConfig { discard: false, write_zeroes: false, ..BlkConfig::new("d", 1) };
    let rig = Setup { config, ..Setup::default() }.rig();
    assert_eq!([36, 40, 44, 48, 52, 56].map(|at| rig.guest.read(0x2000 + at, 4)), [0; 6]);
}

#[test]
fn tracks_have_whole_blocks() {
    let config = BlkConfig { sizes: BlockSizes { physical: 4096, ..BlockSizes::of(4096) }, ..BlkConfig::new("d", 1) };
    let rig = Setup { config, ..Setup::default() }.rig();
    assert_eq!((rig.guest.read(0x2000 + 18, 1), rig.guest.read(0x2000 + 19, 1)), (16, 56));
}

#[test]
fn properties_that_cannot_be_are_refused() {
    let cases: [fn(&mut BlkConfig); 4] =
        [|c| c.sizes.logical = 1000, |c| c.queues = 0, |c| c.queue_size = 100, |c| c.queue_size = 2048];
    for (n, change) in cases.iter().enumerate() {
        let mut config = BlkConfig::new("d", 1);
        change(&mut config);
        assert!(config.check().is_err(), "case {n}");
    }
}

#[test]
fn resize_interrupts_and_shows() {
    let rig = rig();
    let generation = rig.guest.read(0x15, 1);
    rig.image.resize(2 * DISK);
    rig.guest.sink.wait(0, 1);
    assert_eq!(rig.guest.read(0x2000, 8), 2 * DISK / 512);
    assert_ne!(rig.guest.read(0x15, 1), generation);
}

#[test]
fn failure_is_reported_told_and_counted() {
    let mut rig = rig();
    rig.image.fail(Some(libc::EIO));
    assert_eq!(rig.read(0, 512).0, 1);
    assert_eq!(rig.out(1, 0, &[0; 512]), 1);
    let told = std::mem::take(&mut *rig.failures.lock().unwrap());
    let expected = |write| IoFailure { write, action: ErrorAction::Report, errno: libc::EIO };
    assert_eq!(told, [expected(false), expected(true)]);
    assert_eq!(rig.stats.totals(Counted::Read).failed, 1);
    assert_eq!(rig.stats.totals(Counted::Write).failed, 1);
}

#[test]
fn ignored_failure_looks_like_success() {
    let mut rig = Setup { on_error: OnError::Ignore, ..Setup::default() }.rig();
    rig.image.fail(Some(libc::EIO));
    assert_eq!(rig.out(1, 0, &[0; 512]), 0);
}

#[test]
fn stopped_request_is_tried_again_after_resume() {
    let mut rig = Setup { on_error: OnError::Enospc, ..Setup::default() }.rig();
    rig.image.fail(Some(libc::ENOSPC));
    rig.header(1, 4);
    rig.put(DATA, &[9; 512]);
    rig.ring.post(&[Buf::readable(HEADER, 16), Buf::readable(DATA, 512), Buf::writable(STATUS, 1)]);
    rig.guest.kick(0);
    let failures = Arc::clone(&rig.failures);
    rig.guest.sink.wait_until_polling("the failure", || !failures.lock().unwrap().is_empty());
    rig.guest.pause();
    assert_eq!(rig.ring.take_used(), None);
    rig.image.fail(None);
    rig.guest.function.resume();
    assert_eq!(rig.guest.wait_used(&mut rig.ring).1, 1);
    assert_eq!(rig.image.bytes(4 * 512, 512), [9; 512]);
    assert_eq!(rig.get(STATUS, 1), [0]);
}

#[test]
fn held_request_survives_save_and_restore() {
    let mut rig = Setup { on_error: OnError::Stop, ..Setup::default() }.rig();
    rig.image.fail(Some(libc::EIO));
    rig.header(1, 4);
    rig.put(DATA, &[9; 512]);
    rig.ring.post(&[Buf::readable(HEADER, 16), Buf::readable(DATA, 512), Buf::writable(STATUS, 1)]);
    rig.guest.kick(0);
    let failures = Arc::clone(&rig.failures);
    rig.guest.sink.wait_until_polling("the failure", || !failures.lock().unwrap().is_empty());
    rig.guest.pause();
    let Saver::Saves(saver) = rig.guest.function.saver() else { panic!("it saves") };
    let state = saver.save().unwrap();

    rig.image.fail(None);
    let (device, ..) = Setup { image: Arc::clone(&rig.image), ..Setup::default() }.device();
    let ram = Arc::clone(&rig.guest.ram);
    let second = GuestBuilder { ram, ..GuestBuilder::default() }.build(device);
    second.pause();
    let Saver::Saves(other) = second.function.saver() else { panic!("it saves") };
    other.restore(state.clone()).unwrap();
    assert_eq!(other.save().unwrap(), state);
    second.function.resume();
    assert_eq!(second.wait_used(&mut rig.ring).1, 1);
    assert_eq!(rig.image.bytes(4 * 512, 512), [9; 512]);
}

#[test]
fn batch_is_kicked_once_and_interrupts_once() {
    let mut rig = rig();
    rig.header(0, 0);
    // Paused, so that the worker finds them all at once.
    rig.guest.pause();
    for _ in 0..10 {
        rig.ring.post(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(STATUS, 1)]);
    }
    rig.guest.function.resume();
    rig.guest.sink.wait(1, 1);
    assert_eq!(rig.ring.take_all_used().len(), 10);
    rig.guest.pause();
    assert_eq!(rig.guest.sink.count(1), 1);
    assert_eq!(rig.image.kicks(), 1);
}

#[test]
fn queues_run_apart_on_their_own_or_on_a_shared_thread() {
    for placement in [Placement::PerQueue, Placement::Shared(IoThread::spawn("shared").unwrap())] {
        let config = BlkConfig::new("d", 4);
        let rig = Setup { config, placement, ..Setup::default() }.rig();
        let mut rings: Vec<DriverRing> =
            (1..4).map(|n| DriverRing::new(&rig.guest.ram, 0x1_0000 + n * 0x1_0000, 16)).collect();
        rig.guest.negotiate(u64::MAX);
        for (n, ring) in (1..).zip(&rings) {
            rig.guest.setup_queue(n, ring);
        }
        rig.guest.driver_ok();
        rig.header(0, 2);
        for (n, ring) in (1..).zip(&mut rings) {
            ring.post(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(STATUS, 1)]);
            rig.guest.kick(n);
            rig.guest.sink.wait(u32::from(n) + 1, 1);
            assert_eq!(ring.take_used().map(|(_, written)| written), Some(513));
        }
    }
}

#[test]
fn reset_under_io_keeps_the_status_until_the_io_is_done() {
    let mut rig = rig();
    rig.image.hold();
    rig.header(0, 0);
    rig.ring.post(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(STATUS, 1)]);
    rig.guest.kick(0);
    let image = Arc::clone(&rig.image);
    rig.guest.sink.wait_until_polling("the request", || !image.take_seen().is_empty());
    rig.guest.set_status(0);
    assert_ne!(rig.guest.status(), 0);
    assert_ne!(rig.guest.status(), 0);
    rig.image.release();
    let guest = &rig.guest;
    guest.sink.wait_until_polling("the end of the reset", || guest.status() == 0);
    rig.ring.renew();
    rig.bring_up(u64::MAX);
    assert_eq!(rig.read(2, 512).0, 0);
}

#[test]
fn drain_waits_for_what_is_in_flight() {
    let mut rig = rig();
    rig.image.hold();
    rig.header(0, 0);
    rig.ring.post(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(STATUS, 1)]);
    rig.guest.kick(0);
    let image = Arc::clone(&rig.image);
    rig.guest.sink.wait_until_polling("the request", || !image.take_seen().is_empty());
    rig.guest.function.pause();
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| rig.guest.function.drain());
        rig.image.release();
        drained.join().unwrap();
    });
    assert_eq!(rig.ring.take_used().map(|(_, written)| written), Some(513));
    // What comes while paused waits for the resume.
    rig.ring.post(&[Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(STATUS, 1)]);
    rig.guest.kick(0);
    assert!(rig.image.take_seen().is_empty());
    rig.guest.function.resume();
    assert_eq!(rig.guest.wait_used(&mut rig.ring).1, 513);
}

#[test]
fn no_more_chains_are_in_flight_than_the_queue_has() {
    let mut rig = rig();
    rig.image.hold();
    rig.header(0, 0);
    let bufs = [Buf::readable(HEADER, 16), Buf::writable(DATA, 512), Buf::writable(STATUS, 1)];
    let head = rig.ring.post(&bufs);
    // The same chain again and again, as no honest driver would.
    let image = Arc::clone(&rig.image);
    for n in 1..100 {
        if n < 64 {
            rig.guest.kick(0);
            let mut seen = 0;
            rig.guest.sink.wait_until_polling("the request", || {
                seen += image.take_seen().len();
                seen == 1
            });
        }
        rig.ring.offer(head);
    }
    rig.guest.kick(0);
    rig.image.release();
    let ring = &rig.ring;
    rig.guest.sink.wait_until_polling("all of them", || ring.used_index() == 100);
}

#[test]
fn nonsense_in_the_available_ring_asks_for_a_reset() {
    let mut rig = rig();
    rig.ring.set_avail_index(5000);
    rig.guest.kick(0);
    rig.guest.sink.wait(0, 1);
    assert_eq!(rig.guest.status() & features::status::NEEDS_RESET, features::status::NEEDS_RESET);
    rig.ring.renew();
    rig.bring_up(u64::MAX);
    assert_eq!(rig.guest.status() & features::status::NEEDS_RESET, 0);
    assert_eq!(rig.read(2, 512).0, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// Any bytes as descriptors and headers: every chain comes back, or the device asks for a reset.
    #[test]
    fn random_rings_never_stick(
        descs in proptest::collection::vec((0u64..0x14_0000, 0u32..0x1000, 0u16..8, 0u16..66), 64),
        kinds in proptest::collection::vec((0u32..16, 0u64..3000), 16),
        heads in proptest::collection::vec(0u16..64, 1..64),
    ) {
        let mut rig = rig();
        for (n, (kind, sector)) in (0..).zip(&kinds) {
            rig.put(HEADER + 16 * n, &kind.to_le_bytes());
            rig.put(HEADER + 16 * n + 8, &sector.to_le_bytes());
        }
        for (n, &(addr, len, flags, next)) in (0..).zip(&descs) {
            // Half of the buffers are headers, or lie where they do no harm to the ring itself.
            let addr = if addr % 2 == 0 { HEADER + 16 * (addr % 16) } else { DATA + addr % 0x1_0000 };
            rig.ring.write_desc(rig.ring.layout.desc, n, addr, len, flags, next);
        }
        for &head in &heads {
            rig.ring.offer(head);
        }
        rig.guest.kick(0);
        let ring = &rig.ring;
        let guest = &rig.guest;
        let wanted = u16::try_from(heads.len()).unwrap();
        guest.sink.wait_until_polling("an end", || {
            ring.used_index() == wanted || guest.status() & features::status::NEEDS_RESET != 0
        });
        rig.guest.reset();
    }
}
