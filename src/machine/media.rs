//! Media of drives: what the guest does with the tray, and what the host does.

use super::Machine;
use crate::qmp::Event;
use crate::qmp::event::TrayMovedData;

impl Machine {
    /// The tray of the drive with this `id=` is somewhere else now.
    pub(super) fn tray_moved(&self, id: &str, open: bool) {
        let Some(disk) = self.facts.disk(id) else { return };
        let (device, id) = (disk.drive.clone(), disk.qdev.clone());
        self.bus.emit(&Event::DeviceTrayMoved(TrayMovedData { device, id, tray_open: open }));
    }
}
