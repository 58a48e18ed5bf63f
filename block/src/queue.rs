//! One thread's path to a disk: requests in, completions out.
//!
//! ```text
//!   submit ─> throttled ─> waiting ─> start ─┬─ fast: Zero, Done ─────────> done
//!                                            ├─ fast: Direct ─> ring ─────> done (short or EAGAIN: worker)
//!                                            ├─ fast: Direct ─> here ─────> done (as long as that proves short)
//!                                            ├─ Slow ─> here ─────────────> done (likewise, in haste)
//!                                            └─ Slow ─> worker ─> returned ─> done
//! ```
//!
//! A request that the ring did only in part is done again whole by a worker: reads and writes of the same bytes may be
//! repeated. The path of a warm request allocates nothing and takes no lock but the format's look-up.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::disk::{Meeting, Path, Shared};
use crate::error::{BlockError, ErrorKind};
use crate::haste;
use crate::image::{Completion, ImageQueue, Op, Request};
use crate::layer::{Direct, Fast, FastOp, Pass};
use crate::mem::Sink;
use crate::patience::Patience;
use crate::perform::{errno_of, perform};
use crate::pool;
use crate::ring::{Move, Ring};
use crate::sys;
use crate::throttle::Direction;

/// Longest read or write that is done by the queue's own thread, in bytes.
const LONGEST_HERE: u64 = 64 << 10;
/// Longer than a hop to a worker costs.
const SHORT: Duration = Duration::from_micros(100);
/// What writes to the page cache may take beyond `SHORT` each before the ring gets them: a few turns that another thread
/// has on the processor, less than the kernel makes a writer wait whose file has too many dirty pages.
const SPARE: Duration = Duration::from_millis(10);
/// Less than a disk takes for a read: such reads are better done many at once.
const SHORT_READ: Duration = Duration::from_micros(30);
/// Requests of direct I/O that are handed to the kernel together: a device then works on these while the next are on
/// their way, and both are not idle in turn. What the page cache has is there at once, however many are handed over.
const TOGETHER: usize = 4;
/// Most requests in flight in one queue.
const DEEPEST: u32 = 1024;

/// A request on its way.
struct Slot {
    request: Request,
    pass: Pass,
}

/// What becomes of a request to one range of one file.
enum Course {
    /// It was done at once.
    Ended(Result<(), i32>),
    Ring,
    Worker,
}

/// What workers give back.
struct Returned {
    index: u32,
    request: Request,
    result: Result<(), i32>,
}

/// The limits that a request is under: flushes are under none.
fn direction_of(op: Op) -> Option<Direction> {
    match op {
        Op::Read => Some(Direction::Read),
        Op::Write { .. } | Op::Discard | Op::WriteZeroes { .. } => Some(Direction::Write),
        Op::Flush => None,
    }
}

pub(crate) struct DiskQueue {
    shared: Arc<Shared>,
    path: Path,
    version: usize,
    meeting: Arc<Meeting>,
    ring: Option<Ring>,
    /// Requests in flight by ring key; `free` lists the empty places. Never grows: the ring points into it.
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    waiting: VecDeque<Request>,
    /// Requests that limits hold back, by direction, each with how many members let it through.
    throttled: [VecDeque<(Request, usize)>; 2],
    done: VecDeque<Completion>,
    returned: Arc<Mutex<Vec<Returned>>>,
    batch: Vec<Returned>,
    active: usize,
    reads: Patience,
    writes: Patience,
    syncs: Patience,
}

impl DiskQueue {
    pub(crate) fn new(shared: Arc<Shared>, depth: u32) -> Result<(Self, Arc<Meeting>), BlockError> {
        let depth = depth.clamp(1, DEEPEST);
        let version = shared.version.load(Ordering::SeqCst);
        let path = shared.path();
        let wants_ring = path.layer.wants_ring();
        // The ring's read of the event descriptor must wait; without a ring nothing may.
        let flags = if wants_ring { EFD_CLOEXEC } else { EFD_CLOEXEC | EFD_NONBLOCK };
        let wake = EventFd::new(flags).map_err(|e| BlockError::io("could not make an event descriptor", e))?;
        let meeting = Meeting::new(wake);
        let ring = if wants_ring {
            let ring = Ring::new(depth, meeting.clone());
            Some(ring.map_err(|e| BlockError::io("could not set up io_uring", e))?)
        } else {
            None
        };
        let queue = Self {
            shared,
            path,
            version,
            meeting: meeting.clone(),
            ring,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            waiting: VecDeque::new(),
            throttled: Default::default(),
            done: VecDeque::with_capacity(depth as usize),
            returned: Arc::default(),
            batch: Vec::new(),
            active: 0,
            reads: Patience::new(SHORT_READ),
            writes: Patience::new(SHORT).with_spare(SPARE),
            syncs: Patience::new(SHORT),
        };
        Ok((queue, meeting))
    }

    /// Whether requests may start: false while the disk is held.
    fn enter(&mut self) -> bool {
        self.meeting.active.store(self.active + 1, Ordering::SeqCst);
        if self.shared.held.load(Ordering::SeqCst) > 0 {
            self.meeting.active.store(self.active, Ordering::SeqCst);
            if self.active == 0 {
                self.shared.became_quiet();
            }
            return false;
        }
        self.active += 1;
        self.look_for_changes();
        true
    }

    /// Takes over another layer or other limits.
    fn look_for_changes(&mut self) {
        let version = self.shared.version.load(Ordering::SeqCst);
        if version != self.version {
            self.version = version;
            self.path = self.shared.path();
        }
    }

    /// Moves requests that limits let through to those that wait for a place.
    fn let_through(&mut self) {
        if self.throttled.iter().all(VecDeque::is_empty) {
            return;
        }
        self.look_for_changes();
        for direction in Direction::ALL {
            let line = &mut self.throttled[direction as usize];
            while let Some((request, passed)) = line.front_mut() {
                while self.path.members.get(*passed).is_some_and(|member| member.ask(direction, request.len)) {
                    *passed += 1;
                }
                if *passed < self.path.members.len() {
                    break;
                }
                self.waiting.extend(line.pop_front().map(|(request, _)| request));
            }
        }
    }

    fn leave(&mut self) {
        self.active -= 1;
        self.meeting.active.store(self.active, Ordering::SeqCst);
        if self.active == 0 && self.shared.held.load(Ordering::SeqCst) > 0 {
            self.shared.became_quiet();
        }
    }

    /// Starts waiting requests while there is room and the disk is not held.
    fn pump(&mut self) {
        while !self.waiting.is_empty() && !self.free.is_empty() && self.enter() {
            if let Some(request) = self.waiting.pop_front() {
                self.start(request);
            }
        }
    }

    fn finish(&mut self, tag: u64, result: Result<(), i32>) {
        self.done.push_back(Completion { tag, result });
        self.leave();
    }

    /// Starts a request that was counted by `enter`.
    fn start(&mut self, request: Request) {
        if let Err(errno) = self.admit(&request) {
            return self.finish(request.tag, Err(errno));
        }
        let write_through = !self.shared.write_cache.load(Ordering::Relaxed);
        let op = match request.op {
            Op::Read => FastOp::Read,
            Op::Write { fua: false } if !write_through => FastOp::Write,
            Op::Flush => FastOp::Flush,
            _ => return self.start_slow(request, write_through),
        };
        let mut token = None;
        match self.path.fast(op, request.offset, request.len, &mut token) {
            Fast::Slow => {
                drop(token);
                self.start_slow(request, write_through);
            }
            // A layer beneath has tokens of its own: the slow way keeps both.
            Fast::Direct(direct) if token.is_some() && direct.pass.token.is_some() => {
                drop((direct, token));
                self.start_slow(request, write_through);
            }
            Fast::Done => self.finish(request.tag, Ok(())),
            Fast::Zero => {
                Sink::buffers(&request.buffers).zero();
                self.finish(request.tag, Ok(()));
            }
            Fast::Direct(direct) => match self.do_here(&request, &direct) {
                Course::Ended(outcome) => self.finish(request.tag, outcome),
                Course::Ring => self.start_ring(request, direct, token),
                Course::Worker => {
                    drop((direct, token));
                    self.start_worker(request);
                }
            },
        }
    }

    /// Does a request with the layer's synchronous methods: here if it is of a kind that proves short, or by a worker.
    fn start_slow(&mut self, request: Request, write_through: bool) {
        let durable = write_through || matches!(request.op, Op::Flush | Op::Write { fua: true });
        let patience = match request.op {
            Op::Flush | Op::Write { .. } if durable => (self.active == 1).then_some(&mut self.syncs),
            Op::Read => Some(&mut self.reads),
            Op::Write { .. } => Some(&mut self.writes),
            _ => None,
        };
        let fits = request.len <= LONGEST_HERE && self.path.layer.is_cached();
        let Some(patience) = patience.filter(|_| fits).and_then(Patience::if_here) else {
            return self.start_worker(request);
        };
        let began = Instant::now();
        let result = haste::in_haste(|| perform(self.path.layer.as_ref(), &request, write_through));
        patience.took(began.elapsed());
        match result {
            Err(e) if e.kind() == ErrorKind::WouldWait => self.start_worker(request),
            result => self.finish(request.tag, result.map_err(|e| errno_of(&e))),
        }
    }

    /// Refuses what no layer should see.
    fn admit(&self, request: &Request) -> Result<(), i32> {
        let end = request.offset.checked_add(request.len).ok_or(libc::EINVAL)?;
        if self.path.ended {
            return Err(libc::ENOMEDIUM);
        }
        match request.op {
            Op::Flush => return Ok(()),
            Op::Read => {}
            _ if self.path.read_only => return Err(libc::EROFS),
            _ => {}
        }
        let moves = matches!(request.op, Op::Read | Op::Write { .. });
        if end > self.path.layer.size() || (moves && request.len != request.buffers.len()) {
            return Err(libc::EINVAL);
        }
        Ok(())
    }

    /// Does a request to one range of one file at once, if it is of a kind that is better done so. By reference, as far as
    /// that goes: a request is large, and each hand that it is given to would copy it.
    fn do_here(&mut self, request: &Request, direct: &Direct) -> Course {
        let Direct { fd, offset, alignment, ring, pass: _ } = *direct;
        let iovecs = request.buffers.iovecs();
        let aligned = alignment == 1 || {
            let mask = u64::from(alignment) - 1;
            (offset | request.len) & mask == 0 && Sink::buffers(&request.buffers).is_aligned(alignment as usize)
        };
        let fits = iovecs.len() <= 1024 && request.len <= 1 << 30;
        if !aligned || !fits {
            return Course::Worker;
        }
        if self.does_here(request, alignment) {
            let result = self.move_here(request, fd, offset);
            return self.outcome(request, result).map_or(Course::Worker, Course::Ended);
        }
        if ring && self.ring.is_some() {
            return Course::Ring;
        }
        // What the page cache has costs no thread.
        if alignment == 1
            && request.op == Op::Read
            && let Ok(n) = sys::read_nowait(fd, iovecs, offset)
            && n as u64 == request.len
        {
            return Course::Ended(Ok(()));
        }
        Course::Worker
    }

    /// Whether a request is of the kind that takes less time than a worker, be it ours or the ring's: a write to the
    /// page cache, and a sync for which nothing else waits.
    fn does_here(&mut self, request: &Request, alignment: u32) -> bool {
        match request.op {
            Op::Write { .. } => alignment == 1 && request.len <= LONGEST_HERE && self.writes.here(),
            Op::Flush => self.active == 1 && self.syncs.here(),
            _ => false,
        }
    }

    /// What the kernel says of a request that this thread has it do: bytes moved, or an error as a negative number.
    fn move_here(&mut self, request: &Request, fd: i32, offset: u64) -> i32 {
        let began = Instant::now();
        let (result, patience) = match request.op {
            Op::Flush => (sys::sync_data(fd), &mut self.syncs),
            _ => (sys::write_some(fd, request.buffers.iovecs(), offset), &mut self.writes),
        };
        patience.took(began.elapsed());
        result.unwrap_or_else(|e| -e.raw_os_error().unwrap_or(libc::EIO))
    }

    /// `token` is of a format above the file.
    fn start_ring(&mut self, request: Request, direct: Direct, token: Option<Arc<()>>) {
        let Direct { fd, offset, alignment, ring: _, pass: Pass { token: own, writing } } = direct;
        let pass = Pass { token: token.or(own), writing };
        let what = match request.op {
            Op::Read => Move::Read,
            Op::Flush => Move::Sync,
            _ => Move::Write,
        };
        let (Some(index), Some(ring)) = (self.free.pop(), self.ring.as_mut()) else {
            drop(pass);
            return self.start_worker(request);
        };
        let slot = self.slots[index as usize].insert(Slot { request, pass });
        if let Err(e) = ring.submit(what, fd, slot.request.buffers.iovecs(), offset, index) {
            log::error!("io_uring refuses a request: {e}");
            self.free.push(index);
            if let Some(slot) = self.slots[index as usize].take() {
                self.finish(slot.request.tag, Err(libc::EIO));
            }
            return;
        }
        if alignment > 1 && ring.queued() >= TOGETHER {
            self.kick();
        }
    }

    /// Has a worker do a request from its beginning: it looks up anew where the bytes are. A pass from before must be gone,
    /// for the worker may wait for who waits for that.
    fn start_worker(&mut self, request: Request) {
        // The caller saw a free place; a request sent on from the ring gave its own back just now.
        let Some(index) = self.free.pop() else {
            return self.finish(request.tag, Err(libc::EIO));
        };
        let layer = self.path.layer.clone();
        let (returned, meeting) = (self.returned.clone(), self.meeting.clone());
        let write_through = !self.shared.write_cache.load(Ordering::Relaxed);
        let owner = Arc::as_ptr(&self.shared).addr();
        let job = Box::new(move || {
            let result = perform(layer.as_ref(), &request, write_through).map_err(|e| errno_of(&e));
            drop(layer);
            let mut returned = returned.lock().unwrap_or_else(PoisonError::into_inner);
            let first = returned.is_empty();
            returned.push(Returned { index, request, result });
            drop(returned);
            // What was there before has signalled, and whoever takes that takes this, too.
            if first {
                meeting.wake();
            }
        });
        pool::run(owner, job);
    }

    fn ring_completed(&mut self, index: u32, result: i32) {
        let Some(place) = self.slots.get(index as usize) else { return };
        let Some(Slot { request, .. }) = place else { return };
        let (tag, outcome) = (request.tag, self.outcome(request, result));
        let slot = &mut self.slots[index as usize];
        self.free.push(index);
        match outcome {
            Some(outcome) => {
                // In its place: a request is larger than it looks.
                *slot = None;
                self.finish(tag, outcome);
            }
            None => {
                if let Some(Slot { request, pass }) = slot.take() {
                    drop(pass);
                    self.start_worker(request);
                }
            }
        }
    }

    /// How a request ended by what the kernel says of it, bytes moved or an error as a negative number; nothing if a
    /// worker has to do it again.
    #[inline]
    fn outcome(&self, request: &Request, result: i32) -> Option<Result<(), i32>> {
        if request.op == Op::Flush {
            if result < 0 {
                self.path.layer.sync_failed();
            }
            return Some(if result < 0 { Err(-result) } else { Ok(()) });
        }
        if result >= 0 && result as u64 == request.len {
            return Some(Ok(()));
        }
        match -result {
            // Short, or the kernel would not do it this way.
            i32::MIN..=0 | libc::EAGAIN | libc::EINTR | libc::EINVAL | libc::EOPNOTSUPP => None,
            errno => Some(Err(errno)),
        }
    }

    fn collect_returned(&mut self) {
        std::mem::swap(&mut self.batch, &mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(Returned { index, request, result }) = self.batch.pop() {
            self.free.push(index);
            self.finish(request.tag, result);
        }
    }

    /// Takes in what the kernel and the workers finished.
    fn gather(&mut self) {
        if self.ring.is_none() {
            // Clear first, look second: what comes in between signals again.
            self.meeting.woken.store(false, Ordering::SeqCst);
            let _ = self.meeting.wake.read();
            self.collect_returned();
            return;
        }
        while let Some((key, result)) = self.ring.as_mut().and_then(Ring::reap) {
            match key {
                Some(index) => self.ring_completed(index, result),
                None => self.collect_returned(),
            }
        }
    }
}

impl ImageQueue for DiskQueue {
    fn submit(&mut self, request: Request) {
        if let Some(direction) = direction_of(request.op).filter(|_| !self.path.members.is_empty()) {
            self.throttled[direction as usize].push_back((request, 0));
            self.let_through();
            return self.pump();
        }
        if self.waiting.is_empty() && !self.free.is_empty() && self.enter() {
            self.start(request);
        } else {
            self.waiting.push_back(request);
        }
    }

    fn kick(&mut self) {
        if let Some(Err(e)) = self.ring.as_mut().map(Ring::kick) {
            log::error!("io_uring takes no submissions: {e}");
        }
    }

    fn reap(&mut self) -> Option<Completion> {
        if self.done.is_empty() {
            self.gather();
            self.let_through();
            self.pump();
            // Also what the kernel had no room for before these completions were taken.
            self.kick();
        }
        self.done.pop_front()
    }

    fn is_ready(&mut self) -> bool {
        // With a ring, whoever wakes the queue completes the read that is pending there.
        !self.done.is_empty()
            || self.ring.as_mut().map_or_else(|| self.meeting.woken.load(Ordering::Acquire), Ring::is_ready)
    }

    fn notifier(&self) -> BorrowedFd<'_> {
        match &self.ring {
            Some(ring) => sys::borrow_fd(ring),
            None => sys::borrow_fd(&self.meeting.wake),
        }
    }

    fn in_flight(&self) -> usize {
        let throttled: usize = self.throttled.iter().map(VecDeque::len).sum();
        self.active + throttled + self.waiting.len() + self.done.len()
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        // The kernel and the workers still hold the requests' memory.
        self.waiting.clear();
        self.throttled = Default::default();
        self.path.members.iter().for_each(|member| member.leave());
        while self.active > 0 {
            self.kick();
            self.gather();
            if self.active > 0 {
                sys::wait_readable(self.notifier());
            }
        }
    }
}

/// Why a ring could not be used, if it cannot.
///
/// # Errors
/// When the kernel has no io_uring or forbids it.
pub fn ring_available() -> Result<(), BlockError> {
    io_uring::IoUring::new(1).map(drop).map_err(|e| {
        let text = format!("io_uring is not available on this host ({e}); aio=threads works everywhere");
        BlockError::new(ErrorKind::Unsupported, text)
    })
}
