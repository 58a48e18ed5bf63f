//! The control queue (section 5.6.6.2): task management and asynchronous notification.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bus::{ScsiAddress, ScsiBus};
use super::tasks::{Tasks, Which, fd};
use super::wire::{self, response};
use crate::scsi::{Cause, Victims, Waiter};
use crate::virtio::queue::{Chain, ChainError, QueueError, VirtQueue};
use crate::virtio::worker::QueueHandler;

/// Types of control request.
const TASK_MANAGEMENT: u32 = 0;
const NOTIFICATION_QUERY: u32 = 1;
const NOTIFICATION_SUBSCRIBE: u32 = 2;

/// Task management functions.
pub(super) mod function {
    pub(in super::super) const ABORT_TASK: u32 = 0;
    pub(in super::super) const ABORT_TASK_SET: u32 = 1;
    pub(in super::super) const CLEAR_TASK_SET: u32 = 3;
    pub(in super::super) const NEXUS_RESET: u32 = 4;
    pub(in super::super) const UNIT_RESET: u32 = 5;
    pub(in super::super) const QUERY_TASK: u32 = 6;
    pub(in super::super) const QUERY_TASK_SET: u32 = 7;
}

/// A function that waits for tasks to end.
struct Pending {
    head: u16,
    waiter: Arc<Waiter>,
}

/// What comes of a control request.
enum Outcome {
    Answer(Vec<u8>),
    Wait(Arc<Waiter>),
}

pub(super) struct ControlQueue {
    bus: Arc<ScsiBus>,
    tasks: Arc<Tasks>,
    wake: Arc<EventFd>,

    pending: Vec<Pending>,
    chain: Chain,
}

impl ControlQueue {
    pub(super) fn new(bus: Arc<ScsiBus>, tasks: Arc<Tasks>) -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        Ok(Self { bus, tasks, wake, pending: Vec::new(), chain: Chain::default() })
    }

    fn request(&self, queue: &VirtQueue) -> Result<Outcome, ChainError> {
        let mut kind = [0; 4];
        self.chain.read(queue.ram(), 0, &mut kind)?;
        match u32::from_le_bytes(kind) {
            TASK_MANAGEMENT => {
                let mut request = [0; 24];
                self.chain.read(queue.ram(), 0, &mut request)?;
                let [_, _, _, _, s0, s1, s2, s3, l0, l1, l2, l3, l4, l5, l6, l7, id @ ..] = request;
                let lun = [l0, l1, l2, l3, l4, l5, l6, l7];
                Ok(self.manage(u32::from_le_bytes([s0, s1, s2, s3]), lun, u64::from_le_bytes(id)))
            }
            NOTIFICATION_QUERY | NOTIFICATION_SUBSCRIBE => {
                let mut request = [0; 16];
                self.chain.read(queue.ram(), 0, &mut request)?;
                let [_, _, _, _, l0, l1, l2, l3, l4, l5, l6, l7, ..] = request;
                let there = self.find([l0, l1, l2, l3, l4, l5, l6, l7]).map_or_else(|code| code, |_| response::OK);
                // No event is ever notified of in this way.
                Ok(Outcome::Answer(vec![0, 0, 0, 0, there]))
            }
            _ => Ok(Outcome::Answer(vec![response::FAILURE])),
        }
    }

    /// The address of a unit that is there, or what to answer.
    fn find(&self, lun: [u8; 8]) -> Result<ScsiAddress, u8> {
        let address = wire::address(lun).ok_or(response::BAD_TARGET)?;
        let luns = self.bus.luns(address.target);
        if luns.is_empty() {
            return Err(response::BAD_TARGET);
        }
        if luns.contains(&address.lun) { Ok(address) } else { Err(response::INCORRECT_LUN) }
    }

    fn manage(&self, function: u32, lun: [u8; 8], id: u64) -> Outcome {
        let abort_also = |which, mark, others: Victims| {
            let waiter = Waiter::new(&self.wake);
            self.tasks.abort(which, mark, &waiter);
            others.abort_for(Cause::Reset, &waiter);
            waiter.one_ended();
            Outcome::Wait(waiter)
        };
        let abort = |which, mark| abort_also(which, mark, Victims::default());
        let answer = |code| Outcome::Answer(vec![code]);
        let address = match self.find(lun) {
            Ok(address) => address,
            // A reset of the nexus concerns the target, whichever of its units is named.
            Err(response::INCORRECT_LUN) if function == function::NEXUS_RESET => match wire::address(lun) {
                Some(address) => address,
                None => return answer(response::BAD_TARGET),
            },
            Err(code) => return answer(code),
        };
        let found = |there| answer(if there { response::FUNCTION_SUCCEEDED } else { response::OK });
        match function {
            function::ABORT_TASK => abort(Which::One(address, id), response::ABORTED),
            function::ABORT_TASK_SET | function::CLEAR_TASK_SET => abort(Which::Unit(address), response::ABORTED),
            function::UNIT_RESET => {
                let others = self.bus.unit(address).map(|unit| unit.reset_for_all()).unwrap_or_default();
                abort_also(Which::Unit(address), response::RESET, others)
            }
            function::NEXUS_RESET => {
                let units = self.bus.units();
                let of_target = units.iter().filter(|(other, _)| other.target == address.target);
                of_target.for_each(|(_, unit)| unit.reset());
                abort(Which::Target(address.target), response::RESET)
            }
            function::QUERY_TASK => found(self.tasks.any(Which::One(address, id))),
            function::QUERY_TASK_SET => found(self.tasks.any(Which::Unit(address))),
            _ => answer(response::FUNCTION_REJECTED),
        }
    }

    fn answer(&self, queue: &mut VirtQueue, head: u16, bytes: &[u8]) -> Result<(), QueueError> {
        match self.chain.write(queue.ram(), 0, bytes) {
            Ok(()) => queue.push_used(head, u32::try_from(bytes.len()).unwrap_or(0)),
            Err(error) => queue.reject(head, &error),
        }
    }

    /// Answers functions whose tasks have ended.
    fn settle(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        while let Some(at) = self.pending.iter().position(|pending| pending.waiter.is_done()) {
            let head = self.pending.swap_remove(at).head;
            match queue.walk(head, &mut self.chain) {
                Ok(()) => self.answer(queue, head, &[response::OK])?,
                Err(error) => queue.reject(head, &error)?,
            }
        }
        Ok(())
    }
}

impl QueueHandler for ControlQueue {
    fn completions(&self) -> Option<RawFd> {
        Some(fd(&self.wake))
    }

    fn has_work(&mut self) -> bool {
        self.pending.iter().any(|pending| pending.waiter.is_done())
    }

    fn room(&self, size: u16) -> usize {
        usize::from(size).saturating_sub(self.pending.len())
    }

    fn begin(&mut self, queue: &mut VirtQueue, head: u16) -> Result<(), QueueError> {
        if let Err(error) = queue.walk(head, &mut self.chain) {
            return queue.reject(head, &error);
        }
        match self.request(queue) {
            Err(error) => queue.reject(head, &error),
            Ok(Outcome::Answer(bytes)) => self.answer(queue, head, &bytes),
            Ok(Outcome::Wait(waiter)) => {
                self.pending.push(Pending { head, waiter });
                self.settle(queue)
            }
        }
    }

    fn flush(&mut self) {}

    fn finish(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        // Quiet until the next task ends.
        let _ = self.wake.read();
        self.settle(queue)
    }

    fn idle(&mut self) {
        let _ = self.wake.read();
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn take_held(&mut self) -> Vec<u16> {
        Vec::new()
    }
}
