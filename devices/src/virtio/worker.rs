//! The life of a running queue on its thread, whatever the device does with the chains.
//!
//! ```text
//!          start             stop               nothing in flight
//!   idle ────────▶ running ────────▶ stopping ───────────────────▶ idle (position given back)
//!                    │ ring broken       ▲
//!                    ▼        stop       │
//!                  broken ───────────────┘
//! ```

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::device::{QueueParts, RingPosition, Stopped};
use super::iothread::{IoThread, Next, Ready, Sources, Trigger, Worker, WorkerHandle};
use super::queue::{QueueError, VirtQueue};
use crate::lifecycle::DeviceError;
use crate::log_limit::LogLimit;

/// What a device does with the chains of one queue. All calls come from the queue's thread; none may wait.
pub trait QueueHandler: Send {
    /// A descriptor that is readable when [`QueueHandler::finish`] may have something to do; the same for life.
    fn completions(&self) -> Option<RawFd>;
    /// Whether [`QueueHandler::finish`] has something to do, told without a system call. Asked on threads that poll.
    fn has_work(&mut self) -> bool;
    /// How many more chains can be taken now.
    fn room(&self, size: u16) -> usize;
    /// Takes the chain at `head`: it is returned to the ring now or in [`QueueHandler::finish`].
    ///
    /// # Errors
    /// When the ring cannot be used any more.
    fn begin(&mut self, queue: &mut VirtQueue, head: u16) -> Result<(), QueueError>;
    /// A batch of [`QueueHandler::begin`] is over: hand on what was gathered.
    fn flush(&mut self);
    /// Returns chains that are done.
    ///
    /// # Errors
    /// When the ring cannot be used any more; what is done is then forgotten.
    fn finish(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError>;
    /// The queue starts: these chains were held and come first. There are none after a reset.
    fn restart(&mut self, _held: &[u16]) {}
    /// Called when [`QueueHandler::completions`] is readable while the queue does not run, and nothing is in flight: makes
    /// it quiet, and lets go of what is no longer there.
    fn idle(&mut self);
    /// The queue is to stop: what is done in several steps is held now instead of going on.
    fn wind_up(&mut self) {}
    /// How many chains are in flight: taken, not returned, and going to be done by themselves.
    fn in_flight(&self) -> usize;
    /// Heads of the chains that are held until the next start; they are no longer the handler's.
    fn take_held(&mut self) -> Vec<u16>;
}

enum Control {
    Start(Box<VirtQueue>, Vec<u16>),
    Stop(Stopped),
}

/// The way to a queue's worker from other threads.
pub struct QueueWorker {
    control: Sender<Control>,
    handle: WorkerHandle,
}

impl QueueWorker {
    /// Puts `handler` on `thread`, idle.
    #[must_use]
    pub fn new(thread: &Arc<IoThread>, handler: Box<dyn QueueHandler>) -> Self {
        let (control, mail) = channel();
        let log = LogLimit::default();
        let worker = Serving { handler, mail, state: State::Idle, heads: Vec::new(), deaf: false, log };
        Self { control, handle: thread.add(Box::new(worker)) }
    }

    /// Serves `queue` from now on, beginning with the chains that were `held`.
    pub fn start(&self, queue: VirtQueue, held: Vec<u16>) {
        self.send(Control::Start(Box::new(queue), held));
    }

    /// Takes no more, waits for what is in flight, then keeps the promise.
    pub fn stop(&self, stopped: Stopped) {
        self.send(Control::Stop(stopped));
    }

    fn send(&self, control: Control) {
        // A worker that is gone has dropped its end: the message is dropped, and with it a promise, which says so.
        if self.control.send(control).is_ok() {
            self.handle.wake();
        }
    }
}

/// The workers of a device, by queue.
#[derive(Default)]
pub struct QueueSet(Vec<QueueWorker>);

impl QueueSet {
    /// The next queue's handler, idle on `thread`.
    pub fn add(&mut self, thread: &Arc<IoThread>, handler: Box<dyn QueueHandler>) {
        self.0.push(QueueWorker::new(thread, handler));
    }

    /// Serves the ring of queue `n` from `at` on.
    ///
    /// # Errors
    /// When the ring cannot be used or there is no such queue.
    pub fn start(&self, n: u16, parts: QueueParts, mut at: RingPosition) -> Result<(), DeviceError> {
        let below =
            |source| DeviceError::Below { what: format!("cannot use the ring of queue {n}"), source: Box::new(source) };
        let queue = VirtQueue::new(parts, &at).map_err(below)?;
        let worker = self.0.get(usize::from(n));
        let worker = worker.ok_or_else(|| DeviceError::Invalid(format!("queue {n} was never made")))?;
        worker.start(queue, std::mem::take(&mut at.held));
        Ok(())
    }

    /// Takes no more from queue `n`, waits for what is in flight, then keeps the promise.
    pub fn stop(&self, n: u16, stopped: Stopped) {
        if let Some(worker) = self.0.get(usize::from(n)) {
            worker.stop(stopped);
        }
    }
}

enum State {
    Idle,
    Running(Box<VirtQueue>),
    Broken(Box<VirtQueue>),
    Stopping(Box<VirtQueue>, Stopped),
}

struct Serving {
    handler: Box<dyn QueueHandler>,
    mail: Receiver<Control>,
    state: State,
    heads: Vec<u16>,
    /// The driver was not asked to ring, because the thread polls.
    deaf: bool,
    /// A guest can break its ring as often as it resets the device.
    log: LogLimit,
}

const DOORBELL: u32 = 0;
const COMPLETIONS: u32 = 1;
/// Rounds of taking chains before other queues on the thread get their turn.
const ROUNDS: usize = 4;

impl Worker for Serving {
    fn attach(&mut self, sources: &mut Sources<'_>) -> std::io::Result<()> {
        match self.handler.completions() {
            Some(fd) => sources.watch(fd, COMPLETIONS, Trigger::Level),
            None => Ok(()),
        }
    }

    fn ready(&mut self, what: Ready, sources: &mut Sources<'_>) -> Next {
        if let (Ready::Source(DOORBELL), State::Running(queue)) = (what, &mut self.state) {
            queue.rung();
        }
        if what == Ready::Woken {
            while let Ok(control) = self.mail.try_recv() {
                self.control(control, sources);
            }
        }
        self.serve(sources)
    }

    fn has_work(&mut self) -> bool {
        match &self.state {
            State::Idle => false,
            State::Running(queue) if queue.is_dormant() => false,
            State::Running(queue) => {
                self.handler.has_work() || (self.handler.room(queue.size()) > 0 && queue.has_more())
            }
            State::Broken(_) | State::Stopping(..) => self.handler.has_work(),
        }
    }

    /// Section 2.7.10: ask to be rung, then look once more.
    fn rest(&mut self) -> bool {
        let deaf = std::mem::take(&mut self.deaf);
        match &mut self.state {
            // What is wrong with the ring is told when it is served.
            State::Running(queue) if deaf && self.handler.room(queue.size()) > 0 => queue.listen().unwrap_or(true),
            _ => false,
        }
    }
}

impl Serving {
    fn control(&mut self, control: Control, sources: &mut Sources<'_>) {
        match (control, std::mem::replace(&mut self.state, State::Idle)) {
            (Control::Start(queue, held), State::Idle) => {
                if let Err(error) = sources.watch(queue.doorbell().as_raw_fd(), DOORBELL, Trigger::Edge) {
                    log::error!("cannot watch the doorbell of virtio queue {}: {error}", queue.index());
                    queue.events().needs_reset();
                    self.state = State::Broken(queue);
                    return;
                }
                self.handler.restart(&held);
                self.heads.clear();
                self.heads.extend(held);
                self.state = State::Running(queue);
            }
            (Control::Stop(stopped), State::Running(queue) | State::Broken(queue)) => {
                self.handler.wind_up();
                self.state = State::Stopping(queue, stopped);
            }
            // A queue that does not run has no position to give: dropping the promise says so. One that runs already
            // is not started again.
            (Control::Stop(_) | Control::Start(..), state) => self.state = state,
        }
    }

    fn serve(&mut self, sources: &mut Sources<'_>) -> Next {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => {
                self.handler.idle();
                Next::Wait
            }
            State::Running(queue) if queue.is_dormant() => {
                self.handler.idle();
                self.state = State::Running(queue);
                Next::Wait
            }
            State::Running(mut queue) => match self.run(&mut queue, sources) {
                Ok(next) => {
                    self.state = State::Running(queue);
                    next
                }
                Err(error) => {
                    let index = queue.index();
                    self.log.warn(format_args!("virtio queue {index} is broken until a reset: {error}"));
                    queue.events().needs_reset();
                    self.state = State::Broken(queue);
                    Next::Wait
                }
            },
            State::Broken(mut queue) => {
                self.drain(&mut queue);
                self.state = State::Broken(queue);
                Next::Wait
            }
            State::Stopping(mut queue, stopped) => {
                self.drain(&mut queue);
                if self.handler.in_flight() > 0 {
                    self.state = State::Stopping(queue, stopped);
                } else {
                    sources.forget(queue.doorbell().as_raw_fd());
                    stopped.at(self.position(&queue));
                }
                Next::Wait
            }
        }
    }

    /// Takes, hands on, returns, in rounds; one decision about an interrupt in each.
    fn run(&mut self, queue: &mut VirtQueue, sources: &Sources<'_>) -> Result<Next, QueueError> {
        let batch = sources.batch().map_or(usize::MAX, NonZeroUsize::get);
        for _ in 0..ROUNDS {
            queue.suppress_doorbell()?;
            let room = self.handler.room(queue.size());
            let left = room.saturating_sub(self.heads.len());
            if left > 0 {
                queue.take(left, &mut self.heads)?;
            }
            let mut now = self.heads.len().min(room);
            while now > 0 {
                let some = now.min(batch);
                for head in self.heads.drain(..some) {
                    self.handler.begin(queue, head)?;
                }
                self.handler.flush();
                now -= some;
            }
            self.handler.finish(queue)?;
            queue.interrupt()?;
            self.deaf = sources.polled();
            // With no room, a completion comes first and brings us back here.
            if self.handler.room(queue.size()) == 0 {
                return Ok(Next::Wait);
            }
            let more = if self.deaf { queue.has_more() } else { queue.listen()? };
            if !more && self.heads.is_empty() {
                return Ok(Next::Wait);
            }
        }
        Ok(Next::Again)
    }

    /// Lets what is in flight finish; a ring that is broken cannot be told.
    fn drain(&mut self, queue: &mut VirtQueue) {
        if let Err(error) = self.handler.finish(queue).and_then(|()| queue.interrupt()) {
            log::debug!("virtio queue {} cannot be told of what is done: {error}", queue.index());
        }
    }

    fn position(&mut self, queue: &VirtQueue) -> RingPosition {
        let mut held = self.handler.take_held();
        held.append(&mut self.heads);
        // A guest can make one head available twice; it is served once more than it may be, not without bound.
        held.truncate(usize::from(queue.size()));
        queue.position(held)
    }
}

#[cfg(test)]
mod tests;
