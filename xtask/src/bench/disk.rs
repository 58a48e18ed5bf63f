//! `cargo xtask bench disk`.

mod cell;
mod driver;
mod guest;
mod job;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use super::counted::{Asked, Counted};
use super::results;
use crate::initramfs::Initramfs;
use crate::kernel::Flavor;
use crate::{command, demo, host, paths};
use cell::{Cell, Measured, Work};

/// What the guest needs to reach its disk on any bus.
const GUEST_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ata_piix"];

/// Read and write in a guest's disk under Rhea and QEMU, and compare
///
/// A stock kernel reads and writes a disk of 64 MiB whose image lies in memory, over virtio-blk, virtio-scsi and IDE, in
/// a raw and in a qcow2 image, with io_uring on the host and an I/O thread for virtio: the same command line for both
/// monitors. It runs in a lab machine with one processor on which one instruction takes one nanosecond, so what the
/// guest's clock shows is how many instructions a request costs in all: guest, host kernel and monitor. Ratios are to
/// QEMU in the same cell. The results are also written to target/bench/disk.json, each as soon as it is there.
#[derive(Args)]
pub(crate) struct DiskArgs {
    #[command(flatten)]
    asked: Asked,
    /// How long the I/O thread polls at most, in nanoseconds, under either monitor (not to be mixed by --resume)
    #[arg(long)]
    poll_max_ns: Option<u64>,
    /// Do the work and tell: this is what runs in the guest
    #[arg(long, hide = true)]
    guest: bool,
}

/// Measures, prints and saves.
pub(super) fn run(args: &DiskArgs) -> Result<u8> {
    if args.asked.here {
        return driver::run();
    }
    if args.guest {
        return guest::run();
    }
    let monitor = demo::monitor(args.asked.monitor.as_deref())?;
    let mut measured = if args.asked.resume { results::saved(report::VERB)? } else { Vec::new() };
    let outcome = measure(args, &monitor, &mut measured);
    report::print(&measured);
    println!("\nsaved in {}", results::file(report::VERB).display());
    outcome.map(|()| 0)
}

/// Adds the cells that are asked for and not there yet. What is there is saved after each.
fn measure(args: &DiskArgs, monitor: &Path, measured: &mut Vec<Measured>) -> Result<()> {
    let cells = args.asked.left(Cell::all(), measured)?;
    let work = |cells: &[Cell]| {
        let (rhea, poll) = (monitor.to_path_buf(), args.poll_max_ns);
        Ok(serde_json::to_string(&Work { rhea, poll, cells: cells.to_vec() })?)
    };
    machine(monitor)?.measure(cells, work, |result| {
        measured.push(result);
        results::save(report::VERB, &*measured)
    })
}

/// A counting machine with all that is run and compared.
fn machine(monitor: &Path) -> Result<Counted> {
    let kernel = Flavor::Generic.get()?;
    let qemu = host::find_program("qemu-system-x86_64").context("QEMU is not installed")?;
    let driver = build()?;
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
    Counted::new(report::VERB, vec![qemu, monitor.to_path_buf(), driver], files)
}

/// This program, optimised: it is the load in the guest, too, where its own instructions are counted.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    command::run(cargo.args(["build", "--profile", "quick", "--package", "xtask"]).current_dir(paths::root()))?;
    Ok(paths::target().join("quick/xtask"))
}
