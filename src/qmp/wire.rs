//! A monitor's side of its character device: bounded input from the console thread, bounded output to it.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhea_devices::chardev::{CharEvent, CharFrontend};

use super::channel::{Reply, Request, RequestSender};
use super::command::Command;
use super::monitors::{Post, Ticket};
use super::services::Services;
use crate::chardev::Chardev;

/// Input that waits for the thread, in bytes.
const INPUT_LIMIT: usize = 64 << 10;
/// Output that waits for the client, in bytes, before no more commands of it are taken.
const OUTPUT_BUSY: usize = 64 << 10;
/// Output that waits for the client, in bytes, before it is sent away: only events can pile up so high.
const OUTPUT_LIMIT: usize = 4 << 20;

/// The connection of one monitor.
pub(crate) struct Wire {
    monitor: usize,
    device: Arc<dyn Chardev>,
    inbox: Arc<Inbox>,
    post: Sender<Post>,
    requests: RequestSender,
    output: VecDeque<u8>,
    next_ticket: u64,
    /// The command that has not been answered.
    pending: Option<Ticket>,
}

/// What the console thread puts in and the qmp thread takes out.
struct Inbox {
    monitor: usize,
    post: Mutex<Sender<Post>>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    bytes: VecDeque<u8>,
    events: VecDeque<CharEvent>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        // It fails when the qmp thread has ended.
        let _ = self.post.lock().unwrap_or_else(PoisonError::into_inner).send(Post::Look(self.monitor));
    }
}

impl CharFrontend for Inbox {
    fn room(&self) -> usize {
        INPUT_LIMIT - self.lock().bytes.len().min(INPUT_LIMIT)
    }

    fn receive(&self, data: &[u8]) {
        self.lock().bytes.extend(data);
        self.look();
    }

    fn event(&self, event: CharEvent) {
        let mut content = self.lock();
        if event == CharEvent::Closed {
            // What a client said before it left is nobody's command any more.
            content.bytes.clear();
        }
        content.events.push_back(event);
        drop(content);
        self.look();
    }

    fn writable(&self) {
        self.look();
    }
}

impl Wire {
    pub(crate) fn new(device: Arc<dyn Chardev>, monitor: usize, post: Sender<Post>, requests: RequestSender) -> Self {
        let inbox = Arc::new(Inbox { monitor, post: Mutex::new(post.clone()), content: Mutex::default() });
        Self { monitor, device, inbox, post, requests, output: VecDeque::new(), next_ticket: 0, pending: None }
    }

    pub(crate) fn monitor(&self) -> usize {
        self.monitor
    }

    pub(crate) fn device(&self) -> &Arc<dyn Chardev> {
        &self.device
    }

    pub(crate) fn frontend(&self) -> Arc<dyn CharFrontend> {
        self.inbox.clone()
    }

    /// What happened to the connection since the last look.
    pub(crate) fn take_event(&self) -> Option<CharEvent> {
        self.inbox.lock().events.pop_front()
    }

    /// A byte of the client, if the session may take one now.
    pub(crate) fn take_byte(&self) -> Option<u8> {
        if self.pending.is_some() || self.output.len() > OUTPUT_BUSY {
            return None;
        }
        self.inbox.lock().bytes.pop_front()
    }

    /// The session took what it could: there may be room for more.
    pub(crate) fn took_input(&self) {
        self.device.accept_input();
    }

    /// Queues output and writes what fits.
    pub(crate) fn send(&mut self, data: &[u8]) {
        self.output.extend(data);
        self.flush();
        if self.output.len() > OUTPUT_LIMIT {
            log::warn!("monitor on \"{}\": the client does not read; it is disconnected", self.device.label());
            self.output.clear();
            self.device.disconnect();
        }
    }

    /// Writes what fits; the device says when there is room for more.
    pub(crate) fn flush(&mut self) {
        // The console thread cannot tell that this client left, and so cannot let in the next, while this lock is
        // held: nothing of one client is sent to another. (Order: this lock, then those of the device.)
        let content = self.inbox.lock();
        let has_left = content.events.contains(&CharEvent::Closed);
        while !self.output.is_empty() && !has_left {
            let (front, _) = self.output.as_slices();
            let taken = self.device.write(front);
            if taken == 0 {
                return;
            }
            self.output.drain(..taken.min(self.output.len()));
        }
    }

    /// A new client, or none: what was for the old one is forgotten.
    pub(crate) fn reset(&mut self) {
        self.output.clear();
        self.pending = None;
    }

    /// Hands a command to the machine; no more input is taken until it is answered.
    pub(crate) fn request(&mut self, command: Command, services: &Arc<Services>) {
        let ticket = Ticket { monitor: self.monitor, number: self.next_ticket };
        self.next_ticket += 1;
        self.pending = Some(ticket);
        let post = self.post.clone();
        let reply = Reply::new(move |answer| {
            // It fails when the qmp thread has ended, and with it the client's connection.
            let _ = post.send(Post::Answer(ticket, answer));
        });
        self.requests.send(Request::new(command, reply, Arc::clone(services)));
    }

    /// Whether this is the answer that is waited for; an older one was for a client that has left.
    pub(crate) fn take_ticket(&mut self, ticket: Ticket) -> bool {
        self.pending.take_if(|pending| *pending == ticket).is_some()
    }
}
