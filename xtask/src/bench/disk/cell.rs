//! One cell of the comparison: which monitor, which bus, which format, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::super::counted;
use super::job::Job;

/// Where the counting machine has the guest's kernel and initramfs; the driver is there and in the guest.
pub(super) const KERNEL: &str = "bench/vmlinux";
pub(super) const INITRAMFS: &str = "bench/initramfs";
pub(super) const DRIVER: &str = "bench/driver";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Monitor {
    Qemu,
    Rhea,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bus {
    VirtioBlk,
    VirtioScsi,
    Ide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) monitor: Monitor,
    pub(crate) bus: Bus,
    pub(crate) format: Format,
}

/// What the driver is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) rhea: PathBuf,
    /// `poll-max-ns` of the I/O thread, where it is not the monitor's own.
    pub(super) poll: Option<u64>,
    pub(super) cells: Vec<Cell>,
}

/// What one request of a job costs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Instructions of guest, host kernel and monitor.
    pub(crate) instructions: u64,
    /// Times that the processor left the guest.
    pub(crate) exits: f64,
    /// Times that a thread of the monitor waited: for the guest, or for the kernel.
    pub(crate) waits: f64,
}

/// What one cell came to; or why there is nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) cell: Cell,
    pub(crate) jobs: BTreeMap<Job, Cost>,
    pub(crate) refused: Option<String>,
}

impl counted::Measured for Measured {
    type Cell = Cell;

    fn cell(&self) -> &Cell {
        &self.cell
    }
}

impl Cell {
    /// All cells, the two monitors beside each other.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        [Bus::VirtioBlk, Bus::VirtioScsi, Bus::Ide].into_iter().flat_map(|bus| {
            [Format::Raw, Format::Qcow2].into_iter().flat_map(move |format| {
                [Monitor::Qemu, Monitor::Rhea].into_iter().map(move |monitor| Self { monitor, bus, format })
            })
        })
    }

    /// The same cell of another monitor.
    pub(super) fn of(self, monitor: Monitor) -> Self {
        Self { monitor, ..self }
    }

    /// The command line, which is the same for both monitors.
    pub(super) fn command(&self, work: &Work, image: &Path) -> Command {
        let program = match self.monitor {
            Monitor::Rhea => work.rhea.as_path(),
            Monitor::Qemu => Path::new("/usr/bin/qemu-system-x86_64"),
        };
        let devices: &[&str] = match self.bus {
            Bus::VirtioBlk => &["virtio-blk-pci,drive=disk,iothread=io"],
            Bus::VirtioScsi => &["virtio-scsi-pci,id=scsi,iothread=io", "scsi-hd,drive=disk,bus=scsi.0"],
            Bus::Ide => &["ide-hd,drive=disk"],
        };
        let mut command = Command::new(program);
        command.args(["-machine", "pc", "-accel", "kvm", "-cpu", "host", "-nodefaults", "-display", "none"]);
        command.args(["-serial", "stdio", "-smp", "1", "-m", "256"]);
        let poll = work.poll.map_or_else(String::new, |poll| format!(",poll-max-ns={poll}"));
        command.args(["-object", &format!("iothread,id=io{poll}")]);
        let drive = format!("if=none,id=disk,file={},format={},aio=io_uring", image.display(), self.format);
        command.args(["-drive", &drive]);
        for device in devices {
            command.args(["-device", device]);
        }
        command.arg("-kernel").arg(Path::new("/").join(KERNEL)).arg("-initrd").arg(Path::new("/").join(INITRAMFS));
        command.args(["-append", "console=ttyS0 quiet mitigations=off nokaslr"]);
        command
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
            Self::Ide => "ide",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let monitor = match self.monitor {
            Monitor::Qemu => "qemu",
            Monitor::Rhea => "rhea",
        };
        write!(f, "{monitor} {} {}", self.bus, self.format)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.cell)?;
        if let Some(why) = &self.refused {
            return write!(f, " {why}");
        }
        self.jobs.iter().try_for_each(|(job, cost)| write!(f, " {job} {};", cost.instructions))
    }
}
