//! The measuring inside the counting machine: a line of JSON for each cell.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::cell::{Cell, Cost, Format, Measured, Work};
use super::job::Job;
use crate::{command, process};

/// Size of the disk.
const MEBIBYTES: usize = 64;

/// Measures all cells of the work order.
pub(super) fn run() -> Result<u8> {
    let work: Work = serde_json::from_str(&fs::read_to_string("/bench/work")?)?;
    for cell in &work.cells {
        let image = image(cell.format, &work.rhea)?;
        let (jobs, refused) = match measure(*cell, &work, &image) {
            Ok(jobs) => (jobs, None),
            Err(error) => (BTreeMap::new(), Some(format!("{error:#}"))),
        };
        println!("{}", serde_json::to_string(&Measured { cell: *cell, jobs, refused })?);
        fs::remove_file(image)?;
    }
    Ok(0)
}

/// An image whose every cluster is there.
fn image(format: Format, rhea: &Path) -> Result<PathBuf> {
    let raw = PathBuf::from("/bench/disk.raw");
    fs::write(&raw, vec![0xa5; MEBIBYTES << 20])?;
    match format {
        Format::Raw => Ok(raw),
        Format::Qcow2 => {
            let qcow2 = PathBuf::from("/bench/disk.qcow2");
            let mut convert = Command::new(rhea);
            convert.args(["img", "convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &qcow2]);
            command::output(&mut convert)?;
            fs::remove_file(raw)?;
            Ok(qcow2)
        }
    }
}

/// One guest, from its start to the end of its jobs.
fn measure(cell: Cell, work: &Work, image: &Path) -> Result<BTreeMap<Job, Cost>> {
    let mut command = cell.command(work, image);
    let mut monitor = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let jobs = read_jobs(&mut monitor);
    monitor.kill()?;
    monitor.wait()?;
    jobs.or_else(|error| {
        let mut said = String::new();
        monitor.stderr.take().context("no standard error")?.read_to_string(&mut said)?;
        bail!("{error:#} {}", said.trim())
    })
}

fn read_jobs(monitor: &mut Child) -> Result<BTreeMap<Job, Cost>> {
    let output = monitor.stdout.take().context("the monitor has no standard output")?;
    let mut jobs = BTreeMap::new();
    let mut last = String::new();
    let mut before = Counters::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        if line == "end" {
            return Ok(jobs);
        }
        if line == "begin" {
            before = Counters::read(monitor.id())?;
        }
        if let Some((job, each)) = line.strip_prefix("job ").and_then(|rest| rest.rsplit_once(' ')) {
            let job: Job = serde_json::from_str(job)?;
            // So that a machine that has stopped is told from one that is at work.
            println!("{job} is done");
            jobs.insert(job, Counters::read(monitor.id())?.since(before, job, each.parse()?));
        }
        last = line;
    }
    bail!("the guest ended; its last line: {last}")
}

/// What the kernel counts of a monitor.
#[derive(Clone, Copy, Default)]
struct Counters {
    exits: u64,
    waits: u64,
}

impl Counters {
    fn read(pid: u32) -> Result<Self> {
        let exits = process::exits(pid).get("exits").copied().unwrap_or(0);
        Ok(Self { exits, waits: process::waits(pid)? })
    }

    fn since(self, before: Self, job: Job, instructions: u64) -> Cost {
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / f64::from(job.requests());
        Cost { instructions, exits: each(self.exits, before.exits), waits: each(self.waits, before.waits) }
    }
}
