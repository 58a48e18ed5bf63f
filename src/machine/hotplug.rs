//! Devices and objects that come and go while the machine lives: `device_add`, `device_del`, `object-add`,
//! `object-del`.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::{Machine, objects};
use crate::board::plan::{PciPlan, PlanError, is_made_up, named_in, object_path};
use crate::qmp::channel::{Answer, done};
use crate::qmp::event::DevicePathData;
use crate::qmp::{Event, QmpError};
use crate::spec::read::Source;
use crate::spec::{DeviceSpec, ObjectSpec};

/// How long a guest that was asked to let go of a device is not asked again: as long as QEMU's ACPI hot-plug waits.
const TIME_TO_LEAVE: Duration = Duration::from_secs(5);

/// A thread that is not there has a class of its own, which clients match.
fn refusal(error: &PlanError) -> QmpError {
    match error {
        PlanError::NoObject { property: "iothread", name, .. } => QmpError::device_not_found(name),
        other => QmpError::from_error(other),
    }
}

impl Machine {
    /// `device_add`: plans the device, puts it onto the bus, tells the guest.
    pub(super) fn add_device(&mut self, options: Map<String, Value>) -> Answer {
        let read = DeviceSpec::read_with(options, Source::Either, self.planner.globals());
        let device = read.map_err(|error| QmpError::from_error(&error))?;
        if device.scsi().is_some() {
            return self.add_unit(&device);
        }
        self.tell_nodes_of_waiting();
        let plan = self.planner.plug(&device).map_err(|error| refusal(&error))?;
        if let Err(error) = self.plug(&plan) {
            self.let_go(&plan.id);
            return Err(error);
        }
        self.facts.add_disks(plan.disks(), &self.host);
        self.let_devices_have_drives();
        done()
    }

    /// The planner gives devices the nodes of drives, which change while no device has them.
    fn tell_nodes_of_waiting(&mut self) {
        for disk in self.facts.disks.iter().filter(|disk| disk.is_waiting()) {
            self.planner.set_node(&disk.drive, Some(disk.node.clone()).filter(|node| !node.is_empty()));
        }
    }

    /// Drives that have a device now no longer wait for one, and keep their place among all.
    fn let_devices_have_drives(&mut self) {
        let waiting: Vec<_> =
            self.facts.disks.iter().filter(|disk| disk.is_waiting()).map(|d| d.drive.clone()).collect();
        for drive in waiting {
            let Some(device) = self.facts.disks.iter().find(|disk| disk.drive == drive && !disk.is_waiting()) else {
                continue;
            };
            let now = self.host.disk(&device.id).attached;
            let Some(id) = self.facts.waiting(&drive).map(|disk| disk.id.clone()) else { continue };
            if let (Some(former), Some(now)) = (self.host.disk(&id).attached, now) {
                now.disk().set_throttle(former.disk().throttle().as_ref());
            }
            self.forget(&[&id]);
        }
        self.facts.order_disks(self.planner.drives());
    }

    /// A unit on SCSI: its adapter tells the guest.
    fn add_unit(&mut self, device: &DeviceSpec) -> Answer {
        self.tell_nodes_of_waiting();
        let (bus, plan) = self.planner.plug_unit(device).map_err(|error| refusal(&error))?;
        let plugged = self.guest.as_mut().map_or(Ok(()), |guest| guest.board.plug_unit(&bus, &plan, &self.host));
        if let Err(error) = plugged {
            self.host.let_go(&plan.id);
            self.planner.unplugged_unit(&plan.id);
            return Err(QmpError::from_error(&error));
        }
        self.facts.add_disks(std::iter::once(plan.disk()), &self.host);
        self.let_devices_have_drives();
        done()
    }

    /// Takes a unit out at once, whatever the guest says, as SCSI has it; false if `id` is none.
    fn take_unit_out(&mut self, id: &str) -> bool {
        let Some((bus, plan)) = self.planner.unplugged_unit(id) else { return false };
        if let Some(guest) = &mut self.guest {
            guest.board.take_unit_out(&bus, &plan);
        }
        if let Some(attached) = self.host.disk(id).attached {
            // What the image works on is done before it is let go; a command of several steps is not begun again there.
            self.host.without_limits(|| attached.disk().drain().end());
        }
        self.end_drive(id);
        self.forget(&[id]);
        let (device, path) = (Some(id.to_owned()), object_path(id));
        self.bus.emit(&Event::DeviceDeleted(DevicePathData { device, path }));
        true
    }

    /// Nobody is told of these devices any more.
    pub(super) fn forget(&mut self, gone: &[&str]) {
        for id in gone {
            self.host.let_go(id);
            self.failed_disks.remove(*id);
            self.leaving.remove(*id);
        }
        self.facts.disks.retain(|disk| !gone.contains(&disk.id.as_str()));
    }

    fn plug(&mut self, plan: &PciPlan) -> Result<(), QmpError> {
        let paused = !self.state.is_running();
        let nothing = || QmpError::generic("this machine has no bus to plug a device into");
        let guest = self.guest.as_mut().ok_or_else(nothing)?;
        guest.board.plug(plan, &self.host, paused).map_err(|error| QmpError::from_error(&error))
    }

    /// `device_del`: asks the guest, which answers in its own time, or never if it has no driver for hot-plug. It has a
    /// while to itself before it is asked again.
    pub(super) fn ask_device_back(&mut self, name: &str) -> Answer {
        let id = named_in(name).unwrap_or(name);
        if self.take_unit_out(id) {
            return done();
        }
        let known = self.planner.places().devices().find(|(known, _)| *known == id);
        let (_, taken) = known.ok_or_else(|| QmpError::device_not_found(name))?;
        let Some((guest, bdf)) = self.guest.as_ref().zip(self.planner.places().of(id)) else {
            let desc = format!(
                "Device '{}' does not support hotplugging; it stays until the machine ends",
                taken.device.driver()
            );
            return Err(QmpError::generic(desc));
        };
        if self.leaving.get(id).is_some_and(|asked| asked.elapsed() < TIME_TO_LEAVE) {
            return Err(QmpError::generic(format!("Device {id} is already in the process of unplug")));
        }
        guest.board.ask_back(bdf);
        self.leaving.insert(id.to_owned(), Instant::now());
        done()
    }

    /// The guest has let go of these PCI slots, a bit each, or is not asked any more.
    pub(super) fn slots_ejected(&mut self, slots: u32) {
        for id in self.planner.places().in_slots(slots) {
            self.let_go(&id);
            self.tell_deleted(&id);
        }
    }

    /// Takes the function `id` out and frees all that it had, also for what is behind it.
    fn let_go(&mut self, id: &str) {
        let Some(plan) = self.planner.unplugged(id) else { return };
        if let Some(guest) = &mut self.guest {
            self.host.without_limits(|| guest.board.take_out(&plan));
        }
        let gone: Vec<&str> = plan.disks().map(|(disk, ..)| disk).chain([id]).collect();
        gone.iter().for_each(|id| self.end_drive(id));
        self.forget(&gone);
    }

    /// As QEMU tells it of a virtio function: first the device behind the transport, then the function.
    fn tell_deleted(&self, id: &str) {
        let path = object_path(id);
        let backend = format!("{path}/virtio-backend");
        self.bus.emit(&Event::DeviceDeleted(DevicePathData { device: None, path: backend }));
        let device = (!is_made_up(id)).then(|| id.to_owned());
        self.bus.emit(&Event::DeviceDeleted(DevicePathData { device, path }));
    }

    /// `object-add`.
    pub(super) fn add_object(&mut self, object: &ObjectSpec) -> Answer {
        if let ObjectSpec::MemoryRam(_) | ObjectSpec::MemoryMemfd(_) | ObjectSpec::MemoryFile(_) = object {
            let desc = "Memory is given at start: nothing here can be plugged that would use more of it";
            return Err(QmpError::generic(desc));
        }
        self.planner.add_object(object.clone()).map_err(|error| QmpError::from_error(&error))?;
        match objects::make(&self.host.graph, object) {
            Ok(thread) => self.host.iothreads.extend(thread.map(|thread| (object.id().to_owned(), thread))),
            Err(error) => {
                // Just added, and nobody can use it yet.
                let _ = self.planner.remove_object(object.id());
                return Err(QmpError::from_error(&error));
            }
        }
        done()
    }

    /// `object-del`.
    pub(super) fn remove_object(&mut self, id: &str) -> Answer {
        if self.host.graph.throttle_group(id).is_ok() {
            self.host.graph.remove_throttle_group(id).map_err(|error| QmpError::from_error(&error))?;
        }
        self.planner.remove_object(id).map_err(|error| QmpError::from_error(&error))?;
        self.host.iothreads.remove(id);
        self.host.graph.secrets().remove(id);
        done()
    }
}
