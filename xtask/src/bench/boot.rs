//! `cargo xtask bench boot`.

mod cell;
mod driver;
mod qmp;
mod report;

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use super::counted::{Asked, Counted};
use super::results;
use crate::initramfs::Initramfs;
use crate::kernel::Flavor;
use crate::{demo, guest, host};
use cell::{Cell, Image, Measured, Work};

/// Boot Debian's cloud kernel under Rhea and QEMU, and compare
///
/// Each boot is timed from the start of the monitor to a line that the guest's init prints, in a lab machine on which
/// one instruction takes one nanosecond: what is printed as ms are millions of instructions. The same kernel and the
/// same initramfs for all; one vCPU, 128 MiB; the kernel as an ELF file and as Debian's bzImage; quiet and with its
/// log on the serial console. Beside it: the guest's own clock at that line, KVM's exits until then, and the monitor's
/// resident memory without the guest's. A first boot of each kind is not counted. Then, on this machine itself: the
/// processor time from the start of a monitor to its answer to a QMP command. Ratios are to QEMU's `-M pc` with the
/// ELF file. The results are also written to target/bench/boot.json, each as soon as it is there.
#[derive(Args)]
pub(crate) struct BootArgs {
    #[command(flatten)]
    asked: Asked,
    /// How many boots of each kind are counted; the smallest is shown
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Leave out the boots, and measure only the answer to QMP
    #[arg(long)]
    qmp_only: bool,
}

/// Measures, prints and saves.
pub(super) fn run(args: &BootArgs) -> Result<u8> {
    if args.asked.here {
        return driver::run();
    }
    let monitor = demo::monitor(args.asked.monitor.as_deref())?;
    let mut boots = if args.asked.resume { report::saved()? } else { Vec::new() };
    let outcome = if args.qmp_only { Ok(()) } else { measure(args, &monitor, &mut boots) };
    let answers = qmp::measure(&monitor)?;
    report::print(&boots, &answers);
    report::save(&boots, &answers)?;
    println!("\nsaved in {}", results::file(report::VERB).display());
    outcome.map(|()| 0)
}

/// Adds the boots that are asked for and not there yet. What is there is saved after each.
fn measure(args: &BootArgs, monitor: &Path, boots: &mut Vec<Measured>) -> Result<()> {
    let cells = args.asked.left(Cell::all(), boots)?;
    let work = |cells: &[Cell]| {
        Ok(serde_json::to_string(&Work { rhea: monitor.to_path_buf(), runs: args.runs, cells: cells.to_vec() })?)
    };
    machine(monitor)?.measure(cells, work, |boot| {
        boots.push(boot);
        report::save(boots, &[])
    })
}

/// A counting machine with all that is booted and compared.
fn machine(monitor: &Path) -> Result<Counted> {
    let kernel = Flavor::Cloud.get()?;
    let initramfs = guest::directory()?.join("initramfs-bench");
    std::fs::write(&initramfs, Initramfs::new("bench-init")?.finish())?;
    let qemu = host::find_program("qemu-system-x86_64").context("QEMU is not installed")?;
    let driver = std::env::current_exe()?;
    let mut files = vec![
        (Image::Elf.path().to_owned(), kernel.vmlinux),
        (Image::Bzimage.path().to_owned(), kernel.vmlinuz),
        (cell::INITRAMFS.to_owned(), initramfs),
        (cell::DRIVER.to_owned(), driver.clone()),
    ];
    files.extend(super::firmware::files()?);
    let mut programs = vec![qemu, driver];
    if monitor.is_file() {
        programs.push(monitor.to_path_buf());
    }
    Counted::new(report::VERB, programs, files)
}
