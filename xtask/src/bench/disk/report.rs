//! The comparison in print and as a file.

use super::super::table;
use super::cell::{Cell, Cost, Measured, Monitor};
use super::job::Job;

/// Names the benchmark, and its results.
pub(super) const VERB: &str = "disk";

/// Prints a table: for each job and cell, instructions a request of both and their ratio.
pub(super) fn print(measured: &[Measured]) {
    let heads = ["instructions a request", "qemu", "rhea", "ratio", "exits", "", "waits", ""];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let rhea = measured.iter().filter(|result| result.cell.monitor == Monitor::Rhea);
    for result in rhea.filter(|result| result.refused.is_none()) {
        let qemu = result.cell.of(Monitor::Qemu);
        for job in Job::ALL {
            let (theirs, ours) = (find(measured, qemu, job), find(measured, result.cell, job));
            let number = |cost: Option<Cost>, of: fn(Cost) -> f64, digits: usize| {
                cost.map_or_else(|| "-".into(), |cost| format!("{:.digits$}", of(cost)))
            };
            let instructions = |cost: Cost| cost.instructions as f64;
            let ratio = theirs.zip(ours).map(|(theirs, ours)| instructions(ours) / instructions(theirs));
            rows.push(vec![
                format!("{} {} {job}", result.cell.bus, result.cell.format),
                number(theirs, instructions, 0),
                number(ours, instructions, 0),
                ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}")),
                number(theirs, |cost| cost.exits, 2),
                number(ours, |cost| cost.exits, 2),
                number(theirs, |cost| cost.waits, 2),
                number(ours, |cost| cost.waits, 2),
            ]);
        }
    }
    println!("\n{}", table::format(&rows));
}

fn find(measured: &[Measured], cell: Cell, job: Job) -> Option<Cost> {
    measured.iter().find(|result| result.cell == cell)?.jobs.get(&job).copied()
}
