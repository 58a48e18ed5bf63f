//! Scenarios with stock kernels: each starts a monitor, works with the guest and looks at what came of it.
//!
//! They run in lab machines, one on each of the host's processors. The monitor is a parameter: a scenario that passes
//! with QEMU and fails with Rhea shows a difference that users would see.

mod console;
mod lanes;
mod play;
mod qmp;
mod scenarios;
mod shell;
mod stage;
mod vm;

use anyhow::{Result, bail};
use clap::Args;

use crate::guest::{Boot, DebianDisk, boot_disc, root_tree, tools_tree, xen};
use crate::kernel::Flavor;
use crate::lab::Lab;
use crate::packages;
use stage::{Programs, Stage};

/// One story with its name.
pub(crate) struct Scenario {
    name: &'static str,
    play: fn(&Stage<'_>) -> Result<()>,
}

/// Which scenarios to run, and on what.
#[derive(Args)]
pub(crate) struct SuiteArgs {
    #[command(flatten)]
    programs: Programs,
    /// Play the scenarios with exactly these names here and now: this is what the lab runs
    #[arg(long, hide = true)]
    here: bool,
    /// Seconds until a lab machine is ended
    #[arg(long, default_value_t = 1200)]
    timeout: u64,
    /// Only those with one of these in their names
    filter: Vec<String>,
}

/// Prepares on the host, then plays in the lab.
pub(crate) fn run(args: &SuiteArgs) -> Result<u8> {
    if args.here {
        return play::all(args);
    }
    let wanted = |scenario: &&Scenario| {
        args.filter.is_empty() || args.filter.iter().any(|word| scenario.name.contains(word.as_str()))
    };
    // The longer ones are played when they are named.
    let choice: Vec<_> = if args.filter.is_empty() { scenarios::usual().collect() } else { scenarios::all().collect() };
    let left: Vec<&'static str> = choice.into_iter().filter(wanted).map(|scenario| scenario.name).collect();
    if left.is_empty() {
        bail!("no scenario has one of these in its name: {}", args.filter.join(", "));
    }
    prepare()?;
    if left.iter().any(|name| name.starts_with("libvirt")) {
        packages::ensure(packages::LIBVIRT)?;
    }
    if left.iter().any(|name| name.starts_with("installed")) {
        DebianDisk::prepare()?;
    }
    let (passed, failed) = lanes::play_all(args, &left)?;
    println!("lab suite: {passed} passed, {failed} failed");
    Ok(u8::from(failed > 0))
}

/// Makes what the scenarios boot and use.
fn prepare() -> Result<()> {
    Lab::default().prepare()?;
    packages::ensure(packages::TOOLS)?;
    packages::ensure(packages::FIRMWARE)?;
    Boot::prepare(Flavor::Cloud)?;
    Boot::prepare(Flavor::Generic)?;
    root_tree()?;
    tools_tree()?;
    boot_disc()?;
    xen()?;
    Ok(())
}
