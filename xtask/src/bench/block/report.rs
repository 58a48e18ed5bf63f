//! The comparison in print and as a file.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::super::table;
use super::cell::Cell;
use super::instructions::{Count, Counted};
use super::timing::{Pair, Took};
use crate::paths;

fn ratios(pair: &Pair) -> (f64, f64) {
    let of = |figure: fn(&Took) -> f64| figure(&pair.rhea) / figure(&pair.qemu).max(f64::MIN_POSITIVE);
    (of(|took| took.wall), of(|took| took.processor))
}

/// One result, as soon as it is there.
pub(super) fn line(cell: &Cell, pair: &Pair) -> String {
    let (wall, processor) = ratios(pair);
    format!("{}: {wall:.2} of qemu-img's time, {processor:.2} of its processor time", cell.name)
}

/// Prints both tables.
pub(super) fn print(timed: &[(Cell, Pair)], counts: &[(Counted, Count)]) {
    if !timed.is_empty() {
        let mut rows = vec![heads(&["cell", "qemu-img ms", "rhea ms", "ratio", "goal", "processor", "missed"])];
        rows.extend(timed.iter().map(|(cell, pair)| {
            let (wall, processor) = ratios(pair);
            vec![
                cell.name.clone(),
                format!("{:.0}", pair.qemu.wall),
                format!("{:.0}", pair.rhea.wall),
                format!("{wall:.2}"),
                format!("{:.2}", cell.goal),
                format!("{processor:.2}"),
                if wall > cell.goal { "*" } else { "" }.to_owned(),
            ]
        }));
        println!("\ntime from start to end, medians; processor: ratio of processor time\n{}", table::format(&rows));
    }
    if !counts.is_empty() {
        let mut rows = vec![heads(&["request", "qemu-img", "rhea", "ratio", "over raw", "budget", "missed"])];
        rows.extend(counts.iter().map(|(cell, count)| {
            let base = counts.iter().find(|(other, _)| Some(other.name) == cell.base);
            let over = base.map(|(_, base)| count.rhea as f64 / base.rhea.max(1) as f64);
            vec![
                cell.name.to_owned(),
                count.qemu.to_string(),
                count.rhea.to_string(),
                format!("{:.2}", count.rhea as f64 / count.qemu.max(1) as f64),
                over.map_or_else(String::new, |over| format!("{over:.3}")),
                cell.budget.to_string(),
                if count.rhea > cell.budget { "*" } else { "" }.to_owned(),
            ]
        }));
        println!("\nuser-space instructions of one request\n{}", table::format(&rows));
    }
}

/// Writes `target/bench/block.json`.
pub(super) fn save(timed: &[(Cell, Pair)], counts: &[(Counted, Count)]) -> Result<()> {
    let file = paths::target().join("bench/block.json");
    let timed: Vec<_> = timed.iter().map(|(cell, pair)| json!({"cell": cell.name, "ms": pair})).collect();
    let counts: Vec<_> = counts.iter().map(|(cell, n)| json!({"request": cell.name, "instructions": n})).collect();
    fs::write(&file, serde_json::to_vec_pretty(&json!({"timed": timed, "counted": counts}))?)?;
    println!("\nsaved in {}", file.display());
    Ok(())
}

fn heads(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
