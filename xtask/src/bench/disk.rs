//! `cargo xtask bench disk`.

mod cell;
mod driver;
mod guest;
mod job;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::counted::Counted;
use crate::initramfs::Initramfs;
use crate::kernel::Flavor;
use crate::{demo, host};
use cell::{Cell, Measured, Work};

/// A counting machine that stops this often without a result has another trouble.
const ATTEMPTS: u32 = 12;
/// What the guest needs to reach its disk on any bus.
const GUEST_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ata_piix"];

/// Read and write in a guest's disk under Rhea and QEMU, and compare
///
/// A stock kernel reads and writes a disk of 64 MiB whose image lies in memory, over virtio-blk, virtio-scsi and IDE, in
/// a raw and in a qcow2 image, with io_uring on the host and an I/O thread for virtio: the same command line for both
/// monitors. It runs in a lab machine with one processor on which one instruction takes one nanosecond, so what the
/// guest's clock shows is how many instructions a request costs in all: guest, host kernel and monitor. Ratios are to
/// QEMU in the same cell. The results are also written to target/bench/disk.json.
#[derive(Args)]
pub(crate) struct DiskArgs {
    /// The monitor to compare with QEMU; built first if this is not given
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// Only cells with one of these in their names, such as "rhea", "virtio-blk" or "qemu ide qcow2"
    #[arg(long)]
    only: Vec<String>,
    /// Measure here and now: this is what runs in the lab machine
    #[arg(long, hide = true)]
    here: bool,
    /// Do the work and tell: this is what runs in the guest
    #[arg(long, hide = true)]
    guest: bool,
}

/// Measures, prints and saves.
pub(super) fn run(args: &DiskArgs) -> Result<u8> {
    if args.here {
        return driver::run();
    }
    if args.guest {
        return guest::run();
    }
    let monitor = match &args.monitor {
        Some(path) => std::path::absolute(path)?,
        None => demo::build()?,
    };
    let measured = measure(args, &monitor)?;
    report::print(&measured);
    report::save(&measured)?;
    Ok(0)
}

fn measure(args: &DiskArgs, monitor: &Path) -> Result<Vec<Measured>> {
    let wanted = |cell: &Cell| args.only.is_empty() || args.only.iter().any(|word| cell.to_string().contains(word));
    let mut left: Vec<_> = Cell::all().filter(wanted).collect();
    if left.is_empty() {
        bail!("no cell has one of these in its name: {}", args.only.join(", "));
    }
    let mut machine = machine(monitor)?;
    let mut measured: Vec<Measured> = Vec::new();
    for _ in 0..ATTEMPTS {
        let work = Work { rhea: monitor.to_path_buf(), cells: left.clone() };
        let mut line = |line: &str| match serde_json::from_str::<Measured>(line) {
            Ok(result) => {
                println!("{result}");
                measured.push(result);
            }
            Err(_) => println!("{line}"),
        };
        let outcome = machine.run(&serde_json::to_string(&work)?, &mut line);
        left.retain(|cell| !measured.iter().any(|result| result.cell == *cell));
        match outcome {
            Ok(0) if left.is_empty() => return Ok(measured),
            Ok(status) => bail!("the benchmark's driver ended with status {status}"),
            Err(error) => println!("again with the {} cells left: {error:#}", left.len()),
        }
    }
    bail!("the counting machine stopped {ATTEMPTS} times");
}

/// A counting machine with all that is run and compared.
fn machine(monitor: &Path) -> Result<Counted> {
    let kernel = Flavor::Generic.get()?;
    let qemu = host::find_program("qemu-system-x86_64").context("QEMU is not installed")?;
    let driver = std::env::current_exe()?;
    let initramfs = crate::guest::directory()?.join("initramfs-bench-disk");
    let guest = Initramfs::new("bench-disk-init")?.modules(&kernel.modules, GUEST_MODULES)?.program(&driver)?;
    let guest = guest.file(cell::DRIVER, 0o755, &std::fs::read(&driver)?);
    std::fs::write(&initramfs, guest.finish())?;
    let mut files = vec![
        (cell::KERNEL.to_owned(), kernel.vmlinux),
        (cell::INITRAMFS.to_owned(), initramfs),
        (cell::DRIVER.to_owned(), driver.clone()),
    ];
    files.extend(super::firmware::files()?);
    Counted::new("disk", vec![qemu, monitor.to_path_buf(), driver], files)
}
