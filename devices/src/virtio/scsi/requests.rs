//! One request queue: from chain to unit to image and back, on the queue's thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use rhea_block::{Buffers, ImageQueue, Request};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::budget::Share;
use super::bus::{ScsiAddress, ScsiBus, ScsiUnit};
use super::config::Shared;
use super::tasks::Tasks;
use super::wire::{self, Command, RESPONSE_HEAD, response};
use crate::block_errors::ErrorAction;
use crate::block_stats::Counted;
use crate::moment::Moment;
use crate::scsi::{Cause, Cdb, Job, Media, Plan, Reply, Sense, Step, Waiter, no_such_unit, report_luns, sense};
use crate::virtio::queue::{Chain, QueueError, VirtQueue, lend};
use crate::virtio::worker::QueueHandler;

/// REPORT LUNS is the target's command.
const REPORT_LUNS: u8 = 0xa0;

/// A queue to what is in a unit.
struct Path {
    generation: u64,
    queue: Box<dyn ImageQueue>,
}

/// A unit as this queue knows it.
struct Known {
    address: ScsiAddress,
    unit: Arc<ScsiUnit>,
    path: Option<Path>,
}

/// A command on its way.
struct Slot {
    chain: Chain,
    command: Option<Command>,
    job: Option<Job>,
    unit: Option<Arc<ScsiUnit>>,
    /// The medium that its requests go to.
    generation: u64,
    began: Moment,
    memory: Share,
}

/// A command that is held. It begins anew, by its address, where another disk or disc may be by then: that one is not to
/// get what was meant for the one before.
///
/// Known within this process only: in a saved machine, a held command is the head of its chain and no more.
struct Held {
    head: u16,
    unit: Weak<ScsiUnit>,
    generation: u64,
}

/// The next request of a command of several steps, and the path that the last one came by.
struct Following {
    request: Request,
    leaving: bool,
    path: usize,
}

pub(super) struct RequestQueue {
    n: u16,
    bus: Arc<ScsiBus>,
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
    /// Ready when any path or the waker is.
    ready: Epoll,
    waker: Arc<EventFd>,

    /// The bus's version that `known` is of.
    version: Option<usize>,
    /// By address.
    known: Vec<Known>,
    /// Paths to what is gone, until nothing is in flight on them.
    leaving: Vec<Path>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    held: Vec<Held>,
    /// What was held when the queue stopped, and has yet to begin anew.
    resuming: Vec<Held>,
    /// Commands that are over when those of other units have ended.
    waiting: Vec<(usize, Arc<Waiter>)>,
    /// What commands of several steps do next, gathered in one pass over the paths.
    following: Vec<Following>,
    /// The queue is to stop: commands of several steps go no further.
    winding_up: bool,
    /// Some path has been given requests since the last flush.
    kick: bool,
    /// When the batch at hand began, and when the completions at hand were found.
    batch: Option<Moment>,
    found: Option<Moment>,
}

impl RequestQueue {
    pub(super) fn new(n: u16, shared: (Arc<ScsiBus>, Arc<Shared>, Arc<Tasks>)) -> io::Result<Self> {
        let (bus, shared, tasks) = shared;
        let (ready, waker) = (Epoll::new()?, EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        ready.ctl(ControlOperation::Add, waker.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        bus.add_waker(waker.try_clone()?);
        Ok(Self {
            n,
            bus,
            shared,
            tasks,
            ready,
            waker: Arc::new(waker),
            version: None,
            known: Vec::new(),
            leaving: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            held: Vec::new(),
            resuming: Vec::new(),
            waiting: Vec::new(),
            following: Vec::new(),
            winding_up: false,
            kick: false,
            batch: None,
            found: None,
        })
    }

    /// Takes over what changed on the bus.
    fn refresh(&mut self) {
        let version = self.bus.version();
        if self.version == Some(version) {
            return;
        }
        self.version = Some(version);
        let before = std::mem::take(&mut self.known).into_iter();
        let mut before: BTreeMap<ScsiAddress, Known> = before.map(|known| (known.address, known)).collect();
        for (address, unit) in self.bus.table() {
            let former = before.remove(&address);
            let same = former.as_ref().is_some_and(|known| Arc::ptr_eq(&known.unit, &unit));
            // A unit or medium that was taken out is let go, that its file may be closed.
            let here = unit.unit.medium().map(|medium| medium.generation());
            let (path, gone) = match former.and_then(|known| known.path) {
                Some(path) if !same || here != Some(path.generation) => (None, Some(path)),
                path => (path, None),
            };
            self.known.push(Known { address, unit, path });
            gone.into_iter().for_each(|path| self.leave(path));
        }
        before.into_values().filter_map(|known| known.path).for_each(|path| self.leave(path));
    }

    /// Lets go of a path, once nothing is in flight on it.
    fn leave(&mut self, path: Path) {
        if path.queue.in_flight() > 0 {
            self.leaving.push(path);
        } else {
            unwatch(&self.ready, &path);
        }
    }

    /// Lets go of the paths that waited for that, and can go now.
    fn let_go(&mut self) {
        let ready = &self.ready;
        self.leaving.retain(|path| {
            let busy = path.queue.in_flight() > 0;
            if !busy {
                unwatch(ready, path);
            }
            busy
        });
    }

    fn find(&self, address: ScsiAddress) -> Option<usize> {
        self.known.binary_search_by_key(&address, |known| known.address).ok()
    }

    /// Makes the path to the unit's medium of now; false if there is none.
    fn open(&mut self, at: usize) -> bool {
        let Some(known) = self.known.get_mut(at) else { return false };
        let Some(medium) = known.unit.unit.medium() else { return false };
        if known.path.as_ref().is_some_and(|path| path.generation == medium.generation()) {
            return true;
        }
        let Some(queue) = medium.take_queue(self.n) else { return false };
        let fd = queue.notifier().as_raw_fd();
        if let Err(error) = self.ready.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)) {
            log::error!("cannot watch a disk: {error}");
            return false;
        }
        let path = Path { generation: medium.generation(), queue };
        if let Some(old) = known.path.replace(path) {
            self.leave(old);
        }
        true
    }

    fn slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let (chain, began, memory) = (Chain::default(), Moment::now(), self.shared.memory.share());
            self.slots.push(Slot { chain, command: None, job: None, unit: None, generation: 0, began, memory });
            self.slots.len() - 1
        })
    }

    /// Gives a chain back that never became a command.
    fn refuse(
        &mut self,
        queue: &mut VirtQueue,
        at: usize,
        head: u16,
        why: &dyn std::error::Error,
    ) -> Result<(), QueueError> {
        self.release(at);
        queue.reject(head, why)
    }

    fn release(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at) {
            (slot.command, slot.job, slot.unit) = (None, None, None);
            slot.memory.give_back();
        }
        self.free.push(at);
    }

    fn take(&mut self, queue: &mut VirtQueue, at: usize, head: u16) -> Result<(), QueueError> {
        let sizes = self.shared.sizes();
        let held = take_head(&mut self.resuming, head);
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        let parsed = queue.walk(head, &mut slot.chain).and_then(|()| Command::parse(&slot.chain, queue.ram(), sizes));
        let command = match parsed {
            Ok(command) => command,
            Err(error) => return self.refuse(queue, at, head, &error),
        };
        slot.command = Some(command);
        if let Some(held) = held {
            let Some(unit) = held.unit.upgrade().filter(|unit| !unit.gone.load(Ordering::Acquire)) else {
                return self.answer_code(queue, at, response::BAD_TARGET);
            };
            if unit.unit.medium().is_none_or(|medium| medium.generation() != held.generation) {
                return self.answer(queue, at, &Reply::check(sense::NO_MEDIUM));
            }
        }
        // Data both ways needs a feature that is not offered (section 5.6.3).
        if command.out_len > 0 && command.in_len > 0 {
            return self.answer_code(queue, at, response::FAILURE);
        }
        let Some(address) = wire::address(command.lun) else {
            return self.answer_code(queue, at, response::BAD_TARGET);
        };
        let cdb = match Cdb::parse(command.cdb()) {
            Ok(cdb) => cdb,
            // The target itself refuses a block that it cannot take apart, whichever unit it is for.
            Err(sense) if self.known.iter().any(|known| known.address.target == address.target) => {
                return self.answer(queue, at, &Reply::check(sense));
            }
            Err(_) => return self.answer_code(queue, at, response::BAD_TARGET),
        };
        match self.find(address) {
            Some(known) if cdb.opcode() != REPORT_LUNS => self.execute(queue, at, known, &cdb),
            found => self.ask_target(queue, at, address, found.is_some(), &cdb),
        }
    }

    /// Commands that the target answers, for itself or for a unit that is not there.
    fn ask_target(
        &mut self,
        queue: &mut VirtQueue,
        at: usize,
        address: ScsiAddress,
        there: bool,
        cdb: &Cdb,
    ) -> Result<(), QueueError> {
        let of_target = self.known.iter().filter(|known| known.address.target == address.target);
        let luns: Vec<u16> = of_target.map(|known| known.address.lun).collect();
        if luns.is_empty() {
            return self.answer_code(queue, at, response::BAD_TARGET);
        }
        self.known
            .iter()
            .filter(|known| known.address.target == address.target)
            .for_each(|known| known.unit.unit.luns_reported());
        let reply = if there { report_luns(cdb, &luns).unwrap_or_else(Reply::check) } else { no_such_unit(cdb, &luns) };
        self.answer(queue, at, &reply)
    }

    fn execute(&mut self, queue: &mut VirtQueue, at: usize, known: usize, cdb: &Cdb) -> Result<(), QueueError> {
        let unit = self.known.get(known).map(|known| Arc::clone(&known.unit));
        let (Some(slot), Some(unit)) = (self.slots.get_mut(at), unit) else { return Ok(()) };
        let Some(command) = slot.command else { return Ok(()) };
        let aborts = unit.unit.aborts();
        let mut plan = unit.unit.begin(cdb);
        if let Plan::Parameters(len) = plan {
            if u32::try_from(len).is_ok_and(|len| len > command.out_len) {
                return self.answer_code(queue, at, response::OVERRUN);
            }
            if !slot.memory.grow(len) {
                return self.answer(queue, at, &Reply::bare(crate::scsi::status::BUSY));
            }
            let mut data = vec![0; len];
            plan = match slot.chain.read(queue.ram(), command.out_at, &mut data) {
                Ok(()) => unit.unit.parameters(cdb, &data),
                Err(_) => return self.answer_code(queue, at, response::FAILURE),
            };
        }
        slot.unit = Some(unit);
        match plan {
            Plan::Done(reply) => self.answer(queue, at, &reply),
            // No command asks twice.
            Plan::Parameters(_) => self.answer_code(queue, at, response::FAILURE),
            Plan::Media(media) => self.start(queue, at, known, (media, aborts)),
            Plan::Preempt(victims) => {
                let waiter = victims.abort(Cause::Preempted, &self.waker);
                self.waiting.push((at, waiter));
                self.settle(queue)
            }
        }
    }

    /// Answers commands that others' have ended for.
    fn settle(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        while let Some(n) = self.waiting.iter().position(|(_, waiter)| waiter.is_done()) {
            let (at, _) = self.waiting.swap_remove(n);
            self.answer(queue, at, &Reply::good())?;
        }
        Ok(())
    }

    /// Sends the first request of a command that works on the medium; when it was looked at, others had had so many
    /// `aborts` of the unit's commands.
    fn start(
        &mut self,
        queue: &mut VirtQueue,
        at: usize,
        known: usize,
        (media, aborts): (Media, usize),
    ) -> Result<(), QueueError> {
        if !self.open(known) {
            // The medium went between the look at the command and this.
            let reply = Reply::check(Sense::of_errno(libc::ENOMEDIUM));
            return self.answer(queue, at, &reply);
        }
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        let Some(command) = slot.command else { return Ok(()) };
        let wanted = media.bytes();
        let ranges = match media {
            Media::Read { .. } if wanted <= command.in_len.into() => {
                lend(queue.ram(), slot.chain.writable(command.in_at, u32::try_from(wanted).unwrap_or(0)))
            }
            Media::Write { .. } if wanted <= command.out_len.into() => {
                lend(queue.ram(), slot.chain.readable(command.out_at, u32::try_from(wanted).unwrap_or(0)))
            }
            Media::Read { .. } | Media::Write { .. } => return self.answer_code(queue, at, response::OVERRUN),
            _ => Ok(Buffers::none()),
        };
        let Ok(buffers) = ranges else { return self.answer_code(queue, at, response::FAILURE) };
        if !slot.memory.grow(media.bounced()) {
            return self.answer(queue, at, &Reply::bare(crate::scsi::status::BUSY));
        }
        slot.began = *self.batch.get_or_insert_with(Moment::now);
        let claim = slot.unit.as_ref().map_or(Ok(None), |unit| unit.unit.claim(&media));
        let Ok(claim) = claim else { return self.answer(queue, at, &Reply::bare(crate::scsi::status::BUSY)) };
        let (job, step) = Job::start(media, at as u64, buffers, claim);
        slot.job = Some(job);
        let Some(known) = self.known.get_mut(known) else { return Ok(()) };
        match (step, &mut known.path) {
            (Step::Submit(request), Some(path)) => {
                self.tasks.begin(self.n, at, known.address, command.id);
                if known.unit.unit.aborts() != aborts {
                    let mark = self.tasks.end(self.n, at).unwrap_or(response::ABORTED);
                    return self.answer_code(queue, at, mark);
                }
                slot.generation = path.generation;
                path.queue.submit(request);
                self.kick = true;
                Ok(())
            }
            (Step::Done(reply), _) => self.answer(queue, at, &reply),
            (Step::Submit(_), None) => self.answer_code(queue, at, response::FAILURE),
        }
    }

    /// One pass over all paths, each until it has nothing more: the work of a wake-up grows with units, that of a
    /// completion does not. What commands do next is sent afterwards: an image may answer at once, and a pass would last
    /// as long as the command, which is then deaf to a stop.
    fn reap_all(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        let reaped = self.reap_paths(queue);
        self.go_on();
        reaped
    }

    fn reap_paths(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        for n in 0..self.known.len() {
            while let Some(done) = self.known.get_mut(n).and_then(|known| known.path.as_mut()?.queue.reap()) {
                let at = usize::try_from(done.tag).unwrap_or(usize::MAX);
                self.completed(queue, (at, done.result, false, n))?;
            }
        }
        for n in 0..self.leaving.len() {
            while let Some(done) = self.leaving.get_mut(n).and_then(|path| path.queue.reap()) {
                let at = usize::try_from(done.tag).unwrap_or(usize::MAX);
                self.completed(queue, (at, done.result, true, n))?;
            }
        }
        Ok(())
    }

    /// Sends what commands do next, the way that their last requests came.
    fn go_on(&mut self) {
        if self.following.is_empty() {
            return;
        }
        for Following { request, leaving, path } in self.following.drain(..) {
            let of_known = self.known.get_mut(path).and_then(|known| known.path.as_mut());
            if let Some(path) = if leaving { self.leaving.get_mut(path) } else { of_known } {
                path.queue.submit(request);
            }
        }
        let mut answered = false;
        let known = self.known.iter_mut().filter_map(|known| known.path.as_mut());
        for path in known.chain(&mut self.leaving).filter(|path| path.queue.in_flight() > 0) {
            path.queue.kick();
            answered |= path.queue.is_ready();
        }
        if answered {
            // Nothing else calls for what was answered at once. It is quiet again when nothing is found.
            let _ = self.waker.write(1);
        }
    }

    /// A request is done.
    fn completed(
        &mut self,
        queue: &mut VirtQueue,
        (at, result, leaving, path): (usize, Result<(), i32>, bool, usize),
    ) -> Result<(), QueueError> {
        let Some(Slot { job: Some(job), unit: Some(unit), began, .. }) = self.slots.get_mut(at) else {
            log::error!("an image completed a request that it was not given");
            return Ok(());
        };
        let now = *self.found.get_or_insert_with(Moment::now);
        let (counted, bytes) = (job.media().counted(), job.media().bytes());
        let marked = self.tasks.is_marked(self.n, at);
        let gone = unit.gone.load(Ordering::Acquire);
        let step = match result {
            Ok(()) => job.completed(),
            // Nobody's disk any more: no error of the machine's.
            Err(_) if gone => return self.end_of_gone(queue, at),
            Err(errno) => match unit.errors.decide(counted != Counted::Read, errno) {
                ErrorAction::Report => {
                    unit.stats.failed(counted, *began, now);
                    Step::Done(job.failed(errno))
                }
                ErrorAction::Ignore => job.completed(),
                ErrorAction::Stop if marked => Step::Done(job.failed(errno)),
                ErrorAction::Stop => return self.hold(queue, at),
            },
        };
        let reply = match step {
            Step::Submit(_) if gone => return self.end_of_gone(queue, at),
            Step::Submit(_) if !marked && self.winding_up => return self.hold(queue, at),
            Step::Submit(request) if !marked => {
                self.following.push(Following { request, leaving, path });
                return Ok(());
            }
            // What was aborted does not go on.
            Step::Submit(_) => Reply::good(),
            Step::Done(reply) => {
                if reply.sense.is_none() {
                    unit.stats.done(counted, bytes, *began, now);
                }
                reply
            }
        };
        match self.tasks.end(self.n, at) {
            Some(mark) => self.answer_code(queue, at, mark),
            None => self.answer(queue, at, &reply),
        }
    }

    /// Ends a command whose unit was taken out.
    fn end_of_gone(&mut self, queue: &mut VirtQueue, at: usize) -> Result<(), QueueError> {
        let mark = self.tasks.end(self.n, at);
        self.answer_code(queue, at, mark.unwrap_or(response::BAD_TARGET))
    }

    /// Keeps a command to be done from its beginning when the queue starts again; one that was aborted just now is over.
    pub(super) fn hold(&mut self, queue: &mut VirtQueue, at: usize) -> Result<(), QueueError> {
        if let Some(mark) = self.tasks.end(self.n, at) {
            return self.answer_code(queue, at, mark);
        }
        if let Some(slot) = self.slots.get(at) {
            let unit = slot.unit.as_ref().map(Arc::downgrade).unwrap_or_default();
            self.held.push(Held { head: slot.chain.head(), unit, generation: slot.generation });
            self.release(at);
        }
        Ok(())
    }

    /// The command never reached a unit, or its result does not count.
    fn answer_code(&mut self, queue: &mut VirtQueue, at: usize, code: u8) -> Result<(), QueueError> {
        let Some(Slot { command: Some(command), .. }) = self.slots.get(at) else { return Ok(()) };
        let residual = command.in_len.max(command.out_len);
        let written = command.in_at;
        self.respond(queue, at, wire::response_head(0, residual, 0, code), &[], written)
    }

    /// Writes data and response, and gives the chain back.
    fn answer(&mut self, queue: &mut VirtQueue, at: usize, reply: &Reply) -> Result<(), QueueError> {
        let Some(slot) = self.slots.get(at) else { return Ok(()) };
        let Some(command) = slot.command else { return Ok(()) };
        let good = reply.sense.is_none() && reply.status == crate::scsi::status::GOOD;
        let moved = match slot.job.as_ref().map(Job::media) {
            Some(Media::Read { len, .. }) if good => {
                let len = u32::try_from(*len).unwrap_or(0);
                slot.chain.mark_written(queue.ram(), command.in_at.saturating_add(len));
                len
            }
            _ if !reply.data.is_empty() => {
                let len = u32::try_from(reply.data.len()).unwrap_or(u32::MAX);
                if len > command.in_len || slot.chain.write(queue.ram(), command.in_at, &reply.data).is_err() {
                    return self.answer_code(queue, at, response::OVERRUN);
                }
                len
            }
            // What was sent was taken.
            Some(Media::Write { len, .. }) if good => u32::try_from(*len).unwrap_or(0),
            _ if good => command.out_len,
            _ => 0,
        };
        let residual = command.in_len.max(command.out_len).saturating_sub(moved);
        let (_, sense_size) = self.shared.sizes();
        let sense = reply.sense.map(|sense| sense.fixed()).unwrap_or_default();
        let room = if reply.sense.is_some() { sense.len().min(sense_size as usize) } else { 0 };
        let sense = sense.get(..room).unwrap_or_default();
        let head = wire::response_head(sense.len(), residual, reply.status, response::OK);
        let written = command.in_at + if command.in_len > 0 { moved } else { 0 };
        self.respond(queue, at, head, sense, written)
    }

    fn respond(
        &mut self,
        queue: &mut VirtQueue,
        at: usize,
        head: [u8; RESPONSE_HEAD as usize],
        sense: &[u8],
        written: u32,
    ) -> Result<(), QueueError> {
        let Some(slot) = self.slots.get(at) else { return Ok(()) };
        let ram = queue.ram();
        let result = slot.chain.write(ram, 0, &head).and_then(|()| slot.chain.write(ram, RESPONSE_HEAD, sense));
        if let Err(error) = result {
            log::debug!("no place for the response to a SCSI command: {error}");
        }
        let name = slot.chain.head();
        self.release(at);
        queue.push_used(name, written)
    }
}

/// Takes what is known of the command whose chain begins at `head`.
fn take_head(held: &mut Vec<Held>, head: u16) -> Option<Held> {
    let at = held.iter().position(|held| held.head == head)?;
    Some(held.remove(at))
}

fn unwatch(ready: &Epoll, path: &Path) {
    let fd = path.queue.notifier().as_raw_fd();
    if let Err(error) = ready.ctl(ControlOperation::Delete, fd, EpollEvent::default()) {
        log::warn!("cannot stop watching a disk: {error}");
    }
}

impl QueueHandler for RequestQueue {
    fn completions(&self) -> Option<RawFd> {
        Some(self.ready.as_raw_fd())
    }

    fn has_work(&mut self) -> bool {
        let known = self.known.iter_mut().filter_map(|known| known.path.as_mut());
        let ended = self.waiting.iter().any(|(_, waiter)| waiter.is_done());
        ended
            || self.version != Some(self.bus.version())
            || known.chain(&mut self.leaving).any(|path| path.queue.is_ready())
    }

    fn room(&self, size: u16) -> usize {
        usize::from(size).saturating_sub(self.in_flight() + self.held.len())
    }

    fn begin(&mut self, queue: &mut VirtQueue, head: u16) -> Result<(), QueueError> {
        self.refresh();
        let at = self.slot();
        self.take(queue, at, head)
    }

    fn flush(&mut self) {
        self.batch = None;
        if std::mem::take(&mut self.kick) {
            let busy = self.known.iter_mut().filter_map(|known| known.path.as_mut());
            busy.filter(|path| path.queue.in_flight() > 0).for_each(|path| path.queue.kick());
        }
    }

    fn finish(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        self.refresh();
        self.found = None;
        self.reap_all(queue)?;
        if self.found.is_none() {
            // Nothing is done, so it may be the bus that woke us: quiet until it changes again.
            let _ = self.waker.read();
            self.refresh();
        }
        self.settle(queue)?;
        self.let_go();
        Ok(())
    }

    fn idle(&mut self) {
        let _ = self.waker.read();
        self.refresh();
        self.let_go();
        // Whoever held an image still, or changed its limits, woke its queue; looking makes it quiet.
        for path in self.known.iter_mut().filter_map(|known| known.path.as_mut()) {
            let _nothing = path.queue.reap();
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn wind_up(&mut self) {
        self.winding_up = true;
    }

    fn take_held(&mut self) -> Vec<u16> {
        self.winding_up = false;
        let heads = self.held.iter().map(|held| held.head).collect();
        self.resuming.append(&mut self.held);
        heads
    }

    fn restart(&mut self, held: &[u16]) {
        let mut before = std::mem::take(&mut self.resuming);
        self.resuming = held.iter().filter_map(|&head| take_head(&mut before, head)).collect();
    }
}
