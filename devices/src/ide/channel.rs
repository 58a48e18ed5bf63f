//! One channel: registers, the drive that was chosen, and the one command that is being carried out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rhea_block::Request;
use serde::{Deserialize, Serialize};

use super::atapi::Packet;
use super::bus_master::BusMaster;
use super::drive::{Disk, Drive, IdeError, Kind};
use super::regs::{TaskFile, control, device, error, port, status};
use super::transfer::{BUFFER, Sectors, Step, Trim};
use super::worker::Link;
use crate::irq::IrqLine;
use crate::memory::RamView;
use crate::moment::Moment;
use crate::scsi::bounce::Bounce;
use crate::scsi::{Job, Medium};
use crate::virtio::queue::GuestRange;

/// Where the command in progress is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// There is none.
    #[default]
    Idle,
    /// The image works, or will when the machine goes on.
    Busy,
    /// The host reads the buffer through the data register.
    In,
    /// The host fills the buffer.
    Out,
    /// Ready for the bus master.
    Armed,
}

/// What the command in progress does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// Nothing.
    #[default]
    None,
    /// Moves sectors.
    Sectors(Sectors),
    /// Hands over what is in the buffer.
    Reply,
    /// Makes written data durable.
    Flush,
    /// Discards ranges.
    Trim(Trim),
    /// Carries out a packet.
    Packet(Packet),
}

/// The command in progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Work {
    /// Number of its drive.
    pub(super) drive: usize,
    pub(super) phase: Phase,
    pub(super) task: Task,
    /// The data register's place in the buffer, and where the current block ends.
    pub(super) pos: usize,
    pub(super) end: usize,
    /// Bytes of the buffer that are filled.
    pub(super) filled: usize,
    /// The image's work that is out, or held until the machine goes on.
    pub(super) step: Option<Step>,
    /// It is held.
    pub(super) held: bool,
}

/// Work for the channel's thread.
pub(super) struct Order {
    pub(super) medium: Arc<Medium>,
    pub(super) request: Request,
}

/// The part under the lock.
pub(super) struct Channel {
    pub(super) irq: Arc<dyn IrqLine>,
    pub(super) ram: RamView,

    pub(super) drives: [Option<Drive>; 2],
    /// Registers of a drive that is not there.
    nobody: TaskFile,
    pub(super) second: bool,
    pub(super) control: u8,
    /// The drive wants an interrupt.
    pub(super) interrupt: bool,
    pub(super) bus_master: BusMaster,
    /// The guest lets the function write to memory.
    pub(super) may_master: bool,
    pub(super) buffer: Bounce,
    pub(super) ranges: Vec<GuestRange>,
    pub(super) work: Work,
    pub(super) job: Option<Job>,
    pub(super) began: Moment,
    pub(super) in_flight: bool,
    /// A reset waits for what is in flight.
    reset: Option<Reset>,
    pub(super) paused: bool,
    pub(super) outbox: Option<Order>,
}

/// Which drives a reset concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    Both,
    One(usize),
}

/// A channel and the way to its thread.
pub(super) struct Shared {
    channel: Mutex<Channel>,
    quiet: Condvar,
    pub(super) link: OnceLock<Link>,
    /// A medium came or went: the thread has to let go of those that are no longer there.
    pub(super) media_changed: AtomicBool,
}

impl Shared {
    pub(super) fn new(channel: Channel) -> Arc<Self> {
        Arc::new(Self {
            channel: Mutex::new(channel),
            quiet: Condvar::new(),
            link: OnceLock::new(),
            media_changed: AtomicBool::new(false),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the channel; what it wants of an image is left to the thread.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Channel) -> T) -> T {
        let (result, order) = {
            let mut channel = self.lock();
            (f(&mut channel), channel.outbox.take())
        };
        match (order, self.link.get()) {
            (None, _) => {}
            (Some(order), Some(link)) => link.send(order),
            // Before the start there is no thread: nothing may wait for one.
            (Some(_), None) => drop(self.completed(Err(libc::EIO))),
        }
        result
    }

    /// A request is done; returns what to do next. Called on the channel's thread.
    pub(super) fn completed(&self, result: Result<(), i32>) -> Option<Order> {
        let mut channel = self.lock();
        channel.completed(result);
        let order = channel.outbox.take();
        if !channel.in_flight {
            self.quiet.notify_all();
        }
        order
    }

    /// Tells the thread that a medium came or went.
    pub(super) fn medium_changed(&self) {
        self.media_changed.store(true, Ordering::Release);
        if let Some(link) = self.link.get() {
            link.wake();
        }
    }

    /// Generations of the media in the drives.
    pub(super) fn media(&self) -> Vec<u64> {
        let media = self.lock().drives.iter().flatten().filter_map(Drive::medium).collect::<Vec<_>>();
        media.iter().map(|medium| medium.generation()).collect()
    }

    /// Waits until nothing is in flight.
    pub(super) fn drain(&self) {
        let mut channel = self.lock();
        while channel.in_flight {
            channel = self.quiet.wait(channel).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Channel {
    pub(super) fn new(irq: Arc<dyn IrqLine>, ram: RamView, drives: [Option<Drive>; 2]) -> Result<Self, IdeError> {
        Ok(Self {
            irq,
            ram,
            drives,
            nobody: TaskFile::default(),
            second: false,
            control: 0,
            interrupt: false,
            bus_master: BusMaster::default(),
            may_master: false,
            buffer: Bounce::new(BUFFER).ok_or(IdeError::Memory)?,
            ranges: Vec::new(),
            work: Work::default(),
            job: None,
            began: Moment::now(),
            in_flight: false,
            reset: None,
            paused: false,
            outbox: None,
        })
    }

    /// Number of the drive that was chosen.
    fn selected(&self) -> usize {
        usize::from(self.second)
    }

    fn there(&self, n: usize) -> bool {
        self.drives.get(n).is_some_and(Option::is_some)
    }

    pub(super) fn drive(&mut self, n: usize) -> Option<&mut Drive> {
        self.drives.get_mut(n)?.as_mut()
    }

    /// Registers of the drive whose command is in progress.
    pub(super) fn regs(&mut self) -> &mut TaskFile {
        let n = self.work.drive;
        match self.drives.get_mut(n) {
            Some(Some(drive)) => &mut drive.regs,
            _ => &mut self.nobody,
        }
    }

    /// The disk whose command is in progress.
    pub(super) fn disk(&mut self) -> Result<&mut Disk, u8> {
        match self.drive(self.work.drive).map(|drive| &mut drive.kind) {
            Some(Kind::Disk(disk)) => Ok(disk),
            _ => Err(error::ABRT),
        }
    }

    /// The level of the wire: INTRQ is the chosen drive's, and NIEN lets go of it (ATA8-APT, 7.2.2).
    fn wire(&self) -> bool {
        self.interrupt && self.control & control::NIEN == 0
    }

    pub(super) fn drive_irq(&self) {
        self.irq.set(self.wire());
    }

    pub(super) fn raise(&mut self) {
        self.interrupt = true;
        self.note_interrupt();
        self.drive_irq();
    }

    /// The bus master remembers what it sees on the wire, not what the drive wants (82371SB, 2.7.2).
    fn note_interrupt(&mut self) {
        if self.wire() {
            self.bus_master.note_interrupt();
        }
    }

    fn lower(&mut self) {
        self.interrupt = false;
        self.drive_irq();
    }

    /// The command is over, and went well.
    pub(super) fn succeed(&mut self) {
        self.rest();
        let regs = self.regs();
        regs.status = status::DRDY | status::DSC;
        regs.error = 0;
        self.raise();
    }

    /// The command is over with these bits in the error register.
    pub(super) fn fail(&mut self, bits: u8) {
        if self.work.phase == Phase::Armed || self.bus_master.active() {
            self.bus_master.stop();
        }
        self.rest();
        let regs = self.regs();
        regs.status = status::DRDY | status::ERR;
        regs.error = bits;
        self.raise();
    }

    /// No command is in progress any more.
    pub(super) fn rest(&mut self) {
        self.bus_master.settle();
        self.work = Work { drive: self.work.drive, ..Work::default() };
        self.job = None;
    }

    /// A register of the command block, but for data.
    pub(super) fn read(&mut self, at: u64) -> u8 {
        let n = self.selected();
        // A drive that is not there leaves the wires to the pull-downs; the other one may answer for it with zeroes.
        if !self.there(n) {
            return 0;
        }
        let before = self.control & control::HOB != 0;
        let Some(drive) = self.drive(n) else { return 0 };
        let regs = drive.regs;
        match at {
            port::ERROR => regs.error,
            port::COUNT => regs.count.get(before),
            port::LBA_LOW => regs.low.get(before),
            port::LBA_MID => regs.mid.get(before),
            port::LBA_HIGH => regs.high.get(before),
            port::DEVICE => regs.device,
            _ => {
                self.lower();
                regs.status
            }
        }
    }

    /// The status without taking the interrupt back.
    pub(super) fn alternate_status(&mut self) -> u8 {
        let n = self.selected();
        self.drive(n).map_or(0, |drive| drive.regs.status)
    }

    /// A write to the command block, but for data. Both drives take it; while one is busy, neither does.
    pub(super) fn write(&mut self, at: u64, value: u8) {
        // Any write makes reads show the last bytes again (ATA8-ACS, 6.2.4).
        self.control &= !control::HOB;
        if at == port::STATUS {
            return self.command(value);
        }
        if self.work.phase == Phase::Busy || self.reset.is_some() || self.control & control::SRST != 0 {
            return;
        }
        for drive in self.drives.iter_mut().flatten() {
            let regs = &mut drive.regs;
            match at {
                port::ERROR => regs.features.write(value),
                port::COUNT => regs.count.write(value),
                port::LBA_LOW => regs.low.write(value),
                port::LBA_MID => regs.mid.write(value),
                port::LBA_HIGH => regs.high.write(value),
                _ => regs.device = value | device::FIXED,
            }
        }
        if at == port::DEVICE {
            self.second = value & device::SECOND != 0;
        }
    }

    /// The device control register.
    pub(super) fn write_control(&mut self, value: u8) {
        let was = self.control & control::SRST != 0;
        let is = value & control::SRST != 0;
        let was_high = self.wire();
        self.control = value & (control::NIEN | control::SRST | control::HOB);
        if !was && is {
            self.rest();
            self.lower();
            for drive in self.drives.iter_mut().flatten() {
                drive.regs.status = status::BSY;
            }
        } else if was && !is {
            self.reset_when_quiet(Reset::Both);
        }
        if !was_high {
            self.note_interrupt();
        }
        self.drive_irq();
    }

    /// Requests cannot be called back: BSY stays until the last one is done.
    fn reset_when_quiet(&mut self, which: Reset) {
        if self.in_flight {
            self.reset = Some(which);
        } else {
            self.finish_reset(which);
        }
    }

    fn finish_reset(&mut self, which: Reset) {
        self.reset = None;
        self.rest();
        for (n, drive) in self.drives.iter_mut().enumerate() {
            if let Some(drive) = drive.as_mut().filter(|_| which == Reset::Both || which == Reset::One(n)) {
                drive.sign();
            }
        }
        if which == Reset::Both {
            self.second = false;
        }
    }

    /// EXECUTE DEVICE DIAGNOSTIC: both drives show themselves, and device 0 is chosen (ATA8-ACS, 7.11).
    pub(super) fn diagnose(&mut self) {
        self.finish_reset(Reset::Both);
        self.raise();
    }

    /// DEVICE RESET: without an interrupt (ATA/ATAPI-7, 6.12).
    pub(super) fn reset_one(&mut self, n: usize) {
        self.rest();
        if let Some(drive) = self.drive(n) {
            drive.regs.status = status::BSY;
        }
        self.reset_when_quiet(Reset::One(n));
    }

    fn command(&mut self, code: u8) {
        let n = self.selected();
        if self.control & control::SRST != 0 || self.reset.is_some() {
            return;
        }
        let Some(drive) = self.drive(n) else { return };
        let cd = drive.is_cd();
        let busy = drive.regs.status & (status::BSY | status::DRQ) != 0;
        if busy || self.work.phase == Phase::Busy {
            // Only a packet drive can be called off.
            if cd && code == super::command::DEVICE_RESET && n == self.work.drive {
                self.reset_one(n);
            }
            return;
        }
        self.lower();
        if self.work.drive != n && self.work.phase != Phase::Idle {
            // The other one still has data to move. Both share the wires, and a host must not do this: what is left over
            // is lost, but not that drive.
            self.rest();
            self.regs().status = status::DRDY | status::DSC;
        }
        self.work = Work { drive: n, ..Work::default() };
        self.job = None;
        let regs = self.regs();
        regs.status = status::DRDY | status::DSC;
        regs.error = 0;
        let result = match super::command::find(cd, code) {
            Some(run) => run(self, code),
            None => Err(error::ABRT),
        };
        if let Err(bits) = result {
            self.fail(bits);
        }
    }

    /// The data register: `data` is 2 or 4 bytes.
    pub(super) fn read_data(&mut self, data: &mut [u8]) {
        data.fill(0);
        if self.work.phase != Phase::In || self.selected() != self.work.drive {
            return;
        }
        let len = data.len().min(self.work.end.saturating_sub(self.work.pos));
        if let Some(data) = data.get_mut(..len) {
            self.buffer.get(self.work.pos, data);
        }
        self.work.pos += len;
        if self.work.pos >= self.work.end {
            self.block_read();
        }
    }

    /// The data register: `data` is 2 or 4 bytes.
    pub(super) fn write_data(&mut self, data: &[u8]) {
        if self.work.phase != Phase::Out || self.selected() != self.work.drive {
            return;
        }
        let len = data.len().min(self.work.end.saturating_sub(self.work.pos));
        self.buffer.put(self.work.pos, data.get(..len).unwrap_or_default());
        self.work.pos += len;
        if self.work.pos >= self.work.end {
            self.block_written();
        }
    }

    /// A write to the bus master's registers; `None` where there are none.
    pub(super) fn write_bus_master(&mut self, at: u64, len: usize, value: u32) -> Option<()> {
        let at_work = self.work.phase == Phase::Busy;
        if self.bus_master.write(at, len, value, at_work)? {
            self.run_dma();
        }
        Some(())
    }

    fn completed(&mut self, result: Result<(), i32>) {
        self.in_flight = false;
        match self.reset {
            Some(which) => self.finish_reset(which),
            // SRST came meanwhile and is still set.
            None if self.work.phase != Phase::Busy => {}
            None => self.step_done(result),
        }
    }

    /// Goes on with what was held.
    pub(super) fn resume(&mut self) {
        self.paused = false;
        if std::mem::take(&mut self.work.held) {
            self.send();
        }
    }

    /// Back to power-on; nothing is in flight.
    pub(super) fn power_on(&mut self) {
        self.drives.iter_mut().flatten().for_each(Drive::power_on);
        self.second = false;
        self.control = 0;
        self.bus_master = BusMaster::default();
        self.may_master = false;
        self.work = Work::default();
        self.job = None;
        self.reset = None;
        self.outbox = None;
        self.lower();
    }
}
