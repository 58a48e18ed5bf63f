//! What a user can ask for: one serde type for each thing, shared by the command line and QMP.
//!
//! ```text
//!  -device virtio-rng-pci,id=r  ──cli──┐
//!  -device {"driver": …}        ──cli──┼─> serde_json object ── check by Description ── serde ──> DeviceSpec ──> VmSpec
//!  device_add {"driver": …}     ──qmp──┘
//! ```
//!
//! Each type is declared once, by `spec_struct!`, `spec_enum!` or `spec_union!` ([`describe`]): the same lines make the
//! serde type, the check with QEMU's words for mistakes ([`read::read`]), the help and QMP's introspection.
//!
//! What this module refuses to know: how the board is wired, whether files and objects that are named exist. A spec is
//! what was asked for, complete and consistent in itself; the board makes a plan of it.

#[macro_use]
mod macros;

pub mod blockdev;
pub mod boot;
pub mod chardev;
pub mod cpu;
pub mod describe;
pub mod device;
pub mod drive;
pub mod error;
pub mod ident;
pub mod machine;
pub mod meaningless;
pub mod memory;
pub mod numa;
pub mod number;
pub mod object;
pub mod pci;
pub mod process;
pub mod read;
pub mod smbios;
#[cfg(test)]
mod tests;
pub mod topology;

pub use boot::BootSpec;
pub use chardev::ChardevSpec;
pub use cpu::CpuSpec;
pub use device::DeviceSpec;
pub use drive::DriveSpec;
pub use error::SpecError;
pub use ident::{Uuid, check_id};
pub use machine::{Accel, MachineType};
pub use memory::MemorySpec;
pub use numa::NumaSpec;
pub use number::{ByteSize, human_size};
pub use object::ObjectSpec;
pub use pci::PciAddr;
pub use process::{Actions, MonitorSpec, NameSpec, OvercommitSpec, ProcessSpec, RtcSpec};
pub use smbios::SmbiosOptions;
pub use topology::SmpSpec;

/// Everything that a command line asks for. Lists are in the order of the command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VmSpec {
    /// The board.
    pub machine: MachineSpec,
    /// What runs the vCPUs.
    pub accel: Accel,
    /// The character device of the client that drives the devices.
    pub qtest: Option<String>,
    /// Where what it says and hears is logged.
    pub qtest_log: Option<String>,
    /// `-gdb`: the character device where a debugger is expected.
    pub gdb: Option<String>,
    /// The vCPUs' model; the board's default when not given.
    pub cpu: Option<CpuSpec>,
    /// How many vCPUs.
    pub smp: SmpSpec,
    /// How much memory.
    pub memory: MemorySpec,
    /// How memory and vCPUs are dealt out among nodes.
    pub numa: NumaSpec,
    /// What to start.
    pub boot: BootSpec,
    /// `-object`.
    pub objects: Vec<ObjectSpec>,
    /// `-chardev`, and those that `-serial`, `-monitor`, `-qmp` and `-debugcon` make.
    pub chardevs: Vec<ChardevSpec>,
    /// Monitors, each on one of `chardevs`.
    pub monitors: Vec<MonitorSpec>,
    /// The serial ports COM1 to COM4 that `-serial` makes, each with the name of its character device; nothing for
    /// `-serial none`. The machine's own first port is among them unless `-nodefaults`.
    pub serials: Vec<Option<String>>,
    /// `-blockdev`: the arguments of `blockdev-add`, with how they were written.
    pub blockdevs: Vec<blockdev::BlockdevOption>,
    /// `-drive` and its short forms.
    pub drives: Vec<DriveSpec>,
    /// `-snapshot`: what guests write is thrown away, on every drive that does not say otherwise.
    pub snapshot: bool,
    /// `-device`: as QEMU takes them, first those given as `k=v`, then those in JSON.
    pub devices: Vec<DeviceSpec>,
    /// How many of `devices`, the last ones, were given in JSON. The devices that `-drive if=virtio` makes come before
    /// them.
    pub json_devices: usize,
    /// `-global` for devices; `devices` has them already, those that are plugged later get them by
    /// [`DeviceSpec::read_with`].
    pub globals: Vec<GlobalSpec>,
    /// `-global kvm-pit.lost_tick_policy`.
    pub lost_ticks: LostTicks,
    /// `-name`.
    pub name: NameSpec,
    /// `-uuid`.
    pub uuid: Option<Uuid>,
    /// `-smbios`.
    pub smbios: SmbiosOptions,
    /// `-rtc`.
    pub rtc: RtcSpec,
    /// `-overcommit`.
    pub overcommit: OvercommitSpec,
    /// `-S`: the guest does not run until `cont`.
    pub start_paused: bool,
    /// What happens on reboot and power-off.
    pub actions: Actions,
    /// The process.
    pub process: ProcessSpec,
    /// Things that are accepted but deserve a word, for the log once it is there.
    pub warnings: Vec<String>,
}

/// The board and its properties.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineSpec {
    /// Which board.
    pub kind: &'static MachineType,
    /// Describe it in ACPI tables.
    pub acpi: bool,
    /// Include guest memory in a core dump of this process.
    pub dump_guest_core: bool,
    /// Let the host merge equal pages of guest memory.
    pub mem_merge: bool,
    /// The memory object that is the guest's memory.
    pub memory_backend: Option<String>,
    /// The block nodes of the firmware's flash: code, then variables.
    pub pflash: [Option<String>; 2],
    /// Who unpacks a compressed kernel.
    pub kernel_unpack: machine::KernelUnpack,
    /// Leave out the devices that the user did not ask for (`-nodefaults`).
    pub no_defaults: bool,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            kind: Default::default(),
            acpi: true,
            dump_guest_core: true,
            mem_merge: true,
            memory_backend: None,
            pflash: [None, None],
            kernel_unpack: machine::KernelUnpack::Auto,
            no_defaults: false,
        }
    }
}

spec_enum! {
    /// What becomes of the timer's ticks that the guest missed (`-global kvm-pit.lost_tick_policy`).
    pub enum LostTicks as "LostTickPolicy" {
        /// They are given later, one by one.
        Delay = "delay",
        /// They are dropped.
        Discard = "discard",
    }
}

/// A default for a property of all devices of a type (`-global`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalSpec {
    /// The type.
    pub driver: &'static str,
    /// The property.
    pub property: &'static str,
    /// Its value, as text.
    pub value: String,
}
