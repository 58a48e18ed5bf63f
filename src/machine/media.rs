//! Media of drives: what the guest does with the tray, and what the host does.
//!
//! A medium goes out and comes in through an open tray. The guest may hold the tray; then the host asks, and waits for
//! the guest to open it, or uses force.

use std::sync::Arc;

use rhea_block::Image;
use rhea_block::graph::{DriveSpec as Opening, EXPORT};
use rhea_devices::scsi::{EjectRefused, LogicalUnit};

use super::Machine;
use super::facts::Disk;
use crate::qmp::channel::{Answer, done};
use crate::qmp::command::args::{BlockdevChangeReadOnlyMode, ChangeMedium, CloseTray, Eject, InsertMedium};
use crate::qmp::event::TrayMovedData;
use crate::qmp::{Event, QmpError};

/// What a client's command about media is about.
enum Slot {
    /// A drive with a tray.
    Device(Drive),
    /// The place of a drive that no device has: there is no tray.
    Waiting(String),
}

/// A drive whose medium can be taken out.
struct Drive {
    /// `id=` of the device, or the name made up for it.
    id: String,
    /// What the client called it.
    name: String,
    unit: Arc<LogicalUnit>,
}

impl Drive {
    fn is_locked(&self) -> QmpError {
        QmpError::generic(format!(
            "Device '{}' is locked and force was not specified, wait for tray to open and try again",
            self.name
        ))
    }

    /// A refusal in QEMU's words.
    fn refused(&self, refusal: &EjectRefused) -> QmpError {
        match refusal {
            EjectRefused::Locked(_) => self.is_locked(),
            EjectRefused::Closed(_) => QmpError::generic(format!("Tray of device '{}' is not open", self.name)),
            EjectRefused::NotRemovable(_) => not_removable(&self.name),
            EjectRefused::Loaded(_) => QmpError::generic("There already is a medium in the device"),
            other => QmpError::from_error(other),
        }
    }
}

fn not_removable(name: &str) -> QmpError {
    QmpError::generic(format!("Device '{name}' is not removable"))
}

impl Machine {
    /// `eject`: opens the tray and takes out what is in it.
    pub(super) fn eject(&mut self, args: &Eject) -> Answer {
        match self.slot(args.device.as_ref(), args.id.as_ref())? {
            Slot::Waiting(id) => self.empty(&id)?,
            Slot::Device(drive) => {
                self.move_out(&drive, args.force.unwrap_or(false))?;
                self.take_out(&drive)?;
            }
        }
        done()
    }

    /// `blockdev-open-tray`: a guest that holds the tray is asked to open it.
    pub(super) fn open_tray(&mut self, args: &Eject) -> Answer {
        let Slot::Device(drive) = self.slot(args.device.as_ref(), args.id.as_ref())? else { return done() };
        match drive.unit.open_tray(args.force.unwrap_or(false)) {
            Ok(moved) => self.host_moved(&drive, moved, true),
            Err(EjectRefused::Locked(_)) => {}
            Err(refusal) => return Err(drive.refused(&refusal)),
        }
        done()
    }

    /// `blockdev-close-tray`.
    pub(super) fn close_tray(&mut self, args: &CloseTray) -> Answer {
        if let Slot::Device(drive) = self.slot(args.device.as_ref(), args.id.as_ref())? {
            self.move_in(&drive)?;
        }
        done()
    }

    /// `blockdev-remove-medium`.
    pub(super) fn remove_medium(&mut self, id: &str) -> Answer {
        let drive = self.drive(id)?;
        self.take_out(&drive)?;
        done()
    }

    /// `blockdev-insert-medium`: a node of `blockdev-add`.
    pub(super) fn insert_medium(&mut self, args: &InsertMedium) -> Answer {
        let drive = self.drive(&args.id)?;
        if self.host.graph.get(&args.node_name).is_none() {
            return Err(QmpError::generic(format!("Node '{}' not found", args.node_name)));
        }
        self.put_in(&drive, &args.node_name, false)?;
        done()
    }

    /// `blockdev-change-medium`: another file instead of what is in the drive.
    pub(super) fn change_medium(&mut self, args: &ChangeMedium) -> Answer {
        let slot = self.slot(args.device.as_ref(), args.id.as_ref())?;
        let read_only = match (args.read_only_mode, &slot) {
            (Some(BlockdevChangeReadOnlyMode::ReadWrite), _) => false,
            (Some(BlockdevChangeReadOnlyMode::ReadOnly), _) | (_, Slot::Device(_)) => true,
            (_, Slot::Waiting(id)) => self.is_read_only(id),
        };
        let opening =
            Opening { file: args.filename.clone(), format: args.format.clone(), read_only, ..Opening::default() };
        let opened = self.host.graph.open_drive(&opening).map_err(|error| QmpError::from_error(&error))?;
        if let Some(warning) = opened.warning {
            log::warn!("{warning}");
        }
        let node = opened.node.name().to_owned();
        drop(opened.node);
        let changed = match &slot {
            Slot::Device(drive) => self.exchange(drive, &node, args.force.unwrap_or(false)),
            Slot::Waiting(id) => self.empty(id).and_then(|()| self.fill(id, &node)),
        };
        if changed.is_err()
            && let Err(error) = self.host.graph.remove(&node)
        {
            log::warn!("{error}");
        }
        changed?;
        done()
    }

    fn exchange(&mut self, drive: &Drive, node: &str, force: bool) -> Result<(), QmpError> {
        self.move_out(drive, force)?;
        self.take_out(drive)?;
        self.put_in(drive, node, true)?;
        self.move_in(drive)
    }

    /// The guest moved the tray of the drive with this `id=`.
    pub(super) fn tray_moved(&self, id: &str, open: bool) {
        let Some(disk) = self.facts.disk(id) else { return };
        let (device, id) = (disk.drive.clone(), disk.qdev.clone());
        self.bus.emit(&Event::DeviceTrayMoved(TrayMovedData { device, id, tray_open: open }));
    }

    fn host_moved(&self, drive: &Drive, moved: bool, open: bool) {
        if moved {
            self.tray_moved(&drive.id, open);
        }
    }

    /// What a client means by one of two names.
    fn slot(&self, device: Option<&String>, id: Option<&String>) -> Result<Slot, QmpError> {
        match (device, id) {
            (Some(name), None) => match self.facts.waiting(name) {
                Some(disk) => Ok(Slot::Waiting(disk.id.clone())),
                None => self.drive(name).map(Slot::Device),
            },
            (None, Some(name)) => self.drive(name).map(Slot::Device),
            _ => Err(QmpError::generic("Need exactly one of 'device' and 'id'")),
        }
    }

    /// What comes into the drive is only read, where nobody says otherwise.
    fn is_read_only(&self, id: &str) -> bool {
        let drive = self.facts.disk(id).map(|disk| disk.drive.as_str());
        self.planner.drives().iter().any(|plan| Some(plan.id.as_str()) == drive && plan.read_only)
    }

    /// Takes the medium, if any, out of a drive that no device has; a node that nobody named goes with it.
    pub(super) fn empty(&mut self, id: &str) -> Result<(), QmpError> {
        let node = self.host.disk(id).attached.map(|attached| attached.node());
        if let Some(node) = node {
            if node.job().is_none_or(|job| job == EXPORT) {
                self.end_exports_of(id);
            }
            let idle = node.check_idle().and_then(|()| self.host.graph.check_unused(&node));
            idle.map_err(|error| QmpError::from_error(&error))?;
        }
        self.host.set_node(id, None);
        self.leave_node(id)
    }

    /// Puts a node, which goes with it, into an empty drive that no device has.
    fn fill(&mut self, id: &str, node: &str) -> Result<(), QmpError> {
        let Some(disk) = self.facts.disk_mut(id) else { return Ok(()) };
        let attached = self.host.graph.attach_waiting(node, disk.write_cache);
        let attached = attached.map_err(|error| QmpError::from_error(&error))?;
        (disk.node, disk.owns_node) = (node.to_owned(), true);
        self.host.set_node(id, Some(Arc::new(attached)));
        Ok(())
    }

    fn drive(&self, name: &str) -> Result<Drive, QmpError> {
        let disk = self.facts.find_disk(name).filter(|disk| !disk.is_waiting());
        let disk = disk.ok_or_else(|| QmpError::device_not_found(name))?;
        let drives = self.guest.as_ref().map(|guest| &guest.board.drives().removable);
        let unit = drives.and_then(|drives| drives.get(&disk.id)).ok_or_else(|| not_removable(name))?;
        Ok(Drive { id: disk.id.clone(), name: name.to_owned(), unit: Arc::clone(unit) })
    }

    fn move_out(&self, drive: &Drive, force: bool) -> Result<(), QmpError> {
        let moved = drive.unit.open_tray(force).map_err(|refusal| drive.refused(&refusal))?;
        self.host_moved(drive, moved, true);
        Ok(())
    }

    fn move_in(&self, drive: &Drive) -> Result<(), QmpError> {
        let moved = drive.unit.close_tray().map_err(|refusal| drive.refused(&refusal))?;
        self.host_moved(drive, moved, false);
        Ok(())
    }

    /// Takes the medium, if any, out of the open tray; a node that nobody named goes with it.
    fn take_out(&mut self, drive: &Drive) -> Result<(), QmpError> {
        let image = drive.unit.remove().map_err(|refusal| drive.refused(&refusal))?;
        let Some(attached) = self.host.disk(&drive.id).attached else { return Ok(()) };
        // What the guest has asked for is read before the file is closed.
        drop(attached.disk().drain());
        drop((image, attached));
        self.host.set_node(&drive.id, None);
        self.leave_node(&drive.id)
    }

    /// The disk of this name has no node any more.
    pub(super) fn leave_node(&mut self, id: &str) -> Result<(), QmpError> {
        self.end_exports_of(id);
        let Some(disk) = self.facts.disk_mut(id).filter(|disk| !disk.node.is_empty()) else { return Ok(()) };
        let (node, goes_too) = (std::mem::take(&mut disk.node), std::mem::take(&mut disk.owns_node));
        if goes_too {
            self.host.graph.remove(&node).map_err(|error| QmpError::from_error(&error))?;
        }
        Ok(())
    }

    /// Puts a node into the open tray.
    fn put_in(&mut self, drive: &Drive, node: &str, owned: bool) -> Result<(), QmpError> {
        let attached = self.host.attach(&drive.id, node, true, &drive.name);
        let attached = Arc::new(attached.map_err(|error| QmpError::from_error(&error))?);
        let image: Arc<dyn Image> = Arc::new(attached.disk().clone());
        if let Err(refusal) = drive.unit.insert(&image) {
            self.host.left(Some(attached));
            return Err(drive.refused(&refusal));
        }
        self.host.set_node(&drive.id, Some(attached));
        if let Some(disk) = self.facts.disk_mut(&drive.id) {
            let Disk { node: name, owns_node, .. } = disk;
            (*name, *owns_node) = (node.to_owned(), owned);
        }
        Ok(())
    }
}
