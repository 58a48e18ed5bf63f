//! A chip's content: an array in memory, and the image that it comes from and goes to.
//!
//! The image is reached by a worker on a thread of its own, as no vCPU may wait in the kernel for a disk; whoever reads
//! or settles waits for its answer. The worker takes no lock.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rhea_block::{Image, ImageQueue, Op, Request};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::block_stats::{BlockStats, Counted};
use crate::lifecycle::DeviceError;
use crate::moment::Moment;
use crate::scsi::bounce::Bounce;
use crate::virtio::iothread::{IoThread, Next, Ready, Sources, Trigger, Worker, WorkerHandle};

/// What is written to the image at least.
const SECTOR: u64 = 512;
/// Bytes moved by one request at most.
const STEP: u64 = 256 << 10;

/// The content.
pub(super) struct Store {
    array: Arc<MmapRegion<()>>,
    image: Arc<dyn Image>,
    stats: Arc<BlockStats>,
    /// Only while something may be written.
    link: Option<Link>,
    /// Sectors that the image does not have yet: at most the chip's size of them.
    dirty: BTreeSet<u64>,
}

impl Store {
    pub(super) fn new(array: Arc<MmapRegion<()>>, image: Arc<dyn Image>, stats: Arc<BlockStats>) -> Self {
        Self { array, image, stats, link: None, dirty: BTreeSet::new() }
    }

    /// Reads the whole image. `name` is the thread's, which stays if the image can be written.
    pub(super) fn load(&mut self, name: &str) -> Result<(), DeviceError> {
        let thread = |source| DeviceError::Host { what: format!("device \"{name}\": no thread"), source };
        let below = |source: Box<dyn std::error::Error + Send + Sync>| DeviceError::Below {
            what: format!("device \"{name}\": cannot read its image"),
            source,
        };
        let thread = IoThread::spawn(&format!("flash-{name}")).map_err(thread)?;
        let queue = self.image.open_queue(1).map_err(|error| below(Box::new(error)))?;
        let link = Link::new(&thread, queue);
        let size = self.array.size() as u64;
        for offset in (0..size).step_by(STEP as usize) {
            let len = STEP.min(size - offset);
            let began = Moment::now();
            let read = self.transfer(&link, Op::Read, offset, len).and_then(|bounce| self.fill(offset, &bounce));
            let failed = |errno| below(Box::new(std::io::Error::from_raw_os_error(errno)));
            self.count(Counted::Read, len, began, read).map_err(failed)?;
        }
        if !self.image.info().read_only {
            self.link = Some(link);
        }
        Ok(())
    }

    /// Copies from the array; ones beyond its end.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.array.as_volatile_slice().read_slice(data, at).is_err() {
            data.fill(0xff);
        }
    }

    /// Copies to the array; [`Store::settle`] brings it to the image. What passes the end is dropped.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if data.is_empty() || self.array.as_volatile_slice().write_slice(data, at).is_err() {
            return;
        }
        self.dirty.extend(offset / SECTOR..=(offset + data.len() as u64 - 1) / SECTOR);
    }

    /// Returns when the image has everything; false when it did not take something, which is then tried again the next
    /// time. O(sectors written since the last time).
    pub(super) fn settle(&mut self) -> bool {
        let Some(link) = &self.link else { return true };
        while let Some(&first) = self.dirty.first() {
            let run = self.dirty.iter().zip(first..).take_while(|(have, want)| *have == want).count() as u64;
            let run = run.min(STEP / SECTOR);
            let (offset, len) = (first * SECTOR, run * SECTOR);
            let began = Moment::now();
            let written = self.transfer(link, Op::Write { fua: false }, offset, len).map(drop);
            if let Err(errno) = self.count(Counted::Write, len, began, written) {
                let error = std::io::Error::from_raw_os_error(errno);
                log::error!("cannot write {len} bytes at {offset:#x} of the firmware's flash: {error}");
                return false;
            }
            self.dirty = self.dirty.split_off(&(first + run));
        }
        true
    }

    fn count(&self, kind: Counted, len: u64, began: Moment, outcome: Result<(), i32>) -> Result<(), i32> {
        match outcome {
            Ok(()) => self.stats.done(kind, len, began, Moment::now()),
            Err(_) => self.stats.failed(kind, began, Moment::now()),
        }
        outcome
    }

    fn transfer(&self, link: &Link, op: Op, offset: u64, len: u64) -> Result<Bounce, i32> {
        let size = usize::try_from(len).map_err(|_| libc::EINVAL)?;
        let mut bounce = Bounce::new(size).ok_or(libc::ENOMEM)?;
        if op != Op::Read {
            let mut bytes = vec![0; size];
            self.read(offset, &mut bytes);
            bounce.put(0, &bytes);
        }
        let request = Request { tag: 0, op, offset, len, buffers: bounce.lend(0, size) };
        link.carry_out(request).map(|()| bounce)
    }

    fn fill(&self, offset: u64, bounce: &Bounce) -> Result<(), i32> {
        let at = usize::try_from(offset).map_err(|_| libc::EINVAL)?;
        self.array.as_volatile_slice().write_slice(&bounce.to_vec(0, bounce.len()), at).map_err(|_| libc::EINVAL)
    }
}

/// A request and who waits for it.
struct Order {
    request: Request,
    done: Sender<Result<(), i32>>,
}

/// The way to the worker.
struct Link {
    orders: Sender<Order>,
    handle: WorkerHandle,
}

impl Link {
    fn new(thread: &Arc<IoThread>, queue: Box<dyn ImageQueue>) -> Self {
        let (orders, mail) = channel();
        let worker = StoreWorker { queue, mail, waiting: None };
        Self { orders, handle: thread.add(Box::new(worker)) }
    }

    /// Waits for the request's end. A worker that is gone has dropped its end.
    fn carry_out(&self, request: Request) -> Result<(), i32> {
        let (done, answer) = channel();
        self.orders.send(Order { request, done }).map_err(|_| libc::EIO)?;
        self.handle.wake();
        answer.recv().unwrap_or(Err(libc::EIO))
    }
}

/// Hands one request at a time to the image.
struct StoreWorker {
    queue: Box<dyn ImageQueue>,
    mail: Receiver<Order>,
    waiting: Option<Sender<Result<(), i32>>>,
}

impl Worker for StoreWorker {
    fn attach(&mut self, sources: &mut Sources<'_>) -> std::io::Result<()> {
        sources.watch(self.queue.notifier().as_raw_fd(), 0, Trigger::Level)
    }

    fn ready(&mut self, _: Ready, _: &mut Sources<'_>) -> Next {
        loop {
            if let Some(completion) = self.queue.reap()
                && let Some(waiting) = self.waiting.take()
            {
                // Whoever waited may have gone with the machine.
                let _ = waiting.send(completion.result);
            }
            // The one who sends waits for the answer, so there is never a second order.
            let Ok(order) = self.mail.try_recv() else { return Next::Wait };
            self.waiting = Some(order.done);
            self.queue.submit(order.request);
            self.queue.kick();
        }
    }
}
