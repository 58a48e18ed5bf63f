//! The lab: a machine with working KVM, anywhere.
//!
//! QEMU's software processor implements AMD SVM with nested paging, so a Debian kernel with kvm-amd inside it has a
//! `/dev/kvm` on which unmodified guests boot. The machine sees the host's whole file tree, read-only below a layer in
//! memory, so that a program just built on the host runs in it without being copied.
//!
//! ```text
//! host file tree --9p, read-only--> overlay --chroot--> the program --hvc0--> our standard output
//! target/lab/out <-9p, writable---  (same path inside)     |
//! scratch disk   <-virtio-blk-----  /scratch, $TMPDIR   exit status, as a marker line
//! ```
//!
//! Where the host's own KVM is hardware, none of this is needed and the program runs directly.

pub(crate) mod cli;
mod cr8;
pub(crate) mod emulator;
pub(crate) mod keeper;
pub(crate) mod lines;
mod machine;
mod markers;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{command, host, paths};
use emulator::Show;

/// Where to run something that needs KVM, and how big.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    /// Memory of the lab machine in MiB.
    pub(crate) memory: u32,
    /// Its processors. They share [one of the host's](emulator), so that more of them are not faster.
    pub(crate) processors: u32,
    /// After this long the machine is ended, and that is an error.
    pub(crate) limit: Duration,
    /// So is a machine that prints nothing for this long.
    pub(crate) silence: Duration,
    /// Use the emulated machine even if the hardware has KVM.
    pub(crate) emulate: bool,
    /// Which of the lab machines that run at a time it is: each has a processor of the host.
    pub(crate) lane: usize,
}

impl Default for Lab {
    fn default() -> Self {
        Self {
            memory: 3072,
            processors: 1,
            limit: Duration::from_secs(600),
            silence: Duration::from_secs(600),
            emulate: false,
            lane: any_lane(),
        }
    }
}

impl Lab {
    /// True if programs will run on this very machine.
    pub(crate) fn is_direct(&self) -> bool {
        !self.emulate && host::kvm() == host::Kvm::Hardware
    }

    /// Says where programs run and why.
    pub(crate) fn describe(&self) -> &'static str {
        match host::kvm() {
            _ if self.is_direct() => "directly: this machine has hardware KVM",
            host::Kvm::Hardware => "in the emulated lab, as asked",
            host::Kvm::Software => {
                "in the emulated lab: this machine's KVM is software, on which no stock kernel boots"
            }
            host::Kvm::Missing => "in the emulated lab: /dev/kvm is missing or not permitted here",
        }
    }

    /// Installs and downloads what the lab machine is made of, for those who start several at a time.
    pub(crate) fn prepare(&self) -> Result<()> {
        if self.is_direct() { Ok(()) } else { machine::prepare().map(drop) }
    }

    /// Runs a program to its end and gives its exit status; what it prints is passed on as it comes.
    pub(crate) fn run(&self, program: &[String]) -> Result<u8> {
        self.run_watched(program, &mut |bytes| {
            let mut stdout = std::io::stdout();
            stdout.write_all(bytes)?;
            stdout.flush()?;
            Ok(())
        })
    }

    /// The same, but what the program prints goes to `show`.
    pub(crate) fn run_watched(&self, program: &[String], show: &mut Show<'_>) -> Result<u8> {
        println!("lab: running {}", self.describe());
        let start = Instant::now();
        let status = if self.is_direct() { run_here(program, show) } else { machine::run(self, program, show) }?;
        println!("lab: ended with status {status} after {:.1} s", start.elapsed().as_secs_f64());
        Ok(status)
    }
}

/// The directory that programs may write wherever they run, and that the host sees.
pub(crate) fn out() -> PathBuf {
    paths::cache().join("out")
}

/// A lane for one who runs a single machine: others who do so at the same time mostly get others.
pub(crate) fn any_lane() -> usize {
    usize::try_from(std::process::id()).unwrap_or(0)
}

fn run_here(program: &[String], show: &mut Show<'_>) -> Result<u8> {
    let (name, arguments) = program.split_first().context("no program given")?;
    let mut command = Command::new(name);
    command.args(arguments).stdout(Stdio::piped());
    let mut process = command.spawn().with_context(|| format!("cannot start {}", command::quote(name)))?;
    let mut output = process.stdout.take().context("no standard output")?;
    let mut buffer = [0; 4096];
    while let length @ 1.. = output.read(&mut buffer)? {
        show(&buffer[..length])?;
    }
    Ok(process.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(128))
}
