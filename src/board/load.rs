//! A direct boot: the kernel and the tables that describe the machine, put into guest memory.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{kvm_regs, kvm_sregs};
use rhea_arch::x86_64::acpi::{self, AcpiSpec};
use rhea_arch::x86_64::boot::{Images, Options};
use rhea_arch::x86_64::layout::{BIOS_AREA_START, BIOS_SEGMENT_START, HIGH_MEMORY_START};
use rhea_arch::x86_64::smbios::SmbiosSpec;
use rhea_devices::memory::GuestRam;

use super::BoardError;
use super::plan::{KernelPlan, Plan};

/// ACPI tables from here to the BIOS segment, where SMBIOS follows: both within what the memory map reserves.
const ACPI_AREA: Range<u64> = BIOS_AREA_START..BIOS_SEGMENT_START;
const SMBIOS_AREA: Range<u64> = BIOS_SEGMENT_START..HIGH_MEMORY_START;

/// The files of a direct boot and what the guest is told of its machine; kept for resets.
pub(super) struct Kernel {
    plan: KernelPlan,
    images: Images,
    acpi: Option<AcpiSpec>,
    smbios: SmbiosSpec,
    loaded: Mutex<Option<String>>,
}

impl Kernel {
    /// Opens the files.
    pub(super) fn open(kernel: &KernelPlan, plan: &Plan, acpi: Option<AcpiSpec>) -> Result<Self, BoardError> {
        let images = Images::open(&kernel.kernel, kernel.initrd.as_deref())?;
        Ok(Self { plan: kernel.clone(), images, acpi, smbios: plan.smbios.clone(), loaded: Mutex::default() })
    }

    /// Loads everything; gives the registers that the first vCPU starts with, made from `sregs`.
    pub(super) fn load(
        &self,
        ram: &GuestRam,
        plan_layout: &rhea_arch::x86_64::layout::MemoryLayout,
        sregs: &mut kvm_sregs,
    ) -> Result<kvm_regs, BoardError> {
        let rsdp = match &self.acpi {
            Some(spec) => Some(acpi::build(spec).place(ram, ACPI_AREA).map_err(|e| BoardError::Tables(Box::new(e)))?),
            None => None,
        };
        let smbios = rhea_arch::x86_64::smbios::build(&self.smbios).map_err(|e| BoardError::Tables(Box::new(e)))?;
        smbios.place(ram, SMBIOS_AREA).map_err(|e| BoardError::Tables(Box::new(e)))?;
        let mut options = Options::new(plan_layout, &self.plan.cmdline);
        options.rsdp = rsdp.map(|placed| placed.rsdp);
        options.unpack = self.plan.unpack;
        options.elf_entry = self.plan.elf_entry;
        let mut before = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        options.fresh_memory = before.is_none();
        let loaded = self.images.load(ram, &options)?;
        log::info!("loaded {}", loaded.description);
        *before = Some(loaded.description);
        loaded.entry.registers(ram, sregs).map_err(|e| BoardError::Tables(Box::new(e)))
    }

    /// What was loaded, and how.
    pub(super) fn description(&self) -> String {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }
}
