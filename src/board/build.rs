//! From a plan to a board.

use std::sync::Arc;

use rhea_arch::x86_64::acpi::{AcpiSpec, Processor, SerialPort};
use rhea_arch::x86_64::layout::{OPTION_ROM_START, ports};
use rhea_devices::clock::SharedClock;
use rhea_devices::ide::OPERAND_PORTS;
use rhea_devices::memory::GuestRam;
use rhea_devices::pci::host::PciHost;
use rhea_devices::pci::i440fx::I440fx;
use rhea_devices::pci::intx::{PirqRouter, pirq_of};
use rhea_devices::pci::piix3::Piix3;
use rhea_devices::pci::{Bdf, PciFunction};

use super::accel::Accelerator;
use super::attach::{Attacher, Backends, Drives, IsaInterrupts, slot};
use super::bars::Assigner;
use super::flash::{self, Placed};
use super::fw_cfg;
use super::load::Kernel;
use super::plan::{FirmwarePlan, IsaDevice, PLUGGABLE_SLOTS, Plan};
use super::rom::Rom;
use super::shadow::{MemoryMap, SHADOW_LEN, Shadow};
use super::space::AddressSpaces;
use super::{Board, BoardError, Wiring};

/// PIIX3 PIRQ route registers, and the interrupts SeaBIOS leads the four wires to.
const PIRQ_ROUTE: u8 = 0x60;
const PIRQ_ROUTES: [u8; 4] = [10, 10, 11, 11];
/// i440FX: the registers that make everything below 1 MiB RAM (82441FX, 3.2.16), and their values for it.
const PAM: u8 = 0x59;
const ALL_RAM: [u8; 7] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
/// PIIX4: base of the power management registers and what enables it (82371AB, 7.1.18 and 7.1.24).
const PM_BASE: u8 = 0x40;
const PM_MISC: u8 = 0x80;
const PM_ENABLE: u8 = 1;

/// The keyboard controller: its ports, the command that sets its command byte, and what SeaBIOS sets it to.
const I8042_DATA: u64 = 0x60;
const I8042_COMMAND: u64 = 0x64;
const WRITE_COMMAND_BYTE: u8 = 0x60;
const KEYBOARD_TRANSLATED: u8 = 0x61;

impl Board {
    /// Makes and wires every device and maps memory for the guest; nothing runs yet.
    ///
    /// # Errors
    /// The first device that cannot be made.
    pub fn build(
        plan: &Plan,
        accel: &Arc<dyn Accelerator>,
        ram: Arc<GuestRam>,
        clock: SharedClock,
        backends: &dyn Backends,
    ) -> Result<Self, BoardError> {
        let isa = IsaInterrupts::new(|gsi| accel.wire(gsi));
        let intx = PirqRouter::new(isa.for_pci());
        let isa_bridge = Arc::new(Piix3::new(Arc::clone(&intx)));
        let host_bridge = Arc::new(I440fx::new());
        let (rom, chips) = firmware(plan, backends)?;
        let shadow = Arc::new(Shadow::new(Arc::clone(&host_bridge), Arc::clone(&ram), rom.clone()));
        let memory = MemoryMap::new(Arc::clone(accel), Arc::clone(&shadow), &plan.ram.shares, chips.clone())?;
        let acpi = plan.acpi.then(|| describe(plan));
        let fw_cfg = fw_cfg::build(plan, acpi.as_ref(), Arc::clone(&ram))?;
        let wiring = Wiring {
            ram,
            clock,
            msi: accel.messages(),
            spaces: Arc::new(AddressSpaces::new(accel.doorbells())),
            pci: Arc::new(PciHost::new(isa_bridge.reset_control())),
            intx,
        };
        let mut attacher =
            Attacher { wiring: &wiring, isa: &isa, backends, devices: Vec::new(), drives: Drives::default() };
        let power = attacher.attach_chipset(host_bridge, isa_bridge)?;
        let cmos = attacher.attach_fixed_chips(plan)?;
        let hotplug = attacher.attach_hotplug()?;
        attacher.attach_fw_cfg(Arc::clone(&fw_cfg))?;
        cmos.describe_disks(attacher.attach_ide(&plan.ide)?);
        for (channel, (first, count)) in plan.ide.iter().zip(OPERAND_PORTS) {
            if channel.iter().any(Option::is_some) {
                accel.may_keep_writes(first, count);
            }
        }
        plan.isa.iter().try_for_each(|chip| attacher.attach_isa(chip))?;
        plan.pci.iter().try_for_each(|function| attacher.attach_pci(function))?;
        attacher.attach_firmware(rom, &chips)?;
        let Attacher { devices, drives, .. } = attacher;
        wiring.spaces.memory.insert(OPTION_ROM_START, SHADOW_LEN, shadow)?;
        let direct = plan.kernel.as_ref().filter(|_| plan.firmware.is_none());
        let kernel = direct.map(|kernel| Kernel::open(kernel, plan, acpi.clone())).transpose()?;
        let told = acpi.filter(|_| plan.firmware.is_some());
        let tables = told.map(|spec| Arc::new(fw_cfg::Tables::new(spec, &power, &fw_cfg)));
        Ok(Self {
            wiring,
            memory: Arc::new(memory),
            kernel,
            power,
            hotplug,
            isa,
            cmos,
            fw_cfg,
            tables,
            layout: plan.layout.clone(),
            devices,
            drives,
        })
    }

    /// What firmware would have done for the keyboard: the controller translates to scan code set 1, and its keyboard
    /// interrupts. Drivers keep what they find.
    pub(super) fn configure_keyboard(&self) {
        for (port, value) in [(I8042_COMMAND, WRITE_COMMAND_BYTE), (I8042_DATA, KEYBOARD_TRANSLATED)] {
            let _ = self.wiring.spaces.io.write(port, &[value]);
        }
    }

    /// What firmware would have done for PCI before it started the operating system.
    pub(super) fn configure_pci(&self) {
        let pci = &self.wiring.pci;
        if let Some(bridge) = pci.get(slot::HOST) {
            let _ = bridge.config_write(PAM, &ALL_RAM);
        }
        if let Some(bridge) = pci.get(slot::ISA) {
            for (register, route) in (PIRQ_ROUTE..).zip(PIRQ_ROUTES) {
                let _ = bridge.config_write(register, &[route]);
            }
        }
        if let Some(power) = pci.get(slot::POWER) {
            let base = u32::from(ports::PM_BASE) | 1;
            let _ = power.config_write(PM_BASE, &base.to_le_bytes());
            let _ = power.config_write(PM_MISC, &[PM_ENABLE]);
        }
        let mut assigner = Assigner::new(self.layout.pci_window_32());
        for (bdf, function) in pci.functions() {
            assigner.assign(bdf, &*function, |pin| interrupt_of(bdf, &*function, pin));
        }
    }
}

/// The ISA interrupt that a function's pin leads to; the PIIX4's own is fixed.
fn interrupt_of(bdf: Bdf, _: &dyn PciFunction, pin: u8) -> Option<u8> {
    match (bdf, pin) {
        (_, 0) => None,
        (slot::POWER, _) => Some(9),
        _ => PIRQ_ROUTES.get(pirq_of(bdf.device(), pin)).copied(),
    }
}

/// The firmware's ROM, or its flash chips with the ROM that the first is below 1 MiB.
fn firmware(plan: &Plan, backends: &dyn Backends) -> Result<(Option<Arc<Rom>>, Vec<Placed>), BoardError> {
    match &plan.firmware {
        None => Ok((None, Vec::new())),
        Some(FirmwarePlan::Rom(image)) => Ok((Some(Arc::new(Rom::load(image)?)), Vec::new())),
        Some(FirmwarePlan::Flash(units)) => {
            let chips = flash::open(units, backends)?;
            Ok((chips.first().map(|first| Arc::new(Rom::of_flash(&first.chip))), chips))
        }
    }
}

/// What ACPI says of the machine.
fn describe(plan: &Plan) -> AcpiSpec {
    let nodes = plan.cpu_nodes.iter().copied().chain(std::iter::repeat(0));
    let place = |(&(apic_id, present), node)| Processor { apic_id, present, node };
    let processors = plan.processors.iter().zip(nodes).map(place).collect();
    let mut spec = AcpiSpec::new(plan.layout.clone(), processors);
    spec.general_events = Some(ports::GPE0);
    spec.hotplug_slots = PLUGGABLE_SLOTS;
    spec.numa = plan.numa.clone();
    spec.keyboard = true;
    spec.fw_cfg = true;
    spec.pvpanic = plan.isa.iter().find_map(|chip| match chip.device {
        IsaDevice::Pvpanic { port, .. } => Some(port),
        _ => None,
    });
    spec.mouse = true;
    spec.serial_ports = plan.isa.iter().filter_map(|chip| serial_port(&chip.device)).collect();
    spec
}

fn serial_port(device: &IsaDevice) -> Option<SerialPort> {
    match *device {
        IsaDevice::Serial { index, base, irq, .. } => Some(SerialPort { number: index + 1, base, irq }),
        _ => None,
    }
}
