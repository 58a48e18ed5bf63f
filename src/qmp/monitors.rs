//! The thread `qmp`: all monitors, on whatever character devices.
//!
//! It waits for one thing, its queue: bytes that the console thread received, answers of the main thread, events from
//! anywhere. So what a client sees has the order in which it was posted.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rhea_block::thread::{ThreadKind, spawn};
use serde_json::Value;

use super::channel::{Answer, RequestSender};
use super::event::{Event, EventBus, EventListener};
use super::services::Services;
use super::session::{QmpSession, Session};
use super::wire::Wire;
use crate::chardev::Chardev;
use crate::hmp::HumanSession;

/// Events that wait for the thread. It only ever waits for its own work, so more means that it is dead.
const EVENTS_WAITING: usize = 16 << 10;

/// How a monitor is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// QMP, in lines or pretty.
    Control {
        /// Over several lines, for people who watch.
        pretty: bool,
    },
    /// The human monitor.
    Readline,
}

/// What the thread is told.
pub(crate) enum Post {
    /// A new monitor.
    Add(Box<dyn Session>),
    /// Its device has bytes, room, or news for monitor `n`.
    Look(usize),
    /// The main thread answered.
    Answer(Ticket, Answer),
    /// Something happened.
    Event(Value),
    /// The end.
    Stop,
}

/// Which command an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) monitor: usize,
    pub(crate) number: u64,
}

/// The monitors.
pub struct Monitors {
    post: Sender<Post>,
    requests: RequestSender,
    services: Arc<Services>,
    count: AtomicUsize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Passes events on to the thread.
struct Ear {
    post: Mutex<Sender<Post>>,
    waiting: Arc<AtomicUsize>,
}

impl EventListener for Ear {
    fn event(&self, event: &Event, at: Duration) {
        if self.waiting.load(Ordering::Relaxed) >= EVENTS_WAITING {
            log::error!("the qmp thread does not take events; {} is lost", event.name());
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // It fails when the thread has ended, and with it everyone who could hear.
        let _ = self.post.lock().unwrap_or_else(PoisonError::into_inner).send(Post::Event(event.to_message(at)));
    }
}

impl Monitors {
    /// Starts the thread. Commands go to `requests`, events come from `bus`.
    ///
    /// # Errors
    ///
    /// The process is out of threads.
    pub fn start(requests: RequestSender, services: Arc<Services>, bus: &EventBus) -> io::Result<Self> {
        let (post, posted) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        bus.listen(Arc::new(Ear { post: Mutex::new(post.clone()), waiting: Arc::clone(&waiting) }));
        let thread = spawn(ThreadKind::Console, "qmp", move || run(&posted, &waiting))?;
        Ok(Self { post, requests, services, count: AtomicUsize::new(0), thread: Mutex::new(Some(thread)) })
    }

    /// Adds a monitor on a device that [`crate::chardev::Chardevs::frontend`] gave. On a mux, attach the guest's
    /// console first: who comes first has the input. False when the device has a front end already.
    pub fn add(&self, device: Arc<dyn Chardev>, mode: Mode) -> bool {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let wire = Wire::new(device, number, self.post.clone(), self.requests.clone());
        let frontend = wire.frontend();
        let device = Arc::clone(wire.device());
        let services = Arc::clone(&self.services);
        let session: Box<dyn Session> = match mode {
            Mode::Control { pretty } => Box::new(QmpSession::new(wire, services, pretty)),
            Mode::Readline => Box::new(HumanSession::new(wire, services)),
        };
        // The session is known before the device can speak of it.
        let _ = self.post.send(Post::Add(session));
        device.attach(Some(frontend))
    }

    /// Sends what has been posted so far, then ends the thread and waits for it. The character devices still have to
    /// be shut down after it.
    pub fn stop(&self) {
        // It fails when the thread has ended by itself.
        let _ = self.post.send(Post::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the qmp thread panicked");
        }
    }
}

impl std::fmt::Debug for Monitors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitors").field("count", &self.count).finish_non_exhaustive()
    }
}

fn run(posted: &Receiver<Post>, waiting: &AtomicUsize) {
    let mut sessions: Vec<Box<dyn Session>> = Vec::new();
    while let Ok(post) = posted.recv() {
        match post {
            Post::Add(session) => sessions.push(session),
            Post::Look(monitor) => {
                if let Some(session) = find(&mut sessions, monitor) {
                    session.look();
                }
            }
            Post::Answer(ticket, answer) => {
                if let Some(session) = find(&mut sessions, ticket.monitor) {
                    session.answer(ticket, answer);
                }
            }
            Post::Event(message) => {
                waiting.fetch_sub(1, Ordering::Relaxed);
                for session in &mut sessions {
                    session.event(&message);
                }
            }
            Post::Stop => return,
        }
    }
}

fn find(sessions: &mut [Box<dyn Session>], monitor: usize) -> Option<&mut Box<dyn Session>> {
    sessions.iter_mut().find(|session| session.monitor() == monitor)
}

#[cfg(test)]
mod tests;
