//! Scenarios with stock kernels: each starts a monitor, works with the guest and looks at what came of it.
//!
//! They run in one lab machine, one after another unless asked otherwise. The monitor is a parameter: a scenario that passes with QEMU and
//! fails with Rhea shows a difference that users would see.

mod console;
mod play;
mod qmp;
mod scenarios;
mod shell;
mod stage;
mod vm;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::guest::{Boot, boot_disc, debian_disk, root_tree, tools_tree, xen};
use crate::kernel::Flavor;
use crate::lab::Lab;
use crate::lab::lines::Lines;
use crate::packages;
use stage::{Programs, Stage};

/// The lab machine itself fails now and then: an emulated processor's virtualization is an unusual host. What was not
/// played then is played in another, but not for ever.
const LABS: u32 = 12;
/// No scenario takes this long, so a lab machine that is silent for so long has failed: those of every run, and those
/// that are played by name.
const SILENCE: Duration = Duration::from_secs(180);
const SILENCE_BY_NAME: Duration = Duration::from_secs(420);

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
    /// How many scenarios play at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
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
    let mut left: Vec<&str> = choice.into_iter().filter(wanted).map(|scenario| scenario.name).collect();
    if left.is_empty() {
        bail!("no scenario has one of these in its name: {}", args.filter.join(", "));
    }
    prepare()?;
    if left.iter().any(|name| name.starts_with("libvirt")) {
        packages::ensure(packages::LIBVIRT)?;
    }
    if left.iter().any(|name| name.starts_with("installed")) {
        debian_disk()?;
    }
    let mut passed = 0;
    let mut failed = 0;
    let mut failed_once: Vec<String> = Vec::new();
    for lab in 1..=LABS {
        let outcome = play_in_lab(args, &left.clone(), &mut |name, ok| {
            // The emulated processor stalls a guest now and then, under any monitor: a scenario counts as failed when
            // it fails in two lab machines.
            if !ok && !failed_once.iter().any(|before| before == name) {
                failed_once.push(name.to_owned());
                return;
            }
            *(if ok { &mut passed } else { &mut failed }) += 1;
            left.retain(|scenario| *scenario != name);
        });
        if left.is_empty() {
            break;
        }
        let why = outcome.map_or_else(|error| format!("{error:#}"), |status| format!("it ended with status {status}"));
        println!("lab machine {lab} of {LABS} left {} scenarios to play (again): {why}", left.len());
    }
    for name in &failed_once {
        println!("in need of a second lab machine: {name}");
    }
    failed += left.len();
    println!("lab suite: {passed} passed, {failed} failed");
    Ok(u8::from(failed > 0))
}

/// Plays the scenarios `names` in one lab machine and tells how each went.
fn play_in_lab(args: &SuiteArgs, names: &[&str], tell: &mut dyn FnMut(&str, bool)) -> Result<u8> {
    let silence = if args.filter.is_empty() { SILENCE } else { SILENCE_BY_NAME };
    let lab = Lab { limit: Duration::from_secs(args.timeout), silence, ..Lab::default() };
    let this = std::env::current_exe().context("where is this program?")?;
    let mut words = vec![this.display().to_string(), "suite".into(), "--here".into()];
    words.extend(["--monitor".into(), args.programs.monitor.display().to_string()]);
    words.extend(["--img".into(), args.programs.img.clone(), "--jobs".into(), args.jobs.to_string()]);
    words.extend(names.iter().map(|name| (*name).to_owned()));
    let mut lines = Lines::default();
    lab.run_watched(&words, &mut |bytes| {
        lines.feed(bytes, &mut |line| {
            if let Some((name, ok)) = play::told(line) {
                tell(name, ok);
            }
        });
        Ok(())
    })
}

/// Makes what the scenarios boot and use.
fn prepare() -> Result<()> {
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
