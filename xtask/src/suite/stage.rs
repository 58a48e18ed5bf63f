//! What a scenario has at hand: the programs under test, what guests boot, a place for its files.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::vm::Recipe;
use crate::guest::{Boot, DebianDisk};
use crate::kernel::Flavor;
use crate::{command, guest, lab};

/// The programs under test.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
    /// The monitor: Rhea's binary, or QEMU's to try a scenario itself
    #[arg(long, default_value = "target/quick/rhea")]
    pub(crate) monitor: PathBuf,
    /// The image tool that makes disks, as words: "rhea img" or "qemu-img"
    #[arg(long, default_value = "target/quick/rhea img")]
    pub(crate) img: String,
}

/// What all scenarios of a run share.
pub(crate) struct Theatre {
    programs: Programs,
    cloud: Boot,
    generic: Boot,
}

/// One scenario's own.
pub(crate) struct Stage<'a> {
    theatre: &'a Theatre,
    scratch: PathBuf,
    logs: PathBuf,
}

impl Theatre {
    /// Finds what was prepared on the host.
    pub(crate) fn open(programs: Programs) -> Result<Self> {
        Ok(Self { programs, cloud: Boot::open(Flavor::Cloud)?, generic: Boot::open(Flavor::Generic)? })
    }

    /// A stage with an empty directory for images and one for logs.
    pub(crate) fn stage(&self, name: &str) -> Result<Stage<'_>> {
        let scratch = std::env::temp_dir().join(format!("suite-{}-{name}", std::process::id()));
        let logs = lab::out().join("suite").join(name);
        let _ = fs::remove_dir_all(&logs);
        for directory in [&scratch, &logs] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(Stage { theatre: self, scratch, logs })
    }
}

impl Stage<'_> {
    /// A machine to describe further.
    pub(crate) fn vm(&self) -> Recipe<'_> {
        Recipe::new(self)
    }

    /// Where images and sockets go.
    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The monitor under test.
    pub(crate) fn monitor(&self) -> &Path {
        &self.theatre.programs.monitor
    }

    /// What guests with this kernel boot.
    pub(crate) fn boot(&self, flavor: Flavor) -> &Boot {
        match flavor {
            Flavor::Cloud => &self.theatre.cloud,
            Flavor::Generic => &self.theatre.generic,
        }
    }

    /// A copy of the small root file system, in this format.
    pub(crate) fn root(&self, format: &str) -> Result<PathBuf> {
        self.convert(&guest::directory()?.join("root.raw"), "root", format)
    }

    /// The disk with fio, sg3-utils and their like on it. It is only read.
    pub(crate) fn tools(&self) -> Result<PathBuf> {
        Ok(guest::directory()?.join("tools.raw"))
    }

    /// The disc with a boot loader on it. It is only read.
    pub(crate) fn boot_disc(&self) -> Result<PathBuf> {
        Ok(guest::directory()?.join("boot-disc.iso"))
    }

    /// A disk of this scenario's own, with Debian installed on it.
    pub(crate) fn debian_disk(&self) -> Result<(PathBuf, DebianDisk)> {
        let debian = DebianDisk::open()?;
        let overlay = self.scratch.join("debian.qcow2");
        let (below, path) = (debian.image.display().to_string(), overlay.display().to_string());
        self.img(&["create", "-f", "qcow2", "-b", &below, "-F", "raw", &path])?;
        Ok((overlay, debian))
    }

    /// Debian's Xen, unpacked.
    pub(crate) fn xen(&self) -> Result<PathBuf> {
        Ok(guest::directory()?.join("xen"))
    }

    /// A new empty image.
    pub(crate) fn image(&self, name: &str, format: &str, size: &str) -> Result<PathBuf> {
        let image = self.scratch.join(format!("{name}.{format}"));
        let path = image.display().to_string();
        self.img(&["create", "-f", format, &path, size])?;
        Ok(image)
    }

    /// A disc with one file on it.
    pub(crate) fn disc(&self, name: &str, content: &str) -> Result<PathBuf> {
        let files = self.scratch.join(name);
        fs::create_dir_all(&files)?;
        fs::write(files.join("label"), content)?;
        let disc = self.scratch.join(format!("{name}.iso"));
        let mut xorriso = Command::new("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-volid", name, "-o"]).arg(&disc).arg(&files);
        command::output(&mut xorriso)?;
        Ok(disc)
    }

    /// A raw image converted to this format.
    pub(crate) fn convert(&self, raw: &Path, name: &str, format: &str) -> Result<PathBuf> {
        let image = self.scratch.join(format!("{name}.{format}"));
        let (from, to) = (raw.display().to_string(), image.display().to_string());
        self.img(&["convert", "-f", "raw", "-O", format, &from, &to])?;
        Ok(image)
    }

    /// An empty file system of this many MiB, to be filled up.
    pub(crate) fn small_file_system(&self, mebibytes: u32) -> Result<Mount> {
        let path = self.scratch.join("small");
        fs::create_dir_all(&path)?;
        let options = format!("size={mebibytes}m");
        command::run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path))?;
        Ok(Mount(path))
    }

    /// Runs the image tool under test.
    pub(crate) fn img(&self, arguments: &[&str]) -> Result<String> {
        let mut words = self.theatre.programs.img.split_whitespace();
        let program = words.next().context("no image tool given")?;
        command::output(Command::new(program).args(words).args(arguments))
    }

    /// What QEMU's own tool finds wrong with a qcow2 image, leaks left out.
    pub(crate) fn faults(&self, image: &Path) -> Result<u64> {
        // Status 3 means leaks and nothing worse, so the report matters and not the status.
        let path = image.display().to_string();
        let output = Command::new("qemu-img").args(["check", "-f", "qcow2", "--output=json", &path]).output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("qemu-img check says: {}", String::from_utf8_lossy(&output.stderr)))?;
        let count = |field: &str| report[field].as_u64().unwrap_or(0);
        Ok(count("corruptions") + count("check-errors"))
    }

    /// The content of an image as QEMU's own tool reads it.
    pub(crate) fn content(&self, image: &Path, format: &str) -> Result<Vec<u8>> {
        let raw = self.scratch.join("content.raw");
        command::output(Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&raw))?;
        fs::read(&raw).with_context(|| format!("cannot read {}", raw.display()))
    }

    /// Where a log of this name goes, a new one for each machine.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        let free = |n: &u32| !self.logs.join(format!("{name}-{n}.log")).exists();
        let number = (1..).find(free).unwrap_or(0);
        self.logs.join(format!("{name}-{number}.log"))
    }

    /// The same, opened.
    pub(super) fn log_file(&self, name: &str) -> Result<File> {
        let path = self.log(name);
        File::create(&path).with_context(|| format!("cannot make {}", path.display()))
    }

    /// Keeps a line for whoever reads the logs.
    pub(super) fn note(&self, line: &str) {
        if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(self.logs.join("commands.log")) {
            // The log is for people; a full disk must not stop the test.
            let _ = writeln!(file, "{line}");
        }
    }

    /// What the monitors of this scenario wrote to standard error.
    pub(crate) fn complaints(&self) -> String {
        let last = (1..).map(|n| self.logs.join(format!("stderr-{n}.log"))).take_while(|path| path.exists()).last();
        last.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }
}

/// A mounted file system, unmounted when dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, for a monitor may still be ending. If it fails, the lab machine ends soon anyway.
        let _ = command::run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // Only disk space is lost if this fails, in a directory for temporary files.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}
