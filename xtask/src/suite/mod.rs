//! Scenarios with stock kernels: each starts a monitor, works with the guest and looks at what came of it.
//!
//! They run in one lab machine, one after another unless asked otherwise. The monitor is a parameter: a scenario that passes with QEMU and
//! fails with Rhea shows a difference that users would see.

mod console;
mod qmp;
mod scenarios;
mod stage;
mod vm;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::guest::{Boot, root_tree, tools_tree};
use crate::kernel::Flavor;
use crate::lab::Lab;
use crate::packages;
use stage::{Programs, Stage, Theatre};

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
    /// Run here instead of in the lab: this is what the lab runs
    #[arg(long)]
    here: bool,
    /// How many scenarios play at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Seconds until the lab is ended
    #[arg(long, default_value_t = 1200)]
    timeout: u64,
    /// Only those with one of these in their names
    filter: Vec<String>,
}

/// Prepares on the host, then plays in the lab.
pub(crate) fn run(args: &SuiteArgs) -> Result<u8> {
    if args.here {
        return play_all(args);
    }
    prepare()?;
    let lab = Lab { limit: Duration::from_secs(args.timeout), ..Lab::default() };
    let this = std::env::current_exe().context("where is this program?")?;
    let mut words = vec![this.display().to_string(), "suite".into(), "--here".into()];
    words.extend(["--monitor".into(), args.programs.monitor.display().to_string()]);
    words.extend(["--jobs".into(), args.jobs.to_string()]);
    words.extend(["--img".into(), args.programs.img.clone()]);
    words.extend(args.filter.iter().cloned());
    lab.run(&words)
}

/// Makes what the scenarios boot and use.
fn prepare() -> Result<()> {
    packages::ensure(packages::TOOLS)?;
    Boot::prepare(Flavor::Cloud)?;
    Boot::prepare(Flavor::Generic)?;
    root_tree()?;
    tools_tree()?;
    Ok(())
}

fn play_all(args: &SuiteArgs) -> Result<u8> {
    let theatre = Theatre::open(args.programs.clone())?;
    let wanted = |scenario: &&Scenario| {
        args.filter.is_empty() || args.filter.iter().any(|word| scenario.name.contains(word.as_str()))
    };
    let scenarios: Vec<_> = scenarios::all().filter(wanted).collect();
    if scenarios.is_empty() {
        bail!("no scenario has one of these in its name: {}", args.filter.join(", "));
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let player = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !play(&theatre, scenario) {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(player);
        }
    });
    let failed = failed.into_inner();
    println!("lab suite: {} passed, {failed} failed", scenarios.len() - failed);
    Ok(u8::from(failed > 0))
}

/// Plays one and prints how it went.
fn play(theatre: &Theatre, scenario: &Scenario) -> bool {
    let start = Instant::now();
    let mut complaints = String::new();
    let outcome = theatre.stage(scenario.name).and_then(|stage| {
        let outcome = (scenario.play)(&stage);
        complaints = stage.complaints();
        outcome
    });
    let seconds = start.elapsed().as_secs_f64();
    // One call for each, so that two scenarios' lines do not mix.
    match &outcome {
        Ok(()) => println!("ok {} ({seconds:.1} s)", scenario.name),
        Err(error) => println!("not ok {} ({seconds:.1} s): {error:#}\n{}", scenario.name, indented(&complaints)),
    }
    outcome.is_ok()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n")
}
