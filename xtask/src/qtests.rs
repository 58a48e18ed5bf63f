//! `cargo xtask qtests`: QEMU's own device tests, run on Rhea.

mod build;
mod report;
mod suite;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::{command, paths};

/// Run QEMU's own device tests (qtests) on Rhea
///
/// The tests are not part of this project: Debian's source package of QEMU is fetched by name and its test programs are
/// built below target/qtests, which takes some minutes once. Then each test is run by itself under Rhea, which goes by
/// the name qemu-system-x86_64 there. Tests that fail are expected to be those that docs/qtests.md explains; any other
/// makes the command fail, as does an explained one that passes.
#[derive(Args)]
pub(crate) struct QtestsArgs {
    /// The monitor to test; built first if this is not given
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// Seconds that one test may take
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Only tests with one of these in their paths, such as "ide/" or "virtio-blk"
    only: Vec<String>,
}

/// Builds what is missing, runs, prints.
pub(crate) fn run(args: &QtestsArgs) -> Result<u8> {
    let tests = build::programs()?;
    let monitor = match &args.monitor {
        Some(path) => std::path::absolute(path)?,
        None => monitor()?,
    };
    let suite = suite::Suite::new(&tests, &monitor, std::time::Duration::from_secs(args.limit))?;
    let mut outcomes = Vec::new();
    for program in build::PROGRAMS {
        outcomes.extend(suite.run(program, &args.only).with_context(|| format!("cannot run {program}"))?);
    }
    report::print(&outcomes);
    let surprises = report::surprises(&outcomes, args.only.is_empty())?;
    surprises.iter().for_each(|surprise| println!("{surprise}"));
    Ok(u8::from(!surprises.is_empty()))
}

fn monitor() -> Result<PathBuf> {
    let mut cargo = std::process::Command::new("cargo");
    command::run(cargo.args(["build", "--profile", "quick", "--package", "rhea"]).current_dir(paths::root()))?;
    Ok(paths::target().join("quick/rhea"))
}
