//! Two tools in turn, and the medians of what they took.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::cell::{Cell, Fresh};
use super::stage::{self, Stage};
use crate::command;

/// What one tool took, in ms: the median of its runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Took {
    /// From start to end.
    pub(super) wall: f64,
    /// Processor time of the process, in user space and in the kernel.
    pub(super) processor: f64,
}

/// Both tools' medians.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Pair {
    pub(super) rhea: Took,
    pub(super) qemu: Took,
}

/// Runs a cell `runs` times with each tool, in turn.
pub(super) fn measure(stage: &Stage, monitor: &Path, cell: &Cell, runs: usize) -> Result<Pair> {
    let file = cell.words.iter().rev().find(|word| word.contains(".qcow2") || word.contains(".raw"));
    if let Some(file) = file {
        stage::warm(&stage.path(file))?;
    }
    let (mut rhea, mut qemu) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for (tool, first, results) in [("qemu-img".as_ref(), None, &mut qemu), (monitor, Some("img"), &mut rhea)] {
            prepare(stage, cell.fresh)?;
            let mut command = Command::new(tool);
            command.args(first).args(&cell.words).current_dir(stage.folder());
            results.push(run(&mut command)?);
        }
    }
    Ok(Pair { rhea: median(&rhea), qemu: median(&qemu) })
}

fn prepare(stage: &Stage, fresh: Fresh) -> Result<()> {
    if fresh == Fresh::Nothing {
        return Ok(());
    }
    let out = stage.path("out");
    if out.exists() {
        std::fs::remove_file(&out)?;
    }
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2"]).current_dir(stage.folder());
    match fresh {
        Fresh::Nothing | Fresh::Gone => Ok(()),
        Fresh::Empty => command::run(create.args(["out", "1G"])),
        Fresh::Overlay => command::run(create.args(["-b", "data.raw", "-F", "raw", "out"])),
    }
}

/// One run; its output is thrown away.
fn run(command: &mut Command) -> Result<Took> {
    let started = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let child = child.with_context(|| format!("cannot start {}", command::line(command)))?;
    let pid = i32::try_from(child.id()).context("process id out of range")?;
    let mut status = 0;
    // SAFETY: all fields are numbers, for which zero is a value.
    #[expect(unsafe_code, reason = "the standard library's wait does not tell what a process used")]
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places are valid for writing for the whole call; the child is ours and nobody else waits for it.
    #[expect(unsafe_code, reason = "the standard library's wait does not tell what a process used")]
    let result = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut used) };
    let wall = started.elapsed().as_secs_f64() * 1e3;
    if result != pid || status != 0 {
        bail!("{} ended with wait status {status:#x}", command::line(command));
    }
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok(Took { wall, processor: ms(used.ru_utime) + ms(used.ru_stime) })
}

fn median(runs: &[Took]) -> Took {
    let middle = |of: fn(&Took) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Took { wall: middle(|took| took.wall), processor: middle(|took| took.processor) }
}

#[cfg(test)]
mod tests {
    use super::{Took, median};

    #[test]
    fn median_is_of_each_figure_by_itself() {
        let runs = [(1.0, 30.0), (3.0, 10.0), (2.0, 20.0)].map(|(wall, processor)| Took { wall, processor });

        let middle = median(&runs);

        assert_eq!((middle.wall, middle.processor), (2.0, 20.0));
    }
}
