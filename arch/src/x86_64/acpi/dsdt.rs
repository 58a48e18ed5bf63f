//! The machine's devices, as an operating system finds them (ACPI 6.5, chapters 5 to 9).

use super::aml::{
    Aml, Space, and, arg0, byte_fields, create_dword_field, device, dword_memory, eisa_id, if_, integer, interrupts,
    io, irq, local0, method, name, or, package, path, qword_memory, region, resources, return_, scope,
    serialized_method, store, string, word_bus_numbers, word_io,
};
use super::{AcpiSpec, ParallelPort, SerialPort, hotplug};
use crate::x86_64::layout::{OPTION_ROM_START, VGA_WINDOW_START, ports};

/// Present, enabled, shown, working; for devices without a driver of their own, not shown.
const STA_PRESENT: u64 = 0x0f;
const STA_HIDDEN: u64 = 0x0b;
const STA_DISABLED: u64 = 0x09;

/// PIIX3 PIRQ route control: bit 7 set means not routed (82371SB data sheet, 2.2.8).
const PIRQ_DISABLED: u64 = 0x80;
const PIRQ_REGISTERS: u64 = 0x60;
/// Interrupts that PIRQs may be routed to.
const LINK_INTERRUPTS: [u32; 3] = [5, 10, 11];
pub(super) const SLOTS: u64 = 32;
const PINS: u64 = 4;
/// The slot of the PIIX3 and its functions.
const PIIX_SLOT: u64 = 1;
const LINKS: [&str; 4] = ["LNKA", "LNKB", "LNKC", "LNKD"];
const PIRQS: [&str; 4] = ["PRQ0", "PRQ1", "PRQ2", "PRQ3"];
const SCI_LINK: &str = "LNKS";

/// Everything in the differentiated system description table behind its header.
pub(super) fn content(spec: &AcpiSpec) -> Vec<u8> {
    let mut devices = vec![pci_root(spec)];
    devices.extend((0..4).map(|n| link(n, LINKS[n], PIRQS[n])));
    devices.push(sci_link(spec.sci));
    devices.push(processors(spec));
    devices.extend(spec.general_events.map(general_events));
    devices.extend(hotplug::ports_taken(spec));
    devices.extend(spec.fw_cfg.then(fw_cfg));
    // SLP_TYP 0 is soft off on the PIIX4 (82371AB data sheet, 7.2.3).
    let soft_off = package(&[integer(0), integer(0), integer(0), integer(0)]);
    let mut terms = vec![scope("\\_SB", &devices)];
    terms.extend(hotplug::event(spec));
    terms.push(name("\\_S5", soft_off));
    terms.iter().flat_map(|term| term.bytes().to_vec()).collect()
}

fn pci_root(spec: &AcpiSpec) -> Aml {
    let mut terms = vec![
        name("_HID", eisa_id("PNP0A03")),
        name("_UID", integer(0)),
        name("_CRS", pci_windows(spec)),
        name("_PRT", interrupt_routing()),
        isa_bridge(spec),
    ];
    terms.extend(hotplug::slots(spec));
    device("PCI0", &terms)
}

/// Bus numbers, the configuration ports, and what the bridge passes on: all other ports except those of hot-plug and
/// of the general-purpose events, the VGA window, and the two memory windows.
fn pci_windows(spec: &AcpiSpec) -> Aml {
    let after_config = u32::from(ports::PCI_CONFIG_ADDRESS) + 8;
    let mut windows = vec![
        word_bus_numbers(0, 0xff),
        io(ports::PCI_CONFIG_ADDRESS, 8, 1),
        word_io(0..ports::PCI_CONFIG_ADDRESS.into()),
    ];
    let hotplug = hotplug::ports(spec).map(|base| (base, ports::PCI_HOTPLUG_LEN));
    let events = spec.general_events.map(|base| (base, ports::GPE0_LEN.into()));
    let mut start = after_config;
    for (base, length) in hotplug.into_iter().chain(events) {
        windows.push(word_io(start..base.into()));
        start = u32::from(base) + u32::from(length);
    }
    windows.push(word_io(start..0x1_0000));
    windows.push(dword_memory(VGA_WINDOW_START..OPTION_ROM_START, true));
    windows.push(dword_memory(spec.layout.pci_window_32(), false));
    let above = spec.layout.pci_window_64();
    if !above.is_empty() {
        windows.push(qword_memory(above));
    }
    resources(&windows)
}

/// Pin to link, rotated by slot as the PIIX3's board wires it; the power-management function's pin is the SCI.
fn interrupt_routing() -> Aml {
    let entries: Vec<Aml> = (0..SLOTS * PINS)
        .map(|n| {
            let (slot, pin) = (n / PINS, n % PINS);
            let pirq = (slot + PINS - PIIX_SLOT + pin) % PINS;
            let link = if (slot, pin) == (PIIX_SLOT, 0) { SCI_LINK } else { LINKS[pirq as usize] };
            package(&[integer(slot << 16 | 0xffff), integer(pin), path(&format!("\\_SB.{link}")), integer(0)])
        })
        .collect();
    package(&entries)
}

/// A PIRQ that the operating system routes through the PIIX3's register.
fn link(uid: usize, link_name: &str, register: &str) -> Aml {
    let register = || path(&format!("\\_SB.PCI0.ISA.{register}"));
    let disabled = || and(register(), integer(PIRQ_DISABLED));
    device(
        link_name,
        &[
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", integer(uid as u64)),
            name("BUFF", resources(&[interrupts(&[0])])),
            name("_PRS", resources(&[interrupts(&LINK_INTERRUPTS)])),
            method("_STA", 0, &[if_(disabled(), &[return_(integer(STA_DISABLED))]), return_(integer(STA_HIDDEN))]),
            method("_DIS", 0, &[or(register(), integer(PIRQ_DISABLED), register())]),
            serialized_method("_CRS", 0, &current_interrupt(register(), disabled())),
            serialized_method(
                "_SRS",
                1,
                &[create_dword_field(arg0(), INTERRUPT_OFFSET, "IRQW"), store(path("IRQW"), register())],
            ),
        ],
    )
}

/// Offset of the first number in an extended interrupt descriptor.
const INTERRUPT_OFFSET: u64 = 5;

/// Answers the routed interrupt, or 0 for none.
fn current_interrupt(register: Aml, disabled: Aml) -> Vec<Aml> {
    vec![
        create_dword_field(path("BUFF"), INTERRUPT_OFFSET, "IRQR"),
        store(register, local0()),
        if_(disabled, &[store(integer(0), local0())]),
        store(local0(), path("IRQR")),
        return_(path("BUFF")),
    ]
}

/// The system control interrupt, which is wired and cannot be routed.
fn sci_link(sci: u8) -> Aml {
    let wired = || resources(&[interrupts(&[sci.into()])]);
    device(
        SCI_LINK,
        &[
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", integer(LINKS.len() as u64)),
            name("_PRS", wired()),
            name("_STA", integer(STA_HIDDEN)),
            method("_DIS", 0, &[]),
            name("_CRS", wired()),
            method("_SRS", 1, &[]),
        ],
    )
}

/// The PIIX3 and what is wired behind it.
fn isa_bridge(spec: &AcpiSpec) -> Aml {
    let mut terms = vec![
        name("_ADR", integer(PIIX_SLOT << 16)),
        region("PIRQ", Space::PciConfig, PIRQ_REGISTERS, 4),
        byte_fields("PIRQ", &PIRQS),
        isa_device("RTC", "PNP0B00", 0, &[io(0x70, 8, 1), irq(8)]),
    ];
    if spec.keyboard {
        terms.push(isa_device("KBD", "PNP0303", 0, &[io(0x60, 1, 1), io(0x64, 1, 1), irq(1)]));
    }
    if spec.mouse {
        terms.push(isa_device("MOU", "PNP0F13", 0, &[irq(12)]));
    }
    terms.extend(spec.serial_ports.iter().map(serial));
    terms.extend(spec.parallel_ports.iter().map(parallel));
    terms.extend(spec.pvpanic.map(pvpanic));
    device("ISA", &terms)
}

fn isa_device(device_name: &str, id: &str, uid: u64, used: &[Aml]) -> Aml {
    device(
        device_name,
        &[
            name("_HID", eisa_id(id)),
            name("_UID", integer(uid)),
            name("_STA", integer(STA_PRESENT)),
            name("_CRS", resources(used)),
        ],
    )
}

fn serial(port: &SerialPort) -> Aml {
    let number = port.number;
    isa_device(&format!("COM{}", number & 0xf), "PNP0501", number.into(), &[io(port.base, 8, 1), irq(port.irq)])
}

fn parallel(port: &ParallelPort) -> Aml {
    let number = port.number;
    isa_device(&format!("LPT{}", number & 0xf), "PNP0400", number.into(), &[io(port.base, 8, 1), irq(port.irq)])
}

/// QEMU's docs/specs/pvpanic.rst.
fn pvpanic(base: u16) -> Aml {
    device(
        "PEVT",
        &[
            name("_HID", string("QEMU0001")),
            name("_STA", integer(STA_PRESENT)),
            name("_CRS", resources(&[io(base, 1, 1)])),
            region("PEOR", Space::SystemIo, base.into(), 1),
            byte_fields("PEOR", &["PEPT"]),
            method("RDPT", 0, &[store(path("PEPT"), local0()), return_(local0())]),
            method("WRPT", 1, &[store(arg0(), path("PEPT"))]),
        ],
    )
}

/// QEMU's docs/specs/fw_cfg.rst: selector, data, and eight bytes of DMA address.
fn fw_cfg() -> Aml {
    const PORTS: u8 = 12;
    device(
        "FWCF",
        &[
            name("_HID", string("QEMU0002")),
            name("_STA", integer(STA_HIDDEN)),
            name("_CRS", resources(&[io(ports::FW_CFG, PORTS, 1)])),
        ],
    )
}

fn general_events(base: u16) -> Aml {
    taken("GPE0", "GPE0 resources", base, ports::GPE0_LEN)
}

/// Keeps a block's ports from being given to anybody else.
pub(super) fn taken(device_name: &str, uid: &str, base: u16, length: u8) -> Aml {
    device(
        device_name,
        &[
            name("_HID", eisa_id("PNP0A06")),
            name("_UID", string(uid)),
            name("_STA", integer(STA_HIDDEN)),
            name("_CRS", resources(&[io(base, length, 1)])),
        ],
    )
}

/// A container with one device for each processor; hot-plug methods belong here.
fn processors(spec: &AcpiSpec) -> Aml {
    let mut terms = vec![name("_HID", string("ACPI0010")), name("_CID", eisa_id("PNP0A05"))];
    terms.extend(spec.processors.iter().enumerate().map(|(uid, _)| {
        device(&format!("C{uid:03X}"), &[name("_HID", string("ACPI0007")), name("_UID", integer(uid as u64))])
    }));
    device("CPUS", &terms)
}
