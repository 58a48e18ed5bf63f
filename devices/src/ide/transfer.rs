//! The movement of data: between image, buffer, guest memory and data register, one step at a time.

use rhea_block::{Buffers, Op, Request};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use super::channel::{Channel, Order, Phase, Task};
use super::drive::SECTOR;
use super::identify::MAX_TRIM_BLOCKS;
use super::regs::{error, status};
use crate::block_errors::ErrorAction;
use crate::block_stats::Counted;
use crate::memory;
use crate::moment::Moment;
use crate::scsi::sense;
use crate::virtio::queue::lend;

/// Bytes of a channel's buffer: as much as is read ahead for the data register.
pub(super) const BUFFER: usize = 128 << 10;
/// Most bytes that one request moves to or from guest memory.
const CHUNK: u64 = 1 << 20;

/// Sectors on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sectors {
    pub(super) way: Way,
    pub(super) dma: bool,
    pub(super) lba48: bool,
    /// First byte that the image has not been asked for yet.
    pub(super) offset: u64,
    /// Bytes from there.
    pub(super) left: u64,
    /// Bytes between two interrupts.
    pub(super) block: usize,
}

/// Where sectors go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// To the host.
    Read,
    /// From the host.
    Write,
    /// Nowhere.
    Verify,
}

/// Ranges to discard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trim {
    /// Blocks of ranges that the host sends; 0 once they are here.
    pub(super) blocks: u32,
    /// First byte and length, the last range first.
    pub(super) ranges: Vec<(u64, u64)>,
}

/// What the image is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Action {
    Read,
    Write {
        fua: bool,
    },
    Flush,
    Discard,
    /// A job knows.
    Job,
}

impl Action {
    /// Whether its data is in the buffer, where it is not in guest memory.
    pub(super) fn uses_buffer(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. })
    }
}

/// One request, so described that it can be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// To or from the ranges that the bus master gathered; otherwise the buffer.
    pub(super) guest: bool,
}

impl Step {
    fn counted(self) -> Counted {
        match self.action {
            Action::Read | Action::Job => Counted::Read,
            Action::Write { .. } => Counted::Write,
            Action::Flush => Counted::Flush,
            Action::Discard => Counted::Unmap,
        }
    }
}

impl Channel {
    /// Gives the image something to do: now, or when the machine goes on.
    pub(super) fn submit(&mut self, step: Step) {
        self.work.phase = Phase::Busy;
        self.work.step = Some(step);
        // While BSY is set the others mean nothing (ATA8-ACS, 6.2.3); software that looks at DRDY finds it as before.
        self.regs().status = status::BSY | status::DRDY | status::DSC;
        self.send();
    }

    /// Sends the step.
    pub(super) fn send(&mut self) {
        if self.paused {
            self.work.held = true;
            return;
        }
        let Some(step) = self.work.step else { return };
        if step.action == Action::Job {
            return self.restart_packet();
        }
        if self.is_another_disc() {
            return self.packet_check(Some(sense::NO_MEDIUM));
        }
        match self.request(step) {
            Some(request) => self.order(request),
            None => self.step_failed(libc::ENOMEM),
        }
    }

    /// Leaves a request for the thread.
    pub(super) fn order(&mut self, request: Request) {
        let Some(medium) = self.drive(self.work.drive).and_then(|drive| drive.medium()) else {
            return self.step_failed(libc::ENOMEDIUM);
        };
        self.began = Moment::now();
        self.in_flight = true;
        self.outbox = Some(Order { medium, request });
    }

    fn request(&self, step: Step) -> Option<Request> {
        let Step { action, offset, len, guest } = step;
        let op = match action {
            Action::Read => Op::Read,
            Action::Write { fua } => Op::Write { fua },
            Action::Flush => Op::Flush,
            Action::Discard => Op::Discard,
            Action::Job => return None,
        };
        let buffers = match op {
            Op::Read | Op::Write { .. } if guest => lend(&self.ram, self.ranges.iter().copied()).ok()?,
            Op::Read | Op::Write { .. } => self.buffer.lend(0, usize::try_from(len).ok()?),
            _ => Buffers::none(),
        };
        Some(Request { tag: 0, op, offset, len, buffers })
    }

    /// The image is done with the step.
    pub(super) fn step_done(&mut self, result: Result<(), i32>) {
        let Some(step) = self.work.step else { return };
        let (counted, began, now) = (step.counted(), self.began, Moment::now());
        let n = self.work.drive;
        let Some(drive) = self.drive(n) else { return };
        let Err(errno) = result else {
            drive.stats.done(counted, step.len, began, now);
            return self.advance(step);
        };
        match drive.errors.decide(counted != Counted::Read, errno) {
            ErrorAction::Report => {
                drive.stats.failed(counted, began, now);
                self.step_failed(errno);
            }
            ErrorAction::Ignore => {
                drive.stats.done(counted, step.len, began, now);
                self.advance(step);
            }
            ErrorAction::Stop => {
                self.job = None;
                self.work.held = true;
            }
        }
    }

    /// The guest learns of a failure: what could not be read is uncorrectable, other commands are aborted.
    fn step_failed(&mut self, errno: i32) {
        match &self.work.task {
            Task::Packet(_) => self.packet_failed(errno),
            Task::Sectors(sectors) => {
                let (lba, lba48) = (sectors.offset / SECTOR, sectors.lba48);
                let bits = if sectors.way == Way::Write { error::ABRT } else { error::UNC };
                let regs = self.regs();
                if lba48 {
                    regs.set_lba48(lba);
                } else {
                    regs.set_lba28(lba);
                }
                self.fail(bits);
            }
            _ => self.fail(error::ABRT),
        }
    }

    /// The step succeeded: what comes next.
    fn advance(&mut self, step: Step) {
        self.work.step = None;
        if step.guest && step.action == Action::Read {
            for range in &self.ranges {
                memory::mark_written(&self.ram, GuestAddress(range.addr), range.len as usize);
            }
        }
        match &mut self.work.task {
            Task::Sectors(sectors) => {
                sectors.offset += step.len;
                sectors.left -= step.len.min(sectors.left);
                self.sectors_moved(step.len);
            }
            Task::Flush => self.succeed(),
            Task::Trim(_) => self.next_range(),
            Task::Packet(_) => self.packet_step_done(step),
            Task::None | Task::Reply => self.rest(),
        }
    }

    fn sectors_moved(&mut self, len: u64) {
        let Task::Sectors(sectors) = &self.work.task else { return };
        let (way, dma, left) = (sectors.way, sectors.dma, sectors.left);
        match way {
            Way::Read if !dma => self.show(usize::try_from(len).unwrap_or(0)),
            _ if left > 0 => self.next_sectors(true),
            _ => {
                if dma {
                    self.bus_master.drive_done();
                }
                // What was asked for is counted down to nothing.
                self.regs().count.set(0);
                self.succeed();
            }
        }
    }

    /// Begins or goes on moving sectors. The first block of a write is asked for without an interrupt.
    pub(super) fn next_sectors(&mut self, interrupt: bool) {
        let Task::Sectors(Sectors { way, dma, offset, left, block, .. }) = self.work.task else { return };
        let ahead = left.min(BUFFER as u64);
        match way {
            _ if dma => self.arm(),
            Way::Read | Way::Verify => {
                self.submit(Step { action: Action::Read, offset, len: ahead, guest: false });
            }
            Way::Write => {
                let len = usize::try_from(left).unwrap_or(block).min(block);
                self.accept(len, interrupt);
            }
        }
    }

    /// Opens the data register for `len` bytes from the host.
    pub(super) fn accept(&mut self, len: usize, interrupt: bool) {
        self.work.phase = Phase::Out;
        (self.work.pos, self.work.end) = (0, len);
        self.regs().status = status::DRDY | status::DSC | status::DRQ;
        if interrupt {
            self.raise();
        }
    }

    /// Shows the host the first `filled` bytes of the buffer, block by block.
    pub(super) fn show(&mut self, filled: usize) {
        self.work.filled = filled;
        self.work.end = 0;
        self.next_block();
    }

    fn next_block(&mut self) {
        let start = self.work.end;
        let rest = self.work.filled.saturating_sub(start);
        let len = match &self.work.task {
            Task::Sectors(sectors) => rest.min(sectors.block),
            Task::Packet(packet) => packet.block(rest),
            _ => rest,
        };
        self.work.phase = Phase::In;
        (self.work.pos, self.work.end) = (start, start + len);
        self.regs().status = status::DRDY | status::DSC | status::DRQ;
        if matches!(self.work.task, Task::Packet(_)) {
            self.tell_block(len, true);
        }
        self.raise();
    }

    /// The host has read a block.
    pub(super) fn block_read(&mut self) {
        if self.work.end < self.work.filled {
            return self.next_block();
        }
        match &self.work.task {
            Task::Sectors(sectors) if sectors.left > 0 => self.next_sectors(true),
            Task::Packet(_) => self.packet_read(),
            _ => {
                self.rest();
                let regs = self.regs();
                regs.status = status::DRDY | status::DSC;
                regs.count.set(0);
            }
        }
    }

    /// The host has written a block.
    pub(super) fn block_written(&mut self) {
        let len = self.work.end as u64;
        match self.work.task {
            Task::Sectors(Sectors { offset, .. }) => {
                let fua = self.disk().is_ok_and(|disk| !disk.write_cache);
                self.submit(Step { action: Action::Write { fua }, offset, len, guest: false });
            }
            Task::Packet(_) => self.packet_written(),
            _ => self.rest(),
        }
    }

    /// Ready for the bus master, which may be waiting.
    pub(super) fn arm(&mut self) {
        self.work.phase = Phase::Armed;
        self.regs().status = status::DRDY | status::DSC | status::DRQ;
        self.run_dma();
    }

    /// Moves the next chunk by DMA, if both the drive and the bus master are ready.
    pub(super) fn run_dma(&mut self) {
        if self.work.phase != Phase::Armed || !self.bus_master.active() {
            return;
        }
        match self.work.task {
            Task::Sectors(Sectors { way, offset, left, .. }) => {
                let writes = way == Way::Write;
                let Some(len) = self.gather(left, SECTOR, writes) else { return };
                let fua = writes && self.disk().is_ok_and(|disk| !disk.write_cache);
                let action = if writes { Action::Write { fua } } else { Action::Read };
                self.submit(Step { action, offset, len, guest: true });
            }
            Task::Trim(_) => self.trim_by_dma(),
            Task::Packet(_) => self.packet_dma(),
            Task::None | Task::Reply | Task::Flush => {}
        }
    }

    /// Finds guest memory for up to `left` bytes in whole units. `None`: the command is over.
    pub(super) fn gather(&mut self, left: u64, unit: u64, writes: bool) -> Option<u64> {
        if !self.may_master {
            // Without bus mastering nothing is moved: a read ends as if it had been, a write never reaches the disk.
            if writes {
                self.fail(error::ABRT);
            } else {
                self.succeed();
            }
            return None;
        }
        let want = left.min(CHUNK);
        match self.bus_master.gather(&self.ram, want, unit.min(want).max(1), &mut self.ranges) {
            Err(_) => {
                self.bus_master.fail();
                self.fail(error::ABRT);
                None
            }
            Ok(0) => self.table_too_short(),
            Ok(found) if found < want && !found.is_multiple_of(unit) => self.table_too_short(),
            Ok(found) => Some(found),
        }
    }

    /// The table has less than the drive: the bus master stops, and there is no interrupt (82371SB, table 3-7).
    fn table_too_short(&mut self) -> Option<u64> {
        self.bus_master.stop();
        self.rest();
        self.regs().status = status::DRDY | status::DSC;
        None
    }

    /// Copies what is in the gathered ranges.
    pub(super) fn copy_from_guest(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut rest = &mut bytes[..];
        for range in &self.ranges {
            let (now, later) = rest.split_at_mut(rest.len().min(range.len as usize));
            if let Err(error) = self.ram.read_slice(now, GuestAddress(range.addr)) {
                log::debug!("IDE: guest memory vanished: {error}");
            }
            rest = later;
        }
        bytes
    }

    /// Copies to the gathered ranges.
    pub(super) fn copy_to_guest(&self, bytes: &[u8]) {
        let mut rest = bytes;
        for range in &self.ranges {
            let (now, later) = rest.split_at(rest.len().min(range.len as usize));
            if let Err(error) = self.ram.write_slice(now, GuestAddress(range.addr)) {
                log::debug!("IDE: guest memory vanished: {error}");
            }
            rest = later;
        }
    }

    /// Takes the ranges of a TRIM out of guest memory (ATA8-ACS, 7.10.3.2): a number of sectors above a 48-bit address.
    fn trim_by_dma(&mut self) {
        let Task::Trim(Trim { blocks, .. }) = self.work.task else { return };
        let len = u64::from(blocks.min(MAX_TRIM_BLOCKS)) * SECTOR;
        let Some(found) = self.gather(len, len, true) else { return };
        let bytes = self.copy_from_guest(usize::try_from(found).unwrap_or(0));
        let sectors = self.disk().map_or(0, |disk| disk.sectors());
        let (entries, _) = bytes.as_chunks::<8>();
        let mut ranges = Vec::new();
        for entry in entries.iter().rev() {
            let entry = u64::from_le_bytes(*entry);
            let (lba, count) = (entry & 0xffff_ffff_ffff, entry >> 48);
            if count == 0 {
                continue;
            }
            if lba.checked_add(count).is_none_or(|end| end > sectors) {
                return self.fail(error::ABRT | error::IDNF);
            }
            ranges.push((lba * SECTOR, count * SECTOR));
        }
        self.work.task = Task::Trim(Trim { blocks: 0, ranges });
        self.next_range();
    }

    fn next_range(&mut self) {
        let Task::Trim(trim) = &mut self.work.task else { return };
        match trim.ranges.pop() {
            Some((offset, len)) => self.submit(Step { action: Action::Discard, offset, len, guest: false }),
            None => {
                // Not before: software takes a bus master that is not active and has no interrupt for one that failed.
                self.bus_master.drive_done();
                self.succeed();
            }
        }
    }
}
