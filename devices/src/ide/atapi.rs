//! The packet protocol (ATA/ATAPI-7, 6.24 and volume 2, 11.8): a command block comes in through the data register, data
//! goes by it or by DMA, and the count register says why the host is interrupted.

use std::sync::Arc;

use rhea_block::Buffers;
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Phase, Task};
use super::drive::Kind;
use super::regs::{error, reason, status};
use super::transfer::{Action, BUFFER, Step};
use crate::scsi::{self, Cdb, Job, LogicalUnit, Media, Plan, Reply, Sense};

/// Length of a packet.
const PACKET: usize = 12;

/// Greatest byte count limit: all ones mean one less (ATA/ATAPI-7, 6.24.4).
const MAX_LIMIT: usize = 0xfffe;

/// Bits of the features register.
const DMA: u8 = 0x01;
const OVERLAPPED: u8 = 0x02;

/// A packet command in progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Packet {
    dma: bool,
    /// Most bytes between two interrupts.
    limit: usize,
    /// The command block, once it is here.
    cdb: Vec<u8>,
    /// Bytes of parameters that the host has to send; 0 when none are wanted.
    wanted: usize,
    /// Data for the host that is not in the buffer yet.
    pending: Vec<u8>,
    /// First byte that the image has not been asked for yet, and bytes from there.
    offset: u64,
    left: u64,
    /// Generation of the medium that is read, in this process.
    #[serde(skip)]
    medium: Option<u64>,
}

impl Packet {
    /// Bytes of the next block, of `rest`: even, unless it is the last (ATA/ATAPI-7, 6.24.7.2).
    pub(super) fn block(&self, rest: usize) -> usize {
        if rest <= self.limit { rest } else { rest.min(self.even()) }
    }

    fn even(&self) -> usize {
        (self.limit & !1).max(2)
    }

    /// Bytes that the buffer is filled with at once: whole blocks.
    fn fill(&self) -> usize {
        if self.dma { BUFFER } else { BUFFER - BUFFER % self.even() }
    }

    /// Why this cannot be a state.
    pub(super) fn check(&self) -> Result<(), String> {
        let sizes = self.wanted <= BUFFER && self.pending.len() <= 1 << 20 && self.limit <= MAX_LIMIT;
        if !matches!(self.cdb.len(), 0 | PACKET) || !sizes {
            return Err("a packet that cannot be".to_owned());
        }
        Ok(())
    }
}

impl Channel {
    fn packet(&mut self) -> Option<&mut Packet> {
        match &mut self.work.task {
            Task::Packet(packet) => Some(packet),
            _ => None,
        }
    }

    fn unit(&mut self) -> Option<Arc<LogicalUnit>> {
        match self.drive(self.work.drive).map(|drive| &drive.kind) {
            Some(Kind::Cd(unit)) => Some(Arc::clone(unit)),
            _ => None,
        }
    }

    /// Whether what is in the drive is another disc than the one that a packet's read began with.
    pub(super) fn is_another_disc(&mut self) -> bool {
        let began = self.packet().and_then(|packet| packet.medium);
        began.is_some() && began != self.generation()
    }

    fn generation(&mut self) -> Option<u64> {
        self.unit()?.medium().map(|medium| medium.generation())
    }

    /// PACKET: asks for the command block.
    pub(super) fn begin_packet(&mut self) -> Result<(), u8> {
        let regs = self.regs();
        let features = regs.features.now;
        if features & OVERLAPPED != 0 {
            return Err(error::ABRT);
        }
        let limit = regs.byte_count();
        let packet = Packet { dma: features & DMA != 0, limit: limit.min(MAX_LIMIT), ..Packet::default() };
        self.work.task = Task::Packet(packet);
        self.regs().count.set(reason::COMMAND);
        self.accept(PACKET, false);
        Ok(())
    }

    /// Tells the size of a block and its direction.
    pub(super) fn tell_block(&mut self, len: usize, to_host: bool) {
        let regs = self.regs();
        regs.set_byte_count(len);
        regs.count.set(if to_host { reason::TO_HOST } else { 0 });
    }

    /// The host has written a block: the packet, or parameters.
    pub(super) fn packet_written(&mut self) {
        let buffer = self.buffer.to_vec(0, self.work.end);
        let Some(packet) = self.packet() else { return };
        if packet.cdb.is_empty() {
            packet.cdb = buffer;
            return self.execute_packet();
        }
        if buffer.len() < packet.wanted {
            return self.want_parameters();
        }
        let field = packet.cdb.clone();
        let (Some(unit), Ok(cdb)) = (self.unit(), Cdb::parse(&field)) else { return self.fail(error::ABRT) };
        let plan = unit.parameters(&cdb, &buffer);
        self.follow(plan);
    }

    /// Opens the data register for the next block of parameters.
    fn want_parameters(&mut self) {
        let here = self.work.end;
        let Some(packet) = self.packet() else { return };
        let len = packet.block(packet.wanted - here);
        self.work.phase = Phase::Out;
        (self.work.pos, self.work.end) = (here, here + len);
        self.regs().status = status::DRDY | status::DSC | status::DRQ;
        self.tell_block(len, false);
        self.raise();
    }

    fn execute_packet(&mut self) {
        let Some(field) = self.packet().map(|packet| packet.cdb.clone()) else { return };
        let Some(unit) = self.unit() else { return self.fail(error::ABRT) };
        let cdb = match Cdb::parse(&field) {
            Ok(cdb) => cdb,
            Err(sense) => return self.packet_check(Some(sense)),
        };
        // REQUEST SENSE asks why the command before it failed; any other makes that forgotten.
        if cdb.opcode() != 0x03 {
            unit.keep_sense(None);
        }
        let plan = unit.begin(&cdb);
        self.follow(plan);
    }

    /// Does what held work asks for once more from its beginning.
    pub(super) fn restart_packet(&mut self) {
        self.job = None;
        self.work.step = None;
        self.execute_packet();
    }

    fn follow(&mut self, plan: Plan) {
        match plan {
            Plan::Done(reply) => self.packet_reply(reply),
            // A CD drive shows its image alone: there is nobody whose commands would have to end.
            Plan::Preempt(_) => self.packet_reply(Reply::good()),
            Plan::Parameters(wanted) => {
                let Some(packet) = self.packet() else { return };
                // Parameters are short; they come through the data register (no command of a CD drive takes many).
                if wanted > BUFFER || packet.dma || packet.limit == 0 {
                    return self.fail(error::ABRT);
                }
                packet.wanted = wanted;
                self.work.end = 0;
                self.want_parameters();
            }
            Plan::Media(Media::Read { offset, len }) => {
                let Some(packet) = self.packet() else { return };
                if packet.limit == 0 && !packet.dma {
                    return self.fail(error::ABRT);
                }
                (packet.offset, packet.left) = (offset, len);
                let medium = self.generation();
                self.packet().into_iter().for_each(|packet| packet.medium = medium);
                self.refill();
            }
            Plan::Media(media) => {
                let len = media.bytes();
                let (job, step) = Job::start(media, 0, Buffers::none(), None);
                self.job = Some(job);
                self.job_step(len, step);
            }
        }
    }

    fn job_step(&mut self, len: u64, step: scsi::Step) {
        match step {
            scsi::Step::Done(reply) => self.packet_reply(reply),
            scsi::Step::Submit(request) => {
                self.work.phase = Phase::Busy;
                self.regs().status = status::BSY | status::DRDY | status::DSC;
                self.work.step = Some(Step { action: Action::Job, offset: 0, len, guest: false });
                if self.paused {
                    // Nothing was changed yet: it begins anew when the machine goes on.
                    self.work.held = true;
                } else {
                    self.order(request);
                }
            }
        }
    }

    pub(super) fn packet_step_done(&mut self, step: Step) {
        if step.action == Action::Job {
            if let Some(mut job) = self.job.take() {
                let next = job.completed();
                self.job = Some(job);
                self.job_step(step.len, next);
            }
            return;
        }
        let Some(packet) = self.packet() else { return };
        packet.offset += step.len;
        packet.left -= step.len.min(packet.left);
        self.present(usize::try_from(step.len).unwrap_or(0));
    }

    pub(super) fn packet_failed(&mut self, errno: i32) {
        self.packet_check(Some(Sense::of_errno(errno)));
    }

    /// The unit's answer: data first, then the status.
    fn packet_reply(&mut self, reply: Reply) {
        if reply.status != scsi::status::GOOD {
            return self.packet_check(reply.sense);
        }
        let Some(packet) = self.packet() else { return };
        if !reply.data.is_empty() && packet.limit == 0 && !packet.dma {
            return self.fail(error::ABRT);
        }
        packet.pending = reply.data;
        self.refill();
    }

    /// Fills the buffer with what comes next for the host, or ends.
    fn refill(&mut self) {
        let Some(packet) = self.packet() else { return };
        if !packet.pending.is_empty() {
            let rest = packet.pending.split_off(packet.pending.len().min(packet.fill()));
            let now = std::mem::replace(&mut packet.pending, rest);
            self.buffer.put(0, &now);
            self.present(now.len());
        } else if packet.left > 0 {
            let (offset, len) = (packet.offset, packet.left.min(packet.fill() as u64));
            self.submit(Step { action: Action::Read, offset, len, guest: false });
        } else {
            self.packet_good();
        }
    }

    /// Hands over the buffer's first `len` bytes.
    fn present(&mut self, len: usize) {
        if self.packet().is_some_and(|packet| packet.dma) {
            (self.work.pos, self.work.filled) = (0, len);
            self.arm();
        } else {
            self.show(len);
        }
    }

    /// The host has read the buffer.
    pub(super) fn packet_read(&mut self) {
        self.refill();
    }

    /// Copies the buffer where the bus master leads.
    pub(super) fn packet_dma(&mut self) {
        while self.work.pos < self.work.filled {
            let rest = (self.work.filled - self.work.pos) as u64;
            let Some(found) = self.gather(rest, 1, false) else { return };
            let len = usize::try_from(found).unwrap_or(0);
            self.copy_to_guest(&self.buffer.to_vec(self.work.pos, len));
            self.work.pos += len;
        }
        self.refill();
    }

    fn packet_good(&mut self) {
        if self.packet().is_some_and(|packet| packet.dma) {
            self.bus_master.drive_done();
        }
        self.regs().count.set(reason::COMMAND | reason::TO_HOST);
        self.succeed();
    }

    /// The command failed: the sense key goes to the error register, the rest waits for REQUEST SENSE.
    pub(super) fn packet_check(&mut self, sense: Option<Sense>) {
        if let Some(unit) = self.unit() {
            unit.keep_sense(sense);
        }
        self.regs().count.set(reason::COMMAND | reason::TO_HOST);
        self.fail(sense.map_or(error::ABRT, |sense| sense.key << 4));
    }
}
