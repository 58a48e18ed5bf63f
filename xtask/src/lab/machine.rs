//! The emulated machine of the lab: its parts and its files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Lab;
use super::emulator::Emulator;
use crate::initramfs::Initramfs;
use crate::kernel::{Flavor, Kernel};
use crate::{command, host, packages};

/// What the lab's kernel needs beyond what is built in.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "ext4",
    "crc32c_generic",
    "kvm_amd",
];

/// Quiet, and trusting the emulated clock instead of measuring it.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable clocksource=tsc no_timer_check";

/// The size of the scratch disk. It is sparse.
const SCRATCH_BYTES: u64 = 8 << 30;

/// Runs a program in a machine made for it.
pub(super) fn run(lab: &Lab, program: &[String]) -> Result<u8> {
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::DISK)?;
    let kernel = Flavor::Generic.get()?;
    let run = RunDirectory::new(program, &kernel)?;
    fs::create_dir_all(super::out())?;
    let mut emulator = Emulator::start(emulator(lab, &kernel, &run))?;
    let mut stdout = std::io::stdout();
    let mut show = |bytes: &[u8]| {
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    };
    let watched = emulator.watch(lab.limit, lab.limit, &mut show);
    watched.with_context(|| format!("the lab machine's log ends with:\n{}", run.log_tail()))
}

/// What one run needs on the host; gone when the run is over.
struct RunDirectory(PathBuf);

impl RunDirectory {
    fn new(program: &[String], kernel: &Kernel) -> Result<Self> {
        let run = Self(crate::paths::cache().join(format!("run-{}", std::process::id())));
        fs::create_dir_all(&run.0)?;
        fs::write(run.0.join("command"), script(program)?)?;
        fs::write(run.initramfs(), Initramfs::new("lab-init")?.modules(&kernel.modules, MODULES)?.finish())?;
        File::create(run.scratch())?.set_len(SCRATCH_BYTES)?;
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]);
        command::run(mke2fs.arg(run.scratch()).env("PATH", host::search_path()))?;
        Ok(run)
    }

    fn initramfs(&self) -> PathBuf {
        self.0.join("initramfs")
    }

    fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    fn log(&self) -> PathBuf {
        self.0.join("kernel.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // Only disk space is lost if this fails, and `cargo clean` finds it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command line as a script, in the environment that matters to programs.
fn script(program: &[String]) -> Result<String> {
    let directory = std::env::current_dir()?;
    let mut script = format!("cd {}\nexport TMPDIR=/scratch\n", command::quote(&directory.to_string_lossy()));
    for name in ["PATH", "HOME", "LANG", "RUST_BACKTRACE", "RUST_LOG"] {
        if let Ok(value) = std::env::var(name) {
            script += &format!("export {name}={}\n", command::quote(&value));
        }
    }
    let words: Vec<_> = program.iter().map(|word| command::quote(word)).collect();
    Ok(format!("{script}exec {}\n", words.join(" ")))
}

fn emulator(lab: &Lab, kernel: &Kernel, run: &RunDirectory) -> Command {
    let out = super::out();
    let share = |tag: &str, path: &Path, more: &str| {
        format!("local,path={},mount_tag={tag},security_model=none,multidevs=remap{more}", comma(path))
    };
    let mut emulator = Command::new("qemu-system-x86_64");
    // Five-level paging makes every emulated page walk longer and serves nobody here.
    emulator.args(["-accel", "tcg,thread=multi", "-cpu", "max,-la57", "-machine", "q35", "-nodefaults", "-no-reboot"]);
    emulator.args(["-display", "none", "-m", &lab.memory.to_string(), "-smp", &lab.processors.to_string()]);
    emulator.arg("-kernel").arg(&kernel.vmlinux).arg("-initrd").arg(run.initramfs());
    let (run_at, out_at) = (run.0.display(), out.display());
    emulator.args(["-append", &format!("{KERNEL_ARGUMENTS} lab.run={run_at} lab.out={out_at}")]);
    emulator.args(["-serial", &format!("file:{}", comma(&run.log()))]);
    emulator.args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=out,signal=off"]);
    emulator.args(["-device", "virtconsole,chardev=out", "-device", "virtio-rng-pci"]);
    emulator.args(["-virtfs", &share("root", Path::new("/"), ",readonly=on")]);
    emulator.args(["-virtfs", &share("out", &out, "")]);
    emulator.args(["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe", comma(&run.scratch()))]);
    emulator
}

/// A path inside option text, where a comma must be doubled.
fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
