//! `info pci`.

use std::fmt::Write;

use crate::qmp::Command;
use crate::qmp::reply::device::{PciBridgeInfo, PciDeviceInfo, PciInfo, PciMemoryRegion};

use super::Context;
use super::commands::{Printed, Words};

/// `info pci`.
pub(crate) fn pci(context: &mut Context<'_>, _: &Words<'_>) -> Printed {
    let buses: Vec<PciInfo> = context.ask(Command::QueryPci)?;
    let mut text = String::new();
    for device in buses.iter().flat_map(|bus| &bus.devices) {
        function(&mut text, device);
    }
    Ok(text)
}

fn function(text: &mut String, device: &PciDeviceInfo) {
    let PciDeviceInfo { bus, slot, function: number, id, class_info, .. } = device;
    let class = class_info.desc.clone().unwrap_or_else(|| format!("Class {:04x}", class_info.class));
    let _ = writeln!(text, "  Bus {bus:2}, device {slot:3}, function {number}:");
    let _ = writeln!(text, "    {class}: PCI device {:04x}:{:04x}", id.vendor, id.device);
    if let (Some(vendor), Some(subsystem)) = (id.subsystem_vendor, id.subsystem) {
        let _ = writeln!(text, "      PCI subsystem {vendor:04x}:{subsystem:04x}");
    }
    if let Some(irq) = device.irq {
        let pin = u32::try_from(device.irq_pin - 1).ok().and_then(|pin| char::from_u32('A' as u32 + pin));
        let _ = writeln!(text, "      IRQ {irq}, pin {}", pin.unwrap_or('?'));
    }
    if let Some(bridge) = &device.pci_bridge {
        describe_bridge(text, bridge);
    }
    for region in &device.regions {
        describe_region(text, region);
    }
    let _ = writeln!(text, "      id \"{}\"", device.qdev_id);
    for behind in device.pci_bridge.iter().flat_map(|bridge| bridge.devices.iter().flatten()) {
        function(text, behind);
    }
}

fn describe_bridge(text: &mut String, bridge: &PciBridgeInfo) {
    let bus = &bridge.bus;
    let _ = writeln!(text, "      BUS {}.", bus.number);
    let _ = writeln!(text, "      secondary bus {}.", bus.secondary);
    let _ = writeln!(text, "      subordinate bus {}.", bus.subordinate);
    let _ = writeln!(text, "      IO range [0x{:04x}, 0x{:04x}]", bus.io_range.base, bus.io_range.limit);
    let _ = writeln!(text, "      memory range [0x{:08x}, 0x{:08x}]", bus.memory_range.base, bus.memory_range.limit);
    let prefetch = &bus.prefetchable_range;
    let _ = writeln!(text, "      prefetchable memory range [0x{:08x}, 0x{:08x}]", prefetch.base, prefetch.limit);
}

fn describe_region(text: &mut String, region: &PciMemoryRegion) {
    // The last address is shown as the first plus the size less one, wrapping when the guest has put it nowhere.
    let (first, last) = (region.address, region.address.wrapping_add(region.size).wrapping_sub(1));
    let _ = if region.r#type == "io" {
        writeln!(text, "      BAR{}: I/O at 0x{first:04x} [0x{last:04x}].", region.bar)
    } else {
        let width = if region.mem_type_64 == Some(true) { 64 } else { 32 };
        let prefetch = if region.prefetch == Some(true) { " prefetchable" } else { "" };
        writeln!(text, "      BAR{}: {width} bit{prefetch} memory at 0x{first:08x} [0x{last:08x}].", region.bar)
    };
}
