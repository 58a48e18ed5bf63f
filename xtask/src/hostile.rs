//! `cargo xtask hostile`: images made to hurt, through every verb of the image tool.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::dice::Dice;
use crate::packages::{self, Package};
use crate::{command, demo, fuzz, paths};

const PACKAGES: &[Package] =
    &[Package { name: "qemu-utils", program: "qemu-img", why: "makes the images that are then damaged" }];

/// Seconds and bytes of address space of one run.
const SECONDS: &str = "10";
const MEMORY: &str = "--as=1073741824";
/// What `timeout` ends with when the time is over.
const TIMED_OUT: i32 = 124;
/// What a Rust program ends with after a panic.
const PANICKED: i32 = 101;

/// Damage images by structure and give them to every verb of `rhea img`
///
/// Each run has 10 s and 1 GiB; it may fail with a message, but not by a signal, a panic, or for lack of time. Images
/// that hurt are kept in target/hostile, and the command line is printed. The same `--seed` makes the same images.
#[derive(Args)]
pub(crate) struct HostileArgs {
    /// Damaged images for each format and mix of options
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program; built first if this is not given
    #[arg(long)]
    monitor: Option<PathBuf>,
}

/// Every verb, `@` for the image and `%` for another file.
const VERBS: &[&str] = &[
    "info --output json @",
    "check @",
    "check -r all @",
    "map --output json @",
    "measure -O qcow2 @",
    "convert -O raw @ %",
    "convert -c -O qcow2 @ %",
    "compare @ @",
    "dd if=@ of=% bs=64k count=8",
    "bench -c 50 -S 3000 @",
    "bench -w -c 50 -S 70000 -f qcow2 @",
    "snapshot -l @",
    "snapshot -c new @",
    "snapshot -a s @",
    "snapshot -d s @",
    "resize -f qcow2 @ +1M",
    "resize -f qcow2 --shrink @ 64K",
    "bitmap --add @ b",
    "amend -o lazy_refcounts=on @",
    "rebase -u -b  -f qcow2 @",
    "commit @",
];

/// Runs all of them.
pub(crate) fn run(args: &HostileArgs) -> Result<u8> {
    packages::ensure(PACKAGES)?;
    let monitor = match &args.monitor {
        Some(path) => std::path::absolute(path)?,
        None => demo::build()?,
    };
    let folder = paths::target().join("hostile");
    fs::create_dir_all(&folder)?;
    let mut dice = Dice::new(args.seed);
    let (mut runs, mut faults) = (0u64, 0u64);
    for image in fuzz::IMAGES {
        let name = image.name;
        let whole_at = folder.join("whole");
        let _ = fs::remove_file(&whole_at);
        image.make(&whole_at)?;
        let Ok(whole) = fs::read(&whole_at) else { continue };
        for number in 0..args.count {
            let mut bytes = whole.clone();
            damage(&mut dice, &mut bytes);
            for verb in VERBS {
                runs += 1;
                if let Some(fault) = try_verb(&monitor, &folder, verb, &bytes)? {
                    faults += 1;
                    let kept = folder.join(format!("{name}-{}-{number}", args.seed));
                    fs::write(&kept, &bytes)?;
                    println!("{fault}: rhea img {}", verb.replace('@', &kept.display().to_string()));
                }
            }
        }
        println!("{name}: {} images damaged, {runs} runs so far, {faults} faults", args.count);
    }
    if faults > 0 {
        bail!("{faults} of {runs} runs did not end well");
    }
    Ok(0)
}

/// One verb on a fresh copy; what was wrong with how it ended.
fn try_verb(monitor: &Path, folder: &Path, verb: &str, bytes: &[u8]) -> Result<Option<String>> {
    let (image, other) = (folder.join("image"), folder.join("other"));
    fs::write(&image, bytes)?;
    let _ = fs::remove_file(&other);
    let place = |word: &str| match word {
        "@" => image.display().to_string(),
        "%" => other.display().to_string(),
        _ => word.replace('@', &image.display().to_string()).replace('%', &other.display().to_string()),
    };
    let mut command = Command::new("timeout");
    command.args([SECONDS, "prlimit", MEMORY]).arg(monitor).arg("img").args(verb.split(' ').map(place));
    let output = command.output().with_context(|| format!("cannot start {}", command::line(&command)))?;
    let status = output.status;
    Ok(match (status.signal(), status.code()) {
        (Some(signal), _) => Some(format!("signal {signal}")),
        (_, Some(TIMED_OUT)) => Some(format!("not done after {SECONDS} s")),
        (_, Some(PANICKED)) => Some("panic".to_owned()),
        (_, Some(code @ 128..)) => Some(format!("signal {}", code - 128)),
        _ => None,
    })
}

/// Puts edges of some range where structures are: fields of the header, words of clusters that hold tables.
fn damage(dice: &mut Dice, bytes: &mut [u8]) {
    let len = bytes.len() as u64;
    if dice.roll(8) == 0 {
        // The rest of a file that was cut off.
        let end = dice.roll(len) as usize;
        bytes[end..].fill(0);
    }
    for _ in 0..1 + dice.roll(3) {
        let any = dice.roll(u64::MAX >> 11);
        let edges = [0, 1, 511, 4096, 65_536, len, len + 65_536, any, any << 9, 1 << 55, 1 << 62, 1 << 63, u64::MAX];
        let value = edges[dice.roll(edges.len() as u64) as usize];
        let at = match dice.roll(3) {
            0 => dice.roll(32) * 4,
            1 => dice.roll(512),
            _ => dice.roll(len / 512) * 512 + dice.roll(16) * 8,
        } as usize;
        let width = if dice.roll(3) == 0 { 4 } else { 8 };
        let value = if dice.roll(2) == 0 { value.to_be_bytes() } else { value.swap_bytes().to_be_bytes() };
        let end = (at + width).min(bytes.len());
        if at < end {
            bytes[at..end].copy_from_slice(&value[8 - (end - at)..]);
        }
    }
}
