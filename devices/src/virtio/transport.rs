//! virtio over PCI (section 4.1): a PCI function in front of any [`VirtioDevice`].
//!
//! It knows registers, features, status, interrupts and doorbells. It does not know rings or requests: it hands a
//! ring's addresses to the device when the driver is ready, and takes its position back when the queue stops.
//!
//! A reset does not hold up the vCPU that asks for it: the queues are told to stop, and the status register keeps its
//! value until the last one has (section 2.4.1 has the driver wait for zero).

mod common;
mod control;
mod core;
mod interrupts;
mod layout;
mod legacy;
mod state;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::common::ModernBar;
use self::control::{Control, ControlParts, QueueRegs, Run, Runs};
use self::core::Core;
use self::interrupts::{Interrupts, Pins};
use self::legacy::LegacyBar;
use self::state::{QueueState, VERSION, VirtioPciState};
use super::device::{DriverEvents, VirtioDevice};
use super::features;
use crate::bus::{BusDevice, Effect};
use crate::irq::{IrqLine, MsiSink};
use crate::lifecycle::{DeviceError, Lifecycle, SaveRestore, Saver};
use crate::memory::GuestRam;
use crate::pci::config::{Bar, BarInfo, BarKind, ConfigError};
use crate::pci::msix::{Msix, MsixError, MsixLayout};
use crate::pci::{Bdf, Doorbell, PciFunction, Region, Space};

pub use self::layout::Interfaces;

/// A function cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VirtioPciError {
    /// Neither legacy nor modern registers.
    #[error("device \"{0}\" has neither the legacy nor the modern interface")]
    NoInterface(String),
    /// The device type is younger than the legacy interface.
    #[error("device \"{0}\" cannot have the legacy interface: disable-legacy=on")]
    NotLegacy(String),
    /// Too many queues, or one of a size that cannot be.
    #[error("device \"{id}\" cannot have {count} queues of up to {size} entries")]
    Queues {
        /// Name of the device.
        id: String,
        /// Number of queues.
        count: usize,
        /// Size of the largest.
        size: u16,
    },
    /// Configuration space has no room.
    #[error("cannot lay out configuration space")]
    Layout(#[from] ConfigError),
    /// MSI-X cannot be laid out.
    #[error("cannot lay out MSI-X")]
    Msix(#[from] MsixError),
    /// The host has no descriptors left.
    #[error("cannot open a doorbell")]
    Doorbell(#[source] io::Error),
}

/// How a virtio function is set up (the properties that all `virtio-*-pci` devices share).
#[derive(Debug, Clone)]
pub struct VirtioPciConfig {
    /// Name in logs and saved state, unique in the machine.
    pub id: String,
    /// Where the function is.
    pub bdf: Bdf,
    /// Register interfaces (`disable-legacy`, `disable-modern`).
    pub interfaces: Interfaces,
    /// MSI-X vectors (`vectors`): 0 for INTx alone, `None` for one for each queue and one for the configuration.
    pub vectors: Option<u16>,
    /// Other functions share the slot (`multifunction`).
    pub multifunction: bool,
    /// Offer `VIRTIO_F_INDIRECT_DESC` (`indirect_desc`).
    pub indirect_desc: bool,
    /// Offer `VIRTIO_F_EVENT_IDX` (`event_idx`).
    pub event_idx: bool,
    /// Offer `VIRTIO_F_RING_RESET` (`queue_reset`).
    pub queue_reset: bool,
}

impl VirtioPciConfig {
    /// QEMU's defaults for a device on a conventional PCI bus: transitional.
    #[must_use]
    pub fn new(id: impl Into<String>, bdf: Bdf) -> Self {
        Self {
            id: id.into(),
            bdf,
            interfaces: Interfaces { legacy: true, modern: true },
            vectors: None,
            multifunction: false,
            indirect_desc: true,
            event_idx: true,
            queue_reset: true,
        }
    }

    fn features(&self) -> u64 {
        let mut offered = features::ANY_LAYOUT;
        for (wanted, bit) in [(self.indirect_desc, features::INDIRECT_DESC), (self.event_idx, features::EVENT_IDX)] {
            offered |= if wanted { bit } else { 0 };
        }
        if self.interfaces.modern {
            offered |= features::VERSION_1;
            offered |= if self.queue_reset { features::RING_RESET } else { 0 };
        }
        offered
    }
}

/// What a virtio function is wired to.
pub struct Connections {
    /// Guest RAM.
    pub memory: Arc<GuestRam>,
    /// The slot's INTA.
    pub line: Arc<dyn IrqLine>,
    /// Where MSI-X messages go.
    pub msi: Arc<dyn MsiSink>,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    config: VirtioPciConfig,
    msix_capability: Option<u8>,
    access_capability: Option<u8>,

    core: Arc<Core>,
    modern: Option<Arc<ModernBar>>,
    legacy: Option<Arc<LegacyBar>>,
}

impl VirtioPci {
    /// Puts `device` behind PCI registers.
    ///
    /// # Errors
    /// When the configuration makes no sense for the device, or the host has no descriptors left.
    pub fn new(
        config: VirtioPciConfig,
        mut device: Box<dyn VirtioDevice>,
        to: Connections,
    ) -> Result<Arc<Self>, VirtioPciError> {
        let identity = device.identity().clone();
        check(&config, &identity)?;
        let queues = identity.queue_sizes.len();
        let vectors = config.vectors.unwrap_or_else(|| u16::try_from(queues).unwrap_or(u16::MAX).saturating_add(1));
        let (space, access_capability) = layout::config_space(&identity, config.interfaces, vectors > 0)?;
        let mut space = space.with_multifunction(config.multifunction);
        let (msix, msix_capability) = if vectors > 0 {
            let table = MsixLayout::exclusive(layout::MSIX_BAR, vectors)?;
            let msix = Arc::new(Msix::new(table, to.msi, config.bdf));
            space = space.with_bar(layout::MSIX_BAR, Bar { kind: BarKind::Memory32, size: table.bar_size })?;
            let capability = msix.add_capability(&mut space)?;
            (Some(msix), Some(capability))
        } else {
            (None, None)
        };
        let doorbells = (0..queues)
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(VirtioPciError::Doorbell)?;
        let interrupts = Arc::new(Interrupts::new(space, msix, to.line, queues));
        let runs = Arc::new(Runs::new(queues));
        device.connect(Arc::clone(&interrupts) as Arc<dyn DriverEvents>);
        let device_config = device.config();
        let control = Control::new(ControlParts {
            offered: identity.features | config.features(),
            device,
            memory: to.memory,
            interrupts: Arc::clone(&interrupts),
            runs: Arc::clone(&runs),
            doorbells: doorbells.clone(),
        });
        let core = Arc::new(Core { config: device_config, doorbells, interrupts, runs, control: Mutex::new(control) });
        let modern = config.interfaces.modern.then(|| Arc::new(ModernBar(Arc::clone(&core))));
        let legacy = config.interfaces.legacy.then(|| Arc::new(LegacyBar(Arc::clone(&core))));
        Ok(Arc::new(Self { config, msix_capability, access_capability, core, modern, legacy }))
    }

    /// Where the function is.
    #[must_use]
    pub fn bdf(&self) -> Bdf {
        self.config.bdf
    }

    /// Carries what changed in configuration space to MSI-X and the pin.
    fn follow_config(&self, pins: &mut Pins) {
        if let (Some(msix), Some(at)) = (&self.core.interrupts.msix, self.msix_capability) {
            msix.sync(&pins.space, at);
        }
        self.core.interrupts.drive(pins);
    }

    /// What answers in BAR `index`.
    fn bar_device(&self, index: u8) -> Option<Arc<dyn BusDevice>> {
        match index {
            layout::LEGACY_BAR => self.legacy.clone().map(|bar| bar as _),
            layout::MSIX_BAR => self.core.interrupts.msix.clone().map(|bar| bar as _),
            layout::MODERN_BAR => self.modern.clone().map(|bar| bar as _),
            _ => None,
        }
    }

    fn doorbells(&self, bar: u8) -> Vec<Doorbell> {
        let one = |(n, event): (u64, &Arc<EventFd>)| match bar {
            layout::MODERN_BAR => Some(Doorbell {
                offset: layout::NOTIFY + n * u64::from(layout::NOTIFY_MULTIPLIER),
                len: 0,
                value: None,
                event: Arc::clone(event),
            }),
            layout::LEGACY_BAR => {
                Some(Doorbell { offset: legacy::NOTIFY_OFFSET, len: 2, value: Some(n), event: Arc::clone(event) })
            }
            _ => None,
        };
        (0..).zip(&self.core.doorbells).filter_map(one).collect()
    }

    /// The configuration access capability's window (section 4.1.4.9): whether an access of `len` bytes at `offset`
    /// meets it, and then what it leads to.
    fn window(&self, offset: u8, len: usize) -> Option<(u8, Arc<dyn BusDevice>, u64, usize)> {
        let capability = self.access_capability?;
        let data = capability + 16;
        let touches = u16::from(offset) < u16::from(data) + 4 && usize::from(offset) + len > usize::from(data);
        if !touches {
            return None;
        }
        let pins = self.core.interrupts.pins();
        let device = self.bar_device(pins.space.get8(capability + 4))?;
        let (at, len) = (pins.space.get32(capability + 8), pins.space.get32(capability + 12));
        let aligned = matches!(len, 1 | 2 | 4) && at % len == 0;
        aligned.then_some((data, device, at.into(), len as usize))
    }
}

fn check(config: &VirtioPciConfig, identity: &super::device::Identity) -> Result<(), VirtioPciError> {
    let id = || config.id.clone();
    if !config.interfaces.legacy && !config.interfaces.modern {
        return Err(VirtioPciError::NoInterface(id()));
    }
    if config.interfaces.legacy && !layout::can_be_legacy(identity.device_type) {
        return Err(VirtioPciError::NotLegacy(id()));
    }
    let (count, size) = (identity.queue_sizes.len(), identity.queue_sizes.iter().copied().max().unwrap_or(0));
    let sizes = identity.queue_sizes.iter().all(|&size| size.is_power_of_two() && size <= MAX_QUEUE_SIZE);
    if count == 0 || count > layout::MAX_QUEUES || !sizes {
        return Err(VirtioPciError::Queues { id: id(), count, size });
    }
    Ok(())
}

/// Greatest queue size, as other monitors have it: drivers' limits fit it.
pub const MAX_QUEUE_SIZE: u16 = 1024;

impl PciFunction for VirtioPci {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        if let Some((at, device, address, len)) = self.window(offset, data.len()) {
            let mut bytes = [0xff; 4];
            let found = bytes.get_mut(..len).map(|bytes| device.read(address, bytes));
            if found.is_some_and(|read| read.is_ok()) {
                self.core.interrupts.pins().space.set(at, &bytes);
            }
        }
        self.core.interrupts.pins().space.read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) -> Effect {
        let changed = {
            let mut pins = self.core.interrupts.pins();
            let changed = pins.space.write(offset, data);
            self.follow_config(&mut pins);
            changed
        };
        if changed.command {
            self.core.control().follow_bus_master();
        }
        if let Some((at, device, address, len)) = self.window(offset, data.len()) {
            let bytes = self.core.interrupts.pins().space.get32(at).to_le_bytes();
            let written = bytes.get(..len).map(|bytes| device.write(address, bytes));
            if let Some(Err(fault)) = written {
                log::debug!("{}: write through configuration space: {fault}", self.config.id);
            }
        }
        if changed.decode { Effect::Remap(self.config.bdf) } else { Effect::None }
    }

    fn regions(&self) -> Vec<Region> {
        let pins = self.core.interrupts.pins();
        let region = |BarInfo { index, bar, base }| {
            let space = if bar.kind == BarKind::Io { Space::Io } else { Space::Memory };
            let (device, doorbells) = (self.bar_device(index)?, self.doorbells(index));
            Some(Region { space, base: base?, len: bar.size, device, doorbells })
        };
        pins.space.bars().into_iter().filter_map(region).collect()
    }

    fn bars(&self) -> Vec<BarInfo> {
        self.core.interrupts.pins().space.bars()
    }
}

impl Lifecycle for VirtioPci {
    fn name(&self) -> &str {
        &self.config.id
    }

    fn start(&self) -> Result<(), DeviceError> {
        self.core.control().device.start()
    }

    fn pause(&self) {
        self.core.control().pause();
    }

    fn drain(&self) {
        self.core.runs.settle();
    }

    fn resume(&self) {
        self.core.runs.settle();
        self.core.control().resume();
    }

    fn reset(&self) {
        self.core.runs.settle();
        self.core.control().finish_reset();
        let mut pins = self.core.interrupts.pins();
        pins.space.reset();
        if let Some(msix) = &self.core.interrupts.msix {
            msix.reset();
        }
        self.follow_config(&mut pins);
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

impl SaveRestore for VirtioPci {
    fn save(&self) -> Result<Value, DeviceError> {
        let mut control = self.core.control();
        control.follow_up();
        let interrupts = &self.core.interrupts;
        let queues = {
            let runs = self.core.runs.lock();
            let one = |((queue, run), vector): ((&QueueRegs, &Run), &std::sync::atomic::AtomicU16)| match run {
                Run::Idle(position) => Ok(QueueState {
                    layout: queue.layout,
                    enabled: queue.enabled,
                    vector: vector.load(Ordering::Acquire),
                    position: position.clone(),
                }),
                _ => Err(self.unfit("a queue has not stopped")),
            };
            control.queues.iter().zip(runs.iter()).zip(&interrupts.queue_vectors).map(one).collect::<Result<_, _>>()?
        };
        let pins = interrupts.pins();
        let state = VirtioPciState {
            version: VERSION,
            config: pins.space.save(),
            msix: interrupts.msix.as_ref().map(|msix| msix.save()),
            isr: pins.isr,
            status: interrupts.status.load(Ordering::Acquire),
            config_vector: interrupts.config_vector.load(Ordering::Acquire),
            device_feature_select: control.device_feature_select,
            driver_feature_select: control.driver_feature_select,
            driver_features: control.driver_features,
            queue_select: control.queue_select,
            queues,
            device: control.device.save(),
        };
        serde_json::to_value(state).map_err(|error| self.unfit(&error.to_string()))
    }

    fn restore(&self, state: Value) -> Result<(), DeviceError> {
        let state: VirtioPciState = serde_json::from_value(state).map_err(|error| self.unfit(&error.to_string()))?;
        let mut control = self.core.control();
        self.fits(&state, &control)?;
        let interrupts = &self.core.interrupts;
        let mut pins = interrupts.pins();
        let mut space = pins.space.clone();
        space.restore(&state.config).map_err(|why| self.unfit(&why))?;
        let before = interrupts.msix.as_ref().map(|msix| msix.save());
        if let (Some(msix), Some(saved)) = (&interrupts.msix, &state.msix) {
            msix.restore(saved).map_err(|why| self.unfit(&why))?;
        }
        if let Err(error) = control.device.restore(state.device.clone()) {
            if let (Some(msix), Some(Err(why))) =
                (&interrupts.msix, before.zip(interrupts.msix.as_ref()).map(|(old, msix)| msix.restore(&old)))
            {
                log::error!("{}: {} vectors are lost: {why}", self.config.id, msix.layout().vectors);
            }
            self.follow_config(&mut pins);
            return Err(error);
        }
        pins.space = space;
        pins.isr = state.isr & 3;
        interrupts.status.store(state.status, Ordering::Release);
        interrupts.config_vector.store(interrupts.vector(state.config_vector), Ordering::Release);
        self.follow_config(&mut pins);
        drop(pins);
        for (vector, queue) in interrupts.queue_vectors.iter().zip(&state.queues) {
            vector.store(interrupts.vector(queue.vector), Ordering::Release);
        }
        control.restore(&state);
        Ok(())
    }
}

impl VirtioPci {
    fn unfit(&self, why: &str) -> DeviceError {
        DeviceError::State { device: self.config.id.clone(), why: why.to_owned() }
    }

    /// Checks everything that can be checked before anything changes.
    fn fits(&self, state: &VirtioPciState, control: &Control) -> Result<(), DeviceError> {
        if state.version != VERSION {
            return Err(self.unfit(&format!("version {} where {VERSION} is known", state.version)));
        }
        if state.msix.is_some() != self.core.interrupts.msix.is_some() {
            return Err(self.unfit("one has MSI-X, the other has not"));
        }
        if state.driver_features & !control.offered != 0 {
            return Err(self.unfit(&format!("features {:#x} are not offered", state.driver_features)));
        }
        if state.queues.len() != control.queues.len() {
            return Err(self.unfit(&format!("{} queues where there are {}", state.queues.len(), control.queues.len())));
        }
        for (saved, queue) in state.queues.iter().zip(&control.queues) {
            let size = saved.layout.size;
            let held = &saved.position.held;
            if !size.is_power_of_two() || size > queue.max_size {
                return Err(self.unfit(&format!("a queue of {size} entries")));
            }
            if held.len() > usize::from(size) || held.iter().any(|&head| head >= size) {
                return Err(self.unfit("a queue holds chains that it cannot have"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
