//! The thread `console`: waits for all host ends of character devices.
//!
//! A guest writes its console byte by byte. The thread is woken for the first; then it looks by itself once each
//! [`GATHERING`] until nothing comes any more, so that a byte of a long text costs the vCPU no system call and the host
//! no switch to this thread.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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

/// A wait that only a descriptor ends.
const FOREVER: i32 = -1;

/// Readiness reported in one wait.
const BATCH: usize = 32;

/// How long what trickles in may wait for more, in milliseconds: too short for a person to see.
const GATHERING: i32 = 1;

/// How soon a kick has to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// At once.
    Now,
    /// Within [`GATHERING`]: more of the kind is likely to follow.
    Trickle,
}

/// Who asked to be called, and what the thread will do without being woken.
#[derive(Default)]
struct Kicks {
    tokens: Vec<Token>,
    /// The eventfd was raised for them.
    raised: bool,
    /// The thread looks again by itself.
    gathering: bool,
    /// A trickle is among them: it makes the thread look again afterwards.
    trickles: bool,
}

impl Kicks {
    /// Notes a kick; true if the thread has to be woken for it.
    fn add(&mut self, token: Token, urgency: Urgency) -> bool {
        if !self.tokens.contains(&token) {
            self.tokens.push(token);
        }
        self.trickles |= urgency == Urgency::Trickle;
        let wakes = !self.raised && (urgency == Urgency::Now || !self.gathering);
        self.raised |= wakes;
        wakes
    }

    /// Gives the kicks to the thread. It gathers from now on if something trickled in.
    fn take(&mut self) -> Vec<Token> {
        self.raised = false;
        self.gathering = std::mem::take(&mut self.trickles);
        std::mem::take(&mut self.tokens)
    }
}

/// The loop and its thread. Interest is changed from any thread: epoll allows that.
pub struct IoLoop {
    epoll: Epoll,
    wake: EventFd,
    stopping: AtomicBool,
    next: AtomicU64,
    // None of these locks is held while a handler is called.
    handlers: Mutex<HashMap<Token, Weak<dyn Handler>>>,
    kicks: Mutex<Kicks>,
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

    /// Has the handler called on the console thread.
    pub(crate) fn kick(&self, token: Token, urgency: Urgency) {
        let wakes = self.lock_kicks().add(token, urgency);
        if wakes {
            self.wake();
        }
    }

    fn lock_kicks(&self) -> MutexGuard<'_, Kicks> {
        self.kicks.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut timeout = FOREVER;
        while !self.stopping.load(Ordering::Acquire) {
            let ready = match self.epoll.wait(timeout, &mut events) {
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
            timeout = self.answer_kicks();
        }
    }

    fn dispatch(&self, event: EpollEvent) {
        let token = event.data() >> 2;
        if token == WAKE {
            // A counter that cannot be read was not raised; the kicks are looked at all the same.
            let _ = self.wake.read();
        } else if let Some(handler) = self.handler(token) {
            handler.ready(Slot::of(event.data()), event.event_set());
        }
    }

    /// Calls who was kicked, and gives the time until the next look.
    fn answer_kicks(&self) -> i32 {
        let (tokens, gathering) = {
            let mut kicks = self.lock_kicks();
            (kicks.take(), kicks.gathering)
        };
        for token in tokens {
            if let Some(handler) = self.handler(token) {
                handler.kicked();
            }
        }
        if gathering { GATHERING } else { FOREVER }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_byte_of_a_trickle_wakes() {
        let mut kicks = Kicks::default();

        let first = kicks.add(1, Urgency::Trickle);
        let taken = kicks.take();
        let later = [kicks.add(1, Urgency::Trickle), kicks.add(1, Urgency::Trickle)];

        assert!(first);
        assert_eq!(taken, [1]);
        assert_eq!(later, [false, false]);
        assert!(kicks.gathering, "nobody would look at what came later");
    }

    #[test]
    fn what_is_urgent_wakes_amid_a_trickle() {
        let mut kicks = Kicks::default();
        kicks.add(1, Urgency::Trickle);
        kicks.take();
        kicks.add(1, Urgency::Trickle);

        let urgent = kicks.add(1, Urgency::Now);
        let again = kicks.add(2, Urgency::Now);

        assert!(urgent);
        assert!(!again, "it is awake already");
        assert_eq!(kicks.take(), [1, 2]);
    }

    #[test]
    fn a_trickle_that_has_ended_lets_the_thread_sleep() {
        let mut kicks = Kicks::default();
        kicks.add(1, Urgency::Trickle);
        kicks.take();
        kicks.add(1, Urgency::Trickle);
        kicks.take();

        let last = kicks.take();

        assert!(last.is_empty());
        assert!(!kicks.gathering);
        assert!(kicks.add(1, Urgency::Trickle), "the thread sleeps: it has to be woken");
    }
}
