//! `cargo xtask alike`: command lines at random for `rhea img` and `qemu-img`, and what each makes of them.

mod told;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::dice::Dice;
use crate::packages::{self, Package};
use crate::{command, demo, paths};
use told::Told;
use words::Speaker;

const PACKAGES: &[Package] =
    &[Package { name: "qemu-utils", program: "qemu-img", why: "is what the image tool is compared with" }];

/// Longest time that a command line may take.
const SECONDS: &str = "20";
/// Verbs run in one round, on the images of its beginning.
const STEPS: u64 = 12;
/// The images a round may change, and compares after each change.
const IMAGES: [&str; 5] = ["base", "mid", "top", "packed", "out"];

/// Give the same command lines to `rhea img` and `qemu-img`, and compare what they print, return and write
///
/// Each round makes a chain of images with options at random, then runs verbs with options at random, each program in a
/// folder of its own. Exit code, both outputs and the content of all images must be the same, and qemu-img's check must
/// find the same. What docs/img.md says is different is left out. The same `--seed` makes the same lines.
#[derive(Args)]
pub(crate) struct AlikeArgs {
    /// How long to go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program; built first if this is not given
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// Also show where only the words of a complaint differ
    #[arg(long)]
    wordings: bool,
    /// Folder with the qemu-img and qemu-io to compare with, where it is not the installed one
    #[arg(long)]
    judge: Option<PathBuf>,
}

/// Runs rounds until the time is over.
pub(crate) fn run(args: &AlikeArgs) -> Result<u8> {
    packages::ensure(PACKAGES)?;
    let monitor = demo::monitor(args.monitor.as_deref())?;
    let folder = paths::target().join("alike");
    fs::create_dir_all(&folder)?;
    // Under its other name our messages begin as the other's do.
    let renamed = folder.join("qemu-img");
    let _ = fs::remove_file(&renamed);
    symlink(&monitor, &renamed)?;
    let judge = |name: &str| args.judge.as_ref().map_or(PathBuf::from(name), |folder| folder.join(name));
    let field = Field { monitor: renamed, qemu_img: judge("qemu-img"), qemu_io: judge("qemu-io"), folder };
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let (mut lines, mut faults, mut rounds) = (0u64, 0u64, 0u64);
    let mut wordings = BTreeMap::new();
    while Instant::now() < end {
        let mut speaker = Speaker(Dice::new(args.seed + rounds));
        let (ran, fault) = field.round(&mut speaker, &mut wordings)?;
        lines += ran.len() as u64;
        if let Some(fault) = fault {
            faults += 1;
            println!("seed {}:\n  {}\n{fault}\n", args.seed + rounds, ran.join("\n  "));
        }
        rounds += 1;
    }
    if args.wordings {
        wordings.iter().for_each(|(words, line)| println!("{line}\n{words}"));
    }
    let said = wordings.len();
    println!("alike: {rounds} rounds, {lines} command lines, {faults} differences, {said} complaints in other words");
    if faults > 0 {
        bail!("{faults} of {lines} command lines had another effect");
    }
    Ok(0)
}

/// Complaints that differ in their words, and the first command line that brought them.
type Wordings = BTreeMap<String, String>;

/// Both programs and where they work.
struct Field {
    monitor: PathBuf,
    qemu_img: PathBuf,
    qemu_io: PathBuf,
    folder: PathBuf,
}

impl Field {
    fn ours(&self) -> PathBuf {
        self.folder.join("ours")
    }

    fn real(&self) -> PathBuf {
        self.folder.join("real")
    }

    /// One round: the command lines, and how the last one differed, if it did.
    fn round(&self, speaker: &mut Speaker, wordings: &mut Wordings) -> Result<(Vec<String>, Option<String>)> {
        let (mut lines, base) = self.begin(speaker)?;
        for _ in 0..STEPS {
            let looks = speaker.0.roll(2) == 0;
            let line = if looks { speaker.look() } else { speaker.change() }.replace("@base", base);
            lines.push(line.clone());
            let (ours, real) = if looks { self.look(speaker, &line)? } else { self.change(&line)? };
            if ours.is_known_to_differ(&real, &line) {
                self.settle()?;
                continue;
            }
            if let Some(words) = ours.other_words(&real) {
                wordings.entry(words).or_insert_with(|| line.clone());
            }
            let fault = match ours.differs(&real, &line) {
                None if !looks => self.effects(&real)?,
                fault => fault,
            };
            if fault.is_some() {
                return Ok((lines, fault));
            }
        }
        Ok((lines, None))
    }

    /// Makes the images, in both folders the same bytes; also gives the format of the lowest.
    fn begin(&self, speaker: &mut Speaker) -> Result<(Vec<String>, &'static str)> {
        let (ours, real) = (self.ours(), self.real());
        for folder in [&ours, &real] {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder)?;
        }
        let mut lines = Vec::new();
        let mut base = "";
        for template in words::BEGIN {
            let line = speaker.words(template).replace("@base", base);
            if base.is_empty() {
                base = if line.contains("raw") { "raw" } else { "qcow2" };
            }
            self.tell(&self.qemu_img, &real, &line)?;
            lines.push(line);
        }
        for image in ["base", "mid", "top"] {
            let format = if image == "base" { base } else { "qcow2" };
            for _ in 0..speaker.0.roll(4) {
                let line = speaker.words(words::WRITE);
                let mut io = Command::new(&self.qemu_io);
                io.args(["-f", format, "-c", &line, image]).current_dir(&real).output()?;
                lines.push(format!("qemu-io {image}: {line}"));
            }
        }
        for template in words::MORE {
            let line = speaker.words(template);
            if !line.is_empty() {
                self.tell(&self.qemu_img, &real, &line)?;
                lines.push(line);
            }
        }
        command::run(Command::new("cp").args(["-r", "--sparse=always", "-T"]).arg(&real).arg(&ours))?;
        Ok((lines, base))
    }

    /// Both look at the same images.
    fn look(&self, speaker: &mut Speaker, line: &str) -> Result<(Told, Told)> {
        let folder = if speaker.0.roll(2) == 0 { self.ours() } else { self.real() };
        Ok((self.tell(&self.monitor, &folder, line)?, self.tell(&self.qemu_img, &folder, line)?))
    }

    /// Both make the same change, each in its folder.
    fn change(&self, line: &str) -> Result<(Told, Told)> {
        Ok((self.tell(&self.monitor, &self.ours(), line)?, self.tell(&self.qemu_img, &self.real(), line)?))
    }

    /// How the images differ after a change.
    fn effects(&self, real: &Told) -> Result<Option<String>> {
        if !real.worked() {
            // What a failed command leaves behind is nobody's promise.
            return self.settle().map(|()| None);
        }
        for image in IMAGES {
            if let Some(fault) = self.unlike(image)? {
                return Ok(Some(format!("{image}: {fault}")));
            }
        }
        Ok(None)
    }

    /// How the image differs between both folders.
    fn unlike(&self, image: &str) -> Result<Option<String>> {
        let both = [self.ours().join(image), self.real().join(image)];
        match [both[0].exists(), both[1].exists()] {
            [true, true] => {}
            [false, false] => return Ok(None),
            [here, _] => return Ok(Some(format!("made by {} alone", if here { "rhea" } else { "qemu-img" }))),
        }
        let [ours, real] = both.each_ref().map(|path| path.display().to_string());
        let compared = self.tell(&self.qemu_img, &self.folder, &format!("compare {ours} {real}"))?;
        let opens = self.tell(&self.qemu_img, &self.folder, &format!("compare {real} {real}"))?;
        if opens.worked() && !compared.worked() {
            return Ok(Some(format!("content differs: {compared}")));
        }
        let [ours, real] =
            [self.ours(), self.real()].map(|folder| self.tell(&self.qemu_img, &folder, &format!("check {image}")));
        let (ours, real) = (ours?, real?);
        let worse = ours.code != real.code && !ours.worked();
        Ok(worse.then(|| format!("check differs: {ours}\nqemu-img's: {real}")))
    }

    /// Gives our folder the images of the other.
    fn settle(&self) -> Result<()> {
        fs::remove_dir_all(self.ours())?;
        command::run(Command::new("cp").args(["-r", "--sparse=always", "-T"]).arg(self.real()).arg(self.ours()))
    }

    fn tell(&self, program: &Path, folder: &Path, line: &str) -> Result<Told> {
        let line = line.replace("@json", words::JSON_NAME);
        let mut command = Command::new("timeout");
        let output =
            command.args(["-s", "KILL", SECONDS]).arg(program).args(line.split(' ')).current_dir(folder).output();
        Ok(output.with_context(|| format!("cannot start {}", program.display()))?.into())
    }
}
