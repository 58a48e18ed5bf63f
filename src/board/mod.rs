//! The board: devices made and wired to buses, interrupts and memory, one short `attach_*` for each kind.
//!
//! A [`plan::Plan`] says what there is and where; nothing here decides, and nothing is refused that a plan could have
//! refused. The board knows every room (arch, devices, block) and is known by the machine only.

pub mod accel;
pub mod attach;
mod bars;
mod build;
mod flash;
mod fw_cfg;
mod hotplug;
mod irq;
mod linux_rom;
mod load;
pub mod memory;
pub mod plan;
mod rom;
mod shadow;
pub mod space;

use std::fmt::Write as _;
use std::sync::Arc;

use kvm_bindings::{kvm_regs, kvm_sregs};
use rhea_arch::x86_64::boot::BootError;
use rhea_arch::x86_64::layout::MemoryLayout;
use rhea_devices::bus::Effect;
use rhea_devices::clock::SharedClock;
use rhea_devices::fw_cfg::FwCfg;
use rhea_devices::irq::MsiSink;
use rhea_devices::legacy::cmos::Cmos;
use rhea_devices::lifecycle::{DeviceError, Lifecycle};
use rhea_devices::memory::GuestRam;
use rhea_devices::pci::host::{PciError, PciHost};
use rhea_devices::pci::hotplug::PciHotplug;
use rhea_devices::pci::intx::PirqRouter;
use rhea_devices::pci::piix4_pm::Piix4Pm;
use rhea_devices::pci::{Bdf, PciFunction, Space};
use thiserror::Error;

use crate::vcpu::Platform;
use attach::IsaInterrupts;
use load::Kernel;
use shadow::MemoryMap;
use space::AddressSpaces;

/// The ISA interrupts that a direct boot leads PCI's to.
pub const PCI_INTERRUPTS: [u8; 2] = [10, 11];

/// Why the board cannot be built or started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BoardError {
    /// Guest memory.
    #[error(transparent)]
    Ram(#[from] memory::RamError),
    /// KVM's virtual machine.
    #[error("KVM")]
    Vm(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A device refuses its configuration, or the host what it needs.
    #[error("{}", plan::Called(id))]
    Device {
        /// `id=` of the device, or a name made up.
        id: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two devices want one PCI address.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Two devices want the same ports.
    #[error(transparent)]
    Ports(#[from] rhea_devices::bus::Overlap),
    /// The kernel, its initrd or command line.
    #[error("cannot boot")]
    Boot(#[from] BootError),
    /// The tables handed to the guest do not fit.
    #[error("cannot write the firmware tables into guest memory")]
    Tables(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The firmware's image.
    #[error(transparent)]
    Rom(#[from] rom::RomError),
    /// The firmware's flash.
    #[error("the firmware's flash has {0} bytes together; at most 8 MiB are possible")]
    FirmwareSize(u64),
    /// What firmware is told.
    #[error("cannot hand data to firmware")]
    FwCfg(#[from] rhea_devices::fw_cfg::FwCfgError),
    /// The hypervisor does not take memory.
    #[error("KVM does not take guest memory")]
    Memory(#[from] rhea_arch::kvm::MemoryError),
    /// A device did not start.
    #[error(transparent)]
    Start(#[from] DeviceError),
}

impl BoardError {
    /// Wraps what a device's constructor said.
    pub(crate) fn device<E: std::error::Error + Send + Sync + 'static>(id: &str) -> impl FnOnce(E) -> Self {
        let id = id.to_owned();
        move |source| Self::Device { id, source: Box::new(source) }
    }
}

/// What every device is wired to.
struct Wiring {
    ram: Arc<GuestRam>,
    clock: SharedClock,
    msi: Arc<dyn MsiSink>,
    spaces: Arc<AddressSpaces>,
    pci: Arc<PciHost>,
    intx: Arc<PirqRouter>,
}

/// The devices of a machine, wired.
pub struct Board {
    wiring: Wiring,
    memory: Arc<MemoryMap>,
    layout: MemoryLayout,
    kernel: Option<Kernel>,
    power: Arc<Piix4Pm>,
    hotplug: Arc<PciHotplug>,
    isa: IsaInterrupts,
    cmos: Arc<Cmos>,
    fw_cfg: Arc<FwCfg>,
    tables: Option<Arc<fw_cfg::Tables>>,

    /// In the order in which they start, pause and drain.
    devices: Vec<Arc<dyn Lifecycle>>,
    drives: attach::Drives,
}

impl Board {
    /// Every device, in the order in which they start, pause and drain.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Lifecycle>] {
        &self.devices
    }

    /// Disks and drives that the host can change.
    #[must_use]
    pub fn drives(&self) -> &attach::Drives {
        &self.drives
    }

    /// Starts the devices' threads.
    ///
    /// # Errors
    /// The first device that cannot start.
    pub fn start(&self) -> Result<(), BoardError> {
        self.devices.iter().try_for_each(|device| device.start()).map_err(BoardError::from)
    }

    /// What a vCPU reaches.
    #[must_use]
    pub fn platform(&self) -> Arc<dyn Platform> {
        Arc::new(BoardPlatform {
            spaces: Arc::clone(&self.wiring.spaces),
            pci: Arc::clone(&self.wiring.pci),
            memory: Arc::clone(&self.memory),
            tables: self.tables.clone(),
        })
    }

    /// Puts the kernel and the firmware's tables into guest memory and does what firmware would have done; gives the
    /// first vCPU's registers, made from what it has after power-on. Without a kernel there is nothing to load.
    ///
    /// # Errors
    /// When something does not fit, or a file cannot be read any more.
    pub fn load(&self, mut sregs: kvm_sregs) -> Result<Option<(kvm_regs, kvm_sregs)>, BoardError> {
        let Some(kernel) = &self.kernel else { return Ok(None) };
        self.configure_pci();
        self.configure_keyboard();
        let regs = kernel.load(&self.wiring.ram, &self.layout, &mut sregs)?;
        Ok(Some((regs, sregs)))
    }

    /// Maps every PCI function where it decodes now: after power-on and reset.
    pub fn remap_all(&self) {
        for (bdf, function) in self.wiring.pci.functions() {
            self.wiring.spaces.remap(bdf, || function.regions());
        }
        self.memory.refresh();
        if let Some(tables) = &self.tables {
            tables.refresh();
        }
    }

    /// For the next start, firmware is told of the devices as they are now, and the order of drives that was for the
    /// first one only (`-boot once=`) gives way.
    ///
    /// # Errors
    /// When there are more devices than can be told of.
    pub fn tell_firmware(&self, boot: &plan::BootPlan) -> Result<(), BoardError> {
        for (index, value) in boot.cmos_order() {
            self.cmos.set_byte(index, value);
        }
        fw_cfg::tell(&self.fw_cfg, boot)
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.power.press_power_button();
    }

    /// The PCI functions, ascending by address.
    #[must_use]
    pub fn pci_functions(&self) -> Vec<(Bdf, Arc<dyn PciFunction>)> {
        self.wiring.pci.functions()
    }

    /// What was put into guest memory at start.
    #[must_use]
    pub fn loaded(&self) -> Option<String> {
        self.kernel.as_ref().map(Kernel::description)
    }

    /// Which device answers where: a line a range.
    pub fn describe_ranges(&self, text: &mut String) {
        for (start, size) in self.layout.ram_ranges() {
            let _ = writeln!(text, "  {:016x}-{:016x} ram", start.0, start.0 + size - 1);
        }
        for (bdf, function) in self.pci_functions() {
            for region in function.regions() {
                let kind = if region.space == Space::Io { "i/o" } else { "mmio" };
                let end = region.base + (region.len - 1);
                let _ = writeln!(text, "  {:016x}-{end:016x} {kind} {} ({bdf})", region.base, function.name());
            }
        }
    }

    /// Reads ports as a vCPU does, from `port` on.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        self.wiring.spaces.io.read(u64::from(port), data);
    }

    /// Guest memory.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.wiring.ram
    }
}

/// The address spaces as a vCPU uses them.
struct BoardPlatform {
    spaces: Arc<AddressSpaces>,
    pci: Arc<PciHost>,
    memory: Arc<MemoryMap>,
    tables: Option<Arc<fw_cfg::Tables>>,
}

impl Platform for BoardPlatform {
    fn read_port(&self, port: u16, data: &mut [u8]) {
        self.spaces.io.read(u64::from(port), data);
    }

    fn write_port(&self, port: u16, data: &[u8]) -> Effect {
        self.spaces.io.write(u64::from(port), data)
    }

    fn read_memory(&self, address: u64, data: &mut [u8]) {
        self.spaces.memory.read(address, data);
    }

    fn write_memory(&self, address: u64, data: &[u8]) -> Effect {
        self.spaces.memory.write(address, data)
    }

    fn remap(&self, bdf: Bdf) {
        self.spaces.remap(bdf, || self.pci.get(bdf).map(|f| f.regions()).unwrap_or_default());
        if bdf == attach::slot::HOST {
            self.remap_memory();
        }
        if let Some(tables) = self.tables.as_ref().filter(|_| bdf == attach::slot::POWER) {
            tables.refresh();
        }
    }

    fn eject(&self, slots: u32) {
        for (bdf, _) in self.pci.functions() {
            if slots >> bdf.device() & 1 == 1 && self.pci.remove(bdf).is_some() {
                self.spaces.remap(bdf, Vec::new);
            }
        }
    }

    fn remap_memory(&self) {
        self.memory.refresh();
    }
}
