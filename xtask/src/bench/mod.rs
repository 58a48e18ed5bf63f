//! Benchmarks: Rhea beside QEMU in one run, on the same files.

mod block;
mod boot;
mod counted;
mod disk;
mod firmware;
mod results;
pub(crate) mod table;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum BenchVerb {
    Boot(boot::BootArgs),
    Block(block::BlockArgs),
    Disk(disk::DiskArgs),
}

/// Runs one benchmark.
pub(crate) fn run(verb: &BenchVerb) -> Result<u8> {
    match verb {
        BenchVerb::Boot(args) => boot::run(args),
        BenchVerb::Block(args) => block::run(args),
        BenchVerb::Disk(args) => disk::run(args),
    }
}
