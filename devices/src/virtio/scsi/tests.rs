//! A driver's side: registers, rings and requests, down to an image in memory.

mod hotplug;
mod passes;
mod requests;
mod shared;
mod tasks;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::budget::Budget;
use super::wire::response;
use super::*;
use crate::block_errors::{ErrorPolicy, IoFailure, OnError};
use crate::block_stats::BlockStats;
use crate::scsi::{LogicalUnit, Reservations, UnitConfig};
use crate::virtio::features;
use crate::virtio::testing::{Buf, DriverRing, Guest, GuestBuilder, MemImage};

const MIB: u64 = 1 << 20;
const RINGS: u64 = 0x10_0000;
const REQUEST: u64 = 0x1000;
const RESPONSE: u64 = 0x2000;
const DATA: u64 = 0x20_0000;

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    response: u8,
    status: u8,
    residual: u32,
    sense: Vec<u8>,
    used: u32,
}

impl Answer {
    fn key(&self) -> (u8, u8, u8) {
        (self.sense[2], self.sense[12], self.sense[13])
    }
}

struct Host {
    guest: Guest,
    bus: Arc<ScsiBus>,
    control: DriverRing,
    events: DriverRing,
    requests: Vec<DriverRing>,
    failures: Arc<Mutex<Vec<IoFailure>>>,
    stats: Arc<BlockStats>,
    /// What its commands may take of the host's.
    memory: Arc<Budget>,
    /// Control requests so far: each has memory of its own.
    controls: u64,
}

fn unit_of(unit: Arc<LogicalUnit>, host: &Host, policy: OnError) -> ScsiUnit {
    let failures = Arc::clone(&host.failures);
    let tell = Arc::new(move |failure| failures.lock().unwrap().push(failure));
    let errors = ErrorPolicy { read: policy, write: policy, tell };
    ScsiUnit { unit, stats: Arc::clone(&host.stats), errors, gone: AtomicBool::new(false) }
}

fn disk(image: &Arc<MemImage>) -> Arc<LogicalUnit> {
    LogicalUnit::new(UnitConfig::disk("disk"), Some(Arc::clone(image) as _), &Reservations::new()).unwrap()
}

fn at(target: u8, lun: u16) -> ScsiAddress {
    ScsiAddress { target, lun }
}

impl Host {
    /// An adapter with `queues` request queues and no units, driven by a driver that wants `wanted` features.
    fn new(queues: u16, wanted: u64) -> Self {
        let device = VirtioScsi::new(ScsiConfig::new("scsi0", queues), Placement::PerQueue).unwrap();
        let (bus, memory) = (device.bus(), Arc::clone(&device.shared.memory));
        let guest = GuestBuilder::default().build(device);
        let mut host = Self::around(guest, bus, queues);
        host.memory = memory;
        host.bring_up(wanted);
        host
    }

    fn around(guest: Guest, bus: Arc<ScsiBus>, queues: u16) -> Self {
        let ring = |n: u64| DriverRing::new(&guest.ram, RINGS + n * 0x4000, 32);
        let requests = (0..u64::from(queues)).map(|n| ring(2 + n)).collect();
        let (control, events) = (ring(0), ring(1));
        let (failures, stats, memory) = (Arc::default(), Arc::default(), Budget::new());
        Self { control, events, requests, guest, bus, failures, stats, memory, controls: 0 }
    }

    fn bring_up(&mut self, wanted: u64) {
        self.guest.negotiate(wanted | features::EVENT_IDX);
        self.guest.enable_msix();
        let rings = [&mut self.control, &mut self.events].into_iter().chain(&mut self.requests);
        for (n, ring) in (0..).zip(rings) {
            ring.renew();
            self.guest.setup_queue(n, ring);
        }
        self.guest.driver_ok();
    }

    fn with_disk() -> (Self, Arc<MemImage>) {
        let host = Self::new(1, 0);
        let image = MemImage::new(MIB);
        host.bus.attach(at(0, 0), unit_of(disk(&image), &host, OnError::Report)).unwrap();
        let mut host = host;
        assert_eq!(host.command(at(0, 0), &[0; 6], &[], 0).0.key(), (6, 0x29, 0));
        (host, image)
    }

    /// Posts a command with the tag `slot + 10` on request queue `queue`; memory of request number `slot` is used.
    fn post(&mut self, queue: usize, slot: u64, address: ScsiAddress, cdb: &[u8], out: &[u8], room: u32) {
        self.offer(queue, slot, address, cdb, out, room);
        self.guest.kick(2 + queue as u16);
    }

    /// The same, without a word to the device.
    fn offer(&mut self, queue: usize, slot: u64, address: ScsiAddress, cdb: &[u8], out: &[u8], room: u32) {
        let ([high, low], base) = (address.lun.to_be_bytes(), slot * 0x100);
        let mut request = vec![1, address.target, 0x40 | high, low, 0, 0, 0, 0];
        request.extend((slot + 10).to_le_bytes());
        request.extend([0; 3]);
        request.extend(cdb);
        request.resize(19 + 32, 0);
        self.guest.ram.write_slice(&request, GuestAddress(REQUEST + base)).unwrap();
        let data = DATA + slot * 0x1_0000;
        self.guest.ram.write_slice(out, GuestAddress(data)).unwrap();
        let mut bufs = vec![Buf::readable(REQUEST + base, 51)];
        if !out.is_empty() {
            bufs.push(Buf::readable(data, out.len() as u32));
        }
        bufs.push(Buf::writable(RESPONSE + base, 108));
        if room > 0 {
            bufs.push(Buf::writable(data, room));
        }
        self.requests[queue].post(&bufs);
    }

    fn answer(&mut self, queue: usize, slot: u64) -> Answer {
        let (_, used) = self.guest.wait_used(&mut self.requests[queue]);
        let mut bytes = [0; 108];
        self.guest.ram.read_slice(&mut bytes, GuestAddress(RESPONSE + slot * 0x100)).unwrap();
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sense = bytes[12..12 + word(0) as usize].to_vec();
        Answer { response: bytes[11], status: bytes[10], residual: word(4), sense, used }
    }

    /// A command to its end on the first queue, with what it read.
    fn command(&mut self, address: ScsiAddress, cdb: &[u8], out: &[u8], room: u32) -> (Answer, Vec<u8>) {
        self.post(0, 0, address, cdb, out, room);
        let answer = self.answer(0, 0);
        let mut data = vec![0; (room - room.min(answer.residual)) as usize];
        self.guest.ram.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        (answer, data)
    }

    /// Asks for a function; returns the number of the request.
    fn manage(&mut self, function: u32, address: ScsiAddress, id: u64) -> u64 {
        let n = self.controls;
        self.controls += 1;
        let [high, low] = address.lun.to_be_bytes();
        let mut request = 0u32.to_le_bytes().to_vec();
        request.extend(function.to_le_bytes());
        request.extend([1, address.target, 0x40 | high, low, 0, 0, 0, 0]);
        request.extend(id.to_le_bytes());
        self.guest.ram.write_slice(&request, GuestAddress(0x4000 + n * 32)).unwrap();
        self.control.post(&[Buf::readable(0x4000 + n * 32, 24), Buf::writable(0x5000 + n, 1)]);
        self.guest.kick(0);
        n
    }

    /// Waits for some answer; that of request `n`.
    fn managed(&mut self, n: u64) -> u8 {
        assert_eq!(self.guest.wait_used(&mut self.control).1, 1);
        self.guest.ram.read_obj(GuestAddress(0x5000 + n)).unwrap()
    }
}

fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    let ([a, b, c, d], [e, f]) = (lba.to_be_bytes(), blocks.to_be_bytes());
    [0x28, 0, a, b, c, d, 0, e, f, 0]
}

fn write10(lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = read10(lba, blocks);
    cdb[0] = 0x2a;
    cdb
}
