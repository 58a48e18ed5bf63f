//! The thread `console`: waits for all host ends of character devices.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use rhea_block::thread::{ThreadKind, spawn};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Something that is called on the console thread.
pub(crate) trait Handler: Send + Sync {
    /// One of its descriptors is ready; `slot` is the one given to [`IoLoop::watch`].
    fn ready(&self, slot: Slot, events: EventSet);
    /// Someone called [`IoLoop::kick`] for it.
    fn kicked(&self);
}

/// Which of a handler's descriptors; the low bits of what epoll gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Bytes come in (and, for sockets, go out).
    Input = 0,
    /// Bytes go out.
    Output = 1,
    /// A listener, a timer or a connection that is being made.
    Attention = 2,
}

impl Slot {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Attention];

    fn of(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Input,
            1 => Self::Output,
            _ => Self::Attention,
        }
    }
}

/// A handler's name in the loop.
pub(crate) type Token = u64;

/// The token of the loop's own eventfd; handlers count from 1.
const WAKE: Token = 0;

/// Readiness reported in one wait.
const BATCH: usize = 32;

/// The loop and its thread. Interest is changed from any thread: epoll allows that.
pub struct IoLoop {
    epoll: Epoll,
    wake: EventFd,
    stopping: AtomicBool,
    next: AtomicU64,
    // None of these locks is held while a handler is called.
    handlers: Mutex<HashMap<Token, Weak<dyn Handler>>>,
    kicks: Mutex<Vec<Token>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl IoLoop {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The process is out of descriptors or threads.
    pub fn start() -> io::Result<Arc<Self>> {
        let this = Arc::new(Self {
            epoll: Epoll::new()?,
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            stopping: AtomicBool::new(false),
            next: AtomicU64::new(WAKE + 1),
            handlers: Mutex::default(),
            kicks: Mutex::default(),
            thread: Mutex::default(),
        });
        this.epoll.ctl(ControlOperation::Add, this.wake.as_raw_fd(), EpollEvent::new(EventSet::IN, WAKE << 2))?;
        let work = Arc::clone(&this);
        let thread = spawn(ThreadKind::Console, "console", move || work.run())?;
        *this.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(this)
    }

    /// Ends the thread and waits for it. Not to be called on it.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the console thread panicked");
        }
    }

    /// Adds a handler; the loop does not keep it alive.
    pub(crate) fn add(&self, handler: Weak<dyn Handler>) -> Token {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).insert(token, handler);
        token
    }

    /// Forgets a handler.
    pub(crate) fn remove(&self, token: Token) {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
    }

    /// Has the handler called on the console thread soon.
    pub(crate) fn kick(&self, token: Token) {
        let mut kicks = self.kicks.lock().unwrap_or_else(PoisonError::into_inner);
        if kicks.contains(&token) {
            return;
        }
        kicks.push(token);
        drop(kicks);
        self.wake();
    }

    /// Begins, changes or ends waiting for a descriptor.
    pub(crate) fn watch(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        token: Token,
        slot: Slot,
        events: EventSet,
    ) -> io::Result<()> {
        self.epoll.ctl(operation, fd, EpollEvent::new(events, token << 2 | slot as u64))
    }

    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            log::error!("cannot wake the console thread: {error}");
        }
    }

    fn run(&self) {
        let mut events = [EpollEvent::default(); BATCH];
        while !self.stopping.load(Ordering::Acquire) {
            let ready = match self.epoll.wait(-1, &mut events) {
                Ok(count) => events.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("the console thread cannot wait: {error}");
                    return;
                }
            };
            for event in ready {
                self.dispatch(*event);
            }
        }
    }

    fn dispatch(&self, event: EpollEvent) {
        let token = event.data() >> 2;
        if token != WAKE {
            if let Some(handler) = self.handler(token) {
                handler.ready(Slot::of(event.data()), event.event_set());
            }
            return;
        }
        // A counter that cannot be read was not raised; the kicks are looked at all the same.
        let _ = self.wake.read();
        let kicks = std::mem::take(&mut *self.kicks.lock().unwrap_or_else(PoisonError::into_inner));
        for token in kicks {
            if let Some(handler) = self.handler(token) {
                handler.kicked();
            }
        }
    }

    fn handler(&self, token: Token) -> Option<Arc<dyn Handler>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).get(&token)?.upgrade()
    }
}

impl std::fmt::Debug for IoLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoLoop").finish_non_exhaustive()
    }
}
