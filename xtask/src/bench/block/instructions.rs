//! User-space instructions of one request, by callgrind: the difference of a long run and a short one, so that what a
//! process does once does not count.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::stage::Stage;
use crate::command;

/// Requests of the short run, and of the long one.
const SHORT: u64 = 2000;
const LONG: u64 = 12_000;

/// Budgets, a tenth above what was measured when they were set.
const RAW: u64 = 1000;
const QCOW2: u64 = 1330;

/// One kind of request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) name: &'static str,
    words: &'static str,
    /// The name of the cell that this one is compared with.
    pub(super) base: Option<&'static str>,
    /// Most instructions that Rhea may take.
    pub(super) budget: u64,
}

/// Instructions of one request.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Count {
    pub(super) rhea: u64,
    pub(super) qemu: u64,
}

/// All that are counted.
pub(super) fn all() -> Vec<Counted> {
    let of = |name, base, budget, words| Counted { name, words, base, budget };
    vec![
        of("raw read 4 KiB", None, RAW, "-d 32 -f raw data.raw"),
        of("qcow2 read 4 KiB", Some("raw read 4 KiB"), QCOW2, "-d 32 -f qcow2 data.qcow2"),
        of("raw write 4 KiB", None, RAW, "-w -d 32 -f raw write.raw"),
        of("qcow2 write 4 KiB", Some("raw write 4 KiB"), QCOW2, "-w -d 32 -f qcow2 write.qcow2"),
        of("raw read 4 KiB, ring", None, RAW, "-i io_uring -d 32 -f raw data.raw"),
        of("qcow2 read 4 KiB, ring", Some("raw read 4 KiB, ring"), QCOW2, "-i io_uring -d 32 -f qcow2 data.qcow2"),
        of("raw write 4 KiB, ring", None, RAW, "-w -i io_uring -d 32 -f raw write.raw"),
        of(
            "qcow2 write 4 KiB, ring",
            Some("raw write 4 KiB, ring"),
            QCOW2,
            "-w -i io_uring -d 32 -f qcow2 write.qcow2",
        ),
    ]
}

/// Counts one kind with both tools.
pub(super) fn measure(stage: &Stage, monitor: &Path, cell: &Counted) -> Result<Count> {
    let of = |tool: &[&str]| -> Result<u64> {
        let (short, long) = (collected(stage, tool, cell, SHORT)?, collected(stage, tool, cell, LONG)?);
        Ok(long.saturating_sub(short) / (LONG - SHORT))
    };
    let monitor = monitor.to_str().context("the program's path is not UTF-8")?;
    Ok(Count { rhea: of(&[monitor, "img"])?, qemu: of(&["qemu-img"])? })
}

fn collected(stage: &Stage, tool: &[&str], cell: &Counted, count: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).args(tool);
    valgrind.args(["bench", "-q", "-c", &count.to_string()]).args(cell.words.split(' ')).current_dir(stage.folder());
    let output = valgrind.output().with_context(|| format!("cannot start {}", command::line(&valgrind)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} ended with {}: {}", command::line(&valgrind), output.status, said.trim());
    }
    total(&said).with_context(|| format!("{} tells no count: {}", command::line(&valgrind), said.trim()))
}

/// The number in callgrind's line `Collected : 123`.
fn total(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("Collected : "))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn count_is_found_in_what_callgrind_says() {
        assert_eq!(total("==7== Events    : Ir\n==7== Collected : 123456\n==7==\n"), Some(123_456));
    }
}
