//! What other threads tell the main thread.
//!
//! A guest can cause some of it as fast as it runs. While much waits, more of the same says nothing new and is taken in
//! by what waits already, so that the queue stays short however slow the main thread is.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rhea_arch::kvm::DebugExit;
use rhea_block::format::qcow2::Corruption;
use rhea_block::job::{Fault, Halt};
use rhea_block::nbd::Leaving;
use rhea_devices::bus::{Crash, PowerRequest};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::debug::DebuggerInput;
use crate::qmp::event::BlockWriteThresholdData;

/// So many wait before news is taken in by what waits: far more than there are while the main thread keeps up, which
/// then hears of everything.
const MANY: usize = 256;

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
    /// The guest set its clock: see [`rhea_devices::bus::Effect::ClockSet`].
    ClockSet(i64),
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
    /// An export that was taken away has no requests under way any more.
    ExportLeft(Arc<Leaving>),
    /// Someone at the console typed the escape for saving what overlays hold (Ctrl-a s).
    Commit,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal(i32),
    /// Someone at the console typed the escape for leaving (Ctrl-a x).
    Quit,
}

impl MachineEvent {
    /// Takes `later` in if that is of the same thing; what is said of it then is what it came to. Whatever devices and
    /// vCPUs can say again and again has an arm.
    fn takes_in(&mut self, later: &Self) -> bool {
        match (self, later) {
            (Self::Ejected(slots), Self::Ejected(more)) => *slots |= more,
            (Self::ClockSet(offset), Self::ClockSet(now)) => *offset = *now,
            (Self::TrayMoved { device, open }, Self::TrayMoved { device: same, open: now }) if device == same => {
                *open = *now;
            }
            (Self::Power(request), Self::Power(again)) if request == again => {}
            (Self::GuestCrashed(crash), Self::GuestCrashed(again)) if crash == again => {}
            (Self::DiskError(error), Self::DiskError(again)) if error == again => {}
            (Self::JobFault { id, fault }, Self::JobFault { id: same, fault: again })
                if (&*id, &*fault) == (same, again) => {}
            _ => return false,
        }
        true
    }
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

struct Shared {
    waiting: Mutex<VecDeque<MachineEvent>>,
    /// Readable while there are events; changed with the queue locked.
    wake: EventFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, VecDeque<MachineEvent>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is left to wake for.
    fn calm(&self, waiting: &VecDeque<MachineEvent>) {
        if waiting.is_empty() {
            // It fails when it was calm before.
            let _ = self.wake.read();
        }
    }
}

/// The end that other threads hold; cheap to clone, never waits for the main thread.
#[derive(Clone)]
pub struct EventSender(Weak<Shared>);

impl EventSender {
    /// Tells the main thread. Once it has ended, nobody is left to tell, and the event is dropped.
    pub fn send(&self, event: MachineEvent) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut waiting = shared.lock();
        // The last one of the same thing is what it came to so far.
        if waiting.len() >= MANY && waiting.iter_mut().rev().any(|earlier| earlier.takes_in(&event)) {
            return;
        }
        if waiting.is_empty()
            && let Err(error) = shared.wake.write(1)
        {
            log::error!("cannot wake the main thread: {error}");
        }
        waiting.push_back(event);
    }
}

/// The main thread's end.
pub struct EventQueue(Arc<Shared>);

impl EventQueue {
    /// Takes the next event. The descriptor stays readable until there is none.
    pub fn take(&self) -> Option<MachineEvent> {
        let mut waiting = self.0.lock();
        let event = waiting.pop_front();
        self.0.calm(&waiting);
        event
    }

    /// Forgets what was asked of the power logic to reset the machine, which has been done.
    pub fn forget_resets(&self) {
        let mut waiting = self.0.lock();
        waiting.retain(|event| !matches!(event, MachineEvent::Power(PowerRequest::Reset)));
        self.0.calm(&waiting);
    }
}

impl AsRawFd for EventQueue {
    /// Readable while there are events.
    fn as_raw_fd(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }
}

/// Makes a queue.
///
/// # Errors
/// When the process is out of descriptors.
pub fn event_channel() -> io::Result<(EventSender, EventQueue)> {
    let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
    let shared = Arc::new(Shared { waiting: Mutex::default(), wake });
    Ok((EventSender(Arc::downgrade(&shared)), EventQueue(shared)))
}

#[cfg(test)]
mod tests;
