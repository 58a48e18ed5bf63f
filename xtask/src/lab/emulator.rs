//! A running emulator that talks to us in [markers](super::markers): its start, its watch, its end.
//!
//! All its threads run on one of the host's processors. QEMU 7.2's emulation of SVM changes a processor's pending
//! interrupts (`interrupt_request`) at each entry to and exit from a guest by an instruction that is not atomic, while
//! another thread may be setting one there. Once in some hundred thousand exits an interrupt is lost in that way: the
//! local APIC has it in its IRR, the processor never hears of it, and what waits for it (a timer, a processor in the
//! guest) waits for ever. On one processor a single instruction cannot be cut in two.

use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::markers::{Filter, Marker};
use crate::{command, host, process};

/// Who gets what the program prints.
pub(crate) type Show<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// How long a machine may say nothing.
#[derive(Clone, Copy)]
pub(crate) enum Silence {
    /// By the clock on the wall: also a machine that waits for something has stopped then.
    Wall(Duration),
    /// In the emulator's own processor time, for a machine that never waits: a host that is busy with other work makes
    /// it slower, and no less sound.
    Processor(Duration),
}

/// The running emulator; ended when dropped.
pub(crate) struct Emulator {
    process: Child,
    output: Receiver<Vec<u8>>,
    start: Instant,
}

impl Emulator {
    /// Starts it on one of the host's processors, chosen by its `lane`; its standard output is ours to read.
    pub(crate) fn start(emulator: &Command, lane: usize) -> Result<Self> {
        let processors = host::processors()?;
        let processor = processors.get(lane % processors.len().max(1)).context("no processor is allowed to us")?;
        let mut pinned = Command::new("taskset");
        pinned.args(["--cpu-list", &processor.to_string()]).arg(emulator.get_program()).args(emulator.get_args());
        let mut process = pinned
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command::line(&pinned)))?;
        let stdout = process.stdout.take().context("the emulator has no standard output")?;
        let (sender, output) = channel();
        thread::spawn(move || forward(stdout, &sender));
        Ok(Self { process, output, start: Instant::now() })
    }

    /// Passes the program's output on until its exit status comes. It is an error if that takes longer than `limit`,
    /// or if for as long as `silence` nothing comes at all.
    pub(crate) fn watch(&mut self, limit: Duration, silence: Silence, show: &mut Show<'_>) -> Result<u8> {
        let mut filter = Filter::default();
        let (Silence::Wall(allowed) | Silence::Processor(allowed)) = silence;
        let mut spoke = process::processor_time(self.process.id())?;
        loop {
            let left = limit.saturating_sub(self.start.elapsed()).min(allowed);
            let bytes = match self.output.recv_timeout(left) {
                Ok(bytes) => bytes,
                Err(RecvTimeoutError::Timeout) => {
                    let worked = process::processor_time(self.process.id())?.saturating_sub(spoke);
                    if matches!(silence, Silence::Processor(_)) && worked < allowed && self.start.elapsed() < limit {
                        continue;
                    }
                    bail!("the lab said nothing more, {} s long", left.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the lab machine ended without an exit status"),
            };
            spoke = process::processor_time(self.process.id()).unwrap_or(spoke);
            let mut plain = Vec::new();
            let markers = filter.feed(&bytes, &mut plain);
            show(&plain)?;
            for marker in markers {
                match marker {
                    Marker::Up => println!("lab: up after {:.1} s", self.start.elapsed().as_secs_f64()),
                    Marker::Exit(status) => return Ok(status),
                }
            }
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It has written all that matters: the output directory is the host's own, the rest is thrown away.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn forward(mut from: ChildStdout, to: &Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.send(buffer[..length].to_vec()).is_err() {
            break;
        }
    }
}
