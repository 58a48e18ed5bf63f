//! The device's life as its driver directs it: status, features, queues on and off (sections 2.1, 2.2, 3.1, 4.1.4.3).
//!
//! ```text
//!             status: DRIVER_OK            status: 0                 every queue has stopped
//!   reset ──────────────────────▶ live ───────────────▶ resetting ─────────────────────────▶ reset
//!                                  │ ▲                  (status reads as before)
//!                            pause │ │ resume
//!                                  ▼ │
//!                                 paused
//! ```
//!
//! Locks, in order: `Control`, then the runs, then the pins. A queue that stops takes only the runs' lock: so the
//! promise may be kept (or dropped) while `Control` is held. What must follow a stop is done by whoever looks next.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::interrupts::{Interrupts, NO_VECTOR};
use super::state::VirtioPciState;
use crate::log_limit::LogLimit;
use crate::memory::GuestRam;
use crate::virtio::device::{QueueParts, RingLayout, RingPosition, Stopped, VirtioDevice};
use crate::virtio::features::{self, status};

/// Whether a queue runs, and if not, where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    Idle(RingPosition),
    Running,
    Stopping,
    /// Stopped without saying where.
    Lost,
}

impl Run {
    fn has_stopped(&self) -> bool {
        !matches!(self, Self::Running | Self::Stopping)
    }
}

/// The runs of all queues, and the bell for those who wait for a stop.
pub(super) struct Runs {
    list: Mutex<Vec<Run>>,
    changed: Condvar,
}

impl Runs {
    pub(super) fn new(queues: usize) -> Self {
        Self { list: Mutex::new(vec![Run::Idle(RingPosition::default()); queues]), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Run>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, n: usize, run: Run) {
        if let Some(slot) = self.lock().get_mut(n) {
            *slot = run;
        }
        self.changed.notify_all();
    }

    fn stopped(&self, n: usize) -> bool {
        self.lock().get(n).is_none_or(Run::has_stopped)
    }

    fn all_stopped(&self) -> bool {
        self.lock().iter().all(Run::has_stopped)
    }

    /// Returns when no queue is on its way to a stop.
    pub(super) fn settle(&self) {
        let list = self.lock();
        let busy = |list: &mut Vec<Run>| list.contains(&Run::Stopping);
        drop(self.changed.wait_while(list, busy).unwrap_or_else(PoisonError::into_inner));
    }

    fn settle_within(&self, limit: Duration) {
        let busy = |list: &mut Vec<Run>| list.contains(&Run::Stopping);
        drop(self.changed.wait_timeout_while(self.lock(), limit, busy).unwrap_or_else(PoisonError::into_inner));
    }
}

/// How long a driver that does not wait for the end of a reset is made to: it may hold up its own vCPU for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// One queue's registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueRegs {
    pub(super) max_size: u16,
    pub(super) layout: RingLayout,
    pub(super) enabled: bool,
    /// A reset of this queue alone is under way (section 2.6.1).
    pub(super) resetting: bool,
}

impl QueueRegs {
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, layout: RingLayout { size: max_size, ..Default::default() }, enabled: false, resetting: false }
    }

    /// What the driver may change: nothing once the queue is enabled (a size that changes under a running ring is how
    /// memory gets overrun).
    pub(super) fn layout_mut(&mut self) -> Option<&mut RingLayout> {
        (!self.enabled && !self.resetting).then_some(&mut self.layout)
    }
}

/// Registers and device, changed by one vCPU at a time.
pub(super) struct Control {
    pub(super) device: Box<dyn VirtioDevice>,
    /// All features offered, the transport's included.
    pub(super) offered: u64,
    memory: Arc<GuestRam>,
    interrupts: Arc<Interrupts>,
    runs: Arc<Runs>,
    doorbells: Vec<Arc<EventFd>>,
    log: LogLimit,

    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegs>,
    resetting: bool,
    paused: bool,
    /// The driver uses the registers of old.
    legacy: bool,
}

/// Fixed parts that [`Control`] works with.
pub(super) struct ControlParts {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) offered: u64,
    pub(super) memory: Arc<GuestRam>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) runs: Arc<Runs>,
    pub(super) doorbells: Vec<Arc<EventFd>>,
}

impl Control {
    pub(super) fn new(parts: ControlParts) -> Self {
        let ControlParts { device, offered, memory, interrupts, runs, doorbells } = parts;
        let queues = device.identity().queue_sizes.iter().map(|&size| QueueRegs::new(size)).collect();
        Self {
            device,
            offered,
            memory,
            interrupts,
            runs,
            doorbells,
            log: LogLimit::default(),
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
            resetting: false,
            paused: false,
            legacy: false,
        }
    }

    /// The registers of the queue that `queue_select` names.
    pub(super) fn queue(&mut self) -> Option<&mut QueueRegs> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// The status register. While a reset is under way it keeps what was there, which is not zero.
    pub(super) fn status(&mut self) -> u8 {
        self.follow_up();
        self.interrupts.status.load(Ordering::Acquire)
    }

    /// Called before any write but to the status register: lets a driver that did not wait for its reset catch up.
    pub(super) fn settle_reset(&mut self) {
        if self.resetting {
            self.runs.settle_within(PATIENCE);
            self.follow_up();
        }
    }

    /// A write to the status register (section 2.1). `legacy` drivers do not know `FEATURES_OK`.
    pub(super) fn set_status(&mut self, value: u8, legacy: bool) {
        self.follow_up();
        if value == 0 {
            self.begin_reset();
            if legacy {
                // Nothing tells a legacy driver that the reset is still under way (section 2.4.1).
                self.settle_reset();
            }
            return;
        }
        self.settle_reset();
        self.legacy = legacy;
        let before = self.interrupts.status.load(Ordering::Acquire);
        let mut value = value;
        let news = value & !before;
        if news & status::FEATURES_OK != 0 {
            if self.features_fit() {
                self.device.set_features(self.driver_features);
            } else {
                self.log.warn(format_args!("guest driver wants virtio features {:#x}", self.driver_features));
                value &= !status::FEATURES_OK;
            }
        }
        if legacy && news & status::DRIVER_OK != 0 {
            self.device.set_features(self.driver_features);
        }
        if !legacy && value & status::FEATURES_OK == 0 {
            value &= !status::DRIVER_OK;
        }
        if legacy && news & status::DRIVER != 0 {
            // Linux before 2.6.34 forgets to, and works on other hosts, which do this for it.
            self.interrupts.pins().space.grant_bus_master();
        }
        self.interrupts.set_status(value);
        self.start_queues();
        if news & status::DRIVER_OK != 0 {
            self.ring();
        }
    }

    /// Has all queues look for buffers that were made available.
    fn ring(&self) {
        for doorbell in &self.doorbells {
            // A full counter is heard already.
            let _ = doorbell.write(1);
        }
    }

    /// Takes features on, unless they are agreed upon already (section 2.2.1).
    pub(super) fn set_driver_features(&mut self, select: u32, value: u32) {
        if self.interrupts.status.load(Ordering::Acquire) & (status::FEATURES_OK | status::DRIVER_OK) != 0 {
            return;
        }
        let shift = match select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.driver_features = (self.driver_features & !(0xffff_ffff << shift)) | (u64::from(value) << shift);
    }

    /// Only what was offered, and at least virtio 1: who uses the modern registers is no legacy driver (section 6.1).
    fn features_fit(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & features::VERSION_1 != 0
    }

    /// All features of a legacy driver at once: it knows 32 of them and no `FEATURES_OK` (section 2.2.3).
    pub(super) fn set_legacy_features(&mut self, value: u32) {
        let features = u64::from(value) & self.offered;
        let ready = self.interrupts.status.load(Ordering::Acquire) & status::DRIVER_OK != 0;
        if ready || features == self.driver_features {
            return;
        }
        // What serves this driver already starts anew with them.
        for n in 0..self.queues.len() {
            self.stop_queue(n);
        }
        self.runs.settle_within(PATIENCE);
        self.driver_features = features;
        self.start_queues();
    }

    /// Gives the selected queue up and waits, as a legacy driver has no other way to know.
    pub(super) fn drop_queue(&mut self) {
        let n = self.queue_select;
        if let Some(queue) = self.queue().filter(|queue| queue.enabled) {
            queue.resetting = true;
            self.stop_queue(usize::from(n));
            self.runs.settle_within(PATIENCE);
            self.follow_up();
        }
    }

    /// Registers and ring positions from a saved state that was checked.
    pub(super) fn restore(&mut self, state: &VirtioPciState) {
        self.resetting = false;
        self.device_feature_select = state.device_feature_select;
        self.driver_feature_select = state.driver_feature_select;
        self.driver_features = state.driver_features;
        self.queue_select = state.queue_select;
        for (n, (queue, saved)) in self.queues.iter_mut().zip(&state.queues).enumerate() {
            queue.layout = saved.layout;
            queue.enabled = saved.enabled;
            queue.resetting = false;
            self.runs.set(n, Run::Idle(saved.position.clone()));
        }
        self.legacy = state.status & status::FEATURES_OK == 0;
        if state.status & (status::FEATURES_OK | status::DRIVER_OK) != 0 {
            self.device.set_features(self.driver_features);
        }
    }

    /// `queue_enable` (section 4.1.4.3); only 1 has a meaning.
    pub(super) fn enable_queue(&mut self) {
        self.follow_up();
        let n = usize::from(self.queue_select);
        let Some(queue) = self.queues.get_mut(n).filter(|queue| !queue.resetting) else { return };
        let before = std::mem::replace(&mut queue.enabled, true);
        if let Some(doorbell) = self.doorbells.get(n).filter(|_| !before) {
            // Nobody reads it otherwise: rings of the driver before, or of firmware, are not this one's.
            let _ = doorbell.read();
        }
        self.start_queues();
    }

    /// `queue_reset` (section 2.6.1): only if negotiated.
    pub(super) fn reset_queue(&mut self) {
        self.follow_up();
        let n = self.queue_select;
        let allowed = self.driver_features & features::RING_RESET != 0
            && self.interrupts.status.load(Ordering::Acquire) & status::DRIVER_OK != 0;
        let Some(queue) = self.queues.get_mut(usize::from(n)).filter(|_| allowed) else { return };
        queue.resetting = true;
        self.stop_queue(usize::from(n));
        self.follow_up();
    }

    /// Whether a reset of the selected queue is still under way.
    pub(super) fn queue_resetting(&mut self) -> bool {
        self.follow_up();
        self.queue().is_some_and(|queue| queue.resetting)
    }

    fn begin_reset(&mut self) {
        self.resetting = true;
        for n in 0..self.queues.len() {
            self.stop_queue(n);
        }
        self.follow_up();
    }

    /// Does what had to wait for queues to stop, if they have.
    pub(super) fn follow_up(&mut self) {
        if self.resetting {
            if self.runs.all_stopped() {
                self.finish_reset();
            }
            return;
        }
        for (n, queue) in self.queues.iter_mut().enumerate().filter(|(_, queue)| queue.resetting) {
            if self.runs.stopped(n) {
                *queue = QueueRegs::new(queue.max_size);
                self.runs.set(n, Run::Idle(RingPosition::default()));
                if let Some(vector) = self.interrupts.queue_vectors.get(n) {
                    vector.store(NO_VECTOR, Ordering::Release);
                }
            }
        }
    }

    /// Everything to its initial value (section 2.4); no queue runs.
    pub(super) fn finish_reset(&mut self) {
        self.resetting = false;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        for (n, queue) in self.queues.iter_mut().enumerate() {
            *queue = QueueRegs::new(queue.max_size);
            self.runs.set(n, Run::Idle(RingPosition::default()));
        }
        self.device.set_features(0);
        self.device.reset();
        self.interrupts.reset();
    }

    /// Stops what runs; it is started again by [`Control::resume`].
    pub(super) fn pause(&mut self) {
        self.paused = true;
        for n in 0..self.queues.len() {
            self.stop_queue(n);
        }
    }

    /// Undoes [`Control::pause`].
    pub(super) fn resume(&mut self) {
        self.follow_up();
        self.paused = false;
        self.start_queues();
        if self.is_early() {
            self.ring();
        }
    }

    /// Whether the driver may use the device though it has not said that it is ready: drivers of old do (section 3.1.2),
    /// Linux before 3.18 among them, which reads the partition table first.
    fn is_early(&self) -> bool {
        let now = self.interrupts.status.load(Ordering::Acquire);
        self.legacy && now & (status::DRIVER | status::DRIVER_OK) == status::DRIVER
    }

    /// After the command register changed: a function that is no bus master touches no memory (PCI 3.0, 6.2.2). The
    /// driver that takes the mastery away has also to say again that it is ready, as with QEMU.
    pub(super) fn follow_bus_master(&mut self) {
        if self.interrupts.pins().space.bus_master() {
            self.runs.settle_within(PATIENCE);
            return self.start_queues();
        }
        self.interrupts.status.fetch_and(!status::DRIVER_OK, Ordering::AcqRel);
        for n in 0..self.queues.len() {
            self.stop_queue(n);
        }
    }

    /// Starts each queue that should run and does not.
    fn start_queues(&mut self) {
        let early = self.is_early();
        let live = early || self.interrupts.status.load(Ordering::Acquire) & status::DRIVER_OK != 0;
        if !live || self.paused || self.resetting || !self.interrupts.pins().space.bus_master() {
            return;
        }
        if early && self.queues.iter().any(|queue| queue.enabled) {
            self.device.set_features(self.driver_features);
        }
        for n in 0..self.queues.len() {
            self.start_queue(n);
        }
    }

    fn start_queue(&mut self, n: usize) {
        let Some(queue) = self.queues.get(n).filter(|queue| queue.enabled && !queue.resetting) else { return };
        let position = match self.runs.lock().get(n) {
            Some(Run::Idle(position)) => position.clone(),
            _ => return,
        };
        let (Some(doorbell), Ok(index)) = (self.doorbells.get(n), u16::try_from(n)) else { return };
        let parts = QueueParts {
            index,
            ring: queue.layout,
            event_idx: self.driver_features & features::EVENT_IDX != 0,
            ready: !self.is_early(),
            memory: Arc::clone(&self.memory),
            doorbell: Arc::clone(doorbell),
            events: Arc::clone(&self.interrupts) as _,
        };
        match self.device.start_queue(index, parts, position) {
            Ok(()) => self.runs.set(n, Run::Running),
            Err(error) => {
                self.log.warn(format_args!("virtio queue {n} cannot start: {error}"));
                self.interrupts.status.fetch_or(status::NEEDS_RESET, Ordering::AcqRel);
            }
        }
    }

    fn stop_queue(&mut self, n: usize) {
        {
            let mut runs = self.runs.lock();
            let Some(run) = runs.get_mut(n).filter(|run| **run == Run::Running) else { return };
            *run = Run::Stopping;
        }
        let runs = Arc::clone(&self.runs);
        let stopped = Stopped::new(move |position| runs.set(n, position.map_or(Run::Lost, Run::Idle)));
        if let Ok(index) = u16::try_from(n) {
            self.device.stop_queue(index, stopped);
        }
    }
}
