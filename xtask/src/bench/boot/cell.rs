//! One cell of the comparison: which monitor boots what, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::super::counted;

/// Where the counting machine has the guest's initramfs and the driver.
pub(super) const INITRAMFS: &str = "bench/initramfs";
pub(super) const DRIVER: &str = "bench/driver";

/// The guest's memory.
pub(super) const MEMORY_MIB: u64 = 128;

/// A monitor with its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Monitor {
    Rhea,
    QemuPc,
    QemuMicrovm,
}

/// The form of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Image {
    Elf,
    Bzimage,
}

/// Whether the kernel prints its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Console {
    Quiet,
    Log,
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) monitor: Monitor,
    pub(crate) image: Image,
    pub(crate) console: Console,
}

/// What the driver is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) rhea: PathBuf,
    pub(super) runs: u32,
    pub(super) cells: Vec<Cell>,
}

/// What one cell came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) cell: Cell,
    /// From the start of the monitor to init's mark, in ms of counted time.
    pub(crate) total: f64,
    /// The guest's own clock at the mark, in ms.
    pub(crate) guest: f64,
    /// KVM's counters at the mark: `exits`, and how many of each kind.
    pub(crate) exits: BTreeMap<String, u64>,
    /// Resident memory of the monitor without the guest's, in KiB.
    pub(crate) memory: u64,
    /// Resident memory by what is mapped, in KiB, the guest's included.
    pub(crate) mappings: BTreeMap<String, u64>,
}

impl counted::Measured for Measured {
    type Cell = Cell;

    fn cell(&self) -> &Cell {
        &self.cell
    }
}

impl Measured {
    /// One of KVM's counters; a kernel that does not count it has none.
    pub(super) fn count(&self, counter: &str) -> String {
        self.exits.get(counter).map_or_else(|| "-".into(), u64::to_string)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ports, mmio) = (self.count("io_exits"), self.count("mmio_exits"));
        write!(f, "{}: {:.0} ms, of them {:.0} by the guest's clock; ", self.cell, self.total, self.guest)?;
        write!(f, "{} exits, {ports} for ports, {mmio} for MMIO; ", self.count("exits"))?;
        write!(f, "own memory {} KiB", self.memory)
    }
}

impl Monitor {
    fn name(self) -> &'static str {
        match self {
            Self::Rhea => "rhea",
            Self::QemuPc => "qemu pc",
            Self::QemuMicrovm => "qemu microvm",
        }
    }

    fn machine(self) -> &'static str {
        match self {
            Self::Rhea | Self::QemuPc => "pc",
            Self::QemuMicrovm => "microvm,rtc=on",
        }
    }
}

impl Image {
    /// Where the counting machine has it, below the root.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Elf => "bench/vmlinux",
            Self::Bzimage => "bench/vmlinuz",
        }
    }
}

impl Cell {
    /// All cells.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let monitors = [Monitor::QemuPc, Monitor::QemuMicrovm, Monitor::Rhea];
        let of_monitor = |monitor| {
            [Image::Elf, Image::Bzimage].into_iter().flat_map(move |image| {
                [Console::Quiet, Console::Log].into_iter().map(move |console| Self { monitor, image, console })
            })
        };
        monitors.into_iter().flat_map(of_monitor)
    }

    /// The command line. The same for every monitor, but for the machine's name.
    pub(super) fn command(&self, rhea: &Path) -> Command {
        let program = match self.monitor {
            Monitor::Rhea => rhea,
            Monitor::QemuPc | Monitor::QemuMicrovm => Path::new("/usr/bin/qemu-system-x86_64"),
        };
        let append = match self.console {
            Console::Quiet => "console=ttyS0 quiet",
            Console::Log => "console=ttyS0",
        };
        let mut command = Command::new(program);
        command.args(["-machine", self.monitor.machine(), "-accel", "kvm", "-cpu", "host", "-nodefaults"]);
        command.args(["-display", "none", "-serial", "stdio", "-smp", "1", "-m", &MEMORY_MIB.to_string()]);
        command.arg("-kernel").arg(Path::new("/").join(self.image.path()));
        command.arg("-initrd").arg(Path::new("/").join(INITRAMFS)).args(["-append", append]);
        command
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = match self.image {
            Image::Elf => "elf",
            Image::Bzimage => "bzimage",
        };
        let console = match self.console {
            Console::Quiet => "quiet",
            Console::Log => "log",
        };
        write!(f, "{} {image} {console}", self.monitor.name())
    }
}
