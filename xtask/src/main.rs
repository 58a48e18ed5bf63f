//! Rhea's developer commands. Each works on a fresh Debian machine: what is missing is installed by name, with the
//! reason said, and nothing is fetched twice.

mod command;
mod cpio;
mod host;
mod initramfs;
mod kernel;
mod lab;
mod modules;
mod packages;
mod paths;
mod payload;

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
    /// Run a program on a machine with working KVM: here if the hardware has it, else in an emulated machine
    Lab(lab::cli::LabArgs),
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
        Verb::Lab(args) => lab::cli::run(&args),
    }
}
