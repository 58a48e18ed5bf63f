//! A thread that serves queues: an epoll loop that owns workers and wakes them. Several devices may share one
//! (`-object iothread`).
//!
//! A thread that is told to polls: before it sleeps it asks its workers whether they have something to do, for as long as
//! [`Polling`] allows. Meanwhile these need not ask for signals, and do so before the thread sleeps ([`Worker::rest`]).
//!
//! Workers arrive, are woken and leave by message; nothing of theirs is locked. The loop is its own and not
//! `event-manager`'s because a doorbell is watched edge-triggered: an eventfd then needs no read, which saves a
//! system call for each wake-up, and a worker is found by index instead of by hash.

mod pace;

use std::io;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use rhea_block::pool::Pool;
use rhea_block::thread::{ThreadKind, spawn};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use pace::Pace;
pub use pace::Polling;

/// Why a worker is called. A worker must bear being called for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Someone woke it: it has mail.
    Woken,
    /// The descriptor registered under this token is ready.
    Source(u32),
    /// It said that it has something to do.
    Polled,
    /// It asked to be called again.
    Again,
}

/// What a worker wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To be called when something is ready.
    Wait,
    /// To be called again after the others had their turn.
    Again,
}

/// How a descriptor is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Once for each signal; the descriptor needs no read.
    Edge,
    /// As long as it is readable.
    Level,
}

/// A state machine that an [`IoThread`] drives. It never waits.
pub trait Worker: Send {
    /// First call, on the thread: register what is to be watched.
    ///
    /// # Errors
    /// When the host refuses; the worker is then dropped.
    fn attach(&mut self, sources: &mut Sources<'_>) -> io::Result<()>;
    /// Something is ready.
    fn ready(&mut self, what: Ready, sources: &mut Sources<'_>) -> Next;
    /// Whether there is something to do, told without a system call. Asked on threads that poll only: there it must tell of
    /// all that would call the worker but its mail.
    fn has_work(&mut self) -> bool {
        false
    }
    /// The thread is about to sleep: whoever did not ask for signals while [`Sources::polled`] does now. True when
    /// something came in before that.
    fn rest(&mut self) -> bool {
        false
    }
}

/// Greatest token that [`Sources::watch`] takes.
pub const MAX_TOKEN: u32 = 0xffff;
const TOKEN_BITS: u32 = 16;
/// How often in turn work may be found by polling before descriptors are looked at, whatever there is to do.
const POLLS: usize = 64;
/// The thread's own mailbox.
const MAIL: u64 = u64::MAX;

/// The descriptors that one worker is woken by.
pub struct Sources<'a> {
    epoll: &'a Epoll,
    key: u32,
    watched: &'a mut Vec<RawFd>,
    polled: bool,
    batch: Option<NonZeroUsize>,
}

impl Sources<'_> {
    /// Whether the thread asks [`Worker::has_work`] before it sleeps, so that no signals are needed until
    /// [`Worker::rest`].
    #[must_use]
    pub fn polled(&self) -> bool {
        self.polled
    }

    /// Most requests that may be handed to the kernel at once, if that is limited.
    #[must_use]
    pub fn batch(&self) -> Option<NonZeroUsize> {
        self.batch
    }

    /// Calls the worker with [`Ready::Source`] of `token` when `fd` is readable. The caller keeps `fd` open until
    /// [`Sources::forget`].
    ///
    /// # Errors
    /// When the host refuses, or `fd` is watched already.
    pub fn watch(&mut self, fd: RawFd, token: u32, trigger: Trigger) -> io::Result<()> {
        let events = match trigger {
            Trigger::Edge => EventSet::IN | EventSet::EDGE_TRIGGERED,
            Trigger::Level => EventSet::IN,
        };
        let data = u64::from(self.key) << TOKEN_BITS | u64::from(token.min(MAX_TOKEN));
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, data))?;
        self.watched.push(fd);
        Ok(())
    }

    /// Stops watching `fd`. It may still be reported once, if it was ready already.
    pub fn forget(&mut self, fd: RawFd) {
        if let Some(at) = self.watched.iter().position(|&watched| watched == fd) {
            self.watched.swap_remove(at);
            forget(self.epoll, fd);
        }
    }
}

fn forget(epoll: &Epoll, fd: RawFd) {
    if let Err(error) = epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default()) {
        log::warn!("cannot stop watching descriptor {fd}: {error}");
    }
}

enum Message {
    Add(u32, Box<dyn Worker>),
    Wake(u32),
    Remove(u32),
    Tune(Tuning),
    Quit,
}

#[derive(Default)]
struct Inbox {
    messages: Vec<Message>,
    free_keys: Vec<u32>,
    keys: u32,
}

struct Mailbox {
    inbox: Mutex<Inbox>,
    wake: EventFd,
    /// There are messages: for the thread while it polls.
    full: AtomicBool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, mut inbox: MutexGuard<'_, Inbox>, message: Message) {
        let quiet = inbox.messages.is_empty();
        inbox.messages.push(message);
        self.full.store(true, Ordering::Release);
        drop(inbox);
        // Whoever found the box empty rings; the thread takes all that is in it then. An eventfd write fails only
        // when the counter is full, and then the thread is awake.
        if quiet && let Err(error) = self.wake.write(1) {
            log::debug!("cannot wake an I/O thread: {error}");
        }
    }

    fn take(&self) -> Vec<Message> {
        let mut inbox = self.lock();
        self.full.store(false, Ordering::Release);
        std::mem::take(&mut inbox.messages)
    }
}

/// How a thread works, as `iothread` objects say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// How long it polls.
    pub polling: Polling,
    /// Most requests that it hands to the kernel at once; `None` for as many as there are.
    pub batch: Option<NonZeroUsize>,
    /// How many workers do what would keep it waiting: these stay, and no more than these at once.
    pub workers: RangeInclusive<usize>,
}

/// A thread that serves queues. Dropping the last handle ends it and drops its workers there.
pub struct IoThread {
    name: String,
    mailbox: Arc<Mailbox>,
    tid: i32,
    join: Option<JoinHandle<()>>,
    /// Its own workers, if it does not share those of the process.
    pool: Option<Arc<Pool>>,
}

impl IoThread {
    /// Starts a thread named `name` (the kernel shows its first 15 bytes) that does not poll.
    ///
    /// # Errors
    /// When the host has no threads or descriptors left.
    pub fn spawn(name: &str) -> io::Result<Arc<Self>> {
        Self::start(name, None)
    }

    /// The same with workers of its own, `tuning` says how.
    ///
    /// # Errors
    /// As [`IoThread::spawn`].
    pub fn tuned(name: &str, tuning: &Tuning) -> io::Result<Arc<Self>> {
        let thread = Self::start(name, Some(Arc::new(Pool::new(tuning.workers.clone()))))?;
        thread.tune(tuning);
        Ok(thread)
    }

    fn start(name: &str, pool: Option<Arc<Pool>>) -> io::Result<Arc<Self>> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let mailbox = Arc::new(Mailbox { inbox: Mutex::default(), wake, full: AtomicBool::new(false) });
        let epoll = Epoll::new()?;
        epoll.ctl(
            ControlOperation::Add,
            mailbox.wake.as_raw_fd(),
            EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, MAIL),
        )?;
        let (tell, told) = mpsc::sync_channel(1);
        let reactor = Reactor::new(epoll, Arc::clone(&mailbox));
        let adopted = pool.clone();
        let join = spawn(ThreadKind::Disk, name, move || {
            adopted.iter().for_each(|pool| pool.adopt());
            drop(adopted);
            // The receiver waits for exactly this and cannot be gone.
            let _ = tell.send(thread_id());
            reactor.run();
        })?;
        let tid = told.recv().map_err(|_| io::Error::other("the thread ended at once"))?;
        Ok(Arc::new(Self { name: name.to_owned(), mailbox, tid, join: Some(join), pool }))
    }

    /// Has the thread work in another way from now on.
    pub fn tune(&self, tuning: &Tuning) {
        if let Some(pool) = &self.pool {
            pool.set_threads(tuning.workers.clone());
        }
        self.mailbox.post(self.mailbox.lock(), Message::Tune(tuning.clone()));
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's thread id (`query-iothreads`).
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Gives `worker` to the thread; it is dropped there when the handle is dropped.
    #[must_use]
    pub fn add(self: &Arc<Self>, worker: Box<dyn Worker>) -> WorkerHandle {
        let mut inbox = self.mailbox.lock();
        let key = inbox.free_keys.pop().unwrap_or_else(|| {
            inbox.keys += 1;
            inbox.keys - 1
        });
        self.mailbox.post(inbox, Message::Add(key, worker));
        WorkerHandle { thread: Arc::clone(self), key }
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.mailbox.post(self.mailbox.lock(), Message::Quit);
        let Some(join) = self.join.take() else { return };
        // The last handle may go on the thread itself: then there is no one to wait for.
        if join.thread().id() != std::thread::current().id() && join.join().is_err() {
            log::error!("I/O thread {} ended by a panic", self.name);
        }
    }
}

/// The way to a worker on its thread; keeps the thread alive.
pub struct WorkerHandle {
    thread: Arc<IoThread>,
    key: u32,
}

impl WorkerHandle {
    /// Calls the worker with [`Ready::Woken`].
    pub fn wake(&self) {
        self.thread.mailbox.post(self.thread.mailbox.lock(), Message::Wake(self.key));
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.thread.mailbox.post(self.thread.mailbox.lock(), Message::Remove(self.key));
    }
}

#[derive(Default)]
struct Slot {
    worker: Option<Box<dyn Worker>>,
    watched: Vec<RawFd>,
}

struct Reactor {
    epoll: Epoll,
    mailbox: Arc<Mailbox>,
    slots: Vec<Slot>,
    again: Vec<u32>,
    pace: Pace,
    batch: Option<NonZeroUsize>,
    /// How often in turn polling found work.
    polls: usize,
    /// A worker may have been called that did not ask for signals.
    deaf: bool,
}

/// The thread is to end.
struct Over;

impl Reactor {
    fn new(epoll: Epoll, mailbox: Arc<Mailbox>) -> Self {
        let (slots, again, pace) = (Vec::new(), Vec::new(), Pace::default());
        Self { epoll, mailbox, slots, again, pace, batch: None, polls: 0, deaf: false }
    }

    fn run(mut self) {
        let mut events = [EpollEvent::default(); 32];
        while self.turn(&mut events).is_ok() {}
    }

    /// Does what polling finds, or else waits for descriptors and does what they tell.
    fn turn(&mut self, events: &mut [EpollEvent]) -> Result<(), Over> {
        // With turns to give, nothing is waited for.
        let began = (self.again.is_empty() && self.pace.is_kept()).then(Instant::now);
        let found = began.map_or(Ok(false), |began| self.poll(began))?;
        self.polls = if found { self.polls + 1 } else { 0 };
        if found && self.polls < POLLS {
            return Ok(());
        }
        self.polls = 0;
        let busy = found || !self.again.is_empty();
        if !busy && self.rest() {
            return Ok(());
        }
        let count = match self.epoll.wait(if busy { 0 } else { -1 }, events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => {
                log::error!("an I/O thread cannot wait: {error}");
                return Err(Over);
            }
        };
        if let Some(began) = began.filter(|_| !found) {
            self.pace.waited(began.elapsed());
        }
        self.dispatch(events.get(..count).unwrap_or_default())
    }

    fn dispatch(&mut self, events: &[EpollEvent]) -> Result<(), Over> {
        let again = std::mem::take(&mut self.again);
        for event in events {
            if event.data() == MAIL {
                self.read_mail()?;
                continue;
            }
            let token = Ready::Source((event.data() as u32) & MAX_TOKEN);
            self.call(u32::try_from(event.data() >> TOKEN_BITS).unwrap_or(u32::MAX), token);
        }
        for key in again {
            self.call(key, Ready::Again);
        }
        Ok(())
    }

    /// Looks for work until there was some, or until it is time to sleep; says which.
    fn poll(&mut self, began: Instant) -> Result<bool, Over> {
        let time = self.pace.time();
        while began.elapsed() < time {
            if self.mailbox.full.load(Ordering::Acquire) {
                return self.read_mail().map(|()| true);
            }
            if self.call_all(|worker| worker.has_work()) {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        Ok(false)
    }

    /// Has all workers ask for signals again; true if one had work after all.
    fn rest(&mut self) -> bool {
        std::mem::take(&mut self.deaf) && self.call_all(|worker| worker.rest())
    }

    /// Calls the workers of which `wants` is true; whether there was any.
    fn call_all(&mut self, wants: impl Fn(&mut Box<dyn Worker>) -> bool) -> bool {
        let mut called = false;
        for key in 0..self.slots.len() {
            if self.slots.get_mut(key).and_then(|slot| slot.worker.as_mut()).is_some_and(&wants) {
                self.call(u32::try_from(key).unwrap_or(u32::MAX), Ready::Polled);
                called = true;
            }
        }
        called
    }

    /// Does what the messages say.
    fn read_mail(&mut self) -> Result<(), Over> {
        for message in self.mailbox.take() {
            match message {
                Message::Add(key, worker) => self.add(key, worker),
                Message::Wake(key) => self.call(key, Ready::Woken),
                Message::Remove(key) => self.remove(key),
                Message::Tune(Tuning { polling, batch, .. }) => (self.pace, self.batch) = (Pace::new(polling), batch),
                Message::Quit => return Err(Over),
            }
        }
        Ok(())
    }

    fn add(&mut self, key: u32, worker: Box<dyn Worker>) {
        let at = key as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Slot::default);
        }
        let Some(slot) = self.slots.get_mut(at) else { return };
        let worker = slot.worker.insert(worker);
        let (polled, batch) = (false, self.batch);
        let mut sources = Sources { epoll: &self.epoll, key, watched: &mut slot.watched, polled, batch };
        if let Err(error) = worker.attach(&mut sources) {
            log::error!("an I/O thread cannot watch a descriptor: {error}");
            self.clear(key);
        }
    }

    fn remove(&mut self, key: u32) {
        self.clear(key);
        self.again.retain(|&other| other != key);
        self.mailbox.lock().free_keys.push(key);
    }

    fn clear(&mut self, key: u32) {
        let Some(slot) = self.slots.get_mut(key as usize) else { return };
        for fd in slot.watched.drain(..) {
            forget(&self.epoll, fd);
        }
        slot.worker = None;
    }

    fn call(&mut self, key: u32, what: Ready) {
        let Some(Slot { worker: Some(worker), watched }) = self.slots.get_mut(key as usize) else { return };
        let (polled, batch) = (!self.pace.time().is_zero(), self.batch);
        self.deaf |= polled;
        let mut sources = Sources { epoll: &self.epoll, key, watched, polled, batch };
        if worker.ready(what, &mut sources) == Next::Again && !self.again.contains(&key) {
            self.again.push(key);
        }
    }
}

#[expect(unsafe_code, reason = "the standard library does not tell the kernel's thread id")]
fn thread_id() -> i32 {
    // SAFETY: gettid has no arguments and cannot fail.
    unsafe { libc::gettid() }
}

/// The thread that a device's queue runs on.
#[derive(Clone, Default)]
pub enum Placement {
    /// One thread for each queue, started with the device.
    #[default]
    PerQueue,
    /// This thread for every queue (`iothread=`).
    Shared(Arc<IoThread>),
}

impl Placement {
    /// The thread for queue `n` of the device named `device`: a new one is called `disk-DEVICE-N`.
    ///
    /// # Errors
    /// When the host has no threads left.
    pub fn thread(&self, device: &str, n: u16) -> io::Result<Arc<IoThread>> {
        match self {
            Self::PerQueue => IoThread::spawn(&format!("disk-{device}-{n}")),
            Self::Shared(thread) => Ok(Arc::clone(thread)),
        }
    }
}

#[cfg(test)]
mod tests;
