//! The comparison in print and as a file.

use anyhow::Result;
use serde::Deserialize;
use serde_json::json;

use super::super::{results, table};
use super::cell::{Cell, Console, Image, Measured, Monitor};
use super::qmp::Answer;

/// Names the benchmark, and its results.
pub(super) const VERB: &str = "boot";

/// All ratios are to this.
const BASE: Cell = Cell { monitor: Monitor::QemuPc, image: Image::Elf, console: Console::Quiet };

/// Prints both tables.
pub(super) fn print(boots: &[Measured], answers: &[Answer]) {
    let base = boots.iter().find(|boot| boot.cell == BASE).map(|boot| boot.total);
    let mut rows =
        vec![heads(&["boot", "ms", "ratio", "guest's own ms", "exits", "for ports", "for MMIO", "own memory, MiB"])];
    rows.extend(boots.iter().map(|boot| {
        vec![
            boot.cell.to_string(),
            format!("{:.0}", boot.total),
            base.map_or_else(|| "-".into(), |base| format!("{:.3}", boot.total / base)),
            format!("{:.0}", boot.guest),
            boot.count("exits"),
            boot.count("io_exits"),
            boot.count("mmio_exits"),
            format!("{:.1}", mebibytes(boot.memory)),
        ]
    }));
    if !boots.is_empty() {
        println!("\nfrom exec to init, 1 ms = 1 million instructions\n{}", table::format(&rows));
    }
    let mut rows = vec![heads(&["answer", "processor ms"])];
    rows.extend(
        answers
            .iter()
            .map(|answer| vec![format!("{} {}", answer.monitor, answer.kernel), format!("{:.1}", answer.processor)]),
    );
    println!("\nfrom exec to an answer on the QMP socket\n{}", table::format(&rows));
}

/// What is in `target/bench/boot.json`.
#[derive(Deserialize)]
struct Saved {
    boots: Vec<Measured>,
}

/// The boots that an earlier run saved.
pub(super) fn saved() -> Result<Vec<Measured>> {
    results::saved(VERB).map(|saved: Saved| saved.boots)
}

/// Writes `target/bench/boot.json`.
pub(super) fn save(boots: &[Measured], answers: &[Answer]) -> Result<()> {
    results::save(VERB, &json!({"boots": boots, "answers": answers}))
}

fn heads(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn mebibytes(kibibytes: u64) -> f64 {
    f64::from(u32::try_from(kibibytes).unwrap_or(u32::MAX)) / 1024.0
}
