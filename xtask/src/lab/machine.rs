//! The emulated machine of the lab: its parts and its files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::emulator::{Emulator, Show, Silence};
use super::{Lab, cr8, keeper};
use crate::initramfs::Initramfs;
use crate::kernel::{Flavor, Kernel};
use crate::{command, host, modules, packages};

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

/// Quiet, and trusting the emulated clock instead of measuring it. A kernel that goes round in circles is given up after
/// twice the threshold, with its call trace in the log.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 softlockup_panic=1 watchdog_thresh=20 \
                                mitigations=off nokaslr tsc=reliable clocksource=tsc no_timer_check";

/// The size of the scratch disk. It is sparse.
const SCRATCH_BYTES: u64 = 8 << 30;

/// Runs a program in a machine made for it.
pub(super) fn run(lab: &Lab, program: &[String], show: &mut Show<'_>) -> Result<u8> {
    let kernel = prepare()?;
    let run = RunDirectory::new(lab, program, &kernel)?;
    fs::create_dir_all(super::out())?;
    let mut emulator = Emulator::start(&emulator(lab, &kernel, &run), lab.lane)?;
    let watched = emulator.watch(lab.limit, Silence::Wall(lab.silence), show);
    watched.with_context(|| {
        let state = paused(&ask(&run.monitor(), "info status", 1).unwrap_or_default()).unwrap_or("failed");
        let (log, tail) = (kept_log(), run.keep_log());
        format!("the lab machine {state}; its log, kept in {}, ends with:\n{tail}", log.display())
    })
}

/// Installs and downloads what it is made of, and gives its kernel.
pub(super) fn prepare() -> Result<Kernel> {
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::DISK)?;
    Flavor::Generic.get()
}

/// What one run needs on the host; gone when the run is over.
struct RunDirectory(PathBuf);

impl RunDirectory {
    fn new(lab: &Lab, program: &[String], kernel: &Kernel) -> Result<Self> {
        let name = format!("run-{}-{}", std::process::id(), lab.lane);
        let run = Self(crate::paths::cache().join(name));
        fs::create_dir_all(&run.0)?;
        fs::write(run.0.join("command"), script(program)?)?;
        let mut modules = modules::with_dependencies(&kernel.modules, MODULES)?;
        for module in modules.iter_mut().filter(|module| module.name == "kvm_amd") {
            cr8::always_intercept(&mut module.object)?;
        }
        fs::write(run.initramfs(), Initramfs::new("lab-init")?.insert(&modules).finish())?;
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

    /// Where the emulator answers questions about its processors.
    fn monitor(&self) -> PathBuf {
        self.0.join("monitor")
    }

    /// Keeps the log of a machine that failed, with its processors' registers, and gives the log's last lines.
    fn keep_log(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        // The tail is shown anyway, so it is no great loss if the rest cannot be kept.
        let _ = fs::write(kept_log(), format!("{log}\n{}", registers(&self.monitor()).unwrap_or_default()));
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Where the kernel's log of the last machine that failed lies.
fn kept_log() -> PathBuf {
    super::out().join("lab-kernel.log")
}

/// The processors' registers at three moments, which show where a machine that hangs is going round.
fn registers(monitor: &Path) -> Result<String> {
    ask(monitor, "info registers -a", 3)
}

/// What the emulator's monitor answers to a command that is given so many times.
fn ask(monitor: &Path, command: &str, times: usize) -> Result<String> {
    let mut stream = UnixStream::connect(monitor)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    for _ in 0..times {
        writeln!(stream, "{command}")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut text = Vec::new();
    // It does not end by itself: the time limit ends it.
    let _ = stream.read_to_end(&mut text);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What it means if the emulator itself has stopped the machine, from the answer to `info status`.
fn paused(status: &str) -> Option<&'static str> {
    let status = status.lines().find(|line| line.starts_with("VM status: paused"))?;
    let full = status.contains("(io-error)");
    Some(if full { "was stopped, for this host's disk is full (io-error)" } else { "was stopped by its emulator" })
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // Only disk space is lost if this fails, and `cargo clean` finds it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command line as a script, in the environment that matters to programs, beside a [keeper].
fn script(program: &[String]) -> Result<String> {
    let directory = std::env::current_dir()?;
    let mut script = format!("cd {}\nexport TMPDIR=/scratch\n", command::quote(&directory.to_string_lossy()));
    for name in ["PATH", "HOME", "LANG", "RUST_BACKTRACE", "RUST_LOG"] {
        if let Ok(value) = std::env::var(name) {
            script += &format!("export {name}={}\n", command::quote(&value));
        }
    }
    let this = std::env::current_exe().context("where is this program?")?;
    script += &format!("{} {} &\n", command::quote(&this.to_string_lossy()), keeper::VERB);
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
    emulator.args(["-monitor", &format!("unix:{},server=on,wait=off", comma(&run.monitor()))]);
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

#[cfg(test)]
mod tests {
    use super::paused;

    #[test]
    fn machine_that_its_emulator_stopped_is_told_from_one_that_is_silent() {
        let answer = "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) info status\r\nVM status: ";

        let why = paused(&format!("{answer}paused (io-error)\r\n(qemu) "));

        assert!(why.is_some_and(|why| why.contains("disk is full")));
        assert_eq!(paused(&format!("{answer}running\r\n(qemu) ")), None);
    }
}
