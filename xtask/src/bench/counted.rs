//! The counting lab: a machine on which time is a count of instructions, so that two runs of the same work differ by
//! less than a thousandth, whatever else the host does.
//!
//! All programs and images lie in its initramfs: a host disk would bring the host's time in. It has one processor.
//! About half of its runs stop at some point without an error, so it is watched, and started again with the work that
//! is left and another content, for the same content would stop at the same place.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::de::DeserializeOwned;

use crate::initramfs::Initramfs;
use crate::kernel::{Flavor, Kernel};
use crate::lab::emulator::{Emulator, Silence};
use crate::lab::lines::Lines;
use crate::{lab, packages, paths};

const MODULES: &[&str] = &["virtio_pci", "virtio_console", "kvm_amd"];

/// One instruction is one nanosecond, and nothing is random.
const MACHINE: &[&str] = &[
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0,sleep=off",
    "-smp",
    "1",
    "-cpu",
    "max,-rdrand,-rdseed",
    "-rtc",
    "base=2026-01-01,clock=vm",
    "-seed",
    "1",
    "-machine",
    "q35",
    "-m",
    "2048",
    "-nodefaults",
    "-no-reboot",
    "-display",
    "none",
    "-device",
    "virtio-serial-pci",
    "-chardev",
    "stdio,id=out,signal=off",
    "-device",
    "virtconsole,chardev=out",
];

const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr norandmaps tsc=reliable \
                                clocksource=tsc no_timer_check";

/// A run of this much host time is a run that has stopped.
const LIMIT: Duration = Duration::from_secs(3600);
/// So is one that prints nothing for this much of the emulator's processor time; a measured boot takes a tenth of it.
const SILENCE: Silence = Silence::Processor(Duration::from_secs(90));

/// A machine that stops this often without a result has another trouble.
const ATTEMPTS: u32 = 12;

/// What a driver prints of one cell, as a line of JSON.
pub(super) trait Measured: DeserializeOwned + Display {
    /// What is measured.
    type Cell: PartialEq + Display;

    /// Which it is.
    fn cell(&self) -> &Self::Cell;
}

/// Which cells are asked for, of which monitor.
#[derive(Args)]
pub(super) struct Asked {
    /// The monitor to compare with QEMU; built first if this is not given
    #[arg(long)]
    pub(super) monitor: Option<PathBuf>,
    /// Only cells with one of these in their names, such as "rhea", "pc bzimage quiet" or "qemu ide qcow2"
    #[arg(long)]
    only: Vec<String>,
    /// Keep what an earlier run of the same monitor has left in the file of results, and add to it
    #[arg(long)]
    pub(super) resume: bool,
    /// Measure here and now: this is what runs in the lab machine
    #[arg(long, hide = true)]
    pub(super) here: bool,
}

impl Asked {
    /// Those of `cells` that are asked for and not among what is `measured`.
    ///
    /// # Errors
    /// When none is asked for.
    pub(super) fn left<M: Measured>(
        &self,
        cells: impl Iterator<Item = M::Cell>,
        measured: &[M],
    ) -> Result<Vec<M::Cell>> {
        let asked =
            |cell: &M::Cell| self.only.is_empty() || self.only.iter().any(|word| cell.to_string().contains(word));
        let mut left: Vec<_> = cells.filter(asked).collect();
        if left.is_empty() {
            bail!("no cell has one of these in its name: {}", self.only.join(", "));
        }
        left.retain(|cell| !measured.iter().any(|there| there.cell() == cell));
        Ok(left)
    }
}

/// The files of a counting machine, and the number of times it was started.
pub(super) struct Counted {
    verb: &'static str,
    kernel: Kernel,
    files: Vec<(String, PathBuf)>,
    programs: Vec<PathBuf>,
    attempt: u32,
}

impl Counted {
    /// A machine for `bench VERB`, with these programs at their own paths and these files at the paths given.
    pub(super) fn new(verb: &'static str, programs: Vec<PathBuf>, files: Vec<(String, PathBuf)>) -> Result<Self> {
        packages::ensure(packages::LAB)?;
        Ok(Self { verb, kernel: Flavor::Generic.get()?, files, programs, attempt: 0 })
    }

    /// Measures all of `left`, and hands each result to `done` as soon as it is there: a machine that stops too often
    /// takes only what is left with it. When the machine stops, it is started again with the cells that are left then;
    /// `work` is the order that the driver gets for them.
    ///
    /// # Errors
    /// When the machine stops too often, or the driver or `done` fails.
    pub(super) fn measure<M: Measured>(
        &mut self,
        mut left: Vec<M::Cell>,
        work: impl Fn(&[M::Cell]) -> Result<String>,
        mut done: impl FnMut(M) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if left.is_empty() {
                return Ok(());
            }
            let order = work(&left)?;
            let mut kept = Ok(());
            let mut line = |line: &str| match serde_json::from_str::<M>(line) {
                Ok(result) => {
                    println!("{result}");
                    left.retain(|cell| cell != result.cell());
                    kept = std::mem::replace(&mut kept, Ok(())).and_then(|()| done(result));
                }
                Err(_) => println!("{line}"),
            };
            let outcome = self.run(&order, &mut line);
            kept?;
            match outcome {
                Ok(0) if left.is_empty() => {}
                Ok(status) => bail!("the benchmark's driver ended with status {status}"),
                Err(error) => println!("again with the {} cells left: {error:#}", left.len()),
            }
        }
        bail!("the counting machine stopped {ATTEMPTS} times; {} cells are left", left.len());
    }

    /// Runs the benchmark's driver on `work`; its lines go to `line`. An error means that the machine stopped.
    fn run(&mut self, work: &str, line: &mut dyn FnMut(&str)) -> Result<u8> {
        self.attempt += 1;
        let directory = paths::cache().join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let outcome = self.run_in(&directory, work, line);
        fs::remove_dir_all(&directory)?;
        outcome
    }

    fn run_in(&self, directory: &Path, work: &str, line: &mut dyn FnMut(&str)) -> Result<u8> {
        let initramfs = directory.join("initramfs");
        fs::write(&initramfs, self.initramfs(work)?)?;
        let mut machine = Command::new("qemu-system-x86_64");
        machine.args(MACHINE).arg("-kernel").arg(&self.kernel.vmlinux).arg("-initrd").arg(&initramfs);
        machine.args(["-append", KERNEL_ARGUMENTS]);
        machine.arg("-serial").arg(format!("file:{}", directory.join("kernel.log").display()));
        let mut lines = Lines::default();
        let mut show = |bytes: &[u8]| {
            lines.feed(bytes, line);
            Ok(())
        };
        let mut emulator = Emulator::start(&machine, lab::any_lane())?;
        emulator.watch(LIMIT, SILENCE, &mut show).context("the counting machine stopped")
    }

    fn initramfs(&self, work: &str) -> Result<Vec<u8>> {
        let mut initramfs = Initramfs::new("bench-lab-init")?.modules(&self.kernel.modules, MODULES)?;
        for program in &self.programs {
            initramfs = initramfs.program(program)?;
        }
        for (path, source) in &self.files {
            initramfs = initramfs.file(path, 0o755, &fs::read(source)?);
        }
        let salt = "salt ".repeat(usize::try_from(self.attempt)? * 1000);
        let texts = [("bench/verb", self.verb), ("bench/work", work), ("bench/salt", &salt)];
        let add = |initramfs: Initramfs, (path, text): (&str, &str)| initramfs.file(path, 0o644, text.as_bytes());
        Ok(texts.into_iter().fold(initramfs, add).finish())
    }
}
