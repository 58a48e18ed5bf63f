//! The way of a command to the main thread, and of its answer back.
//!
//! Monitors put requests into a bounded queue and raise an eventfd; the main thread, woken by it, takes them one by
//! one. It never waits for a monitor: an answer goes into the monitor's outbox.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use serde::Serialize;
use serde_json::Value;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::command::Command;
use super::error::QmpError;
use super::services::Services;
use super::state::{Decision, RunState, accept};
use crate::spec::drive::DriveSpec;

/// How a command ends: a value (the empty object for commands without a result) or an error.
pub type Answer = Result<Value, QmpError>;

/// Each session has one command under way, so this is a limit on monitors rather than on commands.
const QUEUE_LENGTH: usize = 64;

/// The machine, as monitors see it. Called on the main thread only.
pub trait Target {
    /// The state that decides which commands may run.
    fn run_state(&self) -> RunState;

    /// Runs one command to its end. [`accept`] has agreed to it already.
    ///
    /// A command that the [`super::command::Offer`] does not have never comes here.
    ///
    /// # Errors
    ///
    /// What the client is told.
    fn execute(&mut self, command: Command) -> Answer;

    /// Answers what only the human monitor asks.
    ///
    /// # Errors
    ///
    /// What the person is told.
    fn inspect(&mut self, query: Inspect) -> Result<Inspection, QmpError>;
}

/// What only the human monitor asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Inspect {
    /// Opens a drive that waits for a device.
    AddDrive(Box<DriveSpec>),
    /// Closes a drive that no device has, or a node.
    RemoveDrive {
        /// The drive's `id=` or the node's name.
        name: String,
    },
    /// The registers of a vCPU (or of all), as text.
    Registers {
        /// Which vCPU; all of them without.
        cpu: Option<u32>,
    },
    /// One register of a vCPU: eight bytes, the low one first; none where no register has the name.
    Register {
        /// Which vCPU.
        cpu: u32,
        /// As in an expression, without the `$`.
        name: String,
    },
    /// What a vCPU's page tables map, as text.
    Paging {
        /// Which vCPU.
        cpu: u32,
        /// Each page with its entry rather than ranges.
        pages: bool,
    },
    /// How often interrupt lines rose, as text.
    InterruptCounts,
    /// The PICs and the I/O APIC, as text.
    InterruptControllers,
    /// A local APIC, as text.
    LocalApic {
        /// Which vCPU's.
        of: ApicOf,
    },
    /// The NUMA nodes, as text.
    NumaNodes,
    /// The map of buses and what is on them, as text.
    MemoryTree,
    /// The tree of devices with their properties, as text.
    DeviceTree,
    /// The tree of objects from a path on, as text.
    ObjectTree {
        /// The path.
        path: String,
    },
    /// What was put into the guest's memory at start, as text.
    Roms,
    /// Bytes of guest memory.
    Memory {
        /// The vCPU whose page tables translate; guest-physical without.
        cpu: Option<u32>,
        /// The first byte.
        address: u64,
        /// How many; at most 64 KiB.
        length: u32,
    },
    /// What an I/O port reads, which may change its chip's state as a guest's read does.
    Port {
        /// The first port.
        port: u16,
        /// How many bytes: 1, 2 or 4.
        size: u8,
    },
    /// Writing to I/O ports as a guest does; answered by no text.
    WritePort {
        /// The first port.
        port: u16,
        /// What is written: 1, 2 or 4 bytes.
        bytes: Vec<u8>,
    },
    /// Where a vCPU's page tables lead, as text.
    Translate {
        /// Which vCPU.
        cpu: u32,
        /// The linear address.
        address: u64,
    },
    /// Writing what overlays hold into the images beneath; answered by no text.
    Commit {
        /// The disk or drive; all without.
        disk: Option<String>,
    },
    /// A request to a disk, as the guest would make it; answered by what is to be printed.
    DiskIo {
        /// The device or node.
        disk: String,
        /// What to do.
        work: DiskWork,
    },
    /// Holding requests to a `blkdebug` node and letting them go; answered by no text.
    Hold {
        /// The disk that the node is beneath, or a node.
        disk: String,
        /// What to do.
        order: HoldOrder,
    },
}

/// Whose local APIC is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApicOf {
    /// This vCPU's.
    Cpu(u32),
    /// The one with this id.
    Id(u32),
}

/// What to do with requests that come to a `blkdebug` node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldOrder {
    /// Hold the next one that comes to `event`, and call it `tag`.
    Break {
        /// Name of the event.
        event: String,
        /// The request's name.
        tag: String,
    },
    /// Let the one called so go.
    Resume(String),
    /// Hold none as this any more.
    RemoveBreak(String),
}

/// A request to a disk. Offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskWork {
    /// Reads, and compares all bytes with one.
    Read {
        /// That byte.
        pattern: Option<u8>,
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Writes one byte again and again.
    Write {
        /// That byte.
        pattern: u8,
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Makes a range read as zeroes.
    Zero {
        /// Its space may be freed.
        unmap: bool,
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Gives a range up.
    Discard {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Makes all that was written durable.
    Flush,
}

impl DiskWork {
    /// Offset and length, of all but [`DiskWork::Flush`].
    #[must_use]
    pub fn range(self) -> Option<(u64, u64)> {
        match self {
            Self::Read { offset, len, .. }
            | Self::Write { offset, len, .. }
            | Self::Zero { offset, len, .. }
            | Self::Discard { offset, len } => Some((offset, len)),
            Self::Flush => None,
        }
    }
}

/// The answer to [`Inspect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// For everything but memory and ports; lines end with `\n`.
    Text(String),
    /// As many bytes as were asked for; those of a register.
    Bytes(Vec<u8>),
}

/// Makes an answer of a typed result.
///
/// # Errors
///
/// A type that JSON cannot hold, which none of [`super::reply`] is.
pub fn answer(result: &impl Serialize) -> Answer {
    serde_json::to_value(result).map_err(|error| QmpError::from_error(&error))
}

/// The answer of a command without a result.
///
/// # Errors
///
/// Never; the type saves its callers an `Ok(…)`.
pub fn done() -> Answer {
    Ok(Value::Object(serde_json::Map::new()))
}

/// The place to answer to. Used once; dropped unused it answers that the command was given up.
pub struct Reply {
    send: Option<Box<dyn FnOnce(Answer) + Send>>,
}

impl Reply {
    /// A reply that goes to `send`, which must not wait.
    pub fn new(send: impl FnOnce(Answer) + Send + 'static) -> Self {
        Self { send: Some(Box::new(send)) }
    }

    /// Answers.
    pub fn send(mut self, answer: Answer) {
        if let Some(send) = self.send.take() {
            send(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(send) = self.send.take() {
            send(Err(QmpError::generic("The command was given up before it was done")));
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("sent", &self.send.is_none()).finish()
    }
}

/// A command on its way to the machine.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Where to say how it went.
    pub reply: Reply,
    services: Arc<Services>,
}

impl Request {
    /// A command of a monitor; `services` answers what needs no machine.
    pub fn new(command: Command, reply: Reply, services: Arc<Services>) -> Self {
        Self { command, reply, services }
    }

    /// Runs the command if the state of the machine allows it, and answers. Lines for the human monitor are taken
    /// apart here and reach the target as the commands they stand for.
    pub fn serve(self, target: &mut dyn Target) {
        let answer = match self.command {
            Command::HumanMonitorCommand(args) => crate::hmp::execute(target, &self.services, &args),
            command => execute(target, command),
        };
        self.reply.send(answer);
    }
}

/// [`Target::execute`] behind [`accept`].
///
/// # Errors
///
/// The refusal, or what the target says.
pub fn execute(target: &mut dyn Target, command: Command) -> Answer {
    match accept(target.run_state(), &command) {
        Decision::Accept => target.execute(command),
        Decision::Refuse(why) => Err(QmpError::generic(why)),
    }
}

/// The monitors' end of the queue.
#[derive(Debug, Clone)]
pub struct RequestSender {
    queue: SyncSender<Request>,
    wake: Arc<EventFd>,
}

impl RequestSender {
    /// Hands over a request without waiting. When the queue is full or the main thread has ended, the reply says so.
    pub fn send(&self, request: Request) {
        // A request that does not fit is dropped, which answers it.
        if self.queue.try_send(request).is_ok()
            && let Err(error) = self.wake.write(1)
        {
            log::error!("cannot wake the main thread: {error}");
        }
    }
}

/// The main thread's end of the queue.
#[derive(Debug)]
pub struct RequestQueue {
    queue: Receiver<Request>,
    wake: Arc<EventFd>,
}

impl RequestQueue {
    /// Takes the next request. Call it until it has none left each time [`RequestQueue::as_fd`] is readable.
    pub fn take(&self) -> Option<Request> {
        loop {
            match self.queue.try_recv() {
                Ok(request) => return Some(request),
                Err(TryRecvError::Disconnected) => return None,
                // The counter is cleared before the last look: a request that comes between the two is seen.
                Err(TryRecvError::Empty) => match self.wake.read() {
                    Ok(_) => {}
                    Err(_) => return None,
                },
            }
        }
    }
}

impl AsFd for RequestQueue {
    /// Readable while there are requests.
    fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        borrow(self.wake.as_raw_fd(), self)
    }
}

/// Ties a descriptor to the value that owns it.
#[expect(unsafe_code, reason = "EventFd has no AsFd")]
fn borrow<T>(fd: std::os::fd::RawFd, _owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps the descriptor open as long as the borrow lives.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Makes a queue.
///
/// # Errors
///
/// The process is out of descriptors.
pub fn request_channel() -> std::io::Result<(RequestSender, RequestQueue)> {
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    let (sender, receiver) = sync_channel(QUEUE_LENGTH);
    Ok((RequestSender { queue: sender, wake: Arc::clone(&wake) }, RequestQueue { queue: receiver, wake }))
}

#[cfg(test)]
mod tests;
