//! `cargo xtask twins`: the same registers and commands for the devices of Rhea and of QEMU, and what each answers.

mod alarms;
mod ata;
mod atapi;
mod blk;
mod chips;
mod machine;
mod pci;
mod ring;
mod scsi;
mod stage;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::dice::Dice;
use crate::packages::{self, Package};
use crate::{demo, paths};
use machine::{Machine, hex};
use stage::Stage;

const PACKAGES: &[Package] =
    &[Package { name: "qemu-system-x86", program: "qemu-system-x86_64", why: "is what the devices are compared with" }];

/// Steps of one round, on machines that are started for it; and of one whose steps take seconds.
const STEPS: u64 = 60;
const SLOW_STEPS: u64 = 5;
/// Digits of data that are shown.
const SHORT: usize = 80;
/// Differences of one step that are shown.
const SHOWN: usize = 5;

/// What is driven.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    /// IDE disks
    Ata,
    /// IDE CD drives
    Atapi,
    /// SCSI disks and CD drives
    Scsi,
    /// Disks on virtio
    Blk,
    /// PCI configuration space
    Pci,
    /// RTC and fw_cfg
    Chips,
    /// Interrupts of the RTC, in real time
    Alarms,
}

/// Drive the devices of Rhea and of QEMU alike, and compare what a driver would see
///
/// Each round starts both without processors and sends both the same registers, memory and commands at random. Registers,
/// data, sense, interrupts, and at the end the content of all disks must be the same. What docs/qtests.md says is
/// different is left out. The same `--seed` makes the same steps.
#[derive(Args)]
pub(crate) struct TwinsArgs {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program; built first if this is not given
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// The program to compare with
    #[arg(long, default_value = "qemu-system-x86_64")]
    judge: PathBuf,
    /// Print each step
    #[arg(long)]
    steps: bool,
    /// What to drive; all in turn if this is not given
    #[arg(value_enum)]
    only: Vec<Device>,
}

/// What a driver saw, by name.
type Seen = Vec<(String, String)>;

/// One thing to do, with all that is random in it.
trait Step: Display {
    /// What steps that differ in the same way have in common.
    fn kind(&self) -> String;

    fn play(&self, machine: &mut Machine) -> Result<Seen>;
}

/// Runs rounds until the time is over.
pub(crate) fn run(args: &TwinsArgs) -> Result<u8> {
    packages::ensure(PACKAGES)?;
    let monitor = demo::monitor(args.monitor.as_deref())?;
    let folder = paths::target().join("twins");
    fs::create_dir_all(&folder)?;
    let devices = if args.only.is_empty() { Device::value_variants() } else { &args.only };
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let (mut steps, mut rounds) = (0, 0);
    let mut faults = BTreeMap::new();
    while Instant::now() < end {
        let seed = args.seed + rounds;
        let device = devices[usize::try_from(seed).unwrap_or(0) % devices.len()];
        let stage = Stage::new(&folder, &[&monitor, &args.judge])?;
        steps += round(&stage, device, seed, args.steps, &mut faults)?;
        rounds += 1;
    }
    faults.values().for_each(|fault| println!("{fault}"));
    println!("twins: {rounds} rounds, {steps} steps, {} kinds of difference", faults.len());
    if !faults.is_empty() {
        bail!("the devices differ");
    }
    Ok(0)
}

/// The first difference of each kind.
type Faults = BTreeMap<String, String>;

fn random(device: Device, dice: &mut Dice, n: u64) -> Box<dyn Step> {
    match device {
        Device::Ata => Box::new(ata::AtaStep::random(dice)),
        Device::Atapi => Box::new(atapi::PacketStep::random(dice)),
        Device::Scsi => scsi::random(dice),
        Device::Blk => Box::new(blk::BlkStep::random(dice)),
        Device::Pci => Box::new(pci::ConfigStep::random(dice, n)),
        Device::Chips => chips::random(dice),
        Device::Alarms => Box::new(alarms::AlarmStep::random(dice)),
    }
}

/// One round; how many steps it had.
fn round(stage: &Stage, device: Device, seed: u64, show: bool, faults: &mut Faults) -> Result<u64> {
    let dice = &mut Dice::new(seed);
    let mut machines = stage.machines(device, dice, show)?;
    let steps = if device == Device::Alarms { SLOW_STEPS } else { STEPS };
    for n in 0..steps {
        let step = random(device, dice, n);
        if show {
            println!("seed {seed} step {n}: {step}");
        }
        let [ours, real] = machines.each_mut().map(|machine| step.play(machine));
        let told = || format!("seed {seed} step {n}: {step}");
        let (ours, real) = (ours.with_context(|| format!("rhea: {}", told()))?, real.with_context(told)?);
        if let Some((name, fault)) = differs(&ours, &real) {
            faults.entry(format!("{} {name}", step.kind())).or_insert_with(|| format!("{}\n{fault}", told()));
        }
    }
    drop(machines);
    if let Some(fault) = stage.differs()? {
        faults.entry(fault.clone()).or_insert_with(|| format!("seed {seed}: {fault}"));
    }
    Ok(steps)
}

/// The first things that are not the same, and the name of the first. Who saw nothing was not asked the same.
fn differs(ours: &Seen, real: &Seen) -> Option<(String, String)> {
    if ours.is_empty() || real.is_empty() {
        return None;
    }
    let pairs = (0..ours.len().max(real.len())).map(|n| (ours.get(n), real.get(n)));
    let unlike: Vec<_> = pairs.filter(|(ours, real)| ours != real).take(SHOWN).collect();
    let (name, _) = unlike.first().and_then(|(ours, real)| ours.or(*real))?;
    let lines: Vec<_> = unlike
        .iter()
        .map(|(ours, real)| format!("  rhea: {}\n  qemu: {}", text(*ours, *real), text(*real, *ours)))
        .collect();
    Some((name.clone(), lines.join("\n")))
}

/// What one saw; of what is long only where it begins to differ from the other.
fn text(seen: Option<&(String, String)>, other: Option<&(String, String)>) -> String {
    let Some((name, value)) = seen else { return "nothing".to_owned() };
    let other = other.map_or("", |(_, value)| value);
    let same = value.bytes().zip(other.bytes()).take_while(|(one, two)| one == two).count() / 2 * 2;
    match value.get(same..) {
        Some(rest) if value.len() > SHORT => format!("{name} at {:#x}: {:.SHORT$}", same / 2, rest),
        _ => format!("{name} {value}"),
    }
}

fn note(seen: &mut Seen, name: &str, value: impl Display) {
    seen.push((name.to_owned(), value.to_string()));
}

fn note_bytes(seen: &mut Seen, name: &str, bytes: &[u8]) {
    note(seen, name, hex(bytes));
}
