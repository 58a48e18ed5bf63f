//! `cargo xtask iotests`: QEMU's own block tests, run on `rhea img`.

mod report;
mod suite;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::packages::{self, Package};
use crate::{command, paths, qemu_source};

/// Run QEMU's own block tests (qemu-iotests) on rhea img
///
/// The tests are not part of this project: Debian's source package of QEMU is fetched by name and unpacked below
/// target/qtests. Each test is run by itself, with Rhea as qemu-img and Debian's qemu-io, qemu-nbd,
/// qemu-storage-daemon and qemu-system-x86_64. A test that fails is run once more with Debian's qemu-img: where that
/// fails, too, it tells nothing of Rhea. Other failures are expected to be those that docs/iotests.md explains.
#[derive(Args)]
pub(crate) struct IotestsArgs {
    /// The program to test; built first if this is not given
    #[arg(long)]
    program: Option<PathBuf>,
    /// Take Rhea for qemu-system-x86_64, too
    #[arg(long)]
    machine: bool,
    /// Folder with the qemu-img, qemu-io, qemu-nbd, qemu-storage-daemon and qemu-system-x86_64 to use beside Rhea; the
    /// suite is that of QEMU 7.2
    #[arg(long, default_value = "/usr/bin")]
    judge: PathBuf,
    /// What the suite is told, such as "-qcow2 -o compat=0.10" or "-raw -c none"; by default -raw, -qcow2 and -luks are
    /// run one after another
    #[arg(long, allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Seconds that one test may take
    #[arg(long, default_value_t = 180)]
    limit: u64,
    /// Only these tests, such as 061 or qemu-img-bitmaps
    tests: Vec<String>,
}

/// What the tests use beside what they test.
const NEEDED: &[Package] = &[
    Package { name: "qemu-utils", program: "qemu-io", why: "writes and reads the images of QEMU's block tests" },
    Package { name: "qemu-system-x86", program: "qemu-system-x86_64", why: "the machine of QEMU's block tests" },
    Package { name: "python3", program: "python3", why: "runs QEMU's block tests" },
];

/// Fetches what is missing, runs, prints.
pub(crate) fn run(args: &IotestsArgs) -> Result<u8> {
    packages::ensure(NEEDED)?;
    let source = qemu_source::fetch()?;
    let program = match &args.program {
        Some(path) => std::path::absolute(path)?,
        None => build()?,
    };
    let suite = suite::Suite::new(&source, &program, args)?;
    let flags = if args.flags.is_empty() {
        ["-raw", "-qcow2", "-luks"].map(str::to_owned).to_vec()
    } else {
        args.flags.clone()
    };
    let mut outcomes = Vec::new();
    for flags in &flags {
        outcomes.extend(suite.run(flags, &args.tests)?);
    }
    report::print(&flags, &outcomes);
    // With Rhea as the machine it is the machine that is looked at: nothing is expected of it here.
    let surprises = if args.machine { Vec::new() } else { report::surprises(&outcomes)? };
    surprises.iter().for_each(|surprise| println!("{surprise}"));
    Ok(u8::from(!surprises.is_empty()))
}

fn build() -> Result<PathBuf> {
    let mut cargo = std::process::Command::new("cargo");
    command::run(cargo.args(["build", "--profile", "quick", "--package", "rhea"]).current_dir(paths::root()))?;
    Ok(paths::target().join("quick/rhea"))
}
