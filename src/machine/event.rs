//! What other threads tell the main thread.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rhea_arch::kvm::DebugExit;
use rhea_block::format::qcow2::Corruption;
use rhea_block::job::{Fault, Halt};
use rhea_devices::bus::{Crash, PowerRequest};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::debug::DebuggerInput;
use crate::qmp::event::BlockWriteThresholdData;

/// News from a vCPU, a device or a signal.
#[derive(Debug)]
pub enum MachineEvent {
    /// The guest asked the power logic for something; the vCPU that did has stopped by itself.
    Power(PowerRequest),
    /// A vCPU cannot go on.
    VcpuFailed {
        /// Which.
        index: u32,
        /// What KVM said.
        why: String,
    },
    /// The guest told the hypervisor that its kernel crashed.
    GuestCrashed(Crash),
    /// The guest has let go of these PCI slots, a bit each, and finds nothing there any more.
    Ejected(u32),
    /// A debugged vCPU left the guest, and has stopped by itself.
    DebugExit {
        /// Which.
        index: u32,
        /// Why.
        exit: DebugExit,
    },
    /// The debugger says something.
    Debugger(DebuggerInput),
    /// A disk request failed and the disk's error policy wants to be heard.
    DiskError(DiskError),
    /// A write found the image of a node damaged.
    ImageCorrupted {
        /// The node's name.
        node: String,
        /// What was found.
        corruption: Corruption,
    },
    /// The guest moved the tray of a drive.
    TrayMoved {
        /// `id=` of the drive.
        device: String,
        /// It is out now.
        open: bool,
    },
    /// A write went past a node's threshold.
    WriteThreshold(BlockWriteThresholdData),
    /// The job with this id has done its work and follows what is written since.
    JobReady(String),
    /// A job met an error.
    JobFault {
        /// Its id.
        id: String,
        /// What happened, and what the job does about it.
        fault: Fault,
    },
    /// The work of a job has ended.
    JobEnded {
        /// Its id.
        id: String,
        /// How.
        result: Result<(), Halt>,
    },
    /// Someone at the console typed the escape for saving what overlays hold (Ctrl-a s).
    Commit,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal(i32),
    /// Someone at the console typed the escape for leaving (Ctrl-a x).
    Quit,
}

/// A failed disk request, as `BLOCK_IO_ERROR` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskError {
    /// `id=` of the device or drive.
    pub device: String,
    /// It was a write (or discard, flush).
    pub write: bool,
    /// The machine has to stop.
    pub stop: bool,
    /// The guest is not told.
    pub ignore: bool,
    /// `errno`.
    pub errno: i32,
}

/// The end that other threads hold; cheap to clone, never waits.
#[derive(Clone)]
pub struct EventSender {
    queue: Sender<MachineEvent>,
    wake: Arc<EventFd>,
}

impl EventSender {
    /// Tells the main thread. Once it has ended, nobody is left to tell, and the event is dropped.
    pub fn send(&self, event: MachineEvent) {
        if self.queue.send(event).is_ok()
            && let Err(error) = self.wake.write(1)
        {
            log::error!("cannot wake the main thread: {error}");
        }
    }
}

/// The main thread's end.
pub struct EventQueue {
    queue: Receiver<MachineEvent>,
    wake: Arc<EventFd>,
}

impl EventQueue {
    /// Takes the next event. Call until `None` each time the descriptor is readable.
    pub fn take(&self) -> Option<MachineEvent> {
        if let Ok(event) = self.queue.try_recv() {
            return Some(event);
        }
        // Clear first, look again after: an event sent between the two is seen or wakes once more.
        self.wake.read().ok()?;
        self.queue.try_recv().ok()
    }
}

impl AsRawFd for EventQueue {
    /// Readable while there are events.
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

/// Makes a queue.
///
/// # Errors
/// When the process is out of descriptors.
pub fn event_channel() -> io::Result<(EventSender, EventQueue)> {
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    let (sender, receiver) = channel();
    Ok((EventSender { queue: sender, wake: Arc::clone(&wake) }, EventQueue { queue: receiver, wake }))
}
