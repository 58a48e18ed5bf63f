//! What the machine will be, checked: every address assigned, every conflict refused. Only a plan becomes a board.

mod boot;
mod check;
mod ide;
mod identity;
mod places;
mod plug;
mod ram;
mod roms;
mod scsi;
mod storage;

pub use boot::{BootPlan, FirmwarePlan, FlashPlan, Told};
pub use check::{DrivePlan, PlanError, Processors, check};
pub use ide::Channels;
pub(crate) use places::Called;
pub use places::{PERIPHERAL, PERIPHERAL_ANON, PLUGGABLE_SLOTS, Places, Taken, is_made_up, named_in, object_path};
pub use plug::Planner;
pub use roms::KERNEL_ROM;

use std::path::PathBuf;

use rhea_arch::x86_64::acpi::Numa;
use rhea_arch::x86_64::boot::{ElfEntry, Unpack};
use rhea_arch::x86_64::layout::MemoryLayout;
use rhea_arch::x86_64::smbios::SmbiosSpec;
use rhea_devices::ide::IdeDisk;
use rhea_devices::legacy::cmos::RtcOptions;
use rhea_devices::pci::Bdf;
use rhea_devices::scsi::{UnitConfig, UnitKind};
use rhea_devices::virtio::blk::BlkConfig;
use rhea_devices::virtio::rng::RngRate;
use rhea_devices::virtio::scsi::{ScsiAddress, ScsiConfig};
use rhea_devices::virtio::transport::Interfaces;

use super::memory::RamPlan;

/// A machine to build.
#[derive(Debug)]
pub struct Plan {
    /// Guest-physical memory map.
    pub layout: MemoryLayout,
    /// Where guest memory comes from.
    pub ram: RamPlan,
    /// The nodes of memory and vCPUs, if there are several or the user named one.
    pub numa: Option<Numa>,
    /// NUMA node of each vCPU; without nodes, nothing.
    pub cpu_nodes: Vec<u32>,
    /// APIC ID of each vCPU, and whether it is there from the start.
    pub processors: Vec<(u32, bool)>,
    /// What to boot: directly, or by firmware when there is one.
    pub kernel: Option<KernelPlan>,
    /// Firmware that starts the guest.
    pub firmware: Option<FirmwarePlan>,
    /// What firmware starts.
    pub boot: BootPlan,
    /// Option ROMs that firmware runs (`-option-rom`): name and content.
    pub option_roms: Vec<(String, Vec<u8>)>,
    /// Files for firmware and guest (`-fw_cfg`): name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// The machine's UUID in the order it is written; zero when there is none.
    pub uuid: [u8; 16],
    /// Hand over ACPI tables.
    pub acpi: bool,
    /// Identity of the machine for its operating system.
    pub smbios: SmbiosSpec,
    /// The clock that the guest reads at start.
    pub rtc: RtcOptions,
    /// Chips on the ISA bus.
    pub isa: Vec<IsaPlan>,
    /// Drives on the IDE channels.
    pub ide: Channels,
    /// Functions on the PCI bus beside the board's own.
    pub pci: Vec<PciPlan>,
    /// Names and slots that all those have.
    pub places: Places,
}

/// Kinds of disks, for those who tell of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A virtio disk.
    Virtio,
    /// A disk on a bus of its own.
    Fixed,
    /// A drive whose medium can be taken out.
    Removable,
    /// Flash with firmware.
    Flash,
}

impl Plan {
    /// Every disk and CD drive: its name, what is behind it, what it is.
    pub fn disks(&self) -> impl Iterator<Item = (&str, &StoragePlan, DiskKind)> {
        let ide = self.ide.iter().flatten().flatten().map(|drive| {
            let kind = match drive.device {
                IdeDevice::Disk(_) => DiskKind::Fixed,
                IdeDevice::Cd(_) => DiskKind::Removable,
            };
            (drive.id.as_str(), &drive.storage, kind)
        });
        let chips = match &self.firmware {
            Some(FirmwarePlan::Flash(chips)) => chips.as_slice(),
            _ => &[],
        };
        let flash = chips.iter().map(|chip| (chip.id.as_str(), &chip.storage, DiskKind::Flash));
        ide.chain(self.pci.iter().flat_map(PciPlan::disks)).chain(flash)
    }
}

impl PciPlan {
    /// The disks and drives that the function shows to the guest.
    pub fn disks(&self) -> impl Iterator<Item = (&str, &StoragePlan, DiskKind)> {
        let virtio = match &self.device {
            PciDevice::Blk(blk) => Some((self.id.as_str(), &blk.storage, DiskKind::Virtio)),
            PciDevice::Scsi(_) | PciDevice::Rng(_) | PciDevice::Test { .. } => None,
        };
        virtio.into_iter().chain(self.units().iter().map(ScsiUnitPlan::disk))
    }
}

impl ScsiUnitPlan {
    /// The disk or drive that the unit shows to the guest.
    #[must_use]
    pub fn disk(&self) -> (&str, &StoragePlan, DiskKind) {
        let removable = self.config.kind == UnitKind::Cd;
        (&self.id, &self.storage, if removable { DiskKind::Removable } else { DiskKind::Fixed })
    }
}

/// A direct boot.
#[derive(Debug, Clone)]
pub struct KernelPlan {
    /// `-kernel`.
    pub kernel: PathBuf,
    /// `-initrd`.
    pub initrd: Option<String>,
    /// `-append`.
    pub cmdline: String,
    /// Who unpacks a compressed kernel.
    pub unpack: Unpack,
    /// How an ELF kernel is entered.
    pub elf_entry: ElfEntry,
}

/// A chip on the ISA bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsaPlan {
    /// `id=`, or one made up.
    pub id: String,
    /// What it is.
    pub device: IsaDevice,
}

/// Kinds of chips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IsaDevice {
    /// A 16550A.
    Serial {
        /// 0 for COM1.
        index: u8,
        /// First port.
        base: u16,
        /// ISA interrupt.
        irq: u8,
        /// Its character device; `None`: nothing is at the host's end.
        chardev: Option<String>,
    },
    /// `isa-debug-exit`.
    DebugExit {
        /// First port.
        base: u16,
        /// Number of ports.
        size: u16,
    },
    /// `pvpanic`.
    Pvpanic {
        /// The port.
        port: u16,
        /// What may be told.
        events: u8,
    },
    /// `pc-testdev`.
    Test,
    /// `isa-debugcon`.
    DebugConsole {
        /// The port.
        base: u16,
        /// What a read gives.
        readback: u8,
        /// Its character device.
        chardev: String,
    },
}

/// A function on the PCI bus.
#[derive(Debug, Clone)]
pub struct PciPlan {
    /// `id=`, or one made up.
    pub id: String,
    /// Where.
    pub bdf: Bdf,
    /// The objects it uses, by name.
    pub objects: Vec<String>,
    /// The slot has more functions.
    pub multifunction: bool,
    /// What firmware is told of it.
    pub told: ToFirmware,
    /// What it is.
    pub device: PciDevice,
}

/// What firmware is told of a device that it may start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ToFirmware {
    /// `bootindex`: its place in the order of starting.
    pub index: Option<i32>,
    /// `lcyls`, `lheads`, `lsecs`: the shape that firmware shows programs, instead of its own choice.
    pub shape: Option<[u32; 3]>,
}

/// Properties that all `virtio-*-pci` devices share.
#[derive(Debug, Clone)]
pub struct VirtioPlan {
    /// Register interfaces.
    pub interfaces: Interfaces,
    /// `vectors`.
    pub vectors: Option<u16>,
    /// `indirect_desc`.
    pub indirect_desc: bool,
    /// `event_idx`.
    pub event_idx: bool,
    /// `queue_reset`.
    pub queue_reset: bool,
}

/// Kinds of functions.
#[derive(Debug, Clone)]
pub enum PciDevice {
    /// `virtio-blk-pci`.
    Blk(Box<BlkPlan>),
    /// `virtio-scsi-pci`.
    Scsi(Box<ScsiPlan>),
    /// `virtio-rng-pci`.
    Rng(RngPlan),
    /// `pci-testdev`.
    Test {
        /// Bytes of the BAR with nothing behind, 0 for none.
        membar: u64,
    },
}

impl PciPlan {
    fn adapter_mut(&mut self) -> Option<&mut ScsiPlan> {
        match &mut self.device {
            PciDevice::Scsi(adapter) => Some(adapter),
            PciDevice::Blk(_) | PciDevice::Rng(_) | PciDevice::Test { .. } => None,
        }
    }

    /// The units behind a SCSI adapter.
    #[must_use]
    pub fn units(&self) -> &[ScsiUnitPlan] {
        match &self.device {
            PciDevice::Scsi(adapter) => &adapter.units,
            PciDevice::Blk(_) | PciDevice::Rng(_) | PciDevice::Test { .. } => &[],
        }
    }
}

/// A SCSI adapter.
#[derive(Debug, Clone)]
pub struct ScsiPlan {
    /// What the guest sees.
    pub config: ScsiConfig,
    /// The name of its bus.
    pub bus: String,
    /// The thread its queues share; one each without.
    pub iothread: Option<String>,
    /// What it shares with all virtio functions.
    pub virtio: VirtioPlan,
    /// What is behind it.
    pub units: Vec<ScsiUnitPlan>,
}

/// A disk or CD drive on SCSI.
#[derive(Debug, Clone)]
pub struct ScsiUnitPlan {
    /// `id=`, or one made up.
    pub id: String,
    /// Where on the bus.
    pub address: ScsiAddress,
    /// What firmware is told of it.
    pub told: ToFirmware,
    /// What is behind it, or in it.
    pub storage: StoragePlan,
    /// What the guest sees.
    pub config: UnitConfig,
}

/// A virtio disk.
#[derive(Debug, Clone)]
pub struct BlkPlan {
    /// What the guest sees.
    pub config: BlkConfig,
    /// What is behind it.
    pub storage: StoragePlan,
    /// The thread its queues share; one each without.
    pub iothread: Option<String>,
    /// What it shares with all virtio functions.
    pub virtio: VirtioPlan,
}

/// What is behind a disk or in a CD drive.
#[derive(Debug, Clone)]
pub struct StoragePlan {
    /// The block node; nothing for an empty drive.
    pub node: Option<String>,
    /// The `id=` of the `-drive` it came from, or empty.
    pub drive: String,
    /// The guest sees a volatile write cache.
    pub write_cache: bool,
    /// `share-rw`: others may write, too.
    pub share: bool,
    /// The device writes nothing: it is a CD drive.
    pub only_reads: bool,
    /// `rerror`.
    pub on_read_error: rhea_devices::block_errors::OnError,
    /// `werror`.
    pub on_write_error: rhea_devices::block_errors::OnError,
}

/// A drive on an IDE channel.
#[derive(Debug, Clone)]
pub struct IdePlan {
    /// `id=`, or one made up.
    pub id: String,
    /// What firmware is told of it.
    pub told: ToFirmware,
    /// What is behind it, or in it.
    pub storage: StoragePlan,
    /// What it is.
    pub device: IdeDevice,
}

/// Kinds of IDE drives.
#[derive(Debug, Clone)]
pub enum IdeDevice {
    /// `ide-hd`.
    Disk(Box<IdeDisk>),
    /// `ide-cd`.
    Cd(Box<UnitConfig>),
}

/// A virtio entropy source.
#[derive(Debug, Clone)]
pub struct RngPlan {
    /// Where entropy comes from; the kernel's generator without.
    pub filename: Option<PathBuf>,
    /// How fast it may give.
    pub rate: Option<RngRate>,
    /// What it shares with all virtio functions.
    pub virtio: VirtioPlan,
}
