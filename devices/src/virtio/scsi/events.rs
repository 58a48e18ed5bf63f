//! The event queue (section 5.6.6.3): the driver lends buffers, the adapter fills one for each event.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bus::ScsiAddress;
use super::wire;
use crate::virtio::queue::{Chain, QueueError, VirtQueue};
use crate::virtio::worker::QueueHandler;

/// Events (section 5.6.6.3) and reasons of a transport reset.
const TRANSPORT_RESET: u32 = 1;
const PARAM_CHANGE: u32 = 3;
const MISSED: u32 = 0x8000_0000;
const RESCAN: u32 = 1;
const REMOVED: u32 = 2;
/// "Capacity data has changed" as additional sense code and qualifier, low byte first.
const CAPACITY: u32 = 0x092a;

/// Most events that wait for buffers; more make the driver look for itself.
const MAX_WAITING: usize = 64;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Event {
    event: u32,
    address: ScsiAddress,
    reason: u32,
}

impl Event {
    pub(super) fn arrived(address: ScsiAddress) -> Self {
        Self { event: TRANSPORT_RESET, address, reason: RESCAN }
    }

    pub(super) fn removed(address: ScsiAddress) -> Self {
        Self { event: TRANSPORT_RESET, address, reason: REMOVED }
    }

    pub(super) fn capacity_changed(address: ScsiAddress) -> Self {
        Self { event: PARAM_CHANGE, address, reason: CAPACITY }
    }

    fn bytes(self, missed: bool) -> [u8; 16] {
        let event = self.event | if missed { MISSED } else { 0 };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&event.to_le_bytes());
        bytes[4..12].copy_from_slice(&wire::address_field(self.address));
        bytes[12..].copy_from_slice(&self.reason.to_le_bytes());
        bytes
    }
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    missed: bool,
    hotplug: bool,
    change: bool,
}

/// Events on their way to the driver.
pub(super) struct Events {
    waiting: Mutex<Waiting>,
    /// Wakes the queue; made when first wanted, as that can fail.
    wake: OnceLock<EventFd>,
}

impl Events {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), wake: OnceLock::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the driver wants to hear of.
    pub(super) fn allow(&self, hotplug: bool, change: bool) {
        let mut waiting = self.lock();
        (waiting.hotplug, waiting.change) = (hotplug, change);
    }

    pub(super) fn allows_hotplug(&self) -> bool {
        self.lock().hotplug
    }

    pub(super) fn post(&self, event: Event) {
        let mut waiting = self.lock();
        let wanted = if event.event == PARAM_CHANGE { waiting.change } else { waiting.hotplug };
        if !wanted {
            return;
        }
        if waiting.events.len() >= MAX_WAITING {
            waiting.missed = true;
        } else {
            waiting.events.push_back(event);
        }
        drop(waiting);
        self.ring();
    }

    fn ring(&self) {
        if let Some(wake) = self.wake.get() {
            // A full counter is awake already.
            let _ = wake.write(1);
        }
    }

    pub(super) fn reset(&self) {
        *self.lock() = Waiting::default();
    }

    fn next(&self) -> Option<(Event, bool)> {
        let mut waiting = self.lock();
        let event = waiting.events.pop_front()?;
        Some((event, std::mem::take(&mut waiting.missed)))
    }

    fn is_empty(&self) -> bool {
        self.lock().events.is_empty()
    }

    pub(super) fn save(&self) -> (Vec<Event>, bool) {
        let waiting = self.lock();
        (waiting.events.iter().copied().collect(), waiting.missed)
    }

    pub(super) fn restore(&self, events: &[Event], missed: bool) {
        let mut waiting = self.lock();
        waiting.events = events.iter().copied().take(MAX_WAITING).collect();
        waiting.missed = missed || events.len() > MAX_WAITING;
        drop(waiting);
        self.ring();
    }
}

/// The queue that carries them.
pub(super) struct EventQueue {
    events: Arc<Events>,

    /// Heads of chains that wait for an event: never in flight, held while the queue is stopped.
    buffers: VecDeque<u16>,
    chain: Chain,
}

impl EventQueue {
    pub(super) fn new(events: Arc<Events>) -> Self {
        if events.wake.get().is_none() {
            match EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC) {
                Ok(wake) => drop(events.wake.set(wake)),
                Err(error) => log::error!("virtio-scsi: events wait for the driver to ring: {error}"),
            }
        }
        Self { events, buffers: VecDeque::new(), chain: Chain::default() }
    }

    fn tell(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        while !self.events.is_empty() {
            let Some(head) = self.buffers.pop_front() else { return Ok(()) };
            if let Err(error) = queue.walk(head, &mut self.chain) {
                queue.reject(head, &error)?;
                continue;
            }
            let Some((event, missed)) = self.events.next() else { return Ok(()) };
            let bytes = event.bytes(missed);
            match self.chain.write(queue.ram(), 0, &bytes) {
                Ok(()) => queue.push_used(head, 16)?,
                Err(error) => queue.reject(head, &error)?,
            }
        }
        Ok(())
    }
}

impl QueueHandler for EventQueue {
    fn completions(&self) -> Option<RawFd> {
        self.events.wake.get().map(AsRawFd::as_raw_fd)
    }

    fn has_work(&mut self) -> bool {
        !self.buffers.is_empty() && !self.events.is_empty()
    }

    fn room(&self, size: u16) -> usize {
        usize::from(size).saturating_sub(self.buffers.len())
    }

    fn begin(&mut self, queue: &mut VirtQueue, head: u16) -> Result<(), QueueError> {
        self.buffers.push_back(head);
        self.tell(queue)
    }

    fn flush(&mut self) {}

    fn finish(&mut self, queue: &mut VirtQueue) -> Result<(), QueueError> {
        self.idle();
        self.tell(queue)
    }

    fn idle(&mut self) {
        if let Some(wake) = self.events.wake.get() {
            // Quiet until the next event.
            let _ = wake.read();
        }
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn take_held(&mut self) -> Vec<u16> {
        self.buffers.drain(..).collect()
    }
}
