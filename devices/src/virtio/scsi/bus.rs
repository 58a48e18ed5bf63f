//! The units behind an adapter, and how they come and go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rhea_block::BlockError;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::events::{Event, Events};
use super::tasks::{Tasks, Which};
use super::wire::response;
use crate::block_errors::ErrorPolicy;
use crate::block_stats::BlockStats;
use crate::scsi::{Cause, LogicalUnit, UnitChange};

/// Greatest unit number of the flat method (section 5.6.6.1).
const MAX_LUN: u16 = 16383;

/// Where a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScsiAddress {
    /// `scsi-id`.
    pub target: u8,
    /// `lun`: 0 to 16383.
    pub lun: u16,
}

impl std::fmt::Display for ScsiAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "target {} unit {}", self.target, self.lun)
    }
}

/// A unit with what goes with its disk.
pub struct ScsiUnit {
    /// The unit.
    pub unit: Arc<LogicalUnit>,
    /// What its disk counts.
    pub stats: Arc<BlockStats>,
    /// What to do when the host fails a request.
    pub errors: ErrorPolicy,
    /// It was taken out: commands that are under way go no further. [`ScsiBus::detach`] sets it.
    pub gone: AtomicBool,
}

/// A unit cannot be put there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScsiBusError {
    /// There is one already.
    #[error("{0} is taken")]
    Taken(ScsiAddress),
    /// The number is too great.
    #[error("lun {0} is greater than {MAX_LUN}")]
    Lun(u16),
    /// Its image cannot be used.
    #[error("cannot open the queues of {address}")]
    Image {
        /// Where it should be.
        address: ScsiAddress,
        /// Why.
        #[source]
        source: BlockError,
    },
}

#[derive(Default)]
struct Inner {
    units: BTreeMap<ScsiAddress, Arc<ScsiUnit>>,
    /// Paths and depth, once the adapter runs.
    paths: Option<(u16, u32)>,
    /// The commands of the adapter, once it runs.
    tasks: Option<Arc<Tasks>>,
    /// Wake the request queues, so that they let go of units that went.
    wakers: Vec<EventFd>,
}

/// The units of one adapter.
pub struct ScsiBus {
    inner: Mutex<Inner>,
    /// Counts changes, so that request queues notice without the lock.
    version: AtomicUsize,
    events: Arc<Events>,
}

impl ScsiBus {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), version: AtomicUsize::new(0), events: Events::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Opens the paths of all units, and of those that come; `tasks` are their commands.
    pub(super) fn open(&self, paths: u16, depth: u32, tasks: &Arc<Tasks>) -> Result<(), BlockError> {
        let mut inner = self.lock();
        inner.paths = Some((paths, depth));
        inner.tasks = Some(Arc::clone(tasks));
        inner.units.values().try_for_each(|unit| unit.unit.attach(paths, depth))
    }

    pub(super) fn add_waker(&self, waker: EventFd) {
        self.lock().wakers.push(waker);
    }

    /// Puts a unit in; a driver that listens is told once the adapter runs. A unit belongs to one adapter for life.
    ///
    /// # Errors
    /// See [`ScsiBusError`].
    pub fn attach(self: &Arc<Self>, address: ScsiAddress, unit: ScsiUnit) -> Result<(), ScsiBusError> {
        if address.lun > MAX_LUN {
            return Err(ScsiBusError::Lun(address.lun));
        }
        let mut inner = self.lock();
        if inner.units.contains_key(&address) {
            return Err(ScsiBusError::Taken(address));
        }
        if let Some((paths, depth)) = inner.paths {
            unit.unit.attach(paths, depth).map_err(|source| ScsiBusError::Image { address, source })?;
        }
        let bus: Weak<Self> = Arc::downgrade(self);
        unit.unit.on_change(move |change| {
            let Some(bus) = bus.upgrade() else { return };
            match change {
                UnitChange::Capacity => bus.events.post(Event::capacity_changed(address)),
                UnitChange::Medium => bus.changed(&bus.lock()),
            }
        });
        let bus: Weak<Self> = Arc::downgrade(self);
        unit.unit.on_abort(Arc::new(move |cause, waiter| {
            let tasks = bus.upgrade().and_then(|bus| bus.lock().tasks.clone());
            let mark = match cause {
                Cause::Preempted => response::ABORTED,
                Cause::Reset => response::RESET,
            };
            tasks.iter().for_each(|tasks| tasks.abort(Which::Unit(address), mark, waiter));
        }));
        inner.units.insert(address, Arc::new(unit));
        let running = inner.paths.is_some();
        self.changed(&inner);
        if running {
            self.luns_changed(&inner, address);
        }
        drop(inner);
        if running {
            self.events.post(Event::arrived(address));
        }
        Ok(())
    }

    /// Takes a unit out and tells a driver that listens. What is in flight on it still ends, and a step of a command may
    /// be about to be sent: drain its image, and have it refuse what comes, before it goes.
    pub fn detach(&self, address: ScsiAddress) -> Option<Arc<LogicalUnit>> {
        let mut inner = self.lock();
        let gone = inner.units.remove(&address)?;
        gone.gone.store(true, Ordering::Release);
        let running = inner.paths.is_some();
        self.changed(&inner);
        if running {
            self.luns_changed(&inner, address);
        }
        drop(inner);
        if running {
            self.events.post(Event::removed(address));
        }
        Some(Arc::clone(&gone.unit))
    }

    /// The other units of the target say with their next command that it has others now (SPC-5, 6.33), to a driver that
    /// knows of units that come and go.
    fn luns_changed(&self, inner: &Inner, address: ScsiAddress) {
        if self.events.allows_hotplug() {
            let others = inner.units.iter().filter(|(other, _)| other.target == address.target && **other != address);
            others.for_each(|(_, unit)| unit.unit.luns_changed());
        }
    }

    fn changed(&self, inner: &Inner) {
        self.version.fetch_add(1, Ordering::AcqRel);
        for waker in &inner.wakers {
            // A full counter is awake already.
            let _ = waker.write(1);
        }
    }

    /// Units by address.
    #[must_use]
    pub fn units(&self) -> Vec<(ScsiAddress, Arc<LogicalUnit>)> {
        self.lock().units.iter().map(|(address, unit)| (*address, Arc::clone(&unit.unit))).collect()
    }

    pub(super) fn version(&self) -> usize {
        self.version.load(Ordering::Acquire)
    }

    /// All that is there, for a request queue's own table.
    pub(super) fn table(&self) -> Vec<(ScsiAddress, Arc<ScsiUnit>)> {
        self.lock().units.iter().map(|(address, unit)| (*address, Arc::clone(unit))).collect()
    }

    pub(super) fn unit(&self, address: ScsiAddress) -> Option<Arc<LogicalUnit>> {
        self.lock().units.get(&address).map(|unit| Arc::clone(&unit.unit))
    }

    /// Unit numbers of a target.
    pub(super) fn luns(&self, target: u8) -> Vec<u16> {
        let all = ScsiAddress { target, lun: 0 }..=ScsiAddress { target, lun: u16::MAX };
        self.lock().units.range(all).map(|(address, _)| address.lun).collect()
    }

    /// The adapter's reset, by its driver or with the machine, is the bus's: a hard reset, and no loss of power.
    pub(super) fn reset(&self) {
        self.events.reset();
        self.units().iter().for_each(|(_, unit)| unit.reset());
    }
}
