//! `cargo xtask hostile`: images made to hurt, through every verb of the image tool.

use std::fs;
use std::num::NonZero;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::dice::Dice;
use crate::fuzz::Image;
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
/// that hurt are kept in target/hostile, and the command line is printed. The same `--seed` makes the same images. All
/// kinds take turns, one image of each at a time, so that one short run has seen all.
#[derive(Args)]
pub(crate) struct HostileArgs {
    /// Damaged images for each format and mix of options
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// Begin no more images after so many seconds
    #[arg(long, default_value_t = 1200)]
    seconds: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs at once; as many as there are processors if not given
    #[arg(long)]
    jobs: Option<usize>,
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

/// More for images with a key: `#` is the image opened with it, `+` what its format puts before options of encryption.
const VERBS_WITH_KEY: &[&str] = &[
    "convert -O raw # %",
    "bench -w -c 50 -S 7000 #",
    "amend -o +state=active,+new-secret=other,+iter-time=1 #",
    "amend -o +state=inactive,+old-secret=key #",
];

/// The keys: what images have is `key`.
const KEYS: &str = "--object secret,id=key,data=one --object secret,id=other,data=two";

/// One kind of image, and its verbs.
struct Kind {
    image: &'static Image,
    whole: Vec<u8>,
    verbs: Vec<String>,
}

impl Kind {
    /// None where QEMU does not make the format.
    fn new(image: &'static Image, folder: &Path) -> Result<Option<Self>> {
        let whole_at = folder.join("whole");
        let _ = fs::remove_file(&whole_at);
        image.make(&whole_at)?;
        let Ok(whole) = fs::read(&whole_at) else { return Ok(None) };
        let mut verbs: Vec<String> = VERBS.iter().map(|verb| (*verb).to_owned()).collect();
        if let Some((driver, prefix)) = image.key() {
            let opened = format!("--image-opts driver={driver},{prefix}key-secret=key,file.filename=@");
            verbs.extend(VERBS_WITH_KEY.iter().map(|verb| {
                let (name, rest) = verb.split_once(' ').unwrap_or((verb, ""));
                format!("{name} {KEYS} {}", rest.replace('#', &opened).replace('+', prefix))
            }));
        }
        Ok(Some(Self { image, whole, verbs }))
    }
}

/// What all threads share.
struct Hunt<'a> {
    args: &'a HostileArgs,
    monitor: PathBuf,
    folder: PathBuf,
    kinds: Vec<Kind>,
    end: Instant,
    /// Number of the next image: kinds take turns.
    next: AtomicU64,
    images: AtomicU64,
    runs: AtomicU64,
    faults: AtomicU64,
}

/// Runs all of them.
pub(crate) fn run(args: &HostileArgs) -> Result<u8> {
    packages::ensure(PACKAGES)?;
    let monitor = demo::monitor(args.monitor.as_deref())?;
    let folder = paths::target().join("hostile");
    fs::create_dir_all(&folder)?;
    let kinds = fuzz::IMAGES.iter().filter_map(|image| Kind::new(image, &folder).transpose());
    let kinds = kinds.collect::<Result<Vec<_>>>()?;
    let jobs = args.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get)).max(1);
    let began = Instant::now();
    let end = began + Duration::from_secs(args.seconds);
    let [next, images, runs, faults] = [const { AtomicU64::new(0) }; 4];
    let hunt = Hunt { args, monitor, folder, kinds, end, next, images, runs, faults };
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..jobs)
            .map(|job| {
                scope.spawn({
                    let hunt = &hunt;
                    move || hunt.work(job)
                })
            })
            .collect();
        jobs.into_iter().try_for_each(|job| job.join().unwrap_or_else(|_| bail!("a thread of this command panicked")))
    })?;
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let (images, runs, faults) = (count(&hunt.images), count(&hunt.runs), count(&hunt.faults));
    let (kinds, took) = (hunt.kinds.len(), began.elapsed().as_secs());
    println!("hostile: {images} images of {kinds} kinds damaged, {runs} runs in {took} s, {faults} faults");
    if faults > 0 {
        bail!("{faults} of {runs} runs did not end well");
    }
    Ok(0)
}

impl Hunt<'_> {
    /// Takes images until there are enough or the time is over.
    fn work(&self, job: usize) -> Result<()> {
        let folder = self.folder.join(format!("job-{job}"));
        fs::create_dir_all(&folder)?;
        let kinds = self.kinds.len() as u64;
        while Instant::now() < self.end {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let (number, kind) = (turn / kinds.max(1), (turn % kinds.max(1)) as usize);
            let Some(kind) = self.kinds.get(kind).filter(|_| number < self.args.count) else { break };
            let mut bytes = kind.whole.clone();
            // Each image by itself, so that it is the same whoever makes it.
            damage(&mut Dice::new(self.args.seed << 32 | turn), &mut bytes);
            self.try_image(kind, number, &bytes, &folder)?;
            let done = self.images.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(100) {
                let faults = self.faults.load(Ordering::Relaxed);
                println!("{done} of {} images, {faults} faults", kinds * self.args.count);
            }
        }
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    fn try_image(&self, kind: &Kind, number: u64, bytes: &[u8], folder: &Path) -> Result<()> {
        for verb in &kind.verbs {
            self.runs.fetch_add(1, Ordering::Relaxed);
            if let Some(fault) = try_verb(&self.monitor, folder, verb, bytes)? {
                self.faults.fetch_add(1, Ordering::Relaxed);
                let kept = self.folder.join(format!("{}-{}-{number}", kind.image.name, self.args.seed));
                fs::write(&kept, bytes)?;
                println!("{fault}: rhea img {}", verb.replace('@', &kept.display().to_string()));
            }
        }
        Ok(())
    }
}

/// One verb on a fresh copy; what was wrong with how it ended.
fn try_verb(monitor: &Path, folder: &Path, verb: &str, bytes: &[u8]) -> Result<Option<String>> {
    let (image, other) = (folder.join("image"), folder.join("other"));
    fs::write(&image, bytes)?;
    let _ = fs::remove_file(&other);
    let (image, other) = (image.display().to_string(), other.display().to_string());
    let place = |word: &str| word.replace('@', &image).replace('%', &other);
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
