//! Devices driven by bytes: what fuzz targets, and tests with fixed numbers, give to registers and command sets.
//!
//! A script is a row of steps. What it does to guest memory, to PRD tables, to command blocks is made so that steps get
//! deep: commands are mostly known ones, tables mostly lead somewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::RecordingLine;
use crate::block_errors::ErrorPolicy;
use crate::bus::BusDevice;
use crate::clock::{ManualClock, SharedClock};
use crate::flash::Flash;
use crate::fw_cfg::FwCfgBuilder;
use crate::ide::{IdeConnections, IdeDisk, IdeDrive, Piix3Ide};
use crate::irq::IrqLine;
use crate::legacy::LegacyChip;
use crate::legacy::cmos::{Cmos, CmosLayout, RtcOptions};
use crate::lifecycle::Lifecycle;
use crate::memory::GuestRam;
use crate::pci::host::PciHost;
use crate::pci::i440fx::I440fx;
use crate::pci::intx::PirqRouter;
use crate::pci::piix3::Piix3;
use crate::pci::{Bdf, PciFunction};
use crate::scsi::bounce::Bounce;
use crate::scsi::{Cdb, Job, LogicalUnit, MAX_PARAMETERS, Media, Plan, Reservations, Step, UnitConfig};
use crate::virtio::iothread::Placement;
use crate::virtio::testing::{MemImage, ram};

/// Steps of a script that are played.
const STEPS: usize = 400;
/// A drive that works longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const DISK: u64 = 256 << 10;
const MEMORY: usize = 1 << 20;
/// Where PRD tables and fw_cfg's descriptors are made.
const TABLE: u64 = 0x1000;
const BUS_MASTER: u64 = 0xc000;

/// What is left of a script; zeroes after its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

fn write(device: &dyn BusDevice, offset: u64, bytes: &[u8]) {
    // A register that takes no such write is a fault, which the bus answers.
    let _ = device.write(offset, bytes);
}

fn read(device: &dyn BusDevice, offset: u64, len: usize) -> u64 {
    let mut bytes = [0; 8];
    let _ = device.read(offset, &mut bytes[..len.min(8)]);
    u64::from_le_bytes(bytes)
}

/// Any access to registers of a device that has `span` bytes of them.
fn access(device: &dyn BusDevice, span: u64, script: &mut Script<'_>) {
    let (what, offset) = (script.byte(), script.number(4) % (span + 4));
    let len = [1, 2, 4, 8][usize::from(what >> 1 & 3)];
    if what & 1 == 0 {
        write(device, offset, &script.bytes(len));
    } else {
        read(device, offset, len);
    }
}

fn cd(loaded: bool) -> Arc<LogicalUnit> {
    let image = loaded.then(|| MemImage::new(DISK) as _);
    LogicalUnit::new(UnitConfig::cd("cd"), image, &Reservations::new()).expect("a CD drive")
}

/// An IDE function with a disk and a CD drive on the first channel: task file, data, bus master, packets.
///
/// # Panics
/// When a drive is busy for ever.
pub fn ide(bytes: &[u8]) {
    let (script, memory) = (&mut Script(bytes), ram(MEMORY));
    let errors = ErrorPolicy::new(Arc::new(|_| {}));
    let disk = IdeDrive::Disk {
        config: IdeDisk::new("disk", 1),
        image: MemImage::new(DISK),
        stats: Arc::default(),
        errors: errors.clone(),
    };
    let cd = IdeDrive::Cd { unit: cd(script.byte() & 1 == 0), stats: Arc::default(), errors };
    let to = IdeConnections {
        memory: Arc::clone(&memory),
        irqs: [RecordingLine::new(), RecordingLine::new()],
        placement: Placement::PerQueue,
    };
    let function = Piix3Ide::new(Bdf::new(0, 1, 1), [[Some(disk), Some(cd)], [None, None]], to).expect("a function");
    let _ = function.config_write(0x20, &(BUS_MASTER as u32).to_le_bytes());
    let _ = function.config_write(0x04, &5u16.to_le_bytes());
    function.start().expect("a started function");
    let regions = function.regions();
    let at = |base| Arc::clone(&regions.iter().find(|region| region.base == base).expect("ports").device);
    let (command, control, master) = (at(0x1f0), at(0x3f6), at(BUS_MASTER));
    for _ in 0..STEPS {
        if script.0.is_empty() {
            break;
        }
        match script.byte() % 8 {
            0 => access(&*command, 8, script),
            1 => access(&*master, 16, script),
            2 => write(&*control, 0, &[script.pick(&[0x08, 0x0a, 0x0c, 0x88])]),
            3 => prd_table(&memory, &*master, script),
            4 => {
                // A command with its registers.
                write(&*command, 6, &[script.pick(&[0xe0, 0xa0, 0xf0, 0xb0, 0xef])]);
                for (register, value) in (1..6).zip(script.bytes(5)) {
                    write(&*command, register, &[value & 7]);
                }
                write(&*command, 7, &[script.byte()]);
                write(&*master, 0, &[script.pick(&[9, 1, 0])]);
            }
            5 => {
                write(&*command, 6, &[0xb0]);
                write(&*command, 1, &[script.byte() & 3]);
                write(&*command, 4, &[script.byte()]);
                write(&*command, 5, &[script.byte()]);
                write(&*command, 7, &[0xa0]);
                let len = script.pick(&[12, 12, 12, 5]);
                script.bytes(len).chunks(2).for_each(|word| write(&*command, 0, word));
                write(&*master, 0, &[script.pick(&[9, 1, 0])]);
            }
            6 => {
                for _ in 0..usize::from(script.byte()) * 4 {
                    read(&*command, 0, 4);
                    write(&*command, 0, &[0x55; 2]);
                }
            }
            _ => settle(&*control),
        }
    }
    write(&*control, 0, &[0x08]);
    settle(&*control);
    function.pause();
    function.drain();
    function.reset();
}

fn settle(control: &dyn BusDevice) {
    let began = Instant::now();
    while read(control, 0, 1) & 0x80 != 0 {
        // Only a reset that is held keeps a drive busy.
        write(control, 0, &[0x08]);
        assert!(began.elapsed() < PATIENCE, "a drive is busy for ever");
        std::thread::yield_now();
    }
}

/// Regions that begin in RAM, at its end, or nowhere.
fn prd_table(memory: &Arc<GuestRam>, master: &dyn BusDevice, script: &mut Script<'_>) {
    for n in 0..8 {
        let near = u32::try_from(script.number(2)).unwrap_or(0);
        let address = near.wrapping_add(script.pick(&[0x8000, 0x8000, 0x8000, 0xf_0000, 0x2000_0000, 0xffff_0000]));
        let count = u32::try_from(script.number(2)).unwrap_or(0) | u32::from(script.byte() & 1) << 31;
        let entry = u64::from(address) | u64::from(count) << 32;
        memory.write_slice(&entry.to_le_bytes(), GuestAddress(TABLE + 8 * n)).expect("RAM");
    }
    write(master, 4, &(TABLE as u32).to_le_bytes());
}

/// Command blocks for a disk and two CD drives, one of them empty. No reply is longer than what was asked for, and
/// nothing outside of the medium is touched.
///
/// # Panics
/// When it is.
pub fn scsi(bytes: &[u8]) {
    let script = &mut Script(bytes);
    let disk = LogicalUnit::new(UnitConfig::disk("disk"), Some(MemImage::new(DISK)), &Reservations::new());
    let units = [disk.expect("a disk"), cd(true), cd(false)];
    for _ in 0..STEPS {
        if script.0.is_empty() {
            break;
        }
        let unit = script.pick(&[&units[0], &units[0], &units[1], &units[2]]);
        let Ok(cdb) = Cdb::parse(&script.bytes(16)) else { continue };
        let plan = match unit.begin(&cdb) {
            Plan::Parameters(len) => {
                assert!(len <= MAX_PARAMETERS, "{len} bytes of parameters");
                let mut parameters = script.bytes(len.min(64));
                parameters.resize(len, 0);
                unit.parameters(&cdb, &parameters)
            }
            plan => plan,
        };
        match plan {
            Plan::Done(_) | Plan::Preempt(_) => {}
            Plan::Parameters(_) => panic!("{cdb:02x?} asks twice"),
            Plan::Media(media) => work(unit, media),
        }
    }
}

/// Carries work on the medium out, on an image that refuses what is outside of it.
fn work(unit: &LogicalUnit, media: Media) {
    let len = match media {
        Media::Read { len, .. } | Media::Write { len, .. } => usize::try_from(len).expect("a length"),
        _ => 0,
    };
    assert!(len as u64 <= DISK, "{len} bytes of a smaller medium");
    let bounce = Bounce::new(len).expect("memory");
    let buffers = if len > 0 { bounce.lend(0, len) } else { rhea_block::Buffers::none() };
    let Ok(claim) = unit.claim(&media) else { return };
    let mut queue = unit.medium().expect("a medium").image().open_queue(1).expect("a queue");
    let (mut job, mut step) = Job::start(media, 0, buffers, claim);
    while let Step::Submit(request) = step {
        queue.submit(request);
        queue.kick();
        step = match queue.reap().expect("an answer").result {
            Ok(()) => job.completed(),
            Err(error) => panic!("the image refuses: {error}"),
        };
    }
}

/// Chips with a few registers: the clock, fw_cfg, flash, and configuration space by its two ports.
///
/// # Panics
/// When one of them does.
pub fn chips(bytes: &[u8]) {
    let (script, memory) = (&mut Script(bytes), ram(MEMORY));
    let clock = Arc::new(ManualClock::new(Duration::from_secs(1_795_466_878)));
    let line = RecordingLine::new();
    let shared = Arc::clone(&clock) as SharedClock;
    let cmos = Arc::new(Cmos::new(RtcOptions::default(), &CmosLayout::default(), shared, line));
    let rtc = cmos.ports().remove(0).device;
    let mut builder = FwCfgBuilder::new();
    builder.file("opt/a", vec![7; 5000]).expect("a file");
    let fw_cfg = builder.build(Arc::clone(&memory));
    let flash = Flash::new("flash", MemImage::new(DISK), Arc::default()).expect("a chip");
    flash.start().expect("a started chip");
    let router = PirqRouter::new(std::array::from_fn(|_| None::<Arc<dyn IrqLine>>));
    let bridge = Arc::new(Piix3::new(router));
    let host = PciHost::new(bridge.reset_control());
    host.insert(Bdf::new(0, 0, 0), Arc::new(I440fx::new())).expect("a free slot");
    host.insert(Bdf::new(0, 1, 0), bridge).expect("a free slot");
    for _ in 0..STEPS {
        if script.0.is_empty() {
            break;
        }
        match script.byte() % 6 {
            0 => {
                write(&*rtc, 0, &[script.byte() & 0x7f]);
                write(&*rtc, 1, &[script.byte()]);
                read(&*rtc, 1, 1);
            }
            1 => clock.advance(script.number(5)),
            2 => access(&*fw_cfg, 12, script),
            3 => {
                // A descriptor of fw_cfg, and the address that starts it.
                let mut descriptor = vec![script.byte() & 1, script.byte(), 0, script.byte() & 0x1f];
                descriptor.extend([0, script.byte() & 1]);
                descriptor.extend(script.bytes(2));
                descriptor.extend([0, 0, 0, 0, 0, script.byte() & 0x1f]);
                descriptor.extend(script.bytes(2));
                memory.write_slice(&descriptor, GuestAddress(TABLE)).expect("RAM");
                write(&*fw_cfg, 8, &(TABLE as u32).to_be_bytes());
            }
            4 => {
                let at = script.number(3);
                let command = script.pick(&[0x10, 0x20, 0x40, 0xd0, 0xe8, 0x70, 0x90, 0x98, 0xff, 0x50]);
                write(&flash, at % DISK, &[command]);
                write(&flash, script.number(3) % (DISK + 4), &script.bytes(1));
                access(&flash, DISK, script);
            }
            _ => {
                write(&host, 0, &(0x8000_0000 | u32::try_from(script.number(2)).unwrap_or(0) & 0xfffc).to_le_bytes());
                access(&host, 8, script);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marsaglia: xorshift, of a fixed beginning.
    fn scripts(seed: u64) -> impl Iterator<Item = Vec<u8>> {
        let mut state = seed | 1;
        std::iter::repeat_with(move || {
            std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Small numbers are lengths and commands that exist, more often than not.
                let any = (state >> 32) as u8;
                if state >> 61 < 3 { any & 0x0f } else { any }
            })
            .take(2000)
            .collect()
        })
    }

    #[test]
    fn scripts_of_fixed_numbers_harm_no_ide_drive() {
        scripts(1).take(40).for_each(|script| ide(&script));
    }

    #[test]
    fn scripts_of_fixed_numbers_harm_no_scsi_unit() {
        scripts(2).take(300).for_each(|script| scsi(&script));
    }

    #[test]
    fn scripts_of_fixed_numbers_harm_no_chip() {
        scripts(3).take(100).for_each(|script| chips(&script));
    }
}
