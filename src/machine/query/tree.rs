//! `info qtree`: who sits on which bus, and with which properties.
//!
//! ```text
//! main-system-bus ── i440FX-pcihost ── pci.0 ─┬─ functions of -device ── virtio-bus ── virtio device ── SCSI units
//!                                             ├─ piix3-ide ── ide.1, ide.0 ── drives
//!                                             └─ PIIX3 ── isa.0 ── ports and chips
//! ```
//!
//! As in QEMU what came last is shown first.

use std::fmt::Write as _;

use rhea_devices::pci::Bdf;

use super::pci;
use super::properties::Side;
use crate::board::Board;
use crate::board::plan::{IsaDevice, IsaPlan, PciPlan, Taken, is_made_up};
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

    fn lines(&mut self, depth: usize, texts: &[String]) {
        texts.iter().for_each(|text| self.line(depth, text));
    }

    fn bus(&mut self, depth: usize, name: &str, kind: &str) {
        self.line(depth, &format!("bus: {name}"));
        self.line(depth + 1, &format!("type {kind}"));
    }

    /// A device by its driver and its name, which may be one made up.
    fn device(&mut self, depth: usize, driver: &str, name: &str) {
        let id = if is_made_up(name) { "" } else { name };
        self.line(depth, &format!("dev: {driver}, id \"{id}\""));
    }

    fn number(&mut self, depth: usize, name: &str, value: u64) {
        self.line(depth, &format!("{name} = {value} ({value:#x})"));
    }
}

impl Machine {
    pub(in crate::machine) fn device_tree(&self) -> String {
        let mut tree = Tree::default();
        tree.bus(0, "main-system-bus", "System");
        let Some(guest) = &self.guest else { return tree.0 };
        if guest.kvm.is_some() {
            tree.device(1, "kvm-ioapic", "");
        }
        tree.device(1, "i440FX-pcihost", "");
        tree.bus(2, "pci.0", "PCI");
        let told = pci::bus(&guest.board).into_iter().flat_map(|bus| bus.devices);
        let functions: Vec<_> = guest.board.pci_functions().into_iter().zip(told).collect();
        for ((bdf, function), told) in functions.into_iter().rev() {
            match self.device_called(function.name()) {
                Some(device) => self.show_function(&mut tree, device, &told),
                None => {
                    tree.device(3, function.name(), "");
                    tree.line(4, &format!("addr = {:02x}.{:x}", bdf.device(), bdf.function()));
                    describe(&mut tree, bdf, &told);
                }
            }
            match (bdf.device(), bdf.function()) {
                ISA_BRIDGE => self.show_isa(&mut tree, &guest.board, guest.kvm.is_some()),
                IDE => self.show_ide(&mut tree),
                _ => {}
            }
        }
        tree.0
    }

    fn device_called(&self, name: &str) -> Option<(&str, &Taken)> {
        self.planner.places().devices().find(|(known, _)| *known == name)
    }

    /// A function of the user's, and what is behind it.
    fn show_function(&self, tree: &mut Tree, (name, taken): (&str, &Taken), told: &PciDeviceInfo) {
        tree.device(3, taken.device.driver(), name);
        let side = if taken.is_virtio() { Side::Transport } else { Side::Whole };
        tree.lines(4, &self.device_lines(name, taken, side));
        if let Some(bdf) = self.planner.places().of(name) {
            describe(tree, bdf, told);
        }
        if taken.is_virtio() {
            tree.bus(4, "virtio-bus", "virtio-pci-bus");
            tree.device(5, &taken.backend_type(), "");
            tree.lines(6, &self.device_lines(name, taken, Side::Backend));
            self.show_scsi(tree, name);
        }
    }

    fn show_scsi(&self, tree: &mut Tree, adapter: &str) {
        let Some(bus) = self.planner.scsi_bus(adapter) else { return };
        tree.bus(6, bus, "SCSI");
        let units = self.planner.function(adapter).map_or(&[][..], PciPlan::units);
        for (name, taken) in units.iter().rev().filter_map(|unit| self.device_called(&unit.id)) {
            tree.device(7, taken.device.driver(), name);
            tree.lines(8, &self.device_lines(name, taken, Side::Whole));
        }
    }

    fn show_ide(&self, tree: &mut Tree) {
        for (number, drives) in self.planner.ide().iter().enumerate().rev() {
            tree.bus(4, &format!("ide.{number}"), "IDE");
            for (name, taken) in drives.iter().rev().flatten().filter_map(|drive| self.device_called(&drive.id)) {
                tree.device(5, taken.device.driver(), name);
                tree.lines(6, &self.device_lines(name, taken, Side::Whole));
            }
        }
    }

    /// What is no PCI function sits at ports or below the chipset, and has no other bus to be shown on.
    fn show_isa(&self, tree: &mut Tree, board: &Board, has_kvm: bool) {
        tree.bus(4, "isa.0", "ISA");
        let mut shown = vec!["pcihost"];
        for chip in self.planner.isa().iter().rev() {
            shown.push(&chip.id);
            match self.device_called(&chip.id) {
                Some((name, taken)) => {
                    tree.device(5, taken.device.driver(), name);
                    tree.lines(6, &self.device_lines(name, taken, Side::Whole));
                    shown.push(taken.device.driver());
                }
                None => show_serial(tree, chip),
            }
        }
        let functions = board.pci_functions();
        shown.extend(functions.iter().map(|(_, function)| function.name()));
        let others = board.devices().iter().rev().map(|device| device.name()).filter(|name| !shown.contains(name));
        others.for_each(|name| tree.device(5, name, ""));
        if has_kvm {
            ["kvm-pit", "kvm-i8259", "kvm-i8259"].iter().for_each(|chip| tree.device(5, chip, ""));
        }
    }
}

/// A port that `-serial` made.
fn show_serial(tree: &mut Tree, chip: &IsaPlan) {
    if let IsaDevice::Serial { index, base, irq, chardev } = &chip.device {
        tree.device(5, "isa-serial", "");
        tree.number(6, "index", u64::from(*index));
        tree.number(6, "iobase", u64::from(*base));
        tree.number(6, "irq", u64::from(*irq));
        tree.line(6, &format!("chardev = \"{}\"", chardev.as_deref().unwrap_or_default()));
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
    tree.line(4, &format!("class {class}, addr 00:{slot:02x}.{function:x}, pci id {ids}"));
    for region in &told.regions {
        let kind = if region.r#type == "io" { "i/o" } else { "mem" };
        let end = region.address.wrapping_add(region.size - 1);
        tree.line(4, &format!("bar {}: {kind} at {:#x} [{end:#x}]", region.bar, region.address));
    }
}
