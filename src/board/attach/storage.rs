//! Disks and drives, on every bus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rhea_block::Image;
use rhea_devices::geometry::Shape;
use rhea_devices::ide::{self, IdeConnections, IdeDrive, Piix3Ide};
use rhea_devices::scsi::{LogicalUnit, Reservations, UnitConfig, UnitKind};
use rhea_devices::virtio::blk::{BlkConnections, VirtioBlk};
use rhea_devices::virtio::device::VirtioDevice;
use rhea_devices::virtio::iothread::Placement;
use rhea_devices::virtio::scsi::{ScsiBus, ScsiUnit, VirtioScsi};

use super::{Attacher, interrupt, slot};
use crate::board::BoardError;
use crate::board::plan::{BlkPlan, Channels, IdeDevice, IdePlan, ScsiPlan, ScsiUnitPlan, StoragePlan};

/// What the host can change about disks and drives while the guest runs.
#[derive(Default)]
pub struct Drives {
    /// Drives whose medium can be taken out, by `id=` of the device.
    pub removable: BTreeMap<String, Arc<LogicalUnit>>,
    /// Buses of SCSI adapters, by name.
    pub buses: BTreeMap<String, Arc<ScsiBus>>,
}

impl Attacher<'_> {
    pub(super) fn blk(&self, id: &str, plan: &BlkPlan) -> Result<Box<dyn VirtioDevice>, BoardError> {
        let to = BlkConnections {
            image: self.disk_image(&plan.storage, id)?,
            placement: self.placement(plan.iothread.as_ref())?,
            stats: self.backends.stats(id),
            errors: self.backends.errors(&plan.storage, id),
        };
        Ok(VirtioBlk::new(plan.config.clone(), to).map_err(BoardError::device(id))?)
    }

    /// An adapter with its units.
    pub(super) fn scsi(&mut self, id: &str, plan: &ScsiPlan) -> Result<Box<dyn VirtioDevice>, BoardError> {
        let placement = self.placement(plan.iothread.as_ref())?;
        let adapter = VirtioScsi::new(plan.config.clone(), placement).map_err(BoardError::device(id))?;
        let bus = adapter.bus();
        for unit in &plan.units {
            self.scsi_unit(&bus, unit)?;
        }
        self.drives.buses.insert(plan.bus.clone(), bus);
        Ok(adapter)
    }

    /// A disk or drive behind an adapter.
    pub(in crate::board) fn scsi_unit(&mut self, bus: &Arc<ScsiBus>, plan: &ScsiUnitPlan) -> Result<(), BoardError> {
        let (id, storage) = (&plan.id, &plan.storage);
        let unit = ScsiUnit {
            unit: self.unit(id, &plan.config, storage)?,
            stats: self.backends.stats(id),
            errors: self.backends.errors(storage, id),
            gone: AtomicBool::new(false),
        };
        bus.attach(plan.address, unit).map_err(BoardError::device(id))
    }

    /// The command set of a unit, with what the host sees of it.
    fn unit(&mut self, id: &str, config: &UnitConfig, storage: &StoragePlan) -> Result<Arc<LogicalUnit>, BoardError> {
        // What a CD drive has reserved is the drive, whatever medium comes into it.
        let (image, reservations) = match config.kind {
            UnitKind::Disk => (Some(self.disk_image(storage, id)?), self.backends.reservations(id)),
            UnitKind::Cd => (self.backends.image(storage, id)?, Reservations::new()),
        };
        let unit = LogicalUnit::new(config.clone(), image, &reservations).map_err(BoardError::device(id))?;
        if config.kind == UnitKind::Cd {
            unit.on_tray_moved(self.backends.tray(id));
            self.drives.removable.insert(id.to_owned(), Arc::clone(&unit));
        }
        Ok(unit)
    }

    fn placement(&self, iothread: Option<&String>) -> Result<Placement, BoardError> {
        iothread.map_or(Ok(Placement::PerQueue), |thread| Ok(Placement::Shared(self.backends.iothread(thread)?)))
    }

    /// The image of a drive that cannot be empty.
    fn disk_image(&self, plan: &StoragePlan, id: &str) -> Result<Arc<dyn Image>, BoardError> {
        let empty = || BoardError::device(id)(std::io::Error::other("Device needs media, but drive is empty"));
        self.backends.image(plan, id)?.ok_or_else(empty)
    }

    /// The image of an IDE disk, which no driver expects to be write-protected.
    fn ide_image(&self, plan: &StoragePlan, id: &str) -> Result<Arc<dyn Image>, BoardError> {
        let image = self.disk_image(plan, id)?;
        if image.info().read_only {
            return Err(BoardError::device(id)(std::io::Error::other("Block node is read-only")));
        }
        Ok(image)
    }

    /// The IDE function, which every board has, and what is on its channels; the shapes of the disks there.
    pub(in crate::board) fn attach_ide(&mut self, channels: &Channels) -> Result<[Option<Shape>; 4], BoardError> {
        let mut drive = |drive: &Option<IdePlan>| drive.as_ref().map(|drive| self.ide_drive(drive)).transpose();
        let [[a, b], [c, d]] = channels;
        let mut drives = [[drive(a)?, drive(b)?], [drive(c)?, drive(d)?]];
        let [[a, b], [c, d]] = &mut drives;
        let shapes = [a, b, c, d].map(|drive| drive.as_mut().and_then(settle_shape));
        let to = IdeConnections {
            memory: Arc::clone(&self.wiring.ram),
            irqs: interrupt::IDE.map(|number| self.isa.tap(number)),
            placement: Placement::PerQueue,
        };
        let function = Piix3Ide::new(slot::IDE, drives, to).map_err(BoardError::device("piix3-ide"))?;
        self.function(slot::IDE, function)?;
        Ok(shapes)
    }

    fn ide_drive(&mut self, plan: &IdePlan) -> Result<IdeDrive, BoardError> {
        let (id, storage) = (&plan.id, &plan.storage);
        match &plan.device {
            IdeDevice::Disk(config) => Ok(IdeDrive::Disk {
                config: (**config).clone(),
                image: self.ide_image(storage, id)?,
                stats: self.backends.stats(id),
                errors: self.backends.errors(storage, id),
            }),
            IdeDevice::Cd(config) => Ok(IdeDrive::Cd {
                unit: self.unit(id, config, storage)?,
                stats: self.backends.stats(id),
                errors: self.backends.errors(storage, id),
            }),
        }
    }
}

/// Settles the shape of a disk.
fn settle_shape(drive: &mut IdeDrive) -> Option<Shape> {
    let IdeDrive::Disk { config, image, .. } = drive else { return None };
    let shape = ide::shape(config, &**image);
    config.geometry = Some(shape.geometry);
    Some(shape)
}
