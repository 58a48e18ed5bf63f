//! What firmware, and the guest's driver for it, can read of the machine.
//!
//! Names and forms are QEMU's (`docs/specs/fw_cfg`, and SeaBIOS's `src/fw/paravirt.c` as their reader). The tables are
//! the same that a direct boot puts into memory, handed over by the loader's script instead.

use std::path::Path;
use std::sync::Arc;

use rhea_arch::x86_64::acpi::{self, AcpiSpec};
use rhea_arch::x86_64::boot::handover::{self, Handover};
use rhea_arch::x86_64::layout::{KVM_IDENTITY_MAP_START, KVM_PAGES_END};
use rhea_arch::x86_64::smbios::{self, SmbiosSpec};
use rhea_devices::fw_cfg::{FwCfg, FwCfgBuilder, key};
use rhea_devices::memory::GuestRam;
use rhea_devices::pci::piix4_pm::Piix4Pm;

use super::BoardError;
use super::linux_rom;
use super::plan::{BootPlan, KERNEL_ROM, KernelPlan, Plan};

/// States S1 to S4: the top bit says that a state is there. S3 and S4 are not; the low bits are the sleep types that
/// the tables give them.
const SYSTEM_STATES: [u8; 6] = [0x80, 0, 0, 1, 2, 0x80];
/// Kinds of memory in `etc/e820` (ACPI 6.5, 15.1).
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Files that follow what is plugged and unplugged.
const BOOT_ORDER: &str = "bootorder";
const BIOS_GEOMETRY: &str = "bios-geometry";

/// ACPI tables as firmware is given them. It chooses where the power management registers lie (SeaBIOS 0x600, OVMF
/// 0xb000) before it reads the tables, and they must say the same.
pub(super) struct Tables {
    spec: AcpiSpec,
    power: Arc<Piix4Pm>,
    device: Arc<FwCfg>,
}

impl Tables {
    pub(super) fn new(spec: AcpiSpec, power: &Arc<Piix4Pm>, device: &Arc<FwCfg>) -> Self {
        Self { spec, power: Arc::clone(power), device: Arc::clone(device) }
    }

    /// Describes the machine as it is now.
    pub(super) fn refresh(&self) {
        let base = self.power.base().and_then(|base| u16::try_from(base).ok());
        let Some(pm_base) = base else { return };
        for blob in acpi::build(&AcpiSpec { pm_base, ..self.spec.clone() }).blobs {
            // The files are there, and as long as before: only numbers in them change.
            if let Err(error) = self.device.replace_file(blob.name, blob.bytes) {
                log::warn!("firmware keeps the tables it has: {error}");
            }
        }
    }
}

/// Tells firmware of the devices as they are now.
pub(super) fn tell(device: &FwCfg, boot: &BootPlan) -> Result<(), BoardError> {
    device.replace_file(BOOT_ORDER, boot.bootorder())?;
    device.replace_file(BIOS_GEOMETRY, boot.bios_geometry())?;
    Ok(())
}

/// Collects everything.
pub(super) fn build(plan: &Plan, acpi: Option<&AcpiSpec>, ram: Arc<GuestRam>) -> Result<Arc<FwCfg>, BoardError> {
    let mut items = FwCfgBuilder::new();
    numbers(&mut items, plan)?;
    boot(&mut items, plan)?;
    if let (Some(kernel), Some(_)) = (&plan.kernel, &plan.firmware) {
        hand_over(&mut items, kernel, plan.layout.below_4g())?;
    }
    for (name, rom) in &plan.option_roms {
        items.file(&format!("genroms/{name}"), rom.as_slice())?;
    }
    if plan.firmware.is_some() {
        if let Some(spec) = acpi {
            let tables = acpi::build(spec);
            items.file("etc/table-loader", tables.loader_script())?;
            tables.blobs.into_iter().try_for_each(|blob| items.file(blob.name, blob.bytes).map(drop))?;
        }
        // Firmware describes itself.
        let described = SmbiosSpec { describe_firmware: false, ..plan.smbios.clone() };
        let identity = smbios::build(&described).map_err(|e| BoardError::Tables(Box::new(e)))?;
        items.file("etc/smbios/smbios-anchor", identity.anchor(0))?;
        items.file("etc/smbios/smbios-tables", identity.tables())?;
    }
    for (name, content) in &plan.files {
        items.file(name, content.as_slice())?;
    }
    Ok(items.build(ram))
}

fn numbers(items: &mut FwCfgBuilder, plan: &Plan) -> Result<(), BoardError> {
    let present = plan.processors.iter().filter(|processor| processor.1).count();
    let limit = plan.processors.iter().map(|processor| processor.0).max().unwrap_or(0).saturating_add(1);
    let narrow = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    items.item(key::UUID, plan.uuid)?;
    items.u64(key::RAM_SIZE, plan.layout.ram())?;
    // Firmware then talks on the first serial port.
    items.u16(key::NO_GRAPHIC, 1)?;
    items.u16(key::CPUS, narrow(present))?;
    // APIC ids rather than processors: firmware waits for ids below it.
    items.u16(key::MAX_CPUS, u16::try_from(limit).unwrap_or(u16::MAX))?;
    items.u32(key::IRQ0_OVERRIDE, 1)?;
    // No nodes: a count of zero, and for each APIC id its node.
    items.item(key::NUMA, vec![0; 8 * (1 + usize::try_from(limit).unwrap_or(0))])?;
    items.file("etc/e820", e820(plan))?;
    items.file("etc/system-states", SYSTEM_STATES)?;
    Ok(())
}

fn boot(items: &mut FwCfgBuilder, plan: &Plan) -> Result<(), BoardError> {
    let boot = &plan.boot;
    items.u16(key::BOOT_MENU, boot.menu.into())?;
    items.file(BOOT_ORDER, boot.bootorder())?;
    items.file(BIOS_GEOMETRY, boot.bios_geometry())?;
    items.file("etc/boot-fail-wait", boot.fail_wait.to_le_bytes())?;
    if let Some(wait) = boot.menu_wait {
        items.file("etc/boot-menu-wait", wait.to_le_bytes())?;
    }
    Ok(())
}

/// The kernel for firmware to load: OVMF by itself, SeaBIOS with the option ROM.
fn hand_over(items: &mut FwCfgBuilder, plan: &KernelPlan, below_4g: u64) -> Result<(), BoardError> {
    let initrd = plan.initrd.as_deref().map(Path::new);
    let kernel = Handover::read(&plan.kernel, initrd, &plan.cmdline, below_4g)?;
    let rom = linux_rom::image(&kernel);
    let parts = [
        ([key::SETUP_ADDR, key::SETUP_SIZE, key::SETUP_DATA], handover::SETUP_ADDRESS, kernel.setup),
        ([key::KERNEL_ADDR, key::KERNEL_SIZE, key::KERNEL_DATA], handover::KERNEL_ADDRESS, kernel.kernel),
        ([key::CMDLINE_ADDR, key::CMDLINE_SIZE, key::CMDLINE_DATA], handover::CMDLINE_ADDRESS, kernel.cmdline),
        ([key::INITRD_ADDR, key::INITRD_SIZE, key::INITRD_DATA], kernel.initrd_address, kernel.initrd),
    ];
    for ([address_key, size_key, data_key], address, bytes) in parts {
        items.u32(address_key, address)?;
        items.u32(size_key, u32::try_from(bytes.len()).unwrap_or(u32::MAX))?;
        items.item(data_key, bytes)?;
    }
    items.file(&format!("genroms/{KERNEL_ROM}"), rom)?;
    Ok(())
}

/// Memory that is there, and memory to leave alone: start and length in 64 bits, kind in 32.
fn e820(plan: &Plan) -> Vec<u8> {
    let reserved = (KVM_IDENTITY_MAP_START, KVM_PAGES_END - KVM_IDENTITY_MAP_START, RESERVED);
    let ram = plan.layout.ram_ranges().into_iter().map(|(start, size)| (start.0, size, RAM));
    let entry = |(start, size, kind): (u64, u64, u32)| {
        [&start.to_le_bytes()[..], &size.to_le_bytes(), &kind.to_le_bytes()].concat()
    };
    std::iter::once(reserved).chain(ram).flat_map(entry).collect()
}
