//! `cargo xtask test`: everything that continuous integration runs.

mod counts;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::{command, host, packages, paths, python};
use counts::Counts;

/// Run everything that continuous integration runs: format, lints, tests, documentation, scenarios in the lab
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Only the steps with one of these names
    #[arg(value_parser = STEPS.map(|step| step.name))]
    steps: Vec<String>,
}

/// One step: programs to run one after another, each a test unless its output counts tests itself.
struct Step {
    name: &'static str,
    commands: &'static [&'static [&'static str]],
    env: &'static [(&'static str, &'static str)],
}

const STEPS: [Step; 6] = [
    Step { name: "format", commands: &[&["cargo", "fmt", "--all", "--check"]], env: &[] },
    Step {
        name: "lint",
        commands: &[&["cargo", "clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]],
        env: &[],
    },
    Step { name: "test", commands: &[&["cargo", "test", "--workspace", "--no-fail-fast"]], env: &[] },
    Step {
        name: "doc",
        commands: &[&["cargo", "doc", "--workspace", "--no-deps", "--document-private-items"]],
        env: &[("RUSTDOCFLAGS", "--deny warnings")],
    },
    Step { name: "build", commands: &[&["cargo", "build", "--package", "rhea", "--profile", "quick"]], env: &[] },
    Step { name: "lab", commands: &[&["cargo", "xtask", "suite"]], env: &[] },
];

/// Runs the steps, also those after a failed one, and ends with the counts.
pub(crate) fn run(args: &TestArgs) -> Result<u8> {
    for needed in [packages::LAB, packages::DISK, packages::TOOLS, packages::TESTS] {
        packages::ensure(needed)?;
    }
    let python = python::interpreter()?;
    let start = Instant::now();
    let mut total = Counts::default();
    let wanted = |step: &&Step| args.steps.is_empty() || args.steps.iter().any(|name| name == step.name);
    for step in STEPS.iter().filter(wanted) {
        total += step.run(&python)?;
    }
    println!("all steps took {}", minutes(start.elapsed()));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(u8::from(total.failed > 0))
}

impl Step {
    fn run(&self, python: &Path) -> Result<Counts> {
        let start = Instant::now();
        let mut counts = Counts::default();
        for words in self.commands {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).envs(self.env.iter().copied()).env("RHEA_TEST_PYTHON", python);
            command.current_dir(paths::root());
            println!("== {}: {}", self.name, command::line(&command));
            counts += follow(&mut command)?;
        }
        println!("== {}: {} passed, {} failed, {}", self.name, counts.passed, counts.failed, minutes(start.elapsed()));
        Ok(counts)
    }
}

/// Runs a program, passes on what it prints, and counts. One that counts no tests is a test itself; one that fails
/// without having counted a failure is a failed test.
fn follow(command: &mut Command) -> Result<Counts> {
    let mut process = command
        .env("PATH", host::search_path())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command::line(command)))?;
    let output = process.stdout.take().context("no standard output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        counts += Counts::in_line(&line);
    }
    let success = process.wait()?.success();
    if success && counts == Counts::default() {
        counts.passed = 1;
    }
    if !success && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

fn minutes(time: Duration) -> String {
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}
