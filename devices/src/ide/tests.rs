//! A guest's driver against the function: registers, interrupts and guest memory.

mod ata;
mod atapi;
mod dma;
mod hostile;
mod life;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::block_errors::{ErrorPolicy, IoFailure};
use crate::block_stats::BlockStats;
use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::lifecycle::Lifecycle;
use crate::memory::GuestRam;
use crate::pci::{Bdf, PciFunction};
use crate::scsi::{LogicalUnit, Reservations, UnitConfig};
use crate::testing::{RecordingLine, peek, poke};
use crate::virtio::iothread::Placement;
use crate::virtio::testing::{MemImage, PATIENCE, ram};

const MIB: u64 = 1 << 20;
const BUS_MASTER: u64 = 0xc000;
const TABLE: u64 = 0x1000;

const BSY: u8 = 0x80;
const DRQ: u8 = 0x08;
const ERR: u8 = 0x01;
const READY: u8 = 0x50;

/// A machine with one IDE function: a disk and a CD drive on the first channel, nothing on the second.
struct Guest {
    function: Arc<Piix3Ide>,
    ram: Arc<GuestRam>,
    irq: Arc<RecordingLine>,
    image: Arc<MemImage>,
    disc: Arc<MemImage>,
    unit: Arc<LogicalUnit>,
    stats: Arc<BlockStats>,
    failures: Arc<Mutex<Vec<IoFailure>>>,
}

struct Setup {
    disk: IdeDisk,
    size: u64,
    disc: u64,
    loaded: bool,
    stop: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { disk: IdeDisk::new("disk0", 1), size: MIB, disc: MIB, loaded: true, stop: false }
    }
}

impl Setup {
    fn build(self) -> Guest {
        let guest = self.build_stopped();
        guest.function.start().unwrap();
        guest
    }

    fn build_stopped(self) -> Guest {
        let guest = self.build_bare();
        guest.set_up_pci();
        guest
    }

    /// As at power-on.
    fn build_bare(self) -> Guest {
        let (ram, irq) = (ram(4 << 20), RecordingLine::new());
        let (image, disc) = (MemImage::new(self.size), MemImage::new(self.disc));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&failures);
        let mut errors = ErrorPolicy::new(Arc::new(move |failure| tell.lock().unwrap().push(failure)));
        if self.stop {
            errors.read = crate::block_errors::OnError::Stop;
            errors.write = crate::block_errors::OnError::Stop;
        }
        let mut config = UnitConfig::atapi_cd("cd0");
        config.serial = "QM00003".into();
        let loaded = self.loaded.then(|| Arc::clone(&disc) as _);
        let unit = LogicalUnit::new(config, loaded, &Reservations::new()).unwrap();
        let stats = Arc::new(BlockStats::default());
        let disk = IdeDrive::Disk {
            config: self.disk,
            image: Arc::clone(&image) as _,
            stats: Arc::clone(&stats),
            errors: errors.clone(),
        };
        let cd = IdeDrive::Cd { unit: Arc::clone(&unit), stats: Arc::default(), errors };
        let to = IdeConnections {
            memory: Arc::clone(&ram),
            irqs: [Arc::clone(&irq) as Arc<dyn IrqLine>, RecordingLine::new()],
            placement: Placement::PerQueue,
        };
        let function = Piix3Ide::new(Bdf::new(0, 1, 1), [[Some(disk), Some(cd)], [None, None]], to).unwrap();
        Guest { function, ram, irq, image, disc, unit, stats, failures }
    }
}

fn guest() -> Guest {
    Setup::default().build()
}

impl Guest {
    fn set_up_pci(&self) {
        let _effect = self.function.config_write(0x20, &(BUS_MASTER as u32).to_le_bytes());
        let _effect = self.function.config_write(0x04, &5u16.to_le_bytes());
    }

    fn at(&self, base: u64) -> Arc<dyn BusDevice> {
        let regions = self.function.regions();
        regions.into_iter().find(|region| region.base == base).expect("ports").device
    }

    fn out(&self, port: u64, value: u8) {
        poke(&*self.at(0x1f0), port, 1, value.into()).expect("register");
    }

    fn inb(&self, port: u64) -> u8 {
        peek(&*self.at(0x1f0), port, 1).expect("register") as u8
    }

    fn control(&self, value: u8) {
        poke(&*self.at(0x3f6), 0, 1, value.into()).expect("control");
    }

    fn alternate(&self) -> u8 {
        peek(&*self.at(0x3f6), 0, 1).expect("alternate status") as u8
    }

    /// Polls as drivers do, without taking the interrupt.
    fn settle(&self) -> u8 {
        let began = Instant::now();
        loop {
            let status = self.alternate();
            if status & BSY == 0 {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "busy for ever");
            std::thread::yield_now();
        }
    }

    /// Waits for the interrupt, takes it, and returns the status.
    fn interrupt(&self) -> u8 {
        let began = Instant::now();
        while !self.irq.high() {
            assert!(began.elapsed() < PATIENCE, "no interrupt: status {:#x}", self.alternate());
            std::thread::yield_now();
        }
        self.inb(7)
    }

    /// Chooses a drive, with LBA addressing.
    fn choose(&self, second: bool) {
        self.out(6, if second { 0xf0 } else { 0xe0 });
    }

    fn command28(&self, code: u8, lba: u32, count: u8) {
        let [low, mid, high, top] = lba.to_le_bytes();
        self.out(6, 0xe0 | top);
        for (port, value) in [(2, count), (3, low), (4, mid), (5, high), (7, code)] {
            self.out(port, value);
        }
    }

    fn command48(&self, code: u8, lba: u64, count: u16) {
        let lba = lba.to_le_bytes();
        let [count_low, count_high] = count.to_le_bytes();
        self.out(6, 0xe0);
        for (port, value) in [(2, count_high), (3, lba[3]), (4, lba[4]), (5, lba[5])] {
            self.out(port, value);
        }
        for (port, value) in [(2, count_low), (3, lba[0]), (4, lba[1]), (5, lba[2]), (7, code)] {
            self.out(port, value);
        }
    }

    fn read_data(&self, len: usize) -> Vec<u8> {
        let data = self.at(0x1f0);
        let word = |_| (peek(&*data, 0, 2).expect("data") as u16).to_le_bytes();
        (0..len.div_ceil(2)).flat_map(word).take(len).collect()
    }

    fn write_data(&self, bytes: &[u8]) {
        let data = self.at(0x1f0);
        for word in bytes.chunks(2) {
            let value = u16::from_le_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
            poke(&*data, 0, 2, value.into()).expect("data");
        }
    }

    fn bus_master(&self, offset: u64) -> u8 {
        peek(&*self.at(BUS_MASTER), offset, 1).expect("bus master") as u8
    }

    fn set_table(&self, regions: &[(u32, u16, bool)]) {
        for (n, &(address, count, last)) in regions.iter().enumerate() {
            let mut entry = address.to_le_bytes().to_vec();
            entry.extend(count.to_le_bytes());
            entry.extend([0, if last { 0x80 } else { 0 }]);
            self.ram.write_slice(&entry, GuestAddress(TABLE + 8 * n as u64)).expect("table");
        }
        poke(&*self.at(BUS_MASTER), 4, 4, TABLE).expect("table register");
    }

    fn start_dma(&self, to_memory: bool) {
        let block = self.at(BUS_MASTER);
        poke(&*block, 2, 1, 0x66).expect("status");
        let direction = if to_memory { 8 } else { 0 };
        poke(&*block, 0, 1, direction).expect("command");
        poke(&*block, 0, 1, direction | 1).expect("command");
    }

    fn stop_dma(&self) {
        poke(&*self.at(BUS_MASTER), 0, 1, 0).expect("command");
    }

    fn peek_ram(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).expect("memory");
        bytes
    }

    fn poke_ram(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).expect("memory");
    }
}

fn word(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[2 * at], data[2 * at + 1]])
}

/// Text of IDENTIFY: the two bytes of each word are swapped.
fn text(data: &[u8], at: usize, words: usize) -> String {
    (at..at + words).flat_map(|at| word(data, at).to_be_bytes()).map(char::from).collect()
}
