//! Rhea's developer commands. Each works on a fresh Debian machine: what is missing is installed by name, with the
//! reason said, and nothing is fetched twice.

mod alike;
mod bench;
mod command;
mod cpio;
mod demo;
mod dice;
mod fuzz;
mod guest;
mod host;
mod hostile;
mod initramfs;
mod iotests;
mod kernel;
mod lab;
mod modules;
mod packages;
mod paths;
mod payload;
mod process;
mod python;
mod qemu_source;
mod qtests;
mod suite;
mod test;
mod twins;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Rhea's developer commands")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Demo(demo::DemoArgs),
    Test(test::TestArgs),
    /// Run a program on a machine with working KVM: here if the hardware has it, else in an emulated machine
    Lab(lab::cli::LabArgs),
    /// Keep a virtual machine for as long as the lab is up: the lab runs this
    #[command(name = lab::keeper::VERB, hide = true)]
    LabKeeper,
    /// Measure Rhea beside QEMU
    #[command(subcommand)]
    Bench(bench::BenchVerb),
    Alike(alike::AlikeArgs),
    Fuzz(fuzz::FuzzArgs),
    Hostile(hostile::HostileArgs),
    /// Run the scenarios with stock kernels, in the lab
    Suite(suite::SuiteArgs),
    Qtests(qtests::QtestsArgs),
    Twins(twins::TwinsArgs),
    Iotests(iotests::IotestsArgs),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one verb; the number is the exit status to end with.
fn dispatch(cli: Cli) -> Result<u8> {
    match cli.verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Lab(args) => lab::cli::run(&args),
        Verb::LabKeeper => lab::keeper::run(),
        Verb::Alike(args) => alike::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Hostile(args) => hostile::run(&args),
        Verb::Bench(verb) => bench::run(&verb),
        Verb::Suite(args) => suite::run(&args),
        Verb::Qtests(args) => qtests::run(&args),
        Verb::Twins(args) => twins::run(&args),
        Verb::Iotests(args) => iotests::run(&args),
    }
}
