//! The tables of fixed form: FACS, FADT, MADT, WAET.

use super::link::{Builder, Place};
use super::{AcpiSpec, Processor};
use crate::x86_64::layout::{IOAPIC_START, LOCAL_APIC_START, ports};

/// Firmware ACPI control structure (ACPI 6.5, 5.2.10): no waking vector, no global lock held.
pub(super) fn facs() -> Vec<u8> {
    const LEN: usize = 64;
    let mut bytes = [&b"FACS"[..], &(LEN as u32).to_le_bytes()].concat();
    bytes.resize(LEN, 0);
    bytes
}

/// Offsets in the FADT, header included (5.2.9).
mod fadt_at {
    pub(super) const FIRMWARE_CTRL: usize = 36;
    pub(super) const DSDT: usize = 40;
    pub(super) const INT_MODEL: usize = 44;
    pub(super) const SCI_INT: usize = 46;
    pub(super) const SMI_CMD: usize = 48;
    pub(super) const ACPI_ENABLE: usize = 52;
    pub(super) const ACPI_DISABLE: usize = 53;
    pub(super) const PM1A_EVT: usize = 56;
    pub(super) const PM1A_CNT: usize = 64;
    pub(super) const PM_TMR: usize = 76;
    pub(super) const GPE0: usize = 80;
    pub(super) const PM1_EVT_LEN: usize = 88;
    pub(super) const PM1_CNT_LEN: usize = 89;
    pub(super) const PM_TMR_LEN: usize = 91;
    pub(super) const GPE0_LEN: usize = 92;
    pub(super) const P_LVL2_LAT: usize = 96;
    pub(super) const P_LVL3_LAT: usize = 98;
    pub(super) const CENTURY: usize = 108;
    pub(super) const BOOT_ARCH: usize = 109;
    pub(super) const FLAGS: usize = 112;
    pub(super) const RESET_REG: usize = 116;
    pub(super) const RESET_VALUE: usize = 128;
    pub(super) const X_FIRMWARE_CTRL: usize = 132;
    pub(super) const X_DSDT: usize = 140;
    pub(super) const X_PM1A_EVT: usize = 148;
    pub(super) const X_PM1A_CNT: usize = 172;
    pub(super) const X_PM_TMR: usize = 208;
    pub(super) const X_GPE0: usize = 220;
    pub(super) const END: usize = 244;
}

/// FADT flags (table 5.10). A clear power button flag means that the button is a fixed feature.
const FLAG_WBINVD: u32 = 1 << 0;
const FLAG_PROC_C1: u32 = 1 << 2;
const FLAG_NO_SLEEP_BUTTON: u32 = 1 << 5;
const FLAG_NO_FIXED_RTC_WAKE: u32 = 1 << 6;
const FLAG_RESET_REG: u32 = 1 << 10;
const FLAG_USE_PLATFORM_CLOCK: u32 = 1 << 15;
const FLAG_FORCE_PHYSICAL_APIC: u32 = 1 << 19;
/// Flat logical delivery reaches this many processors.
const FLAT_LOGICAL_MOST: usize = 8;

/// IA-PC boot architecture flags (table 5.11).
const BOOT_LEGACY_DEVICES: u16 = 1 << 0;
const BOOT_8042: u16 = 1 << 1;
const BOOT_NO_VGA: u16 = 1 << 2;

/// CMOS register of the century.
const CENTURY_REGISTER: u8 = 0x32;
/// PIIX3 reset control: full reset, with the bit set whose rise starts it (82371SB data sheet, 2.5.4.1).
const RESET_VALUE: u8 = 0x0f;
/// Latencies above 100 and 1000 µs say that C2 and C3 do not exist.
const NO_C_STATE: u16 = 0xfff;
const DUAL_PIC: u8 = 1;

struct Fadt(Vec<u8>);

impl Fadt {
    /// Sets a field at its offset in the table, header included.
    fn set(&mut self, at: usize, bytes: &[u8]) {
        let start = at - 36;
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Sets a register block in its 32-bit and its extended form (a generic address, 5.2.3.2).
    fn set_block(&mut self, at: usize, extended: usize, port: u16, bytes: u8) {
        self.set(at, &u32::from(port).to_le_bytes());
        self.set(extended, &port_address(port, bytes * 8));
    }
}

fn port_address(port: u16, bits: u8) -> Vec<u8> {
    const SYSTEM_IO: u8 = 1;
    const ANY_ACCESS: u8 = 0;
    [&[SYSTEM_IO, bits, 0, ANY_ACCESS][..], &u64::from(port).to_le_bytes()].concat()
}

/// Fixed ACPI description table, revision 3 (ACPI 2.0): power management of the PIIX4, reset of the PIIX3.
pub(super) fn fadt(builder: &mut Builder, spec: &AcpiSpec, facs: Place, dsdt: Place) -> Place {
    use fadt_at as at;
    const REVISION: u8 = 3;
    let mut table = Fadt(vec![0; at::END - 36]);
    table.set(at::INT_MODEL, &[DUAL_PIC]);
    table.set(at::SCI_INT, &u16::from(spec.sci).to_le_bytes());
    if let Some(smi) = spec.smi {
        table.set(at::SMI_CMD, &u32::from(smi.port).to_le_bytes());
        table.set(at::ACPI_ENABLE, &[smi.enable]);
        table.set(at::ACPI_DISABLE, &[smi.disable]);
    }
    table.set_block(at::PM1A_EVT, at::X_PM1A_EVT, spec.pm_base, 4);
    table.set_block(at::PM1A_CNT, at::X_PM1A_CNT, spec.pm_base + 4, 2);
    table.set_block(at::PM_TMR, at::X_PM_TMR, spec.pm_base + 8, 4);
    table.set(at::PM1_EVT_LEN, &[4]);
    table.set(at::PM1_CNT_LEN, &[2]);
    table.set(at::PM_TMR_LEN, &[4]);
    if let Some(events) = spec.general_events {
        table.set_block(at::GPE0, at::X_GPE0, events, ports::GPE0_LEN);
        table.set(at::GPE0_LEN, &[ports::GPE0_LEN]);
    }
    table.set(at::P_LVL2_LAT, &NO_C_STATE.to_le_bytes());
    table.set(at::P_LVL3_LAT, &NO_C_STATE.to_le_bytes());
    table.set(at::CENTURY, &[CENTURY_REGISTER]);
    table.set(at::BOOT_ARCH, &boot_architecture(spec).to_le_bytes());
    table.set(at::FLAGS, &flags(spec).to_le_bytes());
    table.set(at::RESET_REG, &port_address(ports::RESET_CONTROL, 8));
    table.set(at::RESET_VALUE, &[RESET_VALUE]);

    let place = builder.unsummed(b"FACP", REVISION, &table.0);
    builder.point(place, at::FIRMWARE_CTRL, 4, facs);
    builder.point(place, at::DSDT, 4, dsdt);
    builder.point(place, at::X_FIRMWARE_CTRL, 8, facs);
    builder.point(place, at::X_DSDT, 8, dsdt);
    builder.sum(place);
    place
}

fn boot_architecture(spec: &AcpiSpec) -> u16 {
    let keyboard = if spec.keyboard { BOOT_8042 } else { 0 };
    let vga = if spec.vga { 0 } else { BOOT_NO_VGA };
    BOOT_LEGACY_DEVICES | keyboard | vga
}

fn flags(spec: &AcpiSpec) -> u32 {
    let many = if spec.processors.len() > FLAT_LOGICAL_MOST { FLAG_FORCE_PHYSICAL_APIC } else { 0 };
    FLAG_WBINVD
        | FLAG_PROC_C1
        | FLAG_NO_SLEEP_BUTTON
        | FLAG_NO_FIXED_RTC_WAKE
        | FLAG_RESET_REG
        | FLAG_USE_PLATFORM_CLOCK
        | many
}

/// MADT structure types (table 5.21).
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_NMI: u8 = 10;
const ENABLED: u32 = 1;
/// Active high, level triggered (table 5.26).
const HIGH_LEVEL: u16 = 0x000d;
/// ISA interrupts that PCI devices and the SCI use.
const LEVEL_INTERRUPTS: [u8; 4] = [5, 9, 10, 11];
/// The first local APIC identifier that only an x2APIC has.
const FIRST_X2APIC: u32 = 255;

/// Multiple APIC description table (5.2.12), behind its header.
pub(super) fn madt(spec: &AcpiSpec) -> Vec<u8> {
    const PCAT_COMPATIBLE: u32 = 1;
    let mut bytes = [(LOCAL_APIC_START as u32).to_le_bytes(), PCAT_COMPATIBLE.to_le_bytes()].concat();
    for (uid, processor) in (0u32..).zip(&spec.processors) {
        bytes.extend(local_apic(uid, processor));
    }
    bytes.extend([IO_APIC, 12, 0, 0]);
    bytes.extend((IOAPIC_START as u32).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    // The timer's interrupt arrives at pin 2.
    bytes.extend(source_override(0, 2, 0));
    bytes.extend(LEVEL_INTERRUPTS.iter().flat_map(|irq| source_override(*irq, (*irq).into(), HIGH_LEVEL)));
    bytes.extend([LOCAL_APIC_NMI, 6, 0xff, 0, 0, 1]);
    if spec.processors.iter().any(|processor| processor.apic_id >= FIRST_X2APIC) {
        bytes.extend([LOCAL_X2APIC_NMI, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    bytes
}

fn local_apic(uid: u32, processor: &Processor) -> Vec<u8> {
    let flags = if processor.present { ENABLED } else { 0 }.to_le_bytes();
    let id = processor.apic_id;
    if id < FIRST_X2APIC && uid < FIRST_X2APIC {
        [&[LOCAL_APIC, 8, uid as u8, id as u8][..], &flags].concat()
    } else {
        [&[LOCAL_X2APIC, 16, 0, 0][..], &id.to_le_bytes(), &flags, &uid.to_le_bytes()].concat()
    }
}

fn source_override(irq: u8, pin: u32, flags: u16) -> Vec<u8> {
    [&[SOURCE_OVERRIDE, 10, 0, irq][..], &pin.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Windows ACPI emulated devices table: the PM timer needs to be read once only.
pub(super) fn waet() -> Vec<u8> {
    const PM_TIMER_GOOD: u32 = 1 << 1;
    PM_TIMER_GOOD.to_le_bytes().to_vec()
}
