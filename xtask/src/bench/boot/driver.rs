//! The measuring itself, inside the counting machine: a line of JSON for each cell.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::cell::{Cell, MEMORY_MIB, Measured, Work};
use crate::process;

/// Measures all cells of the work order.
pub(super) fn run() -> Result<u8> {
    let work: Work = serde_json::from_str(&fs::read_to_string("/bench/work")?)?;
    for cell in &work.cells {
        let mut best: Option<Measured> = None;
        for run in 0..=work.runs {
            let measured = boot(*cell, &work).with_context(|| format!("cannot measure {cell}"))?;
            let better = best.as_ref().is_none_or(|best| measured.total < best.total);
            // The first boot finds KVM and the page tables cold.
            if run > 0 && better {
                best = Some(measured);
            }
        }
        println!("{}", serde_json::to_string(&best)?);
    }
    Ok(0)
}

/// One boot, from the monitor's start to the guest's mark.
fn boot(cell: Cell, work: &Work) -> Result<Measured> {
    let mut command = cell.command(&work.rhea);
    let start = Instant::now();
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let uptime = mark(&mut process);
    let total = start.elapsed().as_secs_f64() * 1000.0;
    let exits = process::exits(process.id());
    let memory = process::own_memory(process.id(), MEMORY_MIB * 1024);
    let mappings = process::mappings(process.id());
    process.kill()?;
    process.wait()?;
    Ok(Measured { cell, total, guest: uptime? * 1000.0, exits, memory: memory?, mappings: mappings? })
}

/// Waits for init's mark and gives the guest's uptime in seconds.
fn mark(process: &mut Child) -> Result<f64> {
    let mut output = process.stdout.take().context("the monitor has no standard output")?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = output.read(&mut buffer)?;
        ensure!(length > 0, "the monitor ended; it printed: {}", String::from_utf8_lossy(&text));
        // A mark cut in two is found because what came before is kept from its last line on.
        text.extend_from_slice(&buffer[..length]);
        if let Some(uptime) = uptime(&text) {
            return Ok(uptime);
        }
        let line = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        text.drain(..line);
    }
}

/// The number in a whole line `mark 1.23`.
fn uptime(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let (line, _) = text.split_once("mark ")?.1.split_once('\n')?;
    line.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::uptime;

    #[test]
    fn mark_is_read_with_its_uptime() {
        assert_eq!(uptime(b"noise\r\nmark 1.32\r\n"), Some(1.32));
    }

    #[test]
    fn half_a_mark_is_none() {
        assert_eq!(uptime(b"noise\r\nmark 1.3"), None);
    }
}
