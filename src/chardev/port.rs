//! What all host ends with descriptors have in common: a bounded queue for output, flow control for input, events.
//!
//! ```text
//!  vCPU ──write──> queue ──(console thread)──> HostEnd ──> terminal, socket, file
//!  guest's end <──receive, event──(console thread)── HostEnd
//! ```
//!
//! A write only queues and has the console thread look, so that no vCPU waits for the host. No lock is held while the
//! guest's end is called: a vCPU that holds its chip's lock may be waiting for ours.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rhea_devices::chardev::{CharBackend, CharEvent, CharFrontend};
use vmm_sys_util::epoll::{ControlOperation, EventSet};

use super::Chardev;
use super::host_end::{Change, HostEnd, Side};
use super::io_loop::{Handler, IoLoop, Slot, Token, Urgency};
use super::log_file::LogFile;
use super::streams::Streams;

/// Output that waits for the host, in bytes.
pub(crate) const OUTPUT_LIMIT: usize = 64 << 10;
/// The longest write that is taken for a part of more to come, in bytes: chips write single bytes, monitors whole lines.
const TRICKLE: usize = 4;
/// Input read at once, in bytes.
const INPUT_CHUNK: usize = 4096;

/// A character device with descriptors.
pub(crate) struct Port {
    label: String,
    io: Arc<IoLoop>,
    token: Token,
    inner: Mutex<Inner>,
}

struct Inner {
    end: Box<dyn HostEnd>,
    log: Option<LogFile>,
    frontend: Option<Arc<dyn CharFrontend>>,
    frontend_open: bool,
    output: VecDeque<u8>,
    /// A write was cut short: the front end wants to hear of room.
    cut_short: bool,
    /// The front end had no room for input.
    starved: bool,
    /// Events for the front end that have not been told yet.
    news: VecDeque<CharEvent>,
    watches: [Option<Watched>; 3],
}

/// A descriptor that is waited for.
#[derive(Clone, Copy)]
struct Watched {
    fd: RawFd,
    events: EventSet,
    /// A regular file: epoll refuses it because it is always ready.
    always: bool,
}

impl Port {
    /// Puts `end` into the loop.
    pub(crate) fn new(label: &str, end: Box<dyn HostEnd>, log: Option<LogFile>, io: &Arc<IoLoop>) -> Arc<Self> {
        let inner = Inner {
            end,
            log,
            frontend: None,
            frontend_open: false,
            output: VecDeque::new(),
            cut_short: false,
            starved: false,
            news: VecDeque::new(),
            watches: [None; 3],
        };
        let port = Arc::new_cyclic(|this: &Weak<Self>| {
            let handler: Weak<dyn Handler> = this.clone();
            Self { label: label.to_owned(), io: Arc::clone(io), token: io.add(handler), inner: Mutex::new(inner) }
        });
        port.rewatch(&mut port.lock());
        port
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the loop what to wait for now.
    fn rewatch(&self, inner: &mut Inner) {
        let wanted = inner.wanted();
        for ((slot, known), want) in Slot::ALL.into_iter().zip(&mut inner.watches).zip(wanted) {
            self.change_watch(slot, known, want);
        }
        if inner.watches.iter().flatten().any(|watched| watched.always) {
            self.io.kick(self.token, Urgency::Now);
        }
    }

    fn change_watch(&self, slot: Slot, known: &mut Option<Watched>, want: Option<(RawFd, EventSet)>) {
        let Some((fd, events)) = want else {
            self.forget(slot, known);
            return;
        };
        let operation = match known {
            Some(watched) if watched.fd == fd && watched.events == events => return,
            Some(watched) if watched.fd == fd && !watched.always => ControlOperation::Modify,
            _ => {
                self.forget(slot, known);
                ControlOperation::Add
            }
        };
        match self.io.watch(operation, fd, self.token, slot, events) {
            Ok(()) => *known = Some(Watched { fd, events, always: false }),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                *known = Some(Watched { fd, events, always: true });
            }
            Err(error) => log::error!("character device \"{}\": cannot wait for it: {error}", self.label),
        }
    }

    fn forget(&self, slot: Slot, known: &mut Option<Watched>) {
        if let Some(Watched { fd, always: false, .. }) = known.take() {
            // It fails only when the descriptor is closed, which ended the watch too.
            let _ = self.io.watch(ControlOperation::Delete, fd, self.token, slot, EventSet::empty());
        }
    }

    /// Ends all watches: to be called before descriptors are closed, lest their numbers come back as others.
    fn unwatch(&self, inner: &mut Inner) {
        for (slot, known) in Slot::ALL.into_iter().zip(&mut inner.watches) {
            self.forget(slot, known);
        }
    }

    /// Writes what waits, as far as it goes.
    fn flush(&self, inner: &mut Inner) {
        while inner.has_output() {
            let (front, _) = inner.output.as_slices();
            match inner.end.write(front) {
                Ok(0) if inner.output.is_empty() => {}
                Ok(0) => break,
                Ok(count) => {
                    inner.output.drain(..count.min(inner.output.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.fail(inner, Side::Output, &error),
            }
        }
    }

    fn fail(&self, inner: &mut Inner, side: Side, error: &io::Error) {
        log::debug!("character device \"{}\": {error}", self.label);
        self.hang_up(inner, side);
    }

    fn hang_up(&self, inner: &mut Inner, side: Side) {
        self.unwatch(inner);
        inner.end.close(side);
        if !inner.end.is_open() {
            inner.output.clear();
            inner.news.push_back(CharEvent::Closed);
        }
    }

    fn attend(&self, inner: &mut Inner) {
        self.unwatch(inner);
        if inner.end.attend() == Change::Opened {
            inner.news.push_back(CharEvent::Opened);
        }
    }

    /// How much the front end takes, having noted when that is nothing.
    fn room(&self, frontend: &dyn CharFrontend) -> usize {
        let room = frontend.room();
        if room > 0 {
            return room;
        }
        self.lock().starved = true;
        // Room may have come between the look and the note, and the call that says so with it.
        let room = frontend.room();
        if room > 0 {
            self.lock().starved = false;
        }
        room
    }

    /// Reads once, if the front end has room.
    fn pump_input(&self) {
        let Some(frontend) = self.lock().frontend.clone() else { return };
        let limit = self.room(frontend.as_ref()).min(INPUT_CHUNK);
        let mut inner = self.lock();
        if limit == 0 || !inner.end.is_open() || inner.end.input().is_none() {
            return;
        }
        let mut buffer = [0; INPUT_CHUNK];
        match inner.end.read(buffer.get_mut(..limit).unwrap_or_default()) {
            Ok(0) => self.hang_up(&mut inner, Side::Input),
            Ok(count) => {
                if inner.end.take_break() {
                    inner.news.push_back(CharEvent::Break);
                }
                drop(inner);
                frontend.receive(buffer.get(..count).unwrap_or_default());
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => self.fail(&mut inner, Side::Input, &error),
        }
    }

    fn drain(&self, inner: &mut Inner, until: Instant) {
        loop {
            self.flush(inner);
            let left = until.saturating_duration_since(Instant::now());
            if !inner.has_output() || left.is_zero() {
                return;
            }
            let Some(fd) = inner.end.output() else { return };
            if !becomes_writable(fd, left) {
                return;
            }
        }
    }

    /// Tells the front end what happened, then looks again what to wait for.
    fn settle(&self) {
        loop {
            let mut inner = self.lock();
            let frontend = inner.frontend.clone();
            let news = std::mem::take(&mut inner.news);
            let has_room_again = inner.cut_short && inner.output.len() <= OUTPUT_LIMIT / 2;
            inner.cut_short &= !has_room_again;
            if news.is_empty() && !has_room_again {
                self.rewatch(&mut inner);
                return;
            }
            drop(inner);
            let Some(frontend) = frontend else { continue };
            for event in news {
                frontend.event(event);
            }
            if has_room_again {
                frontend.writable();
            }
        }
    }
}

impl Inner {
    /// What to wait for, by slot. A descriptor that serves both ways has one slot.
    fn wanted(&self) -> [Option<(RawFd, EventSet)>; 3] {
        let attention = self.end.attention().map(|(fd, events)| (fd.as_raw_fd(), events));
        if !self.end.is_open() {
            return [None, None, attention];
        }
        let input = self.end.input().map(|fd| fd.as_raw_fd());
        let output = self.end.output().map(|fd| fd.as_raw_fd());
        let mut first = EventSet::empty();
        first.set(EventSet::IN, self.frontend.is_some() && !self.starved && input.is_some());
        let mut second = EventSet::empty();
        second.set(EventSet::OUT, self.has_output());
        if input == output {
            first |= second;
            second = EventSet::empty();
        }
        let wait = |fd: Option<RawFd>, events: EventSet| fd.filter(|_| !events.is_empty()).map(|fd| (fd, events));
        [wait(input, first), wait(output, second), attention]
    }

    fn has_output(&self) -> bool {
        self.end.is_open() && (self.end.owes() || !self.output.is_empty())
    }

    fn input_is_always_ready(&self) -> bool {
        matches!(self.watches, [Some(Watched { always: true, .. }), ..])
    }
}

impl Handler for Port {
    fn ready(&self, slot: Slot, events: EventSet) {
        let is_gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        let mut inner = self.lock();
        if slot == Slot::Attention {
            self.attend(&mut inner);
        } else {
            self.flush(&mut inner);
            let is_stuck = is_gone && inner.has_output();
            if slot == Slot::Output && is_stuck {
                self.hang_up(&mut inner, Side::Output);
            }
        }
        drop(inner);
        if slot == Slot::Input && (is_gone || events.contains(EventSet::IN)) {
            self.pump_input();
        }
        self.settle();
    }

    fn kicked(&self) {
        let mut inner = self.lock();
        self.flush(&mut inner);
        let has_input = inner.input_is_always_ready();
        drop(inner);
        if has_input {
            self.pump_input();
        }
        self.settle();
    }
}

impl CharBackend for Port {
    fn label(&self) -> &str {
        &self.label
    }

    fn write(&self, data: &[u8]) -> usize {
        let mut inner = self.lock();
        let is_open = inner.end.is_open();
        let room = OUTPUT_LIMIT.saturating_sub(inner.output.len());
        let taken = if is_open { data.len().min(room) } else { data.len() };
        let (now, _) = data.split_at(taken);
        if let Some(log) = &mut inner.log {
            log.write(now);
        }
        if !is_open {
            return taken;
        }
        let was_idle = inner.output.is_empty();
        inner.output.extend(now);
        inner.cut_short |= taken < data.len();
        drop(inner);
        if was_idle && taken > 0 {
            self.io.kick(self.token, if taken <= TRICKLE { Urgency::Trickle } else { Urgency::Now });
        }
        taken
    }

    fn attach(&self, frontend: Option<Arc<dyn CharFrontend>>) -> bool {
        let mut inner = self.lock();
        if frontend.is_some() && inner.frontend.is_some() {
            return false;
        }
        inner.starved = false;
        inner.cut_short = false;
        inner.frontend_open = frontend.is_some();
        inner.news.clear();
        if frontend.is_some() && inner.end.is_open() {
            inner.news.push_back(CharEvent::Opened);
        }
        inner.frontend = frontend;
        drop(inner);
        self.io.kick(self.token, Urgency::Now);
        true
    }

    fn accept_input(&self) {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.starved) {
            drop(inner);
            self.io.kick(self.token, Urgency::Now);
        }
    }

    fn set_frontend_open(&self, open: bool) {
        self.lock().frontend_open = open;
    }
}

impl Chardev for Port {
    fn filename(&self) -> String {
        self.lock().end.filename()
    }

    fn frontend_open(&self) -> bool {
        self.lock().frontend_open
    }

    fn is_busy(&self) -> bool {
        self.lock().frontend.is_some()
    }

    fn take_fd(&self) -> Option<OwnedFd> {
        self.lock().end.take_fd()
    }

    fn send_break(&self) {
        self.lock().end.send_break();
    }

    fn disconnect(&self) {
        let mut inner = self.lock();
        if inner.end.is_open() {
            self.hang_up(&mut inner, Side::Output);
            drop(inner);
            self.io.kick(self.token, Urgency::Now);
        }
    }

    fn finish(&self, until: Instant) {
        let mut inner = self.lock();
        self.drain(&mut inner, until);
        self.unwatch(&mut inner);
        inner.output.clear();
        // Front ends still hold us; what has to be given back to the host is given back now.
        inner.end = Box::new(Streams::new("closed", None, None));
        inner.frontend = None;
    }
}

/// Waits until `fd` takes output; false when the time is over or it never will.
fn becomes_writable(fd: BorrowedFd<'_>, left: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) && fds.iter().all(|fd| fd.revents().contains(PollFlags::OUT))
}

impl Drop for Port {
    fn drop(&mut self) {
        self.io.remove(self.token);
        let watches = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).watches;
        for (slot, mut known) in Slot::ALL.into_iter().zip(watches) {
            self.forget(slot, &mut known);
        }
    }
}
