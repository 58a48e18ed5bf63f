//! Processor time from the start of a monitor until its QMP socket answers, on this machine and not in a lab.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::kernel::Flavor;
use crate::process;
use crate::{guest, host};

/// As many starts; the median counts.
const STARTS: usize = 15;

/// What one monitor took.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) monitor: String,
    pub(crate) kernel: &'static str,
    /// Median processor time in ms.
    pub(crate) processor: f64,
}

/// Measures both monitors, with the kernel in both forms.
pub(super) fn measure(rhea: &Path) -> Result<Vec<Answer>> {
    if host::kvm() == host::Kvm::Missing {
        bail!("starting a monitor needs /dev/kvm, which is missing or not permitted here");
    }
    let kernel = Flavor::Cloud.get()?;
    let mut answers = Vec::new();
    for (form, path) in [("elf", &kernel.vmlinux), ("bzimage", &kernel.vmlinuz)] {
        for (name, program) in [("qemu pc", Path::new("qemu-system-x86_64")), ("rhea", rhea)] {
            let mut times = (0..STARTS).map(|_| start(program, path)).collect::<Result<Vec<_>>>()?;
            times.sort_unstable();
            let processor = times[STARTS / 2].as_secs_f64() * 1000.0;
            answers.push(Answer { monitor: name.into(), kernel: form, processor });
        }
    }
    Ok(answers)
}

/// Starts a monitor whose guest does not run yet, and asks it one thing.
fn start(program: &Path, kernel: &Path) -> Result<Duration> {
    let socket = guest::directory()?.join(format!("qmp-{}", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(program);
    command.args(["-machine", "pc", "-accel", "kvm", "-cpu", "qemu64", "-m", "128", "-nodefaults", "-display", "none"]);
    command.arg("-S").arg("-kernel").arg(kernel).arg("-qmp").arg(address(&socket));
    let mut process =
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start the monitor")?;
    let asked = ask(&socket);
    let time = process::processor_time(process.id());
    process.kill()?;
    let said = process.wait_with_output()?.stderr;
    asked.with_context(|| format!("the monitor says: {}", String::from_utf8_lossy(&said)))?;
    time
}

fn address(socket: &Path) -> String {
    format!("unix:{},server=on,wait=off", PathBuf::from(socket).display())
}

fn ask(socket: &Path) -> Result<()> {
    let start = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(_) if start.elapsed() < Duration::from_secs(20) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error).context("the monitor's QMP socket does not come up"),
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n")?;
    let mut lines = BufReader::new(stream).lines();
    for wanted in ["\"QMP\"", "\"return\"", "\"return\""] {
        let line = lines.next().context("the monitor closed the connection")??;
        if !line.contains(wanted) {
            bail!("the monitor says {line}");
        }
    }
    Ok(())
}
