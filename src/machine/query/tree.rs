//! `info qtree`: who sits on which bus.
//!
//! ```text
//! main-system-bus ── i440FX-pcihost ── pci.0 ─┬─ PIIX3 ── isa.0 ── ports and chips
//!                                             ├─ piix3-ide ── ide.0, ide.1 ── drives
//!                                             └─ functions of -device ── SCSI units of an adapter
//! ```

use std::fmt::Write as _;

use rhea_devices::pci::Bdf;

use super::pci;
use crate::board::Board;
use crate::board::plan::{IdeDevice, is_made_up, object_path};
use crate::machine::Machine;
use crate::qmp::reply::device::PciDeviceInfo;

const ISA_BRIDGE: (u8, u8) = (1, 0);
const IDE: (u8, u8) = (1, 1);

/// Lines, each two blanks further in than the one that it belongs to.
#[derive(Default)]
struct Tree(String);

impl Tree {
    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.0, "{:1$}{text}", "", 2 * depth);
    }

    fn bus(&mut self, depth: usize, name: &str, kind: &str) {
        self.line(depth, &format!("bus: {name}"));
        self.line(depth + 1, &format!("type {kind}"));
    }

    fn device(&mut self, depth: usize, driver: &str, id: &str) {
        self.line(depth, &format!("dev: {driver}, id \"{id}\""));
    }
}

impl Machine {
    pub(in crate::machine) fn device_tree(&self) -> String {
        let mut tree = Tree::default();
        tree.bus(0, "main-system-bus", "System");
        let Some(guest) = &self.guest else { return tree.0 };
        tree.device(1, "i440FX-pcihost", "");
        tree.bus(2, "pci.0", "PCI");
        let told = pci::bus(&guest.board).into_iter().flat_map(|bus| bus.devices);
        for ((bdf, function), told) in guest.board.pci_functions().into_iter().zip(told) {
            self.show_device(&mut tree, 3, function.name());
            describe(&mut tree, bdf, &told);
            match (bdf.device(), bdf.function()) {
                ISA_BRIDGE => show_isa(&mut tree, &guest.board),
                IDE => self.show_ide(&mut tree),
                _ => self.show_scsi(&mut tree, &guest.board, function.name()),
            }
        }
        tree.0
    }

    /// A device by its name, which is its `id=`, or made up; chips of the board have that of their type.
    fn show_device(&self, tree: &mut Tree, depth: usize, name: &str) {
        match self.type_of(&object_path(name)) {
            Some(driver) => tree.device(depth, &driver, if is_made_up(name) { "" } else { name }),
            None => tree.device(depth, name, ""),
        }
    }

    fn show_ide(&self, tree: &mut Tree) {
        for (number, drives) in self.planner.ide().iter().enumerate() {
            tree.bus(4, &format!("ide.{number}"), "IDE");
            for (unit, drive) in drives.iter().enumerate() {
                let Some(drive) = drive else { continue };
                let driver = if matches!(drive.device, IdeDevice::Cd(_)) { "ide-cd" } else { "ide-hd" };
                tree.device(5, driver, if is_made_up(&drive.id) { "" } else { &drive.id });
                tree.line(6, &format!("drive = \"{}\"", drive.storage.drive));
                tree.line(6, &format!("unit = {unit}"));
            }
        }
    }

    fn show_scsi(&self, tree: &mut Tree, board: &Board, adapter: &str) {
        let Some(name) = self.planner.scsi_bus(adapter) else { return };
        tree.bus(4, name, "SCSI");
        for (address, unit) in board.drives().buses.get(name).into_iter().flat_map(|bus| bus.units()) {
            self.show_device(tree, 5, &unit.config().id);
            tree.line(6, "channel = 0");
            tree.line(6, &format!("scsi-id = {}", address.target));
            tree.line(6, &format!("lun = {}", address.lun));
        }
    }
}

fn describe(tree: &mut Tree, bdf: Bdf, told: &PciDeviceInfo) {
    let class = told.class_info.desc.clone().unwrap_or_else(|| format!("Class {:04x}", told.class_info.class));
    let (slot, function) = (bdf.device(), bdf.function());
    let subsystem = told.id.subsystem_vendor.unwrap_or(0);
    let ids = format!(
        "{:04x}:{:04x} (sub {subsystem:04x}:{:04x})",
        told.id.vendor,
        told.id.device,
        told.id.subsystem.unwrap_or(0)
    );
    tree.line(4, &format!("addr = {slot:02x}.{function:x}"));
    tree.line(4, &format!("class {class}, addr 00:{slot:02x}.{function:x}, pci id {ids}"));
}

/// What is no PCI function sits at ports or below the chipset, and has no other bus to be shown on.
fn show_isa(tree: &mut Tree, board: &Board) {
    tree.bus(4, "isa.0", "ISA");
    let functions = board.pci_functions();
    for device in board.devices() {
        let is_function = functions.iter().any(|(_, function)| function.name() == device.name());
        if !is_function && device.name() != "pcihost" {
            tree.device(5, device.name(), "");
        }
    }
}
