//! One queue's requests: from chain to image and back. Nothing is allocated for a request once the slots are warm.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rhea_block::{Buffers, Completion, ImageQueue, Op, Request};

use super::config::Shared;
use super::request::{self, Kind, Limits, Parsed, Refused, Segment, result};
use super::{GET_ID_BYTES, Serial};
use crate::block_errors::{ErrorAction, ErrorPolicy};
use crate::block_stats::{BlockStats, Counted};
use crate::memory::RamView;
use crate::moment::Moment;
use crate::virtio::queue::{Chain, QueueError, VirtQueue, lend};
use crate::virtio::worker::QueueHandler;

/// A chain on its way.
struct Slot {
    chain: Chain,
    kind: Kind,
    began: Moment,
    /// Bytes moved, discarded or zeroed.
    bytes: u64,
    /// Requests to the image that are not done.
    parts: u32,
    /// The first error among them.
    error: Option<i32>,
}

/// What all queues of a device share.
pub(super) struct Fixed {
    pub(super) shared: Arc<Shared>,
    pub(super) stats: Arc<BlockStats>,
    pub(super) errors: ErrorPolicy,
    pub(super) serial: Serial,
    pub(super) block: u32,
    pub(super) read_only: bool,
}

/// One queue of a block device, on its thread.
pub(super) struct BlkQueue {
    fixed: Arc<Fixed>,
    image: Box<dyn ImageQueue>,

    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Heads of chains whose error stopped the machine.
    held: Vec<u16>,
    segments: Vec<Segment>,
    /// When the batch at hand began.
    batch: Option<Moment>,
}

impl BlkQueue {
    pub(super) fn new(fixed: Arc<Fixed>, image: Box<dyn ImageQueue>) -> Self {
        let (slots, free, held, segments) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { fixed, image, slots, free, held, segments, batch: None }
    }

    fn limits(&self) -> Limits {
        let Fixed { shared, block, read_only, .. } = &*self.fixed;
        Limits { capacity: shared.capacity(), block: *block, read_only: *read_only }
    }

    /// A free slot; as many are made as chains are ever in flight.
    fn slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let began = Moment::now();
            let chain = Chain::default();
            self.slots.push(Slot { chain, kind: Kind::Flush, began, bytes: 0, parts: 0, error: None });
            self.slots.len() - 1
        })
    }

    /// Takes a request as far as the image, or to its end if it does not get there.
    fn take(&mut self, queue: &mut VirtQueue, at: usize, head: u16) -> Result<(), QueueError> {
        let limits = self.limits();
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        let parsed = queue.walk(head, &mut slot.chain).and_then(|()| request::parse(&slot.chain, queue.ram(), &limits));
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                self.free.push(at);
                return queue.reject(head, &error);
            }
        };
        match parsed.and_then(|parsed| self.submit(queue.ram(), at, &parsed, &limits)) {
            Ok(()) => Ok(()),
            Err(refused) => {
                if let Some(kind) = refused.kind.filter(|_| refused.status == result::IOERR).and_then(counted) {
                    self.fixed.stats.invalid(kind);
                }
                self.answer(queue, at, refused.status)
            }
        }
    }

    fn submit(&mut self, ram: &RamView, at: usize, parsed: &Parsed, limits: &Limits) -> Result<(), Refused> {
        let began = *self.batch.get_or_insert_with(Moment::now);
        let fua = !self.fixed.shared.write_cache();
        let ioerr = Refused { status: result::IOERR, kind: Some(parsed.kind) };
        let slot = self.slots.get_mut(at).ok_or(ioerr)?;
        slot.kind = parsed.kind;
        slot.began = began;
        slot.bytes = u64::from(parsed.data);
        slot.error = None;
        slot.parts = 1;
        let tag = at as u64;
        let (offset, len) = (parsed.offset, u64::from(parsed.data));
        let request = match parsed.kind {
            Kind::GetId => {
                self.fixed.serial.answer(&slot.chain, ram, parsed.data).map_err(|_| ioerr)?;
                return Err(Refused { status: result::OK, kind: Some(parsed.kind) });
            }
            Kind::Read => {
                let buffers = lend(ram, slot.chain.writable(0, parsed.data)).map_err(|_| ioerr)?;
                Request { tag, op: Op::Read, offset, len, buffers }
            }
            Kind::Write => {
                let buffers = lend(ram, slot.chain.readable(request::HEADER, parsed.data)).map_err(|_| ioerr)?;
                Request { tag, op: Op::Write { fua }, offset, len, buffers }
            }
            Kind::Flush => {
                slot.bytes = 0;
                Request { tag, op: Op::Flush, offset: 0, len: 0, buffers: Buffers::none() }
            }
            Kind::Discard | Kind::WriteZeroes => {
                request::segments(&slot.chain, ram, parsed, limits, &mut self.segments)?;
                slot.parts = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
                slot.bytes = self.segments.iter().map(|segment| segment.len).sum();
                for &Segment { offset, len, unmap } in &self.segments {
                    let op = match parsed.kind {
                        Kind::Discard => Op::Discard,
                        _ => Op::WriteZeroes { unmap, fua },
                    };
                    self.image.submit(Request { tag, op, offset, len, buffers: Buffers::none() });
                }
                return Ok(());
            }
        };
        self.image.submit(request);
        Ok(())
    }

    /// One part of a request is done.
    fn completed(&mut self, queue: &mut VirtQueue, done: &Completion, now: Moment) -> Result<(), QueueError> {
        let at = usize::try_from(done.tag).unwrap_or(usize::MAX);
        let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.parts > 0) else {
            log::error!("an image completed a request that it was not given");
            return Ok(());
        };
        slot.parts -= 1;
        if let Err(errno) = done.result {
            slot.error.get_or_insert(errno);
        }
        if slot.parts > 0 {
            return Ok(());
        }
        let Slot { kind, began, bytes, error, .. } = *slot;
        let kind = counted(kind).unwrap_or(Counted::Read);
        let Some(errno) = error else {
            self.fixed.stats.done(kind, bytes, began, now);
            return self.answer(queue, at, result::OK);
        };
        match self.fixed.errors.decide(kind != Counted::Read, errno) {
            ErrorAction::Report => {
                self.fixed.stats.failed(kind, began, now);
                self.answer(queue, at, if errno == libc::ENOTSUP { result::UNSUPP } else { result::IOERR })
            }
            ErrorAction::Ignore => {
                self.fixed.stats.done(kind, bytes, began, now);
                self.answer(queue, at, result::OK)
            }
            ErrorAction::Stop => {
                if let Some(slot) = self.slots.get(at) {
                    self.held.push(slot.chain.head());
                }
                self.free.push(at);
                Ok(())
            }
        }
    }

    /// Writes the status, which is the last byte that the driver lent for writing, and gives the chain back.
    fn answer(&mut self, queue: &mut VirtQueue, at: usize, status: u8) -> Result<(), QueueError> {
        self.free.push(at);
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        slot.parts = 0;
        let chain = &slot.chain;
        let written = chain.writable_len();
        if slot.kind == Kind::Read {
            chain.mark_written(queue.ram(), written - request::STATUS);
        }
        if let Err(error) = chain.write(queue.ram(), written - request::STATUS, &[status]) {
            log::debug!("no place for the status of a block request: {error}");
        }
        let head = chain.head();
        queue.push_used(head, written)
    }
}

impl QueueHandler for BlkQueue {
    fn completions(&self) -> Option<RawFd> {
        Some(self.image.notifier().as_raw_fd())
    }

    fn has_work(&mut self) -> bool {
        self.image.is_ready()
    }

    fn room(&self, size: u16) -> usize {
        usize::from(size).saturating_sub(self.in_flight() + self.held.len())
    }

    fn begin(&mut self, queue: &mut VirtQueue, head: u16) -> Result<(), QueueError> {
        let at = self.slot();
        self.take(queue, at, head)
    }

    fn flush(&mut self) {
        if self.batch.take().is_some() {
            self.image.kick();
        }
    }

    fn finish(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        let Some(first) = self.image.reap() else { return Ok(()) };
        let now = Moment::now();
        let mut next = Some(first);
        while let Some(done) = next {
            self.completed(queue, &done, now)?;
            next = self.image.reap();
        }
        Ok(())
    }

    fn idle(&mut self) {
        // Whoever held the image still, or changed its limits, woke us; looking makes it quiet.
        let _nothing = self.image.reap();
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn take_held(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.held)
    }
}

fn counted(kind: Kind) -> Option<Counted> {
    match kind {
        Kind::Read => Some(Counted::Read),
        Kind::Write | Kind::WriteZeroes => Some(Counted::Write),
        Kind::Flush => Some(Counted::Flush),
        Kind::Discard => Some(Counted::Unmap),
        Kind::GetId => None,
    }
}

/// Writes what the driver asked for of the serial number, padded with zeroes (section 5.2.6: `VIRTIO_BLK_T_GET_ID`).
impl Serial {
    fn answer(&self, chain: &Chain, ram: &RamView, room: u32) -> Result<(), crate::virtio::queue::ChainError> {
        let len = usize::try_from(room).unwrap_or(GET_ID_BYTES).min(GET_ID_BYTES);
        chain.write(ram, 0, self.0.get(..len).unwrap_or_default())
    }
}
