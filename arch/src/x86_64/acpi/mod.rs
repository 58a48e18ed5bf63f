//! ACPI tables: one description of the machine, two doors to the guest.
//!
//! ```text
//! AcpiSpec ── build ──▶ Tables ── place ──▶ guest memory, for a boot without firmware
//!                         └────── loader_script ──▶ fw_cfg, for firmware that places them itself
//! ```
//!
//! [`build`] is a pure function. Pointers and checksums are kept as a list of [`Link`]s, so that both doors patch the
//! same bytes in the same way. The hardware described is that of QEMU's `pc`: PIIX4 power management at 0x600, SCI 9,
//! PIIX3 interrupt routing; no HPET, no MCFG (there is no memory-mapped configuration space on i440FX).

use crate::x86_64::layout::MemoryLayout;

#[expect(clippy::needless_pass_by_value, reason = "terms are built inside out; references would clutter each call")]
mod aml;
mod dsdt;
mod fixed;
mod hotplug;
mod link;
mod numa;

#[cfg(test)]
mod tests;

pub use link::{Blob, Link, LinkError, Placed, Tables, Zone};
pub use numa::{Numa, UNREACHABLE_DISTANCE};

/// A processor that is there or may be plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// Local APIC identifier.
    pub apic_id: u32,
    /// Usable from the start.
    pub present: bool,
    /// NUMA node; used only with [`AcpiSpec::numa`].
    pub node: u32,
}

/// A 16550 serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerialPort {
    /// 1 for COM1.
    pub number: u8,
    /// First of 8 ports.
    pub base: u16,
    /// ISA interrupt.
    pub irq: u8,
}

/// A parallel port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParallelPort {
    /// 1 for LPT1.
    pub number: u8,
    /// First of 8 ports.
    pub base: u16,
    /// ISA interrupt.
    pub irq: u8,
}

/// The port by which an operating system asks firmware to hand over power management (ACPI 6.5, 4.8.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmiCommand {
    /// The port.
    pub port: u16,
    /// Value that turns ACPI mode on.
    pub enable: u8,
    /// Value that turns it off.
    pub disable: u8,
}

impl SmiCommand {
    /// What the PIIX4 of QEMU's `pc` answers to.
    pub const PIIX4: Self = Self { port: 0xb2, enable: 0xf1, disable: 0xf0 };
}

/// Who the tables say made the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oem {
    /// OEM identifier, padded with blanks (`x-oem-id`).
    pub id: [u8; 6],
    /// OEM table identifier, padded with blanks (`x-oem-table-id`).
    pub table_id: [u8; 8],
}

impl Default for Oem {
    fn default() -> Self {
        Self { id: *b"RHEA  ", table_id: *b"RHEAPC  " }
    }
}

/// What the tables describe.
#[derive(Debug, Clone)]
pub struct AcpiSpec {
    /// The memory map, for the PCI windows and NUMA.
    pub layout: MemoryLayout,
    /// Processors in order of their ACPI identifiers, at most 4095.
    pub processors: Vec<Processor>,
    /// NUMA nodes, if there are any.
    pub numa: Option<Numa>,
    /// Serial ports that exist.
    pub serial_ports: Vec<SerialPort>,
    /// Parallel ports that exist.
    pub parallel_ports: Vec<ParallelPort>,
    /// There is an i8042 with a keyboard.
    pub keyboard: bool,
    /// There is a PS/2 mouse on it.
    pub mouse: bool,
    /// There is a VGA adapter; otherwise guests are told not to probe for one.
    pub vga: bool,
    /// There is a fw_cfg device.
    pub fw_cfg: bool,
    /// Port of the pvpanic device.
    pub pvpanic: Option<u16>,
    /// Port of the general-purpose event block, four bytes long, if a device answers there.
    pub general_events: Option<u16>,
    /// PCI slots that can be plugged and unplugged, a bit each; with some, the hot-plug registers are there and event
    /// 1 of the general-purpose events points to them.
    pub hotplug_slots: u32,
    /// PIIX4 power-management base.
    pub pm_base: u16,
    /// System control interrupt.
    pub sci: u8,
    /// How ACPI mode is turned on; `None` when it is on from the start.
    pub smi: Option<SmiCommand>,
    /// Maker.
    pub oem: Oem,
}

impl AcpiSpec {
    /// A machine of this memory and these processors, without any optional device.
    pub fn new(layout: MemoryLayout, processors: Vec<Processor>) -> Self {
        use crate::x86_64::layout::ports;
        Self {
            layout,
            processors,
            numa: None,
            serial_ports: Vec::new(),
            parallel_ports: Vec::new(),
            keyboard: false,
            mouse: false,
            vga: false,
            fw_cfg: false,
            pvpanic: None,
            general_events: None,
            hotplug_slots: 0,
            pm_base: ports::PM_BASE,
            sci: 9,
            smi: Some(SmiCommand::PIIX4),
            oem: Oem::default(),
        }
    }
}

/// Describes the machine in tables.
pub fn build(spec: &AcpiSpec) -> Tables {
    let mut builder = link::Builder::new(spec.oem);
    let facs = builder.raw(&fixed::facs());
    let dsdt = builder.table(b"DSDT", 2, &dsdt::content(spec));
    let mut listed = vec![fixed::fadt(&mut builder, spec, facs, dsdt)];
    listed.push(builder.table(b"APIC", 3, &fixed::madt(spec)));
    listed.push(builder.table(b"WAET", 1, &fixed::waet()));
    if let Some(numa) = &spec.numa {
        listed.push(builder.table(b"SRAT", 3, &numa::srat(spec, numa)));
        listed.push(builder.table(b"SLIT", 1, &numa::slit(numa)));
    }
    builder.finish(&listed)
}
