//! Commands that images work on, so that task management can find them.
//!
//! A request cannot be called back from an image. A task that is aborted is marked; when its request is done the driver
//! gets the mark instead of a result, and whoever aborted it hears of its end.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::bus::ScsiAddress;
use crate::scsi::Waiter;

/// One command.
struct Task {
    address: ScsiAddress,
    id: u64,
    /// What the driver gets instead of a result.
    mark: Option<u8>,
    waiters: Vec<Arc<Waiter>>,
}

type Queue = Vec<Option<Task>>;

/// The tasks of all request queues, by queue and by slot.
pub(super) struct Tasks(Vec<Mutex<Queue>>);

/// Which tasks are meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    One(ScsiAddress, u64),
    Unit(ScsiAddress),
    Target(u8),
}

impl Which {
    fn is(self, task: &Task) -> bool {
        match self {
            Self::One(address, id) => task.address == address && task.id == id,
            Self::Unit(address) => task.address == address,
            Self::Target(target) => task.address.target == target,
        }
    }
}

impl Tasks {
    pub(super) fn new(queues: u16) -> Arc<Self> {
        Arc::new(Self((0..queues).map(|_| Mutex::default()).collect()))
    }

    fn queue(&self, n: u16) -> Option<MutexGuard<'_, Queue>> {
        self.0.get(usize::from(n)).map(lock)
    }

    /// A command goes to an image.
    pub(super) fn begin(&self, n: u16, slot: usize, address: ScsiAddress, id: u64) {
        let Some(mut queue) = self.queue(n) else { return };
        if queue.len() <= slot {
            queue.resize_with(slot + 1, || None);
        }
        if let Some(place) = queue.get_mut(slot) {
            *place = Some(Task { address, id, mark: None, waiters: Vec::new() });
        }
    }

    /// It is done; the mark, if it was aborted.
    pub(super) fn end(&self, n: u16, slot: usize) -> Option<u8> {
        let task = self.queue(n)?.get_mut(slot)?.take()?;
        task.waiters.iter().for_each(|waiter| waiter.one_ended());
        task.mark
    }

    /// Whether it was aborted and need not go on.
    pub(super) fn is_marked(&self, n: u16, slot: usize) -> bool {
        self.queue(n)
            .is_some_and(|queue| queue.get(slot).and_then(Option::as_ref).is_some_and(|task| task.mark.is_some()))
    }

    pub(super) fn any(&self, which: Which) -> bool {
        self.0.iter().any(|queue| lock(queue).iter().flatten().any(|task| which.is(task)))
    }

    /// Marks tasks, and has `waiter` wait for their end.
    pub(super) fn abort(&self, which: Which, mark: u8, waiter: &Arc<Waiter>) {
        for queue in &self.0 {
            for task in lock(queue).iter_mut().flatten().filter(|task| which.is(task)) {
                task.mark.get_or_insert(mark);
                waiter.one_more();
                task.waiters.push(Arc::clone(waiter));
            }
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The descriptor of an event.
pub(super) fn fd(event: &EventFd) -> RawFd {
    std::os::fd::AsRawFd::as_raw_fd(event)
}
