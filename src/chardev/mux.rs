//! Several front ends on one host end: the guest's console and the monitor on one terminal.
//!
//! One of them has the input; all write. Ctrl-A is the escape character:
//!
//! | after Ctrl-A | |
//! |---|---|
//! | `x` | ends the process |
//! | `s` | saves what overlays hold |
//! | `c` | gives the input to the next front end |
//! | `b` | sends a break condition |
//! | `t` | puts the time since the first such line before lines, or not |
//! | `h`, `?` | says all this |
//! | Ctrl-A | is Ctrl-A |

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rhea_devices::chardev::{CharBackend, CharEvent, CharFrontend};

use super::Chardev;

const ESCAPE: u8 = 1;
/// Input that a front end has no room for yet, in bytes.
const HELD: usize = 4096;
/// Front ends of one mux.
pub(crate) const MAX_FACES: usize = 4;

const HELP: &str = "\n\r\
    C-a h    print this help\n\r\
    C-a x    exit emulator\n\r\
    C-a s    save disk data back to file (if -snapshot)\n\r\
    C-a t    toggle console timestamps\n\r\
    C-a b    send break (magic sysrq)\n\r\
    C-a c    switch between console and monitor\n\r\
    C-a C-a  sends C-a\n\r";

/// What someone at the console wants of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// Its end (`x`).
    Quit,
    /// What overlays hold written into the images beneath (`s`).
    Commit,
}

/// Is told of [`Escape`]s; called on the console thread.
pub type EscapeHook = Arc<dyn Fn(Escape) + Send + Sync>;

/// The shared part.
pub(crate) struct Mux {
    label: String,
    below: Arc<dyn Chardev>,
    escapes: EscapeHook,
    // Not held while a front end or the host end is called.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    faces: Vec<FaceState>,
    focus: usize,
    is_open: bool,
    has_escape: bool,
    timestamps: bool,
    first_stamp: Option<Instant>,
    at_line_start: bool,
}

#[derive(Default)]
struct FaceState {
    frontend: Option<Arc<dyn CharFrontend>>,
    frontend_open: bool,
    held: VecDeque<u8>,
    cut_short: bool,
}

/// One front end's view of a mux.
pub(crate) struct Face {
    mux: Arc<Mux>,
    number: usize,
}

/// What is to be done once the lock is released.
enum Todo {
    Event(Arc<dyn CharFrontend>, CharEvent),
    Write(Vec<u8>),
    Escape(Escape),
}

impl Mux {
    /// Takes `below` for itself.
    pub(crate) fn new(label: &str, below: Arc<dyn Chardev>, escapes: EscapeHook) -> Arc<Self> {
        let label = label.to_owned();
        let mux = Arc::new(Self {
            label,
            below,
            escapes,
            inner: Mutex::new(Inner { at_line_start: true, ..Inner::default() }),
        });
        // Nobody else has attached: the host end was made for this mux, or found free.
        let attached = mux.below.attach(Some(mux.clone()));
        debug_assert!(attached);
        mux
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A view for one more front end; `None` when there are too many.
    pub(crate) fn add_face(self: &Arc<Self>) -> Option<Face> {
        let mut inner = self.lock();
        if inner.faces.len() >= MAX_FACES {
            return None;
        }
        inner.faces.push(FaceState::default());
        Some(Face { mux: Arc::clone(self), number: inner.faces.len() - 1 })
    }

    pub(crate) fn below(&self) -> &Arc<dyn Chardev> {
        &self.below
    }

    /// A front end is attached.
    pub(crate) fn is_busy(&self) -> bool {
        self.lock().faces.iter().any(|face| face.frontend.is_some())
    }

    fn perform(&self, todo: Vec<Todo>) {
        for item in todo {
            match item {
                Todo::Event(frontend, event) => frontend.event(event),
                Todo::Write(text) => {
                    // Help and the like: what does not fit is not worth waiting for.
                    let _ = self.below.write(&text);
                }
                Todo::Escape(escape) => (self.escapes)(escape),
            }
        }
    }

    /// Gives held input to the front ends it was typed for, as much as they take.
    fn deliver(&self) {
        let count = self.lock().faces.len();
        for number in 0..count {
            while self.deliver_some(number) {}
        }
    }

    /// One step of that; false when there is nothing more to give or no room.
    fn deliver_some(&self, number: usize) -> bool {
        let Some(frontend) = self.lock().frontend_with_input(number) else { return false };
        let room = frontend.room();
        let chunk: Vec<u8> = {
            let mut inner = self.lock();
            let Some(face) = inner.faces.get_mut(number) else { return false };
            let count = room.min(face.held.len());
            face.held.drain(..count).collect()
        };
        if chunk.is_empty() {
            return false;
        }
        frontend.receive(&chunk);
        true
    }

    fn write_from_face(&self, number: usize, data: &[u8]) -> usize {
        let stamped = {
            let mut inner = self.lock();
            if inner.timestamps { Some(inner.stamp(data)) } else { None }
        };
        let taken = match stamped {
            None => self.below.write(data),
            Some(text) => {
                // Stamps make the text longer; what a full host end cuts off a stamped line is lost.
                let _ = self.below.write(&text);
                data.len()
            }
        };
        if taken < data.len()
            && let Some(face) = self.lock().faces.get_mut(number)
        {
            face.cut_short = true;
        }
        taken
    }

    fn attach_face(&self, number: usize, frontend: Option<Arc<dyn CharFrontend>>) -> bool {
        let mut todo = Vec::new();
        let mut inner = self.lock();
        let is_open = inner.is_open;
        // Who comes first has the input; who comes later is told before anything else that it has not.
        let has_focus = inner.frontend(inner.focus).is_none();
        let Some(face) = inner.faces.get_mut(number) else { return false };
        if frontend.is_some() && face.frontend.is_some() {
            return false;
        }
        face.frontend.clone_from(&frontend);
        face.frontend_open = frontend.is_some();
        face.held.clear();
        if let Some(frontend) = frontend {
            let focus = if has_focus { CharEvent::MuxIn } else { CharEvent::MuxOut };
            todo.push(Todo::Event(Arc::clone(&frontend), focus));
            if is_open {
                todo.push(Todo::Event(frontend, CharEvent::Opened));
            }
            if has_focus {
                inner.focus = number;
            }
        }
        drop(inner);
        self.perform(todo);
        true
    }
}

impl Inner {
    fn frontend(&self, number: usize) -> Option<Arc<dyn CharFrontend>> {
        self.faces.get(number)?.frontend.clone()
    }

    fn frontend_with_input(&self, number: usize) -> Option<Arc<dyn CharFrontend>> {
        let face = self.faces.get(number)?;
        face.frontend.clone().filter(|_| !face.held.is_empty())
    }

    fn tell_focus(&self, old: usize, todo: &mut Vec<Todo>) {
        if old != self.focus
            && let Some(frontend) = self.frontend(old)
        {
            todo.push(Todo::Event(frontend, CharEvent::MuxOut));
        }
        if let Some(frontend) = self.frontend(self.focus) {
            todo.push(Todo::Event(frontend, CharEvent::MuxIn));
        }
    }

    fn input(&mut self, byte: u8, todo: &mut Vec<Todo>) {
        if std::mem::take(&mut self.has_escape) {
            self.escaped(byte, todo);
        } else if byte == ESCAPE {
            self.has_escape = true;
        } else {
            self.hold(byte);
        }
    }

    fn escaped(&mut self, byte: u8, todo: &mut Vec<Todo>) {
        match byte {
            ESCAPE => self.hold(ESCAPE),
            b'x' => {
                todo.push(Todo::Write(b"QEMU: Terminated\n\r".to_vec()));
                todo.push(Todo::Escape(Escape::Quit));
            }
            b's' => todo.push(Todo::Escape(Escape::Commit)),
            b'c' => {
                let old = self.focus;
                // What was typed before the switch is held for the one that had the input.
                self.focus = self.next_focus();
                self.tell_focus(old, todo);
            }
            b'b' => todo.extend(self.frontend(self.focus).map(|frontend| Todo::Event(frontend, CharEvent::Break))),
            b't' => {
                self.timestamps = !self.timestamps;
                self.at_line_start = true;
            }
            b'h' | b'?' => todo.push(Todo::Write(HELP.into())),
            _ => {}
        }
    }

    fn next_focus(&self) -> usize {
        let count = self.faces.len();
        let after = (1..=count).filter_map(|step| (self.focus + step).checked_rem(count));
        after.into_iter().find(|number| self.frontend(*number).is_some()).unwrap_or(self.focus)
    }

    fn hold(&mut self, byte: u8) {
        if let Some(face) = self.faces.get_mut(self.focus)
            && face.held.len() < HELD
        {
            face.held.push_back(byte);
        }
    }

    fn stamp(&mut self, data: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(data.len() + 16);
        for byte in data {
            if std::mem::replace(&mut self.at_line_start, *byte == b'\n') {
                let first = *self.first_stamp.get_or_insert_with(Instant::now);
                text.extend(timestamp(first.elapsed()).as_bytes());
            }
            text.push(*byte);
        }
        text
    }
}

/// The time since the first stamped line.
fn timestamp(since: Duration) -> String {
    let seconds = since.as_secs();
    format!("[{:02}:{:02}:{:02}.{:03}] ", seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_millis())
}

impl CharFrontend for Mux {
    fn room(&self) -> usize {
        let inner = self.lock();
        inner.faces.get(inner.focus).map_or(HELD, |face| HELD - face.held.len().min(HELD))
    }

    fn receive(&self, data: &[u8]) {
        for byte in data {
            let mut todo = Vec::new();
            self.lock().input(*byte, &mut todo);
            self.perform(todo);
        }
        self.deliver();
    }

    fn event(&self, event: CharEvent) {
        let mut inner = self.lock();
        match event {
            CharEvent::Opened => inner.is_open = true,
            CharEvent::Closed => inner.is_open = false,
            _ => {}
        }
        let goes_to_all = matches!(event, CharEvent::Opened | CharEvent::Closed);
        let focus = inner.focus;
        let faces = inner.faces.iter().enumerate().filter(|(number, _)| goes_to_all || *number == focus);
        let frontends: Vec<_> = faces.filter_map(|(_, face)| face.frontend.clone()).collect();
        drop(inner);
        for frontend in frontends {
            frontend.event(event);
        }
    }

    fn writable(&self) {
        let mut inner = self.lock();
        let waiting =
            |face: &mut FaceState| std::mem::take(&mut face.cut_short).then(|| face.frontend.clone()).flatten();
        let frontends: Vec<_> = inner.faces.iter_mut().filter_map(waiting).collect();
        drop(inner);
        for frontend in frontends {
            frontend.writable();
        }
    }
}

impl CharBackend for Face {
    fn label(&self) -> &str {
        &self.mux.label
    }

    fn write(&self, data: &[u8]) -> usize {
        self.mux.write_from_face(self.number, data)
    }

    fn attach(&self, frontend: Option<Arc<dyn CharFrontend>>) -> bool {
        self.mux.attach_face(self.number, frontend)
    }

    fn accept_input(&self) {
        self.mux.deliver();
        self.mux.below.accept_input();
    }

    fn set_frontend_open(&self, open: bool) {
        if let Some(face) = self.mux.lock().faces.get_mut(self.number) {
            face.frontend_open = open;
        }
    }
}

impl Chardev for Face {
    fn filename(&self) -> String {
        self.mux.below.filename()
    }

    fn frontend_open(&self) -> bool {
        self.mux.lock().faces.get(self.number).is_some_and(|face| face.frontend_open)
    }

    fn is_busy(&self) -> bool {
        self.mux.lock().frontend(self.number).is_some()
    }

    fn take_fd(&self) -> Option<OwnedFd> {
        self.mux.below.take_fd()
    }

    fn send_break(&self) {
        self.mux.below.send_break();
    }

    fn disconnect(&self) {
        self.mux.below.disconnect();
    }

    fn finish(&self, until: Instant) {
        self.mux.below.finish(until);
    }
}
