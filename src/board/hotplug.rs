//! Functions that come and go while the guest runs.
//!
//! ```text
//!   plug ──▶ there, the guest is told ──ask_back──▶ the guest is asked ──it ejects the slot──▶ gone ──▶ take_out
//! ```
//!
//! The vCPU that ejects a slot takes its functions off the bus (`Platform::eject`), so that the guest finds nothing
//! there from the next instruction on; the main thread then brings the devices to rest and lets go of them.

use rhea_devices::pci::Bdf;
use rhea_devices::pci::hotplug::HOTPLUG_EVENT;

use super::attach::{Attacher, Backends, Drives};
use super::plan::{PciDevice, PciPlan, ScsiUnitPlan};
use super::{Board, BoardError};

impl Board {
    /// Adds a function and tells the guest. `paused` is whether the other devices are.
    ///
    /// # Errors
    /// When the device cannot be made or started; the board is then as it was.
    pub fn plug(&mut self, plan: &PciPlan, backends: &dyn Backends, paused: bool) -> Result<(), BoardError> {
        let (wiring, isa) = (&self.wiring, &self.isa);
        let mut attacher = Attacher { wiring, isa, backends, devices: Vec::new(), drives: Drives::default() };
        attacher.attach_pci(plan)?;
        let Attacher { devices, drives, .. } = attacher;
        if let Err(error) = devices.iter().try_for_each(|device| device.start()) {
            self.wiring.pci.remove(plan.bdf);
            return Err(error.into());
        }
        if paused {
            devices.iter().for_each(|device| device.pause());
        }
        self.devices.extend(devices);
        self.drives.removable.extend(drives.removable);
        self.drives.buses.extend(drives.buses);
        self.hotplug.plugged(plan.bdf.device());
        self.power.raise_gpe(HOTPLUG_EVENT);
        Ok(())
    }

    /// Puts a unit behind the adapter whose bus is called `bus`; the adapter tells the guest.
    ///
    /// # Errors
    /// When the unit cannot be made; the board is then as it was.
    pub fn plug_unit(&mut self, bus: &str, plan: &ScsiUnitPlan, backends: &dyn Backends) -> Result<(), BoardError> {
        let nowhere = || BoardError::device(&plan.id)(std::io::Error::other(format!("there is no bus {bus}")));
        let to = self.drives.buses.get(bus).cloned().ok_or_else(nowhere)?;
        let (wiring, isa) = (&self.wiring, &self.isa);
        let mut attacher = Attacher { wiring, isa, backends, devices: Vec::new(), drives: Drives::default() };
        attacher.scsi_unit(&to, plan)?;
        let removable = attacher.drives.removable;
        self.drives.removable.extend(removable);
        Ok(())
    }

    /// Takes a unit out; the adapter tells the guest. What is in flight on its image still ends.
    pub fn take_unit_out(&mut self, bus: &str, plan: &ScsiUnitPlan) {
        self.drives.removable.remove(&plan.id);
        if let Some(bus) = self.drives.buses.get(bus) {
            bus.detach(plan.address);
        }
    }

    /// Asks the guest to let go of the slot of `bdf`.
    pub fn ask_back(&self, bdf: Bdf) {
        self.hotplug.ask_back(bdf.device());
        self.power.raise_gpe(HOTPLUG_EVENT);
    }

    /// The slots that the guest was asked for and has not let go of, a bit each.
    #[must_use]
    pub fn leaving(&self) -> u32 {
        self.hotplug.leaving()
    }

    /// Takes the function out, wherever the guest is with it: off the bus, if it is still there, to rest and away.
    /// Returns when nothing of it is in flight.
    pub fn take_out(&mut self, plan: &PciPlan) {
        if self.wiring.pci.remove(plan.bdf).is_some() {
            self.wiring.spaces.remap(plan.bdf, Vec::new);
        }
        if let PciDevice::Scsi(adapter) = &plan.device {
            self.drives.buses.remove(&adapter.bus);
        }
        for unit in plan.units() {
            self.drives.removable.remove(&unit.id);
        }
        if let Some(at) = self.devices.iter().position(|device| device.name() == plan.id) {
            let device = self.devices.remove(at);
            device.pause();
            device.drain();
        }
    }
}
