//! One short step for each kind of device: make it, wire it, put it where the plan says.

use std::sync::Arc;

use rhea_block::Image;
use rhea_devices::block_errors::ErrorPolicy;
use rhea_devices::block_stats::BlockStats;
use rhea_devices::chardev::CharBackend;
use rhea_devices::fw_cfg::FwCfg;
use rhea_devices::irq::{IrqLine, WiredOr};
use rhea_devices::legacy::LegacyChip;
use rhea_devices::legacy::cmos::{Cmos, CmosLayout};
use rhea_devices::legacy::debug::{DebugConsole, DebugExit, SystemPorts};
use rhea_devices::legacy::i8042::I8042;
use rhea_devices::legacy::pvpanic::Pvpanic;
use rhea_devices::legacy::serial::Serial;
use rhea_devices::lifecycle::Lifecycle;
use rhea_devices::pci::host::{CONFIG_PORT_COUNT, CONFIG_PORTS};
use rhea_devices::pci::hotplug::PciHotplug;
use rhea_devices::pci::i440fx::I440fx;
use rhea_devices::pci::piix3::Piix3;
use rhea_devices::pci::piix4_pm::{Piix4Pm, PmOptions};
use rhea_devices::pci::{Bdf, PciFunction};
use rhea_devices::scsi::{Reservations, TrayMoved};
use rhea_devices::testdev::isa::PcTestDevice;
use rhea_devices::testdev::pci::PciTestDevice;
use rhea_devices::virtio::device::VirtioDevice;
use rhea_devices::virtio::iothread::{IoThread, Placement};
use rhea_devices::virtio::rng::{RngConfig, RngSource, VirtioRng};
use rhea_devices::virtio::transport::{Connections, VirtioPci, VirtioPciConfig};

use super::flash::Placed;
use super::plan::{IsaDevice, IsaPlan, PLUGGABLE_SLOTS, PciDevice, PciPlan, Plan, RngPlan, StoragePlan, VirtioPlan};
use super::rom::Rom;
use super::{BoardError, Wiring};

mod storage;

pub use storage::Drives;

/// The ISA interrupts of the fixed chips.
mod interrupt {
    pub(super) const KEYBOARD: usize = 1;
    pub(super) const CLOCK: usize = 8;
    pub(super) const SCI: usize = 9;
    pub(super) const MOUSE: usize = 12;
    pub(super) const IDE: [usize; 2] = [14, 15];
}

/// Where the board's own functions are.
pub(super) mod slot {
    use rhea_devices::pci::Bdf;
    pub(in crate::board) const HOST: Bdf = Bdf::new(0, 0, 0);
    pub(in crate::board) const ISA: Bdf = Bdf::new(0, 1, 0);
    pub(in crate::board) const IDE: Bdf = Bdf::new(0, 1, 1);
    pub(in crate::board) const POWER: Bdf = Bdf::new(0, 1, 3);
}

/// What the host gives to devices: ends of character devices, disks, threads, and ears for errors.
pub trait Backends {
    /// The character device with this id.
    ///
    /// # Errors
    /// When there is none, or a device has it.
    fn chardev(&self, id: &str) -> Result<Arc<dyn CharBackend>, BoardError>;
    /// The block node that the plan names, for the device `id` to use; nothing for an empty drive.
    ///
    /// # Errors
    /// When there is none, it is in use, or cannot be used as the plan asks.
    fn image(&self, plan: &StoragePlan, id: &str) -> Result<Option<Arc<dyn Image>>, BoardError>;

    /// Who reserved what of the disk `id`, whose image was asked for: one for all disks on SCSI that show that.
    fn reservations(&self, id: &str) -> Arc<Reservations>;
    /// The counters of a disk.
    fn stats(&self, id: &str) -> Arc<BlockStats>;
    /// What to do about a disk's errors.
    fn errors(&self, plan: &StoragePlan, id: &str) -> ErrorPolicy;
    /// Who is told when the guest moves the tray of drive `id`; must not wait.
    fn tray(&self, id: &str) -> Box<dyn Fn(TrayMoved) + Send + Sync>;
    /// The thread of an `iothread` object.
    ///
    /// # Errors
    /// When there is none.
    fn iothread(&self, id: &str) -> Result<Arc<IoThread>, BoardError>;
}

/// The interrupts of the ISA bus, each of which several chips may pull.
pub(super) struct IsaInterrupts([Arc<WiredOr>; 16]);

impl IsaInterrupts {
    pub(super) fn new(pin: impl Fn(u32) -> Arc<dyn IrqLine>) -> Self {
        let mut number = 0;
        Self(std::array::from_fn(|_| {
            let wire = WiredOr::new(pin(number));
            number += 1;
            wire
        }))
    }

    pub(super) fn tap(&self, number: usize) -> Arc<dyn IrqLine> {
        self.0.get(number).map_or_else(|| Arc::new(rhea_devices::irq::Unconnected) as Arc<dyn IrqLine>, WiredOr::tap)
    }

    /// One for each that PCI can be led to.
    pub(super) fn for_pci(&self) -> [Option<Arc<dyn IrqLine>>; 16] {
        std::array::from_fn(|number| Some(self.tap(number)))
    }
}

/// Adds devices to a board that is being built.
pub(super) struct Attacher<'a> {
    pub(super) wiring: &'a Wiring,
    pub(super) isa: &'a IsaInterrupts,
    pub(super) backends: &'a dyn Backends,
    pub(super) devices: Vec<Arc<dyn Lifecycle>>,
    pub(super) drives: Drives,
}

impl Attacher<'_> {
    fn chip<C: LegacyChip + 'static>(&mut self, chip: C) -> Result<(), BoardError> {
        self.shared_chip(Arc::new(chip)).map(drop)
    }

    /// A chip that the board keeps a hold on.
    fn shared_chip<C: LegacyChip + 'static>(&mut self, chip: Arc<C>) -> Result<Arc<C>, BoardError> {
        for range in Arc::clone(&chip).ports() {
            let inserted = self.wiring.spaces.insert_ports(range.base, range.len, range.device);
            inserted.map_err(BoardError::device(chip.name()))?;
        }
        self.devices.push(Arc::clone(&chip) as Arc<dyn Lifecycle>);
        Ok(chip)
    }

    fn function<F: PciFunction + 'static>(&mut self, bdf: Bdf, function: Arc<F>) -> Result<(), BoardError> {
        self.wiring.pci.insert(bdf, Arc::clone(&function) as Arc<dyn PciFunction>)?;
        self.devices.push(function);
        Ok(())
    }

    /// The configuration ports, and the chips without which the board is none.
    pub(super) fn attach_chipset(
        &mut self,
        host_bridge: Arc<I440fx>,
        isa_bridge: Arc<Piix3>,
    ) -> Result<Arc<Piix4Pm>, BoardError> {
        let ports = Arc::clone(&self.wiring.pci) as Arc<dyn rhea_devices::bus::BusDevice>;
        self.wiring.spaces.insert_ports(CONFIG_PORTS as u16, CONFIG_PORT_COUNT as u16, ports)?;
        self.devices.push(Arc::clone(&self.wiring.pci) as Arc<dyn Lifecycle>);
        self.function(slot::HOST, host_bridge)?;
        self.function(slot::ISA, isa_bridge)?;
        // Sleep is not offered: the tables have no S3 and S4 either.
        let options = PmOptions { disable_s3: true, disable_s4: true, ..PmOptions::default() };
        let sci = self.isa.tap(interrupt::SCI);
        let power = Arc::new(Piix4Pm::new(slot::POWER, options, Arc::clone(&self.wiring.clock), sci));
        self.function(slot::POWER, Arc::clone(&power))?;
        Ok(power)
    }

    /// The keyboard controller, the clock and the odd ports that every PC has.
    pub(super) fn attach_fixed_chips(&mut self, plan: &Plan) -> Result<Arc<Cmos>, BoardError> {
        self.chip(I8042::new(self.isa.tap(interrupt::KEYBOARD), self.isa.tap(interrupt::MOUSE)))?;
        let present = plan.processors.iter().filter(|p| p.1).count();
        let memory = CmosLayout {
            below_4g: plan.layout.below_4g(),
            above_4g: plan.layout.above_4g(),
            cpus: u8::try_from(present).unwrap_or(u8::MAX),
            boot_order: plan.boot.first_order(),
            check_floppy_signature: plan.boot.check_floppy,
        };
        let irq = self.isa.tap(interrupt::CLOCK);
        let cmos = self.shared_chip(Arc::new(Cmos::new(plan.rtc, &memory, Arc::clone(&self.wiring.clock), irq)))?;
        self.chip(SystemPorts::new())?;
        Ok(cmos)
    }

    /// By which the guest hears of functions that come and go.
    pub(super) fn attach_hotplug(&mut self) -> Result<Arc<PciHotplug>, BoardError> {
        self.shared_chip(Arc::new(PciHotplug::new(PLUGGABLE_SLOTS)))
    }

    /// Through which firmware and guests read what the user asked for.
    pub(super) fn attach_fw_cfg(&mut self, device: Arc<FwCfg>) -> Result<(), BoardError> {
        self.shared_chip(device).map(drop)
    }

    /// Where the firmware is seen below 4 GiB: its ROM, or its flash.
    pub(super) fn attach_firmware(&mut self, rom: Option<Arc<Rom>>, chips: &[Placed]) -> Result<(), BoardError> {
        if let (Some(rom), []) = (rom, chips) {
            self.wiring.spaces.memory.insert(rom.base(), rom.len(), rom)?;
        }
        for Placed { base, chip } in chips {
            self.wiring.spaces.memory.insert(*base, chip.size(), Arc::clone(chip) as _)?;
            self.devices.push(Arc::clone(chip) as Arc<dyn Lifecycle>);
        }
        Ok(())
    }

    pub(super) fn attach_isa(&mut self, plan: &IsaPlan) -> Result<(), BoardError> {
        match &plan.device {
            IsaDevice::Serial { base, irq, chardev, .. } => {
                let backend = match chardev {
                    Some(chardev) => self.backends.chardev(chardev)?,
                    None => crate::chardev::nowhere(),
                };
                let irq = self.isa.tap(usize::from(*irq));
                self.chip(Serial::new(plan.id.clone(), *base, irq, backend, Arc::clone(&self.wiring.clock)))
            }
            IsaDevice::DebugExit { base, size } => {
                self.chip(DebugExit::new(*base, *size).map_err(BoardError::device(&plan.id))?)
            }
            IsaDevice::DebugConsole { base, readback, chardev } => {
                self.chip(DebugConsole::new(*base, *readback, self.backends.chardev(chardev)?))
            }
            IsaDevice::Pvpanic { port, events } => self.chip(Pvpanic::new(*port, *events)),
            IsaDevice::Test => self.isa_test_device(),
        }
    }

    /// Ports, memory and lines for test programs.
    fn isa_test_device(&mut self) -> Result<(), BoardError> {
        let device = PcTestDevice::new(Arc::clone(&self.wiring.ram), |line| self.isa.tap(line));
        self.wiring.spaces.memory.insert(PcTestDevice::MEMORY_BASE, PcTestDevice::MEMORY_LEN, device.memory())?;
        self.chip(device)
    }

    pub(super) fn attach_pci(&mut self, plan: &PciPlan) -> Result<(), BoardError> {
        match &plan.device {
            PciDevice::Blk(blk) => self.virtio(plan, &blk.virtio, self.blk(&plan.id, blk)?),
            PciDevice::Scsi(scsi) => {
                let adapter = self.scsi(&plan.id, scsi)?;
                self.virtio(plan, &scsi.virtio, adapter)
            }
            PciDevice::Rng(rng) => self.virtio(plan, &rng.virtio, self.rng(&plan.id, rng)?),
            PciDevice::Test { membar } => {
                let device = PciTestDevice::new(&plan.id, plan.bdf, plan.multifunction, *membar);
                self.function(plan.bdf, device.map_err(BoardError::device(&plan.id))?)
            }
        }
    }

    /// A virtio device behind its PCI function.
    fn virtio(&mut self, plan: &PciPlan, virtio: &VirtioPlan, device: Box<dyn VirtioDevice>) -> Result<(), BoardError> {
        let config = VirtioPciConfig {
            interfaces: virtio.interfaces,
            vectors: virtio.vectors,
            multifunction: plan.multifunction,
            indirect_desc: virtio.indirect_desc,
            event_idx: virtio.event_idx,
            queue_reset: virtio.queue_reset,
            ..VirtioPciConfig::new(&*plan.id, plan.bdf)
        };
        let to = Connections {
            memory: Arc::clone(&self.wiring.ram),
            line: self.wiring.intx.line(plan.bdf.device(), 1),
            msi: Arc::clone(&self.wiring.msi),
        };
        let function = VirtioPci::new(config, device, to).map_err(BoardError::device(&plan.id))?;
        self.function(plan.bdf, function)
    }

    fn rng(&self, id: &str, plan: &RngPlan) -> Result<Box<dyn VirtioDevice>, BoardError> {
        let source = match &plan.filename {
            Some(path) => RngSource::open(path).map_err(BoardError::device(id))?,
            None => RngSource::Builtin,
        };
        let config = RngConfig { id: id.to_owned(), rate: plan.rate };
        Ok(VirtioRng::new(config, source, Placement::PerQueue).map_err(BoardError::device(id))?)
    }
}
