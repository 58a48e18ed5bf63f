//! `-machine` and `-accel`.

use super::boot::BootOptions;
use super::error::{Shown, SpecError, did_you_mean, listed};
use super::memory::MemoryOptions;
use super::number::ByteSize;
use super::pci::OnOffAuto;
use super::topology::SmpOptions;

/// A machine that can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineType {
    /// Its full name.
    pub name: &'static str,
    /// A short name for it.
    pub alias: Option<&'static str>,
    /// One line.
    pub help: &'static str,
    /// What board it is.
    pub board: Board,
    /// Most vCPUs.
    pub max_cpus: u32,
    /// Taken when none is named.
    pub is_default: bool,
}

/// The boards there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// None at all: a process that only answers QMP.
    None,
    /// i440FX and PIIX3.
    I440fx,
}

const PC: &str = "Standard PC (i440FX + PIIX, 1996)";

const fn pc(name: &'static str) -> MachineType {
    MachineType { name, alias: None, help: PC, board: Board::I440fx, max_cpus: 255, is_default: false }
}

/// Every machine type, the default first. The older names give the same board: nothing that a guest sees of the
/// devices here changed between them.
pub const MACHINES: &[MachineType] = &[
    MachineType { alias: Some("pc"), is_default: true, ..pc("pc-i440fx-7.2") },
    pc("pc-i440fx-7.1"),
    pc("pc-i440fx-7.0"),
    pc("pc-i440fx-6.2"),
    pc("pc-i440fx-6.1"),
    pc("pc-i440fx-6.0"),
    pc("pc-i440fx-5.2"),
    pc("pc-i440fx-5.1"),
    pc("pc-i440fx-5.0"),
    pc("pc-i440fx-4.2"),
    pc("pc-i440fx-4.1"),
    pc("pc-i440fx-4.0"),
    pc("pc-i440fx-3.1"),
    pc("pc-i440fx-3.0"),
    pc("pc-i440fx-2.12"),
    pc("pc-i440fx-2.11"),
    pc("pc-i440fx-2.10"),
    pc("pc-i440fx-2.9"),
    pc("pc-i440fx-2.8"),
    pc("pc-i440fx-2.7"),
    pc("pc-i440fx-2.6"),
    pc("pc-i440fx-2.5"),
    pc("pc-i440fx-2.4"),
    pc("pc-i440fx-2.3"),
    pc("pc-i440fx-2.2"),
    pc("pc-i440fx-2.1"),
    pc("pc-i440fx-2.0"),
    MachineType {
        name: "none",
        alias: None,
        help: "empty machine",
        board: Board::None,
        max_cpus: 1,
        is_default: false,
    },
];

impl Default for &'static MachineType {
    fn default() -> Self {
        &MACHINES[0]
    }
}

impl MachineType {
    /// The machine of this name or alias.
    ///
    /// # Errors
    /// There is none, or QEMU has it and this program has not.
    pub fn find(name: &str) -> Result<&'static Self, SpecError> {
        if let Some(found) = MACHINES.iter().find(|machine| machine.name == name || machine.alias == Some(name)) {
            return Ok(found);
        }
        let instead = "use -machine pc";
        if name == "q35" || name.starts_with("pc-q35-") {
            return Err(SpecError::refused(format_args!("machine type '{}' (PCI Express)", Shown(name)), instead));
        }
        match name {
            "microvm" => Err(SpecError::refused("machine type 'microvm'", "use -machine pc, which starts as fast")),
            "isapc" | "x-remote" | "xenfv" | "xenpv" => {
                Err(SpecError::refused(format_args!("machine type '{name}'"), instead))
            }
            _ => {
                let names = MACHINES.iter().flat_map(|machine| [Some(machine.name), machine.alias]).flatten();
                let hint = did_you_mean(name, names);
                Err(SpecError::new(format!(
                    "unsupported machine type '{}'{hint}; use -machine help to list supported machines",
                    Shown(name)
                )))
            }
        }
    }
}

spec_enum! {
    /// Where the interrupt controllers are.
    pub enum Irqchip {
        /// All in the kernel.
        On = "on",
        /// All in this program.
        Off = "off",
        /// The local ones in the kernel.
        Split = "split",
    }
}

spec_enum! {
    /// Who unpacks a compressed kernel.
    pub enum KernelUnpack {
        /// The host where it can, else the guest.
        Auto = "auto",
        /// The host; a kernel that it cannot unpack is refused.
        Host = "host",
        /// The guest, with address randomization if its kernel has it.
        Guest = "guest",
    }
}

spec_struct! {
    /// Properties of the PC machine.
    pub struct MachineOptions as "pc-i440fx-7.2-machine" {
        /// Accelerators to try, the first first, with colons between; only kvm can be had.
        pub accel: Option<String>,
        /// Describe the machine in ACPI tables.
        pub acpi: OnOffAuto = OnOffAuto::Auto,
        /// Include guest memory in a core dump of this process.
        pub dump_guest_core: bool = true,
        /// Let the host merge equal pages of guest memory.
        pub mem_merge: bool = true,
        /// The memory object that is the guest's memory.
        pub memory_backend: Option<String>,
        /// Kernel image.
        pub kernel: Option<String>,
        /// Initial ramdisk.
        pub initrd: Option<String>,
        /// Command line of the kernel.
        pub append: Option<String>,
        /// Who unpacks a compressed kernel; this program's own property.
        pub x_kernel_unpack: KernelUnpack = KernelUnpack::Auto,
        /// CPU topology, as -smp.
        pub smp: SmpOptions = SmpOptions::default(),
        /// Memory sizes, as -m.
        pub memory: MemoryOptions = MemoryOptions::default(),
        /// Order of booting, as -boot.
        pub boot: BootOptions = BootOptions::default(),
        /// Where the interrupt controllers are; only on (in the kernel) here.
        pub kernel_irqchip: Irqchip = Irqchip::On,
        /// A USB controller; only off here.
        pub usb: bool = false,
        /// The VMware I/O port; only off or auto here.
        pub vmport: OnOffAuto = OnOffAuto::Auto,
        /// System management mode; only off or auto here.
        pub smm: OnOffAuto = OnOffAuto::Auto,
        /// A high precision event timer; only off here.
        pub hpet: bool = false,
        /// A display of the firmware's own; has no meaning without firmware.
        pub graphics: bool = true,
        /// Persistent memory; only off here.
        pub nvdimm: bool = false,
        /// The keyboard controller; only on here.
        pub i8042: bool = true,
        /// The interval timer; only on or auto here.
        pub pit: OnOffAuto = OnOffAuto::Auto,
        /// The interrupt controllers of the AT; only on or auto here.
        pub pic: OnOffAuto = OnOffAuto::Auto,
        /// Describe heterogeneous memory; only off here.
        pub hmat: bool = false,
        /// Leave the description out of a migration stream; has no meaning here.
        pub suppress_vmdesc: bool = false,
        /// Where memory above this address goes behind the hole below 4 GiB; not here.
        pub max_ram_below_4g: Option<ByteSize> as "max-ram-below-4g",
        /// Firmware image, as -bios.
        pub firmware: Option<String>,
        /// Block node of the firmware's flash.
        pub pflash0: Option<String>,
        /// Block node of the flash with the firmware's variables.
        pub pflash1: Option<String>,
        /// Object for encrypted guest memory; not here.
        pub memory_encryption: Option<String>,
        /// Object for confidential guests; not here.
        pub confidential_guest_support: Option<String>,
    }
}

impl MachineOptions {
    /// Refuses what the board does not have.
    ///
    /// # Errors
    /// The first such property.
    pub fn check(&self) -> Result<(), SpecError> {
        let wrong = [
            (self.usb, "'usb=on'", "leave it off: there is no USB"),
            (self.vmport == OnOffAuto::On, "'vmport=on'", "leave it out"),
            (self.smm == OnOffAuto::On, "'smm=on'", "leave it out"),
            (self.hpet, "'hpet=on'", "leave it off: guests have kvmclock and the PM timer"),
            (self.nvdimm, "'nvdimm=on'", "leave it off"),
            (!self.i8042, "'i8042=off'", "leave it on: guests reset through it"),
            (self.pit == OnOffAuto::Off, "'pit=off'", "leave it out"),
            (self.pic == OnOffAuto::Off, "'pic=off'", "leave it out"),
            (self.hmat, "'hmat=on'", "leave it off"),
            (self.kernel_irqchip != Irqchip::On, "another 'kernel-irqchip' than on", "leave it out"),
            (self.max_ram_below_4g.is_some(), "'max-ram-below-4g'", "leave it out"),
            (
                self.memory_encryption.is_some() || self.confidential_guest_support.is_some(),
                "encrypted guest memory",
                "leave it out",
            ),
        ];
        match wrong.iter().find(|(wrong, ..)| *wrong) {
            Some((_, what, instead)) => Err(SpecError::refused(what, instead)),
            None => Ok(()),
        }
    }

    /// `acpi=on|off|auto`; auto is on.
    #[must_use]
    pub fn has_acpi(&self) -> bool {
        self.acpi != OnOffAuto::Off
    }
}

/// What runs the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// KVM, `/dev/kvm`.
    #[default]
    Kvm,
    /// None: a test drives the devices.
    Qtest,
}

/// Accelerators that QEMU has.
const OTHERS: &[&str] = &["tcg", "xen", "hax", "hvf", "nvmm", "whpx"];

/// Chooses from a list like `kvm:tcg`: KVM if it is in it.
///
/// # Errors
/// KVM is not in it, or a name is none.
pub fn choose_accel(list: &str) -> Result<Accel, SpecError> {
    let names: Vec<&str> = list.split(':').collect();
    if let Some(unknown) = names.iter().find(|name| **name != "kvm" && **name != "qtest" && !OTHERS.contains(name)) {
        return Err(SpecError::new(format!("invalid accelerator {}; use kvm", Shown(unknown))));
    }
    if names.contains(&"kvm") {
        return Ok(Accel::Kvm);
    }
    if names.contains(&"qtest") {
        return Ok(Accel::Qtest);
    }
    let what = format!("accelerator {}", listed(&names));
    Err(SpecError::refused(what, "use kvm, which needs a /dev/kvm that this user may open"))
}

spec_struct! {
    /// `-accel`.
    pub struct AccelOptions as "kvm-accel" {
        /// Its name.
        pub accel: String,
        /// Where the interrupt controllers are; only on (in the kernel) here.
        pub kernel_irqchip: Irqchip = Irqchip::On,
        /// Bytes of the kernel's shadow page tables; not here.
        pub kvm_shadow_mem: Option<ByteSize>,
        /// Entries of the kernel's ring of dirty pages; only 0 here.
        pub dirty_ring_size: u32 = 0,
    }
}

impl AccelOptions {
    /// Refuses what KVM is not asked for here.
    ///
    /// # Errors
    /// The first such property, or an accelerator that is not KVM.
    pub fn check(&self) -> Result<Accel, SpecError> {
        let accel = choose_accel(&self.accel)?;
        let wrong = [
            (self.kernel_irqchip != Irqchip::On, "another 'kernel-irqchip' than on"),
            (self.kvm_shadow_mem.is_some(), "'kvm-shadow-mem'"),
            (self.dirty_ring_size != 0, "'dirty-ring-size'"),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, what)) => Err(SpecError::refused(what, "leave it out")),
            None => Ok(accel),
        }
    }
}
