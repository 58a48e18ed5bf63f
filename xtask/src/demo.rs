//! `cargo xtask demo`: a stock Debian kernel boots from a qcow2 disk, in front of your eyes.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::guest::{Boot, root_tree};
use crate::kernel::Flavor;
use crate::lab::{self, Lab};
use crate::{command, packages, paths, process};

/// Memory of the demo's guest.
const MEMORY_MIB: u64 = 512;
/// The file that the guest writes on its disk, and what it writes.
const NOTE: &str = "/root/note";
const TEXT: &str = "written by the guest";

/// Boot Debian's cloud kernel from a qcow2 disk, and show what it took
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// The monitor to show; Rhea, built first, if this is not given
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// The image tool that makes the disk, as words; Rhea's own if this is not given
    #[arg(long)]
    img: Option<String>,
    /// Boot the disk here and now: this is what runs in the lab
    #[arg(long, hide = true)]
    here: Option<PathBuf>,
}

/// Builds, makes the disk, boots it, and looks at what the guest wrote.
pub(crate) fn run(args: &DemoArgs) -> Result<u8> {
    let monitor = match &args.monitor {
        Some(monitor) => monitor.clone(),
        None => build()?,
    };
    if let Some(disk) = &args.here {
        return show(&monitor, disk);
    }
    let img = args.img.clone().unwrap_or_else(|| format!("{} img", monitor.display()));
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::DISK)?;
    let boot = Boot::prepare(Flavor::Cloud)?;
    let disk = disk(&img)?;
    println!("disk: {} by {img}, {} KiB", disk.display(), fs::metadata(&disk)?.len() / 1024);
    println!("kernel: {}", boot.kernel.vmlinuz.display());

    let this = std::env::current_exe()?;
    let words = [&this, Path::new("demo"), Path::new("--monitor"), &monitor, Path::new("--here"), &disk];
    let status = Lab::default().run(&words.map(|word| word.display().to_string()))?;
    ensure!(status == 0, "the demonstration ended with status {status}");
    ensure!(read_note(&img, &disk)? == TEXT, "the disk does not have what the guest wrote");
    println!("the host reads in the image, at {NOTE}: {TEXT}");
    Ok(0)
}

/// The program as users get it.
pub(crate) fn build() -> Result<PathBuf> {
    command::run(Command::new("cargo").args(["build", "--release", "--package", "rhea"]).current_dir(paths::root()))?;
    Ok(paths::target().join("release/rhea"))
}

/// The program at `path`, or as users get it.
pub(crate) fn monitor(path: Option<&Path>) -> Result<PathBuf> {
    path.map_or_else(build, |path| Ok(std::path::absolute(path)?))
}

/// A qcow2 image with the small root file system, where both host and lab can write.
fn disk(img: &str) -> Result<PathBuf> {
    let raw = root_tree()?;
    let disk = lab::out().join("demo.qcow2");
    fs::create_dir_all(lab::out())?;
    convert(img, ["raw", "qcow2"], &raw, &disk)?;
    Ok(disk)
}

fn convert(img: &str, [from, to]: [&str; 2], source: &Path, target: &Path) -> Result<()> {
    let mut words = img.split_whitespace();
    let mut tool = Command::new(words.next().context("no image tool given")?);
    tool.args(words).args(["convert", "-f", from, "-O", to]).arg(source).arg(target);
    command::output(&mut tool).map(drop)
}

/// What the guest wrote, taken out of the image without any guest.
fn read_note(img: &str, disk: &Path) -> Result<String> {
    let raw = disk.with_extension("raw");
    convert(img, ["qcow2", "raw"], disk, &raw)?;
    let mut debugfs = Command::new("debugfs");
    let note = command::output(
        debugfs.env("PATH", crate::host::search_path()).args(["-R", &format!("cat {NOTE}")]).arg(&raw),
    )?;
    fs::remove_file(&raw)?;
    Ok(note.trim().to_owned())
}

/// Boots, shows the console, has the guest write and power off.
fn show(monitor: &Path, disk: &Path) -> Result<u8> {
    let boot = Boot::open(Flavor::Cloud)?;
    let mut monitor = Command::new(monitor);
    monitor.args(["-enable-kvm", "-cpu", "host", "-m", &MEMORY_MIB.to_string(), "-smp", "2"]);
    monitor.arg("-kernel").arg(&boot.kernel.vmlinuz).arg("-initrd").arg(&boot.initramfs);
    monitor.args(["-append", "console=ttyS0 root=/dev/vda"]);
    monitor.args(["-drive", &format!("file={},if=virtio,format=qcow2", disk.display()), "-nographic"]);
    println!("$ {}\n", command::line(&monitor));

    let start = Instant::now();
    let mut process =
        monitor.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the monitor")?;
    let mut console = Console::new(&mut process, start)?;
    console.until("first program started")?;
    let init = start.elapsed();
    console.until("guest ready")?;
    console.until("\n")?;
    let memory = process::own_memory(process.id(), MEMORY_MIB * 1024)?;
    let mut input = process.stdin.take().context("the monitor has no standard input")?;
    for line in [format!("echo '{TEXT}' >{NOTE}"), "sync".into(), "grep ' / ' /proc/mounts".into(), "poweroff".into()] {
        println!("guest# {line}");
        writeln!(input, "{line}")?;
    }
    console.finish()?;
    let status = process.wait()?;
    ensure!(status.success(), "the monitor ended with {status}");
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("\nfrom exec to the first byte on the console: {:.0} ms", ms(console.first.unwrap_or_default()));
    println!("from exec to the guest's first program:     {:.0} ms", ms(init));
    println!("from exec to the end after power off:       {:.0} ms", ms(start.elapsed()));
    println!("resident memory beside the guest's:         {memory} KiB");
    Ok(0)
}

/// The guest's console, shown as it comes.
struct Console {
    output: std::process::ChildStdout,
    start: Instant,
    first: Option<Duration>,
    line: Vec<u8>,
}

impl Console {
    fn new(process: &mut Child, start: Instant) -> Result<Self> {
        let output = process.stdout.take().context("the monitor has no standard output")?;
        Ok(Self { output, start, first: None, line: Vec::new() })
    }

    /// Shows the console until a line has this text.
    fn until(&mut self, text: &str) -> Result<()> {
        while !String::from_utf8_lossy(&self.line).contains(text) {
            ensure!(self.show_more()?, "the monitor ended before the console showed {text:?}");
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        while self.show_more()? {}
        Ok(())
    }

    /// Shows one byte. Nothing is so fast here that this would matter.
    fn show_more(&mut self) -> Result<bool> {
        let mut byte = [0];
        if self.output.read(&mut byte)? == 0 {
            return Ok(false);
        }
        self.first.get_or_insert_with(|| self.start.elapsed());
        if self.line.last() == Some(&b'\n') {
            self.line.clear();
        }
        self.line.extend(byte);
        let mut stdout = std::io::stdout();
        stdout.write_all(&byte)?;
        stdout.flush()?;
        Ok(true)
    }
}
