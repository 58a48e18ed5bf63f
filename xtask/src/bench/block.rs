//! `cargo xtask bench block`.

mod cell;
mod instructions;
mod report;
mod stage;
mod timing;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::packages::{self, Package};
use crate::{demo, paths};
use cell::Cell;
use stage::Stage;

/// What is compared with, and what counts.
const PACKAGES: &[Package] = &[
    Package { name: "qemu-utils", program: "qemu-img", why: "the image tool that Rhea's is compared with" },
    Package { name: "valgrind", program: "valgrind", why: "counts the instructions of a request" },
];

/// Compare `rhea img` with qemu-img on the same files
///
/// Each cell is one command line that both tools understand. They run in turn, Rhea and qemu-img, `--runs` times each,
/// and the medians are compared: of the time that passes, and of the processor time of the process. On a machine that
/// does other things only the second says much. The files lie below target/bench/block, which wants a file system of
/// a real disk, and are in the page cache unless the cell says "direct". "cold" means that no metadata is in the
/// tool's own cache: each request needs another slice of an L2 table. The last table has user-space instructions of
/// one request, by valgrind's callgrind, from the difference of two runs. The results are also written to
/// target/bench/block.json.
#[derive(Args)]
pub(crate) struct BlockArgs {
    /// The program to compare with qemu-img; built first if this is not given
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// Only cells with one of these in their names, such as "convert" or "qcow2 write"
    #[arg(long)]
    only: Vec<String>,
    /// How often each tool does each cell
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Leave out the instructions
    #[arg(long)]
    no_count: bool,
}

/// Measures, prints and saves.
pub(super) fn run(args: &BlockArgs) -> Result<u8> {
    packages::ensure(PACKAGES)?;
    let monitor = demo::monitor(args.monitor.as_deref())?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|word| name.contains(word));
    let cells: Vec<Cell> = cell::all().into_iter().filter(|cell| wanted(&cell.name)).collect();
    let counted: Vec<_> = instructions::all().into_iter().filter(|cell| !args.no_count && wanted(cell.name)).collect();
    if cells.is_empty() && counted.is_empty() {
        bail!("no cell has one of these in its name: {}", args.only.join(", "));
    }
    let stage = Stage::new(paths::target().join("bench/block"))?;
    let mut timed = Vec::new();
    for cell in cells {
        let result = timing::measure(&stage, &monitor, &cell, args.runs.max(1))?;
        println!("{}", report::line(&cell, &result));
        timed.push((cell, result));
    }
    let mut counts = Vec::new();
    for cell in counted {
        let count = instructions::measure(&stage, &monitor, &cell)?;
        println!("{}: {} instructions, qemu-img {}", cell.name, count.rhea, count.qemu);
        counts.push((cell, count));
    }
    report::print(&timed, &counts);
    report::save(&timed, &counts)?;
    Ok(0)
}
