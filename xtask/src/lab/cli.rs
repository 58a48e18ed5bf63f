//! `cargo xtask lab`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Lab;

/// The lab's size, and what to run there.
#[derive(Args)]
pub(crate) struct LabArgs {
    /// Memory of the emulated machine, in MiB
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// Processors of the emulated machine
    #[arg(long, default_value_t = 1)]
    processors: u32,
    /// Seconds until the machine is ended
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Use the emulated machine even where the hardware has KVM
    #[arg(long)]
    emulate: bool,
    /// The program with its arguments, as on this machine: all its files are there
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<String>,
}

/// Runs the program; its exit status is ours.
pub(crate) fn run(args: &LabArgs) -> Result<u8> {
    let lab = Lab {
        memory: args.memory,
        processors: args.processors,
        limit: Duration::from_secs(args.timeout),
        silence: Duration::from_secs(args.timeout),
        emulate: args.emulate,
        ..Lab::default()
    };
    lab.run(&args.program)
}
