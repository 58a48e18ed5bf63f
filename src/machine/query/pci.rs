//! `query-pci` (PCI 3.0, chapter 6 for the registers read here).

use rhea_devices::pci::config::{BarInfo, BarKind};
use rhea_devices::pci::{Bdf, PciFunction};

use crate::board::Board;
use crate::board::plan::is_made_up;
use crate::qmp::reply::device::{PciDeviceClass, PciDeviceId, PciDeviceInfo, PciInfo, PciMemoryRegion};

const VENDOR: u8 = 0x00;
const DEVICE: u8 = 0x02;
const CLASS: u8 = 0x0a;
const SUBSYSTEM_VENDOR: u8 = 0x2c;
const SUBSYSTEM: u8 = 0x2e;
const INTERRUPT_LINE: u8 = 0x3c;
const INTERRUPT_PIN: u8 = 0x3d;

/// All of bus 0.
pub(in crate::machine) fn bus(board: &Board) -> Vec<PciInfo> {
    let devices = board.pci_functions().iter().map(|(bdf, function)| describe(*bdf, &**function)).collect();
    vec![PciInfo { bus: 0, devices }]
}

fn describe(bdf: Bdf, function: &dyn PciFunction) -> PciDeviceInfo {
    let pin = i64::from(byte(function, INTERRUPT_PIN));
    let optional = |offset| Some(word(function, offset)).filter(|&id| id != 0);
    PciDeviceInfo {
        bus: i64::from(bdf.bus()),
        slot: i64::from(bdf.device()),
        function: i64::from(bdf.function()),
        class_info: class(word(function, CLASS)),
        id: PciDeviceId {
            device: word(function, DEVICE),
            vendor: word(function, VENDOR),
            subsystem: optional(SUBSYSTEM),
            subsystem_vendor: optional(SUBSYSTEM_VENDOR),
        },
        irq: (pin != 0).then(|| i64::from(byte(function, INTERRUPT_LINE))),
        irq_pin: pin,
        // The board's own functions have no id, nor has a device that was given none.
        qdev_id: if bdf.device() <= 1 || is_made_up(function.name()) { "" } else { function.name() }.to_owned(),
        pci_bridge: None,
        regions: function.bars().into_iter().map(region).collect(),
    }
}

/// Words of the PCI class code list for what can be on this board.
fn class(class: i64) -> PciDeviceClass {
    let desc = match class {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0680 => "Bridge",
        _ => return PciDeviceClass { desc: None, class },
    };
    PciDeviceClass { desc: Some(desc.into()), class }
}

fn region(info: BarInfo) -> PciMemoryRegion {
    let memory = info.bar.kind != BarKind::Io;
    // Undecoded BARs have the address that QEMU shows for them.
    let address = info.base.map_or(-1, |base| i64::try_from(base).unwrap_or(-1));
    PciMemoryRegion {
        bar: i64::from(info.index),
        r#type: if memory { "memory" } else { "io" }.into(),
        address,
        size: i64::try_from(info.bar.size).unwrap_or(i64::MAX),
        prefetch: memory.then_some(info.bar.kind == BarKind::Prefetchable64),
        mem_type_64: memory.then_some(matches!(info.bar.kind, BarKind::Memory64 | BarKind::Prefetchable64)),
    }
}

fn byte(function: &dyn PciFunction, offset: u8) -> u8 {
    let mut data = [0];
    function.config_read(offset, &mut data);
    data[0]
}

fn word(function: &dyn PciFunction, offset: u8) -> i64 {
    let mut data = [0; 2];
    function.config_read(offset, &mut data);
    i64::from(u16::from_le_bytes(data))
}
